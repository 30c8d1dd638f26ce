//! HTTP/2 as RFC 9113 and RFC 7541 have it, case by case with raw frames: what h2spec asks, and
//! what floods and bombs do.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::time::Duration;

use bulla_e2e::frames::{
    ACK, CONTINUATION, DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, PADDED, PING, PRIORITY,
    PUSH_PROMISE, RST_STREAM, SETTINGS, WINDOW_UPDATE, field, fields, frame, status,
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

/// Who asks: the field that says so, if anything does.
struct Asks(Vec<u8>);

impl Asks {
    fn unknown() -> Self {
        Self(Vec::new())
    }
    /// Who is good for everything, so that nothing but the form can be the reason of a refusal.
    fn known(world: &World) -> Self {
        Self(field("authorization", &format!("Bearer {}", world.token().unwrap())))
    }

    fn request(&self, method: &str) -> Vec<u8> {
        let base = [(":method", method), (":scheme", "https"), (":path", "/x")];
        let base = fields(&[&base[..], &[(":authority", "localhost")]].concat());
        [base, self.0.clone()].concat()
    }

    fn get(&self, stream: u32) -> Vec<u8> {
        frame(HEADERS, END_HEADERS | END_STREAM, stream, &self.request("GET"))
    }

    /// A request whose body is still to come.
    fn post(&self, stream: u32) -> Vec<u8> {
        frame(HEADERS, END_HEADERS, stream, &self.request("POST"))
    }

    fn with(&self, more: &[(&str, &str)]) -> Vec<u8> {
        let block = [self.request("GET"), fields(more)].concat();
        frame(HEADERS, END_HEADERS | END_STREAM, 1, &block)
    }

    /// A whole request with just these fields, and who asks.
    fn only(&self, all: &[(&str, &str)]) -> Vec<u8> {
        let block = [fields(all), self.0.clone()].concat();
        frame(HEADERS, END_HEADERS | END_STREAM, 1, &block)
    }
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
    /// As if it had not been there: so does the library with what is malformed (h2, `recv_trailers`),
    /// which the gateway would not pass on in any case.
    Dropped,
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

fn is_refusal(block: &[u8]) -> bool {
    status(block).is_some_and(|status| (400..500).contains(&status))
}

/// `answers`: what is well formed is answered with; what is not has another answer, if any.
fn check(world: &World, case: &Row, answers: u16) -> Result<(), String> {
    let (section, sent, expect) = case;
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
            (RST_STREAM, Expect::Answer | Expect::Dropped) => break false,
            (HEADERS, Expect::Answer | Expect::Dropped) => break status(&payload) == Some(answers),
            (HEADERS, Expect::Malformed) => {
                // Who is known hears of the form, and of nothing else.
                let other = answers == 200 && matches!(status(&payload), Some(401 | 403 | 404));
                break is_refusal(&payload) && !other;
            }
            (PING, Expect::Alive) if flags & ACK != 0 => break payload == b"are you?",
            _ => {}
        }
    };
    if good { Ok(()) } else { Err(format!("{section}: wants {expect:?}, saw {seen:#?}")) }
}

