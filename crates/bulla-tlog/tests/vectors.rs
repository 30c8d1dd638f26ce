//! The test vectors of `docs/formats/vectors`. Those of others (RFC 6962, signed notes) are checked
//! against; our own are made here from fixed keys, compared, and rewritten with
//! `BULLA_UPDATE_VECTORS=1`: a change of one is a change of the format.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{fs, path::PathBuf};

use bulla_tlog::{
    Hash,
    checkpoint::{Checkpoint, SignedCheckpoint},
    entry::*,
    note::{KeyKind, Note, Signer, Vkey},
    proof::LogProof,
    seal::{Dek, Opener, Sealer},
    tile::{BundleId, TileId, encode_tile, push_bundle_entry},
    tree::*,
};
use serde_json::{Value, json};

fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../docs/formats/vectors").join(name)
}

fn read(name: &str) -> Value {
    serde_json::from_slice(&fs::read(path(name)).unwrap()).unwrap()
}

/// Compares with the file, or writes it.
fn golden(name: &str, made: &Value) {
    if std::env::var_os("BULLA_UPDATE_VECTORS").is_some() {
        fs::write(path(name), serde_json::to_string_pretty(made).unwrap() + "\n").unwrap();
    }
    assert_eq!(&read(name), made, "{name} differs");
}

