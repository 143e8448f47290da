"""Clients that write bytes by hand, to say what no library would."""

import json
import socket
import time
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

from simulation.servers.gateway_site import KEY, GatewayProcess

_SECONDS_MAX = 60.0


class Answer:
    """What came back until the gateway closed, or the answer was complete."""

    def __init__(self, raw: bytes) -> None:
        self.raw = raw
        head, _, self.body = raw.partition(b"\r\n\r\n")
        lines = head.decode("latin-1").split("\r\n")
        self.status = int(lines[0].split(" ")[1]) if raw else 0
        self.headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines[1:] if line)}

    @property
    def error(self) -> dict[str, Any]:
        return json.loads(self.body)["error"]


class RawClient:
    """One connection."""

    def __init__(self, gateway: GatewayProcess, *, receive_bytes: int | None = None) -> None:
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        if receive_bytes:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        self.socket.settimeout(_SECONDS_MAX)
        self.socket.connect(("127.0.0.1", urlsplit(gateway.url).port))

    def send(self, *parts: bytes) -> "RawClient":
        """A gateway that has had enough ends the connection: what it said before that is still there to be read."""
        with suppress(OSError):
            for part in parts:
                self.socket.sendall(part)
        return self

    def until_closed(self) -> Answer:
        raw = b""
        with suppress(ConnectionError):
            while part := self.socket.recv(65_536):
                raw += part
        self.socket.close()
        return Answer(raw)

    def answer(self) -> Answer:
        """One answer of a known length; the connection is kept."""
        raw = b""
        while True:
            part = self.socket.recv(65_536)
            raw += part
            answer = Answer(raw)
            if not part or len(answer.body) >= int(answer.headers.get("content-length", 1 << 60)):
                return answer

    def is_closed_within(self, seconds: float) -> bool:
        ends = time.monotonic() + seconds
        while (left := ends - time.monotonic()) > 0:
            self.socket.settimeout(left)
            try:
                if not self.socket.recv(65_536):
                    return True
            except ConnectionError:
                return True
            except TimeoutError:
                break
        return False

    def close(self) -> None:
        self.socket.close()


def post(*headers: bytes, body: bytes | None = None, key: str | None = KEY, length: int | None = None) -> bytes:
    """A chat completion; `length`: what is claimed of the body's, if not the truth."""
    body = chat() if body is None else body
    lines = [b"POST /v1/chat/completions HTTP/1.1", b"Host: gateway", *headers]
    if key is not None:
        lines.append(f"Authorization: Bearer {key}".encode())
    if not any(line.lower().startswith(b"transfer-encoding") for line in headers):
        lines.append(b"Content-Length: %d" % (len(body) if length is None else length))
    return b"\r\n".join([*lines, b"", b""]) + body


def chat(**changes: Any) -> bytes:
    body = {"model": "assistant", "messages": [{"role": "user", "content": "Tell me of the mill."}], "max_tokens": 3}
    return json.dumps(body | changes).encode()


def chunked(body: bytes, *trailers: bytes) -> bytes:
    return b"%x\r\n%s\r\n0\r\n%s\r\n" % (len(body), body, b"".join(trailer + b"\r\n" for trailer in trailers))
