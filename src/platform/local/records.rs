//! What is written down about a cluster in its directory, and where.
//!
//! ```text
//! DIR/<cluster>/cluster.json           identity of the cluster, its volumes and their ports
//!               journal.json           the planner's journal
//!               requests.json          what commands asked for, as annotations
//!               pki/                   authorities and the operator's own certificate
//!               tls/                   what users need: ca.crt, client.crt, client.key
//!               client.env status.yaml events.log
//!               members/<name>/        volume.json process.json pid log tls/ data/
//!               retired/<name>/        the same, of a former member
//!               copies/<name>-<time>/  data copied aside before a recovery changed it
//! ```
//! Invariants:
//! 1. A volume's identity lies beside its data, and a copy in cluster.json: a directory that vanished is missed.
//! 2. A name is given once: cluster.json remembers it until the retired directory is gone, and names are random.

use super::files;
use super::ports::Ports;
use crate::plan::observed::{LogEnd, Origin};
use crate::plan::{ClusterId, MemberId, Timestamp};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Where everything of one cluster lies.
#[derive(Debug, Clone)]
pub struct Layout {
    root: PathBuf,
}

impl Layout {
    /// The directory of `cluster` under `directory`.
    pub fn new(directory: &Path, cluster: &str) -> Layout {
        Layout {
            root: directory.join(cluster),
        }
    }

    /// The cluster's own directory.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// A file or directory directly below the root.
    pub fn file(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// The directory of a member.
    pub fn member(&self, name: &str) -> PathBuf {
        self.root.join("members").join(name)
    }

    /// A file or directory of a member.
    pub fn of(&self, member: &str, name: &str) -> PathBuf {
        self.member(member).join(name)
    }

    /// The directory of a former member.
    pub fn retired(&self, name: &str) -> PathBuf {
        self.root.join("retired").join(name)
    }

    /// Where data is copied to before a recovery changes it.
    pub fn copies(&self) -> PathBuf {
        self.root.join("copies")
    }
}

/// A cluster as this directory knows it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ClusterRecord {
    /// Identity: made once, when the cluster is first seen in this directory.
    pub uid: String,
    /// Counts changes of the spec.
    pub generation: i64,
    /// Hash of the spec that `generation` counts.
    pub spec: String,
    /// When the cluster was first seen.
    pub created: u64,
    /// Volumes in use by name.
    #[serde(default)]
    pub volumes: BTreeMap<String, VolumeRecord>,
    /// Volumes of former members by name.
    #[serde(default)]
    pub retired: BTreeMap<String, RetiredRecord>,
}

/// A member's volume: its identity and what was learned about its content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct VolumeRecord {
    /// Identity that no other volume has.
    pub uid: String,
    /// Uid of the cluster that it belongs to.
    pub cluster: String,
    /// When it was made, in milliseconds since the epoch.
    pub created: u64,
    /// Why it was made.
    pub origin: OriginRecord,
    /// Its ports.
    pub ports: Ports,
    /// Member id in hexadecimal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub member_id: Option<String>,
    /// Cluster id in hexadecimal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster_id: Option<String>,
    /// A process was started on it.
    #[serde(default)]
    pub started: bool,
    /// A process wrote a log to it: from then on its absence is a loss.
    #[serde(default)]
    pub wrote: bool,
    /// Its log lay on another file system than the cluster's directory when it was last seen.
    #[serde(default)]
    pub own_disk: bool,
    /// When its data was copied aside in its present state; forgotten at the next start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub copied: Option<u64>,
    /// The end of its log in its present state; forgotten at the next start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log: Option<LogRecord>,
    /// Hash of the recovery that made it the only member: done once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recovered: Option<String>,
    /// Why the server refuses its data, found at the last start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<Refusal>,
    /// What the data looked like when it was refused: when it looks otherwise, it is tried again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused_print: Option<String>,
}

/// Data that must not be served.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "kind", content = "what")]
pub enum Refusal {
    /// It belongs to another member or cluster.
    Foreign(String),
    /// It cannot be read.
    Corrupt(String),
}

/// [`Origin`] as it is written down.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "kind")]
pub enum OriginRecord {
    /// One of the initial members.
    Initial {
        /// Names of all of them.
        cluster: Vec<String>,
        /// `--initial-cluster-token`.
        token: String,
    },
    /// Joins as a learner.
    Joiner,
    /// Begins from a backup.
    Restored {
        /// `--initial-cluster-token`.
        token: String,
    },
}

/// [`LogEnd`] as it is written down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogRecord {
    /// Term of the last entry.
    pub term: u64,
    /// Index of the last entry.
    pub index: u64,
    /// Persisted commit index.
    pub commit: u64,
    /// Revision of the key space.
    pub revision: i64,
}

/// A former member's volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RetiredRecord {
    /// The volume's identity.
    pub uid: String,
    /// Member id in hexadecimal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub member_id: Option<String>,
    /// When it was retired, in milliseconds since the epoch.
    pub at: u64,
}

/// What is known of a member's process.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProcessRecord {
    /// It was started and not stopped on purpose: when it does not run, it ended by itself.
    pub wanted: bool,
    /// The planner's template that it was started with.
    pub template: String,
    /// When it was started, in milliseconds since the epoch.
    pub since: u64,
    /// The length of its log when it was started, in bytes: what follows, it wrote itself. A shorter log was set aside meanwhile.
    #[serde(default)]
    pub log_from: u64,
    /// How often in a row it ended soon after its start.
    pub restarts: u32,
    /// When it was first seen to have ended by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<u64>,
    /// How it ended, and its last words.
    #[serde(default)]
    pub message: String,
}

