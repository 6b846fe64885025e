//! A directory as a store, for the local platform and for mounted volumes.
//!
//! Invariants: a file gets its name only once it is whole and durable; names never leave the directory.

use std::io;
use std::path::{Component, Path, PathBuf};

use tokio::fs;
use tokio::io::AsyncWriteExt;

use super::store::{Error, Reader};

/// Chunks of this size are read.
const CHUNK: usize = 256 * 1024;

/// Where below `root` a key lies.
fn locate(root: &Path, key: &str) -> Result<PathBuf, Error> {
    let relative = Path::new(key);
    if key.is_empty() || !relative.components().all(|part| matches!(part, Component::Normal(_))) {
        return Err(Error::Key { key: key.into() });
    }
    Ok(root.join(relative))
}

fn failed(what: &'static str, path: &Path, source: io::Error) -> Error {
    Error::File {
        what,
        path: path.into(),
        source,
    }
}

/// Writes a file whole, or not at all.
pub async fn write(root: &Path, key: &str, mut from: fs::File) -> Result<(), Error> {
    let path = locate(root, key)?;
    let parent = path.parent().unwrap_or(root).to_owned();
    fs::create_dir_all(&parent)
        .await
        .map_err(|error| failed("creating directory", &parent, error))?;
    let partial = path.with_extension("partial");
    let written = async {
        let mut file = fs::File::create(&partial).await?;
        tokio::io::copy(&mut from, &mut file).await?;
        file.flush().await?;
        file.sync_all().await?;
        fs::rename(&partial, &path).await?;
        fs::File::open(&parent).await?.sync_all().await
    };
    match written.await {
        Ok(()) => Ok(()),
        Err(error) => {
            fs::remove_file(&partial).await.ok();
            Err(failed("writing", &path, error))
        }
    }
}

/// Opens a file for reading; `None` when there is none.
pub async fn read(root: &Path, key: &str) -> Result<Option<Reader>, Error> {
    let path = locate(root, key)?;
    match fs::File::open(&path).await {
        Ok(file) => Ok(Some(Box::pin(tokio::io::BufReader::with_capacity(CHUNK, file)))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed("reading", &path, error)),
    }
}

/// Removes a file; one that is not there counts as removed.
pub async fn remove(root: &Path, key: &str) -> Result<(), Error> {
    let path = locate(root, key)?;
    match fs::remove_file(&path).await {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("removing", &path, error)),
        _ => Ok(()),
    }
}

/// All keys below a prefix, sorted.
pub async fn list(root: &Path, prefix: &str) -> Result<Vec<String>, Error> {
    let mut keys = Vec::new();
    let mut pending = vec![root.to_owned()];
    while let Some(dir) = pending.pop() {
        let mut entries = match fs::read_dir(&dir).await {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(failed("listing", &dir, error)),
        };
        while let Some(entry) = entries
            .next_entry()
            .await
            .map_err(|error| failed("listing", &dir, error))?
        {
            let path = entry.path();
            if entry.file_type().await.is_ok_and(|kind| kind.is_dir()) {
                pending.push(path);
            } else if let Some(key) = path.strip_prefix(root).ok().and_then(Path::to_str)
                && key.starts_with(prefix)
            {
                keys.push(key.to_owned());
            }
        }
    }
    keys.sort();
    Ok(keys)
}
