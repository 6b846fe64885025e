//! Scripted scenarios: `testdata/*.txt` tell what happens to a cluster and what is then done, step by step.
//!
//! A script is a list of blocks, separated by empty lines: commands, then `----`, then what they print. `#` begins a
//! comment. `UPDATE=1 cargo test -p quorate plan` writes what is printed now; read the difference before you keep it.
//!
//! - `begin N` bootstraps a cluster of N members, named a, b, c, ... (a leads) and prints nothing
//! - `want KEY [VALUE..]` edits the spec; `kill`, `lose` (the disk), `cut` (off the network), `gone` (node and volume),
//!   `unmount` (volume deleted under a running process) take names; `heal` ends partitions
//! - `noroom`: what is started from now on waits for a node, until `room`
//! - `data NAME lost|corrupt|foreign`, `alarm NAME nospace|corrupt`, `db NAME SIZE USED LIVE` (MiB), `lead NAME`
//! - `wait SECONDS` lets time pass without an operator; `backup NAME REVISION`; `acknowledge` agrees to the open plan
//! - `run [SECONDS]` reconciles until nothing changes (a minute at most) and prints every step, wait and block
//! - `status` prints phase, members and the conditions that are not as in a healthy cluster

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use super::super::observed::{Alarm, AlarmKind, Data, NodeState};
use super::super::reason::Reason;
use super::super::wanted::{DeletionPolicy, Engine, RecoverFrom};
use super::super::{Next, backup, plan};
use super::{Faults, World};

const MIB: u64 = 1 << 20;

struct Script {
    world: World,
    last: Option<Next>,
}

impl Script {
    fn new() -> Script {
        let mut world = World::new(1, 3);
        world.letters = true;
        world.steady = true;
        Script { world, last: None }
    }

    fn command(&mut self, line: &str, out: &mut String) -> Result<(), String> {
        let words: Vec<&str> = line.split_whitespace().collect();
        let (command, rest) = words.split_first().ok_or("empty command")?;
        let number = |i: usize| {
            rest.get(i)
                .and_then(|w| w.parse::<u64>().ok())
                .ok_or(format!("{line}: a number is missing"))
        };
        match *command {
            "begin" => {
                self.world.wanted.replicas = u32::try_from(number(0)?).map_err(|e| e.to_string())?;
                self.run(120, &mut String::new());
            }
            "want" => self.want(rest)?,
            "kill" => self.each(rest, |w, i| {
                w.nodes[i].exited = w.nodes[i].running.take().map(|_| (w.now, 0))
            })?,
            "crash" => self.each(rest, |w, i| {
                w.nodes[i].running = None;
                w.nodes[i].exited = Some((w.now, 9));
            })?,
            "lose" => self.each(rest, |w, i| {
                w.nodes[i].disk = None;
                w.nodes[i].exited = w.nodes[i].running.take().map(|_| (w.now, 0));
            })?,
            "noroom" => self.world.no_room = true,
            "room" => {
                self.world.no_room = false;
                self.world.nodes.iter_mut().for_each(|n| n.pending = None);
            }
            "cut" => self.each(rest, |w, i| w.nodes[i].cut_off = true)?,
            "heal" => self.world.nodes.iter_mut().for_each(|n| n.cut_off = false),
            "gone" => self.each(rest, |w, i| {
                w.nodes[i].running = None;
                w.nodes[i].disk = None;
                w.nodes[i].cut_off = true;
                w.nodes[i].volume.bound_to_node = true;
                w.nodes[i].node.state = NodeState::Deleted;
            })?,
            "unmount" => self.each(rest, |w, i| w.nodes[i].volume.deleted = true)?,
            "data" => {
                let found = match rest.get(1).copied() {
                    Some("lost") => Data::Lost,
                    Some("corrupt") => Data::Corrupt {
                        why: "page 7 is reachable twice".into(),
                    },
                    Some("foreign") => Data::Foreign {
                        found: "member 8e9e05c52164694d of cluster cdf818194e3a8c32".into(),
                    },
                    other => return Err(format!("data {other:?}")),
                };
                self.each(&rest[..1], move |w, i| {
                    w.nodes[i].found = Some(found.clone());
                    w.nodes[i].exited = w.nodes[i].running.take().map(|_| (w.now, 0));
                })?;
            }
            "alarm" => {
                let kind = if rest.get(1) == Some(&"corrupt") {
                    AlarmKind::Corrupt
                } else {
                    AlarmKind::NoSpace
                };
                self.each(&rest[..1], move |w, i| {
                    let member = w.nodes[i].disk.as_ref().expect("an alarm needs a member").id;
                    w.alarms.push(Alarm { member, kind });
                })?;
            }
            "db" => {
                let database = (number(1)? * MIB, number(2)? * MIB, number(3)? * MIB);
                self.each(&rest[..1], move |w, i| w.nodes[i].database = database)?;
            }
            "lead" => self.each(rest, |w, i| w.leader_wish = w.nodes[i].disk.as_ref().map(|d| d.id))?,
            "wait" => (0..number(0)?).for_each(|_| self.world.live()),
            "sleep" => self.world.now = self.world.now.plus(Duration::from_secs(number(0)?)),
            "backup" => self.world.backups.push(backup::Run {
                name: rest[0].into(),
                policy: None,
                scheduled: self.world.now,
                phase: backup::Phase::Completed,
                completed: Some(self.world.now),
                verified: true,
                revision: i64::try_from(number(1)?).unwrap_or(0),
            }),
            "acknowledge" => {
                let Some(Next::Blocked {
                    why: Reason::RecoveryRequired { hash, .. },
                }) = &self.last
                else {
                    return Err("there is nothing to acknowledge".into());
                };
                self.world.wanted.recovery.acknowledge = Some(hash.clone());
            }
            "run" => self.run(number(0).unwrap_or(60), out),
            "status" => self.status(out),
            other => return Err(format!("{other} is not a command")),
        }
        Ok(())
    }

