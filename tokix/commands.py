"""What the commands do where a kernel runs: they are foreign processes at the other end of its socket.

A kernel lives in the `tokix run` that came first (see `tokix.here`). Everything else on the same state directory speaks
with that one, and needs neither machine nor store for it.
"""

from __future__ import annotations

import os
import sys
from argparse import Namespace
from asyncio import get_running_loop
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from typing import TypeVar

import anyio

from tokix.cli import say
from tokix.failure import Interrupted
from tokix.shell.client import Client, Gone, NoKernel, connect
from tokix.shell.join import join
from tokix.shell.status import exit_code, sentence
from tokix.shell.table import Result
from tokix.shell.usage import SIGNALLED, Failure
from tokix.shell.verbs import ACTS
from tokix.state import TRUTH, busy
from tokix.storage import StoreError
from tokix.storage.cipher import encrypted
from tokix.syscalls import ExitStatus, Spawn
from tokix.terminal import Source, put

R = TypeVar("R")

#: Verbs that need no kernel.
WITHOUT = ("ps", "logs", "devices")
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


def kept_as_asked(options: Namespace) -> None:
    """Raise Failure if a kernel that runs already would save in plain text what is to be encrypted."""
    truth = options.state / TRUTH
    if options.key is not None and truth.exists() and not encrypted(truth):
        raise Failure(f"a kernel runs on {options.state} already, and encrypts nothing: stop it, or leave the key out")


async def run(options: Namespace, spawn: Spawn | None) -> int:
    def here() -> Awaitable[int]:
        from tokix import here

        return here.run(options, spawn)

    return await either(options.state, "run", lambda client: run_there(client, options, spawn), here)


def tell(status: ExitStatus, json: bool = False) -> int:
    """Tell how a program has ended; gives the exit code."""
    if json:
        print(status.model_dump_json(), file=sys.stderr, flush=True)
    elif text := sentence(status):
        say(text)
    return exit_code(status)


async def run_there(client: Client, options: Namespace, spawn: Spawn | None) -> int:
    """Use the kernel that runs already."""
    kept_as_asked(options)
    if spawn is None:
        say(f"nothing to do: a kernel runs on {options.state} already, and what was unfinished goes on there")
        return 0
    if options.unused:
        say(f"a kernel runs on {options.state} already: {' '.join(options.unused)} has no effect")
    try:
        status = await join(client, spawn, Source(0 if in_foreground() else -1).read, put)
    except Gone as error:
        raise Failure(
            f"the kernel is gone ({error}); a program that has joined one ends with it: run it again"
        ) from None
    return tell(status, options.json)


def in_foreground() -> bool:
    """Say whether this process may read its standard input: in the background, a terminal would stop it for that."""
    try:
        return not os.isatty(0) or os.tcgetpgrp(0) == os.getpgrp()
    except OSError:
        return False


# ---- sh


async def sh(options: Namespace) -> int:
    def here() -> Awaitable[int]:
        from tokix import here

        return here.sh(options)

    return await either(options.state, "sh", lambda client: sh_there(client, options), here)


async def sh_there(client: Client, options: Namespace) -> int:
    """Be a shell of the kernel that runs already."""
    from tokix.sh import Sitting

    kept_as_asked(options)
    if options.unused:
        say(f"a kernel runs on {options.state} already: {' '.join(options.unused)} has no effect")
    greeting = (
        f"tokix {version('tokix')}, with the kernel that runs on {options.state}; `help` says more, Ctrl-D leaves"
    )
    try:
        return await Sitting(options).run(client, None, greeting, "will end with this shell", None)
    except Interrupted as cut:
        return SIGNALLED + cut.signum


# ---- all others


async def speak(name: str, options: Namespace) -> Result:
    """Do what a verb says. Raises NoKernel, where it needs one."""
    if name in WITHOUT:

        def here() -> Awaitable[Result]:
            from tokix import here

            return here.WITHOUT[name](options)

        return await either(options.state, name, lambda client: ACTS[name](client, options), here)
    async with connected(options.state, name) as client:
        return await ACTS[name](client, options)
