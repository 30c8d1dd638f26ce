//! National numbers and bank accounts: by their own checksums and rules.

use super::{
    Finding, Kind,
    kind::Set,
    numbers::{Digits, Group, Seg, Seps, alone, luhn},
    view::{View, Words, found},
};

/// Kinds that begin at a run of digits, or right before it. Where it begins and ends, and what it is.
pub fn numeric(
    view: &View<'_>,
    kinds: &Set,
    group: &Group<'_>,
    seg: &Seg,
) -> Option<(usize, usize, Kind)> {
    let start = seg.start;
    // A shape, standing alone.
    let shaped = |lens: &[usize], seps| {
        let end = group.shape(lens, seps)?;
        let after = view.at(end);
        let tail = matches!(after, b'-') && view.at(end + 1).is_ascii_alphanumeric();
        (!after.is_ascii_alphanumeric()
            && after != b'_'
            && !tail
            && group.led != b'-'
            && group.led != b'.')
            .then_some(end)
    };
    let plain = |len: usize| {
        let end = seg.end();
        (seg.len == len && alone(view, start, end)).then_some(end)
    };
    // Eleven digits are many things, and one in some dozens passes a check.
    let eleven = || plain(11).filter(|_| !view.said_before(start, 24, &NO_ELEVEN_WORDS));
    let digits = |end: usize| Digits::of(view.slice(start, end));
    let ok = |end: Option<usize>, test: &dyn Fn(&Digits) -> bool| {
        end.filter(|end| digits(*end).is_some_and(|d| test(&d)))
    };
    let near = |end: usize, words: &Words<'_>| view.near(start, end, words);

    if kinds.has(Kind::UsSsn) {
        let ssn = |end: Option<usize>| ok(end, &|d| is_ssn(d));
        if let Some(end) = ssn(shaped(&[3, 2, 4], Seps::One(b"-"))) {
            let said = view.said_before(start, 40, &SSN_WORDS);
            if said || !view.said_before(start, 32, &NO_SSN_WORDS) {
                return Some((start, end, Kind::UsSsn));
            }
        }
        let loose = ssn(shaped(&[3, 2, 4], Seps::One(b" .")));
        let loose = loose.or_else(|| ssn(plain(9)));
        if let Some(end) = loose.filter(|end| near(*end, &SSN_WORDS)) {
            return Some((start, end, Kind::UsSsn));
        }
    }
    if kinds.has(Kind::BrCpf) {
        let end = ok(shaped(&[3, 3, 3, 2], Seps::Exactly(b"..-")), &is_cpf)
            .or_else(|| ok(plain(11), &is_cpf).filter(|end| near(*end, &CPF_WORDS)));
        if let Some(end) = end {
            return Some((start, end, Kind::BrCpf));
        }
    }
    if kinds.has(Kind::ChAhv) {
        let end = shaped(&[3, 4, 4, 2], Seps::One(b". ")).or_else(|| plain(13));
        if let Some(end) = ok(end, &|d| d.number(0, 3) == 756 && ean13(d)) {
            return Some((start, end, Kind::ChAhv));
        }
    }
    if kinds.has(Kind::FrNir) {
        let end = shaped(&[1, 2, 2, 2, 3, 3, 2], Seps::One(b" .-"))
            .or_else(|| shaped(&[13, 2], Seps::One(b" -")))
            .or_else(|| plain(15));
        if let Some(end) = ok(end, &is_nir).or_else(|| corsican_nir(view, seg)) {
            return Some((start, end, Kind::FrNir));
        }
    }
    if kinds.has(Kind::BeNrn) {
        let end = shaped(&[2, 2, 2, 3, 2], Seps::Exactly(b"..-."))
            .or_else(|| shaped(&[2, 2, 2, 3, 2], Seps::One(b".- ")))
            .or_else(|| shaped(&[6, 3, 2], Seps::Exactly(b"-.")))
            .or_else(eleven);
        if let Some(end) = ok(end, &is_nrn) {
            return Some((start, end, Kind::BeNrn));
        }
    }
    if kinds.has(Kind::PlPesel)
        && let Some(end) = ok(eleven(), &is_pesel)
    {
        return Some((start, end, Kind::PlPesel));
    }
    if kinds.has(Kind::DeTaxId) {
        let end = shaped(&[2, 3, 3, 3], Seps::One(b" /")).or_else(eleven);
        if let Some(end) = ok(end, &is_de_tax) {
            return Some((start, end, Kind::DeTaxId));
        }
    }
    if kinds.has(Kind::SePn) {
        let end = shaped(&[6, 4], Seps::One(b"-+")).or_else(|| shaped(&[8, 4], Seps::One(b"-+")));
        let end = ok(end, &is_se_pn).or_else(|| {
            ok(plain(12).or_else(|| plain(10)), &is_se_pn).filter(|end| near(*end, &SE_WORDS))
        });
        if let Some(end) = end {
            return Some((start, end, Kind::SePn));
        }
    }
    if kinds.has(Kind::InAadhaar) {
        // One of ten numbers passes: a word may say that it is something else.
        let loose = || !view.said_before(start, 32, &NO_SSN_WORDS) && !in_more(view, group);
        let end = ok(shaped(&[4, 4, 4], Seps::One(b" -")), &is_aadhaar)
            .filter(|end| near(*end, &AADHAAR_WORDS) || loose())
            .or_else(|| ok(plain(12), &is_aadhaar).filter(|end| near(*end, &AADHAAR_WORDS)));
        if let Some(end) = end {
            return Some((start, end, Kind::InAadhaar));
        }
    }
    if kinds.has(Kind::CnId)
        && let Some(end) = cn_id(view, seg)
    {
        return Some((start, end, Kind::CnId));
    }
    if kinds.has(Kind::FiHetu)
        && let Some(end) = fi_hetu(view, seg)
    {
        return Some((start, end, Kind::FiHetu));
    }
    if kinds.has(Kind::EsDni)
        && let Some((begin, end)) = es_dni(view, group, seg)
    {
        return Some((begin, end, Kind::EsDni));
    }
    if kinds.any(&[Kind::NlBsn, Kind::CaSin, Kind::AuTfn]) {
        return nine(view, kinds, group, seg).map(|(end, kind)| (start, end, kind));
    }
    None
}

