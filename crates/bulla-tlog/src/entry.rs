//! Entries: the leaves of the log, as deterministic CBOR. Specification: `docs/formats/entry.md`.
//!
//! The stored bytes are the hashed bytes. An entry has exactly one encoding, and the decoder takes
//! no other: `encode(decode(b)) == b` for every `b` that it accepts. An entry is an array: the
//! clear part, a map with integer keys, and, where there is one, the sealed part, a byte string.
//! The clear part holds no personal data and no control characters; its bytes are the additional
//! data under which the sealed part is encrypted (module `seal`).

use crate::{
    cbor::{self, ARRAY, MAP, Reader, UINT, push_bytes, push_head, push_text},
    hash::Hash,
    tile::ENTRY_BYTES_MAX,
};

/// The version of the format that this crate writes and reads.
pub const ENTRY_VERSION: u64 = 1;
/// Longest resource, protocol, action, status or policy id, in bytes.
pub const TEXT_BYTES_MAX: usize = 512;
/// Longest note, in bytes.
pub const NOTE_TEXT_BYTES_MAX: usize = 4_096;
/// Most policy ids in one entry.
pub const POLICIES_MAX: usize = 64;
/// Most objects of one entry.
pub const OBJECTS_MAX: usize = 256;

/// Keys of the clear map, in their order.
mod key {
    pub const V: u64 = 0;
    pub const KIND: u64 = 1;
    pub const T_WALL_NS: u64 = 2;
    pub const T_MONO_NS: u64 = 3;
    pub const BOOT: u64 = 4;
    pub const SID: u64 = 5;
    pub const SSEQ: u64 = 6;
    pub const SPREV: u64 = 7;
    pub const SUBJ_TAG: u64 = 8;
    pub const RESOURCE: u64 = 9;
    pub const PROTOCOL: u64 = 10;
    pub const ACTION: u64 = 11;
    pub const DECISION: u64 = 12;
    pub const POLICY: u64 = 13;
    pub const POLICIES: u64 = 14;
    pub const MODE: u64 = 15;
    pub const EFFECTS: u64 = 16;
    pub const CMD: u64 = 17;
    pub const ROWS: u64 = 18;
    pub const BYTES_IN: u64 = 19;
    pub const BYTES_OUT: u64 = 20;
    pub const STATUS: u64 = 21;
    pub const OBJS: u64 = 22;
    pub const TRANSCRIPT: u64 = 23;
    pub const COUNTS: u64 = 24;
    pub const DEK_COMMIT: u64 = 25;
    pub const NOTE: u64 = 26;
    pub const REFERS: u64 = 27;
}

