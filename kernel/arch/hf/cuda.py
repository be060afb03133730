"""The same machine on a GPU: attention over sequences of any lengths, and decodes that are one launch.

All that the host knows of a tick (tokens, positions, tables, lengths) is one row of numbers, which one copy brings to
the device; where a token is written and which slots a row reads are worked out there. Attention is that of torch over
sequences of different lengths (`torch.nn.attention.varlen`, https://arxiv.org/abs/2307.08691). The keys and values are
gathered from their frames first: its own way through tables wants frames of 256 tokens, and splits long contexts in a
way that can be wrong (https://github.com/pytorch/pytorch/issues/194167).

A tick in which every row feeds one token is run as a graph (https://pytorch.org/docs/stable/notes/cuda.html), one for
each number of lanes and for each number of tokens that they reach together, both powers of two. What is missing is made
up by lanes of padding, which write to the last frame of the pool: that is the trash, and no table has it.

Invariant: what is done on the device depends on the numbers and the pool alone, and its shapes on `Size` alone. So it
can be recorded once and repeated, and a CPU does the same with a reference for attention and no recording.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from inspect import signature
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from tokix.kernel.arch.hf.attention import Attention, Packed, Pool, Recorder, last_tokens
from tokix.kernel.arch.hf.native import Missing
from tokix.kernel.events import Row
from tokix.kernel.frames import FRAME, frames_for

#: The share of the free memory of a device that frames get, if nobody says how many there are.
SHARE = 0.75
#: Most rows of a tick that is a graph, and the least that such a tick has room to reach.
LANES, REACH = 256, 256
#: Rows of a tick whose tokens the next one can name.
NAMED = 1024
#: The widest heads that attention over sequences has.
WIDEST = 256


class Varlen(Protocol):
    """Causal attention over sequences, one after the other, as `torch.nn.attention.varlen.varlen_attn` has it."""

    def __call__(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        cu_seq_q: Tensor,
        cu_seq_k: Tensor,
        max_q: int,
        max_k: int,
        *,
        scale: float | None,
        window_size: tuple[int, int],
    ) -> Tensor:
        """Attend: [T, heads, width] over [R, kv heads, width]; cu_seq: where each sequence begins, and the end.

        The last query of a sequence stands at its last key. A window (w, 0) is w positions back, and -1 is all.
        """


#: Runs work that is the same every time, and gives what runs it again and gives its result.
Record = Callable[[Callable[[], Tensor]], Callable[[], Tensor]]


class Gpu(NamedTuple):
    """What a device does for the machine. A test has doubles that run on the CPU."""

    attend: Varlen
    record: Record


def gpu_for(device: torch.device, dtype: torch.dtype) -> Gpu:
    """Give what a CUDA device does for a model of this type; raises Missing."""
    if dtype not in (torch.bfloat16, torch.float16):
        raise Missing(f"attention over sequences is computed in half precision, and the weights are {kind(dtype)}")
    if torch.cuda.get_device_capability(device) < (8, 0):
        name = torch.cuda.get_device_name(device)
        raise Missing(f"attention over sequences needs compute capability 8.0 or more, which {name} has not")
    torch.cuda.set_device(device)
    from torch.nn.attention.varlen import varlen_attn

    # No splitting of long contexts: so the bits of a row do not depend on the longest of its neighbours.
    more = {"enable_gqa": True, "num_splits": 1}
    known = signature(varlen_attn).parameters

    def attend(*args: Any, **how: Any) -> Tensor:
        out: Tensor = varlen_attn(*args, **how, **{name: value for name, value in more.items() if name in known})
        return out

    return Gpu(attend, Recording())


def kind(dtype: torch.dtype) -> str:
    return {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}.get(dtype, str(dtype))


def check(layers: Recorder) -> None:
    """Raise Missing if attention over sequences cannot do these layers."""
    if any(how.softcap is not None or how.sinks is not None for how in layers.attentions.values()):
        raise Missing("attention over sequences has no soft caps and no sinks")
    if not all(shape.key == shape.value <= WIDEST and not shape.key % 8 for shape in layers.shapes.values()):
        raise Missing(f"attention over sequences has heads of one width, a multiple of 8 up to {WIDEST}")


def room(device: torch.device) -> int:
    """Give how many bytes of a device's memory frames may have."""
    free, _ = torch.cuda.mem_get_info(device)
    return int(SHARE * free)


