//! The program `etcdutl`: arguments in, exit code out.

mod commands;
mod print;

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use crate::command_line::{self, Call, Request};
use crate::migrate::{self, Migration};
use crate::snapshot::RestoreConfig;
use crate::{API_VERSION, VERSION, completion, database, gotext, inspect, snapshot};
use commands::PROGRAM;
pub(crate) use commands::RESTORE_FLAGS;

/// As etcd's tools exit when an argument makes no sense.
const BAD_ARGUMENTS: u8 = 128;

/// As etcd's tools exit when an output format is not available.
const BAD_FEATURE: u8 = 4;

/// Why the program ends with something else than 0.
#[derive(Debug)]
struct Exit {
    code: u8,
    error: anyhow::Error,
}

impl Exit {
    fn new(code: u8, text: impl ToString) -> Exit {
        let error = anyhow::anyhow!(text.to_string());
        Exit { code, error }
    }
}

impl<E: Into<anyhow::Error>> From<E> for Exit {
    fn from(error: E) -> Exit {
        let error = error.into();
        Exit { code: 1, error }
    }
}

/// Runs `etcdutl`; the first argument is the program's name. Results go to stdout, everything else to stderr.
pub fn etcdutl(args: Vec<OsString>) -> ExitCode {
    let line = args.into_iter().skip(1).map(OsString::into_vec).collect();
    let call = match command_line::parse(&PROGRAM, line) {
        Request::Run(call) => call,
        Request::Help(text) => {
            print!("{text}");
            return ExitCode::SUCCESS;
        }
        Request::NoHelp(text) => {
            eprint!("{text}");
            return ExitCode::SUCCESS;
        }
        Request::Bad { why, hint } => {
            // Upstream says it twice, too.
            eprint!("Error: {why}\n{hint}Error: {why}\n");
            return ExitCode::FAILURE;
        }
    };
    match run(&call) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Exit { code, error }) => {
            eprintln!("Error: {error:#}");
            ExitCode::from(code)
        }
    }
}

fn path(call: &Call, index: usize) -> PathBuf {
    OsString::from_vec(call.arguments[index].clone()).into()
}

/// A file that must be there, or Go's complaint.
fn must_exist(path: &Path) -> Result<(), Exit> {
    match std::fs::metadata(path) {
        Ok(_) => Ok(()),
        Err(error) => {
            let why = match error.kind() {
                io::ErrorKind::NotFound => "no such file or directory".into(),
                io::ErrorKind::PermissionDenied => "permission denied".into(),
                io::ErrorKind::NotADirectory => "not a directory".into(),
                _ => error.to_string(),
            };
            Err(Exit::new(1, format!("stat {}: {why}", path.display())))
        }
    }
}

fn run(call: &Call) -> Result<(), Exit> {
    let timeout = call.duration("timeout");
    let timeout = (!timeout.is_zero()).then_some(timeout);
    match call.path.as_slice() {
        ["version"] => {
            println!("etcdutl version: {VERSION}");
            println!("API version: {API_VERSION}");
        }
        ["completion"] => print!("{}", completion::script(&PROGRAM, &call.argument(0))),
        ["inspect"] if call.bool("identity") => {
            let whose = inspect::identity(&path(call, 0))?;
            println!("{}", serde_json::to_string(&whose)?);
        }
        ["inspect"] => {
            let end = inspect::inspect(&path(call, 0), timeout)?;
            println!("{}", serde_json::to_string(&end)?);
        }
        ["defrag"] => {
            let data_dir = PathBuf::from(call.text("data-dir"));
            let failed = |why: String| {
                let text = format!("Failed to defragment etcd data[{}] ({why})", data_dir.display());
                Exit::new(1, text)
            };
            must_exist(&database::database_of(&data_dir)).map_err(|exit| failed(exit.error.to_string()))?;
            database::defragment(&data_dir, timeout).map_err(|error| failed(error.to_string()))?;
        }
        ["hashkv"] => {
            let format = print::Format::parse(&call.text("write-out"))?;
            must_exist(&path(call, 0))?;
            format.hash_kv(&database::hash_kv(&path(call, 0), call.int("rev"), timeout)?)?;
        }
        ["migrate"] => migrate(call, timeout)?,
        ["snapshot", "status"] => {
            if call.arguments.len() != 1 {
                return Err(Exit::new(
                    BAD_ARGUMENTS,
                    "snapshot status requires exactly one argument",
                ));
            }
            must_exist(&path(call, 0))?;
            let format = print::Format::parse(&call.text("write-out"))?;
            format.status(&snapshot::status(&path(call, 0), timeout)?)?;
        }
        _ => restore(call)?,
    }
    Ok(())
}

fn restore(call: &Call) -> Result<(), Exit> {
    if call.arguments.len() != 1 {
        let text = "snapshot restore requires exactly one argument";
        return Err(Exit::new(BAD_ARGUMENTS, text));
    }
    let bump_revision = call.uint("bump-revision");
    if (bump_revision > 0) != call.bool("mark-compacted") {
        let text = "--mark-compacted required if --revision-bump > 0";
        return Err(Exit::new(BAD_ARGUMENTS, text));
    }
    let some = |text: String| (!text.is_empty()).then(|| PathBuf::from(text));
    let name = call.text("name");
    let restored = snapshot::restore(&RestoreConfig {
        snapshot: path(call, 0),
        data_dir: some(call.text("data-dir")).unwrap_or_else(|| format!("{name}.etcd").into()),
        wal_dir: some(call.text("wal-dir")),
        initial_cluster: call.text("initial-cluster"),
        initial_cluster_token: call.text("initial-cluster-token"),
        initial_advertise_peer_urls: call.text("initial-advertise-peer-urls"),
        name,
        skip_hash_check: call.bool("skip-hash-check"),
        bump_revision,
    })?;
    eprintln!(
        "restored {}: member {:x} of cluster {:x} in {}, revision {}",
        restored.snapshot.display(),
        restored.member_id,
        restored.cluster_id,
        restored.data_dir.display(),
        restored.revision,
    );
    Ok(())
}

fn migrate(call: &Call, timeout: Option<Duration>) -> Result<(), Exit> {
    let target = call.text("target-version");
    let bad = |text: String| Exit::new(BAD_ARGUMENTS, text);
    if target.matches('.').count() != 1 {
        let given = gotext::quote(target.as_bytes());
        return Err(bad(format!(
            "wrong target version format, expected \"X.Y\", got {given}"
        )));
    }
    let number = |text: &str| gotext::parse_int(text, 10);
    let parsed = target
        .split_once('.')
        .map(|(major, minor)| (number(major), number(minor)));
    let version = match parsed {
        Some((Ok(major), Ok(minor))) => (major, minor),
        Some((Err(why), _) | (_, Err(why))) => return Err(bad(format!("failed to parse target version: {why}"))),
        None => return Err(bad("failed to parse target version".into())),
    };
    if version < (3, 5) {
        let text = format!(
            "target version \"{}.{}\" not supported. Minimal \"3.5\"",
            version.0, version.1
        );
        return Err(bad(text));
    }
    let data_dir = PathBuf::from(call.text("data-dir"));
    must_exist(&database::database_of(&data_dir))?;
    let done = migrate::migrate(&Migration {
        data_dir,
        target: version,
        force: call.bool("force"),
        timeout,
    })?;
    eprintln!("{done}");
    Ok(())
}
