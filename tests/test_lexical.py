"""Search by words, and by words and meaning together."""

from __future__ import annotations

import pytest

from facts import FACTS, learn
from harness import always, run
from stores import Reopen, found, put, row
from tokix.kernel.ports import Key
from tokix.ranking import fused
from tokix.storage.lexical import CANDIDATES, wanted
from tokix.syscalls import Append, Evict, Forget, Recall, Think

Ranked = list[tuple[float, Key]]

TEXTS = (
    "The cats of Ada sleep on the mat.",
    "A key is under the mat, beside the door.",
    "Crème brûlée burns at 451 degrees.",
    "mat mat mat",
    "Nothing of it here",
)


def filled(reopen: Reopen):
    store = reopen()
    rows = [
        row("page", pid=1, space="", id=n, role="tool" if n % 2 else "user", text=text) for n, text in enumerate(TEXTS)
    ]
    store.commit(put("page", *rows, row("page", pid=2, space="", id=0, text="the cat of another")))
    return store


def test_pages_with_any_of_the_words_are_found_the_best_first(reopen: Reopen) -> None:
    store = filled(reopen)
    assert found(store, "where is Ada's cat?") == [0]
    assert found(store, "the key under the mat")[0] == 1
    assert {*found(store, "mat")} == {0, 1, 3}
    assert found(store, "mat", k=1) == [3]
    assert found(store, "creme BRULEE burning") == [2], "case, accents and endings do not matter"
    assert found(store, "elephants") == found(store, "") == found(store, "?!") == []
    scores = [score for score, _ in store.match("mat", [(1, "")], 9)]
    assert scores == sorted(scores, reverse=True)
    assert scores[-1] > 0


def test_words_that_all_texts_have_are_left_out_unless_there_are_no_others(reopen: Reopen) -> None:
    store = filled(reopen)
    assert found(store, "the of a mat on") == found(store, "mat")
    assert {*found(store, "of the")} == {0, 1, 4}
    assert wanted('a "quoted" OR NEAR(x) *') == ['"quoted"', '"near"', '"x"']


def test_only_the_spaces_and_roles_that_are_asked_for(reopen: Reopen) -> None:
    store = filled(reopen)
    assert found(store, "cat", spaces=[(2, "")]) == [0]
    assert found(store, "cat", spaces=[(3, "")]) == found(store, "cat", spaces=[]) == []
    assert len(found(store, "cat", spaces=[(1, ""), (2, "")])) == 2
    assert {*found(store, "mat", roles=("tool",))} == {1, 3}
    assert found(store, "mat", roles=("assistant",)) == []


def test_what_others_remember_changes_nothing(reopen: Reopen) -> None:
    store = filled(reopen)
    queries = ("the key under the mat", "Ada's cat on a mat", "mat door burning")
    before = [store.match(query, [(1, "")], 9) for query in queries]
    store.commit(put("page", *(row("page", pid=3, space="", id=n, text=f"key key cat {n} mat") for n in range(99))))
    assert [store.match(query, [(1, "")], 9) for query in queries] == before


def test_of_many_matches_the_best_are_ranked(reopen: Reopen) -> None:
    store = filled(reopen)
    many = [
        row("page", pid=4, space="", id=n, text=f"the mat number {n} is on the floor") for n in range(CANDIDATES + 50)
    ]
    store.commit(put("page", *many, row("page", pid=4, space="", id=9999, text="mat 7777")))
    assert found(store, "mat 7777", k=1, spaces=[(4, "")]) == [9999]
    assert len(found(store, "mat", k=CANDIDATES + 20, spaces=[(4, "")])) == CANDIDATES + 20


def test_pages_that_lie_between_those_of_ones_own_are_not_found(reopen: Reopen) -> None:
    store = filled(reopen)
    store.commit(put("page", row("page", pid=3, space="", id=0, text="a third cat")))
    spaces = [(1, ""), (3, "")]
    assert {r[:3] for _, r in store.match("cat", spaces, 9)} == {(1, "", 0), (3, "", 0)}


def test_a_frequent_word_counts_beside_a_rare_one_however_old_the_page(reopen: Reopen) -> None:
    store = filled(reopen)
    texts = ["rare mat", "rare rug", *(f"mat {n}" for n in range(CANDIDATES + 50))]
    store.commit(put("page", *(row("page", pid=4, space="", id=n, text=text) for n, text in enumerate(texts))))
    assert found(store, "rare mat", k=2, spaces=[(4, "")]) == [0, 1]


def test_of_many_frequent_words_the_rarest_count(reopen: Reopen) -> None:
    store = filled(reopen)
    texts = ["red blue green", *(f"{('red', 'blue', 'green')[n % 3]} big old" for n in range(3 * CANDIDATES + 30))]
    store.commit(put("page", *(row("page", pid=4, space="", id=n, text=text) for n, text in enumerate(texts))))
    assert found(store, "big old red blue green", k=1, spaces=[(4, "")]) == [0]


def test_the_index_changes_with_the_pages(reopen: Reopen) -> None:
    store = filled(reopen)
    store.commit({"page": {(1, "", 3): row("page", pid=1, space="", id=3, text="a dog"), (1, "", 1): None}})
    assert found(store, "mat") == [0]
    assert found(store, "dogs") == [3]
    store.commit({"page": {(5, ""): (1, ""), (1, ""): None}})
    store = reopen()
    assert found(store, "dog", spaces=[(1, "")]) == []
    assert found(store, "dog", spaces=[(5, "")]) == [3]


def test_a_fused_list_has_those_first_that_both_lists_have() -> None:
    a, b, c, d = ((1, "", n) for n in range(4))
    first: Ranked
    second: Ranked
    first, second = [(0.9, a), (0.8, b), (0.7, c)], [(7.0, b), (5.0, d), (3.0, a)]
    ranked = fused([first, second])
    assert [key for _, key in ranked] == [b, a, c, d], "meaning counts more than words"
    assert fused([first[:1], second[2:]]) == [(1.0, a)]
    assert fused([first])[0] == (1.0, a)
    assert fused([]) == fused([[], []]) == []


def test_recall_by_words_by_meaning_and_by_both():
    async def main():
        await learn()
        return [
            [f.id for f in await Recall(query="trains at noon", k=2, how=how)] for how in ("fused", "dense", "lexical")
        ]

    assert [first for first, *_ in always(main)] == [3, 3, 3]


def test_recall_of_some_roles_only():
    async def main():
        await Append(text="the cat is mine")
        await Append(text="the cat is black", role="tool")
        await Think(prompt="cat?", max_tokens=3)
        await Append(text="now")
        await Evict(pages=[0, 1, 2, 3])
        hows = ("fused", "dense", "lexical")
        some = [[f.id for f in await Recall(query="cat", how=how, roles=["tool"])] for how in hows]
        return some, {f.role for f in await Recall(query="cat", roles=["user", "tool"])}

    some, roles = run(main)
    assert some == [[1], [1], [1]]
    assert {*roles} == {"user", "tool"}


def test_what_is_forgotten_is_found_by_no_word():
    async def main():
        await learn()
        await Forget(page=0)
        return [f.text for f in await Recall(query=FACTS[0], how="lexical")]

    assert FACTS[0] not in always(main)


@pytest.mark.parametrize("query", ['"', "'; DROP TABLE page; --", "a AND (", "*", "NEAR(", "\u0000", "page_text:x"])
def test_no_query_is_an_expression(reopen: Reopen, query: str) -> None:
    filled(reopen).match(query, [(1, "")], 3)
