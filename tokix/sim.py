"""A simulated edge: it drives a kernel in virtual time, without threads, an event loop or a terminal.

A tick and a device take what the world says, output half. The same store and the same world give the same run, to the
byte: the tests, the benchmarks and the book use it. A `World` is what a kill of the kernel does not touch.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Any

from tokix.archive import Archive, encode
from tokix.contexts import Cabinet
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
    Input,
    Interrupt,
    Invoke,
    List,
    Pack,
    Prompt,
    Reply,
    Report,
    Search,
    Show,
    Shown,
    Tick,
    TickDone,
    Trap,
    Unpack,
)
from tokix.kernel.kernel import Kernel
from tokix.kernel.policy import RR
from tokix.syscalls import DeviceInfo, Syscall, SyscallError
from tokix.syscalls.errors import decode_error

if TYPE_CHECKING:
    from tokix.kernel.policy import Policy
    from tokix.kernel.ports import Encoder, Machine, Programs, Space, Store


class Person:
    """A foreign process: it makes its calls in order, and repeats the open one to every new kernel."""

    def __init__(self, calls: list[Syscall[Any]]) -> None:
        self.calls, self.pid = calls, 0
        self.outcomes: list[Any] = []

    def begin(self) -> list[Interrupt]:
        """Give what this person sends to a new kernel."""
        return self.next() if self.pid else [Attach(0, "person")]

    def next(self) -> list[Interrupt]:
        index = len(self.outcomes)
        if index == len(self.calls):
            return [Detach(self.pid)]
        return [Trap(self.pid, f"call {index}", self.calls[index])]

    def hear(self, reply: Reply) -> list[Interrupt]:
        """Take an outcome; gives the next call. A Spawn's pid replaces −1 in the calls that follow."""
        if reply.key != f"call {len(self.outcomes)}":
            return []
        call = self.calls[len(self.outcomes)]
        value = call.reply.validate_json(reply.text) if reply.ok else decode_error(reply.text)
        self.outcomes.append(value)
        if call.name == "spawn" and reply.ok:
            self.calls = [c.model_copy(update={"pid": value}) if getattr(c, "pid", 0) == -1 else c for c in self.calls]
        return self.next()


class World:
    """The outside: a clock, a screen, a keyboard, devices, perhaps a person. Subclasses bring devices."""

    devices: tuple[DeviceInfo, ...] = ()

    def __init__(self, lines: tuple[str, ...] = (), person: Person | None = None) -> None:
        self.now = 0.0
        #: What the screen shows, by stream and offset: (pid, descriptor, text).
        self.screen: dict[tuple[str, int], tuple[int, int, str]] = {}
        #: What somebody types, if a process reads; after the last line comes the end.
        self.lines = lines
        self.person = person
        self.reports: list[str] = []

    def invoke(self, effect: Invoke) -> Any:
        """Run an op; gives its value or raises a SyscallError."""
        raise NotImplementedError(effect.device)

    def duration(self, tick: Tick) -> float:
        """Give how long a tick takes."""
        return 1.0

    def latency(self, effect: Invoke) -> float:
        """Give how long an op takes."""
        return 2.5

    def carrying(self, effect: Pack | Unpack) -> float:
        """Give how long it takes to write or to read a context file; a tick that was begun before is never shorter."""
        return 1.0

    def show(self, effect: Show) -> None:
        """Show text; the same offset always has the same text, and no offset is left out."""
        stream, offset, pid, fd, text = effect
        if self.screen.setdefault((stream, offset), (pid, fd, text)) != (pid, fd, text):
            raise AssertionError(f"{effect} was shown as {self.screen[stream, offset]}")
        if offset and (stream, offset - 1) not in self.screen:
            raise AssertionError(f"the text in front of {effect} was never shown")

    def output(self, pid: int | None = None, fd: int | None = None) -> str:
        """Give what is on the screen, of one process and descriptor or of all."""
        chunks = (chunk for _, chunk in sorted(self.screen.items()))
        return "".join(text for p, f, text in chunks if pid in (None, p) and fd in (None, f))


#: The machine has nothing else to do: pages can be embedded.
IDLE = object()


