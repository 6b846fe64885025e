//! Scripts: what users and fate do, a line each, for people to read and for [`super::run`] to carry out.
//!
//! ```text
//! # a comment        seed 7        fault crash after 12
//! create NAME {spec}          an EtcdCluster           edit NAME {spec}     a merge patch of its spec
//! delete NAME                                          acknowledge NAME     agrees to the published recovery
//! backup NAME CLUSTER         an EtcdBackup            object PLURAL {..}   an object of somebody else
//! settle [SECONDS]            until all is as wanted   remove PLURAL NAME
//! wait SECONDS                                         until NAME TEXT ..   until the status holds the text
//! kill N..     processes die                           evict N..            pods are deleted
//! wipe N..     volumes lose what is on them            unclaim N..          claims and pods are deleted
//! cut N..      nodes fall silent                       heal                 they are back
//! gone N..     nodes are gone for good                 alarm N KIND         bloat N MIB: much free space in a database
//! namespace delete|create                              operator restart     upgrade IMAGE VERSION
//! ```
//! Members are counted from 1, by name; `all`, `minority`, `majority` and `leader` name several, or one.

use crate::api::kinds;
use crate::api::store::Key;
use crate::etcd::Process;
use crate::life;
use crate::run::{Crew, create, settle};
use crate::world::World;
use quorate::clock;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;

/// The namespace of all clusters.
pub const SPACE: &str = "shop";

/// A script.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Script {
    /// Its name.
    pub name: String,
    /// The seed that it is told with, unless another is asked for.
    pub seed: u64,
    /// The fault that it is told with, in words.
    pub fault: String,
    /// What happens.
    pub lines: Vec<String>,
}

impl Script {
    /// Reads a script.
    pub fn read(name: &str, text: &str) -> Script {
        let mut script = Script {
            name: name.to_owned(),
            seed: 1,
            fault: "none".to_owned(),
            lines: Vec::new(),
        };
        for line in text
            .lines()
            .map(str::trim)
            .filter(|line| !line.is_empty() && !line.starts_with('#'))
        {
            match line.split_once(' ') {
                Some(("seed", number)) => script.seed = number.parse().unwrap_or(1),
                Some(("fault", words)) => script.fault = words.to_owned(),
                _ => script.lines.push(line.to_owned()),
            }
        }
        script
    }

    /// As text.
    pub fn text(&self) -> String {
        format!("seed {}\nfault {}\n{}\n", self.seed, self.fault, self.lines.join("\n"))
    }
}

fn seconds(text: Option<&str>, default: u64) -> Duration {
    Duration::from_secs(text.and_then(|text| text.parse().ok()).unwrap_or(default))
}

/// The pods of members that are named, in the order of their names.
fn named(world: &World, words: &[&str]) -> Vec<(Key, Arc<Value>)> {
    let state = world.lock();
    let mut pods = state.store.list("pods", Some(SPACE));
    pods.retain(|(_, pod)| pod["metadata"]["labels"]["quorate.dev/role"] == "member");
    let count = pods.len();
    let leads = |pod: &Value| {
        let process = state.etcd.processes.get(crate::api::store::uid(pod));
        process
            .and_then(|process| state.etcd.data(process))
            .is_some_and(|data| {
                state
                    .etcd
                    .leaders
                    .get(&data.cluster)
                    .is_some_and(|(member, _)| *member == data.member)
            })
    };
    let wanted = |at: usize, pod: &Value| {
        words.iter().any(|word| match *word {
            "all" => true,
            "minority" => at < (count.max(1) - 1) / 2,
            "majority" => at < count / 2 + 1,
            "leader" => leads(pod),
            number => number.parse() == Ok(at + 1),
        })
    };
    pods.iter()
        .enumerate()
        .filter(|(at, (_, pod))| wanted(*at, pod))
        .map(|(_, pod)| pod.clone())
        .collect()
}

fn process_of(world: &World, pod: &Value) -> Option<Process> {
    world.lock().etcd.processes.get(crate::api::store::uid(pod)).cloned()
}

