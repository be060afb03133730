"""The archive and its encoder, simulated and at the real edge."""

import os
import random
import signal
import subprocess
import sys

import anyio
import pytest

from facts import FACTS, learn, resident, small
from harness import Ended, boot, clean, told
from tokix import archive as edge
from tokix.archive import Archive, encode, pack, products
from tokix.boot import boot as real_boot
from tokix.kernel.arch.toy import ToyEncoder
from tokix.kernel.events import Search
from tokix.kernel.ports import Only
from tokix.sim import World
from tokix.storage import MemoryStore, SqliteStore
from tokix.syscalls import EIO, ENOENT, Append, Embed, Evict, Recall, Recv, Sleep, Spawn
from torture import Mortal

# ---- the encoder, and the edge


class Broken(ToyEncoder):
    name = "broken"

    def embed(self, texts):
        raise ValueError("no such layer")


class Other(ToyEncoder):
    name, dimensions = "other", 32


def test_an_encoder_that_fails_is_an_error_of_who_asked():
    async def main():
        await learn()
        await Sleep(seconds=5)
        return [await told(Recall(query="cat")), await told(Embed(texts=["x"]))]

    text = "EIO: the encoder broken failed: ValueError: no such layer"
    store, world = Mortal(), World()
    sim = boot(main, store=store, world=world, encoder=Broken())
    assert Ended(sim.run(1000)).value == [text, text]
    with pytest.raises(EIO, match="another number or size"):
        encode(type("Short", (ToyEncoder,), {"embed": lambda self, texts: []})(), ["x"])


def test_without_an_encoder():
    async def main():
        await learn()
        words = [page.text for page in await Recall(query="cat")]
        dense = await told(Recall(query="cat", how="dense"))
        return [dense, await told(Embed(texts=["x"])), await resident(), words]

    sim = boot(main)
    sim.archive = Archive(sim.store, None)
    value = Ended(sim.run(1000)).value
    assert value[0] == value[1]
    assert value[0].startswith("ENOENT: no encoder")
    assert value[2:] == [[], [FACTS[0]]], "by words alone it goes on"


def test_another_encoder_at_the_next_boot_makes_all_vectors_anew():
    async def main():
        await learn()
        await Sleep(seconds=9)
        return [f.text for f in await Recall(query="Ada's cat", k=1)]

    store, world = MemoryStore(), World()
    sim = boot(main, store=store, world=world)
    sim.step()
    while len(store.tables["vector"]) < 4:
        sim.wait()
        sim.step()
    sim = boot(main, store=store, world=world, encoder=Other())
    sizes = set()
    while True:
        sim.step()
        sizes |= {(row[3], len(row[4])) for row in store.read("vector", ())}
        if not sim.wait():
            break
    clean(sim)
    assert ("other", 4 * 32) in sizes
    assert Ended(sim).value == [FACTS[0]]


@pytest.mark.parametrize("fresh", [0, 5, 20])
def test_search_is_exact_over_any_number_of_chunks(monkeypatch, fresh):
    monkeypatch.setattr(edge, "CHUNK", 7)
    r, store = random.Random(fresh), MemoryStore()
    texts = [" ".join(r.choices("abcdefgh", k=5)) for _ in range(40)]
    keys = [(1, "" if n % 3 else "0:1.", n) for n in range(40)]
    store.commit({"page": {key: (*key, key[2], "user", 3, 0.5, text) for key, text in zip(keys, texts, strict=True)}})
    vectors = ToyEncoder().embed(texts)
    known = {key: (*key, "toy-128", pack(v)) for key, v in [*zip(keys, vectors, strict=True)][fresh:]}
    store.commit({"vector": known, "page": {(2, "", 0): (2, "", 0, 0, "user", 3, 0.5, "a b c")}})
    shelf = Archive(store, ToyEncoder())
    while batch := shelf.batch():
        shelf.embedded(batch[0], encode(ToyEncoder(), batch[1]))
    [query] = ToyEncoder().embed(["a b c d"])
    *_, found = shelf.search(Search("k", ((1, ""), (1, "0:1.")), "a b c d", 9, "dense"), query)
    scores = {n: round(sum(map(float.__mul__, query, v)), 5) for n, v in enumerate(vectors)}
    assert [f["id"] for f in found] == sorted(scores, key=lambda n: (-scores[n], -n))[:9]


def test_products_without_numpy_are_the_same(monkeypatch):
    vectors = ToyEncoder().embed(["a b", "b c d", "e"])
    packed, query = [pack(v) for v in vectors], vectors[1]
    fast = products(packed, query)
    monkeypatch.setitem(sys.modules, "numpy", None)
    assert products(packed, query) == pytest.approx(fast)
    assert fast == pytest.approx([6**-0.5, 1, 0], abs=1e-6)
    assert products([], query) == []


# ---- the real edge


async def rememberer(marker):
    await learn()
    await Sleep(seconds=0.01)
    if marker and not os.path.exists(marker):
        open(marker, "w").close()
        os.kill(os.getpid(), signal.SIGKILL)
    found = await Recall(query="which cat has Ada?", k=1, load=True)
    return [[f.text for f in found], await resident(), len(await Embed(texts=["x"] * 20))]


