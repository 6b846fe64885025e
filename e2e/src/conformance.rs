//! etcd's own suite, tests/common of its module go.etcd.io/etcd/tests/v3: black box tests that start clusters of the `etcd` that they
//! are given and drive them with the `etcdctl` and `etcdutl` that they are given.
//!
//! Invariants:
//! - Every test gets a result: passed, failed, skipped (by itself), or not run because the time was over. None is left out of sight.
//! - The exit code is 0 only if no test failed and, without a budget, all have run.

use crate::process::Programs;
use anyhow::{Context, bail};
use std::collections::BTreeMap;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;

/// How long one test may take before it counts as failed.
const TEST_SECONDS_MAX: u64 = 900;

/// Whose etcdctl and etcdutl drive the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Ctl {
    Upstream,
    Ours,
}

/// What to run.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Only tests whose names match this regular expression (Go's).
    #[arg(long, default_value = "^Test")]
    only: String,
    /// Leave out tests whose names begin with one of these.
    #[arg(long, value_delimiter = ',')]
    skip: Vec<String>,
    /// After this, such as 10m, no further test is begun.
    #[arg(long, value_parser = duration)]
    budget: Option<Duration>,
    /// Whose etcdctl and etcdutl.
    #[arg(long, value_enum, default_value = "upstream")]
    ctl: Ctl,
    /// Only one member, and three with TLS; not also with certificates that servers make up.
    #[arg(long)]
    minimal: bool,
    /// Where the output of tests that fail is kept.
    #[arg(long, default_value = "target/conformance")]
    logs: PathBuf,
}

fn duration(text: &str) -> Result<Duration, String> {
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    let factor = match unit {
        "s" | "" => 1,
        "m" => 60,
        "h" => 3600,
        _ => return Err(format!("{text:?} is no time such as 90s, 10m or 1h")),
    };
    let number: u64 = number
        .parse()
        .map_err(|_| format!("{text:?} is no time such as 90s, 10m or 1h"))?;
    Ok(Duration::from_secs(number * factor))
}

/// How a test ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Passed,
    Failed,
    Skipped,
    NotRun,
}

/// A directory in which our programs have etcd's names.
fn bin_dir(programs: &Programs, ctl: Ctl, directory: &Path) -> anyhow::Result<()> {
    let server = std::fs::canonicalize(&programs.server)
        .with_context(|| format!("{} is missing: cargo build --release", programs.server.display()))?;
    symlink(&server, directory.join("etcd"))?;
    for tool in ["etcdctl", "etcdutl"] {
        let program = match ctl {
            Ctl::Upstream => std::fs::canonicalize(programs.upstream(tool)?)?,
            Ctl::Ours => server.clone(),
        };
        symlink(program, directory.join(tool))?;
    }
    Ok(())
}

/// Runs the suite.
pub async fn suite(programs: &Programs, options: &Options) -> anyhow::Result<bool> {
    let test = programs
        .upstream("common.test")
        .context("etcd's suite is not built: e2e/tools/build.sh DIR suite")?;
    let test = std::fs::canonicalize(test)?;
    let tools = test
        .parent()
        .and_then(Path::parent)
        .context("common.test is not in DIR/bin")?;
    let fixtures = std::fs::read_to_string(tools.join("etcd-fixtures"))
        .context("etcd-fixtures is missing beside bin/: e2e/tools/build.sh DIR suite")?;
    let fixtures = PathBuf::from(fixtures.trim());
    // The tests look for certificates beside the directory that they start in.
    let start = fixtures.parent().context("the fixtures have no parent")?.join("common");
    let bin = tempfile::Builder::new().prefix("quorate-conformance-").tempdir()?;
    bin_dir(programs, options.ctl, bin.path())?;
    std::fs::create_dir_all(&options.logs)?;

    println!("--- conformance, etcdctl and etcdutl: {:?}", options.ctl);
    let began = Instant::now();
    let mut results: BTreeMap<String, (Outcome, Duration)> = BTreeMap::new();
    for name in list(&test, &start, &options.only).await? {
        let left_out = options.skip.iter().any(|skip| name.starts_with(skip.as_str()));
        let late = options.budget.is_some_and(|budget| began.elapsed() > budget);
        let from = Instant::now();
        let outcome = if left_out || late {
            Outcome::NotRun
        } else {
            run(&test, &start, bin.path(), &fixtures, &name, options).await?
        };
        let took = from.elapsed();
        if outcome != Outcome::NotRun {
            println!("  {:<7} {name:<60} {:>6.1} s", word(outcome), took.as_secs_f64());
        }
        results.insert(name, (outcome, took));
    }
    let count = |wanted: Outcome| results.values().filter(|(outcome, _)| *outcome == wanted).count();
    let failed = count(Outcome::Failed);
    let not_run: Vec<&str> = results
        .iter()
        .filter(|(_, (outcome, _))| *outcome == Outcome::NotRun)
        .map(|(name, _)| name.as_str())
        .collect();
    if !not_run.is_empty() {
        println!("  not run: {}", not_run.join(", "));
    }
    println!(
        "--- conformance ({:?}): {} passed, {failed} failed, {} skipped, {} not run, of {} in {:.0} s",
        options.ctl,
        count(Outcome::Passed),
        count(Outcome::Skipped),
        not_run.len(),
        results.len(),
        began.elapsed().as_secs_f64()
    );
    if failed > 0 {
        println!("    output of what failed: {}", options.logs.display());
    }
    Ok(failed == 0 && count(Outcome::Passed) > 0)
}

