//! The private part of an entry: who, what and which bytes. A CBOR map of indefinite length with
//! integer keys, sealed under the session's key.
//!
//! Reading is bounded by the entry's length, and unknown keys are refused: a newer gateway's entry
//! is not half understood.

use std::sync::Arc;

use bulla_core::{
    Attribute, Columns, Command, Fact, Flow, HoldTerms, MaskedCells, Origin, Parameter,
    ParameterValue, Principal, Purity, Touch, Touches,
};
use minicbor::{Decoder, Encoder, data::Type};

type Out<'a> = Encoder<&'a mut Vec<u8>>;

/// Why a private part cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum DetailError {
    #[error("the private part of an entry is malformed: {0}")]
    Cbor(#[from] minicbor::decode::Error),
    #[error("the private part of an entry has the key {0}, which this version does not know")]
    Key(u64),
    #[error("the private part of an entry has a value that this version does not know")]
    Value,
}

/// The principal as it stood when the session opened.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PrincipalDetail {
    pub id: String,
    pub kind: String,
    pub issuer: String,
    pub groups: Vec<String>,
    /// Each attribute with its value as text.
    pub attributes: Vec<(String, String)>,
    /// `jwt` or `mtls`.
    pub credential: String,
    /// SHA-256 of the credential.
    pub credential_hash: Vec<u8>,
    pub jti_hash: Option<Vec<u8>>,
    pub kid_tail: Option<String>,
    pub issued_ns: u64,
    pub expires_ns: u64,
    pub verified_ns: u64,
    pub bound: bool,
    pub jwks_stale: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParameterDetail {
    pub name: String,
    pub kind: String,
    pub value: ParameterDetailValue,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ParameterDetailValue {
    Null,
    Text(String),
    Bytes(Vec<u8>),
    /// So many bytes, which are in the payload.
    Large(u64),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TouchDetail {
    pub action: String,
    pub kind: String,
    pub path: String,
    pub columns: ColumnsDetail,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ColumnsDetail {
    NotApplicable,
    Known(Vec<String>),
    All,
    Unknown,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FactDetail {
    Text(String),
    Flag(bool),
    Number(i64),
    Set(Vec<String>),
}

/// Everything private that an entry says. A field that does not belong to the entry's kind is
/// empty.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Detail {
    /// Open, or a refusal before a session.
    pub principal: Option<PrincipalDetail>,
    /// Address and port of the client.
    pub address: Option<String>,
    pub tls: Option<String>,
    /// SHA-256 of the client's certificate.
    pub certificate_hash: Option<Vec<u8>>,
    pub part: Option<String>,
    pub claims: Vec<(String, String)>,
    /// The command as a person reads it.
    pub shown: Option<String>,
    pub parameters: Vec<ParameterDetail>,
    pub touches: Vec<TouchDetail>,
    /// Why what the command touches could not be told. None when it could.
    pub touches_unknown: Option<String>,
    pub facts: Vec<(String, FactDetail)>,
    pub settings: Option<String>,
    pub pure_read: Option<bool>,
    /// Which way the bytes of this entry went, those inline and those in its objects.
    pub flow: Option<Flow>,
    /// Payload bytes that stand in the entry itself.
    pub bytes: Vec<u8>,
    /// The protocol's own summary of an outcome.
    pub tag: Option<String>,
    /// Masked cells of an answer, by class.
    pub masked: Vec<(String, u64)>,
    /// A refusal's public message; the words of an alarm or an administrator.
    pub message: Option<String>,
    /// Why: a deny's reason, a close's detail, what operators are told.
    pub reason: Option<String>,
    pub ask: Option<String>,
    /// What an approval is bound to.
    pub digest: Option<Vec<u8>>,
    pub groups: Vec<String>,
    pub quorum: Option<u64>,
    pub expires_ms: Option<u64>,
    /// `approved`, `rejected`, `expired`, `withdrawn`.
    pub answer: Option<String>,
    pub by: Option<String>,
    /// Time of the grant that was spent, in nanoseconds.
    pub granted_ns: Option<u64>,
    /// All policies, where the clear part has no room for all.
    pub policies: Vec<String>,
    /// In the entry that begins an append, length of the whole private part, which is in objects
    /// then; in a chunk, how much of that its own first objects hold.
    pub overflow: u64,
}

mod key {
    pub const PRINCIPAL: u64 = 0;
    pub const ADDRESS: u64 = 1;
    pub const TLS: u64 = 2;
    pub const CERTIFICATE: u64 = 3;
    pub const PART: u64 = 4;
    pub const CLAIMS: u64 = 5;
    pub const SHOWN: u64 = 6;
    pub const PARAMETERS: u64 = 7;
    pub const TOUCHES: u64 = 8;
    pub const TOUCHES_UNKNOWN: u64 = 9;
    pub const FACTS: u64 = 10;
    pub const SETTINGS: u64 = 11;
    pub const PURE_READ: u64 = 12;
    pub const FLOW: u64 = 13;
    pub const BYTES: u64 = 14;
    pub const TAG: u64 = 15;
    pub const MESSAGE: u64 = 16;
    pub const REASON: u64 = 17;
    pub const ASK: u64 = 18;
    pub const DIGEST: u64 = 19;
    pub const GROUPS: u64 = 20;
    pub const QUORUM: u64 = 21;
    pub const EXPIRES_MS: u64 = 22;
    pub const ANSWER: u64 = 23;
    pub const BY: u64 = 24;
    pub const GRANTED_NS: u64 = 25;
    pub const POLICIES: u64 = 26;
    pub const OVERFLOW: u64 = 27;
    pub const MASKED: u64 = 28;
}

/// Writes a private part straight from the caller's values.
pub(crate) struct DetailWriter<'a>(Out<'a>);

/// Writing to a vector cannot fail, so the encoder's results carry nothing.
macro_rules! put {
    ($self:ident $(. $call:ident ( $($arg:expr),* ))+) => {{
        let _ = $self.0 $(. $call($($arg),*))+;
    }};
}

impl<'a> DetailWriter<'a> {
    pub(crate) fn new(out: &'a mut Vec<u8>) -> Self {
        let mut writer = Self(Encoder::new(out));
        let _ = writer.0.begin_map();
        writer
    }

    pub(crate) fn finish(mut self) {
        let _ = self.0.end();
    }

    fn key(&mut self, key: u64) -> &mut Out<'a> {
        let _ = self.0.u64(key);
        &mut self.0
    }
    fn text(&mut self, key: u64, text: &str) {
        let _ = self.key(key).str(text);
    }
    fn some_text(&mut self, key: u64, text: Option<&str>) {
        if let Some(text) = text {
            self.text(key, text);
        }
    }
    fn uint(&mut self, key: u64, value: u64) {
        let _ = self.key(key).u64(value);
    }
    fn blob(&mut self, key: u64, bytes: &[u8]) {
        let _ = self.key(key).bytes(bytes);
    }
    fn list<'t>(&mut self, key: u64, texts: impl ExactSizeIterator<Item = &'t Arc<str>>) {
        if texts.len() > 0 {
            let _ = self.key(key);
            self.texts(texts);
        }
    }
    fn texts<'t>(&mut self, texts: impl ExactSizeIterator<Item = &'t Arc<str>>) {
        put!(self.array(texts.len() as u64));
        for text in texts {
            put!(self.str(text));
        }
    }

    pub(crate) fn origin(&mut self, origin: &Origin) {
        let address = std::net::SocketAddr::new(origin.address, origin.port);
        self.text(key::ADDRESS, &address.to_string());
        if !origin.tls.is_empty() {
            self.text(key::TLS, &origin.tls);
        }
        if let Some(certificate) = &origin.certificate {
            self.blob(key::CERTIFICATE, &bulla_tlog::Hash::of(certificate).0);
        }
    }

    pub(crate) fn principal(&mut self, principal: &Principal) {
        let proof = &principal.proof;
        let _ = self.key(key::PRINCIPAL);
        put!(self.array(14));
        put!(self.str(principal.id.as_str()).and_then(|e| e.str(principal.kind.as_str())));
        put!(self.str(&principal.issuer));
        self.texts(principal.groups.iter());
        put!(self.array(principal.attributes.len() as u64));
        for (name, value) in &principal.attributes {
            let text = match value {
                Attribute::Text(text) => text.to_string(),
                Attribute::Flag(flag) => flag.to_string(),
                Attribute::Number(number) => number.to_string(),
                Attribute::Set(set) => set.join(", "),
            };
            put!(self.array(2).and_then(|e| e.str(name)).and_then(|e| e.str(&text)));
        }
        put!(self.str(proof.kind.as_str()).and_then(|e| e.bytes(&proof.hash.0)));
        match &proof.jti {
            Some(jti) => put!(self.bytes(&jti.0)),
            None => put!(self.null()),
        }
        match &proof.kid_tail {
            Some(tail) => put!(self.str(tail)),
            None => put!(self.null()),
        }
        for time in [proof.issued_at, proof.expires_at, proof.verified_at] {
            put!(self.u64(time.0));
        }
        put!(self.bool(proof.bound).and_then(|e| e.bool(proof.jwks_stale)));
    }

    pub(crate) fn part(&mut self, part: Option<&str>) {
        self.some_text(key::PART, part);
    }

    pub(crate) fn claims(&mut self, claims: &[(Arc<str>, Arc<str>)]) {
        if claims.is_empty() {
            return;
        }
        let _ = self.key(key::CLAIMS);
        put!(self.array(claims.len() as u64));
        for (name, value) in claims {
            put!(self.array(2).and_then(|e| e.str(name)).and_then(|e| e.str(value)));
        }
    }

    pub(crate) fn command(&mut self, command: &Command) {
        self.text(key::SHOWN, &command.shown);
        if !command.parameters.is_empty() {
            let _ = self.key(key::PARAMETERS);
            put!(self.array(command.parameters.len() as u64));
            command.parameters.iter().for_each(|parameter| self.parameter(parameter));
        }
        let seen = command.touches.seen();
        if !seen.is_empty() {
            let _ = self.key(key::TOUCHES);
            put!(self.array(seen.len() as u64));
            seen.iter().for_each(|touch| self.touch(touch));
        }
        if let Touches::Unknown { why, .. } = &command.touches {
            self.text(key::TOUCHES_UNKNOWN, why);
        }
        if !command.facts.is_empty() {
            let _ = self.key(key::FACTS);
            put!(self.array(command.facts.len() as u64));
            for (name, fact) in &command.facts {
                put!(self.array(2).and_then(|e| e.str(name)));
                match fact {
                    Fact::Text(text) => put!(self.str(text)),
                    Fact::Flag(flag) => put!(self.bool(*flag)),
                    Fact::Number(number) => put!(self.i64(*number)),
                    Fact::Set(set) => self.texts(set.iter()),
                }
            }
        }
        if !command.settings.is_empty() {
            self.text(key::SETTINGS, &command.settings);
        }
        let _ = self.key(key::PURE_READ).bool(command.purity == Purity::Read);
    }

    fn parameter(&mut self, parameter: &Parameter) {
        put!(self.array(3).and_then(|e| e.str(&parameter.name)));
        put!(self.str(&parameter.kind));
        match &parameter.value {
            ParameterValue::Null => put!(self.null()),
            ParameterValue::Text(text) => put!(self.str(text)),
            ParameterValue::Bytes(bytes) => put!(self.bytes(bytes)),
            ParameterValue::Large { bytes } => put!(self.u64(*bytes)),
        }
    }

    fn touch(&mut self, touch: &Touch) {
        put!(self.array(4).and_then(|e| e.str(touch.action.as_str())));
        put!(self.str(touch.kind).and_then(|e| e.str(&touch.path)));
        match &touch.columns {
            Columns::NotApplicable => put!(self.null()),
            Columns::Known(columns) => self.texts(columns.iter()),
            Columns::All => put!(self.bool(true)),
            Columns::Unknown => put!(self.bool(false)),
        }
    }

    pub(crate) fn flow(&mut self, flow: Flow) {
        self.uint(key::FLOW, flow as u64);
    }
    pub(crate) fn bytes(&mut self, bytes: &[u8]) {
        if !bytes.is_empty() {
            self.blob(key::BYTES, bytes);
        }
    }
    pub(crate) fn tag(&mut self, tag: Option<&str>) {
        self.some_text(key::TAG, tag);
    }
    pub(crate) fn masked(&mut self, cells: &MaskedCells) {
        if cells.is_empty() {
            return;
        }
        let _ = self.key(key::MASKED);
        put!(self.array(cells.iter().len() as u64));
        for (class, count) in cells.iter() {
            put!(self.array(2).and_then(|e| e.str(class)).and_then(|e| e.u64(count)));
        }
    }
    pub(crate) fn message(&mut self, message: &str) {
        self.text(key::MESSAGE, message);
    }
    pub(crate) fn reason(&mut self, reason: Option<&str>) {
        self.some_text(key::REASON, reason);
    }
    pub(crate) fn ask(&mut self, ask: &str, digest: &bulla_core::Digest) {
        self.text(key::ASK, ask);
        self.blob(key::DIGEST, &digest.0);
    }
    pub(crate) fn terms(&mut self, terms: &HoldTerms) {
        self.list(key::GROUPS, terms.groups.iter());
        self.uint(key::QUORUM, u64::from(terms.quorum));
        self.uint(key::EXPIRES_MS, terms.expires_ms);
    }
    pub(crate) fn answer(&mut self, answer: &str, by: Option<&str>) {
        self.text(key::ANSWER, answer);
        self.some_text(key::BY, by);
    }
    pub(crate) fn granted(&mut self, at: bulla_core::Timestamp) {
        self.uint(key::GRANTED_NS, at.0);
    }
    pub(crate) fn policies(&mut self, policies: &[Arc<str>]) {
        self.list(key::POLICIES, policies.iter());
    }
    pub(crate) fn overflow(&mut self, bytes: u64) {
        self.uint(key::OVERFLOW, bytes);
    }
}

