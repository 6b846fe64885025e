//! The log that is written to: segments, the sync rules, and the cut from one file to the next.
//!
//! Invariants:
//! - A new log appears under its name only when its first file is durable.
//! - The next file is allocated before it is needed, so that a full disk shows before a cut.
//! - Every segment that may still be read, and the one allocated ahead, is locked.

use std::path::{Path, PathBuf};

use disk::{Disk, File, Open};
use proto::raftpb::{Entry, HardState};
use proto::walpb;

use crate::names::{pair_name, parse_pair, segments};
use crate::read::{Contents, check, open_segments, pass};
use crate::record::{Encoder, Kind, Segment};
use crate::repair::lock;
use crate::{Error, repair};

/// A file is cut after the save that reaches this size (etcd storage/wal SegmentSizeBytes).
pub const SEGMENT_BYTES: u64 = 64 * 1000 * 1000;
/// Unsynced bytes beyond which they are handed to the operating system early.
const PENDING_MAX: usize = 8 << 20;
/// Room for records that is kept between two writes.
const PENDING_KEPT: usize = 64 << 10;

/// Whether a directory holds a log.
pub fn exists<D: Disk>(disk: &D, dir: &Path) -> Result<bool, Error> {
    let there = disk.exists(dir).map_err(Error::io("looking for", dir))?;
    Ok(there && !segments(disk, dir)?.is_empty())
}

/// A log open for appending.
#[derive(Debug)]
pub struct Wal<D: Disk> {
    disk: D,
    dir: PathBuf,
    metadata: Vec<u8>,
    state: HardState,
    encoder: Encoder,
    /// Encoded records that the file does not hold yet.
    pending: Vec<u8>,
    /// Where `pending` goes in the last segment.
    offset: u64,
    last_entry: u64,
    /// Locked segments, oldest first; the last one is written to.
    held: Vec<Segment<D::File>>,
    /// The next segment, allocated ahead under a `.tmp` name.
    ahead: Option<Segment<D::File>>,
    allocated: u64,
    segment_bytes: u64,
    poisoned: bool,
}

impl<D: Disk> Wal<D> {
    /// Makes a new log whose files carry `metadata`. Its first record is a snapshot at index 0, term 0.
    pub fn create(disk: &D, dir: &Path, metadata: &[u8]) -> Result<Wal<D>, Error> {
        Wal::build(disk, dir, metadata, SEGMENT_BYTES, &HardState::default(), &[])
    }

    /// As [`Wal::create`], with first entries: the log appears with all of them or not at all.
    pub fn create_with(
        disk: &D,
        dir: &Path,
        metadata: &[u8],
        hard_state: &HardState,
        entries: &[Entry],
    ) -> Result<Wal<D>, Error> {
        Wal::build(disk, dir, metadata, SEGMENT_BYTES, hard_state, entries)
    }

    /// As [`Wal::create`], with smaller files.
    pub fn create_sized(disk: &D, dir: &Path, metadata: &[u8], segment_bytes: u64) -> Result<Wal<D>, Error> {
        Wal::build(disk, dir, metadata, segment_bytes, &HardState::default(), &[])
    }

    /// Cuts files at another size than [`SEGMENT_BYTES`] from now on.
    pub fn set_segment_bytes(&mut self, segment_bytes: u64) {
        self.segment_bytes = segment_bytes;
    }

