//! One GET over http or https, as somebody or as nobody.
//!
//! Invariant: bounded in time and in bytes, whatever the other side sends.

use crate::certificates::Pair;
use anyhow::{Context, anyhow, bail};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::Request;
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

const PATIENCE: Duration = Duration::from_secs(10);
const BODY_BYTES_MAX: usize = 16 << 20;

/// What was answered.
#[derive(Debug)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// The body.
    pub body: Vec<u8>,
    /// The certificate that was presented; none over http.
    pub presented: Option<CertificateDer<'static>>,
}

/// Whom to trust, and who asks.
#[derive(Debug, Clone, Copy, Default)]
pub struct Asker<'a> {
    /// PEM bundle of authorities.
    pub authorities: Option<&'a str>,
    /// The certificate to present; none presents none.
    pub identity: Option<&'a Pair>,
    /// The name that the certificate must be valid for, where it is another than the URL's host.
    pub name: Option<&'a str>,
}

/// Asks `url` (scheme, host and port) for `path`.
pub async fn get(url: &str, path: &str, asker: Asker<'_>) -> anyhow::Result<Answer> {
    tokio::time::timeout(PATIENCE, ask(url, path, asker))
        .await
        .map_err(|_| anyhow!("{url} did not answer {path} within {PATIENCE:?}"))?
        .with_context(|| format!("asking {url}{path}"))
}

async fn ask(url: &str, path: &str, asker: Asker<'_>) -> anyhow::Result<Answer> {
    let uri: http::Uri = url.parse().context("not a URL")?;
    let (Some(scheme), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
        bail!("write http://HOST:PORT or https://HOST:PORT");
    };
    let host = authority.host().trim_matches(['[', ']']);
    let port = authority.port_u16().unwrap_or(2379);
    let tcp = TcpStream::connect((host, port)).await?;
    let request = Request::get(path)
        .header("host", authority.as_str())
        .header("connection", "close")
        .body(Empty::<bytes::Bytes>::new())?;
    match scheme {
        "http" => exchange(tcp, request, None).await,
        "https" => {
            let connector = tokio_rustls::TlsConnector::from(Arc::new(config(asker)?));
            let name = ServerName::try_from(asker.name.unwrap_or(host).to_owned())?;
            let stream = connector.connect(name, tcp).await?;
            let presented = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
            let presented = presented.map(|certificate| certificate.clone().into_owned());
            exchange(stream, request, presented).await
        }
        other => bail!("{other}:// is neither http:// nor https://"),
    }
}

fn config(asker: Asker<'_>) -> anyhow::Result<rustls::ClientConfig> {
    let mut roots = rustls::RootCertStore::empty();
    for authority in CertificateDer::pem_slice_iter(asker.authorities.unwrap_or_default().as_bytes()) {
        roots.add(authority?)?;
    }
    if roots.is_empty() {
        bail!("https needs the authority of the endpoints' certificates: give --cacert");
    }
    let builder = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots);
    Ok(match asker.identity {
        Some(pair) => {
            let chain: Vec<_> =
                CertificateDer::pem_slice_iter(pair.certificate.as_bytes()).collect::<Result<_, _>>()?;
            builder.with_client_auth_cert(chain, PrivateKeyDer::from_pem_slice(pair.key.as_bytes())?)?
        }
        None => builder.with_no_client_auth(),
    })
}

async fn exchange<S>(
    stream: S,
    request: Request<Empty<bytes::Bytes>>,
    presented: Option<CertificateDer<'static>>,
) -> anyhow::Result<Answer>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let driver = tokio::spawn(connection);
    let answered = async {
        let answer = sender.send_request(request).await?;
        let status = answer.status().as_u16();
        let body = Limited::new(answer.into_body(), BODY_BYTES_MAX)
            .collect()
            .await
            .map_err(|error| anyhow!("{error}"))?;
        Ok(Answer {
            status,
            body: body.to_bytes().to_vec(),
            presented,
        })
    };
    let answered = answered.await;
    driver.abort();
    answered
}
