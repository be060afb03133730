"""Places that are read and filled by others than the tick: random systems, whose frames are saved and restored."""

import random

import pytest

from rig import Rig
from tokix.kernel.arch.toy import _SLOT
from tokix.kernel.costs import Costs
from tokix.kernel.frames import FRAME, FramePool, frames_for
from tokix.kernel.policy import RR

SWAP = Costs(tick=1000, token=1000, frame=1)


class Outside:
    """Somebody who reads and fills places of a rig, and takes long for it."""

    def __init__(self, rig, draws):
        self.rig, self.draws = rig, draws
        #: What is lent: the tokens that places have; None if they are to be filled.
        self.open, self.saved = {}, []
        self.count = self.read = self.slots = self.filled = 0

    def act(self):
        mmu, draws = self.rig.mmu, self.draws
        idle = [ctx for ctx in self.rig.contexts if ctx.tokens and not ctx.burst]
        key = f"key {self.count}"
        self.count += 1
        if idle and draws.random() < 0.6:
            ctx = draws.choice([c for c in idle if c in mmu.sleepers] or idle)
            computed = mmu.lend(key, ctx)
            assert computed <= len(ctx.tokens)
            assert len(mmu.lent[key]) == frames_for(computed)
            self.open[key] = ctx.tokens[:computed]
        elif self.saved:
            tokens, _ = draws.choice(self.saved)
            mmu.borrow(key, frames_for(len(tokens)))
            self.open[key] = None

    def end(self, key):
        """What was lent is read or filled at last, between two ticks."""
        rig, tokens, places = self.rig, self.open.pop(key), self.rig.mmu.lent[key]
        if tokens is not None:
            data = rig.machine.read(places, len(tokens))
            slots = b"".join(_SLOT.pack(token, place) for place, token in enumerate(tokens))
            assert data[: len(slots)] == slots, "somebody has written there"
            assert set(data[len(slots) :]) <= {255}
            if tokens:
                self.saved.append((tokens, data))
            self.read += 1
            self.slots += any(place >= rig.mmu.pool.total for place in places)
        elif self.draws.random() < 0.3:
            rig.machine.fill(places, bytes(len(places) * rig.machine.frame_size))
        else:
            tokens, data = self.draws.choice(
                [saved for saved in self.saved if frames_for(len(saved[0])) >= len(places)]
            )
            rig.machine.fill(places, data[: len(places) * rig.machine.frame_size])
            ctx = rig.context()
            ctx.tokens = [*tokens, 97]
            rig.mmu.furnish(ctx, key, len(tokens))
            self.filled += ctx.computed > 0
        rig.mmu.back(key)
        rig.scheduler.dirty = True


def lively(seed):
    draws = random.Random(seed)
    rig = Rig(RR(4), frames=draws.choice([8, 12, 20]), lanes=2, slots=draws.choice([0, 4, 9, 40]), costs=SWAP)
    outside = Outside(rig, draws)
    for _ in range(160):
        idle = [ctx for ctx in rig.contexts if not ctx.burst and 0 < len(ctx.tokens) < 60]
        if len([*rig.scheduler.bursts()]) < 5:
            ctx = draws.choice(idle) if idle and draws.random() < 0.5 else None
            rig.think(draws.randint(1, 40), draws.randint(1, 20), ctx=ctx)
        if draws.random() < 0.3 and len(outside.open) < 3:
            outside.act()
        flies = rig.start()
        if draws.random() < 0.2 and len(outside.open) < 3:
            outside.act()
        if flies:
            rig.land()
        for key in [*outside.open]:
            if draws.random() < 0.1:
                outside.end(key)
                rig.check()
    for key in [*outside.open]:
        outside.end(key)
    rig.run()
    rig.empty()
    pool = rig.mmu.pool
    assert not rig.mmu.lent
    assert not pool.held
    assert not pool.kept
    assert len(pool.vacant) == pool.slots
    return outside


def test_what_is_lent_stays_as_it_is_and_what_is_restored_is_true():
    seen = [lively(seed) for seed in range(60)]
    assert sum(outside.read for outside in seen) > 500
    assert sum(outside.slots for outside in seen) > 50
    assert sum(outside.filled for outside in seen) > 100


# ---- a slot that is read


@pytest.fixture
def pool():
    """Two frames and one slot, in which a block is that is wanted and read."""
    made = FramePool(2, 1)
    [frame] = made.take(1)
    block = made.enter(None, range(FRAME), frame)
    made.want([block])
    made.drop([frame])
    made.drop(made.take(2))
    assert block.place == 2
    made.hold([2])
    return made


def test_who_leaves_a_slot_that_is_read_goes_back_to_it(pool):
    block = pool.blocks[2]
    pool.load(block)
    assert (pool.vacant, pool.room) == ([], 0)
    pool.drop([block.place])
    pool.take(2)
    assert block.place == 2
    pool.let_go([2])
    assert pool.vacant == []
    pool.unwant([block])
    assert (pool.vacant, pool.room) == ([2], 1)


def test_a_slot_that_is_read_is_for_nobody_else(pool):
    block = pool.blocks[2]
    pool.unwant([block])
    assert (pool.vacant, pool.room) == ([], 0)
    pool.let_go([2])
    assert (pool.vacant, pool.room) == ([2], 1)


def test_nothing_is_filled_that_something_has_yet_to_be_moved_from(pool):
    assert pool.moves
    assert pool.still == 0
    pool.moves.clear()
    assert pool.still == 2


def test_what_is_on_its_way_is_not_read():
    rig = Rig(frames=6, lanes=1, slots=8, costs=SWAP)
    ctx = rig.think(60, 1).ctx
    rig.run()
    rig.mmu.sleep(ctx)
    taken = rig.mmu.pool.take(4)
    assert rig.mmu.pool.moves, "for the next tick"
    assert rig.mmu.lend("before", ctx) == 2 * FRAME, "the blocks behind have to make room first"
    rig.mmu.back("before")
    rig.mmu.pool.drop(taken)
    rig.think(1, 1)
    rig.run()
    assert rig.mmu.lend("after", ctx) == 60
    rig.mmu.back("after")
    rig.empty()
