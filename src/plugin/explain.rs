//! `kubectl quorate explain`: what the operator does next, why, and what is in its way.

use super::table::{self, Paint};
use super::target::{Known, Target};
use super::{Format, Place};
use crate::api::status::{Condition, EtcdClusterStatus, PlanStatus, RecoveryStatus};
use crate::platform::local::records::Layout;
use k8s_openapi::api::events::v1::Event;
use kube::Api;
use kube::api::ListParams;
use serde::Serialize;
use std::fmt::Write;

/// So many of the last events are shown.
const EVENTS: usize = 8;

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Explained {
    name: String,
    phase: Option<String>,
    plan: Option<PlanStatus>,
    recovery: Option<RecoveryStatus>,
    /// Conditions that are not as in a cluster in order.
    conditions: Vec<Condition>,
    /// Members that are not healthy, with the reason.
    members: Vec<String>,
    /// The newest last.
    events: Vec<String>,
    observed_at: Option<String>,
}

pub(super) async fn run(place: &Place, cluster: Option<&str>, output: Format) -> anyhow::Result<()> {
    let target = Target::open(place).await?;
    let known = target.one(cluster).await?;
    let events = events(&target, &known).await;
    let explained = Explained {
        observed_at: known.looked_at().map(str::to_owned),
        phase: known.status.phase.clone(),
        plan: known.status.plan.clone(),
        recovery: known.status.recovery.clone(),
        conditions: known.status.conditions.iter().filter(|c| is_news(c)).cloned().collect(),
        members: known
            .status
            .members
            .iter()
            .filter(|member| member.health != "Healthy")
            .map(|member| {
                let why = member.message.as_deref().unwrap_or("no reason is known");
                format!(
                    "{} is {} since {}: {why}",
                    member.name, member.health, member.health_since
                )
            })
            .collect(),
        events,
        name: known.name.clone(),
    };
    table::print(&explained, output, |colours| text(&explained, &known.status, colours))
}

/// What is next, in words of its own lines.
pub(super) fn next(status: &EtcdClusterStatus) -> String {
    let Some(plan) = &status.plan else {
        return "  next: not planned yet; does the operator run?\n".to_owned();
    };
    let mut text = match (plan.next_action.as_str(), &plan.since) {
        ("Settled", _) => "  next: nothing, the cluster is as wanted\n".to_owned(),
        (next, Some(since)) => format!("  next: {next} (since {since})\n"),
        (next, None) => format!("  next: {next}\n"),
    };
    if let Some(blocked) = &plan.blocked_by {
        let _ = writeln!(text, "  blocked: {blocked}");
    }
    text
}

/// Conditions that are `False` where a cluster in order has `True`, or the other way round.
fn is_news(condition: &Condition) -> bool {
    let good = match condition.kind.as_str() {
        "Progressing" | "Degraded" | "Upgrading" | "Paused" | "RecoveryRequired" | "VolumeGone" => "False",
        _ => "True",
    };
    condition.status != good
}

fn text(explained: &Explained, status: &EtcdClusterStatus, colours: bool) -> String {
    let phase = explained.phase.as_deref().unwrap_or("Unknown");
    let name = table::paint(&explained.name, Paint::Strong, colours);
    let mut text = format!("{name}: {phase}");
    if let Some(at) = &explained.observed_at {
        let _ = write!(text, ", as of {at}");
    }
    text.push('\n');
    text.push_str(&next(status));
    if let Some(recovery) = &explained.recovery {
        let _ = writeln!(text, "  recovery {}: {}", recovery.hash, recovery.plan);
        let _ = writeln!(text, "  may lose: {}", recovery.loss_bound);
        if !recovery.acting {
            let _ = writeln!(text, "  to agree: set spec.recovery.acknowledge to {}", recovery.hash);
        }
    }
    for member in &explained.members {
        let _ = writeln!(text, "  {member}");
    }
    for condition in &explained.conditions {
        // Most of them repeat the reason that stands above.
        if !condition.message.is_empty() && text.contains(&condition.message) {
            let _ = writeln!(
                text,
                "  condition {}={} ({})",
                condition.kind, condition.status, condition.reason
            );
            continue;
        }
        let _ = writeln!(
            text,
            "  condition {}={} ({}): {}",
            condition.kind, condition.status, condition.reason, condition.message
        );
    }
    if !explained.events.is_empty() {
        text.push_str("  last events:\n");
        for event in &explained.events {
            let _ = writeln!(text, "    {event}");
        }
    }
    text
}

/// The last events; none where they cannot be read: they explain, and are no more than that.
async fn events(target: &Target, known: &Known) -> Vec<String> {
    let mut lines: Vec<String> = match target {
        Target::Directory(directory) => {
            let path = Layout::new(directory, &known.name).file("events.log");
            let text = std::fs::read_to_string(path).unwrap_or_default();
            text.lines().map(str::to_owned).collect()
        }
        Target::Kubernetes { client, namespace, .. } => {
            let api: Api<Event> = Api::namespaced(client.clone(), namespace);
            let about = format!("regarding.kind=EtcdCluster,regarding.name={}", known.name);
            let listed = api.list(&ListParams::default().fields(&about)).await;
            let mut lines: Vec<String> = listed
                .map(|list| list.items)
                .unwrap_or_default()
                .iter()
                .map(event_line)
                .collect();
            lines.sort();
            lines
        }
        Target::Endpoints { .. } => Vec::new(),
    };
    lines.split_off(lines.len().saturating_sub(EVENTS))
}

fn event_line(event: &Event) -> String {
    let series = event.series.as_ref();
    let at = series
        .map(|series| &series.last_observed_time)
        .or(event.event_time.as_ref());
    format!(
        "{} {} {}{}: {}",
        at.map(|at| at.0.strftime("%Y-%m-%dT%H:%M:%SZ").to_string())
            .unwrap_or_default(),
        event.type_.as_deref().unwrap_or_default(),
        event.reason.as_deref().unwrap_or_default(),
        series
            .map(|series| format!(" ({} times)", series.count))
            .unwrap_or_default(),
        event.note.as_deref().unwrap_or_default(),
    )
}
