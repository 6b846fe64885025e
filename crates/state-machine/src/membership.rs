//! Who is in the cluster, and what a change of members may do.
//!
//! Invariants:
//! - An id that was removed never comes back. A member's id and the cluster's follow from names and URLs alone, by SHA-1, so every
//!   member of a new cluster computes the same.
//! - A configuration change is judged when it is applied, by the state before it, on every member alike. One that is refused is
//!   voided (node id 0) before raft sees it, and still counts as applied (etcd server/etcdserver/api/membership/cluster.go).
//! - What is stored are the buckets `members` (hex id → JSON), `members_removed` and `cluster`; JSON is Go's, byte for byte.

mod json;
mod member;
mod urls;

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use proto::raftpb::{ConfChange, ConfChangeType, ConfState};

use crate::error::Error;
use crate::version::{DowngradeInfo, Version};

pub use json::to_go_json;
pub use member::{ChangeContext, Member, cluster_id, member_id};
pub use urls::{BadUrls, parse_initial_cluster, parse_urls};

/// The value of every key in the bucket `members_removed`.
pub const REMOVED: &[u8] = b"removed";

/// What a valid configuration change does to the member list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// A new member, learner or voter.
    Add(Member),
    /// A learner becomes a voter.
    Promote(u64),
    /// A member goes, and its id with it.
    Remove(u64),
    /// A member has new peer URLs. Nothing else of it changes.
    Update(Member),
}

/// A configuration change that no member can apply: etcd panics on it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadChange {
    /// The context is not the JSON of a member.
    #[error("configuration change of member {node_id:x}: the context is not a member: {reason}")]
    Context {
        /// The id in the change.
        node_id: u64,
        /// What the JSON reader says.
        reason: String,
    },
    /// The change and its context speak of different members.
    #[error("configuration change of member {node_id:x}: the context is about member {context_id:x}")]
    OtherMember {
        /// The id in the change.
        node_id: u64,
        /// The id in the context.
        context_id: u64,
    },
    /// A type that is not in the protocol.
    #[error("configuration change of member {node_id:x}: unknown type {kind}")]
    Kind {
        /// The id in the change.
        node_id: u64,
        /// The type.
        kind: i32,
    },
}

/// A stored fact about the cluster that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("bucket {bucket}, key {key:?}: {reason}; restore this member from a snapshot or from the other members")]
pub struct Unreadable {
    /// The bucket.
    pub bucket: &'static str,
    /// The key.
    pub key: String,
    /// What is wrong with the value.
    pub reason: String,
}

/// The cluster as the applied entries have made it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Membership {
    members: BTreeMap<u64, Member>,
    removed: BTreeSet<u64>,
    version: Option<Version>,
    downgrade: Option<DowngradeInfo>,
    learners_max: usize,
}

impl Membership {
    /// An empty cluster that may have so many learners.
    pub fn new(learners_max: usize) -> Membership {
        Membership {
            learners_max,
            ..Membership::default()
        }
    }

    /// The cluster as it is stored in the buckets `members`, `members_removed` and `cluster`.
    pub fn recover(
        learners_max: usize,
        members: &[(Bytes, Bytes)],
        removed: &[(Bytes, Bytes)],
        version: Option<&[u8]>,
        downgrade: Option<&[u8]>,
    ) -> Result<Membership, Unreadable> {
        let unreadable = |bucket, key: &[u8], reason: String| Unreadable {
            bucket,
            key: String::from_utf8_lossy(key).into_owned(),
            reason,
        };
        let mut cluster = Membership::new(learners_max);
        for (key, value) in members {
            let id = parse_id(key).ok_or_else(|| unreadable("members", key, "the key is not a hex id".into()))?;
            let mut member: Member =
                serde_json::from_slice(value).map_err(|error| unreadable("members", key, error.to_string()))?;
            // etcd trusts the id in the value; a file where the two differ is broken.
            if member.id != id && member.id != 0 {
                return Err(unreadable(
                    "members",
                    key,
                    format!("the value is about member {:x}", member.id),
                ));
            }
            member.id = id;
            cluster.members.insert(id, member);
        }
        for (key, _) in removed {
            let id =
                parse_id(key).ok_or_else(|| unreadable("members_removed", key, "the key is not a hex id".into()))?;
            cluster.removed.insert(id);
        }
        if let Some(text) = version {
            let text = String::from_utf8_lossy(text);
            let version = text
                .parse()
                .map_err(|error| unreadable("cluster", b"clusterVersion", format!("{error}")))?;
            cluster.version = Some(version);
        }
        if let Some(value) = downgrade {
            let info: DowngradeInfo = serde_json::from_slice(value)
                .map_err(|error| unreadable("cluster", b"downgrade", error.to_string()))?;
            if info.enabled {
                let check = info.target_version.parse::<Version>();
                check.map_err(|error| unreadable("cluster", b"downgrade", format!("target {error}")))?;
            }
            cluster.downgrade = Some(info);
        }
        Ok(cluster)
    }

