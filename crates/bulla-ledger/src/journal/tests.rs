//! Crashes at every byte: what is recovered is exactly a prefix of what was written, at least what
//! was acknowledged, however the torn part looks and whatever payloads contain.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use bulla_tlog::Hash;

use super::{
    frame::{self, Frame, Keyed, Payload, Position, SegmentHeader},
    recover::{RecoverError, Recovered, Tail, recover},
    segment::{Making, Room, Supply, segment_name},
    writer::{Current, Writer},
};
use crate::{
    aligned::{AlignedBuf, PAGE},
    vfs::{
        Privacy, Vfs,
        sim::{Fault, Plan, SimVfs, Survive, Torn},
    },
};

const SEGMENT: u64 = 16 * PAGE as u64;
const WASTE: u64 = 4 * PAGE as u64;

fn dir() -> PathBuf {
    PathBuf::from("/journal")
}

fn origin() -> Hash {
    Hash::of(b"test.example/log")
}

fn making(vfs: &SimVfs) -> Making {
    Making {
        vfs: Arc::new(vfs.clone()),
        dir: dir(),
        bytes: SEGMENT,
        origin: origin(),
        waste_max: WASTE,
        salt: crate::keys::random::<32>,
    }
}

/// A disk with a segment to write and two spares.
fn fresh() -> SimVfs {
    let vfs = SimVfs::new();
    for path in ["/journal", "/quarantine"] {
        vfs.create_dir(Path::new(path), Privacy::Private).unwrap();
    }
    vfs.sync_dir(Path::new("/")).unwrap();
    for number in 0..3 {
        making(&vfs).make(number, || {}).unwrap();
    }
    vfs
}

fn find(vfs: &SimVfs) -> Result<(Recovered, Vec<Frame>), RecoverError> {
    let mut frames = vec![];
    let shared: Arc<dyn Vfs> = Arc::new(vfs.clone());
    let found = recover(&shared, &dir(), Path::new("/quarantine"), origin(), &mut |_, frame| {
        frames.push(frame);
        Ok(())
    })?;
    Ok((found, frames))
}

fn writer(vfs: &SimVfs, found: Recovered) -> Writer {
    let Recovered { current, spares, next_number, at, .. } = found;
    let room = Arc::new(Room::default());
    let supply = Supply::start(making(vfs), room, spares, next_number).unwrap();
    let current = current.unwrap_or_else(|| {
        let ready = making(vfs).make(next_number, || {}).unwrap();
        Current::new(ready, PAGE as u64)
    });
    Writer::new(Arc::new(supply), current, at, WASTE)
}

fn payload(n: u64, object: usize) -> Payload {
    let mut payload = Payload::new(format!("entry {n}").into_bytes());
    if object > 0 {
        let bytes = vec![n as u8; object];
        payload.objects.push((Hash::of(&bytes), bytes));
    }
    payload.sides.push(n.to_le_bytes().to_vec());
    payload
}

/// Entries of frames as one run, checked to be numbered from 0.
fn entries(frames: &[Frame]) -> Vec<Vec<u8>> {
    let mut out = vec![];
    for frame in frames {
        assert_eq!(frame.index, out.len() as u64);
        out.extend(frame.entries.iter().map(|(_, entry)| entry.clone()));
    }
    out
}

fn expect(n: u64) -> Vec<Vec<u8>> {
    (0..n).map(|n| format!("entry {n}").into_bytes()).collect()
}

/// `acknowledged` frames, then a crash in the next, then recovery, twice; then the journal goes on,
/// crashes again, and is recovered again.
fn crash_and_recover(base: &SimVfs, acknowledged: u64, last: &Payload, torn: Torn) {
    let vfs = base.fork();
    let (found, _) = find(&vfs).unwrap();
    let mut journal = writer(&vfs, found);
    vfs.plan(Some(Plan { path: ".seg".into(), at: 0, fault: Fault::Crash(torn) }));
    assert!(journal.write([last].into_iter()).is_err());
    drop(journal);

    let vfs = vfs.after_crash(Survive::Nothing);
    let (found, frames) = find(&vfs).unwrap_or_else(|error| panic!("{torn:?}: {error}"));
    let count = entries(&frames).len() as u64;
    assert!(count == acknowledged || count == acknowledged + 1, "{torn:?}: {count}");
    let mut all = expect(acknowledged);
    all.extend((count > acknowledged).then(|| last.entry.clone()));
    assert_eq!(entries(&frames), all, "{torn:?}");
    if count > acknowledged {
        let frame = frames.last().unwrap();
        assert!(frame.objects == last.objects && frame.sides == last.sides, "{torn:?}");
    }
    assert!(found.torn.is_none() || count == acknowledged);
    if let Some(torn) = &found.torn {
        let kept = vfs.read(&Path::new("/quarantine").join(torn.file_name()), 1 << 20).unwrap();
        assert_eq!((kept.len() as u64, Hash::of(&kept)), (torn.bytes, torn.hash));
    }
    let (again, same) = find(&vfs).unwrap();
    assert_eq!((again.at, again.torn, same), (found.at, None, frames));

    let mut journal = writer(&vfs, found);
    let more = Payload::new(b"after".to_vec());
    journal.write([&more].into_iter()).unwrap();
    let torn = Torn::Sectors(0b10);
    vfs.plan(Some(Plan { path: ".seg".into(), at: 0, fault: Fault::Crash(torn) }));
    assert!(journal.write([&more].into_iter()).is_err());
    drop(journal);
    let (_, frames) = find(&vfs.after_crash(Survive::Nothing)).unwrap();
    all.push(b"after".to_vec());
    assert_eq!(entries(&frames), all);
}

