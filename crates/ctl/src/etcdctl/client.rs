//! A client of an etcd cluster, as far as etcdctl needs one.
//!
//! Invariants:
//! - A read may be repeated at another endpoint; a write is sent once, because whether it was carried out cannot be known.
//! - What failed is described as etcd's client describes it, on stderr and in the error: scripts look for these texts.

mod dial;
mod failure;
mod stream;
mod tls;

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use prost::Message;
use proto::etcdserverpb as pb;
use tokio::task::JoinSet;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::metadata::MetadataValue;
use tonic::{Code, Request, Status};
use tonic_prost::ProstCodec;

pub(super) use failure::Failure;
pub(super) use stream::Watching;
pub(super) use tls::TlsOptions;

use super::json::Json;
use super::log::log;
use dial::{Connection, Dial};

/// The API that goes with this client, as every call says.
const API_VERSION: &str = "3.7";

/// How often a call that may be repeated is repeated, and how long to wait when all endpoints had their turn.
const TRIES_MAX: u32 = 100;
const RETRY_WAIT: Duration = Duration::from_millis(25);

/// After so long the next endpoint is dialled beside the one that does not answer.
const NEXT_ENDPOINT_AFTER: Duration = Duration::from_millis(300);
const REDIAL_WAIT: Duration = Duration::from_millis(200);

/// Bytes of a request unless the user says otherwise.
const REQUEST_BYTES_MAX: usize = 2 << 20;

/// Some number below `count`, another one each time; nothing depends on which.
fn any_below(count: usize) -> usize {
    use std::hash::{BuildHasher, RandomState};
    let random = RandomState::new().hash_one(0);
    usize::try_from(random % count.max(1) as u64).unwrap_or(0)
}

/// May a call be sent twice?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Policy {
    Repeatable,
    Once,
}

/// Whom to ask, and how.
#[derive(Debug, Clone)]
pub(super) struct Config {
    pub endpoints: Vec<String>,
    pub dial_timeout: Duration,
    pub keepalive_time: Duration,
    pub keepalive_timeout: Duration,
    pub request_bytes_max: usize,
    pub answer_bytes_max: usize,
    /// `None`: no flag speaks of TLS.
    pub tls: Option<TlsOptions>,
    /// Name and password.
    pub user: Option<(String, String)>,
    pub token: String,
    /// Under which name log lines appear.
    pub logger: &'static str,
}

/// A client. Connects when it is first used.
#[derive(Debug, Clone)]
pub(super) struct Client {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    config: Config,
    dial: Dial,
    connection: Mutex<Option<(usize, Connection)>>,
    token: Mutex<String>,
}

/// What can be wrong with a configuration.
pub(super) enum ConfigError {
    /// A file or flag.
    Arguments(String),
    /// The cluster refused the user, or cannot be asked.
    Connection(Failure),
}

impl Client {
    /// Checks files and signs in.
    pub async fn new(config: Config) -> Result<Client, ConfigError> {
        let made = config.tls.as_ref().map(tls::config).transpose();
        let made = made.map_err(ConfigError::Arguments)?;
        if config.endpoints.is_empty() {
            let text = "etcdclient: no available endpoints";
            return Err(ConfigError::Connection(Failure::Other(text.into())));
        }
        if !config.token.is_empty() && config.user.is_some() {
            let text = "username/password or token is allowed, but not both";
            return Err(ConfigError::Connection(Failure::Other(text.into())));
        }
        let (send, receive) = (config.request_bytes_max, config.answer_bytes_max);
        if receive > 0 && send > receive {
            let text =
                format!("gRPC message recv limit ({receive} bytes) must be greater than send limit ({send} bytes)");
            return Err(ConfigError::Connection(Failure::Other(text)));
        }
        let dial = Dial {
            tls: made.map(Arc::new),
            timeout: config.dial_timeout,
            keepalive_time: config.keepalive_time,
            keepalive_timeout: config.keepalive_timeout,
        };
        let token = Mutex::new(config.token.clone());
        let client = Client {
            shared: Arc::new(Shared {
                config,
                dial,
                connection: Mutex::new(None),
                token,
            }),
        };
        client.sign_in().await.map_err(ConfigError::Connection)?;
        Ok(client)
    }

    pub fn endpoints(&self) -> &[String] {
        &self.shared.config.endpoints
    }

    /// A page that the first endpoint shows over HTTP/1.
    ///
    /// # Errors
    /// Why there is none.
    pub async fn fetch(&self, path: &str) -> Result<String, String> {
        dial::fetch(&self.endpoints()[0], &self.shared.dial, path).await
    }

