use super::*;

fn masks(json: &[(&str, &str)], content: &[(&str, &str)]) -> Result<Masks, Vec<String>> {
    let map = |all: &[(&str, &str)]| -> BTreeMap<String, String> {
        all.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect()
    };
    let mask = |class: &str| class.starts_with("pii").then_some(Mask::Null);
    Masks::new(&map(json), &map(content), &mask, None)
}

fn segments(path: &str) -> Vec<String> {
    path.split('/').filter(|part| !part.is_empty()).map(str::to_owned).collect()
}

fn headers_of(pairs: &[(&str, &str)]) -> Headers {
    let mut headers = Headers::default();
    pairs.iter().for_each(|(name, value)| headers.push(name, value));
    headers
}

#[test]
fn a_rule_speaks_of_a_route_or_of_all() {
    let masks = masks(
        &[
            ("$..ssn", "pii.ssn"),
            ("GET /people/{id} $.mail", "pii.mail"),
            ("/static/** $", "clear"),
            ("/static/people $.name", "pii"),
        ],
        &[("card", "pii.card")],
    )
    .unwrap();
    let plan = |method: Method, path: &str, seen: &[&str]| {
        let plan = masks.plan(&method, &segments(path), &|class| seen.contains(&class));
        plan.map(|plan| {
            let names = |all: &[Arc<str>]| all.iter().map(|c| &**c).collect::<Vec<_>>().join(" ");
            format!("{} | {}", names(&plan.hidden.classes()), names(&plan.shown))
        })
    };
    for (method, path, seen, expect) in [
        (Method::GET, "/x", &[][..], Some("pii.card pii.ssn | ")),
        (Method::GET, "/people/7", &["pii.ssn"], Some("pii.card pii.mail | pii.ssn")),
        (Method::HEAD, "/people/7", &[], Some("pii.card pii.mail pii.ssn | ")),
        (Method::POST, "/people/7", &["pii.card"], Some("pii.ssn | pii.card")),
        // To some servers these are the same, and on doubt it is hidden.
        (Method::GET, "/People/7", &[], Some("pii.card pii.mail pii.ssn | ")),
        (Method::GET, "/Static/People", &[], Some("pii pii.card pii.ssn | ")),
        (Method::GET, "/STATIC/logo.png", &[], Some("pii.card pii.ssn | ")),
        (Method::GET, "/static/logo.png", &[], None),
        (Method::GET, "/static/people", &[], Some("pii pii.card pii.ssn | ")),
    ] {
        assert_eq!(plan(method.clone(), path, seen).as_deref(), expect, "{method} {path}");
    }
    for (json, content, why) in [
        (&[("ssn", "pii")][..], &[][..], "is no path"),
        (&[("/a $..x", "nope")], &[], "no class of that name"),
        (&[("a $.x", "pii")], &[], "does not begin with `/`"),
        (&[("$.x", "clear")], &[], "only a whole answer"),
        (&[], &[("cards", "pii")], "found by content"),
    ] {
        let wrong = super::tests::masks(json, content).unwrap_err();
        assert!(wrong[0].contains(why), "{wrong:?}");
    }
}

fn hidden(json: &[(&str, &str)], content: &[(&str, &str)]) -> Arc<Hidden> {
    let plan = masks(json, content).unwrap().plan(&Method::GET, &[], &|_| false);
    plan.unwrap().hidden
}

fn veiled(hidden: &Arc<Hidden>, kind: &str, body: &[u8], size: usize) -> Result<String, VeilError> {
    let mut veil = Veil::new(hidden, &headers_of(&[("content-type", kind)]), &[])?;
    let mut out = BytesMut::new();
    for piece in body.chunks(size) {
        veil.push(piece, &mut out)?;
    }
    veil.finish(&mut out)?;
    Ok(String::from_utf8_lossy(&out).into_owned())
}

