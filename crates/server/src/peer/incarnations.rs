//! Which data directory each member has. A member that comes back under its id with an empty disk would vote again, and be counted
//! for entries that it no longer has; its peers turn it away.
//!
//! Invariants:
//! - Incarnations travel in headers of their own, which Go members neither send nor read: who sends none is not checked.
//! - A peer's first incarnation is remembered on disk before the peer is let in; it is forgotten when the member is removed, whose
//!   id never comes back.
//! - The refusal is status 412 and nothing else: 410 and 403 would make a Go member shut down.
//! - A directory that held a log when it was named (it came from etcd, or from a copy without its name) is not a blank one: its
//!   new name replaces the old one.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use http::HeaderMap;
use replica::Incarnation;

use super::dial::{Identity, set};

/// The sender's data directory.
pub const FROM: &str = "x-quorate-incarnation";
/// The data directory that the sender believes the receiver to have.
pub const TO: &str = "x-quorate-incarnation-to";

const ADOPTED: &str = ";adopted";
const REFUSAL: &str = "another data directory";

/// An incarnation as a header.
pub fn text(incarnation: Incarnation) -> String {
    let flag = if incarnation.adopted { ADOPTED } else { "" };
    format!("{:032x}{flag}", incarnation.name)
}

fn parse(text: &str) -> Option<Incarnation> {
    let (name, adopted) = match text.strip_suffix(ADOPTED) {
        Some(name) => (name, true),
        None => (text, false),
    };
    let name = u128::from_str_radix(name, 16).ok().filter(|name| *name != 0)?;
    Some(Incarnation { name, adopted })
}

/// Whether a text is a refusal of this module.
pub fn is_refusal(text: &str) -> bool {
    text.contains(REFUSAL)
}

fn refusal(member_id: u64, known: u128, now: u128) -> String {
    format!(
        "member {member_id:x} comes with {REFUSAL} ({now:032x}) than before ({known:032x}): its data was lost; remove the member \
         from the cluster and add a new one, or give it back its data"
    )
}

/// Whether this member is the one that a peer believes to talk to.
///
/// # Errors
/// The refusal.
pub fn check_own(own: &Identity, expected: &str) -> Result<(), String> {
    match parse(expected) {
        Some(expected) if own.incarnation.name != 0 && !own.incarnation.adopted => {
            if expected.name == own.incarnation.name {
                return Ok(());
            }
            Err(refusal(own.member_id, expected.name, own.incarnation.name))
        }
        _ => Ok(()),
    }
}

/// See the module.
#[derive(Debug, Default)]
pub struct Incarnations {
    /// Where they are kept; nowhere in tests.
    path: Option<PathBuf>,
    met: Mutex<Met>,
}

#[derive(Debug, Default)]
struct Met {
    known: BTreeMap<u64, u128>,
    /// Those that were refused, or refuse this member: told once each.
    told: BTreeMap<u64, String>,
}

impl Met {
    fn check(&mut self, member_id: u64, now: Incarnation) -> Result<(), String> {
        match self.known.get(&member_id).copied() {
            Some(known) if known != now.name && !now.adopted => {
                let text = refusal(member_id, known, now.name);
                if self.told.insert(member_id, text.clone()).as_ref() != Some(&text) {
                    tracing::error!("refused a peer: {text}");
                }
                Err(text)
            }
            _ => Ok(()),
        }
    }
}

