"""What the summary shows of the scores: the sample of the smallest ids, of which tasks send hardly more than is kept."""

import hashlib
import random
import types

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.engine.progress import Reporter
from pipeline.runs import score_digest
from pipeline.runs.score_digest import Digest, digest_parts, joined
from pipeline.storage.parts import read_table, write_table
from pipeline.storage.records import BlockPart, from_json, to_json


@pytest.fixture
def parts(tmp_path):
    """Ten parts of a thousand rows."""
    records = []
    for block in range(10):
        ids = [hashlib.blake2b(f"{block} {row}".encode(), digest_size=16).hexdigest() for row in range(1000)]
        scores = [None if row % 50 == 0 else float(row) for row in range(1000)]
        table = pa.table(
            {
                "id": ids,
                "tss_pp": scores,
                "instruction": [f"Copy {row}." for row in range(1000)],
                "output": ["a"] * 1000,
            }
        )
        records.append(BlockPart(block, write_table(str(tmp_path / f"{block}.parquet"), table)))
    return records


def digested(parts, share, together=1):
    """A digest of each task that has so many parts."""
    groups = [parts[start : start + together] for start in range(0, len(parts), together)]
    batches = [pa.table({"item": [to_json(part) for part in group]}) for group in groups]
    return [from_json(Digest, digest_parts(batch, share=share)["record"][0].as_py()) for batch in batches]


def shown(parts, with_score, monkeypatch):
    """What the summary shows, and of which share of the rows tasks sent a sample."""
    shares = []

    def light_pass(stage, kind, parts, function, *, share):
        shares.append(share)
        return digested(parts, share)

    monkeypatch.setattr(score_digest, "light_pass", light_pass)
    monkeypatch.setattr(score_digest, "once", lambda stage, function, *given: function(*given))
    job = types.SimpleNamespace(reporter=Reporter(quiet=True))
    return score_digest.digest_scores(job, parts, with_score), shares


def test_rows_without_a_score_take_no_place_in_the_sample(parts, monkeypatch):
    monkeypatch.setattr(score_digest, "SAMPLE", 2000)
    scores, shares = shown(parts, 9800, monkeypatch)
    assert scores["from"] == 2000 and shares == [2264 / 9800]


def test_tasks_send_no_more_than_a_sample_and_it_is_that_of_all_rows(parts, monkeypatch):
    monkeypatch.setattr(score_digest, "SAMPLE", 100)
    sent = digested(parts, 200 / 10_000)
    assert sum(len(digest.sample) for digest in sent) < 300
    assert joined(sent) == joined(digested(parts, 1.0)) and len(joined(sent).sample) == 100


@given(st.integers(1, 10), st.integers(1, 10), st.integers(0, 99).map(random.Random))
@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_it_does_not_matter_how_parts_are_divided_into_tasks(parts, together, again, rng):
    digests = digested(parts, 0.05, together)
    rng.shuffle(digests)
    assert joined([joined(digests[:again]), *digests[again:]]) == joined(digested(parts, 0.05))


def test_the_extremes_are_those_of_all_rows_with_their_texts(parts, monkeypatch):
    scores, _ = shown(parts, 9800, monkeypatch)
    rows = [row for part in parts for row in read_table(part.part.path).to_pylist() if row["tss_pp"] is not None]
    best = sorted(rows, key=lambda row: (-row["tss_pp"], row["id"]))[:5]
    worst = sorted(rows, key=lambda row: (row["tss_pp"], row["id"]))[:5]
    for name, expected in (("best", best), ("worst", worst)):
        assert scores[name] == [(row["tss_pp"], row["id"], row["instruction"], row["output"]) for row in expected]
    assert scores["tss_pp"] == pytest.approx(np.quantile([row["tss_pp"] for row in rows], score_digest.QUANTILES))
