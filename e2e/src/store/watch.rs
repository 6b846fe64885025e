//! One watch of one kind at one API server, resumed where it broke off, as every controller does.
//!
//! Invariant: an event at or before what the watch has told already (bookmarks included) is a repetition, and an error.

use anyhow::{Context, bail};
use kube::api::{Api, WatchEvent, WatchParams};
use kube::core::Resource;
use serde::de::DeserializeOwned;
use std::fmt::Debug;
use std::pin::pin;
use std::time::Duration;
use tokio_stream::StreamExt;

/// What happened to an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    /// It is new.
    Added,
    /// It is another.
    Modified,
    /// It is no more.
    Deleted,
}

/// One event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// What happened.
    pub verb: Verb,
    /// To which.
    pub name: String,
    /// At which revision.
    pub version: u64,
}

/// What a watch told.
#[derive(Debug, Default)]
pub struct Told {
    /// In order.
    pub events: Vec<Event>,
    /// How often it had to be opened again.
    pub resumed: usize,
    /// Bookmarks between the events.
    pub bookmarks: usize,
}

fn event<K: Resource>(verb: Verb, object: &K) -> anyhow::Result<Event> {
    let meta = object.meta();
    Ok(Event {
        verb,
        name: meta.name.clone().context("an object without a name")?,
        version: version(meta.resource_version.as_deref())?,
    })
}

/// A resourceVersion as the revision that it is.
pub fn version(text: Option<&str>) -> anyhow::Result<u64> {
    let text = text.context("an object without a resourceVersion")?;
    text.parse().with_context(|| format!("resourceVersion {text}"))
}

/// Follows from a revision until an object named `last` was told of.
pub async fn follow<K>(api: Api<K>, from: u64, last: &str) -> anyhow::Result<Told>
where
    K: Resource + Clone + DeserializeOwned + Debug,
{
    let mut told = Told::default();
    let mut known = from;
    loop {
        let params = WatchParams::default().timeout(280);
        let stream = match api.watch(&params, &known.to_string()).await {
            Ok(stream) => stream,
            Err(error) if super::ask::is(&error, 410) => bail!("the watch cannot go on after {known}: {error}"),
            Err(_) => {
                tokio::time::sleep(Duration::from_millis(200)).await;
                continue;
            }
        };
        let mut stream = pin!(stream);
        while let Some(next) = stream.next().await {
            let next = match next {
                Ok(WatchEvent::Added(object)) => event(Verb::Added, &object)?,
                Ok(WatchEvent::Modified(object)) => event(Verb::Modified, &object)?,
                Ok(WatchEvent::Deleted(object)) => event(Verb::Deleted, &object)?,
                Ok(WatchEvent::Bookmark(bookmark)) => {
                    let at = version(Some(&bookmark.metadata.resource_version))?;
                    if at < known {
                        bail!("a bookmark at {at} after {known}");
                    }
                    told.bookmarks += 1;
                    known = at;
                    continue;
                }
                Ok(WatchEvent::Error(status)) if status.code == 410 => {
                    bail!("the watch cannot go on after {known}: {}", status.message)
                }
                Ok(WatchEvent::Error(_)) | Err(_) => break,
            };
            if next.version <= known {
                bail!("{next:?} was told after {known}");
            }
            known = next.version;
            let over = next.name == last;
            told.events.push(next);
            if over {
                return Ok(told);
            }
        }
        told.resumed += 1;
    }
}
