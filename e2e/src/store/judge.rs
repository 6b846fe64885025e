//! What must hold of what was told, listed and acknowledged.

use super::watch::{Event, Verb};
use super::work::Kind;
use crate::access::Access;
use anyhow::{Context, bail, ensure};
use std::collections::{BTreeMap, BTreeSet};

/// Both watches told the same events in the same order.
pub fn same_events(kind: &Kind) -> anyhow::Result<String> {
    let [one, two] = &kind.told;
    let differs = one.events.iter().zip(&two.events).position(|(a, b)| a != b);
    if let Some(at) = differs {
        bail!(
            "event {at} is {:?} in one and {:?} in the other",
            one.events[at],
            two.events[at]
        );
    }
    ensure!(
        one.events.len() == two.events.len(),
        "{} events in one and {} in the other",
        one.events.len(),
        two.events.len()
    );
    let count = |verb: Verb| one.events.iter().filter(|event| event.verb == verb).count();
    Ok(format!(
        "{} events ({} added, {} modified, {} deleted), resumed {} and {} times",
        one.events.len(),
        count(Verb::Added),
        count(Verb::Modified),
        count(Verb::Deleted),
        one.resumed,
        two.resumed
    ))
}

/// Every acknowledged change is among the events, once.
pub fn all_told(config_maps: &Kind, leases: &Kind) -> anyhow::Result<String> {
    let mut count = 0;
    for kind in [config_maps, leases] {
        let told: BTreeSet<(&str, u64, u8)> = kind.told[0]
            .events
            .iter()
            .map(|event| (event.name.as_str(), event.version, event.verb as u8))
            .collect();
        ensure!(
            told.len() == kind.told[0].events.len(),
            "{} were told of a change twice",
            kind.name
        );
        let mut deleted: BTreeMap<&str, usize> = BTreeMap::new();
        for event in kind.told[0].events.iter().filter(|event| event.verb == Verb::Deleted) {
            *deleted.entry(&event.name).or_default() += 1;
        }
        for acked in &kind.acked {
            let known = match acked.version {
                Some(version) => told.contains(&(acked.name.as_str(), version, acked.verb as u8)),
                None if acked.verb == Verb::Deleted => deleted.contains_key(acked.name.as_str()),
                // Made by a first try whose answer did not come: at which revision nobody was told.
                None => kind.told[0].events.iter().any(|event| event.name == acked.name),
            };
            ensure!(known, "{acked:?} of {} was told to nobody", kind.name);
            count += 1;
        }
    }
    Ok(format!("{count} changes"))
}

/// What there is after the events up to a revision.
fn state(events: &[Event], until: u64) -> BTreeMap<&str, u64> {
    let mut state = BTreeMap::new();
    for event in events.iter().take_while(|event| event.version <= until) {
        match event.verb {
            Verb::Added | Verb::Modified => state.insert(event.name.as_str(), event.version),
            Verb::Deleted => state.remove(event.name.as_str()),
        };
    }
    state
}

/// Every list is the state at its revision.
pub fn lists(kind: &Kind) -> anyhow::Result<String> {
    let events = &kind.told[0].events;
    let mut largest = 0;
    for (at, list) in &kind.lists {
        // Objects that were there before the watch began (the root CA's ConfigMap) are not in the events.
        let ours = list
            .iter()
            .filter(|(name, _)| name.starts_with("o-") || name.starts_with("zz-"));
        let ours: BTreeMap<&str, u64> = ours.map(|(name, version)| (name.as_str(), *version)).collect();
        let events = state(events, *at);
        let events: BTreeMap<&str, u64> = events
            .into_iter()
            .filter(|(name, _)| name.starts_with("o-") || name.starts_with("zz-"))
            .collect();
        if ours != events {
            let missing = events.iter().find(|(name, version)| ours.get(*name) != Some(version));
            let more = ours.iter().find(|(name, version)| events.get(*name) != Some(version));
            bail!(
                "a list of {} at {at} has {} objects, the events make {}: {missing:?} and {more:?} differ",
                kind.name,
                ours.len(),
                events.len()
            );
        }
        largest = largest.max(ours.len());
    }
    ensure!(
        kind.lists.len() > 1,
        "only {} lists of {} were taken",
        kind.lists.len(),
        kind.name
    );
    let expired = match kind.expired {
        0 => String::new(),
        n => format!(", {n} begun again as they had expired"),
    };
    Ok(format!(
        "{} of {}, up to {largest} objects{expired}",
        kind.lists.len(),
        kind.name
    ))
}

/// The API server wrote down where it compacted to, and the members did.
pub async fn compacted(access: &Access) -> anyhow::Result<String> {
    let mut client = access.client().await?;
    let key = client.get("compact_rev_key", None).await?;
    let kv = key.kvs().first().context("there is no compact_rev_key")?;
    let (written, times) = (kv.value_str()?.to_owned(), kv.version());
    let options = etcd_client::GetOptions::new().with_revision(2);
    let Err(error) = client.get("compact_rev_key", Some(options)).await else {
        bail!("revision 2 can still be read; compact_rev_key is {written}");
    };
    ensure!(error.to_string().contains("has been compacted"), "revision 2: {error}");
    Ok(format!("to revision {written}, round {times}"))
}

#[cfg(test)]
mod tests {
    use super::super::watch::Told;
    use super::super::work::Acked;
    use super::*;

    fn event(verb: Verb, name: &str, version: u64) -> Event {
        let name = name.to_owned();
        Event { verb, name, version }
    }

    fn kind() -> Kind {
        let events = || Told {
            events: vec![
                event(Verb::Added, "o-1", 5),
                event(Verb::Modified, "o-1", 7),
                event(Verb::Added, "o-2", 8),
                event(Verb::Deleted, "o-1", 9),
            ],
            ..Told::default()
        };
        let acked = |verb, name: &str, version| Acked {
            verb,
            name: name.to_owned(),
            version,
        };
        let list = |at, all: &[(&str, u64)]| (at, all.iter().map(|(name, at)| ((*name).to_owned(), *at)).collect());
        Kind {
            name: "ConfigMaps",
            told: [events(), events()],
            acked: vec![
                acked(Verb::Added, "o-1", Some(5)),
                acked(Verb::Added, "o-2", Some(8)),
                acked(Verb::Deleted, "o-1", None),
            ],
            lists: vec![list(7, &[("o-1", 7)]), list(9, &[("o-2", 8), ("kube-root-ca.crt", 3)])],
            expired: 0,
        }
    }

    #[test]
    fn what_agrees_holds() {
        same_events(&kind()).expect("the same");
        all_told(&kind(), &kind()).expect("all told");
        lists(&kind()).expect("lists");
    }

    #[test]
    fn what_is_lost_or_invented_is_found() {
        let mut lost = kind();
        lost.told[1].events.remove(1);
        assert!(same_events(&lost).is_err());
        let mut short = kind();
        short.told[1].events.pop();
        assert!(same_events(&short).is_err());
        let mut unheard = kind();
        unheard.acked[1].version = Some(6);
        assert!(all_told(&unheard, &kind()).is_err());
        let mut old = kind();
        old.lists[1].1.insert("o-1".to_owned(), 7);
        assert!(lists(&old).is_err());
        let mut blind = kind();
        blind.lists[0].1.clear();
        assert!(lists(&blind).is_err());
    }
}
