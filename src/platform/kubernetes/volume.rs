//! What runs inside a pod that has the volume of a stopped member: `quorate volume ...`. Knows no Kubernetes: a directory
//! with `data` in it, and this program.
//!
//! ```text
//! ROOT/data               the member's data directory
//!      copies/<ms>        its data as it was before a recovery changed it
//!      data.after         being made; ROOT/data.after.mark says for what, once it is complete
//!      data.before        what data was, while the one replaces the other
//!      recovered          the mark of the recovery that data is the result of
//! ```
//! Invariants:
//! 1. Whatever is interrupted can be done again: a directory is complete before it is renamed into place.
//! 2. Data that is there is changed by a recovery alone, and only after it was copied.
//! 3. Revisions never go back: a key space that begins again is raised above all that was ever seen, and history is
//!    marked compacted, so that watchers are told instead of misled.

use crate::api::parts::Store as Written;
use crate::backup::work::{Ground, Place, Sought, take_artifact};
use crate::backup::{Etcdutl, fetch, in_pod};
use crate::member::Connections;
use crate::platform::ask::says;
use crate::platform::local::files;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::process::{Child, Command};

/// How far a key space is raised above the highest revision that was seen: what clients may have been told since the
/// last look, with room to spare. Revisions are 63 bits wide, so it costs nothing.
const ROOM: i64 = 1_000_000;
/// A survivor alone serves within this time.
const ALONE: Duration = Duration::from_secs(300);
/// It closes its files within this time.
const STOP: Duration = Duration::from_secs(30);

/// What to do with a volume.
#[derive(Debug, Clone, clap::Subcommand)]
pub enum Work {
    /// Read the end of the log of a member that does not run.
    Inspect,
    /// Copy its data aside.
    Copy,
    /// Make it the only member of a cluster, with all that its log holds.
    Recover {
        /// Its name.
        #[arg(long)]
        name: String,
        /// Where its peers reach it.
        #[arg(long)]
        peer_url: String,
        /// Token of the cluster that begins again.
        #[arg(long)]
        token: String,
        /// The revision that the key space must exceed.
        #[arg(long)]
        above_revision: i64,
        /// Names this recovery: it is done once.
        #[arg(long)]
        mark: String,
    },
    /// Begin from a backup.
    Restore {
        /// The member's name.
        #[arg(long)]
        name: String,
        /// Where its peers reach it.
        #[arg(long)]
        peer_url: String,
        /// Token of the cluster that begins.
        #[arg(long)]
        token: String,
        /// Where the backup lies, as in `spec.bootstrap.restore.source`, in JSON.
        #[arg(long)]
        location: String,
        /// The revision that the key space must exceed.
        #[arg(long)]
        above_revision: Option<i64>,
        /// How far revisions are raised, when the owner says so.
        #[arg(long)]
        revision_bump: Option<u64>,
        /// The file has no hash at its end.
        #[arg(long)]
        skip_hash_check: bool,
    },
}

