//! From text to parse tree, with every cap before the work that it bounds.

use pg_query::protobuf::{ParseResult, ScanToken, Token};

use crate::analyzer::{Limits, ReadError};

/// A parsed text. Recursive inside: make, walk and drop it only on a thread of the pool.
pub(crate) struct Tree {
    pub(crate) parsed: ParseResult,
    pub(crate) tokens: Vec<ScanToken>,
}

/// Steps that the scanner may need for runs of operator characters (see [`operator_steps`]).
const OPERATOR_STEPS_MAX: usize = 50_000_000;

/// Texts whose syntax errors are located: it takes several parses.
const LOCATED_BYTES_MAX: usize = 8 << 10;

/// Cheap checks that need no parser: the length and NUL bytes.
pub(crate) fn admit(text: &str, limits: &Limits) -> Result<(), ReadError> {
    if text.len() > limits.statement_bytes_max {
        return Err(ReadError::TooLarge { bytes: text.len(), max: limits.statement_bytes_max });
    }
    if text.as_bytes().contains(&0) {
        return Err(ReadError::Nul);
    }
    Ok(())
}

pub(crate) fn parse(text: &str, limits: &Limits) -> Result<Tree, ReadError> {
    admit(text, limits)?;
    if operator_steps(text.as_bytes()) > OPERATOR_STEPS_MAX {
        let max = OPERATOR_STEPS_MAX;
        return Err(ReadError::TooComplex { what: "steps in runs of operator characters", max });
    }
    // The binding makes a slice of a null pointer when there is no token at all.
    if text.bytes().all(|b| matches!(b, b' ' | b'\t' | b'\n' | b'\r' | b'\x0b' | b'\x0c')) {
        return Ok(Tree { parsed: ParseResult::default(), tokens: Vec::new() });
    }
    let tokens = pg_query::scan_tokens(text).map_err(|e| scan_error(text, &e))?;
    count(&tokens, limits)?;
    match raw_parse(text) {
        Ok(parsed) => Ok(Tree { parsed, tokens }),
        Err(error) => Err(parse_error(text, &tokens, &error, limits)),
    }
}

fn raw_parse(text: &str) -> Result<ParseResult, pg_query::Error> {
    pg_query::parse(text, 0).map(|parsed| parsed.protobuf)
}

/// The text with its constants replaced by parameters, and the hash of its form.
pub(crate) fn normalise(text: &str, limits: &Limits) -> Result<(String, u64), ReadError> {
    parse(text, limits)?;
    let shape = pg_query::normalize(text)
        .and_then(|normal| pg_query::fingerprint(text, 0, 0).map(|print| (normal, print.value)));
    shape.map_err(|e| ReadError::Syntax { message: message(&e), position: None })
}

/// An upper bound of what the scanner does in runs of operator characters, where it is quadratic or
/// worse: it reads a run to its end and gives characters back, once for each `/*` (comments nest),
/// and for a tail of `+` and `-` once for each character of it, every time from the front.
fn operator_steps(text: &[u8]) -> usize {
    let operator = |b: &u8| b"~!@#^&|`?+-*/%<>=".contains(b);
    let mut steps = 0_usize;
    let mut rest = text;
    while let Some(start) = rest.iter().position(operator) {
        let run = rest.get(start..).unwrap_or_default();
        let end = run.iter().position(|b| !operator(b)).unwrap_or(run.len());
        let (run, tail) = run.split_at(end);
        rest = tail;
        if run.len() < 32 {
            continue;
        }
        let comments = run.windows(2).filter(|w| w == b"/*").count();
        steps = steps.saturating_add(comments.saturating_mul(run.len()));
        // `--` begins a comment and ends the giving back.
        let mut signs = 0_usize;
        let mut before = b' ';
        for byte in run.iter().chain(b" ") {
            if matches!(byte, b'+' | b'-') && !(*byte == b'-' && before == b'-') {
                signs += 1;
            } else {
                let cube = signs.saturating_mul(signs).saturating_mul(signs) / 6;
                let back = signs.saturating_mul(run.len());
                steps = steps.saturating_add(cube).saturating_add(back);
                signs = 0;
            }
            before = *byte;
        }
    }
    steps
}

