"""Many of them: ten thousand processes, a thousand sleepers, and nobody pays for all others."""

from harness import Ended, boot, clean, errno
from tokix.kernel.arch.toy import ToyMachine
from tokix.storage import MemoryStore
from tokix.syscalls import Read, Recv, Send, Sleep, Spawn, Stat, Think, Wait, Write, gather


def test_ten_thousand_processes_leave_nothing():
    async def main():
        for _ in range(10):
            pids = [await Spawn(program="child", args=[n]) for n in range(1000)]
            await Send(to=pids[500], body="hi")
            for pid in pids:
                await Wait(pid=pid)
        return len(await Stat())

    async def child(n):
        if n % 100 == 0:
            await Recv(timeout=1)

    store = MemoryStore()
    sim = boot(main, child, store=store).run()
    clean(sim)
    assert Ended(sim).value == 2
    assert len(store.dead()) == 10_002
    kernel = sim.kernel
    assert not kernel.rows["process"]
    assert not kernel.inserted
    assert len(kernel.timers) < 500


def test_nobody_looks_at_the_pipes_of_all_others():
    """The end of a process, a timeout and a signal take the time of its own pipes."""

    class Streams(dict):
        looks = 0

        def look(self, found):
            for item in found:
                Streams.looks += 1
                yield item

        def __iter__(self):
            return self.look(dict.__iter__(self))

        def values(self):
            return self.look(dict.values(self))

    async def main():
        for n in range(100):
            await Spawn(program="reader", fds={0: f"pipe:{n}"})
        for _ in range(100):
            await Wait()

    async def reader():
        await errno(Read(timeout=1))

    sim = boot(main, reader)
    sim.kernel.streams = Streams()
    sim.run()
    clean(sim)
    assert Streams.looks < 1000


def test_pipes_that_are_gone_are_forgotten():
    """A shell makes pipes for weeks; each goes away with the processes at its ends."""

    async def main():
        for n in range(50):
            pids = [
                await Spawn(program="writer", fds={1: f"pipe:{n}"}),
                await Spawn(program="reader", fds={0: f"pipe:{n}"}),
            ]
            for pid in pids:
                await Wait(pid=pid)

    async def writer():
        await Write(text="x", close=True)

    async def reader():
        while await Read():
            pass

    sim = boot(main, writer, reader, budget=2)
    most = 0
    for _ in range(2000):
        sim.step()
        if process := sim.kernel.procs.get(2):
            most = max(most, len(process.made or ()), len(process.pipes or ()), len(sim.kernel.streams))
        if not sim.wait():
            break
    clean(sim)
    assert most < 5


def test_a_thousand_sleepers_wake_in_order():
    async def main():
        async def one(n):
            await Sleep(seconds=n * 7 % 1000)
            order.append(n * 7 % 1000)

        order = []
        await gather(*(one(n) for n in range(1000)))
        return order == sorted(order)

    sim = boot(main).run()
    clean(sim)
    assert Ended(sim).value is True


def test_a_thousand_bursts_wait_and_all_are_served():
    async def main():
        pids = [await Spawn(program="thinker", args=[n]) for n in range(300)]
        return len({(await Wait(pid=pid)).value for pid in pids})

    async def thinker(n):
        return (await Think(prompt=f"number {n}", max_tokens=3)).text

    sim = boot(main, thinker, lanes=16, prefill=256, machine=ToyMachine(frames=512, ends=False)).run()
    clean(sim)
    assert Ended(sim).value > 250
