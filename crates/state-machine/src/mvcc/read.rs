//! Reading: ranges with all their options (`etcd server/etcdserver/txn/range.go`).
//!
//! Invariants:
//! - A [`ReadView`] is one moment: index, revisions and records together. It neither blocks the writer nor waits for it.
//! - `count` is of the whole span, whatever the limit and the revision filters say.
//! - A record that the index names and the database does not have means damage, never "not found".

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use disk::Disk;
use prost::Message;
use proto::etcdserverpb::range_request::{SortOrder, SortTarget};
use proto::etcdserverpb::{RangeRequest, RangeResponse, ResponseHeader, TxnRequest, TxnResponse};
use proto::mvccpb::KeyValue;

use super::index::{Found, Index, Span, Stamp};
use super::revision::Revision;
use super::store::{Shared, decode_record};
use crate::backend::Snapshot;
use crate::error::Error;
use crate::schema::Bucket;
use crate::txn;

/// Keys of the first chunk of a streamed range.
const FIRST_CHUNK_KEYS: i64 = 10;

/// Reads the store from any thread. Cheap to clone; follows the store when it goes over to another database.
#[derive(Debug)]
pub struct KvReader<D: Disk> {
    pub(super) shared: Arc<Shared<D>>,
}

impl<D: Disk> Clone for KvReader<D> {
    fn clone(&self) -> Self {
        KvReader {
            shared: self.shared.clone(),
        }
    }
}

/// The store at one moment.
#[derive(Debug)]
pub struct ReadView<D: Disk> {
    pub(super) index: Index,
    pub(super) current: i64,
    pub(super) compacted: i64,
    pub(super) records: Snapshot<D>,
}

impl<D: Disk> KvReader<D> {
    pub(super) fn new(shared: Arc<Shared<D>>) -> Self {
        KvReader { shared }
    }

    /// The store as it is now. For one request: it pins pages of the file.
    pub fn view(&self) -> ReadView<D> {
        ReadView::new(&self.shared)
    }

    /// The revision of the last transaction; 1 in an empty store.
    pub fn current_revision(&self) -> i64 {
        self.shared.with(|moment| moment.current)
    }

    /// The revision of the last compaction; -1 when there was none.
    pub fn compact_revision(&self) -> i64 {
        self.shared.with(|moment| moment.compacted)
    }

    /// Keys that live now.
    pub fn living_keys(&self) -> usize {
        self.shared.with(|moment| moment.index.living())
    }

    /// Keys in the index: those that live, and those that are deleted and not yet compacted.
    pub fn indexed_keys(&self) -> usize {
        self.shared.with(|moment| moment.index.len())
    }

    /// Bytes of the database up to its highest page.
    pub fn size(&self) -> u64 {
        self.shared.with(|moment| moment.backend.size())
    }

    /// Bytes of the database without free pages.
    pub fn size_in_use(&self) -> u64 {
        self.shared.with(|moment| moment.backend.size_in_use())
    }

    /// Answers a range. The header holds the revision alone.
    ///
    /// # Errors
    /// [`Error::Compacted`], [`Error::FutureRevision`], [`Error::Storage`].
    pub fn range(&self, request: &RangeRequest) -> Result<RangeResponse, Error> {
        self.view().range(request)
    }

    /// Answers a transaction that only reads ([`txn::is_read_only`]), at one moment.
    ///
    /// # Errors
    /// As [`KvReader::range`]; [`Error::Other`] when the transaction would write.
    pub fn txn_read_only(&self, request: &TxnRequest) -> Result<TxnResponse, Error> {
        txn::read_only(&self.view(), request)
    }

