"""Stage 5b: encoded blocks become SCORED parts, and what is computed for them is stored."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field, replace
from functools import cached_property, reduce
from operator import add
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from operators.error_text import first_line
from operators.model_files import ModelProblem
from operators.rejections import Rejection
from operators.schema import LIKELIHOODS, REJECTED, SCORED, from_rows
from operators.scoring.draw import Threshold
from operators.scoring.load_scorer import Scorer, load_scorer
from operators.scoring.logprob_server import ServerProblem
from operators.scoring.score_rows import Memory, Scoring, Work
from operators.scoring.scores import ScoreSettings, add_scores
from pipeline.engine import metrics
from pipeline.engine.attempts import Attempts, Died, at_most, halve_by_deaths, this_actor
from pipeline.engine.encoder import cached_encoder
from pipeline.engine.resources import threads_here
from pipeline.scoring.encode import BlockToScore, from_bytes
from pipeline.scoring.notes import Notes
from pipeline.scoring.rejected import reasons_of, rejected_row
from pipeline.storage import computed
from pipeline.storage.parts import read_table, write_part
from pipeline.storage.records import ScoredBlock, SourceScores, record_table, records_of


class BrokenScorer(RuntimeError):
    """A model that is no scorer, or a scorer that fails on what it could do when it was loaded: no row is to blame."""


@dataclass(frozen=True)
class _Rows:
    """Rows of a block, ENCODED; their LIKELIHOODS so far; and sums of pairs that earlier runs have stored, by digest."""

    block: int
    encoded: pa.Table
    likelihoods: pa.Table | None
    stored: dict[bytes, float]

    def between(self, start: int, stop: int) -> _Rows:
        likelihoods = None if self.likelihoods is None else self.likelihoods.slice(start, stop - start)
        return replace(self, encoded=self.encoded.slice(start, stop - start), likelihoods=likelihoods)


@dataclass
class _Outcome:
    """What came of a stretch of rows: LIKELIHOODS tables in order, rows that cannot be scored with the reason, the cost."""

    tables: list[pa.Table] = field(default_factory=list)
    rejected: list[dict[str, Any]] = field(default_factory=list)
    work: Work = field(default_factory=Work)

    @classmethod
    def of(cls, parts: list[_Outcome]) -> _Outcome:
        """The outcomes of stretches that follow each other, as one."""
        tables = [table for part in parts for table in part.tables]
        rejected = [row for part in parts for row in part.rejected]
        return cls(tables, rejected, reduce(add, (part.work for part in parts)))


class _Keeper:
    """Writes finished pairs to the store: the first ones at once, later all that are waiting, every so many seconds and at the
    end of a stretch of rows."""

    def __init__(self, folder: str, every: float):
        self._folder, self._every = folder, every
        self._waiting: list[pa.Table] = []
        self._written = -math.inf

    def take(self, finished: pa.Table) -> None:
        self._waiting.append(finished)
        if time.monotonic() - self._written >= self._every:
            self.write()

    def write(self) -> None:
        rows = pa.concat_tables(self._waiting) if self._waiting else None
        if rows is not None and len(rows):
            computed.write(self._folder, rows.sort_by([("group", "ascending"), ("pair", "ascending")]))
        self._waiting, self._written = [], time.monotonic()


class ScoreBlock:
    """Actor: holds the model, once a pair needs it; turns each encoded block into one SCORED part, and stores what it computes.

    Rows of a block that an earlier round has scored are in `scored` of its record, and the new part holds them too. A row that
    raises or ends the process is found by halving its block, and rejected. `kept` is the scorer's folder of the store, the
    run's name in it and that of the round. `share` is what the actor has of its machine: with how many others it shares the
    cores, and its GPUs.
    """

    # A block whose process died is tried again as a whole: machines fail. Then it is halved at each death, down to one row.
    whole_tries, row_tries = 3, 2

    def __init__(
        self,
        *,
        work: str,
        kept: dict[str, str],
        every: float,
        encoder: dict[str, Any],
        model: dict[str, Any],
        batch_tokens: int | str,
        score: dict[str, Any],
        seed: int,
        threshold: Threshold | None,
        share: dict[str, float],
    ):
        self._work, self._score, self._threshold = work, ScoreSettings(**score), threshold
        self._kept, self._every, self._seed = kept, every, seed
        self._encoder, self._model, self._batch_tokens, self._share = encoder, model, batch_tokens, share
        self._loaded, self._notes = 0, Notes(work)
        metrics.of_run(kept["run"])

    @cached_property
    def _context(self) -> list[int]:
        return cached_encoder(**self._encoder).context

    @cached_property
    def _scorer(self) -> Scorer:
        # Made by the thread that scores, which is not the one that makes the actor: a second thread with a pool of OpenMP's
        # threads would leave more of them than cores, these then sleep between operations, and scoring takes 1.4 times as long.
        with at_most(self._work, f"load-{this_actor()}", "loading the scorer"):
            self._notes.loading()
            try:
                scorer = self._load()
            except ModelProblem as problem:
                raise BrokenScorer(str(problem)) from problem
        self._loaded = 1
        metrics.count("tss_models_loaded", 1)
        metrics.scorer(scorer)
        return scorer

    def _load(self) -> Scorer:
        gpus = self._share["gpus"]
        threads = threads_here(int(self._share["a_node"]), gpus)
        return load_scorer(self._model, self._batch_tokens, self._encoder["max_length"], gpus=gpus, threads=threads)

    def __call__(self, batch: pa.Table) -> pa.Table:
        return record_table(
            self._block(block, from_bytes(encoded))
            for block, encoded in zip(records_of(BlockToScore, batch), batch["encoded"].to_pylist(), strict=True)
        )

    def _block(self, block: BlockToScore, encoded: pa.Table) -> ScoredBlock:
        began = time.monotonic()
        before = read_table(block.scored.path) if block.scored else SCORED.empty_table()
        seen = pc.index_in(encoded["id"], value_set=before["id"].combine_chunks())
        likelihoods = before.take(seen).select(LIKELIHOODS.names) if len(before) and not seen.null_count else None
        stored = _sums(read_table(block.recalled.path)) if block.recalled else {}
        outcome = self._score_in_halves(_Rows(block.block, encoded, likelihoods, stored))
        others = before.filter(pc.invert(pc.is_in(before["id"], value_set=encoded["id"].combine_chunks())))
        tables = [add_scores(table, self._score, self._seed) for table in outcome.tables]
        scored = pa.concat_tables([others, *tables])
        rejected = from_rows(outcome.rejected, REJECTED)
        return ScoredBlock(
            block=block.block,
            scored=write_part(f"{self._work}/scored", scored, SCORED),
            sources=sources_of(scored),
            rejected=[write_part(f"{self._work}/rejected", rejected, REJECTED)] if len(rejected) else [],
            reasons=reasons_of(outcome.rejected),
            work=outcome.work + Work(loaded=self._loads()),
            seconds=time.monotonic() - began,
        )

    def _loads(self) -> int:
        """1 in the record of the first block after a model was loaded."""
        loaded, self._loaded = self._loaded, 0
        return loaded

    def _score_in_halves(self, rows: _Rows) -> _Outcome:
        """Score the rows of a block, in halves where they have failed together."""
        attempts = Attempts(self._work, f"block-{rows.block:06d}-{self._kept['part']}")

        def attempt(places: range, name: str) -> _Outcome:
            try:
                with attempts.trying(name):
                    return self._score_rows(rows.between(places.start, places.stop))
            except (OSError, BrokenScorer):
                raise  # a disk that is full, a store that is gone; a model that is no scorer
            except Exception as error:  # noqa: BLE001 - what fails once may have been the machine's fault
                self._require_scorer(error)
            with attempts.trying(name):
                return self._score_rows(rows.between(places.start, places.stop))

        def alone(place: int, error: Exception) -> _Outcome:
            reason, detail = "scorer_failed", f"the scorer fails on this row: {type(error).__name__}: {error}"[:500]
            if isinstance(error, Died):
                reason, detail = "scorer_died", f"the scorer's {error} while it scored this row alone"
            return _Outcome(rejected=[rejected_row(rows.encoded.slice(place, 1), Rejection(reason, detail))])

        def excuse(error: Exception) -> None:
            if isinstance(error, OSError | BrokenScorer):
                raise error
            self._require_scorer(error)

        places = range(len(rows.encoded))
        if not places:  # a round may take no row of a block
            return self._score_rows(rows)
        tries = self.whole_tries, self.row_tries
        return _Outcome.of(halve_by_deaths(places, attempts.counts(), attempt, alone, excuse, tries=tries))

    def _require_scorer(self, error: Exception) -> None:
        """Raise BrokenScorer where it is not the rows: the model cannot be loaded, or fails on anything by now."""
        try:
            if isinstance(error, ServerProblem):
                raise error
            healthy = self._scorer.works()
        except ServerProblem as problem:
            raise BrokenScorer(f"{problem}; what is scored is stored: run the same command again") from problem
        except Exception as problem:
            raise BrokenScorer(
                f"the scorer cannot score: {type(problem).__name__}: {first_line(problem)}; where memory ran out, set "
                "scorer.batch_tokens or scorer.max_length lower, or take a smaller scorer.model"
            ) from problem
        if not healthy:
            raise BrokenScorer(
                f"the scorer fails on everything since {type(error).__name__}: {first_line(error)}; a process of its "
                "own may do better: run the same command again"
            ) from error

    def _score_rows(self, rows: _Rows) -> _Outcome:
        folder = computed.block_folder(self._kept["scorer"], self._kept["run"], rows.block, self._kept["part"])
        # Sums wait for the device, then for the disk: half of the time each.
        keeper, work = _Keeper(folder, self._every / 2), Work()
        meter, before = metrics.Meter(work), self._finished(folder)

        def keep(finished: pa.Table) -> None:
            keeper.take(finished)
            left = (work.computed - len(before), scoring.asked_tokens) if self._threshold is None else (0, 0)
            self._notes.scoring(rows.block, work.computed - work.resumed, work.tokens, work.seconds, *left)
            meter.read()
            metrics.scorer(self._scorer)  # batches have become smaller where memory ran out

        memory = Memory(rows.stored, before, keep, self._every / 2)
        scoring = Scoring(rows.encoded, self._context, lambda: self._scorer, rows.likelihoods, memory, work)
        try:
            if self._threshold is None:
                scoring.score_all()
            else:
                scoring.score_down_to(self._threshold, self._score)
        finally:
            keeper.write()
        meter.read(finished=True)
        good = pa.array(scoring.finite(), pa.bool_())
        bad = rows.encoded.filter(pc.invert(good))
        detail = (
            "the model gave a log-likelihood that is no finite number; scorer.dtype: float32 may help, or a server's"
        )
        rejected = [rejected_row(bad.slice(row, 1), Rejection("not_finite", detail)) for row in range(len(bad))]
        return _Outcome([scoring.table().filter(good)], rejected, scoring.work)

    def _finished(self, folder: str) -> dict[bytes, float]:
        """What this run has stored of a block in this round before."""
        sums: dict[bytes, float] = {}
        for _, table in computed.undamaged((path for path, _ in computed.parts(folder)), self._work):
            sums.update(_sums(table))
        return sums


def sources_of(scored: pa.Table) -> dict[str, SourceScores]:
    """By source: rows of a SCORED part, those without a score, and those of them that a bounded selection left."""
    unscored = _by_source(scored.filter(pc.is_null(scored["tss_pp"])))
    bounded = _by_source(scored.filter(pc.is_valid(scored["tss_pp_bound"])))
    return {
        source: SourceScores(rows, unscored.get(source, 0), bounded.get(source, 0))
        for source, rows in _by_source(scored).items()
    }


def _by_source(rows: pa.Table) -> dict[str, int]:
    return {source["values"]: source["counts"] for source in pc.value_counts(rows["source"]).to_pylist()}


def _sums(stored: pa.Table) -> dict[bytes, float]:
    return dict(zip(stored["pair"].to_pylist(), stored["sum"].to_pylist(), strict=True))
