//! Every fault of every scenario: exhaustive where that is meant, a part of it where time is short.

use crate::control::Fault;
use crate::random::Random;
use crate::run::{End, Outcome, run};
use crate::script::Script;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// How much is told.
#[derive(Debug, Clone)]
pub struct Extent {
    /// Of all faults, every so manieth; 1 is all, 0 none.
    pub every: u64,
    /// Threads.
    pub jobs: usize,
    /// An end, whatever is left.
    pub limit: Option<Duration>,
    /// Only scenarios with this in their name.
    pub only: Option<String>,
    /// A bug that is switched on (with the feature `mutants`); empty: none.
    pub mutant: &'static str,
    /// Failures after which to stop.
    pub failures_max: usize,
}

/// A story that failed.
#[derive(Debug, Clone)]
pub struct Failure {
    /// The script, with the seed and the fault that make it fail.
    pub script: Script,
    /// What was broken.
    pub broken: Vec<(u8, String)>,
}

/// Figures.
#[derive(Debug, Clone, Default)]
pub struct Done {
    /// Stories told.
    pub stories: usize,
    /// Of those, the fault struck.
    pub struck: usize,
    /// Stories that time did not allow.
    pub left: usize,
    /// Simulated time.
    pub simulated: Duration,
    /// Side effects.
    pub effects: usize,
    /// Each scenario's side effects, calls and events without a fault.
    pub scenarios: Vec<(String, usize, u64, u64)>,
    /// What failed.
    pub failures: Vec<Failure>,
}

/// All scenarios of a directory, by name.
pub fn scenarios(directory: &Path) -> Vec<Script> {
    let mut files: Vec<_> = std::fs::read_dir(directory)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|ending| ending == "txt"))
        .collect();
    files.sort();
    files
        .iter()
        .filter_map(|path| {
            let name = path.file_stem()?.to_string_lossy().into_owned();
            Some(Script::read(&name, &std::fs::read_to_string(path).ok()?))
        })
        .collect()
}

/// The scenarios that come with this crate.
pub fn own() -> Vec<Script> {
    scenarios(&Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/scenarios"))
}

/// Every fault that a story without one makes room for.
pub fn faults(fair: &Outcome, every: u64) -> Vec<Fault> {
    let effects = u64::try_from(fair.effects.len()).unwrap_or(0);
    if every == 0 {
        return Vec::new();
    }
    let mut all = Vec::new();
    for n in 1..=effects {
        all.extend([
            Fault::CrashBefore(n),
            Fault::CrashAfter(n),
            Fault::Lost(n),
            Fault::Pause(n),
        ]);
        all.extend([409, 429, 500, 0].map(|code| Fault::Refuse(n, code)));
        all.extend([1, 3, 10, 100_000].map(|by| Fault::Stale(n, by)));
    }
    // Reads are many and alike: some of them.
    let stride = (fair.calls / 200).max(1);
    for n in (1..=fair.calls).step_by(usize::try_from(stride).unwrap_or(1)) {
        all.push(Fault::RefuseCall(n, [500, 0, 429][usize::try_from(n % 3).unwrap_or(0)]));
    }
    all.extend((1..=fair.events).map(Fault::Drop));
    let mut at = 0;
    all.retain(|_| {
        at += 1;
        // A prime's stride meets every kind.
        every == 1 || at % every == 1
    });
    all
}

/// Tells them all.
pub fn explore(scripts: &[Script], extent: &Extent) -> Done {
    let begun = Instant::now();
    let mut done = Done::default();
    let mut work: Vec<(Script, Fault)> = Vec::new();
    let wanted = |script: &&Script| {
        extent
            .only
            .as_ref()
            .is_none_or(|only| script.name.contains(only.as_str()))
    };
    for script in scripts.iter().filter(wanted) {
        let fair = run(
            script,
            script.seed,
            Fault::None,
            if extent.every == 1 { End::Long } else { End::Short },
        );
        done.stories += 1;
        done.simulated += fair.took;
        done.scenarios
            .push((script.name.clone(), fair.effects.len(), fair.calls, fair.events));
        if !fair.broken.is_empty() {
            done.failures.push(Failure {
                script: script.clone(),
                broken: fair.broken.clone(),
            });
        }
        work.extend(
            faults(&fair, extent.every)
                .into_iter()
                .map(|fault| (script.clone(), fault)),
        );
    }
    // Short of time, each scenario still gets its part.
    let mut random = Random::new(7);
    for at in (1..work.len()).rev() {
        let other = usize::try_from(random.below(u64::try_from(at).unwrap_or(0) + 1)).unwrap_or(0);
        work.swap(at, other);
    }
    let (next, shared) = (AtomicUsize::new(0), Mutex::new(done));
    std::thread::scope(|scope| {
        for _ in 0..extent.jobs.max(1) {
            scope.spawn(|| {
                #[cfg(feature = "mutants")]
                mutant::plant(extent.mutant);
                loop {
                    let Some((script, fault)) = work.get(next.fetch_add(1, Ordering::SeqCst)) else {
                        return;
                    };
                    let sum = |add: &dyn Fn(&mut Done)| {
                        add(&mut shared.lock().unwrap_or_else(std::sync::PoisonError::into_inner));
                    };
                    let full = shared
                        .lock()
                        .is_ok_and(|done| done.failures.len() >= extent.failures_max);
                    if full || extent.limit.is_some_and(|limit| begun.elapsed() > limit) {
                        sum(&|done| done.left += 1);
                        continue;
                    }
                    let told = run(script, script.seed, *fault, End::Short);
                    sum(&|done| {
                        done.stories += 1;
                        done.struck += usize::from(told.struck);
                        done.simulated += told.took;
                        done.effects += told.effects.len();
                        if !told.broken.is_empty() {
                            let mut script = script.clone();
                            script.fault = fault.to_string();
                            done.failures.push(Failure {
                                script,
                                broken: told.broken.clone(),
                            });
                        }
                    });
                }
            });
        }
    });
    shared.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// The figures, for people.
pub fn table(done: &Done) -> String {
    let mut text = String::new();
    for (name, effects, calls, events) in &done.scenarios {
        text += &format!("{name:<28} {effects:>4} side effects {calls:>6} calls {events:>5} events\n");
    }
    text += &format!(
        "{} stories, {} of them with a fault that struck, {:.1} simulated hours, {} side effects, {} not told, {} failed\n",
        done.stories,
        done.struck,
        done.simulated.as_secs_f64() / 3600.0,
        done.effects,
        done.left,
        done.failures.len()
    );
    for failure in &done.failures {
        let broken: Vec<String> = failure
            .broken
            .iter()
            .take(3)
            .map(|(n, why)| format!("{n}: {why}"))
            .collect();
        text += &format!(
            "{} with fault {}: {}\n",
            failure.script.name,
            failure.script.fault,
            broken.join("; ")
        );
    }
    text
}
