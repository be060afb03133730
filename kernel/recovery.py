"""Recovery: a process image is its log.

Two passes: first every process is rebuilt without effects, by replaying its log into a fresh coroutine; only then its
open calls happen, for they may reach any process. A program that calls something else than its log has is not the
program that wrote it: the process is parked as DIVERGED, harms nobody, and goes on when the program is repaired.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from itertools import count
from math import inf
from typing import TYPE_CHECKING, Any

from tokix.kernel import life, pager, regions, spaces, streams
from tokix.kernel.errors import KernelBug
from tokix.kernel.ports import TABLES
from tokix.kernel.process import Branch, Entry, Mail, Process, State
from tokix.syscalls import ExitStatus, Limits, decode_canonical
from tokix.syscalls.base import from_json, to_json
from tokix.syscalls.errors import clean

if TYPE_CHECKING:
    from tokix.kernel.kernel import Kernel

Loaded = Mapping[str, list[tuple[Any, ...]]]


def recover(k: Kernel, rows: Loaded, init: tuple[str, list[Any]], suspects: Mapping[int, str]) -> None:
    """Bring the kernel to where the rows are. A first start is a restart from nothing."""
    try:
        _load(k, rows)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise KernelBug(f"the store has rows that make no sense: {error!r}") from error
    meta: dict[str, str] = dict(rows["kernel"])
    if meta.get("model") != k.machine.name:
        k.put("kernel", ("model",), ("model", k.machine.name))
    resized = meta.get("window") != str(k.capacity)
    if resized:
        k.put("kernel", ("window",), ("window", str(k.capacity)))
    if k.next_pid == 1:
        k.put("kernel", ("seed",), ("seed", str(k.seed)))
        program, args = init
        process = life.create(k, None, "1", program, to_json(args))
        assert process.root
        k.queue(process.root, None)
        return
    living = [p for p in k.procs.values() if not p.status]
    for process in living:
        if process.pid in suspects:
            park(k, process, suspects[process.pid])
        else:
            replay(k, process)
        if resized or not process.parked:
            pager.adopt(k, process)
    _miss(k, rows["started"])
    calls = [b for p in living if not p.parked for b in open_branches(p)]
    calls.sort(key=lambda b: k.started.get(b.key, {}).get("order", inf))  # who waited in line keeps the place
    for process in living:
        if not process.parked and process.stopped:
            process.move(State.STOPPED)
    for branch in calls:
        reopen(k, branch)
    for process in [p for p in k.procs.values() if p.status]:
        life._bury(k, process)


# ---- the two passes


def replay(k: Kernel, process: Process) -> None:
    """Rebuild a process from its log, without effects: the first half of a restart, and of Fork."""
    process.replaying, process.prefixes = True, set()
    if process.foreign:
        _redo_foreign(k, process)
    else:
        why = _replay(k, process)
        if why:
            park(k, process, why)
    process.replaying, process.prefixes = False, None


def _replay(k: Kernel, process: Process) -> str:
    """Drive a fresh coroutine with the log; gives what is wrong."""
    if k.programs.get(process.program) is None:
        return f"no program {process.program}"
    assert process.root
    since = process.root.ctx.since if process.root.ctx else 0
    k.resume(process.root)
    for entry in process.log:
        pager.resize(k, process, entry.seq)
        branch = process.branches.get(entry.path[: entry.path.rfind(".") + 1])
        if branch is None and entry.path[: entry.path.rfind(".") + 1] in (process.prefixes or ()):
            k.drop(*spaces.space_of(process, entry.path[: entry.path.rfind(".") + 1]))
            continue  # its branch was cancelled before this could be delivered
        if branch is None:
            return difference(entry.path, entry.call, _now_at(process.root))
        if branch.done or branch.path != entry.path or not entry.answers(branch.text):
            return difference(entry.path, entry.call, _now_at(branch))
        branch.blocked = False
        try:
            value, failure = k.outcome(branch, entry)
        except (ValueError, KeyError, TypeError) as error:
            return f"at call {entry.path} the outcome in the journal cannot be read: {error}"
        if entry.ok and entry.seq >= since:  # the context knows what was before
            k.redo(branch, branch.call, entry, value)
        k.resume(branch, value, failure)
    pager.resize(k, process, len(process.log))
    for branch in process.branches.values():
        begun = k.started.get(branch.key)
        if begun is not None and branch.blocked and begun.get("call", branch.text) != branch.text:
            return difference(branch.path, begun["call"], _now_at(branch))
    return ""


def _miss(k: Kernel, started: list[tuple[Any, ...]]) -> None:
    """Park the processes that had begun a call which they do not make any more."""
    made = {b.key for p in k.procs.values() for b in p.branches.values() if b.blocked}
    for key, pid, call, _ in started:
        process = k.procs.get(pid)
        missed = key in k.started and key not in made  # else the replay has ended its branch
        if missed and process and process.root and not process.foreign and not process.parked:
            park(k, process, difference(key.rpartition(":")[2], call, _now_at(process.root)))


def _now_at(branch: Branch) -> str:
    if branch.done:
        return f"the program ended ({_shown(branch.error)})" if branch.error else "the program returned"
    return f"{_clip(branch.text)} at call {branch.path}"


def _shown(error: BaseException) -> str:
    try:
        return repr(error)
    except Exception:  # the program's own __repr__
        return type(error).__name__


def _clip(text: str) -> str:
    return text if len(text) <= 200 else f"{text[:200]}… ({len(text)} characters)"


def difference(path: str, recorded: str, called: str) -> str:
    """Say where a program left its log, in three lines."""
    return f"at call {path} the program differs from its journal\n  journal: {_clip(recorded)}\n  program: {called}"


def _redo_foreign(k: Kernel, process: Process) -> None:
    """A foreign process has no coroutine: only its context is made again."""
    assert process.root
    process.move(State.BLOCKED)
    process.outcomes = {entry.path: entry for entry in process.log}
    for entry in process.log:
        pager.resize(k, process, entry.seq)
        call = decode_canonical(entry.call)
        if entry.ok:
            k.redo(process.root, call, entry, call.reply.validate_json(entry.value))
    pager.resize(k, process, len(process.log))


def open_branches(process: Process) -> list[Branch]:
    """Give the branches that a replay left at the end of the log."""
    return [b for b in process.branches.values() if b.alive and (b.done or b.blocked)]


def reopen(k: Kernel, branch: Branch) -> None:
    """Let a branch go on after the log: it ends, or its open call happens."""
    if not branch.alive:
        return
    if branch.proc.stopped and (branch.done or not branch.noted):
        k.queue(branch, None)  # held until CONT; but what has begun goes on being decided
    elif branch.done:
        k.settle(branch)
    elif branch.blocked:
        k.retrap(branch)


def park(k: Kernel, process: Process, why: str) -> None:
    """DIVERGED: the process stops and keeps what the store has of it."""
    process.parked = clean(why)
    for branch in process.branches.values():
        branch.noted = False  # its note stays, for the program that comes back
    if process.root:
        k.close(process.root)
    process.branches.clear()
    process.move(State.DIVERGED)


# ---- loading


def _load(k: Kernel, rows: Loaded) -> None:
    meta: dict[str, str] = dict(rows["kernel"])
    k.next_pid = int(meta.get("next_pid", 1))
    k.now = max(k.now, float(meta.get("now", 0)))
    k.seed = int(meta.get("seed", k.seed))
    if k.next_pid <= max((row[0] for row in rows["process"]), default=0):
        raise KernelBug("the store has lost the next pid")
    regions.load(k, rows["region"], meta)
    for key, _, call, note in rows["started"]:
        k.started[key] = {**from_json(note), "call": call}
    k.serial = count(1 + max((note.get("order", 0) for note in k.started.values()), default=0))
    for row in sorted(rows["process"]):
        process = _process(dict(zip(TABLES["process"].columns, row, strict=True)))
        process.cost = int(meta.get(process.account, 0))
        k.procs[process.pid] = process
    for process in k.procs.values():
        pager.load_windows(k, process, meta)
        _join(k, process)
        if process.root and process.image:
            k.context(process.root)
    for pid, epoch, seq, path, call, ok, value, at in sorted(rows["journal"], key=lambda row: row[:3]):
        if (owner := k.procs.get(pid)) and owner.epoch == epoch:
            if seq != len(owner.log):
                raise KernelBug(f"the journal of process {pid} has no entry {len(owner.log)}")
            owner.log.append(Entry(seq, path, call, bool(ok), value, at))
    for key, start, tokens in rows["partial"]:
        if key not in k.started:
            raise KernelBug(f"the store has tokens of a call that was not begun: {key}")
        k.partials.setdefault(key, {})[start] = from_json(tokens)
    for seq, pid, *mail in sorted(rows["message"]):
        process = k.procs[pid]
        process.mailbox = process.mailbox or deque()
        process.mailbox.append(Mail(seq, *mail))
        k.next_mail = seq + 1
    for pid, pending in rows["signal"]:
        k.procs[pid].pending = from_json(pending)
    streams.recover(k, rows["stream"], rows["chunk"])


def _process(row: dict[str, Any]) -> Process:
    return Process(
        pid=row["pid"],
        ppid=row["ppid"],
        lineage=row["lineage"],
        program=row["program"],
        args=row["args"],
        nice=row["nice"],
        caps=tuple(from_json(row["caps"])),
        limits=Limits.model_validate_json(row["limits"]),
        fds={int(fd): name for fd, name in from_json(row["fds"]).items()},
        born=row["born"],
        epoch=row["epoch"],
        image=row["image"] or "",
        base=row["tokens"],
        tokens=row["tokens"],
        stopped=bool(row["stopped"]),
        foreign=bool(row["foreign"]),
        status=ExitStatus.model_validate_json(row["status"]) if row["status"] else None,
    )


def _join(k: Kernel, process: Process) -> None:
    """Tie a loaded process to its parent, its family, its timer and its root branch. Parents come first."""
    parent = k.procs.get(process.ppid)
    process.family = life.family(parent, process.pid)
    if parent:
        parent.children = parent.children or {}
        parent.children[process.pid] = None
    if process.status:
        process.state = State.ZOMBIE
    else:
        process.root = k.branch(process, "", None, None)
        life.watch_time(k, process)
