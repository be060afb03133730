"""Random schedules: every burst says what it would say alone."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from rig import EVERY, Rig
from tokix.kernel.costs import Costs
from tokix.kernel.frames import FRAME

#: To compute is dear, to compute costs nothing, both depend.
COSTS = [Costs(), Costs(token=0), Costs(token=30, frame=200)]

#: What many contexts begin with.
COMMON = "You are one of many, and you have all been told the same. " * 5


class RandomSchedule(RuleBasedStateMachine):
    """Whatever happens in whatever order: the tokens are the oracle's, the structures are sound, nothing leaks."""

    @initialize(
        policy=st.sampled_from(EVERY),
        frames=st.sampled_from([5, 8, 16]),
        lanes=st.integers(1, 4),
        prefill=st.sampled_from([3, 16, 64]),
        ends=st.booleans(),
        slots=st.sampled_from([0, 3, 20]),
        costs=st.sampled_from(COSTS),
        ahead=st.booleans(),
    )
    def boot(self, policy, frames, lanes, prefill, ahead, **machine):
        self.rig = Rig(policy(), frames=frames, lanes=lanes, prefill=prefill, ahead=ahead, **machine)
        self.scheduler, self.capacity = self.rig.scheduler, frames * FRAME
        self.live, self.asleep = [], []

    def idle(self):
        return [ctx for ctx in self.rig.contexts if not ctx.burst]

    def flies(self):
        return bool(self.scheduler.flights)

    def forget(self, burst):
        for bursts in (self.live, self.asleep):
            if burst in bursts:
                bursts.remove(burst)

    @precondition(lambda self: len(self.live) + len(self.asleep) < 8)
    @rule(
        old=st.none() | st.integers(0, 9),
        prompt=st.integers(1, 20) | st.integers(1, 16 * FRAME),
        tokens=st.integers(1, 40),
        nice=st.sampled_from([0, 0, -20, 19, 3]),
        owner=st.integers(0, 3),
        watched=st.booleans(),
        alike=st.booleans(),
    )
    def think(self, old, prompt, tokens, nice, owner, watched, alike):
        idle = self.idle()
        ctx = idle[old % len(idle)] if old is not None and idle else None
        room = self.capacity - (len(ctx.tokens) if ctx else 0)
        if room >= 2:
            prompt = min(prompt, room - 1)
            tokens = min(tokens, room - prompt)
            owner = owner if owner not in {b.owner for b in self.live + self.asleep} else None
            said = COMMON[:prompt] if alike else prompt
            self.live.append(self.rig.think(said, tokens, ctx=ctx, nice=nice, owner=owner, watched=watched))

    @precondition(lambda self: self.idle() and len(self.rig.contexts) < 12)
    @rule(pick=st.integers(0, 11))
    def fork(self, pick):
        idle = self.idle()
        self.rig.contexts.append(self.scheduler.mmu.fork(idle[pick % len(idle)]))

    @precondition(lambda self: self.idle())
    @rule(pick=st.integers(0, 11))
    def release(self, pick):
        idle = self.idle()
        self.scheduler.mmu.release(idle[pick % len(idle)])

    @precondition(lambda self: self.live + self.asleep)
    @rule(pick=st.integers(0, 7))
    def withdraw(self, pick):
        bursts = self.live + self.asleep
        burst = bursts[pick % len(bursts)]
        self.scheduler.withdraw(burst)
        self.forget(burst)

    @precondition(lambda self: self.live)
    @rule(pick=st.integers(0, 7))
    def suspend(self, pick):
        burst = self.live.pop(pick % len(self.live))
        self.scheduler.suspend(burst)
        self.asleep.append(burst)

    @precondition(lambda self: self.asleep)
    @rule(pick=st.integers(0, 7))
    def wake(self, pick):
        burst = self.asleep.pop(pick % len(self.asleep))
        self.scheduler.wake(burst)
        self.live.append(burst)

    @precondition(lambda self: self.live + self.asleep)
    @rule(pick=st.integers(0, 7), nice=st.integers(-20, 19))
    def renice(self, pick, nice):
        bursts = self.live + self.asleep
        self.scheduler.renice(bursts[pick % len(bursts)], nice)

    @rule(policy=st.sampled_from(EVERY))
    def set_policy(self, policy):
        self.scheduler.set_policy(policy())

    @precondition(lambda self: not self.flies())
    @rule()
    def start(self):
        assert bool(self.rig.start()) == bool(self.live), "who is not asleep can run"

    @precondition(lambda self: self.flies())
    @rule()
    def start_another(self):
        before = len(self.scheduler.flights)
        if self.rig.start():
            assert (self.scheduler.ahead, before) == (True, 1)

    @precondition(lambda self: self.flies())
    @rule()
    def land(self):
        for burst in self.rig.land():
            self.forget(burst)

    @rule(ticks=st.integers(1, 20))
    def go_on(self, ticks):
        for _ in range(ticks):
            if self.flies():
                self.land()
            self.rig.start()
            self.rig.start()

    @invariant()
    def sound(self):
        if hasattr(self, "rig"):
            self.scheduler.check()
            assert set(self.scheduler.bursts()) == set(self.live)

    def teardown(self):
        if not hasattr(self, "rig"):
            return
        while self.asleep:
            self.wake(0)
        while self.flies():
            self.land()
        for burst in self.rig.run(5000):
            self.forget(burst)
        assert not self.live
        self.rig.empty()


TestRandomSchedule = RandomSchedule.TestCase
TestRandomSchedule.settings = settings(derandomize=True, deadline=None, max_examples=100, stateful_step_count=50)
