//! The tree of etcdctl's commands and flags, with upstream's texts.

use crate::command_line::{Arguments, Command, Flag, HELP_GROUP, Kind, Program};

const KV: &str = "Key-value commands";
const MAINTENANCE: &str = "Cluster maintenance commands";
const CONCURRENCY: &str = "Concurrency commands";
const AUTHENTICATION: &str = "Authentication commands";

pub(super) static PROGRAM: Program = Program {
    root: Command {
        persistent: &[
            Flag::new("endpoints", Kind::Texts, "127.0.0.1:2379", "gRPC endpoints").hidden(),
            Flag::bool("debug", "enable client-side debug logging").hidden(),
            Flag::text(
                "write-out",
                "simple",
                "set the output format (fields, json, protobuf, simple, table)",
            )
            .short('w')
            .hidden(),
            Flag::bool("hex", "print byte strings as hex encoded strings").hidden(),
            Flag::new("dial-timeout", Kind::Duration, "2s", "dial timeout for client connections").hidden(),
            Flag::new(
                "command-timeout",
                Kind::Duration,
                "5s",
                "timeout for short running command (excluding dial timeout)",
            )
            .hidden(),
            Flag::new("keepalive-time", Kind::Duration, "2s", "keepalive time for client connections").hidden(),
            Flag::new(
                "keepalive-timeout",
                Kind::Duration,
                "6s",
                "keepalive timeout for client connections",
            )
            .hidden(),
            Flag::int(
                "max-request-bytes",
                "client-side request send limit in bytes (if 0, it defaults to 2.0 MiB (2 * 1024 * 1024).)",
            )
            .hidden(),
            Flag::int(
                "max-recv-bytes",
                "client-side response receive limit in bytes (if 0, it defaults to \"math.MaxInt32\")",
            )
            .hidden(),
            Flag::new(
                "insecure-transport",
                Kind::Bool,
                "true",
                "disable transport security for client connections",
            )
            .hidden(),
            Flag::new(
                "insecure-discovery",
                Kind::Bool,
                "true",
                "accept insecure SRV records describing cluster endpoints",
            )
            .hidden(),
            Flag::bool(
                "insecure-skip-tls-verify",
                "skip server certificate verification (CAUTION: this option should be enabled only for testing purposes)",
            )
            .hidden(),
            Flag::text("cert", "", "identify secure client using this TLS certificate file").hidden(),
            Flag::text("key", "", "identify secure client using this TLS key file").hidden(),
            Flag::text(
                "cacert",
                "",
                "verify certificates of TLS-enabled secure servers using this CA bundle",
            )
            .hidden(),
            Flag::text(
                "auth-jwt-token",
                "",
                "JWT token used for authentication (if this option is used, --user and --password should not be set)",
            )
            .hidden(),
            Flag::text(
                "user",
                "",
                "username[:password] for authentication (prompt if password is not supplied)",
            )
            .hidden(),
            Flag::text(
                "password",
                "",
                "password for authentication (if this option is used, --user option shouldn't include password)",
            )
            .hidden(),
            Flag::text(
                "discovery-srv",
                "",
                "domain name to query for SRV records describing cluster endpoints",
            )
            .short('d')
            .hidden(),
            Flag::text("discovery-srv-name", "", "service name to query when using DNS discovery").hidden(),
        ],
        commands: &[
            GET, PUT, DEL, TXN, COMPACTION, ALARM, DEFRAG, ENDPOINT, MOVE_LEADER, WATCH, VERSION, LEASE, MEMBER, SNAPSHOT,
            MAKE_MIRROR, LOCK, ELECT, AUTH, USER, ROLE, CHECK, COMPLETION, DOWNGRADE, OPTIONS,
        ],
        ..Command::new("etcdctl", "A simple command line client for etcd3.")
    },
    groups: &[KV, MAINTENANCE, CONCURRENCY, AUTHENTICATION, HELP_GROUP],
    help_footer: "Use \"etcdctl options\" for a list of global command-line options (applies to all commands).\n",
    help_is_usage: false,
};

