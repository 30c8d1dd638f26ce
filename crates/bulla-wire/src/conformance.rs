//! The suite that every wire passes. A protocol's tests call these with a factory of its machine.

use bytes::{Bytes, BytesMut};

use crate::{Output, Outputs, Violation, Wire};

/// What a run of a machine did, without regard to how its input was cut.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Trace {
    /// Every byte that was judged, in order.
    pub judged: Vec<u8>,
    /// Every command: number, action, shown text.
    pub commands: Vec<(u64, String, String)>,
    /// Every continuation byte, in order.
    pub more: Vec<u8>,
    /// Everything the gateway itself said.
    pub said: Vec<u8>,
    /// Everything that was passed on from the target.
    pub replied: Vec<u8>,
    pub ended: Option<String>,
    pub violation: Option<String>,
}

impl Trace {
    fn take(&mut self, out: &mut Outputs, wire: &mut dyn Wire) {
        let mut work: Outputs = std::mem::take(out);
        while !work.is_empty() {
            let mut next = Outputs::new();
            for output in work {
                match output {
                    Output::Judge { number, draft } => {
                        let command = draft.command();
                        let (action, shown) =
                            (command.action.to_string(), command.shown.to_string());
                        self.judged.extend_from_slice(draft.payload());
                        self.commands.push((number, action, shown));
                        wire.cleared(number, &Default::default(), &mut next);
                    }
                    Output::Refuse { number, refusal, .. } => {
                        wire.refused(number, &refusal, &mut next);
                    }
                    Output::More { bytes, .. } => self.more.extend_from_slice(&bytes),
                    Output::Reply { bytes, .. } => self.replied.extend_from_slice(&bytes),
                    Output::ToClient(bytes) => self.said.extend_from_slice(&bytes),
                    Output::End { why } => self.ended = Some(why.into()),
                    Output::Done { .. }
                    | Output::Masked { .. }
                    | Output::Control(_)
                    | Output::Relearn => {}
                }
            }
            work = next;
        }
    }
    fn violated(&mut self, violation: Violation) {
        self.said.extend_from_slice(&violation.answer);
        self.violation = Some(violation.why.into_owned());
    }
}

/// Feeds `input` as client bytes in pieces of the given sizes (repeated), clearing every draft.
pub fn run_client(wire: &mut dyn Wire, input: &[u8], pieces: &[usize]) -> Trace {
    let mut trace = Trace::default();
    let (mut buffer, mut out) = (BytesMut::new(), Outputs::new());
    let mut rest = input;
    for size in pieces.iter().cycle() {
        let (piece, tail) = rest.split_at((*size).clamp(1, rest.len().max(1)).min(rest.len()));
        buffer.extend_from_slice(piece);
        rest = tail;
        // As long as the machine makes progress: a judged draft makes it stop.
        loop {
            let before = buffer.len();
            if let Err(violation) = wire.client(&mut buffer, &mut out) {
                trace.take(&mut out, wire);
                trace.violated(violation);
                return trace;
            }
            let judged =
                out.iter().any(|o| matches!(o, Output::Judge { .. } | Output::Refuse { .. }));
            trace.take(&mut out, wire);
            if buffer.len() == before && !judged {
                break;
            }
        }
        if rest.is_empty() || trace.ended.is_some() {
            return trace;
        }
    }
    trace
}

/// Chunking never changes outputs: the whole at once, byte by byte, and in odd pieces agree.
pub fn chunking_changes_nothing(mut make: impl FnMut() -> Box<dyn Wire>, input: &[u8]) -> Trace {
    let whole = run_client(&mut *make(), input, &[input.len().max(1)]);
    for pieces in [&[1][..], &[3, 1, 7], &[5], &[4096, 2]] {
        let cut = run_client(&mut *make(), input, pieces);
        assert_eq!(whole, cut, "cut in pieces of {pieces:?}");
    }
    whole
}

/// Every judged byte is a slice of client input, in order; every client byte is accounted for
/// unless the machine says in `constant` that it drops it (framing that it answers itself).
pub fn judged_bytes_are_the_clients(trace: &Trace, input: &[u8]) {
    let mut at = 0;
    for byte in &trace.judged {
        match input.get(at..).and_then(|rest| rest.iter().position(|b| b == byte)) {
            Some(skip) => at += skip + 1,
            None => panic_with("a judged byte is not the client's"),
        }
    }
}

/// Arbitrary bytes never panic and never make the machine hold more than `limit` bytes.
pub fn survives(wire: &mut dyn Wire, input: &[u8], limit: usize) {
    let _ = run_client(wire, input, &[64]);
    assert!(wire.held_bytes() <= limit, "holds {} bytes", wire.held_bytes());
    let (mut buffer, mut out) = (BytesMut::from(input), Outputs::new());
    let _ = wire.target(&mut buffer, &mut out);
    assert!(wire.held_bytes() <= limit, "holds {} bytes", wire.held_bytes());
}

/// The bytes of every `Reply` and `ToClient`, in order: what the client would see.
pub fn seen_by_client(out: &Outputs) -> Bytes {
    let mut seen = BytesMut::new();
    for output in out {
        match output {
            Output::Reply { bytes, .. } | Output::ToClient(bytes) => seen.extend_from_slice(bytes),
            _ => {}
        }
    }
    seen.freeze()
}

#[allow(clippy::panic)] // The suite is called from tests alone; a failed check must stop them.
fn panic_with(why: &str) -> ! {
    panic!("{why}")
}
