//! What the operator takes from the machine that it runs on, besides the API server: the time of day, chance, the way to
//! members, and a thread for what must not wait. A simulator brings its own, so that one seed makes one story.
//!
//! Invariant: spans of time are measured by `crate::clock`, which a simulator moves; only dates come from here.

use crate::member::calls::{Network, Reach};
use crate::plan::Timestamp;
use std::convert::Infallible;
use std::fmt::Debug;
use std::future::Future;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};
use tokio::runtime::Handle;
use tokio::sync::oneshot;

/// The machine around the operator.
pub trait Surroundings: Debug + Send + Sync {
    /// The time of day.
    fn now(&self) -> SystemTime;

    /// A number that nobody can foresee.
    fn random(&self) -> u64;

    /// The way to members.
    fn reach(&self) -> Arc<dyn Reach>;

    /// Where what must not wait behind other work of this process is done. Fails when the system gives no thread.
    fn aside(&self) -> std::io::Result<Aside>;

    /// The time of day, as the planner takes it.
    fn timestamp(&self) -> Timestamp {
        let since = self.now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Timestamp(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
    }
}

/// The machine that this runs on.
#[derive(Debug, Clone, Copy, Default)]
pub struct Machine;

impl Surroundings for Machine {
    fn now(&self) -> SystemTime {
        SystemTime::now()
    }

    fn random(&self) -> u64 {
        rand::random()
    }

    fn reach(&self) -> Arc<dyn Reach> {
        Arc::new(Network)
    }

    fn aside(&self) -> std::io::Result<Aside> {
        Aside::thread("aside")
    }
}

/// Where what must not wait behind other work is done.
#[derive(Debug)]
pub struct Aside {
    handle: Handle,
    /// Ends the thread when dropped.
    _ends: Option<oneshot::Sender<Infallible>>,
}

impl Aside {
    /// Among all else: for one thread on which a seed decides who goes on.
    pub fn here() -> Aside {
        Aside {
            handle: Handle::current(),
            _ends: None,
        }
    }

    /// On a thread of its own, until this is dropped. Fails when the system gives no thread.
    pub fn thread(name: &str) -> std::io::Result<Aside> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let (ends, ended) = oneshot::channel::<Infallible>();
        std::thread::Builder::new().name(name.to_owned()).spawn(move || {
            // Nothing is ever sent: it ends when the other side is dropped.
            let _ = runtime.block_on(ended);
        })?;
        Ok(Aside {
            handle,
            _ends: Some(ends),
        })
    }

    /// Begins `work` there; what it spawns is there too.
    pub fn spawn<F>(&self, work: F) -> tokio::task::JoinHandle<F::Output>
    where
        F: Future<Output: Send> + Send + 'static,
    {
        self.handle.spawn(work)
    }

    /// Does `make` in place, so that what it spawns is there: a client has a task of its own.
    pub fn inside<T>(&self, make: impl FnOnce() -> T) -> T {
        let _there = self.handle.enter();
        make()
    }
}
