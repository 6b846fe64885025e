//! Everything there is, behind one lock: API server, machinery, members, what goes wrong, what was checked.
//!
//! Invariant: the lock is never held across a wait, and nothing here looks at the machine's own clock or chance.

use crate::api::kinds::{self, Target};
use crate::api::service::{Asked, deletion};
use crate::api::store::{Change, Key, Refused, Store, refuse, selected, version};
use crate::checks::{Checks, no_write_without_the_lease};
use crate::control::{Call, Caller, Control, Fate, Fault};
use crate::etcd::Etcd;
use crate::life::Life;
use crate::random::Random;
use crate::road::Road;
use http::Method;
use quorate::clock::{self, Instant};
use quorate::member::calls::Reach;
use quorate::platform::surroundings::{Aside, Surroundings};
use serde_json::{Value, json};
use std::hash::{DefaultHasher, Hash};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::watch;

/// The day on which every story begins.
const DAY: Duration = Duration::from_secs(1_800_000_000);

/// All that changes.
#[derive(Debug)]
pub struct State {
    /// The API server's objects.
    pub store: Store,
    /// Members.
    pub etcd: Etcd,
    /// Machinery.
    pub life: Life,
    /// What goes wrong.
    pub control: Control,
    /// What is checked.
    pub checks: Checks,
    /// Chance.
    pub random: Random,
    /// What happened, for people.
    pub story: Vec<String>,
    /// Hash of all that happened.
    pub trace: DefaultHasher,
    /// Writes of operators so far, leases and events left out.
    pub writes: u64,
}

/// A handle on the world.
#[derive(Clone)]
pub struct World(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    changed: watch::Sender<u64>,
    origin: Instant,
}

impl std::fmt::Debug for World {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("World")
    }
}

/// Two numbers of the API server.
#[derive(Debug, Clone, Copy)]
pub struct Revisions {
    /// The newest.
    pub revision: u64,
    /// The oldest that watches may begin at.
    pub compacted: u64,
}

impl World {
    /// A cluster of five nodes and nothing else, on the clock of this thread.
    pub fn new(seed: u64, fault: Fault) -> World {
        let mut store = Store::new(UNIX_EPOCH + DAY);
        let ready = json!([{"type": "Ready", "status": "True", "lastTransitionTime": "2027-01-15T08:00:00Z"}]);
        for name in ["default", "quorate-system"] {
            if let Some(kind) = kinds::of("namespaces") {
                let _ = store.create(kind, "", json!({"metadata": {"name": name}}), "simulator");
            }
        }
        for number in 1..=6 {
            let name = format!("node-{number}");
            if let Some(kind) = kinds::of("nodes") {
                let labels = json!({"kubernetes.io/hostname": name});
                let _ = store.create(
                    kind,
                    "",
                    json!({"metadata": {"name": name, "labels": labels}}),
                    "simulator",
                );
            }
            store.edit(&Key::new("nodes", "", &name), |node| {
                node["status"] = json!({"conditions": ready})
            });
        }
        let state = State {
            store,
            etcd: Etcd::default(),
            life: Life::default(),
            control: Control::new(fault),
            checks: Checks::default(),
            random: Random::new(seed),
            story: Vec::new(),
            trace: DefaultHasher::new(),
            writes: 0,
        };
        World(Arc::new(Shared {
            state: Mutex::new(state),
            changed: watch::channel(0).0,
            origin: clock::now(),
        }))
    }

