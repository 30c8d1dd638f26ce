//! Measures the scan of text without hits: `cargo run --profile fast -p bulla-mask --example scan`.
//! Times are of the processor's clock as the wall shows it: run it where nothing else does. Names
//! of texts may follow: `-- digits csv`.

use std::hint::black_box;
use std::time::Instant;

use bulla_mask::Scanner;

const PROSE: &str = "The quick brown fox jumps over the lazy dog, and nobody asked it why; the answer \
                     would have been that the dog lay there and the way around was longer. ";
const LOG: &str = "2026-11-26T10:14:07.123Z INFO relay session=0192f3a7 rows=1842 took 12 ms, target \
                   orders answered; next checkpoint in 1000 entries\n";
const JSON: &str = "{\"id\":18442,\"state\":\"shipped\",\"total\":129.90,\"items\":[{\"sku\":\"A-17\",\
                    \"n\":2}],\"note\":\"leave it at the door\"},\n";
const DIGITS: &str = "{\"ts\":1764152047123,\"seq\":18442907,\"span\":\"0192f3a7-77aa-7e11-8f21-\
                      1b2c3d4e5f60\",\"at\":\"2026-11-26 10:14:07\",\"amount\":\"129.90\",\
                      \"lat\":52.520008,\"lon\":13.404954,\"rows\":1842,\"v\":\"1.24.3\"}\n";
const CSV: &str = "100234,2026-11-26,17,129.90,4021,88213,9912,0,1,55,2026-11-27,33.10,71.22,1842,\
                   77120033\n";
/// What is brought into its normal form first.
const GERMAN: &str = "Der schnelle braune Fuchs springt über den faulen Hund, und niemand fragte ihn \
                      warum; die Antwort wäre gewesen, dass der Hund dort lag. ";
const RUSSIAN: &str = "Съешь же ещё этих мягких французских булок, да выпей чаю. ";
const ESCAPED: &str = "{\"note\":\"she said \\\"leave it\\\" and left\\nat the door\",\"name\":\
                       \"M\\u00fcller\",\"state\":\"shipped\"},\n";
/// The texts of a row of 108 bytes.
const ROW: [&str; 4] = [
    "shipped with the second van, left at the door",
    "A-17/blue, 2 pieces",
    "warehouse north, gate 4",
    "2026-11-26 10:14:07",
];

/// The best of several rounds, in seconds.
fn best(mut round: impl FnMut()) -> f64 {
    let times = (0..7).map(|_| {
        let start = Instant::now();
        round();
        start.elapsed().as_secs_f64()
    });
    times.fold(f64::MAX, f64::min)
}

fn main() {
    let scanner = Scanner::all();
    let texts = [
        ("prose", PROSE),
        ("log", LOG),
        ("json", JSON),
        ("digits", DIGITS),
        ("csv", CSV),
        ("german", GERMAN),
        ("russian", RUSSIAN),
        ("escaped", ESCAPED),
    ];
    let wanted: Vec<String> = std::env::args().skip(1).collect();
    let is_wanted = |name: &str| wanted.is_empty() || wanted.iter().any(|wanted| wanted == name);
    for (name, unit) in texts.into_iter().filter(|(name, _)| is_wanted(name)) {
        let text = unit.repeat((32 << 20) / unit.len());
        let seconds = best(|| {
            let hits: usize = text.as_bytes().chunks(64 << 10).map(|c| scanner.scan(c).len()).sum();
            assert_eq!(hits, 0, "{name}");
        });
        println!("{name}: {:.2} GB/s", text.len() as f64 / seconds / 1e9);
    }
    if !is_wanted("row") {
        return;
    }
    let rows = 200_000;
    let seconds = best(|| {
        for _ in 0..rows {
            for cell in ROW {
                assert!(scanner.scan(black_box(cell.as_bytes())).is_empty());
            }
        }
    });
    println!("a row of four texts: {:.0} ns", seconds / f64::from(rows) * 1e9);
}
