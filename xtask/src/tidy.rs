//! The arrows between crates, and other rules that a compiler cannot hold.
//!
//! Each rule has a reason and prints it where it is broken. An exception is a line in a table
//! here, with a reason of its own. The rules judge a [`House`], which is plain data, so that each
//! rule can be tested on a house that breaks it.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::source::{self, Strings};
use crate::{places, setup};

/// Crates that must replay: no runtime, clock, randomness, network or file.
const PURE: &[&str] = &[
    "bulla-core",
    "bulla-policy",
    "bulla-mask",
    "bulla-tlog",
    "bulla-gate",
    "bulla-wire",
    "bulla-sql",
    "bulla-postgres",
    "bulla-amqp",
    "bulla-mysql",
    "bulla-redis",
    "bulla-kafka",
];

/// One protocol each: leaves of the house.
const PROTOCOLS: &[&str] = &[
    "bulla-postgres",
    "bulla-amqp",
    "bulla-mysql",
    "bulla-redis",
    "bulla-kafka",
    "bulla-http",
    "bulla-ssh",
];

/// What a protocol must not know.
const SHELL: &[&str] = &["bulla-engine", "bulla-store", "bulla-ledger"];

/// What pure sources must not use. Of `std::net` it is the sockets and the resolver; an address is
/// only a value.
const IMPURE: &[&str] = &[
    "TcpStream",
    "TcpListener",
    "UdpSocket",
    "ToSocketAddrs",
    "UnixStream",
    "UnixListener",
    "UnixDatagram",
    "std::fs",
    "SystemTime::now",
    "Instant::now",
    "rand",
    "getrandom",
    "SystemRandom",
];

/// `(crate, what, why it may)`. Empty is best.
const IMPURE_EXCEPTIONS: &[(&str, &str, &str)] = &[];

/// Names of protocols that only their own crates may know.
const PROTOCOL_NAMES: &[&str] = &["postgres", "bulla_http", "bulla_ssh"];

/// `(crate, file within its src, why it may name a protocol)`; an empty file means all.
const NAMING_EXCEPTIONS: &[(&str, &str, &str)] = &[
    ("bulla-postgres", "", "its own crate"),
    ("bulla-sql", "", "PostgreSQL's dialect is what it reads"),
    ("bulla", "registry.rs", "the one place that names concrete crates"),
    ("bulla", "registry/http.rs", "what a protocol adds to the configuration"),
    ("bulla", "registry/ssh.rs", "what a protocol adds to the configuration"),
    ("bulla", "registry/certify.rs", "what a protocol adds to the command line"),
    ("bulla-e2e", "", "tests"),
    ("bulla-sim", "", "simulates one protocol's clients and targets"),
    ("bulla-fuzz", "", "names each reader that it fuzzes"),
    ("xtask", "", "installs the servers that tests need"),
];

/// Where errors may lose their type.
const ANYHOW: &[&str] = &["bulla", "xtask", "bulla-e2e"];

/// A second TLS stack.
const OTHER_TLS: &[&str] = &["openssl", "openssl-sys", "native-tls", "boring", "boring-sys"];

/// A second cryptography provider.
const OTHER_CRYPTO: &[&str] = &["ring"];

/// Lines of code that one person can audit in a morning.
const GATE_LINES_MAX: usize = 600;

/// One crate of the workspace.
#[derive(Clone, Debug, Default)]
pub struct Crate {
    pub name: String,
    /// Names of its direct normal dependencies.
    pub direct: Vec<String>,
    /// Names of everything that its normal dependencies reach, itself excluded.
    pub reach: Vec<String>,
    /// Its sources: path within `src`, and text. Files that are tests are left out.
    pub files: Vec<(String, String)>,
}

/// The workspace, as far as the rules care.
#[derive(Clone, Debug, Default)]
pub struct House {
    pub crates: Vec<Crate>,
}

/// A broken rule.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Broken {
    /// Crate, or crate and file.
    pub place: String,
    pub what: String,
    pub reason: &'static str,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}\n    because {}", self.place, self.what, self.reason)
    }
}

