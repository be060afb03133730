"""Who leaves the shell, or loses it, comes back to what was left."""

from __future__ import annotations

import select
import signal
from pathlib import Path

import pytest

from glass import Sit, send


def test_ctrl_d_asks_once_when_something_is_unfinished(sit: Sit, state: Path) -> None:
    person = sit()
    person.does("p.py:step 2 &")
    person.sees("[1] step 0")
    person.types("\x04").sees("a job is unfinished and will go on at the next `tokix sh` or `tokix run`; leave again")
    person.does("echo stay")
    person.types("\x04").until(lambda text: text.count("a job is unfinished") == 2)
    person.asked()
    person.types("\x04")
    assert person.gone() == 0

    again = sit()
    again.sees("[1] goes on: p.py:step 2")
    again.asked()
    again.types("fg\r").until(lambda text: text.count("p.py:step 2") == 2)
    again.types("one\r").sees("step 1")
    again.types("two\r").sees('exited with ["one","two"]')
    assert "step 0" not in again.glass.text(), "what was seen is not shown again"


def test_a_kill_of_the_shell_loses_nothing(sit: Sit, state: Path) -> None:
    person = sit()
    person.does("p.py:heard &")
    person.types("p.py:step 3\r").sees("step 0")
    person.types("one\r").sees("step 1")
    person.process.send_signal(signal.SIGKILL)
    person.process.wait()
    again = sit()
    again.sees("[1] goes on: p.py:heard", "[2] goes on: p.py:step 3")
    send(state, 3, "you too?")
    again.sees("[1] heard you too?")
    again.types("fg %2\r").until(lambda text: text.count("p.py:step 3") == 2)
    again.types("two\r").sees("step 2")
    again.types("three\r").sees('exited with ["one","two","three"]')


def test_what_a_run_has_left_is_a_job_of_the_shell(sit: Sit, state: Path) -> None:
    first = sit("run", "p.py:step", "2")
    first.sees("step 0")
    first.types("\x03")
    assert first.gone() == 130
    person = sit()
    person.sees("[1] goes on: p.py:step 2")
    person.asked()
    person.types("fg\r").until(lambda text: text.count("p.py:step 2") == 2)
    person.types("one\r").sees("step 1")
    person.types("two\r").sees('exited with ["one","two"]')
    person.asked()
    person.types("exit 5\r")
    assert person.gone() == 5


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_the_shell_and_loses_nothing(signum: signal.Signals, sit: Sit, state: Path) -> None:
    person = sit()
    person.does("p.py:heard &")
    person.process.send_signal(signum)
    assert person.gone() == 128 + signum
    assert person.glass.text().rstrip().endswith(f"tokix: stopped by {signum.name}; `tokix run` goes on from here")


def test_a_program_that_holds_the_kernel_does_not_hold_the_person(sit: Sit, state: Path) -> None:
    person = sit()
    person.asked()
    person.types("p.py:spin\r").sees("has had the kernel for more than 50 ms")
    while person.process.poll() is None:  # two of them at once are one
        person.types("\x03")
        select.select([], [], [], 0.01)
    assert person.process.returncode == 130
