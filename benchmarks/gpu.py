"""What the machine does on a GPU: `python benchmarks/gpu.py [--quick] [--json FILE] [--device cuda]`, in one command.

First whether it is right: the logits of SmolLM2 in bf16 on the GPU, prompts and decodes as graphs, against those in
fp32 on the CPU. Then how fast it decodes: 1, 8 and 64 bursts of greedy tokens behind 512 tokens of context each, with
SmolLM2-135M and with random weights in the shape of Llama-3.1-8B. The ways to do it are

  launched     ticks of the machine, every operation launched by itself
  graphs       ticks as CUDA graphs, each waited for before the next is formed
  ahead        the same, but the next tick names the tokens of the last, so that the host does not wait
  generate     transformers, one static batch
  continuous   transformers, continuous batching

A figure is tokens per second, and the share of the memory bandwidth that a copy reaches on this device: a step has to
read all weights, and the keys and values of all bursts. Both of transformers' ways are timed from the prompt to the
last token, minus the time for the prompt and one token. A way that fails is a line that says why; `--ways` leaves some
out. With `--device cpu` it is a test of this file and of nothing else, with a model that is small.
"""

from __future__ import annotations

import argparse
import gc
import json
import platform
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import torch
import transformers
from rich.console import Console
from rich.table import Table

from tokix.kernel.arch.hf import models
from tokix.kernel.arch.hf.attention import NAME
from tokix.kernel.arch.hf.machine import TorchMachine, Weights, load
from tokix.kernel.arch.hf.reference import DEFAULT
from tokix.kernel.events import Row, Sampling, Tick
from tokix.kernel.frames import frames_for

WAYS = ("launched", "graphs", "ahead", "generate", "continuous")
BURSTS, CONTEXT, STEPS, WARM = (1, 8, 64), 512, 128, 8
#: Tokens of a tick of prompts.
CHUNK = 2048
#: meta-llama/Llama-3.1-8B, as its config.json says.
LLAMA: dict[str, Any] = {
    "vocab_size": 128256,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "max_position_embeddings": 131072,
    "rope_theta": 500000.0,
}
ASK = Sampling("s")


class Figure(NamedTuple):
    """How fast a way is; `why` it failed, or nothing."""

    model: str
    bursts: int
    way: str
    tokens: float = 0.0
    bandwidth: float = 0.0
    why: str = ""


class Shape(NamedTuple):
    """How much is done."""

    bursts: tuple[int, ...]
    context: int
    steps: int


# ---- is it right?


@torch.inference_mode()
def differences(folder: Path, device: str, context: int) -> dict[str, float]:
    """Compare logits with those of the CPU, as shares of the largest; and how many of the best tokens are the same."""
    ours, exact = load(folder, "gpu", device=device, frames=256), load(folder, "cpu", weights="fp32", frames=256)
    per = frames_for(context + 1)
    tables = [tuple(range(i, 3 * per, 3)) for i in range(3)]
    prompts = [tokens_of(i, context - 7 * i) for i in range(3)]
    found: dict[str, float] = {}
    for what, rows in (
        ("prompts", [Row(table, 0, prompt, ASK) for table, prompt in zip(tables, prompts, strict=True)]),
        ("decode", [Row(table, len(prompt), [50], ASK) for table, prompt in zip(tables, prompts, strict=True)]),
        (
            "mixed",
            [Row(tables[0], len(prompts[0]), [50], ASK), *(Row(tables[i], 0, prompts[i], ASK) for i in (1, 2))],
        ),
    ):
        here, there = (machine.logits(Tick(1, rows, [])).float().cpu() for machine in (ours, exact))
        found[f"{what}: largest difference"] = float((here - there).abs().max() / there.abs().max())
        found[f"{what}: same best token"] = float((here.argmax(-1) == there.argmax(-1)).float().mean())
    return found


def tokens_of(seed: int, count: int) -> list[int]:
    draws = torch.Generator().manual_seed(seed)
    return torch.randint(100, 40000, (count,), generator=draws).tolist()


# ---- how fast is it?


def machine_for(model: Any, tokenizer: Any, shape: Shape) -> TorchMachine:
    frames = max(shape.bursts) * frames_for(shape.context + shape.steps + WARM + 1)
    weights: Weights = "bf16" if model.dtype == torch.bfloat16 else "fp32"
    return TorchMachine(model, tokenizer, "benchmark", frames=frames, window=4096, weights=weights)


