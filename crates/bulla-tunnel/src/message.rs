//! What the two sides say to each other: JSON behind a length, bounded, checked when it is read.
//!
//! A message is four bytes of length, big-endian, and so many bytes of JSON. Members that are not
//! known are ignored, so that a later version can add some; a member that is needed and missing, or
//! out of bounds, is an error. `docs/formats/tunnel.md` shows each, with vectors that are tested.

use std::io;

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use bulla_core::Secret;
use bulla_wire::TargetHello;
use bytes::{Buf, BufMut, Bytes, BytesMut};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Longest message.
pub const MESSAGE_BYTES_MAX: usize = 64 * 1024;
/// Longest name of an agent, a target, a part; longest key of a setting.
const NAME_BYTES_MAX: usize = 200;
/// Longest value of a setting, of a reason.
const TEXT_BYTES_MAX: usize = 8 * 1024;
/// Settings that a client may wish for, and that a target may report.
const SETTINGS_MAX: usize = 200;
/// Targets of one agent.
const TARGETS_MAX: usize = 1_000;
/// Longest key to cancel with.
const CANCEL_KEY_BYTES_MAX: usize = 1_024;
const CAPABILITIES_MAX: usize = 64;
/// Longest data that are signed, and longest signature.
const SIGNED_BYTES_MAX: usize = 8 * 1024;
/// Longest secret, in base64.
const SECRET_TEXT_BYTES_MAX: usize = 48 * 1024;

/// The version of what is inside a stream. ALPN carries the version of the whole.
pub const VERSION: u32 = 1;

/// The agent logs in to the target and hands over a stream that is in.
pub const LOGIN: &str = "login";
/// The agent can tell a target to cancel.
pub const CANCEL: &str = "cancel";
/// The agent says when it will take no new streams.
pub const DRAIN: &str = "drain";

/// The agent hands over what a gateway needs to log in by itself, where it must.
pub const SECRET: &str = "secret";

/// The agent signs what logs in on a stream that it handed over.
pub const SIGN: &str = "sign";

/// What this build can do. A feature is used only where both sides can do it.
pub const CAPABILITIES: &[&str] = &[LOGIN, CANCEL, DRAIN, SECRET, SIGN];

/// The paths of the streams.
pub const HELLO_PATH: &str = "/hello";
pub const OPEN_PATH: &str = "/open";
pub const CANCEL_PATH: &str = "/cancel";
pub const SECRET_PATH: &str = "/secret";
pub const SIGN_PATH: &str = "/sign";

/// A message that breaks its bounds.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    #[error("a message of more than {MESSAGE_BYTES_MAX} bytes")]
    TooLong,
    #[error("a message that cannot be read: {0}")]
    Malformed(String),
    #[error("a message whose {0} is out of bounds")]
    Bounds(&'static str),
}

impl From<MessageError> for io::Error {
    fn from(error: MessageError) -> Self {
        Self::new(io::ErrorKind::InvalidData, error)
    }
}

/// A message that knows its bounds.
pub trait Message: Serialize + DeserializeOwned {
    fn check(&self) -> Result<(), MessageError>;
}

fn bound(holds: bool, what: &'static str) -> Result<(), MessageError> {
    if holds { Ok(()) } else { Err(MessageError::Bounds(what)) }
}

/// Names are shown to people and written to entries.
pub fn is_name(text: &str) -> bool {
    !text.is_empty() && text.len() <= NAME_BYTES_MAX && !text.chars().any(char::is_control)
}

fn is_text(text: &str) -> bool {
    text.len() <= TEXT_BYTES_MAX && !text.contains('\0')
}

fn settings(list: &[(String, String)], what: &'static str) -> Result<(), MessageError> {
    bound(list.len() <= SETTINGS_MAX, what)?;
    bound(list.iter().all(|(name, value)| is_name(name) && is_text(value)), what)
}

/// The gateway's first words on a tunnel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    pub version: u32,
    pub gateway: String,
    pub capabilities: Vec<String>,
}

