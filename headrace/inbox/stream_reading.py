"""Which message of a stream comes next: each once, in the stream's order, whatever its broker delivers.

JetStream delivers what nobody has acknowledged again, in no stated order and behind newer messages, and takes an
acknowledgement from whoever sends one. So a delivery follows what was read only if every delivery of the consumer
before it was seen, too; else something between may be under way to somebody who is gone. Then the stream itself is read
up to the last message that its consumer ever delivered: what is delivered again of these is known.

Pure: knows neither connections nor time.
"""

from dataclasses import dataclass, replace
from typing import Literal

from headrace.errors import InvalidInput
from headrace.inbox.streams import StreamPosition

Place = Literal["known", "next", "behind a gap"]


@dataclass(frozen=True, kw_only=True)
class StreamFacts:
    """A stream as its server describes it.

    Attributes:
        first, last: the sequences of what it has; an empty one has `first` = `last` + 1.
        is_kept: messages stay, whoever has acknowledged them, until a limit is reached.
        written_at: when the message was written that the position names, nanoseconds; None: it is not there any more.
    """

    name: str
    made_at: str
    first: int
    last: int
    is_kept: bool = True
    written_at: int | None = None


class Reading:
    """Attributes: sequence: of the last message that was read."""

    def __init__(self, sequence: int) -> None:
        self.sequence = sequence
        # The last delivery that was seen, with all before it; None: some were not.
        self._delivery: int | None = None

    def place(self, sequence: int, delivery: int) -> Place:
        """Where a delivered message belongs. `next` ones are read by that; `behind a gap`: ask again after `caught_up`.

        Args:
            sequence: in the stream.
            delivery: its number among the consumer's deliveries.
        """
        if self._delivery is None or delivery != self._delivery + 1:
            if self._delivery is not None and delivery > self._delivery:
                self._delivery = None  # one between was not seen
            return "known" if sequence <= self.sequence else "behind a gap"
        self._delivery = delivery
        if sequence <= self.sequence:
            return "known"
        self.sequence = sequence
        return "next"

    def caught_up(self, sequence: int, delivery: int) -> None:
        """Everything of the stream up to `sequence` was read, the last one that was delivered by then.

        Args: delivery: the number of deliveries by then.
        """
        self.sequence = max(self.sequence, sequence)
        self._delivery = delivery


def begun(known: StreamPosition | None, found: StreamFacts, *, campaign: str, begins_now: bool) -> StreamPosition:
    """Where to go on. A note that is new says what is not read any more, or is read again.

    Args:
        known: by the log; None: nothing was ever read of a stream for the campaign.
        begins_now: a stream that was never read begins with its next message.

    Raises: InvalidInput: the stream cannot be read so.
    """
    fresh = StreamPosition(campaign=campaign, stream=found.name, made_at=found.made_at)
    if begins_now and not found.is_kept:
        raise InvalidInput(
            f"begins: now would drop what stream {found.name} has, which goes once it is acknowledged (its retention "
            "is workqueue or interest). Purge it, or leave begins out."
        )
    if known is None:
        # What went before anybody asked for it is nobody's loss.
        return replace(fresh, sequence=found.last if begins_now else max(found.first - 1, 0))
    if known.stream != found.name:
        note = f"Stream {found.name} is read in place of {known.stream}, from its first message on."
        return replace(fresh, note=note)
    if known.made_at != found.made_at:
        note = (
            f"Stream {found.name} was made anew at {found.made_at}, and is read from its first message on; what the "
            f"former one had behind message {known.sequence:,} was not read."
        )
        return replace(fresh, note=note)
    is_other = bool(known.written_at) and found.written_at is not None and found.written_at != known.written_at
    if known.sequence > found.last or is_other:
        what = f"it ends with {found.last:,}" if known.sequence > found.last else "that is another one now"
        note = (
            f"Stream {found.name} has lost messages: it was read up to {known.sequence:,}, and {what}. It is read "
            "again from its first message on; events that are known are not taken twice."
        )
        return replace(fresh, note=note)
    return known


def missing(sequence: int, following: int, found: StreamFacts, *, subject: str | None) -> tuple[int, str]:
    """How many messages between two that follow each other are gone, and a sentence on them; 0: none that is known of.

    Where only some subjects are read, others' messages are always between; and a stream that drops what was
    acknowledged has fewer of these.

    Args: sequence, following: of the message that was read, and of the next one that is there.
    """
    num_purged = min(found.first, following) - 1 - sequence
    num = following - 1 - sequence
    if subject is not None:
        num = num_purged if found.is_kept else 0
    if num <= 0:
        return 0, ""
    what = (
        f"{num:,} messages of stream {found.name}, from {sequence + 1:,} on, are"
        if num > 1
        else (f"Message {sequence + 1:,} of stream {found.name} is")
    )
    why = "it was purged, or keeps no more" if num_purged > 0 else "they were deleted" if num > 1 else "it was deleted"
    among = "" if subject is None else f" (those of other subjects than {subject} among them)"
    return num, f"{what} gone{among}, and {'were' if num > 1 else 'was'} not read: {why}."
