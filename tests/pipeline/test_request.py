"""What identifies a request."""

import types
from dataclasses import replace

import pytest
from small_runs import settings

from pipeline import request
from pipeline.engine import same_code
from pipeline.errors import BadRequest
from pipeline.preflight import check_models, read_template
from pipeline.reading.exclude_files import ExcludedFile


@pytest.fixture
def content(tmp_path):
    """The content of a request, made anew each time."""

    def made(generating=None, bos_opens_turns=False, excluded=(), **more):
        return request.Request(
            config=settings(tmp_path / "out", [tmp_path / "rows.jsonl"], tmp_path / "model", **more),
            reporter=None,
            lock=None,
            output="out",
            chunks=[],
            pool_texts=None,
            checked=types.SimpleNamespace(embedder="lexical", encoder={"bos_opens_turns": bos_opens_turns}),
            pools=None,
            dtype="float32",
            scorer=types.SimpleNamespace(fingerprint="of the scorer"),
            inputs=[],
            fresh=False,
            generating=generating,
            excluded=excluded,
        ).content

    return made


def test_a_release_that_makes_other_rows_makes_other_content(content, monkeypatch):
    """So that rows which older code has scored are not taken over."""
    before = content()
    assert content() == before
    monkeypatch.setattr(request, "ROWS_VERSION", request.ROWS_VERSION + 1)
    assert content() != before


def test_the_seed_of_a_bounded_draw_decides_what_is_scored(content):
    assert content(seed=1) == content()
    bounded = {"select__mode": "bounded", "select__temperature": 0.5}
    assert content(**bounded, seed=1) != content(**bounded)


def test_a_generator_that_writes_nothing_is_no_part_of_the_content(content):
    assert content(alternatives__generator={"temperature": 0.1, "prompt": "{input}"}) == content()


def test_who_writes_alternatives_is_a_part_of_the_content(content, tmp_path):
    def written(source="generated", k=4, fingerprint="of the generator"):
        generating = types.SimpleNamespace(name=types.SimpleNamespace(fingerprint=fingerprint))
        return content(generating, alternatives__source=source, alternatives__k=k)

    found = [content(), written(), written(source="both"), written(k=5), written(fingerprint="of another")]
    assert len(set(found)) == len(found) and written() == found[1]


def test_near_duplicates_and_excluded_texts_are_a_part_of_the_content(content, monkeypatch):
    file = ExcludedFile("a.txt", 13, None, "digest", [(1, "a text of some words")])
    near = content(dedup__near=0.9)
    found = [content(), near, content(dedup__near=0.8), content(excluded=[file]), content(excluded=[file] * 2)]
    found += [content(excluded=[replace(file, **{key: value})]) for key, value in (("ngram", 8), ("digest", "other"))]
    found += [content(excluded=[replace(file, columns=["q"])]), content(excluded=[replace(file, path="b.txt")])]
    assert len(set(found)) == len(found)
    monkeypatch.setattr(request, "NEAR_VERSION", request.NEAR_VERSION + 1)
    assert content() == found[0] and content(dedup__near=0.9) != near


def test_another_context_without_a_prompt_makes_other_content(content):
    assert content(bos_opens_turns=True) != content()


def test_other_sources_alone_make_the_same_content(content, monkeypatch):
    """So that a changed comment neither starts an interrupted run anew nor hides that a corpus is unchanged."""
    before = content()
    monkeypatch.setattr(same_code, "digest", lambda: "of other sources")
    assert content() == before


def test_a_model_that_cannot_be_split_over_the_gpus_of_a_scorer_is_refused(model_folder, tmp_path):
    def checked(gpus):
        asked = settings(tmp_path / "out", [tmp_path / "rows.jsonl"], model_folder, ray__gpus_per_scorer=gpus)
        return check_models(asked, read_template(asked.scorer.template))

    assert checked(2).server is None
    with pytest.raises(BadRequest, match=r"gpus_per_scorer: found 4, and of .* the 2 num_key_value_heads cannot be"):
        checked(4)
