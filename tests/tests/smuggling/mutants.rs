//! Requests that chance has changed, always the same ones for a seed.
//!
//! Nobody knows beforehand what may come of one. What is on record must be what was read.

use bulla_e2e::dice::Dice;

use super::case::bytes;

/// What readers differ about.
const BITS: &[&str] = &[
    "\r",
    "\n",
    "\r\n",
    "\r\r\n",
    "\n\r",
    "\0",
    " ",
    "\t",
    "\u{b}",
    "\u{c}",
    ":",
    ",",
    ";",
    "=",
    "\"",
    "\\",
    "%",
    "%0d%0a",
    "%2f",
    "%00",
    "/",
    "?",
    "#",
    "+",
    "-",
    "_",
    "0x",
    "0",
    "00",
    "f",
    "\u{7f}",
    "\u{80}",
    "\u{85}",
    "\u{a0}",
    "\u{c2}\u{a0}",
    "\u{ff}",
    "HTTP/1.1",
    "0\r\n\r\n",
];

/// Lines that say where a message ends, or what the connection becomes.
const LINES: &[&str] = &[
    "content-length: 0",
    "content-length: 5",
    "Content-Length: 40",
    "content-length: 00",
    "content-length: 40, 40",
    "content-length:",
    "x-content-length: 5",
    "transfer-encoding: chunked",
    "Transfer-Encoding: Chunked",
    "transfer-encoding: identity",
    "transfer-encoding: gzip, chunked",
    "transfer-encoding:\tchunked",
    "te: trailers, chunked",
    "trailer: content-length",
    "expect: 100-continue",
    "expect: 100-Continue",
    "expect: 200-ok",
    "connection: close",
    "connection: keep-alive",
    "connection: content-length",
    "connection: transfer-encoding, close",
    "connection: keep-alive, te",
    "keep-alive: timeout=0",
    "proxy-connection: close",
    "upgrade: h2c",
    "connection: upgrade\r\nupgrade: websocket",
    "host: localhost",
    "host: other",
    "x: y\r\n z",
    "x-a: b",
    "range: bytes=0-1",
    "content-encoding: gzip",
];

/// A request that is good in itself. Its body is one, too: read as such, it would come to light.
fn seed(dice: &mut Dice, number: usize) -> String {
    let own = "host: localhost\r\nAUTH\r\n";
    let inner = format!("GET /inner/{number} HTTP/1.1\r\n{own}\r\n");
    // Of the length that it has once it is sent.
    let inner = inner.replace("AUTH", "x-a: b");
    let length = inner.len();
    let (one, two) = inner.split_at(dice.below(length));
    let chunk = |text: &str| match text.len() {
        0 => String::new(),
        length => format!("{length:x}\r\n{text}\r\n"),
    };
    let chunks = [chunk(one), chunk(two)].concat();
    let method = dice.one(&["POST", "PUT", "PATCH", "DELETE"]);
    match dice.below(6) {
        0 => format!("GET /get/{number}?a=b HTTP/1.1\r\n{own}\r\n"),
        1 => format!("HEAD /head/{number} HTTP/1.1\r\n{own}\r\n"),
        2 => format!("{method} /none/{number} HTTP/1.1\r\n{own}\r\n"),
        3 => format!(
            "{method} /own/{number} HTTP/1.1\r\n{own}content-length: {length}\r\n\r\n{inner}"
        ),
        4 => format!(
            "{method} /own/{number} HTTP/1.1\r\n{own}expect: 100-continue\r\n\
             content-length: {length}\r\n\r\n{inner}"
        ),
        _ => format!(
            "{method} /own/{number} HTTP/1.1\r\n{own}transfer-encoding: chunked\r\n\r\n\
             {chunks}0\r\n{}\r\n",
            dice.one(&["", "x-own: trailer\r\n"])
        ),
    }
}

