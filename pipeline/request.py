"""A request that is in order: what is asked for, a cluster that is up, an output that is locked, and what identifies them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from operators.scoring.logprob_server import ServerProblem
from operators.scoring.score_rows import Work
from operators.scoring.server_scorer import require_same_model
from pipeline.check_generator import CheckedGenerator
from pipeline.config import Config
from pipeline.engine.job import AS_USUAL, Job, Publishing, once
from pipeline.engine.progress import Reporter
from pipeline.engine.resources import Pools, gpus_awaited, pools
from pipeline.engine.session import is_local
from pipeline.errors import BadRequest
from pipeline.preflight import SERVED, Checked, check_models, check_quota, read_template, require_conversations
from pipeline.reading.chunks import Chunk, plan
from pipeline.reading.exclude_files import ExcludedFile, read_excluded
from pipeline.reading.first_rows import require_layouts
from pipeline.reading.input_files import InputFile
from pipeline.reading.pool_file import read_pool_file
from pipeline.reading.snapshot import same_content, take_snapshot
from pipeline.retrieval.instructions import InstructionTable
from pipeline.runs import accounts
from pipeline.runs.manifest import (
    AlternativesAccount,
    Counts,
    ExcludedName,
    GeneratorName,
    Manifest,
    ScorerName,
    Tokens,
)
from pipeline.runs.output import check_output, require_apart, working_on
from pipeline.runs.workspace import Workspace, open_workspace
from pipeline.storage import computed, files
from pipeline.storage.lock import Lock
from pipeline.storage.records import NearDuplicatesAccount, Retrieval

# Of how this project makes scored rows of given inputs and likelihoods. Counted up by hand where a release makes other rows:
# what an earlier release began or published is then made again, from the likelihoods that are stored.
ROWS_VERSION = 3


# Of how near duplicates are found, and rows compared with excluded texts: as ROWS_VERSION, where either is asked for.
NEAR_VERSION, EXCLUDE_VERSION = 1, 1

# Of how this project takes answers of a generator apart and offers what they hold: as ROWS_VERSION, where there are any.
WRITTEN_VERSION = 1


@dataclass(frozen=True)
class Generating:
    """Who writes alternatives, and what an actor that does is made with."""

    name: GeneratorName
    actor: dict[str, Any]


@dataclass(frozen=True)
class Request:
    """What is asked for, how it will be done, and digests of what the answer follows from."""

    config: Config
    reporter: Reporter
    lock: Lock
    output: str
    chunks: list[Chunk]
    pool_texts: list[str] | None
    checked: Checked
    pools: Pools
    dtype: str
    scorer: ScorerName
    inputs: list[InputFile]
    fresh: bool  # as it was asked for; a run that goes on is what it was begun as
    generating: Generating | None = None  # where alternatives are written
    excluded: Sequence[ExcludedFile] = ()  # texts that no row may share words with
    publishing: Publishing = AS_USUAL

    @property
    def content(self) -> str:
        """A digest of all that scored rows follow from."""
        asked = self.config.model_dump()
        bounded = asked["select"]["mode"] == "bounded"
        alternatives = asked["alternatives"]
        source, _ = alternatives.pop("source"), alternatives.pop("generator")
        parts = [
            ROWS_VERSION,
            same_content(self.inputs),
            self.pool_texts,
            self.checked.embedder,
            alternatives,
            self.scorer.fingerprint,
            [asked["scorer"][name] for name in ("max_length", "too_long")],
            self.checked.encoder["bos_opens_turns"],  # the context of l(0)
            [asked["score"], asked["select"], asked["seed"]]
            if bounded
            else None,  # then they decide which pairs are scored at all
        ]
        if self.generating is not None:
            parts.append([WRITTEN_VERSION, source, self.generating.name.fingerprint])
        if self.excluded:
            parts.append(["exclude", EXCLUDE_VERSION, [file.identity for file in self.excluded]])
        if self.config.dedup.near is not None:
            parts.append(["near", NEAR_VERSION, self.config.dedup.near])
        return files.digest_of(json.dumps(parts, ensure_ascii=False).encode("utf-8", "surrogatepass"))

    @property
    def identity(self) -> str:
        """A digest of all that the published run follows from."""
        asked = [self.config.model_dump()[name] for name in ("score", "select", "seed", "max_rejected_fraction")]
        return files.digest_of(json.dumps([self.content, asked]).encode())

    def manifest(
        self,
        workspace: Workspace,
        columns: list[str],
        table: InstructionTable,
        retrieval: Retrieval,
        counts: dict[str, Counts],
        work: Work,
        alternatives: AlternativesAccount | None,
        near: NearDuplicatesAccount | None,
    ) -> Manifest:
        """What the manifest says before anything is selected: `columns` of the rows' own, and what scoring cost."""
        return Manifest(
            run=workspace.run_id,
            config=self.config.model_dump(),
            versions=accounts.versions(),
            scorer=replace(self.scorer, loaded=work.loaded),
            counts=accounts.in_all(counts),
            pairs=accounts.pairs_of(work, workspace.resumed),
            files={},
            columns=columns,
            instructions=table.shards.rows,
            pool=table.pool,
            retrieval=retrieval,
            base=accounts.base_of(self.config),
            tokens=Tokens(work.tokens, work.forwarded_tokens),
            inputs=self.inputs,
            content=self.content,
            embedder=self.checked.embedder,
            generator=None if self.generating is None else self.generating.name,
            alternatives=alternatives,
            near_duplicates=near,
            excluded=[ExcludedName(file.path, file.ngram, file.digest, len(file.texts)) for file in self.excluded]
            or None,
            damaged=computed.damaged(workspace.folder),
        )

    def generator_folder(self) -> str:
        """The generator's folder of the store, with a note of whose it is; raises ValueError where nothing is generated."""
        if self.generating is None:
            raise ValueError("alternatives are retrieved alone")
        name = self.generating.name
        folder = computed.generator_folder(self.output, name.fingerprint)
        computed.describe(folder, name.model, name.settings["dtype"], name.prompt_hash)
        return folder

    def job(self, workspace: Workspace) -> Job:
        """The run of this request in a workspace."""
        asked = (self.config, workspace.folder, workspace.run_id, self.pools, self.reporter)
        return Job(*asked, workspace.fresh, self.publishing)


