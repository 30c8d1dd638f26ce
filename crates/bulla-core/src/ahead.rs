//! How far a session in `bounded` mode may be ahead of its record.

use crate::{Pending, Timestamp};

/// Bytes that a `bounded` session releases ahead of the record: at most twice this, since what
/// came right before a mark may be on its way to the disk as well.
pub const AHEAD_BYTES_MAX: usize = 512 << 10;
/// Milliseconds for which it does so; the same applies.
pub const AHEAD_MS_MAX: u64 = 5;

/// How far a `bounded` session is ahead of its record.
#[derive(Debug, Default)]
pub struct Ahead {
    /// An append that was not durable when last looked at, and when it was made.
    mark: Option<(Pending, Timestamp)>,
    /// Released since, itself included.
    bytes: usize,
}

impl Ahead {
    /// What a release of `bytes` must wait for. A later append is durable only after an earlier one.
    pub fn wait(&mut self, bytes: usize, pending: Pending, now: Timestamp) -> Option<Pending> {
        let (since, before) = match &self.mark {
            Some((mark, since)) => match mark.peek() {
                None => (Some(*since), self.bytes),
                Some(Ok(_)) => (None, 0),
                // Nothing behind it will ever be durable.
                Some(Err(_)) => return Some(pending),
            },
            None => (None, 0),
        };
        let late = since.is_some_and(|since| now.ms_since(since) > AHEAD_MS_MAX);
        if late || before + bytes > AHEAD_BYTES_MAX {
            return Some(pending);
        }
        self.bytes = before + bytes;
        if since.is_none() {
            self.mark = Some((pending, now));
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Digest, Receipt, RecordError, pending};

    /// Whether a release of so many bytes must wait, at so many milliseconds.
    fn check(ahead: &mut Ahead, bytes: usize, ms: u64, waits: bool) -> crate::Completer {
        let (completer, pending) = pending();
        let now = Timestamp::from_secs(1).plus_ms(ms);
        assert_eq!(ahead.wait(bytes, pending, now).is_some(), waits, "{bytes} bytes at {ms} ms");
        completer
    }

    #[test]
    fn a_bounded_session_is_ahead_of_its_record_by_so_much_and_no_more() {
        let durable = || Ok(Receipt { index: 0, leaf: Digest::ZERO });
        let mut ahead = Ahead::default();
        let first = check(&mut ahead, 1, 0, false);
        let _second = check(&mut ahead, AHEAD_BYTES_MAX - 1, AHEAD_MS_MAX, false);
        let _full = check(&mut ahead, 1, AHEAD_MS_MAX, true);
        let _late = check(&mut ahead, 0, AHEAD_MS_MAX + 1, true);
        first.complete(durable());
        let next = check(&mut ahead, AHEAD_BYTES_MAX, 100, false);
        let _full = check(&mut ahead, 1, 100, true);
        next.complete(durable());
        let last = check(&mut ahead, 1, 200, false);
        last.complete(Err(RecordError::Full));
        let _failed = check(&mut ahead, 1, 200, true);
        let _huge = check(&mut Ahead::default(), AHEAD_BYTES_MAX + 1, 0, true);
    }
}
