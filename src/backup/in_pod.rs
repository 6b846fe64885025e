//! `quorate backup` and `quorate restore`: what runs in a pod of the user's namespace, with what is mounted there.
//!
//! Invariants:
//! 1. The pod asks no API server: what it needs is in its arguments and mounts, and what it has to say is in its
//!    termination message. It needs no permission at all.
//! 2. Credentials are read from mounted files, and from nowhere else.
//! 3. The termination message always fits, and is written however the work ends, short of a kill.

use super::work::{self, Ended, Ground, Place, Secrets, Source, Workshop};
use super::{Etcdutl, Progress, fetch, trial};
use crate::api::EtcdBackup;
use crate::api::etcd_backup::EtcdBackupStatus;
use crate::api::parts::Store as Written;
use crate::certificates::Pair;
use crate::member::{Access, Connections, Member};
use anyhow::{Context, bail};
use clap::Args;
use kube::ResourceExt;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Where Secrets are mounted, each in a directory of its name.
pub const SECRETS: &str = "/run/quorate/secrets";
/// Where the client certificate for the members is mounted.
pub const TLS: &str = "/run/quorate/tls";
/// Where the volume of `destination.pvc` is mounted.
pub const VOLUME: &str = "/run/quorate/volume";
/// Where spool files go.
pub const SPOOL: &str = "/spool";
/// Where Kubernetes reads the termination message.
pub const RESULT: &str = "/dev/termination-log";
/// Kubernetes keeps this much of a termination message.
const RESULT_BYTES_MAX: usize = 4096;
/// A text in it may have this much.
const TEXT_BYTES_MAX: usize = 1200;

/// What is mounted.
#[derive(Debug, Clone, Args)]
pub struct Mounts {
    /// Directory with a directory of files for every Secret.
    #[arg(long, default_value = SECRETS)]
    pub secrets: PathBuf,
    /// The volume of destination.pvc.
    #[arg(long, default_value = VOLUME)]
    pub volume: PathBuf,
    /// Directory for spool files, with room for the database.
    #[arg(long, default_value = SPOOL)]
    pub spool: PathBuf,
}

/// `quorate backup`.
#[derive(Debug, Clone, Args)]
pub struct Take {
    /// The EtcdBackup object, as JSON.
    #[arg(long, env = "QUORATE_BACKUP")]
    pub object: String,
    /// Name of the cluster, for the key and the manifest.
    #[arg(long)]
    pub cluster: String,
    /// Client URLs of the members.
    #[arg(long, value_delimiter = ',')]
    pub endpoints: Vec<String>,
    /// The cluster id that members must state, in hexadecimal.
    #[arg(long)]
    pub cluster_id: Option<String>,
    /// Directory with ca.crt, tls.crt and tls.key for https endpoints.
    #[arg(long, default_value = TLS)]
    pub tls: PathBuf,
    /// Remove what the object's status says is stored, instead of taking a backup.
    #[arg(long)]
    pub remove: bool,
    /// Where the result is written.
    #[arg(long, default_value = RESULT)]
    pub result: PathBuf,
    /// What is mounted.
    #[command(flatten)]
    pub mounts: Mounts,
}

/// `quorate restore`: brings a stored backup back as a snapshot file, proven against its manifest.
#[derive(Debug, Clone, Args)]
pub struct Restore {
    /// Where the backup lies, as JSON: an EtcdBackup's spec.destination, or spec.bootstrap.restore.source.
    #[arg(long)]
    pub source: String,
    /// Key of the artifact.
    #[arg(long)]
    pub key: String,
    /// The snapshot file to write.
    #[arg(long)]
    pub into: PathBuf,
    /// What is mounted.
    #[command(flatten)]
    pub mounts: Mounts,
}

/// What the pod reports.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Outcome {
    /// What the object's status is to say.
    pub status: EtcdBackupStatus,
    /// It failed of something that may pass.
    #[serde(default)]
    pub may_pass: bool,
}

