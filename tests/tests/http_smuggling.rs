//! A corpus of messages that two readers could take for two things, before servers of other hands.
//!
//! Of every row it is known beforehand what may come of it. Two differences are looked for: what the
//! gateway judged and recorded against what the target read, and what one client sent against what
//! another one got.

#![allow(clippy::unwrap_used, clippy::panic)]

#[path = "smuggling/addresses.rs"]
mod addresses;
#[path = "smuggling/case.rs"]
mod case;
#[path = "smuggling/framing.rs"]
mod framing;
#[path = "smuggling/heads.rs"]
mod heads;
#[path = "smuggling/mutants.rs"]
mod mutants;
#[path = "smuggling/streams.rs"]
mod streams;

use std::collections::BTreeMap;

use std::time::Duration;

use base64::Engine as _;
use bulla_e2e::ca::Authority;
use bulla_e2e::frames::{
    DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, RST_STREAM, SETTINGS, field_of, frame, status,
};
use bulla_e2e::http::{ApiSpec, Nginx, Recorder, World, python};
use bulla_e2e::parsers::{Hand, Seen, Target, digest};
use bulla_e2e::proc::capture;
use case::{Case, Expect};
use serde_json::Value;

const EVERYTHING: &str = r#"
@id("everything")
permit (principal, action, resource);
"#;

/// Connections whose requests chance has changed.
const MUTANTS: usize = 60;

fn corpus() -> Vec<Case> {
    [framing::all(), heads::all(), addresses::all()].concat()
}

/// Statuses of the answers in what a client got; an error: they do not add up.
fn answers(mut got: &[u8], heads_of: &[bool]) -> Result<Vec<u16>, String> {
    let mut all = Vec::new();
    while !got.is_empty() {
        let end =
            got.windows(4).position(|window| window == b"\r\n\r\n").ok_or("no end of a head")?;
        let head = String::from_utf8_lossy(&got[..end]).to_lowercase();
        got = &got[end + 4..];
        let status = head.split(' ').nth(1).and_then(|code| code.parse().ok());
        let status: u16 = status.filter(|_| head.starts_with("http/1.")).ok_or("no status line")?;
        if status == 100 {
            continue;
        }
        let bare = heads_of.get(all.len()).copied().unwrap_or_default();
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        let length: usize = match length {
            _ if bare => 0,
            Some(length) => length.trim().parse().map_err(|_| "an odd length")?,
            None => return Err("no length".into()),
        };
        got = got.get(length..).ok_or("a body that is cut short")?;
        all.push(status);
    }
    Ok(all)
}

/// Sends a row and looks at the answers. What the target read is looked at by whoever calls.
fn send(world: &World, auth: &str, case: &Case) -> Result<(), String> {
    let at = format!("{}: {}", case.family, case.name);
    let text = replaced(&case.bytes, b"AUTH", auth.as_bytes());
    let mut raw = world.raw(&[]).unwrap();
    // The gateway may close before all of it is written.
    let _ = raw.send(&text);
    if case.expect == Expect::Cut {
        raw.finish();
    }
    let got = raw.rest();
    let shown = String::from_utf8_lossy(&got).into_owned();
    let heads: Vec<bool> = match &case.expect {
        Expect::Goes(all) | Expect::GoesThenRefused(all) => {
            all.iter().map(|one| one.0 == "HEAD").collect()
        }
        Expect::Refused | Expect::Cut => Vec::new(),
    };
    let answers = answers(&got, &heads).map_err(|why| format!("{at}: {why}: {shown}"))?;
    let bad = |status: &u16| (400..600).contains(status);
    let fits = match &case.expect {
        Expect::Refused => answers.len() == 1 && answers.iter().all(bad),
        Expect::Goes(all) => {
            answers.len() == all.len() && answers.iter().all(|status| *status == 200)
        }
        Expect::GoesThenRefused(all) => {
            answers.len() == all.len() + 1
                && answers.iter().take(all.len()).all(|status| *status == 200)
                && answers.last().is_some_and(bad)
        }
        Expect::Cut => answers.iter().all(bad),
    };
    if fits { Ok(()) } else { Err(format!("{at}: {answers:?}: {shown}")) }
}

fn replaced(text: &[u8], what: &[u8], with: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len() + with.len());
    let mut rest = text;
    while let Some(at) = rest.windows(what.len()).position(|window| window == what) {
        out.extend_from_slice(&rest[..at]);
        out.extend_from_slice(with);
        rest = &rest[at + what.len()..];
    }
    out.extend_from_slice(rest);
    out
}

