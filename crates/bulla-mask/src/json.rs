//! Masks within a JSON text. Everything that is not masked stays byte for byte as it was.
//!
//! RFC 8259; a text that is not JSON, or nests too deep, is masked whole (the caller gets `None`).
//! Of an object that names a key twice both values are masked.

use crate::function::{Mask, Masked, Value, With};

/// Levels of nesting that are followed.
pub const DEPTH_MAX: usize = 512;

/// One step of a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    Key(String),
    /// `[*]`: every element.
    Each,
    /// `.*`: every value of an object.
    Any,
    /// `..`: at any depth from here on.
    Deep,
}

/// Where in a document: `$.customer.cards[*].number`, `$..ssn`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Path(Vec<Step>);

impl Path {
    /// Steps of one path.
    pub const STEPS_MAX: usize = 32;

    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut rest = text.strip_prefix('$')?;
        let mut steps = Vec::new();
        while !rest.is_empty() {
            if let Some(after) = rest.strip_prefix("[*]") {
                steps.push(Step::Each);
                rest = after;
                continue;
            }
            rest = rest.strip_prefix('.')?;
            if let Some(after) = rest.strip_prefix('.') {
                steps.push(Step::Deep);
                rest = after;
            }
            let end = rest.find(['.', '[']).unwrap_or(rest.len());
            let (name, after) = rest.split_at(end);
            match name {
                "" => return None,
                "*" => steps.push(Step::Any),
                name => steps.push(Step::Key(name.to_owned())),
            }
            rest = after;
        }
        (!steps.is_empty() && steps.len() <= Self::STEPS_MAX).then_some(Self(steps))
    }
}

/// As it is written.
impl std::fmt::Display for Path {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("$")?;
        let mut deep = false;
        for step in &self.0 {
            let dots = if std::mem::replace(&mut deep, *step == Step::Deep) { ".." } else { "." };
            match step {
                Step::Deep => {}
                Step::Each => f.write_str("[*]")?,
                Step::Any => write!(f, "{dots}*")?,
                Step::Key(name) => write!(f, "{dots}{name}")?,
            }
        }
        Ok(())
    }
}

impl Path {
    /// The whole document.
    #[must_use]
    pub fn whole() -> Self {
        Self(Vec::new())
    }
    pub(crate) fn steps(&self) -> &[Step] {
        &self.0
    }
    /// The keys of a path that is nothing but keys.
    pub fn keys(&self) -> Option<impl Iterator<Item = &str>> {
        let plain = self.0.iter().all(|step| matches!(step, Step::Key(_)));
        plain.then(|| {
            self.0.iter().filter_map(|step| match step {
                Step::Key(key) => Some(key.as_str()),
                Step::Each | Step::Any | Step::Deep => None,
            })
        })
    }
}

/// How far into each path a value is: steps still to go.
type Heads<'p> = Vec<(&'p [Step], &'p Mask)>;

/// Masks the values at the paths. `None`: it is not JSON, or too deep.
#[must_use]
pub fn mask(text: &str, paths: &[(Path, Mask)], with: &With<'_>) -> Option<String> {
    let heads = paths.iter().map(|(path, mask)| (path.0.as_slice(), mask)).collect();
    let mut walk = Walk { text, at: 0, out: String::with_capacity(text.len()), copied: 0, with };
    walk.space();
    walk.value(&heads, 0)?;
    walk.space();
    if walk.at != text.len() {
        return None;
    }
    walk.copy_to(text.len())?;
    Some(walk.out)
}

struct Walk<'t, 'w> {
    text: &'t str,
    at: usize,
    out: String,
    /// What lies before it is in `out`.
    copied: usize,
    with: &'w With<'w>,
}

