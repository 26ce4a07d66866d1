//! An authorizer of a test's own: a small HTTP server that answers Kubernetes' review objects, or fails to.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Json, Router};
use serde_json::{Value, json};

/// See the module's documentation.
pub(crate) struct Authorizer {
    /// Where it is asked.
    pub(crate) url: String,
    mind: Arc<Mutex<Mind>>,
    serving: tokio::task::JoinHandle<()>,
}

/// What it knows, and how it behaves.
#[derive(Default)]
pub(crate) struct Mind {
    /// Names and groups, by token.
    pub(crate) people: HashMap<String, (String, Vec<String>)>,
    /// What is allowed: `NAME VERB RESOURCE[/SUBRESOURCE] NAMESPACE`.
    pub(crate) allowed: HashSet<String>,
    /// How it behaves.
    pub(crate) mood: Mood,
    /// What it was asked, and the authorization that came with it.
    pub(crate) asked: Vec<(Value, Option<String>)>,
}

/// How an authorizer behaves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Mood {
    /// It answers.
    #[default]
    Answers,
    /// It takes the question and says nothing.
    Hangs,
    /// It answers 500.
    Fails,
    /// It answers with what is no JSON.
    Babbles,
    /// It answers without a status.
    Shrugs,
    /// It says that all is allowed, and denied.
    Denies,
}

impl Authorizer {
    /// One that knows nobody.
    pub(crate) async fn start() -> Self {
        let mind = Arc::new(Mutex::new(Mind::default()));
        let router = Router::new().route("/reviews", post(review)).with_state(mind.clone());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let url = format!("http://{}/reviews", listener.local_addr().expect("an address"));
        let serving = tokio::spawn(async move { axum::serve(listener, router).await.expect("serves") });
        Self { url, mind, serving }
    }

    /// What it knows.
    pub(crate) fn mind(&self) -> MutexGuard<'_, Mind> {
        self.mind.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a token somebody's.
    pub(crate) fn knows(&self, token: &str, name: &str) {
        self.mind().people.insert(token.into(), (name.into(), vec!["developers".into()]));
    }

    /// Allows somebody something.
    pub(crate) fn allows(&self, what: &str) {
        self.mind().allowed.insert(what.into());
    }

    /// Takes it back.
    pub(crate) fn takes(&self, what: &str) {
        assert!(self.mind().allowed.remove(what), "{what} was not allowed");
    }
}

impl Drop for Authorizer {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn review(State(mind): State<Arc<Mutex<Mind>>>, headers: HeaderMap, Json(review): Json<Value>) -> Response {
    let (mood, status) = {
        let mut mind = mind.lock().unwrap_or_else(PoisonError::into_inner);
        let shown = headers.get("authorization").map(|value| value.to_str().expect("text").to_owned());
        mind.asked.push((review.clone(), shown));
        let status = match review["kind"].as_str() {
            Some("TokenReview") => whose(&mind, &review["spec"]),
            Some("SubjectAccessReview") => may(&mind, &review["spec"]),
            kind => panic!("{kind:?} is no review"),
        };
        (mind.mood, status)
    };
    match mood {
        Mood::Answers => {
            let (version, kind) = (&review["apiVersion"], &review["kind"]);
            Json(json!({"apiVersion": version, "kind": kind, "status": status})).into_response()
        }
        Mood::Hangs => std::future::pending().await,
        Mood::Fails => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
        Mood::Babbles => "yes".into_response(),
        Mood::Shrugs => Json(json!({"kind": review["kind"]})).into_response(),
        Mood::Denies if review["kind"] == "TokenReview" => Json(json!({"status": status})).into_response(),
        Mood::Denies => Json(json!({"status": {"allowed": true, "denied": true}})).into_response(),
    }
}

fn whose(mind: &Mind, spec: &Value) -> Value {
    match mind.people.get(spec["token"].as_str().expect("a token")) {
        Some((name, groups)) => json!({"authenticated": true, "user": {"username": name, "groups": groups}}),
        None => json!({"authenticated": false}),
    }
}

fn may(mind: &Mind, spec: &Value) -> Value {
    let attributes = &spec["resourceAttributes"];
    let text = |name: &str| attributes[name].as_str().unwrap_or_default();
    let resource = match text("subresource") {
        "" => text("resource").to_owned(),
        subresource => format!("{}/{subresource}", text("resource")),
    };
    let user = spec["user"].as_str().expect("a user");
    let what = format!("{user} {} {resource} {}", text("verb"), text("namespace"));
    json!({"allowed": mind.allowed.contains(what.trim_end())})
}
