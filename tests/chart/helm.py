"""Helm, and the schemas of Kubernetes' objects, for tests/chart.rs.

Reads a request as JSON from stdin and writes the answer as JSON to stdout: {"ok": …} or {"refused": "…"}. What it needs
is in .cache/chart, where scripts/setup puts it.
"""

import json
import os
import pathlib
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
CHART = ROOT / "charts" / "foghorn"
sys.path.insert(0, str(ROOT / ".cache" / "chart"))
sys.dont_write_bytecode = True

import helm_python  # noqa: E402
import jsonschema  # noqa: E402
import kubernetes_validate  # noqa: E402
import yaml  # noqa: E402


def documents(text):
    return [document for document in yaml.safe_load_all(text) if document]


def render(request):
    """The objects, and the notes."""
    with helm_python.Chart.load(CHART) as chart:
        files = chart.render(request["values"], name=request["name"], namespace=request["namespace"])
    notes = files.pop("foghorn/templates/NOTES.txt")
    return {"notes": notes, "objects": [each for name in sorted(files) for each in documents(files[name])]}


def lint(request):
    """What `helm lint --strict` says, without what it only recommends."""
    report = helm_python.lint(CHART, request["values"], strict=True)
    return [message for message in report["messages"] if message["severity"] > 1]


def validate(request):
    """What is wrong with an object, by the schemas of a version of Kubernetes, or by those beside this file."""
    wrong = []
    for each in request["objects"]:
        own = ROOT / "tests" / "chart" / "schemas" / f"{each['kind'].lower()}.json"
        try:
            if own.exists():
                jsonschema.Draft202012Validator(json.loads(own.read_text())).validate(each)
            else:
                kubernetes_validate.validate(each, request["version"], strict=True)
        except kubernetes_validate.SchemaNotFoundError as error:
            wrong.append(f"{each['kind']}: {error.message}")
        except jsonschema.ValidationError as error:
            path = ".".join(str(part) for part in error.absolute_path)
            wrong.append(f"{each['kind']} {each['metadata']['name']} {path}: {error.message}")
    return wrong


def values(request):
    """A file of values."""
    return yaml.safe_load((ROOT / request["file"]).read_text())


def cluster(request):
    return helm_python.Config(kubeconfig_path=os.environ["KUBECONFIG"], namespace=request["namespace"])


def install(request):
    """Installs or upgrades a release; with `wait`, until it is ready. The objects."""
    with cluster(request) as config:
        verb = config.upgrade if request.get("upgrade") else config.install
        release = verb(
            CHART,
            request["name"],
            request["values"],
            namespace=request["namespace"],
            dry_run="server" if request.get("dry") else None,
            wait="legacy" if request.get("wait") else None,
            timeout=120,
        )
        return documents(release["manifest"])


def uninstall(request):
    with cluster(request) as config:
        config.uninstall(request["name"], wait="legacy", timeout=120)


VERBS = {each.__name__: each for each in (render, lint, validate, values, install, uninstall)}

request = json.load(sys.stdin)
try:
    answer = {"ok": VERBS[request["verb"]](request)}
except helm_python.HelmError as error:
    answer = {"refused": str(error)}
json.dump(answer, sys.stdout)
