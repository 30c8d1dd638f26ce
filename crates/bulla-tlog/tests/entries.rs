//! Entries and sealing, beyond the vectors.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use bulla_tlog::{Hash, entry::*, seal::*, tile::ENTRY_BYTES_MAX};
use minicbor::data::Type;
use proptest::{option, prelude::*, sample::select};

const SID: [u8; 16] = [1; 16];

fn in_session(kind: Kind, seq: u64) -> Entry {
    let mut entry = Entry::new(kind, 5, 6, [2; 16]);
    let prev = (seq > 0).then(|| Hash::leaf(b"before"));
    entry.session = Some(Link { sid: SID, seq, prev });
    entry
}

fn hash() -> impl Strategy<Value = Hash> {
    any::<[u8; 32]>().prop_map(Hash)
}

fn text() -> impl Strategy<Value = Option<String>> {
    option::of("[ -~äß€𝄞]{1,40}")
}

fn an_object() -> impl Strategy<Value = ObjectRef> {
    let codes = (select(Direction::ALL), select(Encoding::ALL));
    (hash(), any::<u64>(), any::<u64>(), hash(), any::<u64>(), codes).prop_map(
        |(ct_hash, ct_len, pt_len, commit, n, (dir, enc))| ObjectRef {
            ct_hash,
            ct_len,
            pt_len,
            commit,
            n,
            dir,
            enc,
        },
    )
}

prop_compose! {
    fn times_and_link()(
        kind in select(Kind::ALL),
        wall in any::<u64>(),
        mono in 0u64..70_000,
        boot in any::<[u8; 16]>(),
        sid in option::of(any::<[u8; 16]>()),
        seq in prop_oneof![Just(0), 0u64..30, any::<u64>()],
        prev in hash(),
    ) -> Entry {
        let mut entry = Entry::new(kind, wall, mono, boot);
        let must = matches!(kind, Kind::Open | Kind::Intent | Kind::Outcome | Kind::Chunk);
        let may_not =
            matches!(kind, Kind::Genesis | Kind::Boot | Kind::Recover | Kind::Heartbeat);
        let seq = if kind == Kind::Open { 0 } else { seq };
        if let Some(sid) = sid.or(must.then_some(SID)).filter(|_| !may_not) {
            entry.session = Some(Link { sid, seq, prev: (seq > 0).then_some(prev) });
        }
        entry
    }
}

