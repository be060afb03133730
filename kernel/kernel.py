"""The kernel: a deterministic state machine, `step(interrupts, now) -> outcome`.

Programs are coroutines that yield system calls; the kernel drives them itself. All that is uncertain enters as an
interrupt, all work for the outside leaves as an effect.

Invariants:
1. The log. The outcome of every call is an entry of its process's log, appended when it is decided (`reply`, the one
   place), delivered in that order, and committed with the state that the call changed.
2. Output commit. The rows of a step are committed before its effects leave. Only the tick, which is pure and whose
   result enters with a later step, may start before.
3. Identity. Keys, sampling streams and random numbers derive from the lineage of a call, never from pids or ticks; only
   a foreign process, which no call has made, is named by its pid.
4. `step` raises `KernelBug` if the kernel is wrong; a program's mistake is a reply to that program.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from itertools import count
from typing import Any

from tokix.kernel import foreign, life, pager, recovery, regions, spaces, streams, taking
from tokix.kernel.calls import compute, concurrency
from tokix.kernel.calls.rights import needs, permit
from tokix.kernel.context import Context
from tokix.kernel.errors import KernelBug
from tokix.kernel.events import (
    Answer,
    Attach,
    Attached,
    Detach,
    Effect,
    Embedded,
    Event,
    Input,
    Interrupt,
    Outcome,
    Report,
    SetPolicy,
    Shown,
    TickDone,
    Trap,
)
from tokix.kernel.family import Usage
from tokix.kernel.frames import FRAME, FramePool
from tokix.kernel.ledger import Ledger
from tokix.kernel.mmu import Mmu
from tokix.kernel.outcome import BLOCKED, Encoded
from tokix.kernel.policy import Policy
from tokix.kernel.ports import Machine, Programs
from tokix.kernel.process import Branch, Entry, Process, State
from tokix.kernel.scheduler import Scheduler
from tokix.kernel.timers import Timers
from tokix.kernel.trap import ANSWERED, HANDLERS, REDO, WITHDRAW, not_a_call
from tokix.syscalls import (
    EINVAL,
    EIO,
    ESRCH,
    ETIMEDOUT,
    Call,
    DeviceInfo,
    Exit,
    Gather,
    Select,
    Sleep,
    Syscall,
    SyscallError,
    decode_canonical,
)
from tokix.syscalls.base import to_json
from tokix.syscalls.errors import decode_error, encode_error

Probe = Callable[[Event], None]


class Kernel(Ledger):
    """Processes, their calls, and the machine they share. Nothing here waits, and nothing touches the outside."""

    def __init__(
        self,
        rows: Mapping[str, list[tuple[Any, ...]]],
        *,
        machine: Machine,
        programs: Programs,
        policy: Policy,
        now: float,
        devices: Iterable[DeviceInfo] = (),
        lanes: int = 8,
        prefill: int = 64,
        ahead: bool = False,
        seed: int = 0,
        budget: int = 1000,
        init: tuple[str, list[Any]] = ("init", []),
        suspects: Mapping[int, str] | None = None,
        on_run: Callable[[int], None] | None = None,
    ) -> None:
        """Boot from the rows that the store has: recovery and a first start are the same.

        lanes, prefill (tokens) and budget (deliveries) bound what one tick and one step do. With `ahead` the next tick
        is made while one is in flight, where what that samples need not be known. `suspects` names processes
        to park, with the reason: they were running when the kernel died, again and again. `on_run` is told the pid
        whose program gets the control, and 0 when the kernel has it again.
        """
        super().__init__()
        self.machine, self.programs, self.now, self.seed, self.budget = machine, programs, now, seed, budget
        self.devices = {device.name: device for device in devices}
        self.ops = {(device.name, op.name): op for device in devices for op in device.ops}
        self.capacity = min(machine.window, machine.frames * FRAME)
        mmu = Mmu(FramePool(machine.frames, machine.slots), machine.costs)
        self.scheduler = Scheduler(mmu, policy, lanes, prefill, machine.stops, ahead)
        self.procs: dict[int, Process] = {}
        #: How long bursts are, by program: a policy may want to guess.
        self.usage: dict[str, Usage] = {}
        self.streams: dict[str, streams.Stream] = {}
        #: Regions by name; where the ids of another begin, behind those of all that are gone.
        self.regions: dict[str, regions.Region] = {}
        self.unlinked = 0
        self.ready: deque[tuple[Branch, Entry | None]] = deque()
        self.timers = Timers(self.due)
        #: Branches that sleep until a tick.
        self.sleepers = Timers(self.due)
        #: Branches that wait for an `Answer`, by key.
        self.invoked: dict[str, Branch] = {}
        self.effects: list[Effect | Attached] = []
        self.probes: list[Probe] = []
        self.serial = count(1)
        self.next_pid = self.next_mail = 1
        #: The branch whose program has the control, for the watchdog.
        self.running: Branch | None = None
        self.on_run = on_run
        self.calls = 0
        recovery.recover(self, rows, init, suspects or {})

    # ---- the step

    def step(self, interrupts: Iterable[Interrupt], now: float) -> Outcome:
        """What happened; what follows from it; which bursts hold the next ticks; what to make durable and let out."""
        self.now = max(self.now, now)
        for interrupt in interrupts:
            self.accept(interrupt)
        self.expire()
        self.run()
        ticks = list(iter(self.scheduler.form, None))
        # Nothing will tick, and no answer is on its way to somebody who then may think: time jumps.
        while self.sleepers and not (self.scheduler.flights or self.ready or self.invoked):
            self.wake(self.sleepers.first() or 0)
        outcome = Outcome(ticks, self.taken(), self.effects)
        self.effects = []
        return outcome

    def deadline(self) -> float | None:
        """Give the time at which `step` has to be called even if nothing happens; None: only if something does."""
        return self.now if self.ready else self.timers.first()

    def accept(self, interrupt: Interrupt) -> None:
        match interrupt:
            case TickDone(serial, tokens):
                for burst, token in self.scheduler.done(serial, tokens):
                    compute.sampled(self, burst, token)
                self.wake(serial)
            case Trap(pid, key, call):
                foreign.trap(self, pid, key, call)
            case Answer(key, value, error):
                if branch := self.invoked.pop(key, None):  # else nobody waits any more
                    self.answer(branch, value, error)
                if key not in self.invoked and self.scheduler.mmu.back(key):
                    self.scheduler.dirty = True
            case Embedded(key, encoder, data):
                spaces.embedded(self, key, encoder, data)
            case Shown(stream, offset):
                streams.shown(self, stream, offset)
            case Input(stream, text):
                streams.feed(self, stream, text)
            case Attach(ticket, program):
                self.effects.append(Attached(ticket, life.attach(self, program).pid))
            case Detach(pid):
                if process := self.procs.get(pid):
                    life.leave(self, process)
            case SetPolicy(policy):
                self.scheduler.set_policy(policy)

    def expire(self) -> None:
        """Let what was due happen."""
        for who in self.timers.passed(self.now):
            if isinstance(who, Process):
                life.overtime(self, who)
            elif isinstance(who.call, Sleep):
                self.reply(who)
            elif isinstance(who.call, Call):
                self.withdraw(who)
                self.reply(who, error=ETIMEDOUT(f"{who.call.device}.{who.call.op} took too long", who.key))
            else:
                self.withdraw(who)
                self.reply(who, error=ETIMEDOUT(who.call.name))

    def wake(self, tick: float) -> None:
        """Let those go on who sleep until a tick."""
        for who in self.sleepers.passed(tick):
            assert isinstance(who, Branch)
            self.reply(who)

    def due(self, who: Branch | Process, path: str) -> bool:
        """Say whether a timer still means anything."""
        if isinstance(who, Process):
            return who.status is None
        return who.alive and who.blocked and who.path == path

    def run(self) -> None:
        """Deliver outcomes; programs run until their next calls. The budget keeps a busy one from holding the tick."""
        ready = self.ready
        for _ in range(self.budget):
            if not ready:
                return
            branch, entry = ready.popleft()
            process = branch.proc
            if process.stopped:
                process.held = process.held or []
                process.held.append((branch, entry))
                continue
            process.awake -= 1
            if not branch.alive:
                if process.state is State.READY and not process.awake:
                    process.move(State.BLOCKED)
            elif entry:
                self.deliver(branch, entry)
            elif branch.done:
                self.settle(branch)
            elif branch.blocked:
                self.retrap(branch)
            elif branch.coro is None:
                self.resume(branch)
            if process.put_off and not process.awake:
                taking.offer(self, process)

    # ---- programs run, calls are trapped, outcomes are decided and delivered

    def queue(self, branch: Branch, entry: Entry | None) -> None:
        """Put an outcome in the line of delivery; None starts a program, or lets it go on at the end of a replay."""
        process = branch.proc
        process.awake += 1
        if process.state is State.BLOCKED:
            process.move(State.READY)
        self.ready.append((branch, entry))

    def resume(self, branch: Branch, value: Any = None, error: BaseException | None = None) -> None:
        """Drive a coroutine to its next call; before it gets the outcome of a Gather or Select, the branches end."""
        process = branch.proc
        while branch.branches:
            self.close(branch.branches.pop())
        if not process.stopped:  # a branch may stop the process while its siblings start
            process.move(State.RUNNING)
        before, self.running = self.running, branch
        if self.on_run:
            self.on_run(process.pid)
        try:
            if branch.coro is None:
                branch.coro = life.start(self, process)
            call = branch.coro.send(value) if error is None else branch.coro.throw(error)
        except StopIteration as stop:
            branch.done, branch.value = True, stop.value
        except KeyboardInterrupt:  # the operator's
            raise
        except BaseException as failure:  # the program's own: it ends the branch, and the parent sees it
            branch.done, branch.error = True, failure
        finally:
            self.running = before
            if self.on_run:
                self.on_run(before.proc.pid if before else 0)
        if branch.done:
            parent = branch.parent
            if parent:
                parent.left -= 1
            if parent and not parent.decider and (branch.error is not None or isinstance(parent.call, Select)):
                parent.decider = branch
            if not process.replaying:
                self.settle(branch)
        else:
            self.enter(branch, call)
        self.rest(process)

    def rest(self, process: Process) -> None:
        if process.state is State.RUNNING:
            process.move(State.READY if process.awake else State.BLOCKED)

    def enter(self, branch: Branch, call: Any) -> None:
        """A program has made a call."""
        branch.calls += 1
        branch.path, branch.call, branch.blocked = f"{branch.prefix}{branch.calls}", call, True
        branch.text = f"?{type(call).__name__}"
        if type(call) in HANDLERS:
            with suppress(ValueError, RecursionError):  # arguments that are not JSON: `trap` refuses them
                branch.text = call.canonical()
        if branch.proc.replaying:
            branch.noted = branch.key in self.started
        if isinstance(call, (Gather, Select)):
            branch.decider, branch.left = None, len(call._coros)
            branch.branches = [
                self.branch(branch.proc, f"{branch.path}.{i}.", coro, branch) for i, coro in enumerate(call._coros)
            ]
            for child in tuple(branch.branches):
                if child.alive and not branch.decider:
                    self.resume(child)
                else:
                    self.close(child)
        if branch.alive and branch.blocked and not branch.proc.replaying:
            self.trap(branch)

    def trap(self, branch: Branch) -> None:
        """Decide a call, or let it wait. Here signals interrupt, and capabilities are checked."""
        self.calls += 1
        process, call = branch.proc, branch.call
        if process.pending and (branch is process.root or process.foreign) and not isinstance(call, Exit):
            return life.interrupt(self, branch)
        try:
            if branch.text.startswith("?"):
                raise EINVAL(not_a_call(call))
            if process.caps != ("*",) and not branch.noted:  # what has begun was permitted
                for cap in needs(self, process, call):
                    permit(process, cap)
        except SyscallError as error:
            return self.reply(branch, error=error)
        return self.handle(branch)

    def handle(self, branch: Branch) -> None:
        try:
            outcome = HANDLERS[type(branch.call)](self, branch, branch.call)
        except SyscallError as error:
            return self.reply(branch, error=error)
        if outcome is not BLOCKED and branch.blocked:  # a signal to itself is the outcome already
            self.reply(branch, outcome)
        return None

    def retrap(self, branch: Branch) -> None:
        """Let an open call happen, after a restart: as it was when it was made, whatever became of its arguments."""
        if not branch.proc.stopped:
            branch.proc.move(State.RUNNING)
        if not branch.text.startswith("?") and branch.call.canonical() != branch.text:
            branch.call = decode_canonical(branch.text)
        self.trap(branch)
        self.rest(branch.proc)

    def reply(self, branch: Branch, value: Any = None, error: SyscallError | None = None) -> None:
        """Decide the outcome of a call: it is journalled now, and delivered in this order."""
        if error is not None:
            text = encode_error(error)
        elif type(value) is Encoded:
            text = value.text
        else:
            text = branch.call.reply.dump_json(value).decode()
        self.decide(branch, error is None, text)

    def decide(self, branch: Branch, ok: bool, text: str) -> None:
        process = branch.proc
        if branch.noted:
            self.forget(branch)
        branch.blocked = False
        entry = Entry(len(process.log), branch.path, branch.text, ok, text, self.now)
        if self.probes:
            self.probe("reply", process.pid, f"{branch.text} = {text}")
        if process.foreign:
            foreign.reply(self, branch, entry)
        else:
            self.append(process, entry)
            self.queue(branch, entry)

    def deliver(self, branch: Branch, entry: Entry) -> None:
        """Hand an outcome to the program."""
        self.resume(branch, *self.outcome(branch, entry))

    def outcome(self, branch: Branch, entry: Entry) -> tuple[Any, BaseException | None]:
        """Give the value or the error of an entry, decoded from the journal's text: the same way live and replayed.

        Raises ValueError or KeyError if the text cannot be read.
        """
        if isinstance(branch.call, (Gather, Select)):
            return concurrency.outcome(branch, entry)
        if entry.ok:
            return branch.call.reply.validate_json(entry.value), None
        return None, decode_error(entry.value)

    def redo(self, branch: Branch, call: Syscall[Any], entry: Entry, value: Any) -> None:
        """Repeat what a call of the log changed."""
        if again := REDO.get(type(call)):
            branch.proc.redone = entry
            again(self, branch, call, value)
            branch.proc.redone = None

    def settle(self, branch: Branch) -> None:
        """A coroutine has ended: what its parent waits for may be complete, or its process may have ended."""
        if branch.parent:
            concurrency.decide(self, branch.parent)
        else:
            life.finished(self, branch)

    def branch(self, process: Process, prefix: str, coro: Any, parent: Branch | None) -> Branch:
        branch = process.branches[prefix] = Branch(process, prefix, coro, parent)
        if process.prefixes is not None:
            process.prefixes.add(prefix)
        return branch

    def close(self, branch: Branch) -> None:
        """End a coroutine from outside: it cannot call any more. Its frames go, but for those that a tick holds."""
        while branch.branches:
            self.close(branch.branches.pop())
        if branch.noted:
            self.forget(branch)
        if branch.blocked:
            self.withdraw(branch)
        if branch.ctx and not (branch.proc.foreign and branch.parent):
            self.scheduler.mmu.release(branch.ctx)
        spaces.close(self, branch)
        branch.alive = branch.blocked = False
        branch.proc.branches.pop(branch.prefix, None)
        if branch.coro:
            try:
                branch.coro.close()
            except KeyboardInterrupt:  # the operator's
                raise
            except BaseException:  # a program may raise while it is thrown away; nobody is left to see it
                pass

    def withdraw(self, branch: Branch) -> None:
        """Take back what a blocked call has set in motion."""
        if undo := WITHDRAW.get(type(branch.call)):
            undo(self, branch)

    def answer(self, branch: Branch, value: Any, error: SyscallError | None) -> None:
        """Decide a call that waited for the outside."""
        try:
            if error is None:
                complete = ANSWERED.get(type(branch.call))
                value = complete(self, branch, value) if complete else Encoded(to_json(value))
                if value is BLOCKED:  # there is more to ask
                    return
        except SyscallError as refusal:
            error = refusal
        except ValueError as problem:
            error = EIO(f"the answer of {branch.text} is not JSON: {problem}")
        self.reply(branch, value, error)

    def context(self, branch: Branch) -> Context:
        """Give the context of a branch: its own, forked from its parent's when it is first needed."""
        if branch.ctx is None:
            if branch.parent is None:
                branch.ctx = Context.from_image(branch.proc.image) if branch.proc.image else self.blank()
            elif branch.proc.foreign:  # the calls of a foreign process share one
                branch.ctx = self.context(branch.parent)
            else:
                branch.ctx = self.scheduler.mmu.fork(self.context(branch.parent))
        return branch.ctx

    def blank(self) -> Context:
        """Give a context that has nothing but what every context begins with."""
        return Context(self.machine.preamble())

    # ---- what a restart must know

    def until(self, branch: Branch, seconds: float | None) -> object:
        """Let a call wait, at most for so many seconds from its first start."""
        if seconds is not None:
            note, _ = self.begin(branch, wake=self.now + seconds, order=next(self.serial))
            self.timers.set(note["wake"], branch, branch.path)
        return BLOCKED

    # ---- for handlers and reports

    def living(self, pid: int) -> Process:
        """Give a process that has not ended; raises ESRCH."""
        process = self.procs.get(pid)
        if process is None or process.status:
            raise ESRCH(f"no process {pid}" if process is None else f"process {pid} has ended")
        return process

    def probe(self, kind: str, pid: int, detail: str) -> None:
        """Tell the probes; one that raises is removed and reported."""
        event = Event(self.scheduler.clock, kind, pid, detail)
        for probe in tuple(self.probes):
            try:
                probe(event)
            except Exception as error:  # a probe only looks: it must not break what it looks at
                if probe in self.probes:
                    self.probes.remove(probe)
                self.effects.append(Report(f"probe {probe!r} is removed: {type(error).__name__}: {error}"))

    def check(self) -> None:
        """Raise KernelBug if an invariant does not hold. Cheap enough to run when idle and after every test."""
        self.scheduler.check()
        pager.check(self)
        waiting = {b.burst for p in self.procs.values() for b in p.branches.values() if b.burst}
        if any(burst not in waiting for burst in self.scheduler.bursts()):
            raise KernelBug("a burst runs that nobody awaits")
        noted = {b.key for p in self.procs.values() for b in p.branches.values() if b.noted}
        parked = {p.lineage for p in self.procs.values() if p.parked or p.foreign}
        if any(key not in noted and key.split(":")[0] not in parked for key in self.started):
            raise KernelBug("a call is noted as started, and nobody waits for it")
