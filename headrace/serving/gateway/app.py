"""The gateway as an ASGI application: maps paths to handlers. No framework: it has few paths, one of them hot.

| path | needs a key | answer |
|---|---|---|
| POST /v1/chat/completions, /v1/completions | yes | an answer, whole or as server-sent events; of services that write |
| POST /v1/images/generations | yes | a picture, in JSON; of services that paint |
| POST /v1/audio/speech | yes | a recording; of services that speak |
| GET /v1/realtime | yes | a WebSocket: a call; of services that hear |
| POST /v1/events | yes | which events were taken; where the gateway has an inbox |
| /v1/files, /v1/batches and below them | yes | OpenAI's Files and Batch API; where the gateway has batches |
| GET /v1/events/results | yes | results of a campaign's events, as server-sent events |
| GET /v1/models, /v1/models/NAME | yes | the service, as OpenAI's clients expect it |
| GET /v1/rollout | yes | the journal's state, and the sets that are loaded here |
| GET /healthz | no | 200 while the process runs |
| GET /readyz | no | 200, or 503 with reasons; `degraded` with its own reasons |
| GET /metrics | no | Prometheus's text form; with the figures of the engine host that holds the models, if one does |
| GET /openapi.json | no | the description of all paths |
"""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from headrace.clock import Clock
from headrace.engines.openai.coming import COME_SECONDS
from headrace.serving.gateway.http_messages import ClientGone, Receive, Request, Scope, Send, json_body
from headrace.serving.gateway.http_protocol import Answer
from headrace.serving.gateway.metrics import CONTENT_TYPE, Metrics
from headrace.serving.gateway.openapi import openapi
from headrace.serving.gateway.outcomes import Outcomes
from headrace.serving.gateway.readers import readers_of
from headrace.serving.gateway.readiness import Readiness
from headrace.serving.gateway.refusals import Refusal, refusal_of
from headrace.serving.gateway.units import Units
from headrace.serving.service import Service
from headrace.version_sets.media_settings import MemberKind

if TYPE_CHECKING:  # only a gateway with an inbox loads it, and Arrow with it
    from headrace.serving.gateway.batches.api import BatchApi
    from headrace.serving.gateway.inbox import Inbox

Handler = Callable[[Request], Awaitable[None]]
_EVENTS, _RESULTS = "/v1/events", "/v1/events/results"
CALLS = "/v1/realtime"
_MODELS = "/v1/models/"


