//! A session at a terminal: keys in, screen out, and the terminal as it was afterwards.

use std::io;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use tokio::select;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{Instant, sleep_until};

use super::input::Input;
use super::keys::{Typed, Watch};
use super::output::{Progress, Sink};
use super::painter::{Need, Painter};
use super::terminal::{self, Raw};
use crate::client::error::ClientError;
use crate::client::follow::{Event, Follower, Welcome};
use crate::protocol::{ClientMessage, Driver, HubMessage, Mode};
use crate::record::{Exit, Payload, Record, Size, Stream};
use crate::visible;

/// No more is taken off the connection while so many bytes wait for the terminal.
const QUEUE_LIMIT: usize = 128 << 10;

/// How long a message stands over a full screen.
const FLASH: Duration = Duration::from_secs(2);

/// Who types while the screen is so far behind sees it as it is now, and not all that led there.
const LAG: Duration = Duration::from_secs(1);

/// How long the terminal may take to show the last of it where it may be gone.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// The code of the notice that the idle limit is near: it stands for as long as nothing happens.
const IDLE: &str = "idle";

const CTRL_C: u8 = 3;

/// A session at a terminal.
pub struct Interactive {
    /// The session.
    pub follower: Follower,
    /// The terminal's output.
    pub sink: Sink,
    /// The terminal's keys, where it has any.
    pub input: Option<Input>,
    /// Which keys leave.
    pub keys: Watch,
    /// Whether this viewer only watches: `q` and ctrl-c leave too, and no key goes to the command.
    pub only_watches: bool,
    /// The window.
    pub window: Size,
}

/// How it ended.
#[derive(Debug)]
pub enum Ending {
    /// The session ended.
    Exit(Exit),
    /// This viewer left; whether the hub took note.
    Left(bool),
    /// The hub has no more to say.
    Closed,
    /// It failed.
    Failed(ClientError),
    /// A signal ended this client.
    Signal(u8),
    /// The terminal takes no more.
    TerminalGone,
}

struct Signals {
    window: Signal,
    resumed: Signal,
    ends: [(u8, Signal); 4],
}

impl Signals {
    fn new() -> io::Result<Self> {
        let on = |number: i32| signal(SignalKind::from_raw(number));
        let resumed = on(rustix::process::Signal::CONT.as_raw())?;
        Ok(Self {
            window: signal(SignalKind::window_change())?,
            resumed,
            ends: [(1, on(1)?), (2, on(2)?), (3, on(3)?), (15, on(15)?)],
        })
    }

    async fn end(ends: &mut [(u8, Signal); 4]) -> u8 {
        let [(_, hangup), (_, interrupt), (_, quit), (_, terminate)] = ends;
        select! {
            _ = hangup.recv() => 1,
            _ = interrupt.recv() => 2,
            _ = quit.recv() => 3,
            _ = terminate.recv() => 15,
        }
    }
}

enum Lost {
    No,
    /// A line below the cursor says so.
    Line,
    /// It stands over a full screen, or nowhere.
    Shown,
}

struct Run {
    at: Interactive,
    raw: Option<Raw>,
    painter: Painter,
    lost: Lost,
    driver: Option<Option<Driver>>,
    redraw_at: Option<Instant>,
    /// A message stands over a full screen until something happens.
    standing: bool,
    lag: Lag,
    mode: Mode,
    greeted: bool,
}

async fn next_input(input: &mut Option<Input>) -> Option<Bytes> {
    match input {
        Some(input) => input.recv().await,
        None => std::future::pending().await,
    }
}

async fn at(instant: Option<Instant>) {
    match instant {
        Some(instant) => sleep_until(instant).await,
        None => std::future::pending().await,
    }
}

impl Interactive {
    /// Follows it to its end; `mode` is what its follower began with.
    ///
    /// # Errors
    /// Where this process's own terminal cannot be used.
    pub async fn run(self, mode: Mode) -> io::Result<Ending> {
        let mut signals = Signals::new()?;
        let raw = (self.input.is_some() && terminal::is_stdin()).then(Raw::enter).transpose()?;
        let painter = Painter::new(self.window, !self.only_watches);
        let mut run = Run {
            at: self,
            raw,
            painter,
            lost: Lost::No,
            driver: None,
            redraw_at: None,
            standing: false,
            lag: Lag::default(),
            mode,
            greeted: false,
        };
        let ending = loop {
            if let Some(ending) = run.turn(&mut signals).await {
                break ending;
            }
        };
        Ok(run.end(ending).await)
    }
}

