"""The trap table: what each call does, how it is taken back, and what a replay repeats of it.

HANDLERS   `handler(kernel, branch, call)` gives the reply or BLOCKED, or raises a SyscallError
WITHDRAW   takes back a call that waits
ANSWERED   `answered(kernel, branch, value)` makes the reply of what the edge gave; others reply that as it is
REDO       repeats, in a replay, what a call that succeeded changed in what only the log remembers
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tokix.kernel.calls import (
    compute,
    concurrency,
    device,
    files,
    memory,
    messages,
    process,
    regions,
    rights,
    system,
    time,
)
from tokix.kernel.errors import KernelBug
from tokix.syscalls import CALLS, Pages, Recall, Restore, Stat, Think

_FAMILIES = (process, compute, memory, regions, files, device, messages, concurrency, rights, time, system)

HANDLERS: dict[type, Callable[..., Any]] = {call: f for family in _FAMILIES for call, f in family.HANDLERS.items()}
WITHDRAW: dict[type, Callable[..., None]] = {
    call: f
    for family in (process, compute, memory, files, device, messages, system)
    for call, f in family.WITHDRAW.items()
}
ANSWERED: dict[type, Callable[..., Any]] = {
    Stat: process.with_the_dead,
    Recall: memory.recalled,
    Pages: memory.pages_of_region,
    Think: compute.found,
    Restore: files.restored,
}
REDO: dict[type, Callable[..., None]] = {
    call: f for family in (compute, memory, regions, files) for call, f in family.REDO.items()
}

if set(HANDLERS) != set(CALLS):
    raise KernelBug("every call has a handler, and every handler a call")


def not_a_call(call: Any) -> str:
    """Say why something that was awaited or sent is refused."""
    if type(call) in HANDLERS:
        return f"the arguments of {call.name} have to be JSON"
    return f"a program awaits system calls, not {type(call).__name__}; other waiting belongs in a driver or outside"
