"""How the lists of a fused search become one.

A list has scores and keys of pages, best first; in a space ids grow with the conversation, so the larger is newer. All
here is a function of the lists and the vectors, and no clock counts, so the same archive gives the same order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from operator import mul
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tokix.kernel.ports import Key

    Ranked = list[tuple[float, Key]]

#: How much meaning counts in a fused score; words are the rest.
MEANING = 0.75
#: Of so many pages a newer one goes first, if its score is at most so much lower, their vectors are so near, and words
#: count for at least so large a part of what they count for in the older one.
HEAD, SLACK, ALIKE, SAID = 10, 0.15, 0.6, 0.5


def fused(lists: Sequence[Ranked]) -> Ranked:
    """Make one list of that by meaning and that by words, or of one alone; who is first in all has 1.

    A score counts as a part of the best of its list (Bruch et al., "An analysis of fusion functions for hybrid
    retrieval", 2023): places alone say nothing of how far apart two pages are.
    """
    weights = (MEANING, 1 - MEANING) if len(lists) == 2 else (1.0,)
    scores: dict[Key, float] = {}
    for weight, ranked in zip(weights, lists, strict=False):
        for score, key in ranked:
            part = score / ranked[0][0] if score > 0 else 0.0
            scores[key] = scores.get(key, 0.0) + weight * part
    return in_order(scores)


def newer_first(ranked: Ranked, words: Mapping[Key, float], vectors: Mapping[Key, Sequence[float]]) -> Ranked:
    """Let a page have the score of an older one that it says anew: a fact that was corrected is found twice.

    Vectors alone would take all records of one form for the same, so the query has to have found both by its words.
    """
    head = ranked[:HEAD]
    scores = {key: score for score, key in ranked}
    for score, key in head:
        for better, older in head:
            if (
                key[:2] == older[:2]
                and newness(older) < newness(key)
                and score < better <= score + SLACK
                and words.get(key, 0.0) >= SAID * words.get(older, 0.0) > 0
                and sum(map(mul, vectors.get(key, ()), vectors.get(older, ()))) >= ALIKE
            ):
                scores[key] = max(scores[key], better)
    return in_order(scores)


def in_order(scores: Mapping[Key, float]) -> Ranked:
    """Give a list of what has these scores; the newer of equals first."""
    return sorted(((score, key) for key, score in scores.items()), key=lambda hit: (-hit[0], -newness(hit[1]), hit[1]))


def newness(key: Key) -> int:
    return int(key[2] or 0)