impl ClusterRecord {
    /// A cluster that is seen for the first time.
    pub fn new(uid: String, created: u64) -> ClusterRecord {
        ClusterRecord {
            uid,
            generation: 0,
            spec: String::new(),
            created,
            volumes: BTreeMap::new(),
            retired: BTreeMap::new(),
        }
    }

    /// The record in `layout`, or a new one under `uid`.
    pub fn load(layout: &Layout) -> Result<Option<ClusterRecord>, files::Error> {
        files::read_json(&layout.file("cluster.json"))
    }

    /// Writes it down.
    pub fn save(&self, layout: &Layout) -> Result<(), files::Error> {
        files::write_json(&layout.file("cluster.json"), self).map(drop)
    }

    /// Adds volumes whose directories exist though the record does not know them: the operator died between making
    /// one and writing it down, or the record was lost. Volumes of another cluster are left alone.
    pub fn find_unrecorded(&mut self, layout: &Layout) -> Result<(), files::Error> {
        let Ok(entries) = std::fs::read_dir(layout.file("members")) else {
            return Ok(());
        };
        for entry in entries.flatten() {
            let Some(name) = entry.file_name().to_str().map(str::to_owned) else {
                continue;
            };
            if self.volumes.contains_key(&name) {
                continue;
            }
            let Some(volume) = files::read_json::<VolumeRecord>(&layout.of(&name, "volume.json"))? else {
                continue;
            };
            if volume.cluster == self.uid {
                self.volumes.insert(name, volume);
            }
        }
        Ok(())
    }

    /// Writes a volume's record beside its data, when that is still there, and here.
    pub fn put_volume(&mut self, layout: &Layout, name: &str, volume: VolumeRecord) -> Result<(), files::Error> {
        if self.volumes.get(name) == Some(&volume) {
            return Ok(());
        }
        if layout.member(name).is_dir() {
            files::write_json(&layout.of(name, "volume.json"), &volume)?;
        }
        self.volumes.insert(name.to_owned(), volume);
        self.save(layout)
    }
}

impl VolumeRecord {
    /// A volume that is made at `created`: nothing is on it, nothing known of it.
    pub fn new(uid: String, cluster: String, created: u64, origin: OriginRecord, ports: Ports) -> VolumeRecord {
        VolumeRecord {
            uid,
            cluster,
            created,
            origin,
            ports,
            member_id: None,
            cluster_id: None,
            started: false,
            wrote: false,
            own_disk: false,
            copied: None,
            log: None,
            recovered: None,
            refused: None,
            refused_print: None,
        }
    }

    /// Its member id, if it is known and readable.
    pub fn member_id(&self) -> Option<MemberId> {
        parse_id(self.member_id.as_deref()).map(MemberId)
    }

    /// Its cluster id, if it is known and readable.
    pub fn cluster_id(&self) -> Option<ClusterId> {
        parse_id(self.cluster_id.as_deref()).map(ClusterId)
    }

    /// When it was made.
    pub fn created(&self) -> Timestamp {
        Timestamp(self.created)
    }
}

fn parse_id(text: Option<&str>) -> Option<u64> {
    u64::from_str_radix(text?, 16).ok()
}

impl From<&OriginRecord> for Origin {
    fn from(record: &OriginRecord) -> Origin {
        match record.clone() {
            OriginRecord::Initial { cluster, token } => Origin::Initial { cluster, token },
            OriginRecord::Joiner => Origin::Joiner,
            OriginRecord::Restored { token } => Origin::Restored { token },
        }
    }
}

impl From<LogRecord> for LogEnd {
    fn from(record: LogRecord) -> LogEnd {
        LogEnd {
            term: record.term,
            index: record.index,
            commit: record.commit,
            revision: record.revision,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn volume(cluster: &str) -> VolumeRecord {
        let origin = OriginRecord::Initial {
            cluster: vec!["a".into()],
            token: "t".into(),
        };
        let ports = Ports {
            client: 1,
            peer: 2,
            metrics: 3,
        };
        VolumeRecord {
            member_id: Some("8e9e05c52164694d".into()),
            refused: Some(Refusal::Corrupt("crc".into())),
            ..VolumeRecord::new("v".into(), cluster.into(), 1, origin, ports)
        }
    }

    #[test]
    fn volumes_are_found_again_when_the_record_does_not_know_them() {
        let dir = tempfile::tempdir().expect("temp dir");
        let layout = Layout::new(dir.path(), "demo");
        let mut record = ClusterRecord::new("u".into(), 0);
        files::write_json(&layout.of("a", "volume.json"), &volume("u")).expect("writes");
        files::write_json(&layout.of("b", "volume.json"), &volume("another")).expect("writes");
        record.find_unrecorded(&layout).expect("finds");
        assert_eq!(record.volumes.keys().collect::<Vec<_>>(), ["a"]);
        assert_eq!(record.volumes["a"], volume("u"));
        assert_eq!(record.volumes["a"].member_id(), Some(MemberId(0x8e9e_05c5_2164_694d)));
    }

    #[test]
    fn a_volume_that_vanished_stays_in_the_record() {
        let dir = tempfile::tempdir().expect("temp dir");
        let layout = Layout::new(dir.path(), "demo");
        let mut record = ClusterRecord::new("u".into(), 0);
        files::make_directory(&layout.member("a")).expect("makes");
        record.put_volume(&layout, "a", volume("u")).expect("puts");
        files::remove(&layout.member("a")).expect("removes");
        record
            .put_volume(
                &layout,
                "a",
                VolumeRecord {
                    wrote: true,
                    ..volume("u")
                },
            )
            .expect("puts");
        assert!(!layout.member("a").exists(), "a lost volume is not made up again");
        let read = ClusterRecord::load(&layout).expect("loads").expect("is there");
        assert!(read.volumes["a"].wrote);
    }
}
