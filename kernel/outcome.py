"""What a handler gives: the reply, a reply that is JSON already, or the word that the call waits."""

from __future__ import annotations

from typing import Final, NamedTuple


class Encoded(NamedTuple):
    """A reply in its JSON form."""

    text: str


class _Blocked:
    __slots__ = ()


#: The call has no outcome yet.
BLOCKED: Final = _Blocked()

#: JSON null, the reply of calls that only do something.
NULL: Final = Encoded("null")