#[test]
fn h10_a_form_is_masked_or_withheld() {
    let places = hidden(&[("$..ssn", "pii")], &[]);
    let content = hidden(&[], &[("card", "pii"), ("email", "pii")]);
    let json = r#"{"ssn":"1","m":"a@example.com"}"#;
    for (hidden, kind, body, expect) in [
        (&places, "application/json", json, Ok(r#"{"ssn":null,"m":"a@example.com"}"#)),
        (
            &places,
            "application/hal+json; charset=UTF-8",
            json,
            Ok(r#"{"ssn":null,"m":"a@example.com"}"#),
        ),
        (&content, "application/json", json, Ok(r#"{"ssn":"1","m":"[email]"}"#)),
        (
            &places,
            "application/x-ndjson",
            "{\"ssn\":1}\n{\"ssn\":2}\n",
            Ok("{\"ssn\":null}\n{\"ssn\":null}\n"),
        ),
        (&places, "text/csv", "ssn\n1\n", Err(VeilError::Form)),
        (&content, "text/csv", "m\na@example.com\n", Ok("m\n[email]\n")),
        (&content, "text/html", "<b>a@example.com</b>", Ok("<b>[email]</b>")),
        (&places, "application/javascript", "cb({})", Err(VeilError::Form)),
        (&content, "application/octet-stream", "x", Err(VeilError::Form)),
        (&content, "image/png", "x", Err(VeilError::Form)),
        (&content, "multipart/byteranges; boundary=x", "x", Err(VeilError::Form)),
        (&content, "application/grpc", "x", Err(VeilError::Form)),
        (&content, "text/plain; charset=utf-7", "x", Err(VeilError::Form)),
        (&content, "text/plain; charset=ibm037", "x", Err(VeilError::Form)),
        (&places, "application/json; charset=utf-16", json, Err(VeilError::Form)),
        (&content, "text/plain, text/html", "x", Err(VeilError::Form)),
        (&places, "application/json", "{\"a\":", Err(VeilError::Document)),
        (&places, "application/json", "<html>", Err(VeilError::Document)),
    ] {
        for size in [1, 5, usize::MAX] {
            let got = veiled(hidden, kind, body.as_bytes(), size);
            assert_eq!(got.as_deref(), expect.as_deref(), "{kind}: {body}");
        }
    }
    let none = Veil::new(&content, &headers_of(&[]), &[]);
    assert!(matches!(none, Err(VeilError::Form)), "no type at all");
}

#[test]
fn events_are_masked_one_by_one() {
    let hidden = hidden(&[("$..ssn", "pii")], &[("email", "pii")]);
    for (body, expect) in [
        ("data: {\"ssn\":1}\n\n", "data: {\"ssn\":null}\n\n"),
        ("event: x\rdata: {\"ssn\":\rdata: 1}\r\r", "event: x\ndata: {\"ssn\":\ndata: null}\n\n"),
        ("\u{feff}data:{\"ssn\":1}\r\n\r\n", "data: {\"ssn\":null}\n\n"),
        (": a@example.com\n\ndata: [DONE]\n\n", ":\n\ndata: [DONE]\n\n"),
        ("data: 536-90-4399 is no document\n\n", "data: [masked]\n\n"),
        (
            "id: a@example.com\nretry: 10\nretry: x\nother: y\ndata: 1\n\n",
            "id: [email]\nretry: 10\ndata: 1\n\n",
        ),
        ("data: {\"ssn\":1}", ""),
    ] {
        for size in [1, 4, usize::MAX] {
            let got = veiled(&hidden, "text/event-stream", body.as_bytes(), size);
            assert_eq!(got.as_deref(), Ok(expect), "{body:?}");
        }
    }
    let long = format!("data: {}", "x".repeat(EVENT_BYTES_MAX));
    let got = veiled(&hidden, "text/event-stream", long.as_bytes(), 1 << 16);
    assert_eq!(got, Err(VeilError::Event));
}

#[test]
fn h14_headers_are_true_of_what_is_sent() {
    let hidden = hidden(&[], &[("email", "pii")]);
    let mut all = headers_of(&[
        ("etag", "\"x\""),
        ("content-length", "7"),
        ("content-encoding", "gzip"),
        ("repr-digest", "sha-256=:x:"),
        ("x-amz-checksum-crc32", "x"),
        ("cache-control", "public"),
        ("location", "/people/a@example.com"),
        ("content-type", "application/json"),
        ("x-other", "kept"),
    ]);
    let mut counts = Counts::new();
    headers(&hidden, &mut all, &mut counts);
    let mut got: Vec<String> = all.iter().map(|(n, v)| format!("{n}: {v}")).collect();
    got.sort();
    let expect = [
        "cache-control: no-store",
        "content-type: application/json",
        "location: /people/[email]",
        "x-content-type-options: nosniff",
        "x-other: kept",
    ];
    assert_eq!(got, expect);
    assert_eq!(counts.get("pii"), Some(&1));
}

#[test]
fn a_secret_in_a_compressed_body_is_found() {
    use std::io::Write as _;
    let gzip = |text: &str| {
        let level = flate2::Compression::default();
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), level);
        encoder.write_all(text.as_bytes()).unwrap();
        encoder.finish().unwrap()
    };
    let never = Needles::new(vec![b"the-secret-of-it".to_vec()]);
    for (text, expect) in [
        ("nothing of the kind, the-secret-o", Ok(())),
        ("it is the-secret-of-it!", Err(VeilError::Secret)),
    ] {
        for size in [1, 8, usize::MAX] {
            let body = gzip(text);
            let mut tap = Tap::new(&[Coding::Gzip], never.clone()).unwrap();
            let mut out = BytesMut::new();
            let mut read = || {
                body.chunks(size).try_for_each(|piece| tap.push(piece, &mut out))?;
                tap.finish(&mut out)
            };
            assert_eq!(read(), expect, "{text} in {size}");
            assert_eq!(expect.is_ok(), out == body, "{text}: it goes on as it came, or not whole");
        }
    }
}
