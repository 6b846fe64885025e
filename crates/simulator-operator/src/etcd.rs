//! Members of etcd, small but faithful: volumes that hold a log, processes on them, elections, membership, alarms.
//!
//! What is modelled: a log of writes and configurations on each volume; a leader that reaches a quorum of its own
//! configuration; an entry that is acknowledged once a quorum has it; identity on the volume; learners; what a member says
//! when it starts without data, with another cluster's, or removed. Two members talk when their nodes are on one side and
//! their certificates are good for each other ([`super::tls`]).
//!
//! Invariants:
//! 1. Nothing is acknowledged that is not on a quorum's volumes.
//! 2. A write of the past is found again, or it is told that it is lost ([`Etcd::wrong`]).

use crate::tls::Material;
use quorate::clock::{self, Instant};
use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeMap, BTreeSet};
use std::hash::{Hash, Hasher};
use std::time::Duration;

/// How long a cluster is without a leader at least before one is elected.
const ELECTION: Duration = Duration::from_millis(1000);
/// How many entries a member that lags takes in one tick.
const CATCH_UP: usize = 400;

/// One row of the membership.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// Member id.
    pub id: u64,
    /// Name; empty until it has started.
    pub name: String,
    /// Peer URL.
    pub url: String,
    /// It has no vote.
    pub learner: bool,
}

/// One entry of a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Term.
    pub term: u64,
    /// What it does.
    pub what: What,
}

/// What an entry does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// A leader begins.
    Begin,
    /// A client's write.
    Write(u64),
    /// The membership from here on.
    Config(Vec<Row>),
    /// Anything else that is agreed on.
    Other,
}

/// What a data directory holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Data {
    /// Member id.
    pub member: u64,
    /// Cluster id.
    pub cluster: u64,
    /// The log.
    pub log: Vec<Entry>,
    /// The membership as of the log's end.
    pub rows: Vec<Row>,
    /// Added to the count of writes: a revision that was raised.
    pub base: i64,
    /// Bytes of the database, in use, and in use by what compaction cannot remove.
    pub database: (u64, u64, u64),
    /// Members with an alarm, and which.
    pub alarms: BTreeSet<(u64, &'static str)>,
    /// Told that it is no member any more.
    pub removed: bool,
}

impl Data {
    /// Writes in the log, in order.
    pub fn writes(&self) -> impl Iterator<Item = u64> + '_ {
        self.log.iter().filter_map(|entry| match entry.what {
            What::Write(id) => Some(id),
            What::Begin | What::Config(_) | What::Other => None,
        })
    }

    /// Its revision.
    pub fn revision(&self) -> i64 {
        self.base + 1 + i64::try_from(self.writes().count()).unwrap_or(0)
    }

    /// Term and length of the log.
    pub fn end(&self) -> (u64, usize) {
        (self.log.last().map_or(0, |entry| entry.term), self.log.len())
    }

    fn take(&mut self, entry: Entry) {
        if let What::Config(rows) = &entry.what {
            self.rows.clone_from(rows);
        }
        self.log.push(entry);
    }

    fn voters(&self) -> Vec<u64> {
        self.rows.iter().filter(|row| !row.learner).map(|row| row.id).collect()
    }

    fn lists(&self, id: u64) -> bool {
        self.rows.iter().any(|row| row.id == id)
    }
}

/// A volume.
#[derive(Debug, Clone, Default)]
pub struct Disk {
    /// The data directory.
    pub data: Option<Data>,
    /// A copy of it.
    pub copy: Option<Data>,
    /// The recovery that it is the result of.
    pub recovered: String,
    /// Uid of the EtcdCluster that it was made for.
    pub owner: String,
    /// A process wrote to it.
    pub used: bool,
}

/// A running member.
#[derive(Debug, Clone)]
pub struct Process {
    /// Name of the member.
    pub name: String,
    /// Uid of its volume's claim.
    pub disk: String,
    /// Its node.
    pub node: String,
    /// Its address.
    pub address: String,
    /// Where its peers reach it.
    pub url: String,
    /// Its TLS material, where it has any.
    pub tls: Option<Material>,
    /// Since when it runs.
    pub since: Instant,
    /// Version of its program.
    pub version: String,
}

