"""Search by words: an index of SQLite's FTS5 over the texts of the table `page`.

The index has no texts of its own, and triggers keep it, so it changes in the transactions that change pages. It finds
words whatever their case, accents and English endings (unicode61, porter). A page matches if it has any word of the
query; words that most texts have are left out of it.

FTS5 ranks by how rare words are in all that it has, so what others remember would change what a process finds. Its
order chooses candidates only, where there are more than CANDIDATES; those are ranked by BM25 over themselves, in which
a word is there or not.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Sequence
from math import log
from typing import TYPE_CHECKING, Any

from tokix.kernel.ports import TABLES

if TYPE_CHECKING:
    from tokix.kernel.ports import Only

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

#: Pages that are ranked, and the constants of BM25.
CANDIDATES = 200
K1, B = 1.2, 0.75

COLUMNS = ", ".join(f"page.{column}" for column in TABLES["page"].columns)

Space = tuple[int, str]


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
    where = " OR ".join(["(page.pid = ? AND page.space = ?)"] * len(spaces))
    which, limits = _allowed(only)
    sql = (
        f"SELECT page.rowid, {COLUMNS} FROM page_text JOIN page ON page.rowid = page_text.rowid "
        f"WHERE page_text MATCH ? AND ({where}){which} ORDER BY bm25(page_text), page.rowid DESC LIMIT ?"
    )
    owners = (part for space in spaces for part in space)
    found = raw.execute(sql, (" OR ".join(words), *owners, *limits, max(k, CANDIDATES)))
    rows = {rowid: tuple(row) for rowid, *row in found}
    scores = _scores(raw, words, rows)
    best = sorted(rows, key=lambda rowid: (-scores[rowid], -rows[rowid][2], rows[rowid][:2]))
    return [(scores[rowid], rows[rowid]) for rowid in best[:k]]


def _allowed(only: Only) -> tuple[str, list[str | float]]:
    """Give the condition of a filter, with its parameters."""
    parts: list[tuple[str, Sequence[str | float]]] = []
    if only.roles:
        parts.append((f"page.role IN ({', '.join('?' * len(only.roles))})", only.roles))
    if only.since is not None:
        parts.append(("page.at >= ?", [only.since]))
    if only.until is not None:
        parts.append(("page.at < ?", [only.until]))
    return "".join(f" AND {part}" for part, _ in parts), [value for _, values in parts for value in values]


def _scores(raw: sqlite3.Connection, words: list[str], rows: dict[int, tuple[Any, ...]]) -> dict[int, float]:
    """Rank pages by the words that they have: BM25 (Robertson and Zaragoza, 2009) over these pages alone."""
    scores = dict.fromkeys(rows, 0.0)
    lengths = {rowid: len(row[-1]) for rowid, row in rows.items()}
    usual = sum(lengths.values()) / max(1, len(lengths)) or 1
    # A plus: the index is to be asked for the word once, and not once for each of these pages.
    some = f"SELECT rowid FROM page_text WHERE page_text MATCH ? AND +rowid IN ({', '.join('?' * len(rows))})"
    for word in words:
        having = [rowid for (rowid,) in raw.execute(some, (word, *rows))]
        rarity = log(1 + (len(rows) - len(having) + 0.5) / (len(having) + 0.5))
        for rowid in having:
            scores[rowid] += rarity * (K1 + 1) / (1 + K1 * (1 - B + B * lengths[rowid] / usual))
    return scores
