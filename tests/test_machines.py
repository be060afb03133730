"""Loading a machine: it takes seconds, in code of others, and a person may want to stop it at any of them."""

from __future__ import annotations

import signal
import subprocess
import sys
from typing import Any

import pytest

from tokix import machines
from tokix.kernel.arch.toy import ToyMachine


class Deaf:
    """What a library leaves behind, where no exception gets out."""

    def __del__(self) -> None:
        signal.raise_signal(signal.SIGINT)


def load(*args: Any, **shape: Any) -> Any:
    Deaf()
    return ToyMachine(), None


def test_an_interrupt_that_nothing_can_raise_is_not_printed_and_not_lost(monkeypatch):
    printed = []
    monkeypatch.setattr(sys, "unraisablehook", printed.append)
    monkeypatch.setattr(machines, "load", load)
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        machines.wanted("toy")
    assert printed == []
    assert signal.getsignal(signal.SIGINT) is before
    assert sys.unraisablehook == printed.append


def test_an_interrupt_is_raised_at_once(monkeypatch):
    def interrupted(*args: Any, **shape: Any) -> Any:
        signal.raise_signal(signal.SIGINT)
        raise AssertionError("it went on")

    monkeypatch.setattr(machines, "load", interrupted)
    with pytest.raises(KeyboardInterrupt):
        machines.wanted("toy")


def test_an_ignored_interrupt_stays_ignored(monkeypatch):
    monkeypatch.setattr(machines, "load", load)
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        assert isinstance(machines.wanted("toy")[0], ToyMachine)
    finally:
        signal.signal(signal.SIGINT, before)


TWICE = """
import signal
from tokix import machines

def load(*args, **shape):
    try:
        signal.raise_signal(signal.SIGINT)
    except KeyboardInterrupt:
        signal.raise_signal(signal.SIGINT)

machines.load = load
machines.wanted("toy")
"""


def test_the_second_interrupt_ends_the_process():
    assert subprocess.run([sys.executable, "-c", TWICE], check=False, stderr=subprocess.PIPE).returncode == 130


EARLY = """
import signal
from argparse import Namespace
from pathlib import Path
import anyio
from tokix import here

async def main():
    signal.raise_signal(signal.SIGINT)
    here.machines.wanted = lambda *args, **shape: print("it loads")
    async with here.booted(Namespace(model="toy", state=Path("/nowhere"), window=None)):
        pass

try:
    anyio.run(main)
except KeyboardInterrupt:
    print("stopped")
"""


def test_an_interrupt_from_before_the_loading_is_not_put_off_until_after_it():
    done = subprocess.run([sys.executable, "-c", EARLY], check=False, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("stopped\n", "")
