"""The runs of an instance as `headrace status` and `headrace run` need them, from whoever has them.

Two sources: the webserver (`webserver.Webserver`), which answers in a fifth of the time that Dagster's import takes,
and the instance itself (`instance_runs.InstanceRuns`). Imports no Dagster.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from headrace_dagster.queue_views.queue_words import name_of, partition_in

NUM_RUNS_MAX = 500
"""Runs of each kind that one look reads, the newest."""
NUM_FAILED_MAX = 50
"""Failed runs whose reasons are asked for: each is a question of its own."""
UNDER_WAY = ("NOT_STARTED", "STARTING", "STARTED", "CANCELING")
WAITING = ("QUEUED",)
ENDED = ("FAILURE", "SUCCESS", "CANCELED")
PARTITION = "dagster/partition"
QUEUE_DAEMON = "QUEUED_RUN_COORDINATOR"
_ENDED_WELL, _ENDED_BADLY = "SUCCESS", frozenset({"FAILURE", "CANCELED"})
_WILL_RETRY, _RETRY_ID = "dagster/will_retry", "dagster/auto_retry_run_id"


@dataclass(frozen=True, kw_only=True)
class RunState:
    """One run as the instance knows it. A failed one that Dagster is about to retry has not ended.

    Times in seconds since the epoch. `tags`: without those that Dagster hides, which a webserver does not tell.
    """

    run_id: str
    status: str
    tags: Mapping[str, str]
    job_name: str = ""
    assets: tuple[str, ...] = ()
    created: float = 0.0
    started: float | None = None
    updated: float = 0.0

    @property
    def name(self) -> str:
        return name_of(self.job_name, self.assets, self.tags)

    @property
    def partition(self) -> str:
        return partition_in(self.tags) or ""

    @property
    def has_succeeded(self) -> bool:
        return self.status == _ENDED_WELL

    @property
    def has_failed(self) -> bool:
        """For good: its retry, if there will be one, is another run."""
        return self.status in _ENDED_BADLY and self.tags.get(_WILL_RETRY) != "true"

    @property
    def retry_id(self) -> str | None:
        """The run that repeats this one."""
        return self.tags.get(_RETRY_ID)

    @property
    def is_retried_soon(self) -> bool:
        return self.status in _ENDED_BADLY and not self.has_failed and _RETRY_ID not in self.tags


@dataclass(frozen=True, kw_only=True)
class RunsFound:
    """At most NUM_RUNS_MAX runs, the newest first, of `num` that there are."""

    runs: Sequence[RunState]
    num: int


@dataclass(frozen=True, kw_only=True)
class RunsLook:
    """`ended`: runs that ended since the asked time. `daemon_seen`: when the queue's daemon last reported, if ever."""

    waiting: RunsFound
    under_way: RunsFound
    ended: Sequence[RunState]
    daemon_seen: float | None


NO_RUNS = RunsLook(waiting=RunsFound(runs=(), num=0), under_way=RunsFound(runs=(), num=0), ended=(), daemon_seen=None)


class RunSource(Protocol):
    def look(self, *, ended_since: float) -> RunsLook: ...

    def failure_of(self, run_id: str) -> str:
        """Why a run failed, by `run_failures.sentence_of`."""
        ...
