"""Devices and streams: how a process reaches the world outside the kernel."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from tokix.syscalls.base import Syscall, Value

#: pure: may run any number of times; idempotent: a repeat with the same key is harmless; unsafe: neither.
EffectClass = Literal["pure", "idempotent", "unsafe"]
#: 0 is for reading, the others are for writing.
Descriptor = Annotated[int, Field(ge=0, le=1023)]


class OpInfo(Value):
    """One function of a device. `parameters` is the JSON schema of its arguments."""

    name: str
    doc: str
    effect: EffectClass
    parameters: dict[str, Any]
    #: Seconds that one call may take; None is no limit.
    timeout: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    #: What one call takes of the limit `cost` of its process, in units that whoever mounts the device gives a meaning.
    cost: int = Field(default=0, ge=0)


class DeviceInfo(Value):
    """A mounted driver."""

    name: str
    ops: list[OpInfo]


class Devices(Syscall[list[DeviceInfo]]):
    """List the mounted devices."""

    call: Literal["devices"] = "devices"
    observes = True


class Call(Syscall[Any]):
    """Use an op of a device. It is paid for when it begins, whatever comes of it.

    Raises ENOENT, EPERM, EDQUOT, EINVAL, EIO, ETIMEDOUT, EINTR, EUNKNOWN, and what the op raises.
    """

    call: Literal["call"] = "call"
    device: str
    op: str
    args: dict[str, Any] = {}
    timeout: float | None = Field(default=None, ge=0, allow_inf_nan=False)


class Read(Syscall[str]):
    """Read text from a stream: what is there, up to `limit` characters; "" at its end. Raises EBADF, ETIMEDOUT."""

    call: Literal["read"] = "read"
    #: A descriptor, or `pipe:NAME`, a pipe that the caller made with `Spawn`.
    fd: Descriptor | str = 0
    limit: int = Field(default=65536, ge=1)
    timeout: float | None = Field(default=None, ge=0, allow_inf_nan=False)


class Write(Syscall[None]):
    """Write text to a stream; waits while the stream is full. Raises EBADF, EPIPE."""

    call: Literal["write"] = "write"
    text: str
    #: A descriptor, or `pipe:NAME`, a pipe that the caller made with `Spawn`.
    fd: Descriptor | str = 1
    #: This is the caller's last word on the stream.
    close: bool = False
