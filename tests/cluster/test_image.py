"""The Dockerfile is understood to its last instruction, and keeps simple rules. `tests/benchmarks/image.py` runs it."""

from __future__ import annotations

import re
import shlex
import subprocess
import tomllib
from pathlib import Path

import dockerfile
import pytest

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "cluster" / "Dockerfile").read_text()
SECRET = re.compile(r"SECRET|TOKEN|PASSWORD|CREDENTIAL|ACCESS_KEY", re.IGNORECASE)


@pytest.fixture
def build_and_final():
    return dockerfile.stages(TEXT, {})


def test_every_instruction_is_understood():
    """Nothing is left out: as many instructions as lines that begin one."""
    lines = [line.strip() for line in TEXT.splitlines() if line.strip() and not line.strip().startswith("#")]
    begins = [line for before, line in zip(["", *lines], lines, strict=False) if not before.endswith("\\")]
    assert [one.name for one in dockerfile.instructions(TEXT)] == [line.split()[0] for line in begins]


def test_base_image_is_pinned_and_the_same(build_and_final):
    """To a patch version of Python and a release of Debian; both stages, since the virtual environment moves."""
    bases = {stage.base for stage in build_and_final}
    assert len(bases) == 1
    assert re.fullmatch(r"python:3\.11\.\d+-slim-bookworm", bases.pop())
    (other, _) = dockerfile.stages(TEXT, {"PYTHON": "3.12.1-slim-bookworm"})
    assert other.base == "python:3.12.1-slim-bookworm"


def test_it_ends_as_a_number_that_is_not_root(build_and_final):
    final = build_and_final[-1]
    (user,) = final.only("USER")
    assert user.text == "1000:1000"
    # After it nothing is installed or copied any more, and what runs is only tried.
    after = final.instructions[final.instructions.index(user) + 1 :]
    assert {one.name for one in after} <= {"RUN", "CMD", "ARG", "LABEL"}
    (tried,) = [one.text for one in after if one.name == "RUN"]
    assert "tss --help" in tried
    assert "import" in tried


def test_installs_are_pinned(build_and_final):
    """By the constraints, each; apt keeps no lists; and nothing is fetched in another way."""
    runs = [one.text for stage in build_and_final for one in stage.only("RUN")]
    installs = [part for text in runs for part in re.split(r"&&|;", text) if re.search(r"pip3? install", part)]
    assert len(installs) == 4
    assert all("--constraint constraints.txt" in part for part in installs)
    # Constraints do not reach into the environment in which pip builds a folder, so there is none.
    assert all("--no-build-isolation" in part for part in installs if shlex.split(part)[-1] == ".")
    assert all("rm -rf /var/lib/apt/lists/*" in text for text in runs if "apt-get" in text)
    assert not re.search(r"\b(curl|wget|git clone)\b", "\n".join(runs))
    assert not re.search(r"^\s*ADD\b", TEXT, re.MULTILINE | re.IGNORECASE)


def test_no_secrets(build_and_final):
    """Neither as arguments nor in the environment, which both stay readable in an image."""
    names = [one.text.partition("=")[0] for stage in build_and_final for one in stage.only("ARG")]
    names += [key for stage in build_and_final for one in stage.only("ENV") for key in dockerfile.pairs(one)]
    assert not [name for name in names if SECRET.search(name)]


def test_nothing_leaves_the_cluster_unasked(build_and_final):
    found = dockerfile.environment(build_and_final[-1], {})
    assert found["RAY_USAGE_STATS_ENABLED"] == "0"
    assert found["HF_HUB_DISABLE_TELEMETRY"] == "1"
    assert found["PATH"].startswith("/opt/tss/bin:")


def test_what_is_copied_is_in_the_context(build_and_final):
    """Everything that is copied exists and passes Dockerfile.dockerignore, whose other lines name nothing else."""
    ignore = (ROOT / "cluster" / "Dockerfile.dockerignore").read_text().splitlines()
    allowed = {line.removeprefix("!") for line in ignore if line.startswith("!")}
    copied = {word for one in build_and_final[0].only("COPY") for word in shlex.split(one.text)[:-1]}
    assert copied == allowed
    assert all((ROOT / name).exists() for name in copied)
    assert ignore.index("*") < min(ignore.index(f"!{name}") for name in allowed)
    assert not build_and_final[0].only("CMD")
    assert [one.flags["from"] for one in build_and_final[1].only("COPY")] == [build_and_final[0].name]


