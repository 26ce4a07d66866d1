//! `foghorn replay`: a session's output again, as it was in time.

use std::time::Duration;

use bytes::Bytes;
use clap::Args;
use tokio::select;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Instant, sleep_until};

use super::failure::{BROKEN_PIPE, Failure};
use super::filter::{Filter, Policy};
use super::notice::note;
use super::output::Sink;
use super::painter::{Need, Painter};
use super::{Context, terminal};
use crate::client::follow::{Ask, Event, Follower};
use crate::protocol::{Mode, Role};
use crate::record::{Payload, Record, STATUS_HUB_FAILED, Size, Stream};

/// No more is shown while so many bytes wait for the terminal.
const QUEUE_LIMIT: usize = 128 << 10;

/// The arguments of `replay`.
#[derive(Args)]
pub struct ReplayArgs {
    /// The session's UUID or short name
    pub id: String,
    /// So many times as fast
    #[arg(long, default_value_t = 1.0, value_parser = speed)]
    pub speed: f64,
    /// Wait no longer than this where nothing happens, such as 2s
    #[arg(long, value_parser = pause)]
    pub max_pause: Option<Duration>,
}

fn speed(text: &str) -> Result<f64, String> {
    let speed = text.parse::<f64>().ok().filter(|speed| speed.is_finite() && *speed > 0.0);
    speed.ok_or_else(|| "give a number above 0, such as 2 or 0.5".to_owned())
}

fn pause(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|_| "give a time such as 2s".to_owned())
}

/// When the next record is due.
struct Clock {
    speed: f64,
    max_pause: Duration,
    last: Option<u64>,
    due: Instant,
}

impl Clock {
    fn new(args: &ReplayArgs) -> Self {
        Self { speed: args.speed, max_pause: args.max_pause.unwrap_or(Duration::MAX), last: None, due: Instant::now() }
    }

    fn due(&mut self, time: u64) -> Instant {
        let passed = Duration::from_micros(time.saturating_sub(self.last.unwrap_or(time)));
        // A pause beyond what can be told apart from for ever is cut.
        let scaled =
            Duration::try_from_secs_f64(passed.as_secs_f64() / self.speed).unwrap_or(Duration::from_secs(1 << 30));
        self.last = Some(time.max(self.last.unwrap_or(0)));
        self.due += scaled.min(self.max_pause);
        self.due
    }
}

struct Replay {
    follower: Follower,
    sink: Sink,
    painter: Option<Painter>,
    /// What the terminal gets of stderr's output where only stderr is one.
    errors: Option<Filter>,
    /// Whether stderr goes to a file or a pipe, which get every byte.
    plain_errors: bool,
    clock: Clock,
    waiting: Option<(Instant, Record)>,
    head: Option<u64>,
    gaps: bool,
}

/// Replays it, up to where the output ends now.
///
/// # Errors
/// Where the hub fails, or nobody looks any more.
pub async fn run(context: &Context, args: ReplayArgs) -> Result<u8, Failure> {
    let session = context.api.session(&args.id).await?;
    let id = session.id.to_string();
    let ask = Ask { id, mode: Mode::Bytes, role: Role::Watch, from: Some(0), size: None, paces: false };
    let window = terminal::window().filter(|_| terminal::is_stdout());
    let mut replay = Replay {
        follower: Follower::new(context.hubs(), ask),
        sink: Sink::standard()?,
        errors: (window.is_none() && terminal::is_stderr()).then(|| Filter::new(Policy::Shown)),
        plain_errors: !terminal::is_stderr(),
        painter: window.map(|window| Painter::new(window, false)),
        clock: Clock::new(&args),
        waiting: None,
        head: None,
        gaps: false,
    };
    let mut interrupt = signal(SignalKind::interrupt())?;
    let outcome = loop {
        select! {
            outcome = replay.turn() => if let Some(outcome) = outcome { break outcome },
            _ = interrupt.recv() => break Ok(130),
        }
    };
    let last = replay.painter.as_mut().map(Painter::leave).unwrap_or_default();
    replay.sink.write(Stream::Stdout, last.into(), None);
    let last = replay.errors.as_mut().map(|filter| filter.modes().take_back()).unwrap_or_default();
    replay.sink.write(Stream::Stderr, last.into(), None);
    replay.sink.finish().await?;
    outcome
}

