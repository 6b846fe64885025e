//! `kubectl quorate backup`: makes an `EtcdBackup` and follows it.
//!
//! Invariant: the new object is like one of the cluster's policy, but nobody's child: the policy's retention leaves it alone.

use super::follow::Patience;
use super::table::{self, bytes};
use super::target::Target;
use super::{Format, Place};
use crate::api::etcd_backup::EtcdBackupStatus;
use crate::api::{EtcdBackup, convert};
use crate::plan::Timestamp;
use crate::platform::local::backups;
use crate::platform::local::records::Layout;
use anyhow::{Context, bail};
use clap::Args;
use kube::api::{ObjectMeta, PostParams};
use kube::{Api, ResourceExt};
use serde::Serialize;
use std::time::Duration;
use tokio::time::Instant;

/// What to back up.
#[derive(Debug, Clone, Args)]
pub struct Options {
    /// The cluster; may be left out when there is one only.
    pub cluster: Option<String>,
    /// The EtcdBackup whose destination, compression, encryption and verification it takes; the cluster's only policy when absent.
    #[arg(long)]
    pub like: Option<String>,
    /// Name of the new EtcdBackup; the policy's with the time when absent.
    #[arg(long)]
    pub name: Option<String>,
    /// How long to follow it.
    #[command(flatten)]
    pub patience: Patience,
}

#[derive(Debug, Serialize)]
struct Outcome {
    name: String,
    status: EtcdBackupStatus,
}

pub(super) async fn run(place: &Place, options: &Options, output: Format) -> anyhow::Result<()> {
    let target = Target::open(place).await?;
    let known = target.one(options.cluster.as_deref()).await?;
    let existing = target.backups(&known.name).await?;
    let model = model(&existing, &known.name, options.like.as_deref())?;
    let now = jiff::Timestamp::now();
    let name = match &options.name {
        Some(name) => name.clone(),
        None => format!("{}-{}", model.name_any(), now.strftime("%Y%m%d%H%M%S")),
    };
    let moment = Timestamp(u64::try_from(now.as_millisecond()).unwrap_or(0));
    let mut object = convert::child(model, &name, moment);
    object.metadata = ObjectMeta {
        name: Some(name.clone()),
        namespace: object.metadata.namespace,
        ..ObjectMeta::default()
    };
    create(&target, &known.name, object).await?;
    eprintln!("{name}: asked for");
    let status = match options.patience.no_wait {
        true => EtcdBackupStatus::default(),
        false => followed(&target, &known.name, &name, &options.patience).await?,
    };
    let failed = status.phase.as_deref() == Some("Failed");
    let outcome = Outcome { name, status };
    table::print(&outcome, output, |_| text(&outcome))?;
    if failed {
        bail!(
            "{}: {}",
            outcome.name,
            outcome.status.message.as_deref().unwrap_or("the backup failed")
        );
    }
    Ok(())
}

fn model<'a>(existing: &'a [EtcdBackup], cluster: &str, like: Option<&str>) -> anyhow::Result<&'a EtcdBackup> {
    if let Some(name) = like {
        return existing
            .iter()
            .find(|backup| backup.name_any() == name)
            .with_context(|| format!("--like {name}: there is no such EtcdBackup of {cluster}"));
    }
    let policies: Vec<&EtcdBackup> = existing
        .iter()
        .filter(|backup| backup.spec.schedule.is_some())
        .collect();
    match policies.as_slice() {
        [policy] => Ok(policy),
        [] => bail!(
            "{cluster} has no EtcdBackup with a schedule to take the destination from: give --like, or apply one of \
             config/samples/backup-*.yaml"
        ),
        several => {
            let names: Vec<String> = several.iter().map(|policy| policy.name_any()).collect();
            bail!(
                "{cluster} has several policies, give --like with one of: {}",
                names.join(", ")
            )
        }
    }
}

async fn create(target: &Target, cluster: &str, object: EtcdBackup) -> anyhow::Result<()> {
    let name = object.name_any();
    match target {
        Target::Kubernetes { client, namespace, .. } => {
            let api: Api<EtcdBackup> = Api::namespaced(client.clone(), namespace);
            let params = PostParams {
                field_manager: Some("kubectl-quorate".to_owned()),
                ..PostParams::default()
            };
            api.create(&params, &object)
                .await
                .with_context(|| format!("creating EtcdBackup {name}"))?;
        }
        Target::Directory(directory) => {
            if !backups::create(&Layout::new(directory, cluster), object)? {
                bail!("there is an EtcdBackup {name} already: give another --name");
            }
        }
        Target::Endpoints { .. } => bail!("at --endpoints there is no operator that could take it"),
    }
    Ok(())
}

async fn followed(target: &Target, cluster: &str, name: &str, patience: &Patience) -> anyhow::Result<EtcdBackupStatus> {
    let end = Instant::now() + Duration::from_secs(patience.timeout);
    let mut told = String::new();
    loop {
        let all = target.backups(cluster).await?;
        let object = all.iter().find(|backup| backup.name_any() == name);
        let status = object
            .context("the EtcdBackup was deleted meanwhile")?
            .status
            .clone()
            .unwrap_or_default();
        let phase = status.phase.clone().unwrap_or_else(|| "Pending".to_owned());
        let line = match &status.message {
            Some(message) => format!("{phase}: {message}"),
            None => phase.clone(),
        };
        if line != told {
            eprintln!("{name}: {line}");
            told = line;
        }
        if matches!(phase.as_str(), "Completed" | "Failed") {
            return Ok(status);
        }
        if Instant::now() > end {
            bail!("{name} is not done within {} s; the operator goes on", patience.timeout);
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

fn text(outcome: &Outcome) -> String {
    let status = &outcome.status;
    let Some(artifact) = &status.artifact else {
        return format!("{}: {}\n", outcome.name, status.phase.as_deref().unwrap_or("asked for"));
    };
    let verified = match &status.verified {
        Some(verified) => format!(
            "verified at {} (hash {}, {} keys)",
            verified.time, verified.hash, verified.keys
        ),
        None => "not verified".to_owned(),
    };
    format!(
        "{}: revision {}, {} in {}, {verified}\n",
        outcome.name,
        artifact.revision,
        bytes(u64::try_from(artifact.size_bytes).unwrap_or(0)),
        artifact.uri
    )
}
