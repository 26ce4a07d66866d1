//! Who calls, and what they may do.
//!
//! | module | what it owns |
//! | --- | --- |
//! | [`tokens`] | static tokens with roles |
//! | [`tickets`] | tickets for one session |
//! | [`review`], [`remembered`], [`webhook`] | people whom a cluster, or a service of the operator's, vouches for |
//! | [`rights`] | what each of them may do |
//!
//! Watching, typing and controlling are separate rights, and every door asks [`Caller::right`].

use std::borrow::Cow;
use std::sync::Arc;

use axum::extract::FromRequestParts;
use axum::http::{HeaderMap, StatusCode, header, request::Parts};
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use sha2::{Digest, Sha256};

use super::error::ApiError;
use super::routes::Rule;
use super::{Hub, Place, head};
use crate::protocol::{BEARER_PREFIX, Secret};
use crate::registry::hex;
use crate::store::TicketRow;

mod remembered;
pub mod review;
pub mod rights;
pub mod tickets;
pub mod tokens;
pub mod webhook;

pub use remembered::TRUST;
use review::{Away, Identity};
pub use rights::Act;
pub use tickets::{Bearer, TICKET_USED};
pub use tokens::{Holder, Role, Tokens, TokensError};

/// Who calls.
#[derive(Clone, Debug)]
pub enum Caller {
    /// The holder of a static token.
    Token(Holder),
    /// The holder of a ticket, which is valid now.
    Ticket(Box<Bearer>),
    /// A person whom the authorizer vouches for.
    User(Box<User>),
}

/// A person whom the authorizer vouches for.
#[derive(Clone, Debug)]
pub struct User {
    /// Who it is.
    pub identity: Arc<Identity>,
    /// What they showed: it is reviewed again for as long as they follow something, and kept nowhere else.
    token: Secret,
}

impl Caller {
    /// Under which name it stands in the audit trail.
    #[must_use]
    pub fn actor(&self) -> String {
        match self {
            Self::Ticket(bearer) => bearer.ticket.actor(),
            Self::Token(_) | Self::User(_) => self.name().into_owned(),
        }
    }

    /// Under which name others see it: that of a ticket's holder is said by its issuer, and is nobody's.
    #[must_use]
    pub fn name(&self) -> Cow<'_, str> {
        match self {
            Self::Ticket(bearer) => bearer.ticket.holder().into(),
            Self::Token(_) | Self::User(_) => self.owner().unwrap_or_default().into(),
        }
    }

    /// Under which name it owns what it starts; none of a ticket's holder, who owns nothing.
    #[must_use]
    pub fn owner(&self) -> Option<&str> {
        match self {
            Self::Token(holder) => Some(&holder.name),
            Self::Ticket(_) => None,
            Self::User(user) => Some(&user.identity.user),
        }
    }

    /// What a ticket that it makes has to keep of it, so that the ticket ends with its right.
    #[must_use]
    pub fn identity(&self) -> Option<&Identity> {
        match self {
            Self::User(user) => Some(&user.identity),
            Self::Token(_) | Self::Ticket(_) => None,
        }
    }
}

/// The SHA-256 of a secret, in hex: the only form in which one is kept.
#[must_use]
pub fn hash(secret: &str) -> String {
    hex(&Sha256::digest(secret.as_bytes()))
}

/// A new secret of 32 random bytes, in unpadded base64url.
///
/// # Errors
/// Where the system has no randomness.
pub fn secret() -> Result<String, getrandom::Error> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes)?;
    Ok(BASE64_URL_SAFE_NO_PAD.encode(bytes))
}

/// The token that came with a request: as a bearer, or as a second subprotocol of a websocket.
fn presented(headers: &HeaderMap) -> Option<String> {
    if let Some(value) = headers.get(header::AUTHORIZATION) {
        let (scheme, token) = value.to_str().ok()?.split_once(' ')?;
        return scheme.eq_ignore_ascii_case("bearer").then(|| token.trim().to_owned());
    }
    let protocols = headers.get_all(header::SEC_WEBSOCKET_PROTOCOL).iter().filter_map(|value| value.to_str().ok());
    let token =
        protocols.flat_map(|value| value.split(',')).find_map(|name| name.trim().strip_prefix(BEARER_PREFIX))?;
    String::from_utf8(BASE64_URL_SAFE_NO_PAD.decode(token).ok()?).ok()
}

/// Who presents a token that is known.
enum Known {
    Caller(Caller),
    /// A ticket that is good for nothing any more, and what its holder is told.
    Ended(Box<TicketRow>, ApiError),
}

/// Who presents this token. What is a static token, or a ticket, is shown to no authorizer.
///
/// # Errors
/// [`ApiError::unauthorized`], or that the store or the authorizer is away.
async fn caller(hub: &Hub, token: &str) -> Result<Known, ApiError> {
    if let Some(holder) = hub.tokens.holder(token) {
        return Ok(Known::Caller(Caller::Token(holder)));
    }
    // A person's token needs no database.
    if (hub.reviews.is_none() || tickets::may_be_secret(token))
        && let Some(known) = tickets::presented(hub, token).await?
    {
        return Ok(known);
    }
    Ok(Known::Caller(user(hub, Secret::new(token), true).await?))
}

