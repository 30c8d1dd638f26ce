//! HTTP/2 as RFC 9113 and RFC 7541 have it, case by case with raw frames: what h2spec asks, and
//! what floods and bombs do.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::time::Duration;

use bulla_e2e::frames::{
    ACK, CONTINUATION, DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, PADDED, PING, PRIORITY,
    PUSH_PROMISE, RST_STREAM, SETTINGS, WINDOW_UPDATE, field, fields, frame,
};
use bulla_e2e::http::{ApiSpec, Raw, Recorder, World};

const EVERYTHING: &str = r#"
@id("everything")
permit (principal, action, resource);
"#;

const SOON: Duration = Duration::from_secs(10);

const PROTOCOL: u32 = 1;
const FLOW_CONTROL: u32 = 3;
const STREAM_CLOSED: u32 = 5;
const FRAME_SIZE: u32 = 6;
const REFUSED: u32 = 7;
const COMPRESSION: u32 = 9;
const CALM: u32 = 11;

fn request(method: &str) -> Vec<u8> {
    let base = [(":method", method), (":scheme", "https"), (":path", "/x")];
    fields(&[&base[..], &[(":authority", "localhost")]].concat())
}

fn get(stream: u32) -> Vec<u8> {
    frame(HEADERS, END_HEADERS | END_STREAM, stream, &request("GET"))
}

/// A request whose body is still to come.
fn post(stream: u32) -> Vec<u8> {
    frame(HEADERS, END_HEADERS, stream, &request("POST"))
}

fn with(more: &[(&str, &str)]) -> Vec<u8> {
    let block = [request("GET"), fields(more)].concat();
    frame(HEADERS, END_HEADERS | END_STREAM, 1, &block)
}

/// A whole request with just these fields.
fn only(all: &[(&str, &str)]) -> Vec<u8> {
    frame(HEADERS, END_HEADERS | END_STREAM, 1, &fields(all))
}

fn setting(id: u16, value: u32) -> Vec<u8> {
    frame(SETTINGS, 0, 0, &[&id.to_be_bytes()[..], &value.to_be_bytes()].concat())
}

fn window(stream: u32, more: u32) -> Vec<u8> {
    frame(WINDOW_UPDATE, 0, stream, &more.to_be_bytes())
}

fn ping() -> Vec<u8> {
    frame(PING, 0, 0, b"are you?")
}

/// What the other side has to do.
#[derive(Debug, Clone)]
enum Expect {
    /// End the connection, with one of these codes if it says why.
    Connection(Vec<u32>),
    /// End the stream, or the connection, with one of these codes.
    Stream(Vec<u32>),
    /// As [`Self::Stream`], or answer 4xx: the request is malformed (RFC 9113 8.1.1).
    Malformed,
    /// Answer.
    Answer,
    /// Go on as if nothing had been.
    Alive,
}

fn open(world: &World) -> Raw {
    let mut raw = world.raw(&["h2"]).unwrap();
    raw.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").unwrap();
    raw.send(frame(SETTINGS, 0, 0, &[])).unwrap();
    let (kind, flags, stream, _) = raw.frame(SOON).unwrap();
    assert_eq!((kind, flags & ACK, stream), (SETTINGS, 0, 0), "its settings come first");
    raw.send(frame(SETTINGS, ACK, 0, &[])).unwrap();
    raw
}

fn code(payload: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(payload[at..at + 4].try_into().unwrap())
}

/// The status of an answer out of its first field, as the gateway's library writes it.
fn is_refusal(block: &[u8]) -> bool {
    // Indexed 400 and 404 (RFC 7541 A), or a literal of `:status`, in Huffman's code or plain.
    match block {
        [0x8c | 0x8d, ..] => true,
        [first, length, rest @ ..] if [0x08, 0x48, 0x18].contains(first) => {
            let text = &rest[..usize::from(length & 0x7f)];
            // `4` is the symbol 011010 of six bits.
            text.first() == Some(&b'4') || (length & 0x80 != 0 && text[0] >> 2 == 0b01_1010)
        }
        _ => false,
    }
}

