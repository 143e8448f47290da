"""Guesses a run's duration from similar runs, for reservations and back-filling. It is not a promise."""

from collections import OrderedDict
from collections.abc import Callable
from statistics import median

from dagster import DagsterInstance, DagsterRun, DagsterRunStatus, RunsFilter

from headrace.placement.needs import RunNeeds
from headrace_dagster.coordinator.run_needs import KIND_TAG

# Recent runs only, since code, data and machines change.
_NUM_RUNS = 10
_NUM_KINDS_KEPT = 10_000


class DurationHistory:
    """Expected run times by kind of run (`kind_of`), read from the instance at most once a refresh for each kind.

    Args:
        clock: seconds, of any origin.
        default_seconds: for kinds without a successful run yet.
    """

    def __init__(
        self,
        instance: DagsterInstance,
        *,
        clock: Callable[[], float],
        default_seconds: float = 600.0,
        refresh_seconds: float = 60.0,
    ) -> None:
        self._instance = instance
        self._clock = clock
        self._default_seconds = default_seconds
        self._refresh_seconds = refresh_seconds
        self._known: OrderedDict[str, tuple[float, float | None]] = OrderedDict()  # by kind: read at, seconds

    def expected_seconds(self, run: DagsterRun, needs: RunNeeds) -> float:
        """A tag's value, or the median of the last 10 successful runs of its kind, or the default.

        It counts from the start of the run's worker to its end, without queueing and launching.
        """
        if needs.expected_seconds is not None:
            return needs.expected_seconds
        kind = run.tags.get(KIND_TAG)
        seconds = self._of_kind(kind, run.job_name) if kind else None
        return self._default_seconds if seconds is None else seconds

    def _of_kind(self, kind: str, job_name: str) -> float | None:
        now = self._clock()
        read_at, seconds = self._known.get(kind, (None, None))
        if read_at is not None and 0 <= now - read_at < self._refresh_seconds:
            return seconds
        seconds = self._read(kind, job_name)
        self._known[kind] = (now, seconds)
        self._known.move_to_end(kind)
        while len(self._known) > _NUM_KINDS_KEPT:
            self._known.popitem(last=False)
        return seconds

    def _read(self, kind: str, job_name: str) -> float | None:
        succeeded = RunsFilter(job_name=job_name, statuses=[DagsterRunStatus.SUCCESS], tags={KIND_TAG: kind})
        spans = [
            record.end_time - record.start_time
            for record in self._instance.get_run_records(succeeded, limit=_NUM_RUNS)
            if record.start_time is not None and record.end_time is not None
        ]
        return max(0.0, median(spans)) if spans else None
