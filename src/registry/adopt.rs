//! Taking up what an earlier hub left: sessions that have not ended, agents of those that have, and agents of sessions
//! that this database does not know, because an older copy of it was put in place.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use tokio::sync::{mpsc, oneshot};
use uuid::Uuid;

use super::card::Card;
use super::{Registry, RegistryError};
use crate::backend::{BackendError, TAKERS};
use crate::record::{Exit, NUMBERS, Payload};
use crate::session::Session;
use crate::session::history::{Journal, records, tell};
use crate::session::notices::Notice;
use crate::source::Command;
use crate::store::{Extent, Micros, SessionFilter, SessionRow, StoreError, unreadable};

/// How long a hub that starts waits for the agents of sessions that its database does not know; afterwards they are
/// taken up beside all else.
const UNKNOWN: Duration = Duration::from_secs(2);

/// How long such an agent is waited for before it is asked again, at first and at most.
const AGAIN: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(30));

impl Registry {
    /// Takes up the sessions that an earlier hub left: connects to their agents where their journals end.
    ///
    /// # Errors
    /// [`RegistryError::Store`].
    pub async fn adopt(self: &Arc<Self>) -> Result<usize, RegistryError> {
        self.installation().await?;
        let filter = SessionFilter { live: Some(true), limit: u32::MAX, ..SessionFilter::default() };
        let found = self.store.sessions(&filter).await?;
        if found.unreadable > 0 {
            tracing::error!(
                sessions = found.unreadable,
                "live sessions cannot be taken up, since their rows cannot be read; what they run is left alone"
            );
        }
        for row in found.rows.into_iter().filter(|row| self.backend.reaches(&row.place)) {
            let id = row.id;
            match self.adopt_listed(row).await {
                Ok(()) => {}
                // One session that cannot be read must not keep the others from their hub.
                Err(error @ StoreError::Row { .. }) => {
                    tracing::error!(%error, session = %id, "cannot take up a session")
                }
                Err(error) => return Err(error.into()),
            }
        }
        let (registry, (done, looked)) = (self.clone(), oneshot::channel());
        self.tasks.spawn("leftovers", async move {
            if let Err(error) = registry.adopt_leftovers().await {
                tracing::warn!(%error, "cannot look for what sessions have left");
            }
            // Where they are may take long to ask; then this hub serves the others meanwhile.
            let _nobody_waits = done.send(());
        });
        let _later = tokio::time::timeout(UNKNOWN, looked).await;
        Ok(self.live.len())
    }

    /// Takes a session up of which a list has the row.
    async fn adopt_listed(self: &Arc<Self>, mut row: SessionRow) -> Result<(), StoreError> {
        if row.command_cut {
            let Some(whole) = self.store.session(row.id).await? else { return Ok(()) };
            row = whole;
        }
        self.adopt_one(row).await.map(drop)
    }

    /// The session, or none where it has its end after all.
    async fn adopt_one(self: &Arc<Self>, mut row: SessionRow) -> Result<Option<Arc<Session>>, StoreError> {
        let extent = self.store.extent(row.id).await?;
        if let Some(end) = self.committed_end(&row, &extent).await? {
            // The hub before this one died between the exit's commit and the note of the end.
            self.store.end_session(row.id, &end.0, end.1).await?;
            return Ok(None);
        }
        let card = Card::of(&row, self.installation().await?);
        if self.backend.numbers(&row.place) {
            // The version before this one did not count.
            let takers = row.place[TAKERS].as_u64().unwrap_or(0).max(extent.to / NUMBERS) + 1;
            row.place[TAKERS] = takers.into();
            self.store.set_place(row.id, &row.place).await?;
        }
        let place = row.place.clone();
        let journal = Journal::new(self.store.clone(), row.id, extent);
        let limits = crate::session::Limits { ring_bytes: self.limits.ring_bytes as usize };
        let session = Session::new(row, journal, extent.to, limits);
        session.set_card(&card);
        self.keep(&session);
        self.pump(&session, place, None);
        self.tend(&session);
        Ok(Some(session))
    }

    /// Agents in this hub's place that no live session was taken up for. Those of sessions that have ended are let go:
    /// the hub that stored the end died before it could say so. The others' sessions are taken up after all.
    ///
    /// # Errors
    /// [`RegistryError::Store`].
    pub async fn adopt_leftovers(self: &Arc<Self>) -> Result<(), RegistryError> {
        let (waits, mut all) = mpsc::channel::<()>(1);
        for (id, place) in self.backend.agents().await {
            if self.live.contains_key(&id) {
                continue;
            }
            let registry = self.clone();
            let row = match self.store.session(id).await {
                // It is left alone, whatever it is.
                Err(error @ StoreError::Row { .. }) => {
                    unreadable::tell(&error);
                    continue;
                }
                row => row?,
            };
            match row {
                Some(mut row) if row.exit.is_some() => {
                    merge(&mut row.place, place);
                    let Some(once) = Once::of(&registry, id) else { continue };
                    self.tasks.spawn_for(&id, "dismiss", async move {
                        registry.dismiss(row).await;
                        drop(once);
                    });
                }
                // The state folder, or the machine, has another name than before.
                Some(mut row) => {
                    merge(&mut row.place, place);
                    self.store.set_place(id, &row.place).await?;
                    match self.adopt_one(row).await {
                        Err(error @ StoreError::Row { .. }) => unreadable::tell(&error),
                        adopted => drop(adopted?),
                    }
                }
                None => {
                    let Some(once) = Once::of(&registry, id) else { continue };
                    let wait = waits.clone();
                    self.tasks.spawn_for(&id, "adopt", async move {
                        registry.adopt_unknown(id, place).await;
                        drop((wait, once));
                    });
                }
            }
        }
        drop(waits);
        // Nothing is sent: it ends when all have.
        let _those_that_take_longer_come_later = tokio::time::timeout(UNKNOWN, all.recv()).await;
        Ok(())
    }