impl Outcome {
    /// As text that fits into a termination message.
    pub fn text(&self) -> String {
        let mut short = self.clone();
        short.status.message = short.status.message.map(|text| cut(&text, TEXT_BYTES_MAX));
        for condition in &mut short.status.conditions {
            condition.message = cut(&condition.message, TEXT_BYTES_MAX);
        }
        let text = serde_json::to_string(&short).unwrap_or_default();
        if text.len() <= RESULT_BYTES_MAX {
            return text;
        }
        // A key of the longest kind, in several places: what can be told again from the rest is left out.
        short.status.conditions.clear();
        serde_json::to_string(&short).unwrap_or_default()
    }

    /// Reads what a pod reported.
    pub fn parse(text: &str) -> Option<Outcome> {
        serde_json::from_str(text.trim()).ok()
    }
}

/// Cuts a text at a character's border.
fn cut(text: &str, bytes_max: usize) -> String {
    if text.len() <= bytes_max {
        return text.to_owned();
    }
    let mut end = bytes_max - 3;
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}...", &text[..end])
}

/// Secrets that are mounted as files.
#[derive(Debug, Clone)]
pub struct Mounted(pub PathBuf);

impl Secrets for Mounted {
    fn secret(&self, name: &str) -> Option<BTreeMap<String, Vec<u8>>> {
        // A name of an object has no slash; what has one is none.
        if name.contains('/') || name.starts_with('.') {
            return None;
        }
        let entries = std::fs::read_dir(self.0.join(name)).ok()?;
        let files = entries.flatten().filter(|entry| entry.path().is_file());
        Some(
            files
                .filter_map(|entry| {
                    let key = entry.file_name().into_string().ok()?;
                    Some((key, std::fs::read(entry.path()).ok()?))
                })
                .collect(),
        )
    }
}

/// Takes (or removes) a backup and reports; an error only when not even that could be done, or when it failed.
pub async fn take(options: &Take, etcdutl: Etcdutl, server: trial::Server) -> anyhow::Result<()> {
    let object: EtcdBackup = serde_json::from_str(&options.object).context("--object is no EtcdBackup")?;
    let outcome = if options.remove {
        remove(options, &object).await
    } else {
        backup(options, &object, etcdutl, server).await
    };
    let text = outcome.text();
    std::fs::write(&options.result, &text).with_context(|| format!("cannot write {}", options.result.display()))?;
    match outcome.status.phase.as_deref() {
        Some("Failed") => bail!("{}", outcome.status.message.unwrap_or_default()),
        _ => Ok(()),
    }
}

/// What is reported when it did not even begin.
fn refused(why: &str, may_pass: bool) -> Outcome {
    let mut status = EtcdBackupStatus::default();
    work::failed(&mut status, why);
    Outcome { status, may_pass }
}

async fn backup(options: &Take, object: &EtcdBackup, etcdutl: Etcdutl, server: trial::Server) -> Outcome {
    let mounts = &options.mounts;
    let place = match open(&object.spec.destination, mounts) {
        Ok(place) => place,
        Err(why) => return refused(&format!("spec.{why}"), false),
    };
    let source = match source(options).await {
        Ok(source) => source,
        Err(why) => return refused(&why, true),
    };
    let workshop = Workshop {
        spool: mounts.spool.clone(),
        etcdutl,
        server,
    };
    let name = object.name_any();
    let publish = |status: &EtcdBackupStatus| {
        tracing::info!(phase = status.phase, message = status.message, "backup {name}");
    };
    let Ended { status, may_pass } = work::run(object, &name, source, &place, workshop, &publish).await;
    Outcome { status, may_pass }
}

fn open(written: &Written, mounts: &Mounts) -> Result<Place, super::store::Error> {
    Place::open(written, &Mounted(mounts.secrets.clone()), Ground::Pod(&mounts.volume))
}

