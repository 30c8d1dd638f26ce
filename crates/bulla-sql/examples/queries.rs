//! Prints the SQL that loads a catalogue snapshot, a query a paragraph, to try it by hand:
//! `cargo run -p bulla-sql --example queries | psql`.

use bulla_sql::catalog::{FINGERPRINT, QUERIES, SESSION, SETUP};

fn main() {
    println!("{SETUP};\n{};", SESSION.0);
    for query in QUERIES {
        println!("{query};\n");
    }
    println!("{};\n{FINGERPRINT};", SESSION.1);
}
