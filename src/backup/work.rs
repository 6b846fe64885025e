//! From an `EtcdBackup` to a stored, proven artifact, and what its status says on the way.
//!
//! Invariants:
//! - The status tells a phase only once it has been reached, and a failure with its field and remedy.
//! - A backup is read from the member that `spec.source` prefers, and from the next best one when that fails to give it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use jiff::Timestamp;

use super::manifest::SUFFIX;
use super::s3::Location;
use super::take::{Job, Taken};
use super::{Compression, Destination, Error, Etcdutl, Manifest, Progress, Store, Verification, fetch, store};
use crate::api::EtcdBackup;
use crate::api::etcd_backup::{self as spec, Artifact, EtcdBackupStatus, Verified};
use crate::api::parts;
use crate::api::status::Condition;
use crate::member::Member;

/// Where the Secrets that a destination names are found.
pub trait Secrets: Sync {
    /// The entries of a Secret of the object's namespace; `None` when there is no such Secret.
    fn secret(&self, name: &str) -> Option<BTreeMap<String, Vec<u8>>>;
}

/// An opened destination, and where in it.
#[derive(Debug, Clone)]
pub struct Place {
    /// The store.
    pub store: Store,
    /// What goes before names; no slash at its ends.
    pub prefix: String,
    /// The one key, where the manifest names it.
    pub key: Option<String>,
}

impl Place {
    /// Opens a destination as it is written in a manifest. `base` is what relative directories are relative to.
    ///
    /// # Errors
    /// A Secret or an entry of it that is missing, or a store that this platform does not have; the field is named.
    pub fn open(written: &parts::Store, secrets: &dyn Secrets, base: &Path) -> Result<Place, store::Error> {
        let invalid = |field, reason: String| Err(store::Error::Invalid { field, reason });
        if let Some(s3) = &written.s3 {
            let destination = Destination::S3(location(s3, secrets)?);
            let prefix = s3.prefix.as_deref().unwrap_or_default().trim_matches('/').to_owned();
            return Ok(Place {
                store: Store::open(&destination)?,
                prefix,
                key: s3.key.clone(),
            });
        }
        if let Some(directory) = &written.directory {
            let destination = Destination::Directory(base.join(&directory.path));
            return Ok(Place {
                store: Store::open(&destination)?,
                prefix: String::new(),
                key: None,
            });
        }
        if written.pvc.is_some() {
            let reason = "a persistent volume claim needs Kubernetes: write s3 or directory here".into();
            return invalid("destination.pvc", reason);
        }
        invalid("destination", "give one of s3 and directory".into())
    }

    /// The key of a backup's artifact.
    pub fn artifact(&self, cluster: &str, backup: &EtcdBackup, name: &str) -> String {
        let suffix = match backup.spec.compression {
            spec::Compression::Zstd => "db.zst",
            spec::Compression::None => "db",
        };
        match (&self.key, self.prefix.as_str()) {
            (Some(key), _) => key.clone(),
            (None, "") => format!("{cluster}/{name}.{suffix}"),
            (None, prefix) => format!("{prefix}/{cluster}/{name}.{suffix}"),
        }
    }
}

/// What is looked for in a place when no status tells where a backup lies.
#[derive(Debug, Clone, Copy, Default)]
pub struct Sought<'a> {
    /// Backups of the cluster with this name; of any when absent.
    pub cluster: Option<&'a str>,
    /// ... and with this id, in hexadecimal.
    pub cluster_id: Option<&'a str>,
    /// The backup with this name, or those of the policy with this name; any when absent.
    pub backup: Option<&'a str>,
}

impl Sought<'_> {
    fn fits(&self, manifest: &Manifest) -> bool {
        let named = |name: &str| {
            let rest = manifest.backup.strip_prefix(name);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
        };
        self.cluster.is_none_or(|name| manifest.cluster == name)
            && self.cluster_id.is_none_or(|id| manifest.cluster_id == id)
            && self.backup.is_none_or(named)
    }
}

