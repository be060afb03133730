"""The key of an encrypted state directory: where it comes from, and `tokix state`, which changes it.

A key is in a file, so that no list of processes and no history of a shell shows it. `--key-file <(COMMAND)` takes it
from a program that keeps secrets. See `tokix.storage.cipher` for what is done with it.
"""

from __future__ import annotations

import os
from argparse import Namespace, _SubParsersAction
from pathlib import Path
from shutil import rmtree
from typing import Any, NoReturn

from tokix.cli import add_state, say
from tokix.shell.usage import WRONG, Failure

#: The environment variable that names the file, and the most bytes that are in it.
VARIABLE, MOST = "TOKIX_KEY_FILE", 4096
#: What makes a key.
MAKE = "`openssl rand -hex 32 > FILE` makes one"


def given(path: Path | None) -> str | None:
    """Read the key of a command: from the file that was said, or from that of the environment; raises Failure."""
    if path is not None:
        return read(path)
    name = os.environ.get(VARIABLE)
    if name == "":  # what was meant to be encrypted must not be plain because of a script's mistake
        raise Failure(f"{VARIABLE} is empty: let it name a file, or unset it", WRONG)
    return read(Path(name)) if name else None


def read(path: Path) -> str:
    """Read the key in a file; raises Failure."""
    try:
        with path.open("rb") as file:
            content = file.read(MOST + 1)
    except OSError as error:
        raise Failure(f"the key file {path} cannot be read: {error.strerror}") from None
    try:
        key = content.decode().removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError:
        key = "\0"
    if not key.strip():
        raise Failure(f"the key file {path} is empty; {MAKE}")
    if len(content) > MOST or not key.isprintable():
        raise Failure(f"the key file {path} has to hold one line of text, a passphrase or a key; {MAKE}")
    return key


# ---- the command line


def add(commands: _SubParsersAction[Any]) -> None:
    """Add `state` to the commands of tokix."""
    text = "Encrypt a state directory, decrypt it, or change its key."
    state = commands.add_parser("state", help=text, description=text)
    state.set_defaults(command=missing)
    verbs = state.add_subparsers(title="commands", metavar="COMMAND")
    for verb in (encrypt, decrypt, rekey):
        parser = verbs.add_parser(verb.__name__, help=verb.__doc__, description=verb.__doc__)
        parser.set_defaults(command=verb)
        add_state(parser)
        if verb is rekey:
            parser.add_argument(
                "--new-key-file", metavar="FILE", type=Path, required=True, help="the key that it has from now on"
            )


def missing(options: Namespace) -> NoReturn:
    raise Failure("encrypt, decrypt or rekey is missing; see `tokix state --help`", WRONG)


def encrypt(options: Namespace) -> int:
    """Encrypt a state directory with the key of --key-file, and remove what lies beside it in plain text."""
    from tokix.state import TRUTH, left_plain
    from tokix.storage.cipher import encrypted

    key, before = required(options), encrypted(options.state / TRUTH)
    if before:
        fits(options.state, key)
    else:
        rewritten(options.state, None, key)
    for path in left_plain(options.state):  # of a kill in between, too
        rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        say(f"removed {path}, which was plain text")
    if before:
        raise Failure(f"{options.state} is encrypted already; `tokix state rekey` changes its key")
    say(f"{options.state} is encrypted; without its key nobody can read it again, so keep the key")
    return 0


def decrypt(options: Namespace) -> int:
    """Make a plain state directory of an encrypted one, whose key is that of --key-file."""
    rewritten(options.state, required(options), None)
    say(f"{options.state} is not encrypted any more")
    return 0


def rekey(options: Namespace) -> int:
    """Change the key of a state directory from that of --key-file to that of --new-key-file."""
    rewritten(options.state, required(options), read(options.new_key_file))
    say(f"{options.state} has the key of {options.new_key_file} from now on, and no other")
    return 0


def required(options: Namespace) -> str:
    """Give the key of a command that cannot do without."""
    if options.key is None:
        raise Failure(f"the key is missing: say --key-file FILE, or set {VARIABLE}", WRONG)
    key: str = options.key
    return key


def fits(state: Path, key: str) -> None:
    """Raise Failure unless a key is that of a state directory, which nobody else has open."""
    from tokix.state import opened
    from tokix.storage import StoreError

    try:
        with opened(state, "process", key):
            pass
    except StoreError as error:
        raise Failure(str(error)) from None


def rewritten(state: Path, key: str | None, new: str | None) -> None:
    """Write the truth of a state directory anew, with another key; raises Failure."""
    from tokix.state import TRUTH
    from tokix.storage import StoreError
    from tokix.storage.rewrite import rewrite

    if not (state / TRUTH).exists():
        raise Failure(f"nothing is in {state}; `tokix run --key-file FILE` makes an encrypted state directory")
    try:
        rewrite(state / TRUTH, key, new)
    except StoreError as error:
        raise Failure(str(error)) from None
