//! The command line of a member: etcd's flags, nothing else, so that any etcd-compatible server can be the child.
//!
//! Pure. Invariant: `--data-dir=<absolute path>` is one argument of its own; a process is found again by it.

use super::ports::Ports;
use super::records::Layout;
use crate::plan::Wanted;
use crate::plan::resources::member_flags;
use crate::plan::step::Start;

/// Where clients reach a member.
pub fn client_url(wanted: &Wanted, ports: &Ports) -> String {
    url(wanted.tls.client.is_some(), ports.client)
}

/// Where peers reach a member.
pub fn peer_url(wanted: &Wanted, ports: &Ports) -> String {
    url(wanted.tls.peer.is_some(), ports.peer)
}

fn url(tls: bool, port: u16) -> String {
    format!("{}://127.0.0.1:{port}", if tls { "https" } else { "http" })
}

/// The argument by which a member's process is known.
pub fn marker(layout: &Layout, name: &str) -> String {
    format!("--data-dir={}", layout.of(name, "data").display())
}

/// All arguments of a member.
pub fn arguments(wanted: &Wanted, layout: &Layout, name: &str, ports: &Ports, start: &Start) -> Vec<String> {
    let client = client_url(wanted, ports);
    let peer = peer_url(wanted, ports);
    let mut all = vec![
        format!("--name={name}"),
        marker(layout, name),
        format!("--listen-client-urls={client}"),
        format!("--advertise-client-urls={client}"),
        format!("--listen-peer-urls={peer}"),
        format!("--initial-advertise-peer-urls={peer}"),
        format!("--listen-metrics-urls=http://127.0.0.1:{}", ports.metrics),
    ];
    let mut initial = |members: &[(String, String)], state: &str| {
        let list: Vec<String> = members.iter().map(|(name, url)| format!("{name}={url}")).collect();
        all.push(format!("--initial-cluster={}", list.join(",")));
        all.push(format!("--initial-cluster-state={state}"));
    };
    match start {
        Start::New { initial_cluster, token } => {
            initial(initial_cluster, "new");
            all.push(format!("--initial-cluster-token={token}"));
        }
        Start::Join { initial_cluster } => initial(initial_cluster, "existing"),
        // What the data says counts; the flag is only read when there is no data, and then it must not begin a new
        // cluster (etcd server/etcdserver/bootstrap.go, bootstrapCluster).
        Start::Resume => initial(&[(name.to_owned(), peer.clone())], "existing"),
    }
    let file = |file: &str| layout.of(name, "tls").join(file).display().to_string();
    if wanted.tls.client.is_some() {
        all.push(format!("--cert-file={}", file("server.crt")));
        all.push(format!("--key-file={}", file("server.key")));
        if wanted.tls.client_cert_auth {
            all.push(format!("--trusted-ca-file={}", file("client-ca.crt")));
            all.push("--client-cert-auth=true".to_owned());
        }
    }
    if wanted.tls.peer.is_some() {
        all.push(format!("--peer-cert-file={}", file("peer.crt")));
        all.push(format!("--peer-key-file={}", file("peer.key")));
        all.push(format!("--peer-trusted-ca-file={}", file("peer-ca.crt")));
        all.push("--peer-client-cert-auth=true".to_owned());
    }
    all.extend(
        member_flags(wanted)
            .into_iter()
            .map(|(flag, value)| format!("--{flag}={value}")),
    );
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn a_resumed_member_never_says_new_and_a_plain_one_has_no_tls() {
        let layout = Layout::new(Path::new("/d"), "demo");
        let ports = Ports {
            client: 10,
            peer: 11,
            metrics: 12,
        };
        let mut wanted = Wanted::new("demo", "u", 3);
        let secure = arguments(&wanted, &layout, "demo-a", &ports, &Start::Resume);
        assert!(secure.contains(&"--data-dir=/d/demo/members/demo-a/data".to_owned()));
        assert!(secure.contains(&"--initial-cluster-state=existing".to_owned()));
        assert!(secure.contains(&"--listen-peer-urls=https://127.0.0.1:11".to_owned()));
        assert!(secure.contains(&"--peer-trusted-ca-file=/d/demo/members/demo-a/tls/peer-ca.crt".to_owned()));
        (wanted.tls.client, wanted.tls.peer) = (None, None);
        let members = vec![("demo-a".to_owned(), "http://127.0.0.1:11".to_owned())];
        let start = Start::New {
            initial_cluster: members,
            token: "u".to_owned(),
        };
        let plain = arguments(&wanted, &layout, "demo-a", &ports, &start);
        assert!(plain.contains(&"--initial-cluster=demo-a=http://127.0.0.1:11".to_owned()));
        assert!(plain.contains(&"--initial-cluster-state=new".to_owned()));
        assert!(
            !plain
                .iter()
                .any(|argument| argument.contains("https") || argument.contains("-ca-file"))
        );
    }
}
