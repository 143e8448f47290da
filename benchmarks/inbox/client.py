"""`python -m benchmarks.inbox.client TASK`: producers of one process, each with a connection of its own, which sends,
waits for its acknowledgement, and sends again. Answers with what was acknowledged, and when.

The three protocols are spoken by hand over the same loop, so that no client library is part of the comparison. Every
event is 1,024 bytes of JSON, in whichever frame.
"""

import asyncio
import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import uvloop

EVENT_BYTES = 1_024


@dataclass(frozen=True, kw_only=True)
class Task:
    """`connections`: of this process. `events`: of a request. `seconds` are measured after `warm_up_seconds`."""

    system: str
    port: int
    connections: int
    events: int
    warm_up_seconds: float
    seconds: float


def event(name: str) -> bytes:
    """The same for all systems."""
    head = f'{{"id":"{name}","source":"/shops/7","campaign":"inbox","partitionkey":"{name[-2:]}","data":{{"text":"'
    return f'{head}{"x" * (EVENT_BYTES - len(head) - 3)}"}}}}'.encode()


class Producer(asyncio.Protocol):
    """One connection. A subclass says what is sent, and how much of what came back is an acknowledgement."""

    # What is sent before the first request, and how its answer ends.
    greeting = b""
    greeted = b""

    def __init__(self, task: Task) -> None:
        self.acknowledged: list[tuple[float, float]] = []
        self.ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.is_ending = False
        self._task = task
        self._name = os.urandom(6).hex()
        self._number = 0
        self._came = bytearray()
        self._sent_at = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's are no subclass of it.
        self._transport = cast("asyncio.Transport", transport)
        self._transport.write(self.greeting)
        if not self.greeting:
            self.ready.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        assert self.is_ending, f"The server closed a connection: {exc}, after {bytes(self._came)[-300:]!r}"

    def data_received(self, data: bytes) -> None:
        self._came += data
        if not self.ready.done():
            if self.greeted in self._came:
                self._came.clear()
                self.ready.set_result(None)
            return
        if self.is_whole(self._came):
            self._came.clear()
            now = time.perf_counter()
            self.acknowledged.append((now, now - self._sent_at))
            if not self.is_ending:
                self.send()

    def send(self) -> None:
        self._sent_at = time.perf_counter()
        self._number += 1
        names = (f"{self._name}-{self._number}-{row:04d}" for row in range(self._task.events))
        self._transport.write(self.request([event(name) for name in names]))

    def request(self, events: list[bytes]) -> bytes:
        raise NotImplementedError

    def is_whole(self, came: bytearray) -> bool:
        """Raises: AssertionError: it is a refusal."""
        raise NotImplementedError

    def close(self) -> None:
        self.is_ending = True
        self._transport.close()


class Headrace(Producer):
    """HTTP/1.1, kept alive."""

    def request(self, events: list[bytes]) -> bytes:
        body = b"\n".join(events)
        kind = b"application/x-ndjson" if len(events) > 1 else b"application/json"
        head = b"POST /v1/events HTTP/1.1\r\nHost: h\r\nContent-Type: %s\r\nContent-Length: %d\r\n\r\n"
        return head % (kind, len(body)) + body

    def is_whole(self, came: bytearray) -> bool:
        end = came.find(b"\r\n\r\n")
        if end < 0:
            return False
        length = int(came[:end].lower().partition(b"content-length:")[2].split(b"\r\n", 1)[0])
        if len(came) < end + 4 + length:
            return False
        wanted = b'"taken":%d,"repeated":0,"refused":[]' % self._task.events
        assert wanted in came, f"Not all were taken: {bytes(came)[:1000]!r}"
        return True


class JetStream(Producer):
    """The NATS protocol: a publish that wants its acknowledgement; several events are an atomic batch."""

    greeted = b"PONG\r\n"

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        options = json.dumps({"verbose": False, "headers": True, "no_responders": True}).encode()
        self._inbox = f"_INBOX.{self._name}".encode()
        self.greeting = b"CONNECT %s\r\nSUB %s 1\r\nPING\r\n" % (options, self._inbox)

    def request(self, events: list[bytes]) -> bytes:
        if len(events) == 1:
            return b"PUB events.a %s %d\r\n%s\r\n" % (self._inbox, len(events[0]), events[0])
        parts: list[bytes] = []
        for number, body in enumerate(events, 1):
            is_last = number == len(events)
            head = f"NATS/1.0\r\nNats-Batch-Id: {self._name}-{self._number}\r\nNats-Batch-Sequence: {number}\r\n"
            head += "Nats-Batch-Commit: 1\r\n\r\n" if is_last else "\r\n"
            reply = self._inbox + b" " if is_last else b""
            parts.append(b"HPUB events.a %s%d %d\r\n" % (reply, len(head), len(head) + len(body)))
            parts += [head.encode(), body, b"\r\n"]
        return b"".join(parts)

    def is_whole(self, came: bytearray) -> bool:
        if came.startswith(b"PING\r\n"):
            self._transport.write(b"PONG\r\n")
            del came[:6]
        end = came.find(b"\r\n")
        if end < 0:
            return False
        length = int(came[:end].split()[-1])
        if len(came) < end + 2 + length + 2:
            return False
        assert b'"error"' not in came, f"Not stored: {bytes(came)[:1000]!r}"
        assert b'"seq":' in came, f"Not stored: {bytes(came)[:1000]!r}"
        return True


class Redis(Producer):
    """RESP: XADD to a stream; several events are one pipeline."""

    def request(self, events: list[bytes]) -> bytes:
        one = b"*5\r\n$4\r\nXADD\r\n$6\r\nevents\r\n$1\r\n*\r\n$1\r\nd\r\n$%d\r\n%s\r\n"
        return b"".join(one % (len(body), body) for body in events)

    def is_whole(self, came: bytearray) -> bool:
        # Each answer is a bulk string of two lines.
        if came.count(b"\r\n") < 2 * self._task.events:
            return False
        assert b"-" not in came[:1], f"Not added: {bytes(came)[:1000]!r}"
        return True


PRODUCERS: dict[str, Callable[[Task], Producer]] = {"headrace": Headrace, "jetstream": JetStream, "redis": Redis}


async def run(task: Task) -> dict[str, Any]:
    loop = asyncio.get_running_loop()
    failed: asyncio.Future[None] = loop.create_future()
    loop.set_exception_handler(lambda _, context: failed.done() or failed.set_exception(context["exception"]))
    print("ready", flush=True)
    await loop.run_in_executor(None, sys.stdin.readline)
    producers: list[Producer] = []
    for _ in range(task.connections):
        _, producer = await loop.create_connection(lambda: PRODUCERS[task.system](task), "127.0.0.1", task.port)
        producers.append(producer)
        await asyncio.wait([producer.ready, failed], return_when=asyncio.FIRST_COMPLETED)
    begins = time.perf_counter() + task.warm_up_seconds
    for producer in producers:
        producer.send()
    # A producer that is refused, or loses its connection, ends the measurement.
    await asyncio.wait([failed], timeout=task.warm_up_seconds + task.seconds)
    if failed.done():
        failed.result()
    ends = begins + task.seconds
    found = [one for producer in producers for one in producer.acknowledged if begins <= one[0] < ends]
    for producer in producers:
        producer.close()
    await asyncio.sleep(0.1)
    return {"events": len(found) * task.events, "milliseconds": [round(took * 1e3, 2) for _, took in found]}


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        print(json.dumps(runner.run(run(Task(**json.loads(sys.argv[1]))))))
