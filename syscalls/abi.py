"""The ABI: one discriminated union of all calls.

The trap decodes it, the journal stores it, a foreign process sends it as JSON.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, TypeAdapter, ValidationError

from tokix.syscalls.base import Syscall
from tokix.syscalls.compute import Count, Think
from tokix.syscalls.concurrency import Gather, Select
from tokix.syscalls.device import Call, Devices, Read, Write
from tokix.syscalls.errors import EINVAL
from tokix.syscalls.memory import Advise, Append, Embed, Evict, Forget, Pages, Pin, Recall, Restore, Save
from tokix.syscalls.messages import Recv, Send
from tokix.syscalls.process import Exec, Exit, Fork, GetPid, Kill, Renice, SetLimit, Sleep, Spawn, Stat, Wait
from tokix.syscalls.regions import Map, Regions, Unlink, Unmap
from tokix.syscalls.rights import Drop, Grant
from tokix.syscalls.system import Journal, Sched, Sysinfo
from tokix.syscalls.time import Now, Random

CALLS: tuple[type[Syscall[Any]], ...] = (
    *(Spawn, Exit, Wait, Kill, GetPid, Stat, Sleep, Renice, SetLimit, Fork, Exec),
    *(Think, Count),
    *(Append, Advise, Pages, Pin, Evict, Recall, Forget, Embed, Save, Restore),
    *(Map, Unmap, Unlink, Regions),
    *(Devices, Call, Read, Write),
    *(Send, Recv),
    *(Gather, Select),
    *(Grant, Drop),
    *(Now, Random),
    *(Sched, Sysinfo, Journal),
)

AnySyscall = Annotated[
    Spawn | Exit | Wait | Kill | GetPid | Stat | Sleep | Renice | SetLimit | Fork | Exec
    | Think | Count
    | Append | Advise | Pages | Pin | Evict | Recall | Forget | Embed | Save | Restore
    | Map | Unmap | Unlink | Regions
    | Devices | Call | Read | Write
    | Send | Recv
    | Gather | Select
    | Grant | Drop
    | Now | Random
    | Sched | Sysinfo | Journal,
    Field(discriminator="call"),
]  # fmt: skip

ABI: TypeAdapter[Syscall[Any]] = TypeAdapter(AnySyscall)

_BY_NAME = {call.name: call for call in CALLS}


def decode(text: str | bytes) -> Syscall[Any]:
    """Read a call from JSON, such as `{"call": "send", "to": 2, "body": "hi"}`; raises EINVAL with what is wrong."""
    try:
        return ABI.validate_json(text)
    except ValidationError as error:
        raise EINVAL(explain(error)) from None


def decode_canonical(text: str) -> Syscall[Any]:
    """Read the text that `Syscall.canonical` wrote."""
    brace = text.index("{")
    return _BY_NAME[text[:brace]].model_validate_json(text[brace:])


def explain(error: ValidationError) -> str:
    """Say in one line which fields are wrong, and why."""
    items = error.errors(include_url=False)
    return "; ".join(f"{'.'.join(map(str, item['loc'])) or 'call'}: {item['msg']}" for item in items)
