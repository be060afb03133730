"""Files: what they are for."""

from __future__ import annotations

import os
from pathlib import Path

import anyio
import pytest

from driven import call
from tokix.drivers import Files, files
from tokix.syscalls import EINVAL, EPERM


@pytest.fixture
def device(tmp_path: Path) -> Files:
    return Files(tmp_path, write=True)


def test_write_read_append_delete(device: Files, tmp_path: Path) -> None:
    text = "Grüße, 世界 🌍\r\nline 2\n\0"
    for _ in range(2):
        assert call(device, "write", path="a/b/c.txt", text=text) is None
    assert (tmp_path / "a/b/c.txt").read_bytes() == text.encode()
    assert call(device, "read", path="./a//b/c.txt") == text
    call(device, "append", path="a/b/c.txt", text="more")
    assert call(device, "read", path="a/b/c.txt") == text + "more"
    call(device, "append", path="new/log.txt", text="first\n")
    assert call(device, "read", path="new/log.txt") == "first\n"
    for path in ("a/b/c.txt", "a/b/c.txt", "a/b", "a", "a", "never/was"):
        assert call(device, "delete", path=path) is None
    assert [info["name"] for info in call(device, "list")] == ["new"]


def test_read_in_pieces(device: Files) -> None:
    text = "".join(chr(0x20 + 37 * n) for n in range(100))
    call(device, "write", path="t", text=text)
    pieces = [call(device, "read", path="t", offset=offset, limit=7) for offset in range(0, 112, 7)]
    assert "".join(pieces) == text
    assert pieces[-1] == call(device, "read", path="t", offset=10**18) == ""
    for wrong in ({"offset": -1}, {"limit": 0}, {"limit": 1 << 21}):
        with pytest.raises(EINVAL):
            call(device, "read", path="t", **wrong)


def test_a_read_that_does_not_say_how_much_suits_a_small_window(device: Files) -> None:
    call(device, "write", path="t", text="x" * 100_000)
    assert len(call(device, "read", path="t")) == files.MAX_TEXT == 8000
    assert len(call(device, "read", path="t", limit=50_000)) == 50_000


@pytest.mark.parametrize(
    ("text", "first", "count", "expected"),
    [
        ("a\nb\nc\n", 1, 2, ("a\nb", 3, 3)),
        ("a\nb\nc\n", 3, 2, ("c", None, 3)),
        ("a\nb\nc", 2, 2, ("b\nc", None, 3)),
        ("a\nb\nc\n", 4, 1, ("", None, 3)),
        ("a\nb\nc\n", 10**9, 1, ("", None, 3)),
        ("\n\na", 1, 2, ("\n", 3, 3)),
        ("\r\nx\x0c\u2028y", 2, 9, ("x\x0c\u2028y", None, 2)),
        ("", 1, 5, ("", None, 0)),
        ("\n", 1, 5, ("", None, 1)),
    ],
)
def test_lines(device: Files, text: str, first: int, count: int, expected: tuple[str, int | None, int]) -> None:
    call(device, "write", path="t", text=text)
    found = call(device, "lines", path="t", first=first, count=count)
    assert (found["text"], found["next"], found["total"]) == expected
    assert found["note"] == ""


def test_lines_are_bounded_and_go_on_where_they_stopped(device: Files) -> None:
    lines = ["short", "x" * 7000, "y" * 7000, "z" * 20_000, "w" * 8000, "end"]
    call(device, "write", path="t", text="\n".join(lines))
    parts, first = [], 1
    while first:
        parts.append(call(device, "lines", path="t", first=first))
        first = parts[-1]["next"]
    assert [part["text"] for part in parts] == [
        "short\n" + "x" * 7000,
        "y" * 7000,
        "z" * 8000,
        "w" * 8000,
        "end",
    ]
    assert [part["note"] for part in parts if part["note"]] == [
        "line 4 is cut: it has 20000 characters, which `read` gives from an offset on"
    ]


