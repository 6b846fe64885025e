//! Work on the data of a member that does not run: read the end of its log, copy it aside, make it the only member,
//! and begin from a backup.
//!
//! Invariants:
//! 1. Nothing here changes data that was not copied aside in its present state, except where the copy is its source.
//! 2. A directory that is made new is complete before it is renamed into place.
//! 3. Revisions never go back: a key space that begins again is raised above all that was ever seen, and history is
//!    marked compacted, so that watchers are told instead of misled.

use super::presence;
use super::process::Program;
use super::records::{LogRecord, Refusal};
use super::{LocalCluster, arguments, files, now, ports::Ports};
use crate::plan::Wanted;
use crate::plan::step::Start;
use crate::plan::wanted::BackupSource;
use crate::platform::Error;
use serde::Deserialize;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

/// How far a key space is raised above the highest revision that was seen: what clients may have been told since the
/// last look, with room to spare. Revisions are 63 bits wide, so it costs nothing.
const ROOM: i64 = 1_000_000;
/// A survivor alone serves within this time.
const ALONE: Duration = Duration::from_secs(60);

/// How a backup becomes a data directory.
pub(super) struct Restore<'a> {
    pub token: &'a str,
    pub above_revision: Option<i64>,
    pub revision_bump: Option<u64>,
    pub skip_hash_check: bool,
    pub peer_url: &'a str,
}

/// What `etcdutl snapshot status -w json` tells.
#[derive(Deserialize)]
struct SnapshotStatus {
    revision: i64,
}

/// What `etcdutl inspect --identity` tells.
#[derive(Deserialize)]
struct Identity {
    member_id: String,
    cluster_id: String,
}

impl LocalCluster {
    /// Reads the end of a stopped member's log.
    pub(super) async fn inspect(&mut self, _wanted: &Wanted, name: &str) -> Result<(), Error> {
        let data = self.layout.of(name, "data");
        let log = json::<LogRecord>(&self.programs.inspector, &["inspect".into(), path(&data)]).await?;
        let mut volume = self.record.volumes[name].clone();
        volume.log = Some(log);
        self.record
            .put_volume(&self.layout, name, volume)
            .map_err(Error::platform)
    }

    /// Refuses to start on data that is not this member's: a directory that was swapped would serve another cluster's
    /// content under this one's address.
    pub(super) async fn must_be_own(&mut self, name: &str) -> Result<(), Error> {
        let mut volume = self.record.volumes[name].clone();
        let (Some(member), Some(cluster)) = (volume.member_id.clone(), volume.cluster_id.clone()) else {
            return Ok(());
        };
        let data = self.layout.of(name, "data");
        let arguments = ["inspect".to_owned(), "--identity".to_owned(), path(&data)];
        // A log that cannot be read is for the server to judge: it repairs what can be repaired, and says what not.
        let Ok(found) = json::<Identity>(&self.programs.inspector, &arguments).await else {
            return Ok(());
        };
        if (&found.member_id, &found.cluster_id) == (&member, &cluster) {
            return Ok(());
        }
        let what = format!("member {} of cluster {}", found.member_id, found.cluster_id);
        let why = format!(
            "{} holds the data of {what}, and {name} is member {member} of cluster {cluster}: put its own data back",
            data.display()
        );
        volume.refused = Some(Refusal::Foreign(what));
        volume.refused_print = presence::print(&self.layout, name);
        self.record
            .put_volume(&self.layout, name, volume)
            .map_err(Error::platform)?;
        Err(Error::Refused {
            step: format!("start {name}"),
            why,
        })
    }