    /// A range in chunks of about `chunk_bytes`, all at the revision of the first.
    ///
    /// # Errors
    /// [`Error::RangeStreamSort`], [`Error::RangeStreamFilter`] for what cannot be streamed, and those of [`txn::check_range`].
    pub fn range_stream(&self, request: RangeRequest, chunk_bytes: usize) -> Result<RangeStream<D>, Error> {
        txn::check_range_stream(&request)?;
        let limit = if request.limit == 0 { i64::MAX } else { request.limit };
        let chunk = FIRST_CHUNK_KEYS.min(limit);
        Ok(RangeStream {
            reader: self.clone(),
            request,
            chunk_bytes,
            limit,
            chunk,
            sent: 0,
            header: 0,
            done: false,
        })
    }
}

impl<D: Disk> ReadView<D> {
    pub(super) fn new(shared: &Shared<D>) -> Self {
        // Both under one lock: records go only after the compacted revision has moved, which needs the same lock.
        shared.with(|moment| ReadView {
            index: moment.index.clone(),
            current: moment.current,
            compacted: moment.compacted,
            records: moment.backend.snapshot(Bucket::Key),
        })
    }

    /// The view of a write transaction: `current` is the revision that it writes.
    pub(super) fn at(shared: &Shared<D>, current: i64) -> Self {
        ReadView {
            current,
            ..ReadView::new(shared)
        }
    }

    /// The newest revision in the view.
    pub fn current_revision(&self) -> i64 {
        self.current
    }

    /// The compacted revision; -1 when there was no compaction.
    pub fn compact_revision(&self) -> i64 {
        self.compacted
    }

    /// The revision that a request for `revision` reads.
    ///
    /// # Errors
    /// [`Error::Compacted`], [`Error::FutureRevision`].
    pub fn resolve(&self, revision: i64) -> Result<i64, Error> {
        if revision > self.current {
            return Err(Error::FutureRevision);
        }
        let revision = if revision <= 0 { self.current } else { revision };
        if revision < self.compacted {
            Err(Error::Compacted)
        } else {
            Ok(revision)
        }
    }

    /// How many keys of a span there are at `revision` (≤ 0: now).
    ///
    /// # Errors
    /// As [`ReadView::resolve`].
    pub fn count(&self, span: Span<'_>, revision: i64) -> Result<usize, Error> {
        Ok(self.index.count(span, self.resolve(revision)?))
    }

    /// A key as it is now.
    ///
    /// # Errors
    /// [`Error::Storage`].
    pub fn get(&self, key: &[u8]) -> Result<Option<KeyValue>, Error> {
        self.get_at(key, self.current)
    }

    /// A key at a revision that must not lie below the compaction.
    ///
    /// # Errors
    /// [`Error::Storage`].
    pub fn get_at(&self, key: &[u8], revision: i64) -> Result<Option<KeyValue>, Error> {
        self.index
            .get(key, revision)
            .map(|stamp| self.load(stamp.revision))
            .transpose()
    }

    /// All keys of a span as they are now, in order.
    ///
    /// # Errors
    /// [`Error::Storage`].
    pub fn all(&self, span: Span<'_>) -> Result<Vec<KeyValue>, Error> {
        let (found, _) = self.index.select(span, self.current, 0, false);
        self.load_all(&found)
    }

    /// As [`ReadView::all`], from the index alone: without values and leases.
    pub fn all_without_values(&self, span: Span<'_>) -> Vec<KeyValue> {
        let (found, _) = self.index.select(span, self.current, 0, false);
        found.into_iter().map(key_only).collect()
    }

    /// As [`KvReader::range`].
    ///
    /// # Errors
    /// As [`KvReader::range`].
    pub fn range(&self, request: &RangeRequest) -> Result<RangeResponse, Error> {
        self.range_counting(request, true)
    }

