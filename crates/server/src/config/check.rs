//! Whether settings make sense together (etcd server/embed/config.go, Validate). Texts are etcd's where it has one; where
//! that does not name the flag, the flag and the remedy are added.

use super::{AutoCompaction, Config, Nanos, Notice, Url, joined, parse_members, split_host_port};

/// Longest election timeout, in milliseconds.
const ELECTION_MS_MAX: u64 = 50_000;
/// Quotas above are possible but discouraged: 8 GiB.
const QUOTA_ADVISED_BYTES: i64 = 8 * 1024 * 1024 * 1024;

pub(super) fn check(config: &Config, notices: &mut Vec<Notice>) -> Result<(), String> {
    logging(config)?;
    for (flag, urls) in [
        ("listen-peer-urls", &config.listen_peer_urls),
        ("listen-client-urls", &config.listen_client_urls),
        ("listen-client-http-urls", &config.listen_client_http_urls),
        ("listen-metrics-urls", &config.listen_metrics_urls),
    ] {
        bindable(flag, urls)?;
    }
    if config.listen_client_http_urls.is_empty() {
        notices.push(Notice::info(
            "serving HTTP and gRPC to clients on the same addresses",
            vec![],
        ));
    }
    advertisable(&config.initial_advertise_peer_urls).map_err(|error| {
        format!(
            "--initial-advertise-peer-urls {:?} must be \"host:port\" ({error})",
            joined(&config.initial_advertise_peer_urls)
        )
    })?;
    advertisable(&config.advertise_client_urls).map_err(|error| {
        format!(
            "--advertise-client-urls {:?} must be in the format \"host:port\", \"unix:/path/to/socket\" or \"unixs:/path/to/socket\" ({error})",
            joined(&config.advertise_client_urls)
        )
    })?;
    bootstrap(config)?;
    timing(config)?;
    if config.advertise_client_urls.is_empty() {
        return Err("--advertise-client-urls is required when --listen-client-urls is set explicitly".into());
    }
    auto_compaction(&config.auto_compaction_mode, &config.auto_compaction_retention)?;
    if config.features.lease_checkpoint_persist && !config.features.lease_checkpoint {
        return Err(
            "enabling feature gate LeaseCheckpointPersist requires enabling feature gate LeaseCheckpoint: \
                    set --feature-gates=LeaseCheckpoint=true,LeaseCheckpointPersist=true"
                .into(),
        );
    }
    if config.max_learners < 0 {
        return Err(format!("--max-learners must be >=0 (set to {})", config.max_learners));
    }
    if (config.client_tls.auto || config.peer_tls.auto) && config.self_signed_cert_validity == 0 {
        return Err("selfSignedCertValidity is invalid,it should be greater than 0: set --self-signed-cert-validity to a number of years".into());
    }
    if config.compact_hash_check_time <= Nanos(0) {
        return Err(format!(
            "--compact-hash-check-time must be >0 (set to {})",
            config.compact_hash_check_time
        ));
    }
    if config.quota_backend_bytes > QUOTA_ADVISED_BYTES {
        notices.push(Notice::warning(
            "quota exceeds the maximum value",
            vec![
                ("quota-size-bytes", config.quota_backend_bytes.to_string()),
                ("quota-maximum-size-bytes", QUOTA_ADVISED_BYTES.to_string()),
            ],
        ));
    }
    if config.name == "default" {
        notices.push(Notice::warning(
            "it isn't recommended to use default name, please set a value for --name. \
             Note that etcd might run into issue when multiple members have the same default name",
            vec![("name", config.name.clone())],
        ));
    }
    if config.enable_distributed_tracing {
        let rate = config.distributed_tracing_sampling_rate;
        if !(0..=1_000_000).contains(&rate) {
            let bound = if rate < 0 { "positive" } else { "less than 1000000" };
            return Err(format!(
                "distributed tracing configuration is not valid: tracing sampling rate must be {bound} \
                 (--distributed-tracing-sampling-rate={rate})"
            ));
        }
        notices.push(Notice::warning(
            "--enable-distributed-tracing is accepted, but traces are not exported",
            vec![],
        ));
    }
    if config.unsafe_no_fsync {
        notices.push(Notice::warning(
            "--unsafe-no-fsync: nothing is synced; a crash of this machine loses or breaks the data of this member",
            vec![],
        ));
    }
    tls(config)
}

