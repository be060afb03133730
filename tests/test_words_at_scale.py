"""Search by words where many pages have a word: what is read is bounded, and the best are found all the same."""

from __future__ import annotations

import random

import pytest

from stores import Reopen, found, put, row
from tokix.storage import lexical
from tokix.storage.lexical import CANDIDATES, WORDS

MANY = 4 * CANDIDATES


@pytest.fixture(autouse=True, params=["few", "many"])
def few(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let pages be few, or many: what is found is the same."""
    monkeypatch.setattr(lexical, "FEW", MANY if request.param == "few" else 0)


def filled(reopen: Reopen):
    """Give a store where all pages have `every`, half of them `half`, a third `third`, and one has `unique`."""
    store = reopen()
    pages = []
    for n in range(MANY):
        words = ["every", *["half"] * (n % 2 == 0), *["third"] * (n % 3 == 0), f"number{n:03}", *["unique"] * (n == 1)]
        pages.append(row("page", pid=1, space="", id=n, role="tool" if n == 2 else "user", text=" ".join(words)))
    store.commit(put("page", *pages))
    return store


def test_the_oldest_page_is_found_by_its_rare_word_among_frequent_ones(reopen: Reopen) -> None:
    assert found(filled(reopen), "every half third unique", k=1) == [1]
    assert found(filled(reopen), "every number000", k=1) == [0]


def test_pages_with_all_frequent_words_come_first_the_newer_before_the_older(reopen: Reopen) -> None:
    store = filled(reopen)
    assert found(store, "half third every", k=3) == [n for n in reversed(range(MANY)) if n % 6 == 0][:3]
    assert found(store, "every", k=2) == [MANY - 1, MANY - 3], "the page between them is longer"


def test_the_only_page_with_two_frequent_words_is_found_however_old_it_is(reopen: Reopen) -> None:
    store = filled(reopen)
    pages = [row("page", pid=2, space="", id=n, text="left" if n % 2 else "right") for n in range(1, MANY)]
    store.commit(put("page", row("page", pid=2, space="", id=0, text="left right"), *pages))
    assert found(store, "left right", k=1, spaces=[(2, "")]) == [0]
    assert found(store, "left right every", k=1, spaces=[(1, ""), (2, "")]) == [0], "all but one"


def test_what_others_remember_changes_no_candidate(reopen: Reopen) -> None:
    store = filled(reopen)
    queries = ("every half third unique", "half third number007", "every", "third every")
    before = [store.match(query, [(1, "")], 50) for query in queries]
    r = random.Random(0)
    texts = [" ".join(r.choices(["every", "half", "third", "unique", "other"], k=4)) for _ in range(MANY)]
    store.commit(put("page", *(row("page", pid=3, space="", id=n, text=text) for n, text in enumerate(texts))))
    assert [store.match(query, [(1, "")], 50) for query in queries] == before


def test_a_role_is_looked_for_behind_all_that_is_newer(reopen: Reopen) -> None:
    assert found(filled(reopen), "every half", roles=("tool",)) == [2]


def test_of_a_long_query_those_words_count_that_are_found(reopen: Reopen) -> None:
    noise = " ".join(f"nothing-has-this-word-{n}" for n in range(2 * WORDS))
    assert found(filled(reopen), f"{noise} unique", k=1) == [1]
    words = " ".join(f"number{n:03}" for n in range(2 * WORDS))
    store = filled(reopen)
    assert len(found(store, words, k=99)) == WORDS
    store.commit(put("page", row("page", pid=1, space="", id=MANY, text="extraordinarily")))
    assert found(store, f"{words} extraordinarily", k=99)[0] == MANY, "the longest are looked for first"
