//! `EtcdCluster.status`: what the planner found, in the words of the Kubernetes API.
//!
//! Invariant: made from one plan; nothing of an older status is carried over but the journal.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::journal::JournalText;
use super::schedule::rfc3339;
use crate::plan::observed::Verdict;
use crate::plan::{self, Plan};

/// How a cluster stands.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct EtcdClusterStatus {
    /// Generation of the spec that this is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// One word: `Bootstrapping`, `Running`, `Progressing`, `Degraded`, `QuorumLost`, `Hibernating`, `Paused`, `Deleting`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<String>,
    /// Voting members.
    #[serde(default)]
    pub replicas: i32,
    /// Voting members that are healthy.
    #[serde(default)]
    pub ready_replicas: i32,
    /// Selects the members' pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<String>,
    /// etcd's cluster id, in hexadecimal.
    #[serde(default, rename = "clusterID", skip_serializing_if = "Option::is_none")]
    pub cluster_id: Option<String>,
    /// Name of the leader; absent without quorum.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leader: Option<String>,
    /// Raft term.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub term: Option<i64>,
    /// Revision of the key space.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<i64>,
    /// The highest revision ever seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision_high_water: Option<i64>,
    /// Version that the members run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Size of the largest database in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub db_size: Option<i64>,
    /// Bytes in use in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub db_size_in_use: Option<i64>,
    /// Share of the quota in percent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quota_percent: Option<i32>,
    /// Every member.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub members: Vec<MemberStatus>,
    /// What is done next.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plan: Option<PlanStatus>,
    /// The published recovery plan.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recovery: Option<RecoveryStatus>,
    /// The newest verified backup.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_backup: Option<String>,
    /// When a member was last defragmented.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_defrag: Option<String>,
    /// Conditions.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
    /// What the operator has to remember between two looks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub journal: Option<JournalText>,
}

/// A member.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MemberStatus {
    /// Name; never used twice.
    pub name: String,
    /// Member id, in hexadecimal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// `Voter`, `Learner` or `None`.
    pub role: String,
    /// It leads.
    #[serde(default)]
    pub leader: bool,
    /// `Healthy`, `Unhealthy` or `Unknown`.
    pub health: String,
    /// What makes it so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// Since when.
    pub health_since: String,
    /// When it was looked at.
    pub observed_at: String,
    /// Version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// Identity of its volume.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volume: Option<String>,
    /// Size of its database in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub db_size: Option<i64>,
    /// Log entries that it is behind.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub raft_index_lag: Option<i64>,
    /// Alarms that name it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub alarms: Vec<String>,
    /// When its first certificate ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cert_not_after: Option<String>,
}

/// What is done next.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PlanStatus {
    /// A step, a wait, or `Settled`.
    pub next_action: String,
    /// What is in the way, with the remedy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blocked_by: Option<String>,
    /// Since when.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<String>,
}

/// The recovery plan.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RecoveryStatus {
    /// To agree, write this into `spec.recovery.acknowledge`.
    pub hash: String,
    /// What is or would be done, with the evidence.
    pub plan: String,
    /// What may be lost.
    pub loss_bound: String,
    /// It is under way.
    #[serde(default)]
    pub acting: bool,
}

/// A condition.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// Type.
    #[serde(rename = "type")]
    pub kind: String,
    /// `True`, `False` or `Unknown`.
    pub status: String,
    /// One word.
    pub reason: String,
    /// A sentence.
    #[serde(default)]
    pub message: String,
    /// When the status last changed.
    pub last_transition_time: String,
    /// Generation of the spec that it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
}

impl From<&Plan> for EtcdClusterStatus {
    fn from(plan: &Plan) -> Self {
        let status = &plan.status;
        let positive = |n: i64| (n > 0).then_some(n);
        let size = |n: u64| positive(i64::try_from(n).unwrap_or(i64::MAX));
        let generation = Some(status.observed_generation);
        EtcdClusterStatus {
            observed_generation: generation,
            phase: Some(status.phase.clone()),
            replicas: i32::try_from(status.replicas).unwrap_or(i32::MAX),
            ready_replicas: i32::try_from(status.ready_replicas).unwrap_or(i32::MAX),
            selector: None,
            cluster_id: status.cluster_id.map(|id| id.to_string()),
            leader: status.leader.clone(),
            term: size(status.term),
            revision: positive(status.revision),
            revision_high_water: positive(status.revision_high_water),
            version: status.version.clone(),
            db_size: size(status.db_bytes),
            db_size_in_use: size(status.db_in_use_bytes),
            quota_percent: i32::try_from(status.quota_percent).ok(),
            members: status.members.iter().map(MemberStatus::from).collect(),
            plan: Some(PlanStatus {
                next_action: status.next_action.clone(),
                blocked_by: status.blocked_by.clone(),
                since: status.next_since.map(rfc3339),
            }),
            recovery: status.recovery.as_ref().map(|r| RecoveryStatus {
                hash: r.hash.clone(),
                plan: r.plan.clone(),
                loss_bound: r.loss_bound.clone(),
                acting: r.acting,
            }),
            last_backup: status.last_backup.clone(),
            last_defrag: status.last_defrag.map(rfc3339),
            conditions: status
                .conditions
                .iter()
                .map(|c| Condition {
                    kind: c.kind.clone(),
                    status: c.status.clone(),
                    reason: c.reason.clone(),
                    message: c.message.clone(),
                    last_transition_time: rfc3339(c.since),
                    observed_generation: generation,
                })
                .collect(),
            journal: Some(JournalText::from(&plan.journal)),
        }
    }
}

impl From<&plan::status::MemberStatus> for MemberStatus {
    fn from(m: &plan::status::MemberStatus) -> Self {
        let text = |s: &str| (!s.is_empty()).then(|| s.to_string());
        MemberStatus {
            name: m.name.clone(),
            id: m.id.map(|id| id.to_string()),
            role: m.role.clone(),
            leader: m.leader,
            health: match m.health {
                Verdict::Healthy => "Healthy",
                Verdict::Unhealthy => "Unhealthy",
                Verdict::Unknown => "Unknown",
            }
            .into(),
            message: text(&m.why),
            health_since: rfc3339(m.health_since),
            observed_at: rfc3339(m.observed_at),
            version: m.version.clone(),
            node: text(&m.node),
            volume: text(&m.volume),
            db_size: i64::try_from(m.db_bytes).ok().filter(|n| *n > 0),
            raft_index_lag: m.lag.and_then(|n| i64::try_from(n).ok()),
            alarms: m.alarms.iter().map(|kind| format!("{kind:?}").to_uppercase()).collect(),
            cert_not_after: m.certificate_not_after.map(rfc3339),
        }
    }
}
