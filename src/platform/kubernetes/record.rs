//! What is remembered of a cluster: the planner's journal, and which volumes are the cluster's. Kept in a ConfigMap that
//! goes with the cluster (docs/decisions/0004).
//!
//! Invariants:
//! 1. Written with the resource version that it was read at. An operator that does not know the newest record cannot
//!    write, so it cannot act either: the journal is written before the step that it speaks of.
//! 2. Written only when something changed that a decision rests on; terms, indices and times of a quiet cluster that
//!    merely moved on are not worth a write.
//! 3. A volume is the cluster's if the record says so by its uid. One that the record does not know is taken in when it
//!    carries the cluster's uid and the journal says that it was being made, or when there is no record at all.

use super::names::{CLUSTER_UID, FIELD_MANAGER, VOLUME};
use crate::api::journal::JournalText;
use crate::clock::{self, Instant};
use crate::plan::observed::{LogEnd, Origin};
use crate::plan::{ClusterId, Journal, MemberId, Timestamp};
use crate::platform::local::records::{LogRecord, OriginRecord, Refusal};
use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolumeClaim};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Api, PostParams};
use kube::{Client, ResourceExt};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::Duration;

/// A high-water mark that moved on is written this often at most...
const LAZY: Duration = Duration::from_secs(300);
/// ... unless it moved this far: well below the room that a recovery leaves above it.
const FAR: i64 = 100_000;

/// What is written on a volume, in its annotation and in the record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Note {
    /// Why it was made.
    pub origin: OriginRecord,
    /// Member id in hexadecimal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub member_id: Option<String>,
    /// Cluster id in hexadecimal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster_id: Option<String>,
    /// A process was started on it.
    #[serde(default)]
    pub started: bool,
    /// A process wrote to it: from then on its emptiness is a loss.
    #[serde(default)]
    pub wrote: bool,
    /// A process that went on from its data found none.
    #[serde(default)]
    pub lost: bool,
    /// When its data was copied aside in its present state, in milliseconds since the epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub copied: Option<u64>,
    /// The end of its log in its present state.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log: Option<LogRecord>,
    /// Hash of the recovery that made it the only member.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recovered: Option<String>,
    /// Why the server refuses its data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<Refusal>,
    /// When it was taken out of use, in milliseconds since the epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retired: Option<u64>,
}

impl Note {
    /// A volume that nothing was done with.
    pub fn new(origin: OriginRecord) -> Note {
        Note {
            origin,
            member_id: None,
            cluster_id: None,
            started: false,
            wrote: false,
            lost: false,
            copied: None,
            log: None,
            recovered: None,
            refused: None,
            retired: None,
        }
    }

    /// The note on a volume; none when there is none that can be read.
    pub fn of(claim: &PersistentVolumeClaim) -> Option<Note> {
        serde_json::from_str(claim.annotations().get(VOLUME)?).ok()
    }

    /// As text for an annotation.
    pub fn text(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    /// Forgets what was learned about data that is about to change.
    pub fn touch(&mut self) {
        (self.copied, self.log, self.refused, self.lost) = (None, None, None, false);
    }

    /// Its member id, if it is known and readable.
    pub fn member(&self) -> Option<MemberId> {
        parse_id(self.member_id.as_deref()).map(MemberId)
    }

    /// Its cluster id, if it is known and readable.
    pub fn cluster(&self) -> Option<ClusterId> {
        parse_id(self.cluster_id.as_deref()).map(ClusterId)
    }

    /// Why it was made, for the planner.
    pub fn origin(&self) -> Origin {
        (&self.origin).into()
    }

    /// The end of its log, for the planner.
    pub fn log_end(&self) -> Option<LogEnd> {
        self.log.map(Into::into)
    }
}

fn parse_id(text: Option<&str>) -> Option<u64> {
    u64::from_str_radix(text?, 16).ok()
}

/// A volume as the record knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Kept {
    /// Uid of its claim.
    pub uid: String,
    /// When it was made, in milliseconds since the epoch.
    pub created: u64,
    /// What was last written on it.
    pub note: Note,
}

/// The record of one cluster.
#[derive(Debug, Clone, Default)]
pub struct Record {
    /// The planner's journal.
    pub journal: Journal,
    /// Volumes by the name of their member, retired ones too.
    pub volumes: BTreeMap<String, Kept>,
    /// There was none when it was looked for.
    pub missing: bool,
    written: Option<Written>,
}

#[derive(Debug, Clone)]
struct Written {
    resource_version: String,
    journal: JournalText,
    volumes: BTreeMap<String, Kept>,
    at: Instant,
}

impl Record {
    /// Reads the record `name`, live. It must belong to the owner with this uid.
    pub async fn read(api: &Api<ConfigMap>, name: &str, owner: &str) -> Result<Record, super::Failure> {
        let Some(map) = api.get_opt(name).await? else {
            return Ok(Record {
                missing: true,
                ..Record::default()
            });
        };
        super::apply::must_be_ours(&map, owner)?;
        let data = map.data.clone().unwrap_or_default();
        // Losing the journal is harmless to data, so a text that cannot be read is as good as none.
        let journal: JournalText = data
            .get("journal")
            .and_then(|text| serde_json::from_str(text).ok())
            .unwrap_or_default();
        let volumes: BTreeMap<String, Kept> = data
            .get("volumes")
            .and_then(|text| serde_json::from_str(text).ok())
            .unwrap_or_default();
        Ok(Record {
            journal: Journal::from(&journal),
            volumes: volumes.clone(),
            missing: false,
            written: Some(Written {
                resource_version: map.resource_version().unwrap_or_default(),
                journal,
                volumes,
                at: clock::now(),
            }),
        })
    }

