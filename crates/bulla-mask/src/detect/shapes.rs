//! What can begin at a run of digits, by what is seen at once: how long it is, what stands behind
//! it, and how long the next run is. Most numbers are nothing that is looked for, and a look into a
//! table says so.
//!
//! The table says what is possible, never that something is there: each kind checks its own form.

use super::{Kind, kind::Set};

/// What stands behind a run of digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Nothing that a number goes on with.
    End,
    Letter,
    /// A dash, and no digit behind it.
    Tail,
    /// A separator and another run of digits.
    Space,
    Dash,
    Dot,
    Slash,
    Plus,
}

/// How many of them there are.
const NEXTS: usize = 8;
/// Longest first run that anything begins with.
const FIRST_MAX: usize = 19;
/// Second runs of this length and longer are alike.
const SECOND_MAX: usize = 15;

impl Next {
    /// By the two bytes behind the run.
    #[inline]
    pub fn of(after: u8, second: u8) -> Self {
        let digit = second.is_ascii_digit();
        match after {
            b'-' if !digit => Self::Tail,
            b'A'..=b'Z' | b'a'..=b'z' => Self::Letter,
            _ if !digit => Self::End,
            b' ' => Self::Space,
            b'-' => Self::Dash,
            b'.' => Self::Dot,
            b'/' => Self::Slash,
            b'+' => Self::Plus,
            _ => Self::End,
        }
    }
}

/// A kind can begin with a run of so many digits, then one of these, then a run of so many.
type Rule = (Kind, (usize, usize), &'static [Next], (usize, usize));

/// Stands by itself: nothing behind it makes it longer.
const PLAIN: &[Next] = &[Next::End, Next::Tail, Next::Space, Next::Slash, Next::Plus];
const ANY: (usize, usize) = (0, SECOND_MAX);

const fn just(len: usize) -> (usize, usize) {
    (len, len)
}

const RULES: &[Rule] = {
    use Next::{Dash, Dot, Letter, Plus, Slash, Space, Tail};
    &[
        (Kind::Card, (13, 19), PLAIN, ANY),
        (Kind::Card, (1, 12), &[Space, Dash, Dot], ANY),
        (Kind::UsSsn, just(3), &[Space, Dash, Dot], just(2)),
        (Kind::UsSsn, just(9), PLAIN, ANY),
        (Kind::BrCpf, just(3), &[Dot], just(3)),
        (Kind::BrCpf, just(11), PLAIN, ANY),
        (Kind::ChAhv, just(3), &[Space, Dot], just(4)),
        (Kind::ChAhv, just(13), PLAIN, ANY),
        (Kind::FrNir, just(1), &[Space, Dot, Dash], just(2)),
        (Kind::FrNir, just(13), &[Space, Dash], just(2)),
        (Kind::FrNir, just(15), PLAIN, ANY),
        (Kind::FrNir, just(6), &[Letter], ANY),
        (Kind::BeNrn, just(2), &[Space, Dot, Dash], just(2)),
        (Kind::BeNrn, just(6), &[Dash], just(3)),
        (Kind::BeNrn, just(11), PLAIN, ANY),
        (Kind::PlPesel, just(11), PLAIN, ANY),
        (Kind::DeTaxId, just(2), &[Space, Slash], just(3)),
        (Kind::DeTaxId, just(11), PLAIN, ANY),
        (Kind::SePn, just(6), &[Dash, Plus], just(4)),
        (Kind::SePn, just(8), &[Dash, Plus], just(4)),
        (Kind::SePn, just(10), PLAIN, ANY),
        (Kind::SePn, just(12), PLAIN, ANY),
        (Kind::InAadhaar, just(4), &[Space, Dash], just(4)),
        (Kind::InAadhaar, just(12), PLAIN, ANY),
        (Kind::CnId, just(18), PLAIN, ANY),
        (Kind::CnId, just(17), &[Letter], ANY),
        (Kind::FiHetu, just(6), &[Dash, Plus], (3, 4)),
        (Kind::FiHetu, just(6), &[Letter], ANY),
        (Kind::EsDni, (7, 8), &[Letter, Tail], ANY),
        (Kind::EsDni, just(2), &[Dot], just(3)),
        (Kind::NlBsn, just(3), &[Space, Dash], just(3)),
        (Kind::NlBsn, just(4), &[Space, Dot], just(2)),
        (Kind::NlBsn, just(9), PLAIN, ANY),
        (Kind::CaSin, just(3), &[Space, Dash], just(3)),
        (Kind::CaSin, just(4), &[Space, Dot], just(2)),
        (Kind::CaSin, just(9), PLAIN, ANY),
        (Kind::AuTfn, just(3), &[Space, Dash], just(3)),
        (Kind::AuTfn, just(4), &[Space, Dot], just(2)),
        (Kind::AuTfn, just(9), PLAIN, ANY),
        (Kind::Ip, (1, 3), &[Dot], (1, 3)),
        (Kind::Phone, (9, 15), PLAIN, ANY),
        (Kind::Phone, (1, 15), &[Space, Dash, Dot, Slash], ANY),
    ]
};

type Seconds = [Set; SECOND_MAX + 1];

static TABLE: [[Seconds; NEXTS]; FIRST_MAX + 1] = table();

#[allow(clippy::indexing_slicing)]
const fn table() -> [[Seconds; NEXTS]; FIRST_MAX + 1] {
    let mut table = [[[Set::NONE; SECOND_MAX + 1]; NEXTS]; FIRST_MAX + 1];
    let mut rule = 0;
    while rule < RULES.len() {
        let (kind, (first, first_max), nexts, (second, second_max)) = RULES[rule];
        let mut a = first;
        while a <= first_max {
            let mut next = 0;
            while next < nexts.len() {
                let mut b = second;
                while b <= second_max {
                    let slot = &mut table[a][nexts[next] as usize][b];
                    *slot = slot.with(kind);
                    b += 1;
                }
                next += 1;
            }
            a += 1;
        }
        rule += 1;
    }
    table
}

/// What can begin with a run of `first` digits, `next`, and a run of `second`.
#[inline]
pub fn begin(first: u32, next: Next, second: u32) -> Set {
    let Some(nexts) = TABLE.get(first as usize) else { return Set::NONE };
    let second = (second as usize).min(SECOND_MAX);
    nexts.get(next as usize).and_then(|seconds| seconds.get(second)).copied().unwrap_or(Set::NONE)
}

/// What can begin with this digit.
#[inline]
pub fn lead(digit: u8) -> Set {
    static LEADS: [Set; 10] = leads();
    LEADS.get(usize::from(digit.wrapping_sub(b'0'))).copied().unwrap_or(Set::NONE)
}

#[allow(clippy::indexing_slicing)]
const fn leads() -> [Set; 10] {
    let mut leads = [Set::ALL; 10];
    let mut digit = 0;
    while digit < leads.len() {
        let mut set = Set::ALL;
        if matches!(digit, 0 | 1 | 7) {
            set = set.without(Kind::Card);
        }
        if digit != 7 {
            set = set.without(Kind::ChAhv);
        }
        if matches!(digit, 0 | 5 | 6 | 9) {
            set = set.without(Kind::FrNir);
        }
        if digit == 0 {
            set = set.without(Kind::DeTaxId);
        }
        if digit < 2 {
            set = set.without(Kind::InAadhaar);
        }
        leads[digit] = set;
        digit += 1;
    }
    leads
}
