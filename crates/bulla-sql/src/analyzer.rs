//! The door: text in, facts out, through the cache and the pool.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::cache::Cache;
use crate::catalog::{Catalog, SearchPath};
use crate::facts::Facts;
use crate::pool::{ParserPool, PoolError};
use crate::rewrite::{self, Fault, Hidden, Plan};
use crate::{parse, reading};

/// Rewritings that are kept, and the longest text of one.
const PLANS_MAX: usize = 2_000;
const PLAN_BYTES_MAX: usize = 8 << 10;

/// By text, what is hidden, and search path.
type Plans = HashMap<(Arc<str>, u64, SearchPath), Result<Arc<Plan>, Fault>>;

/// What a statement may cost. The defaults keep the worst case well under a second when optimised;
/// `examples/bench.rs` prints it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of one text.
    pub statement_bytes_max: usize,
    /// Tokens of one text, comments included.
    pub tokens_max: usize,
    /// Open parentheses and brackets inside each other.
    pub nesting_max: usize,
    /// Statements of one text.
    pub statements_max: usize,
    /// Levels of a parse tree.
    pub depth_max: usize,
    /// How long a caller waits for a free thread and the answer together.
    pub wait: Duration,
    /// Parser threads, and statements that may wait for one.
    pub threads: usize,
    pub queue_max: usize,
    /// Of the cache, in all.
    pub cache_entries_max: usize,
    pub cache_bytes_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            statement_bytes_max: 4 << 20,
            tokens_max: 250_000,
            nesting_max: 1_000,
            statements_max: 10_000,
            depth_max: 1_000,
            wait: Duration::from_secs(5),
            threads: 2,
            queue_max: 256,
            cache_entries_max: 20_000,
            cache_bytes_max: 64 << 20,
        }
    }
}

/// Why a text has no facts. Every one is a refusal; none may become "let it pass". The message of
/// `Syntax` quotes the text: it goes to the client and into the record, not into logs.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    #[error("the statement has {bytes} bytes, at most {max} can be read")]
    TooLarge { bytes: usize, max: usize },
    #[error("the statement has more than {max} {what}")]
    TooComplex { what: &'static str, max: usize },
    /// `position` counts characters from 1, as PostgreSQL's error field `P` does.
    #[error("{message}")]
    Syntax { message: String, position: Option<usize> },
    #[error("the statement holds a NUL byte")]
    Nul,
    #[error("too many statements wait to be read")]
    Busy,
    #[error("the statement could not be read within {ms} ms")]
    TimedOut { ms: u128 },
    #[error("the statement could not be read because the reader failed")]
    Internal,
}

impl ReadError {
    /// What the client can do about it.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        match self {
            Self::TooLarge { .. } => "send large values as parameters or with COPY",
            Self::TooComplex { .. } => {
                "split the statement, or use = ANY($1) or COPY instead of long lists and chains"
            }
            Self::Syntax { .. } => {
                "correct the statement; what the gateway cannot read it does not forward"
            }
            Self::Nul => "text cannot hold a NUL byte in PostgreSQL",
            Self::Busy | Self::TimedOut { .. } => "try again",
            Self::Internal => "report this statement to the gateway's operator",
        }
    }
}

/// Reads statements: share one per gateway.
#[derive(Debug)]
pub struct Analyzer {
    limits: Limits,
    pool: ParserPool,
    cache: Arc<Cache>,
    plans: Mutex<Plans>,
}

impl Analyzer {
    /// # Errors
    /// When the system gives no thread.
    pub fn new(limits: Limits) -> std::io::Result<Self> {
        Ok(Self {
            limits,
            pool: ParserPool::new(limits.threads, limits.queue_max)?,
            cache: Arc::new(Cache::new(limits.cache_entries_max, limits.cache_bytes_max)),
            plans: Mutex::default(),
        })
    }

    #[must_use]
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// The facts of `text`. A text that was read before under the same snapshot and path returns at
    /// once; otherwise the wait for the pool happens inside `block`, which calls its argument once
    /// (an async caller passes its runtime's "this blocks" function).
    ///
    /// # Errors
    /// [`ReadError`]: the caller refuses the statement.
    pub fn read(
        &self,
        text: &str,
        catalog: &Arc<Catalog>,
        path: &SearchPath,
        block: &dyn Fn(&mut dyn FnMut()),
    ) -> Result<Arc<Facts>, ReadError> {
        parse::admit(text, &self.limits)?;
        if let Some(facts) = self.cache.find(text, catalog.epoch(), path) {
            return Ok(facts);
        }
        let mut answer = Err(ReadError::Internal);
        block(&mut || answer = self.miss(text, catalog, path));
        answer
    }

