"""Commands as real processes: a test reads the output until the program is where it has to be."""

from __future__ import annotations

import os
import select
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

#: Seconds after which a test that waits for something that does not come fails.
PATIENCE = 30


class Command:
    """A `tokix` that runs, with its three streams."""

    def __init__(
        self,
        state: Path,
        *words: str,
        stdin: Any = subprocess.PIPE,
        stdout: Any = subprocess.PIPE,
        preexec_fn: Callable[[], None] | None = None,
        **environment: str,
    ) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tokix", *words],
            stdin=stdin,
            stdout=stdout,
            stderr=subprocess.PIPE,
            cwd=state.parent,
            env={**os.environ, "TOKIX_STATE": str(state), "PYTHONHASHSEED": "0", **environment},
            preexec_fn=preexec_fn,
        )
        self.out = ""

    def read(self, stream: Any, end: Callable[[str], bool]) -> str:
        """Read until the text is enough; fails when that takes too long."""
        text, deadline = b"", time.monotonic() + PATIENCE
        while not end(text.decode(errors="replace")):
            assert select.select([stream], [], [], max(0, deadline - time.monotonic()))[0], f"it only said {text!r}"
            piece = os.read(stream.fileno(), 65536)
            assert piece, f"it ended after {text!r}"
            text += piece
        return text.decode()

    def says(self, word: str, stream: str = "stdout") -> Command:
        """Wait until a word is in the output."""
        self.out += self.read(getattr(self.process, stream), lambda text: word in self.out + text)
        return self

    def types(self, text: str) -> Command:
        assert self.process.stdin
        self.process.stdin.write(text.encode())
        self.process.stdin.flush()
        return self

    def signal(self, signum: int) -> Command:
        self.process.send_signal(signum)
        return self

    def gone(self) -> Command:
        """Wait for the end, without ending its input."""
        self.process.wait(PATIENCE)
        return self

    def end(self, typed: str = "") -> tuple[int, str, str]:
        """End the input and wait for the end; gives the exit code and all that was said."""
        out, err = self.process.communicate(typed.encode(), timeout=PATIENCE)
        self.out += (out or b"").decode()
        return self.process.returncode, self.out, err.decode()


@pytest.fixture
def tokix(state: Path) -> Iterator[Callable[..., Command]]:
    """Start commands on one state directory; none of them outlives the test."""
    started: list[Command] = []

    def start(*words: Any, **more: Any) -> Command:
        started.append(Command(state, *map(str, words), **more))
        return started[-1]

    yield start
    for command in started:
        command.process.kill()
        command.process.communicate()


Start = Callable[..., Command]
