//! Upstream `benchmark` against three members of real etcd and three of ours, alternating, on the same machine in one run.
//!
//! Invariants:
//! - Times are printed, never asserted: machines are shared, only ratios of one run mean something. What is shown is the median of
//!   the rounds' ratios, beside the medians of both sides.
//! - Both sides did the same work, or the row is a failed check: equally many requests were answered, none with an error, and
//!   where a request is one write, equally many revisions were made.

use crate::process::{Programs, cpu_seconds, rss_mib, run};
use crate::report::Report;
use crate::servers::{Servers, Tls};
use anyhow::{Context, bail};
use serde::Serialize;
use std::path::Path;
use std::time::{Duration, Instant};
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
    /// How often each is measured on both, in turn; medians are shown.
    #[arg(long, default_value_t = 3)]
    pub rounds: usize,
    /// TLS with client certificates, between clients and members and between members.
    #[arg(long)]
    pub tls: bool,
    /// What goes to standard output: a table, or one JSON document (what was checked then goes to standard error).
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Output,
    /// No new measurement is begun after so many seconds.
    #[arg(long, default_value_t = 1800)]
    pub seconds: u64,
}

/// How the figures are shown.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Output {
    /// For people.
    #[default]
    Table,
    /// For programs.
    Json,
}

/// A load: name, arguments, requests with 1 client and with many, and whether clients are a parameter of it.
struct Workload {
    name: &'static str,
    arguments: &'static [&'static str],
    few: usize,
    many: usize,
    total_flag: &'static str,
    /// Revisions that a request makes, where it is always as many.
    writes: Option<usize>,
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
        writes: Some(1),
    },
    Workload {
        name: "range l",
        arguments: &["range", "probe", "--consistency=l"],
        few: 2000,
        many: 40_000,
        total_flag: "--total",
        writes: Some(0),
    },
    Workload {
        name: "range s",
        arguments: &["range", "probe", "--consistency=s"],
        few: 4000,
        many: 60_000,
        total_flag: "--total",
        writes: Some(0),
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
        writes: None,
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
        writes: Some(1),
    },
    Workload {
        name: "lease-keepalive",
        arguments: &["lease-keepalive"],
        few: 2000,
        many: 40_000,
        total_flag: "--total",
        writes: Some(0),
    },
];

/// One measurement, or the medians of several.
#[derive(Debug, Clone, Copy, Serialize)]
struct Figures {
    per_second: f64,
    p50_ms: f64,
    p99_ms: f64,
    cpu_us_per_request: f64,
    /// Sum over the members, after the load.
    rss_mib: f64,
}

impl Figures {
    fn values(&self) -> [f64; 5] {
        [
            self.per_second,
            self.p50_ms,
            self.p99_ms,
            self.cpu_us_per_request,
            self.rss_mib,
        ]
    }

    fn from(values: [f64; 5]) -> Figures {
        let [per_second, p50_ms, p99_ms, cpu_us_per_request, rss_mib] = values;
        Figures {
            per_second,
            p50_ms,
            p99_ms,
            cpu_us_per_request,
            rss_mib,
        }
    }

    /// Column by column.
    fn medians(all: &[Figures]) -> Figures {
        Figures::from(std::array::from_fn(|column| {
            let mut values: Vec<f64> = all.iter().map(|figures| figures.values()[column]).collect();
            values.sort_by(f64::total_cmp);
            let middle = values.len() / 2;
            match values.len() {
                0 => 0.0,
                n if n % 2 == 0 => f64::midpoint(values[middle - 1], values[middle]),
                _ => values[middle],
            }
        }))
    }

    fn ratio(ours: &Figures, theirs: &Figures) -> Figures {
        let (ours, theirs) = (ours.values(), theirs.values());
        Figures::from(std::array::from_fn(|n| ours[n] / theirs[n].max(f64::MIN_POSITIVE)))
    }
}

/// A line of the table.
#[derive(Debug, Clone, Serialize)]
struct Row {
    workload: &'static str,
    clients: usize,
    rounds: usize,
    etcd: Figures,
    quorate: Figures,
    /// Quorate's over etcd's: the medians of each round's.
    ratio: Figures,
}

/// What one run of the benchmark did.
struct Done {
    figures: Figures,
    /// Requests that were answered.
    answered: usize,
    /// Revisions that were made meanwhile.
    revisions: i64,
}

