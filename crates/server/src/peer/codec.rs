//! The two stream encodings of etcd's peer protocol (etcd server/etcdserver/api/rafthttp/{msg_codec,msgappv2_codec}.go).
//!
//! Invariants:
//! - A length that came from the network is compared with a limit before anything is allocated for it.
//! - Encoder and decoder of the `msgapp` stream move their predictor (term, index) alike, or frames of type 1 would be read as
//!   other entries than were sent. A new connection starts with a new pair.
//! - No input makes the decoder panic: a Go peer panics on a malformed frame here, we drop the connection.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use prost::Message as _;
use proto::raftpb::{Entry, Message, MessageType};

/// The largest frame that is read, in bytes (etcd's limit for the message stream).
const FRAME_BYTES_MAX: u64 = 512 * 1024 * 1024;
const LINK_HEARTBEAT: u8 = 0;
const APP_ENTRIES: u8 = 1;
const APP: u8 = 2;

/// Which of a peer's two streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum StreamKind {
    /// Everything but `MsgApp` and snapshots: frames of a length (u64, big endian) and a message.
    Message,
    /// `MsgApp` alone, entries without their message where that can be predicted ("msgappv2").
    MsgApp,
}

impl StreamKind {
    /// The last part of the URL path, before the dialling member's id.
    pub fn path(self) -> &'static str {
        match self {
            StreamKind::Message => "message",
            StreamKind::MsgApp => "msgapp",
        }
    }
}

/// Why a stream could not be read on.
#[derive(Debug, thiserror::Error)]
pub enum CodecError {
    /// A length beyond the limit.
    #[error("a frame of {0} bytes is over the limit of {FRAME_BYTES_MAX}")]
    TooLarge(u64),
    /// A frame type that msgappv2 does not have.
    #[error("unknown msgapp frame type {0}")]
    UnknownType(u8),
    /// Not a raft message or entry.
    #[error("a frame does not decode: {0}")]
    Malformed(#[from] prost::DecodeError),
}

/// A message that only keeps the connection alive.
pub fn is_link_heartbeat(message: &Message) -> bool {
    message.r#type() == MessageType::MsgHeartbeat && message.from == 0 && message.to == 0
}

/// Where a `msgapp` stream stands: the term and the index of the last entry sent on it.
#[derive(Debug, Clone, Copy, Default)]
struct Predictor {
    term: u64,
    index: u64,
}

impl Predictor {
    fn set(&mut self, message: &Message) {
        self.term = message.term;
        self.index = message.entries.last().map_or(message.index, |entry| entry.index);
    }
}

/// Writes one stream.
#[derive(Debug)]
pub struct Encoder {
    kind: StreamKind,
    predictor: Predictor,
}

impl Encoder {
    /// For a new connection.
    pub fn new(kind: StreamKind) -> Encoder {
        Encoder {
            kind,
            predictor: Predictor::default(),
        }
    }

    /// Appends a frame that says nothing, to keep the connection alive.
    pub fn heartbeat(&self, out: &mut BytesMut) {
        match self.kind {
            StreamKind::MsgApp => out.put_u8(LINK_HEARTBEAT),
            StreamKind::Message => {
                let message = Message {
                    r#type: MessageType::MsgHeartbeat.into(),
                    ..Message::default()
                };
                put_frame(&message, out);
            }
        }
    }

    /// Appends a message.
    pub fn encode(&mut self, message: &Message, out: &mut BytesMut) {
        match self.kind {
            StreamKind::Message => put_frame(message, out),
            StreamKind::MsgApp => {
                let predicted = self.predictor.index == message.index
                    && self.predictor.term == message.log_term
                    && message.log_term == message.term;
                if predicted {
                    out.put_u8(APP_ENTRIES);
                    out.put_u64(message.entries.len() as u64);
                    for entry in &message.entries {
                        put_frame(entry, out);
                    }
                    out.put_u64(message.commit);
                    self.predictor.index += message.entries.len() as u64;
                } else {
                    out.put_u8(APP);
                    put_frame(message, out);
                    self.predictor.set(message);
                }
            }
        }
    }
}

fn put_frame(message: &impl prost::Message, out: &mut BytesMut) {
    let len = message.encoded_len();
    out.reserve(8 + len);
    out.put_u64(len as u64);
    message.encode_raw(out);
}

/// Reads one stream.
#[derive(Debug)]
pub struct Decoder {
    kind: StreamKind,
    local: u64,
    remote: u64,
    predictor: Predictor,
    /// Bytes that must be there before another try can succeed.
    need: usize,
}

impl Decoder {
    /// For a new connection from `remote` to `local` (msgappv2 leaves the ids out).
    pub fn new(kind: StreamKind, local: u64, remote: u64) -> Decoder {
        Decoder {
            kind,
            local,
            remote,
            predictor: Predictor::default(),
            need: 1,
        }
    }

