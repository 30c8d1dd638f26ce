//! Mutations of seeds: small edits, splices, and numbers that formats choke on.

/// SplitMix64: small, seeded, good enough to choose edits.
#[derive(Clone, Debug)]
pub struct Random(u64);

/// What is never exceeded.
const BYTES_MAX: usize = 1 << 16;

const NUMBERS: [u32; 12] =
    [0, 1, 3, 4, 0x7f, 0xff, 0x100, 0x7fff, 0xffff, 0x3fff_ffff, 0x7fff_ffff, 0xffff_ffff];

const WORDS: [&[u8]; 18] = [
    b"\0",
    b"\r\n",
    b"'",
    b"\"",
    b"\\",
    b"--",
    b"/*",
    b"*/",
    b"$$",
    b";",
    b"(",
    b"\xff\xfe",
    b"\xc0\xa7",
    b"{",
    b"[",
    b".",
    b"\n\n\xe2\x80\x94 ",
    b"U&\"",
];

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Below `limit`; 0 for 0.
    pub fn below(&mut self, limit: usize) -> usize {
        if limit == 0 { 0 } else { usize::try_from(self.draw() % limit as u64).unwrap_or(0) }
    }
}

/// A few edits of one of the seeds.
pub fn mutate(random: &mut Random, seeds: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = seeds.get(random.below(seeds.len())).cloned().unwrap_or_default();
    for _ in 0..=random.below(6) {
        edit(random, &mut bytes, seeds);
        bytes.truncate(BYTES_MAX);
    }
    bytes
}

fn edit(random: &mut Random, bytes: &mut Vec<u8>, seeds: &[Vec<u8>]) {
    let at = random.below(bytes.len() + 1);
    let end = (at + random.below(16)).min(bytes.len());
    match random.below(9) {
        0 => {
            if let Some(byte) = bytes.get_mut(at) {
                *byte ^= 1 << random.below(8);
            }
        }
        1 => {
            if let Some(byte) = bytes.get_mut(at) {
                *byte = random.draw() as u8;
            }
        }
        2 => drop(bytes.drain(at..end)),
        3 => {
            let copy = bytes.get(at..end).unwrap_or_default().to_vec();
            let to = random.below(bytes.len() + 1);
            drop(bytes.splice(to..to, copy));
        }
        4 => {
            let word = WORDS[random.below(WORDS.len())];
            drop(bytes.splice(at..at, word.iter().copied()));
        }
        5 => {
            let number = NUMBERS[random.below(NUMBERS.len())].to_be_bytes();
            for (slot, byte) in bytes.iter_mut().skip(at).zip(number) {
                *slot = byte;
            }
        }
        6 => bytes.truncate(at),
        7 => {
            let other = seeds.get(random.below(seeds.len())).map_or(&[][..], Vec::as_slice);
            let from = random.below(other.len() + 1);
            bytes.truncate(at);
            bytes.extend_from_slice(other.get(from..).unwrap_or_default());
        }
        _ => {
            let piece = bytes.get(at..end).unwrap_or_default().to_vec();
            let times = random.below(200);
            drop(bytes.splice(at..at, piece.repeat(times)));
        }
    }
}
