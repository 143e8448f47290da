"""JetStream as the log of turn events (`turns`): its protocol by hand, over one connection.

Two shapes. `singly`: each event is a message, all calls' at once under way. `together`: what waits is an atomic batch,
as our log groups it, a few batches under way at once. Both are acknowledged once they are on the disk (`sync_interval:
always`).
"""

import asyncio
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count
from typing import cast

# More batches of one connection only wait for each other.
_NUM_BATCHES, _BATCH_EVENTS = 4, 1_000
_GREETED = b"PONG\r\n"


class JetStreamLog(asyncio.Protocol):
    def __init__(self, *, together: bool) -> None:
        loop = asyncio.get_running_loop()
        self._together = together
        self._inbox = f"_INBOX.{os.urandom(6).hex()}".encode()
        self._numbers = count(1)
        # What each acknowledgement is of.
        self._under_way: dict[int, list[asyncio.Future[None]]] = {}
        self._waiting: list[tuple[bytes, asyncio.Future[None]]] = []
        self._came = bytearray()
        self.ready: asyncio.Future[None] = loop.create_future()
        self._loop = loop

    def keep(self, event: bytes) -> "asyncio.Future[None]":
        """What it returns is done once the event is on the disk."""
        future = self._loop.create_future()
        self._waiting.append((event, future))
        if not self._together or len(self._under_way) < _NUM_BATCHES:
            self._loop.call_soon(self._publish)
        return future

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        options = json.dumps({"verbose": False, "headers": True, "no_responders": True}).encode()
        self._transport.write(b"CONNECT %s\r\nSUB %s.* 1\r\nPING\r\n" % (options, self._inbox))

    def data_received(self, data: bytes) -> None:
        self._came += data
        while (end := self._came.find(b"\r\n")) >= 0:
            words = bytes(self._came[:end]).split()
            size = int(words[-1]) + 2 if words[:1] == [b"MSG"] else 0
            if len(self._came) < end + 2 + size:
                return
            body = bytes(self._came[end + 2 : end + 2 + size])
            del self._came[: end + 2 + size]
            self._take(words, body)

    def close(self) -> None:
        self._transport.close()

    def _take(self, words: list[bytes], body: bytes) -> None:
        if words == [b"PING"]:
            self._transport.write(_GREETED)
        elif words == [b"PONG"] and not self.ready.done():
            self.ready.set_result(None)
        elif words[0] == b"MSG":
            is_stored = b'"seq":' in body and b'"error"' not in body
            assert is_stored, f"Not stored: {body[:300]!r}"
            for future in self._under_way.pop(int(words[1].rpartition(b".")[2])):
                future.set_result(None)
            if self._together:
                self._publish()

    def _publish(self) -> None:
        while self._waiting and (not self._together or len(self._under_way) < _NUM_BATCHES):
            size = _BATCH_EVENTS if self._together else 1
            some, self._waiting = self._waiting[:size], self._waiting[size:]
            number = next(self._numbers)
            self._under_way[number] = [future for _, future in some]
            reply = b"%s.%d" % (self._inbox, number)
            if len(some) == 1:
                self._transport.write(b"PUB events.a %s %d\r\n%s\r\n" % (reply, len(some[0][0]), some[0][0]))
                continue
            for place, (event, _) in enumerate(some, 1):
                is_last = place == len(some)
                head = b"NATS/1.0\r\nNats-Batch-Id: %s\r\nNats-Batch-Sequence: %d\r\n" % (reply, place)
                head += b"Nats-Batch-Commit: 1\r\n\r\n" if is_last else b"\r\n"
                where = b"%s " % reply if is_last else b""
                self._transport.write(b"HPUB events.a %s%d %d\r\n" % (where, len(head), len(head) + len(event)))
                self._transport.write(head + event + b"\r\n")


@asynccontextmanager
async def connected(port: int, *, together: bool) -> AsyncIterator[JetStreamLog]:
    _, log = await asyncio.get_running_loop().create_connection(
        lambda: JetStreamLog(together=together), "127.0.0.1", port
    )
    await log.ready
    try:
        yield log
    finally:
        log.close()
