"""The life of a process: made, forked, replaced, interrupted, ended, waited for.

Every process ends with a status, which its parent takes with `Wait`; until then it is a zombie. The children of a dead
process go to init; where there is no init, the dead leave the table at once.
"""

from __future__ import annotations

from collections.abc import Coroutine, Mapping
from traceback import walk_tb
from typing import TYPE_CHECKING, Any

from tokix.kernel import pager, recovery, spaces, streams, taking
from tokix.kernel.events import Hangup
from tokix.kernel.family import Family, Group
from tokix.kernel.process import Branch, Entry, Process, State, descend
from tokix.syscalls import (
    EAGAIN,
    ECHILD,
    EINTR,
    EINVAL,
    ENOENT,
    ESRCH,
    Call,
    ExitStatus,
    Limits,
    Signal,
    SyscallError,
)
from tokix.syscalls.base import from_json, to_json
from tokix.syscalls.errors import clean

if TYPE_CHECKING:
    from tokix.kernel.kernel import Kernel

INIT = 1

# ---- beginning


def create(
    k: Kernel,
    parent: Process | None,
    lineage: str,
    program: str,
    args: str,
    *,
    nice: int = 0,
    caps: tuple[str, ...] = ("*",),
    limits: Limits | None = None,
    fds: Mapping[int, str] = streams.INIT_FDS,
    image: str = "",
    foreign: bool = False,
) -> Process:
    """Make an entry of the process table, with its root branch. Pids are never used again."""
    pid, k.next_pid = k.next_pid, k.next_pid + 1
    k.put("kernel", ("next_pid",), ("next_pid", str(k.next_pid)))
    process = Process(
        pid=pid,
        ppid=parent.pid if parent else 0,
        lineage=lineage,
        program=program,
        args=args,
        nice=nice,
        caps=caps,
        limits=limits or Limits(),
        fds=fds,
        born=k.now,
        family=family(parent, pid),
        image=image,
        windows=[(0, k.capacity)],
        window=k.capacity,
        foreign=foreign,
    )
    k.procs[pid] = process
    process.root = k.branch(process, "", None, None)
    if parent:
        parent.children = parent.children or {}
        parent.children[pid] = None
    streams.open_ends(k, process)
    watch_time(k, process)
    k.save(process)
    if k.probes:
        k.probe("create", pid, program)
    return process


def family(parent: Process | None, pid: int) -> Family:
    """Give the family of a child: its parent's, or a new one in the group of a client or of init."""
    if parent and not parent.foreign and parent.pid != INIT:
        return parent.family
    return Family(pid, parent.family.group if parent else Group(pid))


def watch_time(k: Kernel, process: Process) -> None:
    """Set the timer of the limit of wall time."""
    if process.limits.seconds is not None:
        k.timers.set(process.born + process.limits.seconds, process, "")


def make_room(process: Process) -> None:
    """Raise EAGAIN if a process has as many children as it may have."""
    limit = process.limits.children
    if limit is not None and len(process.children or ()) >= limit:
        raise EAGAIN(f"process {process.pid} has its limit of {limit} children; wait for one")


def attach(k: Kernel, program: str) -> Process:
    """Make a foreign process: its program runs outside, and its calls come as `Trap`s."""
    process = create(k, None, f"foreign{k.next_pid}", program, "[]", fds=streams.TTY_FDS, foreign=True)
    process.move(State.BLOCKED)
    return process


def start(k: Kernel, process: Process) -> Coroutine[Any, Any, Any]:
    """Call the program with its arguments."""
    program = k.programs.get(process.program)
    if program is None:
        raise ENOENT(f"no program {process.program}")
    coro = program(*from_json(process.args))
    if not isinstance(coro, Coroutine):
        raise TypeError(f"program {process.program} is not an async function")
    return coro


def fork(k: Kernel, b: Branch) -> int:
    """Make a child whose log is the parent's, but for the outcome of this call; it shares all frames."""
    parent = b.proc
    if b is not parent.root or parent.foreign:
        raise EINVAL("fork works in the root branch of a program only")
    make_room(parent)
    child = create(
        k,
        parent,
        descend(parent.lineage, parent.epoch, b.path),
        parent.program,
        parent.args,
        nice=parent.nice,
        caps=parent.caps,
        limits=parent.limits,
        fds=streams.inherited(k, parent),
        image=parent.image,
    )
    for entry in (*parent.log, Entry(len(parent.log), b.path, b.text, True, "0", k.now)):
        k.append(child, entry)
    pager.inherit_windows(k, parent, child)
    if child.root and child.image:  # a window may be another from the first entry on
        k.context(child.root)
    recovery.replay(k, child)
    ctx = k.context(b)
    if ctx.filed:
        k.copy(spaces.space(b), (child.pid, ""))
    if child.root and not child.parked:
        if not k.context(child.root).same_as(ctx):
            recovery.park(k, child, "the replay of its log gave another context")
        else:
            child.root.ctx = k.scheduler.mmu.fork(ctx)
            child.root.ctx.filed = ctx.filed
    child.base, child.tokens = -child.tokens, 0
    k.save(child)
    for open_branch in recovery.open_branches(child):
        k.queue(open_branch, None)
    return child.pid


