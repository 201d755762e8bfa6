"""What a program calls, as `from pipeline import ...`: the commands as functions, and a published run as data.

These names, their arguments and what they give are kept from release to release; a change of one stands in the changelog. What
goes wrong is BadRequest (before any work) or RunFailed, of `pipeline.errors`, with the words of the command line.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from os import PathLike, fspath
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pyarrow as pa

from pipeline import explain as explain_module
from pipeline import flow, read_config, selecting
from pipeline.config import Config
from pipeline.engine.progress import Reporter
from pipeline.errors import BadRequest, DamagedInput
from pipeline.inspection.compare import Comparison
from pipeline.inspection.compare import compare as compare_runs
from pipeline.inspection.explanation import Explanation
from pipeline.runs import open_run as published
from pipeline.runs.manifest import Manifest
from pipeline.runs.summary import Summary, summarise
from pipeline.shadowing import check_shadowing
from pipeline.storage import urls
from pipeline.storage.parts import DamagedPart, read_whole
from pipeline.storage.records import Part

if TYPE_CHECKING:
    import datasets
    import ray.data

Kind = Literal["scored", "selected", "rejected", "near_duplicates"]
Settings = Config | Mapping[str, Any] | str | PathLike[str]


def load_config(source: Mapping[str, Any] | str | PathLike[str], *overrides: str) -> Config:
    """A checked configuration from a YAML file or a mapping of the same keys, with `a.b=value` set on top, as `--set` has it.
    Raises BadRequest."""
    if isinstance(source, Mapping):
        data = read_config.override(dict(source), list(overrides))
        return read_config.validate(data, "load_config", overrides=list(overrides))
    return read_config.load(Path(fspath(source)), list(overrides))


def run(config: Settings, *, fresh: bool = False, quiet: bool = False) -> Run:
    """`tss run`: score, select and publish; goes on where the same request was interrupted, unless `fresh`. Ray is started for
    it, unless this process has joined a cluster before. Raises BadRequest, RunFailed."""
    check_shadowing(starts_ray=True)
    return open_run(flow.run(_checked(config), Reporter(quiet=quiet), fresh=fresh).run)


def refresh(config: Settings, *, fresh: bool = False, quiet: bool = False) -> Run:
    """`tss refresh`: as `run`, on a corpus that may have changed. Raises BadRequest, RunFailed."""
    check_shadowing(starts_ray=True)
    return open_run(flow.refresh(_checked(config), Reporter(quiet=quiet), fresh=fresh).run)


def select(path: str | PathLike[str], *overrides: str, quiet: bool = False) -> Run:
    """`tss select`: another selection from a published run, with `a.b=value` of `score` and `select` set, and no model. Raises
    BadRequest, RunFailed."""
    check_shadowing(starts_ray=True)
    config, parent = selecting.asked(fspath(path), overrides)
    return open_run(flow.select(config, parent, Reporter(quiet=quiet)).run)


def open_run(path: str | PathLike[str]) -> Run:
    """A published run: of an output folder its current one, or one of its `runs/<id>`; both may be URLs. Raises BadRequest."""
    _, run = published.find_run(fspath(path))
    return Run(run, published.read_manifest(run))


def compare(
    first: Run | str | PathLike[str], second: Run | str | PathLike[str], *, by: str = "tss_pp", shown: int = 5
) -> Comparison:
    """`tss compare`: two published runs beside each other. Raises BadRequest, DamagedInput."""
    return compare_runs(_path(first), _path(second), by=by, shown=shown)


@dataclass(frozen=True)
class Run:
    """A published run: where it lies, and its manifest. Rows are read when they are asked for."""

    path: str
    manifest: Manifest = field(repr=False)

    @property
    def summary(self) -> Summary:
        """What the run printed at its end; a notebook shows it as it stands."""
        return summarise(self.manifest, self.path)

    @property
    def scored(self) -> ray.data.Dataset:
        """Every scored row."""
        return self.rows("scored")

    @property
    def selected(self) -> ray.data.Dataset:
        """The selected rows; `selection_rank` says their order, which Ray Data need not keep."""
        return self.rows("selected")

    @property
    def rejected(self) -> ray.data.Dataset:
        """Every row that could not be used, and why."""
        return self.rows("rejected")

    def rows(self, kind: Kind) -> ray.data.Dataset:
        """Rows of a kind as a dataset of Ray Data, which starts Ray as any of its calls does, unless it is up. Pages that were
        changed on a disk raise when they are read. Raises BadRequest for a kind that the run has not."""
        import pyarrow.dataset as pads
        import ray.data

        parts = [part for part in self._parts(kind) if part.rows]
        if not parts:
            return ray.data.from_arrow(self._empty(kind))
        filesystem, _ = urls.open_filesystem(parts[0].path)
        places = [urls.open_filesystem(part.path)[1] for part in parts]
        checked = pads.ParquetFragmentScanOptions(page_checksum_verification=True)
        return ray.data.read_parquet(places, filesystem=filesystem, fragment_scan_options=checked)

    def to_datasets(self, kind: Kind = "selected") -> datasets.Dataset:
        """Rows of a kind in their order, in memory, as a dataset of Hugging Face, after a look at every byte of them. Needs no
        Ray. Raises BadRequest, DamagedInput."""
        import datasets
        from datasets.table import InMemoryTable

        return datasets.Dataset(InMemoryTable(self.to_arrow(kind)))

    def to_arrow(self, kind: Kind = "selected") -> pa.Table:
        """The same rows as a table of Arrow. Raises BadRequest, DamagedInput."""
        try:
            tables = [read_whole(part) for part in self._parts(kind) if part.rows]
        except DamagedPart as damaged:
            raise DamagedInput("read", str(damaged)) from damaged
        return pa.concat_tables(tables) if tables else self._empty(kind)

    def explain(self, id: str, *, model: str | bool = True, trust_remote_code: bool = False) -> Explanation:
        """`tss explain`: one row by its id, the beginning of that, or FILE:LINE. `model`: False for all but tokens, or another
        name or folder of the model that scored. Raises BadRequest, DamagedInput."""
        named = model if isinstance(model, str) else None
        wanted = explain_module.Model(named, trust_remote_code) if model else None
        return explain_module.explain(self.path, id, wanted)

    def _parts(self, kind: Kind) -> list[Part]:
        if kind not in self.manifest.files:
            raise BadRequest(f"{self.path}: has no rows of kind {kind!r}; accepted: {', '.join(self.manifest.files)}")
        return [record.part for record in published.parts_of(self.path, self.manifest.files[kind])]

    def _empty(self, kind: Kind) -> pa.Table:
        from operators import schema

        kinds = {"scored": schema.SCORED, "selected": schema.SELECTED, "rejected": schema.REJECTED}
        return kinds.get(kind, schema.NEAR_DUPLICATES).empty_table()

    def _repr_html_(self) -> str:
        return self.summary._repr_html_()


def _checked(config: Settings) -> Config:
    return config if isinstance(config, Config) else load_config(config)


def _path(run: Run | str | PathLike[str]) -> str:
    return run.path if isinstance(run, Run) else fspath(run)
