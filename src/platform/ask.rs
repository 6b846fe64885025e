//! What a running member says, as the planner takes it; and who leads. For every platform on which members are reached
//! over a network.
//!
//! Invariant: what a member said in an earlier look is never repeated: no answer means no answer.

use super::Error;
use crate::member::{self, Connections, Member, Status};
use crate::plan::observed::{Alarm, AlarmKind, Answer, Listed, Verdict};
use crate::plan::{ClusterId, MemberId, Timestamp};
use std::sync::Arc;

/// A member's answer, and what follows for its health: the verdict and what makes it so. `at` is the time of the look.
pub async fn ask(connections: &Connections, endpoint: &str, at: Timestamp) -> (Option<Answer>, Verdict, String) {
    let silent = |error: member::Error| {
        // Dial anew next time, rather than wait out the back-off of a connection that failed.
        connections.forget(endpoint);
        (None, Verdict::Unknown, error.to_string())
    };
    let member = match connections.member(endpoint).await {
        Ok(member) => member,
        Err(error) => return silent(error),
    };
    let status = match member.status().await {
        Ok(status) => status,
        Err(error) => return silent(error),
    };
    let mut answer = Answer {
        at,
        member_id: MemberId(status.member_id),
        cluster_id: ClusterId(status.cluster_id),
        leader: (status.leader != 0).then_some(MemberId(status.leader)),
        learner: status.is_learner,
        term: status.term,
        index: status.raft_index,
        applied: status.applied_index,
        revision: status.revision,
        db_bytes: status.db_size,
        db_in_use_bytes: status.db_size_in_use,
        quota_bytes: status.db_size_quota,
        version: status.version.clone(),
        alarms: Vec::new(),
        linearizable: false,
        members: Vec::new(),
    };
    if status.leader == 0 {
        return (Some(answer), Verdict::Unhealthy, "it has no leader".to_owned());
    }
    // A learner serves neither reads nor lists (etcd server/etcdserver/api/v3rpc/interceptor.go).
    if status.is_learner {
        return (Some(answer), Verdict::Healthy, String::new());
    }
    // The list is read after a read that a quorum confirmed and that this member has applied up to: it is at least
    // as new, so it counts as confirmed too.
    let confirmed = member.linearizable().await;
    match member.members().await {
        Ok(members) => answer.members = members.into_iter().map(listed).collect(),
        Err(error) => return (Some(answer), Verdict::Unhealthy, error.to_string()),
    }
    // To list alarms costs an entry in the log, so it is asked only when the status speaks of one.
    if status.errors.iter().any(|error| error.contains("alarm")) {
        match member.alarms().await {
            Ok(alarms) => answer.alarms = alarms.into_iter().map(alarm).collect(),
            Err(error) => return (Some(answer), Verdict::Unhealthy, error.to_string()),
        }
    }
    match confirmed {
        Ok(()) => {
            answer.linearizable = true;
            (Some(answer), Verdict::Healthy, String::new())
        }
        Err(error) => (Some(answer), Verdict::Unhealthy, error.to_string()),
    }
}

/// Of the members at `endpoints`, the one that leads, and what it says of itself.
pub async fn leader(connections: &Arc<Connections>, endpoints: Vec<String>) -> Result<(Member, Status), Error> {
    let mut asked = tokio::task::JoinSet::new();
    for endpoint in endpoints {
        let connections = Arc::clone(connections);
        asked.spawn(async move {
            let member = connections.member(&endpoint).await?;
            let status = member.status().await?;
            Ok::<_, member::Error>((member, status))
        });
    }
    let answers = asked.join_all().await.into_iter().flatten();
    answers
        .filter(|(_, status)| status.leader == status.member_id && status.leader != 0)
        .max_by_key(|(_, status)| status.term)
        .ok_or_else(|| Error::platform("no member says that it leads; wait for an election"))
}

/// Words by which etcd, and our server, refuse a data directory for what is in it, in any part of a line.
pub const CORRUPT: &[&str] = &[
    "crc mismatch",
    "checksum error",
    "invalid database",
    "file corrupt",
    "is corrupt",
    "unexpected EOF",
    // Go's protobuf, at a record of the log.
    "illegal wireType",
    "wrong wireType",
    // Our log, whatever is wrong with a record.
    "replace this member, or restore it from a backup",
];

/// Whether the member itself answered with these words: etcd's texts are part of its interface.
pub fn says(error: &member::Error, words: &str) -> bool {
    error.server_message().is_some_and(|message| message.contains(words))
}

fn listed(listed: member::Listed) -> Listed {
    Listed {
        id: MemberId(listed.id),
        name: listed.name,
        peer_urls: listed.peer_urls,
        learner: listed.is_learner,
    }
}

fn alarm((member, kind): (u64, member::Alarm)) -> Alarm {
    let kind = match kind {
        member::Alarm::NoSpace => AlarmKind::NoSpace,
        member::Alarm::Corrupt => AlarmKind::Corrupt,
    };
    Alarm {
        member: MemberId(member),
        kind,
    }
}
