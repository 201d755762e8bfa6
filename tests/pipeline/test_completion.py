"""Completion in a shell: a script that the shell takes, and what it offers."""

import shutil
import subprocess

import pytest

from pipeline import cli
from pipeline.flags import SHELLS


def script(capsys, shell):
    assert cli.main(["completion", shell]) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (["exp"], {"explain", "export"}),
        (["run", "--bu"], {"--budget"}),
        (["run", "al"], {"alpaca.jsonl"}),
        (["report", "ru"], {"runs"}),
        (["export", "runs", "--to", "mess"], {"messages"}),
        (["completion", ""], set(SHELLS)),
    ],
)
def test_bash_offers_what_there_is(capsys, tmp_path, words, offered):
    if not shutil.which("bash"):
        pytest.skip("there is no bash")
    (tmp_path / "alpaca.jsonl").touch()
    (tmp_path / "runs").mkdir()
    quoted = " ".join(f"'{word}'" for word in ["tss", *words])
    asked = f'\nCOMP_WORDS=({quoted}); COMP_CWORD={len(words)}; _shtab_tss; printf "%s\\n" "${{COMPREPLY[@]}}"'
    command = ["bash", "--norc", "-c", script(capsys, "bash") + asked]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert offered <= set(ended.stdout.split()) and ended.stderr == ""
    assert not words[-1] or set(ended.stdout.split()) == offered


@pytest.mark.parametrize("shell", SHELLS)
def test_every_verb_is_in_every_script(capsys, shell):
    text = script(capsys, shell)
    assert all(verb in text for verb in cli._VERBS)