/// Three groups of four digits are part of a longer number, such as of a card.
fn in_more(view: &View<'_>, group: &Group<'_>) -> bool {
    let start = group.segs.first().map_or(0, |seg| seg.start);
    let before = view.run_back(start.saturating_sub(1), 5, |b| b.is_ascii_alphanumeric());
    let after = group.segs.get(3).map_or(0, |seg| seg.len);
    group.led != 0 && before == 4 || after >= 3
}

const SSN_WORDS: Words<'_> = Words::new(&[
    "ssn",
    "social sec",
    "socialsec",
    "itin",
    "taxpayer",
    "tax id",
    "tin ",
    "soc sec",
    "social number",
]);
const NO_SSN_WORDS: Words<'_> = Words::new(&[
    "order", "part", "sku", "serial", "invoice", "ref", "ticket", "tracking", "model", "item",
    "catalog", "version", "case", "phone", "tel", "isbn", "lot", "range",
]);
const AADHAAR_WORDS: Words<'_> = Words::new(&["aadhaar", "aadhar", "uidai", "uid "]);
const BSN_WORDS: Words<'_> = Words::new(&["bsn", "burgerservice", "sofi", "citizen service"]);
const SIN_WORDS: Words<'_> = Words::new(&[
    "sin ",
    "sin:",
    "sin=",
    "sin\"",
    "nas ",
    "nas:",
    "nas=",
    "social insurance",
    "canad",
    "assurance sociale",
]);
const TFN_WORDS: Words<'_> = Words::new(&["tfn", "tax file"]);
const NO_ELEVEN_WORDS: Words<'_> = Words::new(&[
    "cpf", "order", "part", "sku", "serial", "invoice", "ticket", "tracking", "phone", "tel",
    "mobile", "call", "ext", "fax",
]);
const CPF_WORDS: Words<'_> = Words::new(&["cpf"]);
const SE_WORDS: Words<'_> =
    Words::new(&["personnummer", "personal number", "pnr", "swedish", "samordningsnummer"]);

/// Area, group and serial rules of the SSA; ITINs (IRS) begin with 9.
fn is_ssn(d: &Digits) -> bool {
    let (area, group, serial) = (d.number(0, 3), d.number(3, 5), d.number(5, 9));
    if group == 0 || serial == 0 || area == 0 || area == 666 || d.is_one_digit() {
        return false;
    }
    area < 900 || matches!(group, 50..=65 | 70..=88 | 90..=92 | 94..=99)
}

