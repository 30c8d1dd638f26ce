//! PostgreSQL's own regression scripts, out of the distribution's source package.
//!
//! The binary packages leave them out. The source package comes from the mirrors that the machine
//! is configured with, asked for sources in a folder of its own, so that neither the system's
//! lists nor its configuration change, and nobody needs to be root.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::places;
use crate::setup::{complete, is_complete, remove_dir, run};

/// What is taken out of the source tree, and what the marker says about it.
const TAKEN: &[&str] = &["sql", "data", "parallel_schedule"];

/// Downloads and unpacks the scripts of the system server's major version, unless they are there.
///
/// # Errors
/// No mirror has the source package, or it does not hold what it should.
pub(crate) fn scripts() -> Result<()> {
    let home = places::regression().context("no PostgreSQL server; install postgresql")?;
    let wanted = TAKEN.join("\n");
    if is_complete(&home, &wanted) {
        return Ok(());
    }
    let name = home.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let package = format!("postgresql-{}", name.trim_start_matches("regress-"));
    println!("setup: fetching the source package {package}, for its regression scripts");
    let work = home.with_extension("partial");
    remove_dir(&work)?;
    fs::create_dir_all(&work).with_context(|| format!("create {}", work.display()))?;
    let apt = Apt::new(&work)?;
    let archive = apt.source(&package)?;
    unpack(&archive, &work)?;
    remove_dir(&home)?;
    fs::create_dir_all(&home).with_context(|| format!("create {}", home.display()))?;
    for what in TAKEN {
        fs::rename(work.join("regress").join(what), home.join(what))
            .with_context(|| format!("take `{what}` out of {package}"))?;
    }
    remove_dir(&work)?;
    complete(&home, &wanted)
}

/// apt with lists and sources of its own.
struct Apt {
    work: PathBuf,
    options: Vec<String>,
}

impl Apt {
    fn new(work: &Path) -> Result<Self> {
        for folder in ["parts", "lists/partial", "cache/archives/partial"] {
            fs::create_dir_all(work.join(folder)).context("create apt's folders")?;
        }
        let system = Path::new("/etc/apt");
        let mut files = vec![system.join("sources.list")];
        if let Ok(entries) = fs::read_dir(system.join("sources.list.d")) {
            files.extend(entries.flatten().map(|entry| entry.path()));
        }
        for file in files {
            let (Ok(text), Some(name)) = (fs::read_to_string(&file), file.file_name()) else {
                continue;
            };
            let copy = work.join("parts").join(name);
            fs::write(&copy, ask_for_sources(&text)).context("write apt's sources")?;
        }
        let own = |key: &str, folder: &str| format!("{key}={}", work.join(folder).display());
        let options = vec![
            "Dir::Etc::sourcelist=/dev/null".to_owned(),
            own("Dir::Etc::sourceparts", "parts"),
            own("Dir::State::Lists", "lists"),
            own("Dir::Cache", "cache"),
            "APT::Sandbox::User=root".to_owned(),
        ];
        Ok(Self { work: work.to_path_buf(), options })
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.arg("-q").current_dir(&self.work);
        for option in &self.options {
            command.args(["-o", option]);
        }
        command
    }

    /// Downloads the newest source that a mirror really has: a mirror's index may name a version
    /// whose files it has not got.
    fn source(&self, package: &str) -> Result<PathBuf> {
        // A configured archive without sources makes this fail, and is no obstacle.
        let _ = self.command("apt-get").arg("update").status().context("run apt-get")?;
        let shown = self.command("apt-cache").args(["showsrc", package]).output()?;
        let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
        let versions = shown.lines().filter_map(|line| line.strip_prefix("Version: "));
        let mut versions: Vec<&str> = versions.map(str::trim).collect();
        versions.sort_unstable();
        for version in versions.into_iter().rev() {
            let mut get = self.command("apt-get");
            get.args(["source", "--download-only", &format!("{package}={version}")]);
            if get.status().is_ok_and(|status| status.success())
                && let Some(archive) = self.archive()?
            {
                return Ok(archive);
            }
        }
        bail!(
            "no configured mirror has the source package {package}; add a `deb-src` line beside \
             the `deb` line that PostgreSQL was installed from, then run: cargo xtask setup"
        )
    }

    fn archive(&self) -> Result<Option<PathBuf>> {
        let entries = fs::read_dir(&self.work).context("list what apt-get fetched")?;
        let mut paths = entries.flatten().map(|entry| entry.path());
        Ok(paths.find(|path| path.to_string_lossy().contains(".orig.tar.")))
    }
}

/// A file of apt's sources, in either of its formats, asking for sources instead of binaries.
fn ask_for_sources(text: &str) -> String {
    let mut asked = String::new();
    for line in text.lines() {
        let line = match line.split_once(' ') {
            Some(("deb", rest)) => format!("deb-src {rest}"),
            Some(("Types:", _)) => "Types: deb-src".to_owned(),
            _ => line.to_owned(),
        };
        let _ = writeln!(asked, "{line}");
    }
    asked
}

fn unpack(archive: &Path, work: &Path) -> Result<()> {
    let mut tar = Command::new("tar");
    tar.arg("-xf").arg(archive).arg("-C").arg(work);
    run(tar.args(["--strip-components=3", "--wildcards", "*/src/test/regress/*"]))?;
    let schedule = work.join("regress/parallel_schedule");
    ensure!(schedule.is_file(), "{} has no regression scripts", archive.display());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_are_asked_for_in_either_format() {
        let cases = [
            ("deb http://mirror/debian x main", "deb-src http://mirror/debian x main\n"),
            ("deb-src http://mirror/debian x main", "deb-src http://mirror/debian x main\n"),
            ("Types: deb\nURIs: u", "Types: deb-src\nURIs: u\n"),
            ("Types: deb deb-src", "Types: deb-src\n"),
            ("# deb off", "# deb off\n"),
        ];
        for (text, expect) in cases {
            assert_eq!(ask_for_sources(text), expect, "{text}");
        }
    }
}
