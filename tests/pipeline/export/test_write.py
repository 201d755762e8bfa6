"""Names of files, and a folder that appears whole or not at all."""

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import BadRequest, RunFailed
from pipeline.export.write import require_free, stems, whole_folder

HOSTILE = [
    "../../etc/passwd", "..", ".", "", "/abs", "a/b", "a\\b", "a b", "naïve", "x" * 5000, "con", "NUL.txt", "a\0b", "-rf",
    ".hidden", "README", "dataset_info", "a.", "\u202egpj", "a\nb",
]  # fmt: skip


def test_a_plain_source_is_its_own_file():
    assert stems(["alpaca_en", "v1.2-b"]) == {"alpaca_en": "alpaca_en", "v1.2-b": "v1.2-b"}


def require_safe(named):
    assert len({stem.casefold() for stem in named.values()}) == len(named)
    for stem in named.values():
        assert 0 < len(stem) <= 64 and not stem.startswith((".", "-")) and not stem.endswith(".")
        assert all(char.isascii() and (char.isalnum() or char in "._-") for char in stem)


def test_hostile_sources_have_safe_and_different_names():
    named = stems([*HOSTILE, "a-b", "A-B", "Alpaca", "alpaca"])
    require_safe(named)
    assert named["a/b"].startswith("a-b-") and named["README"] != "README"
    assert stems([named["a/b"], "a/b"])["a/b"] == named["a/b"]  # nobody can take the name of another


@given(st.sets(st.text(max_size=90), max_size=8))
def test_any_sources_have_safe_and_different_names(sources):
    named = stems(sources)
    assert set(named) == sources
    require_safe(named)
    require_safe(stems({*sources, *named.values()}))


def test_a_folder_takes_its_name_when_it_is_whole(tmp_path):
    target = tmp_path / "deep" / "out"
    with whole_folder(target) as draft:
        assert draft.parent == target.parent and draft.name.startswith(".out.draft-") and not target.exists()
        (draft / "a").write_text("x")
    assert [path.name for path in target.parent.iterdir()] == ["out"] and (target / "a").read_text() == "x"


def test_an_empty_folder_is_as_good_as_none(tmp_path):
    (tmp_path / "out").mkdir()
    require_free(tmp_path / "out")
    with whole_folder(tmp_path / "out") as draft:
        (draft / "a").write_text("x")
    assert (tmp_path / "out" / "a").exists()


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError, ValueError])
def test_what_breaks_off_leaves_nothing(tmp_path, error):
    with pytest.raises(error), whole_folder(tmp_path / "out") as draft:
        (draft / "a").write_text("x")
        raise error
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_was_filled_meanwhile_stays(tmp_path):
    with pytest.raises(RunFailed, match="filled by somebody else"), whole_folder(tmp_path / "out") as draft:
        (draft / "a").write_text("ours")
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "a").write_text("theirs")
    assert [path.name for path in tmp_path.iterdir()] == ["out"] and (tmp_path / "out" / "a").read_text() == "theirs"


def test_places_that_are_taken_are_refused(tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "a").write_text("")
    (tmp_path / "link").symlink_to(tmp_path / "full")
    for name in ("file", "full", "link", "file/below", "x" * 300):
        with pytest.raises(BadRequest, match=r"accepted|no place"):
            require_free(tmp_path / name)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written_is_refused(tmp_path):
    (tmp_path / "closed").mkdir(mode=0o500)
    with pytest.raises(BadRequest, match="cannot be written"):
        require_free(tmp_path / "closed" / "out")
