//! One look at a cluster on this machine: its directories, its processes, and what the members say.
//!
//! Invariants:
//! 1. All members are asked at the same time; the look takes as long as the slowest may, not as their sum.
//! 2. What a member said in an earlier look is never repeated (`ask`).

use super::presence::{self, Presence};
use super::process::{self, Exit, Process};
use super::records::{ProcessRecord, Refusal, VolumeRecord};
use super::{Known, LocalCluster, arguments, files, journal, now, secure};
use crate::plan::backup::newest_verified;
use crate::plan::observed::{Data, Health, Member, Node, Observed, Process as Seen, Retired, Verdict, Volume};
use crate::plan::{MemberId, Timestamp, Wanted};
use crate::platform::ask::{CORRUPT, ask};
use std::sync::Arc;
use std::time::Duration;

/// A process that ends sooner than this after its start counts as one that did not come up.
const SOON: Duration = Duration::from_secs(30);
/// What a member of either engine says once it serves clients.
const READY: &str = "ready to serve client requests";
/// The most that ends of a process count which served and lived for less than [`SOON`]: a pause of seconds before the next start, no more.
const RESTARTS_IF_READY: u32 = 3;
/// Lines of a member's log that are shown when it ended.
const LAST_WORDS: usize = 3;

impl LocalCluster {
    pub(super) async fn look(&mut self, wanted: &Wanted) -> Result<Observed, files::Error> {
        self.record.find_unrecorded(&self.layout)?;
        let mut observed = Observed {
            journal: journal::load(&self.layout)?,
            ..Observed::default()
        };
        let access = secure::access(&self.layout, &wanted.tls);
        match access {
            Ok(access) => self.connections.trust(access),
            Err(error) => observed.complaints.push(error.to_string()),
        }

        let names: Vec<String> = self.record.volumes.keys().cloned().collect();
        let mut asked = tokio::task::JoinSet::new();
        for name in &names {
            let (mut member, running) = self.look_at(wanted, name)?;
            let endpoint = arguments::client_url(wanted, &self.record.volumes[name].ports);
            let connections = Arc::clone(&self.connections);
            asked.spawn(async move {
                if running {
                    let (answer, verdict, why) = ask(&connections, &endpoint, now()).await;
                    member.answer = answer;
                    member.health.verdict = verdict;
                    member.health.why = why;
                }
                member
            });
        }
        observed.members = asked.join_all().await;
        observed.members.sort_by(|a, b| a.name.cmp(&b.name));
        let answered = observed.members.iter().filter(|member| member.answer.is_some());
        self.endpoints = answered
            .filter_map(|member| self.record.volumes.get(&member.name))
            .map(|volume| arguments::client_url(wanted, &volume.ports))
            .collect();
        for member in &mut observed.members {
            if !self.reading {
                self.learn(member)?;
            }
        }

        observed.retired = self
            .record
            .retired
            .iter()
            .map(|(name, retired)| Retired {
                name: name.clone(),
                volume: retired.uid.clone(),
                member_id: retired
                    .member_id
                    .as_deref()
                    .and_then(|id| u64::from_str_radix(id, 16).ok())
                    .map(MemberId),
                at: Timestamp(retired.at),
            })
            .collect();
        if !self.reading {
            self.begin_backups(wanted, &observed.members)?;
        }
        observed.backups = self.backup_runs()?;
        let gone = |member: &Member| member.data == Data::Lost || member.volume.deleted;
        if !observed.members.is_empty()
            && observed.members.iter().all(gone)
            && newest_verified(&observed.backups).is_none()
        {
            let id = observed.journal.cluster_id;
            let found = self.runs_in_stores(&wanted.name, id, &mut observed.complaints).await?;
            observed.backups.extend(found);
        }
        observed.defrag_tick = self.defrag_tick;
        observed.fresh_names = self.fresh_names(&wanted.name, wanted.replicas as usize + 1);
        Ok(observed)
    }