macro_rules! coded {
    ($(#[$doc:meta])* $name:ident {
        $($(#[$vdoc:meta])* $variant:ident = $code:literal $text:literal,)*
    }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
        pub enum $name { $($(#[$vdoc])* $variant,)* }
        impl $name {
            pub const ALL: &[Self] = &[$(Self::$variant),*];
            /// The number that stands for it in an entry.
            pub fn code(self) -> u64 {
                match self { $(Self::$variant => $code,)* }
            }
            pub fn from_code(code: u64) -> Option<Self> {
                match code { $($code => Some(Self::$variant),)* _ => None }
            }
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }
        }
        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}

coded!(
    /// What an entry records.
    Kind {
        /// First entry of a log: its identity.
        Genesis = 1 "genesis",
        /// A run of the gateway begins.
        Boot = 2 "boot",
        /// The run before ended without a close; this is what was found.
        Recover = 3 "recover",
        /// First entry of a session.
        Open = 4 "open",
        /// A command that may now be sent.
        Intent = 5 "intent",
        /// How a command ended.
        Outcome = 6 "outcome",
        /// A piece of a command's input or response.
        Chunk = 7 "chunk",
        /// A command, or a session, that was refused.
        Refusal = 8 "refusal",
        /// A command that waits for approval.
        Hold = 9 "hold",
        /// An answer to a hold.
        Grant = 10 "grant",
        /// A principal was verified again, or differently.
        Identity = 11 "identity",
        /// Last entry of a session; without a session, of a run of the gateway.
        Close = 12 "close",
        /// Nothing happened, and the recorder works.
        Heartbeat = 13 "heartbeat",
        /// The configuration changed.
        Config = 14 "config",
        /// The policy bundle changed.
        Policy = 15 "policy",
        /// An operator did something; reading evidence included.
        Admin = 16 "admin",
        /// The log's key changes.
        Rotate = 17 "rotate",
        /// A wrapped key was destroyed.
        Erase = 18 "erase",
        /// A part of the record was withheld.
        Redact = 19 "redact",
        /// Entries were lost; the log goes on under a new origin.
        Loss = 20 "loss",
        /// Another gateway's checkpoint.
        Peer = 21 "peer",
        /// Something needs a person.
        Alarm = 22 "alarm",
    }
);

coded!(
    /// What policy answered.
    Decision {
        Allow = 0 "allow",
        Hold = 1 "hold",
        Deny = 2 "deny",
    }
);

coded!(
    /// How durability was configured.
    Mode {
        /// Intent durable before effect, evidence durable before release.
        Strict = 0 "strict",
        /// Released ahead of durability by at most a stated amount.
        Bounded = 1 "bounded",
    }
);

coded!(
    /// Which way an object's bytes went.
    Direction {
        ClientToTarget = 0 "client_to_target",
        TargetToClient = 1 "target_to_client",
        GatewayToClient = 2 "gateway_to_client",
    }
);

coded!(
    /// How an object's plaintext is stored inside its ciphertext.
    Encoding {
        Stored = 0 "stored",
        Zstd = 1 "zstd",
    }
);

/// Where an entry stands in its session's chain.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Link {
    pub sid: [u8; 16],
    /// 0 for the session's first entry, then one more each.
    pub seq: u64,
    /// Leaf hash of the session's entry before; none for the first, and only there.
    pub prev: Option<Hash>,
}

/// Bulk bytes of a session, kept outside the log. Made by `seal::Sealer::seal_object`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct ObjectRef {
    /// SHA-256 of the ciphertext with its tag: the object's name.
    pub ct_hash: Hash,
    /// Length of the ciphertext with its tag, in bytes.
    pub ct_len: u64,
    /// Length of the plaintext before compression, in bytes.
    pub pt_len: u64,
    /// Salted commitment to the plaintext.
    pub commit: Hash,
    /// Number of the object within its session; its nonce.
    pub n: u64,
    pub dir: Direction,
    pub enc: Encoding,
}

/// Totals of a session, in its close. [`Counts::observe`] says what each counts.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Counts {
    pub commands: u64,
    pub denied: u64,
    pub held: u64,
    pub rows: u64,
    pub bytes: u64,
}

impl Counts {
    /// Takes one entry of the session into account: `commands` are its intents, `denied` its
    /// refusals, `held` its holds; `rows` and `bytes` are the sums of `rows` and `bytes_out` over
    /// its outcomes. Sums saturate.
    pub fn observe(&mut self, entry: &Entry) {
        let add = |sum: &mut u64, n: u64| *sum = sum.saturating_add(n);
        match entry.kind {
            Kind::Intent => add(&mut self.commands, 1),
            Kind::Refusal => add(&mut self.denied, 1),
            Kind::Hold => add(&mut self.held, 1),
            Kind::Outcome => {
                add(&mut self.rows, entry.rows.unwrap_or(0));
                add(&mut self.bytes, entry.bytes_out.unwrap_or(0));
            }
            _ => {}
        }
    }
}

/// Running hash over a session's objects, in the order of its entries; its end is the close's
/// `transcript`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Transcript(Hash);

impl Transcript {
    pub fn new(sid: &[u8; 16]) -> Self {
        Self(Hash::of_parts(&[b"bulla/transcript", sid]))
    }

    pub fn push(&mut self, object: &ObjectRef) {
        self.0 = Hash::of_parts(&[
            &self.0.0,
            &object.ct_hash.0,
            &object.commit.0,
            &object.pt_len.to_be_bytes(),
            &[object.dir.code() as u8],
        ]);
    }

    pub fn hash(&self) -> Hash {
        self.0
    }
}

/// What a `recover`, `rotate`, `peer` or other entry points to.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Refers {
    /// An index, or a size, of a log.
    Index(u64),
    /// A leaf hash, a root, a key's or a file's hash.
    Hash(Hash),
}

/// One record of the log. Which fields a kind has is in `docs/formats/entry.md`; what the codec
/// itself demands is in [`EntryError::Rule`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    pub kind: Kind,
    /// Nanoseconds since the Unix epoch, by the gateway's clock.
    pub t_wall_ns: u64,
    /// Nanoseconds of a clock that never steps; comparable within one `boot` only.
    pub t_mono_ns: u64,
    /// The run of the gateway.
    pub boot: [u8; 16],
    pub session: Option<Link>,
    /// HMAC of the subject, for look-up; erasable with its key.
    pub subj_tag: Option<[u8; 32]>,
    pub resource: Option<String>,
    pub protocol: Option<String>,
    pub action: Option<String>,
    pub decision: Option<Decision>,
    /// Digest of the policy bundle.
    pub policy: Option<[u8; 32]>,
    /// Ids of the policies that decided.
    pub policies: Vec<String>,
    pub mode: Mode,
    /// Bit set of a command's effects; 0 is none.
    pub effects: u64,
    /// Number of the command within its session.
    pub cmd: Option<u64>,
    pub rows: Option<u64>,
    pub bytes_in: Option<u64>,
    pub bytes_out: Option<u64>,
    /// `ok`, `error:42P01`, `abandoned`, `target_lost`, ...
    pub status: Option<String>,
    pub objs: Vec<ObjectRef>,
    pub transcript: Option<Hash>,
    pub counts: Option<Counts>,
    pub dek_commit: Option<[u8; 32]>,
    /// Short text without personal data.
    pub note: Option<String>,
    pub refers: Option<Refers>,
    /// AES-256-GCM ciphertext with its tag.
    pub sealed: Option<Vec<u8>>,
}

