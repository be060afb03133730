"""How well the memory remembers: `python benchmarks/memory.py [--quick] [--seeds N] [--json FILE]`.

A process is told facts about people, among small talk, until most of them are many windows away; some are corrected
later, some differ from others in one word only. Then it is asked, in words that the facts do not have: the templates of
facts and of questions share no content word but the name, and the judge is an exact comparison, no model. Everything
runs through the kernel: `Append`, the pager, the archive, `Recall`, and `Think` with demand paging. The machine is the
toy, whose tokens are bytes, for what it says does not matter here; the encoder is MiniLM, unless `--toy`.

    recall@k, MRR    the page with the fact among the first k; one over its place
    in the window    demand paging: the fact was in the window when the machine answered
    stale            the first that speaks of the attribute is the version before the correction
    false hits       the score of the best page for a person who does not exist is as good as that of one in ten others

Beside the three ways of `Recall`: the window alone (`truncation`), and `grep`, which counts the words of the question
that a page has. Figures are over the questions of all seeds; the interval is a bootstrap of 95 %.
"""

from __future__ import annotations

import argparse
import json
import random
import re
from collections.abc import Callable
from pathlib import Path
from statistics import mean
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table

from tokix.kernel.arch.hf import models
from tokix.kernel.arch.hf.embed import MiniLM
from tokix.kernel.arch.hf.reference import EMBEDDER
from tokix.kernel.arch.toy import ToyEncoder, ToyMachine
from tokix.kernel.policy import FCFS
from tokix.sim import Simulation
from tokix.storage import MemoryStore
from tokix.syscalls import Advise, Append, Pages, Recall, Think

WINDOW, DISTANCES, KEPT = 2048, (1, 2, 4, 8, 16), 10
NAMES = (
    "Ada Boris Chloe Dmitri Elena Farid Greta Hiro Ines Jamal Keiko Lars Mona Nadia Oskar Priya Quentin Rosa Stefan "
    "Tara Ugo Vera Wanda Xavier Yusuf Zelda Amir Bianca Carlos Daphne Emil Fatima Gustav Helga Igor Jana Karim Leila"
)


class Kind(NamedTuple):
    """An attribute: how it is told, how it is asked for, and what it can be."""

    told: tuple[str, ...]
    corrected: str
    asked: tuple[str, ...]
    values: tuple[str, ...]


KINDS = (
    Kind(
        ("{name} works for {value}.", "{name} has a job at {value}."),
        "{name} changed jobs and works for {value} now.",
        ("Which company employs {name}?", "Who is the employer of {name}?"),
        ("Siemens", "a bakery", "the city library", "a shipyard", "Nokia", "the opera", "a law firm", "the railway"),
    ),
    Kind(
        ("{name} lives in {value}.", "The home of {name} is in {value}."),
        "{name} moved and lives in {value} from today.",
        ("In which town can {name} be visited?", "What city does {name} reside in?"),
        ("Turin", "Oslo", "Lagos", "Kyoto", "Lima", "Porto", "Cairo", "Bergen"),
    ),
    Kind(
        ("{name} has a {value} as a pet.", "At the side of {name} there is always a {value}."),
        "{name} gave the old one away and has a {value} as a pet now.",
        ("What animal does {name} keep?", "Which creature belongs to {name}?"),
        ("parrot", "ferret", "tortoise", "greyhound", "cat", "rabbit", "lizard", "goat"),
    ),
    Kind(
        ("{name} cannot eat {value}.", "{name} gets ill from {value}."),
        "It turned out that {name} gets ill from {value} instead.",
        ("What food is {name} allergic to?", "Which ingredient must be kept from {name}?"),
        ("peanuts", "shrimp", "milk", "wheat", "strawberries", "eggs", "celery", "soy"),
    ),
    Kind(
        ("{name} plays the {value}.", "{name} took lessons on the {value} for years."),
        "{name} sold it and plays the {value} these days.",
        ("Which instrument does {name} perform on?", "What can {name} make music with?"),
        ("cello", "trumpet", "harp", "piano", "oboe", "accordion", "violin", "drums"),
    ),
)
TALK = (
    "The rain has stopped, and the streets are still wet.",
    "Somebody should water the plants before the weekend.",
    "The printer on the third floor is out of paper again.",
    "I read that the bridge will be closed until spring.",
    "There was a long queue at the post office this morning.",
    "The soup was too salty, but nobody complained.",
    "A train was late, and the next one was early.",
    "The meeting about the budget was moved to Thursday.",
)


