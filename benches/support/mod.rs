//! What the benchmarks share: a hub as shipped, the least that a client needs, and what a process has used.
#![allow(dead_code, reason = "no benchmark uses all of it")]

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

pub mod wire;

/// How long anything that is waited for may take.
pub const PATIENCE: Duration = Duration::from_secs(30);

const TOKEN: &str = "a-token-for-the-benchmarks";

/// `foghorn serve`, with a tokens file and SQLite in a state folder of its own.
pub struct Hub {
    child: Child,
    home: tempfile::TempDir,
    pub address: SocketAddr,
}

impl Hub {
    /// Starts one, with lines for `foghorn.toml`.
    pub fn start(settings: &str) -> Self {
        let home = tempfile::tempdir().expect("a directory");
        fs::write(home.path().join("foghorn.toml"), settings).expect("writes");
        let tokens = format!("[[token]]\nname = \"bench\"\nrole = \"admin\"\ntoken = \"{TOKEN}\"\n");
        fs::write(home.path().join("tokens.toml"), tokens).expect("writes");
        let address = free_address();
        let child = Self::spawn(home.path(), address);
        let hub = Self { child, home, address };
        hub.wait();
        hub
    }

    fn spawn(home: &Path, address: SocketAddr) -> Child {
        let mut command = Command::new(env!("CARGO_BIN_EXE_foghorn"));
        command.args(["serve", "--listen", &address.to_string(), "--home"]).arg(home);
        command.arg("--tokens").arg(home.join("tokens.toml"));
        let log = fs::File::create(home.join("hub.log")).expect("a log");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().expect("a hub")
    }

    fn wait(&self) {
        wait_for("the hub listens", || TcpStream::connect(self.address).is_ok());
    }

    /// Kills it and starts another one on the same state folder.
    pub fn again(&mut self) {
        self.kill();
        self.child = Self::spawn(self.home.path(), self.address);
        self.wait();
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        let _gone = self.child.kill();
        let _gone = self.child.wait();
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Starts a command that nobody holds; the session's id.
    pub fn run(&self, command: &[String], with: Value) -> String {
        let mut source = json!({ "kind": "run", "app": "bench", "command": command, "detached": true });
        for (name, value) in with.as_object().into_iter().flatten() {
            source[name] = value.clone();
        }
        let answer = self.ask("POST", "/v1/sessions", &json!({ "source": source }).to_string());
        answer["id"].as_str().unwrap_or_else(|| panic!("no session: {answer}")).to_owned()
    }

    /// Types one line, which starts a command that waits for it.
    pub fn type_line(&self, id: &str) {
        let hello = json!({ "type": "hello", "role": "drive", "writer": "0123456789abcdef0123456789abcdef" });
        let mut driver = self.attach(id, &hello);
        let input = [&0u64.to_be_bytes()[..], b"go\n"].concat();
        driver.write_all(&wire::frame(2, &input)).expect("writes");
        let mut seen = Vec::new();
        let mut buffer = [0; 4096];
        while !seen.windows(11).any(|text| text == b"\"input_ack\"") {
            let read = driver.read(&mut buffer).expect("reads");
            assert!(read > 0, "the hub closed the connection");
            seen.extend_from_slice(&buffer[..read]);
        }
    }

    /// How many connections to agents the hub has made.
    pub fn agent_connections(&self) -> u64 {
        self.counted("foghorn_agent_connections_total")
    }

    /// How often the hub has read a part of a journal.
    pub fn journal_reads(&self) -> u64 {
        self.counted("foghorn_store_seconds_count{operation=\"chunks\"")
    }

    /// The sum of the hub's metrics whose name and labels start so.
    fn counted(&self, start: &str) -> u64 {
        let metrics = self.text("GET", "/metrics", "");
        let lines = metrics.lines().filter(|line| line.starts_with(start));
        lines.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum()
    }

    /// Stops a session and waits for its end.
    pub fn stop(&self, id: &str) {
        self.ask("DELETE", &format!("/v1/sessions/{id}"), "");
        wait_for("the session ends", || self.show(id)["state"] == "ended");
    }

    /// A session as the hub shows it.
    pub fn show(&self, id: &str) -> Value {
        self.ask("GET", &format!("/v1/sessions/{id}"), "")
    }

    fn ask(&self, method: &str, path: &str, body: &str) -> Value {
        serde_json::from_str(&self.text(method, path, body)).unwrap_or_default()
    }

    fn text(&self, method: &str, path: &str, body: &str) -> String {
        let mut stream = TcpStream::connect(self.address).expect("connects");
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: {}\r\nauthorization: Bearer {TOKEN}\r\nconnection: close\r\n\
             content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            self.address,
            body.len()
        );
        stream.write_all(head.as_bytes()).expect("writes");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("reads");
        answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default()
    }

