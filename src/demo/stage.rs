//! Where the demo plays: a directory, a manifest that is edited, an operator that follows it.
//!
//! Invariant: what is shown comes from files that any user can read: status.yaml and events.log.

use crate::api::EtcdBackup;
use crate::api::status::EtcdClusterStatus;
use crate::member::{Access, Connections};
use crate::object_store::ObjectStore;
use crate::platform::local::process::{self, Process};
use crate::platform::local::records::Layout;
use crate::platform::local::{Programs, arguments, backups, up};
use anyhow::{Context, bail, ensure};
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Name of the cluster that everything happens to.
const CLUSTER: &str = "demo";
/// Name of the cluster that the backup becomes.
const RESTORED: &str = "demo-restored";
const BACKUP: &str = "demo-backup";
const BUCKET: &str = "etcd-backups";

/// What a backup holds, as its status says.
pub struct Backup {
    pub uri: String,
    pub revision: i64,
    pub hash: String,
}

/// Holds all that must be taken down at the end.
pub struct Stage {
    directory: PathBuf,
    /// What the manifest says.
    pub replicas: u32,
    store: Option<ObjectStore>,
    restored: bool,
    stop: watch::Sender<bool>,
    options: up::Options,
    operator: Option<JoinHandle<Result<(), up::Error>>>,
    begun: Instant,
    claims: usize,
    /// How much of each cluster's events was shown.
    shown: [usize; 2],
}

/// All wanted members vote and are healthy, and nothing is left to do.
pub fn ready(members: i32) -> impl Fn(&EtcdClusterStatus) -> bool {
    move |status| {
        status.ready_replicas == members
            && status.replicas == members
            && status.members.len() == usize::try_from(members).unwrap_or(0)
            && status.plan.as_ref().is_some_and(|plan| plan.next_action == "Settled")
    }
}

/// The process of a member, if it runs.
pub fn process_in(layout: &Layout, member: &str) -> Option<Process> {
    process::find(&layout.of(member, "pid"), &arguments::marker(layout, member))
}

impl Stage {
    pub async fn open(directory: &Path, exe: &Path) -> anyhow::Result<Stage> {
        ensure!(
            !directory.exists(),
            "{} exists: choose another --dir, or remove it",
            directory.display()
        );
        std::fs::create_dir_all(directory).with_context(|| format!("cannot make {}", directory.display()))?;
        let directory = std::fs::canonicalize(directory)?;
        let (stop, _) = watch::channel(false);
        let options = up::Options {
            file: directory.join("demo.yaml"),
            directory: directory.join("clusters"),
            programs: Programs::of(exe),
            verbose: false,
        };
        Ok(Stage {
            directory,
            replicas: 3,
            store: None,
            restored: false,
            stop,
            options,
            operator: None,
            begun: Instant::now(),
            claims: 0,
            shown: [0, 0],
        })
    }

    pub fn layout(&self) -> Layout {
        Layout::new(&self.options.directory, CLUSTER)
    }

    pub fn restored_layout(&self) -> Layout {
        Layout::new(&self.options.directory, RESTORED)
    }

    pub fn process(&self, member: &str) -> Option<Process> {
        process_in(&self.layout(), member)
    }

    pub fn act(&self, title: &str) {
        println!("\n[{:>5.1} s] {title}", self.begun.elapsed().as_secs_f64());
        let _ = std::io::stdout().flush();
    }

    pub fn claim(&mut self, what: String) {
        self.claims += 1;
        println!("  held: {what}");
    }

    pub fn claims(&self) -> usize {
        self.claims
    }

