"""Messages: typed mail between processes, first in, first out between any two of them."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from tokix.syscalls.base import Syscall, Value


class Message(Value):
    """A piece of mail. `id` is unique for ever."""

    id: str
    sender: int
    tag: str
    body: Any


class Send(Syscall[None]):
    """Put a message into a mailbox, exactly once; waits while it is full. Raises ESRCH, EPERM, EAGAIN."""

    call: Literal["send"] = "send"
    to: int
    body: Any = None
    #: What a receiver can select by.
    tag: str = ""
    #: False: a full mailbox is EAGAIN instead of a wait.
    block: bool = True


class Recv(Syscall[Message]):
    """Take the oldest message, or the oldest from one sender or with one tag. Raises ETIMEDOUT."""

    call: Literal["recv"] = "recv"
    sender: int | None = None
    tag: str | None = None
    timeout: float | None = Field(default=None, ge=0, allow_inf_nan=False)
