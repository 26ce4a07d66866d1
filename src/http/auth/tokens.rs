//! The static tokens: a file that is read again when it changes, and the embedded hub's own.

use std::collections::HashMap;
use std::fs::{File, Metadata, OpenOptions};
use std::io::Read;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use rustix::fs::OFlags;
use serde::Deserialize;
use subtle::ConstantTimeEq;

use super::hash;
use crate::config::line_of;
use crate::session::lock;
use crate::store::{Right, SessionRow};
use crate::visible::acts;

/// Longest file of tokens that is read, in bytes: some ten thousand tokens.
const MAX_FILE: u64 = 4 << 20;

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

    /// Returns whether it may start sessions of an app.
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

/// What was read.
#[derive(Debug, Default)]
struct ReadTokens {
    /// Those of the last file that could be read, by hash.
    tokens: Arc<HashMap<String, Holder>>,
    /// The file that was looked at last.
    stamp: Option<Stamp>,
    /// What is wrong with that one.
    wrong: Option<String>,
}

/// What tells a file from another one, and from itself after a change, also where a copy keeps the time of the original.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    place: (u64, u64),
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    fn of(file: &Metadata) -> Self {
        Self {
            place: (file.dev(), file.ino()),
            size: file.size(),
            modified: (file.mtime(), file.mtime_nsec()),
            changed: (file.ctime(), file.ctime_nsec()),
        }
    }
}

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
            let mut read = lock(&tokens.read);
            read.again(file);
            if let Some(reason) = read.wrong.take() {
                return Err(TokensError { path: file.clone(), reason });
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

    /// Returns whether the file says that others than admins may start sessions.
    #[must_use]
    pub fn let_others_start(&self) -> bool {
        self.current().values().any(|holder| !matches!(holder.role, Role::Admin | Role::Watcher))
    }

    /// Returns whether the file cannot be read now, so that those of the last one that could count.
    #[must_use]
    pub fn are_unreadable(&self) -> bool {
        drop(self.current());
        lock(&self.read).wrong.is_some()
    }

    fn current(&self) -> Arc<HashMap<String, Holder>> {
        let mut read = lock(&self.read);
        if let Some(file) = &self.file
            && let Some(wrong) = read.again(file)
        {
            tracing::error!(file = %file.display(), wrong, "cannot read the tokens; those from before stand");
        }
        read.tokens.clone()
    }
}

impl ReadTokens {
    /// Reads the file where it is another one than before, or could not be read. One that is gone, has no tokens or
    /// cannot be understood, as in the middle of being written, takes nothing back: what was known stands. What is wrong
    /// with it, where that is new.
    fn again(&mut self, file: &Path) -> Option<&str> {
        let stamp = std::fs::metadata(file).ok().map(|file| Stamp::of(&file));
        let same = stamp == self.stamp;
        if same && self.wrong.is_none() && stamp.is_some() {
            return None;
        }
        let read = open(file).map_err(|error| error.to_string()).and_then(|file| read(&file));
        let wrong = match read {
            // Where there were none before, somebody else vouches for people.
            Ok(read) if read.tokens.is_empty() && !self.tokens.is_empty() => {
                self.stamp = stamp;
                Some("it has no tokens".to_owned())
            }
            Ok(Contents { stamp, others, tokens }) => {
                (self.stamp, self.tokens) = (Some(stamp), Arc::new(tokens));
                if let Some(mode) = others {
                    let file = file.display();
                    tracing::warn!(%file, mode, "others on this machine can read the tokens, or change them: chmod 600");
                }
                None
            }
            Err(wrong) => {
                self.stamp = stamp;
                Some(wrong)
            }
        };
        let known = same && wrong == self.wrong;
        self.wrong = wrong;
        self.wrong.as_deref().filter(|_| !known)
    }
}

/// What a file has.
struct Contents {
    stamp: Stamp,
    /// Its mode, where it is for others too.
    others: Option<String>,
    /// By hash.
    tokens: HashMap<String, Holder>,
}

/// Opens the file, through links, as those of a mounted Secret are. A pipe in its place is waited for by nobody.
fn open(file: &Path) -> std::io::Result<File> {
    OpenOptions::new().read(true).custom_flags(OFlags::NONBLOCK.bits() as i32).open(file)
}

fn read(file: &File) -> Result<Contents, String> {
    let meta = file.metadata().map_err(|error| error.to_string())?;
    if !meta.is_file() {
        return Err("it is not a file".into());
    }
    let mut text = String::new();
    file.take(MAX_FILE + 1).read_to_string(&mut text).map_err(|error| error.to_string())?;
    if text.len() as u64 > MAX_FILE {
        return Err(format!("it is longer than {} MiB", MAX_FILE >> 20));
    }
    let tokens = parse(&text)?;
    // Who has the file by its group, as from a mounted Secret, is not its owner.
    let own = meta.uid() == rustix::process::geteuid().as_raw();
    let others = meta.mode() & if own { 0o077 } else { 0o007 } != 0;
    let others = others.then(|| format!("{:04o}", meta.mode() & 0o7777));
    Ok(Contents { stamp: Stamp::of(&meta), others, tokens })
}

fn parse(text: &str) -> Result<HashMap<String, Holder>, String> {
    let file: TokenFile = toml::from_str(text).map_err(|error| unread(text, &error))?;
    let mut tokens: HashMap<String, Holder> = HashMap::new();
    for entry in file.token {
        let hash: String = match (entry.token, entry.sha256) {
            (Some(token), None) if token.len() >= 16 => hash(&token),
            (None, Some(sha256)) if is_hash(&sha256) => sha256.to_ascii_lowercase(),
            _ => {
                return Err(format!("{} needs a token of 16 or more letters, or its sha256 in hex", entry.name));
            }
        };
        if entry.name.is_empty() || entry.name.chars().any(acts) {
            return Err("a name is empty, or has characters that act on a terminal".into());
        }
        let holder = Holder { name: entry.name, role: entry.role, apps: entry.apps, hash: hash.clone() };
        if let Some(other) = tokens.get(&hash).filter(|other| **other != holder) {
            return Err(format!("{} and {} have the same token", other.name, holder.name));
        }
        tokens.insert(hash, holder);
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
