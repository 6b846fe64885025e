//! The invariants of the operator, one function each, by the numbers of reliability's section 4c. Whatever breaks one is
//! written down with its number, and fails the story.
//!
//! ```text
//!  1 quorum_stays            7 no_write_without_the_lease      13 no_secret_leaks
//!  2 one_disruption          8 acknowledged_writes_survive     14 only_own_secrets
//!  3 members_keep_volumes    9 restore_into_nothing            15 budget_protects_quorum
//!  4 bootstrap_once         10 settles (run)                   16 one_cluster
//!  5 adds_are_learners      11 second_look_writes_nothing (run) 17 a_way_back (run)
//!  6 deletes_are_pinned     12 spec_is_not_written             18 ready_means_readable
//! ```

use crate::api::service::Asked;
use crate::api::store::{Key, Refused, uid, version};
use crate::control::Caller;
use crate::etcd::{Data, Row};
use crate::life::claim_of;
use crate::world::State;
use http::Method;
use quorate::clock::{self, Instant};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// What a status may lag behind the truth: a lease that has to expire, and a look.
const LAG: Duration = Duration::from_secs(150);

/// What the checks remember.
#[derive(Debug, Default)]
pub struct Checks {
    /// What was broken: the invariant's number, and how.
    pub broken: Vec<(u8, String)>,
    /// What each caller read live last: uid and version.
    seen: BTreeMap<(Caller, Key), (String, String)>,
    before: Option<Arc<Value>>,
    generations: BTreeMap<String, i64>,
    /// Voters that an operator took down, by cluster.
    down: BTreeMap<String, u64>,
    /// Since when a cluster has no leader.
    leaderless: BTreeMap<String, Instant>,
}

fn text<'a>(value: &'a Value, path: &str) -> &'a str {
    value.pointer(path).and_then(Value::as_str).unwrap_or_default()
}

fn key_of(asked: &Asked) -> Key {
    let namespace = asked.target.namespace.as_deref().unwrap_or_default();
    let name = asked
        .target
        .name
        .as_deref()
        .or_else(|| asked.body["metadata"]["name"].as_str());
    Key::new(asked.target.kind.plural, namespace, name.unwrap_or_default())
}

fn voters(data: &Data) -> BTreeSet<u64> {
    data.rows.iter().filter(|row| !row.learner).map(|row| row.id).collect()
}

/// The EtcdCluster with this uid.
fn cluster_of(state: &State, owner: &str) -> Option<Arc<Value>> {
    let all = state.store.list("etcdclusters", None);
    all.into_iter()
        .map(|(_, value)| value)
        .find(|value| uid(value) == owner)
}

fn deleting(state: &State, owner: &str) -> bool {
    cluster_of(state, owner).is_none_or(|cluster| cluster["metadata"]["deletionTimestamp"].is_string())
}

/// Its owner wants no member to run.
fn given_up(state: &State, owner: &str) -> bool {
    deleting(state, owner) || cluster_of(state, owner).is_some_and(|cluster| cluster["spec"]["replicas"] == 0)
}

impl Checks {
    fn broke(&mut self, invariant: u8, why: String) {
        self.broken.push((invariant, why));
    }

    /// Before a request of an operator is carried out.
    pub fn before(state: &mut State, asked: &Asked) {
        let key = key_of(asked);
        state.checks.before = state.store.get(&key);
        if asked.caller == 0 {
            return;
        }
        if asked.method == Method::DELETE {
            deletes_are_pinned(state, asked, &key);
            members_keep_volumes(state, &key);
            pod_goes(state, &key);
        }
        if key.plural == "secrets" && asked.method == Method::GET && !asked.partial {
            only_own_secrets(state, asked, &key);
        }
        if asked.method != Method::GET && key.plural != "secrets" {
            no_secret_leaks(state, asked, &key);
        }
        if asked.method != Method::GET && key.plural == "poddisruptionbudgets" {
            budget_protects_quorum(state, asked);
        }
    }

    /// After it was.
    pub fn after(state: &mut State, asked: &Asked, result: &Result<Value, Refused>) {
        if asked.caller == 0 {
            return;
        }
        let Ok(value) = result else { return };
        let any = asked.query.get("resourceVersion").map(String::as_str) == Some("0");
        if asked.method == Method::GET && !any {
            let mut note = |value: &Value| {
                let key = Key::new(
                    asked.target.kind.plural,
                    text(value, "/metadata/namespace"),
                    text(value, "/metadata/name"),
                );
                let known = (uid(value).to_owned(), version(value).to_owned());
                state.checks.seen.insert((asked.caller, key), known);
            };
            match value["items"].as_array() {
                Some(items) => items.iter().for_each(&mut note),
                None => note(value),
            }
        }
        if asked.method != Method::GET && matches!(asked.target.kind.plural, "etcdclusters" | "etcdbackups") {
            spec_is_not_written(state, asked, value);
            ready_when_written(state, value);
        }
    }
}

