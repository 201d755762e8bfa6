"""How many rows have fewer alternatives than were asked for, where these were written: counted in what was scored."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import pyarrow as pa
import pyarrow.compute as pc

from operators.retrieval.instruction_table import has_input
from pipeline.engine.job import Job
from pipeline.engine.light_pass import light_pass
from pipeline.runs.manifest import AlternativesAccount
from pipeline.storage.parts import read_table
from pipeline.storage.records import BlockPart, WrittenInputs, record_table, records_of


@dataclass(frozen=True)
class RowCounts:
    """Rows of parts without an input, and rows with too few alternatives."""

    without_input: int
    short: int


def account_of(job: Job, written: WrittenInputs, scored: list[BlockPart]) -> AlternativesAccount:
    """The account of written alternatives, with what came of them in SCORED parts."""
    counted = list(light_pass("generate", RowCounts, scored, rows_of_parts, k=job.config.alternatives.k))
    return AlternativesAccount(
        **asdict(written),
        without_input=sum(counts.without_input for counts in counted),
        short=sum(counts.short for counts in counted),
    )


def rows_of_parts(batch: pa.Table, *, k: int) -> pa.Table:
    """RowCounts of SCORED parts together."""
    without, short = 0, 0
    for record in records_of(BlockPart, batch):
        table = read_table(record.part.path, ["input", "n_alternatives"])
        without += sum(not has_input(text) for text in table["input"].to_pylist())
        short += pc.sum(pc.less(table["n_alternatives"], k)).as_py() or 0
    return record_table([RowCounts(without, short)])
