//! `GET /v1/apps/{app}/logs`: the log of an app as plain lines, NDJSON, or server-sent events.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::extract::{ConnectInfo, Path, Query, State as Shared};
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use bytes::{Bytes, BytesMut};
use futures_util::stream;
use regex::RegexBuilder;
use serde::Deserialize;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use utoipa::IntoParams;

use super::Hub;
use super::auth::{Act, Caller, again};
use super::error::ApiError;
use super::format::Format;
use super::sessions::{audited, line, with_detail};
use crate::logs::follower::{Ask, Filter, Follower, Start, Terminals};
use crate::logs::line::Line;
use crate::logs::position::Positions;
use crate::protocol::PING;
use crate::session::now;
use crate::store::Micros;

/// How many lines come where nothing was asked for and the log is not followed.
const TAIL: usize = 100;

/// The most lines that `tail` takes; more is asked for with `since`.
const MAX_TAIL: usize = 100_000;

/// The longest `grep`, in bytes, and the largest program that it may become.
const GREP: (usize, usize) = (1024, 1 << 20);

/// What [`logs`] can be asked for.
#[derive(Debug, Default, Deserialize, IntoParams)]
pub struct LogsQuery {
    /// Go on with what comes.
    #[serde(default)]
    follow: bool,
    /// Start with so many of the last lines.
    tail: Option<usize>,
    /// Start at a time, or so long ago.
    since: Option<String>,
    /// Only of this session or process type.
    process: Option<String>,
    /// Only of containers with this name.
    container: Option<String>,
    /// Only lines in which this regular expression finds something.
    grep: Option<String>,
    /// Not of these sessions: their names, with commas between.
    without: Option<String>,
    /// Go on behind a line: its `resume`.
    from: Option<String>,
}

fn written(format: Format, line: &Line) -> Bytes {
    match format {
        Format::Plain => line.text(),
        Format::Json => line.json(),
        Format::Events => line.event(),
    }
}

/// `GET /v1/apps/{app}/logs`.
pub async fn logs(
    Shared(hub): Shared<Arc<Hub>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    caller: Caller,
    Path(app): Path<String>,
    query: Result<Query<LogsQuery>, QueryRejection>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let asked = match query {
        Ok(Query(query)) => ask(&app, query, &headers),
        Err(error) => Err(ApiError::invalid(error.body_text())),
    };
    let allowed = caller.check(&hub, Act::Logs, &app, "read the logs of this app").await.and(asked);
    let shown: String = app.chars().filter(|letter| !letter.is_control()).take(64).collect();
    let line = with_detail(line(&caller, "logs", None, peer), &shown);
    let mut ask = audited(&hub, line, allowed)?;
    ask.filter.terminals = caller.terminals(&hub, &app).await?;
    let format = Format::asked(&headers);
    let follow = ask.follow;
    let follower = hub.logs.follow(&app, ask).await?;
    let (stop, checked) = (hub.tasks.stopping(), Instant::now());
    let reading = Reading { hub, caller, app, follower, follow, format, lines: Vec::new(), checked, stop };
    let pieces = stream::unfold(Some(reading), |reading| async move {
        let mut reading = reading?;
        match reading.next().await {
            Next::Lines(bytes) => Some((Ok(bytes), Some(reading))),
            Next::End => None,
            // The connection is broken off: what the client has is not what it asked for.
            Next::Broken => Some((Err(io::Error::from(io::ErrorKind::Interrupted)), None)),
        }
    });
    let kind = (header::CONTENT_TYPE, format.content_type("text/plain; charset=utf-8"));
    Ok(([kind], Body::from_stream(pieces)).into_response())
}

fn ask(app: &str, query: LogsQuery, headers: &HeaderMap) -> Result<Ask, ApiError> {
    let letter = |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '-' | '_' | '.');
    if app.is_empty() || app.len() > 63 || !app.chars().all(letter) {
        return Err(ApiError::invalid("an app's name has 1 to 63 letters, digits, '-', '_' and '.'"));
    }
    let grep = query.grep.as_deref().filter(|grep| !grep.is_empty()).map(pattern).transpose()?;
    let filter = Filter {
        process: query.process.filter(|process| !process.is_empty()),
        container: query.container.filter(|container| !container.is_empty()),
        grep,
        without: query.without.iter().flat_map(|names| names.split(',')).map(ToOwned::to_owned).collect(),
        terminals: Terminals::Nobodys,
    };
    // What a browser's event source says by itself when it comes back.
    let last_event = headers.get("last-event-id").and_then(|id| id.to_str().ok()).map(ToOwned::to_owned);
    let resume = last_event.or(query.from).filter(|token| !token.is_empty());
    let since = query.since.as_deref().map(since).transpose()?;
    let start = match (resume, query.tail, since) {
        (Some(token), ..) => Start::Resume(Positions::parse(app, &token).ok_or_else(|| {
            ApiError::invalid("from is not a resume token of this app's log; leave it out to start anew")
        })?),
        (None, Some(0), _) => Start::Now,
        (None, Some(tail), since) => Start::Last { tail: Some(tail.min(MAX_TAIL)), since },
        (None, None, Some(since)) => Start::Last { tail: None, since: Some(since) },
        (None, None, None) if query.follow => Start::Now,
        (None, None, None) => Start::Last { tail: Some(TAIL), since: None },
    };
    Ok(Ask { start, filter, follow: query.follow })
}

