//! The open database: one file, one writer at a time, any number of readers.
//!
//! Invariants:
//! - `State` changes only when a commit is durable; a reader registers under the same lock under which it reads the meta, so
//!   that no page it can reach is reused before it is gone.
//! - After a failed sync, or a failed write of a meta page, nothing is written any more (`State::poisoned`).
//! - `file_len` is never more than the length of the file.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use disk::{Disk, File, LockKind, Open};

use crate::cache::Cache;
use crate::compact::Pass;
use crate::error::Error;
use crate::freelist::{self, Extent, Extents, Freelist};
use crate::meta::{Meta, NO_FREELIST};
use crate::page::{FREELIST, HEADER, Header, LEAF, Page};
use crate::read::{Reach, ReadTx};
use crate::write::WriteTx;

/// How to open a database.
#[derive(Debug, Clone)]
pub struct Options {
    /// Bytes per page of a new file: a power of two from 512 to 65536. An existing file keeps its own.
    pub page_size: usize,
    /// Bytes of pages that are kept in memory.
    pub cache_bytes: usize,
    /// How full pages are left when they are split, from 0.1 to 1.0, for buckets without a setting of their own.
    pub fill_percent: f64,
    /// The file grows by this many bytes beyond need, so that it need not grow at each commit.
    pub growth_bytes: u64,
    /// The freelist is stored with each commit while it takes no more pages than this. A longer one is stored only by
    /// [`Db::close`]; without a stored one, opening walks the tree.
    pub freelist_pages_max: u64,
    /// Open for reading only: the file must exist and nothing is written to it.
    pub read_only: bool,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            page_size: 4096,
            cache_bytes: 8 << 20,
            fill_percent: 0.5,
            growth_bytes: 16 << 20,
            freelist_pages_max: 64,
            read_only: false,
        }
    }
}

/// An open database. The file stays locked (flock) until the `Db` and all transactions are dropped.
#[derive(Debug)]
pub struct Db<D: Disk> {
    pub(crate) shared: Arc<Shared<D>>,
}

/// What the `Db` and its transactions share.
#[derive(Debug)]
pub(crate) struct Shared<D: Disk> {
    pub file: D::File,
    pub path: PathBuf,
    pub options: Options,
    pub page_size: usize,
    pub cache: Cache,
    pub file_len: AtomicU64,
    state: Mutex<State>,
    writer: Mutex<Writer>,
}

/// What a commit publishes.
#[derive(Debug)]
pub(crate) struct State {
    pub meta: Meta,
    /// Open read transactions: snapshot (transaction id) -> how many.
    pub readers: BTreeMap<u64, usize>,
    /// Pages below the high-water mark that hold nothing of the newest snapshot.
    pub unused_pages: u64,
    pub poisoned: Option<String>,
}

/// What only the holder of the write lock may touch.
#[derive(Debug)]
pub(crate) struct Writer {
    pub freelist: Freelist,
    /// The pages that hold the stored freelist.
    pub stored: Option<Extent>,
    /// A compaction under way.
    pub pass: Option<Pass>,
}

