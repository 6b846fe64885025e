//! The membership as etcd's old key space (v2) holds it: the data of a `.snap` file.
//!
//! Invariants: nothing of ours reads it back; etcd up to 3.6 does, when it takes over a data dir, so it is the text that etcd 3.7.3
//! writes (etcd server/etcdserver/cluster_util.go, GetMembershipInfoInV2Format), members in the order of their ids.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::membership::{Membership, to_go_json};

/// The slots of the event history; 3.6 counts them modulo this number when it goes on writing.
const HISTORY: usize = 1000;

/// Go's zero time.
const NEVER: &str = "0001-01-01T00:00:00Z";

/// Writes the members, the removed ids and the cluster version.
pub fn membership_json(cluster: &Membership) -> String {
    let mut store = Store::new();
    for member in cluster.members() {
        let dir = format!("/0/members/{:x}", member.id);
        let raft = RaftAttributes {
            peer_urls: &member.peer_urls,
            is_learner: member.is_learner,
        };
        store.write(Action::Create, &format!("{dir}/raftAttributes"), go_json(&raft));
        if !member.client_urls.is_empty() {
            let attributes = Attributes {
                name: &member.name,
                client_urls: &member.client_urls,
            };
            store.write(Action::Set, &format!("{dir}/attributes"), go_json(&attributes));
        }
    }
    for id in cluster.removed() {
        store.write(Action::Create, &format!("/0/removed_members/{id:x}"), String::new());
    }
    if let Some(version) = cluster.version() {
        store.write(Action::Set, "/0/version", version.to_string());
    }
    go_json(&store.finish())
}

fn go_json<T: Serialize>(value: &T) -> String {
    to_go_json(value).expect("strings, numbers and maps by name always have a JSON form")
}

#[derive(Serialize)]
struct RaftAttributes<'a> {
    #[serde(rename = "peerURLs")]
    peer_urls: &'a [String],
    #[serde(rename = "isLearner", skip_serializing_if = "std::ops::Not::not")]
    is_learner: bool,
}

#[derive(Serialize)]
struct Attributes<'a> {
    #[serde(skip_serializing_if = "str::is_empty")]
    name: &'a str,
    #[serde(rename = "clientURLs")]
    client_urls: &'a [String],
}

