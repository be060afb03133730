"""Facts that are found again: what `Recall` and its peers find, and what is in the window when the machine answers.

    recall@k, MRR    the page with the fact among the first k; one over its place
    stale            of facts that were corrected: the first that was found of them is the version before
    false hits       the best page for who does not exist scores as the best for all but one in ten of the others

Questions whose answer is in the window still are not counted, for nobody has to look for it.
"""

from __future__ import annotations

from collections.abc import Callable
from statistics import mean
from typing import Any, NamedTuple

from remembering.figures import interval, share
from remembering.peers import Encoder, Found, bm25, chroma, exact, grep
from remembering.stories import DISTANCES, WINDOW, Question, Story, story
from remembering.templates import Templates
from tokix.kernel.arch.toy import ToyMachine
from tokix.kernel.context import STUB
from tokix.kernel.policy import FCFS
from tokix.sim import Simulation
from tokix.storage import MemoryStore
from tokix.syscalls import Advise, Append, PageInfo, Pages, Recall, Think

KEPT, FULL = 10, 8
HOWS = ("lexical", "dense", "fused")
#: What is in the window: the window alone; one that is FULL times as large; what demand paging makes of it.
KINDS = ("truncation", "full", "demand")


class Seen(NamedTuple):
    """A window at an answer: its pages, copies by the page that they are of, and its tokens."""

    pages: frozenset[int]
    tokens: int


def seen(pages: list[PageInfo]) -> Seen:
    there = [page for page in pages if page.resident and page.id != STUB]
    ids = frozenset(page.id if page.recalled is None else page.recalled for page in there)
    return Seen(ids, sum(page.tokens for page in there))


# ---- what is found


def simulated(program: Callable[[], Any], window: int, encoder: Encoder | None = None) -> None:
    machine = ToyMachine(frames=2 * window // 16, window=window, ends=False)
    boot = Simulation({"init": program}, MemoryStore(), machine=machine, policy=FCFS(), encoder=encoder, checked=False)
    boot.run(1 << 40)


def alone(told: list[str], window: int) -> Seen:
    """Give what a window has at the end of a story."""
    there: list[Seen] = []

    async def main() -> None:
        await Advise(stub=False)
        for text in told:
            await Append(text=text, role="tool")
        there.append(seen(await Pages()))

    simulated(main, window)
    return there[0]


def recalled(told: list[str], queries: list[str], encoder: Encoder) -> tuple[dict[str, list[Found]], list[Seen]]:
    """Give what `Recall` finds for each query, and the windows in which demand paging answers them.

    What was found stays outside of the program: the log would keep it, too.
    """
    found: dict[str, list[Found]] = {}
    windows: list[Seen] = []

    async def main() -> None:
        await Advise(stub=False)
        for text in told:
            await Append(text=text, role="tool")
        for how in HOWS:
            pages = [await Recall(query=query, k=KEPT, budget=10**6, how=how) for query in queries]  # type: ignore[arg-type]
            found[how] = [[(page.id, page.score) for page in some] for some in pages]
        await Advise(demand=0.25)
        for query in queries:
            await Think(prompt=query, max_tokens=1)
            windows.append(seen(await Pages()))

    simulated(main, WINDOW, encoder)
    return found, windows


def others(texts: dict[int, str], queries: list[str], encoder: Encoder, chromas: bool) -> dict[str, list[Found]]:
    """Give what the peers find among the pages that are out of the window."""
    found = {"grep": grep(texts, queries, KEPT), "BM25": bm25(texts, queries, KEPT)}
    found["exact"] = exact(texts, queries, KEPT, encoder)
    if chromas:
        found["Chroma"] = chroma(texts, queries, KEPT, encoder)
    return found


# ---- what it comes to


class Tally:
    """The outcomes of one way, over all seeds."""

    def __init__(self) -> None:
        self.places: dict[int, list[int]] = {d: [] for d in DISTANCES}
        self.stale: list[float] = []
        self.known: list[float] = []
        self.unknown: list[float] = []

    def add(self, q: Question, found: Found) -> None:
        ids = [page for page, _ in found]
        self.places[q.distance].append(ids.index(q.right) + 1 if q.right in ids else 0)
        self.known.append(top(found))
        if q.stale:
            first = next((page for page in ids if page in (q.right, *q.stale)), None)
            self.stale.append(float(first in q.stale))

    def figures(self) -> dict[str, Any]:
        places = [place for some in self.places.values() for place in some]
        bar = sorted(self.known)[len(self.known) // 10]
        return {
            **{f"recall@{k}": share(places, k) for k in (1, 5, 10)},
            "MRR": interval(1 / place if place else 0.0 for place in places),
            **{f"recall@{k} by distance": {d: share(p, k) for d, p in self.places.items() if p} for k in (1, 5)},
            "stale": interval(self.stale),
            "false hits": interval(float(score >= bar) for score in self.unknown),
        }


class Held:
    """What was in the windows of one kind, over all seeds."""

    def __init__(self) -> None:
        self.there: dict[int, list[float]] = {d: [] for d in DISTANCES}
        self.stale: list[float] = []
        self.tokens: list[int] = []

    def add(self, q: Question, window: Seen) -> None:
        self.there[q.distance].append(float(q.right in window.pages))
        self.tokens.append(window.tokens)
        if q.stale:
            self.stale.append(float(q.right not in window.pages and not window.pages.isdisjoint(q.stale)))

    def figures(self) -> dict[str, Any]:
        return {
            "by distance": {d: interval(some) for d, some in self.there.items() if some},
            "stale": interval(self.stale),
            "tokens": mean(self.tokens),
        }


def top(found: Found) -> float:
    return found[0][1] if found else 0.0


def judge(
    templates: Templates, seeds: range, encoder: Encoder, chromas: bool, report: Callable[[str], None]
) -> dict[str, Any]:
    """Ask all questions of all seeds."""
    tallies: dict[str, Tally] = {}
    held = {kind: Held() for kind in KINDS}
    for seed in seeds:
        told = story(templates, seed)
        ask(told, encoder, chromas, tallies, held)
        report(f"seed {seed}: {len(told.told)} pages, {len(told.questions)} questions, {len(told.nobody)} about nobody")
    return {
        "ways": {way: tally.figures() for way, tally in tallies.items()},
        "windows": {kind: some.figures() for kind, some in held.items()},
    }


def ask(s: Story, encoder: Encoder, chromas: bool, tallies: dict[str, Tally], held: dict[str, Held]) -> None:
    queries = [q.text for q in s.questions] + s.nobody
    encoder.embed([*s.told, *queries])
    short, full = alone(s.told, WINDOW), alone(s.told, FULL * WINDOW)
    found, windows = recalled(s.told, queries, encoder)
    out = {page: text for page, text in enumerate(s.told) if page not in short.pages}
    found = others(out, queries, encoder, chromas) | found
    for number, q in enumerate(s.questions):
        if not q.distance:
            continue
        for way, lists in found.items():
            tallies.setdefault(way, Tally()).add(q, lists[number])
        for kind, window in zip(KINDS, (short, full, windows[number]), strict=True):
            held[kind].add(q, window)
    for way, lists in found.items():
        tallies[way].unknown += [top(some) for some in lists[len(s.questions) :]]
