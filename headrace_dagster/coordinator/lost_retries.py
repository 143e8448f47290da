"""Repeats the request for automatic retries that Dagster owes and has lost.

Dagster writes a failure's event first and the run's status after. If the retrying daemon reads the event in between, it
finds a run that has not failed, and never looks at it again. It also marks events as seen before it retries them, so a
daemon that is killed there retries none. A second failure event of the run makes it look again.
"""

from datetime import UTC, datetime

from dagster import DagsterInstance, DagsterRunStatus, RunsFilter
from dagster._core.storage.tags import AUTO_RETRY_RUN_ID_TAG, WILL_RETRY_TAG

_LOOK_SECONDS = 15.0
# The retrying daemon looks every 5 seconds, and may first have to handle a whole batch of failures.
_LATE_SECONDS = 30.0
# People decide about losses older than a night's outage.
_FORGOTTEN_SECONDS = 12 * 3600.0
_MESSAGE = "The retry of this run was lost; it is asked for again."


class LostRetries:
    def __init__(self, instance: DagsterInstance) -> None:
        self._instance = instance
        self._looked_at = float("-inf")

    def look(self, now: float) -> list[str]:
        """Runs whose retry was requested again; does nothing within some seconds of the last look."""
        if not self._instance.run_retries_enabled or now - self._looked_at < _LOOK_SECONDS:
            return []
        self._looked_at = now
        late = RunsFilter(
            statuses=[DagsterRunStatus.FAILURE],
            tags={WILL_RETRY_TAG: "true"},
            updated_after=datetime.fromtimestamp(now - _FORGOTTEN_SECONDS, UTC),
            updated_before=datetime.fromtimestamp(now - _LATE_SECONDS, UTC),
        )
        lost = [run for run in self._instance.get_runs(late) if AUTO_RETRY_RUN_ID_TAG not in run.tags]
        for run in lost:
            self._instance.report_run_failed(run, _MESSAGE)
        return [run.run_id for run in lost]