def test_a_system_that_is_killed_remembers(tmp_path):
    code = (
        "import anyio, sys; sys.path.insert(0, sys.argv[1]); import test_archive, tokix\n"
        "print(tokix.run(test_archive.rememberer, sys.argv[3], state=sys.argv[2]).value)"
    )
    here = os.path.dirname(__file__)
    arguments = [sys.executable, "-c", code, here, str(tmp_path / "state"), str(tmp_path / "marker")]
    first = subprocess.run(arguments, capture_output=True, text=True, timeout=60)
    assert first.returncode == -signal.SIGKILL, first.stderr
    store = SqliteStore(tmp_path / "state" / "tokix.db")
    assert [row[-1] for row in store.read("page", ())] == [*FACTS]
    store.close()

    async def again():
        with anyio.fail_after(20):
            async with real_boot(tmp_path / "state", programs={"test_archive:rememberer": rememberer}) as system:
                while any(p.program.endswith("rememberer") for p in system.kernel.procs.values()):
                    await anyio.sleep(0.001)
                return [row for row in system.store.dead() if "rememberer" in row[3]]

    [row] = anyio.run(again)
    assert FACTS[0] in row[15]
    assert '"reason":"exit"' in row[15]
    store = SqliteStore(tmp_path / "state" / "tokix.db")
    assert store.read("page", ()) == store.read("vector", ()) == []
    store.close()


def test_pages_are_embedded_while_the_machine_is_idle(tmp_path):

    async def idler():
        await Evict(pages=[await Append(text=f"page {n}") for n in range(20)])
        await Recv()

    async def play():
        store = MemoryStore()
        with anyio.fail_after(20):
            async with real_boot(store=store, programs={"idler": idler}) as system, system.attach("test") as client:
                pid = await client.call(Spawn(program="idler"))
                while len(store.tables["vector"]) < 20:
                    await anyio.sleep(0.001)
                found = await client.call(Recall(query="page 7", k=1, pid=pid))
                return found[0].text, system.desk.archive.pending, system.desk.archive.fresh

    assert anyio.run(play) == ("page 7", {}, {})


def test_a_real_system_without_an_encoder_says_so():

    async def play(encoder):
        with anyio.fail_after(20):
            async with real_boot(machine=small(), encoder=encoder, drivers={}) as system, system.attach("t") as client:
                ids = [await client.call(Append(text="x"))]
                await client.call(Evict(pages=ids))
                with pytest.raises((ENOENT, EIO)) as caught:
                    await client.call(Recall(query="x", how="dense"))
                return str(caught.value)

    assert anyio.run(play, None).startswith("ENOENT: no encoder")
    assert anyio.run(play, Broken()) == "EIO: the encoder broken failed: ValueError: no such layer"


@pytest.mark.parametrize("some", [1, 4, 512])
def test_what_few_pages_fit_is_looked_for_a_part_at_a_time(monkeypatch, some):
    """Nothing else waits while most of what is near is of another role."""
    monkeypatch.setattr(edge, "SOME", some)
    encoder, store = ToyEncoder(), MemoryStore()
    shelf, looked = Archive(store, encoder), []
    texts = [f"a b c {n}" for n in range(60)]
    keys = [(1, "", n) for n in range(60)]
    rows = {key: (*key, key[2], "tool" if key[2] in (3, 50) else "user", 3, 0.5, texts[key[2]]) for key in keys}
    vectors = {k: (*k, encoder.name, pack(v)) for k, v in zip(keys, encoder.embed(texts), strict=True)}
    store.commit({"page": rows, "vector": vectors})
    among = store.among
    monkeypatch.setattr(store, "among", lambda table, space, ids: looked.append(len(ids)) or among(table, space, ids))
    [query] = encoder.embed(["a b c"])
    *_, found = shelf.search(Search("k", ((1, ""),), "a b c", 2, "dense", Only(("tool",))), query)
    assert {page["id"] for page in found} == {3, 50}
    assert max(looked) <= some
    assert sum(looked) <= 60, "no page is looked at twice"
    *_, found = shelf.search(Search("k", ((1, ""),), "a b c", 2, "dense", Only(("system",))), query)
    assert found == []


def test_the_best_of_few_is_the_best_of_many():
    """A fused search has to look further than it is asked to: who is second in both lists can be the best."""
    r, encoder, store = random.Random(0), ToyEncoder(), MemoryStore()
    texts = [" ".join(r.choices("abcdefgh", k=r.randrange(2, 9))) for _ in range(60)]
    pages = {(1, "", n): (1, "", n, n, "user", 3, 0.5, text) for n, text in enumerate(texts)}
    vectors = zip(pages, encoder.embed(texts), strict=True)
    store.commit({"page": pages, "vector": {key: (*key, encoder.name, pack(v)) for key, v in vectors}})
    shelf = Archive(store, encoder)

    def found(text, k):
        *_, pages = shelf.search(Search("k", ((1, ""),), text, k), encoder.embed([text])[0])
        return [page["id"] for page in pages]

    for _ in range(20):
        text = " ".join(r.sample("abcdefgh", 3))
        assert found(text, 1) == found(text, 20)[:1]


def test_pages_that_are_copied_while_they_are_embedded_are_embedded_too():
    store = MemoryStore()
    store.commit({"page": {(1, "", n): (1, "", n, n, "user", 3, 0.5, "a") for n in range(3)}})
    shelf = Archive(store, ToyEncoder())
    assert shelf.batch() == ([(1, "", n) for n in range(3)], ["a"] * 3)
    copies = {"page": {(2, ""): (1, "")}, "vector": {(2, ""): (1, "")}}
    store.commit(copies)
    shelf.committed([], copies)
    assert {(2, "", n) for n in range(3)} <= shelf.pending.keys()


def test_pages_that_could_not_be_embedded_still_lack_their_vectors():
    store = MemoryStore()
    store.commit({"page": {(1, "", 0): (1, "", 0, 0, "user", 3, 0.5, "a")}})
    shelf = Archive(store, ToyEncoder())
    keys, _ = shelf.batch()
    assert not shelf.pending
    with pytest.raises(EIO), shelf.kept(keys):
        raise EIO("no such layer")
    assert [*shelf.pending] == keys