#[derive(Clone, Copy, Serialize)]
#[serde(rename_all = "lowercase")]
enum Action {
    Create,
    Set,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Document {
    root: Node,
    watcher_hub: WatcherHub,
    current_index: u64,
    stats: Stats,
    current_version: u64,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Node {
    path: String,
    created_index: u64,
    modified_index: u64,
    expire_time: &'static str,
    value: String,
    /// `None` for a leaf.
    children: Option<BTreeMap<String, Node>>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct WatcherHub {
    event_history: EventHistory,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct EventHistory {
    queue: Queue,
    start_index: u64,
    last_index: u64,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Queue {
    events: Vec<Option<Event>>,
    size: usize,
    front: usize,
    back: usize,
    capacity: usize,
}

#[derive(Serialize)]
struct Event {
    action: Action,
    node: EventNode,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct EventNode {
    key: String,
    value: String,
    modified_index: u64,
    created_index: u64,
}

#[derive(Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct Stats {
    gets_success: u64,
    gets_fail: u64,
    sets_success: u64,
    sets_fail: u64,
    delete_success: u64,
    delete_fail: u64,
    update_success: u64,
    update_fail: u64,
    create_success: u64,
    create_fail: u64,
    compare_and_swap_success: u64,
    compare_and_swap_fail: u64,
    compare_and_delete_success: u64,
    compare_and_delete_fail: u64,
    expire_count: u64,
    watchers: u64,
}

/// The old store, as far as it takes to write membership into an empty one.
struct Store {
    root: Node,
    index: u64,
    queue: Queue,
    stats: Stats,
}

impl Store {
    fn new() -> Store {
        let mut root = dir("/", 0);
        let spaces = ["0", "1"].map(|name| (name.to_owned(), dir(&format!("/{name}"), 0)));
        root.children = Some(BTreeMap::from(spaces));
        let events = (0..HISTORY).map(|_| None).collect();
        let queue = Queue {
            events,
            size: 0,
            front: 0,
            back: 0,
            capacity: HISTORY,
        };
        // etcd first looks whether the store is empty, which counts as a read that found nothing.
        let stats = Stats {
            gets_fail: 1,
            ..Stats::default()
        };
        Store {
            root,
            index: 0,
            queue,
            stats,
        }
    }

    fn write(&mut self, action: Action, path: &str, value: String) {
        self.index += 1;
        let index = self.index;
        let mut at = &mut self.root;
        let (parents, name) = path.rsplit_once('/').unwrap_or(("", path));
        let mut so_far = String::new();
        for part in parents.split('/').filter(|part| !part.is_empty()) {
            so_far = format!("{so_far}/{part}");
            let children = at.children.get_or_insert_default();
            at = children.entry(part.to_owned()).or_insert_with(|| dir(&so_far, index));
        }
        let leaf = Node {
            value: value.clone(),
            children: None,
            ..dir(path, index)
        };
        at.children.get_or_insert_default().insert(name.to_owned(), leaf);
        match action {
            Action::Create => self.stats.create_success += 1,
            Action::Set => self.stats.sets_success += 1,
        }
        let node = EventNode {
            key: path.to_owned(),
            value,
            modified_index: index,
            created_index: index,
        };
        self.queue.push(Event { action, node });
    }

    fn finish(self) -> Document {
        let oldest = self.queue.events[self.queue.front].as_ref();
        let event_history = EventHistory {
            start_index: oldest.map_or(0, |event| event.node.modified_index),
            last_index: self.index,
            queue: self.queue,
        };
        Document {
            root: self.root,
            watcher_hub: WatcherHub { event_history },
            current_index: self.index,
            stats: self.stats,
            current_version: 2,
        }
    }
}

impl Queue {
    fn push(&mut self, event: Event) {
        self.events[self.back] = Some(event);
        self.back = (self.back + 1) % HISTORY;
        if self.size == HISTORY {
            self.front = (self.front + 1) % HISTORY;
        } else {
            self.size += 1;
        }
    }
}

fn dir(path: &str, index: u64) -> Node {
    Node {
        path: path.to_owned(),
        created_index: index,
        modified_index: index,
        expire_time: NEVER,
        value: String::new(),
        children: Some(BTreeMap::new()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::membership::{Change, Member};

    fn member(id: u64) -> Member {
        Member {
            id,
            peer_urls: vec![format!("http://h{id}:1")],
            ..Member::default()
        }
    }

    /// The beginning, the history's end and the tail of what etcdutl 3.7.3 wrote for one unstarted member of this id.
    #[test]
    fn a_fresh_member_reads_as_etcdutl_writes_it() {
        let mut cluster = Membership::new(1);
        let id = 0x2e12_59d4_15f2_a040;
        cluster.carry_out(Change::Add(Member {
            peer_urls: vec!["http://127.0.0.1:23800".into()],
            ..member(id)
        }));
        let text = membership_json(&cluster);
        let begin = concat!(
            r#"{"Root":{"Path":"/","CreatedIndex":0,"ModifiedIndex":0,~{"#,
            r#""0":{"Path":"/0","CreatedIndex":0,"ModifiedIndex":0,~{"#,
            r#""members":{"Path":"/0/members","CreatedIndex":1,"ModifiedIndex":1,~{"#,
            r#""2e1259d415f2a040":{"Path":"/0/members/2e1259d415f2a040","CreatedIndex":1,"ModifiedIndex":1,~{"#,
            r#""raftAttributes":{"Path":"/0/members/2e1259d415f2a040/raftAttributes","CreatedIndex":1,"ModifiedIndex":1,"#,
            r#""ExpireTime":"0001-01-01T00:00:00Z","Value":"{\"peerURLs\":[\"http://127.0.0.1:23800\"]}","Children":null}}}}}}},"#,
            r#""1":{"Path":"/1","CreatedIndex":0,"ModifiedIndex":0,~{}}}},"#,
            r#""WatcherHub":{"EventHistory":{"Queue":{"Events":[{"action":"create","node":{"#,
            r#""key":"/0/members/2e1259d415f2a040/raftAttributes","value":"{\"peerURLs\":[\"http://127.0.0.1:23800\"]}","#,
            r#""modifiedIndex":1,"createdIndex":1}},null,"#,
        )
        .replace('~', r#""ExpireTime":"0001-01-01T00:00:00Z","Value":"","Children":"#);
        assert_eq!(&text[..begin.len()], begin);
        let end = concat!(
            r#"null,null],"Size":1,"Front":0,"Back":1,"Capacity":1000},"StartIndex":1,"LastIndex":1}},"CurrentIndex":1,"#,
            r#""Stats":{"getsSuccess":0,"getsFail":1,"setsSuccess":0,"setsFail":0,"deleteSuccess":0,"deleteFail":0,"#,
            r#""updateSuccess":0,"updateFail":0,"createSuccess":1,"createFail":0,"compareAndSwapSuccess":0,"#,
            r#""compareAndSwapFail":0,"compareAndDeleteSuccess":0,"compareAndDeleteFail":0,"expireCount":0,"#,
            r#""watchers":0},"CurrentVersion":2}"#,
        );
        assert_eq!(&text[text.len() - end.len()..], end);
        assert_eq!(text.matches("null").count(), 999 + 1);
    }

    #[test]
    fn all_that_is_known_of_the_cluster_is_in_it() {
        let mut cluster = Membership::new(1);
        cluster.carry_out(Change::Add(Member {
            is_learner: true,
            ..member(1)
        }));
        cluster.carry_out(Change::Add(Member {
            name: "b&".into(),
            client_urls: vec!["http://c:1".into()],
            ..member(2)
        }));
        cluster.carry_out(Change::Add(member(3)));
        cluster.carry_out(Change::Remove(3));
        cluster.set_version(crate::version::Version::new(3, 7, 0));
        let value: serde_json::Value = serde_json::from_str(&membership_json(&cluster)).unwrap();
        let at = |path: &str| {
            value
                .pointer(&format!("/Root/Children/0/Children/{path}/Value"))
                .unwrap()
                .as_str()
                .unwrap()
        };
        assert_eq!(
            at("members/Children/1/Children/raftAttributes"),
            r#"{"peerURLs":["http://h1:1"],"isLearner":true}"#
        );
        assert_eq!(
            at("members/Children/2/Children/attributes"),
            r#"{"name":"b\u0026","clientURLs":["http://c:1"]}"#
        );
        assert_eq!(at("removed_members/Children/3"), "");
        assert_eq!(at("version"), "3.7.0");
        assert_eq!(value["Stats"]["createSuccess"], 3);
        assert_eq!(value["Stats"]["setsSuccess"], 2);
    }

    #[test]
    fn the_history_keeps_the_newest_thousand() {
        let mut cluster = Membership::new(1);
        for id in 1..=1200 {
            cluster.carry_out(Change::Remove(id));
        }
        let value: serde_json::Value = serde_json::from_str(&membership_json(&cluster)).unwrap();
        let history = &value["WatcherHub"]["EventHistory"];
        assert_eq!(
            (history["StartIndex"].as_u64(), history["LastIndex"].as_u64()),
            (Some(201), Some(1200))
        );
        assert_eq!(history["Queue"]["Events"].as_array().unwrap().len(), 1000);
    }
}
