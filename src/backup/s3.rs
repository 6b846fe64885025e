//! An S3 bucket as a store, through `aws-sdk-s3`.
//!
//! Invariants:
//! - One part of an upload is in memory at a time, whatever the object's size.
//! - An upload that fails is aborted: no half object, and no parts that cost money.
//! - Requests are signed and go through TLS; plain http only where the manifest says so.
//! - Credentials never appear in an error, a log line or a `Debug` text.
//! - Where node addresses are refused, the address that is connected to is the one that was judged.

use std::time::Duration;

use aws_credential_types::Credentials;
use aws_sdk_s3::Client;
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::config::{BehaviorVersion, Region, RequestChecksumCalculation, ResponseChecksumValidation};
use aws_sdk_s3::error::{DisplayErrorContext, ProvideErrorMetadata, SdkError};
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{CompletedMultipartUpload, CompletedPart, ServerSideEncryption};
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use aws_smithy_http_client::tls::{Provider, TlsContext, TrustStore};
use tokio::io::{AsyncRead, AsyncReadExt};

use super::address;
use super::store::{Error, Reader};

/// Bytes of one part. S3 takes 10,000 parts, so an object may have 156 GiB.
const PART: usize = 16 << 20;

/// Where and as whom. Made from `spec.destination.s3` and its Secrets.
#[derive(Clone)]
pub struct Location {
    /// Base URL; none means AWS itself.
    pub endpoint: Option<String>,
    /// The bucket; it must exist.
    pub bucket: String,
    /// The region that requests are signed for.
    pub region: String,
    /// `https://host/bucket/key` rather than `https://bucket.host/key`: what most servers other than AWS want.
    pub force_path_style: bool,
    /// Plain http is accepted.
    pub allow_http: bool,
    /// PEM certificates to trust, instead of the system's.
    pub ca_pem: Option<String>,
    /// Access key id.
    pub access_key: String,
    /// Secret access key.
    pub secret_key: String,
    /// Session token of temporary credentials.
    pub session_token: Option<String>,
    /// Encryption by the service: `AES256` or `aws:kms`.
    pub sse: Option<String>,
    /// Loopback and link-local addresses are refused, by number and by any name that leads to one.
    pub refuse_node_addresses: bool,
}

impl std::fmt::Debug for Location {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Location")
            .field("endpoint", &self.endpoint)
            .field("bucket", &self.bucket)
            .finish_non_exhaustive()
    }
}

/// A bucket to talk to. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Bucket {
    client: Client,
    name: String,
    sse: Option<ServerSideEncryption>,
}

impl Bucket {
    /// Prepares a client; nothing is sent yet.
    ///
    /// # Errors
    /// [`Error::Invalid`] for an endpoint or a CA that cannot be used.
    pub fn new(location: &Location) -> Result<Bucket, Error> {
        let field = "destination.s3.endpoint";
        if let Some(endpoint) = &location.endpoint {
            match endpoint.split_once("://") {
                Some(("https", host)) if !host.is_empty() => {}
                Some(("http", host)) if !host.is_empty() && location.allow_http => {}
                Some(("http", _)) => {
                    let reason =
                        format!("{endpoint:?} is plain http: write https, or set destination.s3.allowHTTP: true");
                    return Err(Error::Invalid { field, reason });
                }
                _ => {
                    let reason = format!("{endpoint:?} is not a URL such as https://s3.example.com:9000");
                    return Err(Error::Invalid { field, reason });
                }
            }
            if location.refuse_node_addresses {
                address::check_host(address::host(endpoint)).map_err(|reason| Error::Invalid { field, reason })?;
            }
        }
        let trust = match &location.ca_pem {
            Some(pem) => TrustStore::empty().with_pem_certificate(pem.as_bytes()),
            None => TrustStore::default(),
        };
        let context = TlsContext::builder()
            .with_trust_store(trust)
            .build()
            .map_err(|error| Error::Invalid {
                field: "destination.s3.caSecretRef",
                reason: format!("the CA bundle is not usable: {error}"),
            })?;
        let http = aws_smithy_http_client::Builder::new()
            .tls_provider(Provider::Rustls(CryptoMode::Ring))
            .tls_context(context);
        let http = if location.refuse_node_addresses {
            http.build_with_resolver(address::Resolver)
        } else {
            http.build_https()
        };
        let token = location.session_token.clone();
        let credentials = Credentials::new(&location.access_key, &location.secret_key, token, None, "EtcdBackup");
        let timeouts = TimeoutConfig::builder()
            .connect_timeout(Duration::from_secs(10))
            .read_timeout(Duration::from_secs(60))
            .operation_attempt_timeout(Duration::from_secs(300))
            .build();
        let mut config = aws_sdk_s3::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .http_client(http)
            .region(Region::new(location.region.clone()))
            .credentials_provider(credentials)
            .force_path_style(location.force_path_style)
            .retry_config(RetryConfig::standard().with_max_attempts(3))
            .timeout_config(timeouts)
            // Servers other than AWS know the checksums of before 2025; ours are in the manifest.
            .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
            .response_checksum_validation(ResponseChecksumValidation::WhenRequired);
        if let Some(endpoint) = &location.endpoint {
            config = config.endpoint_url(endpoint);
        }
        Ok(Bucket {
            client: Client::from_conf(config.build()),
            name: location.bucket.clone(),
            sse: location.sse.as_deref().map(ServerSideEncryption::from),
        })
    }

