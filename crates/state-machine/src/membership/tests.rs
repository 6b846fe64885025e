//! Member and cluster ids, and changes that are refused.

use super::*;

fn member(id: u64, url: &str) -> Member {
    Member {
        id,
        peer_urls: vec![url.to_owned()],
        name: format!("m{id}"),
        ..Member::default()
    }
}

fn cluster(members: &[Member]) -> Membership {
    let mut cluster = Membership::new(1);
    for member in members {
        cluster.carry_out(Change::Add(member.clone()));
    }
    cluster
}

fn change(kind: ConfChangeType, node_id: u64, context: String) -> ConfChange {
    ConfChange {
        r#type: kind as i32,
        node_id,
        context: context.into(),
        id: 0,
    }
}

fn add(member: &Member, is_promote: bool) -> ConfChange {
    let context = ChangeContext {
        member: member.clone(),
        is_promote,
    }
    .to_json();
    let kind = match member.is_learner && !is_promote {
        true => ConfChangeType::ConfChangeAddLearnerNode,
        false => ConfChangeType::ConfChangeAddNode,
    };
    change(kind, member.id, context)
}

/// Ids of a real cluster: etcd 3.7.3 printed them for these flags.
#[test]
fn ids_are_etcds() {
    let url = vec!["http://localhost:2380".to_owned()];
    // `etcd` without flags: name default, token etcd-cluster.
    let id = member_id(&url, "etcd-cluster", None);
    assert_eq!(format!("{id:x}"), "8e9e05c52164694d");
    assert_eq!(format!("{:x}", cluster_id([id])), "cdf818194e3a8c32");
    // URLs are sorted before they are hashed, and the time tells members apart that come and go at one address.
    let two = ["http://a:1".to_owned(), "http://b:1".to_owned()];
    let reversed = [two[1].clone(), two[0].clone()];
    assert_eq!(member_id(&two, "", Some(1)), member_id(&reversed, "", Some(1)));
    assert_ne!(member_id(&two, "", Some(1)), member_id(&two, "", Some(2)));
    assert_eq!(cluster_id([1, 2, 3]), cluster_id([3, 1, 2]));
}