    /// Gets a token for the user, if there is one. A cluster without authentication needs none.
    async fn sign_in(&self) -> Result<(), Failure> {
        let Some((name, password)) = self.shared.config.user.clone() else {
            return Ok(());
        };
        if name.is_empty() || password.is_empty() {
            return Ok(());
        }
        let timeout = self.shared.config.dial_timeout;
        let deadline = (!timeout.is_zero()).then(|| Instant::now() + timeout);
        let request = pb::AuthenticateRequest { name, password };
        let method = "/etcdserverpb.Auth/Authenticate";
        let answer: Result<pb::AuthenticateResponse, Failure> =
            self.send(method, Policy::Once, &request, deadline).await;
        let token = match answer {
            Ok(answer) => answer.token,
            Err(failure) if failure.is("etcdserver: authentication is not enabled") => String::new(),
            Err(failure) => return Err(failure),
        };
        *self.token() = token;
        Ok(())
    }

    fn token(&self) -> std::sync::MutexGuard<'_, String> {
        self.shared
            .token
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn current(&self) -> std::sync::MutexGuard<'_, Option<(usize, Connection)>> {
        self.shared
            .connection
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// The connection in use, or a new one to the first endpoint that takes one, beginning with any of them, so that many runs of the
    /// program spread their load.
    ///
    /// # Errors
    /// Why the last try failed, when the deadline has come.
    async fn connection(&self, deadline: Option<Instant>) -> Result<(usize, Connection), String> {
        if let Some(current) = self.current().clone() {
            return Ok(current);
        }
        let count = self.endpoints().len();
        let mut why = "no connection was tried".to_owned();
        let mut first = any_below(count);
        loop {
            let round = self.round(first, &mut why);
            let opened = match deadline {
                Some(deadline) => match tokio::time::timeout_at(deadline.into(), round).await {
                    Ok(opened) => opened,
                    Err(_) => return Err(why),
                },
                None => round.await,
            };
            if let Some((index, connection)) = opened {
                *self.current() = Some((index, connection.clone()));
                return Ok((index, connection));
            }
            first = (first + 1) % count;
            let again = Instant::now() + REDIAL_WAIT;
            if let Some(deadline) = deadline
                && deadline <= again
            {
                tokio::time::sleep_until(deadline.into()).await;
                return Err(why);
            }
            tokio::time::sleep_until(again.into()).await;
        }
    }

    /// Dials every endpoint once, the next beside one that is slow; the first that answers wins.
    async fn round(&self, first: usize, why: &mut String) -> Option<(usize, Connection)> {
        let count = self.endpoints().len();
        let mut dialling = JoinSet::new();
        for offset in 0..count {
            let index = (first + offset) % count;
            let (endpoint, how) = (self.endpoints()[index].clone(), self.shared.dial.clone());
            dialling.spawn(async move { (index, dial::dial(&endpoint, &how).await) });
            let last = offset + 1 == count;
            loop {
                let next = match last {
                    true => dialling.join_next().await,
                    false => match tokio::time::timeout(NEXT_ENDPOINT_AFTER, dialling.join_next()).await {
                        Ok(next) => next,
                        Err(_) => break,
                    },
                };
                match next {
                    Some(Ok((index, Ok(connection)))) => return Some((index, connection)),
                    Some(Ok((_, Err(error)))) => *why = error,
                    Some(Err(_)) => {}
                    None => break,
                }
            }
        }
        None
    }

    /// Leaves a connection that failed; the next one begins with another endpoint.
    fn leave(&self, index: usize) {
        let mut current = self.current();
        if current.as_ref().is_some_and(|(in_use, _)| *in_use == index) {
            *current = None;
        }
    }

    fn grpc(&self, connection: &Connection) -> Grpc<tonic::transport::Channel> {
        let answer = match self.shared.config.answer_bytes_max {
            0 => i32::MAX as usize,
            bytes => bytes,
        };
        Grpc::new(connection.channel.clone())
            .max_decoding_message_size(answer)
            .max_encoding_message_size(usize::MAX)
    }

    fn dress<T>(&self, mut request: Request<T>) -> Request<T> {
        let metadata = request.metadata_mut();
        metadata.insert("client-api-version", MetadataValue::from_static(API_VERSION));
        let token = self.token().clone();
        if let Ok(token) = MetadataValue::try_from(token.as_str())
            && !token.is_empty()
        {
            metadata.insert("token", token);
        }
        request
    }

