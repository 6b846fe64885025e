//! Carries out one step. Looks again first, live: a step that no longer fits is refused.
//!
//! Invariants:
//! 1. What guards data is on the volume before a process can touch it: `started` before the first pod, and what was
//!    learned about data is forgotten before it can change.
//! 2. Membership is changed through the leader, on a list that was read from it in this step.
//! 3. A pod is deleted by uid and resource version; a member is started only when no other pod has its volume.
//! 4. Of a member on a silent node nothing is waited for: its name and its volume are never used by another.

use super::names::{CLUSTER_UID, FIELD_MANAGER, FINALIZER, MEMBER, Names, RETIRED, SHAPE, TEMPLATE, VOLUME};
use super::record::{Kept, Note};
use super::{Cluster, Failure, apply, observe};
use crate::api::EtcdCluster;
use crate::clock;
use crate::member;
use crate::plan::observed::AlarmKind;
use crate::plan::resources::template;
use crate::plan::step::{Create, Start};
use crate::plan::{MemberId, MemberRef, Step, Wanted};
use crate::platform::ask::{self, says};
use crate::platform::local::records::OriginRecord;
use crate::platform::{Error, Platform};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, Secret};
use kube::api::{Api, ListParams, Patch, PatchParams};
use kube::{Resource, ResourceExt};
use serde_json::json;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// What a kubelet needs beyond the grace period to report that a pod is gone.
const REPORT: Duration = Duration::from_secs(30);
/// A pod that is resized in place has its new size within this time, or is restarted.
const RESIZE: Duration = Duration::from_secs(20);

/// No storage was ever given to this claim, so that nothing can be on it.
pub(super) fn unbound(claim: &PersistentVolumeClaim) -> bool {
    let named = |claim: &PersistentVolumeClaim| claim.spec.as_ref().and_then(|spec| spec.volume_name.clone());
    let phase = claim.status.as_ref().and_then(|status| status.phase.as_deref());
    named(claim).is_none_or(|name| name.is_empty()) && phase.is_none_or(|phase| phase == "Pending")
}

