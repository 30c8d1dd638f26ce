//! Telephone numbers: ITU-T E.164 with a plus, the North American plan as it is written, and
//! national numbers where a word says so.

use super::{
    Finding, Kind,
    numbers::{Group, Seg, Seps, alone},
    view::{View, Words, found},
};

const WORDS: Words<'_> = Words::new(&[
    "phone",
    "tel",
    "t##l",
    "mobile",
    "mob",
    "cell",
    "fax",
    "call",
    "whatsapp",
    "sms",
    "dial",
    "hotline",
    "ring",
    "text me",
    "contact",
    "telefon",
    "handy",
    "rufnummer",
    "telefono",
    "movil",
    "mobil",
    "numero",
    "portable",
    "reach me",
    "gsm",
    "ph ",
    "ph:",
]);
/// What numbers with dashes or spaces also are.
const NO_WORDS: Words<'_> = Words::new(&[
    "order",
    "invoice",
    "sku",
    "part",
    "serial",
    "isbn",
    "version",
    "build",
    "ticket",
    "ref",
    "account",
    "acct",
    "tracking",
    "uuid",
    "guid",
    "item",
    "model",
    "batch",
    "id ",
    "id:",
    "hash",
    "port",
    "timestamp",
    "epoch",
    "range",
    "rows",
    "pages",
    "between",
    "iban",
    "route",
    "zip",
]);

/// Country codes of one and two digits; all others have three.
fn country_digits(digits: &[u8]) -> Option<usize> {
    match digits {
        [b'1' | b'7', ..] => Some(1),
        [b'0', ..] => None,
        [a, b, ..] => {
            let two = u32::from(a - b'0') * 10 + u32::from(b - b'0');
            let short = matches!(
                two,
                20 | 27 | 30..=34 | 36 | 39..=41 | 43..=49 | 51..=58 | 60..=66 | 81 | 82 | 84 | 86
                    | 90..=95 | 98
            );
            // Codes that were never assigned.
            if matches!(two, 28 | 83 | 89 | 99) && two != 99 {
                return None;
            }
            Some(if short { 2 } else { 3 })
        }
        _ => None,
    }
}

fn digits_of(text: &[u8]) -> ([u8; 16], usize) {
    let (mut out, mut len) = ([0; 16], 0);
    for byte in text.iter().filter(|b| b.is_ascii_digit()) {
        if let Some(to) = out.get_mut(len) {
            *to = *byte;
        }
        len += 1;
    }
    (out, len)
}

/// Groups of digits from `at` on, with single spaces, dots, dashes and pairs of parentheses
/// between.
fn stretch(view: &View<'_>, at: usize) -> usize {
    let (mut end, mut digits, mut open) = (at, 0, false);
    let mut i = at;
    while digits < 16 {
        let run = view.run(i, 16, |b| b.is_ascii_digit());
        if run == 0 {
            break;
        }
        digits += run;
        i += run;
        end = i;
        if open && view.at(i) == b')' {
            i += 1;
            end = i;
            open = false;
        }
        if matches!(view.at(i), b' ' | b'-' | b'.' | b'/') {
            i += 1;
        }
        if !open && view.at(i) == b'(' {
            i += 1;
            open = true;
        }
    }
    end
}

/// With a plus, in any grouping. `start` is at the first digit.
fn international(view: &View<'_>, start: usize) -> Option<usize> {
    let mut end = stretch(view, start);
    // Groups that go on as something else: as many as the plan has are taken.
    let fits = loop {
        let (digits, len) = digits_of(view.slice(start, end));
        let most = if digits.first() == Some(&b'1') { 11 } else { 15 };
        if len <= most {
            let digits = digits.get(..len)?;
            let code = country_digits(digits)?;
            break match digits {
                [b'1', area, ..] => len == 11 && *area >= b'2',
                [b'1', ..] => false,
                _ => len >= code + 6 && len >= 8,
            };
        }
        let back = view.run_back(end, 32, |b| b.is_ascii_digit());
        end -= back;
        end -= view.run_back(end, 2, |b| !b.is_ascii_digit());
        if end <= start {
            return None;
        }
    };
    let end = extended(view, end);
    (fits && !view.at(end).is_ascii_alphanumeric()).then_some(end)
}

/// How strictly the plan is kept to: where the form or a word says that it is a number, exchanges
/// that do not exist pass, as they stand in texts and tests.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Plan {
    Strict,
    Loose,
}

fn nanp(view: &View<'_>, start: usize, end: usize, plan: Plan) -> bool {
    let (digits, len) = digits_of(view.slice(start, end));
    let ten = match digits.get(..len) {
        Some([b'1', rest @ ..]) if len == 11 => rest,
        Some(all) if len == 10 => all,
        _ => return false,
    };
    let [a, b, c, d, e, f, ..] = ten else { return false };
    let area = *a >= b'2' && !(*b == b'1' && *c == b'1') && *b != b'9';
    let exchange = *d >= b'2' && !(*e == b'1' && *f == b'1');
    area && (exchange || plan == Plan::Loose)
}

/// The end with an extension: `x123`, `ext. 45`.
fn extended(view: &View<'_>, end: usize) -> usize {
    for mark in [&b"x"[..], b" x", b" ext. ", b" ext ", b" ext", b" Ext. "] {
        if view.slice(end, end + mark.len()) == mark {
            let digits = view.run(end + mark.len(), 7, |b| b.is_ascii_digit());
            let stop = end + mark.len() + digits;
            if (1..=6).contains(&digits) && !view.at(stop).is_ascii_alphanumeric() {
                return stop;
            }
        }
    }
    end
}