fn hex(bytes: impl AsRef<[u8]>) -> String {
    bytes.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(value: &Value) -> Vec<u8> {
    let text = value.as_str().unwrap();
    (0..text.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap())
        .collect()
}

fn hashes(value: &Value) -> Vec<Hash> {
    let texts = value.as_array().unwrap().iter();
    texts.map(|text| Hash::from_hex(text.as_str().unwrap()).unwrap()).collect()
}

struct Leaves(Vec<Hash>);

impl HashRead for Leaves {
    type Error = std::convert::Infallible;
    fn hash(&mut self, height: u8, index: u64) -> Result<Hash, Self::Error> {
        let start = (index << height) as usize;
        Ok(root_of(&self.0[start..start + (1 << height)]))
    }
}

#[test]
fn rfc_6962_tree() {
    let vectors = read("rfc6962.json");
    let leaves = vectors["leaves"].as_array().unwrap().iter().map(|l| Hash::leaf(&unhex(l)));
    let leaves: Vec<Hash> = leaves.collect();
    let roots = hashes(&vectors["roots"]);
    assert_eq!((leaves.len(), roots.len()), (8, 9));
    for (size, root) in roots.iter().enumerate() {
        assert_eq!(root_of(&leaves[..size]), *root, "size {size}");
    }
    let mut read = Leaves(leaves.clone());
    let number = |value: &Value| value.as_u64().unwrap();
    for case in vectors["inclusion"].as_array().unwrap() {
        let (index, size) = (number(&case["index"]), number(&case["size"]));
        let proof = hashes(&case["proof"]);
        assert_eq!(prove_inclusion(&mut read, index, size).unwrap(), proof, "{case}");
        let leaf = &leaves[index as usize];
        verify_inclusion(leaf, index, size, &proof, &roots[size as usize]).unwrap();
    }
    for case in vectors["consistency"].as_array().unwrap() {
        let (old, new) = (number(&case["old"]), number(&case["new"]));
        let proof = hashes(&case["proof"]);
        assert_eq!(prove_consistency(&mut read, old, new).unwrap(), proof, "{case}");
        let (a, b) = (&roots[old as usize], &roots[new as usize]);
        verify_consistency(old, a, new, b, &proof).unwrap();
    }
}

#[test]
fn note_of_the_go_module() {
    let vectors = read("note.json");
    let text = |key: &str| vectors[key].as_str().unwrap().to_owned();
    let vkey = Vkey::parse(&text("vkey")).unwrap();
    assert_eq!(vkey.to_string(), text("vkey"));
    let signer = Signer::parse(&text("skey")).unwrap();
    assert_eq!(signer.vkey(), &vkey);
    let bytes = fs::read(path(&text("note"))).unwrap();
    let note = Note::parse(&bytes).unwrap();
    assert_eq!(
        note.text(),
        "If you think cryptography is the answer to your problem,\n\
         then you don't know what your problem is.\n"
    );
    assert_eq!(note.verify(std::slice::from_ref(&vkey)).unwrap()[0].key, vkey);
    assert_eq!(note.to_string().as_bytes(), bytes);
    assert_eq!(signer.sign(note.text()).unwrap(), note.signatures()[0]);
}

const SID: [u8; 16] = [0xa1; 16];
const BOOT: [u8; 16] = [0xb0; 16];
const DEK: [u8; 32] = [0xde; 32];
const DETAIL: &[u8] = b"\xa1\x00\x68SELECT 1";
const PLAINTEXT: &[u8] = b"D\x00\x00\x00\x0b\x00\x01\x00\x00\x00\x011";
const NOW: u64 = 1_795_615_985_000_000_000;

/// Every field, as `docs/formats/entry.md` names it.
fn fields(entry: &Entry) -> Value {
    let mut out = json!({
        "v": ENTRY_VERSION,
        "kind": entry.kind.as_str(),
        "t_wall_ns": entry.t_wall_ns,
        "t_mono_ns": entry.t_mono_ns,
        "boot": hex(entry.boot),
        "mode": entry.mode.as_str(),
    });
    let fields = out.as_object_mut().unwrap();
    let mut put = |key: &str, value: Option<Value>| {
        if let Some(value) = value {
            fields.insert(key.into(), value);
        }
    };
    put("sid", entry.session.map(|link| hex(link.sid).into()));
    put("sseq", entry.session.map(|link| link.seq.into()));
    put("sprev", entry.session.and_then(|link| link.prev).map(|hash| hash.to_string().into()));
    put("subj_tag", entry.subj_tag.map(|tag| hex(tag).into()));
    put("resource", entry.resource.clone().map(Value::from));
    put("protocol", entry.protocol.clone().map(Value::from));
    put("action", entry.action.clone().map(Value::from));
    put("decision", entry.decision.map(|decision| decision.as_str().into()));
    put("policy", entry.policy.map(|digest| hex(digest).into()));
    put("policies", (!entry.policies.is_empty()).then(|| json!(entry.policies)));
    put("effects", (entry.effects != 0).then(|| entry.effects.into()));
    put("cmd", entry.cmd.map(Value::from));
    put("rows", entry.rows.map(Value::from));
    put("bytes_in", entry.bytes_in.map(Value::from));
    put("bytes_out", entry.bytes_out.map(Value::from));
    put("status", entry.status.clone().map(Value::from));
    let objects = entry.objs.iter().map(object).collect::<Vec<_>>();
    put("objs", (!objects.is_empty()).then(|| objects.into()));
    put("transcript", entry.transcript.map(|hash| hash.to_string().into()));
    put("counts", entry.counts.map(|c| json!([c.commands, c.denied, c.held, c.rows, c.bytes])));
    put("dek_commit", entry.dek_commit.map(|commit| hex(commit).into()));
    put("note", entry.note.clone().map(Value::from));
    put(
        "ref",
        entry.refers.map(|refers| match refers {
            Refers::Index(index) => index.into(),
            Refers::Hash(hash) => hash.to_string().into(),
        }),
    );
    put("sealed", entry.sealed.as_ref().map(|bytes| hex(bytes).into()));
    out
}

fn object(object: &ObjectRef) -> Value {
    json!({
        "ct_hash": object.ct_hash.to_string(),
        "ct_len": object.ct_len,
        "pt_len": object.pt_len,
        "commit": object.commit.to_string(),
        "n": object.n,
        "dir": object.dir.as_str(),
        "enc": object.enc.as_str(),
    })
}

/// A small log: one session, from genesis to close.
fn log() -> Vec<(&'static str, Entry)> {
    let mut sealer = Sealer::new(&Dek::new(DEK), SID).unwrap();
    let mut body = PLAINTEXT.to_vec();
    let mut at = NOW;
    let mut new = |kind| {
        at += 1_000_000;
        Entry::new(kind, at, at - NOW, BOOT)
    };
    let mut genesis = new(Kind::Genesis);
    genesis.note = Some("log.example/gateway-1".into());
    let boot = new(Kind::Boot);
    let mut open = new(Kind::Open);
    open.session = Some(Link { sid: SID, seq: 0, prev: None });
    open.subj_tag = Some([0x51; 32]);
    open.resource = Some("orders".into());
    open.protocol = Some("postgres".into());
    open.action = Some("connect".into());
    open.decision = Some(Decision::Allow);
    open.policy = Some([0x90; 32]);
    open.policies = vec!["let-billing-in".into()];
    open.dek_commit = Some(sealer.dek_commit());
    let next = |before: &Entry| {
        let prev = Some(Hash::leaf(&before.encode().unwrap()));
        let seq = before.session.unwrap().seq + 1;
        Some(Link { sid: SID, seq, prev })
    };
    let mut intent = new(Kind::Intent);
    intent.session = next(&open);
    intent.resource = Some("orders".into());
    intent.protocol = Some("postgres".into());
    intent.action = Some("postgres:select".into());
    intent.decision = Some(Decision::Allow);
    intent.policy = Some([0x90; 32]);
    intent.policies = vec!["read-orders".into(), "größere-Zeiten".into()];
    intent.mode = Mode::Bounded;
    intent.effects = 1 << 63 | 1;
    intent.cmd = Some(1);
    intent.bytes_in = Some(14);
    sealer.seal_entry(&mut intent, DETAIL).unwrap();
    let mut outcome = new(Kind::Outcome);
    outcome.session = next(&intent);
    outcome.cmd = Some(1);
    outcome.rows = Some(1);
    outcome.bytes_out = Some(PLAINTEXT.len() as u64);
    outcome.status = Some("ok".into());
    let dir = Direction::TargetToClient;
    let object = sealer.seal_object(dir, Encoding::Stored, PLAINTEXT, &mut body).unwrap();
    outcome.objs = vec![object];
    let mut transcript = Transcript::new(&SID);
    transcript.push(&object);
    let mut counts = Counts::default();
    [&open, &intent, &outcome].into_iter().for_each(|entry| counts.observe(entry));
    let mut close = new(Kind::Close);
    close.session = next(&outcome);
    close.status = Some("ok".into());
    close.counts = Some(counts);
    close.transcript = Some(transcript.hash());
    let mut recover = new(Kind::Recover);
    recover.refers = Some(Refers::Index(70_000));
    let mut peer = new(Kind::Peer);
    peer.refers = Some(Refers::Hash(Hash([0x7e; 32])));
    vec![
        ("genesis", genesis),
        ("boot", boot),
        ("open", open),
        ("intent, sealed", intent),
        ("outcome with an object", outcome),
        ("close of a session", close),
        ("recover, with an index as ref", recover),
        ("peer, with a hash as ref", peer),
    ]
}

fn leaves() -> Vec<Hash> {
    log().iter().map(|(_, entry)| Hash::leaf(&entry.encode().unwrap())).collect()
}

#[test]
fn entries() {
    let good: Vec<Value> = log()
        .iter()
        .map(|(name, entry)| {
            let bytes = entry.encode().unwrap();
            let leaf = Hash::leaf(&bytes).to_string();
            json!({ "name": name, "hex": hex(&bytes), "leaf": leaf, "fields": fields(entry) })
        })
        .collect();
    let boot = log()[1].1.encode().unwrap();
    let bad: Vec<Value> = spoil(&boot)
        .into_iter()
        .map(|(why, bytes)| json!({ "why": why, "hex": hex(bytes) }))
        .collect();
    golden("entry.json", &json!({ "good": good, "refused": bad }));
    // What the file says, read back.
    let file = read("entry.json");
    for case in file["good"].as_array().unwrap() {
        let bytes = unhex(&case["hex"]);
        let entry = Entry::decode(&bytes).unwrap();
        assert_eq!(fields(&entry), case["fields"]);
        assert_eq!(entry.encode().unwrap(), bytes);
        assert_eq!(Hash::leaf(&bytes).to_string(), case["leaf"].as_str().unwrap());
    }
    for case in file["refused"].as_array().unwrap() {
        assert!(Entry::decode(&unhex(&case["hex"])).is_err(), "{case}");
    }
}

/// Ways to write the boot entry that are not the one way.
fn spoil(good: &[u8]) -> Vec<(&'static str, Vec<u8>)> {
    // 81 a6 00 01 01 02 02 1b.. 03 1a.. 04 50.. 0f 00
    assert_eq!(&good[..8], [0x81, 0xa6, 0, 1, 1, 2, 2, 0x1b]);
    assert_eq!(&good[good.len() - 2..], [0x0f, 0]);
    let with = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = good.to_vec();
        change(&mut bytes);
        bytes
    };
    let splice = |at: std::ops::Range<usize>, new: &[u8]| {
        with(&|bytes| {
            bytes.splice(at.clone(), new.iter().copied());
        })
    };
    let end = good.len();
    vec![
        ("empty", vec![]),
        ("the map alone", good[1..].to_vec()),
        ("an array of 0", splice(0..1, &[0x80])),
        (
            "an array of 3",
            with(&|b| {
                b[0] = 0x83;
                b.extend([0x40, 0x40]);
            }),
        ),
        (
            "an array of indefinite length",
            with(&|b| {
                b[0] = 0x9f;
                b.push(0xff);
            }),
        ),
        (
            "a map of indefinite length",
            with(&|b| {
                b[1] = 0xbf;
                b.push(0xff);
            }),
        ),
        ("array head not shortest", splice(0..1, &[0x98, 1])),
        ("map head not shortest", splice(1..2, &[0xb8, 6])),
        ("key not shortest", splice(2..3, &[0x18, 0])),
        ("value not shortest", splice(3..4, &[0x18, 1])),
        ("version 2", splice(3..4, &[2])),
        ("version as a negative number", splice(3..4, &[0x20])),
        ("kind 0", splice(5..6, &[0])),
        ("kind 23", splice(5..6, &[23])),
        (
            "kind missing",
            with(&|b| {
                b[1] = 0xa5;
                b.drain(4..6);
            }),
        ),
        (
            "mode missing",
            with(&|b| {
                b[1] = 0xa5;
                b.truncate(end - 2);
            }),
        ),
        ("mode 2", splice(end - 1..end, &[2])),
        ("keys out of order", with(&|b| b[2..6].copy_from_slice(&[1, 2, 0, 1]))),
        (
            "a key twice",
            with(&|b| {
                b[1] = 0xa7;
                b.splice(4..4, [0, 1]);
            }),
        ),
        (
            "an unknown key",
            with(&|b| {
                b[1] = 0xa7;
                b.extend([0x18, 28, 0]);
            }),
        ),
        (
            "sseq without sid",
            with(&|b| {
                b[1] = 0xa7;
                b.splice(end - 2..end - 2, [6, 0]);
            }),
        ),
        (
            "effects of 0",
            with(&|b| {
                b[1] = 0xa7;
                b.extend([0x10, 0]);
            }),
        ),
        (
            "policies without one",
            with(&|b| {
                b[1] = 0xa7;
                b.splice(end - 2..end - 2, [14, 0x80]);
            }),
        ),
        (
            "a status that is empty",
            with(&|b| {
                b[1] = 0xa7;
                b.extend([21, 0x60]);
            }),
        ),
        (
            "a status with an escape",
            with(&|b| {
                b[1] = 0xa7;
                b.extend([21, 0x62, 0x1b, b'c']);
            }),
        ),
        (
            "a status that is not UTF-8",
            with(&|b| {
                b[1] = 0xa7;
                b.extend([21, 0x61, 0xff]);
            }),
        ),
        (
            "counts outside a close",
            with(&|b| {
                b[1] = 0xa7;
                b.extend([0x18, 24, 0x85, 0, 0, 0, 0, 0]);
            }),
        ),
        (
            "sealed and too short",
            with(&|b| {
                b[0] = 0x82;
                b.push(0x4f);
                b.extend([0; 15]);
            }),
        ),
        ("a byte too many", with(&|b| b.push(0))),
        ("a byte too few", good[..end - 1].to_vec()),
        ("a tag around it", with(&|b| b.insert(0, 0xc0))),
    ]
}

