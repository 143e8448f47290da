"""The places that lines of batches have at once: shared evenly between clients, whoever has more lines.

Each free place goes to the next client in turn, and within a client to who came first. Used from one event loop.
"""

import asyncio
from collections import OrderedDict, deque


class LinePlaces:
    """`num_max`: lines at once."""

    def __init__(self, num_max: int) -> None:
        self._num_free = num_max
        # Clients that wait, in the order in which they get the next places.
        self._lines: OrderedDict[str, deque[asyncio.Future[bool]]] = OrderedDict()

    async def take(self, tenant: str, stops: "Stops") -> bool:
        """Waits for a place. False: the batch stopped before there was one."""
        if stops.why:
            return False
        if self._num_free and not self._lines:
            self._num_free -= 1
            return True
        turn: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._lines.setdefault(tenant, deque()).append(turn)
        stops.waiting.add(turn)
        try:
            return await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled() and turn.result():
                self.give_back()
            raise
        finally:
            stops.waiting.discard(turn)

    def give_back(self) -> None:
        while self._lines:
            tenant, line = next(iter(self._lines.items()))
            turn = line.popleft()
            self._lines.move_to_end(tenant)
            if not line:
                del self._lines[tenant]
            if not turn.done():
                turn.set_result(True)
                return
        self._num_free += 1


class Stops:
    """Why a batch starts no further line; what waits for it hears of it at once. `why` empty: it goes on."""

    def __init__(self) -> None:
        self.why = ""
        self.waiting: set[asyncio.Future[bool]] = set()

    def stop(self, why: str) -> None:
        self.why = self.why or why
        for turn in self.waiting:
            if not turn.done():
                turn.set_result(False)

    async def pause(self, seconds: float) -> None:
        """Returns after so many seconds, or when it stops."""
        if self.why:
            return
        turn: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self.waiting.add(turn)
        try:
            async with asyncio.timeout(seconds):
                await turn
        except TimeoutError:
            pass
        finally:
            self.waiting.discard(turn)
