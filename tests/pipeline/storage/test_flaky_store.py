"""An object store whose connections break off, or that answers late: whole objects or errors, and no move is lost."""

import gzip
import json
import os
import random

import pyarrow as pa
import pytest
from flaky_proxy import proxied

from pipeline.errors import RunFailed
from pipeline.reading.chunks import Chunk
from pipeline.reading.readers import read_chunk
from pipeline.storage import files
from pipeline.storage.parts import read_table, read_whole, write_table
from pipeline.storage.pointer import move_pointer
from pipeline.storage.whole_file import BrokenOff

pytestmark = pytest.mark.ray  # a server
OUTPUT = "s3://bucket/flaky"


@pytest.fixture
def proxy(object_store, monkeypatch):
    """The store, reached through a proxy."""
    with proxied(os.environ["AWS_ENDPOINT_URL"]) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        yield proxy


def directly(object_store, path):
    with object_store.open_input_file(path.removeprefix("s3://")) as file:
        return file.read()


def test_an_object_is_whole_or_what_it_was(proxy, object_store):
    proxy.share = 0.3
    rng, failed = random.Random(1), 0
    for number in range(25):
        url, data = f"{OUTPUT}/{number % 5}.bin", rng.randbytes(rng.choice([10, 5_000, 200_000]))
        try:
            before = directly(object_store, url)
        except OSError:
            before = None
        try:
            files.write(url, data)
            assert directly(object_store, url) == data
        except (OSError, pa.ArrowException):
            failed += 1
            after = None if before is None else directly(object_store, url)
            assert after in (before, data)
    assert proxy.cut > 3 and failed < 20


def test_what_is_read_is_whole(proxy, object_store):
    data = random.Random(2).randbytes(300_000)
    files.write(f"{OUTPUT}/whole.bin", data)
    proxy.share = 0.3
    for _ in range(15):
        try:
            assert files.read(f"{OUTPUT}/whole.bin") == data
        except (OSError, pa.ArrowException):
            assert proxy.cut


def test_a_part_is_read_or_not_there_now_and_never_taken_for_damaged(proxy):
    path, rows = (
        f"{OUTPUT}/part.parquet",
        pa.table({"n": range(40_000), "text": [f"row {n * 7919}" for n in range(40_000)]}),
    )
    part = write_table(path, rows)
    proxy.share = 0.4
    for _ in range(10):
        for read in (lambda: read_table(path), lambda: read_whole(part)):
            try:
                assert read().equals(rows)
            except BrokenOff:
                assert proxy.cut


@pytest.mark.parametrize("kind", ["jsonl", "json", "parquet", "csv", "packed"])
def test_a_corpus_is_read_to_its_end_or_not(proxy, object_store, kind):
    """What breaks off must not look like the end of a file: its rows would be missing, and nobody would know."""
    rows = [{"instruction": f"Say {n}.", "output": f"{n * 7919}" * 20} for n in range(2_000)]
    url, size = f"{OUTPUT}/corpus.{kind}", 0
    if kind == "parquet":
        size = write_table(url, pa.Table.from_pylist(rows)).bytes
    else:
        lines = "\n".join(map(json.dumps, rows))
        header = "instruction,output\n" + "\n".join(f"{row['instruction']},{row['output']}" for row in rows) + "\n"
        text = {"json": json.dumps(rows), "csv": header}.get(kind, lines).encode()
        data = gzip.compress(text) if kind == "packed" else text
        files.write(url, data)
        size = len(data)
    packed = ("jsonl", "gzip") if kind == "packed" else (kind, None)
    chunk = Chunk(url, *packed, "s", None, 0, 0, size, stop=1 if kind == "parquet" else -1)
    proxy.share = 0.4
    whole = 0
    for _ in range(8):
        try:
            assert [unread.read().record for unread in read_chunk(chunk)] == rows
            whole += 1
        except BrokenOff:
            assert proxy.cut
    assert whole


def test_the_pointer_counts_every_move_that_was_made(proxy, object_store):
    """A move whose answer was lost is done, and its request, sent again, is no conflict with itself."""
    output = f"{OUTPUT}/moves"
    move_pointer(output, "runs/0", lambda: None)
    proxy.share = 0.3
    before = 1
    for number in range(1, 15):
        try:
            move_pointer(output, f"runs/{number}", lambda: None)
            moved = True
        except (OSError, RunFailed):
            moved = False
        current = json.loads(directly(object_store, f"{output}/latest.json"))
        assert current["fence"] == before + (current["run"] == f"runs/{number}")
        assert current["run"] == f"runs/{number}" or not moved
        before = current["fence"]
    assert proxy.cut > 3 and before > 5


def test_late_answers_are_waited_for(proxy, object_store):
    proxy.delay = 0.1
    files.write(f"{OUTPUT}/late.bin", b"late")
    assert files.read(f"{OUTPUT}/late.bin") == b"late"
    assert move_pointer(f"{OUTPUT}/late", "runs/a", lambda: None) is None