/// Reads the workspace and checks it.
///
/// # Errors
/// A rule is broken (each is printed), or the workspace cannot be read.
pub fn tidy() -> Result<()> {
    let house = read(&places::root())?;
    let broken = check(&house);
    for broken in &broken {
        eprintln!("tidy: {broken}");
    }
    ensure!(broken.is_empty(), "tidy: {} broken", count(broken.len(), "rule"));
    println!("tidy: {} in order", count(house.crates.len(), "crate"));
    Ok(())
}

fn count(n: usize, noun: &str) -> String {
    if n == 1 { format!("{n} {noun}") } else { format!("{n} {noun}s") }
}

/// Every broken rule, in the order of the crates.
pub fn check(house: &House) -> Vec<Broken> {
    let mut broken = Vec::new();
    for member in &house.crates {
        names(member, &mut broken);
        purity(member, &mut broken);
        arrows(member, &mut broken);
        protocol_names(member, &mut broken);
        stacks(member, &mut broken);
        gate_size(member, &mut broken);
    }
    broken
}

fn report(broken: &mut Vec<Broken>, place: &str, what: String, reason: &'static str) {
    broken.push(Broken { place: place.to_owned(), what, reason });
}

fn names(member: &Crate, broken: &mut Vec<Broken>) {
    let vague = ["common", "util", "utils", "shared", "helper", "helpers"];
    if member.name.split(['-', '_']).any(|part| vague.contains(&part)) {
        let reason = "a crate that is named for nothing collects everything";
        report(broken, &member.name, "is called something vague".into(), reason);
    }
}

fn purity(member: &Crate, broken: &mut Vec<Broken>) {
    if !PURE.contains(&member.name.as_str()) {
        return;
    }
    let reason = "pure crates take time, chance and bytes as arguments, so that every run replays";
    for name in member.reach.iter().filter(|name| *name == "tokio" || name.starts_with("tokio-")) {
        report(broken, &member.name, format!("reaches `{name}`"), reason);
    }
    for (file, text) in &member.files {
        let code = source::squeeze(&source::code(text, Strings::Blank));
        for what in IMPURE {
            let excepted = IMPURE_EXCEPTIONS.iter().any(|(c, w, _)| *c == member.name && w == what);
            if !excepted && source::uses(&code, what) {
                report(broken, &place(member, file), format!("uses `{what}`"), reason);
            }
        }
    }
}

fn arrows(member: &Crate, broken: &mut Vec<Broken>) {
    let name = member.name.as_str();
    let ours = member.direct.iter().filter(|dep| dep.starts_with("bulla"));
    for dep in ours {
        let arrow = format!("depends on `{dep}`");
        if PROTOCOLS.contains(&name) && PROTOCOLS.contains(&dep.as_str()) {
            let reason = "protocols stay leaves: one must change without the other";
            report(broken, name, arrow.clone(), reason);
        }
        if PROTOCOLS.contains(&name) && SHELL.contains(&dep.as_str()) {
            let reason = "a protocol reads and answers; it never accepts, stores or records";
            report(broken, name, arrow.clone(), reason);
        }
        if dep == "bulla-engine" && name != "bulla" {
            let reason = "the engine is the road; only the binary puts traffic on it";
            report(broken, name, arrow.clone(), reason);
        }
        if name == "bulla-tlog" || name == "bulla-core" {
            let reason =
                "the nouns, and the log that a stranger verifies, stand on nothing of ours";
            report(broken, name, arrow.clone(), reason);
        }
        let gate_may = ["bulla-core", "bulla-policy", "bulla-mask"].contains(&dep.as_str());
        if name == "bulla-gate" && !gate_may {
            let reason = "the kernel is audited by hand, so it knows core, policy and mask only";
            report(broken, name, arrow.clone(), reason);
        }
        if dep == "bulla" || dep == "bulla-e2e" {
            let reason = "nothing stands on the binary or on the tests";
            report(broken, name, arrow, reason);
        }
    }
    if member.direct.iter().any(|dep| dep == "anyhow") && !ANYHOW.contains(&name) {
        let reason = "a library's error says its reason in its type";
        report(broken, name, "depends on `anyhow`".into(), reason);
    }
}