    fn range_counting(&self, request: &RangeRequest, total: bool) -> Result<RangeResponse, Error> {
        let revision = self.resolve(request.revision)?;
        let span = Span::new(&request.key, &request.range_end);
        let header = Some(ResponseHeader {
            revision: self.current,
            ..ResponseHeader::default()
        });
        if request.count_only {
            let count = self.index.count(span, revision) as i64;
            return Ok(RangeResponse {
                header,
                count,
                ..RangeResponse::default()
            });
        }
        let (found, count) = self.index.select(span, revision, fetch_limit(request), total);
        // Without values all is in the index, the lease excepted: etcd 3.7 answers 0 for it then.
        let from_index = request.keys_only && request.sort_target() != SortTarget::Value;
        let mut kvs = match from_index {
            true => found.into_iter().map(key_only).collect(),
            false => self.load_all(&found)?,
        };
        filter(&mut kvs, request);
        sort(&mut kvs, request);
        let mut more = false;
        if request.limit > 0 && kvs.len() as u64 > request.limit as u64 {
            kvs.truncate(request.limit as usize + usize::from(mutant::planted("Q43")));
            more = true;
        }
        if request.keys_only {
            kvs.iter_mut().for_each(|kv| kv.value.clear());
        }
        Ok(RangeResponse {
            header,
            kvs,
            more,
            count: count as i64,
        })
    }

    /// The record of a write that the index names.
    pub(super) fn load(&self, revision: Revision) -> Result<KeyValue, Error> {
        match self.records.get(&revision.to_bytes())? {
            Some(record) => decode_record(revision, record),
            None => Err(missing(revision)),
        }
    }

    /// The records of many keys, in their order. They are read in the order of the file: a page is read once, however the keys lie.
    fn load_all(&self, found: &[Found]) -> Result<Vec<KeyValue>, Error> {
        let revision_of = |at: &usize| found[*at].stamp.revision;
        let mut order: Vec<usize> = (0..found.len()).collect();
        order.sort_unstable_by_key(revision_of);
        let wanted: Vec<_> = order.iter().map(|at| revision_of(at).to_bytes()).collect();
        let mut kvs = vec![KeyValue::default(); found.len()];
        for (at, record) in order.into_iter().zip(self.records.get_ascending(&wanted)?) {
            let revision = revision_of(&at);
            kvs[at] = decode_record(revision, record.ok_or_else(|| missing(revision))?)?;
        }
        Ok(kvs)
    }
}

fn missing(revision: Revision) -> Error {
    let Revision { main, sub } = revision;
    Error::Storage(format!(
        "the record of revision {main}/{sub} is missing: restore the member from a snapshot"
    ))
}

/// How many keys to look at; 0 means all. One more than asked for tells whether there are more.
fn fetch_limit(request: &RangeRequest) -> usize {
    match request.limit {
        limit if limit <= 0 || !default_order(request) || has_revision_filter(request) => 0,
        limit => usize::try_from(limit).unwrap_or(usize::MAX).saturating_add(1),
    }
}

/// Whether the order of the index is the order asked for. A target without an order counts as such too: the limit cuts in the order of
/// the keys then, and what is left is sorted (a quirk of etcd).
pub(crate) fn default_order(request: &RangeRequest) -> bool {
    match request.sort_order() {
        SortOrder::None => true,
        SortOrder::Ascend => request.sort_target() == SortTarget::Key,
        SortOrder::Descend => false,
    }
}

pub(crate) fn has_revision_filter(request: &RangeRequest) -> bool {
    let bounds = [
        request.min_mod_revision,
        request.max_mod_revision,
        request.min_create_revision,
        request.max_create_revision,
    ];
    bounds.into_iter().any(|bound| bound != 0)
}

fn filter(kvs: &mut Vec<KeyValue>, request: &RangeRequest) {
    if !has_revision_filter(request) {
        return;
    }
    let within = |value: i64, min: i64, max: i64| (max == 0 || value <= max) && (min == 0 || value >= min);
    kvs.retain(|kv| {
        within(kv.mod_revision, request.min_mod_revision, request.max_mod_revision)
            && within(
                kv.create_revision,
                request.min_create_revision,
                request.max_create_revision,
            )
    });
}

