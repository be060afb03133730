"""The forward of the Llama family in one call into C, with grouped weights: no step of a layer is left to Python.

Invariant: it computes what the same model with the same products computes layer by layer, to rounding; whether it does
is found out at load, and a model that is not of this form is run as it is.
"""

from __future__ import annotations

from ctypes import byref
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tokix.kernel.arch.hf import native
from tokix.kernel.arch.hf.grouped import Grouped, panel
from tokix.kernel.arch.hf.lean import family, norm_of
from tokix.kernel.arch.hf.paged import NativeBatch, describe
from tokix.kernel.arch.hf.weights import Lead

if TYPE_CHECKING:
    from tokix.kernel.arch.hf.attention import Attention, Pool
    from tokix.kernel.arch.hf.native import Kernel

#: Rows that each thread norms for itself; steps of a layer, and of the end (see whole.c).
FEW, STEPS, LAST = 4, 8, 2


class Whole:
    """A model of the family, with grouped weights."""

    def __init__(self, model: Any, attentions: dict[int, Attention], kernel: Kernel) -> None:
        """Take the modules of a model apart; raises ValueError for one of another form."""
        inner = family(model)
        self._kernel = kernel
        self._embed, self._rotary, self._head = inner.embed_tokens, inner.rotary_emb, model.lm_head
        self._heads = model.config.num_attention_heads
        self._layers, self._norm = list(inner.layers), norm_of(inner.norm)
        self._attentions = [attentions[i] for i in range(len(inner.layers))]
        self._products = [_products(layer) for layer in inner.layers]
        if type(self._head) is not Grouped:
            raise ValueError("its products are not those of groups")
        self._widest = max(product.width for products in self._products for product in products)
        together, out, gates, _ = self._products[0]
        #: What a token takes between steps.
        self._sizes = together.outputs, out.width, gates.outputs // 2
        self._described: tuple[Pool, native.Model] | None = None

    def __call__(self, batch: NativeBatch, rows: Tensor) -> Tensor:
        """Give the logits [rows, vocabulary] of some tokens of a batch."""
        count, asked, threads = batch.count, len(rows), torch.get_num_threads()
        x = self._embed(batch.ids[0, :count])
        cosine, sine = (turn.contiguous() for turn in self._rotary(x, batch.positions[:, :count]))
        width, size = x.shape[1], panel(self._widest)
        normed = x.new_empty(threads * FEW + max(count, asked), width)
        between = [x.new_empty(count, size) for size in self._sizes]
        logits, panels = x.new_empty(asked, self._head.outputs), x.new_empty(threads, size)
        shares = torch.zeros(2 * (STEPS * len(self._layers) + LAST), dtype=torch.int64)
        work = native.Work(
            *batch.where,
            *(cosine.data_ptr(), sine.data_ptr()),
            *(asked, size, threads),
            *(tensor.data_ptr() for tensor in (rows, x, normed, *between, logits, panels, shares)),
        )
        self._kernel.tokix_whole(byref(self._model(batch.pool)), byref(work))
        return logits

    def _model(self, pool: Pool) -> native.Model:
        """Describe the model on the frames of a pool."""
        if self._described is None or self._described[0] is not pool:
            blocks = (native.Block * len(self._layers))(*(self._block(pool, i) for i in range(len(self._layers))))
            weight, epsilon = self._norm
            size = weight.numel()
            self._described = (
                pool,
                native.Model(blocks, len(blocks), size, weight.data_ptr(), epsilon, self._head.product),
            )
        return self._described[1]

    def _block(self, pool: Pool, i: int) -> native.Block:
        layer = self._layers[i]
        before, after = norm_of(layer.input_layernorm), norm_of(layer.post_attention_layernorm)
        return native.Block(
            describe(pool, i, self._heads, self._attentions[i]),
            *(product.product for product in self._products[i]),
            *(before.weight.data_ptr(), after.weight.data_ptr()),
            *(before.epsilon, after.epsilon),
        )


def _products(layer: Any) -> tuple[Grouped, Grouped, Grouped, Grouped]:
    """Give those of queries, keys and values, of what attention gives, of the gates, and of what they let through."""
    attention, gated = layer.self_attn, layer.mlp
    if not (isinstance(attention.q_proj, Lead) and isinstance(gated.gate_proj, Lead)):
        raise ValueError("its products are not taken together")
    together, out, gates, down = attention.q_proj.product, attention.o_proj, gated.gate_proj.product, gated.down_proj
    if any(type(product) is not Grouped for product in (together, out, gates, down)):
        raise ValueError("its products are not those of groups")
    return together, out, gates, down
