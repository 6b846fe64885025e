//! The command line of etcdutl 3.7 (etcdutl/ctl.go, etcdutl/snapshot_command.go).

use std::ffi::OsString;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::{ArgAction, Args, Parser, Subcommand};

use crate::snapshot::RestoreConfig;

#[derive(Debug, Parser)]
#[command(
    name = "etcdutl",
    about = "An administrative command line tool for etcd3.",
    infer_subcommands = true
)]
pub(super) struct Arguments {
    /// Time to wait to obtain a file lock on db file, 0 to block indefinitely.
    #[arg(long, global = true, default_value = "10s")]
    pub timeout: Timeout,
    /// Set the output format (fields, json, protobuf, simple, table).
    #[arg(short, long, global = true, default_value = "simple")]
    pub write_out: String,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Defragments the storage of the etcd.
    Defrag {
        /// Required. Defragments a data directory not in use by etcd.
        #[arg(long)]
        data_dir: PathBuf,
    },
    /// Manages etcd node snapshots.
    #[command(infer_subcommands = true)]
    Snapshot {
        #[command(subcommand)]
        command: SnapshotCommand,
    },
    /// Prints the KV history hash of a given file (or of the db in a data directory).
    Hashkv {
        /// A db or snapshot file, or a data directory that is not in use.
        file: PathBuf,
        /// Maximum revision to hash (default: latest revision).
        #[arg(long, default_value_t = 0)]
        rev: i64,
    },
    /// Prints where the log of a data directory that is not in use ends, as JSON. Upstream has no such command.
    #[command(hide = true)]
    Inspect {
        /// The data directory.
        data_dir: PathBuf,
    },
    /// Prints the version of etcdutl.
    Version,
}

#[derive(Debug, Subcommand)]
pub(super) enum SnapshotCommand {
    /// Gets backend snapshot status of a given file.
    Status {
        /// A snapshot or db file.
        file: PathBuf,
    },
    /// Restores an etcd member snapshot to an etcd directory.
    Restore(Restore),
}

#[derive(Debug, Args)]
pub(super) struct Restore {
    /// The snapshot.
    file: PathBuf,
    /// Path to the output data directory.
    #[arg(long, default_value = "")]
    data_dir: OsString,
    /// Path to the WAL directory (use --data-dir if none given).
    #[arg(long, default_value = "")]
    wal_dir: OsString,
    /// Initial cluster configuration for restore bootstrap.
    #[arg(long, default_value = "default=http://localhost:2380")]
    initial_cluster: String,
    /// Initial cluster token for the etcd cluster during restore bootstrap.
    #[arg(long, default_value = "etcd-cluster")]
    initial_cluster_token: String,
    /// List of this member's peer URLs to advertise to the rest of the cluster.
    #[arg(long, default_value = "http://localhost:2380")]
    initial_advertise_peer_urls: String,
    /// Human-readable name for this member.
    #[arg(long, default_value = "default")]
    name: String,
    /// Ignore snapshot integrity hash value (required if copied from data directory).
    #[arg(long, action = ArgAction::Set, num_args = 0..=1, require_equals = true, default_value_t = false, default_missing_value = "true")]
    skip_hash_check: bool,
    /// Accepted for compatibility; nothing is mapped into memory.
    #[arg(long, default_value_t = 0)]
    initial_memory_map_size: u64,
    /// How much to increase the latest revision after restore.
    #[arg(long, default_value_t = 0)]
    pub bump_revision: u64,
    /// Mark the latest revision after restore as the point of scheduled compaction (required if --bump-revision > 0, disallowed
    /// otherwise).
    #[arg(long, action = ArgAction::Set, num_args = 0..=1, require_equals = true, default_value_t = false, default_missing_value = "true")]
    pub mark_compacted: bool,
}

impl Restore {
    pub fn into_config(self) -> RestoreConfig {
        let some = |path: OsString| (!path.is_empty()).then(|| PathBuf::from(path));
        RestoreConfig {
            snapshot: self.file,
            data_dir: some(self.data_dir).unwrap_or_else(|| format!("{}.etcd", self.name).into()),
            wal_dir: some(self.wal_dir),
            initial_cluster: self.initial_cluster,
            initial_cluster_token: self.initial_cluster_token,
            initial_advertise_peer_urls: self.initial_advertise_peer_urls,
            name: self.name,
            skip_hash_check: self.skip_hash_check,
            bump_revision: self.bump_revision,
        }
    }
}

/// A duration as Go writes it; 0 means for ever.
#[derive(Debug, Clone, Copy)]
pub(super) struct Timeout(pub Option<Duration>);

impl FromStr for Timeout {
    type Err = String;

    fn from_str(text: &str) -> Result<Timeout, String> {
        let bad = || format!("{text:?} is not a duration such as 500ms, 10s or 1m30s");
        if text == "0" {
            return Ok(Timeout(None));
        }
        let mut rest = text;
        let mut seconds = 0.0;
        while !rest.is_empty() {
            let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(bad)?;
            let number: f64 = rest[..digits].parse().map_err(|_| bad())?;
            rest = &rest[digits..];
            let unit = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
            seconds += number
                * match &rest[..unit] {
                    "ns" => 1e-9,
                    "us" | "µs" => 1e-6,
                    "ms" => 1e-3,
                    "s" => 1.0,
                    "m" => 60.0,
                    "h" => 3600.0,
                    _ => return Err(bad()),
                };
            rest = &rest[unit..];
        }
        if text.is_empty() {
            return Err(bad());
        }
        let duration = Duration::try_from_secs_f64(seconds).map_err(|_| bad())?;
        Ok(Timeout((!duration.is_zero()).then_some(duration)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_etcdutls() {
        let arguments = Arguments::try_parse_from([
            "etcdutl",
            "snap",
            "rest",
            "f.db",
            "--name=m1",
            "--skip-hash-check",
            "--mark-compacted=true",
            "--bump-revision",
            "5",
            "-w",
            "json",
            "--timeout=1m30s",
        ])
        .unwrap();
        assert_eq!(arguments.write_out, "json");
        assert_eq!(arguments.timeout.0, Some(Duration::from_secs(90)));
        let Command::Snapshot {
            command: SnapshotCommand::Restore(restore),
        } = arguments.command
        else {
            panic!("another command")
        };
        assert!(restore.mark_compacted && restore.skip_hash_check);
        let config = restore.into_config();
        assert_eq!(config.data_dir, PathBuf::from("m1.etcd"));
        assert_eq!((config.wal_dir, config.bump_revision), (None, 5));
        assert!(
            Arguments::try_parse_from(["etcdutl", "defrag"]).is_err(),
            "--data-dir is required"
        );
        assert!(Arguments::try_parse_from(["etcdutl", "version", "--timeout=soon"]).is_err());
        assert_eq!("0".parse::<Timeout>().unwrap().0, None);
        assert_eq!("500ms".parse::<Timeout>().unwrap().0, Some(Duration::from_millis(500)));
    }
}
