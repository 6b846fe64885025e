//! More than three members can do, and clients that hold connections without using them: shed with errors and not with memory,
//! and those who behave do not notice.
//!
//! Invariants:
//! - Times are printed, never asserted: machines are shared. What is asserted: errors are etcd's or the client's own deadline, memory stays
//!   below a bound, nothing acknowledged is lost, and afterwards everything works as before.
//! - Everything goes to the loopback address, bounded in number and time.

use crate::access::Access;
use crate::process::{Programs, rss_mib};
use crate::report::Report;
use crate::servers::{Servers, Tls};
use anyhow::{Context, ensure};
use etcd_client::{Client, GetOptions, SortOrder, SortTarget};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

/// How much is done.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// Connections that are opened and not used.
    #[arg(long, default_value_t = 1_500)]
    pub idle: usize,
    /// Seconds of each part.
    #[arg(long, default_value_t = 8)]
    pub seconds: u64,
    /// How many times what the members can do.
    #[arg(long, default_value_t = 4)]
    pub factor: usize,
    /// Run real etcd in place of ours, for comparison.
    #[arg(long)]
    pub etcd: bool,
}

/// Callers at the same time when it is measured what the members can do.
const CALLERS: usize = 32;
/// A client's patience with one request.
const PATIENCE: Duration = Duration::from_secs(5);
/// What a member may take beyond what it has in peace, in MiB.
const MEMORY_MAX: f64 = 768.0;
/// Bytes of a value that is written.
const VALUE: usize = 8 << 10;
/// Keys that an expensive read sorts.
const SORTED: usize = 20_000;

/// Runs the suite.
pub async fn suite(programs: &Programs, options: &Options) -> anyhow::Result<bool> {
    let mut report = Report::new("overload");
    let directory = tempfile::tempdir()?;
    let tls = Tls::new(&directory.path().join("tls"))?;
    let program = match options.etcd {
        true => programs.upstream("etcd")?,
        false => programs.server.clone(),
    };
    let mut members = Servers::with_tls(directory.path(), &vec![program; 3], &[], Some(tls))?;
    members.start_all().await?;
    let access = members.access();
    let part = Duration::from_secs(options.seconds);

    let mut times = good_clients(&access, part).await?;
    report.figure("good clients in peace", times.describe());

    for (what, how) in [
        ("connections that say nothing", Held::Silent),
        ("TLS handshakes that stop in the middle", Held::HalfHandshake),
        ("TLS handshakes byte by byte", Held::Slow),
    ] {
        let stop = Arc::new(AtomicBool::new(false));
        let held = hold(&access, how, options.idle, Arc::clone(&stop)).await;
        times = good_clients(&access, part).await?;
        stop.store(true, Ordering::Relaxed);
        let seen = held.await?;
        let failed = times.failed;
        let text = format!("{seen}; good clients {}", times.describe());
        report.that(&format!("{}: {what}", options.idle), failed == 0, text);
    }

    let load = |kind, factor| overload(&access, &members, kind, factor, part);
    let result = load(Kind::Put, options.factor).await;
    report.check(
        &format!("{}x overload with writes of {VALUE} bytes", options.factor),
        result,
    );
    report.check("afterwards", calm(&access, part).await);
    fill(&access).await?;
    let result = load(Kind::Sort, options.factor).await;
    report.check(
        &format!("{}x overload with reads that sort {SORTED} keys", options.factor),
        result,
    );
    report.check("afterwards", calm(&access, part).await);
    report.check("all members have the same content", access.equal_hash().await);
    Ok(report.end())
}

/// Times of calls that were answered, and how many were not.
#[derive(Debug, Default)]
struct Times {
    all: Vec<Duration>,
    failed: usize,
    reasons: BTreeMap<String, usize>,
}

impl Times {
    fn describe(&mut self) -> String {
        self.all.sort();
        let at = |part: usize| {
            let place = (self.all.len() * part / 100).min(self.all.len().saturating_sub(1));
            self.all.get(place).map_or(0.0, |time| time.as_secs_f64() * 1000.0)
        };
        format!(
            "{} answered, {} failed, median {:.1} ms, p99 {:.1} ms",
            self.all.len(),
            self.failed,
            at(50),
            at(99)
        )
    }
}

