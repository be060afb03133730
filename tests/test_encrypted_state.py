"""An encrypted state directory: of all that is said nothing can be read in it, whatever happened to its kernel."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import anyio
import pytest

from command import Start
from glass import Sit, table
from stores import KEY, opened, put, row
from tokix import cli, failure
from tokix.boot import boot
from tokix.kernel.kernel import Kernel
from tokix.shell.repl import remembered
from tokix.state import TRUTH
from tokix.storage import SqliteStore, StoreError, glance
from tokix.storage.cipher import encrypted
from tokix.syscalls import Append, Recv, Save, Spawn, Wait
from tokix.terminal import Terminal

pytest.importorskip("sqlcipher3")

WORD = "walrus"
#: Says the word in every way that there is, and then waits.
TALKER = f"""
from tokix.syscalls import *

async def main(word):
    child = await Spawn(program=f"{{__file__}}:listener", args=[word])
    await Append(role="system", text=f"{{word}} in the context")
    await Append(role="user", text=f"{{word}} in the archive " * 40)
    await Append(role="user", text=f"{{word}} at the end " * 40)
    await Think(prompt=f"{{word}}?", max_tokens=3)
    await Send(to=child, body={{"{WORD}": word}}, tag=word)
    await Spawn(program=f"{{__file__}}:crash", args=[word])
    await Write(text=f"{{word}} and {{await Read()}}\\n")
    await Recv()

async def listener(word):
    await Sleep(seconds=3600)

async def crash(word):
    raise ValueError(word)
