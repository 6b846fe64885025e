//! The same command lines, environments and files given to real etcd and to this server: the same exit code, and the same essential complaint.
//! Needs QUORATE_ETCD_BIN_DIR (etcd); skips without it.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

const OURS: &str = env!("CARGO_BIN_EXE_quorate-server");
/// Who has not ended by then is taken to run.
const PATIENCE: Duration = Duration::from_secs(20);

/// Arguments (split at spaces), exit code, and what is said in both outputs.
const REFUSED: &[(&str, i32, &str)] = &[
    ("--no-such-flag", 2, "flag provided but not defined: -no-such-flag"),
    ("-no-such=1", 2, "flag provided but not defined: -no-such"),
    ("--version --no-such", 2, "flag provided but not defined: -no-such"),
    ("--name=x=y --no-such", 2, "flag provided but not defined: -no-such"),
    ("--discovery=http://x", 2, "flag provided but not defined: -discovery"),
    ("--proxy=on", 2, "flag provided but not defined: -proxy"),
    ("--enable-v2", 2, "flag provided but not defined: -enable-v2"),
    ("---name=x", 2, "bad flag syntax: ---name=x"),
    ("--=x", 2, "bad flag syntax: --=x"),
    ("--name", 2, "flag needs an argument: -name"),
    ("--heartbeat-interval", 2, "flag needs an argument: -heartbeat-interval"),
    ("extra", 1, "\"extra\\\" is not a valid flag"),
    ("--pre-vote maybe", 1, "maybe\\\" is not a valid flag"),
    ("-", 1, "-\\\" is not a valid flag"),
    (
        "--pre-vote=maybe",
        2,
        "invalid boolean value \"maybe\" for -pre-vote: parse error",
    ),
    (
        "--socket-reuse-port=x",
        2,
        "invalid boolean value \"x\" for -socket-reuse-port: parse error",
    ),
    (
        "--snapshot-count=many",
        2,
        "invalid value \"many\" for flag -snapshot-count: parse error",
    ),
    (
        "--snapshot-count=-1",
        2,
        "invalid value \"-1\" for flag -snapshot-count: parse error",
    ),
    (
        "--snapshot-count=0x10 --no-such",
        2,
        "flag provided but not defined: -no-such",
    ),
    (
        "--snapshot-count=0xg",
        2,
        "invalid value \"0xg\" for flag -snapshot-count: parse error",
    ),
    (
        "--snapshot-count=099",
        2,
        "invalid value \"099\" for flag -snapshot-count: parse error",
    ),
    (
        "--max-wals=99999999999999999999",
        2,
        "for flag -max-wals: value out of range",
    ),
    (
        "--quota-backend-bytes=1.5",
        2,
        "invalid value \"1.5\" for flag -quota-backend-bytes: parse error",
    ),
    (
        "--max-concurrent-streams=-1",
        2,
        "invalid value \"-1\" for flag -max-concurrent-streams:",
    ),
    (
        "--corrupt-check-time=x",
        2,
        "invalid value \"x\" for flag -corrupt-check-time: parse error",
    ),
    (
        "--corrupt-check-time=5",
        2,
        "invalid value \"5\" for flag -corrupt-check-time: parse error",
    ),
    (
        "--initial-cluster-state=old",
        2,
        "invalid value \"old\" for flag -initial-cluster-state: invalid value",
    ),
    (
        "--discovery-fallback=x",
        2,
        "invalid value \"x\" for flag -discovery-fallback: invalid value",
    ),
    (
        "--listen-client-urls=ftp://127.0.0.1:1",
        2,
        "URL scheme must be http, https, unix, or unixs: ftp://127.0.0.1:1",
    ),
    (
        "--listen-client-urls=http://127.0.0.1",
        2,
        "for flag -listen-client-urls: ",
    ),
    (
        "--listen-client-urls=http://127.0.0.1:1/path",
        2,
        "URL must not contain a path: http://127.0.0.1:1/path",
    ),
    (
        "--listen-peer-urls=bad",
        2,
        "URL scheme must be http, https, unix, or unixs: bad",
    ),
    ("--cors=foo", 2, "for flag -cors: "),
    ("--feature-gates=Nope=true", 2, "unrecognized feature gate: Nope"),
    (
        "--feature-gates=InitialCorruptCheck",
        2,
        "missing bool value for InitialCorruptCheck",
    ),
    (
        "--feature-gates=InitialCorruptCheck=maybe",
        2,
        "invalid value of InitialCorruptCheck=maybe",
    ),
    (
        "--feature-gates=LeaseCheckpointPersist=true",
        1,
        "requires enabling feature gate LeaseCheckpoint",
    ),
    (
        "--heartbeat-interval=0",
        1,
        "--heartbeat-interval must be >0 (set to 0ms)",
    ),
    (
        "--heartbeat-interval=100 --election-timeout=400",
        1,
        "--election-timeout[400ms] should be at least as 5 times as --heartbeat-interval[100ms]",
    ),
    ("--election-timeout=60000", 1, "--election-timeout[60000ms] is too long"),
    ("--election-timeout=0", 1, "--election-timeout must be >0"),
    (
        "--listen-client-urls=http://example.com:1",
        1,
        "expected IP in URL for binding (http://example.com:1)",
    ),
    (
        "--listen-peer-urls=http://example.com:1",
        1,
        "expected IP in URL for binding (http://example.com:1)",
    ),
    (
        "--listen-client-urls=http://127.0.0.1:1",
        1,
        "--advertise-client-urls is required when --listen-client-urls is set explicitly",
    ),
    (
        "--listen-client-urls=",
        1,
        "--advertise-client-urls is required when --listen-client-urls is set explicitly",
    ),
    ("--initial-cluster=a", 1, "error setting up initial cluster: "),
    (
        "--initial-cluster=a=http://127.0.0.1:1",
        1,
        "couldn't find local name \\\"default\\\" in the initial cluster configuration",
    ),
    (
        "--initial-cluster=default=http://10.0.0.9:2380",
        1,
        "but missing from --initial-",
    ),
    (
        "--initial-cluster=default=http://localhost:2380,b=http://localhost:2380",
        1,
        "has duplicate url",
    ),
    (
        "--discovery-token=x --discovery-endpoints=http://127.0.0.1:1 --initial-cluster=default=http://localhost:2380",
        1,
        "multiple discovery or bootstrap flags are set",
    ),
    (
        "--discovery-srv=example.com --initial-cluster=default=http://localhost:2380",
        1,
        "multiple discovery or bootstrap flags are set",
    ),
    ("--discovery-fallback=proxy", 1, "v2 proxy is deprecated"),
    (
        "--auto-compaction-mode=weekly",
        1,
        "unknown auto-compaction-mode \\\"weekly\\\"",
    ),
    ("--auto-compaction-mode=", 1, "undefined auto-compaction-mode"),
    (
        "--auto-compaction-retention=x",
        1,
        "error parsing CompactionRetention: time: invalid duration \\\"x\\\"",
    ),
    (
        "--auto-compaction-retention=-1",
        1,
        "error parsing CompactionRetention: time: missing unit in duration \\\"-1\\\"",
    ),
    (
        "--log-format=xml",
        1,
        "unknown log format: xml, supported values json, console",
    ),
    ("--logger=capnslog", 1, "--logger=capnslog is removed in v3.5"),
    ("--log-outputs=", 1, "open : no such file or directory"),
    (
        "--log-outputs=default,stderr",
        1,
        "multi logoutput for \\\"default\\\" is not supported yet",
    ),
    (
        "--enable-log-rotation",
        1,
        "--log-outputs requires a single file path when --log-rotate-config-json is defined",
    ),
    (
        "--enable-log-rotation --log-outputs=/tmp/a,/tmp/b",
        1,
        "--log-outputs requires a single file path when --log-rotate-config-json is defined",
    ),
    (
        "--enable-log-rotation --log-outputs=/tmp/a --log-rotation-config-json={",
        1,
        "improperly formatted log rotation config: ",
    ),
    (
        "--enable-log-rotation --log-outputs=/tmp/a --log-rotation-config-json={\"maxsize\":\"x\"}",
        1,
        "invalid log rotation config: ",
    ),
    ("--cipher-suites=BAD", 1, "unexpected TLS cipher suite \\\"BAD\\\""),
    (
        "--tls-min-version=TLS1.1",
        1,
        "unexpected TLS version \\\"TLS1.1\\\" (must be one of: TLS1.2, TLS1.3)",
    ),
    (
        "--tls-max-version=TLS1.2 --tls-min-version=TLS1.3",
        1,
        "min version (TLS1.3) is greater than max version (TLS1.2)",
    ),
    (
        "--tls-min-version=TLS1.3 --cipher-suites=TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",
        1,
        "cipher suites cannot be configured when only TLS1.3 is enabled",
    ),
    (
        "--listen-client-urls=https://127.0.0.1:0 --advertise-client-urls=https://127.0.0.1:0",
        1,
        "TLS key/cert (--cert-file, --key-file) must be provided for",
    ),
    (
        "--self-signed-cert-validity=0 --auto-tls",
        1,
        "selfSignedCertValidity is invalid,it should be greater than 0",
    ),
    (
        "--compact-hash-check-time=0s",
        1,
        "--compact-hash-check-time must be >0 (set to 0s)",
    ),
    (
        "--enable-distributed-tracing --distributed-tracing-sampling-rate=2000000",
        1,
        "tracing sampling rate must be less than 1000000",
    ),
    (
        "--enable-distributed-tracing --distributed-tracing-sampling-rate=-1",
        1,
        "tracing sampling rate must be positive",
    ),
    ("--auth-token=bad", 1, "auth"),
    ("--config-file=/nonexistent", 1, "/nonexistent: "),
    ("--config-file=wrong-type.yaml", 1, "snapshot-count"),
    ("--config-file=broken.yaml", 1, "YAML"),
    ("--config-file=list.yaml", 1, "failed to verify flags"),
    ("--config-file=state.yaml", 1, "old"),
    (
        "--config-file=election.yaml",
        1,
        "--election-timeout[200ms] should be at least as 5 times as --heartbeat-interval[100ms]",
    ),
    (
        "--config-file=election.yaml --heartbeat-interval=10",
        1,
        "--election-timeout[200ms] should be at least as 5 times as --heartbeat-interval[100ms]",
    ),
    (
        "--config-file=mode.yaml",
        1,
        "unknown auto-compaction-mode \\\"weekly\\\"",
    ),
    (
        "ETCD_SNAPSHOT_COUNT=many",
        1,
        "invalid value \\\"many\\\" for ETCD_SNAPSHOT_COUNT",
    ),
    (
        "ETCD_PRE_VOTE=maybe",
        1,
        "invalid value \\\"maybe\\\" for ETCD_PRE_VOTE",
    ),
    (
        "ETCD_NAME=b --name=a",
        1,
        "conflicting environment variable is shadowed by corresponding command-line flag",
    ),
    (
        "ETCD_HEARTBEAT_INTERVAL=1000",
        1,
        "--election-timeout[1000ms] should be at least as 5 times as --heartbeat-interval[1000ms]",
    ),
    ("ETCD_CONFIG_FILE=/nonexistent", 1, "/nonexistent: "),
    (
        "ETCD_LISTEN_CLIENT_URLS=http://127.0.0.1:1",
        1,
        "--advertise-client-urls is required when --listen-client-urls is set explicitly",
    ),
];

