//! Who may do what, in a table that shows every change: principal x command x resource.
//!
//! `BULLA_UPDATE_GOLDEN=1 cargo nextest run -p bulla-policy` writes `golden/house.txt` anew.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests are tests")]

mod support;

use std::fmt::Write as _;

use bulla_core::{Policies, PrincipalKind};
use support::{command, decide, load, origin, request, resource, shown, unknown, who};

fn table() -> String {
    let bundle = load(include_str!("golden/house.cedar"));
    let mut human = who("corp|ada", &["team:billing"]);
    human.kind = PrincipalKind::Human;
    let principals = [
        ("billing", who("k8s|billing/api", &["team:billing"])),
        ("dba", who("k8s|ops/dba", &["team:dba"])),
        ("both", who("k8s|ops/lead", &["team:dba", "team:billing"])),
        ("reporting", who("k8s|reporting/job", &[])),
        ("ada (human)", human),
        ("nobody", who("k8s|x/y", &[])),
    ];
    let commands = [
        command("postgres:begin", &[]),
        command("postgres:select", &[]),
        command("postgres:select", &["postgres:select public.payments(id)"]),
        command("postgres:select", &["postgres:select public.payments(*)"]),
        command("postgres:select", &["postgres:select public.people(ssn)"]),
        command("postgres:select", &["postgres:select hr.salaries(id)"]),
        command("postgres:update", &["postgres:update public.payments(state)"]),
        command("postgres:update", &["postgres:update public.orders(state)"]),
        command(
            "postgres:update",
            &["postgres:update public.payments(state)", "postgres:select public.orders(id)"],
        ),
        command(
            "postgres:insert",
            &["postgres:insert public.orders(id)", "postgres:select hr.salaries(id)"],
        ),
        command("postgres:set", &["postgres:set search_path"]),
        command("postgres:explain", &["postgres:select public.payments(id)"]),
        unknown(command("postgres:select", &["postgres:select public.payments(id)"])),
    ];
    let mut out = String::new();
    let origin = origin("10.1.2.3");
    for (name, principal) in &principals {
        for on in ["orders", "crm"] {
            let resource = resource(on);
            let opened = bundle.decide_open(principal, &resource, &origin, Default::default());
            let _ = writeln!(out, "{name} on {on}\n  {:58} {}", "connect", shown(&opened));
            for command in &commands {
                let found = decide(&bundle, &request(principal, &resource, &origin, command));
                let mut what = command.action.as_str().trim_start_matches("postgres:").to_owned();
                for touch in command.touches.seen() {
                    let action = touch.action.as_str().trim_start_matches("postgres:");
                    let columns = match &touch.columns {
                        bulla_core::Columns::Known(names) => format!("({})", names.join(",")),
                        bulla_core::Columns::All => "(*)".to_owned(),
                        bulla_core::Columns::NotApplicable => String::new(),
                        bulla_core::Columns::Unknown => "(?)".to_owned(),
                    };
                    let _ = write!(what, " | {action} {}{columns}", touch.path);
                }
                if matches!(command.touches, bulla_core::Touches::Unknown { .. }) {
                    what.push_str(" | unknown");
                }
                let _ = writeln!(out, "  {what:58} {found}");
            }
        }
    }
    out
}

#[test]
fn the_house_decides_as_written_down() {
    let found = table();
    if std::env::var_os("BULLA_UPDATE_GOLDEN").is_some() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/house.txt");
        std::fs::write(path, &found).unwrap();
        return;
    }
    let expect = include_str!("golden/house.txt");
    for (line, (found, expect)) in found.lines().zip(expect.lines()).enumerate() {
        assert_eq!(found, expect, "golden/house.txt:{}", line + 1);
    }
    assert_eq!(found.lines().count(), expect.lines().count());
}
