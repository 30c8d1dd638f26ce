//! HTTP Archive 1.2, out of recorded exchanges.

use base64::Engine as _;
use serde_json::{Value, json};

use crate::render::unchunk;

/// One recorded exchange.
#[derive(Debug, Clone, Default)]
pub struct Recorded {
    /// RFC 3339.
    pub started: String,
    pub took_ms: f64,
    /// A request of HTTP/1.1 as it was recorded.
    pub request: Vec<u8>,
    /// The same of its response; empty where nothing was sent.
    pub response: Vec<u8>,
    /// Why there is no response, or how it ended.
    pub comment: String,
}

/// A message taken apart: its first line, headers, and body.
struct Message {
    first: String,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Message {
    fn read(bytes: &[u8]) -> Option<Self> {
        let end = bytes.windows(4).position(|window| window == b"\r\n\r\n")?;
        let (head, rest) = bytes.split_at(end + 4);
        let text = String::from_utf8_lossy(head);
        let mut lines = text.lines().filter(|line| !line.is_empty());
        let first = lines.next()?.to_owned();
        let headers: Vec<(String, String)> = lines
            .filter_map(|line| line.split_once(": "))
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        let chunked = headers.iter().any(|(n, v)| n == "transfer-encoding" && v == "chunked");
        let body = if chunked { unchunk(rest).0 } else { rest.to_vec() };
        Some(Self { first, headers, body })
    }
    fn header(&self, name: &str) -> &str {
        let found = self.headers.iter().find(|(own, _)| own == name);
        found.map_or("", |(_, value)| value.as_str())
    }
    fn headers_json(&self) -> Value {
        self.headers.iter().map(|(name, value)| json!({ "name": name, "value": value })).collect()
    }
    /// Text, or base64 with its encoding.
    fn content(&self) -> Value {
        let kind = self.header("content-type");
        match std::str::from_utf8(&self.body) {
            Ok(text) => json!({ "size": self.body.len(), "mimeType": kind, "text": text }),
            Err(_) => {
                let text = base64::engine::general_purpose::STANDARD.encode(&self.body);
                let size = self.body.len();
                json!({ "size": size, "mimeType": kind, "text": text, "encoding": "base64" })
            }
        }
    }
}

/// The archive. What cannot be read as HTTP is left out.
pub fn har(recorded: &[Recorded]) -> Value {
    let entries: Vec<Value> = recorded.iter().filter_map(entry).collect();
    json!({ "log": {
        "version": "1.2",
        "creator": { "name": "bulla", "version": env!("CARGO_PKG_VERSION") },
        "entries": entries,
    } })
}

fn entry(recorded: &Recorded) -> Option<Value> {
    let request = Message::read(&recorded.request)?;
    let mut words = request.first.split(' ');
    let (method, target) = (words.next()?, words.next()?);
    let query = target.split_once('?').map_or("", |(_, query)| query);
    let query: Vec<Value> = query
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .map(|(name, value)| json!({ "name": name, "value": value }))
        .collect();
    let mut asked = json!({
        "method": method, "url": format!("https://{}{target}", request.header("host")),
        "httpVersion": "HTTP/1.1", "cookies": [], "headers": request.headers_json(),
        "queryString": query, "headersSize": -1, "bodySize": request.body.len(),
    });
    if !request.body.is_empty() {
        asked["postData"] = request.content();
    }
    let answered = match Message::read(&recorded.response) {
        Some(response) => {
            let mut words = response.first.splitn(3, ' ').skip(1);
            let status: u16 = words.next().and_then(|word| word.parse().ok()).unwrap_or(0);
            json!({
                "status": status, "statusText": words.next().unwrap_or(""),
                "httpVersion": "HTTP/1.1", "cookies": [], "headers": response.headers_json(),
                "content": response.content(), "redirectURL": response.header("location"),
                "headersSize": -1, "bodySize": response.body.len(),
            })
        }
        None => json!({
            "status": 0, "statusText": "", "httpVersion": "HTTP/1.1", "cookies": [],
            "headers": [], "content": { "size": 0, "mimeType": "" }, "redirectURL": "",
            "headersSize": -1, "bodySize": -1,
        }),
    };
    Some(json!({
        "startedDateTime": recorded.started, "time": recorded.took_ms, "request": asked,
        "response": answered, "cache": {}, "comment": recorded.comment,
        "timings": { "send": 0, "wait": recorded.took_ms, "receive": 0 },
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exchange_is_an_entry() {
        let recorded = Recorded {
            started: "2026-01-01T00:00:00.000Z".into(),
            took_ms: 1.5,
            request: b"POST /a?b=1 HTTP/1.1\r\nhost: api\r\ncontent-type: text/plain\r\ncontent-length: 2\r\n\r\nhi".to_vec(),
            response: b"HTTP/1.1 201 Created\r\ntransfer-encoding: chunked\r\n\r\n2\r\n\xff\xfe\r\n0\r\n\r\n".to_vec(),
            comment: "ok".into(),
        };
        let made = har(&[recorded.clone(), Recorded { response: Vec::new(), ..recorded }]);
        let entry = &made["log"]["entries"][0];
        assert_eq!(entry["request"]["url"], "https://api/a?b=1");
        assert_eq!(entry["request"]["postData"]["text"], "hi");
        assert_eq!(entry["request"]["queryString"][0]["name"], "b");
        assert_eq!(entry["response"]["status"], 201);
        assert_eq!(entry["response"]["content"]["encoding"], "base64");
        assert_eq!(made["log"]["entries"][1]["response"]["status"], 0);
    }
}
