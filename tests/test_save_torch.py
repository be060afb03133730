"""Save and Restore on the torch machine: another machine goes on with the same bits, and feeds nothing again."""

from importlib.util import find_spec
from pathlib import Path

import pytest

if find_spec("torch") is None or find_spec("transformers") is None:
    pytest.skip("needs tokix[hf]", allow_module_level=True)

import torch
from test_torch import model, run, tokenizer

from tokix.kernel.arch.hf import native
from tokix.kernel.arch.hf.machine import TorchMachine
from tokix.kernel.costs import Costs
from tokix.kernel.frames import FRAME, frames_for
from tokix.syscalls import Append, Recv, Restore, Save, Send, Sleep, Spawn, Think, Wait

TEXT = "Whoever begins with the same words has the same frames, also in another life."


class Watched(TorchMachine):
    """It keeps what each tick fed, and the logits that the tick gave."""

    def __init__(self, *args, **shape):
        self.fed, self.scores, self.places = [], [], []
        super().__init__(*args, **shape)
        self.fed.clear()
        self.scores.clear()

    def _logits(self, tick):
        found = super()._logits(tick)
        self.fed.append([len(row.feed) for row in tick.rows])
        self.scores.append(found[0].clone())
        return found

    def read(self, places, tokens):
        self.places += places
        return super().read(places, tokens)


def machine(kind="llama", **shape):
    return Watched(model(kind), tokenizer(), kind, **{"frames": 64, "slots": 64, "weights": "fp16", **shape})


@pytest.fixture(autouse=True)
def threads():
    """The number of threads belongs to the thread that runs the tests, and so to the tests that follow."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def file(tmp_path):
    return str(tmp_path / "a.context")


async def tell(path):
    await Append(role="system", text=TEXT)
    await Think(prompt="go on", max_tokens=20)
    return await Save(path=path)


def last(driven, count):
    """The logits of the last ticks."""
    return driven.scores[-count:]


@pytest.mark.parametrize("kind", ["llama", "gemma3", "gpt_neox"])
def test_the_next_logits_are_the_same_bits_and_nothing_is_fed_again(file, kind):
    saved = []

    async def first():
        saved.append(await tell(file))
        return (await Think(prompt="more", max_tokens=9)).tokens

    async def second():
        restored = await Restore(path=file)
        return [restored.tokens, restored.computed, (await Think(prompt="more", max_tokens=9)).tokens]

    one, two = machine(kind), machine(kind)
    assert one.arithmetic == two.arithmetic
    expected = run(one, first)
    tokens, computed, said = run(two, second)
    assert said == expected
    assert (tokens, computed) == (saved[0].tokens, saved[0].computed)
    assert computed % FRAME
    asked = len(two.render("user", "more")) + len(two.opening())
    assert two.fed == [[tokens - computed + asked], *[[1]] * 8]
    assert tokens - computed <= 1 + len(two.closing()), "the last token of an answer was never fed"
    assert all(map(torch.equal, last(two, 9), last(one, 9)))
    assert saved[0].bytes == Path(file).stat().st_size > frames_for(computed) * one.frame_size


def test_a_context_that_sleeps_is_read_from_the_swap_file(file):
    async def sleeper():
        await Append(role="system", text=TEXT)
        await Think(prompt="go on", max_tokens=20)
        await Recv()
        return (await Think(prompt="more", max_tokens=9)).tokens

    async def crowd():
        await Append(text="x" * 150)
        return len((await Think(max_tokens=60)).tokens)

    async def main():
        pid = await Spawn(program="sleeper")
        await Sleep(seconds=60)
        other = await Spawn(program="crowd")
        await Sleep(seconds=50)
        saved = await Save(path=file, pid=pid)
        await Send(to=pid)
        return [saved.computed, (await Wait(pid=pid)).value, (await Wait(pid=other)).value]

    async def again():
        restored = await Restore(path=file)
        return [restored.computed, (await Think(prompt="more", max_tokens=9)).tokens]

    one, two = machine(frames=17), machine()
    one.costs = Costs(tick=1000, token=1000, frame=1)
    computed, said, _ = run(one, main, sleeper, crowd)
    assert computed > 60
    assert max(one.places) >= one.frames
    assert run(two, again) == [computed, said]


def test_frames_of_other_weights_threads_and_layouts_are_computed_again(file, monkeypatch):
    async def main():
        return (await tell(file)).tokens

    async def again():
        restored = await Restore(path=file)
        return [restored.computed, len((await Think(prompt="more", max_tokens=9)).tokens)]

    run(machine(), main)
    changed = model()
    with torch.no_grad():
        changed.model.layers[0].mlp.up_proj.weight[0, 0] += 1
    others = [Watched(changed, tokenizer(), "llama", frames=64, weights="fp16"), machine(threads=1)]

    others.append(in_torch(monkeypatch))
    for other in others:
        other.name = "llama,fp16"
        assert run(other, again) == [0, 9]


def in_torch(monkeypatch):
    """A machine whose frames lie as torch wants them."""

    def missing(*_):
        raise native.Missing("no compiler")

    monkeypatch.setattr("tokix.kernel.arch.hf.machine.kernel_for", missing)
    made = machine(weights="fp32")
    assert made.slow
    return made


def test_where_attention_is_in_torch_it_is_saved_and_restored_too(file, monkeypatch):
    async def first():
        return [(await tell(file)).computed, (await Think(prompt="more", max_tokens=9)).tokens]

    async def second():
        return [(await Restore(path=file)).computed, (await Think(prompt="more", max_tokens=9)).tokens]

    assert run(in_torch(monkeypatch), first) == run(in_torch(monkeypatch), second)


def test_what_others_have_left_in_a_frame_is_not_saved(file):
    driven = machine()
    used = driven._places.pool.memory[0]
    with torch.inference_mode():
        used.fill_(7)
    whole, part = (torch.frombuffer(bytearray(driven.read([0], n)), dtype=torch.float32) for n in (FRAME, 5))
    assert (whole == 7).all()
    assert (part == 7).sum() * FRAME == part.numel() * 5
    driven.fill([3], driven.read([0], FRAME))
    assert torch.equal(driven._places.pool.memory[3], used)
