//! One session's output: every byte where nothing else is asked for, else its lines.

use std::time::SystemTime;

use bytes::Bytes;

use super::LogsArgs;
use crate::cli::failure::Failure;
use crate::cli::filter::{Filter, Policy};
use crate::cli::lines::{Lines, Wanted};
use crate::cli::output::Sink;
use crate::cli::piped::{Piped, Shape, Until};
use crate::cli::{Context, Format, terminal, within};
use crate::client::follow::{Ask, Follower};
use crate::protocol::{LogLine, Mode, Role, SessionInfo};
use crate::record::{Payload, Record, STATUS_HUB_FAILED, Stream};
use crate::visible;

pub(super) async fn run(context: &Context, args: LogsArgs, id: &str) -> Result<u8, Failure> {
    let session = context.api.session(id).await?;
    if args.follow {
        within::refuse(&session)?;
    }
    let ask = Ask { id: id.to_owned(), mode: Mode::Bytes, role: Role::Watch, from: Some(0), size: None, paces: false };
    let until = if args.follow { Until::End } else { Until::Head };
    let piped = Piped {
        follower: Follower::new(context.hubs(), ask),
        sink: Sink::standard()?,
        input: None,
        forward: false,
        stop_if_unread: false,
        until,
        shape: Some(shape(args, session)),
    };
    let outcome = piped.run().await?;
    Ok(if outcome.gaps { STATUS_HUB_FAILED } else { 0 })
}

fn shape(args: LogsArgs, session: SessionInfo) -> Shape {
    let since = args.since.as_deref().and_then(|since| humantime::parse_duration(since).ok());
    let since = since.and_then(|since| SystemTime::now().checked_sub(since)).map_or(0, micros);
    let wanted = Wanted::new(args.grep, args.lines);
    let colours = terminal::is_stdout().then(|| Filter::new(Policy::Colours));
    if wanted.is_everything() && since == 0 && args.output == Format::Text {
        return Box::new(|record: &Record, _: bool| plain(record)).filtered(colours);
    }
    let json = (args.output == Format::Json).then_some(session);
    let mut shaper = Shaper { since, wanted, json, lines: [Lines::default(), Lines::default()] };
    Box::new(move |record: &Record, past: bool| Some(shaper.shape(record, past))).filtered(colours)
}

/// The filter for a terminal around a shape.
trait Filtered {
    fn filtered(self, colours: Option<Filter>) -> Shape;
}

impl<F: FnMut(&Record, bool) -> Option<(Stream, Bytes)> + 'static> Filtered for Box<F> {
    fn filtered(mut self, colours: Option<Filter>) -> Shape {
        let Some(mut filter) = colours else { return self };
        Box::new(move |record, past| {
            let (stream, data) = self(record, past)?;
            let mut out = Vec::with_capacity(data.len());
            filter.feed(&data, &mut out);
            if matches!(record.payload, Payload::Unknown(_)) {
                out.extend_from_slice(&filter.modes().take_back());
            }
            Some((stream, out.into()))
        })
    }
}

fn plain(record: &Record) -> Option<(Stream, Bytes)> {
    match &record.payload {
        Payload::Output(_, data) => Some((Stream::Stdout, data.clone())),
        _ => Some((Stream::Stdout, Bytes::new())),
    }
}

fn micros(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_micros() as u64
}

struct Shaper {
    since: u64,
    wanted: Wanted,
    json: Option<SessionInfo>,
    lines: [Lines; 2],
}

impl Shaper {
    fn shape(&mut self, record: &Record, past: bool) -> (Stream, Bytes) {
        let mut out = Vec::new();
        match &record.payload {
            Payload::Output(stream, data) if record.time >= self.since => {
                let (json, wanted) = (self.json.as_ref(), &mut self.wanted);
                let lines = &mut self.lines[usize::from(*stream == Stream::Stderr)];
                lines.push(data, |text| wanted.line(text, &line(json, text, *stream, record.time), &mut out));
            }
            Payload::Unknown(_) => {
                for (stream, lines) in [Stream::Stdout, Stream::Stderr].into_iter().zip(&mut self.lines) {
                    let (json, wanted) = (self.json.as_ref(), &mut self.wanted);
                    let now = micros(SystemTime::now());
                    lines.end(|text| wanted.line(text, &line(json, text, stream, now), &mut out));
                }
            }
            _ => {}
        }
        if !past {
            self.wanted.now(&mut out);
        }
        (Stream::Stdout, out.into())
    }
}

/// A line as it is shown.
fn line(json: Option<&SessionInfo>, text: &[u8], stream: Stream, time: u64) -> Vec<u8> {
    let Some(session) = json else { return text.to_vec() };
    let message = text.strip_suffix(b"\n").unwrap_or(text);
    let message = message.strip_suffix(b"\r").unwrap_or(message);
    let line = LogLine {
        time: timestamp(time),
        app: session.app.clone(),
        process: session.name.clone(),
        container: None,
        stream: if stream == Stream::Stderr { "stderr" } else { "stdout" }.to_owned(),
        message: String::from_utf8_lossy(message).into_owned(),
        unread: false,
        resume: None,
    };
    let json = serde_json::to_string(&line).unwrap_or_default();
    format!("{}\n", visible::json(&json)).into_bytes()
}

fn timestamp(micros: u64) -> String {
    let time = i64::try_from(micros).ok().and_then(|micros| jiff::Timestamp::from_microsecond(micros).ok());
    let time = format!("{:.6}", time.unwrap_or_default());
    time.strip_suffix('Z').map_or_else(|| time.clone(), |time| format!("{time}+00:00"))
}
