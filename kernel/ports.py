"""The ports of the kernel: what the outside has to provide. The kernel never calls a method here that does I/O.

It reads the machine's vocabulary and shape, which are pure; the edge runs ticks, commits rows, calls drivers and asks
the clock. A table of the store is a name, the columns of its key and the other columns; a row is a tuple of str, int,
float, bytes or None in that order. `Kernel` produces rows as `{table: {key: row, or None to delete}}`. A key that is
shorter than its table's stands for all rows that begin with it: None deletes them, and another such key in the place of
a row makes them anew, as copies of the rows that begin with that one.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    from tokix.kernel.costs import Costs
    from tokix.kernel.events import Tick
    from tokix.syscalls import DeviceInfo, Role

#: A program: called with the arguments of its `Spawn`, it gives the coroutine of a process.
Program = Callable[..., Coroutine[Any, Any, Any]]

Scalar = str | int | float | bytes | None
Key = tuple[Scalar, ...]
#: Whose pages these are: a pid, and "" or the name of a branch; or 0, and the name of a region (see `spaces`).
Space = tuple[int, str]
Rows = Mapping[str, Mapping[Key, tuple[Scalar, ...] | None]]


class Table(NamedTuple):
    """The columns of a table with their types; the first `keys` of them are its key."""

    keys: int
    columns: dict[str, type[int] | type[str] | type[float] | type[bytes]]


#: The tables of the store. Columns that hold structure hold canonical JSON.
TABLES: dict[str, Table] = {
    "process": Table(
        1,
        {
            "pid": int,
            "ppid": int,
            "lineage": str,
            "program": str,
            "args": str,
            "nice": int,
            "epoch": int,
            "stopped": int,
            "foreign": int,
            "caps": str,
            "limits": str,
            "fds": str,
            "image": str,
            "tokens": int,
            "born": float,
            "status": str,
            "reaped": int,
        },
    ),
    "journal": Table(
        3,
        {"pid": int, "epoch": int, "seq": int, "path": str, "call": str, "ok": int, "value": str, "at": float},
    ),
    "started": Table(1, {"key": str, "pid": int, "call": str, "note": str}),
    "partial": Table(2, {"key": str, "start": int, "tokens": str}),
    "message": Table(1, {"seq": int, "pid": int, "id": str, "sender": int, "tag": str, "body": str}),
    "signal": Table(1, {"pid": int, "pending": str}),
    "stream": Table(1, {"name": str, "note": str}),
    "chunk": Table(2, {"stream": str, "offset": int, "pid": int, "fd": int, "text": str}),
    "kernel": Table(1, {"name": str, "value": str}),
    # Memory that several processes share: its pages are those of the space (0, name).
    "region": Table(1, {"name": str, "creator": int, "first": int, "next": int}),
    # What has left the windows: see `pager` for the space of a page. A vector is float32, little-endian.
    "page": Table(
        3,
        {
            "pid": int,
            "space": str,
            "id": int,
            "message": int,
            "role": str,
            "tokens": int,
            "at": float,
            "text": str,
        },
    ),
    "vector": Table(3, {"pid": int, "space": str, "id": int, "encoder": str, "data": bytes}),
}
#: Tables that stay in the store: a kernel does not load them, the edge reads in them.
ARCHIVE = ("page", "vector")


class Only(NamedTuple):
    """Which pages a search may find: those of some roles, or of all; said at `since` or later, and before `until`.

    Times are seconds since 1970.
    """

    roles: tuple[Role, ...] = ()
    since: float | None = None
    until: float | None = None

    def allows(self, role: str, at: float) -> bool:
        return (
            (not self.roles or role in self.roles)
            and (self.since is None or at >= self.since)
            and (self.until is None or at < self.until)
        )


ALL = Only()


class Store(Protocol):
    """The truth. One kernel at a time has it open."""

    def load(self) -> dict[str, list[tuple[Any, ...]]]:
        """Give all rows that a kernel needs at boot, by table: nothing of the dead, and nothing of the archive."""

    def dead(self) -> list[tuple[Any, ...]]:
        """Give the rows of `process` that were reaped, oldest first."""

    def journal(self, pid: int, last: int | None = None) -> list[tuple[Any, ...]]:
        """Give the rows of `journal` of one process, oldest first; all of them, or the last."""

    def read(self, table: str, prefix: Key, after: Key | None = None, limit: int = -1) -> list[tuple[Any, ...]]:
        """Give the rows whose key begins with `prefix` and is greater than `after`, in order, up to a limit."""

    def among(self, table: str, space: Space, ids: Sequence[int]) -> list[tuple[Any, ...]]:
        """Give the rows of `page`, without texts, or `vector` that have these ids in a space, in order."""

    def sizes(self) -> dict[Space, int]:
        """Count the vectors in each space."""

    def unembedded(self, encoder: str) -> list[Key]:
        """Give the keys of all pages without a vector of this encoder."""

    def match(
        self, text: str, spaces: Sequence[Space], k: int, only: Only = ALL
    ) -> list[tuple[float, tuple[Any, ...]]]:
        """Give the k pages of spaces that match the words of a text best, of those that are allowed.

        They come as scores, which are positive, and rows of the table `page`, the best first.
        """

    def commit(self, rows: Rows) -> None:
        """Make the rows durable, all or none; raises if that is not certain."""

    def close(self) -> None:
        """Let another kernel open it."""


class Vocabulary(Protocol):
    """The pure part of a machine: text to tokens and back."""

    #: Sampling one of these ends a burst; it is not part of the text.
    stops: frozenset[int]

    def preamble(self) -> list[int]:
        """Give the tokens that every context begins with; often none."""

    def render(self, role: Role, text: str) -> list[int]:
        """Give the tokens of a page, with the marks of the chat template. Raises nothing."""

    def opening(self) -> list[int]:
        """Give the tokens that ask the model for an answer."""

    def closing(self) -> list[int]:
        """Give the tokens that end an answer in the context."""

    def encode(self, text: str) -> list[int]:
        """Give the tokens of bare text."""

    def piece(self, token: int) -> bytes:
        """Give the UTF-8 bytes of a token; the pieces of a text join to it."""

    def refuse(self, schema: str) -> str:
        """Say why the output cannot be held to a JSON schema; "" if it can."""


class Machine(Vocabulary, Protocol):
    """Model, weights and backend."""

    #: Which model it is: a state directory belongs to one, for its tokens mean nothing to another.
    name: str
    #: How many frames its memory has, and how many its swap file.
    frames: int
    slots: int
    #: What its work costs.
    costs: Costs
    #: How many tokens one context can have.
    window: int
    #: Tokens are the numbers below this.
    vocabulary: int
    #: How many bytes `read` gives for a frame.
    frame_size: int
    #: What its numbers depend on: only where this is the same are frames of another machine those of this one.
    arithmetic: str
    #: Whether `start` comes back before the tick is done, so that the next one can be begun meanwhile.
    ahead: bool

    def run(self, tick: Tick) -> list[int | None]:
        """Run one tick, in the order of submission; gives a token per row, None where the row does not sample.

        The copies come first, in their order, from place to place: frames are numbered from 0, slots of the swap file
        from `frames`. Rows name frames only.
        """

    def start(self, tick: Tick) -> Callable[[], list[int | None]]:
        """Begin a tick; gives what waits for its end and gives its tokens, as `run` does."""

    def read(self, places: Sequence[int], tokens: int) -> bytes:
        """Give what is in places, one after the other, which hold so many tokens: nothing of what is behind those."""

    def fill(self, frames: Sequence[int], data: bytes) -> None:
        """Fill frames with what `read` has given."""


class Encoder(Protocol):
    """Text to vectors of length 1, whose products say how near two texts are in meaning."""

    #: Vectors of encoders with different names cannot be compared.
    name: str
    dimensions: int

    def embed(self, texts: list[str]) -> list[list[float]]:
        """Give a vector for each text; pure. It runs on the machine's thread."""


class Driver(Protocol):
    """Code for a device. Only the edge calls it."""

    def describe(self, name: str) -> DeviceInfo:
        """Describe the ops of the device, mounted under this name."""

    async def invoke(self, op: str, args: dict[str, Any], key: str) -> Any:
        """Run an op and give a JSON value; raises a SyscallError for the caller, anything else is EIO."""


class Clock(Protocol):
    """Wall time."""

    def now(self) -> float:
        """Give seconds since 1970."""


class Programs(Protocol):
    """Finds programs by name."""

    def get(self, name: str) -> Program | None:
        """Give the program, or None if there is none of that name."""