pub(super) const GET: Command = Command {
    group: KV,
    flags: &[
        Flag::text("consistency", "l", "Linearizable(l) or Serializable(s)"),
        Flag::text("order", "", "Order of results; ASCEND or DESCEND (ASCEND by default)"),
        Flag::text("sort-by", "", "Sort target; CREATE, KEY, MODIFY, VALUE, or VERSION"),
        Flag::int("limit", "Maximum number of results"),
        Flag::bool("prefix", "Get keys with matching prefix"),
        Flag::bool(
            "from-key",
            "Get keys that are greater than or equal to the given key using byte compare",
        ),
        Flag::int("rev", "Specify the kv revision"),
        Flag::bool("keys-only", "Get only the keys"),
        Flag::bool("count-only", "Get only the count"),
        Flag::bool(
            "print-value-only",
            "Only write values when using the \"simple\" output format",
        ),
        Flag::int("min-create-rev", "Minimum create revision"),
        Flag::int("max-create-rev", "Maximum create revision"),
        Flag::int("min-mod-rev", "Minimum modification revision"),
        Flag::int("max-mod-rev", "Maximum modification revision"),
        Flag::bool("stream", "Use the RangeStream RPC"),
    ],
    ..Command::new("get [options] <key> [range_end]", "Gets the key or a range of keys")
};

pub(super) const PUT: Command = Command {
    group: KV,
    long: "
Puts the given key into the store.

When <value> begins with '-', <value> is interpreted as a flag.
Insert '--' for workaround:

$ put <key> -- <value>
$ put -- <key> <value>

If <value> isn't given as a command line argument and '--ignore-value' is not specified,
this command tries to read the value from standard input.

If <lease> isn't given as a command line argument and '--ignore-lease' is not specified,
this command tries to read the value from standard input.

For example,
$ cat file | put <key>
will store the content of the file to <key>.
",
    flags: &[
        Flag::text("lease", "0", "lease ID (in hexadecimal) to attach to the key"),
        Flag::bool("prev-kv", "return the previous key-value pair before modification"),
        Flag::bool("ignore-value", "updates the key using its current value"),
        Flag::bool("ignore-lease", "updates the key using its current lease"),
    ],
    ..Command::new(
        "put [options] <key> <value> (<value> can also be given from stdin)",
        "Puts the given key into the store",
    )
};

pub(super) const DEL: Command = Command {
    group: KV,
    flags: &[
        Flag::bool("prefix", "delete keys with matching prefix"),
        Flag::bool("prev-kv", "return deleted key-value pairs"),
        Flag::bool(
            "from-key",
            "delete keys that are greater than or equal to the given key using byte compare",
        ),
        Flag::bool("range", "delete range of keys"),
    ],
    ..Command::new(
        "del [options] <key> [range_end]",
        "Removes the specified key or range of keys [key, range_end)",
    )
};

const TXN: Command = Command {
    group: KV,
    long: "Txn reads multiple etcd requests from standard input and applies them as a single atomic transaction.

A transaction consists of three components:
1) a list of conditions,
2) a list of requests to apply if all the conditions are true,
3) a list of requests to apply if any condition is false.

Example interactive stdin usage:

---
etcdctl txn -i
# compares:
mod(\"key1\") > \"0\"

# success requests (get, put, delete):
put key1 \"overwrote-key1\"

# failure requests (get, put, delete):
put key1 \"created-key1\"
put key2 \"some extra key\"
---

Refer to https://github.com/etcd-io/etcd/blob/main/etcdctl/README.md#txn-options.",
    flags: &[Flag::bool("interactive", "Input transaction in interactive mode").short('i')],
    ..Command::new("txn [options]", "Txn processes all the requests in one transaction")
};

const COMPACTION: Command = Command {
    group: KV,
    flags: &[Flag::bool(
        "physical",
        "'true' to wait for compaction to physically remove all old revisions",
    )],
    ..Command::new("compaction [options] <revision>", "Compacts the event history in etcd")
};

const ALARM: Command = Command {
    group: MAINTENANCE,
    long: "Alarm related commands",
    commands: &[
        Command::new("disarm", "Disarms all alarms"),
        Command::new("list", "Lists all alarms"),
    ],
    ..Command::new(
        "alarm <subcommand>",
        "Alarm related commands. Use `etcdctl alarm --help` to see subcommands",
    )
};

const CLUSTER: Flag = Flag::bool("cluster", "use all endpoints from the cluster member list");

const DEFRAG: Command = Command {
    group: MAINTENANCE,
    persistent: &[CLUSTER],
    ..Command::new(
        "defrag",
        "Defragments the storage of the etcd members with given endpoints",
    )
};

