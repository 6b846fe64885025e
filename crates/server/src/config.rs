//! What the member was told: etcd's flags, `ETCD_*` environment and `--config-file` (etcd server/etcdmain/config.go,
//! server/embed/config.go).
//!
//! Invariants:
//! - A configuration file replaces flags and environment altogether; otherwise a flag wins over nothing but the default: a
//!   variable for a flag that is also given is refused, as etcd refuses it.
//! - A [`Config`] that [`load`] returned has passed [`check`](self): later code need not doubt its numbers.
//! - Loading reads the arguments, the environment it is given and at most one file; it changes nothing.

mod check;
mod duration;
mod features;
mod file;
mod flag;
mod rotation;
mod url;
mod usage;

use std::collections::BTreeSet;
use std::path::PathBuf;

pub use duration::Nanos;
pub use features::{Features, Stage};
pub use rotation::Rotation;
pub use url::{Scheme, Url, joined, parse_members, split_host_port, texts};

/// The etcd version that this server implements and advertises: strict semver, read by tools and by peers.
pub const VERSION: &str = "3.7.3";
/// `--quota-backend-bytes` when it is 0: 2 GiB.
pub const DEFAULT_QUOTA_BYTES: i64 = 2 * 1024 * 1024 * 1024;

/// Certificates of one side (clients or peers). Paths are empty when not set.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TlsFiles {
    /// PEM certificate chain of the server.
    pub cert_file: String,
    /// PEM key of the server.
    pub key_file: String,
    /// PEM chain that is shown when dialling, instead of `cert_file`.
    pub client_cert_file: String,
    /// Key of `client_cert_file`.
    pub client_key_file: String,
    /// PEM bundle of accepted authorities.
    pub trusted_ca_file: String,
    /// PEM or DER list of revoked certificates.
    pub crl_file: String,
    /// Whether a certificate of an accepted authority is demanded.
    pub client_cert_auth: bool,
    /// Whether certificates are made up when none are given.
    pub auto: bool,
    /// Common names of which a certificate must carry one; empty for any.
    pub allowed_cns: Vec<String>,
    /// Host names of which a certificate must be valid for one; empty for any.
    pub allowed_hostnames: Vec<String>,
    /// Peers only: do not compare a peer's certificate with the address it calls from.
    pub skip_client_san_verification: bool,
    /// The files were made by this member itself, so nothing signed by them can be verified.
    pub self_signed: bool,
}

impl TlsFiles {
    /// Whether no server certificate is configured.
    pub fn is_empty(&self) -> bool {
        self.cert_file.is_empty() && self.key_file.is_empty()
    }
}

/// How old revisions are dropped without being asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AutoCompaction {
    /// Never.
    Off,
    /// Keep this span of history.
    Periodic(std::time::Duration),
    /// Keep this many revisions.
    Revisions(i64),
}

