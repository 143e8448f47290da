"""Ends a run so that Dagster retries it from failure, without using up its owner's retries.

Dagster counts the runs of a re-execution group against `dagster/max_retries`, and retries a run whose failure was not a
step's own. So before a run is ended, its limit is raised by the one run that the eviction adds; and if a dying worker
reported a step's failure, the real reason is reported once more. Each step may be repeated: if a daemon was killed
between two of them, the next one continues.
"""

import json
from dataclasses import asdict, dataclass
from datetime import datetime

from dagster import DagsterInstance, DagsterRun, DagsterRunStatus, RunsFilter
from dagster._core.events import JobFailureData, RunFailureReason
from dagster._core.storage.tags import AUTO_RETRY_RUN_ID_TAG, MAX_RETRIES_TAG, WILL_RETRY_TAG

from headrace.store.small_objects import Record
from headrace_dagster.coordinator.admission import PREEMPTED_TAG
from headrace_dagster.run_records import record_in

UNDER_WAY = (DagsterRunStatus.STARTING, DagsterRunStatus.STARTED)
_ENDED_OTHERWISE = (DagsterRunStatus.SUCCESS, DagsterRunStatus.CANCELED, DagsterRunStatus.CANCELING)


@dataclass(frozen=True, kw_only=True)
class Eviction:
    """`at` in seconds since the epoch; `num` counts the evictions of this run and of earlier attempts."""

    run_id: str
    at: float
    num: int

    def to_json(self) -> str:
        return json.dumps(asdict(self))


_RECORD = Record("Eviction", Eviction)


def last_eviction(run: DagsterRun) -> Eviction | None:
    """The run's own eviction, or the one that it retries: a retry copies its parent's tags."""
    return record_in(run, PREEMPTED_TAG, _RECORD)


def is_being_evicted(run: DagsterRun) -> bool:
    """Whether this run is being evicted, or was; other attempts' evictions do not count."""
    eviction = last_eviction(run)
    return eviction is not None and eviction.run_id == run.run_id


def record_eviction(instance: DagsterInstance, run: DagsterRun, now: float) -> None:
    """Records an eviction once for each run, before anything happens to its processes."""
    if is_being_evicted(run):
        return
    before = last_eviction(run)
    eviction = Eviction(run_id=run.run_id, at=now, num=before.num + 1 if before else 1)
    limit = _max_retries_with_one_more(instance, run)
    instance.add_run_tags(run.run_id, {PREEMPTED_TAG: eviction.to_json(), MAX_RETRIES_TAG: str(limit)})


def _max_retries_with_one_more(instance: DagsterInstance, run: DagsterRun) -> int:
    try:
        allowed = int(run.tags.get(MAX_RETRIES_TAG, instance.run_retries_max_retries))
    except ValueError:
        allowed = 0  # Dagster does not retry a run with an unreadable limit
    group = instance.get_run_group(run.run_id)
    # Re-executions by hand count too, and may have exceeded the limit.
    return max(allowed + 1, len(list(group[1])) if group else 1)


def report_evicted(instance: DagsterInstance, run_id: str, message: str) -> bool:
    """Once no process is left: marks the run as failed, to be retried.

    Returns:
        False if it succeeded or was canceled before it could be ended; its status then stays.
    """
    run = instance.get_run_by_id(run_id)
    if run is None or run.status in _ENDED_OTHERWISE:
        return False
    if run.status != DagsterRunStatus.FAILURE or run.tags.get(WILL_RETRY_TAG) != "true":
        # As a step's failure it would not be retried if `retry_on_asset_or_op_failure` is off.
        reason = RunFailureReason.UNEXPECTED_TERMINATION
        instance.report_run_failed(run, message, JobFailureData(error=None, failure_reason=reason))
    return True


def unfinished_evictions(instance: DagsterInstance, *, since: datetime) -> list[DagsterRun]:
    """Runs that an earlier daemon began to evict: still under way, or failed after `since` without a retry to come."""
    under_way = instance.get_runs(RunsFilter(statuses=list(UNDER_WAY)))
    failed = instance.get_runs(RunsFilter(statuses=[DagsterRunStatus.FAILURE], updated_after=since))
    lost = [run for run in failed if AUTO_RETRY_RUN_ID_TAG not in run.tags and run.tags.get(WILL_RETRY_TAG) != "true"]
    return [run for run in (*under_way, *lost) if is_being_evicted(run)]