/// Why bytes are not an entry, or an entry cannot be written. `at` is a byte offset.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EntryError {
    #[error("entry ends early at byte {at}")]
    Truncated { at: usize },
    #[error("entry has an item of an unexpected type at byte {at}")]
    Type { at: usize },
    #[error("entry has an item in a form other than the shortest at byte {at}")]
    NotCanonical { at: usize },
    #[error("entry has a wrong length or too many items at byte {at}")]
    Length { at: usize },
    #[error("entry has a text that is not UTF-8 or holds a control character at byte {at}")]
    Text { at: usize },
    #[error("entry has key {key} out of order, twice, or unknown to version 1")]
    Key { key: u64 },
    #[error("entry lacks key {key}")]
    Missing { key: u64 },
    #[error("entry has the value {value}, unknown to version 1, under key {key}")]
    Value { key: u64, value: u64 },
    #[error("entry is of version {0}, not 1")]
    Version(u64),
    #[error("entry has bytes after its end at byte {at}")]
    Surplus { at: usize },
    #[error("entry of {len} bytes is longer than {ENTRY_BYTES_MAX}")]
    TooLong { len: usize },
    #[error("entry's field `{field}` is empty, too long, or holds a control character")]
    Field { field: &'static str },
    /// What an entry says contradicts itself.
    #[error("entry breaks a rule: {0}")]
    Rule(&'static str),
}

impl Entry {
    /// An entry with what every entry has, and nothing else.
    pub fn new(kind: Kind, t_wall_ns: u64, t_mono_ns: u64, boot: [u8; 16]) -> Self {
        Self {
            kind,
            t_wall_ns,
            t_mono_ns,
            boot,
            session: None,
            subj_tag: None,
            resource: None,
            protocol: None,
            action: None,
            decision: None,
            policy: None,
            policies: vec![],
            mode: Mode::Strict,
            effects: 0,
            cmd: None,
            rows: None,
            bytes_in: None,
            bytes_out: None,
            status: None,
            objs: vec![],
            transcript: None,
            counts: None,
            dek_commit: None,
            note: None,
            refers: None,
            sealed: None,
        }
    }

    /// The stored bytes: what is hashed as the leaf.
    pub fn encode(&self) -> Result<Vec<u8>, EntryError> {
        let mut out = Vec::with_capacity(512 + self.sealed.as_ref().map_or(0, Vec::len));
        self.encode_into(&mut out)?;
        Ok(out)
    }

    /// Appends the stored bytes to `out`; on an error `out` is as it was.
    pub fn encode_into(&self, out: &mut Vec<u8>) -> Result<(), EntryError> {
        let start = out.len();
        let written = self.encode_clear(out, self.sealed.is_some()).and_then(|()| {
            if let Some(sealed) = &self.sealed {
                check_sealed(sealed)?;
                push_bytes(out, sealed);
            }
            check_len(out.len() - start)
        });
        written.inspect_err(|_| out.truncate(start))
    }

    /// The clear part's bytes: the map, as it stands inside the stored bytes. The additional data
    /// of the sealed part, whether that is there yet or not.
    pub fn clear_bytes(&self) -> Result<Vec<u8>, EntryError> {
        let mut out = Vec::with_capacity(512);
        self.encode_clear(&mut out, false)?;
        out.remove(0);
        Ok(out)
    }

    /// Appends the head of the array and the clear map. The map begins one byte after.
    pub(crate) fn encode_clear(&self, out: &mut Vec<u8>, sealed: bool) -> Result<(), EntryError> {
        self.check()?;
        push_head(out, ARRAY, if sealed { 2 } else { 1 });
        push_head(out, MAP, self.clear_fields());
        let mut w = Writer(out);
        w.uint(key::V, ENTRY_VERSION);
        w.uint(key::KIND, self.kind.code());
        w.uint(key::T_WALL_NS, self.t_wall_ns);
        w.uint(key::T_MONO_NS, self.t_mono_ns);
        w.bytes(key::BOOT, &self.boot);
        if let Some(link) = &self.session {
            w.bytes(key::SID, &link.sid);
            w.uint(key::SSEQ, link.seq);
            w.some_bytes(key::SPREV, link.prev.as_ref().map(|hash| &hash.0[..]));
        }
        w.some_bytes(key::SUBJ_TAG, self.subj_tag.as_ref().map(|tag| &tag[..]));
        w.some_text(key::RESOURCE, self.resource.as_deref());
        w.some_text(key::PROTOCOL, self.protocol.as_deref());
        w.some_text(key::ACTION, self.action.as_deref());
        w.some_uint(key::DECISION, self.decision.map(Decision::code));
        w.some_bytes(key::POLICY, self.policy.as_ref().map(|digest| &digest[..]));
        if !self.policies.is_empty() {
            w.list(key::POLICIES, self.policies.len());
            self.policies.iter().for_each(|id| push_text(w.0, id));
        }
        w.uint(key::MODE, self.mode.code());
        w.some_uint(key::EFFECTS, Some(self.effects).filter(|bits| *bits != 0));
        w.some_uint(key::CMD, self.cmd);
        w.some_uint(key::ROWS, self.rows);
        w.some_uint(key::BYTES_IN, self.bytes_in);
        w.some_uint(key::BYTES_OUT, self.bytes_out);
        w.some_text(key::STATUS, self.status.as_deref());
        if !self.objs.is_empty() {
            w.list(key::OBJS, self.objs.len());
            self.objs.iter().for_each(|object| push_object(w.0, object));
        }
        w.some_bytes(key::TRANSCRIPT, self.transcript.as_ref().map(|hash| &hash.0[..]));
        if let Some(c) = &self.counts {
            w.list(key::COUNTS, 5);
            [c.commands, c.denied, c.held, c.rows, c.bytes]
                .into_iter()
                .for_each(|count| push_head(w.0, UINT, count));
        }
        w.some_bytes(key::DEK_COMMIT, self.dek_commit.as_ref().map(|commit| &commit[..]));
        w.some_text(key::NOTE, self.note.as_deref());
        match &self.refers {
            None => {}
            Some(Refers::Index(index)) => w.uint(key::REFERS, *index),
            Some(Refers::Hash(hash)) => w.bytes(key::REFERS, &hash.0),
        }
        Ok(())
    }

    fn clear_fields(&self) -> u64 {
        let session = self.session.map_or(0, |link| 2 + u64::from(link.prev.is_some()));
        let optional = [
            self.subj_tag.is_some(),
            self.resource.is_some(),
            self.protocol.is_some(),
            self.action.is_some(),
            self.decision.is_some(),
            self.policy.is_some(),
            !self.policies.is_empty(),
            self.effects != 0,
            self.cmd.is_some(),
            self.rows.is_some(),
            self.bytes_in.is_some(),
            self.bytes_out.is_some(),
            self.status.is_some(),
            !self.objs.is_empty(),
            self.transcript.is_some(),
            self.counts.is_some(),
            self.dek_commit.is_some(),
            self.note.is_some(),
            self.refers.is_some(),
        ];
        // Version, kind, two times, boot and mode are always there.
        6 + session + optional.into_iter().map(u64::from).sum::<u64>()
    }

    /// What both the encoder and the decoder demand beyond the form.
    fn check(&self) -> Result<(), EntryError> {
        let texts = [
            ("resource", &self.resource),
            ("protocol", &self.protocol),
            ("action", &self.action),
            ("status", &self.status),
        ];
        for (field, text) in texts {
            check_text(field, text.as_deref(), TEXT_BYTES_MAX)?;
        }
        check_text("note", self.note.as_deref(), NOTE_TEXT_BYTES_MAX)?;
        for id in &self.policies {
            check_text("policies", Some(id), TEXT_BYTES_MAX)?;
        }
        if self.policies.len() > POLICIES_MAX {
            return Err(EntryError::Field { field: "policies" });
        }
        if self.objs.len() > OBJECTS_MAX {
            return Err(EntryError::Field { field: "objs" });
        }
        if let Some(link) = &self.session
            && (link.seq == 0) != link.prev.is_none()
        {
            return Err(EntryError::Rule("only a session's first entry has no entry before it"));
        }
        let first = self.session.is_some_and(|link| link.seq == 0);
        match self.kind {
            Kind::Open if !first => Err(EntryError::Rule("open is a session's first entry")),
            Kind::Intent | Kind::Outcome | Kind::Chunk if self.session.is_none() => {
                Err(EntryError::Rule("intent, outcome and chunk belong to a session"))
            }
            Kind::Genesis | Kind::Boot | Kind::Recover | Kind::Heartbeat
                if self.session.is_some() =>
            {
                Err(EntryError::Rule("genesis, boot, recover and heartbeat have no session"))
            }
            _ if self.session.is_none() && !self.objs.is_empty() => {
                Err(EntryError::Rule("objects belong to a session"))
            }
            _ if self.kind != Kind::Close
                && (self.counts.is_some() || self.transcript.is_some()) =>
            {
                Err(EntryError::Rule("counts and transcript stand in a close"))
            }
            _ => Ok(()),
        }
    }

    /// Reads stored bytes. Takes exactly what [`Entry::encode`] writes.
    pub fn decode(bytes: &[u8]) -> Result<Self, EntryError> {
        check_len(bytes.len())?;
        let mut r = Reader::new(bytes);
        let parts = r.count(ARRAY, 2)?;
        let mut entry = decode_clear(&mut r)?;
        match parts {
            1 => {}
            2 => {
                let sealed = r.bytes()?;
                check_sealed(sealed)?;
                entry.sealed = Some(sealed.to_vec());
            }
            _ => return Err(EntryError::Length { at: 0 }),
        }
        if !r.is_at_end() {
            return Err(EntryError::Surplus { at: r.offset() });
        }
        entry.check()?;
        Ok(entry)
    }
}

struct Writer<'a>(&'a mut Vec<u8>);

