"""Puts the events of one campaign into windows of event time, and closes them. Pure: time is an argument.

The watermark says that no source should have earlier events. It is the least, over the sources, of the source's newest
event time less the allowed lateness, and it never goes back. A source without events for `idle_seconds` is left out,
and begins anew when it returns. An event whose time is further ahead of its arrival than `skew_seconds` counts as of
its arrival, here and for its window: one clock that runs ahead would otherwise make everybody else late.

A window covers a span of event time. It is closed by the watermark, once that has reached its end; by rows, once it is
full, of events or of their bytes; or by seconds, so long after its first event came in. A window that was closed early
is followed by another of the same span. An event is late if the watermark had reached its span's end when it arrived;
nothing else makes it late. It goes to a late part of the newest window of its span, which is closed by rows or seconds.
A span of which every event is late has a window of late parts alone. A caller may keep events in time of one span
apart, in lanes.

Where events are made by the process that takes them (`ClockRules`), its clock is the only source, and says something
also when no event does.

Knows nothing of duplicates: whoever calls it has taken them out. Costs a look at one source an event, however many
sources there are, and memory for each that is not idle and each window that is open.
"""

import heapq
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Protocol

from headrace.inbox.rules import WINDOW_BYTES_MAX, InboxRules
from headrace.inbox.sealed import ClosedBy

_MICROSECONDS = 1_000_000
# The source of windows that are closed by the clock.
_CLOCK = ""
SpanKey = tuple[int, int]
# Begins, ends, whether it is late, lane.
_OpenKey = tuple[int, int, bool, str]


@dataclass(slots=True)
class Source:
    """Microseconds since the epoch: its newest event's time since it was last idle, and when its last one arrived.

    `epoch` tells its present entry in the heap from one of before it was idle.
    """

    newest: int
    heard: int
    epoch: int = 0


@dataclass(slots=True)
class Span:
    """The newest window of a span of event time, and how many late parts it has."""

    window: int
    num_late_parts: int = 0


@dataclass(slots=True)
class Part:
    """A window (`late_part` 0), or a late part of one. Times are microseconds since the epoch.

    Attributes:
        part: unique in its log.
        opened_at: when its first event arrived.
        number: its place in the campaign's chain, given when it is closed; 0: it is open.
        lane: what its events have in common, such as one tenant; empty: nothing.
        num_bytes: of its events, about; after a restart what the log keeps of them.
    """

    part: int
    window: int
    late_part: int
    begins: int
    ends: int
    opened_at: int
    num_events: int = 0
    closed_by: ClosedBy | None = None
    number: int = 0
    lane: str = ""
    num_bytes: int = field(default=0, compare=False)


@dataclass
class Standing:
    """What a campaign's windows stand at, beside its sources, open parts and spans."""

    watermark: int | None = None
    next_window: int = 1
    next_number: int = 1


@dataclass
class Changes:
    """What has changed since the last look.

    Attributes:
        gone: sources that are forgotten.
        has_moved: the watermark has.
    """

    standing: Standing
    parts: dict[int, Part] = field(default_factory=dict)
    sources: dict[str, Source] = field(default_factory=dict)
    gone: set[str] = field(default_factory=set)
    spans: dict[SpanKey, Span] = field(default_factory=dict)
    has_moved: bool = False

    def __bool__(self) -> bool:
        return bool(self.parts or self.sources or self.gone or self.has_moved)


class Spans(Protocol):
    """All spans that ever had a window."""

    def get(self, key: SpanKey, /) -> Span | None: ...


