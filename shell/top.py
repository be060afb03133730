"""`top` on a terminal: a screen that is drawn anew every few seconds, and by every key (see `monitor`).

The kernel is asked once for each picture, and by nobody else: where nobody looks, nothing is done for it.
"""

from __future__ import annotations

import signal
from contextlib import suppress
from time import monotonic
from typing import Any

import anyio
from anyio.abc import TaskStatus
from prompt_toolkit import Application
from prompt_toolkit.data_structures import Size
from prompt_toolkit.formatted_text import StyleAndTextTuples
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.layout import FormattedTextControl, Layout, Window

from tokix.shell.client import Client, cause
from tokix.shell.monitor import Monitor
from tokix.syscalls import Syscall, SyscallError, Sysinfo

#: Keys that are no characters.
SPECIAL = (
    *(f"f{number}" for number in range(1, 11)),
    *("up", "down", "pageup", "pagedown", "home", "end", "enter", "escape", "backspace", "c-c", "<any>"),
)
#: Seconds after which an Esc is a key of its own, and not the beginning of another.
ESCAPE = 0.05
#: What else asks for an end.
ENDS = (signal.SIGTERM, signal.SIGHUP)


async def watch(client: Client, delay: float) -> None:
    """Show what the system does, until the person leaves. Raises Gone."""
    await Top(client, delay).run()


class Top:
    """A monitor on a terminal."""

    def __init__(self, client: Client, delay: float) -> None:
        self.client, self.delay = client, delay
        self.monitor = Monitor(client.pid)
        self.again = anyio.Event()
        self.calls: list[Syscall[None]] = []
        control = FormattedTextControl(self.picture, show_cursor=False)
        self.app: Application[None] = Application(
            Layout(Window(control, always_hide_cursor=True)), key_bindings=self.bindings(), full_screen=True
        )
        self.app.ttimeoutlen = ESCAPE

    async def run(self) -> None:
        """Look, draw and hear keys."""
        await self.look()
        cut: list[int] = []
        try:
            async with anyio.create_task_group() as group:
                if ends := [signum for signum in ENDS if signal.getsignal(signum) is signal.SIG_DFL]:
                    await group.start(self.end, ends, cut, group.cancel_scope)
                group.start_soon(self.looks)
                with suppress(EOFError):  # the terminal is gone
                    await self.app.run_async(handle_sigint=False, set_exception_handler=False)
                group.cancel_scope.cancel()
        except BaseExceptionGroup as problems:
            raise cause(problems) from None
        if cut:  # the terminal is as it was
            signal.raise_signal(cut[0])

    async def end(
        self, ends: list[signal.Signals], cut: list[int], scope: anyio.CancelScope, *, task_status: TaskStatus[None]
    ) -> None:
        """Leave the terminal as it was before a signal does what it does."""
        with anyio.open_signal_receiver(*ends) as signals:
            task_status.started()  # before anything is drawn
            async for signum in signals:
                cut.append(signum)
                scope.cancel()

    # ---- the kernel

    async def look(self) -> None:
        self.monitor.take(await self.client.call(Sysinfo()), monotonic())
        self.app.invalidate()

    async def looks(self) -> None:
        """Make the calls that keys have asked for, and look, for ever."""
        while True:
            with anyio.move_on_after(self.delay):
                await self.again.wait()
            self.again = anyio.Event()
            while self.calls:
                try:
                    await self.client.call(self.calls.pop(0))
                except SyscallError as error:
                    self.monitor.message = str(error)
            await self.look()

    # ---- the terminal

    def picture(self) -> StyleAndTextTuples:
        size: Size = self.app.output.get_size()
        lines = self.monitor.lines(size.columns, size.rows)
        pieces: StyleAndTextTuples = [piece for line in lines for piece in (*line, ("", "\n"))]
        return pieces[:-1]

    def bindings(self) -> KeyBindings:
        bindings = KeyBindings()
        for key in SPECIAL:
            bindings.add(key, eager=key == "escape")(self.press)
        bindings.add("c-z")(self.suspend)
        bindings.add("c-l")(lambda event: event.app.renderer.clear())
        return bindings

    def press(self, event: KeyPressEvent) -> None:
        """Do what a key does."""
        key: Any = event.key_sequence[0].key
        calls = self.monitor.press({"c-m": "enter", "c-h": "backspace"}.get(name := getattr(key, "value", key), name))
        if calls:
            self.calls += calls
            self.again.set()
        if self.monitor.over and not event.app.is_done:
            event.app.exit()

    def suspend(self, event: KeyPressEvent) -> None:
        """Stop, if whoever has started this can let it go on again."""
        if signal.getsignal(signal.SIGTSTP) is signal.SIG_DFL:
            event.app.suspend_to_background()
        else:
            self.monitor.message = "nothing can stop here; q leaves"