/// What the target has to read, over all rows and the one that ends them, sorted.
fn expected(all: &[Case], port: u16) -> Vec<Seen> {
    let mut seen = Vec::new();
    for case in all {
        if let Expect::Goes(goes) | Expect::GoesThenRefused(goes) = &case.expect {
            for (method, target, body) in goes {
                let host = format!("localhost:{port}");
                let (method, target) = ((*method).to_owned(), target.clone());
                seen.push(Seen { method, target, host, body: digest(body) });
            }
        }
    }
    let (method, target) = ("GET".to_owned(), "/sentinel".to_owned());
    seen.push(Seen { method, target, host: format!("localhost:{port}"), body: digest(b"") });
    seen.sort();
    seen
}

fn differences(expected: &[Seen], seen: &[Seen]) -> Vec<String> {
    let mut count: BTreeMap<&Seen, i64> = BTreeMap::new();
    for one in expected {
        *count.entry(one).or_default() += 1;
    }
    for one in seen {
        *count.entry(one).or_default() -= 1;
    }
    let differ = count.into_iter().filter(|(_, count)| *count != 0);
    differ.map(|(one, count)| format!("{count:+} {one:?}")).collect()
}

/// Every row before a target; what it read is what may be read, and nothing besides.
fn through(world: &World, target: &Target) -> Vec<Seen> {
    let auth = format!("authorization: Bearer {}", world.token().unwrap());
    let all = corpus();
    let wrong: Vec<String> = all.iter().filter_map(|case| send(world, &auth, case).err()).collect();
    assert!(wrong.is_empty(), "{} of {}: {}", wrong.len(), all.len(), wrong.join("\n"));
    assert!(world.curl("/sentinel", &["--http1.1"]).unwrap().out().contains(" 200"));
    let mut seen = target.seen_with("/sentinel").unwrap();
    let differ = differences(&expected(&all, target.port()), &seen);
    assert!(differ.is_empty(), "-: read but not judged so, +: the reverse: {}", differ.join("\n"));
    seen.sort();
    seen
}

fn before(hand: Hand) {
    let target = Target::start(hand).unwrap();
    let world = World::start(EVERYTHING, &[ApiSpec::new("api", target.port())]).unwrap();
    through(&world, &target);
    world.verified().unwrap();
}

/// What the record says was sent and answered, out of the archives of all sessions.
fn recorded(world: &World, port: u16) -> Vec<Seen> {
    let cli = |args: &[&str]| world.gateway.cli(args).unwrap().success().unwrap();
    let listed = cli(&["sessions", "ls", "--json", "--limit", "100000"]);
    let listed: Value = serde_json::from_str(&listed).unwrap();
    let mut all = Vec::new();
    for session in listed.as_array().unwrap() {
        let id = session["session"].as_str().unwrap();
        let archive = cli(&["sessions", "replay", id, "--har", "--offline"]);
        let archive: Value = serde_json::from_str(&archive).unwrap();
        for entry in archive["log"]["entries"].as_array().unwrap() {
            if entry["response"]["status"] != 200 {
                continue;
            }
            let request = &entry["request"];
            let body = request["postData"]["text"].as_str().unwrap_or_default();
            let target =
                request["url"].as_str().unwrap().strip_prefix("https://localhost").unwrap();
            all.push(Seen {
                method: request["method"].as_str().unwrap().to_owned(),
                target: target.to_owned(),
                host: format!("localhost:{port}"),
                body: digest(body.as_bytes()),
            });
        }
    }
    all.sort();
    all
}

#[test]
fn before_go() {
    before(Hand::Go);
}

