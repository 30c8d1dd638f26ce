//! SFTP version 3 (draft-ietf-secsh-filexfer-02, and OpenSSH's PROTOCOL): packets, strictly. Pure.
//!
//! A packet is read whole or refused: its length is within the limit, each part is there, and
//! nothing stands behind the last one.

use bytes::{Buf, BufMut, Bytes, BytesMut};

/// Longest packet; OpenSSH's own limit.
pub const PACKET_BYTES_MAX: usize = 256 << 10;
/// Longest path.
pub const PATH_BYTES_MAX: usize = 4_096;
/// Request ids from here on are the gateway's own.
pub const OWN_ID_MIN: u32 = 0xffff_ff00;

/// SSH_FX_PERMISSION_DENIED, SSH_FX_OP_UNSUPPORTED.
pub const DENIED: u32 = 3;
pub const UNSUPPORTED: u32 = 8;

/// Extensions whose requests are read.
const EXTENSIONS: &[&str] = &[
    "posix-rename@openssh.com",
    "hardlink@openssh.com",
    "fsync@openssh.com",
    "lsetstat@openssh.com",
    "statvfs@openssh.com",
    "fstatvfs@openssh.com",
    "limits@openssh.com",
];

/// What open flags ask for (SSH_FXF_*).
const READ: u32 = 1;
const WRITES: u32 = 2 | 4 | 8 | 16 | 32;

/// What a request does to files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    /// The first packet: the version.
    Init(u32),
    Open {
        path: String,
        reads: bool,
        writes: bool,
    },
    List {
        path: String,
    },
    Stat {
        path: String,
        follows: bool,
    },
    SetStat {
        path: String,
        follows: bool,
    },
    Remove {
        path: String,
    },
    MakeDir {
        path: String,
    },
    RemoveDir {
        path: String,
    },
    Resolve {
        path: String,
    },
    ReadLink {
        path: String,
    },
    Rename {
        from: String,
        to: String,
    },
    /// A symbolic or hard link at `path`, to `to`.
    Link {
        path: String,
        to: String,
    },
    /// On an open file: nothing that its opening did not ask for.
    OnHandle {
        handle: Bytes,
        used: Use,
    },
    /// On an open file, and to be judged by itself.
    SetStatOpen {
        handle: Bytes,
    },
    /// Asks for the server's limits.
    Limits,
    /// An extension that is not known.
    Unknown {
        name: String,
    },
}

/// What is done on an open file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Use {
    Closes,
    /// So many bytes.
    Writes(u32),
    Other,
}

/// A request, and its packet as it was sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    pub id: u32,
    pub op: Op,
    pub packet: Bytes,
}

/// An answer, and its packet as it was sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// None: the server's version.
    pub id: Option<u32>,
    pub what: What,
    pub packet: Bytes,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    Version,
    Status(u32),
    Handle(Bytes),
    /// So many bytes.
    Data(u32),
    /// With the first name.
    Name(Option<String>),
    Attributes,
    Extended,
}

/// Why a packet is not read. Nothing behind it can be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Malformed(pub &'static str);

/// Takes a packet off the front, if it is whole.
pub fn packet(buffer: &mut BytesMut) -> Result<Option<Bytes>, Malformed> {
    let Some(head) = buffer.get(..4) else { return Ok(None) };
    let length = head.iter().fold(0usize, |all, byte| (all << 8) | usize::from(*byte));
    if length == 0 || length > PACKET_BYTES_MAX {
        return Err(Malformed("a packet's length is out of bounds"));
    }
    if buffer.len() < 4 + length {
        return Ok(None);
    }
    Ok(Some(buffer.split_to(4 + length).freeze()))
}

/// Reads parts off the front of a packet.
struct Parts(Bytes);

