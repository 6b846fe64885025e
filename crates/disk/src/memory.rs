//! A disk in memory that loses what was not synced when its power fails.
//!
//! Invariants:
//! - What was synced (contents by [`File::sync_data`], names by [`Disk::sync_dir`]) is there after a crash. What was not is there,
//!   gone, torn or zeroed, sector by sector; the bytes beside a write never suffer from it.
//! - The same seed and the same calls give the same outcome.
//! - A sync that fails loses data as Linux does: the caches look fine, later syncs succeed, and still part of what was written before
//!   never reaches the disk.
//!
//! A test crashes at each call in turn with [`MemoryDisk::cut_power_at`] and [`MemoryDisk::operations`]; a simulator gives each
//! member a disk of its own and calls [`MemoryDisk::crash`] when it likes.

mod content;
mod names;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::{Disk, File, LockKind, Open};
use content::{Change, Content, Fate};
use names::{Entry, NameChange, Names};

/// A disk in memory. Clones are the same disk.
#[derive(Clone)]
pub struct MemoryDisk {
    world: Arc<Mutex<World>>,
}

/// An open file of a [`MemoryDisk`]. After a crash it is dead: every call fails.
pub struct MemoryFile {
    world: Arc<Mutex<World>>,
    inode: u64,
    handle: u64,
    writable: bool,
}

/// What is to go wrong at an operation.
#[derive(Debug, Clone, Copy)]
enum Fault {
    PowerLoss,
    Error(io::ErrorKind),
}

#[derive(Clone)]
struct World {
    random: Random,
    powered: bool,
    operations: u64,
    faults: BTreeMap<u64, Fault>,
    capacity: Option<u64>,
    /// Syncs say that all is well and do nothing.
    lies: bool,
    /// Syncs that lied.
    lied: u64,
    /// Syncs that failed.
    failed_syncs: u64,
    /// Whether a crash may leave a sector half old and half new.
    tears: bool,
    /// Sectors that were left so.
    torn: u64,
    /// Where the last planned fault struck.
    struck: Option<(&'static str, PathBuf)>,
    inodes: BTreeMap<u64, Inode>,
    names: Names,
    /// Open files: handle -> inode.
    handles: BTreeMap<u64, u64>,
    next_id: u64,
}

#[derive(Clone, Default)]
struct Inode {
    /// What reads see.
    live: Content,
    /// What a crash cannot take.
    durable: Content,
    /// What leads from `durable` to `live`, apart from what failed syncs lost.
    journal: Vec<Change>,
    locks: BTreeMap<u8, u64>,
}

/// SplitMix64: small, seeded, good enough to choose misfortunes.
#[derive(Debug, Clone)]
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }
}

impl MemoryDisk {
    /// An empty disk; the seed decides what crashes leave behind.
    pub fn new(seed: u64) -> MemoryDisk {
        let world = World {
            random: Random(seed),
            powered: true,
            operations: 0,
            faults: BTreeMap::new(),
            capacity: None,
            lies: false,
            lied: 0,
            failed_syncs: 0,
            tears: true,
            torn: 0,
            struck: None,
            inodes: BTreeMap::new(),
            names: Names::default(),
            handles: BTreeMap::new(),
            next_id: 1,
        };
        MemoryDisk {
            world: Arc::new(Mutex::new(world)),
        }
    }

    fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Calls so far that change contents, lengths or names, or sync; those that failed included.
    pub fn operations(&self) -> u64 {
        self.world().operations
    }

    /// Cuts the power in the middle of an operation (the next one is `operations()`): it fails, perhaps done, perhaps not, and
    /// everything fails from then on, until [`MemoryDisk::crash`].
    pub fn cut_power_at(&self, operation: u64) {
        self.world().faults.insert(operation, Fault::PowerLoss);
    }

    /// Lets one operation fail: a write after part of it, a sync after losing part of what it should have kept, anything else
    /// without effect.
    pub fn fail_at(&self, operation: u64, kind: io::ErrorKind) {
        self.world().faults.insert(operation, Fault::Error(kind));
    }

    /// Whether the power was cut.
    pub fn is_off(&self) -> bool {
        !self.world().powered
    }

    /// The power fails now, if it is not off already, and comes back: what was not synced survives in part or not at all, open
    /// files are dead, locks are gone, planned faults are forgotten.
    pub fn crash(&self) {
        self.world().crash();
    }

    /// The process dies and the machine does not: open files are dead and locks are gone, while all that was written can be read,
    /// as durable or not as it was before.
    pub fn kill(&self) {
        let mut world = self.world();
        world.handles.clear();
        world.faults.clear();
        for inode in world.inodes.values_mut() {
            inode.locks.clear();
        }
        world.collect();
    }

