"""The stub: what stands in a window for the pages that have left it.

It is a page of its own, behind what never leaves and in front of all else: how many pages are gone, and how some of
them begin, so that a model knows what it could ask for. It is extractive, so nothing in it is made up, and bounded, so
it never grows. It is made anew whenever pages leave by themselves, for all behind the cut has to be computed again
anyway, and when one is forgotten; not for pages that a program moves out, which knows what it has moved.

Invariant: a stub is a function of the archive's records at that time. So a replay makes the same one, and what was
forgotten is not in it. Other words here would have another length, and let the replay of an older log move other pages.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from tokix.kernel.context import STUB, Page

if TYPE_CHECKING:
    from tokix.kernel.ports import Vocabulary

#: The most tokens of a stub, and the part of the window that it may have.
MOST, PART = 128, 16
#: Of so many pages that left last the beginnings are chosen, so that a long archive costs no more than a short one.
LATEST = 256


def stub(machine: Vocabulary, count: int, latest: Iterable[Page], window: int) -> tuple[Page, list[int]] | None:
    """Make the stub of so many pages; gives it with its tokens. None if the window is too small.

    The beginnings are those of the latest messages, the user's first, in the order of the conversation.
    """
    messages = {page.message: page for page in sorted(latest, key=lambda page: page.id, reverse=True)}
    limit = min(MOST, window // PART)
    chosen: list[int] = []
    best = None
    for id in sorted(messages, key=lambda id: (messages[id].role != "user", -id)):
        text = "\n".join([_head(count), *(_line(messages[i]) for i in sorted([*chosen, id]))])
        tokens = machine.render("system", text)
        if len(tokens) > limit:
            break
        chosen.append(id)
        best = Page("system", len(tokens), False, text, STUB, STUB), tokens
    return best


def _head(count: int) -> str:
    return f"In the archive: {count} pages. Some begin:"


def _line(page: Page) -> str:
    return f"- {page.role}: {' '.join(page.text.split())}"


def place(pages: list[Page]) -> int:
    """Give where the stub belongs: behind the pages at the beginning that never leave."""
    return next((at for at, page in enumerate(pages) if not (page.pinned or page.role == "system")), len(pages))
