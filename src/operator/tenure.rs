//! The lease, kept aside: its election runs where nothing else of this process does.
//!
//! Invariants:
//! 1. On a machine the election, its client and the connections of that client live on a thread of their own. Hundreds of
//!    clusters that are looked at together fill the queue of every other thread; no renewal stands in it.
//! 2. Dropping a [`Tenure`] ends the election and leaves the lease to expire; only [`Tenure::release`] gives it away.

use super::lease::Election;
use crate::platform::surroundings::Aside;
use tokio::sync::{oneshot, watch};
use tokio::task::AbortHandle;

#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    /// Another holds it, or the API server is away.
    Reaching,
    Held,
    /// And why.
    Lost(String),
}

/// The time for which this process holds the lease, from the first reach for it.
#[derive(Debug)]
pub struct Tenure {
    state: watch::Receiver<State>,
    release: Option<oneshot::Sender<()>>,
    task: Option<AbortHandle>,
    /// Without election there is nobody else who says that it is held.
    _always: Option<watch::Sender<State>>,
}

impl Tenure {
    /// Reaches for the lease, keeps it, and gives it away when told to.
    pub fn begin(mut election: Election, aside: &Aside) -> Tenure {
        let (tell, state) = watch::channel(State::Reaching);
        let (release, mut released) = oneshot::channel();
        let task = aside.spawn(async move {
            tokio::select! {
                biased;
                Ok(()) = &mut released => return,
                () = election.win() => {}
            }
            tell.send_replace(State::Held);
            tokio::select! {
                biased;
                why = election.keep() => {
                    tell.send_replace(State::Lost(why));
                }
                Ok(()) = released => election.release().await,
            }
        });
        Tenure {
            state,
            release: Some(release),
            task: Some(task.abort_handle()),
            _always: None,
        }
    }

    /// Held from the beginning and never lost: for an operator that was told to run without election.
    pub fn without_election() -> Tenure {
        let (always, state) = watch::channel(State::Held);
        Tenure {
            state,
            release: None,
            task: None,
            _always: Some(always),
        }
    }

    /// Returns when the lease is held.
    pub async fn held(&mut self) {
        // A closed channel is for `lost` to tell.
        let _ = self.state.wait_for(|state| *state != State::Reaching).await;
    }

    /// Returns when the lease is lost, with why.
    pub async fn lost(&mut self) -> String {
        match self
            .state
            .wait_for(|state| matches!(state, State::Lost(_)))
            .await
            .as_deref()
        {
            Ok(State::Lost(why)) => why.clone(),
            Ok(State::Reaching | State::Held) | Err(_) => "the election ended by itself".to_owned(),
        }
    }

    /// Gives the lease away, if it is held, so that the next operator need not wait for it to expire.
    pub async fn release(mut self) {
        let Some(release) = self.release.take() else { return };
        if release.send(()).is_ok() {
            // Closed when the task has ended.
            while self.state.changed().await.is_ok() {}
        }
    }
}

impl Drop for Tenure {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::lease::{Gate, Terms};
    use super::*;
    use crate::platform::surroundings::Machine;
    use http::{Method, Request, Response};
    use http_body_util::BodyExt;
    use kube::client::Body;
    use kube::{Api, Client};
    use std::sync::{Arc, Mutex};
    use std::time::Duration;

    /// An API server that knows one Lease.
    fn api_server() -> Client {
        let kept: Arc<Mutex<Option<Vec<u8>>>> = Arc::default();
        let service = tower::service_fn(move |request: Request<Body>| {
            let kept = Arc::clone(&kept);
            async move {
                let (head, body) = request.into_parts();
                let sent = body.collect().await?.to_bytes().to_vec();
                let mut kept = kept.lock().expect("not poisoned");
                if head.method != Method::GET {
                    *kept = Some(sent);
                }
                let (code, text) = match kept.clone() {
                    Some(lease) => (200, lease),
                    None => (
                        404,
                        br#"{"kind":"Status","code":404,"reason":"NotFound","message":"none"}"#.to_vec(),
                    ),
                };
                let answer = Response::builder().status(code).body(Body::from(text));
                Ok::<_, tower::BoxError>(answer?)
            }
        });
        Client::new(service, "default")
    }

    fn reached(aside: &Aside) -> (Tenure, Gate) {
        let terms = Terms {
            duration: Duration::from_secs(5),
            deadline: Duration::from_secs(2),
            retry: Duration::from_millis(100),
            ..Terms::new("quorate", "me")
        };
        let gate = Gate::default();
        let leases = Api::namespaced(aside.inside(api_server), "default");
        let election = Election::new(leases, terms, gate.clone(), Arc::new(Machine));
        (Tenure::begin(election, aside), gate)
    }

    #[tokio::test]
    async fn the_lease_is_kept_while_all_other_threads_are_busy() {
        let aside = Aside::thread("aside").expect("a thread");
        let (mut tenure, gate) = reached(&aside);
        tenure.held().await;
        // This runtime has no other thread: nothing of it goes on meanwhile.
        std::thread::sleep(Duration::from_secs(4));
        assert!(gate.open(), "renewed meanwhile");
        assert!(!matches!(*tenure.state.borrow(), State::Lost(_)));
        tenure.release().await;
        assert!(!gate.open(), "given away");
    }

    #[tokio::test]
    async fn a_lease_that_is_not_kept_aside_is_not_renewed_by_busy_threads_and_the_gate_shuts() {
        let (mut tenure, gate) = reached(&Aside::here());
        tenure.held().await;
        std::thread::sleep(Duration::from_secs(4));
        assert!(!gate.open(), "the gate shuts by itself, in time");
    }
}