    /// Forgets planned faults.
    pub fn forget_faults(&self) {
        self.world().faults.clear();
    }

    /// Lets syncs lie from now on, or be honest again: they answer `Ok` and make nothing durable.
    pub fn set_lying(&self, lies: bool) {
        self.world().lies = lies;
    }

    /// Syncs that lied so far.
    pub fn lied(&self) -> u64 {
        self.world().lied
    }

    /// Whether crashes from now on may leave a sector half old and half new, as disks promise not to. What was written by then and
    /// not synced may be beyond telling from decay.
    pub fn set_tearing(&self, tears: bool) {
        self.world().tears = tears;
    }

    /// Sectors that crashes left half old and half new so far.
    pub fn torn(&self) -> u64 {
        self.world().torn
    }

    /// Syncs, of contents or names, that failed so far while there was power. Whoever goes on after one serves what may be lost.
    pub fn failed_syncs(&self) -> u64 {
        self.world().failed_syncs
    }

    /// Which call the last planned fault struck, and on which file.
    pub fn struck(&self) -> Option<(&'static str, PathBuf)> {
        self.world().struck.clone()
    }

    /// Bytes that files take.
    pub fn used(&self) -> u64 {
        self.world().used()
    }

    /// Limits the bytes that files can hold; `None` for no limit. Too small a limit fails further growth only.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.world().capacity = bytes;
    }

    /// Flips the bits of `mask` in one byte of a file, as if the medium had decayed.
    pub fn decay(&self, path: &Path, offset: u64, mask: u8) -> io::Result<()> {
        let mut world = self.world();
        let inode = world.file_at(path)?;
        let inode = world.inodes.get_mut(&inode).ok_or(io::ErrorKind::NotFound)?;
        for content in [&mut inode.live, &mut inode.durable] {
            let mut byte = [0];
            if content.read(&mut byte, offset) == 1 {
                content.write(&[byte[0] ^ mask], offset);
            }
        }
        Ok(())
    }

    /// Another disk in the same state, that goes its own way with a seed of its own: to try several crashes of one moment.
    pub fn fork(&self, seed: u64) -> MemoryDisk {
        let world = World {
            random: Random(seed),
            ..self.world().clone()
        };
        MemoryDisk {
            world: Arc::new(Mutex::new(world)),
        }
    }
}

impl fmt::Debug for MemoryDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let world = self.world();
        f.debug_struct("MemoryDisk")
            .field("files", &world.inodes.len())
            .field("powered", &world.powered)
            .finish()
    }
}

impl fmt::Debug for MemoryFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryFile")
            .field("inode", &self.inode)
            .field("handle", &self.handle)
            .finish()
    }
}

fn power_is_off() -> io::Error {
    io::Error::other("the power is off")
}

impl World {
    /// Counts an operation and says what is to go wrong with it. `Err` when the power is off.
    fn begin(&mut self, call: &'static str, path: &dyn Fn(&World) -> PathBuf) -> io::Result<Option<Fault>> {
        if !self.powered {
            return Err(power_is_off());
        }
        let operation = self.operations;
        self.operations += 1;
        let fault = self.faults.remove(&operation);
        if fault.is_some() {
            self.struck = Some((call, path(self)));
        }
        self.powered = !matches!(fault, Some(Fault::PowerLoss));
        Ok(fault)
    }

