//! A client that says what its script says, and keeps what it heard.

use std::collections::VecDeque;

use bytes::{BufMut, BytesMut};

use crate::chance::Chance;

/// One step of a script.
#[derive(Debug, Clone)]
pub enum Say {
    Bytes(Vec<u8>),
    /// Wait for ReadyForQuery of everything said so far.
    UntilReady,
    /// Wait for the invitation to copy; what follows is said only if it came.
    IfCopy(Vec<u8>),
}

/// Texts, and how likely each is. The catalogue is the fixture of `bulla-sql`.
const TEXTS: &[(&str, u64)] = &[
    ("SELECT id, name FROM customers", 12),
    ("SELECT * FROM orders", 8),
    ("SELECT who FROM audit", 8),
    ("INSERT INTO customers (id, name) VALUES (1, 'x')", 10),
    ("INSERT INTO orders (id) VALUES (7)", 6),
    ("UPDATE orders SET total = 0", 8),
    ("DELETE FROM customers WHERE id = 1", 9),
    ("DELETE FROM customers WHERE id = 2", 5),
    ("SELECT nothing FROM (", 3),
    ("SELECT 1; DELETE FROM orders", 3),
    ("SELECT nickname FROM app.customers", 4),
    ("SELECT 1/0", 4),
    ("BEGIN", 7),
    ("COMMIT", 6),
    ("ROLLBACK", 3),
    ("COPY orders FROM STDIN", 4),
    ("COPY customers TO STDOUT", 4),
    ("SET search_path = app", 2),
    ("", 1),
];

pub fn frame(out: &mut BytesMut, kind: u8, fill: impl FnOnce(&mut BytesMut)) {
    out.put_u8(kind);
    let at = out.len();
    out.put_u32(0);
    fill(out);
    let length = u32::try_from(out.len() - at).unwrap().to_be_bytes();
    out[at..at + 4].copy_from_slice(&length);
}

pub fn text(out: &mut BytesMut, text: &str) {
    out.put_slice(text.as_bytes());
    out.put_u8(0);
}

fn choose(chance: &mut Chance) -> &'static str {
    let total = TEXTS.iter().map(|(_, weight)| weight).sum();
    let mut at = chance.below(total);
    for (text, weight) in TEXTS {
        if at < *weight {
            return text;
        }
        at -= weight;
    }
    "SELECT 1"
}

/// One simple query, or one pipeline up to its Sync.
fn unit(chance: &mut Chance, script: &mut VecDeque<Say>) {
    let mut out = BytesMut::new();
    if chance.percent(55) {
        let query = choose(chance);
        frame(&mut out, b'Q', |out| text(out, query));
        script.push_back(Say::Bytes(out.to_vec()));
        if query == "COPY orders FROM STDIN" {
            let mut data = BytesMut::new();
            for _ in 0..chance.below(4) {
                let row = format!("{}\t1\t2\tnote\n", chance.below(1_000));
                frame(&mut data, b'd', |out| out.put_slice(row.as_bytes()));
            }
            if chance.percent(80) {
                frame(&mut data, b'c', |_| {});
            } else {
                frame(&mut data, b'f', |out| text(out, "no more"));
            }
            script.push_back(Say::IfCopy(data.to_vec()));
        }
    } else {
        for _ in 0..=chance.below(3) {
            let named = if chance.percent(30) { "s" } else { "" };
            let query = choose(chance);
            // COPY by the extended protocol is a conversation of its own.
            let query = if query.starts_with("COPY") { "SELECT 1" } else { query };
            frame(&mut out, b'P', |out| {
                text(out, named);
                text(out, query);
                out.put_u16(0);
            });
            frame(&mut out, b'B', |out| {
                text(out, "");
                text(out, named);
                out.put_slice(&[0, 0, 0, 0, 0, 0]);
            });
            if chance.percent(50) {
                frame(&mut out, b'D', |out| {
                    out.put_u8(b'P');
                    text(out, "");
                });
            }
            frame(&mut out, b'E', |out| {
                text(out, "");
                out.put_u32(0);
            });
            if !named.is_empty() {
                frame(&mut out, b'C', |out| {
                    out.put_u8(b'S');
                    text(out, named);
                });
            }
            if chance.percent(15) {
                frame(&mut out, b'H', |_| {});
            }
        }
        frame(&mut out, b'S', |_| {});
        script.push_back(Say::Bytes(out.to_vec()));
    }
}