fn check(world: &World, section: &str, sent: &[Vec<u8>], expect: &Expect) -> Result<(), String> {
    let mut raw = open(world);
    for piece in sent {
        if raw.send(piece).is_err() {
            break;
        }
    }
    let probe = matches!(expect, Expect::Alive);
    if probe {
        let _ = raw.send(ping());
    }
    let mut seen = Vec::new();
    let good = loop {
        let Some((kind, flags, stream, payload)) = raw.frame(SOON) else {
            seen.push("end".to_owned());
            // To close without a word is a connection error too, but no answer and no life.
            break matches!(expect, Expect::Connection(_) | Expect::Stream(_) | Expect::Malformed);
        };
        seen.push(format!("{kind}/{flags} on {stream}: {payload:02x?}"));
        match (kind, expect) {
            (GOAWAY, Expect::Connection(codes) | Expect::Stream(codes)) => {
                break codes.contains(&code(&payload, 4));
            }
            (GOAWAY, Expect::Malformed) => break code(&payload, 4) == PROTOCOL,
            (GOAWAY, _) => break false,
            (RST_STREAM, Expect::Stream(codes)) => break codes.contains(&code(&payload, 0)),
            (RST_STREAM, Expect::Malformed) => break code(&payload, 0) == PROTOCOL,
            (RST_STREAM, Expect::Answer) => break false,
            (HEADERS, Expect::Answer) => break true,
            (HEADERS, Expect::Malformed) if !is_refusal(&payload) => break false,
            (HEADERS, Expect::Malformed) => break true,
            (PING, Expect::Alive) if flags & ACK != 0 => break payload == b"are you?",
            _ => {}
        }
    };
    if good { Ok(()) } else { Err(format!("{section}: wants {expect:?}, saw {seen:#?}")) }
}