def execute(k: Kernel, b: Branch, program: str, args: str, fresh: bool) -> None:
    """Become another program. Pid, mail, signals, children, limits stay; so does the context, unless `fresh`."""
    process = b.proc
    if b is not process.root or process.foreign:
        raise EINVAL("exec works in the root branch of a program only")
    if k.programs.get(program) is None:
        raise ENOENT(f"no program {program}")
    old = k.context(b)
    ctx = k.blank() if fresh else k.scheduler.mmu.fork(old)
    if old.filed and fresh:
        k.drop(process.pid)
    ctx.filed = old.filed and not fresh
    ctx.begin_log()
    pager.forget_windows(k, process)
    for entry in process.log:
        k.erase("journal", (process.pid, process.epoch, entry.seq))
    k.close(b)
    process.program, process.args, process.epoch = program, args, process.epoch + 1
    process.log, process.image, process.base = [], ctx.image(), process.tokens
    process.root = k.branch(process, "", None, None)
    process.root.ctx = ctx
    k.save(process)
    k.queue(process.root, None)


# ---- signals


def signal(k: Kernel, process: Process, sign: Signal) -> None:
    """Do what a signal says; TERM and INT become the outcome of the process's current or next call."""
    if k.probes:
        k.probe("signal", process.pid, sign)
    match sign:
        case Signal.KILL:
            end(k, process, "killed", detail="KILL")
        case Signal.STOP:
            stop(k, process)
        case Signal.CONT:
            resume(k, process)
        case _:
            if sign.value not in (process.pending or ()):
                process.pending = [*(process.pending or ()), sign.value]
                save_signals(k, process)
            blocked = [b for b in process.branches.values() if b.blocked and (process.foreign or b is process.root)]
            if blocked:
                interrupt(k, blocked[0])


def interrupt(k: Kernel, b: Branch) -> None:
    """Let the first pending signal be the outcome of a call. The key asks about an effect that may have happened."""
    process = b.proc
    assert process.pending
    sign, *rest = process.pending
    process.pending = rest or None
    save_signals(k, process)
    key = b.key if isinstance(b.call, Call) and b.noted else ""
    k.withdraw(b)
    k.reply(b, error=EINTR(sign, key))


def save_signals(k: Kernel, process: Process) -> None:
    if process.pending:
        k.put("signal", (process.pid,), (process.pid, to_json(process.pending)))
    else:
        k.erase("signal", (process.pid,))


def stop(k: Kernel, process: Process) -> None:
    """Hold back deliveries, not decisions; its bursts leave their lanes at the border of the tick."""
    if process.stopped or process.parked:
        return
    process.stopped = True
    process.move(State.STOPPED)
    for b in process.branches.values():
        if b.burst:
            k.scheduler.suspend(b.burst)
    k.save(process)


def resume(k: Kernel, process: Process) -> None:
    """Go on after STOP."""
    if not process.stopped:
        return
    process.stopped = False
    process.move(State.READY if process.awake else State.BLOCKED)
    k.ready.extendleft(reversed(process.held or ()))  # they were decided before what is in the line
    process.held = None
    for b in process.branches.values():
        if b.burst:
            k.scheduler.wake(b.burst)
    k.save(process)


# ---- the end


def finished(k: Kernel, b: Branch) -> None:
    """The program of a process has returned or raised."""
    process, error = b.proc, b.error
    if error is None:
        end(k, process, "exit", b.value)
    elif isinstance(error, SystemExit):
        end(k, process, "exit", error.code)
    elif isinstance(error, EINTR):
        end(k, process, "killed", detail=error.detail)
    else:
        end(k, process, "crashed", detail=explain(error))


def explain(error: BaseException) -> str:
    """Say what went wrong and at which line of the program."""
    try:
        text = str(error) if isinstance(error, SyscallError) else f"{type(error).__name__}: {error}"
    except Exception:  # the program's own __str__
        text = type(error).__name__
    places = [(frame.f_code.co_filename, line) for frame, line in walk_tb(error.__traceback__)]
    own = [(file, line) for file, line in places if not file.endswith(("kernel/kernel.py", "syscalls/base.py"))]
    return f"{text} ({own[-1][0].rsplit('/', 1)[-1]}:{own[-1][1]})" if own else text


