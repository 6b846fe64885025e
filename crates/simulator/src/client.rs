//! Clients: they read and write anywhere, give up after a while, and do not know then what became of their request.
//!
//! Invariant: every answer that arrives in time is checked; what never got an answer may have happened or not, as the log says.

use bytes::Bytes;
use prost::Message as _;
use proto::authpb::UserAddOptions;
use proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use proto::etcdserverpb::request_op::Request as Op;
use proto::etcdserverpb::{
    AuthRoleAddRequest, AuthRoleDeleteRequest, AuthUserAddRequest, AuthUserGrantRoleRequest, CompactionRequest,
    Compare, DeleteRangeRequest, InternalRaftRequest, LeaseGrantRequest, LeaseRevokeRequest, PutRequest, RangeRequest,
    RangeResponse, RequestHeader, RequestOp, TxnRequest,
};
use replica::Input;
use replica::state_machine::lease::Renewal;
use replica::state_machine::{Error, Response};

use crate::world::{Event, Life, MS, SECOND, Time, World};

/// What a client asks for.
#[derive(Debug, Clone)]
pub enum Request {
    /// Through the log.
    Propose(Box<InternalRaftRequest>),
    /// A linearizable read.
    Read(RangeRequest),
    /// A read of what the member has.
    Serializable(RangeRequest),
    /// A keep-alive.
    Renew(i64),
}

/// What a member answers.
#[derive(Debug, Clone)]
pub enum Answer {
    /// A proposal was applied or refused at its index; the request id.
    Applied(u64, Box<Result<Response, Error>>),
    /// A range.
    Range(Result<RangeResponse, Error>),
    /// A keep-alive: the TTL, 0 for a lease that is not there.
    Renewed(i64),
    /// Nothing was done, and the client knows.
    Refused,
}

/// One client.
#[derive(Debug)]
pub struct Client {
    turn: u64,
    waiting: bool,
    leases: Vec<i64>,
    next_lease: i64,
    /// Answers since trouble was over.
    pub calm_answers: u64,
}

impl Client {
    /// A client by its number.
    pub fn new(number: usize) -> Client {
        Client {
            turn: 0,
            waiting: false,
            leases: Vec::new(),
            // Negative ids are as good as others.
            next_lease: 1000 * (number as i64 + 1) * if number.is_multiple_of(2) { 1 } else { -1 },
            calm_answers: 0,
        }
    }
}

fn op(request: Op) -> RequestOp {
    RequestOp { request: Some(request) }
}

impl World {
    fn key(&mut self) -> Bytes {
        let keys = self.swarm.keys;
        format!("k{}", self.random.below(keys)).into()
    }

    fn span(&mut self) -> (Bytes, Bytes) {
        match self.random.below(4) {
            0 => (Bytes::from_static(b"k"), Bytes::from_static(b"l")),
            1 => {
                let (one, other) = (self.key(), self.key());
                if one < other { (one, other) } else { (one, Bytes::new()) }
            }
            _ => (self.key(), Bytes::new()),
        }
    }

    fn value(&mut self) -> Bytes {
        let n = self.next_value();
        let (usual, large) = self.swarm.value_bytes;
        let len = if self.random.chance(100) {
            self.random.within(usual, large)
        } else {
            usual
        };
        let mut value = format!("v{n}-").into_bytes();
        while (value.len() as u64) < len {
            value.push(b'a' + (n % 26) as u8);
        }
        value.into()
    }

    fn some_put(&mut self, client: usize, key: Bytes) -> PutRequest {
        let lease = match self.clients.get(client).map(|client| client.leases.clone()) {
            Some(leases) if !leases.is_empty() && self.random.chance(300) => *self.random.pick(&leases),
            _ => 0,
        };
        let ignore_value = self.random.chance(30);
        let ignore_lease = lease == 0 && self.random.chance(30);
        PutRequest {
            key,
            value: if ignore_value { Bytes::new() } else { self.value() },
            lease,
            prev_kv: self.random.chance(300),
            ignore_value,
            ignore_lease,
        }
    }

