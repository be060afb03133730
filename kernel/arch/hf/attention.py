"""Attention over frames, plugged into unmodified Hugging Face models.

The hook gets the queries, keys and values of all rows of a tick, packed into one sequence. It writes the new keys and
values to their slots, then reads what each row reaches through its frame table. A frame is one contiguous record of
all layers, so a copy on write is one memcpy. The kernel in C (`paged`) does both; here is the same in torch, for where
that cannot be had.

    pool    float [frames, record]       record: for each layer K, then V, in the order that suits who reads them;
                                         in fp32, or in fp16
    query   float [1, heads, T, width]   T: the tokens of all rows, one after the other, and padding
    key     float [1, kv heads, T, width]

Padding may be behind all others, so that the number of tokens is a multiple of something. Invariant: it goes through
the products of the model, and nowhere else: it is written to no frame, and nobody reads what becomes of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

from tokix.kernel.frames import FRAME, frames_for

if TYPE_CHECKING:
    from tokix.kernel.events import Row

#: The name under which models find the hook. Some substrings, such as "flash" and "sdpa", mean something to them.
NAME = "tokix_frames"


class Shape(NamedTuple):
    """What a layer keeps of a token."""

    heads: int
    key: int
    value: int


class Pool:
    """The memory of the machine."""

    def __init__(
        self,
        frames: int,
        shapes: dict[int, Shape],
        device: torch.device,
        *,
        for_kernel: bool,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        """Make room for frames of layers with these shapes, in numbers of this type.

        The kernel wants K as [heads, width, FRAME] and V as [heads, FRAME, width], torch both as [FRAME, heads, width].
        """
        self.shapes, self.for_kernel = shapes, for_kernel
        self.memory = torch.zeros(frames, record(shapes), device=device, dtype=dtype)
        #: For each layer: where its keys and its values begin in a frame.
        self.offsets: dict[int, tuple[int, int]] = {}
        #: For each layer: views [frames, FRAME, heads, width].
        self.keys: dict[int, Tensor] = {}
        self.values: dict[int, Tensor] = {}
        start = 0
        for layer, (heads, key, value) in shapes.items():
            middle = start + FRAME * heads * key
            end = middle + FRAME * heads * value
            self.offsets[layer] = start, middle
            keys, values = self.memory[:, start:middle], self.memory[:, middle:end]
            if for_kernel:
                self.keys[layer] = keys.unflatten(1, (heads, key, FRAME)).permute(0, 3, 1, 2)
                self.values[layer] = values.unflatten(1, (heads, FRAME, value)).transpose(1, 2)
            else:
                self.keys[layer] = keys.unflatten(1, (FRAME, heads, key))
                self.values[layer] = values.unflatten(1, (FRAME, heads, value))
            start = end

    def copy(self, source: int, target: int) -> None:
        self.memory[target].copy_(self.memory[source])


def record(shapes: dict[int, Shape]) -> int:
    """Count the numbers in a frame."""
    return sum(FRAME * heads * (key + value) for heads, key, value in shapes.values())


@dataclass(slots=True)
class Span:
    """The place of a row in the packed sequence, and what it reaches: positions 0…end."""

    first: int
    last: int
    start: int
    end: int
    frames: Tensor


def last_tokens(rows: Sequence[Row]) -> list[int]:
    """Give the places in a tick of the tokens whose logits are wanted: the last of each row that samples, or of all."""
    last, at = [], -1
    for row in rows:
        at += len(row.feed)
        if row.sampling:
            last.append(at)
    return last or [at]


class Packed:
    """The tokens of a tick, one after the other. It travels through the model as a keyword argument."""

    #: The number of tokens is padded to a multiple of this, and so is that of the logits.
    align = 1

    def __init__(self, pool: Pool, rows: Sequence[Row]) -> None:
        self.pool = pool
        ids = [token for row in rows for token in row.feed]
        places = [position for row in rows for position in range(row.start, row.start + len(row.feed))]
        self.count = len(ids)
        padding = [0] * (-self.count % self.align)
        self.ids = torch.tensor([ids + padding], device=pool.memory.device)
        self.positions = torch.tensor([places + padding], device=pool.memory.device)

    def picked(self, places: list[int]) -> Tensor:
        """Give the places of some tokens, on the device."""
        return torch.tensor(places, device=self.ids.device)

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, attention: Attention) -> Tensor:
        """Keep keys and values [1, kv heads, T, width]; give [1, T, heads, width] for queries [1, heads, T, width]."""
        raise NotImplementedError


class Batch(Packed):
    """Attention in torch. What a row gets depends on its neighbours by rounding: sums are ordered by shapes."""

    def __init__(self, pool: Pool, rows: Sequence[Row]) -> None:
        super().__init__(pool, rows)
        device = pool.memory.device
        frames = [row.table[p // FRAME] for row in rows for p in range(row.start, row.start + len(row.feed))]
        self.slots = torch.tensor(frames, device=device), self.positions[0, : self.count] % FRAME
        #: Rows of one token are done together, the others one by one.
        self.single: list[Span] = []
        self.chunks: list[Span] = []
        at = 0
        for row in rows:
            end = row.start + len(row.feed)
            table = torch.tensor(row.table[: frames_for(end)], device=device)
            span = Span(at, at + len(row.feed), row.start, end, table)
            (self.single if len(row.feed) == 1 else self.chunks).append(span)
            at = span.last
        if self.single:
            self.tables = torch.nn.utils.rnn.pad_sequence([span.frames for span in self.single], batch_first=True)
            self.places = torch.tensor([span.first for span in self.single], device=device)
            self.ends = torch.tensor([span.end for span in self.single], device=device)
        self._masks: dict[Any, Tensor] = {}

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, attention: Attention) -> Tensor:
        self.write(layer, key, value)
        return self.read(layer, query, attention)

    def write(self, layer: int, key: Tensor, value: Tensor) -> None:
        kind = self.pool.memory.dtype
        self.pool.keys[layer][self.slots] = key[0, :, : self.count].transpose(0, 1).to(kind)
        self.pool.values[layer][self.slots] = value[0, :, : self.count].transpose(0, 1).to(kind)

    def read(self, layer: int, query: Tensor, attention: Attention) -> Tensor:
        keys, values = self.pool.keys[layer], self.pool.values[layer]
        heads, width = keys.shape[2], values.shape[3]
        if keys.dtype != torch.float16:  # which is a form to keep numbers in, and none to compute with
            query = query.to(keys.dtype)
        packed = query[0].transpose(0, 1).unflatten(1, (heads, -1))  # [T, kv heads, group, width]
        out = packed.new_zeros((*packed.shape[:-1], width))
        if self.single:
            shape = (len(self.single), -1, heads)
            key, value = keys[self.tables].to(query.dtype), values[self.tables].to(query.dtype)
            key, value = key.reshape(*shape, key.shape[-1]), value.reshape(*shape, width)
            mask = self.mask_of_singles(attention.window)
            out[self.places] = attention(
                packed[self.places], key.transpose(1, 2), value.transpose(1, 2), mask[:, None, None]
            )
        for span in self.chunks:
            key = keys[span.frames].flatten(0, 1)[: span.end].transpose(0, 1)[None].to(query.dtype)
            value = values[span.frames].flatten(0, 1)[: span.end].transpose(0, 1)[None].to(query.dtype)
            rows = packed[span.first : span.last]  # [n, kv heads, group, width]: n and group become one dimension
            group = rows.shape[2]
            mask = self.mask_of_chunk(span, attention.window).repeat_interleave(group, 0)
            flat = rows.transpose(0, 1).flatten(1, 2)[None]
            done = attention(flat, key, value, mask[None, None], group)[0]
            out[span.first : span.last] = done.unflatten(1, (-1, group)).transpose(0, 1)
        return out.flatten(1, 2)[None]

    def mask_of_singles(self, window: int) -> Tensor:
        """Say which of the positions 0… each row of one token sees: [rows, positions]."""
        mask = self._masks.get(window)
        if mask is None:
            reach = torch.arange(self.tables.shape[1] * FRAME, device=self.ends.device)
            mask = reach < self.ends[:, None]
            if window:
                mask &= reach >= self.ends[:, None] - window
            self._masks[window] = mask
        return mask

    def mask_of_chunk(self, span: Span, window: int) -> Tensor:
        """Say which of the positions 0…end each token of a chunk sees: [tokens, positions]."""
        mask = self._masks.get((span.first, window))
        if mask is None:
            device = self.ids.device
            reach, rows = torch.arange(span.end, device=device), torch.arange(span.start, span.end, device=device)
            mask = reach <= rows[:, None]
            if window:
                mask &= reach > rows[:, None] - window
            self._masks[span.first, window] = mask
        return mask


@dataclass(slots=True, frozen=True)
class Attention:
    """What a layer says of its attention: scale, width of a sliding window (0: all), soft cap, sinks per head."""

    scale: float | None = None
    window: int = 0
    softcap: float | None = None
    sinks: Tensor | None = None

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor, group: int = 0) -> Tensor:
        """Attend: [batch, kv heads, queries, width] over [batch, kv heads, positions, width].

        The queries are the heads that share a key, `group` of them for each token (0: all are of one token).
        """
        if self.softcap is None and self.sinks is None:
            return scaled_dot_product_attention(query, key, value, mask, scale=self.scale)
        scale = query.shape[-1] ** -0.5 if self.scale is None else self.scale
        scores = query @ key.transpose(-1, -2) * scale
        if self.softcap is not None:
            scores = torch.tanh(scores / self.softcap) * self.softcap
        scores = scores.masked_fill(~mask, -torch.inf)
        if self.sinks is None:
            return scores.softmax(-1) @ value
        sinks = self.sinks.view(key.shape[1], -1)  # [kv heads, group]
        tokens = query.shape[2] // (group or query.shape[2])
        sinks = sinks.repeat(1, tokens)[None, :, :, None].expand(len(scores), -1, -1, -1)
        return torch.cat([scores, sinks], -1).softmax(-1)[..., :-1] @ value


class Recorder:
    """A batch that computes nothing right: it learns what the layers are like."""

    def __init__(self) -> None:
        self.shapes: dict[int, Shape] = {}
        self.attentions: dict[int, Attention] = {}
        self.twice = False

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, attention: Attention) -> Tensor:
        self.twice |= layer in self.shapes
        self.shapes[layer] = Shape(key.shape[1], key.shape[3], value.shape[3])
        self.attentions[layer] = attention
        return query.new_zeros(1, query.shape[2], query.shape[1], value.shape[3])


def hook(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    *,
    batch: Packed | Recorder,
    **_: Any,
) -> tuple[Tensor, None]:
    """Be the attention of a layer, as `AttentionInterface` calls it."""
    attention = Attention(scaling, sliding_window or 0, softcap, s_aux)
    return batch.attend(module.layer_idx, query, key, value, attention), None


AttentionInterface.register(NAME, hook)
