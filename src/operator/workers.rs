//! One worker per object, so that a sick one never slows its neighbour; each with a queue of length one.
//!
//! Invariants:
//! 1. For one object one worker runs at a time, and it does one thing at a time.
//! 2. A wake-up is never lost: one that comes while the worker works makes it look again afterwards.
//! 3. A worker that ended by itself, even by a panic, is replaced as long as its object is there ([`Workers::sweep`]).

use super::watches::Key;
use crate::clock;
use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;

/// Events come in bursts (a pod's start is half a dozen); they are waited for this long, and make one round.
const BURST: Duration = Duration::from_millis(50);

/// What a worker does for its object, again and again.
pub type Work = Pin<Box<dyn Future<Output = ()> + Send>>;
type Begin = Box<dyn Fn(Key, Pace) -> Option<Work> + Send + Sync>;

/// How a worker waits.
#[derive(Debug, Clone)]
pub struct Pace {
    wake: Arc<Notify>,
    stop: watch::Receiver<bool>,
}

/// What ended a pause.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Waited {
    /// It was over.
    Rested,
    /// Something changed.
    Woken,
    /// There is to be no more work.
    Stopped,
}

impl Pace {
    /// Waits until `pause` is over, or until woken (but never for a shorter time than `least`), or told to stop.
    pub async fn wait(&mut self, pause: Duration, least: Duration) -> Waited {
        let wake = Arc::clone(&self.wake);
        let woken = async {
            clock::sleep(least.min(pause)).await;
            wake.notified().await;
            clock::sleep(BURST).await;
        };
        let waited = tokio::select! {
            biased;
            () = woken => Waited::Woken,
            () = clock::sleep(pause) => Waited::Rested,
            _ = self.stop.wait_for(|stop| *stop) => Waited::Stopped,
        };
        match *self.stop.borrow() {
            true => Waited::Stopped,
            false => waited,
        }
    }
}

struct Worker {
    wake: Arc<Notify>,
    task: JoinHandle<()>,
}

/// The workers for one kind.
#[derive(Clone)]
pub struct Workers {
    kind: &'static str,
    begin: Arc<Begin>,
    stop: watch::Receiver<bool>,
    running: Arc<Mutex<HashMap<Key, Worker>>>,
}

impl Workers {
    /// `begin` gives the work for an object, or none when there is no such object.
    pub fn new(
        kind: &'static str,
        stop: watch::Receiver<bool>,
        begin: impl Fn(Key, Pace) -> Option<Work> + Send + Sync + 'static,
    ) -> Workers {
        Workers {
            kind,
            begin: Arc::new(Box::new(begin)),
            stop,
            running: Arc::default(),
        }
    }

    /// Makes the worker of an object look again; begins one where none runs.
    pub fn wake(&self, key: &Key) {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        match running.get(key) {
            // A permit is kept for a worker that does not wait at this moment.
            Some(worker) if !worker.task.is_finished() => worker.wake.notify_one(),
            _ if *self.stop.borrow() => {}
            _ => {
                let wake = Arc::new(Notify::new());
                let pace = Pace {
                    wake: Arc::clone(&wake),
                    stop: self.stop.clone(),
                };
                match (self.begin)(key.clone(), pace) {
                    Some(work) => {
                        let task = tokio::spawn(work);
                        running.insert(key.clone(), Worker { wake, task });
                    }
                    None => {
                        running.remove(key);
                    }
                }
            }
        }
    }

    /// Gives every object its worker: what was missed by a race or lost by a panic.
    pub fn sweep(&self, keys: impl Iterator<Item = Key>) {
        let idle: Vec<Key> = {
            let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
            let idle = keys
                .filter(|key| running.get(key).is_none_or(|worker| worker.task.is_finished()))
                .collect();
            running.retain(|key, worker| {
                let ended = worker.task.is_finished();
                if ended {
                    tracing::debug!(kind = self.kind, %key, "a worker ended");
                }
                !ended
            });
            idle
        };
        for key in idle {
            self.wake(&key);
        }
    }

    /// How many run.
    pub fn count(&self) -> usize {
        self.running.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Waits until all have ended what they were about; those that take longer are cut short. Set `stop` before.
    pub async fn finish(&self, patience: Duration) {
        let workers: Vec<(Key, Worker)> = {
            let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
            running.drain().collect()
        };
        let end = clock::now() + patience;
        for (key, mut worker) in workers {
            if clock::timeout_at(end, &mut worker.task).await.is_err() {
                tracing::warn!(kind = self.kind, %key, "cut short: the next operator goes on from what it finds");
                worker.task.abort();
            }
        }
    }

    /// Ends all at once, in the middle of what they do.
    pub fn abort(&self) {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        for (_, worker) in running.drain() {
            worker.task.abort();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    fn key(name: &str) -> Key {
        Key {
            namespace: "n".into(),
            name: name.into(),
        }
    }

    /// A worker that counts its rounds, each of which takes a fifth of a second.
    fn counting(stop: watch::Receiver<bool>, rounds: &Arc<AtomicUsize>) -> Workers {
        let rounds = Arc::clone(rounds);
        Workers::new("test", stop, move |_, mut pace| {
            let rounds = Arc::clone(&rounds);
            Some(Box::pin(async move {
                loop {
                    tokio::time::sleep(Duration::from_millis(200)).await;
                    rounds.fetch_add(1, Ordering::SeqCst);
                    if pace.wait(Duration::from_secs(3600), Duration::ZERO).await == Waited::Stopped {
                        return;
                    }
                }
            }))
        })
    }

    #[tokio::test]
    async fn a_wake_up_during_a_round_makes_exactly_one_more() {
        let (_stop, stopped) = watch::channel(false);
        let rounds = Arc::new(AtomicUsize::new(0));
        let workers = counting(stopped, &rounds);
        workers.wake(&key("a"));
        tokio::time::sleep(Duration::from_millis(100)).await;
        for _ in 0..10 {
            workers.wake(&key("a"));
        }
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert_eq!(rounds.load(Ordering::SeqCst), 2);
        assert_eq!(workers.count(), 1);
    }

    #[tokio::test]
    async fn told_to_stop_a_worker_ends_its_round_and_begins_no_other() {
        let (stop, stopped) = watch::channel(false);
        let rounds = Arc::new(AtomicUsize::new(0));
        let workers = counting(stopped, &rounds);
        workers.wake(&key("a"));
        tokio::time::sleep(Duration::from_millis(100)).await;
        stop.send(true).unwrap();
        workers.wake(&key("b"));
        workers.finish(Duration::from_secs(5)).await;
        assert_eq!(
            rounds.load(Ordering::SeqCst),
            1,
            "the round of a was ended, b never began"
        );
    }

    #[tokio::test]
    async fn a_worker_that_panicked_is_replaced_by_the_next_sweep() {
        let (_stop, stopped) = watch::channel(false);
        let begun = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&begun);
        let workers = Workers::new("test", stopped, move |_, _| {
            let first = count.fetch_add(1, Ordering::SeqCst) == 0;
            Some(Box::pin(async move {
                assert!(!first, "the first one fails on purpose");
                std::future::pending().await
            }))
        });
        workers.sweep([key("a")].into_iter());
        tokio::time::sleep(Duration::from_millis(100)).await;
        workers.sweep([key("a")].into_iter());
        tokio::time::sleep(Duration::from_millis(100)).await;
        workers.sweep([key("a")].into_iter());
        assert_eq!(begun.load(Ordering::SeqCst), 2);
    }
}