    fn each(&mut self, names: &[&str], change: impl Fn(&mut World, usize)) -> Result<(), String> {
        for name in names {
            let i = self
                .world
                .nodes
                .iter()
                .position(|n| n.name == *name)
                .ok_or(format!("there is no {name}"))?;
            change(&mut self.world, i);
        }
        Ok(())
    }

    fn want(&mut self, words: &[&str]) -> Result<(), String> {
        let wanted = &mut self.world.wanted;
        wanted.generation += 1;
        let seconds = |text: &str| {
            text.parse()
                .map(Duration::from_secs)
                .map_err(|_| format!("{text} is no number"))
        };
        match words {
            ["replicas", n] => wanted.replicas = n.parse().map_err(|_| "replicas".to_string())?,
            ["repair", "manual"] => wanted.repair.automatic = false,
            ["repair.after", n] => wanted.repair.after = seconds(n)?,
            ["recovery", mode] => wanted.recovery.automatic = *mode == "automatic",
            ["recovery.from", "backup"] => wanted.recovery.from = RecoverFrom::Backup(None),
            ["fromBackup", "automatic"] => wanted.recovery.from_backup_automatic = true,
            ["nospace", "detect"] => wanted.maintenance.nospace_auto = false,
            ["corrupt", "detect"] => wanted.maintenance.corrupt_replace = false,
            ["engine", "etcd"] => wanted.engine = Engine::Etcd,
            ["flag", name, value] => {
                wanted.extra_args.insert((*name).into(), (*value).into());
            }
            ["onDelete"] => wanted.update.rolling = false,
            ["paused", on] => wanted.paused = *on == "true",
            ["replace", name] => wanted.replace_member = Some((*name).into()),
            ["leader", request @ ..] => wanted.move_leader = Some(request.join(" ")),
            ["defrag", token] => wanted.defrag_token = (*token).into(),
            ["deletion", policy] => {
                wanted.deletion_policy = match *policy {
                    "retain" => DeletionPolicy::Retain,
                    "delete" => DeletionPolicy::Delete,
                    _ => DeletionPolicy::SnapshotThenDelete,
                }
            }
            ["deleted"] => wanted.deleting = Some(self.world.now),
            other => return Err(format!("want {other:?}")),
        }
        Ok(())
    }

