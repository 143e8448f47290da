"""What a message of a stream says: a CloudEvent, in JSON (structured) or with its attributes as headers (binary).

Attributes are those of `headrace.inbox.events`. `campaign` may be left out, since the stream is the campaign's. In
binary form each is a header `ce-NAME`, percent-encoded, and the message is the data.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

from pydantic_core import from_json

from headrace.inbox.events import Event, Refused, event_of

MESSAGE_BYTES_MAX = 8 * 2**20
"""As of a request's body."""
_PREFIX = "ce-"


@dataclass(frozen=True, kw_only=True, slots=True)
class Message:
    """One message of a stream.

    Attributes:
        sequence: its number in the stream.
        written_at: when the stream took it, nanoseconds since the epoch.
        delivery: its number among its consumer's deliveries; 0: it was read from the stream itself.
        reply: where it is acknowledged; empty: it was read from the stream itself.
        num_behind: messages behind it that the consumer has not delivered.
    """

    sequence: int
    written_at: int
    subject: str
    data: bytes
    headers: Mapping[str, str] = field(default_factory=dict)
    delivery: int = 0
    reply: str = ""
    num_behind: int = 0


def event_of_message(message: Message, *, campaign: str, tenant: str) -> Event | Refused:
    """Args: campaign: whose stream it is. tenant: of an event that names none."""
    if len(message.data) > MESSAGE_BYTES_MAX:
        return Refused(f"it must have at most {MESSAGE_BYTES_MAX:,} bytes, got {len(message.data):,}")
    try:
        content: Any = from_json(message.data, allow_inf_nan=False)
    except ValueError as error:
        return Refused(f"it must be JSON: {error}")
    attributes = {
        name.lower().removeprefix(_PREFIX): unquote(value)
        for name, value in message.headers.items()
        if name.lower().startswith(_PREFIX)
    }
    if attributes:
        content = {**attributes, "data": content}
    if type(content) is dict:
        content.setdefault("campaign", campaign)
        if (named := content["campaign"]) != campaign:
            return Refused(f"campaign must be {campaign!r}, whose stream this is, or be left out, got {named!r:.80}")
    return event_of(content, tenant=tenant)
