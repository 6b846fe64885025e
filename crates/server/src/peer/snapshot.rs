//! The body of a snapshot POST: a length, the `MsgSnap`, then the database file to the end of the body.
//!
//! Invariants: the database is read on a thread of its own, a few chunks ahead of the socket and no more; reading it ends when
//! the connection does.

use std::io;

use bytes::{BufMut, Bytes, BytesMut};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use prost::Message as _;
use proto::raftpb::Message;
use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;

use super::dial::PeerBody;
use crate::handle::OutgoingSnapshot;

/// Chunks read ahead of the socket.
const AHEAD: usize = 8;
/// The largest `MsgSnap` that is read, in bytes (etcd's limit).
pub const MESSAGE_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// The index that a snapshot stands at.
pub fn index(message: &Message) -> u64 {
    message
        .snapshot
        .as_ref()
        .and_then(|snapshot| snapshot.metadata.as_ref())
        .map_or(0, |metadata| metadata.index)
}

/// The body that carries a snapshot.
pub fn body(outgoing: OutgoingSnapshot) -> PeerBody {
    let (chunks, stream) = mpsc::channel::<io::Result<Bytes>>(AHEAD);
    tokio::task::spawn_blocking(move || {
        let mut head = BytesMut::new();
        head.put_u64(outgoing.message.encoded_len() as u64);
        outgoing.message.encode_raw(&mut head);
        let whole = std::iter::once(Ok(head.freeze())).chain(outgoing.database);
        for chunk in whole {
            let failed = chunk.is_err();
            // The receiver is gone when the connection broke.
            if chunks.blocking_send(chunk).is_err() || failed {
                return;
            }
        }
    });
    StreamBody::new(ReceiverStream::new(stream).map(|chunk| chunk.map(Frame::data))).boxed_unsync()
}
