"""Search by words: an index of SQLite's FTS5 over the texts of the table `page`.

The index has no texts of its own, and triggers keep it, so it changes in the transactions that change pages. It finds
words whatever their case, accents and English endings (unicode61, porter). A page matches if it has any word of the
query; words that most texts have are left out of it.

FTS5 would rank every match, by how rare words are in all that it has: slow where many pages have a word, and what
others remember would change what a process finds. So it only says which pages have which words, newest first, and stops
when there are enough. A word that CANDIDATES pages have, or more, is frequent. The candidates are all pages with a rare
word, the newest with each frequent one, and the newest that have all the frequent ones, or all but one. The best of
them, as far as is known, are ranked by BM25 over themselves, in which a word is there or not. So no search reads much,
whatever there is.
"""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Sequence
from math import log
from typing import TYPE_CHECKING, Any

from tokix.kernel.ports import TABLES

if TYPE_CHECKING:
    from tokix.kernel.ports import Only, Space

TOKENIZER = "porter unicode61 remove_diacritics 2"
#: What makes the index of a table `page` that is there; `REBUILD` fills it with the pages that are there.
CREATE = (
    f"CREATE VIRTUAL TABLE page_text USING fts5(text, content='page', tokenize='{TOKENIZER}')",
    "CREATE TRIGGER page_put AFTER INSERT ON page BEGIN "
    "INSERT INTO page_text(rowid, text) VALUES (new.rowid, new.text); END",
    "CREATE TRIGGER page_drop AFTER DELETE ON page BEGIN "
    "INSERT INTO page_text(page_text, rowid, text) VALUES ('delete', old.rowid, old.text); END",
    "CREATE TRIGGER page_change AFTER UPDATE ON page BEGIN "
    "INSERT INTO page_text(page_text, rowid, text) VALUES ('delete', old.rowid, old.text); "
    "INSERT INTO page_text(rowid, text) VALUES (new.rowid, new.text); END",
)
REBUILD = "INSERT INTO page_text(page_text) VALUES ('rebuild')"
#: Raises an error of SQLite if the index is not that of the pages.
VERIFY = "INSERT INTO page_text(page_text, rank) VALUES ('integrity-check', 1)"

_WORD = re.compile(r"\w+")
_COMMON = set(
    """
    a about all also am an and any are as at be been but by can could did do does for from had has have he her him
    his how i if in into is it its just me my no not of on or our out she should so some than that the their them
    then there these they this to up us was we were what when where which who why will with would you your
    """.split()  # noqa: SIM905
)

#: Pages that are looked for with a word, at most, and ranked, at least; words of a query that count, the longest that
#: are found, and frequent ones among them, the rarest.
CANDIDATES, RANKED, WORDS, FREQUENT = 200, 100, 32, 3
#: Pages that are few, and pages of a list that are read as fast as it is asked for one.
FEW, SHORT = 2000, 600
#: The constants of BM25.
K1, B = 1.2, 0.75

COLUMNS = ", ".join(f"page.{column}" for column in TABLES["page"].columns)


def wanted(text: str) -> list[str]:
    """Give the words of a text that are looked for, as expressions of FTS5."""
    words = dict.fromkeys(_WORD.findall(text.casefold()))
    return [f'"{word}"' for word in [word for word in words if word not in _COMMON] or words]


def match(
    raw: sqlite3.Connection, text: str, spaces: Sequence[Space], k: int, only: Only
) -> list[tuple[float, tuple[Any, ...]]]:
    """Give the k pages of spaces that match best, of those that are allowed: scores above 0 and rows.

    The best come first, the newer among equals.
    """
    words = wanted(text)
    if not words or not spaces:
        return []
    most = max(k, CANDIDATES)
    having = _candidates(_Pages(raw, spaces, only), words, most)
    chosen = _best(_weights(having), max(k, RANKED))
    if not chosen:
        return []
    rows = {rowid: tuple(row) for rowid, *row in raw.execute(_ROWS.format(_places(chosen)), chosen)}
    for word, known in having.items():
        unknown = [rowid for rowid in chosen if rowid not in known]
        if unknown and len(known) >= most:  # of a rare word all pages are known
            sql = _WITHIN if _matches(known, most) < SHORT * len(unknown) else _AMONG
            known.update(rowid for (rowid,) in raw.execute(sql.format(_places(unknown)), (word, *unknown)))
    scores = _scores({word: known & rows.keys() for word, known in having.items()}, rows)
    best = sorted(rows, key=lambda rowid: (-scores[rowid], -rows[rowid][2], rows[rowid][:2]))
    return [(scores[rowid], rows[rowid]) for rowid in best[:k]]


_ROWS = f"SELECT rowid, {COLUMNS} FROM page WHERE rowid IN ({{}})"
#: Which of some pages have a word: FTS5 is asked for each of them, or reads its whole list of the word.
_AMONG = "SELECT rowid FROM page_text WHERE page_text MATCH ? AND rowid IN ({})"
_WITHIN = "SELECT rowid FROM page_text WHERE page_text MATCH ? AND +rowid IN ({})"


