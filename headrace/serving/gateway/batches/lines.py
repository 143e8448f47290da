"""A line of a batch, asked as a client's request would be: the same reader, pin, chain, records and refusals.

It differs in three things. It has no connection, so nobody can leave before its answer. It takes a place that no live
request wants. And it belongs to a session, its batch: all lines of a batch see the version set of the first, as the
turns of a conversation do.
"""

from collections.abc import Callable, MutableMapping
from dataclasses import dataclass, field
from typing import Any

from headrace.serving.gateway.http_messages import Request
from headrace.serving.gateway.http_protocol import EXTENSION
from headrace.serving.gateway.openai_bodies import Ask
from headrace.serving.gateway.openai_media_bodies import MediaAsk
from headrace.serving.gateway.outcomes import Outcomes
from headrace.serving.gateway.readers import Reader
from headrace.serving.gateway.refusals import invalid, refusal_of
from headrace.serving.gateway.request_headers import SESSION
from headrace.serving.gateway.units import Units

# What may pass by itself: no place, no engine, no set yet.
_COMES_BACK = frozenset({408, 429, 503})


@dataclass
class LineAnswer:
    """`retry_after_seconds`: None: the answer does not say. `ignored`: fields that the service passes over."""

    status: int = 0
    body: bytes = b""
    retry_after_seconds: float | None = None
    ignored: tuple[str, ...] = ()

    @property
    def comes_back(self) -> bool:
        """Whether asking again is no attempt of the line's own: nobody has begun with it."""
        return self.status in _COMES_BACK

    @property
    def may_pass(self) -> bool:
        """Whether another attempt may end otherwise."""
        return self.status >= 500 or self.comes_back


@dataclass
class _NoConnection:
    """Stands for a connection: nobody can be gone, and nobody reads slowly."""

    cut_reason: str = ""
    when_lost: Callable[[], object] | None = None
    is_stalled: bool = field(default=False, init=False)

    def hold_head(self) -> None:
        """There is none."""

    cut_stalled = cut_midway = hold_head

    def expect_body(self, bytes_max: int) -> None:
        """It is there already."""

    body_goes_on = hold_head


class LineAsking:
    """Asks lines of one endpoint.

    Args:
        readers: of the service, by path.
    """

    def __init__(self, units: Units, outcomes: Outcomes, readers: dict[str, Reader]) -> None:
        self._units, self._outcomes, self._readers = units, outcomes, readers

    async def ask(self, endpoint: str, body: bytes, *, request_id: str, key: str, session: str) -> LineAnswer:
        """The line's answer, of whatever status. `key`: the name of its client's API key."""
        answer, parts = LineAnswer(), []

        async def receive() -> MutableMapping[str, Any]:
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                answer.status = message["status"]
                told = dict(message["headers"])
                retry, ignored = told.get(b"retry-after"), told.get(b"x-headrace-ignored")
                answer.retry_after_seconds = float(retry) if retry else None
                answer.ignored = tuple(ignored.decode().split(", ")) if ignored else ()
            else:
                parts.append(message["body"])

        headers = [(SESSION.raw, session.encode()), (b"x-request-id", request_id.encode())]
        scope = {"method": "POST", "path": endpoint, "headers": headers, "extensions": {EXTENSION: _NoConnection()}}
        request = Request(scope, receive, send)
        request.key = key
        try:
            await self._units.serve_known(request, self._read(endpoint), is_bulk=True)
        except Exception as error:  # noqa: BLE001 (whatever failed, the line has its answer, as a client would)
            refusal = refusal_of(error)
            self._outcomes.explain(request.id, error, refusal)
            self._outcomes.refused(request=request.id, key=key, status=refusal.status, code=refusal.code)
            await request.refuse(refusal, [])
        answer.body = b"".join(parts)
        return answer

    def _read(self, endpoint: str) -> Reader:
        read = self._readers[endpoint]

        def whole(raw: bytes) -> Ask | MediaAsk:
            ask = read(raw)
            if ask.stream:
                raise invalid("A line of a batch is answered whole; send it without stream.", param="stream")
            return ask

        return whole
