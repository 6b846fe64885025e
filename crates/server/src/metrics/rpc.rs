//! `grpc_server_*` (go-grpc-prometheus): one set of counters per method, all present from the start.
//!
//! Invariants:
//! - [`METHODS`] lists every method that etcd registers, served here or not, sorted by path.

use std::time::Duration;

use super::family::{Counter, Histogram};
use super::text::{Kind, Text};

/// How many messages go each way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// One request, one answer.
    Unary,
    /// One request, many answers.
    ServerStream,
    /// Many of both.
    Bidi,
}

impl Shape {
    fn label(self) -> &'static str {
        match self {
            Shape::Unary => "unary",
            Shape::ServerStream => "server_stream",
            Shape::Bidi => "bidi_stream",
        }
    }
}

macro_rules! methods {
    ($($variant:ident $service:literal $method:literal $shape:ident,)*) => {
        /// A method of etcd's gRPC services.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[allow(missing_docs)]
        pub enum Method { $($variant,)* }

        impl Method {
            /// All of them.
            pub const ALL: &[Method] = &[$(Method::$variant,)*];
        }

        /// Service, method and shape of each [`Method`], in the order of the variants.
        pub const METHODS: &[(&str, &str, Shape)] = &[$(($service, $method, Shape::$shape),)*];
    };
}

methods! {
    AuthDisable "etcdserverpb.Auth" "AuthDisable" Unary,
    AuthEnable "etcdserverpb.Auth" "AuthEnable" Unary,
    AuthStatus "etcdserverpb.Auth" "AuthStatus" Unary,
    Authenticate "etcdserverpb.Auth" "Authenticate" Unary,
    RoleAdd "etcdserverpb.Auth" "RoleAdd" Unary,
    RoleDelete "etcdserverpb.Auth" "RoleDelete" Unary,
    RoleGet "etcdserverpb.Auth" "RoleGet" Unary,
    RoleGrantPermission "etcdserverpb.Auth" "RoleGrantPermission" Unary,
    RoleList "etcdserverpb.Auth" "RoleList" Unary,
    RoleRevokePermission "etcdserverpb.Auth" "RoleRevokePermission" Unary,
    UserAdd "etcdserverpb.Auth" "UserAdd" Unary,
    UserChangePassword "etcdserverpb.Auth" "UserChangePassword" Unary,
    UserDelete "etcdserverpb.Auth" "UserDelete" Unary,
    UserGet "etcdserverpb.Auth" "UserGet" Unary,
    UserGrantRole "etcdserverpb.Auth" "UserGrantRole" Unary,
    UserList "etcdserverpb.Auth" "UserList" Unary,
    UserRevokeRole "etcdserverpb.Auth" "UserRevokeRole" Unary,
    MemberAdd "etcdserverpb.Cluster" "MemberAdd" Unary,
    MemberList "etcdserverpb.Cluster" "MemberList" Unary,
    MemberPromote "etcdserverpb.Cluster" "MemberPromote" Unary,
    MemberRemove "etcdserverpb.Cluster" "MemberRemove" Unary,
    MemberUpdate "etcdserverpb.Cluster" "MemberUpdate" Unary,
    Compact "etcdserverpb.KV" "Compact" Unary,
    DeleteRange "etcdserverpb.KV" "DeleteRange" Unary,
    Put "etcdserverpb.KV" "Put" Unary,
    Range "etcdserverpb.KV" "Range" Unary,
    RangeStream "etcdserverpb.KV" "RangeStream" ServerStream,
    Txn "etcdserverpb.KV" "Txn" Unary,
    LeaseGrant "etcdserverpb.Lease" "LeaseGrant" Unary,
    LeaseKeepAlive "etcdserverpb.Lease" "LeaseKeepAlive" Bidi,
    LeaseLeases "etcdserverpb.Lease" "LeaseLeases" Unary,
    LeaseRevoke "etcdserverpb.Lease" "LeaseRevoke" Unary,
    LeaseTimeToLive "etcdserverpb.Lease" "LeaseTimeToLive" Unary,
    Alarm "etcdserverpb.Maintenance" "Alarm" Unary,
    Defragment "etcdserverpb.Maintenance" "Defragment" Unary,
    Downgrade "etcdserverpb.Maintenance" "Downgrade" Unary,
    Hash "etcdserverpb.Maintenance" "Hash" Unary,
    HashKv "etcdserverpb.Maintenance" "HashKV" Unary,
    MoveLeader "etcdserverpb.Maintenance" "MoveLeader" Unary,
    Snapshot "etcdserverpb.Maintenance" "Snapshot" ServerStream,
    Status "etcdserverpb.Maintenance" "Status" Unary,
    Watch "etcdserverpb.Watch" "Watch" Bidi,
    HealthCheck "grpc.health.v1.Health" "Check" Unary,
    HealthWatch "grpc.health.v1.Health" "Watch" ServerStream,
    Campaign "v3electionpb.Election" "Campaign" Unary,
    Leader "v3electionpb.Election" "Leader" Unary,
    Observe "v3electionpb.Election" "Observe" ServerStream,
    Proclaim "v3electionpb.Election" "Proclaim" Unary,
    Resign "v3electionpb.Election" "Resign" Unary,
    Lock "v3lockpb.Lock" "Lock" Unary,
    Unlock "v3lockpb.Lock" "Unlock" Unary,
}

