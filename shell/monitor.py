"""What `top` knows, shows and does, without a terminal: looks at the system come in, keys come in, lines come out.

The row that is chosen belongs to a process and not to a place, so that a key is never for somebody else who has just
moved there. Rates are those between the last two looks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from tokix.shell.columns import BY_NAME, COLUMNS, PROGRAM, Column, Row, fitting, grown, meant, named, pace
from tokix.shell.usage import SIGNALS
from tokix.syscalls import Kill, ProcessUse, Renice, Signal, Syscall, SystemInfo

#: A piece of a line: its style, as prompt_toolkit calls it, and its text.
Piece = tuple[str, str]
Line = list[Piece]

#: The colour of a row, by the state of its process.
COLOURS = {
    "RUNNING": "ansigreen",
    "READY": "ansicyan",
    "STOPPED": "ansiyellow",
    "DIVERGED": "ansired",
    "ZOMBIE": "ansired",
}
#: Lines that a terminal has at least if the head is shown.
LEAST = 8
#: Keys that choose the order, as in htop.
ORDERS = {"P": "TOK/S", "M": "RES", "T": "USED", "N": "PID"}

HELP = (
    "Keys, and what the columns have; any key goes back",
    "arrows PgUp PgDn Home End  choose a process",
    "F3 /  search, and go there      F4 \\  show only what is meant",
    "F5 t  a tree                    F6 < >  choose the order; I turns it round",
    "P M T N  order by tokens per second, tokens in windows, tokens used, pid",
    "F7 ]  nice − 1: more urgent     F8 [  nice + 1: less urgent",
    "F9 k  send a signal; asks       F10 q Ctrl-C  leave",
    "Space  tag, and go on    c  tag with all descendants    U  take tags back",
    *(f"{column.name:8}{column.about}" for column in (*COLUMNS, PROGRAM)),
)
KEYS = (
    *(("F1", "Help"), ("F3", "Search"), ("F4", "Filter"), ("F5", "Tree"), ("F6", "Sort")),
    *(("F7", "Nice-"), ("F8", "Nice+"), ("F9", "Kill"), ("F10", "Quit")),
)


class Look(NamedTuple):
    """The system at a time, in seconds."""

    time: float
    info: SystemInfo


@dataclass
class Menu:
    """Something to choose from, and the calls that a choice asks for."""

    title: str
    items: list[str]
    chosen: Callable[[str], list[Syscall[None]]]
    at: int = 0


@dataclass
class Monitor:
    """The state of a `top`."""

    #: Itself, which is not shown.
    pid: int = 0
    now: Look | None = None
    before: Look | None = None
    order: str = "TOK/S"
    turned: bool = False
    tree: bool = False
    filter: str = ""
    #: What for something is being typed, "search" or "filter", and what.
    typing: str = ""
    typed: str = ""
    menu: Menu | None = None
    helping: bool = False
    tagged: set[int] = field(default_factory=set)
    #: What was asked for since the last look.
    nice: dict[int, int] = field(default_factory=dict)
    #: The process that is chosen, and where it was.
    chosen: int = 0
    at: int = 0
    #: The first row that is shown, and how many are.
    first: int = 0
    page: int = 1
    message: str = ""
    over: bool = False

    def take(self, info: SystemInfo, time: float) -> None:
        """Take a look at the system."""
        if self.now is None or time > self.now.time:
            self.before = self.now
        self.now, self.nice = Look(time, info), {}
        self.tagged &= {process.pid for process in info.processes}

    @property
    def processes(self) -> list[ProcessUse]:
        return [process for process in self.now.info.processes if process.pid != self.pid] if self.now else []

    # ---- rates

    def rate(self, count: Callable[[SystemInfo], float]) -> float | None:
        """Give how fast something of the system grows, in a second."""
        if not self.now or not self.before:
            return None
        return max(0.0, count(self.now.info) - count(self.before.info)) / (self.now.time - self.before.time)

    def rates(self) -> dict[int, float]:
        """Give how fast each process gets tokens; not of those that are new."""
        if not self.now or not self.before:
            return {}
        seconds = self.now.time - self.before.time
        old = {process.pid: process.sampled for process in self.before.info.processes}
        known = (process for process in self.processes if process.pid in old)
        return {process.pid: max(0, process.sampled - old[process.pid]) / seconds for process in known}

    # ---- rows

    def rows(self) -> list[Row]:
        """Give the processes that are shown, in their order."""
        rates = self.rates()
        rows = [Row(process, rates.get(process.pid)) for process in self.processes]
        ordered = self.sorted(row for row in rows if meant(row, self.filter))
        return grown(ordered) if self.tree else ordered

    def sorted(self, rows: Iterable[Row]) -> list[Row]:
        column = BY_NAME[self.order]
        return sorted(sorted(rows, key=BY_NAME["PID"].key), key=column.key, reverse=column.falling != self.turned)

    def place(self, rows: list[Row]) -> int:
        """Give the row that is chosen; where nobody is, or its process is gone, it is the one that is there now."""
        pids = [row.process.pid for row in rows]
        self.chosen = self.chosen if self.chosen in pids else 0
        self.at = pids.index(self.chosen) if self.chosen else max(0, min(self.at, len(rows) - 1))
        return self.at

    def go(self, to: int) -> None:
        """Choose a row."""
        if rows := self.rows():
            self.at = max(0, min(to, len(rows) - 1))
            self.chosen = rows[self.at].process.pid

    def targets(self) -> list[ProcessUse]:
        """Give the processes that a key is for: those that are tagged, or else the one that is chosen from now on."""
        self.go(self.place(self.rows()))
        return [process for process in self.processes if process.pid in (self.tagged or {self.chosen})]

    # ---- keys

    def press(self, key: str) -> list[Syscall[None]]:
        """Do what a key does; gives the calls to make. Special keys are called `f1`, `pageup`, `c-c`, …."""
        self.message = ""
        if key == "c-c":
            self.over = True
        elif self.helping:
            self.helping = False
        elif self.typing:
            self._type(key)
        elif self.menu:
            return self._choose(self.menu, key)
        else:
            return self._do(key)
        return []

    def _type(self, key: str) -> None:
        if key == "escape":
            self.typed = ""
        elif key == "backspace":
            self.typed = self.typed[:-1]
        elif len(key) == 1 and key.isprintable():
            self.typed += key
        if self.typing == "filter":
            self.filter = self.typed
        elif key != "escape":
            self._find(ahead=key == "f3")
        if key in ("enter", "escape"):
            self.typing = ""

    def _find(self, ahead: bool) -> None:
        """Go to the first process that is meant by what is typed, from the chosen one on, or from the next."""
        rows = self.rows()
        here = self.place(rows) + ahead
        found = [at for at in (*range(here, len(rows)), *range(min(here, len(rows)))) if meant(rows[at], self.typed)]
        if found:
            self.go(found[0])
        else:
            self.message = "nothing is like that"

    def _choose(self, menu: Menu, key: str) -> list[Syscall[None]]:
        last = len(menu.items) - 1
        steps = {"up": -1, "down": 1, "pageup": -self.page, "pagedown": self.page, "home": -last, "end": last}
        if key in ("escape", "q", "f10"):
            self.menu = None
        elif key == "enter":
            self.menu = None
            return menu.chosen(menu.items[menu.at])
        elif key in steps:
            menu.at = max(0, min(menu.at + steps[key], last))
        return []

    def _do(self, key: str) -> list[Syscall[None]]:
        rows = self.rows()
        here = self.place(rows)
        moves = {"up": here - 1, "down": here + 1, "home": 0, "end": len(rows) - 1}
        moves |= {"pageup": here - self.page, "pagedown": here + self.page}
        match key:
            case "q" | "f10":
                self.over = True
            case "f1" | "h" | "?":
                self.helping = True
            case "f3" | "/":
                self.typing, self.typed = "search", ""
            case "f4" | "\\":
                self.typing, self.typed = "filter", self.filter
            case "f5" | "t":
                self.tree = not self.tree
            case "f6" | "<" | ">":
                self.menu = Menu("Sort by", [*BY_NAME], self._sort, [*BY_NAME].index(self.order))
            case "P" | "M" | "T" | "N":
                self._sort(ORDERS[key])
            case "I":
                self.turned = not self.turned
            case "f7" | "]":
                return self._renice(-1)
            case "f8" | "[":
                return self._renice(1)
            case "f9" | "k":
                self._ask()
            case " ":
                self.go(here)
                self.tagged ^= {self.chosen} - {0}
                self.go(here + 1)
            case "c":
                self.go(here)
                self.tagged |= self._family()
            case "U":
                self.tagged.clear()
            case _ if key in moves:
                self.go(moves[key])
        return []

    def _sort(self, name: str) -> list[Syscall[None]]:
        self.order, self.turned = name, False
        return []

    def _renice(self, step: int) -> list[Syscall[None]]:
        wanted = {process.pid: self.nice.get(process.pid, process.nice) + step for process in self.targets()}
        self.nice |= {pid: nice for pid, nice in wanted.items() if -20 <= nice <= 19}
        return [Renice(pid=pid, nice=nice) for pid, nice in wanted.items() if -20 <= nice <= 19]

    def _ask(self) -> None:
        """Ask which signal is to be sent; whoever is meant now gets it."""
        targets = self.targets()

        def chosen(name: str) -> list[Syscall[None]]:
            return [Kill(pid=process.pid, signal=Signal(name)) for process in targets]

        if targets:
            one = f"process {targets[0].pid}, {named(targets[0])}"
            who = one if len(targets) == 1 else f"{len(targets)} processes"
            self.menu = Menu(f"Signal for {who}", list(SIGNALS), chosen)

    def _family(self) -> set[int]:
        """Name the chosen process and all that descend from it."""
        found = [self.chosen] if self.chosen else []
        for parent in found:  # which grows
            found += [process.pid for process in self.processes if process.ppid == parent != process.pid]
        return set(found)

    # ---- lines

    def lines(self, width: int, height: int) -> list[Line]:
        """Draw all: `height` lines of at most `width` characters."""
        head = self.head(self.now.info, width) if self.now and height >= LEAST else []
        self.page = max(1, height - len(head) - 2)
        if self.helping:
            body: list[Line] = [[("bold" if line is HELP[0] else "", line)] for line in HELP]
        elif self.menu:
            body = self.choice(self.menu)
        else:
            body = self.table(width)
        body = [*body, *([[]] * (self.page + 1))][: self.page + 1]
        return [clipped(line, width) for line in (*head, *body, self.foot())][-height:]

    def head(self, info: SystemInfo, width: int) -> list[Line]:
        """Draw what the system does."""
        schedule, size = info.schedule, max(4, min(24, width - 60))
        lanes = meter(size, schedule.lanes, [("ansigreen", "|", schedule.running)])
        frames = meter(size, info.frames, [("ansigreen", "|", info.used), ("ansiblue", ":", info.cached)])
        quantum = f" {schedule.quantum}" if schedule.quantum else ""
        busy = f"{schedule.running}/{schedule.lanes} busy, {schedule.waiting} wait; {schedule.policy}{quantum}"
        free = info.frames - info.used - info.cached
        places = f"{info.used} used {info.cached} cached {free} free; swap {info.swapped}/{info.slots}"
        sampled, fed = pace(self.rate(lambda i: i.sampled)), pace(self.rate(lambda i: i.fed))
        faults, evictions = pace(self.rate(lambda i: i.faults)), pace(self.rate(lambda i: i.evictions))
        moved = pace(self.rate(lambda i: i.outs + i.ins))
        paging = f"; {faults} faults {evictions} evicted {moved} swapped a second"
        return [
            [("ansicyan", "lanes  "), *lanes, ("", f" {busy}; {len(self.processes)} processes")],
            [("ansicyan", "frames "), *frames, ("", f" {places}")],
            [("ansicyan", "tokens "), ("bold", sampled), ("", f" made {fed} read{paging}")],
        ]

    def table(self, width: int) -> list[Line]:
        """Draw the processes that there is room for, with the chosen one among them."""
        rows, room = self.rows(), self.page
        here = self.place(rows)
        self.first = max(0, min(max(self.first, here - room + 1), here, len(rows) - room))
        columns = fitting(width)
        line: Line = [("reverse", " ")]
        for column in (*columns, PROGRAM):
            style = "reverse bold underline" if column.name == self.order else "reverse"
            line += [("reverse", " " * (column.width - len(column.name))), (style, column.name), ("reverse", " ")]
        line.append(("reverse", " " * width))
        shown = range(self.first, min(self.first + room, len(rows)))
        return [line, *(self.row(rows[at], columns, width, at == here) for at in shown)]

    def row(self, row: Row, columns: list[Column], width: int, chosen: bool) -> Line:
        tag = row.process.pid in self.tagged
        cells = " ".join(column.text(row)[: column.width].rjust(column.width) for column in columns)
        text = f"{'*' if tag else ' '}{cells} {PROGRAM.text(row)}"
        if chosen:
            return [("reverse bold" if tag else "reverse", text.ljust(width))]
        return [("bold ansiyellow" if tag else COLOURS.get(row.process.state, ""), text)]

    def choice(self, menu: Menu) -> list[Line]:
        """Draw a menu."""
        first = max(0, menu.at - self.page + 1)
        title: Line = [("bold", f"{menu.title}: Enter does it, Esc goes back")]
        items = [[("reverse" if at == menu.at else "", f"  {name} ")] for at, name in enumerate(menu.items)]
        return [title, *items[first:]]

    def foot(self) -> Line:
        """Draw the last line: what is typed, what went wrong, or the keys."""
        if self.typing:
            keys = "F3: the next; Enter, Esc: done" if self.typing == "search" else "Enter: done; Esc: show all"
            typed: Line = [("bold", f"{self.typing}: "), ("", self.typed), ("reverse", " ")]
            return [*typed, ("", f" ({keys})"), ("ansired", f" {self.message}")]
        if self.message:
            return [("bold ansired", self.message)]
        pieces = [piece for key, does in KEYS for piece in (("", key), ("reverse", does), ("", " "))]
        return [("bold", f"filter: {self.filter} "), *pieces] if self.filter else pieces


def meter(size: int, total: int, parts: list[tuple[str, str, int]]) -> Line:
    """Draw a bar of parts of a total, each with its sign; what is there at all is seen, if there is room."""
    line, left = [("bold", "[")], size
    for style, sign, count in parts:
        cells = min(left, max(count > 0, round(size * count / max(1, total))))
        line.append((style, sign * cells))
        left -= cells
    return [*line, ("", " " * left), ("bold", "]")]


def clipped(line: Line, width: int) -> Line:
    """Cut a line to a width."""
    found: Line = []
    for style, text in line:
        found.append((style, text[:width]))
        width -= len(found[-1][1])
    return found
