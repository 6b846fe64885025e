//! A tiny model of a cluster: volumes, processes, logs, partitions, an operator that crashes. Many seeds, every plan
//! checked, nothing acknowledged lost, and after the faults stop the cluster becomes as wanted.
//!
//! What is modelled of etcd: a log is a length; a leader is a running voter that reaches a quorum of its own
//! configuration and whose log is as long as theirs; a write is acknowledged when a quorum holds it. A volume that is
//! wiped forgets. That is enough for a wrong step to lose a write or to make two leaders.

mod scripts;
mod seeds;

use std::time::Duration;

use super::check::check;
use super::journal::Journal;
use super::observed::{
    Alarm, Answer, Data, Health, Listed, LogEnd, Member, Node, Observed, Origin, Process, Retired, Verdict, Volume,
};
use super::reason::Reason;
use super::step::{Create, MemberRef, Start, Step};
use super::wanted::Wanted;
use super::{ClusterId, MemberId, Next, Timestamp, backup, plan, resources};

/// SplitMix64: a seed in, the same sequence out.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        usize::try_from(self.next() % (n.max(1) as u64)).unwrap_or(0)
    }

    /// True once in `n`.
    fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }
}

#[derive(Clone, Debug)]
struct Disk {
    id: MemberId,
    cluster: ClusterId,
    length: u64,
    config: Vec<Listed>,
    /// How many configurations came before; a copy of the leader's.
    config_version: u64,
}

#[derive(Clone, Debug)]
struct Machine {
    name: String,
    volume: Volume,
    peer_url: String,
    disk: Option<Disk>,
    /// A process wrote here once.
    wrote: bool,
    running: Option<Timestamp>,
    exited: Option<(Timestamp, u32)>,
    template: Option<String>,
    health: (Verdict, Timestamp),
    inspected: bool,
    copied: Option<Timestamp>,
    /// Its pod waits for a node (or an image) since then.
    pending: Option<Timestamp>,
    /// On the other side of a partition: neither the operator nor side 0 reaches it.
    cut_off: bool,
    /// Bytes of the database, in use, and in use by what compaction cannot remove.
    database: (u64, u64, u64),
    node: Node,
    /// What the platform reports of the volume instead of what is on it.
    found: Option<Data>,
}

/// What goes wrong during a round.
#[derive(Clone, Copy, PartialEq)]
enum Faults {
    None,
    /// The operator crashes, steps fail, answers are lost.
    Operator,
    /// And members die while it thinks.
    World,
}

struct World {
    random: Random,
    now: Timestamp,
    wanted: Wanted,
    nodes: Vec<Machine>,
    retired: Vec<(Retired, Machine)>,
    journal: Journal,
    counter: u64,
    /// Names given out; letters in scripts.
    names: u64,
    letters: bool,
    alarms: Vec<Alarm>,
    /// Length of the log that was acknowledged to clients, per cluster id.
    acknowledged: u64,
    /// A recovery was carried out: what was acknowledged before may be lost.
    forgiven: bool,
    recovered: bool,
    backups: Vec<backup::Run>,
    /// Partitions may cut off more than a minority.
    deep: bool,
    /// Nobody is slow: for scripts.
    steady: bool,
    /// What is started waits for a node.
    no_room: bool,
    trace: Vec<String>,
    leader_wish: Option<MemberId>,
}

const START: Timestamp = Timestamp::from_seconds(1_800_000_000);

impl World {
    fn new(seed: u64, replicas: u32) -> World {
        let mut wanted = Wanted::new("db", "uid-1", replicas);
        wanted.repair.after = Duration::from_secs(60);
        wanted.storage.retain_for = Duration::from_secs(120);
        World {
            random: Random(seed),
            now: START,
            wanted,
            nodes: Vec::new(),
            retired: Vec::new(),
            journal: Journal::default(),
            counter: 0,
            names: 0,
            letters: false,
            alarms: Vec::new(),
            acknowledged: 0,
            forgiven: false,
            recovered: false,
            deep: false,
            steady: false,
            backups: Vec::new(),
            trace: Vec::new(),
            no_room: false,
            leader_wish: None,
        }
    }