/// One change, most often where a message is framed.
fn change(dice: &mut Dice, text: &mut String) {
    let head = text.find("\r\n\r\n").map_or(text.len(), |at| at + 4);
    let within = if dice.below(4) == 0 { text.len() } else { head };
    let mut at = dice.below(within);
    // Somewhere in a line, or just where one begins.
    if dice.below(3) == 0 {
        at = text.get(..at).and_then(|before| before.rfind("\r\n")).map_or(0, |end| end + 2);
    }
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    let wide = text[at..].chars().next().map_or(0, char::len_utf8);
    let line = text[at..].find("\r\n").map_or(text.len(), |end| at + end + 2);
    match dice.below(8) {
        0 => text.insert_str(at, dice.one(BITS)),
        1 => text.replace_range(at..at + wide, dice.one(BITS)),
        2 => text.replace_range(at..at + wide, ""),
        3 | 4 => {
            let begins = text[..at].rfind("\r\n").map_or(0, |end| end + 2);
            let begins =
                if begins == 0 { text.find("\r\n").map_or(0, |end| end + 2) } else { begins };
            text.insert_str(begins, &format!("{}\r\n", dice.one(LINES)));
        }
        5 => {
            let again = text[at..line].to_owned();
            text.insert_str(line, &again);
        }
        6 => {
            let end = text[at..].find("\r\n").map(|end| at + end);
            if let Some(end) = end {
                text.replace_range(
                    end..end + 2,
                    dice.one(&["\n", "\r", "\r\r\n", "\n\r\n", " \r\n"]),
                );
            }
        }
        _ => {
            let digit = text[at..].find(|c: char| c.is_ascii_digit()).map(|found| at + found);
            if let Some(digit) = digit {
                text.replace_range(
                    digit..=digit,
                    dice.one(&["0", "1", "3", "7", "9", "a", "F", "10"]),
                );
            }
        }
    }
}

/// What one client sends: two or three requests, of which one was changed, and one that ends the
/// connection. No number is used twice.
pub fn all(seed_of: u64, count: usize) -> Vec<Vec<u8>> {
    let mut dice = Dice(seed_of);
    (0..count)
        .map(|number| {
            let mut parts = vec![seed(&mut dice, number * 10), seed(&mut dice, number * 10 + 1)];
            let which = dice.below(parts.len());
            for _ in 0..=dice.below(2) {
                change(&mut dice, &mut parts[which]);
            }
            parts.push(format!(
                "GET /end/{number} HTTP/1.1\r\nhost: localhost\r\nAUTH\r\nconnection: close\r\n\r\n"
            ));
            bytes(&parts.concat())
        })
        .collect()
}

/// An answer that is good in itself. Its body is one, too.
fn answer(dice: &mut Dice) -> String {
    let inner = "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\ninner";
    let (one, two) = inner.split_at(1 + dice.below(inner.len() - 1));
    let length = inner.len();
    match dice.below(6) {
        0 | 1 => format!("HTTP/1.1 200 OK\r\nx-a: b\r\ncontent-length: {length}\r\n\r\n{inner}"),
        2 => format!(
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n{:x}\r\n{one}\r\n\
             {:x}\r\n{two}\r\n0\r\n{}\r\n",
            one.len(),
            two.len(),
            dice.one(&["", "x-own: trailer\r\n"])
        ),
        3 => format!("HTTP/1.1 200 OK\r\nx-a: b\r\n\r\n{inner}"),
        4 => format!("HTTP/1.1 {} None\r\nx-a: b\r\n\r\n", dice.one(&["204", "304", "205"])),
        _ => "HTTP/1.1 103 Hints\r\nlink: x\r\n\r\n\
              HTTP/1.1 404 No\r\ncontent-length: 0\r\n\r\n"
            .to_owned(),
    }
}

/// What a target answers: one answer, changed once or twice.
pub fn answers(seed_of: u64, count: usize) -> Vec<Vec<u8>> {
    let mut dice = Dice(seed_of);
    (0..count)
        .map(|_| {
            let mut text = answer(&mut dice);
            for _ in 0..=dice.below(2) {
                change(&mut dice, &mut text);
            }
            bytes(&text)
        })
        .collect()
}
