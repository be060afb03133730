"""A scheduler and a toy machine, and an oracle that knows what every burst has to say."""

import math
from itertools import count

from tokix.kernel.arch.toy import ToyMachine
from tokix.kernel.burst import Burst
from tokix.kernel.context import Context
from tokix.kernel.events import Sampling
from tokix.kernel.family import Family, Group
from tokix.kernel.frames import FRAME, FramePool, frames_for
from tokix.kernel.mmu import WORTH, Mmu
from tokix.kernel.policy import FAIR, FCFS, LAS, MLFQ, RR, SJF, Mixed, Priority
from tokix.kernel.scheduler import Scheduler

POLICIES = [FCFS, RR, Priority, lambda: RR(3), lambda: Priority(4, 2), LAS, FAIR]
NAMES = ["FCFS", "RR", "PRIORITY", "RR(3)", "PRIORITY(4, 2)", "LAS", "FAIR"]
#: With those that let others pass a long prompt for a while.
EVERY = [*POLICIES, SJF, lambda: SJF(2), MLFQ, lambda: MLFQ(4, 2), Mixed, lambda: Mixed(3, 2)]


class Rig:
    """What a kernel does with a scheduler and a machine, without processes.

    The tokens of every burst that ends are compared with the oracle's.
    """

    def __init__(
        self,
        policy=None,
        *,
        frames=64,
        lanes=2,
        prefill=64,
        ends=False,
        check=True,
        slots=0,
        costs=None,
        ahead=False,
    ):
        self.machine = ToyMachine(frames, frames * FRAME, slots=slots, costs=costs, ends=ends)
        self.mmu = Mmu(FramePool(frames, self.machine.slots), self.machine.costs)
        self.scheduler = Scheduler(self.mmu, policy or RR(), lanes, prefill, self.machine.stops, ahead)
        self.contexts, self.serial = [], count()
        self.check = self.scheduler.check if check else lambda: None

    def context(self):
        self.contexts.append(Context())
        return self.contexts[-1]

    def think(self, prompt, tokens, *, ctx=None, nice=0, owner=None, watched=False, **more):
        """Start a burst of so many tokens after a prompt of so many, in a context of its own if none is given.

        The prompt can be given as text, too; else all prompts begin with another token.
        """
        n, ctx = next(self.serial), ctx or self.context()
        base = len(ctx.tokens)
        text = prompt.encode() if isinstance(prompt, str) else [97 + (7 * n + i * i) % 26 for i in range(prompt)]
        prompt = len(text)
        ctx.tokens += text
        if ctx.computed >= len(ctx.tokens):
            self.mmu.trim(ctx, len(ctx.tokens) - 1)
        more.setdefault("family", Family(n + 1, Group(n + 1)))
        burst = Burst(
            key=f"burst {n}",
            owner=n if owner is None else owner,
            ctx=ctx,
            sampling=Sampling(f"stream {n % 3}", 0.8),
            nice=nice,
            base=base,
            prompt=base + prompt,
            end=base + prompt + tokens,
            watched=watched,
            **more,
        )
        self.scheduler.add(burst)
        return burst

    def start(self):
        """Form a tick; it flies until `land`."""
        tick = self.scheduler.form()
        self.check()
        return tick

    def land(self):
        """The machine has done the tick; gives the bursts that end with it."""
        tick, ended = self.scheduler.flights[0].tick, list[Burst]()
        for burst, token in self.scheduler.done(tick.serial, self.machine.run(tick)):
            if token in self.machine.stops or len(burst.ctx.tokens) >= burst.end:
                self.verify(burst)
                self.scheduler.finish(burst)
                ended.append(burst)
        self.check()
        return ended

    def verify(self, burst):
        tokens, first = burst.ctx.tokens, burst.prompt
        assert tokens[first:] == self.machine.continuation(tokens[:first], burst.sampling, burst.end - first)

    def tick(self):
        """One tick from start to end; gives the bursts that end with it."""
        return self.land() if self.start() else []

    def run(self, limit=10_000):
        """Tick until nothing is left to do; gives the bursts in the order in which they end."""
        ended = list[Burst]()
        for _ in range(limit):
            if not self.start():
                return ended
            ended += self.land()
        raise AssertionError(f"after {limit} ticks there are still {len(list(self.scheduler.bursts()))} bursts")

    def turn(self, tokens):
        """Give the most tokens that a burst with so many in its context samples before it yields its lane."""
        costs, frames = self.mmu.costs, frames_for(tokens)
        price = min([costs.recompute(frames * FRAME), *([costs.swap(frames)] if self.mmu.pool.slots else [])])
        return max(self.scheduler.policy.quantum, math.ceil(WORTH * price / costs.tick))

    def free(self):
        return self.mmu.pool.available

    def empty(self):
        """Assert that nothing leaks: without contexts, all frames are free."""
        for ctx in self.contexts:
            self.mmu.release(ctx)
        self.scheduler.check()
        assert not self.mmu.resident
        assert self.free() == self.mmu.pool.total


def fed(tick):
    """The tokens that each row of a tick feeds."""
    return [len(row.feed) for row in tick.rows]


def in_lane(*bursts):
    return [burst.lane >= 0 for burst in bursts]
