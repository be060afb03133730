"""Which machine a kernel gets: the toy, or a model by its reference."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from tokix.cli import say
from tokix.host import handling
from tokix.kernel.arch.hf.reference import DEFAULT
from tokix.kernel.arch.toy import ToyEncoder, ToyMachine
from tokix.shell.usage import Failure

if TYPE_CHECKING:
    from tokix.kernel.arch.hf.machine import Weights
    from tokix.kernel.ports import Encoder, Machine

#: The environment variable that names the model; the machine without weights.
VARIABLE, TOY = "TOKIX_MODEL", "toy"
#: The environment variable that names the device of a model: cpu, cuda, or one of several GPUs, such as cuda:1.
DEVICE = "TOKIX_DEVICE"


def chosen(reference: str | None) -> str:
    """Give the reference of the model that is meant."""
    return reference or os.environ.get(VARIABLE) or DEFAULT


def wanted(reference: str | None, **shape: int | None) -> tuple[Machine, Encoder]:
    """Load the machine that a command line names, or the default; raises Failure. Ctrl-C works meanwhile."""
    with interruptible():
        return load(chosen(reference), **shape)


@contextmanager
def interruptible() -> Iterator[None]:
    """Let Ctrl-C raise KeyboardInterrupt in this block at once: an event loop would wait for its turn.

    Libraries that are being loaded can be where nothing can be raised, as in a destructor: there Python prints the
    interrupt, and goes on. So it is not printed, and raised at the end of the block. A second one ends the process.
    """
    seen: list[int] = []

    def arrived(signum: int, frame: object) -> None:
        if seen:
            os._exit(128 + signum)
        seen.append(signum)
        raise KeyboardInterrupt

    def unraisable(what: sys.UnraisableHookArgs) -> None:
        if not isinstance(what.exc_value, KeyboardInterrupt):
            hook(what)

    hook, sys.unraisablehook = sys.unraisablehook, unraisable
    try:
        with handling(arrived, [signal.SIGINT]):
            yield
    finally:
        sys.unraisablehook = hook
        if seen:
            raise KeyboardInterrupt


def load(
    reference: str, *, frames: int | None = None, slots: int | None = None, window: int | None = None
) -> tuple[Machine, Encoder]:
    """Load a machine and what turns texts into vectors; raises Failure.

    The reference of a model may end with the form of its weights, as in `smollm2,fp32` or `smollm2,q4`; else they are
    in 4 bits if that is how they came, or in fp16, and on a GPU in bf16. What is not in the cache yet is fetched and
    converted, which is said on the terminal.
    """
    if reference == TOY:
        return ToyMachine(frames or 256, window or 2048, slots=256 if slots is None else slots), ToyEncoder()
    missing = [name for name in ("torch", "transformers") if find_spec(name) is None]
    if missing:
        raise Failure(
            f"the model {reference} needs {' and '.join(missing)}: pip install 'tokix[hf]', or take --model {TOY}"
        )
    from tokix.kernel.arch.hf import device, machine, models
    from tokix.kernel.arch.hf.embed import MiniLM
    from tokix.kernel.arch.hf.reference import EMBEDDER, ModelError, Reference
    from tokix.models import shown

    try:
        where = device.chosen(os.environ.get(DEVICE))
        reference, weights = separated(reference)
        with shown() as progress:
            folder, encoder = (models.locate(name, progress) for name in (reference, EMBEDDER))
        name = str(Reference.parse(reference))  # the same however it was written
        how: dict[str, Any] = {"frames": frames, "slots": slots, "window": window}
        loaded = machine.load(folder, name, weights=weights, device=where, **how)
        for note in loaded.notes():
            say(f"{name}: {note}")
        return loaded, MiniLM(encoder)
    except ModelError as error:
        raise Failure(str(error)) from None


def encoder_of(reference: str | None) -> Encoder:
    """Load what turns texts into vectors beside a machine, and nothing else; raises Failure."""
    if chosen(reference) == TOY:
        return ToyEncoder()
    if find_spec("torch") is None:
        raise Failure(f"vectors need torch: pip install 'tokix[hf]', or take --model {TOY}")
    from tokix.kernel.arch.hf import models
    from tokix.kernel.arch.hf.embed import MiniLM
    from tokix.kernel.arch.hf.reference import EMBEDDER, ModelError
    from tokix.models import shown

    try:
        with shown() as progress:
            return MiniLM(models.locate(EMBEDDER, progress))
    except ModelError as error:
        raise Failure(str(error)) from None


def separated(reference: str) -> tuple[str, Weights | None]:
    """Take the form of the weights off the reference of a model."""
    forms: tuple[Weights, ...] = ("q4", "q8", "fp16", "fp32", "bf16")
    for weights in forms:
        if reference.endswith(f",{weights}"):
            return reference.removesuffix(f",{weights}"), weights
    return reference, None
