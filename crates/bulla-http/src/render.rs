//! The record, read back: answers as a person reads them, and requests written by hand.

use bulla_core::{Command, FactSpec};

use crate::{
    api::Api,
    head::Head,
    reading,
    wire::{self, Limits},
    ws::{self, Event, Reader},
};

/// Lines of one body that are shown.
const LINES_MAX: usize = 2_000;

/// A recorded response, or what is left of it: head lines, and the body as text or by its size.
pub fn render(recorded: &[u8]) -> Vec<String> {
    let Some(end) = recorded.windows(4).position(|window| window == b"\r\n\r\n") else {
        return match recorded.len() {
            0 => Vec::new(),
            n => vec![format!("{n} bytes")],
        };
    };
    let (head, rest) = recorded.split_at(end + 4);
    let text = String::from_utf8_lossy(head);
    let mut lines: Vec<String> =
        text.lines().take_while(|l| !l.is_empty()).map(Into::into).collect();
    let chunked = lines.iter().any(|line| line == "transfer-encoding: chunked");
    if text.starts_with("HTTP/1.1 101") {
        lines.extend(messages(rest));
        return lines;
    }
    let (body, trailers) = if chunked { unchunk(rest) } else { (rest.to_vec(), Vec::new()) };
    match std::str::from_utf8(&body) {
        Ok("") => {}
        Ok(text) => lines.extend(text.lines().take(LINES_MAX).map(Into::into)),
        Err(_) => lines.push(format!("{} bytes that are no text", body.len())),
    }
    lines.extend(trailers);
    lines
}

/// A recorded body out of its chunks, and the trailers behind it.
pub fn unchunk(mut rest: &[u8]) -> (Vec<u8>, Vec<String>) {
    let mut body = Vec::new();
    while let Some(end) = rest.windows(2).position(|window| window == b"\r\n") {
        let (line, after) = rest.split_at(end);
        let size = std::str::from_utf8(line).ok().and_then(|l| usize::from_str_radix(l, 16).ok());
        let after = after.get(2..).unwrap_or_default();
        match size {
            Some(0) => {
                let text = String::from_utf8_lossy(after);
                let lines = text.lines().take_while(|line| !line.is_empty());
                return (body, lines.map(Into::into).collect());
            }
            Some(size) => {
                body.extend_from_slice(after.get(..size).unwrap_or(after));
                rest = after.get(size + 2..).unwrap_or_default();
            }
            None => break,
        }
    }
    (body, Vec::new())
}

fn messages(recorded: &[u8]) -> Vec<String> {
    let mut reader = Reader::new(ws::From::Server);
    reader.buffer().extend_from_slice(recorded);
    let mut lines = Vec::new();
    while let Ok(Some(event)) = reader.next() {
        lines.push(match event {
            Event::Text(text) => format!("< {}", String::from_utf8_lossy(&text)),
            Event::Binary(bytes) => format!("< {} bytes", bytes.len()),
            Event::Close(Some((code, reason))) => format!("< close {code} {reason}"),
            Event::Close(None) => "< close".into(),
            Event::Ping(_) | Event::Pong => continue,
        });
    }
    lines
}

/// Reads a request that a person wrote: `GET /orders/1`, then headers, an empty line and a body.
pub fn read(api: &Api, text: &str, facts: &[FactSpec]) -> Result<Command, String> {
    let (head, body) = by_hand(api, text)?;
    reading::request(api, &head, body, facts).map_err(|fault| fault.to_string())
}

/// Completes such a reading by what of the answer may not be seen by whom `reveals` answers for, and
/// says what that is. An error: it could not be masked.
pub fn mask(
    api: &Api,
    text: &str,
    command: &mut Command,
    reveals: &dyn Fn(&str) -> bool,
) -> Result<Vec<String>, String> {
    let (head, body) = by_hand(api, text)?;
    let plan = api.masks.plan(&head.method, &head.segments, reveals);
    let Some(plan) = plan else { return Ok(Vec::new()) };
    reading::complete(api, &head, body, &plan, command).map_err(|fault| fault.to_string())?;
    Ok(plan.hidden.words())
}

fn by_hand<'a>(api: &Api, text: &'a str) -> Result<(Head, Option<&'a [u8]>), String> {
    let ends =
        ["\n\n", "\r\n\r\n"].into_iter().filter_map(|end| Some((text.find(end)?, end.len())));
    let (head, body) = match ends.min() {
        Some((at, end)) => (
            text.get(..at).unwrap_or_default(),
            text.get(at + end..).map(str::trim_end).filter(|body| !body.is_empty()),
        ),
        None => (text.trim_end(), None),
    };
    let mut lines = head.lines();
    let line = lines.next().unwrap_or_default().trim();
    let line = line.strip_suffix(" HTTP/1.1").unwrap_or(line);
    let mut raw = format!("{line} HTTP/1.1\r\n");
    let mut named = false;
    for line in lines {
        named |= line.to_ascii_lowercase().starts_with("host:");
        raw.push_str(line.trim_end());
        raw.push_str("\r\n");
    }
    if !named {
        let host = api.hosts.first().map_or("localhost", String::as_str);
        raw.push_str(&format!("host: {host}\r\n"));
    }
    raw.push_str("\r\n");
    let strict = wire::request_head(raw.as_bytes(), &Limits::default());
    let strict = strict.map_err(|fault| {
        format!("{fault}; headers follow the first line, and a body comes after an empty line")
    })?;
    let mut head = Head::of_one(&strict, None).map_err(|fault| fault.to_string())?;
    head.length = body.map(|body| body.len() as u64);
    Ok((head, body.map(str::as_bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_read_back() {
        for (recorded, expect) in [
            (
                "HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\na\nb",
                &["HTTP/1.1 200 OK", "content-length: 3", "a", "b"][..],
            ),
            (
                "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n1\r\n!\r\n0\r\ngrpc-status: 0\r\n\r\n",
                &["HTTP/1.1 200 OK", "transfer-encoding: chunked", "hi!", "grpc-status: 0"],
            ),
            (
                "HTTP/1.1 101 Switching Protocols\r\n\r\n\u{1}",
                &["HTTP/1.1 101 Switching Protocols"],
            ),
            ("", &[]),
            ("abc", &["3 bytes"]),
        ] {
            assert_eq!(render(recorded.as_bytes()), expect, "{recorded:?}");
        }
    }

    #[test]
    fn requests_by_hand_are_read_as_on_the_wire() {
        let api = Api::new("api", "t");
        let facts = crate::DESCRIPTOR.facts;
        let command = read(&api, "POST /a?b=1\ncontent-type: text/plain\n\nhello", facts).unwrap();
        assert_eq!(command.action.as_str(), "http:post");
        assert_eq!(&*command.shown, "POST /a?b=1\nhello");
        let wire = "POST /a HTTP/1.1\r\nhost: api\r\ncontent-type: text/plain\r\n\r\nhel\n\nlo";
        assert_eq!(&*read(&api, wire, facts).unwrap().shown, "POST /a\nhel\n\nlo");
        let bodiless = read(&api, "GET /a HTTP/1.1\r\nhost: api\r\n\r\n", facts).unwrap();
        assert_eq!(&*bodiless.shown, "GET /a");
        let close = read(&api, "POST /a\n{\"amount\":5}", facts).unwrap_err();
        assert!(close.contains("a body comes after an empty line"), "{close}");
        assert!(read(&api, "GET /a/../b", facts).is_err());
        assert!(read(&api, "GET", facts).is_err());
    }
}