const ENDPOINT: Command = Command {
    group: MAINTENANCE,
    long: "Endpoint related commands",
    persistent: &[CLUSTER],
    commands: &[
        Command::new("health", "Checks the healthiness of endpoints specified in `--endpoints` flag"),
        Command {
            long: "When --write-out is set to simple, this command prints out comma-separated status lists for each endpoint.
The items in the lists are endpoint, ID, version, db size, is leader, is learner, raft term, raft index, raft applied index, errors.
",
            ..Command::new("status", "Prints out the status of endpoints specified in `--endpoints` flag")
        },
        Command {
            persistent: &[Flag::int("rev", "maximum revision to hash (default: latest revision)")],
            ..Command::new("hashkv", "Prints the KV history hash for each endpoint in --endpoints")
        },
    ],
    ..Command::new(
        "endpoint <subcommand>",
        "Endpoint related commands. Use `etcdctl endpoint --help` to see subcommands",
    )
};

const MOVE_LEADER: Command = Command {
    group: MAINTENANCE,
    ..Command::new(
        "move-leader <transferee-member-id>",
        "Transfers leadership to another etcd cluster member.",
    )
};

pub(super) const WATCH: Command = Command {
    group: KV,
    flags: &[
        Flag::bool("interactive", "Interactive mode").short('i'),
        Flag::bool("prefix", "Watch on a prefix if prefix is set"),
        Flag::int("rev", "Revision to start watching"),
        Flag::bool("prev-kv", "get the previous key-value pair before the event happens"),
        Flag::bool(
            "progress-notify",
            "get periodic watch progress notification from server",
        ),
    ],
    ..Command::new(
        "watch [options] [key or prefix] [range_end] [--] [exec-command arg1 arg2 ...]",
        "Watches events stream on keys or prefixes",
    )
};

const VERSION: Command = Command {
    group: HELP_GROUP,
    ..Command::new("version", "Prints the version of etcdctl")
};

const LEASE: Command = Command {
    group: KV,
    long: "Lease related commands",
    commands: &[
        Command::new("grant <ttl>", "Creates leases"),
        Command::new("revoke <leaseID>", "Revokes leases"),
        Command {
            flags: &[Flag::bool("keys", "Get keys attached to this lease")],
            ..Command::new("timetolive <leaseID> [options]", "Get lease information")
        },
        Command::new("list", "List all active leases"),
        Command {
            flags: &[Flag::bool(
                "once",
                "Resets the keep-alive time to its original value and cobrautl.Exits immediately",
            )],
            ..Command::new("keep-alive [options] <leaseID>", "Keeps leases alive (renew)")
        },
    ],
    ..Command::new(
        "lease <subcommand>",
        "Lease related commands. Use `etcdctl lease --help` to see subcommands",
    )
};

const MEMBER: Command = Command {
    group: MAINTENANCE,
    long: "Membership related commands",
    commands: &[
        Command {
            flags: &[
                Flag::text("peer-urls", "", "comma separated peer URLs for the new member."),
                Flag::bool("learner", "indicates if the new member is raft learner"),
            ],
            ..Command::new("add <memberName> [options]", "Adds a member into the cluster")
        },
        Command::new("remove <memberID>", "Removes a member from the cluster"),
        Command {
            flags: &[Flag::text("peer-urls", "", "comma separated peer URLs for the updated member.")],
            ..Command::new("update <memberID> [options]", "Updates a member in the cluster")
        },
        Command {
            long: "When --write-out is set to simple, this command prints out comma-separated member lists for each endpoint.
The items in the lists are ID, Status, Name, Peer Addrs, Client Addrs, Is Learner.
",
            flags: &[Flag::text("consistency", "l", "Linearizable(l) or Serializable(s)")],
            ..Command::new("list", "Lists all members in the cluster")
        },
        Command {
            long: "Promotes a non-voting learner member to a voting one in the cluster.
",
            ..Command::new("promote <memberID>", "Promotes a non-voting member in the cluster")
        },
    ],
    ..Command::new(
        "member <subcommand>",
        "Membership related commands. Use `etcdctl member --help` to see subcommands",
    )
};

const SNAPSHOT_EXAMPLE: &str = "  # Save snapshot to a given file
  etcdctl snapshot save /backup/etcd-snapshot.db
  
  # Get snapshot from given address and save it to file
  etcdctl snapshot save --endpoints=127.0.0.1:3000 /backup/etcd-snapshot.db
  
  # Get snapshot from given address with certificates
  etcdctl --endpoints=https://127.0.0.1:2379 --cacert=/etc/etcd/ca.crt --cert=/etc/etcd/etcd.crt --key=/etc/etcd/etcd.key snapshot save /backup/etcd-snapshot.db
  
  # Get snapshot with certain user and password
  etcdctl --user=root --password=password123 snapshot save /backup/etcd-snapshot.db
  
  # Get snapshot from given address with timeout
  etcdctl --endpoints=https://127.0.0.1:2379 --dial-timeout=20s snapshot save /backup/etcd-snapshot.db
  
  # Save snapshot with desirable time format
  etcdctl snapshot save /mnt/backup/etcd/backup_$(date +%Y%m%d_%H%M%S).db";

