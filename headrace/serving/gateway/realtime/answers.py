"""The one answer of a call that goes on: begun, gone on with after a process's end, cut by a barge-in.

Its models are asked as soon as the question is part of the conversation; its client is told of question, answer and
each sentence once these are kept. So of three waits for the disk only the sentence's own is in front of its first
sound: a process that ends before has asked a model in vain, and its client heard of nothing.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

from headrace.engines.base import Message
from headrace.engines.chain import Step
from headrace.engines.spoken_chain import SpokenChain
from headrace.errors import HeadraceError
from headrace.inbox.log import LogUnavailable
from headrace.keys import digest_text
from headrace.serving.gateway.realtime.answering import MS_BYTES, Answering, SpokenSentence
from headrace.serving.gateway.realtime.reply import FAILED, TOO_LONG, Reply
from headrace.serving.gateway.realtime.server_events import ServerEvents
from headrace.serving.gateway.realtime.talk import Talk, new_item
from headrace.serving.gateway.refusals import Refusal, refusal_of
from headrace.voice.playing import PlayClock
from headrace.voice.segments import CallTaken
from headrace.voice.turns import Item, TurnEvent


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
    """

    name: str
    chain: SpokenChain
    enter: Callable[[], Awaitable[None]]
    leave: Callable[[float], None]
    told: Callable[[TurnTold], None]
    received_ms: int | None = None


