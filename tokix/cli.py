"""The command `tokix`: what a person types, and what comes of it.

An error is one line on the standard error, never a traceback. Exit codes: 2 for a wrong command line, 70 when the
kernel had to stop, 128 + n for signal n, 1 for every other failure; `run` gives that of its program.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import re
import signal
import sys
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from tokix.syscalls import Spawn

#: Exit codes, beside 0 and those of programs.
FAILED, WRONG, BROKEN, SIGNALLED = 1, 2, 70, 128
#: The signals of the kernel.
SIGNALS = ("TERM", "KILL", "STOP", "CONT", "INT")
#: Options of `run` that shape a kernel, and mean nothing to one that runs already.
SHAPE = ("durable", "policy", "quantum", "lanes", "seed", "root")


class Failure(Exception):
    """What the person has to know, in one line, and the exit code."""

    def __init__(self, text: str, code: int = FAILED) -> None:
        super().__init__(" ".join(text.split()))
        self.code = code


def main(words: Sequence[str] | None = None) -> int:
    """Do what a command line says; gives the exit code."""
    try:
        if words is None:
            hold_standard_descriptors()
        options = command_line().parse_args(dashed(sys.argv[1:] if words is None else words))
        if options.command is run and words is None:
            fix_hash_seed()
        if "state" in options:
            options.state = state_directory(options.state)
        code: int = options.command(options)
        print(end="", flush=True)
        return code
    except Failure as failure:
        say(str(failure))
        return failure.code
    except KeyboardInterrupt:
        return SIGNALLED + signal.SIGINT
    except OSError as error:  # of the standard output; Python would try once more at the end
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        if isinstance(error, BrokenPipeError):
            return SIGNALLED + signal.SIGPIPE
        say(f"cannot write the output: {error.strerror}")
        return FAILED
    except Exception as error:
        from tokix.failure import write_report

        say(f"tokix itself is wrong: {type(error).__name__}: {error}; {write_report('the command', error, None)}")
        return BROKEN


def say(text: str) -> None:
    """Tell the person something that is not the output."""
    if sys.stderr:
        with suppress(OSError):
            print(f"tokix: {text}", file=sys.stderr, flush=True)


def hold_standard_descriptors() -> None:
    """Take the places of standard streams that are closed, lest the store be opened there and output written into it.

    The places are held the wrong way round, so that to read or to write there still fails.
    """
    for fd, way in ((0, os.O_WRONLY), (1, os.O_RDONLY), (2, os.O_RDONLY)):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, way)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


# ---- the commands


def run(options: argparse.Namespace) -> int:
    """Run a program, or go on with all that is unfinished."""
    from tokix import commands
    from tokix.failure import Interrupted, Stopped

    options.unused = [f"--{name}" for name in SHAPE if getattr(options, name) is not None]
    spawn = wanted(options) if options.program else None
    try:
        code: int = act(commands.run, options, spawn)
        return code
    except Interrupted as cut:
        if cut.signum != signal.SIGPIPE:
            say(f"{cut}; `tokix run` goes on from here")
        return SIGNALLED + cut.signum
    except Stopped as error:
        raise Failure(str(error), BROKEN) from None


def ps(options: argparse.Namespace) -> int:
    """Show the process table."""
    from tokix import commands
    from tokix.shell import table

    processes = act(commands.look, options)
    if options.json:
        print(table.as_json(processes))
    elif os.isatty(1):
        table.show(processes)
    else:
        print(*table.as_lines(processes), sep="\n")
    return 0


def kill(options: argparse.Namespace) -> int:
    """Send a signal to processes."""
    from tokix import commands

    return FAILED if act(commands.kill, options) else 0


def version(options: argparse.Namespace) -> int:
    """Print the version."""
    from tokix import __version__

    print(f"tokix {__version__}")
    return 0


def missing(options: argparse.Namespace) -> NoReturn:
    raise Failure("a command is missing; see `tokix --help`", WRONG)


def act(command: Callable[..., Coroutine[Any, Any, Any]], *args: Any) -> Any:
    """Run a command in an event loop; what can go wrong in the world becomes a Failure."""
    import anyio

    from tokix.shell.client import Gone, NoKernel
    from tokix.storage import StoreError
    from tokix.syscalls import SyscallError

    try:
        return anyio.run(command, *args)
    except (NoKernel, StoreError, SyscallError) as error:
        raise Failure(str(error)) from None
    except Gone as error:
        raise Failure(f"the kernel is gone ({error}); what is unfinished goes on when it runs again") from None
    except BrokenPipeError:
        raise
    except OSError as error:
        raise Failure(f"{error.filename or 'the system'}: {error.strerror}") from None


def fix_hash_seed() -> None:
    """Start Python again with a fixed order of sets: a program that walks one has to do the same in every replay."""
    if os.environ.get("PYTHONHASHSEED") != "0":
        os.environ["PYTHONHASHSEED"] = "0"
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def wanted(options: argparse.Namespace) -> Spawn:
    """Give the call that starts the program; raises Failure if there is none of that name."""
    from pydantic import ValidationError

    from tokix.programs import ProgramError, Resolver, absolute
    from tokix.syscalls import Spawn
    from tokix.syscalls.abi import explain

    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    program = absolute(options.program)
    try:
        Resolver().find(program)
        arguments = [argument(word) for word in options.args]
        return Spawn(program=program, args=arguments, nice=options.nice, fds=dict.fromkeys(range(3), "tty"))
    except ProgramError as error:
        raise Failure(str(error), WRONG) from None
    except ValidationError as error:
        raise Failure(explain(error), WRONG) from None


def argument(word: str) -> Any:
    """Read an argument of a program: a JSON number, list, object, true, false or null is that; the rest is text."""
    try:
        word.encode()
        value = json.loads(word, parse_constant=refuse)
    except UnicodeEncodeError:
        raise Failure(f"the argument {word!a} is not valid UTF-8", WRONG) from None
    except (ValueError, RecursionError):
        return word
    return word if isinstance(value, str) else value


def refuse(word: str) -> NoReturn:
    raise ValueError(f"{word} is not JSON")


# ---- the command line


class Parser(argparse.ArgumentParser):
    """A parser whose error is one line."""

    def error(self, message: str) -> NoReturn:
        raise Failure(f"{message}; see `{self.prog} --help`", WRONG)


def command_line() -> Parser:
    """Describe all that can be typed."""
    parser = Parser(prog="tokix", description="An operating system for LLM agents.")
    parser.set_defaults(command=missing)
    parser.add_argument("--version", dest="command", action="store_const", const=version, help=version.__doc__)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")

    def command(function: Callable[[argparse.Namespace], int], **more: Any) -> argparse.ArgumentParser:
        text = str(function.__doc__)
        added = commands.add_parser(function.__name__, help=text, description=text, **more)
        added.set_defaults(command=function)
        return added

    describe_run(command(run, epilog=PROGRAMS, formatter_class=argparse.RawDescriptionHelpFormatter))
    describe_ps(command(ps))
    describe_kill(command(kill))
    command(version)
    return parser


PROGRAMS = """\
PROGRAM is one that comes with tokix (echo, pingpong, philosophers, mapreduce), an entry point of the group
tokix.programs, a module such as package.module, or a file such as path/to/program.py; :FUNCTION after it names an
async function other than main. An ARG that is a JSON number, list, object, true, false or null is that to the
program; every other is text. The program ends with exit code 0, or 1 to 255 if that is its value; 1 if it crashed;
128 + n if it was killed by signal n.

