"""Scheduling policies: who gets a lane next. Mechanism is the scheduler's; a policy only orders.

`key` orders the bursts that wait; it is computed when a burst is queued and does not change while it waits, so that
the queue is a heap changed by events. Ageing fits in, because waiting lowers all keys alike: with nice n, one step of
nice for every AGE ticks of waiting, and the clock now, n − (now − since) / AGE orders like n · AGE + since.

`rank` says when an arrival takes a lane from a burst that runs: only if its rank is strictly lower.
"""

from __future__ import annotations

from sys import maxsize
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from tokix.kernel.scheduler import Burst

DEFAULT_QUANTUM = 16


class Policy:
    """The interface, and the simplest policy: first come, first served, each to its end."""

    name: ClassVar[str] = "FCFS"
    #: Tokens that a burst may sample before it yields its lane to an equal that waits.
    quantum: int = maxsize
    #: An owner that thinks again at once has the lane for the rest of its quantum, instead of a place in the queue.
    keeps_lane: ClassVar[bool] = False

    def key(self, burst: Burst) -> tuple[int, int]:
        """Order the bursts that wait; the smallest runs first."""
        return (burst.arrival, 0)

    def rank(self, burst: Burst, now: int) -> int:
        """Give the class of a burst at tick `now`; a lower one preempts."""
        return 0


class FCFS(Policy):
    """First come, first served."""


class RR(Policy):
    """Round robin: a burst that has used its quantum goes to the end of the queue."""

    name = "RR"
    keeps_lane = True

    def __init__(self, quantum: int = DEFAULT_QUANTUM) -> None:
        self.quantum = quantum

    def key(self, burst: Burst) -> tuple[int, int]:
        return (burst.turn, 0)


class Priority(RR):
    """Nice first, round robin among equals; a burst that waits gains one step of nice every `age` ticks.

    So nothing starves: after 39 · age ticks even nice 19 goes before a newcomer with nice −20, and the step that it
    gained is its rank for the whole quantum that follows.
    """

    name = "PRIORITY"

    def __init__(self, quantum: int = DEFAULT_QUANTUM, age: int = 16) -> None:
        super().__init__(quantum)
        self.age = age

    def key(self, burst: Burst) -> tuple[int, int]:
        return (burst.nice * self.age + burst.since, burst.turn)

    def rank(self, burst: Burst, now: int) -> int:
        return burst.nice - (now - burst.since) // self.age


POLICIES: dict[str, type[Policy]] = {policy.name: policy for policy in (FCFS, RR, Priority)}
