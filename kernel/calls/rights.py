"""Capabilities: which ones a call needs, Grant and Drop.

What a process may do to itself and to its descendants, and whether it may write to its parent, needs no capability:
it comes with being its parent or its child.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from tokix.kernel.outcome import NULL, Encoded
from tokix.syscalls import (
    EPERM,
    Call,
    Drop,
    Embed,
    Exec,
    Forget,
    Grant,
    Journal,
    Kill,
    Map,
    Pages,
    Recall,
    Renice,
    Restore,
    Save,
    Sched,
    Send,
    SetLimit,
    Spawn,
    Syscall,
    Think,
    Unlink,
)
from tokix.syscalls.program import declaration
from tokix.syscalls.rights import common, covers

if TYPE_CHECKING:
    from tokix.kernel.kernel import Kernel
    from tokix.kernel.process import Branch, Process


def permit(process: Process, cap: str) -> None:
    """Raise EPERM unless the process holds a capability that covers this one."""
    if not any(covers(held, cap) for held in process.caps):
        raise EPERM(f"{process.program} (pid {process.pid}) has no capability {cap!r}")


def needs(k: Kernel, process: Process, call: Syscall[Any]) -> Iterator[str]:
    """Give the capabilities that a call needs."""
    match call:
        case Think():
            yield "think"
        case Spawn() | Exec():
            yield f"spawn:{process.relative(call.program)}"
        case Call():
            yield f"call:{call.device}.{call.op}"
        case Send() if not (rules(k, process, call.to) or process.ppid == call.to):
            yield f"send:{call.to}"
        case Grant() if not (rules(k, process, call.pid) or process.ppid == call.pid):
            yield f"send:{call.pid}"
        case Kill() | Renice() if not rules(k, process, call.pid):
            yield f"kill:{call.pid}"
        case Embed():
            yield "think"
        case Pages() | Recall() if call.pid is not None and not rules(k, process, call.pid):
            yield f"read:{call.pid}"
        case Journal() if not rules(k, process, call.pid):
            yield f"read:{call.pid}"
        case Save(path=path, pid=pid):
            yield f"save:{path}"
            if pid is not None and not rules(k, process, pid):
                yield f"read:{pid}"
        case Restore(path=path):
            yield f"restore:{path}"
        case Map(region=region, append=append):
            yield f"append:{region}" if append else f"map:{region}"
        case Unlink(region=region) | Forget(region=str(region)) if region:
            yield f"unlink:{region}"
        case Sched(policy=str()):
            yield "sched"
        case SetLimit() if call.pid is not None and not rules(k, process, call.pid):
            yield f"kill:{call.pid}"
    match call:
        case Spawn(nice=int(nice)) if nice < process.nice:
            yield "nice"
        case Renice() if (target := k.procs.get(call.pid)) and call.nice < target.nice:
            yield "nice"
        case SetLimit() if (target := k.procs.get(call.pid or process.pid)) and _raises(call, target):
            yield "limit"
        case Spawn() if call.limits and any(
            _above(mine, theirs) for (_, mine), (_, theirs) in zip(process.limits, call.limits, strict=True)
        ):
            yield "limit"


def rules(k: Kernel, process: Process, pid: int) -> bool:
    """Say whether pid is the process itself or descends from it."""
    while pid != process.pid:
        target = k.procs.get(pid)
        if target is None or target.ppid == pid:
            return False
        pid = target.ppid
    return True


def _raises(call: SetLimit, target: Process) -> bool:
    return _above(getattr(target.limits, call.limit), call.value)


def _above(old: float | None, new: float | None) -> bool:
    return old is not None and (new is None or new > old)


def delegate(process: Process, caps: Iterable[str]) -> tuple[str, ...]:
    """Give capabilities as a set that is passed on; raises EPERM if one is not the process's to give."""
    wanted = tuple(sorted(set(caps)))
    for cap in wanted:
        permit(process, cap)
    return wanted


def entitled(process: Process, name: str, program: object) -> tuple[str, ...]:
    """Give what a child gets for which its parent names no capabilities: what its program wants of the parent's."""
    said = declaration(program)
    wanted = said.wants(name) if said else None
    if wanted is None:
        return process.caps
    pairs = (common(held, cap) for held in process.caps for cap in wanted)
    return tuple(sorted({cap for cap in pairs if cap}))


def grant(k: Kernel, b: Branch, c: Grant) -> Encoded:
    target = k.living(c.pid)
    target.caps = tuple(sorted({*target.caps, *delegate(b.proc, c.caps)}))
    if "*" in target.caps:
        target.caps = ("*",)
    k.save(target)
    return NULL


def drop(k: Kernel, b: Branch, c: Drop) -> Encoded:
    b.proc.caps = delegate(b.proc, c.keep)
    k.save(b.proc)
    return NULL


HANDLERS = {Grant: grant, Drop: drop}
