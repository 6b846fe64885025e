//! An S3 server in this process, for the demo and the tests: the real protocol, signed requests, through TLS.
//!
//! Invariants: it listens on loopback alone, takes one key pair, and stores below one directory. It is no product.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use s3s::access::{S3Access, S3AccessContext};
use s3s::auth::SimpleAuth;
use s3s::path::S3Path;
use s3s::service::S3ServiceBuilder;
use s3s::{S3Result, s3_error};
use s3s_fs::FileSystem;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

use crate::backup::s3::Location;

/// A running server; it ends when this is dropped.
#[derive(Debug)]
pub struct ObjectStore {
    address: SocketAddr,
    ca_pem: String,
    accept: JoinHandle<()>,
}

const ACCESS_KEY: &str = "quorate-demo";
const SECRET_KEY: &str = "demo-secret-of-no-value";

impl ObjectStore {
    /// Serves the directories below `root` as buckets, on a free port of loopback, with a CA of its own.
    ///
    /// # Errors
    /// The directory cannot be read, no port is free, or TLS material cannot be made.
    pub async fn start(root: &Path) -> io::Result<ObjectStore> {
        let files = FileSystem::new(root).map_err(|error| io::Error::other(format!("{root:?}: {error:?}")))?;
        let mut builder = S3ServiceBuilder::new(files);
        builder.set_auth(SimpleAuth::from_single(ACCESS_KEY, SECRET_KEY));
        builder.set_access(KnownBuckets { root: root.to_owned() });
        let service = builder.build();
        let (acceptor, ca_pem) = tls().map_err(io::Error::other)?;
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let accept = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, service) = (acceptor.clone(), service.clone());
                tokio::spawn(async move {
                    // A client that hangs up is the client's business.
                    let Ok(stream) = acceptor.accept(stream).await else {
                        return;
                    };
                    let http = Builder::new(TokioExecutor::new());
                    http.serve_connection(TokioIo::new(stream), service).await.ok();
                });
            }
        });
        Ok(ObjectStore {
            address,
            ca_pem,
            accept,
        })
    }

    /// How to reach a bucket of it.
    pub fn location(&self, bucket: &str) -> Location {
        Location {
            endpoint: Some(self.endpoint()),
            bucket: bucket.into(),
            region: "us-east-1".into(),
            force_path_style: true,
            allow_http: false,
            ca_pem: Some(self.ca_pem.clone()),
            access_key: ACCESS_KEY.into(),
            secret_key: SECRET_KEY.into(),
            session_token: None,
            sse: None,
            refuse_node_addresses: false,
        }
    }

    /// What a manifest needs to put backups into a bucket of it: a Secret, and in comments the destination.
    pub fn documents(&self, bucket: &str) -> String {
        let ca: String = self.ca_pem.lines().map(|line| format!("    {line}\n")).collect();
        format!(
            "---\n\
             # In an EtcdBackup:\n\
             #   destination:\n\
             #     s3:\n\
             #       endpoint: {endpoint}\n\
             #       bucket: {bucket}\n\
             #       forcePathStyle: true\n\
             #       credentialsSecretRef: {{name: object-store}}\n\
             #       caSecretRef: {{name: object-store}}\n\
             apiVersion: v1\nkind: Secret\nmetadata:\n  name: object-store\nstringData:\n  \
             accessKeyID: {ACCESS_KEY}\n  secretAccessKey: {SECRET_KEY}\n  ca.crt: |\n{ca}",
            endpoint = self.endpoint(),
        )
    }

    /// Its base URL.
    pub fn endpoint(&self) -> String {
        format!("https://localhost:{}", self.address.port())
    }
}

/// A bucket that is not there is refused, as S3 does; the file system behind would make it.
struct KnownBuckets {
    root: PathBuf,
}

#[async_trait::async_trait]
impl S3Access for KnownBuckets {
    async fn check(&self, cx: &mut S3AccessContext<'_>) -> S3Result<()> {
        if cx.credentials().is_none() {
            return Err(s3_error!(AccessDenied, "requests must be signed"));
        }
        match cx.s3_path() {
            S3Path::Root => Ok(()),
            S3Path::Bucket { bucket } | S3Path::Object { bucket, .. } => match self.root.join(&**bucket).is_dir() {
                true => Ok(()),
                false => Err(s3_error!(NoSuchBucket, "the bucket does not exist")),
            },
        }
    }
}

impl Drop for ObjectStore {
    fn drop(&mut self) {
        self.accept.abort();
    }
}

fn tls() -> Result<(TlsAcceptor, String), Box<dyn std::error::Error + Send + Sync>> {
    let mut ca = CertificateParams::new(Vec::new())?;
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let issuer = CertifiedIssuer::self_signed(ca, KeyPair::generate()?)?;
    let key = KeyPair::generate()?;
    let leaf = CertificateParams::new(vec!["localhost".into()])?.signed_by(&key, &issuer)?;
    let private = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![leaf.der().clone()], private)?;
    Ok((TlsAcceptor::from(Arc::new(config)), issuer.pem()))
}
