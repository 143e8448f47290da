"""Of `headrace inbox`."""

from dataclasses import dataclass

from headrace.generation.inbox_status import InboxStatus
from headrace.inbox.results import EventResult


@dataclass(frozen=True, kw_only=True)
class InboxesBody:
    """`headrace inbox status --json`."""

    inboxes: tuple[InboxStatus, ...]


# A line of `headrace inbox results`.
ResultBody = EventResult
