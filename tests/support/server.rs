//! A real hub for tests, in a state folder of its own, with a client that speaks plain HTTP and websocket to it.
//!
//! Dropping it kills the hub and fails the test where a process of any of its sessions is left.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use bytes::Bytes;
use foghorn::protocol::{ClientMessage, HubFile, HubMessage, Mode, Role};
use foghorn::record::{Batch, Exit, Payload, Reason, Record, Size};
use futures_util::{SinkExt, StreamExt};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::{self, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

/// How long anything in a test may take.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

/// Short limits, so that tests need not wait; a test appends its own.
const LIMITS: &str = "[limits]\nhup_wait = \"300ms\"\nterm_wait = \"300ms\"\n";

/// Waits until `fact` gives something.
pub(crate) async fn until<T>(what: &str, mut fact: impl AsyncFnMut() -> Option<T>) -> T {
    let since = Instant::now();
    loop {
        if let Some(value) = fact().await {
            return value;
        }
        assert!(since.elapsed() < DEADLINE, "not within {DEADLINE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// A hub as a process.
pub(crate) struct Server {
    home: tempfile::TempDir,
    /// What the hub is started by, with its own arguments.
    under: Vec<String>,
    child: Option<Child>,
    env: Vec<(String, String)>,
    /// Ids of the sessions that were started.
    sessions: Vec<String>,
}

impl Server {
    /// A hub on SQLite with settings added to the short limits: lines of `[limits]`, then other tables.
    pub(crate) async fn start(settings: &str) -> Self {
        Self::start_with(settings, &[]).await
    }

    /// The same, with variables in its environment.
    pub(crate) async fn start_with(settings: &str, env: &[(&str, &str)]) -> Self {
        Self::start_at(tempfile::tempdir().expect("a directory"), settings, env).await
    }

    /// The same, in this state folder.
    pub(crate) async fn start_at(home: tempfile::TempDir, settings: &str, env: &[(&str, &str)]) -> Self {
        fs::write(home.path().join("foghorn.toml"), format!("{LIMITS}{settings}")).expect("writes");
        let env = env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let mut server = Self { home, under: Vec::new(), child: None, env, sessions: Vec::new() };
        server.again().await;
        server
    }

    /// A hub that runs as another user, who may have so many processes and threads. `None`, with a loud line, where
    /// this test may not do that.
    pub(crate) async fn start_as(user: u32, processes: u32) -> Option<Self> {
        let user = ["--reuid", "--regid"].map(|option| format!("{option}={user}"));
        let mut under = vec!["setpriv".to_owned()];
        under.extend(user.clone());
        under.push("--clear-groups".into());
        let program = Path::new(env!("CARGO_BIN_EXE_foghorn"));
        let may = Command::new("setpriv").args(&under[1..]).arg(program).arg("--version").output();
        if !may.is_ok_and(|may| may.status.success()) {
            let _ = std::io::Write::write_all(&mut std::io::stderr(), b"SKIPPED: cannot run a hub as another user\n");
            return None;
        }
        let home = tempfile::tempdir().expect("a directory");
        let owner = user[0].split_once('=').expect("a value").1.to_owned();
        assert!(Command::new("chown").arg(owner).arg(home.path()).status().expect("chown").success());
        fs::write(home.path().join("foghorn.toml"), LIMITS).expect("writes");
        under.extend(["prlimit".into(), format!("--nproc={processes}:{processes}")]);
        let mut server = Self { home, under, child: None, env: Vec::new(), sessions: Vec::new() };
        server.again().await;
        Some(server)
    }

    /// Starts a hub on the same state folder.
    pub(crate) async fn again(&mut self) {
        let _stale = fs::remove_file(self.state().join("hub.json"));
        let log = fs::OpenOptions::new().create(true).append(true).open(self.home().join("hub.log")).expect("opens");
        let mut words = self.under.iter().map(String::as_str).chain([env!("CARGO_BIN_EXE_foghorn")]);
        let mut command = Command::new(words.next().expect("a program"));
        command.args(words).args(["serve", "--embedded", "--home"]).arg(self.home()).env("USER", "tester");
        command.envs(self.env.iter().cloned()).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        self.child = Some(command.spawn().expect("a hub"));
        until("the hub listens", async || self.file()).await;
    }

    /// Its state folder.
    pub(crate) fn home(&self) -> &Path {
        self.home.path()
    }

    /// The folder that has its state: in one that several write to, a folder of its own.
    fn state(&self) -> PathBuf {
        foghorn::folder::locate(self.home()).unwrap_or_else(|_| self.home().to_owned())
    }

    fn file(&self) -> Option<HubFile> {
        serde_json::from_slice(&fs::read(self.state().join("hub.json")).ok()?).ok()
    }

    /// Its address.
    pub(crate) fn url(&self) -> String {
        self.file().expect("a hub that listens").url
    }

    /// A proxy that leads to whichever hub runs on this state folder.
    pub(crate) fn proxy(&self) -> super::proxy::Proxy {
        let file = self.home().join("hub.json");
        super::proxy::Proxy::start(move || {
            let hub: HubFile = serde_json::from_slice(&fs::read(&file).ok()?).ok()?;
            Some(super::proxy::Target::Tcp(hub.url.strip_prefix("http://")?.parse().ok()?))
        })
    }

    /// Its admin's token.
    pub(crate) fn token(&self) -> String {
        fs::read_to_string(self.state().join("token")).expect("a token")
    }

    /// Its log so far.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.home().join("hub.log")).expect("a log")
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.as_ref().expect("a hub").id()
    }

    /// `kill -9`.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("kills");
            child.wait().expect("waits");
        }
    }

    /// `kill -TERM`, and waits for the end.
    pub(crate) async fn terminate(&mut self) {
        let mut child = self.child.take().expect("a hub");
        signal(child.id(), "TERM");
        until("the hub stops", async || child.try_wait().expect("waits")).await;
    }

    /// Whether the hub's process has ended by itself.
    pub(crate) fn has_ended(&mut self) -> bool {
        self.child.as_mut().is_none_or(|child| child.try_wait().expect("waits").is_some())
    }

    /// A request as the admin: the status and the body, as JSON where it is.
    pub(crate) async fn ask(&self, method: &str, path: &str, body: Option<Value>) -> (u16, Value) {
        self.ask_as(&self.token(), method, path, body).await
    }

    /// A request with a token.
    pub(crate) async fn ask_as(&self, token: &str, method: &str, path: &str, body: Option<Value>) -> (u16, Value) {
        let (status, bytes) = self.bytes_as(token, method, path, body).await;
        let text = String::from_utf8_lossy(&bytes).into_owned();
        (status, serde_json::from_slice(&bytes).unwrap_or(Value::String(text)))
    }

    /// A request with a token: the status and the raw body.
    pub(crate) async fn bytes_as(&self, token: &str, method: &str, path: &str, body: Option<Value>) -> (u16, Bytes) {
        let request = http::Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.url()))
            .header("authorization", format!("Bearer {token}"))
            .header("content-type", "application/json")
            .body(Full::new(body.map(|body| Bytes::from(body.to_string())).unwrap_or_default()))
            .expect("a request");
        send(request).await
    }

    /// Opens a door with a token; what follows tells whether its answer came to its end properly.
    pub(crate) async fn open_as(&self, token: &str, path: &str) -> impl Future<Output = bool> + use<> {
        let uri = format!("{}{path}", self.url());
        let request = http::Request::get(uri).header("authorization", format!("Bearer {token}"));
        let client = Client::builder(TokioExecutor::new()).build_http::<Full<Bytes>>();
        let answer = client.request(request.body(Full::default()).expect("a request")).await.expect("an answer");
        assert_eq!(answer.status(), 200);
        async { answer.into_body().collect().await.is_ok() }
    }

    /// Starts a command; `with` overrides fields of the body's source. The answer.
    pub(crate) async fn run(&mut self, command: &[&str], with: Value) -> Value {
        let mut source = json!({"kind": "run", "app": "test", "command": command, "caller_env": {"PATH": "/usr/local/bin:/usr/bin:/bin"}});
        for (name, value) in with.as_object().into_iter().flatten() {
            source[name] = value.clone();
        }
        let (status, answer) = self.ask("POST", "/v1/sessions", Some(json!({ "source": source }))).await;
        assert_eq!(status, 201, "{answer}");
        self.sessions.push(answer["id"].as_str().expect("an id").into());
        answer
    }

    /// The id of a command that nobody has to hold.
    pub(crate) async fn run_detached(&mut self, script: &str) -> String {
        let answer = self.run(&["sh", "-c", script], json!({"detached": true})).await;
        answer["id"].as_str().expect("an id").into()
    }

    /// Waits for a session's end.
    pub(crate) async fn ended(&self, id: &str) -> Value {
        until("the session ends", async || {
            let (_, session) = self.ask("GET", &format!("/v1/sessions/{id}?wait=10"), None).await;
            (session["state"] == "ended").then_some(session)
        })
        .await
    }

    /// Waits until a session's end is in the store: then its agent is let go.
    pub(crate) async fn stored(&self, id: &str) {
        self.ended(id).await;
        until("the agent ends", async || self.agent(id).is_none().then_some(())).await;
    }

    /// All that a session printed so far, or to its end with `follow`.
    pub(crate) async fn output(&self, id: &str, follow: bool) -> Bytes {
        let path = format!("/v1/sessions/{id}/output?follow={follow}");
        let (status, bytes) = self.bytes_as(&self.token(), "GET", &path, None).await;
        assert_eq!(status, 200);
        bytes
    }

    /// Follows a session as the admin.
    pub(crate) async fn attach(&self, id: &str, hello: Hello) -> Viewer {
        self.attach_as(&self.token(), id, hello).await.expect("attaches")
    }

    /// Follows a session with a token.
    pub(crate) async fn attach_as(&self, token: &str, id: &str, hello: Hello) -> Result<Viewer, tungstenite::Error> {
        let mut request =
            format!("{}/v1/sessions/{id}/attach", self.url().replace("http", "ws")).into_client_request()?;
        let headers = request.headers_mut();
        headers.insert("authorization", format!("Bearer {token}").parse().expect("a header"));
        headers.insert("sec-websocket-protocol", "foghorn.v1".parse().expect("a header"));
        let (socket, _) = tokio_tungstenite::connect_async(request).await?;
        let mut viewer = Viewer {
            socket,
            output: Vec::new(),
            next: hello.from.unwrap_or(0),
            gaps: Vec::new(),
            exit: None,
            seen: Vec::new(),
        };
        viewer.say(&hello.message()).await;
        Ok(viewer)
    }

    /// Processes that carry the mark of a session.
    pub(crate) fn processes(&self, id: &str) -> Vec<u32> {
        with_environment(&format!("FOGHORN_SESSION={id}"))
    }

    /// The process id of a session's agent.
    pub(crate) fn agent(&self, id: &str) -> Option<u32> {
        pids().find(|pid| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let words: Vec<_> = line.split(|byte| *byte == 0).collect();
            words.contains(&&b"serve"[..]) && words.contains(&id.as_bytes())
        })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
        let left: Vec<_> = self.sessions.iter().flat_map(|id| self.processes(id)).collect();
        let agents: Vec<_> = self.sessions.iter().filter_map(|id| self.agent(id)).collect();
        left.iter().chain(&agents).for_each(|pid| signal(*pid, "KILL"));
        if !std::thread::panicking() {
            assert!(left.is_empty(), "processes are left: {left:?}");
        }
    }
}