impl Parts {
    /// Behind the length.
    fn of(packet: &Bytes) -> Self {
        Self(packet.slice(4.min(packet.len())..))
    }
    fn short() -> Malformed {
        Malformed("a packet ends too soon")
    }
    fn byte(&mut self) -> Result<u8, Malformed> {
        self.0.try_get_u8().map_err(|_| Self::short())
    }
    fn word(&mut self) -> Result<u32, Malformed> {
        self.0.try_get_u32().map_err(|_| Self::short())
    }
    fn long(&mut self) -> Result<u64, Malformed> {
        self.0.try_get_u64().map_err(|_| Self::short())
    }
    fn bytes(&mut self) -> Result<Bytes, Malformed> {
        let length = usize::try_from(self.word()?).map_err(|_| Self::short())?;
        if length > self.0.len() {
            return Err(Self::short());
        }
        Ok(self.0.split_to(length))
    }
    fn text(&mut self) -> Result<String, Malformed> {
        let bytes = self.bytes()?;
        String::from_utf8(bytes.to_vec()).map_err(|_| Malformed("a name is not UTF-8"))
    }
    fn path(&mut self) -> Result<String, Malformed> {
        let path = self.text()?;
        if path.len() > PATH_BYTES_MAX || path.contains('\0') {
            return Err(Malformed("a path is none"));
        }
        Ok(path)
    }
    fn handle(&mut self) -> Result<Bytes, Malformed> {
        let handle = self.bytes()?;
        if handle.is_empty() || handle.len() > 256 {
            return Err(Malformed("a handle is none"));
        }
        Ok(handle)
    }
    /// SSH_FILEXFER_ATTR_*: size, ids, mode, times, and pairs of extensions.
    fn attributes(&mut self) -> Result<(), Malformed> {
        let flags = self.word()?;
        if flags & !0x8000_000f != 0 {
            return Err(Malformed("attributes that are not known"));
        }
        let words = [(1, 2), (2, 2), (4, 1), (8, 2)];
        for (flag, count) in words {
            for _ in 0..if flags & flag != 0 { count } else { 0 } {
                self.word()?;
            }
        }
        if flags & 0x8000_0000 != 0 {
            for _ in 0..self.word()? {
                self.bytes()?;
                self.bytes()?;
            }
        }
        Ok(())
    }
    fn end(&self) -> Result<(), Malformed> {
        match self.0.is_empty() {
            true => Ok(()),
            false => Err(Malformed("a packet goes on behind its end")),
        }
    }
}

/// Reads a request.
pub fn request(packet: Bytes) -> Result<Request, Malformed> {
    let mut parts = Parts::of(&packet);
    let kind = parts.byte()?;
    let id = parts.word()?;
    if kind == 1 {
        // Pairs of extensions may follow, which mean nothing to us or to OpenSSH.
        while !parts.0.is_empty() {
            parts.bytes()?;
            parts.bytes()?;
        }
        return Ok(Request { id: 0, op: Op::Init(id), packet });
    }
    if id >= OWN_ID_MIN {
        return Err(Malformed("a request's number is one of the gateway's own"));
    }
    let op = op(kind, &mut parts)?;
    parts.end()?;
    Ok(Request { id, op, packet })
}

fn op(kind: u8, parts: &mut Parts) -> Result<Op, Malformed> {
    Ok(match kind {
        3 => {
            let (path, flags) = (parts.path()?, parts.word()?);
            parts.attributes()?;
            if flags & !(READ | WRITES) != 0 {
                return Err(Malformed("flags that are not known"));
            }
            Op::Open { path, reads: flags & READ != 0, writes: flags & WRITES != 0 }
        }
        4 => Op::OnHandle { handle: parts.handle()?, used: Use::Closes },
        5 => {
            let handle = parts.handle()?;
            parts.long()?;
            parts.word()?;
            Op::OnHandle { handle, used: Use::Other }
        }
        6 => {
            let handle = parts.handle()?;
            parts.long()?;
            let bytes = u32::try_from(parts.bytes()?.len()).unwrap_or(u32::MAX);
            Op::OnHandle { handle, used: Use::Writes(bytes) }
        }
        7 => Op::Stat { path: parts.path()?, follows: false },
        8 | 12 => Op::OnHandle { handle: parts.handle()?, used: Use::Other },
        9 => {
            let path = parts.path()?;
            parts.attributes()?;
            Op::SetStat { path, follows: true }
        }
        10 => {
            let handle = parts.handle()?;
            parts.attributes()?;
            Op::SetStatOpen { handle }
        }
        11 => Op::List { path: parts.path()? },
        13 => Op::Remove { path: parts.path()? },
        14 => {
            let path = parts.path()?;
            parts.attributes()?;
            Op::MakeDir { path }
        }
        15 => Op::RemoveDir { path: parts.path()? },
        16 => Op::Resolve { path: parts.path()? },
        17 => Op::Stat { path: parts.path()?, follows: true },
        18 => Op::Rename { from: parts.path()?, to: parts.path()? },
        19 => Op::ReadLink { path: parts.path()? },
        // OpenSSH has the two the other way round than the draft, and every client follows it.
        20 => {
            let (to, path) = (parts.path()?, parts.path()?);
            Op::Link { path, to }
        }
        200 => {
            let name = parts.text()?;
            extended(name, parts)?
        }
        _ => return Err(Malformed("a kind of packet that is not known")),
    })
}