    /// How a text is sent to which some columns are hidden. `facts` are its own, read under the
    /// same snapshot and path. Nothing is parsed where nothing has to be rewritten.
    ///
    /// # Errors
    /// [`Fault`]: the caller refuses the statement.
    pub fn mask(
        &self,
        text: &str,
        facts: &Arc<Facts>,
        catalog: &Arc<Catalog>,
        path: &SearchPath,
        hidden: &Arc<Hidden>,
        block: &dyn Fn(&mut dyn FnMut()),
    ) -> Result<Arc<Plan>, Fault> {
        if hidden.is_empty() || !rewrite::survey(facts, catalog, path, hidden)? {
            return Ok(Arc::default());
        }
        let key = (Arc::<str>::from(text), hidden.id(), path.clone());
        if let Some(plan) = self.plans().get(&key) {
            return plan.clone();
        }
        let limits = self.limits;
        let mut answer = Err(Fault::Read(ReadError::Internal));
        block(&mut || {
            let (text, catalog, path) = (text.to_owned(), Arc::clone(catalog), path.clone());
            let (facts, hidden) = (Arc::clone(facts), Arc::clone(hidden));
            let job = move || {
                let at = rewrite::Under { catalog: &catalog, path: &path, limits: &limits };
                Ok(rewrite::rewrite(&text, &facts, at, &hidden).map(Arc::new))
            };
            answer = self.wait(job).map_err(Fault::Read).and_then(|plan| plan);
        });
        if !matches!(answer, Err(Fault::Read(_))) && text.len() <= PLAN_BYTES_MAX {
            let mut plans = self.plans();
            if plans.len() >= PLANS_MAX {
                plans.clear();
            }
            plans.insert(key, answer.clone());
        }
        answer
    }

    fn plans(&self) -> MutexGuard<'_, Plans> {
        self.plans.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The text with every constant replaced by a parameter, and a hash of its form that is the
    /// same for texts that differ in constants only: for searching records, never for deciding.
    ///
    /// # Errors
    /// [`ReadError`], as for [`Analyzer::read`].
    pub fn normalise(
        &self,
        text: &str,
        block: &dyn Fn(&mut dyn FnMut()),
    ) -> Result<Normal, ReadError> {
        parse::admit(text, &self.limits)?;
        let limits = self.limits;
        let mut answer = Err(ReadError::Internal);
        block(&mut || {
            let text = text.to_owned();
            let job = move || parse::normalise(&text, &limits);
            answer = self.wait(job).map(|(text, fingerprint)| Normal { text, fingerprint });
        });
        answer
    }

    fn miss(
        &self,
        text: &str,
        catalog: &Arc<Catalog>,
        path: &SearchPath,
    ) -> Result<Arc<Facts>, ReadError> {
        let (limits, cache) = (self.limits, Arc::clone(&self.cache));
        let (text, catalog, path) = (text.to_owned(), Arc::clone(catalog), path.clone());
        let job = move || {
            let facts = Arc::new(facts(&text, &catalog, &path, &limits)?);
            cache.insert(&text, catalog.epoch(), &path, &facts);
            Ok(facts)
        };
        self.wait(job)
    }

    fn wait<T: Send + 'static>(
        &self,
        job: impl FnOnce() -> Result<T, ReadError> + Send + 'static,
    ) -> Result<T, ReadError> {
        match self.pool.run(self.limits.wait, job) {
            Ok(answer) => answer,
            Err(PoolError::Busy { .. }) => Err(ReadError::Busy),
            Err(PoolError::TimedOut { ms }) => Err(ReadError::TimedOut { ms }),
            Err(PoolError::Failed) => Err(ReadError::Internal),
        }
    }
}

/// A statement without its constants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Normal {
    pub text: String,
    pub fingerprint: u64,
}

/// Parses and reads on the calling thread, which MUST have a big stack.
fn facts(
    text: &str,
    catalog: &Catalog,
    path: &SearchPath,
    limits: &Limits,
) -> Result<Facts, ReadError> {
    let tree = parse::parse(text, limits)?;
    reading::read(text, &tree, catalog, path, limits)
}
