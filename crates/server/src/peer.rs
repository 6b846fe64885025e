//! etcd's peer protocol over HTTP/1.1 (etcd server/etcdserver/api/rafthttp), so that members of both kinds form one cluster.
//!
//! Invariants:
//! - The run loop's thread is never held up: sending queues or drops, and what is dropped is reported.
//! - A message that this member addresses to itself, to an unknown or to a removed member goes nowhere.
//! - Links follow the membership that the run loop publishes; nothing else adds a peer, except a sender that is not known yet,
//!   which gets a link without streams so that a joining member can be answered.

pub mod codec;
pub mod dial;
pub mod forward;
pub mod idle;
pub mod incarnations;
pub mod link;
pub mod outbox;
pub mod serve;
mod snapshot;
pub mod statistics;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, OnceLock, PoisonError, RwLock};
use std::time::Instant;

use http::{HeaderMap, StatusCode};
use proto::etcdserverpb::Member;
use proto::raftpb::Message;

use self::dial::Identity;
use self::incarnations::Incarnations;
use self::link::{Link, Shared};
use self::serve::Requests;
use self::statistics::Statistics;
use crate::handle::{Handle, OutgoingSnapshot, PeerSender};

/// Senders that are not known as members, at most: nobody fills the memory by inventing ids.
const REMOTES_MAX: usize = 64;

/// All links of a member, and the server side of the protocol.
pub struct Transport {
    shared: Arc<Shared>,
    requests: OnceLock<Arc<dyn Requests>>,
    peers: RwLock<Peers>,
    /// Tasks are spawned from the run loop's thread, which is outside the runtime.
    runtime: tokio::runtime::Handle,
}

#[derive(Default)]
struct Peers {
    members: BTreeMap<u64, Arc<Link>>,
    remotes: BTreeMap<u64, Arc<Link>>,
    removed: Vec<u64>,
}

impl std::fmt::Debug for Transport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Transport({:?})", self.shared.identity)
    }
}

impl Transport {
    /// A transport without peers; must be called within a tokio runtime. `removed` is called when a peer says that this member
    /// was removed from the cluster.
    pub fn new(
        identity: Identity,
        incarnations: Incarnations,
        removed: impl Fn() + Send + Sync + 'static,
    ) -> Arc<Transport> {
        let shared = Shared {
            identity,
            incarnations,
            handle: OnceLock::new(),
            removed: Box::new(removed),
        };
        Arc::new(Transport {
            shared: Arc::new(shared),
            requests: OnceLock::new(),
            peers: RwLock::default(),
            runtime: tokio::runtime::Handle::current(),
        })
    }

    /// Connects the transport with the run loop and with what answers requests; until then peers get 503.
    pub fn start(&self, handle: Handle, requests: Arc<dyn Requests>) {
        // A second call would be a mistake of the wiring; the first one stays.
        self.shared.handle.set(handle).ok();
        self.requests.set(requests).ok();
    }

    /// Who this member is to its peers.
    pub fn identity(&self) -> &Identity {
        &self.shared.identity
    }

    fn incarnations(&self) -> &Incarnations {
        &self.shared.incarnations
    }

    /// Counters of all peers.
    pub fn statistics(&self) -> Vec<Arc<Statistics>> {
        self.read().members.values().map(|link| link.statistics()).collect()
    }

    fn handle(&self) -> Result<&Handle, serve::Refused> {
        self.shared.handle.get().ok_or_else(not_started)
    }

    fn requests(&self) -> Result<&Arc<dyn Requests>, serve::Refused> {
        self.requests.get().ok_or_else(not_started)
    }

    fn link(&self, id: u64) -> Option<Arc<Link>> {
        self.read().members.get(&id).cloned()
    }

