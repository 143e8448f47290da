"""The load of `benchmarks.gateway`, in a process of its own: `python -m benchmarks.gateway.load '{…}'`.

Requests are bytes made beforehand and responses are told apart by their length or last chunk alone: what a client
library would add to each is neither side's. Open loop: request i is due at i/rate, whatever became of those before it;
its time counts from then, so a server that stalls pays for all that were due meanwhile. Closed loop: each connection
sends as soon as it has its answer.
"""

import asyncio
import json
import sys
import time
from collections import deque
from typing import Any
from urllib.parse import urlsplit

import uvloop

_CHUNKED = b"transfer-encoding: chunked"
_LAST_CHUNK = b"\r\n0\r\n\r\n"
# Of the service under load: what the gateway and the server behind it are given.
SERVICE_SECONDS = (0.02, 0.05)
LIMITS = {"num_units_max": 256, "num_waiting_max": 256}


def chat_url(gateway: Any) -> str:
    return f"{gateway.url}/v1/chat/completions"


class Connection(asyncio.Protocol):
    """One request at a time over one kept connection."""

    def __init__(self) -> None:
        self._transport: Any = None
        self._buffer = bytearray()
        self._answered: asyncio.Future[bytes] | None = None

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        if self._answered and not self._answered.done():
            self._answered.set_exception(ConnectionError(f"The server closed the connection: {exc!r}."))

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head = self._buffer.find(b"\r\n\r\n")
        if head < 0 or self._answered is None:
            return
        headers = bytes(self._buffer[:head]).lower()
        if _CHUNKED in headers:
            is_whole = self._buffer.endswith(_LAST_CHUNK)
        else:
            length = int(headers.split(b"content-length:")[1].split(b"\r\n")[0])
            is_whole = len(self._buffer) >= head + 4 + length
        if is_whole:
            answer, self._buffer, answered = bytes(self._buffer), bytearray(), self._answered
            self._answered = None
            answered.set_result(answer)

    def ask(self, request: bytes) -> "asyncio.Future[bytes]":
        self._answered = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return self._answered


def request_of(url: str, body: dict[str, Any], key: str) -> bytes:
    parts = urlsplit(url)
    raw = json.dumps(body).encode()
    head = f"POST {parts.path} HTTP/1.1\r\nhost: {parts.netloc}\r\nauthorization: Bearer {key}\r\n"
    return f"{head}content-type: application/json\r\ncontent-length: {len(raw)}\r\n\r\n".encode() + raw


async def open_loop(connections: list[Connection], requests: list[bytes], *, rate: float) -> dict[str, Any]:
    """Seconds of each request, from when it was due."""
    loop = asyncio.get_running_loop()
    free, waiting = deque(connections), deque[int]()
    seconds = [0.0] * len(requests)
    num_failed, left = 0, len(requests)
    all_done = loop.create_future()
    begin = loop.time() + 0.2
    # uvloop's own clock ticks in whole milliseconds.
    begin_exact = time.perf_counter() + 0.2

    def send(index: int) -> None:
        connection = free.popleft()
        connection.ask(requests[index]).add_done_callback(lambda answered: done(index, connection, answered))

    def done(index: int, connection: Connection, answered: "asyncio.Future[bytes]") -> None:
        nonlocal num_failed, left
        seconds[index] = time.perf_counter() - (begin_exact + index / rate)
        num_failed += answered.exception() is not None or not answered.result().startswith(b"HTTP/1.1 200")
        free.append(connection)
        left -= 1
        if waiting:
            send(waiting.popleft())
        if not left:
            all_done.set_result(None)

    def due(index: int) -> None:
        if free:
            send(index)
        else:
            waiting.append(index)

    for index in range(len(requests)):
        loop.call_at(begin + index / rate, due, index)
    await all_done
    return {"seconds": seconds, "failed": num_failed}


async def closed_loop(connections: list[Connection], requests: list[bytes], *, seconds: float) -> dict[str, Any]:
    """How many requests were answered in that time."""
    num_answered = num_failed = num_bytes = 0
    begin = time.perf_counter()
    ends = begin + seconds

    async def keep_asking(connection: Connection, offset: int) -> None:
        nonlocal num_answered, num_failed, num_bytes
        index = offset
        while time.perf_counter() < ends:
            answer = await connection.ask(requests[index % len(requests)])
            index += 1
            num_answered += 1
            num_bytes += len(answer)
            num_failed += not answer.startswith(b"HTTP/1.1 200")

    await asyncio.gather(*[keep_asking(connection, 7 * place) for place, connection in enumerate(connections)])
    wall = time.perf_counter() - begin
    return {"answered": num_answered, "failed": num_failed, "bytes": num_bytes, "wall": wall}


async def _run(task: dict[str, Any]) -> dict[str, Any]:
    parts = urlsplit(task["url"])
    loop = asyncio.get_running_loop()
    connections = [
        (await loop.create_connection(Connection, parts.hostname, parts.port))[1] for _ in range(task["connections"])
    ]
    requests = [request_of(task["url"], body, task["key"]) for body in _bodies(task)]
    if "rate" in task:
        # Connections that were never used would pay for the server's first steps inside the measurement.
        await asyncio.gather(*[connection.ask(requests[0]) for connection in connections])
        return await open_loop(connections, requests, rate=task["rate"])
    return await closed_loop(connections, requests, seconds=task["seconds"])


def _bodies(task: dict[str, Any]) -> list[dict[str, Any]]:
    """Prompts of some length, each another one; a seed makes them the same in every process."""
    text = "Explain in two sentences how the mill at the river turns grain into flour, and why. "
    return [
        {
            "model": task["model"],
            "stream": task.get("stream", False),
            **({"max_tokens": task["max_tokens"]} if "max_tokens" in task else {}),
            "messages": [
                {"role": "system", "content": "Answer briefly."},
                {"role": "user", "content": f"{text * 3} ({task['seed']}-{number})"},
            ],
        }
        for number in range(task["requests"])
    ]


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        print(json.dumps(runner.run(_run(json.loads(sys.argv[1])))))
