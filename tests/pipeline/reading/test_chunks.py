"""Which files a path means: the same on disks and in object stores, and none that is asked for is passed over."""

import os
import re

import pytest
from conftest import write_jsonl

from pipeline import read_config
from pipeline.errors import BadRequest
from pipeline.reading import chunks
from pipeline.reading.snapshot import join_pieces

# Links to a file and to a folder, and the paths that ask for what they name.
LINKS = {"b.jsonl": ["", "*.jsonl", "b.jsonl"], "more": ["", "**/*.jsonl", "*/*.jsonl"]}
TREE = ["x.jsonl", "a/y.jsonl", "a/b/z.jsonl", ".h/q.jsonl", "a/.k.jsonl", "a/notes.txt"]


def planned(path):
    return chunks.plan(read_config.validate({"input": str(path), "output": "o"}, "test"))


def names(path, base):
    return [chunk.uri.removeprefix(str(base)).lstrip("/") for chunk in planned(path)]


@pytest.fixture(params=["disk", "store"])
def tree(request, tmp_path, object_store):
    """A folder of small files, on a disk and in an object store."""
    base = tmp_path if request.param == "disk" else f"s3://bucket/{tmp_path.name}"
    for name in TREE:
        if request.param == "disk":
            (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
            (tmp_path / name).write_text("{}\n")
        else:
            with object_store.open_output_stream(f"bucket/{tmp_path.name}/{name}") as file:
                file.write(b"{}\n")
    return base


@pytest.mark.parametrize(
    ("pattern", "matched"),
    [
        ("*.jsonl", ["x.jsonl"]),
        ("a/*.jsonl", ["a/y.jsonl"]),
        ("*/?.jsonl", ["a/y.jsonl"]),
        ("**/*.jsonl", ["a/b/z.jsonl", "a/y.jsonl", "x.jsonl"]),
        ("a/**/*.jsonl", ["a/b/z.jsonl", "a/y.jsonl"]),
        ("*/*/[xyz].jsonl", ["a/b/z.jsonl"]),
        (".h/*.jsonl", [".h/q.jsonl"]),
        ("a/.*.jsonl", ["a/.k.jsonl"]),
        ("a/*", ["a/y.jsonl"]),
        ("", ["a/b/z.jsonl", "a/y.jsonl", "x.jsonl"]),
    ],
)
def test_a_glob_means_the_same_on_disks_and_in_stores(tree, pattern, matched):
    assert names(f"{tree}/{pattern}".rstrip("/"), tree) == matched


def test_a_glob_that_matches_nothing_is_a_bad_request(tree):
    with pytest.raises(BadRequest, match="no such file"):
        planned(f"{tree}/*.parquet")


@pytest.mark.parametrize(
    ("link", "path"),
    [(link, path) for link, paths in LINKS.items() for path in paths],
)
def test_a_link_that_leads_nowhere_is_named(tmp_path, link, path):
    write_jsonl(tmp_path / "a.jsonl", [{"a": 1}])
    (tmp_path / link).symlink_to(tmp_path / "gone")
    with pytest.raises(BadRequest, match=rf"{re.escape(link)}.*no such file"):
        planned(f"{tmp_path}/{path}".rstrip("/"))


def test_a_link_that_leads_nowhere_among_other_files_disturbs_no_glob_that_does_not_ask_for_it(tmp_path):
    write_jsonl(tmp_path / "a.jsonl", [{"a": 1}])
    (tmp_path / "b.jsonl").symlink_to(tmp_path / "gone")
    assert names(f"{tmp_path}/a*.jsonl", tmp_path) == ["a.jsonl"]


def test_a_shard_of_a_saved_dataset_that_is_a_link_to_nothing_is_named(tmp_path):
    (tmp_path / "dataset_info.json").write_text("{}")
    (tmp_path / "data-00000-of-00001.arrow").symlink_to(tmp_path / "gone")
    with pytest.raises(BadRequest, match=r"data-00000-of-00001\.arrow.*no such file"):
        planned(tmp_path)


def test_a_folder_that_cannot_be_listed_is_named(tmp_path, monkeypatch):
    write_jsonl(tmp_path / "a.jsonl", [{"a": 1}])
    (tmp_path / "secret").mkdir()

    def scan(path, *, then=os.scandir):
        if str(path).endswith("secret"):
            raise PermissionError(13, "Permission denied", str(path))
        return then(path)

    monkeypatch.setattr(os, "scandir", scan)
    with pytest.raises(BadRequest, match=r"Permission denied.*secret"):
        planned(tmp_path)


def test_a_link_to_a_folder_beside_the_input_is_followed(tmp_path):
    (tmp_path / "all").mkdir()
    (tmp_path / "view").mkdir()
    write_jsonl(tmp_path / "all" / "a.jsonl", [{"a": 1}])
    (tmp_path / "view" / "everything").symlink_to(tmp_path)
    assert names(tmp_path / "view", tmp_path) == ["view/everything/all/a.jsonl"]


def test_a_folder_that_links_to_one_above_is_read_once(tmp_path):
    (tmp_path / "a").mkdir()
    write_jsonl(tmp_path / "a" / "rows.jsonl", [{"a": 1}])
    (tmp_path / "a" / "up").symlink_to(tmp_path)
    assert names(f"{tmp_path}/**/*.jsonl", tmp_path) == names(tmp_path, tmp_path) == ["a/rows.jsonl"]


def test_a_dataset_of_the_hub_is_held_to_its_commit(monkeypatch):
    asked = []
    monkeypatch.setattr(chunks, "hub_version", lambda name, kind: "c0ffee")
    monkeypatch.setattr("datasets.load_dataset", lambda name, **more: asked.append((name, more)) or [1, 2, 3])
    (chunk,) = planned("hf://datasets/owner/rows")
    assert asked == [("owner/rows", {"split": "train", "revision": "c0ffee"})]
    (described,) = join_pieces([chunk], [])
    assert (chunk.revision, described.digest) == ("c0ffee", "c0ffee")
