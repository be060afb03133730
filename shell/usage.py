"""How commands are typed: one description of each verb, for the command line and for `tokix sh`.

Only descriptions, which load nothing; what the verbs do is in `tokix.shell.verbs`.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import signal
from collections.abc import Callable, Sequence
from datetime import datetime
from time import time
from typing import Any, NamedTuple, NoReturn

#: Exit codes, beside 0 and those of programs.
FAILED, WRONG, BROKEN, SIGNALLED = 1, 2, 70, 128
#: The signals of the kernel, and its policies.
SIGNALS = ("TERM", "KILL", "STOP", "CONT", "INT")
HOWS = ("fused", "dense", "lexical")
ROLES = ("system", "user", "assistant", "tool")
#: The names of regions.
REGION = "[A-Za-z0-9][A-Za-z0-9_.-]{0,63}"
POLICIES = ("FCFS", "RR", "PRIORITY", "SJF", "MLFQ", "LAS", "FAIR", "MIXED")


class Failure(Exception):
    """What the person has to know, in one line, and the exit code."""

    def __init__(self, text: str, code: int = FAILED) -> None:
        super().__init__(" ".join(text.split()))
        self.code = code


class Parser(argparse.ArgumentParser):
    """A parser whose error is one line, and names the help of the command that is typed wrongly."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse all: what a command does not know, whoever is around it does not know either."""
        found, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        return found, unknown

    def error(self, message: str) -> NoReturn:
        raise Failure(f"{message}; see `{self.prog} --help`", WRONG)


class Verb(NamedTuple):
    """A command that speaks with a kernel: what it does, and what is typed after its name."""

    help: str
    describe: Callable[[argparse.ArgumentParser], None]