    fn file_at(&self, path: &Path) -> io::Result<u64> {
        match self.names.get(path) {
            Some(Entry::File(inode)) => Ok(inode),
            Some(Entry::Directory) => Err(io::ErrorKind::IsADirectory.into()),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    /// A change of names: done, failed, or begun as the power went.
    fn change_names(&mut self, change: NameChange) -> io::Result<()> {
        let (call, path) = match &change {
            NameChange::Create { path, .. } => ("create", path),
            NameChange::Remove { path } => ("remove", path),
            NameChange::Rename { to, .. } => ("rename", to),
        };
        match self.begin(call, &|_| path.clone())? {
            Some(Fault::Error(kind)) => Err(kind.into()),
            Some(Fault::PowerLoss) => {
                self.names.apply(change);
                Err(power_is_off())
            }
            None => {
                self.names.apply(change);
                Ok(())
            }
        }
    }

    fn used(&self) -> u64 {
        self.inodes.values().map(|inode| inode.live.allocated()).sum()
    }

    /// Bytes that may still be allocated.
    fn free(&self) -> u64 {
        self.capacity
            .map_or(1 << 40, |capacity| capacity.saturating_sub(self.used()))
    }

    /// Forgets files that have no name and are not open.
    fn collect(&mut self) {
        let named: BTreeSet<u64> = self.names.inodes().chain(self.handles.values().copied()).collect();
        self.inodes.retain(|inode, _| named.contains(inode));
    }

    fn crash(&mut self) {
        let mood = self.random.below(5);
        for inode in self.inodes.values_mut() {
            let mut content = inode.durable.clone();
            let survivors = self.random.below(inode.journal.len() + 1);
            let in_flight = inode.journal.len().saturating_sub(1);
            // The sector at which the power fails in the middle is the last one of its file that is written.
            let mut torn = false;
            for (index, change) in inode.journal.drain(..).enumerate() {
                content.survive(&change, |random_fate| match mood {
                    _ if torn => Fate::Lost,
                    0 => Fate::Lost,
                    1 => Fate::Kept,
                    2 if index < survivors => Fate::Kept,
                    2 => Fate::Lost,
                    // The last write was under way, and is what suffers.
                    3 if index < in_flight => Fate::Kept,
                    _ => {
                        let draw: content::Draw = if mood == 3 {
                            content::draw_in_flight
                        } else {
                            random_fate
                        };
                        match draw(&mut self.random) {
                            Fate::Torn(_) if !self.tears => Fate::Lost,
                            fate => {
                                torn = matches!(fate, Fate::Torn(_));
                                self.torn += u64::from(torn);
                                fate
                            }
                        }
                    }
                });
            }
            inode.live = content.clone();
            inode.durable = content;
            inode.locks.clear();
        }
        let kept = self.names.pending();
        let kept = match mood {
            0 => 0,
            1 => kept,
            _ => self.random.below(kept + 1),
        };
        self.names.crash(kept);
        self.handles.clear();
        self.faults.clear();
        self.collect();
        self.powered = true;
    }
}

impl Disk for MemoryDisk {
    type File = MemoryFile;

    fn open(&self, path: &Path, how: Open) -> io::Result<MemoryFile> {
        let mut world = self.world();
        if !world.powered {
            return Err(power_is_off());
        }
        let inode = match (world.file_at(path), how) {
            (Ok(_), Open::CreateNew) => return Err(io::ErrorKind::AlreadyExists.into()),
            (Ok(inode), Open::Read | Open::Write | Open::WriteOrCreate) => inode,
            (Err(error), Open::WriteOrCreate | Open::CreateNew) if error.kind() == io::ErrorKind::NotFound => {
                world.names.parent_exists(path)?;
                let inode = world.next_id;
                world.next_id += 1;
                world.inodes.insert(inode, Inode::default());
                world.change_names(NameChange::Create {
                    path: path.into(),
                    entry: Entry::File(inode),
                })?;
                inode
            }
            (Err(error), _) => return Err(error),
        };
        let handle = world.next_id;
        world.next_id += 1;
        world.handles.insert(handle, inode);
        Ok(MemoryFile {
            world: Arc::clone(&self.world),
            inode,
            handle,
            writable: how != Open::Read,
        })
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut world = self.world();
        world.names.get(from).ok_or(io::ErrorKind::NotFound)?;
        world.names.parent_exists(to)?;
        if world.names.get(to) == Some(Entry::Directory) && world.names.children(to).next().is_some() {
            return Err(io::ErrorKind::DirectoryNotEmpty.into());
        }
        world.change_names(NameChange::Rename {
            from: from.into(),
            to: to.into(),
        })
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut world = self.world();
        world.file_at(path)?;
        world.change_names(NameChange::Remove { path: path.into() })
    }

    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        let mut world = self.world();
        match world.names.get(path) {
            None => Ok(()),
            Some(_) => world.change_names(NameChange::Remove { path: path.into() }),
        }
    }

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        let mut world = self.world();
        let mut missing = Vec::new();
        let mut at = Some(path);
        while let Some(dir) = at.filter(|dir| !names::is_root(dir)) {
            match world.names.get(dir) {
                Some(Entry::Directory) => break,
                Some(Entry::File(_)) => return Err(io::ErrorKind::NotADirectory.into()),
                None => missing.push(dir),
            }
            at = dir.parent();
        }
        for dir in missing.into_iter().rev() {
            world.change_names(NameChange::Create {
                path: dir.into(),
                entry: Entry::Directory,
            })?;
        }
        Ok(())
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let world = self.world();
        if !world.powered {
            return Err(power_is_off());
        }
        match world.names.get(dir) {
            Some(Entry::File(_)) => return Err(io::ErrorKind::NotADirectory.into()),
            None if !names::is_root(dir) => return Err(io::ErrorKind::NotFound.into()),
            Some(Entry::Directory) | None => {}
        }
        // The paths are sorted by components, and so are the names.
        Ok(world
            .names
            .children(dir)
            .filter_map(|path| Some(path.file_name()?.to_str()?.to_owned()))
            .collect())
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        let world = self.world();
        if !world.powered {
            return Err(power_is_off());
        }
        Ok(names::is_root(path) || world.names.get(path).is_some())
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let mut world = self.world();
        if !names::is_root(dir) && world.names.get(dir) != Some(Entry::Directory) {
            return Err(io::ErrorKind::NotFound.into());
        }
        match world.begin("sync directory", &|_| dir.to_owned())? {
            Some(Fault::PowerLoss) => Err(power_is_off()),
            Some(Fault::Error(kind)) => {
                world.failed_syncs += 1;
                Err(kind.into())
            }
            None if world.lies => {
                world.lied += 1;
                Ok(())
            }
            None => {
                world.names.sync(dir);
                world.collect();
                Ok(())
            }
        }
    }

