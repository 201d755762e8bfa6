"""What `tss select` is asked for: the settings of the run that it starts from, with overrides that need no model."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline import read_config
from pipeline.config import Config
from pipeline.errors import BadRequest
from pipeline.flags import flag_of
from pipeline.runs import open_run
from pipeline.storage import urls

_FREE = {"score", "select", "ray", "output", "seed", "keep_runs", "strict"}


def asked(path: str, overrides: Sequence[str]) -> tuple[Config, str]:
    """The configuration of a selection from a run or from an output's current run, and that run; raises BadRequest."""
    fixed = [text for text in overrides if read_config.section_of(text) not in _FREE]
    if fixed:
        key = fixed[0].partition("=")[0].strip()
        named = "" if urls.has_credentials(key) else f" {key}"  # never its value, which may hold credentials
        raise BadRequest(
            f"{flag_of(fixed[0])}{named}: this would need the model; accepted by `tss select`: keys under score, "
            "select and ray, output, keep_runs, strict and seed. For any other key use `tss run`"
        )
    output, run = open_run.find_run(path)
    if output is None and not any(text.partition("=")[0].strip() == "output" for text in overrides):
        raise BadRequest(
            f"{run}: a run that does not lie in runs/ of an output folder, so there is no place for another beside it; "
            "accepted: an output folder, one of its runs/<id>, or this with --set output=DIR"
        )
    manifest = open_run.read_manifest(run)
    data = read_config.override({**open_run.settings_of(manifest), "output": output or run}, list(overrides))
    return read_config.validate(data, urls.join(run, open_run.MANIFEST), overrides=overrides), run
