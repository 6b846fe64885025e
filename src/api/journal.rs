//! The planner's journal as it is kept in `status.journal` (or a file of the local platform).
//!
//! Invariants: reading what was written gives the same journal (times to the millisecond); an entry that cannot be
//! read is dropped, never guessed: losing it is harmless, see [`crate::plan::journal`].

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::plan::journal::{
    BootstrapDecision, Defragmented, Failure, Journal, Known, Led, RecoveryDecision, RecoveryFrom,
};
use crate::plan::{ClusterId, MemberId, Timestamp};

/// A journal, written down. Times are milliseconds since the Unix epoch, ids hexadecimal.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct JournalText {
    /// The one bootstrap decision.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bootstrap: Option<BootstrapText>,
    /// The latched cluster id.
    #[serde(rename = "clusterID", skip_serializing_if = "Option::is_none")]
    pub cluster_id: Option<String>,
    /// The last confirmed member list.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub members: Vec<KnownText>,
    /// Since when quorum is lost.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quorum_lost_since: Option<i64>,
    /// The last leader seen with a quorum.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_led: Option<LedText>,
    /// The highest revision ever seen.
    pub revision_high_water: i64,
    /// When it was last confirmed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub revision_seen: Option<i64>,
    /// A recovery that was decided.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recovery: Option<RecoveryText>,
    /// The recovery plan that waits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recovery_proposal: Option<String>,
    /// The newest compaction by the operator.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub compacted: Option<CompactedText>,
    /// Last defragmentations.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub defragmented: Vec<DefragmentedText>,
    /// The request for another leader that was last met.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub leader_moved: Option<String>,
    /// Since when learners are learners.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub learner_since: Vec<SinceText>,
    /// The last step that failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failure: Option<FailureText>,
    /// What is being done, and since when.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_since: Option<SinceText>,
    /// Conditions with their last change.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<ConditionText>,
}

/// A bootstrap decision.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[allow(missing_docs)]
pub struct BootstrapText {
    pub members: Vec<String>,
    pub token: String,
    pub at: i64,
}

/// A confirmed member.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[allow(missing_docs)]
pub struct KnownText {
    pub id: String,
    pub name: String,
    #[serde(default)]
    pub learner: bool,
    pub term: i64,
    pub index: i64,
    pub revision: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seen: Option<i64>,
}

/// A leader.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[allow(missing_docs)]
pub struct LedText {
    pub leader: String,
    pub at: i64,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gone: Vec<String>,
}

/// A recovery: from `candidates` with `survivor`, or from `backup` into `survivor` with `token`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs)]
pub struct RecoveryText {
    pub hash: String,
    pub survivor: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub candidates: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backup: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
    pub at: i64,
    pub reason: String,
    pub loss_bound: String,
}

/// A compaction.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[allow(missing_docs)]
pub struct CompactedText {
    pub revision: i64,
    pub at: i64,
}

/// A defragmentation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[allow(missing_docs)]
pub struct DefragmentedText {
    pub member: String,
    pub at: i64,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub token: String,
}

/// Something and since when.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[allow(missing_docs)]
pub struct SinceText {
    pub what: String,
    pub at: i64,
}

/// A failed step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[allow(missing_docs)]
pub struct FailureText {
    pub step: String,
    pub count: i32,
    pub at: i64,
    pub error: String,
}

/// A condition's last change.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[allow(missing_docs)]
pub struct ConditionText {
    #[serde(rename = "type")]
    pub kind: String,
    pub status: String,
    pub at: i64,
}

fn millis(t: Timestamp) -> i64 {
    i64::try_from(t.0).unwrap_or(i64::MAX)
}

fn moment(millis: i64) -> Timestamp {
    Timestamp(u64::try_from(millis).unwrap_or(0))
}

