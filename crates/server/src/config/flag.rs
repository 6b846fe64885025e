//! The flags, and the command-line syntax of Go's `flag` package: one or two dashes, `=` or a separate value, bare booleans,
//! the last of a repeated flag wins.
//!
//! Invariants:
//! - [`FLAGS`] is the only list of flags: command line, environment and help are all read from it.

use std::collections::BTreeSet;
use std::path::PathBuf;

use super::{Config, Nanos, url};

/// One flag.
pub(super) struct Flag {
    /// Its name, without dashes.
    pub name: &'static str,
    /// What values look like.
    pub kind: Kind,
    /// One line for `--help`; empty for flags that are accepted and ignored.
    pub help: &'static str,
    set: fn(&mut Config, &str) -> Result<(), String>,
}

/// What a value of a flag looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// `true` or `false`; may stand alone.
    Bool,
    /// Go's duration syntax; integer nanoseconds in a file.
    Duration,
    /// A number.
    Number,
    /// A comma-separated list.
    List,
    /// Anything else.
    Text,
}

impl Flag {
    /// Sets the value in `config`; the error is what Go's flag package would append.
    pub fn set(&self, config: &mut Config, value: &str) -> Result<(), String> {
        (self.set)(config, value)
    }
}

/// What the command line holds besides settings.
#[derive(Debug, Default)]
pub(super) struct Parsed {
    pub help: bool,
    pub version: bool,
    pub config_file: Option<String>,
    /// Flags that were given.
    pub set: BTreeSet<&'static str>,
    /// What follows the flags.
    pub rest: Vec<String>,
}

/// Finds a flag by name, old names (`experimental-…` of 3.6) included.
pub(super) fn find(name: &str) -> Option<&'static Flag> {
    FLAGS.iter().find(|flag| flag.name == name)
}

/// Applies arguments to `config`.
pub(super) fn parse(config: &mut Config, arguments: &[String]) -> Result<Parsed, String> {
    let mut parsed = Parsed::default();
    let mut arguments = arguments.iter();
    while let Some(argument) = arguments.next() {
        let Some(body) = argument.strip_prefix('-').filter(|body| !body.is_empty()) else {
            parsed.rest.push(argument.clone());
            parsed.rest.extend(arguments.cloned());
            break;
        };
        let body = body.strip_prefix('-').unwrap_or(body);
        if body.is_empty() {
            parsed.rest.extend(arguments.cloned());
            break;
        }
        if body.starts_with('-') || body.starts_with('=') {
            return Err(format!("bad flag syntax: {argument}"));
        }
        let (name, value) = match body.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (body, None),
        };
        let Some(flag) = find(name) else {
            if name == "h" || name == "help" {
                parsed.help = true;
                return Ok(parsed);
            }
            return Err(format!("flag provided but not defined: -{name}"));
        };
        let value = match (value, flag.kind) {
            (Some(value), _) => value,
            (None, Kind::Bool) => "true",
            (None, _) => arguments
                .next()
                .ok_or_else(|| format!("flag needs an argument: -{name}"))?,
        };
        flag.set(config, value).map_err(|error| match flag.kind {
            Kind::Bool => format!("invalid boolean value {value:?} for -{name}: {error}"),
            _ => format!("invalid value {value:?} for flag -{name}: {error}"),
        })?;
        match flag.name {
            "config-file" => parsed.config_file = Some(value.to_owned()).filter(|path| !path.is_empty()),
            "version" => parsed.version = parse_bool(value) == Some(true),
            _ => {}
        }
        parsed.set.insert(flag.name);
    }
    Ok(parsed)
}

/// Go's `strconv.ParseBool`.
pub(super) fn parse_bool(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

type Set = Result<(), String>;

fn boolean(to: &mut bool, value: &str) -> Set {
    *to = parse_bool(value).ok_or("parse error")?;
    Ok(())
}

fn text(to: &mut String, value: &str) -> Set {
    value.clone_into(to);
    Ok(())
}

fn number<T: TryFrom<i128>>(to: &mut T, value: &str) -> Set {
    let number = integer(value)?;
    if number < 0 && T::try_from(-1).is_err() {
        return Err("parse error".into());
    }
    *to = T::try_from(number).map_err(|_| "value out of range")?;
    Ok(())
}

/// Go's integer literals: decimal, 0x, 0o or a leading 0, 0b.
fn integer(text: &str) -> Result<i128, &'static str> {
    use std::num::IntErrorKind::{NegOverflow, PosOverflow};
    let (negative, digits) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let lower = digits.to_ascii_lowercase();
    let (base, digits) = match lower.get(..2) {
        Some("0x") => (16, &lower[2..]),
        Some("0o") => (8, &lower[2..]),
        Some("0b") => (2, &lower[2..]),
        Some(two) if two.starts_with('0') => (8, &lower[1..]),
        _ => (10, lower.as_str()),
    };
    if digits.starts_with(['+', '-']) {
        return Err("parse error");
    }
    let number = i128::from_str_radix(digits, base).map_err(|error| match error.kind() {
        PosOverflow | NegOverflow => "value out of range",
        _ => "parse error",
    })?;
    Ok(if negative { -number } else { number })
}

