//! What a member proposes on its own account: its attributes, and, while it leads, what nobody else asks for.
//!
//! Invariants:
//! - Whatever is decided here becomes true only through the log; a proposal that is lost is made again.
//! - Only a leader ends leases, moves the cluster version and shortens the history by itself.

use std::time::Duration;

use bytes::Bytes;
use disk::Disk;
use prost::Message as _;
use proto::etcdserverpb::{
    AlarmRequest, AlarmType, CompactionRequest, InternalRaftRequest, LeaseCheckpointRequest, LeaseRevokeRequest,
    RequestHeader, alarm_request::AlarmAction,
};
use proto::membershippb::{Attributes, ClusterMemberAttrSetRequest, ClusterVersionSetRequest, DowngradeInfoSetRequest};
use state_machine::auth::ROOT;
use state_machine::version::Version;
use state_machine::{Action, Error, Response, Uptime};

use crate::io::Output;
use crate::observer::Work;
use crate::replica::Replica;
use crate::{Fatal, versions};

/// Leases per look, and the time between two looks (etcd server/lease/lessor.go).
const LEASES_MAX: usize = 500;
const LEASE_INTERVAL: Duration = Duration::from_millis(500);

/// Steps of a compaction on one tick, at most: messages wait for as long.
const STEPS_MAX: u128 = 20;

/// A proposal of this member itself, by what is to happen when it is applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Errand {
    Publish,
    NoSpaceAlarm,
    /// Lost or refused, it will be seen to be missing and proposed again.
    Other,
}

#[derive(Debug, Default)]
pub(crate) struct Duties {
    published: bool,
    publish_asked: Option<Uptime>,
    alarm_asked: Option<u64>,
    /// Answers that wait for the alarm.
    pub after_alarm: Vec<(u64, Result<Response, Error>)>,
    leases_at: Uptime,
    compact_at: Uptime,
    ticked_at: Option<Uptime>,
    versions_at: Option<Uptime>,
    /// Compactions done in memory, told once they are durable.
    pub compacted: Vec<i64>,
}

impl Duties {
    pub fn alarm_under_way(&self) -> bool {
        self.alarm_asked.is_some()
    }
}

impl<D: Disk> Replica<D> {
    /// Called every tick.
    pub(crate) fn do_duties(&mut self, now: Uptime) -> Result<(), Fatal> {
        self.publish_if_needed(now);
        // Time went by without this member: it may lead no longer and not know it yet. Before it ends a lease, a quorum confirms it.
        let before = self.duties.ticked_at.replace(now).unwrap_or(now);
        if now.saturating_sub(before) > 3 * self.config.tick && !mutant::planted("H40") {
            self.duties.leases_at = now + 2 * self.config.election_timeout();
        }
        let leads = self.leads();
        let revision = self.state.store().current_revision();
        if let Some(compactor) = &mut self.compactor
            && let Some(revision) = compactor.tick(now, revision, leads)
        {
            let compaction = Some(CompactionRequest {
                revision,
                physical: false,
            });
            self.run_errand(
                Errand::Other,
                InternalRaftRequest {
                    compaction,
                    ..Default::default()
                },
                now,
            )?;
        }
        let ends_leases = leads || mutant::planted("Q25");
        if ends_leases && now.saturating_sub(self.duties.leases_at) >= LEASE_INTERVAL {
            self.duties.leases_at = now;
            let expired = self.state.expired_leases(now, LEASES_MAX);
            if let Some(observer) = self.config.observer.as_ref().filter(|_| !expired.is_empty()) {
                observer.leases_expired(expired.len());
            }
            for id in expired {
                let lease_revoke = Some(LeaseRevokeRequest { id });
                self.run_errand(
                    Errand::Other,
                    InternalRaftRequest {
                        lease_revoke,
                        ..Default::default()
                    },
                    now,
                )?;
            }
            for checkpoints in self.state.due_checkpoints(now).chunks(1000) {
                let lease_checkpoint = Some(LeaseCheckpointRequest {
                    checkpoints: checkpoints.to_vec(),
                });
                self.run_errand(
                    Errand::Other,
                    InternalRaftRequest {
                        lease_checkpoint,
                        ..Default::default()
                    },
                    now,
                )?;
            }
        }
        self.compact(now)?;
        Ok(())
    }

    /// Goes on with a compaction, if one is under way.
    fn compact(&mut self, now: Uptime) -> Result<(), Fatal> {
        use state_machine::mvcc::Compacted;
        // Asked each time: one may have been cut short by a restart, or come with a snapshot or a restore.
        if !self.state.store().is_compacting() || now < self.duties.compact_at {
            return Ok(());
        }
        let pause = self.config.compaction_pause;
        self.duties.compact_at = now + pause;
        // A tick comes less often than etcd's pause between steps, as a rule.
        let steps = self.config.tick.as_nanos() / pause.as_nanos().max(1);
        for _ in 0..steps.clamp(1, STEPS_MAX) {
            if let Some(observer) = &self.config.observer {
                observer.begins(Work::Compact);
            }
            let before = self.state.store().records_compacted();
            let step = self.state.compact_step(self.config.compaction_batch)?;
            if let Some(observer) = &self.config.observer {
                let records = self.state.store().records_compacted() - before;
                observer.compacted(records, matches!(step, Compacted::Done(_)));
                observer.ends(Work::Compact);
            }
            match step {
                Compacted::More => {}
                Compacted::Done(revision) => self.duties.compacted.push(revision),
                Compacted::Nothing => break,
            }
        }
        Ok(())
    }

