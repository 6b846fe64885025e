//! A response stream made by an async block that runs whenever the stream is polled: no task, no queue. A client that renews a lease
//! with a stream of its own each time, as etcd's KeepAliveOnce does, pays for one allocation.
//!
//! Invariant: at most one item waits; the block goes on only after it was taken.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use tokio_stream::Stream;

/// Hands items to the stream.
#[derive(Debug)]
pub(super) struct Items<T>(Arc<Mutex<Option<T>>>);

impl<T> Items<T> {
    /// Waits until the item is taken.
    pub async fn give(&self, item: T) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(item);
        std::future::poll_fn(|_| {
            let taken = self.0.lock().unwrap_or_else(PoisonError::into_inner).is_none();
            // Nobody need be woken: the stream polls the block again when it is polled for the next item.
            if taken { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }
}

/// See the module.
pub struct Generator<T> {
    block: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    waiting: Arc<Mutex<Option<T>>>,
}

impl<T> std::fmt::Debug for Generator<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Generator(ended: {})", self.block.is_none())
    }
}

impl<T: Send + 'static> Generator<T> {
    /// The stream of what `block` gives.
    pub(super) fn new<F: Future<Output = ()> + Send + 'static>(block: impl FnOnce(Items<T>) -> F) -> Generator<T> {
        let waiting = Arc::new(Mutex::new(None));
        Generator {
            block: Some(Box::pin(block(Items(waiting.clone())))),
            waiting,
        }
    }

    /// The stream, once it has its first item or has ended. As with a Go server, headers go out together with the first message:
    /// a client is woken once, not twice.
    pub(super) async fn begun(mut self) -> Generator<T> {
        std::future::poll_fn(|cx| {
            self.run(cx);
            let waits = self.waiting.lock().unwrap_or_else(PoisonError::into_inner).is_some();
            if waits || self.block.is_none() {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        })
        .await;
        self
    }
}

impl<T> Generator<T> {
    /// Lets the block go on; whether it has ended.
    fn run(&mut self, cx: &mut Context<'_>) -> bool {
        if let Some(block) = &mut self.block
            && block.as_mut().poll(cx).is_ready()
        {
            self.block = None;
        }
        self.block.is_none()
    }
}

impl<T> Stream for Generator<T> {
    type Item = T;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<T>> {
        let this = self.get_mut();
        let ended = this.run(cx);
        match this.waiting.lock().unwrap_or_else(PoisonError::into_inner).take() {
            Some(item) => Poll::Ready(Some(item)),
            None if ended => Poll::Ready(None),
            None => Poll::Pending,
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio_stream::StreamExt;

    use super::*;

    #[tokio::test]
    async fn items_come_in_order_and_the_stream_ends_with_the_block() {
        let (tell, mut told) = tokio::sync::oneshot::channel();
        let mut numbers = Generator::new(|items| async move {
            items.give(1).await;
            tokio::task::yield_now().await;
            items.give(2).await;
            tell.send(()).ok();
        })
        .begun()
        .await;
        assert_eq!(numbers.next().await, Some(1));
        assert!(told.try_recv().is_err());
        assert_eq!(numbers.next().await, Some(2));
        assert_eq!(numbers.next().await, None);
        assert!(told.try_recv().is_ok());
        assert_eq!(numbers.next().await, None);
    }
}
