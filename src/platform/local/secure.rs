//! TLS material of one cluster on disk: authorities, certificates of members, of the operator and of users.
//!
//! Invariants:
//! 1. Keys are readable by the owner alone, and every file is replaced in one step: a server that reads them anew on
//!    a handshake never sees half of one. A certificate and its key are two files; a server that meets a new
//!    certificate with an old key keeps what it has and reads again (etcd does the same).
//! 2. The authorities' keys never leave `pki/`.

use super::files;
use super::records::Layout;
use crate::certificates::{self, Pair, Policy, Stage, Trust, Usage, expiry};
use crate::member::Access;
use crate::plan::observed::Certificate;
use crate::plan::resources::short_hash;
use crate::plan::wanted::{Engine, Issuer, Tls, TlsSide};
use crate::plan::{Timestamp, Wanted};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// After this long our own server has read a changed bundle; it looks at its files at every handshake and every few
/// seconds.
const READ_AGAIN: Duration = Duration::from_secs(30);

/// Why TLS material is not in place.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It cannot be made.
    #[error(transparent)]
    Certificate(#[from] certificates::Error),
    /// It cannot be stored.
    #[error(transparent)]
    File(#[from] files::Error),
    /// Not on this platform.
    #[error(
        "spec.tls.{side}.certManager needs Kubernetes; on one machine use selfSigned, or secretRef with the name of a directory"
    )]
    CertManager {
        /// `client` or `peer`.
        side: &'static str,
    },
    /// The user's own directory is incomplete.
    #[error("spec.tls.{side}.secretRef: {} is missing; the directory must hold ca.crt, tls.crt and tls.key", path.display())]
    Missing {
        /// `client` or `peer`.
        side: &'static str,
        /// The file.
        path: PathBuf,
    },
}

/// What a running process may have read: needed to judge whether a rotation can go on.
#[derive(Debug, Clone, Copy)]
pub struct Reader {
    /// When the process was started.
    pub since: Timestamp,
}

/// One side's names on disk.
struct Side {
    word: &'static str,
    authority: &'static str,
    leaf: &'static str,
    bundle: &'static str,
}

const CLIENT: Side = Side {
    word: "client",
    authority: "clients",
    leaf: "server",
    bundle: "client-ca.crt",
};
const PEER: Side = Side {
    word: "peer",
    authority: "peers",
    leaf: "peer",
    bundle: "peer-ca.crt",
};

/// Names under which members are reached on one machine.
fn names() -> Vec<String> {
    ["127.0.0.1", "::1", "localhost"].map(str::to_owned).to_vec()
}

/// Makes sure that everybody has valid certificates. `running`: the processes that have read files. Returns what was
/// rotated, a sentence each; what is issued for the first time is none.
pub fn ensure(
    layout: &Layout,
    wanted: &Wanted,
    tls: &Tls,
    members: &[String],
    running: &[Reader],
) -> Result<Vec<String>, Error> {
    let mut rotated = Vec::new();
    if let Some(side) = &tls.client {
        ensure_side(layout, wanted, &CLIENT, side, members, running, &mut rotated)?;
    }
    if let Some(side) = &tls.peer {
        ensure_side(layout, wanted, &PEER, side, members, running, &mut rotated)?;
    }
    Ok(rotated)
}

