"""Why a row cannot be used: the reasons that stand in `rejected/`, each with what it says of the row."""

from __future__ import annotations

REASONS = {
    # the file
    "malformed_json": "the line or element is no JSON",
    "malformed_csv": "the record has another number of fields than the header, or a quote out of place",
    "invalid_utf8": "the row holds bytes that are not UTF-8",
    "row_too_large": "the row is larger than a row may be",
    "reader_died": "reading or tokenising the row ended its process each time",
    # the layout
    "not_an_object": "the row is no object with named columns",
    "missing_field": "a column that its layout needs is absent or null, or no layout is recognised",
    "wrong_type": "a column holds another kind of value than its layout needs",
    "invalid_unicode": "a text holds a lone surrogate",
    "empty_instruction": "the instruction is empty or white space alone",
    "empty_output": "the output is empty or white space alone, or has no tokens",
    "no_user_turn": "a conversation has no turn of a user",
    "no_assistant_turn": "a conversation has no turn of an assistant after one of a user",
    # what must not be trained on
    "contaminated": "the row shares words with a text of `exclude`",
    # the prompt
    "template_failed": "the template fails on the row, or goes beyond its limits",
    "encode_failed": "the tokenizer fails on the row",
    "outside_vocabulary": "a token has an id that the model does not know",
    "too_long": "prompt and output have more tokens than `scorer.max_length`",
    # the model
    "not_finite": "a log-likelihood is not a finite number",
    "scorer_failed": "the scorer fails on the row alone",
    "scorer_died": "scoring the row alone ended its process each time",
}
# They may have been a fault of a machine: a run from scratch would try these rows again, and so does a refresh.
PASSING = {"reader_died", "scorer_died", "scorer_failed", "not_finite"}
# They were asked for, and say nothing against the corpus or the scorer.
ASKED_FOR = {"contaminated"}


class Rejection(Exception):
    """Why a row cannot be used: `reason` is one of REASONS, `detail` says what was found. Raises ValueError for another."""

    def __init__(self, reason: str, detail: str):
        if reason not in REASONS:
            raise ValueError(f"{reason!r} is no reason of REASONS")
        super().__init__(reason, detail)
        self.reason, self.detail = reason, detail