pub struct Client {
    script: VecDeque<Say>,
    out: Vec<u8>,
    inbox: BytesMut,
    /// ReadyForQuery messages that are owed.
    owed: u64,
    copying: bool,
    /// Refusals that it heard of: the JSON of their DETAIL, and whether they were FATAL.
    pub refusals: Vec<(String, bool)>,
    pub rows: u64,
    pub ready: u64,
    pub gone: bool,
    /// What it said last.
    last: String,
}

impl Client {
    pub fn new(chance: &mut Chance) -> Self {
        let mut script = VecDeque::new();
        for _ in 0..4 + chance.below(14) {
            unit(chance, &mut script);
            if chance.percent(70) {
                script.push_back(Say::UntilReady);
            }
        }
        if chance.percent(4) {
            let n = usize::try_from(1 + chance.below(40)).unwrap();
            script.push_back(Say::Bytes(chance.bytes(n)));
        }
        script.push_back(Say::UntilReady);
        let mut bye = BytesMut::new();
        frame(&mut bye, b'X', |_| {});
        script.push_back(Say::Bytes(bye.to_vec()));
        Self {
            script,
            out: Vec::new(),
            inbox: BytesMut::new(),
            owed: 0,
            copying: false,
            refusals: Vec::new(),
            rows: 0,
            ready: 0,
            gone: false,
            last: String::new(),
        }
    }

    /// What it would write now.
    pub fn wants(&mut self) -> usize {
        while self.out.is_empty() {
            match self.script.front() {
                None => return 0,
                Some(Say::UntilReady) if self.owed > 0 => return 0,
                Some(Say::UntilReady) => {}
                // Answered, one way or the other.
                Some(Say::IfCopy(_)) if !self.copying && self.owed > 0 => return 0,
                Some(Say::IfCopy(_)) if !self.copying => {}
                Some(Say::IfCopy(bytes)) => {
                    self.out = bytes.clone();
                    self.copying = false;
                }
                Some(Say::Bytes(bytes)) => {
                    self.out = bytes.clone();
                    self.owed += owed(bytes);
                    self.last = String::from_utf8_lossy(bytes).into_owned();
                }
            }
            self.script.pop_front();
        }
        self.out.len()
    }

    pub fn take(&mut self, n: usize) -> Vec<u8> {
        self.out.drain(..n.min(self.out.len())).collect()
    }

    pub fn is_done(&mut self) -> bool {
        self.gone || (self.wants() == 0 && self.script.is_empty())
    }

    pub fn state(&self) -> String {
        let Self { owed, ready, copying, last, .. } = self;
        format!("{ready} ready and {owed} owed, copying: {copying}, said {last:?}")
    }

    pub fn hear(&mut self, bytes: &[u8]) {
        self.inbox.extend_from_slice(bytes);
        while let Some(body) = next(&mut self.inbox) {
            let (kind, body) = body;
            match kind {
                b'Z' => {
                    self.owed = self.owed.saturating_sub(1);
                    self.ready += 1;
                }
                b'G' => self.copying = true,
                b'D' => self.rows += 1,
                b'E' => {
                    let field = |name: u8| {
                        let mut fields = body[..].split(|b| *b == 0);
                        let found = fields.find(|field| field.first() == Some(&name));
                        found.map(|f| String::from_utf8_lossy(&f[1..]).into_owned())
                    };
                    let fatal = field(b'V').as_deref() == Some("FATAL");
                    if let Some(detail) = field(b'D').filter(|d| d.starts_with("{\"bulla\"")) {
                        self.refusals.push((detail, fatal));
                    }
                }
                _ => {}
            }
        }
    }
}

/// How many ReadyForQuery the bytes will bring.
fn owed(bytes: &[u8]) -> u64 {
    let mut buffer = BytesMut::from(bytes);
    let mut n = 0;
    while let Some((kind, _)) = next(&mut buffer) {
        n += u64::from(matches!(kind, b'Q' | b'S'));
    }
    n
}

/// The next whole message.
pub fn next(input: &mut BytesMut) -> Option<(u8, BytesMut)> {
    let kind = *input.first()?;
    let length: [u8; 4] = input.get(1..5)?.try_into().ok()?;
    let total = 1 + usize::try_from(u32::from_be_bytes(length)).ok()?;
    if total < 5 || input.len() < total {
        return None;
    }
    let mut whole = input.split_to(total);
    Some((kind, whole.split_off(5)))
}
