"""Now and Random."""

from __future__ import annotations

from hashlib import blake2b
from typing import TYPE_CHECKING

from tokix.syscalls import Now, Random

if TYPE_CHECKING:
    from tokix.kernel.kernel import Kernel
    from tokix.kernel.process import Branch


def now(k: Kernel, b: Branch, c: Now) -> float:
    """Kernel time; what was once told is a lower bound for ever."""
    k.put("kernel", ("now",), ("now", repr(k.now)))
    return k.now


def random(k: Kernel, b: Branch, c: Random) -> float:
    digest = blake2b(f"{k.seed}:{b.key}".encode(), digest_size=8).digest()
    return (int.from_bytes(digest, "big") >> 11) / 2**53


HANDLERS = {Now: now, Random: random}