    /// Writes the manifest as it is to be now; the operator begins with the first one and follows the others.
    pub fn write_manifest(&mut self) -> anyhow::Result<()> {
        let mut text = format!(
            "apiVersion: quorate.dev/v1alpha1\nkind: EtcdCluster\nmetadata:\n  name: {CLUSTER}\nspec:\n  replicas: {}\n",
            self.replicas
        );
        if let Some(store) = &self.store {
            let location = store.location(BUCKET);
            let ca = location.ca_pem.clone().unwrap_or_default().replace('\n', "\n    ");
            write!(
                text,
                "---\napiVersion: v1\nkind: Secret\nmetadata:\n  name: s3\nstringData:\n  accessKeyID: {}\n  \
                 secretAccessKey: {}\n  ca.crt: |\n    {ca}\n---\napiVersion: quorate.dev/v1alpha1\nkind: EtcdBackup\n\
                 metadata:\n  name: {BACKUP}\nspec:\n  clusterRef:\n    name: {CLUSTER}\n  destination:\n    s3:\n      \
                 endpoint: {}\n      bucket: {BUCKET}\n      forcePathStyle: true\n      credentialsSecretRef:\n        \
                 name: s3\n      caSecretRef:\n        name: s3\n",
                location.access_key,
                location.secret_key,
                store.endpoint(),
            )?;
        }
        if self.restored {
            write!(
                text,
                "---\napiVersion: quorate.dev/v1alpha1\nkind: EtcdCluster\nmetadata:\n  name: {RESTORED}\nspec:\n  \
                 replicas: 3\n  bootstrap:\n    restore:\n      backupRef:\n        name: {BACKUP}\n",
            )?;
        }
        let temporary = self.directory.join("demo.yaml.new");
        std::fs::write(&temporary, text)?;
        std::fs::rename(&temporary, &self.options.file)?;
        if self.operator.is_none() {
            let (options, stop) = (self.options.clone(), self.stop.subscribe());
            self.operator = Some(tokio::spawn(async move { up::up(&options, stop).await }));
        }
        Ok(())
    }

    /// From now on the manifest has a backup, into a store that begins now.
    pub async fn with_backup(&mut self) -> anyhow::Result<()> {
        let root = self.directory.join("s3");
        std::fs::create_dir_all(root.join(BUCKET))?;
        self.store = Some(ObjectStore::start(&root).await.context("cannot start the S3 store")?);
        Ok(())
    }

    /// From now on the manifest has the cluster that is restored.
    pub fn with_restored(&mut self) {
        self.restored = true;
    }

    pub fn status(&self) -> anyhow::Result<EtcdClusterStatus> {
        read_status(&self.layout()).context("no status.yaml yet")
    }

    /// A member that does not lead.
    pub fn follower(&self) -> anyhow::Result<String> {
        let status = self.status()?;
        let follower = status.members.into_iter().find(|member| !member.leader);
        Ok(follower.context("no follower in status")?.name)
    }

    pub async fn wait(
        &mut self,
        what: &str,
        most: Duration,
        done: impl Fn(&EtcdClusterStatus) -> bool,
    ) -> anyhow::Result<()> {
        self.wait_in(self.layout(), 0, what, most, done).await
    }

    pub async fn wait_other(
        &mut self,
        what: &str,
        most: Duration,
        done: impl Fn(&EtcdClusterStatus) -> bool,
    ) -> anyhow::Result<()> {
        self.wait_in(self.restored_layout(), 1, what, most, done).await
    }

