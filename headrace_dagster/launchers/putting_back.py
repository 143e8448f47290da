"""Returns a run that reached a launcher without its own promise to the queue, where the coordinator decides."""

from dagster import DagsterInstance, DagsterRun, DagsterRunStatus
from dagster._core.events import DagsterEvent

from headrace_dagster.coordinator.admission import GATE_TAG, HELD, PLACEMENT_TAG


def is_gated(instance: DagsterInstance) -> bool:
    """Whether our coordinator admits runs."""
    # By name, since the coordinator's module imports launchers.
    return any(ancestor.__name__ == "GpuRunCoordinator" for ancestor in type(instance.run_coordinator).__mro__)


def put_back(instance: DagsterInstance, run: DagsterRun, message: str, *, by: type) -> None:
    instance.add_run_tags(run.run_id, {GATE_TAG: HELD, PLACEMENT_TAG: ""})
    instance.report_engine_event(message, run, cls=by)
    now = instance.get_run_by_id(run.run_id)
    # A run that was canceled meanwhile must not be queued.
    if now is not None and now.status in (DagsterRunStatus.STARTING, DagsterRunStatus.NOT_STARTED):
        instance.report_dagster_event(DagsterEvent.job_enqueue(now), run_id=run.run_id)
