use proptest::prelude::*;

use super::*;

fn hidden(rules: &[(&str, &str)], kinds: &[Kind]) -> Arc<Hidden> {
    let rule = |(path, mask): &(&str, &str)| Rule {
        path: if *path == "$" { Path::whole() } else { Path::parse(path).unwrap() },
        class: "pii".into(),
        mask: Mask::parse(mask).unwrap(),
    };
    let kinds = kinds.iter().map(|kind| (*kind, Arc::from("found"))).collect();
    Arc::new(Hidden::new(rules.iter().map(rule).collect(), kinds, None))
}

fn run(mut document: Document, text: &[u8], size: usize) -> Result<String, DocumentError> {
    let mut out = Vec::new();
    for piece in text.chunks(size) {
        document.push(piece, &mut out)?;
    }
    document.finish(&mut out)?;
    Ok(String::from_utf8(out).unwrap())
}

fn check(rules: &[(&str, &str)], kinds: &[Kind], text: &str, expect: &str) {
    for size in [1, 3, usize::MAX] {
        let got = run(Document::new(hidden(rules, kinds)), text.as_bytes(), size);
        assert_eq!(got.as_deref(), Ok(expect), "{text} by {rules:?} {kinds:?} in {size}");
    }
}

#[test]
fn values_are_masked_where_they_stand() {
    for (path, mask, text, expect) in [
        ("$.a", "null", r#"{ "a" : "x", "b": [1, 2] }"#, r#"{ "a" : null, "b": [1, 2] }"#),
        ("$.a", "constant(-)", r#"{"a":{"b":[1,{}]},"c":1}"#, r#"{"a":"-","c":1}"#),
        (
            "$.a[*].n",
            "null",
            r#"{"a":[{"n":1},{"n":"2"},3]}"#,
            r#"{"a":[{"n":null},{"n":null},3]}"#,
        ),
        (
            "$..ssn",
            "null",
            r#"[{"x":{"ssn":"1"}},{"ssn":[2]}]"#,
            r#"[{"x":{"ssn":null}},{"ssn":null}]"#,
        ),
        ("$.*", "null", r#"{"a":1,"b":[1]}"#, r#"{"a":null,"b":null}"#),
        ("$.a", "partial(0,2)", r#"{"a":"secr\u00e4t"}"#, r#"{"a":"***ät"}"#),
        ("$.a", "bucket(10)", r#"{"a":17,"b":17}"#, r#"{"a":10,"b":17}"#),
        ("$", "null", r#"{"a":17}"#, "null"),
        ("$", "null", "7", "null"),
        // A name is what it means, and both of two are masked.
        ("$.ssn", "null", r#"{"s\u0073n":"1","ssn":"2"}"#, r#"{"s\u0073n":null,"ssn":null}"#),
        ("$.a", "null", r#"{"a\"b":"1"}"#, r#"{"a\"b":"1"}"#),
        // A document within a text.
        (
            "$..ssn",
            "null",
            r#"{"p":"{\"ssn\":\"1\",\"b\":2}"}"#,
            r#"{"p":"{\"ssn\":null,\"b\":2}"}"#,
        ),
        ("$..ssn", "null", r#"{"p":"{no document"}"#, r#"{"p":"{no document"}"#),
        ("$.p.ssn", "null", r#"{"p":"{\"ssn\":1}"}"#, r#"{"p":"{\"ssn\":1}"}"#),
        ("$.a", "null", r#"{"a":"\ud83d","b":"\ud83d"}"#, r#"{"a":null,"b":"\ud83d"}"#),
    ] {
        check(&[(path, mask)], &[], text, expect);
    }
}

#[test]
fn h11_what_is_found_by_content_is_masked_wherever_it_stands() {
    let kinds = &[Kind::Card, Kind::Email, Kind::UsSsn];
    for (text, expect) in [
        (r#"{"note":"card 4111 1111 1111 1111 ok"}"#, r#"{"note":"card [card] ok"}"#),
        (r#"{"a":"4111\u0031111 1111 1111 1"}"#, r#"{"a":"4111\u0031111 1111 1111 1"}"#),
        (r#"{"a":"\u0034111 1111 1111 1111"}"#, r#"{"a":"[card]"}"#),
        (r#"{"card":4111111111111111}"#, r#"{"card":null}"#),
        (r#"{"card":4.111111111111111e15}"#, r#"{"card":null}"#),
        (r#"{"card":4111111111111111.0}"#, r#"{"card":null}"#),
        (r#"{"n":17,"m":1.5e3}"#, r#"{"n":17,"m":1.5e3}"#),
        (r#"{"ann@example.com":1}"#, r#"{"[email]":1}"#),
        (r#"["ann@example.com",["4111111111111111"]]"#, r#"["[email]",["[card]"]]"#),
        (r#"{"ssn":"536904399"}"#, r#"{"ssn":"[us_ssn]"}"#),
        (r#""ann@example.com""#, r#""[email]""#),
    ] {
        check(&[], kinds, text, expect);
    }
    let mut document = Document::new(hidden(&[("$.a", "null")], kinds));
    let mut out = Vec::new();
    document.push(br#"{"a":1,"b":"ann@example.com, bob@example.com"}"#, &mut out).unwrap();
    let counts: Vec<_> = document.counts().iter().map(|(c, n)| (&**c, *n)).collect();
    assert_eq!(counts, [("found", 2), ("pii", 1)]);
}

#[test]
fn what_is_no_json_is_not_passed_as_one() {
    let deep = format!("{}{}", "[".repeat(600), "]".repeat(600));
    let bad = [
        "",
        "{",
        "{\"a\":1",
        "{\"a\" 1}",
        "[1 2]",
        "nul",
        "\"x",
        "{} x",
        "{\"\\q\":1}",
        "{a:1}",
        "[1,]",
        "{\"a\":1,}",
        "01",
        "1.",
        ".5",
        "+1",
        "1e",
        "[NaN]",
        "{'a':1}",
        "[1}",
        "]",
        ",",
        "\"a\nb\"",
        "{}{}",
        "{\"a\":1}\u{1e}",
        deep.as_str(),
        ")]}',\n{}",
        "cb({})",
        "{\"a\":tru}",
    ];
    for text in bad {
        for size in [1, usize::MAX] {
            let got = run(Document::new(hidden(&[("$.a", "null")], &[])), text.as_bytes(), size);
            assert!(got.is_err(), "{text:.40} gave {got:?}");
        }
    }
    for text in ["{}{}", "{\"a\":1}\n{\"a\":2}\n", "\u{1e}{\"a\":1}\n", "", "1\n2"] {
        let got = run(Document::sequence(hidden(&[("$.a", "null")], &[])), text.as_bytes(), 1);
        assert_eq!(got.as_deref(), Ok(text.replace(":1", ":null").replace(":2", ":null").as_str()));
    }
    assert!(run(Document::new(hidden(&[], &[])), b"\"\xff\"", 1).is_err());
    let long = format!("\"{}\"", "x".repeat(SCALAR_BYTES_MAX));
    let got = run(Document::new(hidden(&[("$.a", "null")], &[])), long.as_bytes(), 1 << 16);
    assert_eq!(got, Err(DocumentError::Long));
}

#[test]
fn the_memory_of_a_long_document_is_flat() {
    let mut document = Document::new(hidden(&[("$..ssn", "null")], &[Kind::Card]));
    let mut out = Vec::new();
    document.push(b"[0", &mut out).unwrap();
    for _ in 0..20_000 {
        out.clear();
        document
            .push(br#",{"ssn":"536-90-4399","card":"4111111111111111","n":1}"#, &mut out)
            .unwrap();
        assert!(document.held() < 100);
    }
    document.push(b"]", &mut out).unwrap();
    document.finish(&mut out).unwrap();
}

/// Documents with a secret in places that a path names, and nowhere else.
fn document(secret: String) -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        Just("1".to_owned()),
        Just("\"x\"".to_owned()),
        Just("null".to_owned()),
        Just(format!("{{\"ssn\":\"{secret}\"}}")),
        Just(format!("{{\"s\\u0073n\":[{{\"a\":\"{secret}\"}}]}}")),
    ];
    leaf.prop_recursive(4, 40, 5, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4)
                .prop_map(|all| format!("[{}]", all.join(","))),
            prop::collection::vec(("[a-c]{1,2}", inner), 0..4).prop_map(|all| {
                let all: Vec<_> = all.iter().map(|(k, v)| format!(" \"{k}\" : {v}")).collect();
                format!("{{{}}}", all.join(","))
            }),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]
    /// Whatever stands at a masked place, what goes on is the same.
    #[test]
    fn non_interference(text in document("SECRET".into()), size in 1..40_usize) {
        let other = text.replace("SECRET", "536-90-4399 and much longer \\u00e4");
        let own = |text: &str, size| run(Document::new(hidden(&[("$..ssn", "null")], &[])), text.as_bytes(), size);
        let masked = own(&text, size).unwrap();
        prop_assert_eq!(&masked, &own(&other, 7).unwrap());
        prop_assert!(!masked.contains("SECRET"));
    }

    #[test]
    fn any_bytes_pass_or_fail(text in prop::collection::vec(any::<u8>(), 0..400), size in 1..50_usize) {
        let mut document = Document::new(hidden(&[("$..a", "null")], &[Kind::Card]));
        let mut out = Vec::new();
        let _ = text.chunks(size).try_for_each(|piece| document.push(piece, &mut out));
    }
}
