"""What lies beside the code in a checkout changes no verdict on it."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def verdict(checkout: Path) -> str:
    """What the linter says of the order of imports."""
    command = [sys.executable, "-m", "ruff", "check", "--no-cache", "--output-format", "concise", "--select", "I", "."]
    return subprocess.run(command, cwd=checkout, capture_output=True, text=True, check=False).stdout


def test_folders_in_a_checkout_do_not_change_the_order_of_imports(tmp_path):
    pytest.importorskip("ruff")
    for name in ("operators", "pipeline", "tests"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    before = verdict(tmp_path)
    # Folders that share a name with what the tests import, as `runs/` of the demo may, and code of a user's own in them.
    for module in {"runs", "build", *(path.stem for path in (ROOT / "tests").rglob("*.py"))}:
        (tmp_path / module / "operators").mkdir(parents=True)
        (tmp_path / module / "operators" / "unsorted.py").write_text("import sys\nimport os\n")
    assert verdict(tmp_path) == before
