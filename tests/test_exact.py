"""The same answer every time: the logits of a burst are a function of its tokens, bit for bit.

A burst is fed alone, in one piece; then in random gangs, in random pieces, on scattered frames that others have used,
with frames copied and swapped in between. Where a machine says that it cannot promise this, it must not be by mistake.
"""

import random
from importlib.util import find_spec

import pytest

if find_spec("torch") is None or find_spec("transformers") is None:
    pytest.skip("needs tokix[hf]", allow_module_level=True)

import torch
from test_torch import KINDS, model, prompt, tokenizer

from tokix.kernel.arch.hf import machine as arch
from tokix.kernel.arch.hf import models, native
from tokix.kernel.arch.hf.machine import TorchMachine
from tokix.kernel.arch.hf.reference import ModelError
from tokix.kernel.events import Row, Sampling, Tick

ASK = Sampling("s")


@pytest.fixture(autouse=True)
def needs_the_kernel():
    try:
        native.kernel()
    except native.Missing as error:
        pytest.skip(f"no kernel here: {error}")


class Gang:
    """Feeds bursts of known tokens to a machine in ticks of many shapes, and keeps the logits of their last tokens."""

    def __init__(self, machine, bursts, draws):
        self.machine, self.bursts, self.draws = machine, bursts, draws
        self.free = draws.sample(range(machine.frames), machine.frames)
        self.tables = {i: [self.free.pop() for _ in range(len(bursts[i]) // 16 + 1)] for i in bursts}
        self.done = dict.fromkeys(bursts, 0)
        self.said = {i: {} for i in bursts}

    def run(self, sizes):
        """Go on to the end; `sizes` are the lengths of pieces. Gives logits by burst and by number of tokens."""
        while left := [i for i in self.bursts if self.done[i] < len(self.bursts[i])]:
            gang = self.draws.sample(left, self.draws.randint(1, len(left)))
            self.tick({i: min(self.done[i] + self.draws.choice(sizes), len(self.bursts[i])) for i in gang})
        return self.said

    def tick(self, ends):
        copies = [move for i in ends if self.draws.random() < 0.2 for move in self.moved(self.tables[i])]
        rows = [
            Row(tuple(self.tables[i]), self.done[i], self.bursts[i][self.done[i] : end], ASK) for i, end in ends.items()
        ]
        with torch.inference_mode():
            logits = self.machine.logits(Tick(1, rows, copies))
        for (i, end), row in zip(ends.items(), logits, strict=True):
            self.said[i][end] = row.clone()
        self.done |= ends

    def moved(self, table):
        """Move a frame to another place, at once or by way of the swap file."""
        place, new = self.draws.randrange(len(table)), self.free.pop(0)
        old, table[place] = table[place], new
        self.free.append(old)
        slot = self.machine.frames + self.draws.randrange(self.machine.slots)
        return self.draws.choice([[(old, new)], [(old, slot), (slot, new)]])


def differing(machine, lengths, seeds):
    """Fuzz; gives what differed from the same burst fed alone, first in one piece, then token by token."""
    bursts = {i: prompt(i, n) for i, n in enumerate(lengths)}
    alone = {}
    for i, tokens in bursts.items():
        by_one = Gang(machine, {i: tokens}, random.Random(i)).run([1])[i]
        whole = Gang(machine, {i: tokens}, random.Random(i)).run([len(tokens)])[i]
        assert torch.equal(whole[len(tokens)], by_one[len(tokens)])
        alone[i] = by_one
    found = []
    for seed in seeds:
        draws = random.Random(seed)
        some = {i: bursts[i] for i in draws.sample(list(bursts), draws.randint(2, len(bursts)))}
        said = Gang(machine, some, draws).run(draws.choice([[1], [1, 2, 17], [16, 5], [40], [3]]))
        found += [(seed, i, n) for i in some for n, row in said[i].items() if not torch.equal(row, alone[i][n])]
    return found


@pytest.mark.parametrize("weights", ["fp32", "fp16", "q8", "q4"])
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "gpt_oss"])
def test_logits_are_a_function_of_the_tokens(kind, weights):
    exact = TorchMachine(model(kind), tokenizer(), kind, frames=64, weights=weights)
    assert exact.rounding == ""
    assert not differing(exact, (3, 30, 17, 41, 60, 80), range(12))


def test_widths_that_leave_odd_ends_to_torch_are_found_out():
    """torch has other instructions for the end of a tensor, and where a row ends depends on the rows before it."""
    odd = TorchMachine(model(intermediate_size=85), tokenizer(), "odd", frames=64)
    assert "beside others" in odd.rounding


def test_the_lean_forward_has_no_odd_ends():
    odd = TorchMachine(model(intermediate_size=85), tokenizer(), "odd", frames=64, weights="fp16")
    assert odd.lean
    assert odd.rounding == ""
    assert not differing(odd, (3, 30, 17, 41, 60, 80), range(12))


def test_experts_gather_the_tokens_of_a_tick_and_the_machine_says_so():
    assert "beside others" in TorchMachine(model("gpt_oss"), tokenizer(), "gpt_oss", frames=16).rounding


def test_torch_promises_nothing(monkeypatch, tmp_path):
    monkeypatch.setenv("CC", "/nowhere/cc")
    monkeypatch.setenv("TOKIX_CACHE", str(tmp_path))
    assert "in torch" in TorchMachine(model(), tokenizer(), "llama", frames=16).rounding


@pytest.mark.parametrize("weights", ["fp32", "fp16", "q8", "q4"])
def test_the_default_model_gives_the_same_bits_every_time(weights):
    try:
        folder = models.locate("smollm2")
    except ModelError as error:
        pytest.skip(f"the default model cannot be had: {error}")
    exact = arch.load(folder, "smollm2", weights=weights, frames=64)
    assert exact.rounding == ""
    assert not differing(exact, (9, 30, 17), range(3))
