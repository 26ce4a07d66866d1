//! Tickets: the right on one session that its owner gives away. A ticket gives nothing that its issuer has not now.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::extract::ConnectInfo;
use axum::http::StatusCode;
use axum::http::request::Parts;

use super::review::Identity;
use super::tokens::Holder;
use super::{Caller, Known, hash};
use crate::http::Hub;
use crate::http::error::ApiError;
use crate::session::now;
use crate::store::{AuditRow, Right, SessionRow, TicketRow};

/// What a second user of a one-use ticket is told.
pub const TICKET_USED: &str = "this ticket was for one use and has been used; ask for another one";

/// Letters of a ticket's secret: 32 bytes in unpadded base64url.
const SECRET_LETTERS: usize = 43;

/// The holder of a ticket.
#[derive(Clone, Debug)]
pub struct Bearer {
    /// The ticket.
    pub ticket: TicketRow,
    /// Who made it.
    issuer: Issuer,
    /// Whether it is for one use and was not used yet: it then is for following the session, and nothing else.
    pub unused: bool,
}

/// Who made a ticket.
#[derive(Clone, Debug)]
enum Issuer {
    /// Those who hold a token of the issuer's name now.
    Tokens(Vec<Holder>),
    /// A person whom the authorizer is asked about: that needs no token.
    User(Arc<Identity>),
}

impl Bearer {
    /// What it gives on a session.
    pub(super) async fn right(&self, hub: &Hub, session: &SessionRow) -> Result<Option<Right>, ApiError> {
        let right = self.ticket.right;
        if self.ticket.session != session.id {
            return Ok(None);
        }
        let given = match &self.issuer {
            Issuer::Tokens(holders) => holders.iter().any(|issuer| issuer.right(session) >= Some(right)),
            Issuer::User(identity) => match &hub.reviews {
                Some(reviews) => reviews.right(identity, session).await? >= Some(right),
                None => false,
            },
        };
        Ok(given.then_some(right))
    }
}

/// Whether a token can be a ticket's secret, or a resume secret, which has the same form.
pub(super) fn may_be_secret(token: &str) -> bool {
    let letter = |letter: u8| letter.is_ascii_alphanumeric() || matches!(letter, b'-' | b'_');
    token.len() == SECRET_LETTERS && token.bytes().all(letter)
}

/// Who comes with a ticket, if the token is one's secret.
pub(super) async fn presented(hub: &Hub, token: &str) -> Result<Option<Known>, ApiError> {
    let Some(ticket) = hub.store().ticket(&hash(token)).await? else { return Ok(None) };
    let first = ticket.one_use && ticket.hash == hash(token);
    // The secret of a one-use ticket is good for its first use alone; after it, the viewer's resume secret is.
    if first && ticket.used_at.is_some() {
        let used = ApiError::new(StatusCode::UNAUTHORIZED, "ticket_used", TICKET_USED);
        return Ok(Some(Known::Ended(Box::new(ticket), used)));
    }
    Ok(Some(match bearer(hub, ticket.clone(), first) {
        Some(caller) => Known::Caller(caller),
        None => Known::Ended(Box::new(ticket), ApiError::unauthorized()),
    }))
}

/// The holder of a ticket that is valid now.
pub(super) fn bearer(hub: &Hub, ticket: TicketRow, unused: bool) -> Option<Caller> {
    if ticket.revoked_at.is_some() || ticket.expires_at <= now() {
        return None;
    }
    let issuer = match &ticket.issuer_identity {
        Some(identity) => Issuer::User(Arc::new(serde_json::from_value(identity.clone()).ok()?)),
        None => Issuer::Tokens(hub.tokens.named(&ticket.issuer)),
    };
    let gone = matches!(&issuer, Issuer::Tokens(holders) if holders.is_empty());
    (!gone).then(|| Caller::Ticket(Box::new(Bearer { ticket, issuer, unused })))
}

/// Notes that somebody came with a ticket that has ended, or is for something else.
pub(super) fn refused(hub: &Hub, parts: &Parts, ticket: &TicketRow, error: ApiError) -> ApiError {
    let peer = parts.extensions.get::<ConnectInfo<SocketAddr>>();
    hub.audit(AuditRow {
        time: now(),
        actor: ticket.actor(),
        action: "refused".into(),
        session: Some(ticket.session),
        address: peer.map(|peer| peer.0.ip().to_string()).unwrap_or_default(),
        outcome: error.code.into(),
        detail: ticket.holder(),
    });
    error
}