/// 1. Healthy voters after the action are a quorum of etcd's own list.
fn quorum_stays(state: &mut State, data: &Data, owner: &str, without: u64, rest: &BTreeSet<u64>, what: &str) {
    let healthy = state.etcd.healthy(data.cluster);
    let before = voters(data);
    let had = before.intersection(&healthy).count() > before.len() / 2;
    let left = rest.iter().filter(|id| healthy.contains(id) && **id != without).count();
    let hurts = healthy.contains(&without) || rest.len() < before.len();
    if had && hurts && before.len() > 1 && left < rest.len() / 2 + 1 && !given_up(state, owner) {
        let why = format!("{what}: {left} of {} voters stay healthy", rest.len());
        state.checks.broke(1, why);
    }
}

/// 2. One disruption at a time.
fn one_disruption(state: &mut State, data: &Data, owner: &str, member: u64, what: &str) {
    let healthy = state.etcd.healthy(data.cluster);
    if !healthy.contains(&member) || given_up(state, owner) || voters(data).len() < 2 {
        return;
    }
    if let Some(other) = state.checks.down.get(owner).copied()
        && other != member
        && voters(data).contains(&other)
        && !healthy.contains(&other)
    {
        let why = format!("{what} while {other:x} is still down for the former step");
        state.checks.broke(2, why);
    }
    state.checks.down.insert(owner.to_owned(), member);
}

fn owner_of(data: &Data, state: &State) -> String {
    let disks = state.etcd.disks.values();
    let mut own = disks.filter(|disk| disk.data.as_ref().is_some_and(|other| other.cluster == data.cluster));
    own.next().map(|disk| disk.owner.clone()).unwrap_or_default()
}

/// 1 and 2, at the deletion of a member's pod.
fn pod_goes(state: &mut State, key: &Key) {
    if key.plural != "pods" {
        return;
    }
    let Some(pod) = state.store.get(key) else { return };
    let Some(process) = state.etcd.processes.get(uid(&pod)).cloned() else {
        return;
    };
    let Some(data) = state.etcd.data(&process).cloned() else {
        return;
    };
    let Some(owner) = state.etcd.disks.get(&process.disk).map(|disk| disk.owner.clone()) else {
        return;
    };
    let newest = state.etcd.newest(data.cluster).cloned().unwrap_or(data.clone());
    let all = voters(&newest);
    if !all.contains(&data.member) {
        return;
    }
    let what = format!("pod {} is deleted", key.name);
    quorum_stays(state, &newest, &owner, data.member, &all, &what);
    one_disruption(state, &newest, &owner, data.member, &what);
}

/// 1 and 2, at work on a member that interrupts it.
pub fn on_disruption(state: &mut State, data: &Data, member: u64, what: &str) {
    let owner = owner_of(data, state);
    let newest = state.etcd.newest(data.cluster).cloned().unwrap_or(data.clone());
    let what = format!("{member:x} {what}");
    one_disruption(state, &newest, &owner, member, &what);
}

/// 1, at a removal from the membership.
pub fn on_remove(state: &mut State, data: &Data, id: u64) {
    let owner = owner_of(data, state);
    let newest = state.etcd.newest(data.cluster).cloned().unwrap_or(data.clone());
    let mut rest = voters(&newest);
    if !rest.remove(&id) {
        return;
    }
    let what = format!("member {id:x} is removed");
    quorum_stays(state, &newest, &owner, id, &rest, &what);
}

/// 5. What is added is a learner, and at most one member has not started.
pub fn on_add(state: &mut State, data: &Data, row: &Row) {
    if !row.learner {
        state.checks.broke(5, format!("{} is added as a voter", row.url));
    }
    let unstarted = data
        .rows
        .iter()
        .filter(|known| known.name.is_empty() && known.url != row.url)
        .count();
    if unstarted > 0 {
        let why = format!("{} is added while {unstarted} members have not started", row.url);
        state.checks.broke(5, why);
    }
}

