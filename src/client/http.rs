//! Requests to a hub.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use http::{Method, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_rustls::{ConfigBuilderExt, HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;

use super::error::ClientError;
use super::hubs::Hub;
use super::wire::ToFolder;

/// How long a connection may take to be made.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);

/// The longest JSON answer that is read, in bytes.
const MAX_ANSWER: usize = 64 << 20;

/// A request, without the hub it goes to.
#[derive(Clone, Debug)]
pub struct Ask {
    /// The method.
    pub method: Method,
    /// Path and query.
    pub path: String,
    /// What kind of answer is wanted.
    pub accept: &'static str,
    /// A JSON body.
    pub body: Option<Bytes>,
    /// Within how long the answer must begin.
    pub limit: Duration,
}

impl Ask {
    /// A request without a body.
    #[must_use]
    pub fn new(method: Method, path: impl Into<String>) -> Self {
        Self { method, path: path.into(), accept: "application/json", body: None, limit: Duration::from_secs(30) }
    }

    /// A GET.
    #[must_use]
    pub fn get(path: impl Into<String>) -> Self {
        Self::new(Method::GET, path)
    }
}

/// Makes connections; the system's certificates are only read where `https` will be used.
///
/// # Errors
/// Where they cannot be read.
pub fn connector(https: bool) -> io::Result<HttpsConnector<HttpConnector>> {
    let tls = rustls::ClientConfig::builder();
    let tls = match https {
        true => tls.with_native_roots()?,
        false => tls.with_root_certificates(rustls::RootCertStore::empty()),
    };
    let mut plain = HttpConnector::new();
    plain.enforce_http(false);
    plain.set_nodelay(true);
    plain.set_connect_timeout(Some(CONNECT_LIMIT));
    let connector = HttpsConnectorBuilder::new().with_tls_config(tls.with_no_client_auth());
    Ok(connector.https_or_http().enable_http1().wrap_connector(plain))
}

/// Sends requests.
#[derive(Clone)]
pub struct Http {
    net: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    /// To the hub of the state folder, where that is meant.
    own: Option<Client<ToFolder, Full<Bytes>>>,
}

impl Http {
    /// A client; the system's certificates are only read where `https` will be used. `folder` is the state folder of
    /// this user's own hub, where that is meant.
    ///
    /// # Errors
    /// [`ClientError::Broken`] where they cannot be read.
    pub fn new(https: bool, folder: Option<PathBuf>) -> Result<Self, ClientError> {
        let connector = connector(https).map_err(|error| ClientError::Broken(error.to_string()))?;
        let builder = || {
            let mut builder = Client::builder(TokioExecutor::new());
            builder.pool_max_idle_per_host(1);
            builder
        };
        Ok(Self { net: builder().build(connector), own: folder.map(|folder| builder().build(ToFolder(folder))) })
    }

    /// Sends a request; an answer that is not a success is an error.
    ///
    /// # Errors
    /// [`ClientError::Unreachable`] without an answer, [`ClientError::Refused`] with one.
    pub async fn send(&self, hub: &Hub, ask: &Ask) -> Result<Response<Incoming>, ClientError> {
        let unreachable = |reason: String| ClientError::Unreachable { url: hub.url.clone(), reason };
        let request = request(hub, ask).map_err(|error| ClientError::Answer(error.to_string()))?;
        let answer = match self.own.as_ref().filter(|_| hub.folder.is_some()) {
            Some(own) => own.request(request),
            None => self.net.request(request),
        };
        let answer = tokio::time::timeout(ask.limit, answer).await;
        let answer = answer.map_err(|_| unreachable("it does not answer".to_owned()))?;
        let answer = answer.map_err(|error| unreachable(root_cause(&error)))?;
        if answer.status().is_success() {
            return Ok(answer);
        }
        let status = answer.status().as_u16();
        Err(ClientError::refused(status, &read(answer.into_body()).await.unwrap_or_default()))
    }
}

fn request(hub: &Hub, ask: &Ask) -> Result<Request<Full<Bytes>>, http::Error> {
    let url = format!("{}{}", hub.url, ask.path);
    let mut request = Request::builder().method(ask.method.clone()).uri(url).header(ACCEPT, ask.accept);
    if let Some(token) = &hub.token {
        let mut value = HeaderValue::try_from(format!("Bearer {token}"))?;
        value.set_sensitive(true);
        request = request.header(AUTHORIZATION, value);
    }
    if ask.body.is_some() {
        request = request.header(CONTENT_TYPE, "application/json");
    }
    request.body(Full::new(ask.body.clone().unwrap_or_default()))
}

/// Reads an answer to its end.
///
/// # Errors
/// [`ClientError::Broken`] where it breaks off, [`ClientError::Answer`] where it is longer than any should be.
pub async fn read(body: Incoming) -> Result<Bytes, ClientError> {
    let limited = http_body_util::Limited::new(body, MAX_ANSWER);
    limited
        .collect()
        .await
        .map(http_body_util::Collected::to_bytes)
        .map_err(|error| ClientError::Broken(error.to_string()))
}

/// The innermost reason, which is what the system said.
#[must_use]
pub fn root_cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

/// A path's segment or a query's value, percent-encoded.
#[must_use]
pub fn encode(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~');
    let encoded =
        text.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") });
    encoded.collect()
}

#[cfg(test)]
mod tests {
    use super::encode;

    #[test]
    fn what_could_leave_its_segment_is_encoded() {
        assert_eq!(encode("run.4821"), "run.4821");
        assert_eq!(encode("../a?b&c=ü"), "..%2Fa%3Fb%26c%3D%C3%BC");
    }
}
