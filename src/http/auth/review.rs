//! People whom somebody else vouches for: an authorizer says whose token a token is, and what that person may do.
//!
//! It is asked with Kubernetes' two objects, TokenReview and SubjectAccessReview, and it is the cluster's API server or
//! a service of the operator's. Its answers are remembered for a moment ([`super::remembered`]); a token only as its
//! hash.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, TokenReviewStatus};
use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec, SubjectAccessReviewStatus,
};
use kube::Api;
use kube::api::PostParams;
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;

use super::remembered::Remembered;
use super::webhook::{Webhook, WebhookError};
use super::{hash, rights};
use crate::config::auth::{Auth, Rights, Watch};
use crate::config::server::{App, Server};
use crate::kubernetes::Cluster;
use crate::kubernetes::apps::NoHome;
use crate::kubernetes::error::sentence;
use crate::metrics::Metrics;
use crate::protocol::Secret;
use crate::store::{Right, SessionRow};

/// How long an API server may take.
const LIMIT: Duration = Duration::from_secs(5);

/// How many reviews of each kind are under way at once.
const AT_ONCE: usize = 32;

/// How many tokens, and how many answers on rights, are remembered.
const REMEMBERED: (usize, usize) = (4096, 16384);

/// The longest name of a person, in bytes.
const MAX_NAME: usize = 512;

/// The authorizer did not answer, or not in a way that could be understood: what kept it from it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Away(pub String);

/// A person, as the authorizer knows them. What is stored of one is this, without `extra`, and never a token.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// The name.
    pub user: String,
    /// What tells people of the same name apart, where the authorizer does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<String>,
    /// The groups.
    #[serde(default)]
    pub groups: Vec<String>,
    /// What else the authorizer wants to be told; it may be a secret.
    #[serde(skip)]
    extra: BTreeMap<String, Vec<String>>,
}

/// Somebody who answers reviews.
#[async_trait]
pub(super) trait Reviewer: Send + Sync + 'static {
    /// Whose token it is.
    async fn token(&self, review: TokenReview) -> Result<TokenReviewStatus, Away>;

    /// Whether somebody may do something.
    async fn access(&self, review: SubjectAccessReview) -> Result<SubjectAccessReviewStatus, Away>;
}

/// See the module's documentation.
pub struct Reviews {
    reviewer: Arc<dyn Reviewer>,
    metrics: Arc<Metrics>,
    /// Where apps are, where it is in a cluster.
    cluster: Option<Arc<Cluster>>,
    rights: Rights,
    apps: BTreeMap<String, App>,
    watch: Watch,
    tokens: (Remembered<Arc<Identity>>, Semaphore),
    accesses: (Remembered<()>, Semaphore),
}

impl Reviews {
    /// Who vouches for people by these settings; none: the tokens' file alone does. `cluster` is where apps are.
    ///
    /// # Errors
    /// [`WebhookError`].
    pub fn new(
        settings: &Server,
        cluster: Option<Arc<Cluster>>,
        metrics: Arc<Metrics>,
    ) -> Result<Option<Self>, WebhookError> {
        let reviewer: Arc<dyn Reviewer> = match (&settings.auth, &cluster) {
            (Auth::Webhook(webhook), _) => Arc::new(Webhook::new(webhook.clone())?),
            (Auth::Kubernetes(_), Some(cluster)) => Arc::new(ApiServer(cluster.client.clone())),
            (Auth::Tokens, _) | (Auth::Kubernetes(_), None) => return Ok(None),
        };
        Ok(Some(Self {
            reviewer,
            metrics,
            cluster,
            rights: settings.rights,
            apps: settings.apps.clone(),
            watch: settings.watch,
            tokens: (Remembered::new(REMEMBERED.0), Semaphore::new(AT_ONCE)),
            accesses: (Remembered::new(REMEMBERED.1), Semaphore::new(AT_ONCE)),
        }))
    }

