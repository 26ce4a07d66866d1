//! An authorizer of the operator's: gets the two review objects as JSON, and its `status` is believed.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use hyper_rustls::{ConfigBuilderExt, HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewStatus};
use k8s_openapi::api::authorization::v1::{SubjectAccessReview, SubjectAccessReviewStatus};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::review::{Away, Reviewer};
use crate::config::auth;

/// The longest answer that is read, in bytes.
const MAX_ANSWER: usize = 1 << 20;

/// A webhook that cannot be asked as the settings say.
#[derive(Debug, thiserror::Error)]
pub enum WebhookError {
    /// The certificates cannot be read.
    #[error("{path}: {reason}; webhook.ca_file has to be certificates in PEM", path = path.display())]
    Certificates {
        /// Where they should be.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The system's certificates cannot be read.
    #[error("the system's certificates cannot be read: {0}; set webhook.ca_file")]
    System(std::io::Error),
}

/// See the module's documentation.
pub(super) struct Webhook {
    settings: auth::Webhook,
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
}

impl Webhook {
    /// A client by these settings. Nothing is asked yet.
    pub(super) fn new(settings: auth::Webhook) -> Result<Self, WebhookError> {
        let mut plain = HttpConnector::new();
        plain.enforce_http(false);
        plain.set_nodelay(true);
        let tls = HttpsConnectorBuilder::new().with_tls_config(tls(&settings)?);
        let connector = tls.https_or_http().enable_http1().wrap_connector(plain);
        let client = Client::builder(TokioExecutor::new()).pool_idle_timeout(Duration::from_secs(30)).build(connector);
        Ok(Self { settings, client })
    }

    /// What it makes of an object.
    async fn ask<T: DeserializeOwned>(&self, review: &impl Serialize) -> Result<T, Away> {
        let asked = tokio::time::timeout(self.settings.timeout, self.send(review)).await;
        let mut answer: Value = asked.map_err(|_| Away("the webhook did not answer in time".into()))??;
        let status = answer.get_mut("status").map(Value::take).filter(Value::is_object);
        let status = status.and_then(|status| serde_json::from_value(status).ok());
        status.ok_or_else(|| Away("the webhook's answer has no status that can be understood".into()))
    }

    async fn send(&self, review: &impl Serialize) -> Result<Value, Away> {
        let away = |reason: String| Away(format!("the webhook cannot be asked: {reason}"));
        let body = serde_json::to_vec(review).map_err(|error| away(error.to_string()))?;
        let mut request = hyper::Request::post(&self.settings.url).header(CONTENT_TYPE, "application/json");
        if let Some(file) = &self.settings.token_file {
            request = request.header(AUTHORIZATION, bearer(file).await.map_err(away)?);
        }
        let request = request.body(Full::new(body.into())).map_err(|error| away(error.to_string()))?;
        let answer = self.client.request(request).await.map_err(|error| away(root(&error)))?;
        if !answer.status().is_success() {
            return Err(Away(format!("the webhook answered with HTTP status {}", answer.status().as_u16())));
        }
        let body = Limited::new(answer.into_body(), MAX_ANSWER).collect().await;
        let body = body.map_err(|error| away(error.to_string()))?.to_bytes();
        serde_json::from_slice(&body).map_err(|_| Away("the webhook's answer is not JSON".into()))
    }
}

#[async_trait]
impl Reviewer for Webhook {
    async fn token(&self, review: TokenReview) -> Result<TokenReviewStatus, Away> {
        self.ask(&review).await
    }

    async fn access(&self, review: SubjectAccessReview) -> Result<SubjectAccessReviewStatus, Away> {
        self.ask(&review).await
    }
}

/// What the hub shows the webhook: read each time, since such a file is often replaced.
async fn bearer(file: &Path) -> Result<HeaderValue, String> {
    let token = tokio::fs::read_to_string(file).await;
    let token = token.map_err(|error| format!("{}: {error}", file.display()))?;
    let mut value = HeaderValue::try_from(format!("Bearer {}", token.trim()))
        .map_err(|_| format!("{}: this is no token", file.display()))?;
    value.set_sensitive(true);
    Ok(value)
}

fn tls(settings: &auth::Webhook) -> Result<rustls::ClientConfig, WebhookError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let builder = builder.map_err(|error| WebhookError::System(std::io::Error::other(error)))?;
    let config = match &settings.ca_file {
        Some(file) => builder.with_root_certificates(roots(file)?),
        None if settings.url.starts_with("https") => builder.with_native_roots().map_err(WebhookError::System)?,
        None => builder.with_root_certificates(rustls::RootCertStore::empty()),
    };
    Ok(config.with_no_client_auth())
}

fn roots(file: &Path) -> Result<rustls::RootCertStore, WebhookError> {
    let failed = |reason: String| WebhookError::Certificates { path: file.to_owned(), reason };
    let mut roots = rustls::RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(file).map_err(|error| failed(error.to_string()))? {
        let certificate = certificate.map_err(|error| failed(error.to_string()))?;
        roots.add(certificate).map_err(|error| failed(error.to_string()))?;
    }
    if roots.is_empty() { Err(failed("there is no certificate in it".into())) } else { Ok(roots) }
}

/// The innermost error, which tells most.
fn root(error: &dyn std::error::Error) -> String {
    let mut inner = error;
    while let Some(source) = inner.source() {
        inner = source;
    }
    inner.to_string()
}
