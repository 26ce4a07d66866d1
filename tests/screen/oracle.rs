//! The other terminal, as a process that answers questions.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use foghorn::record::Size;
use serde_json::{Value, json};

/// What a terminal is given.
#[derive(Clone, Debug)]
pub enum Step {
    Write(Vec<u8>),
    Resize(Size),
}

impl Step {
    fn to_json(&self) -> Value {
        match self {
            Self::Write(bytes) => json!({ "w": STANDARD.encode(bytes) }),
            Self::Resize(size) => json!({ "r": [size.cols, size.rows] }),
        }
    }
}

impl From<&[u8]> for Step {
    fn from(bytes: &[u8]) -> Self {
        Self::Write(bytes.to_vec())
    }
}

/// Two terminals that are to show the same.
pub struct Comparison<'a> {
    pub size: Size,
    pub a: &'a [Step],
    pub b: &'a [Step],
    pub rest: &'a [Step],
}

/// A running oracle. It ends with the value.
pub struct Oracle {
    child: Child,
    questions: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

/// Says loudly that a test did not run, or fails where it must.
pub fn skip(why: &str) {
    assert!(std::env::var("FOGHORN_TEST_REQUIRE_SCREEN").as_deref() != Ok("1"), "required, but {why}");
    eprintln!("SKIPPED: {why}");
}

/// Whether a program can be started.
pub fn has(program: &str) -> bool {
    let found = std::env::var_os("PATH")
        .is_some_and(|path| std::env::split_paths(&path).any(|folder| folder.join(program).is_file()));
    if !found {
        skip(&format!("there is no {program}"));
    }
    found
}

impl Oracle {
    /// Starts one, or says why it cannot.
    pub fn start() -> Option<Self> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/screen");
        if !has("node") {
            return None;
        }
        if !folder.join("node_modules/@xterm/headless").is_dir() {
            skip("npm ci was not run in tests/screen");
            return None;
        }
        let mut child = Command::new("node")
            .arg(folder.join("oracle.mjs"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("node starts");
        let answers = BufReader::new(child.stdout.take().expect("piped"));
        Some(Self { questions: child.stdin.take(), answers, child })
    }

    pub fn ask(&mut self, question: &Value) -> Value {
        let mut line = question.to_string();
        line.push('\n');
        self.questions.as_mut().expect("open").write_all(line.as_bytes()).expect("the oracle reads");
        let mut answer = String::new();
        self.answers.read_line(&mut answer).expect("the oracle answers");
        serde_json::from_str(&answer).expect("the oracle answers in JSON")
    }

    /// The differences between two terminals.
    pub fn compare(&mut self, comparison: &Comparison<'_>) -> Vec<String> {
        let steps = |steps: &[Step]| steps.iter().map(Step::to_json).collect::<Vec<_>>();
        let answer = self.ask(&json!({
            "op": "compare",
            "cols": comparison.size.cols,
            "rows": comparison.size.rows,
            "scrollback": 0,
            "a": steps(comparison.a),
            "b": steps(comparison.b),
            "rest": steps(comparison.rest),
        }));
        serde_json::from_value(answer).expect("a list of differences")
    }

    /// What a drawn window shows otherwise than the session's screen from `offset` on.
    pub fn view(
        &mut self,
        size: Size,
        a: &[Step],
        window: Size,
        offset: (usize, usize),
        drawn: &[Step],
    ) -> Vec<String> {
        let steps = |steps: &[Step]| steps.iter().map(Step::to_json).collect::<Vec<_>>();
        let answer = self.ask(&json!({
            "op": "view",
            "cols": size.cols,
            "rows": size.rows,
            "window": [window.cols, window.rows],
            "offset": [offset.0, offset.1],
            "a": steps(a),
            "b": steps(drawn),
        }));
        serde_json::from_value(answer).expect("a list of differences")
    }
}

impl Drop for Oracle {
    fn drop(&mut self) {
        drop(self.questions.take());
        let _ = self.child.wait();
    }
}
