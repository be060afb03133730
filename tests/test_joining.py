"""Several shells on one kernel, and what they say when it dies."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from glass import Sit, last, table


def test_a_shell_joins_the_kernel_that_runs(sit: Sit, state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    host = sit()
    host.does("p.py:heard &")
    guest = sit("sh", "--lanes", "3")
    guest.sees(f"a kernel runs on {state} already: --lanes has no effect", "with the kernel that runs on")
    guest.does("echo through | p.py:shout", "THROUGH")
    guest.types("p.py:ask\r").sees("name?")
    guest.types("Ada\r").sees("hello Ada\ntokix>")
    guest.types("p.py:step 2\r").sees("step 0")
    guest.types("\x1a").sees("[1] stopped: p.py:step 2")
    guest.asked()
    guest.types("fg\r").until(lambda text: text.count("p.py:step 2") == 3)
    guest.types("one\r").sees("step 1")
    guest.types("\x03").sees("killed: INT")
    guest.does("hello there")
    guest.does("p.py:family &")
    assert [line["program"].rpartition(":")[2] for line in table(state, capsys).values()] == [
        *("heard", "chat", "family", "heard")
    ]
    guest.types("\x04").sees("a job is unfinished and will end with this shell; leave again to leave")
    guest.asked()
    guest.types("\x04")
    assert guest.gone() == 0
    assert [line["program"].rpartition(":")[2] for line in table(state, capsys).values()] == ["heard"]
    assert "family" not in host.asked()


def test_the_death_of_the_kernel_is_one_clear_line(sit: Sit, state: Path) -> None:
    host = sit()
    host.asked()
    guest = sit()
    guest.asked()
    guest.types("half a li").until(lambda text: last(text) == "tokix> half a li")
    host.process.send_signal(signal.SIGKILL)
    assert guest.gone() == 1
    assert (
        guest.glass.text()
        .rstrip()
        .replace("\n", "")
        .endswith(
            "tokix> half a litokix: the kernel is gone (it has closed the connection); "
            "what is unfinished goes on when it runs again"
        )
    )


def test_the_death_of_the_kernel_while_a_job_is_in_front(sit: Sit, state: Path) -> None:
    host = sit()
    host.asked()
    guest = sit()
    guest.asked()
    guest.types("p.py:step 1\r").sees("step 0")
    host.process.send_signal(signal.SIGKILL)
    assert guest.gone() == 1
    assert guest.glass.text().count("the kernel is gone") == 1
    assert "Traceback" not in guest.glass.text()


def test_a_kernel_stays_for_those_who_joined(sit: Sit, state: Path) -> None:
    host = sit()
    host.asked()
    guest = sit()
    guest.asked()
    host.types("\x04").sees("the shell has ended; others still use its kernel, and Ctrl-C stops it")
    guest.does("echo still here", "still here")
    guest.types("\x04")
    assert (guest.gone(), host.gone()) == (0, 0)
