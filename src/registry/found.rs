//! From an id or a name to a session.

use std::sync::Arc;
use std::time::Duration;

use uuid::Uuid;

use super::{Registry, RegistryError};
use crate::session::Session;
use crate::session::history::Journal;
use crate::store::{SessionRow, StoreError};

/// How long a session that is not here yet is waited for.
const ARRIVAL: Duration = Duration::from_secs(2);

/// A session that was looked up and is not opened yet, so that it can be asked first who may see it.
pub enum Found {
    /// One in memory.
    Here(Arc<Session>),
    /// One that the store alone has, or that is not here yet.
    Stored(Box<SessionRow>),
}

impl Found {
    /// Its row.
    #[must_use]
    pub fn row(&self) -> &SessionRow {
        match self {
            Self::Here(session) => &session.row,
            Self::Stored(row) => row,
        }
    }
}

impl Registry {
    /// Finds a session by id or name: one that lives, or one that has ended from the store.
    ///
    /// # Errors
    /// [`RegistryError::Store`], and those of [`Self::open`].
    pub async fn find(&self, id: &str) -> Result<Option<Arc<Session>>, RegistryError> {
        match self.look_up(id).await? {
            Some(found) => Ok(Some(self.open(found).await?)),
            None => Ok(None),
        }
    }

    /// Looks a session up by id or name. Nothing is waited for but the store.
    ///
    /// # Errors
    /// Whatever keeps the store from answering.
    pub async fn look_up(&self, id: &str) -> Result<Option<Found>, StoreError> {
        let row = match Uuid::parse_str(id) {
            Ok(id) => match self.live.get(&id) {
                Some(session) => return Ok(Some(Found::Here(session.clone()))),
                None => self.store.session(id).await?,
            },
            // First among those that live: they are found while the database is away.
            Err(_) => match self.live_by_name(id) {
                Some(session) => return Ok(Some(Found::Here(session))),
                None => self.store.session_by_name(id).await?,
            },
        };
        Ok(row.map(|row| Found::Stored(Box::new(row))))
    }

    /// Opens a session that was looked up.
    ///
    /// # Errors
    /// [`RegistryError::Store`], and [`RegistryError::Elsewhere`] where it lives and does not come here within [`ARRIVAL`].
    pub async fn open(&self, found: Found) -> Result<Arc<Session>, RegistryError> {
        match found {
            Found::Here(session) => Ok(session),
            Found::Stored(row) => self.open_stored(*row).await,
        }
    }

    pub(super) fn live_by_name(&self, name: &str) -> Option<Arc<Session>> {
        self.live.iter().find(|session| session.row.name == name).map(|session| session.clone())
    }

    pub(super) async fn open_stored(&self, mut row: SessionRow) -> Result<Arc<Session>, RegistryError> {
        if let Some(session) = self.live.get(&row.id) {
            return Ok(session.clone());
        }
        if row.exit.is_none() {
            // It is about to be kept here, or has just ended, or is another hub's.
            if let Ok(session) = tokio::time::timeout(ARRIVAL, self.arrival(row.id)).await {
                return Ok(session);
            }
            row = self.store.session(row.id).await?.filter(|row| row.exit.is_some()).ok_or(RegistryError::Elsewhere)?;
        }
        let extent = self.store.extent(row.id).await?;
        let journal = Journal::new(self.store.clone(), row.id, extent);
        let limits = crate::session::Limits { ring_bytes: self.limits.ring_bytes as usize };
        Ok(Session::ended(row, journal, limits))
    }

    async fn arrival(&self, id: Uuid) -> Arc<Session> {
        let mut count = self.count.subscribe();
        loop {
            if let Some(session) = self.live.get(&id) {
                return session.clone();
            }
            // Never closed while this is here.
            let _ = count.changed().await;
        }
    }
}