    /// Follows a session by websocket; the hello was said, nothing was read but the upgrade's answer.
    pub fn attach(&self, id: &str, hello: &Value) -> TcpStream {
        let headers = format!("authorization: Bearer {TOKEN}\r\nsec-websocket-protocol: foghorn.v1\r\n");
        let mut stream = wire::upgrade(self.address, &format!("/v1/sessions/{id}/attach"), &headers);
        stream.write_all(&wire::frame(1, hello.to_string().as_bytes())).expect("writes");
        stream
    }
}

impl Hub {
    /// Kills its agents and what they run. They outlive their hub, and here nobody comes for them.
    pub fn kill_agents(&self) {
        let home = self.home.path().as_os_str().as_encoded_bytes();
        let has = |pid: u32, file: &str, text: &[u8]| {
            let content = fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
            content.windows(text.len()).any(|part| part == text)
        };
        let agents = fs::read_dir(self.home.path().join("agents")).into_iter().flatten().flatten();
        let marks: Vec<_> = agents.map(|dir| format!("FOGHORN_SESSION={}", dir.file_name().display())).collect();
        for pid in processes() {
            if has(pid, "cmdline", home) || marks.iter().any(|mark| has(pid, "environ", mark.as_bytes())) {
                let _gone = Command::new("kill").args(["-9", &pid.to_string()]).stderr(Stdio::null()).status();
            }
        }
    }

    /// Where a session's agent listens.
    pub fn agent_socket(&self, id: &str) -> PathBuf {
        self.home.path().join("agents").join(id).join("sock")
    }
}

impl Drop for Hub {
    fn drop(&mut self) {
        self.kill();
        self.kill_agents();
    }
}

fn processes() -> impl Iterator<Item = u32> {
    let entries = fs::read_dir("/proc").expect("processes").flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// An address on loopback that nobody listens on now.
pub fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port")
}

/// Waits until something is so.
pub fn wait_for(what: &str, mut is: impl FnMut() -> bool) {
    let since = Instant::now();
    while !is() {
        assert!(since.elapsed() < PATIENCE, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// This program again, as another part of the benchmark.
pub fn own_program() -> PathBuf {
    std::env::current_exe().expect("a program")
}

/// CPU seconds that a process has used, measured by the kernel: its threads' user and system time.
pub fn cpu_seconds(pid: u32) -> f64 {
    const TICKS: f64 = 100.0;
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("a process");
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let field = |at: usize| fields[at].parse::<f64>().expect("a number");
    (field(11) + field(12)) / TICKS
}

/// Bytes of memory that a process has resident now, and had at most.
pub fn memory(pid: u32) -> (u64, u64) {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("a process");
    let field = |name: &str| {
        let line = status.lines().find(|line| line.starts_with(name)).expect("a field");
        line.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok()).expect("a number") << 10
    };
    (field("VmRSS:"), field("VmHWM:"))
}

/// The value below which `part` of the values are.
pub fn quantile(values: &mut [f64], part: f64) -> f64 {
    assert!(!values.is_empty(), "nothing was measured");
    values.sort_by(f64::total_cmp);
    values[((values.len() - 1) as f64 * part).round() as usize]
}

/// The median.
pub fn median(values: &[f64]) -> f64 {
    quantile(&mut values.to_vec(), 0.5)
}
