"""Jobs on a real cluster of several nodes: where their work is done, what they say and how they end; nodes that come and go."""

import contextlib
import json
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path

import dashboard
import pytest
import yaml
from conftest import write_jsonl
from killed_runs import parts_of, published, stored_pairs
from nodes import Machines, machines, namespaces
from small_runs import corpus, run, settings, table

from pipeline.engine import metrics
from pipeline.retrieval import blocks

pytest.importorskip("aiohttp", reason="Ray's job API is not installed")
ROOT = Path(__file__).resolve().parents[2]
ROWS = 120
# Small batches, and a part of the store for each of them.
IN_PARTS = {"scorer__batch_tokens": 600, "store__write_every": 0, "alternatives__k": 8}
BLOCK_TOKENS = 8192
PARTS = 5  # of the store, and a run waits until the test lets it go on
TEMPLATE = "{{ instruction }}\n{% if input %}{{ input }}\n{% endif %}=> "


@pytest.fixture(scope="module")
def unseen(tmp_path_factory, model_folder):
    """A folder that workers see and the head does not: rows and a model."""
    folder = tmp_path_factory.mktemp("unseen")
    write_jsonl(folder / "rows.jsonl", corpus(ROWS))
    shutil.copytree(model_folder, folder / "model")
    return folder


@pytest.fixture(scope="module")
def cluster(unseen, own_ray):
    """A head that takes no work, a machine with CPUs, and one with a GPU (as far as Ray can tell)."""
    with machines(hidden=unseen) as found:
        found.start_head()
        found.add((3, 0), (1, 1))
        yield found


def written(path: Path, output: Path, folder: Path, **more) -> Path:
    """A configuration file."""
    wanted = settings(output, [folder / "rows.jsonl"], folder / "model", scorer__dtype="float32", **more)
    path.write_text(yaml.safe_dump(wanted.model_dump()))
    return path


class Submitted:
    """`tss submit` in a process of its own."""

    def __init__(self, cluster: Machines, cwd: Path, *words: str, **environment: str):
        command = [sys.executable, "-m", "pipeline", "submit", "--address", cluster.dashboard, *map(str, words)]
        environment = {**cluster.environment, "PYTHONPATH": str(ROOT), **environment}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        self.process = subprocess.Popen(command, env=environment, cwd=cwd, **pipes)

    def end(self) -> tuple[int, str]:
        text, _ = self.process.communicate(timeout=180)
        return self.process.returncode, text

    def line(self, start: str) -> str:
        """The next line that begins so."""
        while line := self.process.stdout.readline():
            if line.startswith(start):
                return line
        raise AssertionError(f"no line {start!r}")


def exposed(cluster: Machines) -> list[str]:
    """All lines that Prometheus would read now."""
    found: list[str] = []
    for node in [cluster.head, *cluster.workers]:
        with urllib.request.urlopen(f"http://{node.ip}:{node.metrics_port}/metrics", timeout=10) as answer:
            found += answer.read().decode().splitlines()
    return found


def scraped(cluster: Machines) -> dict[str, float]:
    """What it would read of us: sums over series by name and own tags."""
    found: dict[str, float] = {}
    for line in exposed(cluster):
        if line.startswith("ray_tss_"):
            name, labels = line.split("{")[0], dict(re.findall(r'(\w+)="([^"]*)"', line))
            own = ",".join(labels[key] for key in ("outcome", "reason", "source", "kind", "stage") if key in labels)
            key = f"{name}[{own}]"
            found[key] = found.get(key, 0.0) + float(line.rsplit(" ", 1)[1])
    return found


def through_api(cluster: Machines, path: str) -> list[dict]:
    """Entries of Ray's state API."""
    request = urllib.request.Request(
        f"{cluster.dashboard}/api/v0/{path}",
        headers=_authorised(cluster),
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)["data"]["result"]["result"]


