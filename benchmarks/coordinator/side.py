"""One side of `benchmarks.coordinator`, in a process of its own: steps when told, so that both sides take turns.

`python -m benchmarks.coordinator.side TASK`; on stdin one word a line: `step` until `end`. Says `ready` before the
first step and `done` after each; the last line is JSON.
"""

import json
import os
import sys
import time
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from dagster import DagsterInstance, DagsterRunStatus, RunsFilter
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._daemon.run_coordinator.queued_run_coordinator_daemon import QueuedRunCoordinatorDaemon

from benchmarks.coordinator.instance import fill_the_queue, queue_instance, submit
from benchmarks.measuring import Cost, measured

# Until every reason that is written at all has been written: in 100 tags, 20 a look, and 100 logs, 5 a look.
_NUM_WARM_UPS = 30
# Rows are read again for some seconds after they were written.
_SETTLED_SECONDS = 8.0
_LAUNCHES_AT_ONCE = 20


def idle(instance: DagsterInstance, workspace: WorkspaceProcessContext, task: Mapping[str, Any]) -> dict[str, Any]:
    """CPU seconds of each iteration of a daemon that finds nothing to do."""
    template = submit(instance, workspace)
    fill_the_queue(instance, template, task["queued"])
    instance.delete_run(template.run_id)
    daemon = QueuedRunCoordinatorDaemon(interval_seconds=1)
    for _ in range(_NUM_WARM_UPS):
        list(daemon.run_iteration(workspace))
    time.sleep(_SETTLED_SECONDS)
    list(daemon.run_iteration(workspace))
    seconds = []
    for _ in steps():
        with measured() as cost:
            list(daemon.run_iteration(workspace))
        seconds.append(cost.cpu_seconds)
    queued = instance.get_runs_count(RunsFilter(statuses=[DagsterRunStatus.QUEUED]))
    assert queued == task["queued"], f"{queued} of {task['queued']} runs are still queued"
    return {"cpu_seconds": seconds}


def launches(instance: DagsterInstance, workspace: WorkspaceProcessContext, task: Mapping[str, Any]) -> dict[str, Any]:
    """CPU and wall seconds of one iteration that launches everything, a part of it each step."""
    for _ in range(task["queued"]):
        submit(instance, workspace)
    daemon = QueuedRunCoordinatorDaemon(interval_seconds=1)
    iteration: Iterator[object] = iter(daemon.run_iteration(workspace))
    cost, steps_taken = Cost(), []
    for _ in steps():
        with measured(cost):
            list(islice(iteration, _LAUNCHES_AT_ONCE))
        steps_taken.append(cost.cpu_seconds)
    starting = instance.get_runs_count(RunsFilter(statuses=[DagsterRunStatus.STARTING]))
    assert starting == task["queued"], f"{starting} of {task['queued']} runs were launched"
    return {"cpu_seconds": cost.cpu_seconds, "wall_seconds": cost.wall_seconds}


def steps() -> Iterator[None]:
    print("ready", flush=True)
    for line in sys.stdin:
        if line.strip() == "end":
            return
        yield
        print("done", flush=True)


def main() -> None:
    task = json.loads(sys.argv[1])
    os.environ["HEADRACE_GPUS"] = task["gpus"]
    with queue_instance(Path(task["directory"]), task["side"]) as (instance, workspace):
        scene = {"idle": idle, "launches": launches}[task["scene"]]
        print(json.dumps(scene(instance, workspace, task)))


if __name__ == "__main__":
    main()
