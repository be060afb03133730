"""A trace: who had which lane in which tick, and what that means for each process.

The edge tells it of every step; it reads the kernel and changes nothing. Times are counted in ticks, because these
reproduce, and in seconds of the wall beside them.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from tokix.kernel.counters import Counters

if TYPE_CHECKING:
    from tokix.kernel.burst import Burst
    from tokix.kernel.kernel import Kernel
    from tokix.kernel.process import Process


class Run(NamedTuple):
    """A burst's part of a tick."""

    lane: int
    pid: int
    #: Tokens that it fed, and whether it sampled one.
    fed: int
    sampled: bool


@dataclass(slots=True)
class Beat:
    """One tick: when it began and ended (seconds), who ran, and who waited for a lane."""

    number: int
    began: float
    ended: float
    runs: list[Run]
    waiting: list[int]


@dataclass(slots=True)
class Wait:
    """One burst, from its arrival to its first and its last token, in ticks."""

    pid: int
    arrived: int
    began: float
    #: Tokens to compute before the first one can be sampled.
    prefill: int = 0
    first: int | None = None
    responded: float | None = None
    ended: int | None = None


@dataclass(slots=True)
class Life:
    """What is known of one process. Ticks and seconds since the trace began."""

    pid: int
    program: str
    nice: int
    born: float
    ended: float | None = None
    waits: list[Wait] = field(default_factory=list)
    #: Ticks in which it ran; in which a burst of it waited; tokens of prompts; tokens sampled.
    ran: int = 0
    waited: int = 0
    fed: int = 0
    sampled: int = 0

    @property
    def response(self) -> int | None:
        """Ticks from the arrival of its first burst to the first token of that."""
        first = self.waits[0] if self.waits else None
        return None if first is None or first.first is None else first.first - first.arrived


class Trace:
    """An observer of a `System`: `system.observers.append(Trace())`."""

    def __init__(self) -> None:
        self.zero = time.monotonic()
        self.beats: list[Beat] = []
        self.lives: dict[int, Life] = {}
        #: The processes that ever ran, in the order in which they did.
        self.order: dict[int, None] = {}
        self.lanes = 0
        #: What the scheduler has counted so far.
        self.counters = Counters()
        #: Ticks in flight, by number, with the bursts of their rows.
        self._open: dict[int, tuple[Beat, list[Burst]]] = {}
        self._bursts: dict[Burst, Wait] = {}
        self._known: set[int] = set()

    def __call__(self, kernel: Kernel) -> None:
        """Look at the kernel after a step."""
        now = time.monotonic() - self.zero
        scheduler = kernel.scheduler
        flying = {flight.tick.serial: flight for flight in scheduler.flights}
        for serial in sorted(self._open.keys() - flying.keys()):
            self._close(*self._open.pop(serial), now)
        self._processes(kernel.procs.values(), now)
        begun = [flight for serial, flight in flying.items() if serial not in self._open]
        for burst in self._seen(kernel):
            if burst not in self._bursts:
                self._arrived(burst, scheduler.clock - len(begun), now)
        for (serial, rows, _), bursts in begun:
            fed = [(len(row.feed), row.sampling is not None) for row in rows]
            runs = [Run(burst.lane, pid_of(burst), *what) for burst, what in zip(bursts, fed, strict=True)]
            waiting = [pid_of(burst) for burst in self._seen(kernel) if burst not in bursts]
            beat = Beat(serial, now, now, runs, waiting)
            self._open[serial] = beat, bursts
            self._count(beat)
        self.lanes = scheduler.lanes
        self.counters = scheduler.mmu.counters

    def _seen(self, kernel: Kernel) -> Iterable[Burst]:
        return [*kernel.scheduler.gang, *kernel.scheduler.queued()]

    def _processes(self, processes: Iterable[Process], now: float) -> None:
        living = set()
        for process in processes:
            if process.status:
                continue
            living.add(process.pid)
            life = self.lives.get(process.pid)
            if life is None:
                self.lives[process.pid] = Life(process.pid, process.program, process.nice, now)
            else:
                life.program, life.nice = process.program, process.nice
        for pid in self._known - living:
            self.lives[pid].ended = now
        self._known = living

    def _arrived(self, burst: Burst, tick: int, now: float) -> None:
        wait = Wait(pid_of(burst), tick, now, len(burst.ctx.tokens) - burst.ctx.computed)
        self._bursts[burst] = wait
        self.lives[wait.pid].waits.append(wait)

    def _count(self, beat: Beat) -> None:
        pids = dict.fromkeys(run.pid for run in beat.runs)
        self.order |= pids
        for pid in pids:
            self.lives[pid].ran += 1
        for run in beat.runs:
            life = self.lives[run.pid]
            life.sampled += run.sampled
            life.fed += run.fed
        for pid in set(beat.waiting):
            self.lives[pid].waited += 1

    def _close(self, beat: Beat, bursts: list[Burst], now: float) -> None:
        beat.ended = now
        for later, _ in self._open.values():  # it could not begin before
            later.began = now
        self.beats.append(beat)
        for burst, run in zip(bursts, beat.runs, strict=True):
            wait = self._bursts.get(burst)
            if wait is None:  # it ended a tick ago
                continue
            if run.sampled and wait.first is None:
                wait.first, wait.responded = beat.number, now
            if not burst.alive:
                wait.ended = beat.number
                del self._bursts[burst]

    # ---- what it comes to

    @property
    def seconds(self) -> float:
        """Wall time in which the machine was at work."""
        return sum(beat.ended - beat.began for beat in self.beats)

    @property
    def sampled(self) -> int:
        """Tokens sampled in all."""
        return sum(run.sampled for beat in self.beats for run in beat.runs)

    @property
    def fed(self) -> int:
        """Tokens fed in all: prompts, and every sampled token once more."""
        return sum(run.fed for beat in self.beats for run in beat.runs)


def pid_of(burst: Burst) -> int:
    """Give the process that a burst belongs to."""
    pid: int = burst.owner.proc.pid
    return pid
