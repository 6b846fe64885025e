//! `.snap` files: raft's snapshot metadata and the membership, beside the database (etcd etcdserver/api/snap/snapshotter.go).
//!
//! Invariants: a `.snap` file appears under its name only when it is durable; one that cannot be read is set aside as
//! `.broken` and never used.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use disk::{Disk, File, Open};
use prost::Message;
use proto::raftpb::Snapshot;
use proto::{snappb, walpb};

use crate::Error;
use crate::names::{pair_name, parse_pair};

/// The snapshot files of one directory.
#[derive(Debug, Clone)]
pub struct Snapshotter<D: Disk> {
    disk: D,
    dir: PathBuf,
}

impl<D: Disk> Snapshotter<D> {
    /// `dir` is `<data-dir>/member/snap`; it need not exist before the first save.
    pub fn new(disk: D, dir: &Path) -> Snapshotter<D> {
        Snapshotter {
            disk,
            dir: dir.to_owned(),
        }
    }

    /// The directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Writes a snapshot and makes it durable. An empty one (index 0) is not written.
    pub fn save(&self, snapshot: &Snapshot) -> Result<(), Error> {
        let Some(metadata) = snapshot.metadata.as_ref().filter(|metadata| metadata.index > 0) else {
            return Ok(());
        };
        let path = self.dir.join(pair_name(metadata.term, metadata.index, ".snap"));
        let data = Bytes::from(snapshot.encode_to_vec());
        let envelope = snappb::Snapshot {
            crc: crc32c::crc32c(&data),
            data,
        };
        let building = self.dir.join(format!("tmp-{:016x}", metadata.index));
        let file = self
            .disk
            .open(&building, Open::WriteOrCreate)
            .map_err(Error::io("creating", &building))?;
        file.set_len(0).map_err(Error::io("emptying", &building))?;
        file.write_all_at(&envelope.encode_to_vec(), 0)
            .map_err(Error::io("writing", &building))?;
        file.sync_data().map_err(Error::io("syncing", &building))?;
        self.disk
            .rename(&building, &path)
            .map_err(Error::io("renaming", &building))?;
        if mutant::planted("Q33") {
            return Ok(());
        }
        self.disk.sync_dir(&self.dir).map_err(Error::io("syncing", &self.dir))
    }

    /// The newest readable snapshot that one of `records` names; `None` when there is none. Unreadable ones on the way are
    /// renamed to `.broken`.
    pub fn load_newest(&self, records: &[walpb::Snapshot]) -> Result<Option<Snapshot>, Error> {
        for name in self.names_newest_first()? {
            let path = self.dir.join(&name);
            match self.read(&path) {
                Ok(snapshot) => {
                    let metadata = snapshot.metadata.as_ref();
                    let (index, term) = metadata.map_or((0, 0), |metadata| (metadata.index, metadata.term));
                    if records
                        .iter()
                        .any(|record| record.index() == index && record.term() == term)
                    {
                        return Ok(Some(snapshot));
                    }
                }
                Err(Error::Corrupt { .. }) => {
                    let aside = self.dir.join(format!("{name}.broken"));
                    self.disk.rename(&path, &aside).map_err(Error::io("renaming", &path))?;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    /// Reads one `.snap` file.
    pub fn read(&self, path: &Path) -> Result<Snapshot, Error> {
        let corrupt = |what: String| Error::Corrupt {
            path: path.to_owned(),
            offset: 0,
            what,
        };
        let file = self.disk.open(path, Open::Read).map_err(Error::io("opening", path))?;
        let len = file.len().map_err(Error::io("reading the length of", path))?;
        let mut bytes = vec![0; usize::try_from(len).map_err(|_| corrupt(format!("{len} bytes are too many")))?];
        file.read_exact_at(&mut bytes, 0).map_err(Error::io("reading", path))?;
        let envelope = snappb::Snapshot::decode(Bytes::from(bytes)).map_err(|error| corrupt(error.to_string()))?;
        if envelope.data.is_empty() || envelope.crc == 0 {
            return Err(corrupt("the snapshot is empty".into()));
        }
        if crc32c::crc32c(&envelope.data) != envelope.crc {
            return Err(corrupt(format!(
                "checksum {:08x} does not match the contents",
                envelope.crc
            )));
        }
        Snapshot::decode(envelope.data).map_err(|error| corrupt(error.to_string()))
    }

    /// Where a database received with a snapshot waits until it is taken into use.
    pub fn database_path(&self, index: u64) -> PathBuf {
        self.dir.join(format!("{index:016x}.snap.db"))
    }

    /// Removes what earlier runs left half done: `tmp*` files, and received databases older than `index`. Only before anything else
    /// uses the directory: what is being written now has such a name too.
    pub fn clean(&self, index: u64) -> Result<(), Error> {
        self.remove_where(|name, received| {
            name.starts_with("tmp") || name.starts_with("db.tmp") || received.is_some_and(|at| at < index)
        })
    }

    /// Removes received databases older than `index`, and leaves alone what is being written.
    pub fn forget_received(&self, index: u64) -> Result<(), Error> {
        self.remove_where(|_, received| received.is_some_and(|at| at < index))
    }

    fn remove_where(&self, due: impl Fn(&str, Option<u64>) -> bool) -> Result<(), Error> {
        for name in self.disk.list(&self.dir).map_err(Error::io("listing", &self.dir))? {
            let received = name
                .strip_suffix(".snap.db")
                .and_then(|hex| u64::from_str_radix(hex, 16).ok());
            if due(&name, received) {
                let path = self.dir.join(name);
                self.disk.remove(&path).map_err(Error::io("removing", &path))?;
            }
        }
        Ok(())
    }

    /// Removes the oldest `.snap` files until at most `keep` are left.
    pub fn purge(&self, keep: usize) -> Result<(), Error> {
        for name in self.names_newest_first()?.into_iter().skip(keep) {
            let path = self.dir.join(name);
            self.disk.remove(&path).map_err(Error::io("removing", &path))?;
        }
        Ok(())
    }

    fn names_newest_first(&self) -> Result<Vec<String>, Error> {
        let names = self.disk.list(&self.dir).map_err(Error::io("listing", &self.dir))?;
        Ok(names
            .into_iter()
            .rev()
            .filter(|name| parse_pair(name, ".snap").is_some())
            .collect())
    }
}
