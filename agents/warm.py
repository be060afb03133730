"""warm FILE PROGRAM [ARG…]: begin where somebody else's conversation was saved.

The context of FILE, which `tokix save` or `Save` has written, becomes that of this process, and then PROGRAM runs in
it: all that was said is in its window or in its archive, and is not computed again.
"""

from __future__ import annotations

from typing import Any

from tokix.syscalls import Exec, Restore, program
from tokix.syscalls.program import FileName, ProgramName


@program()
async def main(file: FileName, program: ProgramName, *args: Any) -> None:
    """Run a program in a context that was saved to a file."""
    await Restore(path=file)
    await Exec(program=program, args=list(args))
