"""The torch machine: one packed forward of a Hugging Face model for all rows of a tick.

Rows of prompts and rows that decode go through the model together, as one sequence of tokens with positions of their
own; only attention knows where one ends and the next begins (see `attention`). The model is that of transformers, or a
leaner way to the same logits (`weights`, `lean`). What can be done with a model is not a matter of its name: a probe at
load compares it with itself.

The guarantee: on the CPU, the logits of a burst are a function of its tokens, bit for bit. They do not depend on the
other rows of a tick, on where the frames lie, on the pieces in which a prompt is fed, or on copies and on what was done
before. It holds for one computer, one set of libraries and one number of threads, with the attention kernel in C, and
for models that do to a token what they do in any company (experts that gather their tokens do not). `rounding` says why
a machine does not give it: then such logits differ by rounding, and where two tokens are a tie, so may the answer.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from functools import partial
from inspect import signature
from itertools import pairwise
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any, Literal

# Before torch is loaded. Threads that spin while they wait cost much more than they gain where cores are shared.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch
from torch import Tensor

from tokix.kernel.arch.hf.attention import NAME, Batch, Packed, Pool, Recorder, record
from tokix.kernel.arch.hf.lean import Lean
from tokix.kernel.arch.hf.models import read_note
from tokix.kernel.arch.hf.native import Kernel, Missing
from tokix.kernel.arch.hf.paged import NativeBatch, kernel_for
from tokix.kernel.arch.hf.reference import ModelError
from tokix.kernel.arch.hf.sampling import choose
from tokix.kernel.arch.hf.swap import SwapFile, folder
from tokix.kernel.arch.hf.vocabulary import HFVocabulary
from tokix.kernel.arch.hf.weights import halved
from tokix.kernel.costs import Costs
from tokix.kernel.events import Row, Tick
from tokix.kernel.frames import FRAME, frames_for

if TYPE_CHECKING:
    from collections.abc import Sequence

#: Bytes of memory for frames, and of the swap file, if nobody says how many frames there are.
MEMORY = SWAP = 1 << 30
#: What the weights of linear maps are kept in; all else is in fp32.
Weights = Literal["fp16", "fp32"]
#: Makes the batch of a tick.
Pack = Callable[[Pool, "Sequence[Row]"], Packed]
#: Gives the logits [rows, vocabulary] of some rows of a batch.
Forward = Callable[[Any, Tensor], Tensor]
#: Tokens of the probe, and the largest difference of logits that it allows, as a share of the largest logit.
PROBE, TOLERANCE = 24, 1e-3
#: Tokens of the prompt that costs are measured with.
MEASURED = 32


class TorchMachine(HFVocabulary):
    """A model, its tokenizer and its frames, as the Machine port. `run` has to be called by one thread at a time."""

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        name: str,
        *,
        frames: int | None = None,
        slots: int | None = None,
        window: int | None = None,
        threads: int | None = None,
        weights: Weights = "fp32",
    ) -> None:
        """Take over a model of transformers, in fp32, with its tokenizer.

        `window` (tokens) is at most what the model was made for; `frames` of 16 tokens is 1 GiB of them by default, and
        so is `slots`, what the swap file has room for, with 0 for none; `threads` is the number of cores. With the
        weights in fp16 it is faster, and is kept in fp32 where it would answer something else then. Raises ModelError
        for a model that cannot be run on frames.
        """
        self._model = model.eval()
        self._threads = threads or len(os.sched_getaffinity(0))
        self._set = False
        super().__init__(tokenizer, _stops(model, tokenizer), model.get_output_embeddings().weight.shape[0])
        self._words = min(len(tokenizer), model.get_output_embeddings().weight.shape[0])
        longest = getattr(model.config.get_text_config(), "max_position_embeddings", None) or 2048
        self.window = min(window or longest, longest)
        with torch.inference_mode():
            layers = _layers(model)
            shapes = layers.shapes
            size = 4 * record(shapes)
            self.frames = frames or max(MEMORY // size, 8)
            self.slots = SWAP // size if slots is None else slots
            #: Why attention is done in torch; nothing if it is done by the kernel in C.
            self.slow = ""
            self._pack: Pack = Batch
            kernel = None
            try:
                kernel = kernel_for(shapes, model.device)
                self._pack = partial(NativeBatch, kernel=kernel)
            except Missing as error:
                self.slow = str(error)
            probe = Probe(
                model, Pool(2 * frames_for(PROBE), shapes, model.device, for_kernel=not self.slow), self._pack
            )
            self._forward: Forward = partial(_as_it_is, model)
            probe.on_frames(self._forward)
            #: Why the weights are in fp32 although fp16 was wanted; nothing if they are what was wanted.
            self.whole = halved(model, lambda: probe.alone(self._forward)) if weights == "fp16" else ""
            self.weights: Weights = "fp32" if self.whole else weights
            if kernel and self.weights == "fp16":
                self._forward = probe.lean(self._forward, layers, kernel)
            #: Whether the model is run in few steps, and not as it is.
            self.lean = isinstance(self._forward, Lean)
            #: Other weights give other tokens, so they are another machine.
            self.name = f"{name},{self.weights}"
            #: Why the logits of a burst depend on its company by rounding; nothing if they are always the same.
            self.rounding = "attention is done in torch" if self.slow else ""
            if not (self.rounding or probe.same_in_company(self._forward)):
                self.rounding = "its layers compute other things for a token beside others"
            self._pool = Pool(self.frames, shapes, model.device, for_kernel=not self.slow)
            #: Why there is no swap file; nothing if there is one, or none was wanted.
            self.no_swap = ""
            self._swap = self._swap_file(record(shapes)) if self.slots else None
            self.costs = self._measured()

    def _swap_file(self, numbers: int) -> SwapFile | None:
        try:
            return SwapFile(self.slots, numbers)
        except OSError as error:
            self.slots, self.no_swap = 0, f"{error.strerror} in {folder()}"
            return None

    def _measured(self) -> Costs:
        """Measure what the work costs, on frames that nobody has yet."""
        count = frames_for(MEASURED + 1)
        if count > self.frames:
            return Costs()
        table = tuple(range(count))
        tokens = _tokens(self._model, MEASURED + 1)
        many = _fastest(lambda: self.logits(Tick(0, [Row(table, 0, tokens[:MEASURED], None)], [])))
        one = _fastest(lambda: self.logits(Tick(0, [Row(table, MEASURED, tokens[MEASURED:], None)], [])))
        return Costs(
            one, max(many - one, 0.0) / (MEASURED - 1), self._swapped(min(self.frames, self.slots, 2 * MEASURED))
        )

    def _swapped(self, count: int) -> float:
        """Measure what it takes to move a frame out or in, with several: one alone would lie in a cache."""
        start = perf_counter()
        for frame in range(count):
            self._move(frame, self.frames + frame)
        for frame in range(count):
            self._move(self.frames + frame, frame)
        return (perf_counter() - start) * 1e6 / (2 * count) if count else 0.0

    def _move(self, source: int, target: int) -> None:
        """Copy a frame from place to place: places behind the frames are slots of the swap file."""
        if source < self.frames and target < self.frames:
            self._pool.copy(source, target)
            return
        assert self._swap
        if target >= self.frames:
            self._swap.write(target - self.frames, self._pool.memory[source])
        else:
            self._swap.read(source - self.frames, self._pool.memory[target])

    def run(self, tick: Tick) -> list[int | None]:
        """Run one tick; gives a token per row, None where the row does not sample."""
        if not self._set:  # the number of threads belongs to the thread that asks for them
            torch.set_num_threads(self._threads)
            self._set = True
        with torch.inference_mode():
            logits = self.logits(tick)
            chosen = iter(self._sample([row for row in tick.rows if row.sampling], logits[:, : self._words]))
            return [next(chosen) if row.sampling else None for row in tick.rows]

    def logits(self, tick: Tick) -> Tensor:
        """Run one tick as far as its logits, [rows that sample, vocabulary]; of the last row if none does."""
        for source, target in tick.copies:
            self._move(source, target)
        last, at = [], -1
        for row in tick.rows:
            at += len(row.feed)
            if row.sampling:
                last.append(at)
        return run_padded(self._forward, self._pack(self._pool, tick.rows), last or [at])

    def notes(self) -> Iterator[str]:
        """Give what somebody should know who runs this model here, line by line."""
        if self.problem:
            yield f"{self.problem}; messages are marked with `User:` and `Assistant:`"
        if self.whole:
            yield f"its weights stay in fp32, which is slower: {self.whole}"
        if self.slow:
            yield f"attention is done in torch, which is slower: {self.slow}"
        if self.no_swap:
            yield f"what loses its frames is computed again, for there is no swap file: {self.no_swap}"
        if self.rounding:
            yield f"answers depend by rounding on what else runs: {self.rounding}"

    def _sample(self, rows: Sequence[Row], logits: Tensor) -> list[int]:
        """Choose a token for each row from logits [rows, vocabulary]."""
        if not any(row.sampling and (row.sampling.schema or row.sampling.temperature) for row in rows):
            greedy: list[int] = logits.argmax(-1).tolist()[: len(rows)]
            return greedy
        return [self._choose(row, scores) for row, scores in zip(rows, logits, strict=False)]

    def _choose(self, row: Row, scores: Tensor) -> int:
        assert row.sampling
        if row.sampling.schema:
            allowed = torch.from_numpy(self.grammars.allowed(row.sampling.stream, row.sampling.schema, row.said))
            scores = scores.masked_fill(~allowed.to(scores.device), -torch.inf)
        return choose(scores, row.sampling, row.start + len(row.feed))


def load(folder: Path, name: str, *, weights: Weights = "fp16", **shape: Any) -> TorchMachine:
    """Load the model of a folder, as transformers saves it; `shape` is that of TorchMachine. Raises ModelError."""
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
    except (OSError, ValueError, KeyError, ImportError, SafetensorError) as error:
        advice = "; `tokix models verify` says whether it is whole" if read_note(folder) else ""
        raise ModelError(f"{name}: transformers cannot load {folder}: {_line(error)}{advice}") from error
    try:
        return TorchMachine(model, tokenizer, name, weights=weights, **shape)
    except ModelError as error:
        raise ModelError(f"{name} cannot be run: {error}") from error


def run_padded(forward: Forward, batch: Packed, rows: list[int]) -> Tensor:
    """Give the logits [rows, vocabulary] of some tokens of a batch."""
    padded = rows + rows[-1:] * (-len(rows) % batch.align)  # the last product is one like the others
    return forward(batch, torch.tensor(padded, device=batch.ids.device))[: len(rows)]


def _fastest(work: Callable[[], object]) -> float:
    """Give the microseconds that some work takes when nothing is in its way."""
    times = []
    for _ in range(3):
        start = perf_counter()
        work()
        times.append(perf_counter() - start)
    return min(times) * 1e6


def _as_it_is(model: Any, batch: Packed, rows: Tensor) -> Tensor:
    """Run the model of transformers."""
    more = {"logits_to_keep": rows} if "logits_to_keep" in signature(model.forward).parameters else {}
    out = model(input_ids=batch.ids, position_ids=batch.positions, use_cache=False, batch=batch, **more)
    logits: Tensor = out.logits[0].float() if more else out.logits[0, rows].float()
    return logits


def _stops(model: Any, tokenizer: Any) -> frozenset[int]:
    """Give the tokens that end an answer."""
    found: set[int] = set()
    for stops in (model.generation_config.eos_token_id, model.config.eos_token_id, tokenizer.eos_token_id):
        found.update([stops] if isinstance(stops, int) else stops or ())
    if not found:
        raise ModelError("neither it nor its tokenizer says which token ends a text (eos_token_id)")
    return frozenset(found)


# ---- the probe: does the model do the same on frames, in pieces, as alone?


def _layers(model: Any) -> Recorder:
    """Give what the layers are like, as the hook sees them."""
    config = model.config.get_text_config()
    scaling = getattr(config, "rope_scaling", None) or getattr(config, "rope_parameters", None) or {}
    kinds = {str(value) for value in _values(scaling)} & {"dynamic", "longrope"}
    if kinds:
        raise ModelError(f"its positions are scaled by the longest neighbour (rope type {kinds.pop()})")
    recorder = Recorder()
    _with_hook(model, lambda: _plain(model, 4, batch=recorder))
    layers = getattr(config, "num_hidden_layers", len(recorder.shapes))
    if len(recorder.shapes) != layers or recorder.twice:
        raise ModelError(
            f"{layers} layers, {len(recorder.shapes)} of which keep keys and values through the attention interface of "
            f"transformers{' more than once' if recorder.twice else ''}; tokix runs decoders whose only state is that"
        )
    return recorder


def _values(tree: Any) -> list[Any]:
    return [leaf for value in tree.values() for leaf in _values(value)] if isinstance(tree, dict) else [tree]


class Probe:
    """Some tokens that a model is tried with, in many ways."""

    def __init__(self, model: Any, pool: Pool, pack: Pack) -> None:
        self._model, self._pool, self._pack = model, pool, pack

    def on_frames(self, forward: Forward) -> None:
        """Compare the model with itself on frames, and leave it there; raises ModelError."""
        plain = _plain(self._model, PROBE).logits[0].float()
        ours: list[Tensor] = []
        _with_hook(self._model, lambda: ours.append(self.in_company(forward)))
        self._model.set_attn_implementation(NAME)
        if not _are_close(ours[0], plain):
            raise ModelError(
                "in pieces it computes something else than in one pass: its logits differ by "
                f"{float((ours[0] - plain).abs().max()):.2g}; it has a state that is not in keys and values"
            )

    def lean(self, forward: Forward, layers: Recorder, kernel: Kernel) -> Forward:
        """Give a leaner forward that computes the same, or else the one that is there."""
        try:
            lean = Lean(self._model, layers.attentions, kernel)
        except (ValueError, AttributeError):  # it is of another form
            return forward
        return lean if _are_close(self.in_company(lean), self.alone(forward)) else forward

    def same_in_company(self, forward: Forward) -> bool:
        """Say whether it gives the same bits in company and in pieces as alone and in one."""
        alone = self.alone(forward)
        return all(torch.equal(logits, alone) for logits in self.in_company(forward))

    def in_company(self, forward: Forward) -> Tensor:
        """Feed it in uneven pieces into scattered frames, twice, side by side; gives [2, tokens, vocabulary]."""
        count = frames_for(PROBE)
        tables = [tuple(range(0, 2 * count, 2)), tuple(range(2 * count - 1, 0, -2))]
        return self._fed(forward, tables, (0, 5, 6, FRAME + 3, PROBE))

    def alone(self, forward: Forward) -> Tensor:
        """Feed it at once; gives logits [tokens, vocabulary]."""
        return self._fed(forward, [tuple(range(frames_for(PROBE)))], (0, PROBE))[0]

    def _fed(self, forward: Forward, tables: list[tuple[int, ...]], cuts: Sequence[int]) -> Tensor:
        tokens = _tokens(self._model, PROBE)
        done = []
        for start, end in pairwise(cuts):
            rows = [Row(table, start, tokens[start:end], None) for table in tables]
            logits = run_padded(forward, self._pack(self._pool, rows), list(range(len(tables) * (end - start))))
            done.append(logits.unflatten(0, (len(tables), -1)))
        return torch.cat(done, 1)


def _are_close(ours: Tensor, theirs: Tensor) -> bool:
    return float((ours - theirs).abs().max()) <= TOLERANCE * float(theirs.abs().max())


def _with_hook(model: Any, run: Callable[[], object]) -> None:
    """Run with the hook in place; raises ModelError where there is no place for it."""
    before = model.config._attn_implementation
    try:
        model.set_attn_implementation(NAME)
        run()
    except (ValueError, TypeError, AttributeError, NotImplementedError, RuntimeError, IndexError) as error:
        raise ModelError(f"its attention cannot be replaced: {_line(error)}") from error
    finally:
        model.set_attn_implementation(before)


def _plain(model: Any, count: int, **more: Any) -> Any:
    ids = torch.tensor([_tokens(model, count)], device=model.device)
    positions = torch.arange(count, device=model.device)[None]
    return model(input_ids=ids, position_ids=positions, use_cache=False, **more)


def _tokens(model: Any, count: int) -> list[int]:
    """Give some tokens that have nothing to do with each other, the same ones every time."""
    words = model.get_input_embeddings().weight.shape[0]
    return [(7919 * i + 13) % words for i in range(count)]


def _line(error: BaseException) -> str:
    """Give an error in one line."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 300 else f"{text[:300]}…"
