//! A real hub for tests: `foghorn serve --embedded` with a state folder of its own, killed with all that it started.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

/// What starts a server: the verb, and the flags.
const SERVE: &[&str] = &["--embedded"];

/// How long anything that a test waits for may take.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

/// A hub, and the folder that its successors find.
pub(crate) struct Hub {
    pub(crate) home: tempfile::TempDir,
    child: Child,
    address: String,
    token: String,
}

impl Hub {
    /// Starts a hub with these settings.
    pub(crate) fn start(settings: &str) -> Self {
        let home = tempfile::tempdir().unwrap();
        std::fs::write(home.path().join("foghorn.toml"), settings).unwrap();
        let child = spawn(home.path());
        let mut hub = Self { home, child, address: String::new(), token: String::new() };
        hub.find();
        hub
    }

    /// Kills the hub as nothing can be seen coming, and starts another one in its place.
    pub(crate) fn replace(&mut self) {
        self.kill();
        self.child = spawn(self.home.path());
        self.find();
    }

    /// Kills the hub, with -9.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        let _ = std::fs::remove_file(self.home.path().join("hub.json"));
    }

    /// Asks the hub to stop, and waits until it has.
    pub(crate) fn stop(&mut self) {
        Command::new("kill").arg(self.child.id().to_string()).status().unwrap();
        self.child.wait().unwrap();
    }

    /// The hub's process.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    fn find(&mut self) {
        let file = self.home.path().join("hub.json");
        let file: Value = until("the hub listens", || serde_json::from_str(&std::fs::read_to_string(&file).ok()?).ok());
        self.address = file["url"].as_str().unwrap().trim_start_matches("http://").to_owned();
        self.token = std::fs::read_to_string(file["token_file"].as_str().unwrap()).unwrap();
    }

    /// Starts a detached run of an app; its name.
    pub(crate) fn run(&self, app: &str, script: &str) -> String {
        let run = serde_json::json!({"source": {
            "kind": "run", "app": app, "command": ["sh", "-c", script], "detached": true,
            "caller_env": {"PATH": "/usr/local/bin:/usr/bin:/bin"}, "dir": "/",
        }});
        let answer = self.request("POST", "/v1/sessions", &[], &run.to_string());
        let (status, text) = (answer.status, answer.text());
        assert_eq!(status, 201, "{text}");
        let session: Value = serde_json::from_str(&text).unwrap();
        session["name"].as_str().unwrap().to_owned()
    }

    /// Waits until a session has ended.
    pub(crate) fn wait(&self, name: &str) {
        until("a session ends", || {
            let answer = self.request("GET", &format!("/v1/sessions/{name}?wait=10"), &[], "");
            let session: Value = serde_json::from_str(&answer.text()).ok()?;
            (session["state"] == "ended").then_some(())
        });
    }

    /// Asks, and reads the head of the answer.
    pub(crate) fn request(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        let mut head = format!(
            "{method} {path} HTTP/1.1\r\nhost: {}\r\nauthorization: Bearer {}\r\nconnection: close\r\n\
             content-type: application/json\r\ncontent-length: {}\r\n",
            self.address,
            self.token,
            body.len(),
        );
        headers.iter().for_each(|(name, value)| head.push_str(&format!("{name}: {value}\r\n")));
        stream.write_all(format!("{head}\r\n{body}").as_bytes()).unwrap();
        Answer::read(stream)
    }
}

impl Drop for Hub {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        end_agents(self.home.path());
    }
}

fn spawn(home: &Path) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_foghorn"));
    command.args(SERVE).env("FOGHORN_HOME", home).env_remove("FOGHORN_DATABASE_URL").env_remove("FOGHORN_CONFIG");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

/// Kills the agents of this folder and all that they started, and waits until they are gone.
fn end_agents(home: &Path) {
    let sessions = std::fs::read_dir(home.join("agents")).into_iter().flatten().flatten();
    // An agent has the folder among its arguments, and what it started has the session's id in its environment.
    let mut marks: Vec<Vec<u8>> = sessions.map(|entry| entry.file_name().into_encoded_bytes()).collect();
    marks.push(home.to_str().unwrap().into());
    let marked = |pid: &u32| {
        let read = |name: &str| std::fs::read(PathBuf::from(format!("/proc/{pid}/{name}"))).unwrap_or_default();
        let (arguments, environment) = (read("cmdline"), read("environ"));
        let has = |bytes: &[u8], mark: &[u8]| bytes.windows(mark.len()).any(|part| part == mark);
        marks.iter().any(|mark| has(&arguments, mark) || has(&environment, mark))
    };
    until("the agents are gone", || {
        let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
        let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
        let left: Vec<_> = pids.filter(|pid| *pid != std::process::id()).filter(marked).collect();
        for pid in &left {
            let _ = Command::new("kill").args(["-9", &pid.to_string()]).stderr(Stdio::null()).status();
        }
        left.is_empty().then_some(())
    });
}

/// Waits for a fact.
pub(crate) fn until<T>(what: &str, mut fact: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + DEADLINE;
    loop {
        if let Some(found) = fact() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// An answer whose body is read as it comes.
pub(crate) struct Answer {
    pub(crate) status: u16,
    body: Box<dyn BufRead + Send>,
}

impl Answer {
    fn read(stream: TcpStream) -> Self {
        let mut reader = BufReader::new(stream);
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        let status = line.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or_default();
        let mut chunked = false;
        loop {
            line.clear();
            reader.read_line(&mut line).unwrap();
            chunked |= line.to_ascii_lowercase().starts_with("transfer-encoding: chunked");
            if line.trim().is_empty() {
                break;
            }
        }
        let body: Box<dyn BufRead + Send> = match chunked {
            true => Box::new(BufReader::new(Chunks { reader, left: 0 })),
            false => Box::new(reader),
        };
        Self { status, body }
    }

    /// All of the body.
    pub(crate) fn text(mut self) -> String {
        let mut text = String::new();
        self.body.read_to_string(&mut text).unwrap();
        text
    }

    /// The next line, without its end; `None` where the body ends.
    pub(crate) fn line(&mut self) -> Option<String> {
        let mut line = String::new();
        let read = self.body.read_line(&mut line).unwrap_or_default();
        (read > 0 && line.ends_with('\n')).then(|| line.trim_end_matches('\n').to_owned())
    }

    /// The next line as JSON.
    pub(crate) fn object(&mut self) -> Option<Value> {
        self.line().map(|line| serde_json::from_str(&line).unwrap())
    }
}

/// A body in chunks, as HTTP/1.1 has it.
struct Chunks {
    reader: BufReader<TcpStream>,
    left: usize,
}

impl Read for Chunks {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        while self.left == 0 {
            let mut line = String::new();
            if self.reader.read_line(&mut line)? == 0 {
                return Ok(0);
            }
            if line.trim().is_empty() {
                continue;
            }
            self.left = usize::from_str_radix(line.trim(), 16).map_err(std::io::Error::other)?;
            if self.left == 0 {
                return Ok(0);
            }
        }
        let len = self.left.min(out.len());
        let read = self.reader.read(&mut out[..len])?;
        self.left -= read;
        Ok(read)
    }
}
