//! Carries out one step on this machine. Looks again first: a step that no longer fits is refused.
//!
//! Invariants:
//! 1. What guards data is on the disk before a process can touch it: `started` before the first start, and what was
//!    learned about data is forgotten before it can change.
//! 2. Membership is changed through the leader, on a list that was read from it in this step.
//! 3. Data moves by rename: a directory is in use, retired, or (being) copied, never half of one.

use super::presence::{self, Presence};
use super::process::{self, Process};
use super::records::{OriginRecord, ProcessRecord, RetiredRecord, VolumeRecord};
use super::{Known, LocalCluster, arguments, files, now, ports::Ports, rescue, uid};
use crate::member::{self, Member};
use crate::plan::observed::AlarmKind;
use crate::plan::resources::template;
use crate::plan::step::{Create, Start};
use crate::plan::{MemberId, MemberRef, Step, Wanted};
use crate::platform::Error;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

/// A member that was asked to stop hands its leadership over and closes its files; after this long it is killed.
pub(super) const STOP_GRACE: Duration = Duration::from_secs(15);
/// A first start has written its log, or ended, within this time; a join asks the others first.
const FIRST_WRITE: Duration = Duration::from_secs(20);
/// `client.env` names a member no more for this long before it is removed, so that clients that follow it have gone.
const NOTICE: Duration = Duration::from_secs(1);

impl LocalCluster {
    pub(super) async fn step(&mut self, wanted: &Wanted, step: &Step) -> Result<(), Error> {
        let refused = |why: String| Error::Refused {
            step: step.to_string(),
            why,
        };
        match step {
            Step::Record { .. } => Ok(()),
            Step::CreateMember { name, create } => {
                if self.record.volumes.contains_key(name)
                    || self.record.retired.contains_key(name)
                    || self.layout.member(name).exists()
                {
                    return Err(refused(format!("a volume has or had the name {name}")));
                }
                self.create(wanted, name, create).await
            }
            Step::StartMember { member, start } => {
                self.must_be(step, member)?;
                if self.find_process(&member.name).is_some() {
                    return Err(refused("it runs".to_owned()));
                }
                self.start(wanted, &member.name, start).await
            }
            Step::StopMember { member } => {
                self.must_be(step, member)?;
                self.stop(&member.name).await
            }
            Step::RestartMember {
                member,
                template: wanted_template,
            } => {
                self.must_be(step, member)?;
                if *wanted_template != template(wanted) {
                    return Err(refused("the spec has changed since".to_owned()));
                }
                self.stop(&member.name).await?;
                self.start(wanted, &member.name, &Start::Resume).await
            }
            Step::AddLearner { member, peer_url } => {
                self.must_be(step, member)?;
                self.add_learner(wanted, &member.name, peer_url).await
            }
            Step::Promote { member } => {
                self.must_be(step, member)?;
                let id = member
                    .id
                    .ok_or_else(|| refused("its member id is not known".to_owned()))?;
                Ok(self.leader(wanted).await?.0.promote(id.0).await?)
            }
            Step::MoveLeader { from, to } => {
                self.must_be(step, to)?;
                let (leader, status) = self.leader(wanted).await?;
                if status.member_id != from.0 {
                    return Err(refused(format!("member {:x} leads now", status.member_id)));
                }
                let id = to.id.ok_or_else(|| refused("its member id is not known".to_owned()))?;
                Ok(leader.move_leader(id.0).await?)
            }
            Step::RemoveMember { id, name, .. } => self.remove(wanted, *id, name).await,
            Step::RetireMember { member } => {
                self.must_be(step, member)?;
                if let (Some(id), Ok((leader, _))) = (member.id, self.leader(wanted).await) {
                    let members = leader.members().await?;
                    if members.iter().any(|listed| listed.id == id.0) {
                        return Err(refused(format!("the member list still holds {id}")));
                    }
                }
                self.retire(&member.name).await
            }
            Step::InspectLog { member } => {
                self.must_rest(step, member)?;
                self.inspect(wanted, &member.name).await
            }
            Step::CopyVolume { member } => {
                self.must_rest(step, member)?;
                self.copy_aside(&member.name).await
            }
            Step::RecoverQuorum {
                survivor,
                cluster_id,
                keep_whole_log: _,
                above_revision,
                hash,
            } => {
                self.must_rest(step, survivor)?;
                let volume = self.volume(step, survivor)?;
                if let (Some(expected), Some(found)) = (cluster_id, volume.cluster_id())
                    && *expected != found
                {
                    return Err(refused(format!("its data is of cluster {found}, not of {expected}")));
                }
                self.recover(wanted, &survivor.name, *above_revision, hash).await
            }
            Step::Compact { revision } => {
                let (leader, _) = self.leader(wanted).await?;
                match leader.compact(*revision, true).await {
                    Err(error) if says(&error, "has been compacted") => Ok(()),
                    other => Ok(other?),
                }
            }
            Step::Defragment { member, .. } => {
                let volume = self.volume(step, member)?;
                let url = arguments::client_url(wanted, &volume.ports);
                Ok(self.connections.member(&url).await?.defragment().await?)
            }
            Step::DisarmAlarm { member, kind } => {
                let kind = match kind {
                    AlarmKind::NoSpace => member::Alarm::NoSpace,
                    AlarmKind::Corrupt => member::Alarm::Corrupt,
                };
                Ok(self.leader(wanted).await?.0.disarm(member.0, kind).await?)
            }
            Step::ExpandVolume { .. } => Err(refused("a directory has no size of its own".to_owned())),
            Step::Release { delete_data } => {
                let _ = self.stop_all().await;
                match delete_data {
                    true => files::remove(self.layout.root()).map_err(Error::platform),
                    false => Ok(()),
                }
            }
        }
    }

