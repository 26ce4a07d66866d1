//! The viewer's wire: all that passes between a hub and those who use it. Another client can be written from this file
//! and [`crate::record`] alone.
//!
//! # Following a session
//!
//! `GET /v1/sessions/{id}/attach`, a websocket with subprotocol [`SUBPROTOCOL`]. The token comes as
//! `Authorization: Bearer TOKEN`, or, for browsers, as a second subprotocol, [`BEARER_PREFIX`] and the token in
//! unpadded base64url. A ticket's secret, or the resume secret that its first use gave, is a token too.
//!
//! The client's first message is [`ClientMessage::Hello`], within [`HELLO_LIMIT`]; the hub answers with
//! [`HubMessage::Welcome`]. From then on:
//!
//! * **binary, from the hub**: one or more whole records of the session's sequence, encoded as [`crate::record`] says.
//!   Offsets are contiguous; a client that comes back says in its hello where it got to and misses nothing. Records
//!   without length at that offset may come again; doing what they say twice changes nothing. A `screen` viewer may get
//!   a snapshot at any time: it resets its terminal, draws the snapshot, and goes on at the snapshot's offset.
//! * **binary, from the client**: input: the offset `u64` of the first byte in this writer's input, then the bytes, at
//!   most [`MAX_INPUT`]. At most [`INPUT_WINDOW`] bytes may be under way that no [`HubMessage::InputAck`] has covered;
//!   after a reconnect the client sends those again, under the same writer, and each reaches the command once. A session
//!   remembers its last 1024 writers.
//! * **text**: [`ClientMessage`] and [`HubMessage`] as JSON. Unknown types and fields are ignored.
//!
//! A token may end while the stream is open, as those of clusters do within the hour. Where it was shown by a person whom
//! an authorizer vouches for, the hub says [`HubMessage::Renew`] and goes on for [`RENEW_LIMIT`]; a client that has
//! another token of the same person's sends it as [`ClientMessage::Renew`], and [`HubMessage::Renewed`] is the answer. A
//! client may do so at any time. Without one the hub closes with [`Close::Unauthorized`].
//!
//! The exit record is the last one; the hub then closes with [`Close::Normal`]. Both sides ping every [`PING`] and give
//! up a peer that was silent for [`SILENCE`].
//!
//! # Errors
//!
//! HTTP errors are `application/problem+json` ([`Problem`]). On a websocket the hub sends [`HubMessage::Error`] with the
//! same code and closes with the close code that [`Close`] lists.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

pub use crate::agent::protocol::{INPUT_WINDOW, MAX_INPUT};
use crate::kubernetes::ClusterContext;
use crate::record::{Exit, Size};
pub use crate::session::presence::Driver;
pub use crate::store::{Kind, Right, State};

/// The websocket subprotocol, and the version of all that stands here.
pub const SUBPROTOCOL: &str = "foghorn.v1";

/// What a token is preceded by where it comes as a subprotocol.
pub const BEARER_PREFIX: &str = "foghorn.bearer.";

/// How long a client may take to say hello.
pub const HELLO_LIMIT: Duration = Duration::from_secs(10);

/// How often each side pings.
pub const PING: Duration = Duration::from_secs(15);

/// After how long without a word a peer is given up.
pub const SILENCE: Duration = Duration::from_secs(45);

/// How long a client may take to send another token for one that has ended.
pub const RENEW_LIMIT: Duration = Duration::from_secs(20);

/// The longest message from a client, in bytes.
pub const MAX_CLIENT_MESSAGE: usize = MAX_INPUT + 1024;

/// The longest message from the hub, in bytes: a batch, or one record of the greatest length.
pub const MAX_HUB_MESSAGE: usize = crate::record::MAX_PAYLOAD + (1 << 20);

/// Bytes of the offset in front of input.
pub const INPUT_HEADER_LEN: usize = 8;

/// A secret on its way: shown to nobody who only looks.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// Of this text.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret")
    }
}

/// How a viewer watches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Every byte, however long it takes: pipes, export, programs.
    #[default]
    Bytes,
    /// A person at a terminal: starts with a snapshot, and may be brought up by one when far behind.
    Screen,
}

/// What a viewer asks to be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Only reads.
    #[default]
    Watch,
    /// Types, if nobody else does.
    Drive,
    /// Types, and whoever did before only watches from then on.
    Take,
}

