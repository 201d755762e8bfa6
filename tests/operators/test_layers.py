"""The two layers point down: operators never import ray or pipeline, and no module takes a standard library's name."""

import ast
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def imports_of(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add((node.module or "").split(".")[0])
    return found


def test_operators_import_neither_ray_nor_pipeline():
    files = list((ROOT / "operators").glob("*.py"))
    assert len(files) > 10
    for path in files:
        assert not imports_of(path) & {"ray", "pipeline"}, path


def test_heavy_libraries_stay_in_the_files_named_for_them():
    allowed = {
        "torch": {"models.py", "logprob.py", "decoder.py", "attention.py", "head.py", "memory.py"},
        "transformers": {"models.py"},
        "sentence_transformers": {"embedder.py"},
        "sklearn": {"embedder.py"},
    }
    for path in (ROOT / "operators").glob("*.py"):
        for library, files in allowed.items():
            assert library not in imports_of(path) or path.name in files, (path.name, library)


def test_no_module_hides_one_of_the_standard_library():
    names = {path.stem for layer in ("operators", "pipeline", "pipeline/demo") for path in (ROOT / layer).glob("*.py")}
    assert not names & set(sys.stdlib_module_names) - {"__init__", "__main__"}
