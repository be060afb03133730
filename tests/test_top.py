"""`top` in a terminal, beside a kernel that runs and inside of a shell; and what it does where there is no terminal."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

from command import Start
from glass import Sit
from tokix import cli


def test_it_watches_a_kernel_that_runs_elsewhere_and_ends_a_process_there(tokix: Start, sit: Sit) -> None:
    host = tokix("run", "programs.py:listener").says("listening\n")
    person = sit("top", "-d", "0.1")
    person.sees("0/8 busy", "MIXED 16", "programs.py:listener", "F10Quit", "PROGRAM")
    person.types("/listener\r").until(lambda text: "F10Quit" in text.rsplit("\n", 1)[-1])
    person.types("\x1b[18~").until(lambda text: "-1" in listener(text))  # F7
    person.types("k").sees("Signal for process 3", "TERM")
    person.types("\r").until(lambda text: "listener" not in text)
    person.types("Nk").sees("Signal for process 1, init")
    person.types("\r").sees("EPERM: ")
    host.says("others still use its kernel", "stderr")
    person.types("q")
    assert person.gone() == 0
    assert host.end()[0] == 143


def listener(text: str) -> list[str]:
    """Give the cells of the line of the listener."""
    return next((line.split() for line in text.split("\n") if line.rstrip().endswith("listener")), [])


@pytest.mark.parametrize("keys", ["q", "\x03", "\x1b[21~"])
def test_it_leaves_the_terminal_as_it_was(keys: str, tokix: Start, sit: Sit) -> None:
    tokix("run", "programs.py:listener").says("listening\n")
    person = sit("top")
    person.sees("programs.py:listener")
    assert not person.finds_it_as_it_was()
    person.types(keys)
    assert person.gone() == 0
    assert person.finds_it_as_it_was()


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_it(signum: signal.Signals, tokix: Start, sit: Sit) -> None:
    tokix("run", "programs.py:listener").says("listening\n")
    person = sit("top")
    person.sees("programs.py:listener")
    person.process.send_signal(signum)
    assert person.gone() == -signum
    assert person.finds_it_as_it_was()


def test_the_kernel_goes_away(tokix: Start, sit: Sit) -> None:
    host = tokix("run", "programs.py:listener").says("listening\n")
    person = sit("top", "-d", "0.1")
    person.sees("programs.py:listener")
    assert host.signal(signal.SIGTERM).end()[0] == 143
    person.sees("tokix: the kernel is gone (", "what is unfinished goes on when it runs again")
    assert person.gone() == 1


def test_inside_of_a_shell_what_others_write_waits(sit: Sit, state: Path) -> None:
    person = sit("sh", "--model", "toy")
    person.does("p.py:heard &")
    person.types("top -d 0.1\r").sees("p.py:heard", "F10Quit")
    assert cli.main(["send", "--state", str(state), "3", "news"]) == 0
    person.types("\x1a").sees("nothing can stop here; q leaves")
    assert "heard news" not in person.glass.text()
    person.types("q").sees("[1] heard news")
    person.asked()
    assert "p.py:heard" in person.does("top -b")


def test_without_a_terminal_it_is_one_table(tokix: Start) -> None:
    tokix("run", "programs.py:listener").says("listening\n")
    for words in ([], ["-b"]):
        code, out, err = tokix("top", *words).end()
        header, *lines = [line.split("\t") for line in out.splitlines()]
        assert (code, err, header[0], header[-1]) == (0, "", "PID", "PROGRAM")
        assert [line[-1] for line in lines][-1] == "programs.py:listener"
    found = json.loads(tokix("top", "--json").end()[1])
    assert [found["window"], found["schedule"]["lanes"]] == [2048, 8]
    names = [process["program"].rpartition("/")[2] for process in found["processes"]]
    assert names[-2:] == ["programs.py:listener", "top"]


def test_a_terminal_that_can_show_nothing(tokix: Start, sit: Sit) -> None:
    tokix("run", "programs.py:listener").says("listening\n")
    person = sit("top", TERM="dumb")
    person.sees("programs.py:listener")
    assert person.gone() == 0
    assert "F10" not in person.glass.text()


@pytest.mark.parametrize(("delay", "said"), [("0", "is not from 0.1 to 3600"), ("soon", "invalid"), ("nan", "is not")])
def test_a_delay_that_is_none(delay: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["top", "-d", delay]) == 2
    assert said in capsys.readouterr().err


def test_pages_and_free_from_another_terminal(tokix: Start, sit: Sit, state: Path) -> None:
    tokix("run", "programs.py:listener").says("listening\n")
    person = sit("pages", "3")
    person.sees("window: ", " of 2048 tokens", "P pinned", "· free", "You listen.")
    assert person.gone() == 0
    out = tokix("free").end()[1]
    assert [line.split("\t")[0] for line in out.splitlines()][:5] == ["WHERE", "memory", "swap", "windows", "archive"]
    found = json.loads(tokix("free", "--json").end()[1])
    assert found["used"] + found["cached"] + found["free"] == found["frames"] == 256
    assert found["disk"]["tokix.db"] == os.stat(state / "tokix.db").st_size
