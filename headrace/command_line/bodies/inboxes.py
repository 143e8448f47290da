"""Of `headrace inbox`."""

from dataclasses import dataclass

from headrace.generation.inbox_status import InboxStatus
from headrace.inbox.batches.status import BatchesStatus
from headrace.inbox.results import EventResult
from headrace.voice.hours_status import CallsStatus


@dataclass(frozen=True, kw_only=True)
class StreamStatus:
    """A campaign's stream of NATS JetStream, as the log of its gateway knows it."""

    campaign: str
    stream: str
    sequence: int
    """Of the last message that was read."""
    written_at: str | None
    """ISO 8601, when the stream took that message; null: none was read yet, or it went before it was."""
    num_refused: int
    """Messages that are no events, and are kept: `headrace inbox refused`."""
    note: str | None
    """What of the stream was found to be missing last; null: nothing ever was."""


@dataclass(frozen=True, kw_only=True)
class InboxesBody:
    """`headrace inbox status --json`."""

    inboxes: tuple[InboxStatus, ...]
    batches: tuple[BatchesStatus, ...]
    """Of services that have had batches; none, if one campaign is asked for."""
    streams: tuple[StreamStatus, ...]
    """Of the log that --inbox-log names; none without it."""
    calls: tuple[CallsStatus, ...]
    """Of services that record their calls; none, if one campaign is asked for."""


@dataclass(frozen=True, kw_only=True)
class RefusedStreamMessage:
    """A message of a campaign's stream that is no event."""

    campaign: str
    stream: str
    sequence: int
    subject: str
    reason: str
    refused_at: str
    """ISO 8601."""
    text: str | None
    """Its first 16 KiB, as UTF-8; null: erased."""


@dataclass(frozen=True, kw_only=True)
class RefusedBody:
    """`headrace inbox refused --json`, in the order in which they were refused."""

    messages: tuple[RefusedStreamMessage, ...]


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