#[test]
fn sealing() {
    let log = log();
    let (open, intent, outcome) = (&log[2].1, &log[3].1, &log[4].1);
    let dek = Dek::new(DEK);
    let opener = Opener::new(&dek, SID, &open.dek_commit.unwrap()).unwrap();
    let reference = outcome.objs[0];
    let mut sealer = Sealer::new(&dek, SID).unwrap();
    let mut body = PLAINTEXT.to_vec();
    let dir = Direction::TargetToClient;
    let again = sealer.seal_object(dir, Encoding::Stored, PLAINTEXT, &mut body).unwrap();
    assert_eq!(again, reference);
    golden(
        "seal.json",
        &json!({
            "dek": hex(DEK),
            "sid": hex(SID),
            "dek_commit": hex(dek.commit()),
            "entry": {
                "hex": hex(intent.encode().unwrap()),
                "clear": hex(intent.clear_bytes().unwrap()),
                "sealed": hex(intent.sealed.as_ref().unwrap()),
                "detail": hex(DETAIL),
            },
            "object": {
                "ref": object(&reference),
                "salt": hex(opener.object_salt(&reference)),
                "plaintext": hex(PLAINTEXT),
                "ciphertext": hex(&body),
            },
        }),
    );
    let file = read("seal.json");
    let entry = Entry::decode(&unhex(&file["entry"]["hex"])).unwrap();
    assert_eq!(opener.open_entry(&entry).unwrap(), unhex(&file["entry"]["detail"]));
    let mut body = unhex(&file["object"]["ciphertext"]);
    opener.open_object(&reference, &mut body).unwrap();
    assert_eq!(body, unhex(&file["object"]["plaintext"]));
    opener.check_plaintext(&reference, &body).unwrap();
}

