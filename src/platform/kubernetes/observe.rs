//! One look at a cluster: its volumes, its pods, the nodes that they are on, and what the members say.
//!
//! Invariants:
//! 1. Pods and volumes are listed live, never from a cache: what is decided rests on what is.
//! 2. All members are asked at the same time; the look takes as long as the slowest may, not as their sum.
//! 3. A volume that the record knows and that is not there any more is shown as deleted, whatever runs.

use super::names::{CLUSTER, CLUSTER_UID, INITIAL_STATE, MEMBER, Names, ROLE, TEMPLATE};
use super::record::{Note, Record};
use super::render::Render;
use super::steps::unbound;
use super::{Cluster, Failure, apply};
use crate::api::convert;
use crate::api::schedule::parse_rfc3339;
use crate::clock::{self, Instant};
use crate::plan::observed::{Data, Health, Member, Node, NodeState, Observed, Process, Retired, Verdict, Volume};
use crate::plan::{Timestamp, Wanted};
use crate::platform::Platform;
use crate::platform::ask::{CORRUPT, ask};
use crate::platform::local::records::{OriginRecord, Refusal};
use k8s_openapi::api::core::v1::{ContainerStatus, Node as ApiNode, PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::storage::v1::StorageClass;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;
use kube::api::{Api, ListParams};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// A container that ends sooner than this after its start counts as one that did not come up.
const SOON: Duration = Duration::from_secs(30);
/// A node is looked at again after this long.
const NODE_EVERY: Duration = Duration::from_secs(3);
/// A human's statement that a node's pods are stopped.
const OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service";

/// Nodes and volumes of the cluster level, which change rarely or never.
#[derive(Debug, Default)]
pub struct Places {
    nodes: BTreeMap<String, (NodeState, Instant)>,
    /// The host that a volume is bound to, by the volume's name.
    bound: BTreeMap<String, Option<String>>,
    /// Storage classes that are there.
    classes: BTreeSet<String>,
    /// Cannot be read, told once.
    refused: Option<String>,
}

impl Cluster {
    pub(super) async fn look(&mut self, wanted: &Wanted) -> Result<Observed, Failure> {
        let at = self.now();
        let names = self.names(wanted);
        if self.record.is_none() {
            self.record = Some(self.read_record(wanted).await?);
        }
        let mut complaints = Vec::new();
        self.trust(wanted)
            .await
            .unwrap_or_else(|error| complaints.push(error.to_string()));

        let of_cluster = ListParams::default().labels(&format!("{CLUSTER}={}", wanted.name));
        let (claims_api, pods_api): (Api<PersistentVolumeClaim>, Api<Pod>) = (self.api(), self.api());
        let (claims, pods) = tokio::join!(claims_api.list(&of_cluster), pods_api.list(&of_cluster));
        let blind = claims.is_err() && mutant::planted("G20");
        let claims = if blind { Vec::new() } else { claims?.items };
        let pods = pods?;
        let mut claims: BTreeMap<String, PersistentVolumeClaim> =
            claims.into_iter().map(|claim| (claim.name_any(), claim)).collect();
        let pods: BTreeMap<String, Pod> = pods
            .into_iter()
            .filter(|pod| {
                apply::is_ours(pod, &wanted.uid) && pod.labels().get(ROLE).is_some_and(|role| role == "member")
            })
            .map(|pod| (pod.name_any(), pod))
            .collect();
        // Labels are for people. A volume that has lost them is not a volume that is gone.
        let known = self.record.iter().flat_map(|record| record.volumes.keys().cloned());
        let unlabelled: Vec<String> = known.filter(|name| !blind && !claims.contains_key(name)).collect();
        for name in unlabelled {
            if let Some(claim) = claims_api.get_opt(&name).await? {
                claims.insert(name, claim);
            }
        }
        self.take_in(wanted, &claims);
        self.known_volumes = claims.keys().cloned().collect();

        let record = self.record.clone().unwrap_or_default();
        self.endpoints.clear();
        self.running.clear();
        let mut members = Vec::new();
        let mut asked = tokio::task::JoinSet::new();
        for (name, kept) in &record.volumes {
            if kept.note.retired.is_some() {
                continue;
            }
            let claim = claims
                .get(name)
                .filter(|claim| claim.uid().as_deref() == Some(&kept.uid));
            let pod = pods.get(name);
            let member = self.look_at(wanted, &names, name, claim, kept, pod, at).await;
            let endpoint = pod
                .and_then(reachable)
                .map(|address| self.render(wanted, &names).client_url(&address));
            if member.may_run() {
                self.running.insert(name.clone(), pod.and_then(reachable));
            }
            if let Some(endpoint) = &endpoint {
                self.connections.call(endpoint, &names.member_host(name));
                self.endpoints.insert(name.clone(), endpoint.clone());
            }
            let connections = Arc::clone(&self.connections);
            asked.spawn(async move {
                let mut member = member;
                if let Some(endpoint) = endpoint {
                    let (answer, verdict, why) = ask(&connections, &endpoint, at).await;
                    member.answer = answer;
                    member.health.verdict = verdict;
                    member.health.why = why;
                }
                member
            });
        }
        members.extend(asked.join_all().await);
        members.sort_by(|a, b| a.name.cmp(&b.name));
        for member in &mut members {
            self.learn(wanted, &names, member, claims.get(&member.name), pods.get(&member.name))
                .await?;
        }
        complaints.extend(self.places.refused.clone());
        complaints.extend(self.troubles.values().cloned());

        let retired = record.volumes.iter().filter_map(|(name, kept)| {
            // Whose claim is gone has nothing left to purge.
            claims
                .get(name)
                .filter(|claim| claim.uid().as_deref() == Some(&kept.uid))?;
            Some(Retired {
                name: name.clone(),
                volume: kept.uid.clone(),
                member_id: kept.note.member(),
                at: Timestamp(kept.note.retired?),
            })
        });
        let retired = retired.collect();
        let backups = self
            .backups
            .iter()
            .filter(|backup| backup.is_of(&wanted.name))
            .filter_map(|b| convert::run(b))
            .collect();
        Ok(Observed {
            members,
            retired,
            fresh_names: self.fresh_names(&names, wanted.replicas as usize + 1),
            journal: record.journal.clone(),
            backups,
            defrag_tick: self
                .object
                .as_ref()
                .and_then(|object| convert::defrag_tick(&object.spec, at)),
            complaints,
        })
    }

    /// The record, read live. When there is none, what the object's status says of the cluster's id still counts: a
    /// cluster that once lived is never begun again because somebody deleted a ConfigMap.
    async fn read_record(&self, wanted: &Wanted) -> Result<Record, Failure> {
        let mut record = Record::read(&self.api(), &self.names(wanted).record(), &wanted.uid).await?;
        let status = self.object.as_ref().and_then(|object| object.status.as_ref());
        if record.missing
            && let Some(id) = status.and_then(|status| u64::from_str_radix(status.cluster_id.as_deref()?, 16).ok())
        {
            record.journal.cluster_id = Some(crate::plan::ClusterId(id));
        }
        Ok(record)
    }

    /// Takes volumes into the record that this cluster made, and what is written on those that it knows.
    fn take_in(&mut self, wanted: &Wanted, claims: &BTreeMap<String, PersistentVolumeClaim>) {
        let Some(record) = &mut self.record else { return };
        for (name, claim) in claims {
            let (Some(uid), Some(note)) = (claim.uid(), Note::of(claim)) else {
                continue;
            };
            match record.volumes.get(name) {
                // What is on the volume is the newer of the two, unless somebody took it away.
                Some(kept) if kept.uid == uid => {
                    let ours = claim.annotations().get(CLUSTER_UID) == Some(&wanted.uid);
                    if ours && kept.note != note {
                        record.keep(name, &uid, created(claim), note);
                    }
                }
                Some(_) => {}
                None if record.expects(claim, &wanted.uid) && !half_restored(&note) => {
                    record.keep(name, &uid, created(claim), note);
                }
                None => {}
            }
        }
        // A former member's volume that is gone is forgotten: its name is random, and stays unlikely.
        record.volumes.retain(|name, kept| {
            kept.note.retired.is_none()
                || claims
                    .get(name)
                    .is_some_and(|claim| claim.uid().as_deref() == Some(&kept.uid))
        });
    }

    #[allow(clippy::too_many_arguments)]
    async fn look_at(
        &mut self,
        wanted: &Wanted,
        names: &Names,
        name: &str,
        claim: Option<&PersistentVolumeClaim>,
        kept: &super::record::Kept,
        pod: Option<&Pod>,
        at: Timestamp,
    ) -> Member {
        let host = match claim {
            Some(claim) => self.bound_host(claim).await,
            None => None,
        };
        let node_name = pod
            .and_then(|pod| pod.spec.as_ref()?.node_name.clone())
            .or_else(|| host.clone())
            .unwrap_or_default();
        let state = self.node_state(&node_name, at).await;
        let certificate = self.certificate_of(wanted, name).await;
        let mut process = process_of(pod, state, at);
        if let (Process::Pending { why, .. }, Some(claim)) = (&mut process, claim.filter(|claim| unbound(claim)))
            && let Some(cause) = self.why_unbound(claim).await
        {
            *why = cause;
        }
        let note = &kept.note;
        let size = claim
            .and_then(|claim| {
                let requests = claim.spec.as_ref()?.resources.as_ref()?.requests.as_ref()?;
                crate::api::quantity::Quantity::from(requests.get("storage")?.0.as_str())
                    .bytes()
                    .ok()
            })
            .unwrap_or(0);
        let data = match (&note.refused, note.lost) {
            (_, true) => Data::Lost,
            (Some(Refusal::Foreign(found)), _) => Data::Foreign { found: found.clone() },
            (Some(Refusal::Corrupt(why)), _) => Data::Corrupt { why: why.clone() },
            (None, false) if note.wrote => Data::Present,
            // Coming up: it may have written already.
            (None, false) if note.started && pod.is_some() => Data::Unknown,
            (None, false) => Data::Fresh,
        };
        let why = match &process {
            Process::Running { .. } | Process::Pending { .. } => String::new(),
            Process::Absent if !note.started => "never started".to_owned(),
            Process::Absent | Process::Exited { .. } => "its process does not run".to_owned(),
            Process::Unknown { .. } => format!("node {node_name} is silent"),
        };
        Member {
            name: name.to_owned(),
            peer_url: self.render(wanted, names).peer_url(name),
            process,
            node: Node { name: node_name, state },
            data,
            health: Health {
                verdict: Verdict::Unhealthy,
                why,
                since: at,
                at,
            },
            answer: None,
            log: note.log_end(),
            copied: note.copied.map(Timestamp),
            template: pod.and_then(|pod| pod.annotations().get(TEMPLATE).cloned()),
            certificate,
            volume: Volume {
                uid: kept.uid.clone(),
                created: Timestamp(kept.created),
                member_id: note.member(),
                cluster_id: note.cluster(),
                origin: note.origin(),
                started: note.started,
                recovered: note.recovered.clone(),
                bound_to_node: host.is_some(),
                size_bytes: size,
                deleted: claim.is_none_or(|claim| claim.metadata.deletion_timestamp.is_some()),
            },
        }
    }

    /// Takes over what was seen and said: identity and content onto the volume, since when health is what it is.
    async fn learn(
        &mut self,
        wanted: &Wanted,
        names: &Names,
        member: &mut Member,
        claim: Option<&PersistentVolumeClaim>,
        pod: Option<&Pod>,
    ) -> Result<(), Failure> {
        let Some(kept) = self
            .record
            .as_ref()
            .and_then(|record| record.volumes.get(&member.name))
            .cloned()
        else {
            return Ok(());
        };
        let mut note = kept.note.clone();
        if let Some(answer) = &member.answer {
            if note.member_id.is_none() {
                note.member_id = Some(answer.member_id.to_string());
                note.cluster_id = Some(answer.cluster_id.to_string());
            }
            if !note.wrote || note.lost || note.refused.is_some() {
                // What answered has written: its pod must not begin or join again.
                self.resume_only(wanted, names, pod).await?;
                (note.wrote, note.lost, note.refused) = (true, false, None);
            }
        } else if let Some(pod) = pod
            && let Process::Exited { message, .. } = &member.process
        {
            let resumed = note.wrote || pod.annotations().get(INITIAL_STATE).is_some_and(|state| state != "new");
            match refusal(message) {
                Some(refusal) => note.refused = Some(refusal),
                None if resumed && note.wrote && says_no_data(message) => note.lost = true,
                None => {}
            }
        }
        member.volume.member_id = note.member();
        member.volume.cluster_id = note.cluster();
        if note != kept.note {
            if note.wrote && member.data == Data::Unknown {
                member.data = Data::Present;
            }
            if note.lost {
                member.data = Data::Lost;
            }
            match &note.refused {
                Some(Refusal::Foreign(found)) => member.data = Data::Foreign { found: found.clone() },
                Some(Refusal::Corrupt(why)) => member.data = Data::Corrupt { why: why.clone() },
                None => {}
            }
            if let Some(claim) = claim.filter(|claim| claim.metadata.deletion_timestamp.is_none()) {
                self.write_note(claim, &note).await?;
            }
            self.keep(&member.name, &kept, note);
        }
        let health = &mut member.health;
        let before = self
            .health
            .get(&member.name)
            .cloned()
            .or_else(|| self.published_health(&member.name, health));
        if let Some(before) = before
            && before.verdict == health.verdict
        {
            health.since = before.since;
        }
        self.health.insert(member.name.clone(), health.clone());
        Ok(())
    }

    /// Since when a member's health is what it is, as the operator before this one published it.
    fn published_health(&self, name: &str, now: &Health) -> Option<Health> {
        let status = self.object.as_ref()?.status.as_ref()?;
        let member = status.members.iter().find(|member| member.name == name)?;
        let verdict = match member.health.as_str() {
            "Healthy" => Verdict::Healthy,
            "Unhealthy" => Verdict::Unhealthy,
            _ => Verdict::Unknown,
        };
        Some(Health {
            verdict,
            since: parse_rfc3339(&member.health_since)?,
            ..now.clone()
        })
    }

    /// Why a claim cannot be bound, where that is for its owner to put right; the scheduler does not say.
    async fn why_unbound(&mut self, claim: &PersistentVolumeClaim) -> Option<String> {
        let class = claim.spec.as_ref()?.storage_class_name.clone();
        let Some(class) = class.filter(|class| !class.is_empty()) else {
            return Some("there is no default StorageClass: name one in spec.storage.storageClassName".to_owned());
        };
        if self.places.classes.contains(&class) {
            return None;
        }
        match Api::<StorageClass>::all(self.client.clone())
            .get_metadata_opt(&class)
            .await
        {
            Ok(Some(_)) => {
                self.places.classes.insert(class);
                None
            }
            Ok(None) => Some(format!(
                "StorageClass {class:?} does not exist: create it, or name another in spec.storage.storageClassName"
            )),
            Err(error) => {
                tracing::debug!(class, %error, "cannot read a StorageClass");
                None
            }
        }
    }

    /// The host that a bound volume can only be used on.
    async fn bound_host(&mut self, claim: &PersistentVolumeClaim) -> Option<String> {
        let name = claim
            .spec
            .as_ref()?
            .volume_name
            .clone()
            .filter(|name| !name.is_empty())?;
        if let Some(known) = self.places.bound.get(&name) {
            return known.clone();
        }
        match Api::<PersistentVolume>::all(self.client.clone()).get_opt(&name).await {
            Ok(Some(volume)) => {
                self.places.refused = None;
                let host = host_of(&volume);
                self.places.bound.insert(name, host.clone());
                host
            }
            Ok(None) => None,
            Err(error) => {
                self.places.refused = Some(format!(
                    "cannot read PersistentVolume {name}, so a volume that is bound to a lost node is not told from one \
                     that is not: {error}"
                ));
                None
            }
        }
    }

    /// Whether nobody on this node confirms that a pod has ended.
    pub(super) async fn is_silent(&mut self, node: &str) -> bool {
        let at = self.now();
        !node.is_empty() && self.node_state(node, at).await != NodeState::Ready
    }

    async fn node_state(&mut self, name: &str, at: Timestamp) -> NodeState {
        if name.is_empty() {
            return NodeState::Ready;
        }
        if let Some((state, seen)) = self.places.nodes.get(name)
            && clock::since(*seen) < NODE_EVERY
        {
            return *state;
        }
        let state = match self.node(name).await {
            Ok(found) => {
                self.places.refused = None;
                found.map_or(NodeState::Deleted, |node| state_of(&node, at))
            }
            Err(error) => {
                self.places.refused = Some(format!(
                    "cannot read Node {name}, so a lost node is not told from a member that merely does not answer: {error}"
                ));
                NodeState::Ready
            }
        };
        self.places.nodes.insert(name.to_owned(), (state, clock::now()));
        state
    }

    /// The node with this name, or with this host name where a volume names that.
    async fn node(&self, name: &str) -> Result<Option<ApiNode>, kube::Error> {
        let nodes: Api<ApiNode> = Api::all(self.client.clone());
        if let Some(node) = nodes.get_opt(name).await? {
            return Ok(Some(node));
        }
        let by_host = ListParams::default().labels(&format!("kubernetes.io/hostname={name}"));
        Ok(nodes.list(&by_host).await?.into_iter().next())
    }

    /// Names that nobody had, the same ones until they are used: a plan that names one stays the same plan.
    fn fresh_names(&mut self, names: &Names, count: usize) -> Vec<String> {
        let record = self.record.clone().unwrap_or_default();
        let decided: Vec<String> = record
            .journal
            .bootstrap
            .iter()
            .flat_map(|decision| decision.members.clone())
            .collect();
        let known = &self.known_volumes;
        let used = |name: &String| record.volumes.contains_key(name) || known.contains(name) || decided.contains(name);
        self.fresh.retain(|name| !used(name));
        while self.fresh.len() < count {
            let name = names.member(self.around.random());
            if !used(&name) && !self.fresh.contains(&name) {
                self.fresh.push(name);
            }
        }
        self.fresh.clone()
    }

    pub(super) fn keep(&mut self, name: &str, kept: &super::record::Kept, note: Note) {
        if let Some(record) = &mut self.record {
            record.keep(name, &kept.uid, Timestamp(kept.created), note);
        }
    }

    pub(super) fn render<'a>(&'a self, wanted: &'a Wanted, names: &'a Names) -> Render<'a> {
        Render {
            wanted,
            object: self.object.as_deref().unwrap_or(&self.nothing),
            names,
            settings: &self.settings,
        }
    }
}

