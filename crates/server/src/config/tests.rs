//! What etcd 3.7.3 says to the same input was read off the real binary; the texts here contain its words.

use super::*;

fn args(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

fn run(text: &str) -> Result<Config, Error> {
    run_with(text, &[])
}

fn run_with(text: &str, environment: &[(&str, &str)]) -> Result<Config, Error> {
    let environment: Vec<_> = environment
        .iter()
        .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
        .collect();
    match load(&args(text), &environment)? {
        Invocation::Run { config, .. } => Ok(config),
        other => panic!("expected a run, got {other:?}"),
    }
}

#[test]
fn takes_gos_flag_syntax() {
    let config = run("-name=a --data-dir /d --heartbeat-interval=50 -auto-tls --pre-vote=false --snapshot-count 7 --snapshot-count=9").unwrap();
    assert_eq!(config.name, "a");
    assert_eq!(config.data_dir, PathBuf::from("/d"));
    assert_eq!(config.heartbeat_interval_ms, 50);
    assert!(config.client_tls.auto && !config.pre_vote);
    assert_eq!(config.snapshot_count, 9, "the last one wins");
    assert_eq!(config.initial_cluster, "a=http://localhost:2380", "follows the name");
    assert_eq!(config.election_ticks(), 20);
}

#[test]
fn complains_about_flags_like_go() {
    for (text, complaint) in [
        ("--nope", "flag provided but not defined: -nope"),
        ("---name=a", "bad flag syntax: ---name=a"),
        ("--name", "flag needs an argument: -name"),
        (
            "--heartbeat-interval x",
            "invalid value \"x\" for flag -heartbeat-interval: parse error",
        ),
        ("--auto-tls=x", "invalid boolean value \"x\" for -auto-tls: parse error"),
        (
            "--max-concurrent-streams 5000000000",
            "invalid value \"5000000000\" for flag -max-concurrent-streams",
        ),
        (
            "--initial-cluster-state foo",
            "invalid value \"foo\" for flag -initial-cluster-state: invalid value",
        ),
        (
            "--feature-gates Nope=true",
            "invalid value \"Nope=true\" for flag -feature-gates: unrecognized feature gate: Nope",
        ),
        (
            "--listen-peer-urls http://a",
            "URL address does not have the form \"host:port\": http://a",
        ),
        ("--discovery x", "flag provided but not defined: -discovery"),
    ] {
        match run(text) {
            Err(Error::Usage(error)) => assert!(error.contains(complaint), "{text}: {error}"),
            other => panic!("{text}: {other:?}"),
        }
    }
}

#[test]
fn refuses_what_makes_no_sense_and_names_the_flag() {
    let long = "x".repeat(3);
    for (text, words, flag) in [
        ("foo", "\"foo\" is not a valid flag", ""),
        (
            "--listen-client-urls http://127.0.0.1:1",
            "--advertise-client-urls is required when --listen-client-urls is set explicitly",
            "",
        ),
        (
            "--listen-client-urls http://foo:1 --advertise-client-urls http://foo:1",
            "expected IP in URL for binding (http://foo:1)",
            "--listen-client-urls",
        ),
        (
            "--heartbeat-interval 0",
            "--heartbeat-interval must be >0 (set to 0ms)",
            "",
        ),
        (
            "--election-timeout 400",
            "--election-timeout[400ms] should be at least as 5 times as --heartbeat-interval[100ms]",
            "",
        ),
        (
            "--election-timeout 60000",
            "--election-timeout[60000ms] is too long, and should be set less than 50000ms",
            "",
        ),
        (
            "--auto-compaction-mode foo",
            "unknown auto-compaction-mode \"foo\"",
            "--auto-compaction-mode",
        ),
        (
            "--auto-compaction-retention 1x",
            "error parsing CompactionRetention",
            "--auto-compaction-retention",
        ),
        (
            "--compact-hash-check-time 0s",
            "--compact-hash-check-time must be >0 (set to 0s)",
            "",
        ),
        (
            "--tls-min-version foo",
            "unexpected TLS version \"foo\" (must be one of: TLS1.2, TLS1.3)",
            "--tls-min-version",
        ),
        (
            "--tls-min-version TLS1.3 --tls-max-version TLS1.2",
            "min version (TLS1.3) is greater than max version (TLS1.2)",
            "--tls-max-version",
        ),
        ("--logger capnslog", "--logger=capnslog is removed in v3.5", ""),
        (
            "--log-format foo",
            "unknown log format: foo, supported values json, console",
            "--log-format",
        ),
        ("--log-level foo", "unrecognized level: \"foo\"", "--log-level"),
        (
            "--feature-gates LeaseCheckpointPersist=true",
            "requires enabling feature gate LeaseCheckpoint",
            "--feature-gates",
        ),
        (
            "--listen-client-urls https://127.0.0.1:1 --advertise-client-urls https://127.0.0.1:1",
            "TLS key/cert (--cert-file, --key-file) must be provided",
            "--listen-client-urls",
        ),
        (
            "--cert-file a",
            "KeyFile and CertFile must both be present",
            "--key-file",
        ),
        (
            "--discovery-fallback proxy",
            "--discovery-fallback can't be configured as \"proxy\"",
            "",
        ),
        (
            "--initial-cluster a",
            "error setting up initial cluster",
            "--initial-cluster",
        ),
        (
            &format!("--config-file /no/such/{long}"),
            "open /no/such/xxx",
            "--config-file",
        ),
    ] {
        match run(text) {
            Err(Error::Invalid(error)) => {
                assert!(error.contains(words) && error.contains(flag), "{text}: {error}");
            }
            other => panic!("{text}: {other:?}"),
        }
    }
}

#[test]
fn reads_the_environment_below_flags() {
    let config = run_with(
        "--name a",
        &[("ETCD_DATA_DIR", "/e"), ("ETCD_FOO", "1"), ("ETCD_AUTO_TLS", "true")],
    )
    .unwrap();
    assert_eq!((config.data_dir, config.client_tls.auto), (PathBuf::from("/e"), true));
    let error = run_with("--name a", &[("ETCD_NAME", "b")]).unwrap_err();
    assert!(error.to_string().contains("conflicting environment variable") && error.to_string().contains("ETCD_NAME"));
    let error = run_with("", &[("ETCD_HEARTBEAT_INTERVAL", "x")]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "invalid value \"x\" for ETCD_HEARTBEAT_INTERVAL: parse error"
    );
    let environment = [
        ("ETCD_FOO".to_owned(), "1".to_owned()),
        ("ETCD_VERSION".to_owned(), "3".to_owned()),
    ];
    let Ok(Invocation::Run { notices, .. }) = load(&[], &environment) else {
        panic!("unknown variables only warn")
    };
    let warned: Vec<_> = notices
        .iter()
        .filter(|n| n.warning)
        .map(|n| n.message.as_str())
        .collect();
    assert!(warned.contains(&"unrecognized environment variable"));
    assert!(warned.contains(&"cannot set special environment variable"));
}

#[test]
fn a_file_replaces_flags_and_environment() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("etcd.yaml");
    std::fs::write(
        &path,
        "name: f\nheartbeat-interval: 200\nelection-timeout: 2000\nlisten-client-urls: https://127.0.0.1:1,http://127.0.0.1:2\n\
         advertise-client-urls: http://127.0.0.1:2\nwatch-progress-notify-interval: 5000000000\ncipher-suites: [A, B]\n\
         feature-gates: InitialCorruptCheck=true\nunknown-key: 1\nclient-transport-security:\n  cert-file: c\n  key-file: k\n  \
         client-cert-auth: true\npeer-transport-security:\n  auto-tls: true\n  allowed-cn: [x]\n",
    )
    .unwrap();
    let text = format!("--name a --snapshot-count 5 --config-file {}", path.display());
    let config = run_with(&text, &[("ETCD_MAX_WALS", "9")]).unwrap();
    assert_eq!(
        (config.name.as_str(), config.snapshot_count, config.max_wals),
        ("f", 10_000, 5)
    );
    assert_eq!(
        (config.heartbeat_interval_ms, config.watch_progress_notify_interval),
        (200, Nanos::from_secs(5))
    );
    assert_eq!(
        texts(&config.listen_client_urls),
        ["http://127.0.0.1:2", "https://127.0.0.1:1"]
    );
    assert_eq!(config.cipher_suites, ["A", "B"]);
    assert!(config.features.initial_corrupt_check && config.client_tls.client_cert_auth && config.peer_tls.auto);
    assert_eq!(config.client_tls.cert_file, "c");
    assert_eq!(config.peer_tls.allowed_cns, ["x"]);
    for (yaml, error) in [
        ("name: 5", "name: expected a string"),
        ("heartbeat-interval: a", "heartbeat-interval: expected a number"),
        ("peer-transport-security: 3", "invalid peer-transport-security"),
        (
            "client-transport-security: {cert-file: 3}",
            "client-transport-security.cert-file: expected a string",
        ),
    ] {
        assert_eq!(file::parse(yaml).unwrap_err(), error);
    }
}