/// Arguments, etcd's exit code and ours (`None` runs): on purpose, see COMPAT.md.
const DIFFERENT: &[(&str, Option<i32>, Option<i32>)] = &[
    // etcd panics.
    ("--log-level=loud", Some(2), Some(1)),
    // Names of 3.6, so that a member of 3.6 can be replaced without new arguments.
    (
        "--experimental-initial-corrupt-check --election-timeout=0",
        Some(2),
        Some(1),
    ),
    (
        "--experimental-corrupt-check-time=1s --election-timeout=0",
        Some(2),
        Some(1),
    ),
    (
        "--experimental-watch-progress-notify-interval=1s --election-timeout=0",
        Some(2),
        Some(1),
    ),
    ("--v2-deprecation=not-yet --election-timeout=0", Some(2), Some(1)),
];

const FILES: &[(&str, &str)] = &[
    ("wrong-type.yaml", "snapshot-count: many\n"),
    ("broken.yaml", "{[\n"),
    ("list.yaml", "- a\n"),
    ("state.yaml", "initial-cluster-state: old\n"),
    ("election.yaml", "heartbeat-interval: 100\nelection-timeout: 200\n"),
    ("mode.yaml", "auto-compaction-mode: weekly\n"),
];

fn etcd() -> Option<PathBuf> {
    let dir = std::env::var_os("QUORATE_ETCD_BIN_DIR").map(PathBuf::from);
    if dir.is_none() {
        println!("skipped: QUORATE_ETCD_BIN_DIR names no directory with etcd");
    }
    dir.map(|dir| dir.join("etcd"))
}

