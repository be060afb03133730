"""Files: attacks on the root."""

from __future__ import annotations

import errno
import gc
import os
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from driven import call
from tokix.drivers import Files
from tokix.syscalls import EINVAL, EIO, ENOENT, EPERM, SyscallError

SECRET = "the secret of the host"
#: Arguments for every op, so that each can be tried on each path.
CALLS: dict[str, dict[str, Any]] = {
    "read": {},
    "list": {},
    "stat": {},
    "lines": {},
    "search": {"text": "secret"},
    "find": {"pattern": "*"},
    "edit": {"old": "side", "new": "pwned"},
    "write": {"text": "pwned"},
    "append": {"text": "pwned"},
    "delete": {},
}


class World:
    """A root with a few files, and a host around it whose every change is seen."""

    def __init__(self, folder: Path) -> None:
        self.root, self.outside = folder / "root", folder / "outside"
        for place, text in ((self.root, "inside"), (self.outside, SECRET)):
            (place / "sub" / "deep").mkdir(parents=True)
            (place / "file.txt").write_text(text)
            (place / "sub" / "file.txt").write_text(text)
            (place / "sub" / "deep" / "file.txt").write_text(text)
        self.files = Files(self.root, write=True)
        self.before = self.picture()

    def picture(self) -> dict[str, Any]:
        found = {p: p.lstat() for p in [self.outside, *self.outside.rglob("*")]}
        return {str(p): (s.st_mode, s.st_mtime_ns, p.is_file() and p.read_text()) for p, s in found.items()}

    def names(self) -> set[str]:
        return {str(p.relative_to(self.root)) for p in self.root.rglob("*")}

    def attempt(self, name: str, path: str, around: AbstractContextManager[Any] | None = None) -> SyscallError | None:
        """Try an op; whatever it answers, nothing of the host may be in it, and nothing of the host changed."""
        error = None
        try:
            with around or nullcontext():
                answer = repr(getattr(self.files, name)(path=path, **CALLS[name]))
        except SyscallError as caught:
            error, answer = caught, caught.detail
        assert error is None or path in answer
        assert SECRET not in answer
        assert str(self.root.parent) not in answer
        assert self.picture() == self.before
        return error

    def check(self) -> None:
        assert not [name for name in self.names() if ".tokix-" in name]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path)
    yield world
    world.check()


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize(
    "path",
    [
        "..",
        "../outside/file.txt",
        "sub/../../outside/file.txt",
        "sub/..",
        "./../outside",
        "sub/deep/../../../outside/file.txt",
        "/etc/passwd",
        "//etc/passwd",
        "/",
        "/proc/self/root/etc/passwd",
        "OUTSIDE/file.txt",
    ],
)
def test_no_path_leaves_the_root(world: World, name: str, path: str) -> None:
    path = path.replace("OUTSIDE", str(world.outside))
    with pytest.raises(EPERM, match="outside of the device"):
        call(world.files, name, path=path, **CALLS[name])
    assert world.picture() == world.before


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("path", ["", "sub\0", "\0", "a" * 300, "x/" * 2000 + "x", "a" * 5000])
def test_paths_that_are_none(world: World, name: str, path: str) -> None:
    if name == "delete" and path.startswith("x/"):
        assert call(world.files, name, path=path) is None  # it is long, but it is not there
        return
    if path.startswith("x/") and name in ("write", "append"):
        return  # a thousand folders, if that is what the caller wants
    with pytest.raises((EINVAL, ENOENT)):
        call(world.files, name, path=path, **CALLS[name])


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize(
    ("link", "target", "path"),
    [
        ("link", "../outside/file.txt", "link"),
        ("link", "OUTSIDE/file.txt", "link"),
        ("link", "../outside", "link"),
        ("link", "../outside", "link/file.txt"),
        ("link", "../outside", "link/sub/file.txt"),
        ("link", "../outside", "link/new.txt"),
        ("link", "../outside", "link/new/new.txt"),
        ("sub/link", "../../outside/sub", "sub/link/deep/file.txt"),
        ("link", "../outside/new.txt", "link"),  # dangling
        ("link", "../outside/new", "link/new.txt"),
        ("link", "link", "link"),
        ("link", "link", "link/file.txt"),
        ("link", "/proc/self/cwd", "link/pyproject.toml"),
        ("link", "file.txt", "link"),  # harmless, but a link is a link
        ("link", "sub", "link/file.txt"),
        ("link", ".", "link/file.txt"),
    ],
)
def test_no_link_is_followed(world: World, name: str, link: str, target: str, path: str) -> None:
    (world.root / link).symlink_to(target.replace("OUTSIDE", str(world.outside)))
    error = world.attempt(name, path)
    if name == "stat" and path == link:
        assert error is None
        assert call(world.files, "stat", path=path)["kind"] == "link"
    else:
        assert isinstance(error, EPERM)
        assert "symbolic links are not followed" in error.detail
    assert (world.root / link).is_symlink()
    assert (world.root / "file.txt").read_text() == (world.root / "sub" / "file.txt").read_text() == "inside"


