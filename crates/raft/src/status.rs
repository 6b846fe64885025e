//! What can be seen of a node from outside.

use std::fmt;

use proto::raftpb::HardState;

use crate::SoftState;
use crate::tracker::{Config, ProgressMap};

/// The cheap part of the status.
#[derive(Debug, Clone, PartialEq)]
pub struct BasicStatus {
    /// The id of the node.
    pub id: u64,
    /// Term, vote and commit index; not necessarily stored yet.
    pub hard_state: HardState,
    /// Leader and role.
    pub soft_state: SoftState,
    /// The index up to which the application has reported entries as applied.
    pub applied: u64,
    /// The member that leadership is being handed to, or 0.
    pub lead_transferee: u64,
}

/// The whole status.
#[derive(Debug, Clone)]
pub struct Status {
    /// The cheap part.
    pub basic: BasicStatus,
    /// The active configuration.
    pub config: Config,
    /// How far each member is; empty unless the node leads.
    pub progress: ProgressMap,
}

impl fmt::Display for Status {
    /// The JSON form that etcd raft prints.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let basic = &self.basic;
        write!(
            f,
            r#"{{"id":"{:x}","term":{},"vote":"{:x}","commit":{},"lead":"{:x}","raftState":"{}","applied":{},"progress":{{"#,
            basic.id,
            basic.hard_state.term,
            basic.hard_state.vote,
            basic.hard_state.commit,
            basic.soft_state.lead,
            basic.soft_state.raft_state,
            basic.applied
        )?;
        for (i, (id, progress)) in self.progress.iter().enumerate() {
            let comma = if i > 0 { "," } else { "" };
            let (matched, next, state) = (progress.matched, progress.next, progress.state);
            write!(
                f,
                r#"{comma}"{id:x}":{{"match":{matched},"next":{next},"state":"{state}"}}"#
            )?;
        }
        write!(f, r#"}},"leadtransferee":"{:x}"}}"#, basic.lead_transferee)
    }
}
