//! The framing of records: length, record, padding; and the running checksum (etcd storage/wal/{encoder,decoder}.go).
//!
//! Invariants:
//! - A frame starts at a multiple of 8, so that its length field lies within one disk sector and is written whole or not at all.
//! - The checksum of a record covers the data of every record before it, over all files.

use std::path::PathBuf;

use bytes::{Buf, Bytes};
use disk::File;
use prost::Message;
use prost::encoding::{encode_varint, encoded_len_varint};

use crate::Error;

/// What a record holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Metadata = 1,
    Entry = 2,
    State = 3,
    Crc = 4,
    Snapshot = 5,
}

impl Kind {
    fn from_number(number: i64) -> Option<Kind> {
        [Kind::Metadata, Kind::Entry, Kind::State, Kind::Crc, Kind::Snapshot]
            .into_iter()
            .find(|kind| *kind as i64 == number)
    }
}

/// The unit that a disk writes whole or not at all.
pub(crate) const SECTOR: u64 = 512;
const FRAME_HEAD: u64 = 8;
/// etcd takes a record for torn when one of its sectors is all zeros. So many zeros at the end of one will do, too: a sector
/// that was written in part.
const BLANK_MIN: usize = 64;
/// A record whose last bytes are missing, with nothing but zeros behind them to the end of the file, was cut short. Records that
/// are whole end in a byte that is not zero, or in one zero that is written out.
const CUT_MIN: u64 = 3;

/// Appends frames to a buffer and keeps the running checksum.
#[derive(Debug, Default)]
pub(crate) struct Encoder {
    crc: u32,
    /// Scratch for one message: the checksum goes in front of the data.
    scratch: Vec<u8>,
}

impl Encoder {
    /// Continues after records whose running checksum is `crc`.
    pub fn after(crc: u32) -> Encoder {
        Encoder {
            crc,
            ..Encoder::default()
        }
    }

    /// Appends a record whose data is `message`.
    pub fn message(&mut self, out: &mut Vec<u8>, kind: Kind, message: &impl Message) {
        let mut scratch = std::mem::take(&mut self.scratch);
        scratch.clear();
        message.encode_raw(&mut scratch);
        self.data(out, kind, &scratch);
        self.scratch = scratch;
    }

    /// Appends a record with `data`.
    pub fn data(&mut self, out: &mut Vec<u8>, kind: Kind, data: &[u8]) {
        self.crc = crc32c::crc32c_append(self.crc, data);
        let body = 1
            + encoded_len_varint(kind as u64)
            + 1
            + encoded_len_varint(self.crc.into())
            + 1
            + encoded_len_varint(data.len() as u64)
            + data.len();
        self.frame(out, kind, body, Some(data));
    }

    /// Appends the record that opens a file: the checksum so far, without data.
    pub fn crc(&mut self, out: &mut Vec<u8>) {
        let body = 1 + encoded_len_varint(Kind::Crc as u64) + 1 + encoded_len_varint(self.crc.into());
        self.frame(out, Kind::Crc, body, None);
    }

    fn frame(&mut self, out: &mut Vec<u8>, kind: Kind, body: usize, data: Option<&[u8]>) {
        out.extend_from_slice(&(body as u64 | padding_mark(body as u64) << 56).to_le_bytes());
        // proto2: type and crc are written even when they are zero.
        out.push(0x08);
        encode_varint(kind as u64, out);
        out.push(0x10);
        encode_varint(self.crc.into(), out);
        if let Some(data) = data {
            out.push(0x1a);
            encode_varint(data.len() as u64, out);
            out.extend_from_slice(data);
        }
        out.resize(out.len() + (8 - body % 8) % 8, 0);
    }
}

/// An open segment and its name, for reading.
#[derive(Debug)]
pub(crate) struct Segment<F> {
    pub path: PathBuf,
    pub file: F,
}

/// A record that passed its checksum.
#[derive(Debug)]
pub(crate) struct Record {
    pub kind: Kind,
    pub data: Bytes,
    /// Where it starts in the current segment.
    pub offset: u64,
    /// Whether it is the first of its segment after the checksum record.
    pub first: bool,
}

/// Reads the records of consecutive segments.
#[derive(Debug)]
pub(crate) struct Decoder<'a, F> {
    segments: &'a [Segment<F>],
    at: usize,
    len: u64,
    /// End of the last good record in the current segment.
    offset: u64,
    crc: u32,
    /// Whether only the checksum record of the current segment was read so far.
    at_head: bool,
    window: Vec<u8>,
    window_at: u64,
}