    /// Takes up a session that this database does not know, if it is one of this database's own.
    async fn adopt_unknown(self: &Arc<Self>, id: Uuid, place: serde_json::Value) {
        let mut wait = AGAIN.0;
        while let Err(error) = self.try_unknown(id, &place).await {
            tracing::warn!(%error, session = %id, "cannot take up a session that is not in this database; trying again");
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(AGAIN.1);
        }
    }

    async fn try_unknown(self: &Arc<Self>, id: Uuid, place: &serde_json::Value) -> Result<(), Unknown> {
        let card = match self.backend.connect(id, place, 0, &|_| {}).await {
            Ok(source) => source.card,
            Err(BackendError::Gone | BackendError::NoTrace | BackendError::Ended(_)) => {
                tracing::warn!(session = %id, "ending what is left of a session that is not in this database");
                self.backend.clean_up(id, place).await;
                return Ok(());
            }
            Err(error) => return Err(error.into()),
        };
        let card = card.and_then(|card| serde_json::from_value::<Card>(card).ok());
        let installation = self.installation().await?;
        let Some(card) = card.filter(|card| card.installation == installation) else {
            tracing::warn!(session = %id, "an agent's session is not in this database, and was not made in it");
            return Ok(());
        };
        let before = card.name.clone();
        let row = self.store.restore_session(card.row(id, self.backend.name(), place.clone())).await?;
        let name = row.name.clone();
        tracing::warn!(session = %id, name, before, "took up a session that this database, an older copy, does not know");
        if let (Some(session), true) = (self.adopt_one(row).await?, name != before) {
            session.notices.say(Notice::renamed(&before, &name));
        }
        Ok(())
    }

    async fn dismiss(&self, row: SessionRow) {
        if self.backend.release(row.id, &row.place).await {
            return;
        }
        match self.backend.connect(row.id, &row.place, 0, &|_| {}).await {
            Ok(mut source) => {
                source.control.send(Command::Stop("the hub".into())).await;
                source.control.send(Command::Ack(u64::MAX, true)).await;
                while source.events.next().await.is_some() {}
            }
            Err(BackendError::Gone | BackendError::NoTrace | BackendError::Ended(_)) => {
                self.backend.clean_up(row.id, &row.place).await;
            }
            Err(error) => tracing::warn!(%error, session = %row.id, "cannot let an agent go"),
        }
    }

    /// The end that a journal has although its session is not noted as ended, and when it was.
    async fn committed_end(&self, row: &SessionRow, extent: &Extent) -> Result<Option<(Exit, Micros)>, StoreError> {
        let Some(last) = self.store.chunk(row.id, extent.next_seq - 1).await? else { return Ok(None) };
        let last = match records(&last) {
            Ok(batch) => batch.records().last(),
            Err(reason) => {
                tell(row.id, &format!("chunk {}", last.seq), &reason);
                None
            }
        };
        Ok(last.and_then(|record| match record.payload {
            Payload::Exit(exit) => Some((exit, record.time as Micros)),
            _ => None,
        }))
    }

    /// The id of the installation that the store belongs to.
    pub(super) async fn installation(&self) -> Result<Uuid, StoreError> {
        self.installation.get_or_try_init(|| self.store.installation()).await.copied()
    }

    /// Puts the live sessions back into a store that does not know them any more.
    pub(super) async fn put_back(&self) -> Result<(), StoreError> {
        for session in self.live() {
            if !session.status_now().safe {
                self.store.restore_session(session.row_now()).await?;
            }
        }
        Ok(())
    }
}

/// Held by the one task that sees to a leftover; dropping it lets the next one.
struct Once(Arc<Registry>, Uuid);

impl Once {
    fn of(registry: &Arc<Registry>, id: Uuid) -> Option<Self> {
        let first = registry.leftovers.insert(id, ()).is_none();
        first.then(|| Self(registry.clone(), id))
    }
}

impl Drop for Once {
    fn drop(&mut self) {
        self.0.leftovers.remove(&self.1);
    }
}

/// Why a session that the database does not know could not be taken up yet.
#[derive(Debug, thiserror::Error)]
enum Unknown {
    #[error(transparent)]
    Backend(#[from] BackendError),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Sets what `new` has, and leaves the rest.
fn merge(place: &mut serde_json::Value, new: serde_json::Value) {
    match (place.as_object_mut(), new) {
        (Some(place), serde_json::Value::Object(new)) => place.extend(new),
        (_, new) => *place = new,
    }
}
