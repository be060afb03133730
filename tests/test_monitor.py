"""What `top` shows, and what its keys do: without a terminal and without a kernel."""

from __future__ import annotations

from typing import Any

import pytest

from samples import SYSTEM
from tokix.shell.columns import fitting, of_use, pace, short
from tokix.shell.monitor import HELP, Monitor
from tokix.syscalls import Kill, ProcessUse, Renice, SchedInfo, Signal, SystemInfo

TREE = {1: 0, 2: 1, 3: 2, 4: 2, 5: 4, 6: 1}


def process(pid: int, **more: Any) -> ProcessUse:
    given = {"ppid": TREE.get(pid, 1), "program": f"p{pid}", "args": ["x"], "state": "BLOCKED", **more}
    return ProcessUse(pid=pid, **given)


def info(*processes: ProcessUse, **more: Any) -> SystemInfo:
    return SYSTEM.model_copy(update={"processes": list(processes or map(process, TREE)), **more})


def monitor(*processes: ProcessUse, **more: Any) -> Monitor:
    made = Monitor(pid=9, order="PID")
    made.take(info(*(processes or map(process, TREE)), process(9), **more), 1.0)
    return made


def text(made: Monitor, width: int = 100, height: int = 24) -> list[str]:
    return ["".join(piece for _, piece in line) for line in made.lines(width, height)]


def shown(made: Monitor, width: int = 100, height: int = 24) -> list[int]:
    """Give the pids in the lines."""
    return [int(line[1:].split()[0]) for line in text(made, width, height)[4:-1] if line.strip()]


def chosen(made: Monitor) -> int:
    [line] = [line for line in made.lines(100, 24)[4:-1] if line and "reverse" in line[0][0]]
    return int(line[0][1][1:].split()[0])


def type_in(made: Monitor, *keys: str) -> list[Any]:
    return [call for key in keys for call in made.press(key)]


# ---- what is shown


def test_everybody_but_the_one_who_looks():
    made = monitor()
    assert shown(made) == [1, 2, 3, 4, 5, 6]
    assert "6 processes" in text(made)[0]


@pytest.mark.parametrize(("width", "height"), [(1, 1), (10, 3), (40, 10), (80, 24), (240, 60)])
def test_it_fills_every_terminal_and_no_more(width: int, height: int):
    made = monitor(*(process(pid) for pid in range(1, 99) if pid != 9))
    for keys in ([], ["h"], ["x", "f9"], ["escape", "/", *"nobody"], ["enter", "f6"], ["escape", "end"]):
        type_in(made, *keys)
        lines = text(made, width, height)
        assert len(lines) == height
        assert max(map(len, lines)) <= width


def test_where_there_is_little_room_the_name_and_the_rate_stay():
    assert [column.name for column in fitting(80)] == [
        *("PID", "STATE", "LANE", "NI", "TOK/S", "USED", "RES", "ARCH", "FAULT", "EVICT"),
    ]
    assert [column.name for column in fitting(40)] == ["PID", "STATE", "LANE", "TOK/S"]
    assert [column.name for column in fitting(10)] == ["PID", "TOK/S"]


def test_rates_are_those_between_two_looks():
    made = Monitor(pid=9)
    made.take(info(process(3, sampled=10), sampled=100, fed=500, faults=1, evictions=4, outs=5, ins=5), 1.0)
    assert text(made)[2] == "tokens - made - read; - faults - evicted - swapped a second"
    assert made.rates() == {}
    now = {"sampled": 700, "fed": 30_500, "faults": 4, "evictions": 4, "outs": 15, "ins": 5}
    made.take(info(process(3, sampled=30), process(4, sampled=99), **now), 3.0)
    assert text(made)[2] == "tokens 300 made 15.0k read; 1.5 faults 0 evicted 5.0 swapped a second"
    assert made.rates() == {3: 10.0}
    assert [line.split()[3] for line in text(made)[4:6]] == ["10.0", "-"]


def test_a_kernel_that_began_anew_has_no_negative_rates():
    made = Monitor(pid=9)
    made.take(info(process(3, sampled=10), sampled=100), 1.0)
    made.take(info(process(3, sampled=2), sampled=2), 2.0)
    assert (made.rates(), made.rate(lambda i: i.sampled)) == ({3: 0.0}, 0.0)


def test_the_head():
    schedule = SchedInfo(policy="RR", quantum=16, lanes=4, running=2, waiting=3)
    made = monitor(schedule=schedule, frames=100, used=50, cached=25, slots=10, swapped=1)
    lanes, frames, *_ = text(made, 80)
    assert lanes == "lanes  [||||||||||          ] 2/4 busy, 3 wait; RR 16; 6 processes"
    assert frames == "frames [||||||||||:::::     ] 50 used 25 cached 25 free; swap 1/10"


def test_what_is_there_at_all_is_seen_in_the_head():
    made = monitor(frames=10_000, used=1, cached=1)
    assert text(made, 80)[1].startswith("frames [|:                  ] ")


