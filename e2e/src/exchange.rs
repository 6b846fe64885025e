//! Snapshots and data directories carried from our server to real etcd and back: the same keys, revisions and hashes.

use crate::access::Access;
use crate::process::{Programs, run};
use crate::report::Report;
use crate::servers::Servers;
use anyhow::{Context, bail};
use etcd_client::{Compare, CompareOp, GetOptions, PutOptions, Txn, TxnOp};
use nix::sys::signal::Signal;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::process::Command;

/// A server with the offline tool that belongs to it.
#[derive(Debug)]
struct Side {
    name: &'static str,
    server: PathBuf,
    etcdutl: PathBuf,
}

/// Runs the suite.
pub async fn suite(programs: &Programs) -> anyhow::Result<bool> {
    let temp = tempfile::Builder::new().prefix("quorate-e2e-").tempdir()?;
    let etcdctl = programs.upstream("etcdctl")?;
    let real = Side {
        name: "etcd",
        server: programs.upstream("etcd")?,
        etcdutl: programs.upstream("etcdutl")?,
    };
    // Called as etcdutl, our server is that program.
    let as_etcdutl = temp.path().join("etcdutl");
    std::os::unix::fs::symlink(std::path::absolute(&programs.server)?, &as_etcdutl)?;
    let ours = Side {
        name: "quorate",
        server: programs.server.clone(),
        etcdutl: as_etcdutl,
    };
    let mut report = Report::new("exchange");
    for (n, (from, to)) in [(&ours, &real), (&real, &ours)].into_iter().enumerate() {
        let directory = temp.path().join(n.to_string());
        let title = format!("{} -> {}: snapshot", from.name, to.name);
        let result = snapshot(&etcdctl, from, to, &directory.join("snapshot"), &mut report).await;
        report.check(&format!("{title}: keys, revisions, history, HashKV"), result);
        let result = data_directory(from, to, &directory.join("swap")).await;
        report.check(
            &format!("{} -> {}: data directory, and back", from.name, to.name),
            result,
        );
    }
    Ok(report.end())
}

/// Content of every kind: rewritten and deleted keys, leases, transactions, large values, a compaction.
async fn fill(access: &Access) -> anyhow::Result<()> {
    let mut client = access.client().await?;
    let lease = client.lease_grant(3600, None).await?.id();
    for n in 0..300 {
        client
            .put(format!("key/{:03}", n % 120), format!("value {n}"), None)
            .await?;
    }
    client
        .put("leased", "x", Some(PutOptions::new().with_lease(lease)))
        .await?;
    client.put(vec![0, 255, 1], vec![254u8; 300_000], None).await?;
    client.delete("key/007", None).await?;
    client.put("key/007", "again", None).await?;
    let compacted = client
        .get("key/000", None)
        .await?
        .header()
        .context("no header")?
        .revision()
        - 60;
    client.compact(compacted, None).await?;
    let both = [
        TxnOp::put("t/1", "1", None),
        TxnOp::put("t/2", "2", None),
        TxnOp::delete("key/009", None),
    ];
    let txn = Txn::new()
        .when([Compare::version("key/009", CompareOp::Greater, 0)])
        .and_then(both);
    if !client.txn(txn).await?.succeeded() {
        bail!("the transaction was not carried out");
    }
    for n in 0..50 {
        client.put(format!("tail/{n}"), "t", None).await?;
    }
    Ok(())
}

/// Key, value, create and mod revision, version, lease.
type Record = (Vec<u8>, Vec<u8>, i64, i64, i64, i64);

/// All that a client can see: every key with its revisions at two moments, and the hash.
#[derive(Debug, PartialEq)]
struct Content {
    revision: i64,
    keys: Vec<Record>,
    earlier: Vec<(Vec<u8>, i64)>,
    hash: u32,
    compacted: i64,
}

async fn content(access: &Access, at: Option<i64>) -> anyhow::Result<Content> {
    let mut client = access.client().await?;
    let all = GetOptions::new().with_all_keys();
    let now = client.get("", Some(all.clone().with_revision(at.unwrap_or(0)))).await?;
    let newest = now.header().context("no header")?.revision();
    let revision = at.unwrap_or(newest);
    let before = client.get("", Some(all.with_revision(revision - 30))).await?;
    let hash = client.hash_kv(revision).await?;
    Ok(Content {
        revision,
        keys: now
            .kvs()
            .iter()
            .map(|kv| {
                let revisions = (kv.create_revision(), kv.mod_revision(), kv.version(), kv.lease());
                (
                    kv.key().to_vec(),
                    kv.value().to_vec(),
                    revisions.0,
                    revisions.1,
                    revisions.2,
                    revisions.3,
                )
            })
            .collect(),
        earlier: before
            .kvs()
            .iter()
            .map(|kv| (kv.key().to_vec(), kv.mod_revision()))
            .collect(),
        hash: hash.hash(),
        compacted: hash.compact_version(),
    })
}