"""


@pytest.fixture
def key(state: Path) -> Path:
    (state.parent / "talker.py").write_text(TALKER)
    file = state.parent / "key"
    file.write_text(f"{KEY}\n")
    return file


def readable(folder: Path, word: str = WORD) -> list[str]:
    """Name the files in which a word can be read."""
    spellings = [word.encode(code) for code in ("utf-8", "utf-16-le", "utf-16-be")]
    files = [path for path in folder.rglob("*") if path.is_file()]
    return [path.name for path in files if any(spelling in path.read_bytes() for spelling in spellings)]


def talk(tokix: Start, *words: Any, **environment: str) -> Any:
    """Start the talker, and wait until it has said everything."""
    words = ("run", "--window", "256", *words, "talker.py", WORD)
    return tokix(*words, **environment).types(f"{WORD} is typed\n").says(f"{WORD} and {WORD} is typed")


# ---- nothing can be read


def test_not_while_the_kernel_runs_nor_after_a_kill_nor_at_the_end(
    tokix: Start, state: Path, key: Path, tmp_path: Path
) -> None:
    """With folders for temporary files that are looked at, too."""
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    environment = {"TOKIX_KEY_FILE": str(key), "TMPDIR": str(temporary), "SQLITE_TMPDIR": str(temporary)}
    kernel = talk(tokix, **environment)
    assert "tokix.db-wal" in {path.name for path in state.iterdir()}
    assert readable(state) == []
    kernel.signal(signal.SIGKILL).gone()
    assert readable(state) == []
    again = tokix("run", **environment).says("going on with 2 unfinished processes", "stderr")
    again.signal(signal.SIGINT).end()
    assert readable(state) == []
    assert {path.name for path in state.iterdir()} <= {TRUTH, "kernel.lock", "running", "deaths.json"}
    assert readable(temporary) == []
    code, out, _ = tokix("logs", "3", "--full", **environment).end()
    assert (code, WORD in out) == (0, True), "and all is there"


def test_without_a_key_it_can_be_read(tokix: Start, state: Path, key: Path) -> None:
    """The test above looks at the right places."""
    talk(tokix)
    assert "tokix.db-wal" in readable(state)


def test_what_is_typed_in_a_shell_is_not_remembered(sit: Sit, state: Path, key: Path) -> None:
    host = sit("sh", "--key-file", str(key))
    host.does(f"echo {WORD} one", f"{WORD} one")
    guest = sit()  # it has no key, and learns from the directory that it is encrypted
    guest.does(f"echo {WORD} two", f"{WORD} two")
    guest.types("\x1b[A").sees(f"tokix> echo {WORD} two")
    assert readable(state) == []
    assert not (state / "history").exists()


@pytest.mark.parametrize("durable", ["process", "none"])
def test_a_report_says_where_and_not_what(
    state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, durable: Any
) -> None:
    def step(self: Kernel, interrupts: Any, now: float) -> Any:
        try:
            raise KeyError("walrus")
        except KeyError as error:
            error.add_note("walrus")
            raise RuntimeError("walrus") from error

    monkeypatch.setattr(Kernel, "step", step)

    async def main() -> None:
        async with boot(state, key=KEY, durable=durable):
            await anyio.sleep_forever()

    with pytest.raises(failure.Stopped, match="RuntimeError: walrus"):
        anyio.run(main)
    [report] = state.glob("crash-*.txt")
    text = report.read_text()
    assert "builtins.KeyError, at:" in text
    assert "builtins.RuntimeError, at:" in text
    assert f"{__file__}:" in text
    assert WORD not in text


def test_a_report_of_a_command_says_no_more(
    state: Path, key: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(state: Path, key: str | None) -> Any:
        raise LookupError("walrus")

    monkeypatch.setattr("tokix.doctor.examine", broken)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert cli.main(["doctor", "--state", str(state), "--key-file", str(key)]) == 70
    [report] = tmp_path.glob("crash-*.txt")
    assert "builtins.LookupError, at:" in report.read_text()
    assert WORD not in report.read_text()


def test_a_context_file_is_not_written_into_it(state: Path, tmp_path: Path) -> None:
    async def saver(path: str) -> Any:
        await Append(role="user", text="a walrus")
        return (await Save(path=path)).bytes

    async def main() -> Any:
        async with boot(state, key=KEY, programs={"saver": saver}) as system, system.attach("test") as client:
            link = tmp_path / "link"
            link.symlink_to(state)
            pids = [
                await client.call(Spawn(program="saver", args=[str(place / "a.context")]))
                for place in (state, link, tmp_path)
            ]
            return [await client.call(Wait(pid=pid)) for pid in pids]

    inside, linked, outside = anyio.run(main)
    assert "is in an encrypted state directory, and context files are not encrypted" in inside.detail
    assert "is in an encrypted state directory" in linked.detail
    assert (outside.reason, outside.value > 0) == ("exit", True)
    assert readable(state) == []


def test_there_is_no_swap_file_unless_it_is_asked_for(
    state: Path, key: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from tokix import machines

    asked = []
    load = machines.load

    def seen(reference: str, **shape: Any) -> Any:
        asked.append(shape["slots"])
        return load(reference, **shape)

    monkeypatch.setattr(machines, "load", seen)
    words = ["run", "--state", str(state)]
    assert cli.main([*words, "echo", "hi"]) == 0
    assert cli.main(["state", "encrypt", "--state", str(state), "--key-file", str(key)]) == 0
    words += ["--key-file", str(key)]
    assert cli.main([*words, "echo", "hi"]) == 0
    assert "swap file" not in capfd.readouterr().err
    assert cli.main([*words, "--slots", "8", "echo", "hi"]) == 0
    assert "the swap file, which has no name and lies outside of the state directory, is not encrypted" in (
        capfd.readouterr().err
    )
    assert asked == [None, 0, 8]


# ---- the key of a command


def test_every_command_that_opens_it_takes_the_key(
    tokix: Start, state: Path, key: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    talk(tokix, "--key-file", key).signal(signal.SIGTERM).gone()
    option = ["--state", str(state), "--key-file", str(key)]
    for words in (["ps"], ["logs", "3"], ["devices"], ["doctor"], ["sh", "-c", "ps"]):
        code = cli.main([words[0], *option, *words[1:]])
        out, err = capfd.readouterr()
        assert code == 0, err
        assert out
    assert cli.main(["doctor", "--json", *option]) == 0
    findings = json.loads(capfd.readouterr().out)
    [store] = [finding for finding in findings if finding["what"] == "store"]
    assert store["found"].startswith("whole, encrypted, ")
    for words in (["ps"], ["logs", "3"], ["doctor"]):
        assert cli.main([words[0], "--state", str(state), *words[1:]]) == 1
        out, err = capfd.readouterr()
        assert "give its key with --key-file FILE" in out + err
    monkeypatch.setenv("TOKIX_KEY_FILE", str(key))
    assert cli.main(["ps", "--state", str(state)]) == 0
    assert "talker.py" in capfd.readouterr().out


def test_the_look_before_a_boot_needs_the_key(state: Path) -> None:
    async def waiter(word: str) -> None:
        await Recv()

    async def main() -> None:
        async with boot(state, key=KEY, programs={"waiter": waiter}) as system, system.attach("test") as client:
            await client.call(Spawn(program="waiter", args=[WORD]))

    anyio.run(main)
    assert glance.unfinished(state / TRUTH, KEY) == ("toy", (("waiter", f'["{WORD}"]'),))
    for wrong in (None, KEY[::-1]):
        assert glance.unfinished(state / TRUTH, wrong) == (None, ())


def test_a_key_that_does_not_fit_is_noticed_before_a_model_is_loaded(
    state: Path, key: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from tokix import machines

    words = ["run", "--state", str(state)]
    assert cli.main([*words, "--key-file", str(key), "echo", "hi"]) == 0
    monkeypatch.setattr(machines, "load", lambda *_, **__: pytest.fail("a model is loaded"))
    capsys.readouterr()
    assert cli.main([*words, "echo", "hi"]) == 1
    assert f"cannot open {state / TRUTH}: the file is not a database, or it is encrypted" in capsys.readouterr().err
    key.write_text("another")
    assert cli.main([*words, "--key-file", str(key), "echo", "hi"]) == 1
    assert f"cannot open {state / TRUTH}: the key does not fit" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (None, "cannot be read: No such file or directory"),
        (b"", "is empty"),
        (b"\n", "is empty"),
        (b" \r\n", "is empty"),
        (b"two\nlines\n", "has to hold one line of text"),
        (b"\xff\xfe\x00", "has to hold one line of text"),
        (b"nul\0", "has to hold one line of text"),
        (b"x" * 5000, "has to hold one line of text"),
    ],
)
def test_a_key_file_that_is_none(
    state: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes | None, complaint: str
) -> None:
    file = tmp_path / "file"
    if content is not None:
        file.write_bytes(content)
    assert cli.main(["run", "--state", str(state), "--key-file", str(file), "echo", "hi"]) == 1
    _, err = capsys.readouterr()
    assert err.startswith(f"tokix: the key file {file} ")
    assert complaint in err
    assert not state.exists()


def test_an_empty_variable_is_a_mistake(
    state: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOKIX_KEY_FILE", "")
    assert cli.main(["ps", "--state", str(state)]) == 2
    assert capsys.readouterr().err == "tokix: TOKIX_KEY_FILE is empty: let it name a file, or unset it\n"


@pytest.mark.parametrize("ending", ["", "\n", "\r\n"])
def test_the_end_of_a_line_is_not_part_of_a_key(
    state: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], ending: str
) -> None:
    file = tmp_path / "file"
    file.write_bytes(f" a passphrase, with 'spaces' {ending}".encode())

    async def main() -> None:
        async with boot(state, key=" a passphrase, with 'spaces' "):
            pass

    anyio.run(main)
    assert cli.main(["ps", "--state", str(state), "--key-file", str(file)]) == 0


def test_what_joins_a_kernel_that_encrypts_nothing(tokix: Start, state: Path, key: Path) -> None:
    kernel = tokix("run", "p.py:ask").says("name?")
    code, _, err = tokix("run", "--key-file", key, "echo", "hi").end()
    assert (code, "encrypts nothing: stop it, or leave the key out" in err) == (1, True)
    assert kernel.process.poll() is None


def test_boot_refuses_a_key_that_does_not_fit(state: Path) -> None:
    async def main(key: str | None) -> None:
        async with boot(state, key=key, terminal=Terminal()):
            pass

    anyio.run(main, KEY)
    for wrong in (None, KEY[::-1]):
        with pytest.raises(StoreError):
            anyio.run(main, wrong)
    anyio.run(main, KEY)


def test_the_demo_encrypts_what_it_makes_and_hands_the_key_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its directories are temporary, so they are looked at when it starts the second kernel."""
    from tokix import demo
    from tokix.cli import command_line

    seen = []
    survives = demo.survives

    def looking(options: Any, first: Path, *more: Any) -> bool:
        same = survives(options, first, *more)
        seen.extend([encrypted(folder / TRUTH) for folder in (first, first.with_name("second"))])
        return same

    monkeypatch.setattr(demo, "survives", looking)
    (tmp_path / "s.yaml").write_text(
        "name: s\nprocesses:\n" + "".join(f"  p{n}: {{program: chat, args: [hello]}}\n" for n in range(20))
    )
    options = command_line().parse_args(["demo", str(tmp_path / "s.yaml"), "--out", str(tmp_path / "out")])
    options.key = KEY
    assert demo.demo(options) == 0
    assert seen == [True, True]


