"""`WS /v1/realtime`: calls of a service that hears, on the gateway's port and with its keys. See docs/voice.md.

A call is a session: its version set is pinned with its first turn and stays, its conversation is kept under its name
and its key's. Who comes back with the name goes on with the call, at any gateway; the gateway that had it loses it.
"""

import asyncio
import random
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, repeat
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

from headrace.clock import Clock
from headrace.engines.asker import Asker, asking_for
from headrace.engines.spoken_chain import SpokenChain
from headrace.errors import HandoffCorrupt, HeadraceError, StoreUnavailable, reason_of
from headrace.handoff.erasures import ErasedData
from headrace.inbox.intake import Intake
from headrace.inbox.log import LogUnavailable
from headrace.keys import call_feed
from headrace.rollout.routing import Pin
from headrace.serving.daemon_threads import DaemonThreads
from headrace.serving.gateway.app import CALLS
from headrace.serving.gateway.http_messages import Headers
from headrace.serving.gateway.keys import ApiKeys
from headrace.serving.gateway.limits import Admission
from headrace.serving.gateway.openai_bodies import model_must_be
from headrace.serving.gateway.outcomes import Outcomes
from headrace.serving.gateway.pinning import Pinning
from headrace.serving.gateway.prepared_sets import LoadedSet
from headrace.serving.gateway.realtime.answers import AnswerParts, TurnTold
from headrace.serving.gateway.realtime.call import Call
from headrace.serving.gateway.realtime.server_events import ServerEvents
from headrace.serving.gateway.realtime.talk import Talk
from headrace.serving.gateway.realtime.websocket import Socket, SocketClosed
from headrace.serving.gateway.records import Records
from headrace.serving.gateway.refusals import Refusal, invalid, is_clients_fault, not_ready, overloaded, refusal_of
from headrace.serving.gateway.request_headers import SESSION, VERSION_SET, check_repeated
from headrace.serving.gateway.unit import Unit
from headrace.serving.service import Service
from headrace.store.objects import ObjectStore, new_nonce
from headrace.voice.audio import AudioWriter, sweep_audio
from headrace.voice.erasing import ended_calls
from headrace.voice.hearing import check_installed, hearing_stages
from headrace.voice.kept import CallStore, TakenCall, call_name
from headrace.voice.lanes import Lane
from headrace.voice.recorded import Caller, Recording
from headrace.voice.recording import CallRecorder, CallRecording, LogUntilRecorded
from headrace.voice.segments import CallErased, CallTaken, SegmentWriter

if TYPE_CHECKING:
    from headrace.serving.gateway.http_protocol import GatewayProtocol

PATH = CALLS
_KEY_PROTOCOL = "openai-insecure-api-key."
_BETA_PROTOCOL = "openai-beta.realtime-v1"
_GOING_DOWN, _TAKEN, _ERASED = 1012, 4000, 4001
# For the store: some calls come, some are written down, and each may take its time.
_NUM_THREADS = 8
_DROP_SECONDS, _SWEEP_SECONDS = 5.0, 3_600.0


@dataclass(frozen=True, slots=True)
class _Held:
    """A call of this gateway, by its name among all once it has one."""

    socket: Socket
    name: str = ""
    call: Call | None = None
    taken: TakenCall | None = None