const SNAPSHOT: Command = Command {
    group: MAINTENANCE,
    example: SNAPSHOT_EXAMPLE,
    commands: &[
        Command {
            example: SNAPSHOT_EXAMPLE,
            ..Command::new(
                "save <filename>",
                "Stores an etcd node backend snapshot to a given file",
            )
        },
        // Upstream has these no more and prints help in their place, with success; old runbooks still call them.
        Command {
            hidden: true,
            ..Command::new("status <filename>", "Gets backend snapshot status of a given file")
        },
        Command {
            hidden: true,
            flags: crate::etcdutl::RESTORE_FLAGS,
            ..Command::new(
                "restore <filename>",
                "Restores an etcd member snapshot to an etcd directory",
            )
        },
    ],
    ..Command::new("snapshot <subcommand>", "Manages etcd node snapshots")
};

const MAKE_MIRROR: Command = Command {
    group: HELP_GROUP,
    flags: &[
        Flag::text("prefix", "", "Key-value prefix to mirror"),
        Flag::int("rev", "Specify the kv revision to start to mirror"),
        Flag::new(
            "max-txn-ops",
            Kind::Uint,
            "128",
            "Maximum number of operations permitted in a transaction during syncing updates.",
        ),
        Flag::text(
            "dest-prefix",
            "",
            "destination prefix to mirror a prefix to a different prefix in the destination cluster",
        ),
        Flag::bool(
            "no-dest-prefix",
            "mirror key-values to the root of the destination cluster",
        ),
        Flag::text(
            "dest-cert",
            "",
            "Identify secure client using this TLS certificate file for the destination cluster",
        ),
        Flag::text("dest-key", "", "Identify secure client using this TLS key file"),
        Flag::text(
            "dest-cacert",
            "",
            "Verify certificates of TLS enabled secure servers using this CA bundle",
        ),
        Flag::new(
            "dest-insecure-transport",
            Kind::Bool,
            "true",
            "Disable transport security for client connections",
        ),
        Flag::text(
            "dest-user",
            "",
            "Destination username[:password] for authentication (prompt if password is not supplied)",
        ),
        Flag::text(
            "dest-password",
            "",
            "Destination password for authentication (if this option is used, --user option shouldn't include password)",
        ),
    ],
    ..Command::new(
        "make-mirror [options] <destination>",
        "Makes a mirror at the destination etcd cluster",
    )
};

const LOCK: Command = Command {
    group: CONCURRENCY,
    flags: &[Flag::new("ttl", Kind::Int, "10", "timeout for session")],
    ..Command::new("lock <lockname> [exec-command arg1 arg2 ...]", "Acquires a named lock")
};

const ELECT: Command = Command {
    group: CONCURRENCY,
    flags: &[Flag::bool("listen", "observation mode").short('l')],
    ..Command::new(
        "elect <election-name> [proposal]",
        "Observes and participates in leader election",
    )
};

const AUTH: Command = Command {
    group: AUTHENTICATION,
    long: "Enable or disable authentication",
    commands: &[
        Command::new("enable", "Enables authentication"),
        Command::new("disable", "Disables authentication"),
        Command::new("status", "Returns authentication status"),
    ],
    ..Command::new(
        "auth <enable or disable>",
        "Enable or disable authentication. Use `etcdctl auth --help` to see subcommands",
    )
};

const USER: Command = Command {
    group: AUTHENTICATION,
    long: "User related commands",
    commands: &[
        Command {
            flags: &[
                Flag::new(
                    "interactive",
                    Kind::Bool,
                    "true",
                    "Read password from stdin instead of interactive terminal",
                ),
                Flag::text("new-user-password", "", "Supply password from the command line flag"),
                Flag::bool("no-password", "Create a user without password (CN based auth only)"),
            ],
            ..Command::new("add <user name or user:password> [options]", "Adds a new user")
        },
        Command::new("delete <user name>", "Deletes a user"),
        Command {
            flags: &[Flag::bool("detail", "Show permissions of roles granted to the user")],
            ..Command::new("get <user name> [options]", "Gets detailed information of a user")
        },
        Command::new("list", "Lists all users"),
        Command {
            flags: &[Flag::new(
                "interactive",
                Kind::Bool,
                "true",
                "If true, read password from stdin instead of interactive terminal",
            )],
            ..Command::new("passwd <user name> [options]", "Changes password of user")
        },
        Command::new("grant-role <user name> <role name>", "Grants a role to a user"),
        Command::new("revoke-role <user name> <role name>", "Revokes a role from a user"),
    ],
    ..Command::new(
        "user <subcommand>",
        "User related commands. Use `etcdctl user --help` to see subcommands",
    )
};

