"""What each policy promises: order, shares, preemption, ageing, and a price that does not grow with who waits."""

import math
from itertools import count
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rig import Rig, in_lane
from tokix.kernel.burst import Burst
from tokix.kernel.frames import frames_for
from tokix.kernel.policy import DEFAULT_QUANTUM, FCFS, POLICIES, RR, Policy, Priority
from tokix.kernel.scheduler import PATIENCE

WORST, BEST = 19, -20

deterministic = settings(derandomize=True, deadline=None, max_examples=60)


def turns(rig, limit=10_000):
    """Run to the end with one lane; gives who had it, in order, with the tokens sampled: [(burst, tokens), …]."""
    found = list[list[Any]]()
    for _ in range(limit):
        if not rig.start():
            return [(burst, tokens) for burst, tokens in found]
        [running] = rig.scheduler.gang
        before = running.generated
        rig.land()
        if not found or found[-1][0] is not running:
            found.append([running, 0])
        found[-1][1] += running.generated - before
    raise AssertionError("it does not end")


def test_a_policy_is_found_by_its_name():
    assert [POLICIES[name] for name in ("FCFS", "RR", "PRIORITY")] == [FCFS, RR, Priority]
    assert RR().quantum == Priority().quantum == DEFAULT_QUANTUM


# ---- FCFS


@pytest.mark.parametrize("lanes", [1, 2, 5])
def test_fcfs_serves_in_the_order_of_arrival(lanes):
    rig = Rig(FCFS(), lanes=lanes)
    bursts = [rig.think(1, 10, nice=-n) for n in range(11)]
    assert rig.run() == bursts


def test_fcfs_lets_each_run_to_its_end():
    rig = Rig(FCFS(), lanes=1)
    bursts = [rig.think(1, tokens) for tokens in (100, 3, 50)]
    assert turns(rig) == list(zip(bursts, (100, 3, 50), strict=True))


def test_under_fcfs_nobody_preempts():
    rig = Rig(FCFS(), lanes=1)
    first = rig.think(1, 30)
    rig.tick()
    second = rig.think(1, 1, nice=BEST)
    assert rig.run() == [first, second]


# ---- RR


@deterministic
@given(bursts=st.integers(2, 9), lanes=st.integers(1, 4), quantum=st.integers(1, 20), tokens=st.integers(1, 50))
def test_under_rr_equals_never_differ_by_more_than_a_quantum(bursts, lanes, quantum, tokens):
    rig = Rig(RR(quantum), lanes=lanes)
    equals = [rig.think(1, tokens) for _ in range(bursts)]
    while rig.start():
        rig.land()
        shares = [burst.generated for burst in equals]
        assert max(shares) - min(shares) <= quantum


def test_rr_gives_turns_of_a_quantum_in_a_circle():
    rig = Rig(RR(4), lanes=1)
    a, b, c = (rig.think(1, 10) for _ in range(3))
    assert turns(rig) == [(a, 4), (b, 4), (c, 4), (a, 4), (b, 4), (c, 4), (a, 2), (b, 2), (c, 2)]


def test_a_turn_is_counted_in_sampled_tokens_not_in_ticks():
    rig = Rig(RR(4), lanes=1, prefill=10)
    a, b = rig.think(95, 8), rig.think(1, 8)
    assert turns(rig) == [(a, 4), (b, 4), (a, 4), (b, 4)]


@pytest.mark.parametrize("lanes", [1, 3])
def test_under_rr_a_newcomer_waits_for_one_turn_of_each_at_most(lanes):
    rig = Rig(RR(5), lanes=lanes)
    for _ in range(9):
        rig.think(1, 100)
    for _ in range(33):
        rig.tick()
    late = rig.think(1, 5)
    for waited in count(1):
        rig.tick()
        if late.generated:
            break
        assert waited <= math.ceil(9 / lanes) * 5


def test_nobody_yields_to_nobody():
    rig = Rig(RR(4), lanes=2)
    burst = rig.think(1, 50)
    rig.run()
    assert rig.mmu.counters.switches == 0
    assert burst.lane == -1


# ---- PRIORITY


def test_priority_serves_the_nicest_last():
    rig = Rig(Priority(), lanes=1)
    bursts = [rig.think(1, 2, nice=(7 * n) % 40 - 20) for n in range(40)]
    assert rig.run() == sorted(bursts, key=lambda burst: burst.nice)


