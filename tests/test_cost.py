"""What calls of devices cost: paid once, when they begin, through every kill; refused when the limit is used up."""

from __future__ import annotations

from typing import Any

import pytest

from harness import always, clean, finish, run, told
from tokix.kernel.events import Invoke
from tokix.sim import Person, Simulation, World
from tokix.syscalls import (
    EIO,
    Call,
    DeviceInfo,
    Exec,
    Fork,
    GetPid,
    Kill,
    Limits,
    OpInfo,
    SetLimit,
    Signal,
    Sleep,
    Spawn,
    Stat,
    Syscall,
    Wait,
    gather,
    select,
)
from torture import Mortal


def op(name: str, cost: int, **more: Any) -> OpInfo:
    return OpInfo.model_validate({"name": name, "doc": "", "effect": "pure", "parameters": {}, "cost": cost} | more)


def device(**prices: int) -> DeviceInfo:
    ops = [op(name, cost, effect="idempotent" if name == "send" else "pure") for name, cost in prices.items()]
    return DeviceInfo(name="market", ops=[*ops, op("slow", 3, timeout=20)])


class Market(World):
    """Ops with prices."""

    devices = (device(free=0, cheap=1, dear=5, send=2, broken=4),)

    def latency(self, effect: Invoke) -> float:
        return 50 if effect.op == "slow" else 1

    def invoke(self, effect: Invoke) -> Any:
        if effect.op == "broken":
            raise EIO("no luck")
        return effect.op


def buy(name: str) -> Call:
    return Call(device="market", op=name)


async def spent(pid: int | None = None) -> int | None:
    [process] = await Stat(pid=pid or await GetPid())
    return process.cost


def test_a_call_is_paid_once_whatever_comes_of_it_and_whenever_the_kernel_dies() -> None:
    async def main() -> list[Any]:
        seen: list[Any] = [await spent()]
        for name in ("free", "cheap", "dear", "send", "broken", "slow", "none"):
            seen += [await told(buy(name)), await spent()]
        return seen

    value = always(main, world=Market)
    assert value[:-2] == [
        *(0, "free", 0, "cheap", 1, "dear", 6, "send", 8),
        *("EIO: no luck", 12, "ETIMEDOUT: market.slow took too long", 15),
    ]
    assert value[-2].startswith("ENOENT")
    assert value[-1] == 15
    assert "cost" not in str(finish(main, world=Market).sim.store.load()["kernel"])


def test_a_call_that_costs_more_than_is_left_is_refused_and_costs_nothing() -> None:
    async def child() -> list[Any]:
        return [await told(buy(name)) for name in ("dear", "free", "dear", "cheap", "send", "cheap", "free")]

    async def main() -> Any:
        return (await Wait(pid=await Spawn(program="child", limits=Limits(cost=7)))).value

    assert always(main, child, world=Market) == [
        *("dear", "free"),
        "EDQUOT: market.dear costs 5, and 2 is left of the limit of 7 for this process",
        *("cheap",),
        "EDQUOT: market.send costs 2, and 1 is left of the limit of 7 for this process",
        *("cheap", "free"),
    ]


def test_calls_at_the_same_time_cannot_spend_the_same_units() -> None:
    async def child() -> list[Any]:
        return await gather(*(told(buy("send")) for _ in range(4)))

    async def main() -> Any:
        return (await Wait(pid=await Spawn(program="child", limits=Limits(cost=5)))).value

    left = "EDQUOT: market.send costs 2, and 1 is left of the limit of 5 for this process"
    assert always(main, child, world=Market) == ["send", "send", left, left]


def test_children_inherit_the_limit_and_count_for_themselves() -> None:
    async def buyer() -> list[Any]:
        return [await told(buy("dear")), await told(buy("dear")), await spent()]

    async def parent() -> list[Any]:
        mine = await buyer()
        return [mine, (await Wait(pid=await Spawn(program="buyer"))).value]

    async def main() -> Any:
        return (await Wait(pid=await Spawn(program="parent", limits=Limits(cost=6)))).value

    refused = "EDQUOT: market.dear costs 5, and 1 is left of the limit of 6 for this process"
    assert always(main, buyer, parent, world=Market) == [["dear", refused, 5]] * 2


