"""What there is to say of one row of a published run: alternatives, likelihoods, scores, why it was selected or not."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from operators.schema import SCORE_COLUMNS
from operators.scoring.token_likelihoods import TokenLikelihoods
from pipeline.config import Score
from pipeline.inspection.find_row import FoundRow
from pipeline.inspection.standing import Standing
from pipeline.runs.manifest import Manifest

VERSION = 1  # of the keys of --json: counted up when one changes its meaning
_FIGURES = ("n_prompt_tokens", "n_target_tokens", "loglik_sum", "loglik_mean", "loglik_empty_mean")
_BESIDE = ("n_alternatives", "paraphrases_skipped", "input_truncated", "cluster")


@dataclass(frozen=True)
class AlternativeFigures:
    """One alternative: `difference` is s(I) - s_k in nats per token, `share` exp(-difference / tau), which eq. 2 adds up over
    the `hardest`; None where it was not scored."""

    instruction: str
    origin: str
    similarity: float | None
    loglik_mean: float | None
    difference: float | None
    share: float | None
    hardest: bool


@dataclass(frozen=True)
class TokenFigures:
    """Per token of the output, the last `end` of which end it: its text (empty where a later token completes a character that
    it begins), `own`, its log-probability under the row's instruction, and for each alternative `differences`, that minus its
    log-probability under the alternative, in nats.

    `terms` are the means of the differences over tokens, s(I) - s_k; `gap` is how far the one that differs most is from what
    was stored, in nats per token, and `sum_gap` how far the sum of `own` is from `loglik_sum`, in nats. They were computed
    again in `dtype` on `device`."""

    ids: list[int]
    texts: list[str]
    end: int
    own: list[float]
    differences: list[list[float]]
    terms: list[float]
    gap: float
    sum_gap: float
    device: str
    dtype: str


@dataclass(frozen=True)
class Explanation:
    """One row of a run. `figures` are its likelihoods, scores and counts by the names of their columns; `tokens` is None where
    `without_tokens` says why."""

    run: str
    id: str
    source: str
    file: str | None
    line: int | None
    turn: int | None
    instruction: str
    input: str
    output: str
    figures: dict[str, float | int | bool | None]
    score: dict[str, float]
    alternatives: list[AlternativeFigures]
    standing: Standing
    tokens: TokenFigures | None = None
    without_tokens: str = ""

    def as_plain(self) -> dict[str, Any]:
        """As JSON has it; what is no finite number is null."""
        plain: dict[str, Any] = _finite({"version": VERSION, **asdict(self)})
        return plain

    def _repr_html_(self) -> str:
        from pipeline.inspection.explain_page import section

        return section(self)


def explanation_of(run: str, manifest: Manifest, row: FoundRow, standing: Standing) -> Explanation:
    """All but tokens, from what the run has stored."""
    (columns,) = row.columns.to_pylist()
    given = manifest.config.get("score", {})
    score = (
        Score() if "quality_weight" in given else Score.model_validate(given)
    )  # constants of early releases' formulas
    return Explanation(
        run=run,
        **{name: columns[name] for name in ("id", "source", "file", "line", "turn", "instruction", "input", "output")},
        figures={name: columns[name] for name in (*_FIGURES, *_BESIDE, *SCORE_COLUMNS.names)},
        score=score.model_dump(),
        alternatives=_alternatives(columns["alternatives"] or [], columns["loglik_mean"], score),
        standing=standing,
    )


def _alternatives(offered: list[dict[str, Any]], own: float | None, score: Score) -> list[AlternativeFigures]:
    means = np.array(
        [np.nan if offer["loglik_mean"] is None else offer["loglik_mean"] for offer in offered], dtype=float
    )
    ranked = np.argsort(-means, kind="stable")  # NaN sorts to the end
    hardest = {int(place) for place in ranked[: score.hardest] if not math.isnan(means[place])}
    figures = []
    for place, offer in enumerate(offered):
        scored = own is not None and offer["loglik_mean"] is not None
        difference = own - offer["loglik_mean"] if own is not None and scored else None
        share = None if difference is None else math.exp(min(-difference / score.tau, 700.0))
        figures.append(
            AlternativeFigures(
                **{name: offer[name] for name in ("instruction", "origin", "similarity", "loglik_mean")},
                difference=difference,
                share=share,
                hardest=place in hardest,
            )
        )
    return figures


def with_tokens(explanation: Explanation, tokens: TokenLikelihoods, device: str, dtype: str) -> Explanation:
    """The same explanation with figures of tokens, and how far these are from what was stored."""
    terms = tokens.terms.tolist()
    stored = [alternative.difference for alternative in explanation.alternatives]
    gaps = [abs(term - known) for term, known in zip(terms, stored, strict=True) if known is not None]
    total = explanation.figures["loglik_sum"]
    figures = TokenFigures(
        ids=tokens.ids,
        texts=tokens.texts,
        end=tokens.end,
        own=tokens.own.tolist(),
        differences=tokens.differences.tolist(),
        terms=terms,
        gap=max(gaps, default=0.0),
        sum_gap=math.nan if total is None else abs(float(tokens.own.sum()) - total),
        device=device,
        dtype=dtype,
    )
    return replace(explanation, tokens=figures, without_tokens="")


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def shown_pieces(tokens: TokenFigures, alternative: int | None) -> list[tuple[str, float]]:
    """(text, nats) of the output in pieces that can be shown: a token, or several that make one character together, with the
    sum of their differences to an alternative; with None, of their own log-probabilities."""
    figures = tokens.own if alternative is None else tokens.differences[alternative]
    pieces: list[tuple[str, float]] = []
    begun = 0.0
    for text, nats in zip(tokens.texts, figures, strict=True):
        begun += nats
        if text:
            pieces.append((text, begun))
            begun = 0.0
    if begun and pieces:  # tokens at the end that show nothing
        text, nats = pieces.pop()
        pieces.append((text, nats + begun))
    return pieces