/// Sends a signal by name.
pub(crate) fn signal(pid: u32, name: &str) {
    let _may_be_gone = Command::new("kill").arg(format!("-{name}")).arg(pid.to_string()).stderr(Stdio::null()).status();
}

/// Whether a process is there and not a zombie.
pub(crate) fn alive(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(')').next().is_some_and(|rest| !rest.trim().is_empty() && !rest.trim_start().starts_with('Z'))
}

fn pids() -> impl Iterator<Item = u32> {
    let entries = fs::read_dir("/proc").expect("processes").flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// Living processes with a variable in their environment.
pub(crate) fn with_environment(variable: &str) -> Vec<u32> {
    let has = |pid: &u32| {
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environment.split(|byte| *byte == 0).any(|entry| entry == variable.as_bytes())
    };
    pids().filter(has).filter(|pid| alive(*pid)).collect()
}

/// Sends a request and reads the whole answer.
pub(crate) async fn send(request: http::Request<Full<Bytes>>) -> (u16, Bytes) {
    let client = Client::builder(TokioExecutor::new()).build_http();
    let answer = client.request(request).await.expect("an answer");
    let status = answer.status().as_u16();
    (status, answer.into_body().collect().await.expect("a body").to_bytes())
}

/// How a viewer says hello.
#[derive(Clone, Debug, Default)]
pub(crate) struct Hello {
    pub(crate) mode: Mode,
    pub(crate) role: Role,
    pub(crate) from: Option<u64>,
    pub(crate) writer: Option<u128>,
    pub(crate) size: Option<Size>,
    pub(crate) paces: bool,
}

impl Hello {
    /// One who only reads every byte.
    pub(crate) fn watch() -> Self {
        Self::default()
    }

    /// One who types.
    pub(crate) fn drive(writer: u128) -> Self {
        Self { role: Role::Drive, writer: Some(writer), ..Self::default() }
    }

    fn message(&self) -> ClientMessage {
        ClientMessage::Hello {
            mode: self.mode,
            role: self.role,
            from: self.from,
            writer: self.writer.map(|writer| format!("{writer:032x}")),
            size: self.size,
            paces: self.paces,
        }
    }
}

/// One who follows a session. Output is checked to be contiguous as it comes.
pub(crate) struct Viewer {
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    /// All output so far.
    pub(crate) output: Vec<u8>,
    /// The offset that comes next.
    pub(crate) next: u64,
    /// What was said to be missing.
    pub(crate) gaps: Vec<(u64, u64, Reason)>,
    /// The end, once it came.
    pub(crate) exit: Option<Exit>,
    /// Text messages so far.
    pub(crate) seen: Vec<HubMessage>,
}

/// What came from the hub.
#[derive(Debug)]
pub(crate) enum Came {
    Records(Vec<Record>),
    Message(HubMessage),
    Closed(u16),
    Lost,
}

impl Viewer {
    /// Says something.
    pub(crate) async fn say(&mut self, message: &ClientMessage) {
        self.say_text(&serde_json::to_string(message).expect("serializes")).await;
    }

    /// Says something that need not be a message.
    pub(crate) async fn say_text(&mut self, text: &str) {
        // A hub that is gone is found out by what comes.
        let _ = self.socket.send(Message::text(text)).await;
    }

    /// Types at an offset of this writer's input.
    pub(crate) async fn type_at(&mut self, offset: u64, text: &str) {
        let mut data = offset.to_be_bytes().to_vec();
        data.extend_from_slice(text.as_bytes());
        let _ = self.socket.send(Message::binary(data)).await;
    }

    /// Reads until so many more bytes of output are here, which the stream has to have.
    pub(crate) async fn gets(&mut self, more: usize) {
        let enough = self.output.len() + more;
        while self.output.len() < enough {
            let came = self.come().await;
            let goes_on = matches!(came, Came::Records(_) | Came::Message(_));
            assert!(goes_on, "{came:?} after {} bytes, {enough} were to come", self.output.len());
        }
    }

    /// The next thing that comes.
    pub(crate) async fn come(&mut self) -> Came {
        let deadline = tokio::time::Instant::now() + DEADLINE;
        loop {
            let message = tokio::time::timeout_at(deadline, self.socket.next()).await.expect("something comes in time");
            match message {
                Some(Ok(Message::Binary(bytes))) => return self.records(bytes),
                Some(Ok(Message::Text(text))) => {
                    let message: HubMessage = serde_json::from_str(&text).expect("a message");
                    self.seen.push(message.clone());
                    return Came::Message(message);
                }
                Some(Ok(Message::Close(frame))) => return Came::Closed(frame.map_or(1005, |frame| frame.code.into())),
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return Came::Lost,
            }
        }
    }

    fn records(&mut self, bytes: Bytes) -> Came {
        let records: Vec<_> = Batch::parse(bytes).expect("whole records").records().collect();
        for record in &records {
            match &record.payload {
                Payload::Snapshot(..) => self.next = record.offset,
                Payload::Output(_, data) => {
                    assert_eq!(record.offset, self.next, "output is contiguous");
                    self.output.extend_from_slice(data);
                }
                Payload::Exit(exit) => self.exit = Some(exit.clone()),
                Payload::Dropped { to, reason } if reason.is_loss() => self.gaps.push((record.offset, *to, *reason)),
                _ => assert_eq!(record.offset, self.next, "records are contiguous"),
            }
            self.next = record.end().max(self.next);
        }
        Came::Records(records)
    }

    /// Reads until the output has this text.
    pub(crate) async fn shows(&mut self, text: &str) {
        while !self.has(text) {
            match self.come().await {
                Came::Closed(_) | Came::Lost => {
                    panic!("closed before {text:?}: {:?}", String::from_utf8_lossy(&self.output))
                }
                _ => {}
            }
        }
    }

    /// Holds against the viewer that it has not what was printed, but for what it was told to be missing.
    pub(crate) fn holds(&self, printed: &[u8]) {
        let (mut at, mut output) = (0, &self.output[..]);
        for (from, to, _) in &self.gaps {
            let (piece, rest) = output.split_at(*from as usize - at);
            assert!(piece == &printed[at..*from as usize], "between {at} and {from}");
            (at, output) = (*to as usize, rest);
        }
        assert!(output == &printed[at..self.next as usize], "between {at} and {}", self.next);
    }

    /// Whether the output has this text.
    pub(crate) fn has(&self, text: &str) -> bool {
        self.output.windows(text.len()).any(|window| window == text.as_bytes())
    }

    /// Reads until a text message is like this.
    pub(crate) async fn hears(&mut self, like: impl Fn(&HubMessage) -> bool) -> HubMessage {
        loop {
            match self.come().await {
                Came::Message(message) if like(&message) => return message,
                Came::Closed(code) => panic!("closed with {code}"),
                Came::Lost => panic!("lost"),
                _ => {}
            }
        }
    }

    /// Reads to the end of the connection; its close code, 0 where it was lost.
    pub(crate) async fn rest(&mut self) -> u16 {
        loop {
            match self.come().await {
                Came::Closed(code) => return code,
                Came::Lost => return 0,
                _ => {}
            }
        }
    }
}

/// A file of tokens: name, role, token.
pub(crate) fn tokens(dir: &Path, entries: &[(&str, &str, &str)]) -> PathBuf {
    let path = dir.join("tokens.toml");
    let entry = |(name, role, token): &(&str, &str, &str)| {
        format!("[[token]]\nname = \"{name}\"\nrole = \"{role}\"\ntoken = \"{token}\"\n")
    };
    fs::write(&path, entries.iter().map(entry).collect::<String>()).expect("writes");
    path
}