/// A moment of the Kubernetes API.
pub fn moment(time: &Time) -> Timestamp {
    Timestamp(u64::try_from(time.0.as_millisecond()).unwrap_or(0))
}

/// When an object was made.
pub fn created(object: &impl ResourceExt) -> Timestamp {
    object
        .creation_timestamp()
        .map(|time| moment(&time))
        .unwrap_or_default()
}

/// The address of a pod whose member may answer.
pub fn reachable(pod: &Pod) -> Option<String> {
    let status = pod.status.as_ref()?;
    let container = container_of(pod)?;
    container.state.as_ref()?.running.as_ref()?;
    let address = status.pod_ip.clone().filter(|address| !address.is_empty())?;
    Some(if address.contains(':') {
        format!("[{address}]")
    } else {
        address
    })
}

fn container_of(pod: &Pod) -> Option<&ContainerStatus> {
    named(pod, "etcd")
}

fn named<'a>(pod: &'a Pod, container: &str) -> Option<&'a ContainerStatus> {
    let statuses = pod.status.as_ref()?.container_statuses.as_ref()?;
    statuses.iter().find(|status| status.name == container)
}

/// A member's process as its pod shows it. Pure.
pub fn process_of(pod: Option<&Pod>, node: NodeState, at: Timestamp) -> Process {
    let Some(pod) = pod else { return Process::Absent };
    let status = pod.status.clone().unwrap_or_default();
    let made = created(pod);
    let scheduled = pod.spec.as_ref().is_some_and(|spec| spec.node_name.is_some());
    match node {
        NodeState::NotReady(since) if scheduled => return Process::Unknown { since },
        // What its status says is what a kubelet said once; to wait for one to confirm its end would be in vain.
        NodeState::Deleted | NodeState::OutOfService if scheduled => return Process::Unknown { since: at },
        NodeState::Ready | NodeState::NotReady(_) | NodeState::Deleted | NodeState::OutOfService => {}
    }
    if matches!(status.phase.as_deref(), Some("Failed" | "Succeeded")) {
        let ended = container_of(pod).and_then(|container| container.state.as_ref()?.terminated.clone());
        let why = [status.reason.clone(), status.message.clone()]
            .into_iter()
            .flatten()
            .collect::<Vec<_>>()
            .join(": ");
        return Process::Exited {
            at: ended
                .as_ref()
                .and_then(|ended| ended.finished_at.as_ref())
                .map_or(at, moment),
            restarts: 0,
            message: if why.is_empty() {
                "its pod ended".to_owned()
            } else {
                why
            },
            restarted_by_platform: false,
        };
    }
    if let Some(deleted) = &pod.metadata.deletion_timestamp {
        return Process::Pending {
            since: moment(deleted),
            why: "its pod is being deleted".to_owned(),
        };
    }
    let Some(container) = container_of(pod) else {
        return Process::Pending {
            since: made,
            why: why_pending(pod, "etcd"),
        };
    };
    let state = container.state.clone().unwrap_or_default();
    if let Some(running) = state.running {
        return Process::Running {
            since: running.started_at.as_ref().map_or(made, moment),
        };
    }
    let last = container.last_state.clone().unwrap_or_default();
    if let Some(ended) = state.terminated.or(last.terminated) {
        let (from, to) = (
            ended.started_at.as_ref().map(moment),
            ended.finished_at.as_ref().map(moment),
        );
        let soon = matches!((from, to), (Some(from), Some(to)) if to.since(from) < SOON);
        let count = u32::try_from(container.restart_count).unwrap_or(0).saturating_add(1);
        let words = ended.message.clone().unwrap_or_default();
        let reason = ended.reason.clone().unwrap_or_default();
        return Process::Exited {
            at: to.unwrap_or(at),
            restarts: if soon { count } else { 1 },
            message: last_words(&reason, ended.exit_code, &words),
            restarted_by_platform: true,
        };
    }
    Process::Pending {
        since: made,
        why: why_pending(pod, "etcd"),
    }
}