    fn warn(&self, message: &str, method: &str, peer: &str, attempt: u32, error: &str) {
        let target = format!(
            "etcd-endpoints://{:p}/{}",
            Arc::as_ptr(&self.shared),
            self.endpoints()[0]
        );
        log(
            "warn",
            Some(self.shared.config.logger),
            concat!("etcdctl/client.rs:", line!()),
            message,
            &[
                ("target", Json::text(target)),
                ("peer", Json::text(peer)),
                ("method", Json::text(method)),
                ("attempt", Json::number(attempt)),
                ("error", Json::text(error)),
            ],
        );
    }

    /// One call and its answer; signs in again when the token is no longer good.
    ///
    /// # Errors
    /// What the server says, or [`Failure::Deadline`].
    pub async fn call<Q, R>(
        &self,
        method: &'static str,
        policy: Policy,
        request: &Q,
        deadline: Option<Instant>,
    ) -> Result<R, Failure>
    where
        Q: Message + Default + Clone + 'static,
        R: Message + Default + 'static,
    {
        let mut renewals = 0;
        loop {
            let failure = match self.send(method, policy, request, deadline).await {
                Ok(answer) => return Ok(answer),
                Err(failure) => failure,
            };
            let stale = failure.is("etcdserver: invalid auth token")
                || failure.is("etcdserver: revision of auth store is old")
                || failure.is("etcdserver: user name is empty") && self.shared.config.user.is_some();
            if !stale || !self.shared.config.token.is_empty() || renewals >= 10 {
                return Err(failure);
            }
            renewals += 1;
            self.sign_in().await?;
        }
    }

    async fn send<Q, R>(
        &self,
        method: &'static str,
        policy: Policy,
        request: &Q,
        deadline: Option<Instant>,
    ) -> Result<R, Failure>
    where
        Q: Message + Default + Clone + 'static,
        R: Message + Default + 'static,
    {
        let mut attempt = 0;
        loop {
            let opened = self.connection(deadline).await;
            let (index, connection) = opened.map_err(|why| {
                let text = format!("rpc error: code = DeadlineExceeded desc = latest balancer error: {why}");
                let nobody = "Peer{Addr: <nil>, LocalAddr: <nil>, AuthInfo: <nil>}";
                self.warn("retrying of unary invoker failed", method, nobody, attempt, &text);
                Failure::Deadline
            })?;
            let limit = match self.shared.config.request_bytes_max {
                0 => REQUEST_BYTES_MAX,
                bytes => bytes,
            };
            let size = request.encoded_len();
            let answer = if size > limit {
                let text = format!("trying to send message larger than max ({size} vs. {limit})");
                Err(Status::resource_exhausted(text))
            } else {
                self.once(&connection, method, request, deadline).await
            };
            let status = match answer {
                Ok(answer) => return Ok(answer),
                Err(status) => status,
            };
            let failure = Failure::of(status, deadline);
            self.warn(
                "retrying of unary invoker failed",
                method,
                &connection.peer,
                attempt,
                &failure.rpc_text(),
            );
            if failure.code() == Some(Code::Unavailable) {
                self.leave(index);
                attempt += 1;
                if policy == Policy::Repeatable && attempt < TRIES_MAX {
                    tokio::time::sleep(RETRY_WAIT).await;
                    continue;
                }
            }
            return Err(failure);
        }
    }

    async fn once<Q, R>(
        &self,
        connection: &Connection,
        method: &'static str,
        request: &Q,
        deadline: Option<Instant>,
    ) -> Result<R, Status>
    where
        Q: Message + Default + Clone + 'static,
        R: Message + Default + 'static,
    {
        let mut grpc = self.grpc(connection);
        let mut message = self.dress(Request::new(request.clone()));
        let codec: ProstCodec<Q, R> = ProstCodec::default();
        let path = PathAndQuery::from_static(method);
        let Some(deadline) = deadline else {
            grpc.ready().await.map_err(|error| Status::from_error(error.into()))?;
            return Ok(grpc.unary(message, path, codec).await?.into_inner());
        };
        message.set_timeout(deadline.saturating_duration_since(Instant::now()));
        let calling = async {
            grpc.ready().await.map_err(|error| Status::from_error(error.into()))?;
            Ok(grpc.unary(message, path, codec).await?.into_inner())
        };
        match tokio::time::timeout_at(deadline.into(), calling).await {
            Ok(answer) => answer,
            Err(_) => Err(Status::deadline_exceeded("context deadline exceeded")),
        }
    }
}
