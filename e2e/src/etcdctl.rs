//! Upstream etcdctl against a cluster under `quorate local up` with TLS, as a user would after reading the README.

use crate::local::Local;
use crate::process::{Background, Programs};
use crate::report::Report;
use anyhow::{Context, bail};
use nix::sys::signal::Signal;
use std::time::{Duration, Instant};

/// Runs the suite.
pub async fn suite(programs: &Programs) -> anyhow::Result<bool> {
    programs.upstream("etcdctl")?;
    let mut report = Report::new("etcdctl");
    let began = Instant::now();
    let local = match Local::running(programs, "replicas: 3", 3).await {
        Ok(local) => local,
        Err(error) => {
            report.check::<String>("three members with TLS from a manifest", Err(error));
            return Ok(report.end());
        }
    };
    report.that(
        "three members with TLS from a manifest",
        true,
        format!("after {:.1} s", began.elapsed().as_secs_f64()),
    );
    keys(&local, &mut report).await;
    watches(&local, &mut report).await;
    leases(&local, &mut report).await;
    cluster(&local, &mut report).await;
    maintenance(&local, &mut report).await;
    Ok(report.end())
}

/// Runs etcdctl and compares what it prints, without blanks around it.
async fn expect(local: &Local, report: &mut Report, arguments: &[&str], wanted: &str) {
    let seen = printed(local, arguments).await.and_then(|out| {
        if out.trim() == wanted {
            Ok(short(&out))
        } else {
            bail!("printed {out:?} instead of {wanted:?}")
        }
    });
    report.check(&arguments.join(" "), seen);
}

/// Runs etcdctl and looks for some texts in what it prints.
async fn contains(local: &Local, report: &mut Report, arguments: &[&str], wanted: &[&str]) -> String {
    let printed = printed(local, arguments).await;
    let out = printed.as_ref().map(String::to_owned).unwrap_or_default();
    let seen = printed.and_then(|out| match wanted.iter().find(|text| !out.contains(**text)) {
        None => Ok(short(&out)),
        Some(text) => bail!("{text:?} is not in {out:?}"),
    });
    report.check(&arguments.join(" "), seen);
    out
}

async fn printed(local: &Local, arguments: &[&str]) -> anyhow::Result<String> {
    local.etcdctl(arguments).await?.ok()
}

fn short(text: &str) -> String {
    let line = text.trim().replace('\n', " | ");
    let cut = line.char_indices().nth(70).map_or(line.len(), |(at, _)| at);
    if cut < line.len() {
        format!("{}...", &line[..cut])
    } else {
        line
    }
}

async fn keys(local: &Local, report: &mut Report) {
    expect(local, report, &["put", "a", "1"], "OK").await;
    let first = contains(
        local,
        report,
        &["get", "a", "-w", "json"],
        &["\"kvs\"", "\"version\":1"],
    )
    .await;
    let revision = number_after(&first, "\"revision\":").unwrap_or(0).to_string();
    contains(local, report, &["put", "a", "2", "--prev-kv"], &["OK", "a", "1"]).await;
    expect(local, report, &["put", "b", "3"], "OK").await;
    expect(local, report, &["put", "c", "0"], "OK").await;
    expect(local, report, &["get", "a"], "a\n2").await;
    expect(local, report, &["get", "a", &format!("--rev={revision}")], "a\n1").await;
    expect(local, report, &["get", "", "--prefix", "--keys-only"], "a\n\nb\n\nc").await;
    expect(local, report, &["get", "a", "c", "--print-value-only"], "2\n3").await;
    contains(
        local,
        report,
        &["get", "b", "--from-key", "--count-only", "-w", "fields"],
        &["\"Count\" : 2"],
    )
    .await;
    expect(
        local,
        report,
        &[
            "get",
            "",
            "--prefix",
            "--sort-by=VALUE",
            "--order=DESCEND",
            "--limit=2",
            "--print-value-only",
        ],
        "3\n2",
    )
    .await;
    contains(
        local,
        report,
        &["get", "", "--prefix", "--limit=1", "-w", "json"],
        &["\"more\":true", "\"count\":3"],
    )
    .await;
    expect(
        local,
        report,
        &["get", "a", "--consistency=s", "--print-value-only"],
        "2",
    )
    .await;
    expect(local, report, &["del", "c"], "1").await;
    expect(local, report, &["del", "c"], "0").await;
    contains(local, report, &["del", "b", "--prev-kv"], &["1", "b", "3"]).await;
    let future = local.etcdctl(&["get", "a", "--rev=99999999"]).await;
    let refused = future.and_then(
        |said| match said.err.contains("required revision is a future revision") {
            true => Ok("etcd's error text".to_owned()),
            false => bail!("{said:?}"),
        },
    );
    report.check("get of a future revision", refused);
    transaction(
        local,
        report,
        "value(\"a\") = \"2\"\n\nput a 4\nget a\n\nput a 5\n\n",
        &["SUCCESS", "a", "4"],
    )
    .await;
    transaction(
        local,
        report,
        "value(\"a\") = \"2\"\n\nput a 6\n\nget a\ndel a\n\n",
        &["FAILURE", "a", "4", "1"],
    )
    .await;
}

