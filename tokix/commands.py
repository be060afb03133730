"""What the commands do where a kernel runs: they are foreign processes at the other end of its socket.

A kernel lives in the `tokix run` that came first (see `tokix.here`). Everything else on the same state directory speaks
with that one, and needs neither machine nor store for it.
"""

from __future__ import annotations

import os
from argparse import Namespace
from asyncio import get_running_loop
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TypeVar

import anyio

from tokix.cli import say
from tokix.shell.client import Client, NoKernel, connect
from tokix.shell.join import join
from tokix.shell.status import exit_code, sentence
from tokix.state import busy
from tokix.storage import StoreError
from tokix.syscalls import ExitStatus, Kill, ProcessInfo, Spawn, Stat, SyscallError
from tokix.terminal import Source, put

R = TypeVar("R")

#: How often, and how many seconds apart, a command tries while a kernel is just coming or going.
TRIES, PAUSE = 10, 0.1
#: Seconds after which somebody who waits is told what for.
PATIENCE = 1.0


async def either(
    state: Path, program: str, there: Callable[[Client], Awaitable[R]], here: Callable[[], Awaitable[R]]
) -> R:
    """Use the kernel of a state directory; if none runs, open the directory here."""
    for left in reversed(range(TRIES)):
        with suppress(NoKernel):
            async with connected(state, program) as client:
                return await there(client)
        try:
            return await here()
        except StoreError:
            if not (left and busy(state)):
                raise
            await anyio.sleep(PAUSE)
    raise AssertionError("the last try returns or raises")


@asynccontextmanager
async def connected(state: Path, program: str) -> AsyncIterator[Client]:
    """Connect; a person who has to wait for that learns why. Raises NoKernel."""
    late = get_running_loop().call_later(PATIENCE, say, f"waiting: the kernel on {state} is busy, or just begins")
    try:
        async with connect(state, program) as client:
            late.cancel()
            yield client
    finally:
        late.cancel()


# ---- run


async def run(options: Namespace, spawn: Spawn | None) -> int:
    def here() -> Awaitable[int]:
        from tokix import here

        return here.run(options, spawn)

    return await either(options.state, "run", lambda client: run_there(client, options, spawn), here)


def tell(status: ExitStatus) -> int:
    """Tell how a program has ended; gives the exit code."""
    if text := sentence(status):
        say(text)
    return exit_code(status)


async def run_there(client: Client, options: Namespace, spawn: Spawn | None) -> int:
    """Use the kernel that runs already."""
    if spawn is None:
        say(f"nothing to do: a kernel runs on {options.state} already, and what was unfinished goes on there")
        return 0
    if options.unused:
        say(f"a kernel runs on {options.state} already: {' '.join(options.unused)} has no effect")
    return tell(await join(client, spawn, Source(0 if in_foreground() else -1).read, put))


def in_foreground() -> bool:
    """Say whether this process may read its standard input: in the background, a terminal would stop it for that."""
    try:
        return not os.isatty(0) or os.tcgetpgrp(0) == os.getpgrp()
    except OSError:
        return False


# ---- ps


async def look(options: Namespace) -> list[ProcessInfo]:
    def here() -> Awaitable[list[ProcessInfo]]:
        from tokix import here

        return here.look(options)

    return await either(options.state, "ps", lambda client: look_there(client, options), here)


async def look_there(client: Client, options: Namespace) -> list[ProcessInfo]:
    found = await client.call(Stat(dead=options.all))
    return [process for process in found if options.all or process.pid != client.pid]


# ---- kill


async def kill(options: Namespace) -> int:
    """Signal each process; gives how many could not be signalled. Raises NoKernel."""
    failures = 0
    async with connected(options.state, "kill") as client:
        for pid in options.pids:
            try:
                await client.call(Kill(pid=pid, signal=options.signal))
            except SyscallError as error:
                say(str(error))
                failures += 1
    return failures
