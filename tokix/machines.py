"""Which machine a kernel gets: the toy, or a model by its reference."""

from __future__ import annotations

import os
import signal
from importlib.util import find_spec
from typing import TYPE_CHECKING

from tokix.cli import say
from tokix.kernel.arch.toy import ToyEncoder, ToyMachine
from tokix.shell.usage import Failure

if TYPE_CHECKING:
    from tokix.kernel.ports import Encoder, Machine

#: The environment variable that names the model; what runs if nobody does; the machine without weights.
VARIABLE, DEFAULT, TOY = "TOKIX_MODEL", "smollm2", "toy"


class NoMachine(Exception):
    """The machine cannot be had; the text says what to do."""


def chosen(reference: str | None) -> str:
    """Give the reference of the model that is meant."""
    return reference or os.environ.get(VARIABLE) or DEFAULT


def wanted(reference: str | None, **shape: int | None) -> tuple[Machine, Encoder]:
    """Load the machine that a command line names, or the default; raises Failure. Ctrl-C works meanwhile."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # an event loop would wait for its turn
    try:
        return load(chosen(reference), **shape)
    except NoMachine as error:
        raise Failure(str(error)) from None
    finally:
        signal.signal(signal.SIGINT, before)


def load(reference: str, *, frames: int | None = None, window: int | None = None) -> tuple[Machine, Encoder]:
    """Load a machine and what turns texts into vectors; raises NoMachine.

    What is not in the cache yet is fetched and converted, which is said on the terminal.
    """
    if reference == TOY:
        return ToyMachine(frames or 256, window or 2048), ToyEncoder()
    missing = [name for name in ("torch", "transformers") if find_spec(name) is None]
    if missing:
        raise NoMachine(
            f"the model {reference} needs {' and '.join(missing)}: pip install 'tokix[hf]', or take --model {TOY}"
        )
    from tokix.kernel.arch.hf import machine, models
    from tokix.kernel.arch.hf.embed import MiniLM
    from tokix.kernel.arch.hf.reference import EMBEDDER, ModelError, Reference
    from tokix.models import shown

    try:
        with shown() as progress:
            folder, encoder = (models.locate(name, progress) for name in (reference, EMBEDDER))
        name = str(Reference.parse(reference))  # the same however it was written
        loaded = machine.load(folder, name, frames=frames, window=window)
        if loaded.problem:
            say(f"{name}: {loaded.problem}; messages are marked with `User:` and `Assistant:`")
        return loaded, MiniLM(encoder)
    except ModelError as error:
        raise NoMachine(str(error)) from error