def test_the_line_of_a_match_is_the_line_that_is_read(device: Files) -> None:
    call(device, "write", path="t", text="".join(f"line {n}\n" for n in range(1, 500)))
    [match] = call(device, "search", text="line 321")
    assert call(device, "lines", path="t", first=match["line"], count=1)["text"] == "line 321"


def test_edit(device: Files, tmp_path: Path) -> None:
    call(device, "write", path="t", text="one two\n two\n")
    call(device, "edit", path="t", old="one two\n", new="Grüße\n")
    assert (tmp_path / "t").read_text() == "Grüße\n two\n"
    call(device, "edit", path="t", old=" two\n", new="")
    assert (tmp_path / "t").read_text() == "Grüße\n"
    call(device, "write", path="t", text="a a a")
    with pytest.raises(EINVAL, match="t: old stands in the file 3 times; give more of the text around it"):
        call(device, "edit", path="t", old="a", new="b")
    with pytest.raises(EINVAL, match="t: old stands in the file 0 times; it has to be as in the file, space by space"):
        call(device, "edit", path="t", old="a  a", new="b")
    assert (tmp_path / "t").read_text() == "a a a"


def test_edits_at_the_same_time_lose_nothing(device: Files) -> None:
    call(device, "write", path="t", text="<>")

    async def main() -> None:
        async with anyio.create_task_group() as group:
            for n in range(20):
                group.start_soon(device.invoke, "edit", {"path": "t", "old": "<", "new": f"<{n} "}, "k")
                group.start_soon(device.invoke, "append", {"path": "t", "text": f"{n};"}, "k")

    anyio.run(main)
    front, back = call(device, "read", path="t").strip("<").split(">")
    assert sorted(map(int, front.split())) == list(range(20))
    assert sorted(map(int, back.strip(";").split(";"))) == list(range(20))


def test_binary_files_are_not_text(device: Files, tmp_path: Path) -> None:
    (tmp_path / "b").write_bytes(b"text\xff\xfe")
    with pytest.raises(EINVAL, match="b: not a text file; byte 4 is not UTF-8"):
        call(device, "read", path="b", limit=2)
    call(device, "append", path="b", text="still not")


def test_sizes_are_bounded(device: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "MAX_FILE", 10)
    call(device, "write", path="t", text="0123456789")
    with pytest.raises(EINVAL, match="t: too large"):
        call(device, "append", path="t", text="x")
    with pytest.raises(EINVAL, match="t: a text of 12 bytes; 10 can be written"):
        call(device, "write", path="t", text="é" * 6)
    assert call(device, "read", path="t") == "0123456789"
    (tmp_path / "t").write_text("01234567890")
    with pytest.raises(EINVAL, match="t: too large"):
        call(device, "read", path="t", limit=1)
    assert call(device, "search", text="0") == []


def test_a_file_without_a_size_is_read_to_its_end() -> None:
    if not Path("/proc/version").exists():
        pytest.skip("needs /proc")
    assert call(Files(Path("/proc")), "read", path="version") == Path("/proc/version").read_text()


def test_modes_are_kept_and_respected(device: Files, tmp_path: Path) -> None:
    call(device, "write", path="t", text="1")
    umask = os.umask(0)
    os.umask(umask)
    assert (tmp_path / "t").stat().st_mode & 0o7777 == 0o666 & ~umask
    (tmp_path / "t").chmod(0o640)
    call(device, "write", path="t", text="2")
    assert (tmp_path / "t").stat().st_mode & 0o7777 == 0o640
    (tmp_path / "t").chmod(0o440)
    with pytest.raises(EPERM, match="t: the host does not permit it"):
        call(device, "write", path="t", text="3")
    assert call(device, "read", path="t") == "2"


def test_writing_beside_a_hard_link_leaves_the_other_name_alone(device: Files, tmp_path: Path) -> None:
    (tmp_path / "one").write_text("old")
    os.link(tmp_path / "one", tmp_path / "two")
    call(device, "write", path="one", text="new")
    assert call(device, "read", path="two") == "old"


