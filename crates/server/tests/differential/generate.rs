//! Requests from a seed: every field of every message of the client API, by its descriptor, with values that collide often
//! and with those at the edges.
//!
//! Invariants:
//! - The same seed, and the same answers, give the same operations.
//! - What would answer by the clock is not asked: leases that run out meanwhile, ids that a server invents.

use std::collections::VecDeque;

use prost::Message;
use prost_reflect::{
    DescriptorPool, DynamicMessage, FieldDescriptor, Kind, MessageDescriptor, MethodDescriptor, Value,
};

/// One thing that is done to both servers.
#[derive(Clone, Debug)]
pub enum Op {
    /// A call with one request, as its bytes. `token` is whose.
    Call {
        method: String,
        request: Vec<u8>,
        token: Option<&'static str>,
        broken: bool,
    },
    /// On the open watch stream.
    Watch(Vec<u8>),
    /// A new watch stream in place of the open one.
    Reopen(Option<&'static str>),
    /// Waits until every watcher has been told everything, and compares; then compares hashes.
    Checkpoint,
    /// Adds a learner, promotes it (it never answers), removes it: by ids that differ.
    Learner,
}

/// A xorshift: the same numbers on every run.
pub struct Rng(pub u64);

impl Rng {
    pub fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % n
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }
}

/// Methods and how often, of a sum that does not matter.
const WEIGHTS: &[(&str, u64)] = &[
    ("KV/Put", 260),
    ("KV/Range", 240),
    ("KV/Txn", 200),
    ("KV/DeleteRange", 60),
    ("KV/RangeStream", 30),
    ("KV/Compact", 6),
    ("Lease/LeaseGrant", 16),
    ("Lease/LeaseRevoke", 10),
    ("Lease/LeaseKeepAlive", 8),
    ("Lease/LeaseTimeToLive", 14),
    ("Lease/LeaseLeases", 6),
    ("Maintenance/HashKV", 10),
    ("Maintenance/Alarm", 5),
    ("Maintenance/Status", 3),
    ("Maintenance/MoveLeader", 2),
    ("Maintenance/Downgrade", 3),
    ("Maintenance/Defragment", 1),
    ("Cluster/MemberList", 4),
    ("Cluster/MemberAdd", 3),
    ("Cluster/MemberRemove", 3),
    ("Cluster/MemberUpdate", 3),
    ("Cluster/MemberPromote", 3),
    ("Auth/AuthStatus", 4),
    ("Auth/AuthDisable", 1),
    ("Auth/Authenticate", 10),
    ("Auth/UserAdd", 12),
    ("Auth/UserGet", 10),
    ("Auth/UserList", 4),
    ("Auth/UserDelete", 6),
    ("Auth/UserChangePassword", 6),
    ("Auth/UserGrantRole", 14),
    ("Auth/UserRevokeRole", 8),
    ("Auth/RoleAdd", 10),
    ("Auth/RoleGet", 10),
    ("Auth/RoleList", 4),
    ("Auth/RoleDelete", 4),
    ("Auth/RoleGrantPermission", 24),
    ("Auth/RoleRevokePermission", 12),
    ("Watch/Watch", 30),
];

const USERS: &[&str] = &["root", "alice", "bob"];
const LEASES: &[i64] = &[1, 2, 3, 4, 5, 6, 7, i64::MAX, -5];
/// Between two phases with authentication.
const PHASE: u64 = 1_500;

pub struct Generator {
    pub rng: Rng,
    pool: DescriptorPool,
    /// The store's revision in the last answer.
    pub revision: i64,
    made: u64,
    next: VecDeque<Op>,
    auth: bool,
}

impl Generator {
    pub fn new(seed: u64) -> Generator {
        let mut rng = Rng(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
        rng.below(1);
        let pool = DescriptorPool::decode(proto::DESCRIPTORS).unwrap();
        Generator {
            rng,
            pool,
            revision: 1,
            made: 0,
            next: VecDeque::new(),
            auth: false,
        }
    }

    pub fn next(&mut self) -> Op {
        self.made += 1;
        if let Some(op) = self.next.pop_front() {
            return op;
        }
        if self.made % PHASE > PHASE * 2 / 3 && !self.auth {
            self.auth = true;
            self.enable_auth();
        } else if self.made % PHASE < PHASE * 2 / 3 && self.auth {
            self.auth = false;
            self.log_in("root");
            self.scripted("Auth/AuthDisable", Some("root"), |_| ());
            self.next.push_back(Op::Reopen(None));
        } else if self.made.is_multiple_of(100) {
            return Op::Checkpoint;
        } else if self.rng.one_in(700) {
            return Op::Learner;
        } else if self.rng.one_in(250) {
            return Op::Reopen(if self.auth && self.rng.one_in(2) {
                Some("root")
            } else {
                self.token()
            });
        } else {
            return self.random();
        }
        self.next.pop_front().unwrap()
    }

    fn method(&self, name: &str) -> MethodDescriptor {
        let (service, method) = name.split_once('/').unwrap();
        let service = self
            .pool
            .get_service_by_name(&format!("etcdserverpb.{service}"))
            .unwrap();
        service.methods().find(|m| m.name() == method).unwrap()
    }

    fn token(&mut self) -> Option<&'static str> {
        if self.auth || self.rng.one_in(20) {
            self.rng.pick(&[
                None,
                Some("root"),
                Some("root"),
                Some("alice"),
                Some("alice"),
                Some("bob"),
                Some("nobody"),
            ])
        } else {
            None
        }
    }