def test_a_job_does_its_work_where_it_belongs(cluster, unseen, ray_session, tmp_path):
    here = tmp_path / "here"
    here.mkdir()
    (here / "mine.jinja").write_text(TEMPLATE)
    config = written(here / "config.yaml", tmp_path / "out", unseen, scorer__template="mine.jinja")
    submitted = Submitted(cluster, here, "run", config.name, "--set", "seed=3")
    seen: dict[str, float] = {}

    def watch() -> None:
        while submitted.process.poll() is None:
            seen.update(scraped(cluster))
            time.sleep(1)

    watching = threading.Thread(target=watch)
    watching.start()
    status, text = submitted.end()
    watching.join()
    assert status == 0, text
    assert "score        1 of 1 blocks" in text and f"rows         {ROWS} read" in text

    alone = run(
        tmp_path / "alone", [unseen / "rows.jsonl"], unseen / "model", scorer__template=str(here / "mine.jinja"), seed=3
    )
    done = published(tmp_path / "out")
    assert [row["id"] for row in table(done, "selected")] == [row["id"] for row in table(alone, "selected")]

    _, with_gpu = cluster.workers
    by_ip = {node["node_ip"]: node["node_id"] for node in through_api(cluster, "nodes?detail=1")}
    if namespaces():
        actors = through_api(cluster, "actors?detail=1")
        scorers = {actor["node_id"] for actor in actors if "ScoreBlock" in json.dumps(actor)}
        assert scorers == {by_ip[with_gpu.ip]}
        tasks = through_api(cluster, "tasks?detail=1&limit=5000")
        plain = [task for task in tasks if task["type"] == "NORMAL_TASK" and task["node_id"]]
        elsewhere = {task["name"] for task in plain if task["node_id"] != by_ip[cluster.workers[0].ip]}
        # Ray 2.60 gives its tasks of a shuffle no label selector: these short ones may go anywhere. The other looks everywhere.
        assert {name for name in elsewhere if not name.startswith(("HashShuffle", "SortShuffle"))} == {"check_shared"}
        assert any("admit_chunks" in task["name"] for task in tasks)  # dashboards call stages by their names
    wanted = {f"ray_{name}_total" for name in metrics.COUNTERS} | {f"ray_{name}" for name in metrics.GAUGES}
    told = {key.partition("[")[0] for key in seen}
    assert wanted - told <= {"ray_tss_rejected_rows_total", "ray_tss_scorer_device_memory_bytes"}
    # GPUs are counted here and not there, and nothing was spilled: but for these, the dashboard finds all that it asks of Ray.
    rays = {name for name in dashboard.metrics() if not name.startswith("ray_tss_")}

    def missing() -> set[str]:
        return rays - {re.match(r"\w*", line)[0] for line in exposed(cluster)}

    wait_for(lambda: missing() <= {"ray_node_gpus_utilization"}, "Ray does not tell all that the dashboard asks of it")
    counts = json.loads((done / "manifest.json").read_text())
    end = scraped(cluster)
    assert end["ray_tss_rows_total[read]"] == ROWS
    assert end["ray_tss_rows_total[scored]"] == counts["counts"]["scored"]
    assert end["ray_tss_pairs_total[computed]"] == counts["pairs"]["computed"]
    assert end["ray_tss_tokens_total[useful]"] == counts["tokens"]["in_pairs"]
    told_of = {
        re.search(r'run="([^"]*)"', line)[1] for line in exposed(cluster) if line.startswith("ray_tss_pairs_total{")
    }
    assert told_of == {done.name}


def test_jobs_that_fail_say_why_and_so_does_their_status(cluster, unseen, tmp_path):
    """Two at once: one whose model is not there, one whose output the workers do not see."""
    config = written(tmp_path / "config.yaml", tmp_path / "out", unseen)
    without = Submitted(cluster, tmp_path, "run", config, "--set", f"scorer.model={unseen}/none")
    apart = None
    if namespaces():  # else machines here see the same folders
        apart = Submitted(cluster, tmp_path, "run", written(tmp_path / "apart.yaml", unseen / "out", unseen))
    status, text = without.end()
    assert status == 2 and f"scorer.model: '{unseen}/none': no such folder" in text, text
    assert "ended as FAILED" in text
    if apart:
        status, text = apart.end()
        assert status == 2 and f"output: '{unseen}/out' is not the same folder on " in text, text


