//! Watches (etcd server/etcdserver/api/v3rpc/watch.go).
//!
//! Invariants:
//! - What a client reads comes in the order of the hub's queue: "created" before the first event, progress never ahead of one.
//! - Requests are read while the client takes its answers: one that does not read makes the hub mark it slow, and nothing piles
//!   up here.
//! - The stream stays open when the client only ends its half, as in etcd.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use disk::RealDisk;
use proto::etcdserverpb::watch_request::RequestUnion;
use proto::etcdserverpb::watch_server::Watch;
use proto::etcdserverpb::{WatchCreateRequest, WatchRequest, WatchResponse};
use replica::state_machine::Error as Refusal;
use replica::state_machine::mvcc::{Delivery, Notify, StreamOptions, WatchStream};
use tokio_stream::Stream;
use tonic::metadata::MetadataMap;
use tonic::{Code, Request, Response, Status, Streaming};

use super::call::{Call, status, stream_over};
use super::{Api, OVERHEAD_BYTES};
use crate::auth::Credentials;
use crate::handle::Error;
use crate::listener::Connection;
use crate::member::Member;
use crate::metrics::rpc::Method;

/// Deliveries that may wait before no more requests are read from the client.
const QUEUED_MAX: usize = 1024;

/// Wakes the task that sends to a client.
#[derive(Default)]
struct Wake(Mutex<Option<Waker>>);

impl Wake {
    fn register(&self, waker: &Waker) {
        let mut slot = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if slot.as_ref().is_none_or(|known| !known.will_wake(waker)) {
            *slot = Some(waker.clone());
        }
    }
}