/// RFC 9113 and RFC 7541, in the order of h2spec.
#[allow(clippy::too_many_lines)]
fn cases() -> Vec<(&'static str, Vec<Vec<u8>>, Expect)> {
    let connection = |codes: &[u32]| Expect::Connection(codes.to_vec());
    let stream = |codes: &[u32]| Expect::Stream(codes.to_vec());
    let malformed = || Expect::Malformed;
    // The library says `PROTOCOL_ERROR` of every frame that it cannot read (h2, `framed_read.rs`).
    let unread = |code: u32| Expect::Connection(vec![code, PROTOCOL]);
    let block = |bytes: &[u8]| {
        let block = [request("GET"), bytes.to_vec()].concat();
        vec![frame(HEADERS, END_HEADERS | END_STREAM, 1, &block)]
    };
    let pseudo = |name: &str, value: &str| {
        let all = [(":method", "GET"), (":scheme", "https"), (":path", "/x"), (name, value)];
        only(&[&all[..], &[(":authority", "localhost")]].concat())
    };
    let without = |name: &str| {
        let all = [
            (":method", "GET"),
            (":scheme", "https"),
            (":path", "/x"),
            (":authority", "localhost"),
        ];
        let left: Vec<_> = all.into_iter().filter(|(own, _)| *own != name).collect();
        only(&left)
    };
    let open_block = frame(HEADERS, END_STREAM, 1, &request("GET"));
    let large = vec![0; (16 << 10) + 1];
    vec![
        ("control", vec![get(1)], Expect::Answer),
        ("control: a body", vec![post(1), frame(DATA, END_STREAM, 1, b"x")], Expect::Answer),
        ("4.1 unknown type", vec![frame(0x16, 0, 0, b"12345678")], Expect::Alive),
        ("4.1 undefined flags", vec![frame(PING, 0x16, 0, b"are you?")], Expect::Alive),
        ("4.1 reserved bit", vec![frame(PING, 0, 1 << 31, b"are you?")], Expect::Alive),
        (
            "4.2 large DATA",
            vec![post(1), frame(DATA, END_STREAM, 1, &large)],
            stream(&[FRAME_SIZE, PROTOCOL]),
        ),
        ("4.2 large HEADERS", vec![frame(HEADERS, 5, 1, &large)], unread(FRAME_SIZE)),
        ("4.3 bad block", vec![frame(HEADERS, 5, 1, &[0x00, 0x05, b'a'])], unread(COMPRESSION)),
        (
            "4.3 PRIORITY within a block",
            vec![open_block.clone(), frame(PRIORITY, 0, 1, &[0, 0, 0, 0, 9])],
            connection(&[PROTOCOL]),
        ),
        ("4.3 HEADERS within a block", vec![open_block.clone(), get(3)], connection(&[PROTOCOL])),
        (
            "5.1 idle: DATA",
            vec![frame(DATA, END_STREAM, 1, b"x")],
            connection(&[PROTOCOL, STREAM_CLOSED]),
        ),
        (
            "5.1 idle: RST_STREAM",
            vec![frame(RST_STREAM, 0, 1, &[0, 0, 0, 8])],
            connection(&[PROTOCOL]),
        ),
        ("5.1 idle: WINDOW_UPDATE", vec![window(1, 100)], connection(&[PROTOCOL])),
        (
            "5.1 idle: CONTINUATION",
            vec![frame(CONTINUATION, 4, 1, &request("GET"))],
            connection(&[PROTOCOL]),
        ),
        (
            "5.1 half closed: DATA",
            vec![get(1), frame(DATA, END_STREAM, 1, b"x")],
            stream(&[STREAM_CLOSED, PROTOCOL]),
        ),
        ("5.1 half closed: HEADERS", vec![get(1), get(1)], stream(&[STREAM_CLOSED, PROTOCOL])),
        (
            "5.1 half closed: CONTINUATION",
            vec![get(1), frame(CONTINUATION, 4, 1, &request("GET"))],
            stream(&[STREAM_CLOSED, PROTOCOL]),
        ),
        (
            "5.1 closed: CONTINUATION",
            vec![
                get(1),
                frame(RST_STREAM, 0, 1, &[0, 0, 0, 8]),
                frame(CONTINUATION, 4, 1, &request("GET")),
            ],
            connection(&[STREAM_CLOSED, PROTOCOL]),
        ),
        ("5.1.1 even stream", vec![get(2)], connection(&[PROTOCOL])),
        ("5.1.1 smaller stream", vec![get(5), get(3)], connection(&[PROTOCOL, STREAM_CLOSED])),
        (
            "5.1.2 too many streams",
            (0..200).map(|at| post(at * 2 + 1)).collect(),
            stream(&[PROTOCOL, REFUSED]),
        ),
        ("5.4.1 bad PING", vec![frame(PING, 0, 0, b"short")], unread(FRAME_SIZE)),
        (
            "5.5 unknown frame within a block",
            vec![open_block.clone(), frame(0x16, 0, 0, b"x")],
            connection(&[PROTOCOL]),
        ),
        ("6.1 DATA on 0", vec![frame(DATA, 0, 0, b"x")], connection(&[PROTOCOL])),
        (
            "6.1 DATA, too much padding",
            vec![post(1), frame(DATA, PADDED | END_STREAM, 1, &[9, 1, 2])],
            connection(&[PROTOCOL]),
        ),
        ("6.2 HEADERS on 0", vec![frame(HEADERS, 5, 0, &request("GET"))], connection(&[PROTOCOL])),
        (
            "6.2 HEADERS, too much padding",
            vec![frame(HEADERS, 5 | PADDED, 1, &[200, 0x82])],
            connection(&[PROTOCOL]),
        ),
        (
            "6.3 PRIORITY on 0",
            vec![frame(PRIORITY, 0, 0, &[0, 0, 0, 0, 9])],
            connection(&[PROTOCOL]),
        ),
        (
            "6.3 PRIORITY of another length",
            vec![post(1), frame(PRIORITY, 0, 1, &[0, 0, 0, 9])],
            stream(&[FRAME_SIZE, PROTOCOL]),
        ),
        (
            "6.4 RST_STREAM on 0",
            vec![frame(RST_STREAM, 0, 0, &[0, 0, 0, 8])],
            connection(&[PROTOCOL]),
        ),
        (
            "6.4 RST_STREAM of another length",
            vec![post(1), frame(RST_STREAM, 0, 1, &[0, 0, 8])],
            unread(FRAME_SIZE),
        ),
        ("6.5 ACK with a payload", vec![frame(SETTINGS, ACK, 0, &[0; 6])], unread(FRAME_SIZE)),
        ("6.5 SETTINGS on a stream", vec![frame(SETTINGS, 0, 1, &[])], connection(&[PROTOCOL])),
        (
            "6.5 SETTINGS of another length",
            vec![frame(SETTINGS, 0, 0, &[0; 5])],
            unread(FRAME_SIZE),
        ),
        ("6.5.2 ENABLE_PUSH 2", vec![setting(2, 2)], connection(&[PROTOCOL])),
        ("6.5.2 INITIAL_WINDOW_SIZE", vec![setting(4, 1 << 31)], unread(FLOW_CONTROL)),
        ("6.5.2 MAX_FRAME_SIZE below", vec![setting(5, (1 << 14) - 1)], connection(&[PROTOCOL])),
        ("6.5.2 MAX_FRAME_SIZE above", vec![setting(5, 1 << 24)], connection(&[PROTOCOL])),
        ("6.5.2 unknown setting", vec![setting(0xff, 1)], Expect::Alive),
        ("6.7 PING is answered", vec![], Expect::Alive),
        ("6.7 PING on a stream", vec![frame(PING, 0, 1, b"are you?")], connection(&[PROTOCOL])),
        ("6.8 GOAWAY on a stream", vec![frame(GOAWAY, 0, 1, &[0; 8])], connection(&[PROTOCOL])),
        ("6.9 WINDOW_UPDATE of 0", vec![window(0, 0)], connection(&[PROTOCOL])),
        ("6.9 WINDOW_UPDATE of 0 on a stream", vec![post(1), window(1, 0)], stream(&[PROTOCOL])),
        (
            "6.9 WINDOW_UPDATE of another length",
            vec![frame(WINDOW_UPDATE, 0, 0, &[0, 0, 1])],
            unread(FRAME_SIZE),
        ),
        (
            "6.9.1 too large a window",
            vec![window(0, 0x7fff_ffff), window(0, 0x7fff_ffff)],
            unread(FLOW_CONTROL),
        ),
        (
            "6.9.1 too large a window of a stream",
            vec![post(1), window(1, 0x7fff_ffff), window(1, 0x7fff_ffff)],
            stream(&[FLOW_CONTROL]),
        ),
        (
            "6.9.2 a window that settings overflow",
            vec![post(1), window(1, 0x7fff_0000), setting(4, 0x7fff_ffff)],
            stream(&[FLOW_CONTROL]),
        ),
        (
            "6.10 CONTINUATION on 0",
            vec![open_block.clone(), frame(CONTINUATION, 4, 0, &[])],
            connection(&[PROTOCOL]),
        ),
        (
            "6.10 CONTINUATION behind the end",
            vec![post(1), frame(CONTINUATION, 4, 1, &[])],
            connection(&[PROTOCOL]),
        ),
        (
            "6.10 CONTINUATION behind DATA",
            vec![post(1), frame(DATA, 0, 1, b"x"), frame(CONTINUATION, 4, 1, &[])],
            connection(&[PROTOCOL]),
        ),
        (
            "6.10 a block in pieces",
            vec![open_block, frame(CONTINUATION, 0, 1, &[]), frame(CONTINUATION, 4, 1, &[])],
            Expect::Answer,
        ),
        (
            "8.1 HEADERS twice",
            vec![post(1), frame(HEADERS, END_HEADERS, 1, &field("a", "b"))],
            malformed(),
        ),
        ("8.2.1 upper case", vec![with(&[("X-Own", "1")])], malformed()),
        ("8.2.1 blank in a name", vec![with(&[("x own", "1")])], malformed()),
        ("8.2.1 LF in a value", vec![with(&[("x", "a\nb")])], malformed()),
        ("8.2.1 NUL in a value", vec![with(&[("x", "a\0b")])], malformed()),
        ("8.2.2 connection", vec![with(&[("connection", "keep-alive")])], malformed()),
        ("8.2.2 transfer-encoding", vec![with(&[("transfer-encoding", "chunked")])], malformed()),
        ("8.2.2 te", vec![with(&[("te", "trailers, deflate")])], malformed()),
        ("8.3 unknown pseudo", vec![pseudo(":own", "1")], malformed()),
        ("8.3 :status", vec![pseudo(":status", "200")], malformed()),
        ("8.3 pseudo behind", vec![with(&[("x", "1"), (":path", "/y")])], malformed()),
        (
            "8.3 pseudo in trailers",
            vec![post(1), frame(HEADERS, END_HEADERS | END_STREAM, 1, &field(":path", "/y"))],
            malformed(),
        ),
        (
            "8.3.1 empty path",
            vec![only(&[
                (":method", "GET"),
                (":scheme", "https"),
                (":path", ""),
                (":authority", "localhost"),
            ])],
            malformed(),
        ),
        ("8.3.1 no method", vec![without(":method")], malformed()),
        ("8.3.1 no scheme", vec![without(":scheme")], malformed()),
        ("8.3.1 no path", vec![without(":path")], malformed()),
        ("8.3.1 no authority", vec![without(":authority")], malformed()),
        ("8.3.1 two methods", vec![pseudo(":method", "POST")], malformed()),
        ("8.3.1 two schemes", vec![pseudo(":scheme", "https")], malformed()),
        ("8.3.1 two paths", vec![pseudo(":path", "/y")], malformed()),
        (
            "8.1.1 length differs",
            vec![
                frame(
                    HEADERS,
                    END_HEADERS,
                    1,
                    &[request("POST"), field("content-length", "1")].concat(),
                ),
                frame(DATA, END_STREAM, 1, b"four"),
            ],
            malformed(),
        ),
        (
            "8.1.1 length differs over frames",
            vec![
                frame(
                    HEADERS,
                    END_HEADERS,
                    1,
                    &[request("POST"), field("content-length", "1")].concat(),
                ),
                frame(DATA, 0, 1, b"f"),
                frame(DATA, END_STREAM, 1, b"our"),
            ],
            malformed(),
        ),
        (
            "8.4 PUSH_PROMISE",
            vec![get(1), frame(PUSH_PROMISE, 4, 1, &[0, 0, 0, 2])],
            connection(&[PROTOCOL]),
        ),
        // RFC 7541.
        ("hpack 2.3.3 index out of range", block(&[0xc6]), unread(COMPRESSION)),
        ("hpack 2.3.3 name out of range", block(&[0x7f, 0x07, 0x01, b'x']), unread(COMPRESSION)),
        ("hpack 4.2 size update behind", block(&[0x20]), unread(COMPRESSION)),
        (
            "hpack 5.2 padding over 7 bits",
            block(&[0x00, 0x81, 0xff, 0x01, b'x']),
            unread(COMPRESSION),
        ),
        ("hpack 5.2 padding of zeros", block(&[0x00, 0x01, b'x', 0x81, 0x18]), unread(COMPRESSION)),
        (
            "hpack 5.2 EOS",
            block(&[0x00, 0x01, b'x', 0x84, 0xff, 0xff, 0xff, 0xff]),
            unread(COMPRESSION),
        ),
        ("hpack 6.1 index 0", block(&[0x80]), unread(COMPRESSION)),
        (
            "hpack 6.3 size update above the setting",
            vec![frame(HEADERS, 5, 1, &[&[0x3f, 0xe1, 0xff, 0x7f][..], &request("GET")].concat())],
            unread(COMPRESSION),
        ),
    ]
}