impl Writer<'_> {
    fn uint(&mut self, key: u64, value: u64) {
        push_head(self.0, UINT, key);
        push_head(self.0, UINT, value);
    }
    fn bytes(&mut self, key: u64, bytes: &[u8]) {
        push_head(self.0, UINT, key);
        push_bytes(self.0, bytes);
    }
    fn list(&mut self, key: u64, len: usize) {
        push_head(self.0, UINT, key);
        push_head(self.0, ARRAY, len as u64);
    }
    fn some_uint(&mut self, key: u64, value: Option<u64>) {
        if let Some(value) = value {
            self.uint(key, value);
        }
    }
    fn some_bytes(&mut self, key: u64, bytes: Option<&[u8]>) {
        if let Some(bytes) = bytes {
            self.bytes(key, bytes);
        }
    }
    fn some_text(&mut self, key: u64, text: Option<&str>) {
        if let Some(text) = text {
            push_head(self.0, UINT, key);
            push_text(self.0, text);
        }
    }
}

const OBJECT_ITEMS: usize = 7;

fn push_object(out: &mut Vec<u8>, object: &ObjectRef) {
    push_head(out, ARRAY, OBJECT_ITEMS as u64);
    push_bytes(out, &object.ct_hash.0);
    push_head(out, UINT, object.ct_len);
    push_head(out, UINT, object.pt_len);
    push_bytes(out, &object.commit.0);
    push_head(out, UINT, object.n);
    push_head(out, UINT, object.dir.code());
    push_head(out, UINT, object.enc.code());
}