impl Message for Hello {
    fn check(&self) -> Result<(), MessageError> {
        bound(is_name(&self.gateway), "gateway")?;
        capabilities(&self.capabilities)
    }
}

fn capabilities(list: &[String]) -> Result<(), MessageError> {
    bound(list.len() <= CAPABILITIES_MAX, "capabilities")?;
    bound(list.iter().all(|one| is_name(one)), "capabilities")
}

/// What an agent has to offer. It opens nothing: the gateway's roster does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offer {
    pub name: String,
    pub protocol: String,
}

/// The agent's answer to [`Hello`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Welcome {
    pub version: u32,
    pub build: String,
    pub capabilities: Vec<String>,
    pub targets: Vec<Offer>,
}

impl Message for Welcome {
    fn check(&self) -> Result<(), MessageError> {
        bound(is_name(&self.build), "build")?;
        capabilities(&self.capabilities)?;
        bound(self.targets.len() <= TARGETS_MAX, "targets")?;
        let fits = |offer: &Offer| is_name(&offer.name) && is_name(&offer.protocol);
        bound(self.targets.iter().all(fits), "targets")
    }
}

/// What an agent says after its welcome, on the same stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// No new streams, please; those that are open go on.
    #[serde(default)]
    pub drain: bool,
}

impl Message for Event {
    fn check(&self) -> Result<(), MessageError> {
        Ok(())
    }
}

/// Reach a target, log in, and hand over the stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Open {
    /// By the name in the agent's configuration.
    pub target: String,
    pub protocol: String,
    /// The part of it, such as a database.
    pub part: String,
    pub settings: Vec<(String, String)>,
}

impl Message for Open {
    fn check(&self) -> Result<(), MessageError> {
        bound(is_name(&self.target), "target")?;
        bound(is_name(&self.protocol), "protocol")?;
        bound(is_name(&self.part), "part")?;
        settings(&self.settings, "settings")
    }
}

/// Tell a target to cancel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cancel {
    pub target: String,
    pub protocol: String,
    /// The target's own key, in base64.
    pub key: String,
}

impl Message for Cancel {
    fn check(&self) -> Result<(), MessageError> {
        bound(is_name(&self.target), "target")?;
        bound(is_name(&self.protocol), "protocol")?;
        key(&self.key).map(drop)
    }
}

/// Hand over the secret of a target whose protocol logs in with each request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AskSecret {
    pub target: String,
    pub protocol: String,
    /// The target did not take the one before: fetch it anew.
    #[serde(default)]
    pub spoiled: bool,
}

impl Message for AskSecret {
    fn check(&self) -> Result<(), MessageError> {
        bound(is_name(&self.target), "target")?;
        bound(is_name(&self.protocol), "protocol")
    }
}

/// The answer to [`AskSecret`].
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Told {
    Ok {
        /// In base64; none where the target needs none.
        secret: Option<String>,
    },
    Failed {
        why: Why,
        /// For operators.
        detail: String,
    },
}

impl std::fmt::Debug for Told {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Ok { .. } => f.write_str("Ok(..)"),
            Self::Failed { why, detail } => write!(f, "Failed({why:?}, {detail})"),
        }
    }
}

impl Message for Told {
    fn check(&self) -> Result<(), MessageError> {
        match self {
            Self::Ok { secret } => {
                let fits = |text: &String| text.len() <= SECRET_TEXT_BYTES_MAX;
                bound(secret.as_ref().is_none_or(fits), "secret")
            }
            Self::Failed { detail, .. } => bound(is_text(detail), "detail"),
        }
    }
}

/// Sign what logs in on a stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AskSign {
    pub target: String,
    pub protocol: String,
    /// The `cancel_key` that came with the stream, in base64.
    pub key: String,
    /// In base64.
    pub data: String,
}

