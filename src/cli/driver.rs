//! A session on this side: with a terminal or without, until it ends or is left.

use super::failure::Failure;
use super::filter::{Filter, Policy};
use super::interactive::{Ending, Interactive};
use super::keys::{Keys, Watch};
use super::notice::note;
use super::output::Sink;
use super::piped::{Outcome, Piped, Shape, Until};
use super::{Context, input, terminal};
use crate::client::follow::{Ask, Follower};
use crate::protocol::{Mode, Role};
use crate::record::{Cause, Exit, Payload, Record, STATUS_HUB_FAILED, Size, Stream};

/// How a client takes part in a session.
pub struct Seat {
    /// The session's UUID or short name.
    pub id: String,
    /// What people call it.
    pub name: String,
    /// Whether it has a terminal.
    pub tty: bool,
    /// As what.
    pub role: Role,
    /// Whether this client started it: sees it from its start, paces it, and stops it when its output is not read.
    pub started: bool,
    /// Whether stdin is read.
    pub stdin: bool,
    /// Which keys leave.
    pub keys: Keys,
}

impl Seat {
    fn only_watches(&self) -> bool {
        self.role == Role::Watch
    }
}

/// Takes the seat until the session ends or is left; the exit status.
///
/// # Errors
/// Where the hub fails, or this process's own ends do.
pub async fn take(context: &Context, seat: Seat) -> Result<u8, Failure> {
    let outcome = if seat.tty && terminal::is_stdout() {
        at_terminal(context, &seat).await
    } else {
        without_terminal(context, &seat).await
    };
    outcome.map_err(Failure::as_lost_session)
}

async fn at_terminal(context: &Context, seat: &Seat) -> Result<u8, Failure> {
    let window = terminal::window().unwrap_or(Size::DEFAULT);
    // Who started it gets every byte, so that what scrolled by is there to scroll back to.
    let (mode, from) = if seat.started { (Mode::Bytes, Some(0)) } else { (Mode::Screen, None) };
    let ask = Ask { id: seat.id.clone(), mode, role: seat.role, from, size: Some(window), paces: false };
    let reads = seat.stdin && (!seat.only_watches() || terminal::is_stdin());
    let interactive = Interactive {
        follower: Follower::new(context.hubs(), ask),
        sink: Sink::standard()?,
        input: reads.then(input::start).transpose()?,
        keys: Watch::new(&seat.keys),
        only_watches: seat.only_watches(),
        window,
    };
    let ending = interactive.run(mode).await?;
    if seat.only_watches() { watched(seat, ending) } else { driven(seat, ending) }
}

fn driven(seat: &Seat, ending: Ending) -> Result<u8, Failure> {
    let name = &seat.name;
    match ending {
        Ending::Exit(exit) => Ok(ended(name, &exit)),
        Ending::Left(true) => {
            note(&format!("left {name}, which goes on; `foghorn attach {name}` comes back"));
            Ok(STATUS_HUB_FAILED)
        }
        Ending::Left(false) => {
            let text = format!(
                "left {name}, and no hub said that it heard of it; where none has, it is ended after its grace unless somebody attaches"
            );
            Err(Failure::new(STATUS_HUB_FAILED, text))
        }
        Ending::Closed => Err(Failure::new(STATUS_HUB_FAILED, format!("{name} was closed without an end"))),
        Ending::Failed(error) => Err(error.into()),
        Ending::Signal(number) => Ok(128 + number),
        Ending::TerminalGone => Ok(129),
    }
}

/// Watching reports its own success.
fn watched(seat: &Seat, ending: Ending) -> Result<u8, Failure> {
    match ending {
        Ending::Exit(exit) => {
            note(&format!("{} {exit}", seat.name));
            Ok(0)
        }
        Ending::Left(_) | Ending::Closed => Ok(0),
        other => driven(seat, other),
    }
}

async fn without_terminal(context: &Context, seat: &Seat) -> Result<u8, Failure> {
    let paces = seat.started && !seat.tty;
    let (mode, size) = (Mode::Bytes, terminal::window().filter(|_| seat.tty && !seat.only_watches()));
    let ask = Ask { id: seat.id.clone(), mode, role: seat.role, from: Some(0), size, paces };
    let piped = Piped {
        follower: Follower::new(context.hubs(), ask),
        sink: Sink::standard()?,
        input: (seat.stdin && !seat.only_watches()).then(input::start).transpose()?,
        forward: !seat.only_watches(),
        stop_if_unread: seat.started,
        until: Until::End,
        shape: seat.only_watches().then(for_terminals).flatten(),
    };
    let Outcome { exit, gaps } = piped.run().await?;
    let status = match exit {
        Some(_) if seat.only_watches() => 0,
        Some(exit) => ended(&seat.name, &exit),
        None if seat.only_watches() => 0,
        None => return Err(Failure::new(STATUS_HUB_FAILED, format!("{} was closed without an end", seat.name))),
    };
    Ok(if gaps { STATUS_HUB_FAILED } else { status })
}

/// The filters for a watcher's terminals, where stdout or stderr is one; what goes elsewhere stays as it is.
fn for_terminals() -> Option<Shape> {
    let mut filters = [terminal::is_stdout(), terminal::is_stderr()].map(|is| is.then(|| Filter::new(Policy::Shown)));
    filters.iter().any(Option::is_some).then(|| {
        Box::new(move |record: &Record, _: bool| match &record.payload {
            Payload::Output(stream, data) => {
                let Some(filter) = &mut filters[usize::from(*stream == Stream::Stderr)] else {
                    return Some((*stream, data.clone()));
                };
                let mut out = Vec::with_capacity(data.len());
                filter.feed(data, &mut out);
                Some((*stream, out.into()))
            }
            Payload::Dropped { .. } => {
                filters.iter_mut().flatten().for_each(Filter::interrupt);
                None
            }
            // The end: the terminal is left as it was.
            _ => {
                let stream = if filters[0].is_some() { Stream::Stdout } else { Stream::Stderr };
                let back = filters.iter_mut().flatten().flat_map(|filter| filter.modes().take_back());
                Some((stream, back.collect::<Vec<_>>().into()))
            }
        }) as Shape
    })
}

/// The exit status of an end, which is told where the command did not end by itself.
fn ended(name: &str, exit: &Exit) -> u8 {
    if !matches!(exit.cause, Cause::Exited { .. }) {
        note(&format!("{name} {exit}"));
    }
    exit.status()
}
