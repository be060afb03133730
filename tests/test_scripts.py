"""The shell without a terminal: a line from the command line, or a script."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from glass import Sit
from tokix import cli


def sh(state: Path, *words: str, typed: str = "") -> tuple[int, str, str]:
    done = subprocess.run(
        [sys.executable, "-m", "tokix", "sh", "--durable", "none", *words],
        input=typed,
        capture_output=True,
        text=True,
        cwd=state.parent,
        env={**os.environ, "TOKIX_STATE": str(state), "PYTHONHASHSEED": "0"},
        timeout=60,
    )
    return done.returncode, done.stdout, done.stderr


def test_a_line_from_the_command_line(state: Path) -> None:
    assert sh(state, "-c", "echo a b") == (0, "a b\n", "")
    assert sh(state, "-c", "p.py:shout | p.py:shout", typed="from the input\n") == (
        0,
        "FROM THE INPUT\n",
        "what?\nwhat?\n",
    )
    code, out, err = sh(state, "-c", 'p.py:value 3 || echo "it failed"; p.py:value 0 && echo fine; p.py:value 4')
    assert (code, out) == (4, "it failed\nfine\n")
    assert err.splitlines()[-1].endswith("p.py:value (process 7) exited with 4")
    assert sh(state, "-c", "exit 9; echo never")[:2] == (9, "")


def test_a_script(state: Path) -> None:
    text = "# a remark\np.py:count 2 &\nwait\n\nps --json\necho 'last'\np.py:value 7"
    code, out, err = sh(state, typed=text)
    assert (code, out.startswith("number 0\nnumber 1\n["), out.endswith("]\nlast\n")) == (7, True, True)
    assert err == "tokix: p.py:value (process 5) exited with 7\n"
    code, out, err = sh(state, typed="p.py:shout\necho after")
    assert (code, out, err) == (0, "after\n", "what?\n"), "the lines are not for the programs"
    code, out, err = sh(state, typed="p.py:count 300 &")
    assert (code, out) == (0, "".join(f"number {n}\n" for n in range(300))), "what was started is waited for"


def test_a_script_adds_nothing_to_the_output(state: Path) -> None:
    assert sh(state, "-c", "p.py:mutter 3")[:2] == (3, "no end of the line")
    code, out, err = sh(state, typed="p.py:mutter 0\np.py:mutter 0 &\nps --frob")
    assert (code, out) == (2, "no end of the line" * 2)
    assert err.splitlines()[-1] == "tokix: unrecognized arguments: --frob; see `ps --help`"


def test_a_script_does_not_wait_for_what_others_have_left(sit: Sit, state: Path) -> None:
    person = sit()
    person.does("p.py:heard &")
    person.types("\x04\x04")
    assert person.gone() == 0
    assert cli.main(["sh", "--state", str(state), "-c", "jobs"]) == 0


def test_a_scenario_is_a_program_too(state: Path) -> None:
    (state.parent / "two.yaml").write_text("processes:\n  one: {program: echo, args: [one]}\n")
    (state.parent / "bad.yaml").write_text("processes: 3\n")
    code, out, err = sh(state, "-c", "two.yaml")
    assert (code, out) == (0, "one\n"), err
    assert sh(state, "-c", "two.yaml 3")[::2] == (2, "tokix: a scenario takes no arguments, such as 3\n")
    assert sh(state, "-c", "none.yaml") == (2, "", "tokix: none.yaml: No such file or directory\n")
    code, out, err = sh(state, "-c", "bad.yaml")
    assert (code, len(err.splitlines()), "bad.yaml:1" in err) == (2, 1, True)


def test_a_closed_output_ends_a_script(state: Path) -> None:
    words = [sys.executable, "-m", "tokix", "sh", "--durable", "none", "-c", "p.py:count 100000"]
    environment = {**os.environ, "TOKIX_STATE": str(state), "PYTHONHASHSEED": "0"}
    with subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=state.parent, env=environment
    ) as process:
        assert process.stdout
        assert process.stderr
        assert process.stdout.readline() == b"number 0\n"
        process.stdout.close()
        assert process.wait(60) == 128 + signal.SIGPIPE
        assert process.stderr.read() == b""
