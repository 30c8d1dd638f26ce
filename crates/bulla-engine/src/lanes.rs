//! Threads beside each other that share no work, for connections that need more than one processor.
//!
//! Workers of one runtime wake each other for what one of them could have done, which costs small
//! commands more than it gives them. A lane is a runtime with one worker: a connection stays with
//! the lane that it was given, and with it everything that it starts.

use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::{runtime::Runtime, task::JoinHandle};

/// Connections are given to each in turn.
pub struct Lanes {
    runtimes: Vec<Runtime>,
    next: AtomicUsize,
}

impl Lanes {
    /// Each with one worker. Without any, connections stay where they were accepted.
    pub fn new(runtimes: Vec<Runtime>) -> Self {
        Self { runtimes, next: AtomicUsize::new(0) }
    }

    /// Starts a task in the next lane.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) -> JoinHandle<()> {
        let turn = self.next.fetch_add(1, Ordering::Relaxed);
        match self.runtimes.get(turn % self.runtimes.len().max(1)) {
            Some(lane) => lane.spawn(task),
            None => tokio::spawn(task),
        }
    }
}

/// A runtime may not wait for its end within another one's task.
impl Drop for Lanes {
    fn drop(&mut self) {
        self.runtimes.drain(..).for_each(Runtime::shutdown_background);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{collections::HashSet, thread};

    fn lane() -> Runtime {
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().unwrap()
    }

    #[tokio::test]
    async fn each_has_its_turn_and_none_is_no_error() {
        for count in [0, 1, 3] {
            let lanes = Lanes::new((0..count).map(|_| lane()).collect());
            let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
            for _ in 0..6 {
                let tell = tell.clone();
                let task = async move {
                    tell.send(thread::current().id()).unwrap();
                };
                lanes.spawn(task).await.unwrap();
            }
            drop(tell);
            let mut threads = HashSet::new();
            while let Some(thread) = told.recv().await {
                threads.insert(thread);
            }
            assert_eq!(threads.len(), count.max(1), "{count} lanes");
        }
    }
}
