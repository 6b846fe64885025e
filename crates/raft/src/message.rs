//! Which messages may come from where, and what makes one impossible.
//!
//! Invariants:
//! - [`check`] is passed before a message from a peer changes anything, the term included.

use proto::raftpb::{Message, MessageType};

use crate::confchange::AnyConfChange;
use crate::entry::{EntryId, inconsistency};
use crate::unstable::snapshot_id;
use crate::{Error, NONE, is_local_target};

/// No group gets here, at a million terms or entries each second for a hundred thousand years. Numbers above are refused,
/// so that counting on from those below never overflows.
const POSITION_MAX: u64 = 1 << 62;

/// Whether only the node itself, or its storage threads, may produce messages of this type.
pub fn is_local(kind: MessageType) -> bool {
    matches!(
        kind,
        MessageType::MsgHup
            | MessageType::MsgBeat
            | MessageType::MsgUnreachable
            | MessageType::MsgSnapStatus
            | MessageType::MsgCheckQuorum
            | MessageType::MsgStorageAppend
            | MessageType::MsgStorageAppendResp
            | MessageType::MsgStorageApply
            | MessageType::MsgStorageApplyResp
    )
}

/// Whether messages of this type answer something; they count only from members.
pub fn is_response(kind: MessageType) -> bool {
    matches!(
        kind,
        MessageType::MsgAppResp
            | MessageType::MsgVoteResp
            | MessageType::MsgHeartbeatResp
            | MessageType::MsgUnreachable
            | MessageType::MsgReadIndexResp
            | MessageType::MsgPreVoteResp
            | MessageType::MsgStorageAppendResp
            | MessageType::MsgStorageApplyResp
    )
}

/// The type of a message, if it is known.
pub(crate) fn kind_of(message: &Message) -> Result<MessageType, Error> {
    MessageType::try_from(message.r#type).map_err(|_| Error::InvalidMessage {
        kind: format!("type {}", message.r#type),
        from: message.from,
        why: "the type is not known".to_owned(),
    })
}

/// Refuses what no correct peer sends to the member `id`. Messages of the storage threads are not checked.
pub(crate) fn check(kind: MessageType, message: &Message, id: u64) -> Result<(), Error> {
    let from = message.from;
    if is_local_target(from) {
        return match kind {
            MessageType::MsgStorageAppendResp | MessageType::MsgStorageApplyResp => Ok(()),
            _ => Err(Error::invalid(kind, from, "the id of the sender is reserved")),
        };
    }
    if is_local(kind) {
        return Err(Error::StepLocalMsg);
    }
    if from == NONE {
        return Err(Error::invalid(kind, from, "the id of the sender is 0"));
    }
    if message.to != NONE && message.to != id {
        return Err(Error::invalid(
            kind,
            from,
            format!("it is addressed to {:x}", message.to),
        ));
    }
    // A node answers itself, but it does not lead or challenge itself.
    let answers_itself = matches!(
        kind,
        MessageType::MsgAppResp
            | MessageType::MsgVoteResp
            | MessageType::MsgPreVoteResp
            | MessageType::MsgProp
            | MessageType::MsgReadIndex
            | MessageType::MsgTransferLeader
            | MessageType::MsgForgetLeader
    );
    if from == id && !answers_itself {
        return Err(Error::invalid(kind, from, "its sender is this member itself"));
    }
    // Messages without a term count as local: only those that are sent so may come so.
    let needs_term = !matches!(
        kind,
        MessageType::MsgProp
            | MessageType::MsgReadIndex
            | MessageType::MsgTransferLeader
            | MessageType::MsgForgetLeader
    );
    if needs_term && message.term == 0 {
        return Err(Error::invalid(kind, from, "it has no term"));
    }
    let snapshot = message.snapshot.as_ref().map(snapshot_id).unwrap_or_default();
    let highest = message.term.max(message.index).max(snapshot.term).max(snapshot.index);
    if highest > POSITION_MAX {
        return Err(Error::invalid(
            kind,
            from,
            format!("it carries {highest} as a term or an index"),
        ));
    }
    match kind {
        MessageType::MsgApp => {
            let previous = EntryId {
                term: message.log_term,
                index: message.index,
            };
            match inconsistency(message.term, previous, &message.entries) {
                Some(why) => Err(Error::invalid(kind, from, why)),
                None => Ok(()),
            }
        }
        MessageType::MsgProp => check_proposal(kind, message),
        MessageType::MsgReadIndex if message.entries.is_empty() => {
            Err(Error::invalid(kind, from, "it carries no request"))
        }
        _ => Ok(()),
    }
}

/// Refuses what a peer can only have forged: promises of this node `id`, and words of its storage threads.
pub(crate) fn check_from_peer(kind: MessageType, message: &Message, id: u64) -> Result<(), Error> {
    let from = message.from;
    if is_local_target(from) {
        return Err(Error::invalid(kind, from, "the id of the sender is reserved"));
    }
    let promise = matches!(
        kind,
        MessageType::MsgAppResp | MessageType::MsgVoteResp | MessageType::MsgPreVoteResp
    );
    if promise && from == id {
        return Err(Error::invalid(kind, from, "its sender is this member itself"));
    }
    Ok(())
}

/// Refuses proposals without entries, and configuration changes that cannot be decoded.
pub(crate) fn check_proposal(kind: MessageType, message: &Message) -> Result<(), Error> {
    if message.entries.is_empty() {
        return Err(Error::invalid(kind, message.from, "it carries no entries"));
    }
    for entry in &message.entries {
        AnyConfChange::decode(entry).map_err(|why| Error::invalid(kind, message.from, why))?;
    }
    Ok(())
}

/// A message of `kind` to `to`; sender and term are set when it is sent.
pub(crate) fn message(kind: MessageType, to: u64) -> Message {
    Message {
        r#type: kind as i32,
        to,
        ..Message::default()
    }
}

/// A message of `kind` from `from`, for stepping.
pub(crate) fn message_from(kind: MessageType, from: u64) -> Message {
    Message {
        r#type: kind as i32,
        from,
        ..Message::default()
    }
}
