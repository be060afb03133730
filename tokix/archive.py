"""Search and embedding: what the edge does with the pages that have left the windows.

The store is the truth, and exact search over it is the oracle. The vectors of a space that is searched are kept in
memory (`shelf`), as far as there is room and numpy is installed; else they are read for each search, a few thousand at
a time, so that nothing else waits long and any number fits. An index (`index`) may say which of a large space are near:
what it names is looked up in the store and compared like all others, so it can leave something out and nothing worse.
Words are searched by the store. Pages get their vectors when the machine has nothing else to do, at latest when a
search needs them. A vector is a row that the kernel writes, so that `Forget` and embedding have one order; until it is
committed, searches look here.

`Archive` does not wait: the simulation drives it too. `Desk` drives it for a system that runs, with the encoder on the
machine's thread, so that it and the ticks take turns on the same cores.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from heapq import nlargest
from operator import mul
from typing import TYPE_CHECKING, Any

from anyio.lowlevel import checkpoint

from tokix.kernel.events import Answer, Embedded, Encode, List, Search
from tokix.kernel.ports import ALL, ARCHIVE, TABLES
from tokix.ranking import HEAD, fused, newer_first
from tokix.shelf import Scores, Shelf, possible
from tokix.syscalls import EIO, ENOENT, SyscallError

if TYPE_CHECKING:
    from tokix.host import MachineThread
    from tokix.index import Keeper
    from tokix.kernel.events import Interrupt
    from tokix.kernel.ports import Encoder, Key, Rows, Space, Store

#: Vectors that are compared at once, and texts that are embedded at once.
CHUNK, BATCH = 1024, 8
#: Pages that are looked up at once, to see whether a search is for them.
SOME = 512
#: A fused search takes at least so many pages of each list.
DEPTH = 50

#: Bytes of vectors that are kept in memory.
ROOM = 1 << 30

#: Scores and keys, with the id between them: of equal ones, the newer is the greater.
Hits = list[tuple[float, int, "Key"]]
Embedding = tuple[list["Key"], list[str]]


class Archive:
    """The pages that lack a vector, and the searches over those that have one."""

    def __init__(self, store: Store, encoder: Encoder | None, room: int = ROOM) -> None:
        self.store, self.encoder, self.room = store, encoder, room
        #: Pages to embed, in the order in which they came; vectors that are on their way into the store.
        self.pending: dict[Key, None] = dict.fromkeys(store.unembedded(encoder.name)) if encoder else {}
        self.fresh: dict[Key, bytes] = {}
        #: The spaces that were searched, the last of them last.
        self.shelves: dict[Space, Shelf] = {}
        #: Spaces have come or gone as a whole.
        self.moved = False

    def committed(self, interrupts: Iterable[Interrupt], rows: Rows) -> None:
        """Take note of a step: of vectors that are kept, or were too late, and of new pages."""
        for interrupt in interrupts:
            if isinstance(interrupt, Embedded):
                self.fresh.pop(interrupt.key, None)
        for key, row in rows.get("vector", {}).items():
            self.shelve(key, row)
        if not self.encoder or not rows.get("page"):
            return
        for key, row in rows["page"].items():
            if len(key) == TABLES["page"].keys and row is not None:
                vector = rows.get("vector", {}).get(key)
                if not (vector and vector[3] == self.encoder.name):
                    self.pending[key] = None
            elif row is not None:  # copies: some may have come without a vector
                self.pending.update(dict.fromkeys(self.store.unembedded(self.encoder.name)))

    def shelve(self, key: Key, row: tuple[Any, ...] | None) -> None:
        """Take note of a change of vectors; what changes as a whole is read again when it is searched."""
        if len(key) < TABLES["vector"].keys:
            self.moved = True
            for space in [space for space in self.shelves if space[: len(key)] == key]:
                del self.shelves[space]
        elif (shelf := self.shelves.get((int(key[0] or 0), str(key[1])))) is not None:
            if row and self.encoder and (row[3], len(row[4])) == (self.encoder.name, 4 * self.encoder.dimensions):
                shelf.put(int(key[2] or 0), row[4])
            else:
                shelf.drop(int(key[2] or 0))

    def content(self, spaces: tuple[Space, ...]) -> tuple[list[Any], list[Any]]:
        """Give what spaces have now: rows of the tables `page` and `vector`, without pid and space."""
        pages, vectors = ([row[2:] for s in spaces for row in self.store.read(table, s)] for table in ARCHIVE)
        return pages, vectors

    def listed(self, effect: List) -> list[tuple[Any, ...]]:
        """Give the pages of a space, without pid and space."""
        rows = self.store.read("page", effect.space, (*effect.space, effect.start - 1), effect.limit)
        return [row[2:] for row in rows]

    # ---- embedding

    def batch(self, spaces: tuple[Space, ...] | None = None) -> Embedding | None:
        """Take some pages that lack a vector, of all spaces or of some: their keys and their texts. None: all have."""
        keys: list[Key] = []
        for key in self.pending:
            if spaces is None or key[:2] in spaces:
                keys.append(key)
                if len(keys) == BATCH:
                    break
        if not keys:
            return None
        for key in keys:
            del self.pending[key]
        rows = [row for key in keys for row in self.store.read("page", key)]  # some are gone
        return [row[:3] for row in rows], [row[-1] for row in rows]

    @contextmanager
    def kept(self, keys: list[Key]) -> Iterator[None]:
        """Run the encoder in this block: if it fails, the pages still lack their vectors."""
        try:
            yield
        except SyscallError:
            self.pending.update(dict.fromkeys(keys))
            raise

    def embedded(self, keys: list[Key], vectors: list[list[float]]) -> list[Embedded]:
        """Give what the kernel has to know of new vectors."""
        assert self.encoder
        found = []
        for (pid, space, id), vector in zip(keys, vectors, strict=True):
            key, data = (int(pid or 0), str(space), int(id or 0)), pack(vector)  # a key has no None
            self.fresh[key] = data
            found.append(Embedded(key, self.encoder.name, data))
        return found

    def needed(self) -> Encoder:
        """Give the encoder; raises ENOENT if there is none."""
        if self.encoder is None:
            raise ENOENT("no encoder: this kernel was booted with a machine and without an `encoder`")
        return self.encoder

    # ---- searching

    def embeds(self, effect: Search) -> bool:
        """Say whether a search needs vectors."""
        return effect.how == "dense" or (effect.how == "fused" and self.encoder is not None)

    def search(
        self, effect: Search, query: list[float] | None, near: Mapping[Space, list[int]] | None = None
    ) -> Iterator[list[dict[str, Any]]]:
        """Find pages, with the query's vector if `embeds`; gives an empty list after each part, the result last.

        `near` has what an index has named (see `wanted`).
        """
        lists: list[list[tuple[float, Key]]] = []
        if effect.how != "lexical" and query is not None:
            best: Hits = []
            for found in self.nearest(effect, query, near or {}):
                best = found
                yield []
            lists.append([(score, key) for score, _, key in best])
        if effect.how != "dense":
            matches = self.store.match(effect.query, effect.spaces, depth(effect), effect.only)
            lists.append([(score, row[:3]) for score, row in matches])
        ranked = fused(lists) if effect.how == "fused" else lists[0]
        if len(lists) == 2:
            vectors = {key: self.vector(key) for _, key in ranked[:HEAD]}
            ranked = newer_first(ranked, {key: score for score, key in lists[1]}, vectors)
        pages = [(score, row) for score, key in ranked[: effect.k] for row in self.store.read("page", key)]
        yield [
            {
                "id": id,
                "role": role,
                "text": text,
                "score": round(score, 6),
                "tokens": tokens,
                "at": at,
                "region": "" if pid else space,
            }
            for score, (pid, space, id, _, role, tokens, at, text) in pages
        ]

    def nearest(self, effect: Search, query: list[float], near: Mapping[Space, list[int]]) -> Iterator[Hits]:
        """Compare vectors; gives the nearest so far after each part.

        Scores are rounded: their last bits depend on what else is in a part, and the order of equal ones must not.
        """
        best: Hits = []
        for space in effect.spaces:
            for hits in self.hits(effect, query, space, near.get(space)):
                best = merged(best, hits, depth(effect))
                yield best
            fresh = {key: data for key, data in self.fresh.items() if key[:2] == space}
            hits = scored(list(fresh), list(fresh.values()), query)
            best = merged(best, self.fitting(effect, hits), depth(effect))
            yield best

    def hits(self, effect: Search, query: list[float], space: Space, near: list[int] | None) -> Iterator[Hits]:
        """Give the nearest pages of a space, or what may be of them, part by part."""
        shelf = yield from self.shelved(space)
        if shelf is None or (shelf.indexed and near is None):
            for keys, data in self.vectors(space):
                yield self.fitting(effect, scored(keys, data, query))
            return
        for scores in shelf.compare(query):
            if scores is None:
                yield []
                continue
            yield from self.best(effect, space, scores)
        if near:
            named = [row for row in self.store.among("vector", space, near) if row[3] == self.needed().name]
            yield self.fitting(effect, scored([row[:3] for row in named], [row[4] for row in named], query))

    def best(self, effect: Search, space: Space, scores: Scores) -> Iterator[Hits]:
        """Give the best that a search is for, part by part: most may be of another role, or time."""
        fit, seen, count = 0, 0, depth(effect)
        while fit < depth(effect):
            found = scores.best(count)
            while fit < depth(effect) and seen < len(found):
                hits = self.fitting(effect, [(score, id, (*space, id)) for score, id in found[seen : seen + SOME]])
                fit, seen = fit + len(hits), min(seen + SOME, len(found))
                yield hits
            if len(found) < count:  # that is all
                return
            count *= 4

    def vector(self, key: Key) -> array[float]:
        """Give the vector of a page; an empty one if it has none, or none of this encoder."""
        rows = self.store.read("vector", key)
        known = next((row[4] for row in rows if row[3] == self.needed().name), b"")
        return unpack(self.fresh.get(key, known))

    def wanted(self, effect: Search, space: Space, ids: list[int]) -> list[int]:
        """Give the pages of a space that are there and that a search is for."""
        if effect.only == ALL:
            return [row[2] for row in self.store.among("vector", space, ids)]
        return [row[2] for row in self.store.among("page", space, ids) if effect.only.allows(row[4], row[6])]

    def fitting(self, effect: Search, hits: Hits) -> Hits:
        """Leave out what a search is not for."""
        if effect.only == ALL or not hits:
            return hits
        space = hits[0][2][:2]
        fit = set(self.wanted(effect, (int(space[0] or 0), str(space[1])), [id for _, id, _ in hits]))
        return [hit for hit in hits if hit[1] in fit]

    # ---- what is in memory

    def shelved(self, space: Space) -> Generator[Hits, None, Shelf | None]:
        """Give the shelf of a space, having read what it needs; None if there is no room, or if it is being read."""
        if space not in self.shelves and possible():
            yield from self.fill(space, self.shelf(space))
        shelf = self.shelves.pop(space, None)
        if shelf is None:
            return None
        self.shelves[space] = shelf
        return shelf if shelf.whole else None

    def shelf(self, space: Space) -> Shelf:
        """Give a space an empty shelf."""
        shelf = self.shelves[space] = Shelf(self.needed().dimensions)
        return shelf

    def fill(self, space: Space, shelf: Shelf) -> Generator[Hits, None, None]:
        """Read the vectors of a space, part by part."""
        for keys, data in self.vectors(space):
            if self.shelves.get(space) is not shelf:  # the space has changed as a whole
                return
            for key, vector in zip(keys, data, strict=True):
                shelf.put(int(key[2] or 0), vector)
            if not self.fits(space, shelf):
                return
            yield []
        shelf.whole = self.shelves.get(space) is shelf

    def fits(self, space: Space, shelf: Shelf) -> bool:
        """Make room for a shelf, by dropping the others, those first that were not searched for longest."""
        for other in [other for other in self.shelves if other != space]:
            if sum(shelf.size for shelf in self.shelves.values()) <= self.room:
                break
            del self.shelves[other]
        if shelf.size > self.room:
            shelf.clear()
            return False
        return True

    def vectors(self, space: Space) -> Iterator[tuple[list[Key], list[bytes]]]:
        """Give the keys and vectors that the store has of a space, in chunks; not what is damaged."""
        encoder, size = self.needed().name, 4 * self.needed().dimensions
        after: Key | None = None
        while rows := self.store.read("vector", space, after, CHUNK):
            after = rows[-1][:3]
            known = [row for row in rows if row[3] == encoder and len(row[4]) == size]
            yield [row[:3] for row in known], [row[4] for row in known]


class Desk:
    """The archive of a system that runs: it answers what programs ask, and embeds while the machine is idle."""

    def __init__(
        self,
        archive: Archive,
        thread: MachineThread,
        post: Callable[[Interrupt], None],
        report: Callable[[str], None],
        spawn: Callable[..., None],
    ) -> None:
        """`spawn` starts a function as a task of the edge."""
        #: Keeps the index, if there is one.
        self.keeper: Keeper | None = None
        self.archive, self.thread, self.post, self.report, self.spawn = archive, thread, post, report, spawn
        #: It embeds in the background now; or never again, because the encoder failed.
        self.busy = False

    def look(self) -> None:
        """Let the index follow what has changed."""
        if self.keeper:
            self.keeper.look()

    def idle(self) -> None:
        """The machine has nothing else to do."""
        if self.archive.pending and not self.busy:
            self.busy = True
            self.spawn(self.embed_some)

    async def embed_some(self) -> None:
        """Embed one batch; there is another when the machine is idle again."""
        try:
            if batch := self.archive.batch():
                await self.embed(batch)
        except SyscallError as error:
            self.report(f"pages are not embedded until somebody searches them: {error}")
        else:
            self.busy = False

    async def embed(self, batch: Embedding) -> None:
        keys, texts = batch
        with self.archive.kept(keys):
            vectors = await self.thread.call(encode, self.archive.needed(), texts)
        for interrupt in self.archive.embedded(keys, vectors):
            self.post(interrupt)

    async def answer(self, effect: Search | Encode) -> None:
        try:
            value = await (self.search(effect) if isinstance(effect, Search) else self.encode(effect))
        except SyscallError as error:
            self.post(Answer(effect.key, error=error))
        else:
            self.post(Answer(effect.key, value))

    async def search(self, effect: Search) -> list[dict[str, Any]]:
        query: list[float] | None = None
        if self.archive.embeds(effect):
            encoder = self.archive.needed()
            while batch := self.archive.batch(effect.spaces):
                await self.embed(batch)
            [query] = await self.thread.call(encode, encoder, [effect.query])
        near = await self.keeper.near(effect, query) if self.keeper and query is not None else {}
        result: list[dict[str, Any]] = []
        for found in self.archive.search(effect, query, near):
            await checkpoint()  # others have to breathe
            result = found
        self.look()
        return result

    async def encode(self, effect: Encode) -> list[list[float]]:
        encoder, vectors = self.archive.needed(), list[list[float]]()
        for start in range(0, len(effect.texts), BATCH):
            vectors += await self.thread.call(encode, encoder, effect.texts[start : start + BATCH])
        return vectors


def depth(effect: Search) -> int:
    """Say how many pages of each list a search needs."""
    return effect.k if effect.how != "fused" else max(DEPTH, 4 * effect.k)


def merged(best: Hits, hits: Hits, count: int) -> Hits:
    """Give the best of both; what was found twice, on its way from one place to another, counts once."""
    return nlargest(count, {hit[2]: hit for hit in [*best, *hits]}.values())


def scored(keys: list[Key], data: list[bytes], query: list[float]) -> Hits:
    """Compare vectors with one."""
    scores = products(data, query)
    return [(round(score, 6), int(key[2] or 0), key) for score, key in zip(scores, keys, strict=True)]


def pack(vector: list[float]) -> bytes:
    """Write a vector as float32, little-endian."""
    values = array("f", vector)
    if sys.byteorder == "big":
        values.byteswap()
    return values.tobytes()


def unpack(data: bytes) -> array[float]:
    """Read what `pack` wrote."""
    values = array("f", data)
    if sys.byteorder == "big":
        values.byteswap()
    return values


def products(vectors: list[bytes], query: list[float]) -> list[float]:
    """Multiply vectors with one; with numpy, where it is installed, a hundred times faster."""
    if not vectors:
        return []
    try:
        import numpy
    except ImportError:
        return [sum(map(mul, unpack(data), query)) for data in vectors]
    table = numpy.frombuffer(b"".join(vectors), dtype="<f4").reshape(len(vectors), -1)
    products: list[float] = (table @ numpy.asarray(query, dtype="<f4")).tolist()
    return products


def encode(encoder: Encoder, texts: list[str]) -> list[list[float]]:
    """Run an encoder; raises EIO if it fails."""
    try:
        vectors = [[float(x) for x in vector] for vector in encoder.embed(texts)]
    except SyscallError:
        raise
    except Exception as error:  # the encoder's own: whoever needs the vectors is told
        raise EIO(f"the encoder {encoder.name} failed: {type(error).__name__}: {error}") from error
    if len(vectors) != len(texts) or any(len(vector) != encoder.dimensions for vector in vectors):
        raise EIO(f"the encoder {encoder.name} gave vectors of another number or size than it was asked for")
    return vectors
