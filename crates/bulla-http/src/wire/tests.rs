use super::*;

/// Feeds input in pieces of `size`; what goes on, and the fault.
fn feed(side: Side, asked: Asked, input: &[u8], size: usize) -> (String, Option<Fault>) {
    let mut filter = Filter::new(side, Limits::default());
    filter.ask(asked);
    let mut out = BytesMut::new();
    for piece in input.chunks(size.max(1)) {
        filter.push(piece, false, &mut out);
    }
    (String::from_utf8_lossy(&out).into_owned(), filter.fault())
}

/// The same output however the input is cut.
fn check(input: &str, expect: &str) {
    for size in [1, 2, 3, 7, 64, 1 << 20] {
        let (out, fault) = feed(Side::Requests, Asked::Nothing, input.as_bytes(), size);
        assert_eq!(fault, None, "{input:?} in pieces of {size}");
        if size == 1 << 20 {
            assert_eq!(out, expect, "{input:?}");
        }
    }
}

/// Refused, and nothing of the refused message goes on but the stand-in.
fn refused(input: &str, why: &str) {
    for size in [1, 2, 5, 64, 1 << 20] {
        let (out, fault) = feed(Side::Requests, Asked::Nothing, input.as_bytes(), size);
        let fault = fault.unwrap_or_else(|| panic!("{input:?} in pieces of {size} passes"));
        assert!(fault.why.contains(why), "{input:?}: `{}` is not about `{why}`", fault.why);
        assert!(!out.contains("smuggled"), "{input:?}: {out:?}");
    }
}

#[test]
fn what_is_plain_goes_on_in_canonical_form() {
    check("GET / HTTP/1.1\r\nHost: a\r\n\r\n", "GET / HTTP/1.1\r\nhost: a\r\n\r\n");
    check(
        "POST /x?y=1 HTTP/1.1\r\nHOST:a\r\nX-A: \t b c \t\r\nContent-Length: 3\r\n\r\nabc\
         GET /2 HTTP/1.1\r\nhost: a\r\n\r\n",
        "POST /x?y=1 HTTP/1.1\r\nhost: a\r\nx-a: b c\r\ncontent-length: 3\r\n\r\nabc\
         GET /2 HTTP/1.1\r\nhost: a\r\n\r\n",
    );
    check(
        "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: Chunked\r\n\r\n3\r\nabc\r\n0A\r\n0123456789\
         \r\n0\r\nX-Trailer: gone\r\n\r\nGET / HTTP/1.1\r\nhost: a\r\n\r\n",
        "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: Chunked\r\n\r\n3\r\nabc\r\na\r\n0123456789\
         \r\n0\r\n\r\nGET / HTTP/1.1\r\nhost: a\r\n\r\n",
    );
    check("GET / HTTP/1.0\r\nhost: a\r\n\r\n", "GET / HTTP/1.0\r\nhost: a\r\n\r\n");
    check(
        "GET / HTTP/1.1\r\nhost: a\r\nx: \u{e4}\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: a\r\nx: \u{e4}\r\n\r\n",
    );
}

#[test]
fn an_answer_may_name_what_a_request_may_not_and_a_change_of_protocol_has_no_body() {
    let answer = "HTTP/1.1 200 OK\r\nx_y: z\r\ncontent-length: 0\r\n\r\n";
    let (out, fault) = feed(Side::Responses, Asked::Other, answer.as_bytes(), 7);
    assert_eq!((fault, out.contains("x_y: z")), (None, true));
    for more in ["", "content-length: 4\r\n", "transfer-encoding: chunked\r\n"] {
        let answer = format!("HTTP/1.1 101 x\r\n{more}\r\n");
        let (_, fault) = feed(Side::Responses, Asked::Upgrade, answer.as_bytes(), 64);
        assert_eq!(fault.is_some(), !more.is_empty(), "{more}");
    }
}

