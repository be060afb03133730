"""Spawn: what a child is given, what it inherits, and what it may not have."""

from harness import always, errno, run, sleeper, told
from tokix.syscalls import Append, Fork, GetPid, Limits, Read, SetLimit, Sleep, Spawn, Stat, Think, Wait, Write


def test_spawn_refuses_what_makes_no_sense():
    async def main():
        return [
            await errno(Spawn(program="nobody")),
            await errno(Spawn(program="sleeper", fds={1: "file:x"})),
            await errno(Spawn(program="sleeper", fds={1: "pipe:"})),
            await errno(Spawn(program="sleeper", args=[object()])),
            len(await Stat()),
        ]

    assert run(main, sleeper) == ["ENOENT", "EINVAL", "EINVAL", "EINVAL", 2]


def test_wrong_arguments_crash_the_child_and_say_why():
    async def main():
        ends = [await Wait(pid=await Spawn(program="sleeper", args=args)) for args in ([1, 2, 3], ["soon"])]
        return [(end.reason, end.detail) for end in ends]

    many, wrong = run(main, sleeper)
    assert many[0] == wrong[0] == "crashed"
    assert many[1].startswith("TypeError: sleeper() takes from 0 to 1 positional arguments but 3 were given")
    assert wrong[1].startswith("ValidationError: 1 validation error for Sleep")


def test_a_program_that_is_no_coroutine_function_crashes():
    def plain():
        return 3

    async def main():
        return (await Wait(pid=await Spawn(program="plain"))).detail

    assert run(main, plain).startswith("TypeError: program plain is not an async function")


def test_a_child_gets_no_more_than_its_parent_has():
    async def child(more=()):
        asked = {
            "caps": Spawn(program="sleeper", caps=["call:web.get", "think"]),
            "all": Spawn(program="sleeper", caps=["*"]),
            "nice": Spawn(program="sleeper", nice=4),
            "limit": Spawn(program="sleeper", limits=Limits(tokens=101, children=3, messages=9)),
            "none": Spawn(program="sleeper", limits=Limits(children=3, messages=9)),
            "program": Spawn(program="child"),
        }
        refused = {name: await told(call) for name, call in asked.items()}
        await Wait(
            pid=await Spawn(
                program="sleeper",
                args=[1],
                nice=6,
                caps=["call:web.get"],
                limits=Limits(tokens=100, children=3, messages=10),
            )
        )
        return refused

    async def main():
        pid = await Spawn(
            program="child",
            nice=5,
            caps=["spawn:sleeper", "call:web.*"],
            limits=Limits(tokens=100, children=3, messages=10),
        )
        return (await Wait(pid=pid)).value

    refused = run(main, child, sleeper)
    wanted = {"caps": "think", "all": "*", "nice": "nice", "limit": "limit", "none": "limit", "program": "spawn:child"}
    assert set(refused) == set(wanted)
    for name, cap in wanted.items():
        assert refused[name] == f"EPERM: child (pid 3) has no capability {cap!r}", name


def test_limits_nice_caps_and_streams_are_inherited():
    async def child():
        await Write(text="from the child")
        [me] = await Stat(pid=await GetPid())
        return [
            me.nice,
            await errno(Think(prompt="x")),
            await errno(Append(text="12345678")),
            await errno(Append(text="x" * 99)),
        ]

    async def parent():
        return (await Wait(pid=await Spawn(program="child"))).value

    async def main():
        pid = await Spawn(program="parent", nice=7, caps=["spawn:*"], limits=Limits(tokens=20), fds={1: "pipe:out"})
        text = await Read(fd="pipe:out")
        return [text, (await Wait(pid=pid)).value]

    assert always(main, child, parent) == ["from the child", [7, "EPERM", 0, "EDQUOT"]]


def test_the_limit_of_children_counts_zombies_until_they_are_waited_for():
    async def main():
        await SetLimit(limit="children", value=2)
        one = await Spawn(program="sleeper", args=[0])
        await Spawn(program="sleeper", args=[0])
        full = await told(Spawn(program="sleeper"))
        await Sleep(seconds=1)
        still = [await errno(Spawn(program="sleeper")), await errno(Fork())]
        await Wait(pid=one)
        return [full, *still, await Spawn(program="sleeper", args=[0]) > 0]

    full = "EAGAIN: process 2 has its limit of 2 children; wait for one"
    assert always(main, sleeper) == [full, "EAGAIN", "EAGAIN", True]


def test_arguments_are_the_childs_own():
    async def child(items):
        items.append("mine")
        return items

    async def main():
        items = [1]
        pid = await Spawn(program="child", args=[items])
        items.append("late")
        return [(await Wait(pid=pid)).value, items]

    assert always(main, child) == [[1, "mine"], [1, "late"]]