/// What a client says, as text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ClientMessage {
    /// The first message.
    Hello {
        /// How it watches.
        #[serde(default)]
        mode: Mode,
        /// What it asks to be. Driving needs the right to write.
        #[serde(default)]
        role: Role,
        /// Where to start: the first offset that it has not got. Without it: a `bytes` viewer starts at the session's
        /// start, a `screen` viewer with a snapshot of now.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        from: Option<u64>,
        /// Names this writer across reconnects: 32 hexadecimal digits, random. Needed to drive.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        writer: Option<String>,
        /// The window's size; becomes the terminal's size when it drives.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        size: Option<Size>,
        /// Whether this is the client that started the session and paces it: a command without a terminal then waits
        /// for its [`ClientMessage::Consumed`].
        #[serde(default)]
        paces: bool,
    },
    /// The driver's window has another size.
    Resize {
        /// Columns and rows.
        #[serde(flatten)]
        size: Size,
    },
    /// The driver's input ends behind this offset of its input.
    InputEnd {
        /// The number of bytes that it typed.
        offset: u64,
    },
    /// The pacing client has used the output up to here.
    Consumed {
        /// An offset of the session's output.
        offset: u64,
    },
    /// Asks to be the driver from now on.
    Take,
    /// Sends a signal to the foreground processes. Needs the right to control.
    Signal {
        /// Its number.
        signal: u8,
    },
    /// Ends the session. Needs the right to control.
    Stop,
    /// The driver leaves on purpose: the session goes on without a driver, and without a grace that would end it.
    Detach,
    /// Goes on with another token of the same person's.
    Renew {
        /// It.
        token: Secret,
    },
}

/// What the hub says, as text.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum HubMessage {
    /// The answer to the hello.
    Welcome {
        /// The session.
        session: Box<SessionInfo>,
        /// This viewer's number within the session.
        viewer: u64,
        /// Whether it drives.
        driving: bool,
        /// The terminal's size, where there is one.
        size: Option<Size>,
        /// Offset at which the output ends now.
        head: u64,
        /// Where a ticket was used for the first time: the token for this viewer's reconnects.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        resume: Option<String>,
    },
    /// Who is here; sent at the start and when it changes.
    Presence {
        /// Who types, if anybody does.
        driver: Option<Driver>,
        /// How many watch, the driver not counted.
        watchers: usize,
        /// Whether this viewer drives.
        driving: bool,
    },
    /// The command has this writer's input up to here.
    InputAck {
        /// Bytes of the writer's input.
        offset: u64,
    },
    /// Something that a person should know.
    Notice {
        /// A stable code.
        code: String,
        /// A sentence.
        text: String,
    },
    /// The token has ended: another one is needed within [`RENEW_LIMIT`].
    Renew,
    /// The token that was sent is good, and is the viewer's from now on.
    Renewed,
    /// The hub stops; another one, or this one again, goes on from the offset.
    GoingAway {
        /// The first offset that was not sent.
        offset: u64,
    },
    /// Why the connection is closed, or what was not done.
    Error {
        /// A stable code, as in [`Problem`].
        code: String,
        /// A sentence.
        detail: String,
    },
}

/// The codes that a hub closes a websocket with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum Close {
    /// All was sent; nothing follows.
    Normal = 1000,
    /// The hub stops. Connect again.
    GoingAway = 1001,
    /// The client's frames break the websocket protocol.
    Protocol = 1002,
    /// The client's text is not UTF-8.
    NotText = 1007,
    /// The client's message is longer than [`MAX_CLIENT_MESSAGE`].
    TooLong = 1009,
    /// The client's message could not be understood, or came in the wrong place.
    BadMessage = 4400,
    /// The token, ticket or right has ended.
    Unauthorized = 4401,
    /// The client may not do what it asked for.
    Forbidden = 4403,
    /// No hello came in time, or nothing for too long.
    Timeout = 4408,
    /// The hub failed. Connect again.
    Failed = 4500,
}

/// What to start: the body of `POST /v1/sessions`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NewSession {
    /// The id that the session gets, where a pod is handed over: a UUID that the caller has made. The same call again is
    /// the same session.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<Uuid>,
    /// The source.
    pub source: NewSource,
}

/// A source to be started.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum NewSource {
    /// A command in a place of its own.
    Run(Box<NewRun>),
    /// A command in a container of the app that runs already. On Kubernetes.
    Exec(Box<NewExec>),
    /// A pod that a platform's controller has made, and hands over. On Kubernetes.
    Pod(Box<NewPod>),
}

