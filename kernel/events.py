"""What enters and what leaves `Kernel.step`: interrupts, effects, and the tick.

All that is uncertain (tokens, answers of drivers, input, time) enters as an interrupt; all work for the outside leaves
as an effect, after the rows of its step are committed. The tick is an effect too, but a pure one, whose result nobody
sees before the next step: it may start before the commit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from tokix.kernel.ports import ALL, Only, Space

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tokix.kernel.policy import Policy
    from tokix.syscalls import Syscall, SyscallError
    from tokix.syscalls.memory import How


class Sampling(NamedTuple):
    """How to choose a token. The choice depends on the reachable tokens, this, the position and `Row.said` alone."""

    stream: str
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    #: JSON of the schema that the text has to fit; none is "".
    schema: str = ""


class Row(NamedTuple):
    """A burst's part of a tick: write the K/V of `feed` at positions start… of a frame table, then maybe sample.

    A negative token ~i in a feed is the one that row i of the tick before has sampled: so a tick can be formed before
    that one is answered. Not with a schema, whose grammar goes by what was said.
    """

    #: Frame numbers; position i lives in frame table[i // FRAME], slot i % FRAME.
    table: tuple[int, ...]
    start: int
    feed: list[int]
    #: None while a prompt is not yet complete.
    sampling: Sampling | None
    #: With a schema: what the burst has generated so far, for the grammar goes on from there.
    said: Sequence[int] = ()


class Tick(NamedTuple):
    """One packed forward of the machine. The copies (from, to) of whole frames come first."""

    serial: int
    rows: list[Row]
    copies: list[tuple[int, int]]


def with_names(rows: list[Row], said: Sequence[int | None]) -> list[Row]:
    """Put the tokens that the rows of the tick before have sampled where a feed names them."""
    if all(min(row.feed, default=0) >= 0 for row in rows):
        return rows
    return [row._replace(feed=[token if token >= 0 else _said(said, ~token) for token in row.feed]) for row in rows]


def _said(said: Sequence[int | None], row: int) -> int:
    token = said[row] if row < len(said) else None
    if token is None:
        raise ValueError(f"a feed names the token of row {row} of the tick before, which has sampled none")
    return token


# ---- effects


class Invoke(NamedTuple):
    """Run an op of a driver. The key is the same when it is repeated after a crash, so that a retry can be harmless."""

    key: str
    pid: int
    device: str
    op: str
    args: dict[str, Any]


class Revoke(NamedTuple):
    """Nobody waits for this Invoke any more."""

    key: str


class Show(NamedTuple):
    """Show a piece of output; repeated after a crash until it is `Shown`, with the same offset."""

    stream: str
    offset: int
    pid: int
    fd: int
    text: str


class Prompt(NamedTuple):
    """A process waits for input on a stream of the outside."""

    stream: str


class Fetch(NamedTuple):
    """Read from the store the processes that are no longer in memory, or, with a pid, the journal of one of them.

    Answered by `Answer` with a list of ProcessInfo, or of the last entries of that journal.
    """

    key: str
    pid: int | None = None
    last: int | None = None


class Search(NamedTuple):
    """Find the k pages of these spaces, each a (pid, space), that are nearest to a query: in meaning, words, or both.

    Answered by `Answer` with a list of the fields of `Recalled`, best first, the newer among equals.
    """

    key: str
    spaces: tuple[Space, ...]
    query: str
    k: int
    how: How = "fused"
    only: Only = ALL


class List(NamedTuple):
    """Read so many pages of a space, from an id on; answered by `Answer` with their rows, without pid and space."""

    key: str
    space: Space
    start: int
    limit: int


class Encode(NamedTuple):
    """Make vectors of texts; answered by `Answer` with a list of them."""

    key: str
    texts: list[str]


class Pack(NamedTuple):
    """Write a context file: an image, what these places have of its first `computed` tokens, the archive of spaces.

    Answered by `Answer` with a `Saved`, exactly once: until then the places stay as they are.
    """

    key: str
    path: str
    image: str
    tokens: int
    computed: int
    places: tuple[int, ...]
    spaces: tuple[Space, ...]


class Unpack(NamedTuple):
    """Read a context file, and fill these frames with its first ones; with a seal, it has to be the file of that seal.

    Answered by `Answer` with an `Unpacked`, exactly once: until then the frames belong to nobody else.
    """

    key: str
    path: str
    frames: tuple[int, ...] = ()
    seal: str = ""


class Unpacked(NamedTuple):
    """What a context file has: the image, of how many tokens it brings frames, and the archive."""

    seal: str
    image: str
    computed: int
    #: Rows of the tables `page` and `vector`, without pid and space.
    pages: list[tuple[int, int, str, int, float, str]]
    vectors: list[tuple[int, str, bytes]]


class Reply(NamedTuple):
    """The outcome of a foreign process's call, as JSON of its value or of its error."""

    pid: int
    key: str
    ok: bool
    text: str


class Hangup(NamedTuple):
    """A foreign process has ended: close its connection."""

    pid: int
    reason: str


class Report(NamedTuple):
    """Something that the operator should know."""

    text: str


Effect = Invoke | Revoke | Show | Prompt | Fetch | List | Search | Encode | Pack | Unpack | Reply | Hangup | Report

# ---- interrupts


class TickDone(NamedTuple):
    """The machine has finished a tick: one token for each row, None where nothing was sampled."""

    serial: int
    tokens: list[int | None]


class Answer(NamedTuple):
    """An Invoke, a Fetch, a Search, an Encode, a Pack or an Unpack has its result."""

    key: str
    value: Any = None
    error: SyscallError | None = None


class Embedded(NamedTuple):
    """The vector of an archived page, by the key of its row: float32, little-endian."""

    key: tuple[int, str, int]
    encoder: str
    data: bytes


class Shown(NamedTuple):
    """The outside has seen a stream up to and with this offset."""

    stream: str
    offset: int


class Input(NamedTuple):
    """Text from the outside; None is its end."""

    stream: str
    text: str | None


class Attach(NamedTuple):
    """Somebody outside becomes a foreign process; `ticket` names it in the `Attached` answer."""

    ticket: int
    program: str


class Attached(NamedTuple):
    """Effect: the pid of a new foreign process."""

    ticket: int
    pid: int


class Trap(NamedTuple):
    """A foreign process calls; a key that was used before gets the outcome that it had."""

    pid: int
    key: str
    call: Syscall[Any]


class Detach(NamedTuple):
    """The connection of a foreign process is gone: it ends."""

    pid: int


class SetPolicy(NamedTuple):
    """Schedule differently from the next tick on."""

    policy: Policy


Interrupt = TickDone | Answer | Embedded | Shown | Input | Attach | Trap | Detach | SetPolicy


@dataclass(slots=True)
class Outcome:
    """What a step asks of the edge: start the ticks, commit the rows, then start the effects."""

    ticks: list[Tick]
    rows: dict[str, dict[Any, tuple[Any, ...] | None]]
    effects: list[Effect | Attached]


class Event(NamedTuple):
    """What a probe sees; `tick` counts the ticks of the machine since boot."""

    tick: int
    kind: str
    pid: int
    detail: str
