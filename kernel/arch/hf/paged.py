"""Attention over frames by the kernel in C: one call for all rows of a tick, prompts and decodes alike.

Invariant: the kernel gives what torch gives, to rounding, which is checked at every load; and it gives a row the same
bits in any company, on any frames, in any pieces (see paged.c).
"""

from __future__ import annotations

from collections.abc import Sequence
from ctypes import byref
from itertools import product
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from tokix.kernel.arch.hf import native
from tokix.kernel.arch.hf.attention import Attention, Batch, Packed, Pool, Shape
from tokix.kernel.events import Row
from tokix.kernel.frames import frames_for

if TYPE_CHECKING:
    from tokix.kernel.arch.hf.native import Kernel

#: The largest difference between the kernel and torch in the check at load, where values are about 1.
TOLERANCE = 1e-5


class NativeBatch(Packed):
    """Attention in C, on the CPU, in single precision."""

    #: A product of matrices gives a row the same bits in any company if the number of rows is a multiple of this: the
    #: libraries have other instructions for what is left over. Of use only where attention is exact, too.
    align = 4

    def __init__(self, pool: Pool, rows: Sequence[Row], kernel: Kernel, align: int = 4) -> None:
        self.align = align
        super().__init__(pool, rows)
        tables: list[int] = []
        bases: list[int] = []
        for row in rows:
            bases += [len(tables)] * len(row.feed)
            tables += row.table[: frames_for(row.start + len(row.feed))]
        self.kernel = kernel
        self._tables = torch.tensor(tables, dtype=torch.int32)
        self._bases = torch.tensor(bases)
        #: Where the tokens are, as paged.c wants it.
        self.where = self._tables.data_ptr(), self._bases.data_ptr(), self.positions.data_ptr(), self.count

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, attention: Attention) -> Tensor:
        query, key, value = dense(query), dense(key), dense(value)
        out = self._room(query, query.shape[1] * value.shape[3])
        how = describe(self.pool, layer, query.shape[1], attention)
        places = *place(query), *place(key), *place(value)
        self.kernel.tokix_attend(byref(how), *self.where, *places, None, None, out.data_ptr())
        return out.unflatten(2, (query.shape[1], -1))

    def attend_turned(self, how: native.Layer, packed: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
        """Do the same for queries, keys and values in one, [1, T, all heads * width], without their positions.

        Give [1, T, heads * width]; `cosine` and `sine` are [1, T, width].
        """
        queries = how.heads * how.group * how.key_width
        keys = queries + how.heads * how.key_width
        out = self._room(packed, how.heads * how.group * how.value_width)
        start, size, token = packed.data_ptr(), packed.element_size(), packed.stride(1)
        self.kernel.tokix_attend(
            byref(how),
            *self.where,
            *(start, token, how.key_width),
            *(start + size * queries, token, how.key_width),
            *(start + size * keys, token, how.value_width),
            cosine.data_ptr(),
            sine.data_ptr(),
            out.data_ptr(),
        )
        return out

    def _room(self, like: Tensor, width: int) -> Tensor:
        out = like.new_empty(1, self.ids.shape[1], width)
        out[:, self.count :] = 0
        return out


def describe(pool: Pool, layer: int, query_heads: int, attention: Attention) -> native.Layer:
    """Tell the kernel about a layer. The sinks, if there are any, have to outlive what is given."""
    heads, key_width, value_width = pool.shapes[layer]
    sinks = attention.sinks
    if sinks is not None and (sinks.dtype != torch.float32 or not sinks.is_contiguous()):
        raise ValueError("sinks are wanted in fp32, one after the other")
    return native.Layer(
        pool.memory.data_ptr(),
        pool.memory.dtype == torch.float16,
        pool.memory.stride(0),
        *pool.offsets[layer],
        heads,
        query_heads // heads,
        key_width,
        value_width,
        attention.window,
        key_width**-0.5 if attention.scale is None else attention.scale,
        attention.softcap or 0.0,
        None if sinks is None else sinks.data_ptr(),
    )


def dense(tensor: Tensor) -> Tensor:
    """Give a tensor whose last dimension has no gaps, in single precision."""
    tensor = tensor.float()
    return tensor if tensor.stride(-1) == 1 else tensor.contiguous()


def place(tensor: Tensor) -> tuple[int, int, int]:
    """Give the address of a tensor [1, heads, T, width], and what lies between two tokens and between two heads."""
    return tensor.data_ptr(), tensor.stride(2), tensor.stride(1)


def kernel_for(shapes: dict[int, Shape], device: torch.device) -> Kernel:
    """Give the kernel, if it can do these layers; raises native.Missing."""
    if device.type != "cpu":
        raise native.Missing(f"it runs on a CPU, and the model is on {device}")
    if max(max(shape.key, shape.value) for shape in shapes.values()) > native.WIDEST:
        raise native.Missing(f"the heads are wider than {native.WIDEST}")
    kernel = native.kernel()
    if (worst := difference(kernel)) > TOLERANCE:
        raise native.refuse(f"it computes something else than torch (by {worst:.2g}): its compiler is broken")
    return kernel


def difference(kernel: Kernel) -> float:
    """Compare the kernel with torch: chunks and single rows, odd widths, windows, soft caps, sinks."""
    draws = torch.Generator().manual_seed(0)
    worst = 0.0
    shapes = ((2, 3, 24, 40), (1, 6, 64, 64), (3, 1, 20, 8), (1, 4, 18, 96))
    for dtype, (heads, group, key, value) in product((torch.float32, torch.float16), shapes):
        sinks = torch.randn(heads * group, generator=draws)
        for how in (Attention(), Attention(0.3, 21), Attention(None, 5, 2.0), Attention(0.2, 40, None, sinks)):
            layers, cpu = {0: Shape(heads, key, value)}, torch.device("cpu")
            pools = [Pool(16, layers, cpu, for_kernel=True, dtype=dtype) for _ in range(2)]
            pools[0].memory.copy_(torch.randn(pools[0].memory.shape, generator=draws))
            pools[1].memory.copy_(pools[0].memory)
            feeds = ((5, 1, (3, 9)), (47, 1, (7, 1, 12)), (0, 18, (5, 2)), (30, 9, (11, 4, 6)), (15, 2, (8, 0)))
            long = (75, 3, (10, 13, 14, 15, 0))  # reads over the end of a block
            rows = [Row(table, start, [0] * count, None) for start, count, table in (*feeds, long)]
            batches = NativeBatch(pools[0], rows, kernel), Batch(pools[1], rows)
            size = batches[0].ids.shape[1]
            query = torch.randn(1, heads * group, size, key, generator=draws)
            keys, values = (torch.randn(1, heads, size, width, generator=draws) for width in (key, value))
            ours, theirs = (batch.attend(0, query, keys, values, how) for batch in batches)
            same = torch.equal(pools[0].memory, pools[1].memory)
            worst = max(worst, float((ours - theirs).abs().max()) if same else torch.inf)
    return worst if worst == worst else torch.inf