impl<D: Disk> Db<D> {
    /// Opens a database; creates it when the file is missing or empty.
    ///
    /// Errors: [`Error::Locked`], [`Error::Invalid`] when neither meta page is good, [`Error::Corrupt`] when the freelist must
    /// be rebuilt and the tree is damaged, [`Error::Io`].
    pub fn open(disk: D, path: &Path, options: Options) -> Result<Db<D>, Error> {
        let io = |verb| {
            move |source| Error::Io {
                verb,
                path: path.into(),
                source,
            }
        };
        let how = if options.read_only {
            Open::Read
        } else {
            Open::WriteOrCreate
        };
        let file = disk.open(path, how).map_err(io("open"))?;
        file.try_lock(LockKind::Flock).map_err(|source| match source.kind() {
            io::ErrorKind::WouldBlock => Error::Locked { path: path.into() },
            _ => Error::Io {
                verb: "lock",
                path: path.into(),
                source,
            },
        })?;
        let mut len = file.len().map_err(io("measure"))?;
        if !options.read_only && unborn(&file, len, path, options.page_size)? {
            initialize(&file, path, options.page_size)?;
            if let Some(parent) = path.parent() {
                disk.sync_dir(parent).map_err(io("make durable the name of"))?;
            }
            len = file.len().map_err(io("measure"))?;
        }
        let mut meta = find_meta(&file, path, options.page_size)?;
        // The older meta of a file that was cut since, or a lie: what lies beyond the end is in no tree.
        meta.high_water = meta.high_water.min(len / u64::from(meta.page_size));
        let shared = Arc::new(Shared {
            page_size: meta.page_size as usize,
            path: path.into(),
            cache: Cache::new(options.cache_bytes),
            file_len: AtomicU64::new(len),
            state: Mutex::new(State {
                meta,
                readers: BTreeMap::new(),
                unused_pages: 0,
                poisoned: None,
            }),
            writer: Mutex::new(Writer {
                freelist: Freelist::default(),
                stored: None,
                pass: None,
            }),
            options,
            file,
        });
        // A stored list that is damaged is no loss: the tree says the same.
        let stored = if meta.freelist == NO_FREELIST {
            None
        } else {
            shared.stored_freelist(&meta).ok()
        };
        let (run, free) = match stored {
            Some((run, free)) => (Some(run), free),
            None if shared.options.read_only => (None, Extents::default()),
            None => (None, Reach::of(&shared, &meta)?.unreached(&meta)),
        };
        shared.state().unused_pages = free.pages();
        *shared.writer() = Writer {
            freelist: Freelist::new(free),
            stored: run,
            pass: None,
        };
        Ok(Db { shared })
    }

    /// A consistent snapshot of what is committed. Pages that it can see stay as they are until it and its clones are dropped.
    pub fn read(&self) -> Result<ReadTx<D>, Error> {
        Ok(ReadTx::begin(&self.shared))
    }

    /// Begins the one write transaction; waits until another one is over. Dropping it rolls it back.
    pub fn write(&self) -> Result<WriteTx<'_, D>, Error> {
        WriteTx::begin(&self.shared)
    }

    /// Bytes of the database: high-water page times page size, as etcd reports its size.
    pub fn size(&self) -> u64 {
        self.shared.state().meta.high_water * self.shared.page_size as u64
    }

    /// Bytes of pages that hold something of the newest snapshot.
    pub fn size_in_use(&self) -> u64 {
        let state = self.shared.state();
        (state.meta.high_water.saturating_sub(state.unused_pages)) * self.shared.page_size as u64
    }

    /// Bytes of the file, with the space reserved for growth.
    pub fn file_len(&self) -> u64 {
        self.shared.file_len.load(Ordering::Relaxed)
    }

    /// Bytes per page.
    pub fn page_size(&self) -> usize {
        self.shared.page_size
    }

    /// Where the file is.
    pub fn path(&self) -> &Path {
        &self.shared.path
    }

    /// Stores the freelist if the last commit did not, so that the next [`Db::open`] is quick. The database may be used on; it
    /// is also fine never to call this.
    pub fn close(&self) -> Result<(), Error> {
        if self.shared.options.read_only || self.shared.state().meta.freelist != NO_FREELIST {
            return Ok(());
        }
        let mut tx = self.write()?;
        tx.store_freelist();
        tx.commit()
    }
}