    fn free_bytes(&self, _path: &Path) -> io::Result<u64> {
        Ok(self.world().free())
    }
}

impl MemoryFile {
    /// The world, if this file is still open in it.
    fn world(&self) -> io::Result<MutexGuard<'_, World>> {
        let world = self.world.lock().unwrap_or_else(PoisonError::into_inner);
        match world.powered && world.handles.contains_key(&self.handle) {
            true => Ok(world),
            false => Err(power_is_off()),
        }
    }

    fn change(&self, change: Change) -> io::Result<()> {
        let mut world = self.world()?;
        if !self.writable {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        let mut change = change;
        let call = match &change {
            Change::Write { .. } => "write",
            Change::SetLen(_) => "truncate",
            Change::Preallocate(_) => "preallocate",
        };
        let mut result = match world.begin(call, &|world| world.names.path_of(self.inode))? {
            None => Ok(()),
            Some(Fault::PowerLoss) => Err(power_is_off()),
            Some(Fault::Error(kind)) => {
                change.shorten(&mut |n| world.random.below(n));
                Err(kind.into())
            }
        };
        let free = world.free();
        let World { inodes, random, .. } = &mut *world;
        let inode = inodes.get_mut(&self.inode).ok_or(io::ErrorKind::NotFound)?;
        if inode.live.grows_by(&change) > free {
            // The kernel writes what fits before it says so.
            change.shorten(&mut |n| random.below(n));
            result = Err(io::ErrorKind::StorageFull.into());
            if inode.live.grows_by(&change) > free {
                return result;
            }
        }
        inode.live.apply(&change);
        inode.journal.push(change);
        result
    }
}

impl File for MemoryFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let world = self.world()?;
        let inode = world.inodes.get(&self.inode).ok_or(io::ErrorKind::NotFound)?;
        Ok(inode.live.read(buf, offset))
    }

    fn write_all_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        self.change(Change::Write {
            offset,
            data: buf.to_vec(),
        })
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.change(Change::SetLen(len))
    }

    fn preallocate(&self, len: u64) -> io::Result<()> {
        self.change(Change::Preallocate(len))
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut world = self.world()?;
        let fault = world.begin("sync", &|world| world.names.path_of(self.inode))?;
        if world.lies && fault.is_none() {
            world.lied += 1;
            return Ok(());
        }
        let World { inodes, random, .. } = &mut *world;
        let inode = inodes.get_mut(&self.inode).ok_or(io::ErrorKind::NotFound)?;
        match fault {
            Some(Fault::PowerLoss) => Err(power_is_off()),
            Some(Fault::Error(kind)) => {
                let mut torn = false;
                for change in inode.journal.drain(..) {
                    inode.durable.survive(&change, |random_fate| {
                        let fate = if torn { Fate::Lost } else { random_fate(random) };
                        torn |= matches!(fate, Fate::Torn(_));
                        fate
                    });
                }
                world.failed_syncs += 1;
                Err(kind.into())
            }
            None => {
                for change in inode.journal.drain(..) {
                    inode.durable.apply(&change);
                }
                Ok(())
            }
        }
    }

    fn len(&self) -> io::Result<u64> {
        let world = self.world()?;
        Ok(world.inodes.get(&self.inode).ok_or(io::ErrorKind::NotFound)?.live.len())
    }

    fn try_lock(&self, kind: LockKind) -> io::Result<()> {
        let mut world = self.world()?;
        let inode = world.inodes.get_mut(&self.inode).ok_or(io::ErrorKind::NotFound)?;
        match inode.locks.entry(kind as u8).or_insert(self.handle) {
            holder if *holder == self.handle => Ok(()),
            _ => Err(io::ErrorKind::WouldBlock.into()),
        }
    }
}

impl Drop for MemoryFile {
    fn drop(&mut self) {
        let mut world = self.world.lock().unwrap_or_else(PoisonError::into_inner);
        world.handles.remove(&self.handle);
        if let Some(inode) = world.inodes.get_mut(&self.inode) {
            inode.locks.retain(|_, holder| *holder != self.handle);
        }
    }
}

#[cfg(test)]
mod tests;
