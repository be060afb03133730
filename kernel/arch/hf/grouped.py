"""Weights in 4 or 8 bits, in groups of 32 along the input; activations and sums stay in fp32 (see grouped.c).

A group is rounded to a grid of 16 or 255 values, scale * q + least or scale * q, with scale and least in fp16. These
are the grids of Q4_1 and Q8_0, so weights that come from such a file are found on them again, and lose nothing. In 4
bits the last product, the one that gives logits, has 8. Invariant: what C computes with packed weights is what torch
computes with the same weights unpacked, to rounding.
"""

from __future__ import annotations

from ctypes import byref
from typing import TYPE_CHECKING, Literal, NamedTuple

import torch
from torch import Tensor, nn

from tokix.kernel.arch.hf import native
from tokix.kernel.arch.hf.weights import Replaced
from tokix.kernel.frames import FRAME

if TYPE_CHECKING:
    from tokix.kernel.arch.hf.native import Kernel

Bits = Literal[4, 8]
#: Weights that share a grid; tiles that are done at once; outputs that are packed at once.
GROUP, SIDE, AT_ONCE = 32, 2, 512
#: How far the products may be from those in fp32, as a share, on inputs that have nothing to do with the weights.
LOSS: dict[int, float] = {4: 0.15, 8: 0.02}
#: The same for weights that come from such a grid, and have been rounded to fp16 since.
NOTHING = 1e-3
#: How far the kernel may be from torch in the check at load, as a share of the largest.
TOLERANCE = 1e-5
#: Neighbours in fp16 of the scale that the extremes of a group suggest.
NEIGHBOURS = range(-2, 3)


class Grid:
    """Weights [outputs, width] on their grids: whole numbers, scale and least [outputs, groups, 32 or 1]."""

    def __init__(self, weight: Tensor, bits: Bits) -> None:
        """Find the nearest ones."""
        self.width, self.bits = weight.shape[1], bits
        padded = nn.functional.pad(weight[None], (0, -self.width % GROUP), mode="replicate")[0].float()
        self._groups = padded.unflatten(1, (-1, GROUP))
        self._low, self._high = (0, 15) if bits == 4 else (-127, 127)
        self.least = torch.zeros_like(self._groups[..., :1])
        if bits == 4:
            self.least = _halved(self._groups.amin(-1, keepdim=True))
            first = (self._groups.amax(-1, keepdim=True) - self.least) / 15
        else:
            first = self._groups.abs().amax(-1, keepdim=True) / 127
        near = first.clamp(min=0).half().view(torch.int16)
        self.scale = best = torch.full_like(first, torch.inf)
        for step in NEIGHBOURS:
            scale = (near + step).clamp(0, 0x7BFF).view(torch.float16).float()
            error = (self._on(scale) * scale + self.least - self._groups).square().sum(-1, keepdim=True)
            self.scale, best = torch.where(error < best, scale, self.scale), torch.minimum(error, best)
        self.whole = self._on(self.scale)

    def _on(self, scale: Tensor) -> Tensor:
        return ((self._groups - self.least) / scale.clamp(min=1e-12)).round_().clamp_(self._low, self._high)

    def weight(self) -> Tensor:
        """Give the weights [outputs, width] in fp32 again."""
        return (self.whole * self.scale + self.least).flatten(1)[:, : self.width]

    def packed(self) -> Tensor:
        """Give [tiles, groups, words and grid, FRAME] as grouped.c has them."""
        whole = self.whole.to(torch.int8)
        if self.bits == 4:
            whole = whole[..., 0::2] | whole[..., 1::2] << 4
            grid = torch.cat([self.scale, self.least], -1).half()
        else:
            grid = self.scale
        words = torch.cat([part.contiguous().view(torch.int32) for part in (whole, grid)], -1)
        words = nn.functional.pad(words, (0, 0, 0, 0, 0, -len(words) % FRAME))
        return words.unflatten(0, (-1, FRAME)).permute(0, 2, 3, 1).contiguous()


def _halved(x: Tensor) -> Tensor:
    return x.half().float()


