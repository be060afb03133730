"""Children that do parts of a work: so many at a time, their values in order, and none left behind if one fails."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

from tokix.syscalls import EAGAIN, ESRCH, ExitStatus, Kill, Signal, Spawn, Wait


async def each(program: str, parts: Iterable[list[Any]], at_once: int = 8) -> list[Any]:
    """Run a program for each list of arguments; gives their exit values in that order.

    The caller has no other children. Raises RuntimeError when one fails; the others are ended.
    """
    waiting = deque(enumerate(parts))
    running: dict[int, int] = {}
    values: dict[int, Any] = {}
    while waiting or running:
        while waiting and len(running) < at_once:
            index, args = waiting[0]
            try:
                pid = await Spawn(program=program, args=args)
            except EAGAIN:
                if not running:
                    raise
                at_once = len(running)  # as many as its limit of children
            else:
                running[pid] = index
                waiting.popleft()
        status = await take(running)
        values[running.pop(status.pid)] = status.value
    return [values[index] for index in sorted(values)]


async def take(running: Iterable[int]) -> ExitStatus:
    """Wait for one of the children; if it has failed, end the others, and raise RuntimeError."""
    status = await Wait()
    if status.reason != "exit":
        await end(pid for pid in running if pid != status.pid)
        raise RuntimeError(f"{status.program} has {status.reason}: {status.detail}")
    return status


async def end(running: Iterable[int]) -> None:
    """End children at once, and take their statuses."""
    pids = [*running]
    for pid in pids:
        with suppress(ESRCH):  # it has ended by itself
            await Kill(pid=pid, signal=Signal.KILL)
    for pid in pids:
        await Wait(pid=pid)
