"""Frames that are taken from a context that comes back: to the swap file or dropped, by what is cheaper."""

import pytest

from rig import NAMES, POLICIES, Rig, in_lane
from tokix.kernel.admission import victims
from tokix.kernel.costs import Costs
from tokix.kernel.frames import FRAME, frames_for
from tokix.kernel.mmu import WORTH
from tokix.kernel.policy import RR, Priority

SWAP = Costs(tick=1000, token=1000, frame=1)
DROP = Costs(tick=1000, token=1, frame=1000)


def crowd(costs, *, slots=64, policy=None, lanes=2, frames=8):
    """Six bursts that need five frames each, of eight."""
    rig = Rig(policy or RR(4), frames=frames, lanes=lanes, slots=slots, costs=costs)
    return rig, [rig.think(40, 30) for _ in range(6)]


def computed(bursts):
    """How many tokens have to be fed if nothing is lost."""
    return sum(burst.end - 1 for burst in bursts)


# ---- swap, drop, deschedule


@pytest.mark.parametrize("lanes", [1, 2, 4])
@pytest.mark.parametrize("policy", POLICIES, ids=NAMES)
def test_what_was_swapped_is_not_computed_again(policy, lanes):
    rig, bursts = crowd(SWAP, policy=policy(), lanes=lanes)
    assert set(rig.run()) == set(bursts)
    counters = rig.mmu.counters
    assert counters.drops == 0
    assert counters.fed == computed(bursts)
    assert counters.ins <= counters.outs
    rig.empty()


def test_under_rotation_it_is_swapped():
    rig, _ = crowd(SWAP)
    rig.run()
    assert rig.mmu.counters.swaps > 5
    assert rig.mmu.counters.outs > 10


def test_where_computing_is_cheaper_it_is_dropped():
    rig, bursts = crowd(DROP)
    rig.run()
    counters = rig.mmu.counters
    assert counters.swaps == counters.outs == counters.ins == 0
    assert counters.drops > 5
    assert counters.fed > computed(bursts)
    rig.empty()


def test_without_a_swap_file_it_is_dropped():
    rig, bursts = crowd(SWAP, slots=0)
    rig.run()
    assert rig.mmu.counters.swaps == 0
    assert rig.mmu.counters.fed > computed(bursts)
    rig.empty()


def test_what_loses_its_lane_and_not_its_frames_costs_nothing():
    rig, bursts = crowd(SWAP, frames=64)
    rig.run()
    counters = rig.mmu.counters
    assert counters.switches > 10
    assert counters.swaps == counters.drops == counters.outs == 0
    assert counters.fed == computed(bursts)


def test_the_swap_file_is_bounded_and_what_does_not_fit_is_dropped():
    rig, bursts = crowd(SWAP, slots=7)
    most = 0
    while rig.start():
        most = max(most, rig.mmu.pool.wanted)
        assert rig.mmu.pool.wanted <= 7
        rig.land()
    counters = rig.mmu.counters
    assert most >= 4
    assert counters.swaps
    assert counters.drops
    assert not any(burst.alive for burst in bursts)
    rig.empty()


def test_a_frame_that_others_have_too_is_in_the_swap_file_once():
    rig = Rig(RR(4), frames=8, lanes=1, slots=64, costs=SWAP)
    system = "All of us were told the same, and nobody knows more than that."  # 62 tokens: 3 whole frames
    bursts = [rig.think(f"{system} {n}", 30) for n in range(4)]
    rig.run()
    assert rig.mmu.counters.fed == computed(bursts) - 3 * 3 * FRAME
    assert rig.mmu.counters.swaps > 5
    rig.empty()


def test_an_idle_context_comes_back_from_the_swap_file():
    rig = Rig(frames=6, lanes=1, slots=16, costs=SWAP)
    idle = rig.think(40, 1).ctx
    rig.run()
    idle.used = -1e9  # long ago
    rig.think(80, 8)
    rig.run()
    assert not idle.table
    fed = rig.mmu.counters.fed
    rig.think(3, 1, ctx=idle)
    rig.run()
    assert rig.mmu.counters.fed - fed == 3 + 1, "the new tokens, and the last one of before, which was never fed"
    rig.empty()


