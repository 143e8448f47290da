"""Who may keep a gateway waiting, for how long, and who gives way: the rules, on a clock that moves when told."""

from typing import Any

import pytest

from headrace.serving.gateway.connections import NUM_HEALTH_CONNECTIONS, Connections, Wait
from headrace.serving.service import Limits
from tests.serving.builders import HandClock


class Seat:
    """A connection that only remembers what it was told."""

    def __init__(self) -> None:
        self.is_open = False
        self.waits_for: Wait | None = None
        self.told: list[Any] = []

    def waited_too_long(self, wait: Wait, seconds: float) -> None:
        self.told.append((wait, seconds))

    def give_way(self) -> None:
        self.told.append("give way")


class Room:
    """Connections with everything that they are told."""

    def __init__(self, *, num_max: int = 3) -> None:
        self.clock = HandClock()
        self.events: list[dict[str, Any]] = []
        self.counts: list[str] = []
        self.connections = Connections(
            Limits(head_seconds_max=10.0, body_seconds_max=30.0, idle_seconds_max=75.0, stalled_seconds_max=5.0),
            num_max=num_max,
            clock=self.clock,
            event=lambda name, **fields: self.events.append({"event": name, **fields}),
            count=self.counts.append,
        )

    def open(self, wait: Wait | None = Wait.HEAD) -> Seat:
        seat = Seat()
        self.connections.opened(seat)
        self.connections.wait(seat, wait)
        self.clock.seconds += 0.001
        return seat

    def pass_time(self, seconds: float) -> None:
        self.clock.seconds += seconds
        self.connections.look()


@pytest.mark.parametrize(
    ("wait", "seconds"), [(Wait.HEAD, 10.0), (Wait.BODY, 30.0), (Wait.NEXT, 75.0), (Wait.CLOSE, 2.0)]
)
def test_each_kind_of_waiting_has_its_limit(wait: Wait, seconds: float) -> None:
    room = Room()
    seat = room.open(wait)
    room.pass_time(seconds - 0.1)
    assert seat.told == []
    room.pass_time(0.2)
    assert seat.told == [(wait, seconds)]
    room.pass_time(1000)
    assert len(seat.told) == 1


def test_a_client_that_waits_for_the_gateway_has_no_limit_here() -> None:
    room = Room()
    seat = room.open(None)
    room.pass_time(1000)
    assert seat.told == []


def test_a_client_that_does_not_read_is_told_whatever_else_it_waits_for() -> None:
    room = Room()
    seat = room.open(None)
    room.connections.wait_for_room(seat, is_full=True)
    room.pass_time(4)
    room.connections.wait_for_room(seat, is_full=False)
    room.pass_time(4)
    assert seat.told == []
    room.connections.wait_for_room(seat, is_full=True)
    room.pass_time(5.1)
    assert seat.told == [(Wait.ROOM, 5.0)]


def test_the_one_that_can_best_be_spared_gives_way() -> None:
    """Those that are done, then those that never asked, then kept ones, half requests, and clients that do not read."""
    room = Room(num_max=6)
    busy, stalled = room.open(None), room.open(None)
    room.connections.wait_for_room(stalled, is_full=True)
    body, kept, head, done = (room.open(wait) for wait in (Wait.BODY, Wait.NEXT, Wait.HEAD, Wait.CLOSE))
    order: list[Seat] = []
    for _ in range(5):
        room.open(None)
        order += [seat for seat in (busy, stalled, body, kept, head, done) if seat.told and seat not in order]
    assert order == [done, head, kept, body, stalled]
    assert busy.told == []


def test_among_equals_the_one_that_waited_longest_gives_way() -> None:
    room = Room(num_max=3)
    first, second, third = room.open(), room.open(), room.open()
    # It comes to its end, and begins anew.
    room.connections.wait(first, None)
    room.connections.wait(first, Wait.HEAD)
    room.open()
    assert [seat.told for seat in (first, second, third)] == [[], ["give way"], []]


def test_when_every_client_waits_for_the_gateway_health_checks_still_come_in() -> None:
    room = Room(num_max=3)
    for _ in range(3):
        room.open(None)
    answers: list[bool | None] = []
    for _ in range(NUM_HEALTH_CONNECTIONS + 1):
        seat = Seat()
        answers.append(room.connections.opened(seat))
        room.connections.wait(seat, None)
    assert answers == [False] * NUM_HEALTH_CONNECTIONS + [None]


def test_closed_connections_leave_nothing_behind() -> None:
    room = Room(num_max=3)
    for wait in (*Wait, None):
        seat = room.open(wait)
        room.connections.wait_for_room(seat, is_full=True)
        room.connections.closed(seat)
        # What a transport still says after its end changes nothing.
        room.connections.wait(seat, Wait.CLOSE)
        room.connections.wait_for_room(seat, is_full=True)
    assert room.connections.num_open == 0
    assert [room.connections.num_waiting(wait) for wait in Wait] == [0] * len(Wait)


def test_ten_thousand_cuts_a_second_do_not_fill_the_log() -> None:
    room = Room()
    for number in range(10_000):
        room.connections.cut("slow head", client=f"10.0.0.1:{number}")
    room.connections.cut("malformed_request", client="10.0.0.2:1")
    room.pass_time(1.1)
    assert len(room.counts) == 10_001
    assert len(room.events) == 22
    assert room.events[-2]["client"] == "10.0.0.2:1"
    assert room.events[-1] == {"event": "connections cut", "why": "slow head", "num_more": 9_980}
    room.connections.cut("slow head", client="10.0.0.1:1")
    assert room.events[-1]["event"] == "connection cut"
