"""How two lists become one, and which of two pages that say the same goes first."""

from __future__ import annotations

import pytest

from harness import always
from tokix.kernel.ports import Key
from tokix.ranking import ALIKE, HEAD, SAID, SLACK, fused, newer_first
from tokix.syscalls import Append, Evict, Recall

Ranked = list[tuple[float, Key]]

OLD: Key = (1, "", 3)
NEW: Key = (1, "", 7)
OTHER: Key = (1, "", 5)
ELSEWHERE: Key = (0, "notes", 9)
#: Two vectors that are as near as they have to be, and one that is not.
NEAR: dict[Key, list[float]] = {
    OLD: [1.0, 0.0],
    NEW: [ALIKE + 0.01, 0.8],
    OTHER: [ALIKE - 0.01, 0.8],
    ELSEWHERE: [1.0, 0.0],
}


def order(ranked: Ranked) -> list[Key]:
    return [key for _, key in ranked]


def test_how_far_apart_two_pages_are_counts_and_not_their_places():
    close, far = [(0.9, NEW), (0.89, OLD)], [(9.0, OLD), (1.0, NEW)]
    assert order(fused([close, far])) == [OLD, NEW]
    assert order(fused([far, close])) == [OLD, NEW]
    assert fused([close, far])[0][0] < 1


def test_what_is_found_by_one_list_only_has_its_part():
    assert fused([[(0.5, NEW)], []]) == [(0.75, NEW)]
    assert fused([[], [(3.0, NEW)]]) == [(0.25, NEW)]
    assert fused([[(3.0, NEW), (1.5, OLD)]]) == [(1.0, NEW), (0.5, OLD)]


def test_what_is_the_opposite_counts_nothing():
    assert fused([[(0.5, OLD), (-0.5, NEW)], []]) == [(0.75, OLD), (0.0, NEW)]
    assert fused([[(-0.1, OLD), (-0.5, NEW)], []]) == [(0.0, NEW), (0.0, OLD)], "the newer of equals"


def test_of_two_that_are_alike_the_newer_goes_first_with_the_score_of_the_older():
    ranked = [(0.9, OLD), (0.9 - SLACK, NEW), (0.1, OTHER)]
    assert newer_first(ranked, {OLD: 2.0, NEW: 2.0 * SAID}, NEAR) == [(0.9, NEW), (0.9, OLD), (0.1, OTHER)]


@pytest.mark.parametrize(
    ("ranked", "words"),
    [
        pytest.param([(0.9, OLD), (0.9 - SLACK - 0.01, NEW)], {OLD: 1.0, NEW: 1.0}, id="much worse"),
        pytest.param([(0.9, OLD), (0.8, OTHER)], {OLD: 1.0, OTHER: 1.0}, id="not alike"),
        pytest.param([(0.9, OLD), (0.8, NEW)], {OLD: 1.0, NEW: 0.9 * SAID}, id="found by fewer words"),
        pytest.param([(0.9, OLD), (0.8, NEW)], {}, id="found by no word"),
        pytest.param([(0.9, NEW), (0.8, OLD)], {OLD: 1.0, NEW: 1.0}, id="older"),
        pytest.param([(0.9, OLD), (0.8, ELSEWHERE)], {OLD: 1.0, ELSEWHERE: 1.0}, id="of another space"),
        pytest.param([(0.9, OLD), (0.8, (1, "", 99))], {OLD: 1.0, (1, "", 99): 1.0}, id="without a vector"),
    ],
)
def test_the_order_stays(ranked: Ranked, words: dict[Key, float]):
    assert newer_first(ranked, words, NEAR) == ranked


def test_only_the_first_pages_change_places():
    keys: list[Key] = [(1, "", n) for n in range(HEAD + 2)]
    ranked = [(0.9 - n * 1e-3, key) for n, key in enumerate(keys)]
    done = newer_first(ranked, dict.fromkeys(keys, 1.0), {key: [1.0] for key in keys})
    assert order(done) == [*reversed(keys[:HEAD]), *keys[HEAD:]]
    assert [score for score, _ in done] == sorted((score for score, _ in done), reverse=True)


def test_a_correction_is_found_before_what_it_corrects():
    facts = ("Ada lives in Turin.", "Ada has a cat.", "Now Ada lives in Oslo.", "Bob lives in Turin, too.")

    async def main():
        await Evict(pages=[await Append(text=fact) for fact in facts])
        query = "Where is it that Ada lives in?"
        return [[page.id for page in await Recall(query=query, k=2, how=how)] for how in ("dense", "fused")]

    dense, ranked = always(main)
    assert dense == [0, 2]
    assert ranked == [2, 0]


def test_records_of_one_form_are_told_apart_by_their_words():
    records = [f"The value of the key k{n} is v{7 * n}, and it is kept." for n in range(20)]

    async def main():
        await Evict(pages=[await Append(text=record) for record in records])
        return [[page.id for page in await Recall(query=f"k{n}", k=1)] for n in (0, 9, 19)]

    assert always(main) == [[0], [9], [19]]
