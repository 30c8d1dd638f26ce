//! The rows that are to be reached.

use serde_json::{Value, json};

use crate::median;
use crate::traffic::{Measured, Sample};

#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Reach {
    AtLeast(f64),
    AtMost(f64),
}

/// One number, with its spread over the rounds.
#[derive(Debug)]
pub struct Row {
    name: String,
    unit: &'static str,
    reach: Option<Reach>,
    /// Of each round, sorted.
    values: Vec<f64>,
}

impl Row {
    pub fn new(
        name: String,
        unit: &'static str,
        reach: Option<Reach>,
        mut values: Vec<f64>,
    ) -> Self {
        values.sort_by(f64::total_cmp);
        Self { name, unit, reach, values }
    }

    fn median(&self) -> Option<f64> {
        median(&mut self.values.clone())
    }

    /// None without a goal or without a value.
    fn is_reached(&self) -> Option<bool> {
        let value = self.median()?;
        self.reach.map(|reach| match reach {
            Reach::AtLeast(goal) => value >= goal,
            Reach::AtMost(goal) => value <= goal,
        })
    }

    pub fn json(&self) -> Value {
        let goal = self.reach.map(|reach| match reach {
            Reach::AtLeast(goal) => json!({ "at_least": goal }),
            Reach::AtMost(goal) => json!({ "at_most": goal }),
        });
        json!({
            "name": self.name, "unit": self.unit, "median": self.median(), "goal": goal,
            "reached": self.is_reached(), "rounds": self.values,
        })
    }
}

pub fn show(value: Option<f64>) -> String {
    value.map_or_else(
        || "–".to_owned(),
        |value| match value.abs() {
            size if size >= 100.0 => format!("{value:.0}"),
            size if size >= 10.0 => format!("{value:.1}"),
            _ => format!("{value:.2}"),
        },
    )
}

pub fn print(rows: &[Row]) {
    if rows.is_empty() {
        return;
    }
    println!("\n{:<58} {:>9} {:>15} {:>8}", "row", "median", "spread", "reach");
    for row in rows {
        let goal = match row.reach {
            None => String::new(),
            Some(Reach::AtLeast(goal)) => format!("≥ {goal}"),
            Some(Reach::AtMost(goal)) => format!("≤ {goal}"),
        };
        let verdict = match row.is_reached() {
            None => "",
            Some(true) => "reached",
            Some(false) => "MISSED",
        };
        let (low, high) = (row.values.first().copied(), row.values.last().copied());
        let spread = format!("{}–{}", show(low), show(high));
        let value = format!("{} {}", show(row.median()), row.unit);
        println!("{:<58} {value:>9} {spread:>15} {goal:>8}  {verdict}", row.name);
    }
    let missed = rows.iter().filter(|row| row.is_reached() == Some(false)).count();
    println!("{missed} missed");
}

/// What each workload is measured for.
pub fn of_traffic(measured: &Measured) -> Vec<Row> {
    let name = measured.workload.name;
    let ratio = |who: &str, goal: f64| {
        let what = format!("{name}, {who}: rate / pgbouncer");
        Row::new(what, "×", Some(Reach::AtLeast(goal)), measured.ratios(who, |s| Some(s.rate)))
    };
    let mut rows = match name {
        "select-prepared-8" | "select-prepared-32" => {
            vec![ratio("bulla-strict", 0.7), ratio("bulla-bounded", 0.85)]
        }
        "tpcb-8" => vec![ratio("bulla-strict", 0.7)],
        "bulk-select" | "bulk-copy" => {
            vec![ratio("bulla-strict", 0.8), ratio("bulla-bounded", 0.8)]
        }
        _ => Vec::new(),
    };
    if name == "select-prepared-1" {
        let added = |who: &str, reach| {
            let what = format!("{name}, {who}: p50 above the relay / flush");
            let each = measured.pairs(who, "relay");
            let of = |(a, b): (Sample, Sample)| Some((a.p50_us? - b.p50_us?) / a.flush_us?);
            Row::new(what, "×", reach, each.into_iter().filter_map(of).collect())
        };
        rows.push(added("bulla-strict", Some(Reach::AtMost(3.0))));
        rows.push(added("bulla-bounded", None));
    }
    if name == "select-prepared-8" || name.starts_with("connect") {
        for who in ["bulla-strict", "bulla-bounded"] {
            let goal = name.starts_with("select").then_some(Reach::AtMost(1.3));
            let what = format!("{name}, {who}: CPU of an operation / pgbouncer's");
            rows.push(Row::new(what, "×", goal, measured.ratios(who, |s| s.cpu_us)));
        }
    }
    rows.retain(|row| !row.values.is_empty());
    rows
}