    fn note(&mut self, text: String) {
        let at = self.now.since(START).as_secs();
        self.trace.push(format!("{at:>5}s {text}"));
    }

    /// The leader on one side of the partition: its index in `nodes`.
    fn leader(&self, cut_off: bool) -> Option<usize> {
        let side = |n: &Machine| n.cut_off == cut_off && n.running.is_some();
        let mut best: Option<usize> = None;
        for (i, node) in self.nodes.iter().enumerate() {
            let Some(disk) = node.disk.as_ref().filter(|_| side(node)) else {
                continue;
            };
            if !disk.config.iter().any(|l| l.id == disk.id && !l.learner) {
                continue;
            }
            let voters: Vec<MemberId> = disk.config.iter().filter(|l| !l.learner).map(|l| l.id).collect();
            let votes = self
                .nodes
                .iter()
                .filter(|n| side(n))
                .filter_map(|n| n.disk.as_ref())
                .filter(|d| d.cluster == disk.cluster && voters.contains(&d.id) && d.length <= disk.length)
                .count();
            let rank = |n: &Machine| {
                let d = n.disk.as_ref();
                (
                    d.map(|d| d.config_version),
                    d.map(|d| d.length),
                    d.map(|d| Some(d.id) == self.leader_wish),
                )
            };
            if votes > voters.len() / 2 && best.is_none_or(|b| rank(&self.nodes[b]) < rank(node)) {
                best = Some(i);
            }
        }
        best
    }

    /// One second of the cluster's own life.
    fn live(&mut self) {
        self.now = self.now.plus(Duration::from_secs(1));
        for cut_off in [false, true] {
            let Some(leader) = self.leader(cut_off) else { continue };
            let mut disk = self.nodes[leader].disk.clone().expect("a leader has data");
            assert!(
                self.forgiven || disk.length >= self.acknowledged,
                "an acknowledged write is lost: {} leads with {} of {}\n{}",
                self.nodes[leader].name,
                disk.length,
                self.acknowledged,
                self.trace.join("\n")
            );
            disk.length += 1;
            let voters: Vec<MemberId> = disk.config.iter().filter(|l| !l.learner).map(|l| l.id).collect();
            let mut copies = 0;
            for i in 0..self.nodes.len() {
                // A follower is slow now and then.
                let slow = !self.steady && self.random.one_in(8) && i != leader;
                let node = &mut self.nodes[i];
                if node.cut_off != cut_off || node.running.is_none() {
                    continue;
                }
                let Some(own) = node.disk.as_mut() else { continue };
                if own.cluster != disk.cluster {
                    continue;
                }
                if !disk.config.iter().any(|l| l.id == own.id) {
                    // Told that it was removed; etcd's member then stops.
                    if own.config_version <= disk.config_version {
                        node.running = None;
                        node.exited = Some((self.now, 0));
                    }
                    continue;
                }
                if slow {
                    continue;
                }
                own.length = disk.length;
                own.config.clone_from(&disk.config);
                own.config_version = disk.config_version;
                copies += usize::from(voters.contains(&own.id));
            }
            if copies > voters.len() / 2 {
                self.acknowledged = self.acknowledged.max(disk.length);
            }
        }
        let leaders = [self.leader(false), self.leader(true)];
        if let [Some(a), Some(b)] = leaders {
            panic!(
                "two leaders: {} and {}\n{}",
                self.nodes[a].name,
                self.nodes[b].name,
                self.trace.join("\n")
            );
        }
        for i in 0..self.nodes.len() {
            let verdict = self.verdict(i);
            let now = self.now;
            let node = &mut self.nodes[i];
            if node.health.0 != verdict {
                node.health = (verdict, now);
            }
        }
    }

