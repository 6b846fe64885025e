//! What goes wrong, and when it ends.
//!
//! Invariants:
//! - Of the disks, at most one at a time, and never one of a majority, loses what it had promised; such a member does not come back under
//!   its name, as its operator sees to.
//! - After [`World::calm_down`] nothing goes wrong any more.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use disk::{Disk, File};
use replica::Input;

use super::{Event, MS, Relief, SECOND, World};
use crate::swarm::Trouble;

impl World {
    pub(crate) fn trouble(&mut self) {
        if self.calm {
            return;
        }
        let pause = self.swarm.trouble_pause;
        let next = self.random.around(pause) + MS;
        self.after(next, Event::Trouble);
        let all = self.swarm.troubles.clone();
        let trouble = *self.random.pick(&all);
        let up = self.up();
        if up.is_empty() {
            return;
        }
        // The leader is where most can go wrong.
        let victim = match self.leader() {
            Some(leader) if self.random.chance(400) => leader,
            _ => *self.random.pick(&up),
        };
        let name = self.name(victim);
        if !self.befalls(trouble, victim) {
            return;
        }
        self.count(trouble);
        self.story.note(&[6, trouble as u64, victim, self.now]);
        self.story.tell(self.now, || format!("-- {} ({name})", trouble.what()));
    }

    /// Makes it happen; false when it cannot, now.
    fn befalls(&mut self, trouble: Trouble, victim: u64) -> bool {
        let ids: Vec<u64> = self.members.keys().copied().collect();
        let others: Vec<u64> = ids.iter().copied().filter(|id| *id != victim).collect();
        let election = self.swarm.election();
        let until = self.now + self.random.within(election / 2, 5 * election);
        let Some(member) = self.members.get_mut(&victim) else {
            return false;
        };
        match trouble {
            Trouble::PowerCut => self.cut_power(victim),
            Trouble::PowerCutEverywhere => {
                for id in self.up() {
                    self.cut_power(id);
                }
            }
            Trouble::Kill => {
                self.stop(victim);
                let delay = self.random.within(10 * MS, 2 * SECOND);
                self.after(delay, Event::Start(victim));
            }
            Trouble::CleanRestart => {
                if let Some(process) = self.process(victim)
                    && let Err(fatal) = process.replica.close()
                {
                    self.died(victim, "close", &fatal.to_string());
                    return true;
                }
                self.stop(victim);
                let delay = self.random.within(10 * MS, SECOND);
                self.after(delay, Event::Start(victim));
            }
            Trouble::CutAtDiskCall => {
                let calls = self.random.within(0, 40);
                if let Some(member) = self.members.get_mut(&victim) {
                    member.disk.cut_power_at(member.disk.operations() + calls);
                }
            }
            Trouble::CutAtMessage => member.cut_at_message = true,
            Trouble::FailAtDiskCall => {
                if !self.may_break(victim) {
                    return false;
                }
                let calls = self.random.within(0, 30);
                let kind = *self
                    .random
                    .pick(&[ErrorKind::StorageFull, ErrorKind::Other, ErrorKind::TimedOut]);
                if let Some(member) = self.members.get_mut(&victim) {
                    member.disk.fail_at(member.disk.operations() + calls, kind);
                    member.excused = true;
                    // What a failed sync lost looks fine to the next process, and is gone with the power.
                    member.doubtful = true;
                }
            }
            Trouble::Pause => {
                let length = self.random.within(election / 4, 6 * election);
                if let Some(member) = self.members.get_mut(&victim) {
                    member.paused_until = self.now + length;
                }
            }
            Trouble::Isolate => {
                for other in others {
                    self.block(victim, other);
                    self.block(other, victim);
                }
                self.at(until, Event::Relief(Relief::Links));
            }
            Trouble::Split => {
                let side: Vec<u64> = ids.iter().copied().filter(|_| self.random.chance(500)).collect();
                for from in &ids {
                    for to in &ids {
                        if side.contains(from) != side.contains(to) {
                            self.block(*from, *to);
                        }
                    }
                }
                self.at(until, Event::Relief(Relief::Links));
            }
            Trouble::OneWay => {
                let outward = self.random.chance(500);
                for other in others {
                    if self.random.chance(700) {
                        if outward {
                            self.block(victim, other);
                        } else {
                            self.block(other, victim);
                        }
                    }
                }
                self.at(until, Event::Relief(Relief::Links));
            }
            Trouble::SlowLink => {
                let by = self.random.within(election / 20, election * 2);
                for other in others {
                    self.slow_down(victim, other, by);
                }
                self.at(until, Event::Relief(Relief::Links));
            }
            Trouble::SlowDisk => {
                member.slowness = self.random.within(election / 100, election * 3);
                self.at(until, Event::Relief(Relief::Disk(victim)));
            }
            Trouble::FullDisk => {
                if !self.may_break(victim) {
                    return false;
                }
                let room = self.random.within(0, 64 << 10);
                if let Some(member) = self.members.get_mut(&victim) {
                    member.disk.set_capacity(Some(member.disk.used() + room));
                    member.excused = true;
                    member.limited = true;
                }
                self.at(until, Event::Relief(Relief::Disk(victim)));
            }
            Trouble::LyingDisk => {
                if !self.may_break(victim) {
                    return false;
                }
                if let Some(member) = self.members.get_mut(&victim) {
                    member.disk.set_lying(true);
                    member.doubtful = true;
                }
                self.at(until, Event::Relief(Relief::Disk(victim)));
            }
            Trouble::BitFlip => return self.flip(victim),
            Trouble::BlankDisk => {
                if !self.may_break(victim) {
                    return false;
                }
                self.stop(victim);
                if let Some(member) = self.members.get_mut(&victim) {
                    member.lost = true;
                }
            }
            Trouble::OldImage => return self.old_image(victim),
            Trouble::ClockJump => {
                let jump = self.random.within(0, 7_200_000) as i64 - 3_600_000;
                if let Some(member) = self.members.get_mut(&victim) {
                    member.wall_offset += jump;
                }
            }
            Trouble::TransferLeader => {
                let Some(leader) = self.leader() else {
                    return false;
                };
                let target = *self.random.pick(&ids);
                let life = self.life(leader);
                self.feed(life, Input::TransferLeader(target));
            }
            Trouble::Defragment => self.defragment(victim),
            Trouble::Backup => {
                let life = self.life(victim);
                self.feed(life, Input::TakeSnapshot);
            }
            Trouble::Reconfigure => self.dismiss(victim),
            Trouble::CutAtSnapshot => self.cut_at_snapshot = Some(self.random.within(0, 25)),
            Trouble::DecayedMeta => return self.decay_meta(victim),
        }
        true
    }

