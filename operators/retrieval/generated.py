"""Instructions that were written for inputs, as alternatives of rows: the first two rules over them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from operators.hashing import content_hash, fold_wording
from operators.retrieval.nearest import exact_similarities


def input_key(input: str) -> bytes:
    """Identity of an input for which instructions are written: hash of its text as it is."""
    return content_hash(input)


@dataclass(frozen=True)
class Offer:
    """An instruction that was written for an input, and the cosine similarity of its embedding to that of a row's own."""

    text: str
    similarity: float


class Generated:
    """What was written for each input of a run.

    `written`: WRITTEN; `texts`: the table of all instructions that were written (column text), whose rows `written` names;
    `embeddings`: float32 [G, D], a row each, by the embedder of the pool.
    """

    def __init__(self, written: pa.Table, texts: list[str], embeddings: np.ndarray, *, paraphrase_max: float):
        self._rows = dict(zip(written["key"].to_pylist(), written["instructions"].to_pylist(), strict=True))
        self._texts, self._embeddings, self._paraphrase_max = texts, embeddings, paraphrase_max

    def offers(self, input: str, instruction: str, embedding_D: np.ndarray) -> tuple[list[Offer], int]:
        """What may stand for `instruction`, which has this embedding, of all that was written for `input`, in its order; and
        how many paraphrases were passed over."""
        rows = self._rows.get(input_key(input), [])
        wording = fold_wording(instruction)
        others = [row for row in rows if fold_wording(self._texts[row]) != wording]  # rule 1
        if not others:
            return [], 0
        similar = exact_similarities(embedding_D, self._embeddings[others]).tolist()
        offers = [
            Offer(self._texts[row], similarity)
            for row, similarity in zip(others, similar, strict=True)
            if similarity < self._paraphrase_max  # rule 2
        ]
        return offers, len(others) - len(offers)
