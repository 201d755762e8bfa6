"""Processes of Python that this one starts by itself."""

from __future__ import annotations

import json
import sys
from pathlib import Path


def python_command(code: str) -> list[str]:
    """The command of a process that runs `code` with the modules that this one has."""
    paths = [str(Path(__file__).resolve().parents[1]), *sys.path]
    prepared = f"import json, sys; sys.path[:0] = json.loads(sys.argv[1]); {code}"
    # A working folder is no place of modules: it may hold a json.py.
    return [sys.executable, "-P", "-c", prepared, json.dumps(paths)]