fn sort(kvs: &mut [KeyValue], request: &RangeRequest) {
    let target = request.sort_target();
    let descending = request.sort_order() == SortOrder::Descend;
    if target == SortTarget::Key && !descending {
        return;
    }
    kvs.sort_by(|a, b| {
        let order = match target {
            SortTarget::Key => a.key.cmp(&b.key),
            SortTarget::Version => a.version.cmp(&b.version),
            SortTarget::Create => a.create_revision.cmp(&b.create_revision),
            SortTarget::Mod => a.mod_revision.cmp(&b.mod_revision),
            SortTarget::Value => a.value.cmp(&b.value),
        };
        if descending { order.reverse() } else { order }
    });
}

fn key_only(found: Found) -> KeyValue {
    let Stamp {
        revision,
        created,
        version,
        tombstone: _,
    } = found.stamp;
    KeyValue {
        key: found.key,
        create_revision: created,
        mod_revision: revision.main,
        version,
        ..KeyValue::default()
    }
}

/// A range in chunks; see [`KvReader::range_stream`]. Holds nothing of the database between two chunks, so a slow client costs nothing,
/// and a compaction in between surfaces as [`Error::Compacted`].
#[derive(Debug)]
pub struct RangeStream<D: Disk> {
    reader: KvReader<D>,
    request: RangeRequest,
    chunk_bytes: usize,
    /// What the client asked for in all.
    limit: i64,
    /// What the next chunk may hold.
    chunk: i64,
    sent: i64,
    /// The revision of the first chunk; 0 before it.
    header: i64,
    done: bool,
}

impl<D: Disk> Iterator for RangeStream<D> {
    type Item = Result<RangeResponse, Error>;

    /// The next part of the answer. Only the last one has a header, `more` and `count`.
    fn next(&mut self) -> Option<Self::Item> {
        if self.done {
            return None;
        }
        let chunk = self.next_chunk();
        self.done |= chunk.is_err();
        Some(chunk)
    }
}

impl<D: Disk> RangeStream<D> {
    fn next_chunk(&mut self) -> Result<RangeResponse, Error> {
        let view = self.reader.view();
        if self.request.count_only {
            self.done = true;
            return view.range(&self.request);
        }
        self.request.limit = self.chunk;
        let mut part = view.range_counting(&self.request, false)?;
        if self.header == 0 {
            self.header = view.current;
            if self.request.revision == 0 {
                self.request.revision = view.current;
            }
        }
        self.sent += part.kvs.len() as i64;
        part.header = None;
        part.count = 0;
        let more = std::mem::take(&mut part.more);
        let next = part.kvs.last().filter(|_| more).map(|kv| after(&kv.key));
        if let Some(next) = &next
            && self.sent < self.limit
        {
            self.chunk = adjust_chunk(self.chunk, part.encoded_len(), self.chunk_bytes).min(self.limit - self.sent);
            self.request.key = next.clone();
            return Ok(part);
        }
        self.done = true;
        part.header = Some(ResponseHeader {
            revision: self.header,
            ..ResponseHeader::default()
        });
        part.more = more;
        part.count = self.sent;
        if let Some(next) = next {
            part.count += view.count(Span::new(&next, &self.request.range_end), self.request.revision)? as i64;
        }
        Ok(part)
    }
}

/// The smallest key after this one.
fn after(key: &[u8]) -> Bytes {
    let mut next = BytesMut::with_capacity(key.len() + 1);
    next.put_slice(key);
    next.put_u8(0);
    next.freeze()
}

fn adjust_chunk(keys: i64, bytes: usize, wanted: usize) -> i64 {
    let adjusted = match bytes {
        bytes if bytes < wanted / 2 => keys.saturating_mul(2),
        bytes if bytes > wanted.saturating_mul(2) => keys / 2,
        _ => keys,
    };
    adjusted.max(1)
}