    fn build(
        disk: &D,
        dir: &Path,
        metadata: &[u8],
        segment_bytes: u64,
        hard_state: &HardState,
        entries: &[Entry],
    ) -> Result<Wal<D>, Error> {
        if exists(disk, dir)? {
            return Err(Error::Exists { dir: dir.to_owned() });
        }
        let mut building = dir.as_os_str().to_owned();
        building.push(".tmp");
        let building = PathBuf::from(building);
        disk.remove_dir_all(&building)
            .map_err(Error::io("removing", &building))?;
        disk.create_dir_all(&building)
            .map_err(Error::io("creating", &building))?;
        let name = pair_name(0, 0, ".wal");
        let mut wal = Wal {
            disk: disk.clone(),
            dir: dir.to_owned(),
            metadata: metadata.to_vec(),
            state: HardState::default(),
            encoder: Encoder::default(),
            pending: Vec::new(),
            offset: 0,
            last_entry: 0,
            held: vec![new_segment(disk, building.join(&name), segment_bytes)?],
            ahead: None,
            allocated: 0,
            segment_bytes,
            poisoned: false,
        };
        wal.head();
        wal.encoder.message(&mut wal.pending, Kind::Snapshot, &zero_snapshot());
        for entry in entries {
            wal.encoder.message(&mut wal.pending, Kind::Entry, entry);
            wal.last_entry = entry.index;
        }
        if *hard_state != HardState::default() {
            wal.encoder.message(&mut wal.pending, Kind::State, hard_state);
            wal.state = *hard_state;
        }
        wal.sync()?;
        disk.sync_dir(&building).map_err(Error::io("syncing", &building))?;
        // An empty directory may stand in the way, for instance a mount point's child made by hand.
        disk.remove_dir_all(dir).map_err(Error::io("removing", dir))?;
        disk.rename(&building, dir).map_err(Error::io("renaming", &building))?;
        if let Some(parent) = dir.parent() {
            disk.sync_dir(parent).map_err(Error::io("syncing", parent))?;
        }
        wal.held[0].path = dir.join(name);
        wal.allocate_ahead()?;
        Ok(wal)
    }

    /// Opens a log at a snapshot that has a record in it, reads what comes after, and makes it ready for appending.
    ///
    /// A torn tail gives [`Error::Torn`]: call [`repair()`] once and open again, or use [`Wal::open_or_repair`].
    pub fn open(disk: &D, dir: &Path, start: &walpb::Snapshot) -> Result<(Wal<D>, Contents), Error> {
        for name in disk.list(dir).map_err(Error::io("listing", dir))? {
            if name.ends_with(".tmp") {
                // Allocated ahead by the last run. Whoever still runs holds the lock on it and on the segments below.
                let path = dir.join(name);
                let file = disk.open(&path, Open::Write).map_err(Error::io("opening", &path))?;
                lock(&file, &path)?;
                disk.remove(&path).map_err(Error::io("removing", &path))?;
            }
        }
        let held = open_segments(disk, dir, start.index(), Open::Write)?;
        for segment in &held {
            lock(&segment.file, &segment.path)?;
        }
        let mut pass = pass(&held, start.index())?;
        if let Some(torn) = pass.torn.take() {
            return Err(torn);
        }
        check(&pass, dir, start)?;
        // Bytes of a torn write may stand behind the zero length at which reading ended. New records would cover them in
        // part and leave the rest to be read as records.
        let tail = held.last().expect("segments_from returns at least one");
        let len = tail
            .file
            .len()
            .map_err(Error::io("reading the length of", &tail.path))?;
        if !mutant::planted("Q32") {
            tail.file
                .set_len(pass.end)
                .map_err(Error::io("truncating", &tail.path))?;
        }
        tail.file
            .preallocate(len)
            .map_err(Error::io("allocating", &tail.path))?;
        // Else another crash may bring those bytes back behind the first part of a new record, which then ends like a whole one.
        tail.file.sync_data().map_err(Error::io("syncing", &tail.path))?;
        let mut wal = Wal {
            disk: disk.clone(),
            dir: dir.to_owned(),
            metadata: pass.contents.metadata.to_vec(),
            state: pass.contents.hard_state,
            encoder: Encoder::after(pass.crc),
            pending: Vec::new(),
            offset: pass.end,
            last_entry: pass.last_entry,
            held,
            ahead: None,
            allocated: 0,
            segment_bytes: SEGMENT_BYTES,
            poisoned: false,
        };
        if wal.offset == 0 {
            // The disk lost even the beginning of the last file. Without one, what is written to it could not be read again.
            wal.head();
            if wal.state != HardState::default() {
                wal.encoder.message(&mut wal.pending, Kind::State, &wal.state);
            }
        }
        wal.allocate_ahead()?;
        Ok((wal, pass.contents))
    }

