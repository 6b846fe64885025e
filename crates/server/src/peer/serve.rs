//! What this member answers on its peer URLs.
//!
//! Invariants:
//! - A stream's answer carries version and cluster headers also when it refuses: a Go peer reads a missing version as 2.0.0.
//! - 410 on a stream and 403 on a POST make a Go peer shut itself down, so they are sent to removed members alone (403 also for
//!   a message that is meant for another member, as etcd does).
//! - Nothing that a peer sends can panic this member; what cannot be parsed is 400, what is too large 413.

use std::io;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use prost::Message as _;
use proto::etcdserverpb::{HashKvResponse, LeaseKeepAliveRequest, LeaseKeepAliveResponse, Member};
use proto::leasepb::{LeaseInternalRequest, LeaseInternalResponse};
use proto::raftpb::{Message, MessageType};
use tokio_stream::StreamExt;

use super::codec::StreamKind;
use super::dial::{MIN_CLUSTER_VERSION, PeerBody, SERVER_VERSION, full};
use super::incarnations::{self, Incarnations};
use super::{Transport, snapshot};
use crate::handle::Error;

/// Bodies of lease requests (etcd's maxLeaseHTTPRequestSize).
const LEASE_BYTES_MAX: usize = 64 * 1024;
/// Bodies of raft messages that come by POST: a message is cut at 1 MiB, one entry may be as large as a request.
const MESSAGE_BYTES_MAX: usize = 512 * 1024 * 1024;

/// What peers ask of this member besides raft.
#[async_trait]
pub trait Requests: Send + Sync + 'static {
    /// Promotes a learner (this member leads) on behalf of a token's holder, and returns the members.
    async fn promote(&self, id: u64, token: Option<&str>) -> Result<Vec<Member>, Error>;
    /// Renews a lease (this member leads).
    async fn lease_renew(&self, request: LeaseKeepAliveRequest) -> Result<LeaseKeepAliveResponse, Error>;
    /// Looks a lease up (this member leads).
    async fn lease_time_to_live(&self, request: LeaseInternalRequest) -> Result<LeaseInternalResponse, Error>;
    /// The hash of the key space at a revision; 0 means now.
    async fn hash_kv(&self, revision: i64) -> Result<HashKvResponse, Error>;
    /// The body of `/version`.
    fn version(&self) -> Bytes;
    /// Whether a downgrade is under way, after a linearizable read.
    async fn downgrade_enabled(&self) -> Result<bool, Error>;
}

type Answer = Response<PeerBody>;

impl Transport {
    /// Answers one request on a peer URL.
    pub async fn serve(self: Arc<Self>, request: Request<Incoming>) -> Result<Answer, std::convert::Infallible> {
        let cluster_id = self.identity().cluster_id;
        let mut answer = match self.route(request).await {
            Ok(answer) => answer,
            Err(refused) => text(refused.0, &refused.1),
        };
        let headers = answer.headers_mut();
        headers.insert("x-server-version", HeaderValue::from_static(SERVER_VERSION));
        if let Ok(value) = HeaderValue::from_str(&format!("{cluster_id:x}")) {
            headers.insert("x-etcd-cluster-id", value);
        }
        Ok(answer)
    }

