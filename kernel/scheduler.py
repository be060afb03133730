"""The scheduler: which bursts share the next tick, and which frames they use.

Each tick the machine runs a gang of at most `lanes` bursts in one packed forward. A burst takes one row of one token
while it decodes, or a chunk of its prompt, all chunks of a tick together within the prefill budget. The gang changes
only on events (arrival, end, quantum used, wake, frame shortage); between two events forming a tick costs a few
microseconds for each lane, however many wait.

Who may have a lane is a matter of memory, too, and so is whose frames it takes: see `admission`. What loses its frames
keeps its tokens, and has the frames again when it has a lane (see `mmu`). Nothing starves: the best burst can have all
frames, each turn of a lane lasts a whole quantum of sampled tokens, and `key` decides whose turn it is.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import count
from typing import Any, NamedTuple

from tokix.kernel import admission
from tokix.kernel.burst import Burst
from tokix.kernel.errors import KernelBug
from tokix.kernel.events import Row, Tick
from tokix.kernel.family import Group
from tokix.kernel.frames import FRAME
from tokix.kernel.mmu import WORTH, Mmu
from tokix.kernel.policy import READ, Policy
from tokix.kernel.queue import Queue

#: Ticks for which others may pass a burst that waits for frames.
PATIENCE = 64


class Flight(NamedTuple):
    """A tick that the machine has not answered yet, and whose rows it has."""

    tick: Tick
    bursts: list[Burst]


@dataclass(slots=True)
class Scheduler:
    """Bursts in lanes, bursts in the queue, contexts in frames."""

    mmu: Mmu
    policy: Policy
    lanes: int
    #: Tokens of prompts in one tick: what bounds the stall of a burst that decodes.
    prefill: int
    stops: frozenset[int]
    #: Whether a tick may take off while one is in flight.
    ahead: bool = False
    slots: list[Burst | None] = field(init=False)
    gang: list[Burst] = field(default_factory=list)
    queue: Queue = field(init=False)
    #: Bursts that wait until their prompt can be computed without a waste (see `admission`).
    outside: Queue = field(init=False)
    waiting: int = 0
    #: Oldest first.
    flights: deque[Flight] = field(default_factory=deque)
    dirty: bool = False
    #: Bursts that may take a lane at once if they are better; who had each lane last.
    arrived: list[Burst] = field(default_factory=list)
    last: list[Burst | None] = field(init=False)
    #: Lanes that were given up in this step, by owner: (lane, tokens used of the quantum).
    vacated: dict[Any, tuple[int, int]] = field(default_factory=dict)
    clock: int = 0
    serial: count[int] = field(default_factory=count)

    def __post_init__(self) -> None:
        self.slots, self.last = [None] * self.lanes, [None] * self.lanes
        self.queue, self.outside = Queue(self.policy), Queue(self.policy)

    # ---- bursts come and go

    def add(self, burst: Burst) -> None:
        """Queue a burst; one whose owner just ended another may keep that lane for the rest of its quantum."""
        burst.ctx.burst = burst
        burst.arrival = burst.turn = next(self.serial)
        burst.since = self.clock
        burst.head = self.mmu.missing(burst.ctx)
        self.policy.ready(burst, self.clock)
        lane, used = self.vacated.pop(burst.owner, (-1, 0))
        if lane >= 0 and used < self.policy.quantum and self.slots[lane] is None:
            burst.used = used
            self.seat(burst, lane)
        else:
            self.arrived.append(burst)
            self.enqueue(burst)

    def withdraw(self, burst: Burst) -> None:
        """Take a burst out; its context is as before it began."""
        self.leave(burst)
        burst.alive = False
        burst.ctx.burst = None
        del burst.ctx.tokens[burst.base :]
        self.mmu.trim(burst.ctx, min(burst.ctx.computed, burst.base))

    def finish(self, burst: Burst) -> None:
        """A burst has all its tokens: its lane is free, perhaps first of all for its owner's next burst."""
        if burst.lane >= 0 and self.policy.keeps_lane:
            self.vacated[burst.owner] = (burst.lane, burst.used)
        self.leave(burst)
        burst.alive = False
        burst.ctx.burst = None
        burst.usage.bursts += 1
        burst.usage.tokens += burst.generated

    def suspend(self, burst: Burst) -> None:
        """Take a burst off its lane or out of the queue. It keeps its tokens, and its frames for a while."""
        self.leave(burst)

    def wake(self, burst: Burst) -> None:
        """Queue a suspended burst again."""
        burst.since, burst.turn, burst.used = self.clock, next(self.serial), 0
        self.arrive(burst)

    def renice(self, burst: Burst, nice: int) -> None:
        """Change the priority of a burst, wherever it is."""
        if burst.ticket >= 0:
            self.leave(burst)
            burst.nice = nice
            self.arrive(burst)
            return
        if burst.lane >= 0:
            self.settle(burst)
        burst.nice = nice
        if burst.lane >= 0:
            self.prepay(burst)
            burst.rank = self.policy.rank(burst, burst.since)
            self.arrived = self.queued()
            self.dirty = True

    def set_policy(self, policy: Policy) -> None:
        """Order everything anew; lanes are kept until the new policy says otherwise."""
        queued = sorted(self.queued(), key=lambda b: b.turn)
        for burst in self.gang:
            self.settle(burst)
        self.policy, self.queue, self.outside, self.waiting = policy, Queue(policy), Queue(policy), 0
        for burst in queued:
            self.arrive(burst)
        for burst in self.gang:
            policy.ready(burst, self.clock)
            burst.rank = policy.rank(burst, burst.since)
            self.prepay(burst)
        self.dirty = True

    def arrive(self, burst: Burst) -> None:
        """Queue a burst that may take a lane at once."""
        self.policy.ready(burst, self.clock)
        self.arrived.append(burst)
        self.enqueue(burst)

    def queued(self) -> list[Burst]:
        return [*self.queue, *self.outside]

    def enqueue(self, burst: Burst, outside: bool = False) -> None:
        (self.outside if outside else self.queue).push(burst, next(self.serial))
        self.waiting += 1
        self.dirty = True

    def leave(self, burst: Burst) -> None:
        """Forget the lane or the place in the queue."""
        if burst.ticket >= 0:
            burst.ticket = -1  # its heap entry is stale from here on
            self.waiting -= 1
        elif burst.lane >= 0:
            self.slots[burst.lane] = None
            self.gang.remove(burst)
            burst.lane = -1
            self.settle(burst)
            self.mmu.use(burst.ctx)
        self.mmu.released += 1
        self.dirty = True

    def seat(self, burst: Burst, lane: int) -> None:
        before, self.last[lane] = self.last[lane], burst
        if before and before is not burst and before.alive:
            self.mmu.counters.switches += 1
        burst.lane = burst.home = lane
        burst.rank, burst.seated = self.policy.rank(burst, self.clock), self.clock
        self.slots[lane] = burst
        self.gang.append(burst)
        self.prepay(burst)
        self.dirty = True

    # ---- accounts

    def prepay(self, burst: Burst) -> None:
        """Charge what the rest of its turn is likely to cost a burst that has a lane."""
        group, have, ahead = burst.family.group, len(burst.ctx.tokens), self.policy.quantum - burst.used
        rows = min(ahead, burst.end - have)
        burst.start = self.policy.share(group)
        burst.charged = have - burst.ctx.computed - 1 + rows * (1 + have / READ)
        self.policy.charge(burst, burst.charged)
        self.moved(group)

    def settle(self, burst: Burst) -> None:
        """Charge the difference between what a turn has cost and what was charged for it."""
        self.policy.charge(burst, burst.cost - burst.charged)
        burst.cost = burst.charged = 0.0
        self.moved(burst.family.group)

    def moved(self, group: Group) -> None:
        for queue in (self.queue, self.outside):
            queue.moved(group, next(self.serial))

    # ---- the tick

    def form(self) -> Tick | None:
        """Make the next tick, or None if that depends on one in flight, or nothing can run."""
        if self.flights:
            foreseen = self.ahead and len(self.flights) == 1 and not self.dirty
            return self.sequel(*self.flights[0]) if foreseen else None
        for _ in range(2):
            if self.dirty:
                self.regang()
            if not self.gang:
                return None
            rows, bursts = self.pack()
            if rows:
                return self.off(rows, bursts)
            self.dirty = True  # all were displaced by who waits: the first of the queue can have everything
        if self.mmu.lent:  # but not what is read or filled from outside
            return None
        raise KernelBug("the first of the queue could not have its frames")

    def off(self, rows: list[Row], bursts: list[Burst]) -> Tick:
        """Let a tick take off."""
        self.clock += 1
        tick = Tick(self.clock, rows, self.mmu.charge(rows))
        self.flights.append(Flight(tick, bursts))
        return tick

    def pack(self) -> tuple[list[Row], list[Burst]]:
        """Give the rows of the gang, and whose they are."""
        rows: list[Row] = []
        bursts: list[Burst] = []
        mmu, uses, budget, serial = self.mmu, self.mmu.pool.uses, self.prefill, self.clock + 1
        begun: set[object] = set()
        for burst in tuple(self.gang):
            if burst.lane < 0:  # it lost its frames to a better one, a moment ago
                continue
            ctx = burst.ctx
            tokens, table = ctx.tokens, ctx.table
            end = len(tokens)
            if end - ctx.computed != 1:
                if not admission.adopt(self, burst):
                    self.displace(burst)
                    continue
                if end - ctx.computed != 1:
                    end = min(end, ctx.computed + budget)
                    if end == ctx.computed or mmu.ahead(ctx) in begun:
                        continue
            start = ctx.computed
            first = start // FRAME
            if (end - 1) // FRAME >= len(table) or uses[table[first]] > 1:
                if not admission.room(self, burst, mmu.need(ctx, start, end)):
                    self.displace(burst)
                    continue
                mmu.grow(ctx, start, end, serial)
            if end - start != 1:
                budget -= end - start
                begun |= {mmu.ahead(ctx)} - {None}
            view = ctx.view
            if view is None:
                view = ctx.view = tuple(table)
            sampling = burst.sampling if end == len(tokens) else None
            said = tokens[burst.prompt :] if sampling and sampling.schema else ()
            rows.append(Row(view, start, tokens[start:end], sampling, said))
            bursts.append(burst)
            ctx.flying = serial
        return rows, bursts

    def sequel(self, tick: Tick, bursts: list[Burst]) -> Tick | None:
        """Make the tick behind one in flight, all of whose rows sample, and name their tokens.

        None if the gang is to change then, or if frames would have to be taken from somebody. A burst that ends before,
        by what it samples or by what comes from outside, has a row too many, which nobody hears of: it writes behind
        what is computed, and whoever has that place next writes after it.
        """
        mmu, quantum, need = self.mmu, self.policy.quantum, 0
        if bursts != self.gang:
            return None
        for burst, row in zip(bursts, tick.rows, strict=True):
            ctx, sampling = burst.ctx, row.sampling
            if not sampling or sampling.schema or burst.used + 1 >= quantum or len(ctx.tokens) + 1 >= burst.end:
                return None
            end = row.start + len(row.feed)
            need += mmu.need(ctx, end, end + 1)
        if need > mmu.pool.available:
            return None
        rows = []
        for number, (burst, row) in enumerate(zip(bursts, tick.rows, strict=True)):
            ctx, start = burst.ctx, row.start + len(row.feed)
            if mmu.need(ctx, start, start + 1):
                mmu.grow(ctx, start, start + 1, self.clock + 1)
            ctx.view = ctx.view or tuple(ctx.table)
            ctx.flying = self.clock + 1
            rows.append(Row(ctx.view, start, [~number], row.sampling))
        return self.off(rows, bursts)

    def done(self, serial: int, tokens: list[int | None]) -> list[tuple[Burst, int]]:
        """Account for the tick that has landed; gives the bursts that somebody has to look at, with their new token.

        These are the ones at their end, at the end of their quantum, or watched.
        """
        (due, rows, _), bursts = self.flights.popleft() if self.flights else Flight(Tick(0, [], []), [])
        if serial != due or len(tokens) != len(rows):
            raise KernelBug(f"tick {due} was in flight, the machine answers for {serial} with {len(tokens)} rows")
        self.mmu.counters.sampled += len(tokens) - tokens.count(None)
        events = []
        quantum, stops = self.policy.quantum, self.stops
        for burst, row, token in zip(bursts, rows, tokens, strict=True):
            ctx = burst.ctx
            if ctx.flying == serial:
                ctx.flying = 0
            if not burst.alive:
                continue
            fed = len(row.feed)
            burst.cost += fed + ctx.computed / READ
            if fed > 1 or (ctx.computed + 1) % FRAME == 0:
                self.mmu.fed(ctx, fed)
            else:
                ctx.computed += 1
            if token is None:
                continue
            ctx.tokens.append(token)
            burst.used += 1
            ctx.earned += 1
            spent = burst.used >= quantum
            if spent or burst.watched or token in stops or len(ctx.tokens) >= burst.end:
                events.append((burst, token))
                self.dirty |= spent
        self.dirty |= self.mmu.landed(serial)
        return events

    # ---- the gang

    def regang(self) -> None:
        """Choose the gang anew: who has used a quantum yields, free lanes are filled, a better rank takes a lane."""
        self.dirty = False
        for burst in [b for b in self.gang if b.used >= self.policy.quantum]:
            if self.waiting and self.too_dear(burst):
                continue
            burst.used, burst.since, burst.turn = 0, self.clock, next(self.serial)
            self.settle(burst)
            self.policy.ready(burst, self.clock)
            burst.rank = self.policy.rank(burst, self.clock)
            if self.waiting:
                self.requeue(burst)
            else:
                self.prepay(burst)
        self.fill()
        self.preempt()
        self.gang.sort(key=self.place)
        self.vacated.clear()
        self.dirty = False

    def too_dear(self, burst: Burst) -> bool:
        """Say whether a turn has been too short yet for what the switch at its end costs: it would take frames away."""
        best, mmu = self.queue.peek(), self.mmu
        forced = best is not None and admission.shortage(self, best) > 0
        return forced and burst.used * mmu.costs.tick < WORTH * mmu.price(burst.ctx)

    def fill(self) -> None:
        """Give free lanes to the best that fit.

        A few that do not fit beside those who run are passed over, so that lanes do not idle, until one has waited for
        PATIENCE ticks: then lanes drain until it fits. Who would waste what others have waits outside, and a few of
        those are passed over, too, for one that costs nobody anything.
        """
        aside: list[Burst] = []
        outside: list[Burst] = []
        while len(self.gang) < self.lanes and len(aside) < self.lanes:
            burst = self.pop(len(outside) < self.lanes)
            if not burst:
                break
            short = admission.short(self, burst)
            if not admission.has_room(self, burst, short):
                aside.append(burst)
                if self.clock - burst.since > PATIENCE:
                    break
            elif admission.wasteful(self, burst, short, thorough=not outside):
                outside.append(burst)
            else:
                self.seat(burst, self.free_lane(burst))
        if outside and not self.gang:  # else nobody would run
            self.seat(outside[0], self.free_lane(outside.pop(0)))
        for burst in aside:
            self.enqueue(burst)
        for burst in outside:
            self.enqueue(burst, outside=True)

    def free_lane(self, burst: Burst) -> int:
        """Give a lane that nobody has; the one that the burst had last, if possible."""
        return burst.home if burst.home >= 0 and self.slots[burst.home] is None else self.slots.index(None)

    def preempt(self) -> None:
        """Who has come and beats the worst of those who run takes that lane.

        Only who comes: to have waited long gives a lane at the end of a turn, and cuts none short.
        """
        arrived, self.arrived = self.arrived, []
        for burst in sorted((b for b in arrived if b.ticket >= 0), key=self.order):
            worst = max(self.gang, key=self.place, default=None)
            if len(self.gang) < self.lanes or not worst:
                return
            if self.policy.beats(burst, worst) and admission.fits(self, burst):
                lane = worst.lane
                self.leave(burst)
                self.requeue(worst)
                self.seat(burst, lane)

    def order(self, burst: Burst) -> tuple[Any, ...]:
        """Order all bursts as the queue does, whether they run or wait."""
        group = burst.family.group
        if not self.policy.shares:
            return self.policy.key(burst)
        share = burst.start if burst.lane >= 0 else self.policy.share(group)
        return (share, group.number, *self.policy.key(burst))

    def place(self, burst: Burst) -> tuple[int, tuple[Any, ...]]:
        """Order the bursts of the gang: the last is the first to lose its lane or its frames."""
        return (burst.rank, self.order(burst))

    def requeue(self, burst: Burst) -> None:
        """Put a burst from its lane back into the queue; inside of a turn, to the place that it had."""
        self.leave(burst)
        self.enqueue(burst)

    def displace(self, burst: Burst) -> None:
        """A burst has to wait for frames: it keeps its place in the order, and is tried again when some may be free."""
        burst.starved = self.mmu.released
        self.requeue(burst)
        self.mmu.released = burst.starved  # it keeps its frames: nobody gains by this

    def pop(self, outside: bool) -> Burst | None:
        """Take out the burst that is next: of all, or of those that are not outside."""
        first, other = self.queue.peek(), self.outside.peek() if outside else None
        sooner = other and (first is None or self.order(other) < self.order(first))
        burst = (self.outside if sooner else self.queue).pop()
        if burst:
            self.waiting -= 1
        return burst

    # ---- integrity

    def check(self) -> None:
        """Raise KernelBug if an invariant does not hold."""
        self.mmu.check(bool(self.flights))
        pool = self.mmu.pool
        for tick, _ in self.flights:
            named = {frame for row in tick.rows for frame in row.table}
            named |= {source for source, target in tick.copies if max(source, target) < pool.total}
            if any(not pool.uses[frame] for frame in named):
                raise KernelBug("a frame is free that a tick in flight names")
        if sorted(b.lane for b in self.gang) != [lane for lane, b in enumerate(self.slots) if b]:
            raise KernelBug("lanes and gang differ")
        if any(b is not self.slots[b.lane] or not b.alive or b.ticket >= 0 for b in self.gang):
            raise KernelBug("a burst has a lane that is not its own")
        if any(b.ctx.burst is not b for b in self.bursts()):
            raise KernelBug("a burst works on a context that does not know it")
        if self.waiting != len(self.queued()):
            raise KernelBug("the count of waiting bursts is wrong")

    def bursts(self) -> Iterable[Burst]:
        """Give all bursts that run or wait."""
        return [*self.gang, *self.queued()]
