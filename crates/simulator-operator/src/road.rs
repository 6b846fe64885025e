//! The operator's way to simulated members.

use crate::checks;
use crate::control::{Call, Caller, Fate};
use crate::etcd::{Data, Process, Row, What};
use crate::world::{State, World};
use etcd_client::SnapshotStreaming;
use quorate::clock;
use quorate::member::calls::{Answering, Calls, Dialling, Opening, Reach, Trouble};
use quorate::member::{Access, Alarm, Error, HashKv, Listed, Status};
use std::sync::Arc;
use std::time::Duration;

/// From one process of an operator to all members.
#[derive(Debug, Clone)]
pub struct Road {
    /// Where.
    pub world: World,
    /// Who.
    pub caller: Caller,
}

fn refused(words: &str) -> Trouble {
    Trouble::from(etcd_client::Error::GRpcStatus(tonic::Status::unavailable(
        words.to_owned(),
    )))
}

fn host_of(endpoint: &str) -> &str {
    let rest = endpoint.split_once("://").map_or(endpoint, |(_, rest)| rest);
    rest.rsplit_once(':').map_or(rest, |(host, _)| host)
}

fn process_at<'a>(state: &'a State, address: &str) -> Option<(&'a String, &'a Process)> {
    state
        .etcd
        .processes
        .iter()
        .find(|(_, process)| process.address == address)
}

impl Reach for Road {
    fn dial<'a>(&'a self, endpoint: &'a str, _: Option<&'a str>, access: Option<&'a Access>) -> Dialling<'a> {
        Box::pin(async move {
            clock::sleep(Duration::from_millis(1)).await;
            let line = Line {
                road: self.clone(),
                address: host_of(endpoint).to_owned(),
                access: access.filter(|_| endpoint.starts_with("https://")).cloned(),
            };
            Ok::<_, Error>(Arc::new(line) as Arc<dyn Calls>)
        })
    }

    fn open<'a>(&'a self, address: &'a str, port: i32) -> Opening<'a> {
        Box::pin(async move {
            clock::sleep(Duration::from_millis(1)).await;
            let refused = || std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
            let (tls, cut) = {
                let state = self.world.lock();
                let (_, process) = process_at(&state, address).ok_or_else(refused)?;
                (process.tls.clone(), state.etcd.cut.contains(&process.node))
            };
            if cut {
                std::future::pending::<()>().await;
            }
            let today = self.world.today();
            tls.and_then(|tls| tls.serve(port == 2380, today)).ok_or_else(refused)
        })
    }
}

/// A connection to one member.
struct Line {
    road: Road,
    address: String,
    access: Option<Access>,
}

impl Line {
    /// Asks: what the member at this address, if there is one and it lets this client in, makes of it.
    fn ask<'a, T: Send + 'a>(
        &'a self,
        what: &'static str,
        effect: bool,
        make: impl FnOnce(&mut State, &Process, &Data) -> Result<T, Trouble> + Send + 'a,
    ) -> Answering<'a, T> {
        Box::pin(async move {
            let world = &self.road.world;
            clock::sleep(world.latency()).await;
            let call = Call {
                caller: self.road.caller,
                what: format!("asks {}: {what}", self.address),
                effect,
                lease: false,
                read: !effect,
            };
            let fate = world.fate(&call);
            match fate {
                Fate::Never => std::future::pending().await,
                Fate::Refuse(_) => return Err(refused("etcdserver: request timed out")),
                Fate::Unreachable => {
                    clock::sleep(Duration::from_secs(60)).await;
                    return Err(refused("etcdserver: request timed out"));
                }
                Fate::Late(pause) => clock::sleep(pause).await,
                Fate::Answer | Fate::Lost | Fate::LastWords => {}
            }
            enum Found<T> {
                Silent,
                Said(Result<T, Trouble>),
            }
            let found = world.with(|state| {
                let Some((_, process)) = process_at(state, &self.address) else {
                    return Found::Said(Err(refused("connection refused")));
                };
                let process = process.clone();
                if state.etcd.cut.contains(&process.node) {
                    return Found::Silent;
                }
                let today = state.store.now();
                let admitted = match &process.tls {
                    Some(tls) => tls.client_accepts(self.access.as_ref(), today),
                    None => self.access.is_none(),
                };
                if !admitted {
                    return Found::Said(Err(refused("transport: authentication handshake failed")));
                }
                match state.etcd.data(&process).cloned() {
                    Some(data) => Found::Said(make(state, &process, &data)),
                    None => Found::Said(Err(refused("etcdserver: server stopped"))),
                }
            });
            match (found, fate) {
                (Found::Silent, _) | (_, Fate::LastWords) => std::future::pending().await,
                (_, Fate::Lost) => Err(refused("connection reset before the answer came")),
                (Found::Said(answer), _) => answer,
            }
        })
    }
}

