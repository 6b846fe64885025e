//! Messages, entries and rounds of work as text, in the words of etcd raft.
//!
//! Invariant: the texts are compared byte for byte by the interaction scripts.

use std::fmt::Write as _;

use proto::raftpb::{
    ConfChangeSingle, ConfChangeTransition, ConfChangeType, ConfState, Entry, EntryType, HardState, Message,
    MessageType, Snapshot,
};

use crate::confchange::AnyConfChange;
use crate::ready::Ready;
use crate::unstable::snapshot_id;
use crate::{LOCAL_APPEND_THREAD, LOCAL_APPLY_THREAD, NONE, SoftState};

/// `Term:1 Vote:1 Commit:2`
pub fn describe_hard_state(hard_state: &HardState) -> String {
    let vote = if hard_state.vote != 0 {
        format!(" Vote:{}", hard_state.vote)
    } else {
        String::new()
    };
    format!("Term:{}{vote} Commit:{}", hard_state.term, hard_state.commit)
}

/// `Lead:1 State:StateLeader`
pub fn describe_soft_state(soft_state: &SoftState) -> String {
    format!("Lead:{} State:{}", soft_state.lead, soft_state.raft_state)
}

/// `Voters:[1 2] VotersOutgoing:[] Learners:[3] LearnersNext:[] AutoLeave:false`
pub fn describe_conf_state(state: &ConfState) -> String {
    let list = |ids: &[u64]| ids.iter().map(u64::to_string).collect::<Vec<_>>().join(" ");
    format!(
        "Voters:[{}] VotersOutgoing:[{}] Learners:[{}] LearnersNext:[{}] AutoLeave:{}",
        list(&state.voters),
        list(&state.voters_outgoing),
        list(&state.learners),
        list(&state.learners_next),
        state.auto_leave
    )
}

/// `Index:4 Term:1 ConfState:…`
pub fn describe_snapshot(snapshot: &Snapshot) -> String {
    let id = snapshot_id(snapshot);
    let conf_state = snapshot
        .metadata
        .as_ref()
        .and_then(|metadata| metadata.conf_state.clone())
        .unwrap_or_default();
    format!(
        "Index:{} Term:{} ConfState:{}",
        id.index,
        id.term,
        describe_conf_state(&conf_state)
    )
}

/// A round of work, one item per line.
pub fn describe_ready(ready: &Ready) -> String {
    let mut out = String::new();
    if let Some(soft_state) = &ready.soft_state {
        out += &format!("{}\n", describe_soft_state(soft_state));
    }
    if let Some(hard_state) = &ready.hard_state {
        out += &format!("HardState {}\n", describe_hard_state(hard_state));
    }
    if !ready.read_states.is_empty() {
        out += "ReadStates:\n";
        for read in &ready.read_states {
            out += &format!("{} {}\n", read.index, quoted(&read.request_ctx));
        }
    }
    if !ready.entries.is_empty() {
        out += &format!("Entries:\n{}", describe_entries(&ready.entries));
    }
    if let Some(snapshot) = &ready.snapshot {
        out += &format!("Snapshot {}\n", describe_snapshot(snapshot));
    }
    if !ready.committed_entries.is_empty() {
        out += &format!("CommittedEntries:\n{}", describe_entries(&ready.committed_entries));
    }
    if !ready.messages.is_empty() {
        out += "Messages:\n";
        for message in &ready.messages {
            out += &format!("{}\n", describe_message(message));
        }
    }
    if out.is_empty() {
        return "<empty Ready>".to_owned();
    }
    format!("Ready MustSync={}:\n{out}", ready.must_sync)
}

/// `1->2 MsgApp Term:1 Log:1/3 Commit:4 Entries:[…]`
pub fn describe_message(message: &Message) -> String {
    let mut out = String::new();
    describe_indented(&mut out, "", message);
    out
}

