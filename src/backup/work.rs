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
use super::seal;
use super::take::{Job, Taken};
use super::trial;
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
    /// What artifacts are encrypted with, where that is asked for.
    pub seal: Option<seal::Key>,
}

/// What a destination means depends on where it is opened.
#[derive(Debug, Clone, Copy)]
pub enum Ground<'a> {
    /// On this machine, for its owner: relative directories begin here, and any address may be reached.
    Machine(&'a Path),
    /// In a pod, for whoever may write an EtcdBackup: the volume of `destination.pvc` is mounted here, and addresses that
    /// mean the node itself are refused.
    Pod(&'a Path),
}

impl Place {
    /// Opens a destination as it is written in a manifest.
    ///
    /// # Errors
    /// A Secret or an entry of it that is missing, or a store that is not to be had here; the field is named.
    pub fn open(written: &parts::Store, secrets: &dyn Secrets, ground: Ground<'_>) -> Result<Place, store::Error> {
        let invalid = |field, reason: String| Err(store::Error::Invalid { field, reason });
        let seal = match &written.encryption_secret_ref {
            None => None,
            Some(named) => Some(sealing(&named.name, secrets)?),
        };
        if let Some(s3) = &written.s3 {
            let mut location = location(s3, secrets)?;
            location.refuse_node_addresses = matches!(ground, Ground::Pod(_));
            let destination = Destination::S3(location);
            let prefix = s3.prefix.as_deref().unwrap_or_default().trim_matches('/').to_owned();
            return Ok(Place {
                store: Store::open(&destination)?,
                prefix,
                key: s3.key.clone(),
                seal,
            });
        }
        let directory = match (ground, &written.directory, &written.pvc) {
            (Ground::Machine(base), Some(directory), _) => base.join(&directory.path),
            (Ground::Pod(volume), _, Some(pvc)) => match pvc.sub_path.as_deref() {
                None => volume.to_owned(),
                Some(path) if inside(path) => volume.join(path),
                Some(path) => {
                    let reason = format!("{path:?} is not a plain relative path; write one such as backups/main");
                    return invalid("destination.pvc.subPath", reason);
                }
            },
            (Ground::Machine(_), _, Some(_)) => {
                let reason = "a persistent volume claim needs Kubernetes: write s3 or directory here".into();
                return invalid("destination.pvc", reason);
            }
            (Ground::Pod(_), Some(_), _) => {
                let reason = "a directory of a machine is for `quorate local`: write s3 or pvc here".into();
                return invalid("destination.directory", reason);
            }
            (_, None, None) => return invalid("destination", "give one of s3, pvc and directory".into()),
        };
        Ok(Place {
            store: Store::open(&Destination::Directory(directory))?,
            prefix: String::new(),
            key: None,
            seal,
        })
    }

    /// The key of a backup's artifact.
    pub fn artifact(&self, cluster: &str, backup: &EtcdBackup, name: &str) -> String {
        let suffix = match backup.spec.compression {
            spec::Compression::Zstd => "db.zst",
            spec::Compression::None => "db",
        };
        let sealed = if self.seal.is_some() { ".sealed" } else { "" };
        match (&self.key, self.prefix.as_str()) {
            (Some(key), _) => key.clone(),
            (None, "") => format!("{cluster}/{name}.{suffix}{sealed}"),
            (None, prefix) => format!("{prefix}/{cluster}/{name}.{suffix}{sealed}"),
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

fn sealing(name: &str, secrets: &dyn Secrets) -> Result<seal::Key, store::Error> {
    let field = "destination.encryptionSecretRef";
    let invalid = |reason| store::Error::Invalid { field, reason };
    let entries = secrets.secret(name).ok_or_else(|| {
        invalid(format!(
            "there is no Secret {name:?}: create it, with the entry {}",
            seal::ENTRY
        ))
    })?;
    seal::Key::of_secret(&entries).map_err(|why| invalid(format!("Secret {name:?} {why}")))
}

/// Names one artifact in a store, as `spec.bootstrap.restore.source` does: by `s3.key`, or by the file in `pvc.subPath`.
pub fn name_artifact(store: &mut parts::Store, key: &str) {
    if let Some(s3) = &mut store.s3 {
        (s3.prefix, s3.key) = (None, Some(key.to_owned()));
    }
    if let Some(pvc) = &mut store.pvc {
        let below = pvc
            .sub_path
            .take()
            .map(|path| format!("{}/", path.trim_end_matches('/')));
        pvc.sub_path = Some(format!("{}{key}", below.unwrap_or_default()));
    }
}

/// The key of the artifact that a store names; what is left of the store is where that key is to be looked for.
pub fn take_artifact(store: &mut parts::Store) -> Option<String> {
    if let Some(s3) = &mut store.s3 {
        return s3.key.clone();
    }
    let pvc = store.pvc.as_mut()?;
    let path = pvc.sub_path.take()?;
    let (directory, file) = path.rsplit_once('/').unwrap_or(("", &path));
    pvc.sub_path = (!directory.is_empty()).then(|| directory.to_owned());
    Some(file.to_owned())
}

/// True for a path that leads to no place outside of where it begins.
fn inside(path: &str) -> bool {
    use std::path::Component;
    Path::new(path)
        .components()
        .all(|part| matches!(part, Component::Normal(_) | Component::CurDir))
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
        sse: s3.sse.clone(),
        refuse_node_addresses: false,
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
    /// The server that restored ones are opened with.
    pub server: trial::Server,
}

/// How a try at a backup ended.
#[derive(Debug, Clone, PartialEq)]
pub struct Ended {
    /// What its object's status is to say.
    pub status: EtcdBackupStatus,
    /// It failed of something that may pass: another try is worth it.
    pub may_pass: bool,
}

/// Takes the backup that an object asks for. `publish` gets every state that the status goes through.
pub async fn run(
    object: &EtcdBackup,
    name: &str,
    source: Source,
    place: &Place,
    workshop: Workshop,
    publish: &(dyn Fn(&EtcdBackupStatus) + Sync),
) -> Ended {
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
            return Ended {
                status,
                may_pass: false,
            };
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
        seal: place.seal.clone(),
        verify: match object.spec.verify {
            spec::Verify::Hash => Some(Verification::Hash),
            spec::Verify::Restore => Some(Verification::Restore),
            spec::Verify::None => None,
        },
        timeout,
        spool: workshop.spool,
        etcdutl: workshop.etcdutl,
        server: workshop.server,
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
    let mut may_pass = true;
    for member in source.ordered(object.spec.source) {
        match job.take(&member, &place.store, &progress).await {
            Ok(taken) => {
                completed(&mut status, taken);
                publish(&status);
                return Ended {
                    status,
                    may_pass: false,
                };
            }
            Err(error) => {
                failure = error.to_string();
                may_pass = error.may_pass();
                // Another member helps only when the member was the trouble.
                if !matches!(error, Error::Member(_) | Error::Stream { .. }) {
                    break;
                }
            }
        }
    }
    failed(&mut status, &failure);
    publish(&status);
    Ended { status, may_pass }
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
        store: [
            Some(("key".to_owned(), manifest.artifact.clone())),
            Some(("manifest".to_owned(), format!("{}{SUFFIX}", manifest.artifact))),
            manifest
                .encryption
                .as_ref()
                .map(|e| ("encryptionKeyID".to_owned(), e.key_id.clone())),
        ]
        .into_iter()
        .flatten()
        .collect(),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_artifact_is_named_in_a_store_and_found_there_again() {
        for (written, key) in [
            ("s3: {bucket: abc, prefix: p}", "p/db/one.db"),
            ("pvc: {claimName: c, subPath: etcd/}", "db/one.db"),
            ("pvc: {claimName: c}", "one.db"),
        ] {
            let mut store: parts::Store = serde_yaml::from_str(written).unwrap();
            name_artifact(&mut store, key);
            let found = take_artifact(&mut store).unwrap();
            let directory = store.pvc.and_then(|pvc| pvc.sub_path);
            match written.starts_with("s3") {
                true => assert_eq!(found, key),
                false => assert_eq!((found.as_str(), directory.is_some()), ("one.db", key != "one.db")),
            }
        }
    }
}
