"""The machine against its peers: `python benchmarks/machine.py [--quick] [--peers a,b] [--json FILE] [--svg FILE]`.

SmolLM2-135M decodes 1, 8, 16 and 32 sequences behind 256, 512 and 1024 tokens of English, and reads such a prompt. The
peers: llama.cpp with all sequences in one batch and Q4_1 weights, at its best number of threads; transformers with one
`generate` after the other; its continuous batching. Each has an environment of its own (`peers/`); one that cannot be
had is named, with the reason. Answers have a fixed length, whatever ends a text.

Rounds of all take turns. A ratio is the peer's time over ours, the median over rounds; beside it that of the fastest
rounds, and that of the processor time: with `--threads 1`, this one hardly depends on other work on the same cores.
The roofline: the bytes that a tick has to read, which are the weights once and the keys and values of each row, over
the bandwidth of a copy that is measured here. Last: the same through the kernel, with its own time for each tick.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch, as the machine has it

import torch
from peers.bars import Bar, drawn
from peers.children import Child, Gone
from rich.console import Console
from rich.table import Table

from tokix.kernel.arch.hf import machine, models
from tokix.kernel.arch.hf.attention import record
from tokix.kernel.arch.hf.reference import DEFAULT
from tokix.kernel.events import Row, Sampling, Tick, TickDone
from tokix.kernel.frames import FRAME, frames_for
from tokix.kernel.kernel import Kernel
from tokix.kernel.policy import RR
from tokix.storage import MemoryStore
from tokix.syscalls import Spawn, Think, Wait

ROWS, CONTEXTS, ROUNDS, TICKS, CHUNK = (1, 8, 16, 32), (256, 512, 1024), 5, 8, 256
PEERS = {
    "llama.cpp": "llama_batch",
    "generate": "transformers_alone",
    "continuous batching": "transformers_batch",
}
#: The goals of decode by peer and number of rows, and of prefill; nothing is asked elsewhere.
GOALS = {("llama.cpp", 1): 0.5, ("llama.cpp", 8): 1.5, ("llama.cpp", 16): 2.0, ("llama.cpp", 32): 2.5}
GOALS |= {("generate", 8): 10.0, **{("continuous batching", rows): 3.0 for rows in ROWS}}
PREFILL = {"llama.cpp": 2.0}
#: Continuous batching compares each query with all keys of all sequences: beyond so many tokens it takes minutes.
MOST = {"continuous batching": 8 * 512}
TEXT = Path(__file__).parents[1] / "LICENSE"


class Ours:
    """The torch machine, with rows as the kernel makes them."""

    def __init__(self, loaded: machine.TorchMachine) -> None:
        self.machine = loaded
        loaded.stops = frozenset()

    def ask(self, do: str, **what: Any) -> dict[str, Any]:
        """Answer as a peer does."""
        begin = time.process_time()
        answer: dict[str, Any] = getattr(self, do)(**what)
        return {**answer, "cpu": time.process_time() - begin}

    def prepare(self, prompts: list[list[int]], room: int) -> None:
        self.prompts = prompts
        per = [frames_for(len(prompt) + room) for prompt in prompts]
        starts = [sum(per[:i]) for i in range(len(per))]
        self.tables = [tuple(range(start, start + count)) for start, count in zip(starts, per, strict=True)]
        self.first = [self.read(i) for i in range(len(prompts))]

    def read(self, i: int) -> int:
        """Compute a prompt in pieces; gives the token behind it."""
        token: int | None = None
        prompt = self.prompts[i]
        for start in range(0, len(prompt), CHUNK):
            piece = prompt[start : start + CHUNK]
            last = start + len(piece) == len(prompt)
            row = Row(self.tables[i], start, piece, Sampling(str(i)) if last else None)
            [token] = self.machine.run(Tick(1, [row], []))
        assert token is not None
        return token

    def decode(self, ticks: int) -> dict[str, Any]:
        ms, tokens = [], self.first
        for tick in range(ticks):
            rows = [
                Row(table, len(prompt) + tick, [token], Sampling(str(i)))
                for i, (table, prompt, token) in enumerate(zip(self.tables, self.prompts, tokens, strict=True))
            ]
            begin = time.perf_counter()
            tokens = [token for token in self.machine.run(Tick(1, rows, [])) if token is not None]
            ms.append((time.perf_counter() - begin) * 1e3)
        return {"ms": ms, "tokens": self.first}

    def prefill(self) -> dict[str, Any]:
        begin = time.perf_counter()
        self.read(0)
        return {"ms": [(time.perf_counter() - begin) * 1e3]}

    def bytes_of(self, rows: int, context: int) -> float:
        """Count what a tick has to read."""
        model, pool = self.machine._model, self.machine._places.pool
        numbers = sum(p.numel() for p in {id(p): p for p in model.parameters()}.values())
        halves = 2 if self.machine.weights == "fp16" else 4
        return halves * numbers + rows * context * pool.memory.element_size() * record(pool.shapes) / FRAME


def bandwidth() -> float:
    """Measure the bytes that a copy moves in a second, there and back."""
    source = torch.ones(1 << 26)
    target = torch.empty_like(source)
    target.copy_(source)
    best = min(timed(lambda: target.copy_(source)) for _ in range(5))
    return 2 * source.nbytes / best


def timed(work: Any) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


async def thinkers(rows: int, text: str, tokens: int) -> None:
    for pid in [await Spawn(program="thinker", args=[i, text, tokens]) for i in range(rows)]:
        await Wait(pid=pid)


async def thinker(number: int, text: str, tokens: int) -> None:
    await Think(prompt=f"{number}. {text}", max_tokens=tokens)


def through_kernel(loaded: machine.TorchMachine, rows: int, context: int, ticks: int) -> dict[str, float]:
    """Let so many processes think; gives the median ms of a tick in which all decode, and the kernel's µs in it."""
    text = TEXT.read_text(encoding="utf-8")
    text = text[: len(text) * context // len(loaded.encode(text))]
    kernel = Kernel(
        MemoryStore().load(),
        machine=loaded,
        programs={"thinkers": thinkers, "thinker": thinker},
        init=("thinkers", [rows, text, ticks + rows + 8]),
        policy=RR(),
        lanes=rows,
        prefill=4 * CHUNK,
        devices=[],
        now=0.0,
    )
    ms, us, interrupts = list[float](), list[float](), list[Any]()
    while len(ms) < ticks:
        begin = time.perf_counter()
        [tick] = kernel.step(interrupts, 0.0).ticks
        middle = time.perf_counter()
        interrupts = [TickDone(tick.serial, loaded.run(tick))]
        if len(tick.rows) == rows and all(len(row.feed) == 1 for row in tick.rows):
            ms.append((time.perf_counter() - begin) * 1e3)
            us.append((middle - begin) * 1e6)
    return {"ms": median(ms), "kernel us": median(us)}


def prompts_of(loaded: machine.TorchMachine, rows: int, context: int) -> list[list[int]]:
    """Give English, each row from another place on."""
    tokens = loaded.encode(TEXT.read_text(encoding="utf-8"))
    tokens = tokens * (1 + 2 * context // len(tokens))
    return [tokens[37 * i : 37 * i + context] for i in range(rows)]


def compared(works: dict[str, Any], what: str, rounds: int, **more: Any) -> dict[str, Any]:
    """Let all take turns, `tokix` first; gives ms and ratios of each, and drops who dies."""
    times: dict[str, list[float]] = {name: [] for name in works}
    cpu: dict[str, list[float]] = {name: [] for name in works}
    first: dict[str, int] = {}
    for _ in range(rounds):
        for name in list(works):
            try:
                answer = works[name].ask(what, **more)
            except Gone as gone:
                missing(name, gone)
                del works[name], times[name], cpu[name]
                continue
            times[name].append(median(answer["ms"]))
            cpu[name].append(answer["cpu"])
            first[name] = answer.get("tokens", [-1])[0]
    ours = times["tokix"]
    return {
        name: {
            "ms": median(taken),
            "ratio": median(theirs / mine for theirs, mine in zip(taken, ours, strict=True)),
            "fastest": min(taken) / min(ours),
            "cpu": median(theirs / mine for theirs, mine in zip(cpu[name], cpu["tokix"], strict=True))
            * scale(name, works),
            "first token": first[name],
        }
        for name, taken in times.items()
    }


def scale(name: str, works: dict[str, Any]) -> int:
    """Give what the processor time of a peer has to be taken times: `generate` is measured with one sequence."""
    return len(works["tokix"].prompts) if name == "generate" else 1


def missing(name: str, gone: Gone) -> None:
    print(f"peer {name} left out: {gone}", file=sys.stderr)


def started(names: Sequence[str], folder: Path) -> dict[str, Child]:
    found = {}
    for name in names:
        try:
            child = Child(PEERS[name])
            about = child.ask("load", folder=str(folder))
        except Gone as gone:
            missing(name, gone)
            continue
        found[name] = child
        print(f"{name}: {', '.join(str(about[key]) for key in about if key != 'cpu')}", file=sys.stderr)
    return found


def measure(ours: Ours, peers: dict[str, Child], rows: int, context: int, rounds: int, copy: float) -> dict[str, Any]:
    """Measure one shape."""
    prompts = prompts_of(ours.machine, rows, context)
    works: dict[str, Any] = {"tokix": ours}
    ours.prepare(prompts, TICKS + 1)
    figure: dict[str, Any] = {"rows": rows, "context": context, "settings": {}}
    for name, child in list(peers.items()):
        if rows * context <= MOST.get(name, rows * context):
            try:
                figure["settings"][name] = child.ask(
                    "prepare", prompts=prompts, room=TICKS + 1, threads=ours.machine._threads
                )
                works[name] = child
            except Gone as gone:
                missing(name, gone)
    figure["decode"] = compared(works, "decode", rounds, ticks=TICKS)
    least = ours.bytes_of(rows, context + TICKS // 2) / copy * 1e3
    figure["roofline"] = least / figure["decode"]["tokix"]["ms"]
    if rows == 1:
        works.pop("continuous batching", None)  # it starts a thread and a cache for each job
        figure["prefill"] = compared(works, "prefill", rounds)
    for name in [name for name in peers if name in figure["settings"] and name not in figure["decode"]]:
        del peers[name]
    figure["kernel"] = through_kernel(ours.machine, rows, context, TICKS)
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one context, 1 and 8 rows, two rounds")
    parser.add_argument("--rows", type=int, nargs="+")
    parser.add_argument("--contexts", type=int, nargs="+")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--threads", type=int, help="of each, or fewer where that is faster (default: the cores)")
    parser.add_argument("--peers", default=",".join(PEERS), help="which, with commas between (default: %(default)s)")
    parser.add_argument("--weights", default="fp16", help="those of tokix (default: %(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there, too")
    parser.add_argument("--svg", type=Path, metavar="FILE", help="draw the ratios of decode there")
    options = parser.parse_args()
    if unknown := set(filter(None, options.peers.split(","))) - set(PEERS):
        parser.error(f"there is no peer {min(unknown)}; there are {', '.join(PEERS)}")
    rows = options.rows or ((1, 8) if options.quick else ROWS)
    contexts = options.contexts or ((256,) if options.quick else CONTEXTS)
    rounds = options.rounds or (2 if options.quick else ROUNDS)
    folder = models.locate(DEFAULT)
    most = max(rows) * (frames_for(max(contexts) + TICKS + max(rows) + 64) + 1)
    ours = Ours(machine.load(folder, "benchmark", weights=options.weights, frames=most, threads=options.threads))
    for note in ours.machine.notes():
        print(note, file=sys.stderr)
    peers = started([name for name in options.peers.split(",") if name], folder)
    copy = bandwidth()
    figures = []
    for context in contexts:
        for count in rows:
            figures.append(measure(ours, peers, count, context, rounds, copy))
            show(figures[-1:], list(peers), Console(stderr=True))
            if options.json:
                report = {"bandwidth GB/s": copy / 1e9, "weights": ours.machine.weights, "figures": figures}
                options.json.write_text(json.dumps(report, indent=2) + "\n")
    show(figures, list(PEERS), Console(width=130))
    print(f"a copy moves {copy / 1e9:.1f} GB/s, read and written")
    if options.svg:
        options.svg.write_text(drawn("decode: times as fast as the peer", bars(figures)), encoding="utf-8")
    for child in peers.values():
        child.close()


def bars(figures: list[dict[str, Any]]) -> list[Bar]:
    return [
        Bar(f"{figure['rows']} × {figure['context']}, {name}", figure["decode"][name]["ratio"], goal(name, figure))
        for figure in figures
        for name in PEERS
        if name in figure["decode"]
    ]


def goal(name: str, figure: dict[str, Any]) -> float | None:
    return GOALS.get((name, figure["rows"]))


def show(figures: list[dict[str, Any]], names: list[str], console: Console) -> None:
    table = Table(
        "", "tokix, ms", "of roofline", *(f"{name}: ratio (fastest, cpu)" for name in names), "kernel, ms (its µs)"
    )
    for figure in figures:
        kernel = f"{figure['kernel']['ms']:.0f} ({figure['kernel']['kernel us']:.0f})"
        for what in ("decode", "prefill"):
            if what not in figure:
                continue
            found = figure[what]
            goals = {name: goal(name, figure) if what == "decode" else PREFILL.get(name) for name in names}
            cells = [cell(found.get(name), goals[name]) for name in names]
            title = (
                f"decode {figure['rows']} × {figure['context']}" if what == "decode" else f"read {figure['context']}"
            )
            share = f"{figure['roofline']:.0%}" if what == "decode" else ""
            table.add_row(title, f"{found['tokix']['ms']:.0f}", share, *cells, kernel if what == "decode" else "")
    console.print(table)


def cell(found: dict[str, float] | None, goal: float | None) -> str:
    if found is None:
        return "–"
    verdict = "" if goal is None else f" of {goal:g} {'✓' if found['ratio'] >= goal else '✗'}"
    return f"{found['ratio']:.2f} ({found['fastest']:.2f}, {found['cpu']:.2f}){verdict}"


if __name__ == "__main__":
    main()
