"""`WS /v1/realtime`: calls of a service that hears, on the gateway's port and with its keys. See docs/voice.md.

A call is a session: its version set is pinned with its first turn and stays, its conversation is kept under its name
and its key's. Who comes back with the name goes on with the call, at any gateway; the gateway that had it loses it.
"""

import asyncio
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

from headrace.clock import Clock
from headrace.engines.spoken_chain import SpokenChain
from headrace.serving.gateway.app import CALLS
from headrace.serving.gateway.http_messages import Headers
from headrace.serving.gateway.keys import ApiKeys
from headrace.serving.gateway.limits import Admission
from headrace.serving.gateway.openai_bodies import model_must_be
from headrace.serving.gateway.outcomes import Outcomes
from headrace.serving.gateway.pinning import Pinning
from headrace.serving.gateway.prepared_sets import LoadedSet
from headrace.serving.gateway.realtime.answers import AnswerParts
from headrace.serving.gateway.realtime.call import Call
from headrace.serving.gateway.realtime.server_events import ServerEvents
from headrace.serving.gateway.realtime.talk import Talk
from headrace.serving.gateway.realtime.websocket import Socket, SocketClosed
from headrace.serving.gateway.records import Records
from headrace.serving.gateway.refusals import Refusal, invalid, not_ready, overloaded, refusal_of
from headrace.serving.gateway.request_headers import SESSION, VERSION_SET, check_repeated
from headrace.serving.service import Service
from headrace.store.objects import new_nonce
from headrace.voice.hearing import check_installed, hearing_stages
from headrace.voice.lanes import Lane
from headrace.voice.turns import CallState

if TYPE_CHECKING:
    from headrace.serving.gateway.http_protocol import GatewayProtocol

PATH = CALLS
_KEY_PROTOCOL = "openai-insecure-api-key."
_BETA_PROTOCOL = "openai-beta.realtime-v1"
_GOING_DOWN = 1012


