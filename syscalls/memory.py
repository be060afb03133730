"""Context memory: the conversation of a process, cut into pages."""

from __future__ import annotations

from typing import Literal

from tokix.syscalls.base import Syscall, Value
from tokix.syscalls.compute import Role


class PageInfo(Value):
    """One page of a context. Ids count from 0, in the order of the conversation."""

    id: int
    role: Role
    tokens: int
    pinned: bool
    text: str


class Append(Syscall[int]):
    """Add a page to the caller's context; gives its id. Raises EDQUOT, and ENOMEM if the window cannot hold it."""

    call: Literal["append"] = "append"
    role: Role = "user"
    text: str
    pinned: bool = False


class Pages(Syscall[list[PageInfo]]):
    """List the caller's pages."""

    call: Literal["pages"] = "pages"
    observes = True


class Pin(Syscall[None]):
    """Protect a page of the caller from eviction, or stop protecting it. Raises ENOENT."""

    call: Literal["pin"] = "pin"
    page: int
    pinned: bool = True
