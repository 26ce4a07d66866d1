//! Where a person's token comes from: a context of a kubeconfig.
//!
//! What is remembered, for each hub, is the way to it and never the token: so one that is made anew every hour, by a
//! plugin or in a file, is found again.

use std::collections::{BTreeMap, HashMap};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::time::Duration;

use futures_util::FutureExt;
use http::header::{AUTHORIZATION, HeaderValue};
use http::{Request, Response};
use kube::client::{AuthError, Body, ConfigExt};
use kube::config::{AuthInfo, ExecInteractiveMode, KubeConfigOptions, Kubeconfig};
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;
use tokio::time::Instant;
use tower::{BoxError, Layer, ServiceExt, service_fn};

use crate::config::client::variable;
use crate::folder;

/// The file in the state folder.
const FILE: &str = "logins.json";

/// After how long a token is looked for again where it comes from.
const AGE: Duration = Duration::from_secs(300);

/// A token that was found longer ago than this, and is refused, may have ended since.
const TRIED: Duration = Duration::from_secs(2);

/// A header, once it is there.
type Header = Pin<Box<dyn Future<Output = Result<Option<HeaderValue>, String>> + Send>>;

/// Why there is no token.
#[derive(Debug, thiserror::Error)]
pub enum LoginError {
    /// The kubeconfig cannot be used.
    #[error("the kubeconfig cannot be used: {0}")]
    Kubeconfig(String),
    /// There is no context.
    #[error("no context is current; name one with --context, or `kubectl config use-context NAME`")]
    NoContext,
    /// Its user has no token.
    #[error(
        "the context {0} has a client certificate alone, which a hub cannot be shown; put a token into a context of its \
         own: `kubectl config set-credentials NAME --token=\"$(kubectl create token ACCOUNT)\"`, of a ServiceAccount \
         with the rights that are needed"
    )]
    Certificate(String),
    /// Its user has nothing at all.
    #[error("the context {0} has no token; log in to that cluster first")]
    NoToken(String),
    /// Its plugin, or its file, gave none.
    #[error("the context {context} gave no token: {reason}; does `kubectl` work with it?")]
    Failed {
        /// Which.
        context: String,
        /// What happened.
        reason: String,
    },
    /// The state folder cannot be used.
    #[error("{0} [state_folder_unusable]")]
    Folder(#[from] folder::Unusable),
    /// What is remembered cannot be read or written.
    #[error("{path}: {reason}", path = path.display())]
    File {
        /// Where it is.
        path: PathBuf,
        /// What the system said.
        reason: String,
    },
}

/// The way to a token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Login {
    /// The kubeconfig's files, absolute.
    pub kubeconfig: Vec<PathBuf>,
    /// The context.
    pub context: String,
}

impl Login {
    /// A context of the kubeconfig that kubectl would use; the current one where none is named.
    ///
    /// # Errors
    /// [`LoginError::Kubeconfig`] and [`LoginError::NoContext`].
    pub fn find(context: Option<&str>) -> Result<Self, LoginError> {
        let listed = variable("KUBECONFIG").filter(|list| !list.is_empty());
        let default = || variable("HOME").map(|home| vec![Path::new(&home).join(".kube/config")]);
        let listed = listed.map(|list| std::env::split_paths(&list).filter(|path| path.exists()).collect());
        let files = listed.or_else(default).unwrap_or_default();
        let absolute = files.iter().map(std::path::absolute).collect::<Result<Vec<_>, _>>();
        let kubeconfig = absolute.map_err(|error| LoginError::Kubeconfig(error.to_string()))?;
        let current = read(&kubeconfig)?.current_context.filter(|current| !current.is_empty());
        let context = context.map(ToOwned::to_owned).or(current).ok_or(LoginError::NoContext)?;
        Ok(Self { kubeconfig, context })
    }

    /// The token as it is now. A plugin may only speak with the person where `interactive`.
    ///
    /// # Errors
    /// [`LoginError`].
    pub async fn token(&self, interactive: bool) -> Result<String, LoginError> {
        let options = KubeConfigOptions { context: Some(self.context.clone()), ..KubeConfigOptions::default() };
        let config = kube::Config::from_custom_kubeconfig(read(&self.kubeconfig)?, &options).await;
        let mut config = config.map_err(|error| LoginError::Kubeconfig(error.to_string()))?;
        let auth = &mut config.auth_info;
        if let (None, Some(file)) = (&auth.token, &auth.token_file) {
            let token = std::fs::read_to_string(file).map_err(|error| self.failed(format!("{file}: {error}")))?;
            return Ok(token.trim().to_owned());
        }
        if let Some(exec) = auth.exec.as_mut().filter(|_| !interactive) {
            // What is typed, or piped, is the command's.
            exec.interactive_mode = Some(ExecInteractiveMode::Never);
        }
        let certified = has_certificate(auth);
        // A plugin is waited for.
        let made = tokio::task::spawn_blocking(move || authorization(&config)).await;
        let made = made.map_err(|error| self.failed(error.to_string()))?.map_err(|error| self.failed(told(&error)))?;
        let Some(header) = made else {
            let context = self.context.clone();
            return Err(if certified { LoginError::Certificate(context) } else { LoginError::NoToken(context) });
        };
        let header = header.await.map_err(|reason| self.failed(reason))?;
        let token = header.as_ref().and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "));
        token.map(|token| token.trim().to_owned()).ok_or_else(|| LoginError::NoToken(self.context.clone()))
    }