/// Why work on a volume was not done.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file.
    #[error(transparent)]
    File(#[from] files::Error),
    /// The backup.
    #[error(transparent)]
    Backup(#[from] crate::backup::Error),
    /// Where the backup lies.
    #[error(transparent)]
    Store(#[from] crate::backup::store::Error),
    /// Something else, in words.
    #[error("{0}")]
    Other(String),
}

/// Does `work` on the volume at `root` with the program `exe` (this one); what it found out, for the operator.
pub async fn run(work: &Work, root: &Path, exe: &Path) -> Result<String, Error> {
    let volume = Volume {
        root: root.to_owned(),
        exe: exe.to_owned(),
    };
    match work {
        Work::Inspect => {
            volume
                .etcdutl(&[
                    "inspect".to_owned(),
                    text(&volume.data()),
                    "--write-out=json".to_owned(),
                ])
                .await
        }
        Work::Copy => volume.copy().map(|to| text(&to)),
        Work::Recover {
            name,
            peer_url,
            token,
            above_revision,
            mark,
        } => {
            let order = Order { name, peer_url, token };
            volume
                .recover(&order, *above_revision, mark)
                .await
                .map(|()| mark.clone())
        }
        Work::Restore {
            name,
            peer_url,
            token,
            location,
            above_revision,
            revision_bump,
            skip_hash_check,
        } => {
            let order = Order { name, peer_url, token };
            volume
                .restore(&order, location, *above_revision, *revision_bump, *skip_hash_check)
                .await
        }
    }
}

/// Who the member is to be.
struct Order<'a> {
    name: &'a str,
    peer_url: &'a str,
    token: &'a str,
}

struct Volume {
    root: PathBuf,
    exe: PathBuf,
}

impl Volume {
    fn file(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    fn data(&self) -> PathBuf {
        self.file("data")
    }

    /// Copies the data aside; an older copy goes once the new one is complete.
    fn copy(&self) -> Result<PathBuf, Error> {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let copies = self.file("copies");
        let (partial, to) = (copies.join(".partial"), copies.join(since.as_millis().to_string()));
        files::remove(&partial)?;
        files::make_directory(&copies)?;
        files::copy_tree(&self.data(), &partial)?;
        std::fs::rename(&partial, &to).map_err(files::failed("move into place", &to))?;
        let entries = std::fs::read_dir(&copies).map_err(files::failed("list", &copies))?;
        for entry in entries.flatten().filter(|entry| entry.path() != to) {
            files::remove(&entry.path())?;
        }
        Ok(to)
    }

    /// First the server itself commits what the log holds, where no client can reach it; then the database becomes a
    /// cluster with a new id, so that a former member that comes back is refused by it.
    async fn recover(&self, order: &Order<'_>, above_revision: i64, mark: &str) -> Result<(), Error> {
        let (data, before, after) = (self.data(), self.file("data.before"), self.file("data.after"));
        let (made, done) = (self.file("data.after.mark"), self.file("recovered"));
        let says =
            |file: &Path| -> Result<bool, Error> { Ok(files::read(file)?.is_some_and(|text| text == mark.as_bytes())) };
        if says(&done)? {
            return Ok(());
        }
        let complete = says(&made)?;
        if !complete || (!after.exists() && !data.exists()) {
            if !data.exists() && before.exists() {
                rename(&before, &data)?;
            }
            files::remove(&made)?;
            files::remove(&after)?;
            self.commit_alone(order.name, order.peer_url).await?;
            let database = data.join("member").join("snap").join("db");
            let bump = above_revision.saturating_sub(self.revision_of(&database).await?).max(0) + ROOM;
            self.to_data_directory(&database, &after, order, Some(bump), true)
                .await?;
            files::write(&made, mark.as_bytes())?;
        }
        if after.exists() {
            if data.exists() {
                files::remove(&before)?;
                rename(&data, &before)?;
            }
            rename(&after, &data)?;
        }
        files::write(&done, mark.as_bytes())?;
        files::remove(&made)?;
        // What it was before is among the copies.
        files::remove(&before)?;
        Ok(())
    }

    /// Runs the member alone, on ports that nobody knows, until it has committed its log; then stops it.
    async fn commit_alone(&self, name: &str, peer_url: &str) -> Result<(), Error> {
        let client = "http://127.0.0.1:12379";
        let mut child = Command::new(&self.exe)
            .arg("server")
            .arg(format!("--name={name}"))
            .arg(format!("--data-dir={}", self.data().display()))
            .arg(format!("--listen-client-urls={client}"))
            .arg(format!("--advertise-client-urls={client}"))
            .arg("--listen-peer-urls=http://127.0.0.1:12380")
            .arg(format!("--initial-advertise-peer-urls={peer_url}"))
            .arg(format!("--initial-cluster={name}={peer_url}"))
            .arg("--initial-cluster-state=existing")
            .arg("--force-new-cluster=true")
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .map_err(files::failed("run", &self.exe))?;
        let served = self.serves(&mut child, client).await;
        stop(&mut child).await;
        served
    }

    async fn serves(&self, child: &mut Child, client: &str) -> Result<(), Error> {
        let connections = Connections::new();
        let end = tokio::time::Instant::now() + ALONE;
        loop {
            let answer = match connections.member(client).await {
                Ok(member) => member.linearizable().await,
                Err(error) => Err(error),
            };
            match answer {
                Ok(()) => return Ok(()),
                // It read what a quorum of one confirms, and then asked who wants to know.
                Err(error) if says(&error, "user name is empty") || says(&error, "permission denied") => return Ok(()),
                Err(error) => {
                    if let Ok(Some(status)) = child.try_wait() {
                        return Err(Error::Other(format!(
                            "the survivor alone ended ({status}); its log is above"
                        )));
                    }
                    if tokio::time::Instant::now() > end {
                        return Err(Error::Other(format!("the survivor does not serve alone: {error}")));
                    }
                    connections.forget(client);
                    tokio::time::sleep(Duration::from_millis(200)).await;
                }
            }
        }
    }

    async fn restore(
        &self,
        order: &Order<'_>,
        location: &str,
        above_revision: Option<i64>,
        revision_bump: Option<u64>,
        skip_hash_check: bool,
    ) -> Result<String, Error> {
        if self.data().exists() {
            return Ok("there already".to_owned());
        }
        let mut written: Written = serde_json::from_str(location)
            .map_err(|error| Error::Other(format!("--location cannot be read: {error}")))?;
        let named = take_artifact(&mut written);
        let secrets = in_pod::Mounted(in_pod::SECRETS.into());
        let place = Place::open(&written, &secrets, Ground::Pod(Path::new(in_pod::VOLUME)))?;
        let key = match named {
            Some(key) => key,
            None => match place.newest(&Sought::default()).await? {
                Some(manifest) => manifest.artifact,
                None => {
                    let below = place.store.uri(&place.prefix);
                    return Err(Error::Other(format!(
                        "no manifest of a verified backup lies below {below}"
                    )));
                }
            },
        };
        let file = self.file("snapshot.db");
        files::remove(&file)?;
        let tool = Etcdutl {
            program: self.exe.clone().into_os_string(),
            leading: vec!["etcdutl".into()],
        };
        let manifest = fetch::fetch(&place.store, &key, place.seal.as_ref(), &file, &tool, &|_| {}).await?;
        let revision = self.revision_of(&file).await?;
        let bump = match (revision_bump, above_revision) {
            (Some(bump), _) => i64::try_from(bump).unwrap_or(i64::MAX),
            (None, above) => above.unwrap_or(0).saturating_sub(revision).max(0) + ROOM,
        };
        let after = self.file("data.after");
        files::remove(&after)?;
        self.to_data_directory(
            &file,
            &after,
            order,
            Some(bump).filter(|bump| *bump > 0),
            skip_hash_check,
        )
        .await?;
        rename(&after, &self.data())?;
        files::remove(&file)?;
        Ok(format!(
            "restored revision {} of {}",
            manifest.revision, manifest.artifact
        ))
    }

    /// `etcdutl snapshot restore`: a data directory of a cluster with this one member.
    async fn to_data_directory(
        &self,
        database: &Path,
        into: &Path,
        order: &Order<'_>,
        bump: Option<i64>,
        skip_hash_check: bool,
    ) -> Result<(), Error> {
        let mut arguments = vec![
            "snapshot".to_owned(),
            "restore".to_owned(),
            text(database),
            format!("--data-dir={}", into.display()),
            format!("--name={}", order.name),
            format!("--initial-cluster={}={}", order.name, order.peer_url),
            format!("--initial-advertise-peer-urls={}", order.peer_url),
            format!("--initial-cluster-token={}", order.token),
        ];
        if let Some(bump) = bump {
            arguments.push(format!("--bump-revision={bump}"));
            arguments.push("--mark-compacted=true".to_owned());
        }
        if skip_hash_check {
            arguments.push("--skip-hash-check=true".to_owned());
        }
        self.etcdutl(&arguments).await.map(drop)
    }

    async fn revision_of(&self, database: &Path) -> Result<i64, Error> {
        let arguments = ["snapshot", "status", &text(database), "--write-out=json"].map(str::to_owned);
        let said = self.etcdutl(&arguments).await?;
        let json: serde_json::Value = serde_json::from_str(&said).unwrap_or_default();
        json["revision"]
            .as_i64()
            .ok_or_else(|| Error::Other(format!("etcdutl snapshot status printed no revision: {said}")))
    }

    async fn etcdutl(&self, arguments: &[String]) -> Result<String, Error> {
        let output = Command::new(&self.exe)
            .arg("etcdutl")
            .args(arguments)
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output()
            .await
            .map_err(files::failed("run", &self.exe))?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        let end: Vec<&str> = said.lines().rev().take(3).collect();
        let end: Vec<&str> = end.into_iter().rev().collect();
        Err(Error::Other(format!(
            "etcdutl {} failed: {}",
            arguments[0],
            end.join(" | ")
        )))
    }
}

async fn stop(child: &mut Child) {
    if let Some(id) = child.id().and_then(|id| i32::try_from(id).ok()) {
        // It may have ended a moment ago.
        let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(id), nix::sys::signal::Signal::SIGTERM);
    }
    if tokio::time::timeout(STOP, child.wait()).await.is_err() {
        let _ = child.kill().await;
    }
}

fn rename(from: &Path, to: &Path) -> Result<(), Error> {
    std::fs::rename(from, to).map_err(files::failed("move into place", to))?;
    let directory = to.parent().unwrap_or(Path::new("/"));
    std::fs::File::open(directory)
        .and_then(|directory| directory.sync_all())
        .map_err(files::failed("sync", directory))?;
    Ok(())
}

fn text(path: &Path) -> String {
    path.display().to_string()
}
