//! What a decision costs: `cargo run --profile fast -p bulla-policy --example policy-cost`; with
//! `--json`, as the benchmark calls it, only that under 1,000 policies, as JSON.
//!
//! A bundle of N policies, one group and one table each, two conditions and an address range, and
//! one forbid for all; the command is permitted by one of them.

#[path = "../tests/support/mod.rs"]
mod support;

use std::{
    fmt::Write as _,
    hint::black_box,
    time::{Duration, Instant},
};

use bulla_core::{Attribute, Policies};
use support::{command, load, origin, request, resource, shown, who, with};

fn policies(count: usize, shape: &str) -> String {
    let mut out = String::from(
        "@id(\"no-stale\") forbid (principal, action, resource in Bulla::Resource::\"orders\")\n\
         when { context.jwks_stale };\n",
    );
    for i in 0..count {
        let scope = match shape {
            "sliced" => format!(
                "principal in Bulla::Group::\"team:t{i}\",\n  \
                 action in [Bulla::Action::\"postgres:read\", Bulla::Action::\"postgres:update\"],\n  \
                 resource == Bulla::Table::\"orders.public.t{i}\""
            ),
            // Nothing tells them apart but their conditions: the worst case.
            _ => "principal, action in [Bulla::Action::\"postgres:read\"],\n  \
                 resource in Bulla::Resource::\"orders\""
                .to_owned(),
        };
        let _ = writeln!(
            out,
            "@id(\"p{i}\") @rows_max(\"1000\") permit ({scope})\n\
             when {{ principal has env && principal.env == \"prod{}\" }}\n\
             when {{ context.source.isInRange(ip(\"10.0.0.0/8\")) && !context.unknown }};",
            if shape == "sliced" || i == 7 { String::new() } else { i.to_string() }
        );
    }
    out
}

/// A command that touches many things, as one on a table with many partitions does.
fn many_touches() {
    let bundle = load(&policies(1_000, "sliced"));
    let (resource, origin) = (resource("orders"), origin("10.1.2.3"));
    let principal = with(who("k8s|a", &["team:t7"]), "env", Attribute::Text("prod".into()));
    for count in [10, 100, 1_000] {
        let texts: Vec<String> =
            (0..count).map(|n| format!("postgres:select public.t{n}(id)")).collect();
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        let command = command("postgres:select", &texts);
        let request = request(&principal, &resource, &origin, &command);
        let start = Instant::now();
        for _ in 0..20 {
            black_box(bundle.decide_uncached(black_box(&request)));
        }
        println!("{count:5} touches: uncached {:>9.1?}", start.elapsed() / 20);
    }
}

/// How long one decision takes.
struct Cost {
    load: Duration,
    uncached: Duration,
    cached: Duration,
    shown: String,
}

fn cost(count: usize, shape: &str) -> Cost {
    let mut principal = who("k8s|billing/api", &["team:t7", "team:x", "all"]);
    principal = with(principal, "env", Attribute::Text("prod".into()));
    let (resource, origin) = (resource("orders"), origin("10.1.2.3"));
    let command = command("postgres:select", &["postgres:select public.t7(id,state)"]);
    let request = request(&principal, &resource, &origin, &command);
    let text = policies(count, shape);
    let start = Instant::now();
    let bundle = load(&text);
    let load = start.elapsed();
    let rounds = if shape == "sliced" { 2_000 } else { 50 };
    let start = Instant::now();
    for _ in 0..rounds {
        black_box(bundle.decide_uncached(black_box(&request)));
    }
    let uncached = start.elapsed() / rounds;
    black_box(bundle.decide(&request));
    let start = Instant::now();
    for _ in 0..100_000 {
        black_box(bundle.decide(black_box(&request)));
    }
    let cached = start.elapsed() / 100_000;
    Cost { load, uncached, cached, shown: shown(&bundle.decide(&request)) }
}

fn main() {
    if std::env::args().any(|arg| arg == "--json") {
        let (sliced, worst) = (cost(1_000, "sliced"), cost(1_000, "worst"));
        println!(
            "{{\"cached_ns\": {}, \"uncached_ns\": {}, \"worst_ns\": {}}}",
            sliced.cached.as_nanos(),
            sliced.uncached.as_nanos(),
            worst.uncached.as_nanos()
        );
        return;
    }
    many_touches();
    for shape in ["sliced", "worst"] {
        for count in [10, 100, 1_000, 5_000] {
            let Cost { load, uncached, cached, shown } = cost(count, shape);
            println!(
                "{shape:7} {count:5} policies: load {load:>9.1?}  uncached {uncached:>9.1?}  \
                 cached {cached:>7.0?}  {shown}"
            );
        }
    }
}