impl Place {
    /// The newest verified backup here, by the manifests alone.
    ///
    /// # Errors
    /// The store cannot be listed or read.
    pub async fn newest(&self, sought: &Sought<'_>) -> Result<Option<Manifest>, Error> {
        let prefix = match (&self.key, self.prefix.as_str()) {
            (Some(key), _) => key.clone(),
            (None, "") => String::new(),
            (None, prefix) => format!("{prefix}/"),
        };
        fetch::newest(&self.store, &prefix, |manifest| sought.fits(manifest)).await
    }
}

fn location(s3: &parts::S3, secrets: &dyn Secrets) -> Result<Location, store::Error> {
    let entry = |field: &'static str, secret: &str, key: &str| {
        let entries = secrets.secret(secret).ok_or_else(|| store::Error::Invalid {
            field,
            reason: format!("there is no Secret {secret:?}: create it, with the entry {key}"),
        })?;
        let value = entries.get(key).ok_or_else(|| store::Error::Invalid {
            field,
            reason: format!("Secret {secret:?} has no entry {key}: add it"),
        })?;
        String::from_utf8(value.clone())
            .map(|text| text.trim_end().to_owned())
            .map_err(|_| store::Error::Invalid {
                field,
                reason: format!("entry {key} of Secret {secret:?} is not text"),
            })
    };
    let field = "destination.s3.credentialsSecretRef";
    let Some(credentials) = &s3.credentials_secret_ref else {
        let reason = "name a Secret with accessKeyID and secretAccessKey: there is no identity of a pod here".into();
        return Err(store::Error::Invalid { field, reason });
    };
    let ca = s3.ca_secret_ref.as_ref();
    let ca_pem = ca
        .map(|ca| entry("destination.s3.caSecretRef", &ca.name, "ca.crt"))
        .transpose()?;
    Ok(Location {
        endpoint: s3.endpoint.clone(),
        bucket: s3.bucket.clone(),
        region: s3.region.clone().unwrap_or_else(|| "us-east-1".into()),
        force_path_style: s3.force_path_style,
        allow_http: s3.allow_http,
        ca_pem,
        access_key: entry(field, &credentials.name, "accessKeyID")?,
        secret_key: entry(field, &credentials.name, "secretAccessKey")?,
        session_token: entry(field, &credentials.name, "sessionToken").ok(),
    })
}

/// The cluster that is backed up.
pub struct Source {
    /// Its name.
    pub cluster: String,
    /// The id that its members state.
    pub cluster_id: u64,
    /// Members to read from, and whether they lead.
    pub members: Vec<(Member, bool)>,
}

impl Source {
    /// The members in the order in which they are tried.
    fn ordered(self, preference: spec::Source) -> Vec<Member> {
        let mut members = self.members;
        // Stable: within a group the caller's order stays.
        members.sort_by_key(|(_, leads)| match preference {
            spec::Source::Follower => *leads,
            spec::Source::Leader => !*leads,
            spec::Source::Any => false,
        });
        members.into_iter().map(|(member, _)| member).collect()
    }
}

/// Where a backup works on this machine.
#[derive(Debug, Clone)]
pub struct Workshop {
    /// A directory for spool files.
    pub spool: PathBuf,
    /// The tool that opens snapshots.
    pub etcdutl: Etcdutl,
}

