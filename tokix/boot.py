"""The edge of the system: it puts everything together, and is the only place where anything waits.

    interrupts  ──►  kernel.step(interrupts, now)  ──►  tick     started first, on the machine's own thread
                                                        rows     committed next
                                                        effects  started last

The invariant is that order. A tick may go first, for it is pure and nobody sees its result before the next step, so the
commit hides behind it. Effects go last: nobody outside ever sees what a crash could undo. When a commit fails, or the
kernel itself is wrong, memory is ahead of the disk: the kernel stops, nothing of that step is let out, and the next
boot goes on from the last commit.
"""

from __future__ import annotations

from asyncio import get_running_loop
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import ExitStack, asynccontextmanager, contextmanager
from itertools import count
from pathlib import Path
from signal import SIGPIPE
from socket import socket
from typing import TYPE_CHECKING, Any

import anyio
from anyio.abc import TaskGroup
from anyio.lowlevel import checkpoint

from tokix.archive import Archive, Desk
from tokix.contexts import Cabinet, beside
from tokix.control import Control, Line, Local, listening
from tokix.devices import Devices
from tokix.drivers import Calc
from tokix.failure import Interrupted, Stopped, stopped
from tokix.host import MachineThread, WallClock, no_event_loop, signals
from tokix.index import Keeper, available, lines, owner
from tokix.kernel.arch.toy import ToyEncoder, ToyMachine
from tokix.kernel.calls.process import buried
from tokix.kernel.calls.system import logged
from tokix.kernel.events import (
    Answer,
    Attach,
    Attached,
    Detach,
    Effect,
    Encode,
    Fetch,
    Hangup,
    Interrupt,
    Invoke,
    List,
    Outcome,
    Pack,
    Prompt,
    Reply,
    Report,
    Revoke,
    Search,
    Show,
    Unpack,
)
from tokix.kernel.kernel import Kernel
from tokix.kernel.life import INIT
from tokix.kernel.policy import Mixed
from tokix.kernel.ports import TABLES
from tokix.programs import Resolver, absolute
from tokix.shell.client import SOCKET, Client
from tokix.state import DEATHS, INDEX, RUNNING, Durable, opened, private
from tokix.storage import StoreError
from tokix.syscalls import ExitStatus, Spawn, Wait
from tokix.terminal import Outside, Terminal
from tokix.watchdog import Running, Watchdog, suspects

if TYPE_CHECKING:
    from tokix.kernel.policy import Policy
    from tokix.kernel.ports import Driver, Encoder, Machine, Program, Rows, Store
    from tokix.kernel.process import Process

#: Seconds without an interrupt after which the kernel is checked, and the watchdog sleeps.
QUIET = 0.5
#: The longest wait, in seconds: when a computer was asleep, its clock is somewhere else.
LONGEST = 60.0


