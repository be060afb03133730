"""Frames in fp16: half of the bytes, nearly the same logits, and the same bits in any company."""

from importlib.util import find_spec

import pytest

if find_spec("torch") is None or find_spec("transformers") is None:
    pytest.skip("needs tokix[hf]", allow_module_level=True)

import torch
from test_exact import differing
from test_torch import KINDS, model, prompt, tokenizer

from tokix.kernel.arch.hf import machine as arch
from tokix.kernel.arch.hf import native, probe
from tokix.kernel.arch.hf.attention import Attention, Pool, Shape
from tokix.kernel.arch.hf.machine import TorchMachine
from tokix.kernel.arch.hf.paged import NativeBatch
from tokix.kernel.events import Row, Sampling, Tick


@pytest.fixture(scope="module")
def kernel():
    try:
        return native.kernel()
    except native.Missing as error:
        pytest.skip(f"no kernel here: {error}")


@pytest.fixture
def needs_the_kernel(kernel):
    pass


def made(kind="llama", kept="fp16", weights="fp16", **more):
    return TorchMachine(model(kind, **more), tokenizer(), kind, frames=64, weights=weights, kept=kept)


def logits(machine, count):
    with torch.inference_mode():
        return machine.logits(Tick(1, [Row((5, 1, 9, 3, 0, 7), 0, prompt(0, count), Sampling("s"))], []))


def kept(kernel, numbers):
    """Give what a frame in fp16 makes of numbers, through the kernel."""
    pool = Pool(1, {0: Shape(1, 8, len(numbers))}, torch.device("cpu"), for_kernel=True, dtype=torch.float16)
    batch = NativeBatch(pool, [Row((0,), 0, [1], None)], kernel)
    query, value = torch.zeros(1, 1, 4, 8), torch.zeros(1, 1, 4, len(numbers))
    value[0, 0, 0] = torch.tensor(numbers)
    batch.attend(0, query, query, value, Attention())
    return pool.values[0][0, 0, 0]


@pytest.mark.usefixtures("needs_the_kernel")
@pytest.mark.parametrize("weights", ["fp32", "fp16"])
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "gpt_oss"])
def test_logits_are_a_function_of_the_tokens(kind, weights):
    exact = made(kind, weights=weights)
    assert exact.kept == "fp16"
    assert exact.rounding == ""
    assert not differing(exact, (3, 30, 17, 41, 60, 80), range(4))


@pytest.mark.usefixtures("needs_the_kernel")
@pytest.mark.parametrize("kind", KINDS)
def test_logits_are_nearly_those_of_whole_frames(kind):
    whole, half = logits(made(kind, "fp32"), 90), logits(made(kind), 90)
    assert 0 < float((whole - half).abs().max()) < 2e-3 * float(whole.abs().max())


@pytest.mark.usefixtures("needs_the_kernel")
def test_the_same_memory_holds_twice_as_many_frames(monkeypatch):
    monkeypatch.setattr(arch, "MEMORY", 1 << 20)
    whole, half = (TorchMachine(model(), tokenizer(), "x", kept=kept) for kept in ("fp32", "fp16"))
    assert half.frames == 2 * whole.frames


def test_numbers_are_rounded_to_the_nearest_and_never_to_infinity(kernel):
    ordinary = [0.1, -0.1, 1 + 2**-11, 1 + 3 * 2**-11, -65504.0, 6e-5, 2**-25, 1.5 * 2**-24, -3.3e-8, 0.0]
    assert torch.equal(kept(kernel, ordinary), torch.tensor(ordinary).half())
    assert kept(kernel, [65519.0, 7e4, -1e30]).tolist() == [65504.0, 65504.0, -65504.0]


@pytest.mark.usefixtures("needs_the_kernel")
def test_frames_stay_whole_where_the_logits_would_be_others(monkeypatch):
    monkeypatch.setattr(probe, "HALVED", 0.0)
    assert made().kept == "fp32"


def test_frames_stay_whole_where_attention_is_done_in_torch(monkeypatch, tmp_path):
    monkeypatch.setenv("CC", "/nowhere/cc")
    monkeypatch.setenv("TOKIX_CACHE", str(tmp_path))
    assert made().kept == "fp32"
