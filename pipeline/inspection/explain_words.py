"""An explanation for a terminal: with colours where somebody looks at one, and as a table of numbers elsewhere."""

from __future__ import annotations

import os
import sys

from pipeline.errors import printable
from pipeline.inspection.explanation import AlternativeFigures, Explanation, TokenFigures, shown_pieces

_CHARS = 2_000  # of a text that is shown
_INSTRUCTION_CHARS, _TOKEN_CHARS = 90, 24
_SCORES = ("tss", "tss_nce", "tss_pp", "rank", "ppl", "ifd", "ifd_loss", "weight")
LEVELS = (0.1, 0.5, 1.0, 2.0)  # nats from which each shade begins
# Of 256 colours: backgrounds under black text, from pale to strong.
_GREENS, _REDS = (194, 157, 120, 83), (224, 217, 210, 203)
_PLAIN = "\x1b[0m"


def coloured_here() -> bool:
    """Whether standard output is a terminal that shows colours, and nobody has asked for none (https://no-color.org)."""
    terminal = sys.stdout is not None and sys.stdout.isatty()
    return terminal and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def as_text(explanation: Explanation, *, coloured: bool = False) -> str:
    """The lines for a terminal, in which every text of the corpus is printable; only `coloured` ones hold escapes, our own."""
    counts, tau = explanation.figures, explanation.score["tau"]
    place = explanation.file or explanation.source
    turn = "" if explanation.turn is None else f", turn {explanation.turn}"
    lines = [
        f"row          {explanation.id}",
        f"read         {_line(place)}:{explanation.line}{turn} (source {_line(explanation.source)})",
        *_block("instruction", explanation.instruction),
        *(_block("input", explanation.input) if explanation.input else []),
        *_block("output", explanation.output),
        f"tokens       {counts['n_prompt_tokens']:,} of the prompt, {counts['n_target_tokens']:,} of the output"
        + (", the input was cut" if counts["input_truncated"] else ""),
        f"likelihood   {_number(counts['loglik_sum'])} nats in all, {_number(counts['loglik_mean'])} a token, "
        f"{_number(counts['loglik_empty_mean'])} without a prompt",
        "scores       " + "  ".join(f"{name} {_number(counts[name])}" for name in _SCORES),
        f"selection    {_line(explanation.standing.words)}",
        f"alternatives {len(explanation.alternatives):,}, {counts['paraphrases_skipped'] or 0:,} paraphrases passed over; "
        f"* the hardest {explanation.score['hardest']:g}, whose exp((s_k - s(I)) / {tau:g}) tss_nce adds up",
    ]
    if explanation.alternatives:
        lines.append(f"{'':<12}      s(I) - s_k          exp  similarity")
    lines += [_alternative(number, each) for number, each in enumerate(explanation.alternatives, 1)]
    if explanation.tokens is None:
        return "\n".join([*lines, f"tokens       not shown: {_line(explanation.without_tokens)}"])
    shown = _colours(explanation, explanation.tokens) if coloured else _table(explanation, explanation.tokens)
    return "\n".join([*lines, *_agreement(explanation.tokens), *shown])


def _agreement(tokens: TokenFigures) -> list[str]:
    return [
        f"computed     again in {tokens.dtype} on {tokens.device}: the sum of its tokens differs by {tokens.sum_gap:.1e} nats "
        f"from the stored one, a mean difference s(I) - s_k by at most {tokens.gap:.1e}"
    ]


def _alternative(number: int, figures: AlternativeFigures) -> str:
    mark = "*" if figures.hardest else " "
    values = (
        f"{_number(figures.difference, '+.4f'):>12}{_number(figures.share):>13}{_number(figures.similarity, '.2f'):>12}"
    )
    written = "" if figures.origin == "retrieved" else f" ({figures.origin})"
    return f"{'':<10}{number:>3}{mark}{values}  {_cut(_line(figures.instruction), _INSTRUCTION_CHARS)}{written}"


def _table(explanation: Explanation, tokens: TokenFigures) -> list[str]:
    """A line for each token; the means of the columns are the differences above."""
    heads = [f"{number}{'*' if each.hardest else ''}" for number, each in enumerate(explanation.alternatives, 1)]
    columns = [tokens.own, *tokens.differences]
    count = len(tokens.own)
    lines = [
        "token        log p under the instruction, then that minus the one under each alternative, in nats",
        f"{'':<{_TOKEN_CHARS}}{'own':>9}" + "".join(f"{head:>9}" for head in heads),
    ]
    for place, text in enumerate(tokens.texts):
        shown = f"{_cut(_quoted(text), _TOKEN_CHARS - 1):<{_TOKEN_CHARS}}"
        lines.append(shown + _cells([column[place] for column in columns]))
    return [*lines, f"{'mean':<{_TOKEN_CHARS}}" + _cells([sum(column) / count for column in columns])]


def _cells(values: list[float]) -> str:
    own, *differences = (round(value, 3) + 0.0 for value in values)  # without -0.000
    return f"{own:>9.3f}" + "".join(f"{difference:>+9.3f}" for difference in differences)


def _colours(explanation: Explanation, tokens: TokenFigures) -> list[str]:
    """The output once for each alternative, each piece on the colour of its difference."""
    legend = "".join(_shade(f" {level:g} ", level) for level in LEVELS)
    against = "".join(_shade(f" -{level:g} ", -level) for level in LEVELS)
    lines = [f"tokens       likelier under the instruction by nats {legend}, under the alternative {against}"]
    for number, figures in enumerate(explanation.alternatives, 1):
        mark = "*" if figures.hardest else " "
        text = "".join(_shade(_visible(piece), nats) for piece, nats in shown_pieces(tokens, number - 1))
        lines.append(f"{'':<10}{number:>3}{mark}{_number(figures.difference, '+.4f'):>12}  {text}")
    return lines


def _shade(text: str, nats: float) -> str:
    level = sum(abs(nats) >= edge for edge in LEVELS)
    if not level:
        return text
    colour = (_GREENS if nats > 0 else _REDS)[level - 1]
    return f"\x1b[38;5;16;48;5;{colour}m{text}{_PLAIN}"


def _visible(text: str) -> str:
    return _line(text.replace("\r", "").replace("\n", "⏎"))


def _quoted(text: str) -> str:
    return f"'{_line(text)}'" if text else "(completed below)"


def _line(text: str) -> str:
    """Text within one line of a terminal."""
    return printable(text.replace("\n", "\\n"))


def _block(title: str, text: str) -> list[str]:
    """A text of several lines beside its title."""
    shown = text if len(text) <= _CHARS else f"{text[:_CHARS]}… ({len(text):,} characters)"
    lines = printable(shown).split("\n")
    return [f"{title if number == 0 else '':<12} {line}" for number, line in enumerate(lines)]


def _number(value: float | int | None, form: str = ".4g") -> str:
    if value is None:
        return "-"
    return f"{value:,}" if isinstance(value, int) and form == ".4g" else f"{value:{form}}"


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[: length - 1]}…"