def test_a_better_arrival_takes_a_lane_at_once():
    rig = Rig(Priority(), lanes=1)
    running = rig.think(1, 12)
    for _ in range(3):
        rig.tick()
    better = rig.think(1, 12, nice=-1)
    rig.tick()
    assert in_lane(running, better) == [False, True]
    assert better.generated == 1


def test_a_better_arrival_takes_a_lane_at_once_however_long_the_other_has_run():
    rig = Rig(Priority(), lanes=1)
    running = rig.think(1, 500, nice=5)
    for _ in range(390):
        rig.tick()
    better = rig.think(1, 12, nice=4)
    rig.tick()
    assert in_lane(running, better) == [False, True]


@pytest.mark.parametrize("nice", [0, 1])
def test_an_equal_or_worse_arrival_waits(nice):
    rig = Rig(Priority(), lanes=1)
    running = rig.think(1, DEFAULT_QUANTUM)
    rig.tick()
    other = rig.think(1, 2, nice=nice)
    assert rig.run() == [running, other]


def test_a_better_arrival_takes_the_lane_of_the_worst_and_of_equals_the_one_that_came_last():
    rig = Rig(Priority(), lanes=3)
    bursts = [rig.think(1, 10, nice=nice) for nice in (3, 1, 3)]
    rig.tick()
    rig.think(1, 10, nice=2)
    rig.tick()
    assert in_lane(*bursts) == [True, True, False]
    rig.think(1, 10, nice=2)
    rig.tick()
    assert in_lane(*bursts) == [False, True, False]


def test_who_is_preempted_comes_back_for_the_rest_of_its_quantum():
    rig = Rig(Priority(8), lanes=1)
    running, equal = rig.think(1, 16), rig.think(1, 8)
    for _ in range(3):
        rig.tick()
    better = rig.think(1, 4, nice=-5)
    assert turns(rig) == [(better, 4), (running, 5), (equal, 8), (running, 8)]


def test_equals_rotate():
    rig = Rig(Priority(4), lanes=1)
    a, b, c = rig.think(1, 8), rig.think(1, 8), rig.think(1, 8, nice=10)
    assert turns(rig) == [(a, 4), (b, 4), (a, 4), (b, 4), (c, 8)]


def test_an_equal_that_waits_does_not_cut_a_turn_short():
    """A long prompt takes more ticks than a step of ageing; the turn is still a whole quantum."""
    rig = Rig(Priority(), prefill=8, lanes=1)
    running, waiting = rig.think(100, 40), rig.think(100, 40)
    while running.generated < DEFAULT_QUANTUM:
        rig.think(1, 1, nice=5)  # each arrival is an event
        rig.tick()
        assert in_lane(running, waiting) == [True, False]
    rig.tick()
    assert in_lane(running, waiting) == [False, True]


def test_an_equal_that_waits_takes_no_frames_from_a_turn():
    rig = Rig(Priority(100, age=2), lanes=2, frames=4)
    running = rig.think(40, 20)
    rig.tick()
    waiting = rig.think(30, 20)
    while running.generated < 20:
        rig.think(1, 1, nice=5)  # each arrival is an event
        rig.tick()
        assert waiting.lane < 0
        assert running.ctx.computed >= 40
    rig.tick()
    assert waiting.lane >= 0


ages = st.integers(1, 64)
places = st.tuples(st.integers(BEST, WORST), st.integers(0, 1000)).map(lambda p: SimpleNamespace(nice=p[0], since=p[1]))


@deterministic
@given(a=places, b=places, now=st.integers(1000, 3000), age=ages)
def test_the_place_in_the_queue_is_nice_less_a_step_for_each_age_of_waiting(a, b, now, age):
    policy = Priority(age=age)
    a.turn = b.turn = 0
    aged_a, aged_b = (burst.nice * age - (now - burst.since) for burst in (a, b))
    assert (policy.key(a) < policy.key(b)) == (aged_a < aged_b)
    if policy.key(a) <= policy.key(b):
        assert policy.rank(a, now) <= policy.rank(b, now)


