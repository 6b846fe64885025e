//! What a node is told when it starts.

use std::fmt;
use std::sync::Arc;

use crate::logger::{Logger, Silent};
use crate::{Error, NO_LIMIT, NONE, is_local_target};

/// How a leader makes sure that it still leads before it answers a read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ReadOnlyOption {
    /// A round of heartbeats that a quorum answers. Does not depend on clocks.
    #[default]
    Safe,
    /// The leader lease. Needs check-quorum and clocks that do not jump; wrong answers are possible without them.
    LeaseBased,
}

/// The parameters of one node.
#[derive(Clone)]
pub struct Config {
    /// The id of this node. Not 0 and not one of the two reserved ids.
    pub id: u64,
    /// Ticks without a message from a leader after which an election starts; the real value is drawn from
    /// `[election_tick, 2 * election_tick - 1]`. Must be greater than `heartbeat_tick`.
    pub election_tick: u64,
    /// Ticks between two heartbeats of a leader. At least 1.
    pub heartbeat_tick: u64,
    /// The last index that the application has applied; 0 when it starts from nothing. Entries up to here are not
    /// handed out again.
    pub applied: u64,
    /// When true, storage work is handed out as messages to [`crate::LOCAL_APPEND_THREAD`] and
    /// [`crate::LOCAL_APPLY_THREAD`] in [`crate::Ready::messages`], and their responses take the place of
    /// [`crate::RawNode::advance`]. Committed entries are then handed out only once they are in the local storage.
    pub async_storage_writes: bool,
    /// Encoded bytes of entries in one append message; at least one entry is sent always. 0 means one entry each.
    pub max_size_per_msg: u64,
    /// Encoded bytes of committed entries that may be handed out and not yet applied. 0 means `max_size_per_msg`.
    pub max_committed_size_per_ready: u64,
    /// Payload bytes of the uncommitted tail of a leader, above which it drops proposals. 0 means no limit.
    pub max_uncommitted_entries_size: u64,
    /// Append messages in flight to one follower. At least 1.
    pub max_inflight_msgs: usize,
    /// Payload bytes in flight to one follower; 0 means no limit, otherwise at least `max_size_per_msg`.
    pub max_inflight_bytes: u64,
    /// A leader steps down when it has not heard of a quorum for an election timeout, and followers do not vote while
    /// they hear of a leader.
    pub check_quorum: bool,
    /// Ask before campaigning, so that a node that comes back does not disturb the leader.
    pub pre_vote: bool,
    /// How reads are confirmed.
    pub read_only_option: ReadOnlyOption,
    /// Followers drop proposals instead of forwarding them.
    pub disable_proposal_forwarding: bool,
    /// The leader appends configuration changes without looking whether another one is pending. Only for scripts.
    pub disable_conf_change_validation: bool,
    /// A leader that is removed or demoted becomes a follower as soon as that is applied. Our server sets it.
    pub step_down_on_removal: bool,
    /// Start of the pseudo-random sequence that election timeouts are drawn from. Members of a cluster must have
    /// different values.
    pub seed: u64,
    /// Receives log lines.
    pub logger: Arc<dyn Logger>,
}

impl Default for Config {
    /// etcd's values: an election after 10 heartbeats, pre-vote and check-quorum, 1 MiB messages, 512 of them in flight.
    /// `id` has to be set. `step_down_on_removal` is off, as in etcd.
    fn default() -> Config {
        Config {
            id: NONE,
            election_tick: 10,
            heartbeat_tick: 1,
            applied: 0,
            async_storage_writes: false,
            max_size_per_msg: 1024 * 1024,
            max_committed_size_per_ready: 0,
            max_uncommitted_entries_size: 0,
            max_inflight_msgs: 512,
            max_inflight_bytes: 0,
            check_quorum: true,
            pre_vote: true,
            read_only_option: ReadOnlyOption::Safe,
            disable_proposal_forwarding: false,
            disable_conf_change_validation: false,
            step_down_on_removal: false,
            seed: 0,
            logger: Arc::new(Silent),
        }
    }
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("id", &self.id)
            .field("election_tick", &self.election_tick)
            .field("heartbeat_tick", &self.heartbeat_tick)
            .field("applied", &self.applied)
            .field("async_storage_writes", &self.async_storage_writes)
            .field("check_quorum", &self.check_quorum)
            .field("pre_vote", &self.pre_vote)
            .field("seed", &self.seed)
            .finish_non_exhaustive()
    }
}

impl Config {
    /// Checks the values and replaces those that mean "default".
    pub(crate) fn validated(mut self) -> Result<Config, Error> {
        let refuse = |field, why| Err(Error::InvalidConfig { field, why });
        if self.id == NONE {
            return refuse("id", "must not be 0");
        }
        if is_local_target(self.id) {
            return refuse(
                "id",
                "must not be one of the two highest numbers, they name the storage threads",
            );
        }
        if self.heartbeat_tick == 0 {
            return refuse("heartbeat_tick", "must be greater than 0");
        }
        if self.election_tick <= self.heartbeat_tick {
            return refuse("election_tick", "must be greater than heartbeat_tick");
        }
        if self.max_uncommitted_entries_size == 0 {
            self.max_uncommitted_entries_size = NO_LIMIT;
        }
        if self.max_committed_size_per_ready == 0 {
            self.max_committed_size_per_ready = self.max_size_per_msg;
        }
        if self.max_committed_size_per_ready == 0 {
            self.max_committed_size_per_ready = NO_LIMIT;
        }
        if self.max_inflight_msgs == 0 {
            return refuse("max_inflight_msgs", "must be greater than 0");
        }
        if self.max_inflight_bytes == 0 {
            self.max_inflight_bytes = NO_LIMIT;
        } else if self.max_inflight_bytes < self.max_size_per_msg {
            return refuse("max_inflight_bytes", "must be at least max_size_per_msg");
        }
        if self.read_only_option == ReadOnlyOption::LeaseBased && !self.check_quorum {
            return refuse("check_quorum", "must be on when read_only_option is LeaseBased");
        }
        Ok(self)
    }
}
