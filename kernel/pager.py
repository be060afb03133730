"""The pager: what is in the window, and what has left it for the archive.

A message is a page while it is short beside the window; a longer one is cut into pages, each a message of its own with
the same role. When a call would fill the window above the high-water mark, the oldest pages leave until it is at the
low-water mark: in bulk, because whatever is behind the cut has to be computed again, so that a token costs about
LOW / (HIGH − LOW) = 2 tokens of prefill, however long the conversation. Pinned pages, system pages, the last user page
and the last page stay. A message that is larger than the window is no special case: of its pages too, the oldest leave.

Invariants:
1. The window is never exceeded, and nothing that leaves it is lost: the rows of a page are committed with the outcome
   of the call that made it leave. A call that fails has moved nothing.
2. What is where is a function of the log and of the windows that the process has had, so a replay moves the same pages
   and writes no rows. `Process.windows` notes at which entry of the log another machine took over.
3. A page in the archive has at most PAGE tokens, for that is what a search finds and a `Recall` brings back. It belongs
   to a space, (pid, space): "" for the process's own context, the name of the branch for a branch's fork. A branch sees
   the spaces around it, and its own goes with it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from tokix.kernel.context import Context, Page
from tokix.kernel.errors import KernelBug
from tokix.kernel.ports import ARCHIVE, TABLES
from tokix.syscalls import ENOMEM
from tokix.syscalls.base import from_json, to_json

if TYPE_CHECKING:
    from tokix.kernel.kernel import Kernel
    from tokix.kernel.ports import Vocabulary
    from tokix.kernel.process import Branch, Process
    from tokix.syscalls import Role

#: The most tokens of a page in the archive.
PAGE = 256
#: Parts of the window: pages leave when more than HIGH would be used, until no more than LOW is.
HIGH, LOW = 0.9, 0.6
#: Characters of an archived page that stay in memory.
SHOWN = 60

Space = tuple[int, str]


class Fresh(NamedTuple):
    """A page that comes into a window, with its tokens."""

    page: Page
    tokens: list[int]


@dataclass(slots=True)
class Plan:
    """What a call does to a window: all pages that it brings, and the ids of those that leave, old and new."""

    fresh: list[Fresh]
    out: set[int]

    @property
    def charge(self) -> int:
        """Give the tokens that the process pays for."""
        return sum(len(tokens) for _, tokens in self.fresh)

    def taken(self, ctx: Context) -> int:
        """Count the tokens that leave a context."""
        return sum(page.tokens for page in ctx.pages if page.id in self.out) if self.out else 0


# ---- cutting text


def cut(machine: Vocabulary, role: Role, text: str, limit: int) -> Iterator[tuple[str, list[int]]]:
    """Cut a text into pieces of at most `limit` rendered tokens, with their tokens; the pieces join to the text.

    A piece ends at a paragraph, a line, a sentence or a word, if there is one in its second half. It has one character
    at least, whatever the marks of the template take.
    """
    size, start = 4 * limit, 0  # characters that may fit: a guess, which each piece corrects
    while True:
        end = border(text, start, start + size)
        tokens = machine.render(role, text[start:end])
        if len(tokens) > limit and end - start > 1:
            size = max(1, min(end - start - 1, (end - start) * limit // len(tokens)))
            continue
        yield text[start:end], tokens
        if end == len(text):
            return
        start = end
        if len(tokens) < limit * 3 // 4:
            size = min(2 * size, size * limit // max(1, len(tokens)) + 1)


def border(text: str, start: int, end: int) -> int:
    """Give where a piece from `start` up to `end` at most should end."""
    if end >= len(text):
        return len(text)
    middle = (start + end) // 2
    for mark in ("\n\n", "\n", ". ", " "):
        at = text.rfind(mark, middle, end)
        if at > start:
            return at + len(mark)
    return end


def longest(window: int) -> int:
    """Give how many tokens an archived page may have: PAGE, or less where the window is small."""
    return max(16, min(PAGE, window // 8))


def message(k: Kernel, process: Process, ctx: Context, role: Role, text: str, pinned: bool = False) -> list[Fresh]:
    """Make the pages of a message: one if it is short beside the window, for a model reads a whole message best."""
    limit = longest(process.window)
    tokens = k.machine.render(role, text)
    whole = len(tokens) <= max(limit, process.window // 4)
    pieces = [(text, tokens)] if whole else cut(k.machine, role, text, limit)
    first = ctx.next_page
    return [
        Fresh(Page(role, len(tokens), pinned, piece, first + number, first), tokens)
        for number, (piece, tokens) in enumerate(pieces)
    ]


# ---- making room


def plan(process: Process, ctx: Context, fresh: list[Fresh], *, more: int = 0, room: int = 0, least: int = 0) -> Plan:
    """Choose what leaves, so that `fresh` pages and `more` tokens come in and at least `room` is free then.

    `room` is a wish, for which pages leave as far as the low-water mark allows; `least` is what there has to be. Raises
    ENOMEM.
    """
    window = process.window
    high = min(int(HIGH * window), window - min(room, window - int(LOW * window)))
    total = len(ctx.tokens) + sum(len(tokens) for _, tokens in fresh) + more
    out: set[int] = set()
    if total > high or total + least > window:
        pages = [*ctx.pages, *(page for page, _ in fresh)]
        low = min(int(high * LOW / HIGH), window - least)
        for page in movable(pages):
            if total <= low:
                break
            out.add(page.id)
            total -= page.tokens
    if total + least > window:
        raise ENOMEM(
            f"{total + least} tokens are needed, the window has {window}; "
            "pinned pages, system pages and the last user page do not leave it: unpin or forget some"
        )
    return Plan(fresh, out)


def movable(pages: list[Page]) -> Iterator[Page]:
    """Give the pages that may leave by themselves, oldest first."""
    users = [page for page in pages if page.role == "user" and page.source is None]
    stay = {page.id for page in (*users[-1:], *pages[-1:])}
    return (page for page in pages if not page.pinned and page.role != "system" and page.id not in stay)


# ---- moving pages


def enter(k: Kernel, ctx: Context, plan: Plan) -> None:
    """Take the tokens of pages that leave out of the window, and put those of new pages in."""
    take_out(k, ctx, plan.out)
    for page, tokens in plan.fresh:
        if page.id not in plan.out:
            ctx.tokens += tokens


def take_out(k: Kernel, ctx: Context, out: set[int]) -> None:
    """Take tokens out of the window; frames from the first cut on are of no use any more."""
    at = len(ctx.tokens) - sum(page.tokens for page in ctx.pages)
    kept, first = ctx.tokens[:at], -1
    for page in ctx.pages:
        if page.id not in out:
            kept += ctx.tokens[at : at + page.tokens]
        elif first < 0:
            first = at
        at += page.tokens
    if first >= 0:
        k.scheduler.mmu.trim(ctx, min(ctx.computed, first))
        ctx.tokens[:] = kept


def turn(k: Kernel, b: Branch, ctx: Context, plan: Plan) -> None:
    """Turn the pages over, whose tokens have moved: what leaves goes to the archive."""
    ctx.next_page += len(plan.fresh)
    if plan.out:
        pages = [*ctx.pages, *(page for page, _ in plan.fresh)]
        ctx.pages = [page for page in pages if page.id not in plan.out]
        for page in pages:
            if page.id in plan.out:
                archive(k, b, ctx, page)
    else:
        ctx.pages += [page for page, _ in plan.fresh]


def archive(k: Kernel, b: Branch, ctx: Context, page: Page) -> None:
    """File a page that has left the window, in pieces if it is long; a copy is in the archive already."""
    process = b.proc
    if k.probes:
        k.probe("evict", process.pid, f"page {page.id}, {page.tokens} tokens")
    if page.source is not None:
        return
    pid, name = space(b)
    for number, (text, tokens) in enumerate(cut(k.machine, page.role, page.text, longest(process.window))):
        id = page.id
        if number:
            id, ctx.next_page = ctx.next_page, ctx.next_page + 1
        shown = text if len(text) <= SHOWN else f"{text[:SHOWN]}…"
        ctx.archived[id] = Page(page.role, len(tokens), False, shown, id, page.message)
        if not process.replaying:
            row = (pid, name, id, page.message, page.role, len(tokens), text)
            k.insert("page", row[:3], row)
    ctx.filed = True


def restore(k: Kernel, ctx: Context) -> None:
    """Put the tokens back that had left for a burst which came to nothing."""
    if ctx.before is not None:
        before, ctx.before = ctx.before, None
        same = next((i for i, (a, b) in enumerate(zip(before, ctx.tokens, strict=False)) if a != b), len(ctx.tokens))
        k.scheduler.mmu.trim(ctx, min(ctx.computed, same))
        ctx.tokens[:] = before


# ---- spaces


def space(b: Branch) -> Space:
    """Name the space of a branch's context."""
    return space_of(b.proc, "" if b.proc.foreign else b.prefix)


