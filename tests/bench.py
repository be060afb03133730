"""A kernel by hand: each step is taken by the test, and what leaves it is kept."""

from tokix.kernel.arch.toy import ToyMachine
from tokix.kernel.events import Attach, Attached, Reply, TickDone, Trap
from tokix.kernel.kernel import Kernel
from tokix.kernel.policy import RR
from tokix.kernel.process import State
from tokix.sim import World
from tokix.storage import MemoryStore
from tokix.syscalls import DeviceInfo, ExitStatus, OpInfo, Recv
from tokix.syscalls.errors import decode_error


class Devices(World):
    """`dev` has one op of each effect class; it never answers by itself."""

    devices = (
        DeviceInfo(
            name="dev", ops=[OpInfo(name=e, doc="", effect=e, parameters={}) for e in ("pure", "idempotent", "unsafe")]
        ),
    )

    def latency(self, effect):
        return 1e6


class Bench:
    """A kernel that is stepped by hand over a store; what leaves it is kept by kind."""

    def __init__(self, first, *programs, store=None, now=0.0, **options):
        self.programs = {program.__name__: program for program in programs} | {"init": first}
        self.store, self.now, self.options = store or MemoryStore(), now, options
        self.out = []
        self.boot()

    @property
    def end(self):
        """How init has ended."""
        return ExitStatus.model_validate_json(self.store.dead()[0][15])

    def boot(self, **options):
        """Start a kernel, as after a kill, and let it take its first step."""
        self.machine = ToyMachine(ends=False)
        self.kernel = Kernel(
            self.store.load(),
            **{
                "machine": self.machine,
                "programs": self.programs,
                "policy": RR(),
                "now": self.now,
                "devices": Devices.devices,
                **self.options,
                **options,
            },
        )
        self.tick = self.outcome = None
        self.step()

    def step(self, *interrupts, commit=True):
        outcome = self.outcome = self.kernel.step(interrupts, self.now)
        [self.tick] = outcome.ticks or [self.tick]
        if outcome.rows and commit:
            self.store.commit(outcome.rows)
        self.out += outcome.effects
        self.kernel.check()
        return outcome

    def run_tick(self):
        """Let the machine answer."""
        tick, self.tick = self.tick, None
        return self.step(TickDone(tick.serial, self.machine.run(tick)))

    def settle(self, *interrupts):
        """Step until nothing is ready, running ticks at once."""
        self.step(*interrupts)
        for _ in range(10_000):
            if self.tick:
                self.run_tick()
            elif self.kernel.ready:
                self.step()
            else:
                return self
        raise AssertionError("it does not settle")

    def later(self, seconds):
        self.now += seconds
        return self.settle()

    def effects(self, kind):
        return [effect for effect in self.out if isinstance(effect, kind)]

    # foreign processes

    def attach(self, program="person"):
        self.settle(Attach(len(self.out), program))
        return self.effects(Attached)[-1].pid

    def trap(self, pid, key, call):
        """Send a call; gives its outcome, or None if it waits."""
        before = len(self.effects(Reply))
        self.settle(Trap(pid, key, call))
        replies = [reply for reply in self.effects(Reply)[before:] if (reply.pid, reply.key) == (pid, key)]
        assert len(replies) < 2
        return opened(call, replies[0]) if replies else None

    def replies(self, key):
        return [reply for reply in self.effects(Reply) if reply.key == key]


def opened(call, reply):
    """Give the value or the error of a Reply."""
    return call.reply.validate_json(reply.text) if reply.ok else decode_error(reply.text)


async def forever():
    await Recv(tag="never")


def parked(bench, pid=1):
    process = bench.kernel.procs[pid]
    assert process.state is State.DIVERGED
    return process.parked
