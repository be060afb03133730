"""How a kernel stops before its time, and the report that it leaves when something is broken."""

from __future__ import annotations

import platform
import tempfile
import time
import traceback
from pathlib import Path

import tokix


class Stopped(Exception):
    """Something is broken and the kernel has stopped; says what, and where the report is."""


class Interrupted(Exception):
    """A signal has ended the run; what is unfinished goes on at the next boot."""

    def __init__(self, signum: int) -> None:
        super().__init__(signum)
        self.signum = signum


def stopped(what: str, error: BaseException, folder: Path | None, running: int) -> Stopped:
    """Write a report, and say so. `running` is the pid of the program that had the kernel, or 0."""
    head = f"tokix {tokix.__version__}, Python {platform.python_version()}, {platform.platform()}"
    when = f"{time.strftime('%Y-%m-%d %H:%M:%S')}: {what}; running: {running or 'the kernel itself'}"
    where = _write("\n".join([head, when, "", "".join(traceback.format_exception(error))]), folder)
    return Stopped(f"{what}, and the kernel has stopped: {type(error).__name__}: {error}; the report {where}")


def _write(text: str, folder: Path | None) -> str:
    """Write the report into a folder, or where there is room; gives where it is."""
    for place in (folder, Path(tempfile.gettempdir())):
        path = (place or Path(tempfile.gettempdir())) / time.strftime("crash-%Y%m%d-%H%M%S.txt")
        try:
            path.write_text(text)
        except OSError:
            continue
        return f"is {path}"
    return "could not be written anywhere"
