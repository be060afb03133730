"""What the commands do where no kernel runs on the state directory: be the kernel, or read what it left."""

from __future__ import annotations

import gc
import shlex
from argparse import Namespace
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
from anyio.lowlevel import checkpoint

from tokix import machines, mounts, scenario
from tokix.boot import System, boot
from tokix.cli import say
from tokix.commands import PATIENCE, tell
from tokix.drivers import Calc, Files, Person
from tokix.kernel.calls.system import logged
from tokix.kernel.life import INIT
from tokix.kernel.policy import Policy, named
from tokix.kernel.ports import TABLES, Driver
from tokix.person import Guest
from tokix.shell.client import Client
from tokix.shell.jobs import Jobs
from tokix.shell.table import Result, brief, of_journal, of_processes
from tokix.shell.usage import WRONG, Failure
from tokix.shell.verbs import chosen
from tokix.state import TRUTH, opened
from tokix.storage import glance
from tokix.syscalls import ExitStatus, LogEntry, ProcessInfo, Spawn, Stat, Wait
from tokix.syscalls.base import from_json, to_json
from tokix.terminal import Terminals

if TYPE_CHECKING:
    from tokix.kernel.process import Process


@asynccontextmanager
async def booted(options: Namespace, **more: Any) -> AsyncIterator[System]:
    """Boot a kernel of the shape that was asked for."""
    person = Guest()
    await checkpoint()  # a Ctrl-C that came until here; the loop does not turn while a model is loaded
    if options.durable != "none":
        check_key(options.state / TRUTH, options.key)
    begun = glance.unfinished(options.state / TRUTH, options.key).model  # it goes on on that
    shape = {name: getattr(options, name) for name in ("window", "frames", "slots")}
    if options.key is not None:
        # From frames the text can be made again, and those in the swap file lie on the disk as they are.
        if shape["slots"] is None:
            shape["slots"] = 0
        elif shape["slots"]:
            say("--slots: the swap file, which has no name and lies outside of the state directory, is not encrypted")
    machine, encoder = machines.wanted(options.model or begun, **shape)
    gc.set_threshold(100_000, 50, 1000)  # a full collection visits every process, and holds the kernel meanwhile
    async with boot(
        options.state,
        durable=options.durable or "process",
        key=options.key,
        policy=policy(options.policy or "MIXED", options.quantum),
        machine=machine,
        encoder=encoder,
        drivers=mounted(options, person),
        lanes=options.lanes or 8,
        seed=options.seed or 0,
        **more,
    ) as system:
        person.sit(system)
        if options.seed is not None and options.seed != system.kernel.seed:
            say(f"--seed has no effect: what is in {options.state} began with seed {system.kernel.seed}")
        yield system


def check_key(truth: Path, key: str | None) -> None:
    """Raise StoreError for a key that does not fit: better now than when a model has been fetched and loaded."""
    from tokix.storage.cipher import require
    from tokix.storage.sqlite import explained

    with explained(truth, "open"):
        require(truth, key)


def mounted(options: Namespace, person: Person) -> dict[str, Driver]:
    """Give the drivers that a kernel has."""
    drivers: dict[str, Driver] = {"calc": Calc()}
    if options.root:
        drivers["files"] = Files(options.root, write=True)
    given = options.mount or ()
    taken = {mount.name for mount in given}
    kept = [mount for mount in scenario.unfinished(options.state, options.key) if mount.name not in taken]
    try:
        return drivers | mounts.mounted([*kept, *given], person)
    except mounts.MountError as error:
        raise Failure(f"--mount: {error}", WRONG) from None


async def run(options: Namespace, spawn: Spawn | None) -> int:
    """Be the kernel until the program has ended; without one, until nothing is unfinished."""
    async with booted(options, signalled=True) as system:
        left = system.unfinished()  # before the first step, in which some may end
        async with system.attach("run") as client:
            if spawn:
                pid = await client.call(spawn)
                status = await client.call(Wait(pid=pid))
                await system.terminal.drained()
                code = tell(status, options.json)
            else:
                code = await resume(system, client, left, options.json)
        await deserted(system, "the program")
        return code


async def deserted(system: System, who: str) -> None:
    """Wait until nobody needs the kernel any more."""
    with anyio.move_on_after(PATIENCE) as patience:
        await system.control.alone()
    if patience.cancelled_caught:
        say(f"{who} has ended; others still use its kernel, and Ctrl-C stops it")
        await system.control.alone()
    await system.terminal.drained()


# ---- sh


async def sh(options: Namespace) -> int:
    """Be the kernel, and a shell."""
    from tokix.sh import Sitting, report

    sitting = Sitting(options)
    terminals = Terminals(report(sitting.screen))
    lost = "will be lost" if options.durable == "none" else "will go on at the next `tokix sh` or `tokix run`"
    greeting = f"tokix {version('tokix')}, with a kernel on {options.state}; `help` says more, Ctrl-D leaves"
    async with booted(options, terminal=terminals) as system:
        async with system.attach("sh") as client:

            def begin(jobs: Jobs) -> None:
                adopt(system, client, jobs, terminals)
                terminals.greet(lambda port: port.hear(jobs.overhear().show))

            code = await sitting.run(
                client, lambda number: terminals.claim(f"{client.pid}.{number}"), greeting, lost, begin
            )
        await deserted(system, "the shell")
        return code