fn ensure_side(
    layout: &Layout,
    wanted: &Wanted,
    side: &Side,
    tls: &TlsSide,
    members: &[String],
    running: &[Reader],
    rotated: &mut Vec<String>,
) -> Result<(), Error> {
    let client = side.word == CLIENT.word;
    match &tls.issuer {
        Issuer::CertManager { .. } => return Err(Error::CertManager { side: side.word }),
        Issuer::Secret { name } => return copy_from(layout, side, Path::new(name), members),
        Issuer::SelfSigned => {}
    }
    let policy = Policy {
        validity: tls.validity,
        renew_before: tls.renew_before,
        ca_validity: tls.ca_validity,
        ca_renew_before: tls.ca_renew_before,
    };
    let now = SystemTime::now();
    let authority = format!("{} {}", wanted.name, side.authority);
    let file = layout.file("pki").join(format!("{}.json", side.authority));
    let mut trust = match files::read_json::<Trust>(&file)? {
        Some(trust) => trust,
        None => Trust::found(&authority, &policy, now)?,
    };
    let changed = modified(&file);
    let all_read = |since: Option<SystemTime>| match (since, wanted.engine) {
        (None, _) => false,
        (Some(since), Engine::Quorate) => now.duration_since(since).is_ok_and(|age| age > READ_AGAIN),
        // Upstream reads its bundle of authorities once, at its start (etcd client/pkg/transport/listener.go).
        (Some(since), Engine::Etcd) => running.iter().all(|reader| reader.since > timestamp(since)),
    };
    // Leaves of the authority that signs now are in place on disk since the round in which it began to sign.
    if trust.advance(&authority, &policy, now, all_read(changed), all_read(changed))? {
        rotated.push(format!("authority of {}: {}", side.authority, told(trust.stage())));
    }
    files::write_json(&file, &trust)?;

    let bundle = trust.bundle();
    for member in members {
        let tls = layout.of(member, "tls");
        let why = leaf(&trust, &tls, side.leaf, member, &names(), Usage::Member, &policy, now)?;
        rotated.extend(why.map(|why| format!("new {} certificate of {member}: {why}", side.word)));
        files::write(&tls.join(side.bundle), bundle.as_bytes())?;
    }
    if client {
        // With etcd's auth the common name is the user (etcd server/auth/store.go, AuthInfoFromTLS): the operator is
        // root, so that it can maintain a cluster that has auth enabled.
        let why = leaf(
            &trust,
            &layout.file("pki"),
            "operator",
            "root",
            &[],
            Usage::Client,
            &policy,
            now,
        )?;
        rotated.extend(why.map(|why| format!("new certificate of the operator: {why}")));
        let why = leaf(
            &trust,
            &layout.file("tls"),
            "client",
            "client",
            &[],
            Usage::Client,
            &policy,
            now,
        )?;
        rotated.extend(why.map(|why| format!("new certificate of users, tls/client.crt: {why}")));
        files::write(&layout.file("pki").join("ca.crt"), bundle.as_bytes())?;
        files::write(&layout.file("tls").join("ca.crt"), bundle.as_bytes())?;
    }
    Ok(())
}

/// What a stage that was just reached means.
fn told(stage: Stage) -> &'static str {
    match stage {
        Stage::Distributing => "a new one is trusted beside it, and signs once everybody has read that (1 of 3)",
        Stage::Replacing => {
            "the new one signs, and the old one is trusted until nobody presents what it signed (2 of 3)"
        }
        Stage::Stable => "the old one is not trusted any more (3 of 3)",
    }
}

/// Issues `<stem>.crt` and `<stem>.key` in `directory` unless they are good; why, when it replaced what was there.
#[allow(clippy::too_many_arguments)]
fn leaf(
    trust: &Trust,
    directory: &Path,
    stem: &str,
    subject: &str,
    names: &[String],
    usage: Usage,
    policy: &Policy,
    now: SystemTime,
) -> Result<Option<String>, Error> {
    let (certificate, key) = (
        directory.join(format!("{stem}.crt")),
        directory.join(format!("{stem}.key")),
    );
    let mut replaced = None;
    if let Some(pair) = pair(&certificate, &key)? {
        replaced = trust.reason_to_renew(&pair, names, policy, now);
        if replaced.is_none() {
            return Ok(None);
        }
    }
    let pair = trust.issue(subject, names, usage, policy, now)?;
    files::write(&key, pair.key.as_bytes())?;
    files::write(&certificate, pair.certificate.as_bytes())?;
    Ok(replaced)
}

/// Uses a directory of the user's, as a Secret of type kubernetes.io/tls names its files.
fn copy_from(layout: &Layout, side: &Side, from: &Path, members: &[String]) -> Result<(), Error> {
    let read = |name: &str| {
        let path = from.join(name);
        files::read(&path)?.ok_or(Error::Missing { side: side.word, path })
    };
    let (authorities, certificate, key) = (read("ca.crt")?, read("tls.crt")?, read("tls.key")?);
    for member in members {
        let tls = layout.of(member, "tls");
        files::write(&tls.join(format!("{}.key", side.leaf)), &key)?;
        files::write(&tls.join(format!("{}.crt", side.leaf)), &certificate)?;
        files::write(&tls.join(side.bundle), &authorities)?;
    }
    if side.word == CLIENT.word {
        for (directory, stem) in [("pki", "operator"), ("tls", "client")] {
            let directory = layout.file(directory);
            files::write(&directory.join(format!("{stem}.key")), &key)?;
            files::write(&directory.join(format!("{stem}.crt")), &certificate)?;
            files::write(&directory.join("ca.crt"), &authorities)?;
        }
    }
    Ok(())
}

