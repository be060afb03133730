"""What a shell says about the end of a process: an exit code, and a line for people."""

from __future__ import annotations

import re
import signal

from tokix.syscalls import ExitStatus
from tokix.syscalls.base import to_json

#: What steers a terminal, or is not seen on one: controls, marks of direction, spaces without width, tags. Not what
#: joins letters and pictures.
CONTROL = re.compile(
    "[\x00-\x1f\x7f-\x9f\u00ad\u061c\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\ufeff\U000e0000-\U000e007f]"
)
#: Characters that are shown of a value, or of what a process says at its end.
LENGTH = 1000


def exit_code(status: ExitStatus) -> int:
    """Give 0 for an exit (a value from 1 to 255 is the code itself), 1 for a crash, 128 + n for signal n.

    Who was killed at one of its limits counts as killed by KILL.
    """
    match status:
        case ExitStatus(reason="exit", value=int(value)) if 0 < value < 256 and value is not True:
            return value
        case ExitStatus(reason="exit"):
            return 0
        case ExitStatus(reason="crashed"):
            return 1
    name = f"SIG{status.detail}"
    return 128 + (signal.Signals[name] if name in signal.Signals.__members__ else signal.SIGKILL)


def sentence(status: ExitStatus) -> str:
    """Say how a process ended, in one line that can be read; "" if it has nothing to say.

    `logs`, and `run --json`, have all of it.
    """
    match status:
        case ExitStatus(reason="exit", value=None):
            return ""
        case ExitStatus(reason="exit"):
            return f"{status.program} (process {status.pid}) exited with {shown(to_json(status.value))}"
    return f"{status.program} (process {status.pid}) {status.reason}: {shown(status.detail)}"


def one_line(text: str) -> str:
    """Give a text without line breaks, and with all that steers a terminal spelled out."""
    return CONTROL.sub(lambda found: repr(found[0])[1:-1], " ".join(text.split()))


def shown(text: str) -> str:
    """Give a text, or the beginning of a long one, as a line."""
    line = one_line(text)
    return line if len(line) <= LENGTH else f"{line[:LENGTH]}… ({len(line)} characters)"
