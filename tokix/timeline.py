"""A trace as something to look at: text, a picture (SVG), and a file for ui.perfetto.dev."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from html import escape
from typing import TYPE_CHECKING, Any

from rich.text import Text

if TYPE_CHECKING:
    from tokix.trace import Beat, Trace

#: Colours that can be told apart, also by most who see few colours (the set of Okabe and Ito, and three greys).
COLOURS = ("#e69f00", "#56b4e9", "#009e73", "#f0e442", "#0072b2", "#d55e00", "#cc79a7", "#999999", "#666666", "#bbbbbb")
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


def names(trace: Trace) -> dict[int, str]:
    """Give the processes that ever ran on the machine, in the order in which they did, with a letter each."""
    return {pid: LETTERS[i % len(LETTERS)] for i, pid in enumerate(trace.order)}


def colour(pid: int, known: dict[int, str]) -> str:
    return COLOURS[list(known).index(pid) % len(COLOURS)]


def label(trace: Trace, pid: int) -> str:
    life = trace.lives[pid]
    return f"{life.program.rpartition(':')[2] or life.program} ({pid})"


def draw(trace: Trace, width: int) -> Iterator[Text]:
    """Give a line for each lane, in which a character is one tick or several: who had the lane most of the time."""
    known = names(trace)
    yield from _lanes(trace, [*_groups(trace.beats, width)], known)
    per = -(-len(trace.beats) // max(width, 1))
    yield Text(f"       {len(trace.beats)} ticks, {per} in a column", "dim")
    legend = Text()
    for pid, letter in known.items():
        legend.append(f"{letter} {label(trace, pid)}  ", colour(pid, known))
    yield legend


def tail(trace: Trace, width: int) -> Iterator[Text]:
    """Give the last so many ticks of each lane."""
    yield from _lanes(trace, [[beat] for beat in trace.beats[-width:]], names(trace))


def _lanes(trace: Trace, groups: list[list[Beat]], known: dict[int, str]) -> Iterator[Text]:
    for lane in range(trace.lanes):
        line = Text(f"lane {lane} ", "dim")
        for group in groups:
            held = Counter(run.pid for beat in group for run in beat.runs if run.lane == lane)
            pid = held.most_common(1)[0][0] if held else 0
            line.append(known.get(pid, "·"), colour(pid, known) if held else "dim")
        yield line


def _groups(beats: list[Beat], width: int) -> Iterator[list[Beat]]:
    size = max(1, -(-len(beats) // max(width, 1)))
    yield from (beats[i : i + size] for i in range(0, len(beats), size))


def perfetto(trace: Trace) -> str:
    """Give the trace in the JSON form that Perfetto and chrome://tracing read; times in microseconds."""
    return json.dumps({"traceEvents": [*_titles(trace), *_spans(trace)], "displayTimeUnit": "ms"})


#: Perfetto's "processes": one has the lanes as its threads, the other has ours.
_LANES, _PROCESSES = 1, 2


def _titles(trace: Trace) -> Iterator[dict[str, Any]]:
    for number, name in ((_LANES, "lanes"), (_PROCESSES, "processes")):
        yield {"ph": "M", "name": "process_name", "pid": number, "args": {"name": name}}
    for lane in range(trace.lanes):
        yield {"ph": "M", "name": "thread_name", "pid": _LANES, "tid": lane, "args": {"name": f"lane {lane}"}}
    for pid in trace.order:
        yield {"ph": "M", "name": "thread_name", "pid": _PROCESSES, "tid": pid, "args": {"name": label(trace, pid)}}


def _spans(trace: Trace) -> Iterator[dict[str, Any]]:
    for beat in trace.beats:
        span = {"ph": "X", "ts": round(beat.began * 1e6), "dur": round((beat.ended - beat.began) * 1e6)}
        for run in beat.runs:
            args = {"tick": beat.number, "fed": run.fed, "sampled": run.sampled}
            yield {**span, "name": label(trace, run.pid), "pid": _LANES, "tid": run.lane, "args": args}
            yield {**span, "name": "running", "pid": _PROCESSES, "tid": run.pid, "args": args}
        for pid in dict.fromkeys(beat.waiting):
            yield {**span, "name": "waiting", "pid": _PROCESSES, "tid": pid, "args": {"tick": beat.number}}


#: Pixels: of a tick at most, of a lane, of the names of lanes, of the whole picture, of a name in the legend.
_TICK, _LANE, _LEFT, _WIDTH, _NAME = 12.0, 26, 64, 1400, 220
#: Names in a line of the legend.
_NAMES = (_WIDTH - _LEFT) // _NAME


def picture(trace: Trace) -> str:
    """Give the timeline as SVG: a row for each lane, a column for each tick; prompts are paler than answers."""
    high = trace.lanes * _LANE + 50 + 20 * -(-len(trace.order) // _NAMES)
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {high}" font-family="sans-serif" '
        'font-size="12"><rect width="100%" height="100%" fill="white"/>'
    )
    return "\n".join([head, *_boxes(trace), *_scale(trace), *_legend(trace), "</svg>"])


def _boxes(trace: Trace) -> Iterator[str]:
    known, step = names(trace), _step(trace)
    for column, beat in enumerate(trace.beats):
        for run in beat.runs:
            yield (
                f'<rect x="{_LEFT + column * step:.2f}" y="{run.lane * _LANE + 3}" width="{step:.2f}" '
                f'height="{_LANE - 6}" fill="{colour(run.pid, known)}" opacity="{1 if run.fed == 1 else 0.5}">'
                f"<title>tick {beat.number}: {escape(label(trace, run.pid))}, {run.fed} fed</title></rect>"
            )


def _scale(trace: Trace) -> Iterator[str]:
    step = _step(trace)
    for lane in range(trace.lanes):
        yield f'<text x="4" y="{lane * _LANE + 17}">lane {lane}</text>'
    for column in range(0, len(trace.beats), max(1, round(100 / step / 10) * 10)):
        x, y = _LEFT + column * step, trace.lanes * _LANE + 16
        yield f'<text x="{x:.1f}" y="{y}" fill="#666">{trace.beats[column].number}</text>'


def _legend(trace: Trace) -> Iterator[str]:
    known = names(trace)
    for i, pid in enumerate(known):
        x, y = _LEFT + i % _NAMES * _NAME, trace.lanes * _LANE + 40 + i // _NAMES * 20
        yield f'<rect x="{x}" y="{y - 11}" width="12" height="12" fill="{colour(pid, known)}"/>'
        yield f'<text x="{x + 17}" y="{y}">{escape(label(trace, pid))}</text>'


def _step(trace: Trace) -> float:
    return min(_TICK, (_WIDTH - _LEFT) / max(len(trace.beats), 1))
