//! A server that speaks as much of the API server's language as an exec and an attach need, over plain HTTP: with version
//! 4 or 5 of the channel protocol, and with all that a real one does only now and then: failures, and the rotation of a
//! log.
//!
//! What an exec "runs" in its one pod is told by the first word of the command. What the pod's container has printed is
//! its log, and an attach gives what a test says.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::server::{ErrorResponse, Request, Response};
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const STATUS: u8 = 3;
const RESIZE: u8 = 4;
const CLOSE: u8 = 255;

/// The namespace and the pod that there are.
pub(crate) const NAMESPACE: &str = "fake";
pub(crate) const POD: &str = "demo-web-1";

/// See the module's documentation.
pub(crate) struct Channels {
    /// Where it listens.
    pub(crate) url: String,
    container: Arc<Mutex<Container>>,
}

/// The pod's one container.
#[derive(Default)]
struct Container {
    /// What its log has each time that it is read; the last one from then on.
    logs: VecDeque<String>,
    /// What an attach gives, each after a wait.
    prints: Vec<(Duration, String)>,
    /// Whether it ends behind that.
    ends: bool,
    has_ended: bool,
    /// With what the next attaches, and the next readings of the log, are refused.
    refused_attaches: VecDeque<u16>,
    refused_logs: VecDeque<u16>,
    /// What becomes of the next calls to make a pod.
    creates: VecDeque<Create>,
    /// The pod that was made.
    made: Option<Value>,
    /// What was asked for, as it came.
    asked: Vec<String>,
}

/// What becomes of a call to make a pod.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Create {
    /// It is refused with this status.
    Refused(u16),
    /// The pod is made, and the answer is lost.
    Lost,
}

impl Container {
    fn log(&mut self) -> String {
        if self.logs.len() > 1 { self.logs.pop_front() } else { self.logs.front().cloned() }.unwrap_or_default()
    }
}

impl Channels {
    /// A server that speaks this version of the protocol alone.
    pub(crate) async fn start(version: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("listens");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let container = Arc::<Mutex<Container>>::default();
        tokio::spawn({
            let container = container.clone();
            async move {
                while let Ok((stream, _)) = listener.accept().await {
                    tokio::spawn(serve(stream, version, container.clone()));
                }
            }
        });
        Self { url, container }
    }

    /// What the log of the pod's container has each time that it is read from now on; the last one for good.
    pub(crate) fn set_logs(&self, logs: &[String]) {
        self.container.lock().unwrap_or_else(PoisonError::into_inner).logs = logs.iter().cloned().collect();
    }

    /// What the next who attaches gets, each after a wait.
    pub(crate) fn set_prints(&self, prints: &[(Duration, String)]) {
        self.container.lock().unwrap_or_else(PoisonError::into_inner).prints = prints.to_vec();
    }

    /// Refuses the next attaches, and the next readings of the log.
    pub(crate) fn refuse(&self, attaches: &[u16], logs: &[u16]) {
        let mut container = self.container.lock().unwrap_or_else(PoisonError::into_inner);
        container.refused_attaches = attaches.iter().copied().collect();
        container.refused_logs = logs.iter().copied().collect();
    }

    /// How many of these are still to come.
    pub(crate) fn refusals_left(&self) -> usize {
        let container = self.container.lock().unwrap_or_else(PoisonError::into_inner);
        container.refused_attaches.len() + container.refused_logs.len()
    }

    /// What becomes of the next calls to make a pod; those behind them are done.
    pub(crate) fn creates(&self, creates: &[Create]) {
        self.container.lock().unwrap_or_else(PoisonError::into_inner).creates = creates.iter().copied().collect();
    }

    /// How many calls to make a pod were not answered as they were to be.
    pub(crate) fn creates_left(&self) -> usize {
        self.container.lock().unwrap_or_else(PoisonError::into_inner).creates.len()
    }

    /// The targets of all requests so far.
    pub(crate) fn asked(&self) -> Vec<String> {
        self.container.lock().unwrap_or_else(PoisonError::into_inner).asked.clone()
    }

    /// It ends behind what is printed next.
    pub(crate) fn end(&self) {
        self.container.lock().unwrap_or_else(PoisonError::into_inner).ends = true;
    }

