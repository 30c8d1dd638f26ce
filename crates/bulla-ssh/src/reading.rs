//! What a request does: from its bytes to the command that policy judges. Pure.
//!
//! A command line runs code that the gateway does not see: it is always opaque. Where it is simple
//! (see [`crate::argv`]) its words are facts; where it is not, the reading is in doubt, and needs a
//! permit of its own (`ssh:unknown`).

use std::{collections::BTreeMap, sync::Arc};

use bulla_core::{
    ActionName, Columns, Command, Effects, Fact, Parameter, ParameterValue, Purity, Spelling,
    Touch, Touches,
};

use crate::argv;

/// What was set up before a command, and changes what it means.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Setting {
    pub account: String,
    /// Name and value, in the order in which they came.
    pub env: Vec<(String, String)>,
    /// `xterm-256color`; none without a terminal.
    pub terminal: Option<String>,
}

/// The name of an action of this protocol.
fn name(verb: &str) -> Option<ActionName> {
    ActionName::new(&format!("ssh:{verb}")).ok()
}

/// A reading under way.
struct Reading {
    action: ActionName,
    effects: Effects,
    shown: String,
    touches: Vec<Touch>,
    doubt: Option<&'static str>,
    facts: BTreeMap<&'static str, Fact>,
}

impl Reading {
    fn new(verb: &str, shown: String, effects: Effects) -> Option<Self> {
        let (touches, facts) = (Vec::new(), BTreeMap::new());
        Some(Self { action: name(verb)?, effects, shown, touches, doubt: None, facts })
    }

    fn text(&mut self, name: &'static str, value: &str) {
        self.facts.insert(name, Fact::Text(value.into()));
    }

    fn touch(&mut self, verb: &str, kind: &'static str, path: &str) {
        if let Some(action) = name(verb) {
            let columns = Columns::NotApplicable;
            self.touches.push(Touch { action, kind, path: path.into(), columns });
        }
    }

    fn finish(mut self, setting: &Setting) -> Command {
        let pairs: Vec<Arc<str>> =
            setting.env.iter().map(|(name, value)| format!("{name}={value}").into()).collect();
        self.text("account", &setting.account);
        self.facts.insert("terminal", Fact::Flag(setting.terminal.is_some()));
        self.facts.insert("env", Fact::Set(pairs));
        let parameter = |(name, value): &(String, String)| Parameter {
            name: name.as_str().into(),
            kind: "env".into(),
            value: ParameterValue::Text(value.as_str().into()),
        };
        let terminal = setting.terminal.as_deref().unwrap_or_default();
        Command {
            action: self.action,
            spelling: Spelling::Capitals,
            effects: self.effects,
            touches: match self.doubt {
                None => Touches::Known(self.touches),
                Some(why) => Touches::Unknown { why: why.into(), seen: self.touches },
            },
            also: Vec::new(),
            beneath: Vec::new(),
            purity: Purity::Effect,
            shown: self.shown.into(),
            parameters: setting.env.iter().map(parameter).collect(),
            facts: self.facts,
            settings: format!("account={} terminal={terminal}", setting.account).into(),
        }
    }
}

const RUNS: Effects =
    Effects::READ.with(Effects::WRITE).with(Effects::SERVER).with(Effects::OPAQUE);

/// A command line.
pub fn exec(line: &[u8], setting: &Setting) -> Option<Command> {
    let shown = String::from_utf8_lossy(line).into_owned();
    let mut reading = Reading::new("exec", shown, RUNS)?;
    if let Ok(text) = std::str::from_utf8(line) {
        reading.text("command", text);
    }
    match argv::words(line) {
        Ok(words) => reading.simple(&words),
        Err(why) => {
            reading.effects = reading.effects.with(Effects::UNKNOWN);
            reading.doubt = Some(why);
        }
    }
    Some(reading.finish(setting))
}

impl Reading {
    fn simple(&mut self, words: &[String]) {
        let Some((program, args)) = words.split_first() else { return };
        self.text("program", program);
        let set = args.iter().map(|word| word.as_str().into()).collect();
        self.facts.insert("args", Fact::Set(set));
        self.touch("exec", "program", program);
        let transfer = transfer(program, args);
        let Some(Transfer { by, upload, paths }) = transfer else { return };
        self.text("transfer", by);
        if let [path] = &paths[..] {
            self.text("path", path);
        }
        for path in &paths {
            self.touch(if upload { "upload" } else { "download" }, "file", path);
        }
    }
}

