//! Many seeds, on several threads, with progress and figures.
//!
//! Invariant: a seed's outcome depends on the seed alone, not on which thread runs it or what ran before.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::report::Figures;
use crate::world::{self, Outcome, SECOND};

/// What to run.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The first seed.
    pub from: u64,
    /// How many.
    pub seeds: u64,
    /// Threads.
    pub jobs: usize,
    /// When to stop although seeds are left.
    pub limit: Option<Duration>,
    /// How many of a thousand seeds run twice, to compare their hashes.
    pub recheck: u64,
    /// Whether to say how far it is, every ten seconds.
    pub progress: bool,
    /// Stop after this many failures.
    pub failures_max: usize,
}

/// What became of it.
#[derive(Debug, Default)]
pub struct Campaign {
    /// All figures added up.
    pub figures: Figures,
    /// Seeds that failed, and why.
    pub failures: BTreeMap<u64, String>,
    /// Seeds that ran twice.
    pub rechecked: u64,
    /// Seeds whose second run differed.
    pub different: Vec<u64>,
    /// How long it took.
    pub took: Duration,
}

/// Runs a seed; a panic is a failure like any other.
pub fn run_seed(seed: u64, told: bool) -> Outcome {
    let outcome = catch_unwind(AssertUnwindSafe(|| world::run(seed, told)));
    outcome.unwrap_or_else(|panic| {
        let text = panic
            .downcast_ref::<String>()
            .cloned()
            .or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
            .unwrap_or_default();
        Outcome {
            seed,
            failure: Some(format!("panic: {text}")),
            hash: 0,
            figures: Figures {
                seeds: 1,
                ..Figures::default()
            },
            story: Vec::new(),
            swarm: String::new(),
        }
    })
}

/// Runs a plan to its end.
pub fn run(plan: &Plan) -> Campaign {
    let began = Instant::now();
    let next = AtomicU64::new(0);
    let total = Mutex::new(Campaign::default());
    let over = |campaign: &Campaign| {
        plan.limit.is_some_and(|limit| began.elapsed() > limit) || campaign.failures.len() >= plan.failures_max
    };
    let lock = || total.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    std::thread::scope(|scope| {
        for _ in 0..plan.jobs.max(1) {
            scope.spawn(|| {
                let mut told_at = Instant::now();
                loop {
                    let n = next.fetch_add(1, Ordering::Relaxed);
                    if n >= plan.seeds || over(&lock()) {
                        return;
                    }
                    let seed = plan.from + n;
                    let outcome = run_seed(seed, false);
                    // Spread over the seeds by a hash of their own, so that every part of a campaign has some.
                    let twice = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
                    let second = (twice % 1000 < plan.recheck).then(|| run_seed(seed, false).hash);
                    let mut total = lock();
                    if let Some(hash) = second {
                        total.rechecked += 1;
                        if hash != outcome.hash {
                            total.different.push(seed);
                        }
                    }
                    if let Some(reason) = &outcome.failure {
                        if plan.progress {
                            eprintln!("seed {seed}: {reason}");
                        }
                        total.failures.insert(seed, reason.clone());
                    }
                    total.figures.add(outcome.figures);
                    if plan.progress && told_at.elapsed() > Duration::from_secs(10) {
                        told_at = Instant::now();
                        let figures = &total.figures;
                        eprintln!(
                            "{:>6.0} s: {} of {} seeds, {:.1} simulated hours, {} faults, {} answers checked, {} failures",
                            began.elapsed().as_secs_f64(),
                            figures.seeds,
                            plan.seeds,
                            hours(figures),
                            figures.faults(),
                            figures.checked,
                            total.failures.len()
                        );
                    }
                }
            });
        }
    });
    let mut campaign = total.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    campaign.took = began.elapsed();
    campaign
}

fn hours(figures: &Figures) -> f64 {
    figures.simulated as f64 / SECOND as f64 / 3600.0
}

/// The final table.
pub fn table(campaign: &Campaign) -> String {
    let figures = &campaign.figures;
    let mut text = String::new();
    let mut line = |what: &str, value: String| {
        writeln!(text, "{what:<34} {value}").ok();
    };
    let took = campaign.took.as_secs_f64();
    line("seeds", figures.seeds.to_string());
    line(
        "wall time",
        format!("{took:.1} s, {:.1} seeds/s", figures.seeds as f64 / took.max(0.001)),
    );
    line("simulated time", format!("{:.2} hours", hours(figures)));
    line("events", figures.events.to_string());
    line("raft messages", figures.messages.to_string());
    line("  lost, doubled", format!("{}, {}", figures.lost, figures.doubled));
    line("member starts", figures.starts.to_string());
    line("snapshots received", figures.snapshots.to_string());
    line("faults", figures.faults().to_string());
    for (what, count) in &figures.troubles {
        line(&format!("  {what}"), count.to_string());
    }
    line("distinct crash points", figures.crash_points.len().to_string());
    line("answers checked", figures.checked.to_string());
    line("  outcome unknown to the client", figures.unknown.to_string());
    line("  refused before anything was done", figures.refused.to_string());
    line("keep-alives", figures.renewals.to_string());
    line("watch deliveries checked", figures.watched.to_string());
    line("entries compared between members", figures.entries.to_string());
    line("contents compared with the model", figures.compared.to_string());
    line("database files checked", figures.fsck.to_string());
    line(
        "seeds run twice",
        format!(
            "{}, {} differed {:?}",
            campaign.rechecked,
            campaign.different.len(),
            campaign.different
        ),
    );
    line("failures", campaign.failures.len().to_string());
    for (seed, reason) in &campaign.failures {
        line(&format!("  seed {seed}"), reason.clone());
    }
    text
}
