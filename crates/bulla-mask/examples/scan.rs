//! Measures the scan of text without hits: `cargo run --profile fast -p bulla-mask --example scan`.

use std::time::Instant;

use bulla_mask::Scanner;

fn main() {
    let prose = "The quick brown fox jumps over the lazy dog, and nobody asked it why; the answer \
                 would have been that the dog lay there and the way around was longer. ";
    let log = "2026-11-26T10:14:07.123Z INFO relay session=0192f3a7 rows=1842 took 12 ms, target \
               orders answered; next checkpoint in 1000 entries\n";
    let json = "{\"id\":18442,\"state\":\"shipped\",\"total\":129.90,\"items\":[{\"sku\":\"A-17\",\
                \"n\":2}],\"note\":\"leave it at the door\"},\n";
    let scanner = Scanner::all();
    for (name, unit) in [("prose", prose), ("log", log), ("json", json)] {
        let text = unit.repeat((64 << 20) / unit.len());
        let mut best = f64::MAX;
        for _ in 0..5 {
            let start = Instant::now();
            let hits: usize = text.as_bytes().chunks(64 << 10).map(|c| scanner.scan(c).len()).sum();
            assert_eq!(hits, 0, "{name}");
            best = best.min(start.elapsed().as_secs_f64());
        }
        println!("{name}: {:.2} GB/s", text.len() as f64 / best / 1e9);
    }
}
