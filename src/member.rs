//! All that the operator asks of a running member, through etcd's own API: so upstream etcd is managed as well as ours.
//!
//! Invariants:
//! 1. Every question has a deadline of its own: one member that hangs cannot hold up the view of the others.
//! 2. A [`Member`] talks to exactly one member, never to "the cluster": what it says is evidence about that one.
//! 3. A connection never outlives the TLS material it was made with ([`Connections::trust`]).

pub mod calls;
pub mod range;
pub mod usage;

use crate::certificates::Pair;
use crate::clock;
use calls::{Answering, Calls, Network, Reach, Trouble};
use etcd_client::{Client, SnapshotStreaming};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// For questions that a healthy member answers from memory.
const QUICK: Duration = Duration::from_millis(1500);
/// For changes that need a quorum and a disk; etcd's own request timeout is 5 s plus two elections.
const CHANGE: Duration = Duration::from_secs(8);
/// For reads of the whole database of one member.
const SCAN: Duration = Duration::from_secs(60);
/// For work over the whole database of one member.
const LONG: Duration = Duration::from_secs(600);

/// Why a member did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No answer in time.
    #[error("{endpoint} did not answer {what} within {after:?}")]
    Timeout {
        /// Client URL of the member.
        endpoint: String,
        /// The question.
        what: &'static str,
        /// The deadline.
        after: Duration,
    },
    /// It answered with an error, or cannot be reached.
    #[error("{endpoint} refused {what}: {source}")]
    Refused {
        /// Client URL of the member.
        endpoint: String,
        /// The question.
        what: &'static str,
        /// What it said.
        source: Box<etcd_client::Error>,
    },
    /// The answer makes no sense.
    #[error("{endpoint} answered {what} without {missing}")]
    Incomplete {
        /// Client URL of the member.
        endpoint: String,
        /// The question.
        what: &'static str,
        /// The part that is absent.
        missing: &'static str,
    },
}

impl Error {
    /// The text that the member itself sent, when it sent one: etcd's error texts are stable and are matched by text.
    pub fn server_message(&self) -> Option<&str> {
        match self {
            Error::Refused { source, .. } => match source.as_ref() {
                etcd_client::Error::GRpcStatus(status) => Some(status.message()),
                _ => None,
            },
            _ => None,
        }
    }
}

/// What a client needs to be let in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Access {
    /// PEM bundle of trusted authorities.
    pub authorities: String,
    /// The client's own certificate; an empty one is not presented.
    pub identity: Pair,
}

/// Connections to members, one per client URL, made when first needed and kept.
#[derive(Debug)]
pub struct Connections {
    reach: Arc<dyn Reach>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    access: Option<Access>,
    open: BTreeMap<String, Arc<dyn Calls>>,
    /// Names that certificates are checked against, where they are others than the endpoint's own.
    names: BTreeMap<String, String>,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State")
            .field("open", &self.open.keys())
            .finish_non_exhaustive()
    }
}

impl Connections {
    /// No connection yet. Shared by every task that talks to one cluster.
    pub fn new() -> Arc<Connections> {
        Connections::by(Arc::new(Network))
    }

    /// The same by another way than the network.
    pub fn by(reach: Arc<dyn Reach>) -> Arc<Connections> {
        Arc::new(Connections {
            reach,
            state: Mutex::default(),
        })
    }

    /// The way to members.
    pub fn reach(&self) -> &dyn Reach {
        self.reach.as_ref()
    }

    /// Uses this TLS material from now on (none: plain text); connections made with other material are dropped.
    pub fn trust(&self, access: Option<Access>) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.access != access {
            state.access = access;
            state.open.clear();
        }
    }

    /// From now on the certificate shown at `endpoint` (an address) must be valid for `name`: members are dialled without
    /// asking a DNS server. An address that changes hands gets a connection of its own.
    pub fn call(&self, endpoint: &str, name: &str) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.names.get(endpoint).is_none_or(|known| known != name) {
            state.names.insert(endpoint.to_owned(), name.to_owned());
            state.open.remove(endpoint);
        }
    }

    /// Drops the connection to one member: the next question dials anew instead of waiting out a back-off.
    pub fn forget(&self, endpoint: &str) {
        self.state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .open
            .remove(endpoint);
    }

    /// The member that serves clients at `endpoint` (`http://` or `https://`).
    pub async fn member(&self, endpoint: &str) -> Result<Member, Error> {
        let (access, name) = {
            let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(calls) = state.open.get(endpoint) {
                return Ok(Member {
                    calls: Arc::clone(calls),
                    endpoint: endpoint.to_owned(),
                });
            }
            (state.access.clone(), state.names.get(endpoint).cloned())
        };
        let calls = self.reach.dial(endpoint, name.as_deref(), access.as_ref()).await?;
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.access == access && state.names.get(endpoint) == name.as_ref() {
            state.open.insert(endpoint.to_owned(), Arc::clone(&calls));
        }
        Ok(Member {
            calls,
            endpoint: endpoint.to_owned(),
        })
    }
}

/// A client of all `endpoints` at once, for work of users (the demo's load), not for judging members.
pub async fn connect(endpoints: &[&str], access: Option<&Access>) -> Result<Client, Error> {
    calls::dial(endpoints, None, access).await
}

/// One running member.
#[derive(Clone)]
pub struct Member {
    calls: Arc<dyn Calls>,
    endpoint: String,
}

impl std::fmt::Debug for Member {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Member")
            .field("endpoint", &self.endpoint)
            .finish_non_exhaustive()
    }
}

