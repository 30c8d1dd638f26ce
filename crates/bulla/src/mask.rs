//! `bulla mask`: what masks make of values, and what detectors find in a text.

use std::{io::Read as _, path::Path, process::ExitCode};

use anyhow::{Context, Result, anyhow, bail};
use bulla_mask::{Masked, Scanner, Value, With};
use serde_json::json;

use crate::{
    cli::{Kind, Try},
    config::Config,
    print,
    say::line,
};

/// Longest text that is searched.
const TEXT_BYTES_MAX: u64 = 256 << 20;

/// Shows what a class's mask makes of a value.
pub fn try_on(config: &Config, args: &Try, json: bool) -> Result<()> {
    let all = config.masks().map_err(|wrong| {
        let words: Vec<String> =
            wrong.into_iter().map(|(key, what, _)| format!("{key}: {what}")).collect();
        anyhow!("{}", words.join("; "))
    })?;
    let found = all.values().find_map(|of| of.class(&args.class).map(|class| (of, class)));
    let (of, class) =
        found.with_context(|| format!("there is no class `{}`", line(&args.class)))?;
    let text = args.value.as_str();
    let value = match args.kind {
        Kind::Text => Value::Text(text),
        Kind::Number => match text.parse() {
            Ok(n) => Value::Int(n),
            Err(_) => Value::Decimal(text),
        },
        Kind::Json => Value::Json(text),
    };
    let subject = args.subject.as_ref().map(String::as_bytes);
    let masked = class.mask.apply(value, &With { class: &args.class, key: of.key(), subject });
    let shown = match &masked {
        Masked::Null => None,
        Masked::Text(text) | Masked::Decimal(text) | Masked::Json(text) => Some(text.clone()),
        Masked::Int(n) => Some(n.to_string()),
        Masked::Date(_) | Masked::Timestamp(_) | Masked::Bytes(_) | Masked::Uuid(_) => {
            bail!("the mask gives a value of another type")
        }
    };
    if json {
        return Ok(print(&json!({ "class": args.class, "masked": shown }).to_string())?);
    }
    Ok(print(&shown.as_deref().map_or_else(|| "NULL".to_owned(), line))?)
}

/// Says where a text holds what, never what it is. Exit 4 if it holds anything.
pub fn find(file: Option<&Path>, json: bool) -> Result<ExitCode> {
    let mut text = Vec::new();
    match file {
        Some(path) => {
            let opened = std::fs::File::open(path);
            let file = opened.with_context(|| format!("open `{}`", path.display()))?;
            file.take(TEXT_BYTES_MAX + 1).read_to_end(&mut text).context("read the file")?;
        }
        None => {
            std::io::stdin().lock().take(TEXT_BYTES_MAX + 1).read_to_end(&mut text)?;
        }
    }
    if text.len() as u64 > TEXT_BYTES_MAX {
        bail!("the text is longer than 256 MiB");
    }
    let findings = Scanner::all().scan(&text);
    for finding in &findings {
        let before = text.get(..finding.start).unwrap_or_default();
        let row = before.iter().filter(|b| **b == b'\n').count() + 1;
        let column = before.iter().rev().take_while(|b| **b != b'\n').count() + 1;
        let (what, bytes) = (finding.what.as_str(), finding.end - finding.start);
        if json {
            let value = json!({ "line": row, "column": column, "bytes": bytes, "what": what });
            print(&value.to_string())?;
        } else {
            print(&format!("{row}:{column} {what}, {bytes} bytes"))?;
        }
    }
    Ok(if findings.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(crate::fail::code::DENIED)
    })
}
