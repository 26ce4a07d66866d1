//! One viewer: records go out as they lie in the ring, and words about who is here; input and control come in.
//!
//! A viewer is one task with a cursor over the session's ring; there is no queue that could fill up. It writes when the
//! crier calls or the socket has room again, and then all there is, up to [`PIECE`] at once. Nothing it waits for holds
//! up the other direction: one who does not read can still interrupt a command.

use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;

use tokio::io::Interest;
use tokio::select;
use tokio::sync::watch;
use tokio::task::yield_now;
use tokio::time::{Instant, sleep_until};

use super::incoming::Obeyed;
use super::stays::Stays;
use super::{Closed, Connection, Guest, Hello, beyond_end};
use crate::http::sessions::{info, line};
use crate::http::websocket::Message;
use crate::metrics::{self, Watching};
use crate::protocol::{Close, HubMessage, Mode, PING, Role, SILENCE};
use crate::record::{Batch, Size, between};
use crate::registry::PACE_WINDOW;
use crate::session::keeper::Keeper;
use crate::session::notices::Notice;
use crate::session::presence::{self, Present};
use crate::session::subscription::{PIECE, Subscription, Taken};

/// A screen's viewer that is further behind than this is brought up by a snapshot, in bytes.
const SNAPSHOT_BEHIND: u64 = 256 << 10;

/// Bytes that one viewer writes before another task has its turn.
const TURN: usize = 4 * PIECE;

/// Something that goes on beside all else.
type Work<'a, T> = Option<Pin<Box<dyn Future<Output = T> + Send + 'a>>>;

/// See the module's documentation.
pub(super) struct Viewer {
    guest: Box<Guest>,
    hello: Box<Hello>,
    here: presence::Guest,
    connection: Box<Connection>,
}

/// Whether a viewer has more to do than to wait.
#[derive(PartialEq, Eq)]
enum Turn {
    /// There is more for it, and the socket takes it; others have their turn first.
    Over,
    /// It waits for what comes.
    Waits,
}

/// What follows the session for a viewer.
pub(super) struct Following {
    subscription: Subscription,
    /// Who was here when the viewer was last told, and when that was.
    told: Present,
    announced: u64,
    notices: watch::Receiver<Option<Arc<Notice>>>,
    acked: u64,
    /// The viewer's window.
    size: Option<Size>,
    /// When the peer last said something, and when it is asked to.
    heard: Instant,
    ping: Instant,
    /// Until when another token has to come, for one that has ended.
    pub(super) renew: Option<Instant>,
    /// The last word, once there is one.
    pub(super) closed: Option<Closed>,
}

impl Following {
    /// When something is due.
    fn due(&self) -> Instant {
        let due = self.ping.min(self.heard + SILENCE);
        self.renew.map_or(due, |renew| due.min(renew))
    }

    /// Asks the peer for a sign of life, or gives it up; so for another token.
    fn tick(&mut self, connection: &mut Connection) -> io::Result<()> {
        let now = Instant::now();
        if now >= self.heard + SILENCE {
            return Err(io::ErrorKind::TimedOut.into());
        }
        if self.renew.is_some_and(|renew| now >= renew) {
            self.closed = Some(Closed::unauthorized());
        }
        if now >= self.ping {
            self.ping = now + PING;
            if connection.outbox.is_empty() {
                connection.outbox.ping();
            }
        }
        Ok(())
    }
}

/// What comes from before the ring: records, or a screen that was drawn again.
enum Past {
    Records(Batch),
    Screen,
}

impl Viewer {
    pub(super) fn new(guest: Box<Guest>, hello: Box<Hello>, connection: Box<Connection>) -> Self {
        let here = guest.session.presence.join(&guest.caller.name());
        Self { guest, hello, here, connection }
    }

