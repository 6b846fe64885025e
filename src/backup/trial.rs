//! A throw-away member: a restored data directory is opened by the server that would run on it, and asked what it holds.
//!
//! Invariants: it listens on loopback alone, and is gone when [`Server::look`] returns or is given up.

use super::Error;
use crate::member::Connections;
use std::ffi::OsString;
use std::net::TcpListener;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;
use tokio::process::{Child, Command};
use tokio::time::Instant;

/// It must serve within this time; a large database is read first.
const START: Duration = Duration::from_secs(120);

/// How the server is called: a program and the arguments that come before etcd's own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    /// The program.
    pub program: OsString,
    /// Arguments before the server's own.
    pub leading: Vec<OsString>,
}

/// What the member says that it holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Found {
    /// HashKV at the revision that was asked for.
    pub hash: u32,
    /// Its newest revision.
    pub revision: i64,
    /// Keys that a client sees.
    pub keys: u64,
}

impl Server {
    /// Opens a data directory that `etcdutl snapshot restore` made with its defaults, and asks.
    ///
    /// # Errors
    /// [`Error::Tool`] when the server does not serve; [`Error::Member`] when it does not answer.
    pub async fn look(&self, data: &Path, revision: i64) -> Result<Found, Error> {
        let (client, peer) = (free_url()?, free_url()?);
        let log = data.join("trial.log");
        let failed = |what: &str, error: std::io::Error| Error::Tool(format!("the throw-away member: {what}: {error}"));
        let output = std::fs::File::create(&log).map_err(|error| failed("its log", error))?;
        let errors = output.try_clone().map_err(|error| failed("its log", error))?;
        let mut child = Command::new(&self.program)
            .args(&self.leading)
            .arg("--data-dir")
            .arg(data)
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer, "--auto-compaction-retention", "0"])
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(errors)
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| failed("it cannot be started", error))?;
        let found = ask(&mut child, &client, revision, &log).await;
        // Nothing of it is needed any more; what it wrote goes with the spool directory.
        child.kill().await.ok();
        found
    }
}

async fn ask(child: &mut Child, url: &str, revision: i64, log: &Path) -> Result<Found, Error> {
    let end = Instant::now() + START;
    let connections = Connections::new();
    loop {
        if let Ok(Some(status)) = child.try_wait() {
            return Err(Error::Tool(format!(
                "the throw-away member did not accept the restored data ({status}): {}",
                last_line(log)
            )));
        }
        let answered = async {
            let member = connections.member(url).await?;
            member.linearizable().await?;
            Ok::<_, crate::member::Error>(member)
        };
        match answered.await {
            Ok(member) => {
                return Ok(Found {
                    hash: member.hash_kv(revision).await?.hash,
                    revision: member.status().await?.revision,
                    keys: member.count_keys(revision).await?,
                });
            }
            Err(error) if Instant::now() > end => return Err(error.into()),
            Err(_) => {
                connections.forget(url);
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// An address that nobody listens on at this moment.
fn free_url() -> Result<String, Error> {
    TcpListener::bind("127.0.0.1:0")
        .and_then(|listener| listener.local_addr())
        .map(|address| format!("http://{address}"))
        .map_err(|error| Error::Tool(format!("the throw-away member: no free port: {error}")))
}

fn last_line(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    text.lines().last().unwrap_or_default().chars().take(500).collect()
}