def test_effect_classes() -> None:
    effects = {name: found.info.effect for name, found in Files._ops.items()}
    assert effects.pop("append") == effects.pop("edit") == "unsafe"
    assert effects.pop("write") == effects.pop("delete") == "idempotent"
    assert set(effects.values()) == {"pure"}


def test_list_and_stat(device: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "a").write_text("12345")
    (tmp_path / "c").symlink_to("nowhere")
    (tmp_path / os.fsdecode(b"caf\xe9")).write_text("")
    listing = call(device, "list")
    assert [(info["name"], info["kind"]) for info in listing] == [
        ("a", "file"),
        ("b", "folder"),
        ("c", "link"),
        ("caf\\xe9", "file"),
    ]
    assert listing[0] == call(device, "stat", path="a")
    assert listing[0]["size"] == 5
    assert listing[0]["modified"] == (tmp_path / "a").stat().st_mtime
    assert (call(device, "stat", path=".")["name"], call(device, "stat", path="b")["kind"]) == (".", "folder")
    assert call(device, "list", offset=1, limit=2) == listing[1:3]
    assert call(device, "list", offset=4) == []
    monkeypatch.setattr(files, "MAX_ENTRIES", 3)
    with pytest.raises(EINVAL, match="more than 3 entries"):
        call(device, "list")


def test_lists_of_the_root_at_the_same_time_do_not_share_a_position(device: Files, tmp_path: Path) -> None:
    for n in range(300):
        (tmp_path / f"{n:03}").touch()

    async def one() -> None:
        for _ in range(10):
            assert len(await device.invoke("list", {"limit": 1000}, "k")) == 300

    async def main() -> None:
        async with anyio.create_task_group() as group:
            for _ in range(8):
                group.start_soon(one)

    anyio.run(main)


def test_search(device: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for path, text in {
        "b.txt": "x\nfind me\nno\nfind me too",
        "a/z.txt": "find",
        "a/b/c.txt": "x" * 500 + "find",
    }.items():
        call(device, "write", path=path, text=text)
    (tmp_path / "binary").write_bytes(b"find\xff")
    os.mkfifo(tmp_path / "fifo")
    found = [(m["path"], m["line"], m["text"]) for m in call(device, "search", text="find")]
    long = "x" * (files.MAX_LINE - 4) + "find"
    assert found == [
        ("a/b/c.txt", 1, long),
        ("a/z.txt", 1, "find"),
        ("b.txt", 2, "find me"),
        ("b.txt", 4, "find me too"),
    ]
    assert [m["path"] for m in call(device, "search", text="find", path="a/b")] == ["a/b/c.txt"]
    assert len(call(device, "search", text="find", limit=2)) == 2
    assert call(device, "search", text="nowhere") == []
    for bound, value in (("MAX_SEARCH_FILES", 3), ("MAX_SEARCH_BYTES", 100), ("MAX_SEARCH_DEPTH", 1)):
        with monkeypatch.context() as patch:
            patch.setattr(files, bound, value)
            with pytest.raises(EINVAL, match=r"too much|nested"):
                call(device, "search", text="nowhere")


def test_find(device: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for path in ("b.txt", "a/z.txt", "a/b/c.md", "a/b.txt/d.txt", "C.TXT"):
        call(device, "write", path=path, text="")
    (tmp_path / "link.txt").symlink_to("b.txt")
    assert call(device, "find", pattern="*.txt") == ["a/b.txt/d.txt", "a/z.txt", "b.txt"]
    assert call(device, "find", pattern="?.txt", path="a/b.txt") == ["a/b.txt/d.txt"]
    assert call(device, "find", pattern="c.md") == ["a/b/c.md"]
    assert call(device, "find", pattern="*", limit=2) == ["C.TXT", "a/b/c.md"]
    assert call(device, "find", pattern="a/*") == []
    monkeypatch.setattr(files, "MAX_SEARCH_FILES", 3)
    with pytest.raises(EINVAL, match="too much to search through; search in a smaller folder"):
        call(device, "find", pattern="nothing")
