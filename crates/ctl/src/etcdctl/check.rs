//! check perf, check datascale: a load for some time, and whether the cluster bears it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use proto::etcdserverpb as pb;
use tokio::task::JoinSet;

use super::client::{Client, Failure, Policy};
use super::keys::prefix_end;
use super::session::{put_key, range, revision};
use super::{BAD_FEATURE, ERROR, Exit, INVALID_INPUT, Session, connect, print};
use crate::gotext::quote;

/// How long `check perf` writes.
const PERF_SECONDS: u64 = 60;
/// Bytes of keys and values that `check perf` writes.
const PERF_KEY: usize = 256;
const PERF_VALUE: usize = 1024;
/// Bytes of keys and of values that `check datascale` writes.
const SCALE_BYTES: usize = 512;

/// The letters that name a load.
fn load(run: &Session) -> Result<usize, Exit> {
    match run.call.text("load").as_str() {
        "s" | "small" => Ok(0),
        "m" | "medium" => Ok(1),
        "l" | "large" => Ok(2),
        "xl" | "xLarge" => Ok(3),
        other => Err(Exit::new(BAD_FEATURE, format!("unknown load option {other}"))),
    }
}

/// What happened to the requests of a load.
#[derive(Default)]
struct Report {
    seconds: Vec<f64>,
    errors: BTreeMap<String, u64>,
}

impl Report {
    fn add(&mut self, other: Report) {
        self.seconds.extend(other.seconds);
        for (error, count) in other.errors {
            *self.errors.entry(error).or_default() += count;
        }
    }

    fn slowest(&self) -> f64 {
        self.seconds.iter().copied().fold(0.0, f64::max)
    }

    fn deviation(&self) -> f64 {
        let count = self.seconds.len().max(1) as f64;
        let mean = self.seconds.iter().sum::<f64>() / count;
        let squares: f64 = self.seconds.iter().map(|seconds| (seconds - mean).powi(2)).sum();
        (squares / count).sqrt()
    }

    fn show_errors(&self) {
        if !self.errors.is_empty() {
            say("FAIL: too many errors");
        }
        for (error, count) in &self.errors {
            say(&format!("FAIL: ERROR({error}) -> {count}"));
        }
    }
}

fn say(line: &str) {
    print::write_out(format!("{line}\n").as_bytes());
}

/// Keys that nobody writes twice in a run.
fn key(prefix: &str, number: u64, length: usize) -> Vec<u8> {
    // Spread over the whole range, as random keys are; multiplication by an odd number meets every number once.
    let spread = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mut key = prefix.as_bytes().to_vec();
    key.extend_from_slice(&spread.to_be_bytes());
    key.resize(prefix.len() + length, 0);
    key
}

async fn put(client: &Client, key: Vec<u8>, value: &[u8], report: &mut Report) {
    let request = put_key(&key, value, 0);
    let began = Instant::now();
    let answer: Result<pb::PutResponse, Failure> =
        client.call("/etcdserverpb.KV/Put", Policy::Once, &request, None).await;
    match answer {
        Ok(_) => report.seconds.push(began.elapsed().as_secs_f64()),
        Err(failure) => *report.errors.entry(failure.to_string()).or_default() += 1,
    }
}

async fn refuse_used(client: &Client, prefix: &str, hint: &str) -> Result<(), Exit> {
    let request = pb::RangeRequest {
        key: prefix.as_bytes().to_vec().into(),
        range_end: prefix_end(prefix.as_bytes()).into(),
        limit: 1,
        ..Default::default()
    };
    match range(client, &request).await?.kvs.is_empty() {
        true => Ok(()),
        false => {
            let prefix = quote(prefix.as_bytes());
            Err(Exit::new(INVALID_INPUT, format!("prefix {prefix} has keys. {hint}")))
        }
    }
}

/// Removes what the load wrote, and its history if that is wanted.
async fn clean_up(run: &Session, client: &Client, prefix: &str) -> Result<(), Failure> {
    let deadline = || Some(Instant::now() + Duration::from_secs(30));
    let request = pb::DeleteRangeRequest {
        key: prefix.as_bytes().to_vec().into(),
        range_end: prefix_end(prefix.as_bytes()).into(),
        ..Default::default()
    };
    let method = "/etcdserverpb.KV/DeleteRange";
    let gone: pb::DeleteRangeResponse = client.call(method, Policy::Once, &request, deadline()).await?;
    if run.call.bool("auto-compact") {
        let revision = revision(gone.header.as_ref());
        say(&format!("Compacting with revision {revision}"));
        let request = pb::CompactionRequest {
            revision,
            physical: true,
        };
        let method = "/etcdserverpb.KV/Compact";
        let _done: pb::CompactionResponse = client.call(method, Policy::Once, &request, deadline()).await?;
        say(&format!("Compacted with revision {revision}"));
    }
    Ok(())
}

async fn defragment(run: &mut Session) -> Result<(), Exit> {
    if !run.call.bool("auto-defrag") {
        return Ok(());
    }
    let (config, _) = run.config()?;
    for endpoint in config.endpoints.clone() {
        let name = quote(endpoint.as_bytes());
        say(&format!("Defragmenting {name}"));
        let mut one = config.clone();
        one.endpoints = vec![endpoint];
        let client = connect(one).await?;
        let deadline = Some(Instant::now() + Duration::from_secs(30));
        let method = "/etcdserverpb.Maintenance/Defragment";
        let request = pb::DefragmentRequest {};
        let _done: pb::DefragmentResponse = client.call(method, Policy::Once, &request, deadline).await?;
        say(&format!("Defragmented {name}"));
    }
    Ok(())
}

