//! `storage-load`: one member without a server under load on a real disk, to be killed by a power cut (`e2e power-cuts` does that).
//!
//! It opens the data directory as the server does — the log repaired, the database checked page by page — and compares what is there
//! with what must be there; then it writes until the disk is gone. The write that makes a revision depends on the seed and the revision
//! alone, so whatever survives must be what the model says of some revision, at or above the last one that was acknowledged.
//!
//! Prints `opened REVISION TERM`, then `acknowledged REVISION` after each batch. Exit codes: 3, something acknowledged is lost or the data
//! is damaged; 4, the disk is gone.

use std::collections::VecDeque;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use clap::Parser;
use disk::{Disk as _, RealDisk};
use prost::Message as _;
use proto::etcdserverpb::request_op::Request as Op;
use proto::etcdserverpb::{
    CompactionRequest, DeleteRangeRequest, InternalRaftRequest, PutRequest, RangeRequest, RequestHeader, RequestOp,
    TxnRequest,
};
use replica::state_machine::check_file;
use replica::{CommitJob, Committed, Config, Fatal, Input, Output, PersistJob, Persisted, Replica, Start};
use simulator::model::Model;
use simulator::random::Random;

/// Writes to a data directory until the disk is gone, after a look at what is there.
#[derive(Debug, Parser)]
#[command(name = "storage-load", version)]
struct Arguments {
    /// The data directory; made if it is missing.
    #[arg(long)]
    dir: PathBuf,
    /// What is written.
    #[arg(long)]
    seed: u64,
    /// The last revision that was acknowledged before.
    #[arg(long, default_value_t = 1)]
    acknowledged: i64,
    /// The last term that was told before.
    #[arg(long, default_value_t = 0)]
    term: u64,
    /// End after the look.
    #[arg(long)]
    check: bool,
    /// Sync nothing (the control: this must lose something).
    #[arg(long)]
    without_syncs: bool,
}

/// Keys that are written.
const KEYS: u64 = 64;
/// Requests in flight.
const IN_FLIGHT: usize = 32;
/// Compactions come after so many revisions, and leave so many.
const COMPACT_EVERY: i64 = 50;
/// See [`COMPACT_EVERY`].
const COMPACT_BEHIND: i64 = 25;
/// Defragmentations come after so many revisions.
const DEFRAGMENT_EVERY: i64 = 170;
/// Pages that one step of them moves.
const DEFRAGMENT_PAGES: u64 = 64;

/// Why it ends.
enum End {
    /// What must be there is not, or not whole.
    Lost(String),
    /// An error of which the disk decides what it is.
    Failed(String),
    /// Nothing moves.
    Stuck(String),
}