    /// The state, for as long as the guard lives.
    pub fn lock(&self) -> MutexGuard<'_, State> {
        let mut state = self.0.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.store.set_now(self.today());
        state
    }

    /// The date.
    pub fn today(&self) -> SystemTime {
        UNIX_EPOCH + DAY + clock::since(self.0.origin)
    }

    /// Since the beginning.
    pub fn age(&self) -> Duration {
        clock::since(self.0.origin)
    }

    /// Tells watches that there may be something new.
    pub fn announce(&self) {
        let revision = self.lock().store.revision;
        self.0.changed.send_if_modified(|last| {
            let news = *last != revision;
            *last = revision;
            news
        });
    }

    /// Reports new revisions.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.0.changed.subscribe()
    }

    /// Numbers of the API server.
    pub fn api(&self) -> Revisions {
        let state = self.lock();
        Revisions {
            revision: state.store.revision,
            compacted: state.store.compacted,
        }
    }

    /// Changes something, and tells watches.
    pub fn with<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let done = change(&mut self.lock());
        self.announce();
        done
    }

    /// A line of the story.
    pub fn tell(&self, text: &str) {
        let at = self.age();
        let mut state = self.lock();
        (at, text).hash(&mut state.trace);
        state.story.push(format!("{:>9.3} {text}", at.as_secs_f64()));
    }

    /// How long a request is under way.
    pub fn latency(&self) -> Duration {
        Duration::from_micros(500 + self.lock().random.below(2500))
    }

    /// What becomes of a call.
    pub fn fate(&self, call: &Call) -> Fate {
        let now = clock::now();
        let (fate, number) = {
            let mut state = self.lock();
            let revision = state.store.revision;
            let before = state.control.effects;
            let fate = state.control.fate(call, now, revision);
            if call.effect && fate != Fate::Never {
                no_write_without_the_lease(&mut state, call.caller, &call.what);
            }
            (fate, (state.control.effects > before).then_some(state.control.effects))
        };
        match (fate, number) {
            (Fate::Answer, None) => {}
            (Fate::Answer, Some(number)) => self.tell(&format!("operator {} #{number} {}", call.caller, call.what)),
            (Fate::Never, None) => {}
            (fate, number) => {
                let number = number.map_or(String::new(), |number| format!(" #{number}"));
                self.tell(&format!("operator {}{number} {}: {fate:?}", call.caller, call.what));
            }
        }
        fate
    }

    /// Whether this process was made to die.
    pub fn died(&self, caller: Caller) -> bool {
        self.lock().control.dead.contains(&caller)
    }

    /// Watches of this caller are shown nothing newer.
    pub fn seen_by_watches(&self, caller: Caller) -> u64 {
        let now = clock::now();
        let mut state = self.lock();
        if state.control.paused.get(&caller).is_some_and(|until| *until > now) || state.control.dead.contains(&caller) {
            return 0;
        }
        match state.control.stale {
            Some((revision, until)) if until > now => revision,
            Some(_) => {
                state.control.stale = None;
                u64::MAX
            }
            None => u64::MAX,
        }
    }

    /// How long a watch waits at most before it looks again.
    pub fn watch_pause(&self, caller: Caller) -> Duration {
        let state = self.lock();
        match state.control.stale.is_some() || state.control.paused.contains_key(&caller) {
            true => Duration::from_secs(2),
            false => Duration::from_secs(600),
        }
    }

    /// Changes of a kind after one revision and up to another.
    pub fn changes_after(&self, after: u64, upto: u64, target: &Target) -> Vec<Change> {
        let state = self.lock();
        let from = state.store.log.partition_point(|change| change.revision <= after);
        state.store.log[from..]
            .iter()
            .take_while(|change| change.revision <= upto)
            .filter(|change| {
                change.key.plural == target.kind.plural
                    && target
                        .namespace
                        .as_ref()
                        .is_none_or(|space| *space == change.key.namespace)
            })
            .cloned()
            .collect()
    }

    /// Whether an event of a watch is lost.
    pub fn drops_event(&self, caller: Caller, change: &Change) -> bool {
        let mut state = self.lock();
        let quiet = matches!(change.key.plural, "leases" | "events");
        if quiet || caller == 0 || state.control.over {
            return false;
        }
        state.control.events += 1;
        let drops = state.control.fault == Fault::Drop(state.control.events);
        if drops {
            state.control.struck = true;
        }
        let text = format!("the event {} of {} is lost", change.what, change.key);
        drop(state);
        if drops {
            self.tell(&text);
        }
        drops
    }

    /// Carries out a request.
    pub fn execute(&self, asked: &Asked) -> Result<Value, Refused> {
        let age = self.age();
        let result = {
            let mut state = self.lock();
            let before = state.store.revision;
            Checks::before(&mut state, asked);
            let result = execute(&mut state, asked);
            Checks::after(&mut state, asked, &result);
            if asked.method != Method::GET {
                let word = result.as_ref().map_or_else(|refused| refused.code, |_| 200);
                (age, asked.caller, asked.method.as_str(), word).hash(&mut state.trace);
                let quiet = matches!(asked.target.kind.plural, "leases" | "events");
                if asked.caller != 0 && !quiet && state.store.revision > before {
                    state.writes += 1;
                }
                if let Err(refused) = &result {
                    let text = format!("{:>9.3}   refused: {}", age.as_secs_f64(), refused.message);
                    state.story.push(text);
                }
            }
            result
        };
        self.announce();
        result
    }
}