impl Cluster {
    pub(super) async fn step(&mut self, wanted: &Wanted, step: &Step) -> Result<(), Error> {
        let refused = |why: String| Error::Refused {
            step: step.to_string(),
            why,
        };
        self.must_be_newest(wanted, step).await?;
        match step {
            Step::Record { .. } => Ok(()),
            Step::CreateMember { name, create } => self.create(wanted, step, name, create).await,
            Step::StartMember { member, start } => self.start(wanted, step, member, start).await,
            Step::StopMember { member } => {
                self.kept(step, member)?;
                Ok(self.stop(wanted, &member.name).await?)
            }
            Step::RestartMember {
                member,
                template: wanted_template,
            } => {
                self.kept(step, member)?;
                if *wanted_template != template(wanted) {
                    return Err(refused("the spec has changed since".to_owned()));
                }
                if self.resize(wanted, &member.name).await? {
                    return Ok(());
                }
                self.stop(wanted, &member.name).await?;
                self.start(wanted, step, member, &Start::Resume).await
            }
            Step::AddLearner { member, peer_url } => self.add_learner(step, member, peer_url).await,
            Step::Promote { member } => {
                self.kept(step, member)?;
                let id = member
                    .id
                    .ok_or_else(|| refused("its member id is not known".to_owned()))?;
                let endpoint = self.endpoints.get(&member.name).cloned();
                let endpoint = endpoint.ok_or_else(|| refused("it does not answer".to_owned()))?;
                self.connections.member(&endpoint).await?.status().await?;
                Ok(self.leader().await?.0.promote(id.0).await?)
            }
            Step::MoveLeader { from, to } => {
                self.kept(step, to)?;
                let (leader, status) = self.leader().await?;
                if status.member_id != from.0 {
                    return Err(refused(format!("member {:x} leads now", status.member_id)));
                }
                let id = to.id.ok_or_else(|| refused("its member id is not known".to_owned()))?;
                Ok(leader.move_leader(id.0).await?)
            }
            Step::RemoveMember { id, learner, .. } => self.remove(step, *id, *learner).await,
            Step::RetireMember { member } => {
                self.kept(step, member)?;
                if let (Some(id), Ok((leader, _))) = (member.id, self.leader().await) {
                    let members = leader.members().await?;
                    if members.iter().any(|listed| listed.id == id.0) {
                        return Err(refused(format!("the member list still holds {id}")));
                    }
                }
                Ok(self.retire(wanted, &member.name).await?)
            }
            Step::InspectLog { member } => {
                let (kept, claim) = self.must_rest(step, member).await?;
                Ok(self.inspect(wanted, &member.name, &kept, &claim).await?)
            }
            Step::CopyVolume { member } => {
                let (kept, claim) = self.must_rest(step, member).await?;
                Ok(self.copy_aside(wanted, &member.name, &kept, &claim).await?)
            }
            Step::RecoverQuorum {
                survivor,
                cluster_id,
                keep_whole_log: _,
                above_revision,
                hash,
            } => {
                let (kept, claim) = self.must_rest(step, survivor).await?;
                if let (Some(expected), Some(found)) = (cluster_id, kept.note.cluster())
                    && *expected != found
                {
                    return Err(refused(format!("its data is of cluster {found}, not of {expected}")));
                }
                Ok(self
                    .recover(wanted, &survivor.name, &kept, &claim, *above_revision, hash)
                    .await?)
            }
            Step::Compact { revision } => match self.leader().await?.0.compact(*revision, true).await {
                Err(error) if says(&error, "has been compacted") => Ok(()),
                other => Ok(other?),
            },
            Step::Defragment { member, .. } => {
                self.kept(step, member)?;
                let endpoint = self.endpoints.get(&member.name).cloned();
                let endpoint = endpoint.ok_or_else(|| refused("it does not answer".to_owned()))?;
                Ok(self.connections.member(&endpoint).await?.defragment().await?)
            }
            Step::DisarmAlarm { member, kind } => {
                let kind = match kind {
                    AlarmKind::NoSpace => member::Alarm::NoSpace,
                    AlarmKind::Corrupt => member::Alarm::Corrupt,
                };
                Ok(self.leader().await?.0.disarm(member.0, kind).await?)
            }
            Step::ExpandVolume { member, bytes } => {
                let (_, claim) = self.claim(step, member).await?;
                Ok(self.expand(wanted, &claim, *bytes).await?)
            }
            Step::Release { delete_data } => Ok(self.release(wanted, *delete_data).await?),
        }
    }

    /// The record as the API server has it now is the one that this operator knows: nobody else decided since.
    async fn must_be_newest(&mut self, wanted: &Wanted, step: &Step) -> Result<(), Error> {
        let name = self.names(wanted).record();
        let api: Api<k8s_openapi::api::core::v1::ConfigMap> = self.api();
        let live = api.get_metadata_opt(&name).await.map_err(Failure::from)?;
        let known = self.record.as_ref().and_then(|record| record.resource_version());
        if live.as_ref().and_then(ResourceExt::resource_version).as_deref() == known {
            return Ok(());
        }
        self.record = None;
        Err(Error::Refused {
            step: step.to_string(),
            why: "another operator wrote the record of this cluster, or somebody changed it".to_owned(),
        })
    }

    /// The volume that the step names as the record knows it, if it is that very one.
    fn kept(&self, step: &Step, member: &MemberRef) -> Result<Kept, Error> {
        let refused = |why: String| Error::Refused {
            step: step.to_string(),
            why,
        };
        let kept = self
            .record
            .as_ref()
            .and_then(|record| record.volumes.get(&member.name))
            .ok_or_else(|| refused("it has no volume".to_owned()))?;
        if kept.uid != member.volume {
            return Err(refused(format!(
                "its volume is {} now, not {}",
                kept.uid, member.volume
            )));
        }
        match (kept.note.member(), member.id) {
            (Some(has), Some(wants)) if has != wants => Err(refused(format!("it is member {has}, not {wants}"))),
            _ => Ok(kept.clone()),
        }
    }

