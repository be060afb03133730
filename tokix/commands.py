"""What the commands do: they are foreign processes, in the kernel's own process or at the other end of its socket.

A kernel lives in the `tokix run` that came first. Everything else on the same state directory speaks with that one.
"""

from __future__ import annotations

import os
from argparse import Namespace
from asyncio import get_running_loop
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import anyio

from tokix.boot import System, boot
from tokix.cli import WRONG, Failure, say
from tokix.drivers import Calc, Files
from tokix.kernel.policy import DEFAULT_QUANTUM, POLICIES, Policy
from tokix.kernel.ports import TABLES
from tokix.shell.client import Client, NoKernel, connect
from tokix.shell.join import join
from tokix.shell.status import exit_code, sentence
from tokix.state import TRUTH, opened
from tokix.storage import StoreError
from tokix.syscalls import ExitStatus, Kill, ProcessInfo, Spawn, Stat, SyscallError, Wait
from tokix.syscalls.base import from_json
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
            if not left:
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
    return await either(
        options.state, "run", lambda client: run_there(client, options, spawn), lambda: run_here(options, spawn)
    )


async def run_here(options: Namespace, spawn: Spawn | None) -> int:
    """Be the kernel until the program has ended; without one, until nothing is unfinished."""
    drivers: dict[str, Any] = {"calc": Calc()}
    if options.root:
        drivers["files"] = Files(options.root)
    async with boot(
        options.state,
        durable=options.durable or "process",
        policy=policy(options.policy or "PRIORITY", options.quantum),
        drivers=drivers,
        lanes=options.lanes or 8,
        seed=options.seed or 0,
        signalled=True,
    ) as system:
        if options.seed is not None and options.seed != system.kernel.seed:
            say(f"--seed has no effect: what is in {options.state} began with seed {system.kernel.seed}")
        async with system.attach("run") as client:
            if spawn:
                pid = await client.call(spawn)
                code = tell(await client.call(Wait(pid=pid)))
            else:
                code = await resume(system, client)
        with anyio.move_on_after(PATIENCE) as patience:
            await system.control.alone()
        if patience.cancelled_caught:
            say("the program has ended; others still use its kernel, and Ctrl-C stops it")
            await system.control.alone()
        await system.terminal.drained()
        return code


def policy(name: str, quantum: int | None) -> Policy:
    kind: Callable[..., Policy] = POLICIES[name]
    if name == "FCFS":
        if quantum is not None:
            raise Failure("with --policy FCFS there are no turns, and --quantum has no meaning", WRONG)
        return kind()
    return kind(quantum or DEFAULT_QUANTUM)


async def resume(system: System, client: Client) -> int:
    """Wait until all that is unfinished has ended, but for what is parked; gives the code of the first that failed."""
    if not system.unfinished():
        say(f"nothing to do: nothing is unfinished in {system.state}")
    open_ends = {process.pid for process in system.unfinished() if process.ppid in (0, 1)}
    codes: dict[int, int] = {}
    while True:
        changed = system.changed
        unfinished = system.unfinished()
        for pid in sorted(open_ends - codes.keys() - {process.pid for process in unfinished}):
            [process] = await client.call(Stat(pid=pid, dead=True))
            assert process.status
            codes[pid] = tell(process.status)
        if all(process.parked for process in unfinished):
            return next((code for _, code in sorted(codes.items()) if code), 0)
        await changed.wait()


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
    return await either(options.state, "ps", lambda client: look_there(client, options), lambda: look_here(options))


async def look_there(client: Client, options: Namespace) -> list[ProcessInfo]:
    found = await client.call(Stat(dead=options.all))
    return [process for process in found if options.all or process.pid != client.pid]


async def look_here(options: Namespace) -> list[ProcessInfo]:
    """Read the store of a kernel that does not run."""
    rows: list[tuple[Any, ...]] = []
    if (options.state / TRUTH).exists():
        with opened(options.state, "process") as store:
            rows = [*store.load()["process"], *(store.dead() if options.all else ())]
    say(f"no kernel runs on {options.state}; this is what is saved there" if rows else f"nothing is in {options.state}")
    columns = (dict(zip(TABLES["process"].columns, row, strict=True)) for row in sorted(rows))
    return [saved(row) for row in columns if not row["foreign"]]


def saved(row: dict[str, Any]) -> ProcessInfo:
    """Describe a process that nobody runs."""
    plain = {name: row[name] for name in ("pid", "ppid", "program", "nice", "epoch", "tokens")}
    status = ExitStatus.model_validate_json(row["status"]) if row["status"] else None
    state = "REAPED" if row["reaped"] else "ZOMBIE" if status else "SAVED"
    return ProcessInfo(**plain, args=from_json(row["args"]), state=state, status=status)


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
