"""`tokix memory`: what it verifies, rebuilds and writes, and what it says of what is wrong."""

from __future__ import annotations

import json
from base64 import b64decode
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest
from indexed import SPACE, TAIL, booted, damage, rows

from stores import KEY, change, opened, put, row
from tokix import cli
from tokix.archive import unpack
from tokix.boot import boot
from tokix.index import Trouble, owner
from tokix.kernel.arch.toy import ToyEncoder
from tokix.portable import MOST, LineError, Portable, pages
from tokix.shell.client import Gone
from tokix.storage import SqliteStore
from tokix.syscalls import Map, Pages, Regions

Captured = pytest.CaptureFixture[str]


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """Give a state directory with 300 pages of a process and 2 of another."""
    with opened(tmp_path / "tokix.db") as store:
        store.commit(rows(range(300)))
        texts = ("Crème brûlée", "a key\nunder the mat")
        store.commit(put("page", *(row("page", pid=2, id=n, role="tool", text=text) for n, text in enumerate(texts))))
    return tmp_path


def run(state: Path, *words: str) -> int:
    return cli.main(["memory", *words, "--state", str(state)])


def findings(state: Path, capsys: Captured) -> dict[str, tuple[str, str]]:
    """Give what `verify` says: states and findings, by what was looked at."""
    code = run(state, "verify", "--json")
    found = json.loads(capsys.readouterr().out)
    assert code == any(f["state"] == "wrong" for f in found)
    return {f["what"]: (f["state"], f["found"]) for f in found}


def test_verify_says_what_is_there(state: Path, capsys: Captured) -> None:
    assert findings(state, capsys) == {
        "store": ("ok", "whole, with its index of words"),
        "vectors": ("note", "2 pages have none yet: they are made when the machine is idle"),
        "index": ("ok", "nobody remembers 50000 pages, as many as need one"),
    }


def test_verify_names_what_is_wrong_and_the_command_that_helps(state: Path, capsys: Captured) -> None:
    change(state / "tokix.db", "DROP TRIGGER page_change", "UPDATE page SET text = 'a dog' WHERE id = 1")
    assert run(state, "verify") == 1
    out = capsys.readouterr().out
    assert "the index of words is not that of the pages" in out
    assert "tokix memory rebuild" in out
    assert run(state, "rebuild") == run(state, "rebuild") == 0
    assert findings(state, capsys)["store"][0] == "ok"


def test_vectors_of_no_page_and_of_another_size_are_wrong(state: Path, capsys: Captured) -> None:
    change(state / "tokix.db", "DELETE FROM page WHERE pid = 2", "DELETE FROM page WHERE id = 7")
    assert findings(state, capsys)["vectors"] == ("wrong", "1 belong to no page")
    change(state / "tokix.db", "DELETE FROM vector WHERE id = 7", "UPDATE vector SET data = x'00' WHERE id = 8")
    assert run(state, "verify") == 1
    assert "tokix memory rebuild --vectors" in capsys.readouterr().out


def test_vectors_are_made_anew(state: Path, capsys: Captured) -> None:
    change(state / "tokix.db", "UPDATE vector SET data = x'00'")
    assert run(state, "rebuild", "--vectors", "--model", "toy") == 0
    assert "vectors: done" in capsys.readouterr().err
    with opened(state / "tokix.db") as store:
        assert store.unembedded(ToyEncoder.name) == []
        assert store.encoders() == {(ToyEncoder.name, 512): 302}
        [page] = store.read("page", (*SPACE, 9))
        [vector] = store.read("vector", (*SPACE, 9))
        assert list(unpack(vector[4])) == pytest.approx(ToyEncoder().embed([page[-1]])[0])


