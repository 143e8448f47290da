"""Limits one gateway's load: units under way, units that wait (first come, first served), and streams that it reads to
their end.

No client waits without end: if the line is full, or the wait exceeds the service's limit, it is told when to come
back, by how long recent units took. Bulk units have a line of their own: each takes a place that no live unit wants,
and waits for it as long as that takes.
"""

import asyncio
from collections import deque

from headrace.serving.gateway.refusals import overloaded
from headrace.serving.service import Limits

# Weight of the newest unit in the running mean of durations.
_NEWEST_WEIGHT = 0.05
_RETRY_SECONDS_MAX = 60.0


class CountedStreams:
    """Limits how many of one client's streams are followed to their end at once: an eighth of all places, at least one.

    Such a stream is read from its engine whether its client reads it or not, so clients that leave or stall would hold
    places and a core as long as answers take. Checked before a unit's set is drawn, so neither set is favoured. Used
    from one event loop.
    """

    def __init__(self, limits: Limits) -> None:
        self._num_max = max(limits.num_units_max // 8, 1)
        self._nums: dict[str, int] = {}

    def take(self, client: str) -> bool:
        """Whether there is room for one more; release it with `give_back`."""
        num = self._nums.get(client, 0)
        if num >= self._num_max:
            return False
        self._nums[client] = num + 1
        return True

    def give_back(self, client: str) -> None:
        if self._nums[client] == 1:
            del self._nums[client]
        else:
            self._nums[client] -= 1


class Admission:
    """Places for units. Used from one event loop."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self.num_under_way = 0
        self._line: deque[asyncio.Future[None]] = deque()
        self._bulk_line: deque[asyncio.Future[None]] = deque()
        self._mean_seconds = 1.0

    @property
    def num_waiting(self) -> int:
        return len(self._line)

    async def enter(self, *, is_bulk: bool = False) -> None:
        """Takes a place, after waiting if necessary. Release it with `leave`.

        Raises:
            Refusal: 429; never a bulk unit.
        """
        if self.num_under_way < self._limits.num_units_max and not self._line:
            self.num_under_way += 1
            return
        if is_bulk:
            await self._wait_as_bulk()
            return
        if len(self._line) >= self._limits.num_waiting_max:
            raise overloaded(
                f"All {self._limits.num_units_max} places are taken and {len(self._line)} requests wait already; "
                "come back later.",
                retry_after_seconds=self.retry_after_seconds(),
            )
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._line.append(turn)
        try:
            async with asyncio.timeout(self._limits.waiting_seconds_max):
                await turn
        except TimeoutError:
            self._give_up(turn, self._line)
            raise overloaded(
                f"No place became free within {self._limits.waiting_seconds_max:g} s; come back later.",
                retry_after_seconds=self.retry_after_seconds(),
            ) from None
        except asyncio.CancelledError:
            self._give_up(turn, self._line)
            raise

    def leave(self, seconds: float) -> None:
        """Releases a place after so many seconds; the first in line gets it."""
        self._mean_seconds += _NEWEST_WEIGHT * (seconds - self._mean_seconds)
        self._pass_on()

    def retry_after_seconds(self) -> float:
        """When a newcomer at the end of the line can expect a place."""
        turns = (len(self._line) + 1) / self._limits.num_units_max
        return min(max(turns * self._mean_seconds, 1.0), _RETRY_SECONDS_MAX)

    async def _wait_as_bulk(self) -> None:
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._bulk_line.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            self._give_up(turn, self._bulk_line)
            raise

    def _pass_on(self) -> None:
        for line in (self._line, self._bulk_line):
            while line:
                turn = line.popleft()
                if not turn.done():
                    # The place is handed over directly, so a newcomer cannot take it first.
                    turn.set_result(None)
                    return
        self.num_under_way -= 1

    def _give_up(self, turn: asyncio.Future[None], line: deque[asyncio.Future[None]]) -> None:
        if turn.done() and not turn.cancelled():
            # The place was handed over at the same moment.
            self._pass_on()
            return
        try:
            line.remove(turn)
        except ValueError:
            # Skips a turn that is being cancelled.
            return
