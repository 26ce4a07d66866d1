//! From where on a follower wants the history: the last lines, those since a time, or all behind a token.
//!
//! The last lines are looked for backwards, in windows that grow; only times and positions are kept of what is looked
//! through. The lines themselves are then read once, forwards.

use std::cmp::Reverse;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::follower::{Ask, Filter, Start};
use super::history::Past;
use super::pattern;
use super::pods::patience::Patience;
use super::position::{ContainerAt, FileAt, FileId, Move, Positions, SessionAt};
use super::sessions::{self, PAGE, number};
use super::tail::Handle;
use super::{Join, Log, pods};
use crate::registry::Registry;
use crate::store::{Kind, Micros, SessionFilter, SessionRow, StoreError};

/// The first window, in bytes from the end; each next one is so many times as large.
const WINDOW: (u64, u64) = (64 << 10, 8);

/// For how long containers' logs are asked for anew that cannot be read, all of them together.
const AGAIN: Duration = Duration::from_secs(12);

/// How many of the newest sessions are looked at for last lines, besides those that live.
const SESSIONS: usize = 1000;

/// What a follower has to be told before the ring, and where the sources stand before that.
pub(super) async fn start(log: &Log, join: &Join, ask: &Ask) -> Result<(Vec<Past>, Positions), StoreError> {
    match &ask.start {
        Start::Now => Ok((Vec::new(), join.positions.clone())),
        Start::Last { tail, since } => last(log, join, (*tail, *since), ask).await,
        Start::Resume(positions) => resume(log, join, positions, ask.follow).await,
    }
}

/// A source, as far as it can be read before the ring.
enum Origin {
    Session { registry: Arc<Registry>, row: Box<SessionRow>, to: Option<SessionAt>, end: u64 },
    File { handle: Handle, to: u64 },
    Container(Box<pods::past::Origin>),
}

/// Where a reader would start.
type Place = Move;

impl Origin {
    async fn session(log: &Log, join: &Join, row: SessionRow) -> Option<Self> {
        let to = join.positions.sessions.get(&number(&row)).copied();
        let end = match to {
            Some(to) => to.high(),
            None => log.registry.find(&row.id.to_string()).await.ok()??.head(),
        };
        Some(Self::Session { registry: log.registry.clone(), row: Box::new(row), to, end })
    }

    fn end(&self) -> u64 {
        match self {
            Self::Session { end, .. } => *end,
            Self::File { to, .. } => *to,
            // Its windows are counted in lines.
            Self::Container(_) => 0,
        }
    }

    /// The offset so many bytes before another one.
    async fn back(&self, end: u64, back: u64) -> u64 {
        if let Self::Session { registry, row, .. } = self
            && let Ok(Some(session)) = registry.find(&row.id.to_string()).await
            && let Ok(start) = session.journal.back(end, back).await
        {
            return start;
        }
        end.saturating_sub(back)
    }

    /// The place at an offset.
    fn place(&self, offset: u64) -> Place {
        match self {
            Self::Session { row, .. } => Move::Session(number(row), SessionAt::both(offset)),
            Self::File { handle, .. } => Move::File(handle.id, FileAt { offset, head: 0 }),
            Self::Container(_) => Move::None,
        }
    }

    /// Where a container stands behind its last lines; else it is known.
    fn read_to(&self) -> Move {
        match self {
            Self::Container(origin) => origin.end().map_or(Move::None, |to| Move::Container(origin.id(), to)),
            _ => Move::None,
        }
    }

    /// What it said from a place on.
    fn past(&self, place: Place) -> Past {
        match (self, place) {
            (Self::Session { registry, row, to, .. }, Move::Session(_, from)) => {
                Past::session(registry.clone(), (**row).clone(), from, *to)
            }
            (Self::Session { registry, row, to, .. }, _) => {
                Past::session(registry.clone(), (**row).clone(), SessionAt::default(), *to)
            }
            (Self::File { handle, to }, Move::File(_, at)) => Past::file(handle.clone(), at.offset, Some(*to)),
            (Self::File { handle, to }, _) => Past::file(handle.clone(), 0, Some(*to)),
            (Self::Container(origin), Move::Container(_, at)) => Past::container(origin.past(at)),
            (Self::Container(origin), _) => Past::container(origin.past(origin.to)),
        }
    }

