"""A kernel with its real edge in this process, and a screen that can be read."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from tokix.boot import System
from tokix.syscalls import ExitStatus, Spawn, Wait
from tokix.terminal import Terminal

TTY = {0: "tty", 1: "tty", 2: "tty"}
#: Seconds after which a test that waits for something that does not come fails.
PATIENCE = 20


class Screen(Terminal):
    """A terminal on files: what is typed is there from the beginning."""

    def __init__(self, folder: Path, typed: str = "") -> None:
        self._paths = [folder / name for name in ("typed", "shown", "told")]
        self._paths[0].write_text(typed)
        typed_fd = os.open(self._paths[0], os.O_RDONLY)
        shown, told = (os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND) for path in self._paths[1:])
        self.fds = (typed_fd, shown, told)
        super().__init__(*self.fds)

    @property
    def shown(self) -> str:
        return self._paths[1].read_text()

    @property
    def told(self) -> str:
        return self._paths[2].read_text()


@pytest.fixture
def screen(tmp_path: Path) -> Iterator[Screen]:
    made = Screen(tmp_path)
    yield made
    for fd in made.fds:
        os.close(fd)


def play(main: Callable[..., Awaitable[Any]], *args: Any) -> Any:
    """Run a test's coroutine, for a bounded time."""

    async def bounded() -> Any:
        with anyio.fail_after(PATIENCE):
            return await main(*args)

    return anyio.run(bounded)


async def launch(system: System, program: str, *args: Any) -> ExitStatus:
    """Run a program to its end as a foreign process; gives its status when its output is shown."""
    async with system.attach("test") as client:
        pid = await client.call(Spawn(program=program, args=list(args), fds=TTY))
        status = await client.call(Wait(pid=pid))
    await system.terminal.drained()
    return status


async def until(true: Callable[[], Any]) -> None:
    """Let others go on until something is so."""
    while not true():
        await anyio.sleep(0.001)


async def resume(system: System) -> None:
    """Wait until all that is unfinished has ended, and is shown."""
    while system.unfinished():
        await system.changed.wait()
    async with system.attach("test"):  # a step later
        await system.terminal.drained()
