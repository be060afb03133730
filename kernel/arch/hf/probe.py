"""The probe: whether a model does the same on frames, in pieces and in company, as alone and at once.

What can be done with a model is not a matter of its name. It is compared with itself at load, on a few tokens, for
every form in which it is to be run; what computes something else is refused, or left out.
"""

from __future__ import annotations

from collections.abc import Callable
from inspect import signature
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tokix.kernel.arch.hf import cuda
from tokix.kernel.arch.hf.attention import NAME, Packed, Pool, Recorder
from tokix.kernel.arch.hf.cuda import Gpu
from tokix.kernel.arch.hf.lean import Lean
from tokix.kernel.arch.hf.native import Kernel
from tokix.kernel.arch.hf.reference import ModelError
from tokix.kernel.arch.hf.whole import Whole
from tokix.kernel.events import Row, Sampling
from tokix.kernel.frames import FRAME, frames_for

if TYPE_CHECKING:
    from collections.abc import Sequence

#: Makes the batch of a tick.
Pack = Callable[[Pool, "Sequence[Row]"], Packed]
#: Gives the logits [rows, vocabulary] of some rows of a batch.
Forward = Callable[[Any, Tensor], Tensor]
#: Tokens of the probe, and the largest difference of logits that it allows, as a share of the largest logit.
PROBE, TOLERANCE = 24, {torch.float32: 1e-3, torch.bfloat16: 0.05}
#: The difference that is allowed to frames in fp16 instead of fp32: what the weights are allowed, too.
HALVED = 0.01


def run_padded(forward: Forward, batch: Packed, rows: list[int]) -> Tensor:
    """Give the logits [rows, vocabulary] of some tokens of a batch."""
    padded = rows + rows[-1:] * (-len(rows) % batch.align)  # the last product is one like the others
    return forward(batch, batch.picked(padded))[: len(rows)]


def as_it_is(model: Any, batch: Packed, rows: Tensor) -> Tensor:
    """Run the model of transformers."""
    more = {"logits_to_keep": rows} if "logits_to_keep" in signature(model.forward).parameters else {}
    out = model(input_ids=batch.ids, position_ids=batch.positions, use_cache=False, batch=batch, **more)
    logits: Tensor = out.logits[0].float() if more else out.logits[0, rows].float()
    return logits


def layers_of(model: Any) -> Recorder:
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
        if not self._close(ours[0], plain):
            raise ModelError(
                "in pieces it computes something else than in one pass: its logits differ by "
                f"{float((ours[0] - plain).abs().max()):.2g}; it has a state that is not in keys and values"
            )

    def halved_frames(self, forward: Forward) -> bool:
        """Keep keys and values in fp16, unless the logits are others then; says whether they are."""
        alone, whole = self.alone(forward), self._pool
        self._pool = Pool(len(whole.memory), whole.shapes, whole.memory.device, for_kernel=True, dtype=torch.float16)
        if float((self.alone(forward) - alone).abs().max()) > HALVED * float(alone.abs().max()):
            self._pool = whole
        return self._pool is not whole

    def lean(self, forward: Forward, kind: type[Lean | Whole], layers: Recorder, kernel: Kernel) -> Forward:
        """Give a leaner forward that computes the same, or else the one that is there."""
        try:
            lean = kind(self._model, layers.attentions, kernel)
        except (ValueError, AttributeError):  # it is of another form
            return forward
        return lean if self._close(self.in_company(lean), self.alone(forward)) else forward

    def decoded(self, forward: Forward, gpu: Gpu, said: Tensor) -> str:
        """Say why ticks of one token per row cannot be graphs, or nothing."""
        tokens, table = tokens_of(self._model, PROBE), tuple(range(frames_for(PROBE)))
        try:
            decoder = cuda.Decoder(self._pool, forward, gpu, said)
            rows = [Row(table, i, [token], Sampling("")) for i, token in enumerate(tokens)]
            ours = torch.cat([decoder([row]).clone() for row in rows])
        except RuntimeError as error:  # what depends on the values of a tensor cannot be recorded
            return f"it cannot be recorded: {line(error)}"
        return "" if self._close(ours, self.alone(forward)) else "it computes something else then"

    def _close(self, ours: Tensor, theirs: Tensor) -> bool:
        return float((ours - theirs).abs().max()) <= TOLERANCE[self._model.dtype] * float(theirs.abs().max())

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
        tokens = tokens_of(self._model, PROBE)
        done = []
        for start, end in pairwise(cuts):
            rows = [Row(table, start, tokens[start:end], None) for table in tables]
            logits = run_padded(forward, self._pack(self._pool, rows), list(range(len(tables) * (end - start))))
            done.append(logits.unflatten(0, (len(tables), -1)))
        return torch.cat(done, 1)


def _with_hook(model: Any, run: Callable[[], object]) -> None:
    """Run with the hook in place; raises ModelError where there is no place for it."""
    before = model.config._attn_implementation
    try:
        model.set_attn_implementation(NAME)
        run()
    except (ValueError, TypeError, AttributeError, NotImplementedError, RuntimeError, IndexError) as error:
        raise ModelError(f"its attention cannot be replaced: {line(error)}") from error
    finally:
        model.set_attn_implementation(before)


def _plain(model: Any, count: int, **more: Any) -> Any:
    ids = torch.tensor([tokens_of(model, count)], device=model.device)
    positions = torch.arange(count, device=model.device)[None]
    return model(input_ids=ids, position_ids=positions, use_cache=False, **more)


def tokens_of(model: Any, count: int) -> list[int]:
    """Give some tokens that have nothing to do with each other, the same ones every time."""
    words = model.get_input_embeddings().weight.shape[0]
    return [(7919 * i + 13) % words for i in range(count)]


def line(error: BaseException) -> str:
    """Give an error in one line."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 300 else f"{text[:300]}…"