    fn failed(&self, reason: String) -> LoginError {
        LoginError::Failed { context: self.context.clone(), reason }
    }
}

/// What kube's client would authorize a request with; runs the plugin.
fn authorization(config: &kube::Config) -> Result<Option<Header>, kube::Error> {
    let shown = |request: Request<Body>| async move {
        Ok::<_, BoxError>(Response::new(request.headers().get(AUTHORIZATION).cloned()))
    };
    let Some(layer) = config.auth_layer()? else { return Ok(None) };
    let answer = layer.layer(service_fn(shown)).oneshot(Request::new(Body::empty()));
    Ok(Some(Box::pin(answer.map(|answer| answer.map(Response::into_body).map_err(|error| error.to_string())))))
}

/// Whether a certificate is all there is, or may be what a plugin gave.
fn has_certificate(auth: &AuthInfo) -> bool {
    auth.client_certificate.is_some() || auth.client_certificate_data.is_some() || auth.exec.is_some()
}

fn read(files: &[PathBuf]) -> Result<Kubeconfig, LoginError> {
    let mut kubeconfig = Kubeconfig::default();
    for file in files {
        let next = Kubeconfig::read_from(file).and_then(|next| kubeconfig.merge(next));
        kubeconfig = next.map_err(|error| LoginError::Kubeconfig(error.to_string()))?;
    }
    Ok(kubeconfig)
}

/// What went wrong, without what a plugin printed, which may be a token, and without its environment.
fn told(error: &kube::Error) -> String {
    match error {
        kube::Error::Auth(AuthError::AuthExecRun { out, .. }) => {
            let said = String::from_utf8_lossy(&out.stderr);
            let last = said.lines().last().unwrap_or_default();
            format!("its plugin ended with {}: {last}", out.status)
        }
        kube::Error::Auth(AuthError::AuthExecParse(_)) => "what its plugin printed is no ExecCredential".into(),
        kube::Error::Auth(error) => error.to_string(),
        error => error.to_string(),
    }
}

/// The ways to the tokens of hubs, by their URLs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Logins(BTreeMap<String, Login>);

impl Logins {
    /// What is remembered in a state folder.
    ///
    /// # Errors
    /// [`LoginError::File`] and [`LoginError::Folder`].
    pub fn read(home: &Path) -> Result<Self, LoginError> {
        let path = folder::locate(home)?.join(FILE);
        let failed = |reason: String| LoginError::File { path: path.clone(), reason };
        match folder::read(&path) {
            Ok(text) => serde_json::from_str(&text).map_err(|error| failed(error.to_string())),
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(Self::default()),
            Err(error) => Err(failed(error.to_string())),
        }
    }

    /// The way to a hub's token.
    #[must_use]
    pub fn of(&self, url: &str) -> Option<&Login> {
        self.0.get(url)
    }

    /// Remembers the way to a hub's token.
    pub fn add(&mut self, url: &str, login: Login) {
        self.0.insert(url.to_owned(), login);
    }

    /// Writes all of it, for this user alone, at once or not at all.
    ///
    /// # Errors
    /// [`LoginError::File`] and [`LoginError::Folder`].
    pub fn write(&self, home: &Path) -> Result<(), LoginError> {
        let path = folder::make(home)?.join(FILE);
        let failed = |error: std::io::Error| LoginError::File { path: path.clone(), reason: error.to_string() };
        let text = serde_json::to_vec_pretty(self).map_err(|error| failed(error.into()))?;
        folder::write(&path, &text).map_err(failed)
    }
}

/// Tokens as they were found a moment ago, by the hubs' URLs.
pub struct Tokens {
    logins: Logins,
    found: Mutex<HashMap<String, (Instant, String)>>,
}

impl Tokens {
    /// None is found yet.
    #[must_use]
    pub fn new(logins: Logins) -> Self {
        Self { logins, found: Mutex::default() }
    }

    /// A hub's token; none where nobody logged in to it.
    ///
    /// # Errors
    /// [`LoginError`].
    pub async fn of(&self, url: &str) -> Result<Option<String>, LoginError> {
        let Some(login) = self.logins.of(url) else { return Ok(None) };
        let mut found = self.found.lock().await;
        if let Some((_, token)) = found.get(url).filter(|(since, _)| since.elapsed() < AGE) {
            return Ok(Some(token.clone()));
        }
        let token = login.token(false).await?;
        found.insert(url.to_owned(), (Instant::now(), token.clone()));
        Ok(Some(token))
    }

    /// Takes note that a hub did not take its token. Whether there may be another one: that one was not found just now.
    pub async fn refused(&self, url: &str) -> bool {
        let mut found = self.found.lock().await;
        found.get(url).is_some_and(|(since, _)| since.elapsed() > TRIED) && found.remove(url).is_some()
    }

    /// Has a hub's token found anew.
    pub async fn forget(&self, url: &str) {
        self.found.lock().await.remove(url);
    }
}
