//! Whether a viewer may stay: it is asked again while the stream is open, and a token that ends can be renewed.

use tokio::time::Instant;

use super::viewer::{Attending, Following};
use super::{Closed, Connection};
use crate::http::auth::{Standing, standing};
use crate::protocol::{HubMessage, RENEW_LIMIT};
use crate::session::lock;

/// See the module's documentation.
pub(super) enum Stays {
    /// With the right that it came with.
    Yes,
    /// With another token.
    Renewed,
    /// Not.
    No,
}

impl Attending<'_> {
    /// Asks.
    pub(super) async fn stays(self) -> Stays {
        let guest = self.guest;
        let caller = lock(&guest.renewed).clone().unwrap_or_else(|| guest.caller.clone());
        match standing(&guest.hub, &caller).await {
            Standing::Good(caller) => match caller.right(&guest.hub, &guest.session.row).await {
                Ok(Some(right)) if right >= guest.right => Stays::Yes,
                _ => Stays::No,
            },
            Standing::Renewable => Stays::Renewed,
            Standing::Ended => Stays::No,
        }
    }
}

impl Following {
    /// Takes note of the answer.
    pub(super) fn checked(&mut self, stays: &Stays, connection: &mut Connection) {
        match stays {
            Stays::Yes => self.renew = None,
            Stays::Renewed if self.renew.is_none() => {
                self.renew = Some(Instant::now() + RENEW_LIMIT);
                connection.say(&HubMessage::Renew);
            }
            Stays::Renewed => {}
            Stays::No => self.closed = Some(Closed::unauthorized()),
        }
    }
}
