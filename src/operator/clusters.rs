//! The work of one cluster's worker: a round, a pause, again.
//!
//! Invariants:
//! 1. A round is never cut short by a wish to stop; only the loss of the lease cuts it.
//! 2. A cluster in order is looked at again after [`Pauses::calm`], and at once when something of it changes.
//! 3. A round that fails as a whole is tried again after a pause that doubles; other clusters are not held up.

use super::Context;
use super::backups;
use super::watches::{Change, Key};
use super::workers::{Pace, Waited, Work};
use crate::api::EtcdCluster;
use crate::api::status::{EtcdClusterStatus, PlanStatus};
use crate::clock;
use crate::member::usage::Usage;
use crate::plan::{Due, Ensure, Journal, Observed, Plan, Step, Timestamp, Wanted};
use crate::platform::kubernetes::{Cluster, status};
use crate::platform::{Error, Event, Platform};
use crate::reconcile::{Round, Told, round};
use k8s_openapi::api::core::v1::ObjectReference;
use kube::{Resource, ResourceExt};
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinHandle;

/// No round takes longer: what hangs is given up, and what it was about is looked at anew.
const ROUND_MAX: Duration = Duration::from_secs(900);
/// A round that was not given up by then does not even yield.
const ROUND_STUCK: Duration = Duration::from_secs(960);
/// The first pause after a round that failed, and the longest.
const AFTER_FAILURE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// The work for a cluster, as long as there is one.
pub fn work(context: Arc<Context>, key: Key, pace: Pace) -> Option<Work> {
    context.clusters.get(&key)?;
    Some(Box::pin(attend(context, key, pace)))
}

/// True when a change of an object asks for a round: the operator's own writes of status do not.
pub fn asks_for_round(change: &Change<'_, EtcdCluster>) -> bool {
    let (Some(before), Some(now)) = (change.before, change.now) else {
        return true;
    };
    let (a, b) = (&before.metadata, &now.metadata);
    a.uid != b.uid
        || a.generation != b.generation
        || a.annotations != b.annotations
        || a.labels != b.labels
        || a.finalizers != b.finalizers
        || a.deletion_timestamp != b.deletion_timestamp
}

async fn attend(context: Arc<Context>, key: Key, mut pace: Pace) {
    let mut attended: Option<Attended> = None;
    let mut failures = 0u32;
    // The object is read anew each time: it may have been deleted, or made again under the same name.
    while let Some(object) = context.clusters.get(&key) {
        let uid = object.uid().unwrap_or_default();
        let mut current = match attended.take() {
            Some(current) if current.uid == uid => current,
            _ => Attended::new(&context, &key, &object),
        };
        let sleeps = object.spec.replicas == 0;
        let begun = clock::now();
        let pulse = context.pulses.begin(format!("the round of {key}"), ROUND_STUCK);
        let result = clock::timeout(ROUND_MAX, current.once(&context, object)).await;
        let result = result.unwrap_or_else(|_| Err(format!("the round took longer than {ROUND_MAX:?}")));
        drop(pulse);
        context.metrics.round(word(&result), clock::since(begun));
        let (pause, least) = match result {
            Ok(Some(round)) if round.released => {
                // The object goes within moments; its worker ends with it.
                (Duration::from_secs(5), Duration::ZERO)
            }
            Ok(round) => {
                failures = 0;
                (context.pauses.after(round.as_ref(), sleeps), Duration::ZERO)
            }
            Err(message) => {
                let pause = (AFTER_FAILURE.0 * 2u32.saturating_pow(failures.min(6))).min(AFTER_FAILURE.1);
                failures += 1;
                tracing::warn!(cluster = %key, error = message, "the round failed; tried again in {pause:?}");
                current.complain(&message).await;
                // A failing round that wakes itself by what it writes must not spin.
                (pause, AFTER_FAILURE.0)
            }
        };
        match pace.wait(pause, least).await {
            Waited::Rested => {}
            // What is kept in place may be what changed.
            Waited::Woken => current.platform.inner.look_again(),
            Waited::Stopped => return,
        }
        attended = Some(current);
    }
}

fn word(result: &Result<Option<Round>, String>) -> &'static str {
    match result {
        Err(_) => "failed",
        Ok(None) => "invalid",
        Ok(Some(round)) if round.released => "released",
        Ok(Some(round)) if round.settled => "settled",
        Ok(Some(round)) if round.step.is_some() => "stepped",
        Ok(Some(_)) => "waiting",
    }
}

/// How long to pause between two looks.
#[derive(Debug, Clone, Copy)]
pub struct Pauses {
    /// For a cluster in order.
    pub calm: Duration,
}

impl Pauses {
    fn after(&self, round: Option<&Round>, sleeps: bool) -> Duration {
        match round {
            // There is no member to ask.
            Some(round) if round.settled && sleeps => self.calm * 10,
            Some(round) if round.settled => self.calm,
            Some(round) => round.recheck,
            None => self.calm,
        }
    }
}

/// A cluster with what belongs to its worker.
struct Attended {
    uid: String,
    platform: Narrated,
    told: Told,
    last_complaint: String,
}