    /// Copies a stopped member's data to `copies/<name>-<milliseconds>`.
    pub(super) async fn copy_aside(&mut self, name: &str) -> Result<(), Error> {
        let at = now();
        let (from, copies) = (self.layout.of(name, "data"), self.layout.copies());
        let to = copies.join(format!("{name}-{}", at.0));
        let partial = copies.join(format!(".{name}.partial"));
        let copied = tokio::task::spawn_blocking(move || {
            files::remove(&partial)?;
            files::copy_tree(&from, &partial)?;
            std::fs::rename(&partial, &to).map_err(files::failed("move into place", &to))
        });
        copied.await.map_err(Error::platform)?.map_err(Error::platform)?;
        let mut volume = self.record.volumes[name].clone();
        volume.copied = Some(at.0);
        self.record
            .put_volume(&self.layout, name, volume)
            .map_err(Error::platform)
    }

    /// Makes a stopped member the only one of a cluster that begins again with all that its log holds.
    ///
    /// First the server itself commits what the log holds (`--force-new-cluster`), where no client can reach it; then
    /// the database becomes a cluster with a new id, so that a former member that comes back is refused by it.
    pub(super) async fn recover(
        &mut self,
        wanted: &Wanted,
        name: &str,
        above_revision: i64,
        hash: &str,
    ) -> Result<(), Error> {
        let mut volume = self.record.volumes[name].clone();
        if volume.recovered.as_deref() == Some(hash) {
            return Ok(());
        }
        let data = self.layout.of(name, "data");
        let (before, after) = (self.layout.of(name, "data.before"), self.layout.of(name, "data.after"));
        // An operator that died between the two renames below left the old data beside its place.
        if !data.exists() && before.exists() {
            std::fs::rename(&before, &data)
                .map_err(files::failed("move back", &data))
                .map_err(Error::platform)?;
        }
        if volume.copied.is_none() {
            return Err(Error::platform(format!("the data of {name} was not copied aside yet")));
        }
        self.commit_alone(wanted, name).await?;

        files::remove(&after).map_err(Error::platform)?;
        let database = data.join("member").join("snap").join("db");
        let token = format!("{}-{hash}", self.record.uid);
        let bump = above_revision.saturating_sub(self.revision_of(&database).await?).max(0) + ROOM;
        let peer_url = arguments::peer_url(wanted, &volume.ports);
        self.to_data_directory(&database, &after, name, &peer_url, &token, Some(bump), true)
            .await?;

        files::remove(&before).map_err(Error::platform)?;
        std::fs::rename(&data, &before)
            .map_err(files::failed("set aside", &data))
            .map_err(Error::platform)?;
        std::fs::rename(&after, &data)
            .map_err(files::failed("move into place", &data))
            .map_err(Error::platform)?;
        // It has another identity now; the next answer tells which.
        (volume.member_id, volume.cluster_id) = (None, None);
        volume.touch();
        volume.recovered = Some(hash.to_owned());
        self.record
            .put_volume(&self.layout, name, volume)
            .map_err(Error::platform)?;
        // What it was before is among the copies.
        files::remove(&before).map_err(Error::platform)
    }

    /// Runs the member alone, on ports that nobody knows, until it has committed its log; then stops it.
    async fn commit_alone(&mut self, wanted: &Wanted, name: &str) -> Result<(), Error> {
        let ports = Ports::find(self.layout.root(), &self.taken_ports()).map_err(Error::platform)?;
        let mut all = arguments::arguments(wanted, &self.layout, name, &ports, &Start::Resume);
        all.push("--force-new-cluster=true".to_owned());
        let process = self.spawn(name, &all)?;
        let url = arguments::client_url(wanted, &ports);
        let end = tokio::time::Instant::now() + ALONE;
        let served = loop {
            let answer = match self.connections.member(&url).await {
                Ok(member) => member.linearizable().await,
                Err(error) => Err(error),
            };
            match answer {
                Ok(()) => break Ok(()),
                Err(_) if !process.alive() => break Err("it ended".to_owned()),
                Err(error) if tokio::time::Instant::now() > end => break Err(error.to_string()),
                Err(_) => {
                    self.connections.forget(&url);
                    tokio::time::sleep(Duration::from_millis(200)).await;
                }
            }
        };
        process.stop(super::steps::STOP_GRACE).await;
        self.processes.remove(name);
        self.connections.forget(&url);
        served.map_err(|why| {
            let words = super::process::last_words(&self.layout.of(name, "log"), 3).join(" | ");
            Error::platform(format!("{name} does not serve alone: {why}; last words: {words}"))
        })
    }

