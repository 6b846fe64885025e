//! A steady load of writes, sent whether or not earlier ones were answered, with a record of every outcome.
//!
//! Invariants:
//! 1. A value is sent once.
//! 2. What is in flight is bounded; when the bound is reached no write is begun, and that is counted.

use crate::access::Access;
use crate::history::{Attempt, Outcome, Verdict, judge};
use anyhow::Context;
use etcd_client::{Client, KvClient};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Keys that are written.
const KEYS: usize = 64;
/// Writes in flight.
const IN_FLIGHT_MAX: usize = 1024;

/// Where the load goes.
#[derive(Debug, Clone)]
pub enum Target {
    /// Fixed endpoints.
    Fixed(Access),
    /// What a client.env says; read again while the load runs, as members come and go.
    ClientEnv(PathBuf),
    /// What somebody else keeps up to date, as a kubelet does with a mounted Secret.
    Shared(Arc<Mutex<Access>>),
}

impl Target {
    /// Endpoints and certificates of now.
    pub fn access(&self) -> anyhow::Result<Access> {
        match self {
            Target::Fixed(access) => Ok(access.clone()),
            Target::ClientEnv(path) => Access::from_client_env(path),
            Target::Shared(access) => Ok(lock(access).clone()),
        }
    }
}

/// A load that runs.
#[derive(Debug)]
pub struct Load {
    shared: Arc<Shared>,
    sender: tokio::task::JoinHandle<()>,
    prefix: String,
}

struct Shared {
    clients: Mutex<BTreeMap<String, KvClient>>,
    attempts: Mutex<Vec<Attempt>>,
    /// Highest revision that any answer told.
    known: AtomicI64,
    stop: AtomicBool,
    in_flight: AtomicUsize,
    skipped: AtomicUsize,
    /// Calls that failed, and whose one retry failed as well.
    failed: Mutex<Vec<String>>,
    retried: AtomicUsize,
    /// Since when a write is waited for, and when the first that was begun after that was acknowledged.
    awaited: Mutex<(Option<Instant>, Option<Instant>)>,
    gap: Mutex<Gap>,
}

/// Times between two acknowledgements.
struct Gap {
    longest: Duration,
    since_mark: Duration,
    last: Instant,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Shared {{ in_flight: {} }}", self.in_flight.load(Ordering::Relaxed))
    }
}

