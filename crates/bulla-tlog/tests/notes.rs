//! Notes, keys, checkpoints and proofs: what is refused.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use bulla_tlog::{
    Hash,
    checkpoint::{Checkpoint, CheckpointError, SignedCheckpoint},
    note::*,
    proof::{BuildError, LogProof, LogProofError},
    tree::{HashRead, ProofError, root_of},
};
use proptest::prelude::*;

const ORIGIN: &str = "log.example/a";

fn signer(seed: u8) -> Signer {
    Signer::from_seed(ORIGIN, KeyKind::Ed25519, &[seed; 32]).unwrap()
}

fn witness(number: u8) -> Signer {
    let name = format!("witness.example/{number}");
    Signer::from_seed(&name, KeyKind::CosignatureV1, &[number; 32]).unwrap()
}

fn keys(signers: &[&Signer]) -> Vec<Vkey> {
    signers.iter().map(|signer| signer.vkey().clone()).collect()
}

fn signed(size: u64) -> SignedCheckpoint {
    let root = if size == 0 { Hash::EMPTY_ROOT } else { Hash::leaf(b"root") };
    Checkpoint::new(ORIGIN, size, root).unwrap().sign(&signer(1)).unwrap()
}

#[test]
fn keys_read_back_and_only_in_one_spelling() {
    for kind in [KeyKind::Ed25519, KeyKind::CosignatureV1] {
        let signer = Signer::from_seed("a.example/1", kind, &[7; 32]).unwrap();
        let text = signer.vkey().to_string();
        assert_eq!(&Vkey::parse(&text).unwrap(), signer.vkey());
        let secret = Signer::secret_text("a.example/1", kind, &[7; 32]).unwrap();
        assert_eq!(Signer::parse(&secret).unwrap().vkey(), signer.vkey());
        assert!(!format!("{signer:?}").contains(&secret[secret.len() - 20..]));
        for at in 0..text.len() {
            for bit in 0..8 {
                let mut bytes = text.clone().into_bytes();
                bytes[at] ^= 1 << bit;
                if let Ok(other) = String::from_utf8(bytes) {
                    assert!(Vkey::parse(&other).is_err(), "{other}");
                }
            }
        }
        for end in 0..text.len() {
            assert!(Vkey::parse(&text[..end]).is_err());
        }
        assert!(Vkey::parse(&format!("{text}\n")).is_err());
        assert!(Vkey::parse(&text.replace("a.example/1", "a.example/ 1")).is_err());
    }
    let check = |text: &str, expect| assert_eq!(Vkey::parse(text), Err(expect), "{text}");
    check("", KeyError::Form);
    check("name", KeyError::Form);
    check("name+00000000", KeyError::Form);
    check("name+00000000+AQ==", KeyError::Base64);
    check("name+00000000+", KeyError::Base64);
    let ecdsa = format!("name+00000000+{}", "AgAA".repeat(11));
    check(&ecdsa, KeyError::Kind(2));
    for bad in ["", "a b", "a+b", "a\u{a0}b", "a\n", &"x".repeat(KEY_NAME_BYTES_MAX + 1)] {
        assert!(Vkey::new(bad, KeyKind::Ed25519, [0; 32]).is_err(), "{bad:?}");
    }
}

#[test]
fn every_single_bit_flip_of_a_checkpoint_is_refused() {
    for size in [0, 7, 70_000, u64::MAX] {
        let bytes = signed(size).to_string().into_bytes();
        let log = keys(&[&signer(1)]);
        assert!(SignedCheckpoint::open(&bytes, &log, &[]).is_ok());
        for at in 0..bytes.len() {
            for bit in 0..8 {
                let mut other = bytes.clone();
                other[at] ^= 1 << bit;
                let found = SignedCheckpoint::open(&other, &log, &[]);
                assert!(found.is_err(), "byte {at} bit {bit}: {found:?}");
            }
        }
        for end in 0..bytes.len() {
            assert!(SignedCheckpoint::open(&bytes[..end], &log, &[]).is_err(), "cut at {end}");
        }
        for more in [&b"\n"[..], b" ", b"x", b"\0", b"\xe2\x80\x94 a b\n"] {
            let other = [&bytes[..], more].concat();
            assert!(SignedCheckpoint::open(&other, &log, &[]).is_err(), "{more:?}");
        }
    }
}

