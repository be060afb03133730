"""`tokix run` on a state directory that has a kernel: the program runs there, and its terminal is here.

The program gets pipes for its descriptors, and this process, its parent, is at their other ends. A pipeline ends when
everybody has closed it, so this waits for the program and for all who share its output.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Awaitable, Callable
from contextlib import suppress

import anyio

from tokix.shell.client import Client, cause
from tokix.syscalls import EBADF, EPIPE, ESRCH, ExitStatus, Kill, Read, Signal, Spawn, Wait, Write

#: Gives a piece of the standard input, "" at its end; writes text to a descriptor.
Source = Callable[[], Awaitable[str]]
Sink = Callable[[int, str], Awaitable[None]]

FDS = {0: "pipe:in", 1: "pipe:out", 2: "pipe:err"}


async def join(client: Client, spawn: Spawn, source: Source, sink: Sink) -> ExitStatus:
    """Run a program elsewhere. The first Ctrl-C is its INT, the second its KILL."""
    pid = await client.call(spawn.model_copy(update={"fds": FDS}))
    try:
        async with anyio.create_task_group() as beside:
            beside.start_soon(pass_signals, client, pid)
            beside.start_soon(feed, client, source)
            async with anyio.create_task_group() as copies:
                copies.start_soon(copy, client, "pipe:out", 1, sink)
                copies.start_soon(copy, client, "pipe:err", 2, sink)
                status = await client.call(Wait(pid=pid))
            beside.cancel_scope.cancel()
    except BaseExceptionGroup as problems:
        raise cause(problems) from None
    return status


async def copy(client: Client, pipe: str, fd: int, sink: Sink) -> None:
    while text := await client.call(Read(fd=pipe)):
        await sink(fd, text)


async def feed(client: Client, source: Source) -> None:
    """Pass the input on, for as long as anybody there can read it."""
    with suppress(EPIPE, EBADF):  # the program has ended, and the pipe with it
        while text := await source():
            await client.call(Write(fd="pipe:in", text=text))
        await client.call(Write(fd="pipe:in", text="", close=True))


async def pass_signals(client: Client, pid: int) -> None:
    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        answers = [Signal.INT, Signal.KILL]
        async for signum in signals:
            if not answers:
                os._exit(128 + signum)
            with suppress(ESRCH):
                await client.call(Kill(pid=pid, signal=answers.pop(0) if signum == signal.SIGINT else Signal.TERM))
