"""A burst: one `Think` in flight, with what the scheduler and its policy note of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tokix.kernel.family import Family, Usage

if TYPE_CHECKING:
    from tokix.kernel.context import Context
    from tokix.kernel.events import Sampling


@dataclass(slots=True, eq=False)
class Burst:
    """One `Think` in flight: it extends the tokens of a context until `end`."""

    key: str
    #: Whoever awaits it; a new burst of the same owner may keep the lane of the last.
    owner: Any
    ctx: Context
    sampling: Sampling
    nice: int
    #: Tokens of the context before the burst: what a failure restores.
    base: int
    #: Tokens of the context in front of the first generated one.
    prompt: int
    #: The length of the context at which it ends.
    end: int
    #: Every token is reported: somebody reads along, or waits for a stop string.
    watched: bool = False
    #: Its tokens are read while they come.
    read: bool = False
    #: Who pays for it, and what other bursts of its program were like.
    family: Family = field(default_factory=Family)
    usage: Usage = field(default_factory=Usage)
    #: Tokens that had to be computed before the first one when it came; what its policy has noted (see `policy`).
    head: int = 0
    level: int = 0
    #: When it got its lane, and what its group had been served then; what this turn was charged, and has cost so far.
    seated: int = 0
    start: float = 0.0
    charged: float = 0.0
    cost: float = 0.0
    #: When it came, when it last joined the queue, and its place there (see `policy`).
    arrival: int = 0
    since: int = 0
    turn: int = 0
    #: Tokens sampled in this turn.
    used: int = 0
    #: Its class while it runs; its lane, or −1; its valid place in the heap, or −1.
    rank: int = 0
    lane: int = -1
    #: The lane that it had last; what had been let go of when it got no frames (see `Mmu.released`).
    home: int = -1
    starved: int = -1
    ticket: int = -1
    alive: bool = True
    #: What the text side keeps (see `compute`).
    text: Any = None

    @property
    def generated(self) -> int:
        """Give the number of tokens generated so far."""
        return len(self.ctx.tokens) - self.prompt