/// All settings of a member. Field names are the flags' names; see `--help` for their meaning.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs)]
pub struct Config {
    // member
    pub name: String,
    pub data_dir: PathBuf,
    pub wal_dir: Option<PathBuf>,
    pub snapshot_count: u64,
    pub snapshot_catchup_entries: u64,
    /// Milliseconds of a raft tick.
    pub heartbeat_interval_ms: u64,
    /// Milliseconds.
    pub election_timeout_ms: u64,
    pub initial_election_tick_advance: bool,
    pub listen_peer_urls: Vec<Url>,
    pub listen_client_urls: Vec<Url>,
    pub listen_client_http_urls: Vec<Url>,
    pub max_wals: u64,
    pub max_snapshots: u64,
    /// As given: 0 is the default of [`DEFAULT_QUOTA_BYTES`], negative is unlimited.
    pub quota_backend_bytes: i64,
    pub backend_batch_interval: Nanos,
    pub backend_batch_limit: i64,
    pub backend_bbolt_freelist_type: String,
    pub max_txn_ops: u64,
    pub max_request_bytes: u64,
    pub max_concurrent_streams: u32,
    pub grpc_keepalive_min_time: Nanos,
    pub grpc_keepalive_interval: Nanos,
    pub grpc_keepalive_timeout: Nanos,
    pub socket_reuse_port: bool,
    pub socket_reuse_address: bool,
    pub enable_grpc_gateway: bool,
    pub raft_read_timeout: Nanos,
    pub raft_write_timeout: Nanos,
    pub memory_mlock: bool,
    pub features: Features,
    // clustering
    pub initial_advertise_peer_urls: Vec<Url>,
    pub advertise_client_urls: Vec<Url>,
    /// "name=url,name=url"; [`parse_members`] reads it.
    pub initial_cluster: String,
    /// `new` (true) or `existing`.
    pub new_cluster: bool,
    pub initial_cluster_token: String,
    pub discovery_endpoints: Vec<String>,
    pub discovery_token: String,
    pub discovery_srv: String,
    pub discovery_srv_name: String,
    pub discovery_fallback: String,
    pub strict_reconfig_check: bool,
    pub pre_vote: bool,
    pub auto_compaction_mode: String,
    pub auto_compaction_retention: String,
    pub max_learners: i64,
    pub force_new_cluster: bool,
    pub unsafe_no_fsync: bool,
    // security
    pub client_tls: TlsFiles,
    pub peer_tls: TlsFiles,
    /// Years.
    pub self_signed_cert_validity: u64,
    pub cipher_suites: Vec<String>,
    pub tls_min_version: String,
    pub tls_max_version: String,
    /// Origins; "*" allows all.
    pub cors: BTreeSet<String>,
    /// Host names of plaintext HTTP requests; "*" allows all.
    pub host_whitelist: BTreeSet<String>,
    pub auth_token: String,
    /// Seconds.
    pub auth_token_ttl: u64,
    pub bcrypt_cost: u64,
    // observation
    pub listen_metrics_urls: Vec<Url>,
    /// `basic` or `extensive`.
    pub metrics: String,
    pub enable_pprof: bool,
    pub logger: String,
    pub log_level: String,
    pub log_format: String,
    pub log_outputs: Vec<String>,
    pub enable_log_rotation: bool,
    pub log_rotation_config_json: String,
    pub enable_distributed_tracing: bool,
    pub distributed_tracing_address: String,
    pub distributed_tracing_service_name: String,
    pub distributed_tracing_instance_id: String,
    pub distributed_tracing_sampling_rate: i64,
    // behaviour
    pub watch_progress_notify_interval: Nanos,
    pub warning_apply_duration: Nanos,
    pub warning_unary_request_duration: Nanos,
    pub corrupt_check_time: Nanos,
    pub compact_hash_check_time: Nanos,
    pub compaction_batch_limit: i64,
    pub compaction_sleep_interval: Nanos,
    pub downgrade_check_time: Nanos,
    pub bootstrap_defrag_threshold_megabytes: u64,
}

