"""Call: what a driver answers, and what a program gets of it, whatever happens in between."""

import math

import pytest

from harness import Slow, always, errno, lives, nest, run, told
from tokix.syscalls import EINVAL, EIO, ENOENT, EUNKNOWN, Call, Devices, Now, SyscallError


class Tools(Slow):
    """Whatever the arguments say is raised or given."""

    def __init__(self, outcome=None):
        super().__init__()
        self.outcome = outcome

    def invoke(self, effect):
        if isinstance(self.outcome, BaseException):
            raise self.outcome
        return self.outcome


class ERATE(SyscallError):
    errno = "ERATE"


@pytest.mark.parametrize(
    ("outcome", "seen"),
    [
        ({"a": [1, None, 2.5]}, {"a": [1, None, 2.5]}),
        (math.inf, math.inf),
        (ENOENT("no page"), "ENOENT: no page"),
        (EIO(), "EIO"),
        (SyscallError("bare"), "EIO: bare"),
        (ERATE("slow down"), "EIO: slow down"),
        (EINVAL(ValueError("an object")), "EINVAL: an object"),  # type: ignore[arg-type]
        (EINVAL("\udcff"), "EINVAL: ?"),
        (object(), "EIO: the answer of call"),
        (b"\xff", "EIO: the answer of call"),
        ("\ud800", "EIO: the answer of call"),
        (nest(230), "EIO: the answer of call"),
        (10**5000, "EIO: the answer of call"),
    ],
    ids=range(13),
)
def test_whatever_a_driver_answers_the_program_gets_something(outcome, seen):
    async def main():
        got = await told(Call(device="slow", op="look", args={"takes": 1}))
        return got.partition("{")[0] if isinstance(got, str) else got

    assert always(main, world=lambda: Tools(outcome)) == seen


def test_a_call_that_nobody_can_answer():
    async def main():
        return [
            await told(Call(device="web", op="get")),
            await errno(Call(device="slow", op="get")),
            await errno(Call(device="slow", op="pay", args={"x": object()})),
            [d.name for d in await Devices()],
        ]

    missing, op, args, names = run(main, world=Slow)
    assert missing == "ENOENT: no op web.get; there are: slow.wait, slow.pay, slow.look, slow.brief"
    assert (op, args, names) == ("ENOENT", "EINVAL", ["slow"])


def test_a_call_has_the_shorter_of_two_timeouts_and_says_its_key():
    async def main():
        found = []
        for op, timeout in (("pay", 3), ("brief", 9), ("brief", 1), ("brief", None)):
            begin = await Now()
            try:
                await Call(device="slow", op=op, timeout=timeout)
            except SyscallError as error:
                found.append([error.errno, error.key, await Now() - begin])
        return found

    assert run(main, world=Slow) == [
        ["ETIMEDOUT", f"1/1:0:{path}", seconds] for path, seconds in ((2, 3.0), (5, 2.0), (8, 1.0), (11, 2.0))
    ]


def test_an_unsafe_call_is_never_run_again_and_says_so():
    async def main():
        try:
            return await Call(device="slow", op="pay", args={"takes": 10})
        except EUNKNOWN as error:
            return [error.detail, error.key]

    assert run(main, world=Slow) == {"takes": 10}
    ended = lives([(1, "after")], main, world=Slow)
    assert ended.value == ["slow.pay was begun before a crash and may have happened", "1/1:0:1"]
    early = lives([(1, "before")], main, world=Slow)
    assert early.value == {"takes": 10}
    for op in ("wait", "look"):

        async def again_and_again(op=op):
            return await Call(device="slow", op=op, args={"takes": 10})

        again = lives([(1, "after")], again_and_again, world=Slow)
        assert again.value == {"takes": 10}
        assert again.world.begun == ["1/1:0:1"]
