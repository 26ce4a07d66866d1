//! A terminal session that talks all the time, and a witness who follows it from its first byte to its end.

use std::fs;
use std::time::Duration;

use foghorn::protocol::HubMessage;
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::support::server::{Hello, Server, Viewer, tokens, until};
use crate::wire::Wire;

pub(crate) const USER: &str = "user-token-0123456789";
pub(crate) const OTHER: &str = "other-token-0123456789";

/// Says `tick N` all the time, and `got LINE` for each line that is typed.
const TALKER: &str = "stty -echo; (i=0; while :; do echo tick $i; i=$((i+1)); sleep 0.02; done) & \
    while read -r line; do echo \"got $line.\"; done; wait";

/// See the module's documentation.
pub(crate) struct Bed {
    pub(crate) server: Server,
    pub(crate) id: String,
    witness: JoinHandle<Viewer>,
    _dir: tempfile::TempDir,
}

impl Bed {
    pub(crate) async fn start() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let file = tokens(dir.path(), &[("ann", "user", USER), ("bob", "user", OTHER)]);
        let mut server = Server::start_with("", &[("FOGHORN_TOKENS", file.to_str().expect("a path"))]).await;
        let session = server.run(&["sh", "-c", TALKER], json!({"tty": true, "stdin": true, "keep": true})).await;
        let id = session["id"].as_str().expect("an id").to_owned();
        let mut witness = server.attach(&id, Hello::watch()).await;
        witness.shows("tick 0").await;
        let witness = tokio::spawn(async move {
            witness.rest().await;
            witness
        });
        Self { server, id, witness, _dir: dir }
    }

    /// A connection that the hub has taken up as a websocket, before any hello.
    pub(crate) async fn wire(&self) -> Wire {
        Wire::open(&self.server.url(), &self.server.token(), &self.id).await.expect("a websocket")
    }

    /// One who has said hello with these fields, and was welcomed.
    pub(crate) async fn viewer(&self, hello: &str) -> Wire {
        self.viewer_as(&self.server.token(), hello).await
    }

    /// The same, with a token.
    pub(crate) async fn viewer_as(&self, token: &str, hello: &str) -> Wire {
        let mut wire = Wire::open(&self.server.url(), token, &self.id).await.expect("a websocket");
        wire.hello(hello).await;
        wire.hears("welcome").await;
        wire
    }

    /// A ticket of the session: its id and its secret.
    pub(crate) async fn ticket(&self, body: Value) -> (String, String) {
        let path = format!("/v1/sessions/{}/tickets", self.id);
        let (status, ticket) = self.server.ask("POST", &path, Some(body)).await;
        assert_eq!(status, 201, "{ticket}");
        let text = |name: &str| ticket[name].as_str().expect("text").to_owned();
        (text("id"), text("secret"))
    }

    /// The most memory that the hub ever had, in bytes.
    pub(crate) fn memory(&self) -> u64 {
        memory(&self.server)
    }

    /// The time that the hub has spent on processors.
    pub(crate) fn cpu(&self) -> Duration {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.server.pid())).expect("a process");
        let fields: Vec<&str> = stat[stat.rfind(')').expect("a name") + 2..].split(' ').collect();
        // The 14th and the 15th, in hundredths of a second; the first one here is the 3rd.
        let hundredths = |at: usize| fields[at - 3].parse::<u64>().expect("a number");
        Duration::from_millis(10 * (hundredths(14) + hundredths(15)))
    }

    /// The session's state.
    pub(crate) async fn state(&self) -> String {
        let (_, session) = self.server.ask("GET", &format!("/v1/sessions/{}", self.id), None).await;
        session["state"].as_str().expect("a state").to_owned()
    }

    /// The terminal's size, as one who comes now is told.
    pub(crate) async fn size(&self) -> (u16, u16) {
        let mut viewer = self.server.attach(&self.id, Hello::watch()).await;
        let welcome = viewer.hears(|message| matches!(message, HubMessage::Welcome { .. })).await;
        let HubMessage::Welcome { size: Some(size), .. } = welcome else { panic!("a terminal has a size") };
        (size.cols, size.rows)
    }

    /// Waits until the terminal has this size.
    pub(crate) async fn has_size(&self, cols: u16, rows: u16) {
        until("the terminal has the size", async || (self.size().await == (cols, rows)).then_some(())).await;
    }

    /// A session without a terminal that reads nothing of its input.
    pub(crate) async fn start_silent(&self) -> String {
        let source = json!({"kind": "run", "app": "test", "command": ["sleep", "600"], "stdin": true, "keep": true});
        let (status, session) = self.server.ask("POST", "/v1/sessions", Some(json!({ "source": source }))).await;
        assert_eq!(status, 201, "{session}");
        session["id"].as_str().expect("an id").to_owned()
    }

    /// Stops a session.
    pub(crate) async fn stop(&self, id: &str) {
        self.server.ask("DELETE", &format!("/v1/sessions/{id}"), None).await;
        self.server.ended(id).await;
    }

    /// See [`Self::finish_but_keep`].
    pub(crate) async fn finish(self) {
        self.finish_but_keep().await;
    }

    /// The hub lives, nothing in it failed, the session still talks; and after its end the witness has seen every byte
    /// of it, once and in order.
    pub(crate) async fn finish_but_keep(self) -> (Server, String) {
        let Self { mut server, id, witness, _dir } = self;
        assert!(!server.has_ended(), "{}", server.log());
        assert_eq!(server.ask("GET", "/healthz", None).await.0, 200);
        let mut late = server.attach(&id, Hello::watch()).await;
        let welcome = late.hears(|message| matches!(message, HubMessage::Welcome { .. })).await;
        let HubMessage::Welcome { head, .. } = welcome else { panic!("a welcome") };
        while late.next <= head {
            late.come().await;
        }
        server.ask("DELETE", &format!("/v1/sessions/{id}"), None).await;
        server.ended(&id).await;
        let witness = witness.await.expect("the witness saw all");
        assert_eq!(witness.exit.as_ref().map(|exit| exit.status()), Some(143), "{:?}", witness.exit);
        assert!(witness.gaps.is_empty(), "{:?}", witness.gaps);
        assert!(server.output(&id, false).await == witness.output, "the witness has other bytes than the journal");
        assert!(!server.log().contains("panicked"), "{}", server.log());
        (server, id)
    }
}

/// The most memory that a hub ever had (VmHWM), in bytes.
pub(crate) fn memory(server: &Server) -> u64 {
    let file: Value = serde_json::from_slice(&fs::read(server.home().join("hub.json")).expect("a hub")).expect("JSON");
    let status = fs::read_to_string(format!("/proc/{}/status", file["pid"])).expect("a process");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a line");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") << 10
}
