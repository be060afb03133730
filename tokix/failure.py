"""How a kernel stops before its time, and the report that it leaves when something is broken."""

from __future__ import annotations

import platform
import tempfile
import time
import traceback
from pathlib import Path
from signal import Signals

import tokix


class Stopped(Exception):
    """Something is broken and the kernel has stopped; says what, and where the report is."""


class Interrupted(Exception):
    """A signal has ended the run; what is unfinished goes on at the next boot."""

    def __init__(self, signum: int) -> None:
        super().__init__(f"stopped by {Signals(signum).name}")
        self.signum = signum


def stopped(what: str, error: BaseException, folder: Path | None, running: int, private: bool = False) -> Stopped:
    """Write a report, and say so. `running` is the pid of the program that had the kernel, or 0."""
    report = write_report(f"{what}; running: {running or 'the kernel itself'}", error, folder, private)
    return Stopped(f"{what}, and the kernel has stopped: {type(error).__name__}: {error}; {report}")


def write_report(what: str, error: BaseException, folder: Path | None, private: bool = False) -> str:
    """Write what the authors have to know into a folder, or where there is room; says where it is.

    A private report says where things went wrong, and nothing that an agent or a person could have said.
    """
    head = f"tokix {tokix.__version__}, Python {platform.python_version()}, {platform.platform()}"
    when = f"{time.strftime('%Y-%m-%d %H:%M:%S')}: {what}"
    text = "\n".join([head, when, "", places(error) if private else "".join(traceback.format_exception(error))])
    elsewhere = Path(tempfile.gettempdir())
    for place in (folder or elsewhere, elsewhere):
        path = place / time.strftime("crash-%Y%m%d-%H%M%S.txt")
        try:
            path.write_text(text)
        except OSError:
            continue
        return f"the report is {path}"
    return "the report could not be written anywhere"


def places(error: BaseException) -> str:
    """Give the kinds of an error and of its causes, and the lines of code, without the words of either."""
    chain = [error]
    while cause := chain[-1].__cause__ or chain[-1].__context__:
        if cause in chain:
            break
        chain.append(cause)
    lines = []
    for link in reversed(chain):
        lines.append(f"{type(link).__module__}.{type(link).__qualname__}, at:")
        walked = traceback.walk_tb(link.__traceback__)
        lines += [f"  {frame.f_code.co_filename}:{number}, in {frame.f_code.co_name}" for frame, number in walked]
    return "\n".join([*lines, "(what was said is left out, for the state directory is encrypted)", ""])
