//! Cuts of `storage-load`: one member's log, database and snapshots, without a server.
//!
//! A directory lives through many cuts, so that what one leaves behind is the next one's beginning; then another one is made on another
//! kind of file system.

use super::volume::{Volume, kinds};
use anyhow::{Context, bail};
use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// What came of it.
#[derive(Debug, Default)]
pub struct Tally {
    /// Cuts made.
    pub cuts: u64,
    /// Data directories.
    pub directories: u64,
    /// Before the start was over.
    pub at_start: u64,
    /// After a write was acknowledged in the same life.
    pub with_acknowledged: u64,
    /// Writes acknowledged.
    pub acknowledged: u64,
    /// Writes that were there afterwards although no acknowledgement was seen.
    pub untold: u64,
    /// Cuts by kind of file system.
    pub kinds: BTreeMap<&'static str, u64>,
    /// What was lost or damaged.
    pub losses: Vec<String>,
}

/// `storage-load`: something acknowledged is lost.
const LOST: i32 = 3;
/// `storage-load`: the disk is gone.
const GONE: i32 = 4;
/// No life takes longer.
const PATIENCE: Duration = Duration::from_secs(60);

/// Makes `cuts` cuts with syncs, or goes through that many directories without.
pub fn campaign(load: &Path, root: &Path, seed: u64, cuts: u64, jobs: usize, syncs: bool) -> anyhow::Result<Tally> {
    let (next, made) = (AtomicU64::new(0), AtomicU64::new(0));
    let total = Mutex::new(Tally::default());
    let lock = || total.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let work = || -> anyhow::Result<()> {
        loop {
            let n = next.fetch_add(1, Ordering::Relaxed);
            let left = if syncs {
                cuts.saturating_sub(made.load(Ordering::Relaxed))
            } else {
                u64::from(n < cuts)
            };
            if left == 0 {
                return Ok(());
            }
            let directory = Directory {
                load,
                root: root.join(n.to_string()),
                seed: seed ^ n.wrapping_mul(0x9e37_79b9_7f4a_7c15),
                syncs,
            };
            directory.live(n, left.min(5 + n % 21), &made, &lock)?;
        }
    };
    let results: Vec<anyhow::Result<()>> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..jobs).map(|_| scope.spawn(work)).collect();
        let ended = threads.into_iter().map(|thread| thread.join());
        ended
            .map(|result| result.unwrap_or_else(|_| Err(anyhow::anyhow!("a thread panicked"))))
            .collect()
    });
    results.into_iter().collect::<anyhow::Result<()>>()?;
    Ok(total.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner))
}

struct Directory<'a> {
    load: &'a Path,
    root: std::path::PathBuf,
    seed: u64,
    syncs: bool,
}

/// What a life of the load told.
#[derive(Debug, Default)]
struct Told {
    opened: Option<i64>,
    acknowledged: Option<i64>,
    term: u64,
    code: Option<i32>,
    error: String,
}

impl Told {
    fn hear(&mut self, line: &str) -> anyhow::Result<()> {
        let mut words = line.split(' ');
        match (words.next(), words.next().map(str::parse)) {
            (Some("opened"), Some(Ok(revision))) => {
                self.opened = Some(revision);
                self.term = words.next().and_then(|term| term.parse().ok()).unwrap_or(0);
            }
            (Some("acknowledged"), Some(Ok(revision))) => self.acknowledged = Some(revision),
            _ => bail!("storage-load said {line:?}"),
        }
        Ok(())
    }
}