impl Default for Config {
    fn default() -> Config {
        let url = |text: &str| vec![Url::parse(text).expect("a default URL is valid")];
        Config {
            name: "default".into(),
            data_dir: PathBuf::new(),
            wal_dir: None,
            snapshot_count: 10_000,
            snapshot_catchup_entries: 5_000,
            heartbeat_interval_ms: 100,
            election_timeout_ms: 1_000,
            initial_election_tick_advance: true,
            listen_peer_urls: url("http://localhost:2380"),
            listen_client_urls: url("http://localhost:2379"),
            listen_client_http_urls: Vec::new(),
            max_wals: 5,
            max_snapshots: 5,
            quota_backend_bytes: 0,
            backend_batch_interval: Nanos(0),
            backend_batch_limit: 0,
            backend_bbolt_freelist_type: String::new(),
            max_txn_ops: 128,
            max_request_bytes: 1_572_864,
            max_concurrent_streams: u32::MAX,
            grpc_keepalive_min_time: Nanos::from_secs(5),
            grpc_keepalive_interval: Nanos::from_secs(2 * 3600),
            grpc_keepalive_timeout: Nanos::from_secs(20),
            socket_reuse_port: false,
            socket_reuse_address: false,
            enable_grpc_gateway: true,
            raft_read_timeout: Nanos::from_secs(5),
            raft_write_timeout: Nanos::from_secs(5),
            memory_mlock: false,
            features: Features::default(),
            initial_advertise_peer_urls: url("http://localhost:2380"),
            advertise_client_urls: url("http://localhost:2379"),
            initial_cluster: DEFAULT_INITIAL_CLUSTER.into(),
            new_cluster: true,
            initial_cluster_token: "etcd-cluster".into(),
            discovery_endpoints: Vec::new(),
            discovery_token: String::new(),
            discovery_srv: String::new(),
            discovery_srv_name: String::new(),
            discovery_fallback: "exit".into(),
            strict_reconfig_check: true,
            pre_vote: true,
            auto_compaction_mode: "periodic".into(),
            auto_compaction_retention: "0".into(),
            max_learners: 1,
            force_new_cluster: false,
            unsafe_no_fsync: false,
            client_tls: TlsFiles::default(),
            peer_tls: TlsFiles::default(),
            self_signed_cert_validity: 1,
            cipher_suites: Vec::new(),
            tls_min_version: "TLS1.2".into(),
            tls_max_version: String::new(),
            cors: BTreeSet::from(["*".into()]),
            host_whitelist: BTreeSet::from(["*".into()]),
            auth_token: "simple".into(),
            auth_token_ttl: 300,
            bcrypt_cost: 10,
            listen_metrics_urls: Vec::new(),
            metrics: "basic".into(),
            enable_pprof: false,
            logger: "zap".into(),
            log_level: "info".into(),
            log_format: "json".into(),
            log_outputs: vec!["default".into()],
            enable_log_rotation: false,
            log_rotation_config_json: "{}".into(),
            enable_distributed_tracing: false,
            distributed_tracing_address: "localhost:4317".into(),
            distributed_tracing_service_name: "etcd".into(),
            distributed_tracing_instance_id: String::new(),
            distributed_tracing_sampling_rate: 0,
            watch_progress_notify_interval: Nanos(0),
            warning_apply_duration: Nanos::from_millis(100),
            warning_unary_request_duration: Nanos::from_millis(300),
            corrupt_check_time: Nanos(0),
            compact_hash_check_time: Nanos::from_secs(60),
            compaction_batch_limit: 0,
            compaction_sleep_interval: Nanos(0),
            downgrade_check_time: Nanos::from_secs(5),
            bootstrap_defrag_threshold_megabytes: 0,
        }
    }
}

const DEFAULT_INITIAL_CLUSTER: &str = "default=http://localhost:2380";

impl Config {
    /// Raft ticks until an election: the timeout over the heartbeat interval.
    pub fn election_ticks(&self) -> u64 {
        self.election_timeout_ms / self.heartbeat_interval_ms
    }

    /// How long a request may take before "request timed out": 5 s for slow disks plus two election timeouts
    /// (etcd server/config, ReqTimeout).
    pub fn request_timeout(&self) -> std::time::Duration {
        std::time::Duration::from_millis(5_000 + 2 * self.election_timeout_ms)
    }

    /// The quota in bytes that applies; `None` when unlimited.
    pub fn quota_bytes(&self) -> Option<u64> {
        match self.quota_backend_bytes {
            0 => Some(DEFAULT_QUOTA_BYTES as u64),
            given => u64::try_from(given).ok(),
        }
    }

    /// The interval between progress notifications: the flag, 10 minutes when it is 0, never below 100 ms.
    pub fn watch_progress_interval(&self) -> std::time::Duration {
        match self.watch_progress_notify_interval.0 {
            0 => std::time::Duration::from_secs(600),
            nanos => Nanos(nanos.max(100_000_000)).positive().unwrap_or_default(),
        }
    }