/// Eight clients, each with a connection of its own and another one every second, that put and get twenty times a second.
async fn good_clients(access: &Access, time: Duration) -> anyhow::Result<Times> {
    let end = Instant::now() + time;
    let mut clients = JoinSet::new();
    for n in 0..8usize {
        let access = access.clone();
        clients.spawn(async move {
            let endpoint = &access.endpoints[n % access.endpoints.len()];
            let mut times = Times::default();
            let mut client = None;
            for turn in 0usize.. {
                if Instant::now() > end {
                    break;
                }
                let begin = Instant::now();
                if turn.is_multiple_of(20) {
                    client = access.client_of(std::slice::from_ref(endpoint), PATIENCE).await.ok();
                }
                let done = match &mut client {
                    None => Err("no connection".to_owned()),
                    Some(client) => call(client, Kind::Good, n * 10_000 + turn).await,
                };
                match done {
                    Ok(()) => times.all.push(begin.elapsed()),
                    Err(reason) => {
                        times.failed += 1;
                        *times.reasons.entry(reason).or_default() += 1;
                    }
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            times
        });
    }
    let mut all = Times::default();
    for times in clients.join_all().await {
        all.all.extend(times.all);
        all.failed += times.failed;
        all.reasons.extend(times.reasons);
    }
    Ok(all)
}

/// What is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Good,
    Put,
    Sort,
}

async fn call(client: &mut Client, kind: Kind, n: usize) -> Result<(), String> {
    let key = format!("overload/{}", n % 1000);
    let asked = async {
        match kind {
            Kind::Good if n.is_multiple_of(2) => client.get("good", None).await.map(drop),
            Kind::Good => client.put("good", "value", None).await.map(drop),
            Kind::Put => client.put(key, vec![7; VALUE], None).await.map(drop),
            Kind::Sort => {
                let options = GetOptions::new()
                    .with_prefix()
                    .with_sort(SortTarget::Value, SortOrder::Descend)
                    .with_limit(1);
                client.get("sorted/", Some(options)).await.map(drop)
            }
        }
    };
    match tokio::time::timeout(PATIENCE, asked).await {
        Err(_) => Err("no answer within the client's patience".to_owned()),
        Ok(Ok(())) => Ok(()),
        Ok(Err(etcd_client::Error::GRpcStatus(status))) => Err(format!("{:?}: {}", status.code(), status.message())),
        Ok(Err(error)) => Err(error.to_string()),
    }
}

/// How a connection is held.
#[derive(Debug, Clone, Copy)]
enum Held {
    Silent,
    HalfHandshake,
    Slow,
}

/// The beginning of a TLS record that announces 512 bytes, and some of them.
const HELLO: &[u8] = &[22, 3, 1, 2, 0, 1, 0, 1, 252, 3, 3, 1, 2, 3, 4, 5, 6, 7, 8, 9];

/// Opens connections, again where the server closes one, until it is told to stop; what was seen then.
async fn hold(access: &Access, how: Held, count: usize, stop: Arc<AtomicBool>) -> tokio::task::JoinHandle<String> {
    let addresses: Vec<String> = access
        .endpoints
        .iter()
        .map(|url| url.trim_start_matches("https://").to_owned())
        .collect();
    let opened = Arc::new(AtomicUsize::new(0));
    let mut tasks = JoinSet::new();
    for n in 0..count {
        let (address, stop, opened) = (
            addresses[n % addresses.len()].clone(),
            Arc::clone(&stop),
            Arc::clone(&opened),
        );
        tasks.spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                let Ok(mut stream) = TcpStream::connect(&address).await else {
                    tokio::time::sleep(Duration::from_millis(200)).await;
                    continue;
                };
                opened.fetch_add(1, Ordering::Relaxed);
                if matches!(how, Held::HalfHandshake) && stream.write_all(HELLO).await.is_err() {
                    continue;
                }
                let mut at = 0;
                let mut seen = [0; 64];
                while !stop.load(Ordering::Relaxed) {
                    let wait = tokio::time::timeout(Duration::from_millis(500), stream.readable()).await;
                    if wait.is_ok() && matches!(stream.try_read(&mut seen), Ok(0) | Err(_)) {
                        break;
                    }
                    if matches!(how, Held::Slow) {
                        let Some(byte) = HELLO.get(at) else { continue };
                        at += 1;
                        if stream.write_all(&[*byte]).await.is_err() {
                            break;
                        }
                    }
                }
            }
        });
    }
    let begin = Instant::now();
    while opened.load(Ordering::Relaxed) < count && begin.elapsed() < Duration::from_secs(10) {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    tokio::spawn(async move {
        tasks.join_all().await;
        format!("{} opened in all", opened.load(Ordering::Relaxed))
    })
}

