"""The vectors of a space in memory: one matrix, so that a hundred thousand are compared in some milliseconds.

The store is the truth, and a shelf is a copy of what it has of one space and one encoder. It is whole once all has been
read, and stays so because every commit is applied to it. Vectors that the index has, by `indexed`, may leave the
matrix: a space is what is in either.

A row of the matrix keeps its place while a search goes on: what leaves makes a hole, and a hole is filled again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from typing import Any
from zlib import crc32

#: Rows that are compared at once: some milliseconds, in which nothing else goes on.
PART = 16384


def possible() -> bool:
    """Say whether there can be shelves: they need numpy."""
    return find_spec("numpy") is not None


class Shelf:
    """Vectors by id, of one space."""

    def __init__(self, dimensions: int) -> None:
        import numpy

        self._np = numpy
        self._places: dict[int, int] = {}
        self._holes: list[int] = []
        self._used = 0
        self._ids: Any = numpy.zeros(0, dtype="i8")
        self._table: Any = numpy.zeros((0, dimensions), dtype="<f4")
        #: All of the space is here or in the index.
        self.whole = False
        #: The index was compared with it.
        self.agreed = False
        #: The checksums of the vectors that the index has, by id.
        self.indexed: dict[int, int] = {}
        #: Those that it has and should not have any more.
        self.stale: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._places)

    @property
    def size(self) -> int:
        """Give the bytes of the matrix."""
        return int(self._table.nbytes)

    def put(self, id: int, data: bytes) -> None:
        """Take a vector in; one with the same id is replaced, and the index has that no more."""
        place = self._places.get(id)
        if place is None:
            place = self._places[id] = self._holes.pop() if self._holes else self._next()
        self._table[place] = self._np.frombuffer(data, dtype="<f4")
        self._ids[place] = id
        self._outdate(id)

    def drop(self, id: int) -> None:
        """Let a vector go."""
        self._outdate(id)
        place = self._places.pop(id, None)
        if place is not None:
            self._ids[place] = -1
            self._holes.append(place)

    def clear(self) -> None:
        """Let all go: this is no shelf any more."""
        self.__init__(self._table.shape[1])  # type: ignore[misc]

    def data(self, id: int) -> bytes | None:
        """Give a vector that is in the matrix."""
        place = self._places.get(id)
        return None if place is None else bytes(self._table[place].tobytes())

    def ids(self) -> list[int]:
        """Give the ids that are in the matrix."""
        return list(self._places)

    def entrust(self, sums: dict[int, int]) -> dict[int, int]:
        """Leave vectors to the index, which has those with these checksums; gives those that have changed."""
        changed = {}
        for id, checksum in sums.items():
            data = self.data(id)
            if data is None or crc32(data) != checksum:
                changed[id] = checksum
            else:
                self.drop(id)
                self.indexed[id] = checksum
                if self.stale.get(id) == checksum:
                    del self.stale[id]
        return changed

    def shrink(self) -> None:
        """Give the room of the holes back."""
        places = sorted(self._places.values())
        self._ids, self._table = self._ids[places], self._table[places]
        self._places = {int(id): place for place, id in enumerate(self._ids)}
        self._used, self._holes = len(places), []

    def compare(self, query: Sequence[float]) -> Iterator[Scores | None]:
        """Multiply all with a vector; gives None after each part, the scores last."""
        ids, table = self._ids[: self._used].copy(), self._table[: self._used]
        scores, vector = self._np.zeros(len(ids)), self._np.asarray(query, dtype="<f4")
        for start in range(0, len(ids), PART):
            scores[start : start + PART] = table[start : start + PART] @ vector
            yield None
        there = ids >= 0
        yield Scores(ids[there], scores[there].round(6))

    def _next(self) -> int:
        if self._used == len(self._ids):
            room = max(32, 2 * self._used)
            self._ids, self._table = self._resized(self._ids, room), self._resized(self._table, room)
        self._used += 1
        return self._used - 1

    def _resized(self, values: Any, room: int) -> Any:
        grown = self._np.zeros((room, *values.shape[1:]), dtype=values.dtype)
        grown[: len(values)] = values
        return grown

    def _outdate(self, id: int) -> None:
        checksum = self.indexed.pop(id, None)
        if checksum is not None:
            self.stale[id] = checksum


class Scores:
    """What was compared: ids, and their scores."""

    def __init__(self, ids: Any, scores: Any) -> None:
        import numpy

        self._np, self._ids, self._scores = numpy, ids, scores

    def best(self, n: int) -> list[tuple[float, int]]:
        """Give the n best, the newer among equals."""
        ids, scores = self._ids, self._scores
        if n < len(ids):
            chosen = scores >= self._np.partition(scores, -n)[-n]
            ids, scores = ids[chosen], scores[chosen]
        order = self._np.lexsort((-ids, -scores))[:n]
        return list(zip(scores[order].tolist(), ids[order].tolist(), strict=True))
