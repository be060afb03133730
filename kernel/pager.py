"""The pager: what is in the window, and what has left it for the archive.

A message is a page while it is short beside the window; a longer one is cut into pages, each a message of its own with
the same role. When a call would fill the window above the high-water mark, pages leave (see `victims`) until it is at
the low-water mark: in bulk, because whatever is behind the cut has to be computed again, so that a token costs about
LOW / (HIGH − LOW) = 2 tokens of prefill, however long the conversation. A message that is larger than the window is no
special case: its own first pages leave, too. A window is laid out as what never leaves, the stub of what has left (see
`stubs`), the conversation, and copies of pages that were recalled, where they came.

Invariants:
1. The window is never exceeded, and nothing that leaves it is lost: the rows of a page are committed with the outcome
   of the call that made it leave. A call that fails has moved nothing.
2. What is where is a function of the log and of the windows that the process has had, so a replay moves the same pages
   and writes no rows. `Process.windows` notes at which entry of the log another machine took over.
3. A page in the archive has at most PAGE tokens, for that is what a search finds and a `Recall` brings back.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

from tokix.kernel import spaces
from tokix.kernel.context import STUB, Context, Page
from tokix.kernel.cutting import cut, longest
from tokix.kernel.errors import KernelBug
from tokix.kernel.stubs import LATEST, MOST, PART, place, stub
from tokix.kernel.victims import victims
from tokix.syscalls import ENOMEM
from tokix.syscalls.base import from_json, to_json

if TYPE_CHECKING:
    from tokix.kernel.kernel import Kernel
    from tokix.kernel.process import Branch, Process
    from tokix.syscalls import Recalled, Role

#: Parts of the window: pages leave when more than HIGH would be used, until no more than LOW is.
HIGH, LOW = 0.9, 0.6
#: Characters of an archived page that stay in memory.
SHOWN = 60


class Fresh(NamedTuple):
    """A page that comes into a window, with its tokens."""

    page: Page
    tokens: list[int]


@dataclass(slots=True)
class Plan:
    """What a call does to a window: pages that it brings, ids of those that leave, old and new, and their stub."""

    fresh: list[Fresh]
    out: set[int]
    stub: Fresh | None = None

    @property
    def charge(self) -> int:
        """Give the tokens that the process pays for."""
        return sum(len(tokens) for _, tokens in self.fresh)

    def taken(self, ctx: Context) -> int:
        """Count the tokens that leave a context, without those of the stub that comes."""
        gone = sum(page.tokens for page in ctx.pages if page.id in self.out) if self.out else 0
        return gone - (self.stub.page.tokens if self.stub else 0)


def message(
    k: Kernel,
    process: Process,
    ctx: Context,
    role: Role,
    text: str,
    pinned: bool = False,
    importance: int = 0,
    behind: int = 0,
) -> list[Fresh]:
    """Make the pages of a message: one if it is short beside the window, for a model reads a whole message best.

    It comes behind so many other pages that are new.
    """
    limit = longest(process.window)
    tokens = k.machine.render(role, text)
    whole = len(tokens) <= max(limit, process.window // 4)
    pieces = [(text, tokens)] if whole else cut(k.machine, role, text, limit)
    first = ctx.next_page + behind
    return [
        Fresh(Page(role, len(tokens), pinned, piece, first + number, first, None, importance), tokens)
        for number, (piece, tokens) in enumerate(pieces)
    ]


def copies(k: Kernel, ctx: Context, found: list[Recalled]) -> list[Fresh]:
    """Make copies of archived pages, in the order of the conversation; not of those that are there already."""
    here = {(page.region, page.source) for page in ctx.pages}
    wanted = [page for page in found if (page.region, page.id) not in here]
    wanted.sort(key=lambda page: (not page.region, page.region, page.id))  # what is shared goes first
    rendered = [(page, k.machine.render(page.role, page.text)) for page in wanted]
    return [
        Fresh(Page(page.role, len(tokens), False, page.text, id, id, page.id, 0, page.region, page.at), tokens)
        for id, (page, tokens) in enumerate(rendered, ctx.next_page)
    ]


# ---- making room


def plan(
    k: Kernel,
    process: Process,
    ctx: Context,
    fresh: list[Fresh],
    *,
    more: int = 0,
    room: int = 0,
    least: int = 0,
    out: Iterable[int] = (),
) -> Plan:
    """Choose what leaves, beside `out`, so that `fresh` pages and `more` tokens come in and at least `room` is left.

    `room` is a wish, for which pages leave as far as the low-water mark allows; `least` is what there has to be. Raises
    ENOMEM.
    """
    window = process.window
    high = min(int(HIGH * window), window - min(room, window - int(LOW * window)))
    chosen = Plan(fresh, set(out))
    pages = [page for page in (*ctx.pages, *(page for page, _ in fresh)) if page.id not in chosen.out]
    total = len(ctx.tokens) - chosen.taken(ctx) + sum(len(tokens) for _, tokens in fresh) + more
    if total > high or total + least > window:
        low = min(int(high * LOW / HIGH), window - least)
        gone = choose(ctx, pages, window, total - low)
        chosen.out |= gone
        total -= sum(page.tokens for page in pages if page.id in gone)
        chosen.stub = stub_for(k, ctx, pages, chosen.out, window, window - total - least)
        if chosen.stub:
            total += chosen.stub.page.tokens
    if total + least > window:
        raise ENOMEM(
            f"{total + least} tokens are needed, the window has {window}; "
            "pinned pages, system pages and the last user page do not leave it: unpin or forget some"
        )
    return chosen


def choose(ctx: Context, pages: list[Page], window: int, count: int) -> set[int]:
    """Choose pages that leave, so that so many tokens are free then, and what a stub of them takes."""
    out: set[int] = set()
    for group in victims(pages, ctx.advice.victims):
        if count <= 0:
            break
        if not out:  # there will be another stub
            count += min(MOST, window // PART) if ctx.advice.stub else 0
            count -= sum(page.tokens for page in pages if page.id == STUB)
            out.add(STUB)
        out |= {page.id for page in group}
        count -= sum(page.tokens for page in group)
    return out


def stub_for(k: Kernel, ctx: Context, pages: list[Page], out: set[int], window: int, room: int) -> Fresh | None:
    """Make the stub of what is in the archive and of what leaves, if there is room for one."""
    if STUB not in out or not ctx.advice.stub:
        return None
    count, latest = len(ctx.archived), [*islice(reversed(ctx.archived.values()), LATEST)]
    for page in pages:
        if page.id in out and page.id != STUB and page.source is None:
            pieces = [text for text, _ in cut(k.machine, page.role, page.text, longest(window))]
            latest.append(page._replace(text=beginning(pieces[0])))
            count += len(pieces)
    made = stub(k.machine, count, latest, window)
    return Fresh(*made) if made and len(made[1]) <= room else None


def beginning(text: str) -> str:
    """Give what is left in memory of the text of an archived page."""
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"


# ---- moving pages


def enter(k: Kernel, ctx: Context, plan: Plan) -> None:
    """Take the tokens of pages that leave out of the window, and put those of new pages in."""
    take_out(k, ctx, plan)
    for page, tokens in plan.fresh:
        if page.id not in plan.out:
            ctx.tokens += tokens


def take_out(k: Kernel, ctx: Context, plan: Plan) -> None:
    """Take tokens out of the window, and put in those of the stub; frames behind the first change are of no use."""
    if not plan.out:
        return
    at = len(ctx.tokens) - sum(page.tokens for page in ctx.pages)
    pages, parts = [], [ctx.tokens[:at]]
    for page in ctx.pages:
        if page.id not in plan.out:
            pages.append(page)
            parts.append(ctx.tokens[at : at + page.tokens])
        at += page.tokens
    if plan.stub:
        parts.insert(1 + place(pages), plan.stub.tokens)
    tokens = [token for part in parts for token in part]
    same = next((i for i, (a, b) in enumerate(zip(ctx.tokens, tokens, strict=False)) if a != b), len(tokens))
    k.scheduler.mmu.trim(ctx, min(ctx.computed, same))
    ctx.tokens[:] = tokens


def turn(k: Kernel, b: Branch, ctx: Context, plan: Plan) -> None:
    """Turn the pages over, whose tokens have moved: what is new is said now, what leaves goes to the archive."""
    ctx.next_page += len(plan.fresh)
    at, born = b.proc.moment(k.now)
    fresh = [page if page.source is not None else page._replace(at=at, born=born) for page, _ in plan.fresh]
    before, answer = ctx.pages, ctx.answer
    ctx.pages = staying(ctx, plan) + [page for page in fresh if page.id not in plan.out]
    tally(k, b.proc, came=sum(page.source is not None and page.id not in plan.out for page in fresh))
    for page in [*before, *fresh] if plan.out else ():
        if page.id in plan.out and page.id != STUB:
            archive(k, b, ctx, page._replace(used=answer if page.id <= answer else None))


def staying(ctx: Context, plan: Plan) -> list[Page]:
    """Give the pages of a context that stay, with the stub of the others."""
    pages = [page for page in ctx.pages if page.id not in plan.out]
    if plan.stub:
        pages.insert(place(pages), plan.stub.page)
    return pages


def tally(k: Kernel, process: Process, came: int = 0, left: int = 0) -> None:
    """Count pages that came back into a window and pages that left one, for reports; a replay moves no others."""
    if not process.replaying:
        for counters in (process, k.scheduler.mmu.counters):
            counters.faults += came
            counters.evictions += left


def archive(k: Kernel, b: Branch, ctx: Context, page: Page) -> None:
    """File a page that has left the window, in pieces if it is long; a copy is in the archive already."""
    process = b.proc
    tally(k, process, left=1)
    if k.probes:
        k.probe("evict", process.pid, f"page {page.id}, {page.tokens} tokens")
    if page.source is not None:
        if page.used is not None and page.source in ctx.archived and not page.region:
            ctx.archived[page.source] = ctx.archived[page.source]._replace(used=page.used)
        return
    pid, name = spaces.space(b)
    for number, (text, tokens) in enumerate(cut(k.machine, page.role, page.text, longest(process.window))):
        id = page.id
        if number:
            id, ctx.next_page = ctx.next_page, ctx.next_page + 1
        ctx.archived[id] = page._replace(tokens=len(tokens), pinned=False, text=beginning(text), id=id, importance=0)
        if not process.replaying:
            row = (pid, name, id, page.message, page.role, len(tokens), page.at, text)
            k.insert("page", row[:3], row)
    ctx.filed = True


def restore(k: Kernel, ctx: Context) -> None:
    """Put the tokens back that had left for a burst which came to nothing."""
    if ctx.before is not None:
        before, ctx.before = ctx.before, None
        same = next((i for i, (a, b) in enumerate(zip(before, ctx.tokens, strict=False)) if a != b), len(ctx.tokens))
        k.scheduler.mmu.trim(ctx, min(ctx.computed, same))
        ctx.tokens[:] = before


# ---- another machine, another window


def note(process: Process) -> str:
    """Name the row of the table `kernel` that holds the windows of a process which has had several."""
    return f"window:{process.pid}"


def forget_windows(k: Kernel, process: Process) -> None:
    """The log begins anew, or is over."""
    if process.resized:
        k.erase("kernel", (note(process),))
    process.resized, process.windows, process.window = False, [(0, k.capacity)], k.capacity


def save_windows(k: Kernel, process: Process) -> None:
    """Write the row of a process that was not always at home in the window of the table `kernel`."""
    process.resized = True
    k.put("kernel", (note(process),), (note(process), to_json(process.windows)))


def load_windows(k: Kernel, process: Process, meta: dict[str, str]) -> None:
    """Learn which windows a process has had."""
    text = meta.get(note(process))
    process.resized = text is not None
    usual = int(meta.get("window", k.capacity))
    process.windows = [(at, size) for at, size in from_json(text)] if text else [(0, usual)]
    process.window = process.windows[0][1]


def resize(k: Kernel, process: Process, seq: int) -> None:
    """Before entry `seq` of a replay: let the window be the one of that time."""
    for at, window in process.windows[1:]:
        if at == seq:
            fit(k, process, window)


def inherit_windows(k: Kernel, parent: Process, child: Process) -> None:
    """The log of a child is its parent's, and so are the windows that were there while it was written."""
    child.windows = parent.windows.copy()
    child.window = child.windows[0][1]
    if parent.resized:
        save_windows(k, child)


