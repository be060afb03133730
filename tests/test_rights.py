"""Rights: Grant and Drop, and calls that were begun with a right that is gone."""

from harness import Slow, always, errno, lives, run
from tokix.syscalls import EUNKNOWN, Call, Drop, GetPid, Grant, Recv, Renice, Send, Spawn, Stat, Think, Wait, gather


def test_a_begun_call_is_not_refused_after_a_restart():
    """The rights that count are those when it began: after a crash, EPERM would say that nothing had happened."""

    async def child():
        async def pay():
            try:
                return await Call(device="slow", op="pay", args={"takes": 5})
            except EUNKNOWN as error:
                return ["unknown", error.key]

        async def give_up():
            await Drop()

        paid, thought, _ = await gather(pay(), Think(prompt="x", max_tokens=9), give_up())
        return [paid, len(thought.tokens)]

    async def main():
        return (await Wait(pid=await Spawn(program="child"))).value

    values = {str(lives([(n, when)], main, child, world=Slow).value) for n in (1, 2) for when in ("before", "after")}
    assert values <= {"[{'takes': 5}, 9]", "[['unknown', '1/1/1:0:1.0.1'], 9]"}


def test_grant_gives_and_drop_keeps():
    async def child():
        before = await errno(Think(prompt="a", max_tokens=2))
        await Recv()
        after = [await errno(Think(prompt="b", max_tokens=2)), await errno(Call(device="slow", op="wait"))]
        await Drop(keep=["call:slow.wait"])
        last = [
            await errno(Think(prompt="c")),
            await errno(Call(device="slow", op="pay")),
            await errno(Drop(keep=["think"])),
        ]
        return [before, after[0].reason, after[1], *last]

    async def main():
        pid = await Spawn(program="child", caps=[])
        refused = [await errno(Grant(pid=99, caps=["think"])), await errno(Grant(pid=pid, caps=[]))]
        await Grant(pid=pid, caps=["think", "call:slow.*"])
        await Send(to=pid)
        return [refused, (await Wait(pid=pid)).value]

    value = always(main, child, world=Slow)
    assert value == [["ESRCH", None], ["EPERM", "length", {}, "EPERM", "EPERM", "EPERM"]]


def test_renice_down_needs_the_capability():
    async def child():
        me = await GetPid()
        return [await errno(Renice(pid=me, nice=n)) for n in (5, 5, 6, 5)] + [(await Stat(pid=me))[0].nice]

    async def main():
        jailed = await Wait(pid=await Spawn(program="child", caps=[]))
        able = await Wait(pid=await Spawn(program="child", caps=["nice"]))
        return [
            jailed.value,
            able.value,
            await errno(Renice(pid=99, nice=0)),
            await errno(Renice(pid=jailed.pid, nice=0)),
        ]

    assert run(main, child) == [[None, None, None, "EPERM", 6], [None, None, None, None, 5], "ESRCH", "ESRCH"]
