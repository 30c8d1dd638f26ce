//! Places in a text, by its tokens.

use std::ops::Range;

use pg_query::protobuf::{ScanToken, Token};

pub(super) fn is_comment(token: &ScanToken) -> bool {
    matches!(Token::try_from(token.token), Ok(Token::SqlComment | Token::CComment))
}

/// A text with its tokens, comments left out.
pub(super) struct Text<'t> {
    pub text: &'t str,
    pub tokens: &'t [&'t ScanToken],
}

impl Text<'_> {
    fn token(&self, at: usize) -> Option<(Token, Range<usize>)> {
        let token = self.tokens.get(at)?;
        let (start, end) = (usize::try_from(token.start).ok()?, usize::try_from(token.end).ok()?);
        Some((Token::try_from(token.token).unwrap_or(Token::Nul), start..end))
    }

    fn starting(&self, location: usize) -> Option<usize> {
        let start = |token: &&ScanToken| usize::try_from(token.start).unwrap_or(usize::MAX);
        let at = self.tokens.partition_point(|token| start(token) < location);
        (start(self.tokens.get(at)?) == location).then_some(at)
    }

    fn is(&self, at: usize, token: Token) -> bool {
        self.token(at).is_some_and(|(t, _)| t == token)
    }

    /// The index of the token behind so many names with dots between, from a token on; a star is a
    /// name.
    fn behind(&self, from: usize, names: usize) -> Option<usize> {
        let mut at = from + 1;
        for _ in 1..names {
            if !self.is(at, Token::Ascii46) {
                return None;
            }
            at += 2;
        }
        Some(at)
    }

    /// A relation's name with what belongs to it: `ONLY`, parentheses, `*`. And whether `TABLE`
    /// stands before it, which is then part of it.
    pub fn relation(&self, location: usize) -> Option<(Range<usize>, bool)> {
        let first = self.starting(location)?;
        let mut last = first;
        while self.is(last + 1, Token::Ascii46) {
            last += 2;
        }
        let (mut from, mut to) = (first, last);
        if self.is(last + 1, Token::Ascii42) {
            to = last + 1;
        }
        let before = |n: usize| from.checked_sub(n);
        if before(1).is_some_and(|at| self.is(at, Token::Only)) {
            from -= 1;
        } else if before(2).is_some_and(|at| self.is(at, Token::Only))
            && self.is(from - 1, Token::Ascii40)
            && self.is(to + 1, Token::Ascii41)
        {
            from -= 2;
            to += 1;
        }
        let table = from.checked_sub(1).is_some_and(|at| self.is(at, Token::Table));
        if table {
            from -= 1;
        }
        Some((self.token(from)?.1.start..self.token(to)?.1.end, table))
    }

    /// So many names with dots between them, and the dot behind them if there is one more name.
    pub fn names(&self, location: usize, names: usize) -> Option<Range<usize>> {
        if names == 0 {
            return None;
        }
        let first = self.starting(location)?;
        let behind = self.behind(first, names)?;
        let end = if self.is(behind, Token::Ascii46) {
            self.token(behind + 1)?.1.start
        } else {
            self.token(behind - 1)?.1.end
        };
        Some(location..end)
    }

    /// Where the list of the `GROUP BY` begins that a place is in.
    pub fn group_by(&self, location: usize) -> Option<usize> {
        let mut at = self.starting(location)?;
        loop {
            at = at.checked_sub(1)?;
            let by = self.is(at, Token::By)
                && at.checked_sub(1).is_some_and(|before| self.is(before, Token::GroupP));
            if by {
                let (next, span) = self.token(at + 1)?;
                return (!matches!(next, Token::Distinct | Token::All)).then_some(span.start);
            }
        }
    }

    /// The end of a constant or a parameter with its casts, where nothing else goes on behind it.
    pub fn value_end(&self, location: usize) -> Option<usize> {
        let mut at = self.starting(location)?;
        while self.is(at + 1, Token::Typecast) {
            at += 2;
            self.token(at)?;
            while self.is(at + 1, Token::Ascii46) {
                at += 2;
            }
            if self.is(at + 1, Token::Ascii40) {
                while !self.is(at, Token::Ascii41) {
                    at += 1;
                    self.token(at)?;
                }
            }
        }
        let ends = match self.token(at + 1).map(|(token, _)| token) {
            None => true,
            Some(token) => matches!(
                token,
                Token::And
                    | Token::Ascii41
                    | Token::Ascii59
                    | Token::Order
                    | Token::GroupP
                    | Token::Having
                    | Token::Limit
                    | Token::Offset
                    | Token::Fetch
                    | Token::For
                    | Token::Union
                    | Token::Intersect
                    | Token::Except
            ),
        };
        ends.then(|| self.token(at)).flatten().map(|(_, span)| span.end)
    }

    /// The end of the parentheses that open behind a place.
    pub fn closing(&self, from: usize) -> Option<usize> {
        let start = |token: &&ScanToken| usize::try_from(token.start).unwrap_or(usize::MAX);
        let mut at = self.tokens.partition_point(|token| start(token) < from);
        if !self.is(at, Token::Ascii40) {
            return None;
        }
        while !self.is(at, Token::Ascii41) {
            at += 1;
            self.token(at)?;
        }
        Some(self.token(at)?.1.end)
    }

    /// It is a whole entry of a `RETURNING` list and has no name of its own.
    pub fn is_target(&self, span: &Range<usize>) -> bool {
        let Some(first) = self.starting(span.start) else { return false };
        let mut depth = 0_i32;
        let mut at = first;
        let led = loop {
            let Some(before) = at.checked_sub(1) else { return false };
            at = before;
            match self.token(at).map(|(t, _)| t) {
                Some(Token::Ascii41 | Token::Ascii93) => depth += 1,
                Some(Token::Ascii40 | Token::Ascii91) => depth -= 1,
                Some(Token::Returning) => break depth == 0,
                None => return false,
                _ => {}
            }
            if depth < 0 {
                return false;
            }
        };
        let own = first.checked_sub(1).is_some_and(|at| {
            self.is(at, Token::Returning)
                || self.is(at, Token::Ascii44)
                || self.is(at, Token::Ascii41)
        });
        let mut behind = first;
        while self.token(behind).is_some_and(|(_, t)| t.start < span.end) {
            behind += 1;
        }
        let ends = self.token(behind).is_none()
            || self.is(behind, Token::Ascii44)
            || self.is(behind, Token::Ascii59)
            || self.is(behind, Token::Ascii41);
        led && own && ends
    }
}
