//! Work on the volume of a member that does not run, by pods with this program: read the end of its log, copy it aside,
//! make it the only member, begin from a backup. What is done inside them is in [`super::volume`].
//!
//! Invariants:
//! 1. One pod a volume at a time: its name is a function of the member and the work, so an operator that comes back goes
//!    on with the pod that is there.
//! 2. What a pod learned is written on the volume before the pod is deleted.

use super::names::Names;
use super::record::{Kept, Note};
use super::{Cluster, Failure, apply, observe};
use crate::api::parts::Store;
use crate::backup::in_pod;
use crate::backup::work::name_artifact;
use crate::clock;
use crate::plan::Wanted;
use crate::plan::step::Create;
use crate::plan::wanted::BackupSource;
use crate::platform::Platform;
use crate::platform::local::records::LogRecord;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use kube::ResourceExt;
use kube::api::Api;
use std::time::Duration;

/// To read a log takes seconds, also on a slow disk; scheduling and attaching the volume come on top.
const READ: Duration = Duration::from_secs(300);
/// To copy, to restore: as long as a large database on a slow disk takes.
const LONG: Duration = Duration::from_secs(3600);

impl Cluster {
    /// Reads the end of a stopped member's log.
    pub(super) async fn inspect(
        &mut self,
        wanted: &Wanted,
        name: &str,
        kept: &Kept,
        claim: &PersistentVolumeClaim,
    ) -> Result<(), Failure> {
        let said = self.work(wanted, name, "inspect", Vec::new(), None, READ).await?;
        let log: LogRecord = serde_json::from_str(&said).map_err(|error| {
            Failure::Other(format!(
                "the pod that reads the log of {name} gave no answer ({error}): {said}"
            ))
        })?;
        self.learned(name, kept, claim, |note| note.log = Some(log)).await
    }

    /// Copies a stopped member's data aside, on its own volume.
    pub(super) async fn copy_aside(
        &mut self,
        wanted: &Wanted,
        name: &str,
        kept: &Kept,
        claim: &PersistentVolumeClaim,
    ) -> Result<(), Failure> {
        let at = self.now();
        self.work(wanted, name, "copy", Vec::new(), None, LONG).await?;
        self.learned(name, kept, claim, |note| note.copied = Some(at.0)).await
    }

    /// Makes a stopped member the only one of a cluster that begins again with all that its log holds.
    pub(super) async fn recover(
        &mut self,
        wanted: &Wanted,
        name: &str,
        kept: &Kept,
        claim: &PersistentVolumeClaim,
        above_revision: i64,
        hash: &str,
    ) -> Result<(), Failure> {
        if kept.note.recovered.as_deref() == Some(hash) {
            return Ok(());
        }
        if kept.note.copied.is_none() {
            return Err(Failure::Other(format!("the data of {name} was not copied aside yet")));
        }
        let names = self.names(wanted);
        let peer_url = self.render(wanted, &names).peer_url(name);
        let arguments = vec![
            format!("--name={name}"),
            format!("--peer-url={peer_url}"),
            format!("--token={}-{hash}", wanted.uid),
            format!("--above-revision={above_revision}"),
            format!("--mark={hash}"),
        ];
        self.work(wanted, name, "recover", arguments, None, LONG).await?;
        // It has another identity now; the next answer tells which.
        let hash = hash.to_owned();
        self.learned(name, kept, claim, |note| {
            (note.member_id, note.cluster_id) = (None, None);
            note.touch();
            note.recovered = Some(hash);
        })
        .await
    }

    /// Makes a new member's data from a backup.
    pub(super) async fn restore(
        &mut self,
        wanted: &Wanted,
        name: &str,
        kept: &Kept,
        claim: &PersistentVolumeClaim,
        create: &Create,
    ) -> Result<(), Failure> {
        let Create::Restored {
            backup,
            token,
            above_revision,
            revision_bump,
            skip_hash_check,
        } = create
        else {
            return Ok(());
        };
        let names = self.names(wanted);
        let location = self.location(backup)?;
        let mut arguments = vec![
            format!("--name={name}"),
            format!("--peer-url={}", self.render(wanted, &names).peer_url(name)),
            format!("--token={token}"),
            format!("--location={}", serde_json::to_string(&location).unwrap_or_default()),
        ];
        arguments.extend(above_revision.map(|revision| format!("--above-revision={revision}")));
        arguments.extend(revision_bump.map(|bump| format!("--revision-bump={bump}")));
        if *skip_hash_check {
            arguments.push("--skip-hash-check".to_owned());
        }
        self.work(wanted, name, "restore", arguments, Some(&location), LONG)
            .await?;
        self.learned(name, kept, claim, |note| (note.started, note.wrote) = (true, true))
            .await
    }

