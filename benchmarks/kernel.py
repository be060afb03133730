"""What the kernel costs: `python benchmarks/kernel.py [--quick] [--no-peers] [--json FILE]`.

Everything here is the kernel's own time: the machine is a stub that answers at once. Each figure is the median of
several runs; a figure of a peer is taken in turn with ours, and the ratio is the median of the pairs. Databases lie
under `.build/tmp`, on the same disk as the peers'.
"""

from __future__ import annotations

import argparse
import gc
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from peers.venvs import SCRATCH, run_peer

from tokix.kernel.costs import Costs
from tokix.kernel.events import Answer, Invoke, TickDone
from tokix.kernel.kernel import Kernel
from tokix.kernel.policy import RR
from tokix.storage import MemoryStore, SqliteStore
from tokix.syscalls import Call, DeviceInfo, GetPid, OpInfo, Recv, Send, Spawn, Think, Wait

Row = dict[str, Any]


class Still:
    """A machine that costs nothing."""

    name = "still"
    stops: frozenset[int] = frozenset()
    vocabulary, frame_size, arithmetic, ahead = 6, 0, "", False

    def __init__(self, frames: int = 1 << 17, window: int = 1 << 15) -> None:
        self.frames, self.slots, self.window = frames, 0, window
        self.costs = Costs()

    def read(self, places: Sequence[int], tokens: int) -> bytes:
        return b""

    def fill(self, frames: Sequence[int], data: bytes) -> None:
        pass

    def preamble(self) -> list[int]:
        return []

    def refuse(self, schema: str) -> str:
        return ""

    def render(self, role: str, text: str) -> list[int]:
        return [1, 2, 3]

    def opening(self) -> list[int]:
        return [4]

    def closing(self) -> list[int]:
        return [5]

    def encode(self, text: str) -> list[int]:
        return [1]

    def piece(self, token: int) -> bytes:
        return b"x"

    def start(self, tick: Any) -> Callable[[], list[int | None]]:
        return partial(self.run, tick)

    def run(self, tick: Any) -> list[int | None]:
        return [7 if row.sampling else None for row in tick.rows]


# ---- programs


async def null(n: int) -> None:
    for _ in range(n):
        await GetPid()


async def nulls(processes: int, n: int) -> None:
    for pid in [await Spawn(program="null", args=[n]) for _ in range(processes)]:
        await Wait(pid=pid)


async def ask(n: int) -> None:
    peer = await Spawn(program="answer")
    for _ in range(n):
        await Send(to=peer, body="ping")
        await Recv(sender=peer)


async def answer() -> None:
    while True:
        await Send(to=(await Recv()).sender, body="pong")


async def idle() -> None:
    await Recv()


async def crowd(n: int) -> None:
    for _ in range(n):
        await Spawn(program="idle")
    await Recv()


async def steps(n: int) -> None:
    for _ in range(n):
        await Call(device="step", op="run")


async def thinkers(n: int) -> None:
    for _ in range(n):
        await Spawn(program="thinker")
    await Recv()


async def thinker() -> None:
    await Think(prompt="x", max_tokens=30_000)


PROGRAMS = {f.__name__: f for f in (null, nulls, ask, answer, idle, crowd, steps, thinkers, thinker)}
#: Pure, as the steps of the peers are treated: run, then recorded, and run again after a crash in between.
STEP = DeviceInfo(name="step", ops=[OpInfo(name="run", doc="", effect="pure", parameters={})])


# ---- the loop


def boot(store: Any, program: str, args: list[Any], **shape: Any) -> Kernel:
    shape = {"policy": RR(), "now": 0.0, "devices": [STEP], **shape}
    return Kernel(store.load(), machine=Still(), programs=PROGRAMS, init=(program, args), **shape)


def drive(kernel: Kernel, store: Any) -> None:
    """Run until nothing is left to do; ops of the device answer at once."""
    interrupts: list[Any] = []
    while True:
        outcome = kernel.step(interrupts, 0.0)
        if outcome.rows:
            store.commit(outcome.rows)
        interrupts = [Answer(effect.key, 1) for effect in outcome.effects if isinstance(effect, Invoke)]
        if not interrupts and kernel.deadline() is None:
            return