/// A program that moves files, as far as its command line says which.
struct Transfer {
    by: &'static str,
    upload: bool,
    paths: Vec<String>,
}

fn transfer(program: &str, args: &[String]) -> Option<Transfer> {
    let plain = |args: &[String]| -> Vec<String> {
        args.iter().filter(|word| !word.starts_with('-')).cloned().collect()
    };
    let has = |flag: char| {
        args.iter().any(|word| {
            word.strip_prefix('-').is_some_and(|w| !w.starts_with('-') && w.contains(flag))
        })
    };
    match program {
        // scp's own protocol: `-t` is the side that writes, `-f` the side that reads.
        "scp" if has('t') || has('f') => {
            Some(Transfer { by: "scp", upload: has('t'), paths: plain(args) })
        }
        "rsync" if args.first().is_some_and(|word| word == "--server") => {
            let upload = !args.iter().any(|word| word == "--sender");
            // The options end at a lone dot.
            let at = args.iter().position(|word| word == ".")?;
            Some(Transfer { by: "rsync", upload, paths: plain(args.get(at + 1..)?) })
        }
        "git-upload-pack" | "git-upload-archive" => {
            Some(Transfer { by: "git", upload: false, paths: plain(args) })
        }
        "git-receive-pack" => Some(Transfer { by: "git", upload: true, paths: plain(args) }),
        _ => None,
    }
}

/// A shell. What is typed in it is not judged.
pub fn shell(setting: &Setting) -> Option<Command> {
    let reading = Reading::new("shell", "shell".into(), RUNS)?;
    Some(reading.finish(setting))
}

/// A subsystem.
pub fn subsystem(name: &str, setting: &Setting) -> Option<Command> {
    let sftp = name == "sftp";
    // Each of its operations is a command of its own.
    let effects = if sftp { Effects::READ } else { RUNS };
    let mut reading = Reading::new("subsystem", format!("subsystem {name}"), effects)?;
    reading.text("subsystem", name);
    if !sftp {
        reading.effects = reading.effects.with(Effects::UNKNOWN);
        reading.doubt = Some("what this subsystem does is not known");
    }
    Some(reading.finish(setting))
}

/// An operation on a file.
pub fn file(
    verb: &str,
    path: &str,
    to: Option<&str>,
    reads: bool,
    setting: &Setting,
) -> Option<Command> {
    let changes = !matches!(verb, "download" | "list" | "stat");
    let effects = if changes { Effects::READ.with(Effects::WRITE) } else { Effects::READ };
    let goes = to.map(|to| format!(" -> {to}")).unwrap_or_default();
    let mut reading = Reading::new(verb, format!("{verb} {path}{goes}"), effects)?;
    reading.text("transfer", "sftp");
    reading.text("path", path);
    reading.touch(verb, "file", path);
    if reads {
        reading.touch("download", "file", path);
    }
    if let Some(to) = to {
        reading.text("to_path", to);
        // What a link points to may lie elsewhere; a new name lies where it says.
        if verb == "rename" {
            reading.touch(verb, "file", to);
        }
    }
    Some(reading.finish(setting))
}

/// A connection to another address, through the host.
pub fn forward(host: &str, port: u32, setting: &Setting) -> Option<Command> {
    let address = format!("{host}:{port}");
    let effects = Effects::READ.with(Effects::WRITE).with(Effects::OPAQUE);
    let mut reading = Reading::new("forward", format!("forward to {address}"), effects)?;
    reading.text("host", host);
    reading.facts.insert("port", Fact::Number(i64::from(port)));
    reading.touch("forward", "address", &address);
    Some(reading.finish(setting))
}

