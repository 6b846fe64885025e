//! Members, alarms, leadership, downgrades.

use proto::etcdserverpb as pb;
use proto::etcdserverpb::alarm_request::AlarmAction;
use proto::etcdserverpb::downgrade_request::DowngradeAction;

use super::client::Policy;
use super::print::{self, Format};
use super::{Exit, Session, connect, kv};
use crate::gotext::{parse_uint, quote};

fn member_id(run: &Session) -> Result<u64, Exit> {
    if run.call.arguments.len() != 1 {
        return Err(Exit::arguments("member ID is not provided"));
    }
    parse_uint(&run.call.argument(0), 16)
        .map_err(|why| Exit::arguments(format!("bad member ID arg ({why}), expecting ID in Hex")))
}

/// Refuses URLs that a server would refuse, in the words of etcd's client.
fn check_urls(urls: &[String]) -> Result<(), Exit> {
    for url in urls {
        let bad = |why: String| Err(Exit::new(super::ERROR, why));
        let Some((scheme, rest)) = url.split_once("://") else {
            return bad(format!("URL scheme must be http, https, unix, or unixs: {url}"));
        };
        if !matches!(scheme, "http" | "https" | "unix" | "unixs") {
            return bad(format!("URL scheme must be http, https, unix, or unixs: {url}"));
        }
        if scheme.starts_with("http") {
            let (host, path) = rest.split_once('/').map_or((rest, ""), |(host, path)| (host, path));
            if host
                .rsplit_once(':')
                .is_none_or(|(_, port)| port.parse::<u16>().is_err())
            {
                return bad(format!("URL address does not have the form \"host:port\": {url}"));
            }
            if !path.is_empty() {
                return bad(format!("URL must not contain a path: {url}"));
            }
        }
    }
    Ok(())
}

pub(super) async fn member(run: &mut Session, command: &str) -> Result<(), Exit> {
    match command {
        "add" => return add(run).await,
        "list" => {
            let linearizable = !kv::serializable(&run.call.text("consistency"))?;
            let (client, printer) = run.client().await?;
            let request = pb::MemberListRequest { linearizable };
            let method = "/etcdserverpb.Cluster/MemberList";
            let response = client
                .call(method, Policy::Repeatable, &request, run.deadline())
                .await?;
            return printer.print(&print::MemberList(response));
        }
        _ => {}
    }
    let id = member_id(run)?;
    let urls = run.call.text("peer-urls");
    if command == "update" && urls.is_empty() {
        return Err(Exit::arguments("member peer urls not provided"));
    }
    let (client, printer) = run.client().await?;
    let deadline = run.deadline();
    let (done, header, members) = match command {
        "remove" => {
            let request = pb::MemberRemoveRequest { id };
            let method = "/etcdserverpb.Cluster/MemberRemove";
            let answer: pb::MemberRemoveResponse = client.call(method, Policy::Once, &request, deadline).await?;
            ("removed from", answer.header, answer.members)
        }
        "update" => {
            let peer_ur_ls: Vec<String> = urls.split(',').map(str::to_owned).collect();
            check_urls(&peer_ur_ls)?;
            let request = pb::MemberUpdateRequest { id, peer_ur_ls };
            let method = "/etcdserverpb.Cluster/MemberUpdate";
            let answer: pb::MemberUpdateResponse = client.call(method, Policy::Once, &request, deadline).await?;
            ("updated in", answer.header, answer.members)
        }
        _ => {
            let request = pb::MemberPromoteRequest { id };
            let method = "/etcdserverpb.Cluster/MemberPromote";
            let answer: pb::MemberPromoteResponse = client.call(method, Policy::Once, &request, deadline).await?;
            ("promoted in", answer.header, answer.members)
        }
    };
    printer.print(&print::MemberChange {
        id,
        done,
        header,
        members,
    })
}

