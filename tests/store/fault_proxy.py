"""A real HTTP proxy in front of a server, that makes faults: replies lost, 503s, slowness, bytes flipped on their way.

Each request is forwarded over a connection of its own, whole, so that "after the server did it" is exact. The host
header goes on as it came: signatures stay valid when the client signs for the proxy's address.
"""

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

UNAVAILABLE = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    body: bytes


@dataclass
class Fault:
    """Does one thing to the requests that `matches` says yes to, `times` times (-1: always).

    `kind`: "lose_reply" (the server did it, the client never hears), "unavailable" (503; the server never hears),
    "delay" (by `seconds`), "break_body" (half of the reply, then the connection ends), "flip" (a bit of the body).
    """

    kind: str
    matches: Callable[[Request], bool] = lambda request: True
    times: int = 1
    seconds: float = 0.0


@dataclass
class FaultProxy:
    port: int
    target: tuple[str, int]
    faults: list[Fault] = field(default_factory=list)
    requests: list[Request] = field(default_factory=list)

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def add(self, kind: str, matches: Callable[[Request], bool] = lambda request: True, **more: float) -> Fault:
        fault = Fault(kind, matches, int(more.get("times", 1)), more.get("seconds", 0.0))
        self.faults.append(fault)
        return fault

    def take(self, request: Request) -> Fault | None:
        self.requests.append(request)
        for fault in self.faults:
            if fault.times and fault.matches(request):
                fault.times -= 1
                return fault
        return None


@contextmanager
def fault_proxy(target_endpoint: str) -> Iterator[FaultProxy]:
    """Runs in a thread of its own, on a free port of 127.0.0.1."""
    host, port = target_endpoint.removeprefix("http://").split(":")
    proxy = FaultProxy(0, (host, int(port)))
    loop = asyncio.new_event_loop()
    ready = threading.Event()

    async def serve() -> None:
        server = await asyncio.start_server(lambda reader, writer: _serve(proxy, reader, writer), "127.0.0.1", 0)
        proxy.port = server.sockets[0].getsockname()[1]
        ready.set()

    def run() -> None:
        asyncio.set_event_loop(loop)
        loop.create_task(serve())  # noqa: RUF006 (the loop is the thread's whole life)
        loop.run_forever()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    ready.wait(10)
    try:
        yield proxy
    finally:
        asyncio.run_coroutine_threadsafe(_end_all(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def _end_all() -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)


async def _serve(proxy: FaultProxy, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            body = await reader.readexactly(_content_length(head))
            method, path, _ = head.split(b"\r\n", 1)[0].decode().split(" ", 2)
            fault = proxy.take(Request(method, path, body))
            if fault and fault.kind == "unavailable":
                writer.write(UNAVAILABLE)
                await writer.drain()
                return
            if fault and fault.kind == "delay":
                await asyncio.sleep(fault.seconds)
            reply = await _forward(proxy.target, head, body)
            if fault and fault.kind == "lose_reply":
                return
            if fault and fault.kind == "break_body":
                reply = reply[: len(reply) - _content_length(reply) // 2 - 1]
            if fault and fault.kind == "flip":
                flipped = bytearray(reply)
                flipped[-(_content_length(reply) // 2) - 1] ^= 1
                reply = bytes(flipped)
            writer.write(reply)
            await writer.drain()
            return
    except (asyncio.IncompleteReadError, asyncio.CancelledError, ConnectionError):
        pass
    finally:
        writer.close()


async def _forward(target: tuple[str, int], head: bytes, body: bytes) -> bytes:
    reader, writer = await asyncio.open_connection(*target)
    lines = [line for line in head[:-4].split(b"\r\n") if not line.lower().startswith((b"connection:", b"expect:"))]
    writer.write(b"\r\n".join([*lines, b"Connection: close", b"", b""]) + body)
    await writer.drain()
    reply = await reader.read()
    writer.close()
    return reply


def _content_length(head: bytes) -> int:
    for line in head.split(b"\r\n\r\n", 1)[0].lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return int(line.split(b":", 1)[1])
    return 0
