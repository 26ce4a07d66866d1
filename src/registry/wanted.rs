//! A session that somebody wants, of whatever kind: checked, and with what a repeated request is known by.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::{RegistryError, hex};
use crate::backend::{Exec, Handed, Run, What, Whose};
use crate::protocol::{NewExec, NewPod, NewRun};
use crate::record::Size;
use crate::store::Kind;

/// The longest idempotency key, in bytes.
const MAX_KEY: usize = 255;

/// See the module's documentation.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// The id that the caller has given it.
    pub(super) id: Option<Uuid>,
    pub(super) kind: Kind,
    pub(super) app: String,
    pub(super) command: Vec<String>,
    pub(super) tty: bool,
    pub(super) size: Option<Size>,
    pub(super) stdin: bool,
    pub(super) env: BTreeMap<String, String>,
    pub(super) caller_env: BTreeMap<String, String>,
    pub(super) dir: Option<String>,
    /// Whether no client holds it: it goes on without one, and none paces it.
    pub(super) unheld: bool,
    pub(super) timeout: Option<Duration>,
    pub(super) idle: Option<Duration>,
    pub(super) record: bool,
    pub(super) idempotency_key: Option<String>,
    /// Of the request; none where a repeated one is another start.
    pub(super) hash: Option<String>,
    pub(super) what: What,
}

impl Wanted {
    /// A command in a place of its own.
    ///
    /// # Errors
    /// [`RegistryError::Invalid`].
    pub fn run(run: NewRun) -> Result<Self, RegistryError> {
        // Values of the environment are left out: they are stored in no form.
        let mut compared = run.clone();
        compared.caller_env.clear();
        compared.env.values_mut().for_each(String::clear);
        let wanted = Self {
            id: None,
            kind: Kind::Run,
            timeout: duration(run.timeout.as_deref(), "timeout")?,
            idle: duration(run.idle.as_deref(), "idle")?,
            hash: run.idempotency_key.as_ref().and_then(|_| hash(&compared)),
            what: What::Run(Box::new(Run {
                command: run.command.clone(),
                env: run.env.clone(),
                from: run.from,
                container: run.container,
                cpu: run.cpu,
                memory: run.memory,
                launcher: run.launcher,
            })),
            app: run.app,
            command: run.command,
            tty: run.tty,
            size: run.size,
            stdin: run.stdin,
            env: run.env,
            caller_env: run.caller_env,
            dir: run.dir,
            unheld: run.detached || run.keep,
            record: run.record,
            idempotency_key: run.idempotency_key,
        };
        wanted.checked()
    }

    /// A command in a container that runs already.
    ///
    /// # Errors
    /// [`RegistryError::Invalid`].
    pub fn exec(exec: NewExec) -> Result<Self, RegistryError> {
        if exec.pod.is_empty() {
            return invalid("there is no pod named to run a command in");
        }
        let wanted = Self {
            id: None,
            kind: Kind::Exec,
            timeout: duration(exec.timeout.as_deref(), "timeout")?,
            idle: duration(exec.idle.as_deref(), "idle")?,
            hash: exec.idempotency_key.as_ref().and_then(|_| hash(&exec)),
            what: What::Exec(Exec { pod: exec.pod, container: exec.container }),
            app: exec.app,
            command: exec.command,
            tty: exec.tty,
            size: exec.size,
            stdin: exec.stdin,
            env: BTreeMap::new(),
            caller_env: BTreeMap::new(),
            dir: None,
            unheld: false,
            record: exec.record,
            idempotency_key: exec.idempotency_key,
        };
        wanted.checked()
    }

    /// A pod that is handed over under an id, and what is known of it.
    ///
    /// # Errors
    /// [`RegistryError::Invalid`].
    pub fn pod(id: Uuid, pod: NewPod, whose: Whose) -> Result<Self, RegistryError> {
        let wanted = Self {
            id: Some(id),
            kind: Kind::Pod,
            timeout: duration(pod.timeout.as_deref(), "timeout")?,
            idle: duration(pod.idle.as_deref(), "idle")?,
            hash: hash(&pod),
            app: whose.app,
            command: vec![format!("pod/{}", pod.pod)],
            tty: whose.tty.or(pod.tty).unwrap_or(false),
            size: None,
            stdin: true,
            env: BTreeMap::new(),
            caller_env: BTreeMap::new(),
            dir: None,
            unheld: true,
            record: pod.record,
            idempotency_key: None,
            what: What::Pod(handed(pod)),
        };
        wanted.checked()
    }

    fn checked(self) -> Result<Self, RegistryError> {
        let letter = |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '-' | '_' | '.');
        if self.app.is_empty() || self.app.len() > 63 || !self.app.chars().all(letter) {
            return invalid("an app's name has 1 to 63 letters, digits, '-', '_' and '.'");
        }
        if self.command.first().is_none_or(String::is_empty) {
            return invalid("there is no command to run");
        }
        let strings = self.command.iter().chain(self.env.values()).chain(self.env.keys()).chain(&self.dir);
        let strings = strings.chain(self.caller_env.values()).chain(self.caller_env.keys());
        if strings.chain(&self.idempotency_key).any(|text| text.contains('\0')) {
            return invalid("a command and its environment cannot have NUL characters");
        }
        if self.env.keys().any(|name| name.is_empty() || name.contains('=')) {
            return invalid("a variable's name cannot be empty or have '='");
        }
        if self.idempotency_key.as_ref().is_some_and(|key| key.len() > MAX_KEY) {
            return invalid("an idempotency key has at most 255 bytes");
        }
        Ok(self)
    }
}

/// A pod that is handed over, as a backend knows it.
#[must_use]
pub fn handed(pod: NewPod) -> Handed {
    Handed { namespace: pod.namespace, pod: pod.pod, container: pod.container, app: pod.app, delete: pod.delete }
}

fn invalid<T>(text: &str) -> Result<T, RegistryError> {
    Err(RegistryError::Invalid(text.into()))
}

/// The longest time that there is; who asks for more gets this, ten years.
const LONGEST: Duration = Duration::from_secs(3650 * 24 * 60 * 60);

fn duration(text: Option<&str>, name: &str) -> Result<Option<Duration>, RegistryError> {
    let Some(text) = text else { return Ok(None) };
    let invalid = |_| RegistryError::Invalid(format!("{name} is not a duration such as 90s or 1h"));
    humantime::parse_duration(text).map(|duration| Some(duration.min(LONGEST))).map_err(invalid)
}

/// What a repeated request is compared by.
fn hash(request: &impl Serialize) -> Option<String> {
    Some(hex(&Sha256::digest(serde_json::to_vec(request).ok()?)))
}
