"""Map, Unmap, Unlink, Regions: memory that several processes share (see `tokix.kernel.regions`)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tokix.kernel import regions
from tokix.kernel.calls.memory import own_context
from tokix.kernel.outcome import NULL, Encoded
from tokix.syscalls import ENOENT, Map, RegionInfo, Regions, Unlink, Unmap
from tokix.syscalls.regions import Rights

if TYPE_CHECKING:
    from tokix.kernel.kernel import Kernel
    from tokix.kernel.process import Branch


def map_region(k: Kernel, b: Branch, c: Map) -> Encoded:
    own_context(k, b)
    if c.append and c.region not in k.regions:
        regions.make(k, c.region, b.proc.pid)
    regions.get(k, c.region)
    redo_map(k, b, c, None)
    return NULL


def redo_map(k: Kernel, b: Branch, c: Map, value: None) -> None:
    ctx = k.context(b)
    ctx.maps = {**ctx.maps, c.region: c.append}


def unmap(k: Kernel, b: Branch, c: Unmap) -> Encoded:
    if c.region not in own_context(k, b).maps:
        raise ENOENT(f"the region {c.region} is not mapped")
    redo_unmap(k, b, c, None)
    return NULL


def redo_unmap(k: Kernel, b: Branch, c: Unmap, value: None) -> None:
    ctx = k.context(b)
    ctx.maps = {name: append for name, append in ctx.maps.items() if name != c.region}


def unlink(k: Kernel, b: Branch, c: Unlink) -> Encoded:
    regions.delete(k, regions.get(k, c.region))
    return NULL


def listed(k: Kernel, b: Branch, c: Regions) -> list[RegionInfo]:
    maps = k.context(b).maps
    rights: dict[str, Rights] = {name: "append" if append else "read" for name, append in maps.items()}
    return [
        RegionInfo(name=name, creator=region.creator, appended=region.next_page - region.first, mapped=rights.get(name))
        for name, region in sorted(k.regions.items())
    ]


HANDLERS = {Map: map_region, Unmap: unmap, Unlink: unlink, Regions: listed}
REDO = {Map: redo_map, Unmap: redo_unmap}
