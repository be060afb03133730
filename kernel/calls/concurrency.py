"""Gather and Select: their branches have been started by `Kernel.enter`; here is only the question who is done.

The log has which branch decided; the values are objects of the same process, and stay in memory.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tokix.kernel.outcome import BLOCKED
from tokix.syscalls import EINVAL, Gather, Select
from tokix.syscalls.base import from_json
from tokix.syscalls.errors import decode_error

if TYPE_CHECKING:
    from tokix.kernel.kernel import Kernel
    from tokix.kernel.process import Branch, Entry


def join(k: Kernel, b: Branch, c: Gather | Select) -> object:
    if b.branches is None or len(b.branches) != c.branches:
        raise EINVAL(f"{c.name}() makes this call from the branches of a program; from outside, make several calls")
    decide(k, b)
    return BLOCKED


def decide(k: Kernel, b: Branch) -> None:
    """Decide a Gather or Select if its branches allow it."""
    if not b.blocked or b.proc.replaying:
        return
    if decider := b.decider:
        k.decide(b, decider.error is None, f'{{"branch":{(b.branches or []).index(decider)}}}')
    elif not b.left:
        k.decide(b, True, "null")


def outcome(b: Branch, entry: Entry) -> tuple[Any, BaseException | None]:
    """Give the value or the error of a Gather or Select; raises ValueError or KeyError if it cannot be read."""
    branches, marker = b.branches or [], from_json(entry.value)
    if marker and "errno" in marker:  # interrupted, or refused
        return None, decode_error(entry.value)
    if marker is None:
        return [branch.value for branch in branches], None
    decider = branches[marker["branch"]]
    return (marker["branch"], decider.value), None if entry.ok else decider.error


HANDLERS = {Gather: join, Select: join}