    /// What `--enable-log-rotation` and `--log-rotation-config-json` ask for; `None` without the former.
    pub fn log_rotation(&self) -> Result<Option<Rotation>, String> {
        match self.enable_log_rotation {
            true => Rotation::of(&self.log_outputs, &self.log_rotation_config_json).map(Some),
            false => Ok(None),
        }
    }

    /// What `--auto-compaction-mode` and `-retention` ask for.
    pub fn auto_compaction(&self) -> Result<AutoCompaction, String> {
        check::auto_compaction(&self.auto_compaction_mode, &self.auto_compaction_retention)
    }
}

/// What the command line asks for.
#[derive(Debug)]
#[allow(clippy::large_enum_variant)]
pub enum Invocation {
    /// Start a member.
    Run {
        /// How.
        config: Config,
        /// What the operator should read in the log first.
        notices: Vec<Notice>,
    },
    /// Print the version and exit with 0.
    Version,
    /// Print the help and exit with 0.
    Help,
}

/// Something to log once logging is set up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    /// Whether it is a warning rather than information.
    pub warning: bool,
    /// The message.
    pub message: String,
    /// Named details.
    pub fields: Vec<(&'static str, String)>,
}

impl Notice {
    fn info(message: impl Into<String>, fields: Vec<(&'static str, String)>) -> Notice {
        Notice {
            warning: false,
            message: message.into(),
            fields,
        }
    }

    fn warning(message: impl Into<String>, fields: Vec<(&'static str, String)>) -> Notice {
        Notice {
            warning: true,
            message: message.into(),
            fields,
        }
    }
}

/// Why a configuration is refused. The texts name the flag and say what would be accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The command line cannot be read: print this and the usage, exit with 2.
    #[error("{0}")]
    Usage(String),
    /// It can be read but does not make sense: log it, exit with 1.
    #[error("{0}")]
    Invalid(String),
}

/// Reads arguments (without the program's name), environment and the file they name.
pub fn load(arguments: &[String], environment: &[(String, String)]) -> Result<Invocation, Error> {
    let mut config = Config::default();
    let parsed = flag::parse(&mut config, arguments).map_err(Error::Usage)?;
    if parsed.help {
        return Ok(Invocation::Help);
    }
    if let Some(argument) = parsed.rest.first() {
        return Err(Error::Invalid(format!("{argument:?} is not a valid flag")));
    }
    if parsed.version {
        return Ok(Invocation::Version);
    }
    let mut notices = Vec::new();
    let from_environment = environment
        .iter()
        .find(|(name, value)| name == "ETCD_CONFIG_FILE" && !value.is_empty());
    let path = parsed
        .config_file
        .clone()
        .or_else(|| from_environment.map(|(_, value)| value.clone()));
    match path {
        Some(path) => {
            config = file::read(&path).map_err(Error::Invalid)?;
            notices.push(Notice::info(
                "loaded server configuration, other configuration command line flags and environment variables will be ignored if provided",
                vec![("path", path)],
            ));
        }
        None => {
            let mut set = parsed.set;
            from_env(&mut config, environment, &mut set, &mut notices)?;
            complete(&mut config, &set);
            for (flag, message) in flag::DEPRECATED {
                if set.contains(flag) {
                    notices.push(Notice::warning(*message, vec![]));
                }
            }
        }
    }
    finish(&mut config, &mut notices);
    check::check(&config, &mut notices).map_err(Error::Invalid)?;
    Ok(Invocation::Run { config, notices })
}

/// Sets flags from `ETCD_*` (etcd pkg/flags.SetFlagsFromEnv).
fn from_env(
    config: &mut Config,
    environment: &[(String, String)],
    set: &mut BTreeSet<&'static str>,
    notices: &mut Vec<Notice>,
) -> Result<(), Error> {
    for (name, value) in environment {
        let Some(suffix) = name.strip_prefix("ETCD_") else {
            continue;
        };
        if name == "ETCD_UNSUPPORTED_ARCH" {
            continue;
        }
        if name == "ETCD_VERSION" {
            notices.push(Notice::warning(
                "cannot set special environment variable",
                vec![("key", name.clone()), ("value", value.clone())],
            ));
            continue;
        }
        let flag_name = suffix.to_ascii_lowercase().replace('_', "-");
        match flag::find(&flag_name) {
            Some(flag) if flag_to_env(flag.name) == *name => {
                if set.contains(flag.name) {
                    return Err(Error::Invalid(format!(
                        "conflicting environment variable is shadowed by corresponding command-line flag \
                         (either unset environment variable {name} or remove --{})",
                        flag.name
                    )));
                }
                if value.is_empty() {
                    continue;
                }
                flag.set(config, value)
                    .map_err(|error| Error::Invalid(format!("invalid value {value:?} for {name}: {error}")))?;
                set.insert(flag.name);
                notices.push(Notice::info(
                    "recognized and used environment variable",
                    vec![("variable-name", name.clone()), ("variable-value", value.clone())],
                ));
            }
            _ => notices.push(Notice::warning(
                "unrecognized environment variable",
                vec![("environment-variable", format!("{name}={value}"))],
            )),
        }
    }
    Ok(())
}

fn flag_to_env(flag: &str) -> String {
    format!("ETCD_{}", flag.to_ascii_uppercase().replace('-', "_"))
}

/// Defaults that depend on which flags were given.
fn complete(config: &mut Config, set: &BTreeSet<&'static str>) {
    if set.contains("listen-client-urls") && !set.contains("advertise-client-urls") {
        config.advertise_client_urls.clear();
    }
    let discovery = !config.discovery_srv.is_empty()
        || !config.discovery_srv_name.is_empty()
        || !config.discovery_endpoints.is_empty();
    if discovery && !set.contains("initial-cluster") {
        config.initial_cluster.clear();
    }
}

/// Defaults that depend on other values, and values raised to their minimum.
fn finish(config: &mut Config, notices: &mut Vec<Notice>) {
    if config.name != "default" && config.initial_cluster == DEFAULT_INITIAL_CLUSTER {
        let name = if config.name.is_empty() {
            "default"
        } else {
            &config.name
        };
        let pairs: Vec<String> = config
            .initial_advertise_peer_urls
            .iter()
            .map(|url| format!("{name}={url}"))
            .collect();
        config.initial_cluster = pairs.join(",");
    }
    if config.data_dir.as_os_str().is_empty() {
        config.data_dir = PathBuf::from(format!("{}.etcd", config.name));
        notices.push(Notice::warning(
            "'data-dir' was empty; using default",
            vec![("data-dir", config.data_dir.display().to_string())],
        ));
    }
    let least = Nanos::from_secs(5);
    for (flag, value) in [
        ("raft-read-timeout", &mut config.raft_read_timeout),
        ("raft-write-timeout", &mut config.raft_write_timeout),
    ] {
        if *value < least {
            *value = least;
            notices.push(Notice::info(
                format!("{flag} increased to minimum value: {least}"),
                vec![],
            ));
        }
    }
}

/// What `--help` prints on standard output.
pub fn help() -> String {
    usage::help()
}

/// What is printed on standard error after a complaint about a flag, and before the help.
pub fn usage() -> &'static str {
    usage::USAGE
}

/// The four lines of `--version`; tools read the first (≥ 3.6 is needed by etcd's own test suite).
pub fn version_text() -> String {
    format!(
        "etcd Version: {VERSION}\nGit SHA: quorate-{}\nGo Version: none (Rust)\nGo OS/Arch: {}/{}\n",
        env!("CARGO_PKG_VERSION"),
        std::env::consts::OS,
        go_arch(),
    )
}

fn go_arch() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "powerpc64" => "ppc64le",
        other => other,
    }
}

#[cfg(test)]
mod tests;
