"""What a verdict means, in plain sentences, and where it is an error.

The limits are this project's (tests/benchmarks/RESULTS.md, "Fitness of a scorer").
"""

from __future__ import annotations

from dataclasses import dataclass

from operators.scoring import fitness
from pipeline.errors import RunFailed
from pipeline.storage.records import Verdict

FEW = 50  # rows of which nothing is said
# Of the way from chance to certainty: below the first the scorer is unfit, below the second weak.
UNFIT, WEAK = 0.25, 0.5
# From where on an order is that of another score: a rank correlation; a Jaccard index, of the way from chance to 1.
SAME_ORDER, SAME_ROWS = 0.9, 0.6
_OTHERS = {
    "-ppl": "lowest perplexity",
    "ppl": "highest perplexity",
    "-ifd": "lowest ifd",
    "ifd": "highest ifd",
    "-ifd_loss": "lowest ifd_loss",
    "ifd_loss": "highest ifd_loss",
    "length": "the longest outputs",
}


@dataclass(frozen=True)
class Sentence:
    """One sentence of a verdict; `loud` where a selection should not be used before somebody has looked."""

    subject: str
    text: str
    loud: bool = False


def sentences(verdict: Verdict) -> list[Sentence]:
    """The verdict for people, at most one sentence on each subject."""
    if verdict.rows < FEW:
        return [Sentence("scorer", f"only {verdict.rows:,} rows have alternatives: too few to judge the scorer by")]
    return [_of_scorer(verdict), *_of_likeness(verdict), *_of_decision(verdict)]


def _of_scorer(verdict: Verdict) -> Sentence:
    seen = (
        f"the own instruction explains the output best in {verdict.best:.0%} [{verdict.low:.0%} {verdict.high:.0%}] of "
        f"{verdict.rows:,} rows, by chance in {verdict.chance:.0%}"
    )
    # The end of the interval that speaks for the scorer: what few rows say is not held against it.
    if fitness.above_chance(verdict.high, verdict.chance) < UNFIT:
        advice = "take a larger model, one of the language and kind of these texts, or the template it was trained with"
        loud = verdict.score is not None  # a selection by something else stands all the same
        return Sentence("scorer", f"{seen}: this scorer hardly tells these instructions apart; {advice}", loud)
    if fitness.above_chance(verdict.best, verdict.chance) < WEAK:
        return Sentence("scorer", f"{seen}: it tells many of these instructions apart, and many not")
    return Sentence("scorer", f"{seen}: it tells these instructions apart")


def _of_likeness(verdict: Verdict) -> list[Sentence]:
    """How much of the ranking and of the selection is another score's."""
    parts, loud = [], False
    if verdict.correlations:
        name, value = max(verdict.correlations.items(), key=lambda item: abs(item[1]))
        parts.append(f"{verdict.score} goes with {_named(name, value)} at a rank correlation of {abs(value):.2f}")
        loud = abs(value) >= SAME_ORDER
    if verdict.alike is not None and verdict.shared is not None and verdict.shared_by_chance is not None:
        parts.append(
            f"the selection shares {verdict.shared:.2f} with one by {_OTHERS[verdict.alike]} (Jaccard; by chance "
            f"{verdict.shared_by_chance:.2f})"
        )
        loud = loud or fitness.above_chance(verdict.shared, verdict.shared_by_chance) >= SAME_ROWS
    if not parts:
        return []
    end = ""
    if loud:
        end = ": it is mostly that score under another name; select by that one, or take another scorer or template"
    return [Sentence("likeness", "; ".join(parts) + end, loud)]


def _named(name: str, value: float) -> str:
    """The order that a column correlates with: the opposite one where the correlation is negative."""
    if value >= 0:
        return _OTHERS[name]
    return "the shortest outputs" if name == "length" else _OTHERS[name.removeprefix("-")]


def _of_decision(verdict: Verdict) -> list[Sentence]:
    """How much of a ranking hangs on which alternatives there were, and how much of a draw on its seed."""
    parts = []
    if verdict.halves is not None:
        parts.append(f"scores from other alternatives of this kind would correlate at {verdict.halves:.2f}")
    if verdict.kept is not None:
        parts.append(f"a draw with another seed would keep {verdict.kept:.0%} of the rows")
    return [Sentence("decided", "; ".join(parts))] if parts else []


def lines(verdict: Verdict) -> list[str]:
    """The verdict as lines of the summary."""
    return [
        f"{'warning' if sentence.loud else sentence.subject:<12} {sentence.text}" for sentence in sentences(verdict)
    ]


def require_fit(verdict: Verdict) -> None:
    """Raise RunFailed where something in the verdict is loud."""
    if loud := [sentence.text for sentence in sentences(verdict) if sentence.loud]:
        raise RunFailed(
            "verdict",
            f"{'; '.join(loud)}. As strict was asked, nothing is published; all likelihoods are kept. Another scorer, template "
            "or score may do better; without strict the same command publishes this selection",
        )