/// Numbers of nine digits whose checksum one in eleven passes: only with a word nearby.
fn nine(view: &View<'_>, kinds: &Set, group: &Group<'_>, seg: &Seg) -> Option<(usize, Kind)> {
    let end = match seg.len {
        9 => seg.end(),
        8 => return None,
        _ => group
            .shape(&[3, 3, 3], Seps::One(b" -"))
            .or_else(|| group.shape(&[4, 2, 3], Seps::One(b". ")))?,
    };
    if !alone(view, seg.start, end) {
        return None;
    }
    let d = Digits::of(view.slice(seg.start, end))?;
    let near = |words: &Words<'_>| view.near(seg.start, end, words);
    let weighted = |weights: &[i64]| -> i64 {
        d.as_slice().iter().zip(weights).map(|(d, w)| i64::from(*d) * w).sum()
    };
    if kinds.has(Kind::NlBsn)
        && weighted(&[9, 8, 7, 6, 5, 4, 3, 2, -1]) % 11 == 0
        && d.number(0, 9) != 0
        && near(&BSN_WORDS)
    {
        return Some((end, Kind::NlBsn));
    }
    if kinds.has(Kind::CaSin) && luhn(d.as_slice()) && d.number(0, 1) != 0 && near(&SIN_WORDS) {
        return Some((end, Kind::CaSin));
    }
    if kinds.has(Kind::AuTfn)
        && weighted(&[1, 4, 3, 7, 5, 8, 6, 9, 10]) % 11 == 0
        && d.number(0, 9) != 0
        && near(&TFN_WORDS)
    {
        return Some((end, Kind::AuTfn));
    }
    None
}

fn is_date(year: u64, month: u64, day: u64) -> bool {
    let days = match month {
        2 => 29,
        4 | 6 | 9 | 11 => 30,
        1..=12 => 31,
        _ => return false,
    };
    (1..=days).contains(&day) && year < 2200
}

fn is_cpf(d: &Digits) -> bool {
    let all = d.as_slice();
    if all.len() != 11 || all.windows(2).all(|w| w.first() == w.get(1)) {
        return false;
    }
    let check = |n: usize| -> u8 {
        let sum: u32 =
            all.iter().take(n).zip((2..=n as u32 + 1).rev()).map(|(d, w)| u32::from(*d) * w).sum();
        let rest = sum * 10 % 11;
        if rest == 10 { 0 } else { rest as u8 }
    };
    all.get(9) == Some(&check(9)) && all.get(10) == Some(&check(10))
}

fn ean13(d: &Digits) -> bool {
    let all = d.as_slice();
    let sum: u32 =
        all.iter().enumerate().map(|(i, d)| u32::from(*d) * if i % 2 == 0 { 1 } else { 3 }).sum();
    all.len() == 13 && sum.is_multiple_of(10)
}

fn is_nir(d: &Digits) -> bool {
    let month = d.number(3, 5);
    d.as_slice().len() == 15
        && matches!(d.number(0, 1), 1..=4 | 7 | 8)
        && (matches!(month, 1..=12 | 20 | 30..=42 | 50..=99))
        && 97 - d.number(0, 13) % 97 == d.number(13, 15)
}

/// Born in Corsica: the department is `2A` or `2B`, for which 19 and 18 are counted.
fn corsican_nir(view: &View<'_>, seg: &Seg) -> Option<usize> {
    if !matches!(seg.len, 1 | 6) {
        return None;
    }
    let (mut digits, mut count, mut at) = (0_u64, 0, seg.start);
    while count < 15 {
        let byte = view.at(at);
        at += 1;
        digits = match (count, byte) {
            (6, b'A' | b'a') => digits / 10 * 100 + 19,
            (6, b'B' | b'b') => digits / 10 * 100 + 18,
            (6, _) => return None,
            (_, b'0'..=b'9') => digits * 10 + u64::from(byte - b'0'),
            (1 | 3 | 5 | 7 | 10 | 13, b' ' | b'.' | b'-') => continue,
            _ => return None,
        };
        count += 1;
    }
    let (body, key) = (digits / 100, digits % 100);
    let fits = matches!(digits / 10_u64.pow(14), 1..=2) && 97 - body % 97 == key;
    (fits && alone(view, seg.start, at)).then_some(at)
}