/// What became of a load.
#[derive(Debug)]
pub struct Summary {
    /// Every attempt.
    pub attempts: Vec<Attempt>,
    /// Calls whose first try and whose one retry failed, with the reason.
    pub failed: Vec<String>,
    /// Calls that needed their retry.
    pub retried: usize,
    /// Writes that were not begun because too many were in flight.
    pub skipped: usize,
    /// Longest time without an acknowledgement.
    pub longest_gap: Duration,
    prefix: String,
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Load {
    /// Begins: one put every `interval`, each to the next endpoint; one that fails or takes longer than `timeout` is
    /// tried once more elsewhere.
    pub fn start(target: Target, prefix: &str, interval: Duration, timeout: Duration) -> anyhow::Result<Load> {
        let shared = Arc::new(Shared {
            clients: Mutex::default(),
            attempts: Mutex::default(),
            known: AtomicI64::new(0),
            stop: AtomicBool::new(false),
            in_flight: AtomicUsize::new(0),
            skipped: AtomicUsize::new(0),
            failed: Mutex::default(),
            retried: AtomicUsize::new(0),
            awaited: Mutex::default(),
            gap: Mutex::new(Gap {
                longest: Duration::ZERO,
                since_mark: Duration::ZERO,
                last: Instant::now(),
            }),
        });
        let access = target.access()?;
        let (run, prefix_of_keys) = (Arc::clone(&shared), prefix.to_owned());
        let sender = tokio::spawn(send(run, target, access, prefix_of_keys, interval, timeout));
        Ok(Load {
            shared,
            sender,
            prefix: prefix.to_owned(),
        })
    }

    /// Forgets earlier waits: from now on the first acknowledged write that begins later is looked for.
    pub fn mark(&self) {
        lock(&self.shared.gap).since_mark = Duration::ZERO;
        *lock(&self.shared.awaited) = (Some(Instant::now()), None);
    }

    /// Time from the mark to the acknowledgement of the first write that began after it.
    pub async fn back(&self, limit: Duration) -> anyhow::Result<Duration> {
        let end = Instant::now() + limit;
        loop {
            if let (Some(since), Some(first)) = *lock(&self.shared.awaited) {
                return Ok(first - since);
            }
            if Instant::now() > end {
                anyhow::bail!("no write was acknowledged within {limit:?}");
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Longest time without an acknowledgement since the mark.
    pub fn gap(&self) -> Duration {
        let gap = lock(&self.shared.gap);
        gap.since_mark.max(gap.last.elapsed())
    }

    /// Calls so far that failed, and whose one retry failed as well.
    pub fn failures(&self) -> usize {
        lock(&self.shared.failed).len()
    }

    /// Attempts that have ended so far, one way or the other; [`Summary::attempts`] has them first.
    pub fn attempts(&self) -> usize {
        lock(&self.shared.attempts).len()
    }

    /// Acknowledged so far.
    pub fn acked(&self) -> usize {
        lock(&self.shared.attempts)
            .iter()
            .filter(|attempt| attempt.outcome != Outcome::Unknown)
            .count()
    }

    /// Ends the load and waits for what is in flight.
    pub async fn stop(self) -> Summary {
        self.shared.stop.store(true, Ordering::Relaxed);
        // It ends by itself; that it panicked would show in what is missing.
        let _ = self.sender.await;
        let end = Instant::now() + Duration::from_secs(30);
        while self.shared.in_flight.load(Ordering::Relaxed) > 0 && Instant::now() < end {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Summary {
            attempts: std::mem::take(&mut *lock(&self.shared.attempts)),
            failed: std::mem::take(&mut *lock(&self.shared.failed)),
            retried: self.shared.retried.load(Ordering::Relaxed),
            skipped: self.shared.skipped.load(Ordering::Relaxed),
            longest_gap: lock(&self.shared.gap).longest,
            prefix: self.prefix,
        }
    }
}

impl Summary {
    /// Compares with what the cluster remembers now.
    pub async fn verdict(&self, access: &Access) -> anyhow::Result<Verdict> {
        let (history, compacted) = access.history(&self.prefix).await?;
        Ok(judge(&self.attempts, &history, compacted))
    }

    /// Checks that every key holds its newest acknowledged value or a later one: for a key space whose history was
    /// compacted by a recovery. Returns how many keys were compared.
    pub async fn newest_kept(&self, access: &Access) -> anyhow::Result<usize> {
        let mut newest: BTreeMap<&str, (i64, &str)> = BTreeMap::new();
        for attempt in &self.attempts {
            if let Outcome::Acked(revision) = attempt.outcome {
                let entry = newest.entry(&attempt.key).or_insert((revision, &attempt.value));
                if revision > entry.0 {
                    *entry = (revision, &attempt.value);
                }
            }
        }
        let mut client = access.client().await?;
        for (key, (revision, value)) in &newest {
            let found = client.get(*key, None).await?;
            let found = found
                .kvs()
                .first()
                .with_context(|| format!("{key}, acknowledged at {revision}, is gone"))?;
            anyhow::ensure!(
                found.mod_revision() > *revision || found.value() == value.as_bytes(),
                "{key} = {value}, acknowledged at {revision}, is {:?} of {}",
                found.value_str(),
                found.mod_revision()
            );
        }
        Ok(newest.len())
    }

    /// [`Summary::verdict`] as the result of a check.
    pub async fn judged(&self, access: &Access) -> anyhow::Result<String> {
        let verdict = self.verdict(access).await?;
        if verdict.acked == 0 {
            anyhow::bail!("no write was acknowledged at all");
        }
        if !verdict.good() {
            anyhow::bail!("{}", verdict.describe());
        }
        Ok(verdict.describe())
    }
}

async fn send(
    shared: Arc<Shared>,
    target: Target,
    mut access: Access,
    prefix: String,
    interval: Duration,
    timeout: Duration,
) {
    let mut ticks = tokio::time::interval(interval);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut read = Instant::now();
    for n in 0usize.. {
        ticks.tick().await;
        if shared.stop.load(Ordering::Relaxed) {
            return;
        }
        if read.elapsed() > Duration::from_millis(250) {
            // While it is being replaced the former content goes on.
            access = target.access().unwrap_or(access);
            read = Instant::now();
        }
        if shared.in_flight.load(Ordering::Relaxed) >= IN_FLIGHT_MAX {
            shared.skipped.fetch_add(1, Ordering::Relaxed);
            continue;
        }
        shared.in_flight.fetch_add(1, Ordering::Relaxed);
        let (shared, access, key) = (Arc::clone(&shared), access.clone(), format!("{prefix}{:02}", n % KEYS));
        tokio::spawn(async move {
            let mut endpoints: Vec<String> = access.endpoints.clone();
            let first = n % endpoints.len().max(1);
            endpoints.rotate_left(first);
            let mut errors = Vec::new();
            for (attempt, endpoint) in endpoints.iter().cycle().take(2).enumerate() {
                if attempt == 1 {
                    shared.retried.fetch_add(1, Ordering::Relaxed);
                }
                match put(&shared, &access, endpoint, &key, format!("{n}.{attempt}"), timeout).await {
                    Ok(()) => break,
                    Err(error) => errors.push(format!("{endpoint}: {error:#}")),
                }
            }
            if errors.len() == 2 {
                lock(&shared.failed).push(errors.join(", then "));
            }
            shared.in_flight.fetch_sub(1, Ordering::Relaxed);
        });
    }
}

async fn put(
    shared: &Shared,
    access: &Access,
    endpoint: &str,
    key: &str,
    value: String,
    timeout: Duration,
) -> anyhow::Result<()> {
    let floor = shared.known.load(Ordering::SeqCst);
    let began = Instant::now();
    let answer = tokio::time::timeout(timeout, async {
        let mut client = shared.client(access, endpoint, timeout).await?;
        anyhow::Ok(client.put(key, value.clone(), None).await?)
    })
    .await
    .context("no answer in time")
    .flatten();
    let (outcome, result) = match answer.and_then(|answer| Ok(answer.header().context("no header")?.revision())) {
        Ok(revision) => {
            shared.known.fetch_max(revision, Ordering::SeqCst);
            shared.acknowledged(began);
            (Outcome::Acked(revision), Ok(()))
        }
        Err(error) => {
            // A connection that failed once may be to a member that is gone for good; the next use makes a new one.
            lock(&shared.clients).remove(endpoint);
            (Outcome::Unknown, Err(error))
        }
    };
    lock(&shared.attempts).push(Attempt {
        key: key.to_owned(),
        value,
        floor,
        outcome,
    });
    result
}

impl Shared {
    async fn client(&self, access: &Access, endpoint: &str, timeout: Duration) -> anyhow::Result<KvClient> {
        if let Some(client) = lock(&self.clients).get(endpoint) {
            return Ok(client.clone());
        }
        let client: Client = access.client_of(&[endpoint.to_owned()], timeout).await?;
        let client = client.kv_client();
        lock(&self.clients).insert(endpoint.to_owned(), client.clone());
        Ok(client)
    }

    fn acknowledged(&self, began: Instant) {
        let now = Instant::now();
        let mut awaited = lock(&self.awaited);
        if awaited.1.is_none() && awaited.0.is_some_and(|since| began >= since) {
            awaited.1 = Some(now);
        }
        drop(awaited);
        let mut gap = lock(&self.gap);
        let length = now - gap.last;
        gap.longest = gap.longest.max(length);
        gap.since_mark = gap.since_mark.max(length);
        gap.last = now;
    }
}
