//! Who asks, and how that is found out: tokens, certificates and passwords (etcd server/auth).
//!
//! Invariants:
//! - A password leaves this module as a bcrypt hash or not at all: it is in no entry, no log line and no error.
//! - [`policy`] says for every call what it takes; a call that is not listed there cannot be compiled, let alone made.
//! - Finding out who asks changes nothing: rights are judged by the state machine's tables, when the call comes in and again when its
//!   entry is applied.

mod jwt;
mod password;
pub mod policy;
mod tokens;

use std::sync::Arc;
use std::time::Duration;

use replica::state_machine::Error as Refusal;
use replica::state_machine::auth::{Auth, AuthInfo};
use tonic::metadata::MetadataMap;

use crate::config::Config;
use crate::handle::{Error, Handle};
use crate::listener::Connection;
pub use password::Passwords;
pub use tokens::Tokens;

/// On whose behalf a call is made.
#[derive(Debug, Clone)]
pub enum Asker {
    /// Authentication is off: nobody is asked who they are.
    Unasked,
    /// Neither a token nor a certificate came.
    Nobody,
    /// A user, and the revision of the rights at which they were let in.
    User(AuthInfo),
    /// A token came that is not, or no longer, valid.
    Rejected,
}

impl Asker {
    /// What goes into entries and is judged by the tables: empty for nobody.
    ///
    /// # Errors
    /// `invalid auth token`.
    pub fn info(&self) -> Result<AuthInfo, Error> {
        match self {
            Asker::Unasked | Asker::Nobody => Ok(AuthInfo::default()),
            Asker::User(info) => Ok(info.clone()),
            Asker::Rejected => Err(Error::Refused(Refusal::InvalidAuthToken)),
        }
    }

    /// The same, refusing nobody.
    ///
    /// # Errors
    /// `invalid auth token`, `user name is empty`.
    pub fn user(&self) -> Result<AuthInfo, Error> {
        match self {
            Asker::Nobody => Err(Error::Refused(Refusal::UserEmpty)),
            _ => self.info(),
        }
    }
}

/// How this member finds out who asks.
#[derive(Debug)]
pub struct Authentication {
    /// Users and roles.
    pub table: Auth,
    /// How tokens are made and read.
    pub tokens: Tokens,
    /// Hashes and checks passwords.
    pub passwords: Passwords,
    /// Whether a certificate's common name is a user (`--client-cert-auth`).
    by_certificate: bool,
}

impl Authentication {
    /// As the flags have it.
    pub fn new(config: &Config, table: Auth, tokens: Tokens) -> Arc<Authentication> {
        Arc::new(Authentication {
            table,
            tokens,
            passwords: Passwords::new(config.bcrypt_cost),
            by_certificate: config.client_tls.client_cert_auth,
        })
    }

    /// Who makes a call, by its metadata, else by the connection's certificate. A simple token may be ahead of what this member has
    /// applied, and is waited for.
    pub async fn asker(&self, call: &Credentials<'_>, handle: &Handle, now: Duration) -> Asker {
        if !self.table.is_enabled() {
            return Asker::Unasked;
        }
        if let (Tokens::Simple, Some(index)) = (&self.tokens, call.token().and_then(tokens::index_of)) {
            // Too late is not valid: the look-up will say so.
            handle.wait_applied(index).await.ok();
        }
        self.asker_now(call, now)
    }

    /// The same without waiting.
    pub fn asker_now(&self, call: &Credentials<'_>, now: Duration) -> Asker {
        if !self.table.is_enabled() {
            return Asker::Unasked;
        }
        let Credentials { metadata, connection } = call;
        if call.has_token() {
            let holder = call
                .token()
                .and_then(|token| self.tokens.holder(&self.table, token, now));
            if holder.is_none() {
                tracing::warn!(remote = ?connection.remote, "invalid auth token");
            }
            return holder.map_or(Asker::Rejected, Asker::User);
        }
        // The gateway's calls come with a certificate of whoever runs the gateway, not of who asks.
        if !self.by_certificate || metadata.contains_key("grpcgateway-accept") {
            return Asker::Nobody;
        }
        match &connection.common_name {
            Some(name) => Asker::User(AuthInfo {
                username: name.clone(),
                revision: self.table.revision(),
            }),
            None => Asker::Nobody,
        }
    }
}

/// What a call brings to say who makes it.
#[derive(Debug, Clone, Copy)]
pub struct Credentials<'a> {
    /// Its headers.
    pub metadata: &'a MetadataMap,
    /// Where it came in.
    pub connection: &'a Connection,
}

impl<'a> Credentials<'a> {
    fn has_token(&self) -> bool {
        self.metadata.contains_key("token") || self.metadata.contains_key("authorization")
    }

    /// `token` from gRPC clients, `authorization` through the gateway.
    pub fn token(&self) -> Option<&'a str> {
        let value = self
            .metadata
            .get("token")
            .or_else(|| self.metadata.get("authorization"))?;
        let text = value.to_str().ok()?;
        Some(text.strip_prefix("Bearer ").unwrap_or(text))
    }
}
