//! What is asked of the API servers, and what happens to members meanwhile.

use super::ask::{Asked, Requests, Servers as Apis, is};
use super::watch::{Told, Verb, follow, version};
use crate::kube::lab::Lab;
use crate::servers::Servers;
use anyhow::{Context, bail};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::core::{NamespaceResourceScope, Resource};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::task::{JoinHandle, JoinSet};

/// Objects that are worked on at the same time.
const WORKERS: usize = 16;
/// Objects of one page.
const PAGE: u32 = 500;
/// The object whose creation is the last event that a watch waits for.
const LAST: &str = "zz-last";
/// How long the stalled member stands still: longer than an election, shorter than a client's patience with a connection.
const STALL: Duration = Duration::from_secs(8);

/// Between two faults: a request that the first one cost seven seconds, etcd's patience, is asked again before the second.
const PEACE: Duration = Duration::from_secs(15);

/// How much is done.
#[derive(Debug, Clone, Copy)]
pub struct Amount {
    /// ConfigMaps created.
    pub config_maps: usize,
    /// Leases created.
    pub leases: usize,
    /// Pods are rolled meanwhile.
    pub restart_pods: bool,
}

/// An acknowledged change.
#[derive(Debug, Clone)]
pub struct Acked {
    /// What was done.
    pub verb: Verb,
    /// To which object.
    pub name: String,
    /// The resourceVersion of the answer; none where it has none, as after a deletion.
    pub version: Option<u64>,
}

/// A list by pages: the revision of all its pages, and every object's.
pub type List = (u64, BTreeMap<String, u64>);

/// Everything about one kind.
#[derive(Debug)]
pub struct Kind {
    /// Its name.
    pub name: &'static str,
    /// What the two watches told.
    pub told: [Told; 2],
    /// Every acknowledged change.
    pub acked: Vec<Acked>,
    /// Lists taken meanwhile and at the end.
    pub lists: Vec<List>,
    /// Lists that had to be begun again, as what they continued had been compacted.
    pub expired: usize,
}

/// What was done.
pub struct Done {
    /// ConfigMaps.
    pub config_maps: Kind,
    /// Leases.
    pub leases: Kind,
    /// In words.
    pub faults: String,
    requests: Arc<Requests>,
    time: Duration,
}

impl Done {
    /// Whether every request was answered at the second try at last.
    pub fn requests(&self) -> anyhow::Result<String> {
        let reasons = self.requests.reasons.lock().expect("no one panics");
        let mut kinds: BTreeMap<&str, (usize, &str)> = BTreeMap::new();
        for reason in reasons.iter() {
            let words = reason.split_once(": ").map_or(reason.as_str(), |(_, words)| words);
            kinds.entry(words).or_insert((0, reason)).0 += 1;
        }
        for (times, first) in kinds.values().take(8) {
            println!("        asked again {times} times; the first: {first}");
        }
        let failed = self.requests.failed.lock().expect("no one panics");
        if !failed.is_empty() {
            let shown: Vec<&str> = failed.iter().take(5).map(String::as_str).collect();
            bail!("{} failed twice: {}", failed.len(), shown.join("; "));
        }
        Ok(format!(
            "{} requests, {} asked again, slowest {:.1} s",
            self.requests.made.load(Ordering::Relaxed),
            self.requests.retried.load(Ordering::Relaxed),
            self.requests.slowest().as_secs_f64()
        ))
    }

    /// How many in which time.
    pub fn speed(&self) -> String {
        let made = self.requests.made.load(Ordering::Relaxed);
        let seconds = self.time.as_secs_f64();
        format!("{made} in {seconds:.0} s, {:.0} per second", made as f64 / seconds)
    }
}

/// One kind at both API servers.
trait Object:
    Resource<Scope = NamespaceResourceScope> + Clone + DeserializeOwned + Serialize + Debug + Send + Sync + 'static
{
    fn api(apis: &Apis, n: usize) -> Api<Self>;
    fn named(name: &str) -> Self;
}

impl Object for ConfigMap {
    fn api(apis: &Apis, n: usize) -> Api<Self> {
        apis.config_maps(n)
    }

    fn named(name: &str) -> Self {
        let mut object = ConfigMap::default();
        object.metadata.name = Some(name.to_owned());
        object.data = Some(BTreeMap::from([("text".to_owned(), super::plain::VISIBLE.repeat(8))]));
        object
    }
}

impl Object for Lease {
    fn api(apis: &Apis, n: usize) -> Api<Self> {
        apis.leases(n)
    }

