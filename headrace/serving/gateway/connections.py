"""The clients' connections: how long each may keep the gateway waiting, and which one ends when all are taken.

Either a connection waits for its client (a request's head, its body, the next request, room in the client's buffers),
or the client waits for the gateway. The first kind costs a client neither work nor a key, so only it has time limits
here, and only it gives way: if all connections are taken, the one that has kept the gateway waiting longest ends.
Connections whose clients wait are few, since units need places. In case they fill everything, some connections are
reserved for the health pages.

A check every quarter of a second looks at the oldest connections of each kind; a request costs two moves in a
dictionary.
"""

import asyncio
from collections import Counter, OrderedDict
from collections.abc import Callable
from enum import Enum
from typing import Any, Protocol

from headrace.serving.service import Limits

_LOOK_SECONDS = 0.25
# Time for a client to read its answer or refusal and close.
_CLOSING_SECONDS_MAX = 2.0
# Additional connections for health checks.
NUM_HEALTH_CONNECTIONS = 16
# Log lines a second about cuts of one kind: ten thousand cuts a second must not fill the log's disk.
_NUM_LINES_MAX = 20


class Wait(Enum):
    """What a connection waits for, in the order in which they give way to newer ones."""

    CLOSE = "close"
    HEAD = "head"
    NEXT = "next request"
    BODY = "body"
    ROOM = "room"


class Waiting(Protocol):
    """What `Connections` needs of a connection. Only `Connections` sets `is_open` and `waits_for`."""

    is_open: bool
    waits_for: Wait | None

    def waited_too_long(self, wait: Wait, seconds: float) -> None:
        """The client has used up its time of `seconds`."""
        ...

    def give_way(self) -> None:
        """End at once: another connection needs the place."""
        ...


class Connections:
    """Used from one event loop.

    A connection stands in at most one line, and beside it in that of `ROOM`: a client may both send and read slowly.
    """

    def __init__(
        self,
        limits: Limits,
        *,
        num_max: int,
        clock: Callable[[], float],
        event: Callable[..., None],
        count: Callable[[str], None],
    ) -> None:
        """Args:
        num_max: connections for everybody: limited by the service, or by the process's descriptors.
        clock: monotonic seconds.
        event: writes a log line: its name, then fields.
        count: called for each cut, with its reason.
        """
        self.limits = limits
        self.num_max = num_max
        self.num_open = 0
        self._clock = clock
        self._event = event
        self._count = count
        self._lines: dict[Wait, OrderedDict[Waiting, float]] = {wait: OrderedDict() for wait in Wait}
        self._seconds_max = {
            Wait.CLOSE: _CLOSING_SECONDS_MAX,
            Wait.HEAD: limits.head_seconds_max,
            Wait.NEXT: limits.idle_seconds_max,
            Wait.BODY: limits.body_seconds_max,
            Wait.ROOM: limits.stalled_seconds_max,
        }
        self._said: Counter[str] = Counter()
        self._said_since = clock()

    def num_waiting(self, wait: Wait) -> int:
        return len(self._lines[wait])

    def opened(self, connection: Waiting) -> bool | None:
        """Registers a new connection, which waits for its first request's head.

        Returns: whether it may request everything; False: only the health pages; None: there is no room at all.
        """
        self.num_open += 1
        connection.is_open = True
        is_for_all = True
        if self.num_open > self.num_max and not self._make_room():
            if self.num_open > self.num_max + NUM_HEALTH_CONNECTIONS:
                return None
            is_for_all = False
        self.wait(connection, Wait.HEAD)
        return is_for_all

    def closed(self, connection: Waiting) -> None:
        self.num_open -= 1
        self.wait(connection, None)
        connection.is_open = False
        self._lines[Wait.ROOM].pop(connection, None)

    def wait(self, connection: Waiting, wait: Wait | None) -> None:
        """Sets what the connection waits for; None: for nothing from its client."""
        if not connection.is_open:
            return
        if (before := connection.waits_for) is not None:
            self._lines[before].pop(connection, None)
        connection.waits_for = wait
        if wait is not None:
            self._lines[wait][connection] = self._clock()

    def wait_for_room(self, connection: Waiting, *, is_full: bool) -> None:
        """Notes that the client takes no more bytes for now, or takes them again."""
        if is_full and connection.is_open:
            self._lines[Wait.ROOM][connection] = self._clock()
        else:
            self._lines[Wait.ROOM].pop(connection, None)

    def cut(self, why: str, **fields: Any) -> None:
        """Logs and counts that a connection is cut, and why."""
        self._count(why)
        self._said[why] += 1
        if self._said[why] <= _NUM_LINES_MAX:
            self._event("connection cut", why=why, **fields)

    def look(self) -> None:
        """Ends connections that have kept the gateway waiting too long."""
        now = self._clock()
        for wait, line in self._lines.items():
            limit = self._seconds_max[wait]
            while line:
                connection, since = next(iter(line.items()))
                if now - since < limit:
                    break
                # Leaves this line first: its next wait is of another kind.
                line.popitem(last=False)
                if wait is not Wait.ROOM:
                    connection.waits_for = None
                connection.waited_too_long(wait, limit)
        if now - self._said_since >= 1.0:
            for why, number in self._said.items():
                if number > _NUM_LINES_MAX:
                    self._event("connections cut", why=why, num_more=number - _NUM_LINES_MAX)
            self._said.clear()
            self._said_since = now

    async def keep_looking(self) -> None:
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            self.look()

    def _make_room(self) -> bool:
        """Ends the most dispensable connection. False: every client waits for the gateway."""
        for line in self._lines.values():
            if line:
                connection, _ = line.popitem(last=False)
                connection.give_way()
                return True
        return False
