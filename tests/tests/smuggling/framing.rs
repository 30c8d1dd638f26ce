//! Where a message ends (RFC 9112 6 and 7).

use super::case::{Case, Expect, TAIL, bytes, goes, head, refused};

/// Spellings of `transfer-encoding` that one server takes for `chunked` and another does not.
const CODINGS: &[&str] = &[
    "transfer-encoding: xchunked",
    "transfer-encoding : chunked",
    "transfer-encoding\t: chunked",
    "transfer-encoding\u{b}: chunked",
    "transfer-encoding\0: chunked",
    "transfer-encoding\u{a0}: chunked",
    "\0transfer-encoding: chunked",
    " transfer-encoding: chunked",
    "\ttransfer-encoding: chunked",
    "\u{b}transfer-encoding: chunked",
    "transfer-encoding:\u{b}chunked",
    "transfer-encoding:\u{c}chunked",
    "transfer-encoding:\0chunked",
    "transfer-encoding: chunked\0",
    "transfer-encoding: chunked\u{b}",
    "transfer-encoding: chunked\u{c}",
    "transfer-encoding: chunked\u{1f}",
    "transfer-encoding: chunked\u{7f}",
    "transfer-encoding: chunked\u{a0}",
    "transfer-encoding:\u{a0}chunked",
    "transfer-encoding: \u{c2}\u{a0}chunked",
    "transfer-encoding: \u{e3}\u{80}\u{80}chunked",
    "transfer-encoding: chun\u{e2}\u{84}\u{aa}ed",
    "transfer-encoding: \u{ef}\u{bb}\u{bf}chunked",
    "transfer-encoding: chunked, identity",
    "transfer-encoding: identity, chunked",
    "transfer-encoding: chunked, chunked",
    "transfer-encoding: chunked,chunked",
    "transfer-encoding: gzip, chunked",
    "transfer-encoding: chunked, gzip",
    "transfer-encoding: chunked,",
    "transfer-encoding: ,chunked",
    "transfer-encoding: , chunked",
    "transfer-encoding: chunked;",
    "transfer-encoding: chunked ;x",
    "transfer-encoding: chunked;q=0",
    "transfer-encoding: \"chunked\"",
    "transfer-encoding: 'chunked'",
    "transfer-encoding: chunked-",
    "transfer-encoding: -chunked",
    "transfer-encoding: x chunked",
    "transfer-encoding: chunked x",
    "transfer-encoding: chun ked",
    "transfer-encoding: chunk",
    "transfer-encoding: chunkedd",
    "transfer-encoding: 1",
    "transfer-encoding:",
    "transfer-encoding: identity",
    "transfer-encoding: gzip",
    "transfer-encoding: trailers",
    "transfer-encoding: chunked\r\ntransfer-encoding: chunked",
    "transfer-encoding: chunked\r\ntransfer-encoding: identity",
    "transfer-encoding: identity\r\ntransfer-encoding: chunked",
    "transfer-encoding: chunked\r\nTransfer-Encoding: x",
    "transfer-encoding:\r\n chunked",
    "transfer-encoding:\r\n\tchunked",
    "transfer-encoding: chunked\r\n\tx",
    "transfer-encoding: x\r\n chunked",
    "transfer-encoding:\n chunked",
    "transfer-encoding:\nchunked",
    "transfer-encoding:\rchunked",
    "transfer-encoding: chunked\r",
    "x: y\ntransfer-encoding: chunked",
    "x: y\rtransfer-encoding: chunked",
    "x: y\r\r\ntransfer-encoding: chunked",
    "x: y\n\rtransfer-encoding: chunked",
    "x\ntransfer-encoding: chunked",
    "x:\r\n transfer-encoding: chunked",
    "transfer_encoding: chunked",
    "transfer\0encoding: chunked",
    "transfer encoding: chunked",
    "transfer-encoding; chunked",
    "transfer-encoding = chunked",
    "transfer-encoding chunked",
    "transfer-encoding:: chunked",
    "tran\u{c5}\u{bf}fer-encoding: chunked",
    "\"transfer-encoding\": chunked",
    "(transfer-encoding): chunked",
    "transfer-encoding[]: chunked",
];