def test_ctrl_c_leaves_the_job_going_and_says_how_to_stop_it(cluster, tmp_path):
    submitted = Submitted(cluster, tmp_path, "demo", "--rows", "200", "--output", tmp_path / "out")
    name = re.search(r"job (\w+) on", submitted.line("submit"))[1]
    submitted.process.send_signal(signal.SIGINT)
    status, text = submitted.end()
    assert status == 130 and f"job {name} goes on" in text and "ray job stop --address" in text, text
    assert job_of(cluster, name)[0] in ("PENDING", "RUNNING")
    stop = [Path(sys.executable).parent / "ray", "job", "stop", "--address", cluster.dashboard, name]
    stopped = subprocess.run(stop, env=cluster.environment, capture_output=True, text=True, timeout=60, check=True)
    assert "stopped" in stopped.stdout + stopped.stderr
    again = Submitted(cluster, tmp_path, "--id", name, "demo", "--output", tmp_path / "out")
    status, text = again.end()
    assert status == 2 and "does not take the job: " in text and f"{name} already exists" in text, text
    assert "Traceback" not in text


def test_another_token_is_refused_in_words(cluster, tmp_path):
    status, text = Submitted(cluster, tmp_path, "demo", "--output", tmp_path / "out", RAY_AUTH_TOKEN="of another").end()
    assert status == 2 and "set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN" in text and "Traceback" not in text, text


@pytest.mark.parametrize(
    "words",
    [
        ["report", "x"],
        [],
        ["run", "config.yaml", "--set", "output=runs/mine"],
        ["run", "config.yaml", "--set", "input.0.path=rows.jsonl"],
        ["run", "config.yaml", "--set", "scorer.model=./model"],
        ["demo"],
        ["select", "runs/mine"],
        ["run", "config.yaml", "--set", "scorer.template=none.jinja"],
    ],
)
def test_what_no_cluster_can_do_is_refused_before_it_is_asked(words, unseen, tmp_path, capsys, monkeypatch):
    from pipeline import cli

    monkeypatch.chdir(tmp_path)
    written(tmp_path / "config.yaml", tmp_path / "out", unseen)
    assert cli.main(["submit", "--address", "http://127.0.0.1:1", *words]) == 2
    assert "accepted:" in capsys.readouterr().err


def test_a_dashboard_that_does_not_answer_is_named(unseen, tmp_path, capsys):
    from pipeline import cli

    config = written(tmp_path / "config.yaml", tmp_path / "out", unseen)
    assert cli.main(["submit", "--address", "http://127.0.0.1:1", "run", str(config)]) == 2
    assert "--address: 'http://127.0.0.1:1'" in capsys.readouterr().err


def submit_held_back(cluster: Machines, config: Path, go: Path) -> str:
    """Start a run of several blocks as a job, that waits in the middle until there is a file `go`."""
    from ray.job_submission import JobSubmissionClient

    client = JobSubmissionClient(cluster.dashboard, headers=_authorised(cluster))
    script = ROOT / "tests" / "held_back.py"
    return client.submit_job(
        entrypoint=f"{sys.executable} {script} {BLOCK_TOKENS} {PARTS} {go} run {config}",
        runtime_env={"env_vars": {"PYTHONPATH": str(ROOT)}},
    )


def _authorised(cluster: Machines) -> dict[str, str]:
    return {"Authorization": f"Bearer {cluster.environment['RAY_AUTH_TOKEN']}"}


def job_of(cluster: Machines, name: str) -> tuple[str, str]:
    """Status and log of a job."""
    from ray.job_submission import JobSubmissionClient

    client = JobSubmissionClient(cluster.dashboard, headers=_authorised(cluster))
    return client.get_job_status(name).value, client.get_job_logs(name)


def wait_for(ready, what: str, seconds: float = 240.0) -> None:
    deadline = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < deadline, what
        time.sleep(0.5)  # most of these are requests to a dashboard


def scorer_nodes(cluster: Machines) -> list[str]:
    """Nodes of the scorers that live."""
    actors = through_api(cluster, "actors?detail=1")
    return [actor["node_id"] for actor in actors if "ScoreBlock" in json.dumps(actor) and actor["state"] == "ALIVE"]


