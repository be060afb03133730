"""Shared memory: regions, which several processes map into their address space.

A region is a row of pages under a name. It has no window: pages are only added, and processes find them with `Recall`,
beside what has left their own windows. It outlives those who made it, until somebody calls `Unlink`. To map a region is
a right of its own, to read (`map:REGION`) or to append as well (`append:REGION`); what is mapped stays mapped, over
`Exec` and in the children that `Fork` makes, until `Unmap`. Rights are about names: who has mapped a region that is
deleted and made again has mapped the new one.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from tokix.syscalls.base import Syscall, Value

#: The name of a region.
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")]
#: How a region is mapped.
Rights = Literal["read", "append"]


class RegionInfo(Value):
    """A region: who has made it, how many pages it has had, and how the caller has mapped it, if at all."""

    name: str
    creator: int
    appended: int
    mapped: Rights | None = None


class Map(Syscall[None]):
    """Map a region into the caller's memory: `Recall` searches it from now on, and `Append` can write to it.

    With `append` it is made if there is none of that name. Mapped again, it has the rights that were named last. Raises
    ENOENT, EPERM.
    """

    call: Literal["map"] = "map"
    region: Name
    append: bool = False


class Unmap(Syscall[None]):
    """Take a region out of the caller's memory; copies of its pages stay in the window. Raises ENOENT."""

    call: Literal["unmap"] = "unmap"
    region: Name


class Unlink(Syscall[None]):
    """Delete a region with all its pages, for everybody; copies stay where they are. Raises ENOENT, EPERM."""

    call: Literal["unlink"] = "unlink"
    region: Name


class Regions(Syscall[list[RegionInfo]]):
    """List all regions, by name."""

    call: Literal["regions"] = "regions"
    observes = True
