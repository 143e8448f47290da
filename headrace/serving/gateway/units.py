"""One request from its first byte to its last record: admitted, pinned to one version set, answered, recorded.

The order matters. A unit starts when it has a place; only then is its set chosen, so a request that waited through an
abort never starts on the aborted set. From then on everything (each role, each piece, the headers, the records) comes
from that one set. If the client leaves, its unit ends, and the engine's work too.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing

from headrace.clock import Clock
from headrace.engines.asker import Asker, asking_for
from headrace.engines.base import EngineFailed, Piece
from headrace.engines.chain import RoleChain
from headrace.keys import digest_text
from headrace.serving.gateway.http_messages import ClientGone, Headers, Request
from headrace.serving.gateway.keys import ApiKeys
from headrace.serving.gateway.limits import Admission, CountedStreams
from headrace.serving.gateway.media_units import answer_medium, fits
from headrace.serving.gateway.openai_answers import Events, broken_off, whole_answer
from headrace.serving.gateway.openai_bodies import Ask, model_must_be
from headrace.serving.gateway.openai_media_bodies import MediaAsk
from headrace.serving.gateway.outcomes import Outcomes
from headrace.serving.gateway.pinning import Pinning
from headrace.serving.gateway.read_ahead import ReadAhead
from headrace.serving.gateway.refusals import Refusal, invalid, is_clients_fault, not_ready, refusal_of, timed_out
from headrace.serving.gateway.request_headers import SESSION, UNIT, VERSION_SET
from headrace.serving.gateway.unit import CLIENT_GONE, Unit
from headrace.serving.service import Service
from headrace.store.objects import new_nonce


class Units:
    """Answers requests with units of work."""

    def __init__(
        self,
        service: Service,
        *,
        keys: ApiKeys,
        admission: Admission,
        pinning: Pinning,
        outcomes: Outcomes,
        clock: Clock,
    ) -> None:
        self.keys = keys
        self._service = service
        self._limits = service.limits
        self._admission = admission
        self._counted = CountedStreams(service.limits)
        self._pinning = pinning
        self._outcomes = outcomes
        self._clock = clock
        # The running units' tasks, so that the end of a drain can cut them off.
        self._tasks: set[asyncio.Task[None]] = set()
        self._cut_off = False
        self._is_closed = False

    @property
    def num_under_way(self) -> int:
        return self._admission.num_under_way + self._admission.num_waiting

    def refuse_new(self) -> None:
        self._is_closed = True

    def cut_off(self) -> None:
        """Ends all running units and tells their clients."""
        self._cut_off = True
        for task in list(self._tasks):
            task.cancel()

    async def serve(self, request: Request, read: Callable[[bytes], Ask | MediaAsk]) -> None:
        """Answers one request. `read` makes an `Ask` or a `MediaAsk` of its body.

        Raises:
            Refusal: the request ends here, before anything was sent.
            ClientGone: nobody waits for the answer any more.
        """
        request.key = self.keys.name_of(request.headers.get(b"authorization"))
        await self.serve_known(request, read)

    async def serve_known(
        self, request: Request, read: Callable[[bytes], Ask | MediaAsk], *, is_bulk: bool = False
    ) -> None:
        """As `serve`, of a request whose key is known.

        Args:
            is_bulk: nobody waits for the answer: it takes a place that no live request wants, and goes behind live ones
                at a model, as work of the class `batch`.
        """
        key = request.key
        assert key is not None
        ask = read(await request.body(self._limits.request_bytes_max))
        model_must_be(ask.model, self._service.name)
        if ignored := ask.ignored if isinstance(ask, MediaAsk) else self._ignored_decoding(ask):
            request.answer_headers.append((b"x-headrace-ignored", ", ".join(ignored).encode()))
        session = SESSION.read(request.headers)
        unit = UNIT.read(request.headers)  # its form is checked even beside a session
        named = session or unit
        override = VERSION_SET.read(request.headers)
        if self._is_closed:
            raise not_ready("This gateway is going down; send the request again.", code="draining")
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        watch = _Watch(request, task)
        started, admitted, is_counted = time.monotonic(), False, False
        try:
            await self._admission.enter(is_bulk=is_bulk)
            started, admitted = time.monotonic(), True
            is_counted = ask.stream and self._counted.take(key)
            asker = Asker(work_class="batch" if is_bulk else "live", tenants={key: 1.0})
            with asking_for(asker):
                await self._run(
                    request,
                    watch,
                    key=key,
                    ask=ask,
                    named=named,
                    session=session,
                    override=override,
                    is_followed=is_counted or not ask.stream,
                )
        except asyncio.CancelledError:
            if not (watch.is_gone or self._cut_off):
                raise
            task.uncancel()
            if watch.is_gone:
                raise ClientGone from None
            raise not_ready("This gateway went down before the unit was done.", code="draining") from None
        finally:
            watch.end()
            self._tasks.discard(task)
            if is_counted:
                self._counted.give_back(key)
            if admitted:
                self._admission.leave(time.monotonic() - started)

    async def _run(
        self,
        request: Request,
        watch: "_Watch",
        *,
        key: str,
        ask: Ask | MediaAsk,
        named: str | None,
        session: str | None,
        override: str | None,
        is_followed: bool,
    ) -> None:
        headers, name = request.answer_headers, named or request.id
        # A client's request id names the unit in the records, but decides nothing.
        draw = named or (new_nonce() if b"x-request-id" in request.headers else request.id)
        # A wish that only one of the sets has chooses between them, as a name does.
        is_drawn = named is None and (
            not isinstance(ask, MediaAsk) or all(fits(ask, one.chain) for one in self._pinning.routed())
        )
        pin, loaded = await self._pinning.pin(draw, session=session, override=override, is_drawn=is_drawn)
        unit = Unit(
            request=request.id,
            key=key,
            ask=ask,
            name=name,
            session=session,
            pin=pin,
            loaded=loaded,
            is_followed=is_followed,
            seed=ask.seed if ask.seed is not None else int(digest_text("unit", request.id)[:15], 16),
            started_at=self._clock.now(),
            started=time.monotonic(),
        )
        headers.append(loaded.header)
        headers.append((b"x-headrace-unit", name.encode()))
        headers.append((b"x-headrace-entry", b"%d" % pin.entry))
        if pin.is_pinned is not None:
            headers.append((b"x-headrace-session", b"pinned" if pin.is_pinned else b"unpinned"))
        loaded.num_units += 1
        watch.begin(self._limits.unit_seconds_max)
        try:
            try:
                if isinstance(ask, MediaAsk):
                    await answer_medium(unit, ask, request, headers)
                elif ask.stream:
                    await self._stream(unit, ask, request, headers, watch)
                else:
                    await self._whole(unit, ask, request, headers)
            finally:
                watch.stop()
        except asyncio.CancelledError:
            if watch.is_late and not self._cut_off:
                asyncio.current_task().uncancel()  # pyright: ignore[reportOptionalMemberAccess]
                unit.is_failed = unit.answered is None
                _end_if_gone(unit, request, watch)
                late = timed_out(f"The unit took longer than {self._limits.unit_seconds_max:g} s.")
                await self._fail(unit, request, late)
                return
            if not (watch.is_gone or self._cut_off):
                # Nobody who may: an engine, in the middle of its stream.
                asyncio.current_task().uncancel()  # pyright: ignore[reportOptionalMemberAccess]
                unit.is_failed = unit.answered is None
                failure = EngineFailed("The engine cancelled the task that asked it.")
                await self._fail(unit, request, refusal_of(failure), failure)
                return
            unit.status, unit.error = (503, "draining") if self._cut_off else (CLIENT_GONE, request.gone_because)
            if self._cut_off and request.started:
                asyncio.current_task().uncancel()  # pyright: ignore[reportOptionalMemberAccess]
                await self._fail(unit, request, not_ready("This gateway went down in the middle.", code="draining"))
                return
            raise
        except Exception as error:  # noqa: BLE001 (told to the client, whatever it is)
            refusal = refusal_of(error)
            unit.is_failed = unit.answered is None and not is_clients_fault(refusal)
            _end_if_gone(unit, request, watch)
            await self._fail(unit, request, refusal, error)
        finally:
            loaded.num_units -= 1
            unit.seconds = time.monotonic() - unit.started
            self._outcomes.add(unit)

    async def _whole(self, unit: Unit, ask: Ask, request: Request, headers: Headers) -> None:
        answer = await _chain(unit).answer(ask, unit=unit.name, seed=unit.seed, report=unit.steps.append)
        unit.finish, unit.answered = answer.finish_reason, time.monotonic() - unit.started
        body = whole_answer(
            ask,
            request=unit.request,
            created=int(unit.started_at),
            version_set=unit.loaded.id,
            text=answer.text,
            finish=answer.finish_reason,
            tokens=(answer.num_prompt_tokens, answer.num_output_tokens),
        )
        await request.respond(200, body, headers)

    async def _stream(self, unit: Unit, ask: Ask, request: Request, headers: Headers, watch: "_Watch") -> None:
        events = Events(ask, request=unit.request, created=int(unit.started_at), version_set=unit.loaded.id)
        pieces = _chain(unit).stream(ask, unit=unit.name, seed=unit.seed, report=unit.steps.append)
        ahead = ReadAhead(pieces) if unit.pin.is_evidence and unit.is_followed else None
        async with aclosing(ahead or pieces):
            try:
                await self._send_pieces(unit, request, headers, events, ahead or pieces)
            except asyncio.CancelledError:
                # The client may have seen the set: its departure must not influence the measurement.
                if ahead is not None and watch.is_gone and unit.first_piece is not None:
                    # The unit's time limit still runs; a pending cancellation would hide its end.
                    asyncio.current_task().uncancel()  # pyright: ignore[reportOptionalMemberAccess]
                    await ahead.to_the_end()
                raise
            finally:
                if ahead is not None and ahead.whole_at is not None:
                    unit.answered = ahead.whole_at - unit.started

    async def _send_pieces(
        self, unit: Unit, request: Request, headers: Headers, events: Events, pieces: AsyncIterator[Piece]
    ) -> None:
        piece = await self._first_piece(pieces)
        unit.first_piece = time.monotonic() - unit.started
        await request.start_events(headers)
        is_first = True
        while True:
            await request.event(events.text(piece.text, finish=piece.finish_reason, first=is_first))
            is_first = False
            if piece.finish_reason is not None:
                break
            following = await anext(pieces, None)
            if following is None:
                raise EngineFailed("The answer broke off before its end.")
            piece = following
        unit.finish = piece.finish_reason
        await request.event(events.last((piece.num_prompt_tokens, piece.num_output_tokens)), last=True)

    async def _first_piece(self, pieces: AsyncIterator[Piece]) -> Piece:
        limit = self._limits.first_piece_seconds_max
        try:
            async with asyncio.timeout(limit):
                return await anext(pieces)
        except StopAsyncIteration:
            raise EngineFailed("The engine made no piece of an answer.") from None
        except TimeoutError:
            raise EngineFailed(f"No piece of an answer came within {limit:g} s.", timed_out=True) from None

    async def _fail(self, unit: Unit, request: Request, refusal: Refusal, error: Exception | None = None) -> None:
        """Tells the client, if possible, and keeps the reason."""
        if request.is_stalled:
            # Whatever went wrong: the client had its time and did not read. Waiting for it again would take forever.
            request.connection.cut_stalled()
            unit.status, unit.error = CLIENT_GONE, request.gone_because
            return
        unit.status, unit.error = refusal.status, refusal.code or refusal.kind
        if error is not None:
            self._outcomes.explain(unit.request, error, refusal)
        if not request.started:
            await request.refuse(refusal, request.answer_headers)
        elif not request.finished and request.is_events:
            await request.event(broken_off(refusal.body), last=True)
        elif not request.finished:
            request.connection.cut_midway()

    def _ignored_decoding(self, ask: Ask) -> list[str]:
        """Applies the service's rule for a client's temperature and top_p. Returns those that are ignored."""
        rule = self._service.client_decoding
        if rule == "allowed" or (ask.temperature is None and ask.top_p is None):
            return []
        given = [name for name in ("temperature", "top_p") if getattr(ask, name) is not None]
        if rule == "refused":
            raise invalid(
                f"{' and '.join(given)} cannot be set here: they belong to the service's version set. Leave them out.",
                param=given[0],
                code="unsupported_parameter",
            )
        return given


def _chain(unit: Unit) -> RoleChain:
    chain = unit.loaded.chain
    assert isinstance(chain, RoleChain), "a gateway loads sets of its service's kind alone"
    return chain


def _end_if_gone(unit: Unit, request: Request, watch: "_Watch") -> None:
    """Raises: ClientGone: nobody receives the answer."""
    if watch.is_gone:
        unit.status, unit.error = CLIENT_GONE, request.gone_because
        raise ClientGone


class _Watch:
    """Cancels a unit's task when its client closes the connection before the answer is complete, or its time is up.

    `asyncio.timeout` would cost a short unit a thirtieth of its time more than this timer.
    """

    __slots__ = ("_request", "_task", "_timer", "is_gone", "is_late")

    def __init__(self, request: Request, task: asyncio.Task[None]) -> None:
        self.is_gone = self.is_late = False
        self._request = request
        self._task = task
        self._timer: asyncio.TimerHandle | None = None
        request.connection.when_lost = self._lost

    def begin(self, seconds: float) -> None:
        self._timer = asyncio.get_running_loop().call_later(seconds, self._time_is_up)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def end(self) -> None:
        connection = self._request.connection
        # The connection's next request may have begun, with its own watch.
        if connection.when_lost == self._lost:
            connection.when_lost = None

    def _time_is_up(self) -> None:
        self.is_late = True
        self._task.cancel()

    def _lost(self) -> None:
        if not self._request.finished:
            self.is_gone = True
            self._task.cancel()