def _matches(known: set[int], most: int) -> float:
    """Estimate how many pages have a frequent word, by how far back the newest of them go."""
    newest = sorted(known, reverse=True)[:most]
    return most * newest[0] / max(1, newest[0] - newest[-1])


def _places(values: Sequence[object]) -> str:
    return ", ".join("?" * len(values))


class _Pages:
    """The pages of some spaces that a search may find.

    Of few pages the rowids are known first, and FTS5's list of a word is held against them: three times as fast as to
    look up each page with the word, where most of those are of others. SQLite is kept by the plus from the other order,
    which asks the index once for each page.
    """

    def __init__(self, raw: sqlite3.Connection, spaces: Sequence[Space], only: Only) -> None:
        where = " OR ".join(["(page.pid = ? AND page.space = ?)"] * len(spaces))
        which, limits = _allowed(only)
        parameters = (*(part for space in spaces for part in space), *limits)
        self._raw = raw
        listed = f"FROM page WHERE ({where}){which}"
        many = raw.execute(f"SELECT 1 {listed} LIMIT 1 OFFSET ?", (*parameters, FEW)).fetchall()
        self._ids: dict[int, int] = {}
        if not many:
            self._ids.update(raw.execute(f"SELECT rowid, id {listed}", parameters))
            within = "page_text.rowid BETWEEN ? AND ? AND +page_text.rowid IN (SELECT value FROM json_each(?))"
            self._sql = "SELECT rowid, 0 FROM page_text"
            self._parameters: tuple[int | str | float, ...] = (
                min(self._ids, default=0),
                max(self._ids, default=0),
                json.dumps(list(self._ids)),
            )
        else:
            within = f"({where}){which}"
            self._sql = "SELECT page.rowid, page.id FROM page_text CROSS JOIN page ON page.rowid = page_text.rowid"
            self._parameters = parameters
        self._sql += f" WHERE page_text MATCH ? AND {within} ORDER BY page_text.rowid DESC LIMIT ?"

    def newest(self, expression: str, most: int) -> dict[int, int]:
        """Give the newest pages that match, at most so many: rowids and ids."""
        found = self._raw.execute(self._sql, (expression, *self._parameters, most)).fetchall()
        return {rowid: self._ids.get(rowid, id) for rowid, id in found}


def _allowed(only: Only) -> tuple[str, list[str | float]]:
    """Give the condition of a filter, with its parameters."""
    parts: list[tuple[str, Sequence[str | float]]] = []
    if only.roles:
        parts.append((f"page.role IN ({_places(only.roles)})", only.roles))
    if only.since is not None:
        parts.append(("page.at >= ?", [only.since]))
    if only.until is not None:
        parts.append(("page.at < ?", [only.until]))
    return "".join(f" AND {part}" for part, _ in parts), [value for _, values in parts for value in values]


def _candidates(pages: _Pages, words: list[str], most: int) -> dict[str, set[int]]:
    """Give rowids of pages that may be the best, by the words that they are known to have."""
    newest: dict[str, dict[int, int]] = {}
    for word in sorted(words, key=len, reverse=True):
        if len(newest) < WORDS and (found := pages.newest(word, most)):
            newest[word] = found
    frequent = [word for word, found in newest.items() if len(found) == most]
    # The further back the newest pages with a word go, the rarer it is. Ids are counted by their process alone.
    frequent.sort(key=lambda word: min(newest[word].values()) - max(newest[word].values()))
    having = {word: set(newest[word]) for word in newest if word not in frequent[FREQUENT:]}
    for some in _all_or_all_but_one(frequent[:FREQUENT]):
        found = pages.newest(" AND ".join(some), most)
        for word in some:
            having[word] |= found.keys()
    return having


def _all_or_all_but_one(words: list[str]) -> list[list[str]]:
    """Give the sets of two words and more."""
    sets = [words, *([*words[:i], *words[i + 1 :]] for i in range(len(words)))]
    return [some for some in sets if len(some) > 1]


def _rarity(having: int, of: int) -> float:
    return log(1 + (of - having + 0.5) / (having + 0.5))


def _weights(having: dict[str, set[int]]) -> dict[int, float]:
    """Weigh pages by the words that they are known to have."""
    weights = dict.fromkeys(set[int]().union(*having.values()), 0.0)
    for known in having.values():
        rarity = _rarity(len(known), len(weights))
        for rowid in known:
            weights[rowid] += rarity
    return weights


def _best(weights: dict[int, float], most: int) -> list[int]:
    """Give the pages that weigh most, the newer among equals."""
    return sorted(weights, key=lambda rowid: (-weights[rowid], -rowid))[:most]


def _scores(having: dict[str, set[int]], rows: dict[int, tuple[Any, ...]]) -> dict[int, float]:
    """Rank pages by the words that they have: BM25 (Robertson and Zaragoza, 2009) over these pages alone."""
    scores = dict.fromkeys(rows, 0.0)
    lengths = {rowid: len(row[-1]) for rowid, row in rows.items()}
    usual = sum(lengths.values()) / len(lengths) or 1
    for known in having.values():
        rarity = _rarity(len(known), len(rows))
        for rowid in known:
            scores[rowid] += rarity * (K1 + 1) / (1 + K1 * (1 - B + B * lengths[rowid] / usual))
    return scores
