"""The whole system says the same, bit for bit: whatever shares the machine, and whatever happened to the frames.

The same programs run undisturbed, and then with few frames, with swap or without, under other policies, in small
pieces, and killed in between. The logits of every token that a burst samples have to be the same.
"""

from importlib.util import find_spec

import pytest

if find_spec("torch") is None or find_spec("transformers") is None:
    pytest.skip("needs tokix[hf]", allow_module_level=True)

import torch
from test_torch import model, tokenizer

from tokix.kernel.arch.hf import machine as arch
from tokix.kernel.arch.hf import models, native
from tokix.kernel.arch.hf.machine import TorchMachine
from tokix.kernel.arch.hf.reference import ModelError
from tokix.kernel.costs import Costs
from tokix.kernel.policy import FCFS, RR, Priority
from tokix.sim import Simulation
from tokix.storage import MemoryStore
from tokix.syscalls import Append, Fork, Sleep, Spawn, Think, Wait, gather

SYSTEM = "You are one of several who were told the same, and you say what you think of it in a few words."
SWAP, DROP = Costs(tick=1000, token=1000, frame=1), Costs(tick=1000, token=1, frame=1000)


@pytest.fixture(autouse=True)
def needs_the_kernel():
    try:
        native.kernel()
    except native.Missing as error:
        pytest.skip(f"no kernel here: {error}")


def crowd(count):
    """Give programs: agents that begin alike, think in rounds, wait for tools, fork themselves and their contexts."""

    async def main():
        children = [await Spawn(program="agent", args=[n]) for n in range(count)]
        for child in children:
            await Wait(pid=child)

    return {"init": main, "agent": agent}


async def agent(n):
    await Append(role="system", text=SYSTEM)
    said = [(await Think(prompt=f"Say {n}.", max_tokens=9 + n, temperature=0.8 * (n % 2))).text]
    await Sleep(ticks=3 * n)
    said += [reply.text for reply in await gather(think("left"), think("right"))]
    twin = await Fork() if n == 2 else None
    said.append((await Think(prompt="And then?" if twin else "And now?", max_tokens=12)).text)
    if twin:
        await Wait(pid=twin)
    return said


async def think(word):
    return await Think(prompt=word, max_tokens=7, temperature=1.0)


class Noted:
    """Keeps the logits of everything that a machine samples, by stream and position."""

    def __init__(self, driven, programs, monkeypatch):
        self.driven, self.programs, self.logits, self.differ = driven, programs, {}, []
        sample = driven._sample

        def noting(rows, logits):
            for row, scores in zip(rows, logits, strict=False):
                place = (row.sampling.stream, row.start + len(row.feed))
                if not torch.equal(self.logits.setdefault(place, scores.clone()), scores):
                    self.differ.append(place)
            return sample(rows, logits)

        monkeypatch.setattr(driven, "_sample", noting)

    def run(self, *, policy=None, frames=None, slots=0, costs=None, kills=(), **shape):
        """Run with some of the machine's frames and slots; killed after so many steps, it goes on in a new kernel."""
        driven, store = self.driven, MemoryStore()
        whole = driven.frames, driven.slots, driven.costs
        driven.frames, driven.slots, driven.costs = frames or whole[0], slots, costs or whole[2]
        try:
            for steps in kills:
                with pytest.raises(RuntimeError, match="goes on"):
                    self.kernel(store, policy, shape).run(steps)
            sim = self.kernel(store, policy, shape).run()
        finally:
            driven.frames, driven.slots, driven.costs = whole
        assert not sim.kernel.procs
        sim.kernel.scheduler.check()
        return sorted((row[2], row[15]) for row in store.dead()), sim.kernel.scheduler.mmu.counters

    def kernel(self, store, policy, shape):
        return Simulation(self.programs, store, machine=self.driven, policy=policy or RR(), **shape)


WAYS = {
    "swap": {"policy": RR(3), "frames": 26, "slots": 64, "costs": SWAP, "lanes": 3},
    "drop": {"policy": RR(3), "frames": 26, "costs": DROP, "lanes": 3},
    "few slots": {"policy": RR(5), "frames": 26, "slots": 12, "costs": SWAP, "lanes": 2},
    "one at a time": {"policy": FCFS(), "lanes": 1},
    "priorities": {"policy": Priority(4), "frames": 30, "lanes": 6},
    "ticks ahead": {"policy": RR(7), "frames": 30, "slots": 40, "costs": SWAP, "lanes": 4, "ahead": True},
    "small pieces": {"prefill": 5, "lanes": 8},
    "kills": {"kills": (25, 25, 15), "frames": 30, "slots": 40, "costs": SWAP, "lanes": 3, "policy": RR(2)},
}


@pytest.mark.parametrize("weights", ["fp32", "fp16"])
def test_a_small_model_says_the_same_bits_whatever_happens(weights, monkeypatch):
    driven = TorchMachine(model(), tokenizer(), "llama", frames=128, slots=64, window=400, threads=1, weights=weights)
    check(driven, crowd(5), WAYS, monkeypatch)


def test_the_default_model_says_the_same_bits_whatever_happens(monkeypatch):
    try:
        folder = models.locate("smollm2")
    except ModelError as error:
        pytest.skip(f"the default model cannot be had: {error}")
    driven = arch.load(folder, "smollm2", frames=64, slots=64, window=128)
    tight = {name: WAYS[name] | {"frames": 8} for name in ("swap", "ticks ahead", "kills")}
    tight["kills"]["kills"] = (20, 15)
    check(driven, crowd(3), tight, monkeypatch)


def check(driven, programs, ways, monkeypatch):
    noted = Noted(driven, programs, monkeypatch)
    expected, undisturbed = noted.run(lanes=8)
    assert undisturbed.swaps == undisturbed.drops == 0
    assert undisturbed.hits > 0
    for name, way in ways.items():
        results, counters = noted.run(**way)
        assert results == expected, name
        assert not noted.differ, f"{name}: other logits at {noted.differ[:3]}"
        assert counters.swaps or name not in ("swap", "few slots", "kills")
        assert counters.drops or name not in ("drop", "few slots")
