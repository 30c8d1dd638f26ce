//! From text to parse tree, with every cap before the work that it bounds.

use std::sync::{Mutex, PoisonError};

use pg_query::protobuf::{ParseResult, ScanToken};

use crate::analyzer::{Limits, ReadError};

/// A parsed text. Recursive inside: make, walk and drop it only on a thread of the pool.
pub(crate) struct Tree {
    pub(crate) parsed: ParseResult,
    pub(crate) tokens: Vec<ScanToken>,
}

/// libpg_query redirects the *process's* standard error into a pipe while it parses and puts it
/// back afterwards. Two parses at once would put back each other's pipe for good, so one at a time.
static PARSING: Mutex<()> = Mutex::new(());

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
    let tokens = pg_query::scan_tokens(text)
        .map_err(|e| ReadError::Syntax { message: message(&e), position: None })?;
    if tokens.len() > limits.tokens_max {
        return Err(ReadError::TooComplex { what: "tokens", max: limits.tokens_max });
    }
    let parsed = {
        let _one = PARSING.lock().unwrap_or_else(PoisonError::into_inner);
        pg_query::parse(text, 0)
    };
    match parsed {
        Ok(parsed) => Ok(Tree { parsed: parsed.protobuf, tokens }),
        Err(e) => Err(ReadError::Syntax { message: message(&e), position: None }),
    }
}

fn message(error: &pg_query::Error) -> String {
    match error {
        pg_query::Error::Parse(m) | pg_query::Error::Scan(m) => m.clone(),
        other => other.to_string(),
    }
}
