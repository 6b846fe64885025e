//! A client that writes through all acts and remembers what it was told.
//!
//! Every key is written once: what a key holds is known from its name. A write that failed may or may not have
//! happened; only what was acknowledged is held against the cluster.
//!
//! Invariant: an acknowledged write is on the list before the next one begins, with the revision that it was told.

use super::stage::{access, endpoints};
use crate::member::connect;
use crate::platform::local::records::Layout;
use anyhow::{Context, bail, ensure};
use etcd_client::{Client, GetOptions};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;

const PREFIX: &str = "demo/";
/// Between two writes: a steady load that a loaded machine can carry.
const PAUSE: Duration = Duration::from_millis(10);
/// A write that takes longer is given up and done again.
const PATIENCE: Duration = Duration::from_secs(2);

#[derive(Debug, Default)]
struct Told {
    /// Revision of each acknowledged write by its number.
    acknowledged: BTreeMap<u64, i64>,
    attempted: u64,
    last: Option<Instant>,
    longest_gap: Duration,
    went_back: Option<(i64, i64)>,
}

/// Writes in the background until it is dropped.
pub struct Writer {
    layout: Layout,
    told: Arc<Mutex<Told>>,
    paused: Arc<AtomicBool>,
    idle: Arc<AtomicBool>,
    task: JoinHandle<()>,
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Writer {
    pub fn start(layout: Layout) -> Writer {
        let told = Arc::new(Mutex::new(Told::default()));
        let (paused, idle) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let task = tokio::spawn(write(
            layout.clone(),
            Arc::clone(&told),
            Arc::clone(&paused),
            Arc::clone(&idle),
        ));
        Writer {
            layout,
            told,
            paused,
            idle,
            task,
        }
    }

    fn told(&self) -> std::sync::MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn acknowledged(&self) -> usize {
        self.told().acknowledged.len()
    }

    /// Waits until `count` more writes are acknowledged.
    pub async fn more(&mut self, count: usize, most: Duration) -> anyhow::Result<()> {
        let (end, goal) = (Instant::now() + most, self.acknowledged() + count);
        while self.acknowledged() < goal {
            ensure!(
                Instant::now() < end,
                "waited {} s for {count} writes, {} missing",
                most.as_secs(),
                goal - self.acknowledged()
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    pub fn forget_gap(&mut self) {
        self.told().longest_gap = Duration::ZERO;
    }

    /// The longest time without an acknowledged write since [`Self::forget_gap`].
    pub fn longest_gap(&self) -> Duration {
        self.told().longest_gap
    }

    /// Stops writing; returns when the write under way has ended.
    pub async fn pause(&mut self) {
        self.paused.store(true, Ordering::SeqCst);
        while !self.idle.load(Ordering::SeqCst) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    pub fn resume(&mut self) {
        self.told().last = None;
        self.paused.store(false, Ordering::SeqCst);
    }

    /// Reads everything back and compares.
    pub async fn check(&mut self, what: &str) -> anyhow::Result<String> {
        let (must, attempted) = {
            let told = self.told();
            if let Some((before, after)) = told.went_back {
                bail!("the revision went back from {before} to {after}");
            }
            (told.acknowledged.clone(), told.attempted)
        };
        let (found, _) = read_all(&self.layout).await?;
        for number in must.keys() {
            ensure!(found.contains_key(number), "acknowledged write {number} is missing");
        }
        // Reading happens beside the writer: newer ones than those counted above may be there.
        ensure!(attempted > 0, "nothing was written");
        Ok(format!("{what}: {} of {}", must.len(), must.len()))
    }

    /// Compares a cluster that was restored from a backup at `revision` with what was acknowledged up to there.
    pub async fn compare_restored(&mut self, restored: &Layout, revision: i64) -> anyhow::Result<String> {
        let (must, attempted) = {
            let told = self.told();
            (told.acknowledged.clone(), told.attempted)
        };
        let (found, now) = read_all(restored).await?;
        let until: Vec<u64> = must
            .iter()
            .filter(|(_, told)| **told <= revision)
            .map(|(number, _)| *number)
            .collect();
        for number in &until {
            ensure!(
                found.contains_key(number),
                "write {number} was acknowledged before the backup and is not in it"
            );
        }
        for number in found.keys() {
            ensure!(*number <= attempted, "key {number} was never written");
            ensure!(
                must.get(number).is_none_or(|told| *told <= revision),
                "write {number} is newer than the backup"
            );
        }
        ensure!(
            now > revision,
            "the restored cluster begins at revision {now}, not above the backup's {revision}"
        );
        Ok(format!(
            "the new cluster has the same {} keys, its revisions begin above the backup's ({now} > {revision})",
            found.len()
        ))
    }
}

async fn client(layout: &Layout) -> anyhow::Result<(Client, Vec<String>)> {
    let endpoints = endpoints(layout)?;
    let list: Vec<&str> = endpoints.iter().map(String::as_str).collect();
    let client = connect(&list, Some(&access(layout)?)).await?;
    Ok((client, endpoints))
}

async fn write(layout: Layout, told: Arc<Mutex<Told>>, paused: Arc<AtomicBool>, idle: Arc<AtomicBool>) {
    let mut connected: Option<(Client, Vec<String>)> = None;
    loop {
        if paused.load(Ordering::SeqCst) {
            idle.store(true, Ordering::SeqCst);
            tokio::time::sleep(PAUSE).await;
            continue;
        }
        idle.store(false, Ordering::SeqCst);
        // Members come and go: connect anew when the endpoints are others, or when a write failed.
        if connected
            .as_ref()
            .is_some_and(|(_, known)| endpoints(&layout).is_ok_and(|now| now != *known))
        {
            connected = None;
        }
        if connected.is_none() {
            connected = client(&layout).await.ok();
        }
        let Some((client, _)) = &mut connected else {
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let number = {
            let mut told = told.lock().unwrap_or_else(PoisonError::into_inner);
            told.attempted += 1;
            told.attempted
        };
        let put = tokio::time::timeout(PATIENCE, client.put(key(number), value(number), None)).await;
        let revision = match &put {
            Ok(Ok(answer)) => answer.header().map(|header| header.revision()),
            _ => None,
        };
        match revision {
            Some(revision) => acknowledge(
                &mut told.lock().unwrap_or_else(PoisonError::into_inner),
                number,
                revision,
            ),
            None => {
                connected = None;
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
}

fn acknowledge(told: &mut Told, number: u64, revision: i64) {
    if let Some((_, before)) = told.acknowledged.last_key_value()
        && revision <= *before
    {
        told.went_back.get_or_insert((*before, revision));
    }
    let now = Instant::now();
    if let Some(last) = told.last {
        told.longest_gap = told.longest_gap.max(now - last);
    }
    told.last = Some(now);
    told.acknowledged.insert(number, revision);
}

/// All numbers that are there, each with the right value; and the revision that they were read at.
async fn read_all(layout: &Layout) -> anyhow::Result<(BTreeMap<u64, i64>, i64)> {
    let end = Instant::now() + Duration::from_secs(15);
    let answer = loop {
        let (mut client, _) = client(layout).await?;
        let options = GetOptions::new().with_prefix();
        match tokio::time::timeout(Duration::from_secs(5), client.get(PREFIX, Some(options))).await {
            Ok(Ok(answer)) => break answer,
            Ok(Err(error)) if Instant::now() > end => return Err(error).context("cannot read everything back"),
            Err(_) if Instant::now() > end => bail!("reading everything back takes too long"),
            _ => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    };
    let mut found = BTreeMap::new();
    for pair in answer.kvs() {
        let number: u64 = pair
            .key_str()?
            .trim_start_matches(PREFIX)
            .parse()
            .context("a key that nobody wrote")?;
        ensure!(
            pair.value() == value(number).as_bytes(),
            "key {number} holds something else"
        );
        found.insert(number, pair.mod_revision());
    }
    Ok((found, answer.header().map_or(0, |header| header.revision())))
}

fn key(number: u64) -> String {
    format!("{PREFIX}{number:08}")
}

fn value(number: u64) -> String {
    format!("value {number} of the demo")
}
