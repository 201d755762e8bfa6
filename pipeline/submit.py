"""`tss submit`: a command of this command line as a job on a cluster that is reached through its dashboard.

The job gets a small folder to work in: this package's code, so that the cluster runs the release of whoever submits, the
configuration with every override in it, and the small files that it names. Corpora, models and outputs stay where the cluster
sees them.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import re
import shlex
import shutil
import sys
import tempfile
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from ray.exceptions import AuthenticationError, RayError

from operators.error_text import first_line
from operators.model_files import looks_local
from operators.prompts.template import BUILT_IN
from pipeline.config import Config
from pipeline.engine.session import without_native_log
from pipeline.errors import BadRequest
from pipeline.preflight import read_template
from pipeline.read_config import override
from pipeline.reading.exclude_files import read_excluded
from pipeline.reading.listing import place_of
from pipeline.reading.pool_file import read_pool_file
from pipeline.storage import urls

_ROOT = Path(__file__).resolve().parents[1]
_CONFIG = "config.yaml"
_SECONDS_LOST = 60.0  # for which a dashboard may be out of reach while a job is followed


def stage(folder: Path, parsed: argparse.Namespace, config: Config | None) -> list[str]:
    """Fill a job's folder for a parsed command, whose configuration may be given, and return the command to run there; raises
    BadRequest for what a cluster cannot see, and for what must not leave this machine."""
    names = ("fresh", "quiet", "debug", "dry_run", "allow_empty", "exit_code")
    flags = [f"--{name.replace('_', '-')}" for name in names if getattr(parsed, name, False)]
    flags += ["--label", parsed.label] if getattr(parsed, "label", "") else []
    overrides = [word for text in parsed.overrides for word in ("--set", text)]
    if config is not None:
        _stage_code(folder, with_demo=False)
        _stage_config(folder, config)
        return [parsed.name, _CONFIG, *flags]  # overrides are in it
    if "output" in (asked := override({}, parsed.overrides)):
        _require_shared("--set output", str(asked["output"]))
    where = str(parsed.output) if parsed.name == "demo" else parsed.run
    _require_shared("--output" if parsed.name == "demo" else parsed.name, where)
    _stage_code(folder, with_demo=parsed.name == "demo")
    if parsed.name == "demo":
        return ["demo", "--rows", str(parsed.rows), "--output", where, *flags, *overrides]
    return [parsed.name, where, *flags, *overrides]


def _stage_config(folder: Path, config: Config) -> None:
    """The configuration as it is in the job's folder, and beside it the small files that it names."""
    settings = config.model_dump()
    for index, source in enumerate(config.input):
        _require_shared(f"input.{index}.path", place_of(source.path))
    _require_shared("output", config.output)
    models = {"scorer.model": config.scorer.model, "embedder.model": config.embedder.model}
    if config.alternatives.source != "retrieved" and config.alternatives.generator.engine == "transformers":
        models["alternatives.generator.model"] = config.alternatives.generator.model
    for key, name in models.items():
        if looks_local(name):
            _require_shared(key, name)
    if config.scorer.template not in {*BUILT_IN, "chat"}:
        (folder / "template.jinja").write_text(read_template(config.scorer.template), encoding="utf-8")
        settings["scorer"]["template"] = "template.jinja"
    if config.alternatives.pool:
        read_pool_file(config.alternatives.pool)
        pool = Path(config.alternatives.pool)
        settings["alternatives"]["pool"] = f"pool{pool.suffix}"
        shutil.copyfile(pool, folder / settings["alternatives"]["pool"])
    read_excluded(config.exclude)
    for index, asked in enumerate(config.exclude):
        settings["exclude"][index]["path"] = f"exclude-{index}{Path(asked.path).suffix}"
        shutil.copyfile(asked.path, folder / settings["exclude"][index]["path"])
    settings["ray"]["address"] = None  # of the cluster that the job is on
    (folder / _CONFIG).write_text(yaml.safe_dump(settings, allow_unicode=True, sort_keys=False), encoding="utf-8")


def _require_shared(key: str, path: str) -> None:
    # An output's options are kept with what it publishes; an input may need some.
    if urls.has_credentials(path) or (urls.is_url(path) and "?" in path and not key.startswith("input")):
        raise BadRequest(
            f"{key}: a URL with credentials or options in it, which would be sent and shown with the job; accepted: a URL "
            "without, and both in the environment of the cluster's machines"
        )
    if not urls.is_url(path) and not Path(path).is_absolute():
        raise BadRequest(
            f"{key}: {path!r} is relative to this folder, which the cluster does not see; accepted: an absolute path on "
            "storage that all its machines see, or a URL"
        )


def _stage_code(folder: Path, *, with_demo: bool) -> None:
    """This package's sources, with the bundled scorer where it is wanted."""
    left_out = ["__pycache__", *([] if with_demo else ["model"])]
    for package in ("operators", "pipeline"):
        shutil.copytree(_ROOT / package, folder / package, ignore=shutil.ignore_patterns(*left_out))


class OutOfReach(RuntimeError):
    """A dashboard that no longer answers, while a job may go on."""


