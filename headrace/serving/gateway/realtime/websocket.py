"""One WebSocket on a connection of the gateway: frames by the library `websockets`, bytes by the connection itself.

The connection keeps its limits: how long a client may take no byte, and that it counts among all connections. A client
that sends faster than it is read is not read on; one that is gone without a word is noticed by a ping. What costs a
client next to nothing (empty frames, empty messages, pings that it does not want answered) takes no memory for it.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Sequence
from typing import Protocol

from websockets.frames import Frame, Opcode
from websockets.http11 import Request
from websockets.protocol import State
from websockets.server import ServerProtocol
from websockets.typing import Subprotocol

SUBPROTOCOL = Subprotocol("realtime")
# Bytes of messages that wait to be read; then the client waits.
_UNREAD_BYTES_MAX = 2**20
# What a message takes beside its text.
_MESSAGE_BYTES = 64
_PING_SECONDS = 20.0


class Line(Protocol):
    """The connection below. `is_stalled`: its client takes no more bytes for now."""

    @property
    def is_stalled(self) -> bool: ...
    def write(self, data: bytes) -> None: ...
    def close(self) -> None: ...
    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...
    async def drain(self) -> None:
        """Returns once the client takes bytes, or is gone."""


class SocketClosed(Exception):
    """Nobody is at the other end any more."""


class Socket:
    """In the event loop."""

    def __init__(self, line: Line, *, message_bytes_max: int) -> None:
        self._line = line
        self._protocol = ServerProtocol(max_size=message_bytes_max, select_subprotocol=_subprotocol)
        self._messages: deque[str] = deque()
        self._num_unread, self._is_paused = 0, False
        # Of a message whose end has not come.
        self._begun = bytearray()
        # The answer to the last ping of a client that takes nothing now: it needs no answers to those before.
        self._pong = b""
        self._some = asyncio.Event()
        self._is_lost = False
        self._is_heard = True
        self._timer: asyncio.TimerHandle | None = None

    def open(self, head: bytes, rest: bytes) -> bool:
        """Answers the handshake. `head`: the request's, as it came; `rest`: what came after it. False: it is none, and
        the client was told."""
        self._protocol.receive_data(head)
        events = self._protocol.events_received()
        if not events or not isinstance(request := events[0], Request):
            self._line.close()
            return False
        self._protocol.send_response(self._protocol.accept(request))
        is_open = self._protocol.state is State.OPEN
        if is_open:
            self._timer = asyncio.get_running_loop().call_later(_PING_SECONDS, self._ping)
        self._flush()
        if rest and is_open:
            self.received(rest)
        return is_open

    @property
    def is_open(self) -> bool:
        return self._protocol.state is State.OPEN and not self._is_lost

    async def messages(self) -> AsyncIterator[str]:
        """What the client sends, until it or we close."""
        while True:
            while self._messages:
                message = self._messages.popleft()
                self._num_unread -= len(message) + _MESSAGE_BYTES
                if self._is_paused and self._num_unread < _UNREAD_BYTES_MAX // 2:
                    self._is_paused = False
                    self._line.resume_reading()
                yield message
            if not self.is_open:
                return
            self._some.clear()
            await self._some.wait()

    async def send(self, text: bytes) -> None:
        """Raises: SocketClosed."""
        if not self.is_open:
            raise SocketClosed
        self._protocol.send_text(text)
        self._flush()
        await self._line.drain()
        self._flush()

    def close(self, code: int, reason: str) -> None:
        if self.is_open:
            self._protocol.send_close(code, reason)
            self._flush()
        self._some.set()

    # --- called by the connection ---

    def received(self, data: bytes) -> None:
        self._is_heard = True
        self._protocol.receive_data(data)
        for event in self._protocol.events_received():
            if isinstance(event, Frame):
                self._take(event)
        if self._line.is_stalled and self.is_open:
            self._pong = next((data for data in reversed(self._protocol.data_to_send()) if data), self._pong)
        else:
            self._flush()
        if self._num_unread > _UNREAD_BYTES_MAX and not self._is_paused:
            self._is_paused = True
            self._line.pause_reading()

    def lost(self) -> None:
        self._is_lost = True
        if self._timer is not None:
            self._timer.cancel()
        self._some.set()

    def _take(self, frame: Frame) -> None:
        if frame.opcode is Opcode.BINARY:
            self._protocol.fail(1003, "Events are JSON in text frames.")
        elif frame.opcode in (Opcode.TEXT, Opcode.CONT):
            self._begun += frame.data
            if not frame.fin:
                return
            whole, self._begun = self._begun, bytearray()
            try:
                message = whole.decode()
            except UnicodeDecodeError:
                self._protocol.fail(1007, "Text frames are UTF-8.")
                return
            self._messages.append(message)
            self._num_unread += len(message) + _MESSAGE_BYTES
        self._some.set()

    def _flush(self) -> None:
        if self._pong and self.is_open:
            self._line.write(self._pong)
        self._pong = b""
        for data in self._protocol.data_to_send():
            # An empty piece: nothing more is sent.
            if data:
                self._line.write(data)
        if self._protocol.close_expected():
            self._some.set()
            if self._protocol.state is State.CLOSED or not self._protocol.data_to_send():
                self._line.close()

    def _ping(self) -> None:
        if not self.is_open:
            return
        if not self._is_heard:
            self._protocol.fail(1011, "No answer to a ping.")
            self._flush()
            self._line.close()
            return
        self._is_heard = False
        self._protocol.send_ping(b"")
        self._flush()
        self._timer = asyncio.get_running_loop().call_later(_PING_SECONDS, self._ping)


def _subprotocol(protocol: ServerProtocol, offered: Sequence[Subprotocol]) -> Subprotocol | None:
    """A browser offers `realtime` beside its key, and wants one of them chosen."""
    return SUBPROTOCOL if SUBPROTOCOL in offered else None