    /// The resource version that it was last read or written at.
    pub fn resource_version(&self) -> Option<&str> {
        self.written.as_ref().map(|written| written.resource_version.as_str())
    }

    /// Writes it down if that is worth it. A conflict means that somebody else wrote it since.
    pub async fn write(&mut self, client: &Client, meta: ObjectMeta, journal: &Journal) -> Result<(), super::Failure> {
        let text = JournalText::from(journal);
        self.journal = journal.clone();
        if self
            .written
            .as_ref()
            .is_some_and(|written| !self.worth_writing(written, &text))
        {
            return Ok(());
        }
        let namespace = meta.namespace.clone().unwrap_or_default();
        let name = meta.name.clone().unwrap_or_default();
        let api: Api<ConfigMap> = Api::namespaced(client.clone(), &namespace);
        let mut map = ConfigMap {
            metadata: meta,
            data: Some(BTreeMap::from([
                (
                    "journal".to_owned(),
                    serde_json::to_string_pretty(&text).unwrap_or_default(),
                ),
                (
                    "volumes".to_owned(),
                    serde_json::to_string_pretty(&self.volumes).unwrap_or_default(),
                ),
            ])),
            ..ConfigMap::default()
        };
        let params = PostParams {
            field_manager: Some(FIELD_MANAGER.to_owned()),
            ..PostParams::default()
        };
        let stored = match &self.written {
            Some(written) => {
                map.metadata.resource_version = Some(written.resource_version.clone());
                api.replace(&name, &params, &map).await?
            }
            None => api.create(&params, &map).await?,
        };
        self.missing = false;
        self.written = Some(Written {
            resource_version: stored.resource_version().unwrap_or_default(),
            journal: text,
            volumes: self.volumes.clone(),
            at: clock::now(),
        });
        Ok(())
    }

    fn worth_writing(&self, written: &Written, text: &JournalText) -> bool {
        if self.volumes != written.volumes || material(text) != material(&written.journal) {
            return true;
        }
        let moved = text.revision_high_water - written.journal.revision_high_water;
        moved >= FAR || (moved > 0 && clock::since(written.at) >= LAZY)
    }

    /// Whether a volume that the record does not know is one that this cluster was making.
    pub fn expects(&self, claim: &PersistentVolumeClaim, cluster_uid: &str) -> bool {
        let name = claim.name_any();
        if claim
            .annotations()
            .get(CLUSTER_UID)
            .is_none_or(|uid| uid != cluster_uid)
            || Note::of(claim).is_none()
        {
            return false;
        }
        let journal = &self.journal;
        let initial = journal
            .bootstrap
            .as_ref()
            .is_some_and(|decision| decision.members.contains(&name));
        let step = format!("CreateMember {name}");
        let being_made = journal.next_since.as_ref().is_some_and(|(what, _)| *what == step)
            || journal.failure.as_ref().is_some_and(|failure| failure.step == step);
        self.missing || initial || (being_made && !mutant::planted("G19"))
    }

    /// Remembers a volume.
    pub fn keep(&mut self, name: &str, uid: &str, created: Timestamp, note: Note) {
        let kept = Kept {
            uid: uid.to_owned(),
            created: created.0,
            note,
        };
        self.volumes.insert(name.to_owned(), kept);
    }
}

/// A journal without what moves on by itself while nothing happens.
fn material(text: &JournalText) -> JournalText {
    let mut plain = text.clone();
    plain.revision_high_water = 0;
    plain.revision_seen = None;
    for member in &mut plain.members {
        (member.term, member.index, member.revision, member.seen) = (0, 0, 0, None);
    }
    if let Some(led) = &mut plain.last_led {
        led.at = 0;
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(revision: i64) -> JournalText {
        JournalText {
            revision_high_water: revision,
            revision_seen: Some(revision),
            ..JournalText::default()
        }
    }

    #[test]
    fn a_quiet_cluster_is_not_worth_a_write_and_a_fast_one_is_now_and_then() {
        let record = Record::default();
        let written = |age: Duration| Written {
            resource_version: "1".into(),
            journal: text(10),
            volumes: BTreeMap::new(),
            at: Instant::now().checked_sub(age).expect("the machine runs for a while"),
        };
        let fresh = written(Duration::ZERO);
        assert!(!record.worth_writing(&fresh, &text(10)));
        assert!(!record.worth_writing(&fresh, &text(11)));
        assert!(record.worth_writing(&fresh, &text(10 + FAR)));
        assert!(record.worth_writing(&written(LAZY), &text(11)));
        let decided = JournalText {
            cluster_id: Some("a".into()),
            ..text(10)
        };
        assert!(record.worth_writing(&fresh, &decided));
    }

    #[test]
    fn a_note_reads_as_it_was_written() {
        let mut note = Note::new(OriginRecord::Joiner);
        note.member_id = Some("8e9e05c52164694d".into());
        note.refused = Some(Refusal::Corrupt("crc".into()));
        let read: Note = serde_json::from_str(&note.text()).expect("reads");
        assert_eq!(read, note);
        assert_eq!(read.member(), Some(MemberId(0x8e9e_05c5_2164_694d)));
        note.touch();
        assert_eq!(note.refused, None);
    }
}