    /// Tells the cluster this member's name and client URLs, until it is known to have heard.
    pub(crate) fn publish_if_needed(&mut self, now: Uptime) {
        let asked_lately = self
            .duties
            .publish_asked
            .is_some_and(|at| now.saturating_sub(at) < self.config.request_timeout());
        if self.duties.published || asked_lately || self.leader() == raft::NONE {
            return;
        }
        self.duties.publish_asked = Some(now);
        let attributes = Attributes {
            name: self.config.name.clone(),
            client_urls: self.config.client_urls.clone(),
        };
        let cluster_member_attr_set = Some(ClusterMemberAttrSetRequest {
            member_id: self.identity.member_id,
            member_attributes: Some(attributes),
        });
        let request = InternalRaftRequest {
            cluster_member_attr_set,
            ..Default::default()
        };
        // Feeding a proposal cannot fail.
        self.run_errand(Errand::Publish, request, now).ok();
    }

    pub(crate) fn propose_cluster_version(&mut self, servers: &[(u64, Option<String>)], now: Uptime) {
        let waiting = self
            .duties
            .versions_at
            .is_some_and(|at| now.saturating_sub(at) < self.config.request_timeout());
        if !self.leads() || waiting {
            return;
        }
        let cluster = self.state.membership();
        let downgrade = cluster.downgrade();
        let mut request = InternalRaftRequest::default();
        if let Some(version) = versions::decide(cluster.version(), servers, &downgrade) {
            request.cluster_version_set = Some(ClusterVersionSetRequest {
                ver: version.to_string(),
            });
        } else if downgrade.enabled && all_run(servers, &downgrade.target_version) {
            request.downgrade_info_set = Some(DowngradeInfoSetRequest {
                enabled: false,
                ver: String::new(),
            });
        } else {
            return;
        }
        self.duties.versions_at = Some(now);
        self.run_errand(Errand::Other, request, now).ok();
    }

    fn run_errand(&mut self, errand: Errand, mut request: InternalRaftRequest, now: Uptime) -> Result<u64, Fatal> {
        let id = self.ids.next();
        // Revoking a lease needs the right to write its keys: the leader does it as root (etcd server/auth/store.go, WithRoot).
        let auth = self.state.auth();
        let as_root = request.lease_revoke.is_some() && auth.is_enabled();
        request.header = Some(RequestHeader {
            id,
            username: if as_root { ROOT.to_owned() } else { String::new() },
            auth_revision: if as_root { auth.revision() } else { 0 },
        });
        self.errands.insert(id, errand);
        // Those that were lost are few, but there is no end to them.
        while self.errands.len() > 10_000 {
            self.errands.pop_first();
        }
        let as_leader = request.lease_revoke.is_some() || request.lease_checkpoint.is_some();
        self.queue_proposal(Bytes::from(request.encode_to_vec()), as_leader, now);
        Ok(id)
    }

    pub(crate) fn errand_done(&mut self, errand: Errand, result: &Result<Response, Error>) {
        match errand {
            Errand::Publish => {
                self.duties.publish_asked = None;
                if result.is_ok() && !self.duties.published {
                    self.duties.published = true;
                    self.outputs.push(Output::Published);
                }
            }
            Errand::NoSpaceAlarm => self.answer_after_alarm(),
            Errand::Other => {}
        }
    }

    fn answer_after_alarm(&mut self) {
        self.duties.alarm_asked = None;
        let answers = std::mem::take(&mut self.duties.after_alarm);
        if !answers.is_empty() {
            self.outputs.push(Output::Applied(answers));
        }
    }

    /// Does what applying an entry asks for.
    pub(crate) fn carry_out(&mut self, actions: &[Action], now: Uptime) -> Result<(), Fatal> {
        for action in actions {
            match action {
                Action::RaiseNoSpace => {
                    if self.duties.alarm_asked.is_none() {
                        let alarm = Some(AlarmRequest {
                            action: AlarmAction::Activate as i32,
                            member_id: self.identity.member_id,
                            alarm: AlarmType::Nospace as i32,
                        });
                        let request = InternalRaftRequest {
                            alarm,
                            ..Default::default()
                        };
                        self.duties.alarm_asked = Some(self.run_errand(Errand::NoSpaceAlarm, request, now)?);
                    }
                }
                // Taken up by the next look at what is to be compacted.
                Action::CompactionScheduled { .. } => {}
                Action::ClusterVersionChanged { from, to } => {
                    self.duties.versions_at = None;
                    if from.as_ref().is_some_and(|from: &Version| to < from) {
                        self.snapshots.force = true;
                    }
                    self.outputs.push(Output::ClusterChanged);
                }
                Action::DowngradeChanged | Action::AlarmsChanged | Action::MembersChanged => {
                    self.outputs.push(Output::ClusterChanged);
                }
                Action::AuthChanged => {}
            }
        }
        Ok(())
    }
}

fn all_run(servers: &[(u64, Option<String>)], target: &str) -> bool {
    let Ok(target) = target.parse::<Version>() else {
        return false;
    };
    servers.iter().all(|(_, text)| {
        let version = text.as_deref().and_then(|text| text.parse::<Version>().ok());
        version.is_some_and(|version| (version.major, version.minor) == (target.major, target.minor))
    })
}