#[test]
fn h1_framing_that_two_could_read_differently() {
    let te = |value: &str| {
        format!("POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding:{value}\r\n\r\n0\r\n\r\nsmuggled")
    };
    let cl = |lines: &str| format!("POST / HTTP/1.1\r\nhost: a\r\n{lines}\r\n\r\nsmuggled");
    for value in [
        "xchunked",
        " chunked, identity",
        " identity, chunked",
        " chunked, chunked",
        "",
        " chunked;q=1",
        " \"chunked\"",
        " chun\tked",
        " gzip, chunked",
        " identity",
        " chunked,",
        " cow",
        " chunked chunked",
        " x-chunked",
        ", chunked",
    ] {
        refused(&te(value), "transfer-encoding");
    }
    refused(&te(" chunked\r\ntransfer-encoding: chunked"), "stands twice");
    refused(&te(" chunked\r\ntransfer-encoding: identity"), "stands twice");
    refused(&te(" \x0bchunked"), "control character");
    refused(&te(" chunked\r\n : x"), "folded");
    refused("POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding : chunked\r\n\r\n", "name");
    refused("POST / HTTP/1.1\r\nhost: a\r\n transfer-encoding: chunked\r\n\r\n", "folded");
    refused("POST / HTTP/1.1\r\nhost: a\r\nx: y\r\n\ttransfer-encoding: chunked\r\n\r\n", "folded");
    refused("POST / HTTP/1.1\r\nhost: a\r\ntransfer_encoding: chunked\r\n\r\n", "name");
    refused("POST / HTTP/1.0\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n", "needs HTTP/1.1");
    refused(&cl("content-length: 3\r\ntransfer-encoding: chunked"), "exclude each other");
    refused(&cl("transfer-encoding: chunked\r\ncontent-length: 3"), "exclude each other");
    refused(&cl("content-length: 3\r\ntransfer-encoding: identity"), "exclude each other");
    for value in [
        "+3",
        "-1",
        "3, 3",
        "3,4",
        "0x3",
        "3 3",
        "",
        "1e1",
        "3;",
        "٣",
        "99999999999999999999",
        "3\t1",
    ] {
        refused(&cl(&format!("content-length: {value}")), "content-length");
    }
    refused(&cl("content-length: 3\r\ncontent-length: 3"), "stands twice");
    refused(&cl("content-length: 3\r\nContent-Length: 4"), "stands twice");
    refused(&cl("content-length : 3"), "name");
    refused(&cl("content-length\x00: 3"), "name");
}