    /// [`Wal::open`], cutting a torn tail off first if there is one.
    pub fn open_or_repair(disk: &D, dir: &Path, start: &walpb::Snapshot) -> Result<(Wal<D>, Contents), Error> {
        match Wal::open(disk, dir, start) {
            Err(Error::Torn { .. }) if !mutant::planted("H08") => {
                repair(disk, dir)?;
                Wal::open(disk, dir, start)
            }
            other => other,
        }
    }

    /// Encodes entries and a hard state (zeros: none) behind what is there. Returns whether a sync is due: entries, or a
    /// changed term or vote. A commit index alone waits for the next sync.
    pub fn append(&mut self, hard_state: &HardState, entries: &[Entry]) -> Result<bool, Error> {
        self.refuse_if_poisoned()?;
        for entry in entries {
            self.encoder.message(&mut self.pending, Kind::Entry, entry);
            self.last_entry = entry.index;
        }
        let mut due = !entries.is_empty();
        if *hard_state != HardState::default() {
            due |= hard_state.term != self.state.term || hard_state.vote != self.state.vote;
            if mutant::planted("G06") {
                let forgotten = HardState { vote: 0, ..*hard_state };
                self.encoder.message(&mut self.pending, Kind::State, &forgotten);
                self.state = *hard_state;
                return Ok(due);
            }
            self.encoder.message(&mut self.pending, Kind::State, hard_state);
            self.state = *hard_state;
        }
        if self.offset + self.pending.len() as u64 >= self.segment_bytes {
            self.cut()?;
        } else if self.pending.len() > PENDING_MAX {
            self.flush()?;
        }
        Ok(due)
    }

    /// Makes everything appended so far durable.
    pub fn sync(&mut self) -> Result<(), Error> {
        self.flush()?;
        if mutant::planted("G01") {
            return Ok(());
        }
        let tail = self.held.last().expect("a log has a segment");
        if mutant::planted("Q19") {
            tail.file.sync_data().or_else(|_| tail.file.sync_data()).ok();
            return Ok(());
        }
        tail.file.sync_data().map_err(|error| {
            self.poisoned = true;
            Error::io("syncing", &tail.path)(error)
        })
    }

    /// [`Wal::append`], and [`Wal::sync`] when it is due.
    pub fn save(&mut self, hard_state: &HardState, entries: &[Entry]) -> Result<(), Error> {
        if self.append(hard_state, entries)? {
            self.sync()
        } else {
            Ok(())
        }
    }

    /// Records a snapshot whose `.snap` file is durable, and syncs.
    pub fn save_snapshot(&mut self, snapshot: &walpb::Snapshot) -> Result<(), Error> {
        self.refuse_if_poisoned()?;
        if snapshot.index() > 0 && snapshot.conf_state.is_none() {
            return Err(Error::SnapshotWithoutConfState {
                index: snapshot.index(),
            });
        }
        self.encoder.message(&mut self.pending, Kind::Snapshot, snapshot);
        self.last_entry = self.last_entry.max(snapshot.index());
        self.sync()
    }

    /// Gives up the segments that a start at `index` does not need, except the newest of them; [`Wal::purge`] may then
    /// remove them.
    pub fn release_to(&mut self, index: u64) {
        let first = |segment: &Segment<D::File>| {
            let name = segment
                .path
                .file_name()
                .and_then(|name| name.to_str())
                .unwrap_or_default();
            parse_pair(name, ".wal").map_or(0, |(_, first)| first)
        };
        let reached = self.held.iter().position(|segment| first(segment) >= index);
        let mut keep_from = reached.unwrap_or(self.held.len()).saturating_sub(1);
        if mutant::planted("Q16") {
            keep_from = (keep_from + 1).min(self.held.len() - 1);
        }
        self.held.drain(..keep_from);
    }

    /// Removes the oldest released segments until at most `keep` are left. Returns the names removed.
    pub fn purge(&mut self, keep: usize) -> Result<Vec<String>, Error> {
        let all = segments(&self.disk, &self.dir)?;
        let mut removed = Vec::new();
        for &(sequence, first) in all.iter().take(all.len().saturating_sub(keep)) {
            let name = pair_name(sequence, first, ".wal");
            let path = self.dir.join(&name);
            if self.held.iter().any(|segment| segment.path == path) {
                break;
            }
            self.disk.remove(&path).map_err(Error::io("removing", &path))?;
            removed.push(name);
        }
        Ok(removed)
    }

