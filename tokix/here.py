"""What the commands do where no kernel runs on the state directory: be the kernel, or read what it left."""

from __future__ import annotations

import gc
from argparse import Namespace
from collections.abc import Callable
from typing import Any

import anyio

from tokix.boot import System, boot
from tokix.cli import WRONG, Failure, say
from tokix.commands import PATIENCE, tell
from tokix.drivers import Calc, Files
from tokix.kernel.policy import DEFAULT_QUANTUM, POLICIES, Policy
from tokix.kernel.ports import TABLES
from tokix.shell.client import Client
from tokix.state import TRUTH, opened
from tokix.syscalls import ExitStatus, ProcessInfo, Spawn, Stat, Wait
from tokix.syscalls.base import from_json


async def run(options: Namespace, spawn: Spawn | None) -> int:
    """Be the kernel until the program has ended; without one, until nothing is unfinished."""
    gc.set_threshold(100_000, 50, 1000)  # a full collection visits every process, and holds the kernel meanwhile
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
                status = await client.call(Wait(pid=pid))
                await system.terminal.drained()
                code = tell(status)
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
    if many := len(system.unfinished()):
        say(f"going on with {many} unfinished process{'es' * (many > 1)}")
    else:
        say(f"nothing to do: nothing is unfinished in {system.state}")
    open_ends = {process.pid for process in system.unfinished() if process.ppid in (0, 1)}
    codes: dict[int, int] = {}
    while True:
        changed = system.changed
        unfinished = system.unfinished()
        for pid in sorted(open_ends - codes.keys() - {process.pid for process in unfinished}):
            [process] = await client.call(Stat(pid=pid, dead=True))
            await system.terminal.drained()
            assert process.status
            codes[pid] = tell(process.status)
        if all(process.parked for process in unfinished):
            return next((code for _, code in sorted(codes.items()) if code), 0)
        await changed.wait()


async def look(options: Namespace) -> list[ProcessInfo]:
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