# ---- tokix state


def test_encrypt_rekey_decrypt(sit: Sit, state: Path, key: Path, capsys: pytest.CaptureFixture[str]) -> None:
    person = sit()
    person.does(f"echo {WORD}", WORD)
    person.types("\x04")
    assert person.gone() == 0
    (state / "crash-20200101-000000.txt").write_text(WORD)
    assert set(readable(state)) == {TRUTH, "history", "crash-20200101-000000.txt"}
    other = state.parent / "other"
    other.write_text("correct horse")
    where = ["--state", str(state)]
    assert cli.main(["state", "encrypt", *where]) == 2
    assert cli.main(["state", "encrypt", *where, "--key-file", str(key)]) == 0
    assert f"removed {state / 'history'}, which was plain text" in capsys.readouterr().err
    assert readable(state) == []
    assert cli.main(["state", "encrypt", *where, "--key-file", str(key)]) == 1
    assert "is encrypted already" in capsys.readouterr().err
    assert cli.main(["state", "rekey", *where, "--key-file", str(other), "--new-key-file", str(key)]) == 1
    assert "the key does not fit" in capsys.readouterr().err
    assert cli.main(["state", "rekey", *where, "--key-file", str(key), "--new-key-file", str(other)]) == 0
    assert cli.main(["ps", "--all", *where, "--key-file", str(key)]) == 1
    assert cli.main(["ps", "--all", *where, "--key-file", str(other)]) == 0
    assert readable(state) == []
    assert cli.main(["state", "decrypt", *where, "--key-file", str(other)]) == 0
    assert readable(state) == [TRUTH]
    capsys.readouterr()
    assert cli.main(["ps", "--all", *where]) == 0
    assert f'"{WORD}"' in capsys.readouterr().out
    assert cli.main(["state", "decrypt", *where, "--key-file", str(other)]) == 1
    assert "is not encrypted" in capsys.readouterr().err


