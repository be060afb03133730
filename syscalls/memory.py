"""Context memory: the conversation of a process, cut into pages.

A page is resident, in the window that the machine reads, or it has left it for the archive, where `Recall` finds it.
Pages leave by themselves when the window fills up, the oldest first; pinned pages, system pages and the last user page
stay. A message that is long beside the window becomes several pages with consecutive ids, of which the last stay
resident; so does a long answer when it leaves. The id of its first page names the whole message.

A context can be saved to a file and restored in a process of another kernel, with what the machine has computed of it.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from tokix.syscalls.base import Syscall, Value
from tokix.syscalls.compute import Recalled, Role

#: How `Recall` looks for pages.
How = Literal["fused", "dense", "lexical"]
#: Which pages leave a window first: see `Advise`.
Victims = Literal["fifo", "lru", "importance", "relevance"]


class PageInfo(Value):
    """One page of a context. Ids grow with the conversation and are never used again."""

    id: int
    role: Role
    tokens: int
    pinned: bool
    #: Of a page that has left the window, its beginning.
    text: str
    resident: bool = True
    #: Where its first token is in the window.
    start: int | None = None
    #: The id of the first page of its message.
    message: int
    #: The archived page that it is a copy of, if `Recall` has brought it back.
    recalled: int | None = None
    importance: int = 0
    #: The region that it is in, or that it is a copy from.
    region: str = ""
    #: When it was said, in seconds since 1970, and the entry of the journal that brought it, if that is still there.
    at: float = 0.0
    born: int | None = None
    #: The newest answer that was made while it was in the window: its id grows with the conversation. None if it was in
    #: no prompt yet; of the stub it is not known.
    used: int | None = None


class Saved(Value):
    """What `Save` has put into a file: the tokens of the window, how many of them are computed, and its size."""

    tokens: int
    computed: int
    bytes: int


class Restored(Value):
    """What `Restore` has brought back: the tokens of the window, and how many of them need not be computed again."""

    tokens: int
    computed: int
    #: The context as the journal keeps it: a replay needs no file.
    image: str = Field(repr=False)


class Append(Syscall[int]):
    """Add a message to the caller's context; gives the id of its page, or of the first. Raises EDQUOT, ENOMEM.

    With `region`, add it to a region that is mapped to append instead, where all find it who have mapped that, too; a
    message that is longer than a page in the archive becomes several. Raises EBADF, EINVAL.
    """

    call: Literal["append"] = "append"
    role: Role = "user"
    text: str
    pinned: bool = False
    #: Pages that are less important leave first, with `Advise(victims="importance")`.
    importance: int = Field(default=0, ge=-100, le=100)
    region: str = ""


class Advise(Syscall[None]):
    """Say how the caller's memory is to be managed; what is None stays as it is. Children do not inherit it, forks do.

    Which pages leave the window first when it is full: the oldest (`fifo`, the default); those that later pages have
    referred to longest ago (`lru`); the least important ones (see `Append`); or those that share least with the last
    user page (`relevance`). Whether a stub stands for those that have left. And which part of the window pages may have
    that are looked for before each `Think` and come back for it (`demand`; 0 is none): copies, as with `Recall`.
    """

    call: Literal["advise"] = "advise"
    victims: Victims | None = None
    stub: bool | None = None
    demand: float | None = Field(default=None, ge=0, le=0.5)


class Pages(Syscall[list[PageInfo]]):
    """List the pages of the caller or of another process, by id: in the window and out of it. Raises ESRCH, EPERM.

    With `region`, those of a region that the caller has mapped, from the id `start` on, and at most a thousand: the
    next ones begin behind the last. Raises EBADF, EINVAL, ENOENT.
    """

    call: Literal["pages"] = "pages"
    observes = True
    pid: int | None = None
    region: str = ""
    start: int = Field(default=0, ge=0)


class Pin(Syscall[None]):
    """Keep a page or message of the caller in its window, or let it leave again. Raises ENOENT if it has left."""

    call: Literal["pin"] = "pin"
    page: int
    pinned: bool = True


class Evict(Syscall[None]):
    """Move pages or messages of the caller to the archive now; those there already stay. Raises ENOENT, EINVAL."""

    call: Literal["evict"] = "evict"
    pages: list[int]


class Recall(Syscall[list[Recalled]]):
    """Search the memory of the caller or of another process for the k pages nearest to a query, best first.

    That is what has left the window, and of the caller's own the regions that are mapped; or one of these alone.

    Near in meaning (`dense`), in words (`lexical`), or in both: `fused`, where meaning counts more than words, and the
    newer of two pages that are alike and about as near goes first, for it may be a correction. Those that fit give
    their text, within a budget of tokens. With `load` they also come back into the caller's window, behind all other
    pages, as copies which are not stored again when they leave; the budget is a quarter of the window then, at most.
    Raises EINVAL, ESRCH, EPERM, EBADF; with `load` EDQUOT, ENOMEM; EIO if the encoder fails. Without an encoder `dense`
    raises ENOENT, and `fused` goes by words alone.
    """

    call: Literal["recall"] = "recall"
    query: str
    k: int = Field(default=5, ge=1, le=1000)
    budget: int = Field(default=512, ge=0)
    load: bool = False
    #: None is the caller.
    pid: int | None = None
    how: How = "fused"
    #: Only pages of these roles; none are all.
    roles: list[Role] = []
    #: Only pages that were said from one time on, or before another, in seconds since 1970.
    since: float | None = None
    until: float | None = None
    region: str = ""


class Forget(Syscall[None]):
    """Delete a page or message of the caller, with all copies, from the window and from the archive.

    The journal keeps a digest of the `Append` or the prompt that brought it, and what an `Exec` handed over or a
    `Restore` brought is kept without it. What a program was told stays in the journal until `Exec`, for a replay has to
    tell it again: answers, messages, what `Recall` has found. Raises ENOENT, and EINVAL inside a branch, which has only
    a copy of the context.

    With `region`, delete one page of a region, for everybody; copies stay where they are, other pages of its message,
    and the call in the journal of who has appended it. Raises ENOENT, EPERM.
    """

    call: Literal["forget"] = "forget"
    page: int
    region: str = ""


class Save(Syscall[Saved]):
    """Write the context of the caller or of another process to a file, with what the machine has computed of it.

    Pages in the archive come along. The path is absolute and plain, without `..`; a file that is there is replaced when
    the new one is whole. Raises EAGAIN while the context is being thought on, EINVAL if there is nothing in it, ESRCH,
    EPERM; ENOENT, EPERM, EINVAL or EIO, such as for a full disk, if the file cannot be written.
    """

    call: Literal["save"] = "save"
    path: str
    #: None is the caller.
    pid: int | None = None


class Restore(Syscall[Restored]):
    """Make a saved context the caller's own, which must have nothing in it yet. Pages keep their ids.

    Where the machine is the same, and has frames enough, nothing is computed again; what is in the file is believed.
    All tokens count as used. Raises EINVAL for what is no context file, for that of another model, in a context that is
    not empty, in a branch and for foreign processes; ENOENT, EPERM, EDQUOT; ENOMEM if it does not fit into the window;
    EIO for a file that is damaged; EAGAIN for one that is replaced meanwhile.
    """

    call: Literal["restore"] = "restore"
    path: str


class Embed(Syscall[list[list[float]]]):
    """Give the vectors of texts, each of length 1: their products say how near two texts are. Raises EIO, ENOENT."""

    call: Literal["embed"] = "embed"
    observes = True
    texts: list[str] = Field(max_length=1000)
