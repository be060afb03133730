"""How long a person waits beside busy agents: `python benchmarks/response.py [--quick] [--json FILE]`.

One interactive agent asks short questions, with pauses; beside it 1 to 16 batch agents think all the time. Each mix
runs on the real model under FCFS, RR and PRIORITY (the person at nice −10, the batch at nice 10), and with a lock: one
burst at a time, from its prompt to its last token, as servers do that only serialise. The lock is the same machine with
one lane and no turns, so that only the scheduling differs.

Response is from the question to its first token, completion to its last one, counted in ticks and in seconds. The mixes
are interleaved, round by round; a figure is the median over all questions of all rounds.
"""

from __future__ import annotations

import argparse
import json
import platform
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import anyio
from rich.console import Console
from rich.table import Table

from tokix.boot import boot
from tokix.kernel.policy import FCFS, RR, Policy, Priority
from tokix.machines import load
from tokix.storage import MemoryStore
from tokix.syscalls import ChatMessage, Sleep, Spawn, Think, Wait
from tokix.terminal import Terminal
from tokix.trace import Trace

QUANTUM, LANES = 8, 8
TOPICS = ("the sea", "a lighthouse", "an old clock", "the first snow", "a market", "a long journey", "bees", "bread")


class Mix(NamedTuple):
    """A way to share the machine."""

    policy: Callable[[], Policy]
    lanes: int
    #: The nice values of the person and of the batch.
    person: int
    batch: int


MIXES = {
    "lock": Mix(FCFS, 1, 0, 0),
    "FCFS": Mix(FCFS, LANES, 0, 0),
    "RR": Mix(lambda: RR(QUANTUM), LANES, 0, 0),
    "PRIORITY": Mix(lambda: Priority(QUANTUM), LANES, -10, 10),
}


async def batch(number: int) -> None:
    """Write story after story."""
    for chapter in range(1_000_000):
        topic = TOPICS[(number + chapter) % len(TOPICS)]
        prompt = f"Story {number}, chapter {chapter}: write a long tale of {topic}."
        await Think(messages=[ChatMessage(role="user", text=prompt)], max_tokens=96, temperature=0.8)


async def person(questions: int) -> None:
    """Ask, and read the answer."""
    for number in range(questions):
        await Sleep(seconds=1.0)
        prompt = f"Question {number}: name a city in Europe and say why it is nice."
        await Think(messages=[ChatMessage(role="user", text=prompt)], max_tokens=16)


async def once(machine: Any, mix: Mix, agents: int, questions: int) -> tuple[Trace, int]:
    """Run a mix; gives its trace and the pid of the person."""
    trace = Trace()
    async with boot(
        machine=machine,
        store=MemoryStore(),
        policy=mix.policy(),
        lanes=mix.lanes,
        programs={"batch": batch, "person": person},
        drivers={},
        terminal=Terminal(),
    ) as system:
        system.observers.append(trace)
        async with system.attach("benchmark") as client:
            for number in range(agents):
                await client.call(Spawn(program="batch", args=[number], nice=mix.batch))
            while len(trace.beats) < 12:  # until all of them are at work
                await anyio.sleep(0.05)
            pid = await client.call(Spawn(program="person", args=[questions], nice=mix.person))
            await client.call(Wait(pid=pid))
    return trace, pid


def figures(trace: Trace, pid: int) -> list[dict[str, float]]:
    """Give what each question took."""
    ended = {beat.number: beat.ended for beat in trace.beats}
    return [
        {
            "response ticks": wait.first - wait.arrived,
            "response s": ended[wait.first] - wait.began,
            "completion ticks": wait.ended - wait.arrived,
            "completion s": ended[wait.ended] - wait.began,
        }
        for wait in trace.lives[pid].waits
        if wait.first is not None and wait.ended is not None
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[2])
    parser.add_argument("--quick", action="store_true", help="fewer agents, fewer questions, one round")
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    parser.add_argument("--model", default="smollm2")
    options = parser.parse_args()
    counts, rounds, questions = ((1, 8), 1, 2) if options.quick else ((1, 4, 8, 16), 2, 2)
    machine, _ = load(options.model)
    console = Console(width=120)
    found: dict[tuple[int, str], list[dict[str, float]]] = defaultdict(list)
    speed: dict[tuple[int, str], list[float]] = defaultdict(list)
    for round_ in range(rounds):
        for agents in counts:
            for name, mix in MIXES.items():
                console.print(f"round {round_ + 1}: {agents} batch agents, {name} …", style="dim")
                trace, pid = anyio.run(once, machine, mix, agents, questions)
                found[agents, name] += figures(trace, pid)
                speed[agents, name].append(trace.sampled / trace.seconds)
    show(console, found, speed)
    if options.json:
        report = [
            {"agents": agents, "mix": name, "questions": values, "tokens/s": speed[agents, name]}
            for (agents, name), values in found.items()
        ]
        options.json.write_text(json.dumps({"machine": platform.platform(), "model": options.model, "runs": report}))


def show(console: Console, found: Any, speed: Any) -> None:
    columns = ("response ticks", "response s", "completion ticks", "completion s")
    table = Table("batch agents", "mix", *columns, "lock / this", "tokens/s", title="medians over all questions")
    for (agents, name), values in found.items():
        row = [median(value[column] for value in values) for column in columns]
        lock = median(value["response s"] for value in found[agents, "lock"])
        texts = [f"{value:.{0 if 'ticks' in column else 2}f}" for column, value in zip(columns, row, strict=True)]
        table.add_row(str(agents), name, *texts, f"{lock / row[1]:.1f} ×", f"{median(speed[agents, name]):.0f}")
    console.print(table)


if __name__ == "__main__":
    main()