    fn random(&mut self) -> Op {
        let total = WEIGHTS.iter().map(|(_, weight)| weight).sum();
        let mut at = self.rng.below(total);
        let name = WEIGHTS
            .iter()
            .find(|(_, weight)| at.checked_sub(*weight).map(|rest| at = rest).is_none())
            .unwrap()
            .0;
        let mut message = self.message(&self.method(name).input(), 0);
        self.tame(name, &mut message);
        if name == "Lease/LeaseGrant" && self.rng.one_in(10) && self.next.is_empty() {
            // A time too short is stretched to one that still passes: such a lease goes at once.
            let ttl = self.rng.pick(&[0, 1, -1, i64::MIN]);
            message.set_field_by_name("TTL", Value::I64(ttl));
            message.set_field_by_name("ID", Value::I64(77));
            self.scripted("Lease/LeaseRevoke", Some("root"), |message| {
                message.set_field_by_name("ID", Value::I64(77))
            });
        }
        let mut request = message.encode_to_vec();
        if name == "Watch/Watch" {
            return Op::Watch(request);
        }
        let mut broken = false;
        if self.rng.one_in(60) {
            // A field that nobody knows.
            request.extend([0xC0, 0x3E, 5]);
        } else if self.rng.one_in(80) && name.starts_with("KV/") && name != "KV/Compact" && !request.is_empty() {
            let mut changed = request.clone();
            let at = self.rng.below(request.len() as u64) as usize;
            if self.rng.one_in(2) {
                changed.truncate(at)
            } else {
                changed[at] ^= 1 << self.rng.below(8)
            }
            // A known field of another wire type is an error here and unknown to etcd, which would write what the rest says.
            let read = DynamicMessage::decode(self.method(name).input(), changed.as_slice());
            broken = !read.is_err_and(|error| error.to_string().contains("wire type"));
            if broken {
                request = changed;
            }
        }
        if name == "Maintenance/Alarm" {
            self.calm_down();
        }
        Op::Call {
            method: name.to_owned(),
            request,
            token: self.token(),
            broken,
        }
    }

    /// What must not happen by chance.
    fn tame(&mut self, name: &str, message: &mut DynamicMessage) {
        match name {
            "Lease/LeaseGrant" => {
                let id = self.rng.pick(LEASES);
                message.set_field_by_name("ID", Value::I64(id));
                let ttl = self
                    .rng
                    .pick(&[100_000, 200_000, 3_000_000, 9_000_000_000, 9_000_000_001, i64::MAX]);
                message.set_field_by_name("TTL", Value::I64(ttl));
            }
            // Most keep what can be asked about.
            "KV/Compact" if !self.rng.one_in(4) => {
                let revision = self.revision - 40 - self.rng.below(100) as i64;
                message.set_field_by_name("revision", Value::I64(revision));
            }
            // etcd panics.
            "Maintenance/Alarm"
                if !(0..3).contains(&message.get_field_by_name("action").unwrap().as_enum_number().unwrap()) =>
            {
                message.clear_field_by_name("action");
            }
            // ENABLE would begin a job of its own.
            "Maintenance/Downgrade" if message.get_field_by_name("action").unwrap().as_enum_number() == Some(1) => {
                let version = self.rng.pick(&["", "x", "3.7.0", "3.5.0", "4.0.0", "3.6.x"]);
                message.set_field_by_name("version", Value::String(version.into()));
            }
            "Auth/UserChangePassword" => {
                let name = self.rng.pick(&["alice", "bob", "nobody", ""]);
                message.set_field_by_name("name", Value::String(name.into()));
            }
            _ => {}
        }
    }

