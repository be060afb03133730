"""Save and Restore: a context in a file, and out of it.

The kernel says what and where, and the edge reads and writes, on the machine's thread, while ticks go on. So places
that are read stay as they are until the answer (`Mmu.lent`), and frames that are filled belong to nobody else, also
when nobody waits any more: only the answer gives them back.

`Restore` asks twice: what is in the file, and then to fill the frames that there are. Frames are a cache, so fewer will
do. Its outcome has the image of the context, from which a replay makes it again without the file.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field, TypeAdapter

from tokix.kernel import pager, spaces
from tokix.kernel.calls.memory import quota, root, withdraw
from tokix.kernel.context import Advice, Context, Page
from tokix.kernel.errors import KernelBug
from tokix.kernel.events import Pack, Unpack, Unpacked
from tokix.kernel.frames import frames_for
from tokix.kernel.outcome import BLOCKED
from tokix.syscalls import EAGAIN, EDQUOT, EINVAL, ENOMEM, Restore, Restored, Save

if TYPE_CHECKING:
    from tokix.kernel.kernel import Kernel
    from tokix.kernel.process import Branch

#: What `Context.image` writes: tokens, pages, those in the archive, the next id, what was advised, what is mapped.
_Natural = Annotated[int, Field(ge=0)]
_IMAGE = TypeAdapter(tuple[list[_Natural], list[Page], list[Page], _Natural, Advice, dict[str, bool]])


def named(path: str) -> None:
    """Raise EINVAL for a path that does not mean one file to everybody, or not what a capability takes it for."""
    parts = path.split("/")
    if parts[0] or len(parts) < 2 or "\0" in path or {"", ".", ".."} & {*parts[1:]}:
        raise EINVAL(f"{path!r} is no name for a file here: it has to be absolute, without `.`, `..` and `//`")


def is_empty(k: Kernel, ctx: Context) -> bool:
    return not ctx.next_page and len(ctx.tokens) == len(k.machine.preamble())


# ---- Save


def save(k: Kernel, b: Branch, c: Save) -> object:
    named(c.path)
    where = b if c.pid is None else root(k, c.pid)
    process = where.proc
    if process.parked:
        raise EINVAL(f"process {process.pid} is parked, and has no context: {process.parked}")
    ctx = k.context(where)
    if ctx.burst:
        raise EAGAIN(f"process {process.pid} is thinking: its context can be saved when it has its answer")
    if is_empty(k, ctx):
        raise EINVAL(f"nothing was said to process {process.pid} yet: its context is empty")
    mmu = k.scheduler.mmu
    computed = mmu.lend(b.key, ctx)
    places = tuple(mmu.lent[b.key])
    k.invoked[b.key] = b
    k.effects.append(Pack(b.key, c.path, ctx.image(), len(ctx.tokens), computed, places, spaces.seen(where)))
    return BLOCKED


# ---- Restore


def restore(k: Kernel, b: Branch, c: Restore) -> object:
    named(c.path)
    if b is not b.proc.root or b.proc.foreign:
        raise EINVAL("restore works in the root branch of a program only")
    if not is_empty(k, k.context(b)):
        raise EINVAL("the context is not empty: restore has to come before all that is said in it")
    k.invoked[b.key] = b
    k.effects.append(Unpack(b.key, c.path))
    return BLOCKED


def restored(k: Kernel, b: Branch, found: Unpacked) -> object:
    """Go on with what the edge has read: ask for frames, or complete a Restore."""
    mmu, path = k.scheduler.mmu, b.call.path
    if b.key not in mmu.lent:
        ctx = understood(k, found, path)
        afford(b, ctx)
        if frames := mmu.borrow(b.key, frames_for(found.computed)):
            k.invoked[b.key] = b
            k.effects.append(Unpack(b.key, path, tuple(frames), found.seal))
            return BLOCKED
    pid, space = spaces.space(b)
    for id, *page in found.pages:
        k.insert("page", (pid, space, id), (pid, space, id, *page))
    for id, *vector in found.vectors:
        k.insert("vector", (pid, space, id), (pid, space, id, *vector))
    ctx = take_over(k, b, found.image, found.computed)
    return Restored(tokens=len(ctx.tokens), computed=ctx.computed, image=found.image)


def understood(k: Kernel, found: Unpacked, path: str) -> Context:
    """Make the context of a file, to look at; raises EINVAL if it is none that this kernel could have made."""
    try:
        tokens, pages, archived, *_ = _IMAGE.validate_json(found.image, strict=True)
        ctx = Context.from_image(found.image)
        pager.check_context(k, ctx)
    except (ValueError, KernelBug) as error:
        raise EINVAL(f"{path} has no context: {str(error).splitlines()[0]}") from None
    preamble = k.machine.preamble()
    whole = all(page.tokens >= 0 for page in (*pages, *archived)) and found.computed <= len(tokens)
    if not whole or tokens[: len(preamble)] != preamble or max(tokens, default=0) >= k.machine.vocabulary:
        raise EINVAL(f"{path} has no context of the model {k.machine.name}")
    if {page.id for page in archived} != {id for id, *_ in found.pages}:
        raise EINVAL(f"{path} has another archive than its context")
    return ctx


def afford(b: Branch, ctx: Context) -> None:
    """Raise ENOMEM or EDQUOT if a context is too much for a process."""
    window, left = b.proc.window, quota(b.proc)
    least = len(ctx.tokens)
    if least > window:
        out = pager.overflow(ctx, window)
        least -= sum(page.tokens for page in ctx.pages if page.id in out)
    if least > window:
        raise ENOMEM(f"{least} tokens of the context cannot leave the window, which has {window}")
    if left is not None and charge(ctx) > left:
        raise EDQUOT(f"the context has {charge(ctx)} tokens, {left} are left of the limit")


def charge(ctx: Context) -> int:
    return sum(page.tokens for page in ctx.pages)


def take_over(k: Kernel, b: Branch, image: str, computed: int = 0) -> Context:
    """Let a context be that of an image, and pages leave that do not fit; live, and in a replay."""
    mmu = k.scheduler.mmu
    old = k.context(b)
    mmu.release(old)
    ctx = b.ctx = Context.from_image(image)
    ctx.maps = old.maps  # rights are not in files
    if b.key in mmu.lent:
        mmu.furnish(ctx, b.key, computed)
    mmu.use(ctx)
    b.proc.tokens += charge(ctx)
    if len(ctx.tokens) > b.proc.window:
        pager.move_out(k, b, ctx, pager.overflow(ctx, b.proc.window))
    return ctx


def redo_restore(k: Kernel, b: Branch, c: Restore, value: Restored) -> None:
    take_over(k, b, value.image)


HANDLERS = {Save: save, Restore: restore}
WITHDRAW = {Save: withdraw, Restore: withdraw}
REDO = {Restore: redo_restore}