fn protocol_names(member: &Crate, broken: &mut Vec<Broken>) {
    let reason = "the next protocol is one crate and one line; nobody else knows any by name";
    for (file, text) in &member.files {
        let excepted = NAMING_EXCEPTIONS
            .iter()
            .any(|(name, only, _)| *name == member.name && (only.is_empty() || only == file));
        if excepted {
            continue;
        }
        let code = source::code(text, Strings::Blank);
        for (line, text) in code.lines().enumerate() {
            for word in source::words(text) {
                let lower = word.to_lowercase();
                if PROTOCOL_NAMES.iter().any(|protocol| lower.contains(protocol)) {
                    let place = format!("{}:{}", place(member, file), line + 1);
                    report(broken, &place, format!("names `{word}`"), reason);
                }
            }
        }
    }
}

fn stacks(member: &Crate, broken: &mut Vec<Broken>) {
    for name in &member.reach {
        if OTHER_TLS.contains(&name.as_str()) {
            let reason = "one TLS library, rustls: each is a surface to patch";
            report(broken, &member.name, format!("reaches `{name}`"), reason);
        }
        if OTHER_CRYPTO.contains(&name.as_str()) {
            let reason = "one cryptography provider, aws-lc-rs: keys have one home";
            report(broken, &member.name, format!("reaches `{name}`"), reason);
        }
    }
}

fn gate_size(member: &Crate, broken: &mut Vec<Broken>) {
    if member.name != "bulla-gate" {
        return;
    }
    let lines = |(_, text): &(String, String)| {
        let code = source::code(text, Strings::Keep);
        code.lines().filter(|line| !line.trim().is_empty()).count()
    };
    let total: usize = member.files.iter().map(lines).sum();
    if total > GATE_LINES_MAX {
        let reason = "it is the kernel that people audit by hand";
        let what = format!("has {total} lines of code, more than {GATE_LINES_MAX}");
        report(broken, &member.name, what, reason);
    }
}

fn place(member: &Crate, file: &str) -> String {
    format!("{}/src/{file}", member.name)
}

/// Reads the workspace at `root` through `cargo tree` and its sources.
fn read(root: &Path) -> Result<House> {
    let mut crates = Vec::new();
    for line in tree(root, &["--workspace", "--depth", "0", "--prefix", "none"])? {
        let Some((name, folder)) = member(&line) else {
            bail!("read the workspace's members: `{line}` is not one");
        };
        let (direct, reach) = dependencies(root, &name)?;
        let files = sources(&folder.join("src"))?;
        crates.push(Crate { name, direct, reach, files });
    }
    ensure!(!crates.is_empty(), "the workspace has no members");
    crates.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(House { crates })
}

/// `bulla-core v0.1.0 (/path/to/crates/bulla-core)`
fn member(line: &str) -> Option<(String, PathBuf)> {
    let (name, rest) = line.split_once(' ')?;
    let (_, folder) = rest.split_once('(')?;
    Some((name.to_owned(), PathBuf::from(folder.trim_end_matches(')'))))
}

/// Names of the direct and of all normal dependencies of one member, with the features that it has
/// when it is built alone.
fn dependencies(root: &Path, name: &str) -> Result<(Vec<String>, Vec<String>)> {
    let lines = tree(root, &["-p", name, "-e", "normal", "--prefix", "depth"])?;
    let mut direct = Vec::new();
    let mut reach = Vec::new();
    for line in &lines {
        let digits = line.chars().take_while(char::is_ascii_digit).count();
        let (depth, package) = line.split_at_checked(digits).context("a depth and a package")?;
        let package = package.split(' ').next().unwrap_or_default().to_owned();
        match depth.parse::<u32>().with_context(|| format!("read the depth of `{line}`"))? {
            0 => continue,
            1 => direct.push(package.clone()),
            _ => {}
        }
        reach.push(package);
    }
    reach.sort();
    reach.dedup();
    Ok((direct, reach))
}