def test_a_fork_counts_for_itself_and_an_exec_goes_on_counting() -> None:
    async def second() -> Any:
        return [await spent(), await told(buy("cheap")), await spent()]

    async def first() -> Any:
        await buy("dear")
        if await Fork():
            await Wait()
            await Exec(program="second")
        return await Exec(program="second")

    async def main() -> Any:
        me = await Spawn(program="first")
        return (await Wait(pid=me)).value

    assert always(main, first, second, world=Market) == [5, "cheap", 6]


def test_a_forked_child_has_paid_nothing() -> None:
    async def main() -> Any:
        await buy("dear")
        if child := await Fork():
            return [await spent(), (await Wait(pid=child)).value]
        return [await spent(), await told(buy("cheap")), await spent()]

    assert always(main, world=Market) == [5, [0, "cheap", 1]]


def test_a_limit_is_raised_with_the_capability_only_and_lowered_by_anybody() -> None:
    async def poor() -> list[Any]:
        return [
            await told(SetLimit(limit="cost", value=3)),
            await told(SetLimit(limit="cost", value=4)),
            await told(SetLimit(limit="cost", value=None)),
            await told(Spawn(program="poor", limits=Limits(cost=4))),
            await told(buy("dear")),
        ]

    async def main() -> Any:
        pid = await Spawn(program="poor", caps=["call:*", "spawn:*"], limits=Limits(cost=10))
        return (await Wait(pid=pid)).value

    lower, *refused, dear = always(main, poor, world=Market)
    assert lower is None
    assert all(text.startswith("EPERM") and "limit" in text for text in refused)
    assert dear == "EDQUOT: market.dear costs 5, and 3 is left of the limit of 3 for this process"


def test_a_limit_below_what_is_spent_leaves_nothing() -> None:
    async def main() -> Any:
        await buy("dear")
        await SetLimit(limit="cost", value=2)
        return [await told(buy("cheap")), await told(buy("free"))]

    assert run(main, world=Market) == [
        "EDQUOT: market.cheap costs 1, and 0 is left of the limit of 2 for this process",
        "free",
    ]


def test_a_call_that_nobody_waits_for_any_more_was_paid() -> None:
    async def main() -> Any:
        await select(buy("slow"), Sleep(seconds=1))
        return await spent()

    assert always(main, world=Market) == 3


def test_the_dead_show_their_cost_until_they_are_waited_for() -> None:
    async def child() -> None:
        await buy("dear")

    async def main() -> Any:
        pid = await Spawn(program="child")
        await Sleep(seconds=20)
        [zombie] = await Stat(pid=pid)
        await Wait(pid=pid)
        [reaped] = await Stat(pid=pid, dead=True)
        return [zombie.state, zombie.cost, reaped.cost]

    assert always(main, child, world=Market) == ["ZOMBIE", 5, None]


def test_what_was_paid_stays_so_when_the_next_kernel_has_other_prices() -> None:
    async def main() -> Any:
        await buy("dear")
        await buy("cheap")
        await Sleep(seconds=100)
        return [await spent(), await told(buy("cheap")), await spent()]

    store, market = Mortal(), Market()
    first = Simulation({"init": main}, store, market)
    while first.world.now < 50:
        first.step()
        first.wait()
    market.devices = (device(cheap=7, dear=100),)
    second = Simulation({"init": main}, store, market).run(20_000)
    clean(second)
    assert '"value":[6,"cheap",13]' in str(second.store.dead())


def test_a_foreign_process_pays_too_and_leaves_nothing_behind() -> None:
    calls: list[Syscall[Any]] = [SetLimit(limit="cost", value=6), buy("dear"), buy("dear"), Stat(pid=2)]

    async def init() -> None:
        await Sleep(seconds=1000)

    sim = Simulation({"init": init}, Mortal(), Market(person=(person := Person(calls)))).run(20_000)
    _, value, refused, [info] = person.outcomes
    assert (value, refused.errno, info.cost) == ("dear", "EDQUOT", 5)
    assert not [row for row in sim.store.load()["kernel"] if row[0].startswith("cost:")]


@pytest.mark.parametrize("signal", [Signal.KILL, Signal.TERM])
def test_a_process_that_is_killed_in_a_paid_call_leaves_nothing(signal: Signal) -> None:
    async def child() -> None:
        await buy("slow")

    async def main() -> Any:
        pid = await Spawn(program="child")
        await Sleep(seconds=1)
        await Kill(pid=pid, signal=signal)
        return (await Wait(pid=pid)).reason

    assert always(main, child, world=Market) == "killed"
