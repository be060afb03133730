"""Devices at the real edge: a driver that fails, hangs or is in flight when the kernel stops."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Annotated, Any

import anyio
import pytest
from pydantic import Field

from stage import PATIENCE, TTY, Screen, launch, play, resume, until
from tokix.boot import boot
from tokix.drivers import Driver, op
from tokix.storage import MemoryStore
from tokix.syscalls import EINTR, EIO, ENOENT, EUNKNOWN, Call, ExitStatus, Kill, Signal, Spawn, Wait


class Odd(Driver):
    """Ops that end in every way."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.started = anyio.Event()
        self.revoked = False
        self.go = threading.Event()

    @op(effect="pure")
    async def fail(self, n: Annotated[int, Field(ge=1)]) -> int:
        """Fail at the n-th call."""
        self.calls.append("fail")
        if len(self.calls) == n:
            raise RuntimeError("no such luck")
        return len(self.calls)

    @op(effect="pure")
    async def refuse(self) -> None:
        """Say no."""
        raise ENOENT("nothing here")

    @op(effect="pure")
    async def leave(self) -> None:
        """Raise what no driver should raise."""
        raise SystemExit(1)

    @op(effect="pure")
    async def cancel(self) -> None:
        """Cancel itself."""
        raise anyio.get_cancelled_exc_class()

    @op(effect="unsafe")
    async def hang(self) -> None:
        """Never answer."""
        self.calls.append("hang")
        self.started.set()
        try:
            await anyio.sleep_forever()
        finally:
            self.revoked = True

    @op(effect="pure")
    async def again(self) -> str:
        """Hang the first time."""
        self.calls.append("again")
        self.started.set()
        if self.calls == ["again"]:
            await anyio.sleep_forever()
        return "done"

    @op(effect="unsafe")
    def block(self) -> str:
        """Block a thread."""
        self.calls.append("block")
        assert self.go.wait(PATIENCE)
        return "done"


async def call(op: str, args: dict[str, Any]) -> Any:
    return await Call(device="odd", op=op, args=args)


async def catch(op: str, args: dict[str, Any]) -> str:
    try:
        return f"gives {await call(op, args)}"
    except (EIO, ENOENT, EINTR, EUNKNOWN) as error:
        return str(error)


async def fails(n: int) -> list[str]:
    return [await catch("fail", {"n": n}) for _ in range(5)]


async def twice(op: str, args: dict[str, Any]) -> list[str]:
    return [await catch(op, args), await catch(op, args)]


CALLERS: dict[str, Any] = {"catch": catch, "fails": fails, "twice": twice}


def with_odd(driver: Odd, screen: Screen, store: MemoryStore | None = None) -> Any:
    return boot(store=store or MemoryStore(), drivers={"odd": driver}, programs=CALLERS, terminal=screen)


def test_a_driver_that_fails_at_the_nth_call_fails_that_call_alone(screen: Screen) -> None:
    async def main() -> None:
        for n in range(1, 6):
            async with with_odd(Odd(), screen) as system:
                outcomes = (await launch(system, "fails", n)).value
                expected = [f"gives {i}" for i in range(1, 6)]
                expected[n - 1] = "EIO: odd.fail failed: RuntimeError: no such luck"
                assert outcomes == expected

    play(main)
    assert screen.told.count("tokix: odd.fail failed: RuntimeError: no such luck\n") == 5


@pytest.mark.parametrize(
    ("op", "outcome"),
    [
        ("refuse", "ENOENT: nothing here"),
        ("leave", "EIO: odd.leave failed: SystemExit: 1"),
        ("cancel", "EIO: odd.cancel was cancelled"),
    ],
)
def test_whatever_a_driver_does_its_caller_gets_an_answer(op: str, outcome: str, screen: Screen) -> None:
    async def main() -> str:
        async with with_odd(Odd(), screen) as system:
            return str((await launch(system, "catch", op, {})).value)

    assert play(main) == outcome


def test_an_op_that_nobody_waits_for_is_cancelled(screen: Screen) -> None:
    async def main() -> None:
        driver = Odd()
        async with with_odd(driver, screen) as system, system.attach("test") as client:
            pid = await client.call(Spawn(program="catch", args=["hang", {}]))
            await driver.started.wait()
            await client.call(Kill(pid=pid, signal=Signal.KILL))
            assert (await client.call(Wait(pid=pid))).reason == "killed"
            await until(lambda: driver.revoked)

    play(main)


def begin(
    op: str,
    driver: Odd,
    screen: Screen,
    store: MemoryStore,
    before_the_end: Callable[[], None] = lambda: None,
    program: str = "catch",
) -> None:
    """Stop a kernel while an op is in flight."""

    async def main() -> None:
        async with with_odd(driver, screen, store) as system, system.attach("test") as client:
            await client.call(Spawn(program=program, args=[op, {}], fds=TTY))
            await until(lambda: driver.calls)
            before_the_end()

    play(main)


def status_after_another_boot(driver: Odd, screen: Screen, store: MemoryStore) -> Any:
    async def main() -> Any:
        async with with_odd(driver, screen, store) as system:
            await resume(system)

    play(main)
    [row] = [row for row in store.dead() if row[3] in CALLERS]
    return ExitStatus.model_validate_json(row[15]).value


def test_a_pure_op_in_flight_is_begun_again_by_the_next_kernel(screen: Screen) -> None:
    store, driver = MemoryStore(), Odd()
    begin("again", driver, screen, store)
    assert status_after_another_boot(driver, screen, store) == "gives done"
    assert driver.calls == ["again", "again"]


def test_an_unsafe_op_in_flight_is_not(screen: Screen) -> None:
    store, driver = MemoryStore(), Odd()
    begin("hang", driver, screen, store)
    assert "EUNKNOWN: odd.hang" in status_after_another_boot(driver, screen, store)
    assert driver.calls == ["hang"]


def test_an_unsafe_op_that_ends_while_the_kernel_stops_is_accounted_for(screen: Screen) -> None:
    store, driver = MemoryStore(), Odd()
    begin("block", driver, screen, store, driver.go.set, program="twice")
    assert driver.calls == ["block"], "the program does not go on in a kernel that stops"
    assert status_after_another_boot(driver, screen, store) == ["gives done"] * 2
    assert driver.calls == ["block", "block"]