const ROLE: Command = Command {
    group: AUTHENTICATION,
    long: "Role related commands",
    commands: &[
        Command::new("add <role name>", "Adds a new role"),
        Command::new("delete <role name>", "Deletes a role"),
        Command::new("get <role name>", "Gets detailed information of a role"),
        Command::new("list", "Lists all roles"),
        Command {
            flags: &[
                Flag::bool("prefix", "grant a prefix permission"),
                Flag::bool(
                    "from-key",
                    "grant a permission of keys that are greater than or equal to the given key using byte compare",
                ),
            ],
            ..Command::new(
                "grant-permission [options] <role name> <permission type> <key> [endkey]",
                "Grants a key to a role",
            )
        },
        Command {
            flags: &[
                Flag::bool("prefix", "revoke a prefix permission"),
                Flag::bool(
                    "from-key",
                    "revoke a permission of keys that are greater than or equal to the given key using byte compare",
                ),
            ],
            ..Command::new(
                "revoke-permission <role name> <key> [endkey]",
                "Revokes a key from a role",
            )
        },
    ],
    ..Command::new(
        "role <subcommand>",
        "Role related commands. Use `etcdctl role --help` to see subcommands",
    )
};

const AUTO_COMPACT: Flag = Flag::bool(
    "auto-compact",
    "Compact storage with last revision after test is finished.",
);
const AUTO_DEFRAG: Flag = Flag::bool("auto-defrag", "Defragment storage after test is finished.");

const CHECK: Command = Command {
    group: HELP_GROUP,
    long: "commands for checking properties of the etcd cluster",
    commands: &[
        Command {
            flags: &[
                Flag::text(
                    "load",
                    "s",
                    "The performance check's workload model. Accepted workloads: s(small), m(medium), l(large), xl(xLarge). Different workload models use different configurations in terms of number of clients and expected throughput.",
                ),
                Flag::text(
                    "prefix",
                    "/etcdctl-check-perf/",
                    "The prefix for writing the performance check's keys.",
                ),
                AUTO_COMPACT,
                AUTO_DEFRAG,
            ],
            ..Command::new("perf [options]", "Check the performance of the etcd cluster")
        },
        Command {
            long: "If no endpoint is provided, localhost will be used. If multiple endpoints are provided, first endpoint will be used.",
            flags: &[
                Flag::text(
                    "load",
                    "s",
                    "The datascale check's workload model. Accepted workloads: s(small), m(medium), l(large), xl(xLarge)",
                ),
                Flag::text(
                    "prefix",
                    "/etcdctl-check-datascale/",
                    "The prefix for writing the datascale check's keys.",
                ),
                AUTO_COMPACT,
                AUTO_DEFRAG,
            ],
            ..Command::new(
                "datascale [options]",
                "Check the memory usage of holding data for different workloads on a given server endpoint.",
            )
        },
    ],
    ..Command::new(
        "check <subcommand>",
        "commands for checking properties of the etcd cluster. Use `etcdctl check --help` to see subcommands",
    )
};

const COMPLETION: Command = Command {
    group: HELP_GROUP,
    long: crate::completion::LONG_ETCDCTL,
    arguments: Arguments::OneOf(crate::completion::SHELLS),
    bare_usage: true,
    ..Command::new("completion [bash|zsh|fish|powershell]", "Generate completion script")
};

const DOWNGRADE: Command = Command {
    group: MAINTENANCE,
    long: "Downgrade related commands",
    commands: &[
        Command::new(
            "validate <TARGET_VERSION>",
            "Validate downgrade capability before starting downgrade",
        ),
        Command::new("enable <TARGET_VERSION>", "Start a downgrade action to cluster"),
        Command::new("cancel", "Cancel the ongoing downgrade action to cluster"),
    ],
    ..Command::new(
        "downgrade <TARGET_VERSION>",
        "Downgrade related commands. Use `etcdctl downgrade --help` to see subcommands",
    )
};

const OPTIONS: Command = Command {
    group: HELP_GROUP,
    ..Command::new("options", "Show the global command-line flags")
};
