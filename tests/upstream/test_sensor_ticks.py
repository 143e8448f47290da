"""What `pipelines.window_sensor` leans on: a killed tick loses no request, starts none twice, and keeps its cursor.

A failure here reads: Dagster changed, look at the sensors with a cursor.
"""

import os
import signal
import subprocess
import sys
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.scheduler.instigation import TickStatus

from tests.upstream.sensor_ticks import NUM_REQUESTS

# As Dagster names them, in their order: the sensor was not asked yet, or has answered.
MOMENTS = ("TICK_CREATED", "RUN_IDS_RESERVED", "RUN_CREATED", "RUN_LAUNCHED")


def tick(home: Path, number: int, moment: str = "") -> int:
    command = [sys.executable, "-m", "tests.upstream.sensor_ticks", str(home), str(number), *filter(None, [moment])]
    environment = {**os.environ, "DAGSTER_HOME": str(home)}
    return subprocess.run(command, env=environment, check=False, capture_output=True, timeout=120).returncode


@pytest.fixture
def home(tmp_path: Path) -> Path:
    # Runs are queued, and nobody launches them.
    (tmp_path / "dagster.yaml").write_text(
        "run_coordinator: {module: dagster, class: QueuedRunCoordinator}\ntelemetry: {enabled: false}\n"
    )
    return tmp_path


@pytest.mark.process
@pytest.mark.parametrize("moment", MOMENTS)
def test_a_tick_that_is_killed_and_comes_again_starts_each_run_once(home: Path, moment: str) -> None:
    assert tick(home, 1, moment) == -signal.SIGKILL
    for number in (2, 3):
        assert tick(home, number) == 0

    with dg.DagsterInstance.from_config(str(home)) as instance:
        runs = instance.get_runs()
        assert sorted(run.tags["dagster/run_key"] for run in runs) == ["key-a", "key-b", "key-c"]
        assert {run.status for run in runs} == {dg.DagsterRunStatus.QUEUED}
        [state] = instance.all_instigator_state()
        assert getattr(state.instigator_data, "cursor", None) == str(NUM_REQUESTS)
        # From which `pipelines.ticks` knows what a run costs.
        [asked] = instance.get_ticks(state.instigator_origin_id, state.selector_id, statuses=[TickStatus.SUCCESS])
        # Without those that were there already; the time of these ticks stands still.
        assert 1 <= len(asked.run_ids) <= NUM_REQUESTS
        assert asked.end_timestamp
        assert asked.end_timestamp >= asked.timestamp


def test_several_run_keys_are_asked_for_in_one_question() -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        for key in "abc":
            instance.add_run(dg.DagsterRun(job_name="j", tags={"dagster/run_key": key}))
        found = instance.get_runs(dg.RunsFilter(tags={"dagster/run_key": ["a", "c", "of nobody"]}))

    assert sorted(run.tags["dagster/run_key"] for run in found) == ["a", "c"]