class Jobs:
    """The job API of one cluster."""

    def __init__(self, address: str | None):
        """`address`: of the dashboard, or None for that of RAY_API_SERVER_ADDRESS or RAY_ADDRESS, or of a cluster on this
        machine. Raises BadRequest where there is none."""
        if address and urls.has_credentials(address):
            raise BadRequest(
                "--address: a URL with credentials in it; accepted: a URL without, and RAY_AUTH_TOKEN in the environment"
            )
        try:
            from ray.job_submission import JobSubmissionClient
        except ImportError as error:
            raise BadRequest(_NO_JOBS) from error
        # How Ray packs and uploads is not what anybody waits for; its modules set levels of their own.
        for module in [name for name in logging.root.manager.loggerDict if name.startswith("ray.dashboard")]:
            logging.getLogger(module).setLevel(logging.ERROR)
        given = (
            f"{address!r}: no Ray dashboard answers"
            if address
            else "none given, and no Ray dashboard answers on this machine"
        )
        try:
            with without_native_log():
                self._client = JobSubmissionClient(address)
        except (RuntimeError, OSError, ValueError, RayError) as error:
            if "ray[default]" in str(error):
                raise BadRequest(_NO_JOBS) from error
            raise _refused(f"--address: {given}", error, "accepted: a URL such as http://head:8265") from error
        self.address = str(self._client.get_address())

    def submit(self, folder: Path, command: Sequence[str], name: str) -> None:
        """Start a command of ours in a copy of `folder` as a job of this name; raises BadRequest where it is refused."""
        entrypoint = " ".join(["python", "-m", "pipeline", *map(shlex.quote, command)])
        # Logs are followed while the job goes, so nothing may wait in a buffer.
        runtime = {"working_dir": str(folder), "env_vars": {"PYTHONUNBUFFERED": "1", "RAY_USAGE_STATS_ENABLED": "0"}}
        try:
            self._client.submit_job(entrypoint=entrypoint, submission_id=name, runtime_env=runtime)
        except (RuntimeError, OSError, ValueError, RayError) as error:
            raise _refused(f"{self.address} does not take the job", error) from error

    def follow(self, name: str) -> Any:
        """Print the job's log as it grows until the job has ended; what is known of it then. A dashboard that is gone for a
        moment is looked for again; raises OutOfReach where it does not come back."""
        printed = 0
        lost: float | None = None  # since when nothing answers

        async def tail() -> None:
            nonlocal printed, lost
            passed = 0
            async for text in self._client.tail_job_logs(name):
                new = text[max(0, printed - passed) :]  # a new connection begins with what was printed before
                passed += len(text)
                printed = max(printed, passed)
                lost = None
                sys.stdout.write(new)
                sys.stdout.flush()

        while True:
            began = time.monotonic()
            try:
                asyncio.run(tail())
                job = self._client.get_job_info(name)
                lost = None
                if job.status.is_terminal():
                    return job
            except Exception as error:  # whatever an HTTP library raises on a connection that is lost
                now = time.monotonic()
                if isinstance(error, TimeoutError):  # of one that takes connections and never answers
                    lost = began if lost is None else lost
                elif (
                    lost is None or now - began > _SECONDS_LOST
                ):  # what stood so long had connected, if to a silent log
                    lost = now
                if now - lost > _SECONDS_LOST:
                    raise OutOfReach(
                        f"{self.address} has not told of job {name} for {_SECONDS_LOST:.0f} s ({first_line(error)[:300]}); "
                        f"unless its head was started anew, it may go on. {self.how_to_follow(name)}"
                    ) from error
            time.sleep(1.0)

    def how_to_follow(self, name: str) -> str:
        """In words, what one can do about a job that goes on."""
        at = f"--address {self.address}"
        return f"Follow it: ray job logs {at} --follow {name}. Stop it: ray job stop {at} {name}"


_NO_JOBS = "tss submit needs Ray's job API; install it: pip install 'task-specificity[cluster]'"


def _refused(what: str, error: Exception, accepted: str = "") -> BadRequest:
    """What a dashboard's refusal is for people: Ray answers with a traceback, of which the last line says why, and a full stop
    on a line of its own."""
    if isinstance(error, AuthenticationError):
        return BadRequest(
            f"{what}: it wants a token, and there is none here or another one; set RAY_AUTH_MODE=token and "
            "RAY_AUTH_TOKEN to the cluster's"
        )
    lines = [line.strip() for line in str(error).splitlines() if line.strip(" .")] or [type(error).__name__]
    return BadRequest("; ".join(filter(None, [f"{what}: {lines[-1][:300]}", accepted])))


def submit(parsed: argparse.Namespace, config: Config | None, address: str | None, name: str | None, wait: bool) -> int:
    """Submit a parsed command and follow it to its end; its exit status, or 130 after Ctrl-C, which leaves the job going.
    Without `wait`, only say where it is."""
    folder = Path(tempfile.mkdtemp(prefix="tss-submit-"))
    name = name or f"tss_{uuid.uuid4().hex[:16]}"
    try:
        command = stage(folder, parsed, config)
        jobs = Jobs(address)
        try:
            jobs.submit(folder, command, name)
        except KeyboardInterrupt:
            print(f"\ntss: job {name} may have begun. {jobs.how_to_follow(name)}", file=sys.stderr)
            return 130
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    try:
        print(f"submit       job {name} on {jobs.address}. {jobs.how_to_follow(name)}", file=sys.stderr)
        if not wait:
            return 0
        ended = jobs.follow(name)
    except KeyboardInterrupt:
        print(f"\ntss: job {name} goes on. {jobs.how_to_follow(name)}", file=sys.stderr)
        return 130
    except OutOfReach as gone:
        print(f"tss: {gone}", file=sys.stderr)
        return 1
    if ended.status == "SUCCEEDED":
        return 0
    reason = _last_words(ended.message or "")
    print(f"tss: job {name} on {jobs.address} ended as {ended.status.value}: {reason}", file=sys.stderr)
    return ended.driver_exit_code or 1


def _last_words(message: str) -> str:
    """The end of what Ray says of a job: it quotes the log's last lines, which are shown already."""
    return re.sub(r"\s+", " ", message.partition("last available logs")[0]).strip(" ,")[:500] or "no reason was given"
