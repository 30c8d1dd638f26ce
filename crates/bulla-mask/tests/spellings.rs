//! However a value is spelled and wherever the text is cut, all of it is masked and nothing else is
//! changed.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use bulla_mask::{Scanner, Stream};
use proptest::prelude::*;

const VALUES: &[(&str, &str, &str)] = &[
    ("card", "", "4111 1111 1111 1111"),
    ("card", "", "3782-822463-10005"),
    ("iban", "", "DE89 3704 0044 0532 0130 00"),
    ("us_ssn", "", "536-90-4399"),
    ("uk_nino", "", "AB123456C"),
    ("fr_nir", "", "2 39 10 86 700 861 59"),
    ("es_dni", "", "X-6387357-"),
    ("it_cf", "", "RSSMRA85T10A562S"),
    ("nl_bsn", "BSN ", "535087688"),
    ("be_nrn", "", "85.07.30-033.28"),
    ("ch_ahv", "", "756.9217.0769.85"),
    ("se_pn", "", "811218-9876"),
    ("fi_hetu", "", "270897-735L"),
    ("br_cpf", "", "439.061.274-35"),
    ("in_aadhaar", "", "2341 2341 2346"),
    ("cn_id", "", "11010519491231002X"),
    ("email", "", "ann.lee+x@mail.example.org"),
    ("phone", "", "+1 (212) 555-0187"),
    ("phone", "tel ", "030/1234567"),
    ("ip", "client ", "203.0.113.80"),
    ("ip", "client ", "2001:db8:a0b:12f0::17"),
    (
        "jwt",
        "",
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9PlFUP0THsR8U",
    ),
    ("cloud_key", "", "AKIAQX7NNPLE2V4ZTY6D"),
    ("vcs_token", "", "ghp_aBcDeFgHiJkLmNoPqRsTuVwXyZ0123456789"),
    ("connection_string", "", "amqp://app:s3cr3tPa55@mq.example.com/orders"),
    ("password", "password: ", "Tr0ub4dor3x9"),
];

const AROUND: &[(&str, &str)] = &[
    ("", ""),
    ("so ", " it is"),
    ("{\"v\":\"", "\",\"n\":17}"),
    ("<v>", "</v>"),
    ("17,\"", "\",2026-11-26"),
    ("2026-11-26T10:14:07Z INFO got ", " in 12 ms"),
    ("grün ", ", 50% & mehr \\ q"),
    ("\u{1b}[31mit is ", "\u{1b}[0m."),
];

#[derive(Debug, Clone, Copy)]
enum Manner {
    Plain,
    Json,
    Percent,
    Entity,
    HexEntity,
    FullWidth,
    ZeroWidth,
    Colours,
    Twice,
    Dashes,
}

const MANNERS: &[Manner] = &[
    Manner::Plain,
    Manner::Json,
    Manner::Percent,
    Manner::Entity,
    Manner::HexEntity,
    Manner::FullWidth,
    Manner::ZeroWidth,
    Manner::Colours,
    Manner::Twice,
    Manner::Dashes,
];

/// Characters whose bit is set are spelled in another way.
fn spell(value: &str, manner: Manner, which: u64) -> String {
    let last = value.chars().count() - 1;
    let mut out = String::new();
    for (i, c) in value.chars().enumerate() {
        let code = c as u32;
        if which >> (i % 64) & 1 == 0 {
            out.push(c);
            continue;
        }
        match manner {
            Manner::Plain => out.push(c),
            Manner::Json => out.push_str(&format!("\\u{code:04x}")),
            Manner::Percent => out.push_str(&format!("%{code:02X}")),
            Manner::Entity => out.push_str(&format!("&#{code};")),
            Manner::HexEntity => out.push_str(&format!("&#x{code:x};")),
            Manner::FullWidth if c != ' ' => out.push(char::from_u32(0xfee0 + code).unwrap()),
            Manner::FullWidth => out.push('\u{3000}'),
            Manner::ZeroWidth if i < last => out.extend([c, '\u{200b}']),
            Manner::Colours if i < last => out.push_str(&format!("{c}\u{1b}[1;3{}m", i % 8)),
            Manner::ZeroWidth | Manner::Colours => out.push(c),
            Manner::Twice => out.push_str(&format!("\\\\u{code:04x}")),
            Manner::Dashes => out.push(match c {
                '-' => '\u{2011}',
                ' ' => '\u{a0}',
                c => c,
            }),
        }
    }
    out
}

fn masked(pieces: &[&[u8]]) -> Vec<u8> {
    let (mut stream, mut out) = (Stream::new(Scanner::all()), Vec::new());
    pieces.iter().for_each(|piece| stream.push(piece, &mut out));
    stream.finish(&mut out);
    out
}

fn check(text: &[u8], expect: &[u8], cut: usize) {
    let (one, two) = text.split_at(cut % (text.len() + 1));
    let out = masked(&[one, two]);
    assert!(
        out == expect,
        "{:?} at {cut} became {:?}",
        String::from_utf8_lossy(text),
        String::from_utf8_lossy(&out)
    );
}

fn utf16(text: &str, big: bool) -> Vec<u8> {
    let bytes = |unit: u16| if big { unit.to_be_bytes() } else { unit.to_le_bytes() };
    text.encode_utf16().flat_map(bytes).collect()
}

fn value(at: usize) -> (&'static str, &'static str, String) {
    let (kind, word, value) = VALUES[at % VALUES.len()];
    // The letter of a Spanish number is the rest of a division.
    let letter = &"TRWAGMYFPDXBNJZSQVHLCKE"[6_387_357 % 23..][..1];
    (kind, word, if kind == "es_dni" { format!("{value}{letter}") } else { value.to_owned() })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(3_000) })]
    #[test]
    fn however_it_is_spelled(
        at in 0..VALUES.len(),
        around in 0..AROUND.len(),
        manner in 0..MANNERS.len(),
        which in any::<u64>(),
        cuts in prop::collection::vec(any::<u16>(), 4),
    ) {
        let (kind, word, value) = value(at);
        let (before, after) = AROUND[around];
        let spelled = spell(&value, MANNERS[manner], which);
        let text = format!("{before}{word}{spelled}{after}\nnext\n");
        let expect = format!("{before}{word}[{kind}]{after}\nnext\n");
        for cut in cuts {
            check(text.as_bytes(), expect.as_bytes(), usize::from(cut));
        }
    }

    #[test]
    fn in_units_of_two_bytes(at in 0..VALUES.len(), big in any::<bool>(), cut in any::<u16>()) {
        let (kind, word, value) = value(at);
        let (before, after) = (format!("so {word}"), " it is, and so on\n");
        let wide = |text: &str| utf16(text, big);
        let text = [wide(&before), wide(&value), wide(after)].concat();
        let expect = [wide(&before), format!("[{kind}]").into_bytes(), wide(after)].concat();
        check(&text, &expect, usize::from(cut));
    }
}

/// Each value, in one spelling after another, cut at each place.
#[test]
fn wherever_it_is_cut() {
    for at in 0..VALUES.len() {
        let (kind, word, value) = value(at);
        let spelled = spell(&value, MANNERS[at % MANNERS.len()], 0x5555_aaaa_5555_aaaa);
        let text = format!("so {word}{spelled} it is\n");
        let expect = format!("so {word}[{kind}] it is\n");
        for cut in 0..text.len() {
            check(text.as_bytes(), expect.as_bytes(), cut);
        }
    }
}