#[test]
fn h1_lines_and_names_that_are_odd() {
    for (input, why) in [
        ("GET / HTTP/1.1\nhost: a\r\n\r\n", "CR LF"),
        ("GET / HTTP/1.1\r\nhost: a\n\r\n", "CR LF"),
        ("GET / HTTP/1.1\r\nhost: a\r\n\nsmuggled", "CR LF"),
        ("GET / HTTP/1.1\rhost: a\r\n\r\n", "CR LF"),
        ("GET / HTTP/1.1\r\nhost: a\rx: y\r\n\r\n", "CR LF"),
        ("GET / HTTP/1.1\r\nhost: a\r\nx: b\x00c\r\n\r\n", "control"),
        ("GET / HTTP/1.1\r\nhost: a\r\nx y: b\r\n\r\n", "name"),
        ("GET / HTTP/1.1\r\nhost: a\r\n: b\r\n\r\n", "name"),
        ("GET / HTTP/1.1\r\nhost: a\r\nnothing\r\n\r\n", "colon"),
        ("GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n", "twice"),
        ("GET / HTTP/1.1\r\n\r\n", "host"),
        ("GET / HTTP/1.1\r\nx: b\r\n\r\n", "host"),
        ("\r\nGET / HTTP/1.1\r\nhost: a\r\n\r\n", "empty line"),
        ("GET  / HTTP/1.1\r\nhost: a\r\n\r\n", "request line"),
        ("GET / HTTP/1.1 \r\nhost: a\r\n\r\n", "request line"),
        ("GET /\r\nhost: a\r\n\r\n", "request line"),
        ("GET / http/1.1\r\nhost: a\r\n\r\n", "spoken"),
        ("GET / HTTP/1.2\r\nhost: a\r\n\r\n", "spoken"),
        ("GET / HTTP/2.0\r\nhost: a\r\n\r\n", "spoken"),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "spoken"),
        ("get / HTTP/1.1\r\nhost: a\r\n\r\n", "capital"),
        ("BULLA-FAULT / HTTP/1.1\r\nhost: a\r\n\r\n", "capital"),
        ("CONNECT a:443 HTTP/1.1\r\nhost: a\r\n\r\n", "CONNECT"),
        ("GET http://a/ HTTP/1.1\r\nhost: a\r\n\r\n", "path"),
        ("OPTIONS * HTTP/1.1\r\nhost: a\r\n\r\n", "path"),
        ("GET a HTTP/1.1\r\nhost: a\r\n\r\n", "path"),
        ("GET /\u{e4} HTTP/1.1\r\nhost: a\r\n\r\n", "target"),
        (
            "GET / HTTP/1.1\r\nhost: a\r\nconnection: upgrade, http2-settings\r\nupgrade: h2c\r\n\
          http2-settings: AAMAAABk\r\n\r\n",
            "websocket",
        ),
        ("GET / HTTP/1.1\r\nhost: a\r\nupgrade: websocket\r\n\r\n", "websocket"),
        (
            "GET / HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: websocket, h2c\r\n\r\n",
            "websocket",
        ),
        (
            "POST / HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
          content-length: 3\r\n\r\nabc",
            "body",
        ),
    ] {
        refused(input, why);
    }
    refused(&format!("GET / HTTP/1.1\r\nhost: a\r\n{}\r\n", "a: b\r\n".repeat(101)), "many");
    refused(&format!("GET / HTTP/1.1\r\nhost: a\r\na: {}\r\n\r\n", "b".repeat(70_000)), "long");
}

#[test]
fn h2_chunks_that_two_could_read_differently() {
    let chunked = |body: &str| {
        format!("POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n{body}")
    };
    for body in [
        "0x3\r\nabc\r\n",
        "+3\r\nabc\r\n",
        "-3\r\nabc\r\n",
        "3_0\r\nabc\r\n",
        " 3\r\nabc\r\n",
        "3 \r\nabc\r\n",
        "\r\nabc\r\n",
        "g\r\nabc\r\n",
        "11111111111111111\r\nabc",
        "ffffffffffffffff\r\nabc",
        "3;a=b\r\nabc\r\n",
        "3;\r\nabc\r\n",
    ] {
        refused(&chunked(body), "size");
    }
    // An extension that ends where only some see its end (CVE-2025-22871 and its kin).
    refused(&chunked("3;a\nsmuggled\r\n"), "");
    for body in ["3\nabc\r\n", "3\rabc\r\n", "3\r\r\nabc"] {
        refused(&chunked(body), "CR LF");
    }
    for body in ["3\r\nabcd\r\n", "3\r\nabcXX3\r\n", "3\r\nabc\n3\r\n", "3\r\nabc0\r\n\r\nsmuggled"]
    {
        refused(&chunked(body), "longer");
    }
    refused(&chunked("0\r\nx y: z\r\n\r\n"), "name");
    refused(&chunked("0\r\ncontent-length: 5\r\n\r\n"), "trailer");
    refused(&chunked("0\r\nx: y\n\r\nsmuggled"), "CR LF");
    refused(&chunked(&format!("0\r\n{}", "x: y\r\n".repeat(2_000))), "trailers");
}

#[test]
fn a_fault_ends_the_connection_behind_what_was_good() {
    let input = "GET /1 HTTP/1.1\r\nhost: a\r\n\r\nGET /2 HTTP/1.1\nhost: a\r\n\r\n\
                 GET /smuggled HTTP/1.1\r\nhost: a\r\n\r\n";
    let (out, fault) = feed(Side::Requests, Asked::Nothing, input.as_bytes(), 1 << 20);
    assert!(fault.is_some());
    assert_eq!(out, "GET /1 HTTP/1.1\r\nhost: a\r\n\r\n");
}