    /// Writes a kubeconfig for it; its path.
    pub(crate) fn kubeconfig(&self, dir: &Path) -> String {
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "fake",
            "clusters": [{ "name": "fake", "cluster": { "server": self.url } }],
            "users": [{ "name": "fake", "user": {} }],
            "contexts": [{ "name": "fake", "context": { "cluster": "fake", "user": "fake", "namespace": NAMESPACE } }],
        });
        let path = dir.join("kubeconfig");
        std::fs::write(&path, config.to_string()).expect("writes");
        path.display().to_string()
    }
}

/// One connection: one request, or one websocket.
async fn serve(mut stream: TcpStream, version: &'static str, container: Arc<Mutex<Container>>) {
    let head = head(&stream).await;
    let target = head.split_whitespace().nth(1).unwrap_or_default().to_owned();
    let made = {
        let mut container = container.lock().unwrap_or_else(PoisonError::into_inner);
        container.asked.push(target.clone());
        container.made.clone()
    };
    let made = made.and_then(|pod| Some(pod["metadata"]["name"].as_str()?.to_owned())).unwrap_or_default();
    let of_pod = |what: &str| [POD, &made].iter().any(|pod| target.contains(&format!("/pods/{pod}/{what}?")));
    if head.starts_with("POST ") && target.split('?').next().is_some_and(|path| path.ends_with("/pods")) {
        return create(stream, &head, &container).await;
    }
    if !of_pod("exec") && !of_pod("attach") {
        let mut read = vec![0; head.len()];
        stream.read_exact(&mut read).await.expect("reads");
        if of_pod("log") {
            let refused = container.lock().unwrap_or_else(PoisonError::into_inner).refused_logs.pop_front();
            if let Some(code) = refused {
                return answer_with(&mut stream, code, status(code, "no log for you").to_string().as_bytes()).await;
            }
            let log = container.lock().unwrap_or_else(PoisonError::into_inner).log();
            return answer_with(&mut stream, 200, log.as_bytes()).await;
        }
        let (has_ended, pod) = {
            let container = container.lock().unwrap_or_else(PoisonError::into_inner);
            (container.has_ended, container.made.clone())
        };
        let path = target.split('?').next().unwrap_or_default();
        let answer = match pod {
            Some(pod) if path.ends_with(&format!("/pods/{made}")) => pod,
            _ => object(path, has_ended),
        };
        let code = if answer["code"] == 404 { 404 } else { 200 };
        return answer_with(&mut stream, code, answer.to_string().as_bytes()).await;
    }
    let command = command(&target);
    let first = command.first().map(String::as_str).unwrap_or_default();
    let refused = match of_pod("attach") {
        true => container.lock().unwrap_or_else(PoisonError::into_inner).refused_attaches.pop_front(),
        false => first.parse::<u16>().ok().filter(|code| *code >= 400),
    };
    if let Some(code) = refused {
        let mut read = vec![0; head.len()];
        stream.read_exact(&mut read).await.expect("reads");
        let refusal = status(code, "no exec for you").to_string();
        return answer_with(&mut stream, code, refusal.as_bytes()).await;
    }
    #[expect(clippy::result_large_err, reason = "the library's own")]
    let choose = |request: &Request, mut response: Response| -> Result<Response, ErrorResponse> {
        let asked = request.headers().get("sec-websocket-protocol").and_then(|value| value.to_str().ok());
        if asked.is_some_and(|asked| asked.contains(version)) {
            response.headers_mut().insert("sec-websocket-protocol", version.parse().expect("a value"));
        }
        Ok(response)
    };
    let Ok(mut socket) = tokio_tungstenite::accept_hdr_async(stream, choose).await else { return };
    if !of_pod("attach") {
        return run(socket, &command).await;
    }
    let prints = std::mem::take(&mut container.lock().unwrap_or_else(PoisonError::into_inner).prints);
    for (wait, text) in prints {
        tokio::time::sleep(wait).await;
        say(&mut socket, STDOUT, text.as_bytes()).await;
    }
    let ends = {
        let mut container = container.lock().unwrap_or_else(PoisonError::into_inner);
        container.has_ended = container.ends;
        container.ends
    };
    if ends {
        return exit(socket, 0).await;
    }
    while hear(&mut socket).await.is_some() {}
}

/// The head of the request, which stays in the socket.
async fn head(stream: &TcpStream) -> String {
    let mut buffer = vec![0; 16 << 10];
    loop {
        let len = stream.peek(&mut buffer).await.unwrap_or(0);
        let text = String::from_utf8_lossy(&buffer[..len]).into_owned();
        match text.find("\r\n\r\n") {
            Some(end) => return text[..end + 4].to_owned(),
            None if len == 0 => return text,
            None => tokio::time::sleep(Duration::from_millis(2)).await,
        }
    }
}

