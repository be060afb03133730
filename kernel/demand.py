"""Demand paging: what a `Think` is about comes back into the window before it.

Where a program has advised it, pages of the archive are looked for by the prompt, and copies of those that fit come in
front of it, as with `Recall`: marked, never stored again, and not twice. All copies together have a part of the window;
where it is full, those go that were not found again. What came back is in the outcome, so a replay does not search, and
in the note of the call, so that a burst that a restart has cut off goes on behind the same pages.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tokix.kernel import spaces
from tokix.kernel.events import Search
from tokix.kernel.outcome import BLOCKED

if TYPE_CHECKING:
    from tokix.kernel.context import Context
    from tokix.kernel.kernel import Kernel
    from tokix.kernel.pager import Fresh
    from tokix.kernel.process import Branch, Process
    from tokix.syscalls import Recalled, Think

#: How many pages are looked for, of which those come back that fit.
MANY = 8


def due(k: Kernel, b: Branch, c: Think, ctx: Context) -> bool:
    """Say whether pages have to be looked for; not for a burst that had begun before a restart."""
    return c.messages is None and ctx.advice.demand > 0 and bool(ctx.archived or ctx.maps) and not b.noted


def ask(k: Kernel, b: Branch, c: Think, ctx: Context) -> object:
    """Look for pages by the prompt, or by the last page of the user."""
    last = next((page.text for page in reversed(ctx.pages) if page.role == "user" and page.source is None), "")
    k.invoked[b.key] = b
    k.effects.append(Search(b.key, spaces.searched(k, b), last if c.prompt is None else c.prompt, MANY))
    return BLOCKED


def chosen(k: Kernel, process: Process, ctx: Context, found: list[Recalled]) -> list[Recalled]:
    """Give the best of what was found that is still there, as many as there is room for."""
    left, best = int(ctx.advice.demand * process.window), []
    for page in found:
        if spaces.there(k, ctx, page) and page.tokens <= left:
            left -= page.tokens
            best.append(page)
    return best


def stale(process: Process, ctx: Context, recalled: list[Recalled], fresh: list[Fresh]) -> set[int]:
    """Give the copies that make room for better ones: the oldest first."""
    if not fresh:
        return set()
    wanted = {(page.region, page.id) for page in recalled}
    copies = [page for page in ctx.pages if page.source is not None]
    more = sum(page.tokens for page in (*copies, *(page for page, _ in fresh))) - int(
        ctx.advice.demand * process.window
    )
    gone = set()
    for page in copies:
        if more > 0 and (page.region, page.source) not in wanted and not page.pinned:
            gone.add(page.id)
            more -= page.tokens
    return gone
