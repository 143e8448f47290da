"""Why a run failed, in one sentence, by one rule; the instance and its webserver tell the events.

Imports no Dagster: a command that asks a webserver starts without it.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dagster import DagsterInstance


@dataclass(frozen=True, kw_only=True)
class FailureEvent:
    """A step's failure, or the run's. `description`: of a `dg.Failure`; `error`: its cause's message, or its own."""

    of_step: bool
    description: str | None = None
    error: str | None = None
    message: str | None = None

    @property
    def sentence(self) -> str | None:
        return self.description or (self.error or "").strip() or self.message


def sentence_of(events: Iterable[FailureEvent]) -> str:
    """Of the first failed step that says anything, else of the run. Takes events in their order."""
    ordered = sorted(events, key=lambda event: not event.of_step)
    return next((sentence for event in ordered if (sentence := event.sentence)), "no reason recorded")


def failure_of(instance: "DagsterInstance", run_id: str) -> str:
    from dagster import DagsterEventType

    return sentence_of(
        _event(entry.dagster_event, of_step=kind == DagsterEventType.STEP_FAILURE)
        for kind in (DagsterEventType.STEP_FAILURE, DagsterEventType.RUN_FAILURE)
        for entry in instance.all_logs(run_id, of_type=kind)
    )


def _event(event: object, *, of_step: bool) -> FailureEvent:
    data = getattr(event, "event_specific_data", None)
    error = getattr(data, "error", None)
    # Dagster wraps what a step raises.
    cause = error.cause or error if error else None
    return FailureEvent(
        of_step=of_step,
        description=getattr(getattr(data, "user_failure_data", None), "description", None),
        error=cause.message if cause else None,
        message=getattr(event, "message", None),
    )