fn tree(root: &Path, args: &[&str]) -> Result<Vec<String>> {
    let mut command = Command::new("cargo");
    command.current_dir(root).args(["tree", "--quiet", "-f", "{p}"]).args(args);
    let shown = setup::shown(&command);
    let output = command.output().with_context(|| format!("run `{shown}`"))?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "`{shown}` failed: {}", errors.trim());
    let text = String::from_utf8(output.stdout).with_context(|| format!("read `{shown}`"))?;
    Ok(text.lines().filter(|line| !line.trim().is_empty()).map(str::to_owned).collect())
}

/// Every `.rs` file under `src` that is not a test module, with its path below it.
fn sources(src: &Path) -> Result<Vec<(String, String)>> {
    let mut files = Vec::new();
    let mut tests: Vec<PathBuf> = Vec::new();
    let mut folders = vec![src.to_path_buf()];
    while let Some(folder) = folders.pop() {
        let entries =
            fs::read_dir(&folder).with_context(|| format!("list {}", folder.display()))?;
        for entry in entries {
            let path = entry.with_context(|| format!("list {}", folder.display()))?.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path)
                    .with_context(|| format!("read {}", path.display()))?;
                tests.extend(test_files(&path, &text));
                files.push((path, text));
            }
        }
    }
    files.retain(|(path, _)| !tests.iter().any(|test| path.starts_with(test)));
    files.sort();
    let below =
        |path: PathBuf| path.strip_prefix(src).unwrap_or(&path).to_string_lossy().into_owned();
    Ok(files.into_iter().map(|(path, text)| (below(path), text)).collect())
}