impl<'t> Walk<'t, '_> {
    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn take(&mut self, byte: u8) -> Option<()> {
        (self.peek()? == byte).then(|| self.at += 1)
    }

    fn space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    fn copy_to(&mut self, end: usize) -> Option<()> {
        self.out.push_str(self.text.get(self.copied..end)?);
        self.copied = end;
        Some(())
    }

    fn value(&mut self, heads: &Heads<'_>, depth: usize) -> Option<()> {
        if depth > DEPTH_MAX {
            return None;
        }
        let start = self.at;
        let masks = heads.iter().find(|(steps, _)| steps.is_empty()).map(|(_, mask)| *mask);
        if let Some(mask) = masks {
            self.copy_to(start)?;
            self.value(&Heads::new(), depth)?;
            let whole = self.text.get(start..self.at)?;
            let masked = scalar(mask, whole, self.with);
            self.out.push_str(&masked);
            self.copied = self.at;
            return Some(());
        }
        match self.peek()? {
            b'{' => self.object(heads, depth),
            b'[' => self.array(heads, depth),
            b'"' => self.string().map(|_| ()),
            b't' => self.word("true"),
            b'f' => self.word("false"),
            b'n' => self.word("null"),
            _ => self.number(),
        }
    }

    fn word(&mut self, word: &str) -> Option<()> {
        self.text.get(self.at..)?.starts_with(word).then(|| self.at += word.len())
    }

    fn number(&mut self) -> Option<()> {
        let start = self.at;
        if self.peek() == Some(b'-') {
            self.at += 1;
        }
        let mut digits = 0;
        while let Some(b'0'..=b'9' | b'.' | b'e' | b'E' | b'+' | b'-') = self.peek() {
            digits += 1;
            self.at += 1;
        }
        (digits > 0 && self.at > start).then_some(())
    }

    /// The text between the quotation marks, escapes as they are.
    fn string(&mut self) -> Option<&'t str> {
        self.take(b'"')?;
        let start = self.at;
        loop {
            let rest = self.text.as_bytes().get(self.at..)?;
            let skip = memchr::memchr2(b'"', b'\\', rest)?;
            self.at += skip;
            if self.peek()? == b'"' {
                let inner = self.text.get(start..self.at);
                self.at += 1;
                return inner;
            }
            // The escaped character may be longer than a byte, but its rest is no quotation mark.
            self.at += 2;
        }
    }

    fn object(&mut self, heads: &Heads<'_>, depth: usize) -> Option<()> {
        self.take(b'{')?;
        self.space();
        if self.take(b'}').is_some() {
            return Some(());
        }
        loop {
            self.space();
            let key = unescape(self.string()?)?;
            self.space();
            self.take(b':')?;
            self.space();
            let inner = into(heads, |step| match step {
                Step::Key(name) => *name == key,
                Step::Any => true,
                Step::Each | Step::Deep => false,
            });
            self.value(&inner, depth + 1)?;
            self.space();
            if self.take(b',').is_none() {
                return self.take(b'}');
            }
        }
    }

    fn array(&mut self, heads: &Heads<'_>, depth: usize) -> Option<()> {
        self.take(b'[')?;
        self.space();
        if self.take(b']').is_some() {
            return Some(());
        }
        let inner = into(heads, |step| matches!(step, Step::Each));
        loop {
            self.space();
            self.value(&inner, depth + 1)?;
            self.space();
            if self.take(b',').is_none() {
                return self.take(b']');
            }
        }
    }
}

/// The paths that lead on through a step that `fits`; what may lie at any depth leads on always.
fn into<'p>(heads: &Heads<'p>, fits: impl Fn(&Step) -> bool) -> Heads<'p> {
    let mut out = Heads::new();
    for (steps, mask) in heads {
        match steps.split_first() {
            Some((Step::Deep, rest)) => {
                out.push((steps, mask));
                if let Some((next, rest)) = rest.split_first()
                    && fits(next)
                {
                    out.push((rest, mask));
                }
            }
            Some((step, rest)) if fits(step) => out.push((rest, mask)),
            _ => {}
        }
    }
    out
}

/// A masked value: of its own JSON type, or null.
pub(crate) fn scalar(mask: &Mask, whole: &str, with: &With<'_>) -> String {
    let inner = whole.strip_prefix('"').and_then(|w| w.strip_suffix('"')).map(unescape);
    let value = match &inner {
        Some(Some(text)) => Value::Text(text),
        Some(None) => Value::Other,
        None => match whole.parse::<i64>() {
            Ok(n) => Value::Int(n),
            Err(_) if whole.bytes().all(|b| b.is_ascii_digit() || b"-.".contains(&b)) => {
                Value::Decimal(whole)
            }
            Err(_) => Value::Other,
        },
    };
    match (mask, mask.apply(value, with)) {
        (_, Masked::Text(text)) => quoted(&text),
        (_, Masked::Int(n)) => n.to_string(),
        (_, Masked::Decimal(text)) => text,
        (Mask::Constant(text), Masked::Null) => quoted(text),
        _ => "null".to_owned(),
    }
}

/// A JSON string.
#[must_use]
pub fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            c if c.is_control() => out.push_str(&format!("\\u{:04x}", c as u32)),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// What a string means; `None` for escapes that JSON does not have.
fn unescape(text: &str) -> Option<String> {
    decode(text, false)
}