    /// Reconciles once a second and prints what is new, until nothing has changed for `calm` seconds.
    fn run(&mut self, calm: u64, out: &mut String) {
        let mut printed = String::new();
        let mut quiet = 0;
        let begin = self.world.now;
        while quiet < calm && self.world.now.since(begin) < Duration::from_secs(1800) {
            self.world.live();
            let purged = self.world.retired.len();
            let next = self.world.reconcile(Faults::None);
            if self.world.retired.len() < purged {
                let _ = writeln!(out, "purge {} retired volumes", purged - self.world.retired.len());
            }
            let line = match &next {
                Next::Settled => "settled".to_string(),
                Next::Take { step, why } => format!("{step} [{}]", why.name()),
                // A wait counts down: only its name is new or not.
                Next::Wait { why, .. } => format!("wait: {}", why.name()),
                Next::Blocked { why } => format!("blocked: {}", why.name()),
            };
            if line != printed {
                let text = match &next {
                    Next::Wait { why, .. } => format!("wait: {why} [{}]", why.name()),
                    Next::Blocked { why } => format!("blocked: {why} [{}]", why.name()),
                    Next::Settled | Next::Take { .. } => line.clone(),
                };
                let _ = writeln!(out, "{text}");
                printed = line;
            }
            let changing = matches!(next, Next::Take { .. });
            quiet = if changing { 0 } else { quiet + 1 };
            let done = next == Next::Settled && quiet > 3;
            let released = matches!(
                &next,
                Next::Take {
                    step: super::Step::Release { .. },
                    ..
                }
            );
            self.last = Some(next);
            if done || released {
                break;
            }
        }
    }

    fn status(&mut self, out: &mut String) {
        let observed = self.world.observe();
        let plan = plan(&self.world.wanted, &observed, self.world.now);
        let status = &plan.status;
        let _ = writeln!(
            out,
            "{}: {} of {} voters ready",
            status.phase, status.ready_replicas, status.replicas
        );
        for m in &status.members {
            let leader = if m.leader { ", leader" } else { "" };
            let why = if m.why.is_empty() {
                String::new()
            } else {
                format!(" ({})", m.why)
            };
            let _ = writeln!(out, "{} {}{leader} {:?}{why}", m.name, m.role, m.health);
        }
        let good = [
            "Available",
            "QuorumHealthy",
            "AlarmsClear",
            "PlatformReady",
            "StorageReady",
            "CertificatesValid",
            "BackupReady",
        ];
        for c in &status.conditions {
            if (c.status == "True") != good.contains(&c.kind.as_str()) {
                let _ = writeln!(out, "{}={} {}: {}", c.kind, c.status, c.reason, c.message);
            }
        }
    }
}

/// Runs a script and returns it with what it prints now.
fn replay(text: &str) -> String {
    let mut script = Script::new();
    let mut replayed = String::new();
    let mut skip = false;
    let mut out = String::new();
    for line in text.lines() {
        match line {
            "----" => {
                let _ = writeln!(replayed, "----\n{}", out.trim_end());
                out.clear();
                skip = true;
            }
            "" => {
                skip = false;
                replayed.push('\n');
            }
            _ if skip => {}
            _ => {
                let _ = writeln!(replayed, "{line}");
                if !line.starts_with('#')
                    && let Err(error) = script.command(line, &mut out)
                {
                    let _ = writeln!(out, "error: {error}");
                }
            }
        }
    }
    replayed
}

#[test]
fn scripts_tell_what_happens() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/plan/testdata");
    let mut files: Vec<_> = std::fs::read_dir(&folder)
        .expect("testdata exists")
        .flatten()
        .map(|e| e.path())
        .collect();
    files.sort();
    assert!(files.len() >= 10, "scripts are missing in {}", folder.display());
    let mut stale = Vec::new();
    for path in files {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let text = std::fs::read_to_string(&path).expect("a script can be read");
        let now = replay(&text);
        if option_env!("UPDATE").is_some() {
            std::fs::write(&path, &now).expect("a script can be written");
        } else if let Some((line, (was, is))) = text
            .lines()
            .chain([""])
            .zip(now.lines().chain([""]))
            .enumerate()
            .find(|(_, (a, b))| a != b)
        {
            stale.push(format!(
                "{name}, line {}: expected\n  {was}\ngot\n  {is}\nof\n{now}",
                line + 1
            ));
        }
    }
    assert!(stale.is_empty(), "{}", stale.join("\n"));
}
