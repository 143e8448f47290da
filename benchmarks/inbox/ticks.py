"""`python -m benchmarks.inbox.ticks TASK`: ticks of a sensor, as the daemon makes them, until one asks for nothing.

Each tick evaluates the sensor, makes the runs that it asks for and puts them into the queue, where they stay. The
sensor's code is in this process, so its memory is both the daemon's and the code server's.

`StockSensor` is what one writes for a stream of requests with Dagster alone: a run for each, named by its run key.
"""

import json
import logging
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
import yaml
from dagster._core.remote_origin import InProcessCodeLocationOrigin
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import InProcessWorkspaceLoadTarget
from dagster._daemon.sensor import execute_sensor_iteration

from headrace.training.memory_use import peak_resident_mb

# What the stock sensor reads: an event a line.
EVENTS_FILE = "HEADRACE_BENCHMARK_EVENTS"
_LOCATION = "ticks"
_INSTANCE = {
    # A queue of which no daemon takes anything.
    "run_coordinator": {"module": "dagster", "class": "QueuedRunCoordinator"},
    "telemetry": {"enabled": False},
}
_POLL_SECONDS = 0.2


@dataclass(frozen=True, kw_only=True)
class Task:
    """`home`: a new instance's directory. `num_ticks_max`: a sensor that is not done by then has failed."""

    module: str
    sensor: str
    home: str
    num_ticks_max: int


@dg.op
def _answer() -> None: ...


@dg.job
def answer() -> None:
    _answer()


@dg.sensor(job=answer, minimum_interval_seconds=1)
def stock_sensor(context: dg.SensorEvaluationContext) -> dg.SensorResult:
    lines = Path(os.environ[EVENTS_FILE]).read_text().splitlines()
    seen = int(context.cursor or 0)
    requests = [dg.RunRequest(run_key=json.loads(line)["id"]) for line in lines[seen:]]
    return dg.SensorResult(run_requests=requests, cursor=str(len(lines)))


defs = dg.Definitions(jobs=[answer], sensors=[stock_sensor])


def main(task: Task) -> dict[str, Any]:
    home = Path(task.home)
    home.mkdir()
    (home / "dagster.yaml").write_text(yaml.safe_dump(_INSTANCE))
    code = LoadableTargetOrigin(module_name=task.module, attribute="defs")
    target = InProcessWorkspaceLoadTarget(InProcessCodeLocationOrigin(code, location_name=_LOCATION))
    took: list[float] = []
    with (
        dg.DagsterInstance.from_config(str(home)) as instance,
        WorkspaceProcessContext(instance, target) as workspace,
    ):
        [repository] = workspace.create_request_context().get_code_location(_LOCATION).get_repositories().values()
        sensor = repository.get_sensor(task.sensor)
        instance.start_sensor(sensor)
        num_runs, is_done = 0, False
        while not is_done:
            assert len(took) < task.num_ticks_max, f"not done after {len(took)} ticks"
            seconds = _tick(instance, workspace, sensor)
            made, num_runs = num_runs, instance.get_runs_count()
            is_done = num_runs == made
            took += [] if is_done else [seconds]
        partitions = [run.tags.get("dagster/partition", "") for run in instance.get_runs()]
        keys = [run.tags["dagster/run_key"] for run in instance.get_runs()]
    return {
        "tick_seconds": [round(one, 3) for one in took],
        "partitions": sorted(partitions),
        "num_keys": len(set(keys)),
        "peak_mb": round(peak_resident_mb()),
    }


def _tick(instance: dg.DagsterInstance, workspace: WorkspaceProcessContext, sensor: Any) -> float:
    """Seconds of one tick, once it is due again."""
    state_id, selector = sensor.get_remote_origin_id(), sensor.selector_id
    before = len(instance.get_ticks(state_id, selector))
    while True:
        began = time.perf_counter()
        errors = [one for one in execute_sensor_iteration(workspace, logging.getLogger("ticks"), None, None) if one]
        seconds = time.perf_counter() - began
        assert not errors, errors
        if len(instance.get_ticks(state_id, selector)) > before:
            return seconds
        time.sleep(_POLL_SECONDS)


if __name__ == "__main__":
    print(json.dumps(main(Task(**json.loads(sys.argv[1])))))