fn decode_object(r: &mut Reader<'_>) -> Result<ObjectRef, EntryError> {
    let at = r.offset();
    if r.count(ARRAY, OBJECT_ITEMS)? != OBJECT_ITEMS {
        return Err(EntryError::Length { at });
    }
    Ok(ObjectRef {
        ct_hash: Hash(r.bytes_n()?),
        ct_len: r.uint()?,
        pt_len: r.uint()?,
        commit: Hash(r.bytes_n()?),
        n: r.uint()?,
        dir: code(r, key::OBJS, Direction::from_code)?,
        enc: code(r, key::OBJS, Encoding::from_code)?,
    })
}

fn code<T>(
    r: &mut Reader<'_>,
    key: u64,
    from_code: impl Fn(u64) -> Option<T>,
) -> Result<T, EntryError> {
    let value = r.uint()?;
    from_code(value).ok_or(EntryError::Value { key, value })
}

/// The keys of a map as they come: each above the one before.
struct Keys {
    left: usize,
    next: Option<u64>,
}

impl Keys {
    fn new(r: &mut Reader<'_>) -> Result<Self, EntryError> {
        let mut keys = Self { left: r.count(MAP, key::REFERS as usize + 1)?, next: None };
        keys.step(r, None)?;
        Ok(keys)
    }