/// A disk whose journal holds `n` frames.
fn with_frames(n: u64) -> SimVfs {
    let vfs = fresh();
    let (found, _) = find(&vfs).unwrap();
    let mut journal = writer(&vfs, found);
    for n in 0..n {
        journal.write([&payload(n, n as usize * 900)].into_iter()).unwrap();
    }
    drop(journal);
    vfs
}

#[test]
fn a_crash_at_every_byte() {
    let base = with_frames(3);
    let last = payload(3, 5_000);
    for n in 0..=last.frame_bytes() {
        // The middle of a page of equal bytes has nothing new to tell.
        if n % 512 < 140 || n % 512 > 500 {
            crash_and_recover(&base, 3, &last, Torn::Prefix(n));
        }
    }
}

#[test]
fn a_crash_that_leaves_any_sectors() {
    let base = with_frames(2);
    let last = payload(2, 0);
    assert_eq!(last.frame_bytes(), PAGE);
    for mask in 0..1 << 8 {
        crash_and_recover(&base, 2, &last, Torn::Sectors(mask));
    }
    let last = payload(2, 5_000);
    assert_eq!(last.frame_bytes(), 2 * PAGE);
    // 11 sectors in every way, the other five all or none.
    for mask in 0..1 << 11 {
        let spread = (mask & 0x7) | (mask & 0x38) << 2 | (mask & 0x7c0) << 4;
        crash_and_recover(&base, 2, &last, Torn::Sectors(spread));
        if mask % 8 == 0 {
            crash_and_recover(&base, 2, &last, Torn::Sectors(spread | 0x7118));
        }
    }
}

/// A page that is a frame header in every way but the salt, and frames that this very host wrote.
fn forgeries(vfs: &SimVfs) -> Vec<Vec<u8>> {
    let mut out = vec![];
    for batch in [0, 1, 2, 3, 4, u64::MAX - 1] {
        for offset in (1..12).map(|page| page * PAGE as u64) {
            let at = Position { index: batch, batch, chain: Hash([0; 32]) };
            let mut buf = AlignedBuf::new();
            let lie = Payload::new(b"forged".to_vec());
            let keyed = Keyed::new([0; 32]);
            frame::encode(&mut buf, &keyed, at, offset, [&lie].into_iter()).unwrap();
            out.push(buf.as_slice().to_vec());
        }
    }
    let segment = vfs.read(&dir().join(segment_name(0)), 1 << 20).unwrap();
    out.extend(segment.chunks(PAGE).take(5).map(<[u8]>::to_vec));
    let header = SegmentHeader { number: 0, bytes: SEGMENT, origin: origin(), salt: [0; 32] };
    out.push(header.encode().as_slice().to_vec());
    out
}

#[test]
fn frames_inside_payloads_never_become_entries() {
    let base = with_frames(2);
    for forged in forgeries(&base) {
        // So that the forgery lies on a page of the journal: header, prefixes and entry come
        // before.
        let mut last = Payload::new(b"entry 2".to_vec());
        let before = frame::FRAME_HEADER_BYTES + 4 + last.entry.len() + 4;
        let mut object = vec![0; PAGE - before];
        object.extend(&forged);
        object.extend(&forged);
        last.objects.push((Hash::of(&object), object));
        assert_eq!(last.frame_bytes(), 3 * PAGE);
        for torn in [
            Torn::Sectors(0xff_ff_00),
            Torn::Sectors(0x00_ff_00),
            Torn::Sectors(0xff_00_00),
            Torn::Sectors(0xff_ff_fe),
            Torn::Sectors(0x01_01_00),
            Torn::Sectors(0xff_ff_01),
            Torn::Sectors(0xff_ff_7f),
            Torn::Prefix(2 * PAGE),
            Torn::Prefix(3 * PAGE - 1),
        ] {
            crash_and_recover(&base, 2, &last, torn);
        }
    }
}

