//! Which columns look as if they should be classified: by their names, and by what a sample of them
//! holds. Values are looked at and forgotten; only counts leave.

use std::collections::VecDeque;
use std::sync::Arc;

use bulla_mask::{Kind, Scanner, What};
use bulla_sql::{Catalog, facts::RelationKind, quoted};
use bulla_wire::{LoginError, Proposed, Reader, ScoutStep, Survey};
use bytes::{Buf, BytesMut};

use crate::frame;

/// Rows of one relation that are looked at, and bytes of one value.
const ROWS_MAX: usize = 200;
const VALUE_BYTES_MAX: usize = 512;
/// Relations that are looked at.
const RELATIONS_MAX: usize = 5_000;
const MESSAGE_BYTES_MAX: usize = 64 << 20;
/// A kind is proposed when so many in a hundred values are of it.
const SHARE_MIN: usize = 20;

/// Words of column names, and the class that they speak for.
const NAMES: &[(&str, &[&str])] = &[
    (
        "pii.ssn",
        &[
            "ssn",
            "social_security",
            "national_id",
            "nino",
            "passport",
            "tax_id",
            "taxid",
            "pesel",
            "bsn",
            "cpf",
            "dni",
        ],
    ),
    ("pii.email", &["email", "e_mail", "mail_address"]),
    ("pii.phone", &["phone", "mobile", "telephone", "fax", "msisdn"]),
    (
        "pii.name",
        &["first_name", "last_name", "full_name", "surname", "given_name", "family_name", "maiden"],
    ),
    ("pii.birth", &["birth", "dob", "born"]),
    ("pii.address", &["street", "address_line", "postcode", "postal_code", "zip"]),
    ("pay.card", &["card_number", "cardno", "pan_number", "credit_card", "cvv", "cvc"]),
    ("pay.account", &["iban", "account_number", "bic", "sort_code", "routing_number"]),
    ("pay.amount", &["salary", "wage", "income", "compensation"]),
    (
        "secret",
        &[
            "password",
            "passwd",
            "pwd",
            "secret",
            "token",
            "api_key",
            "apikey",
            "private_key",
            "hash",
            "salt",
            "session_key",
        ],
    ),
    ("net.ip", &["ip_address", "ip_addr", "remote_addr", "client_ip"]),
];

/// The class that a kind of content speaks for.
fn class_of(kind: Kind) -> &'static str {
    match kind {
        Kind::Card => "pay.card",
        Kind::Iban => "pay.account",
        Kind::Email => "pii.email",
        Kind::Phone => "pii.phone",
        Kind::Ip => "net.ip",
        Kind::Jwt
        | Kind::PrivateKey
        | Kind::CloudKey
        | Kind::VcsToken
        | Kind::ConnectionString
        | Kind::Password => "secret",
        _ => "pii.ssn",
    }
}

fn by_name(name: &str) -> Option<(&'static str, &'static str)> {
    let name = name.to_lowercase().replace('-', "_");
    NAMES.iter().find_map(|(class, words)| {
        words.iter().find(|word| name.contains(**word)).map(|word| (*class, *word))
    })
}

/// One relation under way.
struct Look {
    schema: Arc<str>,
    name: Arc<str>,
    columns: Vec<Arc<str>>,
    /// Values seen, and per column how often which kind was in them.
    seen: Vec<usize>,
    hits: Vec<Vec<(Kind, usize)>>,
}

pub struct Sampler {
    scanner: Scanner,
    waiting: VecDeque<Look>,
    now: Option<Look>,
    found: Vec<Proposed>,
    /// The target refused to show the relation at hand.
    failed: bool,
}

impl Sampler {
    pub fn new(catalog: &Catalog) -> Self {
        let mut waiting: VecDeque<Look> = VecDeque::new();
        for relation in catalog.relations() {
            let rows = matches!(
                relation.kind,
                RelationKind::Table | RelationKind::Partition | RelationKind::MatView
            );
            if relation.is_system() || !rows || waiting.len() >= RELATIONS_MAX {
                continue;
            }
            let columns: Vec<Arc<str>> =
                relation.columns.iter().filter(|c| !c.dropped).map(|c| c.name.clone()).collect();
            let n = columns.len();
            waiting.push_back(Look {
                schema: relation.schema.clone(),
                name: relation.name.clone(),
                columns,
                seen: vec![0; n],
                hits: vec![Vec::new(); n],
            });
        }
        let ordered = waiting.make_contiguous();
        ordered.sort_by(|a, b| (&a.schema, &a.name).cmp(&(&b.schema, &b.name)));
        Self { scanner: Scanner::all(), waiting, now: None, found: Vec::new(), failed: false }
    }

    /// Asks for a sample of the next relation.
    fn next(&mut self) -> ScoutStep {
        let Some(look) = self.waiting.pop_front() else {
            return ScoutStep::Done { changed: !self.found.is_empty() };
        };
        let columns: Vec<String> = look
            .columns
            .iter()
            .map(|c| format!("pg_catalog.left({}::pg_catalog.text, {VALUE_BYTES_MAX})", quoted(c)))
            .collect();
        let text = format!(
            "SELECT {} FROM ONLY {}.{} LIMIT {ROWS_MAX}",
            columns.join(", "),
            quoted(&look.schema),
            quoted(&look.name)
        );
        self.now = Some(look);
        let mut out = BytesMut::new();
        frame::put(&mut out, b'Q', |out| frame::put_text(out, &text));
        ScoutStep::Send(out.freeze())
    }