/// Takes the backup that an object asks for. `publish` gets every state that the status goes through; the last one is returned.
pub async fn run(
    object: &EtcdBackup,
    name: &str,
    source: Source,
    place: &Place,
    workshop: Workshop,
    publish: &(dyn Fn(&EtcdBackupStatus) + Sync),
) -> EtcdBackupStatus {
    let mut status = EtcdBackupStatus {
        phase: Some("Running".into()),
        started_at: Some(Timestamp::now().to_string()),
        ..EtcdBackupStatus::default()
    };
    publish(&status);
    let timeout = match object.spec.timeout.get() {
        Ok(timeout) => timeout,
        Err(error) => {
            failed(&mut status, &format!("spec.timeout: {error}"));
            publish(&status);
            return status;
        }
    };
    let job = Job {
        name: name.into(),
        cluster: source.cluster.clone(),
        cluster_id: source.cluster_id,
        key: place.artifact(&source.cluster, object, name),
        compression: match object.spec.compression {
            spec::Compression::Zstd => Compression::Zstd,
            spec::Compression::None => Compression::None,
        },
        verify: match object.spec.verify {
            spec::Verify::Hash => Some(Verification::Hash),
            spec::Verify::Restore => Some(Verification::Restore),
            spec::Verify::None => None,
        },
        timeout,
        spool: workshop.spool,
        etcdutl: workshop.etcdutl,
    };
    let verifying = EtcdBackupStatus {
        phase: Some("Verifying".into()),
        ..status.clone()
    };
    let told = AtomicBool::new(false);
    let progress = |progress: Progress| {
        if progress.step == "verifying" && !told.swap(true, Ordering::Relaxed) {
            publish(&verifying);
        }
    };
    let mut failure = String::from("no member of the cluster can be reached");
    for member in source.ordered(object.spec.source) {
        match job.take(&member, &place.store, &progress).await {
            Ok(taken) => {
                completed(&mut status, taken);
                publish(&status);
                return status;
            }
            Err(error) => {
                failure = error.to_string();
                // Another member helps only when the member was the trouble.
                if !matches!(error, Error::Member(_) | Error::Stream { .. }) {
                    break;
                }
            }
        }
    }
    failed(&mut status, &failure);
    publish(&status);
    status
}

/// Makes a status say that the backup failed, and why.
pub fn failed(status: &mut EtcdBackupStatus, why: &str) {
    let now = Timestamp::now().to_string();
    status.phase = Some("Failed".into());
    status.completed_at = Some(now.clone());
    status.failures += 1;
    status.message = Some(why.into());
    status.conditions = vec![condition("Ready", false, "Failed", why, &now)];
}

fn completed(status: &mut EtcdBackupStatus, taken: Taken) {
    let now = Timestamp::now().to_string();
    status.phase = Some("Completed".into());
    status.completed_at = Some(now.clone());
    status.message = None;
    let stored = format!("stored as {}", taken.uri);
    status.conditions = vec![condition("Ready", true, "Stored", &stored, &now)];
    if let Some(time) = taken.verified {
        let text = format!(
            "hash {:08x} at revision {}",
            taken.manifest.hash, taken.manifest.revision
        );
        status
            .conditions
            .push(condition("Verified", true, "HashMatches", &text, &now));
        status.verified = Some(Verified {
            time: time.to_string(),
            hash: format!("{:08x}", taken.manifest.hash),
            revision: taken.manifest.revision,
            keys: signed(taken.manifest.keys),
        });
    }
    status.artifact = Some(artifact(&taken.manifest, taken.uri));
}

fn artifact(manifest: &Manifest, uri: String) -> Artifact {
    Artifact {
        uri,
        size_bytes: signed(manifest.artifact_bytes),
        checksum: format!("sha256:{}", manifest.artifact_sha256),
        revision: manifest.revision,
        raft_term: signed(manifest.raft_term),
        cluster_id: manifest.cluster_id.clone(),
        etcd_version: manifest.etcd_version.clone(),
        keys: signed(manifest.keys),
        compression: match manifest.compression {
            Compression::None => "none".into(),
            Compression::Zstd => "zstd".into(),
        },
        store: BTreeMap::from([
            ("key".into(), manifest.artifact.clone()),
            ("manifest".into(), format!("{}{SUFFIX}", manifest.artifact)),
        ]),
    }
}

/// JSON of the Kubernetes API has signed numbers.
fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn condition(kind: &str, status: bool, reason: &str, message: &str, now: &str) -> Condition {
    Condition {
        kind: kind.into(),
        status: if status { "True" } else { "False" }.into(),
        reason: reason.into(),
        message: message.into(),
        last_transition_time: now.into(),
        observed_generation: None,
    }
}
