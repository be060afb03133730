"""Which device a model runs on: the first GPU that torch can use, unless somebody says otherwise, else the CPU."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from tokix.kernel.arch.hf.reference import ModelError

if TYPE_CHECKING:
    from tokix.kernel.arch.hf.machine import Weights


def forms(device: str) -> tuple[Weights, ...]:
    """Give what weights can be kept in on a device, the usual form first: each is slow with the half of the other."""
    return ("fp16", "fp32", "q8", "q4") if device == "cpu" else ("bf16", "fp32")


def chosen(wanted: str | None) -> str:
    """Give the device that is meant: cpu, cuda or cuda:N. Raises ModelError for one that is not there."""
    import torch

    device = wanted or ("cuda" if torch.cuda.is_available() else "cpu")
    if not re.fullmatch(r"cpu|cuda(:\d+)?", device):
        raise ModelError(f"there is no device {device!r}; it can be cpu, cuda, or one of several GPUs, such as cuda:1")
    count = torch.cuda.device_count()
    if device != "cpu" and int(device.partition(":")[2] or 0) >= count:
        raise ModelError(
            f"there is no device {device}, for torch {torch.__version__} sees {count} GPUs; take another, such as cpu, "
            "or see what `tokix doctor` says"
        )
    return device


def gpus() -> tuple[list[tuple[str, int]], str]:
    """Give the names of the GPUs that torch can use, with their bytes of memory, and why it cannot use what is there.

    Where there is no driver of NVIDIA torch is not asked, for that takes seconds.
    """
    if not (shutil.which("nvidia-smi") or Path("/proc/driver/nvidia/version").exists()):
        return [], ""
    import torch

    if not torch.cuda.is_available():
        why = "is built without CUDA" if torch.version.cuda is None else "cannot use its driver"
        return [], f"there is one of NVIDIA, and torch {torch.__version__} {why}"
    found = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    return [(one.name, one.total_memory) for one in found], ""
