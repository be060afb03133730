"""`tokix memory`: looks after what has left the windows, in a state directory that no kernel has just now."""

from __future__ import annotations

import os
import re
import sys
from argparse import ArgumentParser, Namespace, _SubParsersAction
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NoReturn

from tokix.shell.usage import FAILED, REGION, SIGNALLED, WRONG, Failure, add_json, number

if TYPE_CHECKING:
    from tokix.archive import Archive
    from tokix.doctor import Finding
    from tokix.index import Keeper
    from tokix.kernel.ports import Key, Space
    from tokix.portable import Portable
    from tokix.storage import SqliteStore

#: Told what goes on: how much of it is done, of how much.
Progress = Callable[[str, int, int], None]

REPAIR = "tokix memory rebuild"
EPILOG = """\
import needs a kernel that runs; the others need the state directory for themselves: if a kernel runs there, stop it.
"""


# ---- the command line


def add(commands: _SubParsersAction[Any], add_state: Callable[[ArgumentParser], None]) -> None:
    """Add `memory` to the commands of tokix."""
    text = "Verify, rebuild, export and import what agents remember."
    memory = commands.add_parser("memory", help=text, description=text, epilog=EPILOG)
    memory.set_defaults(command=missing)
    verbs = memory.add_subparsers(title="commands", metavar="COMMAND")
    for verb, describe in ((verify, add_json), (rebuild, describe_rebuild), (export, describe_export)):
        parser = verbs.add_parser(verb.__name__, help=verb.__doc__, description=verb.__doc__)
        add_state(parser)
        describe(parser)
        parser.set_defaults(command=guarded(verb))
    parser = verbs.add_parser("import", help=take_in.__doc__, description=take_in.__doc__)
    add_state(parser)
    describe_import(parser)
    parser.set_defaults(command=take_in)


def describe_import(parser: ArgumentParser) -> None:
    parser.add_argument("--region", metavar="NAME", required=True, help="processes that map it find the pages")
    parser.add_argument("--add", action="store_true", help="to a region that is there already")
    parser.add_argument("file", metavar="FILE", help='lines of JSON, such as {"text": "…"}; - is the standard input')


def describe_rebuild(parser: ArgumentParser) -> None:
    parser.add_argument("--vectors", action="store_true", help="make the vectors of all pages anew, too")
    parser.add_argument("--model", metavar="MODEL", help="for --vectors: toy, if that is what agents think with")


def describe_export(parser: ArgumentParser) -> None:
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--pid", metavar="N", type=number(1), help="what this process remembers (default: all)")
    which.add_argument("--region", metavar="NAME", help="what is in this region")
    parser.add_argument("--vectors", action="store_true", help="with the vectors, in base64")
    parser.add_argument("file", metavar="FILE", help="where to write lines of JSON; - is the standard output")


def missing(options: Namespace) -> NoReturn:
    raise Failure("verify, rebuild, export or import is missing; see `tokix memory --help`", WRONG)


def guarded(verb: Callable[[Namespace], int]) -> Callable[[Namespace], int]:
    """Make a command that says what is wrong with the store as a Failure."""

    def command(options: Namespace) -> int:
        from tokix.storage import StoreError

        try:
            return verb(options)
        except StoreError as error:
            raise Failure(str(error)) from None

    return command


@contextmanager
def opened(options: Namespace) -> Iterator[SqliteStore]:
    """Open the store of a state directory; raises Failure if there is none."""
    from tokix.state import TRUTH
    from tokix.storage import SqliteStore

    if not (options.state / TRUTH).exists():
        raise Failure(f"{options.state} has no memory yet; the first `tokix run` makes it, or say --state DIR")
    with closing(SqliteStore(options.state / TRUTH, key=options.key)) as store:
        yield store


def archive(store: SqliteStore) -> Archive:
    """Give the archive of a store, with the vectors that most pages have."""
    from tokix.archive import Archive

    return Archive(store, Stored.most(store))


