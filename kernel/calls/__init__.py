"""The calls, a module for each family of `tokix.syscalls`. Each states its part of three tables:

HANDLERS   what a call does: `handler(kernel, branch, call)` gives the reply or BLOCKED, or raises a SyscallError
WITHDRAW   how to take back a call that waits
REDO       what a replay repeats of a call that succeeded: changes of what the log alone remembers
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tokix.kernel.calls import compute, concurrency, device, memory, messages, process, rights, time
from tokix.syscalls import CALLS

_FAMILIES = (process, compute, memory, device, messages, concurrency, rights, time)

HANDLERS: dict[type, Callable[..., Any]] = {call: f for family in _FAMILIES for call, f in family.HANDLERS.items()}
WITHDRAW: dict[type, Callable[..., None]] = {
    call: f for family in (process, compute, device, messages) for call, f in family.WITHDRAW.items()
}
REDO: dict[type, Callable[..., None]] = {call: f for family in (compute, memory) for call, f in family.REDO.items()}

assert set(HANDLERS) == set(CALLS), "every call has a handler"
