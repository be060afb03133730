"""`tokix run`, as a person uses it: what goes in, what comes out, and how it ends."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from command import Start
from tokix import cli
from tokix.shell.status import sentence
from tokix.shell.table import of_processes
from tokix.syscalls import ExitStatus, ProcessInfo


@pytest.mark.parametrize(
    ("words", "shown", "told"),
    [
        (["echo", "hello", "3"], "hello 3\n", ""),
        (["pingpong", "2"], "ping 1, pong 1\nping 2, pong 2\n", 'exited with {"rounds":2}\n'),
        (["philosophers", "2", "1"], "philosopher 0 has meal 1 and thinks of ", 'exited with {"meals":2}\n'),
        (["mapreduce", "a b a"], "    2 a\n    1 b\n", '"words":{"a":2,"b":1}'),
    ],
)
def test_each_program_runs_twice_in_a_row(
    words: list[str], shown: str, told: str, tokix: Start, state: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    code, out, err = tokix("run", *words).end()
    assert (code, out.startswith(shown), told in err, len(err.splitlines())) == (0, True, True, told != "")
    assert cli.main(["run", "--state", str(state), *words]) == 0
    assert capfd.readouterr().out == out


def test_arguments_are_json_where_they_look_like_it(tokix: Start) -> None:
    words = ["1", "1.5", "[1]", '{"a": null}', "true", "null", '"quoted"', "a b", "--state", "-x", ""]
    code, out, err = tokix("run", "--lanes", 2, "programs.py:value", json.dumps(words)).end()
    assert (code, out) == (0, "")
    assert json.loads(err.partition(" exited with ")[2]) == words
    assert cli.argument("NaN") == "NaN", "which is no JSON"
    assert cli.argument("1e999") == "1e999", "which no float can hold"
    assert [cli.argument(word) for word in words] == [
        *(1, 1.5, [1], {"a": None}, True, None),
        *('"quoted"', "a b", "--state", "-x", ""),
    ]


def test_input_comes_from_where_it_comes_from(tokix: Start, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("from a file\n")
    assert tokix("run", "echo").end("from a pipe\n") == (0, "from a pipe\n", "")
    with (tmp_path / "text").open() as file:
        assert tokix("run", "echo", stdin=file).end() == (0, "from a file\n", "")
    assert tokix("run", "echo", stdin=subprocess.DEVNULL).end() == (0, "", "")


def test_closed_descriptors_are_not_taken_for_something_else(tokix: Start, state: Path) -> None:
    """The store must not be opened where the output goes."""

    def closed(*fds: int) -> Callable[[], None]:
        def close() -> None:
            for fd in fds:
                os.close(fd)

        return close

    code, _, err = tokix("run", "echo", "hi", preexec_fn=closed(0, 1)).end()
    assert (code, err) == (
        70,
        "tokix: no output any more (Bad file descriptor); the next kernel shows what is missing\n",
    )
    assert tokix("ps", preexec_fn=closed(1)).end()[0] == 0
    code, out, err = tokix("run", "echo", preexec_fn=closed(0, 2)).end()
    assert (code, out, err) == (0, "hi\n", ""), "what nobody had seen; and an input that is at its end"


@pytest.mark.parametrize(("word", "code"), [("7", 7), ("0", 0), ("null", 0), ("256", 0), ('{"a":1}', 0)])
def test_the_exit_code_is_that_of_the_program(
    word: str, code: int, state: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["run", "--state", str(state), f"{state.parent}/programs.py:value", word]) == code
    told = "" if word == "null" else f"tokix: {state.parent}/programs.py:value (process 3) exited with {word}\n"
    assert capfd.readouterr() == ("", told)


def test_a_crashed_program(tokix: Start) -> None:
    code, out, err = tokix("run", "programs.py:crash").end()
    assert (code, out) == (1, "before\n")
    assert re.fullmatch(r"tokix: \S+/programs.py:crash \(process 3\) crashed: ValueError: bad luck \(\S+:\d+\)\n", err)


def test_a_long_value_is_shown_in_part(state: Path, capfd: pytest.CaptureFixture[str]) -> None:
    words = ["run", "--state", str(state), f"{state.parent}/programs.py:value", "\x1b[31m" * 1000]
    assert cli.main(words) == 0
    err = capfd.readouterr().err
    assert len(err) < 1200
    assert err.endswith("… (10002 characters)\n")


def test_a_process_table_shows_the_beginning_of_long_arguments() -> None:
    process = ProcessInfo(pid=3, ppid=1, program="p", args=["x" * 10**6], state="BLOCKED", nice=0, tokens=0, on="read")
    [row] = of_processes([process]).rows
    assert row[-3:] == ["p", '"' + "x" * 199 + "…", "read"]
    assert len(of_processes([process]).data[0].args[0]) == 10**6


def test_nothing_that_steers_a_terminal_is_shown() -> None:
    status = ExitStatus(
        pid=3, program="p", reason="crashed", detail="ValueError: \x1b]0;title\x07\x9b1m a\nb é 👩\u200d🚀"
    )
    said = "p (process 3) crashed: ValueError: \\x1b]0;title\\x07\\x9b1m a b é 👩\u200d🚀"
    assert sentence(status) == said


def test_a_kernel_that_keeps_nothing(tokix: Start, state: Path) -> None:
    assert tokix("run", "--durable", "none", "echo", "hi").end() == (0, "hi\n", "")
    assert not (state / "tokix.db").exists()
    assert tokix("run").end() == (0, "", f"tokix: nothing to do: nothing is unfinished in {state}\n")


def test_files_are_there_for_who_is_given_a_root(tokix: Start, tmp_path: Path) -> None:
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text("a b a")
    code, out, _ = tokix("run", "--root", "texts", "mapreduce", "file:a.txt").end()
    assert (code, out.splitlines()[:2]) == (0, ["    2 a", "    1 b"])
