//! Snapshots of a member, into a file.
//!
//! Invariant: the file has its name only when it is whole and durable; until then it is called `.part`.

use std::ffi::OsString;
use std::fs::File;
use std::io::Write;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use proto::etcdserverpb as pb;

use super::client::Failure;
use super::json::Json;
use super::print;
use super::{BAD_FEATURE, ERROR, Exit, INTERRUPTED, Session, connect, log};
use crate::gotext;

/// Bytes of a checksum behind a database, which is a multiple of 512 bytes long.
const CHECKSUM: u64 = 32;

fn info(logger: Option<&str>, message: &str, fields: &[(&'static str, Json)]) {
    log::log(
        "info",
        logger,
        concat!("etcdctl/snapshot.rs:", line!()),
        message,
        fields,
    );
}

/// Removes the unfinished file, however saving ends.
struct Part(PathBuf);

impl Drop for Part {
    fn drop(&mut self) {
        // It has its final name when all went well.
        let _gone = std::fs::remove_file(&self.0);
    }
}

pub(super) async fn save(run: &mut Session) -> Result<(), Exit> {
    if run.call.arguments.len() != 1 {
        return Err(Exit::arguments("snapshot save expects one argument <filename>"));
    }
    let path = PathBuf::from(OsString::from_vec(run.call.arguments[0].clone()));
    let (mut config, _) = run.config()?;
    config.logger = "client";
    // Only who says so has a limit of time: databases may be large.
    let deadline = run.call.changed("command-timeout").then(|| run.deadline()).flatten();
    let [endpoint] = config.endpoints.as_slice() else {
        let text = format!(
            "snapshot must be requested to one selected node, not multiple [{}]",
            config.endpoints.join(" ")
        );
        return Err(Exit::new(INTERRUPTED, text));
    };
    let endpoint = endpoint.clone();
    let failed = |text: String| Exit::new(INTERRUPTED, text);
    let client = connect(config).await.map_err(|exit| match exit.code {
        super::BAD_CONNECTION => failed(exit.text),
        _ => exit,
    })?;
    let mut name = path.clone().into_os_string();
    name.push(".part");
    let part = Part(name.into());
    let opened = File::options()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&part.0);
    let mut file = opened.map_err(|error| {
        let why = match error.kind() {
            std::io::ErrorKind::NotFound => "no such file or directory".into(),
            std::io::ErrorKind::PermissionDenied => "permission denied".into(),
            _ => error.to_string(),
        };
        failed(format!("could not open {0} (open {0}: {why})", part.0.display()))
    })?;
    info(
        None,
        "created temporary db file",
        &[("path", Json::text(part.0.display().to_string()))],
    );
    let began = Instant::now();
    let method = "/etcdserverpb.Maintenance/Snapshot";
    let request = pb::SnapshotRequest {};
    let broken = |failure: Failure| failed(failure.to_string());
    let mut pieces = client
        .answers::<_, pb::SnapshotResponse>(method, &request, deadline)
        .await
        .map_err(broken)?;
    info(Some("client"), "opened snapshot stream; downloading", &[]);
    info(None, "fetching snapshot", &[("endpoint", Json::text(endpoint.clone()))]);
    let (mut size, mut version) = (0u64, String::new());
    while let Some(piece) = pieces.next().await.map_err(broken)? {
        if !piece.version.is_empty() {
            version = piece.version;
        }
        size += piece.blob.len() as u64;
        let written = file.write_all(&piece.blob);
        written.map_err(|error| failed(format!("could not write snapshot: write {}: {error}", part.0.display())))?;
    }
    info(Some("client"), "completed snapshot read; closing", &[]);
    if size % 512 != CHECKSUM {
        return Err(failed(format!("sha256 checksum not found [bytes: {size}]")));
    }
    file.sync_all()
        .map_err(|error| failed(format!("could not fsync snapshot: {error}")))?;
    drop(file);
    info(
        None,
        "fetched snapshot",
        &[
            ("endpoint", Json::text(endpoint)),
            ("size", Json::text(gotext::human_bytes(size))),
            ("took", Json::text(gotext::duration(began.elapsed()))),
            ("etcd-version", Json::text(version.clone())),
        ],
    );
    let (from, to) = (part.0.display().to_string(), path.display().to_string());
    std::fs::rename(&part.0, &path).map_err(|error| failed(format!("could not rename {from} to {to} ({error})")))?;
    info(None, "saved", &[("path", Json::text(to.clone()))]);
    let mut out = format!("Snapshot saved at {to}\n");
    if !version.is_empty() {
        out.push_str(&format!("Server version {version}\n"));
    }
    print::write_out(out.as_bytes());
    Ok(())
}

/// `snapshot status` and `snapshot restore` as etcdctl had them before they moved to etcdutl: carried out there.
pub(super) fn moved(run: &mut Session, command: &str) -> Result<(), Exit> {
    let format = run.call.text("write-out");
    if !matches!(format.as_str(), "simple" | "json" | "table" | "fields" | "protobuf") {
        return Err(Exit::new(BAD_FEATURE, "unsupported output format"));
    }
    eprintln!("Deprecated: Use `etcdutl snapshot {command}` instead.\n");
    let mut words: Vec<OsString> = ["etcdutl", "snapshot", command, "-w", &format]
        .map(OsString::from)
        .to_vec();
    for flag in crate::etcdutl::RESTORE_FLAGS {
        if run.call.changed(flag.name) {
            words.push(format!("--{}={}", flag.name, run.call.text(flag.name)).into());
        }
    }
    words.push("--".into());
    words.extend(run.call.arguments.iter().cloned().map(OsString::from_vec));
    match crate::etcdutl(words) {
        code if code == ExitCode::SUCCESS => Ok(()),
        _ => Err(Exit::silent(ERROR)),
    }
}
