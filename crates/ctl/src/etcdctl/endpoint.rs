//! What is asked of each endpoint by itself: health, status, hashes, defragmentation.

use std::time::Instant;

use proto::etcdserverpb as pb;
use proto::etcdserverpb::alarm_request::AlarmAction;
use tokio::task::JoinSet;

use super::client::{Client, Config, ConfigError, Policy};
use super::print::{self, Printer};
use super::{ERROR, Exit, Session, connect};
use crate::gotext;

/// The endpoints to ask, those of all members with `--cluster`, and how.
async fn endpoints(run: &mut Session) -> Result<(Vec<String>, Config, Printer), Exit> {
    let (config, printer) = run.config()?;
    if !run.call.bool("cluster") {
        return Ok((config.endpoints.clone(), config, printer));
    }
    let client = Client::new(config.clone()).await.map_err(|error| match error {
        ConfigError::Arguments(text) => Exit::new(ERROR, text),
        ConfigError::Connection(failure) => Exit::new(ERROR, failure),
    })?;
    let request = pb::MemberListRequest { linearizable: true };
    let method = "/etcdserverpb.Cluster/MemberList";
    let members = client.call(method, Policy::Repeatable, &request, run.deadline()).await;
    let members: pb::MemberListResponse = members.map_err(|failure| {
        let text = format!("failed to fetch endpoints from etcd cluster member list: {failure}");
        Exit::new(ERROR, text)
    })?;
    let urls = members.members.into_iter().flat_map(|member| member.client_ur_ls);
    Ok((urls.collect(), config, printer))
}

fn only(config: &Config, endpoint: &str) -> Config {
    Config {
        endpoints: vec![endpoint.to_owned()],
        ..config.clone()
    }
}

pub(super) async fn health(run: &mut Session) -> Result<(), Exit> {
    let (endpoints, config, printer) = endpoints(run).await?;
    let timeout = run.call.duration("command-timeout");
    let mut asking = JoinSet::new();
    for endpoint in endpoints {
        let mut one = only(&config, &endpoint);
        one.logger = "client";
        asking.spawn(async move {
            let unhealthy = |error: String| print::EndpointHealth {
                endpoint: endpoint.clone(),
                health: false,
                took: String::new(),
                error,
            };
            match Client::new(one).await {
                Ok(client) => Ok(is_healthy(&client, &endpoint, timeout).await),
                Err(ConfigError::Connection(failure)) => Ok(unhealthy(failure.to_string())),
                Err(ConfigError::Arguments(text)) => Err(Exit::arguments(text)),
            }
        });
    }
    let mut healths = Vec::new();
    while let Some(health) = asking.join_next().await {
        healths.push(health.map_err(|error| Exit::new(ERROR, error))??);
    }
    let bad = healths.iter().any(|health| !health.error.is_empty());
    printer.print(&print::Healths(healths))?;
    match bad {
        true => Err(Exit::new(ERROR, "unhealthy cluster")),
        false => Ok(()),
    }
}

/// An endpoint is healthy when a read goes through consensus and no alarm is raised.
async fn is_healthy(client: &Client, endpoint: &str, timeout: std::time::Duration) -> print::EndpointHealth {
    let began = Instant::now();
    let deadline = Some(began + timeout);
    let request = pb::RangeRequest {
        key: "health".into(),
        ..Default::default()
    };
    let read: Result<pb::RangeResponse, _> = client
        .call("/etcdserverpb.KV/Range", Policy::Repeatable, &request, deadline)
        .await;
    let took = gotext::duration(began.elapsed());
    let error = match read {
        // A user without permission has asked the leader, too.
        Err(failure) if !failure.is("etcdserver: permission denied") => failure.to_string(),
        _ => alarms(client, deadline).await,
    };
    print::EndpointHealth {
        endpoint: endpoint.to_owned(),
        health: error.is_empty(),
        took,
        error,
    }
}

async fn alarms(client: &Client, deadline: Option<Instant>) -> String {
    let request = pb::AlarmRequest {
        action: AlarmAction::Get.into(),
        ..Default::default()
    };
    let method = "/etcdserverpb.Maintenance/Alarm";
    let answer: Result<pb::AlarmResponse, _> = client.call(method, Policy::Repeatable, &request, deadline).await;
    let Ok(answer) = answer else {
        return "Unable to fetch the alarm list".into();
    };
    if answer.alarms.is_empty() {
        return String::new();
    }
    let names = answer
        .alarms
        .iter()
        .map(|alarm| match pb::AlarmType::try_from(alarm.alarm) {
            Ok(pb::AlarmType::Nospace) => "NOSPACE ",
            Ok(pb::AlarmType::Corrupt) => "CORRUPT ",
            _ => "UNKNOWN ",
        });
    format!("Active Alarm(s): {}", names.collect::<String>())
}

pub(super) async fn status(run: &mut Session) -> Result<(), Exit> {
    let (endpoints, config, printer) = endpoints(run).await?;
    let mut statuses = Vec::new();
    let mut failed = false;
    for endpoint in endpoints {
        let client = connect(only(&config, &endpoint)).await?;
        let method = "/etcdserverpb.Maintenance/Status";
        let request = pb::StatusRequest {};
        match client.call(method, Policy::Repeatable, &request, run.deadline()).await {
            Ok(status) => statuses.push(print::EndpointStatus { endpoint, status }),
            Err(failure) => {
                failed = true;
                eprintln!("Failed to get the status of endpoint {endpoint} ({failure})");
            }
        }
    }
    printer.print(&print::Statuses(statuses))?;
    match failed {
        true => Err(Exit::silent(ERROR)),
        false => Ok(()),
    }
}

pub(super) async fn hash_kv(run: &mut Session) -> Result<(), Exit> {
    let (endpoints, config, printer) = endpoints(run).await?;
    let mut hashes = Vec::new();
    let mut last = None;
    for endpoint in endpoints {
        let client = connect(only(&config, &endpoint)).await?;
        let method = "/etcdserverpb.Maintenance/HashKV";
        let request = pb::HashKvRequest {
            revision: run.call.int("rev"),
        };
        match client.call(method, Policy::Repeatable, &request, run.deadline()).await {
            Ok(hash) => hashes.push(print::EndpointHash { endpoint, hash }),
            Err(failure) => {
                eprintln!("Failed to get the hash of endpoint {endpoint} ({failure})");
                last = Some(failure);
            }
        }
    }
    printer.print(&print::Hashes(hashes))?;
    match last {
        Some(failure) => Err(failure.into()),
        None => Ok(()),
    }
}

pub(super) async fn defragment(run: &mut Session) -> Result<(), Exit> {
    let (endpoints, config, _) = endpoints(run).await?;
    let mut failed = false;
    for endpoint in endpoints {
        let client = connect(only(&config, &endpoint)).await?;
        let began = Instant::now();
        let method = "/etcdserverpb.Maintenance/Defragment";
        let request = pb::DefragmentRequest {};
        let answer: Result<pb::DefragmentResponse, _> =
            client.call(method, Policy::Once, &request, run.deadline()).await;
        let took = gotext::duration(began.elapsed());
        match answer {
            Ok(_) => {
                let text = format!("Finished defragmenting etcd member[{endpoint}]. took {took}\n");
                print::write_out(text.as_bytes());
            }
            Err(failure) => {
                failed = true;
                eprintln!("Failed to defragment etcd member[{endpoint}]. took {took}. ({failure})");
            }
        }
    }
    match failed {
        true => Err(Exit::silent(ERROR)),
        false => Ok(()),
    }
}