fn signed(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

fn unsigned(n: i64) -> u64 {
    u64::try_from(n).unwrap_or(0)
}

fn member_id(text: &str) -> Option<MemberId> {
    u64::from_str_radix(text, 16).ok().map(MemberId)
}

impl From<&Journal> for JournalText {
    fn from(j: &Journal) -> Self {
        JournalText {
            bootstrap: j.bootstrap.as_ref().map(|b| BootstrapText {
                members: b.members.clone(),
                token: b.token.clone(),
                at: millis(b.at),
            }),
            cluster_id: j.cluster_id.map(|id| id.to_string()),
            members: j.members.iter().map(KnownText::from).collect(),
            quorum_lost_since: j.quorum_lost_since.map(millis),
            last_led: j.last_led.as_ref().map(|l| LedText {
                leader: l.leader.to_string(),
                at: millis(l.at),
                gone: l.gone.iter().map(|id| id.to_string()).collect(),
            }),
            revision_high_water: j.revision_high_water,
            revision_seen: j.revision_seen.map(millis),
            recovery: j.recovery.as_ref().map(RecoveryText::from),
            recovery_proposal: j.recovery_proposal.clone(),
            compacted: j.compacted.map(|(revision, at)| CompactedText {
                revision,
                at: millis(at),
            }),
            defragmented: j
                .defragmented
                .iter()
                .map(|d| DefragmentedText {
                    member: d.member.clone(),
                    at: millis(d.at),
                    token: d.token.clone(),
                })
                .collect(),
            leader_moved: j.leader_moved.clone(),
            learner_since: j
                .learner_since
                .iter()
                .map(|(what, at)| SinceText {
                    what: what.clone(),
                    at: millis(*at),
                })
                .collect(),
            failure: j.failure.as_ref().map(|f| FailureText {
                step: f.step.clone(),
                count: i32::try_from(f.count).unwrap_or(i32::MAX),
                at: millis(f.at),
                error: f.error.clone(),
            }),
            next_since: j.next_since.as_ref().map(|(what, at)| SinceText {
                what: what.clone(),
                at: millis(*at),
            }),
            conditions: j
                .conditions
                .iter()
                .map(|(kind, status, at)| ConditionText {
                    kind: kind.clone(),
                    status: status.clone(),
                    at: millis(*at),
                })
                .collect(),
        }
    }
}

impl From<&JournalText> for Journal {
    fn from(t: &JournalText) -> Self {
        Journal {
            bootstrap: t.bootstrap.as_ref().map(|b| BootstrapDecision {
                members: b.members.clone(),
                token: b.token.clone(),
                at: moment(b.at),
            }),
            cluster_id: t
                .cluster_id
                .as_deref()
                .and_then(|id| u64::from_str_radix(id, 16).ok())
                .map(ClusterId),
            members: t.members.iter().filter_map(known).collect(),
            quorum_lost_since: t.quorum_lost_since.map(moment),
            last_led: t.last_led.as_ref().and_then(|l| {
                let gone = l.gone.iter().filter_map(|id| member_id(id)).collect();
                Some(Led {
                    leader: member_id(&l.leader)?,
                    at: moment(l.at),
                    gone,
                })
            }),
            revision_high_water: t.revision_high_water,
            revision_seen: t.revision_seen.map(moment),
            recovery: t.recovery.as_ref().map(RecoveryDecision::from),
            recovery_proposal: t.recovery_proposal.clone(),
            compacted: t.compacted.as_ref().map(|c| (c.revision, moment(c.at))),
            defragmented: t
                .defragmented
                .iter()
                .map(|d| Defragmented {
                    member: d.member.clone(),
                    at: moment(d.at),
                    token: d.token.clone(),
                })
                .collect(),
            leader_moved: t.leader_moved.clone(),
            learner_since: t.learner_since.iter().map(|s| (s.what.clone(), moment(s.at))).collect(),
            failure: t.failure.as_ref().map(|f| Failure {
                step: f.step.clone(),
                count: u32::try_from(f.count).unwrap_or(0),
                at: moment(f.at),
                error: f.error.clone(),
            }),
            next_since: t.next_since.as_ref().map(|s| (s.what.clone(), moment(s.at))),
            conditions: t
                .conditions
                .iter()
                .map(|c| (c.kind.clone(), c.status.clone(), moment(c.at)))
                .collect(),
        }
    }
}

impl From<&Known> for KnownText {
    fn from(k: &Known) -> Self {
        KnownText {
            id: k.id.to_string(),
            name: k.name.clone(),
            learner: k.learner,
            term: signed(k.term),
            index: signed(k.index),
            revision: k.revision,
            seen: k.seen.map(millis),
        }
    }
}

fn known(t: &KnownText) -> Option<Known> {
    Some(Known {
        id: member_id(&t.id)?,
        name: t.name.clone(),
        learner: t.learner,
        term: unsigned(t.term),
        index: unsigned(t.index),
        revision: t.revision,
        seen: t.seen.map(moment),
    })
}

impl From<&RecoveryDecision> for RecoveryText {
    fn from(d: &RecoveryDecision) -> Self {
        let (survivor, candidates, backup, token) = match &d.from {
            RecoveryFrom::Survivor { name, candidates } => (name.clone(), candidates.clone(), None, None),
            RecoveryFrom::Backup { backup, member, token } => {
                (member.clone(), Vec::new(), Some(backup.clone()), Some(token.clone()))
            }
        };
        RecoveryText {
            hash: d.hash.clone(),
            survivor,
            candidates,
            backup,
            token,
            at: millis(d.at),
            reason: d.reason.clone(),
            loss_bound: d.loss_bound.clone(),
        }
    }
}

impl From<&RecoveryText> for RecoveryDecision {
    fn from(t: &RecoveryText) -> Self {
        let from = match (&t.backup, &t.token) {
            (Some(backup), Some(token)) => RecoveryFrom::Backup {
                backup: backup.clone(),
                member: t.survivor.clone(),
                token: token.clone(),
            },
            _ => RecoveryFrom::Survivor {
                name: t.survivor.clone(),
                candidates: t.candidates.clone(),
            },
        };
        RecoveryDecision {
            hash: t.hash.clone(),
            from,
            at: moment(t.at),
            reason: t.reason.clone(),
            loss_bound: t.loss_bound.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        let at = Timestamp(1_790_000_000_123);
        let known = Known {
            id: MemberId(0x8e9e_05c5_2164_694d),
            name: "db-abc".into(),
            learner: true,
            term: 3,
            index: 77,
            revision: 12,
            seen: Some(at),
        };
        let decision = |from| RecoveryDecision {
            hash: "0123456789abcdef".into(),
            from,
            at,
            reason: "because".into(),
            loss_bound: "nothing".into(),
        };
        let journal = Journal {
            bootstrap: Some(BootstrapDecision {
                members: vec!["a".into(), "b".into()],
                token: "t".into(),
                at,
            }),
            cluster_id: Some(ClusterId(u64::MAX)),
            members: vec![known],
            quorum_lost_since: Some(at),
            last_led: Some(Led {
                leader: MemberId(1),
                at,
                gone: vec![MemberId(2)],
            }),
            revision_high_water: 99,
            revision_seen: Some(at),
            recovery: Some(decision(RecoveryFrom::Survivor {
                name: "a".into(),
                candidates: vec!["a".into()],
            })),
            recovery_proposal: Some("x".into()),
            compacted: Some((5, at)),
            defragmented: vec![Defragmented {
                member: "a".into(),
                at,
                token: "2".into(),
            }],
            leader_moved: Some("a 1".into()),
            learner_since: vec![("a".into(), at)],
            failure: Some(Failure {
                step: "StopMember a".into(),
                count: 2,
                at,
                error: "busy".into(),
            }),
            next_since: Some(("Settled".into(), at)),
            conditions: vec![("Available".into(), "True".into(), at)],
        };
        let reread = |journal: &Journal| {
            let yaml = serde_yaml::to_string(&JournalText::from(journal)).expect("a journal is YAML");
            Journal::from(&serde_yaml::from_str::<JournalText>(&yaml).expect("written by us"))
        };
        assert_eq!(reread(&journal), journal);
        let from = RecoveryFrom::Backup {
            backup: "b".into(),
            member: "m".into(),
            token: "t".into(),
        };
        let from_backup = Journal {
            recovery: Some(decision(from)),
            ..Journal::default()
        };
        assert_eq!(reread(&from_backup), from_backup);
    }
}
