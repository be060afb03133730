"""What a tick costs on the real model: `python benchmarks/variants.py [--quick] [--model MODEL] [--json FILE]`.

Rows that each decode one token, with some tokens of context behind them, in one tick of the torch machine; the variants
are attention in torch or in C, weights in fp32, fp16, 8 or 4 bits, and the forward of transformers, the lean one, or
all layers in one call. Beside them transformers alone, which has one row at a time: its forward with a cache, as
`generate` calls it, once for every row.

The variants take turns, round by round, so that a busy computer is busy for all. A figure is the median of the rounds
in ms; a ratio is the median of the ratios to the first variant in the same round.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch, as the machine has it

import torch
from rich.console import Console
from rich.table import Table
from transformers import AutoModelForCausalLM, DynamicCache

from tokix.kernel.arch.hf import machine, models, probe
from tokix.kernel.arch.hf.attention import Batch, Pool
from tokix.kernel.arch.hf.reference import DEFAULT
from tokix.kernel.events import Row, Sampling, Tick
from tokix.kernel.frames import frames_for

ROWS, CONTEXTS, ROUNDS = (1, 4, 8, 16), (256, 512), 9
FIRST, PEER = "torch, fp32", "transformers"


class Variant:
    """A machine whose frames hold `most` contexts of any length up to `longest`."""

    def __init__(
        self, folder: Path, weights: machine.Weights, kernel: bool, lean: bool, most: int, longest: int
    ) -> None:
        self.per = frames_for(longest + 1)
        self.machine = machine.load(folder, "benchmark", weights=weights, frames=most * self.per)
        if not kernel:
            self.machine._pack = Batch
            pool = self.machine._places.pool
            self.machine._places.pool = Pool(self.machine.frames, pool.shapes, pool.memory.device, for_kernel=False)
        elif self.machine.slow:
            raise SystemExit(f"there is no kernel to measure: {self.machine.slow}")
        if not lean:
            self.machine._forward = partial(probe.as_it_is, self.machine._model)
        with torch.inference_mode():  # numbers like those of a context: zeros would be cheaper than they are
            self.machine._places.pool.memory.normal_(std=0.1)

    def tick(self, rows: int, context: int) -> None:
        tables = [tuple(range(i, rows * self.per, rows)) for i in range(rows)]
        ask = [Row(table, context, [100 + i], Sampling("s")) for i, table in enumerate(tables)]
        self.machine.run(Tick(1, ask, []))

    def prefill(self, context: int) -> None:
        self.machine.run(Tick(1, [Row(tuple(range(self.per)), 0, list(range(100, 100 + context)), Sampling("s"))], []))


class Plain:
    """transformers as it comes, in fp32, with a cache of its own."""

    def __init__(self, folder: Path) -> None:
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True).eval()
        self.caches: dict[int, DynamicCache] = {}

    @torch.inference_mode()
    def tick(self, rows: int, context: int) -> None:
        if context not in self.caches:
            self.caches[context] = DynamicCache(config=self.model.config)
            self.forward(list(range(100, 100 + context)), self.caches[context])
        for i in range(rows):
            self.forward([100 + i], self.caches[context]).argmax(-1).tolist()
            self.caches[context].crop(-1)

    def forward(self, tokens: list[int], cache: DynamicCache) -> Any:
        ids = torch.tensor([tokens])
        return self.model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1).logits[0]

    @torch.inference_mode()
    def prefill(self, context: int) -> None:
        self.forward(list(range(100, 100 + context)), DynamicCache(config=self.model.config)).argmax(-1).tolist()


def timed(work: Callable[[], object]) -> float:
    begin = time.perf_counter()
    work()
    return (time.perf_counter() - begin) * 1e3


def interleaved(works: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, dict[str, float]]:
    """Give the median ms of each, and the median of its ratios to the first one."""
    for work in works.values():
        work()
    times: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(rounds):
        for name, work in works.items():
            times[name].append(timed(work))
    base = next(iter(times.values()))
    return {
        name: {"ms": median(taken), "ratio": median(b / t for b, t in zip(base, taken, strict=True))}
        for name, taken in times.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few rounds, one context, few rows")
    parser.add_argument("--model", default=DEFAULT)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there, too")
    options = parser.parse_args()
    rows, contexts, rounds = ((1, 8), (256,), 3) if options.quick else (ROWS, CONTEXTS, ROUNDS)
    folder = models.locate(options.model)
    shape = max(rows), max(contexts)
    variants: dict[str, Variant | Plain] = {
        FIRST: Variant(folder, "fp32", False, False, *shape),
        "C, fp32": Variant(folder, "fp32", True, False, *shape),
        "C, fp16": Variant(folder, "fp16", True, False, *shape),
        "C, fp16, lean": Variant(folder, "fp16", True, True, *shape),
        "C, q8, whole": Variant(folder, "q8", True, True, *shape),
        "C, q4, whole": Variant(folder, "q4", True, True, *shape),
        PEER: Plain(folder),
    }
    figures = []
    for context in contexts:
        for count in rows:
            works = {name: partial(v.tick, count, context) for name, v in variants.items()}
            figures.append({"what": f"decode {count} × {context}", **interleaved(works, rounds)})
        works = {name: partial(v.prefill, context) for name, v in variants.items()}
        figures.append({"what": f"prefill {context}", **interleaved(works, max(rounds // 3, 1))})
    show(figures, list(variants))
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")


def show(figures: list[dict[str, Any]], names: list[str]) -> None:
    table = Table("ms (ratio)", *names, title="A tick of the torch machine")
    for figure in figures:
        cells = (f"{figure[name]['ms']:.0f} ({figure[name]['ratio']:.2f})" for name in names)
        table.add_row(figure["what"], *cells)
    Console().print(table)


if __name__ == "__main__":
    main()
