"""Who may have a lane, and whose frames it takes: the part of the scheduler that looks at memory.

A burst gets a lane if there is room for its prompt and one quantum (`has_room`), and if that does not waste what
others were computed for (`wasteful`). Frames are taken when a tick needs them (`room`): from idle contexts first
(least recently used), then from bursts that wait, worst first, then from the worst of the gang, and never from a
burst that goes before the one in need (`victims`).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from tokix.kernel.frames import frames_for

if TYPE_CHECKING:
    from tokix.kernel.burst import Burst
    from tokix.kernel.context import Context
    from tokix.kernel.scheduler import Scheduler


def shortage(s: Scheduler, burst: Burst) -> int:
    """Count the frames that others have to give so that a burst has its prompt and one quantum."""
    return s.mmu.shortage(burst.ctx, min(len(burst.ctx.tokens) + s.policy.quantum, burst.end))


def fits(s: Scheduler, burst: Burst) -> bool:
    """Say whether a burst may have a lane."""
    lacking = short(s, burst)
    return has_room(s, burst, lacking) and not wasteful(s, burst, lacking)


def short(s: Scheduler, burst: Burst) -> int:
    """Count the frames that others have to give, if those who run get what their prompts need."""
    return shortage(s, burst) + sum(frames_for(len(b.ctx.tokens)) - len(b.ctx.table) for b in s.gang)


def has_room(s: Scheduler, burst: Burst, lacking: int) -> bool:
    """Say whether a burst has a chance to get the frames that it is short of, and not from a better one's turn."""
    mmu = s.mmu
    if s.gang and burst.starved == mmu.released:
        return False
    kept = spared(s, burst)
    others = (ctx for ctx in mmu.resident if ctx not in kept)
    return lacking <= 0 or mmu.enough(others, mmu.pool.available + lacking) is not None


def spared(s: Scheduler, burst: Burst) -> set[Context]:
    """Give the contexts that a burst takes no frames from: to have waited takes none from somebody's turn."""
    rank = s.policy.rank(burst, burst.since)
    return {b.ctx for b in s.gang if b.rank <= rank} | {burst.ctx}


def wasteful(s: Scheduler, burst: Burst, lacking: int, thorough: bool = True) -> bool:
    """Say whether to compute a prompt now would cost others what they were computed for.

    Where many rounds of many programs take turns and memory has room for a few, each would find its frames gone and
    compute all again: thrashing (Denning, 1968; with agents https://arxiv.org/abs/2601.22705). So who has nothing
    in memory waits until there is room, with enough left to swap out those who run, or others are expendable. Then
    little is spent on computing again; and all come in, for whoever goes on becomes expendable. Not `thorough`:
    room has to be there already.
    """
    mmu, ctx = s.mmu, burst.ctx
    if ctx.table or ctx.asleep:
        return False
    if mmu.swaps:
        lacking += sum(len(b.ctx.table) for b in s.gang) - mmu.pool.room
    kept, standing = spared(s, burst), s.policy.standing(burst)
    for other in (*mmu.resident, *mmu.sleepers) if thorough and lacking > 0 else ():
        if other not in kept and (mmu.expendable(other) or below(s, other, standing)):
            lacking -= mmu.extent(other)
            if lacking <= 0:
                break
    return lacking > 0


def below(s: Scheduler, ctx: Context, standing: int) -> bool:
    """Say whether a context is that of a burst which has to give way."""
    return ctx.burst is not None and s.policy.standing(ctx.burst) > standing


def room(s: Scheduler, burst: Burst, count: int) -> bool:
    """Make so many frames available for a burst; False if it has to wait.

    Nobody loses frames if all of them would not be enough.
    """
    mmu = s.mmu
    if count <= mmu.pool.available:
        return True
    chosen = mmu.enough(victims(s, burst), count)
    for victim in chosen or ():
        mmu.sleep(victim)
        s.dirty = True  # it may have had more than was needed
        if victim.burst and victim.burst.lane >= 0:
            s.displace(victim.burst)
    return chosen is not None


def victims(s: Scheduler, burst: Burst) -> Iterator[Context]:
    """Give the contexts whose frames a burst may take, in order.

    An idle one keeps its frames for as long as it takes to bring them back: to wait for its return longer than that
    never costs more than twice what the best choice would have cost (as in ski rental: Karlin et al., 1988).
    """
    mmu, key = s.mmu, s.order
    fresh = []
    for ctx in [ctx for ctx in mmu.resident if ctx.idle]:
        if mmu.spent - ctx.used < mmu.price(ctx):
            fresh.append(ctx)
        else:
            yield ctx
    queued = [c.burst for c in mmu.resident if c.burst and c.burst.ticket >= 0 and key(c.burst) > key(burst)]
    yield from [b.ctx for b in sorted(queued, key=key, reverse=True)]
    yield from fresh
    later = s.gang[s.gang.index(burst) + 1 :]
    yield from [b.ctx for b in reversed(later) if b.ctx.table]


def adopt(s: Scheduler, burst: Burst) -> bool:
    """Take over what has been computed of the next tokens; False if the burst has to wait for frames."""
    mmu, ctx = s.mmu, burst.ctx
    if blocks := mmu.found(ctx):
        there = [block for block in blocks if block.place < mmu.pool.total]
        if there:
            mmu.adopt(ctx, there)
        if swapped := blocks[len(there) :]:
            mmu.pool.want(swapped)  # to make room may cost others theirs
            if there_is := room(s, burst, len(swapped)):
                mmu.adopt(ctx, swapped)
            mmu.pool.unwant(swapped)
            if not there_is:
                return False
    mmu.wake(ctx)
    return True
