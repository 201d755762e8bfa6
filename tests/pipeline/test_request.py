"""What identifies a request."""

import importlib.metadata
import types

from small_runs import settings

from pipeline.engine import same_code
from pipeline.request import Request


def content(folder):
    wanted = settings(folder / "out", [folder / "rows.jsonl"], folder / "model")
    checked = types.SimpleNamespace(embedder="lexical")
    scorer = {"fingerprint": "of the scorer"}
    return Request(wanted, None, None, "out", [], None, checked, None, "float32", scorer, [], False).content


def test_another_release_makes_other_content(tmp_path, monkeypatch):
    """So that rows which older code has scored are not taken over; also where the package is not installed, only there."""

    def no_version(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", no_version)
    before = content(tmp_path)
    assert content(tmp_path) == before
    monkeypatch.setattr(same_code, "digest", lambda: "of another release")
    assert content(tmp_path) != before