@asynccontextmanager
async def boot(
    state: Path | str | None = None,
    *,
    durable: Durable = "process",
    key: str | None = None,
    store: Store | None = None,
    machine: Machine | None = None,
    encoder: Encoder | None = None,
    policy: Policy | None = None,
    programs: Mapping[str, Program] | None = None,
    drivers: Mapping[str, Driver] | None = None,
    init: tuple[str, list[Any]] = ("init", []),
    lanes: int = 8,
    seed: int = 0,
    terminal: Outside | None = None,
    signalled: bool = False,
) -> AsyncIterator[System]:
    """Run a kernel on a state directory while the block runs; without one, nothing is kept and nobody can connect.

    What is unfinished there goes on at once, and what is unfinished at the end of the block goes on at the next boot.
    `key` is that of an encrypted directory, or of a new one: a passphrase or 64 hexadecimal digits. `encoder` is what
    `Recall` and `Embed` need; the toy machine, which runs if no other does, brings its own.
    `programs` are found before all others, `drivers` are mounted by their names; `signalled`: SIGINT, SIGTERM and
    SIGHUP stop the kernel. Raises StoreError, Stopped, Interrupted, and what the block raises.
    """
    state = Path(state) if state else None
    with ExitStack() as stack:
        if store is None:
            store = stack.enter_context(opened(state, durable, key))
        listener = stack.enter_context(listening(state / SOCKET)) if state else None
        drivers = {"calc": Calc()} if drivers is None else drivers
        encoder = encoder or (ToyEncoder() if machine is None else None)
        system = System(state, store, machine or ToyMachine(), drivers, terminal or Terminal(), encoder, key)
        if state and durable != "none" and encoder and not key and available():  # an index is plain
            told = lines(system.report)
            system.desk.keeper = Keeper(
                system.desk.archive,
                state / INDEX,
                system.report,
                progress=lambda space, done, total: told(f"the index of {owner(space)}", done, total),
            )
        stack.callback(system.end)
        if signalled:
            stack.enter_context(signals(get_running_loop(), lambda signum: system.fail(Interrupted(signum))))
        resolver = Resolver(programs or {}, system.report)
        system.recover(programs=resolver, policy=policy or Mixed(), init=init, lanes=lanes, seed=seed)
        problem: Exception | None = None
        try:
            async with anyio.create_task_group() as group:
                system.go(group, listener)
                try:
                    yield system
                except Exception as error:  # the caller's own: it goes on from here as if there were no group
                    problem = error
                group.cancel_scope.cancel()
        finally:
            system.finish()
        if problem:
            raise problem


def run(
    program: str | Program, *args: Any, programs: Mapping[str, Program] | None = None, **options: Any
) -> ExitStatus:
    """Boot, run a program to its end, and give its status: `run("echo", "hi")`, or `run(main, 3)`.

    `options` are those of `boot`. Ctrl-C stops the kernel and raises Interrupted.
    """
    known = dict(programs or {})
    name = program if isinstance(program, str) else f"{program.__module__}:{program.__name__}"
    if not isinstance(program, str):
        known[name] = program
    spawn = Spawn(program=absolute(name), args=list(args), fds=dict.fromkeys(range(3), "tty"))

    async def main() -> ExitStatus:
        async with boot(programs=known, signalled=True, **options) as system, system.attach("run") as client:
            pid = await client.call(spawn)
            status = await client.call(Wait(pid=pid))
            await system.terminal.drained()
            return status

    return anyio.run(main)