    fn row(&mut self, body: &[u8]) -> Result<(), LoginError> {
        let bad = |_| LoginError::Protocol("a malformed row".into());
        let Some(look) = &mut self.now else {
            return Err(LoginError::Protocol("a row that nobody asked for".into()));
        };
        let mut body = Reader::new(body);
        let count = body.count16().map_err(bad)?;
        for i in 0..count {
            let Some(length) = body.length32().map_err(bad)? else { continue };
            let value = body.bytes(length).map_err(bad)?;
            let (Some(name), Some(seen), Some(hits)) =
                (look.columns.get(i), look.seen.get_mut(i), look.hits.get_mut(i))
            else {
                return Err(LoginError::Protocol("a row with more columns than asked for".into()));
            };
            *seen += 1;
            // The name of the column is what stands nearby.
            let text = [name.as_bytes(), b": ", value].concat();
            let mut kinds: Vec<Kind> = Vec::new();
            for finding in self.scanner.scan(&text) {
                if let What::Known(kind) = finding.what
                    && !kinds.contains(&kind)
                {
                    kinds.push(kind);
                }
            }
            for kind in kinds {
                match hits.iter_mut().find(|(known, _)| *known == kind) {
                    Some((_, n)) => *n += 1,
                    None => hits.push((kind, 1)),
                }
            }
        }
        body.finish().map_err(bad)
    }

    /// The relation at hand was answered whole.
    fn answered(&mut self) {
        let Some(look) = self.now.take() else { return };
        if std::mem::take(&mut self.failed) {
            return;
        }
        for (i, column) in look.columns.iter().enumerate() {
            let path = format!("{}.{}.{column}", look.schema, look.name);
            let seen = look.seen.get(i).copied().unwrap_or(0);
            let best = look.hits.get(i).and_then(|hits| hits.iter().max_by_key(|(_, n)| *n));
            let content = best.filter(|(_, n)| n * 100 >= seen * SHARE_MIN);
            let (class, why) = match (content, by_name(column)) {
                (Some((kind, n)), _) => {
                    (class_of(*kind), format!("{n} of {seen} values look like {}", kind.as_str()))
                }
                (None, Some((class, word))) => (class, format!("its name holds `{word}`")),
                (None, None) => continue,
            };
            self.found.push(Proposed { path, class: class.into(), why });
        }
    }
}

impl Survey for Sampler {
    fn input(&mut self, input: &mut BytesMut) -> Result<ScoutStep, LoginError> {
        if self.now.is_none() {
            return Ok(self.next());
        }
        loop {
            let head = frame::head(input);
            let head =
                head.map_err(|_| LoginError::Protocol("a message of impossible length".into()))?;
            let Some(head) = head else { return Ok(ScoutStep::More) };
            if head.total() > MESSAGE_BYTES_MAX {
                return Err(LoginError::Protocol("a row of more than 64 MiB".into()));
            }
            if input.len() < head.total() {
                return Ok(ScoutStep::More);
            }
            let mut body = input.split_to(head.total());
            body.advance(frame::HEADER_BYTES);
            match head.kind {
                b'D' => self.row(&body)?,
                b'E' => self.failed = true,
                b'Z' => {
                    self.answered();
                    return Ok(self.next());
                }
                _ => {}
            }
        }
    }

    fn found(&mut self) -> Vec<Proposed> {
        std::mem::take(&mut self.found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_speak_for_classes() {
        let check = |name: &str, class: Option<&str>| {
            assert_eq!(by_name(name).map(|(class, _)| class), class, "{name}");
        };
        check("ssn", Some("pii.ssn"));
        check("customerEmail", Some("pii.email"));
        check("Mobile-No", Some("pii.phone"));
        check("password_hash", Some("secret"));
        check("quantity", None);
    }

    /// A sample is asked for relation by relation, and only counts are kept of it.
    #[test]
    fn content_is_counted() {
        let shared = crate::transcript::shared();
        let catalog = shared.knowledge.get(&crate::transcript::place()).unwrap();
        let mut sampler = Sampler::new(&catalog);
        let mut input = BytesMut::new();
        let mut asked = 0;
        loop {
            match sampler.input(&mut input).unwrap() {
                ScoutStep::Done { .. } => break,
                ScoutStep::More => panic!("waits for nothing"),
                ScoutStep::Send(bytes) => {
                    asked += 1;
                    let text = String::from_utf8_lossy(&bytes).into_owned();
                    let width = text.matches("pg_catalog.left").count();
                    if text.contains("\"public\".\"customers\"") {
                        for _ in 0..5 {
                            frame::put(&mut input, b'D', |out| {
                                out.extend_from_slice(&(width as u16).to_be_bytes());
                                for i in 0..width {
                                    let value = if i == 1 { "call +1 212 555 0187" } else { "x" };
                                    out.extend_from_slice(&(value.len() as u32).to_be_bytes());
                                    out.extend_from_slice(value.as_bytes());
                                }
                            });
                        }
                    } else if text.contains("orders") {
                        frame::put(&mut input, b'E', |out| out.extend_from_slice(b"C42501\0\0"));
                    }
                    frame::ready(&mut input, b'I');
                }
            }
        }
        let found = sampler.found();
        let of = |path: &str| found.iter().find(|p| p.path == path).map(|p| p.class.to_string());
        assert!(asked > 5);
        assert_eq!(of("public.customers.name").as_deref(), Some("pii.phone"));
        assert_eq!(of("public.customers.ssn").as_deref(), Some("pii.ssn"));
        assert_eq!(of("public.customers.id"), None);
    }
}
