"""Requests and responses directly over ASGI: a framework's share of each would cost more than all the rest.

Bytes of a body are counted as they come, so no client makes the gateway hold more than the service's limit. A body that
is too long is read to its end, within limits, before the refusal: if the connection closed while the client still
sends, it would see a reset instead of the reason.
"""

import json
import os
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from headrace.serving.gateway.http_protocol import EXTENSION, THROWN_AWAY_BYTES_MAX, GatewayProtocol
from headrace.serving.gateway.refusals import Refusal
from headrace.serving.gateway.request_headers import check_repeated

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]

JSON = (b"content-type", b"application/json")
# Of a large body, what is sent at once.
_PIECE_BYTES = 65_536


class ClientGone(Exception):
    """The client closed its connection: nobody waits for the answer."""


class Request:
    """One HTTP request. Header names are lower-case bytes."""

    __slots__ = (
        "_has_repeated",
        "_written",
        "answer_headers",
        "connection",
        "finished",
        "headers",
        "id",
        "is_events",
        "key",
        "method",
        "path",
        "query",
        "receive",
        "send",
        "started",
    )

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.method: str = scope["method"]
        self.path: str = scope["path"]
        self.query: bytes = scope["query_string"]
        self._written: Headers = scope["headers"]
        self.headers: dict[bytes, bytes] = dict(self._written)
        self._has_repeated = len(self.headers) < len(self._written)
        self.connection: GatewayProtocol = scope["extensions"][EXTENSION]
        self.receive = receive
        self.send = send
        # `X-Request-Id`: the client's, or a unique one.
        self.id = self._id()
        self.answer_headers: Headers = [(b"x-request-id", self.id.encode())]
        # The API key's name, once known.
        self.key: str | None = None
        # Whether the status line was sent: after that a failure can only cut the response off.
        self.started = False
        self.finished = False
        # Whether what was started is a stream of server-sent events, to which another can be added.
        self.is_events = False

    def check(self) -> None:
        """Raises: Refusal: a header that decides something occurs twice."""
        if self._has_repeated:
            check_repeated(self._written)

    @property
    def is_stalled(self) -> bool:
        """Whether the client takes no more of its answer for now, so that further bytes would wait."""
        return self.connection.is_stalled

    @property
    def gone_because(self) -> str:
        """Why nobody waits for the answer any more."""
        return self.connection.cut_reason or "client gone"

    def _id(self) -> str:
        given = self.headers.get(b"x-request-id")
        if given:
            # An id that does not fit into a log line or a header is replaced: it is only a convenience, not worth a
            # refusal.
            text = given.decode("latin-1")
            if text.isprintable() and text.isascii() and len(text) <= 128:
                return text
        return os.urandom(16).hex()

    async def body(self, bytes_max: int) -> bytes:
        """Raises:
        Refusal: the body has more than `bytes_max` bytes.
        ClientGone: the connection closed before the body's end, or the body took too long; then its client has been
        told.
        """
        parts: list[bytes] = []
        num_bytes, more = 0, True
        while more and num_bytes <= bytes_max + THROWN_AWAY_BYTES_MAX:
            message = await self.receive()
            if message["type"] == "http.disconnect":
                raise ClientGone
            part, more = message.get("body", b""), message.get("more_body", False)
            num_bytes += len(part)
            if num_bytes <= bytes_max:
                parts.append(part)
            else:
                parts.clear()
        if num_bytes > bytes_max:
            raise Refusal(
                413,
                f"A request may have {bytes_max} bytes, got {'at least ' if more else ''}{num_bytes}; "
                "send fewer or shorter messages.",
                code="request_too_large",
            )
        return b"".join(parts)

    async def respond(self, status: int, body: bytes, headers: Headers, *, kind: tuple[bytes, bytes] = JSON) -> None:
        """Sends the whole response. Appends to `headers`, so pass a list of its own.

        A large body goes in pieces, each once its client has taken the one before: otherwise a client that does not
        read would leave all of it in memory, and one that reads slowly would be taken for it.
        """
        headers.append(kind)
        headers.append((b"content-length", b"%d" % len(body)))
        self.started, self.finished = True, len(body) <= _PIECE_BYTES
        self.connection.hold_head()
        await self.send({"type": "http.response.start", "status": status, "headers": headers})
        last = max(len(body) - 1, 0) // _PIECE_BYTES * _PIECE_BYTES
        for start in range(0, last, _PIECE_BYTES):
            piece = body[start : start + _PIECE_BYTES]
            await self.send({"type": "http.response.body", "body": piece, "more_body": True})
        self.finished = True
        await self.send({"type": "http.response.body", "body": body[last:] if last else body})

    async def refuse(self, refusal: Refusal, headers: Headers) -> None:
        headers.extend(refusal.headers)
        if refusal.status in (408, 413):
            headers.append((b"connection", b"close"))
        await self.respond(refusal.status, refusal.body, headers)

    async def start_events(self, headers: Headers) -> None:
        """Prepares the head of a stream of server-sent events; it is sent with the first event."""
        # Otherwise proxies such as nginx collect pieces until a buffer is full.
        headers += [
            (b"content-type", b"text/event-stream; charset=utf-8"),
            (b"cache-control", b"no-cache"),
            (b"x-accel-buffering", b"no"),
        ]
        self.started = self.is_events = True
        self.connection.hold_head()
        await self.send({"type": "http.response.start", "status": 200, "headers": headers})

    async def event(self, body: bytes, *, last: bool = False) -> None:
        self.finished = last
        await self.send({"type": "http.response.body", "body": body, "more_body": not last})


# `json.dumps` with arguments would build an encoder each time.
_ENCODE = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


def json_body(value: Any) -> bytes:
    return _ENCODE(value).encode("utf-8", "replace")