def _ps(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--all", action="store_true", help="the dead, and this command itself, too")
    add_json(parser)


def _kill(parser: argparse.ArgumentParser) -> None:
    add_signal(parser)
    add_pids(parser)
    add_json(parser)


def _nice(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("nice", metavar="N", type=number(-20, 19), help="-20 goes first, 19 last")
    add_pids(parser)
    add_json(parser)


def _send(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--tag", default="", help="what the receiver can select by")
    add_pid(parser)
    parser.add_argument(
        "words", nargs="+", metavar="TEXT", help="the message; a single JSON number, list or object is that"
    )
    add_json(parser)


def _logs(parser: argparse.ArgumentParser) -> None:
    add_pid(parser)
    parser.add_argument("-n", dest="last", metavar="N", type=number(1), help="only the last N calls")
    parser.add_argument("-t", "--times", action="store_true", help="when each outcome was decided")
    parser.add_argument("--full", action="store_true", help="do not cut the lines to the width of the terminal")
    add_json(parser)


def _devices(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("names", nargs="*", metavar="DEVICE", help="only these")
    add_json(parser)


def _sched(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "policy", nargs="?", metavar="POLICY", type=policy_name, help=f"change it to {', '.join(POLICIES)}"
    )
    parser.add_argument("--quantum", metavar="N", type=number(1), help="tokens in a turn (default: 16)")
    add_json(parser)


def _pages(parser: argparse.ArgumentParser) -> None:
    parser.epilog = "USED BY is the newest answer, by its page, that was made while a page was in the window."
    parser.add_argument("--all", action="store_true", help="on a terminal, all pages, and not only the newest that fit")
    add_pid(parser)
    add_json(parser)


def _free(parser: argparse.ArgumentParser) -> None:
    add_json(parser)


def _top(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-d", dest="delay", metavar="SECONDS", type=seconds, default=1.5, help="between two looks (1.5)"
    )
    parser.add_argument("-b", "--batch", action="store_true", help="one plain table, as where there is no terminal")
    add_json(parser)


def _recall(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-k", metavar="N", type=number(1, 1000), default=5, help="at most so many pages (default: 5)")
    parser.add_argument(
        "--budget", metavar="N", type=number(0), default=512, help="at most so many tokens (default: 512)"
    )
    parser.add_argument(
        "--how", choices=HOWS, default="fused", help="by meaning, by words, or by both (default: fused)"
    )
    parser.add_argument(
        "--role", choices=ROLES, action="append", default=[], help="pages of this role only; may be repeated"
    )
    for name, which in (("since", "from then on"), ("until", "before")):
        parser.add_argument(
            f"--{name}", metavar="TIME", type=moment, help=f"only what was said {which}: 2h (ago), or 2026-11-22T09:30"
        )
    add_pid(parser)
    parser.add_argument("words", nargs="+", metavar="QUERY", help="what to search for")
    add_json(parser)


def _regions(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--delete", action="store_true", help="delete the region NAME with all its pages")
    parser.add_argument("region", nargs="?", metavar="NAME", help="show the pages of this one")
    parser.add_argument("words", nargs="*", metavar="QUERY", help="show what is found in it instead")
    add_json(parser)


def _save(parser: argparse.ArgumentParser) -> None:
    add_pid(parser)
    parser.add_argument(
        "file", metavar="FILE", type=file_name, help="what to write; `tokix run warm FILE PROGRAM` goes on"
    )
    add_json(parser)


VERBS: dict[str, Verb] = {
    "ps": Verb("Show the process table.", _ps),
    "kill": Verb("Send a signal to processes.", _kill),
    "nice": Verb("Change the priority of processes.", _nice),
    "send": Verb("Send a message to a process.", _send),
    "logs": Verb("Show what a process has called, and the outcomes.", _logs),
    "devices": Verb("Show the devices, and what they can do.", _devices),
    "pages": Verb("Show the context of a process: its window to scale, and page by page.", _pages),
    "free": Verb("Show what is taken and what is free: frames, swap, windows, archives, disk.", _free),
    "top": Verb("Watch processes, lanes and memory on the terminal, with the keys of htop.", _top),
    "regions": Verb("Show the memory that processes share, its pages, or what is found in it.", _regions),
    "recall": Verb("Search what a process has no room for in its window.", _recall),
    "save": Verb("Save the context of a process to a file.", _save),
    "sched": Verb("Show who thinks next, or change it.", _sched),
}


def verb_parser(name: str, verb: Verb) -> Parser:
    """Make a parser for what is typed after the name of a verb."""
    parser = Parser(prog=name, description=verb.help)
    verb.describe(parser)
    return parser


# ---- parts of a description


def add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="as JSON")


def add_signal(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-s", dest="signal", metavar="SIGNAL", type=signal_name, default="TERM", help="such as INT (default: TERM)"
    )


def add_pid(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("pid", metavar="PID", type=number(0), help="from `tokix ps`")


def add_pids(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("pids", nargs="+", metavar="PID", type=number(0), help="from `tokix ps`")


def moment(word: str) -> float:
    """Read a time, in seconds since 1970: so many s, m, h or d ago, or a date with or without a time of day here."""
    if ago := re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)([smhd])(?: ago)?", word):
        return time() - float(ago[1]) * {"s": 1, "m": 60, "h": 3600, "d": 86400}[ago[2]]
    try:
        return datetime.fromisoformat(word).timestamp()
    except (ValueError, OverflowError):
        raise argparse.ArgumentTypeError(f"{word!r} is no time: say 90s, 5m, 2h, 3d, or 2026-11-22T09:30") from None


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


def seconds(word: str) -> float:
    """Read a span of time."""
    value = float(word)
    if not 0.1 <= value <= 3600:
        raise argparse.ArgumentTypeError(f"{word} is not from 0.1 to 3600")
    return value


def file_name(word: str) -> str:
    """Read the name of a file; a kernel is in no folder, so it is made absolute."""
    if not word:
        raise argparse.ArgumentTypeError("a file needs a name, and this is empty")
    return os.path.abspath(os.path.expanduser(word))


def signal_name(word: str) -> str:
    """Read TERM, SIGTERM, term or 15."""
    known = {str(s.value): s.name for s in signal.Signals}
    name = known.get(word, word).upper().removeprefix("SIG")
    if name not in SIGNALS:
        raise argparse.ArgumentTypeError(f"no signal {word}; there is {', '.join(SIGNALS)}")
    return name


def policy_name(word: str) -> str:
    """Read the name of a policy in any case."""
    if word.upper() not in POLICIES:
        raise argparse.ArgumentTypeError(f"no policy {word}; there is {', '.join(POLICIES)}")
    return word.upper()


def dashed(words: Sequence[str]) -> list[str]:
    """Write `kill -TERM` as `kill -sTERM`: to argparse the first is no option."""
    if words[:1] != ["kill"]:
        return list(words)
    return [re.sub(r"^-([A-Z]{2,}|\d+)$", r"-s\1", word) for word in words]


def argument(word: str) -> Any:
    """Read an argument of a program: a JSON number, list, object, true, false or null is that; the rest is text."""
    try:
        word.encode()
        value = json.loads(word, parse_constant=refuse, parse_float=finite)
    except UnicodeEncodeError:
        raise Failure(f"the argument {word!a} is not valid UTF-8", WRONG) from None
    except (ValueError, RecursionError):
        return word
    return word if isinstance(value, str) else value


def finite(word: str) -> float:
    value = float(word)
    return value if math.isfinite(value) else refuse(word)


def refuse(word: str) -> NoReturn:
    raise ValueError(f"{word} is not JSON")