def adopt(k: Kernel, process: Process) -> None:
    """After a replay: live with the window of this machine. Who is parked has not come to the end of its log."""
    if process.parked and not process.resized:
        save_windows(k, process)
    elif not process.parked and process.window != k.capacity:
        process.windows.append((len(process.log), k.capacity))
        save_windows(k, process)
        fit(k, process, k.capacity)


def fit(k: Kernel, process: Process, window: int) -> None:
    """Give all contexts of a process another window; pages that do not fit leave, as far as they may."""
    process.window = window
    for b in process.branches.values():
        if b.ctx and len(b.ctx.tokens) > window and not (process.foreign and b.parent):
            move_out(k, b, b.ctx, overflow(b.ctx, window))


def overflow(ctx: Context, window: int) -> set[int]:
    """Choose what leaves a context that is too large."""
    return choose(ctx, ctx.pages, window, len(ctx.tokens) - int(LOW * window))


def move_out(k: Kernel, b: Branch, ctx: Context, out: set[int]) -> None:
    """Let resident pages leave; there is another stub if the old one is among them."""
    window = b.proc.window
    left = window - len(ctx.tokens) + sum(page.tokens for page in ctx.pages if page.id in out)
    leaving = Plan([], out, stub_for(k, ctx, ctx.pages, out, window, left))
    enter(k, ctx, leaving)
    turn(k, b, ctx, leaving)