#[test]
fn a_flip_in_a_known_cosignature_is_refused_or_leaves_it_out() {
    let (log, cosigner) = (keys(&[&signer(1)]), witness(9));
    let mut good = signed(7);
    let text = good.checkpoint().to_string();
    good.add(cosigner.cosign(&text, 1_700_000_000).unwrap(), cosigner.vkey()).unwrap();
    let bytes = good.to_string().into_bytes();
    let cosigners = keys(&[&cosigner]);
    let open = |bytes: &[u8]| SignedCheckpoint::open(bytes, &log, &cosigners);
    assert_eq!(open(&bytes).unwrap(), good);
    assert_eq!(open(&bytes).unwrap().cosigned().count(), 1);
    for at in 0..bytes.len() {
        for bit in 0..8 {
            let mut other = bytes.clone();
            other[at] ^= 1 << bit;
            // A changed name or key id belongs to nobody known: ignored, as the standard demands.
            if let Ok(read) = open(&other) {
                assert_eq!(read.checkpoint(), good.checkpoint());
                assert_eq!(read.cosigned().count(), 0, "byte {at} bit {bit}");
            }
        }
    }
}

#[test]
fn other_spellings_of_a_checkpoint_are_refused() {
    let good = signed(12).checkpoint().to_string();
    assert_eq!(Checkpoint::parse(&good).unwrap().to_string(), good);
    let root = Hash::leaf(b"root").to_base64();
    let check = |text: String, expect: CheckpointError| {
        assert_eq!(Checkpoint::parse(&text), Err(expect), "{text:?}");
    };
    for size in ["", "012", "+12", "-1", " 12", "12 ", "1_2", "0x12", "18446744073709551616", "١٢"]
    {
        check(format!("{ORIGIN}\n{size}\n{root}\n"), CheckpointError::Size);
    }
    for root in ["", &root[1..], &root.replace('=', ""), &format!("{root} "), "AAAA"] {
        check(format!("{ORIGIN}\n12\n{root}\n"), CheckpointError::Root);
    }
    check(format!("\n12\n{root}\n"), CheckpointError::Origin);
    check(format!("a\tb\n12\n{root}\n"), CheckpointError::Origin);
    check(format!("a\u{85}b\n12\n{root}\n"), CheckpointError::Origin);
    check(format!("{}\n12\n{root}\n", "x".repeat(256)), CheckpointError::Origin);
    check(format!("{ORIGIN}\n0\n{root}\n"), CheckpointError::EmptyRoot);
    check(format!("{ORIGIN}\n12\n{root}\n\n"), CheckpointError::Extension);
    check(format!("{ORIGIN}\n12\n{root}\n{}", "x\n".repeat(17)), CheckpointError::Extension);
    check(format!("{ORIGIN}\n12\n{root}"), CheckpointError::Form);
    check(format!("{ORIGIN}\n12\n"), CheckpointError::Form);
    check(String::new(), CheckpointError::Form);
    let extended = format!("{ORIGIN}\n12\n{root}\nmore\n");
    assert_eq!(Checkpoint::parse(&extended).unwrap().extensions(), ["more"]);
}