def test_two_looks_at_one_time_are_one():
    made = monitor(process(3, sampled=1))
    made.take(info(process(3, sampled=9)), 1.0)
    assert made.rates() == {}
    made.take(info(process(3, sampled=13)), 3.0)
    made.take(info(process(3, sampled=17)), 3.0)
    assert made.rates() == {3: 4.0}


def test_cells():
    busy = process(
        3, state="RUNNING", running=[0, 2], tokens=12_345, resident=640, evicted=1_234_567, faults=7, nice=-3
    )
    waits = process(4, state="READY", waiting=1, args=[{"a": [1]}, "two\nlines\x1b[2J"])
    wide = process(5, state="RUNNING", running=[0, 1, 2])
    lines = [line.split() for line in text(monitor(busy, waits, wide))[4:7]]
    assert lines[0] == ["3", "run", "0,2", "-3", "-", "12.3k", "640", "1.2M", "7", "0", "p3", "x"]
    assert lines[1] == ["4", "ready", "…", "0", "-", *"00000", "p4", '{"a":[1]}', "two", "lines\\x1b[2J"]
    assert lines[2][:3] == ["5", "run", "3×"]


@pytest.mark.parametrize(
    ("count", "written"),
    [(0, "0"), (9999, "9999"), (10_000, "10.0k"), (123_456, "123k"), (5e9, "5.0G"), (1e15, "many")],
)
def test_counts_have_five_characters_at_most(count: float, written: str):
    assert short(count) == written


def test_rates_as_they_are_written():
    assert [pace(rate) for rate in (None, 0, 0.25, 99.9, 100.4, 12_345)] == ["-", "0", "0.2", "99.9", "100", "12.3k"]


def test_one_plain_table():
    table = of_use(info(process(3, tokens=12_345), process(9)), 9)
    assert table.columns == ["PID", "STATE", "LANE", "NI", "USED", "RES", "ARCH", "FAULT", "EVICT", "PROGRAM"]
    assert table.rows == [["3", "wait", "", "0", "12345", "0", "0", "0", "0", "p3 x"]]
    assert SystemInfo.model_validate(table.data) == info(process(3, tokens=12_345), process(9))


# ---- who is chosen


def test_arrows_and_pages():
    made = monitor(*(process(pid) for pid in range(10, 60)))
    assert chosen(made) == 10
    text(made, 100, 15)
    for key, pid in [
        ("down", 11),
        ("pagedown", 21),
        ("end", 59),
        ("down", 59),
        ("pageup", 49),
        ("home", 10),
        ("up", 10),
    ]:
        type_in(made, key)
        assert pid in shown(made, 100, 15)
        assert chosen(made) == pid
        text(made, 100, 15)


def test_the_choice_is_a_process_and_not_a_place():
    made = monitor()
    type_in(made, "down", "down")
    assert chosen(made) == 3
    made.take(info(process(3), process(1)), 2.0)
    assert chosen(made) == 3
    made.take(info(process(1), process(6)), 3.0)
    assert chosen(made) == 6, "it is gone, and who is in its place is chosen"
    made.take(info(), 4.0)
    assert shown(made) == [1, 2, 3, 4, 5, 6]


def test_nobody_is_there():
    made = Monitor(pid=9)
    made.take(info(process(9)), 1.0)
    assert type_in(made, "down", "f9", "f7", " ", "c", "/", "x", "enter", "end", "pageup") == []
    assert shown(made) == []
    assert made.tagged == set()


def test_rows_move_only_as_far_as_they_have_to():
    made = monitor(*(process(pid) for pid in range(10, 60)))
    type_in(made, "end")
    last = shown(made, 100, 15)
    type_in(made, *["up"] * 9)
    assert shown(made, 100, 15) == last
    type_in(made, "up")
    assert shown(made, 100, 15) == [last[0] - 1, *last[:-1]]


# ---- orders


def test_orders():
    made = Monitor(pid=9)
    made.take(info(process(3, sampled=0), process(4, sampled=0), process(5, sampled=0)), 1.0)
    later = (
        process(3, sampled=5, resident=3, tokens=3),
        process(4, sampled=9, resident=1, tokens=9),
        process(5, sampled=1, resident=2, tokens=99),
    )
    made.take(info(*later), 2.0)
    found = [shown(made)]
    for key in "MTNIP":
        type_in(made, key)
        found.append(shown(made))
    assert found == [[4, 3, 5], [3, 5, 4], [5, 4, 3], [3, 4, 5], [5, 4, 3], [4, 3, 5]]


def test_equals_are_in_the_order_of_their_numbers():
    made = monitor(process(5), process(3), process(4, resident=7))
    type_in(made, "M")
    assert shown(made) == [4, 3, 5]


def test_the_menu_of_orders():
    made = monitor(process(3, faults=1), process(4, faults=5))
    type_in(made, "f6")
    assert text(made)[3] == "Sort by: Enter does it, Esc goes back"
    assert "  PROGRAM " in text(made)
    type_in(made, "end", "up", "up", "enter")
    assert (made.order, shown(made)) == ("FAULT", [4, 3])
    type_in(made, ">", "escape")
    assert (made.order, made.menu) == ("FAULT", None)


