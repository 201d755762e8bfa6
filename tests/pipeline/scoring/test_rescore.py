"""Scored parts of earlier releases open still: what they have not written is null."""

import pyarrow as pa
from small_runs import settings

from operators.schema import SCORED, from_rows
from pipeline.scoring.rescore import rescore_part
from pipeline.storage.parts import read_table, write_table
from pipeline.storage.records import BlockPart, records_of, to_json

LATER = ("file", "line", "messages", "conversation", "turn")  # columns that early releases did not write


def test_a_part_without_later_columns_is_scored_anew_with_nulls(tmp_path):
    likelihoods = {
        **dict.fromkeys(("n_prompt_tokens", "n_target_tokens", "n_alternatives"), 1),
        **dict.fromkeys(("loglik_sum", "loglik_mean", "loglik_empty_mean"), -1.0),
        "alternatives": [{"instruction": "a", "similarity": 0.5, "loglik_mean": -2.0}],
    }
    row = {"id": "0" * 32, "source": "s", "instruction": "I", "input": "", "output": "Y", "extra": "{}", **likelihoods}
    old = from_rows([row], SCORED)
    score = settings(tmp_path, ["a"], "m").score.model_dump()
    for name, table in (("new", old), ("old", old.drop_columns(list(LATER)))):
        part = write_table(str(tmp_path / f"{name}.parquet"), table)
        batch = pa.table({"item": [to_json(BlockPart(3, part))]})
        (record,) = records_of(BlockPart, rescore_part(batch, work=str(tmp_path), score=score, seed=0), "record")
        scored = read_table(record.part.path)
        assert scored.schema.equals(SCORED) and scored["tss"].to_pylist() == [1.0]
        assert [scored[name].to_pylist() for name in LATER] == [[None]] * len(LATER)
