//! Planted bugs, and how soon each is found: how we know that the simulator works.
//!
//! `H..` are bugs that etcd had, `G..` generic ones, both by their ids in the reference; `Q..` are others of the same kinds. What was
//! found, how soon, and what was not, is in testdata/planted.txt.

use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::campaign::run_seed;

/// A bug: its id, and what is wrong.
pub const MUTANTS: &[(&str, &str)] = &[
    ("G01", "the log is never synced"),
    ("G02", "the directory of the log is not synced after a cut"),
    ("G03", "the database's pages are not synced before its meta page"),
    ("G04", "the checksum of meta pages is ignored"),
    ("G05", "an entry is committed as soon as one member has it"),
    ("G06", "votes are not stored"),
    ("G07", "entries of older terms are committed by counting"),
    ("G08", "half of the members are a quorum for commits"),
    ("G09", "linearizable reads are answered without asking the others"),
    ("G10", "the last entry is applied again after a restart"),
    ("G11", "snapshots have no configuration"),
    ("G12", "the checksum chain of the log begins anew in each file"),
    ("G13", "compaction drops living revisions"),
    ("G14", "leases do not come with a snapshot"),
    ("G15", "a watcher counts as synced one revision early"),
    ("G16", "an entry's deletions go in another order on some members"),
    ("G17", "the clock decides what an entry does"),
    ("H01", "what waits for the disk is answered before the sync"),
    ("H02", "the applied index is stored before its entry is"),
    (
        "H05",
        "a snapshot takes the files of another one away that is being received",
    ),
    ("H06", "the hard state is stored before the snapshot that it needs"),
    ("H08", "a torn tail of the log is an error"),
    ("H09", "checksums of the log are ignored"),
    ("H12", "without the first meta page a database cannot be opened"),
    ("H16", "the revision of the rights is forgotten at a restart"),
    ("H18", "rights do not come with a snapshot"),
    ("H22", "events of watchers that catch up are sent twice"),
    ("H23", "leases with negative ids are forgotten at a restart"),
    ("H25", "a revoked lease stays in the table"),
    ("H27", "the revision falls when the newest deletion was compacted"),
    ("H28", "the revision falls when a compaction was under way at a restart"),
    ("H29", "compaction drops a deletion at its own revision"),
    ("H30", "progress is told although events wait"),
    ("H31", "after a snapshot watchers begin anew"),
    ("H32", "watchers that lag at a compaction go on behind it"),
    ("H33", "a watcher of the future is sent what comes before"),
    ("H35", "closed watch streams leak"),
    ("H38", "confirmations of reads go by the caller's context"),
    ("H39", "reads are answered before the first commit of the term"),
    (
        "H40",
        "a leader that was paused ends leases, and has them ended by its successor",
    ),
    ("H45", "a late rejection takes the next index below what matches"),
    ("H46", "a promotion is not stored"),
    ("H49", "an update of a member's URL clears its learner flag"),
    ("Q01", "followers acknowledge entries before they are durable"),
    ("Q02", "votes are granted before they are durable"),
    ("Q03", "a removed leader stays in office"),
    ("Q04", "heartbeats carry a commit index that followers may not have"),
    ("Q05", "entries are appended although the one before does not match"),
    ("Q07", "the longer log wins an election, whatever its terms"),
    ("Q08", "members vote twice in a term"),
    ("Q11", "a read rides on a question asked before it"),
    ("Q12", "a confirmed read does not wait until the index is applied"),
    ("Q13", "a commit of a replaced database counts for the new one"),
    ("Q14", "a snapshot names another index than its database has"),
    ("Q15", "a snapshot is recorded before its database is durable"),
    ("Q16", "one file of the log too many is given up"),
    ("Q17", "pages are used again although a reader sees them"),
    ("Q18", "both versions of the meta page go to the same place"),
    ("Q19", "a failed sync of the log is tried again and forgotten"),
    ("Q20", "a third put in a transaction counts twice"),
    ("Q22", "a key that leaves its lease dies with it"),
    ("Q24", "a new leader gives leases one second"),
    ("Q25", "a deposed leader goes on ending leases"),
    ("Q29", "request ids begin anew at each start"),
    ("Q30", "a received database is not made durable under its name"),
    ("Q31", "half of the members elect"),
    ("Q32", "bytes behind a torn tail stay in the log"),
    ("Q33", "the directory of a snapshot file is not synced"),
    ("Q34", "the meta page is not synced"),
    ("Q35", "watchers miss what came with a snapshot"),
    ("Q36", "the previous pair of an event is the present one"),
    ("Q40", "the create revision moves with each put"),
    ("Q41", "a deletion of many leaves the last one"),
    ("Q43", "a range answers one key more than its limit"),
    ("Q44", "the last key of a revoked lease stays"),
    ("Q45", "granted leases are not stored"),
    ("Q46", "compaction goes one revision too far"),
    (
        "Q47",
        "a follower commits entries that the leader's message does not confirm",
    ),
    ("Q48", "a refused vote counts as given"),
    ("Q49", "a new leader appends no entry of its own term"),
    ("Q50", "messages of older terms are heard"),
    ("Q51", "a new file of the log does not repeat the hard state"),
    (
        "Q52",
        "a watcher that catches up in pieces skips a revision between two",
    ),
    ("Q53", "watchers are not told of deletions"),
    ("Q54", "\"greater\" in a transaction takes equals too"),
    (
        "Q55",
        "a transaction whose compares fail does what it should do when they hold",
    ),
];

