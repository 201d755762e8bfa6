"""Stage 5b: encoded blocks become SCORED parts; and the same end for rows whose likelihoods are already known."""

from __future__ import annotations

import json
import time
from functools import cached_property
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from operators.encode import empty_context
from operators.likelihoods import Scoring
from operators.schema import LIKELIHOODS, REJECTED, SCORED, from_rows
from operators.tss import ScoreSettings, add_scores
from pipeline.admit import cached_encoder
from pipeline.encode import from_bytes
from pipeline.parts import Record, read_part, record_table, write_part

if TYPE_CHECKING:
    from operators.logprob import TargetScorer

BATCH_TOKENS = {"cpu": 4096, "cuda": 65536}


class ScoreBlock:
    """Actor: holds the model, turns each encoded block into one SCORED part.

    Rows of a block that an earlier round has scored are in `scored` of its record, and the new part holds them too.
    """

    def __init__(
        self,
        *,
        work: str,
        encoder: dict[str, Any],
        model: dict[str, Any],
        batch_tokens: int | str,
        score: dict[str, Any],
        seed: int,
        threshold: float | None,
        threads: int,
    ):
        self._work, self._score, self._threshold = work, ScoreSettings(**score), threshold
        self._seed = seed
        self._encoder, self._model, self._batch_tokens, self._threads = encoder, model, batch_tokens, threads

    @cached_property
    def _context(self) -> list[int]:
        return empty_context(cached_encoder(**self._encoder).tokenizer)

    @cached_property
    def _scorer(self) -> TargetScorer:
        # Made by the thread that scores, which is not the one that makes the actor: a second thread with a pool of OpenMP's
        # threads would leave more of them than cores, these then sleep between operations, and scoring takes 1.4 times as long.
        import torch

        from operators.logprob import TargetScorer
        from operators.models import load_model

        torch.set_num_threads(self._threads)
        model = load_model(**self._model)
        device = next(model.parameters()).device.type
        return TargetScorer(model, BATCH_TOKENS[device] if self._batch_tokens == "auto" else int(self._batch_tokens))

    def __call__(self, batch: pa.Table) -> pa.Table:
        return record_table(
            self._block(json.loads(item), from_bytes(encoded))
            for item, encoded in zip(batch["item"].to_pylist(), batch["encoded"].to_pylist(), strict=True)
        )

    def _block(self, part: Record, encoded: pa.Table) -> Record:
        began = time.monotonic()
        before = read_part(part["scored"]) if part["scored"] else SCORED.empty_table()
        seen = pc.index_in(encoded["id"], value_set=before["id"].combine_chunks())
        known = before.take(seen).select(LIKELIHOODS.names) if len(before) and not seen.null_count else None
        scoring = Scoring(encoded, self._context, self._scorer, known)
        if self._threshold is None:
            scoring.score_all()
        else:
            scoring.score_down_to(self._threshold, self._score)
        good = pa.array(scoring.finite(), pa.bool_())
        others = before.filter(pc.invert(pc.is_in(before["id"], value_set=encoded["id"].combine_chunks())))
        scored = pa.concat_tables([others, add_scores(scoring.table().filter(good), self._score, self._seed)])
        return {
            "block": part["block"],
            "scored": write_part(f"{self._work}/scored", scored, SCORED),
            "sources": sources_of(scored),
            **self._reject(encoded.filter(pc.invert(good))),
            "work": vars(scoring.work),
            "seconds": time.monotonic() - began,
        }

    def _reject(self, rows: pa.Table) -> Record:
        """Write a REJECTED part of rows whose likelihoods are no finite numbers."""
        detail = "the model gave a log-likelihood that is not a finite number; scorer.dtype: float32 may help"
        found = [
            {
                **{name: row[name] for name in ("source", "file", "line")},
                "raw": json.dumps({name: row[name] for name in ("instruction", "input", "output", "extra")}),
                "reason": "not_finite",
                "detail": detail,
            }
            for row in rows.select(["source", "file", "line", "instruction", "input", "output", "extra"]).to_pylist()
        ]
        parts = [write_part(f"{self._work}/rejected", from_rows(found, REJECTED), REJECTED)] if found else []
        reasons = {source: {"not_finite": number} for source, number in _count(rows["source"]).items()}
        return {"rejected": parts, "reasons": reasons}


def rescore_part(batch: pa.Table, *, work: str, score: dict[str, Any], seed: int) -> pa.Table:
    """SCORED parts anew from the likelihoods that other SCORED parts hold: no model is needed."""
    records = []
    for part in map(json.loads, batch["item"].to_pylist()):
        scored = add_scores(read_part(part, LIKELIHOODS.names), ScoreSettings(**score), seed)
        records.append(
            {
                "block": part["block"],
                "scored": write_part(f"{work}/scored", scored, SCORED),
                "sources": sources_of(scored),
            }
        )
    return record_table(records)


def sources_of(scored: pa.Table) -> dict[str, dict[str, int]]:
    """Per source: rows of a SCORED part, those without a score, and those of them that a bounded selection left."""
    unscored = _count(scored.filter(pc.is_null(scored["tss_pp"]))["source"])
    bounded = _count(scored.filter(pc.is_valid(scored["tss_pp_bound"]))["source"])
    return {
        source: {"scored": number, "unscored": unscored.get(source, 0), "bounded": bounded.get(source, 0)}
        for source, number in _count(scored["source"]).items()
    }


def _count(column: pa.ChunkedArray) -> dict[str, int]:
    return {item["values"]: item["counts"] for item in pc.value_counts(column).to_pylist()}
