"""The index of large spaces agrees with the store, whatever has happened to it."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

import anyio
import pytest
from indexed import OTHER, SPACE, TAIL, Edge, agrees, booted, damage, exact, play, rows, text_of

from stores import KEY, python
from tokix import archive as edge
from tokix.archive import pack
from tokix.boot import boot
from tokix.index import Busy, Server, Trouble, named, names
from tokix.kernel.arch.toy import ToyEncoder
from tokix.kernel.events import Search
from tokix.kernel.ports import Only
from tokix.storage import MemoryStore, SqliteStore
from tokix.syscalls import Append, Evict, Recall, Recv, Spawn

pytest.importorskip("chromadb")


def test_a_large_space_leaves_memory_for_the_index_and_what_comes_then_is_found(folder: Path) -> None:
    async def main() -> None:
        store = MemoryStore()
        store.commit(rows(range(300)))
        store.commit(rows(range(50), OTHER))
        async with booted(store, folder) as here:
            assert (len(here.shelf), len(here.shelf.indexed)) == (0, 300)
            assert OTHER not in here.archive.shelves, "it is small"
            here.commit(rows(range(300, 340)))
            await here.work()
            assert len(here.shelf) == 40
            await agrees(here, range(340))
            here.commit(rows(range(340, 600)))
            await here.work()
            assert len(here.shelf) == 0
            await agrees(here, range(600))
            assert here.told == []

    play(main)


def test_what_is_forgotten_is_not_found_and_makes_no_answer_shorter(folder: Path) -> None:
    async def main() -> None:
        store = MemoryStore()
        store.commit(rows(range(300)))
        async with booted(store, folder) as here:
            gone = await here.search(5)
            here.commit({name: {(*SPACE, n): None for n in gone} for name in ("page", "vector")})
            found = await here.search(5)
            assert len(found) == 10
            assert not {*found} & {*gone}
            await here.work()
            await agrees(here, set(range(300)) - {*gone})

    play(main)


def test_roles_are_looked_for_until_there_are_enough(folder: Path) -> None:
    async def main() -> None:
        store = MemoryStore()
        store.commit(rows(range(300)))
        async with booted(store, folder) as here:
            found = await here.search(5, only=Only(("tool",)))
            assert len(found) == 10
            assert all(n % 7 == 0 for n in found)

    play(main)


def test_the_end_of_a_process_removes_its_index_and_a_copy_gets_its_own(folder: Path) -> None:
    async def main() -> None:
        store = MemoryStore()
        store.commit(rows(range(300)))
        async with booted(store, folder) as here:
            changes = {name: {OTHER: SPACE, (1,): None} for name in ("page", "vector")}
            here.commit(changes)
            await here.work()
            assert {path.name for path in folder.iterdir()} <= {"lock"}
            assert await here.search(3) == []
            effect = Search("k", (OTHER,), text_of(3), 1, "dense")
            [query] = ToyEncoder().embed([effect.query])
            *_, [page] = here.archive.search(effect, query, await here.keeper.near(effect, query))
            assert page["text"] == text_of(3)
            await here.work()
            assert len(here.archive.shelves[OTHER].indexed) == 300

    play(main)


@pytest.mark.parametrize("there", [range(350), range(250), [*range(100, 300), 999], []])
def test_an_index_that_has_too_much_or_too_little_agrees_after_a_boot(made: Path, folder: Path, there) -> None:
    async def main() -> None:
        shutil.copytree(made, folder)
        store = MemoryStore()
        store.commit(rows(there))
        async with booted(store, folder) as here:
            if len(there) >= TAIL:
                await agrees(here, there)
            else:
                assert {path.name for path in folder.iterdir()} <= {"lock"}
            assert here.told == []

    play(main)


def test_a_vector_that_has_changed_under_its_id_is_replaced(made: Path, folder: Path) -> None:
    async def main() -> None:
        shutil.copytree(made, folder)
        store = MemoryStore()
        store.commit(rows(range(300)))
        [other] = ToyEncoder().embed(["zu zu"])
        store.commit({"vector": {(*SPACE, 5): (*SPACE, 5, "toy-128", pack(other))}})
        async with booted(store, folder) as here:
            await agrees(here, range(300))
            assert [*here.shelf.ids()] == [5]

    play(main)


@pytest.mark.parametrize("how", ["deleted", "a file", "garbage", "cut", "strangers"])
def test_an_index_that_is_damaged_is_made_anew(made: Path, folder: Path, how: str) -> None:
    async def main() -> None:
        shutil.copytree(made, folder)
        damage(folder, how)
        store = MemoryStore()
        store.commit(rows(range(300)))
        async with booted(store, folder) as here:
            await agrees(here, range(300))
            assert len(here.told) == (how in ("garbage", "cut", "a file"))
            assert all("it is made anew" in line for line in here.told)

    play(main)


def test_a_process_that_is_killed_or_hangs_is_no_loss(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        store = MemoryStore()
        store.commit(rows(range(300)))
        async with booted(store, folder) as here:
            process = here.keeper.server._process
            assert process is not None
            process.kill()
            assert await here.search(5) == await exact(store, 5)
            assert len(here.told) == 1
            await here.work()
            await agrees(here, range(300))
            process = here.keeper.server._process
            assert process is not None
            monkeypatch.setattr("tokix.index.HURRY", 0.05)
            process.send_signal(signal.SIGSTOP)
            assert await here.search(5) == await exact(store, 5)
            assert "has not answered" in here.told[-1]

    play(main)


def test_while_the_index_has_no_time_search_is_exact(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def busy(self: Server, *args: Any, **options: Any) -> Any:
        raise Busy

    async def main() -> None:
        store = MemoryStore()
        store.commit(rows(range(300)))
        async with booted(store, folder) as here:
            monkeypatch.setattr("tokix.index.Server.ask", busy)
            assert await here.search(5) == await exact(store, 5)
            assert (len(here.shelf.indexed), here.told) == (300, [])

    play(main)


def test_an_index_that_names_what_it_does_not_find_is_made_anew(
    made: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask, asked = Server.ask, list[str]()

    async def lost(self: Server, op: str, *args: Any, **options: Any) -> Any:
        asked.append(op)
        return [] if op == "near" and "add" not in asked else await ask(self, op, *args, **options)

    async def main() -> None:
        monkeypatch.setattr("tokix.index.Server.ask", lost)
        shutil.copytree(made, folder)
        store = MemoryStore()
        store.commit(rows(range(300)))
        async with booted(store, folder) as here:
            assert ["vectors do not find themselves" in line for line in here.told] == [True]
            assert "add" in asked
            await agrees(here, range(300))

    play(main)


def test_an_index_that_always_fails_is_left_alone_and_search_is_exact(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fails(self, *args, **options):
        raise Trouble("no such luck")

    async def main() -> None:
        monkeypatch.setattr("tokix.index.Server.ask", fails)
        store = MemoryStore()
        store.commit(rows(range(300)))
        here = Edge(store, folder)
        with anyio.move_on_after(30):
            await here.keeper.run()
        assert len(here.told) == 3
        assert here.told[-1].endswith("it is left alone until the next boot, and search is exact meanwhile")
        assert await here.search(5) == await exact(store, 5)

    play(main)


def test_search_is_exact_while_the_index_is_made(folder: Path) -> None:
    async def main() -> None:
        store = MemoryStore()
        store.commit(rows(range(600)))
        here = Edge(store, folder)
        wrong: list[int] = []

        async def ask() -> None:
            while len(here.shelf.indexed) < 600:
                before = len(here.shelf.indexed)
                if await here.search(5) != expected and not before:
                    wrong.append(before)
                await anyio.lowlevel.checkpoint()

        expected = await exact(store, 5)
        await here.keeper.begin()
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(ask)
                await here.work()
        finally:
            await here.keeper.server.end()
        assert wrong == []

    play(main)


WORKER = """
import sys; sys.path.insert(0, sys.argv[1])
from pathlib import Path
import anyio, indexed
from tokix.storage import SqliteStore