    /// A message, by its descriptor.
    fn message(&mut self, descriptor: &MessageDescriptor, depth: u32) -> DynamicMessage {
        let mut message = DynamicMessage::new(descriptor.clone());
        // A union takes one of its members.
        for union in descriptor.oneofs() {
            let fields: Vec<FieldDescriptor> = union.fields().collect();
            if self.rng.one_in(120) {
                continue;
            }
            let mut field = &fields[self.rng.below(fields.len() as u64) as usize];
            if depth > 2 && field.name().contains("txn") {
                field = &fields[0];
            }
            if field.name() == "progress_request" && !self.rng.one_in(4) {
                field = &fields[0];
            }
            let value = self.value(field, depth);
            message.set_field(field, value);
        }
        for field in descriptor.fields().filter(|field| field.containing_oneof().is_none()) {
            if field.is_list() {
                let long = field.name() == "success" && self.rng.one_in(150);
                let count = if long {
                    127 + self.rng.below(3)
                } else {
                    self.rng.below(if depth > 2 { 2 } else { 4 })
                };
                let depth = if long { 3 } else { depth };
                let values = (0..count).map(|_| self.value(&field, depth)).collect();
                message.set_field(&field, Value::List(values));
                continue;
            }
            let likely = match field.name() {
                "key" => 120,
                "name" | "role" | "user" | "password" | "perm" | "value" | "ID" | "target" | "result" | "permType" => {
                    12
                }
                "range_end" | "sort_order" | "sort_target" | "prev_kv" | "alarm" | "action" => 2,
                _ => 1,
            };
            // Likely fields are missing once in so many; others are there once in a few.
            let present = if likely > 1 {
                !self.rng.one_in(likely)
            } else {
                self.rng.one_in(5)
            };
            if present {
                let value = self.value(&field, depth);
                message.set_field(&field, value);
            }
        }
        // The order of equals is nobody's promise, and within a transaction it is not looked through.
        if descriptor.name() == "RangeRequest" && depth > 0 && self.rng.below(40) > 0 {
            message.clear_field_by_name("sort_target");
        }
        message
    }

    fn value(&mut self, field: &FieldDescriptor, depth: u32) -> Value {
        match field.kind() {
            Kind::Message(inner) => Value::Message(self.message(&inner, depth + 1)),
            Kind::Enum(inner) => {
                let numbers: Vec<i32> = inner.values().map(|value| value.number()).collect();
                let unknown = self.rng.one_in(60);
                Value::EnumNumber(if unknown {
                    self.rng.pick(&[7, -1, i32::MAX])
                } else {
                    self.rng.pick(&numbers)
                })
            }
            Kind::Bool => Value::Bool(self.rng.one_in(2)),
            Kind::Bytes => Value::Bytes(self.bytes(field.name()).into()),
            Kind::String => Value::String(self.text(field.name()).into()),
            Kind::Int64 => Value::I64(self.number(field.name())),
            Kind::Uint64 => Value::U64(self.rng.pick(&[0, 7, u64::MAX, 1 << 63])),
            other => unreachable!("{other:?} in the client API"),
        }
    }