fn extended(name: String, parts: &mut Parts) -> Result<Op, Malformed> {
    Ok(match name.as_str() {
        "posix-rename@openssh.com" => Op::Rename { from: parts.path()?, to: parts.path()? },
        "hardlink@openssh.com" => {
            let (to, path) = (parts.path()?, parts.path()?);
            Op::Link { path, to }
        }
        "fsync@openssh.com" | "fstatvfs@openssh.com" => {
            Op::OnHandle { handle: parts.handle()?, used: Use::Other }
        }
        "lsetstat@openssh.com" => {
            let path = parts.path()?;
            parts.attributes()?;
            Op::SetStat { path, follows: false }
        }
        "statvfs@openssh.com" => Op::Stat { path: parts.path()?, follows: true },
        "limits@openssh.com" => Op::Limits,
        _ => {
            parts.0.clear();
            Op::Unknown { name: name.chars().filter(char::is_ascii_graphic).take(64).collect() }
        }
    })
}

/// Reads an answer.
pub fn answer(packet: Bytes) -> Result<Answer, Malformed> {
    let mut parts = Parts::of(&packet);
    let kind = parts.byte()?;
    if kind == 2 {
        parts.word()?;
        return Ok(Answer { id: None, what: What::Version, packet });
    }
    let id = Some(parts.word()?);
    let what = match kind {
        101 => What::Status(parts.word()?),
        102 => What::Handle(parts.handle()?),
        103 => What::Data(parts.word()?),
        104 => {
            let first = if parts.word()? > 0 { Some(parts.bytes()?) } else { None };
            What::Name(first.and_then(|name| String::from_utf8(name.to_vec()).ok()))
        }
        105 => What::Attributes,
        201 => What::Extended,
        _ => return Err(Malformed("a kind of answer that is not known")),
    };
    Ok(Answer { id, what, packet })
}

fn framed(body: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(4 + body.len());
    out.put_u32(u32::try_from(body.len()).unwrap_or(u32::MAX));
    out.extend_from_slice(body);
    out.freeze()
}

fn put(out: &mut BytesMut, text: &[u8]) {
    out.put_u32(u32::try_from(text.len()).unwrap_or(u32::MAX));
    out.extend_from_slice(text);
}

/// A status of the gateway's own.
pub fn status(id: u32, code: u32, words: &str) -> Bytes {
    let mut body = BytesMut::new();
    body.put_u8(101);
    body.put_u32(id);
    body.put_u32(code);
    put(&mut body, words.as_bytes());
    put(&mut body, b"en");
    framed(&body)
}

/// Asks what a path really is.
pub fn resolve(id: u32, path: &str) -> Bytes {
    let mut body = BytesMut::new();
    body.put_u8(16);
    body.put_u32(id);
    put(&mut body, path.as_bytes());
    framed(&body)
}

/// A server's version with no other extensions than those that are read here.
pub fn version(packet: &Bytes) -> Result<Bytes, Malformed> {
    let mut parts = Parts::of(packet);
    parts.byte()?;
    parts.word()?;
    let mut body = BytesMut::new();
    body.put_u8(2);
    body.put_u32(3);
    while !parts.0.is_empty() {
        let (name, data) = (parts.bytes()?, parts.bytes()?);
        if EXTENSIONS.iter().any(|known| known.as_bytes() == &name[..]) {
            put(&mut body, &name);
            put(&mut body, &data);
        }
    }
    Ok(framed(&body))
}

/// Names of SSH_FX_*.
pub fn word(code: u32) -> &'static str {
    match code {
        0 => "ok",
        1 => "end of file",
        2 => "no such file",
        3 => "permission denied",
        4 => "failure",
        5 => "bad message",
        6 => "no connection",
        7 => "connection lost",
        8 => "not supported",
        _ => "unknown status",
    }
}

/// Answers as a person reads them. None: they are none.
pub fn render(bytes: &[u8]) -> Option<Vec<String>> {
    let (mut buffer, mut lines, mut data) = (BytesMut::from(bytes), Vec::new(), Vec::new());
    while let Some(found) = packet(&mut buffer).ok()? {
        let answer = answer(found).ok()?;
        let mut parts = Parts::of(&answer.packet);
        parts.0.advance(5.min(parts.0.len()));
        if !matches!(answer.what, What::Data(_)) && !data.is_empty() {
            lines.extend(crate::cast::render(&std::mem::take(&mut data)));
        }
        match answer.what {
            What::Data(_) => data.extend_from_slice(&parts.bytes().ok()?),
            What::Version => lines.push("version".into()),
            What::Status(code) => lines.push(word(code).into()),
            What::Handle(_) => lines.push("opened".into()),
            What::Attributes => lines.push("attributes".into()),
            What::Extended => lines.push("limits".into()),
            What::Name(_) => {
                for _ in 0..parts.word().ok()? {
                    let name = parts.bytes().ok()?;
                    parts.bytes().ok()?;
                    parts.attributes().ok()?;
                    lines.push(String::from_utf8_lossy(&name).into_owned());
                }
            }
        }
    }
    lines.extend(crate::cast::render(&data));
    buffer.is_empty().then_some(lines)
}