class Grouped(nn.Module):  # type: ignore[misc]
    """Some linear maps of one input, one after the other in the output; two of one size are paired, for a gate."""

    def __init__(self, kernel: Kernel, bits: Bits, *linears: nn.Linear, most: float = torch.inf) -> None:
        """Raises ValueError if the weights lose more than `most`."""
        super().__init__()
        self._kernel = kernel
        self.width, self.outputs = linears[0].in_features, sum(linear.out_features for linear in linears)
        paired = len(linears) == 2 and linears[0].out_features == linears[1].out_features
        maps = [Linear(linear.weight, _bias(linear)) for linear in linears]
        parts = maps if paired else [Linear(*(torch.cat(both) for both in zip(*maps, strict=True)))]
        packed = torch.stack([_tiles(part.weight, bits, most) for part in parts], 1).flatten(0, 1)
        #: They belong to the product, which has only their addresses.
        self._tiles = torch.cat([packed, packed.new_zeros(len(packed) % SIDE, *packed.shape[1:])])
        bias = torch.stack([_padded(part.bias).unflatten(0, (-1, FRAME)) for part in parts], 1).flatten()
        self._bias = torch.cat([bias, bias.new_zeros(len(self._tiles) * FRAME - len(bias))])
        at = self._bias.data_ptr() if any(linear.bias is not None for linear in linears) else None
        self.product = native.Product(self._tiles.data_ptr(), at, bits, self.width, self.outputs, paired)

    def forward(self, x: Tensor) -> Tensor:
        x = x.contiguous()
        threads = torch.get_num_threads()
        out = x.new_empty(*x.shape[:-1], self.outputs)
        room = x.new_empty(threads, panel(self.width))
        places = out.data_ptr(), room.data_ptr(), threads
        self._kernel.tokix_product(byref(self.product), x.data_ptr(), x.numel() // self.width, *places)
        return out


def panel(width: int) -> int:
    """Count the floats that a thread needs for unpacked weights."""
    return -(-width // GROUP) * GROUP * FRAME * SIDE


class Linear(NamedTuple):
    """A linear map."""

    weight: Tensor
    bias: Tensor


def _tiles(weight: Tensor, bits: Bits, most: float) -> Tensor:
    """Pack some outputs after the other, for it takes room; raises ValueError if too much is lost."""
    tiles, lost, all_of_it = [], 0.0, 0.0
    for some in weight.split(AT_ONCE):
        grid = Grid(some, bits)
        tiles.append(grid.packed())
        lost, all_of_it = lost + float((grid.weight() - some).square().sum()), all_of_it + float(some.square().sum())
    share = (lost / max(all_of_it, 1e-30)) ** 0.5
    if not share <= most:
        raise ValueError(f"in {bits} bits a product of {len(weight)} outputs is {share:.1%} off")
    return torch.cat(tiles)


def _bias(linear: nn.Linear) -> Tensor:
    return linear.weight.new_zeros(linear.out_features) if linear.bias is None else linear.bias


def _padded(x: Tensor) -> Tensor:
    return nn.functional.pad(x, (0, -len(x) % FRAME))


def grouped(model: nn.Module, kernel: Kernel, bits: Bits, *, losing: bool = True) -> str:
    """Put the weights of a model into groups; gives why that was not done, or nothing.

    Without `losing` it is done only where the weights are on such a grid already.
    """
    head = model.get_output_embeddings()

    def make(*linears: nn.Linear) -> Grouped:
        kind: Bits = 8 if linears[0] is head else bits
        return Grouped(kernel, kind, *linears, most=LOSS[kind] if losing else NOTHING)

    replaced = Replaced(model)
    try:
        if (worst := difference(kernel)) > TOLERANCE:
            raise ValueError(f"the kernel computes something else than torch (by {worst:.2g})")
        replaced.replace(make)
    except ValueError as error:
        replaced.undo()
        return str(error)
    return ""


def difference(kernel: Kernel) -> float:
    """Compare the kernel with torch, as a share of the largest: both kinds of groups, one row and many, odd sizes."""
    draws = torch.Generator().manual_seed(0)
    worst = 0.0
    for rows, width, outputs in ((1, 96, 64), (1, 33, 17), (3, 85, 40), (7, 64, 96), (35, 100, 33)):
        for bits in (4, 8):
            linear = nn.Linear(width, outputs, device="meta")
            linear.weight = nn.Parameter(torch.randn(outputs, width, generator=draws), requires_grad=False)
            linear.bias = nn.Parameter(torch.randn(outputs, generator=draws), requires_grad=False)
            x = torch.randn(rows, width, generator=draws)
            ours = Grouped(kernel, bits, linear)(x)
            theirs = nn.functional.linear(x, Grid(linear.weight, bits).weight(), linear.bias)
            worst = max(worst, float((ours - theirs).abs().max() / theirs.abs().max()))
    return worst if worst == worst else torch.inf
