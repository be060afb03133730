"""Mounted drivers. An op runs as a coroutine beside the kernel; whatever comes of it, its caller gets an answer.

What a driver raises is EIO for its caller and a line for the operator, unless it is a `SyscallError`, meant for
the caller. Only when the kernel stops there is no answer: the next one knows that the call was begun.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import anyio
from anyio.abc import TaskGroup
from anyio.lowlevel import checkpoint

from tokix.kernel.events import Answer, Invoke
from tokix.syscalls import EIO, DeviceInfo, SyscallError

if TYPE_CHECKING:
    from tokix.kernel.ports import Driver


class Devices:
    """All drivers, by the names of their devices."""

    def __init__(
        self, drivers: Mapping[str, Driver], answer: Callable[[Answer], None], report: Callable[[str], None]
    ) -> None:
        self._drivers, self._answer, self._report = drivers, answer, report
        self._open: dict[str, anyio.CancelScope] = {}

    def describe(self) -> list[DeviceInfo]:
        return [driver.describe(name) for name, driver in self._drivers.items()]

    def invoke(self, effect: Invoke, group: TaskGroup) -> None:
        """Start an op."""
        scope = self._open[effect.key] = anyio.CancelScope()
        group.start_soon(self._run, effect, scope, group.cancel_scope)

    def revoke(self, key: str) -> None:
        """Stop an op that nobody waits for any more."""
        if scope := self._open.get(key):
            scope.cancel()

    async def _run(self, effect: Invoke, scope: anyio.CancelScope, kernel: anyio.CancelScope) -> None:
        name = f"{effect.device}.{effect.op}"
        answer = Answer(effect.key, error=EIO(f"{name} was cancelled"))
        try:
            with scope:
                await checkpoint()  # it may be revoked already
                answer = Answer(
                    effect.key, await self._drivers[effect.device].invoke(effect.op, effect.args, effect.key)
                )
        except SyscallError as error:
            answer = Answer(effect.key, error=error)
        except (Exception, SystemExit) as error:
            reason = f"{name} failed: {type(error).__name__}: {error}"
            self._report(reason)
            answer = Answer(effect.key, error=EIO(reason))
        except anyio.get_cancelled_exc_class():
            if kernel.cancel_called:
                raise
        self._open.pop(effect.key, None)
        self._answer(answer)  # of one that was revoked, the kernel takes no notice