    /// Whose token it is; none: nobody's. A stranger waits for a turn, who is here already does not: however many
    /// strangers come, what is open is looked after.
    ///
    /// # Errors
    /// [`Away`].
    pub async fn identify(&self, token: &Secret, stranger: bool) -> Result<Option<Arc<Identity>>, Away> {
        let (remembered, turn) = &self.tokens;
        let review = async {
            let _turn = if stranger { Some(turn.acquire().await) } else { None };
            let spec = TokenReviewSpec { token: Some(token.expose().to_owned()), audiences: None };
            let review = TokenReview { spec, ..TokenReview::default() };
            self.counted(self.reviewer.token(review).await.map(|status| identity(status).map(Arc::new)))
        };
        remembered.ask(hash(token.expose()), review).await
    }

    /// Whether a person may do something.
    pub(super) async fn allows(&self, identity: &Identity, act: ResourceAttributes) -> Result<bool, Away> {
        let (remembered, turn) = &self.accesses;
        let question = serde_json::to_string(&(identity, &identity.extra, &act)).unwrap_or_default();
        let review = async {
            let _turn = turn.acquire().await;
            let status = self.reviewer.access(access(identity, act)).await;
            self.counted(status.map(|status| (status.allowed && status.denied != Some(true)).then_some(())))
        };
        Ok(remembered.ask(hash(&question), review).await?.is_some())
    }

    /// Whether a person may do this to an app.
    ///
    /// # Errors
    /// [`Away`].
    pub async fn may(&self, identity: &Identity, act: rights::Act, app: &str) -> Result<bool, Away> {
        let Ok(namespace) = self.namespace(app) else { return Ok(false) };
        for attributes in act.attributes(self.rights, &namespace, app) {
            if !self.allows(identity, attributes).await? {
                return self.is_admin(identity).await;
            }
        }
        Ok(true)
    }

    /// What has to be granted for this to an app, for one who was refused it.
    #[must_use]
    pub fn needs(&self, act: rights::Act, app: &str) -> String {
        let namespace = match self.namespace(app) {
            Ok(namespace) => namespace,
            Err(none) => return none.to_string(),
        };
        let words = act.attributes(self.rights, &namespace, app).into_iter().map(rights::words);
        let words = words.collect::<Vec<_>>().join(" and ");
        format!("it needs {words} in the namespace {namespace}")
    }

    /// Whether a person has all rights on everything.
    ///
    /// # Errors
    /// [`Away`].
    pub async fn is_admin(&self, identity: &Identity) -> Result<bool, Away> {
        self.allows(identity, rights::admin()).await
    }

    /// What a person may do with a session: all with their own, as long as they may still start one like it; watch
    /// those of others where the app's settings say so.
    ///
    /// # Errors
    /// [`Away`].
    pub async fn right(&self, identity: &Identity, session: &SessionRow) -> Result<Option<Right>, Away> {
        let (app, own) = (&session.app, session.owner == identity.user);
        if own && self.may(identity, rights::Act::of(session.kind), app).await? || self.is_admin(identity).await? {
            return Ok(Some(Right::Control));
        }
        Ok(self.watches(identity, app).await?.then_some(Right::Read))
    }

    /// Whether the app's settings let a person watch the sessions of others.
    ///
    /// # Errors
    /// [`Away`].
    pub async fn watches(&self, identity: &Identity, app: &str) -> Result<bool, Away> {
        match self.watch(app) {
            Watch::Owner => Ok(false),
            Watch::Exec => self.may(identity, rights::Act::Exec, app).await,
            Watch::Log => self.may(identity, rights::Act::Logs, app).await,
        }
    }

    /// Whether a person may see sessions of others, of this app or of any.
    ///
    /// # Errors
    /// [`Away`].
    pub async fn sees_others(&self, identity: &Identity, app: Option<&str>) -> Result<bool, Away> {
        let set = match app {
            Some(app) => self.watch(app) != Watch::Owner,
            None => self.watch != Watch::Owner || self.apps.keys().any(|app| self.watch(app) != Watch::Owner),
        };
        Ok(set || self.is_admin(identity).await?)
    }

