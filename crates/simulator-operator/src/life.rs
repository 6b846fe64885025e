//! What makes a Kubernetes cluster live: scheduler, binder of volumes, kubelets, garbage collection, namespaces, nodes.
//! One [`tick`] does a little of each.
//!
//! Invariants:
//! 1. Of a pod on a node that is cut off nothing is ever confirmed.
//! 2. A container that ended is started again after a pause; what it said last stays to be read.
//! 3. A volume in use outlives its claim's deletion until its pod is gone.

use crate::api::store::{Key, date, uid};
use crate::etcd::{self, Etcd, Process};
use crate::tls::Material;
use crate::world::State;
use quorate::clock::{self, Instant};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// How long a node is silent before it is called so.
const SILENT: Duration = Duration::from_secs(40);
/// How long the pods of a node that is gone stay.
const ORPHANED: Duration = Duration::from_secs(20);
/// How often a kubelet brings changed Secrets into pods.
const REFRESH: Duration = Duration::from_secs(30);

/// What the kubelets remember of one pod.
#[derive(Debug, Clone)]
struct Kept {
    /// Nothing is done before this.
    next: Instant,
    restarts: i64,
    address: String,
    refreshed: Instant,
    /// Since when it is being deleted.
    going: Option<Instant>,
}

/// The cluster's machinery.
#[derive(Debug, Default)]
pub struct Life {
    pods: BTreeMap<String, Kept>,
    addresses: u64,
    volumes: u64,
    silent: BTreeMap<String, Instant>,
    gone: BTreeMap<String, Instant>,
    last_write: Option<Instant>,
    seen: u64,
    /// Clients write no more.
    pub quiet: bool,
    /// Version of the program that an image holds.
    pub images: BTreeMap<String, String>,
}

fn text<'a>(value: &'a Value, path: &str) -> &'a str {
    value.pointer(path).and_then(Value::as_str).unwrap_or_default()
}

fn argument<'a>(pod: &'a Value, name: &str) -> Option<&'a str> {
    let arguments = pod.pointer("/spec/containers/0/args")?.as_array()?;
    arguments
        .iter()
        .filter_map(Value::as_str)
        .find_map(|argument| argument.strip_prefix(name)?.strip_prefix('='))
}

/// The data of one member alone, made from `data` as a pod's arguments say.
fn alone(pod: &Value, data: &etcd::Data) -> etcd::Data {
    etcd::alone(
        data,
        argument(pod, "--name").unwrap_or_default(),
        argument(pod, "--peer-url").unwrap_or_default(),
        argument(pod, "--token").unwrap_or_default(),
        argument(pod, "--above-revision").and_then(|text| text.parse().ok()),
    )
}

/// The claim that a pod mounts.
pub fn claim_of(pod: &Value) -> Option<&str> {
    let volumes = pod.pointer("/spec/volumes")?.as_array()?;
    volumes
        .iter()
        .find_map(|volume| volume.pointer("/persistentVolumeClaim/claimName")?.as_str())
}

/// One tick of everything.
pub fn tick(state: &mut State) {
    // What only follows from objects follows from changed ones.
    if state.store.revision != state.life.seen {
        state.life.seen = state.store.revision;
        namespaces(state);
        collect(state);
        protect(state);
    }
    nodes(state);
    schedule(state);
    let pods = state.store.list("pods", None);
    for (key, pod) in pods {
        kubelet(state, &key, &pod);
    }
    let known: Vec<String> = state
        .store
        .list("pods", None)
        .iter()
        .map(|(_, pod)| uid(pod).to_owned())
        .collect();
    state.life.pods.retain(|pod, _| known.contains(pod));
    // A process on a node that is cut off lives on without its pod.
    let cut = state.etcd.cut.clone();
    state
        .etcd
        .processes
        .retain(|pod, process| known.contains(pod) || cut.contains(&process.node));
    state.etcd.tick();
    let due = state
        .life
        .last_write
        .is_none_or(|last| clock::since(last) >= Duration::from_secs(1));
    if due && !state.life.quiet {
        state.life.last_write = Some(clock::now());
        state.etcd.write_everywhere();
    }
}

