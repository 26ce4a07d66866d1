//! The real Helm, by way of `helm.py`.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::{root, skip};

/// With `1`, tests that find no Helm fail instead of being skipped.
const REQUIRE: &str = "FOGHORN_TEST_REQUIRE_CHART";

/// The sets of values that come with the chart. Each is rendered, checked, and, but for what it needs of a cluster,
/// applied.
pub(crate) const SETS: [&str; 5] = ["cluster", "full", "postgres", "tokens", "webhook"];

/// The name of the release, and of the hub's namespace, where nothing is applied.
pub(crate) const NAME: &str = "foghorn";

/// Helm, and the schemas.
pub(crate) struct Helm {
    kubeconfig: PathBuf,
}

impl Helm {
    /// `None`, with a loud line, where it is not there.
    pub(crate) fn find() -> Option<Self> {
        if !root().join(".cache/chart/helm_python").is_dir() {
            return skip(REQUIRE, "no Helm: scripts/setup fetches it, where Python has one for this system");
        }
        Some(Self { kubeconfig: "/dev/null".into() })
    }

    /// For a cluster.
    pub(crate) fn at(self, kubeconfig: &Path) -> Self {
        Self { kubeconfig: kubeconfig.to_owned() }
    }

    /// Asks for something; or what it was refused with.
    pub(crate) fn ask(&self, verb: &str, mut request: Value) -> Result<Value, String> {
        request["verb"] = verb.into();
        let mut python = Command::new("python3");
        python.arg(root().join("tests/chart/helm.py")).stdin(Stdio::piped()).stdout(Stdio::piped());
        python.env("KUBECONFIG", &self.kubeconfig);
        let mut child = python.stderr(Stdio::piped()).spawn().expect("python3");
        let mut stdin = child.stdin.take().expect("piped");
        stdin.write_all(request.to_string().as_bytes()).expect("asks");
        drop(stdin);
        let output = child.wait_with_output().expect("waits");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let mut answer: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        match answer["refused"].as_str() {
            Some(refused) => Err(refused.to_owned()),
            None => Ok(answer["ok"].take()),
        }
    }

    /// One of the sets of values.
    pub(crate) fn set(&self, name: &str) -> Value {
        self.ask("values", json!({ "file": format!("charts/foghorn/ci/{name}-values.yaml") })).expect("values")
    }

    /// The notes and the objects that these values give.
    pub(crate) fn render(&self, values: &Value) -> Result<Rendered, String> {
        let mut answer = self.ask("render", json!({ "values": values, "name": NAME, "namespace": NAME }))?;
        let objects = answer["objects"].as_array_mut().map(std::mem::take).expect("objects");
        Ok(Rendered { notes: answer["notes"].as_str().expect("notes").to_owned(), objects })
    }
}

/// What a chart gives.
pub(crate) struct Rendered {
    /// What a person is told.
    pub(crate) notes: String,
    /// The objects.
    pub(crate) objects: Vec<Value>,
}

impl Rendered {
    /// All objects of a kind.
    pub(crate) fn all(&self, kind: &str) -> Vec<&Value> {
        self.objects.iter().filter(|object| object["kind"] == kind).collect()
    }

    /// The one object of a kind.
    pub(crate) fn one(&self, kind: &str) -> &Value {
        match self.all(kind)[..] {
            [object] => object,
            ref all => panic!("{} objects of the kind {kind}", all.len()),
        }
    }

    /// The hub's pod.
    pub(crate) fn pod(&self) -> &Value {
        &self.one("Deployment")["spec"]["template"]
    }

    /// The hub's settings.
    pub(crate) fn settings(&self) -> &str {
        self.one("ConfigMap")["data"]["foghorn.toml"].as_str().expect("settings")
    }
}

/// Values with others put over them.
pub(crate) fn over(values: &Value, other: &Value) -> Value {
    let (Value::Object(values), Value::Object(other)) = (values, other) else { return other.clone() };
    let mut both = values.clone();
    for (key, value) in other {
        let below = both.get(key).unwrap_or(&Value::Null);
        both.insert(key.clone(), over(below, value));
    }
    Value::Object(both)
}
