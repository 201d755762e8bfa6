"""Caps: the cuts that a block reads are those of its own groups, and they leave the best rows of each group of all blocks."""

from dataclasses import asdict

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from operators.selection.ranking_key import order_of
from pipeline.selection import passes
from pipeline.selection.ranking import GROUP_CUTS, Ranking, block_path
from pipeline.storage.parts import read_table

ROWS = st.lists(st.tuples(st.integers(0, 3), st.sampled_from("abc"), st.integers(-3, 3)), min_size=1, max_size=30)


@given(ROWS, st.integers(1, 4))
def test_each_block_gets_the_cut_of_each_of_its_groups(tmp_path_factory, rows, n):
    folder = str(tmp_path_factory.mktemp("caps"))
    orders = order_of([float(score) for _, _, score in rows]).tolist()
    table = pa.Table.from_pylist(
        [
            {"block": block, "group": group, "order": order, "id": f"{number:032x}"}
            for number, ((block, group, _), order) in enumerate(zip(rows, orders, strict=True))
        ],
        schema=GROUP_CUTS,
    )
    passes.write_cuts(passes.cuts_of_groups(table, n=n), folder=folder)
    admitted = 0
    for block in {block for block, _, _ in rows}:
        cuts = {cut["group"]: cut for cut in read_table(block_path(folder, block)).to_pylist()}
        assert set(cuts) == {group for other, group, _ in rows if other == block}
        for row in table.to_pylist():
            if row["block"] == block:
                cut = cuts[row["group"]]
                admitted += cut["order"] is None or (row["order"], row["id"]) <= (cut["order"], cut["id"])
    sizes = [sum(group == name for _, group, _ in rows) for name in "abc"]
    assert admitted == sum(min(size, n) for size in sizes)


def test_a_ranking_travels_to_tasks():
    ranking = Ranking(
        {"ppl": -1.0}, {"ppl": (1.0, 2.0)}, "total", "ppl < 3", [("task", "folder")], "source", ["=a"], 0.5
    )
    assert Ranking(**asdict(ranking)) == ranking