#[test]
fn the_cases_of_the_standard() {
    let target = Recorder::start().unwrap();
    let world = World::start(EVERYTHING, &[ApiSpec::new("api", target.port())]).unwrap();
    let all = cases();
    let wrong: Vec<String> = all
        .iter()
        .filter_map(|(section, sent, expect)| check(&world, section, sent, expect).err())
        .collect();
    assert!(wrong.is_empty(), "{} of {}: {}", wrong.len(), all.len(), wrong.join("\n"));
    // A preface that is none.
    let mut raw = world.raw(&["h2"]).unwrap();
    raw.send(b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n").unwrap();
    assert!(raw.closes_within(SOON), "a connection that is no HTTP/2 ends");
    assert_eq!(target.connections(), 0, "nobody was known, so nothing reached the target");
    world.verified().unwrap();
}

fn resident_kib(pid: libc::pid_t) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").trim().parse().unwrap()
}

/// The piece of a flood with this number.
type Piece<'a> = &'a dyn Fn(u32) -> Vec<u8>;

/// What a client does without end, until the connection ends or `pieces` are sent. True: it ended.
fn flood(world: &World, pieces: usize, each: Piece<'_>) -> bool {
    let mut raw = open(world);
    for at in 0..u32::try_from(pieces).unwrap() {
        if raw.send(each(at)).is_err() {
            return true;
        }
        // Nobody reads what comes, but for its end.
        if at % 64 == 0 && raw.frame(Duration::from_millis(1)).is_some_and(|got| got.0 == GOAWAY) {
            return true;
        }
    }
    false
}

