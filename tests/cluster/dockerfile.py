"""A Dockerfile without Docker: parsed, and each stage as a shell script that does in a root file system what the stage says.

It knows what Dockerfiles need here, and refuses the rest: FROM, ARG, ENV, LABEL, WORKDIR, USER, COPY (with --from and --chown),
RUN, CMD and ENTRYPOINT, with continued lines. It is no builder: there are no layers, no cache, and base images are not fetched.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


class Unknown(ValueError):
    """Something in a Dockerfile that is not known here."""


@dataclass(frozen=True)
class Instruction:
    """One instruction: its name in capitals, its flags (--from=build), and the rest of its text."""

    name: str
    text: str
    flags: Mapping[str, str] = field(default_factory=dict)
    line: int = 0


@dataclass(frozen=True)
class Stage:
    """A stage: what it starts from, its name or number, and its instructions after FROM, in order."""

    base: str
    name: str
    instructions: Sequence[Instruction]

    def only(self, name: str) -> list[Instruction]:
        return [one for one in self.instructions if one.name == name]


_KNOWN = {"FROM", "ARG", "ENV", "LABEL", "WORKDIR", "USER", "COPY", "RUN", "CMD", "ENTRYPOINT"}
_FLAGS = {"COPY": {"from", "chown", "chmod"}}


def instructions(text: str) -> list[Instruction]:
    """The instructions of a Dockerfile, continued lines joined as Docker joins them, comments left out."""
    found, pending, start = [], "", 0
    for number, line in enumerate(text.splitlines(), start=1):
        stripped = line.strip()
        if stripped.startswith("#") or not stripped:  # also between continued lines
            continue
        start = start if pending else number
        if stripped.endswith("\\"):
            pending += line.rstrip()[:-1]
            continue
        found.append(_instruction(pending + line, start))
        pending = ""
    if pending:
        raise Unknown(f"line {start}: continued beyond the end of the file")
    return found


def _instruction(text: str, line: int) -> Instruction:
    name, _, rest = text.strip().partition(" ")
    name, rest, flags = name.upper(), rest.strip(), {}
    if name not in _KNOWN:
        raise Unknown(f"line {line}: {name}")
    while match := re.match(r"--([a-z]+)=(\S+)\s+", rest):
        flags[match[1]], rest = match[2], rest[match.end() :]
    if set(flags) - _FLAGS.get(name, set()) or rest.startswith(("--", "<<")):
        raise Unknown(f"line {line}: {name} {text[:60]}")
    return Instruction(name, rest, flags, line)


def stages(text: str, arguments: Mapping[str, str]) -> list[Stage]:
    """The stages, with the arguments before the first FROM, or those given, put into the names of base images."""
    found: list[Stage] = []
    scope: dict[str, str] = {}
    parsed = instructions(text)
    declared = {_pair(one)[0] for one in parsed if one.name == "ARG"}
    if unknown := set(arguments) - declared:
        raise Unknown(f"no ARG of this name: {', '.join(sorted(unknown))}")
    for one in parsed:
        if one.name == "FROM":
            base, _, name = expand(one.text, scope).partition(" AS ")
            found.append(Stage(base.strip(), name.strip() or str(len(found)), []))
        elif found:
            found[-1].instructions.append(one)  # type: ignore[attr-defined]
        elif one.name == "ARG":
            key, default = _pair(one)
            scope[key] = arguments.get(key, default)
        else:
            raise Unknown(f"line {one.line}: {one.name} before FROM")
    return found


def _pair(one: Instruction) -> tuple[str, str]:
    """Name and default of an ARG, without quotes."""
    key, _, value = one.text.partition("=")
    return key, "".join(shlex.split(value))


def pairs(one: Instruction) -> dict[str, str]:
    """Keys and values of an ENV or LABEL, before variables are put in."""
    found = {}
    for word in shlex.split(one.text):
        key, separator, value = word.partition("=")
        if not separator:
            raise Unknown(f"line {one.line}: {one.name} without =")
        found[key] = value
    return found


def expand(text: str, scope: Mapping[str, str]) -> str:
    """The text with $NAME and ${NAME} put in; unknown names are empty, as for Docker."""
    return re.sub(r"\$(?:\{(\w+)\}|(\w+))", lambda match: scope.get(match[1] or match[2], ""), text)


def command(one: Instruction) -> list[str]:
    """A CMD or ENTRYPOINT in JSON form."""
    try:
        found = json.loads(one.text)
    except ValueError as error:
        raise Unknown(f"line {one.line}: {one.name} that is no list in JSON") from error
    return found


_PATH = "/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin"  # of the official Python images


def environment(stage: Stage, arguments: Mapping[str, str]) -> dict[str, str]:
    """What a container of the stage finds in its environment."""
    scope = {**arguments, "PATH": _PATH}
    found = {"PATH": _PATH}
    for one in stage.only("ENV"):
        found |= {key: expand(value, scope | found) for key, value in pairs(one).items()}
    return found


def script(stage: Stage, arguments: Mapping[str, str], context: str = "/context", others: str = "/stages") -> str:
    """A shell script that does what the stage does, to be run as root in a root file system that stands for its base image.

    `context` is where the build's context lies in it, and below `others` lie the roots of other stages by their names. Each RUN
    gets what Docker gives it: the arguments of this stage so far, its ENV, its WORKDIR, its USER. It ends at the first failure.
    """
    lines, scope, user = ["set -eu", "cd /"], {"PATH": _PATH}, ""
    for one in stage.instructions:
        said = f"{one.name} {' '.join(one.text.split())}"
        lines.append(f"printf '%s\\n' {shlex.quote(f'--- {said[:100]}')}")
        if one.name == "ARG":
            key, default = _pair(one)
            scope.setdefault(key, arguments.get(key, default))
            lines.append(f"export {key}={shlex.quote(scope[key])}")
        elif one.name == "ENV":
            new = {key: expand(value, scope) for key, value in pairs(one).items()}
            scope |= new
            lines += [f"export {key}={shlex.quote(value)}" for key, value in new.items()]
        elif one.name == "WORKDIR":
            folder = shlex.quote(expand(one.text, scope))
            lines.append(f"mkdir -p {folder}; cd {folder}")
        elif one.name == "USER":
            user = expand(one.text, scope)
        elif one.name == "COPY":
            lines += _copy(one, scope, context, others)
        elif one.name == "RUN":
            lines.append(_as(user, one.text))
    return "\n".join(lines) + "\n"


def _copy(one: Instruction, scope: Mapping[str, str], context: str, others: str) -> list[str]:
    """Contents of folders are copied, not the folders; what is copied belongs to root, or to --chown."""
    *sources, target = (expand(word, scope) for word in shlex.split(one.text))
    root = f"{others}/{one.flags['from']}" if "from" in one.flags else context
    owner = one.flags.get("chown", "0:0")
    lines = []
    for source in sources:
        from_there = shlex.quote(f"{root}/{source.lstrip('/')}")
        into = shlex.quote(target)
        to_folder = len(sources) > 1 or target.endswith("/")
        kept = f"mkdir -p {into}; cp -a --no-preserve=ownership {from_there} {into}"
        file = f'mkdir -p "$(dirname {into})"; cp -a --no-preserve=ownership {from_there} {into}'
        folder = f"mkdir -p {into}; cp -a --no-preserve=ownership {from_there}/. {into}"
        lines.append(f"if [ -d {from_there} ]; then {folder}; else {kept if to_folder else file}; fi")
    return [*lines, *([f"chown -R {owner} {shlex.quote(target)}"] if owner != "0:0" else [])]


def _as(user: str, text: str) -> str:
    if not user:
        return f"/bin/sh -c {shlex.quote(text)}"
    account, _, group = user.partition(":")
    group = group or account
    return f"setpriv --reuid={account} --regid={group} --clear-groups -- /bin/sh -c {shlex.quote(text)}"
