"""The command `tokix`: what a person types, and what comes of it.

An error is one line on the standard error, never a traceback. Exit codes: 2 for a wrong command line, 70 when the
kernel had to stop, 128 + n for signal n, 1 for every other failure; `run` gives that of its program, and `sh` that of
its last command.
"""

from __future__ import annotations

import argparse
import io
import os
import signal
import sys
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from shutil import get_terminal_size
from typing import TYPE_CHECKING, Any, NoReturn

from tokix.shell.usage import (
    BROKEN,
    FAILED,
    POLICIES,
    SIGNALLED,
    VERBS,
    WRONG,
    Failure,
    Parser,
    add_json,
    argument,
    dashed,
    number,
)

if TYPE_CHECKING:
    from tokix.agents.script import Scenario
    from tokix.mounts import Mount
    from tokix.shell.table import Result
    from tokix.syscalls import Spawn

#: Options of `run` and `sh` that shape a kernel, and mean nothing to one that runs already.
SHAPE = ("model", "window", "frames", "slots", "durable", "policy", "quantum", "lanes", "seed", "root", "mount")


def main(words: Sequence[str] | None = None) -> int:
    """Do what a command line says; gives the exit code."""
    options = argparse.Namespace()
    try:
        if words is None:
            hold_standard_descriptors()
            require_folder()
        options = command_line().parse_args(dashed(sys.argv[1:] if words is None else words))
        if options.command in (run, sh, demo) and words is None:
            fix_hash_seed()
        if "state" in options:
            options.state = state_directory(options.state)
        if "key_file" in options:
            from tokix import keys

            options.key = keys.given(options.key_file)
        code: int = options.command(options)
        print(end="", flush=True)
        return code
    except Failure as failure:
        say(str(failure))
        return failure.code
    except KeyboardInterrupt:
        return SIGNALLED + signal.SIGINT
    except OSError as error:
        if error.filename:
            say(f"{error.filename}: {error.strerror}")
            return FAILED
        # Of the standard output, which Python would try to write once more at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        if isinstance(error, BrokenPipeError):
            return SIGNALLED + signal.SIGPIPE
        say(f"cannot write the output: {error.strerror}")
        return FAILED
    except Exception as error:
        from tokix.failure import write_report

        report = write_report("the command", error, None, private=secretive(options))
        say(f"tokix itself is wrong: {type(error).__name__}: {error}; {report}")
        return BROKEN


def secretive(options: argparse.Namespace) -> bool:
    """Say whether a command is about an encrypted state directory."""
    from tokix.state import private

    state = getattr(options, "state", None)
    return getattr(options, "key", None) is not None or (state is not None and private(state))


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


def require_folder() -> None:
    """Raise Failure where no name means anything any more."""
    try:
        os.getcwd()
    except FileNotFoundError:
        raise Failure("the current folder has been removed: go to another") from None


# ---- the commands


def run(options: argparse.Namespace) -> int:
    """Run a program, or go on with all that is unfinished."""
    from tokix import commands

    options.unused = unused(options)
    spawn = None if options.program is None else wanted(options)
    return going(commands.run, options, spawn)


def sh(options: argparse.Namespace) -> int:
    """Talk with a kernel: start programs, watch them, stop them."""
    from tokix import commands

    options.unused = unused(options)
    see_here()
    return going(commands.sh, options)


def unused(options: argparse.Namespace) -> list[str]:
    """Name the options that mean nothing to a kernel that runs already."""
    return [f"--{name}" for name in SHAPE if getattr(options, name) is not None]


def going(command: Callable[..., Coroutine[Any, Any, Any]], *args: Any) -> int:
    """Run a command that may be the kernel, and say why one has stopped before its time."""
    from tokix.failure import Interrupted, Stopped

    try:
        code: int = act(command, *args)
        return code
    except Interrupted as cut:
        if cut.signum != signal.SIGPIPE:
            say(f"{cut}; `tokix run` goes on from here")
        return SIGNALLED + cut.signum
    except Stopped as error:
        raise Failure(str(error), BROKEN) from None


def speak(name: str, options: argparse.Namespace) -> int:
    """Do what a verb says, where a kernel runs, or else with what it left."""
    from tokix import commands

    return show(act(commands.speak, name, options), options)


def doctor(options: argparse.Namespace) -> int:
    """Say what is there, what is missing, and what to do about it."""
    from tokix.doctor import examine

    return show(examine(options.state, options.key), options)