fn listed(row: &Row) -> Listed {
    Listed {
        id: row.id,
        name: row.name.clone(),
        peer_urls: vec![row.url.clone()],
        client_urls: Vec::new(),
        is_learner: row.learner,
    }
}

fn kind_of(alarm: Alarm) -> &'static str {
    match alarm {
        Alarm::NoSpace => "nospace",
        Alarm::Corrupt => "corrupt",
    }
}

impl Calls for Line {
    fn status(&self) -> Answering<'_, Status> {
        self.ask("status", false, |state, process, data| {
            let (term, length) = data.end();
            let index = u64::try_from(length).unwrap_or(0);
            let leader = match state.etcd.leader(data.cluster) {
                Some(_) if state.etcd.healthy(data.cluster).contains(&data.member) => {
                    state.etcd.leaders.get(&data.cluster).map_or(0, |(member, _)| *member)
                }
                _ => 0,
            };
            let size = |bytes: u64| if bytes == 0 { 20_480 } else { bytes };
            Ok(Status {
                member_id: data.member,
                cluster_id: data.cluster,
                revision: data.revision(),
                term,
                leader,
                raft_index: index,
                applied_index: index,
                is_learner: data.rows.iter().any(|row| row.id == data.member && row.learner),
                version: process.version.clone(),
                db_size: size(data.database.0),
                db_size_in_use: size(data.database.1),
                db_size_quota: 8 << 30,
                errors: data.alarms.iter().map(|(_, kind)| format!("alarm:{kind}")).collect(),
            })
        })
    }

    fn members(&self) -> Answering<'_, Vec<Listed>> {
        self.ask("member list", false, |_, _, data| {
            Ok(data.rows.iter().map(listed).collect())
        })
    }

    fn linearizable(&self) -> Answering<'_, ()> {
        self.ask("linearizable read", false, |state, _, data| {
            match state.etcd.leader(data.cluster) {
                Some(_) if state.etcd.healthy(data.cluster).contains(&data.member) => Ok(()),
                _ => Err(refused("etcdserver: request timed out")),
            }
        })
    }

    fn add(&self, peer_urls: Vec<String>, learner: bool) -> Answering<'_, Listed> {
        self.ask("member add", true, move |state, _, data| {
            let url = peer_urls.first().cloned().unwrap_or_default();
            let made = Row {
                id: crate::etcd::number(&[&url, &state.random.number().to_string()]),
                name: String::new(),
                url,
                learner,
            };
            checks::on_add(state, data, &made);
            let row = made.clone();
            let change = |rows: &mut Vec<Row>| {
                if rows.iter().any(|known| known.url == row.url) {
                    return Err("etcdserver: Peer URLs already exists");
                }
                if row.learner && rows.iter().any(|known| known.learner) {
                    return Err("etcdserver: too many learner members in cluster");
                }
                rows.push(row);
                Ok(())
            };
            state.etcd.configure(data.cluster, change).map_err(refused)?;
            Ok(listed(&made))
        })
    }

    fn promote(&self, id: u64) -> Answering<'_, ()> {
        self.ask("member promote", true, move |state, _, data| {
            let ahead = state.etcd.newest(data.cluster).map_or(0, |newest| newest.log.len());
            let caught_up = state.etcd.processes.values().any(|process| {
                let theirs = state.etcd.data(process);
                theirs.is_some_and(|theirs| theirs.member == id && theirs.log.len() * 10 >= ahead * 9)
            });
            let change = |rows: &mut Vec<Row>| match rows.iter_mut().find(|row| row.id == id) {
                None => Err("etcdserver: member not found"),
                Some(row) if !row.learner => Err("etcdserver: can only promote a learner member"),
                Some(_) if !caught_up => {
                    Err("etcdserver: can only promote a learner member which is in sync with leader")
                }
                Some(row) => {
                    row.learner = false;
                    Ok(())
                }
            };
            state.etcd.configure(data.cluster, change).map_err(refused)
        })
    }

    fn remove(&self, id: u64) -> Answering<'_, ()> {
        self.ask("member remove", true, move |state, _, data| {
            checks::on_remove(state, data, id);
            let change = |rows: &mut Vec<Row>| match rows.iter().position(|row| row.id == id) {
                Some(at) => {
                    rows.remove(at);
                    Ok(())
                }
                None => Err("etcdserver: member not found"),
            };
            state.etcd.configure(data.cluster, change).map_err(refused)?;
            state.etcd.tick();
            Ok(())
        })
    }

    fn update(&self, id: u64, peer_urls: Vec<String>) -> Answering<'_, ()> {
        self.ask("member update", true, move |state, _, data| {
            let change = |rows: &mut Vec<Row>| match rows.iter_mut().find(|row| row.id == id) {
                Some(row) => {
                    row.url = peer_urls.first().cloned().unwrap_or_default();
                    Ok(())
                }
                None => Err("etcdserver: member not found"),
            };
            state.etcd.configure(data.cluster, change).map_err(refused)
        })
    }

    fn move_leader(&self, target: u64) -> Answering<'_, ()> {
        self.ask("move leader", true, move |state, _, data| {
            let leads = state.etcd.leaders.get(&data.cluster).copied();
            let Some((leader, term)) = leads.filter(|(leader, _)| *leader == data.member) else {
                return Err(refused("etcdserver: not leader"));
            };
            if !state.etcd.healthy(data.cluster).contains(&target) || leader == target {
                return Err(refused("etcdserver: leader transferee is not ready"));
            }
            state.etcd.leaders.insert(data.cluster, (target, term + 1));
            state.etcd.append(data.cluster, What::Begin);
            Ok(())
        })
    }

    fn defragment(&self) -> Answering<'_, ()> {
        self.ask("defragment", true, move |state, process, data| {
            checks::on_disruption(state, data, data.member, "defragments");
            let disk = state.etcd.disks.get_mut(&process.disk);
            if let Some(data) = disk.and_then(|disk| disk.data.as_mut()) {
                data.database.0 = data.database.1;
            }
            Ok(())
        })
    }

    fn compact(&self, revision: i64, _: bool) -> Answering<'_, ()> {
        self.ask("compact", true, move |state, _, data| {
            if revision > data.revision() {
                return Err(refused("etcdserver: mvcc: required revision is a future revision"));
            }
            let cluster = data.cluster;
            for data in state.etcd.disks.values_mut().filter_map(|disk| disk.data.as_mut()) {
                if data.cluster == cluster {
                    data.database.1 = data.database.2;
                }
            }
            Ok(())
        })
    }

    fn alarms(&self) -> Answering<'_, Vec<(u64, Alarm)>> {
        self.ask("alarm list", false, |_, _, data| {
            let kind = |word: &str| {
                if word == "corrupt" {
                    Alarm::Corrupt
                } else {
                    Alarm::NoSpace
                }
            };
            Ok(data.alarms.iter().map(|(id, word)| (*id, kind(word))).collect())
        })
    }

    fn disarm(&self, id: u64, alarm: Alarm) -> Answering<'_, ()> {
        self.ask("alarm disarm", true, move |state, _, data| {
            let cluster = data.cluster;
            for data in state.etcd.disks.values_mut().filter_map(|disk| disk.data.as_mut()) {
                if data.cluster == cluster {
                    data.alarms.remove(&(id, kind_of(alarm)));
                }
            }
            Ok(())
        })
    }

    fn hash_kv(&self, revision: i64) -> Answering<'_, HashKv> {
        self.ask("hashkv", false, move |_, _, data| {
            let words: Vec<String> = data.writes().map(|id| id.to_string()).collect();
            let hash = crate::etcd::number(&words.iter().map(String::as_str).collect::<Vec<_>>());
            Ok(HashKv {
                hash: u32::try_from(hash & 0xffff_ffff).unwrap_or(0),
                revision: if revision == 0 { data.revision() } else { revision },
                compact_revision: 0,
            })
        })
    }

    fn count_keys(&self, _: i64) -> Answering<'_, u64> {
        self.ask("count", false, |_, _, data| {
            Ok(u64::try_from(data.writes().count()).unwrap_or(0))
        })
    }

    fn snapshot(&self) -> Answering<'_, SnapshotStreaming> {
        Box::pin(async { Err(refused("backups are taken by pods")) })
    }
}