    fn some_range(&mut self) -> RangeRequest {
        let (key, range_end) = self.span();
        let now = self.truth.model.revision;
        let revision = if self.random.chance(150) {
            self.random.within(1, now.max(1) as u64 + 2) as i64
        } else {
            0
        };
        RangeRequest {
            key,
            range_end,
            revision,
            limit: if self.random.chance(150) { 2 } else { 0 },
            count_only: self.random.chance(50),
            keys_only: self.random.chance(50),
            ..RangeRequest::default()
        }
    }

    fn some_txn(&mut self, client: usize) -> TxnRequest {
        let key = self.key();
        let known = self.truth.model.get(&key, i64::MAX);
        let guess = self.random.below(4);
        let (target, union) = match guess {
            0 => (
                CompareTarget::Version,
                TargetUnion::Version(known.map_or(0, |kv| kv.version)),
            ),
            1 => (
                CompareTarget::Create,
                TargetUnion::CreateRevision(known.map_or(0, |kv| kv.create_revision)),
            ),
            2 => (
                CompareTarget::Value,
                TargetUnion::Value(known.map_or(Bytes::from_static(b"?"), |kv| kv.value)),
            ),
            _ => (
                CompareTarget::Mod,
                TargetUnion::ModRevision(known.map_or(0, |kv| kv.mod_revision)),
            ),
        };
        let result = *self.random.pick(&[
            CompareResult::Equal,
            CompareResult::Equal,
            CompareResult::Greater,
            CompareResult::Less,
            CompareResult::NotEqual,
        ]);
        let compare = Compare {
            result: result as i32,
            target: target as i32,
            key: key.clone(),
            target_union: Some(union),
            range_end: Bytes::new(),
        };
        let mut success = vec![op(Op::RequestPut(self.some_put(client, key.clone())))];
        let mut named = vec![key.clone()];
        for _ in 0..*self.random.pick(&[1, 1, 2, 4]) {
            let other = self.key();
            if named.contains(&other) {
                continue;
            }
            named.push(other.clone());
            success.push(op(if self.random.chance(850) {
                Op::RequestPut(self.some_put(client, other))
            } else {
                Op::RequestDeleteRange(DeleteRangeRequest {
                    key: other,
                    prev_kv: self.random.chance(300),
                    ..DeleteRangeRequest::default()
                })
            }));
        }
        if self.random.chance(300) {
            success.insert(0, op(Op::RequestRange(self.some_range())));
        }
        let mut failure = vec![op(Op::RequestRange(RangeRequest {
            key: key.clone(),
            ..RangeRequest::default()
        }))];
        if self.random.chance(300) {
            failure.push(op(Op::RequestDeleteRange(DeleteRangeRequest {
                key,
                prev_kv: self.random.chance(500),
                ..DeleteRangeRequest::default()
            })));
        }
        TxnRequest {
            compare: vec![compare],
            success,
            failure,
        }
    }

    /// Users and roles change, though nobody is asked for them here.
    fn some_right(&mut self) -> Request {
        let name = format!("r{}", self.random.below(4));
        let none = InternalRaftRequest::default;
        let request = match self.random.below(4) {
            0 => InternalRaftRequest {
                auth_role_add: Some(AuthRoleAddRequest { name }),
                ..none()
            },
            1 => InternalRaftRequest {
                auth_role_delete: Some(AuthRoleDeleteRequest { role: name }),
                ..none()
            },
            2 => InternalRaftRequest {
                auth_user_add: Some(AuthUserAddRequest {
                    name,
                    options: Some(UserAddOptions { no_password: true }),
                    ..AuthUserAddRequest::default()
                }),
                ..none()
            },
            _ => InternalRaftRequest {
                auth_user_grant_role: Some(AuthUserGrantRoleRequest {
                    user: name,
                    role: format!("r{}", self.random.below(4)),
                }),
                ..none()
            },
        };
        Request::Propose(Box::new(request))
    }