    fn is_removed(&self, id: u64) -> bool {
        self.read().removed.contains(&id)
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, Peers> {
        self.peers.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a sender that is not known as a member reachable, by the URLs that it names.
    fn add_remote(&self, headers: &HeaderMap) {
        let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        let Some(from) = header("x-server-from").and_then(|id| u64::from_str_radix(id, 16).ok()) else {
            return;
        };
        let urls: Vec<String> = header("x-peerurls")
            .unwrap_or_default()
            .split(',')
            .map(str::to_owned)
            .collect();
        let usable = |url: &String| matches!(url.parse::<http::Uri>(), Ok(uri) if uri.host().is_some());
        if from == self.shared.identity.member_id || !urls.iter().all(usable) {
            return;
        }
        let mut peers = self.peers.write().unwrap_or_else(PoisonError::into_inner);
        let known =
            peers.members.contains_key(&from) || peers.remotes.contains_key(&from) || peers.removed.contains(&from);
        if !known && peers.remotes.len() < REMOTES_MAX {
            let link = Link::new(self.shared.clone(), from, urls, false);
            peers.remotes.insert(from, Arc::new(link));
        }
    }
}

fn not_started() -> serve::Refused {
    serve::Refused(StatusCode::SERVICE_UNAVAILABLE, "this member is starting".into())
}

impl PeerSender for Transport {
    fn send(&self, messages: Vec<Message>) {
        let peers = self.read();
        for message in messages {
            if let Some(link) = peers
                .members
                .get(&message.to)
                .or_else(|| peers.remotes.get(&message.to))
            {
                link.send(message);
            }
        }
    }

    fn send_snapshot(&self, snapshot: OutgoingSnapshot) {
        let _runtime = self.runtime.enter();
        let to = snapshot.message.to;
        let peers = self.read();
        match peers.members.get(&to).or_else(|| peers.remotes.get(&to)) {
            Some(link) => link.send_snapshot(snapshot),
            None => {
                if let Some(handle) = self.shared.handle.get() {
                    handle.report_snapshot(to, false);
                }
            }
        }
    }

    fn set_peers(&self, members: &[Member], removed: &[u64]) {
        let _runtime = self.runtime.enter();
        let mut peers = self.peers.write().unwrap_or_else(PoisonError::into_inner);
        let others = || {
            members
                .iter()
                .filter(|member| member.id != self.shared.identity.member_id)
        };
        peers.members.retain(|id, _| others().any(|member| member.id == *id));
        for member in others() {
            peers.remotes.remove(&member.id);
            match peers.members.get(&member.id) {
                Some(link) => link.set_urls(member.peer_ur_ls.clone()),
                None => {
                    let link = Link::new(self.shared.clone(), member.id, member.peer_ur_ls.clone(), true);
                    peers.members.insert(member.id, Arc::new(link));
                }
            }
        }
        peers.remotes.retain(|id, _| !removed.contains(id));
        peers.removed = removed.to_vec();
        self.shared.incarnations.forget(removed);
    }

    fn active_since(&self, member_id: u64) -> Option<Instant> {
        self.read().members.get(&member_id).and_then(|link| link.active_since())
    }
}

/// Parses a peer's `/members` answer.
///
/// # Errors
/// JSON that is not a list of members; the text says what is missing.
pub fn parse_members(json: &[u8]) -> io::Result<Vec<Member>> {
    let value: serde_json::Value = serde_json::from_slice(json).map_err(io::Error::other)?;
    let list = value
        .as_array()
        .ok_or_else(|| io::Error::other("the peer's /members answer is not a list"))?;
    let strings = |value: Option<&serde_json::Value>| -> Vec<String> {
        let list = value.and_then(serde_json::Value::as_array);
        list.into_iter()
            .flatten()
            .filter_map(|url| url.as_str().map(str::to_owned))
            .collect()
    };
    list.iter()
        .map(|member| {
            let id = member.get("id").and_then(serde_json::Value::as_u64);
            Ok(Member {
                id: id.ok_or_else(|| io::Error::other("a member in the peer's /members answer has no id"))?,
                name: member
                    .get("name")
                    .and_then(serde_json::Value::as_str)
                    .unwrap_or_default()
                    .to_owned(),
                peer_ur_ls: strings(member.get("peerURLs")),
                client_ur_ls: strings(member.get("clientURLs")),
                is_learner: member
                    .get("isLearner")
                    .and_then(serde_json::Value::as_bool)
                    .unwrap_or(false),
            })
        })
        .collect()
}
