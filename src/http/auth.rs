//! Who calls, and what they may do.
//!
//! A caller is a static token with a role, or the holder of a ticket for one session. Watching, typing and controlling
//! are separate rights, and every door asks [`Caller::right`].

use std::collections::HashMap;
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use axum::extract::{ConnectInfo, FromRequestParts};
use axum::http::{HeaderMap, StatusCode, header, request::Parts};
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde::Deserialize;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::error::ApiError;
use super::routes::Rule;
use super::{Hub, Place};
use crate::protocol::BEARER_PREFIX;
use crate::registry::hex;
use crate::session::{lock, now};
use crate::store::{AuditRow, Right, SessionRow, TicketRow};

/// What a token is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Everything.
    Admin,
    /// Starts sessions, and has all rights on its own.
    User,
    /// Reads the logs of apps and lists sessions; watches with a ticket.
    Watcher,
    /// A platform's controller: hands sessions over. Has all rights on those it started.
    Controller,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct TokenEntry {
    name: String,
    role: Role,
    apps: Option<Vec<String>>,
    token: Option<String>,
    sha256: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct TokenFile {
    #[serde(default)]
    token: Vec<TokenEntry>,
}

/// A token's holder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// Its name.
    pub name: String,
    /// What it is for.
    pub role: Role,
    /// The apps that it is bound to; none: all.
    pub apps: Option<Vec<String>>,
    /// The token's hash: another token under the same name is another holder.
    hash: String,
}

impl Holder {
    /// What it may do with a session.
    fn right(&self, session: &SessionRow) -> Option<Right> {
        let own = self.name == session.owner && self.has_app(&session.app);
        (self.role == Role::Admin || own).then_some(Right::Control)
    }

    fn has_app(&self, app: &str) -> bool {
        self.apps.as_ref().is_none_or(|apps| apps.iter().any(|own| own == app))
    }
}

/// Who calls.
#[derive(Clone, Debug)]
pub enum Caller {
    /// The holder of a token.
    Token(Holder),
    /// The holder of a ticket, which is valid now.
    Ticket(Box<Bearer>),
}

/// The holder of a ticket.
#[derive(Clone, Debug)]
pub struct Bearer {
    /// The ticket.
    pub ticket: TicketRow,
    /// Who made it, by the tokens of that name that there are now: a ticket gives nothing that its issuer has not.
    issuers: Vec<Holder>,
    /// Whether it is for one use and was not used yet: it then is for following the session, and nothing else.
    pub unused: bool,
}

impl Caller {
    /// Under which name it stands in the audit trail.
    #[must_use]
    pub fn actor(&self) -> String {
        match self {
            Self::Token(holder) => holder.name.clone(),
            Self::Ticket(bearer) => bearer.ticket.actor(),
        }
    }