const WINDOW: usize = 256 * 1024;

impl<'a, F: File> Decoder<'a, F> {
    pub fn new(segments: &'a [Segment<F>]) -> Result<Self, Error> {
        let mut decoder = Decoder {
            segments,
            at: 0,
            len: 0,
            offset: 0,
            crc: 0,
            at_head: true,
            window: Vec::new(),
            window_at: 0,
        };
        decoder.enter(0)?;
        Ok(decoder)
    }

    /// The end of the last good record in the last segment entered.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// The running checksum after the last record.
    pub fn crc(&self) -> u32 {
        self.crc
    }

    /// The file being read.
    pub fn path(&self) -> &PathBuf {
        &self.segments[self.at].path
    }

    /// An error about the record at `offset` of the current file.
    pub fn corrupt(&self, offset: u64, what: impl Into<String>) -> Error {
        Error::Corrupt {
            path: self.path().clone(),
            offset,
            what: what.into(),
        }
    }

    fn enter(&mut self, at: usize) -> Result<(), Error> {
        let segment = &self.segments[at];
        self.len = segment
            .file
            .len()
            .map_err(Error::io("reading the length of", &segment.path))?;
        (self.at, self.offset, self.window_at, self.at_head) = (at, 0, 0, true);
        self.window.clear();
        Ok(())
    }

    fn is_last(&self) -> bool {
        self.at + 1 == self.segments.len()
    }

