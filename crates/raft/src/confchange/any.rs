//! The two forms of a configuration change as one.

use bytes::Bytes;
use prost::Message as _;
use proto::raftpb::{ConfChange, ConfChangeSingle, ConfChangeTransition, ConfChangeV2, Entry, EntryType};

use super::ConfChangeError;

/// A configuration change in either form. etcd knows only the first.
#[derive(Debug, Clone, PartialEq)]
pub enum AnyConfChange {
    /// One member added, removed, updated, or added as a learner.
    V1(ConfChange),
    /// Any number of changes; an empty one leaves a joint configuration.
    V2(ConfChangeV2),
}

impl From<ConfChange> for AnyConfChange {
    fn from(change: ConfChange) -> AnyConfChange {
        AnyConfChange::V1(change)
    }
}

impl From<ConfChangeV2> for AnyConfChange {
    fn from(change: ConfChangeV2) -> AnyConfChange {
        AnyConfChange::V2(change)
    }
}

impl AnyConfChange {
    /// The same change in the second form.
    pub fn into_v2(self) -> ConfChangeV2 {
        match self {
            AnyConfChange::V1(change) => ConfChangeV2 {
                transition: ConfChangeTransition::Auto as i32,
                changes: vec![ConfChangeSingle {
                    r#type: change.r#type,
                    node_id: change.node_id,
                }],
                context: change.context,
            },
            AnyConfChange::V2(change) => change,
        }
    }

    /// The change that a log entry carries; `None` for a normal entry.
    pub fn decode(entry: &Entry) -> Result<Option<AnyConfChange>, String> {
        match EntryType::try_from(entry.r#type) {
            Ok(EntryType::EntryNormal) => Ok(None),
            Ok(EntryType::EntryConfChange) => match ConfChange::decode(entry.data.clone()) {
                Ok(change) => Ok(Some(AnyConfChange::V1(change))),
                Err(error) => Err(format!("entry is no ConfChange: {error}")),
            },
            Ok(EntryType::EntryConfChangeV2) => match ConfChangeV2::decode(entry.data.clone()) {
                Ok(change) => Ok(Some(AnyConfChange::V2(change))),
                Err(error) => Err(format!("entry is no ConfChangeV2: {error}")),
            },
            Err(_) => Err(format!("entry type {} is not known", entry.r#type)),
        }
    }

    /// The entry that proposes the change; its index and term are set when it is appended.
    pub fn into_entry(self) -> Entry {
        let (kind, data) = match self {
            AnyConfChange::V1(change) => (EntryType::EntryConfChange, change.encode_to_vec()),
            AnyConfChange::V2(change) => (EntryType::EntryConfChangeV2, change.encode_to_vec()),
        };
        Entry {
            r#type: kind as i32,
            data: Bytes::from(data),
            ..Entry::default()
        }
    }
}

/// How a change has to be carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Transition {
    LeaveJoint,
    EnterJoint { auto_leave: bool },
    Simple,
}

pub(crate) fn transition_of(change: &ConfChangeV2) -> Result<Transition, ConfChangeError> {
    let transition = ConfChangeTransition::try_from(change.transition)
        .map_err(|_| ConfChangeError::UnknownTransition(change.transition))?;
    Ok(match (transition, change.changes.len()) {
        (ConfChangeTransition::Auto, 0) => Transition::LeaveJoint,
        (ConfChangeTransition::Auto, 1) => Transition::Simple,
        (ConfChangeTransition::Auto | ConfChangeTransition::JointImplicit, _) => {
            Transition::EnterJoint { auto_leave: true }
        }
        (ConfChangeTransition::JointExplicit, _) => Transition::EnterJoint { auto_leave: false },
    })
}
