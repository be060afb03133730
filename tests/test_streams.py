"""Read and Write: pipes, their ends, and the terminal."""

from harness import Ended, always, boot, clean, errno, finish, run
from tokix.kernel.events import Input
from tokix.kernel.streams import CAPACITY
from tokix.sim import World
from tokix.syscalls import Kill, Now, Read, Signal, Sleep, Spawn, Wait, Write


def test_a_pipe_ends_when_its_last_writer_has_ended():
    async def producer(n):
        await Write(text=f"{n}\n")
        await Sleep(seconds=n)

    async def main():
        for n in (1, 2):
            await Spawn(program="producer", args=[n], fds={1: "pipe:p"})
        got = ""
        while text := await Read(fd="pipe:p"):
            got += text
        return [sorted(got.split()), await Read(fd="pipe:p"), await Now()]

    assert run(main, producer) == [["1", "2"], "", 2.0]
    assert always(main, producer, away=0)[:2] == [["1", "2"], ""]


def test_a_writer_can_close_before_it_ends():
    async def producer():
        await Write(text="a")
        await Write(text="b", close=True)
        return [await errno(Write(text="c")), await Sleep(seconds=5)]

    async def main():
        pid = await Spawn(program="producer", fds={1: "pipe:p"})
        got = [await Read(fd="pipe:p", limit=1), await Read(fd="pipe:p"), await Read(fd="pipe:p")]
        return [got, (await Wait(pid=pid)).value]

    assert always(main, producer) == [["a", "b", ""], ["EBADF", None]]


def test_the_last_word_is_the_last():
    async def reader():
        got = []
        for _ in range(3):
            got.append(await errno(Read(timeout=2)))
            await Sleep(seconds=1)
        return got

    async def main():
        pid = await Spawn(program="reader", fds={0: "pipe:p"})
        await Write(fd="pipe:p", text="last", close=True)
        await Sleep(seconds=1)
        again = await errno(Write(fd="pipe:p", text="more"))
        return [again, (await Wait(pid=pid)).value]

    assert always(main, reader) == ["EBADF", ["last", "", ""]]


def test_what_was_closed_is_not_passed_on():
    async def producer():
        await Write(text="a", close=True)
        await Sleep(seconds=1)
        return (await Wait(pid=await Spawn(program="helper"))).value

    async def helper():
        return await errno(Write(text="b"))

    async def main():
        pid = await Spawn(program="producer", fds={1: "pipe:p"})
        got = [await Read(fd="pipe:p"), await Read(fd="pipe:p")]
        return [got, (await Wait(pid=pid)).value, await Read(fd="pipe:p")]

    assert always(main, producer, helper) == [["a", ""], "EBADF", ""]


def test_a_reader_that_ends_after_the_writer_has_closed():
    async def producer():
        await Write(text="x", close=True)
        await Sleep(seconds=5)

    async def consumer():
        return await Read()

    async def main():
        await Spawn(program="producer", fds={1: "pipe:p"})
        await Spawn(program="consumer", fds={0: "pipe:p"})
        return [(await Wait()).value for _ in range(2)]

    assert always(main, producer, consumer) == ["x", None]


def test_a_pipe_breaks_when_its_last_reader_has_ended():
    async def reader():
        return await Read()

    async def main():
        pid = await Spawn(program="reader", fds={0: "pipe:p"})
        await Write(fd="pipe:p", text="x")
        await Wait(pid=pid)
        return [await errno(Write(fd="pipe:p", text="y")), await errno(Write(fd="pipe:p", text="", close=True))]

    assert always(main, reader)[0] == "EPIPE"


def test_a_writer_that_waits_learns_that_the_reader_is_gone():
    async def reader():
        await Sleep(seconds=3)

    async def main():
        await Spawn(program="reader", fds={0: "pipe:p"})
        await Write(fd="pipe:p", text="x" * CAPACITY)
        return [
            await errno(Write(fd="pipe:p", text="y")),
            await errno(Write(fd="pipe:p", text="z")),
            (await Wait()).reason,
        ]

    assert always(main, reader) == ["EPIPE", "EPIPE", "exit"]


def test_a_pipe_whose_maker_has_ended_ends_too():
    async def maker(fds):
        await Spawn(program="end", args=[int(next(iter(fds)))], fds={int(fd): name for fd, name in fds.items()})

    async def end(fd):
        if not fd:
            return await errno(Read(timeout=50))
        return [await errno(Write(text="x" * CAPACITY)) for _ in range(3)]

    async def main():
        for fd in (0, 1):
            await Wait(pid=await Spawn(program="maker", args=[{fd: "pipe:p"}]))
        await Sleep(seconds=60)

    found = [finish(main, maker, end).statuses[n].value for n in (3, 5)]
    assert found[0] == ""
    assert found[1][1:] == ["EPIPE", "EPIPE"]