Without PROGRAM, what is unfinished goes on until all has ended. Ctrl-C stops the kernel, and nothing is lost: the next
`tokix run` on the same state directory goes on. If a kernel runs there already, the program runs in that one.
"""


def describe_run(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("program", nargs="?", metavar="PROGRAM", help="what to run, with its arguments")
    parser.add_argument("args", nargs=argparse.REMAINDER, metavar="ARG", help=argparse.SUPPRESS)
    add_state(parser)
    parser.add_argument(
        "--durable",
        choices=["process", "power", "none"],
        help="what the state survives: the death of the kernel (the default), a loss of power, or nothing",
    )
    parser.add_argument(
        "--policy", choices=["FCFS", "RR", "PRIORITY"], type=str.upper, help="who thinks next (default: PRIORITY)"
    )
    parser.add_argument("--quantum", metavar="N", type=number(1), help="tokens in a turn (default: 16)")
    parser.add_argument("--lanes", metavar="N", type=number(1, 4096), help="who thinks at the same time (default: 8)")
    parser.add_argument("--nice", metavar="N", type=number(-20, 19), help="priority of the program: -20 is first")
    parser.add_argument("--seed", metavar="N", type=number(), help="what all chance derives from (default: 0)")
    parser.add_argument("--root", metavar="DIR", type=folder, help="let programs read and write files below DIR")


def describe_ps(parser: argparse.ArgumentParser) -> None:
    add_state(parser)
    parser.add_argument("--all", action="store_true", help="the dead, and this command itself, too")
    parser.add_argument("--json", action="store_true", help="as a JSON list")


def describe_kill(parser: argparse.ArgumentParser) -> None:
    add_state(parser)
    parser.add_argument(
        "-s", dest="signal", metavar="SIGNAL", type=signal_name, default="TERM", help="such as INT (default: TERM)"
    )
    parser.add_argument("pids", nargs="+", metavar="PID", type=number(0), help="from `tokix ps`")


def add_state(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--state",
        metavar="DIR",
        type=Path,
        help="the state directory: one system, and its kernel (default: $TOKIX_STATE, or ~/.local/state/tokix)",
    )


def state_directory(said: Path | None) -> Path:
    from tokix.state import default_state

    try:
        return said.absolute() if said else default_state()
    except RuntimeError:
        raise Failure("there is no home directory; say --state DIR, or set TOKIX_STATE", WRONG) from None


def number(low: int | None = None, high: int | None = None) -> Callable[[str], int]:
    """Make a reader of whole numbers in a range."""

    def read(word: str) -> int:
        value = int(word)
        if low is not None and value < low:
            raise argparse.ArgumentTypeError(f"{value} is less than {low}")
        if high is not None and value > high:
            raise argparse.ArgumentTypeError(f"{value} is more than {high}")
        return value

    read.__name__ = "number"  # argparse says "invalid number value"
    return read


def folder(word: str) -> Path:
    if not Path(word).is_dir():
        raise argparse.ArgumentTypeError(f"{word} is not a folder")
    return Path(word).absolute()


def signal_name(word: str) -> str:
    """Read TERM, SIGTERM, term or 15."""
    known = {str(s.value): s.name for s in signal.Signals}
    name = known.get(word, word).upper().removeprefix("SIG")
    if name not in SIGNALS:
        raise argparse.ArgumentTypeError(f"no signal {word}; there is {', '.join(SIGNALS)}")
    return name


def dashed(words: Sequence[str]) -> list[str]:
    """Write `kill -TERM` as `kill -sTERM`: to argparse the first is no option."""
    if words[:1] != ["kill"]:
        return list(words)
    return [re.sub(r"^-([A-Z]{2,}|\d+)$", r"-s\1", word) for word in words]