fn is_nrn(d: &Digits) -> bool {
    if d.as_slice().len() != 11 || !is_date(2000, d.number(2, 4), d.number(4, 6)) {
        return false;
    }
    let (body, key) = (d.number(0, 9), d.number(9, 11));
    let old = 97 - body % 97 == key;
    let new = 97 - (2_000_000_000 + body) % 97 == key;
    old || new
}

fn is_pesel(d: &Digits) -> bool {
    let all = d.as_slice();
    // The century is in the month.
    let month = d.number(2, 4) % 20;
    let weights = [1, 3, 7, 9, 1, 3, 7, 9, 1, 3, 1];
    let sum: u32 = all.iter().zip(weights).map(|(d, w)| u32::from(*d) * w).sum();
    all.len() == 11
        && is_date(2000, month, d.number(4, 6))
        && sum.is_multiple_of(10)
        && d.number(0, 11) != 0
}

/// Of the first ten digits exactly one stands twice or three times; ISO 7064 mod 11,10.
fn is_de_tax(d: &Digits) -> bool {
    let all = d.as_slice();
    let Some((check, body)) = all.split_last() else { return false };
    if all.len() != 11 || body.first() == Some(&0) {
        return false;
    }
    let mut counts = [0; 10];
    for digit in body {
        if let Some(count) = counts.get_mut(usize::from(*digit)) {
            *count += 1;
        }
    }
    let several = counts.iter().filter(|n| **n > 1).count();
    if several != 1 || counts.iter().any(|n| *n > 3) {
        return false;
    }
    let mut product = 10;
    for digit in body {
        let mut sum = (u32::from(*digit) + product) % 10;
        if sum == 0 {
            sum = 10;
        }
        product = sum * 2 % 11;
    }
    u32::from(*check) == (11 - product) % 10
}

fn is_se_pn(d: &Digits) -> bool {
    let all = d.as_slice();
    let ten = all.get(all.len().saturating_sub(10)..).unwrap_or_default();
    let at = all.len().saturating_sub(10);
    if at == 2 && !matches!(d.number(0, 2), 18..=20) {
        return false;
    }
    let (month, mut day) = (d.number(at + 2, at + 4), d.number(at + 4, at + 6));
    // Coordination numbers.
    if day > 60 {
        day -= 60;
    }
    ten.len() == 10 && is_date(2000, month, day) && luhn(ten)
}

/// Verhoeff's check.
fn is_aadhaar(d: &Digits) -> bool {
    const D: [[u8; 10]; 10] = [
        [0, 1, 2, 3, 4, 5, 6, 7, 8, 9],
        [1, 2, 3, 4, 0, 6, 7, 8, 9, 5],
        [2, 3, 4, 0, 1, 7, 8, 9, 5, 6],
        [3, 4, 0, 1, 2, 8, 9, 5, 6, 7],
        [4, 0, 1, 2, 3, 9, 5, 6, 7, 8],
        [5, 9, 8, 7, 6, 0, 4, 3, 2, 1],
        [6, 5, 9, 8, 7, 1, 0, 4, 3, 2],
        [7, 6, 5, 9, 8, 2, 1, 0, 4, 3],
        [8, 7, 6, 5, 9, 3, 2, 1, 0, 4],
        [9, 8, 7, 6, 5, 4, 3, 2, 1, 0],
    ];
    const P: [[u8; 10]; 8] = [
        [0, 1, 2, 3, 4, 5, 6, 7, 8, 9],
        [1, 5, 7, 6, 2, 8, 3, 0, 9, 4],
        [5, 8, 0, 3, 7, 9, 6, 1, 4, 2],
        [8, 9, 1, 6, 0, 4, 3, 5, 2, 7],
        [9, 4, 5, 3, 1, 2, 6, 8, 7, 0],
        [4, 2, 8, 6, 5, 7, 3, 9, 0, 1],
        [2, 7, 9, 3, 8, 0, 6, 4, 1, 5],
        [7, 0, 4, 6, 9, 1, 3, 2, 5, 8],
    ];
    let all = d.as_slice();
    if all.len() != 12 || all.first().is_none_or(|d| *d < 2) {
        return false;
    }
    let look = |table: &[[u8; 10]], row: usize, column: u8| {
        table.get(row).and_then(|r| r.get(usize::from(column))).copied().unwrap_or(0)
    };
    all.iter().rev().enumerate().fold(0, |c, (i, d)| look(&D, usize::from(c), look(&P, i % 8, *d)))
        == 0
}