/// Makes a pod, whose container runs at once.
async fn create(mut stream: TcpStream, head: &str, container: &Mutex<Container>) {
    let header =
        |line: &str| line.to_ascii_lowercase().strip_prefix("content-length:").map(|len| len.trim().to_owned());
    let len: usize = head.lines().find_map(header).expect("a length").parse().expect("a number");
    let mut request = vec![0; head.len() + len];
    stream.read_exact(&mut request).await.expect("reads");
    let mut pod: Value = serde_json::from_slice(&request[head.len()..]).expect("a pod");
    let name = pod["spec"]["containers"][0]["name"].clone();
    pod["metadata"]["uid"] = json!("u-2");
    pod["status"] = json!({ "phase": "Running", "containerStatuses": [
        { "name": name, "image": "web:1", "imageID": "", "ready": true, "restartCount": 0, "state": { "running": {} } },
    ] });
    let (turn, there) = {
        let mut container = container.lock().unwrap_or_else(PoisonError::into_inner);
        let turn = container.creates.pop_front();
        let there = container.made.is_some();
        if !there && !matches!(turn, Some(Create::Refused(_))) {
            container.made = Some(pod.clone());
        }
        (turn, there)
    };
    let (code, answer) = match turn {
        Some(Create::Lost) => return,
        Some(Create::Refused(code)) => (code, status(code, "not now")),
        None if there => (
            409,
            json!({ "kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 409,
            "reason": "AlreadyExists", "message": "there is one" }),
        ),
        None => (201, pod),
    };
    answer_with(&mut stream, code, answer.to_string().as_bytes()).await;
}

async fn answer_with(stream: &mut TcpStream, code: u16, body: &[u8]) {
    let head = format!(
        "HTTP/1.1 {code} Said\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    let _ = stream.write_all(&[head.as_bytes(), body].concat()).await;
}

/// The words of `command=` in a query.
fn command(target: &str) -> Vec<String> {
    let url = url_of(target);
    url.into_iter().filter(|(name, _)| name == "command").map(|(_, value)| value).collect()
}

fn url_of(target: &str) -> Vec<(String, String)> {
    let query = target.split_once('?').map_or("", |(_, query)| query);
    let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    pairs.map(|(name, value)| (name.to_owned(), value.replace('+', " ").replace("%2F", "/"))).collect()
}

fn status(code: u16, message: &str) -> Value {
    json!({ "kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "message": message, "reason": "Said" })
}

/// What there is at a path.
fn object(path: &str, has_ended: bool) -> Value {
    let state = match has_ended {
        true => json!({ "terminated": { "exitCode": 0, "reason": "Completed" } }),
        false => json!({ "running": {} }),
    };
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": POD, "namespace": NAMESPACE, "uid": "u-1", "creationTimestamp": "2026-01-01T00:00:00Z",
            "labels": { "app.kubernetes.io/instance": "demo", "app.kubernetes.io/component": "web" },
        },
        "spec": { "containers": [{ "name": "web", "image": "web:1" }] },
        "status": { "phase": "Running", "containerStatuses": [
            { "name": "web", "image": "web:1", "imageID": "", "ready": true, "restartCount": 0, "state": state },
        ] },
    });
    let pods = format!("/api/v1/namespaces/{NAMESPACE}/pods");
    match path {
        "/version" => {
            json!({ "major": "1", "minor": "33", "gitVersion": "v1.33.0", "gitCommit": "", "gitTreeState": "",
            "buildDate": "", "goVersion": "", "compiler": "", "platform": "" })
        }
        "/api" => json!({ "kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": [] }),
        "/apis" => json!({ "kind": "APIGroupList", "apiVersion": "v1", "groups": [] }),
        "/api/v1" => json!({ "kind": "APIResourceList", "groupVersion": "v1", "resources": [
            { "name": "pods", "singularName": "pod", "namespaced": true, "kind": "Pod", "verbs": ["get", "list"] },
            { "name": "pods/exec", "singularName": "", "namespaced": true, "kind": "PodExecOptions", "verbs": ["create", "get"] },
        ] }),
        path if path == pods => json!({ "kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": [pod] }),
        path if path == format!("{pods}/{POD}") => pod,
        path if path == format!("/apis/apps/v1/namespaces/{NAMESPACE}/deployments") => {
            let labels = json!({ "app.kubernetes.io/instance": "demo", "app.kubernetes.io/component": "web" });
            let template = json!({ "metadata": { "labels": labels }, "spec": pod["spec"] });
            json!({ "kind": "DeploymentList", "apiVersion": "apps/v1", "metadata": {}, "items": [{
                "metadata": { "name": "demo-web", "namespace": NAMESPACE, "uid": "u-3", "labels": labels },
                "spec": { "selector": { "matchLabels": labels }, "template": template },
            }] })
        }
        path if path == format!("/api/v1/namespaces/{NAMESPACE}/services") => {
            json!({ "kind": "ServiceList", "apiVersion": "v1", "metadata": {}, "items": [] })
        }
        "/api/v1/pods" => json!({ "kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": [] }),
        _ => status(404, "there is no such thing"),
    }
}

