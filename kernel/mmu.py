"""Memory management: which frames hold the tokens of which context.

A context has the frames of its first `computed` tokens. Frames that are full are in the index (see `frames`), so what
one context has computed is there for all that begin with the same tokens, also when it is gone. Contexts that think
next look there first. One that loses its frames to another sleeps: its frames are moved to the swap file or dropped,
whichever makes its return cheaper.

Invariants, while no tick is in flight: the table of a context covers exactly its computed tokens, its full frames are
in the index, and no two contexts have two frames for equal beginnings.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tokix.kernel.costs import Costs
from tokix.kernel.counters import Counters
from tokix.kernel.errors import KernelBug
from tokix.kernel.frames import FRAME, Block, FramePool, frames_for

if TYPE_CHECKING:
    from tokix.kernel.context import Context
    from tokix.kernel.events import Row


#: What is computed, or brought back, is to be used for this many times as long as that takes.
WORTH = 4


@dataclass(slots=True)
class Mmu:
    """Contexts in frames."""

    pool: FramePool
    costs: Costs = field(default_factory=Costs)
    #: Contexts that have frames, least recently used first; those that want theirs back.
    resident: dict[Context, None] = field(default_factory=dict)
    sleepers: dict[Context, None] = field(default_factory=dict)
    #: Frames that only ticks in flight still hold, each with the last of these.
    limbo: list[tuple[int, int]] = field(default_factory=list)
    #: Places that somebody outside reads, and frames that somebody outside fills, by the key of the call.
    lent: dict[str, list[int]] = field(default_factory=dict)
    #: How often something was let go; the price of all ticks so far.
    released: int = 0
    spent: float = 0
    counters: Counters = field(default_factory=Counters)

    # ---- what a row needs

    def found(self, ctx: Context) -> list[Block]:
        """Give the blocks that have what comes behind the computed tokens; at least one token is left to be fed."""
        tokens, table, find = ctx.tokens, ctx.table, self.pool.find
        at = ctx.computed // FRAME
        front = self.pool.blocks[table[at - 1]] if at else None
        blocks = []
        while (at + 1) * FRAME < len(tokens) and (block := find(front, tokens[at * FRAME : (at + 1) * FRAME])):
            blocks.append(block)
            front, at = block, at + 1
        if ctx.asleep and at * FRAME < ctx.reach < min(len(tokens), (at + 1) * FRAME):
            rest = find(front, tokens[at * FRAME : ctx.reach])
            blocks += [rest] if rest else []
        return blocks

    def missing(self, ctx: Context) -> int:
        """Count the tokens that nobody has computed."""
        blocks = self.found(ctx)
        return len(ctx.tokens) - (self.reached(ctx, blocks) if blocks else ctx.computed)

    def need(self, ctx: Context, start: int, end: int) -> int:
        """Count the free frames that writing positions start…end takes."""
        return frames_for(end) - len(ctx.table) + self.shared(ctx, start)

    def shared(self, ctx: Context, start: int) -> bool:
        """Say whether somebody else uses the frame of a position too."""
        return start // FRAME < len(ctx.table) and self.pool.uses[ctx.table[start // FRAME]] > 1

    def shortage(self, ctx: Context, end: int) -> int:
        """Count the frames that others have to give before a context can be computed up to a position."""
        blocks = self.found(ctx) if len(ctx.tokens) - ctx.computed > 1 else []
        there = [block.place for block in blocks if block.place < self.pool.total]
        resting = sum(self.pool.uses[frame] == 1 for frame in there)
        need = frames_for(end) - len(ctx.table) - len(there) + (not blocks and self.shared(ctx, ctx.computed))
        return need - (self.pool.available - resting)

    def ahead(self, ctx: Context) -> tuple[Block | None, tuple[int, ...]] | None:
        """Name the block that will have the next tokens, if those are known: two rows need not compute the same."""
        at = ctx.computed // FRAME
        if (at + 1) * FRAME >= len(ctx.tokens):
            return None
        front = self.pool.blocks[ctx.table[at - 1]] if at else None
        return front, tuple(ctx.tokens[at * FRAME : (at + 1) * FRAME])

    def reached(self, ctx: Context, blocks: list[Block]) -> int:
        """Give the tokens that are computed when a context has these blocks, too."""
        return (ctx.computed // FRAME + len(blocks) - 1) * FRAME + len(blocks[-1].tokens)

    def adopt(self, ctx: Context, blocks: list[Block]) -> None:
        """Take over the frames of blocks, from the swap file where they are there, as `found` gave them.

        For those the frames have to be available.
        """
        at, computed = ctx.computed // FRAME, self.reached(ctx, blocks)
        if len(ctx.table) > at:  # a part of a frame: there is a whole one
            self.let_go(ctx, [ctx.table.pop()])
        for block in blocks:
            if block.place < self.pool.total:
                self.pool.share([block.place])
            else:
                self.pool.load(block)
            ctx.table.append(block.place)
        self.counters.hits += computed - ctx.computed
        ctx.computed, ctx.view = computed, None
        self.resident.setdefault(ctx)

    def grow(self, ctx: Context, start: int, end: int, serial: int) -> None:
        """Make positions start…end writable by a tick; the frames have to be available."""
        table, first, pool = ctx.table, start // FRAME, self.pool
        if first < len(table) and pool.uses[table[first]] > 1:
            [fresh] = pool.take(1)
            pool.moves.append((table[first], fresh))
            self.limbo.append((serial, table[first]))  # the tick reads it: the reference ends with the tick
            table[first] = fresh
            self.counters.copies += 1
        table += pool.take(frames_for(end) - len(table))
        ctx.view = None
        self.resident.setdefault(ctx)

    def fed(self, ctx: Context, count: int) -> None:
        """So many tokens more are computed: frames that are full now can be found by others."""
        before = ctx.computed // FRAME
        ctx.computed += count
        table, pool = ctx.table, self.pool
        for at in range(before, ctx.computed // FRAME):
            front = pool.blocks[table[at - 1]] if at else None
            block = pool.enter(front, ctx.tokens[at * FRAME : (at + 1) * FRAME], table[at])
            if block.place != table[at]:  # another has computed the same meanwhile
                pool.share([block.place])
                self.let_go(ctx, [table[at]])
                table[at], ctx.view = block.place, None

    def charge(self, rows: Sequence[Row]) -> list[tuple[int, int]]:
        """Count a tick; gives what the machine has to move before its rows."""
        moves, self.pool.moves = self.pool.moves, []
        outs = sum(target >= self.pool.total for _, target in moves)
        ins = sum(source >= self.pool.total for source, _ in moves)
        fed = sum(len(row.feed) for row in rows)
        counters = self.counters
        counters.ticks, counters.rows, counters.fed = counters.ticks + 1, counters.rows + len(rows), counters.fed + fed
        counters.outs, counters.ins = counters.outs + outs, counters.ins + ins
        self.spent += self.costs.of(fed, outs + ins)
        return moves

    # ---- frames are given back

    def use(self, ctx: Context) -> None:
        """Note that a context has been used now."""
        ctx.used = self.spent
        if ctx in self.resident:
            self.resident[ctx] = self.resident.pop(ctx)

    def trim(self, ctx: Context, computed: int) -> None:
        """Keep the frames of the first `computed` tokens only."""
        ctx.computed = computed
        keep = frames_for(computed)
        dropped = ctx.table[keep:]
        if dropped:
            del ctx.table[keep:]
            ctx.view = None
            self.let_go(ctx, dropped)
        if not keep:
            self.resident.pop(ctx, None)

    def release(self, ctx: Context) -> None:
        """Take all frames from a context that needs them no more. What they have can still be found for a while."""
        self.trim(ctx, 0)
        self.wake(ctx)

    def let_go(self, ctx: Context, frames: list[int]) -> None:
        if ctx.flying:
            self.limbo += [(ctx.flying, frame) for frame in reversed(frames)]
        else:
            self.pool.drop(reversed(frames))
            self.released += 1

    def landed(self, serial: int) -> bool:
        """A tick has landed: what only it still held is let go of. False if that was nothing."""
        gone = [frame for last, frame in self.limbo if last <= serial]
        if not gone:
            return False
        self.pool.drop(gone)
        self.limbo = [held for held in self.limbo if held[0] > serial]
        self.released += 1
        return True

    def sleep(self, ctx: Context) -> None:
        """Take all frames from a context that will need them again: swap or drop, whichever is cheaper."""
        if ctx in self.sleepers or (self.swaps and self.promise(ctx)):
            self.counters.swaps += 1
        else:
            self.counters.drops += 1
            ctx.earned = 0
        self.trim(ctx, 0)

    def promise(self, ctx: Context) -> bool:
        """See to it that what a context has in frames will not be lost; False if there are not slots enough."""
        pool = self.pool
        full, rest = divmod(ctx.computed, FRAME)
        blocks = [pool.blocks[frame] for frame in ctx.table[:full]]
        known = pool.blocks.get(ctx.table[full]) if rest else None
        if known and len(known.tokens) != rest:  # it is a part of what the frame is known for
            rest = 0
        if not self.slots_for(blocks, rest > 0):
            return False
        if rest:
            tail = ctx.tokens[ctx.computed - rest : ctx.computed]
            blocks.append(pool.enter(blocks[-1] if blocks else None, tail, ctx.table[full]))
        pool.want(blocks)
        ctx.asleep, ctx.reach = blocks, ctx.computed
        self.sleepers[ctx] = None
        return True

    def slots_for(self, blocks: list[Block], more: int) -> bool:
        """See to it that blocks can be wanted, and so many more, if sleepers who are expendable have the slots."""

        def short() -> bool:
            return sum(not block.wanted for block in blocks) + more > self.pool.room

        for ctx in [*self.sleepers] if short() else ():
            if self.expendable(ctx):
                self.wake(ctx)
                ctx.earned = 0
                self.counters.drops += 1
                if not short():
                    break
        return not short()

    def wake(self, ctx: Context) -> None:
        """A context has what it can have of its frames, or needs them no more."""
        if ctx in self.sleepers:
            del self.sleepers[ctx]
            self.pool.unwant(ctx.asleep)
            ctx.asleep = ()

    def fork(self, ctx: Context) -> Context:
        """Give a copy that shares all frames."""
        covered = frames_for(ctx.computed)
        twin = ctx.twin()
        twin.table, twin.computed, twin.used = ctx.table[:covered], ctx.computed, self.spent
        if twin.table:
            self.pool.share(twin.table)
            self.resident[twin] = None
        return twin

    # ---- places are read and filled by others than the tick

    def lend(self, key: str, ctx: Context) -> int:
        """Keep what can be had of a context where it is, for somebody outside to read; gives of how many tokens.

        What is on its way waits for a tick: it cannot be read.
        """
        places, computed = ctx.table[: frames_for(ctx.computed)], ctx.computed
        if blocks := self.found(ctx):
            places[computed // FRAME :] = [block.place for block in blocks]
            computed = (len(places) - 1) * FRAME + len(blocks[-1].tokens)
        moving = {target for _, target in self.pool.moves}
        if late := [at for at, place in enumerate(places) if place in moving]:
            places, computed = places[: late[0]], late[0] * FRAME
        self.pool.hold(places)
        self.lent[key] = places
        return computed

    def borrow(self, key: str, count: int) -> list[int]:
        """Give frames for somebody outside to fill, as many as there are up to `count`."""
        self.lent[key] = self.pool.take(min(count, self.pool.still))
        return self.lent[key]

    def back(self, key: str) -> bool:
        """Nobody outside reads or fills any more; False if nobody did."""
        if key not in self.lent:
            return False
        self.pool.let_go(self.lent.pop(key))
        self.released += 1
        return True

    def furnish(self, ctx: Context, key: str, computed: int) -> None:
        """Give a context the frames that were filled with its first tokens, `computed` at most."""
        ctx.table = self.lent.pop(key)
        if ctx.table:
            self.resident[ctx] = None
            self.fed(ctx, min(computed, len(ctx.table) * FRAME))

    # ---- what a switch costs

    def enough(self, contexts: Iterable[Context], count: int) -> list[Context] | None:
        """Give the first of these contexts whose frames, all together, make so many available; None if all do not."""
        chosen, uses, users = [], self.pool.uses, Counter[int]()
        left = count - self.pool.available
        for ctx in contexts:
            chosen.append(ctx)
            for frame in ctx.table:
                users[frame] += 1
                left -= users[frame] == uses[frame] - (frame in self.pool.blocks)
            if left <= 0:
                return chosen
        return None

    def own(self, ctx: Context) -> int:
        """Count the frames that no other context has."""
        return sum(self.pool.uses[frame] <= 1 + (frame in self.pool.blocks) for frame in ctx.table)

    @property
    def swaps(self) -> bool:
        """Say whether to move frames out and back is cheaper than to compute them again."""
        return self.pool.slots > 0 and self.costs.swap(1) < self.costs.recompute(FRAME)

    def price(self, ctx: Context) -> float:
        """Give what it takes to have the frames of a context back once they are lost."""
        own = self.own(ctx)
        swap = self.swaps and own <= self.pool.room
        return self.costs.swap(own) if swap else self.costs.recompute(own * FRAME)

    def expendable(self, ctx: Context) -> bool:
        """Say whether a context has had what it was computed for, so that it may be dropped for another.

        It has been idle for as long as it takes to compute it again, or has sampled for WORTH times as long.
        """
        price = self.costs.recompute(self.extent(ctx) * FRAME)
        return self.spent - ctx.used >= price if ctx.idle else ctx.earned * self.costs.tick >= WORTH * price

    def extent(self, ctx: Context) -> int:
        """Count the frames or slots that a context has, those that others have too."""
        return len(ctx.table) or len(ctx.asleep)

    # ---- integrity

    def check(self, flying: bool) -> None:
        """Raise KernelBug if an invariant does not hold."""
        lent = [place for places in self.lent.values() for place in places]
        if self.pool.held != Counter(place for place in lent if place >= self.pool.total):
            raise KernelBug("slots are held that nobody reads")
        outside = [*(frame for _, frame in self.limbo), *(place for place in lent if place < self.pool.total)]
        self.pool.check([*(ctx.table for ctx in self.resident), outside], [ctx.asleep for ctx in self.sleepers])
        if any(not ctx.table for ctx in self.resident):
            raise KernelBug("a context without frames is listed as resident")
        if any(ctx.view is not None and list(ctx.view) != ctx.table for ctx in self.resident):
            raise KernelBug("the view of a frame table is stale")
        for ctx in () if flying else self.resident:
            if len(ctx.table) != frames_for(ctx.computed):
                raise KernelBug("a frame table does not cover the computed tokens")
            front = None
            for at in range(ctx.computed // FRAME):
                block = self.pool.find(front, ctx.tokens[at * FRAME : (at + 1) * FRAME])
                if block is None or block.place != ctx.table[at]:
                    raise KernelBug("a full frame is not in the index, or for other tokens")
                front = block
