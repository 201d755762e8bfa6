"""Stage 5a: blocks of placed rows become token ids.

Where scorers hold GPUs these are tasks of their own, so that the next block is encoded while one is scored; on CPUs Ray Data
joins both steps in the actor, and they do not compete for its cores. An encoded block goes straight to the scorer that takes
it, through Ray's object store, with the record it came from.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc

from operators.retrieval.generated import Generated
from operators.retrieval.instruction_table import has_input, have_inputs
from operators.retrieval.query_table import find_queries
from operators.scoring.draw import Threshold
from operators.scoring.encode_pairs import Candidates, encode_rows
from pipeline.engine.attempts import at_most
from pipeline.engine.encoder import cached_encoder
from pipeline.retrieval.shards import cached_generated
from pipeline.storage.parts import read_table
from pipeline.storage.records import Part, records_of


@dataclass(frozen=True)
class Round:
    """One pass of scoring over the blocks, and which of their rows it takes.

    all: every row. pilot: a sample of rows, by id. rest: all but these. again: rows of earlier rounds without a score, whose
    bound reaches the threshold. With a threshold, the key of a ranking, rows are scored only until they are known to be below.
    """

    name: Literal["all", "pilot", "rest", "again"] = "all"
    share: float = 0.0  # of the pilot
    threshold: float | None = None
    number: int = 0  # of `again`

    @property
    def label(self) -> str:
        """A name that no other round of a run has."""
        return f"again-{self.number}" if self.name == "again" else self.name


@dataclass(frozen=True)
class BlockToScore:
    """A block as a round of scoring takes it: its PLACED rows, the OFFERS of their queries, what earlier rounds have scored,
    and stored pairs."""

    block: int
    placed: Part
    offers: Part
    scored: Part | None
    recalled: Part | None


def encode_block(
    batch: pa.Table,
    *,
    work: str,
    index: str,
    encoder: dict[str, Any],
    paraphrase_max: float,
    source: str,
    k: int,
    round: Round,
    threshold: Threshold | None,
) -> pa.Table:
    """Each block as it came, and beside it the rows that this round takes, ENCODED."""
    blocks = []
    for block in records_of(BlockToScore, batch):
        # Every row was tokenised before, when it was admitted: if a process ends here, it is no row's fault.
        with at_most(work, f"encode-{block.block:06d}-{round.label}", f"encoding block {block.block}"):
            rows = rows_of_round(block, round, threshold)
            offers = offers_of_rows(rows, read_table(block.offers.path))
            candidates = candidates_of(offers)
            if source != "retrieved":
                written = cached_generated(index, paraphrase_max)
                candidates = with_written(rows, offers, candidates, written, alone=source == "generated")
            encoded = encode_rows(rows, candidates, cached_encoder(**encoder), k)
            blocks.append(to_bytes(encoded))
    return pa.table({"item": batch["item"], "encoded": pa.array(blocks, pa.large_binary())})


def rows_of_round(block: BlockToScore, round: Round, threshold: Threshold | None = None) -> pa.Table:
    """The PLACED rows of a block that a round takes."""
    placed = read_table(block.placed.path)
    rows = placed.filter(pc.invert(placed["duplicate"]))
    if round.name == "all":
        return rows
    if round.name == "again":
        if block.scored is None or threshold is None:
            raise ValueError(f"block {block.block} was not scored before it is to be scored again")
        scored = read_table(block.scored.path, ["id", "tss_pp_bound"])
        reaches = threshold.reached(scored["tss_pp_bound"].to_numpy(), scored["id"].to_pylist())
        open_ids = scored.filter(pa.array(reaches))["id"]
        return rows.filter(pc.is_in(rows["id"], value_set=open_ids.combine_chunks()))
    # Ids are hashes: their first digits draw a sample that depends on nothing else.
    drawn = pa.array([int(id[:8], 16) < round.share * 2**32 for id in rows["id"].to_pylist()], pa.bool_())
    return rows.filter(drawn if round.name == "pilot" else pc.invert(drawn))


def offers_of_rows(rows: pa.Table, offers: pa.Table) -> pa.Table:
    """The OFFERS of PLACED rows, a row each."""
    asked = rows.append_column("has_input", have_inputs(rows["input"]))
    return find_queries(asked, offers)


def candidates_of(offers: pa.Table) -> list[Candidates]:
    """The ranked candidates of rows with these OFFERS."""
    return [
        Candidates(row["candidates"], row["similarities"], row["paraphrases_skipped"], cluster=row["cluster"])
        for row in offers.drop_columns(["embedding"]).to_pylist()
    ]


def with_written(
    rows: pa.Table, offers: pa.Table, candidates: list[Candidates], written: Generated, *, alone: bool
) -> list[Candidates]:
    """The candidates of PLACED rows with what was written for their inputs before them; with `alone`, a row that has an input
    has no others."""
    ranked = []
    texts = zip(
        rows["instruction"].to_pylist(), rows["input"].to_pylist(), offers["embedding"], candidates, strict=True
    )
    for instruction, input, embedding, retrieved in texts:
        if has_input(input):
            offered, skipped = written.offers(input, instruction, embedding.values.to_numpy())
            of_pool = replace(retrieved, texts=[], similarities=[], paraphrases_skipped=0)
            kept = of_pool if alone else retrieved
            ranked.append(replace(kept, written=offered, paraphrases_skipped=kept.paraphrases_skipped + skipped))
        else:
            ranked.append(retrieved)
    return ranked


def to_bytes(table: pa.Table) -> bytes:
    """A table as one value, so that a block is one row and no block is ever cut or joined with another."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())


def from_bytes(data: bytes) -> pa.Table:
    """See `to_bytes`."""
    with pa.ipc.open_stream(data) as reader:
        return reader.read_all()
