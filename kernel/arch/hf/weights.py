"""Weights in half precision: the products of a decode read half as many bytes, and those bytes are what takes the time.

Activations and sums stay in fp32 (fbgemm, https://github.com/pytorch/FBGEMM). Projections that read the same input,
the queries, keys and values of a layer or the two halves of a gate, are one product: the first of them computes all,
the others hand out their part. So the model stays the one of transformers, with other modules in place of its linear
ones. Invariant: what was `Replaced` can be put back as it was.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

#: Names of sibling modules that read the same input.
SIBLINGS = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))
#: How far logits may be from those in fp32, as a share of the largest, and how many choices may be others (near ties).
TOLERANCE, OTHERS = 0.01, 0.1

#: Makes one product of some linear maps of one input.
Make = Callable[..., nn.Module]


class HalfLinear(nn.Module):  # type: ignore[misc]
    """Some linear maps of one input, one after the other in the output, with weights in fp16."""

    def __init__(self, *linears: nn.Linear) -> None:
        super().__init__()
        weight = torch.cat([linear.weight for linear in linears])
        biases = [linear.bias for linear in linears]
        bias = None
        if any(b is not None for b in biases):
            given = zip(linears, biases, strict=True)
            bias = torch.cat([linear.weight.new_zeros(linear.out_features) if b is None else b for linear, b in given])
        self._packed = torch.ops.quantized.linear_prepack_fp16(weight, bias)
        self._product = torch.ops.quantized.linear_dynamic_fp16.default

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self._product(x.contiguous(), self._packed)
        return out


class Lead(nn.Module):  # type: ignore[misc]
    """The first of some siblings: computes for all of them."""

    def __init__(self, *linears: nn.Linear, make: Make = HalfLinear) -> None:
        super().__init__()
        self.product = make(*linears)
        self._sizes = [linear.out_features for linear in linears]
        self.given: Tensor | None = None
        self.rest: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        self.given = x
        first, *self.rest = self.together(x).split(self._sizes, -1)
        return first

    def together(self, x: Tensor) -> Tensor:
        """Give what is meant for the siblings, one after the other."""
        out: Tensor = self.product(x)
        return out


class Follow(nn.Module):  # type: ignore[misc]
    """Another sibling: gives its part of what the first has computed."""

    def __init__(self, lead: Lead, place: int) -> None:
        super().__init__()
        self._lead = (lead,)  # in a tuple, for it is no child of this one
        self._place = place

    def forward(self, x: Tensor) -> Tensor:
        [lead] = self._lead
        if x is not lead.given:
            raise RuntimeError("projections that were taken for siblings read different inputs")
        return lead.rest[self._place]


class Replaced:
    """The linear modules of a model, to be replaced, and what was there before."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._before: list[tuple[nn.Module, str, nn.Module]] = []

    def replace(self, make: Make) -> None:
        """Replace them by what is made of them; one that is in several places stays one."""
        made: dict[int, nn.Module] = {}
        for parent in list(self._model.modules()):
            for names in SIBLINGS:
                siblings = [getattr(parent, name, None) for name in names]
                if all(type(linear) is nn.Linear for linear in siblings):
                    lead = Lead(*siblings, make=make)
                    for place, name in enumerate(names):
                        self._replace(parent, name, Follow(lead, place - 1) if place else lead)
            for name, linear in list(parent.named_children()):
                if type(linear) is nn.Linear:
                    if id(linear) not in made:
                        made[id(linear)] = make(linear)
                    self._replace(parent, name, made[id(linear)])

    def _replace(self, parent: nn.Module, name: str, new: nn.Module) -> None:
        self._before.append((parent, name, getattr(parent, name)))
        setattr(parent, name, new)

    def undo(self) -> None:
        for parent, name, module in self._before:
            setattr(parent, name, module)


def halved(model: nn.Module, logits: Callable[[], Tensor]) -> str:
    """Put the weights of a model into fp16; gives why that was not done, or nothing.

    `logits` gives what the model computes of some tokens, the same ones every time: [tokens, vocabulary], or
    [texts, dimensions] of an encoder.
    """
    quantized = torch.ops.quantized
    if not (hasattr(quantized, "linear_prepack_fp16") and "fbgemm" in torch.backends.quantized.supported_engines):
        return f"torch {torch.__version__} has no fbgemm for this processor"
    if any(parameter.device.type != "cpu" for parameter in model.parameters()):
        return "the model is not on the CPU"
    plain, replaced = logits(), Replaced(model)
    replaced.replace(HalfLinear)
    try:
        ours = logits()
    except RuntimeError as error:
        replaced.undo()
        return str(error)
    largest = float((ours - plain).abs().max() / plain.abs().max())
    others = float((ours.argmax(-1) != plain.argmax(-1)).float().mean())
    if largest <= TOLERANCE and others <= OTHERS:
        return ""
    replaced.undo()
    return f"in fp16 its logits differ by {largest:.1%} of the largest, and {others:.0%} of its choices"