/// What the record says is what the target read, request by request on one connection.
#[test]
fn what_is_on_record_is_what_was_read() {
    let target = Target::start(Hand::Go).unwrap();
    let world = World::start(EVERYTHING, &[ApiSpec::new("api", target.port())]).unwrap();
    let auth = format!("authorization: Bearer {}", world.token().unwrap());
    let mut raw = world.raw(&[]).unwrap();
    let mut sent = 0;
    for case in corpus() {
        let one = matches!(&case.expect, Expect::Goes(all) if all.len() == 1 && all[0].0 != "HEAD");
        let text = replaced(&case.bytes, b"connection: close", b"x-own: 1");
        if !one || text == case.bytes || case.family == "pipeline" {
            continue;
        }
        raw.send(replaced(&text, b"AUTH", auth.as_bytes())).unwrap();
        raw.until("\"}").unwrap_or_else(|e| panic!("{}: {}: {e:#}", case.family, case.name));
        sent += 1;
    }
    let last = case::head("GET /sentinel HTTP/1.1", "").replace("AUTH", &auth);
    raw.send(last).unwrap();
    raw.until("\"}").unwrap();
    sent += 1;
    let mut seen = target.seen_with("/sentinel").unwrap();
    seen.sort();
    assert!(sent > 150 && seen.len() == sent, "{sent} were sent, {} were read", seen.len());
    let differ = differences(&recorded(&world, target.port()), &seen);
    assert!(differ.is_empty(), "-: read but not on record, +: the reverse: {}", differ.join("\n"));
    world.verified().unwrap();
}

#[test]
fn before_node() {
    before(Hand::Node);
}

#[test]
fn before_h11() {
    before(Hand::Python);
}

/// Two readers in a row: a proxy that keeps its connections, and a server behind it.
fn nginx_before(target: &Target) -> (Nginx, World) {
    let authority = Authority::new("nginx").unwrap();
    let body = format!(
        "location / {{ proxy_pass http://127.0.0.1:{}; proxy_http_version 1.1;\n\
         proxy_set_header Connection ''; proxy_set_header Host localhost:{}; }}",
        target.port(),
        target.port()
    );
    let nginx = Nginx::with(&authority, &body).unwrap();
    let api = ApiSpec::new("api", nginx.port()).tls(&authority).http("version = \"1.1\"");
    let world = World::start(EVERYTHING, &[api]).unwrap();
    (nginx, world)
}

#[test]
fn before_nginx_before_go() {
    let target = Target::start(Hand::Go).unwrap();
    let (_nginx, world) = nginx_before(&target);
    through(&world, &target);
}

#[test]
fn mutants_before_nginx_before_go() {
    let target = Target::start(Hand::Go).unwrap();
    let (_nginx, world) = nginx_before(&target);
    changed_by_chance(&world, &target, 5);
}

/// Before a target that keeps every byte: what is refused and what a client claims arrive in no form.
#[test]
fn before_one_that_keeps_every_byte() {
    let target = Recorder::start().unwrap();
    let world = World::start(EVERYTHING, &[ApiSpec::new("api", target.port())]).unwrap();
    let auth = format!("authorization: Bearer {}", world.token().unwrap());
    let all = corpus();
    let mut wrong = Vec::new();
    let mut families: BTreeMap<&str, usize> = BTreeMap::new();
    for case in &all {
        *families.entry(case.family).or_default() += 1;
        target.forget();
        if let Err(why) = send(&world, &auth, case) {
            wrong.push(why);
        }
        let got = target.got();
        if got.contains("smuggled") || got.contains("Bearer") {
            wrong.push(format!("{}: {}: the target got {got}", case.family, case.name));
        }
    }
    for (family, rows) in &families {
        eprintln!("{family}: {rows}");
    }
    assert!(wrong.is_empty(), "{} of {}: {}", wrong.len(), all.len(), wrong.join("\n"));
    world.verified().unwrap();
}

/// What one session has on record: requests that the target answered, and requests that may have
/// reached it though nobody has its answer.
fn sent(world: &World, id: &str, port: u16) -> (Vec<Seen>, Vec<Seen>) {
    let archive = world.gateway.cli(&["sessions", "replay", id, "--har", "--offline"]).unwrap();
    let archive: Value = serde_json::from_str(&archive.success().unwrap()).unwrap();
    let (mut answered, mut open) = (Vec::new(), Vec::new());
    for entry in archive["log"]["entries"].as_array().unwrap() {
        let request = &entry["request"];
        let url = request["url"].as_str().unwrap();
        let path = url.find("//").and_then(|at| url[at + 2..].find('/').map(|end| at + 2 + end));
        let body = request["postData"]["text"].as_str().unwrap_or_default().as_bytes();
        let body = match request["postData"]["encoding"].as_str() {
            Some(_) => base64::engine::general_purpose::STANDARD.decode(body).unwrap(),
            None => body.to_vec(),
        };
        let one = Seen {
            method: request["method"].as_str().unwrap().to_owned(),
            target: url[path.unwrap()..].to_owned(),
            host: format!("localhost:{port}"),
            body: digest(&body),
        };
        match entry["response"]["status"].as_i64() {
            Some(200) => answered.push(one),
            Some(0 | 502) => open.push(one),
            Some(400..500) => {}
            status => panic!("{status:?}: {one:?}"),
        }
    }
    (answered, open)
}