def space_of(process: Process, prefix: str) -> Space:
    """Name the space of a branch that is perhaps gone."""
    return process.pid, f"{process.epoch}:{prefix}" if prefix else ""


def spaces(b: Branch) -> tuple[Space, ...]:
    """Give the spaces that a branch sees: its own, and those around it."""
    seen, at = [space(b)], b.parent
    while at and not b.proc.foreign:
        seen.append(space(at))
        at = at.parent
    return tuple(dict.fromkeys(seen))


def drop(k: Kernel, *prefix: int | str) -> None:
    """Delete all rows of a space, or of all spaces of a process."""
    for table in ARCHIVE:
        pending = k.rows[table]
        for key in [key for key in pending if key[: len(prefix)] == prefix]:
            del pending[key]
            k.inserted.discard((table, key))
        pending[prefix] = None


def copy(k: Kernel, source: Space, target: Space) -> None:
    """Give a space the rows of another, in the store: those that it has with all that this step has changed so far."""
    for table in ARCHIVE:
        pending, width = k.rows[table], TABLES[table].keys
        if source[:1] not in pending:
            pending[target] = pending.get(source, source)
        for key, row in [*pending.items()]:
            if len(key) == width and key[:2] == source:
                own = (*target, *key[2:])
                pending[own] = None if row is None else (*own, *row[width:])
                if (table, key) in k.inserted:
                    k.inserted.add((table, own))