impl Directory<'_> {
    fn live<'t>(
        &self,
        n: u64,
        cuts: u64,
        made: &AtomicU64,
        total: &dyn Fn() -> std::sync::MutexGuard<'t, Tally>,
    ) -> anyhow::Result<()> {
        let all = kinds();
        let kind = all[n as usize % all.len()];
        let mut volume = Volume::make(&self.root, kind)?;
        let (mut acknowledged, mut term) = (1, 0);
        total().directories += 1;
        for cut in 0..=cuts {
            let last = cut == cuts;
            let told = self.life(&volume, acknowledged, term, last)?;
            let mut tally = total();
            if let Some(opened) = told.opened {
                tally.untold += (opened - acknowledged).max(0) as u64;
            }
            // What was not yet known as acknowledged is, once it was seen to be there: the member said that it has it.
            let known = told.acknowledged.or(told.opened).unwrap_or(acknowledged);
            tally.acknowledged += told
                .acknowledged
                .map_or(0, |now| (now - told.opened.unwrap_or(now)).max(0)) as u64;
            (acknowledged, term) = (acknowledged.max(known), term.max(told.term));
            match told.code {
                Some(LOST) => {
                    if std::env::var_os("QUORATE_E2E_KEEP").is_some() {
                        keep(&volume, &self.root);
                    }
                    tally.losses.push(format!(
                        "{}, cut {cut} of directory {n} (seed {}): {}",
                        kind.name, self.seed, told.error
                    ));
                    return Ok(());
                }
                Some(GONE) if !last => {}
                Some(0) if last => {}
                code => bail!("storage-load ended with {code:?} on {}: {}", kind.name, told.error),
            }
            if !last {
                made.fetch_add(1, Ordering::Relaxed);
                tally.cuts += 1;
                tally.at_start += u64::from(told.opened.is_none());
                tally.with_acknowledged += u64::from(told.acknowledged.is_some());
                *tally.kinds.entry(kind.name).or_default() += 1;
                drop(tally);
                volume.unmount()?;
                volume
                    .mount()
                    .with_context(|| format!("{} does not survive the cut", kind.name))?;
            }
        }
        Ok(())
    }

    /// One start of the load, and a cut at a random time unless it is only to look.
    fn life(&self, volume: &Volume, acknowledged: i64, term: u64, only_look: bool) -> anyhow::Result<Told> {
        let mut command = Command::new(self.load);
        command
            .arg("--dir")
            .arg(volume.dir.join("data"))
            .args(["--seed", &self.seed.to_string()])
            .args(["--acknowledged", &acknowledged.to_string()])
            .args(["--term", &term.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        if !self.syncs {
            command.arg("--without-syncs");
        }
        if only_look {
            command.arg("--check");
        }
        let cutter = if only_look { None } else { Some(volume.cutter()?) };
        let mut child = command
            .spawn()
            .with_context(|| format!("cannot run {}", self.load.display()))?;
        let output = child.stdout.take().context("no output")?;
        let (tell, lines) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            for line in std::io::BufRead::lines(std::io::BufReader::new(output)).map_while(Result::ok) {
                if tell.send(line).is_err() {
                    return;
                }
            }
        });
        let mut told = Told::default();
        if let Some(cutter) = cutter {
            // One in three at any time of its start, the others in the middle of the load; the control must have something to lose.
            let most: u64 = *pick(&[2_000, 10_000, 50_000, 200_000]);
            if !self.syncs || rand::random_range(0..3) > 0 {
                let limit = Instant::now() + Duration::from_secs(5);
                while told.acknowledged.is_none()
                    && let Ok(line) = lines.recv_timeout(limit.saturating_duration_since(Instant::now()))
                {
                    told.hear(&line)?;
                }
            }
            std::thread::sleep(Duration::from_micros(rand::random_range(0..=most)));
            // Only what was told by now counts: Linux may let a sync end well that the shutdown interrupted, while without power
            // nobody is left to be told.
            lines.try_iter().try_for_each(|line| told.hear(&line))?;
            cutter.cut()?;
        }
        let began = Instant::now();
        let status = loop {
            match child.try_wait()? {
                Some(status) => break status,
                None if began.elapsed() > PATIENCE => {
                    child.kill()?;
                    child.wait()?;
                    bail!("storage-load did not end within {} s of the cut", PATIENCE.as_secs());
                }
                None => std::thread::sleep(Duration::from_millis(1)),
            }
        };
        told.code = status.code();
        if only_look {
            lines.iter().try_for_each(|line| told.hear(&line))?;
        }
        if let Some(mut errors) = child.stderr.take() {
            std::io::Read::read_to_string(&mut errors, &mut told.error)?;
        }
        Ok(told)
    }
}

/// Copies what a cut left to a place that stays.
fn keep(volume: &Volume, root: &Path) {
    let name = format!("quorate-e2e-cut-{}", root.to_string_lossy().replace('/', "-"));
    let place = std::env::temp_dir().join(name);
    let copied = Command::new("cp")
        .arg("-a")
        .arg(volume.dir.join("data"))
        .arg(&place)
        .status();
    eprintln!("kept as {}: {copied:?}", place.display());
}

fn pick<T>(all: &[T]) -> &T {
    &all[rand::random_range(0..all.len())]
}
