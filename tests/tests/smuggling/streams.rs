//! The same in HTTP/2, where nothing ends in CR LF: what becomes of it in HTTP/1.1 (RFC 9113 8).

use super::addresses::{GOOD, QUERIES, TARGETS};
use super::case::bytes;
use super::heads::{CLAIMS, HOSTS, METHODS};

/// A field, as bytes.
pub type Field = (Vec<u8>, Vec<u8>);

/// A request on a stream.
#[derive(Clone, Debug)]
pub struct Row {
    pub name: String,
    pub fields: Vec<Field>,
    /// Pieces of the body; none: the head ends the stream.
    pub data: Option<Vec<&'static str>>,
    pub trailers: Vec<Field>,
    /// What the target reads; none: it is refused.
    pub goes: Option<(&'static str, String, &'static str)>,
}

fn field(name: &str, value: &str) -> Field {
    (bytes(name), bytes(value))
}

/// A head with other values in place of its own, and more behind them.
fn head(method: &str, path: &str, more: &[(&str, &str)]) -> Vec<Field> {
    let own =
        [(":method", method), (":scheme", "https"), (":authority", "localhost"), (":path", path)];
    let all = own.into_iter().chain([("authorization", "AUTH")]).chain(more.iter().copied());
    all.map(|(name, value)| field(name, value)).collect()
}

fn with(fields: Vec<Field>, name: &str) -> Row {
    let name = name.escape_debug().take(60).collect();
    Row { name, fields, data: None, trailers: Vec::new(), goes: None }
}

