"""Append, Pages and Pin: the context of a process, page by page. Pages live in the log: a replay makes them again."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tokix.kernel.context import Page
from tokix.kernel.outcome import NULL, Encoded
from tokix.syscalls import EAGAIN, EDQUOT, ENOENT, ENOMEM, Append, PageInfo, Pages, Pin

if TYPE_CHECKING:
    from tokix.kernel.context import Context
    from tokix.kernel.kernel import Kernel
    from tokix.kernel.process import Branch, Process


def quota(process: Process) -> int | None:
    """Give the tokens that a process may still use; None is no limit."""
    limit = process.limits.tokens
    return None if limit is None else limit - process.tokens - process.reserved


def own_context(k: Kernel, b: Branch) -> Context:
    """Give the context of a branch to change; raises EAGAIN while another call of a foreign process works on it."""
    ctx = k.context(b)
    if ctx.burst:
        raise EAGAIN("another call is thinking in this context")
    return ctx


def append(k: Kernel, b: Branch, c: Append) -> int:
    ctx = own_context(k, b)
    tokens = k.machine.render(c.role, c.text)
    room = k.capacity - len(ctx.tokens)
    if len(tokens) > room:
        raise ENOMEM(f"the page has {len(tokens)} tokens, the window has room for {room}")
    left = quota(b.proc)
    if left is not None and len(tokens) > left:
        raise EDQUOT(f"the page has {len(tokens)} tokens, {left} are left of the limit")
    add_page(b.proc, ctx, c, tokens)
    return len(ctx.pages) - 1


def add_page(process: Process, ctx: Context, c: Append, tokens: list[int]) -> None:
    ctx.tokens += tokens
    ctx.pages.append(Page(c.role, len(tokens), c.pinned, c.text))
    process.tokens += len(tokens)


def redo_append(k: Kernel, b: Branch, c: Append, value: int) -> None:
    add_page(b.proc, k.context(b), c, k.machine.render(c.role, c.text))


def pages(k: Kernel, b: Branch, c: Pages) -> list[PageInfo]:
    return [
        PageInfo(id=i, role=page.role, tokens=page.tokens, pinned=page.pinned, text=page.text)
        for i, page in enumerate(k.context(b).pages)
    ]


def pin(k: Kernel, b: Branch, c: Pin) -> Encoded:
    if not 0 <= c.page < len(k.context(b).pages):
        raise ENOENT(f"page {c.page}")
    redo_pin(k, b, c, None)
    return NULL


def redo_pin(k: Kernel, b: Branch, c: Pin, value: None) -> None:
    pages = k.context(b).pages
    pages[c.page] = pages[c.page]._replace(pinned=c.pinned)


HANDLERS = {Append: append, Pages: pages, Pin: pin}
REDO = {Append: redo_append, Pin: redo_pin}