def ticks(machine: TorchMachine, bursts: int, shape: Shape, ahead: bool) -> float:
    """Give the seconds of a tick in which every burst gets a token."""
    per = frames_for(shape.context + shape.steps + WARM + 1)
    tables = [tuple(range(i * per, (i + 1) * per)) for i in range(bursts)]
    prompts = [tokens_of(i, shape.context) for i in range(bursts)]
    together = max(CHUNK // shape.context, 1)
    said: list[int | None] = []
    for first in range(0, bursts, together):
        some = range(first, min(first + together, bursts))
        said += machine.run(Tick(1, [Row(tables[i], 0, prompts[i], ASK) for i in some], []))
    begin = 0.0
    wait: Callable[[], list[int | None]] = said.copy
    for step in range(WARM + shape.steps):
        if step == WARM:
            wait()
            begin = time.perf_counter()
        names = ahead and step > 0
        feeds = [[~i] for i in range(bursts)] if names else [[token] for token in wait() if token is not None]
        rows = [Row(table, shape.context + step, feed, ASK) for table, feed in zip(tables, feeds, strict=True)]
        wait = machine.start(Tick(1, rows, []))
    wait()
    return (time.perf_counter() - begin) / shape.steps


def launched(machine: TorchMachine, bursts: int, shape: Shape) -> float:
    decoder, machine._decoder = machine._decoder, None
    try:
        return ticks(machine, bursts, shape, ahead=False)
    finally:
        machine._decoder = decoder


def peer(model: Any, bursts: int, shape: Shape, run: Callable[[Any, list[list[int]], int], object]) -> float:
    """Give the seconds of a step of transformers: what more tokens take longer."""
    prompts = [tokens_of(i, shape.context) for i in range(bursts)]
    model.set_attn_implementation("sdpa")
    try:
        run(model, prompts, 2)
        times = []
        for count in (1, 1 + shape.steps):
            begin = time.perf_counter()
            run(model, prompts, count)
            if model.device.type == "cuda":
                torch.cuda.synchronize()
            times.append(time.perf_counter() - begin)
        return max(later - earlier for earlier, later in pairwise(times)) / shape.steps
    finally:
        model.set_attn_implementation(NAME)


@torch.inference_mode()
def generate(model: Any, prompts: list[list[int]], count: int) -> None:
    ids = torch.tensor(prompts, device=model.device)
    model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        generation_config=transformers.GenerationConfig(
            max_new_tokens=count, min_new_tokens=count, do_sample=False, eos_token_id=0, pad_token_id=0
        ),
    )


def continuous(model: Any, prompts: list[list[int]], count: int) -> None:
    how = transformers.GenerationConfig(max_new_tokens=count, do_sample=False, eos_token_id=-1, pad_token_id=0)
    done = model.generate_batch(inputs=prompts, generation_config=how, progress_bar=False)
    lengths = {len(result.generated_tokens) for result in done.values()}
    if len(done) != len(prompts) or lengths != {count}:
        raise RuntimeError(f"{len(done)} of {len(prompts)} answers, of {sorted(lengths)} tokens instead of {count}")


def measured(
    name: str, model: Any, tokenizer: Any, shape: Shape, peak: float, chosen: Sequence[str] = WAYS
) -> Iterator[Figure]:
    machine = machine_for(model, tokenizer, shape)
    for note in machine.notes():
        print(f"{name}: {note}", flush=True)
    weights = sum(p.numel() * p.element_size() for p in model.parameters()) - unread(model)
    ways: dict[str, Callable[[int], float]] = {
        "launched": lambda bursts: launched(machine, bursts, shape),
        "graphs": lambda bursts: ticks(machine, bursts, shape, ahead=False),
        "ahead": lambda bursts: ticks(machine, bursts, shape, ahead=True),
        "generate": lambda bursts: peer(model, bursts, shape, generate),
        "continuous": lambda bursts: peer(model, bursts, shape, continuous),
    }
    token = sum(heads * (key + value) for heads, key, value in machine._places.pool.shapes.values())
    for bursts in shape.bursts:
        read = weights + bursts * (shape.context + shape.steps / 2) * token * machine._places.pool.memory.element_size()
        for way in chosen:
            try:
                seconds = ways[way](bursts)
            except (RuntimeError, ValueError, TypeError, AttributeError, ImportError, NotImplementedError) as error:
                why = " ".join(str(error).split())[:200] or type(error).__name__
                yield Figure(name, bursts, way, why=why)
            else:
                yield Figure(name, bursts, way, bursts / seconds, read / seconds / peak)


