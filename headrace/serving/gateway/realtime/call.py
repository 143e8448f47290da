"""One call: what its client sends, what its ears hear, and the one answer that goes on, in the order of its events.

Whatever changes the call is a turn event: it is applied first (`headrace.voice.turns` decides whether it is still for
anything), then kept, and only then told. A barge-in cuts the answer at once, where its client can have played it by the
clock; the client's own word (`conversation.item.truncate`) replaces that.
"""

import asyncio
import base64
import binascii
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from headrace.errors import HeadraceError, InvalidInput
from headrace.serving.gateway.body_fields import encodable, object_of, whole, wrong
from headrace.serving.gateway.realtime.answers import AnswerParts, Answers, AnswerWish, TurnTold
from headrace.serving.gateway.realtime.items import item_text
from headrace.serving.gateway.realtime.server_events import ServerEvents
from headrace.serving.gateway.realtime.settings import CallSettings, speaks
from headrace.serving.gateway.realtime.talk import Talk, new_item
from headrace.serving.gateway.realtime.websocket import Socket
from headrace.serving.gateway.refusals import Refusal, invalid, refusal_of
from headrace.voice.hearing import Heard, HearingTap
from headrace.voice.rings import FRAME_SAMPLES, SAMPLE_RATE
from headrace.voice.turns import Item, TurnEvent, check_played

_FULL_SECONDS = 0.01
# Less is no turn, as with OpenAI.
_COMMIT_MS_MIN = 100