class Answers:
    """Args:
    work: begins a part of the call.
    all_heard: returns once every turn that has ended is understood.
    all_told: returns once the client knows what was understood.
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
        all_told: Callable[[], Awaitable[object]],
    ) -> None:
        self._talk, self._events, self._parts = talk, events, parts
        self._send, self._work, self._all_heard, self._all_told = send, work, all_heard, all_told
        self._play = PlayClock()
        self._reply: Reply | None = None
        self._answer: asyncio.Task[None] | None = None
        # An answer is to begin once all turns are understood.
        self._is_wished = False

    @property
    def is_busy(self) -> bool:
        """Whether somebody waits for an answer."""
        return self._answer is not None and not self._answer.done()

    async def may_begin(self) -> bool:
        """Whether none goes on; waits while the end of the last one is being told."""
        if self.is_busy and not self._is_wished and self._reply is not None and self._reply.is_ended:
            await self._reply.has_ended.wait()
            return not self._is_wished
        return not self.is_busy

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
        self._is_wished = True
        self._answer = self._work(self._asked(wish, told))

    def go_on(self, answering: TurnEvent, kept: Awaitable[object], *, told: TurnTold | None = None) -> None:
        """With an answer whose beginning has happened. Args: kept: its client may be told after this."""
        self._start(answering, told, None, kept)

    def resume(self) -> None:
        """Says what of the last answer its client did not get, and goes on with it if it was cut by a process's end."""
        state, received = self._talk.state, self._parts.received_ms
        answer = state.answer
        if answer is None:
            return
        from_ms = answer.ms if received is None else min(received, answer.ms)
        # A client that says what it received may lack audio, or the answer's end.
        if state.is_open or (received is not None and state.items[-1].id == answer.id):
            begun = TurnEvent(kind="answering", item=answer.id, generation=answer.generation)
            self._start(begun, None, from_ms, None)

    async def _asked(self, wish: AnswerWish, told: TurnTold | None) -> None:
        await self._all_heard()
        answering = self.next_answer(wish)
        self._start(answering, told, None, self._talk.happened(answering))

    def _start(
        self, answering: TurnEvent, told: TurnTold | None, from_ms: int | None, kept: Awaitable[object] | None
    ) -> None:
        """Args:
        from_ms: of an answer that another process began: where its client's audio ends.
        kept: before its client is told of it; None: it was.
        """
        self._is_wished = False
        state = self._talk.state
        item = state.item(answering.item)
        if item is None or (from_ms is None and not state.is_current(answering.generation)):
            return
        told = told or TurnTold(generation=item.generation)
        earlier = self._reply
        reply = self._reply = Reply(
            events=self._events,
            send=self._send,
            item=item,
            before=state.before(item.id),
            speaks=state.is_spoken,
            is_newest=lambda: self._reply is reply,
            sent=self._sent(told, from_ms or 0),
        )
        # Of the call, not of the answer: one that is cut at once is told of, too.
        self._work(self._begin(reply, earlier, kept))
        self._answer = self._work(self._make(reply, item, told, from_ms))

    async def _begin(self, reply: Reply, earlier: Reply | None, kept: Awaitable[object] | None) -> None:
        if kept is not None:
            await kept
            await self._all_told()
        if earlier is not None and (earlier.is_cut or earlier.is_ended):
            await earlier.has_ended.wait()
        await reply.begin()

    async def _make(self, reply: Reply, item: Item, told: TurnTold, from_ms: int | None) -> None:
        started, is_placed = time.monotonic(), False
        try:
            await self._parts.enter()
            is_placed = True
            await self._say(reply, item, told, from_ms)
        except (CallTaken, LogUnavailable):
            # Of the call, not of the answer, which goes on where the call does.
            raise
        except (HeadraceError, Refusal) as error:
            told.error = error
            await self._talk.happened(TurnEvent(kind="cut", text=FAILED, generation=item.generation))
            await reply.end(self._now(item), failed=refusal_of(error))
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
            await self._talk.happened(
                TurnEvent(kind="sentence", item=item.id, text=made.text, ms=made.ms, generation=generation)
            )
            if self._talk.state.is_current(generation):
                await reply.sentence(made)

        # Who cut it, or spoke while it played, wants no more of it.
        if from_ms is not None and item.played_ms is None:
            await self._say_rest(work, reply, item, from_ms)
        if not self._talk.state.is_current(generation):
            await reply.end(self._now(item))
            return
        if finish := await work.run(sentence):
            reason = TOO_LONG if finish == "length" else ""
            await self._talk.happened(TurnEvent(kind="answered", text=reason, generation=generation))
            await reply.end(self._now(item))

    async def _say_rest(self, work: Answering, reply: Reply, item: Item, from_ms: int) -> None:
        """The kept sentences' audio that its client did not get."""
        begins = 0
        for place, kept in enumerate(item.sentences):
            if begins + kept.ms > from_ms and reply.is_wanted:
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
        """Ends the answer that goes on, and notes how far it was played. False: none goes on.

        Nothing more of it is sent from now on; its end is told once it is kept. Otherwise a process that ends between
        the two would leave an answer that goes on after its client was told that it does not.
        """
        answer, now = self._talk.state.answer, time.monotonic()
        reply = self._reply if answer is not None and self._reply and self._reply.item.id == answer.id else None
        # It may be made whole, and its client not know yet.
        goes_on = self.is_busy and not (reply and reply.is_ended)
        is_open = self._talk.state.is_open or (goes_on and reply is not None)
        events: list[TurnEvent] = []
        if answer is not None and is_open:
            events.append(TurnEvent(kind="cut", text=reason, generation=answer.generation))
        if answer is not None and answer.played_ms is None and (is_open or self._play.is_playing(now)):
            events.append(TurnEvent(kind="played", item=answer.id, ms=self._play.played_ms(now)))
        kept = self._talk.happened(*events)
        if self._answer is not None and goes_on:
            self._answer.cancel()
            self._is_wished = False
            if reply is not None:
                reply.is_cut = True
        await kept
        if goes_on and reply is not None:
            await reply.end(self._now(reply.item))
        return is_open or goes_on

    def _now(self, item: Item) -> Item:
        return self._talk.state.item(item.id) or item


def answer_seed(call: str, generation: int) -> int:
    """The same at any gateway, so that an answer goes on with the words that it began with."""
    return int(digest_text("answer", call, str(generation))[:15], 16)