    fn named(name: &str) -> Self {
        let mut object = Lease::default();
        object.metadata.name = Some(name.to_owned());
        object
    }
}

/// A kind that is worked on.
struct Busy {
    watches: [JoinHandle<anyhow::Result<Told>>; 2],
    pagers: [JoinHandle<(Vec<List>, usize)>; 2],
    writer: JoinHandle<Vec<Acked>>,
}

/// What the tasks of a run share.
#[derive(Clone)]
struct Shared {
    apis: Apis,
    requests: Arc<Requests>,
    /// Objects created so far, of all kinds.
    created: Arc<AtomicUsize>,
    /// The faults are over.
    calm: Arc<AtomicBool>,
    /// All writers are done.
    over: Arc<AtomicBool>,
}

/// One whole list by pages; none when it failed, an error when its continuation was compacted.
async fn list<K: Object>(shared: &Shared, n: usize) -> Result<Option<List>, ()> {
    let api = K::api(&shared.apis, n);
    let mut params = ListParams::default().limit(PAGE);
    let mut all = BTreeMap::new();
    let mut at = None;
    loop {
        let expired = AtomicBool::new(false);
        let ask = || async {
            let page = api.list(&params).await;
            // 410 to a continuation is an answer: the list is begun again.
            if let Err(error) = &page
                && is(error, 410)
            {
                expired.store(true, Ordering::Relaxed);
                return Ok(None);
            }
            page.map(Some)
        };
        let page = match shared.requests.once_more("list", |_| false, ask).await {
            Asked::Answered(Some(page)) => page,
            Asked::Answered(None) => return Err(()),
            Asked::Before | Asked::Failed => return Ok(None),
        };
        let Ok(version) = version(page.metadata.resource_version.as_deref()) else {
            return Ok(None);
        };
        if *at.get_or_insert(version) != version {
            let text = format!("a list by pages went from revision {at:?} to {version}");
            shared.requests.failed.lock().expect("no one panics").push(text);
            return Ok(None);
        }
        for object in &page.items {
            let meta = object.meta();
            let name = meta.name.clone().unwrap_or_default();
            let known = all.insert(
                name.clone(),
                self::version(meta.resource_version.as_deref()).unwrap_or(0),
            );
            if known.is_some() {
                let text = format!("{name} is twice in one list");
                shared.requests.failed.lock().expect("no one panics").push(text);
            }
        }
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => params = ListParams::default().limit(PAGE).continue_token(&token),
            None => return Ok(Some((version, all))),
        }
    }
}

async fn page<K: Object>(shared: Shared, n: usize) -> (Vec<List>, usize) {
    let (mut lists, mut expired) = (Vec::new(), 0);
    loop {
        let over = shared.over.load(Ordering::Relaxed);
        match list::<K>(&shared, n).await {
            Ok(list) => lists.extend(list),
            Err(()) => expired += 1,
        }
        if over {
            return (lists, expired);
        }
        tokio::time::sleep(Duration::from_millis(700)).await;
    }
}