#[test]
fn prints_help_and_version() {
    assert!(matches!(load(&args("--help --nope"), &[]), Ok(Invocation::Help)));
    assert!(matches!(load(&args("--version"), &[]), Ok(Invocation::Version)));
    let text = version_text();
    assert_eq!(text.lines().count(), 4);
    assert!(text.starts_with("etcd Version: 3.7.3\nGit SHA: "));
    assert!(help().contains("--listen-client-urls") && !help().contains("experimental-"));
}

#[test]
fn reads_retentions() {
    let retention = |mode: &str, text: &str| check::auto_compaction(mode, text).unwrap();
    assert_eq!(retention("periodic", "0"), AutoCompaction::Off);
    assert_eq!(
        retention("periodic", "5"),
        AutoCompaction::Periodic(std::time::Duration::from_secs(5 * 3600))
    );
    assert_eq!(
        retention("periodic", "10m"),
        AutoCompaction::Periodic(std::time::Duration::from_secs(600))
    );
    assert_eq!(retention("revision", "1000"), AutoCompaction::Revisions(1000));
    assert_eq!(retention("revision", ""), AutoCompaction::Off);
}

#[test]
fn takes_the_names_of_3_6() {
    let config =
        run("--experimental-initial-corrupt-check=true --experimental-watch-progress-notify-interval=5s").unwrap();
    assert!(config.features.initial_corrupt_check);
    assert_eq!(config.watch_progress_interval(), std::time::Duration::from_secs(5));
}
