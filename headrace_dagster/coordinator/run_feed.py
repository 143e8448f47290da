"""Tracks queued runs and runs under way, without reading 5,000 rows a second to learn that nothing changed.

A queued run is read once, and again when it changes; counting shows that runs left the queue. Runs under way are looked
up by id. Dagster stamps a row with the writer's clock and commits it later, so each look goes back some seconds, and
once a minute all ids are compared. Where the database tells that nobody has written to it, nothing is read but that.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime

import sqlalchemy as db
from dagster import DagsterInstance, DagsterRun, DagsterRunStatus, RunsFilter
from dagster._core.storage.dagster_run import ACTIVE_RUN_STATUSES, RunRecord
from dagster._core.storage.runs import SqlRunStorage
from dagster._core.storage.runs.schema import RunsTable
from dagster_shared.record import copy

from headrace_dagster.coordinator.admission import WHY_TAG
from headrace_dagster.coordinator.run_tag_writes import run_storage

# Time between a row's stamp and its commit: a busy SQLite file waits for its lock up to 5 seconds.
_OVERLAP_SECONDS = 6.0
_COMPARE_SECONDS = 60.0
_IDS_AT_ONCE = 500
_QUEUED = RunsFilter(statuses=[DagsterRunStatus.QUEUED])


@dataclass(kw_only=True)
class RunFeed:
    """The known runs; `refresh` updates them."""

    instance: DagsterInstance
    queued: dict[str, RunRecord] = field(default_factory=dict)
    under_way: dict[str, RunRecord] = field(default_factory=dict)
    canceling: frozenset[str] = frozenset()
    # Runs that are no longer under way; of a deleted run this is all that remains.
    left: dict[str, DagsterRun] = field(default_factory=dict)
    # A number that is another one as soon as the database is; None: it does not tell.
    database_version: Callable[[], int | None] = lambda: None
    _version: int | None = None
    _read_until: float | None = None
    _compared_at: float = 0.0

    def refresh(self, now: float) -> bool:
        """Returns whether anything changed that a decision may depend on."""
        # Before anything is read: what is written meanwhile is read next time.
        version = self.database_version()
        is_late = self._read_until is None or now - self._compared_at > _COMPARE_SECONDS
        if version is not None and version == self._version and not is_late:
            return False
        # None until everything is read: an interrupted look is repeated.
        self._version = None
        changed = self._read(now)
        self._version = version
        return changed

    def _read(self, now: float) -> bool:
        # Runs under way first: a run that is queued again in between is then seen twice, not never.
        changed = self._refresh_under_way()
        return self._refresh_queued(now) or changed

    def _refresh_queued(self, now: float) -> bool:
        if self._read_until is None:
            found = self.instance.get_run_records(_QUEUED)
            self._compared_at = now
        else:
            since = datetime.fromtimestamp(self._read_until - _OVERLAP_SECONDS, UTC)
            found = self.instance.get_run_records(RunsFilter(statuses=[DagsterRunStatus.QUEUED], updated_after=since))
        self._read_until = now
        changed = self._put(found)
        if self._num_queued() != len(self.queued) or now - self._compared_at > _COMPARE_SECONDS:
            changed = self._compare(now) or changed
        return changed

    def _num_queued(self) -> int:
        storage = run_storage(self.instance)
        if not isinstance(storage, SqlRunStorage):
            return self.instance.get_runs_count(_QUEUED)
        # Dagster's own count reads every queued run's row; this one reads only the index.
        with storage.connect() as connection:
            queued = RunsTable.c.status == DagsterRunStatus.QUEUED.value
            return connection.execute(db.select(db.func.count()).select_from(RunsTable).where(queued)).scalar_one()

    def _compare(self, now: float) -> bool:
        self._compared_at = now
        ids = set(self.instance.get_run_ids(_QUEUED))
        gone, missed = self.queued.keys() - ids, sorted(ids - self.queued.keys())
        for run_id in gone:
            del self.queued[run_id]
        for start in range(0, len(missed), _IDS_AT_ONCE):
            self._put(self.instance.get_run_records(RunsFilter(run_ids=missed[start : start + _IDS_AT_ONCE])))
        return bool(gone or missed)

    def _put(self, records: Iterable[RunRecord]) -> bool:
        changed = False
        for record in records:
            run = record.dagster_run
            if run.status != DagsterRunStatus.QUEUED:
                continue
            known = self.queued.get(run.run_id)
            changed = changed or known is None or _decisive(known.dagster_run) != _decisive(run)
            self.queued[run.run_id] = record
        return changed

    def _refresh_under_way(self) -> bool:
        ids = set(self.instance.get_run_ids(RunsFilter(statuses=ACTIVE_RUN_STATUSES)))
        new, gone = sorted(ids - self.under_way.keys()), self.under_way.keys() - ids
        for run_id in gone:
            self.left[run_id] = self.under_way.pop(run_id).dagster_run
        for start in range(0, len(new), _IDS_AT_ONCE):
            for record in self.instance.get_run_records(RunsFilter(run_ids=new[start : start + _IDS_AT_ONCE])):
                self.under_way[record.dagster_run.run_id] = record
        canceling = frozenset(self.instance.get_run_ids(RunsFilter(statuses=[DagsterRunStatus.CANCELING])))
        changed = bool(new or gone or canceling != self.canceling)
        self.canceling = canceling
        return changed

    def note(self, run: DagsterRun) -> None:
        """Stores tags that this process has just written to a queued run."""
        record = self.queued.get(run.run_id)
        if record:
            self.queued[run.run_id] = copy(record, dagster_run=run)


def _decisive(run: DagsterRun) -> dict[str, str]:
    return {key: value for key, value in run.tags.items() if key != WHY_TAG}
