"""The machine's memory: frames of 16 tokens, shared by reference count, copied on write, and found by what is in them.

A frame that is full is named by a block: the block in front of it and its tokens. So contexts that begin alike find the
frames of each other, exactly, for the key is the tokens themselves. The index of blocks is one user of each frame that
it names. A frame that has no other is evicted when a frame is needed: forgotten; or, if a context that sleeps wants it
back, moved to a slot of the swap file. Frames and slots are places, numbered in one row; what is moved is a list of
(from, to) in the order in which the machine has to do it, before the rows of the next tick.

Invariants: free + used = total; `uses[f]` is the number of frame tables (and of ticks in flight, see `Mmu.limbo`) that
name frame f, and one more if the index does; a frame with two users is never written. The block in front of one that is
in a frame is in a frame, too; so of frames without users those behind go first, which follows from the order in which
they lose their users, if every table drops its last frame first. There is a slot for each block that is wanted.

What somebody outside reads has a user more, if it is in a frame; a slot that is read is `held`: if its block leaves it
meanwhile, it is kept for that block, which is put there again or nowhere.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from tokix.kernel.errors import KernelBug

#: Tokens in a frame.
FRAME = 16


def frames_for(tokens: int) -> int:
    """Give the number of frames that hold so many tokens."""
    return -(-tokens // FRAME)


class Block:
    """The K/V of some tokens behind others: in a frame, in a slot, or nowhere any more."""

    __slots__ = ("parent", "place", "tokens", "wanted")

    def __init__(self, parent: Block | None, tokens: tuple[int, ...], place: int) -> None:
        self.parent, self.tokens, self.place = parent, tokens, place
        #: How many contexts that sleep want it back.
        self.wanted = 0


class FramePool:
    """All places of a machine, by number. The contents are the machine's; here is only what is where."""

    def __init__(self, total: int, slots: int = 0) -> None:
        """Frames are the places from 0, slots those from `total`."""
        self.total, self.slots = total, slots
        self.free = list(range(total - 1, -1, -1))  # a stack: the last one freed is the warmest
        self.uses = [0] * total
        self.vacant = list(range(total + slots - 1, total - 1, -1))
        self.index: dict[tuple[Block | None, tuple[int, ...]], Block] = {}
        #: The blocks by place.
        self.blocks: dict[int, Block] = {}
        #: Frames that only the index names, by whether they are wanted; those that go first come first.
        self.cold: dict[int, None] = {}
        self.asleep: dict[int, None] = {}
        #: How many blocks are wanted.
        self.wanted = 0
        #: How often each slot is read; those that their blocks have left meanwhile, by block.
        self.held: Counter[int] = Counter()
        self.kept: dict[Block, int] = {}
        #: What the machine has to move before its next rows.
        self.moves: list[tuple[int, int]] = []

    @property
    def available(self) -> int:
        """Give the number of frames that can be taken."""
        return len(self.free) + len(self.cold) + len(self.asleep)

    @property
    def still(self) -> int:
        """Give the number of frames that can be taken, and written by others than a tick: nothing moves from them."""
        return 0 if self.moves else len(self.free) + len(self.cold)

    @property
    def room(self) -> int:
        """Give the number of blocks that can be wanted beside those that are."""
        return self.slots - self.wanted - sum(not block.wanted for block in self.kept)

    # ---- users

    def take(self, count: int) -> list[int]:
        """Give frames with one user each; the caller has made sure that they are available."""
        frames = []
        for _ in range(count):
            if not self.free:
                self._evict()
            frames.append(self.free.pop())
            self.uses[frames[-1]] = 1
        return frames

    def share(self, frames: Iterable[int]) -> None:
        """Add one user to each."""
        for frame in frames:
            self.uses[frame] += 1
            if self.uses[frame] == 2:
                self.cold.pop(frame, None)
                self.asleep.pop(frame, None)

    def drop(self, frames: Iterable[int]) -> None:
        """Take one user from each, in an order in which no frame comes behind one that it is in front of."""
        uses, free, blocks = self.uses, self.free, self.blocks
        for frame in frames:
            uses[frame] -= 1
            if not uses[frame]:
                free.append(frame)
            elif uses[frame] == 1 and frame in blocks:
                self._rest(frame)

    def _rest(self, frame: int) -> None:
        """Put a frame that only the index names with its like."""
        (self.asleep if self.blocks[frame].wanted else self.cold)[frame] = None

    def _evict(self) -> None:
        """Free a frame that only the index names."""
        if self.cold:
            self.forget(self.blocks[next(iter(self.cold))])
            return
        frame = next(iter(self.asleep))
        del self.asleep[frame]
        block = self.blocks.pop(frame)
        self._settle(block, self.kept.pop(block, 0) or self.vacant.pop())
        self.uses[frame] = 0
        self.free.append(frame)

    def _vacate(self, block: Block) -> None:
        """Take a block out of its slot."""
        del self.blocks[block.place]
        if block.place in self.held:
            self.kept[block] = block.place
        else:
            self.vacant.append(block.place)

    def _settle(self, block: Block, place: int) -> None:
        """Move a block to a place."""
        self.moves.append((block.place, place))
        block.place = place
        self.blocks[place] = block

    # ---- blocks

    def find(self, parent: Block | None, tokens: Sequence[int]) -> Block | None:
        """Give the block of these tokens behind a block, or behind nothing."""
        return self.index.get((parent, tuple(tokens)))

    def enter(self, parent: Block | None, tokens: Sequence[int], frame: int) -> Block:
        """Name what a table has in a frame: the index uses it, too. If it is known, that block is given instead."""
        known = self.find(parent, tokens)
        if known is None:
            block = self.index[parent, tuple(tokens)] = Block(parent, tuple(tokens), frame)
        elif known.place >= self.total:
            self._vacate(known)
            block, known.place = known, frame
        else:
            return known
        self.blocks[frame] = block
        self.uses[frame] += 1
        return block

    def load(self, block: Block) -> None:
        """Bring a block from its slot into a frame, which must be available; the caller uses it, and the index."""
        [frame] = self.take(1)
        self.uses[frame] = 2
        self._vacate(block)
        self._settle(block, frame)

    def want(self, blocks: Sequence[Block]) -> None:
        """Promise that blocks will not be lost; the caller has made sure that there are slots for them."""
        for block in blocks:
            self.wanted += not block.wanted
            block.wanted += 1

    def unwant(self, blocks: Sequence[Block]) -> None:
        """Take a promise back. What is in the swap file for nobody, or not a whole frame, is forgotten."""
        for block in reversed(blocks):
            block.wanted -= 1
            if block.wanted:
                continue
            self.wanted -= 1
            if block.place >= self.total or len(block.tokens) < FRAME:
                self.forget(block)
            elif block.place in self.asleep:
                del self.asleep[block.place]
                self._rest(block.place)

    def forget(self, block: Block) -> None:
        """Take a block out of the index; nothing in the index may be behind it."""
        del self.index[block.parent, block.tokens]
        if block.place >= self.total:
            self._vacate(block)
        else:
            del self.blocks[block.place]
            self.cold.pop(block.place, None)
            self.asleep.pop(block.place, None)
            self.uses[block.place] -= 1
            if not self.uses[block.place]:
                self.free.append(block.place)

    # ---- somebody outside reads

    def hold(self, places: Sequence[int]) -> None:
        """Keep what is in frames and slots there."""
        self.share(place for place in places if place < self.total)
        self.held.update(place for place in places if place >= self.total)

    def let_go(self, places: Sequence[int]) -> None:
        """Take a hold back."""
        self.drop(place for place in reversed(places) if place < self.total)
        self.held -= Counter(place for place in places if place >= self.total)
        for block, slot in [*self.kept.items()]:
            if slot not in self.held:
                del self.kept[block]
                self.vacant.append(slot)

    # ---- integrity

    def check(self, tables: Iterable[Iterable[int]], sleepers: Iterable[Iterable[Block]]) -> None:
        """Compare the counts with all tables that name frames, and all contexts that want blocks; raises KernelBug."""
        uses = Counter(frame for table in tables for frame in table)
        uses.update(place for place in self.blocks if place < self.total)
        if self.uses != [uses[frame] for frame in range(self.total)]:
            raise KernelBug("reference counts of frames differ from their uses")
        if sorted(self.free) != [frame for frame, n in enumerate(self.uses) if not n]:
            raise KernelBug("the free list differs from the frames without users")
        resting = {place for place in self.blocks if place < self.total and self.uses[place] == 1}
        if {*self.cold, *self.asleep} != resting or any(self.blocks[frame].wanted for frame in self.cold):
            raise KernelBug("the lists of frames that only the index names are wrong")
        self._check_blocks(Counter(block for blocks in sleepers for block in blocks))

    def _check_blocks(self, wanted: Counter[Block]) -> None:
        if {*self.index.values()} != {*self.blocks.values()} or len(self.index) != len(self.blocks):
            raise KernelBug("the index and the places of blocks differ")
        slots = {place for place in self.blocks if place >= self.total}
        others = [*self.vacant, *self.kept.values()]
        if slots & {*others} or len(slots) + len(others) != self.slots:
            raise KernelBug("the vacant slots differ from those without a block")
        if self.wanted != len(wanted) or any(block.wanted != wanted[block] for block in self.blocks.values()):
            raise KernelBug("blocks are wanted by others than sleep")
        if any(not block.wanted for place, block in self.blocks.items() if place >= self.total):
            raise KernelBug("a slot holds what nobody wants")
        order = {frame: i for i, frame in enumerate([*self.cold, *self.asleep])}
        for place, block in self.blocks.items():
            front = block.parent
            if front and self.blocks.get(front.place) is not front:
                raise KernelBug("a block is behind one that was forgotten")
            if front and front.place >= self.total > place:
                raise KernelBug("a block is in a frame, and the one in front of it is not")
            if front and place in order and front.place in order and order[place] > order[front.place]:
                raise KernelBug("a frame would be evicted before one that is behind it")