fn logging(config: &Config) -> Result<(), String> {
    match config.logger.as_str() {
        "zap" => {}
        "capnslog" => return Err("--logger=capnslog is removed in v3.5; use --logger=zap".into()),
        other => return Err(format!("unknown logger option {other:?}: --logger takes only zap")),
    }
    if !["debug", "info", "warn", "error", "dpanic", "panic", "fatal"].contains(&config.log_level.as_str()) {
        return Err(format!(
            "unrecognized level: {:?}: --log-level takes debug, info, warn, error, panic or fatal",
            config.log_level
        ));
    }
    if !["json", "console"].contains(&config.log_format.as_str()) {
        return Err(format!(
            "unknown log format: {}, supported values json, console (--log-format)",
            config.log_format
        ));
    }
    if config.log_outputs.is_empty() {
        return Err(
            "open sink \"\": open : no such file or directory: --log-outputs takes default, stderr, stdout or paths"
                .into(),
        );
    }
    config.log_rotation()?;
    if config.log_outputs.len() > 1 && config.log_outputs.iter().any(|output| output == "default") {
        return Err(
            "multi logoutput for \"default\" is not supported yet: name stderr or stdout in --log-outputs".into(),
        );
    }
    Ok(())
}

fn bindable(flag: &str, urls: &[Url]) -> Result<(), String> {
    for url in urls.iter().filter(|url| !url.scheme.is_unix()) {
        let (host, _) = split_host_port(&url.address).map_err(|error| format!("--{flag}: {error}"))?;
        // Go's net.ParseIP knows no zones; the empty host of "http://:2379" is refused as etcd refuses it.
        if host != "localhost" && host.parse::<std::net::IpAddr>().is_err() {
            return Err(format!(
                "expected IP in URL for binding ({url}): --{flag} takes IP addresses and localhost, for example http://0.0.0.0:{}",
                url.port()
            ));
        }
        if url.port().parse::<u16>().is_err() {
            return Err(format!("--{flag}: the port of {url} must be a number from 0 to 65535"));
        }
    }
    Ok(())
}

fn advertisable(urls: &[Url]) -> Result<(), String> {
    for url in urls.iter().filter(|url| !url.scheme.is_unix()) {
        let (host, _) = split_host_port(&url.address)?;
        if host.is_empty() {
            return Err(format!("unexpected empty host ({url})"));
        }
    }
    Ok(())
}

fn bootstrap(config: &Config) -> Result<(), String> {
    if config.discovery_fallback == "proxy" {
        return Err("v2 proxy is deprecated, and --discovery-fallback can't be configured as \"proxy\"".into());
    }
    let ways = [
        !config.initial_cluster.is_empty(),
        !config.discovery_srv.is_empty(),
        !config.discovery_endpoints.is_empty(),
    ];
    if ways.iter().filter(|set| **set).count() > 1 {
        return Err("multiple discovery or bootstrap flags are set. \
                    Choose one of \"initial-cluster\", \"discovery-endpoints\" or \"discovery-srv\""
            .into());
    }
    if config.discovery_token.is_empty() != config.discovery_endpoints.is_empty() {
        return Err("both --discovery-token and --discovery-endpoints must be set".into());
    }
    if !config.discovery_endpoints.is_empty() || !config.discovery_srv.is_empty() {
        return Err("discovery is not supported by this server: name the members in --initial-cluster".into());
    }
    parse_members(&config.initial_cluster)
        .map(drop)
        .map_err(|error| format!("error setting up initial cluster: --initial-cluster: {error}"))
}

fn timing(config: &Config) -> Result<(), String> {
    let (tick, election) = (config.heartbeat_interval_ms, config.election_timeout_ms);
    if tick == 0 {
        return Err("--heartbeat-interval must be >0 (set to 0ms)".into());
    }
    if election == 0 {
        return Err("--election-timeout must be >0 (set to 0ms)".into());
    }
    if tick.saturating_mul(5) > election {
        return Err(format!(
            "--election-timeout[{election}ms] should be at least as 5 times as --heartbeat-interval[{tick}ms]"
        ));
    }
    if election > ELECTION_MS_MAX {
        return Err(format!(
            "--election-timeout[{election}ms] is too long, and should be set less than {ELECTION_MS_MAX}ms"
        ));
    }
    Ok(())
}