class Gateway:
    def __init__(
        self,
        service: Service,
        units: Units,
        outcomes: Outcomes,
        *,
        readiness: Readiness,
        metrics: Metrics,
        clock: Clock,
        inbox: "Inbox | None" = None,
        batches: "BatchApi | None" = None,
        host_metrics: Callable[[], Awaitable[bytes]] | None = None,
        come_seconds: Callable[[], Awaitable[float | None]] | None = None,
    ) -> None:
        """Args, of the engine host that this gateway asks, if it does: host_metrics: its page. come_seconds: until the
        stable set's models could work there; None: nobody knows."""
        self._units, self._outcomes, self._readiness = units, outcomes, readiness
        self._inbox, self._batches = inbox, batches
        self.path = _EVENTS
        self._refusing: set[asyncio.Task[None]] = set()
        self._metrics, self._host_metrics, self._come_seconds = metrics, host_metrics, come_seconds
        self._model = {"id": service.name, "object": "model", "created": int(clock.now()), "owned_by": "headrace"}
        self._openapi = json_body(
            openapi(
                service, needs_key=units.keys.num_keys > 0, has_inbox=inbox is not None, has_batches=batches is not None
            )
        )
        readers = readers_of(service)
        own = {} if service.hears else readers[service.makes]
        # Paths of other kinds of service: their clients have the wrong address, and are told the right one.
        self._elsewhere = {path for paths in readers.values() for path in paths} - own.keys()
        self._instead = (
            f"The service {service.name!r} holds calls: open a WebSocket at {CALLS}."
            if service.hears
            else f"The service {service.name!r} {_DOES[service.makes]}: send POST {' or '.join(own)}."
        )
        self._routes: dict[str, tuple[tuple[str, ...], Handler]] = {
            **{path: (("POST",), partial(units.serve, read=read)) for path, read in own.items()},
            **({_EVENTS: (("POST",), self._events), _RESULTS: (("GET",), self._results)} if inbox else {}),
            **({CALLS: (("GET",), self._calls)} if service.hears else {}),
            "/v1/models": (_READ, self._models),
            "/v1/rollout": (_READ, self._rollout),
            "/healthz": (_READ, self._healthz),
            "/readyz": (_READ, self._readyz),
            "/metrics": (_READ, self._metrics_page),
            "/openapi.json": (_READ, self._openapi_page),
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["type"] == "http", scope["type"]
        request = Request(scope, receive, send)
        try:
            request.check()
            await self._handler(request)(request)
        except ClientGone:
            return
        except Exception as error:  # noqa: BLE001 (the edge: whatever failed, a client hears of it in its own terms)
            await self._refuse(request, error)

    def take(self, cycle: RequestResponseCycle, answer: Answer) -> bool:
        """An event in a request that came whole; see `WholeRequests`."""
        request = Request(cast("Any", cycle.scope), cast("Any", cycle.receive), cast("Any", cycle.send))
        try:
            request.check()
            self._authenticate(request)
        except Refusal:
            return False  # the usual way leads to it, too
        if self._inbox is None or request.method != "POST":
            return False
        return self._inbox.take_one(request, bytes(cycle.body), answer, partial(self._refuse_later, request))

    def _refuse_later(self, request: Request, error: Exception) -> None:
        task = asyncio.get_running_loop().create_task(self._refuse(request, error))
        self._refusing.add(task)
        task.add_done_callback(self._refusing.discard)

    async def _refuse(self, request: Request, error: Exception) -> None:
        # Not in `__call__`: the error's traceback refers to that frame, and a frame that keeps the error in a variable
        # makes a circle, which holds the connection until Python's collector looks.
        refusal = refusal_of(error)
        self._outcomes.explain(request.id, error, refusal)
        self._outcomes.refused(request=request.id, key=request.key, status=refusal.status, code=refusal.code)
        if not request.started:
            await request.refuse(refusal, request.answer_headers)

    def _handler(self, request: Request) -> Handler:
        """Raises: Refusal: the path does not exist, or not with this method."""
        route = self._routes.get(request.path)
        if route is None and request.path.startswith(_MODELS):
            route = (_READ, self._one_model)
        if route is None and self._batches is not None and (found := self._batches.route(request.path)) is not None:
            methods, handler = found
            route = (methods, partial(self._known, handler=handler))
        if route is None and request.path in self._elsewhere:
            raise Refusal(404, f"{request.path} is not here. {self._instead}", code="wrong_path")
        if route is None:
            raise Refusal(404, f"There is no {request.path!r} here; GET /openapi.json lists what there is.")
        methods, handler = route
        if request.method not in methods:
            request.answer_headers.append((b"allow", ", ".join(methods).encode()))
            raise Refusal(405, f"{request.path} takes {' and '.join(methods)}, got {request.method}.")
        return handler

    def _authenticate(self, request: Request) -> None:
        request.key = self._units.keys.name_of(request.headers.get(b"authorization"))

    async def _known(self, request: Request, *, handler: Handler) -> None:
        self._authenticate(request)
        await handler(request)

    async def _events(self, request: Request) -> None:
        self._authenticate(request)
        assert self._inbox is not None
        await self._inbox.serve(request)

    async def _results(self, request: Request) -> None:
        self._authenticate(request)
        assert self._inbox is not None
        await self._inbox.results.serve(request, reads_all=not self._units.keys.num_keys)

    async def _calls(self, request: Request) -> None:
        """Only without an offer of WebSocket, which the connection itself takes."""
        request.answer_headers += [(b"upgrade", b"websocket"), (b"connection", b"upgrade")]
        raise Refusal(426, f"{CALLS} is a WebSocket: send Upgrade: websocket.", code="upgrade_required")

    async def _models(self, request: Request) -> None:
        self._authenticate(request)
        await request.respond(
            200, json_body({"object": "list", "data": [await self._model_now()]}), request.answer_headers
        )

    async def _one_model(self, request: Request) -> None:
        self._authenticate(request)
        name = request.path.removeprefix(_MODELS)
        if name != self._model["id"]:
            message = f"The model {name!r} does not exist here; this gateway serves {self._model['id']!r}."
            raise Refusal(404, message, param="model", code="model_not_found")
        await request.respond(200, json_body(await self._model_now()), request.answer_headers)

    async def _model_now(self) -> dict[str, Any]:
        """With how soon it could answer, for a dispatcher of gateways."""
        seconds = await self._come_seconds() if self._come_seconds else None
        return self._model if seconds is None else {**self._model, COME_SECONDS: round(seconds, 3)}

    async def _rollout(self, request: Request) -> None:
        self._authenticate(request)
        await request.respond(200, json_body(self._readiness.rollout()), request.answer_headers)

    async def _healthz(self, request: Request) -> None:
        await request.respond(200, b'{"status":"alive"}', request.answer_headers)

    async def _readyz(self, request: Request) -> None:
        status, body = self._readiness.answer()
        await request.respond(status, json_body(body), request.answer_headers)

    async def _metrics_page(self, request: Request) -> None:
        page = self._metrics.page()
        if self._host_metrics:
            page += await self._host_metrics()
        await request.respond(200, page, request.answer_headers, kind=(b"content-type", CONTENT_TYPE))

    async def _openapi_page(self, request: Request) -> None:
        await request.respond(200, self._openapi, request.answer_headers)


_READ = ("GET", "HEAD")
_DOES: dict[MemberKind, str] = {"text": "writes", "image": "paints", "speech": "speaks"}
