//! An app's log, as the hub merges it.

use std::borrow::Cow;
use std::time::Duration;

use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::time::{Instant, sleep, timeout};

use super::{DEFAULT_LINES, LogsArgs};
use crate::cli::failure::{Failure, OTHER};
use crate::cli::filter::{Filter, Policy};
use crate::cli::lines::Lines;
use crate::cli::notice::note;
use crate::cli::output::print_as_is;
use crate::cli::{Context, Format, terminal, within};
use crate::client::backoff::Backoff;
use crate::client::error::ClientError;
use crate::client::http::{Ask, encode};
use crate::protocol::LogLine;
use crate::visible;

/// A log that says nothing for so long is asked for again where it stood.
const SILENCE: Duration = Duration::from_secs(600);

/// For how long a log that cannot be had is asked for without a word.
const AT_ONCE: Duration = Duration::from_secs(2);

struct Log<'a> {
    args: &'a LogsArgs,
    app: String,
    /// The sessions around this client, where the log is followed.
    without: Vec<String>,
    resume: Option<String>,
    colours: bool,
    /// True once the hub said that something that was asked for cannot be read.
    unread: bool,
}

pub(super) async fn run(context: &Context, args: LogsArgs) -> Result<u8, Failure> {
    let app = context.app(args.app.as_deref())?;
    let without = if args.follow { within::names(context, &app).await } else { Vec::new() };
    let mut log = Log { app, without, resume: None, colours: terminal::is_stdout(), unread: false, args: &args };
    let mut backoff = Backoff::default();
    // Since when there is no log.
    let mut lost: Option<Instant> = None;
    let limit = context.settings.reconnect_limit;
    let is_over = |lost: Option<Instant>| lost.is_some_and(|since| since.elapsed() > limit);
    loop {
        let ask = Ask { accept: "application/x-ndjson", ..Ask::get(log.path()) };
        let before = log.resume.clone();
        let outcome = match context.api.send(&ask, AT_ONCE).await {
            Ok(answer) => {
                lost = None;
                log.read(answer.into_body()).await
            }
            Err(error) if error.is_passing() && !is_over(lost) => {
                if lost.is_none() {
                    note(&format!("the log cannot be had, trying again… ({error})"));
                }
                lost.get_or_insert_with(Instant::now);
                sleep(backoff.wait()).await;
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        match outcome {
            Ok(()) if !args.follow => return Ok(if log.unread { OTHER } else { 0 }),
            Err(Stop::Failure(failure)) => return Err(failure),
            Err(Stop::Broken(reason)) if !args.follow => return Err(ClientError::Broken(reason).into()),
            Err(Stop::Broken(reason)) => note(&format!("the hub is lost, reconnecting… ({reason})")),
            Ok(()) => {}
        }
        if log.resume != before {
            backoff.reset();
        }
        sleep(backoff.wait()).await;
    }
}

enum Stop {
    Broken(String),
    Failure(Failure),
}

impl Log<'_> {
    fn path(&self) -> String {
        // All since a time, unless a number says otherwise.
        let lines = self.args.lines.or(self.args.since.is_none().then_some(DEFAULT_LINES));
        let grep = self.args.grep.as_ref().map(|grep| grep.as_str().to_owned());
        let tail = lines.filter(|_| self.resume.is_none()).map(|lines| lines.to_string());
        let since = self.args.since.clone().filter(|_| self.resume.is_none());
        let pairs = [
            ("tail", tail),
            ("since", since),
            ("process", self.args.ps.clone()),
            ("container", self.args.container.clone()),
            ("grep", grep),
            ("from", self.resume.clone()),
            ("without", (!self.without.is_empty()).then(|| self.without.join(","))),
        ];
        let pairs = pairs.into_iter().filter_map(|(name, value)| Some(format!("&{name}={}", encode(&value?))));
        format!("/v1/apps/{}/logs?follow={}{}", encode(&self.app), self.args.follow, pairs.collect::<String>())
    }

    async fn read(&mut self, mut body: Incoming) -> Result<(), Stop> {
        let mut lines = Lines::default();
        loop {
            let frame = match timeout(SILENCE, body.frame()).await {
                Ok(Some(Ok(frame))) => frame,
                Ok(Some(Err(error))) => return Err(Stop::Broken(error.to_string())),
                Ok(None) => return Ok(()),
                Err(_) => return Err(Stop::Broken("nothing came for a long time".to_owned())),
            };
            let Ok(data) = frame.into_data() else { continue };
            let mut out = String::new();
            lines.push(&data, |line| self.line(line, &mut out));
            print_as_is(&out).map_err(|error| Stop::Failure(error.into()))?;
        }
    }

    fn line(&mut self, json: &[u8], out: &mut String) {
        let Ok(line) = serde_json::from_slice::<LogLine>(json) else { return };
        if let Some(resume) = &line.resume {
            self.resume = Some(resume.clone());
        }
        self.unread |= line.unread;
        match self.args.output {
            Format::Json => out.push_str(&visible::json(&String::from_utf8_lossy(json))),
            Format::Text => out.push_str(&self.text(&line)),
        }
    }

    fn text(&self, line: &LogLine) -> String {
        let message = match (self.colours, line.stream.as_str()) {
            (false, _) => Cow::Borrowed(line.message.as_str()),
            (true, "hub") => visible::line(&line.message),
            (true, _) => coloured(&line.message).into(),
        };
        let time = line.time.strip_suffix('Z').map_or_else(|| line.time.clone(), |time| format!("{time}+00:00"));
        let origin = if line.stream == "hub" { "foghorn" } else { "app" };
        format!("{} {origin}[{}]: {message}\n", visible::line(&time), visible::line(&line.process))
    }
}

/// What of a command's message may reach a terminal: text and colours, which end with it.
fn coloured(message: &str) -> String {
    let (mut filter, mut out) = (Filter::new(Policy::Colours), Vec::new());
    filter.feed(message.as_bytes(), &mut out);
    out.extend_from_slice(&filter.modes().take_back());
    // A message is one line; more would look like lines of others.
    String::from_utf8_lossy(&out).replace('\n', "\\u{a}")
}

#[cfg(test)]
mod tests {
    use super::coloured;

    #[test]
    fn a_colour_ends_with_its_line() {
        assert_eq!(coloured("\u{1b}[31mred"), "\u{1b}[31mred\u{1b}[0m");
        assert_eq!(coloured("\u{1b}[31mred\u{1b}[m\u{1b}]0;t\u{7}"), "\u{1b}[31mred\u{1b}[m");
    }
}