    /// Follows the session to its end, or until the viewer leaves.
    pub(super) async fn run(self) {
        tracing::Span::current().record("viewer", self.here.viewer);
        self.take_seat().await;
        let Self { guest, hello, here, mut connection } = self;
        let watching = if hello.mode == Mode::Screen { Watching::Screen } else { Watching::Bytes };
        let session = guest.session.clone();
        let counted = guest.hub.metrics.viewer(watching, hello.from, move || session.head());
        let attending = Attending { guest: &guest, hello: &hello, here: &here, counted: &counted };
        tracing::debug!(session = %guest.session.id(), viewer = here.viewer, "a viewer came");
        // Whether the viewer got all is its own to find out.
        match attending.follow(&mut connection).await {
            Ok(closed) => {
                tracing::debug!(session = %guest.session.id(), viewer = here.viewer, code = closed.1, "a viewer goes");
                connection.say_closed(closed);
                connection.finish().await;
            }
            Err(error) => {
                tracing::debug!(%error, session = %guest.session.id(), viewer = here.viewer, "a viewer was lost");
            }
        }
    }

    /// Gives the viewer the driver's seat where it asks for it and may have it.
    async fn take_seat(&self) {
        let Self { guest, hello, here, .. } = self;
        let presence = &guest.session.presence;
        if hello.role == Role::Watch || !presence.drive(here.viewer, hello.role == Role::Take, hello.writer) {
            return;
        }
        guest.hub.audit(line(&guest.caller, "driver", Some(guest.session.id()), guest.peer));
        if let Some(size) = hello.size {
            guest.session.resize(size).await;
        }
        let pace = if hello.paces { hello.from.unwrap_or(0).saturating_add(PACE_WINDOW) } else { u64::MAX };
        guest.session.set_pace(pace).await;
    }
}

/// One who is here, while its connection lives.
#[derive(Clone, Copy)]
pub(super) struct Attending<'a> {
    pub(super) guest: &'a Guest,
    pub(super) hello: &'a Hello,
    pub(super) here: &'a presence::Guest,
    counted: &'a metrics::Viewer,
}

impl<'a> Attending<'a> {
    /// Follows until there is a last word for the viewer; an error where the connection is lost.
    async fn follow(self, connection: &mut Connection) -> io::Result<Closed> {
        let stopping = self.guest.hub.tasks.stopping();
        let mut following = self.start();
        let mut past: Work<'a, Past> = self.screen_first();
        let mut obeying: Work<'a, Obeyed> = None;
        let mut checking: Work<'a, Stays> = None;
        connection.say(&self.welcome());
        if past.is_none() {
            connection.say(&self.presence(&following.told));
        }
        let mut timer = pin!(sleep_until(following.due()));
        loop {
            self.tell(&mut following, connection);
            if self.guest.hub.tasks.is_stopping() {
                connection.say(&HubMessage::GoingAway { offset: following.subscription.offset() });
                return Ok(Closed(Close::GoingAway, "stopping", "the hub stops".into()));
            }
            let turn = self.give(&mut following, connection, &mut past)?;
            // What came in between: taking records takes the word of it as heard.
            self.tell(&mut following, connection);
            if obeying.is_none() {
                obeying = self.hear(&mut following, connection);
            }
            if let Some(closed) = following.closed {
                return Ok(closed);
            }
            if turn == Turn::Over {
                yield_now().await;
            }
            let listens = obeying.is_none() && connection.outbox.has_room();
            let blocked = !connection.outbox.is_empty();
            select! {
                biased;
                obeyed = finished(&mut obeying) => self.obeyed(obeyed, &mut following, connection),
                () = &mut timer => {
                    following.tick(connection)?;
                    timer.as_mut().reset(following.due());
                    checking.get_or_insert_with(|| Box::pin(self.stays()));
                }
                stays = finished(&mut checking) => {
                    following.checked(&stays, connection);
                    timer.as_mut().reset(following.due());
                }
                came = finished(&mut past) => self.came(came, &mut following, connection)?,
                ready = connection.stream.ready(interest(listens, blocked)), if listens || blocked => {
                    if ready?.is_readable() && listens && connection.read()? {
                        following.heard = Instant::now();
                    }
                }
                () = following.subscription.moved(), if !blocked && past.is_none() && turn == Turn::Waits => {}
                () = stopping.cancelled(), if blocked || past.is_some() => {}
                () = std::future::ready(()), if turn == Turn::Over => {}
            }
        }
    }

