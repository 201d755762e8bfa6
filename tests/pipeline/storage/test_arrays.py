"""Arrays come back as they were, mapped rather than copied."""

import numpy as np
import pyarrow as pa
import pytest

from pipeline.storage.arrays import load_array, save_array


@pytest.mark.parametrize("shape", [(0,), (0, 0), (7,), (3, 5), (1, 1)])
@pytest.mark.parametrize("kind", [np.float32, np.int64])
def test_an_array_comes_back(tmp_path, shape, kind):
    array = np.arange(int(np.prod(shape)), dtype=kind).reshape(shape)
    save_array(str(tmp_path / "a.arrow"), array)
    back = load_array(str(tmp_path / "a.arrow"))
    assert back.dtype == array.dtype and back.shape == array.shape and np.array_equal(back, array)


def test_processes_share_what_is_mapped(tmp_path):
    array = np.random.default_rng(0).normal(size=(1 << 16, 16)).astype(np.float32)  # 4 MiB
    save_array(str(tmp_path / "a.arrow"), array)
    before = pa.total_allocated_bytes()
    back = load_array(str(tmp_path / "a.arrow"))
    assert pa.total_allocated_bytes() - before < 1 << 20
    assert np.array_equal(back, array)
