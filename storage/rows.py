"""What both stores agree on: which rows are good, and which are still wanted at boot.

The invariant is that a row comes back equal and of the same types, or is refused with its whole commit. So a value has
exactly the type of its column or is None; a `bool` or a `StrEnum` would come back as something else.

What is wanted at boot costs what lives, not what ever lived:

- `process`: all that are not reaped;
- `journal`: those of the processes that are given;
- `started`, `partial`, `message`, `signal`: what is still open, unless its process is reaped;
- `page`, `vector`: nothing; they are read when they are wanted;
- the other tables whole. A chunk outlives the process that wrote it: the outside may not have seen it yet.
"""

from __future__ import annotations

from functools import cache

from tokix.kernel.ports import TABLES, Key, Rows, Scalar

#: Tables whose rows are open business of the process in their column `pid`. `partial` belongs to a row of `started`.
OPEN = ("started", "message", "signal")


class StoreError(Exception):
    """The store could not do what it was asked to, and did no part of it; the message says what to do."""


def check(rows: Rows) -> None:
    """Raise a StoreError at the first row or key that does not fit its table."""
    for name, changes in rows.items():
        if name not in TABLES:
            raise StoreError(f"the store has no table {name!r}: add it to kernel.ports.TABLES, with a migration")
        keys, columns = TABLES[name]
        width, floats = len(columns), _floats(name)
        for key, row in changes.items():
            if len(key) < keys:
                good = _all_of(name, key) and (row is None or (len(row) == len(key) and _all_of(name, row)))
            elif row is None:
                good = _fits(name, tuple(map(type, key)), keys)
            else:
                good = row[:keys] == key and _fits(name, tuple(map(type, row)), width)
                # SQLite would make None of a NaN.
                if floats:
                    good = good and all(row[place] == row[place] for place in floats)
            if not good:
                raise StoreError(_complaint(name, key, row))


@cache
def _fits(name: str, types: tuple[type, ...], count: int) -> bool:
    """Tell if values of these types can be the first `count` columns of the table; those of its key cannot be None.

    Cached, as each row is checked and a table sees few tuples of types.
    """
    keys, columns = TABLES[name]
    return len(types) == count and all(
        given is kind or (given is type(None) and place >= keys)
        for place, (given, kind) in enumerate(zip(types, columns.values(), strict=False))
    )


def _all_of(name: str, prefix: Key) -> bool:
    """Tell if these values are the beginning of a key of the table."""
    return bool(prefix) and _fits(name, tuple(map(type, prefix)), len(prefix))


@cache
def _floats(name: str) -> tuple[int, ...]:
    return tuple(place for place, kind in enumerate(TABLES[name].columns.values()) if kind is float)


def _complaint(name: str, key: Key, row: tuple[Scalar, ...] | None) -> str:
    table = TABLES[name]
    wanted = ", ".join(f"{column}: {kind.__name__}" for column, kind in table.columns.items())
    given = "a deletion" if row is None else ", ".join(f"{type(value).__name__}" for value in row)
    return f"a row of {name!r} does not fit; {key=} of {table.keys} columns, wanted ({wanted}), given ({given})"
