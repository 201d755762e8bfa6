"""`tss report --open`: the page of a published run in a browser, made anew where the run has none of this release."""

from __future__ import annotations

import tempfile
import webbrowser
from pathlib import Path

import pyarrow as pa

from operators.error_text import first_line
from pipeline.errors import DamagedInput
from pipeline.report.make import report_again
from pipeline.runs import open_run
from pipeline.runs.manifest import Manifest
from pipeline.storage import files, urls
from pipeline.storage.parts import DamagedPart


def show(run: str) -> str:
    """Open the page; what was done, in a line. Raises BadRequest, and DamagedInput where the rows cannot be read."""
    manifest = open_run.read_manifest(run)
    path, why = page_file(manifest, run)
    opened = webbrowser.open(path.as_uri())
    return f"{'opened' if opened else 'no browser':<12} {path}{why}"


def page_file(manifest: Manifest, run: str) -> tuple[Path, str]:
    """A file of this machine with the page of a run, and why it is another one than the run's own."""
    known, data = manifest.report, None
    if known is not None and known.problem is None:
        try:
            data = files.read(urls.join(run, open_run.REPORT), at_most=known.bytes)
        except (OSError, pa.ArrowException):
            data = None
    if data is not None and known is not None and files.digest_of(data) == known.digest:
        if not urls.is_url(run):
            return Path(run, open_run.REPORT), ""
        return _kept(manifest, data), ", a copy of the run's"
    try:
        page = report_again(manifest, run)
    except (DamagedPart, OSError, pa.ArrowException) as error:
        raise DamagedInput("report", first_line(error)) from error
    return _kept(manifest, page.encode()), ", made anew from the rows of the run"


def _kept(manifest: Manifest, data: bytes) -> Path:
    """A file with a page in a folder of its own, for the browser to read when it likes."""
    path = Path(tempfile.mkdtemp(prefix="tss-report-"), open_run.REPORT)
    path.write_bytes(data)
    return path
