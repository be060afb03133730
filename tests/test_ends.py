"""Ends that are no use to the kernel: whatever a program returns, raises or awaits, it harms only itself."""

import gc
import warnings

import pytest

from harness import always, finish, nest, run, told
from tokix.syscalls import (
    EINVAL,
    Count,
    Exit,
    GetPid,
    Kill,
    Recv,
    Send,
    Signal,
    Sleep,
    Spawn,
    Syscall,
    Wait,
    Write,
    gather,
    select,
)


class Unprintable(Exception):
    def __str__(self):
        raise RuntimeError("not even this")


@pytest.mark.parametrize(
    ("value", "detail"),
    [
        (object(), "its exit value is not JSON"),
        (nest(230), "its exit value is not JSON"),
        (10**5000, "its exit value is not JSON"),
    ],
    ids=["object", "deep", "big"],
)
@pytest.mark.parametrize("returns", [True, False])
def test_an_exit_value_that_is_not_json_is_a_crash(value, detail, returns):
    async def child():
        if returns:
            return value
        return await Exit(value=value)

    async def main():
        return [*(await Wait(pid=await Spawn(program="child"))).model_dump(include={"reason", "detail"}).values()]

    reason, found = always(main, child)
    assert reason == "crashed"
    assert detail in found or found.startswith("EINVAL: the arguments of exit have to be JSON")


@pytest.mark.parametrize(
    ("error", "detail"),
    [
        (ValueError("file \udcff"), "ValueError: file ?"),
        (Unprintable(), "Unprintable"),
        (EINVAL("\udcff"), "EINVAL: ?"),
        (FileNotFoundError(2, "No such file"), "FileNotFoundError: [Errno 2] No such file"),
        (GeneratorExit(), "GeneratorExit"),
        (RecursionError("x"), "RecursionError: x"),
        (BaseException("base"), "BaseException: base"),
        (ValueError("x" * 100_000), "ValueError: xxx"),
    ],
    ids=lambda x: type(x).__name__ if isinstance(x, BaseException) else "",
)
def test_whatever_a_program_raises_is_its_own_end(error, detail):
    async def child():
        await Sleep(seconds=0)
        raise error

    async def main():
        end = await Wait(pid=await Spawn(program="child"))
        return [end.reason, end.detail]

    reason, found = run(main, child)
    assert reason == "crashed"
    assert found.startswith(detail)
    assert len(found) < 10_000


@pytest.mark.parametrize("error", [SystemExit, GeneratorExit, BaseException, ValueError, RuntimeError])
def test_a_program_may_raise_what_it_likes_while_it_is_thrown_away(error):
    async def child(parent):
        async def branch():
            try:
                await Recv()
            finally:
                raise error("nobody sees it")

        await select(branch(), Sleep(seconds=1))
        await Send(to=parent)
        await branch()

    async def main():
        pid = await Spawn(program="child", args=[await GetPid()])
        await Recv()
        await Kill(pid=pid, signal=Signal.KILL)
        return (await Wait(pid=pid)).detail

    assert run(main, child) == "KILL"


def test_who_is_thrown_away_cannot_call_any_more():
    async def child():
        async def branch():
            try:
                await Recv()
            finally:
                await Write(text="too late")

        await select(branch(), Sleep(seconds=1))
        await branch()

    async def main():
        pid = await Spawn(program="child")
        await Sleep(seconds=2)
        await Kill(pid=pid, signal=Signal.KILL)
        return (await Wait(pid=pid)).detail

    ended = finish(main, child)
    assert (ended.value, ended.world.screen) == ("KILL", {})


class MySend(Send):
    """A call that the kernel does not know."""


@pytest.mark.parametrize("call", [MySend(to=1), Syscall(), 3, None, "x"], ids=lambda c: type(c).__name__)
def test_what_is_no_call_is_einval(call):
    class Stray:
        def __await__(self):
            return (yield call)

    async def main():
        return [await told(Stray()), await Count(text="abc")]

    text, three = always(main)
    assert text.startswith("EINVAL: ")
    assert type(call).__name__ in text or "call" in text
    assert three == 3


def test_deep_recursion_of_branches_ends_the_program_and_not_the_kernel():
    async def child():
        await gather(child())

    async def main():
        return (await Wait(pid=await Spawn(program="child"))).reason

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # Python's, of the coroutine at the bottom, which nobody awaits
        assert run(main, child) == "crashed"
        gc.collect()
