"""The demo's partitions according to the instance: made, under way, failed. Reads Dagster only; launches nothing."""

import time
from collections.abc import Iterable
from dataclasses import dataclass, field

import dagster as dg
from dagster._core.storage.dagster_run import IN_PROGRESS_RUN_STATUSES
from dagster._core.storage.tags import AUTO_RETRY_RUN_ID_TAG, PARTITION_NAME_TAG, WILL_RETRY_TAG

from headrace_dagster.run_failures import failure_of
from pipelines.jobs import run_assets

_ACTIVE = [dg.DagsterRunStatus.QUEUED, dg.DagsterRunStatus.NOT_STARTED, *IN_PROGRESS_RUN_STATUSES]
_ENDED_BADLY = [dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED]

# A daemon looks for failures every few seconds, but misses those from before its first look at a new instance.
RETRY_WAIT_SECONDS = 120.0


@dataclass(frozen=True, kw_only=True, order=True)
class Target:
    """One partition that the demo wants made."""

    asset: str
    partition: str

    def __str__(self) -> str:
        return f"{self.asset}[{self.partition}]"


@dataclass(frozen=True, kw_only=True)
class FailedRun:
    run_id: str
    error: str


@dataclass(kw_only=True)
class Board:
    """The state of the instance at the last `refresh`.

    `since`: failures of runs created before this time (epoch seconds) belong to earlier calls, and are ignored.
    """

    instance: dg.DagsterInstance
    since: float
    made: dict[str, set[str]] = field(default_factory=dict)
    active: dict[Target, dg.DagsterRun] = field(default_factory=dict)
    failed: dict[Target, FailedRun] = field(default_factory=dict)

    def refresh(self, assets: Iterable[str]) -> None:
        for asset in assets:
            self.made[asset] = self.instance.get_materialized_partitions(dg.AssetKey(asset))
        self.active = {}
        for run in self.instance.get_runs(dg.RunsFilter(statuses=_ACTIVE), limit=500):
            for target in _targets(run):
                self.active[target] = run
        self.failed = {}
        newest: dict[Target, dg.RunRecord] = {}
        for record in self.instance.get_run_records(dg.RunsFilter(statuses=_ENDED_BADLY), limit=500):
            if record.create_timestamp.timestamp() < self.since:
                continue
            for target in _targets(record.dagster_run):
                newest.setdefault(target, record)
        for target, record in newest.items():
            run = record.dagster_run
            if self.is_made(target):
                continue
            if run.tags.get(WILL_RETRY_TAG) != "true":
                self.failed[target] = FailedRun(run_id=run.run_id, error=failure_of(self.instance, run.run_id))
            elif AUTO_RETRY_RUN_ID_TAG not in run.tags and _seconds_since(record) < RETRY_WAIT_SECONDS:
                # Dagster is about to retry it, so it counts as under way, though no run shows that yet.
                self.active.setdefault(target, run)

    def is_made(self, target: Target) -> bool:
        return target.partition in self.made.get(target.asset, set())


def _seconds_since(record: dg.RunRecord) -> float:
    return time.time() - record.update_timestamp.timestamp()


def _targets(run: dg.DagsterRun) -> list[Target]:
    partition = run.tags.get(PARTITION_NAME_TAG)
    return [Target(asset=asset, partition=partition) for asset in run_assets(run)] if partition else []
