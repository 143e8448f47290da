"""Of `headrace status`."""

from dataclasses import dataclass
from typing import Literal

from headrace.generation.day_status import DayStatus

RunPhase = Literal["waiting", "admitted", "starting", "running", "silent", "ending"]


@dataclass(frozen=True, kw_only=True)
class RunStanding:
    """A run that waits or is under way; `headrace why RUN_ID` tells more of it."""

    run_id: str
    name: str
    """Its job, or its assets, with its partition."""
    job: str | None
    """null: a run of assets."""
    partition: str | None
    state: RunPhase
    """waiting: in the queue. admitted: has its place, and is about to be launched. silent: gives no sign of life."""
    status: str
    """Dagster's."""
    why: str
    """One sentence: what it waits for, as the coordinator wrote it last, or what it does."""
    submitted: str
    since: str | None
    """When it started."""


@dataclass(frozen=True, kw_only=True)
class FailedRun:
    run_id: str
    name: str
    partition: str | None
    ended: str
    reason: str
    """Of its first failed step, else of the run."""
    run: str | None
    """The command that makes a content partition again; null: launch it in the UI."""


@dataclass(frozen=True, kw_only=True)
class StatusBody:
    """`headrace status --json`. Times: UTC, ISO 8601."""

    at: str
    knows_runs: bool
    """false: DAGSTER_HOME is not set, and no run is told."""
    daemon_silent_seconds: float | None
    """null: the daemon that launches runs has reported lately; -1: never."""
    days: tuple[DayStatus, ...]
    rollouts: dict[str, str]
    """By campaign or service, in words."""
    running: tuple[RunStanding, ...]
    """At most 500, oldest first; as for waiting."""
    num_running: int
    waiting: tuple[RunStanding, ...]
    num_waiting: int
    failed: tuple[FailedRun, ...]
    """In the last day, where no later run of the same job has made the partition."""