const ORIGIN: &str = "log.example/gateway-1";
const TIME_S: u64 = 1_795_615_990;

fn signers() -> (Signer, Signer) {
    let log = Signer::from_seed(ORIGIN, KeyKind::Ed25519, &[0x11; 32]).unwrap();
    let witness = Signer::from_seed("witness.example/w1", KeyKind::CosignatureV1, &[0x22; 32]);
    (log, witness.unwrap())
}

fn signed() -> SignedCheckpoint {
    let (log, witness) = signers();
    let leaves = leaves();
    let checkpoint = Checkpoint::new(ORIGIN, leaves.len() as u64, root_of(&leaves)).unwrap();
    let mut signed = checkpoint.sign(&log).unwrap();
    let text = signed.checkpoint().to_string();
    signed.add(witness.cosign(&text, TIME_S).unwrap(), witness.vkey()).unwrap();
    signed
}

#[test]
fn checkpoints() {
    let (log, witness) = signers();
    let signed = signed();
    golden(
        "checkpoint.json",
        &json!({
            "seed": hex([0x11; 32]),
            "skey": Signer::secret_text(ORIGIN, KeyKind::Ed25519, &[0x11; 32]).unwrap(),
            "vkey": log.vkey().to_string(),
            "witness_vkey": witness.vkey().to_string(),
            "witness_time": TIME_S,
            "size": signed.size(),
            "root": signed.root().to_string(),
            "checkpoint": signed.to_string(),
        }),
    );
    let file = read("checkpoint.json");
    let key = |name: &str| Vkey::parse(file[name].as_str().unwrap()).unwrap();
    let bytes = file["checkpoint"].as_str().unwrap().as_bytes();
    let read = SignedCheckpoint::open(bytes, &[key("vkey")], &[key("witness_vkey")]).unwrap();
    assert_eq!(read.root(), root_of(&leaves()));
    assert_eq!(read.cosigned().map(|(_, time)| time).collect::<Vec<_>>(), [TIME_S]);
}