/// Runs the suite.
pub async fn suite(programs: &Programs, options: &Options) -> anyhow::Result<bool> {
    let benchmark = programs.upstream("benchmark")?;
    let etcd = programs.upstream("etcd")?;
    let temp = tempfile::Builder::new().prefix("quorate-e2e-").tempdir()?;
    let table = options.output == Output::Table;
    let mut report = if table {
        Report::new("bench")
    } else {
        Report::aside("bench")
    };
    let mut sides = Vec::new();
    for (name, program) in [("etcd", &etcd), ("quorate", &programs.server)] {
        let directory = temp.path().join(name);
        let tls = options.tls.then(|| Tls::new(&directory)).transpose()?;
        let mut servers = Servers::with_tls(&directory, &vec![program.clone(); 3], &[], tls)?;
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
    let [theirs, ours] = sides.as_slice() else {
        bail!("there are two sides");
    };
    let clients = match (options.clients.as_slice(), options.quick) {
        ([], true) => vec![1, 100],
        ([], false) => vec![1, 100, 1000],
        (list, _) => list.to_vec(),
    };
    let rounds = if options.quick { 1 } else { options.rounds.max(1) };
    let end = Instant::now() + Duration::from_secs(options.seconds);
    if table {
        head(rounds, options.tls);
    }
    let mut rows = Vec::new();
    let chosen = |workload: &&Workload| {
        options
            .only
            .as_ref()
            .is_none_or(|only| workload.name.contains(only.as_str()))
    };
    for workload in WORKLOADS.iter().filter(chosen) {
        for &clients in &clients {
            if workload.name == "watch-latency" && clients != 1 {
                continue;
            }
            let title = format!("{} with {clients} clients", workload.name);
            let mut pairs = Vec::new();
            let mut different = None;
            for _ in 0..rounds {
                if Instant::now() > end {
                    break;
                }
                let theirs = measure(&benchmark, theirs, workload, clients, options.quick).await;
                let done = measure(&benchmark, ours, workload, clients, options.quick).await;
                match (theirs, done) {
                    (Ok(theirs), Ok(ours)) => {
                        if (theirs.answered, theirs.revisions) != (ours.answered, ours.revisions)
                            && workload.writes.is_some()
                            || theirs.answered != ours.answered
                        {
                            different = Some(format!(
                                "etcd answered {} requests and made {} revisions, quorate {} and {}",
                                theirs.answered, theirs.revisions, ours.answered, ours.revisions
                            ));
                        }
                        pairs.push((theirs.figures, ours.figures));
                    }
                    // That etcd cannot carry a load on this machine is worth knowing, and no fault of ours.
                    (Err(error), _) => report.figure(&format!("etcd failed: {title}"), format!("{error:#}")),
                    (_, Err(error)) => {
                        report.check::<String>(&title, Err(error.context(ours.last_words())));
                    }
                }
            }
            if pairs.is_empty() {
                report.figure(&title, "not measured");
                continue;
            }
            let (etcd, quorate): (Vec<_>, Vec<_>) = pairs.iter().copied().unzip();
            let ratios: Vec<_> = pairs
                .iter()
                .map(|(theirs, ours)| Figures::ratio(ours, theirs))
                .collect();
            let row = Row {
                workload: workload.name,
                clients,
                rounds: pairs.len(),
                etcd: Figures::medians(&etcd),
                quorate: Figures::medians(&quorate),
                ratio: Figures::medians(&ratios),
            };
            if table {
                print(&row);
            }
            rows.push(row);
            let same = different.map_or_else(|| Ok("the same work, without errors"), |why| Err(anyhow::anyhow!(why)));
            report.check(&title, same);
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
    if !table {
        let document = serde_json::json!({
            "tls": options.tls,
            "rounds": rounds,
            "ratio": "quorate / etcd, median of the rounds",
            "rows": rows,
        });
        println!("{}", serde_json::to_string_pretty(&document)?);
    }
    Ok(report.end())
}

fn head(rounds: usize, tls: bool) {
    println!(
        "  three members each{}; {rounds} rounds in turn; medians: etcd, quorate, and of the rounds' ratios quorate / etcd",
        if tls { ", TLS" } else { "" }
    );
    println!(
        "  {:<16} {:>5}  {:>22}  {:>21}  {:>21}  {:>21}  {:>19}",
        "workload", "conc.", "requests/s", "p50 ms", "p99 ms", "CPU us per request", "RSS MiB (sum)"
    );
}

fn print(row: &Row) {
    let (theirs, ours, ratio) = (row.etcd.values(), row.quorate.values(), row.ratio.values());
    let three = |n: usize, digits: usize| format!("{:.digits$} {:.digits$} {:.2}x", theirs[n], ours[n], ratio[n]);
    println!(
        "  {:<16} {:>5}  {:>22}  {:>21}  {:>21}  {:>21}  {:>19}",
        row.workload,
        row.clients,
        three(0, 0),
        three(1, 2),
        three(2, 2),
        three(3, 0),
        three(4, 0),
    );
}

async fn measure(
    benchmark: &Path,
    side: &Servers,
    workload: &Workload,
    clients: usize,
    quick: bool,
) -> anyhow::Result<Done> {
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
        .arg(format!("--conns={}", clients.min(100).max(clients / 10).min(100)))
        .args(side.client_flags());
    let pids = side.pids();
    let cpu = || pids.iter().filter_map(|pid| cpu_seconds(*pid)).sum::<f64>();
    let access = side.access();
    let (before, revision) = (cpu(), access.revision().await?);
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
        "txn-mixed" => summaries.iter().map(|summary| summary.per_second).sum(),
        _ => last.per_second,
    };
    let revisions = access.revision().await? - revision;
    if let Some(each) = workload.writes
        && usize::try_from(revisions).ok() != Some(each * requests)
    {
        bail!("{requests} requests made {revisions} revisions");
    }
    Ok(Done {
        figures: Figures {
            per_second,
            p50_ms: last.p50 * 1e3,
            p99_ms: last.p99 * 1e3,
            cpu_us_per_request: used / requests as f64 * 1e6,
            rss_mib: pids.iter().filter_map(|pid| rss_mib(*pid)).sum(),
        },
        answered: summaries.iter().map(|summary| summary.answered).sum(),
        revisions,
    })
}

/// What `benchmark` printed of one kind of request. Times in seconds.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Summary {
    per_second: f64,
    /// From the histogram.
    answered: usize,
    p50: f64,
    p99: f64,
}

/// Every summary in the output. With few samples there is no 99%: then the highest that there is.
fn parse(text: &str) -> anyhow::Result<Vec<Summary>> {
    let mut found: Vec<Summary> = Vec::new();
    for line in text.lines().map(str::trim) {
        let malformed = || format!("benchmark printed {line:?}");
        if let Some(rate) = line.strip_prefix("Requests/sec:") {
            found.push(Summary {
                per_second: rate.trim().parse().with_context(malformed)?,
                ..Summary::default()
            });
            continue;
        }
        let Some(last) = found.last_mut() else { continue };
        if let Some((percent, seconds)) = line.split_once("% in ") {
            let seconds: f64 = seconds.trim_end_matches(" secs.").parse().with_context(malformed)?;
            let percent: f64 = percent.parse().with_context(malformed)?;
            if percent <= 50.0 {
                last.p50 = seconds;
            }
            if percent <= 99.0 {
                last.p99 = seconds;
            }
        } else if let Some((_, rest)) = line.split_once(" [")
            && let Some((count, _)) = rest.split_once(']')
        {
            last.answered += count.parse::<usize>().with_context(malformed)?;
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
        let text = "Summary:\n  Total:\t0.8 secs.\n  Requests/sec: 562.97\n\nResponse time histogram:\n  0.0004 [1]\t|\n  \
                    0.0070 [39]\t|∎∎∎\n\nLatency distribution:\n  10% in 0.0004 secs.\n  \
                    50% in 0.0005 secs.\n  75% in 0.0006 secs.\n  99% in 0.0214 secs.\n  99.9% in 0.0600 secs.\n\
                    Summary:\n  Requests/sec: 4426.0\n  50% in 0.0070 secs.\n  95% in 0.0164 secs.\n";
        let summary = |per_second, answered, p50, p99| Summary {
            per_second,
            answered,
            p50,
            p99,
        };
        assert_eq!(
            parse(text).expect("parses"),
            [summary(562.97, 40, 0.0005, 0.0214), summary(4426.0, 0, 0.007, 0.0164)]
        );
        assert!(parse("panic: no").is_err());
    }

    #[test]
    fn medians_are_taken_column_by_column() {
        let all = [
            [1.0, 9.0, 5.0, 0.0, 2.0],
            [3.0, 1.0, 5.0, 0.0, 4.0],
            [2.0, 5.0, 6.0, 0.0, 3.0],
        ]
        .map(Figures::from);
        assert_eq!(Figures::medians(&all).values(), [2.0, 5.0, 5.0, 0.0, 3.0]);
        assert_eq!(Figures::medians(&all[..2]).values(), [2.0, 5.0, 5.0, 0.0, 3.0]);
        assert_eq!(Figures::ratio(&all[1], &all[0]).per_second, 3.0);
    }
}
