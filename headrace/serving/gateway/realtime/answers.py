"""The one answer of a call that goes on: begun, gone on with after a process's end, cut by a barge-in."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, Literal

from headrace.engines.base import Message
from headrace.engines.chain import Step
from headrace.engines.spoken_chain import SpokenChain
from headrace.errors import HeadraceError
from headrace.serving.gateway.realtime.answering import MS_BYTES, Answering, SpokenSentence
from headrace.serving.gateway.realtime.reply import Reply
from headrace.serving.gateway.realtime.server_events import ServerEvents
from headrace.serving.gateway.realtime.talk import Talk, new_item
from headrace.serving.gateway.refusals import Refusal, refusal_of
from headrace.voice.playing import PlayClock
from headrace.voice.recording import CallRecording
from headrace.voice.turns import CallState, Item, TurnEvent, answer_seed


@dataclass(frozen=True, kw_only=True, slots=True)
class AnswerWish:
    """How a client wants an answer: after which instructions, and as audio or as text."""

    instructions: str
    is_spoken: bool


@dataclass(kw_only=True, eq=False)
class TurnTold:
    """One answer, for records and figures. Times in seconds from its turn's end."""

    generation: int
    steps: list[Step] = field(default_factory=list)
    started: float = field(default_factory=time.monotonic)
    first_audio: float | None = None
    error: Exception | None = None
    is_cut: bool = False


@dataclass(frozen=True, kw_only=True)
class AnswerParts:
    """What answers are made with.

    Attributes:
        name: of the call.
        enter, leave: take a place for one answer, and give it back after so many seconds.
        told: gets each answer at its end.
        received_ms: of the last answer, so much reached the client before it came back; None: all that was kept.
        recording: who records the call; None: nobody.
    """

    name: str
    chain: SpokenChain
    enter: Callable[[], Awaitable[None]]
    leave: Callable[[float], None]
    told: Callable[[TurnTold], None]
    received_ms: int | None = None
    recording: CallRecording | None = None


