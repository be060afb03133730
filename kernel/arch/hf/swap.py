"""The swap file: frames that are not in memory, one after the other in a file without a name.

It has its whole size from the start, so that a full disk is noticed at load and not in a tick, and it is gone with the
process, however that ends: what is in it can be computed again.
"""

from __future__ import annotations

import os
import tempfile
import weakref

import torch
from torch import Tensor


class SwapFile:
    """Room for frames of one size."""

    def __init__(self, slots: int, numbers: int) -> None:
        """Make room for so many frames of so many numbers in single precision; raises OSError without the space."""
        self.slots, self._size = slots, 4 * numbers
        self._file, path = tempfile.mkstemp(prefix="tokix-swap-", dir=folder())
        os.unlink(path)
        weakref.finalize(self, os.close, self._file)  # a machine has no end of its own
        os.posix_fallocate(self._file, 0, slots * self._size)

    def write(self, slot: int, frame: Tensor) -> None:
        """Keep a frame [numbers] in a slot."""
        data = memoryview(frame.cpu().numpy()).cast("B")
        done = 0
        while done < self._size:
            done += os.pwrite(self._file, data[done:], slot * self._size + done)

    def read(self, slot: int, frame: Tensor) -> None:
        """Fill a frame [numbers] from a slot."""
        there = frame if frame.device.type == "cpu" else torch.empty_like(frame, device="cpu")
        data = memoryview(there.numpy()).cast("B")
        done = 0
        while done < self._size:
            count = os.preadv(self._file, [data[done:]], slot * self._size + done)
            if not count:
                raise EOFError("the swap file is shorter than it was made")
            done += count
        if there is not frame:
            frame.copy_(there)


def folder() -> str:
    """Give where the file is made: /tmp may be in memory, which is what a swap file is to spare."""
    return "/var/tmp" if os.access("/var/tmp", os.W_OK) else tempfile.gettempdir()
