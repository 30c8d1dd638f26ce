//! The archive by itself, on a simulated disk: what stands there between and after checkpoints.

use bulla_tlog::{
    entry::{Direction, Encoding, Kind, Link, ObjectRef},
    verify::{ObjectCheck, ObjectState, Verdict},
};

use super::*;
use crate::{
    journal::writer::Written,
    keys::{Keys, Missing},
    objects::Objects,
    vfs::sim::{Fault, Plan, SimVfs, Survive, Torn},
};

const ORIGIN: &str = "test.example/log";
const DIR: &str = "/archive";

fn disk() -> (SimVfs, Keys) {
    let vfs = SimVfs::new();
    for dir in [DIR, "/state", "/keys"] {
        vfs.create_dir(Path::new(dir), Privacy::Private).unwrap();
    }
    vfs.sync_dir(Path::new("/")).unwrap();
    let keys = Keys::open(&vfs, Path::new("/keys"), ORIGIN, Missing::Make).unwrap();
    (vfs, keys)
}

fn open(vfs: &SimVfs, keys: &Keys) -> Result<Archive, ArchiveError> {
    let key_store = KeyStore::new(Arc::new(vfs.clone()), Path::new("/keys"));
    let (dir, state) = (Path::new(DIR), Path::new("/state"));
    Archive::open(Arc::new(vfs.clone()), dir, state, &keys.signer, key_store)
}

fn payload(index: u64) -> Payload {
    let kind = if index == 0 { Kind::Genesis } else { Kind::Heartbeat };
    Payload::new(Entry::new(kind, 1, index, [3; 16]).encode().unwrap())
}

/// Hands over entries up to `end`, as the committer does.
fn feed(archive: &mut Archive, from: u64, end: u64) -> Result<(), ArchiveError> {
    for index in (from..end).step_by(100) {
        let payloads = (index..end.min(index + 100)).map(payload).collect();
        let written = Written { segment: 0, offset: 0, bytes: 0, index };
        archive.batch(Path::new("/none"), Batch { written, payloads: Some(payloads) })?;
    }
    Ok(())
}

fn publish(archive: &mut Archive, keys: &Keys, extent: Extent) -> Result<u64, ArchiveError> {
    archive.publish(&keys.signer, ORIGIN, extent)?;
    Ok(archive.published)
}

fn is_whole(vfs: &SimVfs, keys: &Keys, size: u64, context: &str) {
    let vfs: Arc<dyn Vfs> = Arc::new(vfs.clone());
    let keys = std::slice::from_ref(keys.signer.vkey());
    let options = Default::default();
    let report =
        crate::verify::verify_on(vfs, Path::new(DIR), keys, options, 1, &mut |_| {}).unwrap();
    assert_eq!(report.verdict, Verdict::Complete, "{context}: {:?}", report.findings);
    assert_eq!(report.checkpoint.size(), size, "{context}");
}

/// Names under the archive that hold this.
fn names(vfs: &SimVfs, part: &str) -> Vec<String> {
    let files = vfs.files(Path::new(DIR)).into_iter();
    let names = files.map(|(path, _)| path.to_string_lossy().into_owned());
    names.filter(|name| name.contains(part)).collect()
}

#[test]
fn a_checkpoint_under_load_ends_with_a_bundle_and_the_next_has_the_rest() {
    let (vfs, keys) = disk();
    let mut archive = open(&vfs, &keys).unwrap();
    let busy = BUSY_ENTRIES_MIN + 700;
    feed(&mut archive, 0, busy).unwrap();
    let whole = busy / 256 * 256;
    assert_eq!(publish(&mut archive, &keys, Extent::Bundles).unwrap(), whole);
    is_whole(&vfs, &keys, whole, "under load");
    assert_eq!(names(&vfs, ".p/"), ["/archive/tile/1/000.p/18"]);
    // Nothing has come since, or little: all of it.
    assert_eq!(publish(&mut archive, &keys, Extent::Bundles).unwrap(), busy);
    is_whole(&vfs, &keys, busy, "when it is quiet");
    feed(&mut archive, busy, busy + 3).unwrap();
    assert_eq!(publish(&mut archive, &keys, Extent::Bundles).unwrap(), busy + 3);
    assert_eq!(names(&vfs, ".p/").len(), 5, "{:?}", names(&vfs, ".p/"));
    // Partial tiles go when the full one is there; the end has everything.
    feed(&mut archive, busy + 3, 2 * busy).unwrap();
    assert_eq!(publish(&mut archive, &keys, Extent::Everything).unwrap(), 2 * busy);
    is_whole(&vfs, &keys, 2 * busy, "at the end");
    let left = names(&vfs, ".p/");
    let stale = left.iter().filter(|name| name.contains("/018.p/"));
    assert_eq!((stale.count(), left.len()), (0, 4), "{left:?}");
    assert_eq!(names(&vfs, ".tmp"), Vec::<String>::new());
}

