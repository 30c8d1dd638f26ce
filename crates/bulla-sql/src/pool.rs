//! Threads with big stacks that do what may recurse: parsing, walking and dropping parse trees.
//!
//! A tree that is 4,000 levels deep overflows the 2 MiB stack of an async worker and *aborts the
//! process*; here the parser itself refuses long before the stack ends. A panic in a job fails
//! that job alone. Waiting is bounded in number (`queue_max`) and in time (`wait`).

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

/// Stack of each thread. Virtual: pages are used only as deep as a statement goes. The deepest tree
/// that the parser gives out (10,000 messages inside each other) takes 20 MiB to decode when
/// optimised and about 230 MiB when not.
pub const STACK_BYTES: usize = if cfg!(debug_assertions) { 512 << 20 } else { 64 << 20 };

/// Threads that a pool may have.
pub const THREADS_MAX: usize = 64;

type Job = Box<dyn FnOnce() + Send>;

/// Why a job gave no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PoolError {
    #[error("all parser threads are busy and {waiting_max} statements wait already")]
    Busy { waiting_max: usize },
    #[error("no answer from the parser within {ms} ms")]
    TimedOut { ms: u128 },
    #[error("the parser failed on this statement")]
    Failed,
}

/// The pool. Dropping it lets running jobs end and closes the threads.
#[derive(Debug)]
pub struct ParserPool {
    jobs: SyncSender<Job>,
    queue_max: usize,
}

impl ParserPool {
    /// Starts `threads` threads (at least one); at most `queue_max` jobs wait beside those that run.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn new(threads: usize, queue_max: usize) -> std::io::Result<Self> {
        let (jobs, queue) = sync_channel::<Job>(queue_max);
        let queue = Arc::new(Mutex::new(queue));
        for at in 0..threads.clamp(1, THREADS_MAX) {
            let queue = Arc::clone(&queue);
            thread::Builder::new()
                .name(format!("bulla-sql-{at}"))
                .stack_size(STACK_BYTES)
                .spawn(move || work(&queue))?;
        }
        Ok(Self { jobs, queue_max })
    }

    /// Runs `job` on a pool thread and waits for its answer, at most for `wait`. Blocks the calling
    /// thread. A job whose caller left before it began is not run.
    ///
    /// # Errors
    /// [`PoolError`]
    pub fn run<T: Send + 'static>(
        &self,
        wait: Duration,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, PoolError> {
        let (answer, answered) = sync_channel(1);
        let left = Arc::new(AtomicBool::new(false));
        let gone = Arc::clone(&left);
        let job: Job = Box::new(move || {
            if !gone.load(Ordering::Acquire) {
                // The caller may have left meanwhile; then nobody wants the answer.
                let _ = answer.send(job());
            }
        });
        match self.jobs.try_send(job) {
            Ok(()) => {}
            Err(TrySendError::Full(_)) => {
                return Err(PoolError::Busy { waiting_max: self.queue_max });
            }
            Err(TrySendError::Disconnected(_)) => return Err(PoolError::Failed),
        }
        answered.recv_timeout(wait).map_err(|e| match e {
            RecvTimeoutError::Timeout => {
                left.store(true, Ordering::Release);
                PoolError::TimedOut { ms: wait.as_millis() }
            }
            // The sender was dropped without an answer: the job panicked.
            RecvTimeoutError::Disconnected => PoolError::Failed,
        })
    }
}

fn work(queue: &Mutex<Receiver<Job>>) {
    loop {
        let job = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(job) = job else { return };
        // What a job captures is dropped with it; nothing half-changed is seen afterwards.
        let _ = catch_unwind(AssertUnwindSafe(job));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WAIT: Duration = Duration::from_secs(20);

    #[test]
    fn a_panic_fails_one_job_and_the_thread_lives_on() {
        let pool = ParserPool::new(1, 4).unwrap();
        assert_eq!(pool.run(WAIT, || -> u8 { panic!("on purpose") }), Err(PoolError::Failed));
        assert_eq!(pool.run(WAIT, || 7), Ok(7));
    }

    #[test]
    fn a_full_queue_is_busy_and_a_slow_job_times_out() {
        let pool = Arc::new(ParserPool::new(1, 1).unwrap());
        let (go, gate) = sync_channel::<()>(0);
        let gate = Mutex::new(gate);
        let slow = Arc::clone(&pool);
        let (begun, begins) = sync_channel(0);
        let first = thread::spawn(move || {
            slow.run(WAIT, move || {
                begun.send(()).unwrap();
                gate.lock().unwrap().recv().unwrap();
            })
        });
        begins.recv().unwrap();
        // One runs; this one waits and gives up; its place in the queue stays taken.
        let short = Duration::from_millis(1);
        assert_eq!(pool.run(short, || ()), Err(PoolError::TimedOut { ms: 1 }));
        assert_eq!(pool.run(short, || ()), Err(PoolError::Busy { waiting_max: 1 }));
        go.send(()).unwrap();
        assert_eq!(first.join().unwrap(), Ok(()));
        // The place is free once the thread has taken the job that nobody waits for.
        let mut answer = pool.run(WAIT, || 1);
        while answer == Err(PoolError::Busy { waiting_max: 1 }) {
            thread::yield_now();
            answer = pool.run(WAIT, || 1);
        }
        assert_eq!(answer, Ok(1));
    }

    #[test]
    fn stacks_are_deep() {
        fn down(n: usize) -> usize {
            let pad = std::hint::black_box([n; 128]);
            if n == 0 { 0 } else { down(n - 1) + std::hint::black_box(pad)[0] / n }
        }
        let pool = ParserPool::new(1, 1).unwrap();
        // About 20 MiB of frames.
        assert_eq!(pool.run(WAIT, || down(15_000)), Ok(15_000));
    }
}