/// GB 11643: region, date of birth, order, ISO 7064 mod 11-2.
fn cn_id(view: &View<'_>, seg: &Seg) -> Option<usize> {
    let end = match (seg.len, view.at(seg.end())) {
        (18, _) => seg.end(),
        (17, b'X' | b'x') => seg.end() + 1,
        _ => return None,
    };
    if !alone(view, seg.start, end) {
        return None;
    }
    let d = Digits::of(view.slice(seg.start, end))?;
    let year = d.number(6, 10);
    if !(1880..2100).contains(&year) || !is_date(year, d.number(10, 12), d.number(12, 14)) {
        return None;
    }
    let weights = [7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2];
    let sum: u32 = d.as_slice().iter().zip(weights).map(|(d, w)| u32::from(*d) * w).sum();
    let check = b"10X98765432".get((sum % 11) as usize)?;
    (view.at(end - 1).to_ascii_uppercase() == *check).then_some(end)
}

/// `ddmmyyCnnnX`: the letter is the rest of division by 31.
fn fi_hetu(view: &View<'_>, seg: &Seg) -> Option<usize> {
    let (start, mark) = (seg.start, seg.start + 6);
    if seg.len != 6 || !matches!(view.at(mark), b'-' | b'+' | b'A'..=b'F' | b'U'..=b'Y') {
        return None;
    }
    if view.run(mark + 1, 4, |b| b.is_ascii_digit()) < 3 {
        return None;
    }
    let end = start + 11;
    let d = Digits::of(view.slice(start, start + 10))?;
    if !is_date(2000, d.number(2, 4), d.number(0, 2)) {
        return None;
    }
    let check = b"0123456789ABCDEFHJKLMNPRSTUVWXY".get((d.number(0, 9) % 31) as usize)?;
    (view.at(end - 1) == *check && alone(view, start, end)).then_some(end)
}

const DNI: &[u8; 23] = b"TRWAGMYFPDXBNJZSQVHLCKE";

/// `12345678Z`, `12345678-Z`, `12.345.678-Z`, `X-1234567-L`.
fn es_dni(view: &View<'_>, group: &Group<'_>, seg: &Seg) -> Option<(usize, usize)> {
    let mut start = seg.start;
    let digits = match seg.len {
        8 => seg.end(),
        2 => group.shape(&[2, 3, 3], Seps::One(b"."))?,
        7 if view.before(start) == b'-' => {
            start -= 2;
            seg.end()
        }
        _ => return None,
    };
    let d = Digits::of(view.slice(seg.start, digits))?;
    let lead = match view.at(start).to_ascii_uppercase() {
        b'0'..=b'9' | b'X' => 0,
        b'Y' => 10_000_000,
        b'Z' => 20_000_000,
        _ => return None,
    };
    dni_letter(view, digits, lead + d.number(0, d.as_slice().len()))
        .filter(|end| alone(view, start, *end))
        .map(|end| (start, end))
}

/// The letter of a number that ends at `at`. Where it ends itself.
fn dni_letter(view: &View<'_>, at: usize, number: u64) -> Option<usize> {
    let at = at + usize::from(view.at(at) == b'-');
    let check = DNI.get((number % 23) as usize)?;
    (view.at(at).to_ascii_uppercase() == *check).then_some(at + 1)
}