    fn verdict(&self, i: usize) -> Verdict {
        let node = &self.nodes[i];
        if node.cut_off {
            return Verdict::Unknown;
        }
        let follows = || {
            let leader = self.leader(false)?;
            let (lead, own) = (self.nodes[leader].disk.as_ref()?, node.disk.as_ref()?);
            (lead.cluster == own.cluster && lead.config.iter().any(|l| l.id == own.id)).then_some(())
        };
        if node.running.is_some() && follows().is_some() {
            Verdict::Healthy
        } else {
            Verdict::Unhealthy
        }
    }

    fn observe(&mut self) -> Observed {
        let leader = self.leader(false);
        let lead = leader.and_then(|l| self.nodes[l].disk.clone());
        let members = self.nodes.iter().map(|n| self.member(n, lead.as_ref())).collect();
        let retired = self.retired.iter().map(|(r, _)| r.clone()).collect();
        let fresh_names = (0..12).map(|i| self.name(self.names + i)).collect();
        Observed {
            members,
            retired,
            fresh_names,
            journal: self.journal.clone(),
            backups: self.backups.clone(),
            defrag_tick: None,
            complaints: Vec::new(),
        }
    }

    fn name(&self, number: u64) -> String {
        match u8::try_from(number) {
            Ok(n) if self.letters && n < 26 => char::from(b'a' + n).to_string(),
            _ => format!("m{number}"),
        }
    }

    fn member(&self, n: &Machine, lead: Option<&Disk>) -> Member {
        let process = match (n.cut_off, n.running, n.exited) {
            (true, ..) => Process::Unknown { since: n.health.1 },
            _ if n.pending.is_some() => Process::Pending {
                since: n.pending.unwrap_or_default(),
                why: "Unschedulable: 0/3 nodes are available".into(),
            },
            (false, Some(since), _) => Process::Running { since },
            (false, None, Some((at, restarts))) => Process::Exited {
                at,
                restarts,
                message: "killed".into(),
                restarted_by_platform: false,
            },
            (false, None, None) => Process::Absent,
        };
        let data = match (&n.disk, n.wrote) {
            _ if n.cut_off => Data::Unknown,
            _ if n.found.is_some() => n.found.clone().unwrap_or(Data::Unknown),
            (Some(_), _) => Data::Present,
            (None, true) => Data::Lost,
            (None, false) => Data::Fresh,
        };
        let answer = n.disk.as_ref().filter(|_| n.running.is_some() && !n.cut_off).map(|d| {
            let follows = lead.filter(|l| l.cluster == d.cluster && l.config.iter().any(|m| m.id == d.id));
            Answer {
                at: self.now,
                member_id: d.id,
                cluster_id: d.cluster,
                leader: follows.map(|l| l.id),
                learner: d.config.iter().any(|l| l.id == d.id && l.learner),
                term: d.config_version + 1,
                index: d.length,
                applied: d.length,
                revision: i64::try_from(d.length).unwrap_or(0),
                db_bytes: n.database.0,
                db_in_use_bytes: n.database.1,
                quota_bytes: 8 << 30,
                version: "3.7.3".into(),
                alarms: self.alarms.clone(),
                linearizable: follows.is_some(),
                members: follows.map_or(d.config.clone(), |l| l.config.clone()),
            }
        });
        let log = n.disk.as_ref().filter(|_| n.inspected).map(|d| LogEnd {
            term: d.config_version + 1,
            index: d.length,
            commit: d.length,
            revision: i64::try_from(d.length).unwrap_or(0),
        });
        Member {
            name: n.name.clone(),
            peer_url: n.peer_url.clone(),
            volume: n.volume.clone(),
            process,
            node: n.node.clone(),
            data,
            health: Health {
                verdict: n.health.0,
                why: String::new(),
                since: n.health.1,
                at: self.now,
            },
            answer,
            log,
            copied: n.copied,
            template: n.template.clone(),
            certificate: None,
        }
    }

