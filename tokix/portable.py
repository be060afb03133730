"""Pages as lines of JSON: what `tokix memory export` writes, and what is read of such lines from anywhere.

A line is an object with the columns of the table `page`, and with `encoder` and `vector`, float32 in base64, if it has
one. To be read, a line needs a `text` and nothing else.
"""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, ValidationError

from tokix.kernel.ports import TABLES
from tokix.syscalls import Role
from tokix.syscalls.abi import explain
from tokix.syscalls.base import Value

if TYPE_CHECKING:
    from tokix.kernel.ports import Key, Store

#: Rows that are read at once, the most characters of a text, and the most bytes of a line.
CHUNK, LONGEST, MOST = 1000, 1 << 20, 1 << 24


class LineError(Exception):
    """A line that is no page; says which, and why."""


class Portable(Value):
    """A page as it can come from anywhere; who takes it in gives it what it lacks."""

    text: Annotated[str, Field(min_length=1, max_length=LONGEST)]
    role: Role = "user"
    pid: int = 0
    space: str = ""
    id: Annotated[int, Field(ge=0, lt=2**63)] | None = None
    message: Annotated[int, Field(ge=0, lt=2**63)] | None = None


def written(store: Store, prefix: Key, vectors: bool) -> Iterator[str]:
    """Give the pages whose key begins so, as lines."""
    columns = list(TABLES["page"].columns)
    after: Key | None = None
    while rows := store.read("page", prefix, after, CHUNK):
        after = rows[-1][:3]
        for row in rows:
            page = dict(zip(columns, row, strict=True))
            if vectors:
                for *_, encoder, data in store.read("vector", row[:3]):
                    page |= {"encoder": encoder, "vector": b64encode(data).decode()}
            yield json.dumps(page, ensure_ascii=False) + "\n"


def pages(lines: Iterable[bytes]) -> Iterator[Portable]:
    """Read pages; raises LineError at the first line that is none. Empty lines are passed over.

    Other fields are passed over, too: ids and vectors of another system mean nothing here, but pages have to be
    different where they say whose they are, so that nothing is taken in twice.
    """
    seen: dict[tuple[int, str, int], int] = {}
    for number, line in enumerate(lines, 1):
        if len(line) > MOST:
            raise LineError(f"line {number}: it has more than {MOST} bytes")
        if not line.strip():
            continue
        page = _page(number, line)
        if page.id is not None and (first := seen.setdefault((page.pid, page.space, page.id), number)) != number:
            raise LineError(f"line {number}: the id {page.id} is that of line {first}, too")
        yield page


def _page(number: int, line: bytes) -> Portable:
    try:
        found: Any = json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
    except UnicodeDecodeError:
        raise LineError(f"line {number}: it is not UTF-8") from None
    except (ValueError, RecursionError) as error:
        raise LineError(f"line {number}: it is not JSON: {error}") from None
    if not isinstance(found, dict):
        raise LineError(f'line {number}: it is no object, such as {{"text": "…"}}')
    try:
        page = Portable.model_validate({name: found[name] for name in Portable.model_fields if name in found})
        page.text.encode()
    except ValidationError as error:
        raise LineError(f"line {number}: {explain(error)}") from None
    except UnicodeEncodeError:
        raise LineError(f"line {number}: the text is not valid Unicode") from None
    return page
