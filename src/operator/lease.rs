//! Leader election: one operator at a time, by a `Lease` of `coordination.k8s.io/v1`.
//!
//! Invariants:
//! 1. Nobody takes a lease that its holder may still believe in: another's lease counts as expired only after it was
//!    seen unchanged, by this process's own steady clock, for longer than its duration. Clocks need not agree.
//! 2. The holder stops believing in it before that: [`Gate::open`] is false once the last renewal is older than
//!    the renew deadline, which is shorter than the duration. A process that was frozen finds the gate shut.
//! 3. Every write carries the resource version that it was decided on: of two that reach for it, one gets a conflict.

use crate::clock::{self, Instant};
use crate::platform::surroundings::Surroundings;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::Api;
use kube::api::{ObjectMeta, PostParams};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Which lease, and how it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Terms {
    /// Name of the Lease.
    pub name: String,
    /// Who holds it: unique for this process.
    pub identity: String,
    /// Others may take it when it was not renewed for this long.
    pub duration: Duration,
    /// The holder gives up when it could not renew for this long; shorter than `duration`.
    pub deadline: Duration,
    /// Pause between two tries or two renewals.
    pub retry: Duration,
}

impl Terms {
    /// The figures of Kubernetes' own components: 15 s, 10 s, 2 s.
    pub fn new(name: &str, identity: &str) -> Terms {
        Terms {
            name: name.to_owned(),
            identity: identity.to_owned(),
            duration: Duration::from_secs(15),
            deadline: Duration::from_secs(10),
            retry: Duration::from_secs(2),
        }
    }
}

/// Whether this process may write now. Shared by everything that writes.
#[derive(Debug, Clone, Default)]
pub struct Gate(Arc<Mutex<Option<Instant>>>);

impl Gate {
    /// True while the lease is held, by the last renewal's account.
    pub fn open(&self) -> bool {
        self.until().is_some_and(|until| clock::now() < until)
    }

    /// Open for good: for an operator that was told to run without election.
    pub fn without_election() -> Gate {
        let gate = Gate::default();
        gate.set(Some(clock::now() + Duration::from_secs(u64::from(u32::MAX))));
        gate
    }

    fn until(&self) -> Option<Instant> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, until: Option<Instant>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = until;
    }
}

/// A lease as the API server gave it, as far as it matters here.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Record {
    holder: String,
    renewed: Option<MicroTime>,
    acquired: Option<MicroTime>,
    duration: Duration,
    transitions: i32,
    version: Option<String>,
}

impl Record {
    fn of(lease: &Lease) -> Record {
        let spec = lease.spec.clone().unwrap_or_default();
        let seconds = spec.lease_duration_seconds.and_then(|n| u64::try_from(n).ok());
        Record {
            holder: spec.holder_identity.unwrap_or_default(),
            renewed: spec.renew_time,
            acquired: spec.acquire_time,
            duration: Duration::from_secs(seconds.unwrap_or(0)),
            transitions: spec.lease_transitions.unwrap_or(0),
            version: lease.metadata.resource_version.clone(),
        }
    }
}

/// What to do about the lease.
#[derive(Debug, PartialEq, Eq)]
enum Move {
    /// Nobody holds it (any more): take it.
    Take,
    /// It is ours: renew it.
    Renew,
    /// Another holds it.
    Wait,
}

/// Decides from the record and for how long it was seen unchanged.
fn decide(identity: &str, record: Option<&Record>, unchanged: Duration) -> Move {
    match record {
        None => Move::Take,
        Some(record) if record.holder.is_empty() => Move::Take,
        Some(record) if record.holder == identity => Move::Renew,
        Some(record) if unchanged > record.duration => Move::Take,
        Some(_) => Move::Wait,
    }
}

/// One candidate.
pub struct Election {
    api: Api<Lease>,
    terms: Terms,
    gate: Gate,
    around: Arc<dyn Surroundings>,
    seen: Option<(Record, Instant)>,
}

impl Election {
    /// A candidate for a lease in the namespace of `api`. The client of `api` must not be the one that `gate` guards.
    pub fn new(api: Api<Lease>, terms: Terms, gate: Gate, around: Arc<dyn Surroundings>) -> Election {
        Election {
            api,
            terms,
            gate,
            around,
            seen: None,
        }
    }

    /// Returns when the lease is held. Troubles are logged and tried again.
    pub async fn win(&mut self) {
        let mut other = String::new();
        loop {
            let reached = clock::timeout(self.terms.deadline, self.reach()).await;
            let reached = reached.map_or_else(|_| Err("no answer".to_owned()), |it| it.map_err(|e| e.to_string()));
            match reached {
                Ok(true) => return,
                Ok(false) => {
                    let holder = self.seen.as_ref().map(|(record, _)| record.holder.clone());
                    if let Some(holder) = holder.filter(|holder| *holder != other) {
                        tracing::info!(holder, lease = self.terms.name, "another operator leads; waiting");
                        other = holder;
                    }
                }
                Err(error) => {
                    tracing::warn!(
                        error,
                        lease = self.terms.name,
                        "cannot reach for the lease; trying again"
                    );
                }
            }
            clock::sleep(self.terms.retry).await;
        }
    }

    /// Renews until the lease is lost; returns why.
    pub async fn keep(&mut self) -> String {
        loop {
            clock::sleep(self.terms.retry).await;
            let until = self.gate.until().unwrap_or_else(clock::now);
            let trouble = match clock::timeout_at(until, self.reach()).await {
                Ok(Ok(true)) => continue,
                Ok(Ok(false)) => {
                    self.gate.set(None);
                    let holder = self.seen.as_ref().map_or("", |(record, _)| record.holder.as_str());
                    return format!("{holder:?} took the lease");
                }
                Ok(Err(error)) => error.to_string(),
                Err(_) => "no answer".to_owned(),
            };
            if !self.gate.open() {
                self.gate.set(None);
                return format!(
                    "the lease could not be renewed for {:?}: {trouble}",
                    self.terms.deadline
                );
            }
            tracing::warn!(error = trouble, "cannot renew the lease; trying again");
        }
    }