async def main():
    '''Commit pages for ever and let the index follow.'''
    store, n = SqliteStore(Path(sys.argv[2], "tokix.db")), 0
    async with indexed.booted(store, Path(sys.argv[2], "index")) as here:
        while True:
            here.commit(indexed.rows(range(n, n + 100)))
            for _ in here.archive.shelved(indexed.SPACE): pass
            n += 100
            print(n, flush=True)
            await here.work()

anyio.run(main)
"""


@pytest.mark.parametrize("after", [3, 4])
def test_sigkill_between_the_commit_and_the_index_loses_nothing(tmp_path: Path, after: int) -> None:
    with python(WORKER, os.path.dirname(__file__), tmp_path) as child:
        assert child.stdout is not None
        for _ in range(after):
            told = int(child.stdout.readline())
        child.kill()
        child.communicate()
    assert child.returncode == -signal.SIGKILL

    async def main() -> None:
        store = SqliteStore(tmp_path / "tokix.db")
        try:
            count = len(store.read("vector", SPACE))
            assert count >= told
            async with booted(store, tmp_path / "index") as here:
                await agrees(here, range(count))
        finally:
            store.close()

    play(main)


async def scholar() -> list[str]:
    """Learn, and wait until somebody asks."""
    await Evict(pages=[await Append(text=text_of(n)) for n in range(60)])
    while True:
        await Recv()


@pytest.mark.parametrize("there", [True, False], ids=["with chromadb", "without"])
def test_a_system_makes_its_index_and_the_next_one_uses_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], there: bool
) -> None:
    monkeypatch.setattr("tokix.index.TAIL", 50)
    monkeypatch.setattr("tokix.boot.available", lambda: there)

    async def live(pid: int = 0) -> tuple[int, int]:
        async with boot(tmp_path, programs={"scholar": scholar}) as system, system.attach("test") as client:
            pid = pid or await client.call(Spawn(program="scholar"))
            while system.store.sizes().get((pid, ""), 0) < 60:
                await anyio.sleep(0.001)
            first, *_ = await client.call(Recall(query=text_of(7), how="dense", k=1, pid=pid))
            assert first.text == text_of(7)
            shelf = system.desk.archive.shelves[pid, ""]
            while there and not shelf.indexed:
                await anyio.sleep(0.001)
            first, *_ = await client.call(Recall(query=text_of(8), how="fused", k=1, pid=pid))
            assert first.text == text_of(8)
            return pid, len(shelf.indexed)

    async def main() -> None:
        pid, indexed = await live()
        assert indexed == 60 * there
        assert (tmp_path / "index").exists() == there
        said = [f"tokix: the index of process {pid}: {what}" for what in ("begins", "done")]
        assert [line for line in capfd.readouterr().err.splitlines() if "index" in line] == said * there
        assert await live(pid) == (pid, indexed)
        assert "index" not in capfd.readouterr().err, "it is there"

    play(main)


@pytest.mark.parametrize("key", [None, KEY], ids=["plain", "encrypted"])
def test_an_encrypted_system_has_no_index_for_that_is_plain(tmp_path: Path, key: str | None) -> None:
    if key:
        pytest.importorskip("sqlcipher3")

    async def main() -> None:
        async with boot(tmp_path, key=key) as system:
            assert bool(system.desk.keeper) == (key is None)

    play(main)


def test_without_numpy_the_vectors_are_read_for_each_search(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        store = MemoryStore()
        store.commit(rows(range(40)))
        expected = await exact(store, 5)
        monkeypatch.setattr(edge, "possible", lambda: False)
        monkeypatch.setitem(sys.modules, "numpy", None)
        here = Edge(store, Path("/nowhere"))
        assert await here.search(5) == expected
        assert here.archive.shelves == {}

    play(main)


def test_what_has_no_room_in_memory_is_read_for_each_search() -> None:
    async def main() -> None:
        store = MemoryStore()
        store.commit(rows(range(300)))
        store.commit(rows(range(20), OTHER))
        here = Edge(store, Path("/nowhere"))
        here.archive.room = 100_000
        assert await here.search(5) == await exact(store, 5)
        assert len(here.shelf) == 0
        assert await here.search(7) == await exact(store, 7)

    play(main)


def test_what_is_larger_than_memory_gets_no_index_for_it_has_to_pass_there(folder: Path) -> None:
    store = MemoryStore()
    store.commit(rows(range(300)))
    here = Edge(store, folder)
    assert here.keeper.large() == [SPACE]
    here.archive.room = 299 * 4 * ToyEncoder.dimensions
    assert here.keeper.large() == []


def test_names_are_ids_and_checksums() -> None:
    sums = {1: 0xDEADBEEF, -1: 3}
    assert named(names(sums)) == sums
    with pytest.raises(Trouble, match="not of tokix"):
        named(["a", "b:c"])
