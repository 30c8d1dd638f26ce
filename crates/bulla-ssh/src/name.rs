//! Login names: `account%resource`. Pure.

/// Longest login name.
pub const LOGIN_BYTES_MAX: usize = 256;

/// The name under which anybody who is identified gets a certificate, and nothing else.
pub const CERTIFY: &str = "bulla";

/// Whom and what a client asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Login {
    /// The account at the target.
    pub account: String,
    /// None where the client named no resource.
    pub resource: Option<String>,
}

/// Names that neither a shell nor a record can misread.
fn is_plain(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._@-".contains(c);
    !name.is_empty() && !name.starts_with('-') && name.chars().all(plain)
}

impl Login {
    /// None: no name that anybody could have.
    pub fn parse(name: &str) -> Option<Self> {
        if name.len() > LOGIN_BYTES_MAX {
            return None;
        }
        let (account, resource) = match name.split_once('%') {
            Some((account, resource)) => (account, Some(resource)),
            None => (name, None),
        };
        let fits = is_plain(account) && resource.is_none_or(is_plain);
        let resource = resource.map(str::to_owned);
        fits.then(|| Self { account: account.to_owned(), resource })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_or_refused() {
        let long = "a".repeat(LOGIN_BYTES_MAX + 1);
        for (name, expect) in [
            ("deploy%web", Some(("deploy", Some("web")))),
            ("deploy", Some(("deploy", None))),
            ("a.b@c%web-1", Some(("a.b@c", Some("web-1")))),
            ("", None),
            ("%web", None),
            ("deploy%", None),
            ("a%b%c", None),
            ("-oProxyCommand=x%web", None),
            ("de ploy%web", None),
            ("deploy%we\nb", None),
            ("dépl%web", None),
            (&long, None),
        ] {
            let read = Login::parse(name);
            let read = read.as_ref().map(|l| (l.account.as_str(), l.resource.as_deref()));
            assert_eq!(read, expect, "{name:?}");
        }
    }
}
