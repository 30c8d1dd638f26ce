//! `bulla approvals …`: answers for commands that wait, through the admin socket.

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::{
    admin,
    cli::{AnswerArgs, Approvals},
    config::Config,
    print,
    say::{self, Paint, line, safe},
};

pub fn run(config: &Config, command: &Approvals, json: bool) -> Result<()> {
    let request = match command {
        Approvals::Ls => json!({ "do": "approvals" }),
        Approvals::Show { id } => json!({ "do": "approval", "id": id }),
        Approvals::Approve(args) => answer("approve", args)?,
        Approvals::Reject(args) => answer("reject", args)?,
    };
    let answer = admin::call(&config.socket(), &request)?;
    if json {
        return Ok(print(&crate::say::json(&answer))?);
    }
    let words = match (command, &answer) {
        (Approvals::Ls, Value::Array(rows)) if rows.is_empty() => "nothing waits".to_owned(),
        (Approvals::Ls, Value::Array(rows)) => {
            let columns = [
                ("id", "ID"),
                ("since", "SINCE"),
                ("principal", "PRINCIPAL"),
                ("resource", "RESOURCE"),
                ("action", "ACTION"),
                ("statement", "STATEMENT"),
            ];
            say::table(rows, &columns)
        }
        (Approvals::Show { .. }, Value::Object(_)) => show(&answer),
        (Approvals::Approve(args), _) => said(&args.id, "approved", &answer),
        (Approvals::Reject(args), _) => said(&args.id, "rejected", &answer),
        _ => bail!("the gateway's answer makes no sense"),
    };
    Ok(print(&words)?)
}

fn answer(word: &str, args: &AnswerArgs) -> Result<Value> {
    let mut request = json!({ "do": word, "id": args.id, "reason": args.reason });
    if let Some(path) = &args.token_file {
        let token = std::fs::read_to_string(path);
        let token = token.with_context(|| format!("read the token in `{}`", path.display()))?;
        request["token"] = token.trim().into();
    }
    Ok(request)
}

fn said(id: &str, word: &str, answer: &Value) -> String {
    let by = answer.get("by").and_then(Value::as_str).unwrap_or("?");
    let tick = Paint::new().tick(word == "approved");
    let mut words = format!("{tick} {} {word} by {}", line(id), line(by));
    // It still waits: for more people, or for somebody of a group.
    if let Some(quorum) = answer.get("quorum").and_then(Value::as_u64) {
        let have = answer.get("approvers").and_then(Value::as_u64).unwrap_or_default();
        words.push_str(&format!("; it still waits, {have} of {quorum}"));
        let missing = answer.get("missing").and_then(Value::as_array);
        let missing = missing.map(Vec::as_slice).unwrap_or_default();
        let missing: Vec<_> = missing.iter().filter_map(Value::as_str).collect();
        if !missing.is_empty() {
            words.push_str(&format!(", and nobody yet of group {}", line(&missing.join(", "))));
        }
    }
    words
}

/// Exactly what would run, and for whom.
fn show(ask: &Value) -> String {
    let text = |key: &str| line(ask.get(key).and_then(Value::as_str).unwrap_or_default());
    let list = |key: &str| {
        let all = ask.get(key).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        line(&all.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(", "))
    };
    let number = |key: &str| ask.get(key).and_then(Value::as_u64).unwrap_or_default();
    let mut out = String::new();
    let mut put = |name: &str, value: &str| {
        if !value.is_empty() {
            out.push_str(&format!("{name:11} {value}\n"));
        }
    };
    put("id", &text("id"));
    put("principal", &text("principal"));
    put("resource", &text("resource"));
    put("action", &text("action"));
    let statement = ask.get("statement").and_then(Value::as_str).unwrap_or_default();
    put("statement", &safe(statement).replace('\n', "\n            "));
    for parameter in ask.get("parameters").and_then(Value::as_array).into_iter().flatten() {
        let field = |key: &str| match parameter.get(key) {
            Some(Value::String(text)) => line(text),
            Some(Value::Null) | None => "NULL".into(),
            Some(other) => line(&other.to_string()),
        };
        put(&field("name"), &field("value"));
    }
    put("touches", &list("touches"));
    put("effects", &list("effects"));
    put("policies", &list("policies"));
    put("approval by", &format!("{} of group {}", number("quorum"), list("groups")));
    put("approved by", &list("approved"));
    put("waits since", &text("since"));
    put("gives up", &format!("{} s after that", number("expires_s")));
    put("session", &text("session"));
    put("digest", &text("digest"));
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ask_is_shown_whole_and_escaped() {
        let ask = json!({
            "id": "7F3K-2Q", "principal": "k8s|billing/api", "resource": "orders",
            "action": "postgres:update", "statement": "UPDATE t\nSET a = '\u{1b}[2J'",
            "parameters": [{ "name": "$1", "value": "EU" }, { "name": "$2", "value": null }],
            "touches": ["update public.t"], "groups": ["dba"], "quorum": 1, "expires_s": 900,
        });
        let shown = show(&ask);
        for part in ["7F3K-2Q", "$1          EU", "$2          NULL", "1 of group dba", "900 s"] {
            assert!(shown.contains(part), "{part} in {shown}");
        }
        assert!(!shown.contains('\u{1b}') && shown.contains("\\u{1b}[2J"), "{shown}");
    }
}