/// Exit code (`None`: it runs) and all output.
fn run(program: &Path, line: &str, dir: &Path) -> (Option<i32>, String) {
    let place = tempfile::tempdir_in(dir).unwrap();
    let output = std::fs::File::create(place.path().join("output")).unwrap();
    let mut command = Command::new(program);
    command.env_clear().current_dir(dir);
    if !line.contains("onfig-file") && !line.contains("CONFIG_FILE") {
        command.arg(format!("--data-dir={}", place.path().join("data").display()));
    }
    // Any other server may have the default ports.
    if !line.to_lowercase().contains("urls") && !line.to_lowercase().replace('_', "-").contains("config-file") {
        command.args([
            "--listen-peer-urls=http://localhost:0",
            "--listen-client-urls=http://localhost:0",
        ]);
        command.arg("--advertise-client-urls=http://localhost:1");
    }
    for word in line.split(' ') {
        match word.strip_prefix("ETCD_").and_then(|rest| rest.split_once('=')) {
            Some((name, value)) => command.env(format!("ETCD_{name}"), value),
            None => command.arg(word),
        };
    }
    let mut child = command
        .stdin(Stdio::null())
        .stdout(output.try_clone().unwrap())
        .stderr(output)
        .spawn()
        .unwrap();
    let begin = Instant::now();
    let code = loop {
        match child.try_wait().unwrap() {
            Some(status) => break Some(status.code().unwrap_or(-1)),
            None if begin.elapsed() > PATIENCE => {
                child.kill().ok();
                child.wait().ok();
                break None;
            }
            None => std::thread::sleep(Duration::from_millis(10)),
        }
    };
    let output = std::fs::read_to_string(place.path().join("output")).unwrap_or_default();
    (code, output)
}