    /// The record of the volume that the step names, if it is that very one.
    fn volume(&self, step: &Step, member: &MemberRef) -> Result<VolumeRecord, Error> {
        let refused = |why: String| Error::Refused {
            step: step.to_string(),
            why,
        };
        let volume = self
            .record
            .volumes
            .get(&member.name)
            .ok_or_else(|| refused("it has no volume".to_owned()))?;
        if volume.uid != member.volume {
            return Err(refused(format!(
                "its volume is {} now, not {}",
                volume.uid, member.volume
            )));
        }
        match (volume.member_id(), member.id) {
            (Some(has), Some(wants)) if has != wants => Err(refused(format!("it is member {has}, not {wants}"))),
            _ => Ok(volume.clone()),
        }
    }

    fn must_be(&self, step: &Step, member: &MemberRef) -> Result<(), Error> {
        self.volume(step, member).map(drop)
    }

    /// As [`Self::must_be`], and no process runs.
    fn must_rest(&mut self, step: &Step, member: &MemberRef) -> Result<(), Error> {
        self.must_be(step, member)?;
        match self.find_process(&member.name) {
            Some(_) => Err(Error::Refused {
                step: step.to_string(),
                why: "it runs".to_owned(),
            }),
            None => Ok(()),
        }
    }

    /// Makes a member's directory: complete in a place of its own, then renamed.
    async fn create(&mut self, wanted: &Wanted, name: &str, create: &Create) -> Result<(), Error> {
        let ports = Ports::find(self.layout.root(), &self.taken_ports()).map_err(Error::platform)?;
        let origin = match create {
            Create::Initial { cluster, token } => OriginRecord::Initial {
                cluster: cluster.clone(),
                token: token.clone(),
            },
            Create::Joiner => OriginRecord::Joiner,
            Create::Restored { token, .. } => OriginRecord::Restored { token: token.clone() },
        };
        let mut volume = VolumeRecord::new(uid(), self.record.uid.clone(), now().0, origin, ports);
        let stage = self.layout.file("staging").join(name);
        files::remove(&stage).map_err(Error::platform)?;
        files::make_directory(&stage).map_err(Error::platform)?;
        if let Create::Restored {
            backup,
            token,
            above_revision,
            revision_bump,
            skip_hash_check,
        } = create
        {
            let order = rescue::Restore {
                token,
                above_revision: *above_revision,
                revision_bump: *revision_bump,
                skip_hash_check: *skip_hash_check,
                peer_url: &arguments::peer_url(wanted, &ports),
            };
            self.restore(name, backup, &order, &stage).await?;
            (volume.started, volume.wrote) = (true, true);
        }
        files::write_json(&stage.join("volume.json"), &volume).map_err(Error::platform)?;
        let place = self.layout.member(name);
        files::make_directory(&self.layout.file("members")).map_err(Error::platform)?;
        std::fs::rename(&stage, &place)
            .map_err(files::failed("move into place", &place))
            .map_err(Error::platform)?;
        self.record
            .put_volume(&self.layout, name, volume)
            .map_err(Error::platform)
    }

