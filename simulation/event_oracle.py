"""What windows must hold in the end, worked out from a whole stream at once. Shares no code with what it judges.

Slow on purpose: for each event it goes through everything that came before.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from simulation.event_streams import Sent


@dataclass(frozen=True, kw_only=True)
class TimeRules:
    """Microseconds."""

    window: int
    lateness: int
    idle: int
    skew: int


@dataclass(frozen=True, kw_only=True)
class Expected:
    """Begin of a span → its events' ids on time, and those that are late, sorted by (key, sequence, time, id)."""

    on_time: dict[int, list[str]]
    late: dict[int, list[str]]


def expected_windows(sent: Sequence[Sent], rules: TimeRules) -> Expected:
    """Args: sent: in the order of their arrival, repeated ones too."""
    first: dict[tuple[str, str], Sent] = {}
    for one in sent:
        first.setdefault((one.source, one.id), one)
    arrivals = list(first.values())
    counted = [one.arrives if one.time > one.arrives + rules.skew else one.time for one in arrivals]
    spans: dict[bool, dict[int, list[Sent]]] = {True: {}, False: {}}
    watermark = None
    for index, one in enumerate(arrivals):
        reached = _least_newest(arrivals, counted, index, rules.idle) - rules.lateness
        watermark = reached if watermark is None else max(watermark, reached)
        begins = counted[index] - counted[index] % rules.window
        spans[begins + rules.window <= watermark].setdefault(begins, []).append(one)
    on_time, late = (
        {begins: _in_order(found) for begins, found in spans[is_late].items()} for is_late in (False, True)
    )
    return Expected(on_time=on_time, late=late)


def _least_newest(arrivals: Sequence[Sent], counted: Sequence[int], last: int, idle: int) -> int:
    """Over the sources that are not idle when `last` arrives: the newest time since each was last idle."""
    now = arrivals[last].arrives
    newest: dict[str, int] = {}
    heard: dict[str, int] = {}
    for one, time in zip(arrivals[: last + 1], counted, strict=False):
        was_idle = one.source not in heard or heard[one.source] + idle <= one.arrives
        newest[one.source] = time if was_idle else max(newest[one.source], time)
        heard[one.source] = one.arrives
    return min(time for source, time in newest.items() if heard[source] + idle > now)


def _in_order(found: Sequence[Sent]) -> list[str]:
    return [one.id for one in sorted(found, key=lambda one: (one.key, one.sequence, one.time, one.id))]
