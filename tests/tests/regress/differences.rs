//! `tests/regress/differences.md`: why the gateway's answers differ, and how often in each script.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use bulla_e2e::place::TempDir;
use bulla_e2e::proc::capture;

/// The columns of the list, and what they mean.
const REASONS: &[(&str, &str)] = &[
    (
        "grammar",
        "A text that PostgreSQL's grammar does not accept is answered by the gateway, which sends \
         on nothing that it cannot read: the server's words and code behind `refused: `, the \
         server's place, and a DETAIL and a HINT of the gateway's own.",
    ),
    (
        "place",
        "Of such an error the grammar's library tells the message alone. Where that quotes a token \
         the gateway finds its place again; elsewhere the line with the caret is missing, and so \
         are the server's DETAIL and HINT.",
    ),
    (
        "newer",
        "The gateway reads with the grammar of PostgreSQL 18, some of whose messages have changed.",
    ),
    (
        "setting",
        "`standard_conforming_strings` stays on, whatever the policy: with it off the gateway and \
         the server would read the same text differently. What follows in the script then sees it \
         on. This is the one thing in all scripts that a policy cannot permit.",
    ),
];

/// `(script, what stands in the difference, its reason)`, where the reason is not plain to see.
const EXPLAINED: &[(&str, &str, &str)] = &[
    ("foreign_key", "constraints cannot be altered to be NOT VALID", "newer"),
    ("plpgsql", "foo\\\\bar", "setting"),
    ("strings", "nonstandard use of", "setting"),
    ("strings", "unsafe use of string constant with Unicode escapes", "setting"),
    ("strings", "String constants with Unicode escapes cannot be used when", "setting"),
    ("strings", "a\\bcd | a\\b'cd", "setting"),
    ("strings", "invalid command \\", "setting"),
    ("strings", "' as f2, '", "setting"),
    ("strings", "<  off\n", "setting"),
];

/// Behind the name of a script that ran before PostgreSQL 18.
pub const NEWER: &str = " (18)";

const HEAD: &str = "\
# Where the gateway answers otherwise than the server

PostgreSQL's own regression scripts run in psql, once directly and once through the gateway under a
policy that permits everything (`tests/tests/regress.rs`). What is printed is the same, byte for
byte, in every script that is not in this list. Scripts with (18) ran before PostgreSQL 18 too. The
test fails at a difference that no reason below covers, and when a count changes;
`BULLA_UPDATE=1 BULLA_REGRESS=all cargo xtask test regress` counts anew.
";

/// How often each reason was met, by script.
type Counts = BTreeMap<String, BTreeMap<&'static str, usize>>;

/// Compares what the two roads printed, script by script.
pub fn check(direct: &BTreeMap<String, String>, through: &BTreeMap<String, String>) {
    assert_eq!(direct.len(), through.len());
    let (mut counts, mut unexplained) = (Counts::new(), String::new());
    for (script, expected) in direct {
        let (found, grammar) = without_refusals(&through[script]);
        let mut count = BTreeMap::new();
        if grammar > 0 {
            count.insert("grammar", grammar);
        }
        for hunk in hunks(expected, &found) {
            match reason(script, &hunk) {
                Some(reason) => *count.entry(reason).or_default() += 1,
                None => {
                    let _ = writeln!(unexplained, "--- {script}\n{hunk}");
                }
            }
        }
        counts.insert(script.clone(), count);
    }
    assert!(unexplained.is_empty(), "differences that nobody explained:\n{unexplained}");
    with_file(|rows| {
        let mut stale = String::new();
        for (script, count) in &counts {
            let row = row(script, count);
            let known = rows.get(script).cloned();
            if known != row {
                let _ = writeln!(stale, "{script}: {known:?} is now {row:?}");
            }
            match row {
                Some(row) => rows.insert(script.clone(), row),
                None => rows.remove(script),
            };
        }
        assert!(stale.is_empty() || updating(), "the list is out of date:\n{stale}");
    });
}

/// Checks that the document is what its rows make.
pub fn whole() {
    with_file(|_| {});
}

/// Turns the gateway's answers to what it cannot read into the server's, and counts them.
fn without_refusals(text: &str) -> (String, usize) {
    let (mut plain, mut count) = (String::new(), 0);
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        if line.starts_with("DETAIL:  {\"bulla\":\"unreadable\"") {
            let hint = "HINT:  correct the statement; what the gateway cannot read";
            lines.next_if(|line| line.starts_with(hint));
            continue;
        }
        let told = line.replacen("ERROR:  refused: ", "ERROR:  ", 1);
        let told = told.replacen("last error message: refused: ", "last error message: ", 1);
        let is_grammar = told != line && !line.contains("through this gateway");
        count += usize::from(is_grammar);
        plain.push_str(if is_grammar { &told } else { line });
        plain.push('\n');
    }
    (plain, count)
}

