//! A command line as every shell reads it, or none at all. Pure.
//!
//! What a target's shell makes of a line depends on the shell. Lines for which POSIX shells, bash,
//! zsh, csh and fish cannot differ are *simple*: words of plain characters, or within quotes that
//! hold nothing active. Everything else is not read, and policy is told so.

/// Longest line that is read.
const LINE_BYTES_MAX: usize = 64 << 10;

/// Words that a shell keeps for itself at the beginning of a line, or that run other words.
const RESERVED: &[&str] = &[
    "!",
    "if",
    "then",
    "else",
    "elif",
    "fi",
    "do",
    "done",
    "case",
    "esac",
    "while",
    "until",
    "for",
    "in",
    "function",
    "select",
    "time",
    "coproc",
    "repeat",
    "foreach",
    "end",
    "switch",
    "begin",
    "and",
    "or",
    "not",
    "nocorrect",
    "noglob",
    "always",
];

/// Its words, or why it is not simple.
pub fn words(line: &[u8]) -> Result<Vec<String>, &'static str> {
    if line.len() > LINE_BYTES_MAX {
        return Err("it is longer than 64 KiB");
    }
    let text = std::str::from_utf8(line).map_err(|_| "it is not UTF-8")?;
    let mut reader = Reader { rest: text.chars().peekable(), words: Vec::new(), word: None };
    while reader.step()? {}
    let words = reader.words;
    let first = words.first().ok_or("it is empty")?;
    if first.contains('=') || RESERVED.contains(&first.as_str()) {
        return Err("its first word is one that shells keep for themselves");
    }
    Ok(words)
}

struct Reader<'a> {
    rest: std::iter::Peekable<std::str::Chars<'a>>,
    words: Vec<String>,
    word: Option<String>,
}

impl Reader<'_> {
    fn push(&mut self, c: char) {
        self.word.get_or_insert_default().push(c);
    }

    /// Takes one character, or one quoted part. False at the end.
    fn step(&mut self) -> Result<bool, &'static str> {
        let Some(c) = self.rest.next() else {
            self.words.extend(self.word.take());
            return Ok(false);
        };
        match c {
            ' ' | '\t' => self.words.extend(self.word.take()),
            '\'' => self.quoted('\'', |c| c.is_control() || c == '\\' || c == '!')?,
            '"' => self.quoted('"', |c| c.is_control() || "$`\\!".contains(c))?,
            'a'..='z' | 'A'..='Z' | '0'..='9' => self.push(c),
            '_' | '@' | '%' | '+' | ':' | ',' | '.' | '/' | '-' => self.push(c),
            // zsh looks up what stands behind a leading `=`.
            '=' if self.word.is_some() => self.push(c),
            _ => return Err("it holds characters that mean something to a shell"),
        }
        Ok(true)
    }

    fn quoted(&mut self, end: char, active: fn(char) -> bool) -> Result<(), &'static str> {
        self.word.get_or_insert_default();
        loop {
            match self.rest.next() {
                None => return Err("it ends within quotes"),
                Some(c) if c == end => return Ok(()),
                Some(c) if active(c) => {
                    return Err("it holds characters that mean something to a shell");
                }
                Some(c) => self.push(c),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn simple_lines_are_read() {
        for (line, expect) in [
            ("true", &["true"][..]),
            ("  ls  -l\t/var/log ", &["ls", "-l", "/var/log"]),
            ("echo 'a b' \"c d\"e", &["echo", "a b", "c de"]),
            ("git-upload-pack '/srv/repo.git'", &["git-upload-pack", "/srv/repo.git"]),
            (
                "rsync --server -vlogDtpre.iLsfxCIvu . /x",
                &["rsync", "--server", "-vlogDtpre.iLsfxCIvu", ".", "/x"],
            ),
            ("a ''", &["a", ""]),
            ("dd if=/dev/zero", &["dd", "if=/dev/zero"]),
        ] {
            assert_eq!(words(line.as_bytes()).unwrap(), expect, "{line}");
        }
    }

    #[test]
    fn what_a_shell_could_read_otherwise_is_not_read() {
        for line in [
            "",
            " ",
            "a;b",
            "a&&b",
            "a&",
            "a|b",
            "a\nb",
            "a\rb",
            "a\0b",
            "$(x)",
            "`x`",
            "a<b",
            "a>b",
            "a>>b",
            "a<<x",
            "$HOME",
            "${IFS}",
            "a*",
            "a?",
            "[a]",
            "{a,b}",
            "~/x",
            "a~",
            "#x",
            "a\\b",
            "'a",
            "\"a",
            "\"$x\"",
            "\"`x`\"",
            "\"a\\\"b\"",
            "$'x'",
            "a=b cmd",
            "=ls",
            "if true",
            "time ls",
            "! ls",
            "(ls)",
            "a !b",
            "'a!b'",
            "\"!!\"",
            "a^b",
            "if",
            "\u{a0}ls x",
            "l\u{200b}s",
            "x\u{7f}",
            "a\x0bb",
            "noglob ls",
        ] {
            assert!(words(line.as_bytes()).is_err(), "{line:?}");
        }
        assert!(words(b"a \xff").is_err());
        assert!(words(&vec![b'a'; LINE_BYTES_MAX + 1]).is_err());
    }

    proptest! {
        /// What is read means the same to a real shell: each word, quoted again, is the word.
        #[test]
        fn reading_twice_is_reading_once(line in "[a-z =/'\"-]{0,40}") {
            if let Ok(first) = words(line.as_bytes()) {
                let quoted = first.iter().map(|w| format!("'{}'", w.replace('\'', "\"'\"")));
                let quoted = quoted.collect::<Vec<_>>().join(" ");
                if !first.iter().any(|word| word.contains('\'')) {
                    prop_assert_eq!(words(quoted.as_bytes()).unwrap(), first);
                }
            }
        }
    }
}