def adopt(system: System, client: Client, jobs: Jobs, terminals: Terminals) -> None:
    """Make jobs of what an earlier kernel has left unfinished: one of all that share a terminal."""
    roots: dict[str, list[Process]] = {}
    for process in system.unfinished():
        if process.ppid in (0, INIT) and not process.parked and process.fds.get(1, "").startswith("tty:"):
            roots.setdefault(process.fds[1], []).append(process)
    for stream, processes in roots.items():
        text = " | ".join(spoken(process) for process in processes)
        pids, stopped = [process.pid for process in processes], all(process.stopped for process in processes)
        jobs.adopt(text, pids, terminals.port(stream), lambda pid: ended(system, client, pid), stopped)


def spoken(process: Process) -> str:
    """Write what was typed to start a process."""
    words = [word if isinstance(word, str) else to_json(word) for word in from_json(process.args)]
    return shlex.join([brief(process.program), *words])


async def ended(system: System, client: Client, pid: int) -> ExitStatus:
    """Wait for the end of a process that is not the client's child."""
    while any(process.pid == pid for process in system.unfinished()):
        await system.changed.wait()
    [process] = await client.call(Stat(pid=pid, dead=True))
    assert process.status
    return process.status


def policy(name: str, quantum: int | None) -> Policy:
    try:
        return named(name, quantum)
    except ValueError:
        raise Failure(f"with --policy {name} there are no turns, and --quantum has no meaning", WRONG) from None


async def resume(system: System, client: Client, left: list[Process], json: bool) -> int:
    """Wait until all that was left unfinished has ended, but for what is parked; gives the first code that is not 0."""
    if many := len(left):
        say(f"going on with {many} unfinished process{'es' * (many > 1)}")
    else:
        say(f"nothing to do: nothing is unfinished in {system.state}")
    pids = {process.pid for process in left}
    open_ends = {process.pid for process in left if process.ppid not in pids}  # their parents were foreign, or init
    codes: dict[int, int] = {}
    while True:
        changed = system.changed
        unfinished = system.unfinished()
        for pid in sorted(open_ends - codes.keys() - {process.pid for process in unfinished}):
            [process] = await client.call(Stat(pid=pid, dead=True))
            await system.terminal.drained()
            assert process.status
            codes[pid] = tell(process.status, json)
        if all(process.parked for process in unfinished):
            return next((code for _, code in sorted(codes.items()) if code), 0)
        await changed.wait()


# ---- what a kernel has left


async def ps(options: Namespace) -> Result:
    """Read the process table of a kernel that does not run."""
    rows: list[tuple[Any, ...]] = []
    if (options.state / TRUTH).exists():
        with opened(options.state, "process", options.key) as store:
            rows = [*store.load()["process"], *(store.dead() if options.all else ())]
    say(f"no kernel runs on {options.state}; this is what is saved there" if rows else f"nothing is in {options.state}")
    columns = (dict(zip(TABLES["process"].columns, row, strict=True)) for row in sorted(rows))
    return Result(of_processes(saved(row) for row in columns if not row["foreign"]))


def saved(row: dict[str, Any]) -> ProcessInfo:
    """Describe a process that nobody runs."""
    plain = {name: row[name] for name in ("pid", "ppid", "program", "nice", "epoch", "tokens")}
    status = ExitStatus.model_validate_json(row["status"]) if row["status"] else None
    state = "REAPED" if row["reaped"] else "ZOMBIE" if status else "SAVED"
    return ProcessInfo(**plain, args=from_json(row["args"]), state=state, status=status)


async def logs(options: Namespace) -> Result:
    """Read the journal of a process that nobody runs."""
    if not (options.state / TRUTH).exists():
        raise Failure(f"nothing is in {options.state}")
    with opened(options.state, "process", options.key) as store:
        pids = {row[0] for row in (*store.load()["process"], *store.dead())}
        entries = [LogEntry.model_validate(entry) for entry in logged(store.journal(options.pid, options.last))]
    if options.pid not in pids:
        raise Failure(f"ESRCH: no process {options.pid} in {options.state}; `tokix ps --all` shows them")
    return Result(of_journal(entries, not options.full, options.times))


async def devices(options: Namespace) -> Result:
    """Describe what a kernel would have."""
    say(f"no kernel runs on {options.state}; this is what `tokix run` mounts without options")
    plain = Namespace(root=None, mount=None, state=options.state, key=options.key)
    return chosen([driver.describe(name) for name, driver in mounted(plain, Guest()).items()], options.names)


WITHOUT = {"ps": ps, "logs": logs, "devices": devices}