fn execute(state: &mut State, asked: &Asked) -> Result<Value, Refused> {
    let (kind, sub) = (asked.target.kind, asked.target.subresource.as_deref());
    let namespace = asked.target.namespace.as_deref();
    let key = |name: &str| Key::new(kind.plural, namespace.unwrap_or_default(), name);
    let manager = asked.query.get("fieldManager").map_or("unknown", String::as_str);
    let plain = |value: Arc<Value>| value.as_ref().clone();
    let any = asked.query.get("resourceVersion").map(String::as_str) == Some("0");
    let shown = match state.control.stale {
        Some((revision, until)) if any && until > clock::now() => revision,
        _ => state.store.revision,
    };
    match (&asked.method, asked.target.name.as_deref()) {
        (&Method::GET, Some(name)) => {
            let key = key(name);
            let found = match shown == state.store.revision {
                true => state.store.get(&key),
                false => {
                    let old = state.store.list_at(kind.plural, namespace, shown);
                    old.into_iter().find(|(known, _)| *known == key).map(|(_, value)| value)
                }
            };
            let missing = || refuse(404, "NotFound", format!("{} \"{name}\" not found", kind.plural));
            found.map(plain).ok_or_else(missing)
        }
        (&Method::GET, None) => {
            let (revision, after) = match asked.query.get("continue").and_then(|token| token.split_once('/')) {
                Some((revision, after)) => (revision.parse().unwrap_or(shown), after.to_owned()),
                None => (shown, String::new()),
            };
            if revision < state.store.compacted {
                return Err(refuse(410, "Expired", "The provided continue parameter is too old"));
            }
            let selector = asked.query.get("labelSelector").map_or("", String::as_str);
            let limit = asked.query.get("limit").and_then(|text| text.parse().ok()).unwrap_or(usize::MAX);
            let place = |key: &Key| format!("{}:{}", key.namespace, key.name);
            let mut all: Vec<(Key, Arc<Value>)> = state.store.list_at(kind.plural, namespace, revision);
            all.retain(|(key, value)| selected(value, selector) && place(key) > after);
            let more = all.len() > limit;
            all.truncate(limit);
            let mut metadata = json!({"resourceVersion": revision.to_string()});
            if more && let Some((last, _)) = all.last() {
                metadata["continue"] = json!(format!("{revision}/{}", place(last)));
            }
            let items: Vec<Value> = all.into_iter().map(|(_, value)| plain(value)).collect();
            Ok(json!({
                "apiVersion": kind.api_version, "kind": format!("{}List", kind.kind), "metadata": metadata, "items": items,
            }))
        }
        (&Method::POST, _) => state
            .store
            .create(kind, namespace.unwrap_or_default(), asked.body.clone(), manager)
            .map(plain),
        (&Method::PUT, Some(name)) => state
            .store
            .replace(kind, &key(name), asked.body.clone(), manager, sub)
            .map(plain),
        (&Method::PATCH, Some(name)) if asked.content.contains("apply") => {
            let force = asked.query.get("force").map(String::as_str) == Some("true");
            state
                .store
                .apply(kind, &key(name), &asked.body, manager, force, sub)
                .map(plain)
        }
        (&Method::PATCH, Some(name)) if sub == Some("resize") => {
            let key = key(name);
            let resources = asked.body.pointer("/spec/containers/0/resources").cloned().unwrap_or_default();
            state.store.edit(&key, |pod| pod["spec"]["containers"][0]["resources"] = resources);
            let found = state.store.get(&key);
            found
                .map(plain)
                .ok_or_else(|| refuse(404, "NotFound", format!("pods \"{name}\" not found")))
        }
        (&Method::PATCH, Some(name)) => state
            .store
            .patch(kind, &key(name), &asked.body, manager, sub)
            .map(plain),
        (&Method::DELETE, Some(name)) => {
            let how = deletion(asked);
            state.store.delete(&key(name), &how).map(|(value, gone)| match gone {
                true => json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"}),
                false => plain(value),
            })
        }
        _ => Err(refuse(405, "MethodNotAllowed", "the server does not allow this method")),
    }
    .inspect(|value| {
        debug_assert!(asked.method == Method::GET || asked.method == Method::DELETE || !version(value).is_empty());
    })
}

/// What one process of an operator takes from the world.
#[derive(Debug, Clone)]
pub struct Around {
    /// The world.
    pub world: World,
    /// The process.
    pub caller: Caller,
}

impl Surroundings for Around {
    fn now(&self) -> SystemTime {
        self.world.today()
    }

    fn random(&self) -> u64 {
        self.world.lock().random.number()
    }

    fn reach(&self) -> Arc<dyn Reach> {
        Arc::new(Road {
            world: self.world.clone(),
            caller: self.caller,
        })
    }

    fn aside(&self) -> std::io::Result<Aside> {
        Ok(Aside::here())
    }
}
