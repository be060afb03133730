"""Random systems, killed at random: whatever its programs do, the kernel goes on, and nothing is left."""

import itertools
import random
from contextlib import suppress

from bench import Devices
from harness import clean
from tokix.kernel.arch.toy import ToyMachine
from tokix.kernel.policy import FCFS, RR, Priority
from tokix.sim import Simulation
from tokix.syscalls import (
    EINTR,
    Append,
    Call,
    ChatMessage,
    Drop,
    Exec,
    Fork,
    Grant,
    Kill,
    Limits,
    Now,
    Pages,
    Pin,
    Random,
    Read,
    Recv,
    Renice,
    Send,
    SetLimit,
    Signal,
    Sleep,
    Spawn,
    Stat,
    SyscallError,
    Think,
    Wait,
    Write,
    gather,
    select,
)
from torture import Killed, Mortal

NAMES = ("a", "b", "c")


def random_call(r):
    """Any call, most of them with arguments that can make sense."""
    some, pid = r.choice, r.randint(1, 7)
    wait = some([None, 0, 0.5, 1, 3])
    fd = some([0, 1, 1, 2, 5, "pipe:p", "pipe:q"])
    limits = some([None, None, Limits(tokens=40), Limits(seconds=2), Limits(messages=1), Limits(children=1)])
    fds = some([{}, {}, {0: "pipe:p"}, {1: "pipe:p"}, {0: "pipe:p", 1: "pipe:q"}, {0: "tty", 1: "null"}])
    own = {"prompt": some([None, "ab", "x" * 40, "y" * 900])}
    talk = {"messages": [ChatMessage(role="user", text="m" * r.randint(1, 30))]}
    taste = {"stream": some([True, False]), "stop": some([[], [], ["e"], ["th", "a"]]), "temperature": some([0, 1.0])}
    makers = [
        lambda: Spawn(program=some([*NAMES, "nobody"]), args=[r.random()], nice=some([None, 0, 5, -3]), limits=limits),
        lambda: Spawn(program=some(NAMES), args=[r.random()], fds=fds, caps=some([None, [], ["think", "spawn:*"]])),
        lambda: Wait(pid=some([None, pid]), timeout=wait),
        lambda: Kill(pid=pid, signal=some([*Signal])),
        lambda: Kill(pid=pid, signal=some([Signal.STOP, Signal.CONT, Signal.CONT])),
        lambda: Stat(pid=some([None, pid]), dead=some([True, False])),
        lambda: Sleep(seconds=wait or 0),
        lambda: Renice(pid=pid, nice=r.randint(-5, 5)),
        lambda: SetLimit(limit=some(["tokens", "children", "messages", "seconds"]), value=some([None, 0, 1, 1.5, 50])),
        lambda: Fork(),
        lambda: Exec(program=some(NAMES), args=[r.random()], fresh=some([True, False])),
        lambda: Think(**some([own, talk]), **taste, max_tokens=some([1, 5, 30])),
        lambda: Think(**talk, max_tokens=20),
        lambda: Append(text="y" * r.randint(0, 40)),
        lambda: Pages(),
        lambda: Pin(page=r.randint(0, 3)),
        lambda: Call(
            device="dev", op=some(["pure", "idempotent", "unsafe"]), args={"n": r.randint(0, 3)}, timeout=wait
        ),
        lambda: Read(fd=fd, limit=some([1, 99_999]), timeout=wait),
        lambda: Write(text="w" * some([0, 1, 40, 70_000]), fd=fd, close=r.random() < 0.2),
        lambda: Send(to=pid, body=some([1, [1, 2]]), tag=some(["", "t"]), block=some([True, True, False])),
        lambda: Recv(tag=some([None, "t"]), sender=some([None, None, pid]), timeout=wait),
        lambda: Grant(pid=pid, caps=some([["think"], ["*"]])),
        lambda: Drop(keep=some([["*"], ["think", "spawn:*"], []])),
        lambda: Now(),
        lambda: Random(),
    ]
    return r.choice(makers)()


async def random_program(r, depth=0):
    """Make random calls, also in branches that have their own dice, for their order is not known."""
    for _ in range(r.randint(0, 9 if depth == 0 else 3)):
        try:
            if depth < 2 and r.random() < 0.2:
                branches = [random_program(random.Random(r.random()), depth + 1) for _ in range(r.randint(1, 3))]
                await r.choice([gather, select])(*branches)
            elif r.random() < 0.02:
                raise LookupError("now and then")
            elif await random_call(r) == 0:
                r = random.Random(r.random())  # a child of Fork goes its own way
        except EINTR:
            if r.random() < 0.3:
                raise
        except SyscallError:
            pass


async def reaper(seed):
    """Start three, take everybody's status, and kill who does not come to an end."""
    for n, name in enumerate(NAMES):
        await Spawn(program=name, args=[seed + n / 10])
    for patience in itertools.count():
        others = [p.pid for p in await Stat() if p.pid != 1 and not p.status]
        if not others and len(await Stat()) == 1:
            return
        for pid in others if patience > 20 else ():
            with suppress(SyscallError):
                await Kill(pid=pid, signal=Signal.KILL)
        with suppress(SyscallError):
            await Wait(timeout=3)


class Street(Devices):
    """Devices that answer, late or early."""

    def latency(self, effect):
        return (0.5, 1.0, 2.5, 30.0)[effect.args["n"]]

    def invoke(self, effect):
        return effect.args


def test_random_systems():
    """Whatever programs do, and however often the kernel dies: no bug, no divergence, and nothing is left."""
    for seed in range(250):
        r = random.Random(seed)
        programs = {name: lambda dice: random_program(random.Random(dice)) for name in NAMES}
        programs["init"] = lambda seed=seed: reaper(seed)
        shape = {"lanes": r.choice([1, 2, 5]), "prefill": r.choice([1, 8, 64]), "budget": r.choice([1, 2, 5, 1000])}
        shape["ahead"] = r.random() < 0.5
        frames, store, world = r.choice([24, 40, 200]), Mortal(), Street()
        kills = itertools.accumulate(r.randint(1, 9) for _ in range(r.randint(0, 4)))
        for store.crash in [*((n, r.choice(["before", "after"])) for n in kills), (0, "")]:
            store.reopen()
            machine, policy = ToyMachine(frames, 300, ends=False), r.choice([FCFS, RR, Priority, lambda: RR(2)])()
            try:
                sim = Simulation(programs, store, world, machine, policy, **shape)
                parked = [p.parked for p in sim.kernel.procs.values() if p.parked]
                assert not parked, f"system {seed}: {parked[0]}"
                sim.run(5000)
            except Killed:
                world.now += r.choice([0, 0, 1, 10])
        clean(sim)
