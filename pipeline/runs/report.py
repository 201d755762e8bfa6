"""The report of a published run: a page for a browser, made when the run is published, and its words for a terminal."""

from __future__ import annotations

from pathlib import Path

import yaml
from jinja2 import Environment, StrictUndefined

from pipeline.errors import BadRequest
from pipeline.runs import open_run
from pipeline.runs.accounts import order_in_words
from pipeline.runs.manifest import Manifest
from pipeline.runs.summary import Summary, summarise
from pipeline.storage import urls
from pipeline.storage.records import Overlap

_PAGE = Path(__file__).parent / "report.html.jinja"


def page(manifest: Manifest) -> str:
    """The run as one HTML page without scripts; every text of a corpus is escaped."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    text = yaml.safe_dump(manifest.config, sort_keys=False, allow_unicode=True)
    counts = manifest.counts
    accounts = [*counts.sources.items(), *([("all", counts)] if len(counts.sources) > 1 else [])]
    template = environment.from_string(_PAGE.read_text(encoding="utf-8"))
    return template.render(**vars(manifest), how=order_in_words(manifest.config), accounts=accounts, yaml=text)


def of_run(run: str) -> Summary:
    """The closing summary of a published run again, with the overlap of selections in full; raises BadRequest."""
    manifest, path = open_run.read_manifest(run), urls.join(run, open_run.MANIFEST)
    if manifest.overlap is None or manifest.budget is None:
        raise BadRequest(f"{path}: this run was made before reports were; `tss select` makes a new one from it")
    try:
        lines = [summarise(manifest, run).text, "", *_matrix(manifest.overlap)]
    except (KeyError, IndexError, TypeError, AttributeError, ValueError) as error:
        raise BadRequest(
            f"{path}: does not hold what a finished run writes ({type(error).__name__}: {error}); "
            "accepted: the manifest as it was published. Name another runs/<id>, or run again"
        ) from error
    return Summary(run, "\n".join([*lines, "", f"report       {urls.join(run, open_run.REPORT)}"]))


def _matrix(overlap: Overlap) -> list[str]:
    width = max(9, *map(len, overlap.scores)) + 2
    lines = [
        "overlap of selections at this budget and filter (Jaccard); highest first, with a minus lowest first",
        " " * width + f"{'rows':>10}" + "".join(f"{name:>{width}}" for name in overlap.scores),
    ]
    for name, rows, row in zip(overlap.scores, overlap.rows, overlap.jaccard, strict=True):
        cells = ["-" if value is None else f"{value:.2f}" for value in row]
        lines.append(f"{name:<{width}}{rows:>10,}" + "".join(f"{cell:>{width}}" for cell in cells))
    return lines