pub(super) fn auto_compaction(mode: &str, retention: &str) -> Result<AutoCompaction, String> {
    let retention = if retention.is_empty() { "0" } else { retention };
    let whole = retention.parse::<i64>().ok().filter(|value| *value >= 0);
    let duration = || {
        Nanos::parse(retention)
            .map_err(|error| format!("error parsing CompactionRetention: {error} (--auto-compaction-retention)"))
    };
    match (mode, whole) {
        ("", _) => Err("undefined auto-compaction-mode: --auto-compaction-mode takes periodic or revision".into()),
        ("periodic" | "revision", Some(0)) => Ok(AutoCompaction::Off),
        ("periodic", Some(hours)) => Ok(AutoCompaction::Periodic(std::time::Duration::from_secs(
            hours.unsigned_abs().saturating_mul(3600),
        ))),
        ("periodic", None) => Ok(duration()?
            .positive()
            .map_or(AutoCompaction::Off, AutoCompaction::Periodic)),
        ("revision", Some(revisions)) => Ok(AutoCompaction::Revisions(revisions)),
        // etcd reads a duration here too, and its nanoseconds as revisions.
        ("revision", None) => match duration()?.0 {
            0 => Ok(AutoCompaction::Off),
            revisions => Ok(AutoCompaction::Revisions(revisions)),
        },
        (other, _) => Err(format!(
            "unknown auto-compaction-mode {other:?}: --auto-compaction-mode takes periodic or revision"
        )),
    }
}

fn tls(config: &Config) -> Result<(), String> {
    let version = |flag: &str, text: &str| match text {
        "" => Ok(0),
        "TLS1.2" => Ok(2),
        "TLS1.3" => Ok(3),
        other => Err(format!(
            "unexpected TLS version {other:?} (must be one of: TLS1.2, TLS1.3) in --{flag}"
        )),
    };
    let least = version("tls-min-version", &config.tls_min_version)?;
    let most = version("tls-max-version", &config.tls_max_version)?;
    if most != 0 && least > most {
        return Err(format!(
            "min version ({}) is greater than max version ({}): --tls-min-version must not exceed --tls-max-version",
            config.tls_min_version, config.tls_max_version
        ));
    }
    if least == 3 && !config.cipher_suites.is_empty() {
        return Err("cipher suites cannot be configured when only TLS1.3 is enabled: drop --cipher-suites".into());
    }
    for (side, files) in [("", &config.client_tls), ("peer-", &config.peer_tls)] {
        if files.cert_file.is_empty() != files.key_file.is_empty() {
            return Err(format!(
                "KeyFile and CertFile must both be present[key: {}, cert: {}]: set --{side}cert-file and --{side}key-file together",
                files.key_file, files.cert_file
            ));
        }
        if files.client_cert_file.is_empty() != files.client_key_file.is_empty() {
            let flag = if side.is_empty() { "client" } else { "peer-client" };
            return Err(format!(
                "ClientKeyFile and ClientCertFile must both be present or both absent: key: {}, cert: {}: set --{flag}-cert-file and --{flag}-key-file together",
                files.client_key_file, files.client_cert_file
            ));
        }
        if !files.allowed_cns.is_empty() && !files.allowed_hostnames.is_empty() {
            return Err(format!(
                "AllowedCNs and AllowedHostnames are mutually exclusive (cns={:?}, hostnames={:?}): choose one of --peer-cert-allowed-cn and --peer-cert-allowed-hostname",
                files.allowed_cns, files.allowed_hostnames
            ));
        }
    }
    for (flag, urls, files, cert) in [
        ("listen-client-urls", &config.listen_client_urls, &config.client_tls, ""),
        (
            "listen-client-http-urls",
            &config.listen_client_http_urls,
            &config.client_tls,
            "",
        ),
        (
            "listen-metrics-urls",
            &config.listen_metrics_urls,
            &config.client_tls,
            "",
        ),
        ("listen-peer-urls", &config.listen_peer_urls, &config.peer_tls, "peer-"),
    ] {
        if let Some(url) = urls.iter().find(|url| url.scheme.is_secure())
            && files.is_empty()
            && !files.auto
        {
            return Err(format!(
                "TLS key/cert (--{cert}cert-file, --{cert}key-file) must be provided for url {url} with HTTPS scheme in --{flag} (or set --{cert}auto-tls)"
            ));
        }
    }
    Ok(())
}