/// 3. A volume goes only when its member is not on the list, or its cluster goes with its data.
fn members_keep_volumes(state: &mut State, key: &Key) {
    if key.plural != "persistentvolumeclaims" {
        return;
    }
    let Some(claim) = state.store.get(key) else { return };
    let Some(disk) = state.etcd.disks.get(uid(&claim)) else {
        return;
    };
    let Some(data) = disk.data.clone() else { return };
    let owner = disk.owner.clone();
    if deleting(state, &owner) {
        let policy = cluster_of(state, &owner).map(|cluster| text(&cluster, "/spec/deletionPolicy").to_owned());
        if policy.as_deref() == Some("Retain") {
            state
                .checks
                .broke(3, format!("volume {} is deleted against the policy Retain", key.name));
        }
        return;
    }
    let listed = state.etcd.newest(data.cluster).is_some_and(|newest| {
        state.etcd.leader(data.cluster).is_some() && newest.rows.iter().any(|row| row.id == data.member)
    });
    if listed {
        state.checks.broke(
            3,
            format!("volume {} is deleted while its member is on the list", key.name),
        );
    }
}

/// 6. Destructive calls carry uid and resource version, of what this caller read live.
fn deletes_are_pinned(state: &mut State, asked: &Asked, key: &Key) {
    let told = crate::api::service::deletion(asked);
    let seen = state.checks.seen.get(&(asked.caller, key.clone())).cloned();
    let (Some(by_uid), Some(by_version)) = (told.uid, told.resource_version) else {
        state
            .checks
            .broke(6, format!("{key} is deleted without uid and resource version"));
        return;
    };
    if seen.is_none_or(|(uid, version)| uid != by_uid || version != by_version) {
        let why = format!("{key} is deleted as of version {by_version}, which was not read live");
        state.checks.broke(6, why);
    }
}

/// 7. Whoever sends a write holds the lease at that moment.
pub fn no_write_without_the_lease(state: &mut State, caller: Caller, what: &str) {
    let lease = state
        .store
        .list("leases", None)
        .into_iter()
        .next()
        .map(|(_, lease)| lease);
    let holder = lease.as_ref().map_or("", |lease| text(lease, "/spec/holderIdentity"));
    if !holder.starts_with(&format!("op{caller}_")) {
        state.checks.broke(
            7,
            format!("operator {caller} sends {what}, and {holder:?} holds the lease"),
        );
    }
}

/// 12. The spec is never written, and the generation that was seen never goes back.
fn spec_is_not_written(state: &mut State, asked: &Asked, now: &Value) {
    let Some(before) = state.checks.before.clone() else {
        return;
    };
    if now["kind"] == "Status" {
        return;
    }
    if before["spec"] != now["spec"] {
        let why = format!("the spec of {} was written", key_of(asked));
        state.checks.broke(12, why);
    }
    if let Some(generation) = now["status"]["observedGeneration"].as_i64() {
        let known = state
            .checks
            .generations
            .entry(uid(now).to_owned())
            .or_insert(generation);
        let fell = generation < *known;
        *known = generation.max(*known);
        if fell {
            let why = format!("observedGeneration of {} went back to {generation}", key_of(asked));
            state.checks.broke(12, why);
        }
    }
}

/// 13. No key leaves the Secrets.
fn no_secret_leaks(state: &mut State, asked: &Asked, key: &Key) {
    let said = asked.body.to_string();
    // "PRIVATE KEY", plain and in base64 at its three phases.
    let marks = ["PRIVATE KEY", "UFJJVkFURSBLRV", "BSSVZBVEUgS0VZ", "QUklWQVRFIEtFW"];
    if marks.iter().any(|mark| said.contains(mark)) {
        state.checks.broke(13, format!("{key} holds a private key"));
    }
}