    /// The operator's round: look, plan, check, persist, act. It may crash at each comma.
    fn reconcile(&mut self, faults: Faults) -> Next {
        let faulty = faults != Faults::None;
        let observed = self.observe();
        if faults == Faults::World && self.random.one_in(6) {
            // A stale look: the world goes on before the plan is carried out.
            self.fault();
            self.live();
        }
        let plan = plan(&self.wanted, &observed, self.now);
        let wrong = check(&self.wanted, &observed, &plan);
        assert!(
            wrong.is_empty(),
            "{wrong:#?}\n{:?}\n{}",
            plan.next,
            self.trace.join("\n")
        );
        if faulty && self.random.one_in(20) {
            return plan.next;
        }
        self.journal = plan.journal.clone();
        if faulty && self.random.one_in(20) {
            return plan.next;
        }
        for due in &plan.due {
            if let super::Due::PurgeVolume { name, volume } = due {
                self.retired.retain(|(r, _)| r.name != *name || r.volume != *volume);
            }
        }
        if let Next::Take { step, why } = &plan.next {
            let fails = faulty && self.random.one_in(12);
            let after = self.random.one_in(2);
            let result = if fails && !after {
                Err("no answer".to_string())
            } else {
                self.carry_out(step)
            };
            let result = if fails { Err("no answer".to_string()) } else { result };
            self.note(format!("{step} [{}] {result:?}", why.name()));
            if faulty && self.random.one_in(20) {
                return plan.next;
            }
            match result {
                Ok(()) => self.journal.note_done(step, self.now),
                Err(error) => self.journal.note_failed(step, &error, self.now),
            }
        }
        plan.next
    }

    fn index(&self, reference: &MemberRef) -> Result<usize, String> {
        self.nodes
            .iter()
            .position(|n| n.name == reference.name && n.volume.uid == reference.volume)
            .ok_or_else(|| format!("{} is gone", reference.name))
    }