fn duration(to: &mut Nanos, value: &str) -> Set {
    *to = Nanos::parse(value).map_err(|_| "parse error")?;
    Ok(())
}

fn urls(to: &mut Vec<url::Url>, value: &str) -> Set {
    *to = url::parse_list(value)?;
    Ok(())
}

fn list(to: &mut Vec<String>, value: &str) -> Set {
    *to = if value.is_empty() {
        Vec::new()
    } else {
        value.split(',').map(str::to_owned).collect()
    };
    Ok(())
}

fn origins(to: &mut BTreeSet<String>, value: &str) -> Set {
    *to = match value {
        "" | "*" => BTreeSet::from(["*".to_owned()]),
        _ => url::parse_list(value)?.iter().map(ToString::to_string).collect(),
    };
    Ok(())
}

fn names(to: &mut BTreeSet<String>, value: &str) -> Set {
    *to = value
        .split(',')
        .filter(|name| !name.is_empty())
        .map(str::to_owned)
        .collect();
    Ok(())
}

fn one_of(to: &mut String, value: &str, choices: &[&str]) -> Set {
    if !choices.contains(&value) {
        return Err(format!("invalid value (must be one of: {})", choices.join(", ")));
    }
    text(to, value)
}

fn gate(config: &mut Config, name: &str, value: &str) -> Set {
    config
        .features
        .apply(&format!("{name}={}", if value.is_empty() { "true" } else { value }))
        .map_err(|_| "parse error".to_owned())
}

fn ignored(_: &mut Config, _: &str) -> Set {
    Ok(())
}

/// Flags that etcd 3.7 still takes and warns about.
pub(super) const DEPRECATED: &[(&str, &str)] = &[
    (
        "max-snapshots",
        "--max-snapshots is deprecated in 3.6 and will be decommissioned in 3.8.",
    ),
    (
        "v2-deprecation",
        "--v2-deprecation is deprecated and scheduled for removal in v3.8. The default value is enforced, ignoring user input.",
    ),
];

const V2_STAGES: &[&str] = &[
    "write-only",
    "write-only-skip-check",
    "write-only-drop-data",
    "gone",
    "not-yet",
];

macro_rules! flags {
    ($($name:literal $kind:ident $help:literal => $set:expr;)*) => {
        &[$(Flag { name: $name, kind: Kind::$kind, help: $help, set: $set },)*]
    };
}