/// Does what a line says.
pub async fn carry_out(line: &str, world: &World, crew: &Crew) -> Result<(), String> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let rest = |count: usize| line.splitn(count + 1, ' ').nth(count).unwrap_or("{}").to_owned();
    let parse = |text: String| serde_json::from_str::<Value>(&text).map_err(|error| format!("{line}: {error}"));
    match words.as_slice() {
        ["create", name, ..] => {
            let spec = parse(rest(2))?;
            let first = world.lock().store.get(&Key::new("namespaces", "", SPACE)).is_none();
            if first {
                create(world, "namespaces", "", json!({"metadata": {"name": SPACE}}))?;
            }
            create(
                world,
                "etcdclusters",
                SPACE,
                json!({"metadata": {"name": name}, "spec": spec}),
            )?;
        }
        ["edit", name, ..] => {
            let patch = json!({"spec": parse(rest(2))?});
            edit(world, name, &patch)?;
        }
        ["delete", name] => {
            let key = Key::new("etcdclusters", SPACE, name);
            let done = world.with(|state| state.store.delete(&key, &Default::default()));
            done.map_err(|refused| refused.message)?;
        }
        ["acknowledge", name] => {
            let key = Key::new("etcdclusters", SPACE, name);
            let found = world.lock().store.get(&key).ok_or("there is no such cluster")?;
            let hash = found["status"]["recovery"]["hash"]
                .as_str()
                .ok_or("there is nothing to agree to")?;
            let uid = crate::api::store::uid(&found).to_owned();
            world.lock().etcd.forgiven.insert(uid);
            edit(world, name, &json!({"spec": {"recovery": {"acknowledge": hash}}}))?;
        }
        ["backup", name, cluster] => {
            let spec = json!({"clusterRef": {"name": cluster}, "destination": {"s3": {"bucket": "bucket"}}});
            create(
                world,
                "etcdbackups",
                SPACE,
                json!({"metadata": {"name": name}, "spec": spec}),
            )?;
        }
        ["object", plural, ..] => create(world, plural, SPACE, parse(rest(2))?)?,
        ["remove", plural, name] => {
            let kind = kinds::of(plural).ok_or("no such kind")?;
            let key = Key::new(kind.plural, SPACE, name);
            let done = world.with(|state| state.store.delete(&key, &Default::default()));
            done.map_err(|refused| refused.message)?;
        }
        ["settle", rest @ ..] => {
            // What was just asked for is seen first.
            clock::sleep(Duration::from_secs(2)).await;
            settle(world, seconds(rest.first().copied(), 1200)).await?;
        }
        ["wait", rest @ ..] => clock::sleep(seconds(rest.first().copied(), 1)).await,
        ["until", name, text @ ..] => {
            let text = text.join(" ");
            let end = clock::now() + Duration::from_secs(1200);
            loop {
                let key = Key::new("etcdclusters", SPACE, name);
                let found = world.lock().store.get(&key).map(|value| value["status"].to_string());
                if found.as_ref().is_some_and(|status| status.contains(&text)) {
                    break;
                }
                if clock::now() > end {
                    return Err(format!("{line}: {}", found.unwrap_or_default()));
                }
                clock::sleep(Duration::from_secs(1)).await;
            }
        }
        ["kill", which @ ..] => {
            for (key, pod) in named(world, which) {
                world.with(|state| {
                    let id = crate::api::store::uid(&pod).to_owned();
                    if state.etcd.processes.remove(&id).is_some() {
                        life::ended_with(state, &key, &id, "killed");
                    }
                });
            }
        }
        ["evict", which @ ..] => {
            for (key, _) in named(world, which) {
                world.with(|state| drop(state.store.delete(&key, &Default::default())));
            }
        }
        ["wipe", which @ ..] => {
            for (key, pod) in named(world, which) {
                world.with(|state| {
                    let id = crate::api::store::uid(&pod).to_owned();
                    if let Some(process) = state.etcd.processes.remove(&id) {
                        if let Some(disk) = state.etcd.disks.get_mut(&process.disk) {
                            (disk.data, disk.copy) = (None, None);
                        }
                        life::ended_with(state, &key, &id, "its files are gone");
                    }
                });
            }
        }
        ["unclaim", which @ ..] => {
            for (key, pod) in named(world, which) {
                world.with(|state| {
                    if let Some(claim) = life::claim_of(&pod) {
                        let claim = Key::new("persistentvolumeclaims", SPACE, claim);
                        drop(state.store.delete(&claim, &Default::default()));
                    }
                    drop(state.store.delete(&key, &Default::default()));
                });
            }
        }
        ["cut", which @ ..] => {
            for (_, pod) in named(world, which) {
                if let Some(process) = process_of(world, &pod) {
                    world.with(|state| state.etcd.cut.insert(process.node));
                }
            }
        }
        ["heal"] => world.with(|state| state.etcd.cut.clear()),
        ["gone", which @ ..] => {
            for (_, pod) in named(world, which) {
                let node = pod["spec"]["nodeName"].as_str().unwrap_or_default().to_owned();
                world.with(|state| {
                    let lost: Vec<String> = state
                        .etcd
                        .processes
                        .iter()
                        .filter(|(_, process)| process.node == node)
                        .map(|(pod, _)| pod.clone())
                        .collect();
                    for pod in lost {
                        if let Some(process) = state.etcd.processes.remove(&pod)
                            && let Some(disk) = state.etcd.disks.get_mut(&process.disk)
                        {
                            (disk.data, disk.copy) = (None, None);
                        }
                    }
                    state.store.vanish(&Key::new("nodes", "", &node));
                });
            }
        }
        ["alarm", which, kind] => {
            let kind = if *kind == "corrupt" { "corrupt" } else { "nospace" };
            for (_, pod) in named(world, &[which]) {
                let Some(process) = process_of(world, &pod) else {
                    continue;
                };
                world.with(|state| {
                    let Some(data) = state.etcd.data(&process).cloned() else {
                        return;
                    };
                    for other in state.etcd.disks.values_mut().filter_map(|disk| disk.data.as_mut()) {
                        if other.cluster == data.cluster {
                            other.alarms.insert((data.member, kind));
                        }
                    }
                });
            }
        }
        ["bloat", which, mib] => {
            let bytes = mib.parse::<u64>().unwrap_or(1024) << 20;
            for (_, pod) in named(world, &[which]) {
                let Some(process) = process_of(world, &pod) else {
                    continue;
                };
                world.with(|state| {
                    if let Some(data) = state
                        .etcd
                        .disks
                        .get_mut(&process.disk)
                        .and_then(|disk| disk.data.as_mut())
                    {
                        data.database = (bytes, bytes / 10, bytes / 20);
                    }
                });
            }
        }
        ["namespace", "delete"] => {
            let key = Key::new("namespaces", "", SPACE);
            world.with(|state| drop(state.store.delete(&key, &Default::default())));
        }
        ["namespace", "create"] => {
            let end = clock::now() + Duration::from_secs(600);
            while world.lock().store.get(&Key::new("namespaces", "", SPACE)).is_some() {
                if clock::now() > end {
                    return Err("the namespace does not go".to_owned());
                }
                clock::sleep(Duration::from_secs(1)).await;
            }
            create(world, "namespaces", "", json!({"metadata": {"name": SPACE}}))?;
        }
        ["operator", "restart"] => crew.replace(None),
        ["upgrade", image, version] => {
            world
                .lock()
                .life
                .images
                .insert((*image).to_owned(), (*version).to_owned());
            crew.replace(Some(image));
        }
        _ => return Err(format!("{line:?} is no line of a script")),
    }
    Ok(())
}

fn edit(world: &World, name: &str, patch: &Value) -> Result<(), String> {
    let kind = kinds::of("etcdclusters").ok_or("no such kind")?;
    let key = Key::new("etcdclusters", SPACE, name);
    let done = world.with(|state| state.store.patch(kind, &key, patch, "user", None));
    done.map(drop).map_err(|refused| refused.message)
}