/// A path without `.`, `..` and doubled slashes, as text alone: links are not known here.
pub fn normal(home: &str, path: &str) -> String {
    let whole = if path.starts_with('/') { path.to_owned() } else { format!("{home}/{path}") };
    let mut out: Vec<&str> = Vec::new();
    for part in whole.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                out.pop();
            }
            other => out.push(other),
        }
    }
    format!("/{}", out.join("/"))
}

/// A path's folder and its last part.
pub fn split(path: &str) -> (&str, &str) {
    let path = path.trim_end_matches('/');
    match path.rsplit_once('/') {
        Some(("", name)) => ("/", name),
        Some((folder, name)) => (folder, name),
        None => (".", path),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn build(kind: u8, id: u32, parts: &[&[u8]]) -> Bytes {
        let mut body = BytesMut::new();
        body.put_u8(kind);
        body.put_u32(id);
        for part in parts {
            body.extend_from_slice(part);
        }
        framed(&body)
    }

    fn text(text: &str) -> Vec<u8> {
        let mut out = BytesMut::new();
        put(&mut out, text.as_bytes());
        out.to_vec()
    }

    const NONE: &[u8] = &[0; 4];

    #[test]
    fn requests_are_read_whole_or_not_at_all() {
        let path = || "/a".to_owned();
        let writing = || Ok(Op::Open { path: path(), reads: false, writes: true });
        for (packet, expect) in [
            (build(1, 3, &[]), Ok(Op::Init(3))),
            (
                build(3, 1, &[&text("/a"), &[0, 0, 0, 1], NONE]),
                Ok(Op::Open { path: path(), reads: true, writes: false }),
            ),
            (
                build(3, 1, &[&text("/a"), &[0, 0, 0, 0x1a], &[0, 0, 0, 4, 0, 0, 1, 0xff]]),
                Ok(Op::Open { path: path(), reads: false, writes: true }),
            ),
            // Each of the flags that write: write, append, create, truncate, exclusive.
            (build(3, 1, &[&text("/a"), &[0, 0, 0, 2], NONE]), writing()),
            (build(3, 1, &[&text("/a"), &[0, 0, 0, 4], NONE]), writing()),
            (build(3, 1, &[&text("/a"), &[0, 0, 0, 8], NONE]), writing()),
            (build(3, 1, &[&text("/a"), &[0, 0, 0, 16], NONE]), writing()),
            (build(3, 1, &[&text("/a"), &[0, 0, 0, 32], NONE]), writing()),
            (build(3, 1, &[&text("/a"), &[0, 0, 1, 1], NONE]), Err("flags that are not known")),
            (build(3, 1, &[&text("/a"), &[0, 0, 0, 1]]), Err("a packet ends too soon")),
            (
                build(3, 1, &[&text("/a"), &[0, 0, 0, 1], &[0, 0, 1, 0]]),
                Err("attributes that are not known"),
            ),
            (build(7, 1, &[&text("/a")]), Ok(Op::Stat { path: path(), follows: false })),
            (build(7, 1, &[&text("/a"), b"x"]), Err("a packet goes on behind its end")),
            (build(7, 1, &[&text("/a\0b")]), Err("a path is none")),
            (build(13, 1, &[&[0, 0, 0, 1, 0xff]]), Err("a name is not UTF-8")),
            (build(13, 1, &[&[0xff, 0xff, 0xff, 0xff]]), Err("a packet ends too soon")),
            (
                build(13, OWN_ID_MIN, &[&text("/a")]),
                Err("a request's number is one of the gateway's own"),
            ),
            (build(99, 1, &[]), Err("a kind of packet that is not known")),
            (
                build(18, 1, &[&text("/a"), &text("/b")]),
                Ok(Op::Rename { from: path(), to: "/b".into() }),
            ),
            (
                build(20, 1, &[&text("/target"), &text("/a")]),
                Ok(Op::Link { path: path(), to: "/target".into() }),
            ),
            (
                build(200, 1, &[&text("posix-rename@openssh.com"), &text("/a"), &text("/b")]),
                Ok(Op::Rename { from: path(), to: "/b".into() }),
            ),
            (
                build(200, 1, &[&text("hardlink@openssh.com"), &text("/target"), &text("/a")]),
                Ok(Op::Link { path: path(), to: "/target".into() }),
            ),
            (
                build(200, 1, &[&text("statvfs@openssh.com"), &text("/a")]),
                Ok(Op::Stat { path: path(), follows: true }),
            ),
            (
                build(200, 1, &[&text("lsetstat@openssh.com"), &text("/a"), NONE]),
                Ok(Op::SetStat { path: path(), follows: false }),
            ),
            (
                build(10, 1, &[&text("h"), NONE]),
                Ok(Op::SetStatOpen { handle: Bytes::from_static(b"h") }),
            ),
            (
                build(200, 1, &[&text("copy-data"), b"whatever"]),
                Ok(Op::Unknown { name: "copy-data".into() }),
            ),
            (
                build(6, 1, &[&text("h"), &[0; 8], &text("data")]),
                Ok(Op::OnHandle { handle: Bytes::from_static(b"h"), used: Use::Writes(4) }),
            ),
            (build(4, 1, &[&text("")]), Err("a handle is none")),
        ] {
            let read = request(packet.clone());
            assert_eq!(read.map(|read| read.op), expect.map_err(Malformed), "{packet:?}");
        }
    }

    #[test]
    fn packets_are_cut_off_the_front_within_the_limit() {
        let mut buffer = BytesMut::from(&build(7, 1, &[&text("/a")])[..]);
        let last = buffer.split_off(buffer.len() - 1);
        assert_eq!(packet(&mut buffer), Ok(None));
        buffer.unsplit(last);
        buffer.extend_from_slice(&[0, 0]);
        assert!(packet(&mut buffer).unwrap().is_some());
        assert_eq!((packet(&mut buffer), buffer.len()), (Ok(None), 2));
        for head in [[0, 0, 0, 0], [0xff; 4], [0, 4, 0, 1]] {
            assert!(packet(&mut BytesMut::from(&head[..])).is_err(), "{head:?}");
        }
    }

    #[test]
    fn answers_are_read_by_people() {
        let names = [
            &[0, 0, 0, 2][..],
            &text("a"),
            &text("-rw- a"),
            NONE,
            &text("b\u{7}"),
            &text("-rw- b"),
            &[0, 0, 0, 4, 0, 0, 1, 0xff],
        ];
        let packets = [
            build(102, 1, &[&text("handle")]),
            build(103, 2, &[&text("first ")]),
            build(103, 3, &[&text("line\nsecond")]),
            build(101, 4, &[&[0, 0, 0, 2], &text("gone"), &text("")]),
            build(104, 5, &names),
            build(105, 6, &[NONE]),
        ];
        let lines = render(&packets.concat()).unwrap();
        let expect =
            ["opened", "first line", "second", "no such file", "a", "b\u{7}", "attributes"];
        assert_eq!(lines, expect);
        for bytes in [&b"plain text"[..], &packets.concat()[..20]] {
            assert_eq!(render(bytes), None);
        }
    }

    #[test]
    fn a_version_keeps_what_is_read_here() {
        let known = [text("posix-rename@openssh.com"), text("1")].concat();
        let sent = [known.clone(), text("copy-data"), text("1")].concat();
        assert_eq!(version(&build(2, 3, &[&sent])).unwrap(), build(2, 3, &[&known]));
    }

    #[test]
    fn paths_become_normal() {
        for (path, expect) in [
            ("/a/b", "/a/b"),
            ("x", "/home/me/x"),
            ("", "/home/me"),
            ("/a/../b", "/b"),
            ("/../../etc", "/etc"),
            ("//a/./b/", "/a/b"),
            ("../you", "/home/you"),
        ] {
            assert_eq!(normal("/home/me", path), expect, "{path}");
        }
        assert_eq!(split("/a/b"), ("/a", "b"));
        assert_eq!(split("/a"), ("/", "a"));
        assert_eq!(split("a"), (".", "a"));
    }

    proptest! {
        /// Whatever comes in, it is read or refused, and what is read is what was sent.
        #[test]
        fn nothing_breaks_it(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut buffer = BytesMut::from(&bytes[..]);
            while let Ok(Some(found)) = packet(&mut buffer) {
                if let Ok(read) = request(found.clone()) {
                    prop_assert_eq!(read.packet, found.clone());
                }
                let _ = answer(found.clone());
                let _ = version(&found);
            }
        }
    }
}
