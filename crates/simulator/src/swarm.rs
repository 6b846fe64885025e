//! What a seed's world is like: sizes, speeds, limits and which misfortunes happen. Every seed draws its own, so that rare combinations
//! come up ("swarm testing"), and small limits make rare paths common.

use std::fmt;

use crate::random::Random;
use crate::world::{MS, SECOND, Time};

/// A misfortune, or something that a person or a machine does to a cluster while it runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs)] // `Trouble::what` says what each of them is.
pub enum Trouble {
    PowerCut,
    PowerCutEverywhere,
    Kill,
    CutAtDiskCall,
    CutAtMessage,
    FailAtDiskCall,
    Pause,
    Isolate,
    Split,
    OneWay,
    SlowLink,
    SlowDisk,
    FullDisk,
    LyingDisk,
    BitFlip,
    BlankDisk,
    OldImage,
    ClockJump,
    TransferLeader,
    Defragment,
    Backup,
    Reconfigure,
    CleanRestart,
    CutAtSnapshot,
    DecayedMeta,
}

/// All of them.
pub const TROUBLES: &[Trouble] = &[
    Trouble::PowerCut,
    Trouble::PowerCutEverywhere,
    Trouble::Kill,
    Trouble::CutAtDiskCall,
    Trouble::CutAtMessage,
    Trouble::FailAtDiskCall,
    Trouble::Pause,
    Trouble::Isolate,
    Trouble::Split,
    Trouble::OneWay,
    Trouble::SlowLink,
    Trouble::SlowDisk,
    Trouble::FullDisk,
    Trouble::LyingDisk,
    Trouble::BitFlip,
    Trouble::BlankDisk,
    Trouble::OldImage,
    Trouble::ClockJump,
    Trouble::TransferLeader,
    Trouble::Defragment,
    Trouble::Backup,
    Trouble::Reconfigure,
    Trouble::CleanRestart,
    Trouble::CutAtSnapshot,
    Trouble::DecayedMeta,
];

impl Trouble {
    /// In words.
    pub fn what(self) -> &'static str {
        match self {
            Trouble::PowerCut => "power cut",
            Trouble::PowerCutEverywhere => "power cut everywhere",
            Trouble::Kill => "kill",
            Trouble::CutAtDiskCall => "power cut at a disk call",
            Trouble::CutAtMessage => "power cut at a message",
            Trouble::FailAtDiskCall => "failed disk call",
            Trouble::Pause => "pause",
            Trouble::Isolate => "isolated member",
            Trouble::Split => "partition",
            Trouble::OneWay => "one-way partition",
            Trouble::SlowLink => "slow link",
            Trouble::SlowDisk => "slow disk",
            Trouble::FullDisk => "full disk",
            Trouble::LyingDisk => "lying disk",
            Trouble::BitFlip => "bit flip",
            Trouble::BlankDisk => "blank disk",
            Trouble::OldImage => "old disk image",
            Trouble::ClockJump => "clock jump",
            Trouble::TransferLeader => "leader transfer",
            Trouble::Defragment => "defragmentation",
            Trouble::Backup => "backup",
            Trouble::Reconfigure => "change of members",
            Trouble::CleanRestart => "clean restart",
            Trouble::CutAtSnapshot => "power cut at a snapshot",
            Trouble::DecayedMeta => "decayed meta page",
        }
    }
}

