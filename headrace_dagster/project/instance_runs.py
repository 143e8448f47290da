"""An instance's runs without a webserver: through Dagster's own instance, never its tables."""

from datetime import UTC, datetime

from dagster import DagsterInstance, DagsterRunStatus, RunsFilter
from dagster._core.storage.dagster_run import RunRecord

from headrace_dagster.project.run_source import (
    ENDED,
    NUM_RUNS_MAX,
    QUEUE_DAEMON,
    UNDER_WAY,
    WAITING,
    RunsFound,
    RunsLook,
    RunState,
)
from headrace_dagster.run_failures import failure_of

# As Dagster's GraphQL leaves them out: tests/headrace_dagster/test_run_sources.py compares the two.
_HIDDEN = ".dagster/"


class InstanceRuns:
    """A `RunSource`."""

    def __init__(self, instance: DagsterInstance) -> None:
        self._instance = instance

    def look(self, *, ended_since: float) -> RunsLook:
        heartbeat = self._instance.get_daemon_heartbeats().get(QUEUE_DAEMON)
        ended = _filter(ENDED, updated_after=datetime.fromtimestamp(ended_since, UTC))
        return RunsLook(
            waiting=self._found(_filter(WAITING)),
            under_way=self._found(_filter(UNDER_WAY)),
            ended=self._runs(ended),
            daemon_seen=heartbeat.timestamp if heartbeat else None,
        )

    def failure_of(self, run_id: str) -> str:
        return failure_of(self._instance, run_id)

    def _found(self, wanted: RunsFilter) -> RunsFound:
        runs = self._runs(wanted)
        return RunsFound(
            runs=runs, num=len(runs) if len(runs) < NUM_RUNS_MAX else self._instance.get_runs_count(wanted)
        )

    def _runs(self, wanted: RunsFilter) -> list[RunState]:
        return [_state(record) for record in self._instance.get_run_records(wanted, limit=NUM_RUNS_MAX)]


def _filter(statuses: tuple[str, ...], updated_after: datetime | None = None) -> RunsFilter:
    return RunsFilter(statuses=[DagsterRunStatus(status) for status in statuses], updated_after=updated_after)


def _state(record: RunRecord) -> RunState:
    run = record.dagster_run
    return RunState(
        run_id=run.run_id,
        status=run.status.value,
        tags={key: value for key, value in run.tags.items() if not key.startswith(_HIDDEN)},
        job_name=run.job_name,
        assets=tuple(sorted(key.to_user_string() for key in run.asset_selection or ())),
        created=record.create_timestamp.timestamp(),
        started=record.start_time,
        updated=record.update_timestamp.timestamp(),
    )