impl<D: Disk> Shared<D> {
    pub fn state(&self) -> MutexGuard<'_, State> {
        // Each change of the state is one step, so that a panic elsewhere cannot leave it half done.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn writer(&self) -> MutexGuard<'_, Writer> {
        // A write transaction that unwinds gives back its pages as it is dropped.
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn io(&self, verb: &'static str) -> impl Fn(io::Error) -> Error + '_ {
        move |source| Error::Io {
            verb,
            path: self.path.clone(),
            source,
        }
    }

    pub fn offset(&self, id: u64) -> u64 {
        id * self.page_size as u64
    }

    /// The tree page `id` of a database of `high_water` pages.
    pub fn page(&self, id: u64, high_water: u64) -> Result<Page, Error> {
        if let Some(page) = self.cache.get(id) {
            return Ok(page);
        }
        let page = Page::parse(id, Bytes::from(self.run(id, high_water)?.1))?;
        self.cache.insert(page.clone());
        Ok(page)
    }

    /// Reads page `id` with its overflow.
    pub fn run(&self, id: u64, high_water: u64) -> Result<(Header, Vec<u8>), Error> {
        if !(2..high_water).contains(&id) {
            return Err(Error::corrupt(
                id,
                format!("it is outside of the {high_water} pages of the database"),
            ));
        }
        let mut data = vec![0; self.page_size];
        self.fill(id, &mut data, self.offset(id))?;
        let header = Header::read(&data);
        let end = id + 1 + u64::from(header.overflow);
        if header.overflow > 0 {
            // Checked before memory is taken: a damaged count may say 16 TiB.
            if header.id != id || end > high_water || self.offset(end) > self.file_len.load(Ordering::Relaxed) {
                let what = format!(
                    "it claims {} overflow pages of a database of {high_water}",
                    header.overflow
                );
                return Err(Error::corrupt(id, what));
            }
            data.resize((header.overflow as usize + 1) * self.page_size, 0);
            self.fill(id, &mut data[self.page_size..], self.offset(id + 1))?;
        }
        Ok((header, data))
    }

    /// The bytes of `count` pages from `id` on.
    pub fn read_pages(&self, id: u64, count: u64) -> Result<Vec<u8>, Error> {
        let mut data = vec![0; count as usize * self.page_size];
        self.fill(id, &mut data, self.offset(id))?;
        Ok(data)
    }

    fn fill(&self, id: u64, buf: &mut [u8], offset: u64) -> Result<(), Error> {
        self.file
            .read_exact_at(buf, offset)
            .map_err(|source| match source.kind() {
                io::ErrorKind::UnexpectedEof => Error::corrupt(id, "the file ends before it"),
                _ => Error::Io {
                    verb: "read",
                    path: self.path.clone(),
                    source,
                },
            })
    }

    /// The freelist that the snapshot of `meta` stores, and the pages that it takes itself.
    pub fn stored_freelist(&self, meta: &Meta) -> Result<(Extent, Extents), Error> {
        let (header, data) = self.run(meta.freelist, meta.high_water)?;
        let run = Extent {
            start: meta.freelist,
            len: u64::from(header.overflow) + 1,
        };
        let free = freelist::decode(meta.freelist, &data, meta.high_water)?;
        if free.overlap(run).is_some() {
            return Err(Error::corrupt(run.start, "the freelist lists itself as free"));
        }
        Ok((run, free))
    }

    /// Remembers that the disk cannot be trusted any more.
    pub fn poison(&self, verb: &'static str, source: io::Error) -> Error {
        let error = self.io(verb)(source);
        self.state().poisoned = Some(error.to_string());
        error
    }
}

/// An empty database: two metas, an empty freelist, an empty root leaf.
fn initial(page_size: usize) -> Vec<u8> {
    let mut data = Vec::with_capacity(4 * page_size);
    for id in 0..2 {
        let (root, freelist, high_water) = (3, 2, 4);
        let meta = Meta {
            page_size: page_size as u32,
            flags: 0,
            root,
            sequence: 0,
            freelist,
            high_water,
            txid: id,
        };
        data.extend(meta.encode(id, page_size));
    }
    for (id, flags) in [(2, FREELIST), (3, LEAF)] {
        let mut page = vec![0; page_size];
        Header {
            id,
            flags,
            count: 0,
            overflow: 0,
        }
        .write(&mut page[..HEADER]);
        data.extend(page);
    }
    data
}

fn initialize<F: File>(file: &F, path: &Path, page_size: usize) -> Result<(), Error> {
    if !page_size.is_power_of_two() || !(512..=1 << 16).contains(&page_size) {
        let what = format!("page size {page_size} is not a power of two from 512 to 65536");
        return Err(Error::Invalid {
            path: path.into(),
            what,
        });
    }
    let io = |verb| {
        move |source| Error::Io {
            verb,
            path: path.into(),
            source,
        }
    };
    file.write_all_at(&initial(page_size), 0).map_err(io("write"))?;
    file.sync_data().map_err(io("sync"))
}

/// Whether the file is empty, or was left by a crash in the middle of [`initialize`]: no longer than an empty database, each byte what
/// it would be there, or zero, and not all of it there. A commit would have left another meta page.
fn unborn<F: File>(file: &F, len: u64, path: &Path, page_size: usize) -> Result<bool, Error> {
    if len == 0 {
        return Ok(true);
    }
    let wanted = initial(page_size);
    if len > wanted.len() as u64 {
        return Ok(false);
    }
    let mut data = vec![0; len as usize];
    file.read_exact_at(&mut data, 0).map_err(|source| Error::Io {
        verb: "read",
        path: path.into(),
        source,
    })?;
    let torn = |(byte, wanted): (&u8, &u8)| *byte == 0 || byte == wanted;
    Ok(data != wanted && data.iter().zip(&wanted).all(torn))
}

/// The newest good meta page.
fn find_meta<F: File>(file: &F, path: &Path, page_size: usize) -> Result<Meta, Error> {
    let read = |offset: u64| {
        let mut data = vec![0; 512];
        let n = file.read_at(&mut data, offset).map_err(|source| Error::Io {
            verb: "read",
            path: path.into(),
            source,
        })?;
        data.truncate(n);
        Ok(Meta::read(&data))
    };
    let first = read(0)?;
    let second = match first {
        Ok(meta) => read(u64::from(meta.page_size))?,
        // Without the first page the page size is unknown, and with it the place of the second.
        Err(_) => {
            let mut second = read(page_size as u64)?;
            for shift in 9..=16 {
                second = match second {
                    Ok(meta) => Ok(meta),
                    Err(_) => read(1 << shift)?.and_then(|meta| match meta.page_size == 1 << shift {
                        true => Ok(meta),
                        false => Err(format!("page size {} at byte {}", meta.page_size, 1 << shift)),
                    }),
                };
            }
            second
        }
    };
    match (first, second) {
        (Ok(first), Ok(second)) if second.txid > first.txid && second.page_size == first.page_size => Ok(second),
        (Ok(first), _) => Ok(first),
        (Err(_), Ok(second)) if !mutant::planted("H12") => Ok(second),
        (Err(first), Ok(_)) => Err(Error::Invalid {
            path: path.into(),
            what: first,
        }),
        (Err(first), Err(second)) => Err(Error::Invalid {
            path: path.into(),
            what: format!("meta page 0: {first}; meta page 1: {second}"),
        }),
    }
}

#[cfg(test)]
mod tests {
    use disk::MemoryDisk;

    use super::*;

    /// What a crash while a database is made may leave: any sectors of it, at any length. A good meta page is no sign of more.
    #[test]
    fn a_database_that_was_being_made_is_made_anew() {
        let whole = initial(4096);
        let sectors = whole.len() / 512;
        for length in 1..=sectors {
            for missing in (0..sectors).map(Some).chain([None]) {
                let mut left = whole[..length * 512].to_vec();
                if let Some(sector) = missing.filter(|sector| *sector < length) {
                    left[sector * 512..(sector + 1) * 512].fill(0);
                }
                let disk = MemoryDisk::new(1);
                let path = Path::new("/db");
                let file = disk.open(path, Open::CreateNew).unwrap();
                file.write_all_at(&left, 0).unwrap();
                drop(file);
                let db = Db::open(disk.clone(), path, Options::default()).unwrap();
                let mut tx = db.write().unwrap();
                tx.create_bucket(b"bucket").unwrap();
                tx.commit().unwrap();
                drop(db);
                let db = Db::open(disk, path, Options::default()).unwrap();
                let tx = db.read().unwrap();
                assert!(
                    tx.bucket(b"bucket").unwrap().is_some(),
                    "{length} sectors without {missing:?}"
                );
            }
        }
    }
}
