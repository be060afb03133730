"""More bursts than frames: all of them finish, and it is known who loses frames to whom."""

import math
from itertools import count

import pytest

from rig import NAMES, POLICIES, Rig, in_lane
from tokix.kernel.admission import room, victims
from tokix.kernel.costs import Costs
from tokix.kernel.frames import FRAME
from tokix.kernel.policy import FCFS, RR, Priority
from tokix.kernel.scheduler import PATIENCE

# ---- pressure


@pytest.mark.parametrize("policy", POLICIES, ids=NAMES)
@pytest.mark.parametrize("lanes", [1, 3, 8])
def test_more_bursts_than_frames_all_finish_and_say_the_same(policy, lanes):
    rig = Rig(policy(), frames=6, lanes=lanes, prefill=24)
    bursts = [rig.think(1 + 11 * n % 60, 10 + n % 20, nice=n % 3) for n in range(20)]
    assert set(rig.run()) == set(bursts)
    assert lanes == 1 or rig.mmu.counters.drops > 0
    rig.empty()


def test_what_lost_its_frames_computes_them_again():
    rig = Rig(RR(4), frames=4, lanes=1, costs=Costs(token=1))
    bursts = [rig.think(33, 20), rig.think(40, 20)]
    while rig.start():
        rig.land()
    assert not any(burst.alive for burst in bursts)
    assert rig.mmu.counters.drops >= 4
    assert rig.mmu.counters.fed > 33 + 40 + 40


def test_one_burst_can_have_every_frame():
    rig = Rig(frames=5, lanes=4)
    others = [rig.think(30, 3) for _ in range(3)]
    rig.run()
    burst = rig.think(5 * FRAME - 10, 10)
    assert rig.run() == [burst]
    assert len(burst.ctx.table) == 5
    assert not any(other.ctx.table for other in others)
    rig.empty()


@pytest.mark.parametrize("policy", POLICIES, ids=NAMES)
@pytest.mark.parametrize("size", [9, 10])
def test_a_burst_that_needs_nearly_all_frames_is_not_starved(policy, size):
    """Others pass it for PATIENCE ticks; then the lanes drain, which takes a turn of a small one; then its prompt."""
    frames, prefill, length = 10, 32, 12
    rig = Rig(policy(), frames=frames, lanes=4, prefill=prefill)
    smalls = [rig.think(20, length) for _ in range(8)]
    for _ in range(5):
        rig.tick()
    large = rig.think(size * FRAME - 8, 4)
    turn = min(length, rig.turn(20 + length))
    bound = PATIENCE + turn + math.ceil(20 / prefill) + math.ceil(large.end / prefill)
    for waited in count(1):
        smalls = [b for b in smalls if b.alive] + [rig.think(20, length) for b in smalls if not b.alive]
        rig.tick()
        if large.generated:
            break
        assert waited <= bound
    rig.run()
    rig.empty()


@pytest.mark.parametrize("size", [9, 10])
def test_the_least_of_all_gets_nearly_all_frames_in_the_end(size):
    """Nice 19 and nearly all frames, while there is always a newcomer with nice −20 that wants one."""
    rig = Rig(Priority(8, 2), frames=10, lanes=4)
    large = rig.think(size * FRAME - 8, 4, nice=19)
    small = [rig.think(5, 6, nice=-20) for _ in range(4)]
    bound = 39 * 2 + PATIENCE + 8 + 3
    for waited in count(1):
        small = [b if b.alive else rig.think(5, 6, nice=-20) for b in small]
        rig.tick()
        if not large.alive:
            break
        assert waited <= bound
    rig.run()


def test_a_lane_that_is_lost_for_want_of_frames_goes_to_somebody_who_fits():
    rig = Rig(RR(4), frames=4)
    first, second = rig.think(20, 28), rig.think(12, 20)
    while second.lane >= 0 or not second.generated:
        rig.tick()
    third = rig.think(2, 4)
    rig.tick()
    assert in_lane(first, second, third) == [True, False, True]
    rig.run()


def test_frames_that_a_better_one_leaves_over_give_a_lane_in_the_next_tick():
    rig = Rig(FCFS(), frames=4)
    first, second = rig.think(16, 30), rig.think(17, 20)
    rig.tick()
    rig.tick()
    rig.scheduler.suspend(second)
    rig.scheduler.wake(second)
    third = rig.think(2, 4)
    while second.ctx.table:  # until the first one takes both, and needs one
        rig.tick()
        assert in_lane(first, second, third) == [True, False, False]
    rig.tick()
    assert in_lane(first, second, third) == [True, False, True]
    rig.run()


def test_frames_of_one_that_ends_give_a_lane_in_the_next_tick_to_who_found_none():
    rig = Rig(FCFS(), frames=8, lanes=3)
    first, large, last = rig.think(64, 10), rig.think(60, 20), rig.think(10, 30)
    rig.tick()
    while first.alive:
        rig.tick()
        assert in_lane(large, last) == [False, True]
    rig.mmu.release(first.ctx)
    rig.tick()
    assert in_lane(large, last) == [True, True]
    rig.run()


def test_a_frame_that_both_forks_have_copied_gives_a_lane_when_the_tick_is_done():
    rig = Rig(FCFS(), frames=5, lanes=3)
    rig.think(20, 1)
    rig.run()
    rig.contexts.append(rig.mmu.fork(rig.contexts[0]))
    forks = [rig.think(1, 10, ctx=ctx) for ctx in rig.contexts]
    waiting = rig.think(17, 4)
    rig.start()
    assert in_lane(*forks, waiting) == [True, True, False]
    rig.land()
    assert rig.free() == 2
    rig.start()
    assert in_lane(*forks, waiting) == [True, True, True]
    rig.land()
    rig.run()


