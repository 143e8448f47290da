"""Clients that mean no good, in a process of their own: `python -m benchmarks.gateway.hostile_client '{…}'`.

All of them at once, on loopback alone, until a line comes on standard input and never longer than `seconds`; whoever is
cut off comes back, a bounded number of times. Prints how many connections were made and how many the gateway ended.

| kind | does |
|---|---|
| slow_heads | begins a request and sends a byte of a header twice a second |
| idle | connects and says nothing |
| slow_bodies | a head, every other one with a key, then a byte of the body twice a second |
| stalled | with a key, asks for a long stream and reads nothing of it |
| huge_heads | sends a header of 50 MB as fast as it is taken, one after the other |
"""

import asyncio
import json
import os
import signal
import socket
import sys
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any
from urllib.parse import urlsplit

import uvloop

_DRIP_SECONDS = 0.5
_HUGE_BYTES = 50_000_000
_CHUNK = b"a" * 262_144
# How often one of them comes back after it was cut off.
_NUM_RETURNS_MAX = 20
_RETURN_SECONDS = 0.5
# Small, so that few bytes of a stream that nobody reads fill everything on its way.
_RECEIVE_BYTES = 4096


class Hostile:
    """The clients, and what became of them."""

    def __init__(self, url: str, *, key: str, model: str, stream_tokens: int) -> None:
        parts = urlsplit(url)
        assert parts.hostname == "127.0.0.1", parts.hostname
        self._address = (parts.hostname, parts.port)
        self.counts: Counter[str] = Counter()
        body = {"model": model, "stream": True, "max_tokens": stream_tokens, "messages": [_message("Go on and on.")]}
        self._body = json.dumps(body).encode()
        self._head = (
            f"POST {parts.path} HTTP/1.1\r\nhost: {parts.netloc}\r\ncontent-type: application/json\r\n".encode()
        )
        self._key = f"authorization: Bearer {key}\r\n".encode()

    async def keep(self, kind: str, place: int, after_seconds: float) -> None:
        """One client of that kind, which comes back when it is cut off."""
        act: Callable[[socket.socket, int], Coroutine[Any, Any, None]] = getattr(self, f"_{kind}")
        await asyncio.sleep(after_seconds)
        for _ in range(_NUM_RETURNS_MAX):
            client = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
            client.setblocking(False)
            if kind == "stalled":
                client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BYTES)
            try:
                await asyncio.get_running_loop().sock_connect(client, self._address)
                self.counts[kind] += 1
                await act(client, place)
                self.counts[f"{kind} cut"] += 1
            except OSError:
                self.counts[f"{kind} cut"] += 1
            finally:
                client.close()
            await asyncio.sleep(_RETURN_SECONDS)

    async def _slow_heads(self, client: socket.socket, place: int) -> None:
        await self._drip(client, self._head + b"x-slow: ")

    async def _slow_bodies(self, client: socket.socket, place: int) -> None:
        key = self._key if place % 2 else b""
        await self._drip(client, self._head + key + b"content-length: 10000\r\n\r\n")

    async def _drip(self, client: socket.socket, begin: bytes) -> None:
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(client, begin)
        ended = asyncio.create_task(self._until_closed(client))
        try:
            while not ended.done():
                await asyncio.wait([ended], timeout=_DRIP_SECONDS)
                await loop.sock_sendall(client, b"a")
        finally:
            ended.cancel()

    async def _idle(self, client: socket.socket, place: int) -> None:
        await self._until_closed(client)

    async def _stalled(self, client: socket.socket, place: int) -> None:
        head = self._head + self._key + b"content-length: %d\r\n\r\n" % len(self._body)
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(client, head + self._body)
        while True:
            # Reads nothing; a byte that it may not send any more tells it that it was cut off.
            await asyncio.sleep(1.0)
            await loop.sock_sendall(client, b"\r\n")

    async def _huge_heads(self, client: socket.socket, place: int) -> None:
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(client, self._head + b"x-huge: ")
        for _ in range(_HUGE_BYTES // len(_CHUNK)):
            await loop.sock_sendall(client, _CHUNK)

    async def _until_closed(self, client: socket.socket) -> None:
        while await asyncio.get_running_loop().sock_recv(client, 65_536):
            pass


def _message(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


async def _run(task: dict[str, Any]) -> dict[str, int]:
    hostile = Hostile(task["url"], key=task["key"], model=task["model"], stream_tokens=task["stream_tokens"])
    clients = [
        # Spread over the first second or two: it is what they hold that is asked about, not how fast one can connect.
        asyncio.create_task(hostile.keep(kind, place, 0.01 * place))
        for kind, number in task["clients"].items()
        for place in range(number)
    ]
    print("begun", flush=True)
    told = asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
    await asyncio.wait([told], timeout=task["seconds"])
    for client in clients:
        client.cancel()
    await asyncio.gather(*clients, return_exceptions=True)
    return dict(hostile.counts)


if __name__ == "__main__":
    _task = json.loads(sys.argv[1])
    # Whatever goes wrong in here: it ends.
    signal.alarm(int(_task["seconds"]) + 30)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        print(json.dumps(runner.run(_run(_task))), flush=True)
    # A thread may still wait for a line of standard input.
    os._exit(0)