    /// The place as it stands in a token: a file's with the check of its start.
    fn exact(&self, place: Place) -> Place {
        match (self, place) {
            (Self::File { handle, .. }, Move::File(id, at)) => Move::File(id, handle.at(at.offset).unwrap_or(at)),
            _ => place,
        }
    }
}

/// The last lines of one source, but a container's, that are wanted: when each was written, and where a reader starts to
/// get it.
async fn scan(
    origin: &Origin,
    tail: Option<usize>,
    since: Option<Micros>,
    filter: &Filter,
) -> VecDeque<(Micros, Place)> {
    let end = origin.end();
    let mut back = WINDOW.0;
    // Of what is not shown there is little more than its start and its end: not looked for through all of it.
    let is_hidden = matches!(origin, Origin::Session { row, .. } if row.tty && !filter.shows(Some(&row.owner)));
    loop {
        let start = origin.back(end, back).await;
        let mut past = origin.past(origin.place(start));
        // The first line of a window may be the rest of one.
        let mut place = (start == 0).then(|| origin.place(0));
        let mut oldest = None;
        let mut found = VecDeque::new();
        while let Some(entry) = past.next().await {
            if let Some(place) = place {
                oldest.get_or_insert(entry.time);
                let recent = since.is_none_or(|since| entry.time >= since);
                // Without a number only the first one matters.
                let needed = tail.is_some() || found.is_empty();
                if recent && needed && filter.wants(&entry) {
                    found.push_back((entry.time, place));
                }
                if tail.is_some_and(|tail| found.len() > tail) {
                    found.pop_front();
                }
            }
            if entry.moved != Move::None {
                place = Some(entry.moved);
            }
        }
        let enough = tail.is_some_and(|tail| found.len() >= tail);
        let back_enough = since.is_some_and(|since| oldest.is_some_and(|oldest| oldest < since));
        if start == 0 || enough || back_enough || is_hidden && tail.is_some() {
            return found;
        }
        back = back.saturating_mul(WINDOW.1);
    }
}

/// What was found in all sources.
struct Best {
    tail: Option<usize>,
    since: Option<Micros>,
    /// Of each source the lines found.
    found: Vec<(Origin, VecDeque<(Micros, Place)>)>,
    /// Until when what cannot be read is asked for anew: who waits for the answer does so for half a minute.
    until: Instant,
    /// What is said of those that cannot be read.
    notices: Vec<Past>,
    /// With a number: no line from before this is among the last.
    cutoff: Option<Micros>,
}

impl Best {
    /// Whether a source that ended then can have lines that are wanted.
    fn may_have(&self, ended: Option<Micros>) -> bool {
        let old = |limit: Option<Micros>| limit.zip(ended).is_some_and(|(limit, ended)| ended < limit);
        !old(self.since) && !old(self.cutoff)
    }

    async fn add(&mut self, mut origin: Origin, filter: &Filter) {
        let found = match &mut origin {
            Origin::Container(container) => {
                let (found, trouble) = container.scan(self.tail, self.since, filter, self.until).await;
                if let Some(reason) = trouble {
                    self.notices.push(Past::said(container.unread(&reason)));
                }
                found
            }
            origin => scan(origin, self.tail, self.since, filter).await,
        };
        self.found.push((origin, found));
        let Some(tail) = self.tail else { return };
        let mut times: Vec<_> = self.found.iter().flat_map(|(_, found)| found.iter().map(|(time, _)| *time)).collect();
        if times.len() >= tail && tail > 0 {
            let (_, cutoff, _) = times.select_nth_unstable_by_key(tail - 1, |time| Reverse(*time));
            let cutoff = *cutoff;
            self.cutoff = Some(cutoff);
            for (_, found) in &mut self.found {
                while found.front().is_some_and(|(time, _)| *time < cutoff) {
                    found.pop_front();
                }
            }
        }
    }

    /// Of all that was found, the newest lines: how many of them each source has.
    fn counts(&self) -> Vec<usize> {
        let Some(tail) = self.tail else { return self.found.iter().map(|(_, found)| found.len()).collect() };
        let lines = self.found.iter().enumerate();
        let mut lines: Vec<_> =
            lines.flat_map(|(at, (_, found))| found.iter().map(move |(time, _)| (*time, at))).collect();
        lines.sort_by_key(|line| Reverse(*line));
        let mut counts = vec![0; self.found.len()];
        lines.iter().take(tail).for_each(|(_, at)| counts[*at] += 1);
        counts
    }
}

