"""An HTTP proxy that fails as a server does: answers 503, does what was asked and loses the reply, is slow, flips bits.

Each connection carries one request. The host header goes on as it came: signatures stay valid for this address.
"""

import random
import socket
import socketserver
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

KINDS = ("unavailable", "lost reply", "slow", "cut short", "flipped bit")
_UNAVAILABLE = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
_SLOW_SECONDS = 0.2


class FaultProxy(socketserver.ThreadingTCPServer):
    """Fails one request in `one_in`; 0: none. `made` counts what it did."""

    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 128

    def __init__(self, target_endpoint: str, seed: int) -> None:
        super().__init__(("127.0.0.1", 0), _Connection)
        host, _, port = target_endpoint.removeprefix("http://").partition(":")
        self.target = (host, int(port))
        self.one_in = 0
        self.made: Counter[str] = Counter()
        self.chance = random.Random(seed)

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hung up is no news here."""

    def next_fault(self) -> str | None:
        if not self.one_in or self.chance.randrange(self.one_in):
            return None
        kind = self.chance.choice(KINDS)
        self.made[kind] += 1
        return kind


class _Connection(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        proxy = self.server
        assert isinstance(proxy, FaultProxy)
        head = _read_head(self.rfile)
        body = self.rfile.read(_content_length(head))
        fault = proxy.next_fault()
        if fault == "unavailable":
            self.wfile.write(_UNAVAILABLE)
            return
        if fault == "slow":
            time.sleep(_SLOW_SECONDS)
        reply = bytearray(_forward(proxy.target, head, body))
        if fault == "lost reply":
            return
        num_body_bytes = len(reply) - reply.find(b"\r\n\r\n") - 4
        if fault == "cut short" and num_body_bytes:
            del reply[-(num_body_bytes // 2 + 1) :]
        # Only of objects that carry digests: what S3 says of itself has no protection but TCP's.
        if fault == "flipped bit" and num_body_bytes > 1000 and b".arrow" in head.split(b"\r\n", 1)[0]:
            reply[-proxy.chance.randrange(1, num_body_bytes)] ^= 1
        self.wfile.write(reply)


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
def fault_proxy(target_endpoint: str, seed: int) -> Iterator[FaultProxy]:
    """Runs in threads of its own, on a free port of 127.0.0.1."""
    proxy = FaultProxy(target_endpoint, seed)
    thread = threading.Thread(target=proxy.serve_forever, daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        with suppress(OSError):
            proxy.shutdown()
            proxy.server_close()
        thread.join()
