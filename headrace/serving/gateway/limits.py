"""How much one gateway takes on: units under way at once, units that wait for their turn, first come, first served;
and streams that it reads on its own account.

Nobody waits without end: who finds the line full, or waits longer than the service allows, is told when to come back,
by how long units took of late.
"""

import asyncio
from collections import deque

from headrace.serving.gateway.refusals import overloaded
from headrace.serving.service import Limits

# Weight of the newest unit in the running mean of how long one takes.
_NEWEST_WEIGHT = 0.05
_RETRY_SECONDS_MAX = 60.0


class CountedStreams:
    """How many streams of one client are followed to their ends at once: an eighth of all places, and one at least.

    Such a stream is read from its engine whether or not its client reads it, so clients that leave or stall would hold
    places and a core for as long as answers take. Asked before a unit's set is drawn: neither set is favoured. Used
    from one event loop.
    """

    def __init__(self, limits: Limits) -> None:
        self._num_max = max(limits.num_units_max // 8, 1)
        self._nums: dict[str, int] = {}

    def take(self, client: str) -> bool:
        """Whether there is room for one more; it is given back with `give_back`."""
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
        self._mean_seconds = 1.0

    @property
    def num_waiting(self) -> int:
        return len(self._line)

    async def enter(self) -> None:
        """Take a place, waiting for it if need be. Whoever got one gives it back with `leave`.

        Raises:
            Refusal: 429.
        """
        if self.num_under_way < self._limits.num_units_max and not self._line:
            self.num_under_way += 1
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
            self._give_up(turn)
            raise overloaded(
                f"No place became free within {self._limits.waiting_seconds_max:g} s; come back later.",
                retry_after_seconds=self.retry_after_seconds(),
            ) from None
        except asyncio.CancelledError:
            self._give_up(turn)
            raise

    def leave(self, seconds: float) -> None:
        """Give a place back after so many seconds; the first in line gets it."""
        self._mean_seconds += _NEWEST_WEIGHT * (seconds - self._mean_seconds)
        self._pass_on()

    def retry_after_seconds(self) -> float:
        """When a place may be expected for one who comes at the end of the line."""
        turns = (len(self._line) + 1) / self._limits.num_units_max
        return min(max(turns * self._mean_seconds, 1.0), _RETRY_SECONDS_MAX)

    def _pass_on(self) -> None:
        while self._line:
            turn = self._line.popleft()
            if not turn.done():
                # The place goes from hand to hand: nobody who comes now can take it first.
                turn.set_result(None)
                return
        self.num_under_way -= 1

    def _give_up(self, turn: asyncio.Future[None]) -> None:
        if turn.done() and not turn.cancelled():
            # The place was handed over in the same moment.
            self._pass_on()
            return
        try:
            self._line.remove(turn)
        except ValueError:
            # Passed over, being cancelled.
            return