def test_a_search_passes_links_by(world: World) -> None:
    (world.root / "link").symlink_to("../outside")
    (world.root / "link.txt").symlink_to("../outside/file.txt")
    assert world.attempt("search", ".") is None
    assert [info["kind"] for info in call(world.files, "list") if "link" in info["name"]] == ["link", "link"]


class Saboteur:
    """Counts the calls into the host's file system, and does something just before the n-th."""

    NAMES = ("open", "mkdir", "lstat", "fstat", "replace", "unlink", "rmdir", "fsync", "fchmod", "scandir")

    def __init__(self, nth: int, act: Callable[[], None]) -> None:
        self.left, self.act = nth, act
        self.patch = pytest.MonkeyPatch()

    def __enter__(self) -> None:
        for name in self.NAMES:
            self.patch.setattr(os, name, self.wrap(getattr(os, name)))

    def __exit__(self, *_: object) -> None:
        self.patch.undo()

    def wrap(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            self.left -= 1
            if self.left == 0:
                self.act()
            return function(*args, **kwargs)

        return wrapped


def each_moment(act: Callable[[World], None], folder: Path) -> Iterator[tuple[World, Saboteur]]:
    """Give fresh worlds in which the act comes at the first call into the host, at the second, … until none is left."""
    for nth in range(1, 100):
        world = World(folder / str(nth))
        saboteur = Saboteur(nth, partial(act, world))
        yield world, saboteur
        world.check()
        if saboteur.left > 0:
            return
    pytest.fail("too many calls")


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize(
    ("victim", "target", "path"),
    [
        ("sub", "../outside/sub", "sub/file.txt"),
        ("sub", "../outside/sub", "sub/deep/file.txt"),
        ("sub/deep", "../../outside/sub/deep", "sub/deep/file.txt"),
        ("sub", "../outside/sub", "sub/new/new.txt"),
        ("sub", "../outside/sub", "sub"),
        ("sub/file.txt", "../../outside/sub/file.txt", "sub/file.txt"),
        ("sub/new.txt", "../../outside/sub/new.txt", "sub/new.txt"),
        ("sub", "../outside/sub", "."),
    ],
)
def test_a_link_put_in_place_at_any_moment_of_a_call(
    tmp_path: Path, name: str, victim: str, target: str, path: str
) -> None:
    def swap(world: World) -> None:
        here = world.root / victim
        if os.path.lexists(here):
            here.rename(world.root / "moved")
        here.symlink_to(target)

    moments = 0
    for world, saboteur in each_moment(swap, tmp_path):
        world.attempt(name, path, saboteur)
        moments += 1
    assert moments > 2 or (path == "." and name in ("read", "lines", "write", "append", "edit", "delete"))


def test_a_race_with_somebody_who_swaps_folders(world: World) -> None:
    sub, aside, link = world.root / "sub", world.root / "aside", world.root / "link"
    link.symlink_to("../outside/sub")
    done = threading.Event()

    def swap() -> None:
        while not done.is_set():
            sub.rename(aside)
            link.rename(sub)
            sub.rename(link)
            aside.rename(sub)

    racer = threading.Thread(target=swap)
    racer.start()
    try:
        for _ in range(150):
            for name, path in ("read", "sub/file.txt"), ("stat", "sub/file.txt"), ("list", "sub"), ("search", "sub"):
                world.attempt(name, path)
    finally:
        done.set()
        racer.join()


def test_the_root_may_move_and_something_else_take_its_name(world: World) -> None:
    world.root.rename(world.root.with_name("elsewhere"))
    world.root.symlink_to("outside")
    assert call(world.files, "read", path="file.txt") == "inside"


@pytest.mark.parametrize("name", ["read", "write", "append", "delete"])
@pytest.mark.parametrize("kind", [stat.S_IFIFO, stat.S_IFSOCK])
def test_what_is_no_regular_file_is_refused_at_once(world: World, name: str, kind: int) -> None:
    os.mknod(world.root / "odd", kind | 0o600)
    assert isinstance(error := world.attempt(name, "odd"), EINVAL)
    assert "not a regular file" in error.detail
    assert call(world.files, "stat", path="odd")["kind"] == "other"
    assert call(world.files, "search", text="in", path="sub")


def test_a_fifo_that_somebody_reads_gets_nothing(world: World) -> None:
    os.mkfifo(world.root / "fifo")
    reader = os.open(world.root / "fifo", os.O_RDONLY | os.O_NONBLOCK)
    try:
        for name in CALLS:
            world.attempt(name, "fifo")
        assert os.read(reader, 10) == b""
    finally:
        os.close(reader)


@pytest.mark.parametrize("name", ["zero", "null", "tty", "full"])
def test_devices_of_the_host_are_not_read_or_written(name: str) -> None:
    for op_name in ("read", "append"):
        with pytest.raises(EINVAL, match=f"{name}: not a regular file"):
            call(Files(Path("/dev"), write=True), op_name, path=name, **CALLS[op_name])


@pytest.mark.parametrize("name", CALLS)
def test_no_call_leaves_a_descriptor_open(world: World, name: str) -> None:
    descriptors = Path("/proc/self/fd")
    if not descriptors.exists():
        pytest.skip("needs /proc")
    (world.root / "link").symlink_to("sub")
    gc.collect()  # the worlds of other tests
    before = len(list(descriptors.iterdir()))
    for path in ("file.txt", "sub/deep", "sub/deep/file.txt", "none", "no/ne", "file.txt/x", "link/x", "link", "."):
        world.attempt(name, path)
    assert len(list(descriptors.iterdir())) == before


def test_a_device_that_is_dropped_closes_its_root(tmp_path: Path) -> None:
    fd = Files(tmp_path)._root._fd
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)