/// Creates, changes and deletes; when all are created and the faults are not over, it goes on to change.
async fn write<K: Object>(shared: Shared, count: usize) -> Vec<Acked> {
    let next = Arc::new(AtomicUsize::new(0));
    let mut workers = JoinSet::new();
    for _ in 0..WORKERS {
        let (shared, next) = (shared.clone(), Arc::clone(&next));
        workers.spawn(async move {
            let mut acked = Vec::new();
            loop {
                let n = next.fetch_add(1, Ordering::Relaxed);
                if n < count {
                    one_life::<K>(&shared, n, &mut acked).await;
                } else if shared.calm.load(Ordering::Relaxed) || count == 0 {
                    return acked;
                } else {
                    change::<K>(&shared, n, &format!("o-{:05}", n % count), &mut acked).await;
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        });
    }
    workers.join_all().await.into_iter().flatten().collect()
}

/// Every object is created; one in five is changed, one in ten deleted and, every other of them, made again.
async fn one_life<K: Object>(shared: &Shared, n: usize, acked: &mut Vec<Acked>) {
    let name = format!("o-{n:05}");
    create::<K>(shared, n, &name, acked).await;
    shared.created.fetch_add(1, Ordering::Relaxed);
    if n.is_multiple_of(5) {
        change::<K>(shared, n + 1, &name, acked).await;
    }
    if n % 10 == 3 {
        let api = K::api(&shared.apis, n + 1);
        let ask = || async { api.delete(&name, &DeleteParams::default()).await.map(drop) };
        let gone = |error: &kube::Error| is(error, 404);
        if !matches!(shared.requests.once_more("delete", gone, ask).await, Asked::Failed) {
            acked.push(Acked {
                verb: Verb::Deleted,
                name: name.clone(),
                version: None,
            });
        }
        if n % 20 == 3 {
            create::<K>(shared, n, &name, acked).await;
        }
    }
}

async fn create<K: Object>(shared: &Shared, n: usize, name: &str, acked: &mut Vec<Acked>) {
    let (api, object) = (K::api(&shared.apis, n), K::named(name));
    let there = |error: &kube::Error| is(error, 409);
    let ask = || async { api.create(&PostParams::default(), &object).await };
    let version = match shared.requests.once_more("create", there, ask).await {
        Asked::Answered(object) => version(object.meta().resource_version.as_deref()).ok(),
        Asked::Before => None,
        Asked::Failed => return,
    };
    acked.push(Acked {
        verb: Verb::Added,
        name: name.to_owned(),
        version,
    });
}

async fn change<K: Object>(shared: &Shared, n: usize, name: &str, acked: &mut Vec<Acked>) {
    let api = K::api(&shared.apis, n);
    let patch = serde_json::json!({"metadata": {"annotations": {"e2e": n.to_string()}}});
    // Of those that were deleted there is none to change.
    let ask = || async {
        match api.patch(name, &PatchParams::default(), &Patch::Merge(&patch)).await {
            Err(error) if is(&error, 404) => Ok(None),
            other => other.map(Some),
        }
    };
    if let Asked::Answered(Some(object)) = shared.requests.once_more("patch", |_| false, ask).await {
        acked.push(Acked {
            verb: Verb::Modified,
            name: name.to_owned(),
            version: version(object.meta().resource_version.as_deref()).ok(),
        });
    }
}

async fn begin<K: Object>(shared: &Shared, count: usize) -> anyhow::Result<Busy> {
    let list = K::api(&shared.apis, 0).list(&ListParams::default()).await?;
    let from = version(list.metadata.resource_version.as_deref())?;
    let watch = |n| tokio::spawn(follow(K::api(&shared.apis, n), from, LAST));
    let page = |n| tokio::spawn(page::<K>(shared.clone(), n));
    Ok(Busy {
        watches: [watch(0), watch(1)],
        pagers: [page(0), page(1)],
        writer: tokio::spawn(write::<K>(shared.clone(), count)),
    })
}

async fn finish<K: Object>(
    shared: &Shared,
    name: &'static str,
    busy: Busy,
    mut acked: Vec<Acked>,
) -> anyhow::Result<Kind> {
    create::<K>(shared, 0, LAST, &mut acked).await;
    let [one, two] = busy.watches;
    let both = async { anyhow::Ok([one.await??, two.await??]) };
    let told = tokio::time::timeout(Duration::from_secs(60), both);
    let told = told
        .await
        .with_context(|| format!("not all events about {name} came within a minute"))?;
    let told = told.with_context(|| format!("a watch of {name}"))?;
    let (mut lists, mut expired) = (Vec::new(), 0);
    for pager in busy.pagers {
        let (more, again) = pager.await?;
        lists.extend(more);
        expired += again;
    }
    Ok(Kind {
        name,
        told,
        acked,
        lists,
        expired,
    })
}

/// Does all of it.
pub async fn run(apis: &Apis, members: &mut Servers, lab: &Lab, amount: Amount) -> anyhow::Result<Done> {
    let began = Instant::now();
    let shared = Shared {
        apis: apis.clone(),
        requests: Arc::default(),
        created: Arc::default(),
        calm: Arc::default(),
        over: Arc::default(),
    };
    let config_maps = begin::<ConfigMap>(&shared, amount.config_maps).await?;
    let leases = begin::<Lease>(&shared, amount.leases).await?;
    let faults = break_members(members, lab, &shared, amount).await;
    shared.calm.store(true, Ordering::Relaxed);
    let Busy { writer, .. } = &config_maps;
    while !writer.is_finished() || !leases.writer.is_finished() {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let (config_maps, first) = take_acked(config_maps).await?;
    let (leases, second) = take_acked(leases).await?;
    shared.over.store(true, Ordering::Relaxed);
    let time = began.elapsed();
    let faults = faults?;
    Ok(Done {
        config_maps: finish::<ConfigMap>(&shared, "ConfigMaps", config_maps, first).await?,
        leases: finish::<Lease>(&shared, "Leases", leases, second).await?,
        faults,
        requests: shared.requests,
        time,
    })
}

async fn take_acked(mut busy: Busy) -> anyhow::Result<(Busy, Vec<Acked>)> {
    let acked = (&mut busy.writer).await?;
    Ok((busy, acked))
}

/// Kills the leader at a third of the work, and stalls the next leader at two thirds.
async fn break_members(members: &mut Servers, lab: &Lab, shared: &Shared, amount: Amount) -> anyhow::Result<String> {
    let all = amount.config_maps + amount.leases;
    let until = async |part: usize| {
        while shared.created.load(Ordering::Relaxed) < part {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let limit = Duration::from_secs(60);
    until(all / 3).await;
    if amount.restart_pods {
        lab.kubectl(&["-n", "default", "rollout", "restart", "deployment/web"])
            .await?;
    }
    let first = leader(members, limit).await?;
    let killed = shared.requests.elapsed();
    members.end(first, Signal::SIGKILL).await?;
    tokio::time::sleep(Duration::from_secs(5)).await;
    members.start(first)?;
    leader(members, limit).await?;
    tokio::time::sleep(PEACE).await;
    until(all / 3 * 2).await;
    let second = leader(members, limit).await?;
    let pid = members.pid(second).context("the leader does not run")?;
    let stopped = shared.requests.elapsed();
    kill(Pid::from_raw(pid), Signal::SIGSTOP)?;
    tokio::time::sleep(STALL).await;
    kill(Pid::from_raw(pid), Signal::SIGCONT)?;
    leader(members, limit).await?;
    Ok(format!(
        "leader m{first} killed for 5 s at {killed:.1} s, leader m{second} stopped for {} s at {stopped:.1} s",
        STALL.as_secs()
    ))
}

/// The leader's place in the list, once all agree on it.
async fn leader(members: &Servers, limit: Duration) -> anyhow::Result<usize> {
    let count = members.members.len();
    let view = members.access().settled(count, limit).await;
    let view = view.with_context(|| members.last_words())?;
    let place = members
        .members
        .iter()
        .position(|member| member.endpoint == view.endpoint);
    place.context("the leader is none of ours")
}

const WORKLOADS: &str = r#"
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 9
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: web
        image: localhost/busybox:1
        command: [sh, -c, "mkdir /www && hostname > /www/index.html && exec httpd -f -p 8080 -h /www"]
        readinessProbe: {httpGet: {path: /, port: 8080}, periodSeconds: 2}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  clusterIP: @SERVICES@.0.80
  selector: {app: web}
  ports: [{port: 80, targetPort: 8080}]
---
apiVersion: batch/v1
kind: Job
metadata: {name: once}
spec:
  completions: 6
  parallelism: 3
  template:
    spec:
      restartPolicy: Never
      containers:
      - {name: once, image: "localhost/busybox:1", command: ["true"]}
"#;

fn services() -> String {
    std::env::var("SERVICES").unwrap_or_else(|_| "10.97".to_owned())
}

/// Starts workloads, and waits until they work.
pub async fn roll_out(lab: &Lab) -> anyhow::Result<String> {
    let began = Instant::now();
    lab.apply("default", &WORKLOADS.replace("@SERVICES@", &services()))
        .await?;
    rolled_out(lab).await?;
    let job = [
        "wait",
        "-n",
        "default",
        "--for=condition=Complete",
        "job/once",
        "--timeout=120s",
    ];
    lab.tool("kubectl", &job, Duration::from_secs(130)).await?.ok()?;
    Ok(format!(
        "9 pods and 6 runs after {:.0} s",
        began.elapsed().as_secs_f64()
    ))
}

/// Waits until the Deployment is as wanted, and asks its Service from a node.
pub async fn rolled_out(lab: &Lab) -> anyhow::Result<String> {
    let status = ["-n", "default", "rollout", "status", "deployment/web", "--timeout=180s"];
    lab.tool("kubectl", &status, Duration::from_secs(190)).await?.ok()?;
    // A static busybox on the host may crash in wget; bash speaks TCP by itself.
    let get = format!(
        r#"exec 3<>/dev/tcp/{}.0.80/80; printf 'GET / HTTP/1.0\r\n\r\n' >&3; tail -n 1 <&3"#,
        services()
    );
    let mut who = std::collections::BTreeSet::new();
    for _ in 0..12 {
        let ask = ["in", "1", "timeout", "5", "bash", "-c", &get];
        who.insert(lab.script(&ask, Duration::from_secs(10)).await?.trim().to_owned());
    }
    Ok(format!("{} pods answered in the name of the Service", who.len()))
}