async fn transaction(local: &Local, report: &mut Report, script: &str, wanted: &[&str]) {
    let file = local.scratch("transaction");
    let result = async {
        std::fs::write(&file, script)?;
        let mut command = tokio::process::Command::new("/bin/sh");
        let inner = local.etcdctl_command(&["txn"])?;
        let inner = inner.as_std();
        command
            .args(["-c", "exec \"$@\" < \"$0\""])
            .arg(&file)
            .arg(inner.get_program())
            .args(inner.get_args());
        let out = crate::process::run(command, Duration::from_secs(20)).await?.ok()?;
        match wanted.iter().find(|text| !out.contains(**text)) {
            None => Ok(short(&out)),
            Some(text) => bail!("{text:?} is not in {out:?}"),
        }
    }
    .await;
    report.check(&format!("txn that ends in {}", wanted[0]), result);
}

async fn watches(local: &Local, report: &mut Report) {
    let result = async {
        let out = printed(local, &["put", "w/1", "x", "-w", "json"]).await?;
        let revision = number_after(&out, "\"revision\":").context("no revision")?;
        printed(local, &["put", "w/1", "y"]).await?;
        printed(local, &["put", "other", "z"]).await?;
        let from = format!("--rev={revision}");
        let command = local.etcdctl_command(&["watch", "w/", "--prefix", "--prev-kv", &from])?;
        let mut watch = Background::start(command, &local.scratch("watch"))?;
        // Old events first; then one that happens while it watches.
        printed_within(&watch, "PUT\nw/1\nx\nPUT\nw/1\nx\nw/1\ny\n").await?;
        printed(local, &["put", "w/2", "new"]).await?;
        printed_within(&watch, "PUT\nw/2\nnew\n").await?;
        printed(local, &["del", "w/1"]).await?;
        printed_within(&watch, "DELETE\nw/1\ny\nw/1\n\n").await?;
        watch.end(Signal::SIGINT, Duration::from_secs(5)).await?;
        if watch.output().contains("other") {
            bail!("it told of another key: {}", watch.output());
        }
        Ok(format!("5 events from revision {revision} on"))
    }
    .await;
    report.check("watch --prefix --prev-kv --rev", result);
}