async fn last(
    log: &Log,
    join: &Join,
    (tail, since): (Option<usize>, Option<Micros>),
    ask: &Ask,
) -> Result<(Vec<Past>, Positions), StoreError> {
    let filter = &ask.filter;
    let mut best =
        Best { tail, since, found: Vec::new(), until: Instant::now() + AGAIN, notices: Vec::new(), cutoff: None };
    let patience = pods::past::patience();
    for (id, container) in &join.containers {
        if filter.wants_process(&container.process)
            && filter.wants_container(Some(&container.name))
            && let (Some(place), Some(to)) = (&log.place, join.positions.containers.get(id))
        {
            best.add(container_origin(place, container, *to, (ask.follow, &patience)), filter).await;
        }
    }
    // What is no container's is not looked for where a container is wanted.
    let any = filter.wants_container(None);
    for (id, handle) in join.files.iter().filter(|(_, handle)| any && filter.wants_process(&handle.process)) {
        let told = join.positions.files.get(id).map_or(0, |at| at.offset);
        // Nothing comes behind it for who does not follow: a last line without its end is told, too.
        let all = || handle.metadata().map_or(told, |meta| meta.len().max(told));
        let to = if ask.follow { told } else { all() };
        best.add(Origin::File { handle: handle.clone(), to }, filter).await;
    }
    for row in known(log, join).await? {
        if any
            && filter.wants_process(&row.name)
            && best.may_have(row.ended_at)
            && let Some(origin) = Origin::session(log, join, row).await
        {
            best.add(origin, filter).await;
        }
    }
    let mut positions = join.positions.clone();
    let mut pasts = std::mem::take(&mut best.notices);
    for (origin, _) in &best.found {
        positions.apply(origin.read_to());
    }
    for ((origin, found), count) in best.found.iter().zip(best.counts()) {
        let Some((_, place)) = found.len().checked_sub(count).and_then(|first| found.get(first)) else { continue };
        let exact = origin.exact(*place);
        positions.apply(exact);
        pasts.push(origin.past(exact));
    }
    Ok((pasts, positions))
}

/// The sessions that the log knew when the follower joined, those that live or ended last first.
async fn known(log: &Log, join: &Join) -> Result<Vec<SessionRow>, StoreError> {
    let mut rows = sessions::live(&log.registry, log.app()).await?;
    let mut before = None;
    while rows.len() < SESSIONS {
        let filter = SessionFilter {
            app: Some(log.app().into()),
            live: Some(false),
            before,
            limit: PAGE,
            ..SessionFilter::default()
        };
        let page = log.registry.store().sessions(&filter).await?;
        before = page.next;
        rows.extend(page.rows);
        if before.is_none() {
            break;
        }
    }
    rows.retain(|row| number(row) <= join.positions.newest && sessions::is_told(row));
    // One that ended between the two questions is there twice.
    rows.sort_by_key(number);
    rows.dedup_by_key(|row| row.id);
    rows.sort_by_key(|row| Reverse(row.ended_at.unwrap_or(Micros::MAX)));
    Ok(rows)
}

/// The session with a number, of whatever kind: all kinds are counted together.
async fn by_number(log: &Log, number: u64) -> Result<Option<SessionRow>, StoreError> {
    for kind in Kind::ALL {
        if let Some(row) = log.registry.store().session_by_name(&format!("{}.{number}", kind.name())).await? {
            return Ok(Some(row));
        }
    }
    Ok(None)
}

