//! What a replica is told when it is opened.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use state_machine::membership::Member;

use crate::observer::Observer;

/// Where the cluster comes from when the data directory is empty. A directory with data goes on with what it has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Start {
    /// A new cluster: every member is told the same names and peer URLs, and the same token.
    New {
        /// Peer URLs by member name.
        members: BTreeMap<String, Vec<String>>,
        /// Keeps apart clusters that were given the same URLs (`--initial-cluster-token`).
        token: String,
    },
    /// A running cluster to which this member was added.
    Join {
        /// The cluster, as its members tell (`GET /members`).
        cluster_id: u64,
        /// This member's id in it.
        member_id: u64,
        /// All its members, this one included.
        members: Vec<Member>,
    },
    /// Only a directory with data will do.
    Resume,
}

/// How the log of revisions is shortened without being asked (`--auto-compaction-mode`, `--auto-compaction-retention`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AutoCompaction {
    /// Keeps this much history in time.
    Periodic(Duration),
    /// Keeps this many revisions.
    Revision(i64),
}

/// Who the data must belong to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    /// The member.
    pub member_id: u64,
    /// Its cluster.
    pub cluster_id: u64,
}

/// The random name of a data directory. A member whose disk came back empty has another one, and its peers can tell.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Incarnation {
    /// The name; 0 is none.
    pub name: u128,
    /// The directory was given its name when it held a log already, because etcd wrote it or the name was not copied along: such a
    /// directory is not empty, so a new name says nothing about lost data.
    pub adopted: bool,
}

/// Everything that a replica is told. `..Config::default()` gives etcd's values.
#[derive(Debug, Clone)]
pub struct Config {
    /// `--data-dir`: holds `member/wal`, `member/snap`.
    pub data_dir: PathBuf,
    /// `--wal-dir`, when the log is elsewhere.
    pub wal_dir: Option<PathBuf>,
    /// `--name`.
    pub name: String,
    /// `--advertise-client-urls`, published through the log.
    pub client_urls: Vec<String>,
    /// What to do when there is no data.
    pub start: Start,
    /// Refuse data of anybody else, when known (an operator keeps the identity beside the volume).
    pub expect: Option<Identity>,
    /// `--force-new-cluster`: go on alone: commit all that the log holds, and drop all other members.
    pub force_new_cluster: bool,
    /// `--heartbeat-interval`: the time between two [`crate::Input::Tick`]s.
    pub tick: Duration,
    /// Ticks of the election timeout.
    pub election_ticks: u64,
    /// `--pre-vote`.
    pub pre_vote: bool,
    /// `--snapshot-count`: entries between two `.snap` files.
    pub snapshot_count: u64,
    /// `--snapshot-catchup-entries`: entries kept in memory for slow followers.
    pub catch_up_entries: u64,
    /// Bytes after which the log goes on in another file; only tests choose others than etcd's.
    pub segment_bytes: u64,
    /// `--backend-batch-interval`: the time after which applied entries are committed to the database.
    pub commit_interval: Duration,
    /// Entries between two shortenings of the log in memory; only tests choose another number than etcd's (3.6 and later).
    pub memory_interval: u64,
    /// The log in memory is not shortened for this long after a snapshot was sent, so that its receiver can catch up from it; only
    /// tests choose another time than etcd's.
    pub release_delay: Duration,
    /// Encoded bytes of entries in one message to a follower, at least one entry; only tests choose another than etcd's.
    pub append_bytes: u64,
    /// `--max-wals`: segments of the log beyond which those that are not needed any more are removed; 0 keeps all.
    pub log_segments_max: usize,
    /// `--max-snapshots`: `.snap` files that are kept; 0 keeps all.
    pub snapshots_max: usize,
    /// `--compaction-batch-limit`: index keys or records that one step of a compaction looks at.
    pub compaction_batch: usize,
    /// `--compaction-sleep-interval`: the time between two steps of a compaction. Steps are made on ticks: several at once where
    /// this is shorter.
    pub compaction_pause: Duration,
    /// Is told what is being done, to measure it.
    pub observer: Option<Arc<dyn Observer>>,
    /// Shortens the history when this member leads.
    pub auto_compaction: Option<AutoCompaction>,
    /// The database, its quota and its leases. The ids in it are set by the replica.
    pub state: state_machine::Config,
    /// Different for every member and every start: election timeouts are drawn from it.
    pub seed: u64,
    /// The wall clock in milliseconds since 1970, for ids that do not repeat after a restart.
    pub unix_ms: u64,
    /// A fresh random number: the name of this data directory, if it is made now.
    pub incarnation: u128,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            data_dir: PathBuf::new(),
            wal_dir: None,
            name: "default".into(),
            client_urls: Vec::new(),
            start: Start::Resume,
            expect: None,
            force_new_cluster: false,
            tick: Duration::from_millis(100),
            election_ticks: 10,
            pre_vote: true,
            snapshot_count: 10_000,
            catch_up_entries: 5_000,
            segment_bytes: wal::SEGMENT_BYTES,
            commit_interval: Duration::from_millis(100),
            memory_interval: 100,
            release_delay: Duration::from_secs(30),
            append_bytes: 1 << 20,
            log_segments_max: 5,
            snapshots_max: 5,
            compaction_batch: 1000,
            compaction_pause: Duration::from_millis(10),
            observer: None,
            auto_compaction: None,
            state: state_machine::Config::default(),
            seed: 0,
            unix_ms: 0,
            incarnation: 0,
        }
    }
}

impl Config {
    /// `<data-dir>/member`.
    pub fn member_dir(&self) -> PathBuf {
        self.data_dir.join("member")
    }

    /// Where the log is.
    pub fn wal_dir(&self) -> PathBuf {
        self.wal_dir.clone().unwrap_or_else(|| self.member_dir().join("wal"))
    }

    /// Where the database and `.snap` files are.
    pub fn snap_dir(&self) -> PathBuf {
        self.member_dir().join("snap")
    }

    /// The database.
    pub fn database(&self) -> PathBuf {
        self.snap_dir().join("db")
    }

    /// The election timeout.
    pub fn election_timeout(&self) -> Duration {
        self.tick * u32::try_from(self.election_ticks).unwrap_or(u32::MAX)
    }

    /// What bounds every request: 5 s and two election timeouts (etcd config.ServerConfig.ReqTimeout).
    pub fn request_timeout(&self) -> Duration {
        Duration::from_secs(5) + 2 * self.election_timeout()
    }
}
