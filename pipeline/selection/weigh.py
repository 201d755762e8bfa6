"""Stage 6a: the run's own score of each row, and the weight of its loss that follows from it.

A weight is min(exp(lambda x), clip) of the row's score x, divided by the mean of these over all rows that have a score
(section 3.4 of arXiv 2602.03103). The mean is gathered as a logarithm: of scores of hundreds of nats every weight would
round to nothing before it is divided by a mean that does.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from operators.schema import SCORED
from operators.scoring.scores import log_sum_exp, log_weights
from operators.selection import filter, moments
from pipeline.config import Config
from pipeline.engine.job import Job, by_block, execute, over_parts
from pipeline.errors import BadRequest
from pipeline.selection.ranking import Moments
from pipeline.storage.parts import read_table, write_part
from pipeline.storage.records import BlockPart, record_table, records_of


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
class PartMoments:
    """Of a part, the moments of each column of a weighted score, over rows that have all of them."""

    columns: list[moments.Moments]


@dataclass(frozen=True)
class PartWeights:
    """Of a part, its rows with a score, and the log of the sum of their weights; null where that is nothing."""

    rows: int
    log_sum: float | None


def weigh(job: Job, scored: list[BlockPart]) -> tuple[list[BlockPart], Moments]:
    """SCORED parts with the column `weight`, and the moments of the columns of a weighted score.

    Raises BadRequest where the score is a column of the rows' own in which no row has a number."""
    with job.reporter.stage("weigh", 2 * len(scored)) as stage:
        names = job.config.select.score
        score = _score(job.config, {} if isinstance(names, str) else _moments(scored, list(names)))
        parts = execute(
            "weigh", PartWeights, over_parts(scored, weights_of_part, score=score), lambda _: stage.advance()
        )
        rows = sum(part.rows for part in parts)
        _require_numbers(score, rows)
        sums = np.array([part.log_sum for part in parts if part.log_sum is not None])
        # Rounded, so that the order in which parts are added, which moves the last bits of a float, moves no weight.
        log_mean = float(f"{float(log_sum_exp(sums)) - math.log(max(1, rows)):.12g}") if len(sums) else 0.0
        dataset = over_parts(scored, weigh_part, score=score, log_mean=log_mean, work=job.work)
        weighed = by_block("weigh", execute("weigh", BlockPart, dataset, lambda _: stage.advance()))
    return weighed, score.moments


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
    """Mean and standard deviation of each column. Rounded to 9 digits, so that the order in which parts were merged, which
    moves the last bits of a float, cannot move a selection. One column alone is ordered as it is."""
    if len(names) == 1:
        return {names[0]: (0.0, 1.0)}
    parts = execute("weigh", PartMoments, over_parts(scored, moments_of_part, names=names))
    columns = {name: moments.merge(part.columns[place] for part in parts) for place, name in enumerate(names)}
    return {name: (float(f"{column.mean:.9g}"), float(f"{column.deviation:.9g}")) for name, column in columns.items()}


def moments_of_part(batch: pa.Table, *, names: list[str]) -> pa.Table:
    """Records of PartMoments."""
    records = []
    for scored in records_of(BlockPart, batch):
        table = read_table(scored.part.path, filter.needed_columns(set(names)))
        values = np.array([filter.numeric(table, name) for name in names])
        records.append(PartMoments([moments.moments(column) for column in values[:, np.isfinite(values).all(axis=0)]]))
    return record_table(records)


def weights_of_part(batch: pa.Table, *, score: Score) -> pa.Table:
    """Records of PartWeights."""
    records = []
    for scored in records_of(BlockPart, batch):
        logs = _log_weights(read_table(scored.part.path, filter.needed_columns(set(score.names))), score)
        known = logs[~np.isnan(logs)]
        log_sum = float(log_sum_exp(known))
        records.append(PartWeights(len(known), log_sum if math.isfinite(log_sum) else None))
    return record_table(records)


def weigh_part(batch: pa.Table, *, score: Score, log_mean: float, work: str) -> pa.Table:
    """Write SCORED parts anew with the weight of each row."""
    records = []
    for scored in records_of(BlockPart, batch):
        table = read_table(scored.part.path)
        weights = np.exp(_log_weights(table, score) - log_mean)
        column = pa.array(np.nan_to_num(weights), pa.float64(), mask=np.isnan(weights))
        table = table.set_column(table.column_names.index("weight"), "weight", column)
        records.append(BlockPart(scored.block, write_part(f"{work}/weighed", table, SCORED)))
    return record_table(records)


def _log_weights(table: pa.Table, score: Score) -> np.ndarray:
    values = filter.score_of(table, score.score, score.moments)
    return log_weights(values, scale=score.weight_scale, clip=score.weight_clip)
