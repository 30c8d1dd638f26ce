//! Payment cards: ISO/IEC 7812 issuer ranges and lengths, Luhn.

use super::{
    numbers::{Digits, Group, Seg, Seps, alone, luhn},
    view::{View, Words},
};

/// Issuer ranges: the first six digits from and to, and the lengths.
const ISSUERS: &[(u64, u64, &[usize])] = &[
    (400_000, 499_999, &[13, 16, 19]),
    (510_000, 559_999, &[16]),
    (222_100, 272_099, &[16]),
    (340_000, 349_999, &[15]),
    (370_000, 379_999, &[15]),
    (300_000, 305_999, &[14, 16]),
    (309_500, 309_599, &[14, 16]),
    (360_000, 369_999, &[14]),
    (380_000, 399_999, &[14, 16]),
    (352_800, 358_999, &[16, 17, 18, 19]),
    (601_100, 601_199, &[16, 19]),
    (622_126, 622_925, &[16, 17, 18, 19]),
    (620_000, 629_999, &[16, 17, 18, 19]),
    (644_000, 659_999, &[16, 19]),
    (810_000, 817_199, &[16, 17, 18, 19]),
    (500_000, 509_999, &[13, 14, 15, 16, 17, 18, 19]),
    (560_000, 589_999, &[13, 14, 15, 16, 17, 18, 19]),
    (630_400, 630_499, &[13, 14, 15, 16, 17, 18, 19]),
    (670_000, 679_999, &[13, 14, 15, 16, 17, 18, 19]),
    (220_000, 220_499, &[16, 17, 18, 19]),
    (979_200, 979_299, &[16]),
    (600_000, 609_999, &[16]),
    (817_200, 829_999, &[16]),
];

/// How cards are printed.
const CARD_SHAPES: &[&[usize]] = &[
    &[4, 4, 4, 4],
    &[4, 4, 4, 4, 3],
    &[4, 6, 5],
    &[4, 6, 4],
    &[4, 4, 4, 1],
    &[4, 4, 4, 4, 2],
    &[4, 4, 5],
    &[6, 13],
    &[8, 8],
    &[6, 10],
    &[4, 4, 4, 2],
];

const CARD_WORDS: Words<'_> = Words::new(&[
    "card",
    "credit",
    "debit",
    "visa",
    "mastercard",
    "amex",
    "pan",
    "karte",
    "carte",
    "tarjeta",
    "maestro",
    "discover",
    "cc ",
]);
/// Numbers as long as cards that are none.
const NO_CARD_WORDS: Words<'_> = Words::new(&[
    "imei",
    "iccid",
    "tracking",
    "order",
    "invoice",
    "serial",
    "batch",
    "isbn",
    "ean",
    "gtin",
    "account no",
    "ticket",
    "reference",
    "txn",
    "transaction id",
    "trace",
    "timestamp",
    "snowflake",
    "parcel",
    "shipment",
    "barcode",
    "meter",
    "build",
    "uuid",
    "id=",
]);

/// A card that begins at a run of digits. Where it ends.
pub fn card(view: &View<'_>, group: &Group<'_>, seg: &Seg) -> Option<usize> {
    let (start, end, plain) = if (13..=19).contains(&seg.len) {
        (seg.start, seg.end(), true)
    } else {
        let shape =
            CARD_SHAPES.iter().filter_map(|lens| group.shape(lens, Seps::One(b" -."))).max();
        match shape {
            Some(end) => (seg.start, end, false),
            None => return spaced_card(view, group, seg),
        }
    };
    let before = view.before(start);
    if plain && group.led != 0 && group.led != b' ' && group.led != b'/' {
        return None;
    }
    let fits = if plain {
        alone(view, start, end)
    } else {
        let after = view.at(end);
        !(after.is_ascii_alphanumeric() || before == b'.' || before == b'-' && group.led == b'-')
    };
    if !fits || !is_card(view.slice(start, end)) {
        return None;
    }
    // As long as a bar code, and cards of that length are gone; or the end of something longer.
    let rest = !plain && group.led != 0 && end - start < 18;
    if (rest || end - start == 13) && !view.near(start, end, &CARD_WORDS) {
        return None;
    }
    let no =
        view.said_before(start, 32, &NO_CARD_WORDS) && !view.said_before(start, 32, &CARD_WORDS);
    (!no).then_some(end)
}

/// Split up in any other way, with a word that says that it is a card.
fn spaced_card(view: &View<'_>, group: &Group<'_>, seg: &Seg) -> Option<usize> {
    let sep = seg.sep;
    if !matches!(sep, b' ' | b'-' | b'.') || group.led == sep {
        return None;
    }
    let mut digits = 0;
    let mut end = None;
    for part in group.segs {
        digits += part.len;
        if digits > 19 {
            break;
        }
        if digits >= 13 && is_card(view.slice(seg.start, part.end())) {
            end = Some(part.end());
        }
        if part.sep != sep {
            break;
        }
    }
    let end = end?;
    (!view.at(end).is_ascii_alphanumeric() && view.near(seg.start, end, &CARD_WORDS)).then_some(end)
}

fn is_card(text: &[u8]) -> bool {
    let Some(digits) = Digits::of(text) else { return false };
    let all = digits.as_slice();
    if !(13..=19).contains(&all.len()) || !luhn(all) {
        return false;
    }
    if digits.is_one_digit() {
        return false;
    }
    let head = digits.number(0, 6);
    ISSUERS
        .iter()
        .any(|(from, to, lens)| (*from..=*to).contains(&head) && lens.contains(&all.len()))
}
