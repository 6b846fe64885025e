//! All that the operator asks of a running member, through etcd's own API: so upstream etcd is managed as well as ours.
//!
//! Invariants:
//! 1. Every question has a deadline of its own: one member that hangs cannot hold up the view of the others.
//! 2. A [`Member`] talks to exactly one member, never to "the cluster": what it says is evidence about that one.
//! 3. A connection never outlives the TLS material it was made with ([`Connections::trust`]).

use crate::certificates::Pair;
use etcd_client::{
    AlarmAction, AlarmOptions, AlarmType, Certificate, Client, CompactionOptions, ConnectOptions, GetOptions, Identity,
    MemberAddOptions, SnapshotStreaming, TlsOptions,
};
use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// For questions that a healthy member answers from memory.
const QUICK: Duration = Duration::from_millis(1500);
/// For changes that need a quorum and a disk; etcd's own request timeout is 5 s plus two elections.
const CHANGE: Duration = Duration::from_secs(8);
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
    /// The client's own certificate.
    pub identity: Pair,
}

/// Connections to members, one per client URL, made when first needed and kept.
#[derive(Debug, Default)]
pub struct Connections {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    access: Option<Access>,
    open: BTreeMap<String, Client>,
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
        Arc::default()
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
            if let Some(client) = state.open.get(endpoint) {
                return Ok(Member {
                    client: client.clone(),
                    endpoint: endpoint.to_owned(),
                });
            }
            (state.access.clone(), state.names.get(endpoint).cloned())
        };
        let client = dial(&[endpoint], name.as_deref(), access.as_ref()).await?;
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.access == access && state.names.get(endpoint) == name.as_ref() {
            state.open.insert(endpoint.to_owned(), client.clone());
        }
        Ok(Member {
            client,
            endpoint: endpoint.to_owned(),
        })
    }
}

/// A client of all `endpoints` at once, for work of users (the demo's load), not for judging members.
pub async fn connect(endpoints: &[&str], access: Option<&Access>) -> Result<Client, Error> {
    dial(endpoints, None, access).await
}

async fn dial(endpoints: &[&str], name: Option<&str>, access: Option<&Access>) -> Result<Client, Error> {
    let mut options = ConnectOptions::new()
        .with_connect_timeout(QUICK)
        .with_keep_alive(Duration::from_secs(5), Duration::from_secs(3))
        .with_keep_alive_while_idle(false);
    if let Some(access) = access.filter(|_| endpoints.iter().any(|url| url.starts_with("https://"))) {
        let identity = Identity::from_pem(&access.identity.certificate, &access.identity.key);
        let mut tls = TlsOptions::new()
            .ca_certificate(Certificate::from_pem(&access.authorities))
            .identity(identity);
        if let Some(name) = name {
            tls = tls.domain_name(name);
        }
        options = options.with_tls(tls);
    }
    let refused = |source| Error::Refused {
        endpoint: endpoints.join(","),
        what: "connect",
        source: Box::new(source),
    };
    Client::connect(endpoints, Some(options)).await.map_err(refused)
}

