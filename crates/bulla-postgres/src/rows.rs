//! Rows and copy data: as they come, or each with its values masked, as many as policy lets pass.

use std::sync::Arc;

use bulla_core::{Outcome, Refusal, RefusalKind, Status};
use bulla_sql::{CopyForm, Shape};
use bulla_wire::{Output, Outputs, Violation};
use bytes::BytesMut;

use crate::{
    cells::Row,
    content::Counts,
    frame::{self, HEADER_BYTES, Said},
    machine::{Expect, Item, Machine, Running},
    mask::Veil,
    refusal::broke,
    reply::MESSAGE_BYTES_MAX,
};

/// Bytes at the front of the input that belong together.
#[derive(Default)]
pub struct Run {
    pub number: u64,
    pub at: usize,
}

impl Run {
    pub fn flush(&mut self, input: &mut BytesMut, out: &mut Outputs) {
        if self.at > 0 {
            let bytes = input.split_to(self.at).freeze();
            out.push(Output::Reply { number: self.number, bytes, done: None });
            self.at = 0;
        }
    }
    /// The next bytes are of this command.
    pub fn of(&mut self, number: u64, input: &mut BytesMut, out: &mut Outputs) {
        if self.number != number {
            self.flush(input, out);
            self.number = number;
        }
    }
}

impl Running {
    /// What masks the rows that come now, and which of its statements they are of.
    pub fn rows_veil(&self) -> Option<(Arc<Veil>, usize)> {
        match self.by_name.get(self.at) {
            Some(Some(veil)) => Some((veil.clone(), 0)),
            Some(None) | None => self.veil.clone().map(|veil| (veil, self.at)),
        }
    }
}

/// Which messages of copy data are no rows, for whoever counts.
#[derive(Clone, Copy)]
struct Copied {
    /// The first of those that came now is none, or one of them: names, or the end in binary.
    less: u64,
}

impl Copied {
    fn of(running: &Running) -> Self {
        let form = running.rows_veil().and_then(|(veil, at)| veil.shape(at)?.copy.clone());
        // In binary the end is none; it is taken off at the beginning.
        let extra = match form {
            Some(CopyForm::Text { header, .. } | CopyForm::Csv { header, .. }) => header,
            Some(CopyForm::Binary) => true,
            None => false,
        };
        Self { less: u64::from(extra && !running.copy_begun) }
    }

    fn rows(self, pieces: u64) -> u64 {
        pieces.saturating_sub(self.less)
    }
}

impl Machine {
    /// A run of rows and copy data, as far as it is there. True: the command was cut.
    pub fn rows(
        &mut self,
        input: &mut BytesMut,
        run: &mut Run,
        out: &mut Outputs,
    ) -> Result<bool, Violation> {
        let Some(Item { expect: Expect::Query | Expect::Execute, number, .. }) = self.queue.front()
        else {
            return Ok(false);
        };
        let number = *number;
        let Some(running) = self.running.front().filter(|r| r.number == number) else {
            return Ok(false);
        };
        let (veil, before) = (running.rows_veil(), running.passed.0);
        let copied = Copied::of(running);
        let searches = running.veil.as_ref().is_some_and(|veil| veil.content.is_some());
        let changes = |veil: &&(Arc<Veil>, usize)| {
            searches || veil.0.shape(veil.1).is_some_and(Shape::is_late)
        };
        let cut = match veil.as_ref().filter(changes) {
            Some((veil, at)) => self.masked_rows((veil, *at), input, run, out)?,
            None => self.plain_rows(number, input, run, out),
        };
        let after = self.running.front_mut().filter(|r| r.number == number);
        let pieces = after.map_or(0, |running| {
            let pieces = running.passed.0.saturating_sub(before);
            running.copy_begun |= pieces > 0;
            pieces
        });
        let rows = copied.rows(pieces);
        if let Some((veil, at)) = veil.filter(|(veil, at)| rows > 0 && !veil.cells(*at).is_empty())
        {
            out.push(Output::Masked { number, cells: veil.count(at, rows) });
        }
        Ok(cut)
    }