/// What a member says about itself (Maintenance.Status).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// Its member id.
    pub member_id: u64,
    /// The cluster that it is part of.
    pub cluster_id: u64,
    /// Latest revision of its key space.
    pub revision: i64,
    /// Raft term.
    pub term: u64,
    /// Member id of the leader; 0 when it knows none.
    pub leader: u64,
    /// Last raft index that it knows to be committed.
    pub raft_index: u64,
    /// Last raft index that it applied.
    pub applied_index: u64,
    /// It has no vote yet.
    pub is_learner: bool,
    /// Version of its program.
    pub version: String,
    /// Bytes of its database file.
    pub db_size: u64,
    /// Of those, in use.
    pub db_size_in_use: u64,
    /// Its quota in bytes; 0 from versions that do not say.
    pub db_size_quota: u64,
    /// What it complains about.
    pub errors: Vec<String>,
}

/// One row of the membership.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Member id.
    pub id: u64,
    /// Empty until it has started once.
    pub name: String,
    /// Where its peers reach it.
    pub peer_urls: Vec<String>,
    /// Where clients reach it; empty until it has started once.
    pub client_urls: Vec<String>,
    /// It has no vote.
    pub is_learner: bool,
}

/// What a member can raise an alarm about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Alarm {
    /// Its database is over the quota: the cluster takes no writes.
    NoSpace,
    /// Its data differs from the others'.
    Corrupt,
}

/// A hash over the key space, to compare members with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HashKv {
    /// CRC over all revisions up to `revision`.
    pub hash: u32,
    /// The revision that was asked for; comparable only among equal ones.
    pub revision: i64,
    /// Where history begins; comparable only among equal ones.
    pub compact_revision: i64,
}

impl Member {
    /// Its client URL.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// What it says about itself; answered from memory, with or without a quorum.
    pub async fn status(&self) -> Result<Status, Error> {
        self.ask("status", QUICK, self.calls.status()).await
    }

    /// The membership as this member has applied it.
    pub async fn members(&self) -> Result<Vec<Listed>, Error> {
        self.ask("member list", QUICK, self.calls.members()).await
    }

    /// Whether it can serve a linearizable read now: it has a leader, and a quorum confirms it.
    pub async fn linearizable(&self) -> Result<(), Error> {
        self.ask("linearizable read", QUICK * 2, self.calls.linearizable())
            .await
    }

    /// Adds a member that will be reached at `peer_urls`; as a learner it has no vote. Returns its id.
    pub async fn add(&self, peer_urls: &[String], learner: bool) -> Result<Listed, Error> {
        self.ask("member add", CHANGE, self.calls.add(peer_urls.to_vec(), learner))
            .await
    }

    /// Gives a learner its vote; refused until it has caught up.
    pub async fn promote(&self, id: u64) -> Result<(), Error> {
        self.ask("member promote", CHANGE, self.calls.promote(id)).await
    }

    /// Takes a member out for good: its id never comes back.
    pub async fn remove(&self, id: u64) -> Result<(), Error> {
        self.ask("member remove", CHANGE, self.calls.remove(id)).await
    }

    /// Changes where a member is reached by its peers.
    pub async fn update(&self, id: u64, peer_urls: &[String]) -> Result<(), Error> {
        self.ask("member update", CHANGE, self.calls.update(id, peer_urls.to_vec()))
            .await
    }

    /// Hands leadership to `target`; only the leader can.
    pub async fn move_leader(&self, target: u64) -> Result<(), Error> {
        self.ask("move leader", CHANGE, self.calls.move_leader(target)).await
    }

    /// Gives free space inside the database back to the file system; upstream etcd stands still meanwhile.
    pub async fn defragment(&self) -> Result<(), Error> {
        self.ask("defragment", LONG, self.calls.defragment()).await
    }

    /// Drops history before `revision`. With `physical`, returns only when the space is free inside the database.
    pub async fn compact(&self, revision: i64, physical: bool) -> Result<(), Error> {
        self.ask("compact", LONG, self.calls.compact(revision, physical)).await
    }

    /// Alarms of all members, as this one has applied them: member id and kind.
    pub async fn alarms(&self) -> Result<Vec<(u64, Alarm)>, Error> {
        self.ask("alarm list", QUICK * 2, self.calls.alarms()).await
    }

    /// Clears one alarm of one member.
    pub async fn disarm(&self, id: u64, alarm: Alarm) -> Result<(), Error> {
        self.ask("alarm disarm", CHANGE, self.calls.disarm(id, alarm)).await
    }

    /// Hash of its key space at `revision`; 0 is its latest.
    pub async fn hash_kv(&self, revision: i64) -> Result<HashKv, Error> {
        self.ask("hashkv", SCAN, self.calls.hash_kv(revision)).await
    }

    /// How many keys there were at `revision`, by its own account: no other member is asked.
    pub async fn count_keys(&self, revision: i64) -> Result<u64, Error> {
        self.ask("count", SCAN, self.calls.count_keys(revision)).await
    }

    /// A consistent image of its database followed by the SHA-256 of it, in pieces; each piece has its own deadline,
    /// which the caller sets.
    pub async fn snapshot(&self) -> Result<SnapshotStreaming, Error> {
        self.ask("snapshot", CHANGE, self.calls.snapshot()).await
    }

    async fn ask<T>(&self, what: &'static str, after: Duration, call: Answering<'_, T>) -> Result<T, Error> {
        let endpoint = || self.endpoint.clone();
        match clock::timeout(after, call).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(Trouble::Refused(source))) => Err(Error::Refused {
                endpoint: endpoint(),
                what,
                source,
            }),
            Ok(Err(Trouble::Missing(missing))) => Err(Error::Incomplete {
                endpoint: endpoint(),
                what,
                missing,
            }),
            Err(_) => Err(Error::Timeout {
                endpoint: endpoint(),
                what,
                after,
            }),
        }
    }
}