/// Why a pod does not run yet, in the words of Kubernetes.
pub fn why_pending(pod: &Pod, container: &str) -> String {
    let waiting = named(pod, container).and_then(|container| container.state.as_ref()?.waiting.clone());
    if let Some(waiting) = waiting {
        let parts = [waiting.reason, waiting.message];
        let text = parts.into_iter().flatten().collect::<Vec<_>>().join(": ");
        if !text.is_empty() {
            return text;
        }
    }
    let conditions = pod
        .status
        .as_ref()
        .and_then(|status| status.conditions.clone())
        .unwrap_or_default();
    let unmet = conditions
        .iter()
        .find(|condition| condition.status != "True" && condition.message.is_some());
    match unmet {
        Some(condition) => {
            let reason = condition.reason.clone().unwrap_or_else(|| condition.type_.clone());
            format!("{reason}: {}", condition.message.clone().unwrap_or_default())
        }
        None => "its pod is being started".to_owned(),
    }
}

/// How a container ended, and its last words.
fn last_words(reason: &str, code: i32, words: &str) -> String {
    let lines: Vec<String> = words
        .lines()
        .rev()
        .filter(|line| !line.trim().is_empty())
        .take(3)
        .map(plain)
        .collect();
    let lines: Vec<String> = lines.into_iter().rev().collect();
    let how = match reason {
        "" | "Error" | "Completed" => format!("exited with code {code}"),
        reason => format!("{reason} (code {code})"),
    };
    if lines.is_empty() {
        how
    } else {
        format!("{how}; last words: {}", lines.join(" | "))
    }
}

