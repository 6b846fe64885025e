//! Upstream `benchmark` against three members of real etcd and three of ours, alternating, on the same machine in one run.
//!
//! Times are printed, never asserted: machines are shared, only ratios of one run mean something. A check fails when the
//! load could not be carried out, or with errors.

use crate::process::{Programs, cpu_seconds, rss_mib, run};
use crate::report::Report;
use crate::servers::Servers;
use anyhow::{Context, bail};
use std::path::Path;
use std::time::Duration;
use tokio::process::Command;

/// What is measured.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// Few requests, 1 and 100 clients, one round.
    #[arg(long)]
    pub quick: bool,
    /// Only workloads whose name contains this.
    #[arg(long)]
    pub only: Option<String>,
    /// Numbers of clients, separated by commas; 1,100,1000 when absent.
    #[arg(long, value_delimiter = ',')]
    pub clients: Vec<usize>,
    /// How often each is measured on both, in turn; the better one of each counts.
    #[arg(long, default_value_t = 2)]
    pub rounds: usize,
    /// No new measurement is begun after so many seconds.
    #[arg(long, default_value_t = 1800)]
    pub seconds: u64,
}

/// A load: name, arguments, requests with 1 client and with many, and whether clients are a parameter of it.
struct Workload {
    name: &'static str,
    arguments: &'static [&'static str],
    few: usize,
    many: usize,
    total_flag: &'static str,
}

const WORKLOADS: &[Workload] = &[
    Workload {
        name: "put",
        arguments: &[
            "put",
            "--key-size=16",
            "--val-size=256",
            "--key-space-size=100000",
            "--sequential-keys",
        ],
        few: 1000,
        many: 30_000,
        total_flag: "--total",
    },
    Workload {
        name: "range l",
        arguments: &["range", "probe", "--consistency=l"],
        few: 2000,
        many: 40_000,
        total_flag: "--total",
    },
    Workload {
        name: "range s",
        arguments: &["range", "probe", "--consistency=s"],
        few: 4000,
        many: 60_000,
        total_flag: "--total",
    },
    Workload {
        name: "txn-mixed",
        arguments: &[
            "txn-mixed",
            "probe",
            "--end-key=probf",
            "--key-size=16",
            "--val-size=256",
            "--key-space-size=10000",
            "--limit=10",
        ],
        few: 1000,
        many: 20_000,
        total_flag: "--total",
    },
    Workload {
        name: "watch-latency",
        arguments: &[
            "watch-latency",
            "--put-rate=200",
            "--streams=10",
            "--watchers-per-stream=10",
        ],
        few: 1000,
        many: 1000,
        total_flag: "--put-total",
    },
    Workload {
        name: "lease-keepalive",
        arguments: &["lease-keepalive"],
        few: 2000,
        many: 40_000,
        total_flag: "--total",
    },
];

/// One measurement.
#[derive(Debug, Clone, Copy)]
struct Figures {
    per_second: f64,
    p50: f64,
    p99: f64,
    cpu_per_request: f64,
    rss_mib: f64,
}

/// Runs the suite.
pub async fn suite(programs: &Programs, options: &Options) -> anyhow::Result<bool> {
    let benchmark = programs.upstream("benchmark")?;
    let etcd = programs.upstream("etcd")?;
    let temp = tempfile::Builder::new().prefix("quorate-e2e-").tempdir()?;
    let mut report = Report::new("bench");
    let mut sides = Vec::new();
    for (name, program) in [("etcd", &etcd), ("quorate", &programs.server)] {
        let mut servers = Servers::new(&temp.path().join(name), &vec![program.clone(); 3], &[])?;
        if let Err(error) = servers.start_all().await {
            report.check::<String>(&format!("three members of {name}"), Err(error));
            return Ok(report.end());
        }
        servers
            .access()
            .client()
            .await?
            .put("probe", vec![b'p'; 256], None)
            .await?;
        sides.push(servers);
    }
    let clients = match (options.clients.as_slice(), options.quick) {
        ([], true) => vec![1, 100],
        ([], false) => vec![1, 100, 1000],
        (list, _) => list.to_vec(),
    };
    let rounds = if options.quick { 1 } else { options.rounds.max(1) };
    let end = std::time::Instant::now() + Duration::from_secs(options.seconds);
    println!(
        "  {:<16} {:>5}  {:>22}  {:>21}  {:>21}  {:>21}  {:>19}",
        "workload", "conc.", "requests/s", "p50 ms", "p99 ms", "CPU us per request", "RSS MiB (sum)"
    );
    println!(
        "  {:<16} {:>5}  {:>22}  each: etcd, quorate, quorate / etcd",
        "", "", ""
    );
    for workload in WORKLOADS {
        if options
            .only
            .as_ref()
            .is_some_and(|only| !workload.name.contains(only.as_str()))
        {
            continue;
        }
        for &clients in &clients {
            if workload.name == "watch-latency" && clients != 1 {
                continue;
            }
            if std::time::Instant::now() > end {
                report.figure(
                    &format!("{} with {clients} clients", workload.name),
                    "not measured: out of time",
                );
                continue;
            }
            let mut best: [Option<Figures>; 2] = [None, None];
            let mut errors: [Option<anyhow::Error>; 2] = [None, None];
            for _ in 0..rounds {
                for ((side, best), error) in sides.iter().zip(&mut best).zip(&mut errors) {
                    match measure(&benchmark, side, workload, clients, options.quick).await {
                        Ok(figures) if best.is_none_or(|best| figures.per_second > best.per_second) => {
                            *best = Some(figures);
                        }
                        Ok(_) => {}
                        Err(found) => *error = Some(found),
                    }
                }
            }
            if let [Some(theirs), Some(ours)] = best {
                row(workload.name, clients, &theirs, &ours);
            }
            let title = format!("{} with {clients} clients", workload.name);
            let [theirs, ours] = errors;
            // That etcd cannot carry a load on this machine is worth knowing, and no fault of ours.
            if let Some(error) = theirs {
                report.figure(&format!("etcd failed: {title}"), format!("{error:#}"));
            }
            match ours {
                Some(error) => report.check::<String>(&title, Err(error.context(sides[1].last_words()))),
                None => report.that(&title, true, "without errors"),
            };
        }
    }
    for (side, name) in sides.iter().zip(["etcd", "quorate"]) {
        report.check(
            &format!("{name}: all members have the same content"),
            side.access().equal_hash().await,
        );
    }
    for mut side in sides {
        side.stop().await?;
    }
    Ok(report.end())
}