def timed(store: Any, program: str, args: list[Any], **shape: Any) -> float:
    """Give the seconds of a run, without the boot."""
    kernel = boot(store, program, args, **shape)
    gc.collect()
    begin = time.perf_counter()
    drive(kernel, store)
    return time.perf_counter() - begin


def with_sqlite(run: Callable[[Any], float], durable: Any = "process") -> float:
    SCRATCH.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(dir=SCRATCH))
    store = SqliteStore(folder / "kernel.db", durable=durable)
    try:
        return run(store)
    finally:
        store.close()
        shutil.rmtree(folder)


# ---- figures


def calls(n: int, repeat: int) -> list[Row]:
    """Cost of calls: in memory, and with the SQLite store, one commit a call and one for many."""

    def us(run: Callable[[], float], count: int) -> float:
        return median(run() / count * 1e6 for _ in range(repeat))

    busy = n // 100
    return [
        {"what": "null call, journalled in memory", "us": us(lambda: timed(MemoryStore(), "null", [n]), n), "goal": 10},
        {"what": "send or recv, in memory", "us": us(lambda: timed(MemoryStore(), "ask", [n // 4]), n)},
        {"what": "spawn, to the first call", "us": us(lambda: timed(MemoryStore(), "crowd", [n // 4]), n // 4)},
        {
            "what": "call, SQLite, alone in its step",
            "us": us(lambda: with_sqlite(lambda s: timed(s, "null", [n // 10], budget=1)), n // 10),
            "goal": 250,
        },
        {
            "what": "call, SQLite, one of 100 in a step",
            "us": us(lambda: with_sqlite(lambda s: timed(s, "nulls", [100, busy], budget=100)), 100 * busy),
            "goal": 60,
        },
    ]


def ticks(count: int, repeat: int) -> list[Row]:
    """Kernel time of a tick while every lane decodes, with and without a long queue."""
    rows = []
    for lanes in (1, 8, 32):
        for waiting in (0, 10_000):
            kernel = boot(MemoryStore(), "thinkers", [lanes + waiting], lanes=lanes, prefill=4096, budget=1 << 20)
            runs = [tick_us(kernel, count) for _ in range(repeat + 1)][1:]
            rows.append(
                {
                    "what": f"tick of {lanes} lanes, {waiting} bursts waiting",
                    "us": median(runs),
                    "us per lane": median(runs) / lanes,
                    "goal": 5 * lanes,
                }
            )
    return rows


def tick_us(kernel: Kernel, count: int) -> float:
    """Give the mean time of a step that ends one tick and forms the next; the machine's time is left out."""
    spent, interrupts = 0.0, []
    for tick, _ in kernel.scheduler.flights:
        interrupts = [TickDone(tick.serial, Still().run(tick))]
    for _ in range(count):
        begin = time.perf_counter()
        outcome = kernel.step(interrupts, 0.0)
        spent += time.perf_counter() - begin
        [tick] = outcome.ticks
        interrupts = [TickDone(tick.serial, Still().run(tick))]
    kernel.step(interrupts, 0.0)
    return spent / count * 1e6


def memory(processes: int) -> Row:
    """Resident memory of so many idle processes, each with its log; measured in an interpreter of its own."""
    code = f"import kernel as k; print(k.resident({processes}))"
    run = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parent, capture_output=True, check=True)
    total = int(run.stdout)
    return {"what": f"{processes:,} idle processes", "MB": total / 1e6, "bytes each": total / processes}


def resident(processes: int) -> int:
    """Give the growth of the resident set, in bytes. The rows go nowhere: the store is on disk in real life."""

    class Nowhere(MemoryStore):
        def commit(self, rows: Any) -> None:
            pass

    def rss() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

    store = Nowhere()
    kernel = boot(store, "crowd", [processes])
    before = rss()
    drive(kernel, store)
    gc.collect()
    assert len(kernel.procs) == processes + 1
    return rss() - before


def recovery(entries: int, processes: int, repeat: int) -> list[Row]:
    """Time to rebuild from SQLite: one long log, and many short ones."""

    def measure(program: str, args: list[Any]) -> Callable[[Any], float]:
        def run(store: Any) -> float:
            drive(boot(store, program, args, budget=10_000), store)
            gc.collect()
            begin = time.perf_counter()
            boot(store, program, args)
            return time.perf_counter() - begin

        return run

    long = median(with_sqlite(measure("steps_then_idle", [entries])) for _ in range(repeat))
    many = median(with_sqlite(measure("crowd", [processes])) for _ in range(repeat))
    return [
        {"what": f"recovery of one log of {entries:,} entries", "ms": long * 1e3, "us per entry": long / entries * 1e6},
        {"what": f"recovery of {processes:,} idle processes", "ms": many * 1e3, "us each": many / processes * 1e6},
    ]


async def steps_then_idle(n: int) -> None:
    for _ in range(n):
        await GetPid()
    await Recv()


PROGRAMS["steps_then_idle"] = steps_then_idle


def peers(n: int, repeat: int) -> list[Row]:
    """The same work in other systems, in turn with ours."""
    pairs = [
        ("request and reply, in memory", "autogen", 10, 5 * n, lambda m: timed(MemoryStore(), "ask", [m])),
        ("request and reply, SQLite, against none", "autogen", None, 5 * n, lambda m: sqlite_run("ask", m)),
        ("step, SQLite WAL NORMAL", "dbos-wal-normal", 10, n, lambda m: sqlite_run("steps", m)),
        ("step, SQLite, defaults of each", "dbos", 10, n, lambda m: sqlite_run("steps", m)),
        ("step, SQLite WAL FULL", "dbos-wal", None, n, lambda m: sqlite_run("steps", m, "power")),
        ("step against superstep, WAL NORMAL", "langgraph-sync-normal", None, n, lambda m: sqlite_run("steps", m)),
        ("step against superstep, WAL FULL", "langgraph-sync", None, n, lambda m: sqlite_run("steps", m, "power")),
    ]
    rows = []
    for what, peer, goal, count, ours in pairs:
        mine, theirs = [], []
        for _ in range(repeat):
            result = run_peer(peer, n=count, repeat=1)
            if result is None:
                break
            theirs.append(result["us"][0])
            mine.append(ours(count) / count * 1e6)
        if theirs:
            ratios = [b / a for a, b in zip(mine, theirs, strict=True)]
            row = {"what": what, "peer": peer, "tokix us": median(mine), "peer us": median(theirs)}
            rows.append({**row, "ratio": median(ratios), "from": min(ratios), "to": max(ratios), "goal": goal})
    return rows


def sqlite_run(program: str, n: int, durable: str = "process") -> float:
    return with_sqlite(lambda store: timed(store, program, [n]), durable)


# ---- the report


def show(title: str, rows: list[Row]) -> None:
    print(f"\n{title}")
    for row in rows:
        figures = ", ".join(f"{key} {value:,.1f}" for key, value in row.items() if isinstance(value, float))
        goal = f"   (goal {row['goal']:g})" if row.get("goal") else ""
        peer = f" [{row['peer']}]" if "peer" in row else ""
        print(f"  {row['what'] + peer:<66} {figures}{goal}")


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the kernel, and peers on the same work.")
    parser.add_argument("--quick", action="store_true", help="fewer and shorter runs")
    parser.add_argument("--no-peers", action="store_true", help="leave out the other systems")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here too")
    options = parser.parse_args()
    n, repeat = (2_000, 3) if options.quick else (20_000, 7)
    report = {
        "calls": calls(n, repeat),
        "ticks": ticks(n // 20, repeat),
        "memory": [memory(10_000)] if options.quick else [memory(10_000), memory(100_000)],
        "recovery": recovery(n, n // 2, max(3, repeat // 2)),
        "peers": [] if options.no_peers else peers(n // 100, repeat),
    }
    for title, rows in report.items():
        show(title, rows)
    if options.json:
        options.json.write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