/// Spellings of a content length of 5.
const LENGTHS: &[&str] = &[
    "",
    " ",
    "+5",
    "-5",
    "5,5",
    "5, 5",
    "5,",
    ",5",
    "5 5",
    "5;",
    "5;q=1",
    "0x5",
    "0X5",
    "0o5",
    "0b101",
    "5h",
    "5.0",
    "5.",
    "5e0",
    "5_0",
    "1_0",
    "\"5\"",
    "'5'",
    "(5)",
    "five",
    "NaN",
    "5\0",
    "\u{0}5",
    "\u{b}5",
    "5\u{b}",
    "5\u{c}",
    "5\u{7f}",
    "5\u{a0}",
    "\u{a0}5",
    "\u{d9}\u{a5}",
    "\u{ef}\u{bc}\u{95}",
    "18446744073709551621",
    "18446744073709551615",
    "9999999999999999999",
    "00000000000000000000000000000005",
    "-18446744073709551611",
    "5\r\n 5",
    "5\r\n\t",
    "\r\n 5",
    "5\r\ncontent-length: 5",
    "5\r\ncontent-length: 6",
    "0\r\ncontent-length: 5",
    "5\r\nContent-Length : 0",
    "5\r\ntransfer-encoding: chunked",
    "5\r\ntransfer-encoding: identity",
    "5\r\ntransfer-encoding:",
    "5\r\nTransfer-Encoding:\tchunked",
    "5\nx: y",
    "5\rx: y",
    "5\n",
    "5\r",
];

/// Names by which a length is hidden from one and shown to another.
const LENGTH_NAMES: &[&str] = &[
    "content-length : 5",
    "content-length\t: 5",
    " content-length: 5",
    "content-length\0: 5",
    "content_length: 5",
    "content length: 5",
    "content-length 5",
    "content-length\u{a0}: 5",
    "content-length;: 5",
    "x\r\n content-length: 5",
    "x: y\ncontent-length: 5",
    "x: y\rcontent-length: 5",
    ": 5",
];