/// 14. Secrets are read one by one, where there is something to be managed.
fn only_own_secrets(state: &mut State, asked: &Asked, key: &Key) {
    if asked.target.name.is_none() {
        // Those of one cluster, by its label.
        if asked
            .query
            .get("labelSelector")
            .is_some_and(|labels| labels.contains("quorate.dev/cluster="))
        {
            return;
        }
        state
            .checks
            .broke(14, format!("all Secrets of {:?} are listed", key.namespace));
        return;
    }
    let Some(secret) = state.store.get(key) else { return };
    let owners = secret["metadata"]["ownerReferences"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    let ours = owners.iter().any(|owner| text(owner, "/kind").starts_with("Etcd"));
    let named = state
        .store
        .list("etcdclusters", Some(&key.namespace))
        .iter()
        .any(|(_, cluster)| cluster["spec"].to_string().contains(&format!("\"{}\"", key.name)));
    // One of a name that is needed is looked at, to find out that it is another's.
    let needed = state
        .store
        .list("etcdclusters", Some(&key.namespace))
        .iter()
        .any(|(cluster, _)| key.name.starts_with(&format!("{}-", cluster.name)));
    if !ours && !named && !needed {
        state
            .checks
            .broke(14, format!("{key} is read, which belongs to nobody that is managed"));
    }
}

/// 15. The budget lets no more go than a quorum can spare.
fn budget_protects_quorum(state: &mut State, asked: &Asked) {
    let Some(least) = asked.body.pointer("/spec/minAvailable").and_then(Value::as_u64) else {
        return;
    };
    let owner = text(&asked.body, "/metadata/ownerReferences/0/uid").to_owned();
    let Some(data) = state.etcd.of_owner(&owner) else {
        return;
    };
    let all = voters(data).len();
    let quorum = u64::try_from(all / 2 + 1).unwrap_or(0);
    if all > 1 && least < quorum && state.etcd.leader(data.cluster).is_some() {
        state
            .checks
            .broke(15, format!("the budget keeps {least} of {all} voters"));
    }
}

/// 18, at a write: available means that reads were served a moment ago.
fn ready_when_written(state: &mut State, now: &Value) {
    let owner = uid(now).to_owned();
    let since = state.checks.leaderless.get(&owner).copied();
    if says_available(now) && since.is_some_and(|since| clock::since(since) > LAG) {
        state.checks.broke(
            18,
            "Available is written while nobody could read for minutes".to_owned(),
        );
    }
}

fn says_available(cluster: &Value) -> bool {
    let conditions = cluster["status"]["conditions"].as_array();
    conditions.is_some_and(|all| {
        all.iter()
            .any(|condition| text(condition, "/type") == "Available" && text(condition, "/status") == "True")
    })
}

/// What holds at every moment: 4, 8, 9 (the members tell), 16 and 18.
pub fn at_every_moment(state: &mut State) {
    for text in std::mem::take(&mut state.etcd.wrong) {
        let invariant = match () {
            () if text.contains("acknowledged") || text.contains("given up") => 8,
            () if text.contains("begins") || text.contains("joins again") => 4,
            () => 9,
        };
        state.checks.broke(invariant, text);
    }
    for (key, cluster) in state.store.list("etcdclusters", None) {
        let owner = uid(&cluster).to_owned();
        one_cluster(state, &key, &owner);
        ready_means_readable(state, &key, &cluster, &owner);
        let down = state.checks.down.get(&owner).copied();
        let back = down.is_some_and(|down| {
            let data = state.etcd.of_owner(&owner);
            data.is_none_or(|data| {
                !voters(data).contains(&down)
                    || (state.etcd.healthy(data.cluster).contains(&down) && !goes(state, down))
            })
        });
        if back {
            state.checks.down.remove(&owner);
        }
    }
}

/// A member's pod is being deleted.
fn goes(state: &State, member: u64) -> bool {
    state.store.list("pods", None).iter().any(|(_, pod)| {
        let process = state.etcd.processes.get(uid(pod));
        let own = process
            .and_then(|process| state.etcd.data(process))
            .is_some_and(|data| data.member == member);
        own && pod["metadata"]["deletionTimestamp"].is_string() && claim_of(pod).is_some()
    })
}

/// 16. Of one EtcdCluster one cluster serves.
fn one_cluster(state: &mut State, key: &Key, owner: &str) {
    let serving: BTreeSet<u64> = state
        .etcd
        .leaders
        .keys()
        .copied()
        .filter(|cluster| state.etcd.leader(*cluster).is_some())
        .filter(|cluster| {
            state.etcd.processes.values().any(|process| {
                let disk = state.etcd.disks.get(&process.disk);
                disk.is_some_and(|disk| {
                    disk.owner == owner && disk.data.as_ref().is_some_and(|data| data.cluster == *cluster)
                })
            })
        })
        .collect();
    if serving.len() > 1 {
        state
            .checks
            .broke(16, format!("{} clusters serve for {key}", serving.len()));
    }
}

/// 18. Available is not said for long while nobody can read.
fn ready_means_readable(state: &mut State, key: &Key, cluster: &Value, owner: &str) {
    let serves = state
        .etcd
        .of_owner(owner)
        .is_some_and(|data| state.etcd.leader(data.cluster).is_some());
    if serves {
        state.checks.leaderless.remove(owner);
        return;
    }
    let since = *state
        .checks
        .leaderless
        .entry(owner.to_owned())
        .or_insert_with(clock::now);
    if clock::since(since) > LAG && says_available(cluster) {
        state
            .checks
            .broke(18, format!("{key} says Available, and nobody could read for {LAG:?}"));
        state.checks.leaderless.insert(owner.to_owned(), clock::now());
    }
}
