//! Threads beside each other that share no work, for connections that need more than one processor.
//!
//! Workers of one runtime wake each other for what one of them could have done, which costs small
//! commands more than it gives them. A lane is a thread that is a runtime by itself: a connection
//! stays with the lane that it was given, and with it everything that it starts.

use std::{
    io,
    sync::atomic::{AtomicUsize, Ordering},
    thread,
};

use tokio::{
    runtime::{Handle, Runtime},
    sync::oneshot,
    task::JoinHandle,
};

/// One thread.
struct Lane {
    runtime: Handle,
    /// Ends it when dropped.
    _stop: oneshot::Sender<()>,
}

/// Connections are given to each in turn.
#[derive(Default)]
pub struct Lanes {
    lanes: Vec<Lane>,
    next: AtomicUsize,
}

impl Lanes {
    /// So many of them; none: connections stay where they were accepted. `runtime` makes one that
    /// is driven by one thread; `begin` is called in each.
    pub fn start(
        count: usize,
        runtime: impl Fn() -> io::Result<Runtime>,
        begin: fn(),
    ) -> io::Result<Self> {
        let lane = |at: usize| {
            let runtime = runtime()?;
            let (handle, (stop, stopped)) = (runtime.handle().clone(), oneshot::channel::<()>());
            // The kernel keeps 15 characters of a name.
            thread::Builder::new().name(format!("bulla-lane-{at}")).spawn(move || {
                begin();
                let _ = runtime.block_on(stopped);
                runtime.shutdown_background();
            })?;
            Ok(Lane { runtime: handle, _stop: stop })
        };
        let lanes: io::Result<Vec<Lane>> = (0..count).map(lane).collect();
        Ok(Self { lanes: lanes?, next: AtomicUsize::new(0) })
    }

    /// Starts a task in the next lane.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) -> JoinHandle<()> {
        let turn = self.next.fetch_add(1, Ordering::Relaxed);
        match self.lanes.get(turn % self.lanes.len().max(1)) {
            Some(lane) => lane.runtime.spawn(task),
            None => tokio::spawn(task),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    fn lanes(count: usize) -> Lanes {
        let runtime = || tokio::runtime::Builder::new_current_thread().build();
        Lanes::start(count, runtime, || {}).unwrap()
    }

    #[tokio::test]
    async fn each_has_its_turn_and_none_is_no_error() {
        for count in [0, 1, 3] {
            let lanes = lanes(count);
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

    #[tokio::test]
    async fn what_they_run_ends_with_them() {
        let lanes = lanes(1);
        let (tell, told) = oneshot::channel::<()>();
        let task = async move {
            let _held = tell;
            std::future::pending::<()>().await;
        };
        lanes.spawn(task);
        drop(lanes);
        assert!(told.await.is_err());
    }
}
