//! What the doctor saw.
//!
//! Invariant: what could not be learned is absent, or says why; it is never a default.

use crate::member::{Alarm, HashKv, Listed, Status};
use crate::plugin::exposition::Samples;
use std::collections::BTreeMap;

/// All of it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Facts {
    /// The cluster's name, or its endpoints.
    pub name: String,
    /// Seconds since the epoch.
    pub now: i64,
    /// An operator of ours runs it, so remedies are fields of its manifest.
    pub managed: Option<Managed>,
    /// Every member.
    pub members: Vec<MemberFacts>,
    /// The member list.
    pub list: Vec<Listed>,
    /// Alarms of all members: member id and kind.
    pub alarms: Vec<(u64, Alarm)>,
    /// How Kubernetes' Secrets are stored in it.
    pub secrets: Stored,
    /// How its ConfigMaps are.
    pub config_maps: Stored,
    /// A kube-apiserver compacts it: `compact_rev_key` is there.
    pub compacted_by_api_server: bool,
    /// The etcd's authorities are among those of the Kubernetes API server; none when one of them is not known.
    pub shares_kubernetes_authority: Option<bool>,
    /// What is known of backups.
    pub backups: Backups,
    /// What is known of alert rules.
    pub alerting: Alerting,
}

/// What is known of a cluster that an operator of ours runs.
#[derive(Debug, Clone, Default)]
pub(crate) struct Managed {
    /// On this machine alone: members listen on loopback.
    pub local: bool,
    /// A network policy is kept.
    pub network_policy: bool,
    /// Type of the clients' Service.
    pub service: String,
}

/// A member.
#[derive(Debug, Clone, Default)]
pub(crate) struct MemberFacts {
    pub name: String,
    /// Where it was reached.
    pub url: String,
    /// Why it could not be asked.
    pub silent: Option<String>,
    pub status: Option<Status>,
    /// Its metrics.
    pub samples: Option<Samples>,
    /// The flags of its command line; none when it does not tell.
    pub flags: Option<BTreeMap<String, String>>,
    pub certificate: Option<CertificateFacts>,
    pub stranger: Stranger,
    pub hash: Option<HashKv>,
}

/// The certificate that a member presents to clients.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct CertificateFacts {
    pub issuer: String,
    /// Seconds since the epoch.
    pub not_after: i64,
}

/// What a member does with somebody who presents no certificate.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) enum Stranger {
    /// It speaks without TLS.
    PlainText,
    /// It serves him.
    LetIn,
    /// It does not.
    Refused,
    #[default]
    Unknown,
}

/// How objects of a kind are stored.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) enum Stored {
    /// There are none.
    Absent,
    /// All that were looked at are ciphertext, by this provider.
    Encrypted(String),
    /// This key is not.
    Plain(String),
    /// It could not be read.
    #[default]
    Unknown,
}

/// Backups of this etcd.
#[derive(Debug, Clone, Default)]
pub(crate) struct Backups {
    /// They can be seen from here.
    pub visible: bool,
    /// Policies: name, schedule, suspended, how they verify.
    pub policies: Vec<(String, String, bool, String)>,
    /// The newest verified one, and when it was verified.
    pub verified: Option<(String, i64)>,
}

/// Alert rules.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) enum Alerting {
    /// These rules watch elections and the disk.
    Rules(String),
    /// There are rules, and none does.
    None,
    /// This is why it cannot be seen.
    Unseen(String),
    #[default]
    Unknown,
}