async fn resume(log: &Log, join: &Join, from: &Positions, follow: bool) -> Result<(Vec<Past>, Positions), StoreError> {
    let mut pasts = Vec::new();
    let mut positions = join.positions.clone();
    for row in sessions::newer(&log.registry, log.app(), from.newest).await? {
        if number(&row) <= join.positions.newest {
            resume_session(log, join, row, SessionAt::default(), &mut pasts, &mut positions);
        }
    }
    for (number, at) in &from.sessions {
        // Not every token is one of ours: what is named in it has to be the app's.
        let row = by_number(log, *number).await?;
        match row.filter(|row| row.app == log.app() && sessions::is_told(row)) {
            Some(row) => resume_session(log, join, row, *at, &mut pasts, &mut positions),
            None => pasts.push(Past::notice(format!("session {number} was removed, and with it what it said last"))),
        }
    }
    let (handles, patterns) = (join.files.clone(), log.patterns.clone());
    let (ends, files) = (join.positions.files.clone(), from.files.clone());
    let found = tokio::task::spawn_blocking(move || {
        let named = handles.values().map(|handle| resume_file(handle, files.get(&handle.id), ends.get(&handle.id)));
        let mut found: Vec<_> = named.collect();
        let gone = files.iter().filter(|(id, _)| !handles.contains_key(id));
        found.extend(gone.map(|(id, at)| resume_gone(&patterns, *id, *at)));
        found
    });
    resume_containers(log, join, (from, follow), &mut pasts, &mut positions);
    for (past, place) in found.await.unwrap_or_default().into_iter().flatten() {
        positions.apply(place);
        pasts.push(past);
    }
    Ok((pasts, positions))
}

/// What a container said up to a position, for who follows from there on; else all that it has by now.
fn container_origin(
    place: &pods::Place,
    container: &Arc<pods::Container>,
    to: ContainerAt,
    (follow, patience): (bool, &Arc<Patience>),
) -> Origin {
    let (reach, container, patience) = (place.reach.clone(), container.clone(), patience.clone());
    let origin = if follow || !container.has_begun() {
        pods::past::Origin::new(reach, container, to, patience)
    } else {
        pods::past::Origin::whole(reach, container, patience)
    };
    Origin::Container(Box::new(origin))
}

/// The rest of all containers' logs. One that the token does not name is new.
fn resume_containers(
    log: &Log,
    join: &Join,
    (from, follow): (&Positions, bool),
    pasts: &mut Vec<Past>,
    positions: &mut Positions,
) {
    let Some(place) = &log.place else { return };
    let patience = pods::past::patience();
    for (id, container) in &join.containers {
        let Some(to) = join.positions.containers.get(id) else { continue };
        let at = from.containers.get(id).copied().unwrap_or(ContainerAt::start(container.first_run(*to)));
        if at < *to || !follow {
            positions.apply(Move::Container(*id, at));
            pasts.push(container_origin(place, container, *to, (follow, &patience)).past(Move::Container(*id, at)));
        }
    }
    let gone = from.containers.keys().filter(|id| !join.containers.contains_key(id)).count();
    if gone > 0 {
        let message =
            format!("{gone} of the containers that were followed are gone; what they said last may be missing");
        pasts.push(Past::notice(message));
    }
}

fn resume_session(
    log: &Log,
    join: &Join,
    row: SessionRow,
    at: SessionAt,
    pasts: &mut Vec<Past>,
    positions: &mut Positions,
) {
    let to = join.positions.sessions.get(&number(&row)).copied();
    if to.is_some_and(|to| to.low() <= at.low() && to.high() <= at.high() && at.begun) {
        return;
    }
    positions.apply(Move::Session(number(&row), at));
    pasts.push(Past::session(log.registry.clone(), row, at, to));
}

/// The rest of a file that is followed. One that the token does not name is new.
fn resume_file(handle: &Handle, from: Option<&FileAt>, to: Option<&FileAt>) -> Option<(Past, Place)> {
    let to = to.map_or(0, |at| at.offset);
    let at = match from {
        Some(from) if handle.continues(*from) => *from,
        Some(_) => FileAt { offset: 0, head: handle.at(0).map_or(0, |at| at.head) },
        None => FileAt { offset: 0, head: handle.at(0).map_or(0, |at| at.head) },
    };
    (at.offset < to).then(|| (Past::file(handle.clone(), at.offset, Some(to)), Move::File(handle.id, at)))
}

/// The rest of a file that was followed and has another name now, or none.
fn resume_gone(patterns: &[String], id: FileId, at: FileAt) -> Option<(Past, Place)> {
    let names = patterns.iter().flat_map(|pattern| pattern::rotated(pattern));
    let mut handles = names.filter_map(|path| Handle::open(&path).ok().flatten());
    match handles.find(|handle| handle.id == id && handle.continues(at)) {
        Some(handle) => Some((Past::file(handle, at.offset, None), Move::File(id, at))),
        None => {
            let message = "a file that was followed is gone; what was written to it last may be missing".into();
            Some((Past::notice(message), Move::None))
        }
    }
}