    /// Rows whose values are masked here, each once it is whole.
    fn masked_rows(
        &mut self,
        (veil, statement): (&Veil, usize),
        input: &mut BytesMut,
        run: &mut Run,
        out: &mut Outputs,
    ) -> Result<bool, Violation> {
        let Some(running) = self.running.front_mut() else { return Ok(false) };
        let own = running.veil.clone();
        let content = own.as_ref().and_then(|veil| veil.content.as_deref());
        let (number, formats) = (running.number, running.formats.clone().unwrap_or_default());
        let described = || running.statement.as_ref().and_then(|of| of.columns.get()).cloned();
        let types = running.types.clone().or_else(described);
        let mut counts = Counts::new();
        let rows_max = running.max.0.unwrap_or(u64::MAX);
        let bytes_max = running.max.1.unwrap_or(u64::MAX);
        let mut masked = BytesMut::new();
        run.flush(input, out);
        let cut = loop {
            let Ok(Some(head)) = frame::head(input) else { break None };
            if !matches!(head.kind, b'D' | b'd') {
                break None;
            }
            if head.total() > MESSAGE_BYTES_MAX {
                return Err(broke("a row of more than 32 MiB, with values to be masked"));
            }
            if input.len() < head.total() {
                break None;
            }
            let body = input.get(HEADER_BYTES..head.total()).unwrap_or_default();
            let of = Row { statement, formats: &formats, types: types.as_deref(), content };
            let row = match head.kind {
                b'D' => veil.row(body, of, &mut counts)?,
                _ => {
                    let first = !std::mem::replace(&mut running.copy_begun, true);
                    veil.copied(body, (of, first, running.copies_binary), &mut counts)?
                }
            };
            let (rows, bytes) = (running.passed.0 + 1, running.passed.1 + row.len() as u64);
            if rows > rows_max {
                break Some("rows_max");
            }
            if bytes > bytes_max {
                break Some("bytes_max");
            }
            running.passed = (rows, bytes);
            running.rows_now += 1;
            masked.extend_from_slice(&row);
            drop(input.split_to(head.total()));
        };
        if !masked.is_empty() {
            out.push(Output::Reply { number, bytes: masked.freeze(), done: None });
        }
        if !counts.is_empty() {
            out.push(Output::Masked { number, cells: counts.into_iter().collect() });
        }
        if let Some(why) = cut {
            self.cut(why, out);
        }
        Ok(cut.is_some())
    }

    fn plain_rows(
        &mut self,
        number: u64,
        input: &mut BytesMut,
        run: &mut Run,
        out: &mut Outputs,
    ) -> bool {
        let Some(running) = self.running.front_mut() else { return false };
        let (rows_max, bytes_max) =
            (running.max.0.unwrap_or(u64::MAX), running.max.1.unwrap_or(u64::MAX));
        loop {
            let rest = input.get(run.at..).unwrap_or_default();
            let Ok(Some(head)) = frame::head(rest) else { return false };
            if !matches!(head.kind, b'D' | b'd') {
                return false;
            }
            let (rows, bytes) = (running.passed.0 + 1, running.passed.1 + head.total() as u64);
            if rows > rows_max || bytes > bytes_max {
                let why = if rows > rows_max { "rows_max" } else { "bytes_max" };
                run.flush(input, out);
                self.cut(why, out);
                return true;
            }
            running.passed = (rows, bytes);
            running.rows_now += 1;
            let n = head.total().min(rest.len());
            if run.number != number {
                // The slice that `rest` is of moves with the flush.
                run.of(number, input, out);
            }
            run.at += n;
            if n < head.total() {
                self.passing = Some((head.total() - n, number));
                return false;
            }
        }
    }

    /// More than policy lets pass: the response ends here, and with it the session.
    fn cut(&mut self, why: &'static str, out: &mut Outputs) {
        self.over = true;
        let Some(running) = self.running.pop_front() else { return };
        let rows = running.rows + running.rows_now;
        let outcome = Outcome { status: Status::Cut(why.into()), tag: running.tag, rows };
        out.push(Output::Done { number: running.number, outcome });
        let refusal = Refusal::plain(
            RefusalKind::Denied,
            format!("the response was cut: policy lets no more pass (`{why}`)"),
            "ask for less at once, for example with LIMIT; what came so far is not the whole",
        );
        let detail = refusal.detail();
        let said = Said {
            severity: "FATAL",
            code: "53400",
            message: &refusal.message,
            detail: Some(&detail),
            hint: Some(&refusal.hint),
            position: None,
        };
        let mut words = BytesMut::new();
        said.put(&mut words, b'E');
        out.push(Output::ToClient(words.freeze()));
        out.push(Output::End { why: "cut" });
    }
}
