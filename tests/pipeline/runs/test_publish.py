"""A publish that is killed before any of its system calls leaves the former run or the new one, whole, and goes on."""

import shutil

import pytest
from publishing import try_kills

pytestmark = [
    pytest.mark.ray,  # processes
    pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed"),
]


def test_readers_see_the_former_run_or_the_new_one(tmp_path):
    outcomes = try_kills(tmp_path, list(range(3, 1000, 17)))
    assert len(outcomes) > 5
    assert {seen for _, seen, _ in outcomes} == {"former", "new"}
    assert {after for _, _, after in outcomes} == {"new"}