    /// How a key is shown to people.
    pub fn uri(&self, key: &str) -> String {
        format!("s3://{}/{key}", self.name)
    }

    /// Uploads in parts; small objects in one request.
    ///
    /// # Errors
    /// What the server said; then nothing is visible under the key.
    pub async fn put(&self, key: &str, mut from: impl AsyncRead + Unpin) -> Result<(), Error> {
        let first = self.part(key, &mut from).await?;
        if first.len() < PART {
            let put = self
                .client
                .put_object()
                .bucket(&self.name)
                .key(key)
                .set_server_side_encryption(self.sse.clone())
                .body(ByteStream::from(first));
            return put
                .send()
                .await
                .map(|_| ())
                .map_err(|error| self.error("writing", key, error));
        }
        let begin = self
            .client
            .create_multipart_upload()
            .bucket(&self.name)
            .key(key)
            .set_server_side_encryption(self.sse.clone());
        let upload = begin.send().await.map_err(|error| self.error("writing", key, error))?;
        let id = upload.upload_id().unwrap_or_default().to_owned();
        let sent = self.put_parts(key, &id, first, &mut from).await;
        if sent.is_err() {
            let abort = self
                .client
                .abort_multipart_upload()
                .bucket(&self.name)
                .key(key)
                .upload_id(&id);
            if let Err(error) = abort.send().await {
                let error = self.error("aborting the upload of", key, error);
                tracing::warn!(%error, "parts of a failed upload stay in the bucket until its lifecycle rule removes them");
            }
        }
        sent
    }

    async fn put_parts(
        &self,
        key: &str,
        id: &str,
        first: Vec<u8>,
        from: &mut (impl AsyncRead + Unpin),
    ) -> Result<(), Error> {
        let (mut parts, mut part) = (Vec::new(), first);
        while !part.is_empty() {
            let number = parts.len() as i32 + 1;
            let send = self
                .client
                .upload_part()
                .bucket(&self.name)
                .key(key)
                .upload_id(id)
                .part_number(number);
            let sent = send.body(ByteStream::from(part)).send().await;
            let sent = sent.map_err(|error| self.error("writing", key, error))?;
            parts.push(
                CompletedPart::builder()
                    .part_number(number)
                    .set_e_tag(sent.e_tag)
                    .build(),
            );
            part = self.part(key, from).await?;
        }
        let parts = CompletedMultipartUpload::builder().set_parts(Some(parts)).build();
        let complete = self
            .client
            .complete_multipart_upload()
            .bucket(&self.name)
            .key(key)
            .upload_id(id);
        let done = complete.multipart_upload(parts).send().await;
        done.map(|_| ()).map_err(|error| self.error("writing", key, error))
    }