/// Reads an array of any length, item by item.
fn array<'b, T>(
    d: &mut Decoder<'b>,
    mut item: impl FnMut(&mut Decoder<'b>) -> Result<T, DetailError>,
) -> Result<Vec<T>, DetailError> {
    let count = d.array()?.ok_or(DetailError::Value)?;
    // No capacity from a foreign number: the items themselves are bounded by the bytes.
    let mut out = vec![];
    for _ in 0..count {
        out.push(item(d)?);
    }
    Ok(out)
}

fn tuple(d: &mut Decoder<'_>, items: u64) -> Result<(), DetailError> {
    if d.array()? == Some(items) { Ok(()) } else { Err(DetailError::Value) }
}

fn text(d: &mut Decoder<'_>) -> Result<String, DetailError> {
    Ok(d.str()?.to_owned())
}

fn texts(d: &mut Decoder<'_>) -> Result<Vec<String>, DetailError> {
    array(d, text)
}

fn pair(d: &mut Decoder<'_>) -> Result<(String, String), DetailError> {
    tuple(d, 2)?;
    Ok((text(d)?, text(d)?))
}

fn or_null<'b, T>(
    d: &mut Decoder<'b>,
    read: impl FnOnce(&mut Decoder<'b>) -> Result<T, DetailError>,
) -> Result<Option<T>, DetailError> {
    if d.datatype()? == Type::Null {
        d.null()?;
        return Ok(None);
    }
    read(d).map(Some)
}

