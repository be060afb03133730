"""Victims: which pages leave a window first.

Pages that belong together leave together: an answer that calls tools, and their results. Pinned pages, system pages,
the last user page and the last page stay, with what belongs to them. All else is put in an order by one of four
policies, each a pure function of the pages and their texts, for a replay has to move the same ones:

- `fifo`: the oldest first;
- `lru`: first who was referred to longest ago: by a later page that shares a rare word with it;
- `importance`: the least important first (see `Append`), the oldest among equals;
- `relevance`: first who shares least with the last user page, the oldest among equals.

A word is rare here as in inverse document frequency: the fewer of the pages have it, the more it weighs.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from math import log
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tokix.kernel.context import Page
    from tokix.syscalls.memory import Victims

Group = list["Page"]

_WORD = re.compile(r"\w{3,}")
#: A page refers to another if they share a word that at most this share of the pages has, or two of them.
RARE = 0.25


def victims(pages: Sequence[Page], policy: Victims = "fifo") -> list[Group]:
    """Give the groups of pages that may leave by themselves, in the order in which they do."""
    stay = _staying(pages)
    movable = [group for group in groups(pages) if not any(page.id in stay for page in group)]
    return ORDERS[policy](movable, pages)


def groups(pages: Sequence[Page]) -> list[Group]:
    """Put pages together that leave together.

    A result that is longer than a page, and comes last, is an exception: perhaps it is larger than the window. Then all
    but its first piece go by themselves.
    """
    found: list[Group] = []
    last = pages[-1].message if pages else -1
    for page in pages:
        alone = page.id != page.message == last
        if page.role == "tool" and found and not alone and _calls(found[-1]):
            found[-1].append(page)
        else:
            found.append([page])
    return found


def _calls(group: Group) -> bool:
    """Say whether the result of a tool can belong to a group."""
    return group[0].role == "assistant" and group[0].source is None


def _staying(pages: Sequence[Page]) -> set[int]:
    users = [page.id for page in pages if page.role == "user" and page.source is None]
    stay = {*users[-1:], *(page.id for page in pages[-1:])}
    return stay | {page.id for page in pages if page.pinned or page.role == "system"}


# ---- orders


def _fifo(movable: list[Group], pages: Sequence[Page]) -> list[Group]:
    return movable


def _lru(movable: list[Group], pages: Sequence[Page]) -> list[Group]:
    words = [set(words_of(page.text)) for page in pages]
    weights = rarity(words)
    common = log(1 / RARE)
    used = {}
    for at, page in enumerate(pages):
        used[page.id] = at
        for before in range(at):
            shared = sorted(weights[word] for word in words[before] & words[at])
            if sum(weight for weight in shared if weight > common / 2) >= common:
                used[pages[before].id] = at
    return sorted(movable, key=lambda group: max(used[page.id] for page in group))


def _importance(movable: list[Group], pages: Sequence[Page]) -> list[Group]:
    return sorted(movable, key=lambda group: max(page.importance for page in group))


def _relevance(movable: list[Group], pages: Sequence[Page]) -> list[Group]:
    asked = next((page for page in reversed(pages) if page.role == "user" and page.source is None), None)
    query = set(words_of(asked.text)) if asked else set()
    weights = rarity(set(words_of(page.text)) for page in pages)

    def score(group: Group) -> float:
        shared = query & {word for page in group for word in words_of(page.text)}
        return sum(sorted(weights[word] for word in shared))  # in one order: a sum of floats depends on it

    return sorted(movable, key=score)


def words_of(text: str) -> list[str]:
    """Give the words of a text that can mean something."""
    return _WORD.findall(text.casefold())


def rarity(pages: Iterable[set[str]]) -> dict[str, float]:
    """Weigh words by the number of pages that have them."""
    counts: Counter[str] = Counter()
    total = 0
    for words in pages:
        counts.update(words)
        total += 1
    return {word: log(total / count) for word, count in counts.items()}


ORDERS: dict[Victims, Callable[[list[Group], Sequence[Page]], list[Group]]] = {
    "fifo": _fifo,
    "lru": _lru,
    "importance": _importance,
    "relevance": _relevance,
}