#[test]
fn a_crash_between_writing_and_a_checkpoint_loses_nothing() {
    let end = BUSY_ENTRIES_MIN + 300;
    let run = |vfs: &SimVfs, keys: &Keys| -> Result<(), ArchiveError> {
        let mut archive = open(vfs, keys)?;
        let from = archive.size();
        feed(&mut archive, from, 900)?;
        archive.spill()?;
        feed(&mut archive, 900, end)?;
        publish(&mut archive, keys, Extent::Bundles)?;
        feed(&mut archive, end, end + 5)?;
        publish(&mut archive, keys, Extent::Bundles).map(|_| ())
    };
    let (vfs, keys) = disk();
    let before = vfs.ops();
    run(&vfs, &keys).unwrap();
    let total = vfs.ops() - before;
    assert!((100..400).contains(&total), "{total} operations");
    for n in (0..total).step_by(2) {
        let survive = match n % 3 {
            0 => Survive::Nothing,
            1 => Survive::All,
            _ => Survive::Some(n),
        };
        let torn = if n % 4 == 0 { Torn::Sectors(0x5555 << (n % 7)) } else { Torn::Prefix(700) };
        let context = format!("operation {n}, {torn:?}, {survive:?}");
        let (vfs, keys) = disk();
        vfs.plan(Some(Plan { path: "/".into(), at: n, fault: Fault::Crash(torn) }));
        assert!(run(&vfs, &keys).is_err() || vfs.is_crashed(), "{context}");
        let vfs = vfs.after_crash(survive);
        let mut archive = open(&vfs, &keys).unwrap_or_else(|error| panic!("{context}: {error}"));
        let size = archive.size();
        if size > 0 {
            is_whole(&vfs, &keys, size, &context);
        }
        feed(&mut archive, size, end + 5).unwrap();
        let published = publish(&mut archive, &keys, Extent::Everything);
        assert_eq!(published.unwrap_or_else(|error| panic!("{context}: {error}")), end + 5);
        is_whole(&vfs, &keys, end + 5, &context);
        assert_eq!(names(&vfs, ".tmp"), Vec::<String>::new(), "{context}");
    }
}

/// An entry with one object, which stands for itself.
fn evidence(index: u64) -> (Payload, ObjectRef) {
    let body = vec![index as u8; 300];
    let object = ObjectRef {
        ct_hash: Hash::of(&body),
        ct_len: body.len() as u64,
        pt_len: 284,
        commit: Hash::of(b"commit"),
        n: index,
        dir: Direction::TargetToClient,
        enc: Encoding::Stored,
    };
    let mut entry = Entry::new(Kind::Chunk, 1, index, [3; 16]);
    entry.session = Some(Link { sid: [7; 16], seq: index, prev: Some(Hash::of(b"before")) });
    entry.objs.push(object);
    let mut payload = Payload::new(entry.encode().unwrap());
    payload.objects.push((object.ct_hash, body));
    (payload, object)
}

fn put(archive: &mut Archive, index: u64) {
    let payloads = Some(vec![evidence(index).0]);
    let written = Written { segment: 0, offset: 0, bytes: 0, index };
    archive.batch(Path::new("/none"), Batch { written, payloads }).unwrap();
}