@pytest.mark.parametrize("policy", POLICIES, ids=NAMES)
def test_the_first_of_the_queue_can_have_its_frames_after_stop_and_cont(policy):
    """STOP and CONT change who came last, but not, under FCFS, who is served first."""
    rig = Rig(policy(), frames=5, lanes=3, prefill=32)
    early = [rig.think(2, 1), rig.think(2, 1)]
    for burst in early:
        rig.scheduler.suspend(burst)
    holder = rig.think(79, 1)
    rig.think(40, 1)
    rig.think(40, 1)
    rig.tick()
    rig.tick()
    rig.scheduler.suspend(holder)
    for burst in (holder, *early):
        rig.scheduler.wake(burst)
    assert len(rig.run()) == 5


# ---- whose frames


@pytest.fixture
def crowd():
    """Two that run and two that wait, each with one frame, and two idle contexts with one each, which cost nothing."""
    rig = Rig(Priority(quantum=100), frames=8, costs=Costs(token=0))
    for _ in range(2):
        rig.think(5, 1)
    rig.run()
    waiting = [rig.think(5, 50, nice=nice) for nice in (4, 3)]
    rig.tick()
    running = [rig.think(5, 50, nice=nice) for nice in (1, 2)]
    rig.tick()
    assert in_lane(*running, *waiting) == [True, True, False, False]
    return rig, running, waiting


def test_victims_are_the_idle_then_who_waits_then_the_rest_of_the_gang_the_worst_first(crowd):
    rig, running, waiting = crowd
    expected = [*rig.contexts[:2], waiting[0].ctx, waiting[1].ctx, running[1].ctx]
    assert list(victims(rig.scheduler, running[0])) == expected
    assert list(victims(rig.scheduler, running[1])) == expected[:4]


def test_of_the_gang_the_worst_loses_its_frames_first_whoever_came_first():
    rig = Rig(Priority(quantum=100), lanes=4)
    bursts = []
    for nice in (2, 0, 3, 1):
        bursts.append(rig.think(5, 50, nice=nice))
        rig.tick()
    by_nice = sorted(bursts, key=lambda burst: burst.nice)
    for place, burst in enumerate(by_nice):
        assert list(victims(rig.scheduler, burst)) == [b.ctx for b in by_nice[:place:-1]]


def test_under_fcfs_who_came_first_takes_frames_from_who_came_later_whoever_woke_last():
    rig = Rig(FCFS(), lanes=2)
    first, second = rig.think(5, 50), rig.think(5, 50)
    rig.tick()
    rig.scheduler.suspend(first)
    rig.tick()
    rig.scheduler.wake(first)
    rig.tick()
    assert list(victims(rig.scheduler, first)) == [second.ctx]
    assert list(victims(rig.scheduler, second)) == []


def test_idle_contexts_go_in_the_order_of_their_last_use(crowd):
    rig, running, _ = crowd
    rig.scheduler.withdraw(rig.think(1, 5, ctx=rig.contexts[0], nice=-20))
    assert next(victims(rig.scheduler, running[0])) is rig.contexts[0], "what never had a lane is not used"
    again = rig.think(1, 1, ctx=rig.contexts[0], nice=-20)
    rig.tick()
    assert not again.alive
    assert [*victims(rig.scheduler, running[0])][:2] == [rig.contexts[1], rig.contexts[0]]


def test_a_suspended_burst_counts_as_idle(crowd):
    rig, running, waiting = crowd
    rig.scheduler.suspend(waiting[1])
    assert set(list(victims(rig.scheduler, running[0]))[:3]) == {*rig.contexts[:2], waiting[1].ctx}


def test_room_takes_no_more_than_it_needs(crowd):
    rig, running, waiting = crowd
    scheduler, burst = rig.scheduler, running[0]
    assert rig.free() == 2
    assert room(scheduler, burst, 2)
    assert scheduler.mmu.counters.drops == 0
    assert room(scheduler, burst, 4)
    assert [bool(ctx.table) for ctx in rig.contexts[:2]] == [False, False]
    assert room(scheduler, burst, 5)
    assert [bool(b.ctx.table) for b in waiting] == [False, True]
    assert room(scheduler, burst, 7)
    assert not running[1].ctx.table
    assert in_lane(*running) == [True, False]
    assert running[1].ticket >= 0
    assert scheduler.mmu.counters.drops == 5


def test_nobody_loses_frames_to_a_burst_that_comes_after(crowd):
    rig, running, _ = crowd
    assert not room(rig.scheduler, running[1], 7)
    assert running[0].ctx.table
    assert running[0].lane >= 0
    rig.run()


def test_nobody_loses_frames_in_vain():
    rig = Rig(FCFS(), frames=9, lanes=4)
    bursts = [rig.think(1, 20) for _ in range(3)]
    rig.tick()
    assert not room(rig.scheduler, bursts[0], 9), "all others together have two, and six are free"
    assert in_lane(*bursts) == [True, True, True]
    assert rig.mmu.counters.drops == 0
    rig.run()


def test_who_waits_loses_frames_to_a_better_one_only():
    rig = Rig(Priority(quantum=100), frames=4, lanes=1)
    other = rig.think(20, 20)
    rig.tick()
    rig.scheduler.suspend(other)
    running = rig.think(20, 20, nice=1)
    rig.tick()
    rig.scheduler.wake(other)
    assert list(victims(rig.scheduler, running)) == []
    rig.scheduler.renice(other, 2)
    assert list(victims(rig.scheduler, running)) == [other.ctx]