impl Attended {
    fn new(context: &Arc<Context>, key: &Key, object: &EtcdCluster) -> Attended {
        let settings = Arc::clone(&context.settings);
        let around = Arc::clone(&context.around);
        let inner = Cluster::new(context.client.clone(), &key.namespace, &key.name, settings, around);
        Attended {
            uid: object.uid().unwrap_or_default(),
            platform: Narrated {
                inner,
                about: object.object_ref(&()),
                context: Arc::clone(context),
            },
            told: Told::default(),
            last_complaint: String::new(),
        }
    }

    /// One round; none when the object cannot be used as it is.
    async fn once(&mut self, context: &Context, object: Arc<EtcdCluster>) -> Result<Option<Round>, String> {
        // Those of other clusters too: a cluster may begin from one.
        let backups = context.backups.of_namespace(&object.namespace().unwrap_or_default());
        let wanted = match self.platform.inner.wanted(Arc::clone(&object), backups) {
            Ok(wanted) => wanted,
            Err(invalid) => {
                self.refuse(context, &object, &invalid.to_string()).await?;
                return Ok(None);
            }
        };
        let round = round(&mut self.platform, &wanted, &mut self.told)
            .await
            .map_err(|error| error.to_string())?;
        self.last_complaint.clear();
        Ok(Some(round))
    }

    /// Says in the status that the object cannot be used; the API server's rules leave little of that.
    async fn refuse(&mut self, context: &Context, object: &EtcdCluster, why: &str) -> Result<(), String> {
        self.complain(why).await;
        let said = object.status.as_ref().and_then(|status| status.plan.as_ref());
        if said.is_some_and(|plan| plan.blocked_by.as_deref() == Some(why)) {
            return Ok(());
        }
        let status = EtcdClusterStatus {
            observed_generation: object.metadata.generation,
            plan: Some(PlanStatus {
                next_action: "wait for an edit of the spec".to_owned(),
                blocked_by: Some(why.to_owned()),
                since: None,
            }),
            ..object.status.clone().unwrap_or_default()
        };
        let namespace = object.namespace().unwrap_or_default();
        status::apply(&context.client, &namespace, &object.name_any(), &status)
            .await
            .map_err(|error| format!("cannot write that the spec is refused: {error}"))
    }

    /// Tells a trouble, once for as long as it stays the same.
    async fn complain(&mut self, message: &str) {
        if self.last_complaint == message {
            return;
        }
        message.clone_into(&mut self.last_complaint);
        let event = Event {
            normal: false,
            reason: "Reconcile".to_owned(),
            message: message.to_owned(),
        };
        self.platform.tell(&event).await;
    }
}

/// The platform, with what the operator adds to it: events, counts, and backups as objects of their own.
struct Narrated {
    inner: Cluster,
    about: ObjectReference,
    context: Arc<Context>,
}

impl Platform for Narrated {
    fn now(&self) -> Timestamp {
        self.inner.now()
    }

    async fn observe(&mut self, wanted: &Wanted) -> Result<Observed, Error> {
        self.inner.observe(wanted).await
    }

    async fn ensure(&mut self, wanted: &Wanted, what: &Ensure) -> Result<(), Error> {
        self.inner.ensure(wanted, what).await
    }

    async fn begin(&mut self, wanted: &Wanted, due: &Due) -> Result<(), Error> {
        match due {
            Due::Backup(action) => backups::act(&self.context, &wanted.namespace, action)
                .await
                .map_err(Error::platform),
            Due::PurgeVolume { .. } => self.inner.begin(wanted, due).await,
        }
    }

    async fn carry_out(&mut self, wanted: &Wanted, step: &Step) -> Result<(), Error> {
        let result = self.inner.carry_out(wanted, step).await;
        self.context.metrics.step(step.kind(), result.is_ok());
        result
    }

    async fn persist(&mut self, journal: &Journal) -> Result<(), Error> {
        self.inner.persist(journal).await
    }

    async fn publish(&mut self, wanted: &Wanted, plan: &Plan) -> Result<(), Error> {
        self.inner.publish(wanted, plan).await
    }

    fn measure(&mut self) -> Option<JoinHandle<Option<Usage>>> {
        self.inner.measure()
    }

    async fn tell(&mut self, event: &Event) {
        self.context.events.tell(&self.about, event).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_of_status_asks_for_no_round_and_an_edit_does() {
        let mut before = EtcdCluster::new("db", serde_yaml::from_str("{}").unwrap());
        before.metadata.generation = Some(1);
        let mut now = before.clone();
        now.status = Some(crate::api::status::EtcdClusterStatus::default());
        now.metadata.resource_version = Some("2".into());
        let change = |before: &EtcdCluster, now: &EtcdCluster| {
            asks_for_round(&Change {
                before: Some(before),
                now: Some(now),
            })
        };
        assert!(!change(&before, &now));
        now.metadata.generation = Some(2);
        assert!(change(&before, &now));
        now.metadata.generation = Some(1);
        now.annotations_mut().insert("quorate.dev/restart".into(), "1".into());
        assert!(change(&before, &now));
    }
}