/// All of etcd.
#[derive(Debug, Default)]
pub struct Etcd {
    /// Volumes by the uid of their claim.
    pub disks: BTreeMap<String, Disk>,
    /// Processes by the uid of their pod.
    pub processes: BTreeMap<String, Process>,
    /// Nodes that nobody reaches.
    pub cut: BTreeSet<String>,
    /// Cluster id to leader and term.
    pub leaders: BTreeMap<u64, (u64, u64)>,
    vacant: BTreeMap<u64, Instant>,
    /// Acknowledged writes of each EtcdCluster, by its uid.
    pub acknowledged: BTreeMap<String, Vec<u64>>,
    /// Clusters that were begun from nothing for an EtcdCluster, by its uid.
    pub founded: BTreeMap<String, BTreeSet<u64>>,
    /// EtcdClusters of which it was decided that writes may be lost.
    pub forgiven: BTreeSet<String>,
    /// Backups by key.
    pub backups: BTreeMap<String, Data>,
    next: u64,
    /// What must not be and was.
    pub wrong: Vec<String>,
}

/// A number from words.
pub fn number(words: &[&str]) -> u64 {
    let mut hasher = DefaultHasher::new();
    words.hash(&mut hasher);
    hasher.finish() | 1
}

/// Why a process ended at its start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended(pub String);

impl Etcd {
    /// Data of a process.
    pub fn data(&self, process: &Process) -> Option<&Data> {
        self.disks.get(&process.disk)?.data.as_ref()
    }

    fn talk(&self, a: &Process, b: &Process) -> bool {
        let sides = !self.cut.contains(&a.node) && !self.cut.contains(&b.node);
        sides
            && match (&a.tls, &b.tls) {
                (Some(a), Some(b)) => a.peers_accept(b) && b.peers_accept(a),
                (None, None) => true,
                _ => false,
            }
    }

    /// Starts a process as its flags say; the words of one that ends at once.
    pub fn start(&mut self, pod: &str, process: Process, initial: &str, state: &str, token: &str) -> Result<(), Ended> {
        let disk = self.disks.entry(process.disk.clone()).or_default();
        let owner = disk.owner.clone();
        let initial: Vec<(&str, &str)> = initial.split(',').filter_map(|pair| pair.split_once('=')).collect();
        if let Some(data) = &disk.data {
            if data.removed {
                return Err(Ended("the member has been permanently removed from the cluster".into()));
            }
            disk.used = true;
            self.processes.insert(pod.to_owned(), process);
            return Ok(());
        }
        let id = |url: &str| number(&[url, token]);
        match state {
            "new" => {
                if disk.used {
                    self.wrong
                        .push(format!("{} begins again on a volume that lost its data", process.name));
                }
                let rows: Vec<Row> = initial
                    .iter()
                    .map(|(name, url)| Row {
                        id: id(url),
                        name: (*name).to_owned(),
                        url: (*url).to_owned(),
                        learner: false,
                    })
                    .collect();
                let mut ids: Vec<String> = rows.iter().map(|row| row.id.to_string()).collect();
                ids.sort();
                let cluster = number(&ids.iter().map(String::as_str).collect::<Vec<_>>());
                if self.founded.get(&owner).is_some_and(|known| !known.contains(&cluster)) {
                    self.wrong
                        .push(format!("{} begins a second cluster {cluster:x}", process.name));
                }
                self.founded.entry(owner).or_default().insert(cluster);
                let mut data = empty(id(&process.url), cluster);
                data.take(Entry {
                    term: 1,
                    what: What::Config(rows),
                });
                disk.data = Some(data);
            }
            _ => {
                let peers = initial.iter().filter(|(_, url)| *url != process.url);
                let peers: Vec<String> = peers.map(|(_, url)| (*url).to_owned()).collect();
                let known = self
                    .processes
                    .values()
                    .filter(|other| peers.contains(&other.url) && self.talk(&process, other))
                    .find_map(|other| self.data(other).filter(|data| !data.removed));
                let Some(known) = known else {
                    return Err(Ended(
                        "error validating peerURLs: cannot fetch cluster info from peer urls: could not retrieve cluster \
                         information from the given URLs"
                            .into(),
                    ));
                };
                let Some(row) = known.rows.iter().find(|row| row.url == process.url) else {
                    return Err(Ended(
                        "error validating peerURLs: unmatched member while checking PeerURLs".into(),
                    ));
                };
                let (member, cluster) = (row.id, known.cluster);
                if known.rows.len() != initial.len() {
                    return Err(Ended("error validating peerURLs: member count is unequal".into()));
                }
                if self.disks.get(&process.disk).is_some_and(|disk| disk.used) {
                    self.wrong
                        .push(format!("{} joins again on a volume that lost its data", process.name));
                }
                let disk = self.disks.entry(process.disk.clone()).or_default();
                disk.data = Some(empty(member, cluster));
            }
        }
        if let Some(disk) = self.disks.get_mut(&process.disk) {
            disk.used = true;
        }
        self.processes.insert(pod.to_owned(), process);
        Ok(())
    }

