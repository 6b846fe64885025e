//! Locks, elections and downgrades over the wire.

mod booted;

use std::time::Duration;

use booted::{PATIENCE, assert_status, boot};
use proto::etcdserverpb::downgrade_request::DowngradeAction;
use proto::etcdserverpb::kv_client::KvClient;
use proto::etcdserverpb::lease_client::LeaseClient;
use proto::etcdserverpb::maintenance_client::MaintenanceClient;
use proto::etcdserverpb::*;
use proto::v3electionpb::election_client::ElectionClient;
use proto::v3electionpb::{CampaignRequest, LeaderKey, LeaderRequest, ProclaimRequest, ResignRequest};
use proto::v3lockpb::lock_client::LockClient;
use proto::v3lockpb::{LockRequest, UnlockRequest};
use tonic::Code;
use tonic::transport::Channel;

async fn lease(channel: &Channel) -> i64 {
    let request = LeaseGrantRequest { ttl: 60, id: 0 };
    let granted = LeaseClient::new(channel.clone()).lease_grant(request).await.unwrap();
    granted.into_inner().id
}

fn lock(lease: i64) -> LockRequest {
    LockRequest {
        name: "job".into(),
        lease,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lock_goes_from_hand_to_hand_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let member = boot(dir.path(), |_| {}).await;
    let channel = &member.channel;
    let (first, second, third) = (lease(channel).await, lease(channel).await, lease(channel).await);
    let mut locks = LockClient::new(channel.clone());
    let held = locks.lock(lock(first)).await.unwrap().into_inner();
    assert_eq!(held.key, format!("job/{first:x}"), "the key of etcd's clients");
    // Who has it gets it again.
    assert_eq!(locks.lock(lock(first)).await.unwrap().into_inner().key, held.key);
    let wait = |lease| {
        let mut locks = LockClient::new(channel.clone());
        tokio::spawn(async move { locks.lock(lock(lease)).await.map(|answer| answer.into_inner().key) })
    };
    let queued = async |count: i64| {
        let under = RangeRequest {
            key: "job/".into(),
            range_end: "job0".into(),
            count_only: true,
            ..RangeRequest::default()
        };
        for _ in 0..600 {
            let found = KvClient::new(channel.clone()).range(under.clone()).await.unwrap();
            if found.into_inner().count == count {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("never {count} in the queue");
    };
    let waits = wait(second);
    queued(2).await;
    let gives_up = wait(third);
    queued(3).await;
    assert!(!waits.is_finished());
    // Who goes away gives up the place.
    gives_up.abort();
    queued(2).await;
    locks.unlock(UnlockRequest { key: held.key }).await.unwrap();
    let got = tokio::time::timeout(PATIENCE, waits).await.unwrap().unwrap().unwrap();
    assert_eq!(got, format!("job/{second:x}"));
    // A lock ends with its lease; one without a lease of its own gets one.
    let waits = wait(0);
    queued(2).await;
    let revoke = LeaseRevokeRequest { id: second };
    LeaseClient::new(channel.clone()).lease_revoke(revoke).await.unwrap();
    tokio::time::timeout(PATIENCE, waits).await.unwrap().unwrap().unwrap();
    let error = locks
        .lock(LockRequest {
            name: "other".into(),
            lease: 0x77,
        })
        .await
        .unwrap_err();
    assert_status(&error, Code::Unknown, "etcdserver: requested lease not found");
    member.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_election_has_one_leader_and_all_see_it() {
    let dir = tempfile::tempdir().unwrap();
    let member = boot(dir.path(), |_| {}).await;
    let channel = &member.channel;
    let mut elections = ElectionClient::new(channel.clone());
    let name = || LeaderRequest { name: "e".into() };
    let error = elections.leader(name()).await.unwrap_err();
    assert_status(&error, Code::Unknown, "election: no leader");
    let mut seen = elections.observe(name()).await.unwrap().into_inner();
    let mut next = async || {
        let answer = tokio::time::timeout(PATIENCE, seen.message())
            .await
            .unwrap()
            .unwrap()
            .unwrap();
        assert!(answer.header.unwrap().cluster_id != 0);
        answer.kv.unwrap().value
    };
    let campaign = |lease, value: &'static str| CampaignRequest {
        name: "e".into(),
        lease,
        value: value.into(),
    };
    let (a, b) = (lease(channel).await, lease(channel).await);
    let won = elections.campaign(campaign(a, "a")).await.unwrap().into_inner();
    let leader = won.leader.unwrap();
    assert_eq!((&leader.key[..], leader.lease), (format!("e/{a:x}").as_bytes(), a));
    assert_eq!(won.header.unwrap().revision, leader.rev);
    assert_eq!(next().await, "a");
    assert_eq!(
        elections.leader(name()).await.unwrap().into_inner().kv.unwrap().value,
        "a"
    );
    let mut other = ElectionClient::new(channel.clone());
    let waits = tokio::spawn(async move { other.campaign(campaign(b, "b")).await });
    let proclaim = |leader: &LeaderKey, value: &'static str| ProclaimRequest {
        leader: Some(leader.clone()),
        value: value.into(),
    };
    elections.proclaim(proclaim(&leader, "a2")).await.unwrap();
    assert_eq!(next().await, "a2");
    // Campaigning again while leading is proclaiming.
    elections.campaign(campaign(a, "a3")).await.unwrap();
    assert_eq!(next().await, "a3");
    assert!(!waits.is_finished());
    elections
        .resign(ResignRequest {
            leader: Some(leader.clone()),
        })
        .await
        .unwrap();
    let won = tokio::time::timeout(PATIENCE, waits)
        .await
        .unwrap()
        .unwrap()
        .unwrap()
        .into_inner();
    assert_eq!(won.leader.unwrap().lease, b);
    assert_eq!(next().await, "b");
    let error = elections.proclaim(proclaim(&leader, "late")).await.unwrap_err();
    assert_status(&error, Code::Unknown, "election: not leader");
    let error = elections.resign(ResignRequest { leader: None }).await.unwrap_err();
    assert_status(&error, Code::Unknown, "\"leader\" field must be provided");
    member.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_downgrade_goes_down_by_one_and_can_be_cancelled() {
    let dir = tempfile::tempdir().unwrap();
    let member = boot(dir.path(), |_| {}).await;
    let mut maintenance = MaintenanceClient::new(member.channel.clone());
    let status = async || {
        let mut maintenance = MaintenanceClient::new(member.channel.clone());
        maintenance.status(StatusRequest {}).await.unwrap().into_inner()
    };
    for _ in 0..600 {
        if status().await.storage_version == "3.7.0" {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let ask = |action: DowngradeAction, version: &str| DowngradeRequest {
        action: action.into(),
        version: version.into(),
    };
    use DowngradeAction::{Cancel, Enable, Validate};
    for (action, version, code, text) in [
        (
            Validate,
            "three",
            Code::InvalidArgument,
            "etcdserver: wrong downgrade target version format",
        ),
        (
            Validate,
            "3.5",
            Code::InvalidArgument,
            "etcdserver: invalid downgrade target version",
        ),
        (
            Enable,
            "3.7.0",
            Code::InvalidArgument,
            "etcdserver: invalid downgrade target version",
        ),
        (
            Enable,
            "",
            Code::InvalidArgument,
            "etcdserver: wrong downgrade target version format",
        ),
    ] {
        let error = maintenance.downgrade(ask(action, version)).await.unwrap_err();
        assert_status(&error, code, text);
    }
    let unknown = DowngradeRequest {
        action: 9,
        version: "3.6".into(),
    };
    let error = maintenance.downgrade(unknown).await.unwrap_err();
    assert_status(&error, Code::Unknown, "etcdserver: unknown method");
    let answer = maintenance.downgrade(ask(Validate, "3.6")).await.unwrap().into_inner();
    assert_eq!(answer.version, "3.7");
    assert!(
        !status().await.downgrade_info.unwrap().enabled,
        "looking changes nothing"
    );
    maintenance.downgrade(ask(Enable, "3.6.0")).await.unwrap();
    let info = status().await.downgrade_info.unwrap();
    assert_eq!((info.enabled, info.target_version.as_str()), (true, "3.6.0"));
    let error = maintenance.downgrade(ask(Enable, "3.6")).await.unwrap_err();
    assert!(
        [
            "etcdserver: cluster has a downgrade job in progress",
            "etcdserver: invalid downgrade target version"
        ]
        .contains(&error.message()),
        "{error}"
    );
    // The leader lowers the cluster version, and the files' version with it.
    for _ in 0..1500 {
        if status().await.storage_version == "3.6.0" {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(status().await.storage_version, "3.6.0");
    let answer = maintenance.downgrade(ask(Cancel, "")).await.unwrap().into_inner();
    assert_eq!(answer.version, "3.6");
    assert!(!status().await.downgrade_info.unwrap().enabled);
    // Without a job there is nothing to cancel, and that is no error.
    maintenance.downgrade(ask(Cancel, "")).await.unwrap();
    member.stop().await;
}
