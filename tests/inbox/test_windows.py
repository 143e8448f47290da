"""Windows of event time against an oracle that sees the whole stream, and each rule by itself."""

from collections import defaultdict
from itertools import count
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.inbox.rules import WINDOW_BYTES_MAX
from headrace.inbox.windows import Part, Span, SpanKey, Windows
from simulation.event_oracle import Expected, expected_windows
from simulation.event_streams import SECOND, START, Sent, StreamShape, stream
from simulation.inbox_site import time_rules
from tests.inbox.builders import make_rules


class Filled:
    """Windows with what was put into each part."""

    def __init__(self, **rules: Any) -> None:
        self.rules = make_rules(**rules)
        self.spans: dict[SpanKey, Span] = {}
        self.windows = Windows(self.rules, new_part=count(1).__next__, spans=self.spans)
        self.events: defaultdict[int, list[Sent]] = defaultdict(list)
        self.parts: dict[int, Part] = {}
        self._seen: set[tuple[str, str]] = set()

    def put(self, sent: Sent) -> Part:
        part = self.windows.place(sent.time, sent.source, sent.arrives)
        self.events[part.part].append(sent)
        self._keep()
        return part

    def put_once(self, sent: Sent) -> None:
        if (sent.source, sent.id) not in self._seen:
            self._seen.add((sent.source, sent.id))
            self.put(sent)

    def at(self, seconds: float) -> None:
        """Time passes, without an event."""
        self.windows.advance(START + int(seconds * SECOND))
        self._keep()

    def again(self) -> None:
        """As after a restart: from what was kept alone."""
        self.windows = Windows(
            self.rules,
            new_part=count(max(self.parts, default=0) + 1).__next__,
            spans=self.spans,
            standing=self.windows.standing,
            sources=dict(self.windows.sources),
            parts=[part for part in self.parts.values() if not part.closed_by],
        )

    @property
    def found(self) -> Expected:
        sorted_ids: dict[bool, dict[int, list[str]]] = {True: {}, False: {}}
        for is_late in (True, False):
            spans: defaultdict[int, list[Sent]] = defaultdict(list)
            for part in self.parts.values():
                if (part.late_part > 0) == is_late:
                    spans[part.begins] += self.events[part.part]
            for begins, sent in spans.items():
                order = sorted(sent, key=lambda one: (one.key, one.sequence, one.time, one.id))
                sorted_ids[is_late][begins] = [one.id for one in order]
        return Expected(on_time=sorted_ids[False], late=sorted_ids[True])

    @property
    def closed(self) -> list[Part]:
        """In the order of their closing."""
        return sorted((part for part in self.parts.values() if part.number), key=lambda part: part.number)

    def _keep(self) -> None:
        changes = self.windows.take_changes()
        self.parts |= changes.parts
        self.spans |= changes.spans


def sent(seconds: float, *, at: float | None = None, source: str = "shop", event: str = "a") -> Sent:
    """Of this many seconds after the start; it arrives at once unless `at` says when."""
    time, arrives = START + int(seconds * SECOND), START + int((seconds if at is None else at) * SECOND)
    return Sent(arrives=arrives, time=time, source=source, id=event, key="", sequence=0)


@pytest.mark.parametrize("seed", range(60))
def test_every_event_is_in_the_window_that_an_oracle_of_the_whole_stream_names(seed: int) -> None:
    filled = Filled(rows_max=9 if seed % 2 else 10_000)
    arrivals = stream(seed, StreamShape(num_events=250, num_sources=1 + seed % 4))
    for number, one in enumerate(arrivals):
        if seed % 3 == 0 and number % 40 == 0:
            filled.again()
        filled.put_once(one)
    assert filled.found == expected_windows(arrivals, time_rules(filled.rules))
    assert [part.number for part in filled.closed] == list(range(1, len(filled.closed) + 1))
    assert all(part.num_events == len(filled.events[part.part]) for part in filled.parts.values())


@given(
    st.lists(
        st.tuples(st.integers(0, 90), st.integers(0, 120), st.sampled_from(["shop", "web", "post"])),
        min_size=1,
        max_size=60,
    ),
    st.integers(1, 5),
)
def test_no_order_of_arrivals_puts_an_event_elsewhere(drawn: list[tuple[int, int, str]], rows_max: int) -> None:
    filled = Filled(rows_max=rows_max, idle_seconds=20.0)
    arrivals = [
        sent(time, at=arrives, source=source, event=str(number))
        for number, (time, arrives, source) in enumerate(sorted(drawn, key=lambda one: one[1]))
    ]
    for one in arrivals:
        filled.put_once(one)
    assert filled.found == expected_windows(arrivals, time_rules(filled.rules))
    assert all(part.num_events <= rows_max for part in filled.parts.values())