def overtime(k: Kernel, process: Process) -> None:
    """The limit of wall time is reached, or it has moved."""
    seconds = process.limits.seconds
    if seconds is not None and k.now >= process.born + seconds:
        end(k, process, "killed", detail=f"limit of {seconds:g} seconds")


def leave(k: Kernel, process: Process) -> None:
    """The connection of a foreign process is gone."""
    if process.foreign and not process.status:
        end(k, process, "exit")


def end(k: Kernel, process: Process, reason: Any, value: Any = None, detail: str = "") -> None:
    """End a process: all that it has goes, and its parent learns how it ended."""
    try:
        value = from_json(to_json(value))
    except ValueError as error:
        reason, value, detail = "crashed", None, f"its exit value is not JSON: {error}"
    process.status = ExitStatus(
        pid=process.pid, program=process.program, reason=reason, value=value, detail=clean(detail)
    )
    if k.probes:
        k.probe("end", process.pid, process.status.model_dump_json(exclude_defaults=True))
    process.base = process.tokens
    _close(k, process)
    process.move(State.ZOMBIE)
    if process.foreign:
        k.effects.append(Hangup(process.pid, detail or reason))
    _orphan(k, process)
    _bury(k, process)


def _close(k: Kernel, process: Process) -> None:
    spaces.end(k, process)
    pager.forget_windows(k, process)
    for b in [*process.branches.values()]:
        if b.alive:
            k.close(b)
    process.root, process.held = None, None
    if process.parked or process.foreign:
        _forget_notes(k, process)
    for mail in process.mailbox or ():
        k.erase("message", (mail.seq,))
    for sender in process.senders or ():
        k.reply(sender, error=ESRCH(f"process {process.pid} has ended"))
    process.mailbox = process.senders = process.receivers = process.waiters = process.put_off = None
    if process.pending:
        process.pending = None
        k.erase("signal", (process.pid,))
    streams.close_ends(k, process)


def _forget_notes(k: Kernel, process: Process) -> None:
    """Erase the notes of calls that no branch of this life has begun."""
    for key in [key for key in k.started if key.startswith(f"{process.lineage}:")]:
        del k.started[key]
        k.erase("started", (key,))
        for start_at in k.partials.pop(key, ()):
            k.erase("partial", (key, start_at))


def _orphan(k: Kernel, process: Process) -> None:
    """Give the children to init."""
    init = k.procs.get(INIT)
    adopter = init if init and not init.status and init is not process else None
    for pid in process.children or ():
        child = k.procs[pid]
        child.ppid = adopter.pid if adopter else 0
        if adopter:
            adopter.children = adopter.children or {}
            adopter.children[pid] = None
        if child.status:
            _bury(k, child)
        else:
            k.save(child)
    process.children = process.zombies = None


def _bury(k: Kernel, process: Process) -> None:
    """Hand the status to a parent that waits, keep it for one that may yet, or forget the process."""
    parent = k.procs.get(process.ppid)
    if not parent or parent.status:
        reap(k, process)
        return
    for waiter in parent.waiters or ():
        if waiter.call.pid in (None, process.pid) and taking.may_take(waiter):
            assert parent.waiters
            parent.waiters.remove(waiter)
            reap(k, process)
            k.reply(waiter, process.status)
            _disappoint(k, parent)
            return
    parent.zombies = parent.zombies or {}
    parent.zombies[process.pid] = None
    k.save(process)


def _disappoint(k: Kernel, parent: Process) -> None:
    """A child is gone: others who waited for it, or for any when none is left, wait in vain."""
    for waiter in [*(parent.waiters or ())]:
        pid = waiter.call.pid
        if (pid is None and not parent.children and parent.pid != INIT) or (pid and pid not in (parent.children or ())):
            assert parent.waiters
            parent.waiters.remove(waiter)
            k.reply(waiter, error=ECHILD("another branch has waited for it"))


def reap(k: Kernel, process: Process) -> None:
    """Take a dead process off the table. The store keeps its line and its log; of a foreign one, nothing."""
    del k.procs[process.pid]
    if parent := k.procs.get(process.ppid):
        for pids in (parent.children, parent.zombies):
            if pids:
                pids.pop(process.pid, None)
    if process.cost:
        k.erase("kernel", (process.account,))
    if process.foreign:
        k.erase("process", (process.pid,))
        for entry in process.log:
            k.erase("journal", (process.pid, process.epoch, entry.seq))
    else:
        k.save(process, reaped=True)