/// What the operator shows to members; none when clients need no TLS, or before it was issued.
pub fn access(layout: &Layout, tls: &Tls) -> Result<Option<Access>, Error> {
    if tls.client.is_none() {
        return Ok(None);
    }
    let pki = layout.file("pki");
    let (Some(authorities), Some(identity)) = (
        files::read(&pki.join("ca.crt"))?,
        pair(&pki.join("operator.crt"), &pki.join("operator.key"))?,
    ) else {
        return Ok(None);
    };
    Ok(Some(Access {
        authorities: String::from_utf8_lossy(&authorities).into_owned(),
        identity,
    }))
}

/// The certificates of a member as they lie on disk.
pub fn certificate_of(layout: &Layout, member: &str) -> Option<Certificate> {
    let tls = layout.of(member, "tls");
    let text = |name: &str| files::read(&tls.join(name)).ok().flatten();
    let ends = ["server.crt", "peer.crt"]
        .into_iter()
        .filter_map(|name| expiry(&String::from_utf8_lossy(&text(name)?), member).ok())
        .min()?;
    let bundles: Vec<u8> = ["client-ca.crt", "peer-ca.crt"]
        .into_iter()
        .filter_map(text)
        .flatten()
        .collect();
    Some(Certificate {
        not_after: timestamp(ends),
        bundle: short_hash(&String::from_utf8_lossy(&bundles)),
    })
}

fn pair(certificate: &Path, key: &Path) -> Result<Option<Pair>, files::Error> {
    let (Some(certificate), Some(key)) = (files::read(certificate)?, files::read(key)?) else {
        return Ok(None);
    };
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Ok(Some(Pair {
        certificate: text(certificate),
        key: text(key),
    }))
}

fn modified(path: &Path) -> Option<SystemTime> {
    std::fs::metadata(path).and_then(|meta| meta.modified()).ok()
}

fn timestamp(time: SystemTime) -> Timestamp {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn material_is_issued_once_and_reissued_when_damaged() {
        let dir = tempfile::tempdir().expect("temp dir");
        let layout = Layout::new(dir.path(), "demo");
        let wanted = Wanted::new("demo", "u", 3);
        let members = vec!["demo-a".to_owned()];
        ensure(&layout, &wanted, &wanted.tls, &members, &[]).expect("issues");
        let before = certificate_of(&layout, "demo-a").expect("has one");
        let key = layout.of("demo-a", "tls").join("peer.key");
        let first = std::fs::read(&key).expect("reads");
        ensure(&layout, &wanted, &wanted.tls, &members, &[]).expect("is good");
        assert_eq!(std::fs::read(&key).expect("reads"), first, "a good certificate stays");
        assert!(access(&layout, &wanted.tls).expect("reads").is_some());

        std::fs::write(layout.of("demo-a", "tls").join("peer.crt"), "rubbish").expect("writes");
        ensure(&layout, &wanted, &wanted.tls, &members, &[]).expect("issues anew");
        assert_ne!(std::fs::read(&key).expect("reads"), first);
        let after = certificate_of(&layout, "demo-a").expect("has one");
        assert_eq!(before.bundle, after.bundle, "the authorities did not change");
    }

    #[test]
    fn an_incomplete_directory_of_the_users_is_named() {
        let dir = tempfile::tempdir().expect("temp dir");
        let layout = Layout::new(dir.path(), "demo");
        let mut wanted = Wanted::new("demo", "u", 1);
        let own = dir.path().join("own");
        if let Some(side) = &mut wanted.tls.client {
            side.issuer = Issuer::Secret {
                name: own.display().to_string(),
            };
        }
        let error = ensure(&layout, &wanted, &wanted.tls, &[], &[])
            .expect_err("nothing there")
            .to_string();
        assert!(error.contains("ca.crt") && error.contains("spec.tls.client"), "{error}");
    }
}
