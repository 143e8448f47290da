"""Of `headrace inbox`."""

from dataclasses import dataclass

from headrace.generation.event_results import EventResult
from headrace.generation.inbox_status import InboxStatus


@dataclass(frozen=True, kw_only=True)
class InboxesBody:
    """`headrace inbox status --json`."""

    inboxes: tuple[InboxStatus, ...]


# A line of `headrace inbox results`.
ResultBody = EventResult
