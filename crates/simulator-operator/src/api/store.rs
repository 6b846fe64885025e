//! Objects, their history, and the rules by which they change.
//!
//! Invariants:
//! 1. Every change has a revision of its own; what was there at any revision can be told.
//! 2. A write that names a resource version or a uid changes nothing else.
//! 3. An object with finalizers, and a pod that runs, is marked first and goes later.

use super::kinds::{Kind, of};
use super::managed::{self, Managers};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

/// Where an object is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// Plural of its kind.
    pub plural: &'static str,
    /// Namespace; empty where there is none.
    pub namespace: String,
    /// Name.
    pub name: String,
}

impl Key {
    /// A key.
    pub fn new(plural: &'static str, namespace: &str, name: &str) -> Key {
        Key {
            plural,
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        }
    }
}

impl std::fmt::Display for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}/{}", self.plural, self.namespace, self.name)
    }
}

/// A refusal, as the API server words it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// HTTP status.
    pub code: u16,
    /// One word.
    pub reason: &'static str,
    /// A sentence.
    pub message: String,
}

/// A refusal.
pub fn refuse(code: u16, reason: &'static str, message: impl Into<String>) -> Refused {
    Refused {
        code,
        reason,
        message: message.into(),
    }
}

/// One change.
#[derive(Debug, Clone)]
pub struct Change {
    /// Its revision.
    pub revision: u64,
    /// Of what.
    pub key: Key,
    /// `ADDED`, `MODIFIED`, `DELETED`.
    pub what: &'static str,
    /// Afterwards; at a deletion, last.
    pub object: Arc<Value>,
    /// Before.
    pub before: Option<Arc<Value>>,
}

/// What a delete is told.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Deletion {
    /// The uid that it must have.
    pub uid: Option<String>,
    /// The resource version that it must have.
    pub resource_version: Option<String>,
    /// Seconds.
    pub grace: Option<i64>,
}

/// All objects.
#[derive(Debug)]
pub struct Store {
    now: SystemTime,
    uids: u64,
    /// Of the newest change.
    pub revision: u64,
    /// Watches cannot begin before this one.
    pub compacted: u64,
    objects: BTreeMap<Key, (Arc<Value>, Managers)>,
    /// All changes.
    pub log: Vec<Change>,
}

/// Counts one more change of what is wanted.
fn raise_generation(object: &mut Value) {
    let generation = object["metadata"]["generation"].as_i64().unwrap_or(0);
    object["metadata"]["generation"] = json!(generation + 1);
}

/// An empty list of finalizers is stored as none.
fn leave_out_empty_finalizers(object: &mut Value) {
    if let Some(map) = object["metadata"].as_object_mut()
        && map
            .get("finalizers")
            .is_some_and(|list| list.as_array().is_some_and(Vec::is_empty))
    {
        map.remove("finalizers");
    }
}

fn text<'a>(value: &'a Value, path: &str) -> &'a str {
    value.pointer(path).and_then(Value::as_str).unwrap_or_default()
}

/// The resource version of an object.
pub fn version(value: &Value) -> &str {
    text(value, "/metadata/resourceVersion")
}

/// The uid of an object.
pub fn uid(value: &Value) -> &str {
    text(value, "/metadata/uid")
}

/// Whether the labels of an object meet a selector of `a=b`, `a`, `!a` and `a!=b`.
pub fn selected(value: &Value, selector: &str) -> bool {
    let label = |key: &str| value["metadata"]["labels"][key].as_str();
    selector.split(',').filter(|part| !part.is_empty()).all(|part| {
        if let Some((key, wanted)) = part.split_once("!=") {
            label(key) != Some(wanted)
        } else if let Some((key, wanted)) = part.split_once('=') {
            label(key) == Some(wanted.trim_start_matches('='))
        } else if let Some(key) = part.strip_prefix('!') {
            label(key).is_none()
        } else {
            label(part).is_some()
        }
    })
}