#[test]
fn a_torn_tail_that_recovery_itself_is_torn_on() {
    let base = with_frames(2);
    let (found, _) = find(&base).unwrap();
    let mut journal = writer(&base, found);
    let torn = Fault::Crash(Torn::Sectors(0b1110));
    base.plan(Some(Plan { path: ".seg".into(), at: 0, fault: torn }));
    assert!(journal.write([&payload(2, 5_000)].into_iter()).is_err());
    drop(journal);
    let base = base.after_crash(Survive::Nothing);
    for at in 0.. {
        for (torn, survive) in [
            (Torn::Prefix(0), Survive::Nothing),
            (Torn::Prefix(700), Survive::All),
            (Torn::Sectors(0b10), Survive::Some(at)),
        ] {
            let vfs = base.fork();
            vfs.plan(Some(Plan { path: "/".into(), at, fault: Fault::Crash(torn) }));
            let first = find(&vfs);
            if !vfs.is_crashed() {
                assert!(at > 3 && first.is_ok(), "recovery does more than {at} operations");
                return;
            }
            let vfs = vfs.after_crash(survive);
            let (found, frames) = find(&vfs).unwrap();
            assert_eq!((entries(&frames), found.at.index), (expect(2), 2));
            writer(&vfs, found).write([&payload(2, 0)].into_iter()).unwrap();
            assert_eq!(entries(&find(&vfs).unwrap().1), expect(3));
        }
    }
}

#[test]
fn a_crash_at_every_operation_across_segments() {
    // Making a segment, turning to it, filling it: many times over.
    for at in 0..90 {
        for (torn, survive) in [
            (Torn::Prefix(100), Survive::Nothing),
            (Torn::Prefix(4_096), Survive::All),
            (Torn::Sectors(0b1_0110), Survive::Some(at + 1)),
        ] {
            let vfs = fresh();
            vfs.plan(Some(Plan { path: "/".into(), at, fault: Fault::Crash(torn) }));
            let mut acknowledged = 0;
            if let Ok((found, _)) = find(&vfs) {
                let mut journal = writer(&vfs, found);
                for n in 0..40 {
                    let payload = payload(n, (n as usize * 2_777) % 9_000);
                    if journal.write([&payload].into_iter()).is_err() {
                        break;
                    }
                    acknowledged = n + 1;
                }
            }
            let vfs = vfs.after_crash(survive);
            let (found, frames) = find(&vfs).unwrap_or_else(|error| panic!("{at}: {error}"));
            let count = entries(&frames).len() as u64;
            assert!(count >= acknowledged && count <= acknowledged + 1, "{at} {survive:?}");
            assert_eq!(entries(&frames), expect(count));
            let mut journal = writer(&vfs, found);
            for n in count..count + 12 {
                journal.write([&payload(n, 6_000)].into_iter()).unwrap();
            }
            drop(journal);
            assert_eq!(entries(&find(&vfs).unwrap().1), expect(count + 12));
        }
    }
}

/// The last byte that any frame uses, and where the last frame begins.
fn extent(vfs: &SimVfs) -> (usize, usize) {
    let bytes = vfs.read(&dir().join(segment_name(0)), 1 << 20).unwrap();
    let end = bytes.iter().rposition(|byte| *byte != 0).unwrap() + 1;
    let magic = |page: &[u8]| page.starts_with(b"bullafr1");
    let last = bytes.chunks(PAGE).rposition(magic).unwrap() * PAGE;
    (end, last)
}

#[test]
fn damage_that_no_crash_explains_is_refused() {
    let base = with_frames(4);
    let path = dir().join(segment_name(0));
    let (end, last) = extent(&base);
    for at in (0..end).filter(|at| at % 4_096 < 200 || at % 97 == 0) {
        let vfs = base.fork();
        vfs.tamper(&path, |bytes| bytes[at] ^= 0x10).unwrap();
        let before = vfs.read(&path, 1 << 20).unwrap();
        let result = find(&vfs);
        if at < last {
            let error = result.err().unwrap_or_else(|| panic!("byte {at} may not change"));
            assert!(matches!(error, RecoverError::Corrupt { .. }), "{error}");
            assert_eq!(vfs.read(&path, 1 << 20).unwrap(), before, "nothing is changed");
        } else {
            // Alike to a torn write; the published checkpoint tells whether it was one.
            assert_eq!(entries(&result.unwrap().1), expect(3));
        }
    }
}