def check_inputs_and_models(config: Config, template_text: str) -> tuple[list[Chunk], Checked]:
    """The chunks of the inputs, and what the models' files say; raises BadRequest. Runs where workers do: a driver on a cluster
    may reach neither."""
    chunks = plan(config)
    check_quota(config, {chunk.source for chunk in chunks})
    require_layouts(chunks, config.max_rejected_fraction)
    return chunks, check_models(config, template_text)


def resolved_dtype(asked: str, sizes: Pools) -> str:
    """The dtype that `auto` means on the machines that will score and generate: asked of a GPU there, where scorers have one,
    and one that is not up yet has to come up for that."""
    if asked != "auto":
        return asked
    if not sizes.gpus_per_scorer:
        return "float32"
    return str(once("preflight", _dtype_of_gpu, gpus=min(1.0, sizes.gpus_per_scorer)))


def _dtype_of_gpu() -> str:
    from operators.scoring.models import device_of, resolve_dtype

    return str(resolve_dtype("auto", device_of(gpu=True))).removeprefix("torch.")


@contextmanager
def requested(
    command: str, config: Config, reporter: Reporter, fresh: bool, publishing: Publishing = AS_USUAL
) -> Iterator[Request]:
    """The request of a command, with its output locked and Ray up. Raises BadRequest before anything is written.

    What belongs to the request itself (configuration, template, pool, output) is read here; inputs and models where workers
    are, which is here too where Ray is only started for this command: then what is wrong is known before it is.
    """
    require_conversations(config)
    output = check_output(config.output)
    require_apart(output, config.input)
    template_text = read_template(config.scorer.template)
    pool_texts = read_pool_file(config.alternatives.pool) if config.alternatives.pool else None
    excluded = read_excluded(config.exclude)
    asked = (config, template_text)
    checks = check_inputs_and_models(*asked) if is_local(config.ray.address) else None
    with working_on(output, command, config.ray.address) as lock:
        sizes = pools(config)
        chunks, checked = checks or once("preflight", check_inputs_and_models, *asked)
        reporter.say(f"start        the request is in order, Ray is up{gpus_awaited(sizes)}")
        dtype = SERVED if checked.server else resolved_dtype(config.scorer.dtype, sizes)
        _require_server_of_the_store(output, checked)
        inputs = take_snapshot(reporter, chunks)
        yield Request(
            config=config,
            reporter=reporter,
            lock=lock,
            output=output,
            chunks=chunks,
            pool_texts=pool_texts,
            excluded=excluded,
            checked=checked,
            pools=sizes,
            dtype=dtype,
            scorer=checked.scorer(dtype),
            inputs=inputs,
            fresh=fresh,
            generating=_generating(checked.generator, sizes),
            publishing=publishing,
        )


def _require_server_of_the_store(output: str, checked: Checked) -> None:
    """Raise BadRequest where another model is behind a server than when its likelihoods were stored."""
    if checked.server is None:
        return
    noted = computed.noted_trial(computed.scorer_folder(output, checked.scorer(SERVED).fingerprint))
    try:
        if noted is not None:
            require_same_model(checked.server, noted)
    except ServerProblem as problem:
        raise BadRequest(str(problem)) from problem


def _generating(generator: CheckedGenerator | None, sizes: Pools) -> Generating | None:
    if generator is None:
        return None
    dtype = resolved_dtype(generator.asked.dtype, sizes) if generator.asked.engine == "transformers" else ""
    return Generating(generator.named(dtype), generator.actor(dtype))


@contextmanager
def workspace_of(request: Request) -> Iterator[Workspace]:
    """The workspace of a request's run, which may have been begun before."""
    with open_workspace(request.output, request.lock, request.identity, fresh=request.fresh) as workspace:
        if workspace.resumed:
            parts, pairs = computed.count_run(request.output, workspace.run_id)
            answers = computed.count_answers(request.output, workspace.run_id)
            request.reporter.say(
                f"resume       run {workspace.run_id} was interrupted; {pairs:,} of its pairs are stored, in {parts:,} parts"
                + (f", and answers to {answers:,} inputs" if answers else "")
            )
        yield workspace
