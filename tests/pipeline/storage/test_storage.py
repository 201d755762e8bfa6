"""Files are whole or not there, on a disk and in an object store; parts that are not what was written are found."""

import errno

import numpy as np
import pyarrow as pa
import pytest

from pipeline.storage import arrays, files, urls
from pipeline.storage.parts import DamagedPart, checked_bytes, read_table, write_table


@pytest.fixture(params=["disk", "store"])
def folder(request, tmp_path):
    if request.param == "disk":
        return str(tmp_path / "deep")
    request.getfixturevalue("object_store")
    return f"s3://bucket/storage/{tmp_path.name}"


def test_files_and_folders(folder):
    one, two = urls.join(folder, "a", "one"), urls.join(folder, "b")
    assert files.list_files(folder) == files.list_folders(folder) == [] and not files.exists(one)
    files.delete(one)
    files.write(one, b"1")
    files.write(one, b"22")
    files.write(two, b"3")
    assert files.read(one) == b"22" and files.list_files(folder) == [(two, 1)]
    assert files.list_files(folder, deep=True) == [(one, 2), (two, 1)] and files.list_folders(folder) == ["a"]
    files.move(one, urls.join(folder, "c"))
    assert not files.exists(one) and files.read(urls.join(folder, "c")) == b"22"
    files.delete_folder(folder)
    assert files.list_files(folder, deep=True) == []
    with pytest.raises(FileNotFoundError):
        files.read(two)


def test_arrays(folder):
    for array in (np.arange(12, dtype=np.float32).reshape(3, 4), np.zeros((0, 0), dtype=np.float32)):
        arrays.save_array(urls.join(folder, "a.arrow"), array)
        found = arrays.load_array(urls.join(folder, "a.arrow"))
        assert np.array_equal(found, array) and found.dtype == array.dtype


@pytest.mark.parametrize("harm", ["flip", "cut", "empty"])
def test_an_array_that_is_not_what_was_written_is_named(folder, harm):
    path = urls.join(folder, "a.arrow")
    arrays.save_array(path, np.arange(1000, dtype=np.float32))
    data = bytearray(files.read(path))
    data[2000] ^= 1
    files.write(path, {"flip": bytes(data), "cut": bytes(data[:-100]), "empty": b""}[harm])
    with pytest.raises(OSError, match=rf"{path}: is damaged"):
        arrays.load_array(path)


def test_numbers_of_another_kind_or_shape_are_not_what_was_written(tmp_path):
    flat = np.arange(6)
    digests = {arrays._digest(array.reshape(-1), array.shape) for array in (flat, flat.view("<f8"), flat.reshape(2, 3))}
    assert len(digests) == 3


@pytest.mark.parametrize("harm", ["flip", "cut", "gone"])
def test_a_part_that_is_not_what_was_written_is_named(folder, harm):
    path = urls.join(folder, "part.parquet")
    record = write_table(path, pa.table({"a": list(range(5000))}))
    assert checked_bytes(record) == files.read(path) and len(read_table(path)) == 5000
    data = bytearray(files.read(path))
    data[len(data) // 3] ^= 1
    if harm == "gone":
        files.delete(path)
    else:
        files.write(path, bytes(data) if harm == "flip" else bytes(data[: len(data) // 2]))
    for read in (lambda: checked_bytes(record), lambda: read_table(path)):
        with pytest.raises(DamagedPart, match=rf"{path}: is (damaged|gone)"):
            read()


def test_a_full_disk_leaves_what_was_there(tmp_path, monkeypatch):
    path = tmp_path / "a"
    files.write(str(path), b"old")

    def full(handle):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("pipeline.storage.files.os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        files.write(str(path), b"new")
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("how", ["write", "move"])
def test_folders_that_are_new_outlive_a_power_cut(tmp_path, monkeypatch, how):
    synced = []
    monkeypatch.setattr(files, "_sync_folder", synced.append)
    files.write(str(tmp_path / "a"), b"1")
    synced.clear()
    target = tmp_path / "b" / "c" / "d"
    files.write(str(target), b"1") if how == "write" else files.move(str(tmp_path / "a"), str(target))
    assert synced == [tmp_path, tmp_path / "b", tmp_path / "b" / "c"]


@pytest.mark.parametrize(
    ("uri", "named"),
    [
        ("s3://k:s@b/x", True),
        ("s3://k:s/t@b/x", True),
        ("s3://k:1/t@b/x", True),
        ("[s3://b/x, s3://k:s@b/x]", True),
        ("s3://b/x?scheme=http&access_key=k", True),
        ("https://h/x?X-Amz-Signature=1", True),
        ("abfss://c@h/x", True),
        ("https://h/x?sv=1&sig=abc", True),
        ("https://h/x%3Fsig%3Dabc", True),
        ("s3://k%3As%40b/x", True),
        ("s3://k%253As%2540b/x", True),
        ("https://h/x?design=1", False),
        ("s3://b/50%25/x", False),
        ("s3://b/x?endpoint_override=h:9000", False),
        ("s3://b/x@y", False),
        ("http://h:9000/x", False),
        ("/a@b/c", False),
    ],
)
def test_credentials_in_a_url(uri, named):
    assert urls.has_credentials(uri) == named