@pytest.mark.parametrize(("quantum", "age"), [(16, 16), (8, 2), (4, 4), (20, 3)])
def test_nice_19_gets_its_lane_in_an_endless_stream_of_newcomers_with_nice_minus_20(quantum, age):
    """After 39 · age ticks it goes before the next newcomer, which comes when the last has had its quantum."""
    rig = Rig(Priority(quantum, age), lanes=1)
    newcomer, least = rig.think(1, quantum, nice=BEST), rig.think(1, quantum, nice=WORST)
    for waited in count(1):
        rig.tick()
        if least.lane >= 0:
            break
        if not newcomer.alive:
            newcomer = rig.think(1, quantum, nice=BEST)
        assert waited <= 39 * age + quantum
    assert waited >= 39 * age


@pytest.mark.parametrize(("quantum", "age"), [(16, 16), (16, 2)])
@pytest.mark.parametrize("prompt", [1, 40])
def test_a_promoted_burst_keeps_its_rank_for_its_quantum(quantum, age, prompt):
    rig = Rig(Priority(quantum, age), lanes=1, prefill=8, frames=256, check=False)
    stream, least = [rig.think(1, quantum, nice=BEST)], rig.think(prompt, 2 * quantum, nice=WORST)
    while not least.generated:
        if not stream[-1].alive or least.lane >= 0:
            stream.append(rig.think(1, quantum, nice=BEST))
        rig.tick()
    while least.used:
        stream.append(rig.think(1, quantum, nice=BEST))
        rig.tick()
        assert least.used in (0, least.generated)
        if least.lane < 0:
            break
    assert least.generated == quantum


def test_a_promoted_burst_has_its_rank_for_one_quantum_only():
    rig = Rig(Priority(16, 1), lanes=1)
    newcomer, least = rig.think(1, 16, nice=BEST), rig.think(1, 100, nice=WORST)
    while least.lane < 0:
        if not newcomer.alive:
            newcomer = rig.think(1, 16, nice=BEST)
        rig.tick()
    rig.scheduler.withdraw(newcomer)
    for _ in range(20):  # alone: nobody is there to yield to
        rig.tick()
    ordinary = rig.think(1, 16)
    rig.tick()
    assert in_lane(least, ordinary) == [False, True]


# ---- thinking again at once


def think_again(rig, times, tokens):
    """A program with one owner thinks several times, each time at once; gives the ticks in which it was in a lane."""
    burst, ticks = rig.think(1, tokens, owner="program"), []
    while burst.alive or times > 1:
        if not burst.alive:
            times -= 1
            burst = rig.think(1, tokens, owner="program", ctx=burst.ctx)
        assert rig.start()
        if burst.lane >= 0:
            ticks.append(rig.scheduler.clock)
        rig.land()
    return ticks


@pytest.mark.parametrize("policy", [RR, Priority])
def test_who_thinks_again_at_once_keeps_the_lane_for_the_rest_of_the_quantum(policy):
    rig = Rig(policy(16), lanes=1)
    rig.scheduler.clock = 0
    other = rig.think(1, 16)
    rig.scheduler.suspend(other)
    ticks = []
    burst = rig.think(1, 5, owner="program")
    rig.scheduler.wake(other)
    for _ in range(20):
        rig.start()
        ticks.append(burst.lane >= 0)
        rig.land()
        if not burst.alive:
            burst = rig.think(1, 5, owner="program", ctx=burst.ctx)
    assert ticks == [True] * 16 + [False] * 4
    assert other.generated == 4


def test_who_thinks_again_at_once_in_many_short_bursts_gets_no_more_than_its_share():
    rig = Rig(RR(16), lanes=1)
    rig.think(1, 160)
    ticks = think_again(rig, times=10, tokens=8)
    assert ticks == [*range(17, 33), *range(49, 65), *range(81, 97), *range(113, 129), *range(145, 161)]


def test_under_fcfs_who_thinks_again_goes_to_the_end():
    rig = Rig(FCFS(), lanes=1)
    program, other = rig.think(1, 5, owner="program"), rig.think(1, 5)
    while program.alive:
        rig.tick()
    again = rig.think(1, 5, owner="program", ctx=program.ctx)
    assert rig.run() == [other, again]


def test_a_lane_is_kept_for_its_owner_only_and_not_after_the_step():
    rig = Rig(RR(16), lanes=1)
    program, other, last = rig.think(1, 5, owner="program"), rig.think(1, 5), rig.think(1, 5)
    while program.alive:
        rig.tick()
    stranger = rig.think(1, 5, owner="stranger")
    rig.tick()
    again = rig.think(1, 5, owner="program", ctx=program.ctx)
    assert rig.run() == [other, last, stranger, again]


