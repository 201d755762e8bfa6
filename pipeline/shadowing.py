"""Modules of the user's own folder that would stand for those which this project needs.

Ray puts the folder in which a command is run first on the path of its workers, as `python -m` does for the command itself: a
`datasets/` or `tokenizers.py` there would be imported instead of the library. So this check comes before any import but of the
standard library.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from importlib import metadata
from importlib.machinery import EXTENSION_SUFFIXES, SOURCE_SUFFIXES, FrozenImporter, PathFinder
from pathlib import Path

from pipeline.errors import BadRequest

_ROOT = Path(__file__).resolve().parents[1]
_OWN = frozenset({"operators", "pipeline"})
# Modules of the standard library that no program imports while it runs.
_UNUSED = frozenset({"antigravity", "idlelib", "lib2to3", "test", "this", "turtle", "turtledemo"})
_REQUIREMENT = re.compile(r"([\w.-]+)\s*(?:\[([^]]*)])?")  # a distribution, and the extras of it that are asked for


def check_shadowing(*, starts_ray: bool) -> None:
    """Raise BadRequest that names a module in the working folder, or in the folder of the script, which would be imported
    instead of one that this project needs."""
    here, script = Path.cwd().resolve(), Path(sys.argv[0]).resolve().parent
    on_path = [Path(folder).resolve() for folder in sys.path]
    for folder in dict.fromkeys((here, script)):
        if folder in on_path or (starts_ray and folder == here):
            elsewhere = [other for other in on_path if other != folder]
            for name, path in _shadows(folder, elsewhere):
                raise BadRequest(
                    f"{path} would be imported instead of the module {name!r} that tss needs; "
                    "run tss from another folder, or give that one another name"
                )


def _shadows(folder: Path, elsewhere: list[Path]) -> Iterator[tuple[str, Path]]:
    """(name, file) of the modules in a folder that hide one of this project, of the standard library, or of a distribution
    that this project depends on. A folder without `__init__.py`, such as one of data, hides none of them."""
    installed = {name for other in elsewhere for name in _module_names(other)}
    for name in sorted(_module_names(folder) & (_OWN | sys.stdlib_module_names | installed)):
        module = _file_of(name, [folder])
        if module is None or module == _file_of(name, [_ROOT] if name in _OWN else elsewhere):
            continue
        if name in _OWN or (_hidden_from_the_library(name) if name in sys.stdlib_module_names else _is_needed(name)):
            yield name, module


def _module_names(folder: Path) -> set[str]:
    """Names of what may be modules in a folder of the path, by its listing alone."""
    try:
        names = [path.name for path in folder.iterdir()]
    except OSError:  # a path may hold folders that are not there, and archives
        return set()
    suffixes = (*SOURCE_SUFFIXES, *EXTENSION_SUFFIXES)
    return {name.partition(".")[0] for name in names if "." not in name or name.endswith(suffixes)}


def _file_of(name: str, folders: list[Path]) -> Path | None:
    """The file that an import of a module reads first; None where there is none."""
    module = PathFinder.find_spec(name, list(map(str, folders)))
    return Path(module.origin).resolve() if module and module.has_location and module.origin else None


def _hidden_from_the_library(name: str) -> bool:
    """Whether a file can stand for this module of the standard library: not for those that are built into Python."""
    return name not in _UNUSED and name not in sys.builtin_module_names and FrozenImporter.find_spec(name) is None


def _is_needed(name: str) -> bool:
    """Whether an installed module belongs to a distribution that this project depends on, or that one of these does."""
    needed: set[tuple[str, frozenset[str]]] = set()
    waiting: list[tuple[str, frozenset[str]]] = [("task-specificity", frozenset())]
    while waiting:
        requirement = waiting.pop()
        if requirement not in needed:
            needed.add(requirement)
            waiting += _requirements(*requirement)
    owners = metadata.packages_distributions().get(name, ())
    return not {_normal(owner) for owner in owners}.isdisjoint(distribution for distribution, _ in needed)


def _requirements(distribution: str, extras: frozenset[str]) -> Iterator[tuple[str, frozenset[str]]]:
    """What a distribution with some of its extras requires: other ones, each with the extras of it."""
    try:
        requirements = metadata.requires(distribution) or []
    except metadata.PackageNotFoundError:  # one for another system, or this project in a checkout that is not installed
        return
    for requirement in requirements:
        condition = re.findall(r"extra\s*==\s*['\"]([^'\"]+)", requirement)
        matched = _REQUIREMENT.match(requirement)
        if matched and (not condition or extras.intersection(condition)):
            yield _normal(matched[1]), frozenset(re.findall(r"[\w.-]+", matched[2] or ""))


def _normal(distribution: str) -> str:
    return re.sub(r"[-_.]+", "-", distribution).lower()