fn pattern(grep: &str) -> Result<regex::Regex, ApiError> {
    if grep.len() > GREP.0 {
        return Err(ApiError::invalid(format!("grep is longer than {} bytes", GREP.0)));
    }
    let built = RegexBuilder::new(grep).size_limit(GREP.1).dfa_size_limit(GREP.1).build();
    built.map_err(|error| ApiError::invalid(format!("grep is not a regular expression that can be used: {error}")))
}

/// A time, or a duration before now.
fn since(text: &str) -> Result<Micros, ApiError> {
    if let Ok(ago) = humantime::parse_duration(text) {
        return Ok(now().saturating_sub(Micros::try_from(ago.as_micros()).unwrap_or(Micros::MAX)));
    }
    let time: Result<jiff::Timestamp, _> = text.parse();
    let invalid =
        |_| ApiError::invalid("since is neither a duration such as 5m nor a time such as 2026-11-22T10:00:00Z");
    time.map(jiff::Timestamp::as_microsecond).map_err(invalid)
}

/// Whether a caller may read an app's log still: whose terminals in it then.
async fn may_go_on(hub: &Hub, caller: &Caller, app: &str) -> Option<Terminals> {
    let caller = again(hub, caller).await?;
    let may = caller.may(hub, Act::Logs, app).await.unwrap_or(false);
    if may { caller.terminals(hub, app).await.ok() } else { None }
}

/// One answer, as it is written.
struct Reading {
    hub: Arc<Hub>,
    caller: Caller,
    app: String,
    follower: Follower,
    follow: bool,
    format: Format,
    lines: Vec<Arc<Line>>,
    /// When the caller's right was looked at last.
    checked: Instant,
    stop: CancellationToken,
}

/// What comes of an answer next.
enum Next {
    Lines(Bytes),
    /// There is no more: all that was asked for was written, or a follower has to come back.
    End,
    /// There would be more, but not for this caller, or not from this hub.
    Broken,
}

impl Reading {
    async fn next(&mut self) -> Next {
        let (stop, mut quiet) = (self.stop.clone(), false);
        loop {
            // Before anything is read: who did not take what there was may have lost their right since.
            if self.checked.elapsed() >= PING {
                let Some(terminals) = may_go_on(&self.hub, &self.caller, &self.app).await else {
                    return self.end();
                };
                self.follower.set_terminals(terminals);
                self.checked = Instant::now();
                if quiet && self.format == Format::Events {
                    // A comment, so that nothing in between takes the connection for dead.
                    return Next::Lines(Bytes::from_static(b":\n\n"));
                }
            }
            let next = timeout_at(self.checked + PING, self.follower.next(&mut self.lines));
            let Some(next) = stop.run_until_cancelled(next).await else {
                return self.end();
            };
            if !self.lines.is_empty() {
                return Next::Lines(self.written());
            }
            if next == Ok(false) {
                return Next::End;
            }
            quiet = next.is_err();
        }
    }

    /// A follower comes back where its answer ends; who asked for what there is must not take a part for all.
    fn end(&self) -> Next {
        if self.follow { Next::End } else { Next::Broken }
    }

    fn written(&mut self) -> Bytes {
        if let [line] = &self.lines[..] {
            let bytes = written(self.format, line);
            self.lines.clear();
            return bytes;
        }
        let mut bytes = BytesMut::new();
        self.lines.drain(..).for_each(|line| bytes.extend_from_slice(&written(self.format, &line)));
        bytes.freeze()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(query: LogsQuery) -> Result<Ask, ApiError> {
        ask("blog", query, &HeaderMap::new())
    }

    #[test]
    fn what_is_not_said_is_the_last_lines_or_what_comes() {
        let start = |query| asked(query).expect("valid").start;
        assert!(matches!(start(LogsQuery::default()), Start::Last { tail: Some(TAIL), since: None }));
        assert!(matches!(start(LogsQuery { follow: true, ..LogsQuery::default() }), Start::Now));
        let since = || Some("5m".to_owned());
        assert!(matches!(
            start(LogsQuery { since: since(), ..LogsQuery::default() }),
            Start::Last { tail: None, since: Some(_) }
        ));
        let from = Some(Positions::default().token("blog"));
        assert!(matches!(start(LogsQuery { from, tail: Some(3), ..LogsQuery::default() }), Start::Resume(_)));
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        let text = |text: &str| Some(text.to_owned());
        for query in [
            LogsQuery { grep: text("("), ..LogsQuery::default() },
            LogsQuery { grep: text("(a{1000}){1000}"), ..LogsQuery::default() },
            LogsQuery { since: text("yesterday"), ..LogsQuery::default() },
            LogsQuery { from: text("zzz"), ..LogsQuery::default() },
        ] {
            let shown = format!("{query:?}");
            assert_eq!(asked(query).err().map(|error| error.code), Some("invalid_request"), "{shown}");
        }
        assert!(ask("../x", LogsQuery::default(), &HeaderMap::new()).is_err());
    }
}
