//! Sockets as users name them, and what happens when they cannot be had.

use super::*;
use crate::config::Url;

fn url(text: &str) -> Url {
    Url::parse(text).unwrap()
}

fn bind_to(text: &str) -> Result<Listener, BindError> {
    Listener::bind("listen-client-urls", &url(text), SocketOptions::default())
}

#[tokio::test]
async fn an_ipv4_wildcard_also_answers_on_ipv6() {
    let listener = bind_to("http://0.0.0.0:0").unwrap();
    let port = listener.port().unwrap();
    tokio::net::TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    match std::net::TcpListener::bind("[::1]:0") {
        Ok(_) => drop(tokio::net::TcpStream::connect(("::1", port)).await.unwrap()),
        Err(error) => println!("skipped: no IPv6 here ({error})"),
    }
}

#[tokio::test]
async fn localhost_is_ipv4_first() {
    let listener = bind_to("http://localhost:0").unwrap();
    assert!(listener.address().starts_with("127.0.0.1:"), "{}", listener.address());
}

#[tokio::test]
async fn a_busy_port_names_flag_url_and_remedy() {
    let first = bind_to("http://127.0.0.1:0").unwrap();
    let taken = format!("http://127.0.0.1:{}", first.port().unwrap());
    let error = bind_to(&taken).unwrap_err().to_string();
    assert!(
        error.contains("--listen-client-urls") && error.contains(&taken) && error.contains("another process"),
        "{error}"
    );
}

#[tokio::test]
async fn a_left_behind_unix_socket_is_replaced_but_a_live_one_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let path = format!("unix://{}", dir.path().join("a.sock").display());
    let live = bind_to(&path).unwrap();
    assert_eq!(bind_to(&path).unwrap_err().why.kind(), io::ErrorKind::AddrInUse);
    drop(live);
    let file = dir.path().join("a.sock");
    drop(std::os::unix::net::UnixListener::bind(&file).unwrap());
    assert!(file.exists(), "the standard listener leaves its file");
    bind_to(&path).unwrap();
}
