"""What each token of an output owes to its instruction: the likelihoods of a scored row again, token by token.

Ids and log-probabilities come the scorer's own way (`encode_pairs`, `scorer`), so that what is shown of tokens adds up to what
was stored of the row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from operators.hashing import content_hash
from operators.normalise import Example
from operators.prompts.measure import measure
from operators.prompts.tokenise import Encoder
from operators.rejections import Rejection
from operators.retrieval.generated import Offer
from operators.schema import RETRIEVED
from operators.scoring.encode_pairs import Candidates, encode_rows

if TYPE_CHECKING:
    from operators.scoring.load_scorer import Scorer

_UNFINISHED = "\N{REPLACEMENT CHARACTER}"  # what a decoder shows of a character that lacks bytes


class OtherTokens(ValueError):
    """A row that is not encoded today as it was when it was scored."""


@dataclass(frozen=True)
class TokenLikelihoods:
    """The T target ids of a row, the text that each adds, and their log-probabilities in nats, float64: `own` [T] under the
    row's instruction, `others` [K, T] under each alternative. The last `end` of them end the output."""

    ids: list[int]
    texts: list[str]
    end: int
    own: np.ndarray
    others: np.ndarray

    @property
    def differences(self) -> np.ndarray:
        """Float64 [K, T]: log p(id | instruction) - log p(id | alternative)."""
        return np.asarray(self.own - self.others)

    @property
    def terms(self) -> np.ndarray:
        """Float64 [K]: s(I) - s_k, the mean difference of a token, which eq. 2 divides by -tau and takes exp of."""
        return np.asarray(self.differences.mean(axis=1))


def encode_again(row: pa.Table, encoder: Encoder, *, too_long: str) -> pa.Table:
    """ENCODED of one scored row (a table of LIKELIHOODS) with the alternatives that it was scored with; `too_long` as in
    `measure`. Raises OtherTokens where its ids are not as many as they were."""
    (record,) = row.select([*_EXAMPLE, *_COUNTS, "alternatives"]).to_pylist()
    (measured,) = measure([Example(**{name: record[name] for name in _EXAMPLE}, task=None)], encoder, too_long=too_long)
    if isinstance(measured, Rejection):
        raise OtherTokens(f"the row would be rejected now: {measured.reason}, {measured.detail}")
    counts = [measured.n_prompt_tokens, measured.n_target_tokens]
    if counts != [record[name] for name in _COUNTS]:
        raise OtherTokens(
            f"the prompt has {counts[0]:,} tokens and the output {counts[1]:,} now, and they had {record[_COUNTS[0]]:,} and "
            f"{record[_COUNTS[1]]:,} when the row was scored"
        )
    added = {
        "input_chars": pa.array([measured.input_chars], pa.int64()),
        "pair_key": pa.array([content_hash(record["input"], record["output"])], pa.binary(16)),
    }
    for name, column in added.items():
        row = row.append_column(name, column)
    offered = record["alternatives"] or []
    encoded = encode_rows(row, [_candidates(offered)], encoder, len(offered))
    (again,) = encoded["alternatives"].to_pylist()
    if [offer["instruction"] for offer in again] != [offer["instruction"] for offer in offered]:
        raise OtherTokens(f"{len(again):,} of the row's {len(offered):,} alternatives fit into a sequence now")
    return encoded


_EXAMPLE = ("instruction", "input", "output", "extra", "messages", "conversation", "turn")
_COUNTS = ("n_prompt_tokens", "n_target_tokens")


def _candidates(offered: Sequence[dict[str, Any]]) -> Candidates:
    """The alternatives of a row as candidates: written ones stand before those of the pool."""
    pool = [offer for offer in offered if offer["origin"] == RETRIEVED]
    written = [Offer(offer["instruction"], offer["similarity"]) for offer in offered if offer["origin"] != RETRIEVED]
    return Candidates(
        [offer["instruction"] for offer in pool], [offer["similarity"] for offer in pool], written=written
    )


def token_likelihoods(encoded: pa.Table, encoder: Encoder, scorer: Scorer) -> TokenLikelihoods:
    """The likelihoods of one ENCODED row, token by token."""
    (target,) = encoded["target"].to_pylist()
    (offers,) = encoded["alternatives"].to_pylist()
    prompts = [*encoded["prompt"].to_pylist(), *(offer["prompt"] for offer in offers)]
    own, *others = (terms.astype(np.float64) for terms in scorer.logprobs(prompts, [target] * len(prompts)))
    return TokenLikelihoods(
        ids=target,
        texts=token_texts(target, encoder.tokenizer),
        end=len(encoder.end),
        own=own,
        others=np.stack(others) if others else np.zeros((0, len(target))),
    )


def token_texts(ids: Sequence[int], tokenizer: Any) -> list[str]:
    """The text that each token adds to those before it: nothing, where it ends within a character that another completes."""

    def decode(some: Sequence[int]) -> str:
        text: str = tokenizer.decode(some, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        return text

    texts, start, shown = (
        [],
        0,
        0,
    )  # a decoder may treat the first token of a text otherwise, so the last shown ones go before
    for stop in range(1, len(ids) + 1):
        before, text = decode(ids[start:shown]), decode(ids[start:stop])
        whole = len(text) > len(before) and not text.endswith(_UNFINISHED)
        texts.append(text[len(before) :] if whole or stop == len(ids) else "")
        if whole:
            start, shown = shown, stop
    return texts
