//! What cells hold by what it looks like: cards, addresses and keys in columns that nobody
//! classified. Looked for in texts, JSON and bytes, in rows and in what `COPY` gives, of whoever may
//! not see the class that the configuration names for a kind.
//!
//! A finding is replaced by the mask of its class, or by `***`. A value stays of its type: within
//! JSON a mask is a string, and of a type that is not known the whole cell is NULL.

use std::{collections::BTreeMap, sync::Arc};

use bulla_mask::{Classes, Finding, Kind, Masked, Scanner, Value, What, With, function::FILL};

use crate::cells::{hex, unhex};

/// Masked cells, by class.
pub type Counts = BTreeMap<Arc<str>, u64>;

/// The kinds that somebody may not see.
#[derive(Debug)]
pub struct Content {
    scanner: Scanner,
    of: Vec<(Kind, Arc<str>)>,
    classes: Arc<Classes>,
}

/// How a cell holds text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Holds {
    Text,
    Json,
    Hex,
    /// It holds none, such as a number.
    Nothing,
    Unknown,
}

impl Holds {
    /// Of a built-in type, or `None` for a type that is not known.
    pub fn of(kind: Option<u32>, binary: bool) -> Self {
        match kind {
            None | Some(0) => Self::Unknown,
            // text, varchar, char(n), name, xml, cstring, unknown
            Some(25 | 1043 | 1042 | 19 | 142 | 2275 | 705) => Self::Text,
            Some(114 | 3802) => Self::Json,
            Some(17) if binary => Self::Text,
            Some(17) => Self::Hex,
            // Numbers, dates and the like have no room for words; their arrays have none either.
            Some(
                16 | 20 | 21 | 23 | 26 | 28 | 29 | 700 | 701 | 790 | 1082 | 1083 | 1114 | 1184
                | 1186 | 1266 | 1700 | 2950 | 1000 | 1005 | 1007 | 1016 | 1021 | 1022 | 1182 | 1185
                | 1231 | 2951,
            ) => Self::Nothing,
            // Arrays and records of texts are text as text; in binary only their parts are.
            Some(_) if binary => Self::Unknown,
            Some(_) => Self::Text,
        }
    }
}

impl Content {
    /// What of a resource is looked for, for whom `sees` answers; none where all of it may be seen.
    pub fn new(classes: &Arc<Classes>, sees: &dyn Fn(&str) -> bool) -> Option<Self> {
        let hidden = classes.content().iter().filter(|(_, class)| !sees(class));
        let of: Vec<(Kind, Arc<str>)> = hidden.cloned().collect();
        if of.is_empty() {
            return None;
        }
        let kinds: Vec<Kind> = of.iter().map(|(kind, _)| *kind).collect();
        Some(Self { scanner: Scanner::new(&kinds, Vec::new()), of, classes: classes.clone() })
    }

    pub fn finds(&self, text: &[u8]) -> bool {
        !self.scanner.scan(text).is_empty()
    }

    /// A cell without what is looked for; `None` is NULL. `Err`: it holds none of it.
    pub fn cell(
        &self,
        bytes: &[u8],
        holds: Holds,
        counts: &mut Counts,
    ) -> Result<Option<Vec<u8>>, ()> {
        match holds {
            Holds::Nothing => Err(()),
            Holds::Text => self.replaced(bytes, counts, |_, mask| mask.into()).map(Some),
            Holds::Json => {
                let quoted = strings(bytes);
                let within = |at: usize| quoted.get(at).copied().unwrap_or(false);
                let out = self.replaced(bytes, counts, |finding, mask| {
                    let json = bulla_mask::json::quoted(mask);
                    if within(finding.start) && within(finding.end.saturating_sub(1)) {
                        json.trim_matches('"').to_owned()
                    } else {
                        json
                    }
                })?;
                Ok(Some(out))
            }
            Holds::Hex => {
                let Some(value) = bytes.strip_prefix(b"\\x").and_then(unhex) else {
                    return self.replaced(bytes, counts, |_, mask| mask.into()).map(Some);
                };
                let out = self.replaced(&value, counts, |_, mask| mask.into())?;
                Ok(Some(format!("\\x{}", hex(&out)).into_bytes()))
            }
            Holds::Unknown => {
                let findings = self.scanner.scan(bytes);
                let Some(first) = findings.first() else { return Err(()) };
                self.count(first, counts);
                Ok(None)
            }
        }
    }

    /// A row of `COPY` as text, without what is looked for. `Err`: it holds none of it.
    pub fn line(&self, bytes: &[u8], counts: &mut Counts) -> Result<Vec<u8>, ()> {
        // What would end a column or a row, or begin an escape, must not come of a mask.
        let plain = |c: char| !c.is_control() && !matches!(c, '\\' | '"' | '\'' | ',' | ';' | '|');
        self.replaced(bytes, counts, |_, mask| {
            if mask.chars().all(plain) { mask.to_owned() } else { FILL.to_owned() }
        })
    }