impl Notify for Wake {
    fn notify(&self) {
        let waker = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

/// Why a stream must end before its client wants it to.
type Over = Pin<Box<dyn Future<Output = Error> + Send>>;

/// The answers to one client.
pub(super) struct Answers {
    member: Arc<Member>,
    metadata: MetadataMap,
    connection: Arc<Connection>,
    requests: Option<Streaming<WatchRequest>>,
    watchers: WatchStream<RealDisk>,
    wake: Arc<Wake>,
    /// Pieces of a delivery that was cut into several messages.
    pieces: VecDeque<WatchResponse>,
    over: Over,
    call: Option<Call>,
    fragment_bytes: usize,
}

#[tonic::async_trait]
impl Watch for Api {
    type WatchStream = Answers;

    async fn watch(&self, request: Request<Streaming<WatchRequest>>) -> Result<Response<Answers>, Status> {
        let (call, requires_leader, _) = self.stream(Method::Watch, request.metadata()).await?;
        let member = self.member.clone();
        let wake = Arc::new(Wake::default());
        let options = StreamOptions {
            progress_interval: with_jitter(member.config.watch_progress_interval()),
            ..StreamOptions::default()
        };
        let watchers = member.watches.open(options, wake.clone(), member.uptime());
        let fragment_bytes = usize::try_from(member.config.max_request_bytes).unwrap_or(usize::MAX);
        Ok(Response::new(Answers {
            over: Box::pin(stream_over(member.clone(), requires_leader)),
            metadata: request.metadata().clone(),
            connection: self.connection.clone(),
            requests: Some(request.into_inner()),
            watchers,
            wake,
            pieces: VecDeque::new(),
            call: Some(call),
            fragment_bytes: fragment_bytes.saturating_add(OVERHEAD_BYTES),
            member,
        }))
    }
}

/// Up to a tenth more, so that watches that began together are not all told of progress together.
fn with_jitter(interval: Duration) -> Duration {
    interval + interval.mul_f64(rand::random_range(0.0..0.1))
}

impl Answers {
    /// Reads what the client asks for. The code is why its half of the stream ended in failure.
    fn take_requests(&mut self, cx: &mut Context<'_>) -> Result<(), Status> {
        while self.watchers.queued() < QUEUED_MAX {
            let Some(requests) = &mut self.requests else {
                return Ok(());
            };
            match Pin::new(requests).poll_next(cx) {
                Poll::Ready(Some(Ok(request))) => self.carry_out(request),
                Poll::Ready(Some(Err(status))) => {
                    self.requests = None;
                    return Err(match status.code() {
                        Code::Cancelled => Status::cancelled("etcdserver: watch canceled"),
                        _ => status,
                    });
                }
                Poll::Ready(None) => self.requests = None,
                Poll::Pending => return Ok(()),
            }
        }
        // Comes back when the client has taken some answers: this is polled again after each.
        Ok(())
    }

    fn carry_out(&mut self, request: WatchRequest) {
        if let Some(call) = &self.call {
            call.received();
        }
        match request.request_union {
            Some(RequestUnion::CreateRequest(request)) => match self.reason_not_permitted(&request) {
                Some(reason) => self.watchers.refuse(reason),
                None => self.watchers.create(&request),
            },
            Some(RequestUnion::CancelRequest(request)) => self.watchers.cancel(request.watch_id),
            Some(RequestUnion::ProgressRequest(_)) => self.watchers.request_progress(),
            None => tracing::info!("invalid watch request received in gRPC stream"),
        }
    }

    /// Why the client may not watch this. Who is watching already goes on when the right is taken away, as in etcd.
    fn reason_not_permitted(&self, request: &WatchCreateRequest) -> Option<String> {
        if request.start_revision < 0 {
            // The hub has its own reason for that, and it comes first.
            return None;
        }
        let credentials = Credentials {
            metadata: &self.metadata,
            connection: &self.connection,
        };
        let auth = &self.member.auth;
        let asker = auth.asker_now(&credentials, self.member.uptime());
        let key = if request.key.is_empty() {
            b"\0"
        } else {
            &request.key[..]
        };
        let verdict = asker
            .info()
            .and_then(|info| Ok(auth.table.check_read(&info, key, &request.range_end)?));
        let refusal = match verdict {
            Ok(()) => return None,
            Err(Error::Refused(
                error @ (Refusal::InvalidAuthToken | Refusal::AuthOldRevision | Refusal::UserEmpty),
            )) => error,
            Err(_) => Refusal::PermissionDenied,
        };
        Some(format!("rpc error: code = {:?} desc = {refusal}", refusal.code()))
    }

    fn next_piece(&mut self) -> Option<WatchResponse> {
        if let Some(piece) = self.pieces.pop_front() {
            return Some(piece);
        }
        let started = Instant::now();
        let delivery = self.watchers.pop()?;
        let metrics = &self.member.metrics;
        let events = match &delivery {
            Delivery::Events { events, .. } => events.len(),
            _ => 0,
        };
        let mut pieces = delivery
            .into_responses(self.member.header_without_revision(), self.fragment_bytes)
            .into_iter();
        let first = pieces.next();
        self.pieces.extend(pieces);
        let took = started.elapsed();
        if events > 0 {
            metrics.events.add(events as u64);
            metrics.watch_send.took(took);
            metrics.watch_send_event.observe(took.as_secs_f64() / events as f64);
        } else {
            metrics.watch_send_control.took(took);
        }
        first
    }

    fn finish(&mut self, status: Status) -> Poll<Option<Result<WatchResponse, Status>>> {
        if let Some(call) = self.call.take() {
            call.end(status.code());
        }
        Poll::Ready(Some(Err(status)))
    }
}

impl Stream for Answers {
    type Item = Result<WatchResponse, Status>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        if this.call.is_none() {
            return Poll::Ready(None);
        }
        if let Poll::Ready(error) = this.over.as_mut().poll(cx) {
            return this.finish(status(error));
        }
        // First, so that a notice between looking into the queue and returning is not lost.
        this.wake.register(cx.waker());
        if let Err(status) = this.take_requests(cx) {
            return this.finish(status);
        }
        match this.next_piece() {
            Some(piece) => {
                if let Some(call) = &this.call {
                    call.sent();
                }
                Poll::Ready(Some(Ok(piece)))
            }
            None => Poll::Pending,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jitter_is_a_tenth_at_most() {
        for _ in 0..100 {
            let interval = with_jitter(Duration::from_secs(10));
            assert!(interval >= Duration::from_secs(10) && interval <= Duration::from_secs(11));
        }
    }
}
