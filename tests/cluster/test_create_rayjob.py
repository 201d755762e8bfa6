"""The script of the CronJob's pod, over HTTP against a small stand-in for the API server."""

from __future__ import annotations

import ast
import datetime
import importlib.util
import ipaddress
import json
import ssl
import subprocess
import sys
import threading
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

CLUSTER = Path(__file__).resolve().parents[2] / "cluster"
SCRIPT = CLUSTER / "create_rayjob.py"
PATH = "/apis/ray.io/v1/namespaces/research/rayjobs"
LABEL = ("app.kubernetes.io/component", "refresh")


def _script() -> Any:
    specification = importlib.util.spec_from_file_location("create_rayjob", SCRIPT)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


create_rayjob = _script()


class FakeApi:
    """RayJobs by name, each with the states that successive looks at it show; the last one stays."""

    def __init__(self) -> None:
        self.rayjobs: dict[str, dict[str, Any]] = {}
        self.states: dict[str, list[dict[str, str]]] = {}
        self.next_states: list[dict[str, str]] = [{}]  # of what is created
        self.faults: list[
            int | str
        ] = []  # an answer for each of the next requests: a status, or "lost" after it was obeyed
        self.token = "first"
        self.requests: list[str] = []

    def add(
        self, name: str, *states: dict[str, str], label: tuple[str, str] = LABEL, created: str = "2026-01-01"
    ) -> None:
        metadata = {"name": name, "labels": dict([label]), "creationTimestamp": created}
        self.rayjobs[name] = {"metadata": metadata, "spec": {}}
        self.states[name] = list(states)

    def seen(self, name: str, look: bool = False) -> dict[str, Any]:
        states = self.states[name]
        status = states.pop(0) if look and len(states) > 1 else states[0]
        return {**self.rayjobs[name], "status": status}

    def handle(self, method: str, path: str, kind: str, body: bytes) -> tuple[int, Any]:
        url = urllib.parse.urlsplit(path)
        query = dict(urllib.parse.parse_qsl(url.query))
        if method == "POST" and query.get("dryRun") == "All":
            assert kind == "application/yaml"
            assert query["fieldValidation"] == "Strict"
            draft = yaml.safe_load(body)
            if "spec" not in draft:
                return 422, {"kind": "Status", "message": "spec: required"}
            draft["metadata"] |= {"name": "tss-x7k2p", "namespace": "research", "uid": "u", "creationTimestamp": "now"}
            return 201, {**draft, "status": {}}
        if method == "POST":
            made = json.loads(body)
            name = made["metadata"]["name"]
            if name in self.rayjobs:
                return 409, {"kind": "Status", "message": f"{name} already exists"}
            made["metadata"]["creationTimestamp"] = "2026-02-01"
            self.rayjobs[name], self.states[name] = made, list(self.next_states)
            return 201, made
        if url.path == PATH:
            key, _, value = query["labelSelector"].partition("=")
            return 200, {
                "items": [
                    self.seen(name) for name, one in self.rayjobs.items() if one["metadata"]["labels"].get(key) == value
                ]
            }
        name = url.path.removeprefix(PATH + "/")
        if name not in self.rayjobs:
            return 404, {"kind": "Status", "message": "not found"}
        return 200, self.seen(name, look=True)


@pytest.fixture
def api():
    return FakeApi()


def _server(fake: FakeApi) -> ThreadingHTTPServer:
    class Handler(BaseHTTPRequestHandler):
        def _answer(self) -> None:
            fake.requests.append(f"{self.command} {self.path}")
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            fault = fake.faults.pop(0) if fake.faults else None
            if isinstance(fault, int):
                status, answer = fault, "an error of the server"
            elif self.headers["Authorization"] != f"Bearer {fake.token}":
                status, answer = 401, {"kind": "Status", "message": "Unauthorized"}
            else:
                status, answer = fake.handle(self.command, self.path, self.headers.get("Content-Type", ""), body)
            if fault == "lost":
                self.close_connection = True
                return
            data = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = _answer

        def log_message(self, *arguments: Any) -> None:
            pass

    return ThreadingHTTPServer(("127.0.0.1", 0), Handler)