/// See the module. Times are in microseconds.
#[derive(Debug, Clone)]
pub struct Swarm {
    /// Members at first, and the number that is kept.
    pub members: usize,
    /// Clients that read and write.
    pub clients: usize,
    /// Keys they use.
    pub keys: u64,
    /// Clients that watch.
    pub watchers: usize,
    /// Between two requests of a client.
    pub pause: Time,
    /// Bytes of most values, and of some.
    pub value_bytes: (u64, u64),
    /// Whether clients use leases.
    pub leases: bool,
    /// Whether clients use transactions.
    pub txns: bool,
    /// How long trouble lasts.
    pub duration: Time,
    /// Between two troubles.
    pub trouble_pause: Time,
    /// Which of them.
    pub troubles: Vec<Trouble>,
    /// Messages lost and doubled, in a thousand.
    pub drop: u64,
    /// See `drop`.
    pub duplicate: u64,
    /// Whether messages overtake each other.
    pub reorder: bool,
    /// How long a message takes.
    pub latency: Time,
    /// How long a sync takes.
    pub sync: Time,
    /// Clocks that run too fast or too slow, in a thousand.
    pub drift: u64,
    /// `--snapshot-count`.
    pub snapshot_count: u64,
    /// `--snapshot-catchup-entries`.
    pub catch_up_entries: u64,
    /// Bytes of a file of the log.
    pub segment_bytes: u64,
    /// `--backend-batch-interval`.
    pub commit_interval: Time,
    /// `--backend-batch-limit`.
    pub batch_ops: usize,
    /// Bytes of a database page.
    pub page_size: usize,
    /// `--pre-vote`.
    pub pre_vote: bool,
    /// `--heartbeat-interval`.
    pub tick: Time,
    /// Ticks of the election timeout.
    pub election_ticks: u64,
    /// Whether leases are checkpointed.
    pub checkpoint: bool,
    /// Deliveries that a watch stream holds.
    pub watch_buffer: usize,
    /// Revisions that a watcher catches up with at once.
    pub catch_up_window: usize,
    /// How long a replica's thread may be late with its work.
    pub laziness: Time,
    /// Entries between two shortenings of the log in memory.
    pub memory_interval: u64,
    /// How long it is not shortened after a snapshot was sent.
    pub release_delay: Time,
    /// Bytes of entries in a message.
    pub append_bytes: u64,
    /// `--compaction-batch-limit`.
    pub compaction_batch: usize,
    /// `--compaction-sleep-interval`.
    pub compaction_pause: Time,
    /// `--max-wals`.
    pub log_files: usize,
    /// How long a database is on its way to a peer or to a client, about.
    pub transfer: Time,
    /// How often a new leader is cut off soon after its election, in a thousand.
    pub churn: u64,
    /// Revisions that are kept, when the leader compacts by itself.
    pub auto_compaction: Option<i64>,
}

impl Swarm {
    /// The election timeout.
    pub fn election(&self) -> Time {
        self.tick * self.election_ticks
    }

