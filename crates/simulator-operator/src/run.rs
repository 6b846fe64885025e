//! One story: a script of what users and fate do, the operator beside it, one fault, and the verdict.
//!
//! Invariant: a script, a seed and a fault make one story, to the last hash.

use crate::api::kinds;
use crate::api::service::Service;
use crate::api::store::{Key, uid};
use crate::checks;
use crate::control::{Caller, Fault};
use crate::life;
use crate::script::Script;
use crate::world::{Around, World};
use kube::Client;
use quorate::clock::{self, Manual};
use quorate::operator::guard::Guard;
use quorate::operator::{Options, run_on};
use serde_json::{Value, json};
use std::hash::Hasher as _;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tower::Layer as _;

/// What came of a story.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// What happened, for people.
    pub story: Vec<String>,
    /// Hash of all that happened.
    pub hash: u64,
    /// Invariants that were broken, with their numbers; 0 is a script that could not go on.
    pub broken: Vec<(u8, String)>,
    /// Side effects of the operator, in words.
    pub effects: Vec<String>,
    /// Calls of the operator.
    pub calls: u64,
    /// Events of watches.
    pub events: u64,
    /// The fault has happened.
    pub struck: bool,
    /// Simulated time.
    pub took: Duration,
}

/// How thorough the end of a story is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// A hundred resyncs without a write.
    Long,
    /// A few.
    Short,
}

/// Tells a story.
pub fn run(script: &Script, seed: u64, fault: Fault, end: End) -> Outcome {
    let (clock, _installed) = Manual::install();
    let world = World::new(seed, fault);
    let runtime = tokio::runtime::Builder::new_current_thread()
        // What can run runs before the clock is moved.
        .event_interval(u32::MAX)
        // For the one timer that kube's watcher has: it gives up a watch that is silent for minutes of the machine's time.
        .enable_time()
        .build();
    let told = match runtime {
        Ok(runtime) => {
            let told =
                std::panic::catch_unwind(AssertUnwindSafe(|| runtime.block_on(tell(script, &world, &clock, end))));
            runtime.shutdown_background();
            told.unwrap_or_else(|_| Err("it panicked".to_owned()))
        }
        Err(error) => Err(format!("no runtime: {error}")),
    };
    let took = world.age();
    let state = world.lock();
    let mut broken = state.checks.broken.clone();
    let count = usize::try_from(state.control.effects).unwrap_or(0);
    if let Err(why) = told {
        let invariant = if why.starts_with("not as wanted") {
            10
        } else if why.contains("written") {
            11
        } else {
            0
        };
        broken.push((invariant, why));
    }
    Outcome {
        story: state.story.clone(),
        hash: state.trace.finish(),
        broken,
        effects: state.control.names.get(..count).unwrap_or_default().to_vec(),
        calls: state.control.calls,
        events: state.control.events,
        struck: state.control.struck,
        took,
    }
}

async fn tell(script: &Script, world: &World, clock: &Manual, end: End) -> Result<(), String> {
    let crew = Arc::new(Crew::new(world.clone()));
    crew.hire();
    if matches!(world.lock().control.fault, Fault::Pause(_)) {
        crew.hire();
    }
    let machinery = tokio::spawn(machinery(world.clone(), Arc::clone(&crew)));
    let story = tokio::spawn(follow(script.clone(), world.clone(), Arc::clone(&crew), end));
    // The clock: moved whenever nobody has anything to do.
    let result = loop {
        for _ in 0..3 {
            tokio::task::yield_now().await;
        }
        if story.is_finished() {
            break story.await.unwrap_or_else(|_| Err("it panicked".to_owned()));
        }
        if machinery.is_finished() || !clock.advance() {
            break Err("nothing moves any more".to_owned());
        }
    };
    machinery.abort();
    result
}

/// Everything but operators and users, ten times a second.
async fn machinery(world: World, crew: Arc<Crew>) {
    loop {
        clock::sleep(Duration::from_millis(200)).await;
        world.with(|state| {
            life::tick(state);
            checks::at_every_moment(state);
        });
        crew.look();
    }
}

/// The operator's processes.
pub struct Crew {
    world: World,
    members: std::sync::Mutex<Vec<Hired>>,
    next: std::sync::atomic::AtomicU32,
    image: std::sync::Mutex<String>,
}

struct Hired {
    caller: Caller,
    task: tokio::task::JoinHandle<()>,
    stop: watch::Sender<bool>,
}

impl Crew {
    fn new(world: World) -> Crew {
        Crew {
            world,
            members: std::sync::Mutex::default(),
            next: std::sync::atomic::AtomicU32::new(1),
            image: std::sync::Mutex::new("quorate-server:1".to_owned()),
        }
    }