@pytest.fixture
def server(api):
    served = _server(api)
    threading.Thread(target=served.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    yield "http://{}:{}".format(*served.server_address)
    served.shutdown()
    served.server_close()


@pytest.fixture
def account(tmp_path):
    folder = tmp_path / "account"
    folder.mkdir()
    (folder / "token").write_text("first\n")
    (folder / "namespace").write_text("research")
    return folder


@pytest.fixture
def run(server, account):
    """Run the script as the CronJob does, but without its pauses; the exit status."""

    def call(*more: str, manifest: Path = CLUSTER / "rayjob.yaml") -> int:
        words = [
            str(manifest),
            "--entrypoint=tss refresh /etc/tss/config.yaml",
            f"--label={'='.join(LABEL)}",
        ]
        words += ["--owner=tss-refresh-29384756", "--owner-uid=1234", f"--server={server}", f"--account={account}"]
        return create_rayjob.main([*words, "--poll=0.01", "--pause=0.01", "--deadline=20", *more])

    return call


DONE = {"jobDeploymentStatus": "Complete", "jobStatus": "SUCCEEDED"}
RUNS = {"jobDeploymentStatus": "Running", "jobStatus": "RUNNING"}
NAME = "tss-refresh-29384756-ray"


def test_creates_and_waits(api, run, capsys):
    """What is created is the manifest with another entrypoint, one label more, a name, and the Job as its owner."""
    api.next_states = [{}, {"jobDeploymentStatus": "Initializing"}, RUNS, RUNS, RUNS, DONE]
    assert run() == 0
    (made,) = api.rayjobs.values()
    written = yaml.safe_load((CLUSTER / "rayjob.yaml").read_text())
    assert made["spec"] == {**written["spec"], "entrypoint": "tss refresh /etc/tss/config.yaml"}
    assert (made["apiVersion"], made["kind"]) == ("ray.io/v1", "RayJob")
    owner = {"apiVersion": "batch/v1", "kind": "Job", "name": "tss-refresh-29384756", "uid": "1234"}
    assert made["metadata"] == {
        "name": NAME,
        "labels": {**written["metadata"]["labels"], LABEL[0]: LABEL[1]},
        "ownerReferences": [owner],
        "creationTimestamp": "2026-02-01",
    }
    assert capsys.readouterr().out.splitlines() == [
        f"{NAME}: created",
        f"{NAME}: New",
        f"{NAME}: Initializing",
        f"{NAME}: Running RUNNING",
        f"{NAME}: Complete SUCCEEDED",
    ]


def test_labels_and_annotations_of_the_manifest_are_kept(api, run, tmp_path):
    """A queue finds a RayJob by them."""
    written = yaml.safe_load((CLUSTER / "rayjob.yaml").read_text())
    queue, elastic = {"kueue.x-k8s.io/queue-name": "team"}, {"kueue.x-k8s.io/elastic-job": "true"}
    written["metadata"]["labels"] |= queue
    written["metadata"]["annotations"] = elastic
    (tmp_path / "queued.yaml").write_text(yaml.safe_dump(written))
    api.next_states = [{"jobDeploymentStatus": "Suspended"}, RUNS, DONE]
    assert run(manifest=tmp_path / "queued.yaml") == 0
    (made,) = api.rayjobs.values()
    assert made["metadata"]["labels"] == {**written["metadata"]["labels"], LABEL[0]: LABEL[1]}
    assert queue.items() <= made["metadata"]["labels"].items() and made["metadata"]["annotations"] == elastic


@pytest.mark.parametrize(
    "end",
    [
        {
            "jobDeploymentStatus": "Failed",
            "jobStatus": "FAILED",
            "reason": "AppFailed",
            "message": "exit code 1:\nno disk",
        },
        {"jobDeploymentStatus": "Failed", "reason": "DeadlineExceeded", "message": "exit code 1: no disk"},
        {"jobDeploymentStatus": "ValidationFailed", "message": "exit code 1: no disk"},
        {"jobDeploymentStatus": "Complete", "jobStatus": "STOPPED", "message": "exit code 1: no disk"},
    ],
)
def test_a_run_that_fails(api, run, capsys, end):
    api.next_states = [RUNS, {"jobDeploymentStatus": "Retrying"}, RUNS, end]
    assert run() == 1
    assert capsys.readouterr().out.splitlines()[-1].endswith("exit code 1: no disk")


def test_waits_for_an_unfinished_one_instead(api, run, capsys):
    """The oldest of those that carry the label; those that have ended, or are of another kind, do not matter."""
    api.add("ended", DONE, created="2025-12-01")
    api.add("by-hand", RUNS, label=("app.kubernetes.io/component", "run"), created="2025-12-02")
    api.add("younger", RUNS, created="2026-01-02")
    api.add("older", {"jobDeploymentStatus": "Suspended"}, RUNS, DONE, created="2026-01-01")
    assert run() == 0
    assert set(api.rayjobs) == {"ended", "by-hand", "younger", "older"}
    assert "older: has not ended yet" in capsys.readouterr().out


def test_ended_ones_are_passed_over(api, run):
    for number, end in enumerate(["Complete", "Failed", "ValidationFailed"]):
        api.add(f"ended-{number}", {"jobDeploymentStatus": end})
    api.next_states = [DONE]
    assert run() == 0
    assert NAME in api.rayjobs


def test_a_second_pod_waits_for_the_same(api, run):
    """Also for one that has ended in the meantime: a Job is one refresh, however many pods it takes."""
    api.add(NAME, RUNS, {"jobDeploymentStatus": "Failed", "jobStatus": "FAILED"})
    assert run() == 1
    assert run() == 1
    assert not [one for one in api.requests if one.startswith("POST")]


def test_passing_errors_are_passed_over(api, run):
    api.next_states = [RUNS, RUNS, DONE]
    api.faults = [500, 503, 429, None, 502, 500, None, None, 504, "lost", None]
    assert run() == 0
    assert len(api.rayjobs) == 1


def test_an_answer_that_is_lost_makes_no_second_one(api, run):
    """The first POST without dryRun is obeyed, and its answer lost; the next finds what it has made."""
    api.next_states = [DONE]
    api.faults = [None, None, "lost"]
    assert run() == 0
    assert len(api.rayjobs) == 1
    assert len([one for one in api.requests if one == f"POST {PATH}"]) == 2


def test_a_server_out_of_reach(api, run, capsys):
    api.faults = [500] * 100
    assert run("--attempts=4") == create_rayjob.OUT_OF_REACH
    assert len(api.requests) == 4
    assert "4 attempts failed" in capsys.readouterr().err


def test_nobody_listens(run, capsys):
    assert run("--attempts=2", "--server=http://127.0.0.1:9") == create_rayjob.OUT_OF_REACH
    assert "out of reach" in capsys.readouterr().err


@pytest.mark.parametrize("status", [400, 403, 422])
def test_a_refusal_is_not_repeated(api, run, capsys, status):
    api.faults = [status]
    assert run() == 1
    assert len(api.requests) == 1
    assert f"refused: {status}: " in capsys.readouterr().err


def test_a_manifest_that_the_server_refuses(api, run, tmp_path, capsys):
    manifest = tmp_path / "rayjob.yaml"
    manifest.write_text("apiVersion: ray.io/v1\nkind: RayJob\nmetadata: {generateName: tss-}\n")
    assert run(manifest=manifest) == 1
    assert "refused: 422: spec: required" in capsys.readouterr().err
    assert not api.rayjobs


def test_the_deadline(api, run, capsys):
    api.next_states = [RUNS]
    assert run("--deadline=0.2") == 1
    assert "has not ended at the deadline" in capsys.readouterr().out


def test_between_two_looks_it_sleeps(api, run):
    api.next_states = [RUNS]
    assert run("--deadline=0.5", "--poll=0.2") == 1
    assert len([one for one in api.requests if one.endswith(NAME)]) <= 4


def test_a_run_that_somebody_deletes(api, run, capsys):
    api.next_states = [RUNS]

    class Vanishing(dict):
        def __contains__(self, name: object) -> bool:
            return len(api.requests) < 8 and super().__contains__(name)

    api.rayjobs = Vanishing()
    assert run() == 1
    assert f"{NAME}: was deleted" in capsys.readouterr().out


def test_the_token_is_read_anew(api, run, account):
    """Kubernetes renews it in place about every hour."""
    api.next_states = [RUNS] * 30 + [DONE]
    seen = api.handle

    def renew(*request: Any) -> Any:
        if len(api.requests) == 10:
            (account / "token").write_text("second")
            api.token = "second"
        return seen(*request)

    api.handle = renew
    assert run() == 0


def test_a_name_that_kuberay_would_refuse(run, capsys):
    with pytest.raises(SystemExit) as ended:
        run(f"--owner={'x' * 45}")
    assert ended.value.code == 2
    assert "at most 43 characters" in capsys.readouterr().err


def test_standard_library_only():
    """It runs from a ConfigMap, in any image that has Python."""
    tree = ast.parse(SCRIPT.read_text())
    imported = {name.name for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names}
    imported |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {name.partition(".")[0] for name in imported} <= sys.stdlib_module_names


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    """Two certificates for 127.0.0.1, each its own authority."""
    x509 = pytest.importorskip("cryptography.x509")
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    folder = tmp_path_factory.mktemp("certificates")
    now = datetime.datetime.now(datetime.UTC)
    for name in ("served", "other"):
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        builder = x509.CertificateBuilder().subject_name(subject).issuer_name(subject).public_key(key.public_key())
        builder = builder.serial_number(x509.random_serial_number()).not_valid_before(now - datetime.timedelta(days=1))
        builder = builder.not_valid_after(now + datetime.timedelta(days=1))
        addresses = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
        builder = builder.add_extension(addresses, critical=False)
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        certificate = builder.sign(key, hashes.SHA256())
        (folder / f"{name}.crt").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        (folder / f"{name}.key").write_bytes(private)
    return folder


@pytest.mark.parametrize(("trusted", "status"), [("served", 0), ("other", 75)])
def test_https_with_the_clusters_authority(api, run, account, certificates, trusted, status):
    """The server is known by the authority that the service account brings, and by no other."""
    served = _server(api)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates / "served.crt", certificates / "served.key")
    served.socket = context.wrap_socket(served.socket, server_side=True)
    threading.Thread(target=served.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    (account / "ca.crt").write_bytes((certificates / f"{trusted}.crt").read_bytes())
    api.next_states = [DONE]
    try:
        assert run("--attempts=2", f"--server=https://127.0.0.1:{served.server_address[1]}") == status
    finally:
        served.shutdown()
        served.server_close()
    assert (NAME in api.rayjobs) is (status == 0)


def test_as_a_program():
    """As the pod starts it."""
    found = subprocess.run([sys.executable, SCRIPT, "--help"], capture_output=True, text=True, check=True)
    assert "--owner-uid" in found.stdout
