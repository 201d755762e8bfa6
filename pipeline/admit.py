"""Stage 1: every row of every input is admitted with its token counts, or rejected with a reason."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import pyarrow as pa

from operators.alternatives import instruction_key
from operators.encode import Encoder
from operators.lengths import measure
from operators.normalise import Example, Rejection, normalise
from operators.schema import ADMITTED, REJECTED, from_rows
from operators.template import load_template
from operators.text import content_hash, first_line
from pipeline.parts import Record, record_table, write_part
from pipeline.read import RawRow, count_lines, read_chunk
from pipeline.sources import Chunk

ROWS_AT_ONCE = 2000
PART_CHARS = 32_000_000  # a part is written when its text is this long, so memory does not grow with a file
KNOWN_KEYS_KEPT = 1000
SHOWN_REJECTED = 3  # rejected rows named where there are too many


@lru_cache(maxsize=1)
def cached_encoder(
    model: str,
    trust_remote_code: bool,
    template: str,
    template_text: str,
    append_eos: bool,
    max_length: int,
    vocab_size: int | None,
) -> Encoder:
    """The encoder of this worker process; tasks that follow each other share it."""
    from operators.models import load_tokenizer  # brings torch, which processes that encode nothing should not wait for

    tokenizer = load_tokenizer(model, trust_remote_code=trust_remote_code)
    # The text that the driver read is what counts: a template file need not exist on this machine.
    return Encoder(tokenizer, load_template(template, tokenizer, template_text), append_eos, max_length, vocab_size)


def count_chunk(batch: pa.Table) -> pa.Table:
    """Records with the lines that begin in each chunk."""
    chunks = [Chunk(**json.loads(text)) for text in batch["item"].to_pylist()]
    return record_table(
        {"index": [chunk.input_index, chunk.file_index, chunk.start], "lines": count_lines(chunk)} for chunk in chunks
    )


def admit_chunk(batch: pa.Table, *, work: str, encoder: dict[str, Any], too_long: str) -> pa.Table:
    """Read chunks, write ADMITTED and REJECTED parts, return a record for each chunk."""
    return record_table(
        _admit(Chunk(**json.loads(text)), work, cached_encoder(**encoder), too_long)
        for text in batch["item"].to_pylist()
    )


def _admit(chunk: Chunk, work: str, encoder: Encoder, too_long: str) -> Record:
    output = _Output(work, chunk)
    waiting: list[RawRow] = []
    chars = 0
    for row in _rows(chunk):
        waiting.append(row)
        chars += len(row.raw)
        if len(waiting) == ROWS_AT_ONCE or chars > PART_CHARS:
            output.take(waiting, encoder, too_long)
            waiting, chars = [], 0
    output.take(waiting, encoder, too_long)
    return output.finish()


def _rows(chunk: Chunk) -> Iterator[RawRow]:
    try:
        yield from read_chunk(chunk)
    except (OSError, EOFError, pa.ArrowException) as error:
        reason = first_line(error)
        raise UnreadableFile(f"{chunk.uri} cannot be read to its end: {reason}") from error


class UnreadableFile(RuntimeError):
    """A file that ends or breaks in the middle: what else it holds is unknown, so no run is published without it."""


class _Output:
    """The growing parts of one chunk and its counts."""

    def __init__(self, work: str, chunk: Chunk):
        self._work, self._chunk = work, chunk
        self._admitted: list[dict] = []
        self._rejected: list[dict] = []
        self._chars = 0
        self._record: Record = {"source": chunk.source, "read": 0, "admitted": [], "rejected": [], "first_rejected": []}
        self._reasons: Counter[str] = Counter()
        self._keys: set[str] = set()

    def take(self, rows: list[RawRow], encoder: Encoder, too_long: str) -> None:
        self._record["read"] += len(rows)
        examples: list[tuple[RawRow, Example]] = []
        for row in rows:
            try:
                if row.problem is not None:
                    raise row.problem
                examples.append((row, normalise(row.record, self._chunk.columns)))
            except Rejection as rejection:
                self._reject(row, rejection)
        for (row, example), measured in zip(
            examples, measure([e for _, e in examples], encoder, too_long=too_long), strict=True
        ):
            if isinstance(measured, Rejection):
                self._reject(row, measured)
            else:
                self._admit(row, example, vars(measured))
        if self._chars > PART_CHARS:
            self._flush()

    def _admit(self, row: RawRow, example: Example, measured: dict[str, int]) -> None:
        self._keys.update(json.loads(example.extra))
        self._chars += len(example.instruction) + len(example.input) + len(example.output) + len(example.extra)
        self._admitted.append(
            {
                "id": content_hash(example.instruction, example.input, example.output).hex(),
                "source": self._chunk.source,
                **vars(example),
                **measured,
                "file": self._chunk.uri,
                "input_index": self._chunk.input_index,
                "file_index": self._chunk.file_index,
                "line": row.line,
                "instruction_key": instruction_key(example.instruction),
                "pair_key": content_hash(example.input, example.output),
            }
        )

    def _reject(self, row: RawRow, rejection: Rejection) -> None:
        self._reasons[rejection.reason] += 1
        if len(self._record["first_rejected"]) < SHOWN_REJECTED:
            self._record["first_rejected"].append(
                f"{self._chunk.uri}:{row.line}: {rejection.reason}, {rejection.detail[:100]}"
            )
        self._chars += len(row.raw)
        # Parquet text is UTF-8: what cannot be encoded is shown as an escape.
        self._rejected.append(
            {
                key: value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value
                for key, value in {
                    "source": self._chunk.source,
                    "file": self._chunk.uri,
                    "line": row.line,
                    "raw": row.raw,
                    "reason": rejection.reason,
                    "detail": rejection.detail,
                }.items()
            }
        )

    def _flush(self) -> None:
        if self._admitted:
            self._record["admitted"].append(
                write_part(f"{self._work}/admitted", from_rows(self._admitted, ADMITTED), ADMITTED)
            )
        if self._rejected:
            self._record["rejected"].append(
                write_part(f"{self._work}/rejected", from_rows(self._rejected, REJECTED), REJECTED)
            )
        self._admitted, self._rejected, self._chars = [], [], 0

    def finish(self) -> Record:
        self._flush()
        return {**self._record, "reasons": dict(self._reasons), "keys": sorted(self._keys)[:KNOWN_KEYS_KEPT]}
