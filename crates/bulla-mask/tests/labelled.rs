//! Precision and recall on a labelled set: `tests/labelled.txt`, one text a line, findings written
//! as `{{kind|value}}`. A finding counts when its kind is right and its place is exact.

#![allow(clippy::unwrap_used)]

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

#[test]
fn labelled() {
    let scanner = Scanner::all();
    let mut scores: BTreeMap<String, Score> = BTreeMap::new();
    for line in include_str!("labelled.txt").lines() {
        let (text, labels) = read(line);
        let found = scanner.scan(text.as_bytes());
        let found: Vec<_> =
            found.iter().map(|f| (f.start, f.end, f.what.as_str().to_owned())).collect();
        for label in &labels {
            let score = scores.entry(label.2.clone()).or_default();
            if found.contains(label) {
                score.right += 1;
            } else {
                score.missed += 1;
                println!("missed {} in {text:?}: found {found:?}", label.2);
            }
        }
        for (start, end, kind) in found.iter().filter(|f| !labels.contains(f)) {
            scores.entry(kind.clone()).or_default().wrong += 1;
            println!("wrong {kind} `{}` in {text:?}", &text[*start..*end]);
        }
    }
    for (kind, score) in &scores {
        let ratio = |n: u32, of: u32| if of == 0 { 1.0 } else { f64::from(n) / f64::from(of) };
        let precision = ratio(score.right, score.right + score.wrong);
        let recall = ratio(score.right, score.right + score.missed);
        println!("{kind:20} precision {precision:.3} recall {recall:.3} {score:?}");
        let least = if LOOSE.contains(&kind.as_str()) { 0.95 } else { 0.98 };
        assert!(precision >= least && recall >= least, "{kind}: {precision:.3} {recall:.3}");
    }
}
