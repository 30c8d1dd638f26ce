use std::fmt::Write;

use proptest::prelude::*;

use super::{DOCUMENT_BYTES_MAX, Node, Value, read};

/// A document in one line: lists, tables in the order of their keys, text in quotes.
fn told(node: &Node) -> String {
    match &node.value {
        Value::Nothing => "nothing".into(),
        Value::Text(text) => format!("{text:?}"),
        Value::Other => "other".into(),
        Value::List(items) => {
            format!("[{}]", items.iter().map(told).collect::<Vec<_>>().join(" "))
        }
        Value::Table(members) => {
            let member = |(key, node): (&std::rc::Rc<str>, _)| format!("{key}={}", told(node));
            format!("({})", members.iter().map(member).collect::<Vec<_>>().join(" "))
        }
    }
}

#[test]
fn scalars_are_what_is_written() {
    for (text, expect) in [
        ("a: b", "(a=\"b\")"),
        (
            "[no, on, Yes, TRUE, 1.10, 0o7, 0x1F, 1_000, 12:30:45, 2001-01-01]",
            "[\"no\" \"on\" \"Yes\" \"TRUE\" \"1.10\" \"0o7\" \"0x1F\" \"1_000\" \"12:30:45\" \"2001-01-01\"]",
        ),
        (
            "[null, Null, NULL, ~, 'null', \"~\", nULL]",
            "[nothing nothing nothing nothing \"null\" \"~\" \"nULL\"]",
        ),
        ("a:\nb: ''", "(a=nothing b=\"\")"),
        ("on: 1\nno: 2\n200: 3", "(200=\"3\" no=\"2\" on=\"1\")"),
        ("a: |\n  x\n  y\nb: >-\n  x\n  y\n", "(a=\"x\\ny\\n\" b=\"x y\")"),
        ("a: \"\\u00e9\\t\"", "(a=\"é\\t\")"),
        ("a: &x [1]\nb: *x\nc: [*x, *x]", "(a=[\"1\"] b=[\"1\"] c=[[\"1\"] [\"1\"]])"),
        ("a: &x 1\nb: &x 2\nc: *x", "(a=\"1\" b=\"2\" c=\"2\")"),
        ("'<<': 1", "(<<=\"1\")"),
        ("---\na: 1\n...\n# end\n", "(a=\"1\")"),
        ("a: 1 # no: 2", "(a=\"1\")"),
        (r#"{"a":[1,true,null,"\ud83d\ude00"],"b":1e400}"#, ""),
        (r#"{"a":[1,true,null,"\ud83d\ude00","<<"]}"#, "(a=[other other nothing \"😀\" \"<<\"])"),
    ] {
        let got = read(text).as_ref().map_or_else(|_| String::new(), told);
        assert_eq!(got, expect, "{text}");
    }
}

#[test]
fn what_readers_differ_about_is_refused() {
    for (text, why) in [
        ("a: 1\nb: 2\na: 3", "line 3: the key `a` stands twice"),
        ("{a: 1}", "line 1: it begins as JSON"),
        ("x: {a: 1, \"a\": 2}", "line 1: the key `a` stands twice"),
        ("x: {\"a\": 1, \"\\x61\": 2}", "the key `a` stands twice"),
        ("200: 1\n'200': 2", "line 2: the key `200` stands twice"),
        ("{\"a\":1,\n\"\\u0061\":2}", "line 2: it begins as JSON does, but"),
        ("a: &x {b: 1}\nc:\n  <<: *x\n", "line 3: a merge key (`<<`)"),
        ("a: !!str 1", "line 1: a tag"),
        ("a: !ruby/object:Gem::Installer {}", "a tag"),
        ("!!map {a: 1}", "a tag"),
        ("a: ! b", "a tag"),
        ("a: !!python/object/apply:os.system [id]", "a tag"),
        ("%YAML 1.1\n---\na: 1", "line 1: it is not YAML"),
        ("%TAG ! tag:example.com,2000:\n---\na: 1", "line 1: it is not YAML"),
        ("a: 1\n---\nb: 2", "line 2: a second document"),
        ("a: 1\n...\nb: 2", "line 3: "),
        ("? [a]\n: 1", "line 1: a key is no text"),
        ("? {a: 1}\n: 1", "line 1: a key is no text"),
        ("a: &x b\n*x : 1", "line 2: a key is an alias"),
        ("&x a: 1", "the key `a` has an anchor"),
        ("a: &x [*x]", "within what it names"),
        ("a: &x {b: *x}", "within what it names"),
        ("a: *y", "line 1: it is not YAML"),
        ("a: [1", "it is not YAML"),
        ("a: 1\n\tb: 2", "line 1: it is not YAML"),
        ("a: \"\u{0}\"", "line 1: "),
        ("a: \"\\ud800\"", "line 1: it is not YAML"),
        ("", "it is empty"),
        ("# nothing\n", "it is empty"),
    ] {
        let error = read(text).map(|node| told(&node)).expect_err(text);
        assert!(error.contains(why), "{text:?}: {error}");
    }
}

/// Whatever is handed over: an answer, in time and memory in proportion to its length.
#[test]
fn hostile_documents_are_answered() {
    // A billion laughs: nothing is copied, so all of it is a few nodes.
    let mut laughs = "a0: &a0 [lol, lol, lol, lol, lol, lol, lol, lol, lol]\n".to_owned();
    for at in 1..100 {
        let below = format!("*a{}, ", at - 1).repeat(9);
        writeln!(laughs, "a{at}: &a{at} [{}]", below.trim_end_matches(", ")).unwrap();
    }
    assert!(read(&laughs).is_ok());
    // A chain of aliases goes deep without any brackets.
    let mut chain = "a0: &a0 x\n".to_owned();
    for at in 1..20_000 {
        writeln!(chain, "a{at}: &a{at} [*a{}]", at - 1).unwrap();
    }
    let deep = |open: &str, close: &str, n: usize| format!("{}{}", open.repeat(n), close.repeat(n));
    let indented: String = (0..2_000).map(|at| format!("{}a:\n", " ".repeat(at))).collect();
    for (text, why) in [
        (chain, "line 129: it is nested deeper than 128"),
        (deep("[", "]", 100_000), "line 1: "),
        (deep("{\"a\":", "}", 100_000), "line 1: "),
        (format!("a: {}", deep("{a: ", "}", 100_000)), "line 1: "),
        (format!("a: {}", deep("[", "]", 100_000)), "line 1: "),
        (deep("- ", "", 100_000), "line 1: "),
        (deep("? ", "", 100_000), "line 1: "),
        (indented, "line 129: "),
        (format!("a: {}", "x".repeat(DOCUMENT_BYTES_MAX)), "longer than 32 MiB"),
        ("&a ".repeat(100_000), "line 1: "),
        ("!".repeat(100_000), "line 1: "),
        (format!("{}: 1", "k".repeat(100_000)), "line 1: "),
    ] {
        let shown: String = text.chars().take(40).collect();
        let error = read(&text).map(|node| told(&node)).expect_err(&shown);
        assert!(error.contains(why), "{shown}: {error}");
    }
    for depth in [127, 128] {
        let (flow, json) = (deep("[", "]", depth), deep("[", "]", depth - 1));
        assert!(read(&flow).is_ok(), "{depth}");
        assert_eq!(read(&format!("{{\"a\":{json}}}")).is_ok(), depth < 128, "{depth}");
    }
    assert!(read(&deep("[", "]", 129)).is_err());
}

/// What YAML is made of, and what readers of it stumble over.
const PIECES: &[&str] = &[
    "a",
    "b",
    ":",
    ": ",
    "- ",
    "? ",
    "\n",
    "\n  ",
    "\n    ",
    "\t",
    " ",
    "[",
    "]",
    "{",
    "}",
    ",",
    "&a ",
    "*a",
    "!",
    "!!str ",
    "|",
    ">",
    "|2-\n",
    "'",
    "\"",
    "\\",
    "\\x4",
    "#",
    " #",
    "%YAML 1.2\n",
    "---",
    "\n---\n",
    "\n...\n",
    "<<",
    "~",
    "\u{feff}",
    "\u{85}",
    "\u{2028}",
    "\r",
    "\r\n",
    "é",
    "@",
    "`",
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4_000))]

    #[test]
    fn every_text_is_answered(pieces in prop::collection::vec(prop::sample::select(PIECES), 0..40)) {
        let text = pieces.concat();
        // An error names a place, or says that there is nothing.
        if let Err(why) = read(&text) {
            prop_assert!(why.starts_with("line ") || why == "it is empty", "{}", why);
        }
    }
}
