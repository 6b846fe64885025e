//! Spans of time: by the machine's steady clock, or by one that a simulator moves by hand.
//!
//! Invariants:
//! 1. The operator measures and waits by nothing else, so that under a simulator its hours pass in milliseconds, and
//!    alike each time.
//! 2. A thread without a [`Manual`] clock has the machine's.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;
pub use tokio::time::Instant;

/// It took too long.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("too late")]
pub struct Elapsed;

/// This moment.
pub fn now() -> Instant {
    match manual() {
        Some(manual) => manual.now(),
        None => Instant::now(),
    }
}

/// How long ago `then` was.
pub fn since(then: Instant) -> Duration {
    now().saturating_duration_since(then)
}

/// A pause.
pub fn sleep(pause: Duration) -> Sleep {
    match manual() {
        Some(manual) => {
            let end = manual.now() + pause;
            Sleep::Manual(manual, end, None)
        }
        None => Sleep::Machine(Box::pin(tokio::time::sleep(pause))),
    }
}

/// What `work` comes to, if it does within `patience`.
pub async fn timeout<F: Future>(patience: Duration, work: F) -> Result<F::Output, Elapsed> {
    let late = sleep(patience);
    tokio::select! {
        biased;
        done = work => Ok(done),
        () = late => Err(Elapsed),
    }
}

/// What `work` comes to, if it does before `end`.
pub async fn timeout_at<F: Future>(end: Instant, work: F) -> Result<F::Output, Elapsed> {
    timeout(end.saturating_duration_since(now()), work).await
}

/// A pause that is under way.
#[derive(Debug)]
pub enum Sleep {
    /// By the machine's clock.
    Machine(Pin<Box<tokio::time::Sleep>>),
    /// By a simulator's, until this moment; and under which number it is to be woken.
    Manual(Manual, Instant, Option<u64>),
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        match &mut *self {
            Sleep::Machine(sleep) => sleep.as_mut().poll(context),
            Sleep::Manual(manual, end, number) => {
                let mut state = manual.state();
                if let Some(number) = number.take() {
                    state.waiting.remove(&(*end, number));
                }
                if state.now >= *end {
                    return Poll::Ready(());
                }
                state.count += 1;
                let mine = state.count;
                state.waiting.insert((*end, mine), context.waker().clone());
                *number = Some(mine);
                Poll::Pending
            }
        }
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let Sleep::Manual(manual, end, Some(number)) = self {
            manual.state().waiting.remove(&(*end, *number));
        }
    }
}

thread_local! {
    static HERE: RefCell<Option<Manual>> = const { RefCell::new(None) };
}

fn manual() -> Option<Manual> {
    HERE.with(|here| here.borrow().clone())
}

/// A clock that stands still until it is moved.
#[derive(Debug, Clone)]
pub struct Manual(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    now: Instant,
    count: u64,
    waiting: BTreeMap<(Instant, u64), Waker>,
}

impl Manual {
    /// This thread's clock from now on, until what is returned is dropped.
    pub fn install() -> (Manual, Installed) {
        let manual = Manual(Arc::new(Mutex::new(State {
            now: Instant::now(),
            count: 0,
            waiting: BTreeMap::new(),
        })));
        HERE.with(|here| *here.borrow_mut() = Some(manual.clone()));
        (manual, Installed(()))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// This moment.
    pub fn now(&self) -> Instant {
        self.state().now
    }

    /// Moves on to the next moment that somebody waits for, and wakes the first who does; false when nobody waits.
    pub fn advance(&self) -> bool {
        let first = {
            let mut state = self.state();
            let Some(((end, _), waker)) = state.waiting.pop_first() else {
                return false;
            };
            state.now = state.now.max(end);
            waker
        };
        first.wake();
        true
    }
}

/// Takes the clock away again when dropped.
#[derive(Debug)]
pub struct Installed(());

impl Drop for Installed {
    fn drop(&mut self) {
        HERE.with(|here| *here.borrow_mut() = None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manual_clock_wakes_in_order_and_takes_no_time() {
        let (clock, _installed) = Manual::install();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .event_interval(u32::MAX)
            .build()
            .expect("a runtime");
        let begun = std::time::Instant::now();
        let order = runtime.block_on(async {
            let heard = Arc::new(Mutex::new(Vec::new()));
            for hours in [3_u64, 1, 2] {
                let heard = Arc::clone(&heard);
                tokio::spawn(async move {
                    sleep(Duration::from_secs(hours * 3600)).await;
                    heard.lock().expect("not poisoned").push(hours);
                });
            }
            let late = timeout(Duration::from_secs(60), std::future::pending::<()>());
            let late = tokio::spawn(late);
            for _ in 0..10 {
                tokio::task::yield_now().await;
                clock.advance();
            }
            assert_eq!(late.await.expect("no panic"), Err(Elapsed));
            Arc::into_inner(heard).expect("all are done").into_inner()
        });
        assert_eq!(order.expect("not poisoned"), [1, 2, 3]);
        assert!(begun.elapsed() < Duration::from_secs(60), "hours are not waited for");
    }
}
