"""Vectors in memory: what is there is found, what has left is not, whatever happens while somebody searches."""

from __future__ import annotations

from zlib import crc32

import pytest

from tokix import shelf as module
from tokix.archive import Archive, Hits, merged, pack
from tokix.kernel.arch.toy import ToyEncoder
from tokix.kernel.events import Search
from tokix.kernel.ports import Key, Rows
from tokix.storage import MemoryStore

pytest.importorskip("numpy")

WEST, EAST, NORTH = ([-1.0, 0.0], [1.0, 0.0], [0.0, 1.0])


def filled(*vectors: list[float]) -> module.Shelf:
    made = module.Shelf(2)
    for id, vector in enumerate(vectors):
        made.put(id, pack(vector))
    return made


def found(shelf: module.Shelf, query: list[float], n: int = 99) -> list[tuple[float, int]]:
    *parts, scores = shelf.compare(query)
    assert scores
    assert not any(parts)
    return scores.best(n)


def test_the_nearest_come_first_and_the_newer_among_equals() -> None:
    shelf = filled(WEST, EAST, NORTH, EAST)
    assert found(shelf, EAST) == [(1.0, 3), (1.0, 1), (0.0, 2), (-1.0, 0)]
    assert found(shelf, EAST, 1) == [(1.0, 3)]
    assert found(shelf, EAST, 3) == [(1.0, 3), (1.0, 1), (0.0, 2)]


def test_what_has_left_is_not_found_and_its_place_is_used_again() -> None:
    shelf = filled(*[EAST] * 30)
    size = shelf.size
    for id in range(30, 300):
        shelf.drop(id - 30)
        shelf.put(id, pack(NORTH))
    assert {id for _, id in found(shelf, NORTH)} == {*range(270, 300)} == {*shelf.ids()}
    assert shelf.size == size
    shelf.drop(280)
    assert 280 not in {id for _, id in found(shelf, NORTH)}
    assert shelf.data(280) is None


@pytest.mark.parametrize("part", [1, 7, 1000])
def test_it_grows_and_is_compared_part_by_part(monkeypatch: pytest.MonkeyPatch, part: int) -> None:
    monkeypatch.setattr(module, "PART", part)
    shelf = filled(*([n / 256, 1.0] for n in range(200)))
    assert found(shelf, EAST) == [(round(n / 256, 6), n) for n in reversed(range(101, 200))]
    assert shelf.data(77) == pack([77 / 256, 1.0])


def test_who_comes_while_others_are_compared_has_not_their_score(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PART", 1)
    shelf = filled(EAST, WEST)
    search = shelf.compare(EAST)
    assert next(search) is None
    shelf.drop(0)
    shelf.put(2, pack(NORTH))
    *_, scores = search
    assert scores
    assert (1.0, 2) not in scores.best(9)


def test_what_is_entrusted_to_the_index_leaves_and_what_has_changed_stays() -> None:
    shelf = filled(WEST, EAST, NORTH)
    sums = {id: crc32(pack(vector)) for id, vector in enumerate((WEST, EAST))}
    assert shelf.entrust({0: sums[0], 1: sums[0], 9: 5}) == {1: sums[0], 9: 5}
    assert (shelf.indexed, shelf.ids()) == ({0: sums[0]}, [1, 2])
    shelf.shrink()
    assert found(shelf, NORTH) == [(1.0, 2), (0.0, 1)]
    shelf.put(3, pack(NORTH))
    assert shelf.data(1) == pack(EAST)
    shelf.put(0, pack(EAST))
    assert (shelf.indexed, shelf.stale) == ({}, {0: sums[0]}), "the index has an older one"
    shelf.put(0, pack(WEST))
    assert shelf.entrust({0: sums[0]}) == {}
    assert (shelf.indexed, shelf.stale) == ({0: sums[0]}, {}), "and now it has the right one"
    shelf.drop(0)
    assert (shelf.indexed, shelf.stale) == ({}, {0: sums[0]})


QUERY = "a b c"


def remembered(*spaces: tuple[int, str], room: int = 1 << 20) -> tuple[MemoryStore, Archive]:
    """Give an archive with twenty pages in each space."""
    encoder, store = ToyEncoder(), MemoryStore()
    for space in spaces:
        texts: dict[Key, str] = {(*space, n): f"{QUERY} {n}" for n in range(20)}
        vectors = zip(texts, encoder.embed(list(texts.values())), strict=True)
        rows: Rows = {
            "page": {key: (*key, key[2], "user", 3, 0.5, text) for key, text in texts.items()},
            "vector": {key: (*key, encoder.name, pack(v)) for key, v in vectors},
        }
        store.commit(rows)
    return store, Archive(store, encoder, room)


def searched(archive: Archive, space: tuple[int, str], k: int = 5) -> list[int]:
    [query] = ToyEncoder().embed([QUERY])
    *_, pages = archive.search(Search("k", (space,), QUERY, k, "dense"), query)
    return [page["id"] for page in pages]


def test_what_is_forgotten_makes_no_answer_shorter() -> None:
    store, archive = remembered((1, ""))
    before = searched(archive, (1, ""))
    gone: Rows = {table: {(1, "", id): None for id in before} for table in ("page", "vector")}
    store.commit(gone)
    archive.committed([], gone)
    after = searched(archive, (1, ""))
    assert len(before) == len(after) == 5
    assert not {*before} & {*after}


def test_what_only_the_index_has_is_found_while_the_index_is_busy() -> None:
    _, archive = remembered((1, ""))
    everything = searched(archive, (1, ""), 99)
    shelf = archive.shelves[1, ""]
    shelf.entrust({id: crc32(shelf.data(id) or b"") for id in shelf.ids()})
    assert len(shelf) == 0
    assert searched(archive, (1, ""), 99) == everything


def test_where_there_is_no_room_for_all_who_was_not_searched_for_longest_goes() -> None:
    spaces = (1, ""), (2, ""), (3, "")
    _, archive = remembered(*spaces)
    searched(archive, spaces[0])
    archive.room = 2 * archive.shelves[spaces[0]].size
    for number in (1, 0, 2, 2):
        assert len(searched(archive, spaces[number])) == 5
        assert sum(shelf.size for shelf in archive.shelves.values()) <= archive.room
    assert [*archive.shelves] == [spaces[0], spaces[2]]


def test_what_is_found_twice_counts_once() -> None:
    hits: Hits = [(0.5, n, (1, "", n)) for n in (3, 2, 1)]
    assert merged(hits[:2], hits, 9) == hits
    assert merged(hits, [(0.6, 1, (1, "", 1))], 2) == [(0.6, 1, (1, "", 1)), hits[0]]
