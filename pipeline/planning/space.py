"""Memory of the stages of a run, and what it leaves on the disk."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from operators.hashing import content_hash
from operators.model_files import BUT_WEIGHTS, folder_of
from operators.retrieval.embedder import LEXICAL
from operators.schema import EMBEDDINGS, RETRIEVED, SCORED, STORED, from_rows
from operators.scoring.outline import Outline
from operators.scoring.score_rows import pair_digest
from pipeline.planning.encoded import EncodedRow
from pipeline.planning.record import Space
from pipeline.planning.work import Worked
from pipeline.retrieval.blocks import BLOCK_TOKENS
from pipeline.retrieval.shards import SHARD_ROWS
from pipeline.storage.parts import to_parquet

PROCESS = 450 << 20  # of a process that has loaded the libraries (tests/benchmarks/RESULTS.md)
PARTS = 160 << 20  # rows of a part while they are read: their text, and as a table
SIMILARITIES = 240 << 20  # of instructions that are compared at once
SHUFFLE = 256 << 20  # rows on their way to their blocks
ID_BYTES = 24  # of a token of a block: as it arrives, as it is laid out, and as it is sorted
DIMENSIONS = {LEXICAL: 512}
OTHER_DIMENSIONS = 384  # of an embedder whose configuration does not say
_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


@dataclass(frozen=True)
class Amounts:
    """How much there will be: rows, pairs to compute, distinct instructions."""

    rows: float
    pairs: float
    instructions: float


def space_of(
    amounts: Amounts, worked: Worked, outline: Outline, dtype: str, batch_tokens: int, embedder: str, version: str
) -> Space:
    """Memory of one process of each stage, and bytes of the output."""
    dimensions = dimensions_of(embedder, version)
    texts = [len(text.encode("utf-8", "replace")) for row in worked.rows for text in row.alternatives]
    shard = min(amounts.instructions, SHARD_ROWS)  # no process holds more of the instructions
    table = shard * (2 * (np.mean(texts) if texts else 100) + 300)
    vectors = shard * dimensions * 4
    scored, pair = bytes_on_disk(worked.rows)
    memory = {
        "read": PROCESS + PARTS,
        "embed": PROCESS + vectors + table,
        "neighbours": PROCESS + vectors + table + SIMILARITIES,
        "place": PROCESS + SHUFFLE,
        "score": PROCESS
        + outline.parameters * _BYTES.get(dtype, 0)  # none behind a server
        + batch_tokens * outline.token_bytes * _BYTES.get(dtype, 0) / 4
        + BLOCK_TOKENS * ID_BYTES,
    }
    disk = {
        "scored": amounts.rows * scored,
        "likelihoods": amounts.pairs * pair,
        "embeddings": amounts.instructions * bytes_of_embedding(worked.vectors, embedder, dimensions),
    }
    return Space(
        {name: round(size) for name, size in memory.items()}, {name: round(size) for name, size in disk.items()}
    )


def dimensions_of(embedder: str, version: str) -> int:
    """The length of an embedding, as far as files that are here say it."""
    if embedder in DIMENSIONS:
        return DIMENSIONS[embedder]
    try:
        config: dict[str, Any] = json.loads(Path(folder_of(embedder, version, BUT_WEIGHTS), "config.json").read_text())
        return int(config["hidden_size"])
    except (OSError, ValueError, KeyError, TypeError):
        return OTHER_DIMENSIONS


def bytes_of_embedding(vectors_PD: np.ndarray, embedder: str, dimensions: int) -> float:
    """Bytes of an embedding in the store."""
    if embedder != LEXICAL or not len(vectors_PD):
        return 4.0 * dimensions + 16
    some = vectors_PD[:1000]
    rows = pa.table({"key": [content_hash(str(row)) for row in range(len(some))], "embedding": list(some)})
    return int(to_parquet(rows.cast(EMBEDDINGS)).size) / len(some)


def bytes_on_disk(rows: list[EncodedRow]) -> tuple[float, float]:
    """Bytes of a row in `scored/` and of a pair in `likelihoods/`: rows that were worked through, written as a run writes them,
    with random numbers in place of likelihoods."""
    rng = np.random.default_rng(0)
    scored = from_rows([_scored(row, rng) for row in rows], SCORED)
    stored = from_rows(
        [
            {
                "group": row.row.pair,
                "pair": pair_digest(prompt, row.target),
                "tokens": len(row.target),
                "sum": rng.normal(),
            }
            for row in rows
            for prompt in row.prompts
        ],
        STORED,
    ).sort_by([("group", "ascending"), ("pair", "ascending")])
    return to_parquet(scored).size / max(1, len(scored)), to_parquet(stored).size / max(1, len(stored))


def _scored(row: EncodedRow, rng: np.random.Generator) -> dict[str, Any]:
    """A SCORED row with random numbers."""
    numbers = {field.name: float(rng.normal()) for field in SCORED if pa.types.is_floating(field.type)}
    alternatives = [
        {
            "instruction": text,
            "origin": RETRIEVED,
            "similarity": float(np.float32(rng.random())),
            "loglik_mean": rng.normal(),
        }
        for text in row.alternatives
    ]
    return {
        **{field.name: None for field in SCORED},
        **numbers,
        **{name: value for name, value in vars(row.row.example).items() if name in SCORED.names},
        "id": row.row.id.hex(),
        "source": "source",
        "file": "file",
        "line": int(rng.integers(1 << 20)),
        "n_prompt_tokens": len(row.prompts[0]),
        "n_target_tokens": len(row.target),
        "n_alternatives": len(alternatives),
        "alternatives": alternatives,
    }
