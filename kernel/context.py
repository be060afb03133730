"""A context: the tokens of a conversation, cut into pages, and the frames that hold the K/V of a prefix of them.

Invariants: the pages are consecutive spans that cover `tokens`, except while a burst is at work on the tail; the frame
table covers exactly the first `computed` tokens, except while a tick is in flight.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from tokix.syscalls.base import from_json, to_json

if TYPE_CHECKING:
    from tokix.kernel.scheduler import Burst
    from tokix.syscalls.compute import Role


class Page(NamedTuple):
    """A span of tokens with one role, rendered once."""

    role: Role
    tokens: int
    pinned: bool
    text: str


@dataclass(slots=True, eq=False)
class Context:
    """Tokens are the truth; frames are a cache of what the machine computed from them."""

    tokens: list[int] = field(default_factory=list)
    pages: list[Page] = field(default_factory=list)
    table: list[int] = field(default_factory=list)
    #: Tokens whose K/V is in the frames.
    computed: int = 0
    #: The burst that works on it, if any.
    burst: Burst | None = None
    #: A tick in flight names its frames.
    flying: bool = False
    #: The table as the last row had it; None after a change.
    view: tuple[int, ...] | None = None

    def image(self) -> str:
        """Give the JSON from which `from_image` makes an equal context."""
        return to_json([self.tokens, self.pages]) if self.tokens else ""

    @classmethod
    def from_image(cls, image: str) -> Context:
        """Make the context that `image` described; no frames."""
        if not image:
            return cls()
        tokens, pages = from_json(image)
        return cls(tokens, [Page(*page) for page in pages])
