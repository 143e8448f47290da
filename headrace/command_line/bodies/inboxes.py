"""Of `headrace inbox`."""

from dataclasses import dataclass

from headrace.generation.event_results import EventResult
from headrace.generation.inbox_status import InboxStatus
from headrace.inbox.batches.status import BatchesStatus


@dataclass(frozen=True, kw_only=True)
class InboxesBody:
    """`headrace inbox status --json`."""

    inboxes: tuple[InboxStatus, ...]
    batches: tuple[BatchesStatus, ...]
    """Of services that have had batches; none, if one campaign is asked for."""


# A line of `headrace inbox results`.
ResultBody = EventResult