class Calls:
    """The calls of one gateway. `path`: where they begin."""

    path = PATH

    def __init__(
        self,
        service: Service,
        *,
        keys: Callable[[], ApiKeys],
        admission: Admission,
        pinning: Pinning,
        outcomes: Outcomes,
        records: Records,
        clock: Clock,
    ) -> None:
        """Raises: InvalidInput: what spoken turns need is not installed."""
        check_installed()
        self._service, self._keys, self._clock = service, keys, clock
        self._admission, self._pinning = admission, pinning
        self._outcomes, self._records = outcomes, records
        self._lane = Lane(hearing_stages, failed=self._lane_failed)
        self._calls: dict[asyncio.Task[None], tuple[Socket, Call | None]] = {}
        self._is_closed = False

    @property
    def num_open(self) -> int:
        return len(self._calls)

    def start(self) -> None:
        self._lane.start()

    def refuse_new(self) -> None:
        """Also ends calls in which nobody waits for an answer: their clients come back, to another gateway."""
        self._is_closed = True
        for socket, call in list(self._calls.values()):
            if call is None or not call.is_busy:
                socket.close(_GOING_DOWN, "This gateway goes down; come back with the session.")

    async def close(self) -> None:
        for socket, _ in list(self._calls.values()):
            socket.close(_GOING_DOWN, "This gateway goes down; come back with the session.")
        tasks = list(self._calls)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.to_thread(self._lane.close)

    def take(self, connection: "GatewayProtocol", headers: Headers, head: bytes) -> Socket:
        """Begins a call on a connection. Raises: Refusal: there is none; it is told in place of the handshake."""
        check_repeated(headers)
        given = dict(headers)
        if self._is_closed:
            raise not_ready("This gateway is going down; call again.", code="draining")
        if self.num_open >= self._service.limits.num_calls_max:
            raise overloaded(
                f"All {self._service.limits.num_calls_max} calls are taken; call again later.", retry_after_seconds=5.0
            )
        offered = [one.strip() for one in given.get(b"sec-websocket-protocol", b"").decode("latin-1").split(",")]
        keys = [one.removeprefix(_KEY_PROTOCOL) for one in offered if one.startswith(_KEY_PROTOCOL)]
        authorization = given.get(b"authorization") or (f"Bearer {keys[0]}".encode() if keys else None)
        key = self._keys().name_of(authorization)
        asked = _asked(connection.url)
        if (model := asked.get("model")) is not None:
            model_must_be(model, self._service.name)
        session = SESSION.read({SESSION.raw: asked["session"].encode()} if "session" in asked else given)
        received = asked.get("received_ms")
        if received is not None and not (received.isascii() and received.isdigit() and len(received) < 10):
            raise invalid("received_ms must be a whole number of milliseconds.", param="received_ms")
        override = VERSION_SET.read(given)
        is_beta = _BETA_PROTOCOL in offered or given.get(b"openai-beta", b"").startswith(b"realtime=")
        socket = Socket(connection, message_bytes_max=self._service.limits.request_bytes_max)
        if socket.open(head, b""):
            work = self._hold(
                socket,
                ServerEvents(is_beta=is_beta),
                key=key,
                session=session or f"sess_{new_nonce()}",
                override=override,
                received_ms=None if received is None else int(received),
            )
            task = asyncio.get_running_loop().create_task(work, name="call")
            self._calls[task] = socket, None
            task.add_done_callback(self._calls.pop)
        return socket

    async def _hold(
        self,
        socket: Socket,
        events: ServerEvents,
        *,
        key: str,
        session: str,
        override: str | None,
        received_ms: int | None,
    ) -> None:
        loaded: LoadedSet | None = None
        started, call, talk = time.monotonic(), None, None
        error = ""
        try:
            _, loaded = await self._pinning.pin(session, session=session, override=override, is_drawn=False)
            chain = loaded.chain
            assert isinstance(chain, SpokenChain), "a service that hears loads sets that hear"
            loaded.num_units += 1
            member = chain.speaker.member
            parts = AnswerParts(
                name=session,
                chain=chain,
                enter=self._admission.enter,
                leave=self._admission.leave,
                told=lambda told: None,
                received_ms=received_ms,
            )
            talk = Talk(
                CallState(),
                lambda happened, state: asyncio.sleep(0),
                clock=self._clock,
                num_items_max=self._service.limits.num_messages_max,
            )
            voice = (member.speech.voice if member.speech else "") or member.model_name
            call = Call(socket, events, talk, parts, model=self._service.name, voice=voice)
            self._calls[_this_task()] = socket, call
            self._lane.add(call.tap)
            await call.run()
        except SocketClosed:
            error = "client gone"
        except Exception as failure:  # noqa: BLE001 (the edge: whatever failed, the client hears of it in its own terms)
            refusal = refusal_of(failure)
            error = refusal.code or refusal.kind
            self._outcomes.explain(session, failure, refusal)
            await self._tell(socket, events, refusal)
        finally:
            if call is not None:
                self._lane.remove(call.tap)
            if loaded is not None:
                loaded.num_units -= 1
            socket.close(1000, "")
            self._records.add(
                "call",
                {
                    "session": session,
                    "key": key,
                    "version_set": loaded.id if loaded else None,
                    "seconds": round(time.monotonic() - started, 3),
                    "answers": talk.state.generation if talk else 0,
                    "error": error,
                },
            )

    async def _tell(self, socket: Socket, events: ServerEvents, refusal: Refusal) -> None:
        try:
            await socket.send(events.error(refusal))
        except SocketClosed:
            return
        socket.close(1011, (refusal.code or refusal.kind)[:100])

    def _lane_failed(self, taps: Any, error: Exception) -> None:
        """In the lane's thread: those calls hear nothing any more, so they end."""
        self._records.unforeseen(error, where="listening")
        gone = set(taps)
        for task, (_, call) in list(self._calls.items()):
            if call is not None and call.tap in gone:
                task.get_loop().call_soon_threadsafe(task.cancel)


def _asked(url: bytes) -> dict[str, str]:
    """The request's query. Raises: Refusal: a name occurs twice."""
    found = parse_qs(url.partition(b"?")[2].decode("latin-1"), keep_blank_values=True)
    if twice := [name for name, values in found.items() if len(values) > 1]:
        raise invalid(f"The query may say {twice[0][:64]!r} once, got it several times.", param=twice[0][:64])
    return {name: values[0] for name, values in found.items()}


def _this_task() -> "asyncio.Task[None]":
    task = asyncio.current_task()
    assert task is not None
    return task