    /// Counts an answer. That there is none is said here, once: who asked is told no more than that nobody can say.
    fn counted<T>(&self, answer: Result<Option<T>, Away>) -> Result<Option<T>, Away> {
        self.metrics.review(match &answer {
            Ok(Some(_)) => "yes",
            Ok(None) => "no",
            Err(away) => {
                tracing::warn!(error = %away, "who may do what cannot be asked");
                "away"
            }
        });
        answer
    }

    fn watch(&self, app: &str) -> Watch {
        self.apps.get(app).and_then(|app| app.watch).unwrap_or(self.watch)
    }

    /// The namespace that rights on an app are asked for in; where there is none, nobody has any.
    fn namespace(&self, app: &str) -> Result<String, NoHome> {
        match &self.cluster {
            Some(cluster) => Ok(cluster.home(app)?.namespace),
            None => Ok(app.to_owned()),
        }
    }
}

/// The person of a review.
fn identity(status: TokenReviewStatus) -> Option<Identity> {
    let user = status.user.filter(|_| status.authenticated == Some(true))?;
    let name = user.username.filter(|name| {
        // A ticket's holder is called so in the audit trail, and nobody else.
        (1..=MAX_NAME).contains(&name.len()) && !name.starts_with("ticket:") && !name.contains(char::is_control)
    })?;
    Some(Identity {
        user: name,
        uid: user.uid.filter(|uid| !uid.is_empty()),
        groups: user.groups.unwrap_or_default(),
        extra: user.extra.unwrap_or_default(),
    })
}

fn access(identity: &Identity, act: ResourceAttributes) -> SubjectAccessReview {
    let spec = SubjectAccessReviewSpec {
        user: Some(identity.user.clone()),
        uid: identity.uid.clone(),
        groups: Some(identity.groups.clone()),
        extra: (!identity.extra.is_empty()).then(|| identity.extra.clone()),
        resource_attributes: Some(act),
        ..SubjectAccessReviewSpec::default()
    };
    SubjectAccessReview { spec, ..SubjectAccessReview::default() }
}

/// The API server of a cluster.
struct ApiServer(kube::Client);

async fn in_time<T>(asked: impl Future<Output = kube::Result<T>>) -> Result<T, Away> {
    let answer = tokio::time::timeout(LIMIT, asked).await;
    answer.map_err(|_| Away("the API server did not answer in time".into()))?.map_err(|error| Away(sentence(&error)))
}

#[async_trait]
impl Reviewer for ApiServer {
    async fn token(&self, review: TokenReview) -> Result<TokenReviewStatus, Away> {
        let api = Api::<TokenReview>::all(self.0.clone());
        Ok(in_time(api.create(&PostParams::default(), &review)).await?.status.unwrap_or_default())
    }

    async fn access(&self, review: SubjectAccessReview) -> Result<SubjectAccessReviewStatus, Away> {
        let api = Api::<SubjectAccessReview>::all(self.0.clone());
        Ok(in_time(api.create(&PostParams::default(), &review)).await?.status.unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::authentication::v1::UserInfo;

    use super::*;

    #[test]
    fn only_who_is_vouched_for_is_somebody() {
        let status = |authenticated, name: &str| TokenReviewStatus {
            authenticated,
            user: Some(UserInfo { username: Some(name.into()), ..UserInfo::default() }),
            ..TokenReviewStatus::default()
        };
        assert_eq!(identity(status(Some(true), "ann")).map(|ann| ann.user), Some("ann".into()));
        for nobody in [
            status(Some(false), "ann"),
            status(None, "ann"),
            status(Some(true), ""),
            status(Some(true), "ticket:1"),
            status(Some(true), "a\nb"),
            TokenReviewStatus { authenticated: Some(true), ..TokenReviewStatus::default() },
        ] {
            assert_eq!(identity(nobody), None);
        }
    }

    #[test]
    fn what_is_stored_of_a_person_is_no_secret() {
        let extra = BTreeMap::from([("assertion".to_owned(), vec!["secret".to_owned()])]);
        let ann = Identity { user: "ann".into(), uid: None, groups: vec!["dev".into()], extra };
        assert_eq!(serde_json::to_string(&ann).expect("serializes"), r#"{"user":"ann","groups":["dev"]}"#);
    }
}