class Question(NamedTuple):
    """What is asked, the pages that are right, those that were once, and how many windows ago the fact was told."""

    text: str
    right: int
    stale: tuple[int, ...]
    distance: int
    value: str


# ---- what is told and asked


def story(seed: int) -> tuple[list[str], list[Question], list[str]]:
    """Give what is told, page by page; the questions; and questions about nobody."""
    r = random.Random(seed)
    names = NAMES.split()
    r.shuffle(names)
    known, nobody = names[:30], names[30:]
    facts = [(name, kind, r.choice(kind.values)) for name in known for kind in r.sample(KINDS, 3)]
    r.shuffle(facts)
    told: list[tuple[str, tuple[str, Kind] | None, str]] = []
    for name, kind, value in facts:
        told.append((r.choice(kind.told).format(name=name, value=value), (name, kind), value))
        told += [(f"{r.choice(TALK)} ({r.randint(100, 999)})", None, "") for _ in range(r.randint(4, 12))]
    for name, kind, value in r.sample(facts, len(facts) // 4):
        other = r.choice([v for v in kind.values if v != value])
        at = r.randint(len(told) // 2, len(told))
        told.insert(at, (kind.corrected.format(name=name, value=other), (name, kind), other))
    tokens = 0
    ends = []
    for text, _, _ in told:
        tokens += len(text) + 2
        ends.append(tokens)
    questions = []
    for name, kind, _ in facts:
        pages = [page for page, (_, about, _) in enumerate(told) if about == (name, kind)]
        away = (tokens - ends[pages[-1]]) / WINDOW
        asked = r.choice(kind.asked).format(name=name)
        questions.append(Question(asked, pages[-1], tuple(pages[:-1]), bucket(away), told[pages[-1]][2]))
    none = [r.choice(r.choice(KINDS).asked).format(name=name) for name in nobody for _ in range(3)]
    return [text for text, _, _ in told], questions, none


def bucket(windows: float) -> int:
    """Give the distance that a fact counts for; 0 is in the window."""
    return max((d for d in (0, *DISTANCES) if d <= windows), default=0)


# ---- what is found


async def asked(told: list[str], questions: list[str], results: dict[str, Any]) -> None:
    """Be the process that is told and asked. What it found stays outside: the log would keep it, too."""
    await Advise(stub=False)
    for text in told:
        await Append(text=text, role="tool")
    results["window"] = [page.id for page in await Pages() if page.resident]
    for how in ("dense", "lexical", "fused"):
        found = [await Recall(query=q, k=KEPT, budget=10**6, how=how) for q in questions]
        results[how] = [[(page.id, page.score) for page in pages] for pages in found]
    await Advise(demand=0.25)
    results["demand"] = []
    for q in questions:
        await Think(prompt=q, max_tokens=1)
        pages = await Pages()
        results["demand"].append([p.recalled if p.recalled is not None else p.id for p in pages if p.resident])


def run(told: list[str], questions: list[str], encoder: Any) -> dict[str, Any]:
    results: dict[str, Any] = {}

    async def main() -> None:
        await asked(told, questions, results)

    machine = ToyMachine(frames=1024, window=WINDOW, ends=False)
    sim = Simulation({"init": main}, MemoryStore(), machine=machine, policy=FCFS(), encoder=encoder, checked=False)
    sim.run(1 << 40)
    words = [{*re.findall(r"\w+", text.casefold())} for text in told]
    results["grep"] = []
    for q in questions:
        wanted = {*re.findall(r"\w+", q.casefold())}
        order = sorted(range(len(told)), key=lambda page: (-len(words[page] & wanted), -page))
        results["grep"].append([(page, len(words[page] & wanted)) for page in order[:KEPT]])
    results["truncation"] = [[(page, 1.0) for page in reversed(results["window"])][:KEPT] for _ in questions]
    return results


# ---- what it comes to

WAYS = ("truncation", "grep", "lexical", "dense", "fused")


def judge(seeds: int, encoder: Any, report: Callable[[str], None]) -> dict[str, Any]:
    """Ask all questions of all seeds; gives the outcomes by way and distance."""
    hits: dict[str, dict[int, list[int]]] = {way: {d: [] for d in (0, *DISTANCES)} for way in WAYS}
    there: dict[int, list[float]] = {d: [] for d in (0, *DISTANCES)}
    stale: dict[str, list[float]] = {way: [] for way in WAYS}
    best: dict[str, tuple[list[float], list[float]]] = {way: ([], []) for way in WAYS}
    for seed in range(seeds):
        told, questions, none = story(seed)
        found = run(told, [q.text for q in questions] + none, encoder)
        for way in WAYS:
            for q, pages in zip(questions, found[way], strict=False):
                ids = [page for page, _ in pages]
                hits[way][q.distance].append(ids.index(q.right) + 1 if q.right in ids else 0)
                if q.stale:
                    first = next((page for page in ids if page in (q.right, *q.stale)), None)
                    stale[way].append(float(first in q.stale))
                best[way][0].append(pages[0][1] if pages else 0.0)
            best[way][1].extend(pages[0][1] if pages else 0.0 for pages in found[way][len(questions) :])
        for q, pages in zip(questions, found["demand"], strict=False):
            there[q.distance].append(float(q.right in pages))
        report(f"seed {seed}: {len(told)} pages, {len(questions)} questions, {len(none)} about nobody")
    rows = {}
    for way in WAYS:
        places = [place for d in DISTANCES for place in hits[way][d]]
        known, unknown = best[way]
        bar = sorted(known)[len(known) // 10]
        rows[way] = {
            "recall@1": share(places, 1),
            "recall@5": share(places, 5),
            "recall@10": share(places, 10),
            "MRR": mean(1 / place if place else 0.0 for place in places),
            "by distance": {d: share(hits[way][d], 5) for d in DISTANCES if hits[way][d]},
            "stale": mean(stale[way]),
            "false hits": mean(score >= bar for score in unknown),
        }
    return {"ways": rows, "in the window": {d: interval(there[d]) for d in DISTANCES if there[d]}}


def share(places: list[int], k: int) -> list[float]:
    return interval([float(0 < place <= k) for place in places])


def interval(values: list[float]) -> list[float]:
    """Give the mean, and where it lies in 95 of 100 samples."""
    r = random.Random(0)
    means = sorted(mean(r.choices(values, k=len(values))) for _ in range(400))
    return [mean(values), means[10], means[389]]


def shown(value: list[float]) -> str:
    return f"{value[0]:.2f} ({value[1]:.2f} to {value[2]:.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--quick", action="store_true", help="one seed")
    parser.add_argument("--seeds", type=int, default=5, help="(default: 5)")
    parser.add_argument("--toy", action="store_true", help="the encoder without weights, which only counts words")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there, too")
    options = parser.parse_args()
    encoder = ToyEncoder() if options.toy else MiniLM(models.locate(EMBEDDER))
    console = Console()
    result = judge(1 if options.quick else options.seeds, encoder, lambda line: console.print(line, style="dim"))
    table = Table("", *WAYS, title=f"facts that are {DISTANCES[0]} to {DISTANCES[-1]} windows away; {encoder.name}")
    for name in ("recall@1", "recall@5", "recall@10"):
        table.add_row(name, *(shown(result["ways"][way][name]) for way in WAYS))
    for name in ("MRR", "stale", "false hits"):
        table.add_row(name, *(f"{result['ways'][way][name]:.2f}" for way in WAYS))
    for d in result["in the window"]:
        row = [result["ways"][way]["by distance"][d] for way in WAYS]
        table.add_row(f"recall@5 at {d}", *map(shown, row))
    for d, value in result["in the window"].items():
        table.add_row(f"in the window at {d}", "", "", "", "", shown(value))
    console.print(table)
    if options.json:
        options.json.write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
