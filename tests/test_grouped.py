"""Grouped weights: the product of the weights on their grids, the same bits in any company; or fp16, and why."""

from importlib.util import find_spec

import pytest

if find_spec("torch") is None or find_spec("transformers") is None:
    pytest.skip("needs tokix[hf]", allow_module_level=True)

import torch
from test_torch import KINDS, Bursts, model, prompt, tokenizer
from torch import nn

from tokix.kernel.arch.hf import grouped, native, whole
from tokix.kernel.arch.hf.grouped import Grid, Grouped
from tokix.kernel.arch.hf.machine import TorchMachine
from tokix.kernel.arch.hf.weights import Lead
from tokix.kernel.events import Row, Sampling, Tick
from tokix.machines import separated

SIZES = [(64, 96), (17, 33), (85, 72), (100, 31), (1, 1), (97, 160)]


@pytest.fixture(name="kernel", autouse=True)
def needs_the_kernel():
    try:
        return native.kernel()
    except native.Missing as error:
        pytest.skip(f"no kernel here: {error}")


@pytest.fixture(autouse=True)
def without_gradients():
    with torch.inference_mode():
        yield


def linear(outputs, width, bias=True):
    torch.manual_seed(outputs)
    return nn.Linear(width, outputs, bias=bias)


# ---- grids


def test_weights_of_a_file_in_4_bits_are_found_on_their_grid_again():
    """As Q4_1 has them: scale and least in fp16, of 32; what is rounded to fp16 afterwards moves by nothing else."""
    torch.manual_seed(0)
    scale, least = ((torch.rand(40, 6, 1) + 1).half().float() * size for size in (1 / 64, -1 / 8))
    whole = torch.randint(0, 16, (40, 6, 32)).float()
    whole[..., 0], whole[..., 1] = 0, 15  # the extremes, which made the grid
    weights = (whole * scale + least).half().float().flatten(1)
    found = Grid(weights, 4)
    assert torch.equal(found.whole, whole)
    assert torch.equal(found.least, least)
    assert float((found.weight() - weights).abs().max()) <= 2**-11 * float(weights.abs().max())


def test_weights_of_a_file_in_8_bits_are_found_on_their_grid_again():
    torch.manual_seed(0)
    scale, whole = (torch.rand(40, 6, 1) + 1).half().float() / 512, torch.randint(-127, 128, (40, 6, 32)).float()
    whole[..., 3] = 127
    found = Grid((whole * scale).half().float().flatten(1), 8)
    assert torch.equal(found.whole, whole)
    assert float((found.scale - scale).abs().max()) <= 2**-10 * float(scale.max())


@pytest.mark.parametrize("bits", [4, 8])
def test_other_weights_are_rounded(bits):
    weight = linear(64, 100).weight
    step = (weight.amax() - weight.amin()) / (15 if bits == 4 else 254)
    assert float((Grid(weight, bits).weight() - weight).abs().max()) <= 0.51 * float(step)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("value", [0.0, 0.37, -2.0])
def test_a_group_of_one_value(bits, value):
    weight = torch.full((3, 40), value)
    assert torch.allclose(Grid(weight, bits).weight(), weight, rtol=1e-3)


# ---- products


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("size", SIZES)
def test_products_are_those_of_torch(kernel, bits, size):
    one = linear(*size)
    ours, weight = Grouped(kernel, bits, one), Grid(one.weight, bits).weight().double()
    for rows in (1, 2, 5, 8, 9, 13, 30, 97, 200):
        x = torch.randn(1, rows, size[1])
        theirs = nn.functional.linear(x.double(), weight, one.bias.double()).float()
        torch.testing.assert_close(ours(x), theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("size", SIZES)
def test_a_row_has_the_same_bits_in_any_company(kernel, bits, size):
    ours = Grouped(kernel, bits, linear(*size))
    x = torch.randn(120, size[1])
    alone = torch.cat([ours(x[i : i + 1]) for i in range(len(x))])
    for count in [*range(2, 30), 40, 96, 97, 98, 120]:
        for start in (0, (len(x) - count) // 2, len(x) - count):
            assert torch.equal(ours(x[start : start + count]), alone[start : start + count]), count


@pytest.mark.parametrize("bits", [4, 8])
def test_number_of_threads_changes_nothing(kernel, bits):
    ours, x, before, said = Grouped(kernel, bits, linear(300, 100)), torch.randn(20, 100), torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3, 5):
            torch.set_num_threads(threads)
            said += [torch.cat([ours(x[:1]), ours(x[:7]), ours(x)])]
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(one, said[0]) for one in said)


@pytest.mark.parametrize("sizes", [(24, 24), (85, 85), (33, 17), (16, 8, 8)])
@pytest.mark.parametrize("biased", [True, False])
def test_products_of_one_input_are_one(kernel, sizes, biased):
    linears = [linear(outputs, 40, bias=biased and outputs != 8) for outputs in sizes]
    lead = Lead(*linears, make=lambda *given: Grouped(kernel, 8, *given))
    x = torch.randn(1, 5, 40)
    theirs = torch.cat([one(x) for one in linears], -1)
    assert torch.allclose(lead.together(x), theirs, atol=0.02)
    assert torch.equal(lead(x), lead.together(x)[..., : sizes[0]])