impl Message for AskSign {
    fn check(&self) -> Result<(), MessageError> {
        bound(is_name(&self.target), "target")?;
        bound(is_name(&self.protocol), "protocol")?;
        key(&self.key)?;
        signed(&self.data).map(drop)
    }
}

/// The answer to [`AskSign`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Signed {
    Ok {
        /// In base64.
        signature: String,
    },
    Failed {
        why: Why,
        /// For operators.
        detail: String,
    },
}

impl Message for Signed {
    fn check(&self) -> Result<(), MessageError> {
        match self {
            Self::Ok { signature } => signed(signature).map(drop),
            Self::Failed { detail, .. } => bound(is_text(detail), "detail"),
        }
    }
}

/// Data to be signed, or a signature, out of its text.
pub fn signed(text: &str) -> Result<Vec<u8>, MessageError> {
    let bytes = BASE64.decode(text).map_err(|_| MessageError::Bounds("data"))?;
    bound(!bytes.is_empty() && bytes.len() <= SIGNED_BYTES_MAX, "data")?;
    Ok(bytes)
}

/// A secret for [`Told`], and back.
pub fn secret_text(secret: &Secret) -> String {
    BASE64.encode(secret.reveal())
}

pub fn secret(text: &str) -> Result<Secret, MessageError> {
    BASE64.decode(text).map(Secret::new).map_err(|_| MessageError::Bounds("secret"))
}

/// A key to cancel with, out of its text.
pub fn key(text: &str) -> Result<Vec<u8>, MessageError> {
    let bytes = BASE64.decode(text).map_err(|_| MessageError::Bounds("key"))?;
    bound(bytes.len() <= CANCEL_KEY_BYTES_MAX, "key")?;
    Ok(bytes)
}

pub fn key_text(key: &[u8]) -> String {
    BASE64.encode(key)
}

/// Why a stream is not what was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Why {
    /// The agent's configuration has no such target, part or protocol.
    Unknown,
    /// The agent takes no new streams.
    Draining,
    /// The target cannot be reached.
    Unreachable,
    /// The target did not let the agent in.
    Login,
    /// What was asked for cannot be read.
    Malformed,
}

/// The answer to [`Open`] and [`Cancel`]. With `ok`, what follows an [`Open`] is the target's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    Ok {
        account: String,
        parameters: Vec<(String, String)>,
        /// In base64.
        cancel_key: String,
    },
    Failed {
        why: Why,
        /// For operators.
        detail: String,
    },
}

impl Message for Answer {
    fn check(&self) -> Result<(), MessageError> {
        match self {
            Self::Ok { account, parameters, cancel_key } => {
                bound(account.is_empty() || is_name(account), "account")?;
                settings(parameters, "parameters")?;
                key(cancel_key).map(drop)
            }
            Self::Failed { detail, .. } => bound(is_text(detail), "detail"),
        }
    }
}

impl Answer {
    pub fn ok(hello: &TargetHello) -> Self {
        Self::Ok {
            account: hello.account.clone(),
            parameters: hello.parameters.clone(),
            cancel_key: key_text(&hello.cancel_key),
        }
    }

    pub fn failed(why: Why, detail: &str) -> Self {
        Self::Failed { why, detail: clip(detail) }
    }
}

/// A request for a certificate.
#[derive(Debug, Serialize, Deserialize)]
pub struct Request {
    pub version: u32,
    /// PKCS #10 in DER, in base64. Its key is used, its names are not.
    pub csr: String,
    /// The secret of a join token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub join: Option<String>,
    /// A JWT of the workload's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jwt: Option<String>,
    /// The agent that it wants to be; with a join token, the token says it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

impl Message for Request {
    fn check(&self) -> Result<(), MessageError> {
        bound(self.name.as_deref().is_none_or(is_name), "name")
    }
}

/// The answer to [`Request`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Issued {
    Ok {
        /// PEM.
        certificate: String,
        authority: String,
        name: String,
        resources: Vec<String>,
    },
    Refused {
        /// Public: nothing that tells which half of a credential was wrong.
        reason: String,
    },
}