    async fn route(self: &Arc<Self>, request: Request<Incoming>) -> Result<Answer, Refused> {
        let path = request.uri().path().to_owned();
        let wants = |method: Method| {
            if *request.method() == method {
                return Ok(());
            }
            Err(Refused(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed".into()))
        };
        match path.as_str() {
            "/raft" => wants(Method::POST)?,
            "/raft/probing" => return Ok(probing()),
            "/raft/snapshot" => wants(Method::POST)?,
            "/members" => {
                wants(Method::GET)?;
                // Who asks for the members may not have begun yet.
                self.check_incarnation(request.headers(), Incarnations::check)?;
                return Ok(json(members_json(&self.handle()?.members())));
            }
            "/version" => return Ok(json(self.requests()?.version())),
            "/downgrade/enabled" => {
                let enabled = self.requests()?.downgrade_enabled().await.map_err(internal)?;
                return Ok(text(StatusCode::OK, if enabled { "true" } else { "false" }));
            }
            "/members/hashkv" => {
                wants(Method::GET)?;
                return self.hash_kv(request).await;
            }
            "/leases" | "/leases/internal" => {
                wants(Method::POST)?;
                return self.lease(&path, request).await;
            }
            _ if path.starts_with("/members/promote/") => {
                wants(Method::POST)?;
                let token = request.headers().get(http::header::AUTHORIZATION);
                let token = token
                    .and_then(|token| token.to_str().ok())
                    .filter(|token| !token.is_empty());
                return self.promote(&path["/members/promote/".len()..], token).await;
            }
            _ if path.starts_with("/raft/stream/") => wants(Method::GET)?,
            _ => return Err(Refused(StatusCode::NOT_FOUND, "404 page not found".into())),
        }
        self.check_compatible(request.headers())?;
        self.check_incarnation(request.headers(), Incarnations::meet)?;
        if let Some(stream) = path.strip_prefix("/raft/stream/") {
            return self.attach(stream, request.headers());
        }
        self.add_remote(request.headers());
        if path == "/raft" {
            self.message(request).await
        } else {
            self.snapshot(request).await
        }
    }

    fn check_compatible(&self, headers: &HeaderMap) -> Result<(), Refused> {
        let version = |name: &str| {
            headers
                .get(name)
                .and_then(|value| value.to_str().ok())
                .and_then(major_minor)
        };
        let (local, local_min) = (major_minor(SERVER_VERSION), major_minor(MIN_CLUSTER_VERSION));
        // A missing header means a member older than any that we speak with.
        let remote = version("x-server-version").or(Some((2, 0)));
        let remote_min = version("x-min-cluster-version").or(Some((2, 0)));
        if remote < local_min || local < remote_min {
            return Err(Refused(StatusCode::PRECONDITION_FAILED, "incompatible version".into()));
        }
        let cluster = headers
            .get("x-etcd-cluster-id")
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default();
        if cluster != format!("{:x}", self.identity().cluster_id) {
            tracing::warn!(remote = cluster, "request from a member of another cluster");
            return Err(Refused(StatusCode::PRECONDITION_FAILED, "cluster ID mismatch".into()));
        }
        Ok(())
    }

    /// Turns away a known member whose data directory is another one than before: it has lost what it acknowledged, and must not
    /// vote or be counted under its old id. Go members name none and are not checked.
    fn check_incarnation(
        &self,
        headers: &HeaderMap,
        check: fn(&Incarnations, u64, &str) -> Result<(), String>,
    ) -> Result<(), Refused> {
        let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        let refused = |text| Refused(StatusCode::PRECONDITION_FAILED, text);
        if let Some(expected) = header(incarnations::TO) {
            incarnations::check_own(self.identity(), expected).map_err(refused)?;
        }
        let from = header("x-server-from").and_then(|id| u64::from_str_radix(id, 16).ok());
        let (Some(from), Some(text)) = (from, header(incarnations::FROM)) else {
            return Ok(());
        };
        // Only members are remembered: nobody fills the memory by inventing ids.
        if self.link(from).is_none() {
            return Ok(());
        }
        check(self.incarnations(), from, text).map_err(refused)
    }

    fn attach(&self, rest: &str, headers: &HeaderMap) -> Result<Answer, Refused> {
        let not_found = |text: &str| Refused(StatusCode::NOT_FOUND, text.into());
        let (kind, from) = rest.split_once('/').ok_or_else(|| not_found("invalid path"))?;
        let kind = match kind {
            "message" => StreamKind::Message,
            "msgapp" => StreamKind::MsgApp,
            _ => return Err(not_found("invalid path")),
        };
        let from = u64::from_str_radix(from, 16).map_err(|_| not_found("invalid from"))?;
        if self.is_removed(from) {
            return Err(Refused(StatusCode::GONE, "removed member".into()));
        }
        let Some(link) = self.link(from) else {
            self.add_remote(headers);
            return Err(not_found("error sender not found"));
        };
        let to = headers
            .get("x-raft-to")
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default();
        if to != format!("{:x}", self.identity().member_id) {
            return Err(Refused(StatusCode::PRECONDITION_FAILED, "to field mismatch".into()));
        }
        tracing::debug!(peer = format!("{from:x}"), stream = kind.path(), "attached a stream");
        Ok(Response::new(link.outbox(kind).attach().boxed_unsync()))
    }

    async fn message(&self, request: Request<Incoming>) -> Result<Answer, Refused> {
        let body = collect(request, MESSAGE_BYTES_MAX).await?;
        let size = body.len() as u64;
        let message = Message::decode(body).map_err(|_| bad_request("error unmarshalling raft message"))?;
        if let Some(link) = self.link(message.from) {
            link.received(size);
        }
        self.handle()?.deliver(message).map_err(processing)?;
        Ok(empty(StatusCode::NO_CONTENT))
    }

    async fn snapshot(&self, request: Request<Incoming>) -> Result<Answer, Refused> {
        let mut body = request.into_body();
        let mut head = BytesMut::new();
        let mut more = async |head: &mut BytesMut, want: usize| -> Result<(), Refused> {
            while head.len() < want {
                let frame = body
                    .frame()
                    .await
                    .ok_or_else(|| bad_request("the snapshot ends within its message"))?;
                let frame = frame.map_err(|_| bad_request("error reading raft message"))?;
                if let Ok(data) = frame.into_data() {
                    head.extend_from_slice(&data);
                }
            }
            Ok(())
        };
        more(&mut head, 8).await?;
        let len = u64::from_be_bytes(head.split_to(8).as_ref().try_into().unwrap_or_default());
        if len > snapshot::MESSAGE_BYTES_MAX {
            return Err(bad_request("the snapshot's message is too large"));
        }
        more(&mut head, len as usize).await?;
        let message = head.split_to(len as usize).freeze();
        let message = Message::decode(message).map_err(|_| bad_request("failed to decode raft message"))?;
        if message.r#type() != MessageType::MsgSnap {
            return Err(bad_request("wrong raft message type"));
        }
        let (from, index) = (message.from, snapshot::index(&message));
        tracing::info!(from = format!("{from:x}"), index, "receiving database snapshot");
        let first = tokio_stream::once(Ok(head.freeze()));
        let rest = body.into_data_stream().map(|chunk| chunk.map_err(io::Error::other));
        let size = self
            .handle()?
            .deliver_snapshot(message, Box::pin(first.chain(rest)))
            .await
            .map_err(processing)?;
        tracing::info!(
            from = format!("{from:x}"),
            index,
            bytes = size,
            "received and saved database snapshot"
        );
        if let Some(link) = self.link(from) {
            link.received(size);
        }
        Ok(empty(StatusCode::NO_CONTENT))
    }

    async fn promote(&self, id: &str, token: Option<&str>) -> Result<Answer, Refused> {
        let id: u64 = id
            .parse()
            .map_err(|_| Refused(StatusCode::NOT_FOUND, format!("member {id} not found in cluster")))?;
        match self.requests()?.promote(id, token).await {
            Ok(members) => Ok(json(members_json(&members))),
            Err(Error::MemberNotFound) => Err(Refused(StatusCode::NOT_FOUND, "membership: ID not found".into())),
            Err(Error::MemberNotLearner) => Err(Refused(
                StatusCode::PRECONDITION_FAILED,
                "membership: can only promote a learner member".into(),
            )),
            Err(Error::LearnerNotReady) => Err(Refused(
                StatusCode::PRECONDITION_FAILED,
                "etcdserver: can only promote a learner member which is in sync with leader".into(),
            )),
            Err(error @ Error::Timeout) => Err(Refused(StatusCode::REQUEST_TIMEOUT, error.to_string())),
            Err(error) => Err(internal(error)),
        }
    }

    async fn lease(&self, path: &str, request: Request<Incoming>) -> Result<Answer, Refused> {
        let body = collect(request, LEASE_BYTES_MAX).await?;
        let malformed = |_| bad_request("error unmarshalling request");
        let requests = self.requests()?;
        let answer = if path == "/leases" {
            let request = LeaseKeepAliveRequest::decode(body).map_err(malformed)?;
            requests.lease_renew(request).await.map(|answer| answer.encode_to_vec())
        } else {
            let request = LeaseInternalRequest::decode(body).map_err(malformed)?;
            requests
                .lease_time_to_live(request)
                .await
                .map(|answer| answer.encode_to_vec())
        };
        let answer = answer.map_err(|error| match &error {
            Error::Refused(replica::state_machine::Error::LeaseNotFound) => {
                Refused(StatusCode::NOT_FOUND, "lease not found".into())
            }
            Error::Timeout => Refused(
                StatusCode::REQUEST_TIMEOUT,
                "waiting for node to catch up its applied index has timed out".into(),
            ),
            _ => Refused(StatusCode::BAD_REQUEST, error.to_string()),
        })?;
        let mut answer = Response::new(full(answer));
        answer.headers_mut().insert(
            http::header::CONTENT_TYPE,
            HeaderValue::from_static("application/protobuf"),
        );
        Ok(answer)
    }

    async fn hash_kv(&self, request: Request<Incoming>) -> Result<Answer, Refused> {
        let cluster = request
            .headers()
            .get("x-etcd-cluster-id")
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default();
        if !cluster.is_empty() && cluster != format!("{:x}", self.identity().cluster_id) {
            return Err(Refused(StatusCode::PRECONDITION_FAILED, "cluster ID mismatch".into()));
        }
        let body = collect(request, LEASE_BYTES_MAX).await?;
        let asked: serde_json::Value =
            serde_json::from_slice(&body).map_err(|_| bad_request("error unmarshalling request"))?;
        let revision = asked.get("revision").and_then(serde_json::Value::as_i64).unwrap_or(0);
        let hash = self
            .requests()?
            .hash_kv(revision)
            .await
            .map_err(|error| bad_request(&error.to_string()))?;
        let revision = hash.header.map_or(0, |header| header.revision);
        let mut answer = serde_json::json!({ "header": { "revision": revision }, "hash": hash.hash });
        // Go leaves zero fields out.
        for (name, value) in [
            ("compact_revision", hash.compact_revision),
            ("hash_revision", hash.hash_revision),
        ] {
            if value != 0 {
                answer[name] = value.into();
            }
        }
        Ok(json(answer.to_string()))
    }
}

/// A refusal: status and text.
pub(super) struct Refused(pub(super) StatusCode, pub(super) String);

fn bad_request(text: &str) -> Refused {
    Refused(StatusCode::BAD_REQUEST, text.into())
}

fn internal(error: Error) -> Refused {
    Refused(StatusCode::INTERNAL_SERVER_ERROR, error.to_string())
}

/// The answer to a raft message that was not taken.
fn processing(error: Error) -> Refused {
    match error {
        Error::MessageToOther | Error::MessageFromRemoved => Refused(StatusCode::FORBIDDEN, error.to_string()),
        _ => Refused(
            StatusCode::INTERNAL_SERVER_ERROR,
            "error processing raft message".into(),
        ),
    }
}

async fn collect(request: Request<Incoming>, limit: usize) -> Result<Bytes, Refused> {
    match Limited::new(request.into_body(), limit).collect().await {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) if error.is::<http_body_util::LengthLimitError>() => {
            Err(Refused(StatusCode::PAYLOAD_TOO_LARGE, "request body too large".into()))
        }
        Err(_) => Err(bad_request("error reading body")),
    }
}