#[test]
fn one_by_one_nothing_is_read_before_it_is_asked_for() {
    let post = |n: u8| format!("POST /{n} HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\nb{n}");
    let chunked =
        "POST /c HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n";
    let get = "GET /g HTTP/1.1\r\nhost: a\r\n\r\n";
    let bad = "GET /bad HTTP/1.1\nhost: a\r\n\r\n";
    let all = [post(1).as_str(), get, chunked, &post(2), bad].concat();
    for size in [1, 7, 1 << 20] {
        let mut filter = Filter::new(Side::Requests, Limits::default()).one_by_one();
        let mut out = BytesMut::new();
        all.as_bytes().chunks(size).for_each(|piece| filter.push(piece, false, &mut out));
        for expect in ["/1", "/g", "/c", "/2"] {
            let text = String::from_utf8(out.split().to_vec()).unwrap();
            assert_eq!(text.matches(" HTTP/1.1").count(), 1, "{text}");
            assert!(text.contains(expect) && filter.is_held(), "{expect}: {text}");
            assert_eq!(filter.fault(), None, "what is behind it was not looked at");
            filter.next(&mut out);
        }
        assert!(filter.fault().is_some() && out.is_empty());
    }
    // What passes by ends a message too.
    let mut filter = Filter::new(Side::Requests, Limits::default()).one_by_one();
    let mut out = BytesMut::new();
    filter.push(&post(1).as_bytes()[..post(1).len() - 2], false, &mut out);
    assert_eq!(filter.passes(), 2);
    filter.passed(2);
    assert!(filter.is_held());
    filter.push(get.as_bytes(), false, &mut out);
    assert_eq!((filter.unread(), filter.passes()), (get.len(), 0));
}

#[test]
fn an_upgrade_waits_for_its_answer() {
    let ask = "GET /ws HTTP/1.1\r\nhost: a\r\nconnection: Upgrade\r\nupgrade: WebSocket\r\n\r\n";
    for granted in [true, false] {
        let mut filter = Filter::new(Side::Requests, Limits::default());
        let mut out = BytesMut::new();
        filter.push(format!("{ask}\u{81}\u{1}").as_bytes(), false, &mut out);
        assert!(filter.is_paused() && out.ends_with(b"\r\n\r\n"));
        out.clear();
        filter.upgraded(granted);
        filter.push(b"", false, &mut out);
        assert_eq!(out.is_empty(), !granted, "bytes of the other protocol pass only when granted");
    }
}

#[test]
fn h15_responses_are_read_as_strictly() {
    let good = |asked, input: &str, expect: &str| {
        let (out, fault) = feed(Side::Responses, asked, input.as_bytes(), 1 << 20);
        assert_eq!((out.as_str(), fault), (expect, None), "{input:?}");
    };
    good(
        Asked::Other,
        "HTTP/1.1 200 OK\r\nA: b\r\nContent-Length: 2\r\n\r\nhi",
        "HTTP/1.1 200 \r\na: b\r\ncontent-length: 2\r\n\r\nhi",
    );
    good(
        Asked::Head,
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n",
        "HTTP/1.1 200 \r\ncontent-length: 2\r\n\r\n",
    );
    good(
        Asked::Other,
        "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204\r\n\r\n",
        "HTTP/1.1 204 \r\n\r\n",
    );
    good(
        Asked::Other,
        "HTTP/1.1 304 Not Modified\r\ncontent-length: 9\r\n\r\n",
        "HTTP/1.1 304 \r\ncontent-length: 9\r\n\r\n",
    );
    good(
        Asked::Other,
        "HTTP/1.0 200 OK\r\n\r\nuntil the end",
        "HTTP/1.1 200 \r\n\r\nuntil the end",
    );
    for (asked, input, why) in [
        (
            Asked::Other,
            "HTTP/1.1 200 OK\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n\r\n",
            "exclude",
        ),
        (
            Asked::Other,
            "HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 2\r\n\r\nhi",
            "twice",
        ),
        (Asked::Other, "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n", "chunked"),
        (
            Asked::Other,
            "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhiHTTP/1.1 200 OK\r\n\r\n",
            "nobody asked",
        ),
        (Asked::Other, "HTTP/1.1 204 No\r\n\r\nbody", "nobody asked"),
        (Asked::Other, "HTTP/1.1 204 No\r\ncontent-length: 4\r\n\r\nbody", "where none"),
        (Asked::Head, "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi", "nobody asked"),
        (Asked::Other, "HTTP/1.1 101 Switching\r\nupgrade: h2c\r\n\r\n", "change of protocol"),
        (Asked::Other, "<html>\r\n\r\n", "status line"),
        (Asked::Other, "HTTP/1.1 2000 OK\r\n\r\n", "status line"),
        (Asked::Other, "HTTP/1.1 200 OK\nx: y\r\n\r\n", "CR LF"),
        (Asked::Other, "HTTP/1.1 200 OK\r\nx: y\r\n folded\r\n\r\n", "folded"),
        (Asked::Nothing, "HTTP/1.1 200 OK\r\n\r\n", "nobody asked"),
    ] {
        let (_, fault) = feed(Side::Responses, asked, input.as_bytes(), 1 << 20);
        let fault = fault.unwrap_or_else(|| panic!("{input:?} passes"));
        assert!(fault.why.contains(why), "{input:?}: {}", fault.why);
    }
}

