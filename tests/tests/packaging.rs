//! What a distribution and a cluster are given, checked by the tools that would read it.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use bulla_e2e::gateway::binary;
use bulla_e2e::place::TempDir;
use bulla_e2e::proc::{Captured, capture};
use xtask::places;

const SOON: Duration = Duration::from_secs(60);

fn packaging() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../packaging")
}

fn run(program: &str, args: &[&str]) -> Captured {
    let mut command = Command::new(program);
    command.args(args).env("NO_COLOR", "1");
    capture(command, None, SOON).unwrap()
}

#[test]
fn units_hold_and_are_hardened() {
    let missing = "no systemd-analyze; install it: apt-get install systemd";
    assert!(places::which("systemd-analyze").is_some(), "{missing}");
    let dir = TempDir::new("units").unwrap();
    let binary = binary().unwrap();
    for name in ["bulla-gateway.service", "bulla-agent.service"] {
        let unit = fs::read_to_string(packaging().join("systemd").join(name)).unwrap();
        // The program is not installed here; the built one stands for it.
        let unit = unit.replace("/usr/bin/bulla", &binary.to_string_lossy());
        assert!(unit.contains("\nType=notify\n"));
        let path = dir.write(name, unit).unwrap();
        let path = path.to_string_lossy();
        let verified = run("systemd-analyze", &["verify", "--man=no", &path]);
        assert_eq!((verified.code(), verified.err().trim()), (0, ""), "{name}");
        // The scale ends at 100, unprotected; 20 is what systemd itself calls OK.
        let threshold = "--threshold=20";
        let secure = run("systemd-analyze", &["security", "--offline=true", threshold, &path]);
        assert_eq!(secure.code(), 0, "{name}: {}", secure.out());
    }
}

#[test]
fn the_chart_holds() {
    let helm = places::helm();
    assert!(helm.is_file(), "no helm; install it: cargo xtask setup");
    let helm = helm.to_string_lossy();
    let chart = packaging().join("helm/bulla");
    let chart = chart.to_string_lossy();
    let full = [
        "--set",
        "agent.enabled=true,gateway.secrets={orders},agent.secrets={orders}",
        "--set-string",
        "gateway.policies.a\\.cedar=permit(principal\\, action\\, resource);",
    ];
    for more in [&[][..], &full[..], &["--set", "gateway.enabled=false,agent.enabled=true"][..]] {
        let linted = run(&helm, &[&["lint", "--strict", &chart][..], more].concat());
        assert_eq!(linted.code(), 0, "{}{}", linted.out(), linted.err());
    }
    let made = run(&helm, &[&["template", "x", &chart][..], &full[..]].concat()).success().unwrap();
    let count = |words: &str| made.matches(words).count();
    assert_eq!((count("\nkind: StatefulSet\n"), count("\nkind: Deployment\n")), (1, 1));
    // Neither has a token of the cluster's, root, or a disk of its own that it may write.
    assert_eq!(count("automountServiceAccountToken: false"), 4);
    assert_eq!((count("runAsNonRoot: true"), count("readOnlyRootFilesystem: true")), (2, 2));
    // Nobody connects to an agent.
    assert!(made.contains("ingress: []"));
}