type Socket = WebSocketStream<TcpStream>;

async fn say(socket: &mut Socket, stream: u8, data: &[u8]) -> bool {
    let mut message = vec![stream];
    message.extend_from_slice(data);
    socket.send(Message::Binary(message.into())).await.is_ok()
}

async fn exit(mut socket: Socket, code: u8) {
    let status = match code {
        0 => json!({ "metadata": {}, "status": "Success" }),
        code => json!({
            "metadata": {}, "status": "Failure", "reason": "NonZeroExitCode",
            "message": format!("command terminated with exit code {code}"),
            "details": { "causes": [{ "reason": "ExitCode", "message": code.to_string() }] },
        }),
    };
    say(&mut socket, STATUS, status.to_string().as_bytes()).await;
    let frame = CloseFrame { code: CloseCode::Normal, reason: Default::default() };
    let _ = socket.close(Some(frame)).await;
    while let Some(Ok(_)) = socket.next().await {}
}

/// The next message on a stream.
async fn hear(socket: &mut Socket) -> Option<(u8, Bytes)> {
    loop {
        match socket.next().await? {
            Ok(Message::Binary(data)) if !data.is_empty() => return Some((data[0], data.slice(1..))),
            Ok(Message::Close(_)) | Err(_) => return None,
            Ok(_) => {}
        }
    }
}

async fn run(mut socket: Socket, command: &[String]) {
    match command.first().map(String::as_str).unwrap_or_default() {
        // Gives back what comes, with what it was on: to the end of stdin, which only version 5 has.
        "cat" => {
            while let Some((stream, data)) = hear(&mut socket).await {
                match stream {
                    STDIN if data.is_empty() => {}
                    STDIN => drop(say(&mut socket, STDOUT, &data).await),
                    RESIZE => drop(say(&mut socket, STDERR, &data).await),
                    CLOSE if *data == [STDIN] => {
                        say(&mut socket, STDERR, b"eof\n").await;
                        return exit(socket, 0).await;
                    }
                    other => drop(say(&mut socket, STDERR, format!("stream {other}?\n").as_bytes()).await),
                }
            }
        }
        "exit" => exit(socket, command[1].parse().expect("a status")).await,
        // Prints without end, until something is typed.
        "flood" => flood(socket).await,
        // Breaks off in the middle of a message.
        "cut" => {
            say(&mut socket, STDOUT, b"before\n").await;
            let mut stream = socket.into_inner();
            let _ = stream.write_all(&[0x82, 0x7e, 0x10, 0x00, STDOUT, b'h', b'a', b'l', b'f']).await;
        }
        // Says something, and then does nothing at all any more.
        "hang" => {
            say(&mut socket, STDOUT, b"before\n").await;
            tokio::time::sleep(Duration::from_secs(600)).await;
        }
        _ => {
            let status = status(500, &format!("exec: {:?}: executable file not found in $PATH", command[0]));
            say(&mut socket, STATUS, status.to_string().as_bytes()).await;
        }
    }
}

async fn flood(socket: Socket) {
    let (mut sink, mut stream) = socket.split();
    let typed = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let stops = typed.clone();
    let hears = tokio::spawn(async move {
        while let Some(Ok(message)) = stream.next().await {
            if matches!(&message, Message::Binary(data) if data.first() == Some(&STDIN) && data.len() > 1) {
                stops.store(true, std::sync::atomic::Ordering::SeqCst);
                break;
            }
        }
        stream
    });
    let line = [&[STDOUT][..], &[b'x'; 4095], b"\n"].concat();
    while !typed.load(std::sync::atomic::Ordering::SeqCst) {
        if sink.send(Message::Binary(line.clone().into())).await.is_err() {
            return;
        }
    }
    let stream = hears.await.expect("hears");
    exit(sink.reunite(stream).expect("one socket"), 3).await;
}