#[test]
fn only_a_body_with_a_length_goes_on_unread() {
    let mut filter = Filter::new(Side::Requests, Limits::default());
    let mut out = BytesMut::new();
    let head = b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\n";
    assert_eq!(filter.passes(), 0);
    filter.push(head, false, &mut out);
    assert_eq!(filter.passes(), 5);
    filter.passed(3);
    assert_eq!(filter.passes(), 2);
    filter.passed(2);
    // What comes behind it is read again.
    assert_eq!((filter.passes(), filter.is_idle()), (0, true));
    out.clear();
    filter.push(b"GET /smuggled HTTP/1.1\n\n", false, &mut out);
    assert!(filter.fault().is_some());
    for head in [
        "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: a\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n",
    ] {
        let mut filter = Filter::new(Side::Requests, Limits::default());
        filter.push(head.as_bytes(), false, &mut out);
        assert_eq!(filter.passes(), 0, "{head}");
    }
}

#[test]
fn answers_before_the_answer_have_an_end() {
    let one = "HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n";
    let ok = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
    let most = Limits::default().head_bytes_max / one.len();
    for (count, passes) in [(0, true), (1, true), (most, true), (most + 1, false)] {
        for size in [7, 1 << 20] {
            let all = one.repeat(count) + ok;
            let (out, fault) = feed(Side::Responses, Asked::Other, all.as_bytes(), size);
            assert_eq!(fault.is_none(), passes, "{count}");
            assert_eq!(!out.is_empty(), passes, "{count}");
        }
    }
    // Each answer has its own.
    let mut filter = Filter::new(Side::Responses, Limits::default());
    let mut out = BytesMut::new();
    for _ in 0..3 {
        filter.ask(Asked::Other);
        filter.push((one.repeat(most) + ok).as_bytes(), false, &mut out);
        assert_eq!(filter.fault(), None);
    }
}

proptest::proptest! {
    /// Arbitrary bytes never panic, and how they are cut changes neither verdict nor meaning.
    #[test]
    fn cutting_changes_nothing(input: Vec<u8>, head in 0usize..4, size in 1usize..40) {
        let heads = ["", "GET / HTTP/1.1\r\nhost: a\r\n\r\n",
            "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n",
            "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\n"];
        let all = [heads[head].as_bytes(), &input].concat();
        let (_, whole) = feed(Side::Requests, Asked::Nothing, &all, 1 << 20);
        let (_, cut) = feed(Side::Requests, Asked::Nothing, &all, size);
        // The words may differ, since a fault is told as soon as it is seen.
        proptest::prop_assert_eq!(whole.is_some(), cut.is_some());
    }
}
