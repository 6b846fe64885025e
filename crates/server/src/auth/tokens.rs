//! Tokens: simple ones, which all members keep in memory, and signed ones, which nobody keeps (`--auth-token`).
//!
//! Invariant: a simple token's letters are drawn here, before the entry is proposed, and its number is the entry's, so that every member
//! makes the same token of it.

use std::time::Duration;

use rand::distr::{Alphabetic, SampleString as _};
use replica::state_machine::Error as Refusal;
use replica::state_machine::auth::{Auth, AuthInfo};

use super::jwt::Jwt;
use crate::handle::Error;

/// Letters of a simple token.
const LETTERS: usize = 16;

/// The kind of tokens.
#[derive(Debug)]
pub enum Tokens {
    /// Random letters.
    Simple,
    /// Signed.
    Jwt(Box<Jwt>),
    /// None at all: users come by certificate alone.
    None,
}

impl Tokens {
    /// Reads `--auth-token`.
    ///
    /// # Errors
    /// What is wrong with it, and the remedy.
    pub fn parse(flag: &str) -> Result<Tokens, String> {
        let mut parts = flag.split(',');
        let kind = parts.next().unwrap_or_default();
        let mut options = std::collections::BTreeMap::new();
        for part in parts {
            let malformed = || format!("--auth-token {flag:?}: option {part:?} is not of the form name=value");
            let (name, value) = part.split_once('=').ok_or_else(malformed)?;
            if value.contains('=') {
                return Err(malformed());
            }
            if options.insert(name, value).is_some() {
                return Err(format!("--auth-token {flag:?}: option {name:?} is given twice"));
            }
        }
        match kind {
            "simple" => {
                tracing::warn!("simple token is not cryptographically signed");
                Ok(Tokens::Simple)
            }
            "jwt" => Ok(Tokens::Jwt(Box::new(Jwt::new(&options)?))),
            "" => Ok(Tokens::None),
            _ => Err(format!(
                "--auth-token: unknown kind of tokens {kind:?}: use 'simple', or 'jwt,sign-method=...,priv-key=...'"
            )),
        }
    }

    /// The random part of a token to be; empty where entries hold none.
    pub fn new_prefix(&self) -> String {
        match self {
            Tokens::Simple => Alphabetic.sample_string(&mut rand::rng(), LETTERS),
            Tokens::Jwt(_) | Tokens::None => String::new(),
        }
    }

    /// The token of a user who was let in; `applied` is what the entry made.
    ///
    /// # Errors
    /// There is no key to sign with.
    pub fn issue(&self, name: &str, auth_revision: u64, applied: String) -> Result<String, Error> {
        match self {
            Tokens::Simple => Ok(applied),
            Tokens::Jwt(jwt) => jwt.sign(name, auth_revision),
            Tokens::None => Err(Error::Refused(Refusal::AuthFailed)),
        }
    }

    /// Who holds a token.
    pub fn holder(&self, table: &Auth, token: &str, now: Duration) -> Option<AuthInfo> {
        match self {
            Tokens::Simple => table.token_holder(token, now),
            Tokens::Jwt(jwt) => jwt.verify(token),
            Tokens::None => None,
        }
    }
}

/// The entry that a simple token was made by.
pub(super) fn index_of(token: &str) -> Option<u64> {
    let (_, index) = token.split_once('.')?;
    index.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_flag_is_read_as_etcd_reads_it() {
        assert!(matches!(Tokens::parse("simple"), Ok(Tokens::Simple)));
        assert!(matches!(Tokens::parse(""), Ok(Tokens::None)));
        for (flag, says) in [
            ("jwt", "sign-method"),
            ("jwt,sign-method", "name=value"),
            ("jwt,sign-method=a,sign-method=b", "given twice"),
            ("jwt,sign-method=RS256", "pub-key"),
            ("jwt,sign-method=RS256,priv-key=/none", "/none"),
            ("fernet", "unknown kind"),
        ] {
            let error = Tokens::parse(flag).unwrap_err();
            assert!(
                error.contains(says) && error.contains("--auth-token"),
                "{flag}: {error}"
            );
        }
    }

    #[test]
    fn prefixes_are_sixteen_letters_and_differ() {
        let (a, b) = (Tokens::Simple.new_prefix(), Tokens::Simple.new_prefix());
        assert!(
            a.len() == 16 && a.chars().all(|c| c.is_ascii_alphabetic()) && a != b,
            "{a} {b}"
        );
        assert_eq!(index_of("abc.17"), Some(17));
        assert_eq!(
            (index_of("abc"), index_of("a.b.3"), index_of("a.-1")),
            (None, None, None)
        );
    }
}