def test_nothing_to_encrypt_and_a_kernel_that_runs(
    tokix: Start, state: Path, key: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["state", "encrypt", "--state", str(state), "--key-file", str(key)]
    assert cli.main(words) == 1
    assert f"nothing is in {state}; `tokix run --key-file FILE`" in capsys.readouterr().err
    assert not state.exists()
    kernel = tokix("run", "p.py:ask").says("name?")
    assert cli.main(words) == 1
    assert "in use by another kernel" in capsys.readouterr().err
    assert kernel.process.poll() is None


def test_the_doctor_notes_what_is_left_in_plain_text(
    tokix: Start, state: Path, key: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    talk(tokix, "--key-file", key).signal(signal.SIGTERM).gone()
    (state / "history").write_text(WORD)
    assert cli.main(["doctor", "--json", "--state", str(state), "--key-file", str(key)]) == 0
    [finding] = [f for f in json.loads(capsys.readouterr().out) if f["what"] == "privacy"]
    assert finding["found"] == "history can be read without the key"


def test_a_history_that_is_not_kept(tmp_path: Path) -> None:
    remembered(None).append_string("a line")
    assert list(tmp_path.iterdir()) == []


def test_tables_are_shown_by_a_guest_without_a_key(
    tokix: Start, state: Path, key: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Who may connect to the kernel needs no key for what it tells."""
    talk(tokix, "--key-file", key)
    assert len(table(state, capsys)) >= 2


def test_what_a_kill_has_left_plain_goes_at_the_next_try(
    tmp_path: Path, key: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state, elsewhere = tmp_path / "new", tmp_path / "elsewhere"
    elsewhere.mkdir()
    with_key = ["--state", str(state), "--key-file", str(key)]
    SqliteStore(state / TRUTH).close()
    assert cli.main(["state", "encrypt", *with_key]) == 0
    for name in ("history", "crash-1.txt", ".tokix-abc"):
        (state / name).write_text("plain")
    (state / "index").symlink_to(elsewhere)
    other = tmp_path / "other"
    other.write_text("another key")
    assert cli.main(["state", "encrypt", "--state", str(state), "--key-file", str(other)]) == 1
    assert "the key does not fit" in capsys.readouterr().err
    assert (state / "history").exists(), "who has not the key removes nothing"
    assert cli.main(["state", "encrypt", *with_key]) == 1
    assert "is encrypted already" in capsys.readouterr().err
    assert {path.name for path in state.iterdir()} == {"tokix.db", "kernel.lock"}
    assert elsewhere.exists()


def test_nothing_plain_is_exported_into_it(tmp_path: Path, key: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = tmp_path / "new"
    where = ["--state", str(state), "--key-file", str(key)]
    with opened(state / TRUTH, KEY) as store:
        store.commit(put("page", row("page", pid=1, text="a secret")))
    assert cli.main(["memory", "export", *where, str(state / "out")]) == 2
    assert "choose another folder" in capsys.readouterr().err
    assert cli.main(["memory", "export", *where, str(tmp_path / "out")]) == 0
    assert "a secret" in (tmp_path / "out").read_text()