/// Refuses what would take long to parse or to walk.
fn count(tokens: &[ScanToken], limits: &Limits) -> Result<(), ReadError> {
    if tokens.len() > limits.tokens_max {
        return Err(ReadError::TooComplex { what: "tokens", max: limits.tokens_max });
    }
    let (mut open, mut statements) = (0_usize, 1_usize);
    for token in tokens {
        match Token::try_from(token.token) {
            Ok(Token::Ascii40 | Token::Ascii91) => {
                open += 1;
                if open > limits.nesting_max {
                    let max = limits.nesting_max;
                    return Err(ReadError::TooComplex { what: "open parentheses", max });
                }
            }
            Ok(Token::Ascii41 | Token::Ascii93) => open = open.saturating_sub(1),
            Ok(Token::Ascii59) => {
                statements += 1;
                if statements > limits.statements_max + 1 {
                    let max = limits.statements_max;
                    return Err(ReadError::TooComplex { what: "statements", max });
                }
            }
            _ => {}
        }
    }
    Ok(())
}

fn message(error: &pg_query::Error) -> String {
    match error {
        pg_query::Error::Parse(m) | pg_query::Error::Scan(m) => m.clone(),
        other => other.to_string(),
    }
}

/// What stands between the quotation marks of `… at or near "…"`.
fn near(message: &str) -> Option<&str> {
    message.split_once(" at or near \"")?.1.strip_suffix('"')
}

/// Counts characters from 1, as the server does.
fn position(text: &str, byte: usize) -> Option<usize> {
    text.get(..byte).map(|before| before.chars().count() + 1)
}

fn scan_error(text: &str, error: &pg_query::Error) -> ReadError {
    let message = message(error);
    let position = near(&message).and_then(|quoted| {
        // The scanner quotes everything from the place of the error on, or the token alone.
        let mut found = text.match_indices(quoted).map(|(at, _)| at);
        let last = text.ends_with(quoted).then(|| text.len() - quoted.len());
        let only = found.next().filter(|_| found.next().is_none());
        last.or(only).and_then(|at| position(text, at))
    });
    ReadError::Syntax { message: short(message), position }
}

fn parse_error(
    text: &str,
    tokens: &[ScanToken],
    error: &pg_query::Error,
    limits: &Limits,
) -> ReadError {
    let message = message(error);
    let too_deep = message.starts_with("memory exhausted")
        || message.starts_with("stack depth limit exceeded")
        || message.starts_with("parse tree is nested too deeply")
        || matches!(error, pg_query::Error::Decode(_));
    if too_deep {
        return ReadError::TooComplex { what: "levels of nesting", max: limits.depth_max };
    }
    let position = locate(text, tokens, &message);
    ReadError::Syntax { message: short(message), position }
}

/// A syntax error is found at the first token that cannot follow: the shortest text, cut behind a
/// token, that gives the same message.
fn locate(text: &str, tokens: &[ScanToken], message: &str) -> Option<usize> {
    if message.ends_with("at end of input") {
        return position(text, text.len());
    }
    if text.len() > LOCATED_BYTES_MAX || near(message).is_none() {
        return None;
    }
    let fails = |token: &ScanToken| {
        let cut = usize::try_from(token.end).ok().and_then(|end| text.get(..end));
        cut.is_some_and(|cut| raw_parse(cut).is_err_and(|e| self::message(&e) == message))
    };
    let at = tokens.partition_point(|token| !fails(token));
    let start = tokens.get(at).and_then(|t| usize::try_from(t.start).ok())?;
    position(text, start)
}

/// A message that quotes the text is cut: it goes to clients and records.
fn short(mut message: String) -> String {
    const MESSAGE_MAX: usize = 200;
    if message.len() > MESSAGE_MAX {
        let mut end = MESSAGE_MAX;
        while !message.is_char_boundary(end) {
            end -= 1;
        }
        message.truncate(end);
        message.push('…');
    }
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_of_operators_are_priced() {
        let steps = |text: &str| operator_steps(text.as_bytes());
        assert_eq!(steps("SELECT a+b, c - d /* x */ -- y"), 0);
        assert_eq!(steps(&"=".repeat(1 << 20)), 0);
        assert_eq!(steps(&"-".repeat(1 << 20)), 1 << 20);
        assert!(steps(&format!("/{}/", "*".repeat(1 << 20))) < 3 << 20);
        assert!(steps(&"/*".repeat(10_000)) > OPERATOR_STEPS_MAX);
        assert!(steps(&"+".repeat(1_000)) > OPERATOR_STEPS_MAX);
        assert!(steps(&"+-".repeat(1_000)) > OPERATOR_STEPS_MAX);
        assert!(steps(&format!("{}{}", "=".repeat(1 << 20), "+".repeat(100))) > OPERATOR_STEPS_MAX);
        // Rulers in comments are cheap.
        assert!(steps(&format!("/{}/\n", "*".repeat(100)).repeat(1_000)) < OPERATOR_STEPS_MAX / 10);
        assert!(steps(&format!("{}\n", "-".repeat(100)).repeat(1_000)) < OPERATOR_STEPS_MAX / 10);
    }
}
