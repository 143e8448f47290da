"""HTTP/1.1 before the client is known: uvicorn's protocol, with limits on what a stranger can make the gateway hold.

uvicorn's options do not fit: `limit_concurrency` refuses health checks too, `timeout_keep_alive` only runs between two
requests, and `h11_max_incomplete_event_size` is for another parser, which is three times as slow. So this module counts
bytes before they are parsed, and `Connections` measures the time.

- A head has limits on its bytes, headers and URL. A larger one is refused with a reason (431, 414). What the client
still sends is discarded for a moment; otherwise it would see a reset instead of the reason.
- Headers after the body (trailers) are read and dropped, since everything is decided by then.
- An offer of another protocol (`Upgrade: h2c`, from `curl --http2` and Java's HttpClient) is ignored. The parser skips
the body of such a request, so a new parser gets its head without the offer.
- One offer is taken: WebSocket on the path of calls, if the service holds calls. From then on all bytes are the
socket's, and the connection still counts among all others.
"""

import asyncio
import os
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol, cast

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from headrace.serving.gateway.connections import Connections, Wait
from headrace.serving.gateway.head_with_body import HeadWithBody
from headrace.serving.gateway.refusals import Refusal, invalid, overloaded

# The scope's `extensions` key under which an ASGI application finds its connection.
EXTENSION = "headrace.connection"
# Paths that are answered even if everything else is full: whether it lives, whether it takes units, its figures.
HEALTH_PAGES = frozenset({"/healthz", "/readyz", "/metrics"})
# Requests that may wait on one connection behind an earlier one. Few clients send even a second one.
_NUM_PIPELINED_MAX = 32
# Bytes beyond the limits that are read and discarded before the connection is reset.
THROWN_AWAY_BYTES_MAX = 16 * 1_048_576
# Bytes of a stream that may wait for their client before its engine waits too: some fifty events. More would only pile
# up for clients that do not read.
_UNSENT_BYTES_MAX = 16_384
# Headers and tokens that offer another protocol; without them the request is an ordinary one.
_OFFER = frozenset({b"upgrade", b"http2-settings"})


class TakenOver(Protocol):
    """What has a connection's bytes instead of HTTP."""

    def received(self, data: bytes) -> None: ...
    def lost(self) -> None: ...


class Takers(Protocol):
    """Who takes offers of WebSocket."""

    path: str

    def take(self, connection: "GatewayProtocol", headers: list[tuple[bytes, bytes]], head: bytes) -> TakenOver:
        """Args: head: of the request, as it came, of which `headers` are read. What follows it is given to `received`.

        Raises: Refusal: the client gets that instead."""
        ...


# Sends a whole answer with status 200: its body and headers of its own.
Answer = Callable[[bytes, list[tuple[bytes, bytes]]], None]


class WholeRequests(Protocol):
    """Who answers requests of one path that came whole, without a task for each: half of a short request's cost."""

    path: str

    def take(self, cycle: RequestResponseCycle, answer: Answer) -> bool:
        """Whether it is going to be answered, later and once; else it becomes a task. Raises nothing."""
        ...