    /// Processes of a cluster with their pods' uids.
    fn of_cluster(&self, cluster: u64) -> Vec<(String, u64)> {
        self.processes
            .iter()
            .filter_map(|(pod, process)| {
                let data = self.data(process)?;
                (data.cluster == cluster && !data.removed).then(|| (pod.clone(), data.member))
            })
            .collect()
    }

    /// The members of its cluster that a process reaches, itself among them.
    fn reaches(&self, pod: &str, cluster: u64) -> Vec<(String, u64)> {
        let Some(me) = self.processes.get(pod) else {
            return Vec::new();
        };
        let mut all = self.of_cluster(cluster);
        all.retain(|(other, _)| other == pod || self.processes.get(other).is_some_and(|other| self.talk(me, other)));
        all
    }

    /// The leader's pod, if it has a quorum behind it at this moment.
    pub fn leader(&self, cluster: u64) -> Option<String> {
        let (member, _) = self.leaders.get(&cluster)?;
        let (pod, _) = self.of_cluster(cluster).into_iter().find(|(_, id)| id == member)?;
        let data = self.data(self.processes.get(&pod)?)?;
        self.has_quorum(&pod, data, |_| true).then_some(pod)
    }

    fn has_quorum(&self, pod: &str, data: &Data, counts: impl Fn(&Data) -> bool) -> bool {
        let voters = data.voters();
        let votes = self
            .reaches(pod, data.cluster)
            .into_iter()
            .filter(|(other, id)| {
                let theirs = self.processes.get(other).and_then(|process| self.data(process));
                voters.contains(id) && theirs.is_some_and(&counts)
            })
            .count();
        voters.contains(&data.member) && votes > voters.len() / 2
    }

    /// One tick of all clusters.
    pub fn tick(&mut self) {
        let clusters: BTreeSet<u64> = self
            .processes
            .values()
            .filter_map(|process| self.data(process).map(|data| data.cluster))
            .collect();
        for cluster in clusters {
            if self.leader(cluster).is_none() {
                self.leaders.remove(&cluster);
                let since = *self.vacant.entry(cluster).or_insert_with(clock::now);
                if clock::since(since) >= ELECTION {
                    self.elect(cluster);
                }
            } else {
                self.vacant.remove(&cluster);
            }
            self.replicate(cluster);
        }
    }

    fn elect(&mut self, cluster: u64) {
        let candidates = self.of_cluster(cluster);
        let mut best: Option<(String, (u64, usize))> = None;
        for (pod, _) in candidates {
            let Some(data) = self.processes.get(&pod).and_then(|process| self.data(process)) else {
                continue;
            };
            let end = data.end();
            if self.has_quorum(&pod, data, |theirs| theirs.end() <= end)
                && best.as_ref().is_none_or(|(_, other)| *other < end)
            {
                best = Some((pod, end));
            }
        }
        let Some((pod, (term, _))) = best else { return };
        let Some(member) = self
            .processes
            .get(&pod)
            .and_then(|process| self.data(process))
            .map(|data| data.member)
        else {
            return;
        };
        let term = term.max(self.leaders.get(&cluster).map_or(0, |(_, term)| *term)) + 1;
        self.leaders.insert(cluster, (member, term));
        self.vacant.remove(&cluster);
        self.append(cluster, What::Begin);
        self.check_acknowledged(&pod);
    }