def test_the_package_is_whole(build_and_final):
    """What pyproject.toml packages, its readme and its license are copied before it is installed."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    folders = {name.partition(".")[0] for name in project["tool"]["setuptools"]["packages"]}
    needed = folders | {"pyproject.toml", project["project"]["readme"], *project["project"]["license-files"]}
    copied = {word for one in build_and_final[0].only("COPY") for word in shlex.split(one.text)[:-1]}
    assert needed <= copied


@pytest.mark.parametrize(
    ("variant", "index", "expected"),
    [
        ("cpu", "https://index.example/cpu", "--no-deps torch from https://index.example/cpu"),
        ("cpu", "", "--no-deps torch from its own index"),
        ("gpu", "https://index.example/cpu", "--no-deps torch from its own index"),
        ("tpu", "", None),
    ],
)
def test_where_torch_comes_from(build_and_final, tmp_path, variant, index, expected):
    """Run with a `pip` that says what it was asked: the CPU index for CPUs alone, and another variant is refused."""
    (step,) = [one.text for one in build_and_final[0].only("RUN") if "VARIANT" in one.text]
    (tmp_path / "pip").write_text('#!/bin/sh\necho "$@" from "${PIP_INDEX_URL:-its own index}"\n')
    (tmp_path / "pip").chmod(0o755)
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "VARIANT": variant, "TORCH_CPU_INDEX": index}
    done = subprocess.run(["/bin/sh", "-c", step], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == (0 if expected else 1)
    assert done.stdout.strip().endswith(expected or "")


def test_requirements_are_those_of_the_project(build_and_final, tmp_path):
    """The step that writes them writes what builds the package, all dependencies and the extra of the cluster; what builds it
    is pinned."""
    found = tomllib.loads((ROOT / "pyproject.toml").read_text())
    project, build = found["project"], found["build-system"]["requires"]
    (step,) = [one.text for one in build_and_final[0].only("RUN") if "tomllib" in one.text]
    (tmp_path / "pyproject.toml").write_bytes((ROOT / "pyproject.toml").read_bytes())
    subprocess.run(["/bin/sh", "-c", step.partition("&&")[0]], cwd=tmp_path, check=True)
    written = (tmp_path / "requirements.txt").read_text().splitlines()
    assert written == [*build, *project["dependencies"], *project["optional-dependencies"]["cluster"]]
    pinned = set(re.findall(r"^(\S+)==", (ROOT / "constraints.txt").read_text(), re.MULTILINE))
    assert {re.match(r"[\w-]+", one)[0] for one in build} <= pinned


# The parser

SMALL = """\
# a comment
ARG BASE=one
FROM image:${BASE} AS first
ARG NAME="a b"
ENV A=1 B="$A-2"
ENV C=${NAME} PATH=/x:$PATH
WORKDIR /w
COPY file folder ./
COPY --chown=1000:1000 file other/
RUN echo "$C" > said \\
    # between continued lines
    && echo second >> said
FROM image
COPY --from=first /w/said /kept
USER 7:8
CMD ["a", "b"]
"""


def test_stages_and_arguments():
    first, second = dockerfile.stages(SMALL, {"BASE": "two"})
    assert (first.base, first.name, second.base, second.name) == ("image:two", "first", "image", "1")
    assert dockerfile.environment(first, {"NAME": "n"})["C"] == "n"
    assert dockerfile.command(second.only("CMD")[0]) == ["a", "b"]
    with pytest.raises(dockerfile.Unknown, match="OTHER"):
        dockerfile.stages(SMALL, {"OTHER": "1"})


def test_a_stage_as_a_script(tmp_path):
    """What the script does to a folder that stands for the root: files, working folder, variables, and the end at a failure."""
    (tmp_path / "context" / "folder").mkdir(parents=True)
    (tmp_path / "context" / "file").write_text("a file")
    (tmp_path / "context" / "folder" / "inner").write_text("inner")
    first, second = dockerfile.stages(
        SMALL.replace("WORKDIR /w", f"WORKDIR {tmp_path}/w").replace(" --chown=1000:1000", ""), {}
    )
    script = dockerfile.script(first, {}, context=str(tmp_path / "context"))
    subprocess.run(["/bin/sh", "-c", script], check=True, capture_output=True)
    folder = tmp_path / "w"
    assert (folder / "said").read_text() == "a b\nsecond\n"
    assert {path.name for path in folder.iterdir()} == {"file", "inner", "other", "said"}
    assert (folder / "other" / "file").read_text() == "a file"
    assert "export B=-2" in script  # variables have the values of before the instruction
    assert "chown -R 1000:1000 other/" in dockerfile.script(dockerfile.stages(SMALL, {})[0], {})
    assert "/stages/first/w/said" in dockerfile.script(second, {})
    broken = dockerfile.stages("FROM x\nRUN false\nRUN touch never", {})[0]
    assert (
        subprocess.run(["/bin/sh", "-c", dockerfile.script(broken, {})], check=False, capture_output=True).returncode
        == 1
    )


def test_another_user_runs_as_such():
    (stage,) = dockerfile.stages("FROM x\nRUN id\nUSER 1000:1001\nRUN id", {})
    script = dockerfile.script(stage, {})
    assert script.count("/bin/sh -c id") == 2
    assert "setpriv --reuid=1000 --regid=1001 --clear-groups -- /bin/sh -c id" in script


@pytest.mark.parametrize(
    "text",
    [
        "FROM x\nADD https://example.com/a /a",
        "FROM x\nRUN --mount=type=secret,id=a true",
        "FROM x\nRUN <<EOF\ntrue\nEOF",
        "FROM x\nHEALTHCHECK NONE",
        "FROM x\nENV A 1",
        "RUN before",
        "FROM x\nRUN true \\",
        "FROM x\nCOPY --link a b",
    ],
)
def test_what_is_not_known_is_refused(text):
    with pytest.raises(dockerfile.Unknown):
        for stage in dockerfile.stages(text, {}):
            dockerfile.script(stage, {})
