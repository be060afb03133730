"""Sleeping by ticks: the time of the machine, which passes at once where it is idle."""

from __future__ import annotations

from typing import Any

from harness import always, finish, told
from tokix.sim import World
from tokix.syscalls import Call, DeviceInfo, Now, OpInfo, Sleep, Think, select


def test_ticks_of_a_busy_machine_are_waited_for() -> None:
    async def main() -> list[float]:
        async def clock() -> float:
            await Sleep(ticks=5)
            return await Now()

        index, then = await select(clock(), Think(prompt="x", max_tokens=50))
        return [index, then]

    assert finish(main).value == [0, 5.0]


def test_ticks_of_an_idle_machine_pass_at_once() -> None:
    async def main() -> Any:
        await Sleep(ticks=1000)
        return await Now()

    assert finish(main).value == 0.0


def test_ticks_do_not_pass_while_somebody_waits_for_a_device() -> None:
    """A machine that has nothing to do for a moment, because files are read, is not idle."""

    class Desk(World):
        devices = (DeviceInfo(name="desk", ops=[OpInfo(name="read", doc="", effect="pure", parameters={})]),)

        def invoke(self, effect: Any) -> str:
            return "text"

    async def main() -> Any:
        async def reader() -> str:
            await Call(device="desk", op="read")
            await Think(prompt="x", max_tokens=20)
            return "reader"

        async def late() -> str:
            await Sleep(ticks=25)
            return "late"

        return (await select(late(), reader()))[1]

    assert finish(main, world=Desk).value == "reader"


def test_a_sleep_of_ticks_survives_a_kill() -> None:
    async def main() -> Any:
        index, _ = await select(Sleep(ticks=3), Think(prompt="x", max_tokens=60))
        await Sleep(ticks=3)
        return index

    assert always(main) == 0


def test_one_sleeps_for_seconds_or_for_ticks() -> None:
    async def main() -> Any:
        return await told(Sleep(seconds=1, ticks=1))

    assert finish(main).value == "EINVAL: sleep takes seconds or ticks, not both"


def test_who_was_killed_asleep_is_not_woken() -> None:
    async def main() -> Any:
        index, _ = await select(Sleep(ticks=30), Sleep(seconds=2), Think(prompt="x", max_tokens=20))
        await Sleep(ticks=40)
        return index

    assert finish(main).value == 1
