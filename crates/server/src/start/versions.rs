//! The leader asks all members for their versions, from which the cluster version follows (etcd
//! server/etcdserver/server.go, monitorVersions).

use std::sync::Arc;
use std::time::Duration;

use crate::config::VERSION;
use crate::listener::stopped;
use crate::member::Member;

/// Between two rounds (etcd's monitorVersionInterval).
const INTERVAL: Duration = Duration::from_secs(4);
/// How long a member may take to answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// Reports versions while this member leads, at once when it begins to.
pub(super) async fn watch(member: Arc<Member>) {
    let mut stop = member.stop.clone();
    let mut leadership = member.handle.leadership();
    loop {
        if member.leader() == member.handle.member_id() {
            let versions = ask(&member).await;
            member.handle.report_versions(versions);
        }
        tokio::select! {
            () = tokio::time::sleep(INTERVAL) => {}
            changed = leadership.changed() => if changed.is_err() { return },
            () = stopped(&mut stop) => return,
        }
    }
}

async fn ask(member: &Member) -> Vec<(u64, Option<String>)> {
    let identity = member.transport.identity().within(PATIENCE);
    let mut versions = Vec::new();
    for other in member.handle.members() {
        if other.id == member.handle.member_id() {
            versions.push((other.id, Some(VERSION.to_owned())));
            continue;
        }
        let version = match identity.fetch_versions(&other.peer_ur_ls).await {
            Ok(versions) => Some(versions.server),
            Err(error) => {
                tracing::warn!(remote_member_id = format!("{:x}", other.id), %error, "failed to get version");
                None
            }
        };
        versions.push((other.id, version));
    }
    versions
}