/// The differing lines of two texts, neighbours together, with `<` and `>` before them.
fn hunks(direct: &str, through: &str) -> Vec<String> {
    let dir = TempDir::new("diff").unwrap();
    let direct = dir.write("direct", ensure_line(direct)).unwrap();
    let through = dir.write("through", ensure_line(through)).unwrap();
    let mut diff = Command::new("diff");
    diff.arg("-a").arg(direct).arg(through);
    let said = capture(diff, None, Duration::from_secs(60)).unwrap();
    assert!(said.code() < 2, "{said}");
    let mut hunks: Vec<String> = Vec::new();
    for line in said.out().lines() {
        match hunks.last_mut() {
            Some(hunk) if !line.starts_with(|c: char| c.is_ascii_digit()) => {
                hunk.push_str(line);
                hunk.push('\n');
            }
            _ => hunks.push(String::new()),
        }
    }
    hunks
}

fn ensure_line(text: &str) -> String {
    format!("{}\n", text.trim_end())
}

fn reason(script: &str, hunk: &str) -> Option<&'static str> {
    if hunk.contains("`standard_conforming_strings` may not be set to that through this gateway") {
        return Some("setting");
    }
    let script = script.strip_suffix(NEWER).unwrap_or(script);
    let explained = EXPLAINED.iter().find(|known| known.0 == script && hunk.contains(known.1));
    if let Some((_, _, reason)) = explained {
        return Some(reason);
    }
    let is_place = |line: &str| {
        let line = line.strip_prefix("< ").unwrap_or("no");
        let caret = line.trim() == "^";
        caret || ["LINE ", "DETAIL:  ", "HINT:  "].iter().any(|start| line.starts_with(start))
    };
    hunk.lines().all(is_place).then_some("place")
}

fn row(script: &str, count: &BTreeMap<&'static str, usize>) -> Option<String> {
    if count.is_empty() {
        return None;
    }
    let mut row = format!("| {script} |");
    for (reason, _) in REASONS {
        let _ = match count.get(reason) {
            Some(count) => write!(row, " {count} |"),
            None => write!(row, " |"),
        };
    }
    Some(row)
}

fn updating() -> bool {
    std::env::var_os("BULLA_UPDATE").is_some()
}

fn with_file<T>(change: impl FnOnce(&mut BTreeMap<String, String>) -> T) -> T {
    let lock = File::create(std::env::temp_dir().join("bulla-regress.lock")).unwrap();
    lock.lock().unwrap();
    let path: PathBuf = xtask::places::root().join("tests/regress/differences.md");
    let text = fs::read_to_string(&path).unwrap_or_default();
    let mut rows = BTreeMap::new();
    let table = text.split("\n|---").nth(1).unwrap_or_default();
    for line in table.lines().filter(|line| line.starts_with("| ")) {
        let script = line.split('|').nth(1).unwrap_or_default().trim().to_owned();
        rows.insert(script, line.to_owned());
    }
    let made = document(&rows);
    if !updating() {
        assert_eq!(text, made, "{} is not what the test writes", path.display());
    }
    let result = change(&mut rows);
    if updating() {
        fs::write(&path, document(&rows)).unwrap();
    }
    result
}

fn document(rows: &BTreeMap<String, String>) -> String {
    let mut text = HEAD.to_owned();
    for (reason, words) in REASONS {
        let _ = write!(text, "\n{}\n", filled(&format!("**{reason}.** {words}")));
    }
    let names: Vec<&str> = REASONS.iter().map(|(name, _)| *name).collect();
    let _ =
        write!(text, "\n| Script | {} |\n|{}\n", names.join(" | "), "---|".repeat(names.len() + 1));
    for row in rows.values() {
        let _ = writeln!(text, "{row}");
    }
    text
}

/// Words in lines of at most a hundred characters.
fn filled(words: &str) -> String {
    let (mut text, mut column) = (String::new(), 0);
    for word in words.split(' ') {
        let length = word.chars().count();
        if column > 0 && column + length < 100 {
            text.push(' ');
            column += 1;
        } else if column > 0 {
            text.push('\n');
            column = 0;
        }
        text.push_str(word);
        column += length;
    }
    text
}
