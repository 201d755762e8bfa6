"""Stage 5: blocks of placed rows become SCORED parts; and the same end for rows whose likelihoods are already known."""

from __future__ import annotations

import json
import time
from collections import defaultdict
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from operators.alternatives import Query
from operators.likelihoods import Candidates, score_rows
from operators.schema import LIKELIHOODS, REJECTED, SCORED, from_rows
from operators.tss import add_scores, finite
from pipeline.admit import cached_encoder
from pipeline.parts import Record, read_part, record_table, write_part
from pipeline.retrieve import cached_pool
from pipeline.summary import EXTREMES, SAMPLE

BATCH_TOKENS = {"cpu": 4096, "cuda": 65536}


class ScoreBlock:
    """Actor: holds the model, turns each block of PLACED rows into one SCORED part."""

    def __init__(
        self,
        *,
        work: str,
        index: str,
        encoder: dict[str, Any],
        pool: dict[str, Any],
        model: dict[str, Any],
        batch_tokens: int | str,
        k: int,
        score: dict[str, Any],
        threads: int,
    ):
        import torch

        from operators.logprob import TargetScorer
        from operators.models import load_model

        torch.set_num_threads(threads)
        self._work, self._k, self._score = work, k, score
        self._pool = cached_pool(**pool)
        self._neighbours = pq.read_table(f"{index}/neighbours.parquet")
        self._encoder = cached_encoder(**encoder)
        loaded = load_model(**model)
        device = next(loaded.parameters()).device.type
        self._scorer = TargetScorer(loaded, BATCH_TOKENS[device] if batch_tokens == "auto" else int(batch_tokens))

    def __call__(self, batch: pa.Table) -> pa.Table:
        return record_table(self._block(json.loads(text)) for text in batch["item"].to_pylist())

    def _block(self, part: Record) -> Record:
        began = time.monotonic()
        placed = read_part(part)
        duplicates = placed.filter(placed["duplicate"])
        rows = placed.filter(pc.invert(placed["duplicate"]))
        likelihoods, work = score_rows(rows, self._candidates(rows), self._pool, self._encoder, self._scorer, self._k)
        good = finite(likelihoods)
        record = finish_rows(likelihoods.filter(pa.array(good)), self._work, self._score)
        return {
            **record,
            "block": part["block"],
            "duplicates": _count(duplicates["source"]),
            **self._reject(rows.filter(pa.array(~good))),
            "work": vars(work),
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
            for row in rows.to_pylist()
        ]
        parts = [write_part(f"{self._work}/rejected", from_rows(found, REJECTED), REJECTED)] if found else []
        reasons = {source: {"not_finite": number} for source, number in _count(rows["source"]).items()}
        return {"rejected": parts, "reasons": reasons}

    def _candidates(self, rows: pa.Table) -> list[Candidates]:
        found = []
        for number in rows["query_row"].to_pylist():
            row = self._neighbours.slice(number, 1).to_pylist()[0]
            query = Query(row["instruction_row"], row["has_input"], row["task"])
            found.append(
                Candidates(query, row["candidates"], row["similarities"], row["complete"], row["paraphrases_skipped"])
            )
        return found


def rescore_part(batch: pa.Table, *, work: str, score: dict[str, Any]) -> pa.Table:
    """SCORED parts anew from the likelihoods that other SCORED parts hold: no model is needed."""
    records = []
    for part in map(json.loads, batch["item"].to_pylist()):
        records.append({**finish_rows(read_part(part, LIKELIHOODS.names), work, score), "block": part["block"]})
    return record_table(records)


def finish_rows(likelihoods: pa.Table, work: str, score: dict[str, Any]) -> Record:
    """Add the scores, write the part, and record what the summary and the manifest need of it."""
    scored = add_scores(likelihoods, **score)
    by_source: dict[str, dict[str, int]] = defaultdict(dict)
    unscored = _count(scored.filter(pc.is_null(scored["tss_pp"]))["source"])
    for source, number in _count(scored["source"]).items():
        by_source[source] = {"scored": number, "unscored": unscored.get(source, 0)}
    known = scored.select(["id", "tss_pp", "instruction", "output"]).filter(pc.is_valid(scored["tss_pp"]))
    return {
        **write_part(f"{work}/scored", scored, SCORED),
        "sources": dict(by_source),
        "sample": _sample(known),
        "best": _extremes(known, "descending"),
        "worst": _extremes(known, "ascending"),
    }


def _count(column: pa.ChunkedArray) -> dict[str, int]:
    return {item["values"]: item["counts"] for item in pc.value_counts(column).to_pylist()}


def _sample(known: pa.Table) -> list[list]:
    smallest = known.select(["id", "tss_pp"]).sort_by("id").slice(0, SAMPLE)
    return [list(row) for row in zip(*(column.to_pylist() for column in smallest.columns), strict=True)]


def _extremes(known: pa.Table, direction: str) -> list[list]:
    rows = known.sort_by([("tss_pp", direction), ("id", "ascending")]).slice(0, EXTREMES).to_pylist()
    return [
        [row["tss_pp"], row["id"], " ".join(row["instruction"][:300].split()), " ".join(row["output"][:300].split())]
        for row in rows
    ]