    /// The world of a seed.
    pub fn draw(random: &mut Random) -> Swarm {
        let members = *random.pick(&[1, 3, 3, 3, 3, 3, 5, 5]);
        let mut troubles: Vec<Trouble> = TROUBLES.iter().copied().filter(|_| random.chance(450)).collect();
        if troubles.is_empty() {
            troubles.push(Trouble::PowerCut);
        }
        let quiet_net = random.chance(400);
        let tick = *random.pick(&[20 * MS, 20 * MS, 50 * MS, 100 * MS]);
        let election_ticks = *random.pick(&[4, 5, 10, 10, 20]);
        // Trouble goes by the time in which a cluster can deal with it: too much at once and nothing ever happens.
        let election = tick * election_ticks;
        Swarm {
            members,
            clients: random.within(2, 6) as usize,
            keys: *random.pick(&[3, 5, 10, 30]),
            watchers: random.within(0, 4) as usize,
            pause: *random.pick(&[5 * MS, 20 * MS, 60 * MS]),
            value_bytes: *random.pick(&[(8, 20), (20, 400), (20, 3000)]),
            leases: random.chance(600),
            txns: random.chance(750),
            duration: (election * random.within(10, 40)).clamp(3 * SECOND, 8 * SECOND),
            trouble_pause: election * *random.pick(&[1, 2, 6]) / 2,
            troubles,
            drop: if quiet_net { 0 } else { random.within(0, 150) },
            duplicate: if quiet_net { 0 } else { random.within(0, 200) },
            reorder: !quiet_net && random.chance(300),
            latency: *random.pick(&[200, 2 * MS, 10 * MS]),
            sync: *random.pick(&[100, 2 * MS, 15 * MS]),
            drift: *random.pick(&[0, 0, 20, 100]),
            snapshot_count: *random.pick(&[10, 10, 50, 300]),
            catch_up_entries: *random.pick(&[5, 20, 200]),
            segment_bytes: *random.pick(&[4 << 10, 16 << 10, 64 << 10]),
            commit_interval: *random.pick(&[10 * MS, 100 * MS, 400 * MS]),
            batch_ops: *random.pick(&[3, 50, 10_000]),
            page_size: *random.pick(&[512, 1024, 4096]),
            pre_vote: random.chance(850),
            tick,
            election_ticks,
            checkpoint: random.chance(300),
            watch_buffer: *random.pick(&[1, 3, 128]),
            catch_up_window: *random.pick(&[1, 7, 1000]),
            laziness: *random.pick(&[0, 0, 300, 3 * MS, 30 * MS]),
            memory_interval: *random.pick(&[5, 20, 100]),
            release_delay: *random.pick(&[0, SECOND, 30 * SECOND]),
            append_bytes: *random.pick(&[1 << 20, 1 << 20, 200, 1]),
            compaction_batch: *random.pick(&[1, 5, 1000]),
            compaction_pause: *random.pick(&[10 * MS, 10 * MS, 300 * MS]),
            log_files: *random.pick(&[1, 2, 5]),
            transfer: *random.pick(&[20 * MS, 20 * MS, 200 * MS, SECOND]),
            churn: *random.pick(&[0, 0, 0, 200, 700]),
            auto_compaction: random.chance(250).then(|| random.within(5, 60) as i64),
        }
    }
}

impl fmt::Display for Swarm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = |time: Time| time as f64 / MS as f64;
        writeln!(
            f,
            "{} members, {} clients on {} keys with a pause of {} ms, {} watchers, leases {}, transactions {}, values of {}..{} bytes",
            self.members,
            self.clients,
            self.keys,
            ms(self.pause),
            self.watchers,
            self.leases,
            self.txns,
            self.value_bytes.0,
            self.value_bytes.1
        )?;
        writeln!(
            f,
            "net: {} ms, lost {} ‰, doubled {} ‰, reordered {}; sync {} ms; clocks drift by up to {} ‰; threads late by up to {} ms",
            ms(self.latency),
            self.drop,
            self.duplicate,
            self.reorder,
            ms(self.sync),
            self.drift,
            ms(self.laziness)
        )?;
        writeln!(
            f,
            "limits: snapshot every {} entries and {} kept, log files of {} bytes, commits every {} ms or {} writes, pages of {} bytes, \
             election after {} ticks of {} ms, pre-vote {}, checkpoints {}, watch buffer {}, window {}, auto compaction {:?}, \
             log in memory cut every {} entries and {} ms after snapshots, {} bytes of entries a message, compaction by {} every {} ms, {} log files kept, databases travel {} ms, leaders cut off {} ‰",
            self.snapshot_count,
            self.catch_up_entries,
            self.segment_bytes,
            ms(self.commit_interval),
            self.batch_ops,
            self.page_size,
            self.election_ticks,
            ms(self.tick),
            self.pre_vote,
            self.checkpoint,
            self.watch_buffer,
            self.catch_up_window,
            self.auto_compaction,
            self.memory_interval,
            ms(self.release_delay),
            self.append_bytes,
            self.compaction_batch,
            ms(self.compaction_pause),
            self.log_files,
            ms(self.transfer),
            self.churn
        )?;
        let names: Vec<&str> = self.troubles.iter().map(|trouble| trouble.what()).collect();
        write!(
            f,
            "trouble every {} ms for {} s: {}",
            ms(self.trouble_pause),
            self.duration / SECOND,
            names.join(", ")
        )
    }
}