def unread(model: Any) -> int:
    """Give the bytes of weights that a step does not read: an embedding that is not the head, too."""
    embedding, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    return 0 if embedding is head else embedding.numel() * embedding.element_size()


def bandwidth(device: str) -> float:
    """Give the bytes per second that a copy reads and writes."""
    source = torch.zeros((1 << 30) if device != "cpu" else (1 << 26), dtype=torch.uint8, device=device)
    target, best = torch.empty_like(source), 0.0
    for _ in range(10):
        begin = time.perf_counter()
        target.copy_(source)
        if device != "cpu":
            torch.cuda.synchronize(device)
        best = max(best, 2 * source.numel() / (time.perf_counter() - begin))
    return best


def llama(device: str) -> Any:
    """Make a model with random weights."""
    small: dict[str, Any] = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2}
    small |= {"num_attention_heads": 4, "num_key_value_heads": 2}
    config = transformers.LlamaConfig(**LLAMA | (small if device == "cpu" else {}), eos_token_id=0, bos_token_id=1)
    torch.manual_seed(0)
    with torch.device(device):
        dtype = torch.float32 if device == "cpu" else torch.bfloat16
        return transformers.AutoModelForCausalLM.from_config(config, dtype=dtype).eval()


def smollm2(folder: Path, device: str) -> Any:
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    model: Any = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
    return model.to(device).eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few steps, few bursts")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there, too")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=WAYS, metavar="WAY", help="(default: all)")
    options = parser.parse_args()
    if options.device != "cpu" and not torch.cuda.is_available():
        sys.exit(f"torch {torch.__version__} sees no GPU here; `tokix doctor` says more")
    shape = Shape((1, 4), 64, 16) if options.quick else Shape(BURSTS, CONTEXT, STEPS)
    folder = models.locate(DEFAULT)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    where = platform.processor() if options.device == "cpu" else torch.cuda.get_device_name(options.device)
    peak = bandwidth(options.device)
    versions = f"torch {torch.__version__}, transformers {transformers.__version__}"
    print(f"{where}, {versions}, a copy moves {peak / 1e9:.0f} GB/s", flush=True)
    right = differences(folder, options.device, shape.context)
    for what, difference in right.items():
        print(f"{what}: {difference:.4f}", flush=True)
    figures: list[Figure] = []
    makers: dict[str, Callable[[], Any]] = {
        "SmolLM2-135M": lambda: smollm2(folder, options.device),
        "Llama-8B, random": lambda: llama(options.device),
    }
    if options.device == "cpu":
        del makers["SmolLM2-135M"]
    for name, make in makers.items():
        for figure in measured(name, make(), tokenizer, shape, peak, options.ways):
            print(" ".join(map(str, figure)), flush=True)  # at once: time on a GPU can end
            figures.append(figure)
            if options.json:
                found = {"device": where, "versions": versions, "peak": peak, "right": right}
                all_of_it = found | {"figures": [figure._asdict() for figure in figures]}
                options.json.write_text(json.dumps(all_of_it, indent=2) + "\n")
        gc.collect()
        if options.device != "cpu":
            torch.cuda.empty_cache()
    show(figures)


def show(figures: list[Figure]) -> None:
    ways = list(dict.fromkeys(figure.way for figure in figures))
    table = Table("model", "bursts", *ways, title="Tokens per second (share of the bandwidth)")
    for model, bursts in dict.fromkeys((figure.model, figure.bursts) for figure in figures):
        cells = [f for f in figures if (f.model, f.bursts) == (model, bursts)]
        table.add_row(model, str(bursts), *(f"{f.tokens:.0f} ({f.bandwidth:.0%})" if f.tokens else "-" for f in cells))
    Console().print(table)


if __name__ == "__main__":
    main()