prop_compose! {
    fn an_entry()(
        mut entry in times_and_link(),
        tags in (option::of(any::<[u8; 32]>()), option::of(any::<[u8; 32]>())),
        dek_commit in option::of(any::<[u8; 32]>()),
        texts in (text(), text(), text(), text(), text()),
        decision in option::of(select(Decision::ALL)),
        policies in proptest::collection::vec("[a-z-]{1,20}", 0..40),
        mode in select(Mode::ALL),
        numbers in (any::<u64>(), any::<[Option<u64>; 4]>()),
        objs in proptest::collection::vec(an_object(), 0..30),
        transcript in option::of(hash()),
        counts in option::of(any::<[u64; 5]>()),
        refers in option::of(prop_oneof![
            any::<u64>().prop_map(Refers::Index),
            hash().prop_map(Refers::Hash),
        ]),
        sealed in option::of(proptest::collection::vec(any::<u8>(), 16..300)),
    ) -> Entry {
        (entry.subj_tag, entry.policy) = tags;
        (entry.resource, entry.protocol, entry.action, entry.status, entry.note) = texts;
        (entry.decision, entry.policies, entry.mode) = (decision, policies, mode);
        entry.effects = numbers.0;
        [entry.cmd, entry.rows, entry.bytes_in, entry.bytes_out] = numbers.1;
        if entry.session.is_some() {
            entry.objs = objs;
        }
        if entry.kind == Kind::Close {
            entry.transcript = transcript;
            entry.counts = counts.map(|[commands, denied, held, rows, bytes]| {
                Counts { commands, denied, held, rows, bytes }
            });
        }
        (entry.dek_commit, entry.refers, entry.sealed) = (dek_commit, refers, sealed);
        entry
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn entries_read_back(entry in an_entry()) {
        let bytes = entry.encode().unwrap();
        prop_assert_eq!(&Entry::decode(&bytes).unwrap(), &entry);
        // The clear part stands in the stored bytes as it is, whether sealed or not.
        let clear = entry.clear_bytes().unwrap();
        prop_assert_eq!(&bytes[1..1 + clear.len()], &clear[..]);
        let mut bare = entry.clone();
        bare.sealed = None;
        prop_assert_eq!(bare.clear_bytes().unwrap(), clear);
        // Another library reads the same items, and writes them to the same bytes.
        let mut again = vec![];
        copy_item(&mut minicbor::Decoder::new(&bytes), &mut minicbor::Encoder::new(&mut again));
        prop_assert_eq!(&again, &bytes);
        let mut into = b"before".to_vec();
        entry.encode_into(&mut into).unwrap();
        prop_assert_eq!(&into[6..], &bytes[..]);
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        if let Ok(entry) = Entry::decode(&bytes) {
            prop_assert_eq!(entry.encode().unwrap(), bytes);
        }
    }

    #[test]
    fn changed_bytes_are_refused_or_mean_something_else(
        entry in an_entry(),
        at in any::<prop::sample::Index>(),
        new in any::<u8>(),
        how in 0..3,
    ) {
        let mut bytes = entry.encode().unwrap();
        let at = at.index(bytes.len());
        match how {
            0 => bytes[at] = new,
            1 => bytes.insert(at, new),
            _ => { bytes.remove(at); }
        }
        if let Ok(other) = Entry::decode(&bytes) {
            prop_assert_eq!(other.encode().unwrap(), bytes);
        }
    }
}

/// Copies one item with minicbor, which writes integers and lengths in their shortest form.
fn copy_item(from: &mut minicbor::Decoder, to: &mut minicbor::Encoder<&mut Vec<u8>>) {
    match from.datatype().unwrap() {
        Type::U8 | Type::U16 | Type::U32 | Type::U64 => {
            to.u64(from.u64().unwrap()).unwrap();
        }
        Type::Bytes => {
            to.bytes(from.bytes().unwrap()).unwrap();
        }
        Type::String => {
            to.str(from.str().unwrap()).unwrap();
        }
        Type::Array => {
            let count = from.array().unwrap().unwrap();
            to.array(count).unwrap();
            (0..count).for_each(|_| copy_item(from, to));
        }
        Type::Map => {
            let count = from.map().unwrap().unwrap();
            to.map(count).unwrap();
            let mut last = None;
            for _ in 0..count {
                let key = from.u64().unwrap();
                assert!(last < Some(key), "keys ascend");
                last = Some(key);
                to.u64(key).unwrap();
                copy_item(from, to);
            }
        }
        other => panic!("an entry holds no {other}"),
    }
}

#[test]
fn what_contradicts_itself_is_not_written() {
    let check = |change: &dyn Fn(&mut Entry), entry: Entry| {
        let mut entry = entry;
        assert!(entry.encode().is_ok(), "{entry:?}");
        change(&mut entry);
        assert!(entry.encode().is_err(), "{entry:?}");
        let mut out = b"kept".to_vec();
        assert!(entry.encode_into(&mut out).is_err());
        assert_eq!(out, b"kept");
    };
    let boot = || Entry::new(Kind::Boot, 1, 2, [3; 16]);
    let link = |seq, prev| Some(Link { sid: SID, seq, prev });
    check(&|e| e.session = link(0, Some(Hash([0; 32]))), in_session(Kind::Open, 0));
    check(&|e| e.session = link(1, None), in_session(Kind::Intent, 1));
    check(&|e| e.session = link(1, Some(Hash([0; 32]))), in_session(Kind::Open, 0));
    check(&|e| e.session = None, in_session(Kind::Intent, 1));
    check(&|e| e.session = link(0, None), boot());
    check(&|e| e.counts = Some(Counts::default()), boot());
    check(&|e| e.transcript = Some(Hash([0; 32])), in_session(Kind::Outcome, 4));
    for bad in ["", "a\nb", "\u{1b}[2J", "\u{7f}", "\u{9b}x", "\u{85}", &"x".repeat(513)] {
        check(&|e| e.status = Some(bad.into()), boot());
        check(&|e| e.resource = Some(bad.into()), boot());
        check(&|e| e.policies = vec![bad.into()], boot());
    }
    check(&|e| e.note = Some("x".repeat(NOTE_TEXT_BYTES_MAX + 1)), boot());
    check(&|e| e.policies = vec!["p".into(); POLICIES_MAX + 1], boot());
    check(&|e| e.sealed = Some(vec![0; 15]), boot());
    check(&|e| e.sealed = Some(vec![0; ENTRY_BYTES_MAX]), boot());
    let mut sealer = Sealer::new(&Dek::new([7; 32]), SID).unwrap();
    let object = sealer
        .seal_object(Direction::ClientToTarget, Encoding::Stored, b"x", &mut b"x".to_vec())
        .unwrap();
    check(&|e| e.objs = vec![object; OBJECTS_MAX + 1], in_session(Kind::Chunk, 1));
    check(&|e| e.objs = vec![object], boot());
}

#[test]
fn the_longest_entry_is_65_535_bytes() {
    let mut entry = Entry::new(Kind::Admin, 1, 2, [3; 16]);
    entry.sealed = Some(vec![0; 16]);
    let overhead = entry.encode().unwrap().len() - 16 + 2;
    entry.sealed = Some(vec![0; ENTRY_BYTES_MAX - overhead]);
    let bytes = entry.encode().unwrap();
    assert_eq!(bytes.len(), ENTRY_BYTES_MAX);
    assert_eq!(Entry::decode(&bytes).unwrap(), entry);
    entry.sealed.as_mut().unwrap().push(0);
    assert_eq!(entry.encode(), Err(EntryError::TooLong { len: ENTRY_BYTES_MAX + 1 }));
    let long = vec![0x81; ENTRY_BYTES_MAX + 1];
    assert_eq!(Entry::decode(&long), Err(EntryError::TooLong { len: ENTRY_BYTES_MAX + 1 }));
}

#[test]
fn every_field_at_once() {
    let mut entry = in_session(Kind::Close, 1);
    entry.subj_tag = Some([1; 32]);
    let some = || Some("x".to_owned());
    (entry.resource, entry.protocol, entry.action) = (some(), some(), some());
    (entry.status, entry.note) = (some(), some());
    entry.decision = Some(Decision::Deny);
    (entry.policy, entry.dek_commit) = (Some([2; 32]), Some([3; 32]));
    entry.policies = vec!["p".into()];
    (entry.effects, entry.cmd, entry.rows) = (u64::MAX, Some(0), Some(24));
    (entry.bytes_in, entry.bytes_out) = (Some(1 << 32), Some((1 << 32) - 1));
    (entry.transcript, entry.counts) = (Some(Hash([4; 32])), Some(Counts::default()));
    entry.refers = Some(Refers::Index(65_536));
    let mut sealer = Sealer::new(&Dek::new([7; 32]), SID).unwrap();
    let mut body = b"x".to_vec();
    let dir = Direction::GatewayToClient;
    entry.objs = vec![sealer.seal_object(dir, Encoding::Zstd, b"xx", &mut body).unwrap()];
    let bytes = entry.encode().unwrap();
    assert_eq!(&bytes[..3], [0x81, 0xb8, 28]);
    assert_eq!(Entry::decode(&bytes).unwrap(), entry);
}

#[test]
fn sealed_entries_open_under_their_own_key_and_place_only() {
    let dek = Dek::new([7; 32]);
    let mut sealer = Sealer::new(&dek, SID).unwrap();
    let commit = sealer.dek_commit();
    let opener = Opener::new(&dek, SID, &commit).unwrap();
    for (seq, detail) in [(0, &b""[..]), (1, b"select 1"), (5, &[9; 40_000])] {
        let kind = if seq == 0 { Kind::Open } else { Kind::Intent };
        let mut entry = in_session(kind, seq);
        let mut stored = b"before".to_vec();
        Sealer::new(&dek, SID).unwrap().seal_entry_into(&entry, detail, &mut stored).unwrap();
        sealer.seal_entry(&mut entry, detail).unwrap();
        assert_eq!(entry.encode().unwrap(), stored[6..]);
        let read = Entry::decode(&stored[6..]).unwrap();
        assert_eq!(opener.open_entry(&read).unwrap(), detail);
        // Every field of the clear part is bound.
        for change in [
            &(|e: &mut Entry| e.t_wall_ns ^= 1) as &dyn Fn(&mut Entry),
            &|e| e.status = Some("ok".into()),
            &|e| e.effects ^= 1,
            &|e| e.mode = Mode::Bounded,
            &|e| e.sealed.as_mut().unwrap()[0] ^= 1,
            &|e| e.sealed.as_mut().unwrap().push(0),
            &|e| e.session.as_mut().unwrap().seq ^= 2,
        ] {
            let mut other = read.clone();
            change(&mut other);
            assert!(opener.open_entry(&other).is_err());
        }
        let mut other = read.clone();
        other.session.as_mut().unwrap().sid = [9; 16];
        assert_eq!(opener.open_entry(&other), Err(SealError::Session));
        other.sealed = None;
        other.session = read.session;
        assert_eq!(opener.open_entry(&other), Err(SealError::NotSealed));
    }
    assert_eq!(Opener::new(&Dek::new([8; 32]), SID, &commit).err(), Some(SealError::Key));
    assert!(!format!("{dek:?}{sealer:?}{opener:?}").contains('7'));
}

#[test]
fn a_number_is_sealed_once() {
    let mut sealer = Sealer::new(&Dek::new([7; 32]), SID).unwrap();
    let mut out = vec![];
    let mut seal = |entry: &Entry, out: &mut Vec<u8>| sealer.seal_entry_into(entry, b"x", out);
    assert_eq!(seal(&in_session(Kind::Intent, 3), &mut out), Ok(()));
    let length = out.len();
    for seq in [3, 2, 1] {
        assert_eq!(seal(&in_session(Kind::Intent, seq), &mut out), Err(SealError::Reused));
    }
    assert_eq!(seal(&in_session(Kind::Intent, u64::MAX), &mut out), Err(SealError::Reused));
    assert_eq!(seal(&Entry::new(Kind::Admin, 1, 2, SID), &mut out), Err(SealError::Session));
    let mut twice = in_session(Kind::Intent, 4);
    twice.sealed = Some(vec![0; 16]);
    assert_eq!(seal(&twice, &mut out), Err(SealError::Sealed));
    assert_eq!(out.len(), length, "errors leave nothing behind");
    // One that did not fit spends no number, and nothing was encrypted under it.
    let long = in_session(Kind::Intent, 4);
    let detail = vec![0; ENTRY_BYTES_MAX];
    assert!(matches!(
        sealer.seal_entry_into(&long, &detail, &mut out),
        Err(SealError::Entry(EntryError::TooLong { .. }))
    ));
    assert_eq!(sealer.seal_entry_into(&long, b"x", &mut out), Ok(()));
}

#[test]
fn objects_open_as_they_were_sealed() {
    let dek = Dek::new([7; 32]);
    let mut sealer = Sealer::new(&dek, SID).unwrap();
    let opener = Opener::new(&dek, SID, &sealer.dek_commit()).unwrap();
    let plaintext = b"the same bytes".as_slice();
    let dir = Direction::TargetToClient;
    let mut seal = || {
        let mut body = b"packed".to_vec();
        let object = sealer.seal_object(dir, Encoding::Zstd, plaintext, &mut body).unwrap();
        (object, body)
    };
    let ((a, a_body), (b, b_body)) = (seal(), seal());
    assert_eq!((a.n, b.n, a.pt_len, a.ct_len), (0, 1, 14, 6 + TAG_BYTES as u64));
    // Equal plaintexts do not show.
    assert_ne!(a.commit, b.commit);
    assert_ne!(a_body, b_body);
    let mut body = a_body.clone();
    opener.open_object(&a, &mut body).unwrap();
    assert_eq!(body, b"packed");
    opener.check_plaintext(&a, plaintext).unwrap();
    assert_eq!(commit_object(&opener.object_salt(&a), plaintext), a.commit);
    for other in [&b"the same byteS"[..], b"the same byte", b""] {
        assert_eq!(opener.check_plaintext(&a, other), Err(SealError::Plaintext));
    }
    assert_eq!(opener.check_plaintext(&b, plaintext), Ok(()));
    assert_eq!(opener.open_object(&b, &mut a_body.clone()), Err(SealError::Ciphertext));
    // What an entry says of an object is bound to its bytes.
    for change in [
        &(|o: &mut ObjectRef| o.pt_len += 1) as &dyn Fn(&mut ObjectRef),
        &|o| o.n = 1,
        &|o| o.dir = Direction::ClientToTarget,
        &|o| o.enc = Encoding::Stored,
    ] {
        let mut other = a;
        change(&mut other);
        assert_eq!(opener.open_object(&other, &mut a_body.clone()), Err(SealError::Open));
    }
    for at in 0..a_body.len() {
        let mut other = a_body.clone();
        other[at] ^= 1;
        assert_eq!(check_object(&a, &other), Err(SealError::Ciphertext));
    }
    assert_eq!(check_object(&a, &a_body), Ok(()));
    let mut long = vec![0; OBJECT_BYTES_MAX + 1];
    let refused = sealer.seal_object(dir, Encoding::Stored, b"", &mut long);
    assert_eq!(refused, Err(SealError::TooLong));
}
