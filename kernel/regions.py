"""Regions: pages that several processes share.

A region is a space of the archive that belongs to no process: (0, NAME), for no process has the pid 0. Its pages are
appended and erased, never changed, and are only in the store; the kernel knows the name, the next id, and what was
erased since it booted, for a search that was under way may still find that.

Invariants: the id of a page is never used again, not in another region of the same name either; a region's row is
committed with the outcome of the call that changed it. Who has mapped it is in the contexts (`Context.maps`), and so in
the logs; what is in it is in no log but as outcomes, so a replay neither appends nor searches.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tokix.kernel.cutting import cut, longest
from tokix.syscalls import EBADF, ENOENT

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from tokix.kernel.context import Context
    from tokix.kernel.kernel import Kernel
    from tokix.kernel.ports import Space
    from tokix.kernel.process import Process
    from tokix.syscalls import Role


@dataclass(slots=True)
class Region:
    """A region that is there."""

    name: str
    #: The pid of who has made it.
    creator: int
    #: Where it began: ids below may be those of one of the same name that is gone.
    first: int = 0
    next_page: int = 0
    #: Ids of pages that were erased since boot.
    erased: set[int] = field(default_factory=set)

    @property
    def space(self) -> Space:
        return 0, self.name

    def has(self, id: int) -> bool:
        """Say whether a page that the store has given is still there."""
        return self.first <= id < self.next_page and id not in self.erased


def load(k: Kernel, rows: Iterable[tuple[Any, ...]], meta: dict[str, str]) -> None:
    k.regions = {row[0]: Region(*row) for row in rows}
    k.unlinked = int(meta.get("unlinked", 0))


def get(k: Kernel, name: str) -> Region:
    """Give a region; raises ENOENT."""
    if name not in k.regions:
        raise ENOENT(f"no region {name}: the first that maps it to append makes it")
    return k.regions[name]


def make(k: Kernel, name: str, creator: int) -> None:
    """Make a region."""
    k.regions[name] = Region(name, creator, k.unlinked, k.unlinked)
    save(k, k.regions[name])


def save(k: Kernel, region: Region) -> None:
    k.put("region", (region.name,), (region.name, region.creator, region.first, region.next_page))


def delete(k: Kernel, region: Region) -> None:
    """Delete a region and its pages."""
    del k.regions[region.name]
    k.unlinked = max(k.unlinked, region.next_page)
    k.put("kernel", ("unlinked",), ("unlinked", str(k.unlinked)))
    k.erase("region", (region.name,))
    k.drop(*region.space)


def spaces(k: Kernel, ctx: Context) -> tuple[Space, ...]:
    """Give the spaces of the regions that a context has mapped."""
    return tuple(k.regions[name].space for name in ctx.maps if name in k.regions)


def mapped(k: Kernel, ctx: Context, name: str, append: bool = False) -> Region:
    """Give a region that a context has mapped; raises EBADF, ENOENT."""
    if name not in ctx.maps:
        raise EBADF(f"the region {name} is not mapped: call Map first")
    if append and not ctx.maps[name]:
        raise EBADF(f"the region {name} is mapped to read only: call Map with append")
    return get(k, name)


def pieces(k: Kernel, process: Process, role: Role, text: str) -> list[tuple[str, int]]:
    """Cut a text into the pages that it becomes in a region, each with the number of its tokens."""
    return [(piece, len(tokens)) for piece, tokens in cut(k.machine, role, text, longest(process.window))]


def append(k: Kernel, region: Region, role: Role, cut: list[tuple[str, int]]) -> int:
    """Add the pages of a message; gives the id of the first."""
    first = region.next_page
    for id, (text, tokens) in enumerate(cut, first):
        key = (*region.space, id)
        k.insert("page", key, (*key, first, role, tokens, k.now, text))
    region.next_page += len(cut)
    save(k, region)
    return first


def erase(k: Kernel, region: Region, id: int) -> None:
    """Delete a page."""
    region.erased.add(id)
    for table in ("page", "vector"):
        k.erase(table, (*region.space, id))
