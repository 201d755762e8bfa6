"""Ray clusters of several machines on one: each node is `ray start` in a process tree of its own, that can be stopped or lost.

Where this machine allows it (root, iproute2), a node has a network namespace with an address of its own, and a mount namespace
in which folders can be hidden from it. Elsewhere nodes share the loopback, with ports of their own, and nothing is hidden.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from ray.autoscaler._private.fake_multi_node.node_provider import FAKE_HEAD_NODE_ID, FakeMultiNodeProvider

_PROVIDER = f"{FakeMultiNodeProvider.__module__}.{FakeMultiNodeProvider.__name__}"
# Names hold this process's number: suites may run side by side, and what a killed one has left is known as its own.
_NAMESPACE, _BRIDGE = f"tssn{os.getpid()}", f"tssb{os.getpid()}"


@functools.cache
def namespaces() -> bool:
    """Whether nodes can have namespaces here; removes those of suites that were killed."""
    if os.geteuid() != 0 or not shutil.which("ip"):
        return False
    _sweep()
    probe, bridge = f"{_NAMESPACE}-probe", f"{_BRIDGE}p"
    inside = ["ip", "netns", "exec", probe, "sh", "-c", "mount -t tmpfs none /mnt && ip link set lo up"]
    steps = (["ip", "netns", "add", probe], inside, ["ip", "link", "add", "name", bridge, "type", "bridge"])
    usable = all(subprocess.run(step, check=False, capture_output=True).returncode == 0 for step in steps)
    for undo in (["ip", "netns", "del", probe], ["ip", "link", "del", bridge]):
        subprocess.run(undo, check=False, capture_output=True)
    return usable


def _sweep() -> None:
    """Remove namespaces and bridges of processes that are gone, with all that still runs in them."""
    for name, pid in re.findall(r"^(tssn(\d+)-\w+)", _ip("netns", "list"), re.MULTILINE):
        if not psutil.pid_exists(int(pid)):
            for left in _ip("netns", "pids", name).split():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(left), signal.SIGKILL)
            _ip("netns", "del", name)
    for name, pid in re.findall(r"^\d+: (tssb(\d+)p?):", _ip("-o", "link", "show"), re.MULTILINE):
        if not psutil.pid_exists(int(pid)):
            _ip("link", "del", name)


def _ip(*words: str) -> str:
    """What `ip` says; it fails with what it says of the reason."""
    done = subprocess.run(["ip", *words], check=False, capture_output=True, text=True)
    assert done.returncode == 0, f"ip {' '.join(words)}: {done.stderr}"
    return done.stdout


def _free_network() -> str:
    """The first three numbers of a private network of which this machine has no address."""
    taken = _ip("-o", "-4", "addr", "show")
    numbers = [(os.getpid() + step) % 256 for step in range(256)]
    return next(found for found in (f"10.213.{number}" for number in numbers) if f" {found}." not in taken)


@dataclass
class Node:
    """One machine of a cluster."""

    ip: str
    process: subprocess.Popen
    metrics_port: int
    folder: Path
    agent_port: int
    ports: dict[str, int] = field(default_factory=dict)

    def processes(self) -> list[psutil.Process]:
        with contextlib.suppress(psutil.NoSuchProcess):
            return [psutil.Process(self.process.pid), *psutil.Process(self.process.pid).children(recursive=True)]
        return []

    def lose(self) -> None:
        """End everything on it at once, as when the machine is switched off or taken back."""
        lose([self])

    def log(self) -> str:
        return (self.folder / "log").read_text(errors="replace")[-4000:]


def lose(nodes: list[Node]) -> None:
    """End everything on some machines at once."""
    found = [one for node in nodes for one in node.processes()]
    for one in found:
        with contextlib.suppress(psutil.NoSuchProcess):
            one.send_signal(signal.SIGSTOP)  # so that nothing notices before all are gone
    for one in found:
        with contextlib.suppress(psutil.NoSuchProcess):
            one.kill()
    psutil.wait_procs(found, timeout=20)
    for node in nodes:
        node.process.wait(20)


class Machines:
    """A cluster under way: `head` and the `workers` added to it; `environment` is what its clients need too."""

    def __init__(self, hidden: Path | None = None):
        self._hidden = hidden
        self._names: list[str] = []
        self.workers: list[Node] = []
        self.head: Node | None = None
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("RAY_")},
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(32),
            "HF_HUB_OFFLINE": "1",
            "TSS_COUNTED_GPUS": "1",
            # Machines that are lost are noticed, and metrics sent, sooner than by default.
            "RAY_health_check_period_ms": "1000",
            "RAY_health_check_failure_threshold": "3",
            "RAY_metrics_report_interval_ms": "1000",
        }
        if namespaces():
            self._network = _free_network()
            _ip("link", "add", "name", _BRIDGE, "type", "bridge")
            _ip("addr", "add", f"{self._network}.1/24", "dev", _BRIDGE)
            _ip("link", "set", _BRIDGE, "up")

    @property
    def dashboard(self) -> str:
        assert self.head
        return f"http://{self.head.ip}:{self.head.ports['dashboard']}"

    @property
    def address(self) -> str:
        assert self.head
        return f"{self.head.ip}:{self.head.ports['gcs']}"

    def start_head(self, groups: dict[str, dict] | None = None) -> Node:
        """A head that takes no work, as `cluster/raycluster.yaml` has it; with `groups`, node types by name, Ray's own
        autoscaler runs on it and adds and removes nodes of these, as further processes of the head's machine."""
        ports = {"gcs": 6379, "dashboard": 8265} if namespaces() else {"gcs": _free_port(), "dashboard": _free_port()}
        arguments = ["--head", f"--port={ports['gcs']}", "--num-cpus=0", f"--dashboard-port={ports['dashboard']}"]
        arguments += ["--dashboard-host=0.0.0.0", "--include-dashboard=true"]
        more = {}
        if groups:
            arguments.append(f"--autoscaling-config={_autoscaling(groups, ports['gcs'])}")
            more = {
                "AUTOSCALER_UPDATE_INTERVAL_S": "1",
                "RAY_enable_autoscaler_v2": "1",
                "RAY_FAKE_CLUSTER": "1",
                "RAY_CLOUD_INSTANCE_ID": FAKE_HEAD_NODE_ID,
                "RAY_OVERRIDE_NODE_ID_FOR_TESTING": FAKE_HEAD_NODE_ID,
            }
        # Nodes that the autoscaler makes see what the head sees.
        self.head = self._start(arguments, hidden=None if groups else self._hidden, more=more)
        self.head.ports = ports
        self._wait(lambda: _answers(f"{self.dashboard}/api/gcs_healthz"), self.head, "its dashboard")
        return self.head

    def add(self, *machines: tuple[int, int]) -> None:
        """Further machines of so many CPUs and GPUs; these are Ray's count of them, nothing more."""
        new = [
            self._start([f"--address={self.address}", f"--num-cpus={cpus}", f"--num-gpus={gpus}"])
            for cpus, gpus in machines
        ]
        self.workers += new
        for node in new:
            url = f"http://{node.ip}:{node.agent_port}/api/local_raylet_healthz"
            self._wait(lambda url=url: _answers(url), node, "its agent")

    def stop(self) -> None:
        """Lose all nodes."""
        lose([*self.workers, *([self.head] if self.head else [])])
        self.workers, self.head = [], None

    def close(self) -> None:
        self.stop()
        for name in self._names:
            _ip("netns", "del", name)
        if namespaces():
            _ip("link", "del", _BRIDGE)

    def _start(self, arguments: list[str], hidden: Path | None = None, more: dict[str, str] | None = None) -> Node:
        number = len(self._names) + 2
        folder = Path(tempfile.mkdtemp(prefix="tss", dir="/tmp"))  # sockets have short paths
        prefix, ip = self._namespace(number, hidden) if namespaces() else ([], "127.0.0.1")
        agent, metrics = (52365, 8080) if namespaces() else (_free_port(), _free_port())
        command = [
            *prefix,
            str(Path(sys.executable).parent / "ray"),
            "start",
            "--block",
            f"--node-ip-address={ip}",
            f"--temp-dir={folder}/ray",
            f"--dashboard-agent-listen-port={agent}",
            f"--metrics-export-port={metrics}",
            "--object-store-memory=150000000",
            "--include-log-monitor=false",  # nobody reads what workers print
            *arguments,
        ]
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(
                command, stdout=log, stderr=log, env={**self.environment, **(more or {})}, cwd=folder
            )
        return Node(ip, process, metrics, folder, agent)

    def _namespace(self, number: int, hidden: Path | None) -> tuple[list[str], str]:
        name, ip = f"{_NAMESPACE}-{number}", f"{self._network}.{number}"
        outside = f"tssv{os.getpid()}-{number}"
        _ip("netns", "add", name)
        self._names.append(name)
        _ip("link", "add", outside, "type", "veth", "peer", "name", "eth0", "netns", name)
        _ip("link", "set", outside, "master", _BRIDGE, "up")
        for words in (f"addr add {ip}/24 dev eth0", "link set eth0 up", "link set lo up"):
            _ip("-n", name, *words.split())
        _ip("-n", name, "route", "add", "default", "via", f"{self._network}.1")
        hide = f"mount -t tmpfs none {hidden} && " if hidden else ""
        return ["ip", "netns", "exec", name, "sh", "-c", f'{hide}exec "$@"', "sh"], ip

    def _wait(self, ready: object, node: Node, what: str, seconds: float = 90.0) -> None:
        deadline = time.monotonic() + seconds
        while not ready():  # type: ignore[operator]
            assert node.process.poll() is None and time.monotonic() < deadline, f"{what} never came up: {node.log()}"
            time.sleep(0.2)


