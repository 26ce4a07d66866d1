//! Traces: Foghorn's own spans, sent to a collector by OTLP over HTTP with protobuf.
//!
//! Spans only, none of what is logged within them: lines of the audit trail hold names and commands.

use std::io;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full, Limited};
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use opentelemetry::trace::TracerProvider;
use opentelemetry_http::{HttpClient, HttpError};
use opentelemetry_otlp::{SpanExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tokio::runtime::Handle;
use tokio::time::timeout;
use tracing::{Level, Subscriber};
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::layer::Layer;
use tracing_subscriber::registry::LookupSpan;

use super::is_own;
use crate::client::http::connector;

/// How long a collector may take to answer.
const ANSWER: Duration = Duration::from_secs(10);

/// The longest answer of a collector, in bytes.
const MAX_ANSWER: usize = 64 << 10;

/// How long what was not sent yet may take when the hub has stopped.
const LAST: Duration = Duration::from_secs(3);

/// Where spans are sent from, until [`Exporter::finish`].
#[derive(Debug)]
pub struct Exporter(SdkTracerProvider);

impl Exporter {
    /// Sends to the collector at this URL, over the runtime.
    ///
    /// # Errors
    /// Where the URL is none, or the system's certificates, which it needs, cannot be read.
    pub fn new(url: &str, runtime: Handle) -> Result<Self, HttpError> {
        let client = Post::new(url, runtime)?;
        let exporter = SpanExporter::builder().with_http().with_http_client(client).with_endpoint(url);
        let resource = Resource::builder().with_service_name("foghorn").build();
        let provider = SdkTracerProvider::builder().with_resource(resource).with_batch_exporter(exporter.build()?);
        Ok(Self(provider.build()))
    }

    /// What takes the spans.
    pub fn layer<S: Subscriber + for<'a> LookupSpan<'a> + Send + Sync>(&self) -> Box<dyn Layer<S> + Send + Sync> {
        let layer = tracing_opentelemetry::layer().with_tracer(self.0.tracer("foghorn"));
        let layer = layer.with_location(false).with_threads(false).with_tracked_inactivity(false);
        layer.with_filter(filter_fn(|of| of.is_span() && *of.level() <= Level::INFO && is_own(of))).boxed()
    }

    /// Sends what was not sent yet.
    pub fn finish(&self) {
        if let Err(error) = self.0.shutdown_with_timeout(LAST) {
            tracing::warn!(%error, "some spans were not sent");
        }
    }
}

/// The HTTP client, for the thread from which the exporter sends: it waits there, and the runtime moves the bytes.
#[derive(Debug)]
struct Post {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    runtime: Handle,
}

impl Post {
    fn new(url: &str, runtime: Handle) -> io::Result<Self> {
        let client = Client::builder(TokioExecutor::new()).build(connector(url.starts_with("https"))?);
        Ok(Self { client, runtime })
    }

    async fn send(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let (head, body) = self.client.request(request.map(Full::new)).await?.into_parts();
        let body = Limited::new(body, MAX_ANSWER).collect().await?.to_bytes();
        Ok(Response::from_parts(head, body))
    }
}

#[async_trait]
impl HttpClient for Post {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        self.runtime.block_on(async { timeout(ANSWER, self.send(request)).await? })
    }
}
