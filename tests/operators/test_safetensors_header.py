"""Headers of safetensors files are read without the weights, and whatever is wrong with a file is said before any is."""

import json

import pytest
import torch
from safetensors.torch import save_file

from operators.safetensors_header import read_index, read_shapes


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "model.safetensors"
    save_file({"a": torch.zeros(3, 4), "b": torch.zeros(()), "c": torch.zeros(0, 2)}, path, metadata={"format": "pt"})
    return path


def with_header(path, header, tail=b""):
    data = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(data).to_bytes(8, "little") + data + tail)


def test_shapes_by_name(file):
    assert read_shapes(file) == {"a": (3, 4), "b": (), "c": (0, 2)}


@pytest.mark.parametrize(
    ("kept", "words"), [(-1, "is cut off"), (40, "is cut off"), (8, "is cut off"), (3, "is no safetensors file")]
)
def test_a_file_that_is_cut_off_anywhere(file, kept, words):
    file.write_bytes(file.read_bytes()[:kept])
    with pytest.raises(OSError, match=f"model.safetensors {words}"):
        read_shapes(file)


def test_a_file_with_more_than_its_header_says(file):
    file.write_bytes(file.read_bytes() + b"\0")
    with pytest.raises(OSError, match=r"model\.safetensors is damaged"):
        read_shapes(file)


def test_a_pointer_of_git_lfs(file):
    file.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n")
    with pytest.raises(OSError, match="git lfs pull"):
        read_shapes(file)


def test_a_header_of_any_length_is_not_read(file):
    """What the first bytes promise is no reason to read so much, or to make room for it."""
    with file.open("wb") as sparse:
        sparse.write((1 << 40).to_bytes(8, "little"))
        sparse.truncate(1 << 41)
    with pytest.raises(OSError, match="is no safetensors file"):
        read_shapes(file)


@pytest.mark.parametrize(
    "header",
    [
        b"\xff",
        b"[" * 100_000,
        [1],
        {"a": 1},
        {"a": {"shape": [1], "data_offsets": [0]}},
        {"a": {"shape": [-1], "data_offsets": [0, 4]}},
        {"a": {"shape": [True], "data_offsets": [0, 4]}},
        {"a": {"shape": ["x"], "data_offsets": [0, 4]}},
    ],
)
def test_headers_that_are_none(file, header):
    with_header(file, header, b"\0" * 4)
    with pytest.raises(OSError, match="its header is not in order"):
        read_shapes(file)


@pytest.mark.parametrize(
    "index",
    ["", "[1]", "{}", '{"weight_map": {}}', '{"weight_map": {"a": 1}}', '{"weight_map": {"a": "../b"}}', "[" * 100_000],
)
def test_indices_that_are_none(tmp_path, index):
    path = tmp_path / "model.safetensors.index.json"
    path.write_text(index)
    with pytest.raises(OSError, match="is no index of safetensors files"):
        read_index(path)