    async fn part(&self, key: &str, from: &mut (impl AsyncRead + Unpin)) -> Result<Vec<u8>, Error> {
        let mut part = Vec::new();
        let read = from.take(PART as u64).read_to_end(&mut part).await;
        read.map_err(|source| Error::File {
            what: "reading what goes to",
            path: self.uri(key).into(),
            source,
        })?;
        Ok(part)
    }

    /// Opens an object; `None` when there is none.
    ///
    /// # Errors
    /// What the server said.
    pub async fn get(&self, key: &str) -> Result<Option<Reader>, Error> {
        match self.client.get_object().bucket(&self.name).key(key).send().await {
            Ok(object) => Ok(Some(Box::pin(object.body.into_async_read()))),
            Err(error) if error.as_service_error().is_some_and(|error| error.is_no_such_key()) => Ok(None),
            Err(error) => Err(self.error("reading", key, error)),
        }
    }

    /// Deletes an object.
    ///
    /// # Errors
    /// What the server said.
    pub async fn delete(&self, key: &str) -> Result<(), Error> {
        let deleted = self.client.delete_object().bucket(&self.name).key(key).send().await;
        deleted.map(|_| ()).map_err(|error| self.error("deleting", key, error))
    }

    /// All keys below a prefix, sorted.
    ///
    /// # Errors
    /// What the server said.
    pub async fn list(&self, prefix: &str) -> Result<Vec<String>, Error> {
        let mut keys = Vec::new();
        let mut pages = self
            .client
            .list_objects_v2()
            .bucket(&self.name)
            .prefix(prefix)
            .into_paginator()
            .send();
        while let Some(page) = pages.next().await {
            let page = page.map_err(|error| self.error("listing", prefix, error))?;
            keys.extend(
                page.contents()
                    .iter()
                    .filter_map(|object| object.key().map(str::to_owned)),
            );
        }
        keys.sort();
        Ok(keys)
    }

    /// Names the field that most likely causes an answer, and the remedy.
    fn error<E, R>(&self, doing: &'static str, key: &str, error: SdkError<E, R>) -> Error
    where
        E: ProvideErrorMetadata + std::error::Error + 'static,
        R: std::fmt::Debug,
        SdkError<E, R>: std::error::Error,
    {
        let code = error.code().unwrap_or_default().to_owned();
        let (field, remedy) = match code.as_str() {
            "InvalidAccessKeyId" | "SignatureDoesNotMatch" | "InvalidToken" | "ExpiredToken" | "NotSignedUp" => (
                "destination.s3.credentialsSecretRef",
                "check the access key and the secret key in the Secret, and destination.s3.region",
            ),
            "AccessDenied" => (
                "destination.s3.credentialsSecretRef",
                "the key is known but may not do this: it needs GetObject, PutObject, DeleteObject and ListBucket",
            ),
            "NoSuchBucket" => ("destination.s3.bucket", "create the bucket; Quorate does not"),
            "PermanentRedirect" | "AuthorizationHeaderMalformed" => {
                ("destination.s3.region", "write the region that the bucket is in")
            }
            "QuotaExceeded" | "InsufficientStorage" | "XMinioStorageFull" => (
                "destination.s3.bucket",
                "the bucket is full: raise its quota or shorten the retention",
            ),
            _ => match &error {
                SdkError::DispatchFailure(_) | SdkError::TimeoutError(_) => (
                    "destination.s3.endpoint",
                    "check that the endpoint is reachable, and destination.s3.caSecretRef when its CA is private",
                ),
                _ => ("destination.s3", "see the server's answer"),
            },
        };
        let reason = match error.message() {
            Some(message) if !code.is_empty() => format!("{code}: {message}"),
            Some(message) => message.to_owned(),
            None if !code.is_empty() => code,
            None => DisplayErrorContext(&error).to_string(),
        };
        Error::S3 {
            field,
            doing,
            uri: self.uri(key),
            reason,
            remedy,
        }
    }
}
