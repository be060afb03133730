"""The index of large spaces: what it has, and that it agrees with the store.

The store is the truth. A space has its vectors in memory (`shelf`) until there are TAIL; then they go to the index, and
leave memory when all are there. What the index has is known by names with checksums, so that a search looks in the
index and at the rest, and finds what is in the store now: what the index lacks is compared exactly, and what it has too
much is left out, and taken out.

The index is another process (`storage.chroma`), which may be behind, wrong, unreadable, gone, or hang. At boot its
names are compared with the store, and some vectors have to find themselves. Whatever fails, it is ended, the space is
in memory again and searched exactly, and its index is made anew; at the third failure it is left alone until the next
boot.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from hashlib import blake2b
from importlib.util import find_spec
from pathlib import Path
from subprocess import DEVNULL
from typing import TYPE_CHECKING, Any
from zlib import crc32

import anyio
from anyio.abc import Process
from anyio.lowlevel import checkpoint
from anyio.streams.buffered import BufferedByteReceiveStream

from tokix.archive import Archive, depth, pack
from tokix.kernel.ports import Space

if TYPE_CHECKING:
    from tokix.kernel.events import Search
    from tokix.shelf import Shelf

#: Vectors of a space that are compared one by one before they go to the index, which up to then is no faster.
TAIL = 50_000
#: Vectors that are added at once, for as long as a search may have to wait.
STEP = 128
#: Seconds after which the index hangs: for a search, and for all else.
HURRY, PATIENCE = 2.0, 60.0
#: Seconds in which it can finish what it does when the system stops.
GRACE = 2.0
#: Failures after which the index is left alone.
TRIES = 3
#: How many vectors have to find themselves, and among how many.
PROBES, AMONG = 32, 10

Names = dict[int, int]
#: Told what goes on: the space, and how many of its vectors are in the index, of how many.
Progress = Callable[[Space, int, int], None]


class Trouble(Exception):
    """The index cannot be used as it is; says why."""


class Busy(Exception):
    """The index does something else, for longer than a search can wait."""


def available() -> bool:
    """Say whether there can be an index."""
    return find_spec("chromadb") is not None and find_spec("numpy") is not None


class Server:
    """The process of the index; it is started when it is first asked."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._process: Process | None = None
        self._turn = anyio.Lock()

    @property
    def pid(self) -> int:
        """Give the process id; 0 if it does not run."""
        return self._process.pid if self._process else 0

    async def ask(self, op: str, patience: float = PATIENCE, data: bytes = b"", **request: Any) -> Any:
        """Give the value of a reply; raises Trouble, and then the process is gone, or Busy if it gets no turn."""
        line = json.dumps({"op": op, "bytes": len(data), **request}).encode() + b"\n"
        with anyio.move_on_after(patience) as waiting:
            await self._turn.acquire()
        if waiting.cancelled_caught:
            raise Busy
        try:
            return await self._answer(line + data, patience)
        finally:
            self._turn.release()

    async def _answer(self, message: bytes, patience: float) -> Any:
        try:
            with anyio.fail_after(patience):
                reply = await self._exchange(message)
        except TimeoutError:
            await self._end()
            raise Trouble(f"it has not answered in {patience:.0f} s") from None
        except (OSError, ValueError, anyio.EndOfStream, anyio.IncompleteRead, anyio.BrokenResourceError):
            raise Trouble(f"its process has ended ({await self._end()})") from None
        except BaseException:  # cancelled between request and reply
            await self._end(GRACE)
            raise
        if "error" in reply:
            await self._end()
            raise Trouble(str(reply["error"]).splitlines()[0][:200])
        return reply["value"]

    async def _exchange(self, message: bytes) -> dict[str, Any]:
        if self._process is None:
            command = [sys.executable, "-m", "tokix.storage.chroma", str(self.folder)]
            # A session of its own: Ctrl-C is not for it.
            self._process = await anyio.open_process(command, stderr=DEVNULL, start_new_session=True)
            assert self._process.stdout
            self._replies = BufferedByteReceiveStream(self._process.stdout)
        assert self._process.stdin
        await self._process.stdin.send(message)
        reply: dict[str, Any] = json.loads(await self._replies.receive_until(b"\n", 1 << 30))
        return reply

    async def end(self, wipe: bool = False) -> None:
        """End the process, if there is one, whatever it does; `wipe`: remove all that it has written."""
        with anyio.CancelScope(shield=True):
            await self._end(0.0 if wipe else GRACE)
            if wipe:
                async with self._turn:
                    await self._end()
                    await anyio.to_thread.run_sync(remove, self.folder)

    async def _end(self, grace: float = 0.1) -> int | None:
        """End the process, or let it end by itself; gives its exit code.

        It may just be dying, of a signal that says more than ours, or write: Chroma cannot read what was cut off.
        """
        process, self._process = self._process, None
        if process is None:
            return None
        with anyio.CancelScope(shield=True):
            assert process.stdin
            await process.stdin.aclose()
            with anyio.move_on_after(grace):
                await process.wait()
            if process.returncode is None:
                process.kill()
            await process.aclose()
        return process.returncode