    fn start(self) -> Following {
        let session = &self.guest.session;
        let subscription = session.subscribe(self.hello.from.unwrap_or(0));
        let now = Instant::now();
        let mut notices = session.notices.follow();
        // One that holds now is told too.
        notices.mark_changed();
        Following {
            notices,
            subscription: if self.hello.writer.is_some() { subscription.at_once() } else { subscription },
            announced: session.presence.announced(),
            told: session.presence.now(),
            acked: 0,
            size: self.hello.size,
            heard: now,
            ping: now + PING,
            renew: None,
            closed: None,
        }
    }

    /// For a screen: what it looks like now, before all else. One that has ended is drawn again first.
    fn screen_first(self) -> Work<'a, Past> {
        if self.hello.mode != Mode::Screen || self.hello.from.is_some() {
            return None;
        }
        Some(Box::pin(async move {
            let session = &self.guest.session;
            if session.has_ended() && session.control().is_none() {
                // Nobody keeps the screen of one that has ended: it is drawn again from its last checkpoint.
                session.clone().keep_screen().await;
            }
            Past::Screen
        }))
    }

    /// Puts what comes next on its way, and writes as much as the socket takes.
    fn give(
        self,
        following: &mut Following,
        connection: &mut Connection,
        past: &mut Work<'a, Past>,
    ) -> io::Result<Turn> {
        let mut sum = 0;
        while sum < TURN {
            // Loaded before anything is written, so that short messages go with it.
            let nothing = !self.load(following, connection, past) && connection.outbox.is_empty();
            let (written, all) = connection.outbox.write(&connection.stream)?;
            if nothing || !all {
                return Ok(Turn::Waits);
            }
            self.counted.sent(written as u64, following.subscription.offset());
            sum += written;
        }
        Ok(Turn::Over)
    }

    /// Puts what comes next into the outbox, where nothing is on its way. Whether there was something.
    fn load(self, following: &mut Following, connection: &mut Connection, past: &mut Work<'a, Past>) -> bool {
        if connection.outbox.is_sending() || past.is_some() || following.closed.is_some() {
            return false;
        }
        if self.is_far_behind(following) {
            self.show_screen(following, connection);
            return true;
        }
        match connection.outbox.binary(|parts| following.subscription.take(parts)) {
            Taken::Records => return true,
            Taken::Nothing => {}
            Taken::Older(ring) => {
                let older = following.subscription.older(ring);
                *past = Some(Box::pin(async move { Past::Records(older.await) }));
            }
            Taken::Ended => following.closed = Some(self.ended(following.subscription.offset())),
        }
        false
    }

    /// The last word to one who has all up to `offset`: more than there is, where it asked for what never came.
    fn ended(self, offset: u64) -> Closed {
        let head = self.guest.session.head();
        if offset > head {
            return beyond_end(head);
        }
        Closed(Close::Normal, "ended", "the session has ended".to_owned())
    }

    /// Whether a screen's viewer is better brought up by a snapshot, and there is one from further on.
    fn is_far_behind(self, following: &Following) -> bool {
        let subscription = &following.subscription;
        let kept = || self.guest.session.keeper.as_ref().map_or(0, Keeper::offset);
        self.hello.mode == Mode::Screen
            && subscription.behind() > SNAPSHOT_BEHIND
            && between(subscription.offset(), kept()) > SNAPSHOT_BEHIND / 2
    }

    fn show_screen(self, following: &mut Following, connection: &mut Connection) {
        if let Some(keeper) = &self.guest.session.keeper {
            let snapshot = keeper.snapshot();
            self.guest.hub.metrics.snapshots.inc();
            following.subscription.seek(snapshot.offset);
            connection.outbox.binary(|parts| parts.push(snapshot.to_bytes()));
        }
    }

    fn came(self, past: Past, following: &mut Following, connection: &mut Connection) -> io::Result<()> {
        match past {
            Past::Records(batch) => {
                if let Some(reason) = batch.gap() {
                    self.guest.hub.metrics.gap(reason);
                }
                let records = following.subscription.accept(batch);
                connection.outbox.binary(|parts| parts.push(records));
            }
            Past::Screen => {
                // Who is here is told behind the screen.
                self.show_screen(following, connection);
                let (written, _) = connection.outbox.write(&connection.stream)?;
                self.counted.sent(written as u64, following.subscription.offset());
                connection.say(&self.presence(&following.told));
            }
        }
        Ok(())
    }

    /// Takes the messages that have come, up to one that is to be obeyed.
    fn hear(self, following: &mut Following, connection: &mut Connection) -> Work<'a, Obeyed> {
        while connection.outbox.has_room() {
            match connection.decoder.decode() {
                Ok(Some(Message::Ping(payload))) => connection.outbox.pong(&payload),
                Ok(Some(Message::Pong)) => {}
                Ok(Some(Message::Close)) => {
                    following.closed = Some(Closed(Close::Normal, "closed", String::new()));
                    return None;
                }
                Ok(Some(message)) => return Some(Box::pin(self.obey(message, following.size))),
                Ok(None) => return None,
                Err(error) => {
                    following.closed = Some(error.into());
                    return None;
                }
            }
        }
        None
    }

    fn obeyed(self, obeyed: Obeyed, following: &mut Following, connection: &mut Connection) {
        match obeyed {
            Obeyed::Done => {}
            Obeyed::Resized(size) => following.size = Some(size),
            Obeyed::Renewed => {
                following.renew = None;
                connection.say(&HubMessage::Renewed);
            }
            Obeyed::Say(message) => connection.say(&message),
            Obeyed::Close(closed) => following.closed = Some(closed),
            Obeyed::Took => self.tell_presence(following, connection),
        }
    }

    /// What is new besides records.
    fn tell(self, following: &mut Following, connection: &mut Connection) {
        let session = &self.guest.session;
        if let Some(writer) = self.hello.writer {
            let acked = session.input.acked(writer);
            // Less where the writer was forgotten, which had nothing under way.
            if acked > following.acked {
                following.acked = acked;
                connection.say(&HubMessage::InputAck { offset: acked });
            }
        }
        let announced = session.presence.announced();
        if announced != following.announced {
            following.announced = announced;
            self.tell_presence(following, connection);
        }
        // Never closed while the session is here.
        if following.notices.has_changed().unwrap_or_default()
            && let Some(notice) = following.notices.borrow_and_update().as_deref()
        {
            connection.say(&HubMessage::Notice { code: notice.code.into(), text: notice.text.clone() });
        }
    }

    fn tell_presence(self, following: &mut Following, connection: &mut Connection) {
        let now = self.guest.session.presence.now();
        if now != following.told {
            connection.say(&self.presence(&now));
            following.told = now;
        }
    }

    fn welcome(self) -> HubMessage {
        let session = &self.guest.session;
        HubMessage::Welcome {
            session: Box::new(info(&session.row, Some(session))),
            viewer: self.here.viewer,
            driving: session.presence.drives(self.here.viewer),
            size: session.size(),
            head: session.head(),
            resume: self.guest.resume.clone(),
        }
    }

    fn presence(self, present: &Present) -> HubMessage {
        let driving = present.driver.as_ref().is_some_and(|driver| driver.viewer == self.here.viewer);
        self.counted.drives(driving);
        HubMessage::Presence {
            driver: present.driver.clone(),
            watchers: present.viewers - usize::from(present.driver.is_some()),
            driving,
        }
    }
}

/// What is waited for: only that of which something is made, since what is ready already does not wait.
fn interest(listens: bool, blocked: bool) -> Interest {
    match (listens, blocked) {
        (true, true) => Interest::READABLE | Interest::WRITABLE,
        (false, true) => Interest::WRITABLE,
        _ => Interest::READABLE,
    }
}

/// Waits for work that is under way, and takes it off.
async fn finished<T>(work: &mut Work<'_, T>) -> T {
    let Some(under_way) = work else { return std::future::pending().await };
    let outcome = under_way.await;
    *work = None;
    outcome
}