    /// What the platform does, with its own refusals.
    fn carry_out(&mut self, step: &Step) -> Result<(), String> {
        let now = self.now;
        match step {
            Step::Record { .. } => Ok(()),
            Step::CreateMember { name, create } => {
                let used =
                    self.nodes.iter().any(|n| n.name == *name) || self.retired.iter().any(|(r, _)| r.name == *name);
                assert!(!used, "the name {name} is used again");
                self.counter += 1;
                self.names += 1;
                let origin = match create {
                    Create::Initial { cluster, token } => Origin::Initial {
                        cluster: cluster.clone(),
                        token: token.clone(),
                    },
                    Create::Joiner => Origin::Joiner,
                    Create::Restored { token, .. } => Origin::Restored { token: token.clone() },
                };
                let url = format!("http://{name}:2380");
                let member = Member::new(name, &url, &format!("volume-{}", self.counter), origin, now);
                let mut node = Machine {
                    name: name.clone(),
                    volume: member.volume,
                    peer_url: url.clone(),
                    disk: None,
                    wrote: false,
                    running: None,
                    exited: None,
                    template: None,
                    health: (Verdict::Unknown, now),
                    inspected: false,
                    copied: None,
                    pending: None,
                    cut_off: false,
                    database: (1 << 20, 1 << 20, 1 << 20),
                    node: Node::default(),
                    found: None,
                };
                if let Create::Restored { .. } = create {
                    let id = MemberId(1000 + self.counter);
                    let cluster = ClusterId(500 + self.counter);
                    let config = vec![Listed {
                        id,
                        name: name.clone(),
                        peer_urls: vec![url],
                        learner: false,
                    }];
                    node.disk = Some(Disk {
                        id,
                        cluster,
                        length: self.acknowledged,
                        config,
                        config_version: 0,
                    });
                    node.wrote = true;
                    node.volume.member_id = Some(id);
                    node.volume.cluster_id = Some(cluster);
                    self.forgiven = true;
                    self.recovered = true;
                }
                self.nodes.push(node);
                self.nodes.sort_by(|a, b| a.name.cmp(&b.name));
                Ok(())
            }
            Step::StartMember { member, start } => {
                let i = self.index(member)?;
                let template = resources::template(&self.wanted);
                if self.nodes[i].running.is_some() || self.nodes[i].pending.is_some() {
                    return Err("runs".into());
                }
                if self.no_room {
                    self.nodes[i].volume.started = true;
                    self.nodes[i].template = Some(template);
                    self.nodes[i].pending = Some(now);
                    self.nodes[i].exited = None;
                    return Ok(());
                }
                match start {
                    Start::New { initial_cluster, .. } => {
                        if self.nodes[i].wrote {
                            return Err("not fresh".into());
                        }
                        let entry = |(name, url): &(String, String)| Listed {
                            id: MemberId(u64::from_str_radix(&resources::short_hash(url)[..8], 16).unwrap_or(1)),
                            name: name.clone(),
                            peer_urls: vec![url.clone()],
                            learner: false,
                        };
                        let config: Vec<Listed> = initial_cluster.iter().map(entry).collect();
                        let id = config.iter().find(|l| l.name == self.nodes[i].name).expect("listed").id;
                        let cluster = ClusterId(77);
                        self.nodes[i].disk = Some(Disk {
                            id,
                            cluster,
                            length: 0,
                            config,
                            config_version: 0,
                        });
                        self.nodes[i].volume.member_id = Some(id);
                        self.nodes[i].volume.cluster_id = Some(cluster);
                    }
                    Start::Join { .. } => {
                        if self.nodes[i].wrote {
                            return Err("not fresh".into());
                        }
                        let leader = self.leader(false).ok_or("no quorum")?;
                        let disk = self.nodes[leader].disk.clone().expect("a leader has data");
                        let id = member.id.ok_or("no id")?;
                        if !disk.config.iter().any(|l| l.id == id) {
                            return Err("not in the list".into());
                        }
                        self.nodes[i].disk = Some(Disk {
                            id,
                            cluster: disk.cluster,
                            length: 0,
                            config: Vec::new(),
                            config_version: 0,
                        });
                        self.nodes[i].volume.member_id = Some(id);
                        self.nodes[i].volume.cluster_id = Some(disk.cluster);
                    }
                    Start::Resume => {
                        if self.nodes[i].disk.is_none() {
                            return Err("no data".into());
                        }
                    }
                }
                let node = &mut self.nodes[i];
                node.volume.started = true;
                node.wrote = true;
                node.running = Some(now);
                node.exited = None;
                node.inspected = false;
                node.copied = None;
                node.template = Some(template);
                Ok(())
            }
            Step::StopMember { member } => {
                let i = self.index(member)?;
                self.nodes[i].running = None;
                self.nodes[i].exited = None;
                self.nodes[i].pending = None;
                Ok(())
            }
            Step::RestartMember { member, template } => {
                let i = self.index(member)?;
                self.nodes[i].running = (!self.no_room).then_some(now);
                self.nodes[i].pending = self.no_room.then_some(now);
                self.nodes[i].exited = None;
                self.nodes[i].template = Some(template.clone());
                Ok(())
            }
            Step::AddLearner { member, peer_url } => {
                let i = self.index(member)?;
                self.counter += 1;
                let id = MemberId(1000 + self.counter);
                let name = String::new();
                let entry = Listed {
                    id,
                    name,
                    peer_urls: vec![peer_url.clone()],
                    learner: true,
                };
                let id = self.configure(|config| match config.iter().find(|l| l.peer_urls == entry.peer_urls) {
                    Some(there) => Ok(there.id),
                    None => {
                        config.push(entry);
                        Ok(id)
                    }
                })?;
                // The crash between the two: the id is found again by URL.
                if !self.random.one_in(4) {
                    self.nodes[i].volume.member_id = Some(id);
                }
                Ok(())
            }
            Step::Promote { member } => {
                let id = member.id.ok_or("no id")?;
                let i = self.index(member)?;
                if self.nodes[i].running.is_none() || self.nodes[i].cut_off {
                    return Err("does not answer".into());
                }
                self.configure(|config| {
                    let entry = config.iter_mut().find(|l| l.id == id).ok_or("not found")?;
                    entry.learner = false;
                    Ok(())
                })
            }
            Step::MoveLeader { to, .. } => {
                self.leader_wish = to.id;
                Ok(())
            }
            Step::RemoveMember { id, .. } => {
                let well: Vec<MemberId> = (0..self.nodes.len())
                    .filter(|i| self.verdict(*i) == Verdict::Healthy)
                    .filter_map(|i| self.nodes[i].disk.as_ref().map(|d| d.id))
                    .collect();
                self.configure(|config| {
                    let rest = || config.iter().filter(|l| !l.learner && l.id != *id);
                    let healthy = rest().filter(|l| well.contains(&l.id)).count();
                    if config.iter().any(|l| l.id == *id && !l.learner) && healthy <= rest().count() / 2 {
                        return Err("no quorum would remain");
                    }
                    config.retain(|l| l.id != *id);
                    Ok(())
                })
            }
            Step::RetireMember { member } => {
                let i = self.index(member)?;
                let mut node = self.nodes.remove(i);
                node.running = None;
                let retired = Retired {
                    name: node.name.clone(),
                    volume: node.volume.uid.clone(),
                    member_id: node.volume.member_id,
                    at: now,
                };
                self.retired.push((retired, node));
                Ok(())
            }
            Step::InspectLog { member } => {
                let i = self.index(member)?;
                self.nodes[i].inspected = true;
                Ok(())
            }
            Step::CopyVolume { member } => {
                let i = self.index(member)?;
                self.nodes[i].copied = Some(now);
                Ok(())
            }
            Step::RecoverQuorum { survivor, hash, .. } => {
                let i = self.index(survivor)?;
                if self.nodes[i].running.is_some() {
                    return Err("runs".into());
                }
                let disk = self.nodes[i].disk.as_mut().ok_or("no data")?;
                disk.config.retain(|l| l.id == disk.id);
                disk.config.iter_mut().for_each(|l| l.learner = false);
                disk.config_version += 1000;
                self.nodes[i].volume.recovered = Some(hash.clone());
                let bound = self.journal.recovery.as_ref().map(|r| r.loss_bound.clone());
                self.forgiven |= bound.as_deref() != Some("nothing that was acknowledged");
                self.recovered = true;
                Ok(())
            }
            Step::Compact { .. } => {
                self.nodes.iter_mut().for_each(|n| n.database.1 = n.database.2);
                Ok(())
            }
            Step::Defragment { member, .. } => {
                let i = self.index(member)?;
                self.nodes[i].database.0 = self.nodes[i].database.1;
                Ok(())
            }
            Step::DisarmAlarm { member, kind } => {
                self.alarms.retain(|a| a.member != *member || a.kind != *kind);
                Ok(())
            }
            Step::ExpandVolume { member, bytes } => {
                let i = self.index(member)?;
                self.nodes[i].volume.size_bytes = *bytes;
                Ok(())
            }
            Step::Release { .. } => Ok(()),
        }
    }