    fn some_request(&mut self, client: usize) -> Request {
        let propose = |request: InternalRaftRequest| Request::Propose(Box::new(request));
        let none = InternalRaftRequest::default;
        let leases = self.swarm.leases && !self.calm;
        match self.random.below(100) {
            0..=29 => {
                let key = self.key();
                let put = Some(self.some_put(client, key));
                propose(InternalRaftRequest { put, ..none() })
            }
            30..=39 => {
                let (key, range_end) = self.span();
                let delete_range = Some(DeleteRangeRequest {
                    key,
                    range_end,
                    prev_kv: self.random.chance(300),
                });
                propose(InternalRaftRequest { delete_range, ..none() })
            }
            40..=54 if self.swarm.txns => {
                let txn = Some(self.some_txn(client));
                propose(InternalRaftRequest { txn, ..none() })
            }
            55 => self.some_right(),
            56..=57 => {
                let now = self.truth.model.revision;
                let back = *self.random.pick(&[0, 0, 1, 5, 20]);
                let compaction = Some(CompactionRequest {
                    revision: now - back,
                    physical: false,
                });
                propose(InternalRaftRequest { compaction, ..none() })
            }
            58..=60 if leases => {
                let ttl = self.random.within(1, 4) as i64;
                let next = &mut self.clients[client].next_lease;
                *next += 1;
                let grant = LeaseGrantRequest { id: *next, ttl };
                propose(InternalRaftRequest {
                    lease_grant: Some(grant),
                    ..none()
                })
            }
            61 if leases && !self.clients[client].leases.is_empty() => {
                let at = self.random.below(self.clients[client].leases.len() as u64) as usize;
                let id = self.clients[client].leases.swap_remove(at);
                self.truth.given_up.insert(id);
                propose(InternalRaftRequest {
                    lease_revoke: Some(LeaseRevokeRequest { id }),
                    ..none()
                })
            }
            62..=69 if leases && !self.clients[client].leases.is_empty() => {
                let leases = self.clients[client].leases.clone();
                Request::Renew(*self.random.pick(&leases))
            }
            70..=84 => Request::Read(self.some_range()),
            _ => Request::Serializable(self.some_range()),
        }
    }

    pub(crate) fn client_turn(&mut self, client: usize) {
        if self.clients[client].waiting {
            return;
        }
        // When trouble is over, each client looks a few times whether all is well, and then leaves the cluster in peace.
        if self.calm && self.clients[client].calm_answers >= 4 {
            return;
        }
        let request = self.some_request(client);
        let ids: Vec<u64> = self.listed().iter().map(|member| member.id).collect();
        if ids.is_empty() {
            return self.after(100 * MS, Event::Client(client));
        }
        let target = match (&request, self.leader()) {
            (Request::Renew(_), Some(leader)) => leader,
            _ => *self.random.pick(&ids),
        };
        let state = &mut self.clients[client];
        state.turn += 1;
        state.waiting = true;
        let turn = state.turn;
        self.history.call(client, turn, self.now, request.clone());
        let delay = self.random.around(self.swarm.latency);
        let patience = self.random.within(800 * MS, 7 * SECOND);
        self.after(delay, Event::Arrive(client, turn, target, Box::new(request)));
        self.after(patience, Event::Deadline(client, turn));
    }

    pub(crate) fn request_arrives(&mut self, client: usize, turn: u64, member: u64, request: Request) {
        let now = self.now;
        let paused = self.members.get(&member).map_or(0, |member| member.paused_until);
        if paused > now {
            let at = paused + self.random.within(0, 3 * MS);
            return self.at(at, Event::Arrive(client, turn, member, Box::new(request)));
        }
        let life = self.life(member);
        let Some(process) = self.process(member) else {
            return self.reply(client, turn, Answer::Refused);
        };
        match request {
            Request::Propose(mut request) => {
                let id = process.replica.ids().next();
                request.header = Some(RequestHeader {
                    id,
                    ..RequestHeader::default()
                });
                process.proposals.insert(id, (client, turn));
                self.history.proposed(client, turn, id);
                self.feed(life, Input::Propose(request.encode_to_vec().into()));
            }
            Request::Read(_) => {
                process.reads_made += 1;
                let number = process.reads_made;
                process.reads.push_back((number, client, turn, request));
                self.feed(life, Input::Read(number));
            }
            Request::Serializable(_) => self.read(life, client, turn, request),
            Request::Renew(_) => {
                // A member that was paused may think that it leads, and renew what another one ends: it asks first.
                if !process.replica.leads() {
                    return self.reply(client, turn, Answer::Refused);
                }
                process.reads_made += 1;
                let number = process.reads_made;
                process.reads.push_back((number, client, turn, request));
                self.feed(life, Input::Read(number));
            }
        }
    }