class Simulation:
    """One life of a kernel."""

    def __init__(
        self,
        programs: Programs | Mapping[str, Any],
        store: Store,
        world: World | None = None,
        machine: Machine | None = None,
        policy: Policy | None = None,
        encoder: Encoder | None = None,
        checked: bool = True,
        **shape: Any,
    ) -> None:
        """Boot from the store. `checked`: the kernel looks itself over after every step.

        `shape` is handed to `Kernel`: lanes, prefill, budget, init, seed, ….
        """
        self.store, self.world = store, world or World()
        self.machine = machine or ToyMachine()
        self.archive = Archive(store, encoder or ToyEncoder())
        self.cabinet = Cabinet(self.machine, self.archive)
        self.kernel = Kernel(
            store.load(),
            machine=self.machine,
            programs=programs,
            policy=policy or RR(),
            devices=self.world.devices,
            now=self.world.now,
            **shape,
        )
        self.events: list[tuple[float, int, Any]] = []
        self.serial = count()
        #: When the last tick ends.
        self.landing = 0.0
        person = self.world.person
        foreign = [p.pid for p in self.kernel.procs.values() if p.foreign and not (person and p.pid == person.pid)]
        if self.archive.pending:
            self.later(1.5, IDLE)
        self.due: list[Any] = [*map(Detach, foreign), *(person.begin() if person else ())]
        self.steps, self.checked = 0, checked

    def run(self, steps: int = 1_000_000) -> Simulation:
        """Go on until nothing more will happen; raises RuntimeError if that takes too many steps."""
        for _ in range(steps):
            self.step()
            if not self.wait():
                self.kernel.check()
                return self
        raise RuntimeError(f"the simulation goes on after {steps} steps")

    def step(self) -> None:
        """One step of the kernel: its tick, its rows, its effects."""
        due, self.due = self.due, []
        outcome = self.kernel.step(due, self.world.now)
        self.steps += 1
        for tick in outcome.ticks:  # one after the other
            self.landing = max(self.landing, self.world.now) + self.world.duration(tick)
            self.later(self.landing - self.world.now, tick)
        if outcome.rows:
            self.store.commit(outcome.rows)
        self.archive.committed(due, outcome.rows)
        if "page" in outcome.rows and self.archive.pending:
            self.later(1.5, IDLE)
        for effect in outcome.effects:
            self.start(effect)
        if self.checked:
            self.kernel.check()

    def start(self, effect: Effect | Attached) -> None:
        world = self.world
        match effect:
            case Invoke():
                self.later(world.latency(effect), self.answer(effect))
            case Show(stream, offset):
                world.show(effect)
                self.later(0.5, Shown(stream, offset))
            case Prompt(stream) if world.lines:
                taken = self.kernel.streams[stream].next  # the kernel knows how much it has, after a kill too
                self.later(0.5, Input(stream, world.lines[taken] if taken < len(world.lines) else None))
            case Fetch(key, int(pid), last):
                self.later(0.5, Answer(key, logged(self.store.journal(pid, last))))
            case Fetch(key):
                self.later(0.5, Answer(key, [buried(row) for row in self.store.dead()]))
            case List(key):
                self.later(0.5, Answer(key, self.archive.listed(effect)))
            case Search(key):
                self.later(0.5, self.found(effect))
            case Encode(key, texts):
                self.later(0.5, self.made(key, texts))
            case Pack() | Unpack():
                work = self.cabinet.job(effect, self.machine.read, self.machine.fill)
                self.later(world.carrying(effect), partial(self.carried, effect.key, work))
            case Attached(_, pid) if world.person:
                world.person.pid = pid
                self.due += world.person.next()
            case Reply() if world.person:
                self.due += world.person.hear(effect)
            case Report(text):
                world.reports.append(text)
            case Hangup() | _:
                pass

    def answer(self, effect: Invoke) -> Answer:
        try:
            return Answer(effect.key, self.world.invoke(effect))
        except SyscallError as error:
            return Answer(effect.key, error=error)

    def found(self, effect: Search) -> Answer:
        """Search the archive; the vectors that were lacking go to the kernel too."""
        try:
            query = None
            if self.archive.embeds(effect):
                self.embed(effect.spaces)
                [query] = encode(self.archive.needed(), [effect.query])
            *_, found = self.archive.search(effect, query)
            return Answer(effect.key, found)
        except SyscallError as error:
            return Answer(effect.key, error=error)

    def made(self, key: str, texts: list[str]) -> Answer:
        try:
            return Answer(key, encode(self.archive.needed(), texts))
        except SyscallError as error:
            return Answer(key, error=error)

    def carried(self, key: str, work: Callable[[], Any]) -> Answer:
        try:
            return Answer(key, work())
        except SyscallError as error:
            return Answer(key, error=error)

    def embed(self, spaces: tuple[Space, ...] | None = None) -> None:
        """Embed what lacks a vector."""
        while batch := self.archive.batch(spaces):
            keys, texts = batch
            with self.archive.kept(keys):
                vectors = encode(self.archive.needed(), texts)
            for event in self.archive.embedded(keys, vectors):
                self.later(0.5, event)

    def later(self, delay: float, event: Any) -> None:
        heapq.heappush(self.events, (self.world.now + delay, next(self.serial), event))

    def wait(self) -> bool:
        """Move the clock to the next thing that happens; False if there is none. A tick runs when it ends."""
        times = [t for t in (self.kernel.deadline(), self.events[0][0] if self.events else None) if t is not None]
        if self.due:
            return True
        if not times:
            return False
        self.world.now = max(self.world.now, min(times))
        while self.events and self.events[0][0] <= self.world.now:
            event = heapq.heappop(self.events)[2]
            if event is IDLE:
                with suppress(SyscallError):  # whoever searches is told
                    self.embed()
                continue
            if isinstance(event, Tick):
                event = TickDone(event.serial, self.machine.run(event))
            self.due.append(event() if isinstance(event, partial) else event)
        return True
