"""What the store knows of the pairs of blocks, and what has changed between two runs: the slow twins say the same."""

import json

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st
from reference import changes as slow_changes
from reference import recalled as slow_recalled

from operators.schema import STORED
from pipeline.runs import changes
from pipeline.scoring import recall

KEYS = st.sampled_from([bytes([i]) * 16 for i in range(5)])
MEETING = pa.schema([*STORED, pa.field("run", pa.string()), pa.field("block", pa.int64())])


@given(
    st.lists(st.tuples(KEYS, KEYS, st.sampled_from("abc"), st.floats(-9, 0)), max_size=20),
    st.sets(st.tuples(KEYS, st.integers(0, 3)), max_size=10),
)
def test_blocks_find_the_newest_of_what_is_stored_for_their_groups(stored, asked):
    stored = list({(group, pair, run): (group, pair, run, total) for group, pair, run, total in stored}.values())
    rows = [{"group": g, "pair": p, "run": r, "sum": s, "tokens": 1, "block": None} for g, p, r, s in stored]
    rows += [{"group": g, "block": b, "pair": None, "run": None, "sum": None, "tokens": None} for g, b in asked]
    found = recall.meet(pa.Table.from_pylist(rows, schema=MEETING)).to_pylist()
    got = sorted((row["block"], row["pair"], row["sum"]) for row in found)
    assert got == sorted(slow_recalled(stored, asked))


IDS = st.dictionaries(st.sampled_from("abcdef"), st.integers(0, 3))


@given(IDS, IDS)
def test_changes_are_those_of_sets(before, now):
    rows = [
        {"id": one, "after": after, "rank": rank}
        for after, side in ((False, before), (True, now))
        for one, rank in side.items()
    ]
    schema = pa.schema([pa.field("id", pa.string()), pa.field("after", pa.bool_()), pa.field("rank", pa.int64())])
    found = changes.count_changes(pa.Table.from_pylist(rows, schema=schema))
    counts = (
        json.loads(found["record"][0].as_py())
        if len(found)
        else dict.fromkeys(["entered", "left", "stayed", "moved"], 0)
    )
    assert counts == slow_changes(before, now)
