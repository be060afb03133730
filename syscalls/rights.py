"""Capabilities: what a process may do. There is no ambient authority; a process can only pass on less than it has.

A capability is a verb and, for some, an object, where a `*` at the end stands for anything:

    *                everything
    think            use the machine
    spawn:PROGRAM    start or become a program
    call:DEVICE.OP   use an op of a device, such as call:files.read
    send:PID         write to a process that is neither the parent nor a descendant
    read:PID         read the journal or the pages of a process that is not a descendant
    kill:PID         signal, renice or limit a process that is not a descendant
    save:FILE        write a context to a file, such as save:/srv/contexts/*
    restore:FILE     take over a context from a file, and with it what was computed of it: others who begin with the
                     same words go on from that, so the file has to be one that is trusted
    map:REGION       read a region
    append:REGION    read a region and add to it; make it, if it is not there
    unlink:REGION    delete pages of a region, or all of it
    nice             lower a nice value
    limit            raise a limit
    sched            change how the machine is shared
"""

from __future__ import annotations

import re
from typing import Literal

from tokix.syscalls.base import Syscall

_WITH_OBJECT = "spawn|call|send|read|kill|save|restore|map|append|unlink"
_FORM = re.compile(rf"\*|think|nice|limit|sched|({_WITH_OBJECT}):([^\s*]+\*?|\*)")


class Grant(Syscall[None]):
    """Give some of the caller's capabilities to another process too. Raises ESRCH, EPERM."""

    call: Literal["grant"] = "grant"
    pid: int
    caps: list[str]


class Drop(Syscall[None]):
    """Give up all capabilities for ever but those in `keep`, each covered by one that the caller has. Raises EPERM."""

    call: Literal["drop"] = "drop"
    keep: list[str] = []


def covers(held: str, wanted: str) -> bool:
    """Say whether holding one capability (which may end in `*`) allows another (likewise).

    >>> covers("call:files.*", "call:files.read"), covers("call:files.read", "call:files.*")
    (True, False)
    """
    return held == wanted or (held.endswith("*") and wanted.removesuffix("*").startswith(held[:-1]))


def common(one: str, other: str) -> str | None:
    """Give the capability that allows what both of two allow; None if there is nothing.

    >>> common("call:files.*", "call:*"), common("call:files.read", "think")
    ('call:files.*', None)
    """
    return other if covers(one, other) else one if covers(other, one) else None


def is_capability(text: str) -> bool:
    """Say whether a text has the form of a capability."""
    return _FORM.fullmatch(text) is not None
