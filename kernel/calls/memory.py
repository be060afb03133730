"""Append, Advise, Pages, Pin, Evict, Recall, Forget, Embed: the context of a process, page by page.

Pages live in the log: a replay makes them again, and moves them again (see `pager`). What a search finds is not in
memory, so `Recall` and `Embed` wait for the edge; their outcomes are in the log, and a replay does not search.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from tokix.kernel import pager, regions, spaces
from tokix.kernel.context import STUB, Advice, Page
from tokix.kernel.events import Encode, List, Search
from tokix.kernel.outcome import BLOCKED, NULL, Encoded
from tokix.kernel.pager import Plan
from tokix.kernel.ports import Only
from tokix.syscalls import (
    EAGAIN,
    EDQUOT,
    EINVAL,
    ENOENT,
    Advise,
    Append,
    Embed,
    Evict,
    Forget,
    PageInfo,
    Pages,
    Pin,
    Recall,
    Recalled,
    Restore,
)

if TYPE_CHECKING:
    from tokix.kernel.context import Context
    from tokix.kernel.kernel import Kernel
    from tokix.kernel.ports import Space
    from tokix.kernel.process import Branch, Process


#: Pages of a region that are listed at once.
LISTED = 1000


def quota(process: Process) -> int | None:
    """Give the tokens that a process may still use; None is no limit."""
    limit = process.limits.tokens
    return None if limit is None else limit - process.tokens - process.reserved


def afford(process: Process, charge: int, what: str) -> None:
    """Raise EDQUOT if pages are more than is left of the limit."""
    left = quota(process)
    if left is not None and charge > left:
        raise EDQUOT(f"{what} has {charge} tokens, {left} are left of the limit")


def own_context(k: Kernel, b: Branch) -> Context:
    """Give the context of a branch to change; raises EAGAIN while another call of a foreign process works on it."""
    ctx = k.context(b)
    if ctx.burst:
        raise EAGAIN("another call is thinking in this context")
    return ctx


def add(k: Kernel, b: Branch, ctx: Context, plan: Plan) -> None:
    """Let pages in, and others out."""
    pager.enter(k, ctx, plan)
    pager.turn(k, b, ctx, plan)
    b.proc.tokens += plan.charge


# ---- Append


def _arrival(k: Kernel, b: Branch, ctx: Context, c: Append) -> Plan:
    return pager.plan(k, b.proc, ctx, pager.message(k, b.proc, ctx, c.role, c.text, c.pinned, c.importance))


def append(k: Kernel, b: Branch, c: Append) -> int:
    ctx = own_context(k, b)
    if c.region:
        return share(k, b, ctx, c)
    id, plan = ctx.next_page, _arrival(k, b, ctx, c)
    afford(b.proc, plan.charge, "the page")
    add(k, b, ctx, plan)
    return id


def share(k: Kernel, b: Branch, ctx: Context, c: Append) -> int:
    """Add a message to a region, at the price that it would have in a window."""
    if c.pinned or c.importance:
        raise EINVAL("pinned and importance are about a window, and a region has none")
    region = regions.mapped(k, ctx, c.region, append=True)
    cut = regions.pieces(k, b.proc, c.role, c.text)
    charge = sum(tokens for _, tokens in cut)
    afford(b.proc, charge, "the page")
    b.proc.tokens += charge
    return regions.append(k, region, c.role, cut)


def redo_append(k: Kernel, b: Branch, c: Append, value: int) -> None:
    ctx = k.context(b)
    if c.region:
        b.proc.tokens += sum(tokens for _, tokens in regions.pieces(k, b.proc, c.role, c.text))
        return
    add(k, b, ctx, _arrival(k, b, ctx, c))


# ---- Advise


def advise(k: Kernel, b: Branch, c: Advise) -> Encoded:
    own_context(k, b)
    redo_advise(k, b, c, None)
    return NULL


def redo_advise(k: Kernel, b: Branch, c: Advise, value: None) -> None:
    ctx = k.context(b)
    said = {"victims": c.victims, "stub": c.stub, "demand": c.demand}
    ctx.advice = Advice(
        **{**ctx.advice._asdict(), **{name: value for name, value in said.items() if value is not None}}
    )
    if not ctx.advice.stub:
        pager.strike(k, b, ctx, set())


# ---- Pages, Pin, Evict


def pages(k: Kernel, b: Branch, c: Pages) -> object:
    if c.region:
        if c.pid is not None:
            raise EINVAL("a region is no page table of a process: name the region or the pid")
        region = regions.mapped(k, k.context(b), c.region)
        k.invoked[b.key] = b
        k.effects.append(List(b.key, region.space, c.start, LISTED))
        return BLOCKED
    ctx = _context_of(k, b, c.pid)
    starts, answer = _starts(k, ctx), ctx.answer
    return [
        PageInfo(
            id=page.id,
            role=page.role,
            tokens=page.tokens,
            pinned=page.pinned,
            text=page.text,
            resident=page.id in starts,
            start=starts.get(page.id),
            message=page.message,
            recalled=page.source,
            importance=page.importance,
            region=page.region,
            at=page.at,
            born=page.born if page.born >= 0 else None,
            used=answer if page.id in starts and STUB != page.id <= answer else page.used,
        )
        for page in sorted((*ctx.archived.values(), *ctx.pages), key=lambda page: page.id)
    ]


def pages_of_region(k: Kernel, b: Branch, rows: Iterable[tuple[Any, ...]]) -> list[PageInfo]:
    """Describe the pages of a region that the store had, and that are still there."""
    region = regions.get(k, b.call.region)
    return [
        PageInfo(
            id=id,
            role=role,
            tokens=tokens,
            pinned=False,
            text=pager.beginning(text),
            resident=False,
            message=message,
            region=b.call.region,
            at=at,
        )
        for id, message, role, tokens, at, text in rows
        if region.has(id)
    ]


def _starts(k: Kernel, ctx: Context) -> dict[int, int]:
    """Say where each page of a window begins, by id."""
    starts, at = {}, len(k.machine.preamble())
    for page in ctx.pages:
        starts[page.id] = at
        at += page.tokens
    return starts


def _context_of(k: Kernel, b: Branch, pid: int | None) -> Context:
    """Give the context of a branch, or of another process; raises ESRCH."""
    return k.context(b if pid is None else root(k, pid))


def root(k: Kernel, pid: int) -> Branch:
    process = k.living(pid)
    assert process.root
    return process.root


def _named(pages: Iterable[Page], id: int) -> list[Page]:
    """Give the page of an id, or all of the message that it names."""
    return [page for page in pages if id in (page.id, page.message) and id != STUB]


def pin(k: Kernel, b: Branch, c: Pin) -> Encoded:
    ctx = own_context(k, b)
    if not _named(ctx.pages, c.page):
        gone = _named(ctx.archived.values(), c.page)
        raise ENOENT(f"page {c.page} has left the window: bring it back with Recall" if gone else f"page {c.page}")
    redo_pin(k, b, c, None)
    return NULL


def redo_pin(k: Kernel, b: Branch, c: Pin, value: None) -> None:
    ctx = k.context(b)
    ctx.pages = [page._replace(pinned=c.pinned) if c.page in (page.id, page.message) else page for page in ctx.pages]


def evict(k: Kernel, b: Branch, c: Evict) -> Encoded:
    ctx = own_context(k, b)
    for id in c.pages:
        found = _named(ctx.pages, id)
        if not found and not _named(ctx.archived.values(), id):
            raise ENOENT(f"page {id}")
        if pinned := [page.id for page in found if page.pinned]:
            raise EINVAL(f"page {pinned[0]} is pinned: unpin it first")
    redo_evict(k, b, c, None)
    return NULL


def redo_evict(k: Kernel, b: Branch, c: Evict, value: None) -> None:
    ctx = k.context(b)
    pager.move_out(k, b, ctx, {page.id for id in c.pages for page in _named(ctx.pages, id)})


# ---- Forget


def forget(k: Kernel, b: Branch, c: Forget) -> Encoded:
    if c.region:
        region = regions.get(k, c.region)
        if not region.first <= c.page < region.next_page:
            raise ENOENT(f"page {c.page} of the region {c.region}")
        regions.erase(k, region, c.page)
        return NULL
    if b is not b.proc.root and not b.proc.foreign:
        raise EINVAL("forget works in the root branch of a program only: a branch has a copy of the context")
    ctx = own_context(k, b)
    named = _named((*ctx.pages, *ctx.archived.values()), c.page)
    if not named:
        raise ENOENT(f"page {c.page}")
    pid, space = spaces.space(b)
    bury(k, b.proc, named)
    for page in redo_forget(k, b, c, None):
        k.erase("page", (pid, space, page.id))
        k.erase("vector", (pid, space, page.id))
    imaged = any(page.born < ctx.since and page.source is None for page in named)
    if imaged and not b.proc.foreign:
        start_over(k, b.proc, ctx)
    return NULL


def bury(k: Kernel, process: Process, pages: list[Page]) -> None:
    """Leave digests in the journal, where it has the texts of pages as arguments.

    Not of a foreign process: its context is made again from them. They go when it has ended.
    """
    for born in {page.born for page in pages if page.source is None and page.born >= 0}:
        entry = process.log[born]
        said = entry.call.startswith("append") or any(p.born == born and p.role == "user" for p in pages)
        if said and not process.foreign:
            process.log[born] = entry.bury()
            k.journal(process, process.log[born])


def start_over(k: Kernel, process: Process, ctx: Context) -> None:
    """Let a replay begin with the context as it is after this call: an older image has the text that is forgotten.

    So has that of a file, in the outcome of its `Restore`. The caller is the root branch: no other has a context now,
    and those that there were before are not asked for again.
    """
    pager.forget_windows(k, process)
    ctx.since = len(process.log) + 1
    process.image, process.base = ctx.image(ctx.since), process.tokens
    k.save(process)
    for entry in process.log:
        if entry.ok and entry.call.startswith("restore"):
            value = Restore.reply.validate_json(entry.value).model_copy(update={"image": ""})
            process.log[entry.seq] = entry._replace(value=Restore.reply.dump_json(value).decode())
            k.journal(process, process.log[entry.seq])


def redo_forget(k: Kernel, b: Branch, c: Forget, value: None) -> list[Page]:
    """Forget a page or message and its copies; gives what was in the archive."""
    if c.region:
        return []
    ctx = k.context(b)
    archived = _named(ctx.archived.values(), c.page)
    gone = {page.id for page in (*archived, *_named(ctx.pages, c.page))}
    gone |= {page.id for page in ctx.pages if page.source in gone and not page.region}
    for page in archived:
        del ctx.archived[page.id]
    pager.strike(k, b, ctx, gone)
    return archived


# ---- Recall, Embed


def recall(k: Kernel, b: Branch, c: Recall) -> object:
    if c.load and c.pid is not None:
        raise EINVAL("load brings back pages of the caller: what is found in another process can be given to Append")
    if c.load:
        own_context(k, b)
    if c.pid is not None and c.region:
        raise EINVAL("a region belongs to no process: name the region or the pid")
    where = looked_into(k, b, c)
    if not where:
        return []
    only = Only(tuple(c.roles), c.since, c.until)
    k.invoked[b.key] = b
    k.effects.append(Search(b.key, where, c.query, c.k, c.how, only))
    return BLOCKED


def looked_into(k: Kernel, b: Branch, c: Recall) -> tuple[Space, ...]:
    """Give the spaces that a Recall searches; none if there is nothing in them."""
    ctx = _context_of(k, b, c.pid)
    if c.region:
        return (regions.mapped(k, ctx, c.region).space,)
    if c.pid is not None:
        return spaces.seen(root(k, c.pid)) if ctx.archived else ()
    return spaces.searched(k, b) if ctx.archived or ctx.maps else ()


def recalled(k: Kernel, b: Branch, found: list[dict[str, Any]]) -> list[Recalled]:
    """Complete a Recall with what the edge has found: pages that are still there, within the budget."""
    c: Recall = b.call
    where = _context_of(k, b, c.pid)
    left, chosen = _budget(b.proc, c), []
    for page in [Recalled(**page) for page in found]:
        if spaces.there(k, where, page) and page.tokens <= left:
            left -= page.tokens
            chosen.append(page)
    if c.load:
        ctx = own_context(k, b)
        plan = _return(k, b, ctx, chosen)
        afford(b.proc, plan.charge, "what was found")
        add(k, b, ctx, plan)
    return chosen


def _budget(process: Process, c: Recall) -> int:
    return min(c.budget, process.window // 4) if c.load else c.budget


def _return(k: Kernel, b: Branch, ctx: Context, found: list[Recalled]) -> Plan:
    """Plan to let found pages in, as copies, in the order of the conversation; not those that are there already."""
    fresh = pager.copies(k, ctx, found)
    return pager.plan(k, b.proc, ctx, fresh) if fresh else Plan([], set())


def redo_recall(k: Kernel, b: Branch, c: Recall, value: list[Recalled]) -> None:
    if c.load:
        ctx = k.context(b)
        add(k, b, ctx, _return(k, b, ctx, value))


def embed(k: Kernel, b: Branch, c: Embed) -> object:
    if not c.texts:
        return []
    k.invoked[b.key] = b
    k.effects.append(Encode(b.key, c.texts))
    return BLOCKED


def withdraw(k: Kernel, b: Branch) -> None:
    k.invoked.pop(b.key, None)


HANDLERS = {
    Append: append,
    Advise: advise,
    Pages: pages,
    Pin: pin,
    Evict: evict,
    Recall: recall,
    Forget: forget,
    Embed: embed,
}
WITHDRAW = {Recall: withdraw, Embed: withdraw, Pages: withdraw}
REDO = {
    Append: redo_append,
    Advise: redo_advise,
    Pin: redo_pin,
    Evict: redo_evict,
    Forget: redo_forget,
    Recall: redo_recall,
}
