//! etcd's gRPC services (etcd server/etcdserver/api/v3rpc), one file each.
//!
//! Invariants:
//! - Errors carry etcd's texts and codes: clients tell them apart by text.
//! - A call is routed by comparing its path; between the socket and the service there is no middleware.
//! - Who may make a call is decided in one place, by [`crate::auth::policy`], before its handler runs.

mod auth;
mod call;
mod cluster;
mod coordination;
mod election;
mod generator;
mod health;
mod kv;
mod lease;
mod lock;
mod maintenance;
mod watch;

use std::convert::Infallible;
use std::sync::Arc;

use http::{HeaderValue, Request, Response};
use proto::etcdserverpb::auth_server::AuthServer;
use proto::etcdserverpb::cluster_server::ClusterServer;
use proto::etcdserverpb::kv_server::KvServer;
use proto::etcdserverpb::lease_server::LeaseServer;
use proto::etcdserverpb::maintenance_server::MaintenanceServer;
use proto::etcdserverpb::watch_server::WatchServer;
use proto::health::health_server::HealthServer;
use proto::v3electionpb::election_server::ElectionServer;
use proto::v3lockpb::lock_server::LockServer;
use tonic::body::Body;
use tonic::codegen::Service;
use tonic::{Code, Status};

use crate::listener::Connection;
use crate::member::Member;

/// What a message may be larger than `--max-request-bytes`: the envelope around the request.
const OVERHEAD_BYTES: usize = 512 * 1024;

/// The services of one connection.
#[derive(Clone)]
pub struct Grpc {
    kv: KvServer<Api>,
    watch: WatchServer<Api>,
    lease: LeaseServer<Api>,
    cluster: ClusterServer<Api>,
    maintenance: MaintenanceServer<Api>,
    auth: AuthServer<Api>,
    lock: LockServer<Api>,
    election: ElectionServer<Api>,
    health: HealthServer<Api>,
}

/// What the services' methods have at hand.
#[derive(Debug, Clone)]
struct Api {
    member: Arc<Member>,
    connection: Arc<Connection>,
}

impl std::fmt::Debug for Grpc {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Grpc")
    }
}

/// Whether a request is a gRPC call.
pub fn is_grpc<B>(request: &Request<B>) -> bool {
    let kind = request.headers().get(http::header::CONTENT_TYPE);
    request.version() == http::Version::HTTP_2
        && kind.is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"))
}

impl Grpc {
    /// Serves `member` on a connection.
    pub fn new(member: Arc<Member>, connection: Arc<Connection>) -> Grpc {
        let received = usize::try_from(member.config.max_request_bytes)
            .unwrap_or(usize::MAX)
            .saturating_add(OVERHEAD_BYTES);
        let sent = i32::MAX as usize;
        let api = Arc::new(Api { member, connection });
        macro_rules! limited {
            ($server:ident) => {
                $server::from_arc(api.clone())
                    .max_decoding_message_size(received)
                    .max_encoding_message_size(sent)
            };
        }
        Grpc {
            kv: limited!(KvServer),
            watch: limited!(WatchServer),
            lease: limited!(LeaseServer),
            cluster: limited!(ClusterServer),
            maintenance: limited!(MaintenanceServer),
            auth: limited!(AuthServer),
            lock: limited!(LockServer),
            election: limited!(ElectionServer),
            health: limited!(HealthServer),
        }
    }

    /// Answers one call.
    pub async fn call<B>(&self, request: Request<B>) -> Response<Body>
    where
        B: http_body::Body + Send + 'static,
        B::Error: Into<tonic::codegen::StdError> + Send + 'static,
    {
        let path = request.uri().path();
        let service = path
            .strip_prefix('/')
            .and_then(|path| path.split_once('/'))
            .map(|(service, _)| service);
        let answered: Result<Response<Body>, Infallible> = match service {
            Some("etcdserverpb.KV") => self.kv.clone().call(request).await,
            Some("etcdserverpb.Watch") => self.watch.clone().call(request).await,
            Some("etcdserverpb.Lease") => self.lease.clone().call(request).await,
            Some("etcdserverpb.Cluster") => self.cluster.clone().call(request).await,
            Some("etcdserverpb.Maintenance") => self.maintenance.clone().call(request).await,
            Some("etcdserverpb.Auth") => self.auth.clone().call(request).await,
            Some("v3lockpb.Lock") => self.lock.clone().call(request).await,
            Some("v3electionpb.Election") => self.election.clone().call(request).await,
            Some("grpc.health.v1.Health") => self.health.clone().call(request).await,
            Some(other) => Ok(Status::unimplemented(format!("unknown service {other}")).into_http()),
            None => Ok(Status::unimplemented(format!("malformed method name: {path:?}")).into_http()),
        };
        match answered {
            Ok(response) => as_go_says_it(response),
            Err(never) => match never {},
        }
    }
}

/// The library's error for an oversized message differs from Go's in code and text, and clients look at both.
fn as_go_says_it(mut response: Response<Body>) -> Response<Body> {
    if response
        .headers()
        .get("grpc-status")
        .is_none_or(|status| status != "11")
    {
        return response;
    }
    let Some(status) = Status::from_header_map(response.headers()) else {
        return response;
    };
    if status.message().contains("message length too large") {
        let mut numbers = status
            .message()
            .split(|c: char| !c.is_ascii_digit())
            .filter(|digits| !digits.is_empty());
        let (found, limit) = (numbers.next().unwrap_or("0"), numbers.next().unwrap_or("0"));
        let text = format!("grpc: received message larger than max ({found} vs. {limit})");
        response = Status::new(Code::ResourceExhausted, text).into_http();
    }
    response
}

/// As Go prints it with `GODEBUG=http2debug=2`; etcd's test suite looks for this line to check the authority that clients send.
pub fn debug_authority<B>(request: &Request<B>) {
    let authority = request.uri().authority().map(|authority| authority.as_str());
    let authority = authority.or_else(|| request.headers().get(http::header::HOST).map(HeaderValue::to_str)?.ok());
    eprintln!(
        "http2: decoded hpack field header field \":authority\" = {:?}",
        authority.unwrap_or_default()
    );
}