/// A log line for people: message and error of a JSON line, and never more than a few hundred characters.
fn plain(line: &str) -> String {
    let json: Option<serde_json::Value> = serde_json::from_str(line).ok();
    let field = |name: &str| json.as_ref()?.get(name)?.as_str().map(str::to_owned);
    let text = match (field("msg"), field("error")) {
        (Some(message), Some(error)) => format!("{message}: {error}"),
        (Some(message), None) => message,
        (None, _) => line.to_owned(),
    };
    text.chars().take(300).collect()
}

/// Words by which a member that goes on from its data says that there is none.
fn says_no_data(message: &str) -> bool {
    message.contains("cannot fetch cluster info from peer urls")
}

/// Words by which etcd, and our server like it, refuses a data directory for what is in it.
fn refusal(words: &str) -> Option<Refusal> {
    const FOREIGN: [&str; 2] = ["cluster ID mismatch", "member ID mismatch"];
    if FOREIGN.iter().any(|needle| words.contains(needle)) {
        return Some(Refusal::Foreign(words.to_owned()));
    }
    CORRUPT
        .iter()
        .any(|needle| words.contains(needle))
        .then(|| Refusal::Corrupt(words.to_owned()))
}

/// The host that a volume can only be used on, if it is one host.
fn host_of(volume: &PersistentVolume) -> Option<String> {
    let required = volume.spec.as_ref()?.node_affinity.as_ref()?.required.as_ref()?;
    let mut hosts = required.node_selector_terms.iter().flat_map(|term| {
        let fields = term
            .match_fields
            .iter()
            .flatten()
            .filter(|field| field.key == "metadata.name");
        let labels = term
            .match_expressions
            .iter()
            .flatten()
            .filter(|field| field.key == "kubernetes.io/hostname");
        fields
            .chain(labels)
            .filter(|field| field.operator == "In")
            .flat_map(|field| field.values.clone().unwrap_or_default())
    });
    let host = hosts.next()?;
    hosts.all(|other| other == host).then_some(host)
}