/// A command to be run in a container that runs already. All but the app, the pod and the command can be left out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct NewExec {
    /// The app that the pod belongs to.
    pub app: String,
    /// The pod: its name; `web.1`, the oldest running one of the process `web`; or `web.` and the last part of its name.
    pub pod: String,
    /// The container; otherwise the pod's main one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
    /// The command and its arguments, at least one.
    pub command: Vec<String>,
    /// Whether it gets a terminal.
    pub tty: bool,
    /// The terminal's size.
    pub size: Option<Size>,
    /// Whether a client will feed its standard input.
    pub stdin: bool,
    /// Closes it after so long, such as `1h`.
    pub timeout: Option<String>,
    /// Closes it after so long without input or output; terminals only.
    pub idle: Option<String>,
    /// Whether its output is recorded.
    #[serde(default = "yes")]
    pub record: bool,
    /// Makes a repeated call the same start.
    pub idempotency_key: Option<String>,
}

/// A pod that is handed over. All but its namespace and its name can be left out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct NewPod {
    /// Its namespace.
    pub namespace: String,
    /// Its name. It need not be there yet.
    pub pod: String,
    /// The container; otherwise the pod's main one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
    /// The app that it belongs to, for a pod that is not there yet where its namespace does not say it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub app: Option<String>,
    /// Whether its container has a terminal, for a pod that is not there yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tty: Option<bool>,
    /// Whether it is deleted when the session has its end, or is stopped.
    pub delete: bool,
    /// Ends the session after so long, such as `1h`.
    pub timeout: Option<String>,
    /// Ends the session after so long without input or output; terminals only.
    pub idle: Option<String>,
    /// Whether its output is recorded.
    #[serde(default = "yes")]
    pub record: bool,
}

/// A command to be run. All but the app and the command can be left out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct NewRun {
    /// The app it belongs to: 1 to 63 letters, digits, `-`, `_` and `.`.
    pub app: String,
    /// The command and its arguments, at least one.
    pub command: Vec<String>,
    /// Whether it gets a terminal.
    pub tty: bool,
    /// The terminal's size.
    pub size: Option<Size>,
    /// Variables of its environment. Never stored.
    pub env: BTreeMap<String, String>,
    /// The caller's whole environment, below `env`. Only the embedded hub uses it, never stored.
    pub caller_env: BTreeMap<String, String>,
    /// The directory it starts in. Only on the caller's own machine.
    pub dir: Option<String>,
    /// On Kubernetes, what its pod is made from: `deploy/NAME`; otherwise what the configuration says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// On Kubernetes, the container that its own is made from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
    /// On Kubernetes, the CPUs that it asks for, such as `500m`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu: Option<String>,
    /// On Kubernetes, the memory that it asks for, such as `512Mi`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<String>,
    /// On Kubernetes, whether it is started through the image's launcher, where it has one.
    #[serde(default = "yes", skip_serializing_if = "is_yes")]
    pub launcher: bool,
    /// Whether a client will feed its standard input; otherwise it is at its end.
    pub stdin: bool,
    /// Whether nobody holds it: it goes on without a client, and no client paces it.
    pub detached: bool,
    /// Whether it goes on when its client vanishes.
    pub keep: bool,
    /// Ends it after so long, such as `1h`.
    pub timeout: Option<String>,
    /// Ends it after so long without input or output; terminals only.
    pub idle: Option<String>,
    /// Whether its output is recorded.
    #[serde(default = "yes")]
    pub record: bool,
    /// Makes a repeated call the same start: for the same caller and body it answers with the session of the first.
    pub idempotency_key: Option<String>,
}

fn is_yes(yes: &bool) -> bool {
    *yes
}

fn is_no(yes: &bool) -> bool {
    !*yes
}

fn is_none(count: &u64) -> bool {
    *count == 0
}

fn yes() -> bool {
    true
}

/// A session, as every door shows it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct SessionInfo {
    /// Its id.
    pub id: Uuid,
    /// Its short name, such as `run.4821`; usable wherever the id is.
    pub name: String,
    /// What its source is.
    pub kind: Kind,
    /// How far it has come.
    pub state: State,
    /// The app it belongs to.
    pub app: String,
    /// Who started it.
    pub owner: String,
    /// The command and its arguments.
    pub command: Vec<String>,
    /// Whether that is only its start, as in lists where it is longer than 1 KiB: the session itself has the whole.
    #[serde(default, skip_serializing_if = "is_no")]
    pub command_cut: bool,
    /// Whether it has a terminal.
    pub tty: bool,
    /// Whether its output is recorded.
    pub record: bool,
    /// Whether nobody has to hold it.
    pub detached: bool,
    /// The backend that runs it.
    pub backend: String,
    /// When it was made: RFC 3339 in UTC, with microseconds, as all times.
    pub created_at: String,
    /// When its command was started.
    pub started_at: Option<String>,
    /// When it ended.
    pub ended_at: Option<String>,
    /// Its end: `cause`, and what belongs to it.
    pub exit: Option<Exit>,
    /// What a client that saw this end exits with.
    pub exit_status: Option<u8>,
    /// The end as a sentence.
    pub exit_text: Option<String>,
    /// How many viewers it has now, on this hub; none where it does not live here.
    pub viewers: Option<usize>,
}

