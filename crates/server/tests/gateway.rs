//! The JSON gateway over plain HTTP: the same calls, the same rights.

mod booted;

use booted::boot;
use serde_json::{Value, json};

fn parsed(body: &str) -> Value {
    serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}: {body}"))
}

/// The body of a chunked answer.
fn unchunked(body: &str) -> String {
    let mut rest = body;
    let mut whole = String::new();
    while let Some((len, after)) = rest.split_once("\r\n") {
        let len = usize::from_str_radix(len.trim(), 16).unwrap_or(0);
        if len == 0 {
            break;
        }
        whole.push_str(&after[..len]);
        rest = &after[len + 2..];
    }
    whole
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn json_calls_are_grpc_calls() {
    let dir = tempfile::tempdir().unwrap();
    let member = boot(dir.path(), |_| {}).await;
    let (status, body) = member.post("/v3/kv/put", "", r#"{"key":"Zm9v","value":"YmFy"}"#).await;
    assert_eq!((status, &parsed(&body)["header"]["revision"]), (200, &json!("2")));
    let (status, body) = member
        .post("/v3beta/kv/range", "", r#"{"key":"Zm9v","unknown":[1]}"#)
        .await;
    let answer = parsed(&body);
    assert_eq!(status, 200);
    assert_eq!(answer["kvs"][0]["value"], "YmFy");
    assert_eq!((&answer["count"], &answer["more"]), (&json!("1"), &Value::Null));
    assert!(
        body.contains(", \"") && !body.contains("\": "),
        "spaces as etcd's: {body}"
    );
    // An empty body is the empty message.
    let (status, body) = member.post("/v3/cluster/member/list", "", "").await;
    assert_eq!((status, &parsed(&body)["members"][0]["name"]), (200, &json!("m")));
    for alias in ["/v3/lease/leases", "/v3/kv/lease/leases"] {
        assert_eq!(member.post(alias, "", "{}").await.0, 200, "{alias}");
    }
    let (status, body) = member.post("/v3/kv/range", "", "{}").await;
    assert_eq!(
        (status, parsed(&body)),
        (400, json!({"code": 3, "message": "etcdserver: key is not provided"}))
    );
    let (status, body) = member.post("/v3/lease/revoke", "", r#"{"ID":"7"}"#).await;
    assert_eq!(
        (status, parsed(&body)),
        (
            404,
            json!({"code": 5, "message": "etcdserver: requested lease not found"})
        )
    );
    let (status, body) = member.post("/v3/kv/put", "", "{nonsense").await;
    assert_eq!((status, &parsed(&body)["code"]), (400, &json!(3)));
    let (status, body) = member.post("/v3/nothing", "", "{}").await;
    assert_eq!(
        (status, parsed(&body)),
        (404, json!({"code": 5, "message": "Not Found"}))
    );
    let (status, body) = member.http("GET", "/v3/kv/range", "", "").await;
    assert_eq!(
        (status, parsed(&body)),
        (501, json!({"code": 12, "message": "Method Not Allowed"}))
    );
    assert_eq!(member.post("/v3alpha/kv/range", "", "{}").await.0, 404);
    assert_eq!(
        member
            .http("OPTIONS", "/v3/kv/range", "Origin: http://x\r\n", "")
            .await
            .0,
        200
    );
    member.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_are_lines_as_they_come() {
    use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
    let dir = tempfile::tempdir().unwrap();
    let member = boot(dir.path(), |_| {}).await;
    let mut socket = tokio::net::TcpStream::connect(("127.0.0.1", member.port))
        .await
        .unwrap();
    let create = r#"{"create_request":{"key":"YQ=="}}"#;
    let head = format!(
        "POST /v3/watch HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n{create}",
        create.len()
    );
    socket.write_all(head.as_bytes()).await.unwrap();
    let mut lines = BufReader::new(socket).lines();
    let mut next = async || loop {
        let line = tokio::time::timeout(booted::PATIENCE, lines.next_line())
            .await
            .unwrap()
            .unwrap()
            .unwrap();
        if line.starts_with('{') {
            return parsed(&line);
        }
    };
    assert_eq!(next().await["result"]["created"], true);
    member.post("/v3/kv/put", "", r#"{"key":"YQ==","value":"YQ=="}"#).await;
    assert_eq!(next().await["result"]["events"][0]["kv"]["value"], "YQ==");
    // A stream that fails at once says so in its status.
    let (status, body) = member
        .post("/v3/watch", "Grpc-Metadata-Client-Api-Version: 3.7\r\n", "x")
        .await;
    let answer = parsed(unchunked(&body).lines().next().unwrap_or(&body));
    assert!(status >= 400 && answer.get("error").is_some(), "{status} {answer}");
    let (status, body) = member.post("/v3/maintenance/snapshot", "", "{}").await;
    let whole = unchunked(&body);
    assert_eq!(status, 200);
    let bytes: usize = whole
        .lines()
        .map(|line| parsed(line)["result"]["blob"].as_str().map_or(0, str::len))
        .sum();
    assert!(bytes > 20_000, "{bytes} characters of base64");
    let (_, body) = member.post("/v3/lease/grant", "", r#"{"TTL":60}"#).await;
    let id = parsed(&body)["ID"].clone();
    let (status, body) = member
        .post("/v3/lease/keepalive", "", &json!({ "ID": id }).to_string())
        .await;
    let line = parsed(unchunked(&body).lines().next().unwrap());
    assert_eq!((status, &line["result"]["TTL"]), (200, &json!("60")));
    member.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rights_hold_for_json_too() {
    let dir = tempfile::tempdir().unwrap();
    let member = boot(dir.path(), |_| {}).await;
    for (path, body) in [
        ("/v3/auth/user/add", r#"{"name":"root","password":"pass"}"#),
        ("/v3/auth/user/grant", r#"{"user":"root","role":"root"}"#),
        ("/v3/auth/enable", "{}"),
    ] {
        let (status, answer) = member.post(path, "", body).await;
        assert_eq!(status, 200, "{path}: {answer}");
    }
    let (status, body) = member.post("/v3/kv/put", "", r#"{"key":"YQ=="}"#).await;
    assert_eq!(
        (status, parsed(&body)),
        (400, json!({"code": 3, "message": "etcdserver: user name is empty"}))
    );
    let (status, body) = member
        .post("/v3/kv/put", "Authorization: x.1\r\n", r#"{"key":"YQ=="}"#)
        .await;
    assert_eq!(
        (status, &parsed(&body)["message"]),
        (401, &json!("etcdserver: invalid auth token"))
    );
    let (_, body) = member
        .post("/v3/auth/authenticate", "", r#"{"name":"root","password":"pass"}"#)
        .await;
    let token = parsed(&body)["token"].as_str().unwrap().to_owned();
    let header = format!("Authorization: {token}\r\n");
    assert_eq!(member.post("/v3/kv/put", &header, r#"{"key":"YQ=="}"#).await.0, 200);
    // Every route, with a body that asks for nothing special, by nobody: not one is answered.
    let mut refused = 0;
    for path in [
        "kv/range",
        "kv/put",
        "kv/deleterange",
        "kv/compaction",
        "lease/grant",
        "lease/revoke",
        "lease/timetolive",
        "lease/leases",
        "cluster/member/add",
        "cluster/member/remove",
        "cluster/member/update",
        "cluster/member/list",
        "cluster/member/promote",
        "maintenance/alarm",
        "maintenance/status",
        "maintenance/defragment",
        "maintenance/hash",
        "maintenance/hashkv",
        "maintenance/snapshot",
        "maintenance/transfer-leadership",
        "maintenance/downgrade",
        "auth/enable",
        "auth/disable",
        "auth/user/add",
        "auth/user/get",
        "auth/user/list",
        "auth/user/delete",
        "auth/user/changepw",
        "auth/user/grant",
        "auth/user/revoke",
        "auth/role/add",
        "auth/role/get",
        "auth/role/list",
        "auth/role/delete",
        "auth/role/grant",
        "auth/role/revoke",
        "lock/lock",
        "lock/unlock",
        "election/campaign",
        "election/proclaim",
        "election/leader",
        "election/resign",
    ] {
        let body = r#"{"key":"YQ==","name":"YQ==","value":"YQ==","leader":{"key":"YQ==","name":"YQ=="}}"#;
        let body = if path.starts_with("auth/") {
            r#"{"name":"a","user":"a","role":"a"}"#
        } else {
            body
        };
        let (status, answer) = member.post(&format!("/v3/{path}"), "", body).await;
        let answer = parsed(&answer);
        let message = answer["message"].as_str().or(answer["error"]["message"].as_str());
        assert_eq!(
            message,
            Some("etcdserver: user name is empty"),
            "{path}: {status} {answer}"
        );
        refused += 1;
    }
    println!("{refused} routes");
    member.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_gateway_can_be_switched_off() {
    let dir = tempfile::tempdir().unwrap();
    let member = boot(dir.path(), |config| config.enable_grpc_gateway = false).await;
    assert_eq!(member.post("/v3/kv/range", "", r#"{"key":"YQ=="}"#).await.0, 404);
    member.stop().await;
}

/// Who connects and says nothing is cut off after 5 s; who speaks HTTP/2 may be silent for as long as they like.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_open_connections_do_not_stay() {
    use proto::etcdserverpb::RangeRequest;
    use proto::etcdserverpb::kv_client::KvClient;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let dir = tempfile::tempdir().unwrap();
    let member = boot(dir.path(), |_| {}).await;
    let mut ends = Vec::new();
    for sent in ["", "PRI", "POST /v3/kv/range HTTP/1.1\r\nHost: x\r\n"] {
        let mut socket = tokio::net::TcpStream::connect(("127.0.0.1", member.port))
            .await
            .unwrap();
        socket.write_all(sent.as_bytes()).await.unwrap();
        ends.push(async move {
            let mut rest = Vec::new();
            // An end or a reset, as the system likes it.
            socket.read_to_end(&mut rest).await.ok();
        });
    }
    for end in ends {
        tokio::time::timeout(booted::PATIENCE, end).await.unwrap();
    }
    // The fixture's own channel has not made a call yet.
    let range = RangeRequest {
        key: "a".into(),
        ..RangeRequest::default()
    };
    KvClient::new(member.channel.clone()).range(range).await.unwrap();
    member.stop().await;
}