def test_a_window_is_closed_once_no_source_has_earlier_events() -> None:
    filled = Filled()
    first = filled.put(sent(1))
    filled.put(sent(1, source="web"))
    filled.put(sent(25))
    assert first.closed_by is None, "the other source may still send earlier ones"
    filled.put(sent(20, at=26, source="web"))
    assert (first.closed_by, first.number) == ("watermark", 1)


def test_a_source_that_sends_nothing_for_long_holds_nobody_back() -> None:
    filled = Filled(idle_seconds=30.0)
    first = filled.put(sent(1))
    filled.put(sent(1, source="web"))
    filled.put(sent(30))
    assert first.closed_by is None
    filled.at(31)
    assert first.closed_by == "watermark"


def test_a_source_that_returns_does_not_take_the_watermark_back() -> None:
    filled = Filled(idle_seconds=30.0)
    filled.put(sent(1, source="web"))
    filled.put(sent(100))
    late = filled.put(sent(2, at=101, source="web"))
    assert late.late_part == 1
    assert filled.put(sent(95, at=102)).late_part == 0


def test_a_clock_that_runs_ahead_makes_nobody_late() -> None:
    filled = Filled()
    filled.put(sent(1))
    next_year = filled.put(sent(365 * 86_400, at=2, source="shop"))
    assert next_year.begins == START, "it counts as of its arrival"
    assert filled.put(sent(3, at=3)).late_part == 0


def test_a_full_window_is_followed_by_another_of_the_same_span() -> None:
    filled = Filled(rows_max=2)
    parts = [filled.put(sent(second, event=str(second))) for second in range(5)]
    assert [part.window for part in parts] == [1, 1, 2, 2, 3]
    assert [part.late_part for part in parts] == [0] * 5
    assert [part.closed_by for part in filled.closed] == ["rows", "rows"]


def test_a_window_that_no_watermark_reaches_is_closed_by_seconds() -> None:
    filled = Filled(close_seconds=60.0)
    alone = filled.put(sent(1))
    filled.at(60.9)
    assert alone.closed_by is None
    filled.at(61)
    assert alone.closed_by == "seconds"
    assert filled.put(sent(2, at=62)).window == 2, "on time, since the watermark never passed its span"


def test_late_events_go_to_parts_of_the_newest_window_of_their_span() -> None:
    filled = Filled(close_seconds=30.0)
    filled.put(sent(1))
    filled.put(sent(50))
    first = filled.put(sent(2, at=51, event="b"))
    again = filled.put(sent(3, at=52, event="c"))
    assert first is again
    assert (first.window, first.late_part) == (1, 1)
    filled.at(81)
    assert first.closed_by == "seconds"
    assert (second := filled.put(sent(4, at=82, event="d"))).late_part == 2
    assert second.window == 1


def test_a_span_of_late_events_alone_has_a_number_of_its_own() -> None:
    filled = Filled()
    filled.put(sent(100))
    late = filled.put(sent(1, at=101))
    assert (late.window, late.late_part) == (2, 1)


def test_windows_are_closed_in_the_order_of_their_ends() -> None:
    filled = Filled(lateness_seconds=30.0)
    for second in (25, 5, 15):
        filled.put(sent(second, at=25.0, event=str(second)))
    filled.put(sent(60, event="d"))
    assert [part.begins for part in filled.closed] == sorted(part.begins for part in filled.closed)
    assert len(filled.closed) == 3


def test_many_sources_cost_a_look_at_one_of_them() -> None:
    """Each source is heard once; those that are idle are forgotten."""
    filled = Filled(idle_seconds=1.0)
    for number in range(20_000):
        filled.put(sent(number / 1_000, source=f"till-{number}", event=str(number)))
    assert len(filled.windows.sources) <= 1_001


def test_a_window_is_closed_by_its_bytes_before_whoever_seals_it_runs_out_of_memory() -> None:
    windows = Filled(rows_max=1_000).windows
    large = WINDOW_BYTES_MAX // 2
    first = windows.place(START, "shop", START, num_bytes=large)
    windows.place(START, "shop", START, num_bytes=large - 1)
    assert first.closed_by is None
    assert windows.place(START, "shop", START, num_bytes=1) is first
    assert first.closed_by == "rows"
    assert first.num_events == 3
    second = windows.place(START, "shop", START, num_bytes=1)
    assert (second.window, second.begins, second.closed_by) == (2, first.begins, None)


def test_events_of_spans_without_end_cost_each_a_look_at_its_own_part() -> None:
    class Looks(dict[Any, Part]):
        """Counts looks at all open parts."""

        num = 0

        def values(self) -> Any:
            Looks.num += 1
            return super().values()

    windows = Filled(window_seconds=60, close_seconds=600).windows
    windows._open = Looks()
    windows.place(START, "shop", START)
    for number in range(200):
        windows.place(number * 60 * SECOND, "archive", START)
    assert Looks.num < 10
    assert len(windows.open_parts) == 201
    windows.advance(START + 600 * SECOND)
    assert windows.open_parts == []