impl Run {
    async fn turn(&mut self, signals: &mut Signals) -> Option<Ending> {
        let Interactive { follower, sink, input, .. } = &mut self.at;
        follower.set_reading(sink.queued() < QUEUE_LIMIT);
        let types = input.is_some() && (follower.input().has_room() || !follower.is_driving());
        select! {
            event = follower.next() => self.event(event),
            bytes = next_input(input), if types => self.typed(bytes),
            progress = sink.changed() => self.progress(&progress),
            _ = signals.window.recv() => self.resized(),
            _ = signals.resumed.recv() => self.resumed(),
            number = Signals::end(&mut signals.ends) => Some(Ending::Signal(number)),
            () = at(self.redraw_at) => self.flash_over(),
        }
    }

    fn show(&self, bytes: Vec<u8>) {
        if !bytes.is_empty() {
            self.at.sink.write(Stream::Stdout, bytes.into(), None);
        }
    }

    fn event(&mut self, event: Event) -> Option<Ending> {
        match event {
            Event::Record(record) => return self.record(record),
            Event::Welcome(welcome) => self.welcome(&welcome),
            Event::Message(message) => self.message(message),
            Event::Lost(reason) => self.lost(&reason),
            Event::Closed => return Some(Ending::Closed),
            Event::Failed(error) => return Some(Ending::Failed(error)),
        }
        None
    }

    fn record(&mut self, record: Record) -> Option<Ending> {
        match record.payload {
            Payload::Output(_, data) => {
                self.lag.record(record.time);
                let shown = self.painter.output(&data);
                self.show(shown);
                self.something_happened();
            }
            Payload::Snapshot(size, screen) => {
                let shown = self.painter.snapshot(size, &screen);
                self.show(shown);
            }
            Payload::Resize(size) => {
                let (shown, need) = self.painter.session_size(size);
                self.show(shown);
                self.redraw(need);
            }
            Payload::Dropped { to, reason } => self.notice(&super::piped::gap(record.offset, to, reason)),
            Payload::Exit(exit) => return Some(Ending::Exit(exit)),
            Payload::Unknown(_) => {}
        }
        None
    }

    fn redraw(&mut self, need: Need) {
        if need == Need::Redraw {
            self.mode = Mode::Screen;
            self.at.follower.redraw();
        }
    }

    fn welcome(&mut self, welcome: &Welcome) {
        match std::mem::replace(&mut self.lost, Lost::No) {
            Lost::Line => self.show(b"\r\x1b[2K\x1b8\x1bM".to_vec()),
            Lost::Shown | Lost::No => {}
        }
        self.painter.set_session_size(welcome.size);
        let need = self.painter.drive(welcome.driving);
        self.redraw(need);
        if !welcome.driving && !self.at.only_watches && !self.greeted {
            self.notice("somebody else types here; you only watch. `foghorn attach --take` takes over");
        }
        self.greeted = true;
    }

    fn message(&mut self, message: HubMessage) {
        match message {
            HubMessage::Presence { driver, driving, .. } => self.presence(driver, driving),
            HubMessage::Notice { code, text } => {
                self.notice(&text);
                if code == IDLE && self.redraw_at.take().is_some() {
                    self.standing = true;
                }
            }
            HubMessage::Error { code, detail } if code != "not_driving" => self.notice(&format!("{detail} [{code}]")),
            _ => {}
        }
    }

    fn presence(&mut self, driver: Option<Driver>, driving: bool) {
        let need = self.painter.drive(driving);
        self.redraw(need);
        let before = self.driver.replace(driver.clone());
        let (Some(before), Some(now)) = (before, driver) else { return };
        let same = before.as_ref().is_some_and(|before| before.viewer == now.viewer);
        // A driver who comes back after a break has another number, and is no news.
        if same || driving || before.as_ref().is_some_and(|before| before.name == now.name && self.at.only_watches) {
            return;
        }
        if self.at.only_watches {
            self.notice(&format!("{} types now", now.name));
        } else {
            self.notice(&format!("{} has taken over; you only watch now", now.name));
        }
    }

    fn typed(&mut self, bytes: Option<Bytes>) -> Option<Ending> {
        let Some(bytes) = bytes else {
            self.at.input = None;
            self.at.follower.input().close();
            // A watcher has no use for keys; a terminal that is gone ends the others by a signal.
            return None;
        };
        let (passes, leaves) = match self.at.keys.look(&bytes) {
            Typed::Passes => (bytes, false),
            Typed::Leaves(passing) => (bytes.slice(..passing), true),
        };
        if self.at.only_watches {
            let leaves = leaves || passes.iter().any(|byte| matches!(byte, b'q' | b'Q' | &CTRL_C));
            return leaves.then_some(Ending::Left(true));
        }
        self.something_happened();
        if self.at.follower.is_driving() || !self.at.follower.is_connected() {
            self.at.follower.input().push(passes);
            if self.mode == Mode::Bytes && self.lag.is_long() {
                self.redraw(Need::Redraw);
            }
        }
        leaves.then_some(Ending::Left(false))
    }