fn row(name: &str, clients: usize, theirs: &Figures, ours: &Figures) {
    let three =
        |a: f64, b: f64, digits: usize| format!("{a:.digits$} {b:.digits$} {:.2}x", b / a.max(f64::MIN_POSITIVE));
    println!(
        "  {:<16} {:>5}  {:>22}  {:>21}  {:>21}  {:>21}  {:>19}",
        name,
        clients,
        three(theirs.per_second, ours.per_second, 0),
        three(theirs.p50 * 1e3, ours.p50 * 1e3, 2),
        three(theirs.p99 * 1e3, ours.p99 * 1e3, 2),
        three(theirs.cpu_per_request * 1e6, ours.cpu_per_request * 1e6, 0),
        three(theirs.rss_mib, ours.rss_mib, 0),
    );
}

async fn measure(
    benchmark: &Path,
    side: &Servers,
    workload: &Workload,
    clients: usize,
    quick: bool,
) -> anyhow::Result<Figures> {
    let mut requests = if clients == 1 { workload.few } else { workload.many };
    if quick {
        requests /= 5;
    }
    let endpoints: Vec<&str> = side.members.iter().map(|member| member.endpoint.as_str()).collect();
    let mut command = Command::new(benchmark);
    command
        .args(workload.arguments)
        .arg(format!("{}={requests}", workload.total_flag))
        .arg(format!("--endpoints={}", endpoints.join(",")))
        .arg(format!("--clients={clients}"))
        .arg(format!("--conns={}", clients.min(100).max(clients / 10).min(100)));
    let pids = side.pids();
    let cpu = || pids.iter().filter_map(|pid| cpu_seconds(*pid)).sum::<f64>();
    let before = cpu();
    let said = run(command, Duration::from_secs(180)).await?;
    let used = cpu() - before;
    if said.out.contains("Error distribution") {
        let at = said.out.find("Error distribution").unwrap_or(0);
        bail!(
            "errors: {}",
            said.out[at..].lines().take(4).collect::<Vec<_>>().join(" ")
        );
    }
    let summaries = parse(&said.ok()?)?;
    let last = summaries.last().context("no summary")?;
    // txn-mixed reports reads and writes apart: together they are the throughput, the writes' latency is shown. The
    // latency of watches comes after that of the puts that caused the events.
    let per_second = match workload.name {
        "txn-mixed" => summaries.iter().map(|summary| summary.0).sum(),
        _ => last.0,
    };
    Ok(Figures {
        per_second,
        p50: last.1,
        p99: last.2,
        cpu_per_request: used / requests as f64,
        rss_mib: pids.iter().filter_map(|pid| rss_mib(*pid)).sum(),
    })
}

/// Requests per second, p50 and p99 in seconds of every summary that `benchmark` printed. With few samples it prints no
/// 99%: then the highest that there is.
fn parse(text: &str) -> anyhow::Result<Vec<(f64, f64, f64)>> {
    let mut found: Vec<(f64, f64, f64)> = Vec::new();
    for line in text.lines().map(str::trim) {
        if let Some(rate) = line.strip_prefix("Requests/sec:") {
            found.push((rate.trim().parse().with_context(|| line.to_owned())?, 0.0, 0.0));
        } else if let Some((percent, seconds)) = line.split_once("% in ")
            && let Some(last) = found.last_mut()
        {
            let seconds: f64 = seconds
                .trim_end_matches(" secs.")
                .parse()
                .with_context(|| line.to_owned())?;
            let percent: f64 = percent.parse().with_context(|| line.to_owned())?;
            if percent <= 50.0 {
                last.1 = seconds;
            }
            if percent <= 99.0 {
                last.2 = seconds;
            }
        }
    }
    if found.is_empty() {
        bail!("benchmark printed no summary: {text}");
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn summaries_of_benchmark_are_read() {
        let text = "Summary:\n  Total:\t0.8 secs.\n  Requests/sec: 562.97\n\nLatency distribution:\n  10% in 0.0004 secs.\n  \
                    50% in 0.0005 secs.\n  75% in 0.0006 secs.\n  99% in 0.0214 secs.\n  99.9% in 0.0600 secs.\n\
                    Summary:\n  Requests/sec: 4426.0\n  50% in 0.0070 secs.\n  95% in 0.0164 secs.\n";
        assert_eq!(
            parse(text).expect("parses"),
            [(562.97, 0.0005, 0.0214), (4426.0, 0.007, 0.0164)]
        );
        assert!(parse("panic: no").is_err());
    }
}