impl From<Fatal> for End {
    fn from(fatal: Fatal) -> End {
        End::Failed(fatal.to_string())
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if arguments.without_syncs {
        disk::never_sync();
    }
    let end = match live(&arguments) {
        Ok(()) => return ExitCode::SUCCESS,
        Err(end) => end,
    };
    // After the cut everything fails, damaged or not; what is really damaged shows at the next start.
    if is_gone(&arguments.dir) {
        return ExitCode::from(4);
    }
    let (End::Lost(reason) | End::Failed(reason) | End::Stuck(reason)) = end;
    eprintln!("storage-load: {}: {reason}", arguments.dir.display());
    ExitCode::from(3)
}

fn is_gone(dir: &Path) -> bool {
    let probe = dir.parent().unwrap_or(dir).join("probe");
    RealDisk.open(&probe, disk::Open::WriteOrCreate).is_err()
}

/// The write that makes a revision.
fn write(seed: u64, revision: i64) -> InternalRaftRequest {
    let mut random = Random::new(seed ^ (revision as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let key = random.below(KEYS);
    let name = |n: u64| -> bytes::Bytes { format!("k{:02}", n % KEYS).into() };
    let len = *random.pick(&[20, 20, 100, 100, 700, 6000]);
    let mut value = format!("{revision}-").into_bytes();
    value.resize(len, b'a' + (revision % 26) as u8);
    let put = |key: bytes::Bytes| PutRequest {
        key,
        value: value.clone().into(),
        ..PutRequest::default()
    };
    let second = key + random.within(1, KEYS - 1);
    let op = |request: Op| RequestOp { request: Some(request) };
    let both = |first: Op| InternalRaftRequest {
        txn: Some(TxnRequest {
            success: vec![op(first), op(Op::RequestPut(put(name(second))))],
            ..TxnRequest::default()
        }),
        ..InternalRaftRequest::default()
    };
    match random.below(10) {
        0..=6 => InternalRaftRequest {
            put: Some(put(name(key))),
            ..InternalRaftRequest::default()
        },
        7 | 8 => both(Op::RequestPut(put(name(key)))),
        // A deletion alone may find nothing and make no revision.
        _ => both(Op::RequestDeleteRange(DeleteRangeRequest {
            key: name(key),
            ..DeleteRangeRequest::default()
        })),
    }
}

/// The compaction that follows the write of a revision.
fn compaction_after(revision: i64) -> Option<InternalRaftRequest> {
    let due = revision > 1 && revision % COMPACT_EVERY == 0;
    due.then(|| InternalRaftRequest {
        compaction: Some(CompactionRequest {
            revision: revision - COMPACT_BEHIND,
            physical: false,
        }),
        ..InternalRaftRequest::default()
    })
}

fn config(dir: &Path, seed: u64) -> Config {
    let members = [("alone".to_owned(), vec!["http://alone:2380".to_owned()])].into();
    let mut config = Config {
        data_dir: dir.to_owned(),
        name: "alone".into(),
        start: Start::New {
            members,
            token: "power".into(),
        },
        snapshot_count: 100,
        catch_up_entries: 50,
        segment_bytes: 64 << 10,
        // Time is what this program feeds; on a busy machine no request is to be given up.
        tick: Duration::from_secs(60),
        commit_interval: Duration::from_millis(4),
        compaction_batch: 20,
        seed,
        unix_ms: std::time::SystemTime::UNIX_EPOCH
            .elapsed()
            .map_or(0, |since| since.as_millis() as u64),
        incarnation: u128::from(seed) + 1,
        ..Config::default()
    };
    config.state.backend.file.growth_bytes = 256 << 10;
    config
}

/// What the threads beside the replica's report.
enum Done {
    Log(Result<Persisted, Fatal>),
    Commit(Result<Committed<RealDisk>, Fatal>),
    Defragment(Result<bool, String>),
}

/// What the database's thread does.
enum Database {
    Commit(CommitJob<RealDisk>),
    Defragment(Box<dyn FnOnce() -> Result<bool, String> + Send>),
}

fn live(arguments: &Arguments) -> Result<(), End> {
    let began = Instant::now();
    let config = config(&arguments.dir, arguments.seed);
    RealDisk
        .create_dir_all(&arguments.dir)
        .and_then(|()| RealDisk.sync_dir(arguments.dir.parent().unwrap_or(&arguments.dir)))
        .map_err(|error| End::Failed(error.to_string()))?;
    let (mut replica, mut writer) =
        Replica::open(RealDisk, config, began.elapsed()).map_err(|error| End::Failed(error.to_string()))?;
    if let Some(problem) = check_file(&replica.state().snapshot()).first() {
        return Err(End::Lost(format!("the database is damaged: {problem:?}")));
    }

    let (done, reports) = mpsc::channel::<Done>();
    let (log, log_jobs) = mpsc::channel::<PersistJob>();
    let (database, database_jobs) = mpsc::channel::<Database>();
    let log_done = done.clone();
    std::thread::spawn(move || {
        while let Ok(first) = log_jobs.recv() {
            let mut jobs = vec![first];
            jobs.extend(log_jobs.try_iter());
            if log_done.send(Done::Log(writer.persist(jobs))).is_err() {
                return;
            }
        }
    });
    std::thread::spawn(move || {
        while let Ok(work) = database_jobs.recv() {
            let report = match work {
                Database::Commit(job) => Done::Commit(job.run()),
                Database::Defragment(step) => Done::Defragment(step()),
            };
            if done.send(report).is_err() {
                return;
            }
        }
    });

    let (mut asked, mut checked) = (false, false);
    let mut next = 0;
    let mut waiting: VecDeque<(u64, Option<i64>)> = VecDeque::new();
    let mut last_tick = Instant::now();
    let mut defragmenting = false;
    let stuck = Duration::from_secs(30);
    let mut moved = Instant::now();
    replica.feed(Input::AdvanceTicks(9), began.elapsed())?;
    loop {
        // Alone it waits for nobody: until it leads, time passes as fast as it can.
        if !replica.leads() || last_tick.elapsed() > Duration::from_millis(10) {
            last_tick = Instant::now();
            replica.feed(Input::Tick, began.elapsed())?;
        }
        // What the log holds beyond the commit index that it knows is committed when this member's own first entry is: it asks.
        if replica.leads() && !asked {
            asked = true;
            replica.feed(Input::Read(1), began.elapsed())?;
        }
        while checked && waiting.len() < IN_FLIGHT {
            let request = write(arguments.seed, next);
            propose(&mut replica, request, Some(next), &mut waiting, began.elapsed())?;
            if let Some(compaction) = compaction_after(next) {
                propose(&mut replica, compaction, None, &mut waiting, began.elapsed())?;
            }
            if next % DEFRAGMENT_EVERY == 0 && !defragmenting {
                defragmenting = true;
                database.send(defragment(&replica)).ok();
            }
            next += 1;
        }
        let mut acknowledged = None;
        for output in replica.drain(began.elapsed())? {
            match output {
                Output::Persist(job) => log.send(job).unwrap_or_default(),
                Output::Commit(job) => database.send(Database::Commit(job)).unwrap_or_default(),
                Output::ReadsReady(_) if !checked => {
                    let revision = check(&replica, arguments)?;
                    say(&format!("opened {revision} {}", replica.term()));
                    if arguments.check {
                        return Ok(());
                    }
                    checked = true;
                    next = revision + 1;
                    // It may have been cut off from its write.
                    if let Some(compaction) = compaction_after(revision) {
                        propose(&mut replica, compaction, None, &mut waiting, began.elapsed())?;
                    }
                }
                Output::Applied(answers) => {
                    moved = Instant::now();
                    for (id, result) in answers {
                        let revision = match waiting.iter().position(|(waiting, _)| *waiting == id) {
                            // What the life before proposed, and this one found in the log.
                            None => continue,
                            Some(0) => waiting.pop_front().and_then(|(_, revision)| revision),
                            Some(n) => return Err(End::Stuck(format!("{n} requests were not answered before {id:x}"))),
                        };
                        match (result, revision) {
                            (Err(error), Some(revision)) => {
                                return Err(End::Lost(format!("revision {revision}: {error}")));
                            }
                            (Ok(_), Some(revision)) => acknowledged = Some(revision),
                            // A compaction that is there already since before the cut.
                            (_, None) => {}
                        }
                    }
                }
                _ => {}
            }
        }
        if let Some(revision) = acknowledged {
            say(&format!("acknowledged {revision}"));
        }
        let wait = if replica.has_work() {
            Duration::ZERO
        } else {
            Duration::from_millis(1)
        };
        let first = match reports.recv_timeout(wait) {
            Ok(report) => Some(report),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => return Err(End::Stuck("the threads ended".into())),
        };
        for report in first.into_iter().chain(reports.try_iter()) {
            match report {
                Done::Log(result) => replica.feed(Input::Persisted(result?), began.elapsed())?,
                Done::Commit(result) => replica.feed(Input::Committed(result?), began.elapsed())?,
                Done::Defragment(result) => {
                    replica.refresh_database()?;
                    defragmenting = !result.map_err(End::Failed)?;
                    if defragmenting {
                        database.send(defragment(&replica)).ok();
                    }
                }
            }
        }
        if moved.elapsed() > stuck {
            return Err(End::Stuck(format!("nothing moved for {} s", stuck.as_secs())));
        }
    }
}

fn defragment(replica: &Replica<RealDisk>) -> Database {
    let db = replica.state().backend().db().clone();
    Database::Defragment(Box::new(move || {
        db.compact_step(DEFRAGMENT_PAGES)
            .map(|progress| progress.done)
            .map_err(|error| error.to_string())
    }))
}

fn propose(
    replica: &mut Replica<RealDisk>,
    mut request: InternalRaftRequest,
    revision: Option<i64>,
    waiting: &mut VecDeque<(u64, Option<i64>)>,
    now: Duration,
) -> Result<(), End> {
    let id = replica.ids().next();
    request.header = Some(RequestHeader {
        id,
        ..RequestHeader::default()
    });
    waiting.push_back((id, revision));
    Ok(replica.feed(Input::Propose(request.encode_to_vec().into()), now)?)
}

/// Compares all that is there with what the writes up to its revision make, and returns that revision.
fn check(replica: &Replica<RealDisk>, arguments: &Arguments) -> Result<i64, End> {
    let reader = replica.state().reader();
    let view = reader.view();
    let revision = view.current_revision();
    if revision < arguments.acknowledged {
        return Err(End::Lost(format!(
            "revision {} was acknowledged, {revision} is the last one there",
            arguments.acknowledged
        )));
    }
    if replica.term() < arguments.term {
        return Err(End::Lost(format!(
            "the term was {}, now it is {}",
            arguments.term,
            replica.term()
        )));
    }
    let mut model = Model::new(1);
    for revision in 2..=revision {
        model.apply(&write(arguments.seed, revision));
    }
    let everything = RangeRequest {
        key: vec![0].into(),
        range_end: vec![0].into(),
        ..RangeRequest::default()
    };
    let found = view
        .range(&everything)
        .map_err(|error| End::Failed(error.to_string()))?;
    let wanted = model.range_at(b"\0", b"\0", revision);
    if found.kvs != wanted {
        let differing = found.kvs.iter().zip(&wanted).find(|(found, wanted)| found != wanted);
        return Err(End::Lost(format!(
            "{} keys at revision {revision}, {} are right; {differing:?}",
            found.kvs.len(),
            wanted.len()
        )));
    }
    // A compaction is proposed right after its revision, and all before it is acknowledged together with what comes after.
    let compacted = view.compact_revision();
    let due = (arguments.acknowledged - 1) / COMPACT_EVERY * COMPACT_EVERY - COMPACT_BEHIND;
    if compacted < due.max(-1) || compacted > revision {
        return Err(End::Lost(format!(
            "compacted to {compacted}, but {due} was acknowledged and {revision} is the last revision"
        )));
    }
    Ok(revision)
}

fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    // Nobody listens any more: then the cut has been made.
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}