/// Bodies in chunks that two servers end in different places, or that have no end.
const CHUNKS: &[&str] = &[
    "\r\nhello\r\n0\r\n\r\n",
    " 5\r\nhello\r\n0\r\n\r\n",
    "5 \r\nhello\r\n0\r\n\r\n",
    "5\t\r\nhello\r\n0\r\n\r\n",
    "\t5\r\nhello\r\n0\r\n\r\n",
    "0x5\r\nhello\r\n0\r\n\r\n",
    "0X5\r\nhello\r\n0\r\n\r\n",
    "x5\r\nhello\r\n0\r\n\r\n",
    "5h\r\nhello\r\n0\r\n\r\n",
    "+5\r\nhello\r\n0\r\n\r\n",
    "-5\r\nhello\r\n0\r\n\r\n",
    "--5\r\nhello\r\n0\r\n\r\n",
    "5_\r\nhello\r\n0\r\n\r\n",
    "_5\r\nhello\r\n0\r\n\r\n",
    "0_5\r\nhello\r\n0\r\n\r\n",
    "5.0\r\nhello\r\n0\r\n\r\n",
    "5,0\r\nhello\r\n0\r\n\r\n",
    "5\0\r\nhello\r\n0\r\n\r\n",
    "\u{0}5\r\nhello\r\n0\r\n\r\n",
    "5\u{b}\r\nhello\r\n0\r\n\r\n",
    "5\u{c}\r\nhello\r\n0\r\n\r\n",
    "5\u{a0}\r\nhello\r\n0\r\n\r\n",
    "\u{ef}\u{bc}\u{95}\r\nhello\r\n0\r\n\r\n",
    "\"5\"\r\nhello\r\n0\r\n\r\n",
    "5;\r\nhello\r\n0\r\n\r\n",
    "5;x\r\nhello\r\n0\r\n\r\n",
    "5;x=y\r\nhello\r\n0\r\n\r\n",
    "5; x=\"y\"\r\nhello\r\n0\r\n\r\n",
    "5 ;x=y\r\nhello\r\n0\r\n\r\n",
    "5;x=\"\r\nhello\r\n0\r\n\r\n",
    "5;x=\"\n\"\r\nhello\r\n0\r\n\r\n",
    "5;x\nhello\r\n0\r\n\r\n",
    "5;\nhello\r\n0\r\n\r\n",
    "5;x\rhello\r\n0\r\n\r\n",
    "5;\0\r\nhello\r\n0\r\n\r\n",
    "5\nhello\r\n0\r\n\r\n",
    "5\rhello\r\n0\r\n\r\n",
    "5\r\r\nhello\r\n0\r\n\r\n",
    "5\n\nhello\r\n0\r\n\r\n",
    "5\n\rhello\r\n0\r\n\r\n",
    "\n5\r\nhello\r\n0\r\n\r\n",
    "10000000000000005\r\nhello\r\n0\r\n\r\n",
    "fffffffffffffffff\r\nhello\r\n0\r\n\r\n",
    "ffffffffffffffff\r\nhello\r\n0\r\n\r\n",
    "8000000000000005\r\nhello\r\n0\r\n\r\n",
    "00000000000000005\r\nhello\r\n0\r\n\r\n",
    "g\r\nhello\r\n0\r\n\r\n",
    "5\r\nhello\n0\r\n\r\n",
    "5\r\nhello\r0\r\n\r\n",
    "5\r\nhello\r\r\n0\r\n\r\n",
    "5\r\nhello\n\r0\r\n\r\n",
    "5\r\nhello0\r\n\r\n",
    "5\r\nhelloXX0\r\n\r\n",
    "5\r\nhelloXX\r\n0\r\n\r\n",
    "5\r\nhello \r\n0\r\n\r\n",
    "4\r\nhello\r\n0\r\n\r\n",
    "5\r\nhello\r\n0\n\n",
    "5\r\nhello\r\n0\r\n\n",
    "5\r\nhello\r\n0\n\r\n",
    "5\r\nhello\r\n0\r\r\n",
    "5\r\nhello\r\n0\r\n\rX",
    "5\r\nhello\r\n0 \r\n\r\n",
    "5\r\nhello\r\n0;\r\n\r\n",
    "5\r\nhello\r\n0;x\r\n\r\n",
    "5\r\nhello\r\n0x0\r\n\r\n",
    "5\r\nhello\r\n-0\r\n\r\n",
    "5\r\nhello\r\n+0\r\n\r\n",
    "5\r\nhello\r\n0,0\r\n\r\n",
    "5\r\nhello\r\n00000000000000000\r\n\r\n",
    "5\r\nhello\r\n\r\n",
    "5\r\nhello\r\n0\r\nx\r\n\r\n",
    "5\r\nhello\r\n0\r\n: x\r\n\r\n",
    "5\r\nhello\r\n0\r\n x: y\r\n\r\n",
    "5\r\nhello\r\n0\r\nx : y\r\n\r\n",
    "5\r\nhello\r\n0\r\nx: y\r\n z\r\n\r\n",
    "5\r\nhello\r\n0\r\nx: y\n\r\n",
    "5\r\nhello\r\n0\r\nx: y\rz: 1\r\n\r\n",
    "5\r\nhello\r\n0\r\nx: \0\r\n\r\n",
    "5\r\nhello\r\n0\r\nx_y: z\r\n\r\n",
    "5\r\nhello\r\n0\r\ncontent-length: 5\r\n\r\n",
    "5\r\nhello\r\n0\r\nContent-Length: 0\r\n\r\n",
    "5\r\nhello\r\n0\r\ntransfer-encoding: chunked\r\n\r\n",
    "5\r\nhello\r\n0\r\nhost: other\r\n\r\n",
];

/// The same that are good, as the target reads them.
const GOOD_CHUNKS: &[(&str, &str)] = &[
    ("5\r\nhello\r\n0\r\n\r\n", "hello"),
    ("5\r\nhello\r\n000\r\n\r\n", "hello"),
    ("0000000000000005\r\nhello\r\n0\r\n\r\n", "hello"),
    ("A\r\n0123456789\r\n0\r\n\r\n", "0123456789"),
    ("a\r\n0123456789\r\n0\r\n\r\n", "0123456789"),
    ("1\r\nh\r\n4\r\nello\r\n0\r\n\r\n", "hello"),
    ("0\r\n\r\n", ""),
    // What looks like an end, and another request, is data.
    (
        "5\r\n0\r\n\r\n\r\n2e\r\nGET /inner HTTP/1.1\r\nhost: localhost\r\nx: y\r\n\r\n\r\n0\r\n\r\n",
        "0\r\n\r\nGET /inner HTTP/1.1\r\nhost: localhost\r\nx: y\r\n\r\n",
    ),
    ("5\r\nhello\r\n0\r\nx-smuggled: y\r\n\r\n", "hello"),
    ("5\r\nhello\r\n0\r\nauthorization: Bearer smuggled\r\n\r\n", "hello"),
    ("5\r\nhello\r\n0\r\nx-forwarded-for: smuggled\r\nconnection: smuggled\r\n\r\n", "hello"),
];

