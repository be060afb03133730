"""LangGraph with SqliteSaver: one superstep of a graph, which ends with a checkpoint.

A graph of one node that adds 1 to a counter loops n times. A superstep is two commits, the node's writes and the
checkpoint. The clock goes round the whole `invoke`, so two checkpoints of the start are shared out among the n.
`--durability=sync` ends a checkpoint before the next superstep begins, `async` (LangGraph's default) while it runs.
SqliteSaver sets WAL and keeps SQLite's own synchronous=FULL; `--synchronous=NORMAL` is safe from kill -9, not from a
power cut.
"""

import argparse
import json
import sqlite3
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import TypedDict

from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.graph import END, START, StateGraph


class State(TypedDict):
    """The channels of the graph."""

    count: int
    until: int


def tick(state: State) -> dict[str, int]:
    return {"count": state["count"] + 1}


def measure(n: int, repeat: int, connection: sqlite3.Connection) -> list[float]:
    graph = StateGraph(State)
    graph.add_node("tick", tick)
    graph.add_edge(START, "tick")
    graph.add_conditional_edges("tick", lambda state: "tick" if state["count"] < state["until"] else END)
    app = graph.compile(checkpointer=SqliteSaver(connection))

    def run(thread: str, steps: int) -> float:
        config = {"configurable": {"thread_id": thread}, "recursion_limit": steps + 1}
        begin = perf_counter()
        app.invoke({"count": 0, "until": steps}, config, durability=options.durability)
        elapsed = perf_counter() - begin
        query = "SELECT count(*) FROM checkpoints WHERE thread_id = ?"
        assert connection.execute(query, (thread,)).fetchone()[0] >= steps, "a superstep has no checkpoint"
        return elapsed / steps * 1e6

    run("warm-up", max(10, n // 10))
    return [run(f"run {i}", n) for i in range(repeat)]


parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--n", type=int, default=200)
parser.add_argument("--repeat", type=int, default=5)
parser.add_argument("--durability", choices=["sync", "async"], default="sync")
parser.add_argument("--synchronous", choices=["FULL", "NORMAL"], default="FULL")
options = parser.parse_args()
with TemporaryDirectory() as folder:
    connection = sqlite3.connect(Path(folder) / "graph.sqlite", check_same_thread=False)
    connection.execute(f"PRAGMA synchronous={options.synchronous}")
    us = measure(options.n, options.repeat, connection)
    connection.close()
what = f"superstep, {options.durability}, in SQLite {sqlite3.sqlite_version}, WAL, synchronous={options.synchronous}"
peer, saver = version("langgraph"), version("langgraph-checkpoint-sqlite")
print(json.dumps({"peer": "langgraph", "version": f"{peer} (checkpoint-sqlite {saver})", "what": what, "us": us}))