fn namespaces(state: &mut State) {
    for (key, namespace) in state.store.list("namespaces", None) {
        if !namespace["metadata"]["deletionTimestamp"].is_string() {
            continue;
        }
        let mut left = false;
        for kind in crate::api::kinds::KINDS.iter().filter(|kind| kind.namespaced) {
            for (inside, object) in state.store.list(kind.plural, Some(&key.name)) {
                left |= kind.plural != "events";
                if !object["metadata"]["deletionTimestamp"].is_string() {
                    let _ = state.store.delete(&inside, &Default::default());
                }
            }
        }
        if !left {
            state.store.vanish(&key);
        }
    }
}

/// Objects whose owners are all gone go too.
fn collect(state: &mut State) {
    let mut uids = std::collections::BTreeSet::new();
    let mut owned = Vec::new();
    for kind in crate::api::kinds::KINDS {
        for (key, object) in state.store.list(kind.plural, None) {
            uids.insert(uid(&object).to_owned());
            if object["metadata"]["ownerReferences"]
                .as_array()
                .is_some_and(|list| !list.is_empty())
            {
                owned.push((key, object));
            }
        }
    }
    for (key, object) in owned {
        let owners = object["metadata"]["ownerReferences"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        let orphan = owners
            .iter()
            .all(|owner| !uids.contains(owner["uid"].as_str().unwrap_or_default()));
        if orphan && !object["metadata"]["deletionTimestamp"].is_string() {
            let _ = state.store.delete(&key, &Default::default());
        }
    }
}

fn protect(state: &mut State) {
    let pods = state.store.list("pods", None);
    for (key, claim) in state.store.list("persistentvolumeclaims", None) {
        if !claim["metadata"]["deletionTimestamp"].is_string() {
            continue;
        }
        let used = pods
            .iter()
            .any(|(pod, value)| pod.namespace == key.namespace && claim_of(value) == Some(&key.name));
        if !used {
            let volume = text(&claim, "/spec/volumeName").to_owned();
            state.etcd.disks.remove(uid(&claim));
            state.store.edit(&key, |claim| {
                if let Some(map) = claim["metadata"].as_object_mut() {
                    map.remove("finalizers");
                }
            });
            state.store.vanish(&Key::new("persistentvolumes", "", &volume));
        }
    }
}

fn nodes(state: &mut State) {
    let now = date(state.store.now());
    for (key, node) in state.store.list("nodes", None) {
        let cut = state.etcd.cut.contains(&key.name);
        let since = match cut {
            true => *state.life.silent.entry(key.name.clone()).or_insert_with(clock::now),
            false => {
                state.life.silent.remove(&key.name);
                clock::now()
            }
        };
        let ready = node.pointer("/status/conditions/0/status").and_then(Value::as_str) == Some("True");
        let wanted = !cut || clock::since(since) < SILENT;
        if ready != wanted {
            let word = if wanted { "True" } else { "Unknown" };
            state.store.edit(&key, |node| {
                node["status"]["conditions"] =
                    json!([{"type": "Ready", "status": word, "lastTransitionTime": now, "reason": "Simulated", "message": ""}]);
            });
        }
    }
    for (key, pod) in state.store.list("pods", None) {
        let node = text(&pod, "/spec/nodeName");
        if !node.is_empty() && state.store.get(&Key::new("nodes", "", node)).is_none() {
            let since = *state.life.gone.entry(uid(&pod).to_owned()).or_insert_with(clock::now);
            if clock::since(since) >= ORPHANED {
                state.store.vanish(&key);
            }
        }
    }
}

fn schedule(state: &mut State) {
    let pods = state.store.list("pods", None);
    for (key, pod) in &pods {
        if !text(pod, "/spec/nodeName").is_empty() || pod["metadata"]["deletionTimestamp"].is_string() {
            continue;
        }
        let claim = claim_of(pod).map(|name| Key::new("persistentvolumeclaims", &key.namespace, name));
        let mut bound = None;
        if let Some(claim) = &claim {
            let Some(found) = state.store.get(claim) else {
                unschedulable(state, key, "persistentvolumeclaim not found");
                continue;
            };
            if found["metadata"]["deletionTimestamp"].is_string() {
                unschedulable(state, key, "persistentvolumeclaim is being deleted");
                continue;
            }
            let volume = text(&found, "/spec/volumeName");
            if !volume.is_empty() {
                let volume = state.store.get(&Key::new("persistentvolumes", "", volume));
                bound = volume.and_then(|volume| {
                    let path = "/spec/nodeAffinity/required/nodeSelectorTerms/0/matchExpressions/0/values/0";
                    volume.pointer(path)?.as_str().map(str::to_owned)
                });
            }
        }
        let load = |node: &str| {
            pods.iter()
                .filter(|(_, pod)| text(pod, "/spec/nodeName") == node)
                .count()
        };
        let mut nodes: Vec<String> = state
            .store
            .list("nodes", None)
            .into_iter()
            .filter(|(_, node)| node.pointer("/status/conditions/0/status").and_then(Value::as_str) == Some("True"))
            .map(|(key, _)| key.name)
            .filter(|node| bound.as_ref().is_none_or(|bound| bound == node))
            .collect();
        nodes.sort_by_key(|node| load(node));
        let Some(node) = nodes.into_iter().next() else {
            unschedulable(state, key, "0 nodes are available");
            continue;
        };
        if let Some(claim) = claim {
            bind(state, &claim, &node);
        }
        state.store.edit(key, |pod| pod["spec"]["nodeName"] = json!(node));
        // One pod a tick: what comes next sees where it went.
        return;
    }
}

fn unschedulable(state: &mut State, key: &Key, why: &str) {
    state.store.edit(key, |pod| {
        pod["status"]["conditions"] =
            json!([{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": why}]);
    });
}

fn bind(state: &mut State, key: &Key, node: &str) {
    let Some(claim) = state.store.get(key) else { return };
    if !text(&claim, "/spec/volumeName").is_empty() {
        return;
    }
    state.life.volumes += 1;
    let name = format!("pv-{}", state.life.volumes);
    let local = text(&claim, "/spec/storageClassName") == "local";
    let mut volume = json!({
        "metadata": {"name": name},
        "spec": {"capacity": claim["spec"]["resources"]["requests"], "claimRef": {"uid": uid(&claim)}},
    });
    if local {
        volume["spec"]["nodeAffinity"] = json!({"required": {"nodeSelectorTerms": [{"matchExpressions": [
            {"key": "kubernetes.io/hostname", "operator": "In", "values": [node]}]}]}});
    }
    if let Some(kind) = crate::api::kinds::of("persistentvolumes") {
        let _ = state.store.create(kind, "", volume, "kubernetes");
    }
    state.store.edit(key, |claim| {
        claim["spec"]["volumeName"] = json!(name);
        claim["status"]["phase"] = json!("Bound");
    });
}

fn kubelet(state: &mut State, key: &Key, pod: &Arc<Value>) {
    let node = text(pod, "/spec/nodeName").to_owned();
    if node.is_empty() || state.etcd.cut.contains(&node) || state.store.get(&Key::new("nodes", "", &node)).is_none() {
        return;
    }
    let id = uid(pod).to_owned();
    let life = &mut state.life;
    let kept = life.pods.entry(id.clone()).or_insert_with(|| {
        life.addresses += 1;
        Kept {
            // Images are pulled, volumes are attached.
            next: clock::now() + Duration::from_millis(400),
            restarts: 0,
            address: format!("10.0.{}.{}", life.addresses / 250, life.addresses % 250 + 1),
            refreshed: clock::now(),
            going: None,
        }
    });
    if pod["metadata"]["deletionTimestamp"].is_string() {
        let since = *kept.going.get_or_insert_with(clock::now);
        if clock::since(since) >= Duration::from_millis(600) {
            state.etcd.processes.remove(&id);
            state.store.vanish(key);
        }
        return;
    }
    let ended = matches!(text(pod, "/status/phase"), "Failed" | "Succeeded");
    if ended || kept.next > clock::now() {
        return;
    }
    let member = text(pod, "/metadata/labels/quorate.dev~1role") == "member";
    if !member {
        let said = work(state, key, pod);
        let Some(said) = said else { return };
        finish(state, key, said);
        return;
    }
    let kept = kept.clone();
    match state.etcd.processes.get(&id).cloned() {
        Some(process) => {
            let removed = state.etcd.data(&process).is_none_or(|data| data.removed);
            if removed && clock::since(process.since) > Duration::from_secs(1) {
                let why = match state.etcd.data(&process) {
                    Some(_) => "the member has been permanently removed from the cluster",
                    None => "its files are gone",
                };
                state.etcd.processes.remove(&id);
                ended_with(state, key, &id, why);
                return;
            }
            if clock::since(kept.refreshed) >= REFRESH {
                let tls = material(state, key, pod).flatten();
                if let Some(process) = state.etcd.processes.get_mut(&id) {
                    process.tls = tls;
                }
                if let Some(kept) = state.life.pods.get_mut(&id) {
                    kept.refreshed = clock::now();
                }
            }
            let ready = state
                .etcd
                .data(&process)
                .is_some_and(|data| state.etcd.healthy(data.cluster).contains(&data.member));
            running(state, key, &kept, &process, ready);
        }
        None => begin(state, key, pod, &id, &kept),
    }
}

/// TLS material of a pod; none when its Secret is not there, and an empty one when it needs none.
fn material(state: &State, key: &Key, pod: &Value) -> Option<Option<Material>> {
    let volumes = pod.pointer("/spec/volumes")?.as_array()?;
    let Some(secret) = volumes
        .iter()
        .find_map(|volume| volume.pointer("/secret/secretName")?.as_str())
    else {
        return Some(None);
    };
    let secret = state.store.get(&Key::new("secrets", &key.namespace, secret))?;
    let data = secret["data"].as_object()?;
    let decoded = data
        .iter()
        .filter_map(|(name, value)| Some((name.clone(), decode(value.as_str()?)?)))
        .collect();
    Some(Some(Material::read(&decoded)))
}

/// Base64.
pub fn decode(text: &str) -> Option<String> {
    let bytes: k8s_openapi::ByteString = serde_json::from_value(json!(text)).ok()?;
    String::from_utf8(bytes.0).ok()
}

fn begin(state: &mut State, key: &Key, pod: &Value, id: &str, kept: &Kept) {
    let Some(claim) = claim_of(pod).and_then(|name| {
        state
            .store
            .get(&Key::new("persistentvolumeclaims", &key.namespace, name))
    }) else {
        return;
    };
    let Some(tls) = material(state, key, pod) else {
        let why = json!({"waiting": {"reason": "ContainerCreating", "message": "MountVolume.SetUp failed: secret not found"}});
        state.store.edit(key, |pod| {
            pod["status"]["containerStatuses"] = json!([{"name": "etcd", "restartCount": 0, "state": why, "ready": false,
                "image": "", "imageID": ""}]);
        });
        return;
    };
    let disk = uid(&claim).to_owned();
    state.etcd.disks.entry(disk.clone()).or_default().owner =
        text(&claim, "/metadata/annotations/quorate.dev~1cluster-uid").to_owned();
    let busy = state
        .etcd
        .processes
        .iter()
        .any(|(other, process)| other != id && process.disk == disk);
    if busy {
        state
            .etcd
            .wrong
            .push(format!("two processes on the volume of {}", key.name));
    }
    let image = text(pod, "/spec/containers/0/image");
    let process = Process {
        name: key.name.clone(),
        disk,
        node: text(pod, "/spec/nodeName").to_owned(),
        address: kept.address.clone(),
        url: argument(pod, "--initial-advertise-peer-urls")
            .unwrap_or_default()
            .to_owned(),
        tls,
        since: clock::now(),
        version: state.life.images.get(image).cloned().unwrap_or_else(|| "3.7.3".into()),
    };
    let annotation = |name: &str| text(pod, &format!("/metadata/annotations/quorate.dev~1{name}")).to_owned();
    let token = argument(pod, "--initial-cluster-token").unwrap_or_default();
    let started = state.etcd.start(
        id,
        process.clone(),
        &annotation("initial-cluster"),
        &annotation("initial-cluster-state"),
        token,
    );
    match started {
        Ok(()) => running(state, key, kept, &process, false),
        Err(ended) => ended_with(state, key, id, &ended.0),
    }
}

fn running(state: &mut State, key: &Key, kept: &Kept, process: &Process, ready: bool) {
    let since = clock::since(process.since);
    let started = date(state.store.now() - since);
    let word = if ready { "True" } else { "False" };
    let (restarts, address) = (kept.restarts, kept.address.clone());
    state.store.edit(key, |pod| {
        let image = pod["spec"]["containers"][0]["image"].clone();
        let before = &pod["status"]["containerStatuses"][0];
        // Rounding makes no news.
        let started = match before["state"]["running"]["startedAt"].as_str() {
            Some(before) if pod["status"]["restarts"] == json!(restarts) => before.to_owned(),
            _ => started,
        };
        let last = before["lastState"].clone();
        let last = if last.is_null() { json!({}) } else { last };
        let last = match before["state"].get("terminated").or_else(|| before["state"].get("waiting")) {
            Some(_) if before["lastState"].is_object() => before["lastState"].clone(),
            _ => last,
        };
        let resources = pod["spec"]["containers"][0]["resources"].clone();
        pod["status"]["phase"] = json!("Running");
        pod["status"]["podIP"] = json!(address);
        pod["status"]["restarts"] = json!(restarts);
        pod["status"]["conditions"] = json!([{"type": "Ready", "status": word}, {"type": "PodScheduled", "status": "True"}]);
        pod["status"]["containerStatuses"] = json!([{"name": "etcd", "restartCount": restarts, "ready": ready, "image": image,
            "imageID": "", "state": {"running": {"startedAt": started}}, "lastState": last, "resources": resources}]);
    });
}

/// A member's container ended; it is started again after a pause.
pub fn ended_with(state: &mut State, key: &Key, id: &str, why: &str) {
    let now = date(state.store.now());
    let Some(kept) = state.life.pods.get_mut(id) else {
        return;
    };
    kept.restarts += 1;
    let doublings = u32::try_from(kept.restarts.clamp(1, 6) - 1).unwrap_or(0);
    kept.next = clock::now() + Duration::from_secs(2) * 2_u32.pow(doublings);
    let (restarts, address) = (kept.restarts, kept.address.clone());
    let why = json!({"level": "fatal", "msg": "etcd ended", "error": why}).to_string();
    state.store.edit(key, |pod| {
        let before = &pod["status"]["containerStatuses"][0]["state"]["running"]["startedAt"];
        let started = before.as_str().map_or_else(|| now.clone(), str::to_owned);
        pod["status"]["phase"] = json!("Running");
        pod["status"]["podIP"] = json!(address);
        pod["status"]["conditions"] = json!([{"type": "Ready", "status": "False"}]);
        pod["status"]["containerStatuses"] = json!([{"name": "etcd", "restartCount": restarts, "ready": false, "image": "",
            "imageID": "",
            "state": {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off restarting failed container"}},
            "lastState": {"terminated": {"exitCode": 1, "reason": "Error", "message": why, "startedAt": started,
                "finishedAt": now}}}]);
    });
}

fn finish(state: &mut State, key: &Key, said: Result<String, String>) {
    let now = date(state.store.now());
    state.store.edit(key, |pod| {
        let name = pod["spec"]["containers"][0]["name"].clone();
        let (phase, code, message) = match &said {
            Ok(text) => ("Succeeded", 0, text),
            Err(text) => ("Failed", 1, text),
        };
        pod["status"]["phase"] = json!(phase);
        pod["status"]["containerStatuses"] = json!([{"name": name, "restartCount": 0, "ready": false, "image": "", "imageID": "",
            "state": {"terminated": {"exitCode": code, "message": message, "startedAt": now, "finishedAt": now}}}]);
    });
}

/// What a pod that works on a volume, or takes a backup, comes to; none while it waits.
fn work(state: &mut State, key: &Key, pod: &Value) -> Option<Result<String, String>> {
    let arguments: Vec<&str> = pod
        .pointer("/spec/containers/0/args")?
        .as_array()?
        .iter()
        .filter_map(Value::as_str)
        .collect();
    if arguments.first() == Some(&"backup") {
        return Some(backup(state, pod, arguments.contains(&"--remove")));
    }
    let claim = state
        .store
        .get(&Key::new("persistentvolumeclaims", &key.namespace, claim_of(pod)?))?;
    let id = uid(&claim).to_owned();
    if state.etcd.processes.values().any(|process| process.disk == id) {
        state
            .etcd
            .wrong
            .push(format!("pod {} works on a volume that a member uses", key.name));
    }
    let etcd = &mut state.etcd;
    let disk = etcd.disks.entry(id).or_default();
    disk.owner = text(&claim, "/metadata/annotations/quorate.dev~1cluster-uid").to_owned();
    let empty = || Err("there is no data on the volume".to_owned());
    let done = match arguments.get(1).copied() {
        Some("inspect") => match &disk.data {
            Some(data) => {
                let (term, index) = data.end();
                Ok(json!({"term": term, "index": index, "commit": index, "revision": data.revision()}).to_string())
            }
            None => empty(),
        },
        Some("copy") => match disk.data.clone() {
            Some(data) => {
                disk.copy = Some(data);
                Ok("/var/lib/etcd/copies/1".to_owned())
            }
            None => empty(),
        },
        Some("recover") => {
            let mark = argument(pod, "--mark").unwrap_or_default();
            match disk.data.clone() {
                _ if disk.recovered == mark => Ok(mark.to_owned()),
                None => empty(),
                Some(data) => {
                    let made = alone(pod, &data);
                    disk.recovered = mark.to_owned();
                    disk.data = Some(made);
                    let owner = disk.owner.clone();
                    recovered(etcd, &owner, &data);
                    Ok(mark.to_owned())
                }
            }
        }
        Some("restore") if disk.data.is_some() => Ok("there already".to_owned()),
        Some("restore") => {
            let location: Value =
                serde_json::from_str(argument(pod, "--location").unwrap_or_default()).unwrap_or_default();
            let from = etcd
                .backups
                .iter()
                .find(|(key, _)| location.to_string().contains(key.as_str()));
            match from.map(|(_, data)| data.clone()) {
                Some(data) => {
                    disk.data = Some(alone(pod, &data));
                    disk.used = true;
                    Ok("restored".to_owned())
                }
                None => Err("no manifest of a verified backup lies there".to_owned()),
            }
        }
        other => Err(format!("{other:?} is no work")),
    };
    Some(done)
}

/// A survivor was made the only member: allowed when a majority's data is gone, or when somebody said so.
fn recovered(etcd: &mut Etcd, owner: &str, data: &etcd::Data) {
    let voters: Vec<u64> = data.rows.iter().filter(|row| !row.learner).map(|row| row.id).collect();
    let whole = voters
        .iter()
        .filter(|id| {
            let holds = |disk: &etcd::Disk| {
                let known = disk.copy.as_ref().or(disk.data.as_ref());
                known.is_some_and(|known| known.member == **id && known.cluster == data.cluster)
            };
            etcd.disks.values().any(holds)
        })
        .count();
    if whole > voters.len() / 2 && !etcd.forgiven.contains(owner) {
        etcd.wrong.push(format!(
            "a quorum was given up although {whole} of {} voters have their data and nobody agreed",
            voters.len()
        ));
    }
    etcd.forgiven.insert(owner.to_owned());
}

fn backup(state: &mut State, pod: &Value, remove: bool) -> Result<String, String> {
    let object: Value = serde_json::from_str(argument(pod, "--object").unwrap_or_default()).unwrap_or_default();
    let name = text(&object, "/metadata/name").to_owned();
    let key = format!("simulated/{name}");
    if remove {
        state.etcd.backups.remove(&key);
        return Ok(json!({"status": {}}).to_string());
    }
    let failed = |why: &str| {
        Err(json!({"status": {"phase": "Failed", "failures": 0, "message": why}, "mayPass": true}).to_string())
    };
    let id = argument(pod, "--cluster-id").and_then(|id| u64::from_str_radix(id, 16).ok());
    let endpoints = argument(pod, "--endpoints").unwrap_or_default();
    let process = state.etcd.processes.values().find(|process| {
        let answers = endpoints
            .split(',')
            .any(|url| url.contains(&format!("//{}.", process.name)));
        answers && !state.etcd.cut.contains(&process.node) && state.etcd.data(process).is_some()
    });
    let Some(data) = process.and_then(|process| state.etcd.data(process)).cloned() else {
        return failed("no endpoint answers");
    };
    if id.is_some_and(|id| id != data.cluster) {
        return failed("the cluster has another id");
    }
    state.etcd.backups.insert(key.clone(), data.clone());
    let now = date(state.store.now());
    Ok(json!({"status": {
        "phase": "Completed", "completedAt": now, "failures": 0,
        "artifact": {
            "uri": format!("s3://bucket/{key}"), "sizeBytes": 1, "checksum": "sha256:00", "revision": data.revision(),
            "raftTerm": 1, "clusterID": format!("{:x}", data.cluster), "etcdVersion": "3.7.3", "keys": 1,
            "compression": "none", "store": {"key": key.clone(), "bucket": "bucket"},
        },
        "verified": {"time": now, "hash": "00", "revision": data.revision(), "keys": 1},
    }})
    .to_string())
}
