"""Lives of a kernel: one run of the corpus, over a new kernel for each kill, and what has to hold at its end."""

import json
import re
import sys
from contextlib import contextmanager

import corpus_town

import corpus
from tokix.kernel import trap
from tokix.kernel.arch.toy import ToyMachine
from tokix.kernel.policy import RR
from tokix.kernel.ports import ALL, ARCHIVE, TABLES
from tokix.sim import Simulation
from tokix.storage import MemoryStore


class Killed(BaseException):
    """The kernel died at a commit."""


class Mortal:
    """A store around which the kernel dies, just before or just after the n-th commit of all its lives."""

    def __init__(self, open_store=MemoryStore):
        self.open_store, self.store = open_store, open_store()
        self.commits, self.crash = 0, (0, "")

    def load(self):
        return self.store.load()

    def dead(self):
        return self.store.dead()

    def journal(self, pid, last=None):
        return self.store.journal(pid, last)

    def read(self, table, prefix, after=None, limit=-1):
        return self.store.read(table, prefix, after, limit)

    def among(self, table, space, ids):
        return self.store.among(table, space, ids)

    def sizes(self):
        return self.store.sizes()

    def unembedded(self, encoder):
        return self.store.unembedded(encoder)

    def match(self, text, spaces, k, only=ALL):
        return self.store.match(text, spaces, k, only)

    def commit(self, rows):
        self.commits += 1
        if self.crash == (self.commits, "before"):
            raise Killed
        self.store.commit(rows)
        if self.crash == (self.commits, "after"):
            raise Killed

    def close(self):
        self.store.close()

    def reopen(self):
        """What a new kernel finds."""
        if not isinstance(self.store, MemoryStore):
            self.store.close()
            self.store = self.open_store()


SHAPE = {"lanes": 2, "prefill": 8}


def run(crashes=(), *, store=None, policy=None, frames=24, programs=corpus.PROGRAMS, changed=None, window=384, **shape):
    """One run of the corpus; `changed` programs live only in the second life. Gives what can be compared."""
    store, world = store or Mortal(), corpus_town.town()
    kills = parked = 0
    for life, store.crash in enumerate([*crashes, (0, "")]):
        store.reopen()
        ours = {**programs, **changed} if changed and life == 1 else programs
        try:
            machine = ToyMachine(frames, window, ends=False)
            sim = Simulation(ours, store, world, machine, policy or RR(), **{**SHAPE, **shape})
            sim.run(20_000)
        except Killed:
            world.now += 1
            kills += 1
            continue
        parked += sum(bool(p.parked) for p in sim.kernel.procs.values())
        if life and not parked:
            break
        if not changed:
            break
    return Life(store, world, sim, kills, parked)


class Life:
    """What is left of a run."""

    def __init__(self, store, world, sim, kills, parked):
        self.store, self.world, self.sim, self.kills, self.parked = store, world, sim, kills, parked
        columns = list(TABLES["process"].columns)
        dead = [dict(zip(columns, row, strict=True)) for row in store.dead()]
        # A person who never heard of its pid comes again as another foreign process.
        self.lineages = {row["pid"]: re.sub("foreign[0-9]+", "foreign", row["lineage"]) for row in dead}
        #: How every process ended, by lineage. Pids depend on the schedule.
        self.exits = {self.lineages[row["pid"]]: without_pid(row["status"]) for row in dead}
        outcomes = [re.sub(r"\bat=[0-9.]+", "at=…", repr(outcome)) for outcome in world.person.outcomes[2:]]
        self.person = [without_pid(outcome) for outcome in outcomes]
        self.said = {lineage: world.output(pid) for pid, lineage in self.lineages.items()}

    def result(self):
        """Give all that must not depend on kills or on the schedule."""
        return self.exits, self.person, self.said

    def same_as(self, other):
        """Assert that the results are equal, naming what differs."""
        for mine, theirs in zip(self.result(), other.result(), strict=True):
            assert mine == theirs
        self.check()

    def check(self):
        """Nothing leaked, nothing was done twice."""
        kernel, rows = self.sim.kernel, self.store.load()
        assert not kernel.procs, f"left over: {list(kernel.procs.values())}"
        assert kernel.timers.first() is None
        for name in ("started", "partials", "invoked"):
            left = getattr(kernel, name)
            assert not left, f"{name} leaks: {left}"
        scheduler = kernel.scheduler
        assert not scheduler.mmu.resident, "frames leak"
        assert not scheduler.waiting
        assert not scheduler.gang
        assert scheduler.mmu.pool.available == scheduler.mmu.pool.total
        assert set(kernel.streams) <= {"tty:in", "tty:out"}
        for table in ("process", "journal", "started", "partial", "message", "signal", "chunk"):
            assert not rows[table], f"{table} leaks: {rows[table][:3]}"
        for table in ARCHIVE:
            assert not self.store.read(table, ()), f"{table} leaks"
        runs = self.world.runs
        assert (runs["rent"], runs["power"]) == (1, 1), "a bill was paid twice or never"
        assert not self.world.reports


def without_pid(status):
    """Leave the pid out of a status, in JSON or as a repr."""
    if status.startswith("{"):
        return {key: value for key, value in json.loads(status).items() if key != "pid"}
    return status.partition("pid=")[0] + status.partition("pid=")[2].lstrip("0123456789")


@contextmanager
def broken(owner, name, mutant):
    """Break one rule: put a mutant in the place of a function, wherever the kernel refers to it."""
    original = getattr(owner, name)
    replacement = mutant(original)
    places = [vars(module) for key, module in sys.modules.items() if key.startswith("tokix.kernel")]
    places += [trap.HANDLERS, trap.WITHDRAW, trap.REDO]
    names = [(place, key) for place in places for key, value in place.items() if value is original]
    setattr(owner, name, replacement)
    for place, key in names:
        place[key] = replacement
    try:
        yield
    finally:
        setattr(owner, name, original)
        for place, key in names:
            place[key] = original