    fn text(&mut self, field: &str) -> &'static str {
        match field {
            "password" => self.rng.pick(&["p", "p", "q", ""]),
            "hashedPassword" => self.rng.pick(&["", "", "", "!!", "cA=="]),
            "role" => self
                .rng
                .pick(&["root", "reader", "writer", "reader", "writer", "nothing", ""]),
            "version" => self.rng.pick(&[
                "3.6.0", "3.7.0", "3.8.0", "3.5.0", "", "x", "4.0.0", "v3.6.0", "3.6", "3.6.1",
            ]),
            // None that a member could have.
            "peerURLs" => self.rng.pick(&[
                "",
                "bad",
                "http://",
                "ftp://127.0.0.1:1",
                "http://127.0.0.1",
                "http://127.0.0.1:1/path",
                "127.0.0.1:1",
                "%",
            ]),
            _ => self.rng.pick(&[
                "root", "alice", "bob", "reader", "writer", "alice", "bob", "reader", "writer", "nobody", "",
            ]),
        }
    }

    fn bytes(&mut self, field: &str) -> Vec<u8> {
        if field == "value" {
            return match self.rng.below(2_000) {
                0 => vec![b'v'; 1_600_000],
                1 => vec![b'v'; 2_200_000],
                2..10 => vec![b'w'; 20_000],
                n => format!("v{}", n % 7).into_bytes(),
            };
        }
        match self.rng.below(400) {
            0 => return vec![b'a'; 3_000],
            1..60 if field == "range_end" => return vec![0],
            _ => {}
        }
        let len = if self.rng.one_in(if field == "key" { 60 } else { 8 }) {
            0
        } else {
            self.rng.pick(&[1, 1, 1, 2, 2, 2, 3])
        };
        (0..len).map(|_| self.rng.pick(b"aaabbbccd/\0\xFF")).collect()
    }

    fn number(&mut self, field: &str) -> i64 {
        match field {
            "limit" => self.rng.pick(&[1, 1, 2, 3, 10, 0, -1, i64::MAX, i64::MIN]),
            "lease" => {
                if self.rng.one_in(3) {
                    self.rng.pick(LEASES)
                } else {
                    0
                }
            }
            "ID" => self.rng.pick(&[1, 2, 3, 4, 5, 6, 7, 99, i64::MAX, -5, 0]),
            "watch_id" => self.rng.pick(&[0, 0, 0, 1, 2, 3, 4, 1_000, -1, -7, i64::MAX]),
            "version" => self.rng.pick(&[0, 1, 2, 3, -1, i64::MAX]),
            _ => match self.rng.below(24) {
                0 => -1,
                1 => 0,
                2 => self.revision + 1,
                3 => self.revision + 3,
                4 if field != "start_revision" => i64::MAX,
                5 if field != "start_revision" => i64::MIN,
                6 => 1,
                n => (self.revision - (self.rng.below(4 * n) as i64)).max(0),
            },
        }
    }

    fn scripted(&mut self, name: &str, token: Option<&'static str>, fill: impl FnOnce(&mut DynamicMessage)) {
        let mut message = DynamicMessage::new(self.method(name).input());
        fill(&mut message);
        let request = message.encode_to_vec();
        self.next.push_back(Op::Call {
            method: name.to_owned(),
            request,
            token,
            broken: false,
        });
    }

    fn named(&mut self, name: &str, fields: &[(&str, &str)]) {
        self.scripted(name, None, |message| {
            for (field, value) in fields {
                message.set_field_by_name(field, Value::String((*value).into()));
            }
        });
    }

    fn log_in(&mut self, user: &str) {
        self.named("Auth/Authenticate", &[("name", user), ("password", "p")]);
    }

    fn enable_auth(&mut self) {
        for user in USERS {
            self.named("Auth/UserDelete", &[("name", user)]);
            self.named("Auth/UserAdd", &[("name", user), ("password", "p")]);
        }
        self.named("Auth/RoleAdd", &[("name", "root")]);
        self.named("Auth/RoleAdd", &[("name", "reader")]);
        self.named("Auth/RoleAdd", &[("name", "writer")]);
        self.named("Auth/UserGrantRole", &[("user", "root"), ("role", "root")]);
        self.named("Auth/UserGrantRole", &[("user", "alice"), ("role", "writer")]);
        self.named("Auth/UserGrantRole", &[("user", "bob"), ("role", "reader")]);
        self.named("Auth/AuthEnable", &[]);
        USERS.iter().for_each(|user| self.log_in(user));
        self.next.push_back(Op::Reopen(Some("root")));
    }

    /// Ends, a little later, the alarms that may have been raised.
    fn calm_down(&mut self) {
        let mut between: Vec<Op> = (0..6).map(|_| self.random_call()).collect();
        self.next.extend(between.drain(..));
        let token = self.auth.then_some("root");
        for alarm in [1, 2] {
            for member in [0, 7, u64::MAX, 1 << 63] {
                self.scripted("Maintenance/Alarm", token, |message| {
                    message.set_field_by_name("action", Value::EnumNumber(2));
                    message.set_field_by_name("memberID", Value::U64(member));
                    message.set_field_by_name("alarm", Value::EnumNumber(alarm));
                });
            }
        }
    }

    fn random_call(&mut self) -> Op {
        let name = self.rng.pick(&[
            "KV/Put",
            "KV/Range",
            "KV/Txn",
            "KV/DeleteRange",
            "Lease/LeaseGrant",
            "Lease/LeaseRevoke",
            "KV/Compact",
        ]);
        let mut message = self.message(&self.method(name).input(), 0);
        self.tame(name, &mut message);
        Op::Call {
            method: name.to_owned(),
            request: message.encode_to_vec(),
            token: self.token(),
            broken: false,
        }
    }

    /// The operation in words.
    pub fn describe(&self, op: &Op) -> String {
        let text = |method: &str, bytes: &[u8]| {
            let text = match DynamicMessage::decode(self.method(method).input(), bytes) {
                Ok(message) => message.to_text_format(),
                Err(_) => format!("{bytes:02x?}"),
            };
            let cut: String = text.chars().take(2_500).collect();
            cut
        };
        match op {
            Op::Call {
                method,
                request,
                token,
                broken,
            } => {
                let token = token.map_or(String::new(), |token| format!(" as {token}"));
                let broken = if *broken { " (bytes changed)" } else { "" };
                format!("{method}{token}{broken} {{{}}}", text(method, request))
            }
            Op::Watch(request) => format!("Watch {{{}}}", text("Watch/Watch", request)),
            other => format!("{other:?}"),
        }
    }

    pub fn output(&self, method: &str) -> MessageDescriptor {
        self.method(method).output()
    }
}