/// `callers` that ask again as soon as they are answered.
async fn ask_all(access: &Access, kind: Kind, callers: usize, time: Duration) -> anyhow::Result<Times> {
    // Few connections, as of programs and not of people: what is many are the requests.
    let mut clients = Vec::new();
    for endpoint in &access.endpoints {
        for _ in 0..4 {
            clients.push(
                access
                    .client_of(std::slice::from_ref(endpoint), Duration::from_secs(60))
                    .await?,
            );
        }
    }
    let end = Instant::now() + time;
    let mut tasks = JoinSet::new();
    for n in 0..callers {
        let mut client = clients[n % clients.len()].clone();
        tasks.spawn(async move {
            let mut times = Times::default();
            for turn in 0usize.. {
                let begin = Instant::now();
                if begin > end {
                    break;
                }
                match call(&mut client, kind, n + turn * callers).await {
                    Ok(()) => times.all.push(begin.elapsed()),
                    Err(reason) => {
                        times.failed += 1;
                        *times.reasons.entry(reason).or_default() += 1;
                        tokio::time::sleep(Duration::from_millis(20)).await;
                    }
                }
            }
            times
        });
    }
    let mut all = Times::default();
    for times in tasks.join_all().await {
        all.all.extend(times.all);
        all.failed += times.failed;
        for (reason, count) in times.reasons {
            *all.reasons.entry(reason).or_default() += count;
        }
    }
    Ok(all)
}

fn memory(members: &Servers) -> f64 {
    members.pids().into_iter().filter_map(rss_mib).fold(0.0, f64::max)
}

/// Measures what the members can do, then asks for `factor` times as much: so many callers that, were all of them served, each within a
/// caller's patience, it would take so much.
async fn overload(
    access: &Access,
    members: &Servers,
    kind: Kind,
    factor: usize,
    time: Duration,
) -> anyhow::Result<String> {
    let peace = ask_all(access, kind, CALLERS, time).await?;
    let capacity = peace.all.len() as f64 / time.as_secs_f64();
    let before = memory(members);
    let callers = (capacity * PATIENCE.as_secs_f64()) as usize * factor;
    let callers = callers.clamp(CALLERS * factor, 40_000);
    let most = Arc::new(std::sync::Mutex::new(before));
    let watched = {
        let (most, pids) = (Arc::clone(&most), members.pids());
        tokio::spawn(async move {
            loop {
                let now = pids.iter().copied().filter_map(rss_mib).fold(0.0, f64::max);
                {
                    let mut most = most.lock().expect("no one panics");
                    *most = most.max(now);
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        })
    };
    let (many, good) = tokio::join!(ask_all(access, kind, callers, time), good_clients(access, time));
    watched.abort();
    let (many, mut good) = (many?, good?);
    let most = *most.lock().expect("no one panics");
    for (reason, count) in many.reasons.iter().take(6) {
        println!("        {count} times {reason}");
    }
    ensure!(members.pids().len() == 3, "a member died: {}", members.last_words());
    ensure!(
        most - before < MEMORY_MAX,
        "a member took {most:.0} MiB, and {before:.0} before; {callers} callers"
    );
    Ok(format!(
        "{capacity:.0} per second by {CALLERS} callers; {callers} callers: {:.0} per second answered, {:.0} refused or given up; \
         memory {before:.0} -> {most:.0} MiB; good clients meanwhile: {}",
        many.all.len() as f64 / time.as_secs_f64(),
        many.failed as f64 / time.as_secs_f64(),
        good.describe()
    ))
}

async fn fill(access: &Access) -> anyhow::Result<()> {
    let mut client = access.client().await?;
    for first in (0..SORTED).step_by(100) {
        let puts = (first..first + 100).map(|n| {
            let value = format!("{:08x}", (n as u32).wrapping_mul(2_654_435_761));
            etcd_client::TxnOp::put(format!("sorted/{n:06}"), value.repeat(16), None)
        });
        let txn = etcd_client::Txn::new().and_then(puts.collect::<Vec<_>>());
        client.txn(txn).await.context("filling")?;
    }
    Ok(())
}

/// All are served again as before.
async fn calm(access: &Access, time: Duration) -> anyhow::Result<String> {
    let begin = Instant::now();
    access.settled(3, Duration::from_secs(60)).await?;
    let mut times = good_clients(access, time).await?;
    let text = times.describe();
    ensure!(times.failed == 0, "{text}: {:?}", times.reasons);
    Ok(format!(
        "{text}, {:.1} s after the end",
        begin.elapsed().as_secs_f64() - time.as_secs_f64()
    ))
}