fn blob(d: &mut Decoder<'_>) -> Result<Vec<u8>, DetailError> {
    Ok(d.bytes()?.to_vec())
}

fn principal(d: &mut Decoder<'_>) -> Result<PrincipalDetail, DetailError> {
    tuple(d, 14)?;
    Ok(PrincipalDetail {
        id: text(d)?,
        kind: text(d)?,
        issuer: text(d)?,
        groups: texts(d)?,
        attributes: array(d, pair)?,
        credential: text(d)?,
        credential_hash: blob(d)?,
        jti_hash: or_null(d, blob)?,
        kid_tail: or_null(d, text)?,
        issued_ns: d.u64()?,
        expires_ns: d.u64()?,
        verified_ns: d.u64()?,
        bound: d.bool()?,
        jwks_stale: d.bool()?,
    })
}

fn parameter(d: &mut Decoder<'_>) -> Result<ParameterDetail, DetailError> {
    tuple(d, 3)?;
    let (name, kind) = (text(d)?, text(d)?);
    let value = match d.datatype()? {
        Type::Null => {
            d.null()?;
            ParameterDetailValue::Null
        }
        Type::String => ParameterDetailValue::Text(text(d)?),
        Type::Bytes => ParameterDetailValue::Bytes(blob(d)?),
        _ => ParameterDetailValue::Large(d.u64()?),
    };
    Ok(ParameterDetail { name, kind, value })
}

