"""What only one can have: a message, text of a stream, the status of a child.

An outcome that was decided earlier and is not delivered yet could end the branch of a call, and what the call had taken
would be lost with it. So a call that could take something is put off until all is delivered.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tokix.kernel.kernel import Kernel
    from tokix.kernel.process import Branch, Process


def may_take(branch: Branch) -> bool:
    """Say whether a call may be given now what only one can have. If not, it waits."""
    parent, process = branch.parent, branch.proc
    if parent is None:
        return True
    while parent and not parent.decider:
        parent = parent.parent
    if parent is None and not process.awake:
        return True
    process.put_off = process.put_off or {}
    process.put_off[branch] = None
    return False


def offer(k: Kernel, process: Process) -> None:
    """All is delivered: calls that were put off may take, until there is an outcome again."""
    waiting, process.put_off = process.put_off or {}, None
    for number, branch in enumerate(waiting):
        if process.awake:
            process.put_off = dict.fromkeys([*(process.put_off or ()), *islice(waiting, number, None)])
            return
        if branch.alive and branch.blocked:
            k.withdraw(branch)
            k.handle(branch)
