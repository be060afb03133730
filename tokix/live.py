"""A live view of a running kernel: its processes, its lanes tick by tick, and what the processes write.

On a terminal it is redrawn a few times a second, below the lines that are finished; elsewhere only the lines come.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

import anyio
from anyio.lowlevel import checkpoint
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from tokix import timeline
from tokix.kernel.events import Input, Prompt, Show, Shown

if TYPE_CHECKING:
    from tokix.boot import System
    from tokix.kernel.process import Process
    from tokix.trace import Trace

#: Seconds between two pictures; ticks that the last lines of the view show.
PERIOD, TAIL = 0.25, 100


class LiveView:
    """The outside of a kernel: a screen without a keyboard."""

    def __init__(self, console: Console, trace: Trace) -> None:
        self._console, self._trace = console, trace
        self._system: System | None = None
        self._shows: deque[Show] = deque()
        self._parts: dict[int, str] = {}
        self._ready, self._drained = anyio.Event(), anyio.Event()
        self._asked, self._asking = deque[str](), anyio.Event()

    def watch(self, system: System) -> None:
        """Draw the kernel of this system."""
        self._system = system

    # ---- what the kernel asks of its outside

    def show(self, show: Show) -> None:
        if not self._shows:
            self._drained = anyio.Event()
        self._shows.append(show)
        self._ready.set()

    def prompt(self, prompt: Prompt) -> None:
        """Nobody types here: whoever asks finds the end of the input."""
        self._asked.append(prompt.stream)
        self._asking.set()

    def report(self, text: str) -> None:
        self._console.print(Text(f"tokix: {text}", "yellow"))

    async def drained(self) -> None:
        while self._shows:
            await self._drained.wait()
        for pid in [*self._parts]:
            self._line(pid, self._parts.pop(pid))

    async def write(self, acknowledge: Callable[[Shown], None]) -> None:
        if not self._console.is_terminal:
            while True:
                await self._print(acknowledge)
        with Live(console=self._console, auto_refresh=False, transient=True) as live:
            while True:
                live.update(self._picture(), refresh=True)
                with anyio.move_on_after(PERIOD):
                    await self._print(acknowledge)
                    await anyio.sleep(PERIOD)

    async def read(self, give: Callable[[Input], None]) -> None:
        while True:
            await self._asking.wait()
            self._asking = anyio.Event()
            while self._asked:
                give(Input(self._asked.popleft(), None))

    # ---- lines

    async def _print(self, acknowledge: Callable[[Shown], None]) -> None:
        await self._ready.wait()
        self._ready = anyio.Event()
        while self._shows:
            show = self._shows.popleft()
            *lines, rest = (self._parts.pop(show.pid, "") + show.text).split("\n")
            for line in lines:
                self._line(show.pid, line)
            if rest:
                self._parts[show.pid] = rest
            acknowledge(Shown(show.stream, show.offset))
        self._drained.set()
        await checkpoint()

    def _line(self, pid: int, line: str) -> None:
        known = timeline.names(self._trace)
        style = timeline.colour(pid, known) if pid in known else ""
        self._console.print(Text.assemble((f"{pid:>4} ", style), line), soft_wrap=True)

    # ---- the picture

    def _picture(self) -> Group:
        if self._system is None:
            return Group()
        return Group(self._summary(self._system), self._processes(self._system), *timeline.tail(self._trace, TAIL))

    def _summary(self, system: System) -> Text:
        beats = self._trace.beats[-20:]
        seconds = sum(beat.ended - beat.began for beat in beats) or 1.0
        sampled = sum(run.sampled for beat in beats for run in beat.runs)
        pool = system.kernel.scheduler.mmu.pool
        return Text(
            f"tick {system.kernel.scheduler.clock}   {len(beats) / seconds:.1f} ticks/s   "
            f"{sampled / seconds:.0f} tokens/s   frames {pool.total - pool.available} of {pool.total} used",
            "bold",
        )

    def _processes(self, system: System) -> Table:
        table = Table(box=None, pad_edge=False)
        for name in ("", "pid", "program", "nice", "state", "tokens", "window", "archived"):
            table.add_column(name, justify="left" if name in ("program", "state") else "right")
        known = timeline.names(self._trace)
        for process in system.kernel.procs.values():
            if process.pid != 1 and not process.foreign and not process.status:
                style = timeline.colour(process.pid, known) if process.pid in known else ""
                table.add_row(known.get(process.pid, ""), *self._row(system, process), style=style)
        return table

    def _row(self, system: System, process: Process) -> tuple[str, ...]:
        ctx = process.root.ctx if process.root else None
        resident, archived = (len(ctx.tokens), len(ctx.archived)) if ctx else (0, 0)
        name = process.program.rpartition("/")[2]
        used = f"{resident}/{system.kernel.capacity}"
        return str(process.pid), name, str(process.nice), process.state, str(process.tokens), used, str(archived)