pub fn all() -> Vec<Case> {
    let mut all = Vec::new();
    let post = "POST /a HTTP/1.1";
    let ended = "0\r\n\r\n";
    for line in CODINGS {
        all.push(refused("TE", line, &(head(post, line) + ended)));
        let both = format!("content-length: 5\r\n{line}");
        all.push(refused("CL.TE", line, &(head(post, &both) + ended)));
        let both = format!("{line}\r\ncontent-length: 5");
        all.push(refused("TE.CL", line, &(head(post, &both) + ended)));
    }
    for value in LENGTHS {
        all.push(refused(
            "CL",
            value,
            &(head(post, &format!("content-length: {value}")) + "hello"),
        ));
        let get = head("GET /a HTTP/1.1", &format!("content-length: {value}"));
        all.push(refused("0.CL", value, &(get + "hello")));
    }
    for line in LENGTH_NAMES {
        all.push(refused("CL name", line, &(head(post, line) + "hello")));
    }
    let chunked = "transfer-encoding: chunked";
    for body in CHUNKS {
        all.push(refused("chunks", body, &(head(post, chunked) + body)));
    }
    for method in ["POST", "PUT", "PATCH", "DELETE", "OPTIONS"] {
        let line = format!("{method} /a HTTP/1.1");
        for (body, read) in GOOD_CHUNKS {
            let text = head(&line, &format!("{chunked}\r\nconnection: close")) + body;
            all.push(goes("good chunks", &text, method, "/a", read));
        }
        for body in ["", "hello", "GET /inner HTTP/1.1\r\nhost: localhost\r\n\r\n", "0\r\n\r\n"] {
            let more = format!("content-length: {}\r\nconnection: close", body.len());
            all.push(goes("good lengths", &(head(&line, &more) + body), method, "/a", body));
        }
    }
    all.extend(bodies_of_get());
    all.extend(behind_another());
    all.extend(cut());
    all
}

fn bodies_of_get() -> Vec<Case> {
    let mut all = Vec::new();
    for method in ["GET", "HEAD"] {
        let line = format!("{method} /a HTTP/1.1");
        for more in ["content-length: 5", "transfer-encoding: chunked"] {
            let body = if more.starts_with('c') { "hello" } else { "5\r\nhello\r\n0\r\n\r\n" };
            all.push(refused(
                "body of GET",
                &format!("{method} {more}"),
                &(head(&line, more) + body),
            ));
        }
        let empty = head(&line, "transfer-encoding: chunked") + "0\r\n\r\n";
        all.push(refused("body of GET", &format!("{method}, chunked and empty"), &empty));
        let expect = head(&line, "expect: 100-continue\r\ncontent-length: 5") + "hello";
        all.push(refused("body of GET", &format!("{method} with expect"), &expect));
    }
    all
}