/// Kinds that begin with letters right before a run of digits.
pub fn lettered(view: &View<'_>, kinds: &Set, seg: &Seg, out: &mut Vec<Finding>) {
    // Each has two digits at least behind its letters.
    if seg.len < 2 {
        return;
    }
    let letters = view.run_back(seg.start, 8, |b| b.is_ascii_alphabetic());
    let start = seg.start - letters;
    if view.before(start).is_ascii_alphanumeric() || view.before(start) == b'_' {
        return;
    }
    if letters == 2
        && kinds.has(Kind::Iban)
        && let Some(end) = iban(view, start)
    {
        return found(out, start, end, Kind::Iban);
    }
    if letters == 2
        && kinds.has(Kind::UkNino)
        && let Some(end) = nino(view, start, seg.start)
    {
        return found(out, start, end, Kind::UkNino);
    }
    if letters == 6
        && kinds.has(Kind::ItCf)
        && let Some(end) = codice(view, start)
    {
        return found(out, start, end, Kind::ItCf);
    }
    if letters == 1
        && kinds.has(Kind::EsDni)
        && let Some(end) = nie(view, start, seg)
    {
        found(out, start, end, Kind::EsDni);
    }
}

/// The same with a space between: `AB 12 34 56 C`.
pub fn led_by_letters(view: &View<'_>, kinds: &Set, seg: &Seg, out: &mut Vec<Finding>) {
    let Some(start) = seg.start.checked_sub(3) else { return };
    if kinds.has(Kind::UkNino)
        && view.before(seg.start) == b' '
        && view.slice(start, start + 2).iter().all(u8::is_ascii_uppercase)
        && !view.before(start).is_ascii_alphanumeric()
        && let Some(end) = nino(view, start, seg.start)
    {
        found(out, start, end, Kind::UkNino);
    }
}

/// Lengths by country: the registry of ISO 13616.
const IBAN: &[(&[u8; 2], usize)] = &[
    (b"AD", 24),
    (b"AE", 23),
    (b"AL", 28),
    (b"AT", 20),
    (b"AZ", 28),
    (b"BA", 20),
    (b"BE", 16),
    (b"BG", 22),
    (b"BH", 22),
    (b"BI", 27),
    (b"BR", 29),
    (b"BY", 28),
    (b"CH", 21),
    (b"CR", 22),
    (b"CY", 28),
    (b"CZ", 24),
    (b"DE", 22),
    (b"DJ", 27),
    (b"DK", 18),
    (b"DO", 28),
    (b"EE", 20),
    (b"EG", 29),
    (b"ES", 24),
    (b"FI", 18),
    (b"FK", 18),
    (b"FO", 18),
    (b"FR", 27),
    (b"GB", 22),
    (b"GE", 22),
    (b"GI", 23),
    (b"GL", 18),
    (b"GR", 27),
    (b"GT", 28),
    (b"HN", 28),
    (b"HR", 21),
    (b"HU", 28),
    (b"IE", 22),
    (b"IL", 23),
    (b"IQ", 23),
    (b"IS", 26),
    (b"IT", 27),
    (b"JO", 30),
    (b"KW", 30),
    (b"KZ", 20),
    (b"LB", 28),
    (b"LC", 32),
    (b"LI", 21),
    (b"LT", 20),
    (b"LU", 20),
    (b"LV", 21),
    (b"LY", 25),
    (b"MC", 27),
    (b"MD", 24),
    (b"ME", 22),
    (b"MK", 19),
    (b"MN", 20),
    (b"MR", 27),
    (b"MT", 31),
    (b"MU", 30),
    (b"NI", 28),
    (b"NL", 18),
    (b"NO", 15),
    (b"OM", 23),
    (b"PK", 24),
    (b"PL", 28),
    (b"PS", 29),
    (b"PT", 25),
    (b"QA", 29),
    (b"RO", 24),
    (b"RS", 22),
    (b"RU", 33),
    (b"SA", 24),
    (b"SC", 31),
    (b"SD", 18),
    (b"SE", 24),
    (b"SI", 19),
    (b"SK", 24),
    (b"SM", 27),
    (b"SO", 23),
    (b"ST", 25),
    (b"SV", 28),
    (b"TL", 23),
    (b"TN", 24),
    (b"TR", 26),
    (b"UA", 29),
    (b"VA", 22),
    (b"VG", 24),
    (b"XK", 20),
    (b"YE", 30),
];

