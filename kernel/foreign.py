"""Foreign processes: a terminal, a client, another interpreter. Their calls come as `Trap`s and leave as `Reply`s.

A key names a call for the life of the process: repeated, it gets the outcome that it had, so a client that lost the
connection to a kernel can ask again. Calls that only look are not recorded; repeated, they look again.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from tokix.kernel.events import Reply
from tokix.kernel.trap import HANDLERS, not_a_call
from tokix.syscalls import EINVAL, ESRCH, Syscall, SyscallError
from tokix.syscalls.errors import encode_error

if TYPE_CHECKING:
    from tokix.kernel.kernel import Kernel
    from tokix.kernel.process import Branch, Entry, Process

_KEY = re.compile("[A-Za-z0-9 _.-]{1,200}")


def trap(k: Kernel, pid: int, key: str, call: Syscall[Any]) -> None:
    """Take a call from outside. One that is in flight already is not begun again."""
    process = k.procs.get(pid)
    if not process or process.status or not process.foreign or not process.root:
        return refuse(k, pid, key, ESRCH(f"no foreign process {pid}"))
    try:
        text = checked(k, process, key, call)
    except SyscallError as error:
        return refuse(k, pid, key, error)
    except (ValueError, RecursionError):
        return refuse(k, pid, key, EINVAL(not_a_call(call)))
    if entry := (process.outcomes or {}).get(key):
        k.effects.append(Reply(pid, key, entry.ok, entry.value))
    elif key not in process.branches:
        branch = k.branch(process, key, None, process.root)
        branch.path, branch.call, branch.text, branch.blocked = key, call, text, True
        branch.noted = branch.key in k.started
        k.trap(branch)
    return None


def checked(k: Kernel, process: Process, key: str, call: Syscall[Any]) -> str:
    """Give the journal's text of a call; raises EINVAL, or ValueError for what is not JSON."""
    if not _KEY.fullmatch(key):
        raise EINVAL("a key has 1 to 200 letters, digits, spaces, or any of _ . -")
    if type(call) not in HANDLERS:
        raise EINVAL(not_a_call(call))
    text = call.canonical()
    note = k.started.get(f"{process.lineage}:{process.epoch}:{key}", {})
    entry = (process.outcomes or {}).get(key)
    before = entry.call if entry else note.get("call", text)
    if before != text:
        raise EINVAL(f"the key {key} belongs to {before}")
    return text


def refuse(k: Kernel, pid: int, key: str, error: SyscallError) -> None:
    """Answer what never became a call."""
    k.effects.append(Reply(pid, key, False, encode_error(error)))


def reply(k: Kernel, branch: Branch, entry: Entry) -> None:
    """Let an outcome out."""
    process = branch.proc
    if not branch.call.observes:
        k.append(process, entry)
        process.outcomes = process.outcomes or {}
        process.outcomes[entry.path] = entry
    del process.branches[branch.prefix]
    k.effects.append(Reply(process.pid, entry.path, entry.ok, entry.value))