/// Several on one connection.
fn behind_another() -> Vec<Case> {
    let get = |target: &str, more: &str| head(&format!("GET {target} HTTP/1.1"), more);
    let seen = |all: &[(&'static str, &str, &str)]| {
        all.iter().map(|(m, t, b)| (*m, (*t).to_owned(), bytes(b))).collect::<Vec<_>>()
    };
    let row = |name: &str, text: String, expect: Expect| Case {
        family: "pipeline",
        name: name.to_owned(),
        bytes: bytes(&text),
        expect,
    };
    let last = get("/last", "connection: close");
    let mut all = vec![
        row(
            "three",
            get("/one", "") + &get("/two", "") + &last,
            Expect::Goes(seen(&[("GET", "/one", ""), ("GET", "/two", ""), ("GET", "/last", "")])),
        ),
        row(
            "nothing said of a body, which is the next request",
            head("POST /one HTTP/1.1", "") + &last,
            Expect::Goes(seen(&[("POST", "/one", ""), ("GET", "/last", "")])),
        ),
        row(
            "a length of nothing",
            head("POST /one HTTP/1.1", "content-length: 0") + &last,
            Expect::Goes(seen(&[("POST", "/one", ""), ("GET", "/last", "")])),
        ),
        row(
            "behind chunks",
            head("POST /one HTTP/1.1", "transfer-encoding: chunked")
                + "2\r\nhi\r\n0\r\n\r\n"
                + &last,
            Expect::Goes(seen(&[("POST", "/one", "hi"), ("GET", "/last", "")])),
        ),
        row(
            "behind a body that looks like a request",
            head("POST /one HTTP/1.1", "content-length: 25")
                + "GET /inner HTTP/1.1\r\na:\r\n"
                + &last,
            Expect::Goes(seen(&[
                ("POST", "/one", "GET /inner HTTP/1.1\r\na:\r\n"),
                ("GET", "/last", ""),
            ])),
        ),
        row(
            "nothing behind a close",
            get("/one", "connection: close") + TAIL,
            Expect::Goes(seen(&[("GET", "/one", "")])),
        ),
        row(
            "nothing behind HTTP/1.0",
            head("GET /one HTTP/1.0", "") + TAIL,
            Expect::Goes(seen(&[("GET", "/one", "")])),
        ),
    ];
    for (name, bad) in [
        ("bare LF", "GET /smuggled HTTP/1.1\nhost: localhost\n\n".to_owned()),
        ("an empty line", format!("\r\n{TAIL}")),
        ("a byte more", format!("X{TAIL}")),
        ("a body of GET", get("/smuggled", "content-length: 1")),
        ("two lengths", get("/smuggled", "content-length: 0\r\ncontent-length: 0")),
        ("HTTP/0.9", "GET /smuggled\r\n\r\n".to_owned()),
        ("the preface of HTTP/2", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned()),
        ("TLS", "\u{16}\u{3}\u{1}\0\u{5}hello\r\n\r\n".to_owned()),
        ("a stand-in", head("BULLA-FAULT / HTTP/1.1", "")),
    ] {
        let first = head("POST /one HTTP/1.1", "content-length: 2") + "hi";
        let expect = Expect::GoesThenRefused(seen(&[("POST", "/one", "hi")]));
        all.push(row(name, first + &bad + TAIL, expect));
    }
    all
}

/// Who goes away in the middle has sent nothing.
fn cut() -> Vec<Case> {
    let post = "POST /a HTTP/1.1";
    let large = head(post, "content-length: 100000") + &"x".repeat(99_999);
    let rows = [
        ("in the request line", "GET /smugg".to_owned()),
        ("in a head", "GET /smuggled HTTP/1.1\r\nhost: localhost\r\nAUTH\r\n".to_owned()),
        (
            "before the last LF",
            "GET /smuggled HTTP/1.1\r\nhost: localhost\r\nAUTH\r\n\r".to_owned(),
        ),
        ("before a body", head(post, "content-length: 5")),
        ("in a body", head(post, "content-length: 5") + "hell"),
        ("in a body that streams", large),
        ("in a size", head(post, "transfer-encoding: chunked") + "5"),
        ("in a chunk", head(post, "transfer-encoding: chunked") + "5\r\nhel"),
        ("behind a chunk", head(post, "transfer-encoding: chunked") + "5\r\nhello"),
        ("before the last chunk", head(post, "transfer-encoding: chunked") + "5\r\nhello\r\n"),
        ("in the last chunk", head(post, "transfer-encoding: chunked") + "5\r\nhello\r\n0\r\n"),
        ("in a trailer", head(post, "transfer-encoding: chunked") + "5\r\nhello\r\n0\r\nx: y\r\n"),
        ("in a huge chunk", head(post, "transfer-encoding: chunked") + "7fffffffffffffff\r\nhello"),
    ];
    let row = |(name, text): (&str, String)| Case {
        family: "cut short",
        name: name.to_owned(),
        bytes: bytes(&text),
        expect: Expect::Cut,
    };
    rows.into_iter().map(row).collect()
}
