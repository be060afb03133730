"""Gather and Select: their branches have been started by `Kernel.enter`; here is only the question who is done."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tokix.kernel.outcome import BLOCKED
from tokix.syscalls import EINVAL, Gather, Select

if TYPE_CHECKING:
    from tokix.kernel.kernel import Kernel
    from tokix.kernel.process import Branch


def join(k: Kernel, b: Branch, c: Gather | Select) -> object:
    if b.branches is None or len(b.branches) != c.branches:
        raise EINVAL(f"{c.name}() makes this call from the branches of a program; from outside, make several calls")
    k.join(b)
    return BLOCKED


HANDLERS = {Gather: join, Select: join}