def test_a_root_that_is_no_folder_cannot_be_mounted(world: World) -> None:
    with pytest.raises(NotADirectoryError):
        Files(world.root / "file.txt")
    with pytest.raises(FileNotFoundError):
        Files(world.root / "none")


@pytest.mark.parametrize(
    ("name", "path", "error", "complaint"),
    [
        ("read", "none.txt", ENOENT, "no such file or folder"),
        ("read", "no/ne.txt", ENOENT, "no such file or folder"),
        ("stat", "none.txt", ENOENT, "no such file or folder"),
        ("list", "none", ENOENT, "no such file or folder"),
        ("search", "none", ENOENT, "no such file or folder"),
        ("read", "sub", EINVAL, "a folder, not a file"),
        ("read", ".", EINVAL, "a folder, not a file"),
        ("write", "sub", EINVAL, "a folder, not a file"),
        ("write", ".", EINVAL, "a folder, not a file"),
        ("append", "sub", EINVAL, "a folder, not a file"),
        ("delete", ".", EINVAL, "a folder, not a file"),
        ("delete", "sub", EINVAL, "the folder is not empty"),
        ("list", "file.txt", EINVAL, "a file stands where a folder is needed"),
        ("read", "file.txt/x", EINVAL, "a file stands where a folder is needed"),
        ("write", "file.txt/x", EINVAL, "a file stands where a folder is needed"),
        ("delete", "file.txt/x", EINVAL, "a file stands where a folder is needed"),
        ("write", "n" * 300, EINVAL, "the name is too long"),
    ],
)
def test_files_says_what_is_wrong(
    world: World, name: str, path: str, error: type[SyscallError], complaint: str
) -> None:
    names = world.names()
    found = world.attempt(name, path)
    assert type(found) is error
    assert found.detail == f"{path}: {complaint}"
    assert world.names() == names


@pytest.mark.parametrize(
    ("code", "error", "complaint"),
    [
        (errno.EACCES, EPERM, "the host does not permit it"),
        (errno.EROFS, EPERM, "the host's file system is read-only"),
        (errno.EIO, EIO, os.strerror(errno.EIO)),
        (errno.ENOSPC, EIO, os.strerror(errno.ENOSPC)),
    ],
)
@pytest.mark.parametrize("name", CALLS)
def test_any_call_into_the_host_may_fail(
    tmp_path: Path, name: str, code: int, error: type[SyscallError], complaint: str
) -> None:
    def fail(world: World) -> None:
        raise OSError(code, "host", str(world.outside))

    path = "." if name in ("list", "search", "find") else "sub/deep/file.txt"
    for world, saboteur in each_moment(fail, tmp_path):
        found = world.attempt(name, path, saboteur)
        text = (world.root / path).read_text() if path != "." and (world.root / path).exists() else None
        written = {"write": "pwned", "append": "insidepwned", "edit": "inpwned"}
        assert text in ("inside", written.get(name))
        if saboteur.left > 0:
            assert found is None
        elif name not in ("search", "find") or error is EIO:  # a search passes over what it may not read
            assert type(found) is error
            assert found.detail == f"{path}: {complaint}"


def test_a_read_only_device(world: World) -> None:
    device = Files(world.root)
    assert [info.name for info in device.describe("f").ops] == ["read", "lines", "list", "stat", "search", "find"]
    names = world.names()
    for name in ("write", "append", "delete", "edit"):
        for path in ("file.txt", "new/new.txt"):
            with pytest.raises(EPERM, match=f"{path}: the device is read-only"):
                call(device, name, path=path, **CALLS[name])
    assert world.names() == names
    assert call(device, "read", path="file.txt") == "inside"
