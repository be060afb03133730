"""Sched, Sysinfo and Journal."""

from __future__ import annotations

from collections.abc import Iterable
from sys import maxsize
from typing import TYPE_CHECKING, Any

from tokix.kernel.calls.process import info
from tokix.kernel.events import Fetch
from tokix.kernel.frames import FRAME
from tokix.kernel.outcome import BLOCKED
from tokix.kernel.pager import HIGH, LOW
from tokix.kernel.policy import named
from tokix.syscalls import EINVAL, ESRCH, Journal, LogEntry, ProcessUse, Sched, SchedInfo, Sysinfo, SystemInfo

if TYPE_CHECKING:
    from tokix.kernel.context import Context
    from tokix.kernel.frames import FramePool
    from tokix.kernel.kernel import Kernel
    from tokix.kernel.process import Branch, Process


def sched(k: Kernel, b: Branch, c: Sched) -> SchedInfo:
    if c.policy:
        try:
            k.scheduler.set_policy(named(c.policy, c.quantum))
        except ValueError as error:
            raise EINVAL(str(error)) from None
    elif c.quantum is not None:
        raise EINVAL("a quantum belongs to a policy; name that too")
    return schedule(k)


def schedule(k: Kernel) -> SchedInfo:
    policy = k.scheduler.policy
    return SchedInfo(
        policy=policy.name,
        quantum=None if policy.quantum == maxsize else policy.quantum,
        lanes=k.scheduler.lanes,
        running=len(k.scheduler.gang),
        waiting=k.scheduler.waiting,
    )


# ---- Sysinfo


def sysinfo(k: Kernel, b: Branch, c: Sysinfo) -> SystemInfo:
    if c.pid is not None and c.pid not in k.procs:
        raise ESRCH(f"no process {c.pid}")
    mmu = k.scheduler.mmu
    pool, counters = mmu.pool, mmu.counters
    cached = len(pool.cold) + len(pool.asleep)
    return SystemInfo(
        schedule=schedule(k),
        window=k.capacity,
        high=int(HIGH * k.capacity),
        low=int(LOW * k.capacity),
        frame=FRAME,
        frames=pool.total,
        used=pool.total - len(pool.free) - cached,
        shared=sum(common(pool, frame) for frame in range(pool.total)),
        cached=cached,
        slots=pool.slots,
        swapped=pool.slots - len(pool.vacant),
        ticks=counters.ticks,
        fed=counters.fed,
        sampled=counters.sampled,
        hits=counters.hits,
        faults=counters.faults,
        evictions=counters.evictions,
        outs=counters.outs,
        ins=counters.ins,
        processes=[use(k, process) for process in k.procs.values() if c.pid in (None, process.pid)],
    )


def use(k: Kernel, process: Process) -> ProcessUse:
    """Describe a process and what it has of the machine."""
    bursts = [b.burst for b in process.branches.values() if b.burst]
    contexts = {b.ctx for b in process.branches.values() if b.ctx} | {burst.ctx for burst in bursts}
    own = process.root.ctx if process.root else None
    return ProcessUse(
        **dict(info(k, process)),
        running=sorted(burst.lane for burst in bursts if burst.lane >= 0),
        waiting=sum(burst.ticket >= 0 for burst in bursts),
        resident=sum(len(ctx.tokens) for ctx in contexts),
        window=len(own.tokens) if own else 0,
        computed=own.computed if own else 0,
        shared=in_common(k.scheduler.mmu.pool, own) if own else 0,
        pages=len(own.pages) if own else 0,
        archived=len(own.archived) if own else 0,
        evicted=sum(page.tokens for page in own.archived.values()) if own else 0,
        regions=[name for name in own.maps if name in k.regions] if own else [],
        sampled=process.sampled + sum(burst.generated for burst in bursts),
        faults=process.faults,
        evictions=process.evictions,
    )


def common(pool: FramePool, frame: int) -> bool:
    """Say whether several have a frame; the index does not count."""
    return pool.uses[frame] - (frame in pool.blocks) > 1


def in_common(pool: FramePool, ctx: Context) -> int:
    """Count the tokens at the beginning of a context whose frames others have too: equal beginnings have the same."""
    alone = (at for at, frame in enumerate(ctx.table) if not common(pool, frame))
    return min(ctx.computed, next(alone, len(ctx.table)) * FRAME)


# ---- Journal


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


HANDLERS = {Sched: sched, Sysinfo: sysinfo, Journal: journal}
WITHDRAW = {Journal: withdraw_journal}
