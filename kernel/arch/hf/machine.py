"""The torch machine: one packed forward of a Hugging Face model for all rows of a tick.

Rows of prompts and rows that decode go through the model together, as one sequence of tokens with positions of their
own; only attention knows where one ends and the next begins (see `attention`). The model is that of transformers, or a
leaner way to the same logits (`weights`, `lean`, `whole`), which is compared with it at load (`probe`).

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
from hashlib import sha256
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any, Literal

# Before torch is loaded. Threads that spin while they wait cost much more than they gain where cores are shared.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch
from torch import Tensor

from tokix.kernel.arch.hf import cuda
from tokix.kernel.arch.hf.attention import Batch, Pool, Recorder, Shape, last_tokens, record
from tokix.kernel.arch.hf.cuda import Gpu
from tokix.kernel.arch.hf.device import forms
from tokix.kernel.arch.hf.grouped import grouped
from tokix.kernel.arch.hf.lean import Lean
from tokix.kernel.arch.hf.models import read_note
from tokix.kernel.arch.hf.native import Kernel, Missing
from tokix.kernel.arch.hf.paged import NativeBatch, kernel_for
from tokix.kernel.arch.hf.probe import PROBE, Forward, Pack, Probe, as_it_is, layers_of, line, run_padded, tokens_of
from tokix.kernel.arch.hf.reference import ModelError
from tokix.kernel.arch.hf.sampling import choose
from tokix.kernel.arch.hf.swap import Places
from tokix.kernel.arch.hf.vocabulary import HFVocabulary
from tokix.kernel.arch.hf.weights import halved
from tokix.kernel.arch.hf.whole import Whole
from tokix.kernel.costs import Costs
from tokix.kernel.events import Row, Tick, with_names
from tokix.kernel.frames import frames_for

if TYPE_CHECKING:
    from collections.abc import Sequence

#: Bytes of memory for frames, and of the swap file, if nobody says how many frames there are.
MEMORY = SWAP = 1 << 30
#: What the weights of linear maps are kept in, and keys and values. With bf16 all else is in bf16, too, else in fp32.
Weights = Literal["q4", "q8", "fp16", "fp32", "bf16"]
#: Bits of a weight in groups.
BITS: dict[Weights, Literal[4, 8]] = {"q4": 4, "q8": 8}
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
        weights: Weights | None = "fp32",
        kept: Weights = "fp32",
        gpu: Gpu | None = None,
    ) -> None:
        """Take over a model of transformers, with its tokenizer, on the device where it is.

        The model is in fp32, and `weights` says what they are to become on the CPU: with fp16 it is faster, and is kept
        in fp32 where it would answer something else then; in groups of 8 or 4 bits it is faster still, and answers
        something else; where that cannot be had, they are in fp16. With None they are in 4 bits where they come from
        such a grid and lose nothing, else in fp16. Keys and values can be `kept` in fp16, too, which is
        half of the bytes of a frame. Or the model is in bf16, and stays so. `window` (tokens) is at most what the model
        was made for; `frames` of 16 tokens is 1 GiB of them by default, and on a GPU most of what is free; `slots`,
        what the swap file has room for, is 1 GiB, and 0 for none; `threads` is the number of cores. `gpu` is what a GPU
        does for it, and is found out by itself. Raises ModelError for a model that cannot be run on frames.
        """
        self._model = model.eval()
        self._threads = threads or len(os.sched_getaffinity(0))
        self._set = False
        super().__init__(tokenizer, _stops(model, tokenizer), model.get_output_embeddings().weight.shape[0])
        self._words = min(len(tokenizer), model.get_output_embeddings().weight.shape[0])
        longest = getattr(model.config.get_text_config(), "max_position_embeddings", None) or 2048
        self.window = min(window or longest, longest)
        #: Why attention is done in torch, and nothing better; nothing if there is.
        self.slow = ""
        #: Why the weights are not what was wanted; nothing if they are.
        self.whole = ""
        self.weights: Weights = weights or "fp16"
        #: What keys and values are kept in.
        self.kept: Weights = "bf16" if model.dtype == torch.bfloat16 else "fp32"
        self._kept: torch.dtype = model.dtype
        self._pack: Pack = Batch
        self._kernel: Kernel | None = None
        self._gpu: Gpu | None = None
        #: What the rows of the tick before have sampled, for those that name it.
        self._said = torch.zeros(cuda.NAMED, dtype=torch.long, device=model.device)
        self._told: list[int | None] = []
        with torch.inference_mode():
            layers = layers_of(model)
            self._attention(layers, gpu)
            probe = Probe(model, self._memory(2 * frames_for(PROBE), layers.shapes), self._pack)
            self._forward: Forward = partial(as_it_is, model)
            probe.on_frames(self._forward)
            self._weigh(weights, probe)
            if self._kernel and kept == "fp16" and probe.halved_frames(self._forward):
                self.kept, self._kept = "fp16", torch.float16
            self.frames = frames or max(self._room(layers.shapes), 8)
            if self._kernel and self.weights in (*BITS, "fp16"):
                kind = Lean if self.weights == "fp16" else Whole
                self._forward = probe.lean(self._forward, kind, layers, self._kernel)
                if isinstance(self._forward, Whole):  # its rows need no company for their bits
                    self._pack = partial(NativeBatch, kernel=self._kernel, align=1)
            #: Whether the model is run in few steps, and not as it is.
            self.lean = isinstance(self._forward, Lean | Whole)
            #: Other weights give other tokens, so they are another machine.
            self.name = f"{name},{self.weights}"
            #: Why ticks on a GPU are not run as graphs; nothing if they are, and on a CPU.
            self.launched = probe.decoded(self._forward, self._gpu, self._said) if self._gpu else ""
            #: Why the logits of a burst depend on its company by rounding; nothing if they are always the same.
            self.rounding = "attention is done in torch" if self.slow else ""
            if self._gpu:
                self.rounding = "on a GPU the sums of a product are ordered by the number of rows"
            if not (self.rounding or probe.same_in_company(self._forward)):
                self.rounding = "its layers compute other things for a token beside others"
            self._places = Places(
                self._memory(self.frames, layers.shapes), self.frames, self._slots(slots, layers.shapes)
            )
            self.slots = self._places.slots
            self._decoder = None
            if self._gpu and not self.launched:
                self._decoder = cuda.Decoder(self._places.pool, self._forward, self._gpu, self._said)
            self.costs = self._measured()
            self.frame_size = self._places.size
            self.ahead = model.device.type == "cuda"
            alone = probe.alone(self._forward).cpu().numpy().tobytes()
            self.arithmetic = sha256(f"{self._threads} {self.slow == ''} {self.lean} ".encode() + alone).hexdigest()

    def _weigh(self, weights: Weights | None, probe: Probe) -> None:
        """Keep the weights in the form that is wanted, or in the next best."""
        if weights is None and self._kernel and not grouped(self._model, self._kernel, 4, losing=False):
            self.weights = "q4"
        if weights and weights in BITS:
            why = grouped(self._model, self._kernel, BITS[weights]) if self._kernel else "there are no kernels in C"
            self.whole, self.weights = why, "fp16" if why else weights
        if self.weights == "fp16" and (why := halved(self._model, lambda: probe.alone(self._forward))):
            self.whole, self.weights = f"{self.whole}; {why}" if self.whole else why, "fp32"

    def _measured(self) -> Costs:
        """Measure what the work costs, on frames that nobody has yet."""
        count = frames_for(MEASURED + 1)
        if count > self.frames:
            return Costs()
        table, tokens = tuple(range(count)), tokens_of(self._model, MEASURED + 1)
        many = _fastest(lambda: self.logits(Tick(0, [Row(table, 0, tokens[:MEASURED], None)], [])))
        one = _fastest(lambda: self.logits(Tick(0, [Row(table, MEASURED, tokens[MEASURED:], None)], [])))
        return Costs(one, max(many - one, 0.0) / (MEASURED - 1), self._places.price(2 * MEASURED))

    def _attention(self, layers: Recorder, gpu: Gpu | None) -> None:
        """Choose what does attention: the kernel in C, a GPU, or else torch."""
        device = self._model.device
        try:
            if gpu or device.type == "cuda":
                cuda.check(layers)
                self._gpu = gpu or cuda.gpu_for(device, self._model.dtype)
                self._pack = partial(cuda.packed, gpu=self._gpu, said=self._said)
            else:
                self._kernel = kernel_for(layers.shapes, device)
                self._pack = partial(NativeBatch, kernel=self._kernel)
        except Missing as error:
            self.slow = str(error)

    def _room(self, shapes: dict[int, Shape]) -> int:
        """Give how many frames there is memory for."""
        device = self._model.device
        memory = cuda.room(device) if device.type == "cuda" else MEMORY
        size: int = record(shapes) * self._kept.itemsize
        return memory // size

    def _slots(self, slots: int | None, shapes: dict[int, Shape]) -> int:
        """Give how many frames the swap file is to have."""
        size: int = record(shapes) * self._kept.itemsize
        return SWAP // size if slots is None else slots

    def _memory(self, frames: int, shapes: dict[int, Shape]) -> Pool:
        """Make a pool of frames; on a GPU with one for trash."""
        device = self._model.device
        return Pool(frames + bool(self._gpu), shapes, device, for_kernel=bool(self._kernel), dtype=self._kept)

    def run(self, tick: Tick) -> list[int | None]:
        """Run one tick; gives a token per row, None where the row does not sample."""
        return self.start(tick)()

    def start(self, tick: Tick) -> Callable[[], list[int | None]]:
        """Begin a tick; gives what waits for its end. The next one may be begun before.

        A GPU works on meanwhile if all rows that sample take the best token; otherwise, and on a CPU, the tick is done.
        """
        if not self._set:  # the number of threads belongs to the thread that asks for them
            torch.set_num_threads(self._threads)
            if self._model.device.type == "cuda":  # so does the device of streams
                torch.cuda.set_device(self._model.device)
            self._set = True
        with torch.inference_mode():
            logits, owners = self._logits(tick)
            chosen = self._sample([row for row in tick.rows if row.sampling], logits[:, : self._words])
            if not self._gpu:
                self._told = _by_row(tick.rows, chosen.tolist())
                return partial(list, self._told)
            if len(chosen):
                self._said[owners] = chosen
            wait = cuda.fetched(chosen)
            return lambda: _by_row(tick.rows, wait())

    def read(self, places: Sequence[int], tokens: int) -> bytes:
        """Give what is in frames and slots; slots of tokens behind the first `tokens` are zeros."""
        with torch.inference_mode():
            return self._places.read(places, tokens)

    def fill(self, frames: Sequence[int], data: bytes) -> None:
        """Fill frames."""
        with torch.inference_mode():
            self._places.fill(frames, data)

    def logits(self, tick: Tick) -> Tensor:
        """Run one tick as far as its logits, [rows that sample, vocabulary]; of the last row if none does."""
        return self._logits(tick)[0]

    def _logits(self, tick: Tick) -> tuple[Tensor, Tensor | slice]:
        """Give the logits, and on a GPU the numbers of their rows."""
        for source, target in tick.copies:
            self._places.move(source, target)
        rows = tick.rows if self._gpu else with_names(tick.rows, self._told)
        if self._decoder and cuda.decodes(rows):
            return self._decoder(rows), slice(len(rows))
        batch = self._pack(self._places.pool, rows)
        logits = run_padded(self._forward, batch, last_tokens(rows))
        return logits, batch.owners[batch.picks] if isinstance(batch, cuda.GpuBatch) else slice(0)

    def notes(self) -> Iterator[str]:
        """Give what somebody should know who runs this model here, line by line."""
        if self.problem:
            yield f"{self.problem}; messages are marked with `User:` and `Assistant:`"
        if self.whole:
            yield f"its weights stay in {self.weights}, which is slower: {self.whole}"
        if self.slow:
            yield f"attention is done in torch, which is slower: {self.slow}"
        if self._places.missing:
            yield f"what loses its frames is computed again, for there is no swap file: {self._places.missing}"
        if self.launched:
            yield f"ticks on the GPU are launched step by step, which is slower: {self.launched}"
        if self.rounding:
            yield f"answers depend by rounding on what else runs: {self.rounding}"

    def _sample(self, rows: Sequence[Row], logits: Tensor) -> Tensor:
        """Choose a token for each row from logits [rows, vocabulary], on their device; the best without waiting."""
        if not any(row.sampling and (row.sampling.schema or row.sampling.temperature) for row in rows):
            return logits.argmax(-1)[: len(rows)]
        chosen = [self._choose(row, scores) for row, scores in zip(rows, logits, strict=False)]
        return torch.tensor(chosen, device=logits.device)

    def _choose(self, row: Row, scores: Tensor) -> int:
        assert row.sampling
        if row.sampling.schema:
            allowed = torch.from_numpy(self.grammars.allowed(row.sampling.stream, row.sampling.schema, row.said))
            scores = scores.masked_fill(~allowed.to(scores.device), -torch.inf)
        return choose(scores, row.sampling, row.start + len(row.feed))


def _by_row(rows: Sequence[Row], chosen: Sequence[int]) -> list[int | None]:
    """Give a token per row, None where it does not sample."""
    tokens = iter(chosen)
    return [next(tokens) if row.sampling else None for row in rows]


def load(
    folder: Path,
    name: str,
    *,
    weights: Weights | None = None,
    kept: Weights | None = None,
    device: str = "cpu",
    **shape: Any,
) -> TorchMachine:
    """Load the model of a folder, as transformers saves it; `shape` is that of TorchMachine. Raises ModelError.

    If nobody says, the weights are in the fastest form that loses nothing (see `device` and TorchMachine); frames are
    kept in fp16 unless the weights are in fp32, or somebody says otherwise.
    """
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    known = forms(device)
    if weights is None and device != "cpu":
        weights = known[0]
    if weights and weights not in known:
        raise ModelError(f"{name}: on {device} weights are in {', '.join(known[:-1])} or {known[-1]}, not in {weights}")
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        dtype = torch.bfloat16 if weights == "bf16" else torch.float32
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, local_files_only=True)
    except (OSError, ValueError, KeyError, ImportError, SafetensorError) as error:
        advice = "; `tokix models verify` says whether it is whole" if read_note(folder) else ""
        raise ModelError(f"{name}: transformers cannot load {folder}: {line(error)}{advice}") from error
    try:
        kept = kept or ("fp32" if weights == "fp32" else "fp16")
        return TorchMachine(model.to(device), tokenizer, name, weights=weights, kept=kept, **shape)
    except ModelError as error:
        raise ModelError(f"{name} cannot be run: {error}") from error
    except torch.OutOfMemoryError as error:
        raise ModelError(f"{name} with its frames does not fit into the memory of {device}: {line(error)}") from error


def _fastest(work: Callable[[], object]) -> float:
    """Give the microseconds that some work takes when nothing is in its way."""
    times = []
    for _ in range(3):
        start = perf_counter()
        work()
        times.append(perf_counter() - start)
    return min(times) * 1e6


def _stops(model: Any, tokenizer: Any) -> frozenset[int]:
    """Give the tokens that end an answer."""
    found: set[int] = set()
    for stops in (model.generation_config.eos_token_id, model.config.eos_token_id, tokenizer.eos_token_id):
        found.update([stops] if isinstance(stops, int) else stops or ())
    if not found:
        raise ModelError("neither it nor its tokenizer says which token ends a text (eos_token_id)")
    return frozenset(found)