impl Message for Issued {
    fn check(&self) -> Result<(), MessageError> {
        match self {
            Self::Ok { name, resources, .. } => {
                bound(is_name(name), "name")?;
                bound(resources.iter().all(|one| is_name(one)), "resources")
            }
            Self::Refused { reason } => bound(is_text(reason), "reason"),
        }
    }
}

/// As much of a text as a message carries, without what a terminal would obey.
pub fn clip(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(1_000).collect()
}

/// A message with its length before it.
pub fn encode<M: Message>(message: &M) -> Result<Bytes, MessageError> {
    message.check()?;
    let json = serde_json::to_vec(message);
    let json = json.map_err(|error| MessageError::Malformed(error.to_string()))?;
    bound(json.len() <= MESSAGE_BYTES_MAX, "length")?;
    let mut out = BytesMut::with_capacity(json.len() + 4);
    out.put_u32(u32::try_from(json.len()).unwrap_or(u32::MAX));
    out.extend_from_slice(&json);
    Ok(out.freeze())
}

/// The message at the front of `input`, taken off it; None while it is not whole.
pub fn decode<M: Message>(input: &mut BytesMut) -> Result<Option<M>, MessageError> {
    let Some(head) = input.first_chunk::<4>() else { return Ok(None) };
    let length = usize::try_from(u32::from_be_bytes(*head)).unwrap_or(usize::MAX);
    if length > MESSAGE_BYTES_MAX {
        return Err(MessageError::TooLong);
    }
    let Some(json) = input.get(4..4 + length) else { return Ok(None) };
    let message: M = serde_json::from_slice(json)
        .map_err(|error| MessageError::Malformed(clip(&error.to_string())))?;
    message.check()?;
    input.advance(4 + length);
    Ok(Some(message))
}

