r"""tokix: a microkernel operating system for LLM agents.

    import tokix
    from tokix import Think, Write

    async def main(name: str) -> str:
        answer = await Think(prompt=f"Who is {name}?", max_tokens=16)
        await Write(text=answer.text + "\n")
        return answer.text

    tokix.run(main, "Ada")

Here are the system calls and `run`; `tokix.boot` has the rest. Nothing is loaded before it is used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tokix.boot import System as System
    from tokix.boot import run as run
    from tokix.failure import Interrupted as Interrupted
    from tokix.failure import Stopped as Stopped
    from tokix.syscalls import *  # noqa: F403

_PLACES = {"System": "tokix.boot", "run": "tokix.boot", "Interrupted": "tokix.failure", "Stopped": "tokix.failure"}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return import_module("importlib.metadata").version("tokix")
    if name in _PLACES:
        return getattr(import_module(_PLACES[name]), name)
    calls = import_module("tokix.syscalls")
    if name == "__all__":
        return [*_PLACES, *calls.__all__]
    if name in calls.__all__:
        return getattr(calls, name)
    raise AttributeError(f"module 'tokix' has no attribute {name!r}")
