//! Every corpus is there and harmless, and so are a few thousand seeded mutations of it.

#![allow(clippy::unwrap_used, clippy::panic)]

use bulla_fuzz::TARGETS;
use bulla_fuzz::mutate::{Random, mutate};

#[test]
fn every_corpus_is_replayed() {
    for target in TARGETS {
        let corpus = target.corpus();
        let corpus = corpus.unwrap_or_else(|e| panic!("{}: {e}", target.folder().display()));
        assert!(corpus.len() >= 3, "{} has a corpus of {}", target.name, corpus.len());
        for (name, bytes) in &corpus {
            eprintln!("{}/{name}", target.name);
            (target.run)(bytes);
        }
    }
}

#[test]
fn seeded_mutations_find_nothing() {
    for target in TARGETS {
        let seeds: Vec<_> = target.corpus().unwrap().into_iter().map(|(_, bytes)| bytes).collect();
        let mut random = Random::new(20_261_126);
        let runs = if target.name == "recover" { 20 } else { 400 };
        for _ in 0..runs {
            (target.run)(&mutate(&mut random, &seeds));
        }
    }
}

#[test]
fn a_seed_makes_the_same_bytes() {
    let seeds = [b"SELECT 1".to_vec(), b"BEGIN".to_vec()];
    let run = || {
        let mut random = Random::new(7);
        (0..50).map(|_| mutate(&mut random, &seeds)).collect::<Vec<_>>()
    };
    assert_eq!(run(), run());
}