/// Asks every member who it is.
async fn source(options: &Take) -> Result<Source, String> {
    let connections = Connections::new();
    if options.endpoints.iter().any(|url| url.starts_with("https://")) {
        connections.trust(Some(access(&options.tls)?));
    }
    let expected = options
        .cluster_id
        .as_deref()
        .map(|text| u64::from_str_radix(text, 16).map_err(|_| format!("--cluster-id {text:?} is not hexadecimal")))
        .transpose()?;
    let (mut members, mut cluster_id, mut troubles): (Vec<(Member, bool)>, Option<u64>, Vec<String>) =
        Default::default();
    for url in &options.endpoints {
        let asked = async {
            let member = connections.member(url).await?;
            let status = member.status().await?;
            Ok::<_, crate::member::Error>((member, status))
        };
        match asked.await {
            Ok((_, status)) if expected.or(cluster_id).is_some_and(|id| id != status.cluster_id) => {
                troubles.push(format!("{url} belongs to another cluster, {:x}", status.cluster_id));
            }
            // What a learner holds may be anything between nothing and all.
            Ok((_, status)) if status.is_learner => {}
            Ok((member, status)) => {
                cluster_id = Some(status.cluster_id);
                members.push((member, status.leader == status.member_id));
            }
            Err(error) => troubles.push(error.to_string()),
        }
    }
    match cluster_id {
        Some(cluster_id) => Ok(Source {
            cluster: options.cluster.clone(),
            cluster_id,
            members,
        }),
        None => Err(format!(
            "no member can be asked for a snapshot: {}",
            troubles.join("; ")
        )),
    }
}

fn access(directory: &Path) -> Result<Access, String> {
    let read = |name: &str| {
        let path = directory.join(name);
        std::fs::read_to_string(&path).map_err(|error| {
            format!(
                "cannot read {}: {error}; the Secret with the client certificate needs ca.crt, tls.crt and tls.key",
                path.display()
            )
        })
    };
    Ok(Access {
        authorities: read("ca.crt")?,
        identity: Pair {
            certificate: read("tls.crt")?,
            key: read("tls.key")?,
        },
    })
}

/// Removes the stored object of a backup; one that is gone counts as removed.
async fn remove(options: &Take, object: &EtcdBackup) -> Outcome {
    let Some(key) = key_of(object) else {
        return Outcome::default();
    };
    let place = match open(&object.spec.destination, &options.mounts) {
        Ok(place) => place,
        Err(why) => return refused(&format!("spec.{why}"), false),
    };
    let limit = Duration::from_secs(120);
    match tokio::time::timeout(limit, fetch::delete(&place.store, &key)).await {
        Ok(Ok(())) => Outcome::default(),
        Ok(Err(error)) => refused(&error.to_string(), error.may_pass()),
        Err(_) => refused(&format!("the store did not answer within {limit:?}"), true),
    }
}

/// The key under which a completed backup lies.
pub fn key_of(object: &EtcdBackup) -> Option<String> {
    object.status.as_ref()?.artifact.as_ref()?.store.get("key").cloned()
}

/// Brings a backup back as a snapshot file; nothing is left of one that differs from its manifest.
pub async fn restore(options: &Restore, etcdutl: &Etcdutl) -> anyhow::Result<()> {
    let source: Written = serde_json::from_str(&options.source).context("--source is no destination of a backup")?;
    let place = open(&source, &options.mounts)?;
    let progress = |progress: Progress| tracing::debug!(step = progress.step, bytes = progress.bytes, "restore");
    let manifest = fetch::fetch(
        &place.store,
        &options.key,
        place.seal.as_ref(),
        &options.into,
        etcdutl,
        &progress,
    )
    .await?;
    tracing::info!(
        backup = manifest.backup,
        cluster = manifest.cluster,
        revision = manifest.revision,
        "the snapshot is {} and is what its manifest says",
        options.into.display()
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_report_fits_however_long_the_reason() {
        let outcome = refused(&"ü\"".repeat(5000), true);
        let text = outcome.text();
        assert!(text.len() <= RESULT_BYTES_MAX, "{}", text.len());
        let read = Outcome::parse(&text).unwrap();
        assert_eq!(read.status.phase.as_deref(), Some("Failed"));
        assert!(read.may_pass && read.status.message.unwrap().ends_with("..."));
        assert_eq!(Outcome::parse("Killed"), None);
    }

    #[test]
    fn secrets_are_files_in_a_directory_of_their_name() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("s3")).unwrap();
        std::fs::write(dir.path().join("s3/accessKeyID"), "abc").unwrap();
        let mounted = Mounted(dir.path().join("s3"));
        assert!(mounted.secret("..").is_none() && mounted.secret("../s3").is_none());
        let mounted = Mounted(dir.path().to_owned());
        assert_eq!(mounted.secret("s3").unwrap()["accessKeyID"], b"abc");
        assert!(mounted.secret("absent").is_none());
    }
}