    /// A configuration change through the leader, as etcd commits it: a majority of the present voters take it.
    fn configure<T>(&mut self, change: impl FnOnce(&mut Vec<Listed>) -> Result<T, &'static str>) -> Result<T, String> {
        let leader = self.leader(false).ok_or("no quorum")?;
        let before = self.nodes[leader].disk.clone().expect("a leader has data");
        let mut after = before.clone();
        let answer = change(&mut after.config)?;
        after.config_version += 1;
        after.length += 1;
        for node in self.nodes.iter_mut().filter(|n| n.running.is_some() && !n.cut_off) {
            let Some(own) = node.disk.as_mut().filter(|d| d.cluster == before.cluster) else {
                continue;
            };
            if before.config.iter().any(|l| l.id == own.id) && own.config_version <= before.config_version {
                own.length = after.length;
                own.config.clone_from(&after.config);
                own.config_version = after.config_version;
            }
        }
        self.acknowledged = self.acknowledged.max(after.length);
        Ok(answer)
    }

    /// Voters of the newest configuration that have lost their data or are cut off, and all of them.
    fn lost_voters(&self) -> (usize, usize) {
        let newest = self
            .nodes
            .iter()
            .filter_map(|n| n.disk.as_ref())
            .max_by_key(|d| (d.config_version, d.length));
        let Some(newest) = newest else { return (0, 0) };
        let voters: Vec<&Listed> = newest.config.iter().filter(|l| !l.learner).collect();
        let whole = |l: &&&Listed| {
            self.nodes.iter().any(|n| {
                n.disk
                    .as_ref()
                    .is_some_and(|d| d.id == l.id && d.cluster == newest.cluster)
            })
        };
        (voters.len() - voters.iter().filter(whole).count(), voters.len())
    }