    fn step(&mut self, r: &mut Reader<'_>, last: Option<u64>) -> Result<(), EntryError> {
        self.next = None;
        if self.left > 0 {
            self.left -= 1;
            let key = r.uint()?;
            if key > key::REFERS || last.is_some_and(|last| key <= last) {
                return Err(EntryError::Key { key });
            }
            self.next = Some(key);
        }
        Ok(())
    }

    /// Reads the value of `key` if it is the next one.
    fn some<'a, T>(
        &mut self,
        r: &mut Reader<'a>,
        key: u64,
        read: impl FnOnce(&mut Reader<'a>) -> Result<T, EntryError>,
    ) -> Result<Option<T>, EntryError> {
        if self.next != Some(key) {
            return Ok(None);
        }
        let value = read(r)?;
        self.step(r, Some(key))?;
        Ok(Some(value))
    }

    fn must<'a, T>(
        &mut self,
        r: &mut Reader<'a>,
        key: u64,
        read: impl FnOnce(&mut Reader<'a>) -> Result<T, EntryError>,
    ) -> Result<T, EntryError> {
        self.some(r, key, read)?.ok_or(EntryError::Missing { key })
    }
}

fn decode_clear(r: &mut Reader<'_>) -> Result<Entry, EntryError> {
    let mut k = Keys::new(r)?;
    let version = k.must(r, key::V, Reader::uint)?;
    if version != ENTRY_VERSION {
        return Err(EntryError::Version(version));
    }
    let kind = k.must(r, key::KIND, |r| code(r, key::KIND, Kind::from_code))?;
    let t_wall_ns = k.must(r, key::T_WALL_NS, Reader::uint)?;
    let t_mono_ns = k.must(r, key::T_MONO_NS, Reader::uint)?;
    let boot = k.must(r, key::BOOT, Reader::bytes_n)?;
    let mut entry = Entry::new(kind, t_wall_ns, t_mono_ns, boot);
    if let Some(sid) = k.some(r, key::SID, Reader::bytes_n)? {
        let seq = k.must(r, key::SSEQ, Reader::uint)?;
        let prev = k.some(r, key::SPREV, Reader::bytes_n)?.map(Hash);
        entry.session = Some(Link { sid, seq, prev });
    }
    entry.subj_tag = k.some(r, key::SUBJ_TAG, Reader::bytes_n)?;
    entry.resource = k.some(r, key::RESOURCE, text)?;
    entry.protocol = k.some(r, key::PROTOCOL, text)?;
    entry.action = k.some(r, key::ACTION, text)?;
    entry.decision = k.some(r, key::DECISION, |r| code(r, key::DECISION, Decision::from_code))?;
    entry.policy = k.some(r, key::POLICY, Reader::bytes_n)?;
    let policies = k.some(r, key::POLICIES, |r| list(r, POLICIES_MAX, text))?;
    entry.policies = policies.unwrap_or_default();
    entry.mode = k.must(r, key::MODE, |r| code(r, key::MODE, Mode::from_code))?;
    entry.effects = k.some(r, key::EFFECTS, nonzero)?.unwrap_or(0);
    entry.cmd = k.some(r, key::CMD, Reader::uint)?;
    entry.rows = k.some(r, key::ROWS, Reader::uint)?;
    entry.bytes_in = k.some(r, key::BYTES_IN, Reader::uint)?;
    entry.bytes_out = k.some(r, key::BYTES_OUT, Reader::uint)?;
    entry.status = k.some(r, key::STATUS, text)?;
    entry.objs = k.some(r, key::OBJS, |r| list(r, OBJECTS_MAX, decode_object))?.unwrap_or_default();
    entry.transcript = k.some(r, key::TRANSCRIPT, Reader::bytes_n)?.map(Hash);
    entry.counts = k.some(r, key::COUNTS, decode_counts)?;
    entry.dek_commit = k.some(r, key::DEK_COMMIT, Reader::bytes_n)?;
    entry.note = k.some(r, key::NOTE, text)?;
    entry.refers = k.some(r, key::REFERS, decode_refers)?;
    // What is left here is a key in a place where it may not stand, such as `sseq` without `sid`.
    match k.next {
        Some(key) => Err(EntryError::Key { key }),
        None => Ok(entry),
    }
}