fn iban(view: &View<'_>, start: usize) -> Option<usize> {
    let country = [view.at(start), view.at(start + 1)].map(|b| b.to_ascii_uppercase());
    let (_, len) = IBAN.iter().find(|(name, _)| **name == country)?;
    let (mut at, mut have) = (start, 0);
    // ISO 7064 mod 97-10, the first four characters counted last.
    let (mut head, mut body) = (0_u32, 0_u32);
    while have < *len {
        let byte = view.at(at);
        if matches!(byte, b' ' | b'-') && have % 4 == 0 && have > 0 {
            at += 1;
            continue;
        }
        let value = char::from(byte).to_digit(36)?;
        if (2..4).contains(&have) && value > 9 {
            return None;
        }
        let part = if have < 4 { &mut head } else { &mut body };
        *part = (*part * if value > 9 { 100 } else { 10 } + value) % 97;
        have += 1;
        at += 1;
    }
    // Appending two letters (four digits) and two digits multiplies by 10^6.
    let rest = (body * (1_000_000 % 97) + head) % 97;
    let after = view.at(at);
    (rest == 1 && !after.is_ascii_alphanumeric() && after != b'_').then_some(at)
}

const NINO_WORDS: Words<'_> = Words::new(&["nino", "ni n", "nin ", "national insurance"]);

/// Prefix rules of HMRC; pairs of digits may have spaces between.
fn nino(view: &View<'_>, start: usize, digits: usize) -> Option<usize> {
    let prefix = [view.at(start), view.at(start + 1)].map(|b| b.to_ascii_uppercase());
    let barred = [*b"BG", *b"GB", *b"KN", *b"NK", *b"NT", *b"TN", *b"ZZ"];
    let bad = |b: u8| matches!(b, b'D' | b'F' | b'I' | b'Q' | b'U' | b'V');
    let [first, second] = prefix;
    if bad(first) || bad(second) || second == b'O' || barred.contains(&prefix) {
        return None;
    }
    let (mut at, mut have) = (digits, 0);
    while have < 6 {
        match view.at(at) {
            b'0'..=b'9' => have += 1,
            b' ' | b'-' if have > 0 && have % 2 == 0 => {}
            _ => return None,
        }
        at += 1;
    }
    if matches!(view.at(at), b' ' | b'-') {
        at += 1;
    }
    let suffix = view.at(at);
    if !matches!(suffix.to_ascii_uppercase(), b'A'..=b'D') || !alone(view, start, at + 1) {
        return None;
    }
    // In small letters it is as likely a part of something.
    let capital = |b: u8| b.is_ascii_uppercase();
    let plain = capital(view.at(start)) && capital(view.at(start + 1)) && capital(suffix);
    (plain || view.near(start, at + 1, &NINO_WORDS)).then_some(at + 1)
}

fn codice(view: &View<'_>, start: usize) -> Option<usize> {
    let end = start + 16;
    let text = view.slice(start, end);
    let shape = b"AAAAAA99A99A999A";
    let fits = text.len() == 16
        && text.iter().zip(shape).all(|(c, s)| match s {
            b'A' => c.is_ascii_alphabetic(),
            // Digits may be letters where two people would share a code.
            _ => c.is_ascii_digit() || b"LMNPQRSTUV".contains(&c.to_ascii_uppercase()),
        });
    if !fits || !alone(view, start, end) {
        return None;
    }
    const ODD: [u32; 26] = [
        1, 0, 5, 7, 9, 13, 15, 17, 19, 21, 2, 4, 18, 20, 11, 3, 6, 8, 12, 14, 16, 10, 22, 25, 24,
        23,
    ];
    let (check, body) = text.split_last()?;
    let sum: u32 = body
        .iter()
        .enumerate()
        .map(|(i, c)| {
            let c = c.to_ascii_uppercase();
            let n = if c.is_ascii_digit() { c - b'0' } else { c - b'A' };
            if i % 2 == 0 { ODD.get(usize::from(n)).copied().unwrap_or(0) } else { u32::from(n) }
        })
        .sum();
    (u32::from(check.to_ascii_uppercase() - b'A') == sum % 26).then_some(end)
}

fn nie(view: &View<'_>, start: usize, seg: &Seg) -> Option<usize> {
    let lead = match view.at(start).to_ascii_uppercase() {
        b'X' => 0,
        b'Y' => 1,
        b'Z' => 2,
        _ => return None,
    };
    if seg.len != 7 {
        return None;
    }
    let d = Digits::of(view.slice(seg.start, seg.end()))?;
    dni_letter(view, seg.end(), lead * 10_000_000 + d.number(0, 7))
        .filter(|end| alone(view, start, *end))
}