/// A page of sessions, newest first.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct SessionList {
    /// The sessions.
    pub sessions: Vec<SessionInfo>,
    /// The `before` of the next page, if there may be one.
    pub next: Option<String>,
    /// How many more there are that this hub cannot read, damaged or of a later version; its log names them.
    #[serde(default, skip_serializing_if = "is_none")]
    pub unreadable: u64,
}

/// The answer to a start: the session, and a ticket for its driver.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Started {
    /// The session.
    #[serde(flatten)]
    pub session: SessionInfo,
    /// Lets its holder drive and stop it. Absent where a repeated call found the session of the first.
    pub ticket: Option<Ticket>,
}

/// What a ticket is to allow: the body of `POST /v1/sessions/{id}/tickets`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NewTicket {
    /// The right.
    pub right: Right,
    /// How long it is valid, such as `1h`; at most seven days.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<String>,
    /// Whether it can be used once only.
    #[serde(default)]
    pub one_use: bool,
    /// Who it is for, as others are to see them: up to 64 bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
}

/// A ticket. The secret is shown once and stored as a hash.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Ticket {
    /// Names it, for `DELETE /v1/sessions/{id}/tickets/{ticket}`; not secret.
    pub id: Uuid,
    /// What is presented as a token. Secret.
    pub secret: String,
    /// What it allows.
    pub right: Right,
    /// When it ends.
    pub expires_at: String,
}

/// A ticket without its secret.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct TicketInfo {
    /// Names it.
    pub id: Uuid,
    /// What it allows.
    pub right: Right,
    /// Who made it.
    pub issuer: String,
    /// Who it is for, as the issuer has said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// Whether it can be used once only.
    pub one_use: bool,
    /// When it ends.
    pub expires_at: String,
    /// When it was first used, where it is for one use.
    pub used_at: Option<String>,
    /// When it was revoked.
    pub revoked_at: Option<String>,
}

/// The tickets of a session.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct TicketList {
    /// The tickets.
    pub tickets: Vec<TicketInfo>,
    /// How many more there are that this hub cannot read, damaged or of a later version; its log names them.
    #[serde(default, skip_serializing_if = "is_none")]
    pub unreadable: u64,
}

/// A line of the audit trail.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct AuditLine {
    /// When.
    pub time: String,
    /// Who: a token's name, or `ticket:ID`.
    pub actor: String,
    /// What, such as `start`.
    pub action: String,
    /// On which session.
    pub session: Option<Uuid>,
    /// From which address.
    pub address: String,
    /// `ok`, or the code of the error that answered it; `refused` where the line speaks of many.
    pub outcome: String,
    /// More, for a person.
    pub detail: String,
}

/// Lines of the audit trail, newest first.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct AuditList {
    /// The lines.
    pub lines: Vec<AuditLine>,
    /// How many more there are that this hub cannot read, damaged or of a later version; its log names them.
    #[serde(default, skip_serializing_if = "is_none")]
    pub unreadable: u64,
}

/// The answer of `GET /readyz` of a hub that can serve.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Ready {
    /// `true`.
    pub ready: bool,
    /// Nothing.
    pub not_ready: Vec<NotReady>,
}

/// The answer of `GET /readyz` of a hub that cannot serve.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Unready {
    /// `false`.
    pub ready: bool,
    /// All that keeps it from it.
    pub not_ready: Vec<NotReady>,
    /// The first of these, as every error is told.
    #[serde(flatten)]
    pub problem: Problem,
}

/// What keeps a hub from serving.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NotReady {
    /// `stopping`, `store_unavailable` or `backend_unavailable`.
    pub code: String,
    /// A sentence.
    pub detail: String,
}

/// The body of `POST /v1/sessions/{id}/signal`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NewSignal {
    /// A signal's number.
    pub signal: u8,
}

/// One line of an app's log, as NDJSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLine {
    /// When it was written: RFC 3339 in UTC with microseconds.
    pub time: String,
    /// The app.
    pub app: String,
    /// What wrote it: a session's name such as `run.4821`, a file's process type, or a pod's such as `web.x7k2p`.
    pub process: String,
    /// The container that wrote it, where one did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
    /// `stdout`, `stderr`, or `hub` for what Foghorn itself has to say.
    pub stream: String,
    /// The line, without its end; bytes that are not UTF-8 are replaced.
    pub message: String,
    /// Set where Foghorn says that something that was asked for is not there or cannot be read.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unread: bool,
    /// Where to resume behind this line: pass it as `from`. Opaque.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resume: Option<String>,
}