fn text(r: &mut Reader<'_>) -> Result<String, EntryError> {
    let at = r.offset();
    let text = r.text()?;
    // Bounded before it is copied; each field's own limit is checked with the whole.
    if text.len() > NOTE_TEXT_BYTES_MAX {
        return Err(EntryError::Length { at });
    }
    Ok(text.to_owned())
}

fn nonzero(r: &mut Reader<'_>) -> Result<u64, EntryError> {
    let at = r.offset();
    match r.uint()? {
        0 => Err(EntryError::NotCanonical { at }),
        value => Ok(value),
    }
}

/// An array of 1 to `max` items: an empty one is left out.
fn list<'a, T>(
    r: &mut Reader<'a>,
    max: usize,
    mut item: impl FnMut(&mut Reader<'a>) -> Result<T, EntryError>,
) -> Result<Vec<T>, EntryError> {
    let at = r.offset();
    match r.count(ARRAY, max)? {
        0 => Err(EntryError::NotCanonical { at }),
        count => (0..count).map(|_| item(r)).collect(),
    }
}

fn decode_counts(r: &mut Reader<'_>) -> Result<Counts, EntryError> {
    let at = r.offset();
    if r.count(ARRAY, 5)? != 5 {
        return Err(EntryError::Length { at });
    }
    Ok(Counts {
        commands: r.uint()?,
        denied: r.uint()?,
        held: r.uint()?,
        rows: r.uint()?,
        bytes: r.uint()?,
    })
}

fn decode_refers(r: &mut Reader<'_>) -> Result<Refers, EntryError> {
    if r.peek() == Some(cbor::BYTES) {
        Ok(Refers::Hash(Hash(r.bytes_n()?)))
    } else {
        Ok(Refers::Index(r.uint()?))
    }
}

fn check_text(field: &'static str, text: Option<&str>, max: usize) -> Result<(), EntryError> {
    let Some(text) = text else { return Ok(()) };
    let clean = || {
        if text.is_ascii() {
            text.bytes().all(|byte| (0x20..0x7f).contains(&byte))
        } else {
            !text.chars().any(char::is_control)
        }
    };
    let good = !text.is_empty() && text.len() <= max && clean();
    if good { Ok(()) } else { Err(EntryError::Field { field }) }
}

/// Shortest sealed part: the tag of an empty plaintext.
const SEALED_BYTES_MIN: usize = 16;

fn check_sealed(sealed: &[u8]) -> Result<(), EntryError> {
    let good = sealed.len() >= SEALED_BYTES_MIN;
    if good { Ok(()) } else { Err(EntryError::Field { field: "sealed" }) }
}

pub(crate) fn check_len(len: usize) -> Result<(), EntryError> {
    if len > ENTRY_BYTES_MAX { Err(EntryError::TooLong { len }) } else { Ok(()) }
}
