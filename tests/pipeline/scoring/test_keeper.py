"""Finished pairs are written: the first ones at once, then every so often, and all at the end."""

import pyarrow as pa

from operators.schema import STORED
from pipeline.scoring.score_block import _Keeper
from pipeline.storage import computed


def pairs(*digests):
    rows = [{"pair": digest * 16, "group": b"g" * 16, "tokens": 3, "sum": -1.0} for digest in digests]
    return pa.Table.from_pylist(rows, schema=STORED) if rows else STORED.empty_table()


def test_the_first_pairs_are_written_at_once(tmp_path):
    folder = str(tmp_path / "likelihoods" / "f" / "run" / "block-000000" / "all")
    keeper = _Keeper(folder, every=3600)
    keeper.take(pairs(b"a"))
    assert computed.pairs_of(path for path, _ in computed.parts(folder)) == 1
    keeper.take(pairs(b"b", b"c"))
    assert len(computed.parts(folder)) == 1
    keeper.write()
    assert computed.pairs_of(path for path, _ in computed.parts(folder)) == 3