#[test]
fn only_the_log_s_own_key_makes_a_checkpoint() {
    let good = signed(7);
    let bytes = good.to_string().into_bytes();
    let open = |log: &[Vkey], cosigners: &[Vkey]| SignedCheckpoint::open(&bytes, log, cosigners);
    let unsigned = Err(CheckpointError::Note(NoteError::Unsigned));
    assert_eq!(open(&keys(&[&signer(2)]), &[]), unsigned);
    assert_eq!(open(&[], &[]), unsigned);
    // As a cosigner the log's key is known, but it does not speak for the log.
    assert!(matches!(open(&[], &keys(&[&signer(1)])), Err(CheckpointError::NotByLog { .. })));
    // In rotation: either key will do.
    assert!(open(&keys(&[&signer(2), &signer(1)]), &[]).is_ok());
    // A key of another name cannot sign for this origin, though it is trusted for its own.
    let other = Signer::from_seed("log.example/b", KeyKind::Ed25519, &[1; 32]).unwrap();
    assert_eq!(good.checkpoint().clone().sign(&other).unwrap_err(), SignError::Origin);
    let text = good.checkpoint().to_string();
    let note = Note::new(text.clone(), vec![other.sign(&text).unwrap()]).unwrap().to_string();
    assert!(matches!(
        SignedCheckpoint::open(note.as_bytes(), &keys(&[&other]), &[]),
        Err(CheckpointError::NotByLog { .. })
    ));
    // A witness's key is no log's key, even under the log's name.
    let as_witness = Signer::from_seed(ORIGIN, KeyKind::CosignatureV1, &[3; 32]).unwrap();
    assert_eq!(as_witness.sign(&text), Err(SignError::Kind));
    let line = as_witness.cosign(&text, 5).unwrap();
    let note = Note::new(text, vec![line]).unwrap().to_string();
    assert!(matches!(
        SignedCheckpoint::open(note.as_bytes(), &keys(&[&as_witness]), &[]),
        Err(CheckpointError::NotByLog { .. })
    ));
}

#[test]
fn a_known_key_s_wrong_signature_spoils_the_note() {
    let (a, b) = (signer(1), witness(2));
    let text = "text\n".to_owned();
    let wrong = b.cosign("other\n", 5).unwrap();
    let note = Note::new(text.clone(), vec![a.sign(&text).unwrap(), wrong]).unwrap();
    assert_eq!(note.verify(&keys(&[&a])).unwrap().len(), 1, "unknown, so ignored");
    assert_eq!(note.verify(&keys(&[&a, &b])), Err(NoteError::Wrong("witness.example/2".into())));
    // Twice by one key counts once.
    let twice = vec![a.sign(&text).unwrap(), a.sign(&text).unwrap()];
    let note = Note::new(text, twice).unwrap();
    assert_eq!(note.verify(&keys(&[&a])).unwrap().len(), 1);
}

#[test]
fn many_signatures_are_accepted_up_to_a_limit() {
    let text = "text\n".to_owned();
    let all: Vec<Signer> = (1..=100).map(witness).collect();
    let lines: Vec<_> = all.iter().map(|one| one.cosign(&text, 5).unwrap()).collect();
    for count in [1, 16, 17, SIGNATURES_MAX] {
        let note = Note::new(text.clone(), lines[..count].to_vec()).unwrap();
        let read = Note::parse(note.to_string().as_bytes()).unwrap();
        let refs: Vec<&Signer> = all.iter().collect();
        assert_eq!(read.verify(&keys(&refs)).unwrap().len(), count);
    }
    let mut note = Note::new(text, lines).unwrap();
    let more = witness(101).cosign("text\n", 5).unwrap();
    assert_eq!(note.add(more.clone()), Err(SignError::TooMany));
    let long = format!("{note}{more}\n");
    assert_eq!(Note::parse(long.as_bytes()), Err(NoteError::TooMany));
}