/// Those of them that the simulator is not expected to find, and why.
pub const UNFOUND: &[(&str, &str)] = &[];

struct Found {
    seeds: u64,
    took: Duration,
    reason: String,
}

/// One search: seeds from `from` on until one fails.
fn hunt(name: &'static str, from: u64, budget: u64) -> Option<Found> {
    mutant::plant(name);
    let began = Instant::now();
    let mut found = None;
    for n in 0..budget {
        if let Some(reason) = run_seed(from + n, false).failure {
            found = Some(Found {
                seeds: n + 1,
                took: began.elapsed(),
                reason,
            });
            break;
        }
    }
    mutant::plant("");
    found
}

/// Plants each bug and prints how soon it is found: the median of `times` searches. Fails when one is missed that is not in [`UNFOUND`].
pub fn run(only: Option<&str>, budget: u64, times: u64, jobs: usize) -> ExitCode {
    let chosen: Vec<(&'static str, &'static str)> = MUTANTS
        .iter()
        .copied()
        .filter(|(name, _)| only.is_none_or(|only| only.split(',').any(|wanted| wanted.eq_ignore_ascii_case(name))))
        .collect();
    if chosen.is_empty() {
        eprintln!("simulate mutants: there is no bug named {}", only.unwrap_or_default());
        return ExitCode::from(2);
    }
    let next = AtomicU64::new(0);
    let missed = Mutex::new(Vec::new());
    let caught = AtomicU64::new(0);
    println!(
        "{:<5} {:>6} {:>9}  what, and what gave it away",
        "bug", "seeds", "seconds"
    );
    std::thread::scope(|scope| {
        for _ in 0..jobs.max(1) {
            scope.spawn(|| {
                loop {
                    let n = next.fetch_add(1, Ordering::Relaxed) as usize;
                    let Some((name, what)) = chosen.get(n).copied() else {
                        return;
                    };
                    let mut all: Vec<Found> = Vec::new();
                    for time in 0..times.max(1) {
                        all.extend(hunt(name, 1_000_000 * (time + 1), budget));
                        // More than half must find it; once that cannot be, the rest would tell nothing new.
                        if (time + 1 - all.len() as u64) * 2 >= times.max(1) {
                            break;
                        }
                    }
                    all.sort_by_key(|found| found.took);
                    let enough = all.len() as u64 * 2 > times.max(1);
                    match all.get(all.len() / 2) {
                        Some(median) if enough => {
                            caught.fetch_add(1, Ordering::Relaxed);
                            let reason: String = median.reason.chars().take(110).collect();
                            println!(
                                "{name:<5} {:>6} {:>9.2}  {what}: {reason}",
                                median.seeds,
                                median.took.as_secs_f64()
                            );
                        }
                        _ => {
                            let why = UNFOUND.iter().find(|(unfound, _)| *unfound == name);
                            println!(
                                "{name:<5} {budget:>6}         -  {what}: NOT FOUND{}",
                                why.map(|(_, why)| format!(" ({why})")).unwrap_or_default()
                            );
                            missed
                                .lock()
                                .unwrap_or_else(std::sync::PoisonError::into_inner)
                                .push(name);
                        }
                    }
                }
            });
        }
    });
    let mut missed = missed.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    missed.sort_unstable();
    println!(
        "{} of {} found; not found: {missed:?}",
        caught.into_inner(),
        chosen.len()
    );
    missed.retain(|name| !UNFOUND.iter().any(|(unfound, _)| unfound == name));
    if !missed.is_empty() {
        println!("these used to be found: {missed:?}");
    }
    if missed.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