#[test]
fn floods_end_or_cost_nothing_and_hurt_nobody() {
    let target = Recorder::start().unwrap();
    let world = World::start(EVERYTHING, &[ApiSpec::new("api", target.port())]).unwrap();
    let before = resident_kib(world.gateway.proc().pid());
    let reset = |at: u32| {
        let stream = at * 2 + 1;
        [get(stream), frame(RST_STREAM, 0, stream, &[0, 0, 0, 8])].concat()
    };
    // The other side is made to reset (CVE-2025-8671).
    let made = |at: u32| [post(at * 2 + 1), window(at * 2 + 1, 0)].concat();
    let block = |at: u32| match at {
        0 => frame(HEADERS, END_STREAM, 1, &request("GET")),
        _ => frame(CONTINUATION, 0, 1, &field("x-own", &"x".repeat(100))),
    };
    let empty_block = |at: u32| match at {
        0 => frame(HEADERS, END_STREAM, 1, &request("GET")),
        _ => frame(CONTINUATION, 0, 1, &[]),
    };
    let empty = |at: u32| if at == 0 { post(1) } else { frame(DATA, 0, 1, &[]) };
    let floods: [(&str, usize, bool, Piece<'_>); 8] = [
        ("rapid reset", 20_000, true, &reset),
        ("made you reset", 20_000, true, &made),
        ("CONTINUATION", 20_000, true, &block),
        ("empty CONTINUATION", 100_000, true, &empty_block),
        ("PING", 100_000, false, &|_| ping()),
        ("SETTINGS", 100_000, false, &|_| setting(3, 100)),
        ("empty DATA", 100_000, false, &empty),
        ("PRIORITY", 100_000, false, &|at| frame(PRIORITY, 0, at * 2 + 1, &[0, 0, 0, 0, 9])),
    ];
    for (name, pieces, ends, each) in floods {
        let ended = flood(&world, pieces, each);
        assert!(ended || !ends, "{name}: {pieces} were taken");
        let got = world.curl("/x", &["--http2"]).unwrap().out();
        assert!(got.contains("200"), "{name}: another client got {got}");
        let grown = resident_kib(world.gateway.proc().pid()).saturating_sub(before);
        assert!(grown < 64 << 10, "{name}: the gateway grew by {grown} KiB");
    }
    world.verified().unwrap();
}

#[test]
fn bombs_of_hpack_do_not_go_off() {
    let target = Recorder::start().unwrap();
    let world = World::start(EVERYTHING, &[ApiSpec::new("api", target.port())]).unwrap();
    let before = resident_kib(world.gateway.proc().pid());
    let mut raw = open(&world);
    // A field of 4000 bytes goes into the table; each byte of the next block names it again.
    let mut entry = vec![0x40, 0x01, b'x', 0x7f, 0xa1, 0x1e];
    entry.extend(vec![b'a'; 0x7f + 0xa1 - 0x80 + (0x1e << 7)]);
    let _ = raw.send(frame(HEADERS, 5, 1, &[request("GET"), entry].concat()));
    for stream in 1..20 {
        let block = [request("GET"), vec![0xbe; 16_000]].concat();
        if raw.send(frame(HEADERS, 5, stream * 2 + 1, &block)).is_err() {
            break;
        }
    }
    let (mut refused, mut served) = (false, false);
    while let Some((kind, _, stream, payload)) = raw.frame(Duration::from_secs(2)) {
        refused |= stream > 1 && (kind == RST_STREAM || (kind == HEADERS && is_431(&payload)));
        refused |= kind == GOAWAY && [CALM, PROTOCOL, COMPRESSION].contains(&code(&payload, 4));
        served |= stream > 1 && kind == HEADERS && !is_431(&payload);
    }
    // An end that finds us writing takes with it what was said before it.
    let refused = refused || raw.closes_within(SOON);
    assert!(refused && !served, "a head of 64 MB is refused");
    let grown = resident_kib(world.gateway.proc().pid()).saturating_sub(before);
    assert!(grown < 64 << 10, "the gateway grew by {grown} KiB");
    assert!(world.curl("/x", &["--http2"]).unwrap().out().contains("200"));
}

/// RFC 8441 is not spoken: it is not announced, and who tries all the same loses the stream only.
#[test]
fn a_websocket_over_http_2_is_refused_cleanly() {
    let target = Recorder::start().unwrap();
    let api = ApiSpec::new("api", target.port()).http("websocket = [\"*\"]");
    let world = World::start(EVERYTHING, &[api]).unwrap();
    let mut raw = world.raw(&["h2"]).unwrap();
    raw.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").unwrap();
    raw.send(frame(SETTINGS, 0, 0, &[])).unwrap();
    let (kind, _, _, settings) = raw.frame(SOON).unwrap();
    assert_eq!(kind, SETTINGS);
    let announced = settings.chunks(6).any(|one| one[..2] == [0, 8] && one[2..] != [0; 4]);
    assert!(!announced, "SETTINGS_ENABLE_CONNECT_PROTOCOL: {settings:?}");
    let token = world.token().unwrap();
    let own = [(":method", "CONNECT"), (":protocol", "websocket"), (":scheme", "https")];
    let own = [&own[..], &[(":path", "/ws"), (":authority", "localhost")]].concat();
    raw.send(frame(HEADERS, END_HEADERS, 1, &fields(&own))).unwrap();
    let ended = loop {
        match raw.frame(SOON) {
            Some((RST_STREAM, _, 1, _)) => break true,
            Some((HEADERS, _, 1, block)) => break is_refusal(&block),
            Some((GOAWAY, ..)) | None => break false,
            Some(_) => {}
        }
    };
    assert!(ended, "the stream is refused, not the connection");
    raw.send(get(3)).unwrap();
    let answered = std::iter::from_fn(|| raw.frame(SOON)).any(|got| got.0 == HEADERS && got.2 == 3);
    assert!(answered, "the connection goes on");
    assert_eq!(target.got(), "");
    let auth = format!("authorization: Bearer {token}");
    let got = world.bare_curl("/x", &["--http2", "-H", &auth]).unwrap().out();
    assert!(got.contains("200"), "{got}");
}

fn is_431(block: &[u8]) -> bool {
    is_refusal(block)
}
