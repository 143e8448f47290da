"""The demo's partitions according to the instance: made, under way, failed. Reads Dagster only; launches nothing."""

import time
from collections.abc import Iterable
from dataclasses import dataclass, field

import dagster as dg

from headrace_dagster.project.instance_runs import InstanceRuns
from headrace_dagster.project.run_source import RunState
from pipelines.jobs import assets_made

# A daemon looks for failures every few seconds, but misses those from before its first look at a new instance.
RETRY_WAIT_SECONDS = 120.0


@dataclass(frozen=True, kw_only=True, order=True)
class Target:
    """One partition that the demo wants made."""

    asset: str
    partition: str

    def __str__(self) -> str:
        return f"{self.asset}[{self.partition}]"


@dataclass(kw_only=True)
class Board:
    """The state of the instance at the last `refresh`.

    `since`: failures of runs created before this time (epoch seconds) belong to earlier calls, and are ignored.
    """

    instance: dg.DagsterInstance
    since: float
    made: dict[str, set[str]] = field(default_factory=dict)
    active: dict[Target, RunState] = field(default_factory=dict)
    failed: dict[Target, RunState] = field(default_factory=dict)

    def refresh(self, assets: Iterable[str]) -> None:
        for asset in assets:
            self.made[asset] = self.instance.get_materialized_partitions(dg.AssetKey(asset))
        look = InstanceRuns(self.instance).look(ended_since=self.since)
        self.active = {target: run for run in (*look.waiting.runs, *look.under_way.runs) for target in _targets(run)}
        self.failed = {}
        newest: dict[Target, RunState] = {}
        for run in look.ended:
            if run.created >= self.since and not run.has_succeeded:
                for target in _targets(run):
                    newest.setdefault(target, run)
        for target, run in newest.items():
            if self.is_made(target):
                continue
            if run.has_failed:
                self.failed[target] = run
            elif run.is_retried_soon and time.time() - run.updated < RETRY_WAIT_SECONDS:
                # It counts as under way, though no run shows that yet.
                self.active.setdefault(target, run)

    def is_made(self, target: Target) -> bool:
        return target.partition in self.made.get(target.asset, set())

    def failure_of(self, run: RunState) -> str:
        return InstanceRuns(self.instance).failure_of(run.run_id)


def _targets(run: RunState) -> list[Target]:
    assets = assets_made(run.job_name, run.assets) if run.partition else []
    return [Target(asset=asset, partition=run.partition) for asset in assets]
