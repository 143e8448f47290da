"""A real HTTP proxy in front of a server, with a proxy's faults: lost replies, 503s, delays, cut or flipped bodies.

Each connection carries one request, which is forwarded whole over its own connection, so "after the server did it" is
exact. The host header is forwarded unchanged: signatures stay valid if the client signs for this address.
"""

import random
import socket
import socketserver
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Literal, get_args

Failure = Literal["unavailable", "lose_reply", "delay", "break_body", "flip"]
_UNAVAILABLE = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
# Length of a drawn delay.
_DELAY_SECONDS = 0.2


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    body: bytes


@dataclass
class Fault:
    """Does one thing to the requests for which `matches` is true, `times` times (-1: always).

    `kind`: "lose_reply" (the server acts, the client gets no answer), "unavailable" (503; the server gets no request),
    "delay" (by `seconds`), "break_body" (half of the reply, then the connection ends), "flip" (a bit of the body).
    """

    kind: Failure
    matches: Callable[[Request], bool] = lambda request: True
    times: int = 1
    seconds: float = 0.0


class FaultProxy(socketserver.ThreadingTCPServer):
    """`faults`: planned faults of requests; in addition one request in `one_in` meets a drawn fault (0: none).

    `requests`: all requests; `made`: the drawn faults; `num_body_bytes`: how much was answered.
    """

    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 128

    def __init__(self, target_endpoint: str, seed: int = 0, *, host: str = "127.0.0.1") -> None:
        super().__init__((host, 0), _Connection)
        host, _, port = target_endpoint.removeprefix("http://").partition(":")
        self.target = (host, int(port))
        self.faults: list[Fault] = []
        self.requests: list[Request] = []
        self.one_in = 0
        self.made: Counter[str] = Counter()
        self.num_body_bytes = 0
        self._chance = random.Random(seed)
        self._lock = threading.Lock()

    @property
    def endpoint(self) -> str:
        return f"http://{self.server_address[0]}:{self.server_address[1]}"

    def add(self, kind: Failure, matches: Callable[[Request], bool] = lambda request: True, **more: Any) -> Fault:
        self.faults.append(Fault(kind, matches, **more))
        return self.faults[-1]

    def take(self, request: Request) -> Fault | None:
        with self._lock:
            self.requests.append(request)
            return self._told(request) or self._drawn(request)

    def count(self, num_body_bytes: int) -> None:
        with self._lock:
            self.num_body_bytes += num_body_bytes

    def _told(self, request: Request) -> Fault | None:
        for fault in self.faults:
            if fault.times and fault.matches(request):
                fault.times -= 1
                return fault
        return None

    def _drawn(self, request: Request) -> Fault | None:
        if not self.one_in or self._chance.randrange(self.one_in):
            return None
        kinds = list(get_args(Failure))
        if request.method != "GET" or ".arrow" not in request.path:
            # Objects of other kinds carry no digests: S3's own statements are protected by TCP only.
            kinds.remove("flip")
        kind = self._chance.choice(kinds)
        self.made[kind] += 1
        return Fault(kind, seconds=_DELAY_SECONDS if kind == "delay" else 0.0)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignores a client that hung up."""


class _Connection(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        proxy = self.server
        assert isinstance(proxy, FaultProxy)
        head = _read_head(self.rfile)
        if not head:
            return
        body = self.rfile.read(_content_length(head))
        method, path, _ = head.split(b"\r\n", 1)[0].decode().split(" ", 2)
        fault = proxy.take(Request(method, path, body))
        kind = fault.kind if fault else ""
        if kind == "unavailable":
            self.wfile.write(_UNAVAILABLE)
            return
        time.sleep(fault.seconds if fault else 0.0)
        reply = bytearray(_forward(proxy.target, head, body))
        num_body_bytes = len(reply) - reply.find(b"\r\n\r\n") - 4
        if kind == "lose_reply":
            return
        if kind == "break_body" and num_body_bytes:
            del reply[-(num_body_bytes // 2 + 1) :]
        if kind == "flip" and num_body_bytes:
            reply[-(num_body_bytes // 2) - 1] ^= 1
        self.wfile.write(reply)
        proxy.count(len(reply) - reply.find(b"\r\n\r\n") - 4)


def _read_head(stream: Any) -> bytes:
    lines = []
    while (line := stream.readline()) not in (b"\r\n", b""):
        lines.append(line)
    return b"".join(lines)


def _forward(target: tuple[str, int], head: bytes, body: bytes) -> bytes:
    lines = [line for line in head.splitlines(True) if not line.lower().startswith((b"connection:", b"expect:"))]
    with socket.create_connection(target) as server:
        server.sendall(b"".join(lines) + b"Connection: close\r\n\r\n" + body)
        received = []
        while chunk := server.recv(1 << 16):
            received.append(chunk)
        return b"".join(received)


def _content_length(head: bytes) -> int:
    for line in head.lower().splitlines():
        if line.startswith(b"content-length:"):
            return int(line.partition(b":")[2])
    return 0


@contextmanager
def fault_proxy(target_endpoint: str, seed: int = 0, *, host: str = "127.0.0.1") -> Iterator[FaultProxy]:
    """Runs in its own threads, on a free port of `host`."""
    proxy = FaultProxy(target_endpoint, seed, host=host)
    thread = threading.Thread(target=proxy.serve_forever, daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        with suppress(OSError):
            proxy.shutdown()
            proxy.server_close()
        thread.join()