    /// Under which name others see it.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Token(holder) => &holder.name,
            Self::Ticket(bearer) => &bearer.ticket.issuer,
        }
    }

    /// What it may do with a session; none: it does not even see it.
    #[must_use]
    pub fn right(&self, session: &SessionRow) -> Option<Right> {
        match self {
            Self::Token(holder) => holder.right(session),
            Self::Ticket(bearer) => {
                let right = bearer.ticket.right;
                let given = bearer.issuers.iter().any(|issuer| issuer.right(session) >= Some(right));
                (bearer.ticket.session == session.id && given).then_some(right)
            }
        }
    }

    /// Whether it may start sessions of an app.
    #[must_use]
    pub fn may_start(&self, app: &str) -> bool {
        matches!(self, Self::Token(holder) if holder.role != Role::Watcher && holder.has_app(app))
    }

    /// Whether it may read an app's log.
    #[must_use]
    pub fn may_read_logs(&self, app: &str) -> bool {
        matches!(self, Self::Token(holder) if holder.role != Role::Controller && holder.has_app(app))
    }

    /// Whether it sees everything.
    #[must_use]
    pub fn is_admin(&self) -> bool {
        matches!(self, Self::Token(Holder { role: Role::Admin, .. }))
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

/// The static tokens: from the tokens' file, which is read again when it changes, and the embedded hub's own.
#[derive(Debug)]
pub struct Tokens {
    file: Option<PathBuf>,
    own: HashMap<String, Holder>,
    read: Mutex<ReadTokens>,
}

/// What was read, by hash, and the file's time then.
type ReadTokens = (Option<SystemTime>, Arc<HashMap<String, Holder>>);

/// A file of tokens that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {reason}", path = path.display())]
pub struct TokensError {
    path: PathBuf,
    reason: String,
}

impl Tokens {
    /// Reads the file. `own` is the embedded hub's token, an admin's, under the user's name.
    ///
    /// # Errors
    /// [`TokensError`].
    pub fn new(file: Option<PathBuf>, own: Option<(&str, String)>) -> Result<Self, TokensError> {
        let admin = |(token, name): (&str, String)| {
            let hash = hash(token);
            (hash.clone(), Holder { name, role: Role::Admin, apps: None, hash })
        };
        let own = own.map(admin).into_iter().collect();
        let tokens = Self { file, own, read: Mutex::default() };
        if let Some(file) = &tokens.file {
            *lock(&tokens.read) = (modified(file), Arc::new(parse(file)?));
            if std::fs::metadata(file).is_ok_and(|file| file.mode() & 0o007 != 0) {
                tracing::warn!(file = %file.display(), "everyone on this machine can read the tokens: chmod 600");
            }
        }
        Ok(tokens)
    }

    /// Who holds this token.
    fn holder(&self, token: &str) -> Option<Holder> {
        let hash = hash(token);
        let find = |tokens: &HashMap<String, Holder>| {
            let same = |known: &&String| bool::from(known.as_bytes().ct_eq(hash.as_bytes()));
            tokens.keys().find(same).and_then(|known| tokens.get(known)).cloned()
        };
        find(&self.own).or_else(|| find(&self.current()))
    }

    /// All who hold a token under this name now.
    fn named(&self, name: &str) -> Vec<Holder> {
        let current = self.current();
        self.own.values().chain(current.values()).filter(|holder| holder.name == name).cloned().collect()
    }

    fn current(&self) -> Arc<HashMap<String, Holder>> {
        let mut read = lock(&self.read);
        if let Some(file) = &self.file {
            let changed = modified(file);
            if changed != read.0 {
                match parse(file) {
                    Ok(tokens) => *read = (changed, Arc::new(tokens)),
                    // A file in the middle of being written: what was known stands until it can be read.
                    Err(error) => tracing::error!(%error, "cannot read the tokens again"),
                }
            }
        }
        read.1.clone()
    }
}

fn modified(file: &Path) -> Option<SystemTime> {
    std::fs::metadata(file).and_then(|file| file.modified()).ok()
}

fn parse(path: &Path) -> Result<HashMap<String, Holder>, TokensError> {
    let error = |reason: String| TokensError { path: path.to_owned(), reason };
    let text = std::fs::read_to_string(path).map_err(|e| error(e.to_string()))?;
    // The message of a TOML error shows the line, which may hold a token.
    let file: TokenFile = toml::from_str(&text).map_err(|e| error(e.message().to_owned()))?;
    let mut tokens = HashMap::new();
    for entry in file.token {
        let hash = match (entry.token, entry.sha256) {
            (Some(token), None) if token.len() >= 16 => hash(&token),
            (None, Some(sha256)) if is_hash(&sha256) => sha256.to_ascii_lowercase(),
            _ => {
                return Err(error(format!("{} needs a token of 16 or more letters, or its sha256 in hex", entry.name)));
            }
        };
        tokens.insert(hash.clone(), Holder { name: entry.name, role: entry.role, apps: entry.apps, hash });
    }
    Ok(tokens)
}

fn is_hash(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|letter| letter.is_ascii_hexdigit())
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

/// What a second user of a one-use ticket is told.
pub const TICKET_USED: &str = "this ticket was for one use and has been used; ask for another one";

/// Who presents a token that is known.
enum Known {
    Caller(Caller),
    /// A ticket that is good for nothing any more, and what its holder is told.
    Ended(Box<TicketRow>, ApiError),
}

/// Who presents this token.
///
/// # Errors
/// [`ApiError::unauthorized`], or that the store is away.
async fn caller(hub: &Hub, token: &str) -> Result<Known, ApiError> {
    if let Some(holder) = hub.tokens.holder(token) {
        return Ok(Known::Caller(Caller::Token(holder)));
    }
    let ticket = hub.store().ticket(&hash(token)).await?.ok_or_else(ApiError::unauthorized)?;
    let first = ticket.one_use && ticket.hash == hash(token);
    // The secret of a one-use ticket is good for its first use alone; after it, the viewer's resume secret is.
    if first && ticket.used_at.is_some() {
        let used = ApiError::new(StatusCode::UNAUTHORIZED, "ticket_used", TICKET_USED);
        return Ok(Known::Ended(Box::new(ticket), used));
    }
    Ok(match bearer(hub, ticket.clone(), first) {
        Some(caller) => Known::Caller(caller),
        None => Known::Ended(Box::new(ticket), ApiError::unauthorized()),
    })
}

/// Notes that somebody came with a ticket that has ended, or is for something else.
fn refused(hub: &Hub, parts: &Parts, ticket: &TicketRow, error: ApiError) -> ApiError {
    let peer = parts.extensions.get::<ConnectInfo<SocketAddr>>();
    hub.audit(AuditRow {
        time: now(),
        actor: ticket.actor(),
        action: "refused".into(),
        session: Some(ticket.session),
        address: peer.map(|peer| peer.0.ip().to_string()).unwrap_or_default(),
        outcome: error.code.into(),
        detail: String::new(),
    });
    error
}

/// The holder of a ticket that is valid now.
fn bearer(hub: &Hub, ticket: TicketRow, unused: bool) -> Option<Caller> {
    let valid = ticket.revoked_at.is_none() && ticket.expires_at > now();
    let issuers = hub.tokens.named(&ticket.issuer);
    (valid && !issuers.is_empty()).then(|| Caller::Ticket(Box::new(Bearer { ticket, issuers, unused })))
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
        check_origin(&parts.headers, hub)?;
        // Nobody is let in at a door that is not in the table.
        let rule = *parts.extensions.get::<Rule>().ok_or_else(|| ApiError::forbidden("use a door without a rule"))?;
        let token = presented(&parts.headers).ok_or_else(ApiError::unauthorized)?;
        let caller = match caller(hub, &token).await? {
            Known::Caller(caller) => caller,
            Known::Ended(ticket, error) => return Err(refused(hub, parts, &ticket, error)),
        };
        if !parts.extensions.get::<Place>().is_none_or(Place::settle) {
            return Err(ApiError::crowded());
        }
        match &caller {
            Caller::Ticket(bearer) if bearer.unused && !rule.takes_unused_tickets() => {
                let error = ApiError::forbidden("do this before its one use, which is to follow the session");
                Err(refused(hub, parts, &bearer.ticket, error))
            }
            _ => Ok(caller),
        }
    }
}