class Recording:
    """Records work as CUDA graphs, whose memory is shared: one of them runs at a time."""

    def __init__(self) -> None:
        self._memory: Any = None

    def __call__(self, work: Callable[[], Tensor]) -> Callable[[], Tensor]:
        if self._memory is None:
            self._memory = torch.cuda.graph_pool_handle()
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):  # libraries take their workspaces at the first call, which cannot be recorded
            work()
        torch.cuda.current_stream().wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._memory, capture_error_mode="thread_local"):
            out = work()

        def repeat() -> Tensor:
            graph.replay()
            return out

        return repeat


# ---- a tick as numbers


class Size(NamedTuple):
    """How much room the numbers of a tick have. All shapes on the device follow from it."""

    tokens: int
    rows: int
    #: Tokens that the rows reach together, each its own and those before them.
    reach: int
    #: Tokens whose logits are wanted.
    picks: int
    #: Most tokens that a row feeds, and that a row reaches.
    longest: tuple[int, int]

    @property
    def tables(self) -> int:
        """Count the frames that can be reached, and one of trash."""
        return self.reach // FRAME + self.rows + 1

    @property
    def parts(self) -> tuple[int, ...]:
        """Give the lengths of tokens, positions, rows of tokens, picks; beginnings of queries, keys, tables; tables."""
        return (self.tokens,) * 3 + (self.picks,) + (self.rows + 1,) * 3 + (self.tables,)


def size_of(rows: Sequence[Row]) -> Size:
    """Give the size of a tick that has no padding."""
    fed = [len(row.feed) for row in rows]
    ends = [row.start + count for row, count in zip(rows, fed, strict=True)]
    return Size(sum(fed), len(rows), sum(ends), len(last_tokens(rows)), (max(fed), max(ends)))


def size_of_decode(rows: Sequence[Row]) -> Size:
    """Give the size of the graph for rows of one token."""
    lanes = power(len(rows))
    padding = lanes - len(rows)
    reach = power(max(sum(row.start + 1 for row in rows) + padding, REACH))
    return Size(lanes, lanes, reach, lanes, (1, reach))


def power(count: int) -> int:
    """Give the least power of two that is not less."""
    return 1 << (count - 1).bit_length()


def numbers(size: Size, rows: Sequence[Row], picks: Sequence[int], trash: int) -> Tensor:
    """Write a tick as int32 [sum(size.parts)], with rows of padding to fill it."""
    padding = Row((trash,), 0, [0], None)
    tokens: list[int] = []
    positions: list[int] = []
    owners: list[int] = []
    tables: list[int] = []
    queries, keys, bases = [0], [0], []
    for i, row in enumerate([*rows, *[padding] * (size.rows - len(rows))]):
        end = row.start + len(row.feed)
        tokens += row.feed
        positions += range(row.start, end)
        owners += [i] * len(row.feed)
        queries.append(len(tokens))
        keys.append(keys[-1] + end)
        bases.append(len(tables))
        tables += row.table[: frames_for(end)]
    picks = [*picks, *[picks[-1]] * (size.picks - len(picks))]
    bases.append(len(tables))
    tables += [trash] * (size.tables - len(tables))
    return torch.tensor([*tokens, *positions, *owners, *picks, *queries, *keys, *bases, *tables], dtype=torch.int32)