@pytest.mark.parametrize("end", ["release", "withdraw"])
def test_who_ends_while_it_sleeps_leaves_nothing_in_the_swap_file(end):
    rig, bursts = crowd(SWAP, lanes=1)
    while not rig.mmu.pool.blocks.keys() - range(rig.mmu.pool.total):
        rig.tick()
    for burst in bursts:
        rig.scheduler.withdraw(burst)
        if end == "release":
            rig.mmu.release(burst.ctx)
    for ctx in rig.contexts:
        rig.mmu.release(ctx)
    assert len(rig.mmu.pool.vacant) == rig.mmu.pool.slots
    assert rig.mmu.pool.wanted == 0
    rig.empty()


def test_a_context_that_was_cut_while_it_slept_finds_what_is_still_true():
    rig = Rig(frames=6, lanes=1, slots=16, costs=SWAP)
    idle = rig.think(40, 1).ctx
    rig.run()
    idle.used = -1e9
    rig.think(80, 8)
    rig.run()
    del idle.tokens[20:]
    rig.mmu.trim(idle, min(idle.computed, 20))
    fed = rig.mmu.counters.fed
    rig.think("other", 1, ctx=idle)
    rig.run()
    assert rig.mmu.counters.fed - fed == 25 - FRAME
    assert idle not in rig.mmu.sleepers
    rig.empty()


def test_two_forks_that_sleep_share_what_they_shared():
    rig = Rig(RR(4), frames=7, lanes=1, slots=32, costs=SWAP)
    rig.think(40, 1)
    rig.run()
    rig.contexts.append(rig.mmu.fork(rig.contexts[0]))
    for ctx in rig.contexts:
        ctx.used = -1e9
    rig.think(100, 10)
    rig.run()
    assert not any(ctx.table for ctx in rig.contexts[:2])
    assert rig.mmu.pool.wanted == frames_for(40)
    fed = rig.mmu.counters.fed
    for ctx in rig.contexts[:2]:
        rig.think(2, 4, ctx=ctx)
    rig.run()
    assert rig.mmu.counters.fed - fed == 2 * (1 + 2 + 3)
    rig.empty()


# ---- how long an idle context keeps its frames


def idle_and_waiting(costs, passed):
    """An idle context and a burst that waits, each with frames, and one that runs and wants some; ticks have passed."""
    rig = Rig(Priority(quantum=30), frames=8, lanes=1, costs=costs)
    waiting = rig.think(20, 50, nice=5)
    rig.tick()
    idle = rig.think(20, 1).ctx
    rig.tick()
    running = rig.think(1, 100)
    rig.tick()
    for _ in range(passed):
        rig.tick()
    assert in_lane(waiting, running) == [False, True]
    return idle, waiting.ctx, [*victims(rig.scheduler, running)]


def test_who_is_idle_keeps_its_frames_while_it_would_take_longer_to_bring_them_back():
    costs = Costs(tick=1000, token=300)  # two frames cost 9.6 ticks
    idle, waiting, victims = idle_and_waiting(costs, 7)
    assert victims == [waiting, idle]
    idle, waiting, victims = idle_and_waiting(costs, 9)
    assert victims == [idle, waiting]


def test_who_is_idle_keeps_its_frames_for_longer_if_they_are_dearer():
    idle, waiting, victims = idle_and_waiting(Costs(tick=1000, token=3000), 20)
    assert victims == [waiting, idle]


# ---- a turn is worth its switch


def turns(rig, bursts):
    """Run; gives the longest run of ticks in which the same burst had the lane."""
    longest = length = 0
    before = None
    while rig.start():
        [now] = rig.scheduler.gang
        length = length + 1 if now is before else 1
        before, longest = now, max(longest, length)
        rig.land()
    assert not any(burst.alive for burst in bursts)
    return longest


@pytest.mark.parametrize("token", [0, 100, 250])
def test_a_turn_lasts_as_long_as_its_switch_is_worth(token):
    rig = Rig(RR(4), frames=5, lanes=1, prefill=512, costs=Costs(tick=1000, token=token))
    bursts = [rig.think(33, 40), rig.think(33, 40)]
    longest = turns(rig, bursts)
    price = rig.mmu.costs.recompute(5 * FRAME) / rig.mmu.costs.tick
    assert longest <= max(4, WORTH * price + 1)
    assert longest >= min(40, max(4, WORTH * price * 3 / 5))
    rig.empty()


def test_a_turn_is_no_longer_where_frames_are_enough():
    rig = Rig(RR(4), frames=16, lanes=1, prefill=512, costs=Costs(tick=1000, token=1000))
    assert turns(rig, [rig.think(33, 40), rig.think(33, 40)]) == 4