def test_a_tree():
    made = monitor()
    type_in(made, "t")
    at = text(made)[3].index("PROGRAM")
    names = [line[at:].rstrip() for line in text(made)[4:10]]
    assert shown(made) == [1, 2, 3, 4, 5, 6]
    assert names == ["p1 x", "├ p2 x", "│ ├ p3 x", "│ └ p4 x", "│   └ p5 x", "└ p6 x"]
    type_in(made, "I")
    assert shown(made) == [1, 6, 2, 4, 5, 3]


def test_a_deep_tree():
    made = monitor(*(process(pid, ppid=pid - 1) for pid in range(10, 5000)))
    type_in(made, "t", "end")
    assert chosen(made) == 4999


# ---- search and filter


def test_search_goes_there_and_on():
    made = monitor(*(process(pid, program=f"{'even' if pid % 2 == 0 else 'odd'}{pid}") for pid in range(10, 20)))
    type_in(made, "/", *"od")
    assert chosen(made) == 11
    type_in(made, "f3", "f3")
    assert chosen(made) == 15
    type_in(made, *"d11")
    assert (chosen(made), text(made)[-1][:12]) == (11, "search: odd1")
    type_in(made, "x")
    assert text(made)[-1].endswith("nothing is like that")
    type_in(made, "backspace", "enter")
    assert (chosen(made), text(made)[-1][:6]) == (11, "F1Help")


def test_a_process_is_found_by_its_number():
    made = monitor(*(process(pid, program="p", args=[]) for pid in (10, 11, 12)))
    type_in(made, "/", "1", "2")
    assert chosen(made) == 12
    type_in(made, "enter", "\\", "1", "1")
    assert shown(made) == [11]


def test_filter_shows_only_what_is_meant():
    made = monitor(process(10, program="Worker"), process(11, program="boss"), process(12, args=["workers"]))
    type_in(made, "\\", *"work")
    assert shown(made) == [10, 12]
    type_in(made, "enter", "f4", *"ers")
    assert shown(made) == [12]
    type_in(made, "enter")
    assert text(made)[-1].startswith("filter: workers ")
    type_in(made, "f4", "escape")
    assert shown(made) == [10, 11, 12]


def test_letters_are_no_commands_while_one_types():
    made = monitor()
    assert type_in(made, "/", "q", "k", " ", "t") == []
    assert (made.over, made.menu, made.tree, made.tagged) == (False, None, False, set())


# ---- signals, nice, tags


def test_a_signal_asks_first():
    made = monitor()
    assert type_in(made, "down", "down", "f9") == []
    assert text(made)[3] == "Signal for process 3, p3 x: Enter does it, Esc goes back"
    made.take(info(process(1), process(6)), 2.0)
    assert type_in(made, "down", "enter") == [Kill(pid=3, signal=Signal.KILL)], "it is for who was meant"
    assert type_in(made, "k", "escape") == []
    assert type_in(made, "k", "enter") == [Kill(pid=6, signal=Signal.TERM)]


def test_tags():
    made = monitor()
    type_in(made, "down", "down", " ", " ")
    assert (made.tagged, chosen(made)) == ({3, 4}, 5)
    assert [line[0] for line in text(made)[4:10]] == [" ", " ", "*", "*", " ", " "]
    assert type_in(made, "]") == [Renice(pid=3, nice=-1), Renice(pid=4, nice=-1)]
    type_in(made, "k")
    assert text(made)[3].startswith("Signal for 2 processes: ")
    assert len(type_in(made, "enter")) == 2
    type_in(made, "up", " ", "U", "home", "down", "c")
    assert made.tagged == {2, 3, 4, 5}
    made.take(info(process(4)), 2.0)
    assert made.tagged == {4}


def test_nice_goes_on_from_what_was_asked_for_and_ends_at_its_limits():
    made = monitor(process(3, nice=17))
    assert type_in(made, "f8", "[", "f8", "f8") == [Renice(pid=3, nice=18), Renice(pid=3, nice=19)]
    made.take(info(process(3, nice=-18)), 2.0)
    assert type_in(made, "f7", "]", "f7") == [Renice(pid=3, nice=-19), Renice(pid=3, nice=-20)]


def test_what_went_wrong_is_said_until_the_next_key():
    made = monitor()
    made.message = "EPERM: init cannot be killed"
    assert text(made)[-1] == "EPERM: init cannot be killed"
    type_in(made, "down")
    assert text(made)[-1].startswith("F1Help")


# ---- help, and the end


@pytest.mark.parametrize("key", ["f1", "h", "?"])
def test_help(key: str):
    made = monitor()
    type_in(made, key)
    assert text(made)[3:][: len(HELP)] == list(HELP)
    assert all(len(line) <= 80 for line in HELP)
    type_in(made, "q")
    assert (made.over, shown(made)) == (False, [1, 2, 3, 4, 5, 6])


@pytest.mark.parametrize("keys", [["q"], ["f10"], ["c-c"], ["/", "c-c"], ["k", "c-c"], ["h", "c-c"], ["k", "q", "q"]])
def test_the_end(keys: list[str]):
    made = monitor()
    type_in(made, *keys)
    assert made.over
