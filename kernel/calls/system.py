"""Sched and Journal."""

from __future__ import annotations

from collections.abc import Iterable
from sys import maxsize
from typing import TYPE_CHECKING, Any

from tokix.kernel.events import Fetch
from tokix.kernel.outcome import BLOCKED
from tokix.kernel.policy import named
from tokix.syscalls import EINVAL, ESRCH, Journal, LogEntry, Sched, SchedInfo

if TYPE_CHECKING:
    from tokix.kernel.kernel import Kernel
    from tokix.kernel.process import Branch


def sched(k: Kernel, b: Branch, c: Sched) -> SchedInfo:
    if c.policy:
        try:
            k.scheduler.set_policy(named(c.policy, c.quantum))
        except ValueError as error:
            raise EINVAL(str(error)) from None
    elif c.quantum is not None:
        raise EINVAL("a quantum belongs to a policy; name that too")
    policy = k.scheduler.policy
    return SchedInfo(
        policy=policy.name,
        quantum=None if policy.quantum == maxsize else policy.quantum,
        lanes=k.scheduler.lanes,
        running=len(k.scheduler.gang),
        waiting=k.scheduler.waiting,
    )


def journal(k: Kernel, b: Branch, c: Journal) -> object:
    process = k.procs.get(c.pid)
    if process:
        log = process.log[-c.last :] if c.last else process.log
        return [LogEntry(epoch=process.epoch, **entry._asdict()) for entry in log]
    if c.pid >= k.next_pid:
        raise ESRCH(f"no process {c.pid}")
    k.invoked[b.key] = b  # what the dead have done is in the store
    k.effects.append(Fetch(b.key, c.pid, c.last))
    return BLOCKED


def logged(rows: Iterable[tuple[Any, ...]]) -> list[dict[str, Any]]:
    """Describe rows of the journal, as the answer to a `Fetch`."""
    return [
        {"epoch": epoch, "seq": seq, "path": path, "call": call, "ok": bool(ok), "value": value, "at": at}
        for _, epoch, seq, path, call, ok, value, at in rows
    ]


def withdraw_journal(k: Kernel, b: Branch) -> None:
    k.invoked.pop(b.key, None)


HANDLERS = {Sched: sched, Journal: journal}
WITHDRAW = {Journal: withdraw_journal}