impl Replay {
    async fn turn(&mut self) -> Option<Result<u8, Failure>> {
        let due = self.waiting.as_ref().map(|(due, _)| *due);
        self.follower.set_reading(due.is_none() && self.sink.queued() < QUEUE_LIMIT);
        select! {
            event = self.follower.next() => return self.event(event),
            () = async { match due { Some(due) => sleep_until(due).await, None => std::future::pending().await } } => {
                if let Some((_, record)) = self.waiting.take() {
                    return self.show(&record);
                }
            }
            progress = self.sink.changed() => {
                if progress.error.is_some() {
                    return Some(Err(Failure::silent(BROKEN_PIPE)));
                }
            }
        }
        None
    }

    fn event(&mut self, event: Event) -> Option<Result<u8, Failure>> {
        match event {
            Event::Welcome(welcome) => {
                let first = self.head.is_none();
                let head = *self.head.get_or_insert(welcome.head);
                if let (Some(size), true, true) = (welcome.size, first, welcome.session.tty) {
                    self.size(size);
                }
                (head == 0).then_some(Ok(0))
            }
            Event::Record(record) => {
                self.waiting = Some((self.clock.due(record.time), record));
                None
            }
            Event::Lost(_) | Event::Message(_) => None,
            Event::Closed => Some(self.over()),
            Event::Failed(error) => Some(Err(error.into())),
        }
    }

    /// What is written of an output.
    fn shown(&mut self, stream: Stream, data: &Bytes) -> Bytes {
        match (stream, &mut self.painter, &mut self.errors) {
            (Stream::Stderr, ..) if self.plain_errors => data.clone(),
            (_, Some(painter), _) => painter.output(data).into(),
            (Stream::Stderr, None, Some(filter)) => {
                let mut out = Vec::with_capacity(data.len());
                filter.feed(data, &mut out);
                out.into()
            }
            _ => data.clone(),
        }
    }

    fn size(&mut self, size: Size) {
        let Some(painter) = &mut self.painter else { return };
        let (mut shown, need) = painter.session_size(size);
        if need == Need::Redraw {
            shown = painter.snapshot(size, b"");
        }
        self.sink.write(Stream::Stdout, shown.into(), None);
    }

    fn show(&mut self, record: &Record) -> Option<Result<u8, Failure>> {
        match &record.payload {
            Payload::Output(stream, data) => {
                let shown = self.shown(*stream, data);
                self.sink.write(*stream, shown, None);
            }
            Payload::Resize(size) => self.size(*size),
            Payload::Dropped { to, reason } => {
                self.gaps |= reason.is_loss();
                // A sequence that was open there is not continued behind it.
                self.errors.iter_mut().for_each(Filter::interrupt);
                note(&super::piped::gap(record.offset, *to, *reason));
            }
            Payload::Exit(_) => return Some(self.over()),
            Payload::Snapshot(..) | Payload::Unknown(_) => {}
        }
        self.head.is_some_and(|head| record.end() >= head && record.offset < record.end()).then(|| self.over())
    }

    fn over(&self) -> Result<u8, Failure> {
        Ok(if self.gaps { STATUS_HUB_FAILED } else { 0 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_passes_as_it_did() {
        let args = ReplayArgs { id: String::new(), speed: 2.0, max_pause: Some(Duration::from_secs(3)) };
        let mut clock = Clock::new(&args);
        let start = clock.due;
        let after = |clock: &mut Clock, time| clock.due(time).duration_since(start);
        assert_eq!(after(&mut clock, 10_000_000), Duration::ZERO);
        assert_eq!(after(&mut clock, 12_000_000), Duration::from_secs(1));
        assert_eq!(after(&mut clock, 11_000_000), Duration::from_secs(1));
        assert_eq!(after(&mut clock, 912_000_000), Duration::from_secs(4));
    }

    #[test]
    fn a_speed_is_above_nothing() {
        assert!(speed("0").is_err() && speed("-1").is_err() && speed("NaN").is_err() && speed("inf").is_err());
        assert_eq!(speed("0.5"), Ok(0.5));
    }
}