def _autoscaling(groups: dict[str, dict], gcs_port: int) -> Path:
    """A file that tells Ray's autoscaler of node types whose nodes its provider for tests starts on the same machine."""
    head = {"ray.head.default": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0}}
    settings = {
        "cluster_name": "tests",
        "provider": {
            "type": "external",
            "module": _PROVIDER,
            "head_node_id": FAKE_HEAD_NODE_ID,
            "launch_multiple": True,
            "disable_node_updaters": True,
        },
        "max_workers": sum(group["max_workers"] for group in groups.values()),
        "available_node_types": {**head, **{name: {"node_config": {}, **group} for name, group in groups.items()}},
        "head_node_type": "ray.head.default",
        "idle_timeout_minutes": 1,
        "upscaling_speed": 100,
        **{key: {} for key in ("auth", "file_mounts")},
        **{f"{who}setup_commands": [] for who in ("", "head_", "worker_")},
        **{key: [] for key in ("initialization_commands", "cluster_synced_files", "rsync_exclude", "rsync_filter")},
        **{f"{who}_start_ray_commands": [] for who in ("head", "worker")},
    }
    if gcs_port != 6379:
        settings["provider"]["gcs_address"] = f"127.0.0.1:{gcs_port}"
    path = Path(tempfile.mkdtemp(prefix="tss", dir="/tmp")) / "autoscaling.yaml"
    path.write_text(json.dumps(settings))
    return path


@contextlib.contextmanager
def machines(hidden: Path | None = None) -> Iterator[Machines]:
    """A cluster without nodes yet; from the head, `hidden` is empty where namespaces can be had."""
    found = Machines(hidden)
    try:
        yield found
    finally:
        found.close()


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:
            return answer.status == 200
    except OSError:
        return False
