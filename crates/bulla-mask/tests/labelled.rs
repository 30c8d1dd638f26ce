//! Precision and recall on labelled sets, one text a line, findings written as `{{kind|value}}`, and
//! `␛` for the escape character: `tests/labelled.txt`, and `tests/stranger.txt`, which was made
//! from the issuers' rules, in contexts that applications print. Detectors were mended by it, so it is
//! no independent judge. A finding counts when its kind is right and its place is exact.

#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::collections::BTreeMap;

use bulla_mask::Scanner;

#[derive(Default, Debug)]
struct Score {
    right: u32,
    missed: u32,
    wrong: u32,
}

fn read(line: &str) -> (String, Vec<(usize, usize, String)>) {
    let (mut text, mut labels, mut rest) = (String::new(), Vec::new(), line);
    while let Some((before, after)) = rest.split_once("{{") {
        text.push_str(before);
        let (label, after) = after.split_once("}}").unwrap();
        let (kind, value) = label.split_once('|').unwrap();
        labels.push((text.len(), text.len() + value.len(), kind.to_owned()));
        text.push_str(value);
        rest = after;
    }
    text.push_str(rest);
    (text, labels)
}

/// With a checksum or a prefix; the others are told by form and neighbours.
const LOOSE: [&str; 3] = ["phone", "ip", "password"];

/// A number that passes the checks of two kinds is both.
fn same(label: &(usize, usize, String), found: &(usize, usize, String)) -> bool {
    const DATED: [&str; 6] = ["pl_pesel", "de_tax_id", "be_nrn", "br_cpf", "se_pn", "fi_hetu"];
    let both = DATED.contains(&label.2.as_str()) && DATED.contains(&found.2.as_str());
    (label.0, label.1) == (found.0, found.1) && (label.2 == found.2 || both)
}

fn judge(set: &str) {
    let scanner = Scanner::all();
    let mut scores: BTreeMap<String, Score> = BTreeMap::new();
    for line in set.lines() {
        let (text, labels) = read(&line.replace('␛', "\u{1b}"));
        let found = scanner.scan(text.as_bytes());
        let found: Vec<_> =
            found.iter().map(|f| (f.start, f.end, f.what.as_str().to_owned())).collect();
        for label in &labels {
            let score = scores.entry(label.2.clone()).or_default();
            if found.iter().any(|found| same(label, found)) {
                score.right += 1;
            } else {
                score.missed += 1;
                println!("missed {} in {text:?}: found {found:?}", label.2);
            }
        }
        for place in &found {
            if labels.iter().any(|label| same(label, place)) {
                continue;
            }
            let (start, end, kind) = place;
            scores.entry(kind.clone()).or_default().wrong += 1;
            let value = String::from_utf8_lossy(&text.as_bytes()[*start..*end]);
            println!("wrong {kind} `{value}` in {text:?}");
        }
    }
    let mut low = String::new();
    for (kind, score) in &scores {
        let ratio = |n: u32, of: u32| if of == 0 { 1.0 } else { f64::from(n) / f64::from(of) };
        let precision = ratio(score.right, score.right + score.wrong);
        let recall = ratio(score.right, score.right + score.missed);
        println!("{kind:20} precision {precision:.3} recall {recall:.3} {score:?}");
        let least = if LOOSE.contains(&kind.as_str()) { 0.95 } else { 0.98 };
        if precision < least || recall < least {
            low.push_str(&format!("{kind}: {precision:.3} {recall:.3}; "));
        }
    }
    assert!(low.is_empty(), "{low}");
}

#[test]
fn labelled() {
    judge(include_str!("labelled.txt"));
}

#[test]
fn stranger() {
    judge(include_str!("stranger.txt"));
}
