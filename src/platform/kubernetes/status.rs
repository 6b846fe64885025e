//! Publishes `EtcdCluster.status`.
//!
//! Invariants:
//! 1. It is made from one plan, which is made from one look; nothing of an older status is in it.
//! 2. A cluster in which nothing happens costs no write. What moves on by itself (revision, sizes, terms) is published
//!    with the next change, and now and then.
//! 3. The spec is not in what is sent.

use super::Failure;
use super::names::FIELD_MANAGER;
use crate::api::EtcdCluster;
use crate::api::status::EtcdClusterStatus;
use crate::clock::{self, Instant};
use crate::plan::Plan;
use kube::api::{Api, Patch, PatchParams};
use kube::{Client, Resource};
use serde_json::json;
use std::time::Duration;

/// What merely moved on is published this often at most.
const LAZY: Duration = Duration::from_secs(30);

/// Writes a status. All go this way: what another kind of write left there would not go with the next.
pub async fn apply(
    client: &Client,
    namespace: &str,
    name: &str,
    status: &EtcdClusterStatus,
) -> Result<(), kube::Error> {
    let api: Api<EtcdCluster> = Api::namespaced(client.clone(), namespace);
    let body = json!({
        "apiVersion": EtcdCluster::api_version(&()),
        "kind": EtcdCluster::kind(&()),
        "metadata": { "name": name },
        "status": status,
    });
    let mut params = PatchParams::apply(FIELD_MANAGER);
    params.force = true;
    api.patch_status(name, &params, &Patch::Apply(&body)).await.map(drop)
}

/// What was published last.
#[derive(Debug, Default)]
pub struct Published {
    last: Option<(EtcdClusterStatus, Instant)>,
}

impl Published {
    /// What the object says of its status; call it with the object of a look, before anything was published.
    pub fn seen(&mut self, status: &EtcdClusterStatus) {
        if self.last.is_none() {
            self.last = Some((status.clone(), clock::now()));
        }
    }

    /// Publishes what a plan says, if that is news.
    pub async fn publish(
        &mut self,
        client: &Client,
        namespace: &str,
        name: &str,
        selector: String,
        plan: &Plan,
    ) -> Result<(), Failure> {
        let mut status = EtcdClusterStatus::from(plan);
        status.selector = Some(selector);
        // The journal is kept in the cluster's record.
        status.journal = None;
        if let Some((last, at)) = &self.last {
            let moved = without_times(&status) != without_times(last);
            if material(&status) == material(last) && !(moved && clock::since(*at) >= LAZY) {
                return Ok(());
            }
        }
        match apply(client, namespace, name, &status).await {
            Ok(()) => {}
            // It was let go a moment ago.
            Err(kube::Error::Api(error)) if error.code == 404 => {}
            Err(error) => return Err(error.into()),
        }
        self.last = Some((status, clock::now()));
        Ok(())
    }
}

/// A status without the times of looking.
fn without_times(status: &EtcdClusterStatus) -> EtcdClusterStatus {
    let mut plain = status.clone();
    for member in &mut plain.members {
        member.observed_at = String::new();
    }
    plain
}

/// A status without what moves on while nothing happens.
fn material(status: &EtcdClusterStatus) -> EtcdClusterStatus {
    let mut plain = without_times(status);
    plain.revision = None;
    plain.revision_high_water = None;
    plain.db_size = None;
    plain.db_size_in_use = None;
    for member in &mut plain.members {
        member.db_size = None;
        member.raft_index_lag = None;
        member.message = member.message.as_deref().map(without_numbers);
    }
    if let Some(plan) = &mut plain.plan {
        plan.next_action = without_numbers(&plan.next_action);
        plan.blocked_by = plan.blocked_by.as_deref().map(without_numbers);
    }
    for condition in &mut plain.conditions {
        condition.message = without_numbers(&condition.message);
    }
    plain
}

/// A sentence without its numbers: a wait that counts down says nothing new.
fn without_numbers(text: &str) -> String {
    text.chars().filter(|c| !c.is_ascii_digit()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::status::MemberStatus;

    #[test]
    fn what_merely_moves_on_is_not_material() {
        let at = |time: &str, revision: i64| EtcdClusterStatus {
            revision: Some(revision),
            members: vec![MemberStatus {
                observed_at: time.into(),
                health: "Healthy".into(),
                ..MemberStatus::default()
            }],
            ..EtcdClusterStatus::default()
        };
        assert_eq!(without_times(&at("1", 5)), without_times(&at("2", 5)));
        assert_ne!(without_times(&at("1", 5)), without_times(&at("1", 6)));
        assert_eq!(material(&at("1", 5)), material(&at("2", 6)));
        let mut sick = at("1", 5);
        sick.members[0].health = "Unknown".into();
        assert_ne!(material(&sick), material(&at("1", 5)));
    }
}