class System:
    """A kernel and what is around it."""

    kernel: Kernel

    def __init__(
        self,
        state: Path | None,
        store: Store,
        machine: Machine,
        drivers: Mapping[str, Driver],
        terminal: Outside,
        encoder: Encoder | None = None,
        key: str | None = None,
    ) -> None:
        self.state, self.store, self.machine, self.terminal = state, store, machine, terminal
        self.private = key is not None or (state is not None and private(state))
        self.report = terminal.report
        self.clock = WallClock()
        self.thread = MachineThread(machine, get_running_loop(), self.post, self.broken_machine)
        self.desk = Desk(Archive(store, encoder), self.thread, self.post, self.report, self.spawn)
        self.cabinet = Cabinet(machine, self.desk.archive, state if self.private else None)
        self.aside = beside(machine, self.thread)
        self.devices = Devices(drivers, self.post, self.report)
        self.control = Control(self.arrive, self.post)
        self.running = Running(state / RUNNING if state else None)
        self.watchdog = Watchdog(self.running, self.bark)
        self.group: TaskGroup | None = None
        #: The store has all that the kernel has decided; if not, there is no way on but the next boot.
        self.whole = True
        #: What comes with the next step, and what came with the last.
        self.inbox: list[Interrupt] = []
        self.taken: list[Interrupt] = []
        #: Set at the next interrupt, and when the next change of the process table is committed.
        self.rung, self.changed = anyio.Event(), anyio.Event()
        self.tickets = count(1)
        self.arriving: dict[int, Line] = {}
        self.lines: dict[int, Line] = {}
        self.failure: Exception | None = None
        #: Called after each step: they look and change nothing.
        self.observers: list[Callable[[Kernel], None]] = []

    # ---- a life

    def recover(self, **options: Any) -> None:
        """Make the kernel from what the store has."""
        rows = self.store.load()
        self.same_model(rows)
        with self.crash("the kernel could not recover"), no_event_loop():
            parked = suspects(self.running, self.state / DEATHS, rows) if self.state else {}
            self.kernel = Kernel(
                rows,
                machine=self.machine,
                devices=self.devices.describe(),
                now=self.clock.now(),
                suspects=parked,
                on_run=self.running,
                ahead=self.machine.ahead,
                **options,
            )
        self.clock.follow(self.kernel.now)
        for process in self.kernel.procs.values():
            if process.parked:
                self.report(f"process {process.pid} ({process.program}) is parked: {process.parked}")
            if process.foreign:  # nobody holds its other end any more
                self.post(Detach(process.pid))

    def same_model(self, rows: Mapping[str, list[tuple[Any, ...]]]) -> None:
        """Raise StoreError if something is unfinished whose tokens another model has made."""
        model = dict(rows["kernel"]).get("model", self.machine.name)
        processes = (dict(zip(TABLES["process"].columns, row, strict=True)) for row in rows["process"])
        living = [p for p in processes if not p["status"] and not p["foreign"] and p["pid"] != INIT]
        if model != self.machine.name and living:
            raise StoreError(
                f"what is unfinished in {self.state} was begun on the model {model}, and this is {self.machine.name}: "
                f"take --model {model}, or another --state"
            )

    def go(self, group: TaskGroup, listener: socket | None) -> None:
        """Start the kernel, and what waits for the outside on its behalf."""
        self.group = group
        if self.failure:  # a signal came while the kernel recovered
            group.cancel_scope.cancel()
        group.start_soon(self.guard, self.drive)
        group.start_soon(self.guard, self.terminal.read, self.post)
        group.start_soon(self.guard, self.write)
        if self.desk.keeper:
            group.start_soon(self.guard, self.desk.keeper.run)
        if listener:
            group.start_soon(self.guard, self.control.serve, listener)

    async def drive(self) -> None:
        while True:
            self.step()
            await self.rest()

    def step(self) -> None:
        """One step of the kernel: its tick, its rows, its effects."""
        outcome = self.decide()
        for tick in outcome.ticks:
            self.thread.start(tick)
        for observe in self.observers:
            observe(self.kernel)
        self.commit(outcome.rows)
        self.desk.archive.committed(self.taken, outcome.rows)
        if "vector" in outcome.rows:
            self.desk.look()
        for effect in outcome.effects:
            self.start(effect)
        if not self.kernel.scheduler.flights:
            self.desk.idle()

    def decide(self) -> Outcome:
        self.taken, self.inbox = self.inbox, []
        self.whole = False
        with self.crash("the kernel is wrong"), no_event_loop():
            return self.kernel.step(self.taken, self.clock.now())

    def commit(self, rows: Rows) -> None:
        if rows:
            with self.crash("a commit failed"):
                self.store.commit(rows)
        self.whole = True
        if "process" in rows:
            self.changed.set()
            self.changed = anyio.Event()

    async def rest(self) -> None:
        """Wait for an interrupt or a timer. When all is quiet, the kernel is checked, and the watchdog sleeps."""
        self.rung = anyio.Event()
        deadline = self.kernel.deadline()
        left = LONGEST if deadline is None else min(deadline - self.clock.now(), LONGEST)
        if self.inbox or left <= 0:
            await checkpoint()  # others have to breathe
        elif not await self.ring(min(left, QUIET)) and left > QUIET:
            with self.crash("the kernel is wrong"):
                self.kernel.check()
            with self.watchdog.asleep():
                await self.ring(left - QUIET)

    async def ring(self, seconds: float) -> bool:
        """Wait so long for an interrupt; says whether one has come."""
        with anyio.move_on_after(seconds):
            await self.rung.wait()
        return self.rung.is_set()

    def finish(self) -> None:
        """Take in what has happened already, but run no program any more. Raises what stopped the kernel."""
        if self.whole:
            self.kernel.budget = 0
            self.commit(self.decide().rows)
        if self.failure:
            raise self.failure

    def end(self) -> None:
        """Let the threads end."""
        self.thread.end()
        self.watchdog.end()

    # ---- what comes in

    def post(self, interrupt: Interrupt) -> None:
        self.inbox.append(interrupt)
        self.rung.set()

    def arrive(self, line: Line, program: str) -> None:
        """Make a foreign process of somebody outside."""
        ticket = next(self.tickets)
        self.arriving[ticket] = line
        self.post(Attach(ticket, program))

    @asynccontextmanager
    async def attach(self, program: str) -> AsyncIterator[Client]:
        """Be a foreign process in the kernel's own."""
        local = Local(self.post)
        self.arrive(local, program)
        await local.here.wait()
        try:
            yield local
        finally:
            self.post(Detach(local.pid))

    def unfinished(self) -> list[Process]:
        """Give the processes that go on: now, or at the next boot."""
        return [p for p in self.kernel.procs.values() if p.pid != INIT and not p.foreign and not p.status]

    # ---- what goes out

    def start(self, effect: Effect | Attached) -> None:
        match effect:
            case Invoke() if self.group:
                self.devices.invoke(effect, self.group)
            case Revoke(key):
                self.devices.revoke(key)
            case Show():
                self.terminal.show(effect)
            case Prompt():
                self.terminal.prompt(effect)
            case Fetch(key, int(pid), last):
                self.post(Answer(key, logged(self.store.journal(pid, last))))
            case Fetch(key):
                self.post(Answer(key, [buried(row) for row in self.store.dead()]))
            case List(key):
                self.post(Answer(key, self.desk.archive.listed(effect)))
            case Search() | Encode():
                self.spawn(self.desk.answer, effect)
            case Pack() | Unpack():
                self.spawn(self.cabinet.answer, effect, self.cabinet.job(effect, *self.aside), self.post)
            case Attached(ticket, pid):
                self.lines[pid] = self.arriving.pop(ticket)
                self.lines[pid].attached(pid)
            case Reply(pid, key, ok, text):
                if line := self.lines.get(pid):
                    line.replied(key, ok, text)
            case Hangup(pid, reason):
                if line := self.lines.pop(pid, None):
                    line.hungup(reason)
            case Report(text):
                self.report(text)

    async def write(self) -> None:
        """Show the output; when nobody reads it any more, stop, as every program in a pipeline does."""
        try:
            await self.terminal.write(self.post)
        except BrokenPipeError:
            self.fail(Interrupted(SIGPIPE))
        except OSError as error:
            raise Stopped(f"no output any more ({error.strerror}); the next kernel shows what is missing") from error

    # ---- what goes wrong

    def spawn(self, part: Callable[..., Awaitable[None]], *args: Any) -> None:
        """Start a part of the edge that ends by itself."""
        if self.group:
            self.group.start_soon(self.guard, part, *args)

    async def guard(self, part: Callable[..., Awaitable[None]], *args: Any) -> None:
        """Run a part of the edge; if it fails, the kernel stops."""
        try:
            with self.crash("the edge is wrong"):
                await part(*args)
        except Stopped as error:
            self.fail(error)

    def fail(self, failure: Exception) -> None:
        """Stop the kernel."""
        self.failure = self.failure or failure
        if self.group:
            self.group.cancel_scope.cancel()

    @contextmanager
    def crash(self, what: str) -> Iterator[None]:
        """Make Stopped, and a report, of any failure."""
        try:
            yield
        except Stopped:
            raise
        except Exception as error:
            raise stopped(what, error, self.state, self.running.pid, self.private) from error

    def broken_machine(self, error: BaseException) -> None:
        self.fail(stopped("the machine failed", error, self.state, 0, self.private))

    def bark(self, pid: int, line: str) -> None:
        process = self.kernel.procs.get(pid) if hasattr(self, "kernel") else None
        name = f" ({process.program})" if process else ""
        self.report(f"process {pid}{name} has had the kernel for more than 50 ms, at {line}")