    /// A member as its directory and process show it, and whether the process runs.
    fn look_at(&mut self, wanted: &Wanted, name: &str) -> Result<(Member, bool), files::Error> {
        let at = now();
        let mut volume = self.record.volumes[name].clone();
        // Data that was refused and is other data now gets another chance.
        if volume.refused.is_some() && volume.refused_print != presence::print(&self.layout, name) {
            (volume.refused, volume.refused_print) = (None, None);
            if !self.reading {
                self.record.put_volume(&self.layout, name, volume.clone())?;
            }
        }
        let directory = self.layout.member(name).is_dir();
        let found = self.find_process(name);
        let mut record = self.process_record(name)?;
        let seen = match &found {
            Some(_) => Seen::Running {
                since: Timestamp(record.since),
            },
            None if !record.wanted => Seen::Absent,
            None => self.ended(name, &mut record, at)?,
        };
        let presence = presence::of_log(&self.layout, name, volume.own_disk);
        let data = match (&volume.refused, &presence) {
            (Some(Refusal::Foreign(found)), Presence::There) => Data::Foreign { found: found.clone() },
            (Some(Refusal::Corrupt(why)), Presence::There) => Data::Corrupt { why: why.clone() },
            (_, Presence::There) => Data::Present,
            (_, Presence::Absent) if volume.wrote => Data::Lost,
            (_, Presence::Absent) => Data::Fresh,
            (_, Presence::OutOfReach(_)) => Data::Unknown,
        };
        let why = match (&seen, &presence) {
            (_, Presence::OutOfReach(why)) => why.clone(),
            (Seen::Running { .. }, _) => String::new(),
            (Seen::Absent, _) if !volume.started => "never started".to_owned(),
            (Seen::Absent | Seen::Exited { .. } | Seen::Pending { .. } | Seen::Unknown { .. }, _) => {
                "its process does not run".to_owned()
            }
        };
        let member = Member {
            name: name.to_owned(),
            peer_url: arguments::peer_url(wanted, &volume.ports),
            process: seen,
            node: Node::default(),
            data,
            health: Health {
                verdict: Verdict::Unhealthy,
                why,
                since: at,
                at,
            },
            answer: None,
            log: volume.log.map(Into::into),
            copied: volume.copied.map(Timestamp),
            template: found.is_some().then(|| record.template.clone()),
            certificate: secure::certificate_of(&self.layout, name),
            volume: Volume {
                uid: volume.uid.clone(),
                created: volume.created(),
                member_id: volume.member_id(),
                cluster_id: volume.cluster_id(),
                origin: (&volume.origin).into(),
                started: volume.started,
                recovered: volume.recovered.clone(),
                bound_to_node: false,
                size_bytes: 0,
                deleted: !directory && presence == Presence::Absent,
            },
        };
        Ok((member, found.is_some()))
    }

    /// Takes over what a member said: its identity onto its volume, and since when its health is what it is.
    fn learn(&mut self, member: &mut Member) -> Result<(), files::Error> {
        let mut volume = self.record.volumes[&member.name].clone();
        if let Some(answer) = &member.answer
            && volume.member_id.is_none()
        {
            volume.member_id = Some(answer.member_id.to_string());
            volume.cluster_id = Some(answer.cluster_id.to_string());
            member.volume.member_id = Some(answer.member_id);
            member.volume.cluster_id = Some(answer.cluster_id);
        }
        // What answered has written: should its data vanish, that is a loss.
        volume.wrote |= member.data == Data::Present || member.answer.is_some();
        if member.data == Data::Present {
            volume.own_disk = presence::own_disk(&self.layout, &member.name);
        }
        self.record.put_volume(&self.layout, &member.name, volume)?;
        if let Some(before) = self.health.get(&member.name)
            && before.verdict == member.health.verdict
        {
            member.health.since = before.since;
        }
        self.health.insert(member.name.clone(), member.health.clone());
        Ok(())
    }

    /// The member's process, if it runs.
    pub(super) fn find_process(&mut self, name: &str) -> Option<Process> {
        if let Some(known) = self.processes.get(name)
            && known.process.alive()
        {
            return Some(known.process.clone());
        }
        let marker = arguments::marker(&self.layout, name);
        let process = process::find(&self.layout.of(name, "pid"), &marker)?;
        self.processes.insert(
            name.to_owned(),
            Known {
                process: process.clone(),
                exit: Exit::default(),
            },
        );
        Some(process)
    }

    /// When each running process was started.
    pub(super) fn readers(&mut self) -> Vec<secure::Reader> {
        let names: Vec<String> = self.record.volumes.keys().cloned().collect();
        let mut readers = Vec::new();
        for name in names {
            if self.find_process(&name).is_some()
                && let Ok(record) = self.process_record(&name)
            {
                readers.push(secure::Reader {
                    since: Timestamp(record.since),
                });
            }
        }
        readers
    }

    pub(super) fn process_record(&self, name: &str) -> Result<ProcessRecord, files::Error> {
        Ok(files::read_json(&self.layout.of(name, "process.json"))?.unwrap_or_default())
    }

    /// Writes down how a member runs; nothing when its directory is gone.
    pub(super) fn put_process_record(&self, name: &str, record: &ProcessRecord) -> Result<(), files::Error> {
        if self.layout.member(name).is_dir() {
            files::write_json(&self.layout.of(name, "process.json"), record)?;
        }
        Ok(())
    }

    /// From now on the member is not meant to run.
    pub(super) fn forget_process(&mut self, name: &str) -> Result<(), files::Error> {
        self.processes.remove(name);
        let record = ProcessRecord {
            wanted: false,
            ..self.process_record(name)?
        };
        self.put_process_record(name, &record)
    }

