//! The static tokens: a file that is read again when it changes, and the embedded hub's own.

use std::collections::HashMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use serde::Deserialize;
use subtle::ConstantTimeEq;

use super::hash;
use crate::config::line_of;
use crate::session::lock;
use crate::store::{Right, SessionRow};

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
    /// What it may do with a session: all with its own, as long as it may still start one.
    pub(super) fn right(&self, session: &SessionRow) -> Option<Right> {
        let own = self.name == session.owner && self.may_start(&session.app);
        (self.role == Role::Admin || own).then_some(Right::Control)
    }

    /// Whether it may start sessions of an app.
    pub(super) fn may_start(&self, app: &str) -> bool {
        self.role != Role::Watcher && self.has_app(app)
    }

    pub(super) fn has_app(&self, app: &str) -> bool {
        self.apps.as_ref().is_none_or(|apps| apps.iter().any(|own| own == app))
    }
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
    pub(super) fn holder(&self, token: &str) -> Option<Holder> {
        let hash = hash(token);
        let find = |tokens: &HashMap<String, Holder>| {
            let same = |known: &&String| bool::from(known.as_bytes().ct_eq(hash.as_bytes()));
            tokens.keys().find(same).and_then(|known| tokens.get(known)).cloned()
        };
        find(&self.own).or_else(|| find(&self.current()))
    }

    /// All who hold a token under this name now.
    pub(super) fn named(&self, name: &str) -> Vec<Holder> {
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
    let file: TokenFile = toml::from_str(&text).map_err(|e| error(unread(&text, &e)))?;
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

/// Why a file of tokens cannot be read. A TOML error shows the line, and its message what stands there, which may be a
/// token: only what should stand there is told.
fn unread(text: &str, error: &toml::de::Error) -> String {
    let (line, message) = (line_of(text, error), error.message());
    let says = ["missing field", "expected"].into_iter().find_map(|word| message.find(word)).map(|at| &message[at..]);
    format!("line {line} is not what a file of tokens has there: {}", says.unwrap_or("it is no TOML"))
}

fn is_hash(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|letter| letter.is_ascii_hexdigit())
}
