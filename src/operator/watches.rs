//! Watches: what there is of a kind, and whom a change wakes.
//!
//! Invariants:
//! 1. A [`Cache`] is what the API server said last: never older than the last event, never ahead of it. Decisions that
//!    destroy something do not rest on it.
//! 2. A watch that is silent is not trusted: the server ends it after [`WATCH_SECONDS`], a connection on which not even
//!    that arrives is given up moments later, and everything is listed anew after [`RELIST`].
//! 3. Of owned objects nothing is kept: they wake the worker of whom they belong to, which looks for itself.

use super::metrics::Metrics;
use super::pulse::Pulses;
use crate::clock;
use crate::plan::resources::short_hash;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolumeClaim, Pod, Secret, Service};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::core::PartialObjectMeta;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;
use tokio::task::JoinSet;
use tokio_stream::StreamExt;

/// The server ends a watch after this long, and it is begun again where it ended.
const WATCH_SECONDS: u32 = 60;
/// After this long everything is listed anew, so that an event that was lost is made good.
const RELIST: Duration = Duration::from_secs(600);
/// All are not listed anew at one moment, but within this time.
const SPREAD: Duration = Duration::from_secs(60);
/// The longest wait before a watch that failed is tried again, and then some.
const TRIED: Duration = Duration::from_secs(180);
/// The pause before a watch that broke is begun again; it doubles up to the second.
const AFTER_FAILURE: (Duration, Duration) = (Duration::from_millis(800), Duration::from_secs(30));
/// What the operator made.
const OWNED: &str = "app.kubernetes.io/managed-by=quorate";

/// Namespace and name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
}

impl Key {
    /// The key of an object.
    pub fn of(object: &impl ResourceExt) -> Key {
        Key {
            namespace: object.namespace().unwrap_or_default(),
            name: object.name_any(),
        }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// All objects of one kind. Cheap to clone; clones share the content.
pub struct Cache<K>(Arc<RwLock<BTreeMap<Key, Arc<K>>>>);

impl<K> Clone for Cache<K> {
    fn clone(&self) -> Self {
        Cache(Arc::clone(&self.0))
    }
}

impl<K> Default for Cache<K> {
    fn default() -> Self {
        Cache(Arc::default())
    }
}

impl<K> fmt::Debug for Cache<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Cache").finish_non_exhaustive()
    }
}

impl<K> Cache<K> {
    /// One object.
    pub fn get(&self, key: &Key) -> Option<Arc<K>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).get(key).cloned()
    }

    /// All objects, by namespace and name.
    pub fn all(&self) -> Vec<Arc<K>> {
        let map = self.0.read().unwrap_or_else(PoisonError::into_inner);
        map.values().cloned().collect()
    }

    /// All objects of a namespace.
    pub fn of_namespace(&self, namespace: &str) -> Vec<Arc<K>> {
        let map = self.0.read().unwrap_or_else(PoisonError::into_inner);
        map.iter()
            .filter(|(key, _)| key.namespace == namespace)
            .map(|(_, object)| Arc::clone(object))
            .collect()
    }

    /// Puts an object in; returns the one that was there.
    pub fn put(&self, key: Key, object: Arc<K>) -> Option<Arc<K>> {
        self.0
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(key, object)
    }

    /// Takes an object out.
    pub fn remove(&self, key: &Key) -> Option<Arc<K>> {
        self.0.write().unwrap_or_else(PoisonError::into_inner).remove(key)
    }

    /// Takes out all objects of a namespace (of all, if none is given) that are not among `seen`.
    fn keep(&self, namespace: Option<&str>, seen: &BTreeSet<Key>) -> Vec<Arc<K>> {
        let mut map = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let gone: Vec<Key> = map
            .keys()
            .filter(|key| namespace.is_none_or(|namespace| key.namespace == namespace) && !seen.contains(*key))
            .cloned()
            .collect();
        gone.iter().filter_map(|key| map.remove(key)).collect()
    }
}

/// What a watch reports: the object before, where it was known, and now, where it still is.
pub struct Change<'a, K> {
    /// Before.
    pub before: Option<&'a K>,
    /// Now.
    pub now: Option<&'a K>,
}

/// The watches of one operator. Dropping it ends them.
pub struct Watches {
    client: Client,
    namespaces: Vec<String>,
    metrics: Arc<Metrics>,
    pulses: Pulses,
    missing: Arc<Mutex<BTreeSet<String>>>,
    tasks: JoinSet<()>,
}

