"""What a large memory costs: `python benchmarks/pages.py [--pages N] [--quick] [--json FILE]`.

One process remembers N pages in a store on disk. Their texts are drawn from 20,000 words as often as words are in a
language (Zipf); their vectors are random, of length 1, in a thousand clusters, with 384 numbers like those of MiniLM.

    append     µs a page: its row with the index of words, and its row with the vector, in commits of 10 pages
    recall     ms of a search by an `Archive` with 10 results, dense, lexical and fused, when the query has its vector;
               and of all that a fused `Recall` takes outside of the kernel ("whole"), with the query's vector by MiniLM
    encoder    µs for the vector of a query, and of a page of 200 words
    recall@10  how many of the ten nearest pages of exact search the index finds too
    peer       chromadb alone, for the same vectors: adding them, and asking for the ten nearest

Exact and indexed search and the peer take turns, query by query, and then the two that are whole. A ratio is the median
of the ratios in one turn.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import time
from asyncio import get_running_loop
from collections.abc import Callable, Iterator
from itertools import accumulate
from pathlib import Path
from statistics import median
from typing import Any

import anyio
import chromadb
import numpy
from chromadb.config import Settings
from rich.console import Console
from rich.table import Table

from tokix.archive import Archive, Desk
from tokix.host import MachineThread
from tokix.index import TAIL, Keeper
from tokix.kernel.arch.toy import ToyMachine
from tokix.kernel.events import Search
from tokix.machines import encoder_of
from tokix.storage import SqliteStore

SPACE, DIMENSIONS, CLUSTERS, BATCH, COMMIT = (1, ""), 384, 1000, 1000, 10
WORDS = [f"w{n}" for n in range(20_000)]
FREQUENCY = list(accumulate(1 / (n + 10) for n in range(len(WORDS))))


class Fixed:
    """The encoder whose vectors these would be: it takes as long as MiniLM."""

    name, dimensions = "random-384", DIMENSIONS

    def __init__(self) -> None:
        self.embed = encoder_of(None).embed


def vectors(count: int, seed: int) -> Any:
    """Give vectors of length 1 in clusters."""
    centres = numpy.random.default_rng(0).standard_normal((CLUSTERS, DIMENSIONS), dtype="f4")
    generator = numpy.random.default_rng(seed)
    noise = generator.standard_normal((count, DIMENSIONS), dtype="f4")
    table = centres[generator.integers(0, CLUSTERS, count)] + 0.7 * noise
    return (table / numpy.linalg.norm(table, axis=1, keepdims=True)).astype("<f4")


def text(r: random.Random, count: int = 40) -> str:
    return " ".join(r.choices(WORDS, cum_weights=FREQUENCY, k=count))


def fill(store: SqliteStore, count: int) -> dict[str, float]:
    """Remember pages; gives µs a page."""
    r, pages, embedded = random.Random(0), 0.0, 0.0
    for start in range(0, count, BATCH):
        table = vectors(BATCH, start + 1)
        texts = [text(r) for _ in range(BATCH)]
        for at in range(0, BATCH, COMMIT):
            ids = [start + at + n for n in range(COMMIT)]
            rows = {(*SPACE, id): (*SPACE, id, id, "user", 80, 0.0, texts[id - start]) for id in ids}
            known = {(*SPACE, id): (*SPACE, id, Fixed.name, table[id - start].tobytes()) for id in ids}
            pages += timed(store.commit, {"page": rows})
            embedded += timed(store.commit, {"vector": known})
    return {"page, µs": pages / count * 1e6, "vector, µs": embedded / count * 1e6}


def timed(work: Callable[..., object], *args: object) -> float:
    begin = time.perf_counter()
    work(*args)
    return time.perf_counter() - begin


def memory(process: int | str = "self") -> float:
    """Give the resident memory of a process in MB."""
    for line in Path(f"/proc/{process}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1e3
    return 0.0


def size(*paths: Path) -> float:
    """Give what is on disk, in MB."""
    files = [file for path in paths for file in ([path] if path.is_file() else path.rglob("*")) if file.is_file()]
    return sum(file.stat().st_size for file in files) / 1e6


def queries(count: int) -> Iterator[tuple[str, list[float]]]:
    r = random.Random(1)
    for vector in vectors(count, 10**9):
        yield text(r, 6), vector.tolist()


async def found(archive: Archive, keeper: Keeper | None, how: Any, query: str, vector: list[float]) -> list[int]:
    """Search as the desk of a system does."""
    effect = Search("k", (SPACE,), query, 10, how)
    dense = how != "lexical"
    near = await keeper.near(effect, vector) if keeper and dense else {}
    *_, pages = archive.search(effect, vector if dense else None, near)
    return [page["id"] for page in pages]


async def measure(folder: Path, pages: int, count: int, report: Callable[[str], None]) -> dict[str, Any]:
    state = folder / "state"
    store = SqliteStore(state / "tokix.db")
    report(f"{pages} pages …")
    result: dict[str, Any] = {"pages": pages, "append": fill(store, pages)}
    encoder, tail = Fixed(), min(TAIL, pages)  # there is an index, however few they are
    before = memory()
    exact, indexed = Archive(store, encoder), Archive(store, encoder)
    keeper = Keeper(indexed, state / "index", report, tail)
    begin = time.perf_counter()
    await found(exact, None, "dense", *next(queries(1)))
    result["first exact search, s"] = time.perf_counter() - begin
    result["memory of exact search, MB"] = memory() - before
    report("the index …")
    begin = time.perf_counter()
    await keeper.begin()
    await keeper.work()
    result["index, s"] = time.perf_counter() - begin
    report("chromadb alone …")
    peer, result["peer: add, µs"] = alone(folder / "peer", pages)
    result["disk, MB"] = {
        "database": size(*state.glob("tokix.db*")),
        "index": size(state / "index"),
        "peer": size(folder / "peer"),
    }
    result["encoder, µs"] = {"a query": vectorized(encoder, 6, count), "a page": vectorized(encoder, 200, count)}
    result["recall"] = await searches(exact, indexed, keeper, peer, count)
    result["whole"] = await whole(exact, indexed, keeper, count)
    begin = time.perf_counter()
    store.rebuild_words()
    result["index of words, s"] = time.perf_counter() - begin
    await keeper.server.end()
    before, again = memory(), Archive(store, encoder)
    keeper, begin = Keeper(again, state / "index", report, tail), time.perf_counter()
    await keeper.begin()
    await keeper.work()
    result["agreed after a boot, s"] = time.perf_counter() - begin
    await found(again, keeper, "dense", *next(queries(1)))
    result["memory with the index, MB"] = memory() - before
    result["memory of its process, MB"] = memory(keeper.server.pid)
    await keeper.server.end()
    store.close()
    return result


def alone(folder: Path, pages: int) -> tuple[Any, float]:
    """Give chromadb the same vectors; gives its collection, and µs for each."""
    client = chromadb.PersistentClient(str(folder), Settings(anonymized_telemetry=False))
    peer = client.create_collection("pages", configuration={"hnsw": {"space": "ip"}}, embedding_function=None)
    taken = 0.0
    for start in range(0, pages, BATCH):
        table, ids = vectors(BATCH, start + 1), [str(start + n) for n in range(BATCH)]
        taken += timed(peer.add, ids, table)
    return peer, taken / pages * 1e6


async def searches(exact: Archive, indexed: Archive, keeper: Keeper, peer: Any, count: int) -> dict[str, Any]:
    """Let all take turns; gives ms, and what the index finds of what is nearest."""
    taken: dict[str, list[float]] = {}
    hits: dict[str, list[float]] = {"index": [], "peer": []}

    async def turn(name: str, *args: Any) -> list[int]:
        begin = time.perf_counter()
        ids = await found(*args)
        taken.setdefault(name, []).append((time.perf_counter() - begin) * 1e3)
        return ids

    for query, vector in queries(count):
        nearest = {*await turn("dense, exact", exact, None, "dense", query, vector)}
        hits["index"].append(len(nearest & {*await turn("dense", indexed, keeper, "dense", query, vector)}) / 10)
        begin = time.perf_counter()
        ids = peer.query(query_embeddings=[vector], n_results=10, include=["distances"])["ids"][0]
        taken.setdefault("peer, dense", []).append((time.perf_counter() - begin) * 1e3)
        hits["peer"].append(len(nearest & {*map(int, ids)}) / 10)
        await turn("lexical", indexed, keeper, "lexical", query, vector)
        await turn("fused", indexed, keeper, "fused", query, vector)
        await turn("fused, exact", exact, None, "fused", query, vector)
    base = taken["peer, dense"]
    return {
        "ms": {name: percentiles(times) for name, times in taken.items()},
        "of the peer": {name: median(t / b for t, b in zip(ts, base, strict=True)) for name, ts in taken.items()},
        "recall@10": {name: sum(values) / len(values) for name, values in hits.items()},
    }


def vectorized(encoder: Fixed, words: int, count: int) -> float:
    """Give the median µs for the vector of a text."""
    r = random.Random(2)
    return median(timed(encoder.embed, [text(r, words)]) for _ in range(count)) * 1e6


async def whole(exact: Archive, indexed: Archive, keeper: Keeper, count: int) -> dict[str, list[float]]:
    """Let the desk of a system answer, with an index and without; gives ms."""
    thread = MachineThread(ToyMachine(), get_running_loop(), print, print)
    desks = {
        name: Desk(archive, thread, print, print, print) for name, archive in (("exact", exact), ("index", indexed))
    }
    desks["index"].keeper = keeper
    taken: dict[str, list[float]] = {name: [] for name in desks}
    for query, _ in queries(count):
        for name, desk in desks.items():
            begin = time.perf_counter()
            await desk.search(Search("k", (SPACE,), query, 10))
            taken[name].append((time.perf_counter() - begin) * 1e3)
    thread.end()
    return {name: percentiles(times) for name, times in taken.items()}


def percentiles(times: list[float]) -> list[float]:
    """Give p50 and p95."""
    ordered = sorted(times)
    return [ordered[len(ordered) // 2], ordered[int(len(ordered) * 0.95)]]


def show(result: dict[str, Any], console: Console) -> None:
    table = Table("recall, ms", "p50", "p95", "of the peer", "recall@10", title=f"{result['pages']} pages")
    recall = result["recall"]
    at_ten = {"dense, exact": 1.0, "dense": recall["recall@10"]["index"], "peer, dense": recall["recall@10"]["peer"]}
    for name, (half, most) in recall["ms"].items():
        share = f"{at_ten[name]:.3f}" if name in at_ten else ""
        table.add_row(name, f"{half:.1f}", f"{most:.1f}", f"{recall['of the peer'][name]:.2f}", share)
    for name, (half, most) in result["whole"].items():
        table.add_row(f"whole, {name}", f"{half:.1f}", f"{most:.1f}")
    console.print(table)
    for name, value in result.items():
        if isinstance(value, dict) and name not in ("recall", "whole"):
            console.print(f"{name}: " + ", ".join(f"{key} {number:.0f}" for key, number in value.items()))
        elif isinstance(value, float):
            console.print(f"{name}: {value:.1f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pages", type=int, default=100_000, help=f"a multiple of {BATCH} (default: 100000)")
    parser.add_argument("--searches", type=int, default=200, help="of each kind (default: 200)")
    parser.add_argument("--quick", action="store_true", help="10,000 pages, 50 searches")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there, too")
    options = parser.parse_args()
    pages, count = (10_000, 50) if options.quick else (options.pages, options.searches)
    if pages < BATCH or pages % BATCH:
        parser.error(f"--pages is a multiple of {BATCH}")
    console = Console()
    with tempfile.TemporaryDirectory() as folder:
        result = anyio.run(measure, Path(folder), pages, count, lambda line: console.print(line, style="dim"))
    show(result, console)
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
