"""Room for the bytes of requests that are large: who finds none waits, unread, first come, first served."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from headrace.serving.gateway.refusals import overloaded


class ByteRoom:
    """Used from one event loop.

    Args:
        bytes_max: of all who have room at once; who asks for more gets all of it.
        seconds_max: how long one may wait.
    """

    def __init__(self, bytes_max: int, seconds_max: float) -> None:
        self._bytes_max, self._seconds_max = bytes_max, seconds_max
        self._free = bytes_max
        self._line: deque[tuple[int, asyncio.Future[None]]] = deque()

    @asynccontextmanager
    async def room_for(self, num_bytes: int) -> AsyncIterator[None]:
        """Raises: Refusal: 429, none became free in time."""
        num_bytes = min(num_bytes, self._bytes_max)
        await self._take(num_bytes)
        try:
            yield
        finally:
            self.give_back(num_bytes)

    def take_now(self, num_bytes: int) -> bool:
        """Whether there was room without waiting; `give_back` gives it back."""
        if self._line or num_bytes > self._free:
            return False
        self._free -= num_bytes
        return True

    async def _take(self, num_bytes: int) -> None:
        if self.take_now(num_bytes):
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._line.append((num_bytes, turn))
        try:
            async with asyncio.timeout(self._seconds_max):
                await turn
        except BaseException as error:
            if turn.done() and not turn.cancelled():
                # It got its room in the same moment.
                self.give_back(num_bytes)
            else:
                with suppress(ValueError):  # `give_back` has passed it over
                    self._line.remove((num_bytes, turn))
                self.give_back(0)
            if isinstance(error, TimeoutError):
                message = f"Others' requests took all the room for {self._seconds_max:g} s; come back later."
                raise overloaded(message, retry_after_seconds=self._seconds_max) from None
            raise

    def give_back(self, num_bytes: int) -> None:
        """What `take_now` took."""
        self._free += num_bytes
        while self._line and self._line[0][0] <= self._free:
            taken, turn = self._line.popleft()
            if not turn.done():  # who waits for it may be on its way out
                self._free -= taken
                turn.set_result(None)


class SharedRoom(ByteRoom):
    """Room of which one client gets a part at most: a few slow requests of one must not keep all others out.

    Args:
        one_bytes_max: of a client's requests at once; who asks for more gets all of it.
    """

    def __init__(self, bytes_max: int, seconds_max: float, *, one_bytes_max: int) -> None:
        super().__init__(bytes_max, seconds_max)
        self._one_bytes_max = one_bytes_max
        # By API key, of which there are as many as the keys' file names.
        self._own: dict[str, ByteRoom] = {}

    @asynccontextmanager
    async def room_of(self, client: str, num_bytes: int) -> AsyncIterator[None]:
        """Raises: as `room_for`."""
        if client not in self._own:
            self._own[client] = ByteRoom(self._one_bytes_max, self._seconds_max)
        async with self._own[client].room_for(num_bytes), self.room_for(num_bytes):
            yield
