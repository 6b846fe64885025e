//! The tree of etcdutl's commands and flags, with upstream's texts.

use crate::command_line::{Arguments, Command, Flag, Kind, Program};

pub(super) static PROGRAM: Program = Program {
    root: Command {
        persistent: &[
            Flag::new(
                "timeout",
                Kind::Duration,
                "10s",
                "time to wait to obtain a file lock on db file, 0 to block indefinitely",
            ),
            Flag::text(
                "write-out",
                "simple",
                "set the output format (fields, json, protobuf, simple, table)",
            )
            .short('w'),
        ],
        commands: &[
            Command {
                flags: &[Flag::text(
                    "data-dir",
                    "",
                    "Required. Defragments a data directory not in use by etcd.",
                )
                .required()],
                ..Command::new("defrag", "Defragments the storage of the etcd")
            },
            Command {
                commands: &[
                    Command {
                        flags: RESTORE_FLAGS,
                        ..Command::new(
                            "restore <filename> --data-dir {output dir} [options]",
                            "Restores an etcd member snapshot to an etcd directory",
                        )
                    },
                    Command {
                        long: "When --write-out is set to simple, this command prints out comma-separated status lists for each endpoint.
The items in the lists are hash, revision, total keys, total size.
",
                        ..Command::new("status <filename>", "Gets backend snapshot status of a given file")
                    },
                ],
                ..Command::new("snapshot <subcommand>", "Manages etcd node snapshots")
            },
            Command {
                flags: &[Flag::int("rev", "maximum revision to hash (default: latest revision)")],
                arguments: Arguments::Exactly(1),
                ..Command::new("hashkv <filename>", "Prints the KV history hash of a given file")
            },
            Command::new("version", "Prints the version of etcdutl"),
            Command {
                long: crate::completion::LONG_ETCDUTL,
                arguments: Arguments::OneOf(crate::completion::SHELLS),
                bare_usage: true,
                ..Command::new(
                    "completion [bash|zsh|fish|powershell]",
                    "Generate completion script",
                )
            },
            Command {
                flags: &[
                    Flag::text("data-dir", "", "Path to the etcd data dir").required(),
                    Flag::text(
                        "target-version",
                        "",
                        "Target etcd version to migrate contents of data dir. Minimal value 3.5. Format \"X.Y\" for example 3.6.",
                    )
                    .required(),
                    Flag::bool(
                        "force",
                        "Ignore migration failure and forcefully override storage version. Not recommended.",
                    ),
                ],
                ..Command::new(
                    "migrate",
                    "Migrates schema of etcd data dir files to make them compatible with different etcd version",
                )
            },
            // Upstream has no such command.
            Command {
                flags: &[Flag::bool("identity", "tell whose log it is instead: the ids of member and cluster")],
                arguments: Arguments::Exactly(1),
                hidden: true,
                ..Command::new(
                    "inspect <data-dir>",
                    "Prints where the log of a data directory that is not in use ends, as JSON",
                )
            },
        ],
        ..Command::new("etcdutl", "An administrative command line tool for etcd3.")
    },
    groups: &[],
    help_footer: "",
    help_is_usage: true,
};

/// The flags of `snapshot restore`.
pub(crate) const RESTORE_FLAGS: &[Flag] = &[
    Flag::text("data-dir", "", "Path to the output data directory"),
    Flag::text(
        "wal-dir",
        "",
        "Path to the WAL directory (use --data-dir if none given)",
    ),
    Flag::text(
        "initial-cluster",
        "default=http://localhost:2380",
        "Initial cluster configuration for restore bootstrap",
    ),
    Flag::text(
        "initial-cluster-token",
        "etcd-cluster",
        "Initial cluster token for the etcd cluster during restore bootstrap",
    ),
    Flag::text(
        "initial-advertise-peer-urls",
        "http://localhost:2380",
        "List of this member's peer URLs to advertise to the rest of the cluster",
    ),
    Flag::text("name", "default", "Human-readable name for this member"),
    Flag::bool(
        "skip-hash-check",
        "Ignore snapshot integrity hash value (required if copied from data directory)",
    ),
    // Nothing is mapped into memory here; the size is read and not used.
    Flag::new(
        "initial-memory-map-size",
        Kind::Uint,
        "10737418240",
        "Initial memory map size of the database in bytes. It uses the default value if not defined or defined to 0",
    ),
    Flag::new(
        "bump-revision",
        Kind::Uint,
        "0",
        "How much to increase the latest revision after restore",
    ),
    Flag::bool(
        "mark-compacted",
        "Mark the latest revision after restore as the point of scheduled compaction (required if --bump-revision > 0, disallowed otherwise)",
    ),
];
