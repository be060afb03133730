"""A space that is large enough for an index, and the edge that keeps one."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest

from tokix.archive import Archive, pack
from tokix.index import Keeper, named
from tokix.kernel.arch.toy import ToyEncoder
from tokix.kernel.events import Search
from tokix.storage import MemoryStore

SPACE, OTHER, TAIL = (1, ""), (2, ""), 200
WORDS = [f"{a}{b}" for a in "bcdfg" for b in "aeiou"]


def text_of(n: int) -> str:
    return " ".join(random.Random(n).choices(WORDS, k=6))


def rows(ids, space=SPACE):
    """Give pages and their vectors."""
    vectors = ToyEncoder().embed([text_of(n) for n in ids])
    return {
        "page": {(*space, n): (*space, n, n, "tool" if n % 7 == 0 else "user", 3, 0.5, text_of(n)) for n in ids},
        "vector": {(*space, n): (*space, n, "toy-128", pack(v)) for n, v in zip(ids, vectors, strict=True)},
    }


class Edge:
    """An archive and its index, as a system has them, and what was reported."""

    def __init__(self, store, folder: Path) -> None:
        self.store, self.told = store, list[str]()
        self.archive = Archive(store, ToyEncoder())
        self.keeper = Keeper(self.archive, folder, self.told.append, tail=TAIL)

    def commit(self, rows) -> None:
        self.store.commit(rows)
        self.archive.committed([], rows)

    async def work(self) -> None:
        """Do what is due, and what is due after that."""
        while True:
            self.keeper.rung = anyio.Event()
            await self.keeper.work()
            self.keeper.look()
            if not self.keeper.rung.is_set():
                return

    async def search(self, n: int, near: bool = True, **options) -> list[int]:
        """Search for a text; gives ids."""
        effect = Search("k", (SPACE,), text_of(n), 10, "dense", **options)
        [query] = ToyEncoder().embed([effect.query])
        found = await self.keeper.near(effect, query) if near else {}
        *_, pages = self.archive.search(effect, query, found)
        return [page["id"] for page in pages]

    async def indexed(self) -> set[int]:
        """Give the ids that the index really has."""
        return {*named(await self.keeper.server.ask("names", name=self.keeper.name(SPACE)))}

    @property
    def shelf(self):
        return self.archive.shelves[SPACE]


@asynccontextmanager
async def booted(store, folder: Path) -> AsyncIterator[Edge]:
    here = Edge(store, folder)
    try:
        await here.keeper.begin()
        await here.work()
        yield here
    finally:
        await here.keeper.server.end()


async def exact(store, n: int, **options) -> list[int]:
    """Give what the oracle finds: all vectors, out of the store."""
    return await Edge(store, Path("/nowhere")).search(n, near=False, **options)


def play(main: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        with anyio.fail_after(60):
            await main()

    anyio.run(bounded)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "index"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give an index of 300 pages."""
    folder = tmp_path_factory.mktemp("made") / "index"

    async def main() -> None:
        store = MemoryStore()
        store.commit(rows(range(300)))
        async with booted(store, folder) as here:
            assert await here.indexed() == set(range(300))

    play(main)
    return folder


async def agrees(here: Edge, ids) -> None:
    """Check that the index has these and no others, and finds what exact search finds, as well as an index can."""
    assert set(here.shelf.indexed) | {*here.shelf.ids()} == set(ids)
    assert await here.indexed() == set(here.shelf.indexed)
    for n in (0, 17, 120):
        found = await here.search(n)
        assert len(found) == 10
        assert len({*found} & {*await exact(here.store, n)}) >= 8


def damage(folder: Path, how: str) -> None:
    [collection] = [path for path in folder.iterdir() if path.is_dir()]
    files = [path for path in collection.rglob("*") if path.is_file()]
    if how == "deleted":
        shutil.rmtree(folder)
    elif how == "a file":
        shutil.rmtree(folder)
        folder.write_text("not a folder")
    elif how == "garbage":
        for path in files:
            path.write_bytes(random.Random(0).randbytes(path.stat().st_size))
    elif how == "cut":
        for path in files:
            os.truncate(path, path.stat().st_size // 2)
    else:
        (folder / "stranger").mkdir()
        (folder / "stranger.txt").write_text("what is this?")
