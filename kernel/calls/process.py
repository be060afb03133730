"""The process family, but for what `life` does."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import ValidationError

from tokix.kernel import life, streams, taking
from tokix.kernel.calls import messages
from tokix.kernel.calls.rights import delegate, entitled
from tokix.kernel.events import Fetch
from tokix.kernel.outcome import BLOCKED, NULL, Encoded
from tokix.kernel.process import Branch, Process, State, descend
from tokix.syscalls import (
    ECHILD,
    EINVAL,
    ENOENT,
    EPERM,
    ESRCH,
    Exec,
    Exit,
    ExitStatus,
    Fork,
    GetPid,
    Kill,
    Limits,
    ProcessInfo,
    Renice,
    SetLimit,
    Signal,
    Sleep,
    Spawn,
    Stat,
    Wait,
)
from tokix.syscalls.abi import explain
from tokix.syscalls.base import from_json, to_json
from tokix.syscalls.program import declaration

if TYPE_CHECKING:
    from tokix.kernel.kernel import Kernel


def spawn(k: Kernel, b: Branch, c: Spawn) -> int:
    parent = b.proc
    program = parent.relative(c.program)
    found = k.programs.get(program)
    if found is None:
        raise ENOENT(f"no program {program}")
    if said := declaration(found):
        said.bind(c.args, program)
    life.make_room(parent)
    caps = entitled(parent, program, found) if c.caps is None else delegate(parent, c.caps)
    fds = streams.inherited(k, parent)
    if c.fds:
        fds = {**fds, **{fd: streams.target(parent, fd, spec) for fd, spec in c.fds.items()}}
    child = life.create(
        k,
        parent,
        descend(parent.lineage, parent.epoch, b.path),
        program,
        to_json(c.args),
        nice=parent.nice if c.nice is None else c.nice,
        caps=caps,
        limits=c.limits or parent.limits,
        fds=fds,
    )
    assert child.root
    k.queue(child.root, None)
    return child.pid


def exit(k: Kernel, b: Branch, c: Exit) -> object:
    life.end(k, b.proc, "exit", c.value)
    return BLOCKED


def wait(k: Kernel, b: Branch, c: Wait) -> object:
    parent = b.proc
    pid = next(iter(parent.zombies or ()), None) if c.pid is None else c.pid
    child = k.procs[pid] if pid is not None and pid in (parent.children or ()) else None
    if child and child.status and taking.may_take(b):
        life.reap(k, child)
        return child.status
    if c.pid is not None and not child:
        raise ECHILD(f"process {c.pid} is not a child of process {parent.pid}")
    if not parent.children and parent.pid != life.INIT:  # init waits for orphans to come
        raise ECHILD(f"process {parent.pid} has no children")
    parent.waiters = parent.waiters or []
    parent.waiters.append(b)
    return k.until(b, c.timeout)


def withdraw_wait(k: Kernel, b: Branch) -> None:
    if b.proc.waiters and b in b.proc.waiters:
        b.proc.waiters.remove(b)


def kill(k: Kernel, b: Branch, c: Kill) -> object:
    target = k.living(c.pid)
    if target.pid == life.INIT:
        raise EPERM("init cannot be killed; stop the kernel instead")
    if target.foreign and c.signal in (Signal.STOP, Signal.CONT):
        raise EINVAL(f"process {c.pid} runs outside of the kernel; stop it there")
    life.signal(k, target, c.signal)
    return NULL if b.alive else BLOCKED


def getpid(k: Kernel, b: Branch, c: GetPid) -> Encoded:
    return Encoded(str(b.proc.pid))


def stat(k: Kernel, b: Branch, c: Stat) -> object:
    if c.pid is None:
        found = [info(k, process) for process in k.procs.values()]
    elif process := k.procs.get(c.pid):
        found = [info(k, process)]
    elif c.dead:
        found = []
    else:
        raise ESRCH(f"no process {c.pid}")
    if not c.dead:
        return found
    k.invoked[b.key] = b  # the dead are in the store
    k.effects.append(Fetch(b.key))
    return BLOCKED


def with_the_dead(k: Kernel, b: Branch, buried: list[ProcessInfo]) -> list[ProcessInfo]:
    """Complete a Stat with the dead that the store has; raises ESRCH."""
    alive = [info(k, process) for process in k.procs.values()]
    found = [p for p in (*buried, *alive) if b.call.pid in (None, p.pid)]
    if not found:
        raise ESRCH(f"no process {b.call.pid}")
    return sorted(found, key=lambda p: p.pid)


def withdraw_stat(k: Kernel, b: Branch) -> None:
    k.invoked.pop(b.key, None)


def info(k: Kernel, process: Process) -> ProcessInfo:
    """Describe a process of the table."""
    state, on = _state(process)
    return ProcessInfo(
        pid=process.pid,
        ppid=process.ppid,
        program=process.program,
        args=from_json(process.args),
        state=state,
        on=on,
        nice=process.nice,
        tokens=process.tokens,
        cost=process.cost,
        children=len(process.children or ()),
        messages=len(process.mailbox or ()),
        epoch=process.epoch,
        status=process.status,
    )


def _state(process: Process) -> tuple[str, str]:
    """Give the state, where a burst in a lane runs and one in the queue is ready, and what the process is at."""
    if process.parked:
        return process.state, process.parked
    calls = [b.text.partition("{")[0] for b in process.branches.values() if b.blocked]
    state: str = process.state
    bursts = [b.burst for b in process.branches.values() if b.burst]
    if state == State.BLOCKED and bursts:
        state = State.RUNNING if any(burst.lane >= 0 for burst in bursts) else State.READY
    return state, " ".join(dict.fromkeys(calls))


def buried(row: tuple[object, ...]) -> ProcessInfo:
    """Describe a row of a process that is no longer on the table."""
    pid, ppid, _, program, args, nice, epoch, *_, tokens, _, status, _ = row
    return ProcessInfo.model_validate(
        {
            "pid": pid,
            "ppid": ppid,
            "program": program,
            "args": from_json(str(args)),
            "state": "REAPED",
            "nice": nice,
            "epoch": epoch,
            "tokens": tokens,
            "status": ExitStatus.model_validate_json(str(status)),
        }
    )


def sleep(k: Kernel, b: Branch, c: Sleep) -> object:
    if not c.ticks:
        return k.until(b, c.seconds)
    if c.seconds:
        raise EINVAL("sleep takes seconds or ticks, not both")
    k.sleepers.set(k.scheduler.clock + c.ticks, b, b.path)
    return BLOCKED


def renice(k: Kernel, b: Branch, c: Renice) -> Encoded:
    target = k.living(c.pid)
    target.nice = c.nice
    for branch in target.branches.values():
        if branch.burst:
            k.scheduler.renice(branch.burst, c.nice)
    k.save(target)
    return NULL


def setlimit(k: Kernel, b: Branch, c: SetLimit) -> Encoded:
    target = k.living(b.proc.pid if c.pid is None else c.pid)
    try:
        target.limits = Limits.model_validate({**target.limits.model_dump(), c.limit: c.value})
    except ValidationError as error:
        raise EINVAL(explain(error)) from None
    life.watch_time(k, target)
    messages.admit(k, target)
    k.save(target)
    return NULL


def fork(k: Kernel, b: Branch, c: Fork) -> int:
    return life.fork(k, b)


def execute(k: Kernel, b: Branch, c: Exec) -> object:
    life.execute(k, b, b.proc.relative(c.program), to_json(c.args), c.fresh)
    return BLOCKED


HANDLERS = {
    Spawn: spawn,
    Exit: exit,
    Wait: wait,
    Kill: kill,
    GetPid: getpid,
    Stat: stat,
    Sleep: sleep,
    Renice: renice,
    SetLimit: setlimit,
    Fork: fork,
    Exec: execute,
}
WITHDRAW = {Wait: withdraw_wait, Stat: withdraw_stat}
