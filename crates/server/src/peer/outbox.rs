//! What waits to be sent to a peer on one of its streams, and the response body that carries it.
//!
//! Invariants:
//! - At most one connection drains an outbox: a new one takes over and the old one's body ends.
//! - `push` never waits and never grows the queue past its bound: what does not fit is refused, and the caller tells raft.
//! - A connection that breaks takes the queued messages with it, and raft is told that the peer is unreachable (etcd's rule:
//!   raft resends what matters).

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body::{Body, Frame};
use proto::raftpb::Message;
use tokio::time::{Interval, MissedTickBehavior, interval};

use super::codec::{Encoder, StreamKind};

/// Messages that may wait (etcd's streamBufSize).
const MESSAGES_MAX: usize = 4096;
/// Bytes put into one body frame before the socket gets its turn.
const FRAME_BYTES: usize = 256 * 1024;
/// A third of the 5 s after which the reader gives a silent connection up.
const KEEPALIVE: Duration = Duration::from_millis(5000 / 3);

/// One stream's queue. Cheap to clone.
#[derive(Clone)]
pub struct Outbox {
    kind: StreamKind,
    state: Arc<Mutex<State>>,
    broken: Arc<dyn Fn() + Send + Sync>,
    sent_bytes: Arc<dyn Fn(u64) + Send + Sync>,
}

#[derive(Default)]
struct State {
    queue: VecDeque<Message>,
    /// Which connection drains the queue; grows with each.
    generation: u64,
    attached: bool,
    waker: Option<Waker>,
}

impl Outbox {
    /// `broken` is called when a connection ends with messages unsent; `sent_bytes` for what went out.
    pub fn new(
        kind: StreamKind,
        broken: impl Fn() + Send + Sync + 'static,
        sent_bytes: impl Fn(u64) + Send + Sync + 'static,
    ) -> Outbox {
        Outbox {
            kind,
            state: Arc::default(),
            broken: Arc::new(broken),
            sent_bytes: Arc::new(sent_bytes),
        }
    }

    /// Whether a connection drains this outbox.
    pub fn attached(&self) -> bool {
        self.lock().attached
    }

    /// Queues a message; gives it back when no connection is attached or the queue is full.
    // The message is as large as a message is; it comes back on the rare path only.
    #[allow(clippy::result_large_err)]
    pub fn push(&self, message: Message) -> Result<(), Message> {
        let mut state = self.lock();
        if !state.attached || state.queue.len() >= MESSAGES_MAX {
            return Err(message);
        }
        state.queue.push_back(message);
        let waker = state.waker.take();
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
        Ok(())
    }

    /// A new connection's body; an older one ends.
    pub fn attach(&self) -> StreamBody {
        let mut state = self.lock();
        state.generation += 1;
        state.attached = true;
        let generation = state.generation;
        let waker = state.waker.take();
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
        let mut keepalive = interval(KEEPALIVE);
        keepalive.set_missed_tick_behavior(MissedTickBehavior::Delay);
        StreamBody {
            outbox: self.clone(),
            generation,
            encoder: Encoder::new(self.kind),
            keepalive,
            buffer: BytesMut::new(),
        }
    }

    /// Ends the attached connection: the peer was removed.
    pub fn close(&self) {
        let mut state = self.lock();
        state.generation += 1;
        state.attached = false;
        state.queue.clear();
        if let Some(waker) = state.waker.take() {
            waker.wake();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A holder never panics between two changes, so the state behind a poisoned lock is whole.
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// The body of a stream's response: frames for as long as the connection lives.
pub struct StreamBody {
    outbox: Outbox,
    generation: u64,
    encoder: Encoder,
    keepalive: Interval,
    buffer: BytesMut,
}

impl Body for StreamBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let this = self.get_mut();
        {
            let mut state = this.outbox.lock();
            if state.generation != this.generation {
                return Poll::Ready(None);
            }
            while this.buffer.len() < FRAME_BYTES {
                let Some(message) = state.queue.pop_front() else { break };
                this.encoder.encode(&message, &mut this.buffer);
            }
            if this.buffer.is_empty() {
                state.waker = Some(cx.waker().clone());
            }
        }
        if this.buffer.is_empty() {
            if this.keepalive.poll_tick(cx).is_pending() {
                return Poll::Pending;
            }
            this.encoder.heartbeat(&mut this.buffer);
        } else {
            this.keepalive.reset();
        }
        let frame = this.buffer.split().freeze();
        (this.outbox.sent_bytes)(frame.len() as u64);
        Poll::Ready(Some(Ok(Frame::data(frame))))
    }
}

impl Drop for StreamBody {
    fn drop(&mut self) {
        let mut state = self.outbox.lock();
        if state.generation != self.generation {
            return;
        }
        state.attached = false;
        let unsent = !state.queue.is_empty();
        state.queue.clear();
        drop(state);
        if unsent {
            (self.outbox.broken)();
        }
    }
}
