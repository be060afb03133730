"""Scheduling policies: who gets a lane next. Mechanism is the scheduler's; a policy only orders, and keeps accounts.

`key` orders the bursts that wait; it is computed when a burst is queued and does not change while it waits, so that
the queue is a heap changed by events. What it needs of a changing world `ready` notes on the burst, at the beginning of
every turn. Ageing fits in, because waiting lowers all keys alike: with level n, one level for every AGE ticks of
waiting, and the clock now, n − (now − since) / AGE orders like n · AGE + since.

`beats` says when an arrival takes a lane from a burst that runs: with most policies only if its rank is strictly lower.

A turn is paid in advance, when a burst gets a lane (`charge` with what it is likely to cost), and the difference when
it leaves: so several lanes that are free at the same time do not all go to the same one. Cost is counted in tokens fed
and in context read, in units of one token, and never in seconds: a schedule can be repeated.
"""

from __future__ import annotations

from sys import maxsize
from typing import TYPE_CHECKING, ClassVar

from tokix.kernel.family import DEARNESS

if TYPE_CHECKING:
    from tokix.kernel.burst import Burst
    from tokix.kernel.family import Group

DEFAULT_QUANTUM = 16
#: Context that costs as much to read as a token to feed, and prompt that costs as much as a token to sample: from the
#: ticks of a model of 135 million parameters on two cores (docs/log.md).
READ, PROMPT = 256, 4
#: Levels by which who is read along goes before others.
EAGER = 8
#: Quanta by which a group may be ahead of another, and still take a lane from it for who is read along.
DEBT = 32


class Policy:
    """The interface, and the simplest policy: first come, first served, each to its end.

    The longest wait: all that came before, each to its end.
    """

    name: ClassVar[str] = "FCFS"
    #: Tokens that a burst may sample before it yields its lane to an equal that waits.
    quantum: int = maxsize
    #: An owner that thinks again at once has the lane for the rest of its quantum, instead of a place in the queue.
    keeps_lane: ClassVar[bool] = False
    #: The group with the smallest `share` is next, and `key` orders inside of a group.
    shares: ClassVar[bool] = False

    def ready(self, burst: Burst, now: int) -> None:
        """Note what `key` needs: a burst begins to wait for its next turn, or has a lane without waiting."""

    def key(self, burst: Burst) -> tuple[int, ...]:
        """Order the bursts that wait; the smallest runs first."""
        return (burst.arrival, 0)

    def rank(self, burst: Burst, now: int) -> int:
        """Give the class of a burst at tick `now`."""
        return 0

    def standing(self, burst: Burst) -> int:
        """Give what somebody has said of a burst: who is of a lower one may cost others what they were computed for."""
        return 0

    def beats(self, burst: Burst, other: Burst) -> bool:
        """Say whether a burst that has just arrived takes the lane of one that runs."""
        return self.rank(burst, burst.since) < other.rank

    def share(self, group: Group) -> float:
        """Order the groups; it changes only with `ready` and `charge` of a burst of that group."""
        return 0.0

    def charge(self, burst: Burst, cost: float) -> None:
        """A burst in a lane costs so many tokens; less than nothing is given back."""


class FCFS(Policy):
    """First come, first served."""


class RR(Policy):
    """Round robin: a burst that has used its quantum goes to the end of the queue.

    The longest wait: a turn of each other burst.
    """

    name = "RR"
    keeps_lane = True

    def __init__(self, quantum: int = DEFAULT_QUANTUM) -> None:
        self.quantum = quantum

    def key(self, burst: Burst) -> tuple[int, ...]:
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

    def key(self, burst: Burst) -> tuple[int, ...]:
        return (burst.nice * self.age + burst.since, burst.turn)

    def rank(self, burst: Burst, now: int) -> int:
        return burst.nice - (now - burst.since) // self.age

    def standing(self, burst: Burst) -> int:
        return burst.nice


