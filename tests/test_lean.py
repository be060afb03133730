"""The lean forward: the logits of the model that it stands for, or that model as it is."""

from importlib.util import find_spec

import pytest

if find_spec("torch") is None or find_spec("transformers") is None:
    pytest.skip("needs tokix[hf]", allow_module_level=True)

import torch
import transformers
from test_torch import COMMON, Bursts, config, model, prompt, tokenizer

from tokix.kernel.arch.hf import lean, native, weights
from tokix.kernel.arch.hf.machine import TorchMachine
from tokix.kernel.events import Row, Sampling, Tick


@pytest.fixture(autouse=True)
def needs_kernels_and_fbgemm():
    try:
        native.kernel()
    except native.Missing as error:
        pytest.skip(f"no kernel here: {error}")
    one = torch.nn.Sequential(torch.nn.Linear(4, 4))
    if weights.halved(one, lambda: torch.ones(1, 4)):
        pytest.skip("no fbgemm here")


def made(configuration):
    torch.manual_seed(0)
    plain = transformers.AutoModelForCausalLM.from_config(configuration).float().eval()
    with torch.no_grad():
        for name, parameter in plain.named_parameters():
            if "norm" in name or "bias" in name:
                parameter.copy_(torch.rand_like(parameter) + 0.5)
            else:
                parameter.mul_(3)
    return plain


SHAPES = {
    "llama": config("llama"),
    "with biases": config("llama", attention_bias=True, mlp_bias=True),
    "one head for each key": config("llama", num_key_value_heads=4),
    "one key for all, odd widths": config("llama", num_key_value_heads=1, intermediate_size=85, hidden_size=72),
    "wide heads": config("llama", head_dim=40),
    "scaled positions": config("llama", rope_scaling={"rope_type": "linear", "factor": 4.0}),
    "window": config("mistral"),
    "qwen2": transformers.Qwen2Config(**COMMON),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_it_computes_what_the_model_computes(shape):
    plain = made(SHAPES[shape])
    tokens = prompt(0, 90)
    half = TorchMachine(plain, tokenizer(), "x", frames=16, weights="fp16")
    assert half.lean
    rows = [
        Row((5, 1, 9, 3, 0, 7), start, tokens[start:end], Sampling("s")) for start, end in ((0, 70), (70, 89), (89, 90))
    ]
    with torch.inference_mode():
        ours = torch.cat([half.logits(Tick(1, [row], [])) for row in rows])
        plain.set_attn_implementation("sdpa")
        theirs = plain(input_ids=torch.tensor([tokens]), use_cache=False).logits[0, [69, 88, 89]]
    assert float((ours - theirs).abs().max() / theirs.abs().max()) < 1e-4


@pytest.mark.parametrize("kind", ["qwen3", "gemma2", "gemma3", "gpt_neox", "gpt_oss"])
def test_another_model_is_run_as_it_is(kind):
    assert not TorchMachine(model(kind), tokenizer(), kind, frames=16, weights="fp16").lean


def test_a_model_with_something_in_between_is_run_as_it_is():
    changed = model()
    changed.model.layers[1].mlp.register_forward_hook(lambda module, given, out: out * 1.5)
    told = TorchMachine(changed, tokenizer(), "x", frames=64, weights="fp16")
    assert not told.lean


def test_whole_weights_are_run_as_they_are():
    assert not TorchMachine(model(), tokenizer(), "x", frames=16).lean


def test_activations_and_norms_are_those_of_torch():
    kernel = native.kernel()
    torch.manual_seed(0)
    for rows, width in ((1, 5), (3, 64), (40, 85)):
        x, delta, weight = torch.randn(rows, width) * 30, torch.randn(rows, width), torch.rand(width)
        expected = torch.nn.functional.rms_norm(x + delta, (width,), weight, 1e-5)
        out = torch.empty_like(x)
        kernel.tokix_norm(*(t.data_ptr() for t in (x, delta, weight)), 1e-5, rows, width, out.data_ptr())
        torch.testing.assert_close(out, expected)
        both = torch.randn(rows, 2 * width) * 30
        kernel.tokix_gate(both.data_ptr(), rows, width, out.data_ptr())
        torch.testing.assert_close(out, torch.nn.functional.silu(both[:, :width]) * both[:, width:])


def test_greedy_tokens_are_those_of_the_same_machine_run_as_it_is(monkeypatch):
    told = Bursts(TorchMachine(model(), tokenizer(), "x", frames=64, weights="fp16"), [prompt(1, 20)]).until([60])
    monkeypatch.setattr(lean, "FAMILY", frozenset())
    plain = TorchMachine(model(), tokenizer(), "x", frames=64, weights="fp16")
    assert not plain.lean
    assert Bursts(plain, [prompt(1, 20)]).until([60]).tokens == told.tokens
