"""Questions to a table in shards: each goes to the shard that knows the answer, and the answers go back to whoever asked.

No process holds more than one shard. Where there is only one, each task reads that itself, and nothing is shuffled.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyarrow as pa
from ray.data import Dataset

from operators.schema import conform
from pipeline.engine.job import mapped
from pipeline.retrieval.shards import Shards, in_shards

ASKER, SHARD = "asker", "shard"  # int64 columns of questions; answers keep the first


def answered(
    questions: Dataset, answer: Callable[..., pa.Table], schema: pa.Schema, askers: int, shards: Shards, **kwargs: Any
) -> Dataset:
    """The answers to tables of questions with the columns ASKER and SHARD, those of each asker in a block of its own.

    `answer(questions, shards, shard, **kwargs)` is given questions to one shard; `schema` is that of what it returns."""
    many = len(shards.sizes) > 1
    divided = in_shards(questions, SHARD, len(shards.sizes)) if many else questions
    kwargs = {"answer": answer, "schema": schema, "shards": shards, "kwargs": kwargs}
    answers = mapped(divided, _answer, fn_kwargs=kwargs)
    return in_shards(answers, ASKER, askers) if many else answers


def _answer(
    batch: pa.Table, *, answer: Callable[..., pa.Table], schema: pa.Schema, shards: Shards, kwargs: dict[str, Any]
) -> pa.Table:
    if not len(batch):
        return schema.empty_table()
    return conform(answer(batch, shards, batch[SHARD][0].as_py(), **kwargs), schema)
