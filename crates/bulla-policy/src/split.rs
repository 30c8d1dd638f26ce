//! One file into its policies, so that a mistake in one does not hide those of the next.
//!
//! Follows Cedar's own lexer: a policy ends with the first `;` outside strings and comments.
//! A piece that is not exactly one policy is refused by Cedar's parser afterwards, so a wrong cut
//! can cause an error, never another meaning.

/// One policy's text within its file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Piece<'a> {
    /// Byte offset in the file of the policy's first token.
    pub offset: usize,
    /// From the first token to the `;`, or to the end of the file when there is none.
    pub text: &'a str,
}

pub(crate) fn split(text: &str) -> Vec<Piece<'_>> {
    let bytes = text.as_bytes();
    let mut pieces = Vec::new();
    let mut start: Option<usize> = None;
    let mut at = 0;
    let mut close = |start: &mut Option<usize>, end: usize| {
        if let Some(from) = start.take() {
            let text = text.get(from..end).unwrap_or_default();
            pieces.push(Piece { offset: from, text });
        }
    };
    while let Some(byte) = bytes.get(at) {
        match byte {
            b'/' if bytes.get(at + 1) == Some(&b'/') => {
                while !matches!(bytes.get(at), None | Some(b'\n' | b'\r')) {
                    at += 1;
                }
            }
            b'"' => {
                start.get_or_insert(at);
                at += 1;
                while let Some(byte) = bytes.get(at) {
                    at += 1;
                    match byte {
                        b'"' => break,
                        b'\\' => at += 1,
                        _ => {}
                    }
                }
            }
            b';' => {
                start.get_or_insert(at);
                at += 1;
                close(&mut start, at);
            }
            byte => {
                // Cedar's `\s` is Unicode's: whatever else this takes for a token, the parser skips.
                if !byte.is_ascii_whitespace() {
                    start.get_or_insert(at);
                }
                at += 1;
            }
        }
    }
    close(&mut start, bytes.len());
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expect: &[(usize, &str)]) {
        let found: Vec<(usize, &str)> =
            split(text).iter().map(|piece| (piece.offset, piece.text)).collect();
        assert_eq!(found, expect, "{text:?}");
    }

    #[test]
    fn pieces_end_where_policies_do() {
        check("", &[]);
        check(" \n// only; a comment", &[]);
        check("a;b;", &[(0, "a;"), (2, "b;")]);
        check("// x;\n a ; // y;\r b", &[(7, "a ;"), (18, "b")]);
        check("a \";\" // \";\n ; b", &[(0, "a \";\" // \";\n ;"), (15, "b")]);
        check(r#"a "\";" ; b "\\"; c"#, &[(0, r#"a "\";" ;"#), (10, r#"b "\\";"#), (18, "c")]);
        check("a \"never closed ; ", &[(0, "a \"never closed ; ")]);
        check("a \"\\", &[(0, "a \"\\")]);
        check(";;", &[(0, ";"), (1, ";")]);
        check("ä/ö;", &[(0, "ä/ö;")]);
    }
}
