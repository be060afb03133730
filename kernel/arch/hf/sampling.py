"""Sampling: from logits to a token, with random numbers that belong to a place.

There is no generator: the number is a hash of the stream and the position, so what a burst samples does not depend on
who else is running, and there is no state to save.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from tokix.kernel.arch.toy import draw

if TYPE_CHECKING:
    from torch import Tensor

    from tokix.kernel.events import Sampling


def choose(logits: Tensor, sampling: Sampling, position: int) -> int:
    """Sample a token from logits [vocabulary]: temperature, then top-k, then top-p, as transformers does."""
    if not sampling.temperature:
        return int(logits.argmax())
    # Sorted by score, then by token: the order of equals must not depend on how the sort works.
    scores, tokens = logits.double().sort(descending=True, stable=True)
    if sampling.top_k:
        scores, tokens = scores[: sampling.top_k], tokens[: sampling.top_k]
    weights = ((scores - scores[0]) / sampling.temperature).exp()
    sums = weights.cumsum(0)
    nucleus = int((sums < sampling.top_p * sums[-1]).sum()) + 1
    sums = sums[: min(nucleus, len(sums))]
    index = int(torch.searchsorted(sums, draw(sampling.stream, position) * float(sums[-1]), right=True))
    return int(tokens[min(index, len(sums) - 1)])
