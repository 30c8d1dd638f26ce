//! `cargo xtask <command>`: see [`USAGE`].

use std::process::ExitCode;

use anyhow::{Result, bail};
use xtask::run::{self, Test};
use xtask::setup::{self, Scope};
use xtask::tidy;

const USAGE: &str = "\
cargo xtask <command>

  demo [--keep]        starts a database, an identity provider and the gateway, and shows
                       everything once; --keep leaves them running until Ctrl-C
  test [--filter X]    formatting, lints, tidy and every test; with --filter only tests named so
       [-p CRATE]      only the tests of a crate
       [-- ARGS]       further arguments for the test runner
  bench [--quick]      measures the gateway beside what people use instead; --help says more
  tidy                 checks the arrows between crates
  fuzz --minutes N     fuzzes every target, sharing the minutes
       [--target X]    only targets named so
  setup                finds or installs what all of these need
";

/// A command line that makes no sense.
const USAGE_ERROR: u8 = 2;

fn main() -> ExitCode {
    let mut args: Vec<String> = std::env::args().skip(1).collect();
    if args.is_empty() {
        eprint!("{USAGE}");
        return ExitCode::from(USAGE_ERROR);
    }
    let command = args.remove(0);
    match dispatch(&command, args) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn dispatch(command: &str, args: Vec<String>) -> Result<ExitCode> {
    match command {
        "demo" => return run::demo(&args),
        "bench" => return run::bench(&args),
        "test" => match parse_test(args) {
            Ok(test) => run::test(&test)?,
            Err(error) => return Ok(misuse(&error)),
        },
        "fuzz" => match parse_fuzz(args) {
            Ok((minutes, target)) => run::fuzz(minutes, target.as_deref())?,
            Err(error) => return Ok(misuse(&error)),
        },
        "tidy" if args.is_empty() => tidy::tidy()?,
        "setup" if args.is_empty() => {
            setup::setup(Scope::Test)?;
            setup::report();
        }
        "help" | "-h" | "--help" => print!("{USAGE}"),
        _ => return Ok(misuse(&anyhow::anyhow!("no such command, or too many arguments"))),
    }
    Ok(ExitCode::SUCCESS)
}

fn misuse(error: &anyhow::Error) -> ExitCode {
    eprintln!("xtask: {error:#}\n\n{USAGE}");
    ExitCode::from(USAGE_ERROR)
}

fn parse_test(args: Vec<String>) -> Result<Test> {
    let mut test = Test::default();
    let mut args = args.into_iter();
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--filter" => test.filters.push(value(&mut args, &arg)?),
            "-p" | "--package" => test.packages.push(value(&mut args, &arg)?),
            "--" => test.runner_args.extend(args.by_ref()),
            _ => bail!("`test` does not take `{arg}`"),
        }
    }
    Ok(test)
}

fn parse_fuzz(args: Vec<String>) -> Result<(u64, Option<String>)> {
    let mut minutes = None;
    let mut target = None;
    let mut args = args.into_iter();
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--minutes" => minutes = Some(value(&mut args, &arg)?.parse()?),
            "--target" => target = Some(value(&mut args, &arg)?),
            _ => bail!("`fuzz` does not take `{arg}`"),
        }
    }
    let Some(minutes) = minutes else { bail!("`fuzz` needs `--minutes N`") };
    Ok((minutes, target))
}

fn value(args: &mut impl Iterator<Item = String>, name: &str) -> Result<String> {
    let Some(value) = args.next() else { bail!("`{name}` needs a value") };
    Ok(value)
}
