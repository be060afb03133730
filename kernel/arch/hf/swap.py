"""Frames in memory and frames in the swap file, one after the other, as places with numbers.

The swap file has no name, and its whole size from the start: a full disk is noticed at load and not in a tick, and the
file is gone with the process, however that ends. What is in it can be computed again.
"""

from __future__ import annotations

import os
import tempfile
import weakref
from time import perf_counter
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from tokix.kernel.arch.hf.attention import Pool
from tokix.kernel.frames import FRAME

if TYPE_CHECKING:
    from collections.abc import Sequence


class Places:
    """The frames of a pool from 0 on, and behind them the slots of a swap file."""

    def __init__(self, pool: Pool, frames: int, slots: int) -> None:
        self.pool, self._frames, self.slots = pool, frames, slots
        #: Bytes of a frame.
        self.size: int = pool.memory[0].nbytes
        #: Why there is no swap file; nothing if there is one, or none was wanted.
        self.missing = ""
        try:
            self._swap = SwapFile(slots, self.size)
        except OSError as error:
            self.slots, self.missing = 0, f"{error.strerror} in {folder()}"

    def move(self, source: int, target: int) -> None:
        """Copy a frame from place to place; at least one of them is in memory."""
        if target >= self._frames:
            self._swap.write(target - self._frames, self.pool.memory[source])
        elif source >= self._frames:
            self._swap.read(source - self._frames, self.pool.memory[target])
        else:
            self.pool.copy(source, target)

    def read(self, places: Sequence[int], tokens: int) -> bytes:
        """Give what is in places, with zeros behind the first `tokens`: what was there before is nobody's business."""
        memory = self.pool.memory
        copy = Pool(
            len(places), self.pool.shapes, torch.device("cpu"), for_kernel=self.pool.for_kernel, dtype=memory.dtype
        )
        for place, frame in zip(places, copy.memory, strict=True):
            if place < self._frames:
                frame.copy_(memory[place])
            else:
                self._swap.read(place - self._frames, frame)
        if rest := tokens % FRAME:
            for layer in copy.shapes:
                copy.keys[layer][-1, rest:] = 0
                copy.values[layer][-1, rest:] = 0
        return bytes(copy.memory.view(torch.uint8).numpy().data.cast("B"))

    def fill(self, frames: Sequence[int], data: bytes) -> None:
        """Put what was read into frames."""
        numbers = torch.frombuffer(bytearray(data), dtype=self.pool.memory.dtype).view(len(frames), -1)
        for frame, given in zip(frames, numbers, strict=True):
            self.pool.memory[frame].copy_(given)

    def price(self, most: int) -> float:
        """Measure the microseconds that a frame takes out or in, with several: one alone would lie in a cache."""
        count = min(self._frames, self.slots, most)
        start = perf_counter()
        for frame in range(count):
            self.move(frame, self._frames + frame)
        for frame in range(count):
            self.move(self._frames + frame, frame)
        return (perf_counter() - start) * 1e6 / (2 * count) if count else 0.0


class SwapFile:
    """Room for frames of one size."""

    def __init__(self, slots: int, size: int) -> None:
        """Make room for so many frames of so many bytes; raises OSError without the space."""
        self._size = size
        self._file, path = tempfile.mkstemp(prefix="tokix-swap-", dir=folder())
        os.unlink(path)
        weakref.finalize(self, os.close, self._file)  # a machine has no end of its own
        if slots:
            os.posix_fallocate(self._file, 0, slots * size)

    def write(self, slot: int, frame: Tensor) -> None:
        """Keep a frame in a slot."""
        data = memoryview(frame.view(torch.uint8).cpu().numpy())
        done = 0
        while done < self._size:
            done += os.pwrite(self._file, data[done:], slot * self._size + done)

    def read(self, slot: int, frame: Tensor) -> None:
        """Fill a frame from a slot."""
        there = frame.view(torch.uint8)
        data = there if there.device.type == "cpu" else torch.empty_like(there, device="cpu")
        view, done = memoryview(data.numpy()), 0
        while done < self._size:
            count = os.preadv(self._file, [view[done:]], slot * self._size + done)
            if not count:
                raise EOFError("the swap file is shorter than it was made")
            done += count
        if data is not there:
            there.copy_(data)


def folder() -> str:
    """Give where the file is made: /tmp may be in memory, which is what a swap file is to spare."""
    return "/var/tmp" if os.access("/var/tmp", os.W_OK) else tempfile.gettempdir()
