//! From records to what a member starts with.
//!
//! Invariants:
//! - A later entry with the same index replaces the earlier one and everything after it (an uncommitted tail that a new
//!   leader overwrote).
//! - Every file carries the same metadata: a segment of another member or cluster is refused.

use std::path::Path;

use bytes::Bytes;
use disk::{Disk, File, Open};
use prost::Message;
use proto::raftpb::{Entry, EntryType, HardState};
use proto::walpb;

use crate::Error;
use crate::names::{pair_name, segments, segments_from};
use crate::record::{Decoder, Kind, Segment};

/// What a log holds after the snapshot it was opened at.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Contents {
    /// The metadata that every file repeats: etcd writes node and cluster id.
    pub metadata: Bytes,
    /// The last hard state; zeros when there is none.
    pub hard_state: HardState,
    /// The entries after the snapshot, without a gap.
    pub entries: Vec<Entry>,
}

/// Everything that one pass over the records tells.
#[derive(Debug, Default)]
pub(crate) struct Pass {
    pub contents: Contents,
    /// Index of the last entry record.
    pub last_entry: u64,
    /// Every snapshot record, in order.
    pub snapshots: Vec<walpb::Snapshot>,
    /// Where the last segment ends, and the checksum there.
    pub end: u64,
    pub crc: u32,
    /// The tail was torn, at `end`.
    pub torn: Option<Error>,
}

/// Reads all records. A torn tail is noted, every other problem is an error.
pub(crate) fn pass<F: File>(segments: &[Segment<F>], start: u64) -> Result<Pass, Error> {
    let mut decoder = Decoder::new(segments)?;
    let mut pass = Pass::default();
    let mut metadata: Option<Bytes> = None;
    let entries = &mut pass.contents.entries;
    loop {
        let record = match decoder.next() {
            Ok(Some(record)) => record,
            Ok(None) => break,
            Err(error @ Error::Torn { .. }) => {
                pass.torn = Some(error);
                break;
            }
            Err(error) => return Err(error),
        };
        let undecodable =
            |decoder: &Decoder<F>, error| decoder.corrupt(record.offset, format!("{:?}: {error}", record.kind));
        // The checksum covers a record's data but not its type. A type that changed into another shows in these rules.
        if record.first != (record.kind == Kind::Metadata) {
            return Err(decoder.corrupt(record.offset, format!("a {:?} record out of its place", record.kind)));
        }
        match record.kind {
            Kind::Entry => {
                let entry = Entry::decode(record.data.clone()).map_err(|error| undecodable(&decoder, error))?;
                let known = match entry.r#type() {
                    EntryType::EntryNormal => entry.r#type == 0,
                    EntryType::EntryConfChange => !entry.data.is_empty(),
                    EntryType::EntryConfChangeV2 => false,
                };
                if !known || entry.term == 0 || entry.index == 0 {
                    return Err(decoder.corrupt(record.offset, "an entry that etcd would not write"));
                }
                pass.last_entry = entry.index;
                if entry.index > start {
                    let place = entry.index - start - 1;
                    if place > entries.len() as u64 {
                        let what = format!("entry {} follows entry {}", entry.index, start + entries.len() as u64);
                        return Err(decoder.corrupt(record.offset, what));
                    }
                    entries.truncate(place as usize);
                    entries.push(entry);
                }
            }
            Kind::State => {
                pass.contents.hard_state =
                    HardState::decode(record.data.clone()).map_err(|error| undecodable(&decoder, error))?;
                if pass.contents.hard_state.term == 0 {
                    return Err(decoder.corrupt(record.offset, "a hard state without a term"));
                }
            }
            Kind::Metadata => match &metadata {
                Some(first) if *first != record.data => {
                    return Err(decoder.corrupt(record.offset, "the metadata differs from that of the file before"));
                }
                _ => metadata = Some(record.data),
            },
            Kind::Snapshot => {
                let snapshot =
                    walpb::Snapshot::decode(record.data.clone()).map_err(|error| undecodable(&decoder, error))?;
                pass.snapshots.push(snapshot);
            }
            Kind::Crc => unreachable!("the decoder keeps checksum records to itself"),
        }
    }
    pass.contents.metadata = metadata.unwrap_or_default();
    (pass.end, pass.crc) = (decoder.offset(), decoder.crc());
    Ok(pass)
}

/// Checks that the record of `start` was among those read, and that the commit index lies within the log.
pub(crate) fn check(pass: &Pass, dir: &Path, start: &walpb::Snapshot) -> Result<(), Error> {
    let (index, term) = (start.index(), start.term());
    if !pass
        .snapshots
        .iter()
        .any(|record| record.index() == index && record.term() == term)
    {
        return Err(Error::SnapshotMissing {
            dir: dir.to_owned(),
            index,
            term,
        });
    }
    let last = index + pass.contents.entries.len() as u64;
    let commit = pass.contents.hard_state.commit;
    if commit > last {
        return Err(Error::CommitBeyondLog {
            dir: dir.to_owned(),
            commit,
            last,
        });
    }
    Ok(())
}

/// Opens the segments that a read from the entry after `index` needs.
pub(crate) fn open_segments<D: Disk>(
    disk: &D,
    dir: &Path,
    index: u64,
    how: Open,
) -> Result<Vec<Segment<D::File>>, Error> {
    open_named(disk, dir, segments_from(disk, dir, index)?, how)
}

fn open_named<D: Disk>(
    disk: &D,
    dir: &Path,
    names: Vec<(u64, u64)>,
    how: Open,
) -> Result<Vec<Segment<D::File>>, Error> {
    let open = |(sequence, first)| {
        let path = dir.join(pair_name(sequence, first, ".wal"));
        let file = disk.open(&path, how).map_err(Error::io("opening", &path))?;
        Ok(Segment { path, file })
    };
    names.into_iter().map(open).collect()
}

/// Reads a log without locking or changing it; a torn tail is left out, as `etcdutl` does.
pub fn read<D: Disk>(disk: &D, dir: &Path, start: &walpb::Snapshot) -> Result<Contents, Error> {
    let segments = open_segments(disk, dir, start.index(), Open::Read)?;
    let pass = pass(&segments, start.index())?;
    check(&pass, dir, start)?;
    Ok(pass.contents)
}

/// The snapshot records that the persisted commit index has reached, oldest first. Only from these may a member start.
pub fn valid_snapshots<D: Disk>(disk: &D, dir: &Path) -> Result<Vec<walpb::Snapshot>, Error> {
    let all = segments(disk, dir)?;
    if all.is_empty() {
        return Err(Error::NoSegment {
            dir: dir.to_owned(),
            index: 0,
        });
    }
    let segments = open_named(disk, dir, all, Open::Read)?;
    // Entries are not wanted here; an index beyond all of them skips them.
    let pass = pass(&segments, u64::MAX)?;
    let commit = pass.contents.hard_state.commit;
    let mut valid = pass.snapshots;
    valid.retain(|record| record.index() <= commit);
    // One that a leader sent may be recorded before an older one of the member itself.
    valid.sort_by_key(walpb::Snapshot::index);
    Ok(valid)
}