    pub(crate) fn reads_ready(&mut self, life: Life, number: u64) {
        let mut ready = Vec::new();
        if let Some(process) = self.process(life.member) {
            while process.reads.front().is_some_and(|(waiting, ..)| *waiting <= number) {
                ready.extend(process.reads.pop_front());
            }
        }
        for (_, client, turn, request) in ready {
            let delay = self.random.within(0, 200);
            self.after(delay, Event::Read(life, client, turn, Box::new(request)));
        }
    }

    pub(crate) fn read(&mut self, life: Life, client: usize, turn: u64, request: Request) {
        let now = self.now;
        let Some(process) = self.process(life.member) else {
            return;
        };
        let answer = match &request {
            Request::Read(range) | Request::Serializable(range) => {
                Answer::Range(process.replica.state().reader().range(range))
            }
            Request::Renew(id) => {
                let uptime = process.uptime(now);
                if !process.replica.leads() {
                    Answer::Refused
                } else {
                    match process.replica.state().leases().renew(*id, uptime) {
                        Renewal::Renewed { ttl } => Answer::Renewed(ttl),
                        Renewal::NotFound => Answer::Renewed(0),
                        Renewal::NotPrimary | Renewal::Expired | Renewal::ClearCheckpointFirst => Answer::Refused,
                    }
                }
            }
            Request::Propose(_) => return,
        };
        if let Answer::Range(Err(Error::Storage(reason))) = &answer {
            let member = self.members.get(&life.member);
            if !member.is_some_and(|member| member.disk.is_off() || member.excused) {
                return self.fail(format!("a read failed: {reason}"));
            }
            return;
        }
        self.reply(client, turn, answer);
    }

    /// Sends an answer to its client; some get lost.
    pub(crate) fn reply(&mut self, client: usize, turn: u64, answer: Answer) {
        if !self.calm && self.random.chance(self.swarm.drop / 4) {
            return;
        }
        let delay = self.random.around(self.swarm.latency);
        self.after(delay, Event::Answer(client, turn, Box::new(answer)));
    }

    pub(crate) fn answered(&mut self, client: usize, turn: u64, answer: Answer) {
        let state = &mut self.clients[client];
        if state.turn != turn || !state.waiting {
            return;
        }
        state.waiting = false;
        if !matches!(answer, Answer::Refused) {
            state.calm_answers += 1;
        }
        let asked = self.history.asked(client, turn);
        match &answer {
            Answer::Applied(_, result) => {
                if let Ok(Response::LeaseGrant(granted)) = result.as_ref() {
                    let (id, ttl) = (granted.id, granted.ttl);
                    self.clients[client].leases.push(id);
                    self.truth.lease_lives(id, ttl, asked);
                }
            }
            Answer::Renewed(ttl) => {
                if let Some(Request::Renew(id)) = self.history.request(client, turn).cloned() {
                    self.figures.renewals += 1;
                    if *ttl > 0 {
                        self.truth.lease_lives(id, *ttl, asked);
                    } else {
                        self.clients[client].leases.retain(|lease| *lease != id);
                    }
                }
            }
            Answer::Range(_) | Answer::Refused => {}
        }
        self.story.note(&[7, client as u64, turn, self.now]);
        self.history.answered(client, turn, self.now, answer);
        let pause: Time = self.swarm.pause;
        let pause = self.random.around(pause) + 1;
        self.after(pause, Event::Client(client));
    }

    pub(crate) fn gives_up(&mut self, client: usize, turn: u64) {
        let state = &mut self.clients[client];
        if state.turn != turn || !state.waiting {
            return;
        }
        state.waiting = false;
        self.figures.unknown += 1;
        self.after(MS, Event::Client(client));
    }
}