def demo(options: argparse.Namespace) -> int:
    """Run a scenario with a live view, show what came of it, and that a kill -9 in the middle changes nothing."""
    from tokix.demo import demo

    return demo(options)


def show(result: Result, options: argparse.Namespace) -> int:
    """Print what came of a command."""
    from tokix.shell.table import render

    for complaint in result.complaints:
        say(complaint)
    print(render(result, json=options.json, width=get_terminal_size().columns if os.isatty(1) else None), end="")
    return result.code


def version(options: argparse.Namespace) -> int:
    """Print the version."""
    from tokix import __version__

    print(f'{{"tokix": "{__version__}"}}' if getattr(options, "json", False) else f"tokix {__version__}")
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

    from tokix.programs import ProgramError, absolute, require, settled
    from tokix.syscalls import EINVAL, Spawn
    from tokix.syscalls.abi import explain

    see_here()
    if options.program.endswith((".yaml", ".yml")):
        return staged(options)
    program = absolute(options.program)
    try:
        arguments = settled(program, [argument(word) for word in options.args])
        require(program, arguments)
        return Spawn(program=program, args=arguments, nice=options.nice, fds=dict.fromkeys(range(3), "tty"))
    except ProgramError as error:
        raise Failure(str(error), WRONG) from None
    except EINVAL as error:
        raise Failure(error.detail, WRONG) from None
    except ValidationError as error:
        raise Failure(explain(error), WRONG) from None


def staged(options: argparse.Namespace) -> Spawn:
    """Give the call that plays a scenario, and mount its devices; raises Failure with all that is wrong in the file."""
    from tokix import scenario

    if options.args:
        raise Failure(f"a scenario takes no arguments, such as {options.args[0]}", WRONG)
    plan = planned(options.program)
    options.mount = [*(options.mount or ()), *scenario.mounts(plan)]
    call = scenario.spawn(plan)
    return call.model_copy(update={"nice": options.nice, "fds": dict.fromkeys(range(3), "tty")})


def planned(word: str) -> Scenario:
    """Read the scenario that a word names; raises Failure, and says all that is wrong in the file."""
    from tokix import scenario

    try:
        return scenario.load(scenario.locate(word))
    except scenario.ScenarioError as error:
        *others, last = error.lines
        for line in others:
            say(line)
        raise Failure(last, WRONG) from None


def see_here() -> None:
    """Let modules in the current folder be programs."""
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())


# ---- the command line


def command_line() -> Parser:
    """Describe all that can be typed."""
    from tokix import keys, memory, models

    parser = Parser(prog="tokix", description="An operating system for LLM agents.")
    parser.set_defaults(command=missing)
    parser.add_argument("--version", dest="command", action="store_const", const=version, help=version.__doc__)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")

    def command(
        name: str, text: str | None, function: Callable[[argparse.Namespace], int], **more: Any
    ) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=text, description=text, **more)
        added.set_defaults(command=function)
        return added

    raw = argparse.RawDescriptionHelpFormatter
    describe_run(command("run", run.__doc__, run, epilog=PROGRAMS, formatter_class=raw))
    describe_sh(command("sh", sh.__doc__, sh, epilog=SHELL, formatter_class=raw))
    for name, verb in VERBS.items():
        described = command(name, verb.help, partial(speak, name))
        add_state(described)
        verb.describe(described)
    describe_demo(command("demo", demo.__doc__, demo))
    examined = command("doctor", doctor.__doc__, doctor)
    add_state(examined)
    add_json(examined)
    models.add(commands)
    keys.add(commands)
    memory.add(commands, add_state)
    add_json(command("version", version.__doc__, version))
    return parser


PROGRAMS = """\
PROGRAM is one that comes with tokix (such as chat, react, plan, mapreduce, debate, watch), an entry point of the
group tokix.programs, a module such as package.module, or a file such as path/to/program.py; :FUNCTION after it names
an async function other than main. FILE.yaml is a scenario: many programs, what flows between them, and what must hold
at the end; debate.yaml, philosophers.yaml and pipeline.yaml come with tokix. An ARG that is a JSON number, list,
object, true, false or null is that to the program; every other is text. The program ends with exit code 0, or 1 to
255 if that is its value; 1 if it crashed; 128 + n if it was killed by signal n.

Without PROGRAM, what is unfinished goes on until all has ended. Ctrl-C stops the kernel, and nothing is lost: the
next `tokix run` on the same state directory goes on. If a kernel runs there already, the program runs in that one.
"""

