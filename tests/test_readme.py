"""The README, executed: its commands and its program, on the toy machine."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", TEXT, re.DOTALL)
COMMANDS = [line.partition("#")[0].strip() for kind, text in BLOCKS if kind == "sh" for line in text.splitlines()]
TOKIX = [command.removeprefix(".venv/bin/tokix ") for command in COMMANDS if command.startswith(".venv/bin/tokix ")]


def tokix(folder, line):
    done = subprocess.run(
        [sys.executable, "-m", "tokix", *shlex.split(line)],
        cwd=folder,
        env=os.environ | {"TOKIX_STATE": str(folder / "state")},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("line", TOKIX)
def test_every_command_works(line, tmp_path):
    out = tokix(tmp_path, line)
    assert out or line == "sh"


def test_make_has_its_targets():
    rules = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert {command.removeprefix("make ") for command in COMMANDS if command.startswith("make ")} <= rules
    assert len(TOKIX) >= 4


def test_the_program_works(tmp_path):
    [program] = [text for kind, text in BLOCKS if kind == "python"]
    (tmp_path / "poem.py").write_text(program)
    tokix(tmp_path, 'run poem.py "the moon"')
    assert "the moon" in tokix(tmp_path, "ps --all --json")


def test_what_it_points_to_is_there():
    paths = re.findall(r"\]\(([^)]+)\)|`((?:kernel|syscalls|benchmarks)/[\w./]*)`", TEXT)
    assert len(paths) > 8
    for link, path in paths:
        assert (ROOT / (link or path)).exists(), link or path
