"""Who has the kernel. A program that does not give it back holds up everybody; one that kills it would do so for ever.

`Running` knows the pid of the program that is being driven, 0 for the kernel itself. It lies in a file that is mapped
into memory: a write costs 0.1 µs and survives the death of the kernel, however it died. Two look at it:

- the `Watchdog`, a thread that names the program and the line that have the kernel for more than 50 ms;
- the next boot: who was running in three deaths, each time at the same point of its log, is a suspect, and is parked.
"""

from __future__ import annotations

import json
import mmap
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

#: Seconds between two looks, and how many looks at the same turn are too many.
SAMPLE, LOOKS = 0.01, 5
#: Deaths of the kernel at the same point of a process that make it a suspect.
DEATHS = 3


class Running:
    """The pid of the program that has the control; `turn` counts the changes."""

    def __init__(self, path: Path | None = None) -> None:
        """Without a path nothing is left for the next boot."""
        self.turn = 0
        if path:
            with path.open("a+b") as file:  # which is at its end
                # Real zeros: a page that is only promised, on a disk that is full, would kill whoever writes to it.
                file.write(bytes(mmap.PAGESIZE - file.tell()))
                file.flush()
                memory = mmap.mmap(file.fileno(), mmap.PAGESIZE)
        else:
            memory = mmap.mmap(-1, mmap.PAGESIZE)
        self._cell = memoryview(memory).cast("q")
        #: Who was running when the last kernel died.
        self.left = self._cell[0]

    def __call__(self, pid: int) -> None:
        self.turn += 1
        self._cell[0] = pid

    @property
    def pid(self) -> int:
        """Give the pid whose program has the control, or 0."""
        return self._cell[0]


def suspects(running: Running, path: Path, rows: Mapping[str, list[tuple[Any, ...]]]) -> dict[int, str]:
    """Count the death that left a pid behind, and give the processes to park, with the reason.

    `path` holds the deaths of each process without progress: [entries of its log, how many deaths].
    """
    entries = Counter(row[0] for row in rows["journal"])
    alive = {row[0] for row in rows["process"]}
    before = json.loads(path.read_text()) if path.exists() else {}
    deaths = {int(pid): n for pid, (length, n) in before.items() if int(pid) in alive and entries[int(pid)] == length}
    if running.left in alive:
        deaths[running.left] = deaths.get(running.left, 0) + 1
    after = {str(pid): [entries[pid], n] for pid, n in deaths.items()}
    if after != before:
        beside = path.with_suffix(".new")
        beside.write_text(json.dumps(after))
        beside.replace(path)
    running(0)
    reason = "it was running when the kernel died, {} times at call {}; KILL it, or remove {} to try it again"
    return {pid: reason.format(n, entries[pid] + 1, path) for pid, n in deaths.items() if n >= DEATHS}


class Watchdog:
    """A thread that looks every 10 ms at who is running. It counts looks, not time: a stopped kernel is not busy."""

    def __init__(self, running: Running, bark: Callable[[int, str], None]) -> None:
        """`bark(pid, line)` is called from the thread, once for every time that a program is driven too long."""
        self._running, self._bark = running, bark
        self._thread = threading.get_ident()
        self._awake, self._end = threading.Event(), threading.Event()
        self._awake.set()
        threading.Thread(target=self._watch, name="tokix watchdog", daemon=True).start()

    @contextmanager
    def asleep(self) -> Iterator[None]:
        """Look at nobody inside the block: the kernel waits, and an idle system costs nothing."""
        self._awake.clear()
        try:
            yield
        finally:
            self._awake.set()

    def end(self) -> None:
        self._end.set()
        self._awake.set()

    def _watch(self) -> None:
        turn, looks = 0, 0
        while not self._end.wait(SAMPLE):
            self._awake.wait()
            if not self._running.pid or self._running.turn != turn:
                turn, looks = self._running.turn, 0
                continue
            looks += 1
            if looks == LOOKS:
                pid, line = self._running.pid, line_of(self._thread)
                if self._running.turn == turn:  # else it gave the kernel back a moment ago
                    self._bark(pid, line)


def line_of(thread: int) -> str:
    """Give the line of the program that a thread is driving: the last one of the file in which the program begins."""
    frame = sys._current_frames().get(thread)
    inner = []
    while frame and not frame.f_globals.get("__name__", "").startswith("tokix.kernel"):
        inner.append((frame.f_code.co_filename, frame.f_lineno))
        frame = frame.f_back
    own = [line for line in inner if line[0] == inner[-1][0]]
    return f"{own[0][0]}:{own[0][1]}" if own else "no line of its own"