def test_who_thinks_again_later_has_no_lane_kept_even_if_it_is_still_free():
    rig = Rig(RR(16), lanes=1)
    program = rig.think(1, 5, owner="program")
    rig.run()
    other, again = rig.think(1, 16), rig.think(1, 5, owner="program", ctx=program.ctx)
    assert rig.run() == [other, again]


def test_a_better_one_that_waits_goes_before_who_thinks_again():
    rig = Rig(Priority(), lanes=1)
    program = rig.think(1, 5, owner="program")
    while program.alive:
        rig.tick()
    better, again = rig.think(1, 5, nice=-1), rig.think(1, 5, owner="program", ctx=program.ctx)
    assert rig.run() == [better, again]


# ---- all policies


EVERY = pytest.mark.parametrize("policy", [FCFS, RR, Priority, lambda: RR(3), lambda: Priority(4, 2)])


@EVERY
@pytest.mark.parametrize("lanes", [1, 2, 5])
def test_no_lane_idles_while_somebody_waits(policy, lanes):
    rig = Rig(policy(), lanes=lanes, frames=256)
    bursts = [rig.think(1 + 7 * n, 5 + 3 * n, nice=n % 4) for n in range(12)]
    while rig.start():
        alive = sum(burst.alive for burst in bursts)
        assert len(rig.scheduler.gang) == min(lanes, alive)
        rig.land()


@EVERY
@pytest.mark.parametrize("frames", [8, 12])
def test_no_lane_idles_for_two_ticks_while_somebody_who_fits_waits(policy, frames):
    """Who fits has frames for its prompt and a quantum that are free, and not for the prompts of those who run.

    While somebody's patience is at its end, lanes drain.
    """
    rig = Rig(policy(), lanes=4, frames=frames, prefill=32)
    scheduler, idled, before = rig.scheduler, set[Burst](), set[Burst]()
    for n in range(12):
        rig.think(1 + 29 * n % 90, 5 + 3 * n, nice=n % 2)
    while rig.start():
        waiting = [burst for burst in scheduler.bursts() if burst.lane < 0]
        if len(scheduler.gang) < 4 and all(scheduler.clock - b.since <= PATIENCE for b in waiting):
            idled = {b for b in sorted(waiting, key=scheduler.policy.key)[:4] if fits(rig, b)}
        assert not idled & before
        idled, before = set(), idled
        rig.land()


def fits(rig, burst):
    ctx, scheduler = burst.ctx, rig.scheduler
    ahead = min(len(ctx.tokens) + scheduler.policy.quantum, burst.end)
    promised = sum(frames_for(len(b.ctx.tokens)) - len(b.ctx.table) for b in scheduler.gang)
    return rig.mmu.need(ctx, ctx.computed, ahead) + promised <= rig.free()


class Counted(tuple):
    """A place in the queue that counts how often it is compared with others."""

    compared = 0

    def __lt__(self, other):
        Counted.compared += 1
        return super().__lt__(other)

    def __eq__(self, other):
        Counted.compared += 1
        return super().__eq__(other)

    __hash__ = tuple.__hash__


class Counting(Policy):
    """Counts how often it is asked for a place."""

    asked = 0

    def key(self, burst):
        self.asked += 1
        return Counted(super().key(burst))


def price(policy, waiting):
    """The keys computed and compared in 64 ticks with four lanes and so many who wait."""
    counting = type(policy.name, (Counting, policy), {})()
    rig = Rig(counting, lanes=4, check=False)
    for n in range(waiting + 4):
        rig.think(1, 200, nice=n % 3)
    rig.tick()
    counting.asked = Counted.compared = 0
    for _ in range(64):
        assert len(rig.start().rows) == 4
        rig.land()
    assert rig.scheduler.waiting == waiting
    return counting.asked, Counted.compared


@pytest.mark.parametrize("policy", [FCFS, RR, Priority])
def test_the_price_of_a_tick_does_not_grow_with_who_waits(policy):
    few, many = price(policy, 100), price(policy, 10_000)
    assert many[0] == few[0] <= 64
    assert many[1] <= 2 * max(few[1], 1), "the logarithm of 10,000 is twice that of 100"