    fn members(&self) -> std::sync::MutexGuard<'_, Vec<Hired>> {
        self.members.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn image(&self) -> std::sync::MutexGuard<'_, String> {
        self.image.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Starts a process.
    pub fn hire(&self) {
        let caller = self.next.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        let (stop, stopped) = watch::channel(false);
        let world = self.world.clone();
        let image = self.image().clone();
        world.tell(&format!("operator {caller} starts"));
        let task = tokio::spawn(async move {
            let around = Arc::new(Around {
                world: world.clone(),
                caller,
            });
            let service = world.clone();
            let connect = move |guard: Guard| {
                let service = Service {
                    world: service.clone(),
                    caller,
                };
                Ok(Client::new(guard.layer(service), "quorate-system"))
            };
            let ended = run_on(
                options(caller, &image),
                around,
                connect,
                "quorate-system".to_owned(),
                stopped,
            )
            .await;
            if let Err(error) = ended {
                world.tell(&format!("operator {caller} ends: {error}"));
            }
        });
        self.members().push(Hired { caller, task, stop });
    }

    /// Replaces those that died, as a Deployment does.
    fn look(&self) {
        let mut again = 0;
        self.members().retain(|hired| {
            let died = self.world.died(hired.caller);
            if died {
                hired.task.abort();
            }
            let gone = died || hired.task.is_finished();
            again += usize::from(gone);
            !gone
        });
        for _ in 0..again {
            self.hire();
        }
    }

    /// All processes end in good order, and others begin; with another image of members, if one is given.
    pub fn replace(&self, image: Option<&str>) {
        if let Some(image) = image {
            image.clone_into(&mut self.image());
        }
        for hired in self.members().iter() {
            let _ = hired.stop.send(true);
        }
    }
}

fn options(caller: Caller, image: &str) -> Options {
    Options {
        namespace: Vec::new(),
        image: "quorate:1".to_owned(),
        server_image: image.to_owned(),
        etcd_repository: "registry.k8s.io/etcd".to_owned(),
        cluster_domain: "cluster.local".to_owned(),
        resync_seconds: 15,
        metrics_address: String::new(),
        leader_elect: true,
        lease_name: "quorate".to_owned(),
        operator_namespace: Some("quorate-system".to_owned()),
        identity: Some(format!("op{caller}")),
    }
}

async fn follow(script: Script, world: World, crew: Arc<Crew>, end: End) -> Result<(), String> {
    for line in &script.lines {
        world.tell(&format!("> {line}"));
        crate::script::carry_out(line, &world, &crew).await?;
        if let Some((invariant, why)) = world.lock().checks.broken.first() {
            return Err(format!("invariant {invariant} is broken, see above: {why}"));
        }
    }
    // What the fault holds up is over; then all must be as wanted, and stay so without a write.
    settle(&world, Duration::from_secs(1200)).await?;
    // A status and a record follow what clients write, the record every five minutes; without them there is nothing to follow.
    {
        let mut state = world.lock();
        state.life.quiet = true;
        state.control.over = true;
    }
    let (rest, resyncs) = if end == End::Long { (400, 100) } else { (70, 4) };
    clock::sleep(Duration::from_secs(rest)).await;
    let (before, revision) = {
        let state = world.lock();
        (state.writes, state.store.revision)
    };
    crew.replace(None);
    clock::sleep(Duration::from_secs(20 + 15 * resyncs)).await;
    let state = world.lock();
    if state.writes > before {
        let changes = state.store.log.iter().filter(|change| change.revision > revision);
        let changes = changes.filter(|change| !matches!(change.key.plural, "leases" | "events"));
        let told: Vec<String> = changes
            .map(|change| {
                let mut fields = Vec::new();
                let nothing = Value::Null;
                let before = change.before.as_deref().unwrap_or(&nothing);
                differences(before, &change.object, "", &mut fields);
                format!("{} {}: {}", change.what, change.key, fields.join(", "))
            })
            .collect();
        return Err(format!("written although nothing changed: {}", told.join("; ")));
    }
    Ok(())
}

/// Where two values differ.
fn differences(before: &Value, now: &Value, path: &str, into: &mut Vec<String>) {
    if before == now || path.ends_with("/resourceVersion") {
        return;
    }
    match (before, now) {
        (Value::Object(a), Value::Object(b)) => {
            let names: std::collections::BTreeSet<&String> = a.keys().chain(b.keys()).collect();
            for name in names {
                differences(&before[name], &now[name], &format!("{path}/{name}"), into);
            }
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            for (at, (a, b)) in a.iter().zip(b).enumerate() {
                differences(a, b, &format!("{path}/{at}"), into);
            }
        }
        _ => into.push(format!("{path} {before} -> {now}").chars().take(300).collect()),
    }
}

