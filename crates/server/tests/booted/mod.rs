//! A member in this process, for tests that drive it over its sockets.

use std::path::Path;
use std::time::Duration;

use server::config::{Config, Url};
use server::start::{Running, start};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tonic::transport::Channel;
use tonic::{Code, Request, Status};

/// More than any step takes on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

pub struct Booted {
    pub running: Running,
    pub channel: Channel,
    pub port: u16,
}

pub async fn boot(dir: &Path, adjust: impl FnOnce(&mut Config)) -> Booted {
    let url = |text: &str| vec![Url::parse(text).unwrap()];
    let mut config = Config {
        name: "m".into(),
        data_dir: dir.to_owned(),
        listen_peer_urls: url("http://127.0.0.1:0"),
        initial_advertise_peer_urls: url("http://127.0.0.1:0"),
        listen_client_urls: url("http://127.0.0.1:0"),
        advertise_client_urls: url("http://127.0.0.1:1"),
        initial_cluster: "m=http://127.0.0.1:0".into(),
        bcrypt_cost: 4,
        ..Config::default()
    };
    adjust(&mut config);
    let mut running = start(config).await.unwrap();
    assert!(tokio::time::timeout(PATIENCE, running.ready()).await.unwrap());
    let port = running.client_ports()[0];
    let channel = Channel::from_shared(format!("http://127.0.0.1:{port}"))
        .unwrap()
        .connect()
        .await
        .unwrap();
    Booted { running, channel, port }
}

impl Booted {
    pub async fn stop(self) {
        let Booted { running, channel, .. } = self;
        drop(channel);
        tokio::time::timeout(PATIENCE, running.stop()).await.unwrap();
    }

    /// One HTTP/1.1 request on a connection of its own: status and body.
    #[allow(dead_code)]
    pub async fn post(&self, path: &str, headers: &str, body: &str) -> (u16, String) {
        self.http("POST", path, headers, body).await
    }

    #[allow(dead_code)]
    pub async fn http(&self, method: &str, path: &str, headers: &str, body: &str) -> (u16, String) {
        let mut stream = tokio::net::TcpStream::connect(("127.0.0.1", self.port)).await.unwrap();
        let len = body.len();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\nContent-Length: {len}\r\n{headers}\r\n{body}"
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        tokio::time::timeout(PATIENCE, stream.read_to_string(&mut answer))
            .await
            .unwrap()
            .unwrap();
        let status = answer.split(' ').nth(1).unwrap().parse().unwrap();
        let (_, body) = answer.split_once("\r\n\r\n").unwrap();
        (status, body.to_owned())
    }
}

/// A request that brings a token.
#[allow(dead_code)]
pub fn with<T>(token: &str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("token", token.parse().unwrap());
    request
}

#[allow(dead_code)]
pub fn assert_status(status: &Status, code: Code, text: &str) {
    assert_eq!((status.code(), status.message()), (code, text));
}
