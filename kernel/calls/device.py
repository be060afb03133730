"""Devices, Call, Read and Write.

A Call whose op is not pure, or that has a price or a deadline, leaves an intent (the note of `begin`) before its
effect is let out. After a restart the effect is let out again, with the same key, unless the op is unsafe: what may
have run is never silently run again.

A call pays when it begins, in the transaction of its intent: once, whatever comes of it, and whatever the op costs at
the next boot. So what a process has paid is a row, and no sum over its log.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tokix.kernel import streams
from tokix.kernel.events import Invoke, Revoke
from tokix.kernel.outcome import BLOCKED
from tokix.syscalls import EDQUOT, ENOENT, EUNKNOWN, Call, DeviceInfo, Devices, OpInfo, Read, Write
from tokix.syscalls.base import from_json, to_json

if TYPE_CHECKING:
    from tokix.kernel.kernel import Kernel
    from tokix.kernel.process import Branch, Process


def devices(k: Kernel, b: Branch, c: Devices) -> list[DeviceInfo]:
    return list(k.devices.values())


def call(k: Kernel, b: Branch, c: Call) -> object:
    op = k.ops.get((c.device, c.op))
    if not op and b.noted:
        raise EUNKNOWN(f"{c.device}.{c.op} was begun before a crash, and is not mounted any more", b.key)
    if not op:
        raise ENOENT(f"no op {c.device}.{c.op}; there are: {', '.join(f'{d}.{o}' for d, o in k.ops) or 'none'}")
    if op.cost and not b.noted:
        afford(b.proc, c, op)
    limits = [seconds for seconds in (c.timeout, op.timeout) if seconds is not None]
    note: dict[str, Any] = {}
    again = False
    if limits or op.cost or op.effect != "pure":  # of any other a restart has nothing to know
        wake = {"wake": k.now + min(limits)} if limits else {}
        note, again = k.begin(b, order=next(k.serial), **wake)
    if again and op.effect == "unsafe":
        raise EUNKNOWN(f"{c.device}.{c.op} was begun before a crash and may have happened", b.key)
    if op.cost and not again:
        pay(k, b.proc, op.cost)
    k.invoked[b.key] = b
    k.effects.append(Invoke(b.key, b.proc.pid, c.device, c.op, from_json(to_json(c.args))))
    if "wake" in note:
        k.timers.set(note["wake"], b, b.path)
    return BLOCKED


def afford(process: Process, c: Call, op: OpInfo) -> None:
    """Raise EDQUOT if a call costs more than is left of the limit."""
    limit = process.limits.cost
    if limit is not None and process.cost + op.cost > limit:
        left = max(0, limit - process.cost)
        raise EDQUOT(f"{c.device}.{c.op} costs {op.cost}, and {left} is left of the limit of {limit} for this process")


def pay(k: Kernel, process: Process, cost: int) -> None:
    process.cost += cost
    k.put("kernel", (process.account,), (process.account, str(process.cost)))


def withdraw_call(k: Kernel, b: Branch) -> None:
    if not k.invoked.pop(b.key, None):
        return
    for index, effect in enumerate(k.effects):
        if isinstance(effect, Invoke) and effect.key == b.key:  # begun in this very step: it never leaves
            del k.effects[index]
            return
    k.effects.append(Revoke(b.key))


def read(k: Kernel, b: Branch, c: Read) -> object:
    return streams.read(k, b, c)


def write(k: Kernel, b: Branch, c: Write) -> object:
    return streams.write(k, b, c)


HANDLERS = {Devices: devices, Call: call, Read: read, Write: write}
WITHDRAW = {Call: withdraw_call, Read: streams.withdraw, Write: streams.withdraw}