/// Where it is written, what is sent, and what has to come of it.
type Row = (&'static str, Vec<Vec<u8>>, Expect);

/// RFC 9113 and RFC 7541, in the order of h2spec.
#[allow(clippy::too_many_lines)]
fn cases(asks: &Asks) -> Vec<Row> {
    let connection = |codes: &[u32]| Expect::Connection(codes.to_vec());
    let stream = |codes: &[u32]| Expect::Stream(codes.to_vec());
    let malformed = || Expect::Malformed;
    // The library says `PROTOCOL_ERROR` of every frame that it cannot read (h2, `framed_read.rs`).
    let unread = |code: u32| Expect::Connection(vec![code, PROTOCOL]);
    let block = |bytes: &[u8]| {
        let block = [asks.request("GET"), bytes.to_vec()].concat();
        vec![frame(HEADERS, END_HEADERS | END_STREAM, 1, &block)]
    };
    let pseudo = |name: &str, value: &str| {
        let all = [(":method", "GET"), (":scheme", "https"), (":path", "/x"), (name, value)];
        asks.only(&[&all[..], &[(":authority", "localhost")]].concat())
    };
    let without = |name: &str| {
        let all = [
            (":method", "GET"),
            (":scheme", "https"),
            (":path", "/x"),
            (":authority", "localhost"),
        ];
        let left: Vec<_> = all.into_iter().filter(|(own, _)| *own != name).collect();
        asks.only(&left)
    };
    let open_block = frame(HEADERS, END_STREAM, 1, &asks.request("GET"));
    let large = vec![0; (16 << 10) + 1];
    vec![
        ("control", vec![asks.get(1)], Expect::Answer),
        ("control: a body", vec![asks.post(1), frame(DATA, END_STREAM, 1, b"x")], Expect::Answer),
        ("4.1 unknown type", vec![frame(0x16, 0, 0, b"12345678")], Expect::Alive),
        ("4.1 undefined flags", vec![frame(PING, 0x16, 0, b"are you?")], Expect::Alive),
        ("4.1 reserved bit", vec![frame(PING, 0, 1 << 31, b"are you?")], Expect::Alive),
        (
            "4.2 large DATA",
            vec![asks.post(1), frame(DATA, END_STREAM, 1, &large)],
            stream(&[FRAME_SIZE, PROTOCOL]),
        ),
        ("4.2 large HEADERS", vec![frame(HEADERS, 5, 1, &large)], unread(FRAME_SIZE)),
        ("4.3 bad block", vec![frame(HEADERS, 5, 1, &[0x00, 0x05, b'a'])], unread(COMPRESSION)),
        (
            "4.3 PRIORITY within a block",
            vec![open_block.clone(), frame(PRIORITY, 0, 1, &[0, 0, 0, 0, 9])],
            connection(&[PROTOCOL]),
        ),
        (
            "4.3 HEADERS within a block",
            vec![open_block.clone(), asks.get(3)],
            connection(&[PROTOCOL]),
        ),
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
            vec![frame(CONTINUATION, 4, 1, &asks.request("GET"))],
            connection(&[PROTOCOL]),
        ),
        (
            "5.1 half closed: DATA",
            vec![asks.get(1), frame(DATA, END_STREAM, 1, b"x")],
            stream(&[STREAM_CLOSED, PROTOCOL]),
        ),
        (
            "5.1 half closed: HEADERS",
            vec![asks.get(1), asks.get(1)],
            stream(&[STREAM_CLOSED, PROTOCOL]),
        ),
        (
            "5.1 half closed: CONTINUATION",
            vec![asks.get(1), frame(CONTINUATION, 4, 1, &asks.request("GET"))],
            stream(&[STREAM_CLOSED, PROTOCOL]),
        ),
        (
            "5.1 closed: CONTINUATION",
            vec![
                asks.get(1),
                frame(RST_STREAM, 0, 1, &[0, 0, 0, 8]),
                frame(CONTINUATION, 4, 1, &asks.request("GET")),
            ],
            connection(&[STREAM_CLOSED, PROTOCOL]),
        ),
        ("5.1.1 even stream", vec![asks.get(2)], connection(&[PROTOCOL])),
        (
            "5.1.1 smaller stream",
            vec![asks.get(5), asks.get(3)],
            connection(&[PROTOCOL, STREAM_CLOSED]),
        ),
        (
            "5.1.2 too many streams",
            (0..200).map(|at| asks.post(at * 2 + 1)).collect(),
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
            vec![asks.post(1), frame(DATA, PADDED | END_STREAM, 1, &[9, 1, 2])],
            connection(&[PROTOCOL]),
        ),
        (
            "6.2 HEADERS on 0",
            vec![frame(HEADERS, 5, 0, &asks.request("GET"))],
            connection(&[PROTOCOL]),
        ),
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
            vec![asks.post(1), frame(PRIORITY, 0, 1, &[0, 0, 0, 9])],
            stream(&[FRAME_SIZE, PROTOCOL]),
        ),
        (
            "6.4 RST_STREAM on 0",
            vec![frame(RST_STREAM, 0, 0, &[0, 0, 0, 8])],
            connection(&[PROTOCOL]),
        ),
        (
            "6.4 RST_STREAM of another length",
            vec![asks.post(1), frame(RST_STREAM, 0, 1, &[0, 0, 8])],
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
        (
            "6.9 WINDOW_UPDATE of 0 on a stream",
            vec![asks.post(1), window(1, 0)],
            stream(&[PROTOCOL]),
        ),
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
            vec![asks.post(1), window(1, 0x7fff_ffff), window(1, 0x7fff_ffff)],
            stream(&[FLOW_CONTROL]),
        ),
        (
            "6.9.2 a window that settings overflow",
            vec![asks.post(1), window(1, 0x7fff_0000), setting(4, 0x7fff_ffff)],
            stream(&[FLOW_CONTROL]),
        ),
        (
            "6.10 CONTINUATION on 0",
            vec![open_block.clone(), frame(CONTINUATION, 4, 0, &[])],
            connection(&[PROTOCOL]),
        ),
        (
            "6.10 CONTINUATION behind the end",
            vec![asks.post(1), frame(CONTINUATION, 4, 1, &[])],
            connection(&[PROTOCOL]),
        ),
        (
            "6.10 CONTINUATION behind DATA",
            vec![asks.post(1), frame(DATA, 0, 1, b"x"), frame(CONTINUATION, 4, 1, &[])],
            connection(&[PROTOCOL]),
        ),
        (
            "6.10 a block in pieces",
            vec![open_block, frame(CONTINUATION, 0, 1, &[]), frame(CONTINUATION, 4, 1, &[])],
            Expect::Answer,
        ),
        (
            "8.1 HEADERS twice",
            vec![asks.post(1), frame(HEADERS, END_HEADERS, 1, &field("a", "b"))],
            malformed(),
        ),
        ("8.2.1 upper case", vec![asks.with(&[("X-Own", "1")])], malformed()),
        ("8.2.1 blank in a name", vec![asks.with(&[("x own", "1")])], malformed()),
        ("8.2.1 LF in a value", vec![asks.with(&[("x", "a\nb")])], malformed()),
        ("8.2.1 NUL in a value", vec![asks.with(&[("x", "a\0b")])], malformed()),
        ("8.2.2 connection", vec![asks.with(&[("connection", "keep-alive")])], malformed()),
        (
            "8.2.2 transfer-encoding",
            vec![asks.with(&[("transfer-encoding", "chunked")])],
            malformed(),
        ),
        ("8.2.2 te", vec![asks.with(&[("te", "trailers, deflate")])], malformed()),
        ("8.3 unknown pseudo", vec![pseudo(":own", "1")], malformed()),
        ("8.3 :status", vec![pseudo(":status", "200")], malformed()),
        ("8.3 pseudo behind", vec![asks.with(&[("x", "1"), (":path", "/y")])], malformed()),
        (
            "8.3 pseudo in trailers",
            vec![asks.post(1), frame(HEADERS, END_HEADERS | END_STREAM, 1, &field(":path", "/y"))],
            Expect::Dropped,
        ),
        (
            "8.3.1 empty path",
            vec![asks.only(&[
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
                    &[asks.request("POST"), field("content-length", "1")].concat(),
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
                    &[asks.request("POST"), field("content-length", "1")].concat(),
                ),
                frame(DATA, 0, 1, b"f"),
                frame(DATA, END_STREAM, 1, b"our"),
            ],
            malformed(),
        ),
        (
            "8.4 PUSH_PROMISE",
            vec![asks.get(1), frame(PUSH_PROMISE, 4, 1, &[0, 0, 0, 2])],
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
            vec![frame(
                HEADERS,
                5,
                1,
                &[&[0x3f, 0xe1, 0xff, 0x7f][..], &asks.request("GET")].concat(),
            )],
            unread(COMPRESSION),
        ),
    ]
}

