//! What is common to all calls: the checks before (etcd server/etcdserver/api/v3rpc/interceptor.go), counting, and errors.
//!
//! Invariants:
//! - Every call that starts is counted as handled exactly once, cancelled ones as `Canceled`.

use std::future::Future;
use std::sync::Arc;
use std::time::Instant;

use replica::state_machine::Error as Refusal;
use tonic::metadata::MetadataMap;
use tonic::{Code, Response, Status};

use super::Api;
use crate::auth::policy::{self, Rule};
use crate::auth::{Asker, Credentials};
use crate::handle::{Error, Handle};
use crate::listener::stopped;
use crate::member::Member;
use crate::metrics::rpc::{METHODS, Method, MethodCalls};

/// Polls without a leader after which streams that require one are ended.
const NO_LEADER_POLLS: u32 = 3;

/// A refusal of the state machine as an error of the handle.
pub(super) fn refused<T>(result: Result<T, Refusal>) -> Result<T, Error> {
    result.map_err(Error::Refused)
}

/// The status that a client gets for an error.
pub(super) fn status(error: Error) -> Status {
    Status::new(Code::from_i32(error.code().number()), error.to_string())
}

/// A call under way. Dropped without an end it counts as cancelled.
#[derive(Debug)]
pub(super) struct Call {
    member: Arc<Member>,
    method: Method,
    started: Instant,
    ended: bool,
}

impl Call {
    fn begin(api: &Api, method: Method) -> Call {
        let call = Call {
            member: api.member.clone(),
            method,
            started: Instant::now(),
            ended: false,
        };
        call.counters().started();
        call
    }

    fn counters(&self) -> &MethodCalls {
        self.member.metrics.rpc.of(self.method)
    }

    /// A message came.
    pub fn received(&self) {
        self.counters().received();
    }

    /// A message goes out.
    pub fn sent(&self) {
        self.counters().sent();
    }

    /// The call ends with this code.
    pub fn end(mut self, code: Code) {
        self.ended = true;
        self.counters().handled(code as i32, self.started.elapsed());
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        if !self.ended {
            self.counters().handled(Code::Cancelled as i32, self.started.elapsed());
        }
    }
}

impl Api {
    /// Runs a unary call after the common checks.
    ///
    /// `work` is told who asks; for calls that are open to anyone, that is not found out.
    pub(super) async fn unary<T, W: Future<Output = Result<T, Error>>>(
        &self,
        method: Method,
        metadata: &MetadataMap,
        work: impl FnOnce(Asker) -> W,
    ) -> Result<Response<T>, Status> {
        let call = Call::begin(self, method);
        call.received();
        let result = match self.admit(method, metadata, "unary") {
            Ok(_) => match self.authorize(method, metadata).await {
                Ok(asker) => work(asker).await,
                Err(error) => Err(error),
            },
            Err(error) => Err(error),
        };
        let took = call.started.elapsed();
        if self
            .member
            .config
            .warning_unary_request_duration
            .positive()
            .is_some_and(|limit| took > limit)
        {
            let (service, name, _) = METHODS[method as usize];
            let remote = match self.connection.remote {
                Some(address) => address.to_string(),
                None => "No remote client info.".to_owned(),
            };
            tracing::warn!(
                "time spent" = ?took,
                remote,
                "response type" = format!("/{service}/{name}"),
                "request stats"
            );
        }
        match result {
            Ok(answer) => {
                call.sent();
                call.end(Code::Ok);
                Ok(Response::new(answer))
            }
            Err(error) => {
                let status = status(error);
                call.end(status.code());
                Err(status)
            }
        }
    }

    /// Begins a streaming call after the common checks. The second value tells whether the client requires a leader.
    pub(super) async fn stream(&self, method: Method, metadata: &MetadataMap) -> Result<(Call, bool, Asker), Status> {
        let call = Call::begin(self, method);
        let admitted = match self.admit(method, metadata, "stream") {
            Ok(requires_leader) => self
                .authorize(method, metadata)
                .await
                .map(|asker| (requires_leader, asker)),
            Err(error) => Err(error),
        };
        match admitted {
            Ok((requires_leader, asker)) => Ok((call, requires_leader, asker)),
            Err(error) => {
                let status = status(error);
                call.end(status.code());
                Err(status)
            }
        }
    }

    /// Who asks, after what [`policy`] demands of everybody who makes this call.
    async fn authorize(&self, method: Method, metadata: &MetadataMap) -> Result<Asker, Error> {
        let rule = policy::rule(method);
        if rule == Rule::Anyone {
            return Ok(Asker::Unasked);
        }
        let asker = self.asker(metadata).await;
        match rule {
            Rule::Anyone | Rule::Keys | Rule::Entry => {}
            Rule::User => {
                asker.user()?;
            }
            Rule::Root => refused(self.member.auth.table.check_admin(&asker.info()?))?,
        }
        Ok(asker)
    }

    /// Who makes a call with these headers on this connection.
    pub(super) async fn asker(&self, metadata: &MetadataMap) -> Asker {
        let member = &self.member;
        let credentials = Credentials {
            metadata,
            connection: &self.connection,
        };
        member.auth.asker(&credentials, &member.handle, member.uptime()).await
    }

    /// The checks; returns whether the client requires a leader.
    fn admit(&self, method: Method, metadata: &MetadataMap, kind: &str) -> Result<bool, Error> {
        if self.member.is_learner() && !answered_by_learners(method) {
            return Err(Error::Refused(Refusal::NotSupportedForLearner));
        }
        // HTTP/2 lets bytes through that are no text; Go's check of the version is for those.
        let version = match metadata.get("client-api-version") {
            None => "unknown",
            Some(version) => std::str::from_utf8(version.as_encoded_bytes())
                .map_err(|_| Error::Refused(Refusal::InvalidClientApiVersion))?,
        };
        self.member.metrics.client_requests.with(&[kind, version]).inc();
        let requires_leader = metadata.get("hasleader").is_some_and(|value| value == "true");
        if requires_leader && self.member.leader() == 0 {
            return Err(Error::NoLeader);
        }
        Ok(requires_leader)
    }
}

/// Of ranges a learner answers only serializable ones, which the range call checks itself.
fn answered_by_learners(method: Method) -> bool {
    matches!(method, Method::Range | Method::Status | Method::Snapshot)
}

/// Resolves when there has been no leader for three election timeouts.
pub(super) async fn leader_lost(handle: Handle) {
    let patience = handle.limits().election_timeout * NO_LEADER_POLLS;
    let mut leadership = handle.leadership();
    loop {
        if leadership.wait_for(|now| now.leader == 0).await.is_err() {
            return;
        }
        let found = leadership.wait_for(|now| now.leader != 0);
        if tokio::time::timeout(patience, found).await.is_err() {
            return;
        }
    }
}

/// Why a stream must end although its client wants more: the member stops, or has lost its leader.
pub(super) async fn stream_over(member: Arc<Member>, requires_leader: bool) -> Error {
    let mut stop = member.stop.clone();
    let lost = async {
        match requires_leader {
            true => leader_lost(member.handle.clone()).await,
            false => std::future::pending().await,
        }
    };
    tokio::select! {
        () = stopped(&mut stop) => Error::Stopped,
        () = lost => Error::NoLeader,
    }
}