/// Requests that chance has changed: whatever comes of them, a target reads what is on record, and
/// as many requests as are.
fn changed_by_chance(world: &World, target: &Target, seed: u64) {
    let auth = format!("authorization: Bearer {}", world.token().unwrap());
    let all = mutants::all(seed, MUTANTS);
    for changed in &all {
        let mut raw = world.raw(&[]).unwrap();
        // The gateway may close before all of it is written, or wait for more, which does not come.
        let _ = raw.send(replaced(changed, b"AUTH", auth.as_bytes()));
        let _ = raw.closes_within(Duration::from_secs(2));
    }
    assert!(world.curl("/sentinel", &["--http1.1"]).unwrap().out().contains(" 200"));
    let seen = target.seen_with("/sentinel").unwrap();
    let listed = world.gateway.cli(&["sessions", "ls", "--json", "--limit", "100000"]).unwrap();
    let listed: Value = serde_json::from_str(&listed.success().unwrap()).unwrap();
    let ids = listed.as_array().unwrap().iter().map(|one| one["session"].as_str().unwrap());
    let (mut answered, mut open) = (Vec::new(), Vec::new());
    for (own, others) in ids.map(|id| sent(world, id, target.port())) {
        answered.extend(own);
        open.extend(others);
    }
    let mut wrong = Vec::new();
    let mut left = answered.clone();
    for one in &seen {
        let all = [&mut left, &mut open];
        let found = all.into_iter().find_map(|own| {
            let at = own.iter().position(|recorded| recorded == one)?;
            Some(own.swap_remove(at))
        });
        if found.is_none() {
            wrong.push(format!("read, and not on record: {one:?}"));
        }
    }
    wrong.extend(left.iter().map(|one| format!("on record, and not read: {one:?}")));
    assert!(wrong.is_empty(), "seed {seed}: {}", wrong.join("\n"));
    // Of those that were not changed some pass, and of the others not all.
    let (sent, passed) = (all.len() * 3, answered.len());
    eprintln!("{passed} of about {sent} requests passed; {} were cut off", open.len());
    assert!(passed > sent / 9 && passed < sent * 9 / 10, "{passed} of {sent}");
}

fn mutants_before(hand: Hand, seed: u64) {
    let target = Target::start(hand).unwrap();
    let world = World::start(EVERYTHING, &[ApiSpec::new("api", target.port())]).unwrap();
    changed_by_chance(&world, &target, seed);
}

#[test]
fn mutants_before_go() {
    mutants_before(Hand::Go, 1);
}

#[test]
fn mutants_before_node() {
    mutants_before(Hand::Node, 2);
}

#[test]
fn mutants_before_h11() {
    mutants_before(Hand::Python, 3);
}

/// One whole answer at the beginning of `got`: its length. None: it is cut short.
fn answer_length(got: &[u8], asked: &str) -> Result<Option<usize>, String> {
    let Some(end) = got.windows(4).position(|window| window == b"\r\n\r\n") else {
        return Ok(None);
    };
    let head = String::from_utf8_lossy(&got[..end]).into_owned();
    let status = head.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3));
    let status = status.ok_or("it does not begin with an answer")?;
    let value = |name: &str| head.lines().find_map(|line| line.strip_prefix(name));
    let rest = &got[end + 4..];
    let whole = |length: usize| (rest.len() >= length).then_some(end + 4 + length);
    if asked == "HEAD" || matches!(status, "204" | "304") {
        return Ok(Some(end + 4));
    }
    if let Some(length) = value("content-length: ") {
        return Ok(whole(length.parse().map_err(|_| "an odd length")?));
    }
    value("transfer-encoding: chunked").ok_or("no end")?;
    let mut at = 0;
    loop {
        let Some(line) = rest[at..].windows(2).position(|pair| pair == b"\r\n") else {
            return Ok(None);
        };
        let size = std::str::from_utf8(&rest[at..at + line]).unwrap_or("odd");
        let size = usize::from_str_radix(size, 16).map_err(|_| "no chunk")?;
        at += line + 2 + size + 2;
        if rest.len() < at {
            return Ok(None);
        }
        if &rest[at - 2..at] != b"\r\n" {
            return Err("a chunk does not end".into());
        }
        if size == 0 {
            return Ok(whole(at));
        }
    }
}

