//! `docs/formats/vectors/ledger.json`, made from the code that writes these bytes.

use std::{fmt::Write as _, path::Path};

use bulla_core::SessionId;
use bulla_tlog::{Hash, seal::Dek};

use crate::{
    aligned::AlignedBuf,
    detail::{Detail, DetailWriter},
    journal::frame::{self, Head, Keyed, Payload, Position, SegmentHeader},
    keys::Kek,
    pack::{self, Place},
};

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut out, byte| {
        let _ = write!(out, "{byte:02x}");
        out
    })
}

/// Without the zeros that fill its last page.
fn unpadded(bytes: &[u8]) -> String {
    let end = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    hex(&bytes[..end])
}

fn made() -> String {
    let salt = [4; 32];
    let segment =
        SegmentHeader { number: 7, bytes: 1 << 20, origin: Hash::of(b"bulla.local/eu-1"), salt };
    let keyed = Keyed::new(salt);
    let mut payload = Payload::new(b"an entry".to_vec());
    payload.objects = vec![(Hash::of(b"a ciphertext"), b"a ciphertext".to_vec())];
    payload.sides = vec![b"a side".to_vec()];
    let at = Position { index: 5, batch: 2, chain: Hash([3; 32]) };
    let mut out = AlignedBuf::new();
    let chain = frame::encode(&mut out, &keyed, at, 8192, std::iter::once(&payload)).unwrap();
    let head = Head::decode(out.as_slice(), &keyed, 8192).unwrap();
    assert_eq!(head.next().unwrap().chain, chain);

    let object = Hash::of(b"a ciphertext");
    let mut places = [Place { hash: object, offset: 52, len: 12 }];
    let session = SessionId([1; 16]);
    let wrapped = Kek::new([5; 32]).wrap(session, &Dek::new([6; 32])).unwrap();
    let mut detail = vec![];
    let mut writer = DetailWriter::new(&mut detail);
    writer.part(Some("orders/orders"));
    writer.tag(Some("SELECT 2"));
    writer.bytes(b"Q");
    writer.policies(&["billing-reads".into()]);
    writer.finish();
    assert_eq!(Detail::decode(&detail).unwrap().tag.as_deref(), Some("SELECT 2"));

    let lines = [
        ("salt", hex(&salt)),
        ("origin", "bulla.local/eu-1".to_owned()),
        ("segment number 7, 1048576 bytes", unpadded(segment.encode().as_slice())),
        ("chain before", hex(&[3; 32])),
        (
            "frame 2 at 8192, index 5: `an entry`, `a ciphertext`, `a side`",
            unpadded(out.as_slice()),
        ),
        ("chain", hex(&chain.0)),
        ("pack object `a ciphertext`", {
            let mut head = pack::object_head(&object, 12).unwrap().to_vec();
            head.extend_from_slice(b"a ciphertext");
            hex(&head)
        }),
        ("pack index of it alone", hex(&pack::encode_index(&mut places))),
        ("wrapped key: session 01…, key 06…, wrapping key 05…", hex(&wrapped)),
        ("private part: part `orders/orders`, tag `SELECT 2`, bytes `Q`, policies", hex(&detail)),
    ];
    let lines: Vec<String> =
        lines.iter().map(|(name, value)| format!("  \"{name}\": \"{value}\"")).collect();
    format!("{{\n{}\n}}\n", lines.join(",\n"))
}

#[test]
fn the_published_vectors_are_current() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/formats/vectors/ledger.json");
    let made = made();
    if std::env::var_os("UPDATE_VECTORS").is_some() {
        std::fs::write(&path, &made).unwrap();
    }
    let published = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(published == made, "run again with UPDATE_VECTORS=1 and read the change:\n{made}");
}