/// A number that begins at a run of digits. Where it begins and ends.
pub fn number(view: &View<'_>, group: &Group<'_>, seg: &Seg) -> Option<(usize, usize)> {
    let start = seg.start;
    if view.before(start) == b'+' && !view.before(start - 1).is_ascii_alphanumeric() {
        return international(view, start).map(|end| (start - 1, end));
    }
    if group.led != 0 && group.led != b' ' {
        return None;
    }
    if seg.len == 4 && date_like(view, start) {
        return None;
    }
    if matches!(seg.len, 1 | 3)
        && let Some(end) = american(view, group, seg)
    {
        return Some((start, end));
    }
    // `00` and a country, or a national number, where a word says that it is one.
    let end = stretch(view, start);
    let (digits, len) = digits_of(view.slice(start, end));
    let abroad = digits.first() == Some(&b'0') && digits.get(1) == Some(&b'0');
    let national = digits.first() == Some(&b'0') || nanp(view, start, end, Plan::Loose);
    let grouped = group.segs.len() > 1 && seg.sep != b'/' && seg.len <= 5;
    let fits = if abroad {
        (10..=15).contains(&len)
    } else if national {
        (9..=12).contains(&len)
    } else {
        grouped && (8..=11).contains(&len) || !grouped && (9..=11).contains(&len)
    };
    // Words are looked for last: that costs most.
    let fits = fits
        && digits.iter().take(len).any(|d| Some(d) != digits.first())
        && alone(view, start, end)
        && view.said_before(start, 40, &WORDS)
        && !no_other(view, start);
    fits.then_some((start, end))
}

/// `212-555-0123`, `1.212.555.0123`. Where it ends.
fn american(view: &View<'_>, group: &Group<'_>, seg: &Seg) -> Option<usize> {
    let start = seg.start;
    let shaped = group
        .shape(&[3, 3, 4], Seps::One(b"-."))
        .or_else(|| group.shape(&[1, 3, 3, 4], Seps::One(b"-.")))
        .or_else(|| group.shape(&[1, 3, 3, 4], Seps::Exactly(b" --")));
    let end = shaped.or_else(|| group.shape(&[3, 3, 4], Seps::One(b" ")))?;
    let stop = extended(view, end);
    if !nanp(view, start, end, Plan::Loose) || !alone(view, start, stop) {
        return None;
    }
    let strict = shaped.is_some() && nanp(view, start, end, Plan::Strict);
    let said = view.said_before(start, 40, &WORDS) || view.near(stop, stop, &WORDS);
    (said || strict && !view.said_before(start, 24, &NO_WORDS)).then_some(stop)
}

/// A word that says that it is something else stands nearer than one that says it is a number.
fn no_other(view: &View<'_>, start: usize) -> bool {
    view.said_before(start, 12, &NO_WORDS) && !view.said_before(start, 12, &WORDS)
}

/// `2024-05-06`
pub fn date_like(view: &View<'_>, start: usize) -> bool {
    let text = view.slice(start, start + 10);
    let digit = |i: usize| text.get(i).is_some_and(u8::is_ascii_digit);
    let year = matches!(text.get(..2), Some(b"19" | b"20"));
    year && (0..4).all(digit)
        && matches!(text.get(4), Some(b'-' | b'/' | b'.'))
        && digit(5)
        && digit(6)
        && matches!(text.get(7), Some(b'-' | b'/' | b'.'))
}

/// `(212) 555-0123` and `+44 (0) 20 7946 0958`: digits in parentheses at `start..end`. Where to go
/// on.
pub fn in_parens(
    view: &View<'_>,
    start: usize,
    end: usize,
    out: &mut Vec<Finding>,
) -> Option<usize> {
    if view.before(start) != b'(' || end - start > 6 {
        return None;
    }
    let open = start - 1;
    // A country before it.
    let space = view.run_back(open, 1, |b| b == b' ' || b == b'-');
    let code = view.run_back(open - space, 4, |b| b.is_ascii_digit());
    let mut head = open - space - code;
    if code > 0 {
        // More groups of it, as in `+44 20(7946)0958`.
        let more = view.run_back(head, 8, |b| b.is_ascii_digit() || b" -./".contains(&b));
        if view.before(head - more) == b'+' && view.at(head - more).is_ascii_digit() {
            head -= more;
        }
    }
    if code > 0 && view.before(head) == b'+' {
        let stop = international(view, head)?;
        found(out, head - 1, stop, Kind::Phone);
        return Some(stop);
    }
    let mut at = end + 1;
    if matches!(view.at(at), b' ' | b'-') {
        at += 1;
    }
    let stop = if view.at(at).is_ascii_digit() { stretch(view, at) } else { return None };
    // The long-distance digit of America, and of Russia.
    let trunk = code == 1 && matches!(view.at(head), b'1' | b'8');
    let begin = if trunk { head } else { open };
    let outer = view.before(begin);
    if outer.is_ascii_alphanumeric() || view.at(extended(view, stop)).is_ascii_alphanumeric() {
        return None;
    }
    let (_, len) = digits_of(view.slice(begin, stop));
    let said = view.said_before(begin, 40, &WORDS);
    let fits = nanp(view, open, stop, Plan::Loose) && end - start == 3
        || said && (9..=12).contains(&len) && view.at(start) == b'0'
        || said && trunk && len == 11;
    if !fits {
        return None;
    }
    let stop = extended(view, stop);
    found(out, begin, stop, Kind::Phone);
    Some(stop)
}