/// The person whose token this is.
async fn user(hub: &Hub, token: Secret, stranger: bool) -> Result<Caller, ApiError> {
    let reviews = hub.reviews.as_ref().ok_or_else(ApiError::unauthorized)?;
    let identity = reviews.identify(&token, stranger).await?.ok_or_else(ApiError::unauthorized)?;
    if !hub.tokens.named(&identity.user).is_empty() {
        // What was started under that name is the token's.
        tracing::warn!(user = identity.user, "somebody has the name of a static token, and is not let in");
        return Err(ApiError::forbidden("use a name that a token of this hub's file has"));
    }
    Ok(Caller::User(Box::new(User { identity, token })))
}

impl From<Away> for ApiError {
    fn from(_: Away) -> Self {
        let detail = "nobody can be asked who you are and what you may do; what runs goes on, try again in a moment";
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "authorizer_unavailable", detail)
    }
}

/// The presented token itself, for the one door that has to tell a ticket from its resume secret.
#[derive(Debug)]
pub struct Presented(pub String);

impl FromRequestParts<Arc<Hub>> for Presented {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _hub: &Arc<Hub>) -> Result<Self, ApiError> {
        presented(&parts.headers).map(Self).ok_or_else(ApiError::unauthorized)
    }
}

impl FromRequestParts<Arc<Hub>> for Caller {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, hub: &Arc<Hub>) -> Result<Self, ApiError> {
        check_origin(parts, hub)?;
        // Nobody is let in at a door that is not in the table.
        let rule = *parts.extensions.get::<Rule>().ok_or_else(|| ApiError::forbidden("use a door without a rule"))?;
        let token = presented(&parts.headers).ok_or_else(ApiError::unauthorized)?;
        let caller = match caller(hub, &token).await? {
            Known::Caller(caller) => caller,
            Known::Ended(ticket, error) => return Err(tickets::refused(hub, parts, &ticket, error)),
        };
        if !parts.extensions.get::<Place>().is_none_or(Place::settle) {
            return Err(ApiError::crowded());
        }
        match &caller {
            Caller::Ticket(bearer) if bearer.unused && !rule.takes_unused_tickets() => {
                let error = ApiError::forbidden("do this before its one use, which is to follow the session");
                Err(tickets::refused(hub, parts, &bearer.ticket, error))
            }
            _ => Ok(caller),
        }
    }
}

/// A browser says which page calls: only the hub's own and those that are set may.
fn check_origin(parts: &Parts, hub: &Hub) -> Result<(), ApiError> {
    let Some(origin) = head::origin(&parts.headers)? else { return Ok(()) };
    let host = head::host(&parts.uri, &parts.headers)?;
    let of_origin = origin.strip_prefix("http://").or(origin.strip_prefix("https://"));
    let own = of_origin.zip(host).is_some_and(|(origin, host)| origin.eq_ignore_ascii_case(host.as_str()));
    if own || hub.origins.iter().any(|allowed| allowed == origin) {
        return Ok(());
    }
    let detail = "pages of this origin may not call this hub; add it to `origins` in the hub's settings";
    Err(ApiError::new(StatusCode::FORBIDDEN, "origin_not_allowed", detail))
}

/// What has become of what a caller showed, while it follows something.
pub enum Standing {
    /// It is good, and the caller is this one now.
    Good(Caller),
    /// It is good no more; its holder may have another one.
    Renewable,
    /// It has ended.
    Ended,
}

/// Asks again. A store that is away takes nobody's right; an authorizer that is, none that it gave in the last
/// [`TRUST`].
pub async fn standing(hub: &Hub, caller: &Caller) -> Standing {
    let good = match caller {
        Caller::Token(holder) => hub.tokens.named(&holder.name).contains(holder).then(|| caller.clone()),
        Caller::Ticket(known) => match hub.store().ticket(&known.ticket.hash).await {
            Ok(ticket) => ticket.and_then(|ticket| tickets::bearer(hub, ticket, known.unused)),
            Err(_) => Some(caller.clone()),
        },
        Caller::User(known) => match renewed(hub, caller, known.token.clone()).await {
            Ok(caller) => Some(caller),
            Err(_) => return Standing::Renewable,
        },
    };
    good.map_or(Standing::Ended, Standing::Good)
}

/// The caller as it is now, asked again while it follows something; none where its token, its ticket or the right behind
/// that has ended.
pub async fn again(hub: &Hub, caller: &Caller) -> Option<Caller> {
    match standing(hub, caller).await {
        Standing::Good(caller) => Some(caller),
        Standing::Renewable | Standing::Ended => None,
    }
}

/// The same person with another token.
///
/// # Errors
/// Where it is nobody's token, or another person's, or the caller came with something that is not renewed.
pub async fn renewed(hub: &Hub, caller: &Caller, token: Secret) -> Result<Caller, ApiError> {
    let Caller::User(known) = caller else {
        return Err(ApiError::invalid("only the token of a person whom an authorizer vouches for is renewed"));
    };
    match user(hub, token, false).await? {
        Caller::User(user) if user.identity.user == known.identity.user => Ok(Caller::User(user)),
        _ => Err(ApiError::forbidden("go on as somebody else")),
    }
}
