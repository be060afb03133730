"""The machine on a GPU, as far as a CPU can tell: the same code, with a reference for attention and nothing recorded.

What needs a device is at the end, and is left out where there is none.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest

if find_spec("torch") is None or find_spec("transformers") is None:
    pytest.skip("needs tokix[hf]", allow_module_level=True)

import torch
from test_torch import Bursts, generated, model, prompt, tokenizer
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from tokix import doctor, machines
from tokix.kernel.arch.hf import cuda, device
from tokix.kernel.arch.hf.attention import Attention, Batch, Pool, Shape, last_tokens
from tokix.kernel.arch.hf.cuda import Gpu, GpuBatch, Size
from tokix.kernel.arch.hf.machine import TorchMachine, load
from tokix.kernel.arch.hf.native import Missing
from tokix.kernel.arch.hf.reference import ModelError
from tokix.kernel.arch.toy import ToyMachine
from tokix.kernel.events import Row, Sampling, Tick

CPU = torch.device("cpu")
ASK = Sampling("s")
needs_a_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def reference(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cu_seq_q: Tensor,
    cu_seq_k: Tensor,
    max_q: int,
    max_k: int,
    *,
    scale: float | None,
    window_size: tuple[int, int],
) -> Tensor:
    """Be `varlen_attn`, one sequence after the other; what no sequence has is poison, as it could be on a device."""
    out = query.new_full((*query.shape[:2], value.shape[2]), torch.nan)
    back, ahead = window_size
    assert ahead == 0
    spans = zip(pairwise(cu_seq_q.tolist()), pairwise(cu_seq_k.tolist()), strict=True)
    for (first, last), (start, end) in spans:
        assert 0 < last - first <= max_q
        assert last - first <= end - start <= max_k
        distance = torch.arange(end - start - (last - first), end - start)[:, None] - torch.arange(end - start)
        mask = (distance >= 0) & ((distance <= back) if back >= 0 else True)
        q, k, v = (tensor.transpose(0, 1) for tensor in (query[first:last], key[start:end], value[start:end]))
        done = scaled_dot_product_attention(q, k, v, mask, scale=scale, enable_gqa=True)
        out[first:last] = done.transpose(0, 1)
    return out


class Recorded:
    """Records by calling again, and counts."""

    def __init__(self) -> None:
        self.made = self.run = 0

    def __call__(self, work: Callable[[], Tensor]) -> Callable[[], Tensor]:
        self.made += 1
        work()  # a device warms up

        def repeat() -> Tensor:
            self.run += 1
            return work()

        return repeat


def on_gpu(kind: str = "llama", record: Any = None, **shape: Any) -> TorchMachine:
    driven = TorchMachine(
        model(kind), tokenizer(), kind, **{"frames": 64} | shape, gpu=Gpu(reference, record or Recorded())
    )
    driven.stops = frozenset()
    return driven


# ---- a batch


HOW = {"plain": Attention(), "scale": Attention(0.3), "window": Attention(None, 21), "narrow": Attention(0.2, 1)}
FEEDS = ((5, 1, (3, 9)), (47, 1, (7, 1, 12, 10)), (0, 18, (5, 2)), (30, 9, (11, 4, 6)), (15, 2, (8, 0)))


def attended(make: Callable[[Pool, list[Row]], Any], rows: list[Row], how: Attention) -> tuple[Tensor, Tensor]:
    """Give what attention says of rows, and the frames afterwards."""
    draws = torch.Generator().manual_seed(0)
    pool = Pool(17, {0: Shape(2, 24, 24), 1: Shape(2, 24, 24)}, CPU, for_kernel=False)
    pool.memory.normal_(generator=draws)
    batch = make(pool, rows)
    size = sum(len(row.feed) for row in rows)
    query = torch.randn(1, 6, size, 24, generator=draws)
    key, value = (torch.randn(1, 2, size, 24, generator=draws) for _ in range(2))
    padding = (0, 0, 0, batch.ids.shape[1] - size)
    sides = (torch.nn.functional.pad(side, padding) for side in (query, key, value))
    return batch.attend(1, *sides, how)[:, :size], pool.memory


def in_torch(pool: Pool, rows: list[Row]) -> Batch:
    return Batch(pool, rows)


def packed(pool: Pool, rows: list[Row]) -> GpuBatch:
    return cuda.packed(pool, rows, Gpu(reference, Recorded()), torch.zeros(8, dtype=torch.long))


def padded(pool: Pool, rows: list[Row]) -> GpuBatch:
    size = cuda.size_of_decode(rows)
    plan = cuda.numbers(size, rows, range(len(rows)), cuda.trash_of(pool))
    return GpuBatch(pool, size, plan, torch.zeros(8, dtype=torch.long), reference, ())


@pytest.mark.parametrize("how", HOW)
def test_a_mixed_tick_is_what_it_is_in_torch(how):
    rows = [Row(table, start, list(range(count)), None) for start, count, table in FEEDS]
    (ours, frames), (theirs, expected) = (attended(make, rows, HOW[how]) for make in (packed, in_torch))
    assert torch.equal(frames, expected)
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("how", HOW)
def test_a_padded_decode_is_what_it_is_in_torch_and_padding_is_written_to_the_trash(how):
    rows = [Row(table, start, [7], ASK) for start, _, table in FEEDS]
    (ours, frames), (theirs, expected) = (attended(make, rows, HOW[how]) for make in (padded, in_torch))
    assert torch.equal(frames[:-1], expected[:-1])
    assert not torch.equal(frames[-1], expected[-1])
    torch.testing.assert_close(ours, theirs)


def test_the_numbers_of_a_tick():
    rows = [Row((4, 2), 15, [8, 9], ASK), Row((3,), 1, [~0], None)]
    size = Size(tokens=4, rows=3, reach=40, picks=2, longest=(2, 40))
    parts = cuda.numbers(size, rows, last_tokens(rows), 6).split(size.parts)
    assert [part.tolist() for part in parts] == [
        [8, 9, -1, 0],
        [15, 16, 1, 0],
        [0, 0, 1, 2],
        [1, 1],
        [0, 2, 3, 4],
        [0, 17, 19, 20],
        [0, 2, 3, 4],
        [4, 2, 3, 6, 6, 6],
    ]


@pytest.mark.parametrize(
    ("starts", "lanes", "reach"),
    [([0], 1, 256), ([255], 1, 256), ([256], 1, 512), ([9] * 3, 4, 256), ([99] * 3, 4, 512), ([127, 127], 2, 256)],
)
def test_a_decode_is_of_the_next_power_of_two(starts, lanes, reach):
    rows = [Row(tuple(range(20)), start, [0], ASK) for start in starts]
    assert cuda.size_of_decode(rows) == Size(lanes, lanes, reach, lanes, (1, reach))


def test_only_rows_of_one_token_that_sample_are_a_decode():
    decode, silent, chunk = Row((1,), 3, [1], ASK), Row((1,), 3, [1], None), Row((1,), 3, [1, 2], ASK)
    assert cuda.decodes([decode] * cuda.LANES)
    assert not cuda.decodes([decode] * (cuda.LANES + 1))
    assert not cuda.decodes([decode, silent])
    assert not cuda.decodes([chunk, decode])


# ---- a machine


@pytest.mark.parametrize("kind", ["llama", "qwen3", "gemma3", "mistral", "gpt_neox"])
def test_tokens_are_those_of_generate_alone_and_in_any_gang(kind):
    prompts, count, record = [prompt(i, n) for i, n in enumerate((3, 30, 17, 41))], 12, Recorded()
    driven = on_gpu(kind, record)
    assert (driven.slow, driven.launched) == ("", "")
    gang = Bursts(driven, prompts).until([len(p) + count for p in prompts]).tokens
    alone = Bursts(driven, prompts[3:]).until([len(prompts[3]) + count]).tokens
    plain = model(kind)
    for said, burst in ((gang[0], 0), (gang[1], 1), (gang[3], 3), (alone[0], 3)):
        tokens, gaps = generated(plain, prompts[burst], count)
        same = [ours == theirs for ours, theirs in zip(said[len(prompts[burst]) :], tokens, strict=False)]
        assert all(same) or gaps[same.index(False)] < 1e-3
    assert record.run > record.made


def test_a_decode_has_the_logits_of_the_plain_batch():
    driven, plain = on_gpu(), TorchMachine(model(), tokenizer(), "plain", frames=64)
    fill = [Row((i, 20 + i), 0, prompt(i, 17 + i), ASK) for i in range(5)]
    decode = [Row((i, 20 + i), 17 + i, [40 + i], ASK) for i in range(5)]
    with torch.inference_mode():
        for rows in (fill, decode, decode[1:4], decode[4:]):
            torch.testing.assert_close(driven.logits(Tick(1, rows, [])), plain.logits(Tick(1, rows, [])))
    assert driven._decoder
    assert {size.rows for size in driven._decoder._kept} == {8, 4, 1}


def test_a_size_is_recorded_once():
    record = Recorded()
    driven = on_gpu(record=record)
    before = record.made
    for position in range(10):
        driven.run(Tick(1, [Row((3,), position, [5], ASK), Row((4,), position, [6], ASK)], []))
    assert record.made == before + 1


def test_nothing_is_written_but_to_the_frames_of_rows_and_the_trash():
    driven = on_gpu(frames=8)
    with torch.inference_mode():
        driven._places.pool.memory.fill_(7.0)
    assert (driven.frames, len(driven._places.pool.memory)) == (8, 9)
    driven.run(Tick(1, [Row((i,), 2, [5], ASK) for i in (1, 4, 6)], []))
    touched = driven._places.pool.memory.ne(7.0).any(1).nonzero().flatten().tolist()
    assert touched == [1, 4, 6, 8]


@pytest.mark.parametrize(("kind", "reason"), [("gemma2", "soft caps"), ("gpt_oss", "sinks")])
def test_what_attention_over_sequences_cannot_do_is_done_in_torch(kind, reason):
    driven = on_gpu(kind)
    assert reason in driven.slow
    assert any("attention is done in torch" in note for note in driven.notes())
    assert len(driven._places.pool.memory) == driven.frames
    plain = TorchMachine(model(kind), tokenizer(), kind, frames=64)
    prompts = [prompt(1, 20), prompt(2, 5)]
    ours, theirs = (Bursts(machine, prompts).until([26, 11]).tokens for machine in (driven, plain))
    assert ours == theirs


def test_heads_of_odd_widths_are_done_in_torch():
    with pytest.raises(Missing, match="multiple of 8"):
        cuda.check(SimpleNamespace(attentions={}, shapes={0: Shape(2, 12, 12)}))  # type: ignore[arg-type]
    with pytest.raises(Missing, match="one width"):
        cuda.check(SimpleNamespace(attentions={}, shapes={0: Shape(2, 24, 16)}))  # type: ignore[arg-type]


def test_what_cannot_be_recorded_is_launched_step_by_step_which_is_said():
    def refuse(work: Callable[[], Tensor]) -> Callable[[], Tensor]:
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    driven = on_gpu(record=refuse)
    assert "cannot be recorded: operation not permitted" in driven.launched
    assert any("step by step" in note for note in driven.notes())
    assert Bursts(driven, [prompt(1, 9)]).until([20]).tokens == Bursts(on_gpu(), [prompt(1, 9)]).until([20]).tokens


def test_a_recording_that_computes_something_else_is_not_used():
    def stale(work: Callable[[], Tensor]) -> Callable[[], Tensor]:
        out = work()
        return lambda: out

    assert on_gpu(record=stale).launched == "it computes something else then"


def test_it_says_that_answers_depend_on_company_by_rounding():
    assert "on a GPU" in on_gpu().rounding
    assert len(list(on_gpu().notes())) == 1


def test_in_bf16_frames_are_in_bf16_and_tokens_nearly_those_of_transformers():
    half = model().to(torch.bfloat16)
    driven = TorchMachine(half, tokenizer(), "x", frames=16, weights="bf16", gpu=Gpu(reference, Recorded()))
    assert (driven._places.pool.memory.dtype, driven.name, driven.launched) == (torch.bfloat16, "x,bf16", "")
    tokens = prompt(1, 30)
    with torch.inference_mode():
        ours = driven.logits(Tick(1, [Row((1, 2), 0, tokens, ASK)], []))[0]
        theirs = model()(torch.tensor([tokens])).logits[0, -1]
    assert float((ours - theirs).abs().max()) < 0.05 * float(theirs.abs().max())


@pytest.mark.parametrize("sampling", [Sampling("s", 0.8, 0.9), Sampling("s", 1.0, schema='{"type": "boolean"}')])
def test_sampled_tokens_are_those_of_the_cpu(sampling):
    plain = TorchMachine(model(), tokenizer(), "plain", frames=64)
    ticks = [Tick(1, [Row((1, 2), 0, prompt(0, 30), None)], []), Tick(2, [Row((1, 2), 30, [9], sampling)], [])]
    ours, theirs = ([driven.run(tick) for tick in ticks] for driven in (on_gpu(), plain))
    assert ours == theirs
    assert ours[0] == [None]


# ---- rows that name a token of the tick before


def machines_to_name() -> list[Any]:
    return [on_gpu(), TorchMachine(model(), tokenizer(), "plain", frames=64), on_gpu("gemma2"), ToyMachine(64)]


@pytest.mark.parametrize("which", range(4))
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_feed_can_name_what_a_row_of_the_tick_before_has_sampled(which, temperature):
    """Two contexts change places from tick to tick; a third comes with its prompt, so that ticks are mixed."""
    driven, prompts = machines_to_name()[which], [prompt(i, n) for i, n in enumerate((5, 19, 40))]
    tables = [(1, 2, 3, 4), (5, 6, 7, 8), (9, 10, 11, 12)]

    def told(naming: bool) -> list[list[int]]:
        said: list[list[int]] = [[], [], []]
        before: list[int] = []
        for order in ([0, 1], [1, 0], [2, 0, 1], [1, 2, 0], [0, 2, 1], [2, 1]):
            rows = []
            for i in order:
                at = len(prompts[i]) + len(said[i]) - 1
                feed = ([~before.index(i)] if naming else said[i][-1:]) if said[i] else prompts[i]
                rows.append(Row(tables[i], at + 1 - len(feed), feed, Sampling(f"{i}", temperature)))
            for i, token in zip(order, driven.run(Tick(1, rows, [])), strict=True):
                said[i].append(token)
            before = order
        return said

    assert told(naming=True) == told(naming=False)


def test_the_next_tick_can_begin_before_the_last_is_waited_for():
    driven, tokens = on_gpu(), prompt(0, 20)
    waits = [driven.start(Tick(1, [Row((1, 2, 3), 0, tokens, ASK)], []))]
    waits += [driven.start(Tick(1, [Row((1, 2, 3), position, [~0], ASK)], [])) for position in range(20, 30)]
    assert [wait()[0] for wait in waits] == generated(model(), tokens, 11)[0]


def test_a_row_beside_that_does_not_sample_does_not_change_who_is_named():
    driven, tokens = on_gpu(), prompt(0, 20)
    expected = generated(model(), tokens, 2)[0]
    first = driven.start(Tick(1, [Row((5, 6), 0, prompt(1, 9), None), Row((1, 2), 0, tokens, ASK)], []))
    second = driven.start(Tick(1, [Row((1, 2), 20, [~1], ASK), Row((5, 6), 9, [3], None)], []))
    assert (first(), second()) == ([None, expected[0]], [expected[1], None])


@pytest.mark.parametrize("which", [1, 3])
def test_a_token_that_nobody_has_sampled_cannot_be_named(which):
    driven = machines_to_name()[which]
    driven.run(Tick(1, [Row((1,), 0, [5], ASK), Row((2,), 0, [5], None)], []))
    for row in (1, 2):
        with pytest.raises(ValueError, match=f"names the token of row {row} of the tick before"):
            driven.run(Tick(1, [Row((1,), 1, [~row], ASK)], []))


# ---- which device


@pytest.mark.parametrize(
    ("wanted", "gpus", "found"),
    [("", 0, "cpu"), (None, 1, "cuda"), ("cpu", 1, "cpu"), ("cuda", 1, "cuda"), ("cuda:1", 2, "cuda:1")],
)
def test_a_gpu_is_taken_where_there_is_one_and_nobody_says(wanted, gpus, found, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    assert device.chosen(wanted) == found


@pytest.mark.parametrize(
    ("wanted", "why"), [("gpu", "no device 'gpu'; it can be"), ("cuda", "sees 0"), ("cuda:2", "sees 0")]
)
def test_a_device_that_is_not_there_is_refused_before_anything_is_fetched(wanted, why, monkeypatch):
    monkeypatch.setenv("TOKIX_DEVICE", wanted)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(machines.Failure, match=why):
        machines.load("hf:nobody/nothing")


def test_weights_are_in_what_the_device_is_fast_with(tmp_path):
    model().save_pretrained(tmp_path)
    tokenizer().save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="x: on cpu weights are in fp16, fp32, q8 or q4, not in bf16"):
        load(tmp_path, "x", weights="bf16")
    with pytest.raises(ModelError, match="x: on cuda:1 weights are in bf16 or fp32, not in fp16"):
        load(tmp_path, "x", weights="fp16", device="cuda:1")
    assert machines.separated("m") == ("m", None)
    assert machines.separated("m,fp32") == ("m", "fp32")
    assert machines.separated("m,bf16") == ("m", "bf16")


@pytest.mark.parametrize(
    ("available", "built", "state", "text"),
    [
        (True, "13.0", "ok", "H100 (80.0 GiB)"),
        (False, None, "note", "is built without CUDA"),
        (False, "13.0", "note", "cannot use its driver"),
    ],
)
def test_the_doctor_sees_a_gpu(available, built, state, text, monkeypatch):
    monkeypatch.setattr(device.shutil, "which", lambda name: "/bin/nvidia-smi")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: available)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    card = SimpleNamespace(name="H100", total_memory=80 << 30)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda i: card)
    monkeypatch.setattr(torch.version, "cuda", built)
    [found] = doctor.gpu()
    assert (found.what, found.state, text in found.found, bool(found.todo)) == ("GPU", state, True, not available)


def test_the_doctor_is_quiet_where_there_is_no_gpu(monkeypatch):
    monkeypatch.setattr(device.shutil, "which", lambda name: None)
    if not torch.cuda.is_available():
        assert list(doctor.gpu()) == []


@pytest.mark.parametrize(
    ("dtype", "capability", "why"),
    [(torch.float32, (9, 0), "the weights are fp32"), (torch.bfloat16, (7, 5), "compute capability 8.0")],
)
def test_a_device_that_lacks_attention_over_sequences_says_why(dtype, capability, why, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda at: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda at: "T4")
    with pytest.raises(Missing, match=why):
        cuda.gpu_for(torch.device("cuda"), dtype)


def test_the_attention_of_torch_is_asked_for_what_it_knows(monkeypatch):
    """It is told to split no context where it can be told, and is called in the form that the reference has."""
    asked: list[dict[str, Any]] = []
    varlen = import_module("torch.nn.attention.varlen")

    def newer(*args: Any, scale: Any, window_size: Any, enable_gqa: bool = False, num_splits: int = 0) -> Tensor:
        asked.append({"enable_gqa": enable_gqa, "num_splits": num_splits})
        return args[0]

    def older(*args: Any, scale: Any, window_size: Any) -> Tensor:
        asked.append({})
        return args[0]

    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda at: (9, 0))
    monkeypatch.setattr(torch.cuda, "set_device", lambda at: None)
    given = torch.zeros(1, 2, 8), torch.zeros(1, 2, 8), torch.zeros(1, 2, 8), torch.zeros(2), torch.zeros(2), 1, 1
    for version in (newer, older):
        monkeypatch.setattr(varlen, "varlen_attn", version)
        cuda.gpu_for(torch.device("cuda"), torch.bfloat16).attend(*given, scale=None, window_size=(-1, 0))
    assert asked == [{"enable_gqa": True, "num_splits": 1}, {}]


# ---- on a device


@needs_a_gpu
@pytest.mark.parametrize("how", HOW)
def test_attention_on_a_device_is_the_reference(how):
    attend = cuda.gpu_for(torch.device("cuda"), torch.bfloat16).attend
    torch.manual_seed(0)
    begins = [torch.tensor(ends, dtype=torch.int32) for ends in ([0, 1, 2, 20, 29], [0, 6, 54, 72, 111])]
    query, key, value = (torch.randn(n, heads, 64).bfloat16() for n, heads in ((29, 6), (128, 2), (128, 2)))
    window = HOW[how].window - 1 if HOW[how].window else -1
    shape: dict[str, Any] = {"scale": HOW[how].scale, "window_size": (window, 0)}
    ours = attend(*(t.cuda() for t in (query, key, value, *begins)), 18, 48, **shape).cpu().float()
    theirs = reference(query.float(), key.float(), value.float(), *begins, 18, 48, **shape)
    assert float((ours - theirs).abs().max()) < 0.03


@needs_a_gpu
@pytest.mark.parametrize("kind", ["llama", "gemma3", "gpt_neox"])
def test_a_model_on_a_device_has_nearly_the_logits_of_the_cpu_as_a_graph_too(kind):
    driven = TorchMachine(model(kind).bfloat16().cuda(), tokenizer(), kind, frames=64, weights="bf16")
    assert (driven.slow, driven.launched) == ("", "")
    plain = TorchMachine(model(kind), tokenizer(), kind, frames=64)
    fill = [Row((i, 20 + i), 0, prompt(i, 17 + i), ASK) for i in range(5)]
    decode = [Row((i, 20 + i), 17 + i, [40 + i], ASK) for i in range(5)]
    with torch.inference_mode():
        for rows in (fill, decode, decode[1:4]):
            ours, theirs = (machine.logits(Tick(1, rows, [])).cpu() for machine in (driven, plain))
            assert float((ours - theirs).abs().max()) < 0.05 * float(theirs.abs().max())


@needs_a_gpu
def test_ticks_on_a_device_run_ahead_of_the_host():
    driven = TorchMachine(model().bfloat16().cuda(), tokenizer(), "x", frames=64, weights="bf16")
    tokens = prompt(0, 20)

    def told(naming: bool) -> list[Any]:
        waits = [driven.start(Tick(1, [Row((1, 2, 3), 0, tokens, ASK)], []))]
        for position in range(20, 40):
            [last] = [~0] if naming else waits[-1]()
            assert last is not None
            waits.append(driven.start(Tick(1, [Row((1, 2, 3), position, [last], ASK)], [])))
        return [wait() for wait in waits]

    assert told(naming=True) == told(naming=False)