def strike(k: Kernel, b: Branch, ctx: Context, gone: set[int]) -> None:
    """Take pages out of the window for good; if there is a stub, it has what is in the archive now."""
    out = gone | {page.id for page in ctx.pages if page.id == STUB}
    left = b.proc.window - len(ctx.tokens) + sum(page.tokens for page in ctx.pages if page.id in out)
    struck = Plan([], out, stub_for(k, ctx, [], out, b.proc.window, left))
    take_out(k, ctx, struck)
    ctx.pages = staying(ctx, struck)


# ---- integrity


def check(k: Kernel) -> None:
    """Raise KernelBug if an invariant does not hold."""
    for process in k.procs.values():
        for b in process.branches.values():
            if b.ctx and not b.ctx.burst:
                check_context(k, b.ctx)


def check_context(k: Kernel, ctx: Context) -> None:
    ids = [page.id for page in ctx.pages if page.id != STUB]
    if len(ctx.pages) - len(ids) > 1:
        raise KernelBug("a context has two stubs")
    if sum(page.tokens for page in ctx.pages) != len(ctx.tokens) - len(k.machine.preamble()):
        raise KernelBug("the pages of a context do not cover its tokens")
    if ids != sorted(set(ids)) or not ctx.archived.keys().isdisjoint(ids):
        raise KernelBug("a page is in two places")
    if max([*ids, *ctx.archived], default=-1) >= ctx.next_page:
        raise KernelBug("the id of a page could be used again")
    if ctx.before is not None:
        raise KernelBug("pages were put aside for a burst that is not there")
