"""Text to vectors, with a small BERT such as all-MiniLM-L6-v2: what a page is found by.

The vector of a text is the mean of its tokens' last hidden states, scaled to length 1, so that the dot product of two
is the cosine of their angle. Invariant: a text has the same vector, to rounding, whatever it is embedded together with;
padding is masked in the attention and left out of the mean.

The model is that of https://huggingface.co/sentence-transformers/all-MiniLM-L6-v2, and so are the vectors.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from tokix.kernel.arch.hf.models import read_note, require_model
from tokix.kernel.arch.hf.reference import ModelError

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from torch import Tensor

#: Tokens of a text, with those that begin and end it; sentence-transformers cuts there, too.
WINDOW = 256
#: Texts that go through the model at once.
BATCH = 32
#: Tokens that one core takes as fast as several, which may have something else to do: those of a query.
FEW = 64
#: What weights in half precision are tried on.
PROBES = ("Who keeps the ledger of the harbour?", "The clerk, said Ada.", "42", "No ship has come in since the storm.")


class MiniLM:
    """A BERT on the CPU, in fp16 where that gives the same vectors. `embed` is for one thread at a time."""

    dimensions: int
    name: str

    def __init__(self, folder: Path) -> None:
        """Load the model of a directory; raises ModelError if it has no BERT."""
        require_model(folder, str(folder))
        import torch
        from safetensors import SafetensorError
        from transformers import BertModel
        from transformers.utils import logging

        from tokix.kernel.arch.hf.weights import halved

        logging.disable_progress_bar()  # it takes a tenth of a second
        try:
            config = json.loads((folder / "config.json").read_bytes())
            if config.get("model_type") != "bert":
                raise ModelError(f"{folder} has a {config.get('model_type')}, and a bert is wanted, such as minilm")
            self._tokenizer = read_tokenizer(folder, min(WINDOW, config["max_position_embeddings"]))
            self._model = BertModel.from_pretrained(folder, dtype=torch.float32, local_files_only=True).eval()
        except (OSError, ValueError, KeyError, SafetensorError) as error:
            raise ModelError(f"{folder} cannot be loaded: {type(error).__name__}: {error}") from error
        self._model.pooler = None  # nobody asks for what it gives
        halved(self._model, lambda: self._embed([*PROBES]))
        self.dimensions = self._model.config.hidden_size
        note = read_note(folder)
        self.name = note.reference if note else f"path:{folder.absolute()}"

    def embed(self, texts: list[str]) -> list[list[float]]:
        """Give a vector of length 1 for each text; what a text has beyond the window does not count."""
        # Texts of about one length go together, so that there is little padding.
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        vectors: list[list[float]] = [[]] * len(texts)
        for start in range(0, len(order), BATCH):
            batch = order[start : start + BATCH]
            for i, vector in zip(batch, self._embed([texts[i] for i in batch]).tolist(), strict=True):
                vectors[i] = vector
        return vectors

    def _embed(self, texts: list[str]) -> Tensor:
        import torch

        read = self._tokenizer.encode_batch(texts)
        ids = torch.tensor([text.ids for text in read])
        mask = torch.tensor([text.attention_mask for text in read])
        with torch.inference_mode(), threads(1 if ids.numel() <= FEW else torch.get_num_threads()):
            states = self._model(input_ids=ids, attention_mask=mask).last_hidden_state
            real = mask.unsqueeze(-1).to(states.dtype)
            mean = (states * real).sum(1) / real.sum(1)
            return torch.nn.functional.normalize(mean, dim=-1)


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Let torch use so many cores for what this thread asks for in this block."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def read_tokenizer(folder: Path, window: int) -> Tokenizer:
    """Read the tokenizer of a directory; it cuts texts to the window, and fills up those of a batch to one length."""
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    except Exception as error:  # the library raises nothing narrower
        raise ModelError(f"{folder / 'tokenizer.json'} cannot be read: {error}") from error
    tokenizer.enable_truncation(window)
    tokenizer.enable_padding()
    return tokenizer