    /// Something goes wrong. Unless `deep`, never so much that a minority is exceeded.
    fn fault(&mut self) {
        if self.nodes.is_empty() {
            return;
        }
        let i = self.random.below(self.nodes.len());
        let name = self.nodes[i].name.clone();
        match self.random.below(10) {
            0..=3 => {
                if self.nodes[i].running.take().is_some() {
                    let restarts = u32::try_from(self.random.below(4)).unwrap_or(0);
                    self.nodes[i].exited = Some((self.now, restarts));
                    self.note(format!("FAULT {name} dies"));
                }
            }
            4..=5 => self.lose(i),
            6 => {
                let before = self.nodes[i].cut_off;
                self.nodes[i].cut_off = true;
                let (missing, voters) = self.lost_voters();
                if !self.deep && missing * 2 >= voters {
                    self.nodes[i].cut_off = before;
                } else {
                    self.note(format!("FAULT {name} is cut off"));
                }
            }
            7 => {
                self.nodes.iter_mut().for_each(|n| n.cut_off = false);
                self.note("FAULT the partition heals".into());
            }
            8 => {
                for node in &mut self.nodes {
                    if node.running.take().is_some() {
                        node.exited = Some((self.now, 0));
                    }
                }
                self.note("FAULT all die".into());
            }
            _ => {
                let replicas = [1, 3, 5][self.random.below(3)];
                if self.journal.cluster_id.is_some() {
                    self.wanted.replicas = replicas;
                    self.note(format!("WANTED {replicas} replicas"));
                }
            }
        }
    }

    /// The disk of a member is emptied, if a minority at most is then without one.
    fn lose(&mut self, i: usize) {
        let saved = self.nodes[i].clone();
        if saved.disk.is_none() || self.journal.cluster_id.is_none() {
            return;
        }
        self.nodes[i].disk = None;
        if self.nodes[i].running.take().is_some() {
            self.nodes[i].exited = Some((self.now, 0));
        }
        let (lost, voters) = self.lost_voters();
        if lost * 2 >= voters || voters == 0 {
            self.nodes[i] = saved;
            return;
        }
        let name = saved.name;
        self.note(format!("FAULT {name} loses its disk"));
    }

    /// Runs without faults until settled; a human acknowledges what is published.
    fn converge(&mut self, rounds: usize) {
        self.nodes.iter_mut().for_each(|n| n.cut_off = false);
        let mut settled = 0;
        for _ in 0..rounds {
            self.live();
            let next = self.reconcile(Faults::None);
            if let Next::Blocked {
                why: Reason::RecoveryRequired { hash, .. },
            } = &next
            {
                self.wanted.recovery.acknowledge = Some(hash.clone());
                self.note(format!("HUMAN acknowledges {hash}"));
            }
            settled = if next == Next::Settled { settled + 1 } else { 0 };
            if settled > 5 {
                break;
            }
        }
        let leader = self.leader(false).and_then(|l| self.nodes[l].disk.clone());
        let voters = leader.map_or(0, |d| d.config.iter().filter(|l| !l.learner).count());
        let last = self.reconcile(Faults::None);
        assert!(
            settled > 5 && voters == self.wanted.replicas as usize && self.nodes.len() == voters,
            "not as wanted: {voters} voters, {} volumes, {} wanted, next {last:#?}\n{}",
            self.nodes.len(),
            self.wanted.replicas,
            self.trace.join("\n")
        );
    }
}