    /// Gives the lease away, so that the next operator need not wait for it to expire.
    pub async fn release(&mut self) {
        self.gate.set(None);
        match clock::timeout(Duration::from_secs(3), self.give()).await {
            Ok(Ok(())) => tracing::info!(lease = self.terms.name, "released the lease"),
            Ok(Err(error)) => tracing::warn!(%error, "the lease is not released; it expires by itself"),
            Err(_) => tracing::warn!("the lease is not released in time; it expires by itself"),
        }
    }

    async fn give(&mut self) -> Result<(), kube::Error> {
        let Some(found) = self.api.get_opt(&self.terms.name).await? else {
            return Ok(());
        };
        let record = Record::of(&found);
        if record.holder != self.terms.identity {
            return Ok(());
        }
        let given = Record {
            holder: String::new(),
            // As client-go does: a released lease expires at once, whoever looks.
            duration: Duration::from_secs(1),
            ..record
        };
        let lease = self.lease(Some(found), &given);
        self.api
            .replace(&self.terms.name, &PostParams::default(), &lease)
            .await?;
        Ok(())
    }

    fn today(&self) -> k8s_openapi::jiff::Timestamp {
        self.around.now().try_into().unwrap_or_default()
    }

    /// One look at the lease, and one write where it is ours or free. True when it is held now.
    async fn reach(&mut self) -> Result<bool, kube::Error> {
        // Before the request is sent: the API server's account of the renewal is never earlier.
        let begun = clock::now();
        let found = self.api.get_opt(&self.terms.name).await?;
        let record = found.as_ref().map(Record::of);
        match (&record, &self.seen) {
            (Some(record), Some((seen, _))) if record == seen => {}
            (Some(record), _) => self.seen = Some((record.clone(), clock::now())),
            (None, _) => self.seen = None,
        }
        let unchanged = self
            .seen
            .as_ref()
            .map_or(Duration::ZERO, |(_, since)| clock::since(*since));
        let now = MicroTime(self.today());
        let decided = decide(&self.terms.identity, record.as_ref(), unchanged);
        let mine = match (&decided, record) {
            (Move::Wait, _) => return Ok(false),
            (Move::Renew, Some(record)) => Record {
                renewed: Some(now),
                duration: self.terms.duration,
                ..record
            },
            (Move::Take | Move::Renew, record) => Record {
                holder: self.terms.identity.clone(),
                renewed: Some(now.clone()),
                acquired: Some(now),
                duration: self.terms.duration,
                transitions: record.as_ref().map_or(0, |record| record.transitions.saturating_add(1)),
                version: record.and_then(|record| record.version),
            },
        };
        let exists = found.is_some();
        let lease = self.lease(found, &mine);
        let written = if exists {
            self.api.replace(&self.terms.name, &PostParams::default(), &lease).await
        } else {
            self.api.create(&PostParams::default(), &lease).await
        };
        match written {
            Ok(lease) => {
                self.seen = Some((Record::of(&lease), clock::now()));
                self.gate.set(Some(begun + self.terms.deadline));
                Ok(true)
            }
            // Somebody was faster; the next look tells who. One's own lease that somebody labelled is still one's own.
            Err(kube::Error::Api(status)) if status.code == 409 && decided == Move::Take => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// The object to write; labels and annotations of the one that was found stay.
    fn lease(&self, found: Option<Lease>, record: &Record) -> Lease {
        let metadata = found.map(|found| found.metadata).unwrap_or_default();
        Lease {
            metadata: ObjectMeta {
                name: Some(self.terms.name.clone()),
                resource_version: record.version.clone(),
                managed_fields: None,
                ..metadata
            },
            spec: Some(LeaseSpec {
                holder_identity: Some(record.holder.clone()),
                lease_duration_seconds: Some(i32::try_from(record.duration.as_secs()).unwrap_or(i32::MAX)),
                acquire_time: record.acquired.clone(),
                renew_time: record.renewed.clone(),
                lease_transitions: Some(record.transitions),
                ..LeaseSpec::default()
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(holder: &str) -> Record {
        Record {
            holder: holder.into(),
            renewed: None,
            acquired: None,
            duration: Duration::from_secs(15),
            transitions: 3,
            version: Some("7".into()),
        }
    }

    #[test]
    fn a_free_or_released_lease_is_taken() {
        assert_eq!(decide("me", None, Duration::ZERO), Move::Take);
        assert_eq!(decide("me", Some(&record("")), Duration::ZERO), Move::Take);
    }

    #[test]
    fn anothers_lease_is_taken_only_after_it_stood_still_for_longer_than_its_duration() {
        let other = record("other");
        assert_eq!(decide("me", Some(&other), Duration::from_secs(15)), Move::Wait);
        assert_eq!(decide("me", Some(&other), Duration::from_millis(15_001)), Move::Take);
    }

    #[test]
    fn ones_own_lease_is_renewed_however_late() {
        assert_eq!(decide("me", Some(&record("me")), Duration::from_secs(999)), Move::Renew);
    }

    #[test]
    fn the_gate_shuts_by_itself_when_nothing_renews_it() {
        let gate = Gate::default();
        assert!(!gate.open(), "shut before the first win");
        gate.set(Some(Instant::now() + Duration::from_secs(600)));
        assert!(gate.open());
        gate.set(Some(Instant::now() + Duration::from_millis(1)));
        std::thread::sleep(Duration::from_millis(5));
        assert!(!gate.open());
    }
}
