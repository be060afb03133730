"""How well the memory remembers: `python benchmarks/memory.py [--quick] [--part PART …] [--seeds N] [--json FILE]`.

facts    A process is told facts about people, among small talk, until they are up to 24 windows away; some are
         corrected later, some are told of somebody beside them, or denied. Then it is asked in words that the facts
         do not have (see `remembering/facts.py`).
chains   Pairs of UUIDs, of which some lead to others: an agent follows them (see `remembering/chains.py`).
turns    Ten thousand turns on a SQLite file: what must hold, and what must not grow (see `remembering/turns.py`).

Everything runs through the kernel: `Append`, the pager, the archive, `Recall`, and `Think` with demand paging. The
judge is an exact comparison, no model. The machine is the toy, whose tokens are bytes, for what it says does not matter
here; the encoder is MiniLM, unless `--toy`. Beside the three ways of `Recall` stand others that search the same texts:
`grep`, which counts the words of the question that a page has, BM25, the nearest of all MiniLM vectors (`exact`), and
Chroma with these vectors. Figures are over all seeds; the interval is a bootstrap of 95 %.

Whoever tunes something does it with `--build`: those templates, names and seeds are others than what is judged by.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from remembering import chains, facts, turns
from remembering.figures import shown
from remembering.peers import Known
from remembering.stories import DISTANCES
from remembering.templates import BUILD, JUDGE
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from tokix.kernel.arch.hf import models
from tokix.kernel.arch.hf.embed import MiniLM
from tokix.kernel.arch.hf.reference import EMBEDDER
from tokix.kernel.arch.toy import ToyEncoder

PARTS = ("facts", "chains", "turns")
#: Where the seeds for tuning begin.
BUILDING = 1000


def tables(result: dict[str, Any]) -> Iterator[Table]:
    """Give what is to be shown of the parts that were measured."""
    if "facts" in result:
        yield from found(result["facts"]["ways"])
        yield held(result["facts"]["windows"])
    if "chains" in result:
        yield followed(result["chains"])
    if "turns" in result:
        yield endured(result["turns"])


def table(first: str, columns: Iterable[str], title: str) -> Table:
    made = Table(first, title=title, box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
    made.columns[0].no_wrap = True
    for column in columns:
        made.add_column(column, justify="right")
    return made


def found(ways: dict[str, Any]) -> Iterator[Table]:
    overall = table("", ways, f"facts that are {DISTANCES[0]} to {DISTANCES[-1]} windows away")
    for name in ("recall@1", "recall@5", "recall@10", "MRR", "stale", "false hits"):
        overall.add_row(name, *(shown(way[name]) for way in ways.values()))
    yield overall
    for k in (1, 5):
        by_distance = table("windows", ways, f"recall@{k} by distance")
        for d in DISTANCES:
            by_distance.add_row(f"{d}", *(shown(way[f"recall@{k} by distance"][d]) for way in ways.values()))
        yield by_distance


def held(windows: dict[str, Any]) -> Table:
    names = {"truncation": "truncation", "full": f"a window × {facts.FULL}", "demand": "demand paging"}
    made = table("windows", (names[kind] for kind in windows), "the fact is in the window at the answer")
    for d in DISTANCES:
        made.add_row(f"{d}", *(shown(window["by distance"][d]) for window in windows.values()))
    made.add_row("stale one alone", *(shown(window["stale"]) for window in windows.values()))
    made.add_row("tokens there", *(f"{window['tokens']:.0f}" for window in windows.values()))
    return made


def followed(ways: dict[str, Any]) -> Table:
    made = table("depth", ways, "chains of keys: right answers; lookups")
    for depth in chains.DEPTHS:
        made.add_row(f"{depth}", *(shown(way[depth]["right"]) for way in ways.values()))
    for depth in chains.DEPTHS:
        made.add_row(f"{depth}", *(f"{way[depth]['lookups'][0]:.1f}" for way in ways.values()))
    return made


def endured(kinds: dict[str, Any]) -> Table:
    names = {
        "turns": "turns",
        "most": "the fullest window, as a part",
        "again": "tokens computed again for each new one",
        "formula": "LOW / (HIGH − LOW)",
        "latency": "latency of a turn, last tenth : first",
        "median": "the same of the median turn",
        "disk": "disk of a turn, last tenth : first",
        "bytes": "bytes of a turn",
        "twice": "texts that are kept twice",
        "lost": "texts that are lost",
    }
    made = table("", kinds, "a conversation without end")
    for key, name in names.items():
        values = (kind[key] for kind in kinds.values())
        made.add_row(name, *(str(value) if isinstance(value, int) else f"{value:.4g}" for value in values))
    return made


def measured(options: argparse.Namespace, report: Callable[[str], None]) -> dict[str, Any]:
    embeds = not options.toy and {"facts", "chains"} & {*options.part}
    encoder = Known(MiniLM(models.locate(EMBEDDER)) if embeds else ToyEncoder())
    templates, start = (BUILD, BUILDING) if options.build else (JUDGE, 0)
    seeds = range(start, start + (1 if options.quick else options.seeds))
    chromas = find_spec("chromadb") is not None
    result: dict[str, Any] = {"encoder": encoder.name, "seeds": [*seeds], "build": options.build}
    if "facts" in options.part:
        if not chromas:
            report("Chroma is left out: it is not installed (pip install chromadb)")
        result["facts"] = facts.judge(templates, seeds, encoder, chromas, report)
    if "chains" in options.part:
        result["chains"] = chains.judge(seeds, encoder, report)
    if "turns" in options.part:
        result["turns"] = turns.judge(1000 if options.quick else options.turns, report)
    return result


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition(":")[0])
    parser.add_argument("--quick", action="store_true", help="one seed, and 1000 turns")
    parser.add_argument("--part", choices=PARTS, nargs="+", action="extend", help="(default: all)")
    parser.add_argument("--seeds", type=at_least(1), default=5, metavar="N", help="(default: 5)")
    parser.add_argument("--turns", type=at_least(1000), default=10_000, metavar="N", help="(default: 10000)")
    parser.add_argument("--build", action="store_true", help="the templates and seeds for tuning")
    parser.add_argument("--toy", action="store_true", help="the encoder without weights, which only counts words")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there, too")
    return parser.parse_args()


def at_least(least: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        if (value := int(text)) < least:
            raise argparse.ArgumentTypeError(f"{value} is less than {least}")
        return value

    return number


def main() -> None:
    options, console = arguments(), Console()
    options.part = options.part or PARTS
    result = measured(options, lambda line: console.print(line, style="dim"))
    for table in tables(result):
        console.print(table)
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
