"""The attention kernel in C: what torch gives, to rounding, the same bits in any company; or torch, and why."""

import random
from importlib.util import find_spec
from pathlib import Path

import pytest

if find_spec("torch") is None or find_spec("transformers") is None:
    pytest.skip("needs tokix[hf]", allow_module_level=True)

import torch
from test_torch import Bursts, model, prompt, tokenizer

from tokix import doctor
from tokix.kernel.arch.hf import native, paged
from tokix.kernel.arch.hf.attention import Attention, Pool, Shape
from tokix.kernel.arch.hf.machine import TorchMachine
from tokix.kernel.events import Row

CPU = torch.device("cpu")


@pytest.fixture(name="attend", scope="module")
def compiled():
    try:
        return native.kernel()
    except native.Missing as error:
        pytest.skip(f"no kernel here: {error}")


@pytest.fixture(name="cache")
def empty_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TOKIX_CACHE", str(tmp_path))
    return tmp_path


def test_it_gives_what_torch_gives(attend):
    assert paged.difference(attend) < 1e-5


def test_it_runs_on_the_threads_of_torch(attend):
    """A second runtime of OpenMP in the process would have threads of its own, which fight with torch's."""
    maps = Path("/proc/self/maps")
    if not maps.exists():
        pytest.skip("needs /proc")
    libraries = {line.split()[-1] for line in maps.read_text().splitlines() if "gomp" in line or "libomp" in line}
    assert len(libraries) == 1


HOW = {
    "plain": Attention(),
    "window": Attention(0.3, 21),
    "softcap": Attention(0.5, 0, 3.0),
    "sinks": Attention(0.2, 9, None, torch.linspace(-1, 1, 6)),
}


@pytest.mark.parametrize("how", HOW)
def test_a_token_has_the_same_bits_in_any_company_on_any_frames_in_any_pieces(attend, how):
    """Three bursts of known queries, keys and values, fed in many ways; slots that nobody wrote are poisoned."""
    draws, shape, lengths = random.Random(how), Shape(2, 24, 40), (70, 33, 5)
    torch.manual_seed(0)
    queries = [torch.randn(1, 6, n, 24) for n in lengths]
    keys, values = ([torch.randn(1, 2, n, width) for n in lengths] for width in (24, 40))

    def feed(gang, sizes):
        """Feed the bursts of a gang in pieces of random sizes; gives what attention said of every token."""
        pool = Pool(24, {0: shape}, CPU, for_kernel=True)
        pool.memory.fill_(torch.nan)
        tables = dict(zip(gang, torch.randperm(24)[: 6 * len(gang)].view(-1, 6).tolist(), strict=True))
        done, said = dict.fromkeys(gang, 0), {i: [] for i in gang}
        while left := [i for i in gang if done[i] < lengths[i]]:
            some = draws.sample(left, draws.randint(1, len(left)))
            ends = {i: min(done[i] + draws.choice(sizes), lengths[i]) for i in some}
            rows = [Row(tuple(tables[i]), done[i], [0] * (ends[i] - done[i]), None) for i in some]
            batch = paged.NativeBatch(pool, rows, attend)

            padding = (0, 0, 0, batch.ids.shape[1] - batch.count)
            given = [
                torch.nn.functional.pad(torch.cat([what[i][:, :, done[i] : ends[i]] for i in some], 2), padding)
                for what in (queries, keys, values)
            ]
            out = batch.attend(0, *given, HOW[how])
            parts = out[0].split([ends[i] - done[i] for i in some] + [batch.ids.shape[1] - batch.count])
            for i, part in zip(some, parts, strict=False):
                said[i].append(part)
            done |= ends
        return {i: torch.cat(parts) for i, parts in said.items()}

    alone = {i: feed([i], [100])[i] for i in range(3)}
    assert all(part.isfinite().all() for part in alone.values())
    for _ in range(20):
        gang = feed(draws.sample(range(3), 3), draws.choice([[1], [1, 2, 17], [16, 5], [40]]))
        assert all(torch.equal(gang[i], alone[i]) for i in range(3))


def test_number_of_threads_changes_nothing(attend):
    before, said = torch.get_num_threads(), []
    torch.manual_seed(0)
    given = [torch.randn(1, heads, 32, 64) for heads in (9, 3, 3)]
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            batch = paged.NativeBatch(
                Pool(4, {0: Shape(3, 64, 64)}, CPU, for_kernel=True), [Row((2, 1), 0, [0] * 32, None)], attend
            )
            said.append(batch.attend(0, *given, Attention()))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(said[0], said[1])
    assert torch.equal(said[0], said[2])


# ---- without it


@pytest.mark.parametrize(
    ("compiler", "why"),
    [
        ("/nowhere/cc", r"there is no C compiler \(/nowhere/cc\)"),
        ("false", "`false` does not compile it"),
        ("{folder}/broken", "does not compile it: error: no such luck"),
    ],
)
def test_without_a_compiler_attention_is_done_in_torch_and_the_doctor_says_why(compiler, why, cache, monkeypatch):
    broken = cache / "broken"
    broken.write_text('#!/bin/sh\n[ "$1" = --version ] && exit 0\necho "error: no such luck" >&2\nexit 1\n')
    broken.chmod(0o755)
    monkeypatch.setenv("CC", compiler.format(folder=cache))
    with pytest.raises(native.Missing, match=why):
        native.kernel()
    assert not list(cache.glob("native/*.so"))
    slow = TorchMachine(model(), tokenizer(), "slow", frames=64)
    assert slow.slow
    told = Bursts(slow, [prompt(1, 20)]).until([40]).tokens
    assert told == Bursts(TorchMachine(model(), tokenizer(), "slow", frames=64), [prompt(1, 20)]).until([40]).tokens
    [found] = doctor.attention()
    assert (found.what, found.state) == ("attention", "note")


def test_a_kernel_that_computes_something_else_is_refused_for_good(attend, cache, monkeypatch):
    shapes = {0: Shape(2, 16, 16)}
    with monkeypatch.context() as patch:
        patch.setattr(paged, "difference", lambda kernel: 0.5)
        with pytest.raises(native.Missing, match="something else than torch"):
            paged.kernel_for(shapes, CPU)
    with pytest.raises(native.Missing, match="something else than torch"):
        paged.kernel_for(shapes, CPU)
    [found] = doctor.attention()
    assert found.state == "note"
    assert "slower: it computes something else than torch" in found.found


def test_the_doctor_knows_where_the_kernel_is(attend, cache):
    [found] = doctor.attention()
    assert (found.state, found.found) == ("ok", "kernel in C, compiled when the first model is loaded")
    native.kernel()
    [found] = doctor.attention()
    assert found.found.startswith(f"kernel in C, {cache}/native/kernels-")


def test_another_compiler_or_flag_gives_another_library(attend, cache, monkeypatch):
    path = native.library()
    monkeypatch.setattr(native, "FLAGS", (*native.FLAGS, "-g"))
    assert native.library() != path


def test_values_that_are_too_wide_are_left_to_torch():
    with pytest.raises(native.Missing, match="wider than 512"):
        paged.kernel_for({0: Shape(2, 16, 16), 1: Shape(2, 16, 513)}, CPU)


def test_padding_is_kept_nowhere(attend):
    driven = TorchMachine(model(), tokenizer(), "llama", frames=8)
    with torch.inference_mode():
        driven._places.pool.memory.fill_(7.0)
    Bursts(driven, [prompt(3, 5)]).tick([0], 5)
    pool = driven._places.pool
    assert pool.memory.ne(7.0).sum() == 5 * sum(h * (k + v) for h, k, v in pool.shapes.values())
