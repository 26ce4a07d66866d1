//! The server's log: one line an event, to stderr; JSON where no person reads it, with the spans that the event is in.
//! With the feature `otlp`, the spans also go to a collector of traces.

use std::borrow::Cow;
use std::io::{self, IsTerminal, Write};

use tokio::runtime::Handle;
use tracing::{Level, Metadata, Subscriber};
use tracing_subscriber::filter::{EnvFilter, filter_fn};
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;

use crate::visible;

#[cfg(feature = "otlp")]
pub mod otlp;

/// The roots of the names under which Foghorn itself logs.
const OWN: [&str; 2] = ["foghorn", "audit"];

/// The way of the spans to a collector, where there is one.
#[must_use = "what was not sent is sent by `finish`"]
#[derive(Debug, Default)]
pub struct Traces {
    #[cfg(feature = "otlp")]
    exporter: Option<otlp::Exporter>,
}

impl Traces {
    /// Sends the spans that were not sent yet. Blocks for a few seconds at most.
    pub fn finish(self) {
        #[cfg(feature = "otlp")]
        if let Some(exporter) = self.exporter {
            exporter.finish();
        }
    }
}

/// Starts logging, and sending spans to the collector at `traces`, over `runtime`. `filter` is in `tracing`'s syntax,
/// such as `info` or `foghorn=debug`.
#[cfg(feature = "otlp")]
pub fn start(filter: &str, traces: Option<&str>, runtime: &Handle) -> Traces {
    let exporter = traces.map(|url| otlp::Exporter::new(url, runtime.clone())).transpose();
    let layer = exporter.as_ref().ok().and_then(Option::as_ref).map(otlp::Exporter::layer);
    // A second start, in a test, keeps the first one's.
    let _ = filtered(filter).with(layer).with(log()).try_init();
    match exporter {
        Ok(exporter) => Traces { exporter },
        Err(error) => {
            tracing::error!(%error, "traces cannot be sent");
            Traces::default()
        }
    }
}

/// Starts logging. `filter` is in `tracing`'s syntax, such as `info` or `foghorn=debug`.
#[cfg(not(feature = "otlp"))]
pub fn start(filter: &str, traces: Option<&str>, _runtime: &Handle) -> Traces {
    // A second start, in a test, keeps the first one's.
    let _ = filtered(filter).with(log()).try_init();
    if traces.is_some() {
        tracing::warn!("this program was built without the feature otlp: no traces are sent");
    }
    Traces::default()
}

/// For all layers, not for each: a library that only asks whether an event would be told, as the database's does, makes
/// a layer's own filter lose the next one.
fn filtered(filter: &str) -> impl Subscriber + for<'a> LookupSpan<'a> + Send + Sync + use<> {
    let filter = EnvFilter::try_new(filter).unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::registry().with(filter).with(filter_fn(is_told))
}

fn log<S: Subscriber + for<'a> LookupSpan<'a>>() -> Box<dyn Layer<S> + Send + Sync> {
    let layer = tracing_subscriber::fmt::layer().with_ansi(false);
    match io::stderr().is_terminal() {
        true => layer.with_writer(|| Visible(visible::line)).boxed(),
        false => layer.json().flatten_event(true).with_writer(|| Visible(visible::json)).boxed(),
    }
}

/// Writes events on stderr, a line each, with what others chose in them made visible.
struct Visible(fn(&str) -> Cow<'_, str>);

impl Write for Visible {
    /// Takes a whole event, as the layer writes it.
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(event);
        let line = text.strip_suffix('\n').unwrap_or(&text);
        io::stderr().write_all(format!("{}\n", (self.0)(line)).as_bytes())?;
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What libraries say below `info` is never told: it may hold what passes through them, tokens and keys too.
fn is_told(of: &Metadata<'_>) -> bool {
    *of.level() <= Level::INFO || is_own(of)
}

fn is_own(of: &Metadata<'_>) -> bool {
    OWN.iter().any(|own| of.target().starts_with(own))
}
