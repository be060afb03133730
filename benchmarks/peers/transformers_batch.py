"""transformers' continuous batching: `generate_batch` in fp32, pages of 16 tokens, 256 tokens at most in a pass.

Answers one line of JSON on stdin with one on stdout (`children.py`). A round is a whole job, prompts and answers; a
tick of it is the time between two tokens of a sequence after the last one has begun. Its defaults are made for GPUs, so
pages, blocks and tokens are said.
"""

import json
import os
import sys
from itertools import pairwise
from statistics import median
from time import perf_counter, process_time

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as tokix has it

import torch
import transformers
from transformers import AutoModelForCausalLM, ContinuousBatchingConfig, GenerationConfig

ANSWERS = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)

PAGE, TOKENS = 16, 256


class Peer:
    """The model, and the prompts that are measured."""

    def load(self, folder: str) -> dict[str, str]:
        transformers.logging.set_verbosity_error()
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True).eval()
        self.model.set_attn_implementation("sdpa")
        return {"version": f"transformers {transformers.__version__}, torch {torch.__version__}, fp32"}

    def prepare(self, prompts: list[list[int]], room: int, threads: int) -> dict[str, object]:
        torch.set_num_threads(threads)
        self.prompts = prompts
        self.blocks = sum(-(-(len(prompt) + room) // PAGE) + 1 for prompt in prompts)
        return {}

    def job(self, prompts: list[list[int]], count: int) -> list[list[float]]:
        """Let each prompt have so many tokens; gives when each of them came."""
        outcomes = self.model.generate_batch(
            prompts,
            GenerationConfig(max_new_tokens=count, do_sample=False, eos_token_id=-1, pad_token_id=0),
            ContinuousBatchingConfig(
                page_size=PAGE, num_blocks=self.blocks, max_batch_tokens=TOKENS, allow_block_sharing=False
            ),
            record_timestamps=True,
            warmup=False,
        )
        assert all(len(outcome.generated_tokens) == count for outcome in outcomes.values())
        return [outcome.timestamps for outcome in outcomes.values()]

    def decode(self, ticks: int) -> dict[str, object]:
        """Give the ms of a tick as often as it had ticks, and those of the whole job."""
        begin = perf_counter()
        times = self.job(self.prompts, ticks + 1)
        whole = (perf_counter() - begin) * 1e3
        began = max(of_one[0] for of_one in times)
        late = [b - a for of_one in times for a, b in pairwise(of_one) if a >= began]
        return {"ms": [median(late) * 1e3] * ticks, "whole": whole}

    def prefill(self) -> dict[str, object]:
        begin = perf_counter()
        self.job(self.prompts[:1], 1)
        return {"ms": [(perf_counter() - begin) * 1e3]}


peer = Peer()
for line in sys.stdin:
    ask = json.loads(line)
    begin = process_time()
    answer = getattr(peer, ask.pop("do"))(**ask)
    print(json.dumps({**answer, "cpu": process_time() - begin}), file=ANSWERS, flush=True)
