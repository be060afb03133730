"""What the form of the weights costs: `python benchmarks/perplexity.py [--model MODEL] [--tokens N] [--json FILE]`.

The perplexity of a fixed text in English, the licence and the design of this repository, in windows of 512 tokens,
of which the first token is given; and beside it how often the best token is that of fp32, and how far logits are from
those, on average, and at most. The machine computes them, as it would for a burst.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from tokix.kernel.arch.hf import machine, models
from tokix.kernel.arch.hf.reference import DEFAULT
from tokix.kernel.events import Row
from tokix.kernel.frames import frames_for

ROOT = Path(__file__).parent.parent
TEXTS = [ROOT / name for name in ("LICENSE", "docs/design.md")]
WINDOW, TOKENS = 512, 4608
WEIGHTS: tuple[machine.Weights, ...] = ("fp32", "fp16", "q8", "q4")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=DEFAULT)
    parser.add_argument("--tokens", type=int, default=TOKENS, help="of the text (default: %(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there, too")
    options = parser.parse_args()
    folder = models.locate(options.model)
    plain: list[torch.Tensor] = []
    figures = []
    for weights in WEIGHTS:
        driven = machine.load(folder, options.model, weights=weights, frames=frames_for(WINDOW))
        for note in driven.notes():
            print(f"{weights}: {note}")
        figures.append(measured(driven, windows(driven, options.tokens), plain))
        print(f"{weights}: perplexity {figures[-1]['perplexity']:.4f}", flush=True)
        del driven
    show(figures)
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")


def windows(driven: machine.TorchMachine, count: int) -> list[list[int]]:
    """Cut the text into windows of tokens."""
    text = "\n".join(path.read_text(encoding="utf-8") for path in TEXTS)
    tokens = driven.encode(text)[:count]
    return [tokens[start : start + WINDOW] for start in range(0, len(tokens) - 1, WINDOW)]


def measured(driven: machine.TorchMachine, texts: list[list[int]], plain: list[torch.Tensor]) -> dict[str, Any]:
    """Give the figures; `plain` are the logits to compare with, and is filled if it is empty."""
    first = not plain
    loss, same, far, most, largest, count = 0.0, 0, 0.0, 0.0, 0.0, 0
    for i, tokens in enumerate(texts):
        logits = fed(driven, tokens)[:-1]
        loss += float(torch.nn.functional.cross_entropy(logits, torch.tensor(tokens[1:]), reduction="sum"))
        if first:
            plain.append(logits)
        apart = (logits - plain[i]).abs()
        same += int((logits.argmax(-1) == plain[i].argmax(-1)).sum())
        far, most = far + float(apart.mean(-1).sum()), max(most, float(apart.max()))
        largest, count = max(largest, float(plain[i].abs().max())), count + len(logits)
    return {
        "weights": driven.weights,
        "tokens": count,
        "perplexity": float(torch.tensor(loss / count).exp()),
        "same best token": same / count,
        "mean difference": far / count,
        "largest difference": most,
        "largest logit": largest,
    }


def fed(driven: machine.TorchMachine, tokens: list[int]) -> torch.Tensor:
    """Feed a text; gives the logits [tokens, vocabulary]."""
    with torch.inference_mode():
        batch = driven._pack(driven._places.pool, [Row(tuple(range(frames_for(len(tokens)))), 0, tokens, None)])
        return machine.run_padded(driven._forward, batch, list(range(len(tokens))))


def show(figures: list[dict[str, Any]]) -> None:
    table = Table(*figures[0], title="The same text under other weights")
    for figure in figures:
        cells = (f"{value:.4f}" if isinstance(value, float) else str(value) for value in figure.values())
        table.add_row(*cells)
    Console().print(table)


if __name__ == "__main__":
    main()