    /// Fetches a backup and makes `<stage>/data` from it.
    pub(super) async fn restore(
        &mut self,
        name: &str,
        backup: &BackupSource,
        order: &Restore<'_>,
        stage: &Path,
    ) -> Result<(), Error> {
        let file = stage.join("snapshot.db");
        self.fetch_backup(backup, &file).await?;
        let revision = self.revision_of(&file).await?;
        let bump = match (order.revision_bump, order.above_revision) {
            (Some(bump), _) => i64::try_from(bump).unwrap_or(i64::MAX),
            (None, above) => above.unwrap_or(0).saturating_sub(revision).max(0) + ROOM,
        };
        let data = stage.join("data");
        self.to_data_directory(
            &file,
            &data,
            name,
            order.peer_url,
            order.token,
            Some(bump).filter(|bump| *bump > 0),
            order.skip_hash_check,
        )
        .await?;
        files::remove(&file).map_err(Error::platform)
    }

    /// `etcdutl snapshot restore`: a data directory of a cluster with this one member.
    #[allow(clippy::too_many_arguments)]
    async fn to_data_directory(
        &self,
        database: &Path,
        into: &Path,
        name: &str,
        peer_url: &str,
        token: &str,
        bump: Option<i64>,
        skip_hash_check: bool,
    ) -> Result<(), Error> {
        let mut arguments = vec![
            "snapshot".to_owned(),
            "restore".to_owned(),
            path(database),
            format!("--data-dir={}", into.display()),
            format!("--name={name}"),
            format!("--initial-cluster={name}={peer_url}"),
            format!("--initial-advertise-peer-urls={peer_url}"),
            format!("--initial-cluster-token={token}"),
        ];
        if let Some(bump) = bump {
            arguments.push(format!("--bump-revision={bump}"));
            arguments.push("--mark-compacted=true".to_owned());
        }
        if skip_hash_check {
            arguments.push("--skip-hash-check=true".to_owned());
        }
        run(&self.programs.etcdutl, &arguments).await.map(drop)
    }

    async fn revision_of(&self, database: &Path) -> Result<i64, Error> {
        let arguments = ["snapshot".to_owned(), "status".to_owned(), path(database)];
        Ok(json::<SnapshotStatus>(&self.programs.etcdutl, &arguments)
            .await?
            .revision)
    }
}

fn path(path: &Path) -> String {
    path.display().to_string()
}

async fn json<T: for<'a> Deserialize<'a>>(tool: &Program, arguments: &[String]) -> Result<T, Error> {
    let mut all = arguments.to_vec();
    all.push("--write-out=json".to_owned());
    let output = run(tool, &all).await?;
    serde_json::from_slice(&output).map_err(|error| {
        let said = String::from_utf8_lossy(&output);
        Error::platform(format!(
            "{} {} printed no answer ({error}): {said}",
            PathBuf::from(&tool.path).display(),
            arguments[0]
        ))
    })
}

async fn run(tool: &Program, arguments: &[String]) -> Result<Vec<u8>, Error> {
    let output = tokio::process::Command::new(&tool.path)
        .args(&tool.first)
        .args(arguments)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .map_err(files::failed("run", &tool.path))
        .map_err(Error::platform)?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let end: Vec<&str> = said.lines().rev().take(3).collect();
    let end: Vec<&str> = end.into_iter().rev().collect();
    let what: Vec<&str> = arguments.iter().take(3).map(String::as_str).collect();
    Err(Error::platform(format!(
        "etcdutl {} failed: {}",
        what.join(" "),
        end.join(" | ")
    )))
}