impl Row {
    fn data(mut self, data: &[&'static str]) -> Self {
        self.data = Some(data.to_vec());
        self
    }
    fn trailers(mut self, trailers: &[(&str, &str)]) -> Self {
        self.trailers = trailers.iter().map(|(name, value)| field(name, value)).collect();
        self
    }
    fn goes(mut self, method: &'static str, target: &str, body: &'static str) -> Self {
        self.goes = Some((method, target.to_owned(), body));
        self
    }
}

/// Names that are none, or not in HTTP/2.
const NAMES: &[&str] = &[
    "X-Own",
    "xOwn",
    "x y",
    "x:y",
    "x: y",
    ":x",
    ":smuggled",
    "x\r",
    "x\n",
    "x\r\ny",
    "x\0",
    "x\u{1}",
    "x\u{7f}",
    "x\u{80}",
    "x\u{c3}\u{a9}",
    "x\t",
    " x",
    "x ",
    "x(y",
    "x)y",
    "x,y",
    "x/y",
    "x;y",
    "x<y",
    "x=y",
    "x>y",
    "x?y",
    "x@y",
    "x[y",
    "x\\y",
    "x]y",
    "x{y",
    "x}y",
    "\"x\"",
    "x_y",
    "",
    "authorization_",
    "content_length",
    "transfer_encoding",
];

/// Values that would be more than one in HTTP/1.1, or are none.
const VALUES: &[&str] = &[
    "a\r\nx: b",
    "a\nx: b",
    "a\rx: b",
    "a\0b",
    "a\u{1}b",
    "a\u{8}b",
    "a\u{b}b",
    "a\u{c}b",
    "a\u{1b}b",
    "a\u{7f}b",
    "\r",
    "\n",
    "a\r\n",
    "a\r\n\r\nGET /smuggled HTTP/1.1\r\nhost: localhost\r\n\r\n",
    "\u{e9}",
    "\u{c0}\u{af}",
    "\u{ff}",
    "\u{ed}\u{a0}\u{80}",
];

/// Fields that speak of a connection, or against the request.
const FIELDS: &[(&str, &str)] = &[
    ("connection", "close"),
    ("connection", "x-own"),
    ("connection", "keep-alive"),
    ("connection", ""),
    ("keep-alive", "timeout=5"),
    ("proxy-connection", "keep-alive"),
    ("transfer-encoding", "chunked"),
    ("transfer-encoding", "identity"),
    ("transfer-encoding", ""),
    ("upgrade", "h2c"),
    ("upgrade", "websocket"),
    ("te", "gzip"),
    ("te", "chunked"),
    ("te", "trailers, chunked"),
    ("host", "other"),
    ("host", "localhost, other"),
    ("host", ""),
    ("host", "x@localhost"),
    ("expect", "x"),
    ("expect", "200-ok"),
    ("x-http-method-override", "DELETE"),
    ("x-method-override", "PUT"),
    ("x-original-url", "/smuggled"),
    ("x-rewrite-url", "/smuggled"),
    ("content-length", "5"),
    ("content-length", "+0"),
    ("content-length", "-0"),
    ("content-length", "0x0"),
    ("content-length", "0, 0"),
    ("content-length", ""),
    ("content-length", " 0"),
    ("content-length", "0 "),
    ("content-length", "00000000000000000000000000"),
    ("content-length", "18446744073709551616"),
    ("content-type", "a/b, c/d"),
    ("content-type", "json"),
    ("authorization", "Bearer x"),
    ("authorization", "Basic eDp5"),
];

pub fn all() -> Vec<Row> {
    let mut all = Vec::new();
    let own = |value: &str| !value.contains('#');
    for target in TARGETS.iter().filter(|target| own(target)) {
        all.push(with(head("GET", target, &[]), target));
    }
    for query in QUERIES.iter().filter(|query| own(query)) {
        all.push(with(head("POST", &format!("/smuggled?{query}"), &[]), query));
    }
    for (target, sent) in GOOD {
        all.push(with(head("GET", target, &[]), target).goes("GET", sent, ""));
    }
    for method in METHODS {
        all.push(with(head(method, "/smuggled", &[]), method));
    }
    for host in HOSTS {
        let mut fields = head("GET", "/smuggled", &[]);
        fields[2] = field(":authority", host);
        all.push(with(fields, host));
        fields = head("GET", "/smuggled", &[("host", host)]);
        fields.remove(2);
        all.push(with(fields, &format!("{host} as host")));
    }
    for scheme in [
        "http",
        "ftp",
        "",
        "https:",
        "https://other",
        "https ",
        "javascript",
        "HTTP",
        "https\r\nx: y",
    ] {
        let mut fields = head("GET", "/smuggled", &[]);
        fields[1] = field(":scheme", scheme);
        all.push(with(fields, &format!("scheme {scheme}")));
    }
    for name in NAMES {
        all.push(with(head("GET", "/smuggled", &[(name, "1")]), &format!("name {name}")));
    }
    for value in VALUES {
        all.push(with(head("GET", "/smuggled", &[("x", value)]), &format!("value {value}")));
        all.push(with(head("GET", "/smuggled", &[("cookie", value)]), &format!("cookie {value}")));
    }
    for (name, value) in FIELDS {
        all.push(with(head("GET", "/smuggled", &[(name, value)]), &format!("{name}: {value}")));
    }
    for name in CLAIMS {
        // These are of one connection, and there is no such thing here.
        let refused = ["proxy-connection", "keep-alive"].contains(name);
        let row = with(head("GET", "/a", &[(&name.to_lowercase(), "smuggled")]), name);
        all.push(if refused { row } else { row.goes("GET", "/a", "") });
    }
    all.extend(pseudo());
    all.extend(lengths());
    all
}

/// Pseudo-headers that stand twice, late, or not at all.
fn pseudo() -> Vec<Row> {
    let mut all = Vec::new();
    for (name, value) in [
        (":method", "DELETE"),
        (":scheme", "http"),
        (":authority", "other"),
        (":path", "/smuggled"),
    ] {
        let plain = head("GET", "/smuggled", &[]);
        let at = plain.iter().position(|(own, _)| *own == bytes(name)).unwrap();
        let mut fields = plain.clone();
        fields.insert(at, field(name, value));
        all.push(with(fields, &format!("{name} twice")));
        fields = plain.clone();
        fields.insert(at + 1, plain[at].clone());
        all.push(with(fields, &format!("{name} twice the same")));
        fields = plain.clone();
        fields.push(field(name, value));
        all.push(with(fields, &format!("{name} behind, too")));
        fields = plain.clone();
        let moved = fields.remove(at);
        fields.push(moved);
        all.push(with(fields, &format!("{name} behind")));
        fields = plain.clone();
        fields[at].0 = bytes(&name.to_uppercase());
        all.push(with(fields, &format!("{name} in capitals")));
        fields = plain.clone();
        fields.remove(at);
        all.push(with(fields, &format!("no {name}")));
    }
    for (name, value) in [
        (":status", "200"),
        (":protocol", "websocket"),
        (":version", "HTTP/1.1"),
        (":host", "other"),
    ] {
        let mut fields = head("GET", "/smuggled", &[]);
        fields.insert(0, field(name, value));
        all.push(with(fields, name));
    }
    let mut fields = head("GET", "/a", &[("host", "localhost")]);
    all.push(with(fields.clone(), "host beside").goes("GET", "/a", ""));
    fields.remove(2);
    all.push(with(fields, "host instead").goes("GET", "/a", ""));
    all.push(with(
        head("GET", "/smuggled", &[("host", "localhost"), ("host", "localhost")]),
        "two hosts",
    ));
    all.push(with(head("GET", "/a", &[("te", "trailers")]), "te: trailers").goes("GET", "/a", ""));
    let crumbs = [("cookie", "a=1"), ("cookie", "b=2")];
    all.push(with(head("GET", "/a", &crumbs), "crumbs").goes("GET", "/a", ""));
    all
}

/// Bodies of another length than was said, and where none can be.
fn lengths() -> Vec<Row> {
    let post = |more: &[(&str, &str)]| head("POST", "/a", more);
    let five = &[("content-length", "5")];
    let mut all = vec![
        with(post(five), "a length and no body"),
        with(post(five).clone(), "shorter").data(&["hell"]),
        with(post(five), "longer").data(&["hello!"]),
        with(post(five), "longer in pieces").data(&["hello", "GET /smuggled HTTP/1.1"]),
        with(post(&[("content-length", "0")]), "none said, some sent")
            .data(&["GET /smuggled HTTP/1.1\r\n\r\n"]),
        with(post(&[("content-length", "5"), ("content-length", "5")]), "twice").data(&["hello"]),
        with(post(&[("content-length", "5"), ("content-length", "6")]), "two").data(&["hello"]),
        with(head("GET", "/smuggled", five), "GET with a body").data(&["hello"]),
        with(head("GET", "/smuggled", &[]), "GET with a body, unsaid").data(&["hello"]),
        with(head("HEAD", "/smuggled", &[]), "HEAD with a body").data(&["hello"]),
        // The library takes these away, as the gateway does with all of them.
        with(post(&[]), "pseudo in trailers")
            .data(&["hello"])
            .trailers(&[(":path", "/smuggled")])
            .goes("POST", "/a", "hello"),
        with(post(&[]), "status in trailers")
            .data(&["hello"])
            .trailers(&[(":status", "200")])
            .goes("POST", "/a", "hello"),
        with(post(&[]), "capitals in trailers").data(&["hello"]).trailers(&[("X-Own", "1")]),
        with(post(&[]), "CR LF in trailers")
            .data(&["hello"])
            .trailers(&[("x", "a\r\nsmuggled: 1")]),
        with(post(&[]), "a connection in trailers")
            .data(&["hello"])
            .trailers(&[("connection", "close")]),
    ];
    for method in ["POST", "PUT", "PATCH", "DELETE", "OPTIONS"] {
        let row = |more: &[(&str, &str)]| with(head(method, "/a", more), method);
        all.push(row(&[]).goes(method, "/a", ""));
        all.push(row(five).data(&["he", "", "llo"]).goes(method, "/a", "hello"));
        all.push(row(&[]).data(&["he", "", "llo"]).goes(method, "/a", "hello"));
        all.push(row(&[]).data(&[""]).goes(method, "/a", ""));
        let inner = "0\r\n\r\nGET /inner HTTP/1.1\r\nhost: localhost\r\n\r\n";
        all.push(row(&[]).data(&[inner]).goes(method, "/a", inner));
        let trailers =
            &[("x-smuggled", "1"), ("authorization", "smuggled"), ("content-length", "1")];
        all.push(row(&[]).data(&["hello"]).trailers(&trailers[..2]).goes(method, "/a", "hello"));
    }
    all
}