    /// The same with the claim as it is now; refused when that is gone or going.
    async fn claim(&self, step: &Step, member: &MemberRef) -> Result<(Kept, PersistentVolumeClaim), Error> {
        let kept = self.kept(step, member)?;
        let refused = |why: &str| Error::Refused {
            step: step.to_string(),
            why: why.to_owned(),
        };
        let live = self
            .api::<PersistentVolumeClaim>()
            .get_opt(&member.name)
            .await
            .map_err(Failure::from)?;
        let claim = live
            .filter(|claim| claim.uid().as_deref() == Some(&kept.uid))
            .ok_or_else(|| refused("its PersistentVolumeClaim is gone"))?;
        if claim.metadata.deletion_timestamp.is_some() {
            return Err(refused("its PersistentVolumeClaim is being deleted"));
        }
        Ok((kept, claim))
    }

    /// The same, and no pod of the member is there.
    async fn must_rest(&self, step: &Step, member: &MemberRef) -> Result<(Kept, PersistentVolumeClaim), Error> {
        let both = self.claim(step, member).await?;
        match self.api::<Pod>().get_opt(&member.name).await.map_err(Failure::from)? {
            Some(_) => Err(Error::Refused {
                step: step.to_string(),
                why: "its pod is there".to_owned(),
            }),
            None => Ok(both),
        }
    }

    /// Writes what is known of a volume on it, if it still is as it was read.
    pub(super) async fn write_note(&self, claim: &PersistentVolumeClaim, note: &Note) -> Result<(), Failure> {
        let mut annotations = BTreeMap::from([(VOLUME.to_owned(), note.text())]);
        // For people.
        for (key, id) in [
            ("quorate.dev/member-id", &note.member_id),
            ("quorate.dev/cluster-id", &note.cluster_id),
        ] {
            annotations.insert(key.to_owned(), id.clone().unwrap_or_default());
        }
        let mut metadata = json!({ "uid": claim.uid(), "annotations": annotations });
        if note.retired.is_some() {
            metadata["labels"] = json!({ RETIRED: "true" });
        }
        let body = json!({ "metadata": metadata });
        let params = PatchParams {
            field_manager: Some(FIELD_MANAGER.to_owned()),
            ..PatchParams::default()
        };
        self.api::<PersistentVolumeClaim>()
            .patch(&claim.name_any(), &params, &Patch::Merge(&body))
            .await?;
        Ok(())
    }

    /// From its next start on, the container of this pod goes on from its data or ends.
    pub(super) async fn resume_only(&self, wanted: &Wanted, names: &Names, pod: Option<&Pod>) -> Result<(), Failure> {
        let Some(pod) = pod else { return Ok(()) };
        let member = pod.name_any();
        let body = json!({ "metadata": {
            "uid": pod.uid(),
            "annotations": self.render(wanted, names).initial(&member, &Start::Resume),
        }});
        let params = PatchParams {
            field_manager: Some(FIELD_MANAGER.to_owned()),
            ..PatchParams::default()
        };
        self.api::<Pod>().patch(&member, &params, &Patch::Merge(&body)).await?;
        Ok(())
    }