fn state_of(node: &ApiNode, at: Timestamp) -> NodeState {
    let taints = node
        .spec
        .as_ref()
        .and_then(|spec| spec.taints.clone())
        .unwrap_or_default();
    if taints.iter().any(|taint| taint.key == OUT_OF_SERVICE) {
        return NodeState::OutOfService;
    }
    let conditions = node
        .status
        .as_ref()
        .and_then(|status| status.conditions.clone())
        .unwrap_or_default();
    match conditions.iter().find(|condition| condition.type_ == "Ready") {
        Some(ready) if ready.status == "True" => NodeState::Ready,
        Some(ready) => NodeState::NotReady(ready.last_transition_time.as_ref().map_or(at, moment)),
        None => NodeState::NotReady(created(node)),
    }
}

/// A volume that a backup is still to be brought onto: no member yet, its creation is begun again where it stopped.
fn half_restored(note: &Note) -> bool {
    matches!(note.origin, OriginRecord::Restored { .. }) && !note.wrote
}

/// What a new volume is for, as it is written on it.
pub fn origin(create: &crate::plan::step::Create) -> OriginRecord {
    use crate::plan::step::Create;
    match create {
        Create::Initial { cluster, token } => OriginRecord::Initial {
            cluster: cluster.clone(),
            token: token.clone(),
        },
        Create::Joiner => OriginRecord::Joiner,
        Create::Restored { token, .. } => OriginRecord::Restored { token: token.clone() },
    }
}

