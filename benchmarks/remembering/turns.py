"""A conversation of ten thousand turns, on a SQLite file: what must hold at every step, and what must not grow.

    most                the most tokens that the window had after any step of the kernel, as a part of it
    again               tokens that were computed once more for each that was new, and what the marks of the pager say
    latency, disk       what a turn takes in the last tenth over what it takes in the first; in most, no page leaves
    twice, lost         texts that are in the archive twice; texts that are in neither the archive nor the window

Once without a search; and with demand paging, where each turn searches and brings pages back. A search compares all
that was ever said, so its latency grows; and what it brings back is among the tokens that are new.
"""

from __future__ import annotations

import random
import sqlite3
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from statistics import mean, median
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from remembering.stories import WINDOW
from tokix.kernel.arch.toy import ToyEncoder, ToyMachine
from tokix.kernel.pager import HIGH, LOW
from tokix.kernel.policy import FCFS
from tokix.sim import Simulation
from tokix.storage import SqliteStore
from tokix.syscalls import Advise, Sleep, Think

if TYPE_CHECKING:
    from tokix.kernel.process import Process

WORDS, LONG, ANSWER = 4000, 12, 16
#: How much of the window copies may have.
DEMAND = 0.25


def text(turn: int) -> str:
    """Give what is said in a turn: words from a seed, so that no two are the same."""
    r = random.Random(turn)
    return f"Turn {turn}: " + " ".join(f"w{r.randrange(WORDS)}" for _ in range(LONG))


def size(path: Path) -> int:
    """Give the bytes of a database, wherever they are now."""
    database = sqlite3.connect(path)
    [count], [each] = (database.execute(f"PRAGMA {what}").fetchone() for what in ("page_count", "page_size"))
    database.close()
    return int(count) * int(each)


class Conversation:
    """One that is held: what it took, by turn, and what is left of it."""

    def __init__(self, turns: int, demand: float, store: SqliteStore) -> None:
        self.turns, self.demand, self.store = turns, demand, store
        self.seconds: list[float] = []
        self.bytes: list[int] = []
        self.most = 0
        self.end: dict[str, Any] = {}
        machine = ToyMachine(frames=2 * WINDOW // 16, window=WINDOW, ends=False)
        programs = {"init": self.main}
        self.sim = Simulation(programs, store, machine=machine, policy=FCFS(), encoder=ToyEncoder(), checked=False)

    async def main(self) -> None:
        await Advise(demand=self.demand)
        for turn in range(self.turns):
            if turn % (self.turns // 10) == 0:
                self.bytes.append(size(self.store.path))
            begin = time.perf_counter()
            await Think(prompt=text(turn), max_tokens=ANSWER)
            self.seconds.append(time.perf_counter() - begin)
        self.bytes.append(size(self.store.path))
        await Sleep(seconds=10)  # what the last turn has moved is committed then
        self.end = self.left()

    def process(self) -> Process | None:
        """Give the process that talks, while it is there."""
        return next((process for process in self.sim.kernel.procs.values() if process.program == "init"), None)

    def hold(self) -> dict[str, Any]:
        """Talk, with a look at the window after every step."""
        going = True
        while going:
            self.sim.step()
            process = self.process()
            if process and process.root:
                self.most = max(self.most, len(self.sim.kernel.context(process.root).tokens))
            going = self.sim.wait()
        return {
            "turns": self.turns,
            "most": self.most / WINDOW,
            "formula": LOW / (HIGH - LOW),
            "latency": mean(self.last(self.seconds)) / mean(self.first(self.seconds)),
            "median": median(self.last(self.seconds)) / median(self.first(self.seconds)),
            "ms": 1e3 * mean(self.first(self.seconds)),
            "disk": (self.bytes[-1] - self.bytes[-2]) / (self.bytes[1] - self.bytes[0]),
            "bytes": (self.bytes[-1] - self.bytes[0]) / self.turns,
            **self.end,
        }

    def left(self) -> dict[str, Any]:
        """Give what has to be counted while the process is there."""
        process = self.process()
        assert process
        assert process.root
        window = self.sim.kernel.context(process.root).pages
        said = Counter(row[-1] for row in self.store.read("page", ()) if row[4] == "user")
        said.update(page.text for page in window if page.role == "user" and page.source is None)
        return {
            "again": (self.sim.kernel.scheduler.mmu.counters.fed - process.tokens) / process.tokens,
            "twice": said.total() - len(said),
            "lost": sum(text(turn) not in said for turn in range(self.turns)),
        }

    def first(self, values: list[float]) -> list[float]:
        return values[: self.turns // 10]

    def last(self, values: list[float]) -> list[float]:
        return values[-(self.turns // 10) :]


def judge(turns: int, report: Callable[[str], None]) -> dict[str, Any]:
    figures = {}
    for name, demand in (("paging", 0.0), ("demand paging", DEMAND)):
        with TemporaryDirectory() as folder:
            store = SqliteStore(Path(folder) / "tokix.db")
            try:
                figures[name] = Conversation(turns, demand, store).hold()
            finally:
                store.close()
        report(f"{turns} turns with {name}")
    return figures