#[test]
fn malformed_notes_are_refused() {
    let line = signer(1).sign("a\n").unwrap().to_string();
    let check = |text: String, expect: NoteError| {
        assert_eq!(Note::parse(text.as_bytes()), Err(expect), "{text:?}");
    };
    assert!(Note::parse(format!("a\n\n{line}\n").as_bytes()).is_ok());
    // The last blank line separates.
    let note = Note::parse(format!("a\n\nb\n\n{line}\n").as_bytes()).unwrap();
    assert_eq!(note.text(), "a\n\nb\n");
    check(String::new(), NoteError::Form);
    check("a\n".into(), NoteError::Form);
    check("a\n\n".into(), NoteError::Form);
    check(format!("a\n{line}\n"), NoteError::Form);
    check(format!("a\n\n{line}"), NoteError::Form);
    check(format!("\n\n{line}\n"), NoteError::Form);
    check(format!("a\r\n\n{line}\n"), NoteError::Characters);
    check(format!("a\0\n\n{line}\n"), NoteError::Characters);
    assert_eq!(Note::parse(b"a\xff\n\n\n"), Err(NoteError::Characters));
    assert_eq!(Note::parse(&vec![b'a'; NOTE_BYTES_MAX + 1]), Err(NoteError::TooLong));
    for bad in [
        line.replace('\u{2014}', "-"),
        line.replace("\u{2014} ", "\u{2014}"),
        format!(" {line}"),
        format!("{line} "),
        format!("{line} x"),
        "\u{2014} name".into(),
        "\u{2014} name AAAAAA==".into(),
        "\u{2014} na+me AAAAAAAA".into(),
        "\u{2014}  AAAAAAAA".into(),
        "\u{2014} name AAAAAAB=".into(),
    ] {
        check(format!("a\n\n{line}\n{bad}\n"), NoteError::Signature(2));
    }
    for bad in ["", "a", "\n", "a\u{1}\n"] {
        assert_eq!(signer(1).sign(bad), Err(SignError::Text), "{bad:?}");
    }
}

#[test]
fn a_cosignature_says_when() {
    let cosigner = witness(1);
    assert_eq!(cosigner.cosign("a\n", 1 << 63), Err(SignError::Time));
    assert_eq!(signer(1).cosign("a\n", 1), Err(SignError::Kind));
    let line = cosigner.cosign("a\n", 1_700_000_000).unwrap();
    assert_eq!(&line.bytes()[..8], &1_700_000_000u64.to_be_bytes());
    let note = Note::new("a\n".into(), vec![line]).unwrap();
    let by = note.verify(&keys(&[&cosigner])).unwrap();
    assert_eq!(by[0].time_s, Some(1_700_000_000));
    let mut signed = signed(7);
    let other = cosigner.cosign("a\n", 5).unwrap();
    assert!(signed.add(other, cosigner.vkey()).is_err(), "of another text");
    assert_eq!(signed.cosigned().count(), 0);
}

struct Leaves(Vec<Hash>);

impl HashRead for Leaves {
    type Error = std::convert::Infallible;
    fn hash(&mut self, height: u8, index: u64) -> Result<Hash, Self::Error> {
        let start = (index << height) as usize;
        Ok(root_of(&self.0[start..start + (1 << height)]))
    }
}

fn proof(index: u64) -> (LogProof, Vec<u8>) {
    let entries: Vec<Vec<u8>> = (0..21).map(|n| format!("entry {n}").into_bytes()).collect();
    let leaves: Vec<Hash> = entries.iter().map(|entry| Hash::leaf(entry)).collect();
    let signed = Checkpoint::new(ORIGIN, 21, root_of(&leaves)).unwrap().sign(&signer(1)).unwrap();
    let entry = entries[index as usize].clone();
    let proof =
        LogProof::build(&mut Leaves(leaves.clone()), &signed, index, &Hash::leaf(&entry)).unwrap();
    let wrong = LogProof::build(&mut Leaves(leaves), &signed, index, &Hash::leaf(b"x"));
    assert_eq!(wrong, Err(BuildError::Inconsistent(ProofError::Root)));
    (proof, entry)
}

#[test]
fn a_proof_proves_its_entry_and_no_other() {
    let log = keys(&[&signer(1)]);
    for index in 0..21 {
        let (proof, entry) = proof(index);
        let read = LogProof::parse(proof.to_string().as_bytes()).unwrap();
        assert_eq!(read, proof);
        assert_eq!(read.verify(&entry, &log, &[]).unwrap().size(), 21);
        assert!(matches!(
            read.verify(b"entry 99", &log, &[]),
            Err(LogProofError::Inclusion { cause: ProofError::Root, .. })
        ));
        assert!(matches!(
            read.verify(&entry, &keys(&[&signer(2)]), &[]),
            Err(LogProofError::Checkpoint(_))
        ));
    }
}