class Keeper:
    """Keeps the index of an archive in agreement with its store."""

    def __init__(
        self,
        archive: Archive,
        folder: Path,
        report: Callable[[str], None],
        tail: int | None = None,
        progress: Progress = lambda space, done, total: None,
    ) -> None:
        self.archive, self.server, self.report = archive, Server(folder), report
        self.tail, self.progress = tail or TAIL, progress
        self.failures = 0
        self.rung = anyio.Event()

    # ---- while a system runs

    async def run(self) -> None:
        """Keep the index for as long as the system runs."""
        try:
            await self.begin()
            while self.failures < TRIES:
                self.rung = anyio.Event()
                await self.work()
                await self.rung.wait()
        finally:
            await self.server.end()

    def look(self) -> None:
        """Something has changed: see whether there is work."""
        if self.archive.moved or any(self.due(shelf) for shelf in self.archive.shelves.values()):
            self.rung.set()

    def due(self, shelf: Shelf) -> bool:
        return shelf.whole and (len(shelf) >= self.tail or bool(shelf.stale))

    async def begin(self) -> None:
        """Read what is large enough for an index."""
        for space in self.large():
            if space not in self.archive.shelves:
                for _ in self.archive.fill(space, self.archive.shelf(space)):
                    await checkpoint()
        self.archive.moved = self.server.folder.exists()  # there may be more than there should be

    async def work(self) -> None:
        """Do all that is due."""
        try:
            if self.archive.moved:
                self.archive.moved = False
                await self.tidy()
            for space, shelf in list(self.archive.shelves.items()):
                if self.due(shelf):
                    await self.agree(space, shelf)
        except Busy:
            self.rung.set()
        except Trouble as trouble:
            await self.lose(trouble)

    def large(self) -> list[Space]:
        if self.archive.encoder is None:
            return []
        most = self.archive.room // (4 * self.archive.encoder.dimensions)  # on their way they are in memory
        return [space for space, count in self.archive.store.sizes().items() if self.tail <= count <= most]

    async def tidy(self) -> None:
        """Remove the index of spaces that are gone."""
        if self.server.folder.exists():
            try:
                there = {path.name for path in self.server.folder.iterdir()}
            except OSError as error:
                raise Trouble(f"{self.server.folder}: {error.strerror}") from None
            used = [space for space, shelf in self.archive.shelves.items() if shelf.indexed]
            names = [self.name(space) for space in {*self.large(), *used}]
            if there - {"lock", *names}:
                await self.server.ask("keep", names=names)

    async def lose(self, trouble: Trouble) -> None:
        """Be without the index: it is ended and removed, and what it had is in memory again."""
        self.failures += 1
        again = "it is made anew" if self.failures < TRIES else "it is left alone until the next boot"
        self.report(f"the index of memory: {trouble}; {again}, and search is exact meanwhile")
        await self.server.end(wipe=True)
        for space, shelf in list(self.archive.shelves.items()):
            shelf.agreed = False
            if shelf.indexed:
                for _ in self.archive.fill(space, self.archive.shelf(space)):
                    await checkpoint()
        self.rung.set()

    # ---- one space

    def name(self, space: Space) -> str:
        """Name the folder of a space: vectors of another encoder are another index."""
        pid, name = space
        text = json.dumps([name, self.archive.needed().name])
        return f"{pid}-{blake2b(text.encode(), digest_size=12).hexdigest()}"

    async def agree(self, space: Space, shelf: Shelf) -> None:
        """Let the index have what the store has of a space."""
        if not shelf.agreed:
            sums = named(await self.server.ask("names", name=self.name(space)))
            changed = await self.entrust(shelf, sums)
            await self.drop(space, changed)
            await self.probe(space, shelf)
            shelf.agreed = True
        stale, shelf.stale = shelf.stale, {}
        await self.drop(space, stale)
        if len(shelf) >= self.tail:
            await self.add(space, shelf)

    async def add(self, space: Space, shelf: Shelf) -> None:
        """Add what is in memory, which leaves memory when all of it is in the index."""
        ids, sums, failures = shelf.ids(), Names(), self.failures
        for start in range(0, len(ids), STEP):
            some = {id: data for id in ids[start : start + STEP] if (data := shelf.data(id))}
            new = {id: crc32(data) for id, data in some.items()}
            await self.server.ask("add", name=self.name(space), names=names(new), data=b"".join(some.values()))
            if self.archive.shelves.get(space) is not shelf or self.failures > failures:
                return  # the space, or the index, has changed as a whole
            sums |= new
            self.progress(space, min(start + STEP, len(ids)), len(ids))
        await self.drop(space, await self.entrust(shelf, sums))

    async def entrust(self, shelf: Shelf, sums: Names) -> Names:
        """Let vectors leave memory that the index has; gives what it has and should not."""
        changed = Names()
        for part in parts(sums, 1024):
            changed |= shelf.entrust(part)
            await checkpoint()
        shelf.shrink()
        return changed

    async def drop(self, space: Space, sums: Names) -> None:
        if sums:
            await self.server.ask("drop", name=self.name(space), names=names(sums))

    async def probe(self, space: Space, shelf: Shelf) -> None:
        """Let some vectors find themselves, the newest above all: an index can have lost what it still names."""
        ids = sorted(shelf.indexed)
        chosen = [*ids[-PROBES:], *ids[:: max(1, len(ids) // PROBES)]]
        encoder = self.archive.needed().name
        rows = [row for row in self.archive.store.among("vector", space, chosen) if row[3] == encoder]
        lost = 0
        for row in rows:
            found = await self.server.ask("near", name=self.name(space), count=AMONG, data=row[4])
            lost += crc32(row[4]) not in named(found).values()
        if lost > len(rows) // 16:
            raise Trouble(f"{lost} of {len(rows)} vectors do not find themselves")

    async def compared(self, space: Space) -> tuple[int, int, int]:
        """Count what the index has, what it lacks of the store, and what it has too much; raises Trouble."""
        there = named(await self.server.ask("names", name=self.name(space)))
        shelf = self.archive.shelf(space)
        for _ in self.archive.fill(space, shelf):
            pass
        more = await self.entrust(shelf, there)
        await self.probe(space, shelf)
        return len(shelf.indexed), len(shelf), len(more)

    # ---- searching

    async def near(self, effect: Search, query: list[float]) -> dict[Space, list[int]]:
        """Ask the index what is near; a space that is left out has to be compared as a whole."""
        near = {}
        try:
            for space in effect.spaces:
                shelf = self.archive.shelves.get(space)
                if shelf is not None and shelf.indexed:
                    with suppress(Busy):
                        found = await self.wanted(effect, query, space, shelf)
                        if found is not None:
                            near[space] = found
        except Trouble as trouble:
            await self.lose(trouble)
            return {}
        return near

    async def wanted(self, effect: Search, query: list[float], space: Space, shelf: Shelf) -> list[int] | None:
        """Ask for more, until enough of what is named is there, and is what the search is for."""
        wanted, data = depth(effect), pack(query)
        for count in (2 * wanted, 8 * wanted, 32 * wanted):
            found = await self.server.ask("near", HURRY, name=self.name(space), count=count, data=data)
            ids = [id for id, checksum in named(found).items() if shelf.indexed.get(id) == checksum]
            fit = self.archive.wanted(effect, space, ids)
            if len(fit) >= wanted or count >= len(shelf.indexed):
                return fit
        return None


def owner(space: Space) -> str:
    """Say whose pages are in a space."""
    pid, name = space
    return f"process {pid}{' ' * bool(name)}{name}" if pid else f"region {name}"


def lines(report: Callable[[str], None]) -> Callable[[str, int, int], None]:
    """Give what says that something begins and that it is done; it is told what, how much of it, and of how much."""
    begun: set[str] = set()

    def progress(what: str, done: int, total: int) -> None:
        if what not in begun:
            begun.add(what)
            report(f"{what}: begins")
        if done == total:
            begun.discard(what)
            report(f"{what}: done")

    return progress


def names(sums: Names) -> list[str]:
    """Name vectors by their ids and checksums."""
    return [f"{id}:{checksum:08x}" for id, checksum in sums.items()]


def named(names: list[str]) -> Names:
    """Read names; raises Trouble if they are not ours."""
    try:
        return {int(id): int(checksum, 16) for id, checksum in (name.split(":") for name in names)}
    except ValueError:
        raise Trouble("it has names that are not of tokix") from None


def parts(sums: Names, count: int) -> Iterator[Names]:
    items = list(sums.items())
    for start in range(0, len(items), count):
        yield dict(items[start : start + count])


def remove(folder: Path) -> None:
    """Remove an index, or what is in its place; what cannot be removed fails when it is used."""
    if folder.is_dir() and not folder.is_symlink():
        shutil.rmtree(folder, ignore_errors=True)
    else:
        with suppress(OSError):
            folder.unlink()
