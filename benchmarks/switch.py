"""What a context switch costs: `python benchmarks/switch.py [--quick] [--model MODEL] [--json FILE] [--svg FILE]`.

A context of some length loses its lane, and gets it back with one token to decode. Three kinds: it has kept its frames
(deschedule); they were moved to the swap file and are moved back (swap); they were dropped, and all of its tokens are
fed again, in the pieces that the kernel makes of a prompt (drop). What is timed is everything between the two decodes
of its neighbour, which it makes way for; the kinds take turns, round by round. A figure is the median of the rounds in
ms without the decode itself, a ratio the median of the ratios to the drop of the same round. The last column is what
the kernel takes for its own part of a swap: to let a context sleep, find its frames and make room for them.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

from peers.bars import Bar, drawn
from rich.console import Console
from rich.table import Table

from tokix.kernel.arch.hf import machine, models
from tokix.kernel.arch.hf.reference import DEFAULT
from tokix.kernel.context import Context
from tokix.kernel.events import Row, Sampling, Tick
from tokix.kernel.frames import FramePool, frames_for
from tokix.kernel.mmu import Mmu
from tokix.machines import separated

CONTEXTS, ROUNDS, PREFILL = (64, 256, 1024, 2048), 9, 64
KINDS = ("deschedule", "swap", "drop")


class Switch:
    """A context in the first frames of a machine, with room for it in the swap file."""

    def __init__(self, driven: machine.TorchMachine, context: int) -> None:
        self.machine, self.context = driven, context
        self.table = tuple(range(frames_for(context + 1)))
        self.slots = [driven.frames + place for place in self.table]
        self.tokens = [100 + i % 1000 for i in range(context + 1)]

    def decode(self, moves: list[tuple[int, int]] | None = None) -> None:
        row = Row(self.table, self.context, self.tokens[-1:], Sampling("s"))
        self.machine.run(Tick(1, [row], moves or []))

    def deschedule(self) -> None:
        self.decode()

    def swap(self) -> None:
        self.decode([*zip(self.table, self.slots, strict=True), *zip(self.slots, self.table, strict=True)])

    def drop(self) -> None:
        for start, end in pairwise([*range(0, self.context, PREFILL), self.context]):
            self.machine.run(Tick(1, [Row(self.table, start, self.tokens[start:end], None)], []))
        self.decode()

    def kernel(self) -> float:
        """Give the ms that the kernel takes for its part of a swap, out and back."""
        mmu = Mmu(FramePool(len(self.table), len(self.table)), self.machine.costs)
        ctx, other = Context(tokens=self.tokens[:-1]), Context(tokens=[1] * self.context)
        mmu.grow(ctx, 0, self.context, 0)
        mmu.fed(ctx, self.context)
        ctx.tokens.append(self.tokens[-1])
        begin = time.perf_counter()
        mmu.sleep(ctx)
        mmu.grow(other, 0, self.context, 0)  # who takes the frames, and gives them back
        mmu.release(other)
        mmu.adopt(ctx, mmu.found(ctx))
        mmu.wake(ctx)
        return (time.perf_counter() - begin) * 1e3


def timed(work: Callable[[], object]) -> float:
    """Give the ms that some work takes."""
    begin = time.perf_counter()
    work()
    return (time.perf_counter() - begin) * 1e3


def measure(driven: machine.TorchMachine, context: int, rounds: int) -> dict[str, Any]:
    switch = Switch(driven, context)
    switch.drop()
    taken: dict[str, list[float]] = {kind: [] for kind in KINDS}
    alone: list[float] = []
    for _ in range(rounds):
        alone.append(timed(switch.decode))
        for kind in KINDS:
            taken[kind].append(timed(getattr(switch, kind)))
    cost = {kind: [t - a for t, a in zip(times, alone, strict=True)] for kind, times in taken.items()}
    return {
        "context": context,
        "decode": median(alone),
        **{kind: median(times) for kind, times in cost.items()},
        "drop / swap": median(d / s for d, s in zip(cost["drop"], cost["swap"], strict=True)),
        "kernel": median(switch.kernel() for _ in range(rounds)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description="What a context switch costs, by its kind and the length of the context."
    )
    parser.add_argument("--quick", action="store_true", help="two lengths, three rounds")
    parser.add_argument("--model", default=DEFAULT, help="(default: %(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there, too")
    parser.add_argument("--svg", type=Path, metavar="FILE", help="write a picture there")
    options = parser.parse_args()
    reference, weights = separated(options.model)
    most = frames_for(max(CONTEXTS) + 1)
    driven = machine.load(models.locate(reference), "benchmark", weights=weights, frames=most, slots=most)
    lengths = CONTEXTS[:2] if options.quick else [c for c in CONTEXTS if c < driven.window]
    figures = [measure(driven, context, 3 if options.quick else ROUNDS) for context in lengths]
    show(figures, driven)
    if options.json:
        options.json.write_text(json.dumps({"model": driven.name, "figures": figures}, indent=2) + "\n")
    if options.svg:
        bars = [Bar(f"{figure['context']} tokens", figure["drop / swap"]) for figure in figures]
        options.svg.write_text(drawn("a switch by swap: times as fast as by drop", bars), encoding="utf-8")


def show(figures: list[dict[str, Any]], driven: machine.TorchMachine) -> None:
    table = Table(*figures[0], title=f"{driven.name}: ms of a switch, beside a decode")
    for figure in figures:
        table.add_row(*(str(v) if isinstance(v, int) else f"{v:.3g}" for v in figure.values()))
    Console().print(table)


if __name__ == "__main__":
    main()