    fn progress(&mut self, progress: &Progress) -> Option<Ending> {
        progress.error.is_some().then_some(Ending::TerminalGone)
    }

    fn resized(&mut self) -> Option<Ending> {
        if let Some(size) = terminal::window().filter(|size| *size != self.painter.window()) {
            self.at.follower.resize(size);
            let (shown, need) = self.painter.window_size(size);
            self.show(shown);
            self.redraw(need);
        }
        None
    }

    fn resumed(&mut self) -> Option<Ending> {
        if let Some(raw) = &self.raw {
            raw.again();
        }
        if self.painter.is_full() {
            self.redraw(Need::Redraw);
        }
        self.resized()
    }

    /// A warning that nothing happens is over.
    fn something_happened(&mut self) {
        if std::mem::take(&mut self.standing) {
            self.redraw_at = Some(Instant::now());
        }
    }

    /// A message of Foghorn's own: on a line of its own, or for a while over the last line of a full screen.
    fn notice(&mut self, text: &str) {
        if !terminal::is_stderr() {
            return self.at.sink.note(text);
        }
        if self.painter.is_full() {
            self.flash(text);
            self.redraw_at = Some(Instant::now() + FLASH);
        } else if self.painter.is_ground() {
            self.stderr(format!("\r\nfoghorn: {}\r\n", visible::line(text)));
        }
    }

    fn flash(&mut self, text: &str) {
        self.painter.interrupt();
        let width = usize::from(self.painter.window().cols).saturating_sub(12);
        let text: String = visible::line(text).chars().take(width).collect();
        self.stderr(format!("\x18\x1b7\x1b[999;1H\x1b[0;7m foghorn: {text} \x1b[m\x1b[K\x1b8"));
    }

    fn stderr(&self, text: String) {
        self.at.sink.write(Stream::Stderr, text.into(), None);
    }

    fn flash_over(&mut self) -> Option<Ending> {
        self.redraw_at = None;
        if matches!(self.lost, Lost::No) {
            self.redraw(Need::Redraw);
        }
        None
    }

    fn lost(&mut self, reason: &str) {
        let text = format!("the hub is lost, reconnecting… ({reason})");
        self.lost = Lost::Shown;
        if !terminal::is_stderr() {
            self.at.sink.note(&text);
        } else if self.painter.is_full() {
            self.flash(&text);
            self.mode = Mode::Screen;
            self.at.follower.snapshot_next();
        } else if self.painter.is_ground() {
            // On the line below the cursor, which goes back to its place in the end.
            let width = usize::from(self.painter.window().cols).saturating_sub(10);
            let text: String = visible::line(&text).chars().take(width).collect();
            self.stderr(format!("\x1bD\x1b7\r\x1b[0m\x1b[Kfoghorn: {text}"));
            self.lost = Lost::Line;
        }
    }

    async fn end(mut self, ending: Ending) -> Ending {
        if matches!(self.lost, Lost::Line) {
            self.show(b"\r\n".to_vec());
        }
        let last = self.painter.leave();
        self.show(last);
        let plain = matches!(&ending, Ending::Exit(Exit { cause: crate::record::Cause::Exited { .. } }));
        if !plain && !matches!(ending, Ending::Signal(_) | Ending::TerminalGone) {
            self.show(b"\r\n".to_vec());
        }
        let ending = match ending {
            Ending::Left(false) => Ending::Left(self.at.follower.leave(Some(ClientMessage::Detach)).await),
            other => other,
        };
        match ending {
            Ending::Signal(_) | Ending::TerminalGone => self.at.sink.finish_within(LAST_WORDS).await,
            _ => {
                // A terminal that takes no more cannot be told about it.
                let _ = self.at.sink.finish().await;
            }
        }
        drop(self.raw);
        ending
    }
}

/// How far the screen is behind the command, by the agent's clock, whatever that clock says.
#[derive(Debug, Default)]
struct Lag {
    least: Option<i64>,
    last: Option<(Instant, i64)>,
}

impl Lag {
    fn record(&mut self, time: u64) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_micros() as i64;
        let behind = now - time as i64;
        let least = self.least.map_or(behind, |least| least.min(behind));
        (self.least, self.last) = (Some(least), Some((Instant::now(), behind - least)));
    }

    fn is_long(&self) -> bool {
        let long = i64::try_from(LAG.as_micros()).unwrap_or(i64::MAX);
        self.last.is_some_and(|(at, behind)| behind > long && at.elapsed() < LAG)
    }
}