fn empty(status: StatusCode) -> Answer {
    let mut answer = Response::new(full(""));
    *answer.status_mut() = status;
    answer
}

fn text(status: StatusCode, text: &str) -> Answer {
    // Go's http.Error ends with a newline, and peers strip it.
    let body = if status == StatusCode::OK {
        text.to_owned()
    } else {
        format!("{text}\n")
    };
    let mut answer = Response::new(full(body));
    *answer.status_mut() = status;
    answer.headers_mut().insert(
        http::header::CONTENT_TYPE,
        HeaderValue::from_static("text/plain; charset=utf-8"),
    );
    answer
}

fn json(body: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(full(body));
    answer
        .headers_mut()
        .insert(http::header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    answer
}

fn probing() -> Answer {
    json(format!("{{\"OK\":true,\"Now\":\"{}\"}}\n", jiff::Timestamp::now()))
}

/// Members as etcd's `/members` has them: ids decimal, empty fields left out.
fn members_json(members: &[Member]) -> String {
    let members: Vec<serde_json::Value> = members
        .iter()
        .map(|member| {
            let mut json = serde_json::json!({ "id": member.id, "peerURLs": member.peer_ur_ls });
            if member.is_learner {
                json["isLearner"] = true.into();
            }
            if !member.name.is_empty() {
                json["name"] = member.name.clone().into();
            }
            if !member.client_ur_ls.is_empty() {
                json["clientURLs"] = member.client_ur_ls.clone().into();
            }
            json
        })
        .collect();
    format!("{}\n", serde_json::Value::Array(members))
}

/// Major and minor of a version such as `3.7.3`.
pub(super) fn major_minor(version: &str) -> Option<(u64, u64)> {
    let mut parts = version.split('.');
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}
