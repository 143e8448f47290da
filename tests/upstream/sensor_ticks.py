"""`python -m tests.upstream.sensor_ticks HOME NUMBER [MOMENT]`: a sensor's tick of that number, killed at that moment.

Each is a minute after the one before, so that no tick comes too early for the sensor.
"""

import logging
import os
import signal
import sys
from datetime import UTC, datetime, timedelta

import dagster as dg
from dagster._core.remote_origin import InProcessCodeLocationOrigin
from dagster._core.test_utils import freeze_time
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import InProcessWorkspaceLoadTarget
from dagster._daemon.sensor import execute_sensor_iteration

NUM_REQUESTS = 3


@dg.asset(partitions_def=dg.StaticPartitionsDefinition(list("abc")))
def listed() -> None: ...


@dg.sensor(job_name="list_them", default_status=dg.DefaultSensorStatus.RUNNING)
def asks(context: dg.SensorEvaluationContext) -> dg.SensorResult:
    """What comes after the cursor, and then nothing more."""
    seen = int(context.cursor or 0)
    requests = [dg.RunRequest(run_key=f"key-{key}", partition_key=key) for key in "abc"[seen:]]
    return dg.SensorResult(run_requests=requests, cursor=str(NUM_REQUESTS))


defs = dg.Definitions([listed], jobs=[dg.define_asset_job("list_them", selection=[listed])], sensors=[asks])


def main(number: str, moment: str = "") -> None:
    code = LoadableTargetOrigin(module_name="tests.upstream.sensor_ticks", attribute="defs")
    target = InProcessWorkspaceLoadTarget(InProcessCodeLocationOrigin(code, location_name="asking"))
    flags = {"asks": {moment: signal.SIGKILL}} if moment else None
    at = datetime(2026, 11, 22, tzinfo=UTC) + timedelta(minutes=int(number))
    with freeze_time(at), dg.DagsterInstance.get() as instance, WorkspaceProcessContext(instance, target) as workspace:
        errors = execute_sensor_iteration(workspace, logging.getLogger("tick"), None, None, debug_crash_flags=flags)
        assert [error for error in errors if error] == []


if __name__ == "__main__":
    os.environ["DAGSTER_HOME"] = sys.argv[1]
    main(*sys.argv[2:])