/// A pack is complete, the next one is begun, and the power goes: its name survives, its bytes do
/// not.
#[test]
fn a_pack_that_was_begun_and_cut_off_is_in_nobodys_way() {
    let (vfs, keys) = disk();
    let mut archive = open(&vfs, &keys).unwrap();
    feed(&mut archive, 0, 1).unwrap();
    put(&mut archive, 1);
    publish(&mut archive, &keys, Extent::Everything).unwrap();
    put(&mut archive, 2);
    archive.release().unwrap();
    archive.spill().unwrap();
    drop(archive);
    let begun = Path::new(DIR).join(pack::pack_path(2));
    let cut = vfs.after_crash(Survive::All);
    cut.tamper(&begun, |bytes| *bytes.last_mut().unwrap() ^= 1).unwrap();
    let without_state = |vfs: &SimVfs| {
        let vfs = vfs.fork();
        for name in vfs.list(Path::new("/state")).unwrap() {
            vfs.remove(&Path::new("/state").join(name)).unwrap();
        }
        vfs
    };
    for vfs in [cut.fork(), without_state(&cut)] {
        let mut archive = open(&vfs, &keys).unwrap();
        // Nothing goes before the journal has been found whole.
        assert!(vfs.exists(&begun).unwrap());
        for index in [2, 3] {
            put(&mut archive, index);
        }
        assert_eq!(publish(&mut archive, &keys, Extent::Everything).unwrap(), 4);
        drop(archive);
        let vfs = vfs.after_crash(Survive::Nothing);
        for vfs in [vfs.fork(), without_state(&vfs)] {
            let mut archive = open(&vfs, &keys).unwrap();
            put(&mut archive, 4);
            assert_eq!(publish(&mut archive, &keys, Extent::Everything).unwrap(), 5);
            let objects = Objects::new(Arc::new(vfs.clone()), Path::new(DIR));
            for index in 1..5 {
                let state = objects.check(&evidence(index).1);
                assert_eq!(state, ObjectState::Good, "{index}: {:?}", names(&vfs, "objects"));
            }
        }
    }
}

#[test]
fn a_name_that_is_taken_must_hold_the_same_bytes() {
    for (name, len) in [("tile/0/000", 8_192), ("tile/entries/000", 0)] {
        // What another archive of the same entries has there is the same.
        let (other, keys) = disk();
        let mut archive = open(&other, &keys).unwrap();
        feed(&mut archive, 0, 300).unwrap();
        publish(&mut archive, &keys, Extent::Everything).unwrap();
        let good = other.read(&Path::new(DIR).join(name), 1 << 20).unwrap();
        assert!(len == 0 || good.len() == len, "{name}");
        let mut bad = good.clone();
        bad[77] ^= 1;
        for (bytes, is_same) in [(&good, true), (&bad, false), (&good[..256].to_vec(), false)] {
            let (vfs, keys) = disk();
            let mut archive = open(&vfs, &keys).unwrap();
            let path = Path::new(DIR).join(name);
            archive.files.make_dir(path.parent().unwrap()).unwrap();
            vfs.create(&path, Privacy::Shared).unwrap().pwrite(bytes, 0).unwrap();
            feed(&mut archive, 0, 300).unwrap();
            match publish(&mut archive, &keys, Extent::Everything) {
                Ok(size) => assert!(is_same && size == 300, "{name}"),
                Err(ArchiveError::OtherBytes { path: at }) => assert!(!is_same && at == path),
                Err(error) => panic!("{name}: {error}"),
            }
            assert_eq!(vfs.exists(&Path::new(DIR).join("checkpoint")).unwrap(), is_same);
            assert_eq!(&vfs.read(&path, 1 << 20).unwrap(), bytes, "what stands there is left");
        }
    }
}

#[test]
fn a_full_disk_is_tried_again_and_nothing_is_written_twice() {
    let (vfs, keys) = disk();
    let mut archive = open(&vfs, &keys).unwrap();
    feed(&mut archive, 0, 3_000).unwrap();
    let mut fails = 0;
    for step in 1.. {
        vfs.set_capacity(Some(vfs.used() + 9_000 * (step % 3)));
        match publish(&mut archive, &keys, Extent::Everything) {
            Ok(_) => break,
            Err(ArchiveError::Io { error, .. }) if is_full(&error) => fails += 1,
            Err(error) => panic!("{error}"),
        }
        // The right edge moves on meanwhile: what was written of it must do no harm.
        let size = archive.size();
        feed(&mut archive, size, size + 2).unwrap();
        assert!(step < 1_000);
    }
    assert!(fails > 10, "{fails}");
    is_whole(&vfs, &keys, 3_000 + 2 * fails, "after it");
    assert_eq!(names(&vfs, ".tmp"), Vec::<String>::new());
}
