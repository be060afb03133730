"""Agents on one model, against other ways to share it: `python benchmarks/agents.py [--quick] [--json F] [--svg F]`.

Agents that share a system prompt of 400 tokens think, wait for a tool (lognormal, median half a second), read what it
said (50 to 200 tokens), and think again, 4 to 8 times. Most answers are short calls of tools, some are longer, few are
long; the lengths come from a seed, and whatever ends a text is ignored. Ways to share the machine:

    MIXED, RR, FCFS      tokix with 8 lanes
    lock                 one burst at a time, first come, first served, as AIOS does it
    retry                8 lanes, and a full pool is an error, after which an agent waits and asks again, as in AIOS
    llama-server         llama.cpp's own server: as many slots, first come, first served, prefixes reused in a slot

`lock` and `retry` are the same machine, so only the sharing differs; llama-server has other weights (Q4_1) and another
engine. All run the same trace, in turns, round by round. Slowdown is completion over that of the same agent alone on
the same engine; Jain's index is over slowdowns (1: all are slowed down alike).
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import mean, median, quantiles
from typing import Any, NamedTuple

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch, as the machine has it

import anyio
from peers.bars import Bar, drawn
from peers.children import Gone
from peers.server import Server
from rich.console import Console
from rich.table import Table

from tokix.boot import boot
from tokix.kernel.arch.hf import machine, models
from tokix.kernel.arch.hf.reference import DEFAULT
from tokix.kernel.frames import frames_for
from tokix.kernel.policy import FCFS, RR, Mixed, Policy
from tokix.storage import MemoryStore
from tokix.syscalls import Append, Sleep, Spawn, Think, Wait
from tokix.terminal import Terminal
from tokix.trace import Trace

LANES, QUANTUM, PREFIX, RETRY_S = 8, 16, 400, 0.5
TEXT = Path(__file__).parents[1] / "LICENSE"


class Turn(NamedTuple):
    """One round of an agent: tokens of its answer, seconds of its tool, tokens of what the tool says."""

    answer: int
    tool: float
    observation: int


class Load(NamedTuple):
    """What all of them do."""

    words: str
    system: str
    agents: list[list[Turn]]


class Outcome(NamedTuple):
    """What came of an agent: when it began and ended, and the seconds to the first token of each answer."""

    began: float
    ended: float
    firsts: list[float]


def made(loaded: machine.TorchMachine, agents: int, seed: int, turns: tuple[int, int], longest: int) -> Load:
    draws = random.Random(seed)
    words = TEXT.read_text(encoding="utf-8")
    per_token = len(words) / len(loaded.encode(words))

    def answer() -> int:
        kind = draws.random()
        size = draws.randint(16, 48) if kind < 0.6 else draws.randint(64, 128) if kind < 0.9 else 400
        return min(size, longest)

    def turn() -> Turn:
        return Turn(answer(), draws.lognormvariate(-0.69, 0.6), int(draws.randint(50, 200) * per_token))

    system = words[: int(PREFIX * per_token)]
    return Load(words, system, [[turn() for _ in range(draws.randint(*turns))] for _ in range(agents)])


def observation(load: Load, agent: int, step: int, turn: Turn) -> str:
    start = (1201 * agent + 307 * step) % (len(load.words) - turn.observation)
    return f"Agent {agent}, step {step}: {load.words[start : start + turn.observation]}"


# ---- tokix


class Way(NamedTuple):
    """A way to share the machine."""

    policy: Callable[[], Policy]
    lanes: int = LANES
    #: Whether a full pool is an error.
    retries: bool = False


WAYS = {
    "MIXED": Way(lambda: Mixed(QUANTUM)),
    "RR": Way(lambda: RR(QUANTUM)),
    "FCFS": Way(FCFS),
    "lock": Way(FCFS, 1),
    "retry": Way(FCFS, LANES, True),
}
ALONE, SERVER, SERVER_ALONE = "alone", "llama-server", "llama-server, alone"


class Gate:
    """A pool that says no: whoever does not fit gets an error, and comes back later."""

    def __init__(self, frames: int) -> None:
        self.free = self.all = frames

    def enter(self, frames: int) -> bool:
        if frames > self.free:
            return False
        self.free -= frames
        return True

    def leave(self, frames: int) -> None:
        self.free += frames


def programs(load: Load, gate: Gate | None) -> dict[str, Any]:
    async def agent(number: int) -> None:
        """Do all turns. The context of an agent stays in the pool from its first answer on, if there is a gate."""
        held = tokens = 0
        await Append(role="system", text=load.system)
        for step, turn in enumerate(load.agents[number]):
            await Append(text=observation(load, number, step, turn))
            tokens += turn.observation // 3 + turn.answer + 16
            if gate:
                need = min(frames_for(PREFIX + tokens), gate.all)
                gate.leave(held)
                while not gate.enter(need):
                    held = 0
                    await Sleep(seconds=RETRY_S)
                held = need
            await Think(max_tokens=turn.answer)
            await Sleep(seconds=turn.tool)
        if gate:
            gate.leave(held)

    return {"agent": agent}


async def on_tokix(loaded: machine.TorchMachine, load: Load, way: Way, one_by_one: bool) -> list[Outcome]:
    trace, pids = Trace(), []
    gate = Gate(loaded.frames) if way.retries else None
    async with boot(
        machine=loaded,
        store=MemoryStore(),
        policy=way.policy(),
        lanes=way.lanes,
        programs=programs(load, gate),
        drivers={},
        terminal=Terminal(),
    ) as system:
        system.observers.append(trace)
        async with system.attach("benchmark") as client:
            for number in range(len(load.agents)):
                pids.append(await client.call(Spawn(program="agent", args=[number])))
                if one_by_one:
                    await client.call(Wait(pid=pids[-1]))
            for pid in [] if one_by_one else pids:
                await client.call(Wait(pid=pid))
    return [outcome(trace, pid) for pid in pids]


def outcome(trace: Trace, pid: int) -> Outcome:
    life = trace.lives[pid]
    assert life.ended is not None
    firsts = [wait.responded - wait.began for wait in life.waits if wait.responded is not None]
    return Outcome(life.born, life.ended, firsts)


# ---- llama-server


def on_server(server: Server, loaded: machine.TorchMachine, load: Load, one_by_one: bool) -> list[Outcome]:
    """Let a thread be each agent; it sends the tokens that tokix would have."""
    found: list[Outcome | None] = [None] * len(load.agents)
    failures: list[BaseException] = []

    def agent(number: int) -> None:
        try:
            found[number] = alone_on_server(server, loaded, load, number)
        except (OSError, ValueError) as error:
            failures.append(error)

    threads = [threading.Thread(target=agent, args=(number,)) for number in range(len(load.agents))]
    for thread in threads:
        thread.start()
        if one_by_one:
            thread.join()
    for thread in threads:
        thread.join()
    if failures:
        raise Gone(str(failures[0]))
    return [one for one in found if one]


def alone_on_server(server: Server, loaded: machine.TorchMachine, load: Load, number: int) -> Outcome:
    began, firsts = time.perf_counter(), []
    tokens = [*loaded.preamble(), *loaded.render("system", load.system)]
    for step, turn in enumerate(load.agents[number]):
        tokens += [*loaded.render("user", observation(load, number, step, turn)), *loaded.opening()]
        first, said = server.complete(tokens, turn.answer)
        firsts.append(first)
        tokens += [*said, *loaded.closing()]
        time.sleep(turn.tool)
    return Outcome(began, time.perf_counter(), firsts)


@contextmanager
def serving(lanes: int, window: int) -> Iterator[Server | None]:
    """Give a server, or None, with the reason on stderr."""
    try:
        server = Server(lanes, window)
    except Gone as gone:
        print(f"peer {SERVER} left out: {gone}", file=sys.stderr)
        yield None
        return
    try:
        yield server
    finally:
        server.close()


# ---- figures


def figures(outcomes: list[Outcome], alone: list[Outcome]) -> dict[str, float]:
    took = [one.ended - one.began for one in outcomes]
    slow = [mine / (solo.ended - solo.began) for mine, solo in zip(took, alone, strict=True)]
    firsts = [first for one in outcomes for first in one.firsts]
    return {
        "makespan s": max(one.ended for one in outcomes) - min(one.began for one in outcomes),
        "completion p50 s": median(took),
        "completion p95 s": high(took),
        "TTFT p50 s": median(firsts),
        "TTFT p95 s": high(firsts),
        "slowdown": mean(slow),
        "Jain": sum(slow) ** 2 / (len(slow) * sum(x * x for x in slow)),
    }


def high(values: list[float]) -> float:
    return quantiles(values, n=20, method="inclusive")[-1] if len(values) > 1 else values[0]


def measure(loaded: machine.TorchMachine, load: Load, names: list[str], server: Server | None) -> dict[str, Any]:
    """Run one round of all."""
    console = Console(stderr=True)
    found, solo = {}, anyio.run(on_tokix, loaded, load, Way(FCFS), True)
    for name in names:
        console.print(name, style="dim")
        if name != SERVER:
            found[name] = figures(anyio.run(on_tokix, loaded, load, WAYS[name], False), solo)
        elif server:
            alone = on_server(server, loaded, load, True)
            found[name] = figures(on_server(server, loaded, load, False), alone)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="4 agents, 2 turns, short answers, one round")
    parser.add_argument("--agents", type=int, help="how many (default: 16)")
    parser.add_argument("--rounds", type=int, help="of the whole (default: 3)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--frames", type=int, help="of the pool (default: half of what all of them need)")
    parser.add_argument("--ways", nargs="+", default=[*WAYS, SERVER], choices=[*WAYS, SERVER])
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there, too")
    parser.add_argument("--svg", type=Path, metavar="FILE", help="draw the ratios of makespans there")
    options = parser.parse_args()
    agents, rounds = options.agents or (4 if options.quick else 16), options.rounds or (1 if options.quick else 3)
    turns, longest = ((2, 2), 24) if options.quick else ((4, 8), 400)
    longest_context = PREFIX + turns[1] * (longest + 250)
    frames = options.frames or max(agents * frames_for(longest_context) // 4, frames_for(longest_context) + 1)
    loaded = machine.load(models.locate(DEFAULT), "benchmark", frames=frames)
    loaded.stops = frozenset()
    found: list[dict[str, Any]] = []
    with serving(LANES, min(longest_context, loaded.window)) if SERVER in options.ways else unserved() as server:
        for round_ in range(rounds):
            load = made(loaded, agents, options.seed + round_, turns, longest)
            found.append(measure(loaded, load, options.ways, server))
    show(found)
    if options.json:
        options.json.write_text(json.dumps({"agents": agents, "frames": frames, "rounds": found}, indent=2) + "\n")
    if options.svg:
        bars = [Bar(name, against(found, name, "makespan s")) for name in found[0]]
        options.svg.write_text(drawn("makespan: times that of the first way", bars), encoding="utf-8")


@contextmanager
def unserved() -> Iterator[None]:
    yield None


def against(found: list[dict[str, Any]], name: str, what: str) -> float:
    """Give the median of the ratios to the first way in the same round."""
    first = next(iter(found[0]))
    return median(figures[name][what] / figures[first][what] for figures in found)


def show(found: list[dict[str, Any]]) -> None:
    first, columns = next(iter(found[0])), list(next(iter(found[0].values())))
    table = Table("", *columns, f"makespan / {first}", f"TTFT p95 / {first}", title="medians over rounds")
    for name in found[0]:
        cells = [f"{median(figures[name][column] for figures in found):.2f}" for column in columns]
        ratios = [f"{against(found, name, what):.2f} ×" for what in ("makespan s", "TTFT p95 s")]
        table.add_row(name, *cells, *ratios)
    Console(width=150).print(table)


if __name__ == "__main__":
    main()