/// RFC 3339, in seconds.
pub fn date(time: SystemTime) -> String {
    let time = jiff::Timestamp::try_from(time).unwrap_or_default();
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

impl Store {
    /// Nothing at all.
    pub fn new(now: SystemTime) -> Store {
        Store {
            now,
            uids: 0,
            revision: 100,
            compacted: 0,
            objects: BTreeMap::new(),
            log: Vec::new(),
        }
    }

    /// Time goes on.
    pub fn set_now(&mut self, now: SystemTime) {
        self.now = now;
    }

    /// The time of day.
    pub fn now(&self) -> SystemTime {
        self.now
    }

    /// One object.
    pub fn get(&self, key: &Key) -> Option<Arc<Value>> {
        self.objects.get(key).map(|(value, _)| Arc::clone(value))
    }

    /// All objects of a kind, in one namespace or in all.
    pub fn list(&self, plural: &'static str, namespace: Option<&str>) -> Vec<(Key, Arc<Value>)> {
        let from = Key::new(plural, namespace.unwrap_or_default(), "");
        self.objects
            .range(from..)
            .take_while(|(key, _)| key.plural == plural && namespace.is_none_or(|wanted| key.namespace == wanted))
            .map(|(key, (value, _))| (key.clone(), Arc::clone(value)))
            .collect()
    }

    /// The same as it was at a revision.
    pub fn list_at(&self, plural: &'static str, namespace: Option<&str>, revision: u64) -> Vec<(Key, Arc<Value>)> {
        let mut all: BTreeMap<Key, Arc<Value>> = self.list(plural, namespace).into_iter().collect();
        for change in self.log.iter().rev().take_while(|change| change.revision > revision) {
            if change.key.plural != plural || namespace.is_some_and(|wanted| change.key.namespace != wanted) {
                continue;
            }
            match &change.before {
                Some(before) => all.insert(change.key.clone(), Arc::clone(before)),
                None => all.remove(&change.key),
            };
        }
        all.into_iter().collect()
    }

    fn missing(key: &Key) -> Refused {
        refuse(404, "NotFound", format!("{} \"{}\" not found", key.plural, key.name))
    }

    fn conflict(key: &Key, why: &str) -> Refused {
        refuse(
            409,
            "Conflict",
            format!(
                "Operation cannot be fulfilled on {} \"{}\": {why}",
                key.plural, key.name
            ),
        )
    }

    fn commit(&mut self, key: &Key, what: &'static str, mut value: Value, managers: Managers) -> Arc<Value> {
        self.revision += 1;
        value["metadata"]["resourceVersion"] = json!(self.revision.to_string());
        let object = Arc::new(value);
        let before = match what {
            "DELETED" => self.objects.remove(key),
            _ => self.objects.insert(key.clone(), (Arc::clone(&object), managers)),
        };
        self.log.push(Change {
            revision: self.revision,
            key: key.clone(),
            what,
            object: Arc::clone(&object),
            before: before.map(|(before, _)| before),
        });
        object
    }

    /// Makes an object. Its status, where it is written apart, is not taken.
    pub fn create(
        &mut self,
        kind: &'static Kind,
        namespace: &str,
        value: Value,
        manager: &str,
    ) -> Result<Arc<Value>, Refused> {
        let owned = managed::fields(&value, false);
        let managers = BTreeMap::from([(format!("{manager}/update"), owned)]);
        self.create_as(kind, namespace, value, managers)
    }

    fn create_as(
        &mut self,
        kind: &'static Kind,
        namespace: &str,
        mut value: Value,
        managers: Managers,
    ) -> Result<Arc<Value>, Refused> {
        let name = text(&value, "/metadata/name").to_owned();
        if name.is_empty() {
            return Err(refuse(
                422,
                "Invalid",
                "metadata.name: Required value: name or generateName is required",
            ));
        }
        let key = Key::new(kind.plural, namespace, &name);
        if kind.namespaced {
            let space = self.get(&Key::new("namespaces", "", namespace));
            match space {
                None => return Err(refuse(404, "NotFound", format!("namespaces \"{namespace}\" not found"))),
                Some(space) if space["metadata"]["deletionTimestamp"].is_string() && kind.plural != "events" => {
                    let why = format!(
                        "{} \"{name}\" is forbidden: unable to create new content in namespace {namespace} because it is \
                         being terminated",
                        kind.plural
                    );
                    return Err(refuse(403, "Forbidden", why));
                }
                Some(_) => {}
            }
        }
        if !version(&value).is_empty() {
            return Err(refuse(
                400,
                "BadRequest",
                "resourceVersion should not be set on objects to be created",
            ));
        }
        if self.objects.contains_key(&key) {
            let why = format!("{} \"{name}\" already exists", kind.plural);
            return Err(refuse(409, "AlreadyExists", why));
        }
        self.uids += 1;
        value["apiVersion"] = json!(kind.api_version);
        value["kind"] = json!(kind.kind);
        let metadata = &mut value["metadata"];
        metadata["uid"] = json!(format!("00000000-0000-4000-8000-{:012x}", self.uids));
        metadata["creationTimestamp"] = json!(date(self.now));
        metadata["generation"] = json!(1);
        leave_out_empty_finalizers(&mut value);
        let metadata = &mut value["metadata"];
        if kind.namespaced {
            metadata["namespace"] = json!(namespace);
        }
        if kind.status
            && let Some(map) = value.as_object_mut()
        {
            map.remove("status");
        }
        match kind.plural {
            "pods" => value["status"] = json!({"phase": "Pending"}),
            "persistentvolumeclaims" => {
                value["status"] = json!({"phase": "Pending"});
                value["metadata"]["finalizers"] = json!(["kubernetes.io/pvc-protection"]);
            }
            "namespaces" => value["status"] = json!({"phase": "Active"}),
            _ => {}
        }
        Ok(self.commit(&key, "ADDED", value, managers))
    }

    /// Stores `now` instead of what is there. What nobody may change stays; what says nothing new is no change.
    fn store(
        &mut self,
        kind: &'static Kind,
        key: &Key,
        before: &Value,
        mut now: Value,
        managers: Managers,
        subresource: Option<&str>,
    ) -> Result<Arc<Value>, Refused> {
        let told = uid(&now);
        if !told.is_empty() && told != uid(before) {
            let why = format!(
                "{} \"{}\" is invalid: metadata.uid: Invalid value: \"{told}\": field is immutable",
                kind.kind, key.name
            );
            return Err(refuse(422, "Invalid", why));
        }
        let told = version(&now);
        if !told.is_empty() && told != version(before) {
            return Err(Store::conflict(
                key,
                "the object has been modified; please apply your changes to the latest version and try again",
            ));
        }
        match subresource {
            Some("status") => {
                let status = now.get("status").cloned();
                now = before.clone();
                if let Some(map) = now.as_object_mut() {
                    match status {
                        Some(status) => map.insert("status".into(), status),
                        None => map.remove("status"),
                    };
                }
            }
            _ => {
                if kind.status
                    && let Some(map) = now.as_object_mut()
                {
                    match before.get("status") {
                        Some(status) => map.insert("status".into(), status.clone()),
                        None => map.remove("status"),
                    };
                }
                for field in [
                    "uid",
                    "creationTimestamp",
                    "generation",
                    "namespace",
                    "name",
                    "deletionTimestamp",
                    "deletionGracePeriodSeconds",
                ] {
                    match before["metadata"].get(field) {
                        Some(kept) => now["metadata"][field] = kept.clone(),
                        None => {
                            if let Some(map) = now["metadata"].as_object_mut() {
                                map.remove(field);
                            }
                        }
                    }
                }
                let plain = |value: &Value| {
                    let mut value = value.clone();
                    if let Some(map) = value.as_object_mut() {
                        map.remove("metadata");
                        map.remove("status");
                    }
                    value
                };
                if plain(&now) != plain(before) {
                    raise_generation(&mut now);
                }
            }
        }
        now["metadata"]["resourceVersion"] = before["metadata"]["resourceVersion"].clone();
        if let Some(map) = now["metadata"].as_object_mut() {
            map.remove("managedFields");
        }
        leave_out_empty_finalizers(&mut now);
        if now == *before {
            if let Some((_, owners)) = self.objects.get_mut(key) {
                *owners = managers;
            }
            return Ok(Arc::new(now));
        }
        let free = now["metadata"]["finalizers"].as_array().is_none_or(Vec::is_empty);
        if free
            && now["metadata"]["deletionTimestamp"].is_string()
            && key.plural != "pods"
            && key.plural != "namespaces"
        {
            return Ok(self.commit(key, "DELETED", now, managers));
        }
        Ok(self.commit(key, "MODIFIED", now, managers))
    }

    fn with_managers(&self, key: &Key) -> Result<(Arc<Value>, Managers), Refused> {
        self.objects.get(key).cloned().ok_or_else(|| Store::missing(key))
    }

    /// Replaces an object, or its status.
    pub fn replace(
        &mut self,
        kind: &'static Kind,
        key: &Key,
        value: Value,
        manager: &str,
        subresource: Option<&str>,
    ) -> Result<Arc<Value>, Refused> {
        let (before, mut managers) = self.with_managers(key)?;
        managed::update(
            &mut managers,
            &format!("{manager}/update"),
            &before,
            &value,
            subresource == Some("status"),
        );
        self.store(kind, key, &before, value, managers, subresource)
    }

    /// Merges a patch into an object.
    pub fn patch(
        &mut self,
        kind: &'static Kind,
        key: &Key,
        patch: &Value,
        manager: &str,
        subresource: Option<&str>,
    ) -> Result<Arc<Value>, Refused> {
        let (before, mut managers) = self.with_managers(key)?;
        let mut now = before.as_ref().clone();
        managed::merge(&mut now, patch);
        managed::update(
            &mut managers,
            &format!("{manager}/update"),
            &before,
            &now,
            subresource == Some("status"),
        );
        self.store(kind, key, &before, now, managers, subresource)
    }

    /// Server-side apply.
    pub fn apply(
        &mut self,
        kind: &'static Kind,
        key: &Key,
        config: &Value,
        manager: &str,
        force: bool,
        subresource: Option<&str>,
    ) -> Result<Arc<Value>, Refused> {
        let status = subresource == Some("status");
        let owner = format!("{manager}/apply{}", if status { "/status" } else { "" });
        let Some((before, managers)) = self.objects.get(key).cloned() else {
            if status {
                return Err(Store::missing(key));
            }
            if !uid(config).is_empty() {
                let why = format!(
                    "uid mismatch: the provided object specified uid {}, and no existing object was found",
                    uid(config)
                );
                return Err(Store::conflict(key, &why));
            }
            let owned = managed::fields(config, false);
            return self.create_as(kind, &key.namespace, config.clone(), BTreeMap::from([(owner, owned)]));
        };
        let applied = managed::apply(&before, &managers, &owner, config, status, force);
        let (mut now, managers) = applied.map_err(|conflicts| {
            let why = format!(
                "Apply failed with {} conflicts: {}",
                conflicts.len(),
                conflicts.join(", ")
            );
            refuse(409, "Conflict", why)
        })?;
        for field in ["uid", "resourceVersion"] {
            if let Some(told) = config["metadata"].get(field) {
                now["metadata"][field] = told.clone();
            }
        }
        self.store(kind, key, &before, now, managers, subresource)
    }

    /// Deletes an object, or marks it; true when it is gone.
    pub fn delete(&mut self, key: &Key, how: &Deletion) -> Result<(Arc<Value>, bool), Refused> {
        let (before, managers) = self.with_managers(key)?;
        if let Some(wanted) = &how.uid
            && wanted != uid(&before)
        {
            let why = format!(
                "Precondition failed: UID in precondition: {wanted}, UID in object meta: {}",
                uid(&before)
            );
            return Err(Store::conflict(key, &why));
        }
        if let Some(wanted) = &how.resource_version
            && wanted != version(&before)
        {
            let why = format!(
                "Precondition failed: ResourceVersion in precondition: {wanted}, ResourceVersion in object meta: {}",
                version(&before)
            );
            return Err(Store::conflict(key, &why));
        }
        let mut now = before.as_ref().clone();
        let held = before["metadata"]["finalizers"]
            .as_array()
            .is_some_and(|list| !list.is_empty());
        let marked = before["metadata"]["deletionTimestamp"].is_string();
        let runs = key.plural == "pods" && !text(&before, "/spec/nodeName").is_empty();
        let ended = matches!(text(&before, "/status/phase"), "Failed" | "Succeeded");
        let asked = before["spec"]["terminationGracePeriodSeconds"].as_i64().unwrap_or(30);
        let grace = match how.grace {
            _ if ended => 0,
            Some(grace) => grace,
            None => asked,
        };
        let stays = held || key.plural == "namespaces" || (runs && grace > 0);
        if !stays {
            return Ok((self.commit(key, "DELETED", now, managers), true));
        }
        if !marked {
            let after = if runs { grace } else { 0 };
            let at = self.now + std::time::Duration::from_secs(u64::try_from(after).unwrap_or(0));
            now["metadata"]["deletionTimestamp"] = json!(date(at));
            now["metadata"]["deletionGracePeriodSeconds"] = json!(after);
            // The mark is a change of what is wanted (apiserver pkg/registry/rest/delete.go).
            raise_generation(&mut now);
            if key.plural == "namespaces" {
                now["status"]["phase"] = json!("Terminating");
            }
            return Ok((self.commit(key, "MODIFIED", now, managers), false));
        }
        Ok((before, false))
    }

    /// Takes an object out, whatever it is.
    pub fn vanish(&mut self, key: &Key) {
        if let Ok((before, managers)) = self.with_managers(key) {
            self.commit(key, "DELETED", before.as_ref().clone(), managers);
        }
    }

    /// What the machinery of Kubernetes writes: `change` on the object as it is.
    pub fn edit(&mut self, key: &Key, change: impl FnOnce(&mut Value)) {
        let Ok((before, mut managers)) = self.with_managers(key) else {
            return;
        };
        let mut now = before.as_ref().clone();
        change(&mut now);
        if now == *before {
            return;
        }
        managed::update(&mut managers, "kubernetes/update", &before, &now, false);
        let free = now["metadata"]["finalizers"].as_array().is_none_or(Vec::is_empty);
        let gone =
            free && now["metadata"]["deletionTimestamp"].is_string() && !matches!(key.plural, "pods" | "namespaces");
        let what = if gone { "DELETED" } else { "MODIFIED" };
        let spec = of(key.plural).is_some() && now.get("spec") != before.get("spec");
        if spec {
            raise_generation(&mut now);
        }
        self.commit(key, what, now, managers);
    }
}