    /// Index of the last entry (or recorded snapshot) in the log.
    pub fn last_entry(&self) -> u64 {
        self.last_entry
    }

    /// Syncs what is pending and removes the file allocated ahead.
    pub fn close(mut self) -> Result<(), Error> {
        self.sync()?;
        if let Some(ahead) = self.ahead.take() {
            self.disk
                .remove(&ahead.path)
                .map_err(Error::io("removing", &ahead.path))?;
        }
        Ok(())
    }

    fn refuse_if_poisoned(&self) -> Result<(), Error> {
        if self.poisoned {
            Err(Error::Poisoned { dir: self.dir.clone() })
        } else {
            Ok(())
        }
    }

    fn head(&mut self) {
        if mutant::planted("G12") {
            self.encoder = Encoder::default();
        }
        self.encoder.crc(&mut self.pending);
        self.encoder.data(&mut self.pending, Kind::Metadata, &self.metadata);
    }

    fn flush(&mut self) -> Result<(), Error> {
        self.refuse_if_poisoned()?;
        if self.pending.is_empty() {
            return Ok(());
        }
        let tail = self.held.last().expect("a log has a segment");
        tail.file.write_all_at(&self.pending, self.offset).map_err(|error| {
            self.poisoned = true;
            Error::io("writing", &tail.path)(error)
        })?;
        self.offset += self.pending.len() as u64;
        // One large batch must not keep its room for as long as the log is open.
        self.pending.shrink_to((2 * self.pending.len()).max(PENDING_KEPT));
        self.pending.clear();
        Ok(())
    }

    fn cut(&mut self) -> Result<(), Error> {
        self.flush()?;
        let tail = self.held.last().expect("a log has a segment");
        tail.file
            .set_len(self.offset)
            .map_err(Error::io("truncating", &tail.path))?;
        self.sync()?;
        let result = self.enter_next_segment();
        // Half a cut cannot be continued.
        self.poisoned |= result.is_err();
        result
    }

    fn enter_next_segment(&mut self) -> Result<(), Error> {
        let tail = self.held.last().expect("a log has a segment");
        let name = tail.path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let sequence = parse_pair(name, ".wal").map_or(0, |(sequence, _)| sequence);
        let path = self.dir.join(pair_name(sequence + 1, self.last_entry + 1, ".wal"));
        self.allocate_ahead()?;
        self.held.extend(self.ahead.take());
        self.offset = 0;
        self.head();
        if self.state != HardState::default() && !mutant::planted("Q51") {
            self.encoder.message(&mut self.pending, Kind::State, &self.state);
        }
        self.sync()?;
        let next = self.held.last_mut().expect("pushed above");
        self.disk
            .rename(&next.path, &path)
            .map_err(Error::io("renaming", &next.path))?;
        next.path = path;
        if !mutant::planted("G02") {
            self.disk.sync_dir(&self.dir).map_err(Error::io("syncing", &self.dir))?;
        }
        self.allocate_ahead()
    }

    fn allocate_ahead(&mut self) -> Result<(), Error> {
        if self.ahead.is_none() {
            let path = self.dir.join(format!("{}.tmp", self.allocated % 2));
            self.ahead = Some(new_segment(&self.disk, path, self.segment_bytes)?);
            self.allocated += 1;
        }
        Ok(())
    }
}

fn new_segment<D: Disk>(disk: &D, path: PathBuf, len: u64) -> Result<Segment<D::File>, Error> {
    if disk.exists(&path).map_err(Error::io("looking for", &path))? {
        disk.remove(&path).map_err(Error::io("removing", &path))?;
    }
    let file = disk
        .open(&path, Open::CreateNew)
        .map_err(Error::io("creating", &path))?;
    lock(&file, &path)?;
    file.preallocate(len).map_err(Error::io("allocating", &path))?;
    Ok(Segment { path, file })
}

/// As etcd writes it: both fields present though zero.
fn zero_snapshot() -> walpb::Snapshot {
    walpb::Snapshot {
        index: Some(0),
        term: Some(0),
        conf_state: None,
    }
}