class GpuBatch(Packed):
    """The tokens of a tick on a device."""

    def __init__(self, pool: Pool, size: Size, plan: Tensor, said: Tensor, attend: Varlen, last: Sequence[int]) -> None:
        """Take the numbers of a tick from where they lie on the device; `last` are the picks among them.

        A negative token ~i is said[i], what row i of the tick before has sampled.
        """
        self.pool, self.count, self._last = pool, size.tokens, list(last)
        self._attend, self._longest = attend, size.longest
        tokens, positions, owners, picks, self._queries, self._keys, bases, tables = plan.split(size.parts)
        self.owners, self.picks, positions = owners.long(), picks.long(), positions.long()
        named = said[(~tokens).clamp(min=0).long()]
        self.ids = torch.where(tokens < 0, named, tokens.long())[None]
        self.positions = positions[None]
        self._written = tables[bases[self.owners] + positions // FRAME].long(), positions % FRAME
        slots = torch.arange(size.reach, device=plan.device, dtype=torch.int32)
        rows = torch.searchsorted(self._keys, slots, right=True) - 1  # behind the last: size.rows, whose table is trash
        places = slots - self._keys[rows]
        frames = tables[(bases[rows] + places // FRAME).clamp(max=size.tables - 1)]
        self._read = frames.long(), (places % FRAME).long()

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, attention: Attention) -> Tensor:
        keys, values = self.pool.keys[layer], self.pool.values[layer]
        keys[self._written] = key[0].transpose(0, 1).to(keys.dtype)
        values[self._written] = value[0].transpose(0, 1).to(values.dtype)
        window = attention.window - 1 if attention.window else -1
        out = self._attend(
            query[0].transpose(0, 1).to(keys.dtype),
            keys[self._read],
            values[self._read],
            self._queries,
            self._keys,
            *self._longest,
            scale=attention.scale,
            window_size=(window, 0),
        )
        return out[None]

    def picked(self, places: list[int]) -> Tensor:
        return self.picks if places == self._last else super().picked(places)


def packed(pool: Pool, rows: Sequence[Row], gpu: Gpu, said: Tensor) -> GpuBatch:
    """Bring a tick to the device as it is, without padding."""
    last, size = last_tokens(rows), size_of(rows)
    plan = moved(numbers(size, rows, last, trash_of(pool)), said.device)
    return GpuBatch(pool, size, plan, said, gpu.attend, last)


def trash_of(pool: Pool) -> int:
    return len(pool.memory) - 1


class Decoder:
    """Runs ticks in which every row feeds one token, and samples."""

    def __init__(self, pool: Pool, forward: Callable[[Any, Tensor], Tensor], gpu: Gpu, said: Tensor) -> None:
        self._pool, self._forward, self._gpu, self._said = pool, forward, gpu, said
        #: By size: where the numbers of a tick lie on the device, and what runs it.
        self._kept: dict[Size, tuple[Tensor, Callable[[], Tensor]]] = {}

    def __call__(self, rows: Sequence[Row]) -> Tensor:
        """Give the logits [rows, vocabulary]; they are overwritten by the next tick."""
        size = size_of_decode(rows)
        plan = numbers(size, rows, range(len(rows)), trash_of(self._pool))
        if size not in self._kept:
            self._kept[size] = self._made(size, plan)
        place, run = self._kept[size]
        place.copy_(pinned(plan, place.device), non_blocking=True)
        return run()[: len(rows)]

    def _made(self, size: Size, plan: Tensor) -> tuple[Tensor, Callable[[], Tensor]]:
        place = moved(plan, self._said.device)

        def work() -> Tensor:
            batch = GpuBatch(self._pool, size, place, self._said, self._gpu.attend, ())
            return self._forward(batch, batch.picks)

        return place, self._gpu.record(work)


def decodes(rows: Sequence[Row]) -> bool:
    """Say whether a tick is one for the decoder."""
    return len(rows) <= LANES and all(len(row.feed) == 1 and row.sampling for row in rows)


# ---- between host and device, without waiting


def pinned(plan: Tensor, device: torch.device) -> Tensor:
    """Give numbers where a device can fetch them by itself."""
    return plan.pin_memory() if device.type == "cuda" else plan


def moved(plan: Tensor, device: torch.device) -> Tensor:
    return pinned(plan, device).to(device, non_blocking=True)


def fetched(tokens: Tensor) -> Callable[[], list[int]]:
    """Bring tokens to the host; gives what waits for them."""
    if tokens.device.type != "cuda":
        found: list[int] = tokens.tolist()
        return lambda: found
    here = torch.empty(tokens.shape, dtype=tokens.dtype, pin_memory=True)
    here.copy_(tokens, non_blocking=True)
    there = torch.cuda.Event()
    there.record()

    def wait() -> list[int]:
        there.synchronize()
        listed: list[int] = here.tolist()
        return listed

    return wait