fn touch(d: &mut Decoder<'_>) -> Result<TouchDetail, DetailError> {
    tuple(d, 4)?;
    let (action, kind, path) = (text(d)?, text(d)?, text(d)?);
    let columns = match d.datatype()? {
        Type::Null => {
            d.null()?;
            ColumnsDetail::NotApplicable
        }
        Type::Bool if d.bool()? => ColumnsDetail::All,
        Type::Bool => ColumnsDetail::Unknown,
        _ => ColumnsDetail::Known(texts(d)?),
    };
    Ok(TouchDetail { action, kind, path, columns })
}

fn fact(d: &mut Decoder<'_>) -> Result<(String, FactDetail), DetailError> {
    tuple(d, 2)?;
    let name = text(d)?;
    let fact = match d.datatype()? {
        Type::String => FactDetail::Text(text(d)?),
        Type::Bool => FactDetail::Flag(d.bool()?),
        Type::Array => FactDetail::Set(texts(d)?),
        _ => FactDetail::Number(d.i64()?),
    };
    Ok((name, fact))
}

fn counted(d: &mut Decoder<'_>) -> Result<(String, u64), DetailError> {
    tuple(d, 2)?;
    Ok((text(d)?, d.u64()?))
}

/// Which flow a number in an entry means.
pub(crate) fn flow_of(number: u64) -> Option<Flow> {
    const ALL: [Flow; 5] =
        [Flow::ToTarget, Flow::ToClient, Flow::Gateway, Flow::ToClientBeside, Flow::ToTargetBeside];
    ALL.into_iter().find(|flow| *flow as u64 == number)
}