class Calls:
    """The calls of one gateway. `path`: where they begin."""

    path = PATH

    def __init__(
        self,
        service: Service,
        *,
        store: ObjectStore,
        intake: Intake,
        keys: Callable[[], ApiKeys],
        admission: Admission,
        pinning: Pinning,
        outcomes: Outcomes,
        records: Records,
        clock: Clock,
    ) -> None:
        """Raises: InvalidInput: what spoken turns need is not installed."""
        check_installed()
        self._until_recorded = LogUntilRecorded(intake) if service.recording is not None else None
        self._log = self._until_recorded or intake
        # Before the first call: one that comes back under a name of long ago begins with the same numbers.
        with closing(intake.reader()) as reader:
            for call, last in ended_calls(store, intake.nonce, reader.calls()).items():
                self._log.forget(call, *last)
        self._service, self._keys, self._clock = service, keys, clock
        self._admission, self._pinning = admission, pinning
        self._outcomes, self._records = outcomes, records
        self._store, self._intake = store, intake
        # With `start`, in the event loop.
        self._kept: CallStore | None = None
        self._recorder: CallRecorder | None = None
        self._recovered: asyncio.Task[None] | None = None
        self._sweeping: asyncio.Task[None] | None = None
        self._lane = Lane(hearing_stages, failed=self._lane_failed)
        self._calls: dict[asyncio.Task[None], _Held] = {}
        self._taking: set[asyncio.Future[TakenCall]] = set()
        self._renewing: set[asyncio.Task[None]] = set()
        self._ending: set[asyncio.Task[None]] = set()
        self._is_closed = False

    @property
    def num_open(self) -> int:
        return len(self._calls)

    @property
    def num_unsealed(self) -> int:
        """Recorded calls of which no hour is sealed yet."""
        standing = self._intake.standings.get(self._recorder.feed) if self._recorder else None
        return standing.num_waiting if standing else 0

    def start(self) -> None:
        threads = DaemonThreads(_NUM_THREADS, "calls")
        recording = self._service.recording
        self._kept = CallStore(
            store=self._store,
            service=self._service.name,
            log=self._log,
            reader=self._intake.reader(),
            segments=SegmentWriter(self._store, self._service.name, threads=DaemonThreads(1, "segments")),
            threads=threads,
            clock=self._clock,
        )
        loop = asyncio.get_running_loop()
        if recording is not None and self._until_recorded is not None:
            self._recorder = self._recorder_of(recording, self._until_recorded)
            self._recovered = loop.create_task(self._recover(self._recorder), name="record calls")
        self._sweeping = loop.create_task(self._keep_sweeping(self._kept), name="sweep calls")
        self._lane.start()

    def _recorder_of(self, recording: Recording, log: LogUntilRecorded) -> CallRecorder:
        threads = DaemonThreads(2, "recordings")

        def lost(num_bytes: int) -> None:
            self._records.event("audio lost", num_bytes=num_bytes)

        audio = AudioWriter(self._store, self._service.name, threads=threads, lost=lost) if recording.audio else None
        return CallRecorder(
            log=log,
            reader=self._intake.reader(),
            feed=call_feed(self._service.name, self._intake.nonce),
            audio=audio,
            clock=self._clock,
            told=lambda reason: self._records.event("call not recorded", reason=reason),
        )

    async def _recover(self, recorder: CallRecorder) -> None:
        """What the log's last process had begun; calls that come meanwhile wait for it."""
        try:
            if num_calls := await recorder.recover():
                self._records.event("calls recorded", num_calls=num_calls)
        except HeadraceError as error:
            self._records.event("call not recorded", reason=reason_of(error))

    async def _keep_sweeping(self, kept: CallStore) -> None:
        """Until it is cancelled; what is not swept now is by the next round."""
        swept = time.monotonic() - _SWEEP_SECONDS * random.random()
        while True:
            await asyncio.sleep(_DROP_SECONDS)
            needed = [held.taken.segment for held in self._calls.values() if held.taken is not None]
            await kept.segments.drop_before(min(needed, default=kept.segments.number))
            if time.monotonic() - swept > _SWEEP_SECONDS:
                swept = time.monotonic()
                for work in self._sweeps(kept):
                    await self._in_thread(kept, work)

    @staticmethod
    async def _in_thread(kept: CallStore, work: Callable[[], object]) -> None:
        """What fails now is done by the next round."""
        with suppress(HeadraceError, OSError):
            await asyncio.get_running_loop().run_in_executor(kept.threads, work)

    def _sweeps(self, kept: CallStore) -> Iterator[Callable[[], object]]:
        yield partial(kept.sweep, session_seconds=self._service.session_seconds)
        if (recording := self._service.recording) is not None:
            before = self._clock.now() - recording.audio_days * 86_400
            yield partial(sweep_audio, self._store, self._service.name, before=before)

    def refuse_new(self) -> None:
        """Also ends calls in which nobody waits for an answer: their clients come back, to another gateway."""
        self._is_closed = True
        for held in list(self._calls.values()):
            if held.call is None or not held.call.is_busy:
                held.socket.close(_GOING_DOWN, "This gateway goes down; come back with the session.")

    async def close(self) -> None:
        for held in list(self._calls.values()):
            held.socket.close(_GOING_DOWN, "This gateway goes down; come back with the session.")
        tasks = list(self._calls)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.gather(*self._ending, return_exceptions=True)
        if self._kept is not None and self._sweeping is not None:
            self._sweeping.cancel()
            await self._kept.segments.close()
        if self._recorder is not None and self._recorder.audio is not None:
            await self._recorder.audio.close()
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
            with asking_for(Asker(work_class="live", tenants={key: 1.0})):
                task = asyncio.get_running_loop().create_task(work, name="call")
            self._calls[task] = _Held(socket)
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
        error, name, taken = "", call_name(key, session), None
        recording: CallRecording | None = None
        self._end_other(name)
        try:
            assert self._kept is not None, "calls were not started"
            if self._recovered is not None:
                await asyncio.shield(self._recovered)
            taking = asyncio.ensure_future(self._kept.take(name, key))
            self._taking.add(taking)
            taking.add_done_callback(self._taking.discard)
            taken = await taking
            self._calls[_this_task()] = _Held(socket, name, taken=taken)
            pin, loaded = await self._pinning.pin(session, session=session, override=override, is_drawn=False)
            spoken = loaded.chain
            assert isinstance(spoken, SpokenChain), "a service that hears loads sets that hear"
            loaded.num_units += 1
            member = spoken.speaker.member
            keep = taken.keep
            if self._recorder is not None:
                recording = self._recorder.begin(name, taken.epoch, taken.keep)
                keep = recording.keep
            parts = AnswerParts(
                name=session,
                chain=spoken,
                enter=self._admission.enter,
                leave=self._admission.leave,
                told=self._recording(session, key, pin, loaded),
                received_ms=received_ms,
                recording=recording,
            )
            talk = Talk(
                taken.state,
                keep,
                clock=self._clock,
                num_items_max=self._service.limits.num_messages_max,
                characters_max=self._service.limits.request_bytes_max,
            )
            if recording is not None:
                caller = Caller(session=session, tenant=key, version_set=loaded.id)
                await talk.happened(recording.first(caller, taken.state))
            voice = (member.speech.voice if member.speech else "") or member.model_name
            call = Call(socket, events, talk, parts, model=self._service.name, voice=voice)
            self._calls[_this_task()] = _Held(socket, name, call, taken)
            self._lane.add(call.tap)
            await call.run()
        except SocketClosed:
            error = "client gone"
        except Exception as failure:  # noqa: BLE001 (the edge: whatever failed, the client hears of it in its own terms)
            refusal = _refusal_of(failure)
            error = refusal.code or refusal.kind
            self._outcomes.explain(session, failure, refusal)
            await self._tell(socket, events, refusal)
        finally:
            if call is not None:
                self._lane.remove(call.tap)
            if loaded is not None:
                loaded.num_units -= 1
            socket.close(1000, "")
            ending = asyncio.get_running_loop().create_task(_end(taken, recording), name="end of call")
            self._ending.add(ending)
            ending.add_done_callback(self._ending.discard)
            try:
                # Whoever cancels the call waits for it, or ends the process.
                await asyncio.shield(ending)
            finally:
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

    def _recording(self, session: str, key: str, pin: Pin, loaded: LoadedSet) -> Callable[[TurnTold], None]:
        """What makes a unit of each answer, of which a call's first one counts as evidence."""
        loop = asyncio.get_running_loop()
        pins = chain((pin,), repeat(replace(pin, reason="session", is_fair=False)))

        def record(told: TurnTold) -> None:
            now = time.monotonic()
            refusal = None if told.error is None else refusal_of(told.error)
            if told.error is not None and refusal is not None:
                self._outcomes.explain(f"{session}/{told.generation}", told.error, refusal)
            unit = Unit(
                request=f"{session}/{told.generation}",
                key=key,
                ask=None,
                name=f"{session}/{told.generation}",
                session=session,
                pin=next(pins),
                loaded=loaded,
                seed=0,
                started_at=self._clock.now() - (now - told.started),
                started=told.started,
                is_followed=not told.is_cut,
                steps=told.steps,
                finish="cut" if told.is_cut else "stop" if refusal is None else "",
                first_piece=told.first_audio,
                answered=None if told.is_cut or refusal else now - told.started,
                seconds=now - told.started,
                is_failed=refusal is not None and not is_clients_fault(refusal),
                status=refusal.status if refusal else 200,
                error=(refusal.code or refusal.kind) if refusal else "",
            )
            self._outcomes.add(unit)
            # A call keeps its set for as long as its session would after this turn.
            renewing = loop.create_task(self._renew(session))
            self._renewing.add(renewing)
            renewing.add_done_callback(self._renewing.discard)

        return record

    async def _renew(self, session: str) -> None:
        with suppress(HeadraceError, Refusal):
            await self._pinning.pin(session, session=session, override=None, is_drawn=False)

    async def erase(self, data: ErasedData) -> None:
        """Ends calls that belong to an erasure: it returns once nothing of them is written any more."""
        # Who takes one from here on sees the erasure.
        await asyncio.gather(*self._taking, *filter(None, [self._recovered]), return_exceptions=True)
        for task, held in list(self._calls.items()):
            if held.taken is not None and data.has("call", held.name):
                await held.taken.erase()
                held.socket.close(_ERASED, "The call was erased; begin another session.")
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
        # Those that had ended are recorded, and erased where events are.
        await asyncio.gather(*self._ending, return_exceptions=True)
        if self._kept is not None:
            await self._kept.segments.erase(lambda call: data.has("call", call))
        if self._recorder is not None and self._recorder.audio is not None:
            await self._recorder.audio.erase(lambda call: data.has("call", call))

    def _end_other(self, name: str) -> None:
        """The client has come back: its earlier connection here, which it may not know to be lost, ends."""
        for task, held in list(self._calls.items()):
            if held.name == name:
                held.socket.close(_TAKEN, "The call goes on over another connection.")
                task.cancel()

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
        for task, held in list(self._calls.items()):
            if held.call is not None and held.call.tap in gone:
                task.get_loop().call_soon_threadsafe(task.cancel)


async def _end(taken: TakenCall | None, recording: CallRecording | None) -> None:
    """Keeps the call as it is, and records it."""
    if taken is not None:
        await taken.close()
    if recording is not None and not (taken and taken.is_erased):
        await recording.end()


def _refusal_of(error: Exception) -> Refusal:
    match error:
        case CallErased():
            return Refusal(410, str(error), code="call_erased")
        case CallTaken():
            return Refusal(409, str(error), code="call_taken")
        case StoreUnavailable() | LogUnavailable():
            message = "What is said cannot be kept now; call again later."
            return not_ready(message, code="calls_unavailable", detail=str(error))
        case HandoffCorrupt():
            message = "What was kept of this session is damaged; begin another one."
            return Refusal(500, message, kind="server_error", code="call_damaged", detail=str(error))
    return refusal_of(error)


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