#[test]
fn tiles_and_bundle() {
    let mut bundle = vec![];
    for (_, entry) in log() {
        push_bundle_entry(&mut bundle, &entry.encode().unwrap()).unwrap();
    }
    let paths: Vec<Value> = [
        (0, 0, 256),
        (0, 273, 112),
        (1, 1, 17),
        (2, 0, 1),
        (0, 1_234_067, 256),
        (63, 999_999, 255),
        (0, 1_000_000, 256),
    ]
    .into_iter()
    .map(|(level, index, width)| {
        let tile = TileId::new(level, index, width).unwrap().path();
        let bundle = BundleId::new(index, width).unwrap().path();
        json!({ "level": level, "index": index, "width": width, "tile": tile, "bundle": bundle })
    })
    .collect();
    golden(
        "tiles.json",
        &json!({
            "paths": paths,
            "bundle": { "path": "tile/entries/000.p/8", "hex": hex(&bundle) },
            "tile": { "path": "tile/0/000.p/8", "hex": hex(encode_tile(&leaves())) },
        }),
    );
}

#[test]
fn proofs() {
    let (log_key, witness) = signers();
    let index = 3;
    let leaf = leaves()[index as usize];
    let proof = LogProof::build(&mut Leaves(leaves()), &signed(), index, &leaf).unwrap();
    let proof = proof.with_extra(b"example".to_vec());
    let name = "intent.tlog-proof";
    if std::env::var_os("BULLA_UPDATE_VECTORS").is_some() {
        fs::write(path(name), proof.to_string()).unwrap();
    }
    let file = fs::read(path(name)).unwrap();
    assert_eq!(file, proof.to_string().into_bytes());
    let read = LogProof::parse(&file).unwrap();
    assert_eq!((read.index(), read.extra()), (3, Some(&b"example"[..])));
    let entry = log()[3].1.encode().unwrap();
    let keys = ([log_key.vkey().clone()], [witness.vkey().clone()]);
    assert_eq!(read.verify(&entry, &keys.0, &keys.1).unwrap(), signed());
    assert!(read.verify(&entry[1..], &keys.0, &keys.1).is_err());
}