pub(super) async fn perf(run: &mut Session) -> Result<(), Exit> {
    let load = load(run)?;
    let rate: u64 = [150, 1000, 8000, 15000][load];
    let clients = [50, 200, 500, 1000][load];
    let prefix = run.call.text("prefix");
    let (config, _) = run.config()?;
    let first = connect(config.clone()).await?;
    refuse_used(
        &first,
        &prefix,
        &format!("Delete with 'etcdctl del --prefix {prefix}' first"),
    )
    .await?;
    let began = Instant::now();
    let end = began + Duration::from_secs(PERF_SECONDS);
    let number = Arc::new(AtomicU64::new(0));
    let mut writing = JoinSet::new();
    for _ in 0..clients {
        let (number, prefix) = (number.clone(), prefix.clone());
        let client = connect(config.clone()).await?;
        writing.spawn(async move {
            let mut report = Report::default();
            let value = vec![0; PERF_VALUE];
            loop {
                // Every request has its moment; who is late takes the next one at once.
                let number = number.fetch_add(1, Ordering::Relaxed);
                let due = began + Duration::from_secs_f64(number as f64 / rate as f64);
                if due >= end {
                    return report;
                }
                tokio::time::sleep_until(due.into()).await;
                put(&client, key(&prefix, number, PERF_KEY), &value, &mut report).await;
            }
        });
    }
    let mut report = Report::default();
    let interrupted = loop {
        tokio::select! {
            next = writing.join_next() => match next {
                Some(Ok(part)) => report.add(part),
                Some(Err(_)) => {}
                None => break false,
            },
            _ = tokio::signal::ctrl_c() => break true,
        }
    };
    let elapsed = began.elapsed().as_secs_f64();
    if interrupted {
        writing.abort_all();
    }
    if let Err(failure) = clean_up(run, &first, &prefix).await {
        say(&format!("FAIL: Cleanup failed during key deletion: ERROR({failure})"));
    }
    if interrupted {
        return Err(Exit::new(ERROR, "interrupted"));
    }
    defragment(run).await?;
    report.show_errors();
    let mut good = report.errors.is_empty();
    let throughput = report.seconds.len() as f64 / elapsed;
    let mut judge = |fine: bool, pass: String, fail: String| {
        say(if fine { &pass } else { &fail });
        good &= fine;
    };
    let writes = throughput as u64 + 1;
    judge(
        throughput / rate as f64 > 0.9,
        format!("PASS: Throughput is {writes} writes/s"),
        format!("FAIL: Throughput too low: {writes} writes/s"),
    );
    let slowest = report.slowest();
    judge(
        slowest <= 0.5,
        format!("PASS: Slowest request took {slowest:.6}s"),
        format!("Slowest request took too long: {slowest:.6}s"),
    );
    let deviation = report.deviation();
    judge(
        deviation <= 0.1,
        format!("PASS: Stddev is {deviation:.6}s"),
        format!("Stddev too high: {deviation:.6}s"),
    );
    say(if good { "PASS" } else { "FAIL" });
    match good {
        true => Ok(()),
        false => Err(Exit::silent(ERROR)),
    }
}

/// Bytes of memory that the first endpoint's process holds.
async fn memory(client: &Client, when: &str) -> Result<f64, Exit> {
    const NAME: &str = "process_resident_memory_bytes";
    let failed = || {
        say(&format!("FAIL: Could not read {NAME} {when} the put operations."));
        Exit::silent(ERROR)
    };
    let page = client.fetch("/metrics").await.map_err(|why| {
        say(&format!("fetch error: {why}"));
        failed()
    })?;
    let value = page.lines().find_map(|line| line.strip_prefix(NAME));
    value.and_then(|value| value.trim().parse().ok()).ok_or_else(failed)
}

pub(super) async fn datascale(run: &mut Session) -> Result<(), Exit> {
    let load = load(run)?;
    let pairs: u64 = [10_000, 100_000, 1_000_000, 3_000_000][load];
    let clients = [50, 200, 500, 1000][load];
    let prefix = run.call.text("prefix");
    let (config, _) = run.config()?;
    let first = connect(config.clone()).await?;
    refuse_used(
        &first,
        &prefix,
        &format!("Delete with etcdctl del --prefix {prefix} first"),
    )
    .await?;
    let before = memory(&first, "before").await?;
    say(&format!(
        "Start data scale check for work load [{pairs} key-value pairs, {} bytes per key-value, {clients} concurrent clients].",
        2 * SCALE_BYTES
    ));
    let number = Arc::new(AtomicU64::new(0));
    let mut writing = JoinSet::new();
    for _ in 0..clients {
        let (number, prefix) = (number.clone(), prefix.clone());
        let client = connect(config.clone()).await?;
        writing.spawn(async move {
            let mut report = Report::default();
            let value = vec![0; SCALE_BYTES];
            loop {
                let number = number.fetch_add(1, Ordering::Relaxed);
                if number >= pairs {
                    return report;
                }
                put(&client, key(&prefix, number, SCALE_BYTES), &value, &mut report).await;
            }
        });
    }
    let mut report = Report::default();
    while let Some(part) = writing.join_next().await {
        report.add(part.unwrap_or_default());
    }
    let after = memory(&first, "after").await?;
    clean_up(run, &first, &prefix).await?;
    defragment(run).await?;
    if !report.errors.is_empty() {
        report.show_errors();
        return Err(Exit::silent(ERROR));
    }
    let used = (after - before) / (1024.0 * 1024.0);
    say(&format!("PASS: Approximate system memory used : {used:.2} MB."));
    Ok(())
}
