"""Connections between clients and gateways in simulated time: late, broken, or ended by a kill just after a message."""

import asyncio
import json
import random
from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import Any, Protocol

from headrace.serving.gateway.realtime.websocket import SocketClosed
from simulation.scheduler import Process, Scheduler, SimulatedLoop
from simulation.talking import SPEECH, ConnectionLost

# Of a message to a client, but for audio: its gateway is killed while, or just after, the client is told.
_KILLED_AFTER_TELLING, _KILLED_WITHIN_SECONDS = 0.01, 0.03
# Of the one that tells a client that its answer is cut.
_KILLED_AFTER_CUT = 0.2


class Weather(Protocol):
    """What a schedule draws from."""

    chance: random.Random
    scheduler: Scheduler

    def pause(self, most: float) -> float: ...


class _Pipe:
    """One direction of a connection: in order, each message after some milliseconds."""

    def __init__(self, world: Weather, loop: SimulatedLoop) -> None:
        self._world, self._loop = world, loop
        self._arrived: deque[str] = deque()
        self._waiter: asyncio.Future[None] | None = None
        self._last = 0.0
        self._is_closed = self._is_broken = False

    def put(self, message: str) -> None:
        self._later(lambda: self._arrived.append(message))

    def close(self) -> None:
        """After what was sent."""
        self._later(self._close)

    def break_off(self) -> None:
        """What is on its way is lost."""
        self._is_broken = True

    async def get(self) -> str:
        while not self._arrived:
            if self._is_closed:
                raise ConnectionLost
            self._waiter = self._loop.create_future()
            await self._waiter
        return self._arrived.popleft()

    def _close(self) -> None:
        self._is_closed = True

    def _later(self, what: Callable[[], None]) -> None:
        def arrive() -> None:
            if not self._is_broken:
                what()
                if self._waiter is not None and not self._waiter.done():
                    self._waiter.set_result(None)

        scheduler = self._world.scheduler
        self._last = max(self._last, scheduler.now + self._world.pause(0.004))
        scheduler.at(self._last, arrive)


class Line:
    """A client's end of a connection; `server` is the gateway's."""

    def __init__(self, world: Weather, clients: SimulatedLoop, gateway: SimulatedLoop, process: Process) -> None:
        """Args: gateway, process: of whoever is at the other end."""
        self._world = world
        self._to_client, self._to_server = _Pipe(world, clients), _Pipe(world, gateway)
        self._is_open = True
        self.server = ServerEnd(world, process, self._to_client, self._to_server)

    async def send(self, text: str) -> None:
        if not self._is_open:
            raise ConnectionLost
        self._to_server.put(text)

    async def recv(self) -> str:
        return await self._to_client.get()

    async def close(self) -> None:
        """As the network ends: the gateway may hear of it late."""
        self._is_open = False
        self._to_client.break_off()
        scheduler = self._world.scheduler
        late = self._world.chance.choice((0.0, 0.01, 0.5, 5.0))
        scheduler.at(scheduler.now + late, self.server.lost)

    def killed(self) -> None:
        """The gateway's process: what it had sent arrives."""
        self._is_open = False
        self._to_client.close()


class ServerEnd:
    """What `headrace.serving.gateway.realtime.websocket.Socket` is to a call."""

    def __init__(self, world: Weather, process: Process, to_client: _Pipe, to_server: _Pipe) -> None:
        self._world, self._process = world, process
        self._to_client, self._to_server = to_client, to_server
        self.is_open = True
        self.hears: Callable[[dict[str, Any]], None] = lambda event: None

    async def messages(self) -> AsyncIterator[str]:
        while self.is_open:
            try:
                message = await self._to_server.get()
            except ConnectionLost:
                return
            if (event := json.loads(message))["type"] == SPEECH:
                self.hears(event)
            else:
                yield message

    async def send(self, text: bytes) -> None:
        if not self.is_open:
            raise SocketClosed
        self._to_client.put(text.decode())
        is_end = b'"response.done"' in text and b'"cancelled"' in text
        share = _KILLED_AFTER_CUT if is_end else _KILLED_AFTER_TELLING
        if b"audio.delta" not in text and self._world.chance.random() < share:
            scheduler = self._world.scheduler
            late = self._world.pause(_KILLED_WITHIN_SECONDS)
            scheduler.at(scheduler.now + late, lambda: scheduler.kill(self._process))
        if self._world.chance.random() < 0.1:
            # Its client takes a moment to read.
            await asyncio.sleep(self._world.pause(0.02))

    def close(self, code: int, reason: str) -> None:
        if self.is_open:
            self.is_open = False
            self._to_client.close()

    def lost(self) -> None:
        self.is_open = False
        self._to_server.close()