def test_a_full_pipe_holds_its_writer_and_passes_everything_in_order():
    async def producer():
        for n in range(30):
            await Write(text=f"{n:02}" * (CAPACITY // 8))
        return await Now()

    async def main():
        pid = await Spawn(program="producer", fds={1: "pipe:p"})
        await Sleep(seconds=4)
        got = ""
        while text := await Read(fd="pipe:p", limit=10_000):
            got += text
        return [(await Wait(pid=pid)).value, got == "".join(f"{n:02}" * (CAPACITY // 8) for n in range(30))]

    assert run(main, producer) == [4.0, True]
    assert always(main, producer, away=0)[1] is True


def test_read_splits_at_the_limit_and_keeps_unicode_whole():
    async def producer():
        for text in ("añ", "ñ€𝄞", "\x00\r\n", "z"):
            await Write(text=text)

    async def main():
        await Spawn(program="producer", fds={1: "pipe:p"})
        await Sleep(seconds=1)
        got = []
        while text := await Read(fd="pipe:p", limit=2):
            got.append(text)
        return got

    assert always(main, producer) == ["añ", "ñ€", "𝄞\x00", "\r\n", "z"]


def test_writing_nothing_wakes_nobody():
    async def main():
        pid = await Spawn(program="reader", fds={0: "pipe:p"})
        for text in ("", "", "x"):
            await Write(fd="pipe:p", text=text)
            await Sleep(seconds=1)
        return (await Wait(pid=pid)).value

    async def reader():
        return [await Read(), await Now()]

    assert run(main, reader) == ["x", 2.0]


def test_descriptors_are_ends_and_streams_have_no_other_names():
    async def child():
        return [
            await errno(call)
            for call in (
                Read(fd=1, timeout=1),
                Write(fd=0, text="x"),
                Read(fd=7),
                Write(fd=7, text="x"),
                Write(fd="pipe:in", text="x"),
                Read(fd="pipe:in"),
                Write(fd="tty", text="x"),
                Write(fd="null", text="x"),
                Read(fd="tty"),
                Write(fd="tty:out", text="x"),
                Write(fd="", text="x"),
            )
        ]

    async def main():
        await Write(text="the terminal is there\n")
        pid = await Spawn(program="child", fds={0: "pipe:in", 1: "pipe:out"})
        await Write(fd="pipe:in", text="hello")
        return (await Wait(pid=pid)).value

    ended = finish(main, child)
    assert ended.value == ["EBADF"] * 11
    assert ended.world.output() == "the terminal is there\n"


def test_null_takes_everything_and_gives_nothing():
    async def child():
        return [await Read(), await Write(text="x" * CAPACITY * 2), await Write(text="y", fd=2)]

    async def main():
        return (await Wait(pid=await Spawn(program="child", fds={0: "null", 1: "null", 2: "null"}))).value

    ended = finish(main, child)
    assert ended.value == ["", None, None]
    assert not ended.world.screen


def test_a_full_terminal_holds_writers_until_it_has_shown():
    async def main():
        for n in range(6):
            await Write(text=str(n) * (CAPACITY // 2))

    ended = finish(main)
    assert ended.world.now > 0
    assert ended.world.output() == "".join(str(n) * (CAPACITY // 2) for n in range(6))
    always(main)


class Typist(World):
    """Somebody types two lines and ends the input."""

    def __init__(self):
        super().__init__(lines=("one\n", "two\n"))


def test_the_terminal_gives_lines_and_then_its_end():
    async def child():
        got = []
        while text := await Read():
            got.append(text)
        return [got, await Read()]

    async def main():
        return (await Wait(pid=await Spawn(program="child", fds={0: "tty"}))).value

    assert always(main, child, world=Typist) == [["one\n", "two\n"], ""]


def test_the_end_of_input_reaches_everybody_who_reads():
    async def child():
        return await Read()

    async def main():
        pids = [await Spawn(program="child", fds={0: "tty"}) for _ in range(3)]
        return [(await Wait(pid=pid)).value for pid in pids]

    sim = boot(main, child)
    for _ in range(3):
        sim.step()
        sim.wait()
    sim.due += [Input("tty:in", "first"), Input("tty:in", None)]
    sim.run()
    clean(sim)
    assert Ended(sim).value == ["first", "", ""]


def test_a_pipe_of_the_same_name_is_a_new_pipe():
    """Nothing of the old one comes back: what was not read is gone, in the store too."""

    async def reader():
        if await Now() < 1:
            await Sleep(seconds=50)
        return await Read()

    async def writer(text):
        await Write(text=text)
        if text == "old":
            await Sleep(seconds=50)

    async def main():
        pids = [
            await Spawn(program="reader", fds={0: "pipe:p"}),
            await Spawn(program="writer", args=["old"], fds={1: "pipe:p"}),
        ]
        await Sleep(seconds=1)
        for pid in pids:
            await Kill(pid=pid, signal=Signal.KILL)
            await Wait(pid=pid)
        reads = await Spawn(program="reader", fds={0: "pipe:p"})
        await Spawn(program="writer", args=["new"], fds={1: "pipe:p"})
        return (await Wait(pid=reads)).value

    assert always(main, reader, writer, away=0.0) == "new"
