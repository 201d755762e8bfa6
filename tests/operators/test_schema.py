"""Rows of earlier releases."""

import pyarrow as pa

from operators.schema import ALTERNATIVE, with_origins


def test_alternatives_of_a_release_that_only_retrieved_them_are_retrieved():
    older = pa.struct([field for field in ALTERNATIVE if field.name != "origin"])
    rows = [[{"instruction": "a", "similarity": 0.5, "loglik_mean": None}], [], None]
    table = pa.table({"id": ["1", "2", "3"], "alternatives": pa.array(rows, pa.list_(older)), "tss": [0.0, 1.0, 2.0]})
    upgraded = with_origins(table)
    assert upgraded.column_names == table.column_names and upgraded["alternatives"].type == pa.list_(ALTERNATIVE)
    alternative = {"instruction": "a", "origin": "retrieved", "similarity": 0.5, "loglik_mean": None}
    assert upgraded["alternatives"].to_pylist() == [[alternative], [], None]
    assert with_origins(upgraded) is upgraded