@pytest.fixture(scope="module")
def undisturbed(ray_session, unseen):
    """The output of a run over the same rows and blocks as those of `submit_held_back`, which nobody meddles with."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocks, "BLOCK_TOKENS", BLOCK_TOKENS)
        run(unseen / "alone", [unseen / "rows.jsonl"], unseen / "model", alternatives__k=8)
    return unseen / "alone"


def check(output: Path, expected: Path) -> None:
    """The same rows are selected, and no stored pair was computed again: what was computed twice had been in flight."""
    ids, wanted = (sorted(row["id"] for row in table(published(one), "selected")) for one in (output, expected))
    assert ids == wanted
    assert stored_pairs(output) == stored_pairs(expected)


@pytest.fixture(scope="module")
def begun(cluster, unseen, tmp_path_factory):
    """A job with two scorers that waits in the middle of its run: its name, its output, the file that lets it go on; and what
    its cluster would leave of the output if it were gone now."""
    folder = tmp_path_factory.mktemp("begun")
    output, go, left = folder / "out", folder / "go", folder / "left"
    cluster.add((1, 1))
    config = written(folder / "config.yaml", output, unseen, ray__scorers=2, **IN_PARTS)
    name = submit_held_back(cluster, config, go)
    wait_for(lambda: len(parts_of(output)) >= PARTS or job_of(cluster, name)[0] == "FAILED", "nothing was scored")
    wait_for(lambda: len(set(scorer_nodes(cluster))) == 2, "a scorer never came up")

    def copy(source: str, target: str) -> None:
        with contextlib.suppress(FileNotFoundError):  # a draft, or a sign of life that was just written anew
            shutil.copy2(source, target)

    shutil.copytree(output, left, copy_function=copy)
    assert not (output / "latest.json").exists()  # it was in the middle
    return name, output, go, left


def test_nodes_come_and_go_while_they_score(cluster, begun, undisturbed):
    name, output, go, _ = begun
    before = set(scorer_nodes(cluster))
    cluster.workers[1].lose()
    del cluster.workers[1]
    cluster.add((1, 1))
    # The scorer that was lost starts again where there is room now.
    wait_for(
        lambda: set(scorer_nodes(cluster)) - before or (output / "latest.json").exists(), "no scorer on a new node"
    )
    assert not (output / "latest.json").exists()  # it was in the middle
    go.touch()
    wait_for(lambda: job_of(cluster, name)[0] in ("SUCCEEDED", "FAILED"), "the run did not end", 480)
    status, log = job_of(cluster, name)
    assert status == "SUCCEEDED", log
    check(output, undisturbed)


def test_a_run_goes_on_on_another_cluster_whose_nodes_come_when_they_are_asked_for(
    cluster, begun, unseen, undisturbed, tmp_path
):
    *_, output = begun
    cluster.stop()
    assert not (output / "latest.json").exists()
    before = len(parts_of(output))
    groups = {
        "cpu": {"resources": {"CPU": 4}, "min_workers": 0, "max_workers": 1},
        "gpu": {
            "resources": {"CPU": 1, "GPU": 1},
            "labels": {"task-specificity/role": "gpu"},
            "min_workers": 0,
            "max_workers": 2,
        },
    }
    cluster.start_head(groups)
    more = {"ray__gpus_per_scorer": 1, "ray__scorers": 1, **IN_PARTS}
    config, go = written(tmp_path / "config.yaml", output, unseen, **more), tmp_path / "go"
    go.touch()
    name = submit_held_back(cluster, config, go)
    wait_for(lambda: job_of(cluster, name)[0] in ("SUCCEEDED", "FAILED"), "the run did not end", 480)
    status, log = job_of(cluster, name)
    assert status == "SUCCEEDED" and "was interrupted; " in log and f"in {before} parts" in log, log
    assert "scorers ask for 1 GPUs, 0 are up" in log
    pairs = json.loads((published(output) / "manifest.json").read_text())["pairs"]
    assert 0 < pairs["resumed"] < pairs["computed"]  # it was in the middle
    check(output, undisturbed)
    nodes = through_api(cluster, "nodes?detail=1")
    with_gpus = {node["node_id"] for node in nodes if node["resources_total"].get("GPU")}
    assert len(with_gpus) == 1
    tasks = through_api(cluster, "tasks?detail=1&limit=5000")
    there = {task["name"] for task in tasks if task["type"] == "NORMAL_TASK" and task["node_id"] in with_gpus}
    assert {name for name in there if not name.startswith(("HashShuffle", "SortShuffle"))} == set()
