"""What the host gives to a kernel: a clock, a thread for the machine and for its encoder, and signals."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from asyncio import AbstractEventLoop, Future
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from queue import SimpleQueue
from typing import TYPE_CHECKING, TypeVar

from tokix.kernel.events import Tick, TickDone

if TYPE_CHECKING:
    from tokix.kernel.ports import Machine

T = TypeVar("T")

#: Seconds for which a stopping kernel waits for its machine.
LAST_TICK = 10.0

#: The signals that ask for an end.
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class WallClock:
    """Wall time that never goes back: where the host's clock does, it goes on from there at the host's pace."""

    def __init__(self) -> None:
        self._last = self._ahead = 0.0

    def now(self) -> float:
        """Give seconds since 1970."""
        now = time.time() + self._ahead
        if now < self._last:
            self._ahead += self._last - now
            now = self._last
        self._last = now
        return now

    def follow(self, now: float) -> None:
        """Go on from a time that was once told, if that is later."""
        self._last = max(self._last, now)


class MachineThread:
    """Runs ticks one after the other, so that the kernel can think, and wait, while the machine computes.

    Between ticks it runs other work for the same cores, in its turn.
    """

    def __init__(
        self,
        machine: Machine,
        loop: AbstractEventLoop,
        done: Callable[[TickDone], None],
        failed: Callable[[BaseException], None],
    ) -> None:
        """`done` and `failed` are called in the event loop."""
        self._machine, self._loop, self._done, self._failed = machine, loop, done, failed
        self._ticks: SimpleQueue[Tick | Callable[[], None] | None] = SimpleQueue()
        self._landings: SimpleQueue[tuple[int, Callable[[], list[int | None]]] | None] = SimpleQueue()
        self._ended = False
        self._threads = [threading.Thread(target=self._run, name="tokix machine", daemon=True)]
        if machine.ahead:  # somebody else waits for what this thread has begun
            self._threads.append(threading.Thread(target=self._wait, name="tokix landings", daemon=True))
        for thread in self._threads:
            thread.start()

    def start(self, tick: Tick) -> None:
        self._ticks.put(tick)

    async def call(self, function: Callable[..., T], *args: object) -> T:
        """Run a function on this thread, between ticks; gives what it returns, raises what it raises."""
        future: Future[T] = self._loop.create_future()

        def settle(result: Callable[[], None]) -> None:
            if not future.done():  # else nobody waits any more
                result()

        def run() -> None:
            try:
                value = function(*args)
            except BaseException as error:  # whatever it is, it is raised where it was asked for
                self._tell(settle, partial(future.set_exception, error))
            else:
                self._tell(settle, partial(future.set_result, value))

        self._ticks.put(run)
        return await future

    def end(self) -> None:
        """Let the threads end; the ticks in flight, if any, are computed for nobody.

        It is waited for: an interpreter that ends while torch computes is aborted. But not for ever.
        """
        self._ended = True
        self._ticks.put(None)
        for thread in self._threads:
            thread.join(LAST_TICK)

    def _run(self) -> None:
        while (tick := self._ticks.get()) and not self._ended:
            if not isinstance(tick, Tick):
                tick()
            elif self._machine.ahead:
                with self._told():
                    self._landings.put((tick.serial, self._machine.start(tick)))
            else:
                self._land(tick.serial, partial(self._machine.run, tick))
        self._landings.put(None)

    def _wait(self) -> None:
        while (flight := self._landings.get()) and not self._ended:
            self._land(*flight)

    def _land(self, serial: int, wait: Callable[[], list[int | None]]) -> None:
        with self._told():
            self._tell(self._done, TickDone(serial, wait()))

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Whatever goes wrong stops the kernel, which reports it."""
        try:
            yield
        except BaseException as error:
            self._ended = True
            self._tell(self._failed, error)

    def _tell(self, call: Callable[[T], None], what: T) -> None:
        # Of asyncio, for anyio has no way into a loop from a thread that does not wait for an answer.
        with suppress(RuntimeError):  # the loop has ended, and nobody waits for this tick
            self._loop.call_soon_threadsafe(call, what)


@contextmanager
def handling(arrived: Callable[[int, object], None], signums: Iterable[int]) -> Iterator[None]:
    """Have Python itself call a handler for signals: it does so even while a program holds the event loop.

    Signals that are ignored (`nohup`, `&`) stay so.
    """
    handled = [signum for signum in signums if signal.getsignal(signum) is not signal.SIG_IGN]
    before = {signum: signal.signal(signum, arrived) for signum in handled}
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


@contextmanager
def signals(loop: AbstractEventLoop, stop: Callable[[int], None]) -> Iterator[None]:
    """Call `stop(signum)` in the event loop at the first signal that asks for an end; at the second, end at once.

    A program that does not give the kernel back holds the event loop too, and with it every signal that anyio would
    receive; so the second signal is not left to it. It is safe, for the store survives any death. Outside of the main
    thread, where Python has no handlers, all do what they did before.
    """
    seen: list[int] = []

    def arrived(signum: int, frame: object) -> None:
        if seen:
            os._exit(128 + signum)
        seen.append(signum)
        loop.call_soon_threadsafe(stop, signum)

    with handling(arrived, SIGNALS if threading.current_thread() is threading.main_thread() else ()):
        yield


@contextmanager
def no_event_loop() -> Iterator[None]:
    """Drive programs without the hooks that asyncio has for async generators.

    It would close the abandoned ones of a program in a coroutine of its own, at some other time: only the kernel drives
    programs, and what they do depends on their log alone.
    """
    hooks = sys.get_asyncgen_hooks()
    sys.set_asyncgen_hooks(None, None)
    try:
        yield
    finally:
        sys.set_asyncgen_hooks(*hooks)
