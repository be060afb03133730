"""What `benchmarks/memory.py` stands on: sets that have nothing in common, one story a seed, peers that can search."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))

from remembering import chains, facts, turns  # type: ignore[import-not-found]
from remembering.peers import Known, bm25, exact, grep  # type: ignore[import-not-found]
from remembering.stories import DISTANCES, story  # type: ignore[import-not-found]
from remembering.templates import BUILD, JUDGE, Kind, Templates  # type: ignore[import-not-found]

from tokix.kernel.arch.toy import ToyEncoder

#: Words that say nothing of what is asked for.
PLAIN = set(
    "a and at be by can did does for from has in is it keep must of on the to was what when which who with".split()  # noqa: SIM905
)


def words(*texts: str) -> set[str]:
    return {word for text in texts for word in re.findall(r"\w+", text.lower())} - PLAIN - {"name", "value"}


def told(kind: Kind) -> tuple[str, ...]:
    return (*kind.told, *kind.corrected, kind.near, kind.denied)


def test_what_is_tuned_on_is_not_what_is_judged_by():
    def sentences(templates: Templates) -> set[str]:
        return {*templates.talk, *(text for kind in templates.kinds for text in (*told(kind), *kind.asked))}

    assert not sentences(BUILD) & sentences(JUDGE)
    assert not {*BUILD.names} & {*JUDGE.names}
    assert not {v for kind in BUILD.kinds for v in kind.values} & {v for kind in JUDGE.kinds for v in kind.values}


@pytest.mark.parametrize("kind", [*JUDGE.kinds, *BUILD.kinds], ids=lambda kind: kind.asked[0])
def test_a_question_has_no_word_of_the_fact_but_the_name(kind: Kind):
    assert not words(*kind.told, *kind.corrected) & words(*kind.asked)


@pytest.mark.parametrize("templates", [JUDGE, BUILD], ids=["judge", "build"])
def test_a_story_is_a_function_of_its_seed_and_has_all_that_is_asked_for(templates: Templates):
    one = story(templates, 1)
    assert one == story(templates, 1) != story(templates, 2)
    assert {q.distance for q in one.questions} == {0, *DISTANCES}
    assert sum(bool(q.stale) for q in one.questions) == len(one.questions) // 4
    for q in one.questions:
        name = next(name for name in templates.names if name in q.text)
        assert all(re.search(rf"\b{name}\b", one.told[page]) for page in (q.right, *q.stale))
        assert all(page < q.right for page in q.stale)
    assert not any(re.search(rf"\b{name}\b", text) for text in one.told for name in templates.names if asks(name, one))


def asks(name: str, one: facts.Story) -> bool:
    """Say whether the story has questions about a name that it does not know."""
    return any(re.search(rf"\b{name}\b", text) for text in one.nobody)


def test_peers_find_what_a_person_would():
    texts = {3: "a cat sat on the mat", 5: "the dog barks", 9: "a cat and a cat and another cat"}
    queries = ["cat", "the dog on the mat"]
    assert [[page for page, _ in some] for some in grep(texts, queries, 2)] == [[9, 3], [3, 5]]
    assert [[page for page, _ in some] for some in bm25(texts, queries, 1)] == [[9], [3]]
    encoder = Known(ToyEncoder())
    assert [some[0][0] for some in exact(texts, [texts[5], texts[3]], 1, encoder)] == [5, 3]
    assert len(encoder.vectors) == 3


def test_a_chain_is_followed_to_its_end_and_no_further():
    outcomes = chains.followed(0, Known(ToyEncoder()))
    assert {way: all(o.right for _, o in some) for way, some in outcomes.items()} == {
        "truncation": False,
        "grep": True,
        "lexical": True,
        "dense": True,
        "fused": True,
    }
    assert {chain.depth for chain, _ in outcomes["fused"]} == {*chains.DEPTHS}
    assert all(o.lookups <= chain.depth + 2 for chain, o in outcomes["fused"])


def test_a_conversation_keeps_its_window_and_its_words():
    reports: list[str] = []
    figures = turns.judge(1000, reports.append)
    assert reports == ["1000 turns with paging", "1000 turns with demand paging"]
    for found in figures.values():
        assert found["most"] <= 1
        assert found["twice"] == found["lost"] == 0
        assert 0 < found["again"] < found["formula"]
