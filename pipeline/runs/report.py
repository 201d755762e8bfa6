"""What `tss report` prints of a published run: its summary again, and the overlap of selections in full."""

from __future__ import annotations

from pipeline.errors import BadRequest
from pipeline.runs import open_run
from pipeline.runs.summary import Summary, summarise
from pipeline.storage import urls
from pipeline.storage.records import Overlap


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
