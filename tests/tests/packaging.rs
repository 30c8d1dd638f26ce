//! What a distribution and a cluster are given, checked by the tools that would read it.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::fs;
use std::path::{Path, PathBuf};
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

/// What helm is told for a release with everything in it.
const FULL: [&str; 4] = [
    "--set",
    "agent.enabled=true,gateway.secrets={orders},agent.secrets={orders}",
    "--set-string",
    "gateway.policies.a\\.cedar=permit(principal\\, action\\, resource);",
];
const AGENT_ONLY: [&str; 2] = ["--set", "gateway.enabled=false,agent.enabled=true"];

fn helm(args: &[&[&str]]) -> Captured {
    let helm = places::helm();
    assert!(helm.is_file(), "no helm; install it: cargo xtask setup");
    run(&helm.to_string_lossy(), &args.concat())
}

fn rendered(more: &[&str]) -> String {
    let chart = packaging().join("helm/bulla");
    helm(&[&["template", "x", &chart.to_string_lossy()], more]).success().unwrap()
}

/// A program of the environment that knows Kubernetes.
fn kubernetes(program: &str) -> String {
    let program = places::kubernetes_python_home().join("bin").join(program);
    assert!(program.is_file(), "no {}; install it: cargo xtask setup", program.display());
    program.to_string_lossy().into_owned()
}

#[test]
fn the_chart_holds() {
    let chart = packaging().join("helm/bulla");
    let chart = chart.to_string_lossy();
    for more in [&[][..], &FULL, &AGENT_ONLY] {
        let linted = helm(&[&["lint", "--strict", &chart], more]);
        assert_eq!(linted.code(), 0, "{}{}", linted.out(), linted.err());
    }
    let made = rendered(&FULL);
    let count = |words: &str| made.matches(words).count();
    assert_eq!((count("\nkind: StatefulSet\n"), count("\nkind: Deployment\n")), (1, 1));
    // Neither has a token of the cluster's, root, or a disk of its own that it may write.
    assert_eq!(count("automountServiceAccountToken: false"), 4);
    assert_eq!((count("runAsNonRoot: true"), count("readOnlyRootFilesystem: true")), (2, 2));
    // Nobody connects to an agent.
    assert!(made.contains("ingress: []"));
}

#[test]
fn the_chart_is_what_kubernetes_takes() {
    let dir = TempDir::new("chart").unwrap();
    let validate = kubernetes("kubernetes-validate");
    // The oldest that still gets fixes from distributors, and the newest.
    let validated = |text: &str, version: &str| {
        let path = dir.write("rendered.yaml", text).unwrap();
        run(&validate, &["--strict", "-k", version, &path.to_string_lossy()])
    };
    for (more, objects) in [(&[][..], 7), (&FULL, 12), (&AGENT_ONLY, 5)] {
        let made = rendered(more);
        assert_eq!(made.matches("\nkind: ").count(), objects, "{more:?}");
        for version in ["1.29", "1.37"] {
            let checked = validated(&made, version);
            let told = format!("{}{}", checked.out(), checked.err());
            assert_eq!((checked.code(), told.matches(" passed ").count()), (0, objects), "{told}");
        }
    }
    // A word that Kubernetes does not know, a value of another type, one that is missing.
    let made = rendered(&FULL);
    for (word, other) in [
        ("readOnlyRootFilesystem: true", "readOnlyRootFileSystem: true"),
        ("replicas: 1", "replicas: one"),
        ("  serviceName: x-gateway\n  selector:", "  serviceName: x-gateway\n  selectors:"),
    ] {
        assert!(made.contains(word), "{word}");
        assert_ne!(validated(&made.replacen(word, other, 1), "1.37").code(), 0, "{other}");
    }
}

/// Prints a file out of a ConfigMap of what is rendered.
const CONFIG_OF: &str = "import sys, yaml\n\
     docs = [d for d in yaml.safe_load_all(open(sys.argv[1])) if d]\n\
     maps = [d['data'] for d in docs if d['kind'] == 'ConfigMap' and d['data']]\n\
     print(*(m[sys.argv[2]] for m in maps if sys.argv[2] in m))\n";

/// The configurations that the chart brings along are ones that the program takes, where the
/// folders that it mounts are.
#[test]
fn the_chart_configures_what_it_runs() {
    let dir = TempDir::new("chart-config").unwrap();
    let root = dir.path().to_string_lossy().into_owned();
    let moved = |text: String| {
        ["/etc/bulla", "/var/lib/bulla", "/run/secrets", "/var/run/secrets"]
            .iter()
            .fold(text, |text, place| {
                text.replace(&format!("\"{place}"), &format!("\"{root}{place}"))
            })
    };
    let path = dir.write("rendered.yaml", rendered(&FULL)).unwrap();
    let python = kubernetes("python3");
    let config = |name: &str| {
        let printed = run(&python, &["-c", CONFIG_OF, &path.to_string_lossy(), name]);
        dir.write(name, moved(printed.success().unwrap())).unwrap()
    };
    let (gateway, agent) = (config("bulla.toml"), config("agent.toml"));
    let place = |file: &str, text: &str| {
        let file = dir.path().join(file);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, text).unwrap();
    };
    let key = rcgen::generate_simple_self_signed(["gw.example.com".into()]).unwrap();
    place("etc/bulla/tls/tls.crt", &key.cert.pem());
    place("etc/bulla/tls/tls.key", &key.signing_key.serialize_pem());
    place("etc/bulla/cluster/ca.crt", &key.cert.pem());
    let policy = "@id(\"all\")\npermit(principal, action, resource);";
    place("etc/bulla/policies/a.cedar", policy);
    place("run/secrets/orders/password", "hunter2");
    place("var/run/secrets/bulla/token", "token");
    place("var/lib/bulla/none", "");
    place("var/lib/bulla-agent/none", "");
    let binary = binary().unwrap();
    let bulla = |args: &[&str], config: &Path| {
        let ran =
            run(&binary.to_string_lossy(), &[args, &["-c", &config.to_string_lossy()]].concat());
        assert_eq!(ran.code(), 0, "{}{}", ran.out(), ran.err());
    };
    bulla(&["check"], &gateway);
    bulla(&["agent", "check"], &agent);
}