/// Names of the status codes, by number (google.golang.org/grpc/codes).
const CODES: [&str; 17] = [
    "OK",
    "Canceled",
    "Unknown",
    "InvalidArgument",
    "DeadlineExceeded",
    "NotFound",
    "AlreadyExists",
    "PermissionDenied",
    "ResourceExhausted",
    "FailedPrecondition",
    "Aborted",
    "OutOfRange",
    "Unimplemented",
    "Internal",
    "Unavailable",
    "DataLoss",
    "Unauthenticated",
];

/// Counters of one method.
#[derive(Debug)]
pub struct MethodCalls {
    started: Counter,
    received: Counter,
    sent: Counter,
    handled: [Counter; CODES.len()],
    duration: Histogram,
}

/// Counters of all methods.
#[derive(Debug)]
pub struct Calls {
    methods: Vec<MethodCalls>,
    extensive: bool,
}

impl Calls {
    pub(super) fn new(extensive: bool) -> Calls {
        let method = |_| MethodCalls {
            started: Counter::default(),
            received: Counter::default(),
            sent: Counter::default(),
            handled: Default::default(),
            duration: Histogram::new(vec![0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0]),
        };
        Calls {
            methods: METHODS.iter().map(method).collect(),
            extensive,
        }
    }

    /// The counters of a method.
    pub fn of(&self, method: Method) -> &MethodCalls {
        &self.methods[method as usize]
    }

    pub(super) fn write(&self, text: &mut Text) {
        // etcd registers Lock and Election too late for them to be there from the start.
        let late = |service: &str| service.starts_with("v3");
        let all = || {
            let methods = METHODS.iter().zip(&self.methods);
            methods.filter(move |((service, ..), calls)| !late(service) || calls.started.get() > 0)
        };
        let mut plain = |name, help, of: fn(&MethodCalls) -> &Counter| {
            let mut family = text.family(name, Kind::Counter, help);
            for ((service, method, shape), calls) in all() {
                let labels = [
                    ("grpc_method", *method),
                    ("grpc_service", *service),
                    ("grpc_type", shape.label()),
                ];
                family.sample("", &labels, of(calls).get() as f64);
            }
        };
        plain(
            "grpc_server_started_total",
            "Total number of RPCs started on the server.",
            |calls| &calls.started,
        );
        plain(
            "grpc_server_msg_received_total",
            "Total number of RPC stream messages received on the server.",
            |calls| &calls.received,
        );
        plain(
            "grpc_server_msg_sent_total",
            "Total number of gRPC stream messages sent by the server.",
            |calls| &calls.sent,
        );
        let help = "Total number of RPCs completed on the server, regardless of success or failure.";
        let mut family = text.family("grpc_server_handled_total", Kind::Counter, help);
        for ((service, method, shape), calls) in all() {
            for (code, handled) in CODES.iter().zip(&calls.handled) {
                let labels = [
                    ("grpc_code", *code),
                    ("grpc_method", *method),
                    ("grpc_service", *service),
                    ("grpc_type", shape.label()),
                ];
                family.sample("", &labels, handled.get() as f64);
            }
        }
        if self.extensive {
            let help = "Histogram of response latency (seconds) of gRPC that had been application-level handled by the server.";
            let mut family = text.family("grpc_server_handling_seconds", Kind::Histogram, help);
            for ((service, method, shape), calls) in all() {
                let labels = [
                    ("grpc_method", *method),
                    ("grpc_service", *service),
                    ("grpc_type", shape.label()),
                ];
                calls.duration.sample(&mut family, &labels);
            }
        }
    }
}

impl MethodCalls {
    /// A call began.
    pub fn started(&self) {
        self.started.inc();
    }

    /// A message came from the client.
    pub fn received(&self) {
        self.received.inc();
    }

    /// A message went to the client.
    pub fn sent(&self) {
        self.sent.inc();
    }

    /// A call ended with a status code (0 is OK).
    pub fn handled(&self, code: i32, took: Duration) {
        let at = usize::try_from(code).ok().filter(|at| *at < CODES.len()).unwrap_or(2);
        self.handled[at].inc();
        self.duration.took(took);
    }
}