    /// Where a backup lies: the store with the key of the artifact in it.
    fn location(&self, backup: &BackupSource) -> Result<Store, Failure> {
        match backup {
            BackupSource::Location(text) => serde_json::from_str(text)
                .map_err(|error| Failure::Other(format!("spec.bootstrap.restore.source cannot be read: {error}"))),
            BackupSource::Backup(name) => {
                let object = self
                    .backups
                    .iter()
                    .find(|object| object.name_any() == *name)
                    .ok_or_else(|| {
                        Failure::Other(format!(
                            "there is no EtcdBackup {name} in this namespace; name one that is completed"
                        ))
                    })?;
                let key = in_pod::key_of(object).ok_or_else(|| {
                    Failure::Other(format!(
                        "EtcdBackup {name} is not completed: nothing to restore; when its status is lost, name the place in \
                         bootstrap.restore.source.s3 with a prefix"
                    ))
                })?;
                let mut location = object.spec.destination.clone();
                name_artifact(&mut location, &key);
                Ok(location)
            }
        }
    }

    /// Writes on the volume what was learned, and remembers it.
    async fn learned(
        &mut self,
        name: &str,
        kept: &Kept,
        claim: &PersistentVolumeClaim,
        change: impl FnOnce(&mut Note),
    ) -> Result<(), Failure> {
        let mut note = kept.note.clone();
        change(&mut note);
        self.write_note(claim, &note).await?;
        self.keep(name, kept, note);
        Ok(())
    }

    /// Runs a pod to its end; what it said last.
    async fn work(
        &mut self,
        wanted: &Wanted,
        member: &str,
        work: &str,
        arguments: Vec<String>,
        store: Option<&Store>,
        patience: Duration,
    ) -> Result<String, Failure> {
        let names = self.names(wanted);
        let mut all = vec!["volume".to_owned(), work.to_owned()];
        all.extend(arguments);
        let pod = self.render(wanted, &names).work_pod(member, work, all, store);
        let name = Names::work_pod(member, work);
        let pods: Api<Pod> = self.api();
        match pods.get_opt(&name).await? {
            Some(live) => {
                apply::must_be_ours(&live, &wanted.uid)?;
                let arguments = |pod: &Pod| pod.spec.as_ref().and_then(|spec| spec.containers.first()?.args.clone());
                if arguments(&live) != arguments(&pod) {
                    apply::delete(&pods, &live, None).await?;
                    return Err(Failure::Other(format!(
                        "pod {name} did other work and is being deleted"
                    )));
                }
            }
            None => {
                pods.create(&apply::post(), &pod).await?;
            }
        }
        let end = clock::now() + patience;
        let ended = loop {
            let live = pods.get(&name).await?;
            let status = live.status.clone().unwrap_or_default();
            let container = status
                .container_statuses
                .as_ref()
                .and_then(|statuses| statuses.first().cloned());
            let said = container
                .and_then(|container| container.state?.terminated?.message)
                .unwrap_or_default();
            match status.phase.as_deref() {
                Some("Succeeded") => break Ok((live, said)),
                Some("Failed") => break Err((live, said)),
                _ => {}
            }
            if clock::now() > end {
                let why = observe::why_pending(&live, "work");
                // It is left: the next attempt goes on with it.
                return Err(Failure::Other(format!(
                    "pod {name} has not ended after {} s: {why}",
                    patience.as_secs()
                )));
            }
            clock::sleep(Duration::from_millis(500)).await;
        };
        let (live, said, good) = match ended {
            Ok((live, said)) => (live, said, true),
            Err((live, said)) => (live, said, false),
        };
        apply::delete(&pods, &live, Some(0)).await?;
        match good {
            true => Ok(said.trim().to_owned()),
            false => Err(Failure::Other(format!("pod {name} failed: {}", said.trim()))),
        }
    }
}
