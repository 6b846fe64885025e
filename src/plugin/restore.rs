//! `kubectl quorate restore --plan`: what a restore would bring back and lose, and the manifest that does it.
//!
//! Invariant: it changes nothing. A restore is a new EtcdCluster, which is applied by whoever read the plan.

use super::status::now;
use super::table::{self, bytes};
use super::target::{Known, Target};
use super::{Format, Place};
use crate::api::schedule::parse_rfc3339;
use crate::api::{EtcdBackup, EtcdCluster};
use anyhow::{Context, bail};
use clap::Args;
use kube::ResourceExt;
use serde::Serialize;
use serde_json::{Value, json};
use std::fmt::Write;

/// Which backup, and where to.
#[derive(Debug, Clone, Args)]
pub struct Options {
    /// The cluster whose backups are looked through; may be left out when there is one only.
    pub cluster: Option<String>,
    /// Say what would happen; nothing else is done here.
    #[arg(long, required = true)]
    pub plan: bool,
    /// The backup; the newest verified one when absent.
    #[arg(long)]
    pub backup: Option<String>,
    /// Name of the cluster that it would become; the old one's with `-restored` when absent.
    #[arg(long)]
    pub into: Option<String>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Plan {
    backup: String,
    artifact: String,
    size_bytes: i64,
    revision: i64,
    keys: i64,
    etcd_version: String,
    /// When it was last read back and found good.
    verified: Option<String>,
    /// Seconds since the backup was complete: changes since then are not in it.
    age_seconds: Option<i64>,
    /// The cluster's highest revision that is known.
    revision_known: Option<i64>,
    /// At most so many changes of the cluster are not in the backup.
    revisions_lost: Option<i64>,
    warnings: Vec<String>,
    /// What to apply.
    manifest: Value,
}

pub(super) async fn run(place: &Place, options: &Options, output: Format) -> anyhow::Result<()> {
    let target = Target::open(place).await?;
    let known = target.one(options.cluster.as_deref()).await?;
    let backups = target.backups(&known.name).await?;
    let backup = chosen(&backups, &known.name, options.backup.as_deref())?;
    let into = options
        .into
        .clone()
        .unwrap_or_else(|| format!("{}-restored", known.name));
    let plan = plan(&known, backup, &into, now())?;
    table::print(&plan, output, |_| text(&plan))
}

fn chosen<'a>(backups: &'a [EtcdBackup], cluster: &str, name: Option<&str>) -> anyhow::Result<&'a EtcdBackup> {
    if let Some(name) = name {
        return backups
            .iter()
            .find(|backup| backup.name_any() == name)
            .with_context(|| format!("--backup {name}: there is no such EtcdBackup of {cluster}"));
    }
    backups
        .iter()
        .filter(|backup| backup.status.as_ref().is_some_and(|status| status.verified.is_some()))
        .max_by_key(|backup| backup.status.as_ref().and_then(|status| status.artifact.as_ref().map(|a| a.revision)))
        .with_context(|| {
            format!("{cluster} has no verified backup; bootstrap.restore.source can name one that lies in a store all the same")
        })
}

fn plan(known: &Known, backup: &EtcdBackup, into: &str, now: i64) -> anyhow::Result<Plan> {
    let name = backup.name_any();
    let status = backup.status.clone().unwrap_or_default();
    let Some(artifact) = status.artifact else {
        bail!(
            "{name} stored nothing: {}",
            status.message.or(status.phase).unwrap_or_default()
        );
    };
    let completed = status.completed_at.as_deref().and_then(parse_rfc3339);
    let age = completed
        .and_then(|at| i64::try_from(at.0 / 1000).ok())
        .map(|at| now - at);
    let highest = known.status.revision_high_water.max(known.status.revision);
    let lost = highest.map(|highest| (highest - artifact.revision).max(0));
    let mut warnings = Vec::new();
    if status.verified.is_none() {
        warnings.push(format!(
            "{name} was never read back and compared: choose a verified one"
        ));
    }
    if known.status.phase.as_deref() == Some("Running") {
        warnings.push(format!(
            "{} serves: {into} would be a second cluster beside it, and clients keep using the first until they are told",
            known.name
        ));
    }
    let mut spec = match &known.object {
        Some(EtcdCluster { spec, .. }) => serde_json::to_value(spec)?,
        None => json!({ "replicas": known.status.replicas.max(1) }),
    };
    if let Some(spec) = spec.as_object_mut() {
        spec.remove("recovery");
    }
    spec["bootstrap"] = json!({ "restore": { "backupRef": { "name": name } } });
    let mut metadata = json!({ "name": into });
    if let Some(namespace) = known.object.as_ref().and_then(ResourceExt::namespace) {
        metadata["namespace"] = namespace.into();
    }
    Ok(Plan {
        manifest: json!({
            "apiVersion": "quorate.dev/v1alpha1", "kind": "EtcdCluster", "metadata": metadata, "spec": spec,
        }),
        artifact: artifact.uri,
        size_bytes: artifact.size_bytes,
        revision: artifact.revision,
        keys: artifact.keys,
        etcd_version: artifact.etcd_version,
        verified: status.verified.map(|verified| verified.time),
        age_seconds: age,
        revision_known: highest,
        revisions_lost: lost,
        warnings,
        backup: name,
    })
}

fn text(plan: &Plan) -> String {
    let mut text = String::new();
    let comment = |text: &mut String, line: String| {
        let _ = writeln!(text, "# {line}");
    };
    let size = bytes(u64::try_from(plan.size_bytes).unwrap_or(0));
    comment(
        &mut text,
        format!(
            "{}: revision {}, {} keys, {size}, by etcd {}",
            plan.backup, plan.revision, plan.keys, plan.etcd_version
        ),
    );
    comment(&mut text, format!("lies in {}", plan.artifact));
    comment(
        &mut text,
        match &plan.verified {
            Some(at) => format!("verified at {at}"),
            None => "not verified".to_owned(),
        },
    );
    match (plan.age_seconds, plan.revisions_lost) {
        (Some(age), Some(lost)) => comment(
            &mut text,
            format!(
                "not in it: what was written in the last {} min, at most {lost} revisions",
                age / 60
            ),
        ),
        _ => comment(&mut text, "how much was written after it is not known".to_owned()),
    }
    comment(
        &mut text,
        "revisions are raised above all that clients have seen, and history is marked compacted: watchers list anew"
            .to_owned(),
    );
    for warning in &plan.warnings {
        comment(&mut text, format!("careful: {warning}"));
    }
    comment(&mut text, "nothing was changed; to restore, apply this:".to_owned());
    text.push_str(&serde_yaml::to_string(&plan.manifest).unwrap_or_default());
    text
}
