//! Server-side apply: who owns which field, and what an applied configuration changes.
//!
//! Invariants:
//! 1. A field that a manager applied once and does not apply any more goes, unless another one owns it too.
//! 2. Over a field of somebody else with another value, an apply that is not forced is a conflict.
//!
//! Lists are taken as one field, but for those of [`KEYED`].

use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};

/// A field: names, and keys of list entries.
pub type Path = Vec<String>;
/// Who owns what: by manager, operation and subresource.
pub type Managers = BTreeMap<String, BTreeSet<Path>>;

/// Lists whose entries are told apart by these fields (none: by the value itself), by the end of their path.
const KEYED: &[(&[&str], &[&str])] = &[
    (&["metadata", "finalizers"], &[]),
    (&["metadata", "ownerReferences"], &["uid"]),
    (&["spec", "ports"], &["port", "protocol"]),
];

fn keys(path: &[String]) -> Option<&'static [&'static str]> {
    KEYED
        .iter()
        .find(|(end, _)| path.len() == end.len() && path.iter().zip(*end).all(|(a, b)| a == b))
        .map(|(_, keys)| *keys)
}

fn key_of(entry: &Value, keys: &[&str]) -> String {
    if keys.is_empty() {
        return format!("={entry}");
    }
    let parts: Vec<String> = keys
        .iter()
        .map(|key| entry.get(key).map(Value::to_string).unwrap_or_default())
        .collect();
    format!("={}", parts.join(","))
}

/// The leaves of a value.
pub fn leaves(value: &Value, path: &mut Path, into: &mut BTreeSet<Path>) {
    match value {
        Value::Object(map) if !map.is_empty() => {
            for (name, value) in map {
                path.push(name.clone());
                leaves(value, path, into);
                path.pop();
            }
        }
        Value::Array(entries) if keys(path).is_some() => {
            let keys = keys(path).unwrap_or_default();
            for entry in entries {
                path.push(key_of(entry, keys));
                into.insert(path.clone());
                path.pop();
            }
        }
        _ => {
            into.insert(path.clone());
        }
    }
}

/// All that a configuration says, without what names the object.
pub fn fields(config: &Value, status: bool) -> BTreeSet<Path> {
    let mut all = BTreeSet::new();
    leaves(config, &mut Vec::new(), &mut all);
    all.retain(|path| {
        let first = path.first().map(String::as_str);
        let second = path.get(1).map(String::as_str);
        match first {
            Some("apiVersion" | "kind") | None => false,
            Some("metadata") => {
                !status
                    && matches!(
                        second,
                        Some("labels" | "annotations" | "finalizers" | "ownerReferences")
                    )
            }
            Some("status") => status,
            Some(_) => !status,
        }
    });
    all
}

fn get<'a>(value: &'a Value, path: &[String]) -> Option<&'a Value> {
    let mut at = value;
    for (depth, name) in path.iter().enumerate() {
        at = match at {
            Value::Object(map) => map.get(name)?,
            Value::Array(entries) => {
                let keys = keys(&path[..depth])?;
                entries.iter().find(|entry| key_of(entry, keys) == *name)?
            }
            _ => return None,
        };
    }
    Some(at)
}

fn set(value: &mut Value, path: &[String], new: &Value) {
    set_below(value, path, 0, new);
}

fn set_below(at: &mut Value, path: &[String], depth: usize, new: &Value) {
    let Some(name) = path.get(depth) else {
        *at = new.clone();
        return;
    };
    if let Some(keys) = keys(&path[..depth]) {
        if !at.is_array() {
            *at = Value::Array(Vec::new());
        }
        let Value::Array(entries) = at else { return };
        match entries.iter_mut().find(|entry| key_of(entry, keys) == *name) {
            Some(entry) => *entry = new.clone(),
            None => entries.push(new.clone()),
        }
        return;
    }
    if !at.is_object() {
        *at = Value::Object(Map::new());
    }
    let Value::Object(map) = at else { return };
    set_below(map.entry(name.clone()).or_insert(Value::Null), path, depth + 1, new);
}

fn remove(value: &mut Value, path: &[String]) {
    remove_below(value, path, 0);
}

/// True when what is left is empty.
fn remove_below(at: &mut Value, path: &[String], depth: usize) -> bool {
    let Some(name) = path.get(depth) else { return true };
    let last = depth + 1 == path.len();
    match at {
        Value::Object(map) => {
            if last {
                map.remove(name);
            } else if let Some(below) = map.get_mut(name)
                && remove_below(below, path, depth + 1)
            {
                map.remove(name);
            }
            map.is_empty()
        }
        Value::Array(entries) => {
            if let Some(keys) = keys(&path[..depth]) {
                entries.retain(|entry| key_of(entry, keys) != *name);
            }
            entries.is_empty()
        }
        _ => false,
    }
}

