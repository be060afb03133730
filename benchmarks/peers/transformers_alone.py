"""transformers, one sequence after the other: `generate` in fp32 with a cache, as a framework with a lock calls it.

Answers one line of JSON on stdin with one on stdout (`children.py`). Sequences share nothing, so that a token for each
of them takes as many times as long as a token for one; the first one is measured. Tokens are the largest logits,
whatever ends a text.
"""

import json
import os
import sys
from time import perf_counter, process_time

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as tokix has it

import torch
import transformers
from transformers import AutoModelForCausalLM, DynamicCache

ANSWERS = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)


class Peer:
    """The model, and the cache of the first prompt."""

    def load(self, folder: str) -> dict[str, str]:
        transformers.logging.set_verbosity_error()
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True).eval()
        return {"version": f"transformers {transformers.__version__}, torch {torch.__version__}, fp32"}

    def prepare(self, prompts: list[list[int]], room: int, threads: int) -> dict[str, object]:
        torch.set_num_threads(threads)
        self.rows, self.prompt = len(prompts), torch.tensor([prompts[0]])
        self.cache = DynamicCache(config=self.model.config)
        self.generate(self.prompt, 1)
        return {}

    def generate(self, ids: torch.Tensor, count: int) -> list[int]:
        """Give so many tokens behind a prompt; what of it is in the cache is not computed again."""
        out = self.model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            past_key_values=self.cache,
            max_new_tokens=count,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
        )
        tokens: list[int] = out[0, ids.shape[1] :].tolist()
        return tokens

    def decode(self, ticks: int) -> dict[str, object]:
        self.cache.crop(self.prompt.shape[1] - 1 - self.cache.get_seq_length())
        begin = perf_counter()
        tokens = self.generate(self.prompt, ticks)
        return {"ms": [(perf_counter() - begin) * 1e3 / ticks * self.rows] * ticks, "tokens": tokens[:1]}

    def prefill(self) -> dict[str, object]:
        self.cache = DynamicCache(config=self.model.config)
        begin = perf_counter()
        self.generate(self.prompt, 1)
        return {"ms": [(perf_counter() - begin) * 1e3]}


peer = Peer()
for line in sys.stdin:
    ask = json.loads(line)
    begin = process_time()
    answer = getattr(peer, ask.pop("do"))(**ask)
    print(json.dumps({**answer, "cpu": process_time() - begin}), file=ANSWERS, flush=True)