impl Detail {
    /// Reads a private part; its end must be the end of `bytes`.
    pub fn decode(bytes: &[u8]) -> Result<Self, DetailError> {
        let mut d = Decoder::new(bytes);
        let mut out = Self::default();
        if d.map()?.is_some() {
            return Err(DetailError::Value);
        }
        while d.datatype()? != Type::Break {
            let key = d.u64()?;
            out.field(key, &mut d)?;
        }
        // The break byte itself.
        if d.position() + 1 == bytes.len() { Ok(out) } else { Err(DetailError::Value) }
    }

    fn field(&mut self, key: u64, d: &mut Decoder<'_>) -> Result<(), DetailError> {
        match key {
            key::PRINCIPAL => self.principal = Some(principal(d)?),
            key::ADDRESS => self.address = Some(text(d)?),
            key::TLS => self.tls = Some(text(d)?),
            key::CERTIFICATE => self.certificate_hash = Some(blob(d)?),
            key::PART => self.part = Some(text(d)?),
            key::CLAIMS => self.claims = array(d, pair)?,
            key::SHOWN => self.shown = Some(text(d)?),
            key::PARAMETERS => self.parameters = array(d, parameter)?,
            key::TOUCHES => self.touches = array(d, touch)?,
            key::TOUCHES_UNKNOWN => self.touches_unknown = Some(text(d)?),
            key::FACTS => self.facts = array(d, fact)?,
            key::SETTINGS => self.settings = Some(text(d)?),
            key::PURE_READ => self.pure_read = Some(d.bool()?),
            key::FLOW => self.flow = Some(flow_of(d.u64()?).ok_or(DetailError::Value)?),
            key::BYTES => self.bytes = blob(d)?,
            key::TAG => self.tag = Some(text(d)?),
            key::MESSAGE => self.message = Some(text(d)?),
            key::REASON => self.reason = Some(text(d)?),
            key::ASK => self.ask = Some(text(d)?),
            key::DIGEST => self.digest = Some(blob(d)?),
            key::GROUPS => self.groups = texts(d)?,
            key::QUORUM => self.quorum = Some(d.u64()?),
            key::EXPIRES_MS => self.expires_ms = Some(d.u64()?),
            key::ANSWER => self.answer = Some(text(d)?),
            key::BY => self.by = Some(text(d)?),
            key::GRANTED_NS => self.granted_ns = Some(d.u64()?),
            key::POLICIES => self.policies = texts(d)?,
            key::OVERFLOW => self.overflow = d.u64()?,
            key::MASKED => self.masked = array(d, counted)?,
            key => return Err(DetailError::Key(key)),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use bulla_core::{ActionName, Effects, Spelling};
    use proptest::prelude::*;

    use super::*;

    fn written() -> Vec<u8> {
        let parameter = |name: &str, value| Parameter { name: name.into(), kind: "".into(), value };
        let touch = |path: &str, columns| Touch {
            action: ActionName::new("postgres:select").unwrap(),
            kind: "table",
            path: path.into(),
            columns,
        };
        let command = Command {
            action: ActionName::new("postgres:select").unwrap(),
            spelling: Spelling::Capitals,
            effects: Effects::READ,
            touches: Touches::Unknown {
                why: "a function".into(),
                seen: vec![
                    touch("public.a", Columns::All),
                    touch("public.b", Columns::Unknown),
                    touch("public.c", Columns::Known(vec!["id".into()])),
                    touch("f", Columns::NotApplicable),
                ],
            },
            also: vec![],
            beneath: vec![],
            purity: Purity::Effect,
            shown: "select f(a) from b".into(),
            parameters: Arc::new([
                parameter("$1", ParameterValue::Null),
                parameter("$2", ParameterValue::Text("x".into())),
                parameter("$3", ParameterValue::Bytes(vec![0, 255].into())),
                parameter("$4", ParameterValue::Large { bytes: 1 << 40 }),
            ]),
            facts: [
                ("flag", Fact::Flag(true)),
                ("number", Fact::Number(-3)),
                ("set", Fact::Set(vec!["a".into()])),
                ("text", Fact::Text("t".into())),
            ]
            .into(),
            settings: "search_path=public".into(),
        };
        let mut out = vec![];
        let mut writer = DetailWriter::new(&mut out);
        writer.command(&command);
        writer.flow(Flow::ToClient);
        writer.bytes(b"payload");
        writer.finish();
        out
    }

    #[test]
    fn every_kind_of_value_reads_back() {
        let detail = Detail::decode(&written()).unwrap();
        let columns: Vec<_> = detail.touches.iter().map(|t| t.columns.clone()).collect();
        let known = ColumnsDetail::Known(vec!["id".into()]);
        use ColumnsDetail::{All, NotApplicable, Unknown};
        assert_eq!(columns, [All, Unknown, known, NotApplicable]);
        let values: Vec<_> = detail.parameters.iter().map(|p| p.value.clone()).collect();
        use ParameterDetailValue as V;
        let expect = [V::Null, V::Text("x".into()), V::Bytes(vec![0, 255]), V::Large(1 << 40)];
        assert_eq!(values, expect);
        let facts: Vec<_> = detail.facts.iter().map(|(_, fact)| fact.clone()).collect();
        use FactDetail as F;
        let set = F::Set(vec!["a".into()]);
        assert_eq!(facts, [F::Flag(true), F::Number(-3), set, F::Text("t".into())]);
        assert_eq!(detail.touches_unknown.as_deref(), Some("a function"));
        assert_eq!((detail.pure_read, detail.flow), (Some(false), Some(Flow::ToClient)));
        assert_eq!(detail.bytes, b"payload");
    }

    #[test]
    fn what_is_cut_or_longer_or_newer_is_refused() {
        let bytes = written();
        for len in 0..bytes.len() {
            assert!(Detail::decode(&bytes[..len]).is_err(), "{len}");
        }
        assert!(Detail::decode(&[&bytes[..], &[0]].concat()).is_err());
        // Key 29, which this version does not know; and a flow that does not exist.
        assert!(matches!(Detail::decode(&[0xbf, 0x18, 29, 0, 0xff]), Err(DetailError::Key(29))));
        assert!(matches!(Detail::decode(&[0xbf, 13, 5, 0xff]), Err(DetailError::Value)));
        assert_eq!(Detail::decode(&[0xbf, 0xff]).unwrap(), Detail::default());
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = Detail::decode(&bytes);
        }

        #[test]
        fn no_changed_byte_panics(at in 0usize..400, to in any::<u8>()) {
            let mut bytes = written();
            let at = at % bytes.len();
            bytes[at] = to;
            let _ = Detail::decode(&bytes);
        }
    }
}
