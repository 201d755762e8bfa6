"""Published runs without Ray whose likelihoods a model has given: rows, their alternatives and scores, as a run scores them."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from published_runs import publish_rows

from operators.hashing import content_hash
from operators.normalise import Example, normalise
from operators.prompts.measure import measure
from operators.retrieval.generated import Offer
from operators.scoring.encode_pairs import Candidates, encode_rows
from operators.scoring.score_rows import Scoring
from operators.scoring.scores import ScoreSettings, add_scores
from pipeline.config import Score, Scorer
from pipeline.engine.encoder import cached_encoder
from pipeline.preflight import check_scorer, read_template

INSTRUCTIONS = [
    "Sort the words.",
    "Count the words.",
    "Say it backwards.",
    "Name the first letter.",
    "Write it in capitals.",
]


def scored_by(model_folder, records, *, k=3, **scorer):
    """(SCORED rows, the scorer as a manifest names it, its settings) of raw records under a model; each row has `k`
    alternatives, the first of which counts as written for it."""
    from operators.scoring.models import load_model
    from operators.scoring.scorer import TargetScorer

    settings = Scorer(
        **{"model": str(model_folder), "template": "alpaca", "max_length": 400, "dtype": "float32", **scorer}
    )
    checked = check_scorer(settings, read_template(settings.template))
    encoder = cached_encoder(**checked.encoder)
    examples = [normalise(record) for record in records]
    measured = measure(examples, encoder, too_long=settings.too_long)
    rows = pa.Table.from_pylist(
        [_row(*pair, line) for line, pair in enumerate(zip(examples, measured, strict=True), 1)]
    )
    ranked = []
    for example in examples:
        texts = [text for text in INSTRUCTIONS if text != example.instruction][:k]
        written, pool = [Offer(text, 0.25) for text in texts[:1]], texts[1:]
        ranked.append(Candidates(pool, np.linspace(0.9, 0.5, len(pool)).tolist(), written=written))
    scoring = Scoring(
        encode_rows(rows, ranked, encoder, k),
        encoder.context,
        lambda: TargetScorer(load_model(**checked.model("float32"), device="cpu"), 4096, longest=settings.max_length),
    )
    scoring.score_all()
    scores = add_scores(scoring.table(), ScoreSettings(**Score().model_dump()), 0)
    return scores.to_pylist(), checked.scorer("float32"), settings.model_dump()


def publish_scored(output, model_folder, records, *, selected=None, scorer=None, **more):
    """A run of these records in `output`, scored by the model in a folder."""
    rows, named, settings = scored_by(model_folder, records, **(scorer or {}))
    return publish_rows(
        output, rows, selected=selected, scorer=settings, template=settings["template"], named=named, **more
    )


def _row(example: Example, measured, line: int):
    texts = (example.instruction, example.input, example.output)
    return {
        "id": content_hash(*texts).hex(),
        "source": "a",
        "file": "/data/a.jsonl",
        "line": line,
        **{name: value for name, value in vars(example).items() if name != "task"},
        **vars(measured),
        "pair_key": content_hash(example.input, example.output),
    }