def close(k: Kernel, b: Branch) -> None:
    """A branch has ended, and what left its window goes with it."""
    if b.ctx and b.ctx.filed and b.parent and not b.proc.foreign:
        drop(k, *space(b))


def end(k: Kernel, process: Process) -> None:
    """A process has ended: nobody can ask for its pages any more."""
    if process.parked or process.image or (process.root and process.root.ctx and process.root.ctx.filed):
        drop(k, process.pid)
    forget_windows(k, process)


def embedded(k: Kernel, key: tuple[int, str, int], encoder: str, data: bytes) -> None:
    """Keep the vector of a page, if the page is still there."""
    pid, name, id = key
    process = k.procs.get(pid)
    if not process or process.status or not process.root:
        return
    epoch, _, prefix = name.partition(":")
    branch = process.root if not name else process.branches.get(prefix)
    known = branch and branch.alive and branch.ctx and id in branch.ctx.archived
    if process.parked or (known and (not name or int(epoch) == process.epoch)):
        k.put("vector", key, (*key, encoder, data))


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
    total, out = len(ctx.tokens), set()
    for page in movable(ctx.pages):
        if total <= int(LOW * window):
            break
        out.add(page.id)
        total -= page.tokens
    return out


def move_out(k: Kernel, b: Branch, ctx: Context, out: Iterable[int]) -> None:
    """Let resident pages leave."""
    leaving = Plan([], set(out))
    enter(k, ctx, leaving)
    turn(k, b, ctx, leaving)


# ---- integrity


def check(k: Kernel) -> None:
    """Raise KernelBug if an invariant does not hold."""
    for process in k.procs.values():
        for b in process.branches.values():
            if b.ctx and not b.ctx.burst:
                check_context(k, b.ctx)


def check_context(k: Kernel, ctx: Context) -> None:
    ids = [page.id for page in ctx.pages]
    if sum(page.tokens for page in ctx.pages) != len(ctx.tokens) - len(k.machine.preamble()):
        raise KernelBug("the pages of a context do not cover its tokens")
    if ids != sorted(set(ids)) or not ctx.archived.keys().isdisjoint(ids):
        raise KernelBug("a page is in two places")
    if max([*ids, *ctx.archived], default=-1) >= ctx.next_page:
        raise KernelBug("the id of a page could be used again")
    if ctx.before is not None:
        raise KernelBug("pages were put aside for a burst that is not there")
