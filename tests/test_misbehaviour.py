"""Programs that misbehave: whom they harm, and what is said of it."""

import pytest

from bench import Bench, Devices
from harness import Ended, boot, clean, told
from tokix.syscalls import Append, Call, Gather, GetPid, Kill, Read, Recv, Send, Sleep, Spawn, Stat, Wait, Write, gather
from torture import Killed, Mortal


def test_a_program_that_is_interrupted_by_the_operator_stops_the_kernel():
    async def init():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Bench(init)


def test_a_program_that_changes_what_it_was_given_changes_nobody_else():
    async def main():
        mail, device = {"a": [1]}, {"x": [1]}
        me = await GetPid()
        await Send(to=me, body=mail)
        mail["a"].append(2)
        got = (await Recv()).body
        got["a"].append(3)
        calls = await gather(told(Call(device="dev", op="pure", args=device)), change(device))
        return [mail, got, calls]

    async def change(args):
        args["x"].append(2)
        await Sleep(seconds=1)

    class Echo(Devices):
        def latency(self, effect):
            return 2

        def invoke(self, effect):
            return effect.args

    sim = boot(main, world=Echo()).run()
    clean(sim)
    assert Ended(sim).value == [{"a": [1, 2]}, {"a": [1, 3]}, [{"x": [1]}, None]]


def test_a_call_is_let_out_again_with_the_arguments_that_it_had():
    """A sibling branch changes the list after the call; the retry after a kill has to be the call of the journal."""

    async def main():
        shared = {"x": [1]}

        async def change():
            await Sleep(seconds=1)
            shared["x"].append(2)
            await Sleep(seconds=1)

        got, _ = await gather(Call(device="dev", op="idempotent", args=shared), change())
        return got

    class Echo(Devices):
        def latency(self, effect):
            return 9

        def invoke(self, effect):
            return effect.args

    store, world = Mortal(), Echo()
    store.crash = (3, "after")
    with pytest.raises(Killed):
        boot(main, store=store, world=world).run()
    sim = boot(main, store=store, world=world).run()
    clean(sim)
    assert Ended(sim).value == {"x": [1]}


def test_errors_say_who_and_what():
    """An errno without a detail helps nobody."""

    async def main():
        calls = [
            Kill(pid=99),
            Wait(pid=99),
            Spawn(program="nobody"),
            Read(fd=9),
            Write(text="x", fd="pipe:q"),
            Call(device="x", op="y"),
            Stat(pid=99),
            Send(to=99),
            Gather(branches=1),
            Recv(timeout=0),
            Append(text="x" * 9999, pinned=True),
        ]
        return [await told(call) for call in calls]

    sim = boot(main).run()
    clean(sim)
    for text in Ended(sim).value:
        errno, _, detail = text.partition(": ")
        assert errno.isupper()
        assert len(detail) > 3, text