    /// The members, by id.
    pub fn members(&self) -> impl Iterator<Item = &Member> {
        self.members.values()
    }

    /// One member.
    pub fn member(&self, id: u64) -> Option<&Member> {
        self.members.get(&id)
    }

    /// The ids that were removed, ascending.
    pub fn removed(&self) -> impl Iterator<Item = u64> {
        self.removed.iter().copied()
    }

    /// Whether this id was removed.
    pub fn is_removed(&self, id: u64) -> bool {
        self.removed.contains(&id)
    }

    /// The configuration that raft has with these members; `None` without members.
    pub fn conf_state(&self) -> Option<ConfState> {
        let ids = |learners| {
            self.members()
                .filter(move |m| m.is_learner == learners)
                .map(|m| m.id)
                .collect()
        };
        (!self.members.is_empty()).then(|| ConfState {
            voters: ids(false),
            learners: ids(true),
            ..ConfState::default()
        })
    }

    /// The cluster version; `None` until the first leader has proposed one.
    pub fn version(&self) -> Option<&Version> {
        self.version.as_ref()
    }

    /// The downgrade job; disabled when there is none.
    pub fn downgrade(&self) -> DowngradeInfo {
        self.downgrade.clone().unwrap_or_default()
    }

    /// Judges a configuration change by the present state. The outer error is fatal; the inner one voids the change.
    pub fn validate(&self, change: &ConfChange) -> Result<Result<Change, Error>, BadChange> {
        let node_id = change.node_id;
        if self.removed.contains(&node_id) {
            // The client hears "member not found", for removed members too.
            return Ok(Err(Error::MemberNotFound));
        }
        let kind = ConfChangeType::try_from(change.r#type).map_err(|_| BadChange::Kind {
            node_id,
            kind: change.r#type,
        })?;
        let verdict = match kind {
            ConfChangeType::ConfChangeAddNode | ConfChangeType::ConfChangeAddLearnerNode => {
                let context: ChangeContext = parse_context(change)?;
                let as_learner = kind == ConfChangeType::ConfChangeAddLearnerNode;
                let verdict = if context.is_promote {
                    self.refuses_promotion(node_id)
                } else {
                    self.refuses_addition(node_id, &context.member, as_learner)
                };
                match verdict {
                    Some(refusal) => Err(refusal),
                    None if context.member.id != node_id => {
                        return Err(BadChange::OtherMember {
                            node_id,
                            context_id: context.member.id,
                        });
                    }
                    None if context.is_promote => Ok(Change::Promote(node_id)),
                    None => Ok(Change::Add(context.member)),
                }
            }
            ConfChangeType::ConfChangeRemoveNode => match self.members.contains_key(&node_id) {
                true => Ok(Change::Remove(node_id)),
                false => Err(Error::MemberNotFound),
            },
            ConfChangeType::ConfChangeUpdateNode => {
                if !self.members.contains_key(&node_id) {
                    return Ok(Err(Error::MemberNotFound));
                }
                let member: Member = parse_context(change)?;
                if self.any_has_url(&member.peer_urls, Some(node_id)) {
                    return Ok(Err(Error::PeerUrlExists));
                }
                if member.id != node_id {
                    return Err(BadChange::OtherMember {
                        node_id,
                        context_id: member.id,
                    });
                }
                Ok(Change::Update(member))
            }
        };
        Ok(verdict)
    }

    fn refuses_promotion(&self, id: u64) -> Option<Error> {
        match self.members.get(&id) {
            None => Some(Error::MemberNotFound),
            Some(member) if !member.is_learner => Some(Error::MemberNotLearner),
            Some(_) => None,
        }
    }

    fn refuses_addition(&self, id: u64, new: &Member, as_learner: bool) -> Option<Error> {
        if self.members.contains_key(&id) {
            return Some(Error::MemberExists);
        }
        if self.any_has_url(&new.peer_urls, None) {
            return Some(Error::PeerUrlExists);
        }
        let learners = self.members.values().filter(|member| member.is_learner).count();
        (new.is_learner && as_learner && learners + 1 > self.learners_max).then_some(Error::TooManyLearners)
    }

    fn any_has_url(&self, urls: &[String], except: Option<u64>) -> bool {
        let others = self.members.values().filter(|member| Some(member.id) != except);
        others
            .flat_map(|member| &member.peer_urls)
            .any(|url| urls.contains(url))
    }

    /// Carries out a validated change. Returns the member to store; `None` when the id moves to `members_removed`.
    pub fn carry_out(&mut self, change: Change) -> Option<Member> {
        match change {
            Change::Add(member) => {
                self.members.insert(member.id, member.clone());
                Some(member)
            }
            Change::Promote(id) => {
                let member = self.members.get_mut(&id)?;
                member.is_learner = false;
                Some(member.clone())
            }
            Change::Remove(id) => {
                self.members.remove(&id);
                self.removed.insert(id);
                None
            }
            Change::Update(update) => {
                // Only the URLs: the context of an update says nothing about the role (etcd #21694).
                let member = self.members.get_mut(&update.id)?;
                member.peer_urls = update.peer_urls;
                if mutant::planted("H49") {
                    member.is_learner = update.is_learner;
                }
                Some(member.clone())
            }
        }
    }

    /// A member has told its name and client URLs. Returns the member to store, `None` if it was removed meanwhile.
    pub fn set_attributes(
        &mut self,
        id: u64,
        name: String,
        client_urls: Vec<String>,
    ) -> Result<Option<Member>, UnknownMember> {
        match self.members.get_mut(&id) {
            Some(member) => {
                member.name = name;
                member.client_urls = client_urls;
                Ok(Some(member.clone()))
            }
            None if self.removed.contains(&id) => Ok(None),
            None => Err(UnknownMember { id }),
        }
    }

    /// The members agreed on a cluster version; returns the one before.
    pub fn set_version(&mut self, version: Version) -> Option<Version> {
        self.version.replace(version)
    }

    /// A downgrade job begins or ends.
    pub fn set_downgrade(&mut self, info: DowngradeInfo) {
        self.downgrade = Some(info);
    }

    /// Whether a voter can be added without risking the quorum: enough members have started. The one exception is the second member
    /// of a cluster of one.
    pub fn ready_to_add_voter(&self) -> bool {
        let (voters, started) = self.voters_and_started(None);
        (started == 1 && voters == 1) || started >= quorum(voters + 1)
    }

    /// Whether this voter can go without leaving fewer started members than a quorum.
    pub fn ready_to_remove_voter(&self, id: u64) -> bool {
        let (voters, started) = self.voters_and_started(Some(id));
        started >= quorum(voters)
    }

    /// Whether a learner can become a voter; it counts as started.
    pub fn ready_to_promote(&self) -> bool {
        let (voters, started) = self.voters_and_started(None);
        started + 1 >= quorum(voters + 1)
    }

    fn voters_and_started(&self, without: Option<u64>) -> (usize, usize) {
        let voters = || {
            self.members
                .values()
                .filter(|member| !member.is_learner && Some(member.id) != without)
        };
        (voters().count(), voters().filter(|member| member.is_started()).count())
    }
}

/// An entry sets attributes of a member that never was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("attributes for member {id:x}, which is neither a member nor a removed one")]
pub struct UnknownMember {
    /// The id.
    pub id: u64,
}

/// The key of a member in the buckets `members` and `members_removed`.
pub fn member_key(id: u64) -> Bytes {
    format!("{id:x}").into()
}

fn quorum(voters: usize) -> usize {
    voters / 2 + 1
}

fn parse_id(key: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(key).ok()?;
    u64::from_str_radix(text, 16).ok()
}

fn parse_context<T: serde::de::DeserializeOwned>(change: &ConfChange) -> Result<T, BadChange> {
    serde_json::from_slice(&change.context).map_err(|error| BadChange::Context {
        node_id: change.node_id,
        reason: error.to_string(),
    })
}

#[cfg(test)]
mod tests;