fn compare(before: &Content, after: &Content) -> anyhow::Result<String> {
    if before.keys != after.keys {
        let differ = before.keys.iter().zip(&after.keys).find(|(a, b)| a != b);
        bail!(
            "{} keys before, {} after; first difference: {differ:?}",
            before.keys.len(),
            after.keys.len()
        );
    }
    if before.earlier != after.earlier {
        bail!(
            "the history differs: {} keys, then {}",
            before.earlier.len(),
            after.earlier.len()
        );
    }
    if (before.hash, before.compacted) != (after.hash, after.compacted) {
        let (a, b) = ((before.hash, before.compacted), (after.hash, after.compacted));
        bail!("HashKV and compacted revision {a:?}, then {b:?}");
    }
    Ok(format!(
        "{} keys, {} earlier, revision {}, hash {}",
        before.keys.len(),
        before.earlier.len(),
        before.revision,
        before.hash
    ))
}

async fn snapshot(
    etcdctl: &Path,
    from: &Side,
    to: &Side,
    directory: &Path,
    report: &mut Report,
) -> anyhow::Result<String> {
    let mut source = Servers::new(&directory.join("from"), std::slice::from_ref(&from.server), &[])?;
    source.start_all().await?;
    fill(&source.access()).await?;
    let before = content(&source.access(), None).await?;
    let file = directory.join("snapshot.db").display().to_string();
    let mut save = Command::new(etcdctl);
    save.args(["snapshot", "save", &file, "--endpoints", &source.members[0].endpoint]);
    run(save, Duration::from_secs(30)).await?.ok()?;
    source.stop().await?;

    let status = async {
        let mut status = Command::new(&to.etcdutl);
        status.args(["snapshot", "status", &file, "-w", "json"]);
        let out = run(status, Duration::from_secs(30)).await?.ok()?;
        let value: serde_json::Value = serde_json::from_str(&out)?;
        let (revision, keys) = (value["revision"].as_i64(), value["totalKey"].as_i64().unwrap_or(0));
        if revision != Some(before.revision) || keys < i64::try_from(before.keys.len())? {
            bail!(
                "{out} but the revision was {} with {} keys",
                before.revision,
                before.keys.len()
            );
        }
        Ok(out.trim().to_owned())
    };
    let title = format!("{} -> {}: snapshot status", from.name, to.name);
    report.check(&title, status.await);

    let mut target = Servers::new(&directory.join("to"), std::slice::from_ref(&to.server), &[])?;
    let mut restore = Command::new(&to.etcdutl);
    restore
        .args(["snapshot", "restore", &file])
        .arg(format!("--name={}", target.members[0].name))
        .arg(format!("--initial-cluster={}", target.initial_cluster()))
        .arg(format!("--initial-advertise-peer-urls={}", target.first_peer()))
        .arg(format!("--data-dir={}", target.members[0].data.display()));
    let restored = run(restore, Duration::from_secs(60)).await?.ok().map(|_| "accepted");
    let title = format!("{} -> {}: snapshot restore", from.name, to.name);
    report.check(&title, restored);
    target.start_all().await?;
    let after = content(&target.access(), Some(before.revision)).await?;
    let same = compare(&before, &after)?;
    let mut client = target.access().client().await?;
    let next = client
        .put("after", "restore", None)
        .await?
        .header()
        .context("no header")?
        .revision();
    if next <= before.revision {
        bail!("a write after the restore got revision {next}");
    }
    target.stop().await?;
    Ok(same)
}

/// The same directory under the other program, and under the first one again; each adds to it.
async fn data_directory(from: &Side, to: &Side, directory: &Path) -> anyhow::Result<String> {
    let mut servers = Servers::new(directory, std::slice::from_ref(&from.server), &["--snapshot-count=100"])?;
    servers.start_all().await?;
    fill(&servers.access()).await?;
    let mut before = content(&servers.access(), None).await?;
    let mut same = String::new();
    for program in [&to.server, &from.server] {
        servers.end(0, Signal::SIGTERM).await?;
        servers.change_program(0, program);
        servers.start_all().await?;
        let after = content(&servers.access(), Some(before.revision)).await?;
        same = compare(&before, &after).with_context(|| format!("under {}", program.display()))?;
        fill(&servers.access()).await?;
        before = content(&servers.access(), None).await?;
    }
    servers.stop().await?;
    Ok(same)
}
