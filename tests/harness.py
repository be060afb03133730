"""Small programs in a fresh system, judged by how they end and by what they print.

`run` gives the value with which `main` ends; `always` asserts that a kill of the kernel before or after any commit does
not change it. Both assert that nothing is left afterwards: no process, mail, frame, timer, note or row.
"""

from tokix.kernel.arch.toy import ToyMachine
from tokix.kernel.ports import ARCHIVE
from tokix.sim import Simulation, World
from tokix.syscalls import ENOENT, DeviceInfo, ExitStatus, OpInfo, Recv, Sleep, Spawn, Stat, SyscallError, Wait
from torture import Killed, Mortal

#: The pid of `main`, which init starts first; CHILD is that of the first child of main.
MAIN, CHILD = 2, 3


async def init():
    """Start `main`, and take the status of everybody until nobody is left."""
    await Spawn(program="main")
    while len(await Stat()) > 1:
        await Wait()


class Ended:
    """A system in which everything has ended."""

    def __init__(self, sim):
        self.sim, self.world, self.kernel = sim, sim.world, sim.kernel
        rows = [row[15] for row in sim.store.dead()]
        self.statuses = [ExitStatus.model_validate_json(text) for text in rows]

    @property
    def value(self):
        """How `main` ended, as one value."""
        [status] = [status for status in self.statuses if status.pid == MAIN]
        return status.value if status.reason == "exit" else (status.reason, status.detail)


def clean(sim):
    """Assert that nothing is left of a run."""
    kernel, rows = sim.kernel, sim.store.load()
    assert not kernel.procs, f"left over: {[(p.pid, p.program, p.state, p.parked) for p in kernel.procs.values()]}"
    for name in ("started", "partials", "invoked", "ready"):
        assert not getattr(kernel, name), f"{name} leaks: {getattr(kernel, name)}"
    assert kernel.timers.first() is None
    assert not kernel.scheduler.mmu.resident, "frames leak"
    assert not kernel.scheduler.waiting
    assert not kernel.scheduler.gang
    assert set(kernel.streams) <= {"tty:in", "tty:out"}
    for table in ("process", "journal", "started", "partial", "message", "signal", "chunk", "region"):
        assert not rows[table], f"{table} leaks: {rows[table][:3]}"
    for table in ARCHIVE:
        assert not sim.store.read(table, ()), f"{table} leaks"
    assert not [name for name, _ in rows["kernel"] if ":" in name]
    assert not sim.world.reports


def boot(main, *programs, store=None, world=None, machine=None, policy=None, **shape):
    named = {program.__name__: program for program in programs} | {"init": init, "main": main}
    return Simulation(named, store or Mortal(), world, machine or ToyMachine(ends=False), policy, **shape)


def finish(main, *programs, world=World, **options):
    """Run to the end, and look for leaks."""
    sim = boot(main, *programs, world=world(), **options).run(20_000)
    clean(sim)
    return Ended(sim)


def run(main, *programs, **options):
    return finish(main, *programs, **options).value


def lives(crashes, main, *programs, world=World, away=1.0, **options):
    """Run with a kill of the kernel at each of the (n-th commit, "before" | "after")."""
    store, place = Mortal(), world()
    for store.crash in [*crashes, (0, "")]:
        store.reopen()
        try:
            sim = boot(main, *programs, store=store, world=place, **options).run(20_000)
        except Killed:
            place.now += away
            continue
        clean(sim)
        return Ended(sim)
    raise AssertionError("it died once more than it was killed")


def always(main, *programs, step=1, **options):
    """Give the value of `main`, which no single kill changes."""
    expected = lives([], main, *programs, **options)
    commits = expected.sim.store.commits
    for n in range(1, commits + 1, step):
        for when in ("before", "after"):
            again = lives([(n, when)], main, *programs, **options)
            assert again.value == expected.value, f"killed {when} commit {n} of {commits}"
            assert said(again) == said(expected), f"killed {when} commit {n} of {commits}"
    return expected.value


def said(ended):
    """What is on the screen, without the order of processes."""
    return sorted((pid, ended.world.output(pid)) for pid in {pid for pid, *_ in ended.world.screen.values()})


async def errno(call):
    """Give the value of a call, or the name of its error."""
    try:
        return await call
    except SyscallError as error:
        return error.errno


async def told(call):
    """Give the value of a call, or its error as text."""
    try:
        return await call
    except SyscallError as error:
        return str(error)


def ends_with(value):
    """Make the program `child`, which returns a value."""

    async def child():
        return value

    return child


async def sleeper(seconds=1e6):
    await Sleep(seconds=seconds)
    return seconds


async def receiver(count=1, after=0.0):
    """Sleep, then give the bodies of so many messages."""
    await Sleep(seconds=after)
    return [(await Recv()).body for _ in range(count)]


def nest(depth, value=()):
    value = [*value]
    for _ in range(depth):
        value = [value]
    return value


class Slow(World):
    """`slow` takes long; it counts how often an op was begun."""

    devices = (
        DeviceInfo(
            name="slow",
            ops=[
                OpInfo(name="wait", doc="", effect="idempotent", parameters={}),
                OpInfo(name="pay", doc="", effect="unsafe", parameters={}),
                OpInfo(name="look", doc="", effect="pure", parameters={}),
                OpInfo(name="brief", doc="", effect="unsafe", parameters={}, timeout=2),
            ],
        ),
    )

    def __init__(self):
        super().__init__()
        self.begun = []

    def latency(self, effect):
        return effect.args.get("takes", 20)

    def invoke(self, effect):
        self.begun.append(effect.key)
        if "raises" in effect.args:
            raise ENOENT(effect.args["raises"])
        return effect.args
