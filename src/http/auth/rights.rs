//! What a caller may do. Every door asks here; for the holder of a static token nothing has to be waited for.

use k8s_openapi::api::authorization::v1::ResourceAttributes;

use super::{Caller, Role};
use crate::config::auth::Rights;
use crate::http::Hub;
use crate::http::error::ApiError;
use crate::logs::follower::Terminals;
use crate::store::{Kind, Right, SessionRow};

/// The API group of Foghorn's own words.
const GROUP: &str = "foghorn.dev";

/// What somebody may do to an app.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// Run a command in a place of its own.
    Run,
    /// Start something in what runs already.
    Exec,
    /// Read the log.
    Logs,
}

impl Act {
    /// The act that starts a session of this kind.
    #[must_use]
    pub fn of(kind: Kind) -> Self {
        match kind {
            Kind::Run => Self::Run,
            Kind::Exec | Kind::Pod => Self::Exec,
        }
    }

    /// What it is in an authorizer's words; all of it has to be allowed.
    pub(super) fn attributes(self, rights: Rights, namespace: &str, app: &str) -> Vec<ResourceAttributes> {
        let in_namespace = |verb: &str, resource: &str, subresource: Option<&str>| ResourceAttributes {
            verb: Some(verb.into()),
            resource: Some(resource.into()),
            subresource: subresource.map(Into::into),
            namespace: Some(namespace.into()),
            ..ResourceAttributes::default()
        };
        let own = |verb: &str| ResourceAttributes {
            group: Some(GROUP.into()),
            name: Some(app.into()),
            ..in_namespace(verb, "sessions", None)
        };
        match (rights, self) {
            (Rights::Pods, Self::Run) => {
                vec![in_namespace("create", "pods", None), in_namespace("create", "pods", Some("exec"))]
            }
            (Rights::Pods, Self::Exec) => vec![in_namespace("create", "pods", Some("exec"))],
            (Rights::Pods, Self::Logs) => vec![in_namespace("get", "pods", Some("log"))],
            (Rights::Foghorn, Self::Run) => vec![own("create")],
            (Rights::Foghorn, Self::Exec) => vec![own("exec")],
            (Rights::Foghorn, Self::Logs) => vec![own("logs")],
        }
    }
}

/// What makes somebody an admin, in whichever words the rest is asked.
pub(super) fn admin() -> ResourceAttributes {
    ResourceAttributes {
        verb: Some("admin".into()),
        group: Some(GROUP.into()),
        resource: Some("sessions".into()),
        ..ResourceAttributes::default()
    }
}

/// Attributes in the words of a Role.
pub(super) fn words(attributes: ResourceAttributes) -> String {
    let group = attributes.group.map(|group| format!(".{group}")).unwrap_or_default();
    let subresource = attributes.subresource.map(|name| format!("/{name}")).unwrap_or_default();
    let (verb, resource) = (attributes.verb.unwrap_or_default(), attributes.resource.unwrap_or_default());
    format!("`{verb} {resource}{group}{subresource}`")
}

impl Caller {
    /// What it may do with a session; none: it does not even see it.
    ///
    /// # Errors
    /// That the authorizer is away, as for all that is asked here.
    pub async fn right(&self, hub: &Hub, session: &SessionRow) -> Result<Option<Right>, ApiError> {
        match (self, &hub.reviews) {
            (Self::Token(holder), _) => Ok(holder.right(session)),
            (Self::Ticket(bearer), _) => bearer.right(hub, session).await,
            (Self::User(user), Some(reviews)) => Ok(reviews.right(&user.identity, session).await?),
            (Self::User(_), None) => Ok(None),
        }
    }

    /// Whether it may do something to an app.
    ///
    /// # Errors
    /// See [`Self::right`].
    pub async fn may(&self, hub: &Hub, act: Act, app: &str) -> Result<bool, ApiError> {
        match (self, &hub.reviews) {
            (Self::Token(holder), _) => Ok(match act {
                Act::Run | Act::Exec => holder.may_start(app),
                Act::Logs => holder.role != Role::Controller && holder.has_app(app),
            }),
            (Self::User(user), Some(reviews)) => Ok(reviews.may(&user.identity, act, app).await?),
            (Self::Ticket(_), _) | (Self::User(_), None) => Ok(false),
        }
    }

    /// Whose terminals it may look at in the log of an app: those of the sessions that it sees.
    ///
    /// # Errors
    /// See [`Self::right`].
    pub async fn terminals(&self, hub: &Hub, app: &str) -> Result<Terminals, ApiError> {
        let all = self.is_admin(hub).await?
            || match (self, &hub.reviews) {
                (Self::User(user), Some(reviews)) => reviews.watches(&user.identity, app).await?,
                _ => false,
            };
        if all {
            return Ok(Terminals::All);
        }
        Ok(match self.owner() {
            Some(owner) if self.may(hub, Act::Run, app).await? => Terminals::Of(owner.to_owned()),
            // Not even their own, where they may not start one like it any more.
            _ => Terminals::Nobodys,
        })
    }

    /// Refuses what it may not do to an app; `what` is that, in words.
    ///
    /// # Errors
    /// That it may not, and what it needs; see [`Self::right`] too.
    pub async fn check(&self, hub: &Hub, act: Act, app: &str, what: &str) -> Result<(), ApiError> {
        if self.may(hub, act, app).await? {
            return Ok(());
        }
        let mut refused = ApiError::forbidden(what);
        match (self, &hub.reviews) {
            (Self::User(_), Some(reviews)) => {
                refused.detail = format!("you may not {what}: {}", reviews.needs(act, app));
            }
            _ => refused.detail.push_str("; ask the hub's operator for one that does"),
        }
        Err(refused)
    }

    /// Refuses what only admins may do; `what` is that, in words.
    ///
    /// # Errors
    /// That it may not, and what it needs; see [`Self::right`] too.
    pub async fn check_admin(&self, hub: &Hub, what: &str) -> Result<(), ApiError> {
        if self.is_admin(hub).await? {
            return Ok(());
        }
        let mut refused = ApiError::forbidden(what);
        match self {
            Self::User(_) => {
                refused.detail = format!("you may not {what}: it needs {} in no namespace", words(admin()));
            }
            _ => refused.detail.push_str("; it takes the token of an admin"),
        }
        Err(refused)
    }

    /// Whether it has all rights on everything, and sees the audit trail.
    ///
    /// # Errors
    /// See [`Self::right`].
    pub async fn is_admin(&self, hub: &Hub) -> Result<bool, ApiError> {
        match (self, &hub.reviews) {
            (Self::Token(holder), _) => Ok(holder.role == Role::Admin),
            (Self::User(user), Some(reviews)) => Ok(reviews.is_admin(&user.identity).await?),
            (Self::Ticket(_), _) | (Self::User(_), None) => Ok(false),
        }
    }

    /// Whether it may see sessions of others, of this app or of any.
    ///
    /// # Errors
    /// See [`Self::right`].
    pub async fn sees_others(&self, hub: &Hub, app: Option<&str>) -> Result<bool, ApiError> {
        match (self, &hub.reviews) {
            (Self::User(user), Some(reviews)) => Ok(reviews.sees_others(&user.identity, app).await?),
            _ => self.is_admin(hub).await,
        }
    }
}