#[test]
fn the_cases_of_the_standard() {
    let target = Recorder::start().unwrap();
    let world = World::start(EVERYTHING, &[ApiSpec::new("api", target.port())]).unwrap();
    let all = cases(&Asks::unknown());
    let wrong: Vec<String> = all.iter().filter_map(|case| check(&world, case, 401).err()).collect();
    assert!(wrong.is_empty(), "{} of {}: {}", wrong.len(), all.len(), wrong.join("\n"));
    // A preface that is none.
    let mut raw = world.raw(&["h2"]).unwrap();
    raw.send(b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n").unwrap();
    assert!(raw.closes_within(SOON), "a connection that is no HTTP/2 ends");
    assert_eq!(target.connections(), 0, "nobody was known, so nothing reached the target");
    world.verified().unwrap();
}

/// What is refused whoever asks is refused to who is known, too, and for its form.
#[test]
fn the_cases_of_the_standard_by_who_is_known() {
    let malformed = |case: &&Row| matches!(case.2, Expect::Malformed);
    for is_malformed in [true, false] {
        let target = Recorder::start().unwrap();
        let world = World::start(EVERYTHING, &[ApiSpec::new("api", target.port())]).unwrap();
        let all = cases(&Asks::known(&world));
        let own: Vec<&Row> = all.iter().filter(|case| malformed(case) == is_malformed).collect();
        let wrong: Vec<String> =
            own.iter().filter_map(|case| check(&world, case, 200).err()).collect();
        assert!(wrong.is_empty(), "{} of {}: {}", wrong.len(), own.len(), wrong.join("\n"));
        // Now that the gateway has ended, nothing more will come.
        world.verified().unwrap();
        let got = target.got();
        assert!(!got.contains("/y") && !got.contains("x-own"), "{got}");
        // Of what is malformed behind its head no body comes, and of the rest not even a head.
        let head = |part: &str| {
            part.starts_with("POST /x HTTP/1.1\r\n") && part.ends_with("transfer-encoding: chunked")
        };
        let heads = got.split("\r\n\r\n").all(|part| part.is_empty() || head(part));
        assert_eq!(heads, is_malformed, "{got}");
    }
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
    let asks = Asks::unknown();
    let target = Recorder::start().unwrap();
    let world = World::start(EVERYTHING, &[ApiSpec::new("api", target.port())]).unwrap();
    let before = resident_kib(world.gateway.proc().pid());
    let reset = |at: u32| {
        let stream = at * 2 + 1;
        [asks.get(stream), frame(RST_STREAM, 0, stream, &[0, 0, 0, 8])].concat()
    };
    // The other side is made to reset (CVE-2025-8671).
    let made = |at: u32| [asks.post(at * 2 + 1), window(at * 2 + 1, 0)].concat();
    let block = |at: u32| match at {
        0 => frame(HEADERS, END_STREAM, 1, &asks.request("GET")),
        _ => frame(CONTINUATION, 0, 1, &field("x-own", &"x".repeat(100))),
    };
    let empty_block = |at: u32| match at {
        0 => frame(HEADERS, END_STREAM, 1, &asks.request("GET")),
        _ => frame(CONTINUATION, 0, 1, &[]),
    };
    let empty = |at: u32| if at == 0 { asks.post(1) } else { frame(DATA, 0, 1, &[]) };
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
    let asks = Asks::unknown();
    let target = Recorder::start().unwrap();
    let world = World::start(EVERYTHING, &[ApiSpec::new("api", target.port())]).unwrap();
    let before = resident_kib(world.gateway.proc().pid());
    let mut raw = open(&world);
    // A field of 4000 bytes goes into the table; each byte of the next block names it again.
    let mut entry = vec![0x40, 0x01, b'x', 0x7f, 0xa1, 0x1e];
    entry.extend(vec![b'a'; 0x7f + 0xa1 - 0x80 + (0x1e << 7)]);
    let _ = raw.send(frame(HEADERS, 5, 1, &[asks.request("GET"), entry].concat()));
    for stream in 1..20 {
        let block = [asks.request("GET"), vec![0xbe; 16_000]].concat();
        if raw.send(frame(HEADERS, 5, stream * 2 + 1, &block)).is_err() {
            break;
        }
    }
    let (mut refused, mut served) = (false, false);
    while let Some((kind, _, stream, payload)) = raw.frame(Duration::from_secs(2)) {
        refused |= stream > 1 && (kind == RST_STREAM || (kind == HEADERS && is_refusal(&payload)));
        refused |= kind == GOAWAY && [CALM, PROTOCOL, COMPRESSION].contains(&code(&payload, 4));
        served |= stream > 1 && kind == HEADERS && !is_refusal(&payload);
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
    let asks = Asks::unknown();
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
    raw.send(asks.get(3)).unwrap();
    let answered = std::iter::from_fn(|| raw.frame(SOON)).any(|got| got.0 == HEADERS && got.2 == 3);
    assert!(answered, "the connection goes on");
    assert_eq!(target.got(), "");
    let auth = format!("authorization: Bearer {token}");
    let got = world.bare_curl("/x", &["--http2", "-H", &auth]).unwrap().out();
    assert!(got.contains("200"), "{got}");
}