@pytest.mark.parametrize("how", ["", "garbage", "deleted"])
def test_the_index_is_verified_and_rebuilt(
    state: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    pytest.importorskip("chromadb")
    monkeypatch.setattr("tokix.index.TAIL", TAIL)
    assert run(state, "rebuild") == 0
    assert "index of process 1: begins\ntokix: index of process 1: done" in capsys.readouterr().err
    if how:
        damage(state / "index", how)
    found = findings(state, capsys)
    if how == "garbage":
        assert found["index of process 1"][0] == "wrong"
    elif how == "deleted":
        assert found["index"][0] == "note"
    else:
        assert found["index of process 1"] == ("ok", "300 vectors, 0 are not in it yet")
    assert run(state, "rebuild") == 0
    capsys.readouterr()
    assert findings(state, capsys)["index of process 1"] == ("ok", "300 vectors, 0 are not in it yet")


def test_an_index_that_has_too_much_is_wrong(state: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("chromadb")
    monkeypatch.setattr("tokix.index.TAIL", TAIL)
    assert run(state, "rebuild") == 0
    change(state / "tokix.db", "DELETE FROM page WHERE id < 5", "DELETE FROM vector WHERE id < 5")
    capsys.readouterr()
    assert findings(state, capsys)["index of process 1"] == (
        "wrong",
        "295 vectors, 0 are not in it yet, 5 are not in the store",
    )

    async def boots() -> None:
        store = SqliteStore(state / "tokix.db")
        async with booted(store, state / "index"):
            store.close()

    anyio.run(boots)
    assert findings(state, capsys)["index of process 1"] == ("ok", "295 vectors, 0 are not in it yet")


def test_an_index_that_lacks_too_much_is_wrong(state: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("chromadb")
    monkeypatch.setattr("tokix.index.TAIL", TAIL)
    assert run(state, "rebuild") == 0
    for more, found in ((TAIL - 1, "ok"), (TAIL, "wrong")):
        with opened(state / "tokix.db") as store:
            store.commit(rows(range(300, 300 + more)))
        capsys.readouterr()
        said = findings(state, capsys)["index of process 1"]
        assert said == (found, f"300 vectors, {more} are not in it yet")


def test_of_an_encrypted_memory_no_index_is_made(
    tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("sqlcipher3")
    monkeypatch.setattr("tokix.index.TAIL", TAIL)
    (tmp_path / "key").write_text(KEY)
    monkeypatch.setenv("TOKIX_KEY_FILE", str(tmp_path / "key"))
    state = tmp_path / "state"
    with opened(state / "tokix.db", KEY) as store:
        store.commit(rows(range(300)))
    assert run(state, "rebuild") == 0
    capsys.readouterr()
    assert findings(state, capsys)["index"] == (
        "ok",
        "none: an encrypted state directory has its vectors in the store alone",
    )
    assert not (state / "index").exists()


def test_pages_are_written_as_lines(
    state: Path, tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(state, "export", "-", "--pid", "2") == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(line["pid"], line["id"], line["text"]) for line in lines] == [
        (2, 0, "Crème brûlée"),
        (2, 1, "a key\nunder the mat"),
    ]
    file = tmp_path / "out.jsonl"
    monkeypatch.setattr("tokix.portable.CHUNK", 7)
    assert run(state, "export", "--vectors", str(file)) == 0
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert len({(line["pid"], line["id"]) for line in lines}) == len(lines) == 302
    with opened(state / "tokix.db") as store:
        [vector] = store.read("vector", (*SPACE, 9))
    assert (lines[9]["encoder"], b64decode(lines[9]["vector"])) == vector[3:]
    assert [page.text for page in pages(file.read_bytes().splitlines()[-2:])] == [line["text"] for line in lines[-2:]]


def test_what_cannot_be_done_is_said_in_a_line(state: Path, tmp_path: Path, capsys: Captured) -> None:
    assert run(state, "export", str(tmp_path / "no" / "such")) == 1
    assert "No such file or directory" in capsys.readouterr().err
    assert run(state / "nothing", "verify") == 1
    assert "has no memory yet" in capsys.readouterr().err
    assert cli.main(["memory"]) == 2
    assert "verify, rebuild, export or import is missing" in capsys.readouterr().err

    async def busy() -> int:
        async with boot(state):
            return await anyio.to_thread.run_sync(lambda: run(state, "verify"))

    assert anyio.run(busy) == 1
    assert "is in use by another kernel" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("{", "line 2: it is not JSON"),
        ("[1]", "line 2: it is no object"),
        ('{"txt": "a"}', "line 2: text: Field required"),
        ('{"text": ""}', "line 2: text: "),
        ('{"text": 5}', "line 2: text: "),
        ('{"text": "a", "role": "boss"}', "line 2: role: "),
        ('{"text": "a", "id": -1}', "line 2: id: "),
        ('{"text": "\\ud800"}', "line 2: "),
        ('{"text": "b", "id": 3}', "line 2: the id 3 is that of line 1, too"),
        (b"\xff\xfe", "line 2: it is not UTF-8"),
    ],
)
def test_a_line_that_is_no_page_is_named(line: str | bytes, complaint: str) -> None:
    found = pages([b'{"text": "a", "id": 3}\n', line if isinstance(line, bytes) else line.encode()])
    assert next(found) == Portable(text="a", id=3)
    with pytest.raises(LineError) as caught:
        next(found)
    assert str(caught.value).startswith(complaint)


def test_lines_need_a_text_and_nothing_else() -> None:
    lines = [b'{"text": "a"}', b"", b"  \n", b'{"text": "b", "role": "tool", "score": 3, "vector": "x"}']
    assert [*pages(lines)] == [Portable(text="a"), Portable(text="b", role="tool")]


def test_owners() -> None:
    assert [owner((3, "")), owner((3, "0:1.")), owner((0, "facts"))] == ["process 3", "process 3 0:1.", "region facts"]


# ---- import


@pytest.fixture
def kernel(tmp_path: Path) -> Callable[..., Any]:
    """Give what runs a command beside a kernel in this process, and then looks at what a region has."""
    folder = tmp_path / "alive"

    def commanded(*words: str) -> tuple[int, list[tuple[str, str]]]:
        async def main() -> tuple[int, list[tuple[str, str]]]:
            async with boot(folder) as system:
                code = await anyio.to_thread.run_sync(lambda: cli.main(["memory", *words, "--state", str(folder)]))
                async with system.attach("look") as client:
                    if not await client.call(Regions()):
                        return code, []
                    await client.call(Map(region="facts"))
                    return code, [(page.role, page.text) for page in await client.call(Pages(region="facts"))]

        return anyio.run(main)

    return commanded


def test_lines_of_another_memory_are_taken_in_all_or_none(
    kernel: Callable[..., Any], state: Path, tmp_path: Path, capsys: Captured
) -> None:
    file = tmp_path / "lines"
    assert run(state, "export", str(file), "--pid", "2") == 0
    code, pages = kernel("import", "--region", "facts", str(file))
    assert code == 0
    assert pages == [("tool", "Crème brûlée"), ("tool", "a key\nunder the mat")]
    assert "region facts: done" in capsys.readouterr().err
    assert kernel("import", "--region", "facts", str(file))[0] == 1
    assert "the region facts is there already: --add adds to it" in capsys.readouterr().err
    code, pages = kernel("import", "--region", "facts", "--add", str(file))
    assert (code, len(pages)) == (0, 4)
    capsys.readouterr()
    assert run(tmp_path / "alive", "export", "-", "--region", "facts") == 0
    assert [json.loads(line)["text"] for line in capsys.readouterr().out.splitlines()] == [text for _, text in pages]


def test_what_is_no_page_is_named_and_nothing_is_taken_in(
    kernel: Callable[..., Any], tmp_path: Path, capsys: Captured
) -> None:
    file = tmp_path / "lines"
    file.write_text('{"text": "a"}\n{"test": "b"}\n')
    assert kernel("import", "--region", "facts", str(file)) == (1, [])
    assert f"{file}: line 2: text: Field required" in capsys.readouterr().err
    assert kernel("import", "--region", "facts", str(tmp_path / "none")) == (1, [])
    assert "No such file" in capsys.readouterr().err
    assert kernel("import", "--region", "a/b", str(file)) == (2, [])
    assert "'a/b' is no name of a region" in capsys.readouterr().err
    file.write_text("")
    assert kernel("import", "--region", "facts", str(file)) == (1, [])
    assert "there are no pages in it" in capsys.readouterr().err


def test_lines_that_nobody_should_write() -> None:
    for line, complaint in (
        (b"[" * 100_000, "it is not JSON"),
        (b"x" * (MOST + 1), "it has more than"),
        (b'{"text": "a", "id": -1}', "id: "),
    ):
        with pytest.raises(LineError, match=complaint):
            list(pages([line]))
    assert [page.text for page in pages(["\ufeff".encode() + b'{"text": "a"}'])] == ["a"]
    whose = [b'{"text": "a", "pid": 1, "id": 0}', b'{"text": "b", "pid": 2, "id": 0}']
    whose.append(b'{"text": "b", "pid": 2, "space": "0:1.", "id": 0}')
    assert len(list(pages(whose))) == 3
    with pytest.raises(LineError, match="line 4: the id 0 is that of line 1, too"):
        list(pages([*whose, whose[0]]))


def test_a_full_disk_leaves_the_older_file(
    state: Path, tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(data: bytes) -> bytes:
        raise OSError(28, "No space left on device")

    kept = tmp_path / "backup"
    kept.write_text("old")
    monkeypatch.setattr("tokix.portable.b64encode", full)
    assert run(state, "export", "--vectors", str(kept)) == 1
    assert "No space left on device" in capsys.readouterr().err
    assert kept.read_text() == "old"
    assert {path.name for path in tmp_path.iterdir()} <= {"backup", "kernel.lock", "tokix.db"}


def test_what_is_cut_off_says_how_far_it_came(
    state: Path, tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def cut(options: Any, found: Any, done: list[int], progress: Any) -> None:
        done += [4, 5]
        raise Gone("killed")

    file = tmp_path / "lines"
    file.write_text('{"text": "a"}\n' * 3)
    monkeypatch.setattr("tokix.memory._append", cut)
    assert run(state, "import", "--region", "facts", str(file)) == 1
    err = capsys.readouterr().err
    assert "2 of 3 pages are in, 4 to 5 of the region facts" in err
    assert "the kernel is gone (killed)" in err

    def interrupted(store: SqliteStore) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(SqliteStore, "rebuild_words", interrupted)
    assert run(state, "rebuild") == 130
    assert "cut off; what is missing is made at the next boot" in capsys.readouterr().err


def test_an_index_that_cannot_be_made(state: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    async def fails(self: object, *args: object, **options: object) -> None:
        raise Trouble("no such luck")

    monkeypatch.setattr("tokix.index.TAIL", TAIL)
    monkeypatch.setattr("tokix.index.available", lambda: True)
    monkeypatch.setattr("tokix.index.Server.ask", fails)
    assert run(state, "rebuild") == 1
    assert "the index could not be made; search compares all vectors without it" in capsys.readouterr().err


def test_to_export_what_is_not_there_writes_nothing(state: Path, tmp_path: Path, capsys: Captured) -> None:
    kept = tmp_path / "backup"
    kept.write_text("old")
    for words in (["--region", "nosuch"], ["--pid", "999"]):
        assert run(state, "export", *words, str(kept)) == 1
        assert "there are no such pages; nothing was written" in capsys.readouterr().err
    assert run(state, "export", "--region", "", str(kept)) == 2
    assert kept.read_text() == "old"


def test_a_damaged_vector_ends_neither_a_search_nor_a_look(
    state: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("chromadb")
    monkeypatch.setattr("tokix.index.TAIL", TAIL)
    change(state / "tokix.db", "UPDATE vector SET data = substr(data, 1, 100) WHERE id = 7 AND pid = 1")
    assert run(state, "rebuild") == 0
    capsys.readouterr()
    assert run(state, "verify") == 1
    out = capsys.readouterr().out
    assert "1 of toy-128, 100 bytes each\ttokix memory rebuild --vectors" in out
    assert "index of process 1\tok\t299 vectors, 0 are not in it yet" in out
    assert run(state, "rebuild", "--vectors", "--model", "toy") == 0
    capsys.readouterr()
    assert findings(state, capsys)["index of process 1"] == ("ok", "300 vectors, 0 are not in it yet")
