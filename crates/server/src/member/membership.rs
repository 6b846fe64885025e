//! Changes of members: the checks before a proposal (etcd server/etcdserver/server.go, AddMember and its neighbours).
//!
//! Invariants: with `--strict-reconfig-check` no change is proposed that would leave fewer started or connected members than a
//! quorum of the new membership; what holds for all members alike is checked again when the change is applied.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use proto::etcdserverpb::Member as PbMember;
use proto::raftpb::{ConfChange, ConfChangeType};
use replica::state_machine::Error as Refusal;
use replica::state_machine::membership::{ChangeContext, Member as StoredMember, parse_urls};

use super::Member;
use crate::handle::Error;

/// How long a peer must have been connected to count as healthy (etcd HealthInterval).
const HEALTHY_AFTER: Duration = Duration::from_secs(5);

fn quorum(members: usize) -> usize {
    members / 2 + 1
}

impl Member {
    /// Adds a member. Returns it, and all members afterwards.
    ///
    /// # Errors
    /// Bad URLs, an unhealthy cluster, and what the members refuse when the change is applied.
    pub async fn add_member(&self, peer_urls: &[String], learner: bool) -> Result<(PbMember, Vec<PbMember>), Error> {
        let urls = parse_urls(peer_urls).map_err(|_| Error::Refused(Refusal::MemberBadUrls))?;
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default()
            .as_secs();
        let mut member = StoredMember::new("", &urls, "", Some(now as i64));
        member.is_learner = learner;
        self.may_add(learner)?;
        let context = ChangeContext {
            member: member.clone(),
            is_promote: false,
        };
        let kind = if learner {
            ConfChangeType::ConfChangeAddLearnerNode
        } else {
            ConfChangeType::ConfChangeAddNode
        };
        let members = self.change(kind, member.id, context.to_json()).await?;
        let added = PbMember {
            id: member.id,
            peer_ur_ls: member.peer_urls,
            is_learner: learner,
            ..PbMember::default()
        };
        Ok((added, members))
    }

    /// Removes a member. Returns those that stay.
    ///
    /// # Errors
    /// As [`Member::add_member`].
    pub async fn remove_member(&self, id: u64) -> Result<Vec<PbMember>, Error> {
        self.may_remove(id)?;
        self.change(ConfChangeType::ConfChangeRemoveNode, id, String::new())
            .await
    }

    /// Changes a member's peer URLs.
    ///
    /// # Errors
    /// What the members refuse when the change is applied.
    pub async fn update_member(&self, id: u64, peer_urls: Vec<String>) -> Result<Vec<PbMember>, Error> {
        let member = StoredMember {
            id,
            peer_urls,
            ..StoredMember::default()
        };
        self.change(ConfChangeType::ConfChangeUpdateNode, id, member.to_json())
            .await
    }

    /// Promotes a learner if this member leads.
    ///
    /// # Errors
    /// [`Error::NotLeader`] elsewhere; why the learner cannot be promoted.
    pub(super) async fn promote_here(&self, id: u64) -> Result<Vec<PbMember>, Error> {
        self.handle.learner_ready(id).await?;
        if self.config.strict_reconfig_check {
            let voters = self.voters();
            let started = voters.iter().filter(|member| is_started(member)).count();
            // The learner counts as a started voter already.
            if started + 1 < quorum(voters.len() + 1) {
                return Err(Error::Refused(Refusal::MemberNotEnoughStarted));
            }
        }
        let member = StoredMember {
            id,
            ..StoredMember::default()
        };
        let context = ChangeContext {
            member,
            is_promote: true,
        };
        self.change(ConfChangeType::ConfChangeAddNode, id, context.to_json())
            .await
    }

    async fn change(&self, kind: ConfChangeType, node_id: u64, context: String) -> Result<Vec<PbMember>, Error> {
        let change = ConfChange {
            r#type: kind.into(),
            node_id,
            context: context.into_bytes().into(),
            ..ConfChange::default()
        };
        let members = self.handle.configure(change).await?;
        tracing::info!(
            kind = kind.as_str_name(),
            member = format!("{node_id:x}"),
            "applied a configuration change"
        );
        Ok(members)
    }

    fn voters(&self) -> Vec<PbMember> {
        self.handle
            .members()
            .into_iter()
            .filter(|member| !member.is_learner)
            .collect()
    }

    /// Voters that have been connected for long enough, this member included.
    fn connected(&self, voters: &[PbMember]) -> usize {
        let healthy = |id: u64| {
            self.handle
                .active_since(id)
                .is_some_and(|since| since + HEALTHY_AFTER < Instant::now())
        };
        voters
            .iter()
            .filter(|member| member.id == self.handle.member_id() || healthy(member.id))
            .count()
    }

    fn may_add(&self, learner: bool) -> Result<(), Error> {
        if !self.config.strict_reconfig_check {
            return Ok(());
        }
        let voters = self.voters();
        let started = voters.iter().filter(|member| is_started(member)).count();
        let alone = started == 1 && voters.len() == 1;
        if !learner && !alone && started < quorum(voters.len() + 1) {
            tracing::warn!(started, "rejecting member add request; not enough healthy members");
            return Err(Error::Refused(Refusal::MemberNotEnoughStarted));
        }
        // The new member counts as unreachable.
        if voters.len() > 1 && self.connected(&voters) < quorum(voters.len() + 1) {
            tracing::warn!(
                "rejecting member add request; local member has not been connected to majority peers, reconfigure breaks active quorum"
            );
            return Err(Error::Refused(Refusal::Unhealthy));
        }
        Ok(())
    }

    fn may_remove(&self, id: u64) -> Result<(), Error> {
        if !self.config.strict_reconfig_check
            || self
                .handle
                .members()
                .iter()
                .any(|member| member.id == id && member.is_learner)
        {
            return Ok(());
        }
        let voters = self.voters();
        let stay: Vec<_> = voters.iter().filter(|member| member.id != id).collect();
        let started = stay.iter().filter(|member| is_started(member)).count();
        if started < quorum(stay.len()) {
            tracing::warn!(started, "rejecting member remove request; not enough healthy members");
            return Err(Error::Refused(Refusal::MemberNotEnoughStarted));
        }
        // Who is down is not part of the active quorum.
        if id != self.handle.member_id() && self.handle.active_since(id).is_none() {
            return Ok(());
        }
        if self.connected(&voters).saturating_sub(1) < 1 + voters.len().saturating_sub(1) / 2 {
            tracing::warn!(
                "rejecting member remove request; local member has not been connected to all peers, reconfigure breaks active quorum"
            );
            return Err(Error::Refused(Refusal::Unhealthy));
        }
        Ok(())
    }
}

/// A member tells its name when it first starts.
fn is_started(member: &PbMember) -> bool {
    !member.name.is_empty()
}