SHELL = """\
On a terminal, `help` says what can be typed, and Ctrl-D leaves. Without a terminal, lines are read from the standard
input, and what they have started is waited for. The exit code is that of the last command.

The shell boots a kernel, or joins the one that runs on the state directory. What is unfinished when a shell leaves with
its kernel goes on at the next `tokix sh` or `tokix run`; the programs of a shell that has joined end with it.
"""


def describe_run(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("program", nargs="?", metavar="PROGRAM", help="what to run, with its arguments")
    parser.add_argument("args", nargs=argparse.REMAINDER, metavar="ARG", help=argparse.SUPPRESS)
    add_state(parser)
    add_shape(parser)
    parser.add_argument("--nice", metavar="N", type=number(-20, 19), help="priority of the program: -20 is first")
    parser.add_argument("--json", action="store_true", help="say how it ended as a line of JSON on the standard error")


def describe_sh(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-c", dest="line", metavar="LINE", help="do what this line says, instead of asking for lines")
    add_state(parser)
    add_shape(parser)


def add_model(parser: argparse.ArgumentParser) -> None:
    forms = "MODEL[,q4|,q8|,fp32]"
    text = f"what agents think with: toy, or {forms} of `tokix models fetch` (default: $TOKIX_MODEL, or smollm2)"
    parser.add_argument("--model", metavar="MODEL", help=text)


def describe_demo(parser: argparse.ArgumentParser) -> None:
    add_model(parser)
    add_key(parser)
    parser.add_argument("scenario", nargs="?", default="library.yaml", metavar="FILE", help="default: library.yaml")
    add_json(parser)
    parser.add_argument("--no-crash", dest="crash", action="store_false", help="leave out the second, killed run")
    parser.add_argument(
        "--out", metavar="DIR", type=place, default=Path("tokix-demo"), help="for the pictures (default: tokix-demo)"
    )


def add_shape(parser: argparse.ArgumentParser) -> None:
    """Add what shapes a kernel."""
    add_model(parser)
    parser.add_argument(
        "--window", metavar="N", type=number(64), help="tokens of a context that an agent sees at once (default: all)"
    )
    parser.add_argument("--frames", metavar="N", type=number(8), help="frames of 16 tokens in memory (default: 1 GiB)")
    parser.add_argument(
        "--slots", metavar="N", type=number(0), help="the same in the swap file (default: 1 GiB; 0: none)"
    )
    parser.add_argument(
        "--durable",
        choices=["process", "power", "none"],
        help="what the state survives: the death of the kernel (the default), a loss of power, or nothing",
    )
    parser.add_argument("--policy", choices=POLICIES, type=str.upper, help="who thinks next (default: MIXED)")
    parser.add_argument("--quantum", metavar="N", type=number(1), help="tokens in a turn (default: 16)")
    parser.add_argument("--lanes", metavar="N", type=number(1, 4096), help="who thinks at the same time (default: 8)")
    parser.add_argument("--seed", metavar="N", type=number(), help="what all chance derives from (default: 0)")
    parser.add_argument("--root", metavar="DIR", type=folder, help="let programs read and write files below DIR")
    parser.add_argument(
        "--mount",
        metavar="NAME=DRIVER[:ARG][,OPTION]",
        type=mount,
        action="append",
        help="a device, such as clock, files=files:DIR,write or db=sqlite:FILE; can be said many times",
    )


def add_state(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--state",
        metavar="DIR",
        type=place,
        help="the state directory: one system, and its kernel (default: $TOKIX_STATE, or ~/.local/state/tokix)",
    )
    add_key(parser)


def add_key(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(key=None)
    parser.add_argument(
        "--key-file",
        metavar="FILE",
        type=Path,
        help="has the key of an encrypted state directory: a passphrase, or 64 hex digits (default: $TOKIX_KEY_FILE)",
    )


def state_directory(said: Path | None) -> Path:
    from tokix.state import default_state

    try:
        return said.absolute() if said else default_state()
    except RuntimeError:
        raise Failure("there is no home directory; say --state DIR, or set TOKIX_STATE", WRONG) from None


def mount(word: str) -> Mount:
    from tokix.mounts import Mount, MountError

    try:
        return Mount.read(word)
    except MountError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def place(word: str) -> Path:
    """Read the name of a folder; an empty one, as of a variable that is not set, is none."""
    if not word:
        raise argparse.ArgumentTypeError("a folder needs a name, and this is empty; `.` is the current one")
    return Path(word)


def folder(word: str) -> Path:
    if not place(word).is_dir():
        raise argparse.ArgumentTypeError(f"{word} is not a folder")
    return Path(word).absolute()