/// Where the test modules that `text` declares may be.
fn test_files(path: &Path, text: &str) -> Vec<PathBuf> {
    let stem = path.file_stem().unwrap_or_default();
    let folder = path.parent().unwrap_or(path);
    let home = if ["lib", "main", "mod"].iter().any(|name| stem == *name) {
        folder.to_path_buf()
    } else {
        folder.join(stem)
    };
    let places = |name: &String| [home.join(format!("{name}.rs")), home.join(name)];
    source::test_modules(text).iter().flat_map(places).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(name: &str, direct: &[&str], reach: &[&str], text: &str) -> Crate {
        let own = |names: &[&str]| names.iter().map(ToString::to_string).collect::<Vec<_>>();
        let mut reach = own(reach);
        reach.extend(own(direct));
        let files = vec![("lib.rs".to_owned(), text.to_owned())];
        Crate { name: name.to_owned(), direct: own(direct), reach, files }
    }

    /// A house of one crate breaks exactly these.
    fn check_one(member: Crate, expect: &[&str]) {
        let broken = check(&House { crates: vec![member.clone()] });
        let got: Vec<String> =
            broken.iter().map(|broken| format!("{}: {}", broken.place, broken.what)).collect();
        assert_eq!(got, expect, "{member:?}");
        assert!(broken.iter().all(|broken| !broken.reason.is_empty()));
    }

    #[test]
    fn an_orderly_house_is_in_order() {
        check_one(member("bulla-core", &["thiserror"], &[], "use std::fmt;"), &[]);
        check_one(member("bulla-engine", &["bulla-gate", "tokio"], &[], "use std::fs;"), &[]);
        check_one(member("bulla", &["bulla-engine", "anyhow"], &["tokio"], ""), &[]);
        check_one(member("bulla-gate", &["bulla-core", "bulla-policy"], &[], ""), &[]);
        check_one(member("bulla-postgres", &["bulla-sql", "bulla-wire"], &[], "Postgres"), &[]);
    }

    #[test]
    fn pure_crates_stay_pure() {
        let reaches = member("bulla-core", &["x"], &["tokio", "tokio-util"], "");
        check_one(reaches, &["bulla-core: reaches `tokio`", "bulla-core: reaches `tokio-util`"]);
        for (text, what) in [
            ("use std::net::{IpAddr, TcpStream};", "TcpStream"),
            ("let s = std::net::UdpSocket::bind(a);", "UdpSocket"),
            ("use std::{fs, io};", "std::fs"),
            ("let now = SystemTime::now();", "SystemTime::now"),
            ("let now = std::time::Instant::now();", "Instant::now"),
            ("let x = rand::random();", "rand"),
            ("let x = aws_lc_rs::rand::fill(x);", "rand"),
        ] {
            let expect = format!("bulla-tlog/src/lib.rs: uses `{what}`");
            check_one(member("bulla-tlog", &[], &[], text), &[&expect]);
            check_one(member("bulla-ledger", &[], &[], text), &[]);
            check_one(member("bulla-tlog", &[], &[], &format!("// {text}")), &[]);
            let test = format!("#[cfg(test)] mod tests {{ {text} }}");
            check_one(member("bulla-tlog", &[], &[], &test), &[]);
        }
    }

    #[test]
    fn arrows_point_one_way() {
        for (name, dep) in [
            ("bulla-postgres", "bulla-amqp"),
            ("bulla-postgres", "bulla-ledger"),
            ("bulla-ssh", "bulla-store"),
            ("bulla-console", "bulla-engine"),
            ("bulla-core", "bulla-tlog"),
            ("bulla-tlog", "bulla-core"),
            ("bulla-gate", "bulla-wire"),
            ("bulla-ledger", "bulla"),
            ("bulla-ledger", "anyhow"),
        ] {
            let expect = format!("{name}: depends on `{dep}`");
            check_one(member(name, &[dep], &[], ""), &[&expect]);
        }
    }

    #[test]
    fn names_are_kept() {
        check_one(member("bulla-util", &[], &[], ""), &["bulla-util: is called something vague"]);
        let named = member("bulla-engine", &[], &[], "\nfn PostgresLogin() {}");
        check_one(named, &["bulla-engine/src/lib.rs:2: names `PostgresLogin`"]);
        check_one(member("bulla-engine", &[], &[], "// like postgres\nfn a() {}"), &[]);
        let mut binary = member("bulla", &[], &[], "");
        binary.files.push(("registry.rs".to_owned(), "use bulla_postgres as _;".to_owned()));
        check_one(binary, &[]);
    }

    #[test]
    fn one_stack_each() {
        check_one(member("bulla", &[], &["ring"], ""), &["bulla: reaches `ring`"]);
        let tls = member("bulla-store", &["native-tls"], &[], "");
        check_one(tls, &["bulla-store: reaches `native-tls`"]);
    }

    #[test]
    fn the_gate_stays_small() {
        let lines = |n: usize| "fn a() {}\n// said\n\n".repeat(n);
        check_one(member("bulla-gate", &[], &[], &lines(600)), &[]);
        let expect = "bulla-gate: has 601 lines of code, more than 600";
        check_one(member("bulla-gate", &[], &[], &lines(601)), &[expect]);
        let tested = format!("{}#[cfg(test)]\nmod tests {{\n{}}}\n", lines(600), lines(10));
        check_one(member("bulla-gate", &[], &[], &tested), &[]);
    }

    #[test]
    fn test_modules_in_files_are_left_out() {
        let found = test_files(Path::new("src/lib.rs"), "#[cfg(test)] mod tests;");
        assert_eq!(found, [PathBuf::from("src/tests.rs"), PathBuf::from("src/tests")]);
        let found = test_files(Path::new("src/a.rs"), "#[cfg(test)] mod tests;");
        assert_eq!(found, [PathBuf::from("src/a/tests.rs"), PathBuf::from("src/a/tests")]);
    }

    #[test]
    fn this_very_workspace_is_read() {
        let house = read(&places::root()).unwrap();
        let xtask = house.crates.iter().find(|member| member.name == "xtask").unwrap();
        assert_eq!(xtask.direct, ["anyhow"]);
        assert!(xtask.files.iter().any(|(file, _)| file == "tidy.rs"));
        let e2e = house.crates.iter().find(|member| member.name == "bulla-e2e").unwrap();
        assert!(e2e.reach.iter().any(|name| name == "rustls"));
    }
}