    async fn wait_in(
        &mut self,
        layout: Layout,
        shown: usize,
        what: &str,
        most: Duration,
        done: impl Fn(&EtcdClusterStatus) -> bool,
    ) -> anyhow::Result<()> {
        let end = Instant::now() + most;
        // What status.yaml says when the wait begins may be older than what is waited for.
        tokio::time::sleep(Duration::from_millis(700)).await;
        loop {
            self.show_events(&layout, shown);
            if read_status(&layout).is_some_and(|status| done(&status)) {
                self.show_events(&layout, shown);
                return Ok(());
            }
            self.operator_runs().await?;
            if Instant::now() > end {
                let plan = read_status(&layout).and_then(|status| status.plan);
                let next = plan.map(|plan| plan.next_action).unwrap_or_default();
                bail!(
                    "waited {} s for {what}; the operator's next action is: {next}",
                    most.as_secs()
                );
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    async fn operator_runs(&mut self) -> anyhow::Result<()> {
        if let Some(operator) = self.operator.take_if(|operator| operator.is_finished()) {
            operator.await?.context("the operator ended")?;
            bail!("the operator ended");
        }
        Ok(())
    }

    fn show_events(&mut self, layout: &Layout, which: usize) {
        let text = std::fs::read_to_string(layout.file("events.log")).unwrap_or_default();
        for line in text.lines().skip(self.shown[which]) {
            self.shown[which] += 1;
            // Without the date and the cluster's name; a long reason is cut.
            let line: String = line.splitn(3, ' ').nth(2).unwrap_or(line).chars().take(140).collect();
            println!("    {line}");
        }
    }

    pub async fn wait_for_backup(&mut self, most: Duration) -> anyhow::Result<Backup> {
        let end = Instant::now() + most;
        loop {
            self.show_events(&self.layout(), 0);
            let objects: Vec<EtcdBackup> = backups::objects(&self.layout())?;
            let status = objects.into_iter().find_map(|object| object.status);
            if let Some(status) = status {
                match (status.phase.as_deref(), status.artifact, status.verified) {
                    (Some("Completed"), Some(artifact), Some(verified)) => {
                        return Ok(Backup {
                            uri: artifact.uri,
                            revision: artifact.revision,
                            hash: verified.hash,
                        });
                    }
                    (Some("Completed"), ..) => bail!("the backup was not verified"),
                    (Some("Failed"), ..) => bail!("the backup failed: {}", status.message.unwrap_or_default()),
                    _ => {}
                }
            }
            ensure!(Instant::now() < end, "waited {} s for the backup", most.as_secs());
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Waits until all members hold the same: same revision, same hash.
    pub async fn wait_for_equal_members(&mut self, most: Duration) -> anyhow::Result<()> {
        let end = Instant::now() + most;
        let access = access(&self.layout())?;
        let connections = Connections::new();
        connections.trust(Some(access));
        loop {
            let mut hashes = Vec::new();
            for endpoint in endpoints(&self.layout())? {
                let member = connections.member(&endpoint).await?;
                hashes.extend(member.hash_kv(0).await.ok().map(|hash| (hash.revision, hash.hash)));
            }
            if hashes.len() == 3 && hashes.iter().all(|hash| *hash == hashes[0]) {
                let (revision, hash) = hashes[0];
                self.claim(format!("all members have hash {hash:08x} at revision {revision}"));
                return Ok(());
            }
            ensure!(Instant::now() < end, "members stay different: {hashes:?}");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    /// Whether a member turns away who has no certificate.
    pub async fn plain_text_is_refused(&self) -> anyhow::Result<bool> {
        let endpoint = endpoints(&self.layout())?
            .into_iter()
            .next()
            .context("no endpoint in client.env")?;
        let connections = Connections::new();
        let plain = endpoint.replace("https://", "http://");
        let refused = match connections.member(&plain).await {
            Ok(member) => member.status().await.is_err(),
            Err(_) => true,
        };
        Ok(refused)
    }

    /// What helps to understand a failure.
    pub fn show_trouble(&mut self) {
        for (which, layout) in [(0, self.layout()), (1, self.restored_layout())] {
            self.show_events(&layout, which);
            let Some(status) = read_status(&layout) else { continue };
            for member in &status.members {
                println!(
                    "    {} {} {}: {}",
                    member.name,
                    member.role,
                    member.health,
                    member.message.as_deref().unwrap_or("")
                );
                for line in process::last_words(&layout.of(&member.name, "log"), 5) {
                    println!("      {line}");
                }
            }
        }
    }

    /// Stops everything.
    pub async fn close(&mut self) {
        // The operator may have ended by itself; then there is nobody to tell.
        let _ = self.stop.send(true);
        if let Some(operator) = self.operator.take() {
            let _ = operator.await;
        }
    }
}

fn read_status(layout: &Layout) -> Option<EtcdClusterStatus> {
    serde_yaml::from_str(&std::fs::read_to_string(layout.file("status.yaml")).ok()?).ok()
}

/// The endpoints in a cluster's client.env.
pub fn endpoints(layout: &Layout) -> anyhow::Result<Vec<String>> {
    let text = std::fs::read_to_string(layout.file("client.env")).context("no client.env yet")?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("export ETCDCTL_ENDPOINTS="));
    Ok(line
        .context("client.env has no endpoints")?
        .split(',')
        .map(str::to_owned)
        .collect())
}

/// What a user of a cluster shows to it.
pub fn access(layout: &Layout) -> anyhow::Result<Access> {
    let read = |name: &str| {
        let path = layout.file("tls").join(name);
        std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
    };
    Ok(Access {
        authorities: read("ca.crt")?,
        identity: crate::certificates::Pair {
            certificate: read("client.crt")?,
            key: read("client.key")?,
        },
    })
}
