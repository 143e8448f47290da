"""Streams of events as producers send them: out of order, twice, late, with clocks that run ahead. Seeded.

Times are microseconds since the epoch; a stream is sorted by arrival. Nothing here knows of windows.
"""

import random
from dataclasses import dataclass, replace

SECOND = 1_000_000
# A Saturday, 23:50 UTC: windows cross midnight.
START = 1_790_466_600 * SECOND


@dataclass(frozen=True, kw_only=True)
class Sent:
    """One sending of an event. `arrives` and `time`: when it comes in, and when it says that it happened."""

    arrives: int
    time: int
    source: str
    id: str
    key: str
    sequence: int


@dataclass(frozen=True, kw_only=True)
class StreamShape:
    """`shuffle_seconds`: what delays most events at most. Shares are of all events.

    Attributes:
        late_share: of events that come `late_seconds` to three times as much after they happened.
        twice_share: of events that are sent a second time, up to a minute later.
        ahead_share: of events whose clock is a year ahead.
    """

    num_events: int = 300
    num_sources: int = 3
    seconds: float = 240.0
    shuffle_seconds: float = 10.0
    late_share: float = 0.01
    late_seconds: float = 60.0
    twice_share: float = 0.02
    ahead_share: float = 0.003


def stream(seed: int, shape: StreamShape | None = None) -> list[Sent]:
    """The same for the same seed and shape, on every machine."""
    draw, shape = random.Random(seed), shape or StreamShape()
    sent: list[Sent] = []
    for number in range(shape.num_events):
        happens = START + int(draw.random() * shape.seconds * SECOND)
        delay = draw.random() * shape.shuffle_seconds
        if draw.random() < shape.late_share:
            delay = shape.late_seconds * (1 + 2 * draw.random())
        is_ahead = draw.random() < shape.ahead_share
        event = Sent(
            arrives=happens + int(delay * SECOND),
            time=happens + (365 * 86_400 * SECOND if is_ahead else 0),
            source=f"shop-{draw.randrange(shape.num_sources)}",
            id=f"order-{number}",
            key=f"customer-{draw.randrange(5)}",
            sequence=draw.randrange(3),
        )
        sent.append(event)
        if draw.random() < shape.twice_share:
            sent.append(replace(event, arrives=event.arrives + int(draw.random() * 60 * SECOND)))
    return sorted(sent, key=lambda one: one.arrives)
