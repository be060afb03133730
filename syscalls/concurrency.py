"""Concurrency inside a process: branches that share its variables, each with a copy-on-write fork of its context."""

from __future__ import annotations

from collections.abc import Awaitable, Coroutine
from typing import Any, Literal

from pydantic import Field, PrivateAttr

from tokix.syscalls.base import Syscall

Branches = tuple[Coroutine[Any, Any, Any], ...]


class Gather(Syscall[list[Any]]):
    """Run branches together; gives their values in order. The first that fails ends the others. Use `gather`."""

    call: Literal["gather"] = "gather"
    branches: int = Field(ge=0)
    _coros: Branches = PrivateAttr(())  # they stay in the process: the journal sees their number


class Select(Syscall[tuple[int, Any]]):
    """Run branches together; the first that ends gives (its index, its value) and ends the others. Use `select`."""

    call: Literal["select"] = "select"
    branches: int = Field(ge=1)
    _coros: Branches = PrivateAttr(())


def gather(*branches: Awaitable[Any]) -> Gather:
    """Wait for all: `a, b = await gather(Think(prompt="x"), reader())`."""
    call = Gather(branches=len(branches))
    call._coros = tuple(_coroutine(b) for b in branches)
    return call


def select(*branches: Awaitable[Any]) -> Select:
    """Wait for one: `index, value = await select(Recv(), Sleep(seconds=5))`."""
    call = Select(branches=len(branches))
    call._coros = tuple(_coroutine(b) for b in branches)
    return call


def _coroutine(branch: Awaitable[Any]) -> Coroutine[Any, Any, Any]:
    return branch if isinstance(branch, Coroutine) else _await(branch)


async def _await(branch: Awaitable[Any]) -> Any:
    return await branch
