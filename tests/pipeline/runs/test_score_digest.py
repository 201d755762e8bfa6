"""What the summary shows of the scores: the sample of the smallest ids, of which tasks send hardly more than is kept."""

import hashlib
import json
import types

import pyarrow as pa
import pytest

from pipeline.engine.progress import Reporter
from pipeline.runs import score_digest
from pipeline.runs.score_digest import Digest, PartDigest, digest_part
from pipeline.storage.parts import write_table
from pipeline.storage.records import BlockPart, from_json, to_json


@pytest.fixture
def parts(tmp_path):
    """Ten parts of a thousand rows."""
    records = []
    for block in range(10):
        ids = [hashlib.blake2b(f"{block} {row}".encode(), digest_size=16).hexdigest() for row in range(1000)]
        scores = [None if row % 50 == 0 else float(row) for row in range(1000)]
        table = pa.table({"id": ids, "tss_pp": scores, "instruction": ["Copy."] * 1000, "output": ["a"] * 1000})
        records.append(BlockPart(block, write_table(str(tmp_path / f"{block}.parquet"), table)))
    return records


def digested(parts, share):
    records = digest_part(pa.table({"item": [to_json(part) for part in parts]}), share=share)["record"].to_pylist()
    return [from_json(PartDigest, record) for record in records]


def test_rows_without_a_score_take_no_place_in_the_sample(parts, monkeypatch):
    monkeypatch.setattr(score_digest, "SAMPLE", 2000)
    shares = []
    monkeypatch.setattr(score_digest, "over_parts", lambda parts, function, *, share: shares.append(share))
    monkeypatch.setattr(score_digest, "stream", lambda *given: digested(parts, shares[-1]))
    monkeypatch.setattr(score_digest, "_SENT", 2200)
    job = types.SimpleNamespace(reporter=Reporter(quiet=True))
    assert len(score_digest.digest_scores(job, parts, with_score=9800).sample) == 2000
    assert shares == [2200 / 9800]


def test_tasks_send_no_more_than_a_sample_and_it_is_that_of_all_rows(parts, monkeypatch):
    monkeypatch.setattr(score_digest, "SAMPLE", 100)
    few, everything = Digest(), Digest()
    sent = digested(parts, 200 / 10_000)
    assert sum(len(part.sample) for part in sent) < 300
    for part, whole in zip(sent, digested(parts, 1.0), strict=True):
        few.take(part)
        everything.take(whole)
    assert few.sample == everything.sample and len(few.sample) == 100
    assert json.dumps(few.shown()) == json.dumps(everything.shown())