class Call:
    """`tap`: its ears, which a lane reads."""

    def __init__(
        self, socket: Socket, events: ServerEvents, talk: Talk, parts: AnswerParts, *, model: str, voice: str
    ) -> None:
        """Args: model, voice: as the client sees them."""
        self.settings = CallSettings()
        self.tap = HearingTap(tell=self._tell)
        self._socket, self._events, self._talk, self._parts = socket, events, talk, parts
        self._model, self._voice = model, voice
        self._loop = asyncio.get_running_loop()
        self._heard: asyncio.Queue[Heard] = asyncio.Queue()
        # Turns that ended and are not transcribed yet: an answer waits for them.
        self._num_unheard = 0
        self._all_heard = asyncio.Event()
        self._all_heard.set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._failed: asyncio.Future[None] = self._loop.create_future()
        # Turns that are understood, and of which the client is not told yet.
        self._untold: set[asyncio.Future[None]] = set()
        self._answers = Answers(
            talk,
            events,
            parts,
            send=socket.send,
            work=self._work,
            all_heard=self._all_heard.wait,
            all_told=self._all_told,
        )
        self._speech_item = ""
        self._uncommitted = 0

    @property
    def is_busy(self) -> bool:
        """Whether somebody waits for an answer."""
        return self._answers.is_busy

    async def run(self) -> None:
        """Until its client leaves, or it is taken over. Raises: HeadraceError: its events cannot be kept."""
        await self._send(self._events.event("session.created", session=self._session()))
        told = {"id": f"conv_{self._parts.name}", "object": "realtime.conversation"}
        await self._send(self._events.event("conversation.created", conversation=told))
        # Before its client is heard: who comes back learns first whether an answer goes on.
        self._answers.resume()
        self._work(self._follow_ears())
        reading = self._work(self._read())
        try:
            await asyncio.wait({reading, self._failed}, return_when=asyncio.FIRST_COMPLETED)
            if self._failed.done():
                self._failed.result()
        finally:
            tasks = list(self._tasks)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _work(self, work: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        """Begins a part of the call, whose failure ends it; not its client's leaving."""
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._worked)
        return task

    def _worked(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None and not self._failed.done():
            self._failed.set_exception(error)

    async def _read(self) -> None:
        async for message in self._socket.messages():
            event_id: str | None = None
            try:
                event = object_of(message.encode("utf-8", "surrogatepass"))
                given = event.get("event_id")
                event_id = given if isinstance(given, str) and len(given) <= 512 else None
                await self._take(event)
            except Refusal as refusal:
                await self._send(self._events.error(refusal, event_id=event_id))
            except InvalidInput as error:
                await self._send(self._events.error(invalid(str(error)), event_id=event_id))

    async def _take(self, event: dict[str, Any]) -> None:
        match event.get("type"):
            case "session.update":
                await self._update(event)
            case "input_audio_buffer.append":
                await self._append(event)
            case "input_audio_buffer.commit":
                if self._uncommitted * 1000 < _COMMIT_MS_MIN * SAMPLE_RATE:
                    raise invalid(
                        f"A turn must have {_COMMIT_MS_MIN} ms of audio, got less since the last one; append it first.",
                        code="input_audio_buffer_commit_empty",
                    )
                await self._read_up_to(lambda: self.tap.commit_at is None)
                self.tap.commit_at = await self._mark()
                self._uncommitted = 0
                self._expect()
            case "input_audio_buffer.clear":
                await self._read_up_to(lambda: self.tap.clear_at is None)
                self.tap.clear_at = await self._mark()
                self._uncommitted = 0
            case "conversation.item.create":
                await self._create(event)
            case "conversation.item.truncate":
                await self._truncate(event)
            case "conversation.item.delete":
                item = self._item(event)
                await self._talk.happened(TurnEvent(kind="removed", item=item.id))
                await self._send(self._events.event("conversation.item.deleted", item_id=item.id))
            case "conversation.item.retrieve":
                item = self._item(event)
                told = self._events.item(item, is_audio=bool(item.ms), is_whole=True)
                await self._send(self._events.event("conversation.item.retrieved", item=told))
            case "response.create":
                await self._wanted(event)
            case "response.cancel":
                # One that is over stays as it is, though it may still be playing: then its client says how far.
                if not self._answers.is_busy or not await self._answers.cut("client_cancelled"):
                    raise invalid("No answer goes on that could be cancelled.", code="response_cancel_not_active")
            case str() as kind:
                raise invalid(f"Events of type {kind[:64]!r} are not taken here; docs/voice.md lists those that are.")
            case other:
                raise wrong("type", "the name of an event", other)

    # --- what clients send ---

    async def _update(self, event: dict[str, Any]) -> None:
        session = event.get("session")
        if not isinstance(session, dict):
            raise wrong("session", "an object", session)
        self.settings = self.settings.updated(session)
        self.tap.detection = self.settings.detection
        await self._send(self._events.event("session.updated", session=self._session()))

    async def _append(self, event: dict[str, Any]) -> None:
        audio = event.get("audio")
        if not isinstance(audio, str):
            raise wrong("audio", "PCM in Base64", audio)
        try:
            pcm = base64.b64decode(audio, validate=True)
        except (binascii.Error, ValueError):
            raise invalid("audio must be PCM in Base64, got something else.", param="audio") from None
        if len(pcm) % 2:
            raise invalid("audio must be samples of 16 bits, got an odd number of bytes.", param="audio")
        self._uncommitted += len(pcm) // 2
        await self._write(pcm)

    async def _write(self, pcm: bytes) -> None:
        view = memoryview(pcm)
        while view := view[self.tap.ring.write(view) :]:
            # The lane is behind: the client, whose messages wait meanwhile, sends faster than it would speak.
            await asyncio.sleep(_FULL_SECONDS)

    async def _read_up_to(self, is_there: Callable[[], bool]) -> None:
        """Until the lane has come to an earlier mark."""
        while not is_there():
            await asyncio.sleep(_FULL_SECONDS)

    async def _mark(self) -> int:
        """How much was written, once it ends with a whole frame of silence that the lane reads last."""
        await self._write(bytes(2 * (FRAME_SAMPLES + -self.tap.ring.written % FRAME_SAMPLES)))
        return self.tap.ring.written

    async def _create(self, event: dict[str, Any]) -> None:
        name, by, text = item_text(event.get("item"))
        before = event.get("previous_item_id")
        last = self._talk.state.items[-1].id if self._talk.state.items else None
        if before not in (None, last):
            raise invalid("previous_item_id must be left out: new items go to the end.", param="previous_item_id")
        name = name or new_item()
        if self._talk.state.item(name) is not None:
            raise invalid(f"item.id must be new, got {name[:64]!r}, which this call has.", param="item.id")
        await self._talk.happened(TurnEvent(kind="said", item=name, by=by, text=text))
        if (item := self._talk.state.item(name)) is not None:
            for told in self._events.item_came(item, before=last, is_audio=False):
                await self._send(told)

    async def _truncate(self, event: dict[str, Any]) -> None:
        ms = whole(event, "audio_end_ms", 0, 24 * 3_600_000)
        if ms is None:
            raise wrong("audio_end_ms", "a whole number of milliseconds", None)
        item = check_played(self._talk.state, str(event.get("item_id")), ms)
        if self._talk.state.is_current(item.generation):
            await self._answers.cut("turn_detected")
        await self._talk.happened(TurnEvent(kind="played", item=item.id, ms=ms))
        told = {"item_id": item.id, "content_index": 0, "audio_end_ms": ms}
        await self._send(self._events.event("conversation.item.truncated", **told))

    def _item(self, event: dict[str, Any]) -> Item:
        item = self._talk.state.item(str(event.get("item_id")))
        if item is None:
            message = "item_id must name an item of this call."
            raise invalid(message, param="item_id", code="item_not_found")
        return item

    async def _wanted(self, event: dict[str, Any]) -> None:
        wish = event.get("response") or {}
        if not isinstance(wish, dict):
            raise wrong("response", "an object", wish)
        if wish.get("conversation") == "none" or wish.get("input") is not None:
            raise invalid("Answers beside the conversation are not here.", param="response.conversation")
        if not await self._answers.may_begin():
            message = "An answer goes on; cancel it, or wait for its response.done."
            raise invalid(message, code="conversation_already_has_active_response")
        added = wish.get("instructions")
        if added is not None and not isinstance(added, str):
            raise wrong("response.instructions", "a text", added)
        is_spoken = speaks(wish, otherwise=self.settings.speaks)
        wanted = self.settings.instructions if added is None else encodable("response.instructions", added)
        self._answers.begin(AnswerWish(instructions=wanted, is_spoken=is_spoken))

    # --- what the ears hear ---

    def _tell(self, heard: Heard) -> None:
        """In the lane's thread."""
        self._loop.call_soon_threadsafe(self._heard.put_nowait, heard)

    def _expect(self) -> None:
        """A turn has ended: an answer waits until it is understood."""
        self._num_unheard += 1
        self._all_heard.clear()

    async def _all_told(self) -> None:
        if self._untold:
            await asyncio.wait(set(self._untold))

    def _understood(self) -> None:
        self._num_unheard -= 1
        if not self._num_unheard:
            self._all_heard.set()

    async def _follow_ears(self) -> None:
        while True:
            heard = await self._heard.get()
            match heard.what:
                case "started":
                    self._speech_item = new_item()
                    kept = self._talk.happened(TurnEvent(kind="speech_started", item=self._speech_item, ms=heard.ms))
                    told = {"audio_start_ms": heard.ms, "item_id": self._speech_item}
                    await self._send(self._events.event("input_audio_buffer.speech_started", **told))
                    if self.settings.is_interruptible:
                        await self._answers.cut("turn_detected")
                    await kept
                case "cleared":
                    await self._send(self._events.event("input_audio_buffer.cleared"))
                case what:
                    await self._turn(heard, is_detected=what == "stopped")

    async def _turn(self, heard: Heard, *, is_detected: bool) -> None:
        name = self._speech_item or new_item()
        self._speech_item, self._uncommitted = "", 0 if is_detected else self._uncommitted
        kept: Awaitable[None] | None = None
        last = self._talk.state.items[-1].id if self._talk.state.items else None
        if is_detected:
            self._expect()
            kept = self._talk.happened(TurnEvent(kind="speech_stopped", item=name, ms=heard.ms))
        # It is listened to while the turn's end is being kept.
        is_committed = asyncio.Event()
        is_answered = is_detected and self.settings.answers_turns
        self._work(self._understand(name, heard.pcm, is_committed, is_answered=is_answered))
        if kept is not None:
            await kept
            told = {"audio_end_ms": heard.ms, "item_id": name}
            await self._send(self._events.event("input_audio_buffer.speech_stopped", **told))
        await self._send(self._events.event("input_audio_buffer.committed", previous_item_id=last, item_id=name))
        is_committed.set()

    async def _understand(self, name: str, pcm: bytes, is_committed: asyncio.Event, *, is_answered: bool) -> None:
        """A turn's text: part of the conversation at once, so that an answer begins; told once it is kept."""
        turn = TurnTold(generation=self._talk.state.generation + 1)
        where = {"item_id": name, "content_index": 0}
        try:
            text = await self._parts.chain.heard(pcm, unit=f"{self._parts.name}/{name}", report=turn.steps.append)
        except HeadraceError as error:
            refusal = refusal_of(error)
            failed = {"type": refusal.kind, "code": refusal.code, "message": refusal.message}
            turn.error = error
            self._parts.told(turn)
            await is_committed.wait()
            kind = "conversation.item.input_audio_transcription.failed"
            await self._send(self._events.event(kind, **where, error=failed))
            self._understood()
            return
        kept = await self._said(name, text, turn, is_answered=is_answered) if text else None
        # Only now: what was cut for this turn is told without waiting for it.
        is_told: asyncio.Future[None] = self._loop.create_future()
        self._untold.add(is_told)
        self._understood()
        try:
            if kept is not None:
                await kept
            await is_committed.wait()
            if (item := self._talk.state.item(name)) is not None:
                before = self._talk.state.before(name)
                for event in self._events.item_came(item, before=before, is_audio=True):
                    await self._send(event)
            usage = {"type": "duration", "seconds": round(len(pcm) / 32_000, 3)}
            kind = "conversation.item.input_audio_transcription.completed"
            await self._send(self._events.event(kind, **where, transcript=text, usage=usage))
        finally:
            self._untold.discard(is_told)
            is_told.set_result(None)

    async def _said(self, name: str, text: str, turn: TurnTold, *, is_answered: bool) -> Awaitable[None]:
        """Returns what waits until it is kept."""
        said = TurnEvent(kind="said", item=name, text=text)
        if not is_answered:
            return self._talk.happened(said)
        await self._answers.cut("turn_detected")
        wish = AnswerWish(instructions=self.settings.instructions, is_spoken=self.settings.speaks)
        answering = self._answers.next_answer(wish)
        kept = self._talk.happened(said, answering)
        self._answers.go_on(answering, kept, told=turn)
        return kept

    async def _send(self, event: bytes) -> None:
        await self._socket.send(event)

    def _session(self) -> dict[str, Any]:
        return self.settings.told(
            session=self._parts.name, model=self._model, voice=self._voice, is_beta=self._events.is_beta
        )