/// Reads what a person wrote for `policy test`: `exec LINE`, `shell`, `subsystem NAME`,
/// `forward HOST:PORT`, or a command line alone.
pub fn read(text: &str, account: &str) -> Option<Command> {
    let setting = Setting { account: account.to_owned(), ..Setting::default() };
    let (word, rest) = text.trim().split_once(' ').unwrap_or((text.trim(), ""));
    match word {
        "shell" if rest.is_empty() => shell(&setting),
        "subsystem" => subsystem(rest, &setting),
        "forward" => {
            let (host, port) = rest.rsplit_once(':')?;
            forward(host, port.parse().ok()?, &setting)
        }
        "exec" => exec(rest.as_bytes(), &setting),
        _ => exec(text.trim().as_bytes(), &setting),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn touched(command: &Command) -> Vec<String> {
        command.touches.seen().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn simple_lines_have_facts_and_others_are_in_doubt() {
        let setting = Setting {
            account: "deploy".into(),
            env: vec![("LANG".into(), "C".into())],
            terminal: None,
        };
        let read = exec(b"systemctl restart 'web app'", &setting).unwrap();
        assert_eq!(read.action.as_str(), "ssh:exec");
        assert_eq!(read.facts.get("program"), Some(&Fact::Text("systemctl".into())));
        let args = vec!["restart".into(), "web app".into()];
        assert_eq!(read.facts.get("args"), Some(&Fact::Set(args)));
        assert_eq!(read.facts.get("env"), Some(&Fact::Set(vec!["LANG=C".into()])));
        assert!(matches!(&read.touches, Touches::Known(t) if t.len() == 1));
        assert!(read.effects.has(Effects::OPAQUE) && !read.effects.has(Effects::UNKNOWN));
        let read = exec(b"true; id", &setting).unwrap();
        assert!(matches!(read.touches, Touches::Unknown { .. }));
        assert!(read.effects.has(Effects::UNKNOWN) && !read.facts.contains_key("program"));
        let read = exec(b"\xff", &setting).unwrap();
        assert!(!read.facts.contains_key("command") && read.effects.has(Effects::UNKNOWN));
    }

    #[test]
    fn transfers_are_told_by_their_words() {
        for (line, by, touches) in [
            ("scp -t /srv/x", "scp", vec!["ssh:exec program scp", "ssh:upload file /srv/x"]),
            (
                "scp -r -p -f /a /b",
                "scp",
                vec!["ssh:exec program scp", "ssh:download file /a", "ssh:download file /b"],
            ),
            (
                "rsync --server --sender -vlogDtpre.iLsfxCIvu . /a",
                "rsync",
                vec!["ssh:exec program rsync", "ssh:download file /a"],
            ),
            (
                "rsync --server -vlogDtpre.iLsfxCIvu . /a",
                "rsync",
                vec!["ssh:exec program rsync", "ssh:upload file /a"],
            ),
            (
                "git-upload-pack '/r.git'",
                "git",
                vec!["ssh:exec program git-upload-pack", "ssh:download file /r.git"],
            ),
            (
                "git-receive-pack '/r.git'",
                "git",
                vec!["ssh:exec program git-receive-pack", "ssh:upload file /r.git"],
            ),
        ] {
            let read = exec(line.as_bytes(), &Setting::default()).unwrap();
            assert_eq!(read.facts.get("transfer"), Some(&Fact::Text(by.into())), "{line}");
            assert_eq!(touched(&read), touches, "{line}");
        }
        let plain = exec(b"scp a b", &Setting::default()).unwrap();
        assert!(!plain.facts.contains_key("transfer"));
    }

    #[test]
    fn what_is_done_to_files_touches_all_of_them() {
        let setting = Setting::default();
        for (verb, to, reads, touches) in [
            ("download", None, false, &["ssh:download file /a"][..]),
            ("upload", None, true, &["ssh:upload file /a", "ssh:download file /a"]),
            ("rename", Some("/b"), false, &["ssh:rename file /a", "ssh:rename file /b"]),
            ("link", Some("/b"), false, &["ssh:link file /a"]),
        ] {
            let read = file(verb, "/a", to, reads, &setting).unwrap();
            assert_eq!(touched(&read), touches, "{verb}");
            assert_eq!(read.effects.has(Effects::WRITE), verb != "download", "{verb}");
        }
    }

    #[test]
    fn lines_by_hand() {
        for (text, action) in [
            ("shell", "ssh:shell"),
            ("exec ls", "ssh:exec"),
            ("ls -l", "ssh:exec"),
            ("subsystem sftp", "ssh:subsystem"),
            ("forward db:5432", "ssh:forward"),
        ] {
            assert_eq!(read(text, "root").unwrap().action.as_str(), action, "{text}");
        }
        assert!(read("forward db", "root").is_none());
    }
}
