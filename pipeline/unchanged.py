"""`tss run` where nothing has changed since the current run: said within seconds, without Ray and without a model.

A key is a digest of all that a run on this machine follows from: the configuration, the content of the inputs and of the files
that it names, the versions of models and packages, this package's sources. It is in the manifest of a run that was made with
it. What is dear to look at (large inputs, object stores, clusters) has no key, and is run.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from pathlib import Path

import pyarrow as pa

from operators.model_files import looks_local, version_of
from operators.prompts.template import BUILT_IN, CHAT
from operators.retrieval.embedder import LEXICAL
from pipeline.config import WHERE_AND_HOW, Config
from pipeline.engine.same_code import digest as digest_of_sources
from pipeline.engine.session import is_local
from pipeline.errors import BadRequest
from pipeline.reading.chunks import FOLDERS, plan
from pipeline.runs import accounts, open_run
from pipeline.runs.history import require_whole
from pipeline.runs.output import check_output
from pipeline.runs.summary import Summary, summarise
from pipeline.storage import urls
from pipeline.storage.files import digest_of, list_files

MOST_BYTES = 512 << 20  # of all files whose content is looked at
_GPUS = ("/dev/nvidia0", "/dev/kfd", "/dev/dxg")


def key_of(config: Config) -> str:
    """The key of a run of a configuration; empty where it would take long to know, or where something cannot be read, which the
    run itself says in words."""
    try:
        return _key(config)
    except (OSError, ValueError, BadRequest, pa.ArrowException):
        return ""


def _key(config: Config) -> str:
    models = [config.scorer.model, *([config.embedder.model] if config.embedder.model != LEXICAL else [])]
    generator = config.alternatives.generator if config.alternatives.source != "retrieved" else None
    served = (
        config.scorer.engine == "server" or generator is not None
    )  # another model may be behind the same name by now
    if not is_local(config.ray.address) or urls.is_url(config.output) or served:
        return ""
    chunks = plan(config)
    if any(chunk.kind == "hub" or urls.is_url(chunk.uri) for chunk in chunks):
        return ""
    inputs = {chunk.uri: chunk for chunk in chunks}.values()
    paths = [path for chunk in inputs for path in _files_of(chunk.uri, folder=chunk.kind in FOLDERS)]
    named = [config.scorer.template] if config.scorer.template not in {*BUILT_IN, CHAT} else []
    named += [config.alternatives.pool] if config.alternatives.pool else []
    paths += [*named, *(asked.path for asked in config.exclude)]
    if sum(Path(path).stat().st_size for path in paths) > MOST_BYTES:
        return ""
    asked = {name: value for name, value in config.model_dump().items() if name not in WHERE_AND_HOW}
    parts = [
        asked,
        [
            (chunk.uri, chunk.kind, chunk.source, chunk.version, repr(chunk.entry), repr(chunk.partition))
            for chunk in inputs
        ],
        [(path, _content(path)) for path in paths],
        [version_of(model) for model in models],
        [str(Path(model).absolute()) for model in models if looks_local(model)],
        accounts.versions(),
        digest_of_sources(),
        [os.path.exists(path) for path in _GPUS],  # noqa: PTH110 - of a device
        {name: os.environ.get(name) for name in ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES")},
    ]
    return digest_of(json.dumps(parts, sort_keys=True, default=str).encode("utf-8", "surrogatepass"))


def _files_of(uri: str, *, folder: bool) -> list[str]:
    return [path for path, _ in list_files(str(Path(uri).absolute()), deep=True)] if folder else [uri]


def _content(path: str) -> str:
    with Path(path).expanduser().open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def current_of(config: Config, key: str) -> Summary | None:
    """The summary of the output's current run, where that was made with this key, is whole, and has no rejected row that may be
    scored at another try."""
    if not key:
        return None
    with contextlib.suppress(BadRequest, OSError):
        run = open_run.current_run(check_output(config.output))
        manifest = None if run is None else open_run.read_manifest(run)
        if run is None or manifest is None or manifest.key != key or accounts.worth_another_try(manifest.counts):
            return None
        require_whole(run, manifest)
        said = f"run          nothing has changed since {manifest.run}, which stays current; --fresh makes it anew"
        return Summary(run, f"{summarise(manifest, run).text}\n{said}")
    return None