    fn replaced(
        &self,
        bytes: &[u8],
        counts: &mut Counts,
        write: impl Fn(&Finding, &str) -> String,
    ) -> Result<Vec<u8>, ()> {
        let findings = self.scanner.scan(bytes);
        if findings.is_empty() {
            return Err(());
        }
        let (mut out, mut at) = (Vec::with_capacity(bytes.len()), 0);
        for finding in &findings {
            out.extend_from_slice(bytes.get(at..finding.start).unwrap_or_default());
            let found = bytes.get(finding.start..finding.end).unwrap_or_default();
            out.extend_from_slice(write(finding, &self.mask(finding, found)).as_bytes());
            self.count(finding, counts);
            at = finding.end;
        }
        out.extend_from_slice(bytes.get(at..).unwrap_or_default());
        Ok(out)
    }

    fn class(&self, finding: &Finding) -> Option<&Arc<str>> {
        let What::Known(kind) = &finding.what else { return None };
        self.of.iter().find(|(of, _)| of == kind).map(|(_, class)| class)
    }

    fn count(&self, finding: &Finding, counts: &mut Counts) {
        if let Some(class) = self.class(finding) {
            *counts.entry(class.clone()).or_default() += 1;
        }
    }

    fn mask(&self, finding: &Finding, found: &[u8]) -> String {
        let name = self.class(finding);
        let class = name.and_then(|name| Some((name, self.classes.class(name)?)));
        if let Some((name, class)) = class
            && let Ok(text) = std::str::from_utf8(found)
        {
            let with = With { class: name, key: self.classes.key(), subject: None };
            if let Masked::Text(masked) = class.mask.apply(Value::Text(text), &with)
                && masked != text
                && !self.finds(masked.as_bytes())
            {
                return masked;
            }
        }
        FILL.to_owned()
    }
}

/// Which bytes of a document stand within its strings.
fn strings(json: &[u8]) -> Vec<bool> {
    let (mut inside, mut escaped) = (false, false);
    json.iter()
        .map(|byte| match (inside, *byte) {
            (false, b'"') => {
                inside = true;
                false
            }
            (false, _) => false,
            (true, _) if escaped => {
                escaped = false;
                true
            }
            (true, b'\\') => {
                escaped = true;
                true
            }
            (true, b'"') => {
                inside = false;
                false
            }
            (true, _) => true,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use bulla_mask::{Class, Inference, Mask};

    use super::*;

    fn content() -> Content {
        let class = |mask: &str| Class {
            mask: Mask::parse(mask).unwrap(),
            inference: Inference::Deny,
            keeps_null: false,
            subject: None,
        };
        let named = [("pii.card", "card-last4"), ("pii.email", "email-domain")];
        let named = named.map(|(name, mask)| (Arc::from(name), class(mask)));
        let classes = Classes::new(&BTreeMap::new(), None, named.into(), None, &[]).unwrap();
        let kinds = [(Kind::Card, "pii.card".into()), (Kind::Email, "pii.email".into())];
        let classes = Arc::new(classes.with_content(kinds.into()));
        assert!(Content::new(&classes, &|_| true).is_none());
        Content::new(&classes, &|_| false).unwrap()
    }

    #[track_caller]
    fn check(holds: Holds, text: &str, expect: &str) {
        let out = content().cell(text.as_bytes(), holds, &mut Counts::new());
        let out = out.map(|cell| cell.map(|bytes| String::from_utf8(bytes).unwrap()));
        match expect {
            "=" => assert_eq!(out, Err(()), "{text}"),
            "NULL" => assert_eq!(out, Ok(None), "{text}"),
            expect => assert_eq!(out, Ok(Some(expect.to_owned())), "{text}"),
        }
    }

    #[test]
    fn cells_stay_of_their_type() {
        check(Holds::Text, "pay 4111 1111 1111 1111 now", "pay ****1111 now");
        check(Holds::Text, "nothing of it", "=");
        check(Holds::Text, "ann@example.com", "***@example.com");
        check(Holds::Json, r#"{"a": 4111111111111111, "b": 1}"#, r#"{"a": "****1111", "b": 1}"#);
        check(Holds::Json, r#"{"a": "4111111111111111"}"#, r#"{"a": "****1111"}"#);
        check(Holds::Json, r#""to \"ann@example.com\"""#, r#""to \"***@example.com\"""#);
        check(Holds::Hex, "\\x616e6e406578616d706c652e636f6d", "\\x2a2a2a406578616d706c652e636f6d");
        check(Holds::Nothing, "4111111111111111", "=");
        check(Holds::Unknown, "(4111111111111111,x)", "NULL");
        check(Holds::Unknown, "(4,x)", "=");
    }

    #[test]
    fn what_was_found_is_counted_by_class() {
        let mut counts = Counts::new();
        let line = b"7\tann@example.com, bob@example.com\t4111111111111111\n";
        let out = content().line(line, &mut counts).unwrap();
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "7\t***@example.com, ***@example.com\t****1111\n"
        );
        let expect = Counts::from([("pii.card".into(), 1), ("pii.email".into(), 2)]);
        assert_eq!(counts, expect);
    }

    #[test]
    fn types_tell_what_a_cell_holds() {
        for (kind, binary, expect) in [
            (Some(25), true, Holds::Text),
            (Some(3802), true, Holds::Json),
            (Some(17), false, Holds::Hex),
            (Some(17), true, Holds::Text),
            (Some(23), true, Holds::Nothing),
            (Some(1009), false, Holds::Text),
            (Some(1009), true, Holds::Unknown),
            (None, false, Holds::Unknown),
        ] {
            assert_eq!(Holds::of(kind, binary), expect, "{kind:?} {binary}");
        }
    }
}
