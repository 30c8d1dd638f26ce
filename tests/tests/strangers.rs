//! A verifier that knows nothing of Bulla reads its archive: the Go project's own `x/mod/sumdb`.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use bulla_e2e::ca::Authority;
use bulla_e2e::client::program;
use bulla_e2e::gateway::{Gateway, Spec};
use bulla_e2e::issuer::Issuer;
use bulla_e2e::postgres::Postgres;
use bulla_e2e::proc::capture;

const POLICY: &str = r#"
@id("everything")
permit (principal, action, resource in Bulla::Resource::"orders");
"#;

/// Where Debian keeps Go packages.
const GOPATH: &str = "/usr/share/gocode";

fn built(folder: &Path) -> PathBuf {
    let module = Path::new(GOPATH).join("src/golang.org/x/mod/sumdb/tlog");
    assert!(
        module.is_dir(),
        "Go's transparency-log packages are missing: apt-get install golang-go \
         golang-golang-x-mod-dev"
    );
    let binary = folder.join("stranger");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("strangers/verify.go");
    let mut go = Command::new(program("go").unwrap());
    go.args(["build", "-o"]).arg(&binary).arg(source);
    go.env("GO111MODULE", "off").env("GOPATH", GOPATH).env("GOCACHE", folder.join("cache"));
    go.env("GOFLAGS", "").env("HOME", folder);
    let done = capture(go, None, Duration::from_secs(180)).unwrap();
    assert_eq!(done.code(), 0, "{}{}", done.out(), done.err());
    binary
}

/// Every file of a log, without the evidence beside it.
fn files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files(&path, found);
        } else {
            found.push(path);
        }
    }
}

#[test]
fn a_stranger_verifies_the_archive_and_sees_each_change() {
    let authority = Authority::new("strangers").unwrap();
    let server = Postgres::start(&authority).unwrap();
    let issuer = Issuer::start().unwrap();
    let spec = Spec::new(&server, &issuer).policy("orders.cedar", POLICY);
    let gateway = Gateway::start(&authority, spec).unwrap();
    let token = issuer.mint().unwrap().subject("billing/api").token().unwrap();
    // More than one bundle, so that tiles of the next level are needed.
    let mut psql = gateway.dial(&token).command(&program("psql").unwrap());
    psql.args(["-X", "-q", "-o", "/dev/null"]);
    let script = "SELECT id FROM customers;\n".repeat(400);
    let done = capture(psql, Some(script.into_bytes()), Duration::from_secs(120)).unwrap();
    assert_eq!(done.code(), 0, "{}", done.err());
    assert!(gateway.terminate().unwrap().success(), "{}", gateway.log());

    let data = gateway.dir().path().join("data");
    let (archive, key) = (data.join("archive"), data.join("log.vkey"));
    let stranger = built(gateway.dir().path());
    let verify = || {
        let mut command = Command::new(&stranger);
        command.arg(&archive).arg(&key);
        let done = capture(command, None, Duration::from_secs(60)).unwrap();
        (done.code(), done.out())
    };
    let (code, words) = verify();
    assert!(code == 0 && words.starts_with("good: "), "{words}");
    let entries: u64 = words.split(' ').nth(1).unwrap().parse().unwrap();
    assert!(entries > 512, "{words}");

    let mut log = vec![archive.join("checkpoint")];
    files(&archive.join("tile"), &mut log);
    let width = entries % 256;
    // Of partial tiles only those of the newest head are read.
    log.retain(|path| {
        let text = path.to_str().unwrap();
        !text.contains(".p/") || text.ends_with(&format!(".p/{width}"))
    });
    for path in log {
        let good = fs::read(&path).unwrap();
        let mut bad = good.clone();
        let middle = bad.len() / 2;
        bad[middle] ^= 1;
        fs::write(&path, &bad).unwrap();
        let (code, words) = verify();
        assert_eq!(code, 1, "a change of {} is not seen: {words}", path.display());
        fs::write(&path, &good).unwrap();
    }
    assert_eq!(verify().0, 0);
}
