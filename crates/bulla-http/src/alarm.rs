//! A deadline that moves, and is seldom met.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use tokio::time::{Instant, Sleep, sleep_until};

/// Its timer is made when it is first waited for, and kept: it may go off before the deadline of the
/// moment, and is set anew then, which costs less than setting it each time.
#[derive(Default)]
pub struct Alarm(Option<Pin<Box<Sleep>>>);

impl Alarm {
    /// Ready once `due` has come.
    pub fn poll(&mut self, cx: &mut Context<'_>, due: Instant) -> Poll<()> {
        let timer = self.0.get_or_insert_with(|| Box::pin(sleep_until(due)));
        if timer.deadline() > due {
            timer.as_mut().reset(due);
        }
        while timer.as_mut().poll(cx).is_ready() {
            if Instant::now() >= due {
                return Poll::Ready(());
            }
            timer.as_mut().reset(due);
        }
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use std::{future::poll_fn, time::Duration};

    use super::*;

    #[tokio::test]
    async fn it_goes_off_when_its_last_deadline_has_come() {
        let mut alarm = Alarm::default();
        let start = Instant::now();
        let after = |ms| start + Duration::from_millis(ms);
        // Put off before it was met, and brought forward.
        for (first, last) in [(20, 60), (600_000, 90)] {
            let waits = poll_fn(|cx| Poll::Ready(alarm.poll(cx, after(first)).is_pending())).await;
            assert!(waits || Instant::now() >= after(first));
            poll_fn(|cx| alarm.poll(cx, after(last))).await;
            assert!(Instant::now() >= after(last), "{last}");
        }
    }
}