    /// What was acknowledged must be in what a leader has.
    fn check_acknowledged(&mut self, pod: &str) {
        let Some(process) = self.processes.get(pod) else { return };
        let Some(disk) = self.disks.get(&process.disk) else {
            return;
        };
        let Some(data) = &disk.data else { return };
        let has: BTreeSet<u64> = data.writes().collect();
        let Some(told) = self.acknowledged.get_mut(&disk.owner) else {
            return;
        };
        let lost: Vec<u64> = told.iter().filter(|id| !has.contains(id)).copied().collect();
        if lost.is_empty() {
            return;
        }
        if !self.forgiven.contains(&disk.owner) {
            let text = format!(
                "{} of {} acknowledged writes are not in the log of {}, which leads",
                lost.len(),
                told.len(),
                process.name
            );
            self.wrong.push(text);
        }
        told.retain(|id| has.contains(id));
    }

    /// Agrees on something; false without a quorum.
    pub fn append(&mut self, cluster: u64, what: What) -> bool {
        let Some(leader) = self.leader(cluster) else {
            return false;
        };
        let term = self.leaders.get(&cluster).map_or(0, |(_, term)| *term);
        self.replicate(cluster);
        let Some(before) = self
            .processes
            .get(&leader)
            .and_then(|process| self.data(process))
            .cloned()
        else {
            return false;
        };
        for (pod, _) in self.reaches(&leader, cluster) {
            let Some(disk) = self.processes.get(&pod).map(|process| process.disk.clone()) else {
                continue;
            };
            let data = self.disks.get_mut(&disk).and_then(|disk| disk.data.as_mut());
            if let Some(data) = data.filter(|data| data.log.len() == before.log.len()) {
                data.take(Entry {
                    term,
                    what: what.clone(),
                });
            }
        }
        true
    }

    /// Brings those up that lag, and tells those that are out.
    fn replicate(&mut self, cluster: u64) {
        let Some(leader) = self.leader(cluster) else { return };
        let Some(ahead) = self
            .processes
            .get(&leader)
            .and_then(|process| self.data(process))
            .cloned()
        else {
            return;
        };
        for (pod, id) in self.reaches(&leader, cluster) {
            let Some(process) = self.processes.get(&pod) else {
                continue;
            };
            let (disk, name) = (process.disk.clone(), process.name.clone());
            let Some(data) = self.disks.get_mut(&disk).and_then(|disk| disk.data.as_mut()) else {
                continue;
            };
            if !ahead.lists(id) {
                // Told of its removal.
                data.removed = true;
                continue;
            }
            if data.log.len() > ahead.log.len() || data.log[..] != ahead.log[..data.log.len()] {
                let common = data.log.iter().zip(&ahead.log).take_while(|(a, b)| a == b).count();
                data.log.truncate(common);
            }
            let to = (data.log.len() + CATCH_UP).min(ahead.log.len());
            let from = data.log.len();
            for entry in &ahead.log[from..to] {
                data.take(entry.clone());
            }
            data.base = ahead.base;
            data.alarms.clone_from(&ahead.alarms);
            if data.database == (0, 0, 0) {
                data.database = ahead.database;
            }
            // A member publishes its name once it has its place.
            let unnamed = data.rows.iter().any(|row| row.id == id && row.name.is_empty());
            if unnamed && data.log.len() == ahead.log.len() {
                let mut rows = data.rows.clone();
                for row in rows.iter_mut().filter(|row| row.id == id) {
                    row.name.clone_from(&name);
                }
                self.publish(cluster, rows);
                return;
            }
        }
    }

