//! `quorate kubectl doctor` against real etcd: careless clusters, in which every planted fault must be named with its
//! remedy, and a careful one, in which nothing may be.

use crate::process::{Background, Programs, Said, free_ports, run};
use crate::report::Report;
use crate::servers::{Servers, Tls};
use anyhow::{Context, bail, ensure};
use etcd_client::{AlarmAction, AlarmType};
use serde_json::Value;
use std::path::Path;
use std::time::{Duration, Instant};
use tokio::process::Command;

/// The quota of the open cluster, in bytes: little, so that a few writes fill most of it.
const OPEN_QUOTA: i64 = 8 << 20;

/// A line of the doctor, and a word of the remedy that it must name.
type Expected = (&'static str, &'static str);

/// Runs the suite.
pub async fn suite(programs: &Programs) -> anyhow::Result<bool> {
    let mut report = Report::new("doctor: etcd that nobody here runs");
    let directory = tempfile::tempdir()?;
    careful(programs, &directory.path().join("careful"), &mut report).await?;
    plain(programs, &directory.path().join("plain"), &mut report).await?;
    open(programs, &directory.path().join("open"), &mut report).await?;
    Ok(report.end())
}

/// What the doctor finds, and its exit code.
async fn doctor(programs: &Programs, arguments: &[String]) -> anyhow::Result<(Vec<Value>, bool)> {
    let mut command = Command::new(&programs.quorate);
    command.args(["kubectl", "doctor", "-o", "json"]).args(arguments);
    let Said { code, out, err } = run(command, Duration::from_secs(60)).await?;
    let report: Value = serde_json::from_str(&out).with_context(|| format!("the doctor printed {out}{err}"))?;
    let findings = report["findings"].as_array().context("no findings")?.clone();
    Ok((findings, code == Some(0)))
}

fn text<'a>(finding: &'a Value, field: &str) -> &'a str {
    finding[field].as_str().unwrap_or_default()
}

/// How fast this machine is, is no matter of how etcd was set up.
pub fn is_timing(check: &str) -> bool {
    ["duration_seconds", "round_trip", "leader_changes", "--heartbeat"]
        .iter()
        .any(|part| check.contains(part))
}

fn judged(report: &mut Report, what: &str, findings: &[Value], planted: &[Expected]) {
    for (line, remedy) in planted {
        let found = findings.iter().find(|finding| text(finding, "check").contains(line));
        let result = match found {
            None => Err(anyhow::anyhow!("there is no such line")),
            Some(finding) if matches!(text(finding, "verdict"), "pass" | "unseen") => Err(anyhow::anyhow!(
                "it says {}: {}",
                text(finding, "verdict"),
                text(finding, "seen")
            )),
            Some(finding) if !text(finding, "remedy").contains(remedy) => {
                Err(anyhow::anyhow!("its remedy is {}", text(finding, "remedy")))
            }
            Some(finding) => Ok(text(finding, "seen").to_owned()),
        };
        report.check(&format!("{what}: {line}"), result);
    }
    let wrong: Vec<String> = findings
        .iter()
        .filter(|finding| matches!(text(finding, "verdict"), "fail" | "warn") && !is_timing(text(finding, "check")))
        .filter(|finding| planted.iter().all(|(line, _)| !text(finding, "check").contains(line)))
        .map(|finding| format!("{}: {}", text(finding, "check"), text(finding, "seen")))
        .collect();
    report.that(
        &format!("{what}: nothing else is blamed"),
        wrong.is_empty(),
        wrong.join("; "),
    );
}

/// Three members with TLS and the guide's flags: nothing is blamed, before and after an alarm.
async fn careful(programs: &Programs, directory: &Path, report: &mut Report) -> anyhow::Result<()> {
    let etcd = programs.upstream("etcd")?;
    let tls = Tls::new(&directory.join("tls"))?;
    let flags = [
        "--heartbeat-interval=250",
        "--election-timeout=1250",
        "--quota-backend-bytes=8589934592",
        "--auto-compaction-retention=1h",
    ];
    let mut servers = Servers::with_tls(directory, &[etcd.clone(), etcd.clone(), etcd], &flags, Some(tls))?;
    servers.start_all().await?;
    let mut client = servers.access().client().await?;
    for number in 0..200 {
        client
            .put(
                format!("/registry/secrets/n/{number}"),
                "k8s:enc:aescbc:v1:key1:????",
                None,
            )
            .await?;
    }
    let mut arguments = vec![format!("--endpoints={}", servers.members[0].endpoint)];
    arguments.extend(servers.client_flags());
    let (findings, _) = doctor(programs, &arguments).await?;
    judged(report, "careful", &findings, &[]);
    let unseen = findings.iter().filter(|finding| text(finding, "verdict") == "unseen");
    report.figure(
        "careful: unseen",
        unseen
            .map(|finding| text(finding, "check"))
            .collect::<Vec<_>>()
            .join("; "),
    );
    servers.stop().await
}