class SJF(Policy):
    """Shortest job first, each to its end; an arrival takes the lane of a burst that has more than twice as much left.

    A burst is as long as the others of its program were, at most its `max_tokens`; when it has been longer than that,
    it is expected to go on for as long again. The longest wait: `patience` ticks for each of the tokens it is expected
    to have, then it goes before all newcomers and none takes its lane.
    """

    name = "SJF"

    def __init__(self, patience: int = 8) -> None:
        self.patience = patience

    def ready(self, burst: Burst, now: int) -> None:
        usual, most = burst.usage, burst.end - burst.prompt
        mean = most if not usual.bursts else min(most, -(-usual.tokens // usual.bursts))
        burst.level = mean + burst.head // PROMPT

    def left(self, burst: Burst) -> int:
        """Give the tokens that are expected to come."""
        said = burst.generated
        return min(burst.level - said if said < burst.level else said, burst.end - burst.prompt + burst.head // PROMPT)

    def key(self, burst: Burst) -> tuple[int, ...]:
        return (self.patience * self.left(burst) + burst.since, burst.turn)

    def beats(self, burst: Burst, other: Burst) -> bool:
        waited = other.seated - other.since
        return self.patience * 2 * self.left(burst) < self.patience * self.left(other) - waited


class MLFQ(RR):
    """Feedback: a burst sinks a level when its service has doubled, and while it waits it rises one every `age` ticks.

    Inside a level the family that came first goes on, so that few are under way and their frames stay. A long prompt
    counts as service in advance, so that it joins further down (skip-join, FastServe, 2305.05920). The longest wait:
    `age` ticks for each level, and a burst of n quanta sinks by as many levels as n has binary digits.
    """

    name = "MLFQ"

    def __init__(self, quantum: int = DEFAULT_QUANTUM, age: int = 128) -> None:
        super().__init__(quantum)
        self.age = age

    def ready(self, burst: Burst, now: int) -> None:
        burst.level = self.level(burst.generated + burst.head // PROMPT)

    def level(self, service: float) -> int:
        """Give the level of somebody who has had so much service, in tokens."""
        return int(service / self.quantum).bit_length()

    def key(self, burst: Burst) -> tuple[int, ...]:
        return (burst.level + burst.since // self.age, burst.family.number, burst.turn)

    def rank(self, burst: Burst, now: int) -> int:
        return burst.level + burst.since // self.age - now // self.age


class LAS(MLFQ):
    """Least attained service of a family: levels as with MLFQ, by what all its bursts have cost (PLAS, 2502.13965).

    Nice makes service dearer or cheaper. The longest wait: as with MLFQ, where n is the service of the family.
    """

    name = "LAS"

    def __init__(self, quantum: int = DEFAULT_QUANTUM, age: int = 64) -> None:
        super().__init__(quantum, age)

    def ready(self, burst: Burst, now: int) -> None:
        burst.level = self.level(burst.family.served)

    def charge(self, burst: Burst, cost: float) -> None:
        burst.family.served += cost * DEARNESS[burst.nice]


class FAIR(RR):
    """Equal shares for the groups that want them, round robin inside of each: start-time fair queueing (Goyal, 1996).

    What a group has had is counted up from what the least served had when it came, so that nobody saves up. Nice makes
    service dearer or cheaper: groups with nice 0 and 5 share 3 : 1. The longest wait: a turn of each other burst of the
    group, for each of which every other group gets as much service.
    """

    name = "FAIR"
    shares = True

    def __init__(self, quantum: int = DEFAULT_QUANTUM) -> None:
        super().__init__(quantum)
        #: What the best served had when its turn began: who comes starts there.
        self.now = 0.0

    def ready(self, burst: Burst, now: int) -> None:
        group = burst.family.group
        group.served = max(group.served, self.now) if group.clock is self else self.now
        group.clock = self

    def share(self, group: Group) -> float:
        return group.served

    def charge(self, burst: Burst, cost: float) -> None:
        self.now = max(self.now, burst.start)
        burst.family.group.served += cost * DEARNESS[burst.nice]


class Mixed(FAIR):
    """FAIR among groups; inside of a group levels as with MLFQ, to which nice adds its steps.

    Who is read along while it thinks is EAGER levels better. An arrival takes a lane only from its own group, or from
    one that has had more, but for a debt that who is read along may make. The longest wait: a group's as with FAIR;
    inside of it `age` ticks for each level between a burst and a newcomer.
    """

    name = "MIXED"

    def __init__(self, quantum: int = DEFAULT_QUANTUM, age: int = 128) -> None:
        super().__init__(quantum)
        self.inside = MLFQ(quantum, age)

    def ready(self, burst: Burst, now: int) -> None:
        super().ready(burst, now)
        self.inside.ready(burst, now)
        burst.level = self.standing(burst) + (0 if burst.read else burst.level)

    def standing(self, burst: Burst) -> int:
        return burst.nice - EAGER if burst.read else burst.nice

    def key(self, burst: Burst) -> tuple[int, ...]:
        return self.inside.key(burst)

    def rank(self, burst: Burst, now: int) -> int:
        return self.inside.rank(burst, now)

    def beats(self, burst: Burst, other: Burst) -> bool:
        mine, theirs = burst.family.group, other.family.group
        debt = DEBT * self.quantum if burst.read else 0
        return super().beats(burst, other) and (mine is theirs or mine.served <= theirs.served + debt)


POLICIES: dict[str, type[Policy]] = {p.name: p for p in (FCFS, RR, Priority, SJF, MLFQ, LAS, FAIR, Mixed)}


def named(name: str, quantum: int | None = None) -> Policy:
    """Make a policy; raises ValueError for a quantum where there are no turns."""
    policy = POLICIES[name]
    if issubclass(policy, RR):
        return policy(quantum or DEFAULT_QUANTUM)
    if quantum is not None:
        raise ValueError(f"with {name} there are no turns, and a quantum has no meaning")
    return policy()
