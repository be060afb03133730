"""A context: the tokens of a conversation, cut into pages, and the frames that hold the K/V of a prefix of them.

Invariants: the resident pages are consecutive spans that cover `tokens` behind the machine's preamble, except while a
burst is at work; the frame table covers exactly the first `computed` tokens, except while a tick is in flight. Ids grow
with the conversation and are never used again: a page is in `pages` or in `archived`, or it is forgotten.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from tokix.syscalls.base import from_json, to_json
from tokix.syscalls.compute import Role
from tokix.syscalls.memory import Victims

if TYPE_CHECKING:
    from tokix.kernel.burst import Burst
    from tokix.kernel.frames import Block


class Page(NamedTuple):
    """A span of tokens with one role, rendered once."""

    role: Role
    tokens: int
    pinned: bool
    #: Of an archived page, its beginning: the rest is in the store.
    text: str
    id: int
    #: The id of the first page of the message that it is a part of.
    message: int
    #: The archived page that this is a copy of, brought back by `Recall`.
    source: int | None = None
    #: The least important pages leave first, if the caller wants it so.
    importance: int = 0
    #: The region that `source` is a page of; "" is the context's own archive.
    region: str = ""
    #: When it was said, in seconds since 1970; the entry of the log that brought it, if it is in the log.
    at: float = 0.0
    born: int = -1
    #: The newest answer that was made while it was in the window. Noted of answers, and of what is in the archive; of
    #: all others it is the newest there is: see `Context.answer`.
    used: int | None = None


#: The id of the page that stands for those that have left (see `stubs`).
STUB = -1


class Advice(NamedTuple):
    """What a program has said of its memory (see `Advise`)."""

    victims: Victims = "fifo"
    stub: bool = True
    demand: float = 0.0


ADVICE = Advice()


@dataclass(slots=True, eq=False)
class Context:
    """Tokens are the truth; frames are a cache of what the machine computed from them."""

    tokens: list[int] = field(default_factory=list)
    pages: list[Page] = field(default_factory=list)
    #: What has left the window, by id.
    archived: dict[int, Page] = field(default_factory=dict)
    next_page: int = 0
    advice: Advice = ADVICE
    #: The regions that it has mapped, and whether it may append to them.
    maps: dict[str, bool] = field(default_factory=dict)
    #: The newest answer that a `Think` has made; −1 if there is none.
    answer: int = -1
    #: It has rows of its own in the store.
    filed: bool = False
    #: The first entry of the log that a replay repeats in it: the image of the process knows what was before.
    since: int = 0
    table: list[int] = field(default_factory=list)
    #: Tokens whose K/V is in the frames.
    computed: int = 0
    #: While it sleeps: what it had in frames, and how many tokens that was (see `mmu`).
    asleep: Sequence[Block] = ()
    reach: int = 0
    #: The price of all ticks when it was last used; the tokens sampled since what it has was computed.
    used: float = 0
    earned: int = 0
    #: The burst that works on it, if any; the tokens as they were, if pages have left for it.
    burst: Burst | None = None
    before: list[int] | None = None
    #: The last tick in flight that names its frames, or 0.
    flying: int = 0
    #: The table as the last row had it; None after a change.
    view: tuple[int, ...] | None = None

    @property
    def idle(self) -> bool:
        """Say whether nobody computes in it or waits for that: it has no burst, or one that is suspended."""
        return self.burst is None or (self.burst.lane < 0 and self.burst.ticket < 0)

    def twin(self) -> Context:
        """Give a copy without frames, which has nothing in the store."""
        tokens, pages, archived = self.tokens.copy(), self.pages.copy(), self.archived.copy()
        return Context(tokens, pages, archived, self.next_page, self.advice, self.maps, self.answer, since=self.since)

    def same_as(self, other: Context) -> bool:
        """Say whether the conversations are equal, in the window and out of it."""
        mine, theirs = ((c.tokens, c.pages, c.archived, c.next_page, c.advice, c.maps) for c in (self, other))
        return mine == theirs

    def image(self, since: int = 0) -> str:
        """Give the JSON from which `from_image` makes an equal context: in front of a log, or of its entry `since`."""
        if not (since or self.tokens or self.next_page or self.maps) and self.advice == ADVICE:
            return ""
        archived = list(self.archived.values())
        known = [self.tokens, self.pages, archived, self.next_page, self.advice, self.maps]
        return to_json([*known, since, self.answer] if since else known)

    @classmethod
    def from_image(cls, image: str) -> Context:
        """Make the context that `image` described; no frames."""
        if not image:
            return cls()
        tokens, pages, archived, next_page, *rest = from_json(image)
        records = {page.id: page for page in (Page(*record) for record in archived)}
        ctx = cls(tokens, [Page(*page) for page in pages], records, next_page, filed=bool(records))
        if rest:  # older images have none
            ctx.advice = Advice(*rest[0])
        if rest[1:]:
            ctx.maps = rest[1]
        if rest[2:]:
            ctx.since, ctx.answer = rest[2:]
        else:
            ctx.begin_log()
        return ctx

    def begin_log(self) -> None:
        """Note that the log which brought the pages is gone: all that is known is in the pages."""
        self.since = 0
        self.pages = [page._replace(born=-1) for page in self.pages]
        self.archived = {id: page._replace(born=-1) for id, page in self.archived.items()}
        used = (page.used for page in (*self.pages, *self.archived.values()))
        self.answer = max((id for id in used if id is not None), default=-1)