/// Selects all that carries a member's label.
pub fn of_member(member: &str) -> ListParams {
    ListParams::default().labels(&format!("{MEMBER}={member}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_seconds(1_800_000_000);

    fn process(pod: &str, node: NodeState) -> Process {
        let pod: Pod = serde_yaml::from_str(pod).expect("reads");
        process_of(Some(&pod), node, NOW)
    }

    #[test]
    fn a_pod_that_finds_no_node_or_no_image_tells_why() {
        let unschedulable = "
metadata: {name: a}
status:
  phase: Pending
  conditions:
  - {type: PodScheduled, status: 'False', reason: Unschedulable, message: '0/3 nodes are available: 3 Insufficient cpu.'}
";
        let Process::Pending { why, .. } = process(unschedulable, NodeState::Ready) else {
            panic!("it waits");
        };
        assert_eq!(why, "Unschedulable: 0/3 nodes are available: 3 Insufficient cpu.");
        let no_image = "
metadata: {name: a}
spec: {nodeName: n1, containers: []}
status:
  phase: Pending
  containerStatuses:
  - {name: etcd, ready: false, restartCount: 0, image: x, imageID: '', state: {waiting: {reason: ErrImagePull, message: 'not found: example.org/x:1'}}}
";
        let Process::Pending { why, .. } = process(no_image, NodeState::Ready) else {
            panic!("it waits");
        };
        assert_eq!(why, "ErrImagePull: not found: example.org/x:1");
    }

    const LOOPING: &str = "
metadata: {name: a}
spec: {nodeName: n1, containers: []}
status:
  phase: Running
  containerStatuses:
  - name: etcd
    ready: false
    restartCount: 4
    image: x
    imageID: ''
    state: {waiting: {reason: CrashLoopBackOff, message: back-off}}
    lastState:
      terminated:
        exitCode: 1
        reason: Error
        startedAt: '2026-11-30T17:00:00Z'
        finishedAt: '2026-11-30T17:00:02Z'
        message: |
          {\"level\":\"info\",\"msg\":\"starting\"}
          {\"level\":\"fatal\",\"msg\":\"cannot open\",\"error\":\"walpb: crc mismatch\"}
";

    #[test]
    fn a_container_that_keeps_ending_is_told_with_its_last_words() {
        let Process::Exited {
            restarts,
            message,
            restarted_by_platform,
            ..
        } = process(LOOPING, NodeState::Ready)
        else {
            panic!("it ended");
        };
        assert_eq!((restarts, restarted_by_platform), (5, true));
        assert!(message.contains("cannot open: walpb: crc mismatch"), "{message}");
        assert!(matches!(refusal(&message), Some(Refusal::Corrupt(_))));
        assert_eq!(refusal("bind: address already in use"), None);
    }

    #[test]
    fn nothing_is_known_of_a_pod_on_a_silent_node() {
        let since = Timestamp(5);
        assert_eq!(process(LOOPING, NodeState::NotReady(since)), Process::Unknown { since });
        for gone in [NodeState::Deleted, NodeState::OutOfService] {
            assert_eq!(process(LOOPING, gone), Process::Unknown { since: NOW });
        }
    }

    #[test]
    fn a_pod_that_was_evicted_is_for_the_operator_to_start_again() {
        let evicted = "
metadata: {name: a}
spec: {nodeName: n1, containers: []}
status: {phase: Failed, reason: Evicted, message: 'The node was low on resource: memory.'}
";
        let Process::Exited {
            message,
            restarted_by_platform,
            ..
        } = process(evicted, NodeState::Ready)
        else {
            panic!("it ended");
        };
        assert_eq!(message, "Evicted: The node was low on resource: memory.");
        assert!(!restarted_by_platform);
    }

    #[test]
    fn a_volume_of_one_host_is_told_from_one_of_a_zone() {
        let volume = |key: &str| -> PersistentVolume {
            serde_yaml::from_str(&format!(
                "
spec:
  nodeAffinity:
    required:
      nodeSelectorTerms:
      - matchExpressions: [{{key: {key}, operator: In, values: [n1]}}]
"
            ))
            .expect("reads")
        };
        assert_eq!(host_of(&volume("kubernetes.io/hostname")).as_deref(), Some("n1"));
        assert_eq!(host_of(&volume("topology.kubernetes.io/zone")), None);
        assert_eq!(host_of(&PersistentVolume::default()), None);
    }
}