#[test]
fn json_is_gos() {
    let learner = Member {
        is_learner: true,
        name: String::new(),
        ..member(9, "http://a:1")
    };
    assert_eq!(
        learner.to_json(),
        r#"{"id":9,"peerURLs":["http://a:1"],"isLearner":true}"#
    );
    let started = Member {
        name: "a<b>&c".into(),
        client_urls: vec!["http://a:2".into()],
        ..member(9, "http://a:1")
    };
    let text = r#"{"id":9,"peerURLs":["http://a:1"],"name":"a\u003cb\u003e\u0026c","clientURLs":["http://a:2"]}"#;
    assert_eq!(started.to_json(), text);
    assert_eq!(serde_json::from_str::<Member>(text).unwrap(), started);
    let context = ChangeContext {
        member: started,
        is_promote: true,
    }
    .to_json();
    assert!(
        context.ends_with(r#""clientURLs":["http://a:2"],"isPromote":true}"#),
        "{context}"
    );
    // An update carries a member; unknown fields and null lists are no error.
    let odd = r#"{"id":18446744073709551615,"peerURLs":null,"clientURLs":null,"isPromote":false,"new":1}"#;
    assert_eq!(serde_json::from_str::<ChangeContext>(odd).unwrap().member.id, u64::MAX);
}

#[test]
fn invalid_changes_are_refused_with_etcds_reasons() {
    let (a, b) = (member(1, "http://a:1"), member(2, "http://b:1"));
    let learner = Member {
        is_learner: true,
        ..member(3, "http://c:1")
    };
    let mut cluster = cluster(&[a.clone(), b.clone(), learner.clone()]);
    cluster.carry_out(Change::Add(member(9, "http://i:1")));
    cluster.carry_out(Change::Remove(9));
    let refusal = |change: ConfChange| cluster.validate(&change).unwrap().unwrap_err();
    assert_eq!(refusal(add(&a, false)), Error::MemberExists);
    assert_eq!(refusal(add(&member(4, "http://b:1"), false)), Error::PeerUrlExists);
    assert_eq!(
        refusal(add(
            &Member {
                is_learner: true,
                ..member(4, "http://d:1")
            },
            false
        )),
        Error::TooManyLearners
    );
    assert_eq!(refusal(add(&a, true)), Error::MemberNotLearner);
    assert_eq!(refusal(add(&member(4, "http://d:1"), true)), Error::MemberNotFound);
    assert_eq!(refusal(add(&member(9, "http://j:1"), false)), Error::MemberNotFound);
    // A removed id is refused before its context is read.
    let remove = ConfChangeType::ConfChangeRemoveNode;
    assert_eq!(refusal(change(remove, 9, "not json".into())), Error::MemberNotFound);
    assert_eq!(refusal(change(remove, 8, String::new())), Error::MemberNotFound);
    let update = ConfChangeType::ConfChangeUpdateNode;
    assert_eq!(
        refusal(change(update, 1, member(1, "http://b:1").to_json())),
        Error::PeerUrlExists
    );
    assert_eq!(
        refusal(change(update, 8, member(8, "http://x:1").to_json())),
        Error::MemberNotFound
    );
    // A voter may be added while there are as many learners as may be, and a member may keep its own URL.
    assert!(cluster.validate(&add(&member(4, "http://d:1"), false)).unwrap().is_ok());
    assert!(cluster.validate(&change(update, 1, a.to_json())).unwrap().is_ok());
}

#[test]
fn changes_that_nobody_can_apply_are_named() {
    let cluster = cluster(&[member(1, "http://a:1")]);
    let broken = change(ConfChangeType::ConfChangeAddNode, 5, "{".into());
    assert!(matches!(
        cluster.validate(&broken),
        Err(BadChange::Context { node_id: 5, .. })
    ));
    let other = change(ConfChangeType::ConfChangeAddNode, 5, member(6, "http://f:1").to_json());
    assert_eq!(
        cluster.validate(&other),
        Err(BadChange::OtherMember {
            node_id: 5,
            context_id: 6
        })
    );
    let unknown = ConfChange {
        r#type: 7,
        node_id: 5,
        ..ConfChange::default()
    };
    assert_eq!(cluster.validate(&unknown), Err(BadChange::Kind { node_id: 5, kind: 7 }));
}

/// reliability H49: an update of URLs must not touch the role.
#[test]
fn an_update_changes_urls_only() {
    let learner = Member {
        is_learner: true,
        client_urls: vec!["http://c:2".into()],
        ..member(3, "http://c:1")
    };
    let mut cluster = cluster(&[member(1, "http://a:1"), learner]);
    let update = change(
        ConfChangeType::ConfChangeUpdateNode,
        3,
        r#"{"id":3,"peerURLs":["http://c:9"]}"#.into(),
    );
    let change = cluster.validate(&update).unwrap().unwrap();
    let stored = cluster.carry_out(change).unwrap();
    assert!(stored.is_learner);
    assert_eq!(
        (stored.name.as_str(), stored.peer_urls),
        ("m3", vec!["http://c:9".to_owned()])
    );
    assert_eq!(stored.client_urls, vec!["http://c:2".to_owned()]);
}

/// reliability H48: every prefix of a history of members can be stored, loaded and continued.
#[test]
fn every_prefix_of_a_history_can_be_recovered() {
    let learner = Member {
        is_learner: true,
        ..member(2, "http://b:1")
    };
    let second = Member {
        is_learner: true,
        ..member(3, "http://c:1")
    };
    let history = [
        Change::Add(member(1, "http://a:1")),
        Change::Add(learner),
        Change::Promote(2),
        Change::Remove(2),
        Change::Add(second),
        Change::Promote(3),
        Change::Remove(3),
    ];
    let (mut stored, mut removed) = (BTreeMap::new(), Vec::new());
    let mut cluster = Membership::new(1);
    for change in history {
        let gone = match &change {
            Change::Remove(id) => Some(*id),
            _ => None,
        };
        match cluster.carry_out(change) {
            Some(member) => {
                stored.insert(member_key(member.id), Bytes::from(member.to_json()));
            }
            None => {
                let key = member_key(gone.unwrap());
                stored.remove(&key);
                removed.push((key, Bytes::from_static(REMOVED)));
            }
        }
        let members: Vec<_> = stored.clone().into_iter().collect();
        let again = Membership::recover(1, &members, &removed, None, None).unwrap();
        assert_eq!(again, cluster);
    }
}

#[test]
fn what_cannot_be_read_is_named() {
    let bad = |key: &'static str, value: &'static str| [(Bytes::from(key), Bytes::from(value))];
    let error = Membership::recover(1, &bad("xyz", "{}"), &[], None, None).unwrap_err();
    assert!(
        error.to_string().contains("members") && error.to_string().contains("xyz"),
        "{error}"
    );
    assert!(Membership::recover(1, &bad("1", "{"), &[], None, None).is_err());
    assert!(Membership::recover(1, &bad("1", r#"{"id":2}"#), &[], None, None).is_err());
    assert!(Membership::recover(1, &[], &bad("-", ""), None, None).is_err());
    assert!(Membership::recover(1, &[], &[], Some(b"3"), None).is_err());
    assert!(Membership::recover(1, &[], &[], None, Some(br#"{"target-version":"x","enabled":true}"#)).is_err());
    assert!(Membership::recover(1, &[], &[], None, Some(br#"{"target-version":"","enabled":false}"#)).is_ok());
}

/// reliability H50: etcd's table of strict reconfiguration checks.
#[test]
fn a_quorum_must_have_started_before_members_change() {
    let build = |started: u64, fresh: u64| {
        let all: Vec<Member> = (1..=started + fresh)
            .map(|id| {
                let mut member = member(id, &format!("http://m{id}:1"));
                if id > started {
                    member.name.clear();
                }
                member
            })
            .collect();
        cluster(&all)
    };
    for (started, fresh, add, promote) in [
        (1, 0, true, true),
        (0, 1, false, false),
        (2, 0, true, true),
        (1, 1, false, true),
        (1, 2, false, false),
        (2, 1, false, true),
        (3, 0, true, true),
        (3, 1, true, true),
        (2, 2, false, true),
    ] {
        assert_eq!(
            build(started, fresh).ready_to_add_voter(),
            add,
            "add to {started}+{fresh}"
        );
        assert_eq!(
            build(started, fresh).ready_to_promote(),
            promote,
            "promote in {started}+{fresh}"
        );
    }
    assert!(!build(2, 1).ready_to_remove_voter(1), "one started of two is no quorum");
    assert!(build(2, 1).ready_to_remove_voter(3));
    assert!(build(3, 0).ready_to_remove_voter(1));
    assert!(!build(1, 1).ready_to_remove_voter(1));
}

#[test]
fn urls_are_checked_and_sorted() {
    assert_eq!(
        parse_urls(&["http://b:1", " HTTPS://a:1 "]).unwrap(),
        ["http://b:1", "https://a:1"]
    );
    assert_eq!(parse_urls(&["http://[::1]:2380"]).unwrap(), ["http://[::1]:2380"]);
    assert_eq!(parse_urls::<&str>(&[]), Err(BadUrls::None));
    assert!(matches!(parse_urls(&["a:1"]), Err(BadUrls::NotAUrl(_))));
    assert!(matches!(parse_urls(&["ftp://a:1"]), Err(BadUrls::Scheme(_))));
    assert!(matches!(parse_urls(&["http://a"]), Err(BadUrls::HostPort(_))));
    assert!(matches!(parse_urls(&["http://::1:1"]), Err(BadUrls::HostPort(_))));
    assert!(matches!(parse_urls(&["http://a:1/x"]), Err(BadUrls::Path(_))));
    let map = parse_initial_cluster("a=http://a:1,b=http://b:1,a=http://a:0").unwrap();
    assert_eq!(map["a"], ["http://a:0", "http://a:1"]);
    assert_eq!(map.len(), 2);
}