impl Watches {
    /// Watches of these namespaces; of all, when none is named.
    pub fn new(client: Client, namespaces: &[String], metrics: Arc<Metrics>, pulses: Pulses) -> Watches {
        Watches {
            client,
            namespaces: namespaces.to_vec(),
            metrics,
            pulses,
            missing: Arc::default(),
            tasks: JoinSet::new(),
        }
    }

    /// Tells which first lists have not come yet.
    pub fn missing(&self) -> impl Fn() -> Option<String> + Send + Sync + use<> {
        let missing = Arc::clone(&self.missing);
        move || {
            let missing = missing.lock().unwrap_or_else(PoisonError::into_inner);
            let names: Vec<&str> = missing.iter().map(String::as_str).collect();
            (!names.is_empty()).then(|| format!("not listed yet: {}", names.join(", ")))
        }
    }

    /// Returns when every kind was listed once.
    pub async fn ready(&self) {
        let missing = self.missing();
        while missing().is_some() {
            clock::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Keeps a kind in a cache and reports every change.
    pub fn keep<K>(&mut self, cache: &Cache<K>, changed: impl Fn(Change<'_, K>) + Clone + Send + 'static)
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>,
        K: Clone + DeserializeOwned + fmt::Debug + Send + Sync + 'static,
    {
        for (scope, api, name) in self.apis::<K>() {
            let follower = Follower {
                kind: K::kind(&()).into_owned(),
                name,
                scope,
                cache: Some(cache.clone()),
                changed: changed.clone(),
                metrics: Arc::clone(&self.metrics),
                pulses: self.pulses.clone(),
                missing: Arc::clone(&self.missing),
            };
            self.tasks.spawn(follower.follow(api, watcher::Config::default()));
        }
    }

    /// Reports labels of everything that the operator made and that changed.
    pub fn owned(&mut self, changed: impl Fn(&str, &BTreeMap<String, String>) + Clone + Send + 'static) {
        self.touch::<Pod>(changed.clone());
        self.touch::<PersistentVolumeClaim>(changed.clone());
        self.touch::<Secret>(changed.clone());
        self.touch::<ConfigMap>(changed.clone());
        self.touch::<Service>(changed.clone());
        self.touch::<PodDisruptionBudget>(changed.clone());
        self.touch::<NetworkPolicy>(changed);
    }

    fn touch<K>(&mut self, changed: impl Fn(&str, &BTreeMap<String, String>) + Clone + Send + 'static)
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>,
        K: Clone + DeserializeOwned + fmt::Debug + Send + Sync + 'static,
    {
        for (scope, api, name) in self.apis::<PartialObjectMeta<K>>() {
            let changed = changed.clone();
            let follower = Follower {
                kind: K::kind(&()).into_owned(),
                name,
                scope,
                cache: None,
                changed: move |change: Change<'_, PartialObjectMeta<K>>| {
                    if let Some(object) = change.now.or(change.before) {
                        changed(object.namespace().unwrap_or_default().as_str(), object.labels());
                    }
                },
                metrics: Arc::clone(&self.metrics),
                pulses: self.pulses.clone(),
                missing: Arc::clone(&self.missing),
            };
            self.tasks
                .spawn(follower.follow(api, watcher::Config::default().labels(OWNED)));
        }
    }

    /// One API per namespace, or one for all; the scope, and a name that is now missing until it was listed.
    fn apis<K>(&self) -> Vec<(Option<String>, Api<K>, String)>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>,
    {
        let kind = K::kind(&());
        let apis = match self.namespaces.as_slice() {
            [] => vec![(None, Api::all(self.client.clone()), kind.to_string())],
            namespaces => namespaces
                .iter()
                .map(|namespace| {
                    let api = Api::namespaced(self.client.clone(), namespace);
                    (Some(namespace.clone()), api, format!("{kind} of {namespace}"))
                })
                .collect(),
        };
        let mut missing = self.missing.lock().unwrap_or_else(PoisonError::into_inner);
        missing.extend(apis.iter().map(|(_, _, name)| name.clone()));
        apis
    }
}

/// One watch.
struct Follower<K, F> {
    kind: String,
    name: String,
    scope: Option<String>,
    cache: Option<Cache<K>>,
    changed: F,
    metrics: Arc<Metrics>,
    pulses: Pulses,
    missing: Arc<Mutex<BTreeSet<String>>>,
}

impl<K, F> Follower<K, F>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + fmt::Debug + Send + Sync + 'static,
    F: Fn(Change<'_, K>) + Send + 'static,
{
    async fn follow(self, api: Api<K>, config: watcher::Config) {
        let config = config.timeout(WATCH_SECONDS).page_size(100);
        let mut trouble = String::new();
        let mut pause = AFTER_FAILURE.0;
        let what = format!("the watch of {}", self.name);
        // Whatever happens, everything is listed anew after a while, and a list is read or fails.
        let pulse = self.pulses.begin(what, RELIST + SPREAD + TRIED);
        loop {
            let mut events = pin!(watcher(api.clone(), config.clone()));
            let mut seen = BTreeSet::new();
            // Not all kinds at one moment.
            let spread = u64::from_str_radix(&short_hash(&self.name), 16).unwrap_or_default();
            let spread = Duration::from_millis(spread % 60_000).min(SPREAD);
            let mut again = pin!(clock::sleep(RELIST + spread));
            loop {
                let event = tokio::select! {
                    biased;
                    () = &mut again => break,
                    event = events.next() => event,
                };
                pulse.beat();
                match event {
                    Some(Ok(event)) => {
                        trouble.clear();
                        pause = AFTER_FAILURE.0;
                        self.take(event, &mut seen);
                    }
                    Some(Err(error)) => {
                        self.metrics.watch_failed(&self.kind);
                        let text = error.to_string();
                        // Once, and not at every try: an API server that is away is away for all kinds.
                        if text == trouble {
                            tracing::debug!(kind = self.kind, %error, "the watch broke again");
                        } else {
                            tracing::warn!(kind = self.kind, %error, "the watch broke; it is begun again");
                            trouble = text;
                        }
                        clock::sleep(pause).await;
                        pause = (pause * 2).min(AFTER_FAILURE.1);
                    }
                    None => break,
                }
            }
        }
    }

    fn take(&self, event: Event<K>, seen: &mut BTreeSet<Key>) {
        match event {
            Event::Init => seen.clear(),
            Event::InitApply(object) => {
                seen.insert(Key::of(&object));
                self.put(object);
            }
            Event::InitDone => {
                self.metrics.relisted(&self.kind);
                let gone = self.cache.as_ref().map(|cache| cache.keep(self.scope.as_deref(), seen));
                for object in gone.into_iter().flatten() {
                    self.report(Some(&object), None);
                }
                seen.clear();
                self.missing
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .remove(&self.name);
            }
            Event::Apply(object) => self.put(object),
            Event::Delete(object) => {
                if let Some(cache) = &self.cache {
                    cache.remove(&Key::of(&object));
                }
                self.report(Some(&object), None);
            }
        }
    }

    fn put(&self, mut object: K) {
        object.meta_mut().managed_fields = None;
        let object = Arc::new(object);
        let before = self
            .cache
            .as_ref()
            .and_then(|cache| cache.put(Key::of(object.as_ref()), Arc::clone(&object)));
        // A relist brings mostly what is known.
        let known = before.as_ref().is_some_and(|before| {
            before.resource_version() == object.resource_version() && before.uid() == object.uid()
        });
        if !known {
            self.report(before.as_deref(), Some(&object));
        }
    }

    fn report(&self, before: Option<&K>, now: Option<&K>) {
        (self.changed)(Change { before, now });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(namespace: &str, name: &str) -> Key {
        Key {
            namespace: namespace.into(),
            name: name.into(),
        }
    }

    #[test]
    fn a_list_of_one_namespace_takes_nothing_out_of_another() {
        let cache = Cache::default();
        for (namespace, name) in [("a", "x"), ("a", "y"), ("b", "x")] {
            cache.put(key(namespace, name), Arc::new(format!("{namespace}/{name}")));
        }
        let gone = cache.keep(Some("a"), &BTreeSet::from([key("a", "y")]));
        assert_eq!(gone, [Arc::new("a/x".to_owned())]);
        assert_eq!(cache.of_namespace("b").len(), 1);
        assert_eq!(cache.keep(None, &BTreeSet::new()).len(), 2);
        assert!(cache.all().is_empty());
    }
}
