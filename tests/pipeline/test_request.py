"""What identifies a request."""

import json
import types

import pytest
from small_runs import settings

from pipeline import request
from pipeline.engine import same_code
from pipeline.storage import files


@pytest.fixture
def content(tmp_path):
    """The content of a request, made anew each time."""

    def made(generating=None, **more):
        return request.Request(
            config=settings(tmp_path / "out", [tmp_path / "rows.jsonl"], tmp_path / "model", **more),
            reporter=None,
            lock=None,
            output="out",
            chunks=[],
            pool_texts=None,
            checked=types.SimpleNamespace(embedder="lexical"),
            pools=None,
            dtype="float32",
            scorer=types.SimpleNamespace(fingerprint="of the scorer"),
            inputs=[],
            fresh=False,
            generating=generating,
        ).content

    return made


def test_a_release_that_makes_other_rows_makes_other_content(content, monkeypatch):
    """So that rows which older code has scored are not taken over."""
    before = content()
    assert content() == before
    monkeypatch.setattr(request, "ROWS_VERSION", request.ROWS_VERSION + 1)
    assert content() != before


def test_retrieved_alternatives_make_the_content_that_they_made_before_there_were_others(
    content, tmp_path, monkeypatch
):
    """So that a run of an earlier release goes on, and a refresh of one finds that nothing has changed."""
    digested = []
    with monkeypatch.context() as patch:
        patch.setattr(files, "digest_of", lambda data: digested.append(json.loads(data)))
        content()
    asked = settings(tmp_path / "out", [tmp_path / "rows.jsonl"], tmp_path / "model").alternatives.model_dump()
    ((*parts, bounded),) = digested
    assert {name: asked[name] for name in ("k", "paraphrase_max", "pool", "same_task")} in parts and bounded is None
    assert content(alternatives__generator={"temperature": 0.1, "prompt": "{input}"}) == content()


def test_who_writes_alternatives_is_a_part_of_the_content(content, tmp_path):
    def written(source="generated", k=4, fingerprint="of the generator"):
        generating = types.SimpleNamespace(name=types.SimpleNamespace(fingerprint=fingerprint))
        return content(generating, alternatives__source=source, alternatives__k=k)

    found = [content(), written(), written(source="both"), written(k=5), written(fingerprint="of another")]
    assert len(set(found)) == len(found) and written() == found[1]


def test_other_sources_alone_make_the_same_content(content, monkeypatch):
    """So that a changed comment neither starts an interrupted run anew nor hides that a corpus is unchanged."""
    before = content()
    monkeypatch.setattr(same_code, "digest", lambda: "of other sources")
    assert content() == before
