"""Spaces: whose a page in the archive is, and who sees it.

A space is (pid, name): "" is the process's own context, and a branch's fork has one that is called by its epoch and
prefix. A branch sees the spaces around it, and its own goes with it. Regions are spaces of nobody: (0, name).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tokix.kernel import regions

if TYPE_CHECKING:
    from tokix.kernel.context import Context
    from tokix.kernel.kernel import Kernel
    from tokix.kernel.ports import Space
    from tokix.kernel.process import Branch, Process
    from tokix.syscalls import Recalled


def space(b: Branch) -> Space:
    """Name the space of a branch's context."""
    return space_of(b.proc, "" if b.proc.foreign else b.prefix)


def space_of(process: Process, prefix: str) -> Space:
    """Name the space of a branch that is perhaps gone."""
    return process.pid, f"{process.epoch}:{prefix}" if prefix else ""


def seen(b: Branch) -> tuple[Space, ...]:
    """Give the spaces that a branch sees: its own, and those around it."""
    found, at = [space(b)], b.parent
    while at and not b.proc.foreign:
        found.append(space(at))
        at = at.parent
    return tuple(dict.fromkeys(found))


def searched(k: Kernel, b: Branch) -> tuple[Space, ...]:
    """Give the spaces that a search of a branch looks into: those that it sees, and regions."""
    return (*seen(b), *regions.spaces(k, k.context(b)))


def there(k: Kernel, ctx: Context, page: Recalled) -> bool:
    """Say whether a page that a search has found is still there, and may still be seen."""
    if page.region:
        return page.region in ctx.maps and page.region in k.regions and k.regions[page.region].has(page.id)
    return page.id in ctx.archived


def close(k: Kernel, b: Branch) -> None:
    """A branch has ended, and what left its window goes with it."""
    if b.ctx and b.ctx.filed and b.parent and not b.proc.foreign:
        k.drop(*space(b))


def end(k: Kernel, process: Process) -> None:
    """A process has ended: nobody can ask for its pages any more."""
    if process.parked or process.image or (process.root and process.root.ctx and process.root.ctx.filed):
        k.drop(process.pid)


def embedded(k: Kernel, key: tuple[int, str, int], encoder: str, data: bytes) -> None:
    """Keep the vector of a page, if the page is still there."""
    pid, name, id = key
    if not pid:
        if name in k.regions and k.regions[name].has(id):
            k.put("vector", key, (*key, encoder, data))
        return
    process = k.procs.get(pid)
    if not process or process.status or not process.root:
        return
    epoch, _, prefix = name.partition(":")
    branch = process.root if not name else process.branches.get(prefix)
    known = branch and branch.alive and branch.ctx and id in branch.ctx.archived
    if process.parked or (known and (not name or int(epoch) == process.epoch)):
        k.put("vector", key, (*key, encoder, data))