class Stored:
    """The encoder that has made the vectors of a store: its name, and nothing to embed with."""

    def __init__(self, name: str, dimensions: int) -> None:
        self.name, self.dimensions = name, dimensions

    @classmethod
    def most(cls, store: SqliteStore) -> Stored | None:
        found = store.encoders()
        name, size = max(found, key=lambda key: found[key], default=(None, 0))
        return None if name is None else cls(name, size // 4)

    def embed(self, texts: list[str]) -> list[list[float]]:
        raise AssertionError("nobody embeds with what is only looked at")


# ---- verify


def verify(options: Namespace) -> int:
    """Look whether pages, words, vectors and index agree; the exit code is 1 if not."""
    from tokix.cli import show
    from tokix.shell.table import Result, Table

    with opened(options) as store:
        findings = [*_store(store), *_vectors(store), *_index(store, options)]
    rows = [[f.what, f.state, f.found, f.todo] for f in findings]
    table = Table(("WHAT", "STATE", "FOUND", "TO DO"), rows, [f._asdict() for f in findings], frozenset())
    return show(Result(table, code=FAILED if any(f.state == "wrong" for f in findings) else 0), options)


def _store(store: SqliteStore) -> Iterator[Finding]:
    from tokix.doctor import Finding
    from tokix.storage import StoreError

    try:
        store.check()
    except StoreError as error:
        what, _, advice = " ".join(str(error).split()).rpartition("; ")
        yield Finding("store", "wrong", what, advice.strip("`"))
    else:
        yield Finding("store", "ok", "whole, with its index of words")


def _vectors(store: SqliteStore) -> Iterator[Finding]:
    from tokix.doctor import Finding

    found = store.encoders()
    sizes = {name: {size for other, size in found if other == name} for name, _ in found}
    for (name, size), count in found.items():
        good = len(sizes[name]) == 1 and size > 0 and size % 4 == 0
        what = f"{count} of {name}, {size} bytes each"
        yield Finding("vectors", "ok" if good else "wrong", what, "" if good else f"{REPAIR} --vectors")
    if count := store.orphans():
        yield Finding("vectors", "wrong", f"{count} belong to no page", "restore a copy of the file")
    encoder = Stored.most(store)
    lacking = len(store.unembedded(encoder.name if encoder else ""))
    if lacking:
        yield Finding("vectors", "note", f"{lacking} pages have none yet: they are made when the machine is idle")


def _index(store: SqliteStore, options: Namespace) -> Iterator[Finding]:
    import anyio

    from tokix.doctor import Finding
    from tokix.index import Keeper, available
    from tokix.state import INDEX

    keeper = Keeper(archive(store), options.state / INDEX, lambda line: None)
    large = keeper.large()
    if options.key:
        yield Finding("index", "ok", "none: an encrypted state directory has its vectors in the store alone")
    elif not large:
        yield Finding("index", "ok", f"nobody remembers {keeper.tail} pages, as many as need one")
    elif not available():
        yield Finding("index", "note", "not there: vectors are compared one by one", "pip install 'tokix[memory]'")
    elif not (options.state / INDEX).exists():
        yield Finding("index", "note", "not there: the next boot makes it, or `tokix memory rebuild`")
    else:
        yield from anyio.run(_compared, keeper, large)


async def _compared(keeper: Keeper, large: list[Space]) -> list[Finding]:
    """Compare the index with the store, and change neither."""
    from tokix.doctor import Finding
    from tokix.index import Trouble, owner

    findings = []
    for space in large:
        what = f"index of {owner(space)}"
        try:
            has, lacks, more = await keeper.compared(space)
        except Trouble as trouble:
            findings.append(Finding(what, "wrong", str(trouble), REPAIR))
            continue
        wrong = more or lacks >= keeper.tail
        found = f"{has} vectors, {lacks} are not in it yet" + f", {more} are not in the store" * bool(more)
        findings.append(Finding(what, "wrong" if wrong else "ok", found, REPAIR if wrong else ""))
    await keeper.server.end()
    return findings


# ---- rebuild


def rebuild(options: Namespace) -> int:
    """Make the indexes of words and of vectors anew; what is cut off can be begun again."""
    import anyio

    from tokix.cli import say

    with opened(options) as store, shown() as progress:
        try:
            progress("index of words", 0, 1)
            store.rebuild_words()
            progress("index of words", 1, 1)
            if options.vectors:
                _embed(store, options.model, progress)
            if not options.key:  # an index is plain
                anyio.run(_rebuild_index, store, options.state, progress)
        except KeyboardInterrupt:
            say("cut off; what is missing is made at the next boot, or by `tokix memory rebuild`")
            return SIGNALLED + 2
    return 0


def _embed(store: SqliteStore, model: str | None, progress: Progress) -> None:
    """Make all vectors anew, some at a time: each commit has whole ones."""
    from tokix.archive import BATCH, encode, pack
    from tokix.machines import encoder_of
    from tokix.syscalls import SyscallError

    encoder = encoder_of(model)
    total, done = store.count("page"), 0
    after: tuple[Any, ...] | None = None
    while rows := store.read("page", (), after, BATCH):
        after = rows[-1][:3]
        try:
            vectors = encode(encoder, [row[-1] for row in rows])
        except SyscallError as error:
            raise Failure(str(error)) from None
        changes = {row[:3]: (*row[:3], encoder.name, pack(v)) for row, v in zip(rows, vectors, strict=True)}
        store.commit({"vector": changes})
        done += len(rows)
        progress("vectors", done, total)


async def _rebuild_index(store: SqliteStore, state: Path, progress: Progress) -> None:
    import anyio

    from tokix.cli import say
    from tokix.index import TRIES, Keeper, available, owner
    from tokix.state import INDEX

    def done(space: Space, count: int, total: int) -> None:
        progress(f"index of {owner(space)}", count, total)

    keeper = Keeper(archive(store), state / INDEX, say, progress=done)
    await keeper.server.end(wipe=True)
    if not (keeper.large() and available()):
        return
    try:
        await keeper.begin()
        keeper.look()
        while keeper.rung.is_set() and keeper.failures < TRIES:
            keeper.rung = anyio.Event()
            await keeper.work()
            keeper.look()
    finally:
        await keeper.server.end()
    if keeper.failures:
        raise Failure("the index could not be made; search compares all vectors without it")


# ---- export


def export(options: Namespace) -> int:
    """Write pages as lines of JSON."""
    from tokix.contexts import fresh, told
    from tokix.portable import written
    from tokix.syscalls import SyscallError

    checked(options.region)
    with opened(options) as store:
        prefix: Key = () if options.pid is None else (options.pid,)
        if options.region is not None:
            prefix = (0, options.region)
        if not store.read("page", prefix, limit=1):
            raise Failure("there are no such pages; nothing was written")
        lines = written(store, prefix, options.vectors)
        if options.file == "-":
            for line in lines:
                sys.stdout.buffer.write(line.encode())
            return 0
        if options.key and Path(options.file).resolve().is_relative_to(options.state.resolve()):
            raise Failure(f"{options.state} is encrypted, and what is exported is not: choose another folder", WRONG)
        try:
            with told(options.file), fresh(Path(options.file)) as file:
                for line in lines:
                    file.write(line.encode())
        except SyscallError as error:
            raise Failure(error.detail) from None
    return 0


# ---- import


def take_in(options: Namespace) -> int:
    """Read lines of JSON, and add them to a region of shared memory: all, or none if one is no page."""
    from tokix.cli import act, say
    from tokix.portable import MOST, LineError, pages

    checked(options.region)
    try:
        with reading(options.file) as file:
            found = list(pages(iter(lambda: file.readline(MOST + 1), b"")))
    except LineError as error:
        raise Failure(f"{options.file}: {error}") from None
    except OSError as error:
        raise Failure(f"{options.file}: {error.strerror}") from None
    if not found:
        raise Failure(f"{options.file}: there are no pages in it")
    done: list[int] = []
    try:
        with shown() as progress:
            act(_append, options, found, done, progress)
    except (KeyboardInterrupt, Failure):
        if done:
            say(f"{len(done)} of {len(found)} pages are in, {done[0]} to {done[-1]} of the region {options.region}")
        raise
    return 0


def reading(name: str) -> AbstractContextManager[IO[bytes]]:
    if name == "-" and sys.stdin is None:
        raise Failure("the standard input is closed: name a file", WRONG)
    return nullcontext(sys.stdin.buffer) if name == "-" else open(name, "rb")


def checked(region: str | None) -> None:
    """Raise Failure for what is no name of a region."""
    if region is not None and not re.fullmatch(REGION, region):
        raise Failure(f"{region!r} is no name of a region: letters, digits and _ . - are allowed", WRONG)


async def _append(options: Namespace, found: list[Portable], done: list[int], progress: Progress) -> None:
    """Append pages to a region; `done` gets the id of each."""
    from tokix.commands import connected
    from tokix.syscalls import Append, Map, Regions

    async with connected(options.state, "import") as client:
        if not options.add and options.region in [region.name for region in await client.call(Regions())]:
            raise Failure(
                f"the region {options.region} is there already: --add adds to it, "
                f"and `tokix regions --delete {options.region}` deletes it"
            )
        await client.call(Map(region=options.region, append=True))
        for page in found:
            done.append(await client.call(Append(role=page.role, text=page.text, region=options.region)))
            progress(f"region {options.region}", len(done), len(found))


# ---- progress


@contextmanager
def shown() -> Iterator[Progress]:
    """Show on the standard error what goes on: a bar on a terminal, else a line at the start and at the end."""
    from tokix.cli import say
    from tokix.index import lines

    if not (sys.stderr and os.isatty(2)):
        yield lines(say)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Drawing

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Drawing(*columns, console=Console(stderr=True)) as drawing:
        tasks: dict[str, Any] = {}

        def progress(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = drawing.add_task(what, total=total)
            drawing.update(tasks[what], completed=done, total=total)

        yield progress