/// The same, with half of a pair of surrogates read as U+FFFD.
pub(crate) fn unescape_any(text: &str) -> Option<String> {
    decode(text, true)
}

fn decode(text: &str, halves: bool) -> Option<String> {
    if !text.contains('\\') {
        return Some(text.to_owned());
    }
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        if c != '\\' {
            out.push(c);
            continue;
        }
        let plain = match chars.next()? {
            'n' => '\n',
            't' => '\t',
            'r' => '\r',
            'b' => '\u{8}',
            'f' => '\u{c}',
            c @ ('"' | '\\' | '/') => c,
            'u' => {
                let unit = hex4(&mut chars)?;
                let mut ahead = chars.clone();
                let low = match (ahead.next(), ahead.next()) {
                    (Some('\\'), Some('u')) if (0xd800..0xdc00).contains(&unit) => {
                        hex4(&mut ahead)?.checked_sub(0xdc00).filter(|low| *low < 0x400)
                    }
                    _ => None,
                };
                match low {
                    Some(low) => {
                        chars = ahead;
                        char::from_u32(0x10000 + ((unit - 0xd800) << 10) + low)?
                    }
                    None if halves => char::from_u32(unit).unwrap_or('\u{fffd}'),
                    None => char::from_u32(unit)?,
                }
            }
            _ => return None,
        };
        out.push(plain);
    }
    Some(out)
}

fn hex4(chars: &mut std::str::Chars<'_>) -> Option<u32> {
    let mut unit = 0;
    for _ in 0..4 {
        unit = unit * 16 + chars.next()?.to_digit(16)?;
    }
    Some(unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_told_as_it_is_written() {
        for text in ["$", "$.a", "$..ssn", "$.a[*].b", "$.*..x.*", "$..*[*]"] {
            let path = if text == "$" { Some(Path::whole()) } else { Path::parse(text) };
            assert_eq!(path.unwrap().to_string(), text);
        }
    }

    fn check(paths: &str, text: &str, expect: Option<&str>) {
        let Mask::Json(paths) = Mask::parse(&format!("json({paths})")).unwrap() else { panic!() };
        let with = With { class: "c", key: None, subject: None };
        assert_eq!(mask(text, &paths, &with).as_deref(), expect, "{paths:?} {text}");
    }

    #[test]
    fn values_are_masked_where_they_stand() {
        check("$.a=null", r#"{ "a" : "x", "b": [1, 2] }"#, Some(r#"{ "a" : null, "b": [1, 2] }"#));
        check("$.a=constant(-)", r#"{"a":{"b":1}}"#, Some(r#"{"a":"-"}"#));
        check("$.a.b=null", r#"{"a":{"b":1,"c":1e5}}"#, Some(r#"{"a":{"b":null,"c":1e5}}"#));
        check(
            "$.a[*].n=null",
            r#"{"a":[{"n":1},{"n":2},3]}"#,
            Some(r#"{"a":[{"n":null},{"n":null},3]}"#),
        );
        check(
            "$..ssn=null",
            r#"[{"x":{"ssn":"1"}},{"ssn":2}]"#,
            Some(r#"[{"x":{"ssn":null}},{"ssn":null}]"#),
        );
        check("$.*=null", r#"{"a":1,"b":[1]}"#, Some(r#"{"a":null,"b":null}"#));
        check("$.a=partial(0,2)", r#"{"a":"secr\u00e4t"}"#, Some(r#"{"a":"***ät"}"#));
        check("$.a=bucket(10)", r#"{"a":17,"b":17}"#, Some(r#"{"a":10,"b":17}"#));
        check("$.a=bucket(10)", r#"{"a":17.5}"#, Some(r#"{"a":10}"#));
    }

    #[test]
    fn a_key_is_what_it_means() {
        check(
            "$.ssn=null",
            r#"{"s\u0073n":"1","ssn":"2"}"#,
            Some(r#"{"s\u0073n":null,"ssn":null}"#),
        );
        check("$.a=null", r#"{"a\"b":"1"}"#, Some(r#"{"a\"b":"1"}"#));
        check("$.a=null", r#"["a", {"a\\":1, "a":2}]"#, Some(r#"["a", {"a\\":1, "a":2}]"#));
    }

    #[test]
    fn what_is_not_json_is_not_passed() {
        for text in ["", "{", "{\"a\":1", "{\"a\" 1}", "[1 2]", "nul", "\"x", "{} x", "{\"\\q\":1}"]
        {
            check("$.a=null", text, None);
        }
        check("$.a=null", &format!("{}{}", "[".repeat(600), "]".repeat(600)), None);
    }
}
