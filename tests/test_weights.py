"""Weights in half precision: nearly the same logits, or fp32, and why."""

from importlib.util import find_spec

import pytest

if find_spec("torch") is None or find_spec("transformers") is None:
    pytest.skip("needs tokix[hf]", allow_module_level=True)

import torch
from test_torch import KINDS, Bursts, model, prompt, tokenizer
from torch import nn

from tokix.kernel.arch.hf import weights
from tokix.kernel.arch.hf.machine import TorchMachine
from tokix.machines import separated

IDS = torch.tensor([prompt(0, 40)])


def logits(of):
    with torch.inference_mode():
        return of(input_ids=IDS, use_cache=False).logits[0]


@pytest.fixture(autouse=True)
def needs_fbgemm():
    if weights.halved(nn.Sequential(nn.Linear(4, 4)), lambda: torch.ones(1, 4)):
        pytest.skip("no fbgemm here")


@pytest.mark.parametrize("kind", KINDS)
def test_logits_are_nearly_those_of_fp32(kind):
    plain, half = logits(model(kind)), model(kind)
    assert weights.halved(half, lambda: logits(half)) == ""
    assert not any(type(module) is nn.Linear for module in half.modules())
    ours = logits(half)
    assert not torch.equal(ours, plain)
    assert float((ours - plain).abs().max() / plain.abs().max()) < 0.003


def test_siblings_are_one_product():
    half = model("qwen3")
    weights.halved(half, lambda: logits(half))
    assert sum(isinstance(module, weights.Lead) for module in half.modules()) == 2 * 3
    assert sum(isinstance(module, weights.Follow) for module in half.modules()) == 3 * 3


@pytest.mark.parametrize("biased", [(True, True), (True, False), (False, False)])
def test_biases_are_kept(biased):
    torch.manual_seed(0)
    one, two = nn.Linear(16, 24, bias=biased[0]), nn.Linear(16, 8, bias=biased[1])
    given = torch.randn(1, 4, 16)
    lead = weights.Lead(one, two)
    ours = torch.cat([lead(given), weights.Follow(lead, 0)(given)], -1)
    assert torch.allclose(ours, torch.cat([one(given), two(given)], -1), atol=1e-3)


def test_what_is_too_large_for_fp16_stays_in_fp32():
    large = model()
    with torch.no_grad():
        large.model.layers[1].mlp.down_proj.weight.mul_(1e6)
        large.model.layers[1].mlp.up_proj.weight.div_(1e6)
    plain = logits(large)
    kept = TorchMachine(large, tokenizer(), "large", frames=16, weights="fp16")
    assert (kept.weights, kept.name) == ("fp32", "large,fp32")
    assert any("stay in fp32" in note and "of its choices" in note for note in kept.notes())
    large.set_attn_implementation("sdpa")
    assert torch.equal(logits(large), plain)


def test_modules_that_only_look_like_siblings_are_found_out():
    other = model()
    layer = other.model.layers[0].mlp
    layer.forward = lambda x: layer.down_proj(layer.act_fn(layer.gate_proj(x)) * layer.up_proj(x + 1))
    plain = logits(other)
    assert "different inputs" in weights.halved(other, lambda: logits(other))
    assert torch.equal(logits(other), plain)


def test_a_model_that_would_stop_where_fp16_has_no_numbers_is_never_half_done():
    broken = model()
    plain = logits(broken)
    calls = iter([plain, torch.full_like(plain, torch.nan)])
    assert weights.halved(broken, lambda: next(calls))
    assert torch.equal(logits(broken), plain)


def test_the_name_tells_the_weights_apart():
    one, two = (TorchMachine(model(), tokenizer(), "x", frames=64, weights=w) for w in ("fp16", "fp32"))
    assert (one.name, two.name) == ("x,fp16", "x,fp32")
    assert list(one.notes()) == list(two.notes()) == []
    assert Bursts(one, [prompt(1, 20)]).until([24]).tokens


def test_a_reference_may_end_with_the_weights():
    assert separated("smollm2") == ("smollm2", None)
    assert separated("smollm2,fp32") == ("smollm2", "fp32")
    assert separated("path:/a,b,fp16") == ("path:/a,b", "fp16")