    async fn create(&mut self, wanted: &Wanted, step: &Step, name: &str, create: &Create) -> Result<(), Error> {
        let names = self.names(wanted);
        if self
            .record
            .as_ref()
            .is_some_and(|record| record.volumes.contains_key(name))
        {
            return Err(Error::Refused {
                step: step.to_string(),
                why: format!("a volume has or had the name {name}"),
            });
        }
        let note = Note::new(observe::origin(create));
        let claim = self.render(wanted, &names).claim(name, note.text());
        let api: Api<PersistentVolumeClaim> = self.api();
        let made = match api.create(&apply::post(), &claim).await {
            Ok(made) => made,
            Err(kube::Error::Api(status)) if status.code == 409 => {
                // Half of a restore that did not end: the claim is ours, and the work on it goes on.
                let live = api.get(name).await.map_err(Failure::from)?;
                let ours = live.annotations().get(CLUSTER_UID) == Some(&wanted.uid)
                    && Note::of(&live).is_some_and(|note| !note.started);
                if !ours || !matches!(create, Create::Restored { .. }) {
                    return Err(Error::Refused {
                        step: step.to_string(),
                        why: format!("there is a PersistentVolumeClaim {name} already"),
                    });
                }
                live
            }
            Err(error) => return Err(Failure::from(error).into()),
        };
        let kept = Kept {
            uid: made.uid().unwrap_or_default(),
            created: observe::created(&made).0,
            note,
        };
        if let Create::Restored { .. } = create {
            self.restore(wanted, name, &kept, &made, create).await?;
            return Ok(());
        }
        self.keep(name, &kept, kept.note.clone());
        Ok(())
    }

