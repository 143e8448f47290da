"""A Dagster instance for the coordinator's benchmark: real storage, a real queue, and a launcher that starts nothing.

Runs carry the execution plan of a real job, so that their needs are read as they would be. A long queue is one
submitted run, copied row by row: submitting 5,000 would take ten minutes and measure nothing else.
"""

import socket
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

import dagster as dg
import yaml
from dagster import DagsterInstance, DagsterRun, DagsterRunStatus
from dagster._core.code_pointer import ModuleCodePointer
from dagster._core.execution.api import create_execution_plan
from dagster._core.launcher import DefaultRunLauncher, LaunchRunContext
from dagster._core.origin import DEFAULT_DAGSTER_ENTRY_POINT, JobPythonOrigin, RepositoryPythonOrigin
from dagster._core.remote_origin import GrpcServerCodeLocationOrigin, RemoteJobOrigin, RemoteRepositoryOrigin
from dagster._core.snap import snapshot_from_execution_plan
from dagster._core.storage.legacy_storage import LegacyRunStorage
from dagster._core.storage.runs import SqlRunStorage
from dagster._core.storage.runs.schema import RunsTable, RunTagsTable
from dagster._core.test_utils import create_run_for_test
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import EmptyWorkspaceTarget
from dagster._serdes import serialize_value
from dagster._time import get_current_datetime

from headrace.placement.demand import GPUS
from headrace.placement.placements import GpuShare, Placement
from headrace_dagster.coordinator.admission import ADMITTED, GATE_TAG, HELD, PLACEMENT_TAG, WHY_TAG, Admission
from headrace_dagster.coordinator.hold_reports import IN_LINE
from headrace_dagster.launchers.gpu_launcher import GpuRunLauncher

Side = Literal["ours", "stock", "stock at its cap"]
_LOCATION = GrpcServerCodeLocationOrigin(host="localhost", port=1, location_name="benchmark")


class StartsNothing(DefaultRunLauncher):
    def launch_run(self, context: LaunchRunContext) -> None:
        pass


class PlacesButStartsNothing(GpuRunLauncher):
    """The tags of an admission and the look at /proc are the real launcher's."""

    def launch_run(self, context: LaunchRunContext) -> None:
        pass


@dg.op(tags={GPUS: "1"})
def _train() -> None:
    pass


@dg.op
def _report() -> None:
    pass


@dg.job
def _job() -> None:
    _train()
    _report()


@contextmanager
def queue_instance(directory: Path, side: Side) -> Iterator[tuple[DagsterInstance, WorkspaceProcessContext]]:
    """The stock side holds the same runs by the same tag, as a limit of its own; or it is at its cap of one run."""
    module = "benchmarks.coordinator.instance"
    ours = side == "ours"
    limit = {"key": GATE_TAG, "value": HELD, "limit": 0}
    limits: dict[Side, dict[str, Any]] = {
        "ours": {"max_concurrent_runs": -1},
        "stock": {"max_concurrent_runs": -1, "tag_concurrency_limits": [limit]},
        "stock at its cap": {"max_concurrent_runs": 1},
    }
    config = {
        "run_coordinator": {
            "module": "headrace_dagster" if ours else "dagster",
            "class": "GpuRunCoordinator" if ours else "QueuedRunCoordinator",
            "config": limits[side],
        },
        "run_launcher": {"module": module, "class": "PlacesButStartsNothing" if ours else "StartsNothing"},
        "run_monitoring": {"enabled": True},
        "telemetry": {"enabled": False},
    }
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "dagster.yaml").write_text(yaml.safe_dump(config))
    with (
        DagsterInstance.from_config(str(directory)) as instance,
        WorkspaceProcessContext(instance, EmptyWorkspaceTarget()) as workspace,
    ):
        yield instance, workspace


def submit(instance: DagsterInstance, workspace: WorkspaceProcessContext) -> DagsterRun:
    """As the UI or a backfill does."""
    job_snapshot = _job.get_job_snapshot()
    repository = RepositoryPythonOrigin(
        executable_path="python",
        code_pointer=ModuleCodePointer(__name__, "_job"),
        entry_point=list(DEFAULT_DAGSTER_ENTRY_POINT),
    )
    run = create_run_for_test(
        instance,
        job_name=_job.name,
        job_snapshot=job_snapshot,
        execution_plan_snapshot=snapshot_from_execution_plan(create_execution_plan(_job), job_snapshot.snapshot_id),
        remote_job_origin=RemoteJobOrigin(RemoteRepositoryOrigin(_LOCATION, "__repository__"), _job.name),
        job_code_origin=JobPythonOrigin(_job.name, repository),
    )
    return instance.submit_run(run.run_id, workspace.create_request_context())


def fill_the_queue(instance: DagsterInstance, template: DagsterRun, count: int) -> None:
    """Copies of a queued run, the gate held on both sides; and a run under way that holds all four GPUs."""
    held = template.with_tags({**template.tags, GATE_TAG: HELD, WHY_TAG: IN_LINE})
    _add(instance, [held._replace(run_id=str(uuid.uuid4())) for _ in range(count)])
    node = socket.gethostname()
    placement = Placement(gpus=tuple(GpuShare(node=node, device=str(index), milli=1000) for index in range(4)))
    run_id = str(uuid.uuid4())
    admission = Admission(run_id=run_id, at=time.time(), placement=placement)
    tags = {**template.tags, GATE_TAG: ADMITTED, PLACEMENT_TAG: admission.to_json()}
    _add(instance, [template._replace(run_id=run_id, status=DagsterRunStatus.STARTED).with_tags(tags)])


def _add(instance: DagsterInstance, runs: list[DagsterRun]) -> None:
    """In one transaction: `add_run` opens the database anew for each."""
    storage = instance.run_storage
    if isinstance(storage, LegacyRunStorage):
        storage = storage._storage.run_storage
    assert isinstance(storage, SqlRunStorage)
    # An hour ago: what is told to runs that have waited for a while belongs to the warm-up.
    now = get_current_datetime() - timedelta(hours=1)
    rows = [storage._get_run_insertion_values(run, now) for run in runs[:1]]
    rows += [{**rows[0], "run_id": run.run_id, "run_body": serialize_value(run)} for run in runs[1:]]
    tags = [
        {"run_id": run.run_id, "key": key, "value": value}
        for run in runs
        for key, value in run.tags_for_storage().items()
    ]
    with storage.connect() as connection:
        connection.execute(RunsTable.insert(), rows)
        connection.execute(RunTagsTable.insert(), tags)