/// Applies `config` as `manager` onto `live`; the managers that another value of the field belongs to, when it is not
/// forced.
pub fn apply(
    live: &Value,
    managers: &Managers,
    manager: &str,
    config: &Value,
    status: bool,
    force: bool,
) -> Result<(Value, Managers), Vec<String>> {
    let wanted = fields(config, status);
    let mut conflicts = Vec::new();
    let mut managers = managers.clone();
    for path in &wanted {
        let new = get(config, path);
        if get(live, path) == new {
            continue;
        }
        for (other, owned) in managers.iter_mut().filter(|(other, _)| other.as_str() != manager) {
            let meets = |own: &Path| own.starts_with(path) || path.starts_with(own);
            if owned.iter().any(meets) {
                match force {
                    true => owned.retain(|own| !meets(own)),
                    false => conflicts.push(format!(".{} of {other}", path.join("."))),
                }
            }
        }
    }
    if !conflicts.is_empty() {
        return Err(conflicts);
    }
    let mut merged = live.clone();
    let before = managers.get(manager).cloned().unwrap_or_default();
    for path in before.difference(&wanted) {
        let others = managers.iter().any(|(other, owned)| {
            other != manager && owned.iter().any(|own| own.starts_with(path) || path.starts_with(own))
        });
        // What it still says in more or fewer words is not given up.
        let covered = wanted.iter().any(|own| own.starts_with(path) || path.starts_with(own));
        if !others && !covered {
            remove(&mut merged, path);
        }
    }
    for path in &wanted {
        if let Some(new) = get(config, path) {
            set(&mut merged, path, new);
        }
    }
    managers.insert(manager.to_owned(), wanted);
    managers.retain(|_, owned| !owned.is_empty());
    Ok((merged, managers))
}

/// Who owns what after `manager` wrote `now` over `before`.
pub fn update(managers: &mut Managers, manager: &str, before: &Value, now: &Value, status: bool) {
    let (old, new) = (fields(before, status), fields(now, status));
    let changed: BTreeSet<Path> = new
        .iter()
        .filter(|path| !old.contains(*path) || get(before, path) != get(now, path))
        .cloned()
        .collect();
    for (other, owned) in managers.iter_mut() {
        owned.retain(|path| get(now, path).is_some() && (other == manager || !changed.contains(path)));
    }
    managers.entry(manager.to_owned()).or_default().extend(changed);
    managers.retain(|_, owned| !owned.is_empty());
}

/// A merge patch (RFC 7386).
pub fn merge(into: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *into = patch.clone();
        return;
    };
    if !into.is_object() {
        *into = Value::Object(Map::new());
    }
    let Value::Object(map) = into else { return };
    for (name, value) in patch {
        if value.is_null() {
            map.remove(name);
        } else {
            merge(map.entry(name.clone()).or_insert(Value::Null), value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_not_applied_any_more_goes_and_what_others_own_stays() {
        let first = json!({"metadata": {"finalizers": ["a"], "labels": {"x": "1"}}, "spec": {"n": 1}});
        let (live, managers) = apply(&json!({}), &Managers::new(), "m", &first, false, false).unwrap();
        assert_eq!(live, first);
        let mut edited = live.clone();
        edited["metadata"]["finalizers"] = json!(["a", "b"]);
        let mut owners = managers.clone();
        update(&mut owners, "user", &live, &edited, false);
        let second = json!({"metadata": {"finalizers": []}, "spec": {"n": 1}});
        let (live, _) = apply(&edited, &owners, "m", &second, false, true).unwrap();
        assert_eq!(live, json!({"metadata": {"finalizers": ["b"]}, "spec": {"n": 1}}));
    }

    #[test]
    fn a_field_of_another_is_a_conflict_unless_forced() {
        let mut owners = Managers::new();
        let live = json!({"spec": {"n": 1}});
        update(&mut owners, "user", &json!({}), &live, false);
        let config = json!({"spec": {"n": 2}});
        assert!(apply(&live, &owners, "m", &config, false, false).is_err());
        let (now, owners) = apply(&live, &owners, "m", &config, false, true).unwrap();
        assert_eq!(now, config);
        assert!(!owners.contains_key("user"));
    }
}