    async fn start(&mut self, wanted: &Wanted, step: &Step, member: &MemberRef, start: &Start) -> Result<(), Error> {
        let names = self.names(wanted);
        let name = &member.name;
        let (kept, claim) = self.claim(step, member).await?;
        let refused = |why: &str| Error::Refused {
            step: step.to_string(),
            why: why.to_owned(),
        };
        match start {
            Start::Resume if kept.note.wrote => {}
            Start::Resume => return Err(refused("there is no data to go on from")),
            Start::New { .. } if !matches!(kept.note.origin, OriginRecord::Initial { .. }) => {
                return Err(refused("it is not one of the initial members"));
            }
            Start::New { .. } | Start::Join { .. } if kept.note.wrote => {
                return Err(refused("its data directory is not fresh"));
            }
            Start::New { .. } | Start::Join { .. } => {}
        }
        let pods: Api<Pod> = self.api();
        let present = pods.list(&observe::of_member(name)).await.map_err(Failure::from)?;
        for pod in present.items.into_iter().filter(|pod| apply::is_ours(pod, &wanted.uid)) {
            let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
            if !matches!(phase, Some("Failed" | "Succeeded")) {
                return Err(refused(&format!("pod {} has its volume", pod.name_any())));
            }
            apply::delete(&pods, &pod, Some(0)).await?;
            self.wait_until_gone(&pod, REPORT).await?;
        }
        let mut note = kept.note.clone();
        note.started = true;
        note.touch();
        if note != kept.note {
            self.write_note(&claim, &note).await?;
            self.keep(name, &kept, note);
        }
        let pod = self.render(wanted, &names).pod(name, start);
        match pods.create(&apply::post(), &pod).await {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(status)) if status.code == 409 => {
                let live = pods.get(name).await.map_err(Failure::from)?;
                apply::must_be_ours(&live, &wanted.uid)?;
                Err(refused("its former pod is still there"))
            }
            Err(error) => Err(Failure::from(error).into()),
        }
    }

    /// Deletes a member's pod and waits until it is gone.
    pub(super) async fn stop(&mut self, wanted: &Wanted, name: &str) -> Result<(), Failure> {
        let Some(pod) = self.delete_pod(wanted, name).await? else {
            return Ok(());
        };
        let grace = pod
            .spec
            .as_ref()
            .and_then(|spec| spec.termination_grace_period_seconds)
            .unwrap_or(30);
        let grace = Duration::from_secs(u64::try_from(grace).unwrap_or(30));
        self.wait_until_gone(&pod, grace + REPORT).await
    }

    /// Asks for a member's pod to be deleted; the pod as it was, none when there is none.
    async fn delete_pod(&self, wanted: &Wanted, name: &str) -> Result<Option<Pod>, Failure> {
        let pods: Api<Pod> = self.api();
        let mut first: Option<Pod> = None;
        loop {
            if mutant::planted("G18") {
                return self.delete_as_cached(name).await;
            }
            let live = pods.get_opt(name).await?;
            let Some(pod) = live.filter(|pod| apply::is_ours(pod, &wanted.uid)) else {
                return Ok(first);
            };
            let same = first.as_ref().is_none_or(|first| first.uid() == pod.uid());
            if !same || pod.metadata.deletion_timestamp.is_some() {
                return Ok(first.or(Some(pod)));
            }
            let deleted = apply::delete(&pods, &pod, None).await;
            first = Some(pod);
            match deleted {
                // A kubelet wrote its status in between: it is looked at again, and is the same pod or none of ours.
                Err(Failure::Api(kube::Error::Api(status))) if status.code == 409 => {}
                Err(failure) => return Err(failure),
                Ok(()) => return Ok(first),
            }
        }
    }

    /// A planted bug: what a cache shows is deleted by its name.
    async fn delete_as_cached(&self, name: &str) -> Result<Option<Pod>, Failure> {
        let pods: Api<Pod> = self.api();
        let cached = pods.get_with(name, &kube::api::GetParams::any()).await.ok();
        if cached.is_some() {
            pods.delete(name, &kube::api::DeleteParams::default()).await?;
        }
        Ok(cached)
    }

    async fn wait_until_gone(&self, pod: &Pod, patience: Duration) -> Result<(), Failure> {
        let end = clock::now() + patience;
        let name = pod.name_any();
        loop {
            match self.api::<Pod>().get_metadata_opt(&name).await? {
                Some(live) if live.uid() == pod.uid() => {}
                Some(_) | None => return Ok(()),
            }
            if clock::now() > end {
                let node = pod
                    .spec
                    .as_ref()
                    .and_then(|spec| spec.node_name.clone())
                    .unwrap_or_default();
                return Err(Failure::Other(format!(
                    "pod {name} is still being deleted after {} s: look at its node {node}",
                    patience.as_secs()
                )));
            }
            clock::sleep(Duration::from_millis(200)).await;
        }
    }

    /// Gives a running pod its new resources where nothing else is to change, and the API server can. False: it needs a
    /// restart.
    async fn resize(&mut self, wanted: &Wanted, name: &str) -> Result<bool, Failure> {
        let names = self.names(wanted);
        let pods: Api<Pod> = self.api();
        let Some(live) = pods.get_opt(name).await?.filter(|pod| apply::is_ours(pod, &wanted.uid)) else {
            return Ok(false);
        };
        let render = self.render(wanted, &names);
        let next = render.pod(name, &Start::Resume);
        let running = observe::reachable(&live).is_some() && live.metadata.deletion_timestamp.is_none();
        let same = live.annotations().get(SHAPE) == next.annotations().get(SHAPE);
        let resources = render.resources();
        let now = live
            .spec
            .as_ref()
            .and_then(|spec| spec.containers.first()?.resources.clone());
        if !running || !same || now.as_ref() == Some(&resources) {
            return Ok(false);
        }
        let body = json!({ "spec": { "containers": [{ "name": "etcd", "resources": resources }] } });
        let params = PatchParams {
            field_manager: Some(FIELD_MANAGER.to_owned()),
            ..PatchParams::default()
        };
        // An older API server has no such subresource, and some changes (of the QoS class) it refuses.
        if let Err(error) = pods.patch_resize(name, &params, &Patch::Strategic(&body)).await {
            tracing::info!(pod = name, %error, "not resized in place, so it is restarted");
            return Ok(false);
        }
        let end = clock::now() + RESIZE;
        loop {
            let pod = pods.get(name).await?;
            let conditions = pod
                .status
                .as_ref()
                .and_then(|status| status.conditions.clone())
                .unwrap_or_default();
            let under_way = |kind: &str| conditions.iter().any(|c| c.type_ == kind && c.status == "True");
            let allocated = pod
                .status
                .as_ref()
                .and_then(|status| status.container_statuses.as_ref()?.first()?.resources.clone());
            let done =
                allocated.is_some_and(|has| has.requests == resources.requests && has.limits == resources.limits);
            if done && !under_way("PodResizePending") && !under_way("PodResizeInProgress") {
                break;
            }
            if clock::now() > end {
                return Ok(false);
            }
            clock::sleep(Duration::from_millis(500)).await;
        }
        let body = json!({ "metadata": { "uid": live.uid(), "annotations": { TEMPLATE: template(wanted) } } });
        pods.patch(name, &params, &Patch::Merge(&body)).await?;
        Ok(true)
    }

    /// The member that leads, and what it says of itself.
    async fn leader(&self) -> Result<(member::Member, member::Status), Error> {
        ask::leader(&self.connections, self.endpoints.values().cloned().collect()).await
    }

    async fn add_learner(&mut self, step: &Step, member: &MemberRef, peer_url: &str) -> Result<(), Error> {
        let (kept, claim) = self.claim(step, member).await?;
        let (leader, status) = self.leader().await?;
        leader.linearizable().await?;
        let members = leader.members().await?;
        let url = peer_url.to_owned();
        let listed = match members.into_iter().find(|listed| listed.peer_urls.contains(&url)) {
            Some(listed) => listed,
            None => leader.add(&[url], true).await?,
        };
        let mut note = kept.note.clone();
        note.member_id = Some(MemberId(listed.id).to_string());
        note.cluster_id = Some(format!("{:x}", status.cluster_id));
        self.write_note(&claim, &note).await?;
        self.keep(&member.name, &kept, note);
        Ok(())
    }

    async fn remove(&mut self, step: &Step, id: MemberId, learner: bool) -> Result<(), Error> {
        let (leader, _) = self.leader().await?;
        leader.linearizable().await?;
        let members = leader.members().await?;
        if !members.iter().any(|listed| listed.id == id.0) {
            return Ok(());
        }
        if !learner {
            let stay: Vec<u64> = members
                .iter()
                .filter(|m| !m.is_learner && m.id != id.0)
                .map(|m| m.id)
                .collect();
            let healthy = self.answering(&stay).await;
            if healthy < stay.len() / 2 + 1 {
                return Err(Error::Refused {
                    step: step.to_string(),
                    why: format!("{healthy} of the {} voters that would remain answer now", stay.len()),
                });
            }
        }
        match leader.remove(id.0).await {
            Err(error) if says(&error, "member not found") => Ok(()),
            other => Ok(other?),
        }
    }

    /// How many of these members answer now and follow a leader.
    async fn answering(&self, ids: &[u64]) -> usize {
        let mut asked = tokio::task::JoinSet::new();
        for endpoint in self.endpoints.values() {
            let (connections, endpoint) = (Arc::clone(&self.connections), endpoint.clone());
            asked.spawn(async move { connections.member(&endpoint).await?.status().await });
        }
        let answers = asked.join_all().await;
        answers
            .into_iter()
            .flatten()
            .filter(|status| status.leader != 0 && ids.contains(&status.member_id))
            .count()
    }

    async fn retire(&mut self, wanted: &Wanted, name: &str) -> Result<(), Failure> {
        let Some(kept) = self
            .record
            .as_ref()
            .and_then(|record| record.volumes.get(name))
            .cloned()
        else {
            return Ok(());
        };
        let pods: Api<Pod> = self.api();
        if let Some(pod) = pods.get_opt(name).await?.filter(|pod| apply::is_ours(pod, &wanted.uid)) {
            let node = pod
                .spec
                .as_ref()
                .and_then(|spec| spec.node_name.clone())
                .unwrap_or_default();
            if self.is_silent(&node).await {
                // Nobody confirms that it is gone. The cluster refuses it, and its name and volume are out of use.
                self.delete_pod(wanted, name).await?;
            } else {
                self.stop(wanted, name).await?;
            }
        }
        let secrets: Api<Secret> = self.api();
        if let Some(secret) = secrets.get_opt(&Names::member_secret(name)).await?
            && apply::is_ours(&secret, &wanted.uid)
        {
            apply::delete(&secrets, &secret, None).await?;
        }
        let claims: Api<PersistentVolumeClaim> = self.api();
        let live = claims
            .get_opt(name)
            .await?
            .filter(|claim| claim.uid().as_deref() == Some(&kept.uid));
        match live {
            Some(claim) => {
                let mut note = kept.note.clone();
                note.retired = Some(self.now().0);
                self.write_note(&claim, &note).await?;
                self.keep(name, &kept, note);
            }
            None => {
                if let Some(record) = &mut self.record {
                    record.volumes.remove(name);
                }
            }
        }
        self.health.remove(name);
        Ok(())
    }

    /// Deletes the data of a retired volume.
    pub(super) async fn purge(&mut self, name: &str, volume: &str) -> Result<(), Failure> {
        let known = self.record.as_ref().and_then(|record| record.volumes.get(name));
        if known.is_none_or(|kept| kept.uid != volume || kept.note.retired.is_none()) {
            return Ok(());
        }
        let claims: Api<PersistentVolumeClaim> = self.api();
        match claims.get_opt(name).await? {
            Some(claim) if claim.uid().as_deref() == Some(volume) && claim.labels().contains_key(RETIRED) => {
                apply::delete(&claims, &claim, None).await
            }
            Some(_) | None => Ok(()),
        }
    }

    async fn expand(&self, wanted: &Wanted, claim: &PersistentVolumeClaim, bytes: u64) -> Result<(), Failure> {
        let size = match &self.object {
            Some(object) if object.spec.storage.size.bytes().ok() == Some(bytes) => {
                object.spec.storage.size.to_string()
            }
            Some(_) | None => bytes.to_string(),
        };
        let body = json!({
            "metadata": { "uid": claim.uid(), "resourceVersion": claim.resource_version() },
            "spec": { "resources": { "requests": { "storage": size } } },
        });
        let params = PatchParams {
            field_manager: Some(FIELD_MANAGER.to_owned()),
            ..PatchParams::default()
        };
        let class = wanted.storage.class.as_deref().unwrap_or("the default class");
        match self
            .api::<PersistentVolumeClaim>()
            .patch(&claim.name_any(), &params, &Patch::Merge(&body))
            .await
        {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(status)) if status.code == 403 || status.code == 422 => Err(Failure::Other(format!(
                "{class} does not let volumes grow (its StorageClass needs allowVolumeExpansion: true): {}",
                status.message
            ))),
            Err(error) => Err(error.into()),
        }
    }

    async fn release(&mut self, wanted: &Wanted, delete_data: bool) -> Result<(), Failure> {
        let pods: Api<Pod> = self.api();
        let of_cluster = ListParams::default().labels(&format!("{}={}", super::names::CLUSTER, wanted.name));
        for pod in pods.list(&of_cluster).await? {
            if apply::is_ours(&pod, &wanted.uid) && pod.labels().contains_key(MEMBER) {
                apply::delete(&pods, &pod, None).await?;
            }
        }
        if delete_data {
            let claims: Api<PersistentVolumeClaim> = self.api();
            let volumes = self
                .record
                .as_ref()
                .map(|record| record.volumes.clone())
                .unwrap_or_default();
            for claim in claims.list(&of_cluster).await? {
                let ours = volumes
                    .get(&claim.name_any())
                    .is_some_and(|kept| claim.uid().as_deref() == Some(&kept.uid));
                if ours {
                    apply::delete(&claims, &claim, None).await?;
                }
            }
        }
        self.finalize(false).await
    }

    /// Keeps the object until its deletion policy was carried out, or lets it go. The spec is not in what is sent.
    pub(super) async fn finalize(&mut self, keep: bool) -> Result<(), Failure> {
        let api: Api<EtcdCluster> = self.api();
        let finalizers: &[&str] = if keep { &[FINALIZER] } else { &[] };
        let body = json!({
            "apiVersion": EtcdCluster::api_version(&()),
            "kind": EtcdCluster::kind(&()),
            "metadata": {
                "name": self.name,
                "uid": self.object.as_ref().and_then(|object| object.uid()),
                "finalizers": finalizers,
            },
        });
        let mut params = PatchParams::apply(FIELD_MANAGER);
        params.force = true;
        match api.patch(&self.name, &params, &Patch::Apply(&body)).await {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(status)) if status.code == 404 && !keep => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}
