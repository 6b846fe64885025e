//! Plain HTTP on client and metrics URLs (etcd server/etcdserver/api/etcdhttp): `/health`, `/livez`, `/readyz`, `/version`,
//! `/metrics`, `/debug/vars`, and the JSON gateway.
//!
//! Invariants:
//! - Answers are etcd's, byte for byte, headers included: probes and tools compare them.
//! - Metrics URLs answer metrics and health only; there is no data behind them.
//! - On plaintext client URLs the host of a request must be on the whitelist (DNS rebinding, CVE-2018-5702).

mod access;
pub mod gateway;
mod health;

use std::sync::Arc;

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE, HeaderName, HeaderValue};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::Full;
use tonic::body::Body;

pub use self::gateway::Gateway;
use crate::listener::Connection;
use crate::member::Member;

/// An answer before its body is boxed.
type Answer = Response<Full<Bytes>>;

/// What is served on an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scope {
    /// Everything: a client URL.
    Client,
    /// Metrics and health: `--listen-metrics-urls`.
    Metrics,
}

/// Answers one request on a metrics URL.
pub async fn answer_metrics<B>(member: &Arc<Member>, request: &Request<B>) -> Response<Body> {
    route(member, Scope::Metrics, request).await.map(Body::new)
}

/// Answers one request on a client URL that is not gRPC; those of the JSON gateway too, if there is one.
pub async fn answer<B>(
    member: &Arc<Member>,
    gateway: Option<&Gateway>,
    from: &Connection,
    request: Request<B>,
) -> Response<Body>
where
    B: hyper::body::Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>> + Send + 'static,
{
    if let Some(refusal) = access::refuse(&member.config, from.secure, &request) {
        return refusal.map(Body::new);
    }
    let gateway = gateway.filter(|_| gateway::is_gateway(request.uri().path()));
    if gateway.is_some()
        && let Some(refusal) = access::refuse_named(member, from)
    {
        return refusal.map(Body::new);
    }
    let mut cors = HeaderMap::new();
    access::allow_origin(&member.config, &request, &mut cors);
    let mut answer = match (request.method(), gateway) {
        (&Method::OPTIONS, _) => Response::new(Body::empty()),
        (_, Some(gateway)) => gateway.answer(request).await,
        (_, None) => route(member, Scope::Client, &request).await.map(Body::new),
    };
    answer.headers_mut().extend(cors);
    answer
}

async fn route<B>(member: &Arc<Member>, scope: Scope, request: &Request<B>) -> Answer {
    let path = request.uri().path();
    let query = request.uri().query().unwrap_or_default();
    match path {
        "/health" => health::health(member, request.method(), query).await,
        "/metrics" => {
            let _counted = member.metrics.scrapes.begin();
            metrics(member)
        }
        "/version" if scope == Scope::Client => only_get(request.method()).unwrap_or_else(|| version(member)),
        "/debug/vars" if scope == Scope::Client => only_get(request.method()).unwrap_or_else(|| debug_vars(member)),
        _ if scope == Scope::Client && member.config.enable_pprof && is_pprof(path) => no_profile(),
        _ => match health::check(member, request.method(), path, query).await {
            Some(answer) => answer,
            None => error(StatusCode::NOT_FOUND, "404 page not found"),
        },
    }
}

/// A refusal unless the method is GET.
fn only_get(method: &Method) -> Option<Answer> {
    if method == Method::GET {
        return None;
    }
    let mut answer = error(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed");
    answer.headers_mut().insert(ALLOW, HeaderValue::from_static("GET"));
    Some(answer)
}

const NOSNIFF: HeaderName = HeaderName::from_static("x-content-type-options");

/// As Go's `http.Error`: plain text with a newline.
fn error(status: StatusCode, text: &str) -> Answer {
    let mut answer = plain(format!("{text}\n"));
    *answer.status_mut() = status;
    answer
        .headers_mut()
        .insert(NOSNIFF, HeaderValue::from_static("nosniff"));
    answer
}

fn plain(body: impl Into<Bytes>) -> Answer {
    typed(body, "text/plain; charset=utf-8")
}

fn typed(body: impl Into<Bytes>, kind: &'static str) -> Answer {
    let mut answer = Response::new(Full::new(body.into()));
    answer
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    answer
}

fn version(member: &Member) -> Answer {
    typed(member.versions_json(), "application/json")
}

fn metrics(member: &Member) -> Answer {
    typed(
        member.render_metrics(),
        "text/plain; version=0.0.4; charset=utf-8; escaping=underscores",
    )
}

fn is_pprof(path: &str) -> bool {
    path == "/debug/pprof" || path.starts_with("/debug/pprof/")
}

/// `--enable-pprof`: profiles of the Go runtime, which is not there.
fn no_profile() -> Answer {
    error(
        StatusCode::NOT_IMPLEMENTED,
        "this server has no Go runtime and does not profile itself: use 'perf record -g -p PID' on its machine, and /metrics for \
         what it counts",
    )
}

/// Go's expvar page, without `memstats`, which is about the Go runtime, and what the raft library of Go alone knows.
fn debug_vars(member: &Member) -> Answer {
    let arguments: Vec<String> = std::env::args().collect();
    let limit = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE).map_or(0, |(soft, _)| soft);
    let status = member.handle.status();
    let mut raft = serde_json::json!({
        "id": format!("{:x}", status.member_id),
        "term": status.term,
        "commit": status.commit,
        "applied": status.applied,
        "lead": format!("{:x}", status.leader),
    });
    if status.leader != 0 {
        let leads = status.leader == status.member_id;
        raft["raftState"] = if leads { "StateLeader" } else { "StateFollower" }.into();
    }
    let body = serde_json::json!({ "cmdline": arguments, "file_descriptor_limit": limit, "raft.status": raft });
    typed(format!("{body}\n"), "application/json; charset=utf-8")
}

/// The values of a query parameter, decoded.
fn query_values(query: &str, name: &str) -> Vec<String> {
    let pairs = query.split('&').filter(|pair| !pair.is_empty());
    let pairs = pairs.map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    pairs
        .filter(|(key, _)| decode(key) == name)
        .map(|(_, value)| decode(value))
        .collect()
}

/// Undoes percent encoding; what is not valid stays as it is.
fn decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let escaped = (bytes[at] == b'%')
            .then(|| text.get(at + 1..at + 3))
            .flatten()
            .and_then(|hex| u8::from_str_radix(hex, 16).ok());
        match (escaped, bytes[at]) {
            (Some(byte), _) => {
                decoded.push(byte);
                at += 2;
            }
            (None, b'+') => decoded.push(b' '),
            (None, byte) => decoded.push(byte),
        }
        at += 1;
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_query_parameters_like_go() {
        assert_eq!(
            query_values("exclude=a&verbose&exclude=b%2Fc+d", "exclude"),
            ["a", "b/c d"]
        );
        assert_eq!(query_values("verbose", "verbose"), [""]);
        assert!(query_values("", "verbose").is_empty());
        assert_eq!(decode("%zz%4"), "%zz%4");
    }
}