/// An app that was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AppInfo {
    /// Its name.
    pub app: String,
    /// On Kubernetes, its namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// On Kubernetes, the types of its processes, and how many of each it wants.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub processes: BTreeMap<String, i32>,
}

/// The apps that a caller may do something with, by name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AppList {
    /// The apps.
    pub apps: Vec<AppInfo>,
}

/// An error, as RFC 9457 has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Problem {
    /// `about:blank`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The HTTP status in words.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// A stable code, such as `session_not_found`.
    pub code: String,
    /// What happened and what to do.
    pub detail: String,
}

/// What an embedded hub writes into its state folder for its user's clients (`hub.json`), and what
/// `foghorn server status -o json` shows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HubFile {
    /// Where it listens.
    pub url: String,
    /// Its process.
    pub pid: u32,
    /// Its state folder.
    pub home: String,
    /// The file with the bare token, readable by its user alone.
    pub token_file: String,
    /// The socket in its state folder by which its user's own clients reach it; hubs of 0.1 have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub socket: Option<String>,
    /// Its version.
    pub version: String,
    /// The backend it runs commands on.
    pub backend: String,
    /// Its cluster, where it took the one that its user's kubeconfig names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub context: Option<ClusterContext>,
    /// The viewer's protocol that it speaks, [`SUBPROTOCOL`].
    pub protocol: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(message: &impl Serialize) -> String {
        serde_json::to_string(message).expect("serializes")
    }

    /// What version 1 looks like on the wire: a change here breaks every client.
    #[test]
    fn golden_client_messages() {
        let hello = ClientMessage::Hello {
            mode: Mode::Screen,
            role: Role::Drive,
            from: Some(7),
            writer: Some("00".repeat(16)),
            size: Some(Size::DEFAULT),
            paces: false,
        };
        let text = r#"{"type":"hello","mode":"screen","role":"drive","from":7,"writer":"00000000000000000000000000000000","size":{"cols":80,"rows":24},"paces":false}"#;
        assert_eq!(json(&hello), text);
        let short: ClientMessage = serde_json::from_str(r#"{"type":"hello","future":1}"#).expect("parses");
        assert!(matches!(short, ClientMessage::Hello { mode: Mode::Bytes, role: Role::Watch, from: None, .. }));
        for (message, text) in [
            (ClientMessage::Resize { size: Size::DEFAULT }, r#"{"type":"resize","cols":80,"rows":24}"#),
            (ClientMessage::InputEnd { offset: 3 }, r#"{"type":"input_end","offset":3}"#),
            (ClientMessage::Consumed { offset: 3 }, r#"{"type":"consumed","offset":3}"#),
            (ClientMessage::Take, r#"{"type":"take"}"#),
            (ClientMessage::Signal { signal: 2 }, r#"{"type":"signal","signal":2}"#),
            (ClientMessage::Stop, r#"{"type":"stop"}"#),
            (ClientMessage::Detach, r#"{"type":"detach"}"#),
            (ClientMessage::Renew { token: Secret::new("x") }, r#"{"type":"renew","token":"x"}"#),
        ] {
            assert_eq!(json(&message), text);
            assert_eq!(serde_json::from_str::<ClientMessage>(text).expect("parses"), message);
        }
    }

    #[test]
    fn golden_hub_messages() {
        let driver = Some(Driver { name: "ann".into(), viewer: 1 });
        for (message, text) in [
            (
                HubMessage::Presence { driver, watchers: 2, driving: false },
                r#"{"type":"presence","driver":{"name":"ann","viewer":1},"watchers":2,"driving":false}"#,
            ),
            (HubMessage::InputAck { offset: 9 }, r#"{"type":"input_ack","offset":9}"#),
            (HubMessage::Renew, r#"{"type":"renew"}"#),
            (HubMessage::Renewed, r#"{"type":"renewed"}"#),
            (HubMessage::GoingAway { offset: 9 }, r#"{"type":"going_away","offset":9}"#),
            (
                HubMessage::Error { code: "forbidden".into(), detail: "No.".into() },
                r#"{"type":"error","code":"forbidden","detail":"No."}"#,
            ),
        ] {
            assert_eq!(json(&message), text);
            assert_eq!(serde_json::from_str::<HubMessage>(text).expect("parses"), message);
        }
    }
}
