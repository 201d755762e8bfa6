"""Stage 6a: the run's own score of each row, and the weight of its loss that follows from it.

A weight is min(exp(lambda x), clip) of the row's score x, divided by the mean of these over all rows that have a score
(section 3.4 of arXiv 2602.03103). Sums over rows are exact, so that it does not matter how these are divided; powers of two are
kept apart in them, since of scores of hundreds of nats every weight would round to nothing before it is divided by a mean that
does.

The rows are written anew with their weights: blocks of scoring, which may be hundreds of thousands, become parts as large as
those of the selection. All later passes read these, and so do readers of the run.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from ray.data import Dataset

from operators.schema import SCORED
from operators.scoring.scores import log_weights
from operators.selection import filter, moments
from operators.selection.exact_sum import Cells, add, log_of, sum_of_exps
from pipeline.config import Config
from pipeline.engine.job import Job, by_block, packed
from pipeline.engine.light_pass import light_pass
from pipeline.errors import BadRequest
from pipeline.selection.passes import ROWS_PER_FILE
from pipeline.selection.ranking import Moments
from pipeline.storage.parts import read_table, write_part
from pipeline.storage.records import BlockPart, record_table, records_of

BYTES_PER_PART = 32 << 20  # of Parquet, in a part of weighed rows, which has about ROWS_PER_FILE rows at most


@dataclass(frozen=True)
class Score:
    """The run's own score as tasks need it: its columns with the moments of a weighted sum, lambda, the clip."""

    score: str | dict[str, float]
    moments: Moments
    weight_scale: float
    weight_clip: float

    @property
    def names(self) -> list[str]:
        """The columns of the score."""
        return [self.score] if isinstance(self.score, str) else list(self.score)


@dataclass(frozen=True)
class ColumnMoments:
    """Of parts, the moments of each column of a weighted score, over rows that have all of them."""

    columns: list[moments.Moments]


@dataclass(frozen=True)
class Weights:
    """Of parts, their rows with a score, and the exact sum of these rows' weights."""

    rows: int
    sums: Cells


def weigh(job: Job, scored: list[BlockPart]) -> tuple[list[BlockPart], Moments]:
    """SCORED parts with the column `weight`, and the moments of the columns of a weighted score.

    Raises BadRequest where the score is a column of the rows' own in which no row has a number."""
    with job.reporter.stage("weigh", sum(record.part.rows for record in scored), "rows") as stage:
        names = job.config.select.score
        score = _score(job.config, {} if isinstance(names, str) else _moments(scored, list(names)))
        records = list(light_pass("weigh", Weights, scored, weights_of_parts, score=score))
        rows = sum(record.rows for record in records)
        _require_numbers(score, rows)
        sums = add(record.sums for record in records)
        settings = {"score": score, "log_mean": log_of(sums) - math.log(rows) if sums else 0.0, "work": job.work}
        weighed = []
        for record in light_pass("weigh", BlockPart, scored, weigh_parts, divided=_packs, **settings):
            weighed.append(record)
            stage.advance(record.part.rows)
    return by_block("weigh", weighed), score.moments


def _packs(scored: Sequence[BlockPart]) -> Dataset:
    """Parts that become one, so many together as are large enough."""
    return packed(scored, _size, BYTES_PER_PART)


def _size(scored: BlockPart) -> int:
    """Bytes of a part, or those that so many rows may have."""
    return max(scored.part.bytes, scored.part.rows * BYTES_PER_PART // ROWS_PER_FILE)


def _score(config: Config, known: Moments) -> Score:
    return Score(config.select.score, known, config.score.weight_scale, config.score.weight_clip)


def _require_numbers(score: Score, rows: int) -> None:
    """Raise BadRequest where no row has a score and a column of the rows' own is to blame."""
    own = [name for name in score.names if name not in SCORED.names]
    if own and not rows:
        raise BadRequest(
            f"select.score: no row has a number in {' and '.join(own)}; accepted: {', '.join(filter.SCORE_CHOICES)}, or a "
            "column of the rows that holds numbers"
        )


def _moments(scored: list[BlockPart], names: list[str]) -> Moments:
    """Mean and standard deviation of each column, rounded to 9 digits. One column alone is ordered as it is."""
    alone = len(names) == 1
    parts = [] if alone else list(light_pass("weigh", ColumnMoments, scored, moments_of_parts, names=names))
    return rounded_moments(names, parts)


def rounded_moments(names: list[str], records: list[ColumnMoments]) -> Moments:
    """The moments of a weighted score by the records of all parts; of one column alone none are needed."""
    if len(names) == 1:
        return {names[0]: (0.0, 1.0)}
    columns = {name: moments.merge(record.columns[place] for record in records) for place, name in enumerate(names)}
    return {name: (float(f"{column.mean:.9g}"), float(f"{column.deviation:.9g}")) for name, column in columns.items()}


def moments_of_parts(batch: pa.Table, *, names: list[str]) -> pa.Table:
    """A record of ColumnMoments."""
    columns = [moments.Moments() for _ in names]
    for scored in records_of(BlockPart, batch):
        table = read_table(scored.part.path, filter.needed_columns(set(names)))
        values = np.array([filter.numeric(table, name) for name in names])
        known = values[:, np.isfinite(values).all(axis=0)]
        columns = [
            moments.merge([before, moments.moments(column)]) for before, column in zip(columns, known, strict=True)
        ]
    return record_table([ColumnMoments(columns)])


def weights_of_parts(batch: pa.Table, *, score: Score) -> pa.Table:
    """A record of Weights."""
    rows, sums = 0, []
    for scored in records_of(BlockPart, batch):
        logs = _log_weights(read_table(scored.part.path, filter.needed_columns(set(score.names))), score)
        rows += int((~np.isnan(logs)).sum())
        sums.append(sum_of_exps(logs[np.isfinite(logs)]))
    return record_table([Weights(rows, add(sums))])


def weigh_parts(batch: pa.Table, *, score: Score, log_mean: float, work: str) -> pa.Table:
    """Write SCORED parts anew, as one, with the weight of each row."""
    scored = list(records_of(BlockPart, batch))
    table = pa.concat_tables(read_table(record.part.path) for record in scored)
    weights = np.exp(_log_weights(table, score) - log_mean)
    column = pa.array(np.nan_to_num(weights), pa.float64(), mask=np.isnan(weights))
    table = table.set_column(table.column_names.index("weight"), "weight", column)
    return record_table([BlockPart(scored[0].block, write_part(f"{work}/weighed", table, SCORED))])


def _log_weights(table: pa.Table, score: Score) -> np.ndarray:
    values = filter.score_of(table, score.score, score.moments)
    return log_weights(values, scale=score.weight_scale, clip=score.weight_clip)
