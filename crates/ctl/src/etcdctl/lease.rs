//! Leases.

use std::time::Duration;

use proto::etcdserverpb as pb;

use super::client::{Client, Failure, Policy};
use super::print::{self, Format, Printer};
use super::{BAD_CONNECTION, ERROR, Exit, Session};
use crate::gotext::parse_int;

const NOT_FOUND: &str = "etcdserver: requested lease not found";

fn id_of(text: &str) -> Result<i64, Exit> {
    parse_int(text, 16).map_err(|why| Exit::arguments(format!("bad lease ID arg ({why}), expecting ID in Hex")))
}

pub(super) async fn lease(run: &mut Session, command: &str) -> Result<(), Exit> {
    let one = run.call.arguments.len() == 1;
    let argument = run.call.argument(0);
    match command {
        "grant" => {
            if !one {
                return Err(Exit::arguments("lease grant command needs TTL argument"));
            }
            let ttl = parse_int(&argument, 10).map_err(|why| Exit::arguments(format!("bad TTL ({why})")))?;
            let (client, printer) = run.client().await?;
            let request = pb::LeaseGrantRequest { ttl, id: 0 };
            let method = "/etcdserverpb.Lease/LeaseGrant";
            let response = client.call(method, Policy::Repeatable, &request, run.deadline()).await;
            let response =
                response.map_err(|failure| Exit::new(ERROR, format!("failed to grant lease ({failure})")))?;
            printer.print(&print::Grant(response))
        }
        "revoke" => {
            if !one {
                return Err(Exit::arguments("lease revoke command needs 1 argument"));
            }
            let id = id_of(&argument)?;
            let (client, printer) = run.client().await?;
            let request = pb::LeaseRevokeRequest { id };
            let method = "/etcdserverpb.Lease/LeaseRevoke";
            let response = client.call(method, Policy::Repeatable, &request, run.deadline()).await;
            let response =
                response.map_err(|failure| Exit::new(ERROR, format!("failed to revoke lease ({failure})")))?;
            printer.print(&print::Revoke(id, response))
        }
        "timetolive" => {
            if !one {
                return Err(Exit::arguments("lease timetolive command needs lease ID as argument"));
            }
            let (client, printer) = run.client().await?;
            let keys = run.call.bool("keys");
            let request = pb::LeaseTimeToLiveRequest {
                id: id_of(&argument)?,
                keys,
            };
            let method = "/etcdserverpb.Lease/LeaseTimeToLive";
            let response = client.call(method, Policy::Repeatable, &request, None).await;
            let response = response.map_err(|failure| Exit::new(BAD_CONNECTION, failure))?;
            printer.print(&print::TimeToLive(response, keys))
        }
        "list" => {
            let (client, printer) = run.client().await?;
            let method = "/etcdserverpb.Lease/LeaseLeases";
            let request = pb::LeaseLeasesRequest {};
            let response = client.call(method, Policy::Repeatable, &request, None).await;
            let response = response.map_err(|failure| Exit::new(BAD_CONNECTION, failure))?;
            printer.print(&print::Leases(response))
        }
        _ => {
            if !one {
                return Err(Exit::arguments("lease keep-alive command needs lease ID as argument"));
            }
            let id = id_of(&argument)?;
            let (client, printer) = run.client().await?;
            let once = run.call.bool("once");
            keep_alive(&client, printer, id, once).await
        }
    }
}

async fn keep_alive(client: &Client, printer: Printer, id: i64, once: bool) -> Result<(), Exit> {
    let bad = |failure: Failure| Exit::new(BAD_CONNECTION, failure);
    loop {
        let response = renew(client, id).await.map_err(bad)?;
        if response.ttl <= 0 {
            break;
        }
        // A third of it, as etcd's client has it; never so often that a short lease floods the server.
        let pause = Duration::from_secs(response.ttl.unsigned_abs()) / 3;
        printer.print(&print::KeepAlive(response))?;
        if once {
            return Ok(());
        }
        tokio::time::sleep(pause.max(Duration::from_millis(300))).await;
    }
    if once {
        return Err(Exit::new(BAD_CONNECTION, NOT_FOUND));
    }
    if printer.format == Format::Simple {
        print::write_out(format!("lease {id:016x} expired or revoked.\n").as_bytes());
    }
    Ok(())
}

/// Renews a lease once, at whatever endpoint answers; what is left of it is in the answer, 0 or less when it is gone.
///
/// # Errors
/// What the server says, when asking again would not help.
pub(super) async fn renew(client: &Client, id: i64) -> Result<pb::LeaseKeepAliveResponse, Failure> {
    loop {
        let asked = async {
            let (_requests, mut answers) = client.renewals(id).await?;
            answers.next().await
        };
        match asked.await {
            Ok(Some(answer)) => return Ok(answer),
            Ok(None) => {}
            Err(failure) => {
                let again = matches!(failure.code(), Some(tonic::Code::Unavailable | tonic::Code::Internal));
                if !again {
                    return Err(failure);
                }
            }
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}