impl Incarnations {
    /// What was remembered at `path`, one member a line.
    ///
    /// # Errors
    /// The file cannot be read, or is none of ours.
    pub fn open(path: PathBuf) -> Result<Incarnations, String> {
        let failed = |why: &dyn std::fmt::Display| {
            format!(
                "{}: {why}; it may be removed: then peers are met afresh",
                path.display()
            )
        };
        let known = match std::fs::read_to_string(&path) {
            Ok(text) => {
                let line = |line: &str| -> Option<(u64, u128)> {
                    let (id, name) = line.split_once(' ')?;
                    Some((u64::from_str_radix(id, 16).ok()?, u128::from_str_radix(name, 16).ok()?))
                };
                let all: Option<BTreeMap<_, _>> = text.lines().map(line).collect();
                all.ok_or_else(|| failed(&"not a list of members and their data directories"))?
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => BTreeMap::new(),
            Err(error) => return Err(failed(&error)),
        };
        Ok(Incarnations {
            met: Mutex::new(Met {
                known,
                ..Met::default()
            }),
            path: Some(path),
        })
    }

    /// A member says which data directory it has; it is remembered.
    ///
    /// # Errors
    /// The refusal, when it is another one than before.
    pub fn meet(&self, member_id: u64, header: &str) -> Result<(), String> {
        let Some(now) = parse(header) else { return Ok(()) };
        let mut met = self.lock();
        met.check(member_id, now)?;
        match met.known.insert(member_id, now.name) {
            Some(known) if known == now.name => return Ok(()),
            Some(_) => tracing::warn!(
                peer = format!("{member_id:x}"),
                "the peer's data directory has a new name: its data came from a copy or from etcd"
            ),
            None => {}
        }
        self.keep(&met.known)
    }

    /// As [`Incarnations::meet`], for a member that has not begun to use its directory: nothing is remembered.
    ///
    /// # Errors
    /// The refusal.
    pub fn check(&self, member_id: u64, header: &str) -> Result<(), String> {
        parse(header).map_or(Ok(()), |now| self.lock().check(member_id, now))
    }

    /// Names the data directory that a peer is believed to have, so that it can say no.
    ///
    /// # Errors
    /// None in practice: the value is made of digits.
    pub fn address(&self, member_id: u64, headers: &mut HeaderMap) -> io::Result<()> {
        match self.lock().known.get(&member_id) {
            Some(name) => set(headers, TO, &format!("{name:032x}")),
            None => Ok(()),
        }
    }

    /// A peer refuses this member, or is another one than this member knows.
    pub fn refused(&self, member_id: u64, text: &str) {
        let told = self.lock().told.insert(member_id, text.to_owned());
        if told.as_deref() != Some(text) {
            tracing::error!(peer = format!("{member_id:x}"), "a peer refuses to talk: {text}");
        }
    }

    /// Forgets members that were removed. Called without waiting for the disk: the file follows when a peer is met next, and after a
    /// restart they are removed all the same.
    pub fn forget(&self, removed: &[u64]) {
        let mut met = self.lock();
        met.known.retain(|id, _| removed.binary_search(id).is_err());
        met.told.retain(|id, _| removed.binary_search(id).is_err());
    }

    fn keep(&self, known: &BTreeMap<u64, u128>) -> Result<(), String> {
        let Some(path) = &self.path else { return Ok(()) };
        let text: String = known.iter().map(|(id, name)| format!("{id:x} {name:032x}\n")).collect();
        replace(path, &text).map_err(|error| format!("remembering peers in {}: {error}", path.display()))
    }

    fn lock(&self) -> MutexGuard<'_, Met> {
        self.met.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Few bytes, a few times in the life of a cluster: the async thread that waits for them is not missed.
fn replace(path: &Path, text: &str) -> io::Result<()> {
    let building = path.with_extension("tmp");
    let mut file = std::fs::File::create(&building)?;
    file.write_all(text.as_bytes())?;
    file.sync_data()?;
    std::fs::rename(&building, path)?;
    match path.parent() {
        Some(dir) => std::fs::File::open(dir)?.sync_all(),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_is_known_by_its_directory_over_restarts_until_it_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("peers");
        let header = |name, adopted| text(Incarnation { name, adopted });
        let met = Incarnations::open(path.clone()).unwrap();
        met.meet(7, &header(1, false)).unwrap();
        met.meet(8, &header(2, true)).unwrap();
        met.meet(9, "no incarnation").unwrap();
        drop(met);

        let met = Incarnations::open(path.clone()).unwrap();
        met.meet(7, &header(1, false)).unwrap();
        let text = met.meet(7, &header(3, false)).unwrap_err();
        assert!(is_refusal(&text) && text.contains("member 7"), "{text}");
        met.meet(7, &header(1, false)).unwrap();
        // Data that came from elsewhere is not lost data.
        met.meet(8, &header(4, true)).unwrap();
        assert!(met.meet(8, &header(2, false)).is_err());
        let mut headers = HeaderMap::new();
        met.address(8, &mut headers).unwrap();
        met.address(9, &mut headers).unwrap();
        assert_eq!(headers[TO], format!("{:032x}", 4));
        met.forget(&[7]);
        met.check(7, &header(3, false)).unwrap();
        met.meet(7, &header(3, false)).unwrap();
        std::fs::write(&path, "7 x\n").unwrap();
        assert!(Incarnations::open(path).unwrap_err().contains("may be removed"));
    }
}