    /// A process that should run and does not: how it ended, written down at the first look that notices.
    fn ended(&mut self, name: &str, record: &mut ProcessRecord, at: Timestamp) -> Result<Seen, files::Error> {
        if record.ended.is_none() {
            let how = self.processes.remove(name).and_then(|known| known.exit.describe());
            let words = process::last_words(&self.layout.of(name, "log"), LAST_WORDS);
            record.message = message(how, &words);
            record.ended = Some(at.0);
            // One that was seen to serve is started again at once; one that did not come up, ever more rarely.
            let served = self
                .health
                .get(name)
                .is_some_and(|health| health.verdict == Verdict::Healthy);
            let settled = served || at.since(Timestamp(record.since)) >= SOON;
            // What ended between two looks may have served all the same.
            let came_up = settled || process::said(&self.layout.of(name, "log"), record.log_from, READY);
            let more = record.restarts.saturating_add(1);
            record.restarts = match (settled, came_up) {
                (true, _) => 1,
                (false, true) => more.min(RESTARTS_IF_READY),
                (false, false) => more,
            };
            if self.reading {
                return Ok(exited(record, at));
            }
            self.put_process_record(name, record)?;
            if !came_up && let Some(refusal) = refusal(&words) {
                let mut volume = self.record.volumes[name].clone();
                volume.refused = Some(refusal);
                volume.refused_print = presence::print(&self.layout, name);
                self.record.put_volume(&self.layout, name, volume)?;
            }
        }
        Ok(exited(record, at))
    }

    /// Names that nobody had, the same ones until they are used: a plan that names one stays the same plan.
    fn fresh_names(&mut self, cluster: &str, count: usize) -> Vec<String> {
        let used = |name: &String, record: &super::ClusterRecord, layout: &super::Layout| {
            record.volumes.contains_key(name) || record.retired.contains_key(name) || layout.member(name).exists()
        };
        self.fresh_names.retain(|name| !used(name, &self.record, &self.layout));
        while self.fresh_names.len() < count {
            let name = format!("{cluster}-{}", suffix(rand::random()));
            if !used(&name, &self.record, &self.layout) && !self.fresh_names.contains(&name) {
                self.fresh_names.push(name);
            }
        }
        self.fresh_names.clone()
    }
}

/// Five characters that make no words and are not mistaken for one another: about 14 million names.
fn suffix(mut random: u32) -> String {
    const ALPHABET: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";
    (0..5)
        .map(|_| {
            let character = ALPHABET[random as usize % ALPHABET.len()];
            random /= 27;
            char::from(character)
        })
        .collect()
}

fn exited(record: &ProcessRecord, at: Timestamp) -> Seen {
    Seen::Exited {
        at: Timestamp(record.ended.unwrap_or(at.0)),
        restarts: record.restarts,
        message: record.message.clone(),
        restarted_by_platform: false,
    }
}

/// How a process ended. What it said last explains an exit, not a kill.
fn message(how: Option<String>, words: &[String]) -> String {
    match how {
        Some(how) if how.starts_with("was killed") || words.is_empty() => how,
        how => {
            let how = how.unwrap_or_else(|| "ended (it was not this operator's child)".to_owned());
            let words: Vec<String> = words.iter().map(|line| plain(line)).collect();
            format!("{how}; last words: {}", words.join(" | "))
        }
    }
}

/// A log line for people: message and error of a JSON line, and never more than a few hundred characters.
fn plain(line: &str) -> String {
    let json: Option<serde_json::Value> = serde_json::from_str(line).ok();
    let field = |name: &str| json.as_ref()?.get(name)?.as_str().map(str::to_owned);
    let text = match (field("msg"), field("error")) {
        (Some(message), Some(error)) => format!("{message}: {error}"),
        (Some(message), None) => message,
        (None, _) => line.to_owned(),
    };
    text.chars().take(300).collect()
}

/// Words by which etcd, and our server like it, refuses a data directory for what is in it.
fn refusal(words: &[String]) -> Option<Refusal> {
    const FOREIGN: [&str; 2] = ["cluster ID mismatch", "member ID mismatch"];
    let says = |needles: &[&str]| {
        words
            .iter()
            .find(|line| needles.iter().any(|needle| line.contains(needle)))
            .cloned()
    };
    says(&FOREIGN)
        .map(Refusal::Foreign)
        .or_else(|| says(CORRUPT).map(Refusal::Corrupt))
}

impl VolumeRecord {
    /// Forgets what was learned about data that is about to change.
    pub(super) fn touch(&mut self) {
        self.copied = None;
        self.log = None;
        (self.refused, self.refused_print) = (None, None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_the_shape_of_a_pods() {
        for random in [0, 1, u32::MAX] {
            let name = suffix(random);
            assert_eq!(name.len(), 5);
            assert!(
                name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit()),
                "{name}"
            );
        }
    }

    #[test]
    fn a_refusal_is_read_from_last_words() {
        let words = vec![
            "{\"msg\":\"starting\"}".to_owned(),
            "fatal: walpb: crc mismatch".to_owned(),
        ];
        assert!(matches!(refusal(&words), Some(Refusal::Corrupt(why)) if why.contains("crc")));
        assert_eq!(plain(&words[0]), "starting");
        let ours = "write-ahead log: x.wal at byte 56: unknown record type 0; replace this member, or restore it from a backup";
        assert!(matches!(refusal(&[ours.to_owned()]), Some(Refusal::Corrupt(_))));
        assert_eq!(refusal(&["bind: address already in use".to_owned()]), None);
    }
}