/// Answers that chance has changed: whatever comes of them, a client reads one answer to each
/// request, whole or cut short with its connection, and the record holds what it got.
#[test]
fn mutants_behind_the_gateway() {
    const SEED: u64 = 4;
    let target = Recorder::start().unwrap();
    let api = ApiSpec::new("api", target.port()).http("first_byte = \"1s\"\nidle = \"1s\"");
    let world = World::start(EVERYTHING, &[api]).unwrap();
    let auth = format!("authorization: Bearer {}", world.token().unwrap());
    let (mut whole, mut wrong) = (0, Vec::new());
    for (number, changed) in mutants::answers(SEED, MUTANTS).into_iter().enumerate() {
        target.answer(Some(&changed));
        target.closes(number % 3 > 0);
        let methods = [["GET", "POST"], ["HEAD", "GET"], ["POST", "HEAD"]][number % 3];
        let ask = |at: usize, more| case::head(&format!("{} /a HTTP/1.1", methods[at]), more);
        let mut raw = world.raw(&[]).unwrap();
        let both = [ask(0, ""), ask(1, "connection: close")].concat();
        raw.send(both.replace("AUTH", &auth)).unwrap();
        let got = raw.rest();
        let read = methods.iter().try_fold((0, 0), |(at, count), asked| {
            let length = answer_length(&got[at..], asked)?;
            Ok::<_, String>(length.map_or((got.len(), count), |n| (at + n, count + 1)))
        });
        let listed = world.gateway.cli(&["sessions", "ls", "--json"]).unwrap().success().unwrap();
        let listed: Value = serde_json::from_str(&listed).unwrap();
        let id = listed[0]["session"].as_str().unwrap();
        let held = world.gateway.cli(&["sessions", "replay", id, "--raw"]).unwrap();
        let plain = |text: &str| text.replace("connection: close\r\n", "");
        let held = plain(&held.success().unwrap());
        let shown = plain(&String::from_utf8_lossy(&got));
        let fits = match read {
            Ok((end, 2)) => end == got.len() && shown == held,
            Ok(_) => held.starts_with(&shown),
            Err(_) => false,
        };
        whole += usize::from(matches!(read, Ok((_, 2))));
        if !fits {
            let changed = String::from_utf8_lossy(&changed).into_owned();
            wrong.push(format!("{changed:?}: {read:?}: {shown:?}, on record {held:?}"));
        }
    }
    assert!(wrong.is_empty(), "{} of {MUTANTS}: {}", wrong.len(), wrong.join("\n"));
    assert!(whole > MUTANTS / 5, "{whole} of {MUTANTS} went well");
}

/// The status of the answer to a row in HTTP/2; none: the stream or the connection was ended.
fn ask(world: &World, auth: &str, row: &streams::Row) -> Option<u16> {
    let mut raw = world.raw(&["h2"]).unwrap();
    raw.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").unwrap();
    raw.send([frame(SETTINGS, 0, 0, &[]), frame(SETTINGS, 1, 0, &[])].concat()).unwrap();
    let block = |fields: &[streams::Field]| {
        let one = |(name, value): &streams::Field| match &value[..] {
            b"AUTH" => field_of(name, auth.as_bytes()),
            value => field_of(name, value),
        };
        fields.iter().flat_map(one).collect::<Vec<u8>>()
    };
    let end = if row.data.is_none() { END_STREAM } else { 0 };
    let mut sent = vec![frame(HEADERS, END_HEADERS | end, 1, &block(&row.fields))];
    let pieces = row.data.iter().flatten();
    let last = row.data.as_ref().map_or(0, Vec::len);
    for (at, piece) in pieces.enumerate() {
        let ends = at + 1 == last && row.trailers.is_empty();
        let end = if ends { END_STREAM } else { 0 };
        sent.push(frame(DATA, end, 1, piece.as_bytes()));
    }
    if !row.trailers.is_empty() {
        sent.push(frame(HEADERS, END_HEADERS | END_STREAM, 1, &block(&row.trailers)));
    }
    // The gateway may close before all of it is written.
    let _ = raw.send(sent.concat());
    loop {
        match raw.frame(Duration::from_secs(20)) {
            Some((HEADERS, _, 1, block)) => {
                return Some(status(&block).unwrap_or_else(|| panic!("{}: {block:?}", row.name)));
            }
            Some((RST_STREAM | GOAWAY, ..)) | None => return None,
            Some(_) => {}
        }
    }
}

