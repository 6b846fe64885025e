//! Events of `events.k8s.io/v1`, so that `kubectl describe` tells what was done and why.
//!
//! Invariants:
//! - The same sentence about the same object is one event with a count, written at most every [`REFRESH`].
//! - One object cannot flood the API server: beyond [`BURST`] events it gets one more every [`REFILL`].
//! - Telling never fails and never holds up what is told about: troubles are logged.

use crate::clock::{self, Instant};
use crate::platform::Event;
use crate::platform::surroundings::Surroundings;
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::{Event as Written, EventSeries};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::api::{ObjectMeta, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// A repeated event is written again at most this often.
const REFRESH: Duration = Duration::from_secs(60);
/// What was not told again for this long is told as new.
const FORGET: Duration = Duration::from_secs(600);
/// Events of one object that may come at once.
const BURST: u32 = 60;
/// One more event per this time, after a burst.
const REFILL: Duration = Duration::from_secs(3);
/// The API server refuses longer notes.
const NOTE_BYTES_MAX: usize = 1024;
/// A write that takes longer is given up: the next round must not wait for it.
const PATIENCE: Duration = Duration::from_secs(3);

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    uid: String,
    normal: bool,
    reason: String,
    note: String,
}

#[derive(Debug)]
struct Told {
    name: String,
    count: i32,
    last: Instant,
    written: Instant,
}

#[derive(Debug)]
struct Budget {
    left: u32,
    refilled: Instant,
}

/// What becomes of an event.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    /// A new object.
    Create,
    /// The object of this name gets this count.
    Count(String, i32),
    /// Known, and written recently.
    Quiet,
    /// The object has used up what it may tell.
    Flood,
}

/// What was told, and what each object may still tell. Pure: the moment is given.
#[derive(Debug, Default)]
struct Ledger {
    told: HashMap<Key, Told>,
    budgets: HashMap<String, Budget>,
}

impl Ledger {
    fn judge(&mut self, key: &Key, now: Instant) -> Verdict {
        self.told.retain(|_, told| now.duration_since(told.last) < FORGET);
        self.budgets
            .retain(|_, budget| now.duration_since(budget.refilled) < REFILL * BURST);
        if let Some(told) = self.told.get_mut(key) {
            told.count = told.count.saturating_add(1);
            told.last = now;
            if now.duration_since(told.written) < REFRESH {
                return Verdict::Quiet;
            }
            told.written = now;
            return Verdict::Count(told.name.clone(), told.count);
        }
        let budget = self.budgets.entry(key.uid.clone()).or_insert(Budget {
            left: BURST,
            refilled: now,
        });
        let earned = now.duration_since(budget.refilled).as_secs() / REFILL.as_secs();
        if earned > 0 {
            let earned = u32::try_from(earned).unwrap_or(u32::MAX);
            budget.left = budget.left.saturating_add(earned).min(BURST);
            budget.refilled = now;
        }
        if budget.left == 0 {
            return Verdict::Flood;
        }
        budget.left -= 1;
        Verdict::Create
    }

    fn created(&mut self, key: Key, name: String, now: Instant) {
        let told = Told {
            name,
            count: 1,
            last: now,
            written: now,
        };
        self.told.insert(key, told);
    }
}

/// Writes events. Cheap to clone; all clones share what was told.
#[derive(Clone)]
pub struct Recorder {
    client: Client,
    instance: String,
    around: Arc<dyn Surroundings>,
    ledger: Arc<Mutex<Ledger>>,
}

impl std::fmt::Debug for Recorder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Recorder")
            .field("instance", &self.instance)
            .finish_non_exhaustive()
    }
}

impl Recorder {
    /// `instance` names this process, as its pod is named.
    pub fn new(client: Client, instance: &str, around: Arc<dyn Surroundings>) -> Recorder {
        Recorder {
            client,
            instance: instance.to_owned(),
            around,
            ledger: Arc::default(),
        }
    }

