"""`python -m benchmarks.inbox.event_time_pathway TASK`: the streams of `--event-time` through Pathway's windows.

Each event comes in at a time of its own, in the order in which it arrives. Windows are tumbling, each given out once
when an event `lateness` behind its end has come (`exactly_once_behavior`), which is Pathway's counterpart of a window
that is sealed. What comes later is cut off. Answers with the events' ids by seed and window.
"""

import json
import sys
from typing import Any

import pathway as pw  # pyright: ignore[reportMissingImports]

from simulation.event_streams import SECOND, Sent, StreamShape, stream


class _Event(pw.Schema):
    event: str
    time: int


def windows_of(sent: list[Sent], *, window_seconds: int, lateness_seconds: float) -> dict[int, list[str]]:
    rows = [(one.id, one.time, 2 * number, 1) for number, one in enumerate(sent, 1)]
    events = pw.debug.table_from_rows(_Event, rows, is_stream=True)
    windows = events.windowby(
        events.time,
        window=pw.temporal.tumbling(duration=window_seconds * SECOND),
        behavior=pw.temporal.exactly_once_behavior(shift=int(lateness_seconds * SECOND)),
    ).reduce(begins=pw.this._pw_window_start, events=pw.reducers.tuple(pw.this.event))
    _, columns = pw.debug.table_to_dicts(windows)
    return {columns["begins"][key]: list(columns["events"][key]) for key in columns["begins"]}


def main(task: dict[str, Any]) -> dict[str, Any]:
    shape = StreamShape(**task["shape"])
    rules = {"window_seconds": task["window_seconds"], "lateness_seconds": task["lateness_seconds"]}
    return {str(seed): windows_of(stream(seed, shape), **rules) for seed in task["seeds"]}


if __name__ == "__main__":
    print(json.dumps({"seeds": main(json.loads(sys.argv[1]))}))