/// Two members in plain text with etcd's defaults or worse, Secrets as they are, and an alarm.
async fn plain(programs: &Programs, directory: &Path, report: &mut Report) -> anyhow::Result<()> {
    let etcd = programs.upstream("etcd")?;
    let flags = ["--heartbeat-interval=50", "--election-timeout=500"];
    let mut servers = Servers::new(directory, &[etcd.clone(), etcd], &flags)?;
    servers.start_all().await?;
    let mut client = servers.access().client().await?;
    client
        .put("/registry/secrets/default/token", "k8s\0secret", None)
        .await?;
    client
        .put("/registry/configmaps/default/settings", "k8s\0map", None)
        .await?;
    client.alarm(AlarmAction::Activate, AlarmType::Nospace, None).await?;
    let (findings, good) = doctor(programs, &[format!("--endpoints={}", servers.members[0].endpoint)]).await?;
    report.that("plain: the exit code tells", !good, "it was 0");
    let planted = [
        ("odd number", "3 or 5"),
        ("no alarm", "etcdctl alarm disarm"),
        ("30 days", "TLS"),
        ("--heartbeat-interval", "--heartbeat-interval=250"),
        ("--election-timeout", "--election-timeout=1250"),
        ("--quota-backend-bytes", "--quota-backend-bytes=8589934592"),
        ("--auto-compaction-retention", "--auto-compaction-retention=1h"),
        ("TLS between clients", "--cert-file"),
        ("must present a certificate", "--client-cert-auth"),
        ("TLS among members", "--peer-cert-file"),
        ("PKI", "an authority that issues nothing else"),
        ("of Secrets", "EncryptionConfiguration"),
        ("of ConfigMaps", "EncryptionConfiguration"),
        ("quota with auto-compaction", "--auto-compaction-retention"),
    ];
    judged(report, "plain", &findings, &planted);
    servers.stop().await
}

/// One member that listens everywhere, asks nobody for a certificate, has the API server's authority and a database that
/// is nearly full.
async fn open(programs: &Programs, directory: &Path, report: &mut Report) -> anyhow::Result<()> {
    let tls = Tls::new(&directory.join("tls"))?;
    let [client, peer] = free_ports(2)?[..] else {
        bail!("no free ports");
    };
    let file = |name: &str| directory.join("tls").join(name).display().to_string();
    let url = format!("https://127.0.0.1:{client}");
    let mut command = Command::new(programs.upstream("etcd")?);
    command
        .args(["--name=open", "--log-level=warn", "--auto-compaction-retention=1h"])
        .arg(format!("--quota-backend-bytes={OPEN_QUOTA}"))
        .arg(format!("--data-dir={}", directory.join("data").display()))
        .arg(format!("--listen-client-urls=https://0.0.0.0:{client}"))
        .arg(format!("--advertise-client-urls={url}"))
        .arg(format!("--listen-peer-urls=http://127.0.0.1:{peer}"))
        .arg(format!("--initial-advertise-peer-urls=http://127.0.0.1:{peer}"))
        .arg(format!("--initial-cluster=open=http://127.0.0.1:{peer}"))
        .arg(format!("--cert-file={}", file("cert.pem")))
        .arg(format!("--key-file={}", file("key.pem")));
    let mut etcd = Background::start(command, &directory.join("open.log"))?;
    let access = tls.access(vec![url.clone()]);
    access
        .settled(1, Duration::from_secs(30))
        .await
        .with_context(|| etcd.last_words(5))?;
    let mut client = access.client().await?;
    for number in 0..35 {
        client.put(format!("key-{number}"), vec![b'x'; 200_000], None).await?;
    }
    // etcd tells the size as of its last commit, which the newest writes may be behind by a tenth of a second.
    let end = Instant::now() + Duration::from_secs(10);
    while client.status().await?.db_size() * 100 < OPEN_QUOTA * 80 {
        ensure!(Instant::now() < end, "7 MB do not fill 80% of a quota of 8 MiB");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let arguments = [
        format!("--endpoints={url}"),
        format!("--cacert={}", file("ca.pem")),
        format!("--kubernetes-cacert={}", file("ca.pem")),
    ];
    let (findings, good) = doctor(programs, &arguments).await?;
    report.that("open: the exit code tells", !good, "it was 0");
    let planted = [
        ("odd number", "3 or 5"),
        ("--quota-backend-bytes", "--quota-backend-bytes"),
        ("80% of the quota", "top"),
        ("must present a certificate", "--client-cert-auth"),
        ("TLS among members", "--peer-cert-file"),
        ("PKI", "an authority that issues nothing else"),
        ("port 2379", "firewall"),
    ];
    judged(report, "open", &findings, &planted);
    etcd.end(nix::sys::signal::Signal::SIGTERM, Duration::from_secs(10))
        .await
}
