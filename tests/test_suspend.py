"""A burst is suspended, woken, reniced and withdrawn, wherever it is."""

from rig import Rig, in_lane
from tokix.kernel.policy import FCFS, RR, Priority


def test_suspend_and_wake_change_no_token():
    rig = Rig(RR(3), frames=8)
    bursts = [rig.think(12, 25) for _ in range(4)]
    for n in range(60):
        burst = bursts[n % 4]
        if burst.alive:
            rig.scheduler.suspend(burst)
            rig.tick()
            assert burst.lane == burst.ticket == -1
            rig.scheduler.wake(burst)
        rig.tick()
    rig.run()
    assert not any(burst.alive for burst in bursts)
    rig.empty()


def test_who_wakes_goes_to_the_end_of_the_queue():
    rig = Rig(RR(), lanes=1)
    first, second, third = (rig.think(1, 4) for _ in range(3))
    rig.scheduler.suspend(first)
    rig.scheduler.wake(first)
    assert rig.run() == [second, third, first]


def test_under_fcfs_who_wakes_has_the_place_of_its_arrival():
    rig = Rig(FCFS(), lanes=1)
    first, second, third = (rig.think(1, 4) for _ in range(3))
    rig.scheduler.suspend(second)
    rig.tick()
    rig.scheduler.wake(second)
    assert rig.run() == [first, second, third]


def test_a_suspended_burst_keeps_its_frames_while_nobody_needs_them():
    rig = Rig(frames=4, lanes=1)
    burst = rig.think(20, 10)
    rig.tick()
    rig.scheduler.suspend(burst)
    rig.think(20, 1)
    rig.run()
    assert burst.ctx.computed == 20
    rig.think(40, 1)
    rig.run()
    assert burst.ctx.computed == 0
    rig.scheduler.wake(burst)
    assert rig.run() == [burst]


def test_withdraw_restores_the_context_wherever_the_burst_is():
    for when in ("queued", "running", "flying", "suspended"):
        rig = Rig(lanes=1)
        rig.think(20, 5)
        rig.run()
        [ctx] = rig.contexts
        tokens, computed = ctx.tokens.copy(), ctx.computed
        if when == "queued":
            rig.think(1, 50)
            rig.tick()
        burst = rig.think(15, 10, ctx=ctx)
        if when in ("running", "suspended"):
            rig.tick()
            rig.tick()
        if when == "suspended":
            rig.scheduler.suspend(burst)
        if when == "flying":
            rig.start()
        rig.scheduler.withdraw(burst)
        assert (ctx.tokens, ctx.burst, burst.alive) == (tokens, None, False)
        assert ctx.computed in (computed, len(tokens))
        if when == "flying":
            rig.land()
        rig.think(3, 8, ctx=ctx)
        rig.run()
        rig.empty()


def test_renice_moves_a_burst_that_waits():
    rig = Rig(Priority(), lanes=1)
    running, *waiting = (rig.think(1, 4) for _ in range(4))
    rig.tick()
    rig.scheduler.renice(waiting[2], -1)
    rig.scheduler.renice(waiting[0], 1)
    assert rig.run() == [waiting[2], running, waiting[1], waiting[0]]


def test_renice_takes_the_lane_of_a_burst_that_runs_if_a_better_one_waits():
    rig = Rig(Priority(), lanes=1)
    running, waiting = rig.think(1, 10), rig.think(1, 10, nice=5)
    rig.tick()
    assert in_lane(running, waiting) == [True, False]
    rig.scheduler.renice(running, 4)
    rig.tick()
    assert in_lane(running, waiting) == [True, False]
    rig.scheduler.renice(running, 6)
    rig.tick()
    assert in_lane(running, waiting) == [False, True]


def test_renice_gives_no_lane_to_one_that_has_only_waited():
    rig = Rig(Priority(quantum=100, age=2), lanes=1)
    running, waiting = rig.think(1, 50), rig.think(1, 10, nice=3)
    for _ in range(20):
        rig.tick()
    rig.scheduler.renice(waiting, 0)
    rig.tick()
    assert in_lane(running, waiting) == [True, False]
    rig.scheduler.renice(waiting, -1)
    rig.tick()
    assert in_lane(running, waiting) == [False, True]


def test_renice_counts_no_time_that_a_burst_has_run():
    rig = Rig(Priority(), lanes=1)
    running = rig.think(1, 500)
    for _ in range(390):
        rig.tick()
    waiting = rig.think(1, 10)
    rig.scheduler.renice(running, 19)
    rig.tick()
    assert in_lane(running, waiting) == [False, True]


def test_renice_of_a_suspended_burst_holds_when_it_wakes():
    rig = Rig(Priority(), lanes=1)
    first, second = rig.think(1, 4), rig.think(1, 4)
    rig.scheduler.suspend(second)
    rig.scheduler.renice(second, -3)
    assert second.ticket == -1
    rig.scheduler.wake(second)
    assert rig.run() == [second, first]