    /// Ports of every volume of every cluster beside this one.
    pub(super) fn taken_ports(&self) -> BTreeSet<u16> {
        let directory = self.layout.root().parent().unwrap_or(self.layout.root());
        let siblings = std::fs::read_dir(directory)
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|entry| {
                files::read_json::<super::ClusterRecord>(&entry.path().join("cluster.json"))
                    .ok()
                    .flatten()
            });
        siblings
            .flat_map(|record| record.volumes.into_values())
            .chain(self.record.volumes.values().cloned())
            .flat_map(|volume| volume.ports.all())
            .collect()
    }

    async fn start(&mut self, wanted: &Wanted, name: &str, start: &Start) -> Result<(), Error> {
        let refused = |why: &str| Error::Refused {
            step: format!("start {name}"),
            why: why.to_owned(),
        };
        let mut volume = self.record.volumes[name].clone();
        let present = match presence::of_log(&self.layout, name, volume.own_disk) {
            Presence::There => true,
            Presence::Absent => false,
            Presence::OutOfReach(why) => return Err(refused(&why)),
        };
        let first = match start {
            Start::Resume if present => false,
            Start::Resume => return Err(refused("there is no data to go on from")),
            Start::New { .. } if !matches!(volume.origin, OriginRecord::Initial { .. }) => {
                return Err(refused("it is not one of the initial members"));
            }
            Start::New { .. } | Start::Join { .. } if present || volume.wrote => {
                return Err(refused("its data directory is not fresh"));
            }
            Start::New { .. } | Start::Join { .. } => true,
        };
        if let Some(port) = volume.ports.busy() {
            let what = format!(
                "port {port} of 127.0.0.1, which is {name}'s, is in use by another program: stop that program (`ss -ltnp` \
                 shows it)"
            );
            return Err(Error::platform(what));
        }
        if !first {
            self.must_be_own(name).await?;
        }
        volume.started = true;
        volume.touch();
        self.record
            .put_volume(&self.layout, name, volume.clone())
            .map_err(Error::platform)?;
        let arguments = arguments::arguments(wanted, &self.layout, name, &volume.ports, start);
        let record = ProcessRecord {
            wanted: true,
            template: template(wanted),
            since: now().0,
            log_from: process::length(&self.layout.of(name, "log")),
            ended: None,
            ..self.process_record(name).map_err(Error::platform)?
        };
        self.put_process_record(name, &record).map_err(Error::platform)?;
        self.spawn(name, &arguments)?;
        self.connections.forget(&arguments::client_url(wanted, &volume.ports));
        if first {
            // From its first byte on, an empty directory means loss. So this is not left to the next look.
            self.first_write(name, volume).await.map_err(Error::platform)?;
        }
        Ok(())
    }

    /// Starts a process with a member's log and pid file.
    pub(super) fn spawn(&mut self, name: &str, arguments: &[String]) -> Result<Process, Error> {
        let (process, exit) = process::start(
            &self.programs.server,
            arguments,
            &self.layout.of(name, "log"),
            &self.layout.of(name, "pid"),
            Arc::clone(&self.wake),
        )
        .map_err(Error::platform)?;
        self.processes.insert(
            name.to_owned(),
            Known {
                process: process.clone(),
                exit,
            },
        );
        Ok(process)
    }

    async fn first_write(&mut self, name: &str, mut volume: VolumeRecord) -> Result<(), files::Error> {
        let end = tokio::time::Instant::now() + FIRST_WRITE;
        while tokio::time::Instant::now() < end && self.find_process(name).is_some() {
            if presence::of_log(&self.layout, name, false) == Presence::There {
                volume.wrote = true;
                return self.record.put_volume(&self.layout, name, volume);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    async fn stop(&mut self, name: &str) -> Result<(), Error> {
        let process = self.find_process(name);
        self.forget_process(name).map_err(Error::platform)?;
        if let Some(process) = process {
            process.stop(STOP_GRACE).await;
            if process.alive() {
                return Err(Error::platform(format!(
                    "process {} of {name} cannot be ended",
                    process.pid
                )));
            }
        }
        Ok(())
    }

    /// The member that leads, and what it says of itself.
    pub(super) async fn leader(&mut self, wanted: &Wanted) -> Result<(Member, member::Status), Error> {
        let mut asked = tokio::task::JoinSet::new();
        let names: Vec<String> = self.record.volumes.keys().cloned().collect();
        for name in names {
            if self.find_process(&name).is_none() {
                continue;
            }
            let url = arguments::client_url(wanted, &self.record.volumes[&name].ports);
            let connections = Arc::clone(&self.connections);
            asked.spawn(async move {
                let member = connections.member(&url).await?;
                let status = member.status().await?;
                Ok::<_, member::Error>((member, status))
            });
        }
        let answers = asked.join_all().await.into_iter().flatten();
        answers
            .filter(|(_, status)| status.leader == status.member_id && status.leader != 0)
            .max_by_key(|(_, status)| status.term)
            .ok_or_else(|| Error::platform("no member says that it leads; wait for an election"))
    }

    async fn add_learner(&mut self, wanted: &Wanted, name: &str, peer_url: &str) -> Result<(), Error> {
        let (leader, status) = self.leader(wanted).await?;
        leader.linearizable().await?;
        let members = leader.members().await?;
        let url = peer_url.to_owned();
        let listed = match members.into_iter().find(|listed| listed.peer_urls.contains(&url)) {
            Some(listed) => listed,
            None => leader.add(&[url], true).await?,
        };
        let mut volume = self.record.volumes[name].clone();
        volume.member_id = Some(MemberId(listed.id).to_string());
        volume.cluster_id = Some(format!("{:x}", status.cluster_id));
        self.record
            .put_volume(&self.layout, name, volume)
            .map_err(Error::platform)
    }

    async fn remove(&mut self, wanted: &Wanted, id: MemberId, name: &str) -> Result<(), Error> {
        let (leader, _) = self.leader(wanted).await?;
        leader.linearizable().await?;
        if !leader.members().await?.iter().any(|listed| listed.id == id.0) {
            return Ok(());
        }
        if self.find_process(name).is_some() {
            tokio::time::sleep(NOTICE).await;
        }
        match leader.remove(id.0).await {
            Err(error) if says(&error, "member not found") => Ok(()),
            other => Ok(other?),
        }
    }

    async fn retire(&mut self, name: &str) -> Result<(), Error> {
        self.stop(name).await?;
        let Some(volume) = self.record.volumes.get(name).cloned() else {
            return Ok(());
        };
        let (from, to) = (self.layout.member(name), self.layout.retired(name));
        if from.is_dir() {
            files::make_directory(&self.layout.file("retired")).map_err(Error::platform)?;
            std::fs::rename(&from, &to)
                .map_err(files::failed("retire", &from))
                .map_err(Error::platform)?;
        }
        self.record.volumes.remove(name);
        self.record.retired.insert(
            name.to_owned(),
            RetiredRecord {
                uid: volume.uid,
                member_id: volume.member_id,
                at: now().0,
            },
        );
        self.health.remove(name);
        self.record.save(&self.layout).map_err(Error::platform)
    }

    /// Deletes the data of a retired volume. The name stays remembered until then; afterwards only chance could give
    /// it again.
    pub(super) fn purge(&mut self, name: &str, volume: &str) -> Result<(), files::Error> {
        if self
            .record
            .retired
            .get(name)
            .is_some_and(|retired| retired.uid == volume)
        {
            files::remove(&self.layout.retired(name))?;
            self.record.retired.remove(name);
            self.record.save(&self.layout)?;
        }
        Ok(())
    }
}

/// Whether the member itself answered with these words: etcd's texts are part of its interface.
fn says(error: &member::Error, words: &str) -> bool {
    error.server_message().is_some_and(|message| message.contains(words))
}
