//! `etcdutl`, run as a process: ours or upstream's, so that a snapshot is judged by the tool that will restore it.
//!
//! Invariants: the tool is killed when the caller gives up; what it prints on failure is in the error.

use std::ffi::OsString;
use std::path::Path;
use std::process::Stdio;

use serde::Deserialize;
use tokio::process::Command;

use super::Error;

/// How `etcdutl` is called: a program and the arguments that come first (`quorate etcdutl …`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Etcdutl {
    /// The program.
    pub program: OsString,
    /// Arguments before the tool's own.
    pub leading: Vec<OsString>,
}

/// What `etcdutl snapshot status` says.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SnapshotStatus {
    /// Hash of the whole file's content.
    pub hash: u32,
    /// The newest revision in it.
    pub revision: i64,
    /// Keys in all buckets.
    pub total_key: u64,
    /// Bytes.
    pub total_size: u64,
    /// The storage version.
    #[serde(default)]
    pub version: String,
}

/// What `etcdutl hashkv` says.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HashKv {
    /// The hash.
    pub hash: u32,
    /// The revision that was hashed.
    pub hash_revision: i64,
    /// The compacted revision.
    pub compact_revision: i64,
}

impl Etcdutl {
    /// Opens a snapshot file, checks its trailer and counts.
    ///
    /// # Errors
    /// [`Error::Tool`] with what the tool printed.
    pub async fn status(&self, file: &Path) -> Result<SnapshotStatus, Error> {
        self.json(&[
            "snapshot".into(),
            "status".into(),
            file.into(),
            "-w".into(),
            "json".into(),
        ])
        .await
    }

    /// Hashes a snapshot's key space at a revision.
    ///
    /// # Errors
    /// [`Error::Tool`] with what the tool printed.
    pub async fn hash_kv(&self, file: &Path, revision: i64) -> Result<HashKv, Error> {
        let revision = format!("--rev={revision}");
        self.json(&[
            "hashkv".into(),
            file.into(),
            revision.into(),
            "-w".into(),
            "json".into(),
        ])
        .await
    }

    /// Restores a snapshot into a new data directory of a throw-away member.
    ///
    /// # Errors
    /// [`Error::Tool`] with what the tool printed.
    pub async fn restore_to(&self, file: &Path, data_dir: &Path) -> Result<(), Error> {
        let data_dir = data_dir.as_os_str().to_owned();
        self.run(&[
            "snapshot".into(),
            "restore".into(),
            file.into(),
            "--data-dir".into(),
            data_dir,
        ])
        .await
        .map(|_| ())
    }

    async fn json<T: for<'de> Deserialize<'de>>(&self, args: &[OsString]) -> Result<T, Error> {
        let printed = self.run(args).await?;
        serde_json::from_slice(&printed).map_err(|error| {
            Error::Tool(format!(
                "{} printed no JSON ({error}): {}",
                self.call(args),
                String::from_utf8_lossy(&printed)
            ))
        })
    }

    async fn run(&self, args: &[OsString]) -> Result<Vec<u8>, Error> {
        let output = Command::new(&self.program)
            .args(&self.leading)
            .args(args)
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output()
            .await
            .map_err(|error| Error::Tool(format!("{}: {error}", self.call(args))))?;
        if output.status.success() {
            return Ok(output.stdout);
        }
        let said = [output.stderr, output.stdout].concat();
        Err(Error::Tool(format!(
            "{}: {}",
            self.call(args),
            String::from_utf8_lossy(&said).trim()
        )))
    }

    fn call(&self, args: &[OsString]) -> String {
        let words = args
            .iter()
            .take_while(|arg| !arg.to_string_lossy().starts_with(['-', '/']));
        let words: Vec<_> = words.map(|arg| arg.to_string_lossy()).collect();
        format!("etcdutl {}", words.join(" "))
    }
}