/// Waits until every EtcdCluster is as wanted and every EtcdBackup has ended; what is otherwise when it takes too long.
pub async fn settle(world: &World, patience: Duration) -> Result<(), String> {
    let end = clock::now() + patience;
    let mut good = 0;
    loop {
        let why = otherwise(world);
        match why {
            None => good += 1,
            Some(_) => good = 0,
        }
        if good >= 6 {
            return Ok(());
        }
        if clock::now() > end {
            return Err(format!("not as wanted after {patience:?}: {}", why.unwrap_or_default()));
        }
        clock::sleep(Duration::from_secs(1)).await;
    }
}

/// What is not as wanted.
pub fn otherwise(world: &World) -> Option<String> {
    let state = world.lock();
    if state.control.paused.values().any(|until| *until > clock::now())
        || state.control.stale.is_some_and(|(_, until)| until > clock::now())
    {
        return Some("the fault is not over".to_owned());
    }
    for (key, namespace) in state.store.list("namespaces", None) {
        if namespace["metadata"]["deletionTimestamp"].is_string() {
            return Some(format!("namespace {} is still there", key.name));
        }
    }
    for (key, cluster) in state.store.list("etcdclusters", None) {
        if cluster["metadata"]["deletionTimestamp"].is_string() {
            return Some(format!("{key} is still there"));
        }
        let generation = cluster["metadata"]["generation"].as_i64();
        let status = &cluster["status"];
        if status["observedGeneration"].as_i64() != generation {
            return Some(format!("{key}: generation {generation:?} was not seen"));
        }
        if cluster["spec"]["paused"] == json!(true) {
            continue;
        }
        let wanted = cluster["spec"]["replicas"].as_u64().unwrap_or(3);
        let wanted = usize::try_from(wanted).unwrap_or(0);
        let Some(data) = state.etcd.of_owner(uid(&cluster)) else {
            return Some(format!("{key}: there is no member; {}", status["plan"]));
        };
        let healthy = state.etcd.healthy(data.cluster);
        let voters = data
            .rows
            .iter()
            .filter(|row| !row.learner && healthy.contains(&row.id))
            .count();
        if voters != wanted || data.rows.len() != wanted {
            return Some(format!(
                "{key}: {voters} healthy voters of {} members, {wanted} wanted; {}",
                data.rows.len(),
                status["plan"]
            ));
        }
        let pods = state.store.list("pods", Some(&key.namespace));
        let own: Vec<&(Key, Arc<Value>)> = pods
            .iter()
            .filter(|(_, pod)| pod["metadata"]["ownerReferences"][0]["uid"] == cluster["metadata"]["uid"])
            .collect();
        if own.len() != wanted {
            return Some(format!(
                "{key}: {} pods, {wanted} wanted; {}",
                own.len(),
                status["plan"]
            ));
        }
        let claims = state.store.list("persistentvolumeclaims", Some(&key.namespace));
        let in_use = claims.iter().filter(|(_, claim)| {
            claim["metadata"]["annotations"]["quorate.dev/cluster-uid"] == cluster["metadata"]["uid"]
                && claim["metadata"]["labels"]["quorate.dev/retired"].is_null()
        });
        let count = in_use.count();
        if count != wanted {
            return Some(format!(
                "{key}: {count} volumes in use, {wanted} wanted; {}",
                status["plan"]
            ));
        }
        let action = status["plan"]["nextAction"].as_str().unwrap_or_default();
        if status["plan"]["blockedBy"].is_string() {
            return Some(format!("{key}: says that it is blocked: {}", status["plan"]));
        }
        if status["phase"] != json!("Running")
            && status["phase"] != json!("Ready")
            && status["phase"] != json!("Healthy")
        {
            return Some(format!("{key}: phase {}, next {action:?}", status["phase"]));
        }
    }
    for (key, backup) in state.store.list("etcdbackups", None) {
        if backup["metadata"]["deletionTimestamp"].is_string() {
            return Some(format!("{key} is still there"));
        }
        if backup["spec"]["schedule"].is_null() && backup["status"]["phase"] != json!("Completed") {
            return Some(format!("{key}: {}", backup["status"]));
        }
    }
    None
}

/// Makes an object as a user does.
pub fn create(world: &World, plural: &str, namespace: &str, value: Value) -> Result<(), String> {
    let kind = kinds::of(plural).ok_or_else(|| format!("{plural} is no kind"))?;
    let made = world.with(|state| state.store.create(kind, namespace, value, "user"));
    made.map(drop).map_err(|refused| refused.message)
}
