//! Passwords: hashed before they are proposed, checked where they arrive.
//!
//! Invariants:
//! - Hashing is slow by design and never runs on the threads that serve; no more of it at a time than there are processors, so that
//!   a flood of logins cannot starve the rest.
//! - Hashes are bcrypt's `$2a$`, as Go makes them: any member, of either kind, can check any.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bcrypt::Version;
use tokio::sync::Semaphore;

use crate::handle::Error;

/// Bounds and default of bcrypt's cost (golang.org/x/crypto/bcrypt).
const COST_MIN: u64 = 4;
const COST_MAX: u64 = 31;
const COST_DEFAULT: u32 = 10;
/// Bytes of a password that bcrypt can tell apart.
const BYTES_MAX: usize = 72;

/// See the module.
#[derive(Debug)]
pub struct Passwords {
    cost: u32,
    at_work: Arc<Semaphore>,
}

impl Passwords {
    /// With `--bcrypt-cost`; one that bcrypt does not know is replaced by its default, as in etcd.
    pub fn new(cost: u64) -> Passwords {
        let cost = match u32::try_from(cost) {
            Ok(known) if (COST_MIN..=COST_MAX).contains(&cost) => known,
            _ => {
                tracing::warn!(
                    min_cost = COST_MIN,
                    max_cost = COST_MAX,
                    default_cost = COST_DEFAULT,
                    given_cost = cost,
                    "use default bcrypt cost instead of the invalid given cost"
                );
                COST_DEFAULT
            }
        };
        let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Passwords {
            cost,
            at_work: Arc::new(Semaphore::new(processors)),
        }
    }

    /// The hash of a password, in base64, as entries hold it.
    ///
    /// # Errors
    /// A password of more than 72 bytes.
    pub async fn hash(&self, password: String) -> Result<String, Error> {
        if password.len() > BYTES_MAX {
            return Err(Error::Internal("bcrypt: password length exceeds 72 bytes".into()));
        }
        let cost = self.cost;
        self.work(move || {
            let salt: [u8; 16] = rand::random();
            bcrypt::hash_with_salt(password, cost, salt)
                .map(|hash| STANDARD.encode(hash.format_for_version(Version::TwoA)))
                .map_err(|error| Error::Internal(format!("bcrypt: {error}")))
        })
        .await?
    }

    /// Whether a password has this hash.
    ///
    /// # Errors
    /// The member is stopping.
    pub async fn verify(&self, password: String, hash: Vec<u8>) -> Result<bool, Error> {
        self.work(move || {
            let hash = String::from_utf8(hash).unwrap_or_default();
            // A hash that cannot be read is one that nothing has.
            bcrypt::verify(password, &hash).unwrap_or(false)
        })
        .await
    }

    async fn work<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T, Error> {
        let permit = self.at_work.clone().acquire_owned().await.map_err(|_| Error::Stopped)?;
        // The permit goes along: a client that gives up does not make room for more work than there are processors.
        let done = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            work()
        });
        done.await.map_err(|_| Error::Stopped)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn hashes_are_gos_and_checked() {
        let passwords = Passwords::new(4);
        let hash = STANDARD.decode(passwords.hash("secret".into()).await.unwrap()).unwrap();
        assert!(hash.starts_with(b"$2a$04$"), "{}", String::from_utf8_lossy(&hash));
        assert!(passwords.verify("secret".into(), hash.clone()).await.unwrap());
        assert!(!passwords.verify("Secret".into(), hash.clone()).await.unwrap());
        assert!(!passwords.verify(String::new(), hash).await.unwrap());
        assert!(!passwords.verify("secret".into(), b"no hash".to_vec()).await.unwrap());
        let empty = STANDARD.decode(passwords.hash(String::new()).await.unwrap()).unwrap();
        assert!(passwords.verify(String::new(), empty).await.unwrap());
        // Made by golang.org/x/crypto/bcrypt for "allmine" (its own test vector).
        let gos = b"$2a$10$XajjQvNhvvRt5GSeFk1xFeyqRrsxkhBkUiQeg0dt.wU1qD4aFDcga".to_vec();
        assert!(passwords.verify("allmine".into(), gos).await.unwrap());
        let error = passwords.hash("x".repeat(73)).await.unwrap_err();
        assert_eq!(error.to_string(), "bcrypt: password length exceeds 72 bytes");
    }

    #[test]
    fn a_cost_out_of_bounds_is_replaced() {
        for (given, used) in [(0, 10), (3, 10), (4, 4), (12, 12), (31, 31), (32, 10)] {
            assert_eq!(Passwords::new(given).cost, used, "{given}");
        }
    }
}