    /// Takes the next message off `input`; `None` when more bytes must come first. Link heartbeats are left out.
    ///
    /// # Errors
    /// [`CodecError`]: the connection cannot be used any further.
    pub fn decode(&mut self, input: &mut BytesMut) -> Result<Option<Message>, CodecError> {
        loop {
            if input.len() < self.need {
                return Ok(None);
            }
            let message = match self.kind {
                StreamKind::Message => self.message(input)?,
                StreamKind::MsgApp => self.msgapp(input)?,
            };
            match message {
                None => return Ok(None),
                Some(message) if is_link_heartbeat(&message) => self.need = 1,
                Some(message) => {
                    self.need = 1;
                    return Ok(Some(message));
                }
            }
        }
    }

    fn message(&mut self, input: &mut BytesMut) -> Result<Option<Message>, CodecError> {
        match frame_end(input, 0)? {
            Ok(end) => {
                let frame = input.split_to(end).freeze().slice(8..);
                Ok(Some(Message::decode(frame)?))
            }
            Err(need) => self.wait(need),
        }
    }

    fn msgapp(&mut self, input: &mut BytesMut) -> Result<Option<Message>, CodecError> {
        match input[0] {
            LINK_HEARTBEAT => {
                input.advance(1);
                Ok(Some(Message {
                    r#type: MessageType::MsgHeartbeat.into(),
                    ..Message::default()
                }))
            }
            APP => match frame_end(input, 1)? {
                Ok(end) => {
                    let frame = input.split_to(end).freeze().slice(9..);
                    let message = Message::decode(frame)?;
                    self.predictor.set(&message);
                    Ok(Some(message))
                }
                Err(need) => self.wait(need),
            },
            APP_ENTRIES => self.app_entries(input),
            other => Err(CodecError::UnknownType(other)),
        }
    }

    fn app_entries(&mut self, input: &mut BytesMut) -> Result<Option<Message>, CodecError> {
        if input.len() < 9 {
            return self.wait(9);
        }
        let count = u64::from_be_bytes(input[1..9].try_into().unwrap_or_default());
        if count > FRAME_BYTES_MAX {
            return Err(CodecError::TooLarge(count));
        }
        // First find the end, then take the bytes: nothing is consumed of a frame that is not complete.
        let mut end = 9;
        for _ in 0..count {
            match frame_end(input, end)? {
                Ok(next) => end = next,
                Err(need) => return self.wait(need),
            }
            if end as u64 > FRAME_BYTES_MAX {
                return Err(CodecError::TooLarge(end as u64));
            }
        }
        if input.len() < end + 8 {
            return self.wait(end + 8);
        }
        let mut frame: Bytes = input.split_to(end + 8).freeze();
        frame.advance(9);
        let mut entries = Vec::new();
        for _ in 0..count {
            let len = frame.get_u64() as usize;
            entries.push(Entry::decode(frame.split_to(len))?);
        }
        let message = Message {
            r#type: MessageType::MsgApp.into(),
            from: self.remote,
            to: self.local,
            term: self.predictor.term,
            log_term: self.predictor.term,
            index: self.predictor.index,
            commit: frame.get_u64(),
            entries,
            ..Message::default()
        };
        // Where it began is the peer's word: an index at the end of its range must not end this process.
        self.predictor.index = self.predictor.index.wrapping_add(count);
        Ok(Some(message))
    }