/// Reads one message off a stream. What lies behind it stays in `input`.
pub async fn read<M: Message>(
    stream: &mut (impl AsyncRead + Unpin),
    input: &mut BytesMut,
) -> io::Result<M> {
    loop {
        if let Some(message) = decode(input)? {
            return Ok(message);
        }
        if stream.read_buf(input).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

pub async fn write<M: Message>(
    stream: &mut (impl AsyncWrite + Unpin),
    message: &M,
) -> io::Result<()> {
    stream.write_all(&encode(message)?).await?;
    stream.flush().await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn input(json: &str) -> BytesMut {
        let mut out = BytesMut::new();
        out.put_u32(u32::try_from(json.len()).unwrap());
        out.extend_from_slice(json.as_bytes());
        out
    }

    /// Reads a text as a message; None if it is refused.
    fn check<M: Message>(json: &str) -> Option<M> {
        decode(&mut input(json)).ok().flatten()
    }

    #[test]
    fn messages_stop_where_they_end() {
        let open = Open {
            target: "orders".into(),
            protocol: "postgres".into(),
            part: "orders".into(),
            settings: vec![("application_name".into(), "a \"b\" ü".into())],
        };
        let whole = encode(&open).unwrap();
        for cut in 0..whole.len() {
            let mut part = BytesMut::from(whole.get(..cut).unwrap());
            assert_eq!(decode::<Open>(&mut part).unwrap(), None, "{cut}");
        }
        let mut more = BytesMut::from(&whole[..]);
        more.extend_from_slice(b"rest");
        assert_eq!(decode::<Open>(&mut more).unwrap(), Some(open));
        assert_eq!(&more[..], b"rest");
    }

    #[test]
    fn what_is_out_of_bounds_is_refused() {
        let good = r#"{"target":"a","protocol":"p","part":"b","settings":[],"new":1}"#;
        assert!(check::<Open>(good).is_some());
        let long = "x".repeat(NAME_BYTES_MAX + 1);
        for bad in [
            good.replace("\"a\"", "\"\""),
            good.replace("\"a\"", "\"a\\u001b[2J\""),
            good.replace("\"a\"", &format!("{long:?}")),
            good.replace("\"target\"", "\"targe\""),
            good.replace("[]", "[[\"k\",\"v\\u0000\"]]"),
            good.replace("[]", "[[\"k\"]]"),
            good.replace("[]", &format!("[{}]", ["[\"k\",\"v\"]"; 201].join(","))),
            "{".repeat(10_000),
            String::new(),
        ] {
            assert!(check::<Open>(&bad).is_none(), "{bad:.100}");
        }
        let key = BASE64.encode([1; CANCEL_KEY_BYTES_MAX + 1]);
        let answer = |key: &str| {
            format!(r#"{{"ok":{{"account":"","parameters":[],"cancel_key":"{key}"}}}}"#)
        };
        assert!(check::<Answer>(&answer("AAAA")).is_some());
        assert!(check::<Answer>(&answer("not base64")).is_none());
        assert!(check::<Answer>(&answer(&key)).is_none());
        let mut long = BytesMut::from(&[0, 1, 0, 1][..]);
        assert_eq!(decode::<Hello>(&mut long), Err(MessageError::TooLong));
    }

    const VECTORS: &str = include_str!("../../../docs/formats/vectors/tunnel.json");

    fn unhex(text: &str) -> BytesMut {
        let digit = |i: usize| u8::from_str_radix(text.get(i..i + 2).unwrap(), 16).unwrap();
        (0..text.len()).step_by(2).map(digit).collect()
    }

    /// Reads a frame and writes it again; None if it is refused.
    fn again<M: Message>(mut frame: BytesMut) -> Option<Bytes> {
        let message: M = decode(&mut frame).ok().flatten()?;
        assert!(frame.is_empty());
        Some(encode(&message).unwrap())
    }

    #[test]
    fn vectors_read_and_write() {
        let vectors: serde_json::Value = serde_json::from_str(VECTORS).unwrap();
        let read = |vector: &serde_json::Value| {
            let frame = unhex(vector["frame"].as_str().unwrap());
            let out = match vector["message"].as_str().unwrap() {
                "hello" => again::<Hello>(frame.clone()),
                "welcome" => again::<Welcome>(frame.clone()),
                "event" => again::<Event>(frame.clone()),
                "open" => again::<Open>(frame.clone()),
                "answer" => again::<Answer>(frame.clone()),
                "cancel" => again::<Cancel>(frame.clone()),
                "ask_sign" => again::<AskSign>(frame.clone()),
                "signed" => again::<Signed>(frame.clone()),
                "request" => again::<Request>(frame.clone()),
                "issued" => again::<Issued>(frame.clone()),
                other => panic!("{other}"),
            };
            (frame.freeze(), out)
        };
        for vector in vectors["good"].as_array().unwrap() {
            let (frame, out) = read(vector);
            assert_eq!(out, Some(frame.clone()), "{vector}");
            let json: serde_json::Value = serde_json::from_slice(&frame[4..]).unwrap();
            assert_eq!(json, vector["json"]);
        }
        for vector in vectors["bad"].as_array().unwrap() {
            assert_eq!(read(vector).1, None, "{vector}");
        }
        let join = &vectors["join_token"];
        let token = crate::JoinToken::parse(join["token"].as_str().unwrap()).unwrap();
        assert_eq!(token.pin.to_string(), join["pin"].as_str().unwrap());
        assert_eq!(token.hash().to_string(), join["hash"].as_str().unwrap());
    }

    #[test]
    fn arbitrary_bytes_never_panic() {
        let mut seed = 0x9E37_79B9_7F4A_7C15_u64;
        for _ in 0..20_000 {
            let mut bytes = BytesMut::from(&[0, 0][..]);
            for _ in 0..40 {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                bytes.put_u8((seed >> 33) as u8 % 0x40 + 0x20);
            }
            let _ = decode::<Answer>(&mut bytes.clone());
            let _ = decode::<Welcome>(&mut bytes);
        }
    }
}