    /// Whether this member's disk may break promises: only if no other one is in doubt, and the others are a majority by themselves.
    pub(crate) fn may_break(&self, id: u64) -> bool {
        let listed = self.listed();
        let broken = |other: u64| {
            self.members
                .get(&other)
                .is_none_or(|member| member.doubtful || member.lost || member.excused)
        };
        let in_doubt = listed.iter().any(|member| member.id != id && broken(member.id));
        let voters = listed.iter().filter(|member| !member.is_learner).count();
        let is_voter = listed.iter().any(|member| member.id == id && !member.is_learner);
        // Who has not heard of the last change counts votes by the one before.
        let all_know = listed.iter().all(|member| {
            let process = self.members.get(&member.id).and_then(|member| member.process.as_ref());
            process.is_some_and(|process| process.replica.applied() >= self.latest.0)
        });
        self.open_changes.is_empty()
            && all_know
            && !in_doubt
            && self.swarm.members > 2
            && (!is_voter || voters > 2)
            && listed.len() == self.swarm.members
    }

    /// Flips a bit in a file that carries checksums: it must be found.
    fn flip(&mut self, victim: u64) -> bool {
        if !self.may_break(victim) {
            return false;
        }
        let Some(member) = self.members.get(&victim) else {
            return false;
        };
        let disk = member.disk.clone();
        let wal = Path::new("/data/member/wal");
        let mut files: Vec<PathBuf> = disk
            .list(wal)
            .unwrap_or_default()
            .into_iter()
            .map(|name| wal.join(name))
            .collect();
        files.retain(|path| path.extension().is_some_and(|extension| extension == "wal"));
        if files.is_empty() {
            return false;
        }
        let path = self.random.pick(&files).clone();
        let offset = self.random.within(0, self.swarm.segment_bytes);
        let mask = 1 << self.random.below(8);
        if disk.decay(&path, offset, mask).is_err() {
            return false;
        }
        if let Some(member) = self.members.get_mut(&victim) {
            member.excused = true;
            member.doubtful = true;
        }
        // Found at the next start at the latest; a member that starts in spite of it must be as good as any other.
        self.stop(victim);
        let delay = self.random.within(10 * MS, SECOND);
        self.after(delay, Event::Start(victim));
        true
    }