    fn wait(&mut self, need: usize) -> Result<Option<Message>, CodecError> {
        self.need = need;
        Ok(None)
    }
}

/// Where the frame that starts at `start` ends, or how many bytes are needed to say so.
fn frame_end(input: &[u8], start: usize) -> Result<Result<usize, usize>, CodecError> {
    let Some(head) = input.get(start..start + 8) else {
        return Ok(Err(start + 8));
    };
    let len = u64::from_be_bytes(head.try_into().unwrap_or_default());
    if len > FRAME_BYTES_MAX {
        return Err(CodecError::TooLarge(len));
    }
    let end = start + 8 + len as usize;
    Ok(if input.len() < end { Err(end) } else { Ok(end) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn app(term: u64, log_term: u64, index: u64, entries: usize) -> Message {
        let entries = (1..=entries as u64).map(|i| Entry {
            term,
            index: index + i,
            data: Bytes::from(vec![i as u8; 10 * i as usize]),
            ..Entry::default()
        });
        Message {
            r#type: MessageType::MsgApp.into(),
            from: 2,
            to: 1,
            term,
            log_term,
            index,
            commit: index,
            entries: entries.collect(),
            ..Message::default()
        }
    }

    fn round_trip(kind: StreamKind, messages: &[Message], chunk: usize) -> Vec<Message> {
        let (mut encoder, mut decoder) = (Encoder::new(kind), Decoder::new(kind, 1, 2));
        let mut wire = BytesMut::new();
        for message in messages {
            encoder.encode(message, &mut wire);
            encoder.heartbeat(&mut wire);
        }
        let (mut input, mut out) = (BytesMut::new(), Vec::new());
        for part in wire.chunks(chunk) {
            input.extend_from_slice(part);
            while let Some(message) = decoder.decode(&mut input).unwrap() {
                out.push(message);
            }
        }
        assert!(input.is_empty());
        out
    }

    #[test]
    fn messages_survive_both_streams_in_pieces_of_any_size() {
        let messages = [
            app(1, 0, 0, 2),
            app(1, 1, 2, 3),
            app(1, 1, 5, 0),
            app(1, 1, 5, 1),
            app(2, 1, 6, 1),
            app(2, 2, 4, 1),
        ];
        for kind in [StreamKind::Message, StreamKind::MsgApp] {
            for chunk in [1, 7, 64, 100_000] {
                assert_eq!(
                    round_trip(kind, &messages, chunk),
                    messages,
                    "{kind:?} in pieces of {chunk}"
                );
            }
        }
    }

    #[test]
    fn a_continued_append_leaves_its_message_out() {
        let mut encoder = Encoder::new(StreamKind::MsgApp);
        let mut wire = BytesMut::new();
        encoder.encode(&app(1, 0, 0, 2), &mut wire);
        assert_eq!(wire[0], APP);
        wire.clear();
        encoder.encode(&app(1, 1, 2, 3), &mut wire);
        assert_eq!(wire[0], APP_ENTRIES);
    }

    #[test]
    fn an_index_at_the_end_of_its_range_is_read_and_no_more() {
        let mut wire = BytesMut::new();
        let mut encoder = Encoder::new(StreamKind::MsgApp);
        encoder.encode(&app(1, 0, u64::MAX, 0), &mut wire);
        wire.put_u8(APP_ENTRIES);
        wire.put_u64(1);
        put_frame(&Entry::default(), &mut wire);
        wire.put_u64(7);
        let mut decoder = Decoder::new(StreamKind::MsgApp, 1, 2);
        assert_eq!(decoder.decode(&mut wire).unwrap().unwrap().index, u64::MAX);
        assert_eq!(decoder.decode(&mut wire).unwrap().unwrap().commit, 7);
    }

    #[test]
    fn huge_lengths_and_garbage_are_errors() {
        let huge = (FRAME_BYTES_MAX + 1).to_be_bytes();
        let mut decoder = Decoder::new(StreamKind::Message, 1, 2);
        assert!(matches!(
            decoder.decode(&mut BytesMut::from(&huge[..])),
            Err(CodecError::TooLarge(_))
        ));
        for first in [3u8, 0xff] {
            let mut decoder = Decoder::new(StreamKind::MsgApp, 1, 2);
            assert!(matches!(
                decoder.decode(&mut BytesMut::from(&[first][..])),
                Err(CodecError::UnknownType(_))
            ));
        }
        let mut wire = BytesMut::new();
        wire.put_u8(APP);
        wire.put_u64(3);
        wire.put_slice(&[0xff, 0xff, 0xff]);
        assert!(Decoder::new(StreamKind::MsgApp, 1, 2).decode(&mut wire).is_err());
    }
}
