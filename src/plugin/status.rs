//! `kubectl quorate status`: how clusters stand, as the operator saw them last.

use super::table::{self, Cell, Paint, bytes, plain};
use super::target::{Known, Target};
use super::{Format, Place};
use crate::api::EtcdBackup;
use crate::api::schedule::parse_rfc3339;
use crate::api::status::{EtcdClusterStatus, MemberStatus};
use kube::ResourceExt;
use serde::Serialize;
use std::fmt::Write;
use std::time::{SystemTime, UNIX_EPOCH};

/// What machines are told of a cluster.
#[derive(Debug, Serialize)]
struct Shown {
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    quota: Option<String>,
    status: EtcdClusterStatus,
    backups: Vec<EtcdBackup>,
}

pub(super) async fn run(place: &Place, cluster: Option<&str>, output: Format) -> anyhow::Result<()> {
    let target = Target::open(place).await?;
    let known = target.clusters(cluster).await?;
    if known.is_empty() {
        eprintln!("no EtcdCluster found");
    }
    let mut shown = Vec::new();
    for mut cluster in known {
        cluster.status.journal = None;
        let backups = target.backups(&cluster.name).await?;
        shown.push(Shown {
            quota: cluster
                .object
                .as_ref()
                .map(|object| object.spec.options.quota_backend_bytes.to_string()),
            name: cluster.name,
            status: cluster.status,
            backups,
        });
    }
    table::print(&shown, output, |colours| {
        let texts: Vec<String> = shown.iter().map(|cluster| text(cluster, now(), colours)).collect();
        texts.join("\n")
    })
}

/// Seconds since the epoch.
pub(super) fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

/// Whole days until a moment in RFC 3339; negative when it is past.
pub(super) fn days_until(moment: &str, now: i64) -> Option<i64> {
    let moment = i64::try_from(parse_rfc3339(moment)?.0 / 1000).ok()?;
    Some((moment - now).div_euclid(86_400))
}

fn text(cluster: &Shown, now: i64, colours: bool) -> String {
    let status = &cluster.status;
    let phase = status.phase.as_deref().unwrap_or("Unknown");
    let style = match phase {
        "Running" => Paint::Good,
        "Degraded" | "QuorumLost" => Paint::Bad,
        _ => Paint::Doubtful,
    };
    let mut text = format!(
        "{}: {}, {} of {} voters ready, leader {}, revision {}, database {} % of its quota{}\n",
        table::paint(&cluster.name, Paint::Strong, colours),
        table::paint(phase, style, colours),
        status.ready_replicas,
        status.replicas,
        status.leader.as_deref().unwrap_or("none"),
        status.revision.unwrap_or(0),
        status.quota_percent.unwrap_or(0),
        cluster
            .quota
            .as_ref()
            .map(|quota| format!(" of {quota}"))
            .unwrap_or_default(),
    );
    let rows: Vec<[Cell; 9]> = status.members.iter().map(|member| row(member, now)).collect();
    let heading = [
        "MEMBER",
        "ID",
        "ROLE",
        "HEALTH",
        "LAG",
        "DB",
        "ALARMS",
        "CERT DAYS",
        "NODE",
    ];
    text.push_str(&indented(&table::table(heading, &rows, colours)));
    for member in &status.members {
        if let Some(why) = &member.message {
            let _ = writeln!(text, "  {}: {why}", member.name);
        }
    }
    if !cluster.backups.is_empty() {
        let rows: Vec<[Cell; 5]> = cluster.backups.iter().map(backup_row).collect();
        text.push_str(&indented(&table::table(
            ["BACKUP", "PHASE", "REVISION", "SIZE", "VERIFIED"],
            &rows,
            colours,
        )));
    }
    for backup in &cluster.backups {
        if let Some(why) = backup.status.as_ref().and_then(|status| status.message.as_ref()) {
            let _ = writeln!(text, "  {}: {why}", backup.name_any());
        }
    }
    text.push_str(&super::explain::next(status));
    text
}

fn row(member: &MemberStatus, now: i64) -> [Cell; 9] {
    let dash = || plain("-");
    let text = |text: &Option<String>| text.clone().map_or_else(dash, plain);
    let health = match member.health.as_str() {
        "Healthy" => Paint::Good,
        "Unhealthy" => Paint::Bad,
        _ => Paint::Doubtful,
    };
    let days = member.cert_not_after.as_deref().and_then(|end| days_until(end, now));
    let certificate = days.map_or_else(dash, |days| {
        let style = match days {
            ..7 => Paint::Bad,
            7..30 => Paint::Doubtful,
            _ => Paint::Plain,
        };
        (days.to_string(), style)
    });
    [
        plain(&member.name),
        text(&member.id),
        plain(if member.leader {
            format!("{} (leads)", member.role)
        } else {
            member.role.clone()
        }),
        (member.health.clone(), health),
        member.raft_index_lag.map_or_else(dash, |lag| plain(lag.to_string())),
        member
            .db_size
            .map_or_else(dash, |size| plain(bytes(u64::try_from(size).unwrap_or(0)))),
        match member.alarms.is_empty() {
            true => dash(),
            false => (member.alarms.join(","), Paint::Bad),
        },
        certificate,
        text(&member.node),
    ]
}

fn backup_row(backup: &EtcdBackup) -> [Cell; 5] {
    let status = backup.status.clone().unwrap_or_default();
    let policy = backup.spec.schedule.is_some();
    let phase = status
        .phase
        .unwrap_or_else(|| if policy { "Scheduled" } else { "Pending" }.to_owned());
    let style = match phase.as_str() {
        "Failed" => Paint::Bad,
        "Completed" => Paint::Good,
        _ => Paint::Plain,
    };
    let name = match &backup.spec.schedule {
        Some(schedule) => format!("{} ({schedule})", backup.name_any()),
        None => backup.name_any(),
    };
    let artifact = status.artifact.as_ref();
    let dash = || plain("-");
    [
        plain(name),
        (phase, style),
        artifact.map_or_else(dash, |artifact| plain(artifact.revision.to_string())),
        artifact.map_or_else(dash, |artifact| {
            plain(bytes(u64::try_from(artifact.size_bytes).unwrap_or(0)))
        }),
        status.verified.map_or_else(dash, |verified| plain(verified.time)),
    ]
}

pub(super) fn indented(text: &str) -> String {
    text.lines().fold(String::new(), |mut all, line| {
        let _ = writeln!(all, "  {line}");
        all
    })
}

impl Known {
    /// When the operator last looked at a member, in words; none when it never did.
    pub(super) fn looked_at(&self) -> Option<&str> {
        self.status
            .members
            .iter()
            .map(|member| member.observed_at.as_str())
            .max()
    }
}