    fn publish(&mut self, cluster: u64, rows: Vec<Row>) {
        let Some(leader) = self.leader(cluster) else { return };
        let term = self.leaders.get(&cluster).map_or(0, |(_, term)| *term);
        let length = self
            .processes
            .get(&leader)
            .and_then(|process| self.data(process))
            .map_or(0, |data| data.log.len());
        for (pod, _) in self.reaches(&leader, cluster) {
            let Some(disk) = self.processes.get(&pod).map(|process| process.disk.clone()) else {
                continue;
            };
            let data = self.disks.get_mut(&disk).and_then(|disk| disk.data.as_mut());
            if let Some(data) = data.filter(|data| data.log.len() == length) {
                data.take(Entry {
                    term,
                    what: What::Config(rows.clone()),
                });
            }
        }
    }

    /// A client writes to each cluster that an EtcdCluster has.
    pub fn write_everywhere(&mut self) {
        let clusters: BTreeSet<u64> = self.leaders.keys().copied().collect();
        for cluster in clusters {
            let Some(leader) = self.leader(cluster) else { continue };
            let Some(process) = self.processes.get(&leader) else {
                continue;
            };
            let Some(disk) = self.disks.get(&process.disk) else {
                continue;
            };
            let full = disk.data.as_ref().is_some_and(|data| !data.alarms.is_empty());
            let owner = disk.owner.clone();
            self.next += 1;
            let id = self.next;
            if !full && self.append(cluster, What::Write(id)) {
                self.acknowledged.entry(owner).or_default().push(id);
            }
        }
    }

    /// Changes the membership through the leader; etcd's words when it is refused.
    pub fn configure(
        &mut self,
        cluster: u64,
        change: impl FnOnce(&mut Vec<Row>) -> Result<(), &'static str>,
    ) -> Result<(), &'static str> {
        let leader = self.leader(cluster).ok_or("etcdserver: no leader")?;
        let mut rows = self
            .processes
            .get(&leader)
            .and_then(|process| self.data(process))
            .map(|data| data.rows.clone())
            .unwrap_or_default();
        change(&mut rows)?;
        match self.append(cluster, What::Config(rows)) {
            true => Ok(()),
            false => Err("etcdserver: request timed out"),
        }
    }

    /// Members of a cluster that run and follow its leader.
    pub fn healthy(&self, cluster: u64) -> BTreeSet<u64> {
        let Some(leader) = self.leader(cluster) else {
            return BTreeSet::new();
        };
        self.reaches(&leader, cluster).into_iter().map(|(_, id)| id).collect()
    }

    /// The newest membership of a cluster that any volume holds, whether it runs or not.
    pub fn newest(&self, cluster: u64) -> Option<&Data> {
        self.disks
            .values()
            .filter_map(|disk| disk.data.as_ref())
            .filter(|data| data.cluster == cluster)
            .max_by_key(|data| data.end())
    }

    /// The same for an EtcdCluster: of the cluster that lives.
    pub fn of_owner(&self, owner: &str) -> Option<&Data> {
        self.disks
            .values()
            .filter(|disk| disk.owner == owner)
            .filter_map(|disk| disk.data.as_ref())
            .filter(|data| !data.removed)
            .max_by_key(|data| (self.leader(data.cluster).is_some(), data.end()))
    }
}

/// A data directory without anything in it yet.
pub fn empty(member: u64, cluster: u64) -> Data {
    Data {
        member,
        cluster,
        log: Vec::new(),
        rows: Vec::new(),
        base: 0,
        database: (0, 0, 0),
        alarms: BTreeSet::new(),
        removed: false,
    }
}

/// A data directory of a cluster with this one member, with the writes of another.
pub fn alone(from: &Data, name: &str, url: &str, token: &str, above: Option<i64>) -> Data {
    let member = number(&[url, token]);
    let mut data = empty(member, number(&[&member.to_string()]));
    data.database = from.database;
    data.take(Entry {
        term: 1,
        what: What::Config(vec![Row {
            id: member,
            name: name.to_owned(),
            url: url.to_owned(),
            learner: false,
        }]),
    });
    for id in from.writes() {
        data.take(Entry {
            term: 1,
            what: What::Write(id),
        });
    }
    let bump = above.unwrap_or(0).saturating_sub(from.revision()).max(0) + 1_000_000;
    data.base = from.base + bump;
    data
}