# ---- models


@pytest.mark.parametrize("weights", ["q8", "q4"])
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "gpt_oss"])
def test_a_model_computes_what_it_would_with_the_weights_of_the_grids(kind, weights):
    plain = model(kind)
    bits = {"q8": 8, "q4": 4}[weights]
    for module in plain.modules():
        if type(module) is nn.Linear:
            of = 8 if module is plain.get_output_embeddings() else bits
            weight = torch.cat([Grid(part, of).weight() for part in module.weight.split(grouped.AT_ONCE)])
            module.weight = nn.Parameter(weight, requires_grad=False)
    driven = TorchMachine(model(kind), tokenizer(), kind, frames=16, weights=weights)
    assert (driven.name, list(driven.notes())) == (f"{kind},{weights}", [])
    assert driven.lean == (kind in ("llama", "mistral"))
    tokens = prompt(0, 90)
    rows = [
        Row((5, 1, 9, 3, 0, 7), start, tokens[start:end], Sampling("s")) for start, end in ((0, 70), (70, 89), (89, 90))
    ]
    ours = torch.cat([driven.logits(Tick(1, [row], [])) for row in rows])
    theirs = plain(input_ids=torch.tensor([tokens]), use_cache=False).logits[0, [69, 88, 89]]
    assert float((ours - theirs).abs().max() / theirs.abs().max()) < 1e-4


def test_greedy_tokens_are_those_of_the_same_machine_layer_by_layer(monkeypatch):
    told = Bursts(TorchMachine(model(), tokenizer(), "x", frames=64, weights="q4"), [prompt(1, 20)]).until([60])
    monkeypatch.setattr(whole, "family", lambda model: (_ for _ in ()).throw(ValueError("no")))
    plain = TorchMachine(model(), tokenizer(), "x", frames=64, weights="q4")
    assert not plain.lean
    assert Bursts(plain, [prompt(1, 20)]).until([60]).tokens == told.tokens


def test_threads_change_nothing_in_a_whole_model():
    said = []
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 5):
            driven = TorchMachine(model(), tokenizer(), "x", frames=16, weights="q4", threads=threads)
            torch.set_num_threads(threads)
            said.append(driven.logits(Tick(1, [Row((3, 5), 0, prompt(0, 30), Sampling("s"))], [])))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(one, said[0]) for one in said)


# ---- without them


@pytest.mark.parametrize("weights", ["q8", "q4"])
def test_without_a_compiler_weights_are_in_fp16_and_the_machine_says_why(weights, monkeypatch, tmp_path):
    monkeypatch.setenv("CC", "/nowhere/cc")
    monkeypatch.setenv("TOKIX_CACHE", str(tmp_path))
    kept = TorchMachine(model(), tokenizer(), "x", frames=64, weights=weights)
    assert kept.weights in ("fp16", "fp32")  # the latter where there is no fbgemm
    assert kept.name == f"x,{kept.weights}"
    assert any(f"stay in {kept.weights}" in note and "no kernels in C" in note for note in kept.notes())
    assert Bursts(kept, [prompt(1, 20)]).until([24]).tokens


def test_weights_that_lose_too_much_stay_as_they_are():
    """Two large weights in each group leave nothing of the others, in 4 bits."""
    uneven = model()
    weight = uneven.model.layers[1].mlp.down_proj.weight
    weight.uniform_(-0.001, 0.001)
    weight[:, ::32], weight[:, 1::32] = 0.04, -0.04
    plain = uneven(input_ids=torch.tensor([prompt(0, 9)]), use_cache=False).logits
    assert "in 4 bits a product of 64 outputs is" in grouped.grouped(uneven, native.kernel(), 4)
    assert torch.equal(uneven(input_ids=torch.tensor([prompt(0, 9)]), use_cache=False).logits, plain)


@pytest.mark.parametrize("value", [1e7, float("inf"), float("nan")])
def test_what_fp16_has_no_numbers_for_stays_as_it_is(value):
    large = model()
    large.model.layers[0].mlp.up_proj.weight[3, 5] = value
    assert "% off" in grouped.grouped(large, native.kernel(), 4)


def test_a_kernel_that_computes_something_else_is_not_used(monkeypatch):
    monkeypatch.setattr(grouped, "difference", lambda kernel: 0.5)
    kept = TorchMachine(model(), tokenizer(), "x", frames=64, weights="q4")
    assert kept.weights != "q4"
    assert any("something else than torch" in note for note in kept.notes())


def test_a_reference_may_end_with_groups():
    assert separated("smollm2,q4") == ("smollm2", "q4")
    assert separated("path:/a,b,q8") == ("path:/a,b", "q8")


def test_what_came_in_4_bits_stays_so_if_nobody_says_and_nothing_else():
    came = model()
    with torch.no_grad():
        for name, parameter in came.named_parameters():
            if parameter.dim() > 1:
                bits = 8 if "embed" in name or "lm_head" in name else 4
                parameter.copy_(Grid(parameter, bits).weight().half().float())
    assert TorchMachine(came, tokenizer(), "x", frames=64, weights=None).name == "x,q4"
    assert TorchMachine(model(), tokenizer(), "x", frames=64, weights=None).name == "x,fp16"
