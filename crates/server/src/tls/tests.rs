//! Certificates are made by rcgen; a TLS client connects over loopback before and after files are swapped.

use std::convert::Infallible;
use std::path::Path;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{PrivateKeyDer, ServerName};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::listener::{Http, Listener, SocketOptions, Traffic, serve};

struct Authority {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new(name: &str) -> Authority {
        let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Authority {
            pem,
            issuer: Issuer::new(params, key),
        }
    }

    /// Certificate and key for 127.0.0.1.
    fn issue(&self, name: &str) -> (String, String) {
        let mut params = CertificateParams::new(vec!["127.0.0.1".to_owned(), "localhost".to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate().unwrap();
        (params.signed_by(&key, &self.issuer).unwrap().pem(), key.serialize_pem())
    }
}

/// As a rotation should be done: a new file renamed over the old one.
fn replace(path: &Path, text: &str) {
    let new = path.with_extension("new");
    std::fs::write(&new, text).unwrap();
    std::fs::rename(new, path).unwrap();
}

struct Server {
    dir: tempfile::TempDir,
    port: u16,
    _stop: tokio::sync::watch::Sender<bool>,
}

async fn start(authority: &Authority, configure: impl FnOnce(&mut Config)) -> Server {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str| dir.path().join(name).display().to_string();
    let (cert, key) = authority.issue("server");
    std::fs::write(file("cert"), cert).unwrap();
    std::fs::write(file("key"), key).unwrap();
    std::fs::write(file("ca"), &authority.pem).unwrap();
    let mut config = Config::default();
    config.client_tls.cert_file = file("cert");
    config.client_tls.key_file = file("key");
    config.client_tls.trusted_ca_file = file("ca");
    configure(&mut config);
    let tls = Tls::new(&config, Side::Client).unwrap();
    let url = Url::parse("https://127.0.0.1:0").unwrap();
    let listener = Listener::bind("listen-client-urls", &url, SocketOptions::default()).unwrap();
    let port = listener.port().unwrap();
    let (stop, stopped) = tokio::sync::watch::channel(false);
    tokio::spawn(serve(
        listener,
        tls,
        Http::default(),
        Arc::new(Traffic::default()),
        stopped,
        |connection| {
            hyper::service::service_fn(move |_: http::Request<Incoming>| {
                let name = connection.common_name.clone().unwrap_or_default();
                async move { Ok::<_, Infallible>(http::Response::new(Full::new(Bytes::from(name)))) }
            })
        },
    ));
    Server { dir, port, _stop: stop }
}

struct Client {
    stream: tokio_rustls::client::TlsStream<tokio::net::TcpStream>,
}

impl Client {
    async fn connect(port: u16, trusts: &Authority, identity: &(String, String)) -> std::io::Result<Client> {
        let mut roots = RootCertStore::empty();
        roots
            .add(CertificateDer::from_pem_slice(trusts.pem.as_bytes()).unwrap())
            .unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_client_auth_cert(
                vec![CertificateDer::from_pem_slice(identity.0.as_bytes()).unwrap()],
                PrivateKeyDer::from_pem_slice(identity.1.as_bytes()).unwrap(),
            )
            .unwrap();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        let tcp = tokio::net::TcpStream::connect(("127.0.0.1", port)).await?;
        let name = ServerName::try_from("127.0.0.1").unwrap();
        let stream = tokio_rustls::TlsConnector::from(Arc::new(config))
            .connect(name, tcp)
            .await?;
        Ok(Client { stream })
    }

    /// One request; the answer's body is the name that the server saw.
    async fn ask(&mut self) -> std::io::Result<String> {
        self.stream.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await?;
        let mut answer = Vec::new();
        loop {
            let mut chunk = [0; 1024];
            let read = self.stream.read(&mut chunk).await?;
            answer.extend_from_slice(&chunk[..read]);
            let text = String::from_utf8_lossy(&answer);
            if let Some((head, body)) = text.split_once("\r\n\r\n") {
                let length = head.to_lowercase().split("content-length: ").nth(1).and_then(|rest| {
                    rest.split("\r\n")
                        .next()
                        .and_then(|length| length.trim().parse::<usize>().ok())
                });
                if body.len() == length.unwrap_or(0) {
                    return Ok(body.to_owned());
                }
            }
            if read == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
        }
    }
}

async fn try_once(port: u16, trusts: &Authority, identity: &(String, String)) -> std::io::Result<String> {
    Client::connect(port, trusts, identity).await?.ask().await
}

#[tokio::test]
async fn leaf_and_authorities_are_swapped_under_connections() {
    let (old, new) = (Authority::new("old"), Authority::new("new"));
    let server = start(&old, |_| {}).await;
    let (old_client, new_client) = (old.issue("old-client"), new.issue("new-client"));

    let mut open = Client::connect(server.port, &old, &old_client).await.unwrap();
    assert_eq!(open.ask().await.unwrap(), "old-client");
    assert!(
        try_once(server.port, &old, &new_client).await.is_err(),
        "an unknown authority is refused"
    );

    // A key that does not fit its certificate yet: the old pair stays in use.
    let (cert, key) = new.issue("server");
    replace(&server.dir.path().join("cert"), &cert);
    assert_eq!(try_once(server.port, &old, &old_client).await.unwrap(), "old-client");
    replace(&server.dir.path().join("key"), &key);
    assert!(
        try_once(server.port, &old, &old_client).await.is_err(),
        "the client no longer knows the server"
    );
    assert_eq!(try_once(server.port, &new, &old_client).await.unwrap(), "old-client");

    // Both authorities, then only the new one.
    replace(&server.dir.path().join("ca"), &format!("{}{}", old.pem, new.pem));
    assert_eq!(try_once(server.port, &new, &new_client).await.unwrap(), "new-client");
    assert_eq!(try_once(server.port, &new, &old_client).await.unwrap(), "old-client");
    replace(&server.dir.path().join("ca"), &new.pem);
    assert!(
        try_once(server.port, &new, &old_client).await.is_err(),
        "the old authority is gone"
    );

    assert_eq!(open.ask().await.unwrap(), "old-client", "what was open stays open");
}

#[tokio::test]
async fn names_are_checked_beyond_the_chain() {
    let authority = Authority::new("a");
    let server = start(&authority, |config| config.client_tls.allowed_cns = vec!["good".into()]).await;
    assert_eq!(
        try_once(server.port, &authority, &authority.issue("good"))
            .await
            .unwrap(),
        "good"
    );
    assert!(
        try_once(server.port, &authority, &authority.issue("bad"))
            .await
            .is_err()
    );
    let server = start(&authority, |config| {
        config.client_tls.allowed_hostnames = vec!["elsewhere".into()]
    })
    .await;
    assert!(
        try_once(server.port, &authority, &authority.issue("good"))
            .await
            .is_err()
    );
}

#[tokio::test]
async fn made_up_certificates_are_kept() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = Config {
        data_dir: dir.path().to_owned(),
        ..Config::default()
    };
    config.peer_tls.auto = true;
    let tls = Tls::new(&config, Side::Peer).unwrap().unwrap();
    assert!(tls.can_serve());
    let path = dir.path().join("fixtures/peer/cert.pem");
    let first = std::fs::read(&path).unwrap();
    Tls::new(&config, Side::Peer).unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), first, "made once");
    std::fs::write(dir.path().join("fixtures/peer/key.pem"), "not a key").unwrap();
    Tls::new(&config, Side::Peer).unwrap();
    assert_ne!(std::fs::read(&path).unwrap(), first, "an unusable pair is made anew");
}

#[test]
fn complaints_name_the_file() {
    let mut config = Config::default();
    config.client_tls.cert_file = "/no/such/cert".into();
    config.client_tls.key_file = "/no/such/key".into();
    let error = Tls::new(&config, Side::Client).unwrap_err().to_string();
    assert!(error.starts_with("/no/such/cert: "), "{error}");
}

#[tokio::test]
async fn a_peer_must_call_from_an_address_of_its_certificate() {
    let authority = Authority::new("a");
    let (pem, _) = authority.issue("x");
    let leaf = CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
    check::calls_from_own_address(&leaf, "127.0.0.1".parse().unwrap())
        .await
        .unwrap();
    check::calls_from_own_address(&leaf, "::ffff:127.0.0.1".parse().unwrap())
        .await
        .unwrap();
    assert!(
        check::calls_from_own_address(&leaf, "192.0.2.1".parse().unwrap())
            .await
            .is_err()
    );
}
