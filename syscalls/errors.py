"""The errors that a system call can answer with.

A caller's mistake, or a state of the world that a caller has to know, is a reply: it is journalled like any other and
raised on the caller's own line. A bug of the kernel is none of these: it stops the kernel (`tokix.kernel.KernelBug`).

    SyscallError
    ├── EAGAIN       not now: a mailbox is full and the caller would not wait, too many children, or somebody is
    │                thinking in the context
    ├── EBADF        no such open stream
    ├── ECHILD       not a child of the caller, or no child is left
    ├── EDQUOT       a limit of the process, of tokens or of cost, is used up
    ├── EINTR        a signal interrupted the call (`detail` is its name; `key` asks about an unsafe effect)
    ├── EINVAL       the call, or an argument of it, makes no sense here
    ├── EIO          a driver failed, or a file cannot be written or is damaged
    ├── ENOENT       no such program, device, op, page or file
    ├── ENOMEM       what is asked for can never fit in the window or in the frames
    ├── EPERM        the process has no capability for it
    ├── EPIPE        nobody reads the stream any more
    ├── ESRCH        no such process, or it has ended
    ├── ETIMEDOUT    the time that the caller allowed is over
    └── EUNKNOWN     an unsafe effect was begun and its outcome was lost in a crash (`key` asks about it)
"""

from __future__ import annotations

import json
from typing import ClassVar


class SyscallError(Exception):
    """An errno, what it is about, and, where an outside effect may have happened, the key to ask by."""

    errno: ClassVar[str] = "E"

    def __init__(self, detail: str = "", key: str = "") -> None:
        super().__init__(detail, key)
        self.detail, self.key = detail, key

    def __str__(self) -> str:
        return f"{self.errno}: {self.detail}" if self.detail else self.errno


class EAGAIN(SyscallError):
    errno = "EAGAIN"


class EBADF(SyscallError):
    errno = "EBADF"


class ECHILD(SyscallError):
    errno = "ECHILD"


class EDQUOT(SyscallError):
    errno = "EDQUOT"


class EINTR(SyscallError):
    errno = "EINTR"


class EINVAL(SyscallError):
    errno = "EINVAL"


class EIO(SyscallError):
    errno = "EIO"


class ENOENT(SyscallError):
    errno = "ENOENT"


class ENOMEM(SyscallError):
    errno = "ENOMEM"


class EPERM(SyscallError):
    errno = "EPERM"


class EPIPE(SyscallError):
    errno = "EPIPE"


class ESRCH(SyscallError):
    errno = "ESRCH"


class ETIMEDOUT(SyscallError):
    errno = "ETIMEDOUT"


class EUNKNOWN(SyscallError):
    errno = "EUNKNOWN"


ERRNO: dict[str, type[SyscallError]] = {cls.errno: cls for cls in SyscallError.__subclasses__()}


def encode_error(error: SyscallError) -> str:
    """Give the JSON form that the journal and the control socket carry; an errno that is not in the tree is EIO."""
    errno = error.errno if error.errno in ERRNO else "EIO"
    fields = {"errno": errno, "detail": clean(error.detail), "key": clean(error.key)}
    return json.dumps(fields, separators=(",", ":"))


def clean(text: object) -> str:
    """Give text that any store and any terminal can take: valid Unicode, of a bounded length."""
    return str(text)[:4000].encode("utf-8", "replace").decode()


def decode_error(text: str) -> SyscallError:
    """Give back the error that `encode_error` wrote; raises KeyError for an errno that is not in the tree."""
    fields = json.loads(text)
    return ERRNO[fields["errno"]](fields["detail"], fields["key"])
