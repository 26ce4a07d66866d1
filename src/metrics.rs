//! What a hub counts, for Prometheus.
//!
//! What is counted on the way of the bytes is a relaxed atomic, and nothing else: no lock, no allocation, no lookup.
//! Labels are the program's own words, so their number is bounded; no name of a person, an app, a command or a session
//! ever is one.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Metric, Registry};

use crate::record::{Exit, Reason, between};

/// A viewer that is further behind than this counts as one that is behind, in bytes.
pub const BEHIND: u64 = 256 << 10;

/// Bounds of the classes of the store's answers, in seconds.
const STORE_SECONDS: [f64; 12] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0];

/// How a viewer watches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Watching {
    /// Every byte.
    Bytes,
    /// A screen.
    Screen,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct SessionLabels {
    state: &'static str,
    kind: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ViewerLabels {
    role: &'static str,
    mode: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CauseLabel {
    cause: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabel {
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    route: &'static str,
    status: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StoreLabels {
    operation: &'static str,
    outcome: &'static str,
}

/// What a hub counts. See the module's documentation.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    sessions: Family<SessionLabels, Gauge>,
    starts: Family<Outcome, Counter>,
    ends: Family<CauseLabel, Counter>,
    viewers: Family<ViewerLabels, Gauge>,
    /// Viewers that came.
    joins: Counter,
    /// Those of them that came back: their hello said where they had got to.
    rejoins: Counter,
    /// The viewers that are here, for how far behind they are.
    here: Mutex<HashMap<u64, Arc<Following>>>,
    next: AtomicU64,
    lag: Gauge,
    behind: Gauge,
    /// Bytes of records that came from sources.
    pub source_bytes: Counter,
    /// Messages with records that came from sources.
    pub source_messages: Counter,
    /// Bytes that went to viewers.
    pub viewer_bytes: Counter,
    /// Deliveries to viewers: each is one write of whatever was new.
    pub viewer_deliveries: Counter,
    /// Snapshots of screens that were sent.
    pub snapshots: Counter,
    /// Hubs that went on under other numbers where nothing is known to be missing.
    renumbered: Counter,
    gaps: ByReason,
    source_gaps: ByReason,
    agents: Family<Outcome, Counter>,
    requests: Family<RequestLabels, Counter>,
    reviews: Family<Outcome, Counter>,
    store: Family<StoreLabels, Histogram>,
    tokens_unreadable: Gauge,
    audit_waiting: Gauge,
    /// Lines of the audit trail that are in the log alone.
    pub audit_unstored: Counter,
}

/// How far a viewer is.
struct Following {
    sent: AtomicU64,
    head: Box<dyn Fn() -> u64 + Send + Sync>,
}

impl fmt::Debug for Following {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Following").field("sent", &self.sent).finish_non_exhaustive()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A count for each reason that is a loss.
type ByReason = Vec<(Reason, Counter)>;

fn count(gaps: &ByReason, reason: Reason) {
    if let Some((_, counter)) = gaps.iter().find(|(known, _)| *known == reason) {
        counter.inc();
    }
}

/// Registers a metric, and returns it.
fn add<M: Metric + Clone>(registry: &mut Registry, name: &str, help: &str, metric: M) -> M {
    registry.register(name, help, metric.clone());
    metric
}

impl Metrics {
    /// Nothing is counted yet.
    #[must_use]
    pub fn new() -> Arc<Self> {
        let mut all = Registry::with_prefix("foghorn");
        let r = &mut all;
        let build = Info::new([("version", env!("CARGO_PKG_VERSION"))]);
        r.register("build", "The program that serves", build);
        let gaps = add(r, "gaps", "Gaps that viewers were told of in what is not in memory", Family::default());
        let source_gaps = add(r, "source_gaps", "Gaps in what came from sources", Family::default());
        let by_reason = |family: &Family<ReasonLabel, Counter>| {
            let losses = Reason::ALL.into_iter().filter(|(reason, _)| reason.is_loss());
            losses.map(|(why, reason)| (why, family.get_or_create(&ReasonLabel { reason }).clone())).collect()
        };
        let timed = || Histogram::new(STORE_SECONDS);
        let metrics = Self {
            sessions: add(r, "sessions", "Sessions in memory, by state and kind", Family::default()),
            starts: add(r, "starts", "Requests to start a session, by outcome", Family::default()),
            ends: add(r, "ends", "Sessions that ended, by cause", Family::default()),
            viewers: add(r, "viewers", "Viewers that are here, by role and mode", Family::default()),
            joins: add(r, "viewer_joins", "Viewers that came", Counter::default()),
            rejoins: add(r, "viewer_reconnects", "Viewers that came back", Counter::default()),
            here: Mutex::default(),
            next: AtomicU64::new(0),
            lag: add(r, "viewer_lag_bytes", "How far behind the slowest viewer is", Gauge::default()),
            behind: add(r, "viewers_behind", "Viewers that are more than 256 KiB behind", Gauge::default()),
            source_bytes: add(r, "source_bytes", "Bytes of records from sources", Counter::default()),
            source_messages: add(r, "source_messages", "Messages with records from sources", Counter::default()),
            viewer_bytes: add(r, "viewer_bytes", "Bytes to viewers", Counter::default()),
            viewer_deliveries: add(r, "viewer_deliveries", "Writes of what was new to viewers", Counter::default()),
            snapshots: add(r, "snapshots", "Snapshots of screens that were sent", Counter::default()),
            gaps: by_reason(&gaps),
            source_gaps: by_reason(&source_gaps),
            renumbered: add(
                r,
                "renumbered",
                "Changes of the numbers of what came from sources, where nothing is known to be missing",
                Counter::default(),
            ),
            agents: add(r, "agent_connections", "Connections to agents, by outcome", Family::default()),
            requests: add(r, "http_requests", "Requests, by route and class of status", Family::default()),
            reviews: add(r, "reviews", "Questions to the authorizer, by its answer", Family::default()),
            store: add(
                r,
                "store_seconds",
                "How long the store took to answer, by operation and outcome",
                Family::new_with_constructor(timed as fn() -> Histogram),
            ),
            tokens_unreadable: add(r, "tokens_unreadable", "Whether the tokens cannot be read", Gauge::default()),
            audit_waiting: add(
                r,
                "audit_waiting",
                "Lines of the audit trail that wait for the store",
                Gauge::default(),
            ),
            audit_unstored: add(r, "audit_unstored", "Lines of the audit trail in the log alone", Counter::default()),
            registry: all,
        };
        metrics.name_what_has_not_happened();
        Arc::new(metrics)
    }

    /// What is counted from the start, so that it is there with a zero before it first happens.
    fn name_what_has_not_happened(&self) {
        for (role, mode) in [("watcher", "bytes"), ("watcher", "screen"), ("driver", "bytes"), ("driver", "screen")] {
            drop(self.viewers.get_or_create(&ViewerLabels { role, mode }));
        }
        for outcome in ["first", "again", "gone", "taken", "unreachable"] {
            drop(self.agents.get_or_create(&Outcome { outcome }));
        }
        for outcome in ["yes", "no", "away"] {
            drop(self.reviews.get_or_create(&Outcome { outcome }));
        }
        for cause in Exit::NAMES {
            drop(self.ends.get_or_create(&CauseLabel { cause }));
        }
        drop(self.starts.get_or_create(&Outcome { outcome: "ok" }));
    }

    /// All metrics in Prometheus' text format.
    ///
    /// # Errors
    /// Where one cannot be written, which is a mistake in the program.
    pub fn text(&self) -> Result<String, fmt::Error> {
        self.note_lag();
        let mut out = String::new();
        text::encode(&mut out, &self.registry)?;
        Ok(out)
    }

    fn note_lag(&self) {
        let behind = |viewer: &Arc<Following>| between(viewer.sent.load(Ordering::Relaxed), (viewer.head)());
        // Looked at outside the lock: viewers come and go meanwhile.
        let here: Vec<_> = lock(&self.here).values().cloned().collect();
        let lags: Vec<u64> = here.iter().map(behind).collect();
        self.lag.set(lags.iter().copied().max().unwrap_or(0) as i64);
        self.behind.set(lags.iter().filter(|lag| **lag > BEHIND).count() as i64);
    }

    /// Notes how many sessions there are, by state and kind. What is not named has none.
    pub fn note_sessions(&self, count: &BTreeMap<(&'static str, &'static str), usize>) {
        self.sessions.clear();
        for ((state, kind), count) in count {
            self.sessions.get_or_create(&SessionLabels { state, kind }).set(*count as i64);
        }
    }

    /// Notes how many lines of the audit trail wait for the store.
    pub fn note_audit_waiting(&self, lines: usize) {
        self.audit_waiting.set(lines as i64);
    }

    /// Notes whether the file of tokens cannot be read now.
    pub fn note_tokens_unreadable(&self, unreadable: bool) {
        self.tokens_unreadable.set(unreadable.into());
    }

    /// A start was asked for: `ok`, or the code of the error that answered it.
    pub fn start(&self, outcome: &'static str) {
        self.starts.get_or_create(&Outcome { outcome }).inc();
    }

    /// A session ended.
    pub fn end(&self, exit: &Exit) {
        self.ends.get_or_create(&CauseLabel { cause: exit.name() }).inc();
    }

    /// A viewer was told of a gap in what is not in memory any more.
    pub fn gap(&self, reason: Reason) {
        count(&self.gaps, reason);
    }

    /// A source could not give a range, or goes on under other numbers. Counted once, however many follow.
    pub fn source_gap(&self, reason: Reason) {
        if reason.is_loss() {
            count(&self.source_gaps, reason);
        } else {
            self.renumbered.inc();
        }
    }

    /// A connection to an agent was tried: `first`, `again` to one that had been started over another connection, or why
    /// there is none.
    pub fn agent(&self, outcome: &'static str) {
        self.agents.get_or_create(&Outcome { outcome }).inc();
    }

    /// A request was answered with this status. `route` is the template, never the path that came.
    pub fn request(&self, route: &'static str, status: u16) {
        let status = match status {
            100..200 => "1xx",
            200..300 => "2xx",
            300..400 => "3xx",
            400..500 => "4xx",
            _ => "5xx",
        };
        self.requests.get_or_create(&RequestLabels { route, status }).inc();
    }

    /// The authorizer was asked: `yes`, `no`, or `away`.
    pub fn review(&self, outcome: &'static str) {
        self.reviews.get_or_create(&Outcome { outcome }).inc();
    }

    /// The store answered.
    pub fn store(&self, operation: &'static str, outcome: &'static str, took: Duration) {
        self.store.get_or_create(&StoreLabels { operation, outcome }).observe(took.as_secs_f64());
    }

    /// A viewer is here until what this returns is dropped. `from` is where its hello said that it had got to; `head`
    /// tells where the session's output ends.
    #[must_use]
    pub fn viewer(
        self: &Arc<Self>,
        watching: Watching,
        from: Option<u64>,
        head: impl Fn() -> u64 + Send + Sync + 'static,
    ) -> Viewer {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let following = Arc::new(Following { sent: AtomicU64::new(from.unwrap_or(0)), head: Box::new(head) });
        lock(&self.here).insert(number, following.clone());
        self.joins.inc();
        if from.is_some() {
            self.rejoins.inc();
        }
        let mode = match watching {
            Watching::Bytes => "bytes",
            Watching::Screen => "screen",
        };
        let gauge = |role| self.viewers.get_or_create(&ViewerLabels { role, mode }).clone();
        let (watchers, drivers) = (gauge("watcher"), gauge("driver"));
        watchers.inc();
        Viewer { metrics: self.clone(), number, following, drives: AtomicBool::new(false), watchers, drivers }
    }
}

/// A viewer that is here, until it is dropped. It counts as a watcher until it drives.
#[derive(Debug)]
pub struct Viewer {
    metrics: Arc<Metrics>,
    number: u64,
    following: Arc<Following>,
    drives: AtomicBool,
    watchers: Gauge,
    drivers: Gauge,
}

impl Viewer {
    /// Whether it drives now.
    pub fn drives(&self, drives: bool) {
        if self.drives.swap(drives, Ordering::Relaxed) != drives {
            let (from, to) = if drives { (&self.watchers, &self.drivers) } else { (&self.drivers, &self.watchers) };
            from.dec();
            to.inc();
        }
    }

    /// So many bytes went to it with one write, and it has the output up to `offset`.
    pub fn sent(&self, bytes: u64, offset: u64) {
        self.metrics.viewer_bytes.inc_by(bytes);
        self.metrics.viewer_deliveries.inc();
        self.following.sent.store(offset, Ordering::Relaxed);
    }
}

impl Drop for Viewer {
    fn drop(&mut self) {
        lock(&self.metrics.here).remove(&self.number);
        let role = if self.drives.load(Ordering::Relaxed) { &self.drivers } else { &self.watchers };
        role.dec();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_viewer_counts_while_it_is_here() {
        let metrics = Metrics::new();
        let count = |line: &str| metrics.text().expect("writes").lines().any(|known| known == line);
        let viewer = metrics.viewer(Watching::Screen, Some(7), || 300_007);
        assert!(count(r#"foghorn_viewers{role="watcher",mode="screen"} 1"#));
        assert!(count("foghorn_viewer_lag_bytes 300000") && count("foghorn_viewers_behind 1"));
        viewer.drives(true);
        viewer.drives(true);
        viewer.sent(299_990, 299_997);
        assert!(count(r#"foghorn_viewers{role="driver",mode="screen"} 1"#));
        assert!(count("foghorn_viewer_lag_bytes 10") && count("foghorn_viewer_bytes_total 299990"));
        drop(viewer);
        assert!(count(r#"foghorn_viewers{role="driver",mode="screen"} 0"#));
        assert!(count(r#"foghorn_viewers{role="watcher",mode="screen"} 0"#));
        assert!(count("foghorn_viewer_joins_total 1") && count("foghorn_viewer_reconnects_total 1"));
        assert!(count("foghorn_viewer_lag_bytes 0"));
    }

    #[test]
    fn each_reason_has_its_count() {
        let metrics = Metrics::new();
        metrics.gap(Reason::NotRecorded);
        let text = metrics.text().expect("writes");
        assert!(text.contains(r#"foghorn_gaps_total{reason="not_recorded"} 1"#), "{text}");
        assert!(text.contains(r#"foghorn_gaps_total{reason="spool_full"} 0"#), "{text}");
        for (reason, name) in Reason::ALL {
            let before = metrics.text().expect("writes");
            metrics.gap(reason);
            let after = metrics.text().expect("writes");
            let counted = after.lines().any(|line| {
                line.starts_with(&format!("foghorn_gaps_total{{reason=\"{name}\"}}")) && !before.contains(line)
            });
            assert_eq!(counted, reason.is_loss(), "{name}: {after}");
        }
        metrics.source_gap(Reason::Renumbered);
        let text = metrics.text().expect("writes");
        assert!(text.contains("foghorn_renumbered_total 1") && !text.contains("\"renumbered\""), "{text}");
    }

    #[test]
    fn each_count_is_of_one_kind_of_gap() {
        let metrics = Metrics::new();
        metrics.source_gap(Reason::SpoolFull);
        let text = metrics.text().expect("writes");
        assert!(text.contains(r#"foghorn_source_gaps_total{reason="spool_full"} 1"#), "{text}");
        assert!(text.contains(r#"foghorn_gaps_total{reason="spool_full"} 0"#), "{text}");
    }
}
