"""Of `headrace inbox`."""

from dataclasses import dataclass

from headrace.generation.inbox_status import InboxStatus
from headrace.inbox.batches.status import BatchesStatus
from headrace.inbox.results import EventResult
from headrace.voice.hours_status import CallsStatus


@dataclass(frozen=True, kw_only=True)
class InboxesBody:
    """`headrace inbox status --json`."""

    inboxes: tuple[InboxStatus, ...]
    batches: tuple[BatchesStatus, ...]
    """Of services that have had batches; none, if one campaign is asked for."""
    calls: tuple[CallsStatus, ...]
    """Of services that record their calls; none, if one campaign is asked for."""


@dataclass(frozen=True, kw_only=True)
class UndeliveredResult:
    """A result that a webhook did not take, and that nobody sends any more."""

    campaign: str
    event: str
    source: str
    position: str
    """As in the stream of results."""
    num_attempts: int
    first_attempt_at: str
    """ISO 8601."""
    reason: str
    """Of the last attempt."""


@dataclass(frozen=True, kw_only=True)
class UndeliveredBody:
    """`headrace inbox undelivered --json`, in the order of results."""

    results: tuple[UndeliveredResult, ...]


# A line of `headrace inbox results`.
ResultBody = EventResult