    /// Flips a bit in the meta page that the database does not use at present: it must never be taken for the newer one.
    fn decay_meta(&mut self, victim: u64) -> bool {
        let Some(member) = self.members.get(&victim) else {
            return false;
        };
        let disk = member.disk.clone();
        let path = Path::new("/data/member/snap/db");
        // A meta behind the header of its page: the id of its transaction, and a sum (FNV-1a) of all before that.
        const HEADER: u64 = 16;
        const TXID: usize = 48;
        const SUM: usize = 56;
        let place = |slot: u64| slot * self.swarm.page_size as u64 + HEADER;
        let txid = |slot: u64| -> Option<u64> {
            let mut bytes = [0; SUM + 8];
            let file = disk.open(path, disk::Open::Read).ok()?;
            file.read_exact_at(&mut bytes, place(slot)).ok()?;
            let number = |at: usize| u64::from_le_bytes(std::array::from_fn(|n| bytes[at + n]));
            let sum = bytes[..SUM].iter().fold(0xcbf2_9ce4_8422_2325, |sum: u64, byte| {
                (sum ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3)
            });
            (sum == number(SUM)).then(|| number(TXID))
        };
        // One that a power cut tore is damaged enough.
        let (Some(first), Some(second)) = (txid(0), txid(1)) else {
            return false;
        };
        let older = u64::from(second < first);
        let offset = if self.random.chance(500) {
            self.random.within(TXID as u64, TXID as u64 + 7)
        } else {
            self.random.within(0, SUM as u64 + 7)
        };
        let mask = 1 << self.random.below(8);
        if member.excused || member.doubtful || member.limited || disk.decay(path, place(older) + offset, mask).is_err()
        {
            return false;
        }
        self.stop(victim);
        let delay = self.random.within(10 * MS, SECOND);
        self.after(delay, Event::Start(victim));
        true
    }

    /// A machine goes back to an old image of its disk. Raft cannot bear a member that forgot its promises, so this one is given up; but
    /// the image itself must be whole: it starts by itself, aside.
    fn old_image(&mut self, victim: u64) -> bool {
        if !self.may_break(victim) {
            return false;
        }
        let seed = self.random.any();
        let Some(member) = self.members.get_mut(&victim) else {
            return false;
        };
        let image = member.disk.fork(seed);
        image.set_tearing(false);
        image.crash();
        let sound = !member.excused && !member.doubtful;
        let name = self.name(victim);
        if sound {
            self.open_aside(victim, image, &name);
        }
        self.stop(victim);
        if let Some(member) = self.members.get_mut(&victim) {
            member.lost = true;
        }
        true
    }

    pub(crate) fn relieve(&mut self, relief: Relief) {
        match relief {
            Relief::Links => self.heal_links(),
            Relief::Disk(id) => {
                if let Some(member) = self.members.get_mut(&id) {
                    member.slowness = 0;
                    member.disk.set_capacity(None);
                    member.limited = false;
                    member.disk.set_lying(false);
                }
            }
        }
    }

    /// The end of all trouble.
    pub(crate) fn calm_down(&mut self) {
        self.calm = true;
        self.story
            .tell(self.now, || "== trouble is over; everything must become well".into());
        self.heal_links();
        self.unwanted.clear();
        self.cut_at_snapshot = None;
        let ids: Vec<u64> = self.members.keys().copied().collect();
        for id in ids {
            self.relieve(Relief::Disk(id));
            let Some(member) = self.members.get_mut(&id) else {
                continue;
            };
            member.paused_until = member.paused_until.min(self.now);
            member.cut_at_message = false;
            member.cut_at_start = None;
            member.disk.forget_faults();
            if member.process.is_none() {
                self.after(10 * MS, Event::Start(id));
            }
        }
        for client in &mut self.clients {
            client.calm_answers = 0;
        }
    }
}
