"""Frames: copies on the first write, and frames of a tick in flight."""

from rig import Rig
from tokix.kernel.frames import FRAME

# ---- copy on write


def test_two_forks_diverge_and_each_says_what_it_would_say_alone():
    rig = Rig(lanes=3)
    rig.think(21, 6)
    rig.run()
    [trunk] = rig.contexts
    common = trunk.tokens.copy()
    twins = [rig.mmu.fork(trunk) for _ in range(2)]
    rig.contexts += twins
    assert rig.free() == rig.mmu.pool.total - 2, "nothing is copied before it is written"
    bursts = [rig.think(n + 1, 20, ctx=ctx) for n, ctx in enumerate([trunk, *twins])]
    rig.run()  # and each is compared with the oracle
    said = {tuple(burst.ctx.tokens[burst.prompt :]) for burst in bursts}
    assert len(said) == 3
    assert all(ctx.tokens[: len(common)] == common for ctx in rig.contexts)
    assert rig.mmu.counters.copies >= 2
    assert len({ctx.table[0] for ctx in rig.contexts}) == 1, "the frame that nobody wrote is still shared"
    rig.empty()


def test_a_fork_at_the_border_of_a_frame_copies_nothing():
    rig = Rig()
    rig.think(2 * FRAME, 1)
    rig.run()
    [trunk] = rig.contexts
    assert trunk.computed == 2 * FRAME
    twin = rig.mmu.fork(trunk)
    rig.contexts.append(twin)
    rig.think(1, 5, ctx=trunk)
    rig.think(2, 5, ctx=twin)
    rig.run()
    assert rig.mmu.counters.copies == 0
    assert trunk.table[:2] == twin.table[:2]
    rig.empty()


def test_a_chain_of_forks_survives_the_end_of_its_middle():
    rig = Rig(lanes=1)
    rig.think(20, 3)
    rig.run()
    for _ in range(4):
        rig.contexts.append(rig.mmu.fork(rig.contexts[-1]))
        rig.think(2, 5, ctx=rig.contexts[-1])
        rig.tick()
        rig.run()
    rig.mmu.release(rig.contexts.pop(2))
    for ctx in rig.contexts:
        rig.think(1, 4, ctx=ctx)
    rig.run()
    rig.empty()


def test_a_frame_with_two_users_is_never_written():
    rig = Rig(lanes=4, prefill=5)
    rig.think(30, 4)
    rig.run()
    [trunk] = rig.contexts
    rig.contexts += [rig.mmu.fork(trunk) for _ in range(3)]
    for n, ctx in enumerate(rig.contexts):
        rig.think(n + 1, 25, ctx=ctx)
    while tick := rig.start():
        written = [row.table[at // FRAME] for row in tick.rows for at in range(row.start, row.start + len(row.feed))]
        users = [frame for ctx in rig.mmu.resident for frame in ctx.table]
        assert all(users.count(frame) == 1 for frame in written)
        assert not {frame for frame, _ in tick.copies} & set(written)
        rig.land()


# ---- frames in flight


def test_the_frames_of_a_tick_in_flight_are_not_free_before_it_is_done():
    rig = Rig(frames=4)
    burst = rig.think(40, 8)
    tick = rig.start()
    rig.scheduler.withdraw(burst)
    rig.scheduler.check()
    assert burst.ctx.tokens == burst.ctx.table == []
    assert not set(tick.rows[0].table) & set(rig.mmu.pool.free)
    again = rig.think(50, 8)
    assert rig.start() is None
    rig.land()
    assert rig.free() == 4
    assert rig.run() == [again]
    rig.empty()


def test_a_context_can_be_used_again_while_the_tick_of_its_last_burst_flies():
    rig = Rig()
    rig.think(20, 4)
    rig.run()
    [ctx] = rig.contexts
    tokens = ctx.tokens.copy()
    lost = rig.think(30, 10, ctx=ctx)
    rig.start()
    rig.scheduler.withdraw(lost)
    assert ctx.tokens == tokens
    kept = rig.think(3, 10, ctx=ctx)
    assert rig.land() == []
    assert kept.generated == 0, "the token of the tick was for the burst that is gone"
    assert rig.run() == [kept]
    rig.empty()


def test_a_fork_of_a_context_whose_tick_flies_does_not_see_what_the_tick_writes():
    rig = Rig()
    rig.think(20, 4)
    rig.run()
    [ctx] = rig.contexts
    lost = rig.think(40, 10, ctx=ctx)
    rig.start()
    rig.scheduler.withdraw(lost)
    rig.contexts.append(rig.mmu.fork(ctx))
    rig.mmu.release(ctx)
    rig.scheduler.check()
    rig.land()
    rig.think(2, 9, ctx=rig.contexts[1])
    rig.think(2, 9, ctx=ctx)
    rig.run()
    rig.empty()


def test_a_burst_suspended_in_flight_still_gets_its_token():
    rig = Rig()
    burst = rig.think(5, 4)
    rig.tick()
    rig.start()
    rig.scheduler.suspend(burst)
    rig.land()
    assert burst.generated == 2
    assert rig.start() is None
    rig.scheduler.wake(burst)
    assert rig.run() == [burst]
    rig.empty()
