"""The forward of the Llama family in few steps: eight calls per layer, where transformers has over a hundred.

For a few rows the products take half of a tick's time, and the other half is what Python and torch do around small
tensors. Here a layer is its four products and four kernels in C: attention with rotary positions in it, the norms with
the sums of the residual stream in them, and the gate. Invariant: it computes what the model of transformers computes,
to rounding; whether it does is found out at load, and a model that is not of this form is run as it is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from tokix.kernel.arch.hf.paged import NativeBatch, describe
from tokix.kernel.arch.hf.weights import HalfLinear, Lead

if TYPE_CHECKING:
    from tokix.kernel.arch.hf.attention import Attention, Pool
    from tokix.kernel.arch.hf.native import Kernel, Layer

#: Models that are this and nothing else: no norms of queries, no factors, no second branch.
FAMILY = frozenset({"llama", "mistral", "qwen2"})


class Norm(NamedTuple):
    """A norm: its weight, and what keeps it from dividing by zero."""

    weight: Tensor
    epsilon: float


class Block(NamedTuple):
    """A layer, as it is run."""

    before: Norm
    together: HalfLinear
    out: HalfLinear
    after: Norm
    gates: HalfLinear
    down: HalfLinear


class Lean:
    """A model of the family, with weights in fp16."""

    def __init__(self, model: Any, attentions: dict[int, Attention], kernel: Kernel) -> None:
        """Take the modules of a model apart; raises ValueError for one of another form."""
        inner = family(model)
        self._kernel = kernel
        self._embed, self._rotary, self._head = inner.embed_tokens, inner.rotary_emb, model.lm_head
        self._heads = model.config.num_attention_heads
        self._attentions = [attentions[i] for i in range(len(inner.layers))]
        self._blocks = [_block(layer) for layer in inner.layers]
        self._norm = norm_of(inner.norm)

    def __call__(self, batch: NativeBatch, rows: Tensor) -> Tensor:
        """Give the logits [rows, vocabulary] of some tokens of a batch."""
        x = self._embed(batch.ids)
        cosine, sine = (turn.contiguous() for turn in self._rotary(x, batch.positions))
        layers = self._layers(batch.pool)
        delta = None
        for how, block in zip(layers, self._blocks, strict=True):
            packed = block.together(self._normed(x, delta, block.before))
            delta = block.out(batch.attend_turned(how, packed, cosine, sine))
            both = block.gates(self._normed(x, delta, block.after))
            delta = block.down(self._gated(both))
        logits: Tensor = self._head(self._normed(x, delta, self._norm)[0, rows])
        return logits

    def _layers(self, pool: Pool) -> list[Layer]:
        return [describe(pool, i, self._heads, attention) for i, attention in enumerate(self._attentions)]

    def _normed(self, x: Tensor, delta: Tensor | None, norm: Norm) -> Tensor:
        """Add delta to x, and give the norm of that."""
        out = torch.empty_like(x)
        added = None if delta is None else delta.data_ptr()
        sizes = x.shape[1], x.shape[2]
        self._kernel.tokix_norm(x.data_ptr(), added, norm.weight.data_ptr(), norm.epsilon, *sizes, out.data_ptr())
        return out

    def _gated(self, both: Tensor) -> Tensor:
        out = both.new_empty(1, both.shape[1], both.shape[2] // 2)
        self._kernel.tokix_gate(both.data_ptr(), out.shape[1], out.shape[2], out.data_ptr())
        return out


def family(model: Any) -> Any:
    """Give the layers and what is around them; raises ValueError for a model of another form."""
    if model.config.model_type not in FAMILY or model.config.hidden_act != "silu":
        raise ValueError(f"a {model.config.model_type} is not of this family")
    inner = model.model
    if 2 * inner.rotary_emb.inv_freq.numel() != inner.layers[0].self_attn.head_dim:
        raise ValueError("its rotary positions are not those of whole heads")
    return inner


def norm_of(module: Any) -> Norm:
    return Norm(module.weight, module.variance_epsilon)


def _block(layer: Any) -> Block:
    attention, gated = layer.self_attn, layer.mlp
    leads, others = (attention.q_proj, gated.gate_proj), (attention.o_proj, gated.down_proj)
    products = *(lead.product if isinstance(lead, Lead) else lead for lead in leads), *others
    if any(type(product) is not HalfLinear for product in products):
        raise ValueError("its products are not those of fp16")
    together, gates, out, down = products
    return Block(norm_of(layer.input_layernorm), together, out, norm_of(layer.post_attention_layernorm), gates, down)
