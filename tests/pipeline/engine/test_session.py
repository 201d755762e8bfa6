"""Ray for one command: started here, or a cluster that is joined."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import ray

from pipeline.engine.session import _session_folder, is_local, session
from pipeline.errors import BadRequest, RunFailed

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def init(monkeypatch):
    """What `ray.init` is asked for, instead of Ray."""
    asked = []

    def init(**settings):
        asked.append(settings)
        raise ConnectionError("seen enough")

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", init)
    return asked


@pytest.fixture
def listening():
    """A socket that takes connections and never answers; its port."""
    with socket.socket() as server:
        server.bind(("", 0))
        server.listen()
        yield server.getsockname()[1]


@pytest.fixture
def closed_port():
    with socket.socket() as server:
        server.bind(("", 0))
        return server.getsockname()[1]


def test_a_limit_of_address_space_that_ray_would_die_of_is_refused_in_words(init):
    code = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_AS, (6 << 30, 6 << 30)); "
        "from pipeline.engine.session import _require_address_space; from pipeline.errors import BadRequest\n"
        "try: _require_address_space()\nexcept BadRequest as problem: sys.exit(str(problem))"
    )
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert "`ulimit -v` allows 6,144 MiB of address space" in ended.stderr, ended.stderr


def test_ray_that_does_not_come_up_is_named(monkeypatch, init):
    def fail(**settings):
        raise Exception("The current node timed out during startup.")

    monkeypatch.setattr(ray, "init", fail)
    with pytest.raises(RunFailed, match="stage start: Ray could not be started on this machine: The current node"):
        session(None).__enter__()


def test_ray_is_started_for_this_command_whatever_cluster_runs_here(init):
    """Without an address, `ray.init` would join one that it finds."""
    with pytest.raises(BadRequest, match="seen enough"), session(None):
        raise AssertionError
    assert init[0]["address"] == "local"


@pytest.mark.parametrize("scheme", ["", "ray://"])
def test_an_address_where_nothing_listens_is_named_at_once(init, monkeypatch, closed_port, scheme):
    address = f"{scheme}127.0.0.1:{closed_port}"
    with pytest.raises(BadRequest, match=rf"^ray\.address: no cluster answers at '{address}'"), session(address):
        raise AssertionError
    monkeypatch.setenv("RAY_ADDRESS", address)
    for asked in (None, "auto"):
        with pytest.raises(BadRequest, match=rf"^RAY_ADDRESS: no cluster answers at '{address}'"), session(asked):
            raise AssertionError
    assert not init


@pytest.mark.parametrize("address", ["no.such.host.invalid:6379", "127.0.0.1:99999", f"{'x' * 300}:6379"])
def test_an_address_that_no_machine_can_have_is_named(init, address):
    with pytest.raises(BadRequest, match=r"^ray\.address: no cluster answers"), session(address):
        raise AssertionError


def test_the_address_of_a_dashboard_is_none_of_a_cluster(init, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "http://head:8265")
    with (
        pytest.raises(BadRequest, match=r"^RAY_ADDRESS: 'http://head:8265' is the address of a dashboard"),
        session(None),
    ):
        raise AssertionError


def test_an_address_where_something_listens_is_ray_s_to_try(init, listening):
    address = f"127.0.0.1:{listening}"
    with pytest.raises(BadRequest, match=rf"^ray\.address: '{address}': .*seen enough"), session(address):
        raise AssertionError


def test_local_means_this_machine_wherever_it_is_said(monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert is_local(None) and is_local("local") and not is_local("auto") and not is_local("head:6379")
    monkeypatch.setenv("RAY_ADDRESS", "local")
    assert is_local(None)
    monkeypatch.setenv("RAY_ADDRESS", "head:6379")
    assert not is_local(None)


@pytest.mark.ray
def test_what_takes_connections_and_is_no_cluster_is_given_up(listening):
    code = f"from pipeline.engine.session import session\nwith session('127.0.0.1:{listening}'): pass"
    # Each of Ray's tries is made short here; all that it would make take longer than the limit.
    quick = {"RAY_py_gcs_connect_timeout_s": "4", "RAY_gcs_rpc_server_connect_timeout_s": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=90,
        env={**os.environ, **quick, "PYTHONPATH": str(ROOT)},
    )
    assert "BadRequest: ray.address" in done.stderr and "Ray could not be reached" in done.stderr


def test_a_session_in_a_folder_of_usual_length_is_ray_s_own_matter(monkeypatch):
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setenv("TMPDIR", "/var/tmp")
    with _session_folder() as settings:
        assert settings == {}


@pytest.mark.parametrize("name", ["TMPDIR", "RAY_TMPDIR"])
def test_a_session_has_a_short_folder_for_its_time_where_the_usual_one_is_too_long(monkeypatch, name):
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setenv(name, "/scratch/" + "x" * 80)
    with _session_folder() as settings:
        folder = Path(settings["_temp_dir"])
        assert folder.parent == Path("/tmp") and folder.stat().st_mode & 0o777 == 0o700
        assert settings["object_spilling_directory"] == f"/scratch/{'x' * 80}/ray"
    assert not folder.exists()


def test_where_no_short_folder_can_be_made_the_variable_is_named(monkeypatch):
    def full(**_):
        raise OSError(28, "No space left on device")

    monkeypatch.setenv("TMPDIR", "/scratch/" + "x" * 80)
    monkeypatch.setattr("tempfile.mkdtemp", full)
    with pytest.raises(BadRequest, match="set RAY_TMPDIR to a folder with a short path"), _session_folder():
        raise AssertionError