#[test]
fn files_that_are_missing_cut_or_foreign_are_refused() {
    let vfs = with_frames(30);
    let corrupt = |vfs: &SimVfs| match find(vfs) {
        Err(RecoverError::Corrupt { why, .. }) => why,
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("was opened"),
    };
    let cut = vfs.fork();
    cut.tamper(&dir().join(segment_name(1)), |bytes| bytes.truncate(5 * PAGE)).unwrap();
    assert_eq!(corrupt(&cut), "the segment has a wrong length");
    let gone = vfs.fork();
    gone.remove(&dir().join(segment_name(1))).unwrap();
    assert_eq!(corrupt(&gone), "a segment is missing");
    let header = vfs.fork();
    header.tamper(&dir().join(segment_name(1)), |bytes| bytes[20] ^= 1).unwrap();
    assert_eq!(corrupt(&header), "the segment has no valid header");
    let swapped = vfs.fork();
    let one = swapped.read(&dir().join(segment_name(1)), 1 << 20).unwrap();
    swapped.tamper(&dir().join(segment_name(2)), |bytes| *bytes = one).unwrap();
    assert_eq!(corrupt(&swapped), "the segment has no valid header");
    let blanked = vfs.fork();
    blanked.tamper(&dir().join(segment_name(0)), |bytes| bytes[PAGE..].fill(0)).unwrap();
    assert_eq!(corrupt(&blanked), "a frame does not follow the one before it");
    let foreign: Arc<dyn Vfs> = Arc::new(vfs.fork());
    let other = Hash::of(b"other");
    let result = recover(&foreign, &dir(), Path::new("/quarantine"), other, &mut |_, _| Ok(()));
    assert!(matches!(result, Err(RecoverError::Foreign { .. })));

    // The first segments may be gone: the archive has them.
    let pruned = vfs.fork();
    pruned.remove(&dir().join(segment_name(0))).unwrap();
    let (found, frames) = find(&pruned).unwrap();
    assert!(frames[0].index > 0);
    assert_eq!(found.at.index, 30);
}

#[test]
fn after_an_error_nothing_is_written_again() {
    for (at, what) in [(0, io::ErrorKind::Other), (0, io::ErrorKind::ReadOnlyFilesystem)] {
        let vfs = with_frames(2);
        let (found, _) = find(&vfs).unwrap();
        let mut journal = writer(&vfs, found);
        vfs.plan(Some(Plan { path: ".seg".into(), at, fault: Fault::Error(what) }));
        let first = journal.write([&payload(2, 0)].into_iter()).unwrap_err();
        let ops = vfs.ops();
        for _ in 0..3 {
            assert_eq!(journal.write([&payload(2, 0)].into_iter()).unwrap_err(), first);
        }
        assert_eq!(vfs.ops(), ops);
        drop(journal);
        assert_eq!(entries(&find(&vfs).unwrap().1), expect(2));
    }
}

#[test]
fn the_tail_is_read_beside_the_writer() {
    let vfs = with_frames(6);
    let mut tail = Tail::open(&vfs, &dir(), 0, PAGE as u64).unwrap().unwrap();
    let frame = tail.next(4).unwrap().unwrap();
    assert_eq!((frame.index, frame.entries.len()), (4, 1));
    assert_eq!(tail.next(5).unwrap().unwrap().index, 5);
    assert_eq!(tail.next(6).unwrap(), None);
    assert!(Tail::open(&vfs, &dir(), 77, PAGE as u64).unwrap().is_none());
}

#[test]
fn room_is_never_promised_twice() {
    let vfs = fresh();
    let (found, _) = find(&vfs).unwrap();
    let journal = writer(&vfs, found);
    let room = journal.room().clone();
    // One segment but for its header, two spares but for header and waste.
    let capacity = SEGMENT - PAGE as u64 + 2 * (SEGMENT - PAGE as u64 - WASTE);
    assert!(!room.take(capacity + 1, 0));
    assert!(!room.take(capacity, 1));
    assert!(room.take(capacity, 0));
    assert!(!room.take(1, 0));
    room.give_back(capacity);
    assert!(room.take(capacity - 10, 10));
}

#[test]
fn there_is_room_once_the_supply_has_settled() {
    for _ in 0..50 {
        let vfs = SimVfs::new();
        vfs.create_dir(Path::new("/journal"), Privacy::Private).unwrap();
        let room = Arc::new(Room::default());
        let supply = Supply::start(making(&vfs), room.clone(), vec![], 1).unwrap();
        supply.wait_settled();
        assert!(room.take(PAGE as u64, 0), "no room, and the disk is empty");
        vfs.set_capacity(Some(vfs.used()));
    }
}