async fn add(run: &mut Session) -> Result<(), Exit> {
    let arguments: Vec<String> = (0..run.call.arguments.len()).map(|i| run.call.argument(i)).collect();
    let [name] = arguments.as_slice() else {
        if arguments.is_empty() {
            return Err(Exit::arguments("member name not provided"));
        }
        let urls = arguments.iter().filter(|word| word.to_lowercase().starts_with("http"));
        let hints: String = urls.map(|url| format!(", did you mean --peer-urls={url}")).collect();
        return Err(Exit::arguments(format!("too many arguments{hints}")));
    };
    let urls = run.call.text("peer-urls");
    if urls.is_empty() {
        return Err(Exit::arguments("member peer urls not provided"));
    }
    let is_learner = run.call.bool("learner");
    let (client, printer) = run.client().await?;
    let peer_ur_ls: Vec<String> = urls.split(',').map(str::to_owned).collect();
    check_urls(&peer_ur_ls)?;
    let request = pb::MemberAddRequest { peer_ur_ls, is_learner };
    let method = "/etcdserverpb.Cluster/MemberAdd";
    let answer: pb::MemberAddResponse = client.call(method, Policy::Once, &request, run.deadline()).await?;
    let new_id = answer.member.as_ref().map_or(0, |member| member.id);
    let members = answer.members.clone();
    printer.print(&print::MemberAdd(answer))?;
    if printer.format == Format::Simple {
        let of_member = |member: &pb::Member| {
            let name = if member.id == new_id {
                name.clone()
            } else {
                member.name.clone()
            };
            let urls = member.peer_ur_ls.iter();
            urls.map(|url| format!("{name}={url}")).collect::<Vec<_>>()
        };
        let cluster: Vec<String> = members.iter().flat_map(of_member).collect();
        let text = |text: &str| quote(text.as_bytes());
        let out = format!(
            "\nETCD_NAME={}\nETCD_INITIAL_CLUSTER={}\nETCD_INITIAL_ADVERTISE_PEER_URLS={}\nETCD_INITIAL_CLUSTER_STATE=\"existing\"\n",
            text(name),
            text(&cluster.join(",")),
            text(&urls)
        );
        print::write_out(out.as_bytes());
    }
    Ok(())
}

pub(super) async fn alarm(run: &mut Session, command: &str) -> Result<(), Exit> {
    if !run.call.arguments.is_empty() {
        return Err(Exit::arguments(format!("alarm {command} command accepts no arguments")));
    }
    let (client, printer) = run.client().await?;
    let deadline = run.deadline();
    let method = "/etcdserverpb.Maintenance/Alarm";
    let request = pb::AlarmRequest {
        action: AlarmAction::Get.into(),
        ..Default::default()
    };
    let active: pb::AlarmResponse = client.call(method, Policy::Repeatable, &request, deadline).await?;
    if command == "list" {
        return printer.print(&print::Alarms(active));
    }
    let mut disarmed = pb::AlarmResponse::default();
    for alarm in active.alarms {
        let request = pb::AlarmRequest {
            action: AlarmAction::Deactivate.into(),
            member_id: alarm.member_id,
            alarm: alarm.alarm,
        };
        let answer: pb::AlarmResponse = client.call(method, Policy::Repeatable, &request, deadline).await?;
        disarmed.alarms.extend(answer.alarms);
    }
    printer.print(&print::Alarms(disarmed))
}

pub(super) async fn move_leader(run: &mut Session) -> Result<(), Exit> {
    if run.call.arguments.len() != 1 {
        return Err(Exit::arguments("move-leader command needs 1 argument"));
    }
    let to = parse_uint(&run.call.argument(0), 16).map_err(Exit::arguments)?;
    let (config, printer) = run.config()?;
    let deadline = run.deadline();
    for endpoint in &config.endpoints {
        let mut one = config.clone();
        one.endpoints = vec![endpoint.clone()];
        let client = connect(one).await?;
        let method = "/etcdserverpb.Maintenance/Status";
        let request = pb::StatusRequest {};
        let status: pb::StatusResponse = client.call(method, Policy::Repeatable, &request, deadline).await?;
        let from = status.leader;
        if status.header.map_or(0, |header| header.member_id) != from {
            continue;
        }
        let request = pb::MoveLeaderRequest { target_id: to };
        let method = "/etcdserverpb.Maintenance/MoveLeader";
        let response = client.call(method, Policy::Repeatable, &request, deadline).await?;
        return printer.print(&print::MoveLeader { from, to, response });
    }
    let endpoints = config.endpoints.join(" ");
    Err(Exit::arguments(format!("no leader endpoint given at [{endpoints}]")))
}

pub(super) async fn downgrade(run: &mut Session, command: &str) -> Result<(), Exit> {
    let (action, done) = match command {
        "validate" => (DowngradeAction::Validate, "validate"),
        "enable" => (DowngradeAction::Enable, "enable"),
        _ => (DowngradeAction::Cancel, "cancel"),
    };
    let version = if action == DowngradeAction::Cancel {
        String::new()
    } else {
        match run.call.arguments.len() {
            0 => return Err(Exit::arguments("TARGET_VERSION not provided")),
            1 if run.call.argument(0).is_empty() => return Err(Exit::arguments("target version not provided")),
            1 => run.call.argument(0),
            _ => return Err(Exit::arguments("too many arguments")),
        }
    };
    let (client, printer) = run.client().await?;
    let action = action.into();
    let request = pb::DowngradeRequest { action, version };
    let method = "/etcdserverpb.Maintenance/Downgrade";
    let response = client.call(method, Policy::Once, &request, run.deadline()).await?;
    printer.print(&print::Downgrade(done, response))
}
