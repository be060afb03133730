"""A terminal with a person in front: keys go in, and what the glass shows can be read."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tokix import cli

#: Seconds after which a test that waits for something that does not come fails.
PATIENCE = 60
ROWS, COLUMNS = 40, 240

_PIECE = re.compile(r"\x1b\[([?>]?[0-9;]*)([A-Za-z])|\x1b[=>]|\x1b\][^\x07]*\x07|([\r\n\b\x07])|([^\x1b\r\n\b\x07]+)")


class Glass:
    """As much of a terminal as is written to here: text, cursor moves, erasing."""

    def __init__(self) -> None:
        self.rows = [""]
        self.row = self.column = 0
        #: It shows another screen, which goes away when it is left.
        self.other = False
        self._rest = ""

    def write(self, text: str) -> None:
        text, place = self._rest + text, 0
        while found := _PIECE.match(text, place):
            if found.end() == len(text) and text.rfind("\x1b", max(0, len(text) - 12)) > found.start():
                break
            place = found.end()
            numbers, move, control, plain = found.groups()
            if plain:
                self._put(plain)
            elif control:
                self._control(control)
            elif numbers == "?1049":
                self.other = move == "h"
            elif move and not numbers.startswith(("?", ">")):
                self._move(move, int(numbers.partition(";")[0] or 0))
        self._rest = text[place:]

    def _put(self, text: str) -> None:
        for letter in text:
            if self.column == COLUMNS:
                self._control("\n")
                self.column = 0
            line = self.rows[self.row].ljust(self.column)
            self.rows[self.row] = line[: self.column] + letter + line[self.column + 1 :]
            self.column += 1

    def _control(self, letter: str) -> None:
        if letter == "\r":
            self.column = 0
        elif letter == "\b":
            self.column = max(0, self.column - 1)
        elif letter == "\n":
            self.row += 1
            if self.row == len(self.rows):
                self.rows.append("")

    def _move(self, move: str, number: int) -> None:
        match move:
            case "A":
                self.row = max(0, self.row - (number or 1))
            case "B":
                self.row = min(len(self.rows) - 1, self.row + (number or 1))
            case "C":
                self.column += number or 1
            case "D":
                self.column = max(0, self.column - (number or 1))
            case "K":
                self.rows[self.row] = self.rows[self.row][: self.column]
            case "J":
                self.rows[self.row] = self.rows[self.row][: self.column]
                del self.rows[self.row + 1 :]
            case "H":
                self.row = self.column = 0

    def text(self) -> str:
        """Give all lines that were ever shown and not erased."""
        return "\n".join(row.rstrip() for row in self.rows)


class Person:
    """Sits in front of a `tokix` in a terminal of its own."""

    def __init__(self, state: Path, *words: str, **environment: str) -> None:
        self.glass = Glass()
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
        self._modes = termios.tcgetattr(self._master)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tokix", *words],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            cwd=state.parent,
            env={
                **os.environ,
                "TOKIX_STATE": str(state),
                "PYTHONHASHSEED": "0",
                "TERM": "xterm",
                "PROMPT_TOOLKIT_NO_CPR": "1",
                **environment,
            },
            start_new_session=True,
            preexec_fn=lambda: os.close(os.open(os.ttyname(slave), os.O_RDWR)),  # it controls the new session
        )
        os.close(slave)

    def types(self, keys: str) -> Person:
        os.write(self._master, keys.encode())
        return self

    def until(self, seen: Callable[[str], bool]) -> str:
        """Wait until the glass shows what it should; gives what it shows."""
        deadline = time.monotonic() + PATIENCE
        while not seen(self.glass.text()):
            left = max(0.0, deadline - time.monotonic())
            assert select.select([self._master], [], [], left)[0], f"the glass shows\n{self.glass.text()}"
            self._read()
        return self.glass.text()

    def _read(self) -> None:
        try:
            piece = os.read(self._master, 65536)
        except OSError:  # nobody is on the other side any more
            piece = b""
        assert piece, f"it has ended, and the glass shows\n{self.glass.text()}"
        self.glass.write(piece.decode(errors="replace"))

    def sees(self, *words: str) -> str:
        """Wait until the glass shows all these words."""
        return self.until(lambda text: all(word in text for word in words))

    def asked(self) -> str:
        """Wait until the shell asks for a line and none is being typed."""
        return self.until(lambda text: text.rstrip().endswith("tokix>"))

    def does(self, line: str, *words: str) -> str:
        """Type a line at the prompt, and wait for words and for the next prompt."""
        self.asked()
        before = len(self.glass.rows)
        self.types(f"{line}\r")
        text = self.until(lambda text: len(self.glass.rows) > before and text.rstrip().endswith("tokix>"))
        assert all(word in text for word in words), text
        return "\n".join(text.split("\n")[before:])

    def gone(self) -> int:
        """Wait for the end, reading all that is said until then; gives the exit code."""
        deadline = time.monotonic() + PATIENCE
        while self.process.poll() is None:
            assert time.monotonic() < deadline, self.glass.text()
            if select.select([self._master], [], [], 0.05)[0]:
                try:
                    self.glass.write(os.read(self._master, 65536).decode(errors="replace"))
                except OSError:
                    self.process.wait(PATIENCE)
        while select.select([self._master], [], [], 0)[0]:
            try:
                piece = os.read(self._master, 65536)
            except OSError:
                break
            self.glass.write(piece.decode(errors="replace"))
        return self.process.returncode

    def finds_it_as_it_was(self) -> bool:
        """Say whether the terminal is as it was before: the screen, and what it does with keys."""
        return not self.glass.other and termios.tcgetattr(self._master) == self._modes

    def leave(self) -> None:
        """Let nothing of it live on."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        os.close(self._master)


@pytest.fixture
def sit(state: Path) -> Iterator[Callable[..., Person]]:
    """Put people in front of shells on one state directory; none of them outlives the test."""
    people: list[Person] = []

    def person(*words: str, **environment: str) -> Person:
        people.append(Person(state, *(words or ("sh",)), **environment))
        return people[-1]

    yield person
    for one in people:
        one.leave()


Sit = Callable[..., Person]


def send(state: Path, pid: int, text: str) -> None:
    assert cli.main(["send", "--state", str(state), str(pid), text]) == 0


def table(state: Path, capsys: pytest.CaptureFixture[str]) -> dict[int, dict[str, Any]]:
    """Give the process table, but for the shells and this command."""
    capsys.readouterr()
    assert cli.main(["ps", "--state", str(state), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    return {line["pid"]: line for line in found if line["program"] not in ("init", "sh")}


def last(text: str) -> str:
    return text.rstrip().rsplit("\n", 1)[-1]