async fn printed_within(watch: &Background, wanted: &str) -> anyhow::Result<()> {
    let end = Instant::now() + Duration::from_secs(10);
    while !watch.output().contains(wanted) {
        if Instant::now() > end {
            bail!("{wanted:?} did not come; printed: {:?}", watch.output());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

async fn leases(local: &Local, report: &mut Report) {
    let out = contains(
        local,
        report,
        &["lease", "grant", "60"],
        &["lease ", " granted with TTL(60s)"],
    )
    .await;
    let id = out.split_whitespace().nth(1).unwrap_or_default().to_owned();
    expect(local, report, &["put", "leased", "1", &format!("--lease={id}")], "OK").await;
    contains(
        local,
        report,
        &["lease", "keep-alive", "--once", &id],
        &["keepalived with TTL(60)"],
    )
    .await;
    contains(
        local,
        report,
        &["lease", "timetolive", "--keys", &id],
        &["granted with TTL(60s), remaining(", "attached keys([leased])"],
    )
    .await;
    contains(local, report, &["lease", "list"], &["found 1 leases", &id]).await;
    contains(local, report, &["lease", "revoke", &id], &["revoked"]).await;
    expect(local, report, &["get", "leased"], "").await;
    let result = async {
        let out = printed(local, &["lease", "grant", "2"]).await?;
        let id = out.split_whitespace().nth(1).context("no id")?;
        printed(local, &["put", "short", "1", &format!("--lease={id}")]).await?;
        let began = Instant::now();
        while !printed(local, &["get", "short"]).await?.is_empty() {
            if began.elapsed() > Duration::from_secs(20) {
                bail!("a key of a lease of 2 s is there after 20 s");
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Ok(format!("gone after {:.1} s", began.elapsed().as_secs_f64()))
    }
    .await;
    report.check("a lease of 2 s runs out and takes its key along", result);
}

async fn cluster(local: &Local, report: &mut Report) {
    contains(
        local,
        report,
        &["member", "list"],
        &["started", "https://127.0.0.1:", "false"],
    )
    .await;
    let status = contains(
        local,
        report,
        &["endpoint", "status", "--cluster", "-w", "json"],
        &["\"leader\"", "\"raftIndex\""],
    )
    .await;
    let health = contains(local, report, &["endpoint", "health", "--cluster"], &[]).await;
    let healthy = health.matches("is healthy").count();
    report.that(
        "all three endpoints are healthy",
        healthy == 3 || health.is_empty(),
        format!("{healthy} on stdout"),
    );
    let hashes = printed(local, &["endpoint", "hashkv", "--cluster", "-w", "json"])
        .await
        .and_then(|out| {
            let all: Vec<i64> = out
                .match_indices("\"hash\":")
                .filter_map(|(at, _)| number_after(&out[at..], ":"))
                .collect();
            match all.as_slice() {
                [first, rest @ ..] if rest.len() == 2 && rest.iter().all(|one| one == first) => {
                    Ok(format!("3 times {first}"))
                }
                _ => bail!("{out}"),
            }
        });
    report.check("endpoint hashkv --cluster", hashes);
    let moved = async {
        let values: serde_json::Value = serde_json::from_str(&status)?;
        let members = values.as_array().context("no list")?;
        let leader = members
            .first()
            .and_then(|one| one["Status"]["leader"].as_u64())
            .context("no leader")?;
        let id = |one: &serde_json::Value| one["Status"]["header"]["member_id"].as_u64();
        let other = members
            .iter()
            .filter_map(id)
            .find(|id| *id != leader)
            .context("no follower")?;
        let target = format!("{other:x}");
        // Only the leader accepts it: etcdctl finds it among all endpoints.
        let out = printed(local, &["move-leader", &target]).await?;
        if !out.contains("Leadership transferred from") {
            bail!("{out}");
        }
        let leader = local.access()?.settled(3, Duration::from_secs(5)).await?.id;
        if leader != other {
            bail!("the leader is {leader:x}, not {target}");
        }
        Ok(out.trim().to_owned())
    }
    .await;
    report.check("move-leader", moved);
}

async fn maintenance(local: &Local, report: &mut Report) {
    let out = printed(local, &["put", "m", "1", "-w", "json"])
        .await
        .unwrap_or_default();
    let revision = number_after(&out, "\"revision\":").unwrap_or(0).to_string();
    expect(
        local,
        report,
        &["compact", &revision],
        &format!("compacted revision {revision}"),
    )
    .await;
    let refused = local.etcdctl(&["get", "a", "--rev=2"]).await.and_then(|said| {
        match said.err.contains("required revision has been compacted") {
            true => Ok("etcd's error text"),
            false => bail!("{said:?}"),
        }
    });
    report.check("get of a compacted revision", refused);
    contains(
        local,
        report,
        &["defrag", "--cluster"],
        &["Finished defragmenting etcd member"],
    )
    .await;
    expect(local, report, &["alarm", "list"], "").await;
    expect(local, report, &["alarm", "disarm"], "").await;
    let file = local.scratch("snapshot.db").display().to_string();
    let saved = async {
        let save = local.etcdctl_of_one_command(&["snapshot", "save", &file])?;
        let out = crate::process::run(save, Duration::from_secs(30)).await?.ok()?;
        let size = std::fs::metadata(&file)?.len();
        let mut status = tokio::process::Command::new(local.upstream("etcdutl")?);
        status.args(["snapshot", "status", &file, "-w", "json"]);
        let status = crate::process::run(status, Duration::from_secs(20)).await?.ok()?;
        if !out.contains("Snapshot saved at") {
            bail!("{out}");
        }
        Ok(format!("{size} bytes; etcdutl: {}", status.trim()))
    }
    .await;
    report.check("snapshot save, and etcdutl snapshot status of it", saved);
}

/// The integer that follows a text.
fn number_after(text: &str, before: &str) -> Option<i64> {
    let rest = &text[text.find(before)? + before.len()..];
    let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_where_they_stand() {
        assert_eq!(number_after("{\"revision\":12,", "\"revision\":"), Some(12));
        assert_eq!(number_after("{}", "\"revision\":"), None);
    }
}
