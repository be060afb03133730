"""The integrity check of the scheduler: whatever is wrong, it notices."""

import pytest

from rig import Rig
from tokix.kernel.context import Context
from tokix.kernel.errors import KernelBug
from tokix.kernel.frames import FRAME


def lost_frame(s):
    s.mmu.pool.free.pop()


def frame_free_twice(s):
    s.mmu.pool.free.append(s.mmu.pool.free[0])


def free_frame_in_use(s):
    s.mmu.pool.free[0] = s.gang[0].ctx.table[0]


def wrong_reference_count(s):
    s.mmu.pool.uses[s.gang[0].ctx.table[0]] += 1


def frame_of_somebody_else(s):
    s.gang[0].ctx.table[0] = s.gang[1].ctx.table[0]


def frame_too_few(s):
    s.mmu.pool.drop([s.gang[0].ctx.table.pop()])


def frame_too_many(s):
    s.gang[0].ctx.table += s.mmu.pool.take(1)


def computed_too_far(s):
    s.gang[0].ctx.computed += FRAME


def stale_view(s):
    s.gang[0].ctx.view = (*s.gang[0].ctx.table[:-1], s.mmu.pool.free[0])


def context_not_listed(s):
    del s.mmu.resident[s.gang[0].ctx]


def context_without_frames(s):
    s.mmu.resident[Context()] = None


def forgotten_limbo(s):
    s.mmu.limbo.append((0, s.mmu.pool.free[0]))


def empty_lane(s):
    s.slots[0] = None


def lane_of_nobody(s):
    s.gang.pop()


def two_in_a_lane(s):
    s.gang[0].lane = s.gang[1].lane


def lanes_exchanged(s):
    s.gang[0].lane, s.gang[1].lane = s.gang[1].lane, s.gang[0].lane


def ended_in_a_lane(s):
    s.gang[0].alive = False


def in_a_lane_and_in_the_queue(s):
    s.enqueue(s.gang[0])


def unknown_to_its_context(s):
    s.gang[0].ctx.burst = None


def miscounted_queue(s):
    s.waiting += 1


def stale_ticket(s):
    s.queued()[0].ticket = -1


def lost_place(s):
    s.queue.pop()


CORRUPTIONS = [
    lost_frame,
    frame_free_twice,
    free_frame_in_use,
    wrong_reference_count,
    frame_of_somebody_else,
    frame_too_few,
    frame_too_many,
    computed_too_far,
    stale_view,
    context_not_listed,
    context_without_frames,
    forgotten_limbo,
    empty_lane,
    lane_of_nobody,
    two_in_a_lane,
    lanes_exchanged,
    ended_in_a_lane,
    in_a_lane_and_in_the_queue,
    unknown_to_its_context,
    miscounted_queue,
    stale_ticket,
    lost_place,
]


@pytest.mark.parametrize("corruption", CORRUPTIONS)
def test_check_notices(corruption):
    rig = Rig(frames=16)
    for _ in range(4):
        rig.think(20, 9)
    rig.tick()
    rig.scheduler.check()
    corruption(rig.scheduler)
    with pytest.raises(KernelBug):
        rig.scheduler.check()


@pytest.mark.parametrize("copied", [False, True], ids=["named by a row", "copied from"])
def test_check_notices_a_free_frame_that_the_tick_in_flight_names(copied):
    rig = Rig(frames=16)
    rig.think(20, 2)
    rig.run()
    [ctx] = rig.contexts
    rig.contexts.append(rig.mmu.fork(ctx))
    rig.think(1, 9, ctx=ctx)
    tick = rig.start()
    if copied:
        rig.mmu.release(rig.contexts[1])
        [(_, frame)] = rig.mmu.limbo
        assert tick.copies[0][0] == frame
        rig.mmu.limbo.clear()
    else:
        ctx.flying = 0
        [frame] = ctx.table[1:]
        rig.mmu.trim(ctx, FRAME)
    rig.mmu.pool.drop([frame] if copied else [])
    with pytest.raises(KernelBug, match="in flight"):
        rig.scheduler.check()