    /// The next record; `None` at the end of the last segment. Checksum records are checked here and not handed out.
    pub fn next(&mut self) -> Result<Option<Record>, Error> {
        loop {
            let start = self.offset;
            let Some((body, mark)) = self.frame_head()? else {
                if self.is_last() {
                    return Ok(None);
                }
                self.enter(self.at + 1)?;
                continue;
            };
            if mark != padding_mark(body) {
                // Half a length field is the end of a write that was cut short; else it changed.
                return Err(match self.is_last() && self.ends_before(start + FRAME_HEAD)? {
                    true => Error::Torn {
                        path: self.path().clone(),
                        offset: start,
                    },
                    false => self.corrupt(start, "a length field contradicts itself"),
                });
            }
            let size = body.next_multiple_of(8);
            if size > self.len - start - FRAME_HEAD {
                // A torn write leaves a length whole or zero. One that points past the end is a tear if the file itself was
                // cut short.
                if self.is_last() && !self.length_is_wrong(start, body)? {
                    return Err(Error::Torn {
                        path: self.path().clone(),
                        offset: start,
                    });
                }
                return Err(self.corrupt(start, format!("a record of {body} bytes cannot fit")));
            }
            let frame = Bytes::copy_from_slice(self.bytes(start + FRAME_HEAD, size as usize)?);
            let parsed = proto::walpb::Record::decode(frame.slice(..body as usize));
            let problem = match parsed {
                Ok(record) => match Kind::from_number(record.r#type) {
                    Some(kind) if (kind == Kind::Crc) != (start == 0) => {
                        "a segment starts with its only checksum record".to_owned()
                    }
                    Some(Kind::Crc) if self.crc != 0 && record.crc != self.crc => {
                        "the checksum chain is broken".to_owned()
                    }
                    Some(Kind::Crc) => {
                        self.crc = record.crc;
                        self.offset = start + FRAME_HEAD + size;
                        continue;
                    }
                    Some(kind) => {
                        let data = record.data.unwrap_or_default();
                        let crc = crc32c::crc32c_append(self.crc, &data);
                        if crc == record.crc || mutant::planted("H09") {
                            self.crc = crc;
                            self.offset = start + FRAME_HEAD + size;
                            return Ok(Some(Record {
                                kind,
                                data,
                                offset: start,
                                first: std::mem::take(&mut self.at_head),
                            }));
                        }
                        format!("checksum {:08x} of a record does not match its contents", record.crc)
                    }
                    None => format!("unknown record type {}", record.r#type),
                },
                Err(error) => format!("a record cannot be decoded: {error}"),
            };
            let end = start + FRAME_HEAD + body;
            let torn = self.is_last()
                && (has_blank_sector(&frame, start + FRAME_HEAD) || self.ends_before(end - CUT_MIN.min(body))?)
                && !self.length_is_wrong(start, body)?;
            return Err(match torn {
                true => Error::Torn {
                    path: self.path().clone(),
                    offset: start,
                },
                false => self.corrupt(start, problem),
            });
        }
    }

    /// Body length and top byte of the length field at the current offset; `None` where records end.
    fn frame_head(&mut self) -> Result<Option<(u64, u64)>, Error> {
        let start = self.offset;
        if start == self.len {
            return Ok(None);
        }
        if self.len - start < FRAME_HEAD {
            return Err(match self.is_last() {
                true => Error::Torn {
                    path: self.path().clone(),
                    offset: start,
                },
                false => self.corrupt(start, "the file ends within a length field"),
            });
        }
        let head = self.bytes(start, FRAME_HEAD as usize)?.get_u64_le();
        if head == 0 {
            // Nothing was written from here on, or the sector that held the length never reached the disk: then the rest of
            // that sector is zero as well. Bytes behind a zero length in the same sector mean that the length changed.
            let rest = (SECTOR - start % SECTOR).min(self.len - start);
            if self.bytes(start, rest as usize)?.iter().any(|&byte| byte != 0) {
                return Err(self.corrupt(start, "a length field became zero"));
            }
            return Ok(None);
        }
        Ok(Some(split_head(head)))
    }

    /// Whether all bytes from `offset` to the end of the file are zeros.
    fn ends_before(&mut self, offset: u64) -> Result<bool, Error> {
        let mut at = offset.min(self.len);
        while at < self.len {
            let step = (self.len - at).min(WINDOW as u64);
            if self.bytes(at, step as usize)?.iter().any(|&byte| byte != 0) {
                return Ok(false);
            }
            at += step;
        }
        Ok(true)
    }

    /// `len` bytes at `offset`; the caller has checked that the file holds them.
    fn bytes(&mut self, offset: u64, len: usize) -> Result<&[u8], Error> {
        let have = self.window_at + self.window.len() as u64;
        if offset < self.window_at || offset + len as u64 > have {
            let wanted = len.max(WINDOW.min((self.len - offset) as usize));
            self.window.resize(wanted, 0);
            let segment = &self.segments[self.at];
            segment
                .file
                .read_exact_at(&mut self.window, offset)
                .map_err(Error::io("reading", &segment.path))?;
            self.window_at = offset;
        }
        let from = (offset - self.window_at) as usize;
        Ok(&self.window[from..from + len])
    }

    /// Whether the length field at `start` is wrong: a whole record that continues the checksum stands behind it, but not
    /// of `body` bytes. Records delimit themselves, so this tells a changed length from an incomplete record.
    fn length_is_wrong(&mut self, start: u64, body: u64) -> Result<bool, Error> {
        let from = start + FRAME_HEAD;
        let rest = self.len - from;
        let so_far = self.crc;
        // Two tags, two numbers of at most ten bytes, and the tag and length of the data.
        let head_len = rest.min(33) as usize;
        let mut head = self.bytes(from, head_len)?;
        let before = head.len();
        let mut number = |tag: u8| {
            let found = head.first() == Some(&tag);
            head = if found { &head[1..] } else { &[] };
            prost::encoding::decode_varint(&mut head).ok().filter(|_| found)
        };
        let (Some(kind), Some(crc)) = (number(0x08), number(0x10)) else {
            return Ok(false);
        };
        if kind == Kind::Crc as u64 {
            let whole = so_far == 0 || crc == so_far.into();
            return Ok(whole && (before - head.len()) as u64 != body);
        }
        let Some(len) = number(0x1a) else { return Ok(false) };
        let used = (before - head.len()) as u64;
        if len > rest - used {
            return Ok(false);
        }
        let data = self.bytes(from + used, len as usize)?;
        Ok(used + len != body && crc == crc32c::crc32c_append(so_far, data).into())
    }
}

/// Length of the record in the low 56 bits; the top byte as it stands.
fn split_head(head: u64) -> (u64, u64) {
    (head & ((1 << 56) - 1), head >> 56)
}

/// The top byte of the length field: 0, or the top bit and the number of padding bytes.
fn padding_mark(body: u64) -> u64 {
    match (8 - body % 8) % 8 {
        0 => 0,
        padding => 0x80 | padding,
    }
}

/// Whether a sector of the frame was not written: what falls into it is all zeros, or at least its end is.
fn has_blank_sector(frame: &[u8], mut offset: u64) -> bool {
    let mut rest = frame;
    while !rest.is_empty() {
        let (chunk, tail) = rest.split_at(rest.len().min((SECTOR - offset % SECTOR) as usize));
        let blank = chunk.iter().rev().take_while(|&&byte| byte == 0).count();
        if blank == chunk.len() || blank >= BLANK_MIN {
            return true;
        }
        offset += chunk.len() as u64;
        rest = tail;
    }
    false
}
