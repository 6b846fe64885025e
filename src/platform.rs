//! Where members live: what the operator needs from a platform, and nothing of how it does it.
//!
//! Invariants that every platform keeps:
//! 1. [`Platform::observe`] tells facts of this moment; what could not be learned is absent.
//! 2. [`Platform::carry_out`] looks again before it acts, and refuses a step whose precondition no longer holds.
//! 3. [`Platform::persist`] has reached the disk (or the API server) when it returns: a step is carried out only
//!    after the decision for it can be read back.

pub mod ask;
pub mod kubernetes;
pub mod local;
pub mod surroundings;

use crate::member::usage::Usage;
use crate::plan::{Due, Ensure, Journal, Observed, Plan, Step, Timestamp, Wanted};
use std::fmt;
use std::future::Future;
use tokio::task::JoinHandle;

/// Why a platform did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The precondition of a step does not hold (any more); the next look will tell what to do instead.
    #[error("refused to {step}: {why}")]
    Refused {
        /// The step.
        step: String,
        /// What is otherwise than the step says.
        why: String,
    },
    /// A running member did not do its part.
    #[error(transparent)]
    Member(#[from] crate::member::Error),
    /// The platform itself failed: a file, a process, an API server.
    #[error("{0}")]
    Platform(Box<dyn std::error::Error + Send + Sync>),
}

impl Error {
    /// Wraps an error of the platform's own.
    pub fn platform(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
        Error::Platform(error.into())
    }
}

/// Something worth telling the owner of a cluster, in the shape of a Kubernetes event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// False when a human should look.
    pub normal: bool,
    /// One CamelCase word.
    pub reason: String,
    /// A sentence.
    pub message: String,
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.normal { "Normal" } else { "Warning" };
        write!(f, "{kind:<7} {:<16} {}", self.reason, self.message)
    }
}

/// One cluster on some platform.
pub trait Platform: Send {
    /// The present moment by the platform's clock.
    fn now(&self) -> Timestamp;

    /// Looks at everything once.
    fn observe(&mut self, wanted: &Wanted) -> impl Future<Output = Result<Observed, Error>> + Send;

    /// Makes sure that something exists; idempotent.
    fn ensure(&mut self, wanted: &Wanted, what: &Ensure) -> impl Future<Output = Result<(), Error>> + Send;

    /// Begins work that disturbs nobody, in the background; beginning what is under way or done is harmless.
    fn begin(&mut self, wanted: &Wanted, due: &Due) -> impl Future<Output = Result<(), Error>> + Send;

    /// Carries out one step, to its end.
    fn carry_out(&mut self, wanted: &Wanted, step: &Step) -> impl Future<Output = Result<(), Error>> + Send;

    /// Stores the journal so that the next look finds it.
    fn persist(&mut self, journal: &Journal) -> impl Future<Output = Result<(), Error>> + Send;

    /// Publishes what the plan says about the cluster.
    fn publish(&mut self, wanted: &Wanted, plan: &Plan) -> impl Future<Output = Result<(), Error>> + Send;

    /// Begins to measure what the key space consists of, beside reconciliation; none where nobody can be asked.
    fn measure(&mut self) -> Option<JoinHandle<Option<Usage>>> {
        None
    }

    /// Tells the owner something.
    fn tell(&mut self, event: &Event) -> impl Future<Output = ()> + Send;
}
