//! The program `etcdutl`: arguments in, exit code out.

mod arguments;
mod print;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::Parser;
use clap::error::ErrorKind;

use arguments::{Arguments, Command, SnapshotCommand};

use crate::{database, snapshot};

/// The etcd release whose tools these are.
const VERSION: &str = "3.7.3";

/// The API that goes with it.
const API_VERSION: &str = "3.7";

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

impl<E: Into<anyhow::Error>> From<E> for Exit {
    fn from(error: E) -> Exit {
        Exit {
            code: 1,
            error: error.into(),
        }
    }
}

/// Runs `etcdutl`; the first argument is the program's name. Results go to stdout, everything else to stderr.
pub fn etcdutl(args: Vec<OsString>) -> ExitCode {
    let arguments = match Arguments::try_parse_from(args) {
        Ok(arguments) => arguments,
        Err(error) => {
            let asked_for = matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
            // Nothing can be done about a closed stdout.
            let _closed = error.print();
            return if asked_for {
                ExitCode::SUCCESS
            } else {
                ExitCode::FAILURE
            };
        }
    };
    match run(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Exit { code, error }) => {
            eprintln!("Error: {error:#}");
            ExitCode::from(code)
        }
    }
}

fn run(arguments: Arguments) -> Result<(), Exit> {
    let timeout = arguments.timeout.0;
    match arguments.command {
        Command::Version => {
            println!("etcdutl version: {VERSION}");
            println!("API version: {API_VERSION}");
        }
        Command::Inspect { data_dir } => {
            let end = crate::inspect::inspect(&data_dir, timeout)?;
            println!("{}", serde_json::to_string(&end)?);
        }
        Command::Defrag { data_dir } => {
            let describe = |error: database::Error| {
                let dir = data_dir.display();
                anyhow::anyhow!("Failed to defragment etcd data[{dir}] ({error})")
            };
            database::defragment(&data_dir, timeout).map_err(describe)?;
        }
        Command::Hashkv { file, rev } => {
            let print = print::Format::parse(&arguments.write_out)?;
            let hash = database::hash_kv(&file, rev, timeout)?;
            print.hash_kv(&hash)?;
        }
        Command::Snapshot {
            command: SnapshotCommand::Status { file },
        } => {
            let print = print::Format::parse(&arguments.write_out)?;
            let status = snapshot::status(&file, timeout)?;
            print.status(&status)?;
        }
        Command::Snapshot {
            command: SnapshotCommand::Restore(restore),
        } => {
            if (restore.bump_revision > 0) != restore.mark_compacted {
                let error = anyhow::anyhow!("--mark-compacted required if --revision-bump > 0");
                return Err(Exit {
                    code: BAD_ARGUMENTS,
                    error,
                });
            }
            let restored = snapshot::restore(&restore.into_config())?;
            eprintln!(
                "restored {}: member {:x} of cluster {:x} in {}, revision {}",
                restored.snapshot.display(),
                restored.member_id,
                restored.cluster_id,
                restored.data_dir.display(),
                restored.revision,
            );
        }
    }
    Ok(())
}