class Windows:
    """Used from one thread.

    Args:
        new_part: numbers parts; unique among all campaigns of a log.
        spans: those of before; changes to them are in `take_changes`.
        standing, sources, parts: as `take_changes` gave them out; parts that are closed are ignored.
    """

    def __init__(
        self,
        rules: InboxRules,
        *,
        new_part: Callable[[], int],
        spans: Spans,
        standing: Standing | None = None,
        sources: dict[str, Source] | None = None,
        parts: Iterable[Part] = (),
    ) -> None:
        self._rules = rules
        self._length = rules.window_seconds * _MICROSECONDS
        self._lateness, self._idle, self._skew, self._closes_after = (
            int(seconds * _MICROSECONDS)
            for seconds in (rules.lateness_seconds, rules.idle_seconds, rules.skew_seconds, rules.closes_after_seconds)
        )
        self._new_part, self._spans = new_part, spans
        self.standing = standing or Standing()
        self._sources = sources or {}
        # One entry a source: a time that its newest event has reached, its epoch and its name.
        self._least = [(source.newest, source.epoch, name) for name, source in self._sources.items()]
        heapq.heapify(self._least)
        self._epoch = max((source.epoch for source in self._sources.values()), default=0)
        self._open = {_key_of(part): part for part in parts if not part.closed_by}
        self._changes = Changes(self.standing)
        self._set_next()

    @property
    def open_parts(self) -> list[Part]:
        return list(self._open.values())

    @property
    def sources(self) -> dict[str, Source]:
        """Those that are not idle, as of the last event or the last `advance`."""
        return self._sources

    def place(self, time: int | None, source: str, now: int, lane: str = "", num_bytes: int = 0) -> Part:
        """The part that the event belongs to, which may have been closed by it.

        Args:
            time: of the event, microseconds since the epoch; None: it happened when it arrived.
            now: when it arrived.
            lane: events in time of different lanes go to different windows of their span.
            num_bytes: of the event.
        """
        at = now if time is None or time > now + self._skew else time
        if not self._rules.is_by_clock:
            self._hear(source, at, now)
        self.advance(now)
        begins = at // self._length * self._length
        ends = begins + self._length
        watermark = self.standing.watermark
        is_late = watermark is not None and ends <= watermark
        key = (begins, ends, is_late, "" if is_late else lane)
        part = self._open.get(key) or self._begin(key, now)
        part.num_events += 1
        part.num_bytes += num_bytes
        self._changes.parts[part.part] = part
        if part.num_events >= self._rules.rows_max or part.num_bytes >= WINDOW_BYTES_MAX:
            self._close(part, "rows")
            self._set_next()
        return part

    def advance(self, now: int) -> None:
        """Closes what is to be closed by now, in the order of the windows' ends."""
        # Only where it closes something, so that an idle log is not written.
        if self._rules.is_by_clock and now - self._lateness >= self._next_end:
            self._hear(_CLOCK, now, now)
        self._move_watermark(now)
        watermark = self.standing.watermark
        if watermark is not None and watermark >= self._next_end:
            reached = [part for part in self._open.values() if not part.late_part and part.ends <= watermark]
            for part in sorted(reached, key=lambda one: (one.ends, one.window)):
                self._close(part, "watermark")
            self._set_next()
        if now >= self._next_seconds:
            waited = [part for part in self._open.values() if part.opened_at + self._closes_after <= now]
            for part in sorted(waited, key=lambda one: (one.ends, one.window, one.late_part)):
                self._close(part, "seconds")
            self._set_next()

    def take_changes(self) -> Changes:
        """What changed since the last call; the caller keeps it."""
        taken, self._changes = self._changes, Changes(self.standing)
        return taken

    def _hear(self, name: str, at: int, now: int) -> None:
        source = self._sources.get(name)
        if source is None or source.heard + self._idle <= now:
            self._epoch += 1
            self._sources[name] = source = Source(at, now, self._epoch)
            heapq.heappush(self._least, (at, self._epoch, name))
            self._changes.gone.discard(name)
        else:
            source.newest, source.heard = max(source.newest, at), now
        self._changes.sources[name] = source

    def _move_watermark(self, now: int) -> None:
        while self._least:
            newest, epoch, name = self._least[0]
            source = self._sources.get(name)
            if source is None or source.epoch != epoch:
                heapq.heappop(self._least)
            elif source.heard + self._idle <= now:
                heapq.heappop(self._least)
                del self._sources[name]
                self._changes.sources.pop(name, None)
                self._changes.gone.add(name)
            elif source.newest > newest:
                heapq.heapreplace(self._least, (source.newest, epoch, name))
            else:
                reached = newest - self._lateness
                if self.standing.watermark is None or reached > self.standing.watermark:
                    self.standing.watermark, self._changes.has_moved = reached, True
                return

    def _begin(self, open_key: _OpenKey, now: int) -> Part:
        begins, ends, is_late, lane = open_key
        key = (begins, ends)
        span = (self._changes.spans.get(key) or self._spans.get(key)) if is_late else None
        if span is None:
            span = Span(self.standing.next_window)
            self.standing.next_window += 1
        if is_late:
            span = Span(span.window, span.num_late_parts + 1)
        self._changes.spans[key] = span
        part = Part(self._new_part(), span.window, span.num_late_parts, begins, ends, now, lane=lane)
        self._open[open_key] = part
        # Not by a look at all: whoever sends an event for each hour of ten years opens as many parts.
        if not part.late_part:
            self._next_end = min(self._next_end, ends)
        self._next_seconds = min(self._next_seconds, now + self._closes_after)
        return part

    def _close(self, part: Part, closed_by: ClosedBy) -> None:
        part.closed_by, part.number = closed_by, self.standing.next_number
        self.standing.next_number += 1
        self._changes.parts[part.part] = part
        del self._open[_key_of(part)]

    def _set_next(self) -> None:
        """The least watermark, and the least moment, at which an open part is to be closed."""
        ends = (part.ends for part in self._open.values() if not part.late_part)
        self._next_end = min(ends, default=1 << 62)
        self._next_seconds = min((part.opened_at for part in self._open.values()), default=1 << 62) + self._closes_after


def _key_of(part: Part) -> _OpenKey:
    return part.begins, part.ends, part.late_part > 0, part.lane
