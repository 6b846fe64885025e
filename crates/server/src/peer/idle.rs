//! Connections to other members that wait for the next request: a keep-alive that goes to the leader need not pay for a
//! connection, and with TLS for a handshake, of its own.
//!
//! Invariants:
//! - A connection is in here only between requests: whoever takes one has it alone, and gives it back once the answer has been
//!   read to its end.
//! - None is used that has rested for longer than [`REST_MAX`]: a Go member hangs up after 5 s of silence.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use hyper::client::conn::http1::SendRequest;

use super::dial::PeerBody;

/// How long a connection may rest (etcd's ConnReadTimeout on the other side is 5 s).
const REST_MAX: Duration = Duration::from_secs(3);
/// Connections kept per URL; more of them at a time are made and closed.
const PER_URL_MAX: usize = 128;

#[derive(Debug)]
struct Resting {
    connection: SendRequest<PeerBody>,
    since: Instant,
}

/// See the module. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Idle {
    resting: Arc<Mutex<HashMap<String, Vec<Resting>>>>,
}

impl Idle {
    /// A connection to this URL that is still open, the one used last first.
    pub fn take(&self, url: &str) -> Option<SendRequest<PeerBody>> {
        let mut resting = self.resting.lock().unwrap_or_else(PoisonError::into_inner);
        let list = resting.get_mut(url)?;
        while let Some(Resting { connection, since }) = list.pop() {
            if since.elapsed() > REST_MAX {
                // The others have rested for longer.
                list.clear();
                return None;
            }
            if connection.is_ready() {
                return Some(connection);
            }
        }
        None
    }

    /// Keeps a connection for the next request.
    pub fn give_back(&self, url: &str, connection: SendRequest<PeerBody>) {
        if connection.is_closed() {
            return;
        }
        let mut resting = self.resting.lock().unwrap_or_else(PoisonError::into_inner);
        let list = match resting.get_mut(url) {
            Some(list) => list,
            None => resting.entry(url.to_owned()).or_default(),
        };
        let stale = list.iter().take_while(|one| one.since.elapsed() > REST_MAX).count();
        list.drain(..stale);
        if list.len() < PER_URL_MAX {
            list.push(Resting {
                connection,
                since: Instant::now(),
            });
        }
    }
}
