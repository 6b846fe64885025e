//! Locks and elections, made of keys with leases: compatible with upstream's clients, which make them the same way.

use std::process::Stdio;

use proto::etcdserverpb as pb;
use proto::etcdserverpb::range_request::SortOrder;
use proto::etcdserverpb::request_op::Request;
use proto::etcdserverpb::response_op::Response;
use proto::mvccpb::KeyValue;
use proto::mvccpb::event::EventType;
use tokio::process::Command as Process;
use tokio::signal::unix::{SignalKind, signal};

use super::client::{Client, Failure, Policy};
use super::keys::prefix_end;
use super::print::{self, Printer};
use super::session::{
    LeaseSession, by_creation, created_at, get_key, op, put_key, range, revision, transact, wait_deletes,
};
use super::{ERROR, Exit, Session};

/// Seconds that the lease of a candidate lives without being renewed.
const ELECTION_TTL: i64 = 60;

/// Waits for SIGINT or SIGTERM.
async fn interrupted() {
    let (Ok(mut interrupt), Ok(mut terminate)) = (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
    else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
}

/// Puts a key with the session's lease unless it is there: the key, and the revision that says its place in the queue.
async fn enter(
    client: &Client,
    prefix: &[u8],
    lease: i64,
    value: &[u8],
) -> Result<(Vec<u8>, i64, pb::TxnResponse), Failure> {
    let key = [prefix, format!("{lease:x}").as_bytes()].concat();
    let owner = by_creation(prefix, SortOrder::Ascend, 0);
    let request = pb::TxnRequest {
        compare: vec![created_at(&key, 0)],
        success: vec![
            op(Request::RequestPut(put_key(&key, value, lease))),
            op(Request::RequestRange(owner.clone())),
        ],
        failure: vec![
            op(Request::RequestRange(get_key(&key))),
            op(Request::RequestRange(owner)),
        ],
    };
    let answer = transact(client, &request).await?;
    let mut place = revision(answer.header.as_ref());
    if !answer.succeeded
        && let Some(Response::ResponseRange(own)) = answer.responses.first().and_then(|op| op.response.as_ref())
        && let Some(kv) = own.kvs.first()
    {
        place = kv.create_revision;
    }
    Ok((key, place, answer))
}

async fn remove(client: &Client, key: &[u8]) -> Result<(), Failure> {
    let request = pb::DeleteRangeRequest {
        key: key.to_vec().into(),
        ..Default::default()
    };
    let method = "/etcdserverpb.KV/DeleteRange";
    let _gone: pb::DeleteRangeResponse = client.call(method, Policy::Once, &request, None).await?;
    Ok(())
}

pub(super) async fn lock(run: &mut Session) -> Result<(), Exit> {
    if run.call.arguments.is_empty() {
        let text = "lock takes a lock name argument and an optional command to execute";
        return Err(Exit::arguments(text));
    }
    let prefix = [run.call.arguments[0].as_slice(), b"/"].concat();
    let ttl = run.call.int("ttl");
    let program = run.call.arguments[1..].to_vec();
    let (client, printer) = run.client().await?;
    let mut lease = LeaseSession::begin(&client, ttl).await?;
    let (key, place, answer) = enter(&client, &prefix, lease.id, b"").await?;
    let mut held_since = revision(answer.header.as_ref());
    let owner = match answer.responses.get(1).and_then(|op| op.response.as_ref()) {
        Some(Response::ResponseRange(owner)) => owner.kvs.first().map(|kv| kv.create_revision),
        _ => None,
    };
    if owner.is_some_and(|owner| owner != place) {
        let waited = tokio::select! {
            waited = wait_deletes(&client, &prefix, place - 1) => waited,
            () = interrupted() => Err(Failure::Other("context canceled".into())),
        };
        if let Err(failure) = waited {
            // The place in the queue goes with the lease if it cannot be given up now.
            let _given_up = remove(&client, &key).await;
            return Err(failure.into());
        }
        let own = range(&client, &get_key(&key)).await?;
        if own.kvs.is_empty() {
            return Err(Exit::new(ERROR, "mutex: session is expired"));
        }
        held_since = revision(own.header.as_ref());
    }
    if !program.is_empty() {
        let code = run_locked(&program, &key, held_since).await;
        let unlocked = remove(&client, &key).await;
        code?;
        return Ok(unlocked?);
    }
    let own = range(&client, &get_key(&key)).await?;
    if own.kvs.is_empty() {
        return Err(Exit::new(ERROR, "lock lost on init"));
    }
    printer.print(&print::Get(own))?;
    tokio::select! {
        () = interrupted() => Ok(remove(&client, &key).await?),
        () = lease.lost() => Err(Exit::new(ERROR, "session expired")),
    }
}

async fn run_locked(program: &[Vec<u8>], key: &[u8], held_since: i64) -> Result<(), Exit> {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    let word = |bytes: &Vec<u8>| OsStr::from_bytes(bytes).to_owned();
    let status = Process::new(word(&program[0]))
        .args(program[1..].iter().map(word))
        .env("ETCD_LOCK_KEY", OsStr::from_bytes(key))
        .env("ETCD_LOCK_REV", held_since.to_string())
        .stdin(Stdio::null())
        .status()
        .await;
    match status {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => match status.code().and_then(|code| u8::try_from(code).ok()) {
            Some(code) => Err(Exit::new(code, format!("exit status {code}"))),
            None => Err(Exit::new(ERROR, status)),
        },
        Err(error) => {
            let name = String::from_utf8_lossy(&program[0]).into_owned();
            let why = match error.kind() {
                std::io::ErrorKind::NotFound => "executable file not found in $PATH".into(),
                _ => error.to_string(),
            };
            Err(Exit::new(ERROR, format!("exec: \"{name}\": {why}")))
        }
    }
}

pub(super) async fn elect(run: &mut Session) -> Result<(), Exit> {
    let listen = run.call.bool("listen");
    let arguments = run.call.arguments.clone();
    let (name, proposal) = match arguments.as_slice() {
        [name] => (name, None),
        [name, proposal] => (name, Some(proposal)),
        _ => {
            let text = "elect takes one election name argument and an optional proposal argument";
            return Err(Exit::arguments(text));
        }
    };
    let (client, printer) = run.client().await?;
    let prefix = [name.as_slice(), b"/"].concat();
    match proposal {
        None if !listen => Err(Exit::arguments("no proposal argument but -l not set")),
        Some(_) if listen => Err(Exit::arguments("proposal given but -l is set")),
        None => {
            let observed = tokio::select! {
                observed = observe(&client, printer, &prefix) => observed,
                () = interrupted() => return Ok(()),
            };
            match observed {
                Err(exit) if exit.code != ERROR => Err(exit),
                _ => Err(Exit::new(ERROR, "elect: observer lost")),
            }
        }
        Some(proposal) => campaign(&client, printer, &prefix, proposal).await,
    }
}

async fn campaign(client: &Client, printer: Printer, prefix: &[u8], proposal: &[u8]) -> Result<(), Exit> {
    let mut lease = LeaseSession::begin(client, ELECTION_TTL).await?;
    let (key, place, answer) = enter(client, prefix, lease.id, proposal).await?;
    if !answer.succeeded {
        // The key is there from before: it says what is proposed now.
        let request = pb::TxnRequest {
            compare: vec![created_at(&key, place)],
            success: vec![op(Request::RequestPut(put_key(&key, proposal, lease.id)))],
            failure: Vec::new(),
        };
        if !transact(client, &request).await?.succeeded {
            return Err(Exit::new(ERROR, "election: not leader"));
        }
    }
    let resign = || async {
        let delete = pb::DeleteRangeRequest {
            key: key.clone().into(),
            ..Default::default()
        };
        let request = pb::TxnRequest {
            compare: vec![created_at(&key, place)],
            success: vec![op(Request::RequestDeleteRange(delete))],
            failure: Vec::new(),
        };
        transact(client, &request).await
    };
    let waited = tokio::select! {
        waited = wait_deletes(client, prefix, place - 1) => waited,
        () = interrupted() => Err(Failure::Other("context canceled".into())),
    };
    if let Err(failure) = waited {
        // The candidacy goes with the lease if it cannot be given up now.
        let _given_up = resign().await;
        return Err(failure.into());
    }
    let own = range(client, &get_key(&key)).await?;
    printer.print(&print::Get(own))?;
    tokio::select! {
        () = interrupted() => {
            resign().await?;
            Ok(())
        }
        () = lease.lost() => Err(Exit::new(ERROR, "elect: session expired")),
    }
}

/// Prints each leader and what it proposes.
async fn observe(client: &Client, printer: Printer, prefix: &[u8]) -> Result<(), Exit> {
    loop {
        let first = range(client, &by_creation(prefix, SortOrder::Ascend, 0)).await?;
        let (kv, from, header) = match first.kvs.first() {
            Some(kv) => (kv.clone(), revision(first.header.as_ref()), first.header),
            None => first_put(client, prefix, revision(first.header.as_ref())).await?,
        };
        let leader = kv.key.clone();
        show(printer, header, kv)?;
        let mut watching = client.watch(pb::WatchCreateRequest {
            key: leader,
            start_revision: from + 1,
            ..Default::default()
        });
        'leader: while let Some(response) = watching.next().await? {
            for event in response.events {
                if event.r#type() == EventType::Delete {
                    break 'leader;
                }
                show(printer, response.header, event.kv.unwrap_or_default())?;
            }
        }
    }
}

async fn first_put(
    client: &Client,
    prefix: &[u8],
    from: i64,
) -> Result<(KeyValue, i64, Option<pb::ResponseHeader>), Exit> {
    let mut watching = client.watch(pb::WatchCreateRequest {
        key: prefix.to_vec().into(),
        range_end: prefix_end(prefix).into(),
        start_revision: from,
        ..Default::default()
    });
    while let Some(response) = watching.next().await? {
        if response.canceled {
            break;
        }
        for event in response.events {
            if event.r#type() == EventType::Put {
                let kv = event.kv.unwrap_or_default();
                let revision = kv.mod_revision;
                let header = response.header.map(|header| pb::ResponseHeader { revision, ..header });
                return Ok((kv, revision, header));
            }
        }
    }
    Err(Exit::new(ERROR, "elect: observer lost"))
}

fn show(printer: Printer, header: Option<pb::ResponseHeader>, kv: KeyValue) -> Result<(), Exit> {
    printer.print(&print::Get(pb::RangeResponse {
        header,
        kvs: vec![kv],
        more: false,
        count: 0,
    }))
}