fn word(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Passed => "ok",
        Outcome::Failed => "FAIL",
        Outcome::Skipped => "skipped",
        Outcome::NotRun => "not run",
    }
}

async fn list(test: &Path, start: &Path, only: &str) -> anyhow::Result<Vec<String>> {
    let output = Command::new(test)
        .current_dir(start)
        .args(["-test.list", only])
        .output()
        .await
        .with_context(|| format!("run {}", test.display()))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let names: Vec<String> = text
        .lines()
        .filter(|line| line.starts_with("Test"))
        .map(str::to_owned)
        .collect();
    if names.is_empty() {
        bail!("no test matches {only:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(names)
}

/// Runs one test in a process of its own, so that what it leaves behind ends with it.
async fn run(
    test: &Path,
    start: &Path,
    bin: &Path,
    fixtures: &Path,
    name: &str,
    options: &Options,
) -> anyhow::Result<Outcome> {
    let log = options
        .logs
        .join(format!("{name}-{:?}.log", options.ctl).to_lowercase());
    let file = std::fs::File::create(&log).with_context(|| format!("create {}", log.display()))?;
    let mut command = Command::new(test);
    command
        .current_dir(start)
        .args(["-test.v", "-test.run", &format!("^{name}$")])
        .arg(format!("-test.timeout={TEST_SECONDS_MAX}s"))
        .arg(format!("-bin-dir={}", bin.display()))
        .arg(format!("-cert-dir={}", fixtures.display()))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(file.try_clone()?)
        .process_group(0)
        .kill_on_drop(true);
    for (variable, _) in std::env::vars_os() {
        let text = variable.to_string_lossy();
        if text.starts_with("ETCD") {
            command.env_remove(&variable);
        }
    }
    if options.minimal {
        command.env("E2E_TEST_MINIMAL", "1");
    }
    let mut child = command.spawn().with_context(|| format!("run {}", test.display()))?;
    let group = child.id();
    let mut lines = BufReader::new(child.stdout.take().context("no stdout")?).split(b'\n');
    let mut log_file = file;
    let (mut passed, mut failed, mut skipped) = (false, false, false);
    while let Some(line) = lines.next_segment().await? {
        use std::io::Write;
        log_file.write_all(&line)?;
        log_file.write_all(b"\n")?;
        let text = String::from_utf8_lossy(&line);
        passed |= text.starts_with(&format!("--- PASS: {name} "));
        failed |= text.starts_with(&format!("--- FAIL: {name} "));
        skipped |= text.starts_with(&format!("--- SKIP: {name} "));
    }
    let status = child.wait().await?;
    // A test that ended by a panic leaves its servers behind; they are in its process group.
    if let Some(group) = group.and_then(|group| i32::try_from(group).ok()) {
        let group = nix::unistd::Pid::from_raw(group);
        // Nothing is left as a rule.
        let _empty = nix::sys::signal::killpg(group, nix::sys::signal::Signal::SIGKILL);
    }
    let outcome = match (status.success() && !failed, passed, skipped) {
        (true, true, _) => Outcome::Passed,
        (true, false, true) => Outcome::Skipped,
        _ => Outcome::Failed,
    };
    if outcome != Outcome::Failed {
        std::fs::remove_file(&log)?;
    }
    Ok(outcome)
}
