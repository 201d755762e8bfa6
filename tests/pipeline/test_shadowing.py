"""Modules of the user's folder that would be imported instead of those which a run needs."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from pipeline import cli
from pipeline.errors import BadRequest
from pipeline.shadowing import check_shadowing

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The working folder, which Ray's workers have on their path and this process does not."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    return tmp_path


def put(path):
    path.parent.mkdir(exist_ok=True)
    path.write_text("raise SystemExit(3)\n")
    return path


@pytest.mark.ray  # slow
@pytest.mark.parametrize(
    "name",
    [
        "pipeline/__init__.py",
        "operators.py",
        "datasets/__init__.py",
        "tokenizers.py",  # of a library that a dependency needs
        "pandas/__init__.py",  # of one that an extra of a dependency needs
        "attr/__init__.py",  # of one that is called otherwise (attrs)
        "queue.py",  # of the standard library
    ],
)
def test_a_module_that_would_be_imported_instead_is_named(folder, name):
    path = put(folder / name)
    with pytest.raises(BadRequest, match="run tss from another folder") as refused:
        check_shadowing(starts_ray=True)
    assert str(path) in str(refused.value)


@pytest.mark.parametrize(
    "name",
    [
        "datasets/rows.jsonl",  # a folder of data: a package that is installed goes before it
        "test/__init__.py",  # hides a package of the standard library that nothing imports
        "time.py",  # Python finds its built-in module first
        "pytest.py",  # installed, and nothing that a run needs
        "utils.py",
    ],
)
def test_what_makes_no_difference_is_let_be(folder, name):
    put(folder / name)
    check_shadowing(starts_ray=True)


def test_a_library_that_is_installed_from_the_working_folder_hides_nothing(folder):
    (folder / "yaml").symlink_to(Path(yaml.__file__).parent)
    check_shadowing(starts_ray=True)


def test_without_ray_only_what_this_process_would_import_matters(folder, monkeypatch):
    path = put(folder / "datasets" / "__init__.py")
    check_shadowing(starts_ray=False)
    monkeypatch.syspath_prepend(str(folder))
    with pytest.raises(BadRequest, match=str(path)):
        check_shadowing(starts_ray=False)


def test_the_folder_of_the_script_counts_too(folder, tmp_path_factory, monkeypatch):
    elsewhere = tmp_path_factory.mktemp("scripts")
    path = put(elsewhere / "datasets.py")
    monkeypatch.syspath_prepend(str(elsewhere))
    monkeypatch.setattr(sys, "argv", [str(elsewhere / "mine.py")])
    with pytest.raises(BadRequest, match=str(path)):
        check_shadowing(starts_ray=True)


def test_a_command_that_would_need_it_is_refused(folder, capsys):
    path = put(folder / "tokenizers.py")
    assert cli.main(["run", "none.yaml"]) == 2
    assert f"tss: {path} would be imported instead of the module 'tokenizers'" in capsys.readouterr().err


def test_it_is_named_before_it_is_imported(tmp_path):
    """`python -m` puts the working folder first on the path."""
    path = put(tmp_path / "yaml.py")
    done = subprocess.run(
        [sys.executable, "-m", "pipeline", "run", "none.yaml"],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        cwd=tmp_path,
    )
    assert done.returncode == 2 and str(path) in done.stderr