#[test]
fn every_single_bit_flip_of_a_proof_is_refused() {
    let log = keys(&[&signer(1)]);
    let (proof, entry) = proof(17);
    let bytes = proof.to_string().into_bytes();
    let open = |bytes: &[u8]| LogProof::parse(bytes).and_then(|p| p.verify(&entry, &log, &[]));
    assert!(open(&bytes).is_ok());
    for at in 0..bytes.len() {
        for bit in 0..8 {
            let mut other = bytes.clone();
            other[at] ^= 1 << bit;
            assert!(open(&other).is_err(), "byte {at} bit {bit}");
        }
    }
    for end in 0..bytes.len() {
        assert!(open(&bytes[..end]).is_err(), "cut at {end}");
    }
}

#[test]
fn malformed_proofs_are_refused() {
    let (proof, _) = proof(3);
    let good = proof.to_string();
    let check = |text: String, expect: LogProofError| {
        assert_eq!(LogProof::parse(text.as_bytes()), Err(expect), "{text:?}");
    };
    check(String::new(), LogProofError::Header);
    check(good.replace("@v1", "@v2"), LogProofError::Header);
    for index in ["index 03", "index ", "index", "index -3", "index 3 ", "Index 3"] {
        check(good.replace("index 3", index), LogProofError::Index);
    }
    for extra in ["extra ", "extra A", "extra AA=", "extra AB=="] {
        let text = good.replace("index 3", &format!("{extra}\nindex 3"));
        check(text, LogProofError::Extra);
    }
    let hash = Hash::leaf(b"").to_base64();
    check(good.replace("index 3\n", "index 3\nAAAA\n"), LogProofError::Hash(1));
    let many = format!("index 3\n{}", format!("{hash}\n").repeat(65));
    check(good.replace("index 3\n", &many), LogProofError::TooMany);
    check("c2sp.org/tlog-proof@v1\nindex 0\n".into(), LogProofError::NoCheckpoint);
    let extra = good.replace("index 3", "extra aGk=\nindex 3");
    assert_eq!(LogProof::parse(extra.as_bytes()).unwrap().extra(), Some(&b"hi"[..]));
    assert_eq!(proof.with_extra(b"hi".to_vec()).to_string(), extra);
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let log = keys(&[&signer(1)]);
        prop_assert!(SignedCheckpoint::open(&bytes, &log, &[]).is_err());
        prop_assert!(LogProof::parse(&bytes).is_err());
        let text = String::from_utf8_lossy(&bytes);
        prop_assert!(Vkey::parse(&text).is_err());
        prop_assert!(Signer::parse(&text).is_err());
        if let Ok(read) = Checkpoint::parse(&text) {
            prop_assert_eq!(read.to_string(), text);
        }
    }

    #[test]
    fn notes_read_back(lines in proptest::collection::vec("[ -~äß€]{0,40}", 1..6), n in 1u8..20) {
        let text = lines.iter().fold(String::new(), |text, line| text + line + "\n");
        prop_assume!(text.len() > 1);
        let signers: Vec<Signer> = (1..=n).map(witness).collect();
        let lines = signers.iter().map(|s| s.cosign(&text, u64::from(n)).unwrap()).collect();
        let note = Note::new(text, lines).unwrap();
        let read = Note::parse(note.to_string().as_bytes()).unwrap();
        let refs: Vec<&Signer> = signers.iter().collect();
        prop_assert_eq!(read.verify(&keys(&refs)).unwrap().len(), usize::from(n));
        prop_assert_eq!(read, note);
    }

    #[test]
    fn almost_notes_never_panic(text in "(—| |\n|[a-z]|\\+|=|AAAA){0,60}") {
        if let Ok(note) = Note::parse(text.as_bytes()) {
            prop_assert_eq!(note.to_string(), text);
        }
    }
}