fn directory() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in FILES {
        std::fs::write(dir.path().join(name), text).unwrap();
    }
    dir
}

/// In JSON lines quotes are escaped, in usage errors they are not.
fn says(output: &str, text: &str) -> bool {
    output.replace("\\\"", "\"").contains(&text.replace("\\\"", "\""))
}

#[test]
fn both_refuse_the_same_for_the_same_reason() {
    let Some(etcd) = etcd() else { return };
    let dir = directory();
    let wrong = Mutex::new(Vec::new());
    let next = Mutex::new(REFUSED.iter());
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                loop {
                    let Some((line, code, text)) = next.lock().unwrap().next() else {
                        return;
                    };
                    for program in [etcd.as_path(), Path::new(OURS)] {
                        let (is, output) = run(program, line, dir.path());
                        if is != Some(*code) || !says(&output, text) {
                            let head: String = output.lines().take(3).collect::<Vec<_>>().join("\n");
                            let program = program.display();
                            wrong
                                .lock()
                                .unwrap()
                                .push(format!("{program} {line}: {is:?}, not {code} with {text}:\n{head}"));
                        }
                    }
                }
            });
        }
    });
    let wrong = wrong.into_inner().unwrap();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    println!("{} command lines are refused alike", REFUSED.len());
}

#[test]
fn what_differs_is_known() {
    let Some(etcd) = etcd() else { return };
    let dir = directory();
    for (line, theirs, ours) in DIFFERENT {
        assert_eq!(run(&etcd, line, dir.path()).0, *theirs, "etcd {line}");
        let (code, output) = run(Path::new(OURS), line, dir.path());
        assert_eq!(code, *ours, "{line}: {output}");
    }
}

#[test]
fn help_lists_the_same_flags() {
    let Some(etcd) = etcd() else { return };
    let dir = directory();
    let flags = |program: &Path| -> BTreeSet<String> {
        let (code, output) = run(program, "--help", dir.path());
        assert_eq!(code, Some(0));
        let names = output.lines().filter_map(|line| line.trim_start().strip_prefix("--"));
        names
            .map(|rest| {
                rest.split(|c: char| c != '-' && !c.is_ascii_alphanumeric())
                    .next()
                    .unwrap()
                    .to_owned()
            })
            .collect()
    };
    let (theirs, ours) = (flags(&etcd), flags(Path::new(OURS)));
    assert!(theirs.len() > 100, "{theirs:?}");
    let absent: Vec<&String> = theirs.difference(&ours).collect();
    // etcd's help still lists what 3.7 refuses as not defined.
    assert_eq!(absent, ["discovery", "discovery-proxy"]);
    let extra: Vec<&String> = ours.difference(&theirs).collect();
    assert_eq!(extra, ["config-file", "version"], "etcd has these in its usage");
}