/// A browser says which page calls: only the hub's own and those that are set may.
fn check_origin(headers: &HeaderMap, hub: &Hub) -> Result<(), ApiError> {
    let Some(origin) = headers.get(header::ORIGIN).and_then(|value| value.to_str().ok()) else { return Ok(()) };
    let host = headers.get(header::HOST).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let own = origin.strip_prefix("http://").or(origin.strip_prefix("https://")) == Some(host);
    if own || hub.origins.iter().any(|allowed| allowed == origin) {
        return Ok(());
    }
    let detail = "pages of this origin may not call this hub; add it to `origins` in the hub's settings";
    Err(ApiError::new(StatusCode::FORBIDDEN, "origin_not_allowed", detail))
}

/// The caller as it is now, asked again while it follows something; none where its token, its ticket or the right behind
/// that has ended. A store that is away takes nobody's right.
pub async fn again(hub: &Hub, caller: &Caller) -> Option<Caller> {
    match caller {
        Caller::Token(holder) => hub.tokens.named(&holder.name).contains(holder).then(|| caller.clone()),
        Caller::Ticket(known) => match hub.store().ticket(&known.ticket.hash).await {
            Ok(ticket) => bearer(hub, ticket?, known.unused),
            Err(_) => Some(caller.clone()),
        },
    }
}