/// What is a request in HTTP/2 is one and the same in HTTP/1.1, or none.
#[test]
fn streams_before_go() {
    let target = Target::start(Hand::Go).unwrap();
    let world = World::start(EVERYTHING, &[ApiSpec::new("api", target.port())]).unwrap();
    let auth = format!("Bearer {}", world.token().unwrap());
    let host = format!("localhost:{}", target.port());
    let seen = |method: &str, target: &str, body: &str| Seen {
        method: method.to_owned(),
        target: target.to_owned(),
        host: host.clone(),
        body: digest(body.as_bytes()),
    };
    let all = streams::all();
    let mut expected = vec![seen("GET", "/sentinel", "")];
    let mut wrong = Vec::new();
    for row in &all {
        let answer = ask(&world, &auth, row);
        let fits = match &row.goes {
            Some((method, target, body)) => {
                expected.push(seen(method, target, body));
                answer == Some(200)
            }
            // A 502 would say that it was let through, and could not be sent.
            None => answer.is_none_or(|status| (400..500).contains(&status) || status == 501),
        };
        if !fits {
            wrong.push(format!("{}: {answer:?}", row.name));
        }
    }
    assert!(wrong.is_empty(), "{} of {}: {}", wrong.len(), all.len(), wrong.join("\n"));
    assert!(world.curl("/sentinel", &[]).unwrap().out().contains(" 200"));
    let differ = differences(&expected, &target.seen_with("/sentinel").unwrap());
    assert!(differ.is_empty(), "-: read but not judged so, +: the reverse: {}", differ.join("\n"));
    eprintln!("streams: {}", all.len());
    world.verified().unwrap();
}

/// Several principals on one connection of a client, many requests at once: each gets its own.
const MIXED: &str = r#"
import asyncio, hashlib, httpx, json, os, random, ssl
context = ssl.create_default_context(cafile=os.environ["ROOT"])
tokens, url = os.environ["TOKENS"].split(), os.environ["URL"]
async def one(client, who, number):
    body = f"{who} {number} ".encode() * random.Random(f"{who}-{number}").randrange(1, 20000)
    path = f"/p/{who}/{number}"
    headers = {"authorization": "Bearer " + tokens[who]}
    method = ["POST", "PUT", "DELETE", "PATCH"][number % 4]
    async def pieces():
        yield body[:len(body) // 2]
        yield body[len(body) // 2:]
    content = pieces() if number % 3 == 0 else body
    answer = await client.request(method, url + path, headers=headers, content=content)
    got = json.loads(answer.content)
    assert answer.status_code == 200, answer.text
    assert got["target"] == path and got["body"] == hashlib.sha256(body).hexdigest(), (path, got)
async def main():
    limits = httpx.Limits(max_connections=6, max_keepalive_connections=6)
    for two in (True, False):
        async with httpx.AsyncClient(http2=two, http1=not two, verify=context, limits=limits, timeout=120) as client:
            await asyncio.gather(*(one(client, who, n) for n in range(40) for who in range(len(tokens))))
asyncio.run(main())
print("own")
"#;

#[test]
fn nobody_gets_what_is_anothers() {
    let target = Target::start(Hand::Go).unwrap();
    let world = World::start(EVERYTHING, &[ApiSpec::new("api", target.port())]).unwrap();
    let mint =
        |at: usize| world.issuer.mint().unwrap().subject(&format!("app-{at}")).token().unwrap();
    let tokens: Vec<String> = (0..6).map(mint).collect();
    let env = [
        ("URL", world.url("")),
        ("ROOT", world.gateway.root_pem().display().to_string()),
        ("TOKENS", tokens.join(" ")),
    ];
    let program = python(MIXED, &env).unwrap();
    let done = capture(program, None, Duration::from_secs(240)).unwrap().success().unwrap();
    assert_eq!(done.trim(), "own");
    let who = |one: &Seen| one.target.split('/').nth(2).unwrap_or_default().to_owned();
    let seen = target.seen().unwrap();
    for at in 0..6 {
        let own = seen.iter().filter(|one| who(one) == at.to_string()).count();
        assert!(own <= 80, "{own} of one principal");
    }
    world.verified().unwrap();
}