/// Every flag, in the order of `--help`.
#[rustfmt::skip]
pub(super) static FLAGS: &[Flag] = flags! {
    "name" Text "Name of this member, for people." => |c, v| text(&mut c.name, v);
    "data-dir" Text "Where data is kept; default ${name}.etcd." => |c, v| { c.data_dir = PathBuf::from(v); Ok(()) };
    "wal-dir" Text "A directory of its own for the write-ahead log." => |c, v| { c.wal_dir = (!v.is_empty()).then(|| PathBuf::from(v)); Ok(()) };
    "snapshot-count" Number "Entries between snapshots on disk." => |c, v| number(&mut c.snapshot_count, v);
    "heartbeat-interval" Number "Milliseconds between heartbeats." => |c, v| number(&mut c.heartbeat_interval_ms, v);
    "election-timeout" Number "Milliseconds without a leader until an election." => |c, v| number(&mut c.election_timeout_ms, v);
    "initial-election-tick-advance" Bool "Elect sooner after a start." => |c, v| boolean(&mut c.initial_election_tick_advance, v);
    "listen-peer-urls" List "Where to listen for peers." => |c, v| urls(&mut c.listen_peer_urls, v);
    "listen-client-urls" List "Where to listen for clients: gRPC, and HTTP unless listen-client-http-urls is set." => |c, v| urls(&mut c.listen_client_urls, v);
    "listen-client-http-urls" List "Where to serve HTTP to clients, apart from gRPC." => |c, v| urls(&mut c.listen_client_http_urls, v);
    "max-snapshots" Number "Snapshot files to keep (0: all). Deprecated." => |c, v| number(&mut c.max_snapshots, v);
    "max-wals" Number "Log files to keep (0: all)." => |c, v| number(&mut c.max_wals, v);
    "memory-mlock" Bool "Accepted; the database is not mapped into memory here." => |c, v| boolean(&mut c.memory_mlock, v);
    "quota-backend-bytes" Number "Bytes the database may take (0: 2 GiB, negative: no limit)." => |c, v| number(&mut c.quota_backend_bytes, v);
    "backend-bbolt-freelist-type" Text "Accepted; free pages are kept as extents here." => |c, v| text(&mut c.backend_bbolt_freelist_type, v);
    "backend-batch-interval" Duration "Longest time between commits of the database." => |c, v| duration(&mut c.backend_batch_interval, v);
    "backend-batch-limit" Number "Most operations between commits of the database." => |c, v| number(&mut c.backend_batch_limit, v);
    "max-txn-ops" Number "Most operations in a transaction." => |c, v| number(&mut c.max_txn_ops, v);
    "max-request-bytes" Number "Largest request of a client, in bytes." => |c, v| number(&mut c.max_request_bytes, v);
    "max-concurrent-streams" Number "Streams a client connection may have open." => |c, v| number(&mut c.max_concurrent_streams, v);
    "grpc-keepalive-min-time" Duration "Least time between pings of a client." => |c, v| duration(&mut c.grpc_keepalive_min_time, v);
    "grpc-keepalive-interval" Duration "Time between pings to a client (0: none)." => |c, v| duration(&mut c.grpc_keepalive_interval, v);
    "grpc-keepalive-timeout" Duration "How long a ping may stay unanswered." => |c, v| duration(&mut c.grpc_keepalive_timeout, v);
    "socket-reuse-port" Bool "Set SO_REUSEPORT on listeners." => |c, v| boolean(&mut c.socket_reuse_port, v);
    "socket-reuse-address" Bool "Set SO_REUSEADDR on listeners." => |c, v| boolean(&mut c.socket_reuse_address, v);
    "enable-grpc-gateway" Bool "Serve the JSON gateway." => |c, v| boolean(&mut c.enable_grpc_gateway, v);
    "raft-read-timeout" Duration "Read timeout of peer connections (at least 5s)." => |c, v| duration(&mut c.raft_read_timeout, v);
    "raft-write-timeout" Duration "Write timeout of peer connections (at least 5s)." => |c, v| duration(&mut c.raft_write_timeout, v);
    "feature-gates" Text "Optional behaviours: Name=true,Name=false." => |c, v| c.features.apply(v);
    "snapshot-catchup-entries" Number "Entries kept for slow followers." => |c, v| number(&mut c.snapshot_catchup_entries, v);

    "initial-advertise-peer-urls" List "Where the other members reach this one." => |c, v| urls(&mut c.initial_advertise_peer_urls, v);
    "initial-cluster" Text "Members of the new cluster: name=url,name=url." => |c, v| text(&mut c.initial_cluster, v);
    "initial-cluster-state" Text "'new' for a new cluster, 'existing' to join one." => |c, v| {
        let mut state = String::new();
        one_of(&mut state, v, &["new", "existing"])?;
        c.new_cluster = state == "new";
        Ok(())
    };
    "initial-cluster-token" Text "Keeps clusters with equal members apart." => |c, v| text(&mut c.initial_cluster_token, v);
    "advertise-client-urls" List "Where clients reach this member." => |c, v| urls(&mut c.advertise_client_urls, v);
    "discovery-endpoints" List "Not supported; use initial-cluster." => |c, v| list(&mut c.discovery_endpoints, v);
    "discovery-token" Text "Not supported; use initial-cluster." => |c, v| text(&mut c.discovery_token, v);
    "discovery-srv" Text "Not supported; use initial-cluster." => |c, v| text(&mut c.discovery_srv, v);
    "discovery-srv-name" Text "Not supported; use initial-cluster." => |c, v| text(&mut c.discovery_srv_name, v);
    "discovery-fallback" Text "Only 'exit'." => |c, v| one_of(&mut c.discovery_fallback, v, &["exit", "proxy"]);
    "discovery-dial-timeout" Duration "Not supported; use initial-cluster." => |_, v| duration(&mut Nanos(0), v);
    "discovery-request-timeout" Duration "Not supported; use initial-cluster." => |_, v| duration(&mut Nanos(0), v);
    "discovery-keepalive-time" Duration "Not supported; use initial-cluster." => |_, v| duration(&mut Nanos(0), v);
    "discovery-keepalive-timeout" Duration "Not supported; use initial-cluster." => |_, v| duration(&mut Nanos(0), v);
    "discovery-insecure-transport" Bool "Not supported; use initial-cluster." => |_, v| boolean(&mut false, v);
    "discovery-insecure-skip-tls-verify" Bool "Not supported; use initial-cluster." => |_, v| boolean(&mut false, v);
    "discovery-cert" Text "Not supported; use initial-cluster." => ignored;
    "discovery-key" Text "Not supported; use initial-cluster." => ignored;
    "discovery-cacert" Text "Not supported; use initial-cluster." => ignored;
    "discovery-user" Text "Not supported; use initial-cluster." => ignored;
    "discovery-password" Text "Not supported; use initial-cluster." => ignored;
    "strict-reconfig-check" Bool "Refuse membership changes that would lose quorum." => |c, v| boolean(&mut c.strict_reconfig_check, v);
    "pre-vote" Bool "Ask before standing for election." => |c, v| boolean(&mut c.pre_vote, v);
    "auto-compaction-mode" Text "'periodic' or 'revision'." => |c, v| text(&mut c.auto_compaction_mode, v);
    "auto-compaction-retention" Text "History to keep (0: all): a duration (hours without a unit) or revisions." => |c, v| text(&mut c.auto_compaction_retention, v);
    "max-learners" Number "Most learners in the cluster." => |c, v| number(&mut c.max_learners, v);
    "v2-deprecation" Text "Accepted; the store of API version 2 cannot be reached." => |_, v| v.split(',').try_for_each(|stage| one_of(&mut String::new(), stage, V2_STAGES));

    "cert-file" Text "Certificate shown to clients." => |c, v| text(&mut c.client_tls.cert_file, v);
    "key-file" Text "Its key." => |c, v| text(&mut c.client_tls.key_file, v);
    "client-cert-auth" Bool "Demand certificates of clients." => |c, v| boolean(&mut c.client_tls.client_cert_auth, v);
    "client-cert-file" Text "Certificate shown when this member is the client." => |c, v| text(&mut c.client_tls.client_cert_file, v);
    "client-key-file" Text "Its key." => |c, v| text(&mut c.client_tls.client_key_file, v);
    "client-crl-file" Text "Revoked client certificates." => |c, v| text(&mut c.client_tls.crl_file, v);
    "client-cert-allowed-hostname" List "Host names of which a client certificate must have one." => |c, v| list(&mut c.client_tls.allowed_hostnames, v);
    "trusted-ca-file" Text "Authorities of client certificates." => |c, v| text(&mut c.client_tls.trusted_ca_file, v);
    "auto-tls" Bool "Make up a certificate for clients." => |c, v| boolean(&mut c.client_tls.auto, v);
    "peer-cert-file" Text "Certificate shown to peers." => |c, v| text(&mut c.peer_tls.cert_file, v);
    "peer-key-file" Text "Its key." => |c, v| text(&mut c.peer_tls.key_file, v);
    "peer-client-cert-auth" Bool "Demand certificates of peers." => |c, v| boolean(&mut c.peer_tls.client_cert_auth, v);
    "peer-client-cert-file" Text "Certificate shown when dialling peers." => |c, v| text(&mut c.peer_tls.client_cert_file, v);
    "peer-client-key-file" Text "Its key." => |c, v| text(&mut c.peer_tls.client_key_file, v);
    "peer-trusted-ca-file" Text "Authorities of peer certificates." => |c, v| text(&mut c.peer_tls.trusted_ca_file, v);
    "peer-cert-allowed-cn" List "Common names of which a peer certificate must have one." => |c, v| list(&mut c.peer_tls.allowed_cns, v);
    "peer-cert-allowed-hostname" List "Host names of which a peer certificate must have one." => |c, v| list(&mut c.peer_tls.allowed_hostnames, v);
    "peer-auto-tls" Bool "Make up a certificate for peers." => |c, v| boolean(&mut c.peer_tls.auto, v);
    "peer-crl-file" Text "Revoked peer certificates." => |c, v| text(&mut c.peer_tls.crl_file, v);
    "peer-skip-client-san-verification" Bool "Do not compare peer certificates with addresses." => |c, v| boolean(&mut c.peer_tls.skip_client_san_verification, v);
    "self-signed-cert-validity" Number "Years that made-up certificates are valid." => |c, v| number(&mut c.self_signed_cert_validity, v);
    "cipher-suites" List "TLS 1.2 cipher suites to offer." => |c, v| list(&mut c.cipher_suites, v);
    "tls-min-version" Text "TLS1.2 or TLS1.3." => |c, v| text(&mut c.tls_min_version, v);
    "tls-max-version" Text "TLS1.2 or TLS1.3." => |c, v| text(&mut c.tls_max_version, v);
    "cors" List "Origins that browsers may call from." => |c, v| origins(&mut c.cors, v);
    "host-whitelist" List "Host names accepted in plaintext HTTP requests." => |c, v| names(&mut c.host_whitelist, v);

    "auth-token" Text "Kind of tokens: 'simple' or 'jwt,...'." => |c, v| text(&mut c.auth_token, v);
    "auth-token-ttl" Number "Seconds a simple token lives." => |c, v| number(&mut c.auth_token_ttl, v);
    "bcrypt-cost" Number "Work factor of password hashes." => |c, v| number(&mut c.bcrypt_cost, v);

    "listen-metrics-urls" List "Where to serve metrics and health apart from clients." => |c, v| urls(&mut c.listen_metrics_urls, v);
    "metrics" Text "'basic' or 'extensive'." => |c, v| text(&mut c.metrics, v);
    "enable-pprof" Bool "Answer /debug/pprof with 501: there is no Go profiler here." => |c, v| boolean(&mut c.enable_pprof, v);
    "logger" Text "Only 'zap': its line format." => |c, v| text(&mut c.logger, v);
    "log-outputs" List "default, stderr, stdout or paths." => |c, v| list(&mut c.log_outputs, v);
    "log-level" Text "debug, info, warn, error, panic or fatal." => |c, v| text(&mut c.log_level, v);
    "log-format" Text "json or console." => |c, v| text(&mut c.log_format, v);
    "enable-log-rotation" Bool "Begin a new file when the only one of log-outputs is full." => |c, v| boolean(&mut c.enable_log_rotation, v);
    "log-rotation-config-json" Text "When, and what is kept: maxsize (MB), maxage (days), maxbackups, localtime." => |c, v| text(&mut c.log_rotation_config_json, v);
    "warning-unary-request-duration" Duration "Log requests that take longer." => |c, v| duration(&mut c.warning_unary_request_duration, v);
    "warning-apply-duration" Duration "Log entries that take longer to apply." => |c, v| duration(&mut c.warning_apply_duration, v);
    "watch-progress-notify-interval" Duration "Time between progress notifications." => |c, v| duration(&mut c.watch_progress_notify_interval, v);
    "enable-distributed-tracing" Bool "Accepted; traces are not exported." => |c, v| boolean(&mut c.enable_distributed_tracing, v);
    "distributed-tracing-address" Text "Accepted; traces are not exported." => |c, v| text(&mut c.distributed_tracing_address, v);
    "distributed-tracing-service-name" Text "Accepted; traces are not exported." => |c, v| text(&mut c.distributed_tracing_service_name, v);
    "distributed-tracing-instance-id" Text "Accepted; traces are not exported." => |c, v| text(&mut c.distributed_tracing_instance_id, v);
    "distributed-tracing-sampling-rate" Number "Accepted; traces are not exported. Up to 1000000." => |c, v| number(&mut c.distributed_tracing_sampling_rate, v);

    "corrupt-check-time" Duration "Time between comparisons of all data with the peers (0: never)." => |c, v| duration(&mut c.corrupt_check_time, v);
    "compact-hash-check-time" Duration "Time between comparisons of compaction hashes." => |c, v| duration(&mut c.compact_hash_check_time, v);
    "compaction-batch-limit" Number "Most revisions dropped in one batch of a compaction." => |c, v| number(&mut c.compaction_batch_limit, v);
    "compaction-sleep-interval" Duration "Pause between batches of a compaction." => |c, v| duration(&mut c.compaction_sleep_interval, v);
    "downgrade-check-time" Duration "Time between checks of a downgrade." => |c, v| duration(&mut c.downgrade_check_time, v);
    "bootstrap-defrag-threshold-megabytes" Number "Defragment at start if it frees so much." => |c, v| number(&mut c.bootstrap_defrag_threshold_megabytes, v);
    "force-new-cluster" Bool "UNSAFE: make this member a cluster of its own." => |c, v| boolean(&mut c.force_new_cluster, v);
    "unsafe-no-fsync" Bool "UNSAFE: do not wait for the disk." => |c, v| boolean(&mut c.unsafe_no_fsync, v);
    "config-file" Text "Read all settings from a YAML file instead." => ignored;
    "version" Bool "Print the version and exit." => |_, v| boolean(&mut false, v);

    // names of 3.6
    "experimental-initial-corrupt-check" Bool "" => |c, v| gate(c, "InitialCorruptCheck", v);
    "experimental-corrupt-check-time" Duration "" => |c, v| duration(&mut c.corrupt_check_time, v);
    "experimental-compact-hash-check-enabled" Bool "" => |c, v| gate(c, "CompactHashCheck", v);
    "experimental-compact-hash-check-time" Duration "" => |c, v| duration(&mut c.compact_hash_check_time, v);
    "experimental-enable-lease-checkpoint" Bool "" => |c, v| gate(c, "LeaseCheckpoint", v);
    "experimental-enable-lease-checkpoint-persist" Bool "" => |c, v| gate(c, "LeaseCheckpointPersist", v);
    "experimental-compaction-batch-limit" Number "" => |c, v| number(&mut c.compaction_batch_limit, v);
    "experimental-compaction-sleep-interval" Duration "" => |c, v| duration(&mut c.compaction_sleep_interval, v);
    "experimental-peer-skip-client-san-verification" Bool "" => |c, v| boolean(&mut c.peer_tls.skip_client_san_verification, v);
    "experimental-watch-progress-notify-interval" Duration "" => |c, v| duration(&mut c.watch_progress_notify_interval, v);
    "experimental-warning-apply-duration" Duration "" => |c, v| duration(&mut c.warning_apply_duration, v);
    "experimental-warning-unary-request-duration" Duration "" => |c, v| duration(&mut c.warning_unary_request_duration, v);
    "experimental-bootstrap-defrag-threshold-megabytes" Number "" => |c, v| number(&mut c.bootstrap_defrag_threshold_megabytes, v);
    "experimental-max-learners" Number "" => |c, v| number(&mut c.max_learners, v);
    "experimental-snapshot-catchup-entries" Number "" => |c, v| number(&mut c.snapshot_catchup_entries, v);
    "experimental-memory-mlock" Bool "" => |c, v| boolean(&mut c.memory_mlock, v);
    "experimental-txn-mode-write-with-shared-buffer" Bool "" => |c, v| gate(c, "TxnModeWriteWithSharedBuffer", v);
    "experimental-stop-grpc-service-on-defrag" Bool "" => |c, v| gate(c, "StopGRPCServiceOnDefrag", v);
    "experimental-downgrade-check-time" Duration "" => |c, v| duration(&mut c.downgrade_check_time, v);
    "experimental-enable-distributed-tracing" Bool "" => |c, v| boolean(&mut c.enable_distributed_tracing, v);
    "experimental-distributed-tracing-address" Text "" => |c, v| text(&mut c.distributed_tracing_address, v);
    "experimental-distributed-tracing-service-name" Text "" => |c, v| text(&mut c.distributed_tracing_service_name, v);
    "experimental-distributed-tracing-instance-id" Text "" => |c, v| text(&mut c.distributed_tracing_instance_id, v);
    "experimental-distributed-tracing-sampling-rate" Number "" => |c, v| number(&mut c.distributed_tracing_sampling_rate, v);
    "experimental-set-member-localaddr" Bool "" => |c, v| gate(c, "SetMemberLocalAddr", v);

    // accepted and ignored for ever (etcd server/etcdmain/config.go, `ignored`)
    "cluster-active-size" Bool "" => ignored;
    "cluster-remove-delay" Bool "" => ignored;
    "cluster-sync-interval" Bool "" => ignored;
    "config" Bool "" => ignored;
    "force" Bool "" => ignored;
    "max-result-buffer" Bool "" => ignored;
    "max-retry-attempts" Bool "" => ignored;
    "peer-heartbeat-interval" Bool "" => ignored;
    "peer-election-timeout" Bool "" => ignored;
    "retry-interval" Bool "" => ignored;
    "snapshot" Bool "" => ignored;
    "v" Bool "" => ignored;
    "vv" Bool "" => ignored;
    "test.coverprofile" Bool "" => ignored;
    "test.outputdir" Bool "" => ignored;
};