fn describe_indented(out: &mut String, indent: &str, m: &Message) {
    let kind =
        MessageType::try_from(m.r#type).map_or_else(|_| m.r#type.to_string(), |kind| kind.as_str_name().to_owned());
    *out += &format!(
        "{indent}{}->{} {kind} Term:{} Log:{}/{}",
        describe_target(m.from),
        describe_target(m.to),
        m.term,
        m.log_term,
        m.index
    );
    if m.reject {
        *out += &format!(" Rejected (Hint: {})", m.reject_hint);
    }
    if m.commit != 0 {
        *out += &format!(" Commit:{}", m.commit);
    }
    if m.vote != 0 {
        *out += &format!(" Vote:{}", m.vote);
    }
    match &m.entries[..] {
        [] => {}
        [entry] => *out += &format!(" Entries:[{}]", describe_entry(entry)),
        entries => {
            *out += " Entries:[";
            for entry in entries {
                *out += &format!("\n{indent}  {}", describe_entry(entry));
            }
            *out += &format!("\n{indent}]");
        }
    }
    if let Some(snapshot) = m.snapshot.as_ref().filter(|snapshot| snapshot_id(snapshot).index != 0) {
        *out += &format!("\n{indent}  Snapshot: {}", describe_snapshot(snapshot));
    }
    if !m.responses.is_empty() {
        *out += " Responses:[";
        for response in &m.responses {
            *out += "\n";
            describe_indented(out, &format!("{indent}  "), response);
        }
        *out += &format!("\n{indent}]");
    }
}

fn describe_target(id: u64) -> String {
    match id {
        NONE => "None".to_owned(),
        LOCAL_APPEND_THREAD => "AppendThread".to_owned(),
        LOCAL_APPLY_THREAD => "ApplyThread".to_owned(),
        id => format!("{id:x}"),
    }
}

/// `1/4 EntryNormal "data"`, or the changes in short form for a configuration change.
pub fn describe_entry(entry: &Entry) -> String {
    let kind = EntryType::try_from(entry.r#type)
        .map_or_else(|_| entry.r#type.to_string(), |kind| kind.as_str_name().to_owned());
    let content = match AnyConfChange::decode(entry) {
        Ok(None) => quoted(&entry.data),
        Ok(Some(change)) => describe_changes(&change.into_v2().changes),
        Err(error) => error,
    };
    let space = if content.is_empty() { "" } else { " " };
    format!("{}/{} {kind}{space}{content}", entry.term, entry.index)
}

/// One line for each entry.
pub fn describe_entries(entries: &[Entry]) -> String {
    entries.iter().map(|entry| describe_entry(entry) + "\n").collect()
}

/// `v1 l2 r3 u4`: voter, learner, removed, updated.
pub fn describe_changes(changes: &[ConfChangeSingle]) -> String {
    let words: Vec<String> = changes
        .iter()
        .map(|change| {
            let verb = match ConfChangeType::try_from(change.r#type) {
                Ok(ConfChangeType::ConfChangeAddNode) => "v",
                Ok(ConfChangeType::ConfChangeAddLearnerNode) => "l",
                Ok(ConfChangeType::ConfChangeRemoveNode) => "r",
                Ok(ConfChangeType::ConfChangeUpdateNode) => "u",
                Err(_) => "unknown",
            };
            format!("{verb}{}", change.node_id)
        })
        .collect();
    words.join(" ")
}

/// `transition:ConfChangeTransitionAuto changes:{type:ConfChangeAddNode node_id:2}`
pub fn describe_conf_change(change: &AnyConfChange) -> String {
    let change = change.clone().into_v2();
    let transition = ConfChangeTransition::try_from(change.transition).map_or_else(
        |_| change.transition.to_string(),
        |transition| transition.as_str_name().to_owned(),
    );
    let mut out = format!("transition:{transition}");
    for single in &change.changes {
        let kind = ConfChangeType::try_from(single.r#type)
            .map_or_else(|_| single.r#type.to_string(), |kind| kind.as_str_name().to_owned());
        out += &format!(" changes:{{type:{kind} node_id:{}}}", single.node_id);
    }
    if !change.context.is_empty() {
        out += &format!(" context:{}", quoted(&change.context));
    }
    out
}

/// Bytes in double quotes, escaped as Go's `%q` does.
fn quoted(data: &[u8]) -> String {
    let mut out = String::from("\"");
    for chunk in data.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '"' => out += "\\\"",
                '\\' => out += "\\\\",
                '\n' => out += "\\n",
                '\r' => out += "\\r",
                '\t' => out += "\\t",
                '\x07' => out += "\\a",
                '\x08' => out += "\\b",
                '\x0b' => out += "\\v",
                '\x0c' => out += "\\f",
                c if c.is_ascii_control() => _ = write!(out, "\\x{:02x}", c as u32),
                c if c.is_control() => _ = write!(out, "\\u{:04x}", c as u32),
                c => out.push(c),
            }
        }
        for byte in chunk.invalid() {
            _ = write!(out, "\\x{byte:02x}");
        }
    }
    out + "\""
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_is_quoted_as_go_does() {
        assert_eq!(quoted(b"a\"b\\\n\x00\xff"), r#""a\"b\\\n\x00\xff""#);
        assert_eq!(quoted("é".as_bytes()), "\"é\"");
    }

    #[test]
    fn a_message_of_an_unknown_type_is_described_by_its_number() {
        let message = Message {
            r#type: 99,
            from: 1,
            to: 2,
            ..Message::default()
        };
        assert_eq!(describe_message(&message), "1->2 99 Term:0 Log:0/0");
    }
}