    /// Tells something about an object.
    pub async fn tell(&self, about: &ObjectReference, event: &Event) {
        let key = Key {
            uid: about.uid.clone().unwrap_or_default(),
            normal: event.normal,
            reason: event.reason.clone(),
            note: shorten(&event.message),
        };
        if event.normal {
            tracing::info!(
                namespace = about.namespace,
                object = about.name,
                reason = event.reason,
                "{}",
                event.message
            );
        } else {
            tracing::warn!(
                namespace = about.namespace,
                object = about.name,
                reason = event.reason,
                "{}",
                event.message
            );
        }
        let verdict = self.ledger().judge(&key, clock::now());
        let write = async {
            match verdict {
                Verdict::Quiet => Ok(()),
                Verdict::Flood => {
                    tracing::debug!(
                        object = about.name,
                        "too many events of one object; this one is only logged"
                    );
                    Ok(())
                }
                Verdict::Create => self.create(about, key).await,
                Verdict::Count(name, count) => self.count(about, &name, count).await,
            }
        };
        match clock::timeout(PATIENCE, write).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(%error, "an event is not written"),
            Err(_) => tracing::debug!("an event is not written in time"),
        }
    }

    async fn create(&self, about: &ObjectReference, key: Key) -> Result<(), kube::Error> {
        let now = self.today();
        let object = about.name.as_deref().unwrap_or_default();
        let name = format!("{object}.{:x}", now.as_nanosecond());
        let event = Written {
            metadata: ObjectMeta {
                name: Some(name.clone()),
                namespace: about.namespace.clone(),
                ..ObjectMeta::default()
            },
            action: Some(key.reason.clone()),
            event_time: Some(MicroTime(now)),
            note: Some(key.note.clone()),
            reason: Some(key.reason.clone()),
            regarding: Some(about.clone()),
            reporting_controller: Some("quorate.dev/operator".into()),
            reporting_instance: Some(self.instance.clone()),
            type_: Some(if key.normal { "Normal" } else { "Warning" }.into()),
            ..Written::default()
        };
        self.api(about).create(&PostParams::default(), &event).await?;
        self.ledger().created(key, name, clock::now());
        Ok(())
    }

    async fn count(&self, about: &ObjectReference, name: &str, count: i32) -> Result<(), kube::Error> {
        let series = EventSeries {
            count,
            last_observed_time: MicroTime(self.today()),
        };
        let patch = serde_json::json!({ "series": series });
        self.api(about)
            .patch(name, &PatchParams::default(), &Patch::Merge(patch))
            .await?;
        Ok(())
    }

    fn today(&self) -> k8s_openapi::jiff::Timestamp {
        self.around.now().try_into().unwrap_or_default()
    }

    fn api(&self, about: &ObjectReference) -> Api<Written> {
        Api::namespaced(self.client.clone(), about.namespace.as_deref().unwrap_or("default"))
    }

    fn ledger(&self) -> std::sync::MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Cuts a text to what a note may hold, at a character's border.
fn shorten(text: &str) -> String {
    if text.len() <= NOTE_BYTES_MAX {
        return text.to_owned();
    }
    let mut end = NOTE_BYTES_MAX - 3;
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}...", &text[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(note: &str) -> Key {
        Key {
            uid: "u".into(),
            normal: true,
            reason: "StartMember".into(),
            note: note.into(),
        }
    }

    #[test]
    fn the_same_sentence_is_one_event_that_counts() {
        let (mut ledger, start) = (Ledger::default(), Instant::now());
        assert_eq!(ledger.judge(&key("a"), start), Verdict::Create);
        ledger.created(key("a"), "db.1".into(), start);
        assert_eq!(ledger.judge(&key("a"), start + Duration::from_secs(1)), Verdict::Quiet);
        assert_eq!(ledger.judge(&key("b"), start + Duration::from_secs(1)), Verdict::Create);
        assert_eq!(
            ledger.judge(&key("a"), start + REFRESH),
            Verdict::Count("db.1".into(), 3),
            "what was quiet in between is counted"
        );
        assert_eq!(ledger.judge(&key("a"), start + REFRESH + FORGET), Verdict::Create);
    }

    #[test]
    fn one_object_cannot_flood_and_recovers_with_time() {
        let (mut ledger, start) = (Ledger::default(), Instant::now());
        let verdicts: Vec<Verdict> = (0..BURST + 5)
            .map(|n| ledger.judge(&key(&n.to_string()), start))
            .collect();
        assert_eq!(
            verdicts.iter().filter(|v| **v == Verdict::Create).count(),
            BURST as usize
        );
        assert_eq!(verdicts.last(), Some(&Verdict::Flood));
        let mut other = key("x");
        other.uid = "v".into();
        assert_eq!(ledger.judge(&other, start), Verdict::Create, "others are not held up");
        assert_eq!(ledger.judge(&key("later"), start + REFILL), Verdict::Create);
        assert_eq!(ledger.judge(&key("too soon"), start + REFILL), Verdict::Flood);
    }

    #[test]
    fn a_long_text_is_cut_between_characters() {
        let text = "ä".repeat(600);
        let cut = shorten(&text);
        assert!(cut.len() <= NOTE_BYTES_MAX && cut.ends_with("..."), "{}", cut.len());
    }
}