class Answers:
    """Args:
    work: begins a part of the call.
    all_heard: returns once every turn that has ended is understood.
    """

    def __init__(
        self,
        talk: Talk,
        events: ServerEvents,
        parts: AnswerParts,
        *,
        send: Callable[[bytes], Awaitable[None]],
        work: Callable[[Coroutine[Any, Any, None]], "asyncio.Task[None]"],
        all_heard: Callable[[], Awaitable[object]],
    ) -> None:
        self._talk, self._events, self._parts = talk, events, parts
        self._send, self._work, self._all_heard = send, work, all_heard
        self._play = PlayClock()
        self._reply: Reply | None = None
        self._told: TurnTold | None = None
        self._answer: asyncio.Task[None] | None = None

    @property
    def is_busy(self) -> bool:
        """Whether somebody waits for an answer."""
        return self._answer is not None and not self._answer.done()

    def next_answer(self, wish: AnswerWish) -> TurnEvent:
        """The event of its beginning."""
        return TurnEvent(
            kind="answering",
            item=new_item(),
            text=wish.instructions,
            ms=int(wish.is_spoken),
            generation=self._talk.state.generation + 1,
        )

    def begin(self, wish: AnswerWish, *, told: TurnTold | None = None) -> None:
        """Once all turns before it are understood."""
        self._answer = self._work(self._asked(wish, told))

    def go_on(self, answering: TurnEvent, *, told: TurnTold | None = None) -> None:
        """With an answer whose beginning has happened."""
        self._answer = self._work(self._reply_to(answering, told, None))

    def resume(self) -> None:
        """Says what of the last answer its client did not get, and goes on with it if it was cut by a process's end."""
        state, received = self._talk.state, self._parts.received_ms
        answer = state.answer
        if answer is None:
            return
        from_ms = answer.ms if received is None else min(received, answer.ms)
        # A client that says what it received may lack audio, or the answer's end.
        is_unheard = received is not None and answer.played_ms is None and state.items[-1].id == answer.id
        if state.is_open or is_unheard:
            begun = TurnEvent(kind="answering", item=answer.id, generation=answer.generation)
            self._answer = self._work(self._reply_to(begun, None, from_ms))

    async def _asked(self, wish: AnswerWish, told: TurnTold | None) -> None:
        await self._all_heard()
        answering = self.next_answer(wish)
        await self._talk.happened(answering)
        await self._reply_to(answering, told, None)

    async def _reply_to(self, answering: TurnEvent, told: TurnTold | None, from_ms: int | None) -> None:
        """Args: from_ms: of an answer that another process began: where its client's audio ends."""
        state = self._talk.state
        item = state.item(answering.item)
        if item is None or (from_ms is None and not state.is_current(answering.generation)):
            return
        told = self._told = told or TurnTold(generation=item.generation)
        started = time.monotonic()
        reply = self._reply = Reply(
            events=self._events,
            send=self._send,
            item=item,
            before=_before(state, item),
            speaks=state.is_spoken,
            is_wanted=lambda: self._reply is reply and not reply.is_ended,
            sent=self._sent(told, from_ms or 0),
        )
        await reply.begin()
        is_placed = False
        try:
            await self._parts.enter()
            is_placed = True
            await self._say(reply, item, told, from_ms)
        except (HeadraceError, Refusal) as error:
            told.error = error
            await self._talk.happened(self._ended("cut", item.generation))
            await reply.end(self._now(item), "failed", failed=refusal_of(error))
        finally:
            if is_placed:
                self._parts.leave(time.monotonic() - started)
            told.is_cut = reply.is_cut
            self._parts.told(told)

    async def _say(self, reply: Reply, item: Item, told: TurnTold, from_ms: int | None) -> None:
        generation = item.generation
        work = Answering(
            chain=self._parts.chain,
            messages=self._context(item),
            unit=f"{self._parts.name}/{generation}",
            seed=answer_seed(self._parts.name, generation),
            speaks=reply.speaks,
            is_current=lambda: self._talk.state.is_current(generation),
            num_kept=len(item.sentences),
            report=told.steps.append,
        )

        async def sentence(made: SpokenSentence) -> None:
            said = TurnEvent(kind="sentence", item=item.id, text=made.text, ms=made.ms, generation=generation)
            recording = self._parts.recording if made.pcm else None
            of_audio = [recording.audio(item.id, made.pcm, made.ms, generation=generation)] if recording else []
            await self._talk.happened(said, *of_audio)
            if self._talk.state.is_current(generation):
                await reply.sentence(made)

        if from_ms is not None:
            await self._say_rest(work, reply, item, from_ms)
        if not self._talk.state.is_current(generation):
            await reply.end(self._now(item), "completed")
            return
        if finish := await work.run(sentence):
            await self._talk.happened(self._ended("answered", generation))
            is_short = finish == "length"
            status, reason = ("incomplete", "max_output_tokens") if is_short else ("completed", "")
            await reply.end(self._now(item), status, reason=reason)

    async def _say_rest(self, work: Answering, reply: Reply, item: Item, from_ms: int) -> None:
        """The kept sentences' audio that its client did not get."""
        begins = 0
        for place, kept in enumerate(item.sentences):
            if begins + kept.ms > from_ms and reply.is_wanted():
                again = await work.say_again(place, kept.text)
                from_byte = max(0, from_ms - begins) * MS_BYTES
                await reply.sentence(again, from_byte=from_byte)
            begins += kept.ms

    def _context(self, item: Item) -> list[Message]:
        state = self._talk.state
        first = [Message(role="system", content=state.instructions)] if state.instructions else []
        return [*first, *state.messages(up_to=item.id)]

    def _sent(self, told: TurnTold, from_ms: int) -> Callable[[int], None]:
        self._play = play = PlayClock(from_ms)

        def sent(ms: int) -> None:
            now = time.monotonic()
            if told.first_audio is None:
                told.first_audio = now - told.started
            play.sent(ms, now)

        return sent

    async def cut(self, reason: str) -> bool:
        """Ends the answer that goes on, and notes how far it was played. False: none goes on."""
        answer, reply, now = self._talk.state.answer, self._reply, time.monotonic()
        is_open, is_busy = self._talk.state.is_open, self.is_busy
        events: list[TurnEvent] = []
        if answer is not None and is_open:
            events.append(self._ended("cut", answer.generation))
        if answer is not None and answer.played_ms is None and (is_open or self._play.is_playing(now)):
            events.append(TurnEvent(kind="played", item=answer.id, ms=self._play.played_ms(now)))
        kept = self._talk.happened(*events)
        if self._answer is not None and is_busy:
            self._answer.cancel()
            if answer is not None and reply is not None and reply.item.id == answer.id:
                await reply.end(self._now(answer), "cancelled", reason=reason)
        await kept
        return is_open or is_busy

    def _ended(self, kind: Literal["cut", "answered"], generation: int) -> TurnEvent:
        told = self._told
        first = told.first_audio if told and told.generation == generation else None
        return TurnEvent(kind=kind, generation=generation, ms=0 if first is None else max(1, round(first * 1000)))

    def _now(self, item: Item) -> Item:
        return self._talk.state.item(item.id) or item


def _before(state: CallState, item: Item) -> str | None:
    names = [one.id for one in state.items]
    place = names.index(item.id)
    return names[place - 1] if place else None