/// One running member.
#[derive(Clone)]
pub struct Member {
    client: Client,
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
        let mut client = self.client.maintenance_client();
        let answer = self.ask("status", QUICK, async move { client.status().await }).await?;
        let header = self.require("status", "header", answer.header())?;
        Ok(Status {
            member_id: header.member_id(),
            cluster_id: header.cluster_id(),
            revision: header.revision(),
            term: answer.raft_term(),
            leader: answer.leader(),
            raft_index: answer.raft_index(),
            applied_index: answer.raft_applied_index(),
            is_learner: answer.is_learner(),
            version: answer.version().to_owned(),
            db_size: unsigned(answer.db_size()),
            db_size_in_use: unsigned(answer.raft_used_db_size()),
            db_size_quota: unsigned(answer.db_size_quota()),
            errors: answer.errors().to_vec(),
        })
    }

    /// The membership as this member has applied it.
    pub async fn members(&self) -> Result<Vec<Listed>, Error> {
        let mut client = self.client.cluster_client();
        let answer = self
            .ask("member list", QUICK, async move { client.member_list().await })
            .await?;
        Ok(answer.members().iter().map(listed).collect())
    }

    /// Whether it can serve a linearizable read now: it has a leader, and a quorum confirms it.
    pub async fn linearizable(&self) -> Result<(), Error> {
        let mut client = self.client.kv_client();
        let options = GetOptions::new().with_count_only().with_limit(1);
        self.ask("linearizable read", QUICK * 2, async move {
            client.get("health", Some(options)).await
        })
        .await?;
        Ok(())
    }

    /// Adds a member that will be reached at `peer_urls`; as a learner it has no vote. Returns its id.
    pub async fn add(&self, peer_urls: &[String], learner: bool) -> Result<Listed, Error> {
        let mut client = self.client.cluster_client();
        let options = learner.then(|| MemberAddOptions::new().with_is_learner());
        let urls = peer_urls.to_vec();
        let answer = self
            .ask(
                "member add",
                CHANGE,
                async move { client.member_add(urls, options).await },
            )
            .await?;
        Ok(listed(self.require("member add", "member", answer.member())?))
    }

    /// Gives a learner its vote; refused until it has caught up.
    pub async fn promote(&self, id: u64) -> Result<(), Error> {
        let mut client = self.client.cluster_client();
        self.ask("member promote", CHANGE, async move { client.member_promote(id).await })
            .await
            .map(drop)
    }

    /// Takes a member out for good: its id never comes back.
    pub async fn remove(&self, id: u64) -> Result<(), Error> {
        let mut client = self.client.cluster_client();
        self.ask("member remove", CHANGE, async move { client.member_remove(id).await })
            .await
            .map(drop)
    }

    /// Changes where a member is reached by its peers.
    pub async fn update(&self, id: u64, peer_urls: &[String]) -> Result<(), Error> {
        let mut client = self.client.cluster_client();
        let urls = peer_urls.to_vec();
        self.ask(
            "member update",
            CHANGE,
            async move { client.member_update(id, urls).await },
        )
        .await
        .map(drop)
    }

    /// Hands leadership to `target`; only the leader can.
    pub async fn move_leader(&self, target: u64) -> Result<(), Error> {
        let mut client = self.client.maintenance_client();
        self.ask("move leader", CHANGE, async move { client.move_leader(target).await })
            .await
            .map(drop)
    }

    /// Gives free space inside the database back to the file system; upstream etcd stands still meanwhile.
    pub async fn defragment(&self) -> Result<(), Error> {
        let mut client = self.client.maintenance_client();
        self.ask("defragment", LONG, async move { client.defragment().await })
            .await
            .map(drop)
    }

    /// Drops history before `revision`. With `physical`, returns only when the space is free inside the database.
    pub async fn compact(&self, revision: i64, physical: bool) -> Result<(), Error> {
        let mut client = self.client.kv_client();
        let options = physical.then(|| CompactionOptions::new().with_physical());
        self.ask("compact", LONG, async move { client.compact(revision, options).await })
            .await
            .map(drop)
    }

    /// Alarms of all members, as this one has applied them: member id and kind.
    pub async fn alarms(&self) -> Result<Vec<(u64, Alarm)>, Error> {
        let mut client = self.client.maintenance_client();
        let call = async move { client.alarm(AlarmAction::Get, AlarmType::None, None).await };
        let answer = self.ask("alarm list", QUICK * 2, call).await?;
        Ok(answer
            .alarms()
            .iter()
            .filter_map(|alarm| match alarm.alarm() {
                AlarmType::Nospace => Some((alarm.member_id(), Alarm::NoSpace)),
                AlarmType::Corrupt => Some((alarm.member_id(), Alarm::Corrupt)),
                AlarmType::None => None,
            })
            .collect())
    }

    /// Clears one alarm of one member.
    pub async fn disarm(&self, id: u64, alarm: Alarm) -> Result<(), Error> {
        let mut client = self.client.maintenance_client();
        let kind = match alarm {
            Alarm::NoSpace => AlarmType::Nospace,
            Alarm::Corrupt => AlarmType::Corrupt,
        };
        let mut options = AlarmOptions::new();
        options.with_member(id);
        let call = async move { client.alarm(AlarmAction::Deactivate, kind, Some(options)).await };
        self.ask("alarm disarm", CHANGE, call).await.map(drop)
    }

    /// Hash of its key space at `revision`; 0 is its latest.
    pub async fn hash_kv(&self, revision: i64) -> Result<HashKv, Error> {
        let mut client = self.client.maintenance_client();
        let answer = self
            .ask("hashkv", Duration::from_secs(60), async move {
                client.hash_kv(revision).await
            })
            .await?;
        let header = self.require("hashkv", "header", answer.header())?;
        // hash_revision came with etcd 3.6; before, the header's is the one that was hashed when none was asked for.
        let hashed = match answer.hash_revision() {
            0 if revision == 0 => header.revision(),
            0 => revision,
            hashed => hashed,
        };
        Ok(HashKv {
            hash: answer.hash(),
            revision: hashed,
            compact_revision: answer.compact_version(),
        })
    }

    /// How many keys there were at `revision`, by its own account: no other member is asked.
    pub async fn count_keys(&self, revision: i64) -> Result<u64, Error> {
        let mut client = self.client.kv_client();
        let options = GetOptions::new()
            .with_all_keys()
            .with_count_only()
            .with_serializable()
            .with_revision(revision);
        let call = async move { client.get("", Some(options)).await };
        let answer = self.ask("count", Duration::from_secs(60), call).await?;
        Ok(unsigned(answer.count()))
    }

    /// A consistent image of its database followed by the SHA-256 of it, in pieces; each piece has its own deadline,
    /// which the caller sets.
    pub async fn snapshot(&self) -> Result<SnapshotStreaming, Error> {
        let mut client = self.client.maintenance_client();
        self.ask("snapshot", CHANGE, async move { client.snapshot().await })
            .await
    }

    async fn ask<T>(
        &self,
        what: &'static str,
        after: Duration,
        call: impl Future<Output = Result<T, etcd_client::Error>>,
    ) -> Result<T, Error> {
        match tokio::time::timeout(after, call).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(source)) => Err(Error::Refused {
                endpoint: self.endpoint.clone(),
                what,
                source: Box::new(source),
            }),
            Err(_) => Err(Error::Timeout {
                endpoint: self.endpoint.clone(),
                what,
                after,
            }),
        }
    }

    fn require<T>(&self, what: &'static str, missing: &'static str, part: Option<T>) -> Result<T, Error> {
        part.ok_or_else(|| Error::Incomplete {
            endpoint: self.endpoint.clone(),
            what,
            missing,
        })
    }
}

fn listed(member: &etcd_client::Member) -> Listed {
    Listed {
        id: member.id(),
        name: member.name().to_owned(),
        peer_urls: member.peer_urls().to_vec(),
        client_urls: member.client_urls().to_vec(),
        is_learner: member.is_learner(),
    }
}

/// Sizes travel as signed numbers; a negative one would be a fault of the member and counts as nothing.
fn unsigned(size: i64) -> u64 {
    u64::try_from(size).unwrap_or(0)
}