class GatewayProtocol(HttpToolsProtocol):
    """One connection; uvicorn creates it when it accepts."""

    def __init__(
        self,
        *,
        connections: Connections,
        takers: Takers | None = None,
        whole: WholeRequests | None = None,
        **uvicorns: Any,
    ) -> None:
        super().__init__(**uvicorns)
        self._guard = connections
        self._takers, self._whole = takers, whole
        # What is to be started once it is known whether its request came whole.
        self._held: Any = None
        self._taken_over: TakenOver | None = None
        limits = connections.limits
        self._head_bytes_max = limits.head_bytes_max
        self._usual_bytes_max = limits.head_bytes_max + limits.request_bytes_max + THROWN_AWAY_BYTES_MAX
        self._bytes_max = self._usual_bytes_max
        self._is_for_all = True
        self.is_open = False
        self.waits_for: Wait | None = None
        # Why it was cut; empty: it was not cut.
        self.cut_reason = ""
        # State of the request that is being read. `_is_in_head`: its head has begun and is incomplete.
        self._is_in_head = False
        self._is_whole = True
        self._is_offer = False
        self._num_bytes = 0
        # Refused or cut: further bytes are not parsed.
        self._has_ended = False
        self._refusal: Refusal | None = None
        # The request that is being answered; `cycle` is the one that was read last.
        self._answering: RequestResponseCycle | None = None
        # Called if the connection is lost before the answer is complete.
        self.when_lost: Callable[[], object] | None = None

    # --- called by the transport ---

    def connection_made(self, transport: asyncio.Transport) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        super().connection_made(transport)
        transport.set_write_buffer_limits(high=_UNSENT_BYTES_MAX)
        self.transport = cast("Any", HeadWithBody(transport))
        is_for_all = self._guard.opened(self)
        if is_for_all is None:
            self._cut("no room", abort=True)
        elif not is_for_all:
            self._is_for_all = False
            self.app = cast("Any", _HealthOnly(self.app))

    def connection_lost(self, exc: Exception | None) -> None:
        self._guard.closed(self)
        if self._taken_over is not None:
            self._taken_over.lost()
            self._taken_over = None
        answering = self._answering
        super().connection_lost(exc)
        if answering is not None and answering is not self.cycle and not answering.response_complete:
            # uvicorn notifies the request that was read last, but the one being answered waits too.
            answering.disconnected = True
            answering.message_event.set()
        if self.when_lost is not None:
            self.when_lost()
            self.when_lost = None
        # Requests refer to their connection. Without these lines the connection would refer to its requests too, and
        # the cycle would stay in memory until Python's cycle collector runs, which is rare here.
        self.scope = self.cycle = cast("Any", None)
        self._answering = None

    def data_received(self, data: bytes) -> None:
        if self._taken_over is not None:
            self._taken_over.received(data)
            return
        self._num_bytes += len(data)
        if self._has_ended:
            if self._num_bytes > THROWN_AWAY_BYTES_MAX:
                self.transport.abort()
            return
        while True:
            try:
                self.parser.feed_data(data)
            except httptools.HttpParserUpgrade as offer:
                if self._is_offer_of_calls():
                    self._hand_over(data[offer.args[0] :])
                    return
                data = self._without_offer() + data[offer.args[0] :]
                continue
            except httptools.HttpParserError:
                self._refuse(self._refusal or invalid("This is no HTTP/1.1 request.", code="malformed_request"))
                return
            break
        self._offer()
        self._wait_for_the_rest()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._guard.wait_for_room(self, is_full=True)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._guard.wait_for_room(self, is_full=False)

    # --- called by the parser ---

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._is_in_head, self._is_whole, self._is_offer = True, False, False
        self._bytes_max = self._usual_bytes_max
        self.scope["extensions"] = cast("Any", {EXTENSION: self})

    def on_headers_complete(self) -> None:
        self._check_head()
        if self.parser.should_upgrade():
            if self.parser.get_method() == b"CONNECT":
                raise self._refused(Refusal(405, "CONNECT is a proxy's business; this is none."))
            self._is_offer = True
            return
        if len(self.pipeline) >= _NUM_PIPELINED_MAX:
            raise self._refused(overloaded("Too many requests at once on one connection.", retry_after_seconds=1.0))
        super().on_headers_complete()
        if not self._is_for_all:
            self.cycle.keep_alive = False
        self._is_in_head = False
        # From here on the parser's "headers" are trailers; they go into a list that nobody reads.
        self.headers = []

    def on_message_complete(self) -> None:
        if self._is_offer:
            return
        self._is_whole = True
        self._num_bytes = 0
        super().on_message_complete()
        self._offer()

    # --- the requests' progress ---

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._answering = cycle
        if self._whole is None or cycle.scope["path"] != self._whole.path or not self._is_for_all:
            super()._start_asgi_task(cycle, app)
        else:
            self._held = app

    def _offer(self) -> None:
        """Starts what is held, unless its request came whole and is taken as such."""
        app, self._held = self._held, None
        if app is None or self._whole is None:
            return
        cycle = self.cycle
        is_whole = not (cycle.more_body or cycle.waiting_for_100_continue or self.flow.write_paused)
        if not (is_whole and self._whole.take(cycle, partial(self._answer, cycle))):
            super()._start_asgi_task(cycle, app)

    def _answer(self, cycle: RequestResponseCycle, body: bytes, headers: list[tuple[bytes, bytes]]) -> None:
        if cycle.disconnected or cycle.response_complete:
            return
        cycle.response_started = cycle.response_complete = True
        ends = [] if cycle.keep_alive else [(b"connection", b"close")]
        self._write(200, [*self.server_state.default_headers, *headers, *ends], body)
        if not cycle.keep_alive:
            self.transport.close()
        self.on_response_complete()

    def _write(self, status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
        head = [STATUS_LINE[status]]
        for name, value in headers:
            head += [name, b": ", value, b"\r\n"]
        self.transport.write(b"".join([*head, b"content-length: %d\r\n\r\n" % len(body), body]))

    def on_response_complete(self) -> None:
        """Replaces uvicorn's, which starts a timer for every response; `Connections` does not need one."""
        self.server_state.total_requests += 1
        # An answer to HEAD has no body with which its head could be sent.
        cast("HeadWithBody", self.transport).flush()
        if self.transport.is_closing():
            # The transport closes after its bytes are sent, and the client decides when.
            self._guard.wait(self, Wait.CLOSE)
            return
        self.flow.resume_reading()
        if self.pipeline:
            self._answering, app = self.pipeline.pop()
            super()._start_asgi_task(self._answering, app)
            self._wait_for_the_rest()
        elif self._is_whole:
            self._guard.wait(self, Wait.NEXT)
        elif self._is_in_head:
            self._guard.wait(self, Wait.HEAD)
        else:
            # Answered before its body came: the rest of the body is read and discarded, for a moment.
            self._guard.wait(self, Wait.CLOSE)

    def waited_too_long(self, wait: Wait, seconds: float) -> None:
        match wait:
            case Wait.NEXT:
                self.transport.close()
                self._guard.wait(self, Wait.CLOSE)
            case Wait.HEAD if not self._num_bytes:
                self._cut("no request", seconds=seconds)
            case Wait.HEAD:
                self._refuse(_late("head", seconds), why="slow head", seconds=seconds)
            case Wait.BODY:
                self._refuse(_late("body", seconds), why="slow body", seconds=seconds)
            case Wait.ROOM:
                self._cut("client stalled", abort=True, seconds=seconds)
            case Wait.CLOSE:
                self.transport.abort()

    def give_way(self) -> None:
        self._cut("gave way", abort=True)

    # --- for who has taken it over ---

    def write(self, data: bytes) -> None:
        if not self.transport.is_closing():
            self.transport.write(data)

    def close(self) -> None:
        self._guard.wait(self, Wait.CLOSE)
        self.transport.close()

    def pause_reading(self) -> None:
        self.flow.pause_reading()

    def resume_reading(self) -> None:
        self.flow.resume_reading()

    async def drain(self) -> None:
        await self.flow.drain()

    # --- the answers ---

    def hold_head(self) -> None:
        """Delays the next bytes, a response's head, and sends them with those that follow."""
        cast("HeadWithBody", self.transport).hold()

    def expect_body(self, bytes_max: int) -> None:
        """Lets the present request have a larger body than the service's requests: its client is known."""
        self._bytes_max = self._guard.limits.head_bytes_max + bytes_max + THROWN_AWAY_BYTES_MAX

    def body_goes_on(self) -> None:
        """Gives such a body its time anew: enough of it came to call that progress."""
        if self.waits_for is Wait.BODY:
            self._guard.wait(self, Wait.BODY)

    @property
    def is_stalled(self) -> bool:
        """Whether the client takes no more bytes of its answer for now."""
        return self.flow.write_paused

    def cut_stalled(self) -> None:
        """Cuts the connection of a client that did not read in time."""
        self._cut("client stalled", abort=True)

    def cut_midway(self) -> None:
        """Cuts the connection in the middle of an answer of a stated length: its client sees that bytes are missing."""
        self._cut("broken off", abort=True)

    def _wait_for_the_rest(self) -> None:
        """Sets what this connection waits for, after new bytes or the end of an answer."""
        answering = self._answering
        is_answering = answering is not None and not answering.response_complete
        if self._is_in_head or self._is_whole:
            if self._num_bytes > self._head_bytes_max:
                self._refuse(self._too_large())
            elif is_answering:
                # Here the client waits, even if it has sent a part of the next request.
                self._wait(None)
            else:
                self._wait(Wait.HEAD if self._is_in_head or self._num_bytes else Wait.NEXT)
        elif self._num_bytes > self._bytes_max:
            self._refuse(Refusal(413, "Far more bytes than a request may have.", code="request_too_large"))
        elif is_answering and answering is self.cycle:
            self._wait(Wait.BODY)

    def _wait(self, wait: Wait | None) -> None:
        """Sets a new wait; the same wait continues, so no byte buys more time."""
        if self.waits_for is not wait:
            self._guard.wait(self, wait)

    def _check_head(self) -> None:
        """Raises an error that ends the parsing if the head is too large."""
        limits = self._guard.limits
        if len(self.headers) > limits.num_headers_max:
            message = f"A request may have {limits.num_headers_max} headers, got {len(self.headers)}."
            raise self._refused(Refusal(431, message, code="headers_too_large"))
        # The received bytes include the head, so most heads need no exact count.
        if len(self.url) > limits.url_bytes_max or (
            self._num_bytes > self._head_bytes_max
            and sum(len(name) + len(value) + 4 for name, value in self.headers) + len(self.url) > self._head_bytes_max
        ):
            raise self._refused(self._too_large())

    def _too_large(self) -> Refusal:
        limits = self._guard.limits
        if len(self.url) > limits.url_bytes_max:
            message = f"A request's URL may have {limits.url_bytes_max} bytes; this one has more."
            return Refusal(414, message, code="url_too_long")
        message = f"A request's line and headers may have {limits.head_bytes_max} bytes; these have more."
        return Refusal(431, message, code="headers_too_large")

    def _refused(self, refusal: Refusal) -> Refusal:
        """Keeps the refusal, and returns it for raising inside the parser, which only lets its own errors through."""
        self._refusal = refusal
        return refusal

    def _is_offer_of_calls(self) -> bool:
        if self._takers is None or self.parser.get_method() != b"GET":
            return False
        named = {value.strip().lower() for name, value in self.headers if name == b"upgrade"}
        return named == {b"websocket"} and self.url.partition(b"?")[0] == self._takers.path.encode()

    def _hand_over(self, rest: bytes) -> None:
        """Gives the connection to who takes calls, from the byte after the head on."""
        assert self._takers is not None
        answering = self._answering
        if answering is not None and not answering.response_complete:
            self._refuse(invalid("Another request on this connection is still being answered."))
            return
        lines = [self._first_line(), *[b"%s: %s" % header for header in self.headers]]
        try:
            if not self._is_for_all:
                raise overloaded("All connections are taken; come back later.", retry_after_seconds=1.0)
            taken_over = self._takers.take(self, self.headers, b"\r\n".join([*lines, b"", b""]))
        except Refusal as refusal:
            self._refuse(refusal)
            return
        self._guard.wait(self, None)
        self._num_bytes = 0
        self._taken_over = taken_over
        if rest:
            taken_over.received(rest)

    def _first_line(self) -> bytes:
        return b"%s %s HTTP/%s" % (self.parser.get_method(), self.url, self.parser.get_http_version().encode())

    def _without_offer(self) -> bytes:
        """Returns the last read head without an offer of another protocol; a new parser will read it."""
        lines = [self._first_line()]
        for name, value in self.headers:
            if name == b"connection":
                kept = [token for token in value.split(b",") if token.strip().lower() not in _OFFER]
                value = b",".join(kept).strip()
            if name not in _OFFER and value:
                lines.append(b"%s: %s" % (name, value))
        self.parser = httptools.HttpRequestParser(cast("Any", self))
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
        return b"\r\n".join([*lines, b"", b""])

    def _refuse(self, refusal: Refusal, *, why: str = "", **fields: Any) -> None:
        """Sends the refusal if the application has not answered; ends the connection. `why`: by default its code."""
        why = why or refusal.code or str(refusal.status)
        answering = self._answering
        if answering is not None and not answering.response_complete:
            is_its_body = answering is self.cycle and not (self._is_in_head or self._is_whole)
            if answering.response_started or not is_its_body:
                # Another answer has begun or comes first: this one cannot be sent.
                self._cut(why, abort=True, **fields)
                return
            # The application waits for a body that will not come.
            answering.disconnected = True
            answering.message_event.set()
        request = os.urandom(16).hex()
        own = [(b"content-type", b"application/json"), (b"x-request-id", request.encode()), (b"connection", b"close")]
        self._write(refusal.status, [*self.server_state.default_headers, *own, *refusal.headers], refusal.body)
        self._cut(why, status=refusal.status, request=request, **fields)

    def _cut(self, why: str, *, abort: bool = False, **fields: Any) -> None:
        """Ends the connection: at once, or after the client has read the reason."""
        self.cut_reason = why
        client = self.client and f"{self.client[0]}:{self.client[1]}"
        self._guard.cut(why, client=client, num_bytes=self._num_bytes, **fields)
        self._has_ended = True
        self._num_bytes = 0
        if abort:
            self.transport.abort()
            return
        self.flow.resume_reading()
        self._guard.wait(self, Wait.CLOSE)
        if self.transport.can_write_eof():
            self.transport.write_eof()
        else:
            self.transport.close()


class _HealthOnly:
    """The application for connections beyond the normal limit."""

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] in HEALTH_PAGES:
            await self._app(scope, receive, send)
            return
        refusal = overloaded("All connections are taken; come back later.", retry_after_seconds=1.0)
        headers = [(b"content-type", b"application/json"), *refusal.headers]
        headers.append((b"content-length", b"%d" % len(refusal.body)))
        await send({"type": "http.response.start", "status": refusal.status, "headers": headers})
        await send({"type": "http.response.body", "body": refusal.body})


def _late(what: str, seconds: float) -> Refusal:
    message = f"A request's {what} must come within {seconds:g} s; it did not."
    return Refusal(408, message, code="request_timeout")
